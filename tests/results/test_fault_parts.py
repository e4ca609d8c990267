"""Faults where a fabric has several racks, packages, virtual channels, protocols or numbers that a user set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fabricsim as fs
from fabricsim.engine.launch import launch_latencies_ps
from fabricsim.errors import ConfigError, UnreachableError
from fabricsim.results.fault_effects import IdleFaultError
from fabricsim.results.fault_sweep import sweep_faults
from fabricsim.results.result import Result
from fabricsim.results.run import one_collective

#: Two racks of 8 GPUs, each GPU on one of 4 rails.
RACKS = fs.load_fabric("nvl72").with_overrides({"tier.nvswitch.children": "8", "scale_out.racks": "2"})
#: Two nodes of 4 dies, two dies to a package.
DIES = fs.load_fabric("cloudmatrix384-die").with_overrides({"tier.l2.children": "2", "tier.l1.children": "4"})


def run(fabric: fs.FabricSpec, *faults: str, size: str = "64KiB", **options: Any) -> Result:
    """An all-to-all over all terminals with faults."""
    workload = fs.collective("all_to_all", size=size, ranks=fabric.num_terminals)
    return fs.simulate(fabric, workload, faults=faults, **options)


def check_dead(result: Result, whole: Result) -> None:
    """Dead channels carry nothing, and all packets arrive all the same."""
    dead = np.array(result.channels.to_pydict()["dead"])
    assert dead.any()
    assert not result.record.channel_packets[dead].any()
    assert whole.record.channel_packets[dead].any()
    assert result.digest != whole.digest


@pytest.fixture(scope="module")
def racks() -> Result:
    """Two racks without a fault."""
    return run(RACKS)


@pytest.mark.parametrize("fault", ["switch:spine.0.0", "switch:rack1.nvswitch.0.5", "link:gpu9-rack1.nvswitch.0.5"])
def test_what_dies_in_and_between_racks_is_gone_around(racks: Result, fault: str) -> None:
    """A spine, a switch of the second rack, and a link of it; the two numbers that were set still count."""
    broken = run(RACKS, fault)
    check_dead(broken, racks)
    assert broken.summary()["fabric"]["overrides"] == dict(RACKS.overrides)


@pytest.mark.parametrize("fault", ["switch:rail.3.0", "link:gpu11-rail.3.0", "plane:{}"])
def test_a_rail_has_no_stand_in(racks: Result, fault: str) -> None:
    """A GPU has one port to the other racks: with its rail, its port or the plane of all rails it is cut off."""
    channels = racks.network.channels
    port = (channels.source_node == 11) & (channels.target_node == racks.network.node_names.index("rail.3.0"))
    with pytest.raises(UnreachableError, match="the faults leave no way from gpu"):
        run(RACKS, fault.format(*channels.plane[port]))


@pytest.mark.parametrize(
    "fault",
    [
        "lanes:rail.0.0-spine.1.0=0.5",
        "bit_errors:gpu3-rail.3.0=1e-6",
        "slow_rank:12=30",
        "arrival_skew:12=5us",
    ],
)
def test_what_is_slow_or_late_in_two_racks(racks: Result, fault: str) -> None:
    """The run without its two racks has fewer terminals than ranks, which tells that they count."""
    found = run(RACKS, fault)
    assert found.digest != racks.digest
    assert found.simulated_time_ps >= racks.simulated_time_ps


def test_faults_in_packages() -> None:
    """The link in a package can be slow, not dead: its pair goes no other way. Switches are gone around as ever."""
    whole = run(DIES)
    with pytest.raises(UnreachableError, match="no way from die2 to die3"):
        run(DIES, "link:die2-die3")
    check_dead(run(DIES, "switch:l2.0.4"), whole)
    pair = fs.collective("send_recv", size="1MiB", ranks=2)
    alone, slow = (
        fs.simulate(DIES, pair, faults=faults).simulated_time_ps for faults in ((), ("lanes:die0-die1=0.1",))
    )
    assert slow > 1.5 * alone
    with pytest.raises(IdleFaultError, match=r"switch:l2\.0\.4 has no effect"):
        fs.simulate(DIES, pair, faults=["switch:l2.0.4"])


@pytest.mark.parametrize(
    "fault", ["plane:1", "link:gpu2-nvswitch.0.1", "lanes:gpu2-nvswitch.0.1=0.5", "slow_rank:2=90"]
)
def test_faults_of_channels_that_have_virtual_channels(tiny: fs.FabricSpec, fault: str) -> None:
    """Unused virtual channels change nothing with a fault either."""
    tables: dict[str, Any] = tiny.model_dump(exclude_none=True)
    count = {"value": 4, "source": "a test", "evidence": "assumed"}
    tables["vcs"] = {"count": count, "arbitration": "oldest", "operations": [["all_reduce"]]}
    several = fs.FabricSpec(**tables)
    plain, split = run(tiny, fault), run(several, fault)
    assert plain.digest == split.digest != run(several).digest
    assert plain.summary()["fabric"]["dead_channels"] == split.summary()["fabric"]["dead_channels"]


def test_numbers_that_are_set_beside_a_fault(tiny: fs.FabricSpec) -> None:
    """One that the broken run feels is kept; one that it does not is refused, though the whole run would feel it."""
    slower = run(tiny.with_overrides({"link.gpu-nvswitch.latency": "1 us"}), "plane:1")
    assert slower.simulated_time_ps > run(tiny, "plane:1").simulated_time_ps
    assert slower.summary()["fabric"]["overrides"] == {"link.gpu-nvswitch.latency": "1 us"}
    planes = tiny.with_overrides({"topology.planes": "3"})
    assert run(planes, "plane:2").summary()["fabric"]["faults"] == ["plane:2"]
    with pytest.raises(ConfigError, match=r"setting terminal.slots=3 has no effect"):
        run(tiny.with_overrides({"terminal.slots": "3"}), "plane:1")


def test_a_sweep_of_two_racks() -> None:
    """Each switch of a fabric of which numbers were set; a fault that is always there may be hidden by another."""
    workload = one_collective("all_to_all", size="4KiB", ranks=16)
    found = sweep_faults(RACKS, workload, each="switch", faults=["lanes:gpu9-rack1.nvswitch.0.5=0.5"])
    assert found.summary()["fabric"]["overrides"] == dict(RACKS.overrides)
    outcome = {row.fault.text: row.outcome for row in found.rows}
    assert len(outcome) == RACKS.network().num_switches
    assert outcome["switch:rack1.nvswitch.0.5"] == outcome["switch:spine.0.0"] == "simulated"
    assert outcome["switch:rail.2.0"] == "unreachable"


def test_a_slow_rank_keeps_the_latencies_of_its_protocol() -> None:
    """A third of the copy rate adds twice the time to copy what the rank sends, and nothing to what a protocol adds."""
    fabric, size_bytes = fs.load_fabric("nvl72"), 16 << 20
    workload = fs.collective("all_to_all", size=size_bytes, ranks=4)
    endpoint = fabric.network().endpoint
    assert launch_latencies_ps(endpoint, workload).max() > endpoint.launch_latency_ps
    whole, slow = (
        fs.simulate(fabric, workload, faults=faults).simulated_time_ps for faults in ((), ("slow_rank:0=3",))
    )
    copy_ps = float(endpoint.copy_ps_per_byte) * size_bytes * 3 / 4
    assert slow - whole == pytest.approx(2 * copy_ps, rel=1e-3)
