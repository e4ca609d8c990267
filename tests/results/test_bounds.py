from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
from hypothesis import given, settings

import fabricsim as fs
from fabricsim.engine.driver import run_schedule
from fabricsim.fabrics.network import Endpoint, Network
from fabricsim.fabrics.topologies import Link, Tier
from fabricsim.results.bounds import find_bounds
from fabricsim.results.cuts import find_cuts
from fabricsim.results.routes import Way, find_routes
from fabricsim.results.traffic import message_traffic
from fabricsim.workloads.schedule import Schedule
from tests.oracle.cases import Case, MessageDraft, OperationDraft, TaskDraft, build_schedule, cases
from tests.results.small import LINK, crossbar, linear, mesh, one_operation


def bounds(network: Network, schedule: Schedule, kernel: str = "python") -> tuple[list[int], list[int]]:
    """Earliest and simulated end of every operation."""
    record = run_schedule(network, schedule, terminal_of_rank=linear(schedule), kernel=kernel)
    traffic = message_traffic(network, schedule, linear(schedule))
    end_ps = np.zeros(len(schedule.operations), np.int64)
    np.maximum.at(end_ps, schedule.tasks.operation, record.task_end_ps)
    routes, cuts = find_routes(network), find_cuts(network)
    earliest_ps = find_bounds(network, schedule, traffic, routes, cuts, record.task_begin_ps).end_ps
    return earliest_ps.tolist(), end_ps.tolist()


def test_one_flow_meets_its_bound() -> None:
    """250 B: launch 5,000 + overhead 300 + 310 wire bytes at 1 ps + two channels of 1,000 = 7,610 ps, as simulated."""
    assert bounds(crossbar(), one_operation((0, 1, 250))) == ([7_610], [7_610])


def test_incast_meets_its_bound() -> None:
    """Three packets of 120 B into one terminal: 5,300 + 2,000 + 3 * 120 = 7,660 ps, as simulated."""
    assert bounds(crossbar(), one_operation((1, 0, 100), (2, 0, 100), (3, 0, 100))) == ([7_660], [7_660])


def test_copy_rate_bounds_the_injection() -> None:
    """At 3 ps per byte of payload 250 B take 750 ps to inject.

    The last packet of 50 B starts 150 ps before that and is delivered 2,000 + 70 ps after its start:
    5,300 + 750 - 150 + 2,070 = 7,970 ps, as simulated.
    """
    network = crossbar(copy_ps_per_byte=Fraction(3))
    assert bounds(network, one_operation((0, 1, 250))) == ([7_970], [7_970])


def test_copy_slower_than_the_way_bounds_by_sending() -> None:
    """At 100 ps per byte one byte more is still copied when the last packet has arrived: sent at 5,300 + 25,000 ps."""
    network = crossbar(copy_ps_per_byte=Fraction(100))
    assert bounds(network, one_operation((0, 1, 250))) == ([30_300], [30_300])


def test_ejection_rate_bounds_the_receiver() -> None:
    """At 5 ps per byte of payload 250 B take 1,250 ps to eject, after 5,300 + 2,000 ps: 8,550 ps, as simulated."""
    network = crossbar(ejection_ps_per_byte=Fraction(5))
    assert bounds(network, one_operation((0, 1, 250))) == ([8_550], [8_550])


def test_planes_share_the_work() -> None:
    """Two planes with half the work each: 340 wire bytes / 2 = 170 ps; 5,300 + 170 + 2,000 = 7,470 ps, as simulated."""
    assert bounds(crossbar(planes=2), one_operation((0, 1, 250))) == ([7_470], [7_470])


def test_every_pair_of_a_mesh_has_its_own_bound() -> None:
    """Two flows of 120 and 240 wire bytes leave one terminal at once: the longer takes 1,000 + 240 ps, as simulated."""
    assert bounds(mesh(), one_operation((0, 1, 100), (0, 2, 200))) == ([1_240], [1_240])


def test_nothing_to_move_takes_the_launch() -> None:
    """An operation of an empty and an own message ends when its last task has started: 5,000 ps, as simulated."""
    assert bounds(crossbar(), one_operation((0, 1, 0), (2, 2, 100))) == ([5_000], [5_000])


def test_late_ranks_bound_only_what_they_send() -> None:
    """Rank 0 sends at 0, rank 1 joins at 50,000 ps and sends nothing: the end is bounded by its start, 55,000 ps."""
    draft = OperationDraft([TaskDraft(0), TaskDraft(1, not_before_ps=50_000)], [MessageDraft(0, 1, 250)])
    assert bounds(crossbar(2), build_schedule(2, [draft])) == ([55_000], [55_000])


