"""A hang becomes a sentence: who waits for what when nothing can happen any more."""

from __future__ import annotations

import numpy as np

from fabricsim.engine.layout import NONE, NOT_YET, State
from fabricsim.engine.work import Work
from fabricsim.fabrics.network import Network
from fabricsim.workloads.schedule import Schedule


def describe_stall(state: State, network: Network, work: Work) -> str:
    """Name the first blocked message, its channel and the missing credit; without one, the first waiting task."""
    left = int(state.clock["tasks_left"][0])
    time_us = int(state.clock["epoch_start_ps"][0]) / 1e6
    head = f"stalled at {time_us:.3f} us: {left} of {work.admitted_tasks} tasks cannot end. "
    blocked = first_blocked(state)
    if blocked is not None:
        channel, message, wire_bytes = blocked
        room_bytes, buffer_bytes = state.channels["room_bytes"][channel], network.channels.buffer_bytes[channel]
        return head + (
            f"{name_message(*work.find('messages', message))} waits at channel {network.channel_name(channel)}: "
            f"its next packet needs {wire_bytes} B of credit, {room_bytes} B of the {buffer_bytes} B buffer are free, "
            "and no credit is under way"
        )
    tasks = state.tasks
    open_tasks = np.flatnonzero(tasks["end_ps"] == NOT_YET)
    never_begun = open_tasks[tasks["waiting"][open_tasks] > 0]
    task = int(open_tasks[0])
    if len(never_begun) == len(open_tasks):
        reason = f"waits for {tasks['waiting'][task]} tasks that cannot end: the order of operations has a cycle"
    else:
        task = int(open_tasks[tasks["waiting"][open_tasks] == 0][0])
        reason = f"waits for {tasks['pending'][task]} messages that never became ready"
    schedule, task = work.find("tasks", task)
    operation = schedule.operations[schedule.tasks.operation[task]]
    return head + f"Operation {operation.name!r} at rank {schedule.tasks.rank[task]} {reason}"


def first_blocked(state: State) -> tuple[int, int, int] | None:
    """Return (channel, message, wire bytes) of the first packet that waits for a credit, or None."""
    channels, durations = state.channels, state.durations["value"]
    for channel in np.flatnonzero(channels["queue_first"] != NONE):
        packet = state.packets[channels["queue_first"][channel]]
        return int(channel), int(packet["message"]), int(durations[packet["payload_bytes"]])
    for channel in np.flatnonzero(channels["blocked"] == 1):
        server = int(channel) & ~int(state.clock["vc_mask"][0])
        share = state.shares[state.injectors["ring_first"][channels["injector"][server]]]
        payload = min(int(share["bytes_left"]), int(state.clock["max_payload_bytes"][0]))
        return int(channel), int(share["message"]), int(durations[payload])
    return None


def name_message(schedule: Schedule, message: int) -> str:
    """Say which message this is: ``message 3 of 'all_to_all' (rank 0 to rank 4, 4096 B)``."""
    messages, tasks = schedule.messages, schedule.tasks
    operation = schedule.operations[messages.operation[message]]
    source, target = tasks.rank[messages.source_task[message]], tasks.rank[messages.target_task[message]]
    return (
        f"message {messages.index[message]} of {operation.name!r} "
        f"(rank {source} to rank {target}, {messages.size_bytes[message]} B)"
    )
