"""Hand-written traces of a few rows, with the schedules that follow from them worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabricsim.errors import ConfigError, TraceError
from fabricsim.workloads.replay import MODES, Mode, schedule_blocks
from fabricsim.workloads.schedule import Schedule
from fabricsim.workloads.schedule_check import check_schedule
from fabricsim.workloads.trace import Clock, Trace, trace_from_rows
from fabricsim.workloads.trace_check import check
from tests.workloads.joined import joined

Row = dict[str, Any]

ALIGNED = Clock(aligned=True)


def row(rank: int, op: str, **values: Any) -> Row:
    """Give a row with the required columns; sizes are 0 unless given, the group is 0."""
    return {"rank": rank, "op": op, "group_id": 0, "send_bytes": 0, "recv_bytes": 0, **values}


def all_reduce(rank: int, seq: int, size: int = 64, **values: Any) -> Row:
    """Give one rank's row of an all_reduce."""
    return row(rank, "all_reduce", group_seq=seq, send_bytes=size, recv_bytes=size, **values)


def trace_of(rows: Sequence[Row], *groups: Sequence[int], clock: Clock | None = ALIGNED) -> Trace:
    """Make a checked trace; without groups there is one of all ranks."""
    numbered = [{"op_id": 100 + number, **values} for number, values in enumerate(rows)]
    world_size = max(rank for ranks in [*groups, [values["rank"] for values in rows]] for rank in ranks) + 1
    members = groups or [range(world_size)]
    named = [
        {"id": number, "name": str(number), "desc": "", "ranks": list(ranks)} for number, ranks in enumerate(members)
    ]
    trace = trace_from_rows(numbered, world_size=world_size, groups=named, clock=clock)
    check(trace)
    return trace


def replayed(
    rows: Sequence[Row], *groups: Sequence[int], mode: Mode = "dependency", clock: Clock | None = ALIGNED
) -> Schedule:
    """Make the schedule of a trace and hold it against the rules of its tables."""
    schedule = joined(schedule_blocks(trace_of(rows, *groups, clock=clock), mode))
    check_schedule(schedule)
    return schedule


def tasks_of(schedule: Schedule, column: str) -> dict[tuple[int, int], Any]:
    """Give a column of the tasks by (operation, rank)."""
    tasks = schedule.tasks
    keys = zip(tasks.operation.tolist(), tasks.rank.tolist(), strict=True)
    return dict(zip(keys, getattr(tasks, column).tolist(), strict=True))


def waits_of(schedule: Schedule) -> dict[tuple[int, int], list[int]]:
    """Give by (operation, rank) the operations whose tasks at that rank are predecessors."""
    tasks = schedule.tasks
    return {
        (int(tasks.operation[task]), int(tasks.rank[task])): sorted(
            tasks.operation[
                tasks.predecessors[tasks.predecessor_first[task] : tasks.predecessor_first[task + 1]]
            ].tolist()
        )
        for task in range(len(tasks))
    }


def moved(schedule: Schedule) -> dict[tuple[int, int, int], int]:
    """Give the bytes by (operation, source rank, target rank)."""
    messages, ranks = schedule.messages, schedule.tasks.rank
    total: dict[tuple[int, int, int], int] = {}
    for operation, source, target, size in zip(
        messages.operation.tolist(),
        ranks[messages.source_task].tolist(),
        ranks[messages.target_task].tolist(),
        messages.size_bytes.tolist(),
        strict=True,
    ):
        total[operation, source, target] = total.get((operation, source, target), 0) + size
    return total


# ---------------------------------------------------------------------------------------------------------------------
# Matching and messages


