from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fabricsim.fabrics import FabricSpec, fabric_names, load_fabric
from fabricsim.fabrics.network import Network
from fabricsim.fabrics.spec import (
    ClosTable,
    DimensionTable,
    FullMeshTable,
    LinksTable,
    MeshTable,
    PackageTable,
    ScaleOutTable,
)

ROOT = Path(__file__).resolve().parents[2]


def rates_GBps(network: Network, side: str) -> set[Fraction]:
    """Sum the rates of each terminal's injection or ejection channels, in GB/s, and give the different sums."""
    channels = network.channels
    node = channels.source_node if side == "injection" else channels.target_node
    sums: dict[int, Fraction] = {}
    for channel in np.flatnonzero(node < network.num_terminals):
        rate = Fraction(1000 * int(channels.ps_per_byte_den[channel]), int(channels.ps_per_byte_num[channel]))
        sums[int(node[channel])] = sums.get(int(node[channel]), Fraction(0)) + rate
    assert len(sums) == network.num_terminals
    return set(sums.values())


def test_catalog() -> None:
    """The catalog holds these fabrics, each under its own name."""
    assert fabric_names() == (
        "cloudmatrix384",
        "cloudmatrix384-die",
        "cloudmatrix384-mesh",
        "hgx-b200",
        "hgx-h100",
        "nvl72",
        "ub-mesh-1024",
    )
    assert [load_fabric(name).name for name in fabric_names()] == list(fabric_names())


@pytest.mark.parametrize("name", fabric_names())
def test_catalog_files_are_canonical(name: str) -> None:
    """A packaged file is exactly what to_toml writes, so `fabrics NAME --toml` gives the file itself."""
    text = (ROOT / "fabricsim" / "fabrics" / "catalog" / f"{name}.toml").read_text("utf-8")
    assert load_fabric(name).to_toml() == text


@pytest.mark.parametrize("name", fabric_names())
def test_every_number_has_its_provenance(name: str) -> None:
    """Each number has a unit, a class of evidence and a source; an assumption also has a note or a public source."""
    rows = load_fabric(name).quantities()
    assert len({row.key for row in rows}) == len(rows)
    for row in rows:
        assert row.unit, row.key
        assert row.evidence in {"vendor", "paper", "measured", "derived", "assumed"}, row.key
        assert row.source.strip() == row.source, row.key
        assert row.note or row.evidence not in {"derived", "measured"}, f"{row.key}: show the arithmetic"
        assert row.note or row.source != "assumption of this project", f"{row.key}: say why"


def test_quantities_of_nvl72() -> None:
    """Rows keep the spelling of the file, under the keys by which a user would change them."""
    rows = {row.key: (row.value, row.unit, row.evidence) for row in load_fabric("nvl72").quantities()}
    assert rows["link.gpu-nvswitch.bandwidth"] == ("50", "GB/s", "vendor")
    for one_link_per_chip in ("topology.planes", "tier.nvswitch.parents"):
        assert rows[one_link_per_chip][2] == "derived"
    assert rows["topology.planes"][:2] == ("18", "count")
    assert rows["terminal.ejection_rate"] == ("unlimited", "GB/s", "assumed")
    assert rows["packet.bulk.flit"] == ("16", "B", "assumed")


@pytest.mark.parametrize(
    ("name", "GBps"),
    [
        ("nvl72", 18 * 50),
        ("hgx-b200", 18 * 50),
        ("hgx-h100", 18 * 25),
        ("cloudmatrix384", 7 * 56),
        ("cloudmatrix384-mesh", 392),
        ("cloudmatrix384-die", 196 + 540),  # its ports and the link in the package
        ("ub-mesh-1024", 14 * 56 + 6 * 28),
    ],
)
def test_rate_of_a_terminal(name: str, GBps: int) -> None:  # noqa: N803
    """The links of a terminal add up to its published rate: 900 GB/s per GPU, 2 dies * 196 = 392 GB/s per NPU."""
    network = load_fabric(name).network()
    assert rates_GBps(network, "injection") == {Fraction(GBps)}
    assert rates_GBps(network, "ejection") == {Fraction(GBps)}


