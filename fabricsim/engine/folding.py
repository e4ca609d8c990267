"""Folding: of planes that are alike and carry alike, one is simulated and stands for all (docs/physics.md, section 12).

The engine knows nothing of it. It gets a smaller network, with one plane of each class of planes that are alike, and a
schedule whose messages are what those planes carry; ``Folding.unfold`` makes the record of the whole from its record.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fabricsim.engine.driver import RunFigures
from fabricsim.engine.state import planes_run_apart
from fabricsim.fabrics.network import Channels, Network
from fabricsim.workloads.schedule import Schedule

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Figures = TypeVar("Figures", bound=RunFigures)


@dataclass(frozen=True)
class Folding:
    """What to simulate for a network and a workload, and what it stands for.

    ``stand_in[c]`` is the channel of ``network`` that stands for channel c of the whole, ``plane_stand_in[p]`` the
    plane for plane p (int64). Each packet of the run stands for ``copies`` packets; ``None`` where that differs by
    plane, which only planes that run apart allow, for their latencies are recorded apart too. ``words`` say how the
    planes were folded, or why they were not. ``sizes`` are those of its messages.
    """

    network: Network
    sizes: FoldedSizes | None
    stand_in: Int64
    plane_stand_in: Int64
    copies: int | None
    words: str

    @property
    def folded(self) -> bool:
        """Whether channels stand for others than themselves."""
        return len(self.network.channels) < len(self.stand_in)

    def schedule(self, schedule: Schedule) -> Schedule:
        """Return what the run moves for a schedule of the workload."""
        if self.sizes is None:
            return schedule
        size_bytes = self.sizes.of(schedule)
        return replace(schedule, messages=replace(schedule.messages, size_bytes=size_bytes))

    def unfold(self, record: Figures) -> Figures:
        """Turn the record of the run into that of the whole; times and the engine's own figures stay as they are."""
        of_channels = [field.name for field in fields(record) if field.name.startswith("channel_")]
        counts, sums_ps, packets = record.domain_latency_counts, record.domain_latency_sum_ps, record.domain_packets
        timeline = record.timeline
        if planes_run_apart(self.network):
            timeline = replace(
                timeline,
                busy_ps=timeline.busy_ps[self.plane_stand_in],
                credit_stall_ps=timeline.credit_stall_ps[self.plane_stand_in],
                peak_occupancy_bytes=timeline.peak_occupancy_bytes[self.plane_stand_in],
            )
            counts, packets = counts[self.plane_stand_in], packets[self.plane_stand_in]
            sums_ps = tuple(sums_ps[plane] for plane in self.plane_stand_in.tolist())
        else:
            assert self.copies is not None
            timeline = replace(
                timeline,
                busy_ps=timeline.busy_ps * self.copies,
                credit_stall_ps=timeline.credit_stall_ps * self.copies,
            )
            counts, packets = counts * self.copies, packets * self.copies
            sums_ps = tuple(sum_ps * self.copies for sum_ps in sums_ps)
        return replace(
            record,
            **{name: getattr(record, name)[self.stand_in] for name in of_channels},
            packet_latency_counts=counts.sum(axis=0),
            packet_latency_sum_ps=sum(sums_ps),
            domain_latency_counts=counts,
            domain_latency_sum_ps=sums_ps,
            domain_packets=packets,
            packets=int(packets.sum()),
            timeline=timeline,
            packet_hops=int(record.channel_packets[self.stand_in].sum()),
        )


