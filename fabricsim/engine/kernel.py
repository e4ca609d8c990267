"""The kernel: how packets move (docs/physics.md), in bounded-lag windows.

Every influence crosses a channel and takes at least the least channel latency D. So in a window of at most D each
node can process all that it will ever receive for that window without looking at another node, and what it
emits lands in later windows. Their order cannot change the result.

Planes influence each other only through messages that become ready, and those wait a message overhead before their
first packet. So ``run`` takes epoch after epoch of at most that length, in each epoch plane after plane (a *domain*),
in each plane window after window, in each window node after node; what became ready is handled when all planes have
ended the epoch. With an overhead of less than a window all planes are one domain, and terminals handle it in time order
with all else.

Functions take the whole ``State``; they never allocate, never validate and never print. The source runs jitted and
un-jitted (``backends.load`` executes the module once with each decorator). All numbers are non-negative
integers, so that floor division means the same in every language.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fabricsim.engine import hashing, layout
from fabricsim.engine._jit import jit
from fabricsim.engine.layout import BLOCK, BLOCK_SHIFT, LATENCY_BUCKETS, LATENCY_SHIFT, Code, Routing, State, TimerKind

if TYPE_CHECKING:
    int64 = int  # as good as, to a type checker
else:
    int64 = np.int64

# The jit takes enum members for objects. It takes plain integers for literals, types of their own, and would compile a
# function again for each; 64-bit integers it takes for what they are.
ZERO, NONE, NEVER = int64(0), int64(layout.NONE), int64(layout.NEVER)
SLICE, DONE, STALLED = int64(Code.SLICE), int64(Code.DONE), int64(Code.STALLED)
ARRIVALS_FULL, CREDITS_FULL = int64(Code.ARRIVALS_FULL), int64(Code.CREDITS_FULL)
PACKETS_FULL, TIME_LIMIT = int64(Code.PACKETS_FULL), int64(Code.TIME_LIMIT)
TASK_STARTS, MESSAGE_SENT = int64(TimerKind.TASK_STARTS), int64(TimerKind.MESSAGE_SENT)
MESSAGE_COMPLETE = int64(TimerKind.MESSAGE_COMPLETE)
SPRAY = int64(Routing.SPRAY)

MASK32 = hashing.MASK32
RUN = 16  # insertion sort up to here, then merges
INDEX_BITS = 31
INDEX_MASK = (1 << INDEX_BITS) - 1


mix32 = jit(hashing.mix32)


# --- inboxes -------------------------------------------------------------------------------------------------------


@jit
def inbox_at(state: State, node: int, time_ps: int) -> int:
    """Return the inbox of *node* for *time_ps*, or its farthest one if that lies beyond the wheel.

    A record that is gathered before its window is put off again; times beyond the wheel are rare.
    """
    clock = state.clock[0]
    window = time_ps >> clock["window_shift"]
    farthest = (clock["window_start_ps"] >> clock["window_shift"]) + clock["wheel_mask"]
    return (min(window, farthest) & clock["wheel_mask"]) * clock["num_nodes"] + node


@jit
def push_arrival(
    state: State, channel: int, time_ps: int, injected_ps: int, message: int, flow: int, destination: int, payload: int
) -> None:
    """Announce a packet head to the node at the end of *channel*."""
    clock = state.clock[0]
    arrival_blocks = state.arrival_blocks
    inbox = state.inboxes[inbox_at(state, int64(state.channels[channel]["target_node"]), time_ps)]
    count = inbox["num_arrivals"]
    block = inbox["last_arrival_block"]
    if count & (BLOCK - 1) == 0:
        fresh = clock["free_arrival_block"]
        clock["free_arrival_block"] = arrival_blocks[fresh]["next"]
        clock["num_free_arrival_blocks"] -= 1
        arrival_blocks[fresh]["next"] = NONE
        if count == 0:
            inbox["first_arrival_block"] = fresh
        else:
            arrival_blocks[block]["next"] = fresh
        inbox["last_arrival_block"] = fresh
        block = fresh
    arrival = state.arrivals[(block << BLOCK_SHIFT) + (count & (BLOCK - 1))]
    arrival["time_ps"] = time_ps
    arrival["injected_ps"] = injected_ps
    arrival["message"] = message
    arrival["channel"] = channel
    arrival["flow"] = flow
    arrival["destination"] = destination
    arrival["payload_bytes"] = payload
    inbox["num_arrivals"] = count + 1
    clock["in_flight"] += 1


@jit
def return_credit(state: State, channel: int, time_ps: int, num_bytes: int) -> None:
    """Give room back to the sender of *channel*, usable from *time_ps* on."""
    clock = state.clock[0]
    credit_blocks = state.credit_blocks
    inbox = state.inboxes[inbox_at(state, int64(state.channels[channel]["source_node"]), time_ps)]
    count = inbox["num_credits"]
    block = inbox["last_credit_block"]
    if count & (BLOCK - 1) == 0:
        fresh = clock["free_credit_block"]
        clock["free_credit_block"] = credit_blocks[fresh]["next"]
        clock["num_free_credit_blocks"] -= 1
        credit_blocks[fresh]["next"] = NONE
        if count == 0:
            inbox["first_credit_block"] = fresh
        else:
            credit_blocks[block]["next"] = fresh
        inbox["last_credit_block"] = fresh
        block = fresh
    credit = state.credits[(block << BLOCK_SHIFT) + (count & (BLOCK - 1))]
    credit["time_ps"] = time_ps
    credit["channel"] = channel
    credit["bytes"] = num_bytes
    inbox["num_credits"] = count + 1
    clock["in_flight"] += 1


@jit
def put_off_arrival(state: State, index: int) -> None:
    """Announce an arrival again that lies beyond this window."""
    arrival = state.arrivals[index]
    push_arrival(
        state,
        int64(arrival["channel"]),
        arrival["time_ps"],
        arrival["injected_ps"],
        int64(arrival["message"]),
        int64(arrival["flow"]),
        int64(arrival["destination"]),
        int64(arrival["payload_bytes"]),
    )


@jit
def gather_arrivals(state: State, inbox_index: int, window_end_ps: int) -> int:
    """Fill ``keys`` with the arrivals of this window, (time, row) each, and put off the others; return how many."""
    inbox = state.inboxes[inbox_index]
    window_start_ps = state.clock[0]["window_start_ps"]
    block = inbox["first_arrival_block"]
    left = inbox["num_arrivals"]
    count = ZERO
    while left > 0:
        first = block << BLOCK_SHIFT
        for index in range(first, first + min(left, BLOCK)):
            time_ps = state.arrivals[index]["time_ps"]
            if time_ps >= window_end_ps:
                put_off_arrival(state, index)
                continue
            state.keys[count]["key"] = ((time_ps - window_start_ps) << INDEX_BITS) | index
            count += 1
        left -= BLOCK
        block = state.arrival_blocks[block]["next"]
    return count


@jit
def gather_credits(state: State, inbox_index: int, window_end_ps: int) -> None:
    """Chain the credits of this window to their channels, each chain in time order; wake blocked injectors."""
    inbox = state.inboxes[inbox_index]
    credits_ = state.credits
    block = inbox["first_credit_block"]
    left = inbox["num_credits"]
    while left > 0:
        first = block << BLOCK_SHIFT
        for index in range(first, first + min(left, BLOCK)):
            credit = credits_[index]
            channel = state.channels[credit["channel"]]
            time_ps = credit["time_ps"]
            if time_ps >= window_end_ps:
                return_credit(state, int64(credit["channel"]), time_ps, int64(credit["bytes"]))
                continue
            last = channel["credit_last"]
            if channel["credit_first"] == NONE:
                credit["next"] = NONE
                channel["credit_first"] = index
                channel["credit_last"] = index
            elif credits_[last]["time_ps"] <= time_ps:
                credit["next"] = NONE
                credits_[last]["next"] = index
                channel["credit_last"] = index
            elif time_ps < credits_[channel["credit_first"]]["time_ps"]:
                credit["next"] = channel["credit_first"]
                channel["credit_first"] = index
            else:
                before = channel["credit_first"]
                after = credits_[before]["next"]
                while credits_[after]["time_ps"] <= time_ps:
                    before = after
                    after = credits_[before]["next"]
                credit["next"] = after
                credits_[before]["next"] = index
            injector = channel["injector"]
            if injector != NONE and state.injectors[injector]["blocked"] == 1:
                state.wakes[injector]["wake_ps"] = min(state.wakes[injector]["wake_ps"], time_ps)
        left -= BLOCK
        block = state.credit_blocks[block]["next"]


@jit
def take_credits(state: State, channel: int, until_ps: int) -> None:
    """Add to the room of *channel* the credits usable at *until_ps*."""
    row = state.channels[channel]
    index = row["credit_first"]
    while index != NONE and state.credits[index]["time_ps"] <= until_ps:
        row["room_bytes"] += state.credits[index]["bytes"]
        index = state.credits[index]["next"]
    row["credit_first"] = index


@jit
def settle_credits(state: State, inbox_index: int, window_end_ps: int) -> None:
    """Take what is left of this window's credits and free their blocks."""
    clock = state.clock[0]
    inbox = state.inboxes[inbox_index]
    left = inbox["num_credits"]
    if left == 0:
        return
    clock["in_flight"] -= left
    block = inbox["first_credit_block"]
    while left > 0:
        first = block << BLOCK_SHIFT
        for index in range(first, first + min(left, BLOCK)):
            take_credits(state, int64(state.credits[index]["channel"]), window_end_ps)
        left -= BLOCK
        after = state.credit_blocks[block]["next"]
        state.credit_blocks[block]["next"] = clock["free_credit_block"]
        clock["free_credit_block"] = block
        clock["num_free_credit_blocks"] += 1
        block = after
    inbox["num_credits"] = 0


