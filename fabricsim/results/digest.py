"""The digest of a run: equal times give equal digests (docs/physics.md, section 10)."""

from __future__ import annotations

import hashlib

import numpy as np

from fabricsim.engine.driver import RunRecord
from fabricsim.workloads.schedule import Schedule

BLOCK_ROWS = 65_536


def run_digest(schedule: Schedule, record: RunRecord) -> str:
    """Hash all task and message times of a run.

    Parameters
    ----------
    schedule
        What was to be moved.
    record
        What the kernel recorded for it.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    tasks, messages = schedule.tasks, schedule.messages
    end_ps = np.concatenate([record.message_complete_ps, record.task_end_ps])
    operation = np.concatenate([messages.operation, tasks.operation]).astype(np.int64)
    number = np.concatenate([messages.index.astype(np.int64), -1 - tasks.rank.astype(np.int64)])
    begin_ps = np.concatenate([record.message_ready_ps, record.task_begin_ps])
    first_ps = np.concatenate([record.message_first_injection_ps, record.task_begin_ps])
    # (operation, number) is unique, so the other two columns never decide the order.
    order = np.lexsort((number, operation, end_ps))
    digest = b""
    for first in range(0, len(order), BLOCK_ROWS):
        rows = order[first : first + BLOCK_ROWS]
        block = np.empty((len(rows), 5), "<i8")
        for column, values in enumerate((end_ps, operation, number, begin_ps, first_ps)):
            block[:, column] = values[rows]
        digest = hashlib.sha256(digest + block.tobytes()).digest()
    return digest.hex()
