"""Rows that make up one operation: collectives, transfers and dependencies, and what they must agree in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fabricsim.workloads.schedule import Bool, Int64
from fabricsim.workloads.trace_columns import TraceColumns
from fabricsim.workloads.trace_complaints import Complaints, few
from fabricsim.workloads.trace_metadata import TraceMetadata
from fabricsim.workloads.trace_row_rules import IS_COLLECTIVE, needs
from fabricsim.workloads.trace_schema import OP_CODES, OP_NAMES


@dataclass(frozen=True)
class Collectives:
    """Rows of collectives, sorted by (group_id, group_seq, rank in the group).

    ``rows`` has one entry per such row; collective ``c`` has ``rows[first[c] : first[c + 1]]``.
    """

    rows: Int64
    first: Int64

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def of_entry(self) -> Int64:
        """The collective of each entry of ``rows``."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))


def collective_name(columns: TraceColumns, row: int) -> str:
    """Name a row's collective: ``all_reduce (group 0, group_seq 3)``."""
    return f"{OP_NAMES[columns.op[row]]} (group {columns.group_id[row]}, group_seq {columns.group_seq[row]})"


def match_collectives(columns: TraceColumns, positions: Int64) -> Collectives:
    """Put the rows of one (group_id, group_seq) together; *positions* is the rank in the group of each row's rank."""
    rows = np.flatnonzero(IS_COLLECTIVE[columns.op])
    group, seq, place = columns.group_id[rows], columns.group_seq[rows], positions[rows]
    order = np.lexsort((place, seq, group))
    group, seq = group[order], seq[order]
    starts = np.ones(len(rows), np.bool_)
    starts[1:] = (group[1:] != group[:-1]) | (seq[1:] != seq[:-1])
    return Collectives(rows[order], np.append(np.flatnonzero(starts), len(rows)))


def find_collectives(
    columns: TraceColumns, positions: Int64, metadata: TraceMetadata, complaints: Complaints
) -> Collectives:
    """Match rows as ``match_collectives``; complain of missing or doubled ranks and of rows that disagree."""
    collectives = match_collectives(columns, positions)
    rows, of_entry = collectives.rows, collectives.of_entry
    again = np.flatnonzero((of_entry[1:] == of_entry[:-1]) & (positions[rows[1:]] == positions[rows[:-1]])) + 1
    complaints.add_rows(
        rows[again],
        "group_seq",
        lambda i: (
            f"rank {columns.rank[rows[again[i]]]} already has {collective_name(columns, rows[again[i]])} in "
            f"{complaints.row_name(rows[again[i] - 1])}; number each collective of a group once"
        ),
    )
    doubled = np.bincount(of_entry[again], minlength=len(collectives))
    sizes = np.array([len(g) for g in metadata.groups])[columns.group_id[rows[collectives.first[:-1]]]]
    short = np.flatnonzero(np.diff(collectives.first) - doubled < sizes)
    for collective in short.tolist():
        _complain_of_missing_ranks(columns, collectives, collective, metadata, complaints)
    if not len(again) and not len(short):
        _check_agreement(columns, collectives, sizes, complaints)
    return collectives


def _complain_of_missing_ranks(
    columns: TraceColumns, collectives: Collectives, collective: int, metadata: TraceMetadata, complaints: Complaints
) -> None:
    rows = collectives.rows[collectives.first[collective] : collectives.first[collective + 1]]
    missing = np.setdiff1d(metadata.groups[columns.group_id[rows[0]]].ranks, columns.rank[rows]).tolist()
    lost = metadata.complete.missing_ranks if metadata.complete else ()
    reason = " (fabricsim.complete says that their recordings are missing)" if set(missing) <= set(lost) else ""
    complaints.add_rows(
        rows[:1],
        "group_seq",
        lambda _: (
            f"{collective_name(columns, rows[0])} is incomplete: ranks {few(missing)} have no row{reason}; "
            "record all ranks, or leave this collective out"
        ),
    )