@jit
def free_arrivals(state: State, inbox_index: int) -> None:
    """Free the blocks of this window's arrivals."""
    clock = state.clock[0]
    inbox = state.inboxes[inbox_index]
    left = inbox["num_arrivals"]
    clock["in_flight"] -= left
    block = inbox["first_arrival_block"]
    while left > 0:
        left -= BLOCK
        after = state.arrival_blocks[block]["next"]
        state.arrival_blocks[block]["next"] = clock["free_arrival_block"]
        clock["free_arrival_block"] = block
        clock["num_free_arrival_blocks"] += 1
        block = after
    inbox["num_arrivals"] = 0


# --- channels ------------------------------------------------------------------------------------------------------


@jit
def earliest_start(state: State, channel: int, earliest_ps: int, wire_bytes: int, window_end_ps: int) -> int:
    """Return when a switch output can start a packet that may not start before *earliest_ps*.

    A time inside the window is final, and the credits up to it have been taken. A time at or beyond the window's end
    only says when to look again; NEVER says that only a credit can help.
    """
    row = state.channels[channel]
    start_ps = max(earliest_ps, row["free_ps"])
    if start_ps >= window_end_ps:
        return start_ps
    take_credits(state, channel, start_ps)
    while row["room_bytes"] < wire_bytes:
        index = row["credit_first"]
        if index == NONE:
            return NEVER
        start_ps = state.credits[index]["time_ps"]
        take_credits(state, channel, start_ps)
    return start_ps


