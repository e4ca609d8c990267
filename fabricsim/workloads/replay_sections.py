"""A trace read in sections: successive operations with all their rows, none of which waits for a later section.

What is kept between two sections are the rows of operations that are not whole yet, or wait for such, and what later
rows may wait for. So memory follows how far the ranks of a trace are apart, not how long it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from fabricsim.workloads.replay_order import RowOrder, Stages, free_order, stream_order
from fabricsim.workloads.replay_times import Clocks, Times
from fabricsim.workloads.schedule import Bool, Int32, Int64, offsets
from fabricsim.workloads.trace_columns import TraceColumns, concatenate
from fabricsim.workloads.trace_complaints import Complaints
from fabricsim.workloads.trace_file import Trace
from fabricsim.workloads.trace_operations import (
    Collectives,
    Dependencies,
    Transfers,
    match_collectives,
    match_transfers,
)
from fabricsim.workloads.trace_row_rules import Members


class UnsettledError(Exception):
    """The rows that are left at the end of a trace make up no whole operations; ``check`` says why."""


@dataclass(frozen=True)
class EarlierRows:
    """Rows of the sections before, as far as later rows may wait for them; ``task`` counts in the whole trace."""

    op_id: Int64
    rank: Int32
    stream: Int32
    batch_id: Int64
    task: Int64
    end_ns: Int64

    @classmethod
    def none(cls) -> EarlierRows:
        """Give no rows."""
        long, short = np.empty(0, np.int64), np.empty(0, np.int32)
        return cls(long, short, short, long, long, long)

    def __len__(self) -> int:
        return len(self.op_id)

    def take(self, rows: Int64) -> EarlierRows:
        """Copy some rows."""
        return EarlierRows(*(getattr(self, column.name)[rows] for column in fields(self)))

    @classmethod
    def join(cls, parts: Sequence[EarlierRows]) -> EarlierRows:
        """Put rows one after the other."""
        return cls(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(cls)))


@dataclass(frozen=True)
class Layout:
    """Where rows and joins go.

    ``operation`` and ``task`` have an entry per row, ``row_of_task`` one per task. The tasks of operation ``o`` are
    ``first_task[o]`` to ``first_task[o + 1]``, in the order of the places.
    """

    operation: Int64
    task: Int64
    row_of_task: Int64
    first_task: Int64

    @classmethod
    def of(
        cls, columns: TraceColumns, position: Int64, collectives: Collectives, transfers: Transfers, order: RowOrder
    ) -> Layout:
        """Give numbers: to the operations by their first row, to the tasks by operation and place.

        ``position`` is a rank's place in its row's group.
        """
        leader = np.arange(len(columns))  # the first row of each row's operation
        place = np.zeros(len(leader), dtype=np.int64)
        if len(collectives):
            first_rows = np.minimum.reduceat(collectives.rows, collectives.first[:-1])
            leader[collectives.rows] = first_rows[collectives.of_entry]
            place[collectives.rows] = position[collectives.rows]
        apart = columns.rank[transfers.send] != columns.peer[transfers.send]
        send, recv = transfers.send[apart], transfers.recv[apart]
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


@dataclass(frozen=True)
class Section:
    """The rows at hand and how they belong together; its own are those of the first ``num_operations`` operations.

    ``order`` names rows of ``earlier`` by negative numbers. ``first_operation`` and ``first_task`` count in the whole
    trace, what ``layout`` numbers begins at 0.
    """

    columns: TraceColumns
    times: Times
    order: RowOrder
    layout: Layout
    earlier: EarlierRows
    num_operations: int
    first_operation: int
    first_task: int

    @property
    def num_tasks(self) -> int:
        """Number of its tasks."""
        return int(self.layout.first_task[self.num_operations])

    @property
    def own(self) -> Bool:
        """Which rows and joins are its own."""
        mine: Bool = self.layout.operation < self.num_operations
        return mine

    @property
    def stream_of_task(self) -> Int32:
        """The stream of each task, a join's being that of the row before which it stands."""
        stream = self.columns.stream
        streams: Int32 = np.concatenate([stream, stream[self.order.join_before]])[self.layout.row_of_task]
        return streams

    @property
    def stream_pairs(self) -> Int64:
        """Pairs of different streams that wait for each other or share an operation; shape [pairs, 2]."""
        stream, order, layout = self.columns.stream, self.order, self.layout
        stream = np.concatenate([stream, stream[order.join_before], self.earlier.stream])
        waiting = order.waiting
        leader = layout.row_of_task[layout.first_task[layout.operation]]
        one = np.concatenate([stream[waiting], stream[: len(leader)]])
        other = np.concatenate([stream[order.rows], stream[leader]])
        mine = np.concatenate([self.own[waiting], self.own]) & (one != other)
        return np.unique(np.stack([one[mine], other[mine]], axis=1).astype(np.int64), axis=0)

    def gaps_ns(self, clocks: Clocks) -> Int64:
        """Give the gap before each row; what is no row of its own may have any."""
        return self.times.gaps(self.columns, clocks, self.order, self.earlier.end_ns, self.layout.operation)

    def names_other_ranks(self) -> bool:
        """Whether one of its rows is to wait for a row of another rank."""
        rank = np.concatenate([self.columns.rank, self.order.join_rank, self.earlier.rank])
        waiting = self.order.waiting
        return bool((self.own[waiting] & (rank[waiting] != rank[self.order.rows])).any())

    def alone(self) -> tuple[TraceColumns, RowOrder]:
        """Give its own rows, and their order among themselves: what came before has ended."""
        own, order, num_rows = self.own, self.order, len(self.columns)
        place = np.cumsum(own) - 1
        waiting = order.waiting
        kept = own[waiting] & (order.rows >= 0)
        joins = own[num_rows:]
        return self.columns.take(np.flatnonzero(own[:num_rows])), RowOrder(
            first=offsets(np.bincount(place[waiting[kept]], minlength=int(own.sum()))),
            rows=place[order.rows[kept]],
            join_rank=order.join_rank[joins],
            join_before=place[order.join_before[joins]],
        )


