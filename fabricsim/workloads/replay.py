"""From a recorded trace to a schedule: rows become tasks, rows that belong together an operation with messages.

The trace must have passed ``trace_check.check``; only what a mode needs beyond that is refused here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from fabricsim.errors import ConfigError, unknown
from fabricsim.workloads.collectives import ALGORITHMS, Demand, algorithms_of, chunks
from fabricsim.workloads.replay_order import RowOrder, free_order, stream_order
from fabricsim.workloads.replay_times import Times
from fabricsim.workloads.schedule import (
    Int64,
    MessageBlock,
    Operation,
    Schedule,
    Tasks,
    join_messages,
    offsets,
    slices,
)
from fabricsim.workloads.trace import OP_CODES, OP_NAMES, Trace, TraceColumns
from fabricsim.workloads.trace_complaints import Complaints
from fabricsim.workloads.trace_operations import (
    Collectives,
    Dependencies,
    Transfers,
    find_collectives,
    find_dependencies,
    find_transfers,
)
from fabricsim.workloads.trace_row_rules import Members

Mode = Literal["dependency", "recorded", "back-to-back"]
MODES: tuple[Mode, ...] = get_args(Mode)


def schedule_from_trace(trace: Trace, mode: Mode = "dependency") -> Schedule:
    """Make the schedule that replays a trace.

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
    rows = _Rows.of(trace)
    columns, num_rows = rows.columns, len(rows.columns)
    times = Times.of(trace, columns)
    order = free_order(num_rows) if mode == "recorded" else stream_order(columns, rows.dependencies)
    layout = _Layout.of(rows, order)

    # By row; joins, the last rows, take no time.
    gap_ns = np.zeros(len(layout.row_of_task), dtype=np.int64)
    not_before_ns = gap_ns.copy()
    launches = np.zeros(len(gap_ns), dtype=np.bool_)
    if mode == "recorded":
        not_before_ns[:num_rows] = times.since_first_start()
    else:
        launches[:num_rows] = ~np.isin(columns.op, [OP_CODES["compute"], OP_CODES["wait"]])
    if mode == "back-to-back":
        _refuse_idle_mode(trace.where, columns, times.gaps(columns, order, layout.operation[:num_rows]))
    if mode == "dependency":
        gap_ns[:num_rows] = times.gaps(columns, order, layout.operation[:num_rows])
    if mode != "back-to-back":
        gap_ns[:num_rows] += times.computation(columns)

    row = layout.row_of_task
    waits = np.diff(order.first)[row]
    tasks = Tasks(
        operation=layout.operation[row].astype(np.int32),
        rank=np.concatenate([columns.rank, order.join_rank])[row].astype(np.int32),
        gap_ps=times.picoseconds(gap_ns)[row],
        not_before_ps=times.picoseconds(not_before_ns)[row],
        launches=launches[row],
        predecessor_first=offsets(waits),
        predecessors=layout.task[order.rows[slices(order.first[row], waits)]].astype(np.int32),
    )
    operations, blocks = _expand(rows, times, order, layout)
    return Schedule(trace.world_size, operations, tasks, join_messages(layout.first_task[:-1], blocks))


def _refuse_idle_mode(where: str, columns: TraceColumns, gap_ns: Int64) -> None:
    """Refuse back-to-back where it leaves nothing out: it would let a user compare a replay with itself."""
    if not (gap_ns.any() or (columns.op == OP_CODES["compute"]).any()):
        raise ConfigError(
            f"replay mode 'back-to-back' has no effect on {where}: it records no gaps, times or computation that "
            "could be left out; use mode 'dependency'"
        )


