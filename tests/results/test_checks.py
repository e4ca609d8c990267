from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from fabricsim.engine.driver import RunRecord, run_schedule
from fabricsim.errors import SelfCheckError
from tests.results.small import crossbar, finished, linear, one_operation

NETWORK = crossbar(planes=2)
SCHEDULE = one_operation((0, 1, 250), (2, 1, 30), (3, 3, 10))


@pytest.fixture(scope="module")
def record() -> RunRecord:
    """A run in which nothing is wrong."""
    return run_schedule(NETWORK, SCHEDULE, terminal_of_rank=linear(SCHEDULE), kernel="python")


def changed(values: np.ndarray, row: int, value: int) -> np.ndarray:
    """A copy with one other value."""
    copy = values.copy()
    copy[row] = value
    return copy


def test_a_sound_record_passes(record: RunRecord) -> None:
    """What the kernel really records makes a result."""
    assert finished(NETWORK, SCHEDULE, record).simulated_time_ps == record.task_end_ps.max()


@pytest.mark.parametrize(
    ("field", "row", "value", "words"),
    [
        ("task_begin_ps", 0, -1, "began before time zero"),
        ("task_end_ps", 2, -1, "ended before it began"),
        ("message_ready_ps", 0, -1, "ready before its task began"),
        ("message_first_injection_ps", 0, 1, "injected before it was ready"),
        ("message_complete_ps", 0, 5_299, "before it was injected"),
        ("message_complete_ps", 1, 10**9, "before all its messages were complete"),
        ("channel_wire_bytes", 0, 1, "gpu0 had to send 340 wire bytes, but its channels carried 171"),
        ("channel_busy_ps", 3, 10**9, "was busy for 1,000,000,000 ps"),
        ("channel_packets", 0, 7, "packet hops were counted"),
        ("packet_latency_counts", 0, 1, "6 packets were timed, but the messages are cut into 5"),
    ],
)
def test_a_wrong_entry_is_found(record: RunRecord, field: str, row: int, value: int, words: str) -> None:
    """One entry that contradicts the physics or the other entries is named, and asks for a report."""
    wrong = dataclasses.replace(record, **{field: changed(getattr(record, field), row, value)})
    with pytest.raises(SelfCheckError, match=words) as caught:
        finished(NETWORK, SCHEDULE, wrong)
    assert "please report it" in str(caught.value)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"packets": 4}, "4 packets were delivered, but the messages are cut into 5"),
        ({"packet_hops": 11}, "11 packet hops were counted, but the channels carried 10 packets"),
    ],
)
def test_a_wrong_count_is_found(record: RunRecord, changes: dict[str, Any], words: str) -> None:
    """A count that contradicts the tables is named."""
    with pytest.raises(SelfCheckError, match=words):
        finished(NETWORK, SCHEDULE, dataclasses.replace(record, **changes))


def test_a_time_below_its_bound_is_found(record: RunRecord) -> None:
    """A run that ends a little early keeps the order of times, but beats its bound.

    Terminal 1 ejects (340 + 50) wire bytes over two channels: 5,300 + 2,000 + 195 = 7,495 ps.
    """
    early = {
        "task_end_ps": np.minimum(record.task_end_ps, 7_494),
        "message_complete_ps": np.minimum(record.message_complete_ps, 7_494),
    }
    words = r"operation 0 \(operation0\) ended at 7,494 ps, before its lower bound of 7,495 ps"
    with pytest.raises(SelfCheckError, match=words):
        finished(NETWORK, SCHEDULE, dataclasses.replace(record, **early))
