from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import bench_kernel, bench_peer, peer, table
from bench.cases import (
    BUFFERS,
    FABRICS,
    LOADS,
    PACKETS_BYTES,
    Case,
    bulk,
    network_of,
    prepare,
    split_units,
    uniform_packets,
)
from fabricsim.engine.folding import fold
from fabricsim.fabrics import load_fabric
from fabricsim.workloads.collectives import collective

CLOS = ("clos72", "clos384", "clos768")


@pytest.mark.parametrize("name", CLOS)
def test_bench_fabrics_say_that_they_are_made_up(name: str) -> None:
    """No number of a benchmark fabric claims a source, and its title and description say what it is."""
    fabric = load_fabric(FABRICS[name])
    assert fabric.num_terminals == int(name.removeprefix("clos"))
    assert "no real machine" in fabric.title
    assert fabric.description.strip().startswith("Made up")
    rows = fabric.quantities()
    assert {(row.source, row.evidence) for row in rows} == {("made up for this benchmark", "assumed")}


def test_bench_fabrics_differ_in_their_leaves_alone() -> None:
    """From 72 to 768 terminals packets, tiers, rates and buffers stay, so that rates can be compared."""
    values = [{row.key: row.value for row in load_fabric(FABRICS[name]).quantities()} for name in CLOS]
    assert [fabric.pop("tier.spine.children") for fabric in values] == ["9", "48", "96"]
    assert values[0] == values[1] == values[2]


