"""The channels that were busy longest, and the flows that fill them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fabricsim.engine.hashing import FLOW, hash_words
from fabricsim.fabrics.network import Network, table_rows

if TYPE_CHECKING:
    from fabricsim.results.result import Result

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

MAX_CHANNELS = 10
MAX_FLOWS = 5


@dataclass(frozen=True)
class Crossing:
    """Which part of the bytes of pairs of terminals goes over a channel; one entry per pair that has some.

    What a packet has a choice of counts in equal parts, and so do the planes of a message, but for weights. Detours
    and what switches make of packets do not count.
    """

    source: Int64
    target: Int64
    part: Float64


def hottest_channels(result: Result) -> list[dict[str, Any]]:
    """Return the live channels that were busy longest, ready for JSON, each with the largest of its flows.

    Of channels that were busy as long the first ones; those that carried nothing are left out. The bytes of a flow are
    payload, as its route makes them expect.
    """
    busy_ps = result.record.channel_busy_ps
    order = np.argsort(-busy_ps, kind="stable")[:MAX_CHANNELS]
    return _rows(result, order[busy_ps[order] > 0].tolist())


def hottest_in_planes(result: Result, count: int) -> list[tuple[dict[str, Any], list[int]]]:
    """Return the first *count* of ``hottest_channels``, those taken as one that are at the same place in other planes.

    Each is the first of such channels, which were busy as long, and comes with the planes of all of them.
    """
    channels, busy_ps = result.network.channels, result.record.channel_busy_ps
    planes: dict[tuple[int, int, str], list[int]] = {}
    first: list[int] = []
    for channel in np.argsort(-busy_ps, kind="stable").tolist():
        if not busy_ps[channel] or (len(first) == count and busy_ps[channel] < busy_ps[first[-1]]):
            break
        plane = int(channels.plane[channel])
        place = (int(busy_ps[channel]), int(channels.channel_class[channel]), _place(result.network, channel))
        if place in planes:
            planes[place].append(plane)
        elif len(first) < count:
            planes[place] = [plane]
            first.append(channel)
    return list(zip(_rows(result, first), planes.values(), strict=True))


def channel_name(network: Network, channel: int) -> str:
    """Name a channel as tables and ``--fault`` do: ``npu3-l1.0.2``."""
    channels, names = network.channels, network.node_names
    return f"{names[channels.source_node[channel]]}-{names[channels.target_node[channel]]}"


def _place(network: Network, channel: int) -> str:
    """Name the ends of a channel without its plane, which stands at the end of the names of switches."""
    channels, names = network.channels, network.node_names
    plane = f".{channels.plane[channel]}"
    ends = (names[node[channel]] for node in (channels.source_node, channels.target_node))
    return "-".join(name.removesuffix(plane) for name in ends)


def _rows(result: Result, order: list[int]) -> list[dict[str, Any]]:
    """Describe channels, ready for JSON."""
    network, record = result.network, result.record
    channels, names, busy_ps = network.channels, network.node_names, record.channel_busy_ps
    crossings = [crossing(network, channel, result.info.seed) for channel in order]
    return [
        {
            "channel": channel_name(network, channel),
            "source": names[channels.source_node[channel]],
            "target": names[channels.target_node[channel]],
            "plane": int(channels.plane[channel]),
            "channel_class": network.channel_class_names[channels.channel_class[channel]],
            "utilization": int(busy_ps[channel]) / max(result.simulated_time_ps, 1),
            "busy_ps": int(busy_ps[channel]),
            "credit_stall_ps": int(record.channel_credit_stall_ps[channel]),
            "peak_occupancy_bytes": int(record.channel_peak_occupancy_bytes[channel]),
            "flows": flows,
        }
        for channel, flows in zip(order, _flows(result, crossings), strict=True)
    ]


def _flows(result: Result, crossings: list[Crossing]) -> Iterator[list[dict[str, Any]]]:
    """Give the largest flows of each channel."""
    num_terminals, num_ranks = result.network.num_terminals, result.num_ranks
    rank = np.full(num_terminals, -1, np.int64)
    rank[result.terminal_of_rank] = np.arange(num_ranks)
    parts = []
    for one in crossings:
        used = np.flatnonzero((rank[one.source] >= 0) & (rank[one.target] >= 0))
        parts.append((rank[one.source[used]] * num_ranks + rank[one.target[used]], one.part[used]))
    pairs = np.unique(np.concatenate([pair for pair, _ in parts])) if parts else np.empty(0, np.int64)
    moved_bytes = _bytes_of_pairs(result, pairs)
    for pair, part in parts:
        flow_bytes = np.rint(moved_bytes[np.searchsorted(pairs, pair)] * part).astype(np.int64)
        largest = np.lexsort((pair, -flow_bytes))[:MAX_FLOWS]
        yield [
            {
                "source_rank": int(pair[row] // num_ranks),
                "target_rank": int(pair[row] % num_ranks),
                "bytes": int(flow_bytes[row]),
            }
            for row in largest.tolist()
            if flow_bytes[row]
        ]


def _bytes_of_pairs(result: Result, pairs: Int64) -> Int64:
    """Add up what the messages of some pairs of ranks (source times the number of ranks plus target) moved."""
    moved_bytes = np.zeros(len(pairs), np.int64)
    sends, receives = (np.zeros(result.num_ranks, np.bool_) for _ in range(2))
    sends[pairs // result.num_ranks] = receives[pairs % result.num_ranks] = True
    for source, target, size_bytes in result.collected.messages.blocks("source_rank", "target_rank", "size_bytes"):
        rows = np.flatnonzero(sends[source] & receives[target])
        pair = source[rows].astype(np.int64) * result.num_ranks + target[rows]
        place = np.searchsorted(pairs, pair).clip(max=max(len(pairs) - 1, 0))
        known = pairs[place] == pair
        np.add.at(moved_bytes, place[known], size_bytes[rows][known])
    return moved_bytes


def crossing(network: Network, channel: int, seed: int) -> Crossing:
    """Say which pairs of terminals send over a channel, and which part of their bytes, as the routes of *network* go.

    Back from the channel, node by node: of packets for a terminal that come to a node, the part that goes on to the
    channel is the mean of that over the candidates there.
    """
    channels, num_terminals = network.channels, network.num_terminals
    found: list[tuple[Int64, Int64, Float64]] = []
    # Channels, and the parts of packets for a target that go on from their ends to the one asked for.
    onward, target, part = np.full(num_terminals, channel), np.arange(num_terminals), np.ones(num_terminals)
    into = np.argsort(channels.target_node, kind="stable")
    into_first = np.searchsorted(channels.target_node[into], np.arange(network.num_nodes + 1))
    while len(onward):
        node_of = channels.source_node[onward].astype(np.int64)
        at_terminal = node_of < num_terminals
        found.append(_first_steps(network, onward[at_terminal], target[at_terminal], part[at_terminal]))
        onward, target, part = (array[~at_terminal] for array in (onward, target, part))
        node, target, part = _parts_at(network, onward, target, part)
        count = into_first[node + 1] - into_first[node]
        onward = into[table_rows(into_first[node], count)]
        target, part = np.repeat(target, count), np.repeat(part, count)
    source, target, part = (np.concatenate(column) for column in zip(*found, strict=True))
    if network.routing == "deterministic" and len(source):
        taken = _takes(network, channel, source, target, seed)
        width = np.diff(network.bundle_first)[network.bundle_index[source, target]]
        source, target, part = source[taken], target[taken], (1 / width)[taken]
    return Crossing(source, target, part)


def _first_steps(network: Network, channel: Int64, target: Int64, part: Float64) -> tuple[Int64, Int64, Float64]:
    """Keep those first channels over which their terminals send to the targets, with the part of a message on each."""
    source = network.channels.source_node[channel].astype(np.int64)
    bundle = network.bundle_index[source, target].astype(np.int64)
    rows = np.flatnonzero((bundle >= 0) & (source != target))
    width = np.diff(network.bundle_first)[bundle[rows]].astype(np.int64)
    row = np.repeat(rows, width)
    member = network.bundle_channels[table_rows(network.bundle_first[bundle[rows]], width)]
    weight = np.ones(len(member)) if network.weights is None else network.weights[member].astype(np.float64)
    total = np.bincount(row, weight, len(channel))
    mine = np.flatnonzero(member == channel[row])
    row, weight = row[mine], weight[mine]
    return source[row], target[row], part[row] * weight / total[row]


def _parts_at(network: Network, channel: Int64, target: Int64, part: Float64) -> tuple[Int64, Int64, Float64]:
    """Add up by switch and target what goes on over the channels that are candidates there."""
    num_terminals = network.num_terminals
    node = network.channels.source_node[channel].astype(np.int64)
    count = network.route_count[node - num_terminals, target].astype(np.int64)
    row = np.repeat(np.arange(len(channel)), count)
    candidate = network.candidates[table_rows(network.route_first[node - num_terminals, target], count)]
    row = row[candidate == channel[row]]
    kinds, place = np.unique(node[row] * num_terminals + target[row], return_inverse=True)
    sums = np.zeros(len(kinds))
    np.add.at(sums, place, part[row] / count[row])
    return kinds // num_terminals, kinds % num_terminals, sums


def _takes(network: Network, channel: int, source: Int64, target: Int64, seed: int) -> npt.NDArray[np.bool_]:
    """Tell whether the one way of pairs in the plane of a channel goes over it (docs/physics.md, section 6)."""
    channels, num_terminals = network.channels, network.num_terminals
    draw = hash_words(seed, FLOW, source, target)
    bundle = network.bundle_index[source, target]
    width = np.diff(network.bundle_first)[bundle].astype(np.int64)
    member = network.bundle_channels[table_rows(network.bundle_first[bundle], width)]
    in_plane = channels.plane[member] == channels.plane[channel]
    # A pair in question has one first channel in the plane.
    way = np.zeros(len(source), np.int64)
    way[np.repeat(np.arange(len(source)), width)[in_plane]] = member[in_plane]
    taken: npt.NDArray[np.bool_] = way == channel
    moving = np.flatnonzero(channels.target_node[way] >= num_terminals)
    while len(moving):
        switch = channels.target_node[way[moving]] - num_terminals
        count = network.route_count[switch, target[moving]]
        way[moving] = network.candidates[network.route_first[switch, target[moving]] + draw[moving] % count]
        taken[moving] |= way[moving] == channel
        moving = moving[channels.target_node[way[moving]] >= num_terminals]
    return taken
