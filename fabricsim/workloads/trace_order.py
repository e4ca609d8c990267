"""Would a replay of the trace ever end? The wait-for graph of its operations, and a cycle in it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from fabricsim.workloads.trace_columns import Int64, TraceColumns
from fabricsim.workloads.trace_complaints import Complaints
from fabricsim.workloads.trace_operations import Collectives, Dependencies, Transfers, collective_name
from fabricsim.workloads.trace_schema import OP_NAMES

_MAX_STEPS_SHOWN = 8


@dataclass(frozen=True)
class _Edges:
    """Node ``after[k]`` waits for node ``before[k]``, because row ``after_row[k]`` waits for ``before_row[k]``.

    A collective is one node, since no rank gets through it before all have reached it; every other row is a
    node; and so is the end of a batch, whose row is -1.
    """

    before: Int64
    after: Int64
    before_row: Int64
    after_row: Int64


def check_order(
    columns: TraceColumns,
    collectives: Collectives,
    transfers: Transfers,
    dependencies: Dependencies,
    complaints: Complaints,
) -> None:
    """Complain of one cycle of operations that wait for one another, if there is any.

    An operation waits for the one before it on its (rank, stream), or for its recorded ``deps`` instead; a recv
    waits for its send; rows of one batch do not wait for one another.
    """
    edges = _edges(columns, collectives, transfers, dependencies)
    # Hundreds of ranks say the same of two collectives: one edge is enough to find a cycle.
    num_nodes = int(max(edges.before.max(initial=-1), edges.after.max(initial=-1))) + 1
    _, kept = np.unique(edges.before * num_nodes + edges.after, return_index=True)
    cycle = _find_cycle(num_nodes, edges.before[kept], edges.after[kept])
    if cycle:
        complaints.add(_cycle_text(columns, edges, cycle, complaints))


def _edges(columns: TraceColumns, collectives: Collectives, transfers: Transfers, dependencies: Dependencies) -> _Edges:
    num_rows = len(columns)
    node = np.arange(num_rows)
    node[collectives.rows] = collectives.rows[collectives.first[:-1]][collectives.of_entry]

    # Items of a stream: single rows, or runs of rows with one batch_id.
    order = np.lexsort((columns.stream, columns.rank))  # lexsort is stable: row order within a stream
    rank, stream, batch = columns.rank[order], columns.stream[order], columns.batch_id[order]
    same_stream = np.zeros(num_rows, np.bool_)
    same_stream[1:] = (rank[1:] == rank[:-1]) & (stream[1:] == stream[:-1])
    same_item = same_stream.copy()
    same_item[1:] &= (batch[1:] == batch[:-1]) & (batch[1:] >= 0)
    item = np.cumsum(~same_item) - 1
    item_first = np.flatnonzero(~same_item)
    is_batch = np.diff(np.append(item_first, num_rows)) > 1
    item_end = np.where(is_batch, num_rows + np.arange(len(item_first)), node[order[item_first]])
    item_end_row = np.where(is_batch, -1, order[item_first])

    batched = np.flatnonzero(is_batch[item])
    has_previous = same_stream[item_first][item] & ~columns.deps_recorded[order]
    waiting = np.flatnonzero(has_previous)
    previous = item[waiting] - 1
    return _Edges(
        before=np.concatenate(
            [node[order[batched]], item_end[previous], node[dependencies.before], node[transfers.send]]
        ),
        after=np.concatenate(
            [item_end[item[batched]], node[order[waiting]], node[dependencies.after], node[transfers.recv]]
        ),
        before_row=np.concatenate([order[batched], item_end_row[previous], dependencies.before, transfers.send]),
        after_row=np.concatenate([np.full(len(batched), -1), order[waiting], dependencies.after, transfers.recv]),
    )


def _find_cycle(num_nodes: int, before: Int64, after: Int64) -> list[int]:
    """Find a short cycle of nodes, each waiting for the one before it and the first for the last; [] if none."""
    order = np.argsort(before, kind="stable")
    first = np.searchsorted(before[order], np.arange(num_nodes + 1)).tolist()
    followers = after[order].tolist()
    waits = np.bincount(after, minlength=num_nodes).tolist()
    ready = [node for node in range(num_nodes) if waits[node] == 0]
    while ready:
        node = ready.pop()
        for follower in followers[first[node] : first[node + 1]]:
            waits[follower] -= 1
            if waits[follower] == 0:
                ready.append(follower)
    stuck = {node for node in range(num_nodes) if waits[node] > 0}
    if not stuck:
        return []
    # Whatever is stuck waits for something stuck: going back long enough ends on a cycle.
    awaited = {int(b): int(a) for a, b in zip(before, after, strict=True) if int(a) in stuck and int(b) in stuck}
    node, seen = min(stuck), set()
    while node not in seen:
        seen.add(node)
        node = awaited[node]
    return _shortest_way_back(node, {n: [f for f in followers[first[n] : first[n + 1]] if f in stuck] for n in stuck})


def _shortest_way_back(start: int, followers: dict[int, list[int]]) -> list[int]:
    came_from: dict[int, int] = {}
    queue = deque([start])
    while start not in came_from:
        node = queue.popleft()
        for follower in followers[node]:
            if follower not in came_from:
                came_from[follower] = node
                queue.append(follower)
    way = [start]
    while (node := came_from[way[-1]]) != start:
        way.append(node)
    return way[::-1]


def _cycle_text(columns: TraceColumns, edges: _Edges, cycle: list[int], complaints: Complaints) -> str:
    if cycle[0] >= len(columns):
        cycle = cycle[1:] + cycle[:1]  # begin with a row, not with the end of a batch
    steps: list[tuple[int, int]] = []
    for before, after in zip(cycle, cycle[1:] + cycle[:1], strict=True):
        edge = int(np.flatnonzero((edges.before == before) & (edges.after == after))[0])
        before_row, after_row = int(edges.before_row[edge]), int(edges.after_row[edge])
        if before_row < 0:
            before_row = steps.pop()[0]  # the end of a batch stands between two rows of one rank
        steps.append((before_row, after_row))

    def name(row: int) -> str:
        op = OP_NAMES[columns.op[row]]
        what = collective_name(columns, row) if columns.group_seq[row] >= 0 else op
        return f"{what} in {complaints.row_name(row)}"

    def tell(before_row: int, after_row: int) -> str:
        before_rank, after_rank = columns.rank[before_row], columns.rank[after_row]
        if before_rank == after_rank:
            return f"rank {before_rank} runs {name(before_row)} before {name(after_row)}"
        return f"rank {after_rank} waits in {name(after_row)} for rank {before_rank}'s {name(before_row)}"

    told = [tell(*step) for step in steps[:_MAX_STEPS_SHOWN]]
    more = [f"and {len(steps) - len(told)} more steps"] if len(steps) > len(told) else []
    remedy = "record operations in one order on all their ranks, or on different streams"
    return f"crossed orders would deadlock: {'; '.join(told + more)}. To mend it, {remedy}"
