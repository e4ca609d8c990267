"""The kernel: how packets move (docs/physics.md), in bounded-lag windows.

Every influence crosses a channel and takes at least the least channel latency D. So in a window of at most D each
sender can do all that it will ever do in that window without looking at another, and what it emits lands in later
windows. Their order cannot change the result.

A packet is one row from its start on a channel until the room that it took there is free again. A start says when
the head arrives, and with one queue per output and a route that no queue decides also where it will wait: so the row
goes at once to the inbox of that output, is sorted into the output's queue when its window comes, and when the packet
starts there becomes the credit of the channel that it came by. At its last channel the ejection, a FIFO, is known as
well.

Planes influence each other only through messages that become ready, and those wait a message overhead before their
first packet. So ``run`` takes epoch after epoch of at most that length, in each epoch plane after plane (a *domain*),
in each plane window after window; what became ready is handled when all planes have ended the epoch. Once nothing
waits any more for something to happen, the epoch has no end and each plane runs to its own. With an overhead of less
than a window all planes are one domain, and terminals handle what becomes ready in time order with all else.

Functions take the whole ``State``; they never allocate, never validate and never print. The source runs jitted and
un-jitted, for plain fabrics (``PLAIN``) and for all: ``backends.load`` executes the module once for each. All numbers
are non-negative integers, so that floor division means the same in every language.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fabricsim.engine import _jit, hashing, layout
from fabricsim.engine._jit import jit
from fabricsim.engine.layout import (
    ADAPTIVE_SLACK,
    BANK_SHIFT,
    LATENCY_BUCKETS,
    LATENCY_SHIFT,
    TIMELINE_BINS,
    Arbitration,
    Code,
    Part,
    Routing,
    State,
    TimerKind,
)

if TYPE_CHECKING:
    int64 = int  # as good as, to a type checker
else:
    int64 = np.int64

# The jit takes enum members for objects. It takes plain integers for literals, types of their own, and would compile a
# function again for each; 64-bit integers it takes for what they are.
ZERO, NONE, NEVER = int64(0), int64(layout.NONE), int64(layout.NEVER)
WAY_LIMIT_PS = int64(layout.WAY_LIMIT_PS)
SLICE, DONE, STALLED = int64(Code.SLICE), int64(Code.DONE), int64(Code.STALLED)
PACKETS_FULL, TIME_LIMIT = int64(Code.PACKETS_FULL), int64(Code.TIME_LIMIT)
NEED_WORK, HALT = int64(Code.NEED_WORK), int64(Code.HALT)
TASK_STARTS, MESSAGE_SENT = int64(TimerKind.TASK_STARTS), int64(TimerKind.MESSAGE_SENT)
MESSAGE_COMPLETE = int64(TimerKind.MESSAGE_COMPLETE)
SPRAY = int64(Routing.SPRAY)
ADAPTIVE = int64(Routing.ADAPTIVE)
ROUND_ROBIN = int64(Arbitration.ROUND_ROBIN)
PRIORITY = int64(Arbitration.PRIORITY)
WHOLE, OPEN, CLOSE = int64(Part.WHOLE), int64(Part.OPEN), int64(Part.CLOSE)

# No virtual channels, adaptive choices, in-network operations, weights, acknowledgements or changes of the fabric: what
# these need costs nothing then.
PLAIN = _jit.plain

MASK32 = hashing.MASK32
RUN = 16  # insertion sort up to here, then merges
INDEX_BITS = 31
INDEX_MASK = (1 << INDEX_BITS) - 1


mix32 = jit(hashing.mix32)


# --- packets -------------------------------------------------------------------------------------------------------


@jit
def take_packet(state: State, domain: int) -> int:
    """Take a row of packets off the free list; there is one, for ``run_domain`` has made sure."""
    row = state.domains[domain]
    index = int64(row["free_packet"])
    row["free_packet"] = state.packets[index]["next"]
    row["num_free_packets"] -= 1
    return index


@jit
def bank_of(state: State, domain: int, channel: int) -> int:
    """Return the bank that a channel of *domain* belongs to."""
    row = state.domains[domain]
    return int64(row["first_bank"] + ((channel - row["first_channel"]) >> BANK_SHIFT))


@jit
def vc_mask(state: State) -> int:
    """Return the virtual channels of a channel, less one."""
    return ZERO if PLAIN else state.clock[0]["vc_mask"]


@jit
def adapts(state: State) -> bool:
    """Whether packets with a choice look at the queues of its outputs."""
    return not PLAIN and state.clock[0]["routing"] == ADAPTIVE


@jit
def kept_vc(state: State, channel: int) -> int:
    """Return the virtual channel on which a packet that came by *channel* goes on, but 0 where candidates say it."""
    if PLAIN or state.clock[0]["detours"] == 1:
        return ZERO
    return channel & vc_mask(state)


@jit
def server_of(state: State, channel: int) -> int:
    """Return the first virtual channel of the channel that *channel* belongs to, which is the server of all."""
    return channel & ~vc_mask(state)


@jit
def wake_channel(state: State, domain: int, channel: int, time_ps: int) -> None:
    """See to it that a channel of *domain* is looked at at *time_ps* or before."""
    channel = server_of(state, channel)
    state.wakes[channel]["wake_ps"] = min(state.wakes[channel]["wake_ps"], time_ps)
    bank = bank_of(state, domain, channel)
    state.banks[bank]["wake_ps"] = min(state.banks[bank]["wake_ps"], time_ps)


@jit
def put_in_inbox(state: State, domain: int, channel: int, index: int) -> None:
    """Put a packet into the inbox of the output *channel* for its window, or its farthest one if that lies beyond.

    A packet that is found before its window is put off again; times beyond the wheel are rare.
    """
    clock = state.clock[0]
    packet = state.packets[index]
    window = packet["time_ps"] >> clock["window_shift"]
    farthest = (state.domains[domain]["window_start_ps"] >> clock["window_shift"]) + clock["wheel_mask"]
    slot = min(window, farthest) & clock["wheel_mask"]
    inbox = state.inboxes[slot * clock["num_channels"] + channel]
    packet["next"] = inbox["packet"]
    inbox["packet"] = index
    state.filled[slot * clock["num_banks"] + bank_of(state, domain, channel)]["inboxes"] = 1
    state.domains[domain]["arriving"] += 1


@jit
def return_credit(state: State, domain: int, index: int, time_ps: int) -> None:
    """Give the room of a packet back to the sender of the channel that it came by, usable from *time_ps* on."""
    packets = state.packets
    packet = packets[index]
    channel = int64(packet["channel"])
    row = state.channels[channel]
    packet["time_ps"] = time_ps
    if row["credit_first"] == NONE:
        row["credit_first"] = index
        row["credit_last"] = index
        packet["next"] = NONE
    else:
        # They come nearly in order: search from the back.
        first = int64(row["credit_first"])
        before = int64(row["credit_last"])
        after = NONE
        while before != after and packets[before]["time_ps"] > time_ps:
            after = before
            if before != first:
                before = int64(packets[before]["message"])
        packet["next"] = after
        if after == NONE:
            row["credit_last"] = index
        else:
            packets[after]["message"] = index
        if before == after:
            row["credit_first"] = index
        else:
            packets[before]["next"] = index
            packet["message"] = before
    if row["blocked"] == 1:
        wake_channel(state, domain, channel, time_ps)


@jit
def take_credits(state: State, domain: int, channel: int, until_ps: int) -> int:
    """Free the packets whose credits are usable at *until_ps*; return how many bytes of room that gives *channel*."""
    packets = state.packets
    row = state.channels[channel]
    owner = state.domains[domain]
    room_bytes = ZERO
    index = int64(row["credit_first"])
    while index != NONE and packets[index]["time_ps"] <= until_ps:
        room_bytes += state.durations[packets[index]["payload_bytes"]]["value"]
        after = int64(packets[index]["next"])
        packets[index]["next"] = owner["free_packet"]
        owner["free_packet"] = index
        owner["num_free_packets"] += 1
        index = after
    row["credit_first"] = index
    return room_bytes


@jit
def eject_packet(
    state: State,
    domain: int,
    channel: int,
    index: int,
    head_ps: int,
    injected_ps: int,
    message: int,
    payload: int,
    before: int,
) -> None:
    """Eject the packet whose head arrives at a terminal at *head_ps*: the server is a FIFO, so its end is known now."""
    row = state.channels[server_of(state, channel)]
    ejection_ps = state.durations[row["ejection_row"] + payload]["value"]
    end_ps = max(head_ps, row["ejection_free_ps"]) + ejection_ps
    row["ejection_free_ps"] = end_ps
    return_credit(state, domain, index, end_ps + row["latency_ps"])

    owner = state.domains[domain]
    part = row["first_part"] + message
    packets_left = int64(state.counts[part]["packets_left"]) - 1
    state.counts[part]["packets_left"] = packets_left
    if packets_left == 0:
        state.parts[part]["complete_ps"] = end_ps
        if acks(state):
            answer_share(state, domain, part)
        if state.clock[0]["defers"] == 1:
            ended = state.complete[int64(row["first_part"]) + int64(owner["num_complete"])]
            ended["complete_ps"] = end_ps
            ended["message"] = message
            owner["num_complete"] += 1
        else:
            complete_part(state, message, end_ps)
    if injected_ps < 0:
        note_way(state, part, ejection_ps, ZERO)
        state.parts[part]["way_propagation_ps"] = min(~injected_ps, WAY_LIMIT_PS)
        injected_ps = state.parts[part]["last_injection_ps"]
        if not PLAIN and relays_any(state) and before != NONE and state.relays[before]["holder"] != NONE:
            injected_ps = state.relays[before]["injected_ps"]

    latency_ps = end_ps - injected_ps
    owner["delivered_packets"] += 1
    owner["packet_latency_sum_ps"] += latency_ps
    owner["packet_latency_max_ps"] = max(owner["packet_latency_max_ps"], latency_ps)
    state.latencies[latency_bucket(state, domain, latency_ps)]["packets"] += 1


@jit
def latency_bucket(state: State, domain: int, latency_ps: int) -> int:
    """Return the row of a latency in the histogram of a domain (docs/physics.md, section 10)."""
    owner = state.domains[domain]
    shift = owner["latency_shift"]  # of the packet before: they are much alike
    while latency_ps >> shift >= 1 << LATENCY_SHIFT:
        shift += 1
    while shift > 0 and latency_ps >> shift < 1 << (LATENCY_SHIFT - 1):
        shift -= 1
    owner["latency_shift"] = shift
    return owner["first_latency"] + shift * LATENCY_BUCKETS + (latency_ps >> shift)


@jit
def choose_output(state: State, channel: int, message: int, destination: int) -> int:
    """Route a packet that comes by *channel* at the switch at its end (docs/physics.md, section 6)."""
    row = state.channels[server_of(state, channel)]
    route = state.routes[state.channels[channel]["route_row"] + destination]
    count = int64(route["count"])
    place = int64(route["first"])
    if count > 1:
        if state.clock[0]["routing"] == SPRAY:
            choice = row["spray_counter"]
            row["spray_counter"] = choice + 1
        else:
            choice = state.messages[message]["flow"]
        place += choice % count
    return int64(row["first_output"]) + int64(state.candidates[place]["output"]) + kept_vc(state, channel)


@jit
def note_way(state: State, part: int, serialization_ps: int, credit_stall_ps: int) -> None:
    """Note why the packet that attribution follows for a part took time on its way: at switches seldom for its turn."""
    if serialization_ps + credit_stall_ps > 0:
        row = state.parts[part]
        row["way_serialization_ps"] = min(int64(row["way_serialization_ps"]) + serialization_ps, WAY_LIMIT_PS)
        row["way_credit_stall_ps"] += credit_stall_ps


@jit
def come_to_bin(state: State, domain: int, channel: int) -> None:
    """Let what *channel* records from now on belong to the bin of the window."""
    if state.bins[channel]["first_use"] != state.domains[domain]["first_use"]:
        leave_bin(state, domain, channel)


@jit
def leave_bin(state: State, domain: int, channel: int) -> None:
    """Enter into the timeline what *channel* recorded in its bin, and let it come to that of the window."""
    row = state.channels[channel]
    meter = state.meters[channel]
    use = state.timeline[int64(state.bins[channel]["first_use"]) + int64(meter["channel_class"])]
    use["busy_ps"] += row["busy_ps"] - meter["busy_ps"]
    use["credit_stall_ps"] += row["credit_stall_ps"] - meter["credit_stall_ps"]
    use["peak_occupancy_bytes"] = max(use["peak_occupancy_bytes"], meter["buffer_bytes"] - row["least_room_bytes"])
    meter["busy_ps"] = row["busy_ps"]
    meter["credit_stall_ps"] = row["credit_stall_ps"]
    meter["least_room_bytes"] = min(meter["least_room_bytes"], row["least_room_bytes"])
    row["least_room_bytes"] = meter["buffer_bytes"]
    state.bins[channel]["first_use"] = state.domains[domain]["first_use"]


@jit
def find_bin(state: State, domain: int) -> None:
    """Find the bin of the timeline for the window of a domain."""
    owner = state.domains[domain]
    while owner["window_start_ps"] >> owner["bin_shift"] >= TIMELINE_BINS:
        first = owner["first_channel"]
        owner["first_use"] = domain * TIMELINE_BINS * state.clock[0]["num_classes"]
        for channel in range(first, first + owner["num_channels"]):
            leave_bin(state, domain, channel)
        fold_bins(state, domain)
    place = domain * TIMELINE_BINS + (owner["window_start_ps"] >> owner["bin_shift"])
    owner["first_use"] = place * state.clock[0]["num_classes"]


@jit
def fold_bins(state: State, domain: int) -> None:
    """Make bins of a domain twice as long."""
    timeline = state.timeline
    num_classes = state.clock[0]["num_classes"]
    first = domain * TIMELINE_BINS * num_classes
    half = TIMELINE_BINS // 2 * num_classes
    for place in range(half):
        one = first + place // num_classes * 2 * num_classes + place % num_classes
        other = one + num_classes
        use = timeline[first + place]
        use["busy_ps"] = timeline[one]["busy_ps"] + timeline[other]["busy_ps"]
        use["credit_stall_ps"] = timeline[one]["credit_stall_ps"] + timeline[other]["credit_stall_ps"]
        use["peak_occupancy_bytes"] = max(
            timeline[one]["peak_occupancy_bytes"], timeline[other]["peak_occupancy_bytes"]
        )
    for place in range(first + half, first + 2 * half):
        timeline[place]["busy_ps"] = 0
        timeline[place]["credit_stall_ps"] = 0
        timeline[place]["peak_occupancy_bytes"] = 0
    state.domains[domain]["bin_shift"] += 1


@jit
def pass_on(
    state: State,
    domain: int,
    channel: int,
    start_ps: int,
    injected_ps: int,
    message: int,
    destination: int,
    payload: int,
    before: int,
) -> None:
    """Hand a packet that starts on *channel* to what stands at its end: an output of a switch, or an ejection.

    *before* is its row so far, NONE on the first channel.
    """
    row = state.channels[channel]
    head_ps = start_ps + row["latency_ps"]
    index = take_packet(state, domain)
    packet = state.packets[index]
    packet["channel"] = channel
    packet["payload_bytes"] = payload
    state.domains[domain]["hops"] += 1
    if injected_ps < 0:
        injected_ps -= row["latency_ps"]
    if row["route_row"] == NONE:
        eject_packet(state, domain, channel, index, head_ps, injected_ps, message, payload, before)
        return
    packet["time_ps"] = head_ps
    packet["injected_ps"] = injected_ps
    packet["message"] = message
    packet["destination"] = destination
    if not PLAIN and relays_any(state) and state.messages[message]["group"] != NONE:
        if state.groups[state.messages[message]["group"]]["sources"] == 1:
            copy_packet(state, domain, index)
        else:
            merge_packet(state, domain, index)
        return
    output = int64(row["first_output"])
    if not adapts(state):
        output = choose_output(state, channel, message, destination)
    put_in_inbox(state, domain, output, index)


# --- in-network operations (docs/physics.md, section 14) ---------------------------------------------------------


@jit
def relays_any(state: State) -> bool:
    """Whether the run has in-network operations."""
    return state.clock[0]["num_groups"] > 0


@jit
def relay_packet(
    state: State, domain: int, channel: int, time_ps: int, injected_ps: int, message: int, payload: int, holder: int
) -> int:
    """Hand a packet of *message* that the switch at the end of *channel* makes of *holder* to its output; return it."""
    index = take_packet(state, domain)
    destination = int64(state.messages[message]["destination"])
    packet = state.packets[index]
    packet["channel"] = channel
    packet["payload_bytes"] = payload
    packet["time_ps"] = time_ps
    packet["injected_ps"] = injected_ps
    packet["message"] = message
    packet["destination"] = destination
    state.relays[index]["holder"] = holder
    output = int64(state.channels[channel]["first_output"])
    if not adapts(state):
        output = choose_output(state, channel, message, destination)
    put_in_inbox(state, domain, output, index)
    return index


@jit
def copy_packet(state: State, domain: int, index: int) -> None:
    """Make the copies of a multicast's packet that starts towards a switch; it holds the room for all of them."""
    packet = state.packets[index]
    group = state.groups[int64(state.messages[int64(packet["message"])]["group"])]
    first = int64(group["first"])
    count = int64(group["count"])
    packet["next"] = NONE
    state.relays[index]["left"] = count
    state.relays[index]["until_ps"] = 0
    for message in range(first, first + count):
        copy = relay_packet(
            state,
            domain,
            int64(packet["channel"]),
            packet["time_ps"],
            packet["injected_ps"],
            message,
            int64(packet["payload_bytes"]),
            index,
        )
        state.relays[copy]["injected_ps"] = packet["time_ps"] - state.channels[int64(packet["channel"])]["latency_ps"]


