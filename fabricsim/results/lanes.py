"""Operations side by side: the streams of a rank, and what overlaps in one of these, get lines of their own."""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer]


def lanes_of(rank: Integers, stream: Integers, begin_ps: Int64, end_ps: Int64) -> Int64:
    """Give each row a lane, from 0 in its stream: as few as there are rows at one time, the lowest that is free.

    Ranks have streams of their own, so one with the same number at another rank is another.
    """
    lane = np.zeros(len(rank), np.int64)
    free: list[int] = []
    busy: list[tuple[int, int]] = []  # (end, lane)
    lanes, here = 0, None
    for row in np.lexsort((end_ps, begin_ps, stream, rank)).tolist():
        if (rank[row], stream[row]) != here:
            here, lanes, free, busy = (rank[row], stream[row]), 0, [], []
        while busy and busy[0][0] <= begin_ps[row]:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if not free:
            heapq.heappush(free, lanes)
            lanes += 1
        lane[row] = heapq.heappop(free)
        heapq.heappush(busy, (int(end_ps[row]), int(lane[row])))
    return lane


def lines_of(rank: Integers, stream: Integers, lane: Int64) -> Int64:
    """Count the lanes of each rank from 0 on, stream by stream."""
    lines, line = np.unique(np.stack([rank, stream, lane], axis=1), axis=0, return_inverse=True)
    return line.reshape(-1) - np.searchsorted(lines[:, 0], rank)