@dataclass(frozen=True)
class StreamEnds:
    """The last row of each (rank, stream) of a trace, sorted by both."""

    stream: Int64
    row: Int64

    @classmethod
    def of(cls, pieces: Iterable[tuple[int, TraceColumns]]) -> StreamEnds:
        """Go through a trace; each piece comes with the number of its first row."""
        stream = row = np.empty(0, np.int64)
        for first_row, columns in pieces:
            stream = np.concatenate([_stream(columns)[::-1], stream])
            row = np.concatenate([np.arange(first_row, first_row + len(columns))[::-1], row])
            stream, first = np.unique(stream, return_index=True)
            row = row[first]
        return cls(stream, row)

    def of_rows(self, columns: TraceColumns) -> Int64:
        """Give the last row of the stream of each row."""
        return self.row[np.searchsorted(self.stream, _stream(columns))]


def _stream(columns: TraceColumns) -> Int64:
    """Give a number to the stream of each row, ascending by rank."""
    return (columns.rank.astype(np.int64) << 32) | columns.stream


def sections(
    trace: Trace, pieces: Iterable[tuple[int, TraceColumns]], members: Members, *, in_order: bool = True
) -> Iterator[Section]:
    """Cut a trace into sections.

    Parameters
    ----------
    trace
        Where the rows come from.
    pieces
        All its rows in order, each piece with the number of its first row.
    members
        The groups of the trace.
    in_order
        Whether rows wait for others of their rank; if not, only the rows of one operation belong together.

    Raises
    ------
    UnsettledError
        At the end, where rows are left that make up no whole operation.
    """
    reader = _Reader(trace, members, in_order)
    held: list[TraceColumns] = []
    numbers: list[Int64] = []
    num_held, enough = 0, 1
    for first_row, piece in pieces:
        held.append(piece)
        numbers.append(np.arange(first_row, first_row + len(piece)))
        num_held += len(piece)
        if num_held >= enough:
            section, left = reader.settle(concatenate(held), np.concatenate(numbers), is_last=False)
            # Twice as many rows next time, so that those that wait for long are not looked at again and again.
            held, numbers = [section.columns.take(left)], [np.concatenate(numbers)[left]]
            num_held, enough = len(left), 2 * len(left)
            if section.num_operations:
                yield section
    section, left = reader.settle(concatenate(held), np.concatenate(numbers), is_last=True)
    if len(left):
        raise UnsettledError
    if section.num_operations:
        yield section