@jit
def merge_packet(state: State, domain: int, index: int) -> None:
    """Let a reduction's packet that starts towards a switch wait for those of the other carriers there.

    With the last of them the packet made of them all is known: its head comes when the last of theirs does, in a later
    window, and the reducer of its output is free. What it reduces comes in order, for all carriers send in one order.
    """
    packets = state.packets
    channels = state.channels
    packet = packets[index]
    channel = int64(packet["channel"])
    carrier = int64(packet["message"])
    payload = int64(packet["payload_bytes"])
    head_ps = packet["time_ps"]
    group = state.groups[int64(state.messages[carrier]["group"])]
    first = int64(group["first"])
    sources = int64(group["sources"])
    plane = int64(channels[channel]["first_part"]) // state.clock[0]["num_messages"]
    contribution = state.contributions[int64(group["first_contribution"]) + plane * sources + carrier - first]
    number = contribution["packets"]
    contribution["packets"] = number + 1
    message = first + number // (sources * int64(group["packets"])) * sources + number % sources

    # The output must not run dry while any of them comes in: e in docs/physics.md, section 5.
    output = choose_output(state, channel, message, int64(state.messages[message]["destination"]))
    serialization_ps = state.durations[channels[output]["serialization_row"] + payload]["value"]
    lead_ps = state.durations[channels[channel]["serialization_row"] + payload]["value"] - serialization_ps
    earliest_ps = head_ps + max(ZERO, lead_ps)

    ring = int64(group["merge_mask"]) + 1
    merge = state.merges[int64(group["first_merge"]) + plane * ring + (number & (ring - 1))]
    injected_ps = head_ps - channels[channel]["latency_ps"]
    propagation_ps = ZERO
    if packet["injected_ps"] < 0:
        propagation_ps = channels[channel]["latency_ps"]
    if merge["count"] == 0:
        merge["time_ps"] = head_ps
        merge["earliest_ps"] = earliest_ps
        merge["injected_ps"] = injected_ps
        merge["propagation_ps"] = propagation_ps
        merge["channel"] = channel
        packet["next"] = NONE
    else:
        if head_ps > merge["time_ps"] or (head_ps == merge["time_ps"] and channel < merge["channel"]):
            merge["time_ps"] = head_ps
            merge["channel"] = channel
        merge["earliest_ps"] = max(merge["earliest_ps"], earliest_ps)
        merge["injected_ps"] = min(merge["injected_ps"], injected_ps)
        merge["propagation_ps"] += propagation_ps
        packet["next"] = merge["first"]
    merge["first"] = index
    merge["count"] += 1
    if merge["count"] < sources:
        return
    merge["count"] = 0
    state.relays[index]["left"] = 1
    state.relays[index]["until_ps"] = 0
    reducer = state.contributions[int64(group["first_contribution"]) + plane * sources + number % sources]
    begin_ps = max(merge["time_ps"], reducer["reducer_free_ps"])
    reducer["reducer_free_ps"] = begin_ps + group["reduction_ps"]
    injected_ps = merge["injected_ps"]
    if merge["propagation_ps"] > 0:
        injected_ps = ~merge["propagation_ps"]
    merged = relay_packet(state, domain, int64(merge["channel"]), begin_ps, injected_ps, message, payload, index)
    state.relays[merged]["injected_ps"] = merge["injected_ps"]
    lead_ps = group["reduction_ps"] - serialization_ps
    state.relays[merged]["earliest_ps"] = max(merge["earliest_ps"], begin_ps + max(ZERO, lead_ps))


