"""A replay in blocks is the replay of the whole trace, in memory that does not grow with it."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabricsim.errors import ConfigError, TraceError
from fabricsim.workloads import trace_file
from fabricsim.workloads.replay import MODES, Mode, schedule_blocks
from fabricsim.workloads.schedule import NO_BEGIN_PS, Int64, Messages, Schedule, ScheduleBlock, ScheduleBlocks, Tasks
from fabricsim.workloads.schedule_check import check_schedule
from fabricsim.workloads.trace import Clock, Trace, check
from tests.workloads.joined import joined
from tests.workloads.trace_cases import (
    all_reduce,
    compute,
    pair_trace,
    random_trace,
    transfer,
    with_column,
    write_long_trace,
)

TRACES = Path(__file__).parents[2] / "traces"


def assert_same(one: Schedule, other: Schedule) -> None:
    """Compare all tables to the bit."""
    assert one.num_ranks == other.num_ranks
    assert one.operations == other.operations
    for table in ("tasks", "messages"):
        for column in fields(Tasks if table == "tasks" else Messages):
            if column.name == "groups":
                assert len(one.messages.groups) == len(other.messages.groups) == 0
                continue
            mine, others = (getattr(getattr(schedule, table), column.name) for schedule in (one, other))
            assert mine.dtype == others.dtype, column.name
            assert np.array_equal(mine, others), column.name


def assert_tied(blocks: ScheduleBlocks) -> list[ScheduleBlock]:
    """Hold what the blocks say of one another against the blocks themselves; return those of the whole."""
    made = list(blocks)
    assert_numbered(made, np.arange(blocks.num_operations), np.arange(blocks.num_tasks))
    in_lanes = [list(blocks.make(lane)) for lane in range(len(blocks.lane_operations))]
    assert [sum(len(block.operation) for block in lane) for lane in in_lanes] == list(blocks.lane_operations)
    assert_same(joined([block for lane in in_lanes for block in lane]), joined(made))
    for lane in [made, *in_lanes]:
        assert_tied_in_lane(lane)
    return made


def assert_numbered(made: list[ScheduleBlock], operations: Int64, tasks: Int64) -> None:
    """Compare the numbers of all operations and tasks with what they should be."""
    assert np.array_equal(np.concatenate([block.operation for block in made]), operations)
    assert np.array_equal(np.concatenate([block.task for block in made]), tasks)


def assert_tied_in_lane(made: list[ScheduleBlock]) -> None:
    """Hold what the blocks of a lane say of one another against these blocks."""
    known: set[int] = set()
    for block in made:
        check_schedule(block.schedule)
        assert (len(block.operation), len(block.task)) == (len(block.schedule.operations), len(block.schedule.tasks))
        assert known.issuperset(block.earlier_predecessor.tolist())
        assert min(block.task, default=0) > max(known, default=-1)
        known.update(block.task.tolist())
    followers = Counter(predecessor for block in made for predecessor in block.earlier_predecessor.tolist())
    for block in made:
        assert block.later_successors.tolist() == [followers[task] for task in block.task.tolist()]
    by_last: dict[int, int] = {}  # the last of the tasks of later blocks that wait for each as their last predecessor
    begin_ps = NO_BEGIN_PS
    for block in reversed(made):
        tasks = block.schedule.tasks
        mine = sorted(by_last.keys() & set(block.task.tolist()))
        assert block.task[block.awaited].tolist() == mine
        assert block.awaited_by.tolist() == [by_last.pop(task) for task in mine]
        assert block.later_begin_ps == begin_ps
        inside = np.diff(tasks.predecessor_first) > 0
        last: dict[int, int] = {}
        for task, predecessor in zip(block.earlier_task.tolist(), block.earlier_predecessor.tolist(), strict=True):
            if not inside[task]:
                last[task] = max(predecessor, last.get(task, -1))
        for task, predecessor in last.items():
            by_last[predecessor] = max(int(block.task[task]), by_last.get(predecessor, -1))
        free = np.diff(tasks.predecessor_first) == 0
        free[block.earlier_task] = False
        begin_ps = min(begin_ps, int((tasks.not_before_ps + tasks.gap_ps)[free].min(initial=NO_BEGIN_PS)))


@pytest.fixture
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_file, "PIECE_ROWS", 3)


def whole_or_refusal(trace: Trace, mode: Mode, max_operations: int) -> Schedule | str:
    """Join the blocks, held against one another, into one schedule, or give the text of the error."""
    try:
        blocks = schedule_blocks(trace, mode, max_operations=max_operations, max_messages=2**40)
    except (ConfigError, TraceError) as error:
        return str(error)
    assert_tied(blocks)
    return joined(blocks)


def assert_same_in_blocks(trace: Trace, mode: Mode, sizes: Sequence[int], piece_rows: int) -> None:
    """Replay a trace as one block, and in pieces and blocks of these sizes: same tables, or the same refusal."""
    expected = whole_or_refusal(trace, mode, 2**40)
    summary = check(trace)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace_file, "PIECE_ROWS", piece_rows)
        assert check(trace) == summary
        for size in sizes:
            whole = whole_or_refusal(trace, mode, size)
            if isinstance(expected, str) or isinstance(whole, str):
                assert whole == expected
            else:
                assert_same(whole, expected)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 9), st.sampled_from(MODES), st.sampled_from([1, 2, 7]))
def test_blocks_make_up_the_schedule_of_the_whole_trace(
    seed: int, piece_rows: int, mode: Mode, max_operations: int
) -> None:
    """For any trace, pieces of any size and blocks of 1, 2 and 7 operations."""
    assert_same_in_blocks(random_trace(Random(seed)), mode, (max_operations,), piece_rows)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["dlrm-8rank", "moe-ep64"])
def test_blocks_make_up_the_schedules_of_our_traces(name: str, mode: Mode) -> None:
    """The traces of this repository, read in pieces that end inside of operations."""
    assert_same_in_blocks(Trace.open(TRACES / f"{name}.arrow"), mode, (1, 7), 37)


def test_blocks_are_as_small_as_asked_for(tmp_path: Path) -> None:
    """At most so many operations, and at most so many messages: 56 of an all-to-all of 8, 2 * 56 of a ring at most."""
    write_long_trace(tmp_path / "x.arrow", 30)
    trace = Trace.open(tmp_path / "x.arrow")
    sizes = [len(block.schedule.operations) for block in schedule_blocks(trace, max_operations=4)]
    assert max(sizes) == 4
    assert sum(sizes) == 20 + 10 * 8
    few = schedule_blocks(trace, max_messages=250)
    assert max(len(block.schedule.messages) for block in few) == 112 + 56
    assert all(len(block.schedule.operations) == 1 for block in schedule_blocks(trace, max_operations=0))


def test_a_block_holds_all_that_its_operations_wait_for() -> None:
    """The all_reduce begins first, by rank 0, but waits for computation of rank 1: they are one block."""
    rows = all_reduce()
    trace = pair_trace([rows[0], compute(1, duration_ns=3), rows[1], compute(0, duration_ns=4)])
    blocks = list(schedule_blocks(trace, max_operations=1))
    assert [[operation.op for operation in block.schedule.operations] for block in blocks] == [
        ["all_reduce", "compute"],
        ["compute"],
    ]
    assert (blocks[0].awaited.tolist(), blocks[0].awaited_by.tolist()) == ([0], [3])
    assert (blocks[1].earlier_task.tolist(), blocks[1].earlier_predecessor.tolist()) == ([0], [0])
    assert blocks[0].later_begin_ps == NO_BEGIN_PS


def test_a_whole_schedule_is_one_block() -> None:
    """What is not read from a trace is taken as it is."""
    schedule = joined(schedule_blocks(pair_trace(all_reduce())))
    blocks = ScheduleBlocks.of(schedule)
    (block,) = assert_tied(blocks)
    assert block.schedule is schedule is joined(blocks)


def test_streams_that_do_not_wait_for_each_other_are_lanes() -> None:
    """Streams 5 and 8 meet in an all_reduce, 5 and 2 where a row names another; stream 4 is on its own."""
    rows = [
        *(row | {"stream": stream} for row, stream in zip(all_reduce(), (5, 8), strict=True)),
        compute(0, duration_ns=1, stream=2),
        compute(0, duration_ns=2, stream=4),
        compute(1, duration_ns=3, stream=4),
        compute(0, duration_ns=4, stream=5, deps=[2]),
        compute(0, duration_ns=5, stream=4),
    ]
    rows = [{"op_id": number, **row} for number, row in enumerate(rows)]
    for max_operations in (1, 100):
        blocks = schedule_blocks(pair_trace(rows), max_operations=max_operations)
        assert_tied(blocks)
        lanes = [np.concatenate([block.operation for block in blocks.make(lane)]).tolist() for lane in range(2)]
        assert lanes == [[0, 1, 4], [2, 3, 5]]
        assert blocks.lane_operations == (3, 3)
    timed = [row | {"t_start_ns": number, "t_end_ns": number + 1} for number, row in enumerate(rows)]
    assert schedule_blocks(pair_trace(timed, clock=Clock(aligned=True)), "recorded").lane_operations == (6,)


@pytest.mark.usefixtures("_small_pieces")
def test_ends_that_lie_far_apart_belong_together() -> None:
    """A recv a hundred rows behind its send, and rows that name the op_id of the first row and of the last."""
    rows = [transfer("send", 0, 1), *(compute(0, duration_ns=1, stream=1) for _ in range(100)), transfer("recv", 1, 0)]
    rows += [compute(1, duration_ns=1, deps=[101])] * 2
    rows = [{"op_id": number, **row} for number, row in enumerate(rows)]
    rows[50]["deps"], rows[60]["deps"], rows[100]["stream"] = [0], [100], 2
    trace = pair_trace(rows)
    assert check(trace).transfers == 1
    blocks = schedule_blocks(trace, max_operations=1)
    made = assert_tied(blocks)
    schedule = joined(blocks)
    assert schedule.operations[0].ranks == (0, 1)
    assert len(made) == 103 - (100 - 60)  # from the row that names the last one to that one it is one block
    first = schedule.tasks.predecessor_first
    assert schedule.tasks.predecessors[first[51] : first[52]].tolist() == [0]
    assert schedule.tasks.predecessors[first[61] : first[62]].tolist() == [101]


@pytest.mark.usefixtures("_small_pieces")
def test_a_batch_on_a_stream_that_ends_holds_nothing_up() -> None:
    """A stream that ends with a batch is known to end, so that blocks do not grow to the end of the trace."""
    rows = [compute(0, duration_ns=1, stream=7, batch_id=1), *(compute(0, duration_ns=1) for _ in range(30))]
    assert all(len(block.schedule.operations) == 1 for block in schedule_blocks(pair_trace(rows), max_operations=1))


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 5))
def test_the_verdict_does_not_depend_on_the_pieces(seed: int, piece_rows: int) -> None:
    """A trace with one number changed is refused with the same text, or accepted, however it is cut into pieces."""
    random = Random(seed)
    trace = random_trace(random)
    name = random.choice(
        [name for name in ("op_id", "group_seq", "recv_bytes", "rank", "peer") if name in trace.column_names]
    )
    values = trace.table().column(name).to_pylist()
    values[random.randrange(len(values))] = random.choice(values)
    changed = Trace.from_table(with_column(trace, name, values))

    def verdict() -> object:
        try:
            return check(changed)
        except TraceError as error:
            return str(error)

    expected = verdict()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace_file, "PIECE_ROWS", piece_rows)
        assert verdict() == expected


@pytest.mark.usefixtures("_small_pieces")
@pytest.mark.parametrize("what", ["op_id", "group_seq", "deps"])
def test_faults_between_rows_that_are_far_apart_are_found(what: str) -> None:
    """An op_id or a whole collective that comes again, and a row of another rank that is to end first."""
    rows = [{"op_id": number, **row} for number, row in enumerate(row for seq in range(40) for row in all_reduce(seq))]
    if what == "op_id":
        rows[70]["op_id"] = 1
    elif what == "group_seq":
        rows[70]["group_seq"] = rows[71]["group_seq"] = 1
    else:
        rows[70]["deps"] = [1]
    expected = {
        "op_id": "1 is already that of row 1",
        "group_seq": "already has all_reduce",
        "deps": "on rank 1, this row",
    }
    with pytest.raises(TraceError, match=expected[what]):
        check(pair_trace(rows))


def peak_bytes(path: Path) -> int:
    """Measure what check, preparation and all blocks of a trace take at most."""
    trace = Trace.open(path)
    tracemalloc.start()
    try:
        check(trace)
        assert sum(len(block.schedule.operations) for block in schedule_blocks(trace)) > 0
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the operations take less than 1.5 times the memory, of which blocks of chance sizes are a part."""
    monkeypatch.setattr(trace_file, "PIECE_ROWS", 512)
    for num_operations in (100, 300, 3_000):
        write_long_trace(tmp_path / f"{num_operations}.arrow", num_operations)
    peak_bytes(tmp_path / "100.arrow")  # what is imported or cached once does not count
    assert peak_bytes(tmp_path / "3000.arrow") < 1.5 * peak_bytes(tmp_path / "300.arrow")
