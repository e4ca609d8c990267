from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fabricsim.errors import ConfigError
from fabricsim.fabrics import FabricSpec, fabric_names, load_fabric
from fabricsim.units import parse_bandwidth, ps_per_byte
from tests.results.small import one_rack

NVL72 = one_rack("nvl72").to_toml()
CM384 = load_fabric("cloudmatrix384").to_toml()


def refused(text: str, old: str, new: str) -> str:
    """Give the message that refuses a file with a change in it."""
    assert old in text
    with pytest.raises(ConfigError) as caught:
        FabricSpec.from_toml(text.replace(old, new), origin="my.toml")
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        (
            'value = "50 GB/s"',
            "value = 50",
            ["my.toml: link.gpu-nvswitch.bandwidth.value: '50' has no unit", "50 GB/s"],
        ),
        ('value = "250 ns"', "value = 250.0", ["link.gpu-nvswitch.latency.value", "has no unit", "250.0 ns"]),
        (
            'value = "50 GB/s"',
            'value = "400 Gb/s"',
            ["bandwidth.value", "400 GB/s (bytes)", "50 GB/s (400 gigabits per second)"],
        ),
        ('value = "256 B"', 'value = "2Kb"', ["max_payload.value", "2kB (bytes)", "0.25kB (2 kilobits)"]),
        ('value = "775.1 GB/s"', 'value = "none"', ["terminal.copy_rate.value", "not a quantity"]),
        (
            "[link.gpu-nvswitch.latency]",
            "[link.gpu-nvswitch.latncy]",
            [
                "2 faults",
                "link.gpu-nvswitch.latncy: unknown key 'latncy' (did you mean 'latency'?); known:",
                "latency: is missing; add it",
            ],
        ),
        ("[terminal.slots]", "[terminal.slot]", ["terminal.slot: unknown key 'slot' (did you mean 'slots'?)"]),
        ("[topology.planes]", "[topology.plane]", ["topology.plane: unknown key 'plane' (did you mean 'planes'?)"]),
        ('title = "', 'colour = "green"\ntitle = "', ["my.toml: colour: unknown key", "known: format, name, title"]),
        (
            "[link.gpu-nvswitch.",
            "[link.gpu-l1.",
            ["link.gpu-l1: unknown channel class 'gpu-l1'", "link.gpu-nvswitch: is missing"],
        ),
        ('kind = "clos"', 'kind = "torus"', ["topology.kind: found 'torus'; write one of clos, full_mesh"]),
        ('kind = "clos"\n', "", ["topology.kind: found None; write one of clos, full_mesh"]),
        (
            'evidence = "assumed"',
            'evidence = "guess"',
            ["terminal.slots.evidence: found 'guess'", "'measured', 'derived', 'assumed' or 'unknown'"],
        ),
        ("value = 72\n", 'value = "72"\n', ["tier.nvswitch.children.value: found '72'", "valid integer"]),
        ("value = 72\n", "value = 0\n", ["tier.nvswitch.children.value: found 0", "greater than or equal to 1"]),
        ('tiers = ["nvswitch"]', "tiers = []", ["topology.tiers: found []", "at least 1"]),
        (
            'tiers = ["nvswitch"]',
            'tiers = ["nvswitch", "spine"]',
            ["tier.spine: is missing", "link.nvswitch-spine: is missing; add a table [link.nvswitch-spine]"],
        ),
        ('tiers = ["nvswitch"]', 'tiers = ["nv-switch"]', ["topology.tiers.0: found 'nv-switch'", "pattern"]),
        (
            "[tier.nvswitch.",
            "[tier.nvswich.",
            ["tier.nvswich: unknown tier of the topology 'nvswich' (did you mean 'nvswitch'?)"],
        ),
        (
            'packet = "bulk"',
            'packet = "bluk"',
            ["defaults.packet: unknown packet format 'bluk' (did you mean 'bulk'?)"],
        ),
        ("[packet.bulk.", "[packet.Bulk.", ["packet.Bulk: found 'Bulk'", "pattern"]),
        ("[defaults]", '[defaults]\nrouting = "spray"', ["defaults.routing: found 'spray'", "one path", "drop it"]),
        ('format = "fabricsim.fabric/1"', 'format = "x/2"', ["format: found 'x/2'", "'fabricsim.fabric/1'"]),
        ('value = "250 ns"', 'value = "0 ns"', ["my.toml", "gpu-nvswitch", "0 ps", "link.gpu-nvswitch.latency"]),
        (
            'value = "65536 B"',
            'value = "287 B"',
            ["my.toml", "link.gpu-nvswitch.buffer", "287 bytes", "288 B or more"],
        ),
        ('value = "256 B"', 'value = "64 KiB"', ["my.toml", "packet format bulk", "65,536", "65,535"]),
        ("[defaults]", "[defaults", ["my.toml: not valid TOML", "line"]),
    ],
)
def test_a_faulty_file_is_refused(old: str, new: str, parts: list[str]) -> None:
    """Each fault is named by file and key, with what was found and the remedy."""
    message = refused(NVL72, old, new)
    assert [part for part in parts if part not in message] == []


