"""A dead component slows the saturated all-to-all by what the capacity that is left says, within 2 %.

Terminals are ideal, so that nothing but the wires counts. Shares of a message are equal whatever their planes can carry
(docs/physics.md, section 7), so the slowest plane that a message uses decides. Sizes are such that the run without the
fault takes less than 1 % longer than its lower bound.
"""

from __future__ import annotations

from typing import Any

import pytest

import fabricsim as fs


def slowdown(fabric: fs.FabricSpec, size: str, fault: str) -> float:
    """Time of the all-to-all over all terminals with the fault, over that without."""
    workload = fs.collective("all_to_all", size=size, ranks=fabric.num_terminals)
    whole = fs.simulate(fabric, workload, endpoint="ideal")
    assert next(whole.op_rows())["efficiency"] > 0.99
    return fs.simulate(fabric, workload, endpoint="ideal", faults=[fault]).simulated_time_ps / whole.simulated_time_ps


@pytest.mark.parametrize("fault", ["switch:nvswitch.0.5", "plane:11", "link:gpu3-nvswitch.0.5"])
def test_an_nvlink_switch(fault: str) -> None:
    """17 of 18 planes are left, to all GPUs or to the one that all wait for: 18/17."""
    assert slowdown(fs.load_fabric("nvl72"), "16MiB", fault) == pytest.approx(18 / 17, rel=0.02)


@pytest.mark.parametrize("fault", [None, "switch:l2.0.0"])
def test_adaptive_routing_is_no_worse_than_spray(fault: str | None) -> None:
    """Broken or not, whose queues are looked at costs nothing: up to the 1 % by which seeds differ.

    It gains little, for an L1 switch does not see the queues behind the L2 switches.
    """
    workload = fs.collective("all_to_all", size="24MiB", ranks=384)
    faults = [] if fault is None else [fault]
    spray, adaptive = (
        fs.simulate("cloudmatrix384", workload, endpoint="ideal", faults=faults, routing=routing).simulated_time_ps
        for routing in ("spray", "adaptive")
    )
    assert adaptive <= 1.01 * spray


def test_a_plane_of_cloudmatrix() -> None:
    """6 of 7 planes are left: 7/6."""
    assert slowdown(fs.load_fabric("cloudmatrix384"), "64MiB", "plane:3") == pytest.approx(7 / 6, rel=0.02)


def test_half_of_the_lanes_of_a_link() -> None:
    """Its plane is half as fast for one GPU, and all planes carry equal shares: 2."""
    fault = "lanes:gpu3-nvswitch.0.5=0.5"
    assert slowdown(fs.load_fabric("nvl72"), "16MiB", fault) == pytest.approx(2, rel=0.02)


def test_an_l2_switch_of_cloudmatrix() -> None:
    """15 of the 16 uplinks of each L1 switch are left, and only they: the plane is as fast as they are.

    8 NPUs under an L1 switch inject 8 * 56 GB/s when nothing is in their way; of that (384 - 8) / 383 goes up, over 15
    * 28 GB/s: 8 * 56 * 376 / 383 / (15 * 28) = 1.0472. The same goes for the way down. The other planes carry equal
    shares and wait, so that their number does not matter; one is simulated. Its buffers are deep: with those of the
    fabric, of 20 packets, it takes four times the bytes until full uplinks are as good as that.
    """
    tables: dict[str, Any] = fs.load_fabric("cloudmatrix384").model_dump(exclude_none=True)
    tables["topology"]["planes"]["value"] = 1
    for link in tables["link"].values():
        link["buffer"]["value"] = "1 MiB"
    expected = 8 * 56 * 376 / 383 / (15 * 28)
    assert slowdown(fs.FabricSpec(**tables), "37MiB", "switch:l2.7.0") == pytest.approx(expected, rel=0.02)