def test_rows_become_operations_in_the_order_of_their_first_rows() -> None:
    """Rows of one (group, seq) are one operation over its ranks, numbered by its first row."""
    schedule = replayed(
        [
            all_reduce(1, 7, size=32),
            all_reduce(1, 9, size=48),
            all_reduce(0, 7, size=32),
            row(0, "compute", duration_ns=5),
            all_reduce(0, 9, size=48, name="grad"),
        ]
    )
    assert [(o.name, o.op, o.algorithm, o.ranks, o.size_bytes) for o in schedule.operations] == [
        ("all_reduce", "all_reduce", "ring", (0, 1), 32),
        ("grad", "all_reduce", "ring", (0, 1), 48),
        ("compute", "compute", "", (0,), 0),
    ]
    assert schedule.num_ranks == 2
    assert waits_of(schedule) == {(0, 0): [], (0, 1): [], (1, 0): [2], (1, 1): [0], (2, 0): [0]}


def one_collective(op: str, ranks: Sequence[int], per_rank: Mapping[str, Sequence[Any]], **values: Any) -> list[Row]:
    """Give the rows of one collective; ``per_rank`` has a value for each rank in the order of the group."""
    return [
        row(rank, op, group_seq=0, **values, **{name: column[place] for name, column in per_rank.items()})
        for place, rank in enumerate(ranks)
    ]


# Over the group (2, 0, 1): places 0, 1, 2 are ranks 2, 0, 1. Sizes by hand from docs/trace-format.md's operations.
GROUP = (2, 0, 1)


@pytest.mark.parametrize(
    ("op", "per_rank", "values", "size_bytes", "expected"),
    [
        (
            "all_to_all",
            {"send_bytes": [30, 30, 30], "recv_bytes": [30, 30, 30]},
            {},
            30,
            {(2, 0): 10, (2, 1): 10, (0, 1): 10, (0, 2): 10, (1, 2): 10, (1, 0): 10},
        ),
        (
            "all_to_all_v",
            {
                "send_bytes": [6, 9, 0],
                "recv_bytes": [8, 2, 5],
                "send_bytes_per_peer": [[1, 2, 3], [7, 0, 2], [0, 0, 0]],
                "recv_bytes_per_peer": [[1, 7, 0], [2, 0, 0], [3, 2, 0]],
            },
            {},
            9,
            {(2, 0): 2, (2, 1): 3, (0, 2): 7, (0, 1): 2},
        ),
        (  # chunks 0, 1, 2 of 5, 5, 4 bytes; place 0 sends 0, 2, 1, 0, place 1 sends 1, 0, 2, 1, place 2 2, 1, 0, 2
            "all_reduce",
            {"send_bytes": [14, 14, 14], "recv_bytes": [14, 14, 14]},
            {},
            14,
            {(2, 0): 19, (0, 1): 19, (1, 2): 18},
        ),
        (
            "all_gather",
            {"send_bytes": [4, 4, 4], "recv_bytes": [12, 12, 12]},
            {},
            12,
            {(2, 0): 8, (0, 1): 8, (1, 2): 8},
        ),
        (  # the ring passes on all parts but the receiver's own
            "all_gather_v",
            {"send_bytes": [1, 20, 300], "recv_bytes": [321, 321, 321]},
            {},
            321,
            {(2, 0): 301, (0, 1): 21, (1, 2): 320},
        ),
        (
            "reduce_scatter",
            {"send_bytes": [12, 12, 12], "recv_bytes": [4, 4, 4]},
            {},
            12,
            {(2, 0): 8, (0, 1): 8, (1, 2): 8},
        ),
        (  # the ring passes on all parts but the sender's own
            "reduce_scatter_v",
            {
                "send_bytes": [321, 321, 321],
                "recv_bytes": [1, 20, 300],
                "send_bytes_per_peer": [[1, 20, 300]] * 3,
            },
            {},
            321,
            {(2, 0): 320, (0, 1): 301, (1, 2): 21},
        ),
        (  # from rank 0, place 1: first to place 2, then to place 0
            "broadcast",
            {"send_bytes": [0, 9, 0], "recv_bytes": [9, 9, 9]},
            {"root": 0},
            9,
            {(0, 1): 9, (0, 2): 9},
        ),
        (
            "reduce",
            {"send_bytes": [9, 9, 9], "recv_bytes": [0, 9, 0]},
            {"root": 0},
            9,
            {(1, 0): 9, (2, 0): 9},
        ),
        (
            "gather",
            {"send_bytes": [3, 3, 3], "recv_bytes": [0, 9, 0]},
            {"root": 0},
            9,
            {(1, 0): 3, (2, 0): 3},
        ),
        (
            "scatter",
            {"send_bytes": [0, 9, 0], "recv_bytes": [3, 3, 3]},
            {"root": 0},
            9,
            {(0, 1): 3, (0, 2): 3},
        ),
        (  # two rounds: to the next place and to the one after
            "barrier",
            {},
            {},
            0,
            {(2, 0): 1, (0, 1): 1, (1, 2): 1, (2, 1): 1, (0, 2): 1, (1, 0): 1},
        ),
    ],
)
def test_recorded_bytes_become_messages(
    op: str, per_rank: Mapping[str, Sequence[Any]], values: Row, size_bytes: int, expected: dict[tuple[int, int], int]
) -> None:
    """Each operation moves its recorded bytes between the right ranks of a group that is not in rank order."""
    schedule = replayed(one_collective(op, GROUP, per_rank, **values), GROUP)
    (operation,) = schedule.operations
    assert (operation.op, operation.ranks, operation.size_bytes) == (op, GROUP, size_bytes)
    assert moved(schedule) == {(0, *pair): size for pair, size in expected.items()}


