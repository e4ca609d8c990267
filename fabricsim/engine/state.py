"""From a network and a schedule to the tables of a run, and larger tables when a run asks for them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fabricsim.engine.hashing import FIRST_PLANE, FLOW, TIE, hash_words
from fabricsim.engine.layout import BLOCK, DTYPES, LATENCY_BUCKETS, NEVER, NONE, Code, Routing, Rows, State, TimerKind
from fabricsim.fabrics.network import Channels, Network
from fabricsim.workloads.schedule import Schedule

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

#: A run ends with an error before this time (about 27 days), far from where int64 picoseconds would wrap.
LIMIT_PS = 1 << 61

#: Inboxes reach at most so many windows ahead; what lies beyond is put off.
MAX_WHEEL_WINDOWS = 1 << 10

#: An epoch is at most so many windows, so that a slice stays short.
MAX_EPOCH_WINDOWS = 16

#: Windows longer than this (4 us) gain nothing, and sort keys keep their time in 63 - 31 bits.
MAX_WINDOW_SHIFT = 22


def rows(name: str, count: int) -> Rows:
    """Return a zeroed table of *count* rows; at least one, so that its address is valid."""
    return np.zeros(max(1, count), DTYPES[name])


def allocate(network: Network, schedule: Schedule, terminal_of_rank: Int32, seed: int) -> State:
    """Return the state of a run at time zero, before its first event.

    ``terminal_of_rank[r]`` is the terminal of rank r (int32, one entry per rank, all different).
    """
    messages, shortest = message_rows(network, schedule, terminal_of_rank, seed)
    durations = Durations(network)
    shift = min(MAX_WINDOW_SHIFT, int(network.channels.latency_ps.min()).bit_length() - 1)
    numbering = Numbering(network, shift)
    channels, injectors, bundles, members = channel_rows(network, numbering, durations, seed)
    tasks, sends, successors, timers = task_rows(network, schedule, messages, terminal_of_rank)
    followers = follower_rows(schedule, messages)

    clock = rows("clock", 1)
    clock["window_shift"] = shift
    clock["epoch_windows"] = numbering.epoch_windows
    clock["defers"] = numbering.defers
    clock["num_nodes"] = numbering.num_nodes
    clock["num_domains"] = len(numbering.domains)
    clock["num_terminals"] = network.num_terminals
    clock["routing"] = Routing[network.routing.upper()]
    clock["max_payload_bytes"] = network.packet.max_payload_bytes
    clock["message_overhead_ps"] = network.endpoint.message_overhead_ps
    clock["limit_ps"] = LIMIT_PS
    clock["tasks_left"] = len(schedule.tasks)

    needed = windows_ahead(network, durations, shift)
    wheel = 1 << (min(needed, MAX_WHEEL_WINDOWS) - 1).bit_length()
    clock["wheel_mask"] = wheel - 1
    clock["puts_off"] = wheel < needed
    inboxes = rows("inboxes", wheel * numbering.num_nodes)

    starts = starts_per_window(durations.at(channels["serialization_row"], shortest), shift)
    nodes = node_rows(numbering, channels, injectors, starts)
    routes, candidates = route_rows(network, numbering, nodes)
    terminals = rows("terminals", network.num_terminals)
    terminals["first_timer"], wake_ps, clock["free_timer"] = chain_timers(network, timers, tasks)
    if not numbering.defers:
        nodes["wake_ps"][: network.num_terminals] = wake_ps

    num_shares = min(int(messages["num_shares"].sum()), network.endpoint.slots * len(injectors))
    shares = rows("shares", num_shares)
    shares["next"] = chain(0, len(shares))
    wakes = rows("wakes", len(injectors))
    wakes["wake_ps"] = NEVER

    # Every node can finish its first window; the driver doubles what turns out too small.
    scratch = int(np.bincount(channels["target_node"], weights=starts).max())
    arrivals_bound = int(nodes["max_starts"].max()) + numbering.num_nodes
    state = State(
        clock=clock,
        domains=numbering.domains,
        terminals=terminals,
        nodes=nodes,
        channels=channels,
        durations=durations.table(),
        routes=routes,
        candidates=candidates,
        inboxes=inboxes,
        arrivals=rows("arrivals", 0),
        arrival_blocks=np.zeros(0, DTYPES["arrival_blocks"]),
        credits=rows("credits", 0),
        credit_blocks=np.zeros(0, DTYPES["credit_blocks"]),
        packets=np.zeros(0, DTYPES["packets"]),
        injectors=injectors,
        wakes=wakes,
        bundles=bundles,
        members=members,
        shares=shares,
        timers=timers,
        messages=messages,
        followers=followers,
        tasks=tasks,
        sends=sends,
        successors=successors,
        latencies=rows("latencies", LATENCY_BUCKETS * 64),
        keys=rows("keys", scratch),
        swap=rows("swap", scratch),
    )
    clock["free_arrival_block"] = clock["free_credit_block"] = clock["free_packet"] = NONE
    state = grow(state, Code.ARRIVALS_FULL, arrivals_bound)
    state = grow(state, Code.CREDITS_FULL, 2 * arrivals_bound)
    return grow(state, Code.PACKETS_FULL, arrivals_bound)


def grow(state: State, code: Code, at_least: int = 0) -> State:
    """Return the state with the table that *code* asks for doubled, or *at_least* so many rows larger."""
    clock = state.clock
    if code == Code.PACKETS_FULL:
        old = len(state.packets)
        more = max(old, at_least)
        packets = np.concatenate([state.packets, np.zeros(more, DTYPES["packets"])])
        packets["next"][old:] = chain(old, more, int(clock["free_packet"][0]))
        clock["free_packet"] = old
        clock["num_free_packets"] += more
        return state._replace(packets=packets)
    kind = "arrival" if code == Code.ARRIVALS_FULL else "credit"
    blocks = getattr(state, f"{kind}_blocks")
    old = len(blocks)
    more = max(old, at_least)
    fresh = np.zeros(more, blocks.dtype)
    fresh["next"] = chain(old, more, int(clock[f"free_{kind}_block"][0]))
    records = np.zeros((old + more) * BLOCK, DTYPES[f"{kind}s"])
    records[: old * BLOCK] = getattr(state, f"{kind}s")[: old * BLOCK]
    clock[f"free_{kind}_block"] = old
    clock[f"num_free_{kind}_blocks"] += more
    return state._replace(**{f"{kind}_blocks": np.concatenate([blocks, fresh]), f"{kind}s": records})


def chain(first: int, count: int, end: int = NONE) -> Int32:
    """Return the ``next`` column that links rows *first*, ... one after another, the last to *end*."""
    links = np.arange(first + 1, first + count + 1, dtype=np.int32)
    links[-1:] = end
    return links


def column(table: str, field: str, values: npt.NDArray[np.integer]) -> Rows:
    """Return a table of one field."""
    result = rows(table, len(values))
    result[field][: len(values)] = values
    return result


def ranges(keys: npt.NDArray[np.integer], count: int) -> tuple[Int64, Int64]:
    """Return (first, size) of the run of each key 0 .. count - 1 in the sorted *keys*."""
    size = np.bincount(keys, minlength=count).astype(np.int64)
    return np.cumsum(size) - size, size


# --- wires ---------------------------------------------------------------------------------------------------------


class Durations:
    """The look-up tables of serialization, injection and ejection.

    One row of the payloads 0 .. max per distinct server. Row 0 holds wire bytes. A payload of 0 does not occur.
    """

    def __init__(self, network: Network) -> None:
        packet = network.packet
        self.length = packet.max_payload_bytes + 1
        payload = np.arange(self.length, dtype=np.int64)
        wire_bytes = -(-(payload + packet.overhead_bytes) // packet.flit_bytes) * packet.flit_bytes
        self._payload = payload
        self._rows: list[Int64] = [wire_bytes]
        self._known: dict[tuple[int, ...], int] = {}
        channels = network.channels
        self.serialization_row, self.injection_row, self.ejection_row = self._channel_rows(channels)

    def _channel_rows(self, channels: Channels) -> tuple[Int32, Int32, Int32]:
        keys = np.stack(
            [
                channels.ps_per_byte_num,
                channels.ps_per_byte_den,
                channels.copy_ps_per_byte_num,
                channels.copy_ps_per_byte_den,
                channels.ejection_ps_per_byte_num,
                channels.ejection_ps_per_byte_den,
            ],
            axis=1,
        )
        distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
        found = np.empty((len(distinct), 3), np.int32)
        for place, (num, den, copy_num, copy_den, ejection_num, ejection_den) in enumerate(distinct.tolist()):
            found[place, 0] = self._row(num, den, 0, 1)
            found[place, 1] = self._row(num, den, copy_num, copy_den)
            found[place, 2] = self._row(num, den, ejection_num, ejection_den)
        by_channel = found[inverse.reshape(-1)]
        return by_channel[:, 0], by_channel[:, 1], by_channel[:, 2]

    def _row(self, num: int, den: int, payload_num: int, payload_den: int) -> int:
        """Return the offset of max(ceil(wire bytes * num / den), ceil(payload * payload_num / payload_den))."""
        key = (num, den, payload_num, payload_den)
        if key not in self._known:
            wire_ps = -(-self._rows[0] * num // den)
            row_ps = np.maximum(wire_ps, -(-self._payload * payload_num // payload_den))
            if payload_num and np.array_equal(row_ps, wire_ps):
                self._known[key] = self._row(num, den, 0, 1)  # a limit that never limits
            else:
                self._known[key] = len(self._rows) * self.length
                self._rows.append(row_ps)
        return self._known[key]

    def at(self, row: npt.NDArray[np.integer], payload: int) -> Int64:
        """Return the duration of *payload* for each offset in *row*."""
        flat: Int64 = np.concatenate(self._rows)[row.astype(np.int64) + payload]
        return flat

    def table(self) -> Rows:
        """Return the table ``durations``."""
        return column("durations", "value", np.concatenate(self._rows))


class Numbering:
    """How nodes are numbered: domain by domain, in each one first all terminals, then its switches.

    A plane is a domain of its own where the message overhead lasts at least a window (see the table ``domains``).
    """

    def __init__(self, network: Network, shift: int) -> None:
        channels, terminals = network.channels, network.num_terminals
        overhead_windows = network.endpoint.message_overhead_ps >> shift
        self.defers = overhead_windows > 0
        self.epoch_windows = min(overhead_windows, MAX_EPOCH_WINDOWS) if self.defers else MAX_EPOCH_WINDOWS
        num_domains = network.num_planes if self.defers else 1
        domain = channels.plane if self.defers else np.zeros_like(channels.plane)
        switch_domain = np.zeros(network.num_switches, np.int32)
        leaves_switch = channels.source_node >= terminals
        switch_domain[channels.source_node[leaves_switch] - terminals] = domain[leaves_switch]

        first_switch, num_switches = ranges(np.sort(switch_domain), num_domains)
        self.domains = rows("domains", len(num_switches))
        self.domains["num_nodes"] = terminals + num_switches
        self.domains["first_node"] = np.cumsum(self.domains["num_nodes"]) - self.domains["num_nodes"]
        self.num_nodes = int(self.domains["num_nodes"].sum())
        order = np.argsort(switch_domain, kind="stable")
        place = np.empty(network.num_switches, np.int64)
        place[order] = np.arange(network.num_switches) - first_switch[switch_domain[order]]
        self.switch_node = self.domains["first_node"][switch_domain] + terminals + place
        self.source_node = self._renumber(channels.source_node, domain, terminals)
        self.target_node = self._renumber(channels.target_node, domain, terminals)

    def _renumber(self, node: Int32, domain: Int32, terminals: int) -> Int64:
        at_switch = node >= terminals
        renumbered = self.domains["first_node"][domain] + node.astype(np.int64)
        renumbered[at_switch] = self.switch_node[node[at_switch] - terminals]
        return renumbered


def channel_rows(
    network: Network, numbering: Numbering, durations: Durations, seed: int
) -> tuple[Rows, Rows, Rows, Rows]:
    """Return the tables of channels, injectors, bundles and members."""
    source = network.channels
    channels = rows("channels", len(source))
    channels["room_bytes"] = channels["buffer_bytes"] = source.buffer_bytes
    channels["latency_ps"] = source.latency_ps
    channels["spray_counter"] = network.spray_start
    channels["tie_key"] = hash_words(seed, TIE, source.place.astype(np.int64))
    channels["source_node"], channels["target_node"] = numbering.source_node, numbering.target_node
    channels["place"] = source.place
    for name in ("serialization_row", "injection_row", "ejection_row"):
        channels[name] = getattr(durations, name)
    for name in ("injector", "queue_first", "queue_last", "credit_first", "credit_last"):
        channels[name] = NONE

    num_bundles = len(network.bundle_first) - 1
    size = np.diff(network.bundle_first)
    bundle = np.repeat(np.arange(num_bundles), size)
    node = channels["source_node"][network.bundle_channels]
    order = np.lexsort((bundle, node))
    injectors = rows("injectors", len(order))
    injectors["channel"] = network.bundle_channels[order]
    injectors["node"] = node[order]
    injectors["bundle"] = bundle[order]
    injectors["position"] = order - network.bundle_first[bundle[order]]
    injectors["fresh_slots"] = network.endpoint.slots
    injectors["wait_end_ps"] = NEVER
    for name in (
        "next_message",
        "ring_first",
        "ring_last",
        "waiting_first",
        "waiting_last",
        "freed_first",
        "freed_last",
    ):
        injectors[name] = NONE
    channels["injector"][injectors["channel"]] = np.arange(len(order))

    bundles = rows("bundles", num_bundles)
    bundles["ready_ps"] = NONE
    bundles["first_member"] = network.bundle_first[:-1]
    bundles["num_members"] = size
    for name in ("last_ready", "anchor", "instant_first"):
        bundles[name] = NONE
    return channels, injectors, bundles, column("members", "injector", channels["injector"][network.bundle_channels])


def node_rows(numbering: Numbering, channels: Rows, injectors: Rows, starts: Int64) -> Rows:
    """Return the table of nodes; *starts* is the most packets that each channel can start in a window."""
    count = numbering.num_nodes
    nodes = rows("nodes", count)
    nodes["wake_ps"] = NEVER
    source = channels["source_node"]
    first = np.full(count, len(channels))
    np.minimum.at(first, source, np.arange(len(channels)))
    switch = numbering.switch_node
    nodes["first_output"][switch] = first[switch]
    nodes["num_outputs"][switch] = np.bincount(source, minlength=count)[switch]
    nodes["first_injector"], nodes["num_injectors"] = ranges(injectors["node"], count)
    nodes["max_starts"] = np.bincount(source, weights=starts, minlength=count)
    return nodes


def starts_per_window(duration_ps: Int64, shift: int) -> Int64:
    """Return the most packets that channels of the given shortest serialization can start in one window.

    At a terminal the injection time separates starts, which is no shorter.
    """
    starts: Int64 = (1 << shift) // duration_ps + 1
    return starts


def windows_ahead(network: Network, durations: Durations, shift: int) -> int:
    """Return how many windows ahead of its window a node can announce something.

    An arrival is announced one latency ahead, a credit one serialization and one latency. Where the ejection is slower
    than the wire, the buffer fills and a credit is known when all before it are ejected.
    """
    wires = network.channels
    serialization_ps = durations.at(durations.serialization_row, durations.length - 1)
    # Ceilings, and one more for the rounding of each packet: the buffer holds at most one packet per byte.
    wire_ps = -(-wires.ps_per_byte_num // wires.ps_per_byte_den)
    payload_ps = -(-wires.ejection_ps_per_byte_num // wires.ejection_ps_per_byte_den)
    backlog_ps = (np.maximum(wire_ps, payload_ps) + 1) * wires.buffer_bytes
    slower = durations.ejection_row != durations.serialization_row
    ahead_ps = int(wires.latency_ps.max()) + int(np.where(slower, backlog_ps, serialization_ps).max())
    return (ahead_ps >> shift) + 3


def route_rows(network: Network, numbering: Numbering, nodes: Rows) -> tuple[Rows, Rows]:
    """Return the tables of routes and candidates, and enter each switch's first route into *nodes*.

    Counted from the first output of the switch the routes of many switches are the same, such as those of all planes;
    sharing them keeps the table in the cache.
    """
    switches = network.num_switches
    if switches == 0:
        return rows("routes", 0), rows("candidates", 0)
    # Distinct candidate lists first: a switch has far fewer of them than destinations.
    pair = (network.route_first.astype(np.int64) << 32) | network.route_count
    _, where, pair = np.unique(pair.reshape(-1), return_index=True, return_inverse=True)
    switch = where // network.num_terminals
    first = network.route_first.reshape(-1)[where].astype(np.int64)
    count = network.route_count.reshape(-1)[where]
    k = np.arange(count.max())
    place = np.minimum(first[:, None] + k, len(network.candidates) - 1)
    first_output = nodes["first_output"][numbering.switch_node]
    outputs = np.where(k < count[:, None], network.candidates[place] - first_output[switch, None], NONE)
    lists, which = np.unique(outputs, axis=0, return_inverse=True)
    by_switch = which.reshape(-1)[pair.reshape(switches, -1)]
    kinds, kind = np.unique(by_switch, axis=0, return_inverse=True)
    nodes["route_row"][numbering.switch_node] = kind.reshape(-1) * network.num_terminals

    length = np.count_nonzero(lists != NONE, axis=1)
    routes = rows("routes", kinds.size)
    routes["first"] = (np.cumsum(length) - length)[kinds.reshape(-1)]
    routes["count"] = length[kinds.reshape(-1)]
    return routes, column("candidates", "output", lists[lists != NONE])


# --- work ----------------------------------------------------------------------------------------------------------


def message_rows(network: Network, schedule: Schedule, terminal_of_rank: Int32, seed: int) -> tuple[Rows, int]:
    """Return the table of messages, striped, and the shortest payload of a packet."""
    source = schedule.messages
    count = len(source)
    messages = rows("messages", count)[:count]
    terminal = terminal_of_rank[schedule.tasks.rank].astype(np.int64)
    src = terminal[source.source_task]
    dst = terminal[source.target_task]
    size = source.size_bytes
    moves = (size > 0) & (src != dst)

    bundle = np.where(moves, network.bundle_index[src, dst], 0)
    planes = np.diff(network.bundle_first)[bundle]
    wanted = -(-size // network.packet.stripe_min_bytes)
    num_shares = np.where(moves, np.minimum(planes, wanted), 0)
    share_bytes = np.where(moves, -(-size // np.maximum(num_shares, 1)), 0)
    first_plane = hash_words(
        seed, FIRST_PLANE, src, dst, source.operation.astype(np.int64), source.index.astype(np.int64)
    )
    packets = -(-share_bytes // network.packet.max_payload_bytes)
    last_payload = share_bytes - (packets - 1) * network.packet.max_payload_bytes
    shortest = int(last_payload[moves].min(initial=network.packet.max_payload_bytes))

    messages["ready_ps"] = messages["complete_ps"] = NONE
    messages["first_injection_ps"] = NEVER
    messages["packets_left"] = packets * num_shares
    messages["share_bytes"] = share_bytes
    messages["flow"] = hash_words(seed, FLOW, src, dst)
    messages["source"], messages["destination"] = src, dst
    messages["source_task"], messages["target_task"] = source.source_task, source.target_task
    messages["shares_left"] = messages["num_shares"] = num_shares
    messages["first_plane"] = np.where(num_shares < planes, first_plane % planes, 0)
    messages["bundle"] = bundle
    messages["next_ready"] = NONE
    return messages, shortest


def follower_rows(schedule: Schedule, messages: Rows) -> Rows:
    """Return the table of followers and enter its ranges and the number of waits into *messages*."""
    source = schedule.messages
    count = len(source)
    waits = np.diff(source.waits_first)
    waiter = np.repeat(np.arange(count), waits)
    awaited = source.waits_for.astype(np.int64)
    sent_here = messages["source_task"][awaited] == messages["source_task"][waiter]
    to_itself = messages["source_task"][awaited] == messages["target_task"][awaited]
    after_complete = ~sent_here | to_itself
    # The target of an empty message does not wait for it (docs/physics.md, section 9).
    counts = ~after_complete | to_itself | (messages["share_bytes"][awaited] > 0)
    waiter, awaited, after_complete = waiter[counts], awaited[counts], after_complete[counts]
    order = np.lexsort((waiter, awaited, after_complete))
    waiter, awaited, after_complete = waiter[order], awaited[order], after_complete[order]
    num_sent = int(np.count_nonzero(~after_complete))
    messages["after_sent_first"], messages["after_sent_count"] = ranges(awaited[:num_sent], count)
    first, size = ranges(awaited[num_sent:], count)
    messages["after_complete_first"], messages["after_complete_count"] = first + num_sent, size
    messages["waiting"] = 1 + np.bincount(waiter, minlength=count)
    return column("followers", "message", waiter)


def task_rows(
    network: Network, schedule: Schedule, messages: Rows, terminal_of_rank: Int32
) -> tuple[Rows, Rows, Rows, Rows]:
    """Return the tables of tasks, sends, successors, and of timers with the starts of tasks without predecessors."""
    source = schedule.tasks
    count = len(source)
    tasks = rows("tasks", count)[:count]
    tasks["begin_ps"] = tasks["end_ps"] = NONE
    tasks["not_before_ps"] = source.not_before_ps
    tasks["gap_ps"] = source.gap_ps
    tasks["launch_ps"] = np.where(source.launches, network.endpoint.launch_latency_ps, 0)
    tasks["terminal"] = terminal_of_rank[source.rank]

    by_source = np.argsort(messages["source_task"], kind="stable")
    tasks["sends_first"], tasks["sends_count"] = ranges(messages["source_task"], count)
    to_itself = messages["source_task"] == messages["target_task"]
    received = (messages["share_bytes"] > 0) | to_itself
    receives = np.bincount(messages["target_task"][received], minlength=count)
    tasks["pending"] = tasks["sends_count"] + receives

    num_predecessors = np.diff(source.predecessor_first)
    task = np.repeat(np.arange(count), num_predecessors)
    order = np.argsort(source.predecessors, kind="stable")
    tasks["successors_first"], tasks["successors_count"] = ranges(source.predecessors, count)
    tasks["waiting"] = num_predecessors

    free = np.flatnonzero(num_predecessors == 0)
    tasks["begin_ps"][free] = source.not_before_ps[free] + source.gap_ps[free]
    timers = rows("timers", 2 * len(messages) + count)
    timers["kind"] = NONE
    timers["time_ps"][: len(free)] = tasks["begin_ps"][free] + tasks["launch_ps"][free]
    timers["kind"][: len(free)] = TimerKind.TASK_STARTS
    timers["subject"][: len(free)] = free
    return tasks, column("sends", "message", by_source), column("successors", "task", task[order]), timers


def chain_timers(network: Network, timers: Rows, tasks: Rows) -> tuple[Int32, Int64, int]:
    """Link the timers in use to their terminals in time order, the others to the free list.

    Return per terminal its first timer (int32) and that timer's time (int64, NEVER without one), and the free list's
    head.
    """
    used = np.flatnonzero(timers["kind"] != NONE)
    terminal = tasks["terminal"][timers["subject"][used]]
    order = used[np.lexsort((timers["time_ps"][used], terminal))]
    terminal = np.sort(terminal)
    last = np.ones(len(order), np.bool_)
    last[:-1] = terminal[:-1] != terminal[1:]
    timers["next"][order] = np.where(last, NONE, np.roll(order, -1))
    heads = order[np.flatnonzero(np.roll(last, 1))]

    first_timer = np.full(network.num_terminals, NONE, np.int32)
    wake_ps = np.full(network.num_terminals, NEVER, np.int64)
    first_timer[np.unique(terminal)] = heads
    wake_ps[np.unique(terminal)] = timers["time_ps"][heads]
    timers["next"][len(used) :] = chain(len(used), len(timers) - len(used))
    return first_timer, wake_ps, len(used) if len(used) < len(timers) else NONE
