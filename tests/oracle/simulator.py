"""The oracle: a slow, obvious simulator with an object per packet, written from docs/physics.md alone.

It shares nothing with ``fabricsim.engine``: where the engine runs windows over tables, this is an agenda of
instants, and every instant is the four steps of section 3. "Section" below always means docs/physics.md.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, isqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fabricsim.errors import StallError, UnreachableError
from fabricsim.fabrics.network import Endpoint, Network, Protocol
from fabricsim.workloads.schedule import Operation, Schedule

Int64 = npt.NDArray[np.int64]

MASK = 0xFFFFFFFF
USE_TIE, USE_FLOW, USE_FIRST_PLANE = 1, 2, 4
WAY_LIMIT_PS = 2**32 - 1


def mix32(x: int) -> int:
    """Mix one 32-bit word (section 1)."""
    x ^= x >> 16
    x = x * 0x21F0AAAD & MASK
    x ^= x >> 15
    x = x * 0x735A2D97 & MASK
    return x ^ x >> 15


def hash_of(*arguments: int) -> int:
    """``H`` of section 1: each argument is an int64, taken as its low, then its high 32-bit word."""
    x = 0
    for argument in arguments:
        x = mix32(x ^ argument & MASK)
        x = mix32(x ^ argument >> 32 & MASK)
    return x


@dataclass(eq=False)
class Task:
    """An operation at one rank (section 9); a time is None until it is known."""

    number: int
    operation: int
    rank: int
    gap_ps: int
    not_before_ps: int
    launch_ps: int
    predecessors: list[Task] = field(default_factory=list)
    sends: list[Message] = field(default_factory=list)
    receives: list[Message] = field(default_factory=list)
    begin_ps: int | None = None
    start_ps: int | None = None
    end_ps: int | None = None


@dataclass(eq=False)
class Group:
    """Messages that switches make packets for (section 14); the first ``num_carriers`` of them are injected."""

    messages: list[Message]
    num_carriers: int
    num_shares: int
    num_packets: int  # p: of a message on a plane
    payload_bytes: int
    arrived: dict[tuple[int, int], list[Packet]] = field(default_factory=dict)  # by switch and q, while they wait

    @property
    def reduces(self) -> bool:
        """Whether several packets become one, or one becomes several."""
        return self.num_carriers > 1

    def carrier_of(self, message: Message) -> Message:
        """Return what is injected for a message."""
        return self.messages[self.messages.index(message) % self.num_carriers]

    def of_packet(self, number: int) -> tuple[Message, int]:
        """Return of which message of a reduction packet ``number`` of a carrier is, and which of its packets."""
        round_, in_round = divmod(number, self.num_carriers * self.num_packets)
        of_message, place = divmod(in_round, self.num_carriers)
        return self.messages[round_ * self.num_carriers + place], of_message

    def held_bytes(self, share: int, number: int) -> int:
        """Payload of packet ``number`` of a message in a share; the rest of it is slack."""
        size_bytes = self.messages[0].size_bytes
        in_share = size_bytes // self.num_shares + (share < size_bytes % self.num_shares)
        return min(self.payload_bytes, max(0, in_share - number * self.payload_bytes))


@dataclass
class Part:
    """Where the time of a message on one plane went (section 10)."""

    # Until its last packet starts on its first channel.
    endpoint_ps: int = 0
    serialization_ps: int = 0
    credit_stall_ps: int = 0
    last_injection_ps: int = 0
    # On that packet's way from there.
    way_propagation_ps: int = 0
    way_serialization_ps: int = 0
    way_credit_stall_ps: int = 0
    sent_ps: int = -1
    complete_ps: int = -1


@dataclass(eq=False)
class Message:
    """Bytes from one task to another; it is ready once, then its shares travel (sections 7 and 9)."""

    number: int
    index: int
    source: Task
    target: Task
    size_bytes: int
    vc: int
    waits_for: list[Message] = field(default_factory=list)
    ready_ps: int | None = None
    first_injection_ps: int | None = None
    complete_ps: int | None = None
    shares_to_send: int = 0
    packets_to_deliver: int = 0
    delivered_bytes: int = 0
    group: Group | None = None
    parts: defaultdict[int, Part] = field(default_factory=lambda: defaultdict(Part))  # by plane

    @property
    def carrier(self) -> Message:
        """What is injected for it."""
        return self if self.group is None else self.group.carrier_of(self)

    def complete_parts_ps(self) -> list[int]:
        """Split the time from ready to complete (section 10)."""
        if not self.parts:
            return [0] * 5
        plane = max(self.parts, key=lambda plane: (self.parts[plane].complete_ps, -plane))
        way = self.parts[plane]
        start = way if self.group is None or self.group.reduces else self.carrier.parts[plane]
        return self.with_queueing(
            self.complete_ps,
            start.endpoint_ps,
            start.serialization_ps + min(way.way_serialization_ps, WAY_LIMIT_PS),
            min(way.way_propagation_ps, WAY_LIMIT_PS),
            start.credit_stall_ps + way.way_credit_stall_ps,
        )

    def sent_parts_ps(self) -> list[int]:
        """Split the time from ready to sent (section 10)."""
        parts = self.carrier.parts
        if not parts:
            return [0] * 5
        part = parts[max(parts, key=lambda plane: (parts[plane].sent_ps, -plane))]
        own_ps = part.serialization_ps + part.sent_ps - part.last_injection_ps
        return self.with_queueing(part.sent_ps, part.endpoint_ps, own_ps, 0, part.credit_stall_ps)

    def with_queueing(self, end_ps: int | None, *parts_ps: int) -> list[int]:
        """Add what is left of the time from ready to an end to the parts that are known."""
        assert end_ps is not None
        assert self.ready_ps is not None
        return [*parts_ps, end_ps - self.ready_ps - sum(parts_ps)]

    def sent_ps(self) -> int | None:
        """Tell when its last share was sent; without packets when it became ready."""
        return max((part.sent_ps for part in self.carrier.parts.values()), default=self.ready_ps)

    def lets_go_on(self, rank: int) -> bool:
        """Tell whether a message of ``rank`` that waits for this one may stop to (sections 9 and 14)."""
        if self.source is self.target:
            return self.ready_ps is not None and self.packets_to_deliver == 0
        if self.group is not None and rank == self.source.rank:
            return self.ready_ps is not None and self.group.carrier_of(self).shares_to_send == 0
        return self.is_done_at(rank)

    def is_done_at(self, rank: int) -> bool:
        """Tell whether ``rank`` may end: it has sent the message (if source), received it (if target)."""
        if self.size_bytes == 0 and rank != self.source.rank:
            return True
        if self.ready_ps is None:
            return False
        sent = rank != self.source.rank or self.shares_to_send == 0
        received = rank != self.target.rank or self.packets_to_deliver == 0
        return sent and received


@dataclass(eq=False)
class Share:
    """The part of a message that one channel of the bundle injects (sections 7 and 8).

    ``timed_bytes_left`` is what is still to be cut into packets, ``held_bytes_left`` the part of it that is
    payload of the message; the difference is slack.
    """

    message: Message
    channel: Channel
    timed_bytes_left: int
    held_bytes_left: int
    packet_bytes: int  # payload of all its packets but the last
    number: int  # of the shares of the message
    num_sent: int = 0  # packets
    num_delivered: int = 0
    waits_until_ps: int = 0
    endpoint_ps: int = 0
    serialization_ps: int = 0
    credit_stall_ps: int = 0
    sent_ps: int | None = None  # the end of its last injection time, from the start of that packet on
    way_back_ps: int = 0

    def message_ended_by_next(self, payload_bytes: int) -> Message | None:
        """Tell for which message the next packet is the last that this share injects."""
        group = self.message.group
        if group is None or not group.reduces:
            return self.message if self.timed_bytes_left == payload_bytes else None
        message, number = group.of_packet(self.num_sent)
        is_own = group.carrier_of(message) is self.message
        return message if is_own and number == group.num_packets - 1 else None


@dataclass(eq=False)
class Packet:
    """One packet of a share; ``channel`` is the one it crosses or crossed last."""

    message: Message
    channel: Channel
    payload_bytes: int
    held_bytes: int
    wire_bytes: int
    injected_ps: int
    vc: int  # of its channel
    next_vc: int = 0  # of the output where it waits
    share: int = 0  # whose packet it is, and which
    number: int = 0
    part: Share | None = None  # the same share, but of packets that a switch made
    head_arrival_ps: int = 0
    earliest_start_ps: int = 0  # e of section 5
    ejection_ps: int = 0  # fixed at the start on the last channel
    made_of: Holding | None = None
    follows: Part | None = None  # what says where its time went, if it is a last packet
    slower_by_ps: int = 0  # the wait for the slower channel before


@dataclass(eq=False)
class Holding:
    """Packets that keep their room until the last packet that a switch made of them has left (section 14)."""

    packets: list[Packet]
    num_left: int
    last_left_ps: int = 0


@dataclass(eq=False)
class Channel:
    """One direction of a link, with the sender in front of it and the buffer (or ejection) behind it."""

    number: int
    source: int
    target: int
    place: int
    plane: int
    channel_class: int
    tie_key: int
    ps_per_byte: Fraction
    latency_ps: int
    buffer_bytes: int
    copy_ps_per_byte: Fraction | None
    ejection_ps_per_byte: Fraction | None
    # The sender's side. A switch uses the queues; a terminal uses ready shares, slots and the ring.
    room_bytes: list[int]  # per vc
    queues: list[list[Packet]]  # per vc
    served_vc: int
    free_slots: int
    free_from_ps: int = 0
    reducer_free_from_ps: int = 0  # of an output
    picked: Packet | None = None  # waits until it may start
    ready: list[Share] = field(default_factory=list)
    ring: list[Share] = field(default_factory=list)
    # The receiver's side: a switch sprays, a terminal ejects.
    spray_counter: int = 0
    ejection_queue: list[Packet] = field(default_factory=list)
    ejection_free_from_ps: int = 0
    # What is recorded (section 10).
    busy_ps: int = 0
    wire_bytes: int = 0
    packets: int = 0
    credit_stall_ps: int = 0
    peak_occupancy_bytes: int = 0  # the largest of a vc

    def serialization_ps(self, wire_bytes: int) -> int:
        """Time from head to tail of a packet on this channel."""
        return ceil(wire_bytes * self.ps_per_byte)

    def backlog_bytes(self) -> int:
        """Wire bytes of the packets in the queues of all vcs (section 6)."""
        return sum(packet.wire_bytes for queue in self.queues for packet in queue)

    def injection_ps(self, payload_bytes: int, wire_bytes: int) -> int:
        """Time that a packet occupies this channel at the terminal that injects it."""
        copy_ps = ceil(payload_bytes * (self.copy_ps_per_byte or 0))
        return max(self.serialization_ps(wire_bytes), copy_ps)

    def ejection_ps(self, payload_bytes: int, wire_bytes: int) -> int:
        """Time that a packet occupies the ejection behind this channel."""
        copy_ps = ceil(payload_bytes * (self.ejection_ps_per_byte or 0))
        return max(self.serialization_ps(wire_bytes), copy_ps)


@dataclass
class Instant:
    """All that is known to happen at one time; ``nodes`` are those that have to look around then."""

    credits: list[tuple[Channel, int, int]] = field(default_factory=list)  # (channel, vc, wire bytes)
    shares_sent: list[Share] = field(default_factory=list)
    slots_freed: list[Channel] = field(default_factory=list)
    ejected: list[Packet] = field(default_factory=list)
    arrivals: list[Packet] = field(default_factory=list)
    nodes: set[int] = field(default_factory=set)


class Use(NamedTuple):
    """A start of a packet on a channel."""

    time_ps: int
    plane: int
    channel_class: int
    busy_ps: int
    credit_stall_ps: int
    occupancy_bytes: int


@dataclass(frozen=True)
class OracleResult:
    """What section 10 records. Arrays are int64, one row per task, message or channel of the tables given.

    ``packet_latency_ps`` has one entry per packet, in ascending order. Parts of times stand in the order endpoint,
    serialization, propagation, credit stall, queueing.
    """

    task_begin_ps: Int64
    task_end_ps: Int64
    message_ready_ps: Int64
    message_first_injection_ps: Int64
    message_complete_ps: Int64
    message_delivered_bytes: Int64
    channel_busy_ps: Int64
    channel_wire_bytes: Int64
    channel_packets: Int64
    channel_credit_stall_ps: Int64
    channel_peak_occupancy_bytes: Int64
    packet_latency_ps: Int64
    simulated_time_ps: int
    message_sent_ps: Int64
    message_complete_parts_ps: Int64
    message_sent_parts_ps: Int64
    uses: list[Use]


def simulate(
    network: Network,
    schedule: Schedule,
    *,
    seed: int,
    terminal_of_rank: Sequence[int],
    changes: Sequence[tuple[int, Network]] = (),
) -> OracleResult:
    """Run ``schedule`` on ``network`` with rank r at terminal ``terminal_of_rank[r]``.

    From the time [ps] of each of *changes* on its network takes the place of the one before.

    Raises
    ------
    UnreachableError
        A change leaves a packet or a message no way.
    StallError
        Nothing is left to do and tasks have not ended; the message lists them.
    OverflowError
        A result does not fit into an int64.
    """
    simulation = Simulation(network, schedule, seed, terminal_of_rank, changes)
    simulation.run()
    return simulation.result()


class Simulation:
    """One run: the objects, the agenda and the four steps of an instant."""

    def __init__(
        self,
        network: Network,
        schedule: Schedule,
        seed: int,
        terminal_of_rank: Sequence[int],
        changes: Sequence[tuple[int, Network]] = (),
    ) -> None:
        self.network = network
        self.changes = dict(changes)
        self.seed = seed
        self.terminal_of_rank = [int(terminal) for terminal in terminal_of_rank]
        self.channels = build_channels(network, seed)
        self.bundles = np.split(network.bundle_channels, network.bundle_first[1:-1])
        self.tasks = build_tasks(network, schedule)
        self.messages = build_messages(network, schedule, self.tasks)
        self.outputs: list[list[Channel]] = [[] for _ in range(network.num_nodes)]
        self.inputs: list[list[Channel]] = [[] for _ in range(network.num_nodes)]
        for channel in self.channels:
            self.outputs[channel.source].append(channel)
            self.inputs[channel.target].append(channel)
        self.tasks_at_node: list[list[Task]] = [[] for _ in range(network.num_nodes)]
        for task in self.tasks:
            self.tasks_at_node[self.terminal_of_rank[task.rank]].append(task)
        self.packet_latencies_ps: list[int] = []
        self.uses: list[Use] = []
        self.now_ps = -1  # so that the instant 0 lies ahead
        self.agenda: dict[int, Instant] = {}
        self.agenda_times: list[int] = []  # a heap of the keys of the agenda

    # The agenda and the four steps (section 3) ---------------------------------------------------------------

    def at(self, time_ps: int) -> Instant:
        """Return the coming instant at ``time_ps``, to add to it; nothing acts on its own instant."""
        if time_ps <= self.now_ps:
            raise AssertionError(f"an event for {time_ps} ps was made at {self.now_ps} ps")
        if time_ps not in self.agenda:
            self.agenda[time_ps] = Instant()
            heapq.heappush(self.agenda_times, time_ps)
        return self.agenda[time_ps]

    def run(self) -> None:
        """Go from instant to instant until none is left."""
        self.at(0).nodes.update(self.terminal_of_rank)
        for time_ps in self.changes:
            self.at(time_ps)
        while self.agenda_times:
            time_ps = heapq.heappop(self.agenda_times)
            instant = self.agenda.pop(time_ps)
            self.now_ps = time_ps
            if time_ps in self.changes:
                self.change(self.changes[time_ps], instant)
            # Every channel takes time, so nodes cannot touch each other within an instant: step by step over
            # all nodes is the same as node by node.
            self.take_effect(instant)
            self.route_arrivals(instant)
            for node in instant.nodes:
                while self.advance_tasks(node):
                    pass
            for node in instant.nodes:
                self.pick(node)
        self.refuse_stall()

    def take_effect(self, instant: Instant) -> None:
        """Step 1: credits, ends of injections and ends of ejections.

        The ends of packets on channels need no action: a channel is free when ``free_from_ps`` is reached.
        """
        for channel, vc, wire_bytes in instant.credits:
            channel.room_bytes[vc] += wire_bytes
        for share in instant.shares_sent:
            share.message.shares_to_send -= 1
            share.message.parts[share.channel.plane].sent_ps = self.now_ps
        for channel in instant.slots_freed:
            channel.free_slots += 1
        for packet in instant.ejected:
            self.deliver(packet)

    def route_arrivals(self, instant: Instant) -> None:
        """Step 2: route and queue the packets whose heads arrive, at each node in tie order."""

        def tie_order(packet: Packet) -> tuple[int, int, int]:
            tie = mix32(packet.channel.tie_key ^ packet.head_arrival_ps & MASK)
            return packet.channel.target, tie, packet.channel.place

        arrivals = [made for packet in instant.arrivals for made in self.made_at_switch(packet)]
        for packet in sorted(arrivals, key=tie_order):
            if packet.channel.target < self.network.num_terminals:
                packet.channel.ejection_queue.append(packet)
            else:
                self.queue_at_switch(packet)

    def advance_tasks(self, node: int) -> bool:
        """Step 3, one round at a terminal: begin, start and end tasks, release messages; tell if anything changed."""
        changed = False
        for task in self.tasks_at_node[node]:
            if task.begin_ps is None:
                changed |= self.begin_task(task)
            if task.start_ps is not None and task.start_ps <= self.now_ps and task.end_ps is None:
                for message in task.sends:
                    if message.ready_ps is None and all(m.lets_go_on(task.rank) for m in message.waits_for):
                        self.release_message(message)
                        changed = True
                if all(message.is_done_at(task.rank) for message in task.sends + task.receives):
                    task.end_ps = self.now_ps
                    changed = True
        return changed

    def pick(self, node: int) -> None:
        """Step 4: every free output of a node, and every free ejection, picks a packet."""
        if node < self.network.num_terminals:
            for channel in self.outputs[node]:
                self.fill_slots(channel)
                self.inject(channel)
            for channel in self.inputs[node]:
                self.eject(channel)
        else:
            for channel in self.outputs[node]:
                self.forward(channel)

    # A fault at a time (section 13) ---------------------------------------------------------------------------

    def change(self, network: Network, instant: Instant) -> None:
        """Let ``network`` take the place of the one before, at the begin of an instant."""
        self.network = network
        self.bundles = np.split(network.bundle_channels, network.bundle_first[1:-1])
        for channel, now in zip(self.channels, build_channels(network, self.seed), strict=True):
            if channel.ps_per_byte != now.ps_per_byte and channel.source >= network.num_terminals:
                channel.free_from_ps = max(channel.free_from_ps, self.now_ps)
            channel.ps_per_byte = now.ps_per_byte
            channel.copy_ps_per_byte = now.copy_ps_per_byte
            channel.ejection_ps_per_byte = now.ejection_ps_per_byte
            for share in channel.ready + channel.ring:
                target = self.terminal_of_rank[share.message.target.rank]
                if network.channels.dead[channel.number] or not self.leads_on(channel.target, target):
                    self.refuse(share.message)
        taken_out = []
        for channel in self.channels:
            for queue in channel.queues:
                for packet in list(queue):
                    if channel not in (candidate for candidate, _, _ in self.candidates(packet)):
                        queue.remove(packet)
                        taken_out.append(packet)
                        channel.free_from_ps = max(channel.free_from_ps, self.now_ps)
                        if channel.picked is packet:
                            channel.picked = None
        for channel in self.channels:
            for packet in (packet for queue in channel.queues for packet in queue):
                self.wait_to_start(packet, channel)
        for packet in taken_out:
            packet.head_arrival_ps = self.now_ps
            self.queue_at_switch(packet)
        instant.nodes.update(range(network.num_terminals, network.num_nodes))

    def leads_on(self, node: int, target: int) -> bool:
        """Tell whether ``node`` is a terminal's own or a switch with candidates for it."""
        switch = node - self.network.num_terminals
        return node == target or (switch >= 0 and self.network.route_count[switch, target] > 0)

    def refuse(self, message: Message) -> None:
        """Raise an UnreachableError for a message that is in the way of a fault."""
        pair = str(message.source.rank), str(message.target.rank)
        raise UnreachableError("no way is left from rank {} to rank {}".format(*pair), pair)

    # Tasks and messages (sections 7 and 9) -------------------------------------------------------------------

    def begin_task(self, task: Task) -> bool:
        """Fix the begin and start of a task whose predecessors have ended; tell whether they have."""
        ends_ps = [task.not_before_ps]
        for predecessor in task.predecessors:
            if predecessor.end_ps is None:
                return False
            ends_ps.append(predecessor.end_ps)
        task.begin_ps = max(ends_ps) + task.gap_ps
        task.start_ps = task.begin_ps + task.launch_ps
        if task.start_ps > self.now_ps:
            self.at(task.start_ps).nodes.add(self.terminal_of_rank[task.rank])
        return True

    def release_message(self, message: Message) -> None:
        """Make a message ready: stripe it over channels, or finish it at once if it makes no packet."""
        message.ready_ps = self.now_ps
        if message.group is not None:
            self.release_carrier(message, message.group)
            return
        if message.size_bytes == 0 or message.source.rank == message.target.rank:
            message.first_injection_ps = self.now_ps
            message.complete_ps = self.now_ps
            message.delivered_bytes = message.size_bytes
            return
        source, target = self.terminal_of_rank[message.source.rank], self.terminal_of_rank[message.target.rank]
        if self.network.bundle_index[source, target] < 0:
            self.refuse(message)
        bundle = self.bundle(source, target)
        packet = self.network.packet
        num_shares = min(len(bundle), ceil(Fraction(message.size_bytes, packet.stripe_min_bytes)))
        first = 0
        if num_shares < len(bundle):
            first = hash_of(self.seed, USE_FIRST_PLANE, source, target, message.source.operation, message.index)
            if self.is_part(source, target):
                first %= len(bundle) - num_shares + 1
        timed_bytes = ceil(Fraction(message.size_bytes, num_shares))
        for i in range(num_shares):
            held_bytes = message.size_bytes // num_shares + (i < message.size_bytes % num_shares)
            channel = bundle[(first + i) % len(bundle)]
            if self.network.weights is not None and num_shares == len(bundle):
                weights = [int(self.network.weights[channel.number]) for channel in bundle]
                per_weight = Fraction(message.size_bytes, sum(weights))
                timed_bytes = ceil(per_weight * weights[i])
                held_bytes = ceil(per_weight * sum(weights[: i + 1])) - ceil(per_weight * sum(weights[:i]))
            channel.ready.append(Share(message, channel, timed_bytes, held_bytes, packet.max_payload_bytes, i))
            message.shares_to_send += 1
            message.packets_to_deliver += ceil(Fraction(timed_bytes, packet.max_payload_bytes))

    def release_carrier(self, carrier: Message, group: Group) -> None:
        """Make the carrier of a group ready, and with it what switches make for its place (section 14)."""
        place = group.messages.index(carrier)
        members = [m.source for m in group.messages[: group.num_carriers]]
        if not group.reduces:
            members = [m.target for m in group.messages]
        source, other = (self.terminal_of_rank[task.rank] for task in (members * 2)[place : place + 2])
        bundle = self.bundle(source, other)
        first = 0
        if group.num_shares < len(bundle):
            first = hash_of(self.seed, USE_FIRST_PLANE, carrier.source.operation, group.messages[0].index)
        num_packets = group.num_packets * (len(group.messages) if group.reduces else 1)
        for i in range(group.num_shares):
            channel = bundle[(first + i) % len(bundle)]
            timed_bytes = num_packets * group.payload_bytes
            channel.ready.append(Share(carrier, channel, timed_bytes, 0, group.payload_bytes, i))
            carrier.shares_to_send += 1
        for message in group.messages[place :: group.num_carriers]:
            message.ready_ps = self.now_ps

    def bundle(self, source: int, target: int) -> list[Channel]:
        """Return the injection channels of terminal ``source`` for messages to terminal ``target``."""
        number = int(self.network.bundle_index[source, target])
        first, end = self.network.bundle_first[number], self.network.bundle_first[number + 1]
        return [self.channels[channel] for channel in self.network.bundle_channels[first:end]]

    def is_part(self, source: int, target: int) -> bool:
        """Tell whether there is another bundle with all channels of this one and more (section 7)."""
        mine = {channel.number for channel in self.bundle(source, target)}
        return any(mine < set(other.tolist()) for other in self.bundles)

    # Terminals (section 8) -----------------------------------------------------------------------------------

    def fill_slots(self, channel: Channel) -> None:
        """Give free slots to ready shares, in their order; each then waits its message overhead."""
        channel.ready.sort(
            key=lambda share: (share.message.ready_ps, share.message.source.operation, share.message.index)
        )
        while channel.ready and channel.free_slots > 0:
            share = channel.ready.pop(0)
            channel.free_slots -= 1
            share.waits_until_ps = self.now_ps + self.network.endpoint.message_overhead_ps
            assert share.message.ready_ps is not None
            share.endpoint_ps = share.waits_until_ps - share.message.ready_ps
            channel.ring.append(share)
            if share.waits_until_ps > self.now_ps:
                self.at(share.waits_until_ps).nodes.add(channel.source)

    def inject(self, channel: Channel) -> None:
        """If the channel is free, send the next packet of the first share of the ring that can go."""
        if channel.free_from_ps > self.now_ps:
            return
        can_go = []
        for share in channel.ring:
            payload_bytes = min(share.timed_bytes_left, share.packet_bytes)
            wire_bytes = self.network.packet.wire_bytes(payload_bytes)
            if share.waits_until_ps <= self.now_ps and wire_bytes <= channel.room_bytes[share.message.vc]:
                can_go.append(share)
        if not can_go:
            return
        share = can_go[0]
        if self.network.vcs.arbitration == "priority":
            share = min(can_go, key=lambda share: share.message.vc)  # the first of the least
        payload_bytes = min(share.timed_bytes_left, share.packet_bytes)
        wire_bytes = self.network.packet.wire_bytes(payload_bytes)
        could_start_ps = max(channel.free_from_ps, min(s.waits_until_ps for s in channel.ring))
        stall_ps = self.now_ps - could_start_ps
        for one in channel.ring:
            if one.num_sent > 0:
                one.credit_stall_ps += stall_ps
            elif one is share:
                one.credit_stall_ps += min(stall_ps, self.now_ps - share.waits_until_ps)
        channel.ring.remove(share)
        ended = share.message_ended_by_next(payload_bytes)
        held_bytes = min(share.held_bytes_left, payload_bytes)
        share.timed_bytes_left -= payload_bytes
        share.held_bytes_left -= held_bytes
        group = share.message.group
        together = [share.message]
        if group is not None:
            together = group.messages[group.messages.index(share.message) :: group.num_carriers]
        for message in together:
            if message.first_injection_ps is None:
                message.first_injection_ps = self.now_ps
        packet = Packet(share.message, channel, payload_bytes, held_bytes, wire_bytes, self.now_ps, share.message.vc)
        packet.share, packet.number, packet.part = share.number, share.num_sent, share
        if ended is not None:
            part = packet.follows = ended.parts[channel.plane]
            part.endpoint_ps, part.serialization_ps = share.endpoint_ps, share.serialization_ps
            part.credit_stall_ps, part.last_injection_ps = share.credit_stall_ps, self.now_ps
        share.num_sent += 1
        share.serialization_ps += channel.serialization_ps(wire_bytes)
        share.endpoint_ps += channel.injection_ps(payload_bytes, wire_bytes) - channel.serialization_ps(wire_bytes)
        self.send(packet, could_start_ps)
        channel.free_from_ps = self.now_ps + channel.injection_ps(payload_bytes, wire_bytes)
        free_again = self.at(channel.free_from_ps)
        free_again.nodes.add(channel.source)
        if share.timed_bytes_left > 0:
            channel.ring.append(share)
            return
        free_again.shares_sent.append(share)
        share.sent_ps = channel.free_from_ps
        share.way_back_ps = self.way_back_ps(channel, self.terminal_of_rank[share.message.target.rank])
        if not self.network.endpoint.acked or group is not None:
            free_again.slots_freed.append(channel)

    def way_back_ps(self, channel: Channel, target: int) -> int:
        """Add up the latencies of the way by ``channel`` that takes the first candidate at each switch."""
        latencies_ps = [channel.latency_ps]
        while channel.target != target:
            switch = channel.target - self.network.num_terminals
            channel = self.channels[self.network.candidates[self.network.route_first[switch, target]]]
            latencies_ps.append(channel.latency_ps)
        return sum(latencies_ps)

    def eject(self, channel: Channel) -> None:
        """If the ejection behind a last channel is free, start the packet that arrived first."""
        if channel.ejection_free_from_ps > self.now_ps or not channel.ejection_queue:
            return
        packet = channel.ejection_queue.pop(0)
        channel.ejection_free_from_ps = self.now_ps + packet.ejection_ps
        end = self.at(channel.ejection_free_from_ps)
        end.nodes.add(channel.target)
        end.ejected.append(packet)
        self.return_credit(channel, packet.vc, packet, channel.ejection_free_from_ps)

    def deliver(self, packet: Packet) -> None:
        """End the ejection of a packet: it is delivered now, and so is its message if it was the last."""
        self.packet_latencies_ps.append(self.now_ps - packet.injected_ps)
        message = packet.message
        message.delivered_bytes += packet.held_bytes
        message.packets_to_deliver -= 1
        message.parts[packet.channel.plane].complete_ps = self.now_ps
        if packet.follows is not None:
            packet.follows.way_serialization_ps += packet.ejection_ps
        if message.packets_to_deliver == 0:
            message.complete_ps = self.now_ps
        share = packet.part
        if share is None or message.group is not None or not self.network.endpoint.acked:
            return
        share.num_delivered += 1
        if share.sent_ps is not None and share.num_delivered == share.num_sent:
            known = self.at(max(share.sent_ps, self.now_ps + share.way_back_ps))
            known.nodes.add(share.channel.source)
            known.slots_freed.append(share.channel)

    # Switches, channels and credits (sections 4 to 6) --------------------------------------------------------

    def candidates(self, packet: Packet) -> list[tuple[Channel, int, bool]]:
        """Return the outputs that a packet may take at the switch that it has come to; there is one at least.

        With each stands the vc that it would take there, and whether that is a detour.
        """
        target = self.terminal_of_rank[packet.message.target.rank]
        switch = packet.channel.target - self.network.num_terminals
        first, minimal = int(self.network.route_first[switch, target]), int(self.network.route_count[switch, target])
        count = minimal
        if self.network.detour_count is not None and packet.vc == 0:
            count += int(self.network.detour_count[switch, target])
        if count == 0:
            self.refuse(packet.message)
        channels = [self.channels[channel] for channel in self.network.candidates[first : first + count]]
        if self.network.detour_count is None:
            return [(channel, packet.message.vc, False) for channel in channels]
        return [(channel, int(row >= minimal), row >= minimal) for row, channel in enumerate(channels)]

    def wait_to_start(self, packet: Packet, channel: Channel) -> None:
        """Work out ``e`` of a packet that is queued for ``channel``."""
        parts = [packet] if packet.made_of is None else packet.made_of.packets
        waits_ps = [] if packet.made_of is None else [packet.earliest_start_ps]  # for the reducer
        for part in parts:
            slower_by_ps = part.channel.serialization_ps(packet.wire_bytes) - channel.serialization_ps(
                packet.wire_bytes
            )
            waits_ps.append(part.head_arrival_ps + max(0, slower_by_ps))
        packet.earliest_start_ps = max(waits_ps)
        came_by_ps = packet.channel.serialization_ps(packet.wire_bytes)
        packet.slower_by_ps = max(0, came_by_ps - channel.serialization_ps(packet.wire_bytes))
        if packet.earliest_start_ps > self.now_ps:
            self.at(packet.earliest_start_ps).nodes.add(channel.source)

    def made_at_switch(self, packet: Packet) -> list[Packet]:
        """Return what becomes of a packet whose head arrives: itself, or what a switch makes of it (section 14)."""
        group, came_by = packet.message.group, packet.channel
        if group is None or came_by.target < self.network.num_terminals or packet.made_of is not None:
            return [packet]
        if not group.reduces:
            holding = Holding([packet], len(group.messages))
            held_bytes = group.held_bytes(packet.share, packet.number)
            copies = [self.made_of(holding, message, packet, held_bytes) for message in group.messages]
            for copy in copies:
                if packet.follows is not None:
                    copy.follows = copy.message.parts[came_by.plane]
                    copy.follows.way_propagation_ps = came_by.latency_ps
            return copies
        merging = group.arrived.setdefault((came_by.target, packet.number), [])
        merging.append(packet)
        if len(merging) < group.num_carriers:
            return []
        message, number = group.of_packet(packet.number)
        last = min(merging, key=lambda one: (-one.head_arrival_ps, one.channel.place))
        made = self.made_of(Holding(merging, 1), message, last, group.held_bytes(packet.share, number))
        made.follows = next((one.follows for one in merging if one.follows is not None), None)
        target = self.terminal_of_rank[message.target.rank]
        (output,) = (channel for channel in self.outputs[came_by.target] if channel.target == target)
        made.head_arrival_ps = max(self.now_ps, output.reducer_free_from_ps)
        reduction_ps = self.reduction_ps(group, came_by.target)
        output.reducer_free_from_ps = made.head_arrival_ps + reduction_ps
        slower_by_ps = reduction_ps - output.serialization_ps(made.wire_bytes)
        made.earliest_start_ps = made.head_arrival_ps + max(0, slower_by_ps)
        if made.head_arrival_ps == self.now_ps:
            return [made]
        later = self.at(made.head_arrival_ps)
        later.nodes.add(came_by.target)
        later.arrivals.append(made)
        return []

    def made_of(self, holding: Holding, message: Message, like: Packet, held_bytes: int) -> Packet:
        """Make a packet of others that takes part as if it had come like one of them."""
        injected_ps = min(packet.injected_ps for packet in holding.packets)
        made = Packet(message, like.channel, like.payload_bytes, held_bytes, like.wire_bytes, injected_ps, like.vc)
        made.head_arrival_ps = like.head_arrival_ps
        made.made_of = holding
        return made

    def reduction_ps(self, group: Group, switch: int) -> int:
        """Time that an output's part of a switch takes to make one packet of several."""
        rate = self.network.reduction_ps_per_byte
        assert rate is not None
        return ceil(group.num_carriers * group.payload_bytes * len(self.outputs[switch]) * rate)

    def queue_at_switch(self, packet: Packet) -> None:
        """Choose the output of a packet whose head has arrived and put it at the back of its queue."""
        came_by = packet.channel
        source = self.terminal_of_rank[packet.message.source.rank]
        target = self.terminal_of_rank[packet.message.target.rank]
        candidates = self.candidates(packet)
        count = len(candidates)
        choice = 0
        if count > 1 and self.network.routing == "deterministic":
            choice = hash_of(self.seed, USE_FLOW, source, target) % count
        elif count > 1:
            choice = came_by.spray_counter % count
            came_by.spray_counter += 1

        def cost_bytes(candidate: tuple[Channel, int, bool]) -> int:
            channel, _, is_detour = candidate
            return 2 * channel.backlog_bytes() + 1 if is_detour else channel.backlog_bytes()

        if self.network.routing in ("adaptive", "ugal"):
            slack_bytes = 4 * self.network.packet.wire_bytes(self.network.packet.max_payload_bytes)
            most_bytes = min(map(cost_bytes, candidates)) + (slack_bytes if self.network.detour_count is None else 0)
            in_turn = candidates[choice:] + candidates[:choice]
            goes_by, packet.next_vc, _ = next(one for one in in_turn if cost_bytes(one) <= most_bytes)
        else:
            goes_by, packet.next_vc, _ = candidates[choice]
        self.wait_to_start(packet, goes_by)
        goes_by.queues[packet.next_vc].append(packet)

    def pick_vc(self, channel: Channel) -> Packet | None:
        """Return the packet that a switch's free output picks now among the fronts of its vcs that have room."""
        fronts = [
            queue[0]
            for vc, queue in enumerate(channel.queues)
            if queue and queue[0].wire_bytes <= channel.room_bytes[vc]
        ]
        if not fronts:
            return None
        if self.network.vcs.arbitration == "priority":
            return min(fronts, key=lambda packet: packet.next_vc)
        if self.network.vcs.arbitration == "round_robin":
            first = channel.served_vc + 1
            return min(fronts, key=lambda packet: (packet.next_vc - first) % len(channel.queues))

        def tie_order(packet: Packet) -> tuple[int, int, int]:
            tie = mix32(packet.channel.tie_key ^ packet.head_arrival_ps & MASK)
            return packet.head_arrival_ps, tie, packet.channel.place

        return min(fronts, key=tie_order)

    def forward(self, channel: Channel) -> None:
        """If a switch's output is free, pick a packet, if it has not, and send it once it may start."""
        if channel.free_from_ps > self.now_ps:
            return
        if channel.picked is None:
            channel.picked = self.pick_vc(channel)
        packet = channel.picked
        if packet is None or packet.earliest_start_ps > self.now_ps:
            return
        channel.picked = None
        channel.served_vc = packet.next_vc
        channel.queues[packet.next_vc].remove(packet)
        came_by, packet.channel = packet.channel, channel
        came_by_vc, packet.vc = packet.vc, packet.next_vc
        could_start_ps = max(packet.earliest_start_ps, channel.free_from_ps)
        if packet.follows is not None:
            packet.follows.way_serialization_ps += packet.slower_by_ps
            packet.follows.way_credit_stall_ps += self.now_ps - could_start_ps
        self.send(packet, could_start_ps)
        channel.free_from_ps = self.now_ps + channel.serialization_ps(packet.wire_bytes)
        self.at(channel.free_from_ps).nodes.add(channel.source)
        holding = packet.made_of
        if holding is None:
            self.return_credit(came_by, came_by_vc, packet, channel.free_from_ps)
            return
        holding.num_left -= 1
        holding.last_left_ps = max(holding.last_left_ps, channel.free_from_ps)
        if holding.num_left == 0:
            for held in holding.packets:
                self.return_credit(held.channel, held.vc, held, holding.last_left_ps)

    def send(self, packet: Packet, could_start_ps: int) -> None:
        """Start a packet on its channel now; but for credits it would have started at ``could_start_ps``."""
        channel = packet.channel
        vc = packet.vc
        channel.room_bytes[vc] -= packet.wire_bytes
        channel.packets += 1
        channel.wire_bytes += packet.wire_bytes
        channel.busy_ps += channel.serialization_ps(packet.wire_bytes)
        channel.credit_stall_ps += self.now_ps - could_start_ps
        occupancy_bytes = channel.buffer_bytes - channel.room_bytes[vc]
        channel.peak_occupancy_bytes = max(channel.peak_occupancy_bytes, occupancy_bytes)
        if packet.follows is not None:
            packet.follows.way_propagation_ps += channel.latency_ps
        serialization_ps, stall_ps = channel.serialization_ps(packet.wire_bytes), self.now_ps - could_start_ps
        self.uses.append(
            Use(self.now_ps, channel.plane, channel.channel_class, serialization_ps, stall_ps, occupancy_bytes)
        )
        packet.head_arrival_ps = self.now_ps + channel.latency_ps
        packet.ejection_ps = channel.ejection_ps(packet.payload_bytes, packet.wire_bytes)
        arrival = self.at(packet.head_arrival_ps)
        arrival.nodes.add(channel.target)
        arrival.arrivals.append(packet)

    def return_credit(self, channel: Channel, vc: int, packet: Packet, tail_left_ps: int) -> None:
        """Give the room of a packet back to the sender of ``channel``, one latency after its tail has left."""
        usable = self.at(tail_left_ps + channel.latency_ps)
        usable.nodes.add(channel.source)
        usable.credits.append((channel, vc, packet.wire_bytes))

    # The end -------------------------------------------------------------------------------------------------

    def refuse_stall(self) -> None:
        """Raise a StallError that lists what is unfinished, if anything is."""
        tasks = [
            f"task {task.number} (operation {task.operation} at rank {task.rank}) "
            + ("never began" if task.begin_ps is None else f"began at {task.begin_ps} ps and did not end")
            for task in self.tasks
            if task.end_ps is None
        ]
        messages = [
            f"message {message.number} (rank {message.source.rank} to {message.target.rank}) "
            + ("never became ready" if message.ready_ps is None else f"lacks {message.packets_to_deliver} packets")
            for message in self.messages
            if message.complete_ps is None
        ]
        if tasks or messages:
            raise StallError(f"nothing is left to do at {self.now_ps} ps, but: " + "; ".join(tasks + messages))

    def result(self) -> OracleResult:
        """Gather what was recorded, in the order of the tables."""
        tasks, messages, channels = self.tasks, self.messages, self.channels
        return OracleResult(
            task_begin_ps=as_int64([task.begin_ps for task in tasks]),
            task_end_ps=as_int64([task.end_ps for task in tasks]),
            message_ready_ps=as_int64([message.ready_ps for message in messages]),
            message_first_injection_ps=as_int64([message.first_injection_ps for message in messages]),
            message_complete_ps=as_int64([message.complete_ps for message in messages]),
            message_delivered_bytes=as_int64([message.delivered_bytes for message in messages]),
            channel_busy_ps=as_int64([channel.busy_ps for channel in channels]),
            channel_wire_bytes=as_int64([channel.wire_bytes for channel in channels]),
            channel_packets=as_int64([channel.packets for channel in channels]),
            channel_credit_stall_ps=as_int64([channel.credit_stall_ps for channel in channels]),
            channel_peak_occupancy_bytes=as_int64([channel.peak_occupancy_bytes for channel in channels]),
            packet_latency_ps=as_int64(sorted(self.packet_latencies_ps)),
            message_sent_ps=as_int64([message.sent_ps() for message in messages]),
            message_complete_parts_ps=as_int64([message.complete_parts_ps() for message in messages]).reshape(-1, 5),
            message_sent_parts_ps=as_int64([message.sent_parts_ps() for message in messages]).reshape(-1, 5),
            uses=self.uses,
            simulated_time_ps=max((task.end_ps for task in tasks if task.end_ps is not None), default=0),
        )


