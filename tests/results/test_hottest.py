from __future__ import annotations

import numpy as np
from hypothesis import given, settings

from fabricsim.engine.driver import RunRecord, run_schedule
from fabricsim.results.hottest import crossing, hottest_in_planes
from fabricsim.results.traffic import message_traffic
from tests.oracle.cases import Case, random_cases, synchronised_cases
from tests.results.small import crossbar, finished, linear, one_operation


def run(case: Case) -> RunRecord:
    """Simulate a case."""
    terminals = np.array(case.terminal_of_rank, np.int32)
    return run_schedule(case.network, case.schedule, terminal_of_rank=terminals, seed=case.seed)


def expected_wire_bytes(case: Case) -> np.ndarray:
    """Wire bytes of every channel, as the crossings of all let expect them."""
    terminals = np.array(case.terminal_of_rank, np.int32)
    traffic = message_traffic(case.network, case.schedule, terminals)
    count = case.network.num_terminals
    moved = np.bincount(traffic.source_terminal * count + traffic.target_terminal, traffic.wire_bytes, count * count)
    return np.array(
        [
            sum(moved[one.source * count + one.target] * one.part)
            for one in (crossing(case.network, channel, case.seed) for channel in range(len(case.network.channels)))
        ]
    )


def uses_all_planes(case: Case) -> bool:
    """Tell whether messages go over all planes, and packets have no detours."""
    terminals = np.array(case.terminal_of_rank, np.int32)
    traffic = message_traffic(case.network, case.schedule, terminals)
    width = np.diff(case.network.bundle_first)[traffic.bundle]
    return case.network.detour_count is None and bool((traffic.shares == width).all())


@settings(max_examples=15)
@given(
    case=(random_cases() | synchronised_cases()).filter(
        lambda case: case.network.routing == "deterministic" and uses_all_planes(case)
    )
)
def test_one_way_is_expected_where_packets_have_one(case: Case) -> None:
    """With deterministic routing the channels carry exactly what was expected of them."""
    np.testing.assert_allclose(expected_wire_bytes(case), run(case).channel_wire_bytes)


@settings(max_examples=15)
@given(case=random_cases().filter(uses_all_planes))
def test_what_leaves_and_what_arrives_is_expected_in_full(case: Case) -> None:
    """Whatever the routing, the channels of a terminal carry together what was expected of them."""
    network, carried, expected = case.network, run(case).channel_wire_bytes, expected_wire_bytes(case)
    for node in (network.channels.source_node, network.channels.target_node):
        at_terminal = node < network.num_terminals
        ours = np.bincount(node[at_terminal], carried[at_terminal])
        np.testing.assert_allclose(np.bincount(node[at_terminal], expected[at_terminal]), ours)


def test_flows_are_those_of_ranks_and_the_largest_first() -> None:
    """Into rank 0: 300 and 200 B over its last channel; ranks whose terminals send nothing bring none."""
    schedule = one_operation((1, 0, 200), (2, 0, 200), (2, 0, 100), (3, 1, 10))
    record = run_schedule(crossbar(), schedule, terminal_of_rank=linear(schedule), kernel="python")
    hottest = finished(crossbar(), schedule, record).hottest_channels
    assert hottest[0] == {
        "channel": "switch.0.0-gpu0",
        "source": "switch.0.0",
        "target": "gpu0",
        "plane": 0,
        "channel_class": "switch-gpu",
        "utilization": 600 / record.task_end_ps.max(),
        "busy_ps": 600,
        "credit_stall_ps": 0,
        "peak_occupancy_bytes": hottest[0]["peak_occupancy_bytes"],
        "flows": [
            {"source_rank": 2, "target_rank": 0, "bytes": 300},
            {"source_rank": 1, "target_rank": 0, "bytes": 200},
        ],
    }
    assert [row["busy_ps"] for row in hottest] == [600, 360, 240, 30, 30]


def test_alike_planes_are_taken_as_one() -> None:
    """6,000 B over three planes: one entry per place, though a plane that carries another message is apart."""
    for messages, expected in (
        ([(1, 0, 6_000)], [("gpu1-switch.0.0", [0, 1, 2]), ("switch.0.0-gpu0", [0, 1, 2])]),
        ([(1, 0, 6_000), (2, 0, 4)], None),
    ):
        schedule, network = one_operation(*messages), crossbar(planes=3)
        record = run_schedule(network, schedule, terminal_of_rank=linear(schedule), kernel="python")
        found = hottest_in_planes(finished(network, schedule, record), 3)
        if expected is None:
            (plane,) = found[0][1]
            assert found[0][0]["channel"] == f"switch.0.{plane}-gpu0"
            assert sorted(found[2][1] + [plane]) == [0, 1, 2]
        else:
            assert [(row["channel"], planes) for row, planes in found] == expected
