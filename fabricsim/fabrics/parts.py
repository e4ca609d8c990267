"""Fabrics of several parts over the same terminals: networks put together, each with its terminals and planes.

A pair of terminals uses the first part that connects it, and that one alone. Parts share no switch, so planes of one
part are further planes beside those of the others (docs/physics.md, section 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from fabricsim.fabrics.network import Channels, Int32, Int64, Network
from fabricsim.fabrics.topologies import check_table, check_terminals, int32


@dataclass(frozen=True)
class Part:
    """A network whose terminal t is terminal ``terminals[t]`` of the whole, and whose planes begin at ``first_plane``.

    ``prefix`` stands before the names of its switches. Parts without a terminal in common may have planes in common.
    """

    network: Network
    terminals: Int64
    first_plane: int
    prefix: str = ""


def put_together(name: str, terminal_name: str, num_terminals: int, parts: Sequence[Part], routing: str) -> Network:
    """Make one network of several, in the order in which they are asked for a way.

    All have the packets and endpoint of the first. Raises ``ConfigError`` for a whole that is too large.
    """
    networks = [part.network for part in parts]
    num_switches = sum(network.num_switches for network in networks)
    check_terminals(name, num_terminals)
    check_table(name, "route entries", num_switches * num_terminals)
    class_names = tuple(dict.fromkeys(kind for network in networks for kind in network.channel_class_names))
    first_switch = _firsts([network.num_switches for network in networks])
    channels = _channels(parts, num_terminals + first_switch, class_names)
    order = np.lexsort((channels.source_node, channels.plane))
    number = np.argsort(order)  # of each channel, part after part, in the whole
    first_channel = _firsts([len(network.channels) for network in networks])
    first_candidate = _firsts([len(network.candidates) for network in networks])
    first_bundle = _firsts([len(network.bundle_first) - 1 for network in networks])

    route_first = np.zeros((num_switches, num_terminals), np.int64)
    route_count = np.zeros((num_switches, num_terminals), np.int64)
    detour_count = np.zeros((num_switches, num_terminals), np.int64)
    bundle_index = np.full((num_terminals, num_terminals), -1, np.int64)
    for index, part in enumerate(parts):
        network = part.network
        rows = first_switch[index] + np.arange(network.num_switches)[:, None]
        route_first[rows, part.terminals] = network.route_first + first_candidate[index]
        route_count[rows, part.terminals] = network.route_count
        if network.detour_count is not None:
            detour_count[rows, part.terminals] = network.detour_count
        pairs = part.terminals[:, None], part.terminals
        is_first = (bundle_index[pairs] < 0) & (network.bundle_index >= 0)
        bundle_index[pairs] = np.where(is_first, network.bundle_index + first_bundle[index], bundle_index[pairs])

    def in_whole(local: Sequence[Int32]) -> Int32:
        return int32(number[np.concatenate([first + part for first, part in zip(first_channel, local, strict=True)])])

    # Plane by plane, so that planes that are alike are so table by table; lists of candidates stay whole.
    candidates = in_whole([network.candidates for network in networks])
    plane = channels.plane[order]
    by_plane = np.argsort(plane[candidates], kind="stable")
    first_of_plane = np.searchsorted(plane, np.arange(int(plane[-1]) + 1))
    ordered = Channels(**{field.name: getattr(channels, field.name)[order] for field in fields(Channels)})
    sizes = np.concatenate([np.diff(network.bundle_first) for network in networks])
    return replace(
        networks[0],
        name=name,
        num_terminals=num_terminals,
        num_switches=num_switches,
        num_planes=len(first_of_plane),
        channels=replace(ordered, place=int32(np.arange(len(plane)) - first_of_plane[plane])),
        channel_class_names=class_names,
        node_names=(
            *(f"{terminal_name}{terminal}" for terminal in range(num_terminals)),
            *(part.prefix + text for part in parts for text in part.network.node_names[part.network.num_terminals :]),
        ),
        route_first=int32(np.where(route_count > 0, np.argsort(by_plane)[route_first], 0)),
        route_count=int32(route_count),
        candidates=candidates[by_plane],
        spray_start=np.concatenate([network.spray_start for network in networks])[order],
        bundle_index=int32(bundle_index),
        bundle_first=int32(np.append(0, np.cumsum(sizes))),
        bundle_channels=in_whole([network.bundle_channels for network in networks]),
        routing=routing,
        vcs=max((network.vcs for network in networks), key=lambda vcs: vcs.count),
        detour_count=int32(detour_count) if detour_count.any() else None,
        weights=_weights(networks)[order] if any(network.weights is not None for network in networks) else None,
    )


def _firsts(counts: Sequence[int]) -> Int64:
    """Give the number of the first of each part's things where they are counted part after part."""
    return np.cumsum([0, *counts[:-1]], dtype=np.int64)


