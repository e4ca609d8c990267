"""The set of numbers that finds doubled op_ids."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fabricsim.workloads.number_set import NumberSet


@given(st.lists(st.sets(st.integers(0, 30), min_size=1), max_size=8))
def test_numbers_are_new_once(parts: list[set[int]]) -> None:
    """A part of which any number has come before is refused, all others are taken in."""
    numbers, known = NumberSet(), set[int]()
    for part in parts:
        is_new = not known & part
        assert numbers.add(np.array(sorted(part))) == is_new
        known |= part if is_new else set()


def test_runs_grow_together() -> None:
    """Numbers that come without a gap are one run, in whatever order; the largest number of 64 bits is one of them."""
    numbers = NumberSet()
    last = 2**63 - 1
    for part in ([0, 1, 5], [9], [2, 3, 4], [6, 7, 8], [last - 1], [last]):
        assert numbers.add(np.array(part))
    assert len(numbers._first) == 2
    assert not numbers.add(np.array([last]))
