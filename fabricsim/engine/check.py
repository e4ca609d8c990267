"""``check(state)``: every invariant of a state between two epochs, derived again from scratch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from fabricsim.engine.layout import BLOCK, NONE, Rows, State, TimerKind
from fabricsim.errors import SelfCheckError

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


def check(state: State) -> None:
    """Raise SelfCheckError if a state between two epochs contradicts itself.

    Room: for every channel, its free room, the packets that hold room and the credits on their way back add up to the
    buffer. Packets: each is in one place, and those injected less those delivered are on the way. Lists: used
    and free rows are all rows, and the last of each list is its last. Work: what tasks and messages wait
    for is what has not happened.
    """
    clock = state.clock[0]
    require(clock["epoch_open"] == 0, "the state stands inside an epoch")
    arrivals, arrival_blocks = inbox_records(state, "arrival")
    credits_, credit_blocks = inbox_records(state, "credit")
    queued = state.packets[every_row(state.packets, state.channels, "queue_first", "queue_last")]
    check_room(state, arrivals, queued, credits_)
    check_packets(state, arrivals, queued)
    check_work(state)

    require(
        state.domains["in_flight"].sum() == len(arrivals) + len(credits_), "the count of records in inboxes is wrong"
    )
    for records in (arrivals, credits_):
        require(bool((records["time_ps"] >= clock["epoch_end_ps"]).all()), "an inbox holds a record of the past")
    counted = (
        ("arrival_blocks", "free_arrival_block", "num_free_arrival_blocks", arrival_blocks),
        ("credit_blocks", "free_credit_block", "num_free_credit_blocks", credit_blocks),
        ("packets", "free_packet", "num_free_packets", len(queued)),
    )
    for name, head, length, used in counted:
        free = walk(getattr(state, name), clock[head])
        require(len(free) == clock[length], f"the free list of {name} and its length differ")
        require(len(free) + used == len(getattr(state, name)), f"rows of {name} were lost or are in two places")
    check_slots(state)


def check_room(state: State, arrivals: Rows, queued: Rows, credits_: Rows) -> None:
    """Hold the room of every channel against what takes it."""
    channels, wire_bytes = state.channels, state.durations["value"]
    held = np.zeros(len(channels), np.int64)
    np.add.at(held, arrivals["channel"], wire_bytes[arrivals["payload_bytes"]])
    np.add.at(held, queued["channel"], wire_bytes[queued["payload_bytes"]])
    np.add.at(held, credits_["channel"], credits_["bytes"])
    wrong = np.flatnonzero(held + channels["room_bytes"] != channels["buffer_bytes"])
    require(len(wrong) == 0, f"room, packets and credits of channel {wrong[:1]} do not add up to its buffer")
    require(bool((channels["room_bytes"] >= 0).all()), "a channel has negative room")
    require(bool((channels["peak_occupancy_bytes"] <= channels["buffer_bytes"]).all()), "a buffer overflowed")
    require(bool((channels["credit_first"] == NONE).all()), "a credit of a past window was not taken")


def check_packets(state: State, arrivals: Rows, queued: Rows) -> None:
    """Hold the packets of every message, injected, on the way and delivered, against each other and the records."""
    clock, messages, channels = state.clock[0], state.messages, state.channels
    injected = injected_packets(state)
    on_the_way = np.bincount(arrivals["message"], minlength=len(messages))
    on_the_way += np.bincount(queued["message"], minlength=len(messages))
    per_share = -(-messages["share_bytes"] // clock["max_payload_bytes"])
    delivered = messages["num_shares"] * per_share - messages["packets_left"]
    wrong = np.flatnonzero(injected != delivered + on_the_way)
    require(len(wrong) == 0, f"packets of message {wrong[:1]} were lost or doubled")
    require(delivered.sum() == clock["delivered_packets"], "the count of delivered packets is wrong")
    require(state.latencies["packets"].sum() == clock["delivered_packets"], "a packet has no latency, or two")
    entered = channels["packets"][channels["injector"] != NONE].sum()
    require(entered == injected.sum(), "the packets of injection channels are not the packets injected")
    nodes = len(state.nodes)
    wire_bytes = state.durations["value"]
    for field, arrived, waits in (
        ("packets", np.ones(len(arrivals)), np.ones(len(queued))),
        ("wire_bytes", wire_bytes[arrivals["payload_bytes"]], wire_bytes[queued["payload_bytes"]]),
    ):
        balance = np.bincount(channels["target_node"], weights=channels[field], minlength=nodes)
        balance -= np.bincount(channels["source_node"], weights=channels[field], minlength=nodes)
        balance -= np.bincount(channels["target_node"][arrivals["channel"]], weights=arrived, minlength=nodes)
        balance -= np.bincount(channels["target_node"][queued["channel"]], weights=waits, minlength=nodes)
        at_switch = state.nodes["num_outputs"] > 0
        require(bool((balance[at_switch] == 0).all()), f"{field} in and out of a switch differ")
    done = messages[(messages["share_bytes"] > 0) & (messages["packets_left"] == 0)]
    ordered = (done["ready_ps"] <= done["first_injection_ps"]) & (done["first_injection_ps"] < done["complete_ps"])
    require(bool(ordered.all()), "a message was complete before it was injected, or injected before it was ready")


def check_work(state: State) -> None:
    """Derive again what tasks and messages wait for."""
    tasks, messages, epoch_end_ps = state.tasks, state.messages, state.clock["epoch_end_ps"][0]
    ended = tasks["end_ps"] != NONE
    require(state.clock["tasks_left"][0] == np.count_nonzero(~ended), "the count of open tasks is wrong")
    require(bool((tasks["end_ps"][ended] >= tasks["begin_ps"][ended]).all()), "a task ended before it began")
    require(bool((tasks["end_ps"] < max(1, epoch_end_ps)).all()), "a task ended in the future")
    require(bool((messages["ready_ps"] < max(1, epoch_end_ps)).all()), "a message became ready in the future")
    started = (tasks["begin_ps"] != NONE) & (tasks["begin_ps"] + tasks["launch_ps"] < epoch_end_ps)
    require(bool((tasks["started"] == started).all()), "a task has started too early or too late")
    waiting = followers(state.successors["task"], tasks, "successors_first", "successors_count", ~ended, len(tasks))
    require(bool((tasks["waiting"] == waiting).all()), "a task waits for another number of tasks than have not ended")

    moves = messages["share_bytes"] > 0
    to_itself = messages["source_task"] == messages["target_task"]
    task_start_ps = tasks["begin_ps"] + tasks["launch_ps"]
    finished = moves & (messages["shares_left"] == 0)
    delivered = moves & (messages["packets_left"] == 0)
    happened = (messages["ready_ps"] != NONE) & (messages["ready_ps"] < epoch_end_ps)
    sent = np.where(moves, finished & (messages["sent_ps"] < epoch_end_ps), happened)
    complete = np.where(moves, delivered & (messages["complete_ps"] < epoch_end_ps), happened)
    received = moves | to_itself
    pending = np.bincount(messages["source_task"][~sent], minlength=len(tasks))
    pending += np.bincount(messages["target_task"][received & ~complete], minlength=len(tasks))
    expected = Counter(
        [(TimerKind.TASK_STARTS, task, begin_ps) for task, begin_ps in due(~started & (waiting == 0), task_start_ps)]
        + [(TimerKind.MESSAGE_SENT, row, sent_ps) for row, sent_ps in due(finished & ~sent, messages["sent_ps"])]
        + [(TimerKind.MESSAGE_COMPLETE, row, ps) for row, ps in due(delivered & ~complete, messages["complete_ps"])]
    )
    require(expected == timers_set(state), "the timers are not what is due")
    require(bool((tasks["pending"] == pending).all()), "a task counts other messages than are pending")
    require(bool((ended == (started & (pending == 0))).all()), "a task ended too early or too late")
    waits = (~started[messages["source_task"]]).astype(np.int64)
    follower = state.followers["message"]
    waits += followers(follower, messages, "after_sent_first", "after_sent_count", ~sent, len(messages))
    waits += followers(follower, messages, "after_complete_first", "after_complete_count", ~complete, len(messages))
    require(bool((messages["waiting"] == waits).all()), "a message waits for another number than has not happened")
    require(bool(((messages["ready_ps"] != NONE) == (waits == 0)).all()), "a message is ready and waits, or neither")


def followers(follower: npt.NDArray[np.int32], rows: Rows, first: str, count: str, which: Bool, length: int) -> Int64:
    """Count, for each of *length* things, how many of the *which* rows it follows."""
    chosen = rows[which]
    size = chosen[count].astype(np.int64)
    place = np.arange(size.sum()) + np.repeat(chosen[first] - (np.cumsum(size) - size), size)
    return np.bincount(follower[place], minlength=length)


def check_slots(state: State) -> None:
    """Hold each injector's slots, and the table of shares, against their lists."""
    injectors, shares = state.injectors, state.shares
    ring = every_row(shares, injectors, "ring_first", "ring_last")
    waiting = every_row(shares, injectors, "waiting_first", "waiting_last")
    freed = every_row(shares, injectors, "freed_first", "freed_last")
    free = walk(shares, state.clock["free_share"][0])
    rows = np.concatenate([ring, waiting, freed, np.array(free, np.int64)])
    require(len(np.unique(rows)) == len(rows) == len(shares), "shares were lost or are in two places")
    in_slots = injectors["fresh_slots"].astype(np.int64)
    for first in ("ring_first", "waiting_first", "freed_first"):
        for injector in np.flatnonzero(injectors[first] != NONE):
            in_slots[injector] += len(walk(shares, injectors[first][injector]))
    require(len(np.unique(in_slots)) <= 1, "an injector has lost or won a slot")
    require(bool((shares["bytes_left"][freed] == 0).all()), "a share left its slot with bytes to send")
    require(
        bool((shares["bytes_left"][np.concatenate([ring, waiting])] > 0).all()), "a share without bytes holds a slot"
    )