def _check_agreement(columns: TraceColumns, collectives: Collectives, sizes: Int64, complaints: Complaints) -> None:
    """All rows of a collective name the same op, dtype and root, and sizes that fit one buffer."""
    rows = collectives.rows
    if not len(rows):
        return

    def disagree(column: str, values: Any, show: Callable[[int], str]) -> bool:
        """Complain where a value (null: -1) differs from the largest one of its collective."""
        largest = np.maximum.reduceat(values[rows], collectives.first[:-1])[collectives.of_entry]
        bad = np.flatnonzero((values[rows] >= 0) & (values[rows] != largest))

        def text(i: int) -> str:
            row, other = int(rows[bad[i]]), int(largest[bad[i]])
            place = f"group {columns.group_id[row]}, group_seq {columns.group_seq[row]}"
            mine = f"{show(int(values[row]))} on rank {columns.rank[row]}"
            return f"{mine}, but {show(other)} on other ranks of the collective ({place}); make them agree"

        complaints.add_rows(rows[bad], column, text)
        return len(bad) > 0

    other_op = disagree("op", columns.op.astype(np.int32), lambda code: OP_NAMES[code])
    disagree("dtype", columns.dtype, lambda code: columns.dtypes[code])
    other_root = disagree("root", np.where(needs("root")[columns.op], columns.root, -1), str)
    if other_op or other_root:
        return
    send, recv = _expected_sizes(columns, collectives, sizes)
    _check_sizes(columns, rows, "send_bytes", columns.send_bytes, send, complaints)
    _check_sizes(columns, rows, "recv_bytes", columns.recv_bytes, recv, complaints)


_ANY_SIZE = -1
_UNEVEN = -2


def _check_sizes(
    columns: TraceColumns, rows: Int64, column: str, values: Int64, expected: Int64, complaints: Complaints
) -> None:
    def text(i: int) -> str:
        row, wanted = int(rows[bad[i]]), int(expected[bad[i]])
        name = collective_name(columns, row)
        if wanted == _UNEVEN:
            return (
                f"{values[row]} in {name}, which does not divide evenly by its ranks; give equal parts or use a _v form"
            )
        return (
            f'{values[row]} in {name}, where its other sizes ask for {wanted}; see docs/trace-format.md, "Operations"'
        )

    bad = np.flatnonzero((expected != _ANY_SIZE) & (values[rows] != expected))
    complaints.add_rows(rows[bad], column, text)


