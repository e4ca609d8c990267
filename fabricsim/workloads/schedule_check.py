"""Whether a schedule keeps the rules of its tables and can come to an end."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fabricsim.errors import TraceError
from fabricsim.graphs import find_cycle
from fabricsim.workloads.schedule import Bool, Int64, Schedule


def check_schedule(schedule: Schedule) -> None:
    """Refuse a schedule that breaks a rule of :mod:`fabricsim.workloads.schedule` or waits for itself.

    The collectives and the replay keep the rules; this is for schedules put together by hand.

    Raises
    ------
    TraceError
        Names the first operation and the ranks that break a rule, or those that wait in a circle.
    """
    _check_tasks(schedule)
    _check_messages(schedule)
    _check_ends(schedule)


def _check_tasks(schedule: Schedule) -> None:
    tasks = schedule.tasks
    columns = (tasks.rank, tasks.gap_ps, tasks.not_before_ps, tasks.launches)
    if any(len(column) != len(tasks) for column in columns):
        raise TraceError("the columns of the schedule's tasks differ in length; give each task one value in each")
    ranks = [rank for operation in schedule.operations for rank in operation.ranks]
    counts = [len(operation.ranks) for operation in schedule.operations]
    expected_operation = np.repeat(np.arange(len(counts)), counts)
    if len(tasks) != len(ranks) or (tasks.operation != expected_operation).any() or (tasks.rank != ranks).any():
        raise TraceError(
            "the schedule's tasks are not one per operation and rank, in the order of the operations and of their ranks"
        )
    for number, operation in enumerate(schedule.operations):
        if len(set(operation.ranks)) != len(operation.ranks) or not operation.ranks:
            raise TraceError(f"{_operation(schedule, number)} needs each of its ranks once, not {operation.ranks}")
    outside = (tasks.rank < 0) | (tasks.rank >= schedule.num_ranks)
    _refuse_task(schedule, outside, f"has a rank outside 0 .. {schedule.num_ranks - 1}")
    _refuse_task(schedule, tasks.gap_ps < 0, "has a negative gap_ps")
    _refuse_task(schedule, tasks.not_before_ps < 0, "has a negative not_before_ps")
    waiting = _waiting_rows("predecessors", tasks.predecessor_first, tasks.predecessors, len(tasks))
    _refuse_task(
        schedule,
        np.bincount(waiting[tasks.rank[tasks.predecessors] != tasks.rank[waiting]], minlength=len(tasks)) > 0,
        "has a predecessor of another rank; ranks wait for one another by messages only",
    )


def _check_messages(schedule: Schedule) -> None:
    tasks, messages = schedule.tasks, schedule.messages
    columns = (messages.index, messages.source_task, messages.target_task, messages.size_bytes)
    if any(len(column) != len(messages) for column in columns):
        raise TraceError("the columns of the schedule's messages differ in length; give each message one value in each")
    operation = messages.operation
    if len(messages) and not 0 <= operation.min() <= operation.max() < len(schedule.operations):
        raise TraceError("a message belongs to an operation that the schedule does not have")
    begins = np.diff(operation, prepend=-1) != 0
    rows = np.arange(len(messages))
    expected_index = rows - np.maximum.accumulate(np.where(begins, rows, 0))
    _refuse_message(schedule, np.diff(operation, prepend=0) < 0, "does not stand in the order of the operations")
    _refuse_message(schedule, messages.index != expected_index, "has another index than its place in the operation")
    for column in (messages.source_task, messages.target_task):
        known = (column >= 0) & (column < len(tasks))
        _refuse_message(schedule, ~known, "has an end at a task that the schedule does not have")
        _refuse_message(schedule, tasks.operation[column] != operation, "has an end at a task of another operation")
    _refuse_message(schedule, messages.size_bytes < 0, "has a negative size_bytes")
    waiting = _waiting_rows("waits_for", messages.waits_first, messages.waits_for, len(messages))
    waits_for = messages.waits_for
    foreign = waiting[operation[waits_for] != operation[waiting]]
    _refuse_message(schedule, np.bincount(foreign, minlength=len(messages)) > 0, "waits for one of another operation")
    source = messages.source_task[waiting]
    unseen = waiting[(messages.source_task[waits_for] != source) & (messages.target_task[waits_for] != source)]
    _refuse_message(
        schedule,
        np.bincount(unseen, minlength=len(messages)) > 0,
        "waits for one that its source neither sends nor receives",
    )


def _check_ends(schedule: Schedule) -> None:
    """Refuse what waits in a circle. Nodes are the begins of the tasks, their ends, then the messages."""
    tasks, messages = schedule.tasks, schedule.messages
    task = np.arange(len(tasks))
    message = 2 * len(tasks) + np.arange(len(messages))
    # A target does not wait for a message of zero bytes (docs/physics.md, section 9).
    awaited = (messages.size_bytes > 0) | (messages.source_task == messages.target_task)
    waiting = _waiting_rows("waits_for", messages.waits_first, messages.waits_for, len(messages))
    sent_there = messages.source_task[messages.waits_for] == messages.source_task[waiting]
    counts = sent_there | awaited[messages.waits_for]
    before = np.concatenate(
        [
            task,
            len(tasks) + tasks.predecessors,
            messages.source_task,
            message,
            message[awaited],
            message[messages.waits_for][counts],
        ]
    )
    after = np.concatenate(
        [
            len(tasks) + task,
            _waiting_rows("predecessors", tasks.predecessor_first, tasks.predecessors, len(tasks)),
            message,
            len(tasks) + messages.source_task,
            len(tasks) + messages.target_task[awaited],
            message[waiting[counts]],
        ]
    )
    num_nodes = 2 * len(tasks) + len(messages)
    cycle = find_cycle(num_nodes, before, after)
    if cycle:
        names = [_node(schedule, node) for node in [cycle[0], *reversed(cycle)]]
        told = [name for place, name in enumerate(names) if place == 0 or name != names[place - 1]]
        raise TraceError(
            "the schedule can never end: "
            + " waits for ".join(told)
            + "; let all ranks have their operations in one order"
        )


def _node(schedule: Schedule, node: int) -> str:
    num_tasks = len(schedule.tasks)
    task = node % num_tasks if node < 2 * num_tasks else int(schedule.messages.source_task[node - 2 * num_tasks])
    return f"{_operation(schedule, int(schedule.tasks.operation[task]))} at rank {schedule.tasks.rank[task]}"


def _waiting_rows(what: str, first: Int64, values: npt.NDArray[np.integer], num_rows: int) -> Int64:
    """Give for each value the row whose list it stands in; refuse lists that are none."""
    if len(first) != num_rows + 1 or first[0] != 0 or first[-1] != len(values) or (np.diff(first) < 0).any():
        raise TraceError(
            f"the offsets of {what} must be {num_rows + 1} numbers that rise from 0 to the {len(values)} values"
        )
    if len(values) and not 0 <= values.min() <= values.max() < num_rows:
        raise TraceError(f"{what} name rows {values.min()} .. {values.max()}, but there are only {num_rows}")
    return np.repeat(np.arange(num_rows), np.diff(first))


def _refuse_task(schedule: Schedule, wrong: Bool, why: str) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise TraceError(
            f"{_operation(schedule, int(schedule.tasks.operation[row]))} at rank {schedule.tasks.rank[row]} {why}"
        )


def _refuse_message(schedule: Schedule, wrong: Bool, why: str) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        messages = schedule.messages
        ranks = ""
        if 0 <= messages.source_task[row] < len(schedule.tasks) and 0 <= messages.target_task[row] < len(
            schedule.tasks
        ):
            source, target = schedule.tasks.rank[[messages.source_task[row], messages.target_task[row]]]
            ranks = f" from rank {source} to rank {target}"
        raise TraceError(
            f"message {messages.index[row]} of {_operation(schedule, int(messages.operation[row]))}{ranks} {why}"
        )


def _operation(schedule: Schedule, number: int) -> str:
    return f"operation {number} ({schedule.operations[number].name})"
