"""What must hold for every run, whatever it simulated: bytes, counts and the order of times.

A fault here is a defect of fabricsim, never of the input, so each raises ``SelfCheckError`` (exit code 5).
"""

from __future__ import annotations

import numpy as np

from fabricsim.engine.driver import RunRecord
from fabricsim.errors import SelfCheckError
from fabricsim.fabrics.network import Network
from fabricsim.results.traffic import Int64, Traffic
from fabricsim.workloads.schedule import Schedule


def check_record(network: Network, schedule: Schedule, traffic: Traffic, record: RunRecord) -> None:
    """Check that all that was sent was delivered, once, and that no effect precedes its cause.

    Raises ``SelfCheckError`` naming the first fault.
    """
    _check_times(schedule, record)
    _check_bytes(network, traffic, record)
    packets = int(traffic.packets.sum())
    for what, counted in (("delivered", record.packets), ("timed", int(record.packet_latency_counts.sum()))):
        if counted != packets:
            raise defect(f"{counted:,} packets were {what}, but the messages are cut into {packets:,}")
    hops = int(record.channel_packets.sum())
    if record.packet_hops != hops:
        raise defect(f"{record.packet_hops:,} packet hops were counted, but the channels carried {hops:,} packets")
    simulated_ps = int(record.task_end_ps.max(initial=0))
    for channel in np.flatnonzero(record.channel_busy_ps > simulated_ps).tolist():
        raise defect(
            f"channel {network.channel_name(channel)} was busy for {int(record.channel_busy_ps[channel]):,} ps "
            f"of {simulated_ps:,} ps simulated"
        )


def check_bounds(schedule: Schedule, end_ps: Int64, earliest_end_ps: Int64) -> None:
    """Check that no operation ended before its lower bound (both of shape (operations,), picoseconds)."""
    early = np.flatnonzero(end_ps < earliest_end_ps)
    if len(early):
        row = int(early[0])
        operation = schedule.operations[row]
        raise defect(
            f"operation {row} ({operation.name}) ended at {int(end_ps[row]):,} ps, "
            f"before its lower bound of {int(earliest_end_ps[row]):,} ps"
        )


def defect(what: str) -> SelfCheckError:
    """Make the error for a result that cannot be true."""
    return SelfCheckError(
        f"self-check failed: {what}; this is a defect of fabricsim and the result is wrong: "
        "please report it with the command, the seed and the version"
    )


def _check_times(schedule: Schedule, record: RunRecord) -> None:
    tasks, messages = schedule.tasks, schedule.messages
    for what, before_ps, after_ps, operation in (
        ("a task began before time zero", np.zeros(len(tasks), np.int64), record.task_begin_ps, tasks.operation),
        ("a task ended before it began", record.task_begin_ps, record.task_end_ps, tasks.operation),
        (
            "a message was ready before its task began",
            record.task_begin_ps[messages.source_task],
            record.message_ready_ps,
            messages.operation,
        ),
        (
            "a message was injected before it was ready",
            record.message_ready_ps,
            record.message_first_injection_ps,
            messages.operation,
        ),
        (
            "a message was complete before it was injected",
            record.message_first_injection_ps,
            record.message_complete_ps,
            messages.operation,
        ),
        (
            "a task ended before all its messages were complete",
            np.where(messages.size_bytes > 0, record.message_complete_ps, 0),
            record.task_end_ps[messages.target_task],
            messages.operation,
        ),
    ):
        wrong = np.flatnonzero(after_ps < before_ps)
        if len(wrong):
            row = int(wrong[0])
            raise defect(
                f"{what}: row {row:,} of operation {int(operation[row]):,}, "
                f"at {int(after_ps[row]):,} ps instead of at least {int(before_ps[row]):,} ps"
            )


def _check_bytes(network: Network, traffic: Traffic, record: RunRecord) -> None:
    channels = network.channels
    for what, node, terminal in (
        ("send", channels.source_node, traffic.source_terminal),
        ("receive", channels.target_node, traffic.target_terminal),
    ):
        due = np.zeros(network.num_terminals, np.int64)
        np.add.at(due, terminal, traffic.wire_bytes)
        at_terminal = np.flatnonzero(node < network.num_terminals)
        carried = np.zeros(network.num_terminals, np.int64)
        np.add.at(carried, node[at_terminal], record.channel_wire_bytes[at_terminal])
        wrong = np.flatnonzero(due != carried)
        if len(wrong):
            row = int(wrong[0])
            raise defect(
                f"{network.node_names[row]} had to {what} {int(due[row]):,} wire bytes, "
                f"but its channels carried {int(carried[row]):,}"
            )
