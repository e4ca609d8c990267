"""A workload in blocks: rows are used again, and the record is that of the whole schedule."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabricsim.engine.changes import Change
from fabricsim.engine.check import check
from fabricsim.engine.driver import RunFigures, RunRecord, Simulation
from fabricsim.engine.layout import Code
from fabricsim.engine.work import BlockRecord, FreeRows
from fabricsim.errors import UnreachableError
from fabricsim.fabrics import load_fabric
from fabricsim.fabrics.faults import apply_faults, parse_fault
from fabricsim.results.digest import Digest
from fabricsim.workloads.replay import schedule_blocks
from fabricsim.workloads.schedule import NO_BEGIN_PS, Messages, Schedule, ScheduleBlock, ScheduleBlocks, Tasks, offsets
from fabricsim.workloads.trace import Trace
from tests.engine.kernels import NUMBA, C
from tests.oracle.cases import Case, MessageDraft, OperationDraft, TaskDraft, build_schedule, cases, cases_with_changes
from tests.workloads.trace_cases import write_long_trace


def cut(schedule: Schedule, operations: int) -> ScheduleBlocks:
    """Cut a schedule into blocks of so many operations; tasks wait only for tasks of earlier operations."""
    tasks, messages = schedule.tasks, schedule.messages
    waiting = np.repeat(np.arange(len(tasks)), np.diff(tasks.predecessor_first))
    by_last = {}  # the last task that waits for each as its last predecessor
    for task in range(len(tasks)):
        mine = tasks.predecessors[tasks.predecessor_first[task] : tasks.predecessor_first[task + 1]]
        if len(mine):
            by_last[int(mine.max())] = task
    begin_ps = np.where(np.diff(tasks.predecessor_first) == 0, tasks.not_before_ps + tasks.gap_ps, NO_BEGIN_PS)
    blocks = []
    for first in range(0, len(schedule.operations), operations):
        mine = schedule.operations[first : first + operations]
        low, high = np.searchsorted(tasks.operation, [first, first + len(mine)]).tolist()
        pairs = (waiting >= low) & (waiting < high)
        inside = pairs & (tasks.predecessors >= low)
        earlier = pairs & (tasks.predecessors < low)
        chosen = slice(low, high)
        sent = slice(*np.searchsorted(messages.operation, [first, first + len(mine)]).tolist())
        waits = slice(messages.waits_first[sent.start], messages.waits_first[sent.stop])
        awaited = [task for task in range(low, high) if by_last.get(task, 0) >= high]
        blocks.append(
            ScheduleBlock(
                Schedule(
                    schedule.num_ranks,
                    mine,
                    Tasks(
                        operation=tasks.operation[chosen] - first,
                        rank=tasks.rank[chosen],
                        gap_ps=tasks.gap_ps[chosen],
                        not_before_ps=tasks.not_before_ps[chosen],
                        launches=tasks.launches[chosen],
                        predecessor_first=offsets(np.bincount(waiting[inside] - low, minlength=high - low)),
                        predecessors=tasks.predecessors[inside] - low,
                        stream=tasks.stream[chosen],
                    ),
                    Messages(
                        operation=messages.operation[sent] - first,
                        index=messages.index[sent],
                        source_task=messages.source_task[sent] - low,
                        target_task=messages.target_task[sent] - low,
                        size_bytes=messages.size_bytes[sent],
                        waits_first=messages.waits_first[sent.start : sent.stop + 1] - waits.start,
                        waits_for=messages.waits_for[waits] - sent.start,
                    ),
                ),
                operation=np.arange(first, first + len(mine)),
                task=np.arange(low, high),
                earlier_task=waiting[earlier] - low,
                earlier_predecessor=tasks.predecessors[earlier].astype(np.int64),
                awaited=np.array(awaited, np.int64) - low,
                awaited_by=np.array([by_last[task] for task in awaited], np.int64),
                later_begin_ps=int(begin_ps[high:].min(initial=NO_BEGIN_PS)),
                later_successors=np.bincount(tasks.predecessors[waiting >= high], minlength=len(tasks))[low:high],
            )
        )
    return ScheduleBlocks(schedule.num_ranks, (len(schedule.operations),), len(tasks), lambda lane: iter(blocks))


class Blocks:
    """A run in blocks, and what it handed over."""

    def __init__(self, case: Case, operations: int, kernel: str = "auto", threads: int = 1) -> None:
        self.retired: list[tuple[int, BlockRecord]] = []
        self.horizon_ps = 0
        self.simulation = Simulation(
            case.network,
            cut(case.schedule, operations),
            np.array(case.terminal_of_rank, np.int32),
            seed=case.seed,
            kernel=kernel,
            threads=threads,
            sink=self.take,
            changes=case.changes,
        )

    def take(self, retired: list[tuple[ScheduleBlock, BlockRecord]], horizon_ps: int) -> None:
        """Keep what is handed over; nothing of it ends before the horizon given with what came before."""
        for block, record in retired:
            assert (record.task_end_ps >= self.horizon_ps).all()
            assert (record.message_complete_ps >= self.horizon_ps).all()
            self.retired.append((int(block.operation[0]), record))
        self.horizon_ps = horizon_ps

    def run(self) -> RunRecord:
        """Run to the end and join the records in the order of the operations."""
        return self.joined(self.simulation.run_to_end())

    def joined(self, figures: RunFigures) -> RunRecord:
        """Join the records of all blocks."""
        in_order = [record for _, record in sorted(self.retired, key=lambda pair: pair[0])]
        columns = {
            field.name: np.concatenate([getattr(record, field.name) for record in in_order])
            for field in fields(BlockRecord)
        }
        return RunRecord(**vars(figures), **columns)


def whole(case: Case, kernel: str = "auto") -> RunRecord:
    """Run a case as one block."""
    terminals = np.array(case.terminal_of_rank, np.int32)
    run = Simulation(
        case.network, case.schedule, terminals, seed=case.seed, kernel=kernel, threads=1, changes=case.changes
    )
    return run.run()


def assert_same(one: RunRecord, other: RunRecord) -> None:
    """Compare all that was recorded, to the bit."""
    for field in fields(RunRecord):
        if field.name not in ("engine_s", "kernel", "kernel_reason", "threads"):
            assert np.array_equal(getattr(one, field.name), getattr(other, field.name)), field.name


def chained(case: Case, times: int) -> Case:
    """Repeat the schedule of a case, each rank's tasks after all of its tasks before, with a few free ones."""
    schedule = case.schedule
    tasks, messages = schedule.tasks, schedule.messages
    num_operations, num_tasks, num_messages = len(schedule.operations), len(tasks), len(messages)
    predecessors: list[np.ndarray] = []
    for task in range(num_tasks * times):
        turn, row = divmod(task, num_tasks)
        mine = tasks.predecessors[tasks.predecessor_first[row] : tasks.predecessor_first[row + 1]] + turn * num_tasks
        before = np.flatnonzero(tasks.rank == tasks.rank[row]) + (turn - 1) * num_tasks
        free = turn == 0 or (row % 5 == 4 and turn % 2 == 0)
        predecessors.append(np.concatenate([before[:0] if free else before, mine]))
    turns = np.arange(times)
    return replace(
        case,
        schedule=Schedule(
            schedule.num_ranks,
            schedule.operations * times,
            Tasks(
                operation=(np.tile(tasks.operation, times) + np.repeat(turns, num_tasks) * num_operations).astype(
                    np.int32
                ),
                rank=np.tile(tasks.rank, times),
                gap_ps=np.tile(tasks.gap_ps, times),
                not_before_ps=np.tile(tasks.not_before_ps, times)
                + np.repeat(turns, num_tasks) * 2_000 * (np.tile(np.arange(num_tasks), times) % 5 == 4),
                launches=np.tile(tasks.launches, times),
                predecessor_first=offsets(np.array([len(rows) for rows in predecessors], np.int64)),
                predecessors=np.concatenate([*predecessors, np.zeros(0)]).astype(np.int32),
                stream=np.tile(tasks.stream, times),
            ),
            Messages(
                operation=(np.tile(messages.operation, times) + np.repeat(turns, num_messages) * num_operations).astype(
                    np.int32
                ),
                index=np.tile(messages.index, times),
                source_task=(np.tile(messages.source_task, times) + np.repeat(turns, num_messages) * num_tasks).astype(
                    np.int32
                ),
                target_task=(np.tile(messages.target_task, times) + np.repeat(turns, num_messages) * num_tasks).astype(
                    np.int32
                ),
                size_bytes=np.tile(messages.size_bytes, times),
                waits_first=offsets(np.tile(np.diff(messages.waits_first), times)),
                waits_for=(
                    np.tile(messages.waits_for, times) + np.repeat(turns, len(messages.waits_for)) * num_messages
                ).astype(np.int32),
            ),
        ),
    )


