"""A cycle in a graph of edges, where there is one: what waits for itself never begins.

Three parts ask: the channels of a network, the operations of a trace, the tasks and messages of a schedule.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt


def find_cycle(num_nodes: int, before: npt.NDArray[np.integer], after: npt.NDArray[np.integer]) -> list[int]:
    """Find a short cycle of the graph with the edges ``before[k] -> after[k]``.

    Peels off the nodes before which nothing is left (Kahn, "Topological sorting of large networks", 1962); what
    remains holds a cycle. Plain lists rather than arrays, because a graph that is one long chain peels node by node.

    Parameters
    ----------
    num_nodes
        Nodes are the numbers 0 .. ``num_nodes`` - 1.
    before, after
        Shape (edges,): node numbers. An edge may come more than once and may join a node to itself.

    Returns
    -------
    list[int]
        The nodes of one cycle along its edges, the smallest number first; empty if the graph has none.
    """
    order = np.argsort(before, kind="stable")
    first = np.searchsorted(before[order], np.arange(num_nodes + 1)).tolist()
    followers = after[order].tolist()
    awaited = np.bincount(after, minlength=num_nodes).tolist()
    ready = [node for node, count in enumerate(awaited) if count == 0]
    while ready:
        node = ready.pop()
        for follower in followers[first[node] : first[node + 1]]:
            awaited[follower] -= 1
            if awaited[follower] == 0:
                ready.append(follower)
    left = np.array(awaited, np.int64) > 0
    if not left.any():
        return []
    # Whatever is left comes after something left, so going back long enough meets a node twice: one of a cycle.
    inside = left[before] & left[after]
    one_before = np.full(num_nodes, -1, np.int64)
    one_before[after[inside]] = before[inside]
    node, met = int(np.argmax(left)), set()
    while node not in met:
        met.add(node)
        node = int(one_before[node])
    cycle = _shortest_cycle(node, first, followers)
    smallest = cycle.index(min(cycle))
    return cycle[smallest:] + cycle[:smallest]


def _shortest_cycle(start: int, first: list[int], followers: list[int]) -> list[int]:
    """Return the fewest nodes that lead from *start*, which is on a cycle, along edges back to it."""
    came_from: dict[int, int] = {}
    queue = deque([start])
    while start not in came_from:
        node = queue.popleft()
        for follower in followers[first[node] : first[node + 1]]:
            if follower not in came_from:
                came_from[follower] = node
                queue.append(follower)
    cycle = [start]
    while (node := came_from[cycle[-1]]) != start:
        cycle.append(node)
    return cycle[:1] + cycle[:0:-1]
