"""Hold a whole trace against its rules, and sum it up (docs/trace-format.md, "Rules")."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from fabricsim.workloads.replay_order import stream_order
from fabricsim.workloads.schedule import Int64
from fabricsim.workloads.trace_columns import NULL_NS, Decoder, TraceColumns, concatenate
from fabricsim.workloads.trace_complaints import Complaints
from fabricsim.workloads.trace_file import Trace
from fabricsim.workloads.trace_operations import find_collectives, find_dependencies, find_transfers
from fabricsim.workloads.trace_order import check_order
from fabricsim.workloads.trace_row_rules import Members, check_rows
from fabricsim.workloads.trace_schema import COLUMN, OP_NAMES
from fabricsim.workloads.trace_splits import SplitMatcher


@dataclass(frozen=True)
class TraceSummary:
    """How much a sound trace holds: rows, and the operations that they make up."""

    rows: int
    collectives: int
    transfers: int
    local_operations: int


def check(trace: Trace) -> TraceSummary:
    """Hold a trace against all rules of docs/trace-format.md; each batch is read once.

    Raises ``TraceError`` that lists up to 20 faults, each with file, row, batch and column. Rules build on one
    another: values, then rows, then what several rows say about one operation, then the order. The first of
    these stages that finds faults reports all of its own.
    """
    values, rows = Complaints(trace.where), Complaints(trace.where)
    members = Members(trace.groups, trace.world_size)
    splits = SplitMatcher(trace.groups)
    parts = []
    for part in trace.examine(values):
        first_row = sum(values.batch_rows) - len(part)
        rows.batch_rows = values.batch_rows
        check_rows(part, members, first_row, rows)
        if values.count == rows.count == 0:
            splits.add(part, members.positions(part), first_row)
        parts.append(_without_splits(part))
    values.raise_any()
    if not sum(values.batch_rows):
        rows.add("the trace has no rows; record or generate at least one operation")
    rows.raise_any()

    columns = concatenate(parts)
    across = Complaints(trace.where, values.batch_rows)
    collectives = find_collectives(columns, members.positions(columns), trace.metadata, across)
    transfers = find_transfers(columns, across)
    dependencies = find_dependencies(columns, across)
    splits.complain(across)
    across.raise_any()
    check_order(columns, collectives, transfers, stream_order(columns, dependencies), across)
    across.raise_any()
    in_operations = len(collectives.rows) + transfers.size
    return TraceSummary(len(columns), len(collectives), len(transfers), len(columns) - in_operations)


def _without_splits(part: TraceColumns) -> TraceColumns:
    # The lists are most of a trace: only the matcher keeps some, those of collectives that are not yet whole.
    none, first = np.zeros(0, np.int64), np.zeros(len(part) + 1, np.int64)
    return replace(part, send_splits=none, recv_splits=none, send_splits_first=first, recv_splits_first=first)


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
