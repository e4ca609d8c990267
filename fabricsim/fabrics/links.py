"""Any network: an explicit list of links between named nodes, with minimal routes over them.

Switches that links join are one plane; what links between terminals join directly is a plane without switches. A packet
may take any of the channels that shorten its way, in the order of the list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from fabricsim.errors import ConfigError, unknown
from fabricsim.fabrics.network import Channels, Endpoint, Int64, Network, PacketFormat, VirtualChannels
from fabricsim.fabrics.topologies import (
    DETOUR_ROUTINGS,
    ROUTINGS,
    Link,
    check_acyclic,
    check_common,
    check_count,
    check_link,
    check_rate,
    check_table,
    check_terminals,
    int32,
    refuse_no_detours,
    spray_starts,
)


@dataclass(frozen=True)
class Node:
    """An end of a link: its level (``leaf`` of ``leaf.3``, the terminal's name of a terminal) and its number there."""

    level: str
    number: int


def node_of(text: str, terminal_name: str, num_terminals: int) -> Node:
    """Read ``gpu3`` or ``leaf.3``; ``ConfigError`` for what is no node of the fabric."""
    terminals = f"{terminal_name}0 to {terminal_name}{num_terminals - 1}"
    if found := re.fullmatch(rf"{terminal_name}(\d{{1,9}})", text):
        if int(found[1]) >= num_terminals:
            raise ConfigError(f"there is no {text}; the terminals are {terminals}")
        return Node(terminal_name, int(found[1]))
    found = re.fullmatch(r"([a-z][a-z0-9_]*)\.(\d{1,9})", text)
    if found is None or found[1] == terminal_name:
        raise ConfigError(f"{text!r} is no node; write {terminals} for a terminal and leaf.0, say, for a switch")
    return Node(found[1], int(found[2]))


def link_classes(links: Iterable[tuple[Node, Node]]) -> tuple[list[str], list[str]]:
    """Name the classes of channels that run as the links are written, and those of their ways back, without doubles.

    A link from a to b and one from b to a are of the same classes; the first one in the list says which is which.
    """
    ways_back: dict[str, str] = {}
    for below, above in links:
        if f"{above.level}-{below.level}" not in ways_back:
            ways_back[f"{below.level}-{above.level}"] = f"{above.level}-{below.level}"
    return list(ways_back), list(ways_back.values())


def linked(
    *,
    name: str,
    terminal_name: str,
    num_terminals: int,
    links: Sequence[tuple[Node, Node]],
    classes: Mapping[str, Link],
    packet: PacketFormat,
    endpoint: Endpoint,
    routing: str,
    copy_ps_per_byte: Fraction | None,
    ejection_ps_per_byte: Fraction | None,
    weights: Mapping[str, int] | None = None,
) -> Network:
    """Build a network from its links, each one channel per direction.

    A terminal is a node of the level ``terminal_name``, any other node a switch. ``classes`` has a ``Link`` for every
    channel class ``<level>-<level>`` that occurs. ``weights`` are those of planes, by the classes of the channels that
    lead into them from terminals; what is not in it has weight 1.

    ``copy_ps_per_byte`` and ``ejection_ps_per_byte`` are of a whole terminal (``None`` does not limit). Raises
    ``ConfigError`` for anything that cannot run: it names the node, link or pair and the remedy.
    """
    check_common(name, packet, endpoint)
    check_terminals(name, num_terminals)
    if routing not in ROUTINGS + DETOUR_ROUTINGS:
        raise ConfigError(f"{name}: {unknown('routing', routing, ROUTINGS + DETOUR_ROUTINGS)}")
    for class_name, link in classes.items():
        check_link(name, class_name, link, packet)
    for class_name, weight in (weights or {}).items():
        check_count(name, f"the weight of channel class {class_name}", weight)
    wiring = _Wiring.of(name, terminal_name, num_terminals, links, list(classes))
    check_table(name, "route entries", wiring.num_switches * num_terminals)
    detours = routing in DETOUR_ROUTINGS
    routes = _Routes.of(wiring, detours)
    bundles = _Bundles.of(name, wiring, routes)
    network = Network(
        name=name,
        num_terminals=num_terminals,
        num_switches=wiring.num_switches,
        num_planes=wiring.num_planes,
        channels=_channels(name, wiring, list(classes.values()), copy_ps_per_byte, ejection_ps_per_byte),
        channel_class_names=tuple(classes),
        node_names=wiring.node_names,
        route_first=int32(routes.first),
        route_count=int32(routes.count),
        candidates=int32(routes.candidates),
        spray_start=np.zeros(len(wiring.source), np.int32),
        bundle_index=int32(bundles.index),
        bundle_first=int32(bundles.first),
        bundle_channels=int32(bundles.channels),
        packet=packet,
        endpoint=endpoint,
        routing=routing,
        vcs=VirtualChannels(2 if detours else 1),
        detour_count=int32(routes.detour_count) if detours else None,
        weights=np.array([weights.get(kind, 1) for kind in classes])[wiring.channel_class] if weights else None,
    )
    if weights and (np.diff(bundles.first) == 1).all():
        raise ConfigError(
            f"{name}: {', '.join(weights)} have a weight, but no message has a choice of planes; drop the weights"
        )
    if detours:
        refuse_no_detours(network)
        check_acyclic(network)
    network.spray_start[:] = spray_starts(network)
    return network


@dataclass(frozen=True)
class _Wiring:
    """Channels in numbering order: their ends (nodes, of which terminals are the first), planes and classes."""

    num_terminals: int
    num_planes: int
    node_names: tuple[str, ...]
    source: Int64
    target: Int64
    plane: Int64
    channel_class: Int64

    @property
    def num_switches(self) -> int:
        return len(self.node_names) - self.num_terminals

    @classmethod
    def of(
        cls, name: str, terminal_name: str, num_terminals: int, links: Sequence[tuple[Node, Node]], classes: list[str]
    ) -> _Wiring:
        number = {Node(terminal_name, terminal): terminal for terminal in range(num_terminals)}
        ends = []
        channel_class = []
        for one, other in links:
            if one == other:
                raise ConfigError(f"{name}: a link joins {one.level} {one.number} to itself; drop it")
            ends.append([number.setdefault(node, len(number)) for node in (one, other)])
            levels = one.level, other.level
            channel_class.append([classes.index("-".join(way)) for way in (levels, levels[::-1])])
        joined = np.array(ends, np.int64)
        kind = np.array(channel_class, np.int64)
        plane = _planes(len(number), num_terminals, joined)
        source, target = joined.ravel(), joined[:, ::-1].ravel()
        kind, plane = kind.ravel(), np.repeat(plane, 2)
        order = np.lexsort((source, plane))
        names = tuple(
            f"{terminal_name}{node.number}" if node.level == terminal_name else f"{node.level}.{node.number}"
            for node in number
        )
        wiring = cls(
            num_terminals, int(plane.max()) + 1, names, source[order], target[order], plane[order], kind[order]
        )
        wiring._refuse_gangs(name)
        return wiring

    def _refuse_gangs(self, name: str) -> None:
        """Refuse two links of a terminal into one plane: a message has one share per plane."""
        leaves = self.source < self.num_terminals
        direct = leaves & (self.target < self.num_terminals)
        key = np.stack([self.source, self.plane, np.where(direct, self.target, -1)])[:, leaves]
        kinds, count = np.unique(key, axis=1, return_counts=True)
        if (count > 1).any():
            terminal, plane, _ = kinds[:, count.argmax()].tolist()
            into = sorted(
                {self.node_names[node] for node in self.target[(self.source == terminal) & (self.plane == plane)]}
            )
            raise ConfigError(
                f"{name}: {self.node_names[terminal]} has {count.max()} links into one plane, to {', '.join(into)}; a "
                "terminal has one per plane: make them one link of their joint bandwidth"
            )


def _planes(num_nodes: int, num_terminals: int, ends: Int64) -> Int64:
    """Plane of each link: one for all that join terminals, and one for each set of switches that links join.

    Numbered by their first links.
    """
    group = np.arange(num_nodes + 1)  # the last one stands for all direct links
    inside = ends[(ends >= num_terminals).all(axis=1)]
    while True:
        before = group.copy()
        least = group[inside].min(axis=1)
        for end in (0, 1):
            np.minimum.at(group, inside[:, end], least)
        if np.array_equal(before, group):
            break
    switch = ends.max(axis=1)
    of_link = group[np.where(switch >= num_terminals, switch, num_nodes)]
    _, first, plane = np.unique(of_link, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[plane].astype(np.int64)


@dataclass(frozen=True)
class _Routes:
    """``hops[n, d]``: channels from node n to terminal d over switches, 0 at d; a large number where no way leads.

    ``first`` and ``count``, of shape (switches, terminals), are ranges of ``candidates``; after each stand its
    ``detour_count`` detours, to switches that are as near to the terminal.
    """

    hops: Int64
    first: Int64
    count: Int64
    detour_count: Int64
    candidates: Int64

    @classmethod
    def of(cls, wiring: _Wiring, detours: bool) -> _Routes:
        num_terminals, num_switches = wiring.num_terminals, wiring.num_switches
        num_nodes = num_terminals + num_switches
        far = num_nodes + 1
        hops = np.full((num_nodes, num_terminals), far, np.int64)
        np.fill_diagonal(hops, 0)
        inner = np.flatnonzero(wiring.source >= num_terminals)  # packets pass through switches alone
        source, target = wiring.source[inner], wiring.target[inner]
        while True:
            before = hops.copy()
            np.minimum.at(hops, source, np.where(hops[target] < far, hops[target] + 1, far))
            if np.array_equal(before, hops):
                break
        channel, terminal = np.nonzero((hops[source] < far) & (hops[target] < hops[source] + detours))
        pair = (source[channel] - num_terminals) * num_terminals + terminal
        is_detour = hops[target[channel], terminal] == hops[source[channel], terminal]
        order = np.lexsort((is_detour, pair))  # in the order of the fabric, detours last
        of_pair = np.bincount(pair, minlength=num_switches * num_terminals)
        detour_count = np.bincount(pair[is_detour], minlength=num_switches * num_terminals)
        first = np.cumsum(of_pair) - of_pair
        shape = (num_switches, num_terminals)
        return cls(
            hops,
            first.reshape(shape),
            (of_pair - detour_count).reshape(shape),
            detour_count.reshape(shape),
            inner[channel[order]],
        )


@dataclass(frozen=True)
class _Bundles:
    """As in ``Network``."""

    index: Int64
    first: Int64
    channels: Int64

    @classmethod
    def of(cls, name: str, wiring: _Wiring, routes: _Routes) -> _Bundles:
        num_terminals, node_names = wiring.num_terminals, wiring.node_names
        index = np.full((num_terminals, num_terminals), -1, np.int64)
        bundles: list[Int64] = []
        for source in range(num_terminals):
            outputs = np.flatnonzero(wiring.source == source)
            target = wiring.target[outputs]
            # Direct links lead to their own end alone; where one does, it takes the whole message.
            leads = np.where((target >= num_terminals)[:, None], routes.hops[target] < len(node_names), False)
            direct = target[:, None] == np.arange(num_terminals)
            leads = np.where(direct.any(axis=0), direct, leads)
            leads[:, source] = False
            lost = np.flatnonzero(~leads.any(axis=0) & (np.arange(num_terminals) != source))
            if len(lost):
                raise ConfigError(
                    f"{name}: no way leads from {node_names[source]} to {node_names[lost[0]]}; add links between them "
                    "or through switches (terminals do not forward)"
                )
            sets, which = np.unique(leads, axis=1, return_inverse=True)
            used = [number for number in range(sets.shape[1]) if sets[:, number].any()]
            if (sets[:, used].sum(axis=1) > 1).any():
                shared = outputs[sets[:, used].sum(axis=1).argmax()]
                raise ConfigError(
                    f"{name}: {node_names[source]} would stripe over other planes to some terminals than to others, "
                    f"and both over its link to {node_names[wiring.target[shared]]}; let all planes of a terminal that "
                    "reach one terminal in common reach the same terminals"
                )
            for number in used:
                index[source, which.reshape(-1) == number] = len(bundles)
                bundles.append(outputs[sets[:, number]])
        first = np.cumsum([0, *map(len, bundles)])
        return cls(index, first, np.concatenate(bundles))


def _channels(
    name: str,
    wiring: _Wiring,
    links: Sequence[Link],
    copy_ps_per_byte: Fraction | None,
    ejection_ps_per_byte: Fraction | None,
) -> Channels:
    """Lay out the channel table; a channel at a terminal has its part of the terminal's rates."""
    num_nodes = len(wiring.node_names)
    # Bytes per ps of all links of a node, out and in.
    rates = [1 / link.ps_per_byte for link in links]
    copy, ejection = (
        _shares(name, what, node, wiring, rates, num_nodes, ps_per_byte)
        for what, node, ps_per_byte in (
            ("copy", wiring.source, copy_ps_per_byte),
            ("ejection", wiring.target, ejection_ps_per_byte),
        )
    )
    kind = wiring.channel_class

    def of_links(values: Sequence[int]) -> Int64:
        return np.array(values, np.int64)[kind]

    first_channel = np.searchsorted(wiring.plane, np.arange(wiring.num_planes))
    return Channels(
        source_node=int32(wiring.source),
        target_node=int32(wiring.target),
        plane=int32(wiring.plane),
        place=int32(np.arange(len(kind)) - first_channel[wiring.plane]),
        channel_class=int32(kind),
        ps_per_byte_num=of_links([link.ps_per_byte.numerator for link in links]),
        ps_per_byte_den=of_links([link.ps_per_byte.denominator for link in links]),
        latency_ps=of_links([link.latency_ps for link in links]),
        buffer_bytes=of_links([link.buffer_bytes for link in links]),
        copy_ps_per_byte_num=np.array([rate.numerator for rate in copy], np.int64),
        copy_ps_per_byte_den=np.array([rate.denominator for rate in copy], np.int64),
        ejection_ps_per_byte_num=np.array([rate.numerator for rate in ejection], np.int64),
        ejection_ps_per_byte_den=np.array([rate.denominator for rate in ejection], np.int64),
        dead=np.zeros(len(kind), np.bool_),
    )


def _shares(
    name: str,
    what: str,
    node: Int64,
    wiring: _Wiring,
    rates: Sequence[Fraction],
    num_nodes: int,
    ps_per_byte: Fraction | None,
) -> list[Fraction]:
    """Each channel's part of the rate of the terminal at *node*, in ps per byte; 0 where nothing limits."""
    shares = [Fraction(0)] * len(node)
    if ps_per_byte is None:
        return shares
    total = [Fraction(0)] * num_nodes
    for end, kind in zip(node.tolist(), wiring.channel_class.tolist(), strict=True):
        total[end] += rates[kind]
    for row in np.flatnonzero(node < wiring.num_terminals).tolist():
        shares[row] = ps_per_byte * total[node[row]] / rates[wiring.channel_class[row]]
        check_rate(name, f"the {what} rate", shares[row])
    return shares
