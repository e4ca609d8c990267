"""Cuts of a fabric: sets of nodes, and the channels by which packets leave and enter them; found once per network.

Planes over which messages are striped together are a *part* of the fabric; each message stays in one part. Classes of
channels between switches are one *kind* where they run between the same two switches, mostly the two directions of one
link. Without the channels of a kind a part falls into components. Those with terminals are the *houses* of this cut:
under a top tier the pods, of a mesh the slabs of equal coordinate. One more cut takes away the channels of all kinds,
which leaves the terminals on each set of lowest switches.

To each cut belongs a *bisection*: its houses in the order of their lowest terminals, up to half of the terminals. A
component without terminals joins the half to which most of its channels of that kind lead, those next to houses first.
Where none of these channels ends up inside the half, its houses bound all that it does, so it is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from fabricsim.fabrics.network import Network

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Crossing:
    """The live channels by which packets leave, or enter, each house; all arrays have the shape (houses,).

    Those of a house together move ``num / den`` bytes per picosecond, in Python integers. A packet that is on one of
    them at a time t arrives at the other end no earlier than ``t + tail_ps``, which may be below zero.
    """

    num: npt.NDArray[np.object_]
    den: npt.NDArray[np.object_]
    tail_ps: Int64

    def work_ps(self, total_bytes: Int64, house: Int64) -> Int64:
        """Time that the channels of these houses need for so many bytes, rounded down."""
        exact: Int64 = (total_bytes.astype(object) * self.den[house] // self.num[house]).astype(np.int64)
        return exact


@dataclass(frozen=True)
class Cut:
    """Houses: of each terminal its own, or -1; shape (terminals,)."""

    house: Int64
    out: Crossing
    into: Crossing


@dataclass(frozen=True)
class PartCuts:
    """The cuts of a part of the fabric.

    ``of_bundle`` tells whether a bundle is in the part; shape (bundles,). No packet takes less than
    ``first_latency_ps`` to its first switch.
    """

    of_bundle: Bool
    first_latency_ps: int
    cuts: tuple[Cut, ...]


def find_cuts(network: Network) -> tuple[PartCuts, ...]:
    """Find the cuts of each part that has some.

    The houses are those of the fabric without faults, for any set of nodes is a cut; only live channels cross.
    """
    channels = network.channels
    part = parts_of_planes(network)
    part_of_bundle = part[channels.plane[network.bundle_channels[network.bundle_first[:-1]]]]
    found = []
    for number in np.unique(part_of_bundle).tolist():
        rows = np.flatnonzero(part[channels.plane] == number)
        distinct = {house.tobytes(): house for house in _houses(network, rows)}
        if distinct:
            cuts = tuple(_cut(network, rows, house) for house in distinct.values())
            leaves = channels.source_node[rows] < network.num_terminals
            found.append(PartCuts(part_of_bundle == number, int(channels.latency_ps[rows[leaves]].min()), cuts))
    return tuple(found)


def parts_of_planes(network: Network) -> Int64:
    """Part of each plane, a plane of it: those over which some bundle stripes are one part; shape (planes,)."""
    plane = network.channels.plane[network.bundle_channels]
    first = plane[network.bundle_first[:-1]]
    return _components(network.num_planes, plane, np.repeat(first, np.diff(network.bundle_first)))


def _components(num_nodes: int, one: npt.NDArray[np.integer], other: npt.NDArray[np.integer]) -> Int64:
    """Give each node the lowest node that edges join it with, itself where none does."""
    lowest = np.arange(num_nodes)
    while True:
        before = lowest.copy()
        np.minimum.at(lowest, one, lowest[other])
        np.minimum.at(lowest, other, lowest[one])
        lowest = lowest[lowest]
        if np.array_equal(lowest, before):
            return lowest


def _houses(network: Network, rows: Int64) -> Iterator[Int64]:
    """Give the cuts of a part, of which *rows* are the channels, as the house of each node, -1 where it is in none."""
    num_nodes, num_terminals = network.num_nodes, network.num_terminals
    source, target = network.channels.source_node[rows], network.channels.target_node[rows]
    whole = _components(num_nodes, source, target)
    in_part = np.zeros(num_nodes, np.bool_)
    in_part[source] = in_part[target] = True
    between = (source >= num_terminals) & (target >= num_terminals)
    kind = _link_kinds(network, rows[between])[network.channels.channel_class[rows]]
    for removed in (between, *(between & (kind == number) for number in np.unique(kind[between]))):
        component = _components(num_nodes, source[~removed], target[~removed])
        has_house = in_part & (component < num_terminals)  # where there are terminals, one is the lowest node
        if len(np.unique(component[has_house])) == len(np.unique(whole[has_house])):
            continue  # nothing falls apart
        yield np.where(has_house, component, -1)
        half = _in_half(network, rows[removed], np.unique(component[has_house]), component, whole)
        inside = half[source] & half[target] & (component[source] != component[target])
        if inside.any():
            yield np.where(half, whole, -1)


def _link_kinds(network: Network, between: Int64) -> Int64:
    """Give classes the same number where some of their channels run between the same two switches; shape (classes,)."""
    ends = network.channels.source_node[between], network.channels.target_node[between]
    _, pair = np.unique(np.minimum(*ends) * np.int64(network.num_nodes) + np.maximum(*ends), return_inverse=True)
    num_classes = len(network.channel_class_names)
    joined = _components(num_classes + len(between), network.channels.channel_class[between], num_classes + pair)
    return joined[:num_classes]


def _in_half(network: Network, removed: Int64, houses: Int64, component: Int64, whole: Int64) -> Bool:
    """Tell which nodes are in the first half of what they are joined with; no node is where that is a single house.

    *houses* are components with terminals, *whole* is what nodes were joined in before channels were *removed*.
    """
    size = np.bincount(component[: network.num_terminals], minlength=network.num_nodes)[houses]
    order = np.argsort(whole[houses], kind="stable")
    houses, size = houses[order], size[order]
    first = np.flatnonzero(np.diff(whole[houses], prepend=-1))
    count = np.diff(first, append=len(houses))
    before = np.cumsum(size) - size
    before -= np.repeat(before[first], count)
    total = np.repeat(np.add.reduceat(size, first), count)
    is_first = (2 * before + size <= total) & np.repeat(count > 1, count)

    side = np.zeros(network.num_nodes, np.int64)  # of components: 1 in, -1 out, 0 not decided yet
    side[houses] = np.where(is_first, 1, -1)
    one, other = component[network.channels.source_node[removed]], component[network.channels.target_node[removed]]
    while True:
        votes, reached = np.zeros((2, network.num_nodes), np.int64)
        np.add.at(votes, other, side[one])
        np.add.at(reached, other, abs(side[one]))
        new = np.flatnonzero((side == 0) & (reached > 0))
        if not len(new):
            in_half: Bool = side[component] == 1
            return in_half
        side[new] = np.where(votes[new] > 0, 1, -1)


def _cut(network: Network, rows: Int64, house: Int64) -> Cut:
    """Find what crosses between the houses of a part and all else; *rows* are its channels."""
    channels, labels = network.channels, np.unique(house[house >= 0])
    number = np.where(house >= 0, np.searchsorted(labels, house), -1)
    rows = rows[~channels.dead[rows]]
    source, target = number[channels.source_node[rows]], number[channels.target_node[rows]]
    out, into = (source != target) & (source >= 0), (source != target) & (target >= 0)
    return Cut(
        number[: network.num_terminals],
        _crossing(network, rows[out], source[out], len(labels)),
        _crossing(network, rows[into], target[into], len(labels)),
    )


def _crossing(network: Network, rows: Int64, house: Int64, num_houses: int) -> Crossing:
    """Add up the channels *rows*, each of one *house*."""
    num, den = network.channels.ps_per_byte_num[rows], network.channels.ps_per_byte_den[rows]
    serialization_ps = -(-network.packet.wire_bytes(network.packet.max_payload_bytes) * num // den)
    tail_ps = np.full(num_houses, np.iinfo(np.int64).max)
    np.minimum.at(tail_ps, house, network.channels.latency_ps[rows] - serialization_ps)
    rate = [Fraction(0)] * num_houses
    rows_alike: Counter[tuple[int, int, int]] = Counter(zip(house.tolist(), num.tolist(), den.tolist(), strict=True))
    for (number, ps, num_bytes), count in rows_alike.items():
        rate[number] += Fraction(num_bytes * count, ps)
    return Crossing(
        np.array([one.numerator for one in rate], object), np.array([one.denominator for one in rate], object), tail_ps
    )
