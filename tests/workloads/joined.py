"""All blocks of a workload as one schedule, to compare with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from fabricsim.workloads.schedule import Int64, Messages, Schedule, ScheduleBlock, Tasks, offsets


def joined(blocks: Iterable[ScheduleBlock]) -> Schedule:
    """Join all blocks, in whatever order they come, into one schedule."""
    parts = list(blocks)
    if len(parts) == 1:
        return parts[0].schedule
    operations = {
        number: operation
        for block in parts
        for number, operation in zip(block.operation.tolist(), block.schedule.operations, strict=True)
    }
    return Schedule(
        parts[0].schedule.num_ranks,
        tuple(operations[number] for number in range(len(operations))),
        whole_tasks(parts),
        whole_messages(parts),
    )


def whole_tasks(blocks: Sequence[ScheduleBlock]) -> Tasks:
    """Join the tasks of all blocks; the predecessors of a task stand in ascending order."""
    waiting, awaited = [], []
    for block in blocks:
        tasks = block.schedule.tasks
        inside = np.repeat(np.arange(len(tasks)), np.diff(tasks.predecessor_first))
        waiting.append(block.task[np.concatenate([inside, block.earlier_task])])
        awaited.append(np.concatenate([block.task[tasks.predecessors], block.earlier_predecessor]))
    task, predecessor = np.concatenate(waiting), np.concatenate(awaited)
    tables = [block.schedule.tasks for block in blocks]
    order = np.argsort(np.concatenate([block.task for block in blocks]))
    return Tasks(
        operation=narrow(
            [block.operation[table.operation] for block, table in zip(blocks, tables, strict=True)], order
        ),
        rank=np.concatenate([table.rank for table in tables])[order],
        gap_ps=np.concatenate([table.gap_ps for table in tables])[order],
        not_before_ps=np.concatenate([table.not_before_ps for table in tables])[order],
        launches=np.concatenate([table.launches for table in tables])[order],
        predecessor_first=offsets(np.bincount(task, minlength=len(order))),
        predecessors=predecessor[np.lexsort((predecessor, task))].astype(np.int32),
        stream=np.concatenate([table.stream for table in tables])[order],
    )


def whole_messages(blocks: Sequence[ScheduleBlock]) -> Messages:
    """Join the messages of all blocks."""
    tables = [block.schedule.messages for block in blocks]
    first_message = offsets(np.array([len(table) for table in tables]))[:-1].tolist()
    operation = [block.operation[table.operation] for block, table in zip(blocks, tables, strict=True)]
    index = np.concatenate([table.index for table in tables])
    order = np.lexsort((index, np.concatenate(operation)))
    place = np.argsort(order)
    waits = np.concatenate([np.diff(table.waits_first) for table in tables])
    waits_for = np.concatenate([first + table.waits_for for first, table in zip(first_message, tables, strict=True)])
    waiter = np.repeat(place, waits)
    return Messages(
        operation=narrow(operation, order),
        index=index[order],
        source_task=narrow([block.task[table.source_task] for block, table in zip(blocks, tables, strict=True)], order),
        target_task=narrow([block.task[table.target_task] for block, table in zip(blocks, tables, strict=True)], order),
        size_bytes=np.concatenate([table.size_bytes for table in tables])[order],
        waits_first=offsets(waits[order]),
        waits_for=place[waits_for][np.argsort(waiter, kind="stable")].astype(np.int32),
    )


def narrow(parts: Sequence[Int64], order: Int64) -> npt.NDArray[np.int32]:
    """Join numbers that count in the whole, all of which fit 32 bits."""
    return np.concatenate(parts)[order].astype(np.int32)
