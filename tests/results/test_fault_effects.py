"""What faults do to a run, and which of them are refused."""

from __future__ import annotations

import numpy as np
import pytest

import fabricsim as fs
from fabricsim.errors import ConfigError, UnreachableError
from fabricsim.results.fault_effects import IdleFaultError
from fabricsim.results.result import Result


def run(fabric: fs.FabricSpec | str, *faults: str, ranks: int = 4, size: str = "64KiB", **options: object) -> Result:
    """An all-to-all with faults."""
    return fs.simulate(fabric, fs.collective("all_to_all", size=size, ranks=ranks), faults=faults, **options)  # type: ignore[arg-type]


def test_dead_channels_carry_nothing_and_reports_say_so(tiny: fs.FabricSpec) -> None:
    """One of two planes dead: half of the channels, which utilization leaves out; the faults stand in the summary."""
    whole, half = run(tiny), run(tiny, "switch:nvswitch.0.1")
    channels = half.channels.to_pydict()
    dead = np.array(channels["dead"])
    assert dead.tolist() == [plane == 1 for plane in channels["plane"]]
    assert not np.array(channels["packets"])[dead].any()
    assert [used is None for used in channels["utilization"]] == dead.tolist()
    fabric = half.summary()["fabric"]
    assert (fabric["faults"], fabric["dead_channels"]) == (["switch:nvswitch.0.1"], 8)
    assert (whole.summary()["fabric"]["faults"], whole.summary()["fabric"]["dead_channels"]) == ([], 0)
    assert fabric["spec_sha256"] == whole.summary()["fabric"]["spec_sha256"]
    assert half.digest != whole.digest
    mean = half.record.channel_busy_ps[channels["channel_class"] == np.array("gpu-nvswitch")].sum() / 4
    assert half.utilization["gpu-nvswitch"].mean == pytest.approx(mean / half.simulated_time_ps)


@pytest.mark.parametrize(
    ("faults", "pair"),
    [
        (["plane:0", "plane:1"], "from gpu0 to gpu1"),
        (["link:gpu2-nvswitch.0.0", "link:gpu2-nvswitch.0.1"], "from gpu0 to gpu2"),
        (["link:gpu2-nvswitch.0.0", "link:gpu3-nvswitch.0.1"], "from gpu2 to gpu3"),
    ],
)
def test_pairs_that_are_cut_apart_are_named(tiny: fs.FabricSpec, faults: list[str], pair: str) -> None:
    """A usage error with the first pair that has no way."""
    with pytest.raises(UnreachableError, match=f"no way {pair}"):
        run(tiny, *faults)


def test_pairs_that_the_run_does_not_need_may_be_cut_apart(tiny: fs.FabricSpec) -> None:
    """GPU 2 lost both links, but has no rank; its second link is the first one's remainder and no packet's way."""
    faults = ["plane:1", "link:gpu2-nvswitch.0.0"]
    with pytest.raises(UnreachableError):
        run(tiny, *faults, ranks=3)
    with pytest.raises(IdleFaultError, match=r"link:gpu2-nvswitch\.0\.0 has no effect on this run"):
        run(tiny, *faults, ranks=2)


@pytest.mark.parametrize(
    ("fabric", "faults"),
    [
        ("cloudmatrix384", ["switch:l2.3.6"]),  # 4 ranks sit in one node
        ("cloudmatrix384", ["link:npu4-l1.0.2"]),
        ("cloudmatrix384-mesh", ["link:npu3-npu4"]),
        ("cloudmatrix384", ["plane:4", "link:npu3-l1.0.4"]),  # dead already
        ("nvl72", ["slow_rank:1=2"]),
    ],
)
def test_faults_that_nothing_meets_are_refused(fabric: str, faults: list[str]) -> None:
    """No packet would come there, or the rank has nothing that could be slow: the last fault is named."""
    options = {"endpoint": "ideal"} if fabric == "nvl72" else {}
    with pytest.raises(IdleFaultError, match=f"fault {faults[-1].split('=')[0]}.* has no effect"):
        run(fabric, *faults, **options)


