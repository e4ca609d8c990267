"""Operations side by side: what overlaps at one rank gets lines of its own."""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


def lanes_of(rank: npt.NDArray[np.integer], begin_ps: Int64, end_ps: Int64) -> Int64:
    """Give each row a lane, from 0 at its rank: as few as there are rows at one time, the lowest that is free."""
    lane = np.zeros(len(rank), np.int64)
    free: list[int] = []
    busy: list[tuple[int, int]] = []  # (end, lane)
    lanes, here = 0, None
    for row in np.lexsort((end_ps, begin_ps, rank)).tolist():
        if rank[row] != here:
            here, lanes, free, busy = rank[row], 0, [], []
        while busy and busy[0][0] <= begin_ps[row]:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if not free:
            heapq.heappush(free, lanes)
            lanes += 1
        lane[row] = heapq.heappop(free)
        heapq.heappush(busy, (int(end_ps[row]), int(lane[row])))
    return lane
