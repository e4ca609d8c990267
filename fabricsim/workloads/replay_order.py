"""Which rows of a trace wait for which: what the check looks for cycles in and the replay follows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fabricsim.workloads.schedule import Int64, offsets, slices
from fabricsim.workloads.trace_columns import TraceColumns
from fabricsim.workloads.trace_operations import Dependencies


@dataclass(frozen=True)
class RowOrder:
    """What each row waits for on its rank: row ``i`` for ``rows[first[i] : first[i + 1]]``.

    The last rows are *joins*, which the trace does not have: each stands between two batches of one stream, so that
    the rows of the later batch need not each name all rows of the earlier one. ``join_rank`` and ``join_before`` have
    one entry per join: its rank and the first row of the batch before which it stands.
    """

    first: Int64
    rows: Int64
    join_rank: Int64
    join_before: Int64

    @property
    def waiting(self) -> Int64:
        """The row that waits, for each entry of ``rows``."""
        return np.repeat(np.arange(len(self.first) - 1), np.diff(self.first))


def free_order(num_rows: int) -> RowOrder:
    """Give the order in which no row waits for another."""
    nothing = np.empty(0, dtype=np.int64)
    return RowOrder(np.zeros(num_rows + 1, dtype=np.int64), nothing, nothing, nothing)


def stream_order(columns: TraceColumns, dependencies: Dependencies) -> RowOrder:
    """Give the order of replay: recorded dependencies, else the rows before on the (rank, stream).

    A run of rows with one ``batch_id`` counts as one there: each of its rows waits for what stands before the run, and
    what stands behind it waits for all of them.
    """
    num_rows = len(columns)
    on_stream = np.lexsort((columns.stream, columns.rank))  # lexsort is stable: row order within a stream
    rank, stream, batch = (values[on_stream] for values in (columns.rank, columns.stream, columns.batch_id))
    new_stream = np.ones(num_rows, dtype=np.bool_)
    new_stream[1:] = (rank[1:] != rank[:-1]) | (stream[1:] != stream[:-1])
    # A stage is a row or a run of rows of one batch; its rows wait for all rows of the stage before.
    new_stage = new_stream.copy()
    new_stage[1:] |= (batch[1:] != batch[:-1]) | (batch[1:] == -1)
    stage = np.cumsum(new_stage) - 1
    stage_first = np.append(np.flatnonzero(new_stage), num_rows)
    stage_size = np.diff(stage_first)
    # Between two stages of m and k rows a join makes m + k pairs of m * k.
    joined = ~new_stream[stage_first[:-1]] & (stage_size > 1)
    joined[1:] &= stage_size[:-1] > 1
    join_stage = np.flatnonzero(joined)
    num_joins = len(join_stage)

    # Each list of rows to wait for is a slice of one pool: the rows in stream order, the joins, the recorded ones.
    pool = np.concatenate([on_stream, num_rows + np.arange(num_joins), dependencies.before])
    pool_first = np.zeros(num_rows + num_joins, dtype=np.int64)
    count = np.zeros(num_rows + num_joins, dtype=np.int64)
    row_joined = joined[stage]
    pool_first[on_stream] = np.where(row_joined, num_rows + (np.cumsum(joined) - 1)[stage], stage_first[stage - 1])
    count[on_stream] = np.where(row_joined, 1, np.where(new_stream[stage_first[stage]], 0, stage_size[stage - 1]))
    pool_first[num_rows:] = stage_first[join_stage - 1]
    count[num_rows:] = stage_size[join_stage - 1]
    recorded = np.flatnonzero(columns.deps_recorded)
    pool_first[recorded] = num_rows + num_joins + columns.deps_first[recorded]
    count[recorded] = np.diff(columns.deps_first)[recorded]

    join_place = stage_first[join_stage]
    return RowOrder(
        first=offsets(count),
        rows=pool[slices(pool_first, count)],
        join_rank=rank[join_place].astype(np.int64),
        join_before=on_stream[join_place],
    )