def test_a_number_without_provenance_is_refused() -> None:
    """A bare value in place of a quantity is shown the keys that it needs."""
    text = 'format = "fabricsim.fabric/1"\n[link.gpu-nvswitch]\nbandwidth = "50 GB/s"\n'
    with pytest.raises(ConfigError) as caught:
        FabricSpec.from_toml(text, origin="my.toml")
    message = str(caught.value)
    assert (
        "link.gpu-nvswitch.bandwidth: found '50 GB/s'; write a table with the keys value, source, evidence" in message
    )
    assert "\n  terminal: is missing; add it with the keys name, launch_latency" in message


def test_a_choice_needs_a_routing() -> None:
    """A fabric whose switches have a choice must say how they choose."""
    assert "defaults.routing: is missing" in refused(CM384, 'routing = "spray"\n', "")
    assert "defaults.routing: found 'valiant'" in refused(CM384, 'routing = "spray"', 'routing = "valiant"')


def test_buffers_are_checked_for_every_packet_format() -> None:
    """A buffer that holds the default packet but not another one is refused."""
    small = CM384.replace('packet = "bulk"', 'packet = "load_store"')
    assert "4,160" in refused(small, 'value = "81920 B"', 'value = "4096 B"')


def test_the_way_down_may_have_its_own_table() -> None:
    """Without a table of its own the way down is like the way up."""
    down = "".join(
        f'[link.nvswitch-gpu.{key}]\nvalue = "{value}"\nsource = "test"\nevidence = "assumed"\n'
        for key, value in (("bandwidth", "25 GB/s"), ("latency", "99 ns"), ("buffer", "1 MiB"))
    )
    for text, latency_ps, buffer_bytes in ((NVL72, 250_000, 65_536), (NVL72 + down, 99_000, 1 << 20)):
        network = FabricSpec.from_toml(text, origin="my.toml").network()
        is_down = network.channels.channel_class == network.channel_class_names.index("nvswitch-gpu")
        assert set(network.channels.latency_ps[is_down]) == {latency_ps}
        assert set(network.channels.buffer_bytes[is_down]) == {buffer_bytes}
        assert set(network.channels.latency_ps[~is_down]) == {250_000}


def test_unknown_fabric_names_the_nearest() -> None:
    """An unknown name is answered with the nearest one and the whole list."""
    with pytest.raises(ConfigError) as caught:
        load_fabric("nvl27")
    message = str(caught.value)
    assert "unknown fabric 'nvl27' (did you mean 'nvl72'?); known: " in message
    assert all(name in message for name in fabric_names())
    assert "ends in .toml" in message


def test_a_path_is_read(tmp_path: Path) -> None:
    """A path works where a name does: as text that ends in .toml, with a separator, or as a Path of any name."""
    for name in ("mine.toml", "mine.cfg"):
        path = tmp_path / name
        path.write_text(NVL72, "utf-8")
        assert load_fabric(path) == load_fabric(str(path)) == FabricSpec.from_toml(NVL72, origin="nvl72")


def test_an_unreadable_path_is_named(tmp_path: Path) -> None:
    """A missing file, a folder and a file that is not UTF-8 are errors with the path and the remedy."""
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot read.*No such file.*nvl72"):
        load_fabric(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match=r"cannot read this fabric file.*directory"):
        load_fabric(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'title = "\xe9"')
    with pytest.raises(ConfigError, match=r"latin\.toml: not UTF-8 at byte 9; save the file as UTF-8"):
        load_fabric(tmp_path / "latin.toml")