@jit
def start_packet(
    state: State,
    channel: int,
    start_ps: int,
    stall_ps: int,
    injected_ps: int,
    message: int,
    flow: int,
    destination: int,
    payload: int,
) -> int:
    """Start a packet on *channel* at *start_ps*: reserve room, record, announce the head; return its serialization."""
    row = state.channels[channel]
    wire_bytes = state.durations[payload]["value"]
    serialization_ps = state.durations[row["serialization_row"] + payload]["value"]
    row["room_bytes"] -= wire_bytes
    row["peak_occupancy_bytes"] = max(row["peak_occupancy_bytes"], row["buffer_bytes"] - row["room_bytes"])
    row["busy_ps"] += serialization_ps
    row["wire_bytes"] += wire_bytes
    row["packets"] += 1
    row["credit_stall_ps"] += stall_ps
    push_arrival(state, channel, start_ps + row["latency_ps"], injected_ps, message, flow, destination, payload)
    return serialization_ps


# --- switches ------------------------------------------------------------------------------------------------------


@jit
def forward(
    state: State,
    channel: int,
    start_ps: int,
    earliest_ps: int,
    came_by: int,
    injected_ps: int,
    message: int,
    flow: int,
    destination: int,
    payload: int,
) -> None:
    """Start a packet on the output *channel* of a switch and return its room on the channel that it *came_by*."""
    row = state.channels[channel]
    stall_ps = start_ps - max(earliest_ps, row["free_ps"])
    serialization_ps = start_packet(
        state, channel, start_ps, stall_ps, injected_ps, message, flow, destination, payload
    )
    row["free_ps"] = start_ps + serialization_ps
    usable_ps = start_ps + serialization_ps + state.channels[came_by]["latency_ps"]
    return_credit(state, came_by, usable_ps, state.durations[payload]["value"])


@jit
def serve_queue(state: State, channel: int, window_end_ps: int) -> int:
    """Start what the queue of *channel* can start in this window; return when to look again."""
    clock = state.clock[0]
    row = state.channels[channel]
    index = row["queue_first"]
    while index != NONE:
        packet = state.packets[index]
        payload = int64(packet["payload_bytes"])
        earliest_ps = packet["earliest_ps"]
        start_ps = earliest_start(state, channel, earliest_ps, state.durations[payload]["value"], window_end_ps)
        if start_ps >= window_end_ps:
            return start_ps
        forward(
            state,
            channel,
            start_ps,
            earliest_ps,
            int64(packet["channel"]),
            packet["injected_ps"],
            int64(packet["message"]),
            int64(packet["flow"]),
            int64(packet["destination"]),
            payload,
        )
        after = packet["next"]
        packet["next"] = clock["free_packet"]
        clock["free_packet"] = index
        clock["num_free_packets"] += 1
        row["queue_first"] = after
        index = after
    return NEVER


@jit
def choose_output(state: State, node: int, destination: int, came_by: int, flow: int) -> int:
    """Route a packet at a switch (docs/physics.md, section 6)."""
    row = state.nodes[node]
    route = state.routes[row["route_row"] + destination]
    count = int64(route["count"])
    place = route["first"]
    if count > 1:
        if state.clock[0]["routing"] == SPRAY:
            choice = state.channels[came_by]["spray_counter"]
            state.channels[came_by]["spray_counter"] = choice + 1
        else:
            choice = flow
        place += choice % count
    return row["first_output"] + state.candidates[place]["output"]