def timers_set(state: State) -> Counter[tuple[int, int, int]]:
    """Return (kind, subject, time) of all timers; each is in one list, those of a terminal in time order."""
    timers = state.timers
    rows: list[int] = []
    for first in state.terminals["first_timer"]:
        mine = walk(timers, first)
        times = timers["time_ps"][mine]
        require(bool((times[1:] >= times[:-1]).all()), "the timers of a terminal are out of order")
        rows += mine
    free = walk(timers, state.clock["free_timer"][0])
    require(len({*rows, *free}) == len(rows) + len(free) == len(timers), "timers were lost or are in two places")
    used = timers[rows]
    return Counter(zip(used["kind"].tolist(), used["subject"].tolist(), used["time_ps"].tolist(), strict=True))


def due(which: Bool, time_ps: Int64) -> list[tuple[int, int]]:
    """Return (row, time) of the rows chosen."""
    return [(int(row), int(time_ps[row])) for row in np.flatnonzero(which)]


def require(holds: bool | np.bool_, complaint: str) -> None:
    """Raise SelfCheckError with *complaint* unless it *holds*."""
    if not holds:
        raise SelfCheckError(f"invariant broken: {complaint}; this is a defect of fabricsim, please report it")


def walk(table: Rows, first: int) -> list[int]:
    """Return the rows of a list, in order."""
    found: list[int] = []
    follow = table["next"].item
    index = int(first)
    while index != NONE and len(found) <= len(table):
        found.append(index)
        index = follow(index)
    require(len(found) <= len(table), "a list has a cycle")
    return found