def test_a_spec_made_in_python() -> None:
    """Tables given as arguments are validated alike, and errors speak of FabricSpec in place of a file."""
    tables = load_fabric("nvl72").model_dump()
    assert FabricSpec(**tables) == load_fabric("nvl72")
    tables["packet"] = {}
    with pytest.raises(ConfigError, match=r"FabricSpec: packet: found {}"):
        FabricSpec(**tables)


@pytest.mark.parametrize("name", fabric_names())
def test_to_toml_reads_back(name: str) -> None:
    """A fabric written and read again is the same fabric."""
    spec = load_fabric(name)
    assert FabricSpec.from_toml(spec.to_toml(), origin="again") == spec


def test_awkward_texts_survive_to_toml() -> None:
    """Quotes, backslashes, line ends and control characters in a text are read back as they were."""
    tables = load_fabric("nvl72").model_dump()
    for awkward in (
        'a "quoted" C:\\path',
        'two\nlines "quoted" """thrice"""\n',
        "back\\slash\nline",
        "\x7f\t\r\n\x01é",
    ):
        spec = FabricSpec(**tables | {"description": awkward})
        assert FabricSpec.from_toml(spec.to_toml(), origin="again") == spec


def test_the_hash_is_of_the_physics() -> None:
    """Prose and spelling leave the hash alone; a value, a default or a name changes it."""
    original = FabricSpec.from_toml(NVL72, origin="nvl72").spec_sha256

    def changed(old: str, new: str) -> str:
        assert old in NVL72
        return FabricSpec.from_toml(NVL72.replace(old, new), origin="my.toml").spec_sha256

    assert len(original) == 64
    assert changed('value = "50 GB/s"', 'value = "50000 MB/s"') == original
    assert changed('title = "', 'title = "The ') == original
    assert changed('evidence = "vendor"', 'evidence = "paper"') == original
    assert changed('value = "50 GB/s"', 'value = "51 GB/s"') != original
    assert changed('name = "nvl72"', 'name = "nvl73"') != original
    assert changed('value = "unlimited"', 'value = "900 GB/s"') != original


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            'operations = ["moe_combine"]',
            'operations = ["moe_combine", "moe_dispatch"]',
            "moe_combine.operations: found 'moe_dispatch', which terminal.protocol.moe_dispatch is for as well",
        ),
        ('value = "775.1 GB/s"', 'value = "unlimited"', "counts with terminal.copy_rate, which is unlimited"),
        ('operations = ["moe_combine"]', "operations = []", "terminal.protocol.moe_combine.operations: found []"),
    ],
)
def test_contradictory_protocols_are_refused(old: str, new: str, words: str) -> None:
    """One operation and size has one protocol, and what counts with a rate needs one."""
    assert words in refused(NVL72, old, new)


def test_protocols_are_part_of_the_hash_and_of_the_endpoint() -> None:
    """What they are for changes a result, so it changes the hash."""
    changed = NVL72.replace('operations = ["moe_combine"]', 'operations = ["moe_dispatch"]')
    changed = changed.replace("protocol.moe_dispatch", "protocol.moe_x").replace(
        '["moe_dispatch"]', '["moe_combine"]', 1
    )
    assert FabricSpec.from_toml(changed, origin="my.toml").spec_sha256 != load_fabric("nvl72").spec_sha256
    protocols = load_fabric("nvl72").network().endpoint.protocols
    assert [protocol.least_part_bytes for protocol in protocols][:4] == [0, 65_536, 0, 2_097_152]
    assert load_fabric("nvl72").network(endpoint="ideal").endpoint.protocols == ()


def test_ideal_endpoints_cost_nothing() -> None:
    """The ideal endpoint has no launch latency, no overhead and no copy limit; wires and slots stay."""
    spec = load_fabric("nvl72")
    fitted, ideal = spec.network(), spec.network(endpoint="ideal")
    assert (fitted.endpoint.launch_latency_ps, fitted.endpoint.message_overhead_ps) == (9_900_000, 300_000)
    assert (ideal.endpoint.launch_latency_ps, ideal.endpoint.message_overhead_ps) == (0, 0)
    assert fitted.endpoint.slots == ideal.endpoint.slots == 16
    assert set(fitted.channels.copy_ps_per_byte_num) == {180_000}  # 18 * 1000 / 775.1 = 180000 / 7751
    assert set(ideal.channels.copy_ps_per_byte_num) == {0}
    assert (fitted.channels.ps_per_byte_num == ideal.channels.ps_per_byte_num).all()