@jit
def earliest_start(state: State, index: int, could_ps: int) -> int:
    """Return when a packet could start at a switch, given when it could for the channel that it came by."""
    if not PLAIN and relays_any(state):
        return max(could_ps, state.relays[index]["earliest_ps"])
    return could_ps


@jit
def leave_buffer(state: State, domain: int, index: int, came_by: int, end_ps: int) -> None:
    """Give back the room that a packet took, or with the last packet made of them its holders; it ends at *end_ps*."""
    packets = state.packets
    channels = state.channels
    holder = NONE
    if not PLAIN and relays_any(state):
        holder = int64(state.relays[index]["holder"])
    if holder == NONE:
        return_credit(state, domain, index, end_ps + channels[came_by]["latency_ps"])
        return
    if PLAIN:
        return
    owner = state.domains[domain]
    relay = state.relays[index]
    relay["holder"] = NONE
    relay["earliest_ps"] = 0
    packets[index]["next"] = owner["free_packet"]
    owner["free_packet"] = index
    owner["num_free_packets"] += 1
    held = state.relays[holder]
    held["until_ps"] = max(held["until_ps"], end_ps)
    held["left"] -= 1
    if held["left"] > 0:
        return
    end_ps = held["until_ps"]
    while holder != NONE:
        after = int64(packets[holder]["next"])
        return_credit(state, domain, holder, end_ps + channels[int64(packets[holder]["channel"])]["latency_ps"])
        holder = after


# --- switches ------------------------------------------------------------------------------------------------------


@jit
def sort_keys(state: State, first: int, count: int) -> None:
    """Sort ``keys[first : first + count]``: runs by insertion, then merges through the scratch table."""
    keys = state.keys
    swap = state.swap
    end = first + count
    for start in range(first, end, RUN):
        for index in range(start + 1, min(start + RUN, end)):
            key = keys[index]["key"]
            place = index
            while place > start and keys[place - 1]["key"] > key:
                keys[place]["key"] = keys[place - 1]["key"]
                place -= 1
            keys[place]["key"] = key
    width = RUN
    while width < count:
        for start in range(first, end, 2 * width):
            middle = min(start + width, end)
            stop = min(start + 2 * width, end)
            if middle == stop or keys[middle - 1]["key"] <= keys[middle]["key"]:
                continue
            for index in range(start, middle):
                swap[index]["key"] = keys[index]["key"]
            left = start
            right = middle
            place = start
            while left < middle:
                if right < stop and keys[right]["key"] < swap[left]["key"]:
                    keys[place]["key"] = keys[right]["key"]
                    right += 1
                else:
                    keys[place]["key"] = swap[left]["key"]
                    left += 1
                place += 1
        width *= 2


@jit
def break_ties(state: State, first: int, count: int) -> None:
    """Bring ``keys[first : first + count]``, packets whose heads arrive at one instant, into tie order."""
    keys = state.keys
    packets = state.packets
    channels = state.channels
    for place in range(first, first + count):
        index = keys[place]["key"] & INDEX_MASK
        tie = mix32(int64(channels[packets[index]["channel"]]["tie_key"]) ^ (packets[index]["time_ps"] & MASK32))
        keys[place]["key"] = (tie << INDEX_BITS) | index
    sort_keys(state, first, count)
    # Equal ties are rare (1 in 2**32); the place decides them, which rises with the channel within a plane.
    for place in range(first + 1, first + count):
        key = keys[place]["key"]
        here = int64(packets[key & INDEX_MASK]["channel"])
        spot = place
        while (
            spot > first
            and keys[spot - 1]["key"] >> INDEX_BITS == key >> INDEX_BITS
            and packets[keys[spot - 1]["key"] & INDEX_MASK]["channel"] > here
        ):
            keys[spot]["key"] = keys[spot - 1]["key"]
            spot -= 1
        keys[spot]["key"] = key


@jit
def sort_arrivals(state: State, domain: int, channel: int, inbox_index: int, window_end_ps: int) -> int:
    """Empty the inbox of *channel* for this window into the keys of *domain*, in tie order; return their end."""
    owner = state.domains[domain]
    packets = state.packets
    keys = state.keys
    window_start_ps = owner["window_start_ps"]
    first = owner["first_key"]
    index = int64(state.inboxes[inbox_index]["packet"])
    state.inboxes[inbox_index]["packet"] = NONE
    end = first
    while index != NONE:
        after = int64(packets[index]["next"])
        time_ps = packets[index]["time_ps"]
        owner["arriving"] -= 1
        if time_ps < window_end_ps:
            keys[end]["key"] = ((time_ps - window_start_ps) << INDEX_BITS) | index
            end += 1
        else:
            put_in_inbox(state, domain, channel, index)
        index = after
    if end - first > 1:
        sort_keys(state, first, end - first)
        place = first
        while place < end:
            instant = keys[place]["key"] >> INDEX_BITS
            stop = place + 1
            while stop < end and keys[stop]["key"] >> INDEX_BITS == instant:
                stop += 1
            if stop - place > 1:
                break_ties(state, place, stop - place)
            place = stop
    return end


@jit
def queue_packet(state: State, channel: int, index: int) -> None:
    """Put a packet at the end of the queue of the output *channel*."""
    row = state.channels[channel]
    packets = state.packets
    packets[index]["next"] = NONE
    if row["queue_first"] == NONE:
        row["queue_first"] = index
    else:
        packets[row["queue_last"]]["next"] = index
    row["queue_last"] = index


@jit
def queue_arrivals(state: State, domain: int, channel: int, inbox_index: int, window_end_ps: int) -> None:
    """Empty the inbox of the output *channel* for this window into its queue, in tie order."""
    end = sort_arrivals(state, domain, channel, inbox_index, window_end_ps)
    for place in range(state.domains[domain]["first_key"], end):
        queue_packet(state, channel, state.keys[place]["key"] & INDEX_MASK)


