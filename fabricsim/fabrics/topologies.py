"""Topologies: a handful of numbers in, the tables of a ``Network`` out.

``clos`` builds extended generalised fat trees, XGFT(h; m1..mh; w1..wh) of Oehring, Ibel, Das and Kumar ("On
generalized fat trees", IPPS 1995), once per plane. ``full_mesh`` gives every ordered pair of terminals its own
channel. ``check_acyclic`` refuses a network whose channel-dependency graph has a cycle (Dally and Seitz 1987).
The rules that the tables follow are in docs/physics.md, sections 2, 5, 6 and 8. Other kinds of
topologies have modules of their own, which build on the helpers here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from math import prod

import numpy as np
import numpy.typing as npt

from fabricsim.errors import ConfigError, unknown
from fabricsim.fabrics.network import Bool, Channels, Endpoint, Int32, Int64, Network, PacketFormat, table_rows
from fabricsim.graphs import find_cycle

ROUTINGS = ("spray", "deterministic", "adaptive")
#: Those with detours, where a topology has some: `Network.detour_count` is not None.
DETOUR_ROUTINGS = ("valiant", "ugal")
MAX_TERMINALS = 65_535
MAX_PAYLOAD_BYTES = 65_535
# A kernel multiplies a rate's numerator by a packet's wire bytes in int64: 2^45 * 2^17 leaves room to round up.
_MAX_RATE_TERM = 2**45
_MAX_WIRE_BYTES = 2**17
_MAX_TIME_PS = 2**53
_MAX_TABLE_ROWS = 2**31 - 1


@dataclass(frozen=True)
class Link:
    """One direction of a link: its rate, its latency (wire and downstream chip) and the buffer at its far end."""

    ps_per_byte: Fraction
    latency_ps: int
    buffer_bytes: int


@dataclass(frozen=True)
class Tier:
    """One level of switches.

    ``children`` are the nodes of the level below under each switch of this level, ``parents`` the switches of
    this level above each node below, per plane; ``up`` and ``down`` are the channels to and from this level.
    """

    name: str
    children: int
    parents: int
    up: Link
    down: Link


def clos(
    *,
    name: str,
    terminal_name: str,
    tiers: Sequence[Tier],
    num_planes: int,
    packet: PacketFormat,
    endpoint: Endpoint,
    routing: str,
    copy_ps_per_byte: Fraction | None,
    ejection_ps_per_byte: Fraction | None,
) -> Network:
    """Build a folded Clos of any depth, ``num_planes`` times.

    The product of the tiers' ``children`` is the number of terminals; terminals are numbered so that those under one
    lowest switch are neighbours. Channel classes are ``<below>-<above>`` and ``<above>-<below>``. A switch lists its
    downward channels in the order of its children, then its upward ones in the order of its parents.

    ``copy_ps_per_byte`` and ``ejection_ps_per_byte`` are of a whole terminal (``None`` does not limit). Raises
    ``ConfigError`` for anything that cannot run: it names the channel class, the value and the remedy.
    """
    check_common(name, packet, endpoint)
    check_count(name, "the number of planes", num_planes)
    if routing not in ROUTINGS:
        raise ConfigError(f"{name}: {unknown('routing', routing, ROUTINGS)}")
    _check_tiers(name, terminal_name, tiers)
    tree = _Tree.of(tiers)
    num_terminals = tree.num_terminals
    check_terminals(name, num_terminals)
    check_table(name, "route entries", num_planes * tree.num_switches * num_terminals)
    check_table(name, "channels", num_planes * tree.num_channels)
    classes = _class_links(terminal_name, tiers)
    for class_name, link in classes.items():
        check_link(name, class_name, link, packet)

    one = _one_plane(tree)
    # Candidates list every channel in numbering order, so a channel number is also its row there.
    plane = np.arange(num_planes)
    first_channel = plane * tree.num_channels
    terminals = np.arange(num_terminals)
    bundle_index = np.repeat(terminals[:, None], num_terminals, axis=1)
    np.fill_diagonal(bundle_index, -1)
    return Network(
        name=name,
        num_terminals=num_terminals,
        num_switches=num_planes * tree.num_switches,
        num_planes=num_planes,
        channels=channel_table(
            source_node=_in_planes(one.source_node, plane, tree),
            target_node=_in_planes(one.target_node, plane, tree),
            channel_class=one.channel_class,
            links=tuple(classes.values()),
            copy_ps_per_byte=share(name, "copy", copy_ps_per_byte, num_planes),
            ejection_ps_per_byte=share(name, "ejection", ejection_ps_per_byte, num_planes),
        ),
        channel_class_names=tuple(classes),
        node_names=(
            *(f"{terminal_name}{terminal}" for terminal in range(num_terminals)),
            *(
                f"{tier.name}.{number}.{plane_number}"
                for plane_number in range(num_planes)
                for level, tier in enumerate(tiers, start=1)
                for number in range(tree.nodes[level])
            ),
        ),
        route_first=int32((one.route_first + first_channel[:, None, None]).reshape(-1, num_terminals)),
        route_count=int32(np.tile(one.route_count, (num_planes, 1))),
        candidates=int32(np.arange(num_planes * tree.num_channels)),
        spray_start=int32(np.tile(one.spray_start, num_planes)),
        bundle_index=int32(bundle_index),
        bundle_first=int32(np.arange(num_terminals + 1) * num_planes),
        bundle_channels=int32((terminals[:, None] + first_channel).ravel()),
        packet=packet,
        endpoint=endpoint,
        routing=routing,
    )


def _check_tiers(name: str, terminal_name: str, tiers: Sequence[Tier]) -> None:
    if not tiers:
        raise ConfigError(f"{name}: a clos needs at least one tier of switches; use a full_mesh for none")
    level_names = [terminal_name, *(tier.name for tier in tiers)]
    if len(set(level_names)) != len(level_names):
        raise ConfigError(
            f"{name}: terminals and tiers are named {', '.join(level_names)}; give each level a name of its own"
        )
    for tier in tiers:
        check_count(name, f"children of tier {tier.name}", tier.children)
        check_count(name, f"parents of tier {tier.name}", tier.parents)
    if tiers[0].parents != 1:
        raise ConfigError(
            f"{name}: tier {tiers[0].name} has {tiers[0].parents} parents per terminal and plane; "
            "a terminal has one link per plane: set parents to 1 and raise the number of planes instead"
        )


def _class_links(terminal_name: str, tiers: Sequence[Tier]) -> dict[str, Link]:
    """Name the channel classes, in the order in which the longest route crosses them: up the tiers, then down."""
    steps = list(pairwise([terminal_name, *(tier.name for tier in tiers)]))
    ups = {f"{below}-{above}": tier.up for (below, above), tier in zip(steps, tiers, strict=True)}
    downs = {f"{above}-{below}": tier.down for (below, above), tier in zip(steps, tiers, strict=True)}
    return ups | dict(reversed(downs.items()))


@dataclass(frozen=True)
class _Tree:
    """How many nodes one plane of a fat tree has at each level: terminals at level 0, then the tiers.

    Level i has ``nodes[i] = subtrees[i] * copies[i]`` nodes. Its node (A, B) is number ``A * copies[i] + B`` there,
    where A says which subtree of ``leaves[i]`` terminals it tops and B which of that subtree's equivalent tops it is.
    """

    tiers: tuple[Tier, ...]
    leaves: tuple[int, ...]
    subtrees: tuple[int, ...]
    copies: tuple[int, ...]
    nodes: tuple[int, ...]

    @classmethod
    def of(cls, tiers: Sequence[Tier]) -> _Tree:
        leaves = tuple(prod(tier.children for tier in tiers[:level]) for level in range(len(tiers) + 1))
        copies = tuple(prod(tier.parents for tier in tiers[:level]) for level in range(len(tiers) + 1))
        subtrees = tuple(leaves[-1] // below for below in leaves)
        nodes = tuple(tops * alike for tops, alike in zip(subtrees, copies, strict=True))
        return cls(tuple(tiers), leaves, subtrees, copies, nodes)

    @property
    def num_terminals(self) -> int:
        return self.nodes[0]

    @property
    def num_switches(self) -> int:
        return sum(self.nodes[1:])

    @property
    def num_channels(self) -> int:
        return 2 * sum(count * tier.parents for count, tier in zip(self.nodes[:-1], self.tiers, strict=True))


@dataclass(frozen=True)
class _Plane:
    """The tables of one plane; its nodes are terminals, then switches level by level, its channels from 0.

    ``source_node``, ``target_node``, ``channel_class`` and ``spray_start`` have the shape (channels,), the routes
    (switches, terminals).
    """

    source_node: Int64
    target_node: Int64
    channel_class: Int64
    spray_start: Int64
    route_first: Int64
    route_count: Int64


def _one_plane(tree: _Tree) -> _Plane:
    """Lay out the channels of one plane, level by level, and the routes over them."""
    depth = len(tree.tiers)
    first_node = [0, *accumulate(tree.nodes)]
    terminals = np.arange(tree.num_terminals)
    sources: list[Int64] = []
    targets: list[Int64] = []
    classes: list[Int64] = []
    sprays: list[Int64] = []
    firsts: list[Int64] = []
    counts: list[Int64] = []
    first_channel = 0
    for level in range(depth + 1):
        below = tree.tiers[level - 1].children if level > 0 else 0
        above = tree.tiers[level].parents if level < depth else 0
        number = np.arange(tree.nodes[level])
        subtree, copy = number // tree.copies[level], number % tree.copies[level]
        target = np.empty((len(number), below + above), np.int64)
        channel_class = np.empty_like(target)
        spray = np.zeros_like(target)
        if level > 0:
            child = subtree[:, None] * below + np.arange(below)
            child_copy = copy[:, None] // tree.tiers[level - 1].parents
            target[:, :below] = first_node[level - 1] + child * tree.copies[level - 1] + child_copy
            channel_class[:, :below] = 2 * depth - level
            first_output = (first_channel + number * (below + above))[:, None]
            inside = terminals // tree.leaves[level] == subtree[:, None]
            down_port = terminals // tree.leaves[level - 1] % below
            firsts.append(first_output + np.where(inside, down_port, below))
            counts.append(np.where(inside, 1, above))
        if level < depth:
            siblings = tree.tiers[level].children
            parent_copy = copy[:, None] * above + np.arange(above)
            parent = subtree[:, None] // siblings
            target[:, below:] = first_node[level + 1] + parent * tree.copies[level + 1] + parent_copy
            channel_class[:, below:] = level
            # The parent has a choice for what comes from below if it has several parents and does not top the fabric.
            has_choice = level + 1 < depth and tree.subtrees[level + 1] > 1
            choices = tree.tiers[level + 1].parents if has_choice else 1
            spray[:, below:] = subtree[:, None] % siblings * choices // siblings
        sources.append(np.repeat(first_node[level] + number, below + above))
        targets.append(target.ravel())
        classes.append(channel_class.ravel())
        sprays.append(spray.ravel())
        first_channel += target.size
    columns = (sources, targets, classes, sprays, firsts, counts)
    return _Plane(*(np.concatenate(parts) for parts in columns))


def _in_planes(node: Int64, plane: Int64, tree: _Tree) -> Int64:
    """Give nodes of one plane their numbers in all planes, shape (planes, nodes): planes share their terminals only."""
    return np.where(node < tree.num_terminals, node, node + plane[:, None] * tree.num_switches)


def full_mesh(
    *,
    name: str,
    terminal_name: str,
    num_terminals: int,
    link: Link,
    packet: PacketFormat,
    endpoint: Endpoint,
    copy_ps_per_byte: Fraction | None,
    ejection_ps_per_byte: Fraction | None,
) -> Network:
    """Build a full mesh: one channel per ordered pair of terminals, in one plane, without switches.

    ``copy_ps_per_byte`` and ``ejection_ps_per_byte`` are of a whole terminal (``None`` does not limit). Raises
    ``ConfigError`` for anything that cannot run: it names the channel class, the value and the remedy.
    """
    check_common(name, packet, endpoint)
    check_terminals(name, num_terminals)
    class_name = f"{terminal_name}-{terminal_name}"
    check_link(name, class_name, link, packet)
    peers = num_terminals - 1
    num_channels = num_terminals * peers
    check_table(name, "channels", num_channels)

    source = np.repeat(np.arange(num_terminals, dtype=np.int64), peers)
    rank = np.tile(np.arange(peers, dtype=np.int64), num_terminals)
    target = rank + (rank >= source)
    bundle_index = np.full((num_terminals, num_terminals), -1, np.int64)
    bundle_index[source, target] = np.arange(num_channels)
    return Network(
        name=name,
        num_terminals=num_terminals,
        num_switches=0,
        num_planes=1,
        channels=channel_table(
            source_node=source[None],
            target_node=target[None],
            channel_class=np.zeros(num_channels, np.int64),
            links=(link,),
            copy_ps_per_byte=share(name, "copy", copy_ps_per_byte, peers),
            ejection_ps_per_byte=share(name, "ejection", ejection_ps_per_byte, peers),
        ),
        channel_class_names=(class_name,),
        node_names=tuple(f"{terminal_name}{terminal}" for terminal in range(num_terminals)),
        route_first=np.zeros((0, num_terminals), np.int32),
        route_count=np.zeros((0, num_terminals), np.int32),
        candidates=np.zeros(0, np.int32),
        spray_start=np.zeros(num_channels, np.int32),
        bundle_index=int32(bundle_index),
        bundle_first=int32(np.arange(num_channels + 1)),
        bundle_channels=int32(np.arange(num_channels)),
        packet=packet,
        endpoint=endpoint,
        routing="deterministic",  # each pair has one path
    )


def check_acyclic(network: Network) -> None:
    """Refuse a network whose channel-dependency graph has a cycle (docs/physics.md, section 6).

    Channel a depends on channel b if some packet may cross b right after a, so a cycle can wait for itself forever.
    Raises ``ConfigError`` that names the channels of one cycle in their order.
    """
    if network.num_switches == 0:
        return
    split = network.by_vc
    cycle = find_cycle(len(split.channels), *_dependencies(split))
    if not cycle:
        return
    num_vcs = split.vcs_per_switch
    remedy = "change the routes so that no packet turns from a downward channel to an upward one"
    if num_vcs > 1:
        remedy = f"{num_vcs} virtual channels do not break it, choose a routing without detours"
    raise ConfigError(
        f"{network.name}: the routes can deadlock, their channel-dependency graph has a cycle: "
        + ", then ".join(
            split.channel_name(row) + (f" on vc {row % num_vcs}" if num_vcs > 1 else "") for row in [*cycle, cycle[0]]
        )
        + f"; {remedy}"
    )


def refuse_no_detours(network: Network) -> None:
    """Refuse a routing with detours where there are none."""
    assert network.detour_count is not None
    if not network.detour_count.any():
        raise ConfigError(
            f"{network.name}: routing {network.routing} has no effect, no three switches of the fabric could be a "
            "detour for each other; choose another routing"
        )


def offered_destinations(network: Network) -> Bool:
    """Tell which channels a packet may take at their switch, by its destination: shape (channels, terminals)."""
    counts = network.route_count.ravel()
    destination = np.repeat(np.tile(np.arange(network.num_terminals), network.num_switches), counts)
    offered = np.zeros((len(network.channels), network.num_terminals), np.bool_)
    offered[network.candidates[table_rows(network.route_first.ravel(), counts)], destination] = True
    return offered


def carried_destinations(network: Network, offered: Bool, source: Int64, target: Int64) -> Bool:
    """Tell which channels the packets of these pairs of terminals may really cross, by their destination.

    They spread from the injection channels, hop by hop, over what is *offered*; shapes as of that.
    """
    channels = network.channels
    carried = np.zeros_like(offered)
    bundle = network.bundle_index[source, target]
    width = network.bundle_first[bundle + 1] - network.bundle_first[bundle]
    injection = network.bundle_channels[table_rows(network.bundle_first[bundle], width)]
    carried[injection, np.repeat(target, width)] = True
    by_target = np.argsort(channels.target_node, kind="stable")
    nodes, first_input = np.unique(channels.target_node[by_target], return_index=True)
    crossed = -1
    while crossed != (crossed := int(np.count_nonzero(carried))):
        reached = np.zeros((network.num_nodes, network.num_terminals), np.bool_)
        reached[nodes] = np.logical_or.reduceat(carried[by_target], first_input, axis=0)
        left = reached[channels.source_node]
        if network.vcs_per_switch > 1:  # what came by vc 1 goes on by vc 0
            onward = np.flatnonzero(_on_vc_0_of_switch(network))
            left[onward] |= reached[channels.source_node[onward] + 1]
        carried |= offered & left
    return carried


def _on_vc_0_of_switch(network: Network) -> Bool:
    """Tell which rows of a network split by vc are first virtual channels that leave a switch."""
    source = network.channels.source_node
    on_vc_0: Bool = np.arange(len(source)) % network.vcs_per_switch == 0
    return on_vc_0 & (source >= network.num_terminals)


def spray_starts(network: Network, switches: Int64 | None = None) -> Int32:
    """First values of the spray counters (docs/physics.md, section 6); shape (channels,).

    Of the inputs of the given switches (numbered from 0) anew, of all others those that the network has; without
    *switches* of all inputs.
    """
    channels = network.channels
    at_switch = channels.target_node >= network.num_terminals
    if switches is not None:
        at_switch &= np.isin(channels.target_node, network.num_terminals + switches)
    inputs = np.flatnonzero(at_switch)
    split = network.by_vc
    carried = carried_destinations(split, offered_destinations(split), *np.nonzero(network.bundle_index >= 0))
    switch = channels.target_node[inputs] - network.num_terminals
    choices: Int64 = np.zeros(len(inputs), np.int64)
    for vc in range(split.vcs_per_switch):
        row = inputs * split.vcs_per_switch + vc
        counts = split.route_count[split.channels.target_node[row] - network.num_terminals]
        choices = np.maximum(choices, np.where(carried[row], counts, 0).max(axis=1, initial=0))
    start = network.spray_start.copy()
    start[inputs] = 0
    chooses = choices > 1
    inputs, switch, choices = inputs[chooses], switch[chooses], choices[chooses]
    order = np.argsort(switch, kind="stable")
    num_inputs = np.bincount(switch, minlength=network.num_switches)
    port = np.arange(len(order)) - (np.cumsum(num_inputs) - num_inputs)[switch[order]]
    start[inputs[order]] = port * choices[order] // num_inputs[switch[order]]
    return start


def _dependencies(network: Network) -> tuple[Int64, Int64]:
    """Edges (before, after) of the channel-dependency graph, over the packets that the routes really carry."""
    channels = network.channels
    offered = offered_destinations(network)
    carried = carried_destinations(network, offered, *np.nonzero(network.bundle_index >= 0))
    by_target = np.argsort(channels.target_node, kind="stable")
    # Sets of destinations as bits: two channels depend on each other if their sets meet.
    carried_bits, offered_bits = np.packbits(carried, axis=1), np.packbits(offered, axis=1)
    by_source = np.argsort(channels.source_node, kind="stable")
    switches = np.arange(network.num_terminals, network.num_nodes + 1)
    first_input = np.searchsorted(channels.target_node[by_target], switches)
    first_output = np.searchsorted(channels.source_node[by_source], switches)
    before: list[Int64] = []
    after: list[Int64] = []
    for switch in range(network.num_switches):
        inputs = by_target[first_input[switch] : first_input[switch + 1]]
        outputs = by_source[first_output[switch] : first_output[switch + 1]]
        if vc := switch % network.vcs_per_switch:  # what came by vc 1 goes on by vc 0
            outputs = by_source[first_output[switch - vc] : first_output[switch - vc + 1]]
            outputs = outputs[outputs % network.vcs_per_switch == 0]
        meet = (carried_bits[inputs][:, None] & offered_bits[outputs]).any(axis=2)
        before.append(np.repeat(inputs, np.count_nonzero(meet, axis=1)))
        after.append(outputs[np.nonzero(meet)[1]])
    return np.concatenate(before), np.concatenate(after)


def channel_table(
    *,
    source_node: Int64,
    target_node: Int64,
    channel_class: Int64,
    links: Sequence[Link],
    copy_ps_per_byte: Fraction,
    ejection_ps_per_byte: Fraction,
) -> Channels:
    """Lay out the channel table; node arrays have the shape (planes, channels per plane), classes that of one plane."""
    num_planes, per_plane = source_node.shape
    count = num_planes * per_plane

    def per_link(values: Sequence[int]) -> Int64:
        return np.tile(np.asarray(values, np.int64)[channel_class], num_planes)

    def constant(value: int) -> Int64:
        return np.full(count, value, np.int64)

    return Channels(
        source_node=int32(source_node.ravel()),
        target_node=int32(target_node.ravel()),
        plane=int32(np.repeat(np.arange(num_planes), per_plane)),
        place=int32(np.tile(np.arange(per_plane), num_planes)),
        channel_class=int32(np.tile(channel_class, num_planes)),
        ps_per_byte_num=per_link([link.ps_per_byte.numerator for link in links]),
        ps_per_byte_den=per_link([link.ps_per_byte.denominator for link in links]),
        latency_ps=per_link([link.latency_ps for link in links]),
        buffer_bytes=per_link([link.buffer_bytes for link in links]),
        copy_ps_per_byte_num=constant(copy_ps_per_byte.numerator),
        copy_ps_per_byte_den=constant(copy_ps_per_byte.denominator),
        ejection_ps_per_byte_num=constant(ejection_ps_per_byte.numerator),
        ejection_ps_per_byte_den=constant(ejection_ps_per_byte.denominator),
        dead=np.zeros(count, np.bool_),
    )


def int32(array: npt.NDArray[np.integer]) -> Int32:
    """Give an array the type of the tables."""
    return array.astype(np.int32)


def share(name: str, what: str, ps_per_byte: Fraction | None, num_links: int) -> Fraction:
    """One channel's part of a terminal's rate, in ps per byte: alike links share it evenly. None becomes 0."""
    if ps_per_byte is None:
        return Fraction(0)
    check_rate(name, f"the {what} rate", ps_per_byte * num_links)
    return ps_per_byte * num_links


def check_common(name: str, packet: PacketFormat, endpoint: Endpoint) -> None:
    """Refuse packets and endpoints that no fabric can have."""
    where = f"{name}: packet format {packet.name}"
    if not 1 <= packet.max_payload_bytes <= MAX_PAYLOAD_BYTES:
        raise ConfigError(
            f"{where}: max_payload is {packet.max_payload_bytes:,} bytes; choose 1 to {MAX_PAYLOAD_BYTES:,}"
        )
    if packet.overhead_bytes < 0 or packet.flit_bytes < 1 or packet.stripe_min_bytes < 1:
        raise ConfigError(
            f"{where}: overhead is {packet.overhead_bytes}, flit {packet.flit_bytes} and stripe_min "
            f"{packet.stripe_min_bytes} bytes; the first must be at least 0, the others at least 1"
        )
    if packet.wire_bytes(packet.max_payload_bytes) > _MAX_WIRE_BYTES:
        raise ConfigError(
            f"{where}: its largest packet has {packet.wire_bytes(packet.max_payload_bytes):,} bytes on the wire, more "
            f"than {_MAX_WIRE_BYTES:,}; choose a smaller overhead or flit"
        )
    if not 0 <= endpoint.launch_latency_ps <= _MAX_TIME_PS or not 0 <= endpoint.message_overhead_ps <= _MAX_TIME_PS:
        raise ConfigError(
            f"{name}: launch_latency is {endpoint.launch_latency_ps:,} ps and message_overhead "
            f"{endpoint.message_overhead_ps:,} ps; both must be 0 to {_MAX_TIME_PS:,} ps"
        )
    check_count(name, "the number of slots of an injection channel", endpoint.slots)


def check_count(name: str, what: str, value: int) -> None:
    """Refuse too few or too many of something."""
    if not 1 <= value <= MAX_TERMINALS:
        raise ConfigError(f"{name}: {what} is {value:,}; choose 1 to {MAX_TERMINALS:,}")


def check_terminals(name: str, num_terminals: int) -> None:
    """Refuse too few or too many terminals."""
    if not 2 <= num_terminals <= MAX_TERMINALS:
        raise ConfigError(
            f"{name}: the fabric has {num_terminals:,} terminals; 2 to {MAX_TERMINALS:,} are possible, "
            "change the children of its tiers or its number of terminals"
        )


def check_table(name: str, what: str, rows: int) -> None:
    """Refuse a table that its indices cannot number."""
    if rows > _MAX_TABLE_ROWS:
        raise ConfigError(
            f"{name}: the fabric needs {rows:,} {what}, more than the {_MAX_TABLE_ROWS:,} that its tables can number; "
            "make it smaller"
        )


def check_rate(name: str, what: str, ps_per_byte: Fraction) -> None:
    """Refuse a rate, in ps per byte, that is none or that a kernel could not multiply exactly."""
    if ps_per_byte <= 0:
        raise ConfigError(f"{name}: {what} takes {ps_per_byte} ps per byte; it must be more than 0")
    if max(ps_per_byte.numerator, ps_per_byte.denominator) > _MAX_RATE_TERM:
        raise ConfigError(
            f"{name}: {what} takes {ps_per_byte} ps per byte, a fraction too long for exact 64-bit arithmetic; "
            "write the bandwidth with fewer digits"
        )


def check_link(name: str, class_name: str, link: Link, packet: PacketFormat) -> None:
    """Refuse a link that no packet could cross, or not within the engine's numbers."""
    where = f"channel class {class_name}"
    check_rate(name, where, link.ps_per_byte)
    if not 1 <= link.latency_ps <= _MAX_TIME_PS:
        raise ConfigError(
            f"{name}: {where}: latency is {link.latency_ps:,} ps, but the engine advances by the smallest latency: "
            f"set link.{class_name}.latency to the time of a wire and a chip, 1 to {_MAX_TIME_PS:,} ps"
        )
    largest = packet.wire_bytes(packet.max_payload_bytes)
    if link.buffer_bytes < largest:
        raise ConfigError(
            f"{name}: {where}: buffer is {link.buffer_bytes:,} bytes, but the largest {packet.name} packet has "
            f"{largest:,} bytes on the wire and could never cross: set link.{class_name}.buffer to {largest} B or more"
        )
    if link.buffer_bytes > 2**62:
        raise ConfigError(
            f"{name}: {where}: buffer is {link.buffer_bytes:,} bytes; set link.{class_name}.buffer below 4 EiB"
        )