@pytest.mark.parametrize("kernel", [C, NUMBA])
@settings(max_examples=60)
@given(case=cases(), operations=st.sampled_from([1, 2, 7]), times=st.sampled_from([1, 5]))
def test_blocks_give_the_record_of_the_whole(case: Case, operations: int, times: int, kernel: str) -> None:
    """Blocks of 1, 2 and 7 operations, also of a schedule long enough for rows to be used again."""
    case = chained(case, times)
    assert_same(Blocks(case, operations, kernel).run(), whole(case))


@settings(max_examples=30)
@given(case=cases(), operations=st.sampled_from([1, 2]), slice_events=st.integers(1, 300))
def test_invariants_hold_between_slices_of_blocks(case: Case, operations: int, slice_events: int) -> None:
    """``check`` finds nothing to complain about while blocks come and go."""
    case = chained(case, 4)
    run = Blocks(case, operations)
    simulation = run.simulation
    check(simulation.state, simulation.network)
    while simulation.advance(slice_events) == Code.SLICE:
        check(simulation.state, simulation.network)
    check(simulation.state, simulation.network)
    simulation.work.finish(simulation.state, run.take)
    assert_same(run.joined(simulation.figures()), whole(case))


@settings(max_examples=60)
@given(case=cases_with_changes(), operations=st.sampled_from([1, 2]), times=st.sampled_from([1, 3]))
def test_blocks_on_a_network_that_changes(case: Case, operations: int, times: int) -> None:
    """Blocks admitted before and after a change give the record of the whole, or are refused as it is."""
    case = chained(case, times)
    try:
        expected = whole(case)
    except UnreachableError:
        with pytest.raises(UnreachableError):
            Blocks(case, operations).run()
    else:
        assert_same(Blocks(case, operations).run(), expected)


