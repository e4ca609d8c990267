from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabricsim.graphs import find_cycle

NODES = 8
EDGES = st.lists(st.tuples(st.integers(0, NODES - 1), st.integers(0, NODES - 1)), max_size=14)


def cycle_of(edges: list[tuple[int, int]], num_nodes: int = NODES) -> list[int]:
    """Return the cycle that is found among *edges*."""
    before, after = np.array(edges, np.int64).reshape(-1, 2).T
    return find_cycle(num_nodes, before, after)


def distance(edges: set[tuple[int, int]], start: int, target: int) -> int:
    """Return the fewest edges, at least one, from *start* to *target*; the target must be in reach."""
    reached, steps = {start}, 0
    while True:
        reached, steps = {after for before, after in edges if before in reached}, steps + 1
        if target in reached:
            return steps


@given(EDGES)
def test_a_cycle_is_found_exactly_if_there_is_no_order(edges: list[tuple[int, int]]) -> None:
    """Against the sorter of the standard library; the cycle runs along edges, and meets no node twice."""
    sorter: TopologicalSorter[int] = TopologicalSorter({node: set() for node in range(NODES)})
    for before, after in edges:
        sorter.add(after, before)
    cycle = cycle_of(edges)
    if not cycle:
        sorter.prepare()
        return
    with pytest.raises(CycleError):
        sorter.prepare()
    assert all(edge in edges for edge in zip(cycle, cycle[1:] + cycle[:1], strict=True))
    assert len(set(cycle)) == len(cycle)
    assert cycle[0] == min(cycle)
    # Some node of it has no shorter way back to itself, so a message that names the cycle tells no detour.
    assert len(cycle) in [distance(set(edges), node, node) for node in cycle]


@pytest.mark.parametrize(
    ("edges", "cycle"),
    [
        ([], []),
        ([(0, 1), (1, 2), (0, 2)], []),
        ([(3, 3)], [3]),
        ([(0, 1), (1, 0)], [0, 1]),
        ([(5, 3), (3, 4), (4, 5)], [3, 4, 5]),
        ([(1, 2), (2, 3), (3, 1), (0, 1), (3, 7)], [1, 2, 3]),
        ([(1, 2), (1, 2), (2, 1), (2, 1)], [1, 2]),
    ],
    ids=["no edge", "no cycle", "to itself", "two nodes", "smallest first", "ways in and out", "edges twice"],
)
def test_a_cycle_is_told_along_its_edges(edges: list[tuple[int, int]], cycle: list[int]) -> None:
    """Each node stands before the next, the last before the first; what only leads there or away is left out."""
    assert cycle_of(edges) == cycle


def test_a_cycle_behind_a_long_chain_is_found() -> None:
    """A chain peels one node at a time and needs no recursion."""
    chain = [(node, node + 1) for node in range(20_000)]
    assert cycle_of(chain, 20_001) == []
    assert cycle_of([*chain, (20_000, 19_998)], 20_001) == [19_998, 19_999, 20_000]
