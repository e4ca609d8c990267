"""Where the time went: the critical path of a run and of each operation, in picoseconds that add up.

Every instant of the critical path has a cause, and that is the last of all that it waited for (docs/results.md,
"Attribution"). Going back from the end of a task:

* A task *ends* with the last message that it sends or receives, or at its start if none is later.
* A message is *sent* or *complete* after it was ready, and what the engine recorded of it says what that time was.
* A message is *ready* when the last message that it waits for is sent or complete, or its task starts.
* A task *starts* one launch latency after its begin. It *begins* when the last of its predecessors has ended, its
  recorded time has come and its gap has passed; without predecessors it counts from time zero.

Of several that are last, the start of the task counts before any message, a message that is received before one that is
sent, an earlier block before a later one, and then the first in the order of the schedule. So there is one path from
each end back to time zero, and the times on it add up to that end: nothing is measured twice or left out.

Paths of one block are followed in NumPy, all of them one step back at a time, first from message to message, then from
task to task. What later blocks may continue is kept by task, for as long as such blocks are to come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fabricsim.engine.launch import launch_latencies_ps
from fabricsim.engine.work import PARTS, BlockRecord
from fabricsim.fabrics.network import Endpoint
from fabricsim.results.checks import defect
from fabricsim.results.waits import waits_of
from fabricsim.workloads.schedule import Schedule, ScheduleBlock, offsets

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]

#: What the time on a critical path is made of.
KEYS = ("launch", "compute_gap", "dependency_wait", *PARTS)

LAUNCH, COMPUTE_GAP, DEPENDENCY_WAIT, FIRST_PART = range(4)
# What is counted of a path beside its time: messages, tasks, and for how long tasks that it passes began after the
# median of their operations' ranks; the longest of these times, which does not add up, and the rank that it was.
MESSAGES, TASKS, LATE, LATEST, LATEST_RANK = range(len(KEYS), len(KEYS) + 5)
_WIDTH = len(KEYS) + 5

#: A median of fewer ranks says nothing of the others.
MIN_RANKS_TO_BE_LATE = 3


@dataclass(frozen=True)
class CriticalPath:
    """The critical path of a run.

    ``ps`` has the time of each of ``KEYS``, which add up to the simulated time. The path passes ``messages`` and
    ``tasks``; the latter began ``late_ps`` in all after the median of their operations' ranks, one of rank
    ``latest_rank`` by ``latest_ps``, the most of them.
    """

    ps: dict[str, int]
    messages: int
    tasks: int
    late_ps: int
    latest_ps: int
    latest_rank: int

    @property
    def percent(self) -> dict[str, float]:
        """Parts of the whole in percent; all zero for a run of no time."""
        total_ps = sum(self.ps.values())
        return {key: 100 * part_ps / max(total_ps, 1) for key, part_ps in self.ps.items()}


@dataclass(frozen=True)
class _End:
    """The end of a task, with the path to it from time zero, or from the begin of task ``base``, which is open.

    Tasks are counted in the whole workload.
    """

    task: int
    end_ps: int
    path: Int64
    base: int | None = None

    def dump(self) -> list[int]:
        """Return it as numbers."""
        return [self.task, self.end_ps, -1 if self.base is None else self.base, *self.path.tolist()]

    @classmethod
    def loaded(cls, numbers: Sequence[int]) -> _End:
        """Make it of what ``dump`` gave."""
        task, end_ps, base, *path = numbers
        return cls(task, end_ps, np.array(path, np.int64), None if base < 0 else base)


@dataclass
class _Open:
    """The begin of a task for which some predecessors are in blocks that were not taken yet.

    ``best`` is the last of those that were; at ``reached_ps`` the gap of ``gap_ps`` began.
    """

    missing: set[int]
    best: _End | None
    reached_ps: int
    gap_ps: int


class Attribution:
    """Takes the blocks of a run in any order, and gives the critical path of the whole and of each operation."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._ends: dict[int, _End] = {}  # of tasks that tasks of later blocks wait for
        self._left: Counter[int] = Counter()  # how many of those are to come; negative where they came first
        self._open: dict[int, _Open] = {}
        self._last: _End | None = None

    def dump(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "ends": [end.dump() for end in self._ends.values()],
            "left": sorted(self._left.items()),
            "open": [
                [task, sorted(begin.missing), begin.best and begin.best.dump(), begin.reached_ps, begin.gap_ps]
                for task, begin in self._open.items()
            ],
            "last": self._last and self._last.dump(),
        }

    def load(self, stored: Mapping[str, Any]) -> None:
        """Take over what ``dump`` gave."""
        ends = [_End.loaded(numbers) for numbers in stored["ends"]]
        self._ends = {end.task: end for end in ends}
        self._left = Counter(dict(stored["left"]))
        self._open = {
            task: _Open(set(missing), best and _End.loaded(best), reached_ps, gap_ps)
            for task, missing, best, reached_ps, gap_ps in stored["open"]
        }
        self._last = stored["last"] and _End.loaded(stored["last"])

    def take(self, block: ScheduleBlock, record: BlockRecord, arrival_ps: Int64) -> Int64:
        """Take a block whose operations have their last ranks arrive at ``arrival_ps`` (shape (operations,)).

        Returns the critical path of each operation from there to its end, int64 picoseconds of shape (operations,
        KEYS). A message that was ready before counts with what is left of it, its parts taken to have come one after
        the other in the order of ``PARTS``.
        """
        schedule = block.schedule
        tasks, count = schedule.tasks, len(schedule.tasks)
        if not count:
            return np.zeros((len(schedule.operations), len(KEYS)), np.int64)
        start_ps = record.task_begin_ps + launch_latencies_ps(self._endpoint, schedule)
        last = _last_of_operations(schedule, record.task_end_ps)
        waits = _Waits.of(block, record.task_end_ps)

        heads = np.zeros(count, np.bool_)
        heads[last] = True
        heads[tasks.predecessors] = True
        heads |= block.later_successors > 0
        head = np.flatnonzero(heads)
        steps = _Steps.of(schedule, record, start_ps, head)
        place = np.zeros(count, np.int64)
        place[head] = np.arange(len(head))

        path = np.zeros((len(head), _WIDTH), np.int64)
        path[:, LAUNCH] = (start_ps - record.task_begin_ps)[steps.root]
        path[:, FIRST_PART : FIRST_PART + len(PARTS)] = steps.sums(steps.parts_ps)
        path[:, MESSAGES] = steps.depth
        path[:, TASKS] = 1
        path[:, LATE] = path[:, LATEST] = _late_ps(schedule, record)[steps.root]
        path[:, LATEST_RANK] = tasks.rank[steps.root]
        operations_ps = _operation_paths(schedule, record, start_ps, arrival_ps, steps, place[last])
        self._carry(block, record, waits, head, steps.root, path)
        return operations_ps

    def finish(self, simulated_ps: int) -> CriticalPath:
        """Return the critical path of the run, which ended at *simulated_ps*; SelfCheckError if it does not add up."""
        numbers = [0] * _WIDTH if self._last is None else self._last.path.tolist()
        parts_ps = dict(zip(KEYS, numbers, strict=False))
        if self._open or sum(parts_ps.values()) != simulated_ps or min(numbers) < 0:
            raise defect(f"the critical path of {simulated_ps:,} ps is {parts_ps}, with {len(self._open)} ends open")
        return CriticalPath(parts_ps, *numbers[len(KEYS) :])

    def _carry(
        self, block: ScheduleBlock, record: BlockRecord, waits: _Waits, head: Int64, root: Int64, path: Int64
    ) -> None:
        """Follow tasks back to the begin of the block, and on in what is kept of others; keep what others need."""
        tasks, count = block.schedule.tasks, len(block.task)
        begins = self._begins(block, record, waits)
        # From each head to the one before it, and what lies between: the gap and the wait before its root begins.
        before = np.full(count + 1, count)
        before[head] = waits.last[root]
        wait_ps = record.task_begin_ps - tasks.gap_ps - np.maximum(waits.end_ps, 0)
        path[:, COMPUTE_GAP] = tasks.gap_ps[root]
        path[:, DEPENDENCY_WAIT] = wait_ps[root]
        of_task = np.zeros((count + 1, _WIDTH), np.int64)
        of_task[head] = path
        root_of = np.zeros(count + 1, np.int64)
        root_of[head] = root

        wanted = np.flatnonzero(block.later_successors > 0)
        final = int(record.task_end_ps.argmax())
        inside = [int(waits.inside[task]) for task, begin in begins.items() if isinstance(begin, _Open)]
        chosen = np.array([*wanted.tolist(), final, *(task for task in inside if task < count)])
        walk = _walk(before, chosen)
        paths = _joined(of_task[walk])
        depth = (walk < count).sum(axis=0)
        first = root_of[walk[depth - 1, np.arange(len(chosen))]]
        number, end_ps = block.task.tolist(), record.task_end_ps[chosen].tolist()
        ends: dict[int, _End] = {}
        for place, (task, origin) in enumerate(zip(chosen.tolist(), first.tolist(), strict=True)):
            end = _End(number[task], end_ps[place], paths[place])
            begin = begins.get(origin)
            if isinstance(begin, _End):
                end = replace(end, path=_joined(np.stack([end.path, begin.path])), base=begin.base)
            elif isinstance(begin, _Open):  # its gap is in the path; what it waited for, and for how long, is not
                end = replace(end, base=number[origin])
            ends[task] = end
        for task, begin in begins.items():
            if isinstance(begin, _Open):
                if waits.inside[task] < count:
                    begin.best = _later(begin.best, ends[int(waits.inside[task])])
                self._open[number[task]] = begin
        self._last = _later(self._last, ends[final])
        new = {number[task]: ends[task] for task in wanted.tolist()}
        self._settle(new)
        self._forget(block, wanted, new)

    def _begins(self, block: ScheduleBlock, record: BlockRecord, waits: _Waits) -> dict[int, _End | _Open]:
        """Find out what tasks that wait for earlier blocks waited for last, where it is in those, and enter it.

        Those for which an earlier block is missing are open.
        """
        begins: dict[int, _End | _Open] = {}
        earlier: dict[int, list[int]] = {}
        for task, predecessor in zip(block.earlier_task.tolist(), block.earlier_predecessor.tolist(), strict=True):
            earlier.setdefault(task, []).append(predecessor)
        for task, predecessors in earlier.items():
            best: _End | None = None
            for predecessor in predecessors:
                if predecessor in self._ends:
                    best = _later(best, self._ends[predecessor])
            missing = {predecessor for predecessor in predecessors if predecessor not in self._ends}
            gap_ps = int(block.schedule.tasks.gap_ps[task])
            reached_ps = int(record.task_begin_ps[task]) - gap_ps
            if missing:
                begins[task] = _Open(missing, best, reached_ps, gap_ps)
                # Wait and gap are counted when it is known for what it waited last.
                waits.leave(task, reached_ps)
            elif best is not None and best.end_ps >= waits.end_ps[task]:
                begins[task] = best
                waits.leave(task, best.end_ps)
        return begins

    def _settle(self, new: dict[int, _End]) -> None:
        """Take over the ends of a block's tasks; begins that waited for the last of them are no longer open."""
        self._ends.update(new)
        closed: dict[int, _End] = {}
        for task, begin in self._open.items():
            for predecessor in begin.missing & new.keys():
                begin.best = _later(begin.best, new[predecessor])
            begin.missing -= new.keys()
            if not begin.missing:
                assert begin.best is not None
                path = begin.best.path.copy()
                path[DEPENDENCY_WAIT] += begin.reached_ps - begin.best.end_ps
                closed[task] = replace(begin.best, path=path)
        if not closed:
            return
        for task in closed:
            del self._open[task]

        def without_closed(end: _End) -> _End:
            while end.base in closed:
                before = closed[end.base]
                end = replace(end, path=_joined(np.stack([end.path, before.path])), base=before.base)
            return end

        self._last = None if self._last is None else without_closed(self._last)
        self._ends = {task: without_closed(end) for task, end in self._ends.items()}
        for begin in self._open.values():
            begin.best = None if begin.best is None else without_closed(begin.best)

    def _forget(self, block: ScheduleBlock, wanted: Int64, new: Iterable[int]) -> None:
        """Drop the ends for which no block to come waits."""
        self._left.update(dict(zip(new, block.later_successors[wanted].tolist(), strict=True)))
        predecessors = Counter(block.earlier_predecessor.tolist())
        self._left.subtract(predecessors)
        for task in [*new, *predecessors]:
            if self._left[task] == 0:
                del self._left[task]
                self._ends.pop(task, None)