def test_transfers_match_by_ends_tag_and_order() -> None:
    """The n-th send of (source, target, tag) goes to the n-th recv there, whichever row comes first."""
    schedule = replayed(
        [
            row(1, "recv", peer=0, tag=5, recv_bytes=10),
            row(0, "send", peer=1, tag=6, send_bytes=20),
            row(0, "send", peer=1, tag=5, send_bytes=10, name="first"),
            row(0, "send", peer=1, tag=5, send_bytes=30),
            row(1, "recv", peer=0, tag=5, recv_bytes=30, stream=1),
            row(1, "recv", peer=0, tag=6, recv_bytes=20, stream=2),
        ]
    )
    assert [(o.name, o.op, o.algorithm, o.ranks, o.size_bytes) for o in schedule.operations] == [
        ("first", "send", "direct", (0, 1), 10),
        ("send", "send", "direct", (0, 1), 20),
        ("send", "send", "direct", (0, 1), 30),
    ]
    assert moved(schedule) == {(0, 0, 1): 10, (1, 0, 1): 20, (2, 0, 1): 30}
    assert waits_of(schedule) == {(0, 0): [1], (0, 1): [], (1, 0): [], (1, 1): [], (2, 0): [0], (2, 1): []}


def test_tasks_have_the_streams_of_their_rows() -> None:
    """Both ends of a transfer their own, each rank of a collective too; 0 where the trace says nothing."""
    schedule = replayed(
        [
            row(0, "send", peer=1, send_bytes=10, stream=7),
            all_reduce(0, 0, stream=20),
            row(0, "compute", duration_ns=1),
            row(1, "recv", peer=0, recv_bytes=10, stream=8),
            all_reduce(1, 0, stream=3),
        ]
    )
    assert [operation.op for operation in schedule.operations] == ["send", "all_reduce", "compute"]
    assert tasks_of(schedule, "stream") == {(0, 0): 7, (0, 1): 8, (1, 0): 20, (1, 1): 3, (2, 0): 0}


def test_a_transfer_to_oneself_moves_nothing() -> None:
    """Its two rows stay apart, each an operation of one task, so that what runs between them can."""
    schedule = replayed(
        [
            row(0, "send", peer=0, send_bytes=10),
            all_reduce(0, 0),
            row(0, "recv", peer=0, recv_bytes=10),
        ]
    )
    assert [(o.op, o.ranks, o.size_bytes) for o in schedule.operations] == [
        ("send", (0,), 10),
        ("all_reduce", (0,), 64),
        ("recv", (0,), 10),
    ]
    assert len(schedule.messages) == 0
    assert waits_of(schedule) == {(0, 0): [], (1, 0): [0], (2, 0): [1]}


