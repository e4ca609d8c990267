"""The critical path of runs and operations: its parts add up, and are those that a plain search finds."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabricsim.engine.driver import RunRecord, run_schedule
from fabricsim.engine.launch import launch_latencies_ps
from fabricsim.engine.work import PARTS, BlockRecord
from fabricsim.errors import SelfCheckError
from fabricsim.results.attribution import KEYS, Attribution, CriticalPath
from fabricsim.results.collected import Collected
from fabricsim.workloads.schedule import Schedule, ScheduleBlocks
from tests.engine.test_blocks import cut
from tests.oracle.cases import Case, MessageDraft, OperationDraft, TaskDraft, build_schedule, cases
from tests.results.small import crossbar, finished, linear, one_operation

Int64 = npt.NDArray[np.int64]


def run(case: Case) -> RunRecord:
    """Simulate a case."""
    terminals = np.array(case.terminal_of_rank, np.int32)
    return run_schedule(case.network, case.schedule, terminal_of_rank=terminals, seed=case.seed)


def split(time_ps: Int64, random: Random) -> Int64:
    """Cut times into parts at random; some are zero. Times below zero, which are not defined, stay whole."""
    parts = np.zeros((len(time_ps), len(PARTS)), np.int64)
    for row, whole_ps in enumerate(time_ps.tolist()):
        cuts = sorted(random.choice([0, whole_ps, random.randint(0, max(whole_ps, 0))]) for _ in PARTS[1:])
        parts[row] = np.diff([0, *cuts, whole_ps])
    return parts


def with_parts(record: RunRecord, seed: int) -> RunRecord:
    """Put parts at random in the place of what was recorded."""
    random = Random(seed)
    return replace(
        record,
        message_complete_parts_ps=split(record.message_complete_ps - record.message_ready_ps, random),
        message_sent_parts_ps=split(record.message_sent_ps - record.message_ready_ps, random),
    )


def plain_path(case: Case, record: RunRecord) -> dict[str, int]:
    """Go back from the end of the run, one cause at a time, as docs/results.md says it."""
    tasks, messages = case.schedule.tasks, case.schedule.messages
    launch_ps = launch_latencies_ps(case.network.endpoint, case.schedule)
    total = dict.fromkeys(KEYS, 0)

    def add(parts: Int64) -> None:
        for key, part in zip(PARTS, parts.tolist(), strict=True):
            total[key] += part

    def empty(message: int) -> bool:
        return not messages.size_bytes[message] and messages.source_task[message] != messages.target_task[message]

    task: int | None = int(np.argmax(record.task_end_ps))
    while task is not None:
        now = record.task_end_ps[task]
        start = record.task_begin_ps[task] + launch_ps[task]
        message, sent = None, False
        if now > start:
            for row in reversed(range(len(messages))):
                if (
                    messages.source_task[row] == task
                    and messages.carrier[row] == row
                    and record.message_sent_ps[row] == now
                ):
                    message, sent = row, True
            for row in reversed(range(len(messages))):
                if messages.target_task[row] == task and record.message_complete_ps[row] == now and not empty(row):
                    message, sent = row, False
            assert message is not None
        while message is not None:
            add((record.message_sent_parts_ps if sent else record.message_complete_parts_ps)[message])
            message = int(messages.carrier[message])
            ready = record.message_ready_ps[message]
            task = int(messages.source_task[message])
            found = None
            if ready > record.task_begin_ps[task] + launch_ps[task]:
                for other in messages.waits_for[slice(*messages.waits_first[message : message + 2])].tolist():
                    to_itself = messages.source_task[other] == messages.target_task[other]
                    after_sent = messages.source_task[other] == task and not to_itself
                    other = int(messages.carrier[other]) if after_sent else other
                    done = (record.message_sent_ps if after_sent else record.message_complete_ps)[other]
                    if found is None and done == ready and (after_sent or not empty(other)):
                        found = other, bool(after_sent)
                assert found is not None
            message, sent = found or (None, False)
        total["launch"] += int(launch_ps[task])
        total["compute_gap"] += int(tasks.gap_ps[task])
        before = tasks.predecessors[slice(*tasks.predecessor_first[task : task + 2])].tolist()
        last = max(before, key=lambda row: (record.task_end_ps[row], -row), default=None)
        ended = 0 if last is None else int(record.task_end_ps[last])
        total["dependency_wait"] += int(record.task_begin_ps[task] - tasks.gap_ps[task]) - ended
        task = last
    return total


@settings(max_examples=40)
@given(case=cases(), seed=st.integers(0, 2**32))
def test_the_critical_path_is_that_of_a_plain_search(case: Case, seed: int) -> None:
    """On any case, with any parts: all keys, which add up to the simulated time; those of operations to theirs."""
    record = with_parts(run(case), seed)
    collected = Collected.of(case.network, case.schedule, np.array(case.terminal_of_rank, np.int32), record)
    collected.finish(record)
    assert collected.critical_path.ps == plain_path(case, record)
    assert sum(collected.critical_path.ps.values()) == collected.simulated_ps
    for row in collected.operation_rows():
        parts = [row[f"{key}_ps"] for key in KEYS]
        assert sum(parts) == row["time_ps"]
        assert min(parts) >= 0


def rows_of(record: RunRecord, tasks: slice, messages: slice) -> BlockRecord:
    """Return the rows of a block."""
    names = BlockRecord.__dataclass_fields__
    return BlockRecord(
        **{name: getattr(record, name)[tasks if name.startswith("task") else messages] for name in names}
    )


def paths_of_blocks(case: Case, record: RunRecord, operations: int, order: Random | None) -> list[object]:
    """Attribute a case cut into blocks, which come in their order or shuffled; what is kept at the end is nothing."""
    attribution = Attribution(case.network.endpoint)
    blocks = list(ScheduleBlocks.of(case.schedule) if not operations else cut(case.schedule, operations))
    task_of, message_of = case.schedule.tasks.operation, case.schedule.messages.operation
    if order is not None:
        order.shuffle(blocks)
    found = {}
    for block in blocks:
        ends = block.operation[[0, -1]] + [0, 1]
        mine = rows_of(record, *(slice(*np.searchsorted(rows, ends)) for rows in (task_of, message_of)))
        arrival_ps = np.zeros(len(block.operation), np.int64)
        np.maximum.at(arrival_ps, block.schedule.tasks.operation, mine.task_begin_ps)
        found.update(zip(block.operation.tolist(), attribution.take(block, mine, arrival_ps).tolist(), strict=True))
    whole = attribution.finish(int(record.task_end_ps.max()))
    kept = attribution._ends, attribution._left, attribution._open
    assert not any(kept)
    return [whole, [found[number] for number in sorted(found)]]


@settings(max_examples=20)
@given(
    case=cases().filter(lambda case: len(case.schedule.operations) > 1 and not len(case.schedule.messages.groups)),
    seed=st.integers(0, 2**32),
)
def test_blocks_in_any_order_have_the_paths_of_the_whole(case: Case, seed: int) -> None:
    """Blocks may retire before earlier ones that they waited for; the paths are the same, and nothing is kept."""
    record = with_parts(run(case), seed)
    expected = paths_of_blocks(case, record, 0, None)
    for operations in (1, 2):
        assert paths_of_blocks(case, record, operations, None) == expected
        assert paths_of_blocks(case, record, operations, Random(seed)) == expected


def test_each_part_of_a_path_has_its_key() -> None:
    """Launch, a recorded start, a gap, and two messages, one after the other, whose parts are given."""
    drafts = [
        OperationDraft([TaskDraft(0, not_before_ps=700, gap_ps=40, launches=False)]),
        OperationDraft(
            [TaskDraft(0, after=(0,)), TaskDraft(1)],
            [MessageDraft(0, 1, 100), MessageDraft(1, 0, 100, waits_for=(0,))],
        ),
    ]
    schedule, network = build_schedule(2, drafts), crossbar()
    record = run_schedule(network, schedule, terminal_of_rank=linear(schedule), kernel="python")
    # Overhead 300, 120 B and ejection at 1 ps per byte, two channels of 1,000 ps.
    assert (record.message_complete_ps - record.message_ready_ps).tolist() == [2_420, 2_420]
    parts = np.array([[300, 120, 2_000, 0, 0], [300, 100, 1_000, 20, 1_000]])
    result = finished(network, schedule, replace(record, message_complete_parts_ps=parts))
    assert result.collected.critical_path == CriticalPath(
        {
            "launch": 5_000,
            "compute_gap": 40,
            "dependency_wait": 700,
            "endpoint": 600,
            "serialization": 220,
            "propagation": 3_000,
            "credit_stall": 20,
            "queueing": 1_000,
        },
        messages=2,
        tasks=2,
        late_ps=0,
        latest_ps=0,
        latest_rank=0,
    )
    assert result.summary()["attribution"]["percent"]["launch"] == pytest.approx(100 * 5_000 / 10_580)


def test_an_operation_counts_from_its_last_arrival() -> None:
    """Rank 1 arrives 300 + 50 ps after the message of rank 0 was ready: of its parts the first are cut off."""
    draft = OperationDraft(
        [TaskDraft(0, launches=False), TaskDraft(1, not_before_ps=350, launches=False)], [MessageDraft(0, 1, 100)]
    )
    schedule, network = build_schedule(2, [draft]), crossbar()
    record = run_schedule(network, schedule, terminal_of_rank=linear(schedule), kernel="python")
    parts = np.array([[300, 120, 2_000, 0, 0]])
    result = finished(network, schedule, replace(record, message_complete_parts_ps=parts))
    (row,) = result.op_rows()
    assert [row[f"{part}_ps"] for part in PARTS] == [0, 70, 2_000, 0, 0]
    assert row["time_ps"] == 2_070
    assert result.ops["serialization_ps"].to_pylist() == [70]
    assert result.summary()["ops"][0]["attribution_us"]["serialization"] == 70e-6


def test_parts_that_do_not_add_up_are_refused() -> None:
    """A part too long by a picosecond, or below zero, is a defect."""
    schedule: Schedule = one_operation((0, 1, 100))
    network = crossbar()
    record = run_schedule(network, schedule, terminal_of_rank=linear(schedule), kernel="python")
    for parts in ([300, 120, 2_000, 0, 1], [300, 120, 2_001, -1, 0]):
        with pytest.raises(SelfCheckError, match=r"took 7,420 ps, and the parts of that time are"):
            finished(network, schedule, replace(record, message_complete_parts_ps=np.array([parts])))


def test_lateness_is_counted_from_the_median_rank() -> None:
    """Of ranks that begin at 0, 10, 20 and 500 ps the last is late by 490 ps; a gap of its own does not count."""
    for late, expected in ((TaskDraft(3, not_before_ps=500), 490), (TaskDraft(3, gap_ps=500), 0)):
        ranks = [*(TaskDraft(rank, not_before_ps=10 * rank) for rank in range(3)), late]
        schedule = build_schedule(4, [OperationDraft(ranks, [MessageDraft(3, 0, 100)])])
        record = run_schedule(crossbar(), schedule, terminal_of_rank=linear(schedule), kernel="python")
        path = finished(crossbar(), schedule, record).collected.critical_path
        assert (path.late_ps, path.latest_ps, path.latest_rank) == (expected, expected, 3)