def test_work_beyond_64_bits_is_exact() -> None:
    """10 GB over a rate of 10^9 / (10^9 + 7) ps per byte: the product of the two passes 2^63, the quotient does not."""
    slow = Link(ps_per_byte=Fraction(10**9, 10**9 + 7), latency_ps=1_000, buffer_bytes=12_000)
    network = mesh(link=slow)
    schedule = one_operation((0, 1, 10**10))
    traffic = message_traffic(network, schedule, linear(schedule))
    begin_ps = np.zeros(4, np.int64)
    work_ps = 12 * 10**9 * 10**9 // (10**9 + 7)
    routes, cuts = find_routes(network), find_cuts(network)
    assert find_bounds(network, schedule, traffic, routes, cuts, begin_ps).end_ps.tolist() == [work_ps + 1_000]


def two_tiers(*, parents: int = 3) -> Network:
    """Pairs of terminals under a low switch at 1 ps per byte and 1,000 ps; above at 2 ps per byte and 3,000 ps."""
    far = Link(ps_per_byte=Fraction(2), latency_ps=3_000, buffer_bytes=12_000)
    return crossbar(tiers=[Tier("low", 2, 1, LINK, LINK), Tier("high", 2, parents, far, far)])


def test_routes_follow_the_tiers() -> None:
    """2,000 ps and two channels under one switch, without a choice; else 8,000 ps and four channels, with one."""
    routes = find_routes(two_tiers())
    near, far = routes.kinds[routes.kind[0, 1]], routes.kinds[routes.kind[0, 2]]
    assert (near.ways, near.has_choice) == ({Way(2_000, ((1, 1), (1, 1)))}, False)
    assert (far.ways, far.has_choice) == ({Way(8_000, ((1, 1), (2, 1), (2, 1), (1, 1)))}, True)
    n, f = routes.kind[0, 1], routes.kind[0, 2]
    own = routes.kind[0, 0]
    assert routes.kind.tolist() == [[own, n, f, f], [n, own, f, f], [f, f, own, n], [f, f, n, own]]
    assert not find_routes(two_tiers(parents=1)).has_choice(np.array([0]), np.array([2]))


def test_a_faster_channel_waits_for_a_slower_one() -> None:
    """One packet of 120 B from the slow tier to the fast last channel: 5,300 + 8,000 + (240 - 120) + 120, as simulated.

    Of 250 B the first packet waits as long, and 310 wire bytes are ejected after its arrival. That the slow tier
    spreads them out is not counted: there the last of 70 wire bytes starts 2 * 240 ps after the first and waits 70 ps.
    """
    assert bounds(two_tiers(), one_operation((0, 2, 100))) == ([13_540], [13_540])
    assert bounds(two_tiers(parents=1), one_operation((0, 2, 250))) == ([13_730], [5_300 + 8_000 + 480 + 70 + 70])


def test_a_packet_between_nodes_meets_its_bound() -> None:
    """CloudMatrix 384: 7 full packets, one per plane, wait 74,286 ps where 28 GB/s meet 56 GB/s again.

    Ideal terminals inject and eject each in ceil(4,160 / 56 GB/s) = 74,286 ps; the ways have 1,050,000 ps of latency.
    """
    network = fs.load_fabric("cloudmatrix384").network(endpoint="ideal")
    time_ps = 1_050_000 + 74_286 + 74_286
    (bound_ps,), (end_ps,) = bounds(network, one_operation((0, 8, 7 * 4_096), ranks=9))
    assert end_ps == time_ps
    assert bound_ps in (time_ps - 1, time_ps)  # the work of 7 alike channels is rounded down


def test_the_first_packet_to_arrive_waits_too() -> None:
    """Incast of three messages of 100 B, two of them over the slow tier: the near one arrives first, after 2,000 ps.

    Without it the first comes after 8,000 + 120 ps: 5,300 + 8,120 + 2 * 120, as simulated.
    """
    assert bounds(two_tiers(), one_operation((1, 0, 100), (2, 0, 100), (3, 0, 100)))[0] == [13_540]
    assert bounds(two_tiers(), one_operation((2, 0, 100), (3, 0, 100))) == ([13_660], [13_660])


def test_the_least_way_bounds_a_packet_with_a_choice() -> None:
    """Where candidates differ, the quickest way for the packet's size counts, not the one of least latency."""
    way = find_routes(two_tiers())
    slow, quick = Way(1_000, ((1, 1), (9, 1), (1, 1))), Way(1_500, ((1, 1), (1, 1), (1, 1)))
    kinds = tuple(kind._replace(ways=frozenset({slow, quick})) for kind in way.kinds)
    routes = dataclasses.replace(way, kinds=kinds)
    one = np.array([0, 0]), np.array([2, 2])
    assert routes.least_delay_ps(*one, np.array([10, 1_000])).tolist() == [1_000 + 80, 1_500]


