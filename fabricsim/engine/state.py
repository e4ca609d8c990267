"""From a network and a schedule to the tables of a run, and larger tables when a run asks for them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fabricsim.engine.hashing import FIRST_PLANE, FLOW, TIE, hash_words
from fabricsim.engine.in_network import Cut, check_groups, cut_groups, first_planes
from fabricsim.engine.launch import launch_latencies_ps
from fabricsim.engine.layout import (
    BANK_SHIFT,
    DTYPES,
    LATENCY_ROWS,
    LINE_BYTES,
    NEVER,
    NONE,
    NOT_YET,
    TIMELINE_BINS,
    Arbitration,
    Routing,
    Rows,
    State,
)
from fabricsim.fabrics.network import Channels, Network
from fabricsim.workloads.schedule import Schedule

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt32 = npt.NDArray[np.uint32]

#: A run ends with an error before this time (about 27 days), far from where int64 picoseconds would wrap.
LIMIT_PS = 1 << 61

#: Inboxes reach at most so many windows ahead; what lies beyond is put off.
MAX_WHEEL_WINDOWS = 1 << 10

#: An epoch is at most so many windows, so that a slice stays short.
MAX_EPOCH_WINDOWS = 16

#: Windows longer than this (4 us) gain nothing, and sort keys keep their time in 63 - 31 bits.
MAX_WINDOW_SHIFT = 22


def rows(name: str, count: int) -> Rows:
    """Return a zeroed table of *count* rows from the begin of a cache line on; at least one, for a valid address."""
    size = max(1, count) * DTYPES[name].itemsize
    raw = np.zeros(size + LINE_BYTES, np.uint8)
    begin = -raw.ctypes.data % LINE_BYTES
    return raw[begin : begin + size].view(DTYPES[name])


def allocate(
    network: Network, schedule: Schedule, terminal_of_rank: Int32, seed: int, operation: Int64 | None = None
) -> State:
    """Return the state of a run at time zero, before its first event.

    *network* is split into virtual channels. Of a workload in blocks *schedule* is the first, and *operation* the
    numbers of its operations in the whole; ``Work`` admits the others.
    ``terminal_of_rank[r]`` is the terminal of rank r (int32, one entry per rank, all different).
    """
    if operation is None:
        operation = np.arange(len(schedule.operations))
    check_groups(network, schedule, terminal_of_rank)
    cut = cut_groups(network, schedule, terminal_of_rank)
    messages = message_rows(network, schedule, terminal_of_rank, seed, operation)
    durations = Durations(network)
    shift = window_shift(network)
    overhead_windows = network.endpoint.message_overhead_ps >> shift
    defers = planes_run_apart(network)
    channels, injectors, bundles, members = channel_rows(network, durations, defers, seed)
    tasks, sends, successors = task_rows(network, schedule, messages, terminal_of_rank)
    followers = follower_rows(schedule, messages)

    clock = rows("clock", 1)
    clock["window_shift"] = shift
    clock["epoch_windows"] = min(overhead_windows, MAX_EPOCH_WINDOWS) if defers else MAX_EPOCH_WINDOWS
    clock["defers"] = defers
    clock["num_channels"] = len(channels)
    clock["vc_mask"] = network.vcs.count - 1
    clock["arbitration"] = Arbitration[network.vcs.arbitration.upper()]
    clock["num_terminals"] = network.num_terminals
    clock["num_messages"] = len(messages)
    clock["routing"] = Routing[network.routing.upper()]
    clock["detours"] = network.vcs_per_switch > 1
    clock["weighted"] = network.weights is not None
    clock["max_payload_bytes"] = network.packet.max_payload_bytes
    clock["message_overhead_ps"] = network.endpoint.message_overhead_ps
    clock["acked"] = network.endpoint.acked
    clock["limit_ps"] = LIMIT_PS
    clock["halt_ps"] = NEVER
    clock["tasks_left"] = len(schedule.tasks)
    clock["waits_left"] = len(schedule.tasks) + int((~is_relayed(messages)).sum())
    clock["num_classes"] = len(network.channel_class_names)
    clock["num_groups"] = len(schedule.messages.groups)
    clock["admit_ps"] = NEVER
    clock["new_task"] = chain_new_tasks(tasks, np.flatnonzero(tasks["waiting"] == 0))

    # A start less than a window's end announces a head one latency later.
    needed = (int(network.channels.latency_ps.max()) >> shift) + 2
    wheel = 1 << (min(needed, MAX_WHEEL_WINDOWS) - 1).bit_length()
    clock["wheel_mask"] = wheel - 1
    inboxes = rows("inboxes", wheel * len(channels))
    inboxes["packet"] = NONE

    channels["first_part"] = network.channels.plane.astype(np.int64) * len(messages)
    routes, candidates, route_row, first_output = route_rows(network)
    at_switch = network.channels.target_node >= network.num_terminals
    switch = network.channels.target_node[at_switch] - network.num_terminals
    channels["route_row"] = NONE
    channels["route_row"][at_switch] = route_row[switch]
    channels["first_output"][at_switch] = first_output[switch]

    terminals = rows("terminals", network.num_terminals)
    terminals["first_timer"] = terminals["recent_timer"] = NONE
    if not defers:
        source = network.channels.source_node[injectors["channel"]]
        terminals["first_injector"], terminals["num_injectors"] = ranges(source, network.num_terminals)
    timers = rows("timers", num_timers(messages, tasks))
    timers["next"] = chain(0, len(timers))

    shortest_bytes = min(shortest_payload(network, messages), int(cut.payload_bytes.min(initial=NEVER)))
    starts = starts_per_window(durations.at(channels["serialization_row"], shortest_bytes), shift)
    starts *= rows_per_start(schedule)
    domains = domain_rows(network, starts, defers)
    clock["num_domains"] = len(domains)
    domains["bin_shift"] = shift
    domains["first_use"] = np.arange(len(domains)) * TIMELINE_BINS * len(network.channel_class_names)
    bins = column("bins", "first_use", np.repeat(domains["first_use"], domains["num_channels"]))
    meters = column("meters", "buffer_bytes", network.channels.buffer_bytes)
    meters["least_room_bytes"] = network.channels.buffer_bytes
    meters["channel_class"] = network.channels.channel_class
    injectors["domain"] = network.channels.plane[injectors["channel"]] if defers else 0
    shares = share_rows(network, domains, injectors, int(np.count_nonzero(messages["share_bytes"])))
    counts = part_rows("counts", network, len(messages))
    counts["packets_left"].reshape(network.num_planes, -1)[:] = share_packets(network, messages)
    groups, contributions, merges = group_rows(network, schedule, cut)
    arbiters = rows("arbiters", len(channels))
    arbiters["picked"] = NONE
    arbiters["served"] = network.vcs.count - 1
    wakes = rows("wakes", len(channels))
    wakes["wake_ps"] = NEVER
    clock["num_banks"] = num_banks = len(domains) * banks_apart(domains)
    banks = rows("banks", num_banks)
    banks["wake_ps"] = NEVER

    scratch = int(domains["first_key"][-1]) + scratch_rows(network, starts)
    state = State(
        clock=clock,
        domains=domains,
        terminals=terminals,
        channels=channels,
        wakes=wakes,
        banks=banks,
        filled=rows("filled", wheel * num_banks),
        inboxes=inboxes,
        arbiters=arbiters,
        backlogs=rows("backlogs", len(channels)),
        packets=rows("packets", 0)[:0],
        relays=rows("relays", 0)[: 0 if len(schedule.messages.groups) else 1],
        groups=groups,
        contributions=contributions,
        merges=merges,
        durations=durations.table(),
        routes=routes,
        candidates=candidates,
        injectors=injectors,
        bundles=bundles,
        places=place_rows(bundles, injectors["bundle"], injectors["position"]),
        members=members,
        shares=shares,
        timers=timers,
        messages=messages,
        parts=part_rows("parts", network, len(messages)),
        counts=counts,
        sent=part_rows("sent", network, len(messages)),
        complete=part_rows("complete", network, len(messages)),
        acks=ack_rows(network, len(messages)),
        followers=followers,
        tasks=tasks,
        sends=sends,
        successors=successors,
        latencies=rows("latencies", LATENCY_ROWS * len(domains)),
        bins=bins,
        meters=meters,
        timeline=rows("timeline", TIMELINE_BINS * len(domains) * len(network.channel_class_names)),
        keys=rows("keys", scratch),
        swap=rows("swap", scratch),
    )
    # Each place can finish its first window; the driver grows what turns out too small.
    return grow(state, domains["max_starts"] + packets_at_start(network, messages, domains))


def window_shift(network: Network) -> int:
    """Return the binary logarithm of a window: at most the least latency of a channel."""
    return min(MAX_WINDOW_SHIFT, int(network.channels.latency_ps.min()).bit_length() - 1)


def is_plain(state: State) -> bool:
    """Tell whether the kernel for plain runs may run *state*.

    They have no virtual channels, adaptive choices, in-network operations, weights, acknowledgements or changes of the
    fabric.
    """
    clock = state.clock[0]
    stays = clock["halt_ps"] == NEVER and not (clock["num_groups"] or clock["weighted"] or clock["acked"])
    return bool(stays and clock["vc_mask"] == 0 and clock["routing"] != Routing.ADAPTIVE)


def planes_run_apart(network: Network) -> bool:
    """Tell whether each plane is a domain, and what becomes ready is deferred to the end of an epoch."""
    return network.endpoint.message_overhead_ps >> window_shift(network) > 0


def packets_at_start(network: Network, messages: Rows, domains: Rows) -> Int64:
    """Return per domain half of the packets that its buffers hold, or all that the messages make if those are fewer."""
    held = network.channels.buffer_bytes // (2 * network.packet.wire_bytes(network.packet.max_payload_bytes))
    packets = int(messages["packets"].sum(dtype=np.int64))
    at_most: Int64 = np.add.reduceat(held, domains["first_channel"])
    return np.minimum(at_most, packets * network.num_planes // len(domains))


def grow(state: State, more: Int64 | None = None) -> State:
    """Return the state with so many *more* packets per domain; with twice as many as it has, if not told.

    All domains grow at once, for they are much alike, and each time all packets are copied.
    """
    old = len(state.packets)
    if more is None:
        more = np.full(len(state.domains), -(-old // len(state.domains)))
    packets = rows("packets", old + int(more.sum()))
    packets[:old] = state.packets
    if state.clock["num_groups"][0]:
        relays = rows("relays", len(packets))
        relays["holder"] = NONE
        relays[:old] = state.relays
        state = state._replace(relays=relays)
    first = old + np.cumsum(more) - more
    for row, begin, count in zip(state.domains, first.tolist(), more.tolist(), strict=True):
        if count > 0:
            packets["next"][begin : begin + count] = chain(begin, count, int(row["free_packet"]))
            row["free_packet"] = begin
            row["num_free_packets"] += count
    return state._replace(packets=packets)


def chain(first: int, count: int, end: int = NONE) -> UInt32:
    """Return the ``next`` column that links rows *first*, ... one after another, the last to *end*."""
    links = np.arange(first + 1, first + count + 1, dtype=np.uint32)
    links[-1:] = end
    return links


def column(table: str, field: str, values: npt.NDArray[np.integer]) -> Rows:
    """Return a table of one field, the others zero."""
    result = rows(table, len(values))[: len(values)]
    result[field] = values
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


def channel_rows(network: Network, durations: Durations, defers: bool, seed: int) -> tuple[Rows, Rows, Rows, Rows]:
    """Return the tables of channels, injectors, bundles and members."""
    source = network.channels
    channels = rows("channels", len(source))
    channels["room_bytes"] = channels["least_room_bytes"] = source.buffer_bytes
    channels["latency_ps"] = source.latency_ps
    channels["spray_counter"] = network.spray_start
    channels["tie_key"] = hash_words(seed, TIE, source.place.astype(np.int64))
    channels["serialization_row"], channels["ejection_row"] = durations.serialization_row, durations.ejection_row
    for name in ("injector", "queue_first", "queue_last", "credit_first", "credit_last"):
        channels[name] = NONE

    num_bundles = len(network.bundle_first) - 1
    size = np.diff(network.bundle_first)
    bundle = np.repeat(np.arange(num_bundles), size)
    channel = network.bundle_channels
    # The injectors of bundles that share channels hang on the whole one.
    whole = np.flatnonzero(network.bundle_whole[bundle] == bundle)
    # In the order in which a window comes by them: of the channels; of the terminals where all planes are one domain.
    order = np.argsort(channel[whole]) if defers else np.lexsort((channel[whole], source.source_node[channel[whole]]))
    order = whole[order]
    injectors = rows("injectors", len(order))
    injectors["channel"] = channel[order]
    injectors["bundle"] = bundle[order]
    injectors["position"] = order - network.bundle_first[bundle[order]]
    if network.weights is not None:
        injectors["weight"] = network.weights[injectors["channel"]]
    injectors["injection_row"] = durations.injection_row[injectors["channel"]]
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
    bundles["ready_ps"] = NOT_YET
    bundles["first_member"] = network.bundle_first[:-1]
    bundles["num_members"] = size
    for name in ("last_ready", "anchor", "instant_first"):
        bundles[name] = NONE
    return channels, injectors, bundles, column("members", "injector", channels["injector"][network.bundle_channels])


def place_rows(bundles: Rows, bundle: UInt32, position: UInt32) -> Rows:
    """Return the table of places of injectors with these bundles and positions; NONE: it belongs to none."""
    places = rows("places", len(bundle))[: len(bundle)]
    places["position"] = position
    places["num_members"] = bundles["num_members"][bundle]
    return places


def domain_rows(network: Network, starts: Int64, defers: bool) -> Rows:
    """Return the table of domains; *starts* is the most packets that each channel can start in a window."""
    plane = network.channels.plane
    domains = rows("domains", network.num_planes if defers else 1)
    count = len(domains)
    domains["first_channel"], domains["num_channels"] = ranges(plane if defers else np.zeros_like(plane), count)
    domains["num_banks"] = -(-domains["num_channels"] // (1 << BANK_SHIFT))
    domains["first_bank"] = np.arange(count) * banks_apart(domains)
    limit_starts(network, domains, starts, defers)
    domains["first_latency"] = np.arange(count) * LATENCY_ROWS
    domains["free_packet"] = domains["free_share"] = NONE
    return domains


def banks_apart(domains: Rows) -> int:
    """Return how far apart the banks of two domains begin: no cache line holds flags of both."""
    line = LINE_BYTES // DTYPES["filled"].itemsize
    return -(-int(domains["num_banks"].max()) // line) * line


def limit_starts(network: Network, domains: Rows, starts: Int64, defers: bool) -> None:
    """Enter what each place of a domain can start in a window, and the domain's part of the scratch tables."""
    domains["max_starts"] = np.maximum.reduceat(starts, domains["first_channel"])
    if not defers:
        at_terminal = np.bincount(network.channels.source_node, weights=starts)[: network.num_terminals]
        domains["max_starts"] = max(int(starts.max()), int(at_terminal.max()))
    if Routing[network.routing.upper()] == Routing.ADAPTIVE:  # a choice brings all outputs of its switch up to date
        at_switch = np.bincount(network.channels.source_node, weights=starts)[network.num_terminals :]
        domains["max_starts"] = np.maximum(domains["max_starts"], int(at_switch.max(initial=0)))
    domains["first_key"] = np.arange(len(domains)) * scratch_rows(network, starts)


