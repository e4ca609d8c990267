"""Ranks that are slow or late: from a workload to the same one with other times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction

import numpy as np

from fabricsim.errors import ConfigError
from fabricsim.workloads.schedule import Int64, Schedule, ScheduleBlock, ScheduleBlocks

#: Gaps stay below this, far from where int64 picoseconds would wrap.
_MAX_GAP_PS = 2**60


def delayed(blocks: ScheduleBlocks, gap_factor: Mapping[int, Fraction], skew_ps: Mapping[int, int]) -> ScheduleBlocks:
    """Let the compute gaps of some ranks take longer, and some ranks begin later.

    Parameters
    ----------
    blocks
        The workload.
    gap_factor
        By rank: how many times as long its gaps are, rounded up to whole picoseconds.
    skew_ps
        By rank: how many picoseconds later its first tasks, those that wait for no other, may begin.

    A gap that becomes too long raises ``ConfigError``, not here but when its block is read.
    """
    if not gap_factor and not skew_ps:
        return blocks

    def make(lane: int | None) -> Iterator[ScheduleBlock]:
        for block in blocks.make(lane):
            yield replace(block, schedule=_delayed(block, gap_factor, skew_ps))

    return replace(blocks, make=make)


def first_tasks(block: ScheduleBlock) -> Int64:
    """Find the tasks of a block that wait for no other task."""
    waits = np.diff(block.schedule.tasks.predecessor_first) > 0
    waits[block.earlier_task] = True
    return np.flatnonzero(~waits)


def _delayed(block: ScheduleBlock, gap_factor: Mapping[int, Fraction], skew_ps: Mapping[int, int]) -> Schedule:
    tasks = block.schedule.tasks
    gap_ps, not_before_ps = tasks.gap_ps.copy(), tasks.not_before_ps.copy()
    for rank, factor in gap_factor.items():
        rows = np.flatnonzero(tasks.rank == rank)
        longer = -(-gap_ps[rows].astype(object) * factor.numerator // factor.denominator)
        if len(rows) and max(longer) > _MAX_GAP_PS:
            raise ConfigError(
                f"rank {rank} would compute for {max(longer) / 1e12:,.0f} s in one gap; make it slow by less"
            )
        gap_ps[rows] = longer.astype(np.int64)
    first = first_tasks(block)
    for rank, skew in skew_ps.items():
        not_before_ps[first[tasks.rank[first] == rank]] += skew
    return replace(block.schedule, tasks=replace(tasks, gap_ps=gap_ps, not_before_ps=not_before_ps))