@jit
def accept_packet(state: State, node: int, index: int, window_end_ps: int) -> None:
    """Route the packet of arrival *index*; start it at once if its output can, else queue it."""
    arrival = state.arrivals[index]
    came_by = int64(arrival["channel"])
    message = int64(arrival["message"])
    payload = int64(arrival["payload_bytes"])
    flow = int64(arrival["flow"])
    destination = int64(arrival["destination"])
    channel = choose_output(state, node, destination, came_by, flow)
    row = state.channels[channel]
    durations = state.durations
    # A faster output waits so that it never runs dry: e in docs/physics.md, section 5.
    lead_ps = (
        durations[state.channels[came_by]["serialization_row"] + payload]["value"]
        - durations[row["serialization_row"] + payload]["value"]
    )
    earliest_ps = arrival["time_ps"] + max(0, lead_ps)
    if row["queue_first"] == NONE:
        start_ps = earliest_start(state, channel, earliest_ps, durations[payload]["value"], window_end_ps)
        if start_ps < window_end_ps:
            forward(
                state,
                channel,
                start_ps,
                earliest_ps,
                came_by,
                arrival["injected_ps"],
                message,
                flow,
                destination,
                payload,
            )
            return
    clock = state.clock[0]
    fresh = clock["free_packet"]
    packet = state.packets[fresh]
    clock["free_packet"] = packet["next"]
    clock["num_free_packets"] -= 1
    packet["earliest_ps"] = earliest_ps
    packet["injected_ps"] = arrival["injected_ps"]
    packet["message"] = message
    packet["channel"] = came_by
    packet["flow"] = flow
    packet["destination"] = destination
    packet["payload_bytes"] = payload
    packet["next"] = NONE
    if row["queue_first"] == NONE:
        row["queue_first"] = fresh
    else:
        state.packets[row["queue_last"]]["next"] = fresh
    row["queue_last"] = fresh


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
    """Bring ``keys[first : first + count]``, arrivals of one instant, into tie order."""
    keys = state.keys
    arrivals = state.arrivals
    channels = state.channels
    for place in range(first, first + count):
        index = keys[place]["key"] & INDEX_MASK
        tie = mix32(channels[arrivals[index]["channel"]]["tie_key"] ^ (arrivals[index]["time_ps"] & MASK32))
        keys[place]["key"] = (tie << INDEX_BITS) | index
    sort_keys(state, first, count)
    # Equal ties are rare (1 in 2**32); the place decides them.
    for place in range(first + 1, first + count):
        key = keys[place]["key"]
        here = channels[arrivals[key & INDEX_MASK]["channel"]]["place"]
        spot = place
        while (
            spot > first
            and keys[spot - 1]["key"] >> INDEX_BITS == key >> INDEX_BITS
            and channels[arrivals[keys[spot - 1]["key"] & INDEX_MASK]["channel"]]["place"] > here
        ):
            keys[spot]["key"] = keys[spot - 1]["key"]
            spot -= 1
        keys[spot]["key"] = key


@jit
def process_switch(state: State, node: int, inbox_index: int, window_end_ps: int) -> None:
    """Process all that happens at a switch in this window.

    Outputs do not see each other, so each queue is served on its own; then the arrivals come in tie order.
    """
    row = state.nodes[node]
    inbox = state.inboxes[inbox_index]
    channels = state.channels
    gather_credits(state, inbox_index, window_end_ps)
    first_output = row["first_output"]
    end_output = first_output + row["num_outputs"]
    for channel in range(first_output, end_output):
        if channels[channel]["queue_first"] != NONE:
            serve_queue(state, channel, window_end_ps)

    if inbox["num_arrivals"] > 0:
        keys = state.keys
        count = gather_arrivals(state, inbox_index, window_end_ps)
        sort_keys(state, ZERO, count)
        place = ZERO
        while place < count:
            instant = keys[place]["key"] >> INDEX_BITS
            stop = place + 1
            while stop < count and keys[stop]["key"] >> INDEX_BITS == instant:
                stop += 1
            if stop - place > 1:
                break_ties(state, place, stop - place)
            for spot in range(place, stop):
                accept_packet(state, node, keys[spot]["key"] & INDEX_MASK, window_end_ps)
            place = stop
        free_arrivals(state, inbox_index)

    settle_credits(state, inbox_index, window_end_ps)
    wake_ps = NEVER
    for channel in range(first_output, end_output):
        index = channels[channel]["queue_first"]
        if index != NONE:
            packet = state.packets[index]
            if channels[channel]["room_bytes"] >= state.durations[packet["payload_bytes"]]["value"]:
                wake_ps = min(wake_ps, max(packet["earliest_ps"], channels[channel]["free_ps"]))
    row["wake_ps"] = wake_ps