@jit
def serve_queue(state: State, domain: int, channel: int, until_ps: int) -> None:
    """Start what the queue of a switch output with one virtual channel can start before *until_ps*."""
    come_to_bin(state, domain, channel)
    row = state.channels[channel]
    channels = state.channels
    packets = state.packets
    durations = state.durations
    free_ps = row["free_ps"]
    room_bytes = row["room_bytes"]
    least_room_bytes = row["least_room_bytes"]
    started, busy_ps, bytes_, stall_ps = ZERO, ZERO, ZERO, ZERO
    blocked = ZERO
    wake_ps = NEVER
    index = int64(row["queue_first"])
    while index != NONE:
        packet = packets[index]
        came_by = int64(packet["channel"])
        payload = int64(packet["payload_bytes"])
        wire_bytes = durations[payload]["value"]
        serialization_ps = durations[row["serialization_row"] + payload]["value"]
        # A faster output waits so that it never runs dry: e in docs/physics.md, section 5.
        lead_ps = max(ZERO, durations[channels[came_by]["serialization_row"] + payload]["value"] - serialization_ps)
        could_ps = max(earliest_start(state, index, packet["time_ps"] + lead_ps), free_ps)
        if could_ps >= until_ps:
            wake_ps = could_ps
            break
        start_ps = could_ps
        room_bytes += take_credits(state, domain, channel, start_ps)
        while room_bytes < wire_bytes and row["credit_first"] != NONE:
            start_ps = packets[row["credit_first"]]["time_ps"]
            if start_ps >= until_ps:
                break
            room_bytes += take_credits(state, domain, channel, start_ps)
        if room_bytes < wire_bytes:
            blocked = int64(1)
            if row["credit_first"] != NONE:
                wake_ps = packets[row["credit_first"]]["time_ps"]
            break
        room_bytes -= wire_bytes
        least_room_bytes = min(least_room_bytes, room_bytes)
        started += 1
        busy_ps += serialization_ps
        bytes_ += wire_bytes
        stall_ps += start_ps - could_ps
        free_ps = start_ps + serialization_ps
        after = int64(packet["next"])
        if packet["injected_ps"] < 0:
            note_way(state, int64(row["first_part"]) + int64(packet["message"]), lead_ps, start_ps - could_ps)
        pass_on(
            state,
            domain,
            channel,
            start_ps,
            packet["injected_ps"],
            int64(packet["message"]),
            int64(packet["destination"]),
            payload,
            index,
        )
        leave_buffer(state, domain, index, came_by, free_ps)
        index = after
    row["queue_first"] = index
    row["free_ps"] = free_ps
    row["room_bytes"] = room_bytes
    row["least_room_bytes"] = least_room_bytes
    row["blocked"] = blocked
    row["packets"] += started
    row["busy_ps"] += busy_ps
    row["wire_bytes"] += bytes_
    row["credit_stall_ps"] += stall_ps
    if adapts(state):
        state.backlogs[channel]["queued_bytes"] -= bytes_
    state.wakes[channel]["wake_ps"] = wake_ps


@jit
def front_ps(state: State, channel: int, from_ps: int) -> int:
    """Return the first time from *from_ps* on at which the first packet of a virtual channel is there and has room."""
    row = state.channels[channel]
    packets = state.packets
    if row["queue_first"] == NONE:
        return NEVER
    packet = packets[row["queue_first"]]
    wire_bytes = state.durations[int64(packet["payload_bytes"])]["value"]
    now_ps = max(from_ps, packet["time_ps"])
    room_bytes = row["room_bytes"]
    index = int64(row["credit_first"])
    while index != NONE and room_bytes < wire_bytes:
        room_bytes += state.durations[int64(packets[index]["payload_bytes"])]["value"]
        now_ps = max(now_ps, packets[index]["time_ps"])
        index = int64(packets[index]["next"])
    if room_bytes < wire_bytes:
        now_ps = NEVER
    return int64(now_ps)


@jit
def goes_before(state: State, one: int, other: int, server: int) -> bool:
    """Whether the output *server* serves the first packet of virtual channel *one* before that of *other*."""
    clock = state.clock[0]
    if clock["arbitration"] == PRIORITY:
        return one < other
    if clock["arbitration"] == ROUND_ROBIN:
        served = server + int64(state.arbiters[server]["served"])
        return ((one - served - 1) & vc_mask(state)) < ((other - served - 1) & vc_mask(state))
    packet = state.packets[state.channels[one]["queue_first"]]
    rival = state.packets[state.channels[other]["queue_first"]]
    if packet["time_ps"] != rival["time_ps"]:
        return packet["time_ps"] < rival["time_ps"]
    tie = mix32(int64(state.channels[int64(packet["channel"])]["tie_key"]) ^ (packet["time_ps"] & MASK32))
    rival_tie = mix32(int64(state.channels[int64(rival["channel"])]["tie_key"]) ^ (rival["time_ps"] & MASK32))
    if tie != rival_tie:
        return tie < rival_tie
    return packet["channel"] < rival["channel"]


@jit
def pick_vc(state: State, channel: int, until_ps: int) -> int:
    """Let the output *channel*, which is free, pick before *until_ps*; return when, or when to look again."""
    free_ps = state.channels[channel]["free_ps"]
    end = channel + vc_mask(state) + 1
    pick_ps = NEVER
    for vc in range(channel, end):
        row = state.channels[vc]
        ready_ps = front_ps(state, vc, free_ps)
        row["blocked"] = 0
        if row["queue_first"] != NONE and ready_ps > max(free_ps, state.packets[row["queue_first"]]["time_ps"]):
            row["blocked"] = 1
        pick_ps = min(pick_ps, ready_ps)
    if pick_ps < until_ps:
        best = NONE
        for vc in range(channel, end):
            if front_ps(state, vc, free_ps) <= pick_ps and (best == NONE or goes_before(state, vc, best, channel)):
                best = vc
        state.arbiters[channel]["picked"] = best
        state.arbiters[channel]["pick_ps"] = pick_ps
    return int64(pick_ps)


@jit
def serve_vcs(state: State, domain: int, channel: int, until_ps: int) -> None:
    """Start what the queues of a switch output with several virtual channels can start before *until_ps*."""
    for vc in range(channel, channel + vc_mask(state) + 1):
        come_to_bin(state, domain, vc)
    server = state.channels[channel]
    arbiter = state.arbiters[channel]
    durations = state.durations
    started_bytes = ZERO
    while True:
        if arbiter["picked"] == NONE:
            wake_ps = pick_vc(state, channel, until_ps)
            if wake_ps >= until_ps:
                break
        vc = int64(arbiter["picked"])
        row = state.channels[vc]
        index = int64(row["queue_first"])
        packet = state.packets[index]
        came_by = int64(packet["channel"])
        payload = int64(packet["payload_bytes"])
        serialization_ps = durations[server["serialization_row"] + payload]["value"]
        lead_ps = durations[state.channels[came_by]["serialization_row"] + payload]["value"] - serialization_ps
        lead_ps = max(ZERO, lead_ps)
        could_ps = earliest_start(state, index, packet["time_ps"] + lead_ps)
        start_ps = max(arbiter["pick_ps"], could_ps)
        wake_ps = start_ps
        if start_ps >= until_ps:
            break
        row["room_bytes"] += take_credits(state, domain, vc, start_ps) - durations[payload]["value"]
        row["least_room_bytes"] = min(row["least_room_bytes"], row["room_bytes"])
        row["packets"] += 1
        row["busy_ps"] += serialization_ps
        row["wire_bytes"] += durations[payload]["value"]
        stall_ps = start_ps - max(could_ps, server["free_ps"])
        row["credit_stall_ps"] += stall_ps
        started_bytes += durations[payload]["value"]
        server["free_ps"] = start_ps + serialization_ps
        row["queue_first"] = packet["next"]
        arbiter["picked"] = NONE
        arbiter["served"] = vc - channel
        if packet["injected_ps"] < 0:
            note_way(state, int64(server["first_part"]) + int64(packet["message"]), lead_ps, stall_ps)
        pass_on(
            state,
            domain,
            vc,
            start_ps,
            packet["injected_ps"],
            int64(packet["message"]),
            int64(packet["destination"]),
            payload,
            index,
        )
        leave_buffer(state, domain, index, came_by, start_ps + serialization_ps)
    if adapts(state):
        state.backlogs[channel]["queued_bytes"] -= started_bytes
    state.wakes[channel]["wake_ps"] = wake_ps


@jit
def serve_output(state: State, domain: int, channel: int, until_ps: int) -> None:
    """Start what the switch output *channel* can start before *until_ps*; note when to look again.

    Outputs do not see each other: each does its whole window on its own, if no adaptive choice asks it before.
    """
    if PLAIN or vc_mask(state) == 0:
        serve_queue(state, domain, channel, until_ps)
    else:
        serve_vcs(state, domain, channel, until_ps)


@jit
def backlog_of(state: State, output: int) -> int:
    """Return the wire bytes that wait for *output*, of a detour counted twice: its way is about twice as long."""
    server = server_of(state, output)
    queued_bytes = state.backlogs[server]["queued_bytes"]
    return 2 * queued_bytes + 1 if state.clock[0]["detours"] == 1 and output != server else queued_bytes


