"""Transfers outside collectives, as benchmarks of links and copy engines time them: copies, incast, batches of copies.

None of them is launched: such benchmarks time what begins on the device.
"""

from __future__ import annotations

import numpy as np

from fabricsim.errors import ConfigError
from fabricsim.workloads.collectives import one_operation
from fabricsim.workloads.schedule import MessageBlock, Operation, Schedule, offsets

REQUEST_BYTES = 64
"""A remote read is asked for by a message of this size (SeaAttic-1/UB-Mem, ns-3-UB: load request)."""

ACKNOWLEDGEMENT_BYTES = 1
"""What tells a sender that all has come is a message of this size, like a step of a barrier."""


def fan(num_ranks: int, size_bytes: int, *, into_root: bool) -> Schedule:
    """Move equal parts of ``size_bytes`` from the other ranks into rank 0, or from it to them, all at once."""
    others = np.arange(1, num_ranks, dtype=np.int32)
    root = np.zeros(num_ranks - 1, dtype=np.int32)
    block = MessageBlock(
        source=others if into_root else root,
        target=root if into_root else others,
        size_bytes=np.full(num_ranks - 1, size_bytes // (num_ranks - 1), dtype=np.int64),
        waits_first=np.zeros(num_ranks, dtype=np.int64),
        waits_for=np.empty(0, dtype=np.int32),
    )
    operation = Operation("incast" if into_root else "copy", "send", "direct", tuple(range(num_ranks)), size_bytes)
    return one_operation(operation, block, launches=False)


def batch(kind: str, size_bytes: int, descriptors: int) -> Schedule:
    """Copy a buffer between two ranks in equal parts, each of which begins when the one before has been completed.

    ``kind`` is ``write`` (rank 0 sends a part and waits for its acknowledgement) or ``read`` (rank 0 asks for a part
    and waits until it has come). The parts wait for messages, so this holds whatever the terminals have in flight; a
    fabric whose terminals are ``acked`` is another thing. Raises ConfigError for another kind, or parts that do not
    come out.
    """
    if kind not in ("read", "write") or descriptors < 1 or size_bytes % descriptors:
        raise ConfigError(
            f"a batch of {descriptors} x {kind} of {size_bytes} bytes: use read or write, and equal parts"
        )
    part = size_bytes // descriptors
    forth, back = (part, ACKNOWLEDGEMENT_BYTES) if kind == "write" else (REQUEST_BYTES, part)
    rows = np.arange(descriptors)
    # Message k of rank 0 waits for message k - 1 of rank 1, and message k of rank 1 for message k of rank 0.
    counts = np.ones(2 * descriptors, dtype=np.int64)
    counts[0] = 0
    block = MessageBlock(
        source=np.repeat(np.array([0, 1], dtype=np.int32), descriptors),
        target=np.repeat(np.array([1, 0], dtype=np.int32), descriptors),
        size_bytes=np.repeat(np.array([forth, back], dtype=np.int64), descriptors),
        waits_first=offsets(counts),
        waits_for=np.concatenate([descriptors + rows[:-1], rows]).astype(np.int32),
    )
    operation = Operation(kind, "send", "batch", (0, 1), size_bytes, descriptors=descriptors)
    return one_operation(operation, block, launches=False)