# --- terminals -----------------------------------------------------------------------------------------------------


@jit
def add_timer(state: State, terminal: int, time_ps: int, kind: int, subject: int) -> None:
    """Note that something happens at *terminal* at *time_ps*."""
    clock = state.clock[0]
    timers = state.timers
    fresh = clock["free_timer"]
    clock["free_timer"] = timers[fresh]["next"]
    timers[fresh]["time_ps"] = time_ps
    timers[fresh]["kind"] = kind
    timers[fresh]["subject"] = subject
    after = state.terminals[terminal]["first_timer"]
    if after == NONE or time_ps < timers[after]["time_ps"]:
        timers[fresh]["next"] = after
        state.terminals[terminal]["first_timer"] = fresh
        return
    before = after
    after = timers[before]["next"]
    while after != NONE and timers[after]["time_ps"] <= time_ps:
        before = after
        after = timers[before]["next"]
    timers[fresh]["next"] = after
    timers[before]["next"] = fresh


@jit
def eject_packet(state: State, terminal: int, index: int) -> None:
    """Eject the packet of arrival *index*: the ejection server is a FIFO, so its times are known at once."""
    clock = state.clock[0]
    arrival = state.arrivals[index]
    channel = int64(arrival["channel"])
    message_index = int64(arrival["message"])
    payload = int64(arrival["payload_bytes"])
    row = state.channels[channel]
    end_ps = max(arrival["time_ps"], row["ejection_free_ps"]) + state.durations[row["ejection_row"] + payload]["value"]
    row["ejection_free_ps"] = end_ps
    return_credit(state, channel, end_ps + row["latency_ps"], state.durations[payload]["value"])

    message = state.messages[message_index]
    message["packets_left"] -= 1
    message["complete_ps"] = max(message["complete_ps"], end_ps)
    if message["packets_left"] == 0:
        add_timer(state, terminal, message["complete_ps"], MESSAGE_COMPLETE, message_index)

    latency_ps = end_ps - arrival["injected_ps"]
    clock["delivered_packets"] += 1
    clock["packet_latency_sum_ps"] += latency_ps
    clock["packet_latency_max_ps"] = max(clock["packet_latency_max_ps"], latency_ps)
    shift = 0
    while latency_ps >> shift >= 1 << LATENCY_SHIFT:
        shift += 1
    state.latencies[shift * LATENCY_BUCKETS + (latency_ps >> shift)]["packets"] += 1


@jit
def end_task(state: State, task: int, now_ps: int) -> None:
    """End a task and let begin the tasks that wait for nothing else."""
    tasks = state.tasks
    row = tasks[task]
    row["end_ps"] = now_ps
    state.clock[0]["tasks_left"] -= 1
    for place in range(row["successors_first"], row["successors_first"] + row["successors_count"]):
        successor = int64(state.successors[place]["task"])
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
def uses_plane(state: State, message: int, position: int) -> bool:
    """Tell whether a share of *message* goes over the plane at *position* in its bundle."""
    row = state.messages[message]
    distance = position - row["first_plane"]
    if distance < 0:
        distance += state.bundles[row["bundle"]]["num_members"]
    return distance < row["num_shares"]


@jit
def queue_message(state: State, message: int, now_ps: int) -> None:
    """Put a message that is ready into its bundle's list and wake the injectors that it uses.

    The list is sorted by (ready time, operation, index); rows of ``messages`` are sorted by (operation, index).
    So only messages of this instant can stand behind the new one, and no injector has looked at those yet.
    """
    messages = state.messages
    row = messages[message]
    bundle = state.bundles[row["bundle"]]
    if bundle["ready_ps"] != now_ps:
        bundle["ready_ps"] = now_ps
        bundle["anchor"] = bundle["last_ready"]
        bundle["instant_first"] = NONE
    before = bundle["last_ready"]
    after = NONE
    if bundle["instant_first"] != NONE and message < before:
        before = bundle["anchor"]
        after = bundle["instant_first"]
        while after < message:
            before = after
            after = messages[before]["next_ready"]
    else:
        bundle["last_ready"] = message
    if before != NONE:
        messages[before]["next_ready"] = message
    if after == bundle["instant_first"]:
        bundle["instant_first"] = message
    row["next_ready"] = after
    for position in range(int64(bundle["num_members"])):
        injector = state.members[bundle["first_member"] + position]["injector"]
        server = state.injectors[injector]
        if server["next_message"] == after:
            server["next_message"] = message
        if uses_plane(state, message, position):
            wake_ps = max(now_ps, state.channels[server["channel"]]["free_ps"])
            state.wakes[injector]["wake_ps"] = min(state.wakes[injector]["wake_ps"], wake_ps)
            state.nodes[server["node"]]["wake_ps"] = min(state.nodes[server["node"]]["wake_ps"], wake_ps)