@jit
def adapt_output(state: State, domain: int, index: int) -> int:
    """Route a packet whose head arrives, after all that arrived before it (docs/physics.md, section 6)."""
    packet = state.packets[index]
    now_ps = packet["time_ps"]
    came_by = int64(packet["channel"])
    row = state.channels[server_of(state, came_by)]
    route = state.routes[int64(state.channels[came_by]["route_row"]) + int64(packet["destination"])]
    count = int64(route["count"])
    first = int64(route["first"])
    first_output = int64(row["first_output"]) + kept_vc(state, came_by)
    if count == 1:
        return first_output + int64(state.candidates[first]["output"])
    choice = row["spray_counter"] % count
    row["spray_counter"] += 1
    most_bytes = NEVER
    for place in range(first, first + count):
        output = first_output + int64(state.candidates[place]["output"])
        server = server_of(state, output)
        if state.wakes[server]["wake_ps"] < now_ps:
            serve_output(state, domain, server, now_ps)
        most_bytes = min(most_bytes, backlog_of(state, output))
    if state.clock[0]["detours"] == 0:
        most_bytes += ADAPTIVE_SLACK * state.durations[state.clock[0]["max_payload_bytes"]]["value"]
    while backlog_of(state, first_output + int64(state.candidates[first + choice]["output"])) > most_bytes:
        choice += 1
        if choice == count:
            choice = ZERO
    return first_output + int64(state.candidates[first + choice]["output"])


@jit
def route_arrivals(state: State, domain: int, channel: int, inbox_index: int, window_end_ps: int) -> None:
    """Route what reaches the switch of *channel*, its first output, in this window, and queue it at its outputs."""
    end = sort_arrivals(state, domain, channel, inbox_index, window_end_ps)
    for place in range(state.domains[domain]["first_key"], end):
        index = state.keys[place]["key"] & INDEX_MASK
        output = adapt_output(state, domain, index)
        packet = state.packets[index]
        queue_packet(state, output, index)
        state.backlogs[server_of(state, output)]["queued_bytes"] += state.durations[int64(packet["payload_bytes"])][
            "value"
        ]
        # The outputs of a switch come after its first one, so it is looked at in this window.
        wake_channel(state, domain, output, packet["time_ps"])


# --- terminals -----------------------------------------------------------------------------------------------------


@jit
def add_timer(state: State, terminal: int, time_ps: int, kind: int, subject: int) -> None:
    """Note that something happens at *terminal* at *time_ps*."""
    clock = state.clock[0]
    timers = state.timers
    fresh = int64(clock["free_timer"])
    clock["free_timer"] = timers[fresh]["next"]
    timers[fresh]["time_ps"] = time_ps
    timers[fresh]["kind"] = kind
    timers[fresh]["subject"] = subject
    # Most come near the one before: search from there.
    before = int64(state.terminals[terminal]["recent_timer"])
    after = NONE
    if before != NONE:
        after = int64(timers[before]["next"])
    while before != NONE and timers[before]["time_ps"] > time_ps:
        after = before
        before = int64(timers[before]["previous"])
    while after != NONE and timers[after]["time_ps"] <= time_ps:
        before = after
        after = int64(timers[after]["next"])
    timers[fresh]["next"] = after
    timers[fresh]["previous"] = before
    if after != NONE:
        timers[after]["previous"] = fresh
    if before == NONE:
        state.terminals[terminal]["first_timer"] = fresh
    else:
        timers[before]["next"] = fresh
    state.terminals[terminal]["recent_timer"] = fresh


@jit
def send_part(state: State, message: int, first_injection_ps: int, sent_ps: int) -> None:
    """Count one share of a message as sent."""
    row = state.messages[message]
    row["first_injection_ps"] = min(row["first_injection_ps"], first_injection_ps)
    row["sent_ps"] = max(row["sent_ps"], sent_ps)
    row["shares_left"] -= 1
    if row["shares_left"] == 0:
        add_timer(state, int64(row["source"]), row["sent_ps"], MESSAGE_SENT, message)


@jit
def complete_part(state: State, message: int, complete_ps: int) -> None:
    """Count one share of a message as complete."""
    row = state.messages[message]
    row["complete_ps"] = max(row["complete_ps"], complete_ps)
    row["parts_left"] -= 1
    if row["parts_left"] == 0:
        add_timer(state, int64(row["destination"]), row["complete_ps"], MESSAGE_COMPLETE, message)


@jit
def end_task(state: State, task: int, now_ps: int) -> None:
    """End a task and let begin the tasks that wait for nothing else."""
    tasks = state.tasks
    row = tasks[task]
    row["end_ps"] = now_ps
    state.clock[0]["tasks_left"] -= 1
    edge = int64(row["first_successor"])
    while edge != NONE:
        successor = int64(state.successors[edge]["task"])
        edge = int64(state.successors[edge]["next"])
        after = tasks[successor]
        after["waiting"] -= 1
        if after["waiting"] == 0:
            after["begin_ps"] = max(now_ps, after["not_before_ps"]) + after["gap_ps"]
            start_ps = after["begin_ps"] + after["launch_ps"]
            add_timer(state, int64(after["terminal"]), start_ps, TASK_STARTS, successor)


@jit
def finish_part(state: State, task: int, now_ps: int) -> None:
    """Count one message of a task as sent or complete."""
    row = state.tasks[task]
    row["pending"] -= 1
    if row["pending"] == 0 and row["started"] == 1:
        end_task(state, task, now_ps)


@jit
def uses_plane(state: State, message: int, injector: int, position: int) -> bool:
    """Tell whether a share of *message* goes over the plane of *injector*, at *position* in its bundle."""
    row = state.messages[message]
    num_members = int64(state.bundles[row["bundle"]]["num_members"])
    if not PLAIN:
        place = state.places[int64(row["first_place"]) + injector]
        position = int64(place["position"])
        num_members = int64(place["num_members"])
    distance = position - int64(row["first_plane"])
    if distance < 0:
        distance += num_members
    return distance < int64(row["num_shares"])


@jit
def queue_message(state: State, message: int, now_ps: int) -> None:
    """Put a message that is ready into its bundle's list and wake the injectors that it uses.

    The list is sorted by (ready time, operation, index), the last two as the message's number says.
    So only messages of this instant can stand behind the new one, and no injector has looked at those yet.
    """
    messages = state.messages
    row = messages[message]
    bundle = state.bundles[row["bundle"]]
    if bundle["ready_ps"] != now_ps:
        bundle["ready_ps"] = now_ps
        bundle["anchor"] = bundle["last_ready"]
        bundle["instant_first"] = NONE
    before = int64(bundle["last_ready"])
    after = NONE
    if bundle["instant_first"] != NONE and row["number"] < messages[before]["number"]:
        before = int64(bundle["anchor"])
        after = int64(bundle["instant_first"])
        while messages[after]["number"] < row["number"]:
            before = after
            after = int64(messages[before]["next_ready"])
    else:
        bundle["last_ready"] = message
    if before != NONE:
        messages[before]["next_ready"] = message
    if after == bundle["instant_first"]:
        bundle["instant_first"] = message
    row["next_ready"] = after
    for position in range(int64(bundle["num_members"])):
        injector = int64(state.members[bundle["first_member"] + position]["injector"])
        server = state.injectors[injector]
        if server["next_message"] == after:
            server["next_message"] = message
        if uses_plane(state, message, injector, position):
            channel = int64(server["channel"])
            wake_channel(state, int64(server["domain"]), channel, max(now_ps, state.channels[channel]["free_ps"]))


@jit
def release_message(state: State, message: int, now_ps: int) -> None:
    """End one wait of a message; with the last it becomes ready.

    A message without packets is done at once, by timers of this instant: they keep the call depth flat.
    """
    row = state.messages[message]
    row["waiting"] -= 1
    if row["waiting"] > 0:
        return
    state.clock[0]["waits_left"] -= 1
    row["ready_ps"] = now_ps
    if row["share_bytes"] > 0:
        queue_message(state, message, now_ps)
        return
    row["first_injection_ps"] = now_ps
    row["sent_ps"] = now_ps
    row["complete_ps"] = now_ps
    source = int64(row["source"])
    add_timer(state, source, now_ps, MESSAGE_SENT, message)
    if source == row["destination"]:
        add_timer(state, source, now_ps, MESSAGE_COMPLETE, message)


