"""Which rows of a trace wait for which: what the check looks for cycles in and the replay follows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fabricsim.workloads.schedule import Bool, Int32, Int64, offsets, slices
from fabricsim.workloads.trace_columns import TraceColumns
from fabricsim.workloads.trace_operations import Dependencies


@dataclass(frozen=True)
class Stages:
    """Rows by (rank, stream), in row order there, cut into stages: a row, or a run of rows of one ``batch_id``.

    ``rows`` names each row once; a row of the trace before those at hand has a negative number, as the last of a list
    have in Python. ``new_stream`` and ``new_stage`` say where a stream or a stage begins.
    """

    rows: Int64
    new_stream: Bool
    new_stage: Bool

    @classmethod
    def of(cls, rank: Int32, stream: Int32, batch_id: Int64, num_earlier: int = 0) -> Stages:
        """Cut rows into stages; the first ``num_earlier`` of them stand before those at hand."""
        on_stream = np.lexsort((stream, rank))  # lexsort is stable: row order within a stream
        rank, stream, batch_id = rank[on_stream], stream[on_stream], batch_id[on_stream]
        new_stream = np.ones(len(on_stream), dtype=np.bool_)
        new_stream[1:] = (rank[1:] != rank[:-1]) | (stream[1:] != stream[:-1])
        new_stage = new_stream.copy()
        new_stage[1:] |= (batch_id[1:] != batch_id[:-1]) | (batch_id[1:] == -1)
        return cls(on_stream - num_earlier, new_stream, new_stage)


@dataclass(frozen=True)
class RowOrder:
    """What each row waits for on its rank: row ``i`` for ``rows[first[i] : first[i + 1]]``.

    The last rows are *joins*, which the trace does not have: each stands between two batches of one stream, so that
    the rows of the later batch need not each name all rows of the earlier one. ``join_rank`` and ``join_before`` have
    one entry per join: its rank and the first row of the batch before which it stands. Negative ``rows`` are those of
    ``Stages`` and ``Dependencies``.
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


def stream_order(columns: TraceColumns, dependencies: Dependencies, stages: Stages) -> RowOrder:
    """Give the order of replay: recorded dependencies, else the rows before on the (rank, stream).

    Each row of a stage waits for what stands before the stage, and what stands behind it waits for all of them.
    """
    num_rows, num_places = len(columns), len(stages.rows)
    new_stream, stage = stages.new_stream, np.cumsum(stages.new_stage) - 1
    stage_first = np.append(np.flatnonzero(stages.new_stage), num_places)
    stage_size = np.diff(stage_first)
    # Between two stages of m and k rows a join makes m + k pairs of m * k.
    joined = ~new_stream[stage_first[:-1]] & (stage_size > 1)
    joined[1:] &= stage_size[:-1] > 1
    join_stage = np.flatnonzero(joined)
    num_joins = len(join_stage)

    # Each list of rows to wait for is a slice of one pool: the rows in stream order, the joins, the recorded ones.
    pool = np.concatenate([stages.rows, num_rows + np.arange(num_joins), dependencies.before])
    pool_first = np.zeros(num_rows + num_joins, dtype=np.int64)
    count = np.zeros(num_rows + num_joins, dtype=np.int64)
    here = np.flatnonzero(stages.rows >= 0)
    row, stage = stages.rows[here], stage[here]
    row_joined = joined[stage]
    pool_first[row] = np.where(row_joined, num_places + (np.cumsum(joined) - 1)[stage], stage_first[stage - 1])
    count[row] = np.where(row_joined, 1, np.where(new_stream[stage_first[stage]], 0, stage_size[stage - 1]))
    pool_first[num_rows:] = stage_first[join_stage - 1]
    count[num_rows:] = stage_size[join_stage - 1]
    recorded = np.flatnonzero(columns.deps_recorded)
    pool_first[recorded] = num_places + num_joins + columns.deps_first[recorded]
    count[recorded] = np.diff(columns.deps_first)[recorded]

    join_before = stages.rows[stage_first[join_stage]]
    return RowOrder(
        first=offsets(count),
        rows=pool[slices(pool_first, count)],
        join_rank=columns.rank[join_before].astype(np.int64),
        join_before=join_before,
    )