def _late_ps(schedule: Schedule, record: BlockRecord) -> Int64:
    """Say how long after the median rank of its operation each task began; 0 for those before it, and of few."""
    tasks = schedule.tasks
    count = np.bincount(tasks.operation, minlength=len(schedule.operations))
    if count.max(initial=0) < MIN_RANKS_TO_BE_LATE:
        return np.zeros(len(tasks), np.int64)
    order = np.lexsort((record.task_begin_ps, tasks.operation))
    median = order[offsets(count)[:-1] + (count - 1) // 2][tasks.operation]
    # A gap that the median rank has not is none of this rank's making: a replay gives the gaps between operations to
    # their last ranks alone.
    own_gap_ps = np.where(tasks.gap_ps[median] == 0, tasks.gap_ps, 0)
    late_ps: Int64 = np.maximum(record.task_begin_ps - own_gap_ps - record.task_begin_ps[median], 0)
    late_ps[count[tasks.operation] < MIN_RANKS_TO_BE_LATE] = 0
    return late_ps


def _joined(pieces: Int64) -> Int64:
    """Join pieces of paths, the first axis, from their ends back; of equally late ranks the one next to the end."""
    path: Int64 = pieces.sum(axis=0)
    latest = pieces[..., LATEST].argmax(axis=0)[None, ..., None]
    path[..., LATEST:] = np.take_along_axis(pieces[..., LATEST:], latest, axis=0)[0]
    return path


def _later(one: _End | None, other: _End) -> _End:
    """Return the later of two ends, of equals that of the task with the smaller number."""
    return other if one is None or (-other.end_ps, other.task) < (-one.end_ps, one.task) else one


def _last_of_operations(schedule: Schedule, end_ps: Int64) -> Int64:
    """Return the task of each operation that ended last, the first of several."""
    operation = schedule.tasks.operation
    latest_ps = np.zeros(len(schedule.operations), np.int64)
    np.maximum.at(latest_ps, operation, end_ps)
    at_end = np.flatnonzero(end_ps == latest_ps[operation])[::-1]
    last = np.zeros(len(schedule.operations), np.int64)
    last[operation[at_end]] = at_end
    return last


@dataclass(frozen=True)
class _Waits:
    """For which predecessor in the block each task waited last, and when that ended; the number of tasks for none.

    ``inside`` is the same, and stays so where another block is found to have been later.
    """

    inside: Int64
    last: Int64
    end_ps: Int64

    @classmethod
    def of(cls, block: ScheduleBlock, end_ps: Int64) -> _Waits:
        tasks, count = block.schedule.tasks, len(block.task)
        latest_ps = np.full(count, -1)
        last = np.full(count, count)
        waiting = np.repeat(np.arange(count), np.diff(tasks.predecessor_first))
        np.maximum.at(latest_ps, waiting, end_ps[tasks.predecessors])
        pairs = np.flatnonzero(end_ps[tasks.predecessors] == latest_ps[waiting])[::-1]
        last[waiting[pairs]] = tasks.predecessors[pairs]
        return cls(last.copy(), last, latest_ps)

    def leave(self, task: int, end_ps: int) -> None:
        """Say that a task waited last for another block, until *end_ps*."""
        self.last[task] = len(self.last)
        self.end_ps[task] = end_ps


@dataclass(frozen=True)
class _Steps:
    """The messages on the paths from the ends of some tasks, the heads, back to the start of tasks of their operations.

    One row per step, grouped by head and back in time within one: ``ready_ps``, ``done_ps`` and what lies between,
    ``parts_ps`` (shape (rows, PARTS)). Head h has ``depth[h]`` rows from ``first[h]`` on; at its other end the task
    ``root[h]`` starts.
    """

    first: Int64
    depth: Int64
    root: Int64
    ready_ps: Int64
    done_ps: Int64
    parts_ps: Int64

    @classmethod
    def of(cls, schedule: Schedule, record: BlockRecord, start_ps: Int64, heads: Int64) -> _Steps:
        messages, none = schedule.messages, len(schedule.messages)
        before, after_sent = _causes_of_ready(schedule, record, start_ps)
        end_message, end_sent = _causes_of_end(schedule, record, start_ps)
        walk = _walk(before, end_message[heads]) if none else np.full((1, len(heads)), none)
        is_sent = np.concatenate([end_sent[heads][None], after_sent[walk[:-1]]])
        on_path = walk.T < none
        depth = on_path.sum(axis=1)
        message, is_sent = walk.T[on_path], is_sent.T[on_path]
        first = offsets(depth)[:-1]
        root = heads.copy()
        moved = np.flatnonzero(depth)
        root[moved] = messages.source_task[messages.carrier[message[first[moved] + depth[moved] - 1]]]
        return cls(
            first=first,
            depth=depth,
            root=root,
            ready_ps=record.message_ready_ps[message],
            done_ps=np.where(is_sent, record.message_sent_ps[message], record.message_complete_ps[message]),
            parts_ps=np.where(
                is_sent[:, None], record.message_sent_parts_ps[message], record.message_complete_parts_ps[message]
            ),
        )

    def sums(self, rows: Int64) -> Int64:
        """Add up the rows of each head."""
        total = np.zeros((len(self.depth), rows.shape[1]), np.int64)
        moved = np.flatnonzero(self.depth)
        if len(moved):
            total[moved] = np.add.reduceat(rows, self.first[moved])
        return total


def _causes_of_ready(schedule: Schedule, record: BlockRecord, start_ps: Int64) -> tuple[Int64, Bool]:
    """Return the last message that each message waited for, and whether until it was sent rather than complete.

    Where it waited last for the start of its task that is the number of messages; so is the entry after the last.
    """
    messages, none = schedule.messages, len(schedule.messages)
    before, after_sent = np.full(none + 1, none), np.zeros(none + 1, np.bool_)
    if len(messages.waits_for):
        waiting, awaited, until_sent = waits_of(messages)
        done_ps = np.where(until_sent, record.message_sent_ps[awaited], record.message_complete_ps[awaited])
        # Nothing is done at this time where the start was last.
        late_ready_ps = np.where(record.message_ready_ps > start_ps[messages.source_task], record.message_ready_ps, -1)
        last = np.flatnonzero(done_ps == late_ready_ps[waiting])[::-1]
        before[waiting[last]], after_sent[waiting[last]] = awaited[last], until_sent[last]
    if len(messages.groups):  # what switches make of messages waits as these do
        before[:-1], after_sent[:-1] = before[messages.carrier], after_sent[messages.carrier]
    return before, after_sent


def _causes_of_end(schedule: Schedule, record: BlockRecord, start_ps: Int64) -> tuple[Int64, Bool]:
    """Return the last message of each task, and whether it was sent rather than received.

    Where the task ended with its start that is the number of messages.
    """
    messages, none = schedule.messages, len(schedule.messages)
    end_ps = record.task_end_ps
    # Nothing is done at this time where the start was last.
    late_end_ps = np.where(end_ps > start_ps, end_ps, -1)
    message, is_sent = np.full(len(end_ps), none), np.zeros(len(end_ps), np.bool_)
    sent = np.flatnonzero(record.message_sent_ps == late_end_ps[messages.source_task])[::-1]
    if len(messages.groups):
        sent = sent[messages.carrier[sent] == sent]
    message[messages.source_task[sent]], is_sent[messages.source_task[sent]] = sent, True
    received = np.flatnonzero(record.message_complete_ps == late_end_ps[messages.target_task])[::-1]
    moves = messages.size_bytes[received] > 0
    received = received[moves | (messages.source_task[received] == messages.target_task[received])]
    message[messages.target_task[received]], is_sent[messages.target_task[received]] = received, False
    return message, is_sent


def _operation_paths(
    schedule: Schedule, record: BlockRecord, start_ps: Int64, arrival_ps: Int64, steps: _Steps, last: Int64
) -> Int64:
    """Return what lies on the path of each operation after its arrival; ``last`` are the heads of the operations."""
    root, depth = steps.root[last], steps.depth[last]
    paths_ps = np.zeros((len(last), len(KEYS)), np.int64)
    begin_ps = record.task_begin_ps[root]
    paths_ps[:, LAUNCH] = start_ps[root] - np.clip(arrival_ps, begin_ps, start_ps[root])
    # Only a computation has its gap after its arrival.
    paths_ps[:, COMPUTE_GAP] = np.maximum(begin_ps - arrival_ps, 0)
    moved = np.flatnonzero(depth)
    if len(moved):
        first = offsets(depth[moved])[:-1]
        row = np.repeat(steps.first[last[moved]] - first, depth[moved]) + np.arange(depth.sum())
        ready_ps = steps.ready_ps[row]
        cut_ps = np.clip(np.repeat(arrival_ps[moved], depth[moved]), ready_ps, steps.done_ps[row]) - ready_ps
        upto_ps = np.maximum(np.cumsum(steps.parts_ps[row], axis=1) - cut_ps[:, None], 0)
        left_ps = np.diff(upto_ps, axis=1, prepend=0)
        paths_ps[moved, FIRST_PART:] = np.add.reduceat(left_ps, first)
    return paths_ps


def _walk(before: Int64, heads: Int64) -> Int64:
    """Go back from each head to what is before it, until nothing is: that is the last entry of ``before``.

    Returns the visited, shape (steps, heads), with that entry's number where a path has ended.
    """
    end = len(before) - 1
    steps = [heads]
    while (steps[-1] != end).any():
        steps.append(before[steps[-1]])
        if len(steps) > end + 1:
            raise defect("a critical path goes round in a circle")
    return np.stack(steps[:-1] if len(steps) > 1 else steps)
