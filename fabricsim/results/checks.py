"""What must hold for every run, whatever it simulated: bytes, counts and the order of times.

A fault here is a defect of fabricsim, never of the input, so each raises ``SelfCheckError`` (exit code 5).
"""

from __future__ import annotations

import numpy as np

from fabricsim.engine.driver import RunFigures
from fabricsim.engine.work import BlockRecord
from fabricsim.errors import SelfCheckError
from fabricsim.fabrics.network import Network
from fabricsim.results.kept import Kept
from fabricsim.results.traffic import Int64, Traffic
from fabricsim.workloads.schedule import ScheduleBlock


class Due(Kept):
    """What the network has to carry for the messages of a run, block by block, and whether it did."""

    GIVEN = frozenset({"_network"})

    def __init__(self, network: Network) -> None:
        self._network = network
        self._packets = 0
        self._wire_bytes = {what: np.zeros(network.num_terminals, np.int64) for what in ("send", "receive")}

    def add(self, traffic: Traffic) -> None:
        """Take the messages of a block."""
        self._packets += int(traffic.packets.sum())
        np.add.at(self._wire_bytes["send"], traffic.source_terminal, traffic.wire_bytes * traffic.injections)
        np.add.at(self._wire_bytes["receive"], traffic.target_terminal, traffic.wire_bytes)

    def check(self, figures: RunFigures, simulated_ps: int) -> None:
        """Check that all that was sent was delivered, once, in the time that the run took.

        Raises ``SelfCheckError`` naming the first fault.
        """
        self._check_bytes(figures)
        for what, counted in (("delivered", figures.packets), ("timed", int(figures.packet_latency_counts.sum()))):
            if counted != self._packets:
                raise defect(f"{counted:,} packets were {what}, but the messages are cut into {self._packets:,}")
        hops = int(figures.channel_packets.sum())
        if figures.packet_hops != hops:
            raise defect(f"{figures.packet_hops:,} packet hops were counted, but the channels carried {hops:,} packets")
        for channel in np.flatnonzero(figures.channel_busy_ps > simulated_ps).tolist():
            raise defect(
                f"channel {self._network.channel_name(channel)} was busy for "
                f"{int(figures.channel_busy_ps[channel]):,} ps of {simulated_ps:,} ps simulated"
            )

    def _check_bytes(self, figures: RunFigures) -> None:
        network, channels = self._network, self._network.channels
        for what, node in (("send", channels.source_node), ("receive", channels.target_node)):
            due = self._wire_bytes[what]
            at_terminal = np.flatnonzero(node < network.num_terminals)
            carried = np.zeros(network.num_terminals, np.int64)
            np.add.at(carried, node[at_terminal], figures.channel_wire_bytes[at_terminal])
            wrong = np.flatnonzero(due != carried)
            if len(wrong):
                row = int(wrong[0])
                raise defect(
                    f"{network.node_names[row]} had to {what} {int(due[row]):,} wire bytes, "
                    f"but its channels carried {int(carried[row]):,}"
                )


def check_times(block: ScheduleBlock, record: BlockRecord) -> None:
    """Check that no effect precedes its cause in a block."""
    tasks, messages = block.schedule.tasks, block.schedule.messages
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
                f"{what}: operation {int(block.operation[operation[row]]):,}, row {row:,} of its block, "
                f"at {int(after_ps[row]):,} ps instead of at least {int(before_ps[row]):,} ps"
            )


def check_bounds(block: ScheduleBlock, end_ps: Int64, earliest_end_ps: Int64) -> None:
    """Check that no operation ended before its lower bound (both of shape (operations,), picoseconds)."""
    early = np.flatnonzero(end_ps < earliest_end_ps)
    if len(early):
        row = int(early[0])
        operation = block.schedule.operations[row]
        raise defect(
            f"operation {int(block.operation[row])} ({operation.name}) ended at {int(end_ps[row]):,} ps, "
            f"before its lower bound of {int(earliest_end_ps[row]):,} ps"
        )


def check_parts(block: ScheduleBlock, time_ps: Int64, parts_ps: Int64) -> None:
    """Check that the parts of the time of each operation (shape (operations, parts)) add up to it, none below zero."""
    wrong = np.flatnonzero((parts_ps.sum(axis=1) != time_ps) | (parts_ps < 0).any(axis=1))
    if len(wrong):
        row = int(wrong[0])
        operation = block.schedule.operations[row]
        raise defect(
            f"operation {int(block.operation[row])} ({operation.name}) took {int(time_ps[row]):,} ps, and the parts of "
            f"that time are {parts_ps[row].tolist()} ps"
        )


def defect(what: str) -> SelfCheckError:
    """Make the error for a result that cannot be true."""
    return SelfCheckError(
        f"self-check failed: {what}; this is a defect of fabricsim and the result is wrong: "
        "please report it with the command, the seed and the version"
    )
