"""Faults that come at a time: closed forms, what is refused, and what the results say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

import fabricsim as fs
from fabricsim.engine.changes import Change
from fabricsim.engine.driver import RunRecord, run_schedule
from fabricsim.errors import ConfigError, UnreachableError
from fabricsim.fabrics.faults import Fault, apply_faults, parse_fault
from fabricsim.fabrics.network import Endpoint, Network, PacketFormat
from fabricsim.fabrics.topologies import Link, Tier, clos
from fabricsim.results.collected import Collected
from fabricsim.results.estimate import estimate
from fabricsim.results.fault_sweep import sweep_faults
from fabricsim.results.run import one_collective
from fabricsim.workloads.schedule import Schedule
from tests.oracle.cases import Case, MessageDraft, OperationDraft, TaskDraft, build_schedule, cases_with_changes

LANES = "lanes:gpu0-nvswitch.0.0=0.5"


def flow(packets: int) -> Schedule:
    """One message from GPU 0 to GPU 1 of so many full packets on each of the 18 planes of nvl72."""
    message = MessageDraft(0, 1, 18 * 256 * packets)
    return build_schedule(2, [OperationDraft([TaskDraft(0), TaskDraft(1)], [message])])


def run(*faults: str, schedule: Schedule | None = None, **options: object) -> fs.Result:
    """Run on nvl72 with ideal terminals, so that nothing but the wires takes time."""
    workload = flow(50) if schedule is None else schedule
    return fs.simulate("nvl72", workload, faults=faults, endpoint="ideal", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("time_ps", [1, 5_759, 5_760, 5_761, 100_000, 49 * 5_760, 49 * 5_760 + 1])
def test_lanes_lost_during_a_flow(time_ps: int) -> None:
    """A packet is 288 B: 5,760 ps on a link of 50 GB/s, 11,520 ps with half of its lanes; two channels of 250 ns.

    n = ceil(time / 5,760) packets start before the fault, one every 5,760 ps, and those after them every 11,520 ps. The
    switch forwards the last one on a whole link S_slow - S_whole after its head, so that its tail keeps up: that is
    after the fault, so the rate of the channel that it came by is the new one even if it was faster itself.
    """
    before = min(50, -(-time_ps // 5_760))
    last_start_ps = 5_760 * before + 11_520 * (50 - before - 1) if before < 50 else 5_760 * 49
    forwarded_ps = last_start_ps + 250_000 + (11_520 - 5_760)
    assert run(f"{LANES}@{time_ps}ps").simulated_time_ps == forwarded_ps + 250_000 + 5_760


def test_a_fault_after_the_end_changes_nothing() -> None:
    """The digest is that of the run without it, and the answer says that it came too late."""
    whole, late = run(), run(f"{LANES}@1ms")
    assert late.digest == whole.digest
    fabric = late.summary()["fabric"]
    assert fabric["faults"] == fabric["late_faults"] == [f"{LANES}@1000us"]
    assert run(f"{LANES}@100ns").summary()["fabric"]["late_faults"] == []


def test_time_zero_is_no_time() -> None:
    """``@0us`` is the fault without a time; with one above zero nothing is folded."""
    assert parse_fault(f"{LANES}@0us") == parse_fault(LANES)
    zero, plain = run(f"{LANES}@0us"), run(LANES)
    assert zero.digest == plain.digest
    assert zero.info.folding == plain.info.folding
    timed = run(f"{LANES}@1ps")  # one packet per plane has started
    assert timed.digest != plain.digest
    assert timed.info.folding == "faults come at a time"


def test_a_fault_between_two_operations() -> None:
    """A switch that dies while all is silent: the second message goes over 17 planes, as if it had always been dead."""
    drafts = [
        OperationDraft([TaskDraft(0), TaskDraft(1)], [MessageDraft(0, 1, 17 * 18 * 256)]),
        OperationDraft([TaskDraft(0, not_before_ps=10**7), TaskDraft(1)], [MessageDraft(0, 1, 17 * 18 * 256)]),
    ]
    schedule = build_schedule(2, drafts)
    timed = run("switch:nvswitch.0.3@5us", schedule=schedule)
    whole, dead = run(schedule=schedule), run("switch:nvswitch.0.3", schedule=schedule)
    times = [[row["time_ps"] for row in result.op_rows()] for result in (timed, whole, dead)]
    assert times[0] == [times[1][0], times[2][1]]
    assert times[1] != times[2]
    carried = timed.record.channel_packets[timed.network.channels.source_node == 0]
    assert carried.tolist() == [17 + 18] * 3 + [17] + [17 + 18] * 14


def spines(num_spines: int, routing: str) -> Network:
    """Two leaves of two GPUs under some spines; a packet of 100 B takes 1 ns on a GPU's link, 10 ns to or from a spine.

    The latency of each channel is 1 ns.
    """
    fast, slow = Link(10, 1_000, 1 << 20), Link(100, 1_000, 1 << 20)
    return clos(
        name="spines",
        terminal_name="gpu",
        tiers=[Tier("leaf", 2, 1, fast, fast), Tier("spine", 2, num_spines, slow, slow)],
        num_planes=1,
        packet=PacketFormat("plain", 100, 0, 1, 100),
        endpoint=Endpoint(launch_latency_ps=0, message_overhead_ps=0, slots=4),
        routing=routing,
        copy_ps_per_byte=None,
        ejection_ps_per_byte=None,
    )


def send(network: Network, size_bytes: int, faults: list[tuple[int, Fault]]) -> RunRecord:
    """Send one message from GPU 0 to GPU 2, with faults at their times [ps]."""
    terminals = np.arange(4, dtype=np.int32)
    drafts = [OperationDraft([TaskDraft(rank) for rank in range(4)], [MessageDraft(0, 2, size_bytes)])]
    changes = [
        Change(time_ps, apply_faults(network, [other for at, other in faults if at <= time_ps], terminals))
        for time_ps, _ in faults
    ]
    return run_schedule(network, build_schedule(4, drafts), terminal_of_rank=terminals, changes=changes)


@pytest.mark.parametrize("routing", ["spray", "adaptive"])
def test_packets_that_wait_for_a_dead_channel_are_routed_again(routing: str) -> None:
    """10 packets over 2 spines, the link to one of which dies at 12.5 ns: what waits for it queues behind the others.

    Heads reach the leaf at 1, 2, ... 10 ns, in turn for each spine. To spine 0 two have started by 12.5 ns, at 1 and 11
    ns; to spine 1 too, at 2 and 12 ns. The three that wait for spine 1 go behind the three that wait for spine 0: it
    carries 2 + 6 packets, back to back. The last one starts 70 ns after the first, needs 1 ns to the spine and 1 ns to
    the leaf, waits 10 - 1 ns there for its tail to keep up, needs 1 ns to the GPU, and 1 ns to be ejected.
    """
    network = spines(2, routing)
    record = send(network, 1_000, [(12_500, Fault("link", "leaf.0.0-spine.1.0"))])
    up = [
        int(np.flatnonzero((network.channels.source_node == 4) & (network.channels.target_node == spine))[0])
        for spine in np.flatnonzero([name.startswith("spine") for name in network.node_names]).tolist()
    ]
    assert record.channel_packets[up].tolist() == [8, 2]
    assert int(record.message_complete_ps[0]) == 1_000 + 70_000 + 2_000 + 9_000 + 1_000 + 1_000


def test_adaptive_routing_sees_the_queues_when_it_routes_again() -> None:
    """With two spines left packets that lose theirs go where less waits, so in turn."""
    network = spines(3, "adaptive")
    record = send(network, 3_000, [(10_500, Fault("link", "leaf.0.0-spine.2.0"))])
    up = (network.channels.source_node == 4) & (network.channels.target_node >= 6)
    assert sorted(record.channel_packets[up].tolist()) == [1, 14, 15]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("link:gpu0-nvswitch.0.4@100ns", r"at 100ns, gpu0 to gpu1 still has bytes for plane 4, where no way is left"),
        ("switch:nvswitch.0.4@300ns", r"at 300ns, gpu0 to gpu1 has a packet at or before nvswitch.0.4 \(plane 4\)"),
    ],
)
def test_bytes_under_way_cannot_be_sent_again(fault: str, words: str) -> None:
    """The error names the pair, the plane and the time: of packets not sent, and at 300 ns of some that still fly."""
    with pytest.raises(UnreachableError, match=words) as caught:
        run(fault)
    assert caught.value.pair == ("gpu0", "gpu1")


def test_a_pair_without_planes_at_its_time() -> None:
    """All planes of the second message are dead when it would become ready; the first one is through."""
    drafts = [
        OperationDraft([TaskDraft(0), TaskDraft(1)], [MessageDraft(0, 1, 4096)]),
        OperationDraft([TaskDraft(0, not_before_ps=10**7), TaskDraft(1)], [MessageDraft(0, 1, 4096)]),
    ]
    planes = [f"plane:{plane}@5us" for plane in range(18)]
    with pytest.raises(UnreachableError, match="at 5us, gpu0 to gpu1 has no way any more"):
        run(*planes, schedule=build_schedule(2, drafts))
    run(*planes, schedule=build_schedule(2, drafts[:1]))


@pytest.mark.parametrize(
    ("fabric", "options", "algorithm", "link", "words"),
    [
        ("nvl72", {}, "sharp", "gpu0-nvswitch.0.0", "in-network operations: leave out its time, or use a ring"),
        (
            "ub-mesh-1024",
            {"routing": "ugal"},
            "ring",
            "io.0-io.1",
            "detours: leave out its time, or use another routing",
        ),
    ],
)
def test_what_cannot_change_amid_a_run(
    fabric: str, options: dict[str, str], algorithm: str, link: str, words: str
) -> None:
    """A fault at a time is refused where the rules for it do not say what would happen."""
    schedule = fs.collective("all_reduce", size="64KiB", ranks=4, algorithm=algorithm)
    with pytest.raises(ConfigError, match=f"a fault at a given time cannot meet {words}"):
        fs.simulate(fabric, schedule, faults=[f"lanes:{link}=0.5@1us"], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (["slow_rank:0=2.0@1us"], "a rank has slow_rank from its start on; leave @1us out"),
        (["arrival_skew:0=2us@1us"], "a rank has arrival_skew from its start on"),
        (["plane:1@soon"], "soon"),
        (["plane:1@"], "fault 'plane:1@'"),
        ([f"{LANES}@1us", "lanes:gpu0-nvswitch.0.0=0.25@2us"], "given lanes twice, =0.5 and =0.25; give it once"),
        (["plane:1@1us", "plane:1"], "plane:1 is given twice"),
        (["link:gpu0-nvswitch.0.0@1us", "plane:0"], r"link:gpu0-nvswitch\.0\.0@1us has no effect on this run"),
        (["link:gpu40-nvswitch.0.0@1us"], r"link:gpu40-nvswitch\.0\.0@1us has no effect on this run"),
        (["switch:nvswitch.0.99@1us"], "has no node 'nvswitch.0.99'"),
    ],
)
def test_what_cannot_be_meant_is_refused(faults: list[str], words: str) -> None:
    """Before the run, and naming the fault."""
    with pytest.raises(ConfigError, match=words):
        run(*faults)


def test_a_fault_before_another_at_the_same_place_counts() -> None:
    """Lanes that are lost before the plane dies have an effect, and so has a plane that dies later."""
    run(f"{LANES}@100ns", "plane:0@1ms")


def test_words_and_files(tmp_path: Path) -> None:
    """Times are written in the largest unit that is whole; a file holds the same words, Python the same fields."""
    path = tmp_path / "faults.toml"
    path.write_text(f'format = "fabricsim.fault_list/1"\nfaults = ["{LANES} @ 0.5us"]\n')
    assert parse_fault("plane:3@12us") == Fault("plane", "3", time_ps=12 * 10**6)
    assert parse_fault("plane:3@1.5ns").text == "plane:3@1500ps"
    assert run(str(path)).summary()["fabric"]["faults"] == [f"{LANES}@500ns"]


def test_a_sweep_beside_a_fault_at_a_time(tiny: fs.FabricSpec) -> None:
    """A switch that would cut a pair apart, once the others have died at their time, is unreachable and no error."""
    workload = one_collective("all_to_all", size="64KiB", ranks=4)
    sweep = sweep_faults(tiny, workload, each="switch", faults=["link:gpu0-nvswitch.0.0@1us"])
    assert {row.fault.text: row.outcome for row in sweep.rows} == {
        "switch:nvswitch.0.1": "unreachable",
        "switch:nvswitch.0.0": "simulated",
    }


def test_an_estimate_counts_without_what_comes_later(tiny: fs.FabricSpec) -> None:
    """It knows that nothing is folded, names the faults, and says that they are left out of the count."""
    workload = one_collective("all_to_all", size="64KiB", ranks=4)
    plain = estimate(tiny, workload, fold=False)
    timed = estimate(tiny, workload, faults=["link:gpu0-nvswitch.0.0@1us"])
    assert (timed.packet_hops, timed.packet_hops_simulated) == (plain.packet_hops, plain.packet_hops_simulated)
    assert timed.folding == "faults come at a time"
    assert [fault.text for fault in timed.faults] == ["link:gpu0-nvswitch.0.0@1us"]


@settings(max_examples=150)
@given(case=cases_with_changes())
def test_checks_and_bounds_hold(case: Case) -> None:
    """The self-checks of a result stripe and cut by the planes of each message's time, and no bound is beaten."""
    terminals = np.array(case.terminal_of_rank, np.int32)
    record = run_schedule(case.network, case.schedule, terminal_of_rank=terminals, seed=case.seed, changes=case.changes)
    collected = Collected.of(case.network, case.schedule, terminals, record, case.changes)
    collected.finish(record)
    healthy = replace(case, changes=())
    if not case.changes or case.changes[0].time_ps > collected.simulated_ps:
        again = run_schedule(healthy.network, healthy.schedule, terminal_of_rank=terminals, seed=healthy.seed)
        assert again.message_complete_ps.tolist() == record.message_complete_ps.tolist()