@pytest.mark.parametrize(
    ("op", "recorded", "used"),
    [("all_reduce", "RING", "ring"), ("all_reduce", "Tree", "ring"), ("all_to_all", "Rotated", "rotated")],
)
def test_recorded_algorithms_are_used_where_known(op: str, recorded: str, used: str) -> None:
    """A recorded algorithm that we have is used, else the default; the operation says which, and what it replaces."""
    schedule = replayed([row(rank, op, group_seq=0, send_bytes=8, recv_bytes=8, algorithm=recorded) for rank in (0, 1)])
    operation = schedule.operations[0]
    assert operation.algorithm == used
    assert operation.recorded_algorithm == ("" if recorded.lower() == used else recorded)


# ---------------------------------------------------------------------------------------------------------------------
# Order


def computes(*rows: Row) -> list[Row]:
    """Give compute rows of rank 0 that take 1 ns each."""
    return [row(0, "compute", duration_ns=1, **values) for values in rows]


def test_rows_of_one_stream_run_in_row_order() -> None:
    """A row waits for the one before it on its stream; another stream of the rank runs beside it."""
    schedule = replayed(computes({"stream": 1}, {"stream": 2}, {"stream": 1}, {"stream": 2}))
    assert waits_of(schedule) == {(0, 0): [], (1, 0): [], (2, 0): [0], (3, 0): [1]}


def test_rows_of_a_batch_do_not_wait_for_one_another() -> None:
    """They wait for what stands before the batch, and what stands behind it waits for all of them."""
    schedule = replayed(computes({}, {"batch_id": 4}, {"batch_id": 4}, {"batch_id": 4}, {}))
    assert waits_of(schedule) == {(0, 0): [], (1, 0): [0], (2, 0): [0], (3, 0): [0], (4, 0): [1, 2, 3]}


def test_a_batch_number_used_again_is_another_batch() -> None:
    """Only rows next to one another on their stream form a batch."""
    schedule = replayed(computes({"batch_id": 4}, {}, {"batch_id": 4}))
    assert waits_of(schedule) == {(0, 0): [], (1, 0): [0], (2, 0): [1]}


def test_a_join_stands_between_two_batches() -> None:
    """It waits for all rows of the first batch, and all rows of the second wait for it; it takes no time."""
    schedule = replayed(computes({"batch_id": 1}, {"batch_id": 1}, {"batch_id": 2}, {"batch_id": 2}, {"batch_id": 3}))
    assert [(o.name, o.op, o.ranks) for o in schedule.operations][2] == ("end of a batch", "wait", (0,))
    assert [o.is_join for o in schedule.operations] == [False, False, True, False, False, False]
    assert waits_of(schedule) == {(0, 0): [], (1, 0): [], (2, 0): [0, 1], (3, 0): [2], (4, 0): [2], (5, 0): [3, 4]}
    assert tasks_of(schedule, "gap_ps")[2, 0] == 0
    assert not tasks_of(schedule, "launches")[2, 0]


def test_recorded_dependencies_replace_the_order_of_the_stream() -> None:
    """A row with ``deps`` waits for these rows only, and for none if the list is empty."""
    schedule = replayed(computes({}, {}, {"deps": [100]}, {"deps": []}, {"deps": [102, 101]}, {}))
    assert waits_of(schedule) == {(0, 0): [], (1, 0): [0], (2, 0): [0], (3, 0): [], (4, 0): [1, 2], (5, 0): [4]}


@pytest.mark.parametrize("mode", ["dependency", "back-to-back"])
def test_only_what_moves_needs_a_launch(mode: Mode) -> None:
    """Collectives and transfers have a launch latency, compute and wait have none."""
    schedule = replayed(
        [
            row(0, "compute", duration_ns=5),
            row(0, "wait"),
            row(0, "send", peer=1, send_bytes=4),
            row(1, "recv", peer=0, recv_bytes=4),
            all_reduce(0, 0),
            all_reduce(1, 0),
        ],
        mode=mode,
    )
    assert tasks_of(schedule, "launches") == {
        (0, 0): False,
        (1, 0): False,
        (2, 0): True,
        (2, 1): True,
        (3, 0): True,
        (3, 1): True,
    }