@jit
def handle_timer(state: State, terminal: int) -> None:
    """Do what the first timer of *terminal* says."""
    clock = state.clock[0]
    index = int64(state.terminals[terminal]["first_timer"])
    timer = state.timers[index]
    now_ps = timer["time_ps"]
    subject = int64(timer["subject"])
    kind = timer["kind"]
    after = int64(timer["next"])
    state.terminals[terminal]["first_timer"] = after
    if after != NONE:
        state.timers[after]["previous"] = NONE
    if state.terminals[terminal]["recent_timer"] == index:
        state.terminals[terminal]["recent_timer"] = after
    timer["next"] = clock["free_timer"]
    clock["free_timer"] = index
    if kind == TASK_STARTS:
        task = state.tasks[subject]
        task["started"] = 1
        clock["waits_left"] -= 1
        first = int64(task["sends_first"])
        for place in range(first, first + int64(task["sends_count"])):
            release_message(state, int64(state.sends[place]["message"]), now_ps)
        if task["pending"] == 0:
            end_task(state, subject, now_ps)
        return
    message = state.messages[subject]
    if kind == MESSAGE_SENT:
        first = int64(message["after_sent_first"])
        stop = first + int64(message["after_sent_count"])
        task_index = int64(message["source_task"])
    else:
        first = int64(message["after_complete_first"])
        stop = first + int64(message["after_complete_count"])
        task_index = int64(message["target_task"])
    for place in range(first, stop):
        release_message(state, int64(state.followers[place]["message"]), now_ps)
    finish_part(state, task_index, now_ps)


@jit
def share_bytes_of(state: State, injector: int, message: int) -> int:
    """Return what the share of a message that an injector sends is cut and timed as (docs/physics.md, section 7)."""
    bytes_ = int64(state.messages[message]["share_bytes"])
    if PLAIN or state.messages[message]["weights"] == 0:
        return bytes_
    weights = int64(state.messages[message]["weights"])
    weight = int64(state.injectors[injector]["weight"])
    return bytes_ // weights * weight + (bytes_ % weights * weight + weights - 1) // weights


@jit
def fill_slots(state: State, domain: int, injector: int, now_ps: int) -> None:
    """Let ready shares take the free slots.

    The injector is looked at only when its channel is free, so slots may have been free, and shares ready, for some
    time: each share takes the slot that has been free longest, at the later of both times.
    """
    owner = state.domains[domain]
    row = state.injectors[injector]
    shares = state.shares
    while row["fresh_slots"] > 0 or row["freed_first"] != NONE:
        if acks(state) and row["fresh_slots"] == 0 and shares[row["freed_first"]]["until_ps"] > now_ps:
            return  # it will be free
        message_index = int64(row["next_message"])
        while message_index != NONE and not uses_plane(state, message_index, injector, int64(row["position"])):
            message_index = int64(state.messages[message_index]["next_ready"])
        row["next_message"] = message_index
        if message_index == NONE:
            return
        message = state.messages[message_index]
        row["next_message"] = message["next_ready"]
        taken_ps = message["ready_ps"]
        if row["fresh_slots"] > 0:
            row["fresh_slots"] -= 1
            index = int64(owner["free_share"])
            owner["free_share"] = shares[index]["next"]
        else:
            index = int64(row["freed_first"])
            row["freed_first"] = shares[index]["next"]
            taken_ps = max(taken_ps, shares[index]["until_ps"])
        share = shares[index]
        share["until_ps"] = taken_ps + state.clock[0]["message_overhead_ps"]
        share["endpoint_ps"] = share["until_ps"] - message["ready_ps"]
        share["serialization_ps"] = 0
        share["bytes_left"] = share_bytes_of(state, injector, message_index)
        share["message"] = message_index
        share["destination"] = message["destination"]
        share["vc"] = message["vc"]
        if not PLAIN:
            share["payload_bytes"] = state.clock[0]["max_payload_bytes"]
            if message["group"] != NONE:
                share["payload_bytes"] = state.groups[int64(message["group"])]["payload_bytes"]
        share["started"] = 0
        share["joined"] = 2 * taken_ps
        share["next"] = NONE
        if row["waiting_first"] == NONE:
            row["waiting_first"] = index
            row["wait_end_ps"] = share["until_ps"]
        else:
            shares[row["waiting_last"]]["next"] = index
        row["waiting_last"] = index


@jit
def end_waits(state: State, injector: int, now_ps: int) -> None:
    """Let the shares whose wait is over take the places in the ring that they hold since they took their slots.

    They stand before all that went to the back later. To skip them in the ring while they wait would take a walk per
    packet.
    """
    row = state.injectors[injector]
    shares = state.shares
    while row["wait_end_ps"] <= now_ps:
        index = int64(row["waiting_first"])
        share = shares[index]
        row["waiting_first"] = share["next"]
        row["wait_end_ps"] = NEVER
        if share["next"] != NONE:
            row["wait_end_ps"] = shares[share["next"]]["until_ps"]
        before = NONE
        after = int64(row["ring_first"])
        while after != NONE and shares[after]["joined"] <= share["joined"]:
            before = after
            after = int64(shares[after]["next"])
        share["next"] = after
        if before == NONE:
            row["ring_first"] = index
        else:
            shares[before]["next"] = index
        if after == NONE:
            row["ring_last"] = index


@jit
def blocked_since(state: State, injector: int) -> int:
    """Return since when a share in the ring could start but for room: when the first of their waits ended."""
    since_ps = NEVER
    index = int64(state.injectors[injector]["ring_first"])
    while index != NONE:
        since_ps = min(since_ps, state.shares[index]["until_ps"])
        index = int64(state.shares[index]["next"])
    return since_ps


@jit
def acks(state: State) -> bool:
    """Whether a share holds its slot until its delivery is known at its source."""
    return not PLAIN and state.clock[0]["acked"] == 1


@jit
def free_slot(state: State, injector: int, index: int, free_ps: int) -> None:
    """Put the slot of a share among those that are free, or will be: it is from *free_ps* on."""
    row = state.injectors[injector]
    shares = state.shares
    before = NONE
    after = NONE
    if row["freed_first"] != NONE:
        before = int64(row["freed_last"])
        if acks(state) and shares[before]["until_ps"] > free_ps:
            before = NONE
            after = int64(row["freed_first"])
            while shares[after]["until_ps"] <= free_ps:
                before = after
                after = int64(shares[after]["next"])
    shares[index]["until_ps"] = free_ps
    shares[index]["next"] = after
    if before == NONE:
        row["freed_first"] = index
    else:
        shares[before]["next"] = index
    if after == NONE:
        row["freed_last"] = index


@jit
def answer_share(state: State, domain: int, part: int) -> None:
    """Free the slot of a share whose last delivery is known, if it is sent: once its source knows of both.

    That is one latency of a channel after the start on the last one, or later: not in this window.
    """
    ack = state.acks[part]
    if ack["share"] == NONE:
        return
    index = int64(ack["share"])
    injector = int64(ack["injector"])
    ack["share"] = NONE
    free_ps = max(state.shares[index]["until_ps"], state.parts[part]["complete_ps"] + ack["way_ps"])
    free_slot(state, injector, index, free_ps)
    channel = int64(state.injectors[injector]["channel"])
    wake_channel(state, domain, channel, max(free_ps, state.channels[channel]["free_ps"]))


@jit
def way_back_ps(state: State, channel: int, destination: int) -> int:
    """Return the latencies of the way that begins with *channel* and takes the first candidate at each switch."""
    row = state.channels[channel]
    way_ps = row["latency_ps"]
    while row["route_row"] != NONE:
        route = state.routes[int64(row["route_row"]) + destination]
        row = state.channels[int64(row["first_output"]) + int64(state.candidates[int64(route["first"])]["output"])]
        way_ps += row["latency_ps"]
    return int64(way_ps)


@jit
def end_share(state: State, domain: int, injector: int, index: int, sent_ps: int) -> None:
    """End a share whose last packet has started; the injection time of that packet ends at *sent_ps*."""
    owner = state.domains[domain]
    row = state.injectors[injector]
    message = int64(state.shares[index]["message"])
    first_injection_ps = state.shares[index]["first_injection_ps"]
    part = state.channels[row["channel"]]["first_part"] + message
    state.parts[part]["sent_ps"] = sent_ps
    if acks(state) and state.messages[message]["group"] == NONE:
        state.shares[index]["until_ps"] = sent_ps
        ack = state.acks[part]
        ack["share"] = index
        ack["injector"] = injector
        ack["way_ps"] = way_back_ps(state, int64(row["channel"]), int64(state.shares[index]["destination"]))
        if state.counts[part]["packets_left"] == 0:
            answer_share(state, domain, part)
    else:
        free_slot(state, injector, index, sent_ps)
    if state.clock[0]["defers"] == 1:
        ended = state.sent[part - message + int64(owner["num_sent"])]
        ended["first_injection_ps"] = first_injection_ps
        ended["sent_ps"] = sent_ps
        ended["message"] = message
        owner["num_sent"] += 1
    else:
        send_part(state, message, first_injection_ps, sent_ps)


@jit
def vc_of_share(state: State, channel: int, index: int) -> int:
    """Return the virtual channel, of those of *channel*, that the packets of a share take."""
    return channel if PLAIN else channel + int64(state.shares[index]["vc"])


@jit
def next_payload(state: State, index: int, max_payload_bytes: int) -> int:
    """Return the payload of the next packet of a share."""
    share = state.shares[index]
    return min(share["bytes_left"], max_payload_bytes if PLAIN else int64(share["payload_bytes"]))


