"""In-network operations (docs/physics.md, section 14): times worked out by hand, rates, and what is refused.

By hand means, as in tests/oracle/test_oracle.py: a byte takes 10 ps, 100 payload bytes make a full packet without
overhead, so S = 1000 ps; on the way up a link takes 3000 ps, on the way down 5000 ps.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import fabricsim as fs
from fabricsim.engine.check import check
from fabricsim.engine.driver import RunRecord, Simulation, run_schedule
from fabricsim.engine.layout import NONE, Code
from fabricsim.errors import ConfigError, SelfCheckError, TraceError
from fabricsim.fabrics import FabricSpec
from fabricsim.fabrics.network import Network
from fabricsim.fabrics.topologies import Link
from fabricsim.workloads.schedule import Groups, Messages, Schedule
from tests.oracle.cases import MessageDraft, OperationDraft, TaskDraft, build_schedule
from tests.oracle.test_oracle import TEN, fabric, star

MEMBERS = 3


def reducing(ps_per_byte: int = 0, up: Link | None = None, num_planes: int = 1) -> Network:
    """A switch per plane above three terminals, which takes so long per byte that it reduces."""
    tier = star(MEMBERS) if up is None else star(MEMBERS, up=up)
    return replace(fabric(tier, num_planes=num_planes), reduction_ps_per_byte=Fraction(ps_per_byte))


def run(network: Network, *messages: MessageDraft, groups: list[tuple[int, int, int]]) -> RunRecord:
    """Simulate one operation over all three ranks."""
    tasks = [TaskDraft(rank) for rank in range(MEMBERS)]
    schedule = build_schedule(MEMBERS, [OperationDraft(tasks, messages, groups)])
    return run_schedule(network, schedule, terminal_of_rank=np.arange(MEMBERS, dtype=np.int32))


def multicast(size_bytes: int) -> list[MessageDraft]:
    """From rank 0 to all, itself first."""
    return [MessageDraft(0, rank, size_bytes) for rank in range(MEMBERS)]


def reduction(size_bytes: int) -> list[MessageDraft]:
    """One round."""
    return [MessageDraft(rank, rank, size_bytes) for rank in range(MEMBERS)]


def test_a_multicast_is_injected_once_and_delivered_everywhere() -> None:
    """Head at the switch at 3000, all copies start at once, heads at the terminals at 8000, ejected for S: 9000."""
    record = run(reducing(), *multicast(100), groups=[(0, 3, 1)])
    assert record.message_complete_ps.tolist() == [9_000] * 3
    assert record.message_ready_ps.tolist() == record.message_first_injection_ps.tolist() == [0] * 3
    assert record.task_end_ps.tolist() == [9_000] * 3
    assert sorted(record.channel_packets.tolist()) == [0, 0, 1, 1, 1, 1]
    assert (record.packets, record.packet_hops) == (3, 4)


def test_a_reduction_waits_for_the_last_carrier() -> None:
    """Each carrier sends three packets at 0, S and 2 S; the k-th of all three become one, which goes to rank k.

    Rank 2's first packet comes behind its 100 B to rank 0, so all of its own are S later, and so are the results.
    """
    record = run(reducing(), MessageDraft(2, 0, 100), *reduction(100), groups=[(1, 3, 3)])
    # The round robin serves the message, the carrier's first packet, and then only the carrier.
    assert record.message_complete_ps[1:].tolist() == [10_000, 11_000, 12_000]
    assert record.message_first_injection_ps.tolist() == [0, 0, 0, 1_000]
    assert record.packets == 1 + 3
    assert record.packet_hops == 2 + 9 + 3


def test_packets_of_a_group_are_alike() -> None:
    """150 B on one plane are two packets of 75 B, no matter what fits: wires carry 6 * 75 B up and 2 * 75 B down."""
    record = run(reducing(), *reduction(150), groups=[(0, 3, 3)])
    assert sorted(record.channel_wire_bytes.tolist()) == [150] * 3 + [450] * 3


def test_the_room_of_a_multicast_returns_with_its_last_copy() -> None:
    """The way to rank 2 takes 50 ps per byte, and the buffer before the switch holds one packet.

    The last copy of the first packet has left at 3000 + 5000; the room is usable 3000 later, and then the second one
    starts: it could have at 1000. It is at rank 2, whose wire is free, at 14000 + 5000 and ejected for 5000.
    """
    network = reducing(up=Link(TEN, 3_000, 100))
    channels = network.channels
    slow = np.where(channels.target_node == 2, 50, channels.ps_per_byte_num)
    network = replace(network, channels=replace(channels, ps_per_byte_num=slow))
    record = run(network, *multicast(200), groups=[(0, 3, 1)])
    assert record.message_complete_ps.tolist() == [20_000, 20_000, 24_000]
    assert record.channel_credit_stall_ps.max() == 11_000 - 1_000


@pytest.mark.parametrize("packets", [1, 2, 7])
def test_a_slow_reducer_sets_the_rate_exactly(packets: int) -> None:
    """Each of n = 3 outputs reduces k = 3 packets of 100 B in 3 * 100 * 3 * 10 ps = 9000 ps.

    The first packets for rank j are there at 3000 + j S, those after them come every 3 S and find the reducer busy. A
    packet starts once its last byte cannot come too late, 9000 - S after its reducer began, and is delivered 5000 + S
    later.
    """
    record = run(reducing(ps_per_byte=10), *reduction(100 * packets), groups=[(0, 3, 3)])
    last_begins_ps = 3_000 + 9_000 * (packets - 1)
    assert record.message_complete_ps.tolist() == [last_begins_ps + 1_000 * j + 8_000 + 6_000 for j in range(3)]


def test_members_meet_on_the_same_planes() -> None:
    """A message of one packet uses one of the planes, and then all carriers the same one."""
    for index in range(6):
        others = [MessageDraft(0, 1, 0)] * index  # another index is another first plane
        record = run(reducing(num_planes=4), *others, *reduction(100), groups=[(index, 3, 3)])
        assert np.count_nonzero(record.channel_packets) == 6


def bus_bandwidth_GBps(algorithm: str, fabric_name: str, **settings: str) -> tuple[float, float]:
    """The bus bandwidth of an all_reduce of 64 MiB on 8 GPUs with ideal endpoints, and its time in us."""
    spec = fs.load_fabric(fabric_name).with_overrides(settings)
    schedule = fs.collective("all_reduce", size="64MiB", ranks=8, algorithm=algorithm)
    result = fs.simulate(spec, schedule, endpoint="ideal")
    (row,) = result.ops.to_pylist()
    return row["busbw_GBps"], row["time_ps"] / 1e6


@pytest.mark.parametrize("name", ["hgx-h100", "nvl72"])
def test_an_all_reduce_sends_a_ninth_more_than_its_buffer(name: str) -> None:
    """A GPU of 8 sends its buffer and the sums of an eighth of it: S (1 + 1/8) payload bytes, at 256/288 of the wire.

    A ring sends 2 S 7/8, so its bus bandwidth cannot exceed the payload rate of the links; this one's does.
    """
    link_GBps = {"hgx-h100": 450, "nvl72": 900}[name]
    busbw_GBps, time_us = bus_bandwidth_GBps("sharp", name, **{"tier.nvswitch.reduction": "unlimited"})
    assert time_us == pytest.approx(2**26 * 9 / 8 * 288 / 256 / link_GBps / 1e3, rel=0.02)
    assert busbw_GBps > link_GBps * 256 / 288 > bus_bandwidth_GBps("ring", name)[0]


def test_the_reduction_rate_of_the_chips_limits_nvl72() -> None:
    """Each of 72 outputs reduces 25 GB/s of inputs, so a GPU of 8 can have its buffer of 18 planes at 450 GB/s."""
    _, time_us = bus_bandwidth_GBps("sharp", "nvl72")
    assert time_us == pytest.approx(2**26 / 450 / 1e3, rel=0.02)


def test_a_reduction_rate_that_nothing_uses_is_no_setting() -> None:
    """--set of it is refused where nothing is reduced, and where it limits neither before nor after."""
    schedule = fs.collective("all_gather", size="1MiB", ranks=8, algorithm="sharp")
    spec = fs.load_fabric("nvl72").with_overrides({"tier.nvswitch.reduction": "10 GB/s"})
    with pytest.raises(ConfigError, match=r"tier\.nvswitch\.reduction.* has no effect"):
        fs.simulate(spec, schedule)
    reduces = fs.collective("reduce_scatter", size="1MiB", ranks=8, algorithm="sharp")
    assert fs.simulate(spec, reduces).simulated_time_ps > fs.simulate("nvl72", reduces).simulated_time_ps
    text = fs.load_fabric("hgx-h100").to_toml().replace('"200 GB/s"', '"9 TB/s"')
    faster = FabricSpec.from_toml(text, origin="faster").with_overrides({"tier.nvswitch.reduction": "unlimited"})
    with pytest.raises(ConfigError, match="has no effect"):
        fs.simulate(faster, reduces)


def test_switches_of_one_tier_alone_reduce() -> None:
    """A file that gives a tier of several a reduction rate is refused."""
    text = fs.load_fabric("cloudmatrix384").to_toml()
    one = '{ value = "1 TB/s", source = "none", evidence = "assumed" }'
    with pytest.raises(ConfigError, match=r"tier\.l1\.reduction: stands with a single tier"):
        FabricSpec.from_toml(
            text.replace("[tier.l1.children]", f"[tier.l1]\nreduction = {one}\n[tier.l1.children]"), origin="two"
        )


def test_fabrics_that_cannot_say_so() -> None:
    """Switches without a reduction rate, several racks, and members that do not meet on every plane are refused."""
    schedule = fs.collective("all_gather", size="1MiB", ranks=8, algorithm="sharp")
    with pytest.raises(ConfigError, match="cloudmatrix384 do not reduce or copy"):
        fs.simulate("cloudmatrix384", schedule)
    with pytest.raises(ConfigError, match="do not reduce or copy packets, which none do between racks"):
        fs.simulate(fs.load_fabric("nvl72").with_overrides({"scale_out.racks": "2"}), schedule)
    with pytest.raises(ConfigError, match="same switch of every plane"):
        fs.simulate("nvl72", schedule, faults=["link:gpu0-nvswitch.0.0"])


def test_a_dead_switch_leaves_the_other_planes() -> None:
    """Without one of 18 planes an all_gather takes 18/17 of the time, within what packets of other sizes change."""
    schedule = fs.collective("all_gather", size="64MiB", ranks=8, algorithm="sharp")
    whole = fs.simulate("nvl72", schedule, endpoint="ideal")
    broken = fs.simulate("nvl72", schedule, endpoint="ideal", faults=["switch:nvswitch.0.3"])
    assert broken.simulated_time_ps / whole.simulated_time_ps == pytest.approx(18 / 17, rel=0.01)


@pytest.mark.parametrize("op", ["all_reduce", "all_gather", "reduce_scatter", "broadcast"])
def test_folding_changes_no_figure(op: str) -> None:
    """Planes that are alike carry alike."""
    schedule = fs.collective(op, size="700KiB", ranks=5, algorithm="sharp")
    folded = fs.simulate("hgx-h100", schedule)
    apart = fs.simulate("hgx-h100", schedule, fold=False, threads=2)
    assert folded.info.folded
    assert folded.digest == apart.digest
    assert folded.record.channel_busy_ps.tolist() == apart.record.channel_busy_ps.tolist()
    assert folded.record.packet_latency_counts.tolist() == apart.record.packet_latency_counts.tolist()


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ("relays", "left"),
        ("relays", "holder"),
        ("merges", "count"),
        ("merges", "time_ps"),
        ("contributions", "packets"),
    ],
)
def test_check_notices_a_wrong_number(table: str, field: str) -> None:
    """Any field of in-network operations that a later step counts on, changed in a row in use, breaks an invariant.

    Rank 2 is late, so the packets of the others wait for its own, while a multicast is on its way.
    """
    tasks = [TaskDraft(0), TaskDraft(1), TaskDraft(2, not_before_ps=50_000)]
    draft = OperationDraft(tasks, [*reduction(500), *multicast(500)], [(0, 3, 3), (3, 3, 1)])
    run = Simulation(reducing(), with_groups(draft), np.arange(3, dtype=np.int32))
    while not (run.state.merges["count"].any() and len(copies(run))):
        assert run.advance(1) == Code.SLICE
    check(run.state, run.network)
    rows = getattr(run.state, table)
    in_use = {
        "relays": run.state.relays["holder"][copies(run)] if field == "left" else copies(run),
        "merges": np.flatnonzero(run.state.merges["count"]),
        "contributions": np.flatnonzero(rows[field]) if table == "contributions" else None,
    }[table]
    rows[field][in_use[-1]] += 1
    with pytest.raises(SelfCheckError):
        check(run.state, run.network)


def copies(run: Simulation) -> Any:
    """Rows of the packets that a switch made and that have not started."""
    return np.flatnonzero(run.state.relays["holder"] != NONE)


def with_groups(*operations: OperationDraft) -> Schedule:
    """A schedule put together by hand, over three ranks."""
    return build_schedule(MEMBERS, operations)


def test_reductions_that_may_meet_are_refused() -> None:
    """Two operations that reduce for one rank at once would stop each other; one after the other they do not."""

    def draft(*after: int) -> OperationDraft:
        return OperationDraft([TaskDraft(rank, after=after) for rank in range(3)], reduction(5_000), [(0, 3, 3)])

    with pytest.raises(
        TraceError, match=r"operation 1 \(operation1\) and operation 0 .* may both reduce .* for rank 0"
    ):
        fs.simulate("nvl72", with_groups(draft(), draft()))
    result = fs.simulate("nvl72", with_groups(draft(), draft(0), draft(1)))
    ends_ps = [row["end_ps"] for row in result.ops.to_pylist()]
    assert all(before < after for before, after in pairwise(ends_ps))
    twice = OperationDraft([TaskDraft(rank) for rank in range(3)], reduction(100) * 2, [(0, 3, 3), (3, 3, 3)])
    with pytest.raises(TraceError, match="two reductions in the network at one rank"):
        fs.simulate("nvl72", with_groups(twice))


@pytest.mark.parametrize(
    ("messages", "group", "complaint"),
    [
        (multicast(100), (0, 4, 1), "at least 2 messages"),
        (multicast(100), (0, 1, 1), "at least 2 messages"),
        (multicast(100), (0, 3, 2), "some times as many as carriers"),
        ([*multicast(100)[:2], MessageDraft(0, 2, 99)], (0, 3, 1), "one size above 0"),
        (multicast(0), (0, 3, 1), "one size above 0"),
        (multicast(100)[1:], (0, 2, 1), "to itself first"),
        (reduction(100), (0, 3, 1), "from one task"),
        (multicast(100), (0, 3, 3), "from each task to itself"),
        ([*reduction(100)[:2], *reduction(100)[:1]], (0, 3, 3), "twice in one group"),
    ],
)
def test_a_group_that_is_none_is_refused(
    messages: list[MessageDraft], group: tuple[int, int, int], complaint: str
) -> None:
    """Whatever is wrong with a group that was put together by hand is said before the run."""
    draft = OperationDraft([TaskDraft(rank) for rank in range(3)], messages, [group])
    with pytest.raises(TraceError, match=complaint):
        fs.simulate("nvl72", with_groups(draft))


def test_a_message_is_carried_by_itself_without_groups() -> None:
    """What the tables say of groups is nothing where there are none."""
    messages = build_schedule(3, [OperationDraft([TaskDraft(rank) for rank in range(3)], reduction(5))]).messages
    assert isinstance(messages, Messages)
    assert len(messages.groups) == len(Groups.none()) == 0
    assert messages.carrier.tolist() == [0, 1, 2]
    assert messages.toward_task is messages.target_task