# ---------------------------------------------------------------------------------------------------------------------
# Gaps


def timed(start: int, end: int) -> Row:
    """Give recorded start and end."""
    return {"t_start_ns": start, "t_end_ns": end}


# Rank 0 starts at 1000 (0 after the earliest) and at 1500 (1500 - 1200 = 300 after its end before),
# rank 1 at 1040 (40 after the earliest) and at 1450 (1450 - 1210 = 240 after its end before).
TWO_RANKS = [
    all_reduce(0, 0, **timed(1000, 1200)),
    all_reduce(1, 0, **timed(1040, 1210)),
    all_reduce(1, 1, **timed(1450, 1600)),
    all_reduce(0, 1, **timed(1500, 1600)),
]


def test_derived_gaps_count_for_the_last_arriving_rank_only() -> None:
    """Rank 1 comes last to the first operation, rank 0 to the second; the other rank's gap may be waiting."""
    schedule = replayed(TWO_RANKS)
    assert tasks_of(schedule, "gap_ps") == {(0, 0): 0, (0, 1): 40_000, (1, 0): 300_000, (1, 1): 0}
    assert not any(tasks_of(schedule, "not_before_ps").values())


def test_without_aligned_clocks_the_shortest_duration_came_last() -> None:
    """Durations are 200 and 170, then 100 and 150: ranks 1 and 0 come last; a rank's first row has no gap."""
    for clock in (None, Clock(aligned=False)):
        schedule = replayed(TWO_RANKS, clock=clock)
        assert tasks_of(schedule, "gap_ps") == {(0, 0): 0, (0, 1): 0, (1, 0): 300_000, (1, 1): 0}


def test_ranks_that_arrive_at_once_all_come_last() -> None:
    """With equal starts each rank's own gap counts: 50 - 10 and 50 - 20."""
    schedule = replayed(
        [
            all_reduce(0, 0, **timed(0, 10)),
            all_reduce(1, 0, **timed(0, 20)),
            all_reduce(0, 1, **timed(50, 60)),
            all_reduce(1, 1, **timed(50, 60)),
        ]
    )
    assert tasks_of(schedule, "gap_ps") == {(0, 0): 0, (0, 1): 0, (1, 0): 40_000, (1, 1): 30_000}


def test_recorded_gaps_count_on_every_rank() -> None:
    """``gap_ns`` is used as it is, beside derived gaps where it is null."""
    rows = [dict(values) for values in TWO_RANKS]
    rows[0]["gap_ns"] = 7
    rows[2]["gap_ns"] = 9
    schedule = replayed(rows)
    assert tasks_of(schedule, "gap_ps") == {(0, 0): 7_000, (0, 1): 40_000, (1, 0): 300_000, (1, 1): 9_000}


def test_a_negative_gap_is_none() -> None:
    """A row that started before the end of the one before it has no gap."""
    schedule = replayed([row(0, "wait", **timed(0, 100)), row(0, "wait", **timed(60, 120))])
    assert tasks_of(schedule, "gap_ps") == {(0, 0): 0, (1, 0): 0}


@pytest.mark.parametrize(
    ("rows", "has_effect"),
    [
        ([all_reduce(0, 0), all_reduce(0, 1)], False),
        ([all_reduce(0, 0, gap_ns=0), row(0, "wait")], False),
        ([all_reduce(0, 0), all_reduce(0, 1, gap_ns=1)], True),
        ([all_reduce(0, 0, **timed(5, 10)), all_reduce(0, 1, **timed(10, 20))], False),
        ([all_reduce(0, 0, **timed(5, 10)), all_reduce(0, 1, **timed(11, 20))], True),
        ([all_reduce(0, 0), row(0, "compute")], True),
    ],
)
def test_back_to_back_must_leave_something_out(rows: list[Row], has_effect: bool) -> None:
    """Gaps or computation in the recorded times; without them the mode is refused with the one to use."""
    if has_effect:
        assert not replayed(rows, mode="back-to-back").tasks.gap_ps.any()
        return
    with pytest.raises(ConfigError, match=r"'back-to-back' has no effect on trace in memory.*use mode 'dependency'"):
        replayed(rows, mode="back-to-back")


