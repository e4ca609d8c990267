"""The digest of a run: equal times give equal digests (docs/physics.md, section 10)."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from fabricsim.engine.work import BlockRecord
from fabricsim.results.kept import Kept
from fabricsim.workloads.schedule import ScheduleBlock

Int64 = npt.NDArray[np.int64]

BLOCK_ROWS = 65_536


class Digest(Kept):
    """Hashes all task and message times of a run in the order of their ends, however they come."""

    def __init__(self) -> None:
        self._held = np.empty((0, 5), np.int64)
        self._new: list[Int64] = []
        self._state = b""

    def add(self, block: ScheduleBlock, record: BlockRecord) -> None:
        """Take the times of a block."""
        tasks, messages = block.schedule.tasks, block.schedule.messages
        self._new.append(
            np.stack(
                [
                    record.message_complete_ps,
                    block.operation[messages.operation],
                    messages.index.astype(np.int64),
                    record.message_ready_ps,
                    record.message_first_injection_ps,
                ],
                axis=1,
            )
        )
        operation, number = block.operation[tasks.operation], -1 - tasks.rank.astype(np.int64)
        begin_ps = record.task_begin_ps
        self._new.append(np.stack([record.task_end_ps, operation, number, begin_ps, begin_ps], axis=1))

    def advance(self, horizon_ps: int) -> None:
        """Hash what ended before a time before which nothing ends that is still to come, as far as blocks are full."""
        rows = np.concatenate([self._held, *self._new])
        self._new = []
        # (operation, number) is unique, so the other two columns never decide the order.
        rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
        full = int(np.searchsorted(rows[:, 0], horizon_ps)) // BLOCK_ROWS * BLOCK_ROWS
        for first in range(0, full, BLOCK_ROWS):
            self._hash(rows[first : first + BLOCK_ROWS])
        self._held = rows[full:].copy()

    def hexdigest(self) -> str:
        """Hash the rest and return the 64 digits; nothing can be added afterwards."""
        self.advance(np.iinfo(np.int64).max)
        if len(self._held):
            self._hash(self._held)
            self._held = self._held[:0]
        return self._state.hex()

    def _hash(self, rows: Int64) -> None:
        self._state = hashlib.sha256(self._state + np.ascontiguousarray(rows, "<i8").tobytes()).digest()