def as_int64(values: Sequence[int | None] | Sequence[list[int]]) -> Int64:
    """Make an int64 array; a value that does not fit raises OverflowError."""
    return np.array(values, dtype=np.int64)


def build_channels(network: Network, seed: int) -> list[Channel]:
    """Make an object of each row of the channel table."""
    table = network.channels

    def rate(num: int, den: int) -> Fraction | None:
        return Fraction(int(num), int(den)) if num else None

    channels = []
    for c in range(len(table)):
        place = int(table.place[c])
        channel = Channel(
            number=c,
            source=int(table.source_node[c]),
            target=int(table.target_node[c]),
            place=place,
            plane=int(table.plane[c]),
            channel_class=int(table.channel_class[c]),
            tie_key=hash_of(seed, USE_TIE, place),
            ps_per_byte=Fraction(int(table.ps_per_byte_num[c]), int(table.ps_per_byte_den[c])),
            latency_ps=int(table.latency_ps[c]),
            buffer_bytes=int(table.buffer_bytes[c]),
            copy_ps_per_byte=rate(table.copy_ps_per_byte_num[c], table.copy_ps_per_byte_den[c]),
            ejection_ps_per_byte=rate(table.ejection_ps_per_byte_num[c], table.ejection_ps_per_byte_den[c]),
            room_bytes=[int(table.buffer_bytes[c])] * network.vcs.count,
            free_slots=network.endpoint.slots,
            queues=[[] for _ in range(network.vcs.count)],
            served_vc=network.vcs.count - 1,
            spray_counter=int(network.spray_start[c]),
        )
        channels.append(channel)
    return channels