def test_gaps_without_times_are_zero() -> None:
    """Nothing recorded, nothing derived; nor where the end of the row before is missing."""
    assert not any(tasks_of(replayed([all_reduce(0, 0), all_reduce(0, 1)]), "gap_ps").values())
    partly = replayed([row(0, "wait", t_start_ns=0), row(0, "wait", t_start_ns=50), row(0, "wait")])
    assert not any(tasks_of(partly, "gap_ps").values())


def test_a_gap_counts_from_the_latest_of_what_the_row_waits_for() -> None:
    """After a batch from its latest end: 100 - 90; with ``deps`` from theirs: 200 - 30."""
    schedule = replayed(
        [
            row(0, "wait", batch_id=1, **timed(0, 90)),
            row(0, "wait", batch_id=1, **timed(0, 30)),
            row(0, "wait", **timed(100, 110)),
            row(0, "wait", deps=[101], **timed(200, 210)),
            row(0, "wait", deps=[], **timed(250, 260)),
        ]
    )
    assert list(tasks_of(schedule, "gap_ps").values()) == [0, 0, 10_000, 170_000, 250_000]


def test_a_gap_counts_through_a_join() -> None:
    """Between two batches the gap is that after the first batch's latest end: 100 - 90 and 120 - 90."""
    schedule = replayed(
        [
            row(0, "wait", batch_id=1, **timed(0, 90)),
            row(0, "wait", batch_id=1, **timed(0, 30)),
            row(0, "wait", batch_id=2, **timed(100, 110)),
            row(0, "wait", batch_id=2, **timed(120, 130)),
        ]
    )
    assert list(tasks_of(schedule, "gap_ps").values()) == [0, 0, 0, 10_000, 30_000]


def test_computation_takes_its_duration_after_its_gap() -> None:
    """A compute row's gap and duration add up, whichever two of start, end and duration are recorded."""
    schedule = replayed(
        [
            row(0, "compute", **timed(0, 40)),
            row(0, "compute", t_start_ns=60, duration_ns=5),
            row(0, "compute", t_end_ns=100, duration_ns=10, stream=0),
            row(0, "compute", duration_ns=3, gap_ns=4),
        ]
    )
    # 0 + 40; (60 - 40) + 5; (90 - 65) + 10; 4 + 3
    assert list(tasks_of(schedule, "gap_ps").values()) == [40_000, 25_000, 35_000, 7_000]


def test_back_to_back_leaves_out_gaps_and_computation() -> None:
    """The order stays, all times go."""
    rows = [*TWO_RANKS, row(0, "compute", t_start_ns=2000), row(0, "wait", gap_ns=9)]
    schedule = replayed(rows, mode="back-to-back")
    assert not schedule.tasks.gap_ps.any()
    assert not schedule.tasks.not_before_ps.any()
    assert waits_of(schedule) == {(0, 0): [], (0, 1): [], (1, 0): [0], (1, 1): [0], (2, 0): [1], (3, 0): [2]}


# ---------------------------------------------------------------------------------------------------------------------
# Recorded times


def test_recorded_mode_begins_each_row_at_its_start() -> None:
    """Starts count from the earliest of the trace; nothing waits for anything but messages, nothing is launched."""
    schedule = replayed([*TWO_RANKS, row(0, "compute", **timed(1700, 1750))], mode="recorded")
    assert tasks_of(schedule, "not_before_ps") == {
        (0, 0): 0,
        (0, 1): 40_000,
        (1, 0): 500_000,
        (1, 1): 450_000,
        (2, 0): 700_000,
    }
    assert tasks_of(schedule, "gap_ps")[2, 0] == 50_000
    assert not schedule.tasks.launches.any()
    assert len(schedule.tasks.predecessors) == 0


def test_recorded_mode_has_no_joins() -> None:
    """Where nothing waits there is nothing to join."""
    rows = [row(0, "wait", batch_id=batch, t_start_ns=5) for batch in (1, 1, 2, 2)]
    assert len(replayed(rows, mode="recorded").operations) == 4