@pytest.mark.parametrize("kernel", [C, NUMBA])
def test_a_later_block_that_begins_before_a_change(kernel: str) -> None:
    """The first block begins only after the change; what the second sends before it still goes by the old rates."""
    whole_network = load_fabric("nvl72").network()
    broken = apply_faults(whole_network, [parse_fault("lanes:gpu1-nvswitch.0.5=0.1")], np.arange(2, dtype=np.int32))
    drafts = [
        OperationDraft([TaskDraft(rank, gap_ps=50_000_000) for rank in (0, 1)], [MessageDraft(0, 1, 100_000)]),
        OperationDraft([TaskDraft(rank) for rank in (0, 1)], [MessageDraft(0, 1, 100_000)]),
    ]
    schedule = build_schedule(2, drafts)
    unchanged = Case(whole_network, schedule, 3, (0, 1))
    case = replace(unchanged, changes=(Change(20_000_000, broken),))
    expected = whole(case, kernel)
    assert expected.message_complete_ps[1] == whole(unchanged, kernel).message_complete_ps[1] < 20_000_000
    assert expected.message_complete_ps[0] > whole(unchanged, kernel).message_complete_ps[0] > 50_000_000
    assert_same(Blocks(case, 1, kernel).run(), expected)


def rounds(num_rounds: int) -> Case:
    """A ring of 8 ranks, round by round; each rank also computes beside it, and one task names a round long ago."""
    ring = [MessageDraft(rank, (rank + 1) % 8, 5_000 + 100 * rank) for rank in range(8)]
    drafts = [OperationDraft([TaskDraft(rank) for rank in range(8)], ring)]
    for number in range(1, num_rounds):
        after = (number - 1, 0) if number % 10 == 0 else (number - 1,)
        drafts.append(OperationDraft([TaskDraft(rank, gap_ps=rank, after=after) for rank in range(8)], ring))
    return Case(load_fabric("nvl72").network(), build_schedule(8, drafts), 3, tuple(range(8)))