def launch_ps_of(endpoint: Endpoint, operation: Operation) -> int:
    """Tell the launch latency of an operation (section 9)."""
    size, n = operation.size_bytes, len(operation.ranks)
    part = size // n
    for word in (operation.name, operation.op):
        best: Protocol | None = None
        for protocol in endpoint.protocols:
            fits = word in protocol.operations and part >= protocol.least_part_bytes
            if fits and (best is None or protocol.least_part_bytes > best.least_part_bytes):
                best = protocol
        if best is not None:
            rounds = 2 if word == "all_reduce" else 1
            moved = rounds * (size - part)
            launch = best.launch_latency_ps + rounds * (n - 1) * best.step_latency_ps
            launch += ceil(moved * best.staging_ps_per_byte) + ceil(part * best.part_ps_per_byte)
            launch += 2 * isqrt(best.piece_overhead_ps * ceil(size * endpoint.copy_ps_per_byte))
            launch += operation.descriptors * best.descriptor_latency_ps
            hidden = ceil(moved * endpoint.copy_ps_per_byte)
            return launch + max(0, operation.descriptors * best.descriptor_gap_ps - hidden)
    return endpoint.launch_latency_ps


def build_tasks(network: Network, schedule: Schedule) -> list[Task]:
    """Make an object of each row of the task table."""
    table = schedule.tasks
    tasks = [
        Task(
            number=i,
            operation=int(table.operation[i]),
            rank=int(table.rank[i]),
            gap_ps=int(table.gap_ps[i]),
            not_before_ps=int(table.not_before_ps[i]),
            launch_ps=launch_ps_of(network.endpoint, schedule.operations[table.operation[i]])
            if table.launches[i]
            else 0,
        )
        for i in range(len(table))
    ]
    for i, task in enumerate(tasks):
        rows = table.predecessors[table.predecessor_first[i] : table.predecessor_first[i + 1]]
        task.predecessors = [tasks[row] for row in rows]
    return tasks