@jit
def last_packet_of(state: State, channel: int, index: int, payload: int) -> int:
    """Return whose last packet the next one of a share on *channel* is, or NONE; *payload* is what it carries.

    The carrier of a reduction brings packets for all messages of its group; its own are every so many.
    """
    message = int64(state.shares[index]["message"])
    if not PLAIN and relays_any(state) and state.messages[message]["group"] != NONE:
        group = state.groups[int64(state.messages[message]["group"])]
        sources = int64(group["sources"])
        if sources > 1:
            plane = int64(state.channels[channel]["first_part"]) // state.clock[0]["num_messages"]
            place = message - int64(group["first"])
            row = int64(group["first_contribution"]) + plane * sources + place
            number = state.contributions[row]["packets"]
            packets = int64(group["packets"])
            if number % sources != place or number // sources % packets != packets - 1:
                return NONE
            return message + number // (sources * packets) * sources
    return message if state.shares[index]["bytes_left"] == payload else NONE


@jit
def note_injection(state: State, channel: int, index: int, message: int, now_ps: int) -> None:
    """Note what became of the time of a share of *message* until its last packet starts on *channel*, now."""
    share = state.shares[index]
    part = state.parts[int64(state.channels[channel]["first_part"]) + message]
    part["last_injection_ps"] = now_ps
    part["endpoint_ps"] = share["endpoint_ps"]
    part["serialization_ps"] = share["serialization_ps"]
    part["credit_stall_ps"] = state.channels[channel]["credit_stall_ps"] - share["stalled_before_ps"]


@jit
def serve_injector(state: State, domain: int, channel: int, until_ps: int) -> None:
    """Let a free injection channel pick (docs/physics.md, section 8), again and again before *until_ps*.

    Notes when to look at it again.
    """
    channels = state.channels
    num_vcs = vc_mask(state) + 1
    row = channels[channel]
    injector = int64(row["injector"])
    server = state.injectors[injector]
    shares = state.shares
    durations = state.durations
    max_payload_bytes = state.clock[0]["max_payload_bytes"]
    for vc in range(channel, channel + num_vcs):
        come_to_bin(state, domain, vc)
    now_ps = state.wakes[channel]["wake_ps"]
    while now_ps < until_ps:
        if server["next_message"] != NONE:
            fill_slots(state, domain, injector, now_ps)
        if server["wait_end_ps"] <= now_ps:
            end_waits(state, injector, now_ps)
        for vc in range(channel, channel + num_vcs):
            channels[vc]["room_bytes"] += take_credits(state, domain, vc, now_ps)
        before = NONE
        index = int64(server["ring_first"])
        payload = ZERO
        wire_bytes = ZERO
        while index != NONE:
            payload = next_payload(state, index, max_payload_bytes)
            wire_bytes = durations[payload]["value"]
            vc = vc_of_share(state, channel, index)
            if channels[vc]["room_bytes"] >= wire_bytes:
                break
            channels[vc]["blocked"] = 1
            row["blocked"] = 1  # it stands for any of them
            before = index
            index = int64(shares[index]["next"])
        if not PLAIN and index != NONE and state.clock[0]["arbitration"] == PRIORITY:
            # Look on for one of a lower virtual channel.
            behind = index
            after = int64(shares[index]["next"])
            while after != NONE:
                share = shares[after]
                payload_after = next_payload(state, after, max_payload_bytes)
                room_bytes = channels[vc_of_share(state, channel, after)]["room_bytes"]
                if share["vc"] < shares[index]["vc"] and room_bytes >= durations[payload_after]["value"]:
                    before = behind
                    index = after
                    payload = payload_after
                    wire_bytes = durations[payload]["value"]
                behind = after
                after = int64(share["next"])
        if index == NONE:
            now_ps = server["wait_end_ps"]
            if acks(state) and server["next_message"] != NONE and server["freed_first"] != NONE:
                now_ps = min(now_ps, shares[server["freed_first"]]["until_ps"])
            for vc in range(channel, channel + num_vcs):
                if channels[vc]["blocked"] == 1 and channels[vc]["credit_first"] != NONE:
                    now_ps = min(now_ps, state.packets[channels[vc]["credit_first"]]["time_ps"])
            continue

        stall_ps = ZERO
        if row["blocked"] == 1:
            for vc in range(channel, channel + num_vcs):
                channels[vc]["blocked"] = 0
            stall_ps = now_ps - max(blocked_since(state, injector), row["free_ps"])
            row["credit_stall_ps"] += stall_ps
        share = shares[index]
        message = int64(share["message"])
        vc = vc_of_share(state, channel, index)
        buffer = channels[vc]
        buffer["room_bytes"] -= wire_bytes
        buffer["least_room_bytes"] = min(buffer["least_room_bytes"], buffer["room_bytes"])
        row["packets"] += 1
        serialization_ps = durations[row["serialization_row"] + payload]["value"]
        injection_ps = durations[server["injection_row"] + payload]["value"]
        row["busy_ps"] += serialization_ps
        row["wire_bytes"] += wire_bytes
        free_ps = now_ps + injection_ps
        row["free_ps"] = free_ps
        if share["started"] == 0:
            share["started"] = 1
            share["stalled_before_ps"] = row["credit_stall_ps"] - min(stall_ps, now_ps - share["until_ps"])
            share["first_injection_ps"] = now_ps
        injected_ps = now_ps
        last_of = last_packet_of(state, channel, index, payload)
        if last_of != NONE:
            note_injection(state, channel, index, last_of, now_ps)
            injected_ps = ~ZERO
        share["serialization_ps"] += serialization_ps
        share["endpoint_ps"] += injection_ps - serialization_ps
        pass_on(state, domain, vc, now_ps, injected_ps, message, int64(share["destination"]), payload, NONE)
        share["bytes_left"] -= payload
        share["joined"] = 2 * now_ps + 1
        after = int64(share["next"])
        if share["bytes_left"] == 0 or after != NONE:
            # Take the share out of the ring.
            if before == NONE:
                server["ring_first"] = after
            else:
                shares[before]["next"] = after
            if after == NONE:
                server["ring_last"] = before
            if share["bytes_left"] == 0:
                end_share(state, domain, injector, index, free_ps)
            else:
                shares[server["ring_last"]]["next"] = index
                share["next"] = NONE
                server["ring_last"] = index
        now_ps = NEVER
        if server["ring_first"] != NONE or server["waiting_first"] != NONE or server["next_message"] != NONE:
            now_ps = free_ps
    state.wakes[channel]["wake_ps"] = now_ps


@jit
def process_terminal(state: State, terminal: int, window_end_ps: int) -> None:
    """Process all that happens at a terminal in this window, in time order, where all planes are one domain."""
    row = state.terminals[terminal]
    wakes = state.wakes
    first = int64(row["first_injector"])
    while True:
        wake_ps = NEVER
        earliest = NONE
        for injector in range(first, first + int64(row["num_injectors"])):
            channel = int64(state.injectors[injector]["channel"])
            if wakes[channel]["wake_ps"] < wake_ps:
                wake_ps = wakes[channel]["wake_ps"]
                earliest = channel
        timer_ps = NEVER
        if row["first_timer"] != NONE:
            timer_ps = state.timers[row["first_timer"]]["time_ps"]
        if min(timer_ps, wake_ps) >= window_end_ps:
            return
        # Completions come before picks within one instant.
        if timer_ps <= wake_ps:
            handle_timer(state, terminal)
        else:
            serve_injector(state, ZERO, earliest, wake_ps + 1)


# --- the run -------------------------------------------------------------------------------------------------------


@jit
def earliest_wake(state: State, domain: int) -> int:
    """Return a time before which no channel of a domain has work that no inbox announces; NEVER is exact."""
    first = state.domains[domain]["first_bank"]
    wake_ps = NEVER
    for bank in range(first, first + state.domains[domain]["num_banks"]):
        wake_ps = min(wake_ps, state.banks[bank]["wake_ps"])
    return wake_ps


@jit
def earliest_timer(state: State) -> int:
    """Return when the first thing happens that takes no packet."""
    time_ps = NEVER
    for terminal in range(state.clock[0]["num_terminals"]):
        first_timer = int64(state.terminals[terminal]["first_timer"])
        if first_timer != NONE:
            time_ps = min(time_ps, state.timers[first_timer]["time_ps"])
    return time_ps


@jit
def begin_new_tasks(state: State) -> None:
    """Let begin the tasks that were admitted and wait for no others."""
    clock = state.clock[0]
    task = int64(clock["new_task"])
    while task != NONE:
        row = state.tasks[task]
        add_timer(state, int64(row["terminal"]), row["begin_ps"] + row["launch_ps"], TASK_STARTS, task)
        task = int64(row["next_new"])
    clock["new_task"] = NONE