def every_row(table: Rows, owners: Rows, first: str, last: str) -> Int64:
    """Return the rows of all owners' lists; each list must end at its owner's last."""
    found: list[int] = []
    for owner in owners[owners[first] != NONE]:
        found += walk(table, owner[first])
        require(found[-1] == owner[last], f"a {last} is not the last of its list")
    return np.array(found, np.int64)


def inbox_records(state: State, kind: str) -> tuple[Rows, int]:
    """Return all records of one kind in all inboxes, and how many blocks they take."""
    table = getattr(state, f"{kind}s")
    blocks = getattr(state, f"{kind}_blocks")
    found: list[int] = []
    used = 0
    for inbox in state.inboxes[state.inboxes[f"num_{kind}s"] > 0]:
        count = int(inbox[f"num_{kind}s"])
        block = int(inbox[f"first_{kind}_block"])
        while count > 0:
            found.extend(range(block * BLOCK, block * BLOCK + min(count, BLOCK)))
            used += 1
            count -= BLOCK
            if count > 0:
                block = int(blocks["next"][block])
        require(block == inbox[f"last_{kind}_block"], f"a last_{kind}_block is not the last of its list")
    return table[np.array(found, np.int64)], used


def injected_packets(state: State) -> Int64:
    """Return per message how many packets have started, from the shares that are done, under way or still to come."""
    messages, full = state.messages, state.clock["max_payload_bytes"][0]
    per_share = -(-messages["share_bytes"] // full)
    injected: Int64 = (messages["num_shares"] - messages["shares_left"]) * per_share
    for first in np.concatenate([state.injectors["ring_first"], state.injectors["waiting_first"]]):
        for index in walk(state.shares, first):
            share = state.shares[index]
            injected[share["message"]] += per_share[share["message"]] - -(-share["bytes_left"] // full)
    require(bool((injected[messages["ready_ps"] == NONE] == 0).all()), "a message was injected before it was ready")
    return injected