def scratch_rows(network: Network, starts: Int64) -> int:
    """Return the most packets that can reach one switch output in a window: all that start towards the switch."""
    return int(np.bincount(network.channels.target_node, weights=starts).max())


def share_rows(network: Network, domains: Rows, injectors: Rows, num_messages: int | None = None) -> Rows:
    """Return the table of shares, linked to the free lists of the domains: a row per slot, or message if fewer move."""
    counts = network.endpoint.slots * np.bincount(injectors["domain"], minlength=len(domains))
    if num_messages is not None:
        counts = np.minimum(counts, max(1, num_messages * (1 if len(domains) > 1 else network.num_planes)))
    shares = rows("shares", int(counts.sum()))
    first = np.cumsum(counts) - counts
    for domain in np.flatnonzero(counts):  # a dead plane has none
        domains["free_share"][domain] = first[domain]
        shares["next"][first[domain] : first[domain] + counts[domain]] = chain(int(first[domain]), int(counts[domain]))
    return shares


def part_rows(name: str, network: Network, num_messages: int) -> Rows:
    """Return a zeroed table by part: plane by plane, a row per message."""
    count = network.num_planes * num_messages
    return rows(name, count)[:count]


def ack_rows(network: Network, num_messages: int) -> Rows:
    """Return the table of acknowledgements: by part, where slots wait for deliveries."""
    acks = part_rows("acks", network, num_messages) if network.endpoint.acked else rows("acks", 1)
    acks["share"] = NONE
    return acks