def _expected_sizes(columns: TraceColumns, collectives: Collectives, sizes: Int64) -> tuple[Int64, Int64]:
    """Say what each entry of ``collectives.rows`` must send and receive, by the table of operations.

    B, the whole buffer, is what the collective's first row says (its root's row for gather and scatter); there
    is no B, and ``_ANY_SIZE``, for the ``_v`` forms; ``_UNEVEN`` where n does not divide B.
    """
    rows, index = collectives.rows, collectives.of_entry
    ops = columns.op[rows]
    at_root = columns.rank[rows] == columns.root[rows]
    n = sizes[index]
    send, recv = columns.send_bytes[rows], columns.recv_bytes[rows]

    first = collectives.first[:-1]
    leader = first.copy()
    leader[index[at_root]] = np.flatnonzero(at_root)  # the root speaks where there is one
    buffer = np.where(_is(ops[first], "all_gather", "broadcast", "gather"), recv[leader], send[leader])[index]
    share = np.where(buffer % n == 0, buffer // n, _UNEVEN)
    only_root = np.where(at_root, buffer, 0)

    expected_send = np.full(len(rows), _ANY_SIZE, np.int64)
    expected_recv = expected_send.copy()
    even = np.where(share == _UNEVEN, _UNEVEN, buffer)
    expected = {
        "all_to_all": (even, even),
        "all_reduce": (buffer, buffer),
        "all_gather": (share, buffer),
        "reduce_scatter": (buffer, share),
        "broadcast": (only_root, buffer),
        "reduce": (buffer, only_root),
        "gather": (share, only_root),
        "scatter": (only_root, share),
    }
    for name, (sent, received) in expected.items():
        expected_send = np.where(_is(ops, name), sent, expected_send)
        expected_recv = np.where(_is(ops, name), received, expected_recv)
    return expected_send, expected_recv


def _is(ops: Any, *names: str) -> Bool:
    return np.isin(ops, [OP_CODES[name] for name in names])


@dataclass(frozen=True)
class Transfers:
    """Matched rows: ``send[k]`` is received by ``recv[k]``."""

    send: Int64
    recv: Int64

    def __len__(self) -> int:
        return len(self.send)

    @property
    def size(self) -> int:
        """Number of rows."""
        return 2 * len(self)


def match_transfers(columns: TraceColumns) -> tuple[Transfers, Int64]:
    """Match the k-th send of a (group, source, target, tag) with its k-th recv; give also the rows that stay alone."""
    send, recv = np.flatnonzero(_is(columns.op, "send")), np.flatnonzero(_is(columns.op, "recv"))
    rows = np.concatenate([send, recv])
    is_recv = np.arange(len(rows)) >= len(send)
    ends = np.stack([columns.rank[rows], columns.peer[rows]])
    source, target = np.where(is_recv, ends[::-1], ends)
    keys = np.stack([columns.tag[rows], target, source, columns.group_id[rows]])
    order = np.lexsort((rows, is_recv, *keys))
    rows, is_recv, keys = rows[order], is_recv[order], keys[:, order]
    # The place among the sends, or among the recvs, of one (group, source, target, tag) is what matches.
    starts = np.ones(len(rows), np.bool_)
    starts[1:] = np.any(keys[:, 1:] != keys[:, :-1], axis=0) | (is_recv[1:] != is_recv[:-1])
    place = np.arange(len(rows)) - np.flatnonzero(starts)[np.cumsum(starts) - 1]
    order = np.lexsort((is_recv, place, *keys))
    rows, is_recv, keys, place = rows[order], is_recv[order], keys[:, order], place[order]
    same = np.all(keys[:, 1:] == keys[:, :-1], axis=0) & (place[1:] == place[:-1])
    here = np.flatnonzero(same)  # a send and, as they sort, the recv after it

    alone = np.ones(len(rows), np.bool_)
    alone[here] = alone[here + 1] = False
    return Transfers(rows[here], rows[here + 1]), np.sort(rows[alone])


def find_transfers(columns: TraceColumns, complaints: Complaints) -> Transfers:
    """Match rows as ``match_transfers``; complain of those that stay alone and of sizes."""
    transfers, lonely = match_transfers(columns)
    complaints.add_rows(lonely, "peer", lambda i: _lonely_text(columns, int(lonely[i])))
    sent, received = columns.send_bytes[transfers.send], columns.recv_bytes[transfers.recv]
    unequal = np.flatnonzero(sent != received)

    def size_text(i: int) -> str:
        k = unequal[i]
        sender = complaints.row_name(int(transfers.send[k]))
        return f"{received[k]}, but its send ({sender}) hands over {sent[k]}; make both agree"

    complaints.add_rows(transfers.recv[unequal], "recv_bytes", size_text)
    return transfers


def _lonely_text(columns: TraceColumns, row: int) -> str:
    rank, peer = columns.rank[row], columns.peer[row]
    where = f"in group {columns.group_id[row]}"
    if columns.tag[row] >= 0:
        where += f" with tag {columns.tag[row]}"
    if OP_NAMES[columns.op[row]] == "send":
        return f"send from rank {rank} to rank {peer} {where} without a recv there; record both ends"
    return f"recv on rank {rank} from rank {peer} {where} without a send there; record both ends"


@dataclass(frozen=True)
class Dependencies:
    """Recorded dependencies: row ``after[k]`` waits for the end of row ``before[k]``."""

    before: Int64
    after: Int64


def find_dependencies(columns: TraceColumns, complaints: Complaints) -> Dependencies:
    """Turn op_ids in ``deps`` into rows; complain of doubled op_ids and of dependencies that are not there."""
    by_id = np.argsort(columns.op_id, kind="stable")
    ids = columns.op_id[by_id]
    again = np.flatnonzero(ids[1:] == ids[:-1]) + 1

    def doubled_text(i: int) -> str:
        other = complaints.row_name(int(by_id[again[i] - 1]))
        return f"{ids[again[i]]} is already that of {other}; give each row its own number"

    complaints.add_rows(by_id[again], "op_id", doubled_text)

    wanted = columns.deps
    after = np.repeat(np.arange(len(columns)), np.diff(columns.deps_first))
    place = np.searchsorted(ids, wanted).clip(max=len(ids) - 1)
    before = by_id[place]
    unknown = np.flatnonzero(ids[place] != wanted)
    complaints.add_rows(
        after[unknown], "deps", lambda i: f"there is no op_id {wanted[unknown[i]]}; name rows of this trace"
    )
    rank = columns.rank
    stranger = np.flatnonzero((ids[place] == wanted) & (rank[before] != rank[after]))

    def stranger_text(i: int) -> str:
        k = stranger[i]
        ranks = f"on rank {rank[before[k]]}, this row on rank {rank[after[k]]}"
        return f"op_id {wanted[k]} is {ranks}; name rows of the same rank only"

    complaints.add_rows(after[stranger], "deps", stranger_text)
    return Dependencies(before, after)