def test_published_figures_of_cloudmatrix384() -> None:
    """48 nodes of 8; 448 GB/s up and down at an L1; 336 and 112 chips; 48 ports of 28 GB/s at an L2."""
    spec = load_fabric("cloudmatrix384")
    up, down = spec.link["l1-l2"].bandwidth, spec.link["npu-l1"].bandwidth
    per_GBps = Fraction(1000)  # a link of 1 GB/s takes 1000 ps per byte
    assert spec.num_terminals == 48 * 8 == 384
    assert 16 * per_GBps / up.exact == 8 * per_GBps / down.exact == 448
    assert per_GBps / up.exact == Fraction(196, 7) == 28
    names = spec.network().node_names
    assert [sum(name.startswith(tier) for name in names) for tier in ("l1", "l2")] == [48 * 7, 16 * 7]


@pytest.mark.parametrize(
    ("name", "packet", "wire_bytes", "payload_percent"),
    [
        ("cloudmatrix384", "bulk", 208 * 20, 98.5),
        ("cloudmatrix384", "load_store", 27 * 20, 94.8),
        ("cloudmatrix384-mesh", "bulk", 208 * 20, 98.5),
        ("nvl72", "bulk", 18 * 16, 88.9),
        ("hgx-h100", "bulk", 18 * 16, 88.9),
        ("ub-mesh-1024", "bulk", 208 * 20, 98.5),
    ],
)
def test_framing(name: str, packet: str, wire_bytes: int, payload_percent: float) -> None:
    """The largest packet has the published number of flits: 208 and 27 on UB, 18 on NVLink (288 bytes)."""
    chosen = load_fabric(name).network(packet=packet).packet
    assert chosen.wire_bytes(chosen.max_payload_bytes) == wire_bytes
    assert round(100 * chosen.max_payload_bytes / wire_bytes, 1) == payload_percent


def test_fitted_latencies() -> None:
    """Round trips over 4 and 8 channels give StrataCL's 0.7 and 2.1 us; a one-way store on GB200 0.792 us to 2 %."""
    cloudmatrix = load_fabric("cloudmatrix384")
    l1_ps, l2_ps = (cloudmatrix.link[name].latency.exact for name in ("npu-l1", "l1-l2"))
    assert 2 * (2 * l1_ps) == 700_000
    assert 2 * (2 * l1_ps + 2 * l2_ps) == 2_100_000
    nvl72 = load_fabric("nvl72")
    one_way_ps = nvl72.terminal.message_overhead.exact + 2 * nvl72.link["gpu-nvswitch"].latency.exact
    assert abs(one_way_ps - 792_000) < 0.02 * 792_000


def test_dies_are_halves_of_npus() -> None:
    """Two dies have the ports, the copy rate and the switches of one NPU; their chips are the same machine's."""
    dies, npus = load_fabric("cloudmatrix384-die"), load_fabric("cloudmatrix384")
    assert dies.num_terminals == 2 * npus.num_terminals
    for one, two in (
        (dies.link["die-l1"].bandwidth, npus.link["npu-l1"].bandwidth),
        (dies.terminal.copy_rate, npus.terminal.copy_rate),
    ):
        assert one.exact == 2 * two.exact  # in picoseconds per byte
    assert dies.link["l1-l2"] == npus.link["l1-l2"]
    switches = [spec.network().num_switches for spec in (dies, npus)]
    assert switches == [336 + 112] * 2


def test_racks_are_joined_without_oversubscription() -> None:
    """The switch of a rail has as many links up as down, whatever the number of racks."""
    for name, GBps in (("nvl72", 50), ("cloudmatrix384", 50)):  # noqa: N806
        for racks in ("2", "3"):
            network = load_fabric(name).with_overrides({"scale_out.racks": racks}).network()
            channels = network.channels
            kinds = {kind: number for number, kind in enumerate(network.channel_class_names)}
            for up, down in (("gpu-rail", "rail-spine"), ("npu-rail", "rail-spine")):
                if up in kinds:
                    count = [int((channels.channel_class == kinds[kind]).sum()) for kind in (up, down)]
                    assert count == [network.num_terminals] * 2
            rail = channels.channel_class == kinds["rail-spine"]
            assert set(1000 * channels.ps_per_byte_den[rail] / channels.ps_per_byte_num[rail]) == {GBps}