@pytest.mark.parametrize(
    ("faults", "idle"),
    [
        (["lanes:gpu0-nvswitch.0.1=0.5", "link:gpu0-nvswitch.0.1"], "lanes:gpu0-nvswitch.0.1=0.5"),
        (["link:gpu0-nvswitch.0.1", "lanes:gpu0-nvswitch.0.1=0.5"], "lanes:gpu0-nvswitch.0.1=0.5"),
        (["link:gpu0-nvswitch.0.1", "plane:1"], "link:gpu0-nvswitch.0.1"),
        (["plane:1", "link:gpu0-nvswitch.0.1"], "link:gpu0-nvswitch.0.1"),
    ],
)
def test_faults_that_others_hide_are_refused(tiny: fs.FabricSpec, faults: list[str], idle: str) -> None:
    """In either order: what is slow or dead where another fault leaves no packet."""
    with pytest.raises(IdleFaultError, match=f"fault {idle} has no effect"):
        run(tiny, *faults)


def test_ranks_that_are_hardly_slow_are_refused() -> None:
    """A slow rank counts from where one of its packets takes longer: rounding and faster wires hide less."""
    with pytest.raises(IdleFaultError, match=r"slow_rank:3=1\.0000001 has no effect .* no copies or compute gaps"):
        run("nvl72", "slow_rank:3=1.0000001")
    assert run("nvl72", "slow_rank:3=2").digest != run("nvl72").digest


def test_ranks_that_there_are_not_are_refused(tiny: fs.FabricSpec) -> None:
    """A fault of rank 4 of 4."""
    with pytest.raises(ConfigError, match="the run has no rank 4; its ranks are 0 to 3"):
        run(tiny, "arrival_skew:4=5us")


def test_a_late_rank_puts_the_run_off_by_its_skew(tiny: fs.FabricSpec) -> None:
    """The operation begins when its last rank arrives, 5 us later, and others' data wait for nobody."""
    whole, late = run(tiny), run(tiny, "arrival_skew:2=5us")
    begins = late.tasks.to_pydict()
    assert begins["begin_ps"] == [5_000_000 * (rank == 2) for rank in begins["rank"]]
    assert 5_000_000 < late.simulated_time_ps <= whole.simulated_time_ps + 5_000_000


def test_a_slow_rank_computes_slowly_in_a_replay(tiny: fs.FabricSpec, small_trace: fs.Trace) -> None:
    """The recorded gap before the second operation takes three times as long at rank 1, and rank 0 waits for it."""
    whole = fs.replay(small_trace, tiny).tasks.to_pydict()["begin_ps"]
    slow = fs.replay(small_trace, tiny, faults=["slow_rank:1=3"]).tasks.to_pydict()["begin_ps"]
    assert slow[-1] > whole[-1]


@pytest.mark.parametrize(
    ("endpoint", "fault", "words"),
    [
        ("fitted", "switch:nvswitch.0.1", "4 planes as 2"),
        ("fitted", "link:gpu2-nvswitch.0.3", "4 planes as 2"),
        ("fitted", "slow_rank:2=9", "4 planes as 1"),
        ("ideal", "switch:nvswitch.0.1", "4 planes as 2"),
        ("ideal", "link:gpu2-nvswitch.0.3", "latencies are recorded together"),
    ],
)
def test_a_faulty_plane_is_a_class_of_its_own_and_the_rest_folds(endpoint: str, fault: str, words: str) -> None:
    """Digest and all figures are those of the run that is not folded; planes that do not run apart may not fold."""
    tables = fs.load_fabric("nvl72").model_dump(exclude_none=True)
    tables["topology"]["planes"]["value"] = 4
    tables["tier"]["nvswitch"]["children"]["value"] = 4
    fabric = fs.FabricSpec(**tables)
    folded = run(fabric, fault, endpoint=endpoint)
    whole = run(fabric, fault, endpoint=endpoint, fold=False)
    assert folded.digest == whole.digest
    assert folded.channels == whole.channels
    assert folded.packet_latency == whole.packet_latency
    assert folded.info.folding.endswith(words)