def test_recorded_mode_needs_all_start_times() -> None:
    """A missing start is named with its row and the modes that do without."""
    rows = [all_reduce(0, 0, t_start_ns=5), all_reduce(0, 1), all_reduce(0, 2)]
    with pytest.raises(TraceError, match=r"row 1, column t_start_ns: 2 of 3 rows .* use mode 'dependency'"):
        schedule_blocks(trace_of(rows), "recorded")


@pytest.mark.parametrize("clock", [None, Clock(aligned=False)])
def test_recorded_mode_needs_aligned_clocks(clock: Clock | None) -> None:
    """Start times of several ranks cannot be compared unless the trace says so; those of one rank can."""
    with pytest.raises(TraceError, match=r"fabricsim\.clock does not say .* aligned; use mode 'dependency'"):
        schedule_blocks(trace_of(TWO_RANKS, clock=clock), "recorded")
    alone = replayed([all_reduce(0, 0, **timed(3, 4)), all_reduce(0, 1, **timed(5, 6))], mode="recorded", clock=clock)
    assert alone.tasks.not_before_ps.tolist() == [0, 2000]


@pytest.mark.parametrize(
    ("clock", "rows", "expected_ps"),
    [
        (ALIGNED, TWO_RANKS[:2], 170_000),  # 1210 - 1040
        (ALIGNED, [all_reduce(0, 0, **timed(0, 90)), all_reduce(1, 0, **timed(70, 80))], 20_000),  # 90 - 70
        (None, [all_reduce(0, 0, **timed(0, 90)), all_reduce(1, 0, **timed(70, 80))], 10_000),  # 80 - 70
        (None, [all_reduce(0, 0, duration_ns=30), all_reduce(1, 0, duration_ns=20)], 20_000),
        (ALIGNED, [all_reduce(0, 0, duration_ns=30), all_reduce(1, 0, **timed(5, 30))], 25_000),
        (ALIGNED, [all_reduce(0, 0, t_start_ns=5), all_reduce(1, 0, **timed(5, 30))], None),
        (ALIGNED, [all_reduce(0, 0), all_reduce(1, 0)], None),
    ],
)
def test_recorded_time_of_an_operation_leaves_waiting_out(
    clock: Clock | None, rows: list[Row], expected_ps: int | None
) -> None:
    """Aligned: latest end less latest start. Else the least duration. None where a rank lacks both."""
    assert replayed(rows, clock=clock).operations[0].recorded_ps == expected_ps
    late = [row(0, "compute"), *rows]
    assert replayed(late, clock=clock, mode="back-to-back").operations[1].recorded_ps == expected_ps


def test_recorded_times_of_the_dlrm_trace() -> None:
    """The transfer times that traces/README.md lists, in whole microseconds, for the eight collectives in order."""
    trace = Trace.open(Path(__file__).parents[2] / "traces" / "dlrm-8rank.arrow")
    schedule = joined(schedule_blocks(trace))
    check_schedule(schedule)
    recorded_us = [(o.recorded_ps or 0) // 1_000_000 for o in schedule.operations]
    assert recorded_us == [11, 8, 8, 8, 87, 11, 23, 69]


# ---------------------------------------------------------------------------------------------------------------------
# Refusals


def test_an_unknown_mode_names_the_nearest() -> None:
    """A mode that there is not is a usage error with all modes."""
    with pytest.raises(ConfigError, match=r"'record' \(did you mean 'recorded'\?\); known: dependency, recorded, back"):
        schedule_blocks(trace_of([all_reduce(0, 0)]), "record")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["dependency", "recorded"])
def test_a_compute_row_needs_its_duration(mode: Mode) -> None:
    """A computation of unknown length is refused, with the mode that does without."""
    rows = [row(0, "wait", t_start_ns=5), row(0, "compute", t_start_ns=5)]
    with pytest.raises(TraceError, match=r"row 1, column duration_ns: .* or use mode 'back-to-back'"):
        schedule_blocks(trace_of(rows), mode)


