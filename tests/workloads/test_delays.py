"""Ranks that are slow or late."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from fabricsim.errors import ConfigError
from fabricsim.workloads.delays import delayed
from fabricsim.workloads.schedule import Schedule, ScheduleBlocks
from tests.oracle.cases import OperationDraft, TaskDraft, build_schedule


def schedule_of(blocks: ScheduleBlocks) -> Schedule:
    """The schedule of a workload in one block."""
    (block,) = blocks
    return block.schedule


def two_operations() -> ScheduleBlocks:
    """Two ranks, two operations one after the other; before the second come gaps of 5 and 7 ps, and 100 ps."""
    first = OperationDraft([TaskDraft(0), TaskDraft(1)])
    second = OperationDraft([TaskDraft(rank, gap, 100, after=(0,)) for rank, gap in ((0, 5), (1, 7))])
    return ScheduleBlocks.of(build_schedule(2, [first, second]))


def test_a_slow_rank_has_longer_gaps() -> None:
    """7 ps times 1.5 are rounded up to 11; the other rank's are as before, and so is the workload itself."""
    blocks = two_operations()
    assert schedule_of(delayed(blocks, {1: Fraction(3, 2)}, {})).tasks.gap_ps.tolist() == [0, 0, 5, 11]
    assert schedule_of(blocks).tasks.gap_ps.tolist() == [0, 0, 5, 7]


def test_a_late_rank_begins_later() -> None:
    """Only the task that waits for no other is put off."""
    assert schedule_of(delayed(two_operations(), {}, {1: 40})).tasks.not_before_ps.tolist() == [0, 40, 100, 100]


def test_a_task_that_waits_for_an_earlier_block_is_no_first_one() -> None:
    """In the second of two blocks nothing is put off."""
    (block,) = two_operations()
    follows = replace(block, earlier_task=np.array([1]), earlier_predecessor=np.array([0]))
    blocks = replace(two_operations(), make=lambda lane: iter([follows]))
    assert schedule_of(delayed(blocks, {}, {1: 40})).tasks.not_before_ps.tolist() == [0, 0, 100, 100]


def test_without_delays_nothing_is_made() -> None:
    """The same workload, not a copy."""
    blocks = two_operations()
    assert delayed(blocks, {}, {}) is blocks


def test_a_gap_beyond_all_time_is_refused() -> None:
    """It would overflow; the error names the rank."""
    task = TaskDraft(0, gap_ps=2**59)
    blocks = ScheduleBlocks.of(build_schedule(1, [OperationDraft([task])]))
    with pytest.raises(ConfigError, match="rank 0 would compute"):
        schedule_of(delayed(blocks, {0: Fraction(3)}, {}))
