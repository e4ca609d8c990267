from __future__ import annotations

import hashlib
import struct
from types import SimpleNamespace

import numpy as np

from fabricsim.results.digest import BLOCK_ROWS
from tests.oracle.cases import MessageDraft, OperationDraft, TaskDraft, build_schedule
from tests.results.small import digest_of


def times(**columns: list[int]) -> SimpleNamespace:
    """The columns of a record that the digest reads."""
    return SimpleNamespace(**{name: np.array(values, np.int64) for name, values in columns.items()})


def test_digest_of_one_message_is_the_hash_of_three_rows() -> None:
    """A message (complete 70, ready 10, injected 20) and the tasks of ranks 0 (0 to 60) and 1 (5 to 70).

    Sorted by (end, operation, number): rank 0 (60, 0, -1, 0, 0), rank 1 (70, 0, -2, 5, 5), message (70, 0, 0, 10, 20).
    """
    schedule = build_schedule(2, [OperationDraft([TaskDraft(0), TaskDraft(1)], [MessageDraft(0, 1, 100)])])
    record = times(
        task_begin_ps=[0, 5],
        task_end_ps=[60, 70],
        message_ready_ps=[10],
        message_first_injection_ps=[20],
        message_complete_ps=[70],
    )
    # What sha256sum says of these 15 numbers as 8-byte words, lowest byte first.
    assert digest_of(schedule, record) == "ba0bf11fe95a32cf679245d9ed1948720c6da14a4431905e9c17a54f357d247a"


def test_blocks_are_chained() -> None:
    """More rows than one block are hashed block by block, each behind the digest of those before."""
    count = BLOCK_ROWS + 100
    messages = [MessageDraft(0, 1, 1)] * count
    schedule = build_schedule(2, [OperationDraft([TaskDraft(0), TaskDraft(1)], messages)])
    generator = np.random.default_rng(1)
    complete = generator.integers(0, 1_000, count).tolist()
    record = times(
        task_begin_ps=[0, 0],
        task_end_ps=[2_000, 2_000],
        message_ready_ps=[1] * count,
        message_first_injection_ps=[2] * count,
        message_complete_ps=complete,
    )
    rows = sorted(
        [(end, 0, index, 1, 2) for index, end in enumerate(complete)] + [(2_000, 0, -1, 0, 0), (2_000, 0, -2, 0, 0)]
    )
    digest = b""
    for first in (0, BLOCK_ROWS):
        block = b"".join(struct.pack("<5q", *row) for row in rows[first : first + BLOCK_ROWS])
        digest = hashlib.sha256(digest + block).digest()
    assert digest_of(schedule, record) == digest.hex()