def test_a_gap_beyond_picoseconds_is_refused() -> None:
    """2^62 / 1000 ns is as far as picoseconds are counted; more is an error, never a wrap."""
    with pytest.raises(TraceError, match=r"4611686018427388 ns is more .* \(4611686018427387 ns\); mend the times"):
        schedule_blocks(trace_of([all_reduce(0, 0, gap_ns=2**62 // 1000 + 1)]))


@pytest.mark.parametrize("column", ["t_start_ns", "duration_ns", "gap_ns"])
def test_a_time_that_cannot_be_added_is_refused(column: str) -> None:
    """Recorded times above 2^61 ns name their row and column."""
    with pytest.raises(TraceError, match=rf"row 1, column {column}: 2305843009213693953 ns is more"):
        schedule_blocks(trace_of([all_reduce(0, 0), all_reduce(0, 1, **{column: 2**61 + 1})]))


def test_an_unchecked_trace_is_held_against_what_the_schedule_needs() -> None:
    """A collective short of a rank is refused here too, with its row."""
    groups = [{"id": 0, "name": "0", "desc": "", "ranks": [0, 1]}]
    trace = trace_from_rows([{"op_id": 0, **all_reduce(0, 0)}], world_size=2, groups=groups)
    with pytest.raises(TraceError, match="incomplete"):
        schedule_blocks(trace)


# ---------------------------------------------------------------------------------------------------------------------
# Any trace


@given(st.data())
def test_any_sound_trace_gives_a_sound_schedule(data: st.DataObject) -> None:
    """Operations that all ranks have in one order always end, in every mode, with every recorded byte moved."""
    world_size = data.draw(st.integers(1, 4))
    groups = data.draw(st.lists(st.permutations(range(world_size)), min_size=1, max_size=3))
    groups = [group[: data.draw(st.integers(1, world_size))] for group in groups]
    rows: list[Row] = []
    sequence = [0] * len(groups)
    wire_bytes = 0
    for start in range(data.draw(st.integers(1, 8))):
        number = data.draw(st.integers(0, len(groups) - 1))
        group = groups[number]
        common = {"group_id": number, "t_start_ns": start, "t_end_ns": start, "stream": data.draw(st.integers(0, 1))}
        op = data.draw(st.sampled_from(["all_to_all_v", "barrier", "send", "compute"]))
        batches = st.sampled_from([None, None, 1, 2])
        if op == "compute":
            rows.append(row(group[0], op, **common, batch_id=data.draw(batches)))
        elif op == "send":
            size = data.draw(st.integers(0, 9))
            batch = data.draw(batches)
            rows.append(row(group[0], "send", **common, peer=group[-1], send_bytes=size, batch_id=batch))
            rows.append(row(group[-1], "recv", **common, peer=group[0], recv_bytes=size, batch_id=batch))
            wire_bytes += size if len(group) > 1 else 0
        else:
            n = len(group)
            sizes = np.zeros((n, n), np.int64)
            if op == "all_to_all_v":
                sizes = np.asarray(data.draw(st.lists(st.integers(0, 9), min_size=n * n, max_size=n * n))).reshape(n, n)
                wire_bytes += int(sizes.sum() - sizes.trace())
            else:
                wire_bytes += n * (n - 1).bit_length()
            for place, rank in enumerate(group):
                rows.append(
                    row(
                        rank,
                        op,
                        **common,
                        group_seq=sequence[number],
                        send_bytes=int(sizes[place].sum()),
                        recv_bytes=int(sizes[:, place].sum()),
                        send_bytes_per_peer=sizes[place].tolist() if op == "all_to_all_v" else None,
                        batch_id=data.draw(batches),
                    )
                )
            sequence[number] += 1
    has_gaps = replayed(rows, *groups, range(world_size)).tasks.gap_ps.any()
    for mode in (mode for mode in MODES if mode != "back-to-back" or has_gaps):
        schedule = replayed(rows, *groups, range(world_size), mode=mode)
        assert int(schedule.messages.size_bytes.sum()) == wire_bytes
        assert sum(len(o.ranks) for o in schedule.operations if not o.is_join) == len(rows)