@jit
def release_message(state: State, message: int, now_ps: int) -> None:
    """End one wait of a message; with the last it becomes ready.

    A message without packets is done at once, by timers of this instant: they keep the call depth flat.
    """
    row = state.messages[message]
    row["waiting"] -= 1
    if row["waiting"] > 0:
        return
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
    index = state.terminals[terminal]["first_timer"]
    timer = state.timers[index]
    now_ps = timer["time_ps"]
    subject = int64(timer["subject"])
    kind = timer["kind"]
    state.terminals[terminal]["first_timer"] = timer["next"]
    timer["next"] = clock["free_timer"]
    clock["free_timer"] = index
    if kind == TASK_STARTS:
        task = state.tasks[subject]
        task["started"] = 1
        for place in range(task["sends_first"], task["sends_first"] + task["sends_count"]):
            release_message(state, int64(state.sends[place]["message"]), now_ps)
        if task["pending"] == 0:
            end_task(state, subject, now_ps)
        return
    message = state.messages[subject]
    if kind == MESSAGE_SENT:
        first = message["after_sent_first"]
        stop = first + message["after_sent_count"]
        task_index = int64(message["source_task"])
    else:
        first = message["after_complete_first"]
        stop = first + message["after_complete_count"]
        task_index = int64(message["target_task"])
    for place in range(first, stop):
        release_message(state, int64(state.followers[place]["message"]), now_ps)
    finish_part(state, task_index, now_ps)


@jit
def fill_slots(state: State, injector: int) -> None:
    """Let ready shares take the free slots.

    The injector is looked at only when its channel is free, so slots may have been free, and shares ready, for some
    time: each share takes the slot that has been free longest, at the later of both times.
    """
    clock = state.clock[0]
    row = state.injectors[injector]
    shares = state.shares
    while row["fresh_slots"] > 0 or row["freed_first"] != NONE:
        message_index = int64(row["next_message"])
        while message_index != NONE and not uses_plane(state, message_index, int64(row["position"])):
            message_index = int64(state.messages[message_index]["next_ready"])
        row["next_message"] = message_index
        if message_index == NONE:
            return
        message = state.messages[message_index]
        row["next_message"] = message["next_ready"]
        taken_ps = message["ready_ps"]
        if row["fresh_slots"] > 0:
            row["fresh_slots"] -= 1
            index = clock["free_share"]
            clock["free_share"] = shares[index]["next"]
        else:
            index = row["freed_first"]
            row["freed_first"] = shares[index]["next"]
            taken_ps = max(taken_ps, shares[index]["until_ps"])
        share = shares[index]
        share["until_ps"] = taken_ps + clock["message_overhead_ps"]
        share["bytes_left"] = message["share_bytes"]
        share["message"] = message_index
        share["destination"] = message["destination"]
        share["flow"] = message["flow"]
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
        index = row["waiting_first"]
        share = shares[index]
        row["waiting_first"] = share["next"]
        row["wait_end_ps"] = NEVER
        if share["next"] != NONE:
            row["wait_end_ps"] = shares[share["next"]]["until_ps"]
        before = NONE
        after = row["ring_first"]
        while after != NONE and shares[after]["joined"] <= share["joined"]:
            before = after
            after = shares[after]["next"]
        share["next"] = after
        if before == NONE:
            row["ring_first"] = index
        else:
            shares[before]["next"] = index
        if after == NONE:
            row["ring_last"] = index


@jit
def inject_packet(state: State, injector: int, index: int, now_ps: int) -> bool:
    """Start the next packet of a share; return whether it was the last."""
    clock = state.clock[0]
    row = state.injectors[injector]
    share = state.shares[index]
    channel = int64(row["channel"])
    payload = min(share["bytes_left"], clock["max_payload_bytes"])
    stall_ps = ZERO
    if row["blocked"] == 1:
        row["blocked"] = 0
        could_ps = NEVER
        other = row["ring_first"]
        while other != NONE:
            could_ps = min(could_ps, state.shares[other]["until_ps"])
            other = state.shares[other]["next"]
        stall_ps = now_ps - max(could_ps, state.channels[channel]["free_ps"])
    message_index = int64(share["message"])
    destination = int64(share["destination"])
    start_packet(state, channel, now_ps, stall_ps, now_ps, message_index, share["flow"], destination, payload)
    free_ps = now_ps + state.durations[state.channels[channel]["injection_row"] + payload]["value"]
    state.channels[channel]["free_ps"] = free_ps
    message = state.messages[message_index]
    if share["started"] == 0:
        share["started"] = 1
        message["first_injection_ps"] = min(message["first_injection_ps"], now_ps)
    share["bytes_left"] -= payload
    if share["bytes_left"] > 0:
        return False
    message["shares_left"] -= 1
    message["sent_ps"] = max(message["sent_ps"], free_ps)
    if message["shares_left"] == 0:
        add_timer(state, int64(message["source"]), message["sent_ps"], MESSAGE_SENT, message_index)
    return True


