"""``check(state)``: every invariant of a state between two windows of a domain, derived again from scratch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from fabricsim.engine.layout import BANK_SHIFT, LATENCY_ROWS, NONE, NOT_YET, Routing, Rows, State, TimerKind
from fabricsim.engine.state import is_relayed, share_packets
from fabricsim.errors import SelfCheckError
from fabricsim.fabrics.network import Network, table_rows

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


def check(state: State, network: Network) -> None:
    """Raise SelfCheckError if a state between two windows contradicts itself.

    Room: for every channel, its free room and the packets that hold room add up to the buffer. Packets: each row is in
    one place, and those injected less those delivered are on the way. Lists: used and free rows are all rows, each
    list is in order, and the last of each is its last. Timeline: it holds what the channels recorded before their bins.
    Work, between two epochs: what tasks and messages wait for is what has not happened.
    """
    channels, domains = state.channels, state.domains
    arriving = check_inboxes(state)
    queued = every_row(state.packets, channels, "queue_first", "queue_last")
    returning = every_row(state.packets, channels, "credit_first", "credit_last")
    free = [walk(state.packets, first) for first in domains["free_packet"]]
    require(
        [len(rows) for rows in free] == domains["num_free_packets"].tolist(),
        "a list of free packets and its length differ",
    )
    waiting = np.concatenate([arriving, queued])
    made, held, merging = check_relays(state, waiting)
    rows = np.concatenate([waiting, returning, held, merging, *(np.array(rows, np.int64) for rows in free)])
    require(len(np.unique(rows)) == len(rows) == len(state.packets), "packets were lost or are in two places")
    check_room(state, network, np.concatenate([waiting[~made], returning, held, merging]))
    check_timeline(state)
    check_backlogs(state)
    check_packets(state, network, waiting)
    check_slots(state)
    check_ready_lists(state)
    check_rings(state)
    if state.clock["epoch_open"][0] == 0:
        check_work(state)


def check_inboxes(state: State) -> Int64:
    """Return the packets in inboxes; each lies in its window, or in an earlier one from where it is put off."""
    clock, domains, packets = state.clock[0], state.domains, state.packets
    wheel = int(clock["wheel_mask"]) + 1
    found: list[int] = []
    counts = np.zeros(len(domains), np.int64)
    for row in np.flatnonzero(state.inboxes["packet"] != NONE):
        slot, channel = divmod(int(row), int(clock["num_channels"]))
        domain = int(np.searchsorted(domains["first_channel"], channel, "right")) - 1
        mine = walk(packets, state.inboxes["packet"][row])
        start = int(domains["window_start_ps"][domain]) >> clock["window_shift"]
        window = packets["time_ps"][mine] >> clock["window_shift"]
        require(bool((window >= start + (slot - start) % wheel).all()), "an inbox holds a packet of the past")
        found += mine
        counts[domain] += len(mine)
        bank = domains["first_bank"][domain] + (channel - domains["first_channel"][domain]) // (1 << BANK_SHIFT)
        filled = state.filled["inboxes"][slot * clock["num_banks"] + bank]
        require(filled == 1, "a bank does not know of a packet in an inbox")
    for row in domains:
        end = row["first_channel"] + row["num_channels"]
        firsts = np.arange(row["first_channel"], end, 1 << BANK_SHIFT)
        banks = state.banks["wake_ps"][row["first_bank"] : row["first_bank"] + row["num_banks"]]
        earliest = np.minimum.reduceat(state.wakes["wake_ps"][:end], firsts)
        require(bool((banks <= earliest).all()), "a bank sleeps while a channel is to be looked at")
    require(bool((counts == domains["arriving"]).all()), "the count of packets in inboxes is wrong")
    return np.array(found, np.int64)


def check_relays(state: State, waiting: Int64) -> tuple[Bool, Int64, Int64]:
    """Return which of the packets on the way a switch made, those that hold room for them, and those that it waits for.

    Each holder counts the packets made of it that have not started, and each packet that waits for others is one of its
    carrier that has not become part of another.
    """
    none = np.empty(0, np.int64)
    if not state.clock["num_groups"][0]:
        return np.zeros(len(waiting), np.bool_), none, none
    relays, packets, messages = state.relays, state.packets, state.messages
    made = relays["holder"][waiting] != NONE
    require(np.count_nonzero(relays["holder"] != NONE) == np.count_nonzero(made), "a packet has a holder and no place")
    first, left = np.unique(relays["holder"][waiting[made]], return_counts=True)
    require(bool((relays["left"][first] == left).all()), "a holder counts other packets than were made of it")
    held = [row for holder in first for row in walk(packets, holder)]
    merging: list[int] = []
    for merge in state.merges[state.merges["count"] > 0]:
        mine = walk(packets, merge["first"])
        require(len(mine) == merge["count"], "packets that wait for one another are not as many as are counted")
        require(packets["time_ps"][mine].max() == merge["time_ps"], "the last head of packets that wait is another")
        merging += mine
    # Of the packets of a carrier the first have become part of others, and as many as of all other carriers.
    waits = np.bincount(packets["message"][merging], minlength=len(messages))
    for group in state.groups[state.groups["sources"] > 1]:
        size, begin = int(group["sources"]), int(group["first_contribution"])
        sent = state.contributions["packets"][begin : begin + num_planes(state) * size].reshape(-1, size)
        carriers = slice(int(group["first"]), int(group["first"]) + size)
        wrong = (sent - sent.min(axis=1)[:, None]).sum(axis=0) != waits[carriers]
        require(not wrong.any(), "a packet of a reduction was lost, or became part of two")
    return made, np.array(held, np.int64), np.array(merging, np.int64)


def num_planes(state: State) -> int:
    """Return how many planes the parts are of."""
    return len(state.parts) // max(1, int(state.clock["num_messages"][0]))


def check_room(state: State, network: Network, holders: Int64) -> None:
    """Hold the room of every channel against the packets that take it."""
    channels, packets = state.channels, state.packets[holders]
    held = np.zeros(len(channels), np.int64)
    np.add.at(held, packets["channel"], state.durations["value"][packets["payload_bytes"]])
    wrong = np.flatnonzero(held + channels["room_bytes"] != network.channels.buffer_bytes)
    require(len(wrong) == 0, f"the room of channel {wrong[:1]} and the packets that hold it are not its buffer")
    least_room_bytes = np.minimum(channels["least_room_bytes"], state.meters["least_room_bytes"])
    require(bool((channels["room_bytes"] >= least_room_bytes).all()), "a channel had less room than its least")
    require(bool((least_room_bytes >= 0).all()), "a buffer overflowed")


def check_timeline(state: State) -> None:
    """Hold what is in the timeline against what the channels had recorded when they came to their bins."""
    channels, meters = state.channels, state.meters
    shape = len(state.domains), -1, int(state.clock["num_classes"][0])
    domain = np.repeat(np.arange(len(state.domains)), state.domains["num_channels"])
    place = domain, meters["channel_class"]
    for name in ("busy_ps", "credit_stall_ps"):
        entered = np.zeros((shape[0], shape[2]), np.int64)
        np.add.at(entered, place, meters[name])
        found = state.timeline[name].reshape(shape).sum(axis=1)
        require(np.array_equal(found, entered), f"the timeline and the channels differ in {name}")
        require(bool((meters[name] <= channels[name]).all()), f"a channel has less {name} than when it came to its bin")
    peak_bytes = np.zeros((shape[0], shape[2]), np.int64)
    np.maximum.at(peak_bytes, place, meters["buffer_bytes"] - meters["least_room_bytes"])
    found = state.timeline["peak_occupancy_bytes"].reshape(shape).max(axis=1)
    require(np.array_equal(found, peak_bytes), "the timeline and the channels differ in their largest occupancy")
    for rows in (channels, meters):
        over = rows["least_room_bytes"] > meters["buffer_bytes"]
        require(not over.any(), "a channel had more room than its buffer")


def check_backlogs(state: State) -> None:
    """Hold the backlog of every output against its queue, where routing reads it."""
    if state.clock["routing"][0] != Routing.ADAPTIVE:
        return
    queued_bytes = np.zeros(len(state.channels), np.int64)
    for channel, first in enumerate(state.channels["queue_first"]):
        payloads = state.packets["payload_bytes"][walk(state.packets, first)]
        queued_bytes[channel & ~state.clock["vc_mask"][0]] += state.durations["value"][payloads].sum()
    require(bool((state.backlogs["queued_bytes"] == queued_bytes).all()), "a backlog is not the bytes of its queues")


def check_packets(state: State, network: Network, waiting: Int64) -> None:
    """Hold the packets of every message, injected, on the way and delivered, against each other and the records."""
    messages, channels, domains = state.messages, state.channels, state.domains
    per_share = share_packets(network, messages)
    left = state.counts["packets_left"].reshape(-1, max(1, len(messages)))
    delivered = (per_share - left).sum(axis=0) if len(messages) else per_share
    complete = ((left == 0) & (per_share > 0)).sum(axis=0) if len(messages) else per_share
    complete -= listed(state, "complete")
    require(bool((complete == messages["num_shares"] - messages["parts_left"]).all()), "a message counts wrong parts")
    arrived = np.bincount(state.packets["message"][waiting], minlength=len(messages))
    # The shares of one message differ with weights: then their sum alone is held against the injection channels.
    injected = injected_packets(state) if network.weights is None else delivered + arrived
    wrong = np.flatnonzero(relayed_packets(state, injected) != delivered + arrived)
    require(len(wrong) == 0, f"packets of message {wrong[:1]} were lost or doubled")
    retired = state.clock["retired_packets"][0]
    require(delivered.sum() + retired == domains["delivered_packets"].sum(), "the count of delivered packets is wrong")
    histogram = state.latencies["packets"].reshape(-1, LATENCY_ROWS).sum(axis=1)
    require(bool((histogram == domains["delivered_packets"]).all()), "a packet has no latency, or two")
    entered = channels["packets"][channels["injector"] != NONE].sum()
    require(entered == injected.sum() + retired, "the packets of injection channels are not the packets injected")
    require(channels["packets"].sum() == domains["hops"].sum(), "the packets of all channels are not the packet-hops")

    done = messages[(messages["share_bytes"] > 0) & (messages["parts_left"] == 0) & (messages["shares_left"] == 0)]
    ordered = (done["ready_ps"] <= done["first_injection_ps"]) & (done["first_injection_ps"] < done["complete_ps"])
    require(bool(ordered.all()), "a message was complete before it was injected, or injected before it was ready")

    if state.clock["detours"][0] == 1:
        second = np.arange(len(channels)) % 2 == 1
        at_terminal = (channels["injector"][np.arange(len(channels)) & ~1] != NONE) | (channels["route_row"] == NONE)
        entered = channels["packets"][second & at_terminal]
        require(not entered.any(), "a packet entered or left the network by the vc of detours")
    # The outputs of a switch are consecutive.
    firsts = np.unique(channels["first_output"][channels["route_row"] != NONE])
    outputs = np.flatnonzero((channels["injector"] == NONE) & (len(firsts) > 0))
    inputs = np.flatnonzero(channels["route_row"] != NONE)
    if state.clock["num_groups"][0]:
        return  # switches make packets
    came_by = state.packets["channel"][waiting]
    wire_bytes = state.durations["value"][state.packets["payload_bytes"][waiting]]
    for field, held in (("packets", np.ones(len(waiting))), ("wire_bytes", wire_bytes)):
        balance = np.zeros(len(firsts), np.int64)
        np.add.at(balance, np.searchsorted(firsts, channels["first_output"][inputs]), channels[field][inputs])
        np.subtract.at(balance, np.searchsorted(firsts, outputs, "right") - 1, channels[field][outputs])
        at = np.searchsorted(firsts, channels["first_output"][came_by])
        np.subtract.at(balance, at, held.astype(np.int64))
        require(bool((balance == 0).all()), f"{field} in and out of a switch differ")


def check_work(state: State) -> None:
    """Derive again what tasks and messages wait for."""
    tasks, messages, epoch_end_ps = state.tasks, state.messages, state.clock["epoch_end_ps"][0]
    ended = tasks["end_ps"] != NOT_YET
    require(state.clock["tasks_left"][0] == np.count_nonzero(~ended), "the count of open tasks is wrong")
    require(bool((tasks["end_ps"][ended] >= tasks["begin_ps"][ended]).all()), "a task ended before it began")
    require(bool((tasks["end_ps"] < max(1, epoch_end_ps)).all()), "a task ended in the future")
    require(bool((messages["ready_ps"] < max(1, epoch_end_ps)).all()), "a message became ready in the future")
    started = ended | (tasks["begin_ps"] != NOT_YET) & (tasks["begin_ps"] + tasks["launch_ps"] < epoch_end_ps)
    require(bool((tasks["started"] == started).all()), "a task has started too early or too late")
    require(
        not (started & (tasks["awaited"] == 1)).any(), "a task started before the tasks that wait for it were there"
    )
    edges = [edge for first in tasks["first_successor"][~ended] for edge in walk(state.successors, first)]
    require(len(set(edges)) == len(edges), "an edge between tasks is in two lists")
    waiting = np.bincount(state.successors["task"][edges], minlength=len(tasks))
    require(bool((tasks["waiting"] == waiting).all()), "a task waits for another number of tasks than have not ended")

    moves = messages["share_bytes"] > 0
    relayed = is_relayed(messages)
    arrives = moves | relayed
    to_itself = messages["source_task"] == messages["target_task"]
    task_start_ps = tasks["begin_ps"] + tasks["launch_ps"]
    finished = moves & (messages["shares_left"] == 0)
    delivered = arrives & (messages["parts_left"] == 0)
    happened = (messages["ready_ps"] != NOT_YET) & (messages["ready_ps"] < max(1, epoch_end_ps))
    sent = np.where(moves, finished & (messages["sent_ps"] < epoch_end_ps), happened)
    complete = np.where(arrives, delivered & (messages["complete_ps"] < epoch_end_ps), happened)
    received = arrives | to_itself
    pending = np.bincount(messages["source_task"][~sent & ~relayed], minlength=len(tasks))
    pending += np.bincount(messages["target_task"][received & ~complete], minlength=len(tasks))
    expected = Counter(
        [(TimerKind.TASK_STARTS, task, begin_ps) for task, begin_ps in due(~started & (waiting == 0), task_start_ps)]
        + [(TimerKind.MESSAGE_SENT, row, sent_ps) for row, sent_ps in due(finished & ~sent, messages["sent_ps"])]
        + [(TimerKind.MESSAGE_COMPLETE, row, ps) for row, ps in due(delivered & ~complete, messages["complete_ps"])]
    )
    require(expected == timers_set(state), "the timers are not what is due")
    require(bool((tasks["pending"] == pending).all()), "a task counts other messages than are pending")
    require(bool((ended == (started & (pending == 0))).all()), "a task ended too early or too late")
    in_use = messages["source_task"] != NONE
    waits = (in_use & ~started[np.where(in_use, messages["source_task"], 0)]).astype(np.int64)
    waits[relayed] = 0
    follower = state.followers["message"]
    waits += followers(follower, messages, "after_sent_first", "after_sent_count", ~sent, len(messages))
    waits += followers(follower, messages, "after_complete_first", "after_complete_count", ~complete, len(messages))
    wrong = (messages["waiting"] != waits) & ~relayed
    require(not wrong.any(), "a message waits for another number than has not happened")
    wrong = ((messages["ready_ps"] != NOT_YET) != (waits == 0)) & ~relayed
    require(not wrong.any(), "a message is ready and waits, or neither")
    open_waits = np.count_nonzero(~started) + np.count_nonzero(waits)
    require(state.clock["waits_left"][0] == open_waits, "the count of what can still start or become ready is wrong")


def check_ready_lists(state: State) -> None:
    """Derive again the lists of ready messages, as far as they were not retired."""
    messages, bundles = state.messages, state.bundles
    listed = np.flatnonzero((messages["share_bytes"] > 0) & (messages["ready_ps"] != NOT_YET))
    order = listed[np.lexsort((messages["number"][listed], messages["ready_ps"][listed], messages["bundle"][listed]))]
    bundle = messages["bundle"][order]
    is_last = np.append(bundle[1:] != bundle[:-1], True)[: len(order)]
    after = np.where(is_last, NONE, np.roll(order, -1))
    require(bool((messages["next_ready"][order] == after).all()), "a list of ready messages is out of order")
    last = np.full(len(bundles), NONE)
    last[bundle[is_last]] = order[is_last]
    require(bool((bundles["last_ready"] == last).all()), "a last_ready is not the last of its list")
    stands = state.injectors["next_message"] != NONE
    before = state.injectors["next_message"][stands]
    require(bool(np.isin(before, listed).all()), "an injector stands before a message that is not ready")
    require(
        bool((messages["bundle"][before] == state.injectors["bundle"][stands]).all()),
        "an injector stands before a message of another bundle",
    )


def check_rings(state: State) -> None:
    """Hold the places of injectors against the members of the bundles, and against the messages to be striped."""
    injectors, messages, bundles = state.injectors, state.messages, state.bundles
    require(
        bool(state.clock["epoch_end_ps"][0] <= state.clock["halt_ps"][0]), "an epoch goes on where the tables change"
    )
    current = len(state.places) - len(injectors)
    places = state.places[current:]
    stands = np.flatnonzero(places["position"] != NONE)
    bundle = bundles[injectors["bundle"][stands]]
    member = bundle["first_member"].astype(np.int64) + places["position"][stands]
    ringed = (places["num_members"][stands] == bundle["num_members"]) & (
        places["position"][stands] < bundle["num_members"]
    )
    ringed &= state.members["injector"][np.minimum(member, len(state.members) - 1)] == stands
    num_members = bundles["num_members"][np.unique(injectors["bundle"])].sum()
    ringed &= injectors["position"][stands] == places["position"][stands]
    require(
        bool(ringed.all()) and len(stands) == num_members,
        "an injector has another place than its ring",
    )
    striped = (messages["share_bytes"] > 0) & (messages["ready_ps"] == NOT_YET) & (messages["source_task"] != NONE)
    require(bool((messages["first_place"][striped] == current).all()), "a message is striped over a ring of the past")


def followers(follower: npt.NDArray[np.int32], rows: Rows, first: str, count: str, which: Bool, length: int) -> Int64:
    """Count, for each of *length* things, how many of the *which* rows it follows."""
    chosen = rows[which]
    return np.bincount(follower[table_rows(chosen[first], chosen[count])], minlength=length)


def check_slots(state: State) -> None:
    """Hold each injector's slots, and the table of shares, against their lists."""
    injectors, shares = state.injectors, state.shares
    ring = every_row(shares, injectors, "ring_first", "ring_last")
    waiting = every_row(shares, injectors, "waiting_first", "waiting_last")
    freed = every_row(shares, injectors, "freed_first", "freed_last")
    free = [walk(shares, first) for first in state.domains["free_share"]]
    acks = state.acks[state.acks["share"] != NONE]
    rows = np.concatenate([ring, waiting, freed, acks["share"], *(np.array(rows, np.int64) for rows in free)])
    require(len(np.unique(rows)) == len(rows) == len(shares), "shares were lost or are in two places")
    in_slots = injectors["fresh_slots"] + np.bincount(acks["injector"], minlength=len(injectors))
    for first in ("ring_first", "waiting_first", "freed_first"):
        for injector in np.flatnonzero(injectors[first] != NONE):
            in_slots[injector] += len(walk(shares, injectors[first][injector]))
    require(len(np.unique(in_slots)) <= 1, "an injector has lost or won a slot")
    left = np.concatenate([freed, acks["share"]]).astype(np.int64)
    require(bool((shares["bytes_left"][left] == 0).all()), "a share left its slot with bytes to send")
    for injector in np.flatnonzero(injectors["freed_first"] != NONE):
        times = shares["until_ps"][walk(shares, injectors["freed_first"][injector])]
        require(bool((times[1:] >= times[:-1]).all()), "free slots are out of order")
    require(
        bool((shares["bytes_left"][np.concatenate([ring, waiting])] > 0).all()), "a share without bytes holds a slot"
    )


