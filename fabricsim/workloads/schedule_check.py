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
    _check_groups(schedule)
    _check_ends(schedule)


def _check_tasks(schedule: Schedule) -> None:
    tasks = schedule.tasks
    columns = (tasks.rank, tasks.gap_ps, tasks.not_before_ps, tasks.launches, tasks.stream)
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


def _check_groups(schedule: Schedule) -> None:
    """Hold the groups of in-network operations against docs/physics.md, section 14."""
    messages, groups = schedule.messages, schedule.messages.groups
    ends = groups.first + groups.count
    if ((groups.first < 0) | (ends > len(messages)) | (groups.count < 2)).any() or (
        (groups.sources < 1) | (groups.count % np.maximum(groups.sources, 1) > 0)
    ).any():
        raise TraceError("a group has at least 2 messages of the schedule, as many or some times as many as carriers")
    row, group, place = groups.rows()
    first, sources = groups.first[group], groups.sources[group]
    source, target = messages.source_task, messages.target_task
    is_carrier = place < sources
    num_waits = np.diff(messages.waits_first)
    # The members of a multicast are its targets, those of a reduction its first sources.
    member = np.stack([group, target[row]])[:, (sources == 1) | is_carrier]
    unlike = np.zeros(len(messages), np.bool_)
    unlike[row] = (
        (messages.operation[row] != messages.operation[first])
        | (messages.size_bytes[row] != messages.size_bytes[first])
        | (messages.size_bytes[row] == 0)
        | (~is_carrier & (num_waits[row] > 0))
        | (source[row] != source[first + place % sources])
        | (((sources > 1) | is_carrier) & (source[row] != target[row]))
    )
    _refuse_message(
        schedule,
        unlike,
        "is not like its group: all are of one operation and one size above 0, only carriers wait for others, a "
        "multicast goes from one task to itself first, and a reduction from each task to itself, round by round",
    )
    if np.unique(member, axis=1).shape[1] < member.shape[1]:
        raise TraceError("a task is twice in one group; name each member of a multicast or reduction once")
    _refuse_message(schedule, np.bincount(row, minlength=len(messages)) > 1, "is in two groups")
    reducing = source[row[is_carrier & (sources > 1)]]
    if len(np.unique(reducing)) < len(reducing):
        raise TraceError(
            "an operation has two reductions in the network at one rank; give each an operation of its own"
        )
    _check_reductions(schedule, np.sort(reducing).astype(np.int64))


def _check_reductions(schedule: Schedule, tasks: Int64) -> None:
    """Refuse two tasks of a rank that reduce in the network and neither of which waits for the other."""
    table = schedule.tasks
    before: dict[int, int] = {}
    for task in tasks.tolist():
        earlier = before.get(rank := int(table.rank[task]))
        before[rank] = task
        if earlier is None:
            continue
        open_, met = [task], {task}
        while open_ and earlier not in met:
            one = open_.pop()
            found = table.predecessors[table.predecessor_first[one] : table.predecessor_first[one + 1]].tolist()
            open_ += [other for other in found if other not in met]
            met.update(found)
        if earlier not in met:
            raise TraceError(
                f"{_operation(schedule, int(table.operation[task]))} and "
                f"{_operation(schedule, int(table.operation[earlier]))} may both reduce in the network for rank {rank} "
                "at once, and would wait for each other: let the later one wait for the earlier one"
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
    # What switches make of a message comes after it, and no member of a reduction ends before all have sent.
    row, group, place = messages.groups.rows()
    copies = row[(messages.groups.sources[group] == 1) & (place > 0)]
    reductions = (
        messages.groups.first[messages.groups.sources > 1],
        messages.groups.sources[messages.groups.sources > 1],
    )
    sent = [first + np.repeat(np.arange(size), size) for first, size in zip(*reductions, strict=True)]
    ended = [first + np.tile(np.arange(size), size) for first, size in zip(*reductions, strict=True)]
    none = np.empty(0, np.int64)
    before = np.concatenate(
        [
            task,
            len(tasks) + tasks.predecessors,
            messages.source_task,
            message,
            message[awaited],
            message[messages.waits_for][counts],
            message[messages.carrier[copies]],
            message[np.concatenate([none, *sent])],
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
            message[copies],
            len(tasks) + messages.target_task[np.concatenate([none, *ended])],
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