@jit
def open_epoch(state: State) -> int:
    """Set the epoch to the earliest thing that can happen and return SLICE.

    Otherwise returns DONE, STALLED, TIME_LIMIT, NEED_WORK or HALT.
    """
    clock = state.clock[0]
    begin_new_tasks(state)
    start_ps = NEVER
    for domain in range(clock["num_domains"]):
        if state.domains[domain]["arriving"] > 0:
            start_ps = clock["epoch_end_ps"]
            break
    if start_ps == NEVER:
        start_ps = earliest_timer(state)
        for domain in range(clock["num_domains"]):
            start_ps = min(start_ps, earliest_wake(state, domain))
        if start_ps == NEVER:
            if clock["more_work"] == 1:
                return NEED_WORK
            for domain in range(clock["num_domains"]):
                come_home(state, domain)
            if clock["tasks_left"] == 0:
                return DONE
            return STALLED
    # A message that became ready in the last epoch can ask for a look back; nothing starts before that epoch's end.
    start_ps = max(start_ps, clock["epoch_end_ps"])
    if not PLAIN and start_ps >= clock["halt_ps"]:
        if clock["admit_ps"] < clock["halt_ps"]:  # what the next block begins comes before the halt
            return NEED_WORK
        return HALT
    if start_ps >= clock["limit_ps"]:
        return TIME_LIMIT
    start_ps = (start_ps >> clock["window_shift"]) << clock["window_shift"]
    end_ps = start_ps + (clock["epoch_windows"] << clock["window_shift"])
    if end_ps > clock["admit_ps"]:
        return NEED_WORK
    if clock["defers"] == 1 and clock["waits_left"] == 0 and clock["more_work"] == 0:
        end_ps = NEVER
    if not PLAIN:
        end_ps = min(end_ps, clock["halt_ps"])
    clock["epoch_start_ps"] = start_ps
    clock["epoch_end_ps"] = end_ps
    clock["epoch_open"] = 1
    return SLICE


@jit
def come_home(state: State, domain: int) -> None:
    """Take all credits of a domain in which nothing can happen any more."""
    first = state.domains[domain]["first_channel"]
    for channel in range(first, first + state.domains[domain]["num_channels"]):
        state.channels[channel]["room_bytes"] += take_credits(state, domain, channel, NEVER)


@jit
def serve_bank(state: State, domain: int, bank: int, window_end_ps: int) -> bool:
    """Serve the channels of a bank in this window; return False, with the rest still to do, if packets run short."""
    clock = state.clock[0]
    row = state.domains[domain]
    wakes = state.wakes
    inboxes = state.inboxes
    slot = (row["window_start_ps"] >> clock["window_shift"]) & clock["wheel_mask"]
    first = row["first_channel"] + ((bank - row["first_bank"]) << BANK_SHIFT)
    end = min(first + (1 << BANK_SHIFT), row["first_channel"] + row["num_channels"])
    state.banks[bank]["wake_ps"] = NEVER
    wake_ps = NEVER
    num_vcs = vc_mask(state) + 1
    for channel in range(first, end, num_vcs):
        inbox_index = slot * clock["num_channels"] + channel
        arrives = False
        for vc in range(num_vcs):
            arrives |= inboxes[inbox_index + vc]["packet"] != NONE
        if wakes[channel]["wake_ps"] < window_end_ps or arrives:
            if row["num_free_packets"] < row["max_starts"]:
                state.banks[bank]["wake_ps"] = 0
                return False
            if state.channels[channel]["injector"] != NONE:
                serve_injector(state, domain, channel, window_end_ps)
            else:
                if not PLAIN and arrives and adapts(state):
                    route_arrivals(state, domain, channel, inbox_index, window_end_ps)
                elif arrives:
                    for vc in range(num_vcs):
                        queue_arrivals(state, domain, channel + vc, inbox_index + vc, window_end_ps)
                serve_output(state, domain, channel, window_end_ps)
        wake_ps = min(wake_ps, wakes[channel]["wake_ps"])
    # A credit that came meanwhile may have woken a channel already passed.
    state.banks[bank]["wake_ps"] = min(state.banks[bank]["wake_ps"], wake_ps)
    if PLAIN or window_end_ps & ((int64(1) << clock["window_shift"]) - 1) == 0:
        state.filled[slot * clock["num_banks"] + bank]["inboxes"] = 0
    return True


@jit
def run_domain(state: State, domain: int, max_events: int) -> int:
    """Take the windows of a domain until the end of the epoch or until about *max_events* packets have started.

    Returns DONE at the end of the epoch, SLICE before it, TIME_LIMIT, or PACKETS_FULL: before anything of the next
    terminal or channel has changed.
    """
    clock = state.clock[0]
    row = state.domains[domain]
    shift = clock["window_shift"]
    # Without deferring, terminals are places before the banks.
    num_terminals = ZERO
    if clock["defers"] == 0:
        num_terminals = clock["num_terminals"]
    num_places = num_terminals + row["num_banks"]
    hops_end = row["hops"] + max_events
    row["window_start_ps"] = max(row["window_start_ps"], clock["epoch_start_ps"])
    while row["window_start_ps"] < clock["epoch_end_ps"]:
        if row["next_place"] == 0:
            if row["hops"] >= hops_end:
                return SLICE
            if row["arriving"] == 0:
                wake_ps = earliest_wake(state, domain)
                if num_terminals > 0:
                    wake_ps = min(wake_ps, earliest_timer(state))
                if wake_ps >= clock["epoch_end_ps"]:
                    break
                row["window_start_ps"] = max(row["window_start_ps"], (wake_ps >> shift) << shift)
            if row["window_start_ps"] >= clock["limit_ps"]:
                return TIME_LIMIT
        window_end_ps = row["window_start_ps"] + (int64(1) << shift)
        if not PLAIN:  # a halt cuts a window in two
            window_end_ps = min(((row["window_start_ps"] >> shift) + 1) << shift, clock["halt_ps"])
        find_bin(state, domain)
        first_filled = ((row["window_start_ps"] >> shift) & clock["wheel_mask"]) * clock["num_banks"]
        for place in range(row["next_place"], num_terminals):
            if row["num_free_packets"] < row["max_starts"]:
                row["next_place"] = place
                return PACKETS_FULL
            process_terminal(state, place, window_end_ps)
        for place in range(max(row["next_place"], num_terminals), num_places):
            bank = row["first_bank"] + place - num_terminals
            if state.banks[bank]["wake_ps"] >= window_end_ps and state.filled[first_filled + bank]["inboxes"] == 0:
                continue
            if not serve_bank(state, domain, bank, window_end_ps):
                row["next_place"] = place
                return PACKETS_FULL
        row["next_place"] = 0
        row["window_start_ps"] = window_end_ps
    if clock["epoch_end_ps"] != NEVER:
        row["window_start_ps"] = clock["epoch_end_ps"]
    return DONE


@jit
def end_parts(state: State) -> None:
    """Count the shares that became sent or complete in the epoch."""
    clock = state.clock[0]
    for domain in range(clock["num_domains"]):
        row = state.domains[domain]
        first = domain * clock["num_messages"]  # its parts, for it is a plane
        for place in range(first, first + int64(row["num_sent"])):
            sent = state.sent[place]
            send_part(state, int64(sent["message"]), sent["first_injection_ps"], sent["sent_ps"])
        row["num_sent"] = 0
        for place in range(first, first + int64(row["num_complete"])):
            complete = state.complete[place]
            complete_part(state, int64(complete["message"]), complete["complete_ps"])
        row["num_complete"] = 0


@jit
def close_epoch(state: State) -> int:
    """Handle what became sent and complete in the epoch, in time order at each terminal, and return SLICE.

    Returns NEED_WORK, to be called again, before a task starts for which tasks wait that are not admitted.
    """
    clock = state.clock[0]
    if clock["defers"] == 1:
        end_parts(state)
        for terminal in range(clock["num_terminals"]):
            first_timer = int64(state.terminals[terminal]["first_timer"])
            while first_timer != NONE and state.timers[first_timer]["time_ps"] < clock["epoch_end_ps"]:
                timer = state.timers[first_timer]
                if timer["kind"] == TASK_STARTS and state.tasks[int64(timer["subject"])]["awaited"] == 1:
                    return NEED_WORK
                handle_timer(state, terminal)
                first_timer = int64(state.terminals[terminal]["first_timer"])
    clock["epoch_open"] = 0
    clock["next_domain"] = 0
    return SLICE


@jit
def run(state: State, part: int, max_events: int) -> int:
    """Process epochs until about *max_events* packets have started; return a Code.

    A slice ends between two windows of a domain. PACKETS_FULL can come between two places of a window, before
    anything of the next place has changed; call again after growing.

    *part* is WHOLE, or for threads that share an epoch: OPEN (``open_epoch`` alone), a domain (``run_domain`` alone) or
    CLOSE (``close_epoch`` alone). One entry and one call of each, because each call is inlined and
    compiled again.
    """
    clock = state.clock[0]
    events = ZERO
    while True:
        if part == OPEN or (part == WHOLE and clock["epoch_open"] == 0):
            if part == WHOLE and events >= max_events:
                return SLICE
            code = open_epoch(state)
            if part == OPEN or code != SLICE:
                return code
        while part != CLOSE and clock["next_domain"] < clock["num_domains"]:
            domain = clock["next_domain"] if part == WHOLE else part
            before = state.domains[domain]["hops"]
            code = run_domain(state, domain, max_events - events)
            if part != WHOLE or code != DONE:
                return code
            events += state.domains[domain]["hops"] - before
            clock["next_domain"] += 1
        code = close_epoch(state)
        if part == CLOSE or code != SLICE:
            return code