class _Reader:
    """What is known of the sections so far."""

    def __init__(self, trace: Trace, members: Members, in_order: bool) -> None:
        self.members = members
        self.in_order = in_order
        self.num_operations = 0
        self.num_tasks = 0
        self.tails = EarlierRows.none()  # the last stage of each stream
        self.keeps_op_ids = in_order and "deps" in trace.column_names
        self.named: list[EarlierRows] = []  # all rows by op_id, section by section
        # A batch is whole when a row of another follows on its stream, or when the stream has no more rows.
        has_batches = in_order and "batch_id" in trace.column_names
        self.ends = StreamEnds.of(trace.examine(Complaints(trace.where)) if has_batches else [])

    def settle(self, columns: TraceColumns, number: Int64, *, is_last: bool) -> tuple[Section, Int64]:
        """Make a section of as many operations as can be, and give the rows that are left.

        ``number`` is that of each row in the trace.
        """
        position = self.members.positions(columns)
        collectives = match_collectives(columns, position)
        transfers, alone = match_transfers(columns)
        if self.in_order:
            dependencies, named, unknown = self._dependencies(columns)
            stages = self._stages(columns)
            order, earlier = stream_order(columns, dependencies, stages), EarlierRows.join([named, self.tails])
        else:
            order, earlier = free_order(len(columns)), EarlierRows.none()
        layout = Layout.of(columns, position, collectives, transfers, order)

        operation = layout.operation
        cut = Cut(len(layout.first_task) - 1)
        cut.not_after(operation[self._partial(columns, position, collectives)])
        cut.not_after(operation[alone])
        cut.not_between(operation[transfers.send], operation[transfers.recv])
        if self.in_order:
            cut.not_after(operation[unknown])
            here = order.rows >= 0
            cut.in_turn(operation[order.rows[here]], operation[order.waiting[here]])
            cut.not_between(operation[len(columns) :], operation[order.join_before])
            # A section has the first rows of a stream, and whole batches.
            before, after = stages.rows[:-1], stages.rows[1:]
            pair = ~stages.new_stream[1:] & (before >= 0)
            before, after, apart = before[pair], after[pair], stages.new_stage[1:][pair]
            cut.in_turn(operation[before], operation[after])
            cut.not_between(operation[before[~apart]], operation[after[~apart]])
            if not is_last:
                last = stages.rows[np.append(stages.new_stream[1:], True)] if len(stages.rows) else stages.rows
                last = last[last >= 0]
                last = last[columns.batch_id[last] != -1]
                cut.not_after(operation[last[number[last] != self.ends.of_rows(columns.take(last))]])
        section = Section(
            columns=columns,
            times=Times.of(columns),
            order=order,
            layout=layout,
            earlier=earlier,
            num_operations=cut.allowed()[-1],
            first_operation=self.num_operations,
            first_task=self.num_tasks,
        )
        own = section.own[: len(columns)]
        if self.in_order:
            self._keep(section, stages, own)
        self.num_operations += section.num_operations
        self.num_tasks += section.num_tasks
        return section, np.flatnonzero(~own)

    def _partial(self, columns: TraceColumns, position: Int64, collectives: Collectives) -> Int64:
        """Find the rows of collectives that are short of a rank; that a rank comes twice is a fault."""
        rows, of_entry = collectives.rows, collectives.of_entry
        if ((of_entry[1:] == of_entry[:-1]) & (position[rows[1:]] == position[rows[:-1]])).any():
            raise UnsettledError
        whole = np.diff(collectives.first) == self.members.sizes[columns.group_id[rows[collectives.first[:-1]]]]
        short: Int64 = rows[~whole[of_entry]]
        return short

    def _dependencies(self, columns: TraceColumns) -> tuple[Dependencies, EarlierRows, Int64]:
        """Find the rows that ``deps`` name, here or in the sections before; give also the rows for which one lacks."""
        after = np.repeat(np.arange(len(columns)), np.diff(columns.deps_first))
        by_id = np.argsort(columns.op_id, kind="stable")
        place, found = _find(columns.op_id[by_id], columns.deps)
        before = np.where(found, by_id[place], 0)
        missing = np.flatnonzero(~found)
        referred, referring = [EarlierRows.none()], [missing[:0]]
        for rows in reversed(self.named):  # what is named was most often not long ago
            if not len(missing):
                break
            place, found = _find(rows.op_id, columns.deps[missing])
            referred.append(rows.take(place[found]))
            referring.append(missing[found])
            missing = missing[~found]
        named, entries = EarlierRows.join(referred), np.concatenate(referring)
        before[entries] = np.arange(len(named)) - len(named) - len(self.tails)
        return Dependencies(before, after), named, after[missing]

    def _stages(self, columns: TraceColumns) -> Stages:
        tails = self.tails
        rank, stream, batch_id = (
            np.concatenate([getattr(tails, name), getattr(columns, name)]) for name in ("rank", "stream", "batch_id")
        )
        return Stages.of(rank, stream, batch_id, len(tails))

    def _keep(self, section: Section, stages: Stages, own: Bool) -> None:
        """Keep what later rows may wait for: the last stage of each stream, and what ``deps`` may name."""
        columns = section.columns
        rows = EarlierRows(
            columns.op_id,
            columns.rank,
            columns.stream,
            columns.batch_id,
            section.first_task + section.layout.task[: len(columns)],
            section.times.end_ns,
        )
        done = np.concatenate([own, np.ones(len(self.tails), np.bool_)])[stages.rows]
        stage, stream = np.cumsum(stages.new_stage) - 1, np.cumsum(stages.new_stream) - 1
        last_stage = np.zeros(stages.new_stream.sum(), np.int64)
        np.maximum.at(last_stage, stream[done], stage[done])
        self.tails = EarlierRows.join([rows, self.tails]).take(stages.rows[done & (stage == last_stage[stream])])
        if self.keeps_op_ids:
            mine = np.flatnonzero(own)
            mine = mine[np.argsort(columns.op_id[mine], kind="stable")]
            # What deps name is in no batch, and takes no memory for one.
            self.named.append(replace(rows.take(mine), batch_id=np.broadcast_to(np.int64(0), len(mine))))