@pytest.mark.parametrize("threads", [1, 2])
def test_tables_do_not_grow_with_the_workload(threads: int) -> None:
    """A hundred rounds take the rows of ten: blocks that ended make room, though later tasks name them."""
    sizes = []
    for num_rounds in (10, 100):
        case = rounds(num_rounds)
        run = Blocks(case, 2, threads=threads)
        assert_same(run.run(), whole(case))
        sizes.append({name: len(table) for name, table in run.simulation.state._asdict().items()})
        assert len(run.retired) == num_rounds // 2
    small, large = sizes
    small["packets"] = large["packets"] = 0  # they double when a round finds too few
    assert large == small


@pytest.mark.parametrize("threads", [1, 2])
def test_tables_do_not_grow_where_a_stream_runs_ahead(tmp_path: Path, threads: int) -> None:
    """Computation waits for no collective and is soon hundreds of operations ahead: lanes hold what is at hand."""
    network, terminals = load_fabric("nvl72").network(), np.arange(4, dtype=np.int32)
    lengths = {}
    for num_operations in (150, 750):
        write_long_trace(tmp_path / "x.arrow", num_operations, num_ranks=4)
        lanes = schedule_blocks(Trace.open(tmp_path / "x.arrow"), max_operations=16)
        assert len(lanes.lane_operations) == 2
        one_lane = replace(lanes, lane_operations=(lanes.num_operations,), make=lambda _, lanes=lanes: iter(lanes))
        for kind, blocks in (("lanes", lanes), ("one lane", one_lane)):
            digest = Digest()

            def take(
                retired: list[tuple[ScheduleBlock, BlockRecord]], horizon_ps: int, digest: Digest = digest
            ) -> None:
                for block, record in retired:
                    digest.add(block, record)
                digest.advance(horizon_ps)

            run = Simulation(network, blocks, terminals, threads=threads, sink=take)
            run.run_to_end()
            check(run.state, run.network)
            tables = {name: len(table) for name, table in run.state._asdict().items() if name != "packets"}
            lengths[kind, num_operations] = tables, digest.hexdigest()
        assert lengths["lanes", num_operations][1] == lengths["one lane", num_operations][1]
    assert lengths["lanes", 750][0] == lengths["lanes", 150][0]
    for name in ("messages", "parts", "tasks"):
        assert lengths["one lane", 750][0][name] > 2 * lengths["one lane", 150][0][name]


def test_free_rows_are_joined() -> None:
    """Ranges that touch become one, and the first that is long enough is taken."""
    free = FreeRows()
    for first, stop in ((10, 20), (30, 35), (20, 30), (50, 52), (7, 7)):
        free.add(first, stop)
    assert free.take(25) == slice(10, 35)
    assert free.take(3) is None
    assert (free.take(1), free.take(1), free.take(1)) == (slice(50, 51), slice(51, 52), None)
