from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings

from fabricsim.engine.driver import run_schedule
from fabricsim.fabrics.network import Network
from fabricsim.fabrics.topologies import Link, Tier
from fabricsim.results.bounds import earliest_ends_ps, route_latencies_ps
from fabricsim.results.traffic import message_traffic
from fabricsim.workloads.schedule import Schedule
from tests.oracle.cases import Case, MessageDraft, OperationDraft, TaskDraft, build_schedule, cases
from tests.results.small import LINK, crossbar, linear, mesh, one_operation


def bounds(network: Network, schedule: Schedule) -> tuple[list[int], list[int]]:
    """Earliest and simulated end of every operation."""
    record = run_schedule(network, schedule, terminal_of_rank=linear(schedule), kernel="python")
    traffic = message_traffic(network, schedule, linear(schedule))
    end_ps = np.zeros(len(schedule.operations), np.int64)
    np.maximum.at(end_ps, schedule.tasks.operation, record.task_end_ps)
    return earliest_ends_ps(network, schedule, traffic, record.task_begin_ps).tolist(), end_ps.tolist()


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
    assert earliest_ends_ps(network, schedule, traffic, begin_ps).tolist() == [work_ps + 1_000]


def test_route_latencies_follow_the_tiers() -> None:
    """Two tiers of 1,000 and 3,000 ps per channel: 2,000 ps under one switch, 8,000 ps between two."""
    far = Link(ps_per_byte=Fraction(2), latency_ps=3_000, buffer_bytes=12_000)
    network = crossbar(tiers=[Tier("low", 2, 1, LINK, LINK), Tier("high", 2, 3, far, far)])
    near_ps, far_ps = 2_000, 8_000
    assert route_latencies_ps(network).tolist() == [
        [0, near_ps, far_ps, far_ps],
        [near_ps, 0, far_ps, far_ps],
        [far_ps, far_ps, 0, near_ps],
        [far_ps, far_ps, near_ps, 0],
    ]


@settings(max_examples=40)
@given(case=cases())
def test_no_random_case_beats_its_bound(case: Case) -> None:
    """Whatever the rates, buffers, skews and dependencies, no operation ends before its bound."""
    terminals = np.array(case.terminal_of_rank, np.int32)
    record = run_schedule(case.network, case.schedule, terminal_of_rank=terminals, seed=case.seed, kernel="python")
    traffic = message_traffic(case.network, case.schedule, terminals)
    earliest_ps = earliest_ends_ps(case.network, case.schedule, traffic, record.task_begin_ps)
    for operation, bound_ps in enumerate(earliest_ps.tolist()):
        assert bound_ps <= record.task_end_ps[case.schedule.tasks.operation == operation].max()
