from __future__ import annotations

import pytest

from fabricsim.engine.driver import run_schedule
from fabricsim.errors import ConfigError
from fabricsim.workloads.schedule import Schedule
from fabricsim.workloads.schedule_check import check_schedule
from fabricsim.workloads.transfers import batch, fan
from tests.results.small import crossbar, linear


def pairs(schedule: Schedule) -> list[tuple[int, int, int]]:
    """(source, target, bytes) of all messages."""
    messages = schedule.messages
    return list(
        zip(messages.source_task.tolist(), messages.target_task.tolist(), messages.size_bytes.tolist(), strict=True)
    )


def test_a_fan_moves_equal_parts_into_the_root_or_out_of_it() -> None:
    """Nothing is launched, and nothing waits."""
    for into_root, expected in ((True, [(1, 0, 50), (2, 0, 50)]), (False, [(0, 1, 50), (0, 2, 50)])):
        schedule = fan(3, 100, into_root=into_root)
        check_schedule(schedule)
        assert pairs(schedule) == expected
        assert not schedule.tasks.launches.any()


@pytest.mark.parametrize(("kind", "forth", "back"), [("write", 100, 1), ("read", 64, 100)])
def test_a_batch_goes_part_by_part(kind: str, forth: int, back: int) -> None:
    """Each message waits for the one before it of the other rank, so nothing overlaps and times add up.

    A part costs twice message overhead (300 ps) and route (2 * 1000 ps), and what its two messages take on the wire:
    one packet each, of its bytes and 20 more in flits of 10, at 1 ps per byte.
    """
    schedule = batch(kind, 300, 3)
    check_schedule(schedule)
    assert pairs(schedule) == [(0, 1, forth)] * 3 + [(1, 0, back)] * 3
    record = run_schedule(crossbar(2), schedule, terminal_of_rank=linear(schedule))
    wire = sum(-(-(size + 20) // 10) * 10 for size in (forth, back))
    assert record.message_complete_ps.max() == 3 * (2 * (300 + 2000) + wire)


def test_a_batch_that_does_not_come_out_is_refused() -> None:
    """Its parts are equal."""
    with pytest.raises(ConfigError, match="equal parts"):
        batch("read", 100, 3)