class Cut:
    """Where operations 0 .. count - 1 can be cut in two: a cut ``n`` leaves n of them before it."""

    def __init__(self, count: int) -> None:
        self._change = np.zeros(count + 2, np.int64)  # of how many reasons speak against each cut

    def not_after(self, operation: Int64) -> None:
        """Let none of these stand before the cut."""
        np.add.at(self._change, operation + 1, 1)

    def in_turn(self, before: Int64, after: Int64) -> None:
        """Let ``after[k]`` not stand before the cut without ``before[k]``."""
        crossed = before > after
        np.add.at(self._change, after[crossed] + 1, 1)
        np.add.at(self._change, before[crossed] + 1, -1)

    def not_between(self, one: Int64, other: Int64) -> None:
        """Let ``one[k]`` and ``other[k]`` stand on the same side."""
        self.in_turn(one, other)
        self.in_turn(other, one)

    def allowed(self) -> list[int]:
        """Give the cuts that nothing speaks against, in ascending order, from 0 on."""
        return np.flatnonzero(np.cumsum(self._change[:-1]) == 0).tolist()


def _find(ids: Int64, wanted: Int64) -> tuple[Int64, Bool]:
    """Give the places of *wanted* in the ascending *ids*, and which of them are there."""
    if not len(ids):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
    place = np.searchsorted(ids, wanted).clip(max=len(ids) - 1)
    return place, ids[place] == wanted