@jit
def serve_injector(state: State, injector: int, now_ps: int) -> None:
    """Let a free injection channel pick (docs/physics.md, section 8) and say when to look at it again."""
    clock = state.clock[0]
    row = state.injectors[injector]
    shares = state.shares
    channel = state.channels[row["channel"]]
    fill_slots(state, injector)
    end_waits(state, injector, now_ps)
    take_credits(state, int64(row["channel"]), now_ps)
    before = NONE
    index = row["ring_first"]
    while index != NONE:
        share = shares[index]
        after = share["next"]
        wire_bytes = state.durations[min(share["bytes_left"], clock["max_payload_bytes"])]["value"]
        if channel["room_bytes"] >= wire_bytes:
            break
        row["blocked"] = 1
        before = index
        index = after
    if index == NONE:
        wake_ps = row["wait_end_ps"]
        if row["blocked"] == 1 and channel["credit_first"] != NONE:
            wake_ps = min(wake_ps, state.credits[channel["credit_first"]]["time_ps"])
        state.wakes[injector]["wake_ps"] = wake_ps
        return

    last_packet = inject_packet(state, injector, index, now_ps)
    share = shares[index]
    share["joined"] = 2 * now_ps + 1
    after = share["next"]
    if last_packet or after != NONE:
        # Take the share out of the ring.
        if before == NONE:
            row["ring_first"] = after
        else:
            shares[before]["next"] = after
        if after == NONE:
            row["ring_last"] = before
        if last_packet:
            share["until_ps"] = channel["free_ps"]
            share["next"] = NONE
            if row["freed_first"] == NONE:
                row["freed_first"] = index
            else:
                shares[row["freed_last"]]["next"] = index
            row["freed_last"] = index
        else:
            shares[row["ring_last"]]["next"] = index
            share["next"] = NONE
            row["ring_last"] = index
    wake_ps = NEVER
    if row["ring_first"] != NONE or row["waiting_first"] != NONE or row["next_message"] != NONE:
        wake_ps = channel["free_ps"]
    state.wakes[injector]["wake_ps"] = wake_ps


@jit
def process_terminal(state: State, node: int, terminal: int, inbox_index: int, window_end_ps: int) -> int:
    """Process all that happens at a terminal's part of a domain in this window, in time order.

    Returns how often an injector was served. Where completions wait for the end of the epoch (they cannot let a packet
    start before), injectors do not see each other and are served one by one; else all happens in time order.
    """
    row = state.nodes[node]
    wakes = state.wakes
    inbox = state.inboxes[inbox_index]
    gather_credits(state, inbox_index, window_end_ps)
    if inbox["num_arrivals"] > 0:
        count = gather_arrivals(state, inbox_index, window_end_ps)
        # The packets of one channel, and so of one ejection server, come in time order, but for those put off.
        if state.clock[0]["puts_off"] == 1:
            sort_keys(state, ZERO, count)
        for place in range(count):
            eject_packet(state, terminal, state.keys[place]["key"] & INDEX_MASK)
        free_arrivals(state, inbox_index)

    served = 0
    first_injector = row["first_injector"]
    end_injector = first_injector + row["num_injectors"]
    defers = state.clock[0]["defers"] == 1
    while True:
        wake_ps = NEVER
        earliest = NONE
        for injector in range(first_injector, end_injector):
            while defers and wakes[injector]["wake_ps"] < window_end_ps:
                serve_injector(state, injector, wakes[injector]["wake_ps"])
                served += 1
            if wakes[injector]["wake_ps"] < wake_ps:
                wake_ps = wakes[injector]["wake_ps"]
                earliest = injector
        timer_ps = NEVER
        if not defers and state.terminals[terminal]["first_timer"] != NONE:
            timer_ps = state.timers[state.terminals[terminal]["first_timer"]]["time_ps"]
        if min(timer_ps, wake_ps) >= window_end_ps:
            row["wake_ps"] = min(timer_ps, wake_ps)
            break
        # Completions come before picks within one instant.
        if timer_ps <= wake_ps:
            handle_timer(state, terminal)
        else:
            serve_injector(state, earliest, wake_ps)
            served += 1
    settle_credits(state, inbox_index, window_end_ps)
    return served


# --- the run -------------------------------------------------------------------------------------------------------


@jit
def earliest_wake(state: State, domain: int) -> int:
    """Return when the first node of a domain has work that no inbox announces."""
    first = state.domains[domain]["first_node"]
    wake_ps = NEVER
    for node in range(first, first + state.domains[domain]["num_nodes"]):
        wake_ps = min(wake_ps, state.nodes[node]["wake_ps"])
    return wake_ps


