"""Rules that one row of a trace must keep by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fabricsim.workloads.schedule import Bool, Int32, Int64
from fabricsim.workloads.trace_columns import NULL_NS, TraceColumns
from fabricsim.workloads.trace_complaints import Complaints, few
from fabricsim.workloads.trace_metadata import Group
from fabricsim.workloads.trace_schema import OP_NAMES, OPS

IS_COLLECTIVE = np.array([op.kind == "collective" for op in OPS])
_SENDS_NOTHING = np.array([op.send == "0" for op in OPS])
_RECEIVES_NOTHING = np.array([op.recv == "0" for op in OPS])


def needs(column: str) -> Bool:
    """Say which operations, by code, cannot do without the optional *column*."""
    return np.array([column in op.needs for op in OPS])


class Members:
    """Who is in which group, for look-ups of many rows at once; ``sizes`` are the ranks per group, shape (groups,)."""

    def __init__(self, groups: Sequence[Group], world_size: int) -> None:
        self.groups = groups
        self.world_size = world_size
        self.sizes = np.array([len(group) for group in groups], np.int64)
        keys = np.concatenate([group.id * np.int64(world_size) + group.ranks for group in groups])
        places = np.concatenate([np.arange(len(group)) for group in groups])
        order = np.argsort(keys)
        self._keys, self._places = keys[order], places[order]

    def positions(self, columns: TraceColumns) -> Int64:
        """Rank in its group of each row's rank, -1 where it is no member or there is no such group."""
        return self.find(columns.group_id, columns.rank)

    def find(self, group_id: Int32, rank: Int32) -> Int64:
        """Rank in the group of each pair, -1 where *rank* is no member of the group or there is no such group."""
        known = (group_id < len(self.groups)) & (rank >= 0) & (rank < self.world_size)
        keys = np.where(known, group_id.astype(np.int64) * self.world_size + rank, -1)
        places = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        return np.where(self._keys[places] == keys, self._places[places], -1)


def check_rows(rows: TraceColumns, members: Members, first_row: int, complaints: Complaints) -> None:
    """Add to *complaints* what is wrong with single rows of a batch that starts at row *first_row* of the trace."""
    rules = _RowRules(rows, members, first_row, complaints)
    rules.ranks()
    rules.group_seq()
    rules.other_rank("root", rows.root)
    rules.other_rank("peer", rows.peer)
    rules.no_bytes("send_bytes", rows.send_bytes, _SENDS_NOTHING)
    rules.no_bytes("recv_bytes", rows.recv_bytes, _RECEIVES_NOTHING)
    rules.times()
    rules.splits("send_bytes", rows.send_bytes, rows.send_splits_first, rows.send_splits)
    rules.splits("recv_bytes", rows.recv_bytes, rows.recv_splits_first, rows.recv_splits)


