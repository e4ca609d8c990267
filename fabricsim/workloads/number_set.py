"""A set of whole numbers that come mostly in runs, kept as runs."""

from __future__ import annotations

import numpy as np

from fabricsim.workloads.schedule import Int64


class NumberSet:
    """Whole numbers as the runs ``first .. last`` of successive ones; few runs take little memory, however long."""

    def __init__(self) -> None:
        self._first = np.empty(0, np.int64)
        self._last = np.empty(0, np.int64)

    def add(self, numbers: Int64) -> bool:
        """Add at least one number, in ascending order, each once; say whether all of them are new."""
        gaps = np.flatnonzero(np.diff(numbers) != 1)
        first = np.concatenate([self._first, numbers[np.append(0, gaps + 1)]])
        last = np.concatenate([self._last, numbers[np.append(gaps, len(numbers) - 1)]])
        order = np.argsort(first, kind="stable")
        first, last = first[order], last[order]
        if (first[1:] <= last[:-1]).any():
            return False
        apart = first[1:] - 1 != last[:-1]
        self._first, self._last = first[np.append(True, apart)], last[np.append(apart, True)]
        return True