def rows_per_start(schedule: Schedule) -> int:
    """Return the most packets that become rows, or reach one output, when one packet starts: all copies and itself."""
    groups = schedule.messages.groups
    copies = np.where(groups.sources > 1, 1, groups.count)
    return 1 + int(copies.max(initial=0))


def is_relayed(messages: Rows) -> npt.NDArray[np.bool_]:
    """Tell which messages the switches make of others: they are delivered and not injected."""
    relayed: npt.NDArray[np.bool_] = (messages["packets"] > 0) & (messages["share_bytes"] == 0)
    return relayed


def group_rows(network: Network, schedule: Schedule, cut: Cut) -> tuple[Rows, Rows, Rows]:
    """Return the tables of groups, contributions and merges; they are of the first block of a workload."""
    source = schedule.messages.groups
    groups = rows("groups", len(source))[: max(1, len(source))]
    if not len(source):
        return groups, rows("contributions", 1), rows("merges", 1)
    reduces = source.sources > 1
    # A packet that waits for others holds room where it came in.
    wire_bytes = np.array([network.packet.wire_bytes(payload) for payload in cut.payload_bytes.tolist()])
    most = np.minimum(int(network.channels.buffer_bytes.max()) // wire_bytes, source.count * cut.packets)
    ring = np.array([1 << count.bit_length() for count in most.tolist()]) * reduces
    contributions = source.sources * reduces
    for name, column_ in (
        ("reduction_ps", cut.reduction_ps),
        ("first", source.first),
        ("count", source.count),
        ("sources", source.sources),
        ("packets", cut.packets),
        ("payload_bytes", cut.payload_bytes),
        ("merge_mask", np.maximum(ring, 1) - 1),
        ("first_contribution", network.num_planes * (np.cumsum(contributions) - contributions)),
        ("first_merge", network.num_planes * (np.cumsum(ring) - ring)),
    ):
        groups[name] = column_
    return (
        groups,
        rows("contributions", network.num_planes * int(contributions.sum())),
        rows("merges", network.num_planes * int(ring.sum())),
    )


def share_sizes(network: Network, messages: Rows) -> Int64:
    """Return what each share of the messages is cut as; shape (messages,), with weights (planes, messages)."""
    share_bytes: Int64 = messages["share_bytes"]
    if network.weights is None:
        return share_bytes
    weight = np.zeros((len(network.bundle_first) - 1, network.num_planes), np.int64)
    bundle = np.repeat(np.arange(len(weight)), np.diff(network.bundle_first))
    member = network.bundle_channels
    weight[bundle, network.channels.plane[member]] = network.weights[member]
    of_pair = weight[network.bundle_index[messages["source"], messages["destination"]]].T
    weights = messages["weights"].astype(np.int64)
    whole, rest = np.divmod(share_bytes, np.maximum(weights, 1))
    weighted = whole * of_pair - (-rest * of_pair // np.maximum(weights, 1))
    return np.where(weights > 0, weighted, share_bytes)


def share_packets(network: Network, messages: Rows) -> Int64:
    """Return how many packets of each share of the messages are delivered, in the shape of ``share_sizes``."""
    if network.weights is None:
        return messages["packets"].astype(np.int64)
    packets: Int64 = -(-share_sizes(network, messages) // network.packet.max_payload_bytes)
    return packets


def total_packets(network: Network, messages: Rows) -> int:
    """Return how many packets the messages are cut into."""
    packets = share_packets(network, messages)
    if packets.ndim == 1:
        return int((messages["num_shares"] * packets).sum())
    return int(np.where(messages["weights"] > 0, packets.sum(axis=0), messages["num_shares"] * packets[0]).sum())


def shortest_payload(network: Network, messages: Rows) -> int:
    """Return the shortest payload of a packet, but of in-network operations, whose packets are alike."""
    full_bytes = network.packet.max_payload_bytes
    share_bytes = share_sizes(network, messages)
    share_bytes = share_bytes[(share_bytes > 0) & (messages["group"] == NONE)]
    last = share_bytes - (share_bytes - 1) // full_bytes * full_bytes
    return int(last.min(initial=full_bytes))


def starts_per_window(duration_ps: Int64, shift: int) -> Int64:
    """Return the most packets that channels of the given shortest serialization can start in one window.

    At a terminal the injection time separates starts, which is no shorter.
    """
    starts: Int64 = (1 << shift) // duration_ps + 1
    return starts


def route_rows(network: Network) -> tuple[Rows, Rows, Int64, Int64]:
    """Return the tables of routes and candidates, and per switch its first row of routes and its first output channel.

    Counted from the first output of the switch the routes of many switches are the same, such as those of all planes;
    sharing them keeps the table in the cache.
    """
    switches = network.num_switches
    if switches == 0:
        return rows("routes", 0), rows("candidates", 0), np.zeros(0, np.int64), np.zeros(0, np.int64)
    # The outputs of a switch are consecutive.
    first_output = np.full(network.num_nodes, len(network.channels))
    np.minimum.at(first_output, network.channels.source_node, np.arange(len(network.channels)))
    # All outputs of a switch are the first one's of its rows.
    first_output = np.repeat(first_output[network.num_terminals :: network.vcs_per_switch], network.vcs_per_switch)
    # Distinct candidate lists first: a switch has far fewer of them than destinations.
    pair = (network.route_first.astype(np.int64) << 32) | network.route_count
    _, where, pair = np.unique(pair.reshape(-1), return_index=True, return_inverse=True)
    switch = where // network.num_terminals
    first = network.route_first.reshape(-1)[where].astype(np.int64)
    count = network.route_count.reshape(-1)[where]
    k = np.arange(count.max())
    place = np.minimum(first[:, None] + k, len(network.candidates) - 1)
    outputs = np.where(k < count[:, None], network.candidates[place] - first_output[switch, None], NONE)
    lists, which = np.unique(outputs, axis=0, return_inverse=True)
    by_switch = which.reshape(-1)[pair.reshape(switches, -1)]
    kinds, kind = np.unique(by_switch, axis=0, return_inverse=True)
    route_row = kind.reshape(-1).astype(np.int64) * network.num_terminals

    length = np.count_nonzero(lists != NONE, axis=1)
    routes = rows("routes", kinds.size)
    routes["first"] = (np.cumsum(length) - length)[kinds.reshape(-1)]
    routes["count"] = length[kinds.reshape(-1)]
    return routes, column("candidates", "output", lists[lists != NONE]), route_row, first_output


# --- work ----------------------------------------------------------------------------------------------------------


def message_rows(network: Network, schedule: Schedule, terminal_of_rank: Int32, seed: int, operation: Int64) -> Rows:
    """Return the table of messages, striped; hashes know operations by *operation*, numbers in the whole workload."""
    source = schedule.messages
    count = len(source)
    messages = rows("messages", count)[:count]
    terminal = terminal_of_rank[schedule.tasks.rank].astype(np.int64)
    src = terminal[source.source_task]
    dst = terminal[source.target_task]
    size = source.size_bytes
    # Messages of groups go on the bundle that leads to another member.
    toward = terminal[source.toward_task]
    moves = (size > 0) & (src != toward)

    bundle = np.where(moves, network.bundle_index[src, toward], 0)
    width = np.diff(network.bundle_first)
    planes = width[bundle]
    wanted = -(-size // network.packet.stripe_min_bytes)
    num_shares = np.where(moves, np.minimum(planes, wanted), 0)
    share_bytes = np.where(moves, -(-size // np.maximum(num_shares, 1)), 0)
    operation, index = operation[source.operation], source.index.astype(np.int64)
    # A bundle that is a part of another is no ring: its successive planes have to end with its last one.
    whole = network.bundle_whole[bundle]
    firsts = np.where(planes < width[whole], planes - num_shares + 1, planes)
    chosen = hash_words(seed, FIRST_PLANE, src, dst, operation, index)
    grouped, group, place = source.groups.rows()
    chosen[grouped] = first_planes(schedule, seed, operation)[group]
    first_plane = chosen % firsts
    first_plane = np.where(num_shares < planes, first_plane, 0) + network.bundle_position[bundle]

    messages["ready_ps"] = messages["complete_ps"] = NOT_YET
    messages["first_injection_ps"] = NEVER
    messages["share_bytes"] = share_bytes
    if network.weights is not None:
        of_bundle = np.add.reduceat(network.weights[network.bundle_channels], network.bundle_first[:-1])
        messages["weights"] = np.where(moves & (num_shares == planes), of_bundle[bundle], 0)
        messages["share_bytes"] = np.where(messages["weights"] > 0, size, share_bytes)
    messages["flow"] = hash_words(seed, FLOW, src, dst)
    messages["number"] = (operation << 32) | index
    messages["source"], messages["destination"] = src, dst
    messages["source_task"], messages["target_task"] = source.source_task, source.target_task
    messages["shares_left"] = messages["parts_left"] = messages["num_shares"] = num_shares
    messages["first_plane"] = first_plane % width[whole]
    messages["bundle"] = whole
    vcs = [network.vcs.of(operation.name, operation.op) for operation in schedule.operations]
    messages["vc"] = np.array(vcs, np.uint32)[source.operation]
    messages["next_ready"] = messages["group"] = NONE
    messages["packets"] = -(-share_bytes // network.packet.max_payload_bytes)
    if len(grouped):
        cut = cut_groups(network, schedule, terminal_of_rank)
        messages["group"][grouped] = group
        messages["packets"][grouped] = cut.packets[group]
        # A carrier of a reduction is cut into the packets of all its messages.
        groups = source.groups
        injects = np.where(groups.sources > 1, groups.count, 1)[group] * (place < groups.sources[group])
        messages["share_bytes"][grouped] = injects * (cut.packets * cut.payload_bytes)[group]
        messages["shares_left"][grouped] = np.where(injects > 0, num_shares[grouped], 0)
    return messages


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
    counts = ~after_complete | to_itself | (messages["packets"][awaited] > 0)
    if len(source.groups):
        awaited = np.where(after_complete, awaited, source.carrier[awaited])
    waiter, awaited, after_complete = waiter[counts], awaited[counts], after_complete[counts]
    order = np.lexsort((waiter, awaited, after_complete))
    waiter, awaited, after_complete = waiter[order], awaited[order], after_complete[order]
    num_sent = int(np.count_nonzero(~after_complete))
    messages["after_sent_first"], messages["after_sent_count"] = ranges(awaited[:num_sent], count)
    first, size = ranges(awaited[num_sent:], count)
    messages["after_complete_first"], messages["after_complete_count"] = first + num_sent, size
    messages["waiting"] = 1 + np.bincount(waiter, minlength=count)
    return column("followers", "message", waiter)


def task_rows(network: Network, schedule: Schedule, messages: Rows, terminal_of_rank: Int32) -> tuple[Rows, Rows, Rows]:
    """Return the tables of tasks, sends and successors."""
    source = schedule.tasks
    count = len(source)
    tasks = rows("tasks", count)[:count]
    tasks["begin_ps"] = tasks["end_ps"] = NOT_YET
    tasks["not_before_ps"] = source.not_before_ps
    tasks["gap_ps"] = source.gap_ps
    tasks["launch_ps"] = launch_latencies_ps(network.endpoint, schedule)
    tasks["terminal"] = terminal_of_rank[source.rank]
    tasks["first_successor"] = tasks["next_new"] = NONE

    by_source = np.argsort(messages["source_task"], kind="stable")
    by_source = by_source[~is_relayed(messages)[by_source]]
    tasks["sends_first"], tasks["sends_count"] = ranges(messages["source_task"][by_source], count)
    to_itself = messages["source_task"] == messages["target_task"]
    received = (messages["packets"] > 0) | to_itself
    receives = np.bincount(messages["target_task"][received], minlength=count)
    tasks["pending"] = tasks["sends_count"] + receives

    num_predecessors = np.diff(source.predecessor_first)
    task = np.repeat(np.arange(count), num_predecessors)
    order = np.argsort(source.predecessors, kind="stable")
    successors = column("successors", "task", task[order])
    link_edges(tasks, successors, 0, source.predecessors[order])
    return tasks, column("sends", "message", by_source), successors


def link_edges(tasks: Rows, successors: Rows, first: int, predecessor: npt.NDArray[np.integer]) -> None:
    """Link edges, rows *first*, ... of *successors*, to the sorted tasks that are waited for; count them as waits."""
    edge = np.arange(first, first + len(predecessor), dtype=np.uint32)
    is_last = np.append(predecessor[1:] != predecessor[:-1], True)[: len(edge)]
    successors["next"][edge[~is_last]] = edge[~is_last] + 1
    successors["next"][edge[is_last]] = tasks["first_successor"][predecessor[is_last]]
    is_first = np.roll(is_last, 1)
    tasks["first_successor"][predecessor[is_first]] = edge[is_first]
    np.add.at(tasks["waiting"], successors["task"][edge], np.uint32(1))


def chain_new_tasks(tasks: Rows, free: Int64, end: int = NONE) -> int:
    """Let the tasks *free*, which wait for none, begin at the next epoch; return the head of their list."""
    if not len(free):
        return end
    tasks["begin_ps"][free] = tasks["not_before_ps"][free] + tasks["gap_ps"][free]
    # In time order, so that timers need no search.
    order = free[np.argsort((tasks["begin_ps"] + tasks["launch_ps"])[free], kind="stable")]
    tasks["next_new"][order[:-1]] = order[1:]
    tasks["next_new"][order[-1]] = end
    return int(order[0])


def num_timers(messages: Rows, tasks: Rows) -> int:
    """Return how many timers there can be at most."""
    return 2 * len(messages) + len(tasks)
