"""Which messages wait for which, as the engine takes it (docs/physics.md, section 9)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fabricsim.workloads.schedule import Messages

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


def waits_of(messages: Messages) -> tuple[Int64, Int64, Bool]:
    """List the waits: message ``waiting[k]`` waits for ``awaited[k]``, until it is sent or else complete.

    They stand in the order of the waiting. What a switch makes of others is sent when that is of which it makes it. The
    target of an empty message does not wait for it.
    """
    waiting = np.repeat(np.arange(len(messages)), np.diff(messages.waits_first))
    awaited = messages.waits_for.astype(np.int64)
    to_itself = messages.source_task[awaited] == messages.target_task[awaited]
    until_sent = (messages.source_task[awaited] == messages.source_task[waiting]) & ~to_itself
    counts = np.flatnonzero(until_sent | to_itself | (messages.size_bytes[awaited] > 0))
    waiting, awaited, until_sent = waiting[counts], awaited[counts], until_sent[counts]
    if len(messages.groups):
        awaited = np.where(until_sent, messages.carrier[awaited], awaited)
    return waiting, awaited, until_sent