@dataclass(frozen=True)
class _Rows:
    """The rows of a trace, and how they belong together; ``position`` is a rank's place in its row's group."""

    columns: TraceColumns
    position: Int64
    collectives: Collectives
    transfers: Transfers
    dependencies: Dependencies

    @classmethod
    def of(cls, trace: Trace) -> _Rows:
        columns = trace.columns()
        complaints = Complaints(trace.where, [len(columns)])
        position = Members(trace.groups, trace.world_size).positions(columns)
        rows = cls(
            columns,
            position,
            find_collectives(columns, position, trace.metadata, complaints),
            find_transfers(columns, complaints),
            find_dependencies(columns, complaints),
        )
        complaints.raise_any()
        return rows


@dataclass(frozen=True)
class _Layout:
    """Where rows and joins go.

    ``operation`` and ``task`` have an entry per row, ``row_of_task`` one per task. The tasks of operation ``o`` are
    ``first_task[o]`` to ``first_task[o + 1]``, in the order of the places.
    """

    operation: Int64
    task: Int64
    row_of_task: Int64
    first_task: Int64

    @classmethod
    def of(cls, rows: _Rows, order: RowOrder) -> _Layout:
        """Give numbers: to the operations by their first row, to the tasks by operation and place."""
        leader = np.arange(len(rows.columns))  # the first row of each row's operation
        place = np.zeros(len(leader), dtype=np.int64)
        collectives = rows.collectives
        if len(collectives):
            first_rows = np.minimum.reduceat(collectives.rows, collectives.first[:-1])
            leader[collectives.rows] = first_rows[collectives.of_entry]
            place[collectives.rows] = rows.position[collectives.rows]
        apart = rows.columns.rank[rows.transfers.send] != rows.columns.peer[rows.transfers.send]
        send, recv = rows.transfers.send[apart], rows.transfers.recv[apart]
        leader[send] = leader[recv] = np.minimum(send, recv)
        place[recv] = 1
        # A join is an operation of its own, right before the row in front of which it stands.
        leader = np.concatenate([2 * leader + 1, 2 * order.join_before])
        place = np.concatenate([place, np.zeros(len(order.join_before), dtype=np.int64)])

        operation = np.unique(leader, return_inverse=True)[1].astype(np.int64)
        row_of_task = np.lexsort((place, operation))
        task = np.empty(len(row_of_task), dtype=np.int64)
        task[row_of_task] = np.arange(len(row_of_task))
        return cls(operation, task, row_of_task, offsets(np.bincount(operation)))


def _expand(
    rows: _Rows, times: Times, order: RowOrder, layout: _Layout
) -> tuple[tuple[Operation, ...], list[tuple[int | Int64, MessageBlock]]]:
    """Make the operations, and the messages of those that move anything."""
    columns = rows.columns
    operations: list[Operation] = []
    blocks: list[tuple[int | Int64, MessageBlock]] = []
    sends: list[int] = []
    for number, (begin, end) in enumerate(itertools.pairwise(layout.first_task.tolist())):
        members = layout.row_of_task[begin:end]
        row = int(members[0])
        if row >= len(columns):
            rank = int(order.join_rank[row - len(columns)])
            operations.append(Operation("end of a batch", "wait", "", (rank,), 0, is_join=True))
            continue
        op = OP_NAMES[columns.op[row]]
        algorithm, recorded_algorithm = _algorithm(columns, op, row)
        size_bytes = 0
        if op in ("send", "recv"):
            size_bytes = int(columns.send_bytes[row] + columns.recv_bytes[row])  # one of them is 0
            if len(members) == 2:
                sends.append(number)
        elif op in _PARTS:
            root = int(np.argmax(columns.rank[members] == columns.root[row]))
            demand = Demand(len(members), np.asarray(_PARTS[op](columns, members)), root)
            size_bytes = demand.size_bytes
            blocks.append((number, ALGORITHMS[op, algorithm](demand)))
        operations.append(
            Operation(
                name=columns.names[columns.name[row]] if columns.name[row] >= 0 else op,
                op=op,
                algorithm=algorithm,
                ranks=tuple(columns.rank[members].tolist()),
                size_bytes=size_bytes,
                recorded_ps=times.recorded_ps(members),
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

    What no algorithm moves has neither.
    """
    known = algorithms_of(op)
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