def test_copy_rates() -> None:
    """A copy rate was measured, 775.1 of 900 GB/s per GPU, or fitted, 2 * 162.5 of 392 GB/s per NPU."""
    for name, GBps in (("nvl72", "775.1"), ("cloudmatrix384", "325"), ("cloudmatrix384-mesh", "325")):  # noqa: N806
        assert load_fabric(name).terminal.copy_rate.exact == 1000 / Fraction(GBps)


@pytest.mark.parametrize(
    ("name", "packet"),
    [(name, packet) for name in fabric_names() for packet in load_fabric(name).packet],
)
def test_buffers_allow_full_rate(name: str, packet: str) -> None:
    """Each buffer holds ceil(2 latency / S) + 1 + ceil(S_next / S) largest packets (docs/physics.md, section 6).

    S_next is bounded from above by the slowest channel of the fabric; the ejections are as fast as their channels.
    """
    network = load_fabric(name).network(packet=packet)
    channels = network.channels
    largest = network.packet.wire_bytes(network.packet.max_payload_bytes)
    serialization = -(-largest * channels.ps_per_byte_num // channels.ps_per_byte_den)
    next_serialization = np.where(channels.target_node < network.num_terminals, serialization, serialization.max())
    packets = -(-2 * channels.latency_ps // serialization) + 1 - (-next_serialization // serialization)
    assert (channels.buffer_bytes >= packets * largest).all()
    assert not channels.ejection_ps_per_byte_num.any()


def example() -> str:
    """Return the fabric that docs/fabrics.md builds from nothing."""
    (block,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "fabrics.md").read_text("utf-8"), re.DOTALL)
    return str(block)


def test_the_fabric_of_the_docs(tmp_path: Path) -> None:
    """The file in docs/fabrics.md loads as printed there and is the fabric that its text describes."""
    path = tmp_path / "pod32.toml"
    path.write_text(example(), "utf-8")
    network = load_fabric(path).network()
    assert (network.num_terminals, network.num_planes, network.num_switches) == (32, 2, 2 * (4 + 2))
    assert network.channel_class_names == ("acc-leaf", "leaf-spine", "spine-leaf", "leaf-acc")
    first = [int(np.flatnonzero(network.channels.channel_class == number)[0]) for number in range(4)]
    assert network.channels.buffer_bytes[first].tolist() == [64 << 10, 256 << 10, 192 << 10, 64 << 10]


def test_the_docs_name_every_key() -> None:
    """docs/fabrics.md explains every key that a file can have."""
    text = (ROOT / "docs" / "fabrics.md").read_text("utf-8")

    def keys(kind: type, prefix: str) -> list[str]:
        return [f"{prefix}{key}" for key in kind.model_fields]  # type: ignore[attr-defined]

    spec = load_fabric("cloudmatrix384")
    for key in (
        *keys(ClosTable, "topology."),
        *keys(FullMeshTable, "topology."),
        *keys(MeshTable, "topology."),
        *keys(LinksTable, "topology."),
        *keys(PackageTable, "package."),
        *keys(ScaleOutTable, "scale_out."),
        *keys(DimensionTable, "dimension.NAME."),
        *keys(type(spec.defaults), "defaults."),
        *keys(type(spec.terminal), "terminal."),
        *keys(type(spec.terminal.endpoint["write"]), "terminal.endpoint.NAME."),
        *keys(type(spec.terminal.protocol["moe_dispatch"]), "terminal.protocol.NAME."),
        *keys(type(spec.tier["l1"]), "tier.NAME."),
        *keys(type(spec.link["npu-l1"]), "link.A-B."),
        "packet.NAME.max_payload",
        "packet.NAME.overhead",
        "packet.NAME.stripe_min",
        *keys(type(spec.terminal.slots), ""),
        *(key for key in FabricSpec.model_fields if key in ("name", "title", "description")),
    ):
        assert f"`{key}`" in text, key
