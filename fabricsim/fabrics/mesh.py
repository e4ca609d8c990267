"""The n-dimensional full mesh: terminals at the points of a grid, those on a line joined pairwise.

Every terminal has a forwarding switch of its own, which holds its links to its neighbours: 2D and 4D meshes of UB-Mesh
(arXiv 2503.20377) are of this kind. Routes go dimension by dimension, at most one link in each, so a channel of one
dimension is followed by channels of later ones alone and no vc is needed to break a cycle (Dally and Seitz 1987).

With detours a dimension takes up to two links, the first on vc 1 and the second on vc 0: dimension by dimension, and in
each vc 1 before vc 0, no cycle can form either. McDonald, Isaev, Flores, Davis and Kim ("Practical and efficient
incremental adaptive routing for HyperX networks", SC 2019) call this way DimWAR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod

import numpy as np

from fabricsim.errors import ConfigError
from fabricsim.fabrics.network import Endpoint, Int64, Network, PacketFormat, VirtualChannels
from fabricsim.fabrics.topologies import (
    DETOUR_ROUTINGS,
    Link,
    channel_table,
    check_common,
    check_count,
    check_link,
    check_table,
    check_terminals,
    int32,
    refuse_no_detours,
    share,
    spray_starts,
)


@dataclass(frozen=True)
class Dimension:
    """A dimension of a mesh: so many terminals stand on each of its lines, every two of them joined by a link."""

    name: str
    size: int
    link: Link


def mesh(
    *,
    name: str,
    terminal_name: str,
    switch_name: str,
    dimensions: Sequence[Dimension],
    up: Link,
    down: Link,
    packet: PacketFormat,
    endpoint: Endpoint,
    copy_ps_per_byte: Fraction | None,
    ejection_ps_per_byte: Fraction | None,
    routing: str = "deterministic",
) -> Network:
    """Build a full mesh of any number of dimensions, in one plane.

    The product of the dimensions' sizes is the number of terminals; neighbours in number stand on one line of the
    first dimension. ``up`` and ``down`` join a terminal to its switch. Channel classes are ``<terminal>-<switch>``,
    ``<switch>-<dimension>`` for each and ``<switch>-<terminal>``. A switch lists its channel to its terminal, then
    those of each dimension in the order of their targets. ``routing`` is one of the two with detours; any other one
    has nothing to choose, for without them each pair has one path.

    ``copy_ps_per_byte`` and ``ejection_ps_per_byte`` are of a whole terminal (``None`` does not limit). Raises
    ``ConfigError`` for anything that cannot run: it names the channel class, the value and the remedy.
    """
    check_common(name, packet, endpoint)
    names = [terminal_name, switch_name, *(dimension.name for dimension in dimensions)]
    if len(set(names)) != len(names):
        raise ConfigError(f"{name}: terminal, switch and dimensions are named {', '.join(names)}; no two may be alike")
    for dimension in dimensions:
        check_count(name, f"the size of dimension {dimension.name}", dimension.size)
    sizes = [dimension.size for dimension in dimensions]
    num_terminals = prod(sizes)
    check_terminals(name, num_terminals)
    num_outputs = 1 + sum(size - 1 for size in sizes)
    check_table(name, "route entries", num_terminals * num_terminals)
    check_table(name, "channels", num_terminals * (1 + num_outputs))
    classes = {
        f"{terminal_name}-{switch_name}": up,
        **{f"{switch_name}-{dimension.name}": dimension.link for dimension in dimensions},
        f"{switch_name}-{terminal_name}": down,
    }
    for class_name, link in classes.items():
        check_link(name, class_name, link, packet)

    terminals = np.arange(num_terminals)
    target = [terminals[:, None]]
    channel_class = [len(dimensions) + 1]
    route = np.zeros((num_terminals, num_terminals), np.int64)  # output of the switch [row] towards the terminal
    undecided = terminals[:, None] != terminals
    below, first = 1, 1  # terminals that differ in earlier dimensions alone, first output of this dimension
    for number, size in enumerate(sizes, start=1):
        place = terminals // below % size
        other = np.arange(size - 1) + (np.arange(size - 1) >= place[:, None])
        target.append(num_terminals + terminals[:, None] + (other - place[:, None]) * below)
        channel_class += [number] * (size - 1)
        turns = undecided & (place[:, None] != place)
        route[turns] = (first + place - (place > place[:, None]))[turns]
        undecided &= ~turns
        below, first = below * size, first + size - 1
    outputs = num_terminals + terminals[:, None] * num_outputs  # first output channel of each switch
    bundle_index = np.repeat(terminals[:, None], num_terminals, axis=1)
    np.fill_diagonal(bundle_index, -1)
    num_channels = num_terminals * (1 + num_outputs)
    network = Network(
        name=name,
        num_terminals=num_terminals,
        num_switches=num_terminals,
        num_planes=1,
        channels=channel_table(
            source_node=np.concatenate([terminals, np.repeat(num_terminals + terminals, num_outputs)])[None],
            target_node=np.concatenate([num_terminals + terminals, np.concatenate(target, axis=1).ravel()])[None],
            channel_class=_classes(num_terminals, channel_class),
            links=tuple(classes.values()),
            copy_ps_per_byte=share(name, "copy", copy_ps_per_byte, 1),
            ejection_ps_per_byte=share(name, "ejection", ejection_ps_per_byte, 1),
        ),
        channel_class_names=tuple(classes),
        node_names=tuple(f"{kind}{number}" for kind in (terminal_name, f"{switch_name}.") for number in terminals),
        route_first=int32(outputs + route),
        route_count=np.ones((num_terminals, num_terminals), np.int32),
        candidates=int32(np.arange(num_channels)),
        spray_start=np.zeros(num_channels, np.int32),
        bundle_index=int32(bundle_index),
        bundle_first=int32(np.arange(num_terminals + 1)),
        bundle_channels=int32(terminals),
        packet=packet,
        endpoint=endpoint,
        routing=routing,
    )
    return _with_detours(network, sizes) if routing in DETOUR_ROUTINGS else network


def _with_detours(network: Network, sizes: Sequence[int]) -> Network:
    """Let each candidate be followed by the other outputs of its dimension, which are detours."""
    num_terminals, num_outputs = network.num_terminals, 1 + sum(size - 1 for size in sizes)
    check_table(network.name, "candidates", num_terminals * (1 + sum((size - 1) ** 2 for size in sizes)))
    outputs = [np.zeros(1, np.int64)]  # by minimal output: itself, then its detours, counted from the switch's first
    first = 1
    for size in sizes:
        line = np.arange(first, first + size - 1)
        outputs += [np.concatenate([[own], line[line != own]]) for own in line]
        first += size - 1
    length = np.array([len(row) for row in outputs])
    begin = np.cumsum(length) - length
    switches = np.arange(num_terminals)[:, None]
    first_output = num_terminals + switches * num_outputs
    minimal = network.route_first - first_output
    network = replace(
        network,
        route_first=int32(switches * int(length.sum()) + begin[minimal]),
        candidates=int32((first_output + np.concatenate(outputs)).ravel()),
        vcs=VirtualChannels(2),
        detour_count=int32(length[minimal] - 1),
    )
    refuse_no_detours(network)
    return replace(network, spray_start=spray_starts(network))


def _classes(num_terminals: int, of_outputs: Sequence[int]) -> Int64:
    """Classes of the upward channels, then of the outputs of every switch."""
    return np.concatenate([np.zeros(num_terminals, np.int64), np.tile(np.array(of_outputs, np.int64), num_terminals)])