@dataclass(frozen=True)
class FoldedSizes:
    """The sizes of the messages of a folded run; ``width`` and ``folded_width`` are the planes of each bundle."""

    network: Network
    terminal_of_rank: Int32
    width: Int64
    folded_width: Int64

    def bundles(self, schedule: Schedule) -> tuple[Bool, Int64]:
        """Tell which messages move, and over which bundle (0 for others)."""
        messages = schedule.messages
        terminal = self.terminal_of_rank[schedule.tasks.rank]
        source, target = terminal[messages.source_task], terminal[messages.toward_task]
        moves = (messages.size_bytes > 0) & (source != target)
        return moves, np.where(moves, self.network.bundle_index[source, target], 0)

    def of(self, schedule: Schedule) -> Int64:
        """Give what folded bundles carry, so that their channels get the shares that they get in the whole.

        Never less than striping over all of them needs.
        """
        moves, bundle = self.bundles(schedule)
        size_bytes, width, folded_width = schedule.messages.size_bytes, self.width[bundle], self.folded_width[bundle]
        return np.where(moves & (folded_width < width), -(-size_bytes // width) * folded_width, size_bytes)


def unfolded(network: Network, why: str) -> Folding:
    """Return the folding that folds nothing, and say why."""
    channels, planes = np.arange(len(network.channels)), np.arange(network.num_planes)
    return Folding(network, None, channels, planes, copies=1, words=why)


def fold(network: Network, schedules: Iterable[Schedule], terminal_of_rank: Int32) -> Folding:
    """Fold the planes that are alike, if that changes no recorded figure of *schedules*, the blocks of a workload.

    No hash, tie or counter knows the number of its plane, so planes that are alike do the same as long as they carry
    the same: every message that uses one of them uses all of them.
    """
    if network.num_planes == 1:
        return unfolded(network, "the fabric has one plane")
    if network.weights is not None:
        return unfolded(network, "planes have weights")
    plane_class = classes_of_planes(network)
    count = np.bincount(plane_class)
    if len(count) == network.num_planes:
        return unfolded(network, "no two planes are alike")

    is_first = np.zeros(network.num_planes, np.bool_)
    is_first[np.unique(plane_class, return_index=True)[1]] = True
    member_plane = network.channels.plane[network.bundle_channels]
    width = np.diff(network.bundle_first)
    bundle_of_member = np.repeat(np.arange(len(width)), width)
    folded_width = np.bincount(bundle_of_member[is_first[member_plane]], minlength=len(width))
    sizes = FoldedSizes(network, terminal_of_rank, width, folded_width)

    used = np.zeros(len(width), np.bool_)
    smallest: tuple[int, int, int] | None = None  # bytes, planes used and planes of a message that does not use all
    for schedule in schedules:
        moves, bundle = sizes.bundles(schedule)
        size_bytes = schedule.messages.size_bytes
        shares = np.minimum(width[bundle], -(-size_bytes // network.packet.stripe_min_bytes))
        partial = np.flatnonzero(moves & (folded_width[bundle] < width[bundle]) & (shares < width[bundle]))
        if len(partial):
            row = partial[size_bytes[partial].argmin()]
            if smallest is None or size_bytes[row] < smallest[0]:
                smallest = int(size_bytes[row]), int(shares[row]), int(width[bundle[row]])
        used[bundle[moves]] = True
    if smallest is not None:
        return unfolded(network, "a message of {:,} B uses {} of {} planes".format(*smallest))

    copies = np.unique(count[plane_class[member_plane[used[bundle_of_member]]]])
    if len(copies) > 1 and not planes_run_apart(network):
        stands_for = " and for ".join(map(str, copies))
        return unfolded(
            network,
            f"planes that carry packets would stand for {stands_for}, but their latencies are recorded together",
        )

    one_of_each = _planes_of(network, is_first)
    first_channel = np.searchsorted(one_of_each.channels.plane, np.arange(len(count)))
    return Folding(
        network=one_of_each,
        sizes=sizes,
        stand_in=first_channel[plane_class[network.channels.plane]] + network.channels.place,
        plane_stand_in=plane_class,
        copies=None if len(copies) > 1 else int(copies.max(initial=1)),
        words=f"{network.num_planes} planes as {len(count)}",
    )


def classes_of_planes(network: Network) -> Int64:
    """Return the class of each plane, planes that are alike being one; classes are numbered by their first planes.

    Planes are alike if all their tables are equal, counted from the plane's own first channel and switch. Planes that
    are alike in another order of channels or candidates are not found, and not folded.
    """
    channels, num_terminals = network.channels, network.num_terminals
    bundle = np.repeat(np.arange(len(network.bundle_first) - 1), np.diff(network.bundle_first))
    members = np.lexsort((bundle, network.bundle_channels))
    member = network.bundle_channels[members].astype(np.int64)
    in_bundle = bundle[members]
    first_channel = np.searchsorted(channels.plane, np.arange(network.num_planes + 1))
    node_in_plane = np.arange(network.num_nodes)
    found: dict[tuple[bytes, ...], int] = {}
    classes = []
    for plane in range(network.num_planes):
        rows = slice(first_channel[plane], first_channel[plane + 1])
        switches = np.flatnonzero(network.switch_plane == plane)
        joined = slice(*np.searchsorted(member, [rows.start, rows.stop]))
        node_in_plane[num_terminals + switches] = num_terminals + np.arange(len(switches))
        first, count = network.route_first[switches], network.candidate_count[switches]
        routed = count > 0
        low, high = first[routed].min(initial=len(network.candidates)), (first + count)[routed].max(initial=0)
        tables = [
            *(getattr(channels, name)[rows] for name in _ALIKE),
            node_in_plane[channels.source_node[rows]],
            node_in_plane[channels.target_node[rows]],
            network.spray_start[rows],
            member[joined] - rows.start,
            in_bundle[joined],
            count,
            network.route_count[switches],
            np.where(routed, first - low, 0),
            network.candidates[low:high] - rows.start,
        ]
        classes.append(found.setdefault(tuple(table.tobytes() for table in tables), len(found)))
    return np.array(classes, np.int64)


#: What is compared of each channel as it stands; nodes are counted within their plane.
_ALIKE = tuple(field.name for field in fields(Channels) if field.name not in ("source_node", "target_node", "plane"))


def _planes_of(network: Network, keep: Bool) -> Network:
    """Return the network of the planes in *keep* alone, renumbered in their order; a channel keeps its place."""
    channels = network.channels
    keep_channel = keep[channels.plane]
    keep_switch = np.append(keep, False)[network.switch_plane]
    keep_node = np.append(np.ones(network.num_terminals, np.bool_), keep_switch)
    keep_candidate = keep_channel[network.candidates]
    keep_member = keep_channel[network.bundle_channels]
    channel, node, candidate, member = (
        _renumbered(kept) for kept in (keep_channel, keep_node, keep_candidate, keep_member)
    )
    kept = Channels(**{field.name: getattr(channels, field.name)[keep_channel] for field in fields(channels)})
    return replace(
        network,
        num_switches=int(keep_switch.sum()),
        num_planes=int(keep.sum()),
        channels=replace(
            kept,
            source_node=node[kept.source_node],
            target_node=node[kept.target_node],
            plane=_renumbered(keep)[kept.plane],
        ),
        node_names=tuple(name for name, stays in zip(network.node_names, keep_node.tolist(), strict=True) if stays),
        route_first=candidate[network.route_first[keep_switch]],
        route_count=network.route_count[keep_switch],
        detour_count=None if network.detour_count is None else network.detour_count[keep_switch],
        candidates=channel[network.candidates[keep_candidate]],
        spray_start=network.spray_start[keep_channel],
        bundle_first=member[network.bundle_first],
        bundle_channels=channel[network.bundle_channels[keep_member]],
    )


def _renumbered(keep: Bool) -> Int32:
    """Return for each old number, and for the one after the last, how many numbers before it are kept."""
    number = np.zeros(len(keep) + 1, np.int32)
    np.cumsum(keep, out=number[1:])
    return number
