"""``check(state)``: every invariant of a state between two slices, derived again from scratch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fabricsim.engine.layout import BLOCK, NONE, Rows, State
from fabricsim.errors import SelfCheckError

Int64 = npt.NDArray[np.int64]


def check(state: State) -> None:
    """Raise SelfCheckError if a state between two epochs contradicts itself.

    Room: for every channel, its free room, the packets that hold room and the credits on their way back add up to the
    buffer. Packets: each is in one place, and those injected less those delivered are on the way.
    Lists: each free list and its length agree, and used and free rows are all rows.
    """
    clock = state.clock[0]
    require(clock["epoch_open"] == 0, "the state stands inside an epoch")
    arrivals, arrival_blocks = inbox_records(state, "arrival")
    credits_, credit_blocks = inbox_records(state, "credit")
    queued = queued_packets(state)
    wire_bytes = state.durations["value"]
    channels = state.channels

    held = np.zeros(len(channels), np.int64)
    np.add.at(held, arrivals["channel"], wire_bytes[arrivals["payload_bytes"]])
    np.add.at(held, queued["channel"], wire_bytes[queued["payload_bytes"]])
    np.add.at(held, credits_["channel"], credits_["bytes"])
    wrong = np.flatnonzero(held + channels["room_bytes"] != channels["buffer_bytes"])
    require(len(wrong) == 0, f"room, packets and credits of channel {wrong[:1]} do not add up to its buffer")
    require(bool((channels["room_bytes"] >= 0).all()), "a channel has negative room")
    require(bool((channels["credit_first"] == NONE).all()), "a credit of a past window was not taken")

    in_flight = state.domains["in_flight"].sum()
    require(in_flight == len(arrivals) + len(credits_), "the count of records in inboxes is wrong")
    for records in (arrivals, credits_):
        require(bool((records["time_ps"] >= clock["epoch_end_ps"]).all()), "an inbox holds a record of the past")
    require_free(state.arrival_blocks, clock["free_arrival_block"], clock["num_free_arrival_blocks"], arrival_blocks)
    require_free(state.credit_blocks, clock["free_credit_block"], clock["num_free_credit_blocks"], credit_blocks)
    require_free(state.packets, clock["free_packet"], clock["num_free_packets"], len(queued))

    messages = state.messages
    moving = messages["share_bytes"] > 0
    injected = injected_packets(state)
    on_the_way = np.bincount(arrivals["message"], minlength=len(messages))
    on_the_way += np.bincount(queued["message"], minlength=len(messages))
    full = clock["max_payload_bytes"]
    total = messages["num_shares"] * (-(-messages["share_bytes"] // full))
    delivered = total - messages["packets_left"]
    wrong = np.flatnonzero(moving & (injected != delivered + on_the_way))
    require(len(wrong) == 0, f"packets of message {wrong[:1]} were lost or doubled")
    require(delivered[moving].sum() == clock["delivered_packets"], "the count of delivered packets is wrong")
    done = messages[moving & (messages["packets_left"] == 0)]
    ordered = (done["ready_ps"] <= done["first_injection_ps"]) & (done["first_injection_ps"] < done["complete_ps"])
    require(bool(ordered.all()), "a message was complete before it was injected, or injected before it was ready")

    tasks = state.tasks
    ended = tasks["end_ps"] != NONE
    require(clock["tasks_left"] == np.count_nonzero(~ended), "the count of open tasks is wrong")
    require(bool((tasks["end_ps"][ended] >= tasks["begin_ps"][ended]).all()), "a task ended before it began")
    require(bool((tasks["pending"][ended] == 0).all()), "a task ended with messages pending")
    for terminal in range(clock["num_terminals"]):
        times = [state.timers["time_ps"][row] for row in walk(state.timers, state.terminals["first_timer"][terminal])]
        require(times == sorted(times), f"the timers of terminal {terminal} are out of order")


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


def require_free(table: Rows, first: int, length: int, used: int) -> None:
    """Hold a free list against its length and the rows in use."""
    free = walk(table, first)
    require(len(free) == length, "a free list and its length differ")
    require(len(free) + used == len(table), "rows were lost or are in two places")


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
            block = int(blocks["next"][block])
    return table[np.array(found, np.int64)], used


def queued_packets(state: State) -> Rows:
    """Return all packets that wait at switch outputs; their earliest times must not decrease in a queue."""
    found: list[int] = []
    for first in state.channels["queue_first"][state.channels["queue_first"] != NONE]:
        found.extend(walk(state.packets, first))
    return state.packets[np.array(found, np.int64)]


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
