"""From a recorded trace to a schedule: rows become tasks, rows that belong together an operation with messages.

The trace must have passed ``trace_check.check``; only what a mode needs beyond that is refused here.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from fabricsim.errors import ConfigError, unknown
from fabricsim.workloads.collectives import ALGORITHMS, IN_NETWORK, Demand, algorithms_of, chunks
from fabricsim.workloads.replay_sections import Cut, Section, UnsettledError, sections
from fabricsim.workloads.replay_times import Clocks
from fabricsim.workloads.schedule import (
    NO_BEGIN_PS,
    Bool,
    Int32,
    Int64,
    MessageBlock,
    Operation,
    Schedule,
    ScheduleBlock,
    ScheduleBlocks,
    Tasks,
    join_messages,
    offsets,
    slices,
)
from fabricsim.workloads.trace import OP_CODES, OP_NAMES, Trace, TraceColumns, check
from fabricsim.workloads.trace_complaints import Complaints
from fabricsim.workloads.trace_row_rules import Members

Mode = Literal["dependency", "recorded", "back-to-back"]
MODES: tuple[Mode, ...] = get_args(Mode)

MAX_OPERATIONS = 256
MAX_MESSAGES = 1 << 20

#: Each lane has its own place in the trace, with the rows around it in memory.
MAX_LANES = 8


def schedule_blocks(
    trace: Trace,
    mode: Mode = "dependency",
    *,
    max_operations: int = MAX_OPERATIONS,
    max_messages: int = MAX_MESSAGES,
) -> ScheduleBlocks:
    """Make the schedule that replays a trace, block by block.

    The trace is read for the times from which all others count, then for what a block must know of those after it, and
    again each time that one goes through the blocks, or through those of one lane. Two streams are in one lane where an
    operation is on both or a row of one waits for a row of the other, in person or by way of other streams. In mode
    ``recorded``, where no stream can fall behind, all are. There are at most MAX_LANES lanes.

    Rows of one (``group_id``, ``group_seq``) are one operation with a task per rank. A send and its recv are an
    operation ``send`` of one message with a task at both ends; to oneself they move nothing and stay apart. A
    ``compute`` or ``wait`` is an operation of one task that moves nothing and needs no launch. An operation uses the
    recorded algorithm where ``collectives`` has one of that name (in small letters), else its default; each
    ``Operation`` says which, and which was recorded. Between two batches of several rows each, an operation "end of a
    batch" that takes no time joins the rows of the first.

    ``Operation.recorded_ps`` is max(t_end) - max(t_start) over the ranks where the trace says that its clocks are
    aligned, else the least recorded duration, for a rank's duration is mostly waiting for the others; ``None`` where a
    rank lacks the times for both.

    Parameters
    ----------
    trace
        A trace that ``trace_check.check`` accepts.
    mode
        ``dependency``: closed loop. A row begins when the row before it on its (rank, stream) has ended; rows next to
        one another with the same ``batch_id`` count as one there, so none waits on another; recorded ``deps``
        replace that order for their row. Then its gap passes: ``gap_ns`` where it is recorded, else t_start less the
        recorded end of what it waits for (of a row that waits for nothing: less the earliest t_start of the trace,
        or of its rank where clocks are not aligned), not below 0, and 0 where times are missing. A gap so derived
        counts only for the operation's last-arriving rank (latest t_start, or shortest duration where clocks are
        not aligned), for the other ranks may have been waiting. A compute row takes its duration.

        ``recorded``: open loop. A row begins at its t_start, counted from the earliest of the trace, and
        without launch latency, for a recorded start is that of the device.

        ``back-to-back``: as ``dependency``, but without gaps, and computation takes no time.
    max_operations, max_messages
        A block has at most so many operations, and these at most so many messages, unless tasks would then wait for
        tasks of later blocks.

    Raises
    ------
    ConfigError
        An unknown mode; ``back-to-back`` for a trace in which ``dependency`` leaves no time out either.
    TraceError
        The trace lacks what the mode needs (``recorded``: start times of all rows and aligned clocks; ``recorded`` and
        ``dependency``: the duration of each compute row), or a time does not fit int64 picoseconds.
    """
    if mode not in MODES:
        raise ConfigError(unknown("replay mode", mode, MODES))
    clocks = Clocks.of(trace, _pieces(trace), recorded=mode == "recorded", computes=mode != "back-to-back")
    replay = _Replay(trace, mode, clocks, max_operations, max_messages)
    later = _Later.of(replay)
    return ScheduleBlocks(
        trace.world_size, later.lanes.num_operations, later.num_tasks, lambda lane: replay.blocks(later, lane)
    )


def _pieces(trace: Trace) -> Iterator[tuple[int, TraceColumns]]:
    """Read all rows of a trace, in pieces that come with the number of their first row."""
    complaints = Complaints(trace.where)
    yield from trace.examine(complaints)
    complaints.raise_any()


@dataclass(frozen=True)
class _Replay:
    """A trace, how it is to be replayed, and the sizes of the blocks."""

    trace: Trace
    mode: Mode
    clocks: Clocks
    max_operations: int
    max_messages: int

    def sections(self, *, with_splits: bool) -> Iterator[Section]:
        """Read the trace; TraceError where its rows make up no whole operations."""
        trace = self.trace
        pieces = _pieces(trace)
        if not with_splits:
            pieces = ((first_row, columns.without_splits()) for first_row, columns in pieces)
        members = Members(trace.groups, trace.world_size)
        try:
            yield from sections(trace, pieces, members, in_order=self.mode != "recorded")
        except UnsettledError:
            check(trace)
            raise

    def blocks(self, later: _Later, lane: int | None) -> Iterator[ScheduleBlock]:
        """Make the schedule of a lane, or of all as one, block by block."""
        for section, later_begin_ps in zip(self.sections(with_splits=True), later.begins_ps(lane), strict=True):
            tasks = _SectionTasks.of(section, self)
            if lane is None:
                in_lane = np.ones(section.layout.first_task[-1], np.bool_)
            else:
                in_lane = later.lanes.of_streams(section.stream_of_task) == lane
            for begin, end in itertools.pairwise(self._cuts(tasks)):
                operations = begin + np.flatnonzero(in_lane[section.layout.first_task[begin:end]])
                if len(operations):
                    yield tasks.block(operations, end, in_lane, self, later, later_begin_ps)

    def _cuts(self, tasks: _SectionTasks) -> Iterator[int]:
        """Say before which operations of a section blocks begin and end."""
        num_ranks = np.diff(tasks.section.layout.first_task)[: tasks.section.num_operations]
        # The ring all_reduce has the most messages.
        most_messages = offsets(2 * num_ranks * (num_ranks - 1)).tolist()
        begin = last = 0
        yield begin
        for cut in tasks.cuts():
            if last > begin and (
                cut - begin > self.max_operations or most_messages[cut] - most_messages[begin] > self.max_messages
            ):
                yield last
                begin = last
            last = cut
        yield last


@dataclass(frozen=True)
class _Later:
    """What the blocks of a replay must know of those after them.

    ``awaited`` are the tasks, in ascending order, that are the last ones for which tasks of later sections wait, and
    ``awaited_by`` the last of these; for ``followed``, in ascending order too, wait ``followers`` of such tasks in all.
    ``begin_ps`` says for each section and stream when the first task without
    predecessors begins there.
    """

    lanes: _Lanes
    num_tasks: int
    awaited: Int64
    awaited_by: Int64
    followed: Int64
    followers: Int64
    begin_ps: list[dict[int, int]]

    @classmethod
    def of(cls, replay: _Replay) -> _Later:
        """Go through a replay without its messages; refuse ``back-to-back`` where it leaves nothing out."""
        num_tasks = 0
        leaves_out = replay.mode != "back-to-back"
        begin_ps, last_pairs = [], [np.empty((2, 0), dtype=np.int64)]
        predecessors = [np.empty(0, dtype=np.int64)]
        num_operations: Counter[int] = Counter()  # by the stream of their first tasks; all streams are there
        stream_pairs: set[tuple[int, int]] = set()
        for section in replay.sections(with_splits=False):
            tasks = _SectionTasks.of(section, replay)
            num_tasks += section.num_tasks
            stream = section.stream_of_task
            stream_pairs.update(map(tuple, section.stream_pairs.tolist()))
            begin_ps.append(
                {
                    number: tasks.later_begin_ps(0, stream == number)
                    for number in np.unique(stream[: section.num_tasks]).tolist()
                }
            )
            num_operations.update(dict.fromkeys(begin_ps[-1], 0))
            num_operations.update(stream[section.layout.first_task[: section.num_operations]].tolist())
            awaited, awaited_by = tasks.last_predecessors()
            last_pairs.append(np.stack([awaited, awaited_by])[:, awaited < section.first_task])
            predecessors.append(tasks.predecessor[tasks.predecessor < section.first_task])
            leaves_out = leaves_out or _leaves_out(section, replay.clocks)
        if not leaves_out:  # it would let a user compare a replay with itself
            raise ConfigError(
                f"replay mode 'back-to-back' has no effect on {replay.trace.where}: it records no gaps, times or "
                "computation that could be left out; use mode 'dependency'"
            )
        if replay.mode == "recorded":
            stream_pairs = set(itertools.pairwise(sorted(num_operations)))
        lanes = _Lanes.of(num_operations, stream_pairs)
        awaited, awaited_by = last_of_each(*np.concatenate(last_pairs, axis=1))
        followed, followers = np.unique(np.concatenate(predecessors), return_counts=True)
        return cls(lanes, num_tasks, awaited, awaited_by, followed, followers, begin_ps)

    def begins_ps(self, lane: int | None) -> list[int]:
        """Say for each section when in those after it the first task of a lane without predecessors begins."""
        mine = set(self.lanes.stream[slice(None) if lane is None else self.lanes.lane == lane].tolist())
        begins_ps = [
            min((begin_ps for stream, begin_ps in section.items() if stream in mine), default=NO_BEGIN_PS)
            for section in self.begin_ps
        ]
        return list(itertools.accumulate(reversed([*begins_ps[1:], NO_BEGIN_PS]), min))[::-1]


@dataclass(frozen=True)
class _Lanes:
    """The lane of each stream, these in ascending order, and the number of operations in each lane."""

    stream: Int64
    lane: Int64
    num_operations: tuple[int, ...]

    @classmethod
    def of(cls, num_operations: Mapping[int, int], pairs: Iterable[tuple[int, int]]) -> _Lanes:
        """Put the two streams of each pair into one lane; of more than MAX_LANES the smallest are one."""
        lanes = {stream: {stream} for stream in num_operations}
        for one, other in pairs:
            if lanes[one] is not lanes[other]:
                lanes[one] |= lanes[other]
                lanes.update(dict.fromkeys(lanes[other], lanes[one]))
        by_size = sorted(
            {min(lane): lane for lane in lanes.values()}.items(),
            key=lambda lane: (-sum(num_operations[stream] for stream in lane[1]), lane[0]),
        )
        number = {stream: min(k, MAX_LANES - 1) for k, (_, lane) in enumerate(by_size) for stream in lane}
        counts = [0] * max(1, min(len(by_size), MAX_LANES))
        for stream, lane in number.items():
            counts[lane] += num_operations[stream]
        streams = sorted(number)
        return cls(
            np.array(streams, np.int64), np.array([number[stream] for stream in streams], np.int64), tuple(counts)
        )

    def of_streams(self, streams: Int32) -> Int64:
        """Give the lane of each of these."""
        found: Int64 = self.lane[np.searchsorted(self.stream, streams)]
        return found


def _leaves_out(section: Section, clocks: Clocks) -> bool:
    """Whether a section has gaps or computation, which ``back-to-back`` would leave out."""
    columns = section.columns
    computes = columns.op == OP_CODES["compute"]
    return bool((section.own[: len(columns)] & (computes | (section.gaps_ns(clocks) > 0))).any())


@dataclass(frozen=True)
class _SectionTasks:
    """The tasks of a section.

    Task ``waiting[k]`` of the section waits for ``predecessor[k]``, which counts in the whole trace; pairs stand in
    ascending order.
    """

    section: Section
    rank: Int32
    stream: Int32
    gap_ps: Int64
    not_before_ps: Int64
    launches: Bool
    waiting: Int64
    predecessor: Int64

    @classmethod
    def of(cls, section: Section, replay: _Replay) -> _SectionTasks:
        """Put the rows and joins of a section into the order of tasks, with times as the mode asks for them."""
        columns, order, clocks = section.columns, section.order, replay.clocks
        num_rows, num_places = len(columns), len(section.layout.task)
        compute = columns.op == OP_CODES["compute"]
        # By row; joins, the last rows, take no time.
        gap_ns = np.zeros(num_places, dtype=np.int64)
        not_before_ns = gap_ns.copy()
        launches = np.zeros(num_places, dtype=np.bool_)
        if replay.mode == "recorded":
            not_before_ns[:num_rows] = section.times.start_ns - clocks.origin_ns[columns.rank]
        else:
            launches[:num_rows] = ~compute & (columns.op != OP_CODES["wait"])
        if replay.mode == "dependency":
            gap_ns[:num_rows] = section.gaps_ns(clocks)
        if replay.mode != "back-to-back":
            gap_ns[:num_rows] += np.where(compute, section.times.duration_ns, 0)

        row = section.layout.row_of_task[: section.num_tasks]
        waits = np.diff(order.first)[row]
        waiting = np.repeat(np.arange(len(row)), waits)
        task = np.concatenate([section.first_task + section.layout.task, section.earlier.task])
        predecessor = task[order.rows[slices(order.first[row], waits)]]
        in_turn = np.lexsort((predecessor, waiting))
        return cls(
            section=section,
            rank=np.concatenate([columns.rank, order.join_rank])[row].astype(np.int32),
            stream=section.stream_of_task[: section.num_tasks],
            gap_ps=clocks.picoseconds(gap_ns[row]),
            not_before_ps=clocks.picoseconds(not_before_ns[row]),
            launches=launches[row],
            waiting=waiting,
            predecessor=predecessor[in_turn],
        )

    def cuts(self) -> list[int]:
        """Say before which operations a block may begin or end: no task may wait for one of a later block."""
        section = self.section
        inside = np.flatnonzero(self.predecessor >= section.first_task)
        operation = section.layout.operation[section.layout.row_of_task]
        cut = Cut(section.num_operations)
        cut.in_turn(operation[self.predecessor[inside] - section.first_task], operation[self.waiting[inside]])
        return cut.allowed()

    def last_predecessors(self, first_task: int = 0) -> tuple[Int64, Int64]:
        """Give, in ascending order, the last tasks that tasks wait for, and the last task that waits so for each.

        Both count in the whole trace; only tasks of the section from ``first_task`` on wait.
        """
        pairs = slice(int(np.searchsorted(self.waiting, first_task)), None)
        waiting, predecessor = self.waiting[pairs], self.predecessor[pairs]
        is_last = np.append(waiting[1:] != waiting[:-1], True)[: len(waiting)]
        return last_of_each(predecessor[is_last], self.section.first_task + waiting[is_last])

    def later_begin_ps(self, first_task: int, which: Bool) -> int:
        """Say when the first of *which* tasks begins that has no predecessors, from a task of the section on."""
        begin_ps = np.where(which[: len(self.gap_ps)], self.not_before_ps + self.gap_ps, NO_BEGIN_PS)
        begin_ps[self.waiting] = NO_BEGIN_PS
        return int(begin_ps[first_task:].min(initial=NO_BEGIN_PS))

    def block(
        self, operations: Int64, end: int, in_lane: Bool, replay: _Replay, later: _Later, later_begin_ps: int
    ) -> ScheduleBlock:
        """Make a block of these operations of the section, the last of a lane before the operation ``end``.

        ``in_lane`` says which tasks of the section are in the lane, and ``later_begin_ps`` is what ``later`` says of
        the section.
        """
        section = self.section
        first_task, end_task = section.layout.first_task[operations], section.layout.first_task[operations + 1]
        tasks = slices(first_task, end_task - first_task)
        later_task = int(section.layout.first_task[end])
        pairs = np.arange(*np.searchsorted(self.waiting, [tasks[0], later_task]))
        pairs = pairs[in_lane[self.waiting[pairs]]]
        waiting, predecessor = np.searchsorted(tasks, self.waiting[pairs]), self.predecessor[pairs]
        inside = predecessor >= section.first_task + tasks[0]
        expanded, message_blocks = _expand(section, replay.clocks, operations)
        # Tasks of the block for which those of later blocks wait, in this section and in others.
        mine = section.first_task + np.array([tasks[0], later_task])
        here, here_by = self.last_predecessors(later_task)
        here_mine = slice(*np.searchsorted(here, mine))
        there_mine = slice(*np.searchsorted(later.awaited, mine))
        awaited, awaited_by = last_of_each(
            np.concatenate([here[here_mine], later.awaited[there_mine]]) - section.first_task,
            np.concatenate([here_by[here_mine], later.awaited_by[there_mine]]),
        )
        awaited, awaited_by = awaited[in_lane[awaited]], awaited_by[in_lane[awaited]]
        followed = slice(*np.searchsorted(later.followed, mine))
        later_successors = np.bincount(
            later.followed[followed] - mine[0], later.followers[followed], minlength=later_task - tasks[0]
        ).astype(np.int64)
        later_here = self.predecessor[np.searchsorted(self.waiting, later_task) :]
        later_here = later_here[(later_here >= mine[0]) & (later_here < mine[1])]
        later_successors += np.bincount(later_here - mine[0], minlength=len(later_successors))
        return ScheduleBlock(
            schedule=Schedule(
                replay.trace.world_size,
                expanded,
                Tasks(
                    operation=np.repeat(np.arange(len(operations), dtype=np.int32), end_task - first_task),
                    rank=self.rank[tasks],
                    gap_ps=self.gap_ps[tasks],
                    not_before_ps=self.not_before_ps[tasks],
                    launches=self.launches[tasks],
                    predecessor_first=offsets(np.bincount(waiting[inside], minlength=len(tasks))),
                    predecessors=np.searchsorted(tasks, predecessor[inside] - section.first_task).astype(np.int32),
                    stream=self.stream[tasks],
                ),
                join_messages(offsets(end_task - first_task)[:-1], message_blocks),
            ),
            operation=section.first_operation + operations,
            task=section.first_task + tasks,
            earlier_task=waiting[~inside],
            earlier_predecessor=predecessor[~inside],
            awaited=np.searchsorted(tasks, awaited),
            awaited_by=awaited_by,
            later_begin_ps=min(self.later_begin_ps(later_task, in_lane), later_begin_ps),
            later_successors=later_successors[tasks - tasks[0]],
        )


def last_of_each(task: Int64, by: Int64) -> tuple[Int64, Int64]:
    """Give each task once, in ascending order, with the largest number that comes with it."""
    order = np.lexsort((by, task))
    task, by = task[order], by[order]
    is_last = np.append(task[1:] != task[:-1], True)[: len(task)]
    return task[is_last], by[is_last]


def _expand(
    section: Section, clocks: Clocks, chosen: Int64
) -> tuple[tuple[Operation, ...], list[tuple[int | Int64, MessageBlock]]]:
    """Make some operations of a section, in ascending order, and the messages of those that move anything.

    Messages come with numbers of operations that count those.
    """
    columns, layout = section.columns, section.layout
    first_task, num_tasks = layout.first_task[chosen], np.diff(layout.first_task)[chosen]
    members, first = layout.row_of_task[slices(first_task, num_tasks)], offsets(num_tasks)
    is_join = (members[first[:-1]] >= len(columns)).tolist()
    recorded_ps = section.times.recorded_ps(clocks, members, first)
    operations: list[Operation] = []
    blocks: list[tuple[int | Int64, MessageBlock]] = []
    sends: list[int] = []
    known: dict[tuple[object, ...], MessageBlock] = {}  # many operations of a trace are alike
    for number, (begin, end) in enumerate(itertools.pairwise(first.tolist())):
        rows = members[begin:end]
        row = int(rows[0])
        if is_join[number]:
            rank = int(section.order.join_rank[row - len(columns)])
            operations.append(Operation("end of a batch", "wait", "", (rank,), 0, is_join=True))
            continue
        op = OP_NAMES[columns.op[row]]
        algorithm, recorded_algorithm = _algorithm(columns, op, row)
        size_bytes = 0
        if op in ("send", "recv"):
            size_bytes = int(columns.send_bytes[row] + columns.recv_bytes[row])  # one of them is 0
            if len(rows) == 2:
                sends.append(number)
        elif op in _PARTS:
            root = int(np.argmax(columns.rank[rows] == columns.root[row]))
            demand = Demand(len(rows), np.asarray(_PARTS[op](columns, rows)), root)
            size_bytes = demand.size_bytes
            key = (op, algorithm, len(rows), root, demand.parts_bytes.tobytes())
            if key not in known:
                known[key] = ALGORITHMS[op, algorithm](demand)
            blocks.append((number, known[key]))
        operations.append(
            Operation(
                name=columns.names[columns.name[row]] if columns.name[row] >= 0 else op,
                op=op,
                algorithm=algorithm,
                ranks=tuple(columns.rank[rows].tolist()),
                size_bytes=size_bytes,
                recorded_ps=recorded_ps[number],
                recorded_algorithm=recorded_algorithm,
            )
        )
    if sends:
        sizes_bytes = np.asarray([operations[number].size_bytes for number in sends], dtype=np.int64)
        (algorithm,) = algorithms_of("send")
        blocks.append((np.asarray(sends), ALGORITHMS["send", algorithm](Demand(2, sizes_bytes))))
    return tuple(operations), blocks


def _algorithm(columns: TraceColumns, op: str, row: int) -> tuple[str, str]:
    """Give the recorded algorithm where we have it, else the default and the recorded one.

    What no algorithm moves has neither. In-network operations are not replayed: two reductions of one rank must not
    meet (docs/physics.md, section 14), and operations on several streams may.
    """
    known = tuple(name for name in algorithms_of(op) if name != IN_NETWORK)
    recorded = columns.algorithms[columns.algorithm[row]] if columns.algorithm[row] >= 0 else ""
    if recorded.lower() in known:
        return recorded.lower(), ""
    return (known[0], recorded) if known else ("", "")


def _even_pairs(columns: TraceColumns, rows: Int64) -> Int64:
    return np.broadcast_to(columns.send_bytes[rows[0]] // len(rows), (len(rows), len(rows)))


def _recorded_pairs(columns: TraceColumns, rows: Int64) -> Int64:
    splits: Int64 = columns.send_splits[columns.send_splits_first[rows][:, None] + np.arange(len(rows))]
    return splits


# What an operation has to move, out of its rows in the order of their places and in the shape that `Demand` asks for.
# What send_bytes and recv_bytes hold for each operation stands in docs/trace-format.md.
_PARTS: dict[str, Callable[[TraceColumns, Int64], Int64]] = {
    "all_to_all": _even_pairs,
    "all_to_all_v": _recorded_pairs,
    "all_reduce": lambda columns, rows: chunks(int(columns.send_bytes[rows[0]]), len(rows)),
    "all_gather": lambda columns, rows: columns.send_bytes[rows],
    "all_gather_v": lambda columns, rows: columns.send_bytes[rows],
    "reduce_scatter": lambda columns, rows: columns.recv_bytes[rows],
    "reduce_scatter_v": lambda columns, rows: columns.recv_bytes[rows],
    "broadcast": lambda columns, rows: columns.recv_bytes[rows[0]],
    "reduce": lambda columns, rows: columns.send_bytes[rows[0]],
    "gather": lambda columns, rows: columns.send_bytes[rows],
    "scatter": lambda columns, rows: columns.recv_bytes[rows],
    "barrier": lambda columns, rows: np.zeros((), dtype=np.int64),
}