def timers_set(state: State) -> Counter[tuple[int, int, int]]:
    """Return (kind, subject, time) of all timers, and of those that new tasks will get.

    Each is in one list, those of a terminal in time order.
    """
    timers = state.timers
    rows: list[int] = []
    for first, recent in zip(state.terminals["first_timer"], state.terminals["recent_timer"], strict=True):
        mine = walk(timers, first)
        require(recent in mine if mine else recent == NONE, "a recent_timer is not in its list")
        require(timers["previous"][mine].tolist() == [NONE, *mine][:-1], "a timer forgets the one before it")
        times = timers["time_ps"][mine]
        require(bool((times[1:] >= times[:-1]).all()), "the timers of a terminal are out of order")
        rows += mine
    free = walk(timers, state.clock["free_timer"][0])
    require(len({*rows, *free}) == len(rows) + len(free) == len(timers), "timers were lost or are in two places")
    used = timers[rows]
    found = Counter(zip(used["kind"].tolist(), used["subject"].tolist(), used["time_ps"].tolist(), strict=True))
    new = walk(state.tasks, state.clock["new_task"][0], "next_new")
    start_ps = state.tasks["begin_ps"][new] + state.tasks["launch_ps"][new]
    found.update((int(TimerKind.TASK_STARTS), task, ps) for task, ps in zip(new, start_ps.tolist(), strict=True))
    return found


