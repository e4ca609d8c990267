"""The tables that a fabric becomes: all that the engine knows of the wires.

Numbering (docs/physics.md, section 2). Nodes: terminals ``0 .. num_terminals - 1``, then switches.
Channels: ordered by plane, then by source node within the plane, so the outputs of one node in one
plane are consecutive; a channel's *place* is its number counted from the first channel of its plane.
Planes that are alike number their places alike.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import cached_property

import numpy as np
import numpy.typing as npt

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PacketFormat:
    """How a message share is cut (docs/physics.md, section 4)."""

    name: str
    max_payload_bytes: int
    overhead_bytes: int
    flit_bytes: int
    stripe_min_bytes: int

    def wire_bytes(self, payload_bytes: int) -> int:
        """Bytes on the wire for one packet: payload and overhead, rounded up to whole flits."""
        flits = -(-(payload_bytes + self.overhead_bytes) // self.flit_bytes)
        return flits * self.flit_bytes


@dataclass(frozen=True)
class Protocol:
    """What a library's way of doing some operations adds to their launch latency (docs/physics.md, section 9).

    It is for ``operations`` (names or kinds of operation) whose part per rank has at least ``least_part_bytes``.
    Rates are in picoseconds per byte; what is zero adds nothing.
    """

    operations: tuple[str, ...]
    least_part_bytes: int
    launch_latency_ps: int
    step_latency_ps: int = 0
    staging_ps_per_byte: Fraction = Fraction(0)
    part_ps_per_byte: Fraction = Fraction(0)
    piece_overhead_ps: int = 0
    descriptor_latency_ps: int = 0
    descriptor_gap_ps: int = 0


@dataclass(frozen=True)
class Endpoint:
    """What a terminal adds to the wires (docs/physics.md, sections 8 and 9).

    Copy and ejection rates are per channel and stand in the channel table; ``copy_ps_per_byte`` is that of a whole
    terminal, 0 if it does not limit. An operation that no protocol is for has ``launch_latency_ps``. With
    ``acked`` a share holds its slot until its source knows that it is delivered.
    """

    launch_latency_ps: int
    message_overhead_ps: int
    slots: int
    copy_ps_per_byte: Fraction = Fraction(0)
    protocols: tuple[Protocol, ...] = ()
    acked: bool = False


@dataclass(frozen=True)
class VirtualChannels:
    """The virtual channels of each channel (docs/physics.md, section 5).

    ``count`` is a power of two up to 16. ``arbitration`` says which an output serves next. ``operations[k]`` are the
    names or kinds of the operations whose messages travel on vc k + 1; those of all others travel on vc 0.
    """

    count: int = 1
    arbitration: str = "oldest"
    operations: tuple[tuple[str, ...], ...] = ()

    def of(self, name: str, op: str) -> int:
        """Return the vc of an operation, by its name, else by its kind."""
        for word in (name, op):
            for number, words in enumerate(self.operations):
                if word in words:
                    return number + 1
        return 0


@dataclass(frozen=True)
class Channels:
    """One row per channel, in numbering order; all arrays have the same length.

    Rates are rationals in picoseconds per byte: ``num / den``. A copy or ejection rate with
    ``num == 0`` does not limit. ``copy_*`` counts on channels that leave a terminal,
    ``ejection_*`` on channels that enter one (a mesh channel is both). ``dead`` channels carry nothing
    (docs/physics.md, section 13).
    """

    source_node: Int32
    target_node: Int32
    plane: Int32
    place: Int32
    channel_class: Int32
    ps_per_byte_num: Int64
    ps_per_byte_den: Int64
    latency_ps: Int64
    buffer_bytes: Int64
    copy_ps_per_byte_num: Int64
    copy_ps_per_byte_den: Int64
    ejection_ps_per_byte_num: Int64
    ejection_ps_per_byte_den: Int64
    dead: Bool

    def __len__(self) -> int:
        return len(self.source_node)


@dataclass(frozen=True)
class Network:
    """A fabric as tables.

    Routing. At switch ``s`` a packet for terminal ``d`` has the candidates
    ``candidates[route_first[r, d] : route_first[r, d] + route_count[r, d]]`` with ``r = s - num_terminals``:
    channel numbers in the order of the fabric. ``spray_start[c]`` is the first value of the spray counter
    of input channel ``c`` (0 where it never has a choice). Where there are detours the ``detour_count[r, d]``
    candidates after these are further ones, for packets that came by vc 0; they are taken on vc 1, all others on vc 0.

    Bundles. ``bundle_index[s, d]`` names the bundle of injection channels over which terminal ``s`` stripes
    its messages to ``d`` (-1 on the diagonal, and where no way leads): ``bundle_channels[bundle_first[b] :
    bundle_first[b + 1]]``, in the order of the planes. In a Clos each terminal has one bundle with a channel per
    plane, in a full mesh one bundle per destination with one channel. Where faults have taken planes from some pairs
    of a terminal and not from others, it has several bundles that share channels: one whole bundle has all of them,
    and each other is a run of successive channels of the whole one, taken as a ring.

    ``reduction_ps_per_byte`` is the time that a switch takes per byte that it reduces (docs/physics.md, section 14), 0
    if that does not limit; ``None`` where switches neither reduce nor copy.
    """

    name: str
    num_terminals: int
    num_switches: int
    num_planes: int
    channels: Channels
    channel_class_names: tuple[str, ...]
    node_names: tuple[str, ...]
    route_first: Int32
    route_count: Int32
    candidates: Int32
    spray_start: Int32
    bundle_index: Int32
    bundle_first: Int32
    bundle_channels: Int32
    packet: PacketFormat
    endpoint: Endpoint
    routing: str  # "spray", "deterministic", "adaptive", "valiant" or "ugal"
    vcs: VirtualChannels = VirtualChannels()
    reduction_ps_per_byte: Fraction | None = None
    detour_count: Int32 | None = None  # shape of route_count; None: there are none
    weights: Int64 | None = None  # per channel, of its plane among those of a bundle; None: all planes are alike
    vcs_per_switch: int = 1  # 2 where a switch is two rows of the routes, one for packets of each vc: see `by_vc`

    @property
    def num_nodes(self) -> int:
        """Terminals and switches."""
        return self.num_terminals + self.num_switches

    @cached_property
    def bundle_whole(self) -> Int64:
        """For each bundle the widest that shares channels with it: itself, unless faults took planes from a pair."""
        width = np.diff(self.bundle_first)
        bundle = np.repeat(np.arange(len(width)), width)
        # Of all bundles of a channel the last to be written is the widest, of several the first.
        order = np.lexsort((-bundle, width[bundle]))
        whole = np.zeros(len(self.channels), np.int64)
        whole[self.bundle_channels[order]] = bundle[order]
        return whole[self.bundle_channels[self.bundle_first[:-1]]]

    @cached_property
    def bundle_position(self) -> Int64:
        """The position that the first channel of each bundle has in the whole bundle."""
        bundle = np.repeat(np.arange(len(self.bundle_first) - 1), np.diff(self.bundle_first))
        rows = np.flatnonzero(self.bundle_whole[bundle] == bundle)
        position = np.zeros(len(self.channels), np.int64)
        position[self.bundle_channels[rows]] = rows - self.bundle_first[bundle[rows]]
        return position[self.bundle_channels[self.bundle_first[:-1]]]

    @cached_property
    def switch_plane(self) -> Int32:
        """The plane of each switch, -1 where it has no channel."""
        plane = np.full(self.num_nodes, -1, np.int32)
        plane[self.channels.source_node] = self.channels.plane
        plane[self.channels.target_node] = self.channels.plane
        return plane[self.num_terminals :]

    @property
    def candidate_count(self) -> Int32:
        """Candidates of a packet that came by vc 0, detours and all; shape (switches, terminals)."""
        return self.route_count if self.detour_count is None else self.route_count + self.detour_count

    @cached_property
    def by_vc(self) -> Network:
        """The network in which no route depends on the vc by which a packet came: split, if there are detours."""
        return self if self.detour_count is None else self.split_into_vcs()

    def split_into_vcs(self) -> Network:
        """Return the network with a row of the channel table per virtual channel, those of a channel in order.

        Links to a channel lead to its first virtual channel. ``place`` stays that of the channel, for all its rows.
        Where there are detours a switch becomes two, one for what comes by each vc; all its outputs are the first's.
        """
        if self.vcs.count == 1:
            return self
        split = self._with_rows_per_vc()
        return split if self.detour_count is None else split._with_switches_per_vc(self, self.detour_count)

    def _with_rows_per_vc(self) -> Network:
        channels, count = self.channels, self.vcs.count
        return replace(
            self,
            channels=Channels(**{one.name: np.repeat(getattr(channels, one.name), count) for one in fields(channels)}),
            candidates=self.candidates * count,
            spray_start=np.repeat(self.spray_start, count),
            weights=None if self.weights is None else np.repeat(self.weights, count),
            bundle_channels=self.bundle_channels * count,
        )

    def _with_switches_per_vc(self, whole: Network, detour_count: Int32) -> Network:
        """Give each switch of a network of split channels a row of routes per vc, as the routes of *whole* say."""
        num_terminals, count, channels = self.num_terminals, self.vcs.count, self.channels
        # Packets that came by vc 0 have all candidates, those that came by vc 1 the first of the same lists. Three
        # numbers as one: rows of several would be sorted as bytes, ten times slower.
        code = whole.route_first.astype(np.int64) << 32 | whole.route_count.astype(np.int64) << 16 | detour_count
        lists, which = np.unique(code, return_inverse=True)
        first, minimal, detours = lists >> 32, lists >> 16 & 0xFFFF, lists & 0xFFFF
        which = which.reshape(code.shape)
        size = minimal + detours
        begin = np.cumsum(size) - size
        rows = table_rows(first, size)
        is_detour = rows - np.repeat(first, size) >= np.repeat(minimal, size)

        def per_vc(node: Int32, vc: npt.NDArray[np.integer]) -> Int32:
            switch = num_terminals + (node - num_terminals) * count + vc
            return np.where(node < num_terminals, node, switch).astype(np.int32)

        terminal_names, switch_names = self.node_names[:num_terminals], self.node_names[num_terminals:]
        return replace(
            self,
            num_switches=self.num_switches * count,
            channels=replace(
                channels,
                source_node=per_vc(channels.source_node, np.zeros(1, np.int32)),
                target_node=per_vc(channels.target_node, np.arange(len(channels)) % count),
            ),
            node_names=(*terminal_names, *(name for name in switch_names for _ in range(count))),
            route_first=np.repeat(begin[which], count, axis=0).astype(np.int32),
            route_count=np.stack([size[which], minimal[which]], axis=1).reshape(-1, num_terminals).astype(np.int32),
            candidates=(whole.candidates[rows] * count + is_detour).astype(np.int32),
            detour_count=None,
            vcs_per_switch=count,
        )

    def channel_name(self, channel: int) -> str:
        """Say where a channel runs, for messages: ``npu3 -> l1.0.2 (plane 2)``."""
        source = self.node_names[self.channels.source_node[channel]]
        target = self.node_names[self.channels.target_node[channel]]
        return f"{source} -> {target} (plane {self.channels.plane[channel]})"


def table_rows(first: npt.NDArray[np.integer], count: npt.NDArray[np.integer]) -> Int64:
    """Give the rows ``first[i], first[i] + 1, ...`` (``count[i]`` of them) for all i, one after the other."""
    count = count.astype(np.int64)
    begin: Int64 = first.astype(np.int64) - (np.cumsum(count) - count)
    return np.arange(count.sum()) + np.repeat(begin, count)


def channels_between(network: Network, source: Int64, target: Int64) -> Bool:
    """Tell of every channel whether packets of one of these pairs of terminals may cross it; shape (channels,).

    Each pair needs a bundle.
    """
    num_vcs = network.by_vc.vcs_per_switch
    network = network.by_vc
    channels, num_terminals = network.channels, network.num_terminals
    crossed = np.zeros(len(channels), np.bool_)
    passed = np.zeros((network.num_nodes, num_terminals), np.bool_)
    bundle = network.bundle_index[source, target]
    count = np.diff(network.bundle_first)[bundle]
    channel = network.bundle_channels[table_rows(network.bundle_first[bundle], count)]
    target = np.repeat(target, count)
    while len(channel):
        crossed[channel] = True
        node = channels.target_node[channel].astype(np.int64)
        onward = (node >= num_terminals) & ~passed[node, target]
        node, target = np.divmod(np.unique(node[onward] * num_terminals + target[onward]), num_terminals)
        passed[node, target] = True
        switch = node - num_terminals
        count = network.route_count[switch, target]
        channel = network.candidates[table_rows(network.route_first[switch, target], count)]
        target = np.repeat(target, count)
    by_channel: Bool = np.logical_or.reduce(crossed.reshape(-1, num_vcs), axis=1)
    return by_channel
