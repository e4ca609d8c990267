"""Which kinds of routes the packets of a pair of terminals may take, and what an empty network costs on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fabricsim.fabrics.network import Network

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


class Way(NamedTuple):
    """A way through the network: its sum of latencies, and (num, den) in ps per byte of each channel in order."""

    latency_ps: int
    rates: tuple[tuple[int, int], ...]


class RouteKind(NamedTuple):
    """All ways that a packet may take, and whether a switch on one of them lets it choose."""

    ways: frozenset[Way]
    has_choice: bool


@dataclass(frozen=True)
class Routes:
    """``kinds[kind[source, target]]`` says how packets may go; ``kind`` has shape (terminals, terminals), int64.

    A fabric has few kinds, for channels of a class are alike. On the diagonal stands the kind of no channel.
    """

    kind: Int64
    kinds: tuple[RouteKind, ...]

    def has_choice(self, source: Int64, target: Int64) -> bool:
        """Tell whether a packet of one of these pairs of terminals may have a choice."""
        return any(self.kinds[number].has_choice for number in np.unique(self.kind[source, target]).tolist())

    def least_delay_ps(self, source: Int64, target: Int64, wire_bytes: Int64) -> Int64:
        """Bound the time from a packet's start on its first channel to the arrival of its head at its terminal.

        That is the least, over its ways, of the sum of latencies and rate-mismatch waits of a packet of
        ``wire_bytes`` (docs/physics.md, sections 5 and 11). All arrays have one entry per packet.
        """
        kind = self.kind[source, target]
        delay_ps = np.zeros(len(kind), np.int64)
        for number in np.unique(kind).tolist():
            rows = np.flatnonzero(kind == number)
            ways = [_delay_ps(way, wire_bytes[rows]) for way in self.kinds[number].ways]
            delay_ps[rows] = np.minimum.reduce(ways)
        return delay_ps


def _delay_ps(way: Way, wire_bytes: Int64) -> Int64:
    delay_ps = np.full(len(wire_bytes), way.latency_ps, np.int64)
    before_ps: Int64 | None = None
    for num, den in way.rates:
        # A fabric's limits on rates and packets keep the product inside int64.
        serialization_ps = -(-wire_bytes * num // den)
        if before_ps is not None:
            delay_ps += np.maximum(before_ps - serialization_ps, 0)
        before_ps = serialization_ps
    return delay_ps


def find_routes(network: Network) -> Routes:
    """Go from every terminal backwards over its routes and name the kinds that lead there."""
    network = network.by_vc
    channels, num_terminals = network.channels, network.num_terminals
    names = _Kinds()
    step_of = _Steps(network, names)
    onward = np.full((network.num_nodes, num_terminals), -1, np.int64)
    np.fill_diagonal(onward, names.number(RouteKind(frozenset({Way(0, ())}), False)))
    switch, target = np.nonzero(network.route_count)
    first = network.route_first[switch, target].astype(np.int64)
    count = network.route_count[switch, target].astype(np.int64)
    # Routes end at their terminal, so from there backwards every step settles the switches one channel further away.
    while len(switch):
        ready = onward[channels.target_node[network.candidates[first]], target] >= 0
        if network.vcs_per_switch > 1:  # a detour takes a channel more than the minimal candidates beside it
            ready &= onward[channels.target_node[network.candidates[first + count - 1]], target] >= 0
            rows = np.flatnonzero(ready)
            for choice in range(1, int(count[rows].max(initial=0)) - 1):
                channel = network.candidates[first[rows] + np.minimum(choice, count[rows] - 1)]
                ready[rows] &= onward[channels.target_node[channel], target[rows]] >= 0
        found: Int64 | None = None
        for choice in range(int(count[ready].max(initial=0))):
            channel = network.candidates[first[ready] + np.minimum(choice, count[ready] - 1)]
            found = names.joined(found, step_of(channel, onward[channels.target_node[channel], target[ready]]))
        if found is not None:
            onward[num_terminals + switch[ready], target[ready]] = names.choosing(found, count[ready] > 1)
        switch, target, first, count = (array[~ready] for array in (switch, target, first, count))
    source, target = np.nonzero(network.bundle_index >= 0)
    bundle = network.bundle_index[source, target]
    first, end = network.bundle_first[bundle].astype(np.int64), network.bundle_first[bundle + 1].astype(np.int64)
    kind = np.zeros((num_terminals, num_terminals), np.int64)
    found = None
    for plane in range(int((end - first).max(initial=0))):
        channel = network.bundle_channels[np.minimum(first + plane, end - 1)]
        found = names.joined(found, step_of(channel, onward[channels.target_node[channel], target]))
    if found is not None:
        kind[source, target] = found
    return Routes(kind, names.all())


class _Kinds:
    """Numbers of the kinds met so far."""

    def __init__(self) -> None:
        self._numbers: dict[RouteKind, int] = {}

    def all(self) -> tuple[RouteKind, ...]:
        return tuple(self._numbers)

    def number(self, kind: RouteKind) -> int:
        return self._numbers.setdefault(kind, len(self._numbers))

    def joined(self, one: Int64 | None, other: Int64) -> Int64:
        """Numbers of the kinds that hold the ways of both."""
        if one is None:
            return other
        result = one.copy()
        rows = np.flatnonzero(one != other)
        kinds = self.all()
        pairs, position = np.unique(one[rows] * len(kinds) + other[rows], return_inverse=True)
        parts = [(kinds[pair // len(kinds)], kinds[pair % len(kinds)]) for pair in pairs.tolist()]
        merged = [self.number(RouteKind(a.ways | b.ways, a.has_choice or b.has_choice)) for a, b in parts]
        result[rows] = np.array(merged, np.int64)[position]
        return result

    def choosing(self, one: Int64, chooses: npt.NDArray[np.bool_]) -> Int64:
        """Numbers of the same kinds, with a choice where ``chooses``."""
        result, kinds = one.copy(), self.all()
        for number in np.unique(one[chooses]).tolist():
            result[chooses & (one == number)] = self.number(kinds[number]._replace(has_choice=True))
        return result


class _Steps:
    """From a channel and the kind of what follows it to the kind of both."""

    def __init__(self, network: Network, kinds: _Kinds) -> None:
        channels = network.channels
        columns = (channels.latency_ps, channels.ps_per_byte_num, channels.ps_per_byte_den)
        # One column at a time: rows of several would be sorted as bytes, ten times slower.
        likeness = np.zeros(len(channels), np.int64)
        for column in columns:
            values, position = np.unique(column, return_inverse=True)
            likeness = np.unique(likeness * len(values) + position, return_inverse=True)[1].astype(np.int64)
        first = np.unique(likeness, return_index=True)[1]
        self._rows = list(zip(*(column[first].tolist() for column in columns), strict=True))
        self._likeness = likeness
        self._kinds = kinds

    def __call__(self, channel: Int32, onward: Int64) -> Int64:
        kinds = self._kinds.all()
        code = self._likeness[channel] * len(kinds) + onward
        step = np.full(len(self._rows) * len(kinds), -1, np.int64)
        for present in np.flatnonzero(np.bincount(code)).tolist():
            latency_ps, num, den = self._rows[present // len(kinds)]
            after = kinds[present % len(kinds)]
            ways = frozenset(Way(latency_ps + way.latency_ps, ((num, den), *way.rates)) for way in after.ways)
            step[present] = self._kinds.number(RouteKind(ways, after.has_choice))
        onward_with_channel: Int64 = step[code]
        return onward_with_channel
