"""What is to be moved, as tables: operations, their tasks (one per rank) and their messages.

A workload knows ranks and bytes, never wires. Collective algorithms and trace replay both end here, and
the engine starts here (docs/physics.md, section 9).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fabricsim.errors import TraceError

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Operation:
    """One collective, transfer or computation, over all its ranks.

    ``size_bytes`` is the size as nccl-tests defines it; ``recorded_ps`` what the recording took from the last
    rank's start to the last rank's end, ``None`` where it does not say. ``recorded_algorithm`` is the recording's word
    where its algorithm is not ``algorithm``, else empty. ``descriptors`` counts what a rank handles one by one, such as
    the tokens of an MoE dispatch; 0 where that is not known. ``is_join`` marks what is no operation of the workload,
    but the end of several, so that others can wait for all of them at once.
    """

    name: str
    op: str
    algorithm: str
    ranks: tuple[int, ...]
    size_bytes: int
    recorded_ps: int | None = None
    recorded_algorithm: str = ""
    descriptors: int = 0
    is_join: bool = False


@dataclass(frozen=True)
class Tasks:
    """One row per operation and rank, grouped by operation in operation order.

    A task begins when its predecessors (tasks of the same rank) have ended and the simulated time has reached
    ``not_before_ps``, plus ``gap_ps``; it starts one launch latency later if ``launches``, else at once.
    ``predecessors[predecessor_first[i] : predecessor_first[i + 1]]`` are task rows. ``stream`` is the one that a trace
    names, for those who look at results: it decides nothing. Given as one number it is that of all tasks.
    """

    operation: Int32
    rank: Int32
    gap_ps: Int64
    not_before_ps: Int64
    launches: Bool
    predecessor_first: Int64
    predecessors: Int32
    stream: Int32 = field(default_factory=lambda: np.zeros((), dtype=np.int32))

    def __post_init__(self) -> None:
        if not self.stream.ndim:
            object.__setattr__(self, "stream", np.broadcast_to(self.stream, len(self)))

    def __len__(self) -> int:
        return len(self.operation)


@dataclass(frozen=True)
class Groups:
    """In-network operations (docs/physics.md, section 14): what the switches make of some messages, one row each.

    A group is the messages ``first`` .. ``first + count - 1`` of one operation, all of one size. The first ``sources``
    of them, its carriers, are injected, and message i of the group has the source of carrier i mod ``sources``. One
    source: a multicast, whose carrier goes from its task to itself, as one of the copies. Several: a reduction; its
    messages go from a task to itself, and message i is the i-th result.
    """

    first: Int64
    count: Int64
    sources: Int64

    def __len__(self) -> int:
        return len(self.first)

    @classmethod
    def none(cls) -> Groups:
        """Return the table without a row."""
        return cls(*(np.empty(0, dtype=np.int64) for _ in range(3)))

    def rows(self) -> tuple[Int64, Int64, Int64]:
        """List all messages of groups: the message, its group, and its place in the group."""
        message = slices(self.first, self.count)
        group = np.repeat(np.arange(len(self)), self.count)
        return message, group, message - self.first[group]


@dataclass(frozen=True)
class Messages:
    """One row per message, sorted by (operation, index).

    ``index`` counts 0, 1, ... inside the operation. ``waits_for[waits_first[i] : waits_first[i + 1]]`` are
    message rows of the same operation that were sent from or to this message's source rank: the message waits
    until each of them is sent (if that rank sent it) or complete (if that rank receives it).
    A message may have ``size_bytes`` 0 or the same rank at both ends; neither makes a packet, but in ``groups``.
    """

    operation: Int32
    index: Int32
    source_task: Int32
    target_task: Int32
    size_bytes: Int64
    waits_first: Int64
    waits_for: Int32
    groups: Groups = field(default_factory=Groups.none)

    def __len__(self) -> int:
        return len(self.operation)

    @cached_property
    def carrier(self) -> Int64:
        """The message that is injected for each: itself, but in groups."""
        carrier = np.arange(len(self))
        message, group, place = self.groups.rows()
        carrier[message] = self.groups.first[group] + place % self.groups.sources[group]
        return carrier

    @cached_property
    def toward_task(self) -> Int32:
        """A task to whose rank each message takes a way: its target, or in groups the next member after its source."""
        groups = self.groups
        if not len(groups):
            return self.target_task
        toward = self.target_task.copy()
        message, group, place = groups.rows()
        first, sources = groups.first[group], groups.sources[group]
        after = self.source_task[first + (place + 1) % sources]
        toward[message] = np.where(sources == 1, self.target_task[first + 1], after)
        return toward


@dataclass(frozen=True)
class Schedule:
    """A workload ready for the engine."""

    num_ranks: int
    operations: tuple[Operation, ...]
    tasks: Tasks
    messages: Messages


NO_BEGIN_PS = 2**62
"""Stands for the begin of a task that there is not; later than any time of a run."""


@dataclass(frozen=True)
class ScheduleBlock:
    """Operations that stand next to one another in a lane, and what ties them to the blocks before and after.

    ``schedule`` numbers operations, tasks and messages from 0 and holds the predecessors inside the block;
    ``operation`` and ``task`` are the numbers, ascending, that its operations and tasks have in the whole workload.
    Task ``earlier_task[k]`` of the block waits besides for ``earlier_predecessor[k]``, a task of an earlier block that
    is counted in the whole workload. No task waits for one of a later block.

    So that a reader knows when the next block is needed: the tasks ``awaited`` of the block, in ascending order, are
    those that stand last among the predecessors of a task of a later block, and the last task for which
    ``awaited[k]`` does is ``awaited_by[k]`` of the whole workload. In no later block does a task without predecessors
    begin before ``later_begin_ps`` (``not_before_ps`` + ``gap_ps`` of the first one; NO_BEGIN_PS where there is none).
    And so that he knows what to keep of this one: ``later_successors[k]`` tasks of later blocks wait for task k.

    All this holds within a lane: no task waits for one of another lane.
    """

    schedule: Schedule
    operation: Int64
    task: Int64
    earlier_task: Int64
    earlier_predecessor: Int64
    awaited: Int64
    awaited_by: Int64
    later_begin_ps: int
    later_successors: Int64


@dataclass(frozen=True)
class ScheduleBlocks:
    """A workload in blocks, which are made each time that one goes through them.

    The engine needs one block after the other, so that long workloads need not be held as a whole. *Lanes* are parts
    of a workload that do not wait for each other, so that a run can be much farther in one than in another; lane l has
    ``lane_operations[l]`` operations. ``make`` gives the blocks of a lane, or for ``None`` those of the whole workload,
    as if it were one lane.
    """

    num_ranks: int
    lane_operations: tuple[int, ...]
    num_tasks: int
    make: Callable[[int | None], Iterator[ScheduleBlock]]

    @classmethod
    def of(cls, schedule: Schedule) -> ScheduleBlocks:
        """Take a schedule as one block."""
        none = np.empty(0, dtype=np.int64)
        operation, task = np.arange(len(schedule.operations)), np.arange(len(schedule.tasks))
        block = ScheduleBlock(
            schedule, operation, task, none, none, none, none, NO_BEGIN_PS, np.zeros(len(task), dtype=np.int64)
        )
        return cls(schedule.num_ranks, (len(schedule.operations),), len(schedule.tasks), lambda lane: iter([block]))

    @property
    def num_operations(self) -> int:
        """Number of operations in all lanes."""
        return sum(self.lane_operations)

    def __iter__(self) -> Iterator[ScheduleBlock]:
        return self.make(None)


@dataclass(frozen=True)
class MessageBlock:
    """The messages of one operation as an algorithm gives them, in places of the operation's ranks (0, 1, ...).

    Rows stand in index order: grouped by source, in the order in which the source sends them.
    ``waits_for[waits_first[i] : waits_first[i + 1]]`` are rows of this block, under the rule of :class:`Messages`.
    ``groups`` counts the rows of this block too; the messages of a group need not be grouped by source.
    """

    source: Int32
    target: Int32
    size_bytes: Int64
    waits_first: Int64
    waits_for: Int32
    groups: Groups = field(default_factory=Groups.none)

    def __len__(self) -> int:
        return len(self.source)


def join_messages(first_task: Int64, blocks: Sequence[tuple[int | Int64, MessageBlock]]) -> Messages:
    """Put the blocks of all operations into one table.

    ``first_task`` (shape [number of operations]) is the task row of place 0 of each operation. A block comes with
    the number of its operation, or with one operation for each of its rows: operations of a single message without
    waits, a quick way for many transfers. An operation may have no block, but not two.

    Raises TraceError where the rows do not fit 32-bit numbers.
    """
    counts = np.zeros(len(first_task), dtype=np.int64)
    for operation, block in blocks:
        counts[operation] = len(block) if isinstance(operation, int) else 1
    first_message = offsets(counts)
    total = int(first_message[-1])
    total_waits = sum(len(block.waits_for) for _, block in blocks)
    if max(total, total_waits) > np.iinfo(np.int32).max:
        raise TraceError(
            f"the workload has {total} messages with {total_waits} waits, more than the 2147483647 of one schedule; "
            "split it into shorter traces or use fewer ranks"
        )
    messages = Messages(
        operation=np.empty(total, dtype=np.int32),
        index=np.empty(total, dtype=np.int32),
        source_task=np.empty(total, dtype=np.int32),
        target_task=np.empty(total, dtype=np.int32),
        size_bytes=np.empty(total, dtype=np.int64),
        waits_first=np.zeros(total + 1, dtype=np.int64),
        waits_for=np.empty(total_waits, dtype=np.int32),
    )
    wait_counts = messages.waits_first[1:]
    # Waits stand in the order of the messages, so blocks with waits must come in the order of their operations.
    waits_end = 0
    for operation, block in sorted(blocks, key=lambda pair: pair[0] if isinstance(pair[0], int) else -1):
        first = first_message[operation]
        rows = slice(first, first + len(block)) if isinstance(operation, int) else first
        messages.operation[rows] = operation
        messages.index[rows] = np.arange(len(block)) if isinstance(operation, int) else 0
        messages.source_task[rows] = block.source + first_task[operation]
        messages.target_task[rows] = block.target + first_task[operation]
        messages.size_bytes[rows] = block.size_bytes
        if len(block.waits_for):
            wait_counts[rows] = np.diff(block.waits_first)
            waits_begin, waits_end = waits_end, waits_end + len(block.waits_for)
            messages.waits_for[waits_begin:waits_end] = block.waits_for + first
    if total_waits:  # else they are zeros already, in pages that no one has touched
        np.cumsum(wait_counts, out=wait_counts)
    grouped = [(first_message[operation], block.groups) for operation, block in blocks if len(block.groups)]
    if not grouped:
        return messages
    return replace(
        messages,
        groups=Groups(
            first=np.concatenate([first + groups.first for first, groups in grouped]),
            count=np.concatenate([groups.count for _, groups in grouped]),
            sources=np.concatenate([groups.sources for _, groups in grouped]),
        ),
    )


def offsets(counts: npt.NDArray[np.integer]) -> Int64:
    """Say where each run of rows begins, with the total at the end: [0, c0, c0 + c1, ...]."""
    first = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=first[1:])
    return first


def slices(first: Int64, count: Int64) -> Int64:
    """Give the numbers ``first[i], first[i] + 1, ...`` (``count[i]`` of them) for all i, one after the other."""
    begin = offsets(count)
    return np.arange(begin[-1]) + np.repeat(first - begin[:-1], count)
