"""Hold a whole trace against its rules, and sum it up (docs/trace-format.md, "Rules")."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np

from fabricsim.workloads.number_set import NumberSet
from fabricsim.workloads.replay_order import Stages, stream_order
from fabricsim.workloads.replay_sections import UnsettledError, sections
from fabricsim.workloads.schedule import Int64
from fabricsim.workloads.trace_columns import NULL_NS, Decoder, TraceColumns, concatenate
from fabricsim.workloads.trace_complaints import Complaints
from fabricsim.workloads.trace_file import Trace
from fabricsim.workloads.trace_operations import (
    Collectives,
    Transfers,
    find_collectives,
    find_dependencies,
    find_transfers,
)
from fabricsim.workloads.trace_order import check_order
from fabricsim.workloads.trace_row_rules import IS_COLLECTIVE, Members, check_rows
from fabricsim.workloads.trace_schema import COLUMN, OP_NAMES
from fabricsim.workloads.trace_splits import SplitMatcher


@dataclass(frozen=True)
class TraceSummary:
    """How much a sound trace holds: rows, and the operations that they make up."""

    rows: int
    collectives: int
    transfers: int
    local_operations: int

    def __add__(self, more: TraceSummary) -> TraceSummary:
        return TraceSummary(*(mine + other for mine, other in zip(astuple(self), astuple(more), strict=True)))


def check(trace: Trace) -> TraceSummary:
    """Hold a trace against all rules of docs/trace-format.md; memory follows its open operations, not its length.

    Raises ``TraceError`` that lists up to 20 faults, each with file, row, batch and column. Rules build on one
    another: values, then rows, then what several rows say about one operation, then the order. The first of
    these stages that finds faults reports all of its own; for that a faulty trace is read as a whole.
    """
    reading = _Reading(trace)
    total = TraceSummary(0, 0, 0, 0)
    seen = _Seen()
    try:
        for section in sections(trace, reading, reading.members):
            columns, order = section.alone()
            across = Complaints(trace.where, [len(columns)])
            collectives, transfers = _find_operations(columns, reading.members, trace, across)
            check_order(columns, collectives, transfers, order, across)
            if across.count or section.names_other_ranks() or not seen.add(columns):
                return _check_whole(trace)
            total += _summary(columns, collectives, transfers)
    except UnsettledError:
        return _check_whole(trace)
    return _check_whole(trace) if reading.splits.found_faults else total


def _check_whole(trace: Trace) -> TraceSummary:
    """Hold all rows at once against the rules, so as to tell all faults."""
    reading = _Reading(trace)
    columns = concatenate([part for _, part in reading])
    across = Complaints(trace.where, reading.values.batch_rows)
    collectives, transfers = _find_operations(columns, reading.members, trace, across)
    dependencies = find_dependencies(columns, across)
    reading.splits.complain(across)
    across.raise_any()
    stages = Stages.of(columns.rank, columns.stream, columns.batch_id)
    check_order(columns, collectives, transfers, stream_order(columns, dependencies, stages), across)
    across.raise_any()
    return _summary(columns, collectives, transfers)


def _find_operations(
    columns: TraceColumns, members: Members, trace: Trace, complaints: Complaints
) -> tuple[Collectives, Transfers]:
    collectives = find_collectives(columns, members.positions(columns), trace.metadata, complaints)
    return collectives, find_transfers(columns, complaints)


def _summary(columns: TraceColumns, collectives: Collectives, transfers: Transfers) -> TraceSummary:
    in_operations = len(collectives.rows) + transfers.size
    return TraceSummary(len(columns), len(collectives), len(transfers), len(columns) - in_operations)


class _Reading:
    """The rows of a trace in pieces whose values and rows are sound, without their lists; raises at the end if not."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.members = Members(trace.groups, trace.world_size)
        self.values, self.rows = Complaints(trace.where), Complaints(trace.where)
        self.splits = SplitMatcher(trace.groups)

    def __iter__(self) -> Iterator[tuple[int, TraceColumns]]:
        self.rows.batch_rows = self.values.batch_rows
        for first_row, part in self.trace.examine(self.values):
            check_rows(part, self.members, first_row, self.rows)
            if self.values.count == self.rows.count == 0:
                self.splits.add(part, self.members.positions(part), first_row)
                yield first_row, part.without_splits()
        self.values.raise_any()
        if not sum(self.values.batch_rows):
            self.rows.add("the trace has no rows; record or generate at least one operation")
        self.rows.raise_any()