def due(which: Bool, time_ps: Int64) -> list[tuple[int, int]]:
    """Return (row, time) of the rows chosen."""
    return [(int(row), int(time_ps[row])) for row in np.flatnonzero(which)]


def require(holds: bool | np.bool_, complaint: str) -> None:
    """Raise SelfCheckError with *complaint* unless it *holds*."""
    if not holds:
        raise SelfCheckError(f"invariant broken: {complaint}; this is a defect of fabricsim, please report it")


def walk(table: Rows, first: int, following: str = "next") -> list[int]:
    """Return the rows of a list, in order."""
    found: list[int] = []
    follow = table[following].item
    index = int(first)
    while 0 <= index < len(table) and len(found) <= len(table):
        found.append(index)
        index = follow(index)
    require(index == NONE, "a list has a cycle, or leads out of its table")
    return found


def every_row(table: Rows, owners: Rows, first: str, last: str) -> Int64:
    """Return the rows of all owners' lists; each list must end at its owner's last."""
    found: list[int] = []
    for owner in owners[owners[first] != NONE]:
        mine = walk(table, owner[first])
        found += mine
        require(found[-1] == owner[last], f"a {last} is not the last of its list")
        if "time_ps" in (table.dtype.names or ()):
            times = table["time_ps"][found[-len(mine) :]]
            require(bool((times[1:] >= times[:-1]).all()), f"a list from a {first} is out of order")
    return np.array(found, np.int64)