def test_an_endpoint_of_the_fabric_has_its_own_copy_rate() -> None:
    """All else is fitted; packages and what joins racks copy as before."""
    spec = load_fabric("cloudmatrix384-die")
    fitted, write = spec.network(), spec.network(endpoint="write")
    assert write.endpoint == replace(fitted.endpoint, copy_ps_per_byte=ps_per_byte(parse_bandwidth("134.9 GB/s")))
    rates = [
        network.channels.copy_ps_per_byte_num / network.channels.copy_ps_per_byte_den for network in (fitted, write)
    ]
    from_die = fitted.channels.source_node < fitted.num_terminals
    in_package = from_die & (fitted.channels.target_node < fitted.num_terminals)
    assert np.unique(np.divide(*rates)[from_die & ~in_package]) == pytest.approx(134.9 / 162.5)
    assert (rates[0][in_package] == rates[1][in_package]).all()


def test_completion_is_part_of_the_hash_and_of_every_endpoint() -> None:
    """To wait for acknowledgements changes a result; to say what is the case anyway does not."""
    plain = FabricSpec.from_toml(NVL72, origin="my.toml")
    specs = {
        word: FabricSpec.from_toml(
            NVL72.replace('name = "gpu"', f'name = "gpu"\ncompletion = "{word}"'), origin="my.toml"
        )
        for word in ("sent", "acked")
    }
    assert plain.spec_sha256 == specs["sent"].spec_sha256 != specs["acked"].spec_sha256
    assert FabricSpec.from_toml(specs["acked"].to_toml(), origin="my.toml") == specs["acked"]
    assert specs["acked"].settings()["terminal.completion"] == "acked"
    for endpoint in ("fitted", "ideal", "sm_write"):
        acked = {word: spec.network(endpoint=endpoint).endpoint.acked for word, spec in specs.items()}
        assert acked == {"sent": False, "acked": True}
    assert "terminal.completion" in refused(NVL72, 'name = "gpu"', 'name = "gpu"\ncompletion = "done"')


def test_endpoints_of_a_fabric_are_checked() -> None:
    """None is called as those that every fabric has, and what counts with a copy rate needs one of each."""
    assert "terminal.endpoint.ideal: is an endpoint that every fabric has" in refused(
        NVL72, "endpoint.sm_write", "endpoint.ideal"
    )
    words = "counts with terminal.endpoint.sm_write.copy_rate, which is unlimited"
    assert words in refused(NVL72, 'value = "717.2 GB/s"', 'value = "unlimited"')


def test_packet_and_routing_can_be_chosen() -> None:
    """A run may take another packet format or routing than the file's defaults."""
    spec = load_fabric("cloudmatrix384")
    assert (spec.network().packet.name, spec.network().routing) == ("bulk", "spray")
    network = spec.network(packet="load_store", routing="deterministic")
    assert (network.packet.name, network.packet.max_payload_bytes, network.routing) == (
        "load_store",
        512,
        "deterministic",
    )


@pytest.mark.parametrize(
    ("fabric", "choice", "message"),
    [
        (
            "cloudmatrix384",
            {"packet": "bulky"},
            "unknown packet format 'bulky' (did you mean 'bulk'?); known: bulk, load_",
        ),
        (
            "cloudmatrix384",
            {"routing": "valian"},
            "unknown routing 'valian' (did you mean 'valiant'?); known: spray, det",
        ),
        (
            "cloudmatrix384",
            {"endpoint": "idle"},
            "unknown endpoint 'idle' (did you mean 'ideal'?); known: fitted, ideal, write",
        ),
        (
            "hgx-h100",
            {"routing": "spray"},
            "routing spray has no effect on hgx-h100: each pair of terminals has one path per plane; leave it out",
        ),
        ("cloudmatrix384-mesh", {"routing": "spray"}, "routing spray has no effect"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(fabric: str, choice: dict[str, str], message: str) -> None:
    """An unknown packet format, routing or endpoint names the known ones; a routing without effect is refused."""
    with pytest.raises(ConfigError) as caught:
        load_fabric(fabric).network(**choice)
    assert message in str(caught.value)


def test_importing_the_package_loads_no_library() -> None:
    """The package's names are loaded when used, and an unknown one is an ordinary AttributeError."""
    code = (
        "import sys, fabricsim.fabrics as f; assert not {'pydantic', 'numpy'} & set(sys.modules); "
        "assert f.load_fabric('nvl72').name == 'nvl72'; print(hasattr(f, 'no_such_name'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")