@pytest.mark.parametrize("buffers", BUFFERS)
@pytest.mark.parametrize("packet_bytes", PACKETS_BYTES)
@pytest.mark.parametrize("fabric", ["nvl72", "cloudmatrix384", "clos72"])
def test_cases_have_the_buffers_that_they_name(fabric: str, packet_bytes: int, buffers: str) -> None:
    """Ample buffers are enough for full rate at every packet size, scarce ones at none."""
    network = network_of(fabric, packet_bytes, buffers)
    assert network.packet.max_payload_bytes == packet_bytes
    largest_bytes = network.packet.wire_bytes(packet_bytes)
    channels = network.channels
    # docs/physics.md, section 6, without the term for a next channel that is slower: it only asks for more
    serialization_ps = -(-largest_bytes * channels.ps_per_byte_num // channels.ps_per_byte_den)
    needed_bytes = largest_bytes * (1 - (-2 * channels.latency_ps // serialization_ps))
    if buffers == "ample":
        assert (channels.buffer_bytes > needed_bytes).all()
    else:
        assert (channels.buffer_bytes < needed_bytes).all()
        assert (channels.buffer_bytes >= largest_bytes).all()


@pytest.mark.parametrize("load", LOADS)
def test_loads_move_about_as_much(load: str) -> None:
    """A load moves about the units asked for, whole ones, none from a rank to itself."""
    units = split_units(load, 72, 100_000)
    assert units.sum() == pytest.approx(100_000, rel=0.05)
    assert (units >= 0).all()
    assert not units.diagonal().any()


def test_loads_have_the_shape_that_they_name() -> None:
    """Uniform is even, skewed is not, incast has one target, and a permutation has one each way for every rank."""
    received = {load: split_units(load, 72, 100_000).sum(axis=0) for load in LOADS}
    assert np.unique(received["uniform"]).size == 1
    assert 5 * received["skewed"].mean() < received["skewed"].max() < 10 * received["skewed"].mean()
    assert np.flatnonzero(received["incast"]).tolist() == [0]
    moved = split_units("permutation", 72, 100_000) > 0
    assert (moved.sum(axis=0) == 1).all()
    assert (moved.sum(axis=1) == 1).all()


def test_a_uniform_load_has_a_unit_for_every_pair() -> None:
    """A load too small for all pairs grows: without it there would be no uniform load of many terminals."""
    assert split_units("uniform", 8, 1).sum() == 8 * 7


@pytest.mark.parametrize("fabric", CLOS)
def test_a_uniform_load_has_the_packets_per_share_that_it_names(fabric: str) -> None:
    """So pairs of terminals send as much on every fabric, however many there are."""
    network = network_of(fabric, 4096, "ample")
    num_units = uniform_packets(fabric, 4096, packets_per_share=3) // network.num_planes
    units = split_units("uniform", network.num_terminals, num_units)
    assert (units[~np.eye(len(units), dtype=bool)] == 3).all()


def test_runs_use_one_thread_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are timed on one thread, whatever the machine has; the table of threads asks for more."""
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    network, schedule = bulk("nvl72", "64KiB")
    assert prepare(network, schedule, kernel="python").threads == 1
    assert prepare(network, schedule, kernel="python", threads=2).threads == 2
    assert Case("clos72", 4096, "ample", "permutation").simulation(kernel="python", num_packets=1000).threads == 1


@pytest.mark.parametrize("fabric", bench_kernel.BULK_FABRICS)
def test_bulk_runs_can_be_folded(fabric: str) -> None:
    """What is timed folded is one plane of all, in the smoke run's size too."""
    network, schedule = bulk(fabric, "2MiB")
    folding = fold(network, [schedule], np.arange(schedule.num_ranks, dtype=np.int32))
    assert folding.words == f"{network.num_planes} planes as 1"


def test_every_table_is_printed() -> None:
    """Each bench notes its figures for a table that ``bench.table`` knows, and no table is without a bench."""
    source = "".join(Path(module.__file__).read_text(encoding="utf-8") for module in (bench_kernel, bench_peer))
    assert set(re.findall(r'compare\w*\(benchmark, "(\w+)"', source)) == set(table.TITLES)


def test_the_peer_gets_a_flow_for_every_pair() -> None:
    """The matrix names each pair once, with the bytes asked for, and spreads the first flows over all targets."""
    nodes, connections, *flows = peer.traffic_matrix(4, 8192).splitlines()
    assert (nodes, connections) == ("Nodes 4", "Connections 12")
    assert flows[:4] == [f"{source}->{target} start 0 size 8192" for source, target in [(0, 1), (1, 2), (2, 3), (3, 0)]]
    pairs = {tuple(flow.split()[0].split("->")) for flow in flows}
    assert pairs == {(source, target) for source in "0123" for target in "0123" if source != target}


@pytest.mark.parametrize("shape", peer.PLANES)
def test_the_peer_has_the_fabric_that_we_have(shape: str, tmp_path: Path) -> None:
    """Shape, rate and latency are those of our fabric, and the packet-hops counted for it are those of our engine."""
    plane = peer.PLANES[shape]
    (tmp_path / "plane.toml").write_text(peer.fabric(plane), encoding="utf-8")
    network = load_fabric(tmp_path / "plane.toml").network()
    assert network.num_planes == 1
    *_, leaf, spine = re.split(r"Tier \d\n", peer.topology(plane))
    down, up, oversubscribed = (int(re.search(rf"{key} (\d+)", leaf)[1]) for key in ("Down", "Up", "subscribed"))
    (leaves,) = map(int, re.findall(r"Radix_Down (\d+)", spine))
    assert (leaves * down, down) == (network.num_terminals, up * oversubscribed)
    assert len(network.channels.latency_ps) == 2 * leaves * (down + up)
    for tier in (leaf, spine):
        assert re.findall(r"Gbps (\d+)|ns (\d+)", tier) == [("400", ""), ("", "250")]
    channels = network.channels
    assert (channels.ps_per_byte_num == 20 * channels.ps_per_byte_den).all()  # 50 GB/s
    assert (channels.latency_ps == 250_000).all()
    schedule = collective("all_to_all", size=f"{72 * 4096}B", ranks=72)
    assert prepare(network, schedule, kernel="auto").run().packet_hops == plane.packet_hops(4096)


def test_packet_hops_of_the_peer_are_counted_or_refused() -> None:
    """A run whose flows all finished, without a packet sent twice, counts packets times links; any other is refused."""
    plane = peer.PLANES["leaf and spine"]
    flow = "Flow Roce_0_1 17 finished at 29.2 total bytes 8192\n"
    output = flow * peer.NUM_PAIRS + ".Done\nNew: 0 Rtx: 0\n"
    assert peer.htsim_packet_hops(output, plane, 8192) == 2 * (72 * 7 * 2 + 72 * 64 * 4)
    with pytest.raises(RuntimeError, match="raise END_US"):
        peer.htsim_packet_hops(output.removeprefix(flow), plane, 8192)
    with pytest.raises(RuntimeError, match="whole packets"):
        peer.htsim_packet_hops(output, plane, 4096)
    with pytest.raises(RuntimeError, match="again"):
        peer.htsim_packet_hops(output.replace("Rtx: 0", "Rtx: 4096"), plane, 8192)


def document(variants: dict[str, Any]) -> dict[str, Any]:
    """Return the part of pytest-benchmark's document that the tables are made of."""
    row = vars(Case("clos72", 256, "ample", "incast"))
    return {
        "benchmarks": [{"extra_info": {"table": "kernels", "row": row, "variants": variants}}],
        "commit_info": {"id": "0123456789abcdef", "dirty": False},
        "datetime": "2026-01-02T03:04:05+00:00",
        "machine_info": {
            "cpu": {"brand_raw": "Some CPU", "count": 2},
            "machine": "x86_64",
            "node": "a-host-name",
            "release": "6.1",
            "system": "Linux",
            "versions": {"fabricsim": "0.1.0", "numba": "0.68.1"},
        },
    }


def test_table_shows_medians_and_ratios_of_rounds() -> None:
    """A cell is the median of its rounds; a speed is the median of the rounds' ratios, not the ratio of medians."""
    c = {"packet_hops": 1_000_000, "engine_s": [0.010, 0.020, 0.060]}
    numba = {"packet_hops": 1_000_000, "engine_s": [0.020, 0.025, 0.060]}
    counted = [{"row": vars(Case("clos72", 256, "ample", "incast")), "kernel": "c", "packet_hops": 10}]
    counted[0]["instructions"] = 3_000
    lines = list(table.render(document({"c": c, "numba": numba}), counted))
    assert lines[0] == (
        "Commit 0123456789, 2026-01-02; Some CPU, 2 CPUs, Linux 6.1 x86_64; fabricsim 0.1.0, numba 0.68.1."
    )
    assert lines[-1] == ("| clos72 | 256 | ample | incast | 1,000,000 | 20.0 | 25.0 | 0.80 (0.50 to 1.00) | 300 | - |")
    assert len({line.count("|") for line in lines[-3:]}) == 1


def test_table_of_one_kernel_has_no_ratio() -> None:
    """Where one kernel is usable there is nothing to compare it with, and no column that pretends so."""
    lines = list(table.render(document({"numba": {"packet_hops": 10, "engine_s": [1e-6]}})))
    assert lines[-1] == "| clos72 | 256 | ample | incast | 10 | 100.0 |"
    assert "speed" not in lines[-3]