def injected_packets(state: State) -> Int64:
    """Return per message how many packets have started, from the shares that are done, under way or still to come."""
    messages = state.messages
    full_bytes = np.full(len(messages), state.clock["max_payload_bytes"][0])
    grouped = messages["group"] != NONE
    full_bytes[grouped] = state.groups["payload_bytes"][messages["group"][grouped]]
    per_share = -(-messages["share_bytes"] // full_bytes)
    sent = np.where(messages["share_bytes"] > 0, messages["num_shares"], 0) - messages["shares_left"]
    injected: Int64 = (sent.astype(np.int64) + listed(state, "sent")) * per_share
    for first in np.concatenate([state.injectors["ring_first"], state.injectors["waiting_first"]]):
        for index in walk(state.shares, first):
            share = state.shares[index]
            message = share["message"]
            injected[message] += per_share[message] - -(-share["bytes_left"] // full_bytes[message])
    require(bool((injected[messages["ready_ps"] == NOT_YET] == 0).all()), "a message was injected before it was ready")
    return injected


def relayed_packets(state: State, injected: Int64) -> Int64:
    """Return per message how many packets are delivered or on the way to that, given how many were injected.

    For messages of reductions that follows from the packets that all carriers have sent on a plane.
    """
    result = injected.copy()
    for group in state.groups[: int(state.clock["num_groups"][0])]:
        first, count, sources = int(group["first"]), int(group["count"]), int(group["sources"])
        mine = slice(first, first + count)
        if sources == 1:
            result[mine] = injected[first]
            continue
        begin = int(group["first_contribution"])
        sent = state.contributions["packets"][begin : begin + num_planes(state) * sources].reshape(-1, sources)
        require(sent.sum() == injected[first : first + sources].sum(), "a packet of a reduction was not noted")
        result[mine] = 0
        for merged in sent.min(axis=1):
            number = np.arange(merged)
            message = number // (sources * int(group["packets"])) * sources + number % sources
            result[mine] += np.bincount(message, minlength=count)
    return result


def listed(state: State, name: str) -> Int64:
    """Return per message how many of its parts are in the lists of the domains, to be handled when the epoch ends."""
    found = np.zeros(len(state.messages), np.int64)
    rows = getattr(state, name)["message"].reshape(-1, max(1, len(found)))
    for row, count in zip(rows, state.domains[f"num_{name}"], strict=False):
        found += np.bincount(row[:count], minlength=len(found))
    return found