@jit
def open_epoch(state: State) -> bool:
    """Set the epoch to the earliest thing that can happen; return False if nothing can."""
    clock = state.clock[0]
    start_ps = NEVER
    for domain in range(clock["num_domains"]):
        if state.domains[domain]["in_flight"] > 0:
            start_ps = clock["epoch_end_ps"]
            break
    if start_ps == NEVER:
        for domain in range(clock["num_domains"]):
            start_ps = min(start_ps, earliest_wake(state, domain))
        for terminal in range(clock["num_terminals"]):
            first_timer = state.terminals[terminal]["first_timer"]
            if first_timer != NONE:
                start_ps = min(start_ps, state.timers[first_timer]["time_ps"])
        if start_ps == NEVER:
            return False
    # A message that became ready in the last epoch can ask for a look back; nothing starts before that epoch's end.
    start_ps = max(start_ps, clock["epoch_end_ps"])
    clock["epoch_start_ps"] = (start_ps >> clock["window_shift"]) << clock["window_shift"]
    clock["epoch_end_ps"] = clock["epoch_start_ps"] + (clock["epoch_windows"] << clock["window_shift"])
    clock["next_domain"] = 0
    clock["epoch_open"] = 1
    return True


@jit
def run_domain(state: State, domain: int) -> int:
    """Take the windows of a domain until the end of the epoch.

    Returns the number of arrivals and injections, or less than zero a code that asks for table space: before
    anything of the next node has changed.
    """
    clock = state.clock[0]
    nodes = state.nodes
    row = state.domains[domain]
    first_node = row["first_node"]
    num_nodes = row["num_nodes"]
    num_terminals = clock["num_terminals"]
    length_ps = 1 << clock["window_shift"]
    events = 0
    clock["in_flight"] = row["in_flight"]
    clock["window_start_ps"] = max(row["window_start_ps"], clock["epoch_start_ps"])
    while clock["window_start_ps"] < clock["epoch_end_ps"]:
        if clock["next_node"] == 0 and clock["in_flight"] == 0:
            wake_ps = max(earliest_wake(state, domain), clock["window_start_ps"])
            clock["window_start_ps"] = min(
                clock["epoch_end_ps"], (wake_ps >> clock["window_shift"]) << clock["window_shift"]
            )
            if clock["window_start_ps"] == clock["epoch_end_ps"]:
                break
        window_end_ps = clock["window_start_ps"] + length_ps
        window = (clock["window_start_ps"] >> clock["window_shift"]) & clock["wheel_mask"]
        first_inbox = window * clock["num_nodes"] + first_node
        for place in range(clock["next_node"], num_nodes):
            node = first_node + place
            inbox_index = first_inbox + place
            inbox = state.inboxes[inbox_index]
            arrivals = inbox["num_arrivals"]
            if arrivals == 0 and inbox["num_credits"] == 0 and nodes[node]["wake_ps"] >= window_end_ps:
                continue
            # Each start announces an arrival; each ejection, and each start at a switch, returns a credit. All that
            # came may be put off.
            code = SLICE
            if clock["num_free_arrival_blocks"] < nodes[node]["max_starts"] + arrivals:
                code = ARRIVALS_FULL
            elif clock["num_free_credit_blocks"] < nodes[node]["max_starts"] + arrivals + inbox["num_credits"]:
                code = CREDITS_FULL
            elif clock["num_free_packets"] < arrivals:
                code = PACKETS_FULL
            if code != SLICE:
                clock["next_node"] = place
                row["window_start_ps"] = clock["window_start_ps"]
                row["in_flight"] = clock["in_flight"]
                return -code
            if place < num_terminals:
                events += process_terminal(state, node, place, inbox_index, window_end_ps)
            else:
                process_switch(state, node, inbox_index, window_end_ps)
            events += arrivals
        clock["next_node"] = 0
        clock["window_start_ps"] = window_end_ps
    row["window_start_ps"] = clock["window_start_ps"]
    row["in_flight"] = clock["in_flight"]
    return events


@jit
def run(state: State, max_events: int) -> int:
    """Process epochs until about *max_events* arrivals and injections are done; return a Code.

    A slice ends between two epochs. The codes that ask for table space can come between two nodes of a window, before
    anything of the next node has changed; call again after growing.
    """
    clock = state.clock[0]
    events = 0
    while True:
        if clock["epoch_open"] == 0:
            if events >= max_events:
                return SLICE
            if not open_epoch(state):
                if clock["tasks_left"] == 0:
                    return DONE
                return STALLED
        if clock["epoch_start_ps"] >= clock["limit_ps"]:
            return TIME_LIMIT
        while clock["next_domain"] < clock["num_domains"]:
            done = run_domain(state, clock["next_domain"])
            if done < 0:
                return -done
            events += done
            clock["next_domain"] += 1
        if clock["defers"] == 1:
            for terminal in range(clock["num_terminals"]):
                first_timer = state.terminals[terminal]["first_timer"]
                while first_timer != NONE and state.timers[first_timer]["time_ps"] < clock["epoch_end_ps"]:
                    handle_timer(state, terminal)
                    first_timer = state.terminals[terminal]["first_timer"]
        clock["epoch_open"] = 0
