"""From the begin of a task to its start: what a library does beside the transfer (docs/physics.md, section 9)."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, isqrt

import numpy as np
import numpy.typing as npt

from fabricsim.errors import ConfigError, unknown
from fabricsim.fabrics.network import Endpoint, Protocol
from fabricsim.workloads.schedule import Operation, Schedule

Int64 = npt.NDArray[np.int64]

#: The operations that a protocol may be for: those with a part per rank. So often does each send the buffer but a part.
ROUNDS = {
    "all_to_all": 1,
    "all_to_all_v": 1,
    "all_gather": 1,
    "all_gather_v": 1,
    "reduce_scatter": 1,
    "reduce_scatter_v": 1,
    "all_reduce": 2,
    "moe_dispatch": 1,
    "moe_combine": 1,
}

#: A launch latency is shorter than this (13 days).
MAX_LAUNCH_PS = 1 << 60


def launch_latencies_ps(endpoint: Endpoint, schedule: Schedule) -> Int64:
    """Return the launch latency of each task [ps]; 0 for one that is not launched.

    Raises ConfigError where a protocol is for an operation that there is not, or a latency is beyond 13 days.
    """
    tasks = schedule.tasks
    if not endpoint.protocols:
        return np.where(tasks.launches, endpoint.launch_latency_ps, 0).astype(np.int64)
    for word in (word for protocol in endpoint.protocols for word in protocol.operations):
        if word not in ROUNDS:
            raise ConfigError(f"protocols of the terminal: {unknown('operation', word, ROUNDS)}")
    known: dict[tuple[str, str, int, int, int], int] = {}
    of_operation = np.zeros(len(schedule.operations), np.int64)
    for number, operation in enumerate(schedule.operations):
        key = (operation.name, operation.op, len(operation.ranks), operation.size_bytes, operation.descriptors)
        if key not in known:
            known[key] = launch_latency_ps(endpoint, operation)
        of_operation[number] = known[key]
    return np.where(tasks.launches, of_operation[tasks.operation], 0)


def launch_latency_ps(endpoint: Endpoint, operation: Operation) -> int:
    """Return the launch latency of an operation [ps], alike at all its ranks."""
    ranks = len(operation.ranks)
    part_bytes = operation.size_bytes // ranks
    found = _protocol_of(endpoint, operation, part_bytes)
    if found is None:
        return endpoint.launch_latency_ps
    word, protocol = found
    moved_bytes = ROUNDS[word] * (operation.size_bytes - part_bytes)

    def time_ps(size_bytes: int, ps_per_byte: Fraction) -> int:
        return ceil(size_bytes * ps_per_byte)

    handling_ps = operation.descriptors * protocol.descriptor_gap_ps
    latency_ps = (
        protocol.launch_latency_ps
        + ROUNDS[word] * (ranks - 1) * protocol.step_latency_ps
        + time_ps(moved_bytes, protocol.staging_ps_per_byte)
        + time_ps(part_bytes, protocol.part_ps_per_byte)
        + 2 * isqrt(protocol.piece_overhead_ps * time_ps(operation.size_bytes, endpoint.copy_ps_per_byte))
        + operation.descriptors * protocol.descriptor_latency_ps
        + max(0, handling_ps - time_ps(moved_bytes, endpoint.copy_ps_per_byte))
    )
    if latency_ps >= MAX_LAUNCH_PS:
        raise ConfigError(
            f"{operation.name} of {operation.size_bytes:,} bytes: its launch latency of {latency_ps:,} ps is beyond "
            "what is counted; use a smaller size, or faster rates in terminal.protocol"
        )
    return latency_ps


def _protocol_of(endpoint: Endpoint, operation: Operation, part_bytes: int) -> tuple[str, Protocol] | None:
    """Return the protocol of an operation, of several that with the largest part, and the word by which it is."""
    for word in (operation.name, operation.op):
        fitting = [
            protocol
            for protocol in endpoint.protocols
            if word in protocol.operations and protocol.least_part_bytes <= part_bytes
        ]
        if fitting:
            return word, max(fitting, key=lambda protocol: protocol.least_part_bytes)
    return None