class _Seen:
    """Which op_ids a trace has used, and which numbers of collectives in each group."""

    def __init__(self) -> None:
        self._op_ids = NumberSet()
        self._group_seqs: dict[int, NumberSet] = {}

    def add(self, columns: TraceColumns) -> bool:
        """Take in the rows of whole operations; say whether their numbers are new."""
        op_ids = np.unique(columns.op_id)
        new = len(op_ids) == len(columns) and self._op_ids.add(op_ids)
        collective = IS_COLLECTIVE[columns.op]
        for group in np.unique(columns.group_id[collective]).tolist():
            seqs = np.unique(columns.group_seq[collective & (columns.group_id == group)])
            new &= self._group_seqs.setdefault(group, NumberSet()).add(seqs)
        return new


def summary(trace: Trace) -> dict[str, Any]:
    """Sum up a trace, sound or not, as a JSON-ready dict; each batch is read once.

    Keys: ``path``, ``schema_version``, ``rows``, ``batches``, ``world_size``, ``groups`` (``id``, ``name``,
    ``desc``, ``num_ranks``), ``ops`` (per operation ``rows``, ``send_bytes``, ``recv_bytes``, sums over all ranks),
    ``time_span_ns`` (earliest start to latest end, ``None`` where not recorded), ``recorded`` (optional column ->
    rows that have a value), and ``t0_unix_ns``, ``clock``, ``complete``, ``source``, ``placement`` as in the metadata.
    Raises ``TraceError`` where rows cannot be read.
    """
    recorded = {name: 0 for name in trace.column_names if COLUMN[name].nullable}
    ops: dict[str, dict[str, int]] = {}
    starts, ends = [], []
    batches = 0
    decoder = Decoder()
    for batch in trace.batches():
        batches += 1
        for name in recorded:
            recorded[name] += len(batch) - batch.column(name).null_count
        part = decoder.decode(batch)
        for code in np.unique(part.op):
            mine = part.op == code
            total = ops.setdefault(OP_NAMES[code], {"rows": 0, "send_bytes": 0, "recv_bytes": 0})
            total["rows"] += int(mine.sum())
            # Python integers: a sum over ranks may exceed 64 bits although no row does.
            total["send_bytes"] += sum(part.send_bytes[mine].tolist())
            total["recv_bytes"] += sum(part.recv_bytes[mine].tolist())
        starts += _known(part.t_start_ns)[:1].tolist()
        ends += _known(part.t_end_ns)[-1:].tolist()
    metadata = trace.metadata
    return {
        "path": None if trace.path is None else str(trace.path),
        "schema_version": "{}.{}".format(*metadata.version),
        "rows": trace.num_rows,
        "batches": batches,
        "world_size": trace.world_size,
        "groups": [{"id": g.id, "name": g.name, "desc": g.desc, "num_ranks": len(g)} for g in trace.groups],
        "ops": ops,
        "time_span_ns": max(ends) - min(starts) if starts and ends else None,
        "recorded": {name: count for name, count in recorded.items() if count},
        "t0_unix_ns": metadata.t0_unix_ns,
        "clock": metadata.clock and asdict(metadata.clock),
        "complete": metadata.complete and asdict(metadata.complete),
        "source": metadata.source,
        "placement": metadata.placement and list(metadata.placement),
    }


def _known(times_ns: Int64) -> Int64:
    """Return the recorded ones of *times_ns* in ascending order."""
    return np.sort(times_ns[times_ns != NULL_NS])