def _weights(networks: Sequence[Network]) -> Int64:
    """Give the weights of all channels, part after part; 1 in a part without."""
    return np.concatenate(
        [np.ones(len(one.channels), np.int64) if one.weights is None else one.weights for one in networks]
    )


def _channels(parts: Sequence[Part], first_switch: Int64, class_names: Sequence[str]) -> Channels:
    """Put the channels of all parts one after the other, with the nodes, planes and classes of the whole."""
    tables = []
    for part, switch in zip(parts, first_switch.tolist(), strict=True):
        network = part.network
        node = np.concatenate([part.terminals, switch + np.arange(network.num_switches)])
        kind = np.array([class_names.index(name) for name in network.channel_class_names], np.int64)
        tables.append(
            replace(
                network.channels,
                source_node=int32(node[network.channels.source_node]),
                target_node=int32(node[network.channels.target_node]),
                plane=int32(part.first_plane + network.channels.plane),
                channel_class=int32(kind[network.channels.channel_class]),
            )
        )
    return Channels(
        **{field.name: np.concatenate([getattr(table, field.name) for table in tables]) for field in fields(Channels)}
    )


def package_and_racks(
    rack: Network,
    *,
    terminal_name: str,
    routing: str,
    package: Network | None,
    num_racks: int,
    scale_out: Network | None,
    num_rails: int,
) -> Network:
    """Put a topology together with what joins terminals inside it, and with what joins copies of it.

    Parameters
    ----------
    rack
        The topology of one rack (or supernode).
    terminal_name
        What a terminal is called.
    routing
        How switches of all parts choose; a part without a choice says nothing of it.
    package
        Joins the terminals of one package, neighbours in number; ``None`` where there are no packages.
    num_racks
        How many copies of ``rack`` there are. Their switches are named ``rack0.nvswitch.3.0`` where there are several.
    scale_out
        Joins all terminals, in the order of the rails; ``None`` if there is one rack.
    num_rails
        Terminal t is on rail ``t mod num_rails``.

    Planes are numbered from those of the topology, so that they are those in the names of its switches; then come
    those of ``scale_out``, then those of ``package``.
    """
    per_rack = rack.num_terminals
    num_terminals = num_racks * per_rack
    scale_out_plane = rack.num_planes
    package_plane = scale_out_plane + (scale_out.num_planes if scale_out is not None else 0)
    parts = []
    if package is not None:
        size = package.num_terminals
        parts += [Part(package, first + np.arange(size), package_plane) for first in range(0, num_terminals, size)]
    for number in range(num_racks):
        prefix = f"rack{number}." if num_racks > 1 else ""
        parts.append(Part(rack, number * per_rack + np.arange(per_rack), 0, prefix))
    if scale_out is not None:
        rail, place = np.divmod(np.arange(num_terminals), num_terminals // num_rails)
        parts.append(Part(scale_out, place * num_rails + rail, scale_out_plane))
    return rack if len(parts) == 1 else put_together(rack.name, terminal_name, num_terminals, parts, routing)