class _RowRules:
    """One method per rule; each adds its complaints."""

    def __init__(self, rows: TraceColumns, members: Members, first_row: int, complaints: Complaints) -> None:
        self.rows = rows
        self.members = members
        self.first_row = first_row
        self.complaints = complaints
        self.has_group = rows.group_id < len(members.groups)

    def complain(self, bad: Bool, column: str, text: Callable[[int], str]) -> None:
        """Complain about *column* in the rows of the batch that are *bad*; ``text(row)`` says why."""
        where = np.flatnonzero(bad)
        self.complaints.add_rows(self.first_row + where, column, lambda i: text(int(where[i])))

    def op(self, row: int) -> str:
        return OP_NAMES[int(self.rows.op[row])]

    def group(self, row: int) -> str:
        group = self.members.groups[int(self.rows.group_id[row])]
        return f"group {group.id} ({group.name!r}: ranks {few(group.ranks.tolist())})"

    def ranks(self) -> None:
        rows, size, last = self.rows, self.members.world_size, len(self.members.groups) - 1
        in_world = rows.rank < size
        self.complain(
            ~in_world, "rank", lambda row: f"{rows.rank[row]} is outside 0..{size - 1}; mend it or fabricsim.world_size"
        )
        self.complain(
            ~self.has_group,
            "group_id",
            lambda row: f"there is no group {rows.group_id[row]}; fabricsim.groups has 0..{last}",
        )
        self.complain(
            in_world & self.has_group & (self.members.positions(rows) < 0),
            "rank",
            lambda row: f"{rows.rank[row]} is not in {self.group(row)}; mend the row or fabricsim.groups",
        )

    def group_seq(self) -> None:
        self.complain(
            needs("group_seq")[self.rows.op] & (self.rows.group_seq < 0),
            "group_seq",
            lambda row: f"null for {self.op(row)}; number the collectives of each group, alike on all its ranks",
        )

    def other_rank(self, column: str, ranks: Int32) -> None:
        needed = needs(column)[self.rows.op]
        self.complain(
            needed & (ranks < 0), column, lambda row: f"null for {self.op(row)}; name the global rank of its {column}"
        )
        stranger = self.members.find(self.rows.group_id, ranks) < 0
        self.complain(
            needed & (ranks >= 0) & self.has_group & stranger,
            column,
            lambda row: f"{ranks[row]} is not in {self.group(row)}; ranks are global",
        )

    def no_bytes(self, column: str, sizes: Int64, none: Bool) -> None:
        self.complain(
            none[self.rows.op] & (sizes > 0),
            column,
            lambda row: f"{sizes[row]} for {self.op(row)}, which has none; write 0",
        )

    def times(self) -> None:
        start, end = self.rows.t_start_ns, self.rows.t_end_ns
        self.complain(
            (start != NULL_NS) & (end != NULL_NS) & (end < start),
            "t_end_ns",
            lambda row: f"{end[row]} is before t_start_ns {start[row]}; write null for what is not known",
        )

    def splits(self, total_column: str, total: Int64, first: Int64, values: Int64) -> None:
        column = f"{total_column}_per_peer"
        may_have = np.array([column in op.needs + op.may for op in OPS])
        lengths = np.diff(first)
        sizes = self.members.sizes[self.rows.group_id.clip(max=len(self.members.groups) - 1)]
        self.complain(
            needs(column)[self.rows.op] & (lengths == 0),
            column,
            lambda row: f"null for {self.op(row)}; list the bytes for each rank of the group",
        )
        self.complain(
            ~may_have[self.rows.op] & (lengths > 0),
            column,
            lambda row: f"{self.op(row)} has no such list; write null, or name another operation",
        )
        wrong_length = self.has_group & (lengths > 0) & (lengths != sizes)
        self.complain(
            wrong_length,
            column,
            lambda row: (
                f"{lengths[row]} entries for the {sizes[row]} ranks of group {self.rows.group_id[row]}; "
                "list one per rank, 0 where nothing moves"
            ),
        )
        self.complain(
            (lengths > 0) & ~wrong_length & (list_sums(first, values) != total),
            column,
            lambda row: (
                f"the entries sum to {sum(values[first[row] : first[row + 1]].tolist())}, "
                f"{total_column} is {total[row]}; make them equal"
            ),
        )


def list_sums(first: Int64, values: Int64) -> Int64:
    """Sum each list ``values[first[i] : first[i + 1]]`` of sizes; -1 where the sum leaves 64 bits."""
    lengths = np.diff(first)
    filled = np.flatnonzero(lengths)
    sums = np.zeros(len(lengths), np.int64)
    if len(filled):
        sums[filled] = np.add.reduceat(values, first[filled])
        # A sum can only have wrapped if its largest entry is above 2^63 / length.
        limit = np.iinfo(np.int64).max
        for row in filled[np.maximum.reduceat(values, first[filled]) > limit // lengths[filled]]:
            exact = sum(values[first[row] : first[row + 1]].tolist())
            sums[row] = exact if exact <= limit else -1
    return sums
