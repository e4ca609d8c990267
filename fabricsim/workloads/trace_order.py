"""Would a replay of the trace ever end? The wait-for graph of its operations, and a cycle in it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from fabricsim.graphs import find_cycle
from fabricsim.workloads.replay_order import RowOrder
from fabricsim.workloads.schedule import Int64
from fabricsim.workloads.trace_columns import TraceColumns
from fabricsim.workloads.trace_complaints import Complaints
from fabricsim.workloads.trace_operations import Collectives, Transfers, collective_name
from fabricsim.workloads.trace_schema import OP_NAMES

_MAX_STEPS_SHOWN = 8


def check_order(
    columns: TraceColumns,
    collectives: Collectives,
    transfers: Transfers,
    order: RowOrder,
    complaints: Complaints,
) -> None:
    """Complain of one cycle of operations that wait for one another, if there is any.

    On its rank a row waits for what *order*, that of the replay, says; a recv waits for its send.
    """
    # Where all wait for what stands before them in the trace, no cycle is left to look for.
    leader = np.arange(len(columns))
    if len(collectives):
        leader[collectives.rows] = np.minimum.reduceat(collectives.rows, collectives.first[:-1])[collectives.of_entry]
    place = np.concatenate([2 * leader + 1, 2 * order.join_before])
    if (place[order.rows] < place[order.waiting]).all() and (place[transfers.send] < place[transfers.recv]).all():
        return
    # A collective is one node, that of its first rank's row, since no rank gets through it before all have reached it;
    # every other row is a node, and so is every join.
    node = np.arange(len(order.first) - 1)
    node[collectives.rows] = collectives.rows[collectives.first[:-1]][collectives.of_entry]
    before_row = np.concatenate([order.rows, transfers.send])
    after_row = np.concatenate([order.waiting, transfers.recv])
    cycle = find_cycle(len(node), node[before_row], node[after_row])
    if not cycle:
        return
    steps = _steps(cycle, node, before_row, after_row, len(columns))
    told = [_step_text(columns, before, after, complaints) for before, after in islice(steps, _MAX_STEPS_SHOWN)]
    untold = sum(number < len(columns) for number in cycle) - len(told)
    more = [f"and {untold} more steps"] if untold else []
    remedy = "record operations in one order on all their ranks, or on different streams"
    complaints.add(f"crossed orders would deadlock: {'; '.join(told + more)}. To mend it, {remedy}")


def _steps(
    cycle: list[int], node: Int64, before_row: Int64, after_row: Int64, num_rows: int
) -> Iterator[tuple[int, int]]:
    """Yield the rows (before, after) through which each operation of a cycle holds up the next.

    A join stands between two rows of one rank and is passed over; the cycle begins with a row, for rows have the
    smaller numbers and a join waits for rows only.
    """
    waiting_before, waiting_after = node[before_row], node[after_row]
    before = -1
    for this, following in zip(cycle, cycle[1:] + cycle[:1], strict=True):
        edge = np.flatnonzero((waiting_before == this) & (waiting_after == following))[0]
        if this < num_rows:
            before = int(before_row[edge])
        if following < num_rows:
            yield before, int(after_row[edge])


def _step_text(columns: TraceColumns, before_row: int, after_row: int, complaints: Complaints) -> str:
    def name(row: int) -> str:
        op = OP_NAMES[columns.op[row]]
        what = collective_name(columns, row) if columns.group_seq[row] >= 0 else op
        return f"{what} in {complaints.row_name(row)}"

    before_rank, after_rank = columns.rank[before_row], columns.rank[after_row]
    if before_rank == after_rank:
        return f"rank {before_rank} runs {name(before_row)} before {name(after_row)}"
    return f"rank {after_rank} waits in {name(after_row)} for rank {before_rank}'s {name(before_row)}"