def vc_of(network: Network, operation: Operation) -> int:
    """Tell on which virtual channel an operation travels (section 5)."""
    vc_of_word = {word: vc for vc, words in enumerate(network.vcs.operations, 1) for word in words}
    return vc_of_word.get(operation.name, vc_of_word.get(operation.op, 0))


def build_messages(network: Network, schedule: Schedule, tasks: list[Task]) -> list[Message]:
    """Make an object of each row of the message table and tell its two tasks."""
    table = schedule.messages
    messages = [
        Message(
            number=i,
            index=int(table.index[i]),
            source=tasks[table.source_task[i]],
            target=tasks[table.target_task[i]],
            size_bytes=int(table.size_bytes[i]),
            vc=vc_of(network, schedule.operations[table.operation[i]]),
        )
        for i in range(len(table))
    ]
    for i, message in enumerate(messages):
        rows = table.waits_for[table.waits_first[i] : table.waits_first[i + 1]]
        message.waits_for = [messages[row] for row in rows]
        message.target.receives.append(message)
    build_groups(network, schedule, messages)
    for message in messages:
        if message.group is None or message.group.carrier_of(message) is message:
            message.source.sends.append(message)
    return messages


def build_groups(network: Network, schedule: Schedule, messages: list[Message]) -> None:
    """Make an object of each row of the table of groups and tell its messages (section 14)."""
    table, packet = schedule.messages.groups, network.packet
    for first, count, num_carriers in zip(table.first, table.count, table.sources, strict=True):
        mine = messages[first : first + count]
        num_planes = max(np.diff(network.bundle_first))
        num_shares = min(int(num_planes), ceil(Fraction(mine[0].size_bytes, packet.stripe_min_bytes)))
        share_bytes = ceil(Fraction(mine[0].size_bytes, num_shares))
        num_packets = ceil(Fraction(share_bytes, packet.max_payload_bytes))
        payload_bytes = ceil(Fraction(share_bytes, num_packets))
        group = Group(mine, int(num_carriers), num_shares, num_packets, payload_bytes)
        for message in mine:
            message.group = group
            message.packets_to_deliver = num_shares * num_packets
