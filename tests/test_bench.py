from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench import table
from bench.cases import BUFFERS, FABRICS, LOADS, PACKETS_BYTES, Case, network_of, split_units
from fabricsim.fabrics import load_fabric

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
