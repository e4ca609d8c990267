"""All blocks of a workload as one schedule, to compare with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fabricsim.workloads.schedule import Messages, Schedule, ScheduleBlock, ScheduleBlocks, Tasks, offsets

Int32 = npt.NDArray[np.int32]


def joined(blocks: ScheduleBlocks) -> Schedule:
    """Join all blocks into one schedule."""
    parts = list(blocks)
    if len(parts) == 1:
        return parts[0].schedule
    return Schedule(
        blocks.num_ranks,
        tuple(operation for block in parts for operation in block.schedule.operations),
        whole_tasks(parts),
        whole_messages(parts),
    )


def whole_tasks(blocks: Sequence[ScheduleBlock]) -> Tasks:
    """Join the tasks of all blocks; the predecessors of a task stand in ascending order."""
    waiting, awaited = [], []
    for block in blocks:
        tasks = block.schedule.tasks
        inside = np.repeat(np.arange(len(tasks)), np.diff(tasks.predecessor_first))
        waiting.append(block.first_task + np.concatenate([inside, block.earlier_task]))
        awaited.append(np.concatenate([block.first_task + tasks.predecessors, block.earlier_predecessor]))
    task, predecessor = np.concatenate(waiting), np.concatenate(awaited)
    tables = [block.schedule.tasks for block in blocks]
    return Tasks(
        operation=counted_on([table.operation for table in tables], [block.first_operation for block in blocks]),
        rank=np.concatenate([table.rank for table in tables]),
        gap_ps=np.concatenate([table.gap_ps for table in tables]),
        not_before_ps=np.concatenate([table.not_before_ps for table in tables]),
        launches=np.concatenate([table.launches for table in tables]),
        predecessor_first=offsets(np.bincount(task, minlength=sum(len(table) for table in tables))),
        predecessors=predecessor[np.lexsort((predecessor, task))].astype(np.int32),
    )


def whole_messages(blocks: Sequence[ScheduleBlock]) -> Messages:
    """Join the messages of all blocks."""
    tables = [block.schedule.messages for block in blocks]
    first_message = offsets(np.array([len(table) for table in tables]))[:-1].tolist()
    first_task = [block.first_task for block in blocks]
    return Messages(
        operation=counted_on([table.operation for table in tables], [block.first_operation for block in blocks]),
        index=np.concatenate([table.index for table in tables]),
        source_task=counted_on([table.source_task for table in tables], first_task),
        target_task=counted_on([table.target_task for table in tables], first_task),
        size_bytes=np.concatenate([table.size_bytes for table in tables]),
        waits_first=offsets(np.concatenate([np.diff(table.waits_first) for table in tables])),
        waits_for=counted_on([table.waits_for for table in tables], first_message),
    )


def counted_on(parts: Sequence[Int32], firsts: Sequence[int]) -> Int32:
    """Join numbers that count in their block, the first of which is ``firsts[b]`` in the whole; all fit 32 bits."""
    return np.concatenate([part + np.int64(first) for part, first in zip(parts, firsts, strict=True)]).astype(np.int32)