def test_the_slowest_plane_bounds_what_uses_all() -> None:
    """On one of two planes a link of 4 ps per byte has its half of 16 x 120 wire bytes.

    Into the switch the last packet of 480 ps goes on by the quicker plane, as far as the bound knows.
    """
    whole, schedule = crossbar(planes=2), one_operation((0, 1, 1_600))
    for node, terminal, rest_ps in (
        (whole.channels.source_node, 0, 2_000 + 120 - 480),
        (whole.channels.target_node, 1, 2_000),
    ):
        slow = (whole.channels.plane == 1) & (node == terminal)
        channels = dataclasses.replace(
            whole.channels, ps_per_byte_num=np.where(slow, 4, whole.channels.ps_per_byte_num)
        )
        (bound_ps,), (end_ps,) = bounds(dataclasses.replace(whole, channels=channels), schedule)
        assert bound_ps == 5_300 + 8 * 120 * 4 + rest_ps
        assert bound_ps <= end_ps <= bound_ps + 4 * 120


def chain(*messages: MessageDraft) -> Schedule:
    """One operation of four ranks."""
    return build_schedule(4, [OperationDraft([TaskDraft(rank) for rank in range(4)], messages)])


def test_messages_that_wait_for_messages_are_bounded_one_after_the_other() -> None:
    """250 B to rank 1, on to rank 2 and 3: each takes 300 + 2,000 + 310 ps, as simulated."""
    schedule = chain(
        MessageDraft(0, 1, 250), MessageDraft(1, 2, 250, waits_for=(0,)), MessageDraft(2, 3, 250, waits_for=(1,))
    )
    assert bounds(crossbar(), schedule) == ([5_000 + 3 * 2_610], [5_000 + 3 * 2_610])


def test_what_waits_for_a_sending_comes_after_its_injection() -> None:
    """The second message of rank 0 is ready when the first is sent, 300 + 310 ps after the start, as simulated."""
    schedule = chain(MessageDraft(0, 1, 250), MessageDraft(0, 2, 100, waits_for=(0,)))
    assert bounds(crossbar(), schedule) == ([5_000 + 610 + 2_420], [5_000 + 610 + 2_420])


def test_slots_bound_many_small_messages() -> None:
    """Six messages of one packet of 30 B in two slots, each held for 300 + 30 ps; the last goes on for 2,000 ps.

    The two of a pair are injected one after the other, which is not counted.
    """
    network = crossbar(endpoint=Endpoint(launch_latency_ps=5_000, message_overhead_ps=300, slots=2))
    schedule = one_operation(*((0, peer, 1) for peer in (1, 2, 3, 1, 2, 3)))
    assert bounds(network, schedule) == ([5_000 + 3 * 330 + 2_000], [5_000 + 3 * 330 + 2_000 + 30])


def test_uplinks_bound_what_leaves_a_switch() -> None:
    """Two terminals send 12,000 wire bytes each to the other pair, over one channel of 2 ps per byte from 6,300 ps on.

    Its last packet of 240 ps is counted from its start, and has 3,000 ps to go.
    """
    schedule = one_operation((0, 2, 10_000), (1, 3, 10_000))
    (bound_ps,), (end_ps,) = bounds(two_tiers(parents=1), schedule)
    assert bound_ps == 6_300 + 48_000 - 240 + 3_000
    assert end_ps == 6_300 + 48_000 - 240 + 3_000 + 3_000 + 1_000 + 240
    assert bounds(two_tiers(parents=4), schedule)[0] < [bound_ps]


@settings(max_examples=40)
@given(case=cases())
def test_no_random_case_beats_its_bound(case: Case) -> None:
    """Whatever the rates, buffers, skews and dependencies, no operation ends before its bound."""
    terminals = np.array(case.terminal_of_rank, np.int32)
    record = run_schedule(case.network, case.schedule, terminal_of_rank=terminals, seed=case.seed, kernel="python")
    traffic = message_traffic(case.network, case.schedule, terminals)
    routes, cuts = find_routes(case.network), find_cuts(case.network)
    earliest_ps = find_bounds(case.network, case.schedule, traffic, routes, cuts, record.task_begin_ps).end_ps
    for operation, bound_ps in enumerate(earliest_ps.tolist()):
        assert bound_ps <= record.task_end_ps[case.schedule.tasks.operation == operation].max()
