"""The time below which no operation can end, whatever the switches do: a self-check and a yardstick.

Derivation, for one operation, from docs/physics.md. Let a task of the operation begin at ``b`` and start at
``s = b + launch``. All quantities below are exact (whole picoseconds, rounded down where they do not come out).

*Way.* The last packet of a share has a size of its own. Whatever way it takes, from its start on the first channel to
the arrival of its head at its terminal pass the latencies of that way and, between channels of different rates, the
waits of section 5 for its own serializations. Its *delay* is the least sum of these over all ways of its pair.

*Injection.* A bundle of ``n`` channels has to inject the packets of all messages that the operation sends over it:
``W`` wire bytes and ``C`` cut bytes. The injection of a packet takes at least its serialization and at least its copy
time, so the channel that works longest works at least ``work = max(W * ps_per_byte, C * copy_ps_per_byte) / n``, taken
at the fastest channel of the bundle. The first packet cannot start before ``s + message_overhead``. The last packet
that this channel starts is the last packet of a share. It ends its injection no earlier than ``s + message_overhead +
work``, started that much before as its injection takes, and is delivered its delay and its ejection later. Besides,
each of the ``M`` shares holds one of the ``n * slots`` slots for its overhead and its injections, so the last of them
is free no earlier than ``s + (M * message_overhead / n + work) / slots``.

*Ejection.* A part of the fabric is a set of planes over which messages are striped together. A terminal with ``n`` last
channels of a part has to eject what it receives over it, which takes the busiest of them at least ``work = max(W *
ps_per_byte, C * ejection_ps_per_byte) / n``. The first packet cannot arrive before the smallest ``s + message_overhead
+ delay`` of the messages to it. The first packet of a message to arrive is a full one, or the last of a share: that
starts at least the serialization of the full one before it later.

*Planes.* A message that uses all channels of its bundle has a share of the same size on each, so the slowest of them
has to inject all these shares, and that alone bounds as ``work`` with ``n = 1`` does. So it is with the last channels
of a terminal, where each plane of the bundle has one.

*Cuts.* What the terminals of a set of nodes send to others over a part of the fabric leaves the set by a live channel,
whatever way it takes, and what they receive enters it by one. Of these channels, all between switches, one works at
least ``work = W / (sum of their bytes per picosecond)``, not before the smallest ``s + message_overhead + latency`` of
a first channel. It is then still busy with a packet, which arrives a latency after its start, so no earlier than that
latency less the serialization of a full packet after ``work``. The sets are those of fabricsim.results.cuts: this is
the largest over them, not over all cuts of the fabric.

*Chains.* A message is ready no earlier than the messages that it waits for are sent, or complete. From then on pass
``message_overhead``, the injections of all packets of a share but the last, at the fastest channel, and for the last
one its injection until it is sent, or its delay and its ejection until it is complete.

*In-network operations* (section 14). A terminal injects what its carriers bring and ejects what is delivered to it;
both hold as they stand. No way is counted for what goes to its own terminal, and all packets of a share are alike. In
chains only the overhead of such a message counts.

*Start.* A task that moves nothing ends no earlier than ``s``.

*Faults at a time* take ways away and make wires slower, never the other way round, so the ways and wires of time zero
bound all that follows. What a terminal copies and ejects on a channel gets faster where it loses others: each channel
has its fastest rate of all times. Messages are cut as the planes of their time say.

The latest of these ends bounds the end of the operation. Where all ranks begin together that is the larger of the
injection and the ejection time plus the latency of an empty network (docs/results.md, "The lower bound").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from fabricsim.engine.changes import Change
from fabricsim.engine.launch import launch_latencies_ps
from fabricsim.fabrics.network import Network, table_rows
from fabricsim.results.cuts import PartCuts, parts_of_planes
from fabricsim.results.routes import Routes
from fabricsim.results.traffic import Traffic, wire_bytes_of
from fabricsim.results.waits import waits_of
from fabricsim.workloads.schedule import Schedule

Int64 = npt.NDArray[np.int64]

NEVER_PS = np.iinfo(np.int64).max  #: later than all that happens


@dataclass(frozen=True)
class Bounds:
    """What bounds each operation; int64 picoseconds, shape (operations,).

    No operation ends before ``end_ps``. ``wire_ps`` is how long the wires of the terminal or cut that has most to
    move take for that, ``terminal_ps`` how long the copies, or the slots, of the terminal that has most to do.
    """

    end_ps: Int64
    wire_ps: Int64
    terminal_ps: Int64


def find_bounds(
    network: Network,
    schedule: Schedule,
    traffic: Traffic,
    routes: Routes,
    cuts: Sequence[PartCuts],
    task_begin_ps: Int64,
) -> Bounds:
    """Bound the end of every operation from below, given when its tasks began.

    Parameters
    ----------
    network, schedule
        Where and what.
    traffic
        ``message_traffic`` of the two.
    routes, cuts
        ``find_routes`` and ``find_cuts`` of the network.
    task_begin_ps
        Shape (tasks,): as recorded.

    Returns
    -------
    Bounds
        Of every operation.
    """
    tasks = schedule.tasks
    start_ps = task_begin_ps + launch_latencies_ps(network.endpoint, schedule)
    end_ps, wire_ps, terminal_ps = np.zeros((3, len(schedule.operations)), np.int64)
    np.maximum.at(end_ps, tasks.operation, start_ps)
    if len(traffic.message):
        ready_ps = start_ps[schedule.messages.source_task[traffic.message]] + network.endpoint.message_overhead_ps
        last_delay_ps = routes.least_delay_ps(
            traffic.source_terminal, traffic.target_terminal, wire_bytes_of(network, traffic.last_payload_bytes)
        )
        arrival_ps = ready_ps + _first_delay_ps(network, traffic, routes, last_delay_ps)
        last = _LastChannels.of(network, traffic)
        ejection_ps = _last_ejections_ps(network, traffic, last)
        for ends in (
            _injection_ends(network, traffic, ready_ps, last_delay_ps, ejection_ps),
            _ejection_ends(network, traffic, last, arrival_ps),
            *(ends for part in cuts for ends in _cut_ends(part, traffic, ready_ps)),
        ):
            np.maximum.at(end_ps, ends.operation, ends.end_ps)
            np.maximum.at(wire_ps, ends.operation, ends.wire_ps)
            np.maximum.at(terminal_ps, ends.operation, ends.terminal_ps)
        if len(schedule.messages.waits_for):
            chain_end_ps = _chain_ends_ps(network, schedule, traffic, start_ps, last_delay_ps + ejection_ps)
            np.maximum.at(end_ps, schedule.messages.operation, chain_end_ps)
    return Bounds(end_ps, wire_ps, terminal_ps)


@dataclass(frozen=True)
class _Ends:
    """Earliest ends of what operations have to move through some channels, and for how long these work at least."""

    operation: Int64
    end_ps: Int64
    wire_ps: Int64
    terminal_ps: Int64


def most_favourable(network: Network, changes: Sequence[Change]) -> Network:
    """Give the network whose bounds hold for a run in which others take its place."""
    channels = network.channels
    for change in changes:
        later = change.network.channels
        for what in ("copy", "ejection"):
            num, den = f"{what}_ps_per_byte_num", f"{what}_ps_per_byte_den"
            faster = getattr(later, num).astype(object) * getattr(channels, den).astype(object)
            faster = faster < getattr(channels, num).astype(object) * getattr(later, den).astype(object)
            columns = {name: np.where(faster, getattr(later, name), getattr(channels, name)) for name in (num, den)}
            channels = replace(channels, **columns)
    return replace(network, channels=channels)


def _first_delay_ps(network: Network, traffic: Traffic, routes: Routes, last_delay_ps: Int64) -> Int64:
    """Bound when the first packet of a message can arrive, after the first start of one."""
    packet = network.packet
    full_bytes = np.full(len(traffic.message), packet.wire_bytes(packet.max_payload_bytes), np.int64)
    wire = _Rate(network.channels.ps_per_byte_num, network.channels.ps_per_byte_den)
    fastest = wire.fastest(network.bundle_channels, network.bundle_first[:-1].astype(np.int64))[traffic.bundle]
    full_delay_ps = routes.least_delay_ps(traffic.source_terminal, traffic.target_terminal, full_bytes)
    first_delay_ps = np.minimum(full_delay_ps, last_delay_ps + wire.ceil_ps(full_bytes, fastest))
    longer = (traffic.cut_bytes > traffic.last_payload_bytes * traffic.shares) & ~traffic.in_network
    return np.where(longer, first_delay_ps, last_delay_ps)


def _last_ejections_ps(network: Network, traffic: Traffic, last: _LastChannels) -> Int64:
    """Bound how long the last packet of each message takes to be ejected."""
    channels, last_bytes = network.channels, traffic.last_payload_bytes
    wire = _Rate(channels.ps_per_byte_num, channels.ps_per_byte_den)
    ejection = _Rate(channels.ejection_ps_per_byte_num, channels.ejection_ps_per_byte_den)
    return np.maximum(
        wire.ceil_ps(wire_bytes_of(network, last_bytes), wire.fastest(last.rows, last.first)[last.group]),
        ejection.ceil_ps(last_bytes, ejection.fastest(last.rows, last.first)[last.group]),
    )


def _injection_ends(network: Network, traffic: Traffic, ready_ps: Int64, delay_ps: Int64, ejection_ps: Int64) -> _Ends:
    """Bound all that one operation sends over one bundle."""
    channels = network.channels
    first, rows = network.bundle_first[:-1].astype(np.int64), network.bundle_channels
    size = np.diff(network.bundle_first).astype(np.int64)
    wire = _Rate(channels.ps_per_byte_num, channels.ps_per_byte_den)
    copy = _Rate(channels.copy_ps_per_byte_num, channels.copy_ps_per_byte_den)

    last_bytes, last_wire_bytes = traffic.last_payload_bytes, wire_bytes_of(network, traffic.last_payload_bytes)
    injection_ps = np.maximum(
        wire.ceil_ps(last_wire_bytes, wire.slowest(rows, first)[traffic.bundle]),
        copy.ceil_ps(last_bytes, copy.slowest(rows, first)[traffic.bundle]),
    )
    # The injection's own end is a bound too, so a tail below zero counts as none.
    tail_ps = np.maximum(delay_ps + ejection_ps - injection_ps, 0)

    order, group = _groups(traffic.operation * len(size) + traffic.bundle)
    bundle = traffic.bundle[order][group]
    wire_ps = wire.work_ps(
        np.add.reduceat((traffic.wire_bytes * traffic.injections)[order], group),
        wire.fastest(rows, first)[bundle],
        size[bundle],
    )
    copy_ps = copy.work_ps(
        np.add.reduceat((traffic.cut_bytes * traffic.injections)[order], group),
        copy.fastest(rows, first)[bundle],
        size[bundle],
    )
    parts = np.where(_uses_all(network, traffic), traffic.injections, 0)
    for rate, work_ps, total_bytes in ((wire, wire_ps, traffic.wire_bytes), (copy, copy_ps, traffic.cut_bytes)):
        share_bytes = np.add.reduceat((total_bytes // traffic.shares * parts)[order], group)
        alone_ps = rate.work_ps(share_bytes, rate.slowest(rows, first)[bundle], np.ones_like(bundle))
        np.maximum(work_ps, alone_ps, out=work_ps)
    # A bundle belongs to one terminal, so to one task of the operation: all its messages share one start.
    begin_ps = ready_ps[order][group] + np.minimum.reduceat(tail_ps[order], group)
    work_ps, endpoint = np.maximum(wire_ps, copy_ps), network.endpoint
    shares = np.add.reduceat((traffic.shares * (traffic.injections > 0))[order], group)
    slots_ps = (shares * endpoint.message_overhead_ps // size[bundle] + work_ps) // endpoint.slots
    end_ps = begin_ps + np.maximum(work_ps, slots_ps - endpoint.message_overhead_ps)
    return _Ends(traffic.operation[order][group], end_ps, wire_ps, np.maximum(copy_ps, slots_ps))


def _ejection_ends(network: Network, traffic: Traffic, last: _LastChannels, arrival_ps: Int64) -> _Ends:
    """Bound all that one operation brings to one terminal over one part of the fabric."""
    channels = network.channels
    wire = _Rate(channels.ps_per_byte_num, channels.ps_per_byte_den)
    ejection = _Rate(channels.ejection_ps_per_byte_num, channels.ejection_ps_per_byte_den)
    order, group = _groups(traffic.operation * len(last.size) + last.group)
    into = last.group[order][group]
    wire_bytes = np.add.reduceat(traffic.wire_bytes[order], group)
    cut_bytes = np.add.reduceat(traffic.cut_bytes[order], group)
    wire_ps = wire.work_ps(wire_bytes, wire.fastest(last.rows, last.first)[into], last.size[into])
    copy_ps = ejection.work_ps(cut_bytes, ejection.fastest(last.rows, last.first)[into], last.size[into])
    width = np.diff(network.bundle_first)[traffic.bundle]
    each_plane = last.one_per_plane[last.group] & (last.size[last.group] == width)
    parts = np.where(_uses_all(network, traffic) & each_plane, 1, 0)
    for rate, work_ps, total_bytes in ((wire, wire_ps, traffic.wire_bytes), (ejection, copy_ps, traffic.cut_bytes)):
        share_bytes = np.add.reduceat((total_bytes // traffic.shares * parts)[order], group)
        alone_ps = rate.work_ps(share_bytes, rate.slowest(last.rows, last.first)[into], np.ones_like(into))
        np.maximum(work_ps, alone_ps, out=work_ps)
    end_ps = np.minimum.reduceat(arrival_ps[order], group) + np.maximum(wire_ps, copy_ps)
    return _Ends(traffic.operation[order][group], end_ps, wire_ps, copy_ps)


def _uses_all(network: Network, traffic: Traffic) -> npt.NDArray[np.bool_]:
    """Tell which messages have a share of the same size on each channel of their bundles."""
    every: npt.NDArray[np.bool_] = traffic.shares == np.diff(network.bundle_first)[traffic.bundle]
    return every if network.weights is None else every & (traffic.shares == 1)


def _cut_ends(part: PartCuts, traffic: Traffic, ready_ps: Int64) -> Iterator[_Ends]:
    """Bound what one operation moves out of one house of a cut, and what it moves in."""
    rows = np.flatnonzero(part.of_bundle[traffic.bundle])
    if not len(rows):
        return
    for outward in (True, False):
        here, there = traffic.source_terminal[rows], traffic.target_terminal[rows]
        if not outward:
            here, there = there, here
        # All cuts sort alike: by terminal, of which each house has some.
        order, first = _groups(traffic.operation[rows] * len(part.cuts[0].house) + here)
        terminal, size, there = here[order[first]], np.diff(first, append=len(rows)), there[order]
        wire_bytes, ready, operation = (of[rows[order]] for of in (traffic.wire_bytes, ready_ps, traffic.operation))
        for cut in part.cuts:
            house, crossing = cut.house[terminal], cut.out if outward else cut.into
            crosses = np.repeat(house, size) != cut.house[there]
            total_bytes = np.add.reduceat(wire_bytes * crosses, first)
            begin_ps = np.minimum.reduceat(np.where(crosses, ready, NEVER_PS), first)
            some = np.flatnonzero((house >= 0) & (total_bytes > 0))
            by_house, group = _groups(operation[first[some]] * len(crossing.tail_ps) + house[some])
            if not len(group):
                continue
            some = some[by_house]
            at = house[some[group]]
            work_ps = crossing.work_ps(np.add.reduceat(total_bytes[some], group), at)
            # A packet that takes longer than the latency may arrive before it has left.
            end_ps = np.minimum.reduceat(begin_ps[some], group) + part.first_latency_ps
            end_ps += np.maximum(work_ps + crossing.tail_ps[at], 0)
            yield _Ends(operation[first[some[group]]], end_ps, work_ps, np.zeros(len(at), np.int64))


def _chain_ends_ps(network: Network, schedule: Schedule, traffic: Traffic, start_ps: Int64, last_ps: Int64) -> Int64:
    """Bound the end of every message by those that it waits for; 0 for what switches make of packets.

    It is 0 too in operations without such waits, to which it adds next to nothing. *last_ps* is what the last packet of
    a share takes from its start to its delivery, by row of *traffic*.
    """
    messages, packet, count = schedule.messages, network.packet, len(schedule.messages)
    wire = _Rate(network.channels.ps_per_byte_num, network.channels.ps_per_byte_den)
    copy = _Rate(network.channels.copy_ps_per_byte_num, network.channels.copy_ps_per_byte_den)
    first = network.bundle_first[:-1].astype(np.int64)
    fastest_wire, fastest_copy = (rate.fastest(network.bundle_channels, first)[traffic.bundle] for rate in (wire, copy))

    def injection_ps(payload_bytes: Int64) -> Int64:
        on_wire_ps = wire.ceil_ps(wire_bytes_of(network, payload_bytes), fastest_wire)
        return np.maximum(on_wire_ps, copy.ceil_ps(payload_bytes, fastest_copy))

    full_bytes = np.full(len(traffic.message), packet.max_payload_bytes, np.int64)
    before_ps = (traffic.packets // traffic.shares - 1) * injection_ps(full_bytes)
    overhead_ps = network.endpoint.message_overhead_ps
    sent_after_ps, complete_after_ps = np.zeros((2, count), np.int64)
    for after_ps, own_ps in (
        (sent_after_ps, before_ps + injection_ps(traffic.last_payload_bytes)),
        (complete_after_ps, before_ps + last_ps),
    ):
        np.maximum.at(after_ps, traffic.message, overhead_ps + np.where(traffic.in_network, 0, own_ps))

    waiting, awaited, until_sent = waits_of(messages)
    order = np.argsort(awaited, kind="stable")
    waiting, until_sent = waiting[order], until_sent[order]
    followers = np.bincount(awaited, minlength=count)
    first_follower = np.cumsum(followers) - followers
    left = np.bincount(waiting, minlength=count)
    ready_ps, place = start_ps[messages.source_task], np.zeros(count, np.int64)
    done = np.flatnonzero(left == 0)
    while len(done):
        edges = table_rows(first_follower[done], followers[done])
        by = np.repeat(done, followers[done])
        after_ps = np.where(until_sent[edges], sent_after_ps[by], complete_after_ps[by])
        np.maximum.at(ready_ps, waiting[edges], ready_ps[by] + after_ps)
        np.subtract.at(left, waiting[edges], 1)
        done = waiting[edges]
        done = done[left[done] == 0]
        place[done] = np.arange(len(done))  # of one that comes more than once the last stays
        done = done[place[done] == np.arange(len(done))]
    has_waits = np.zeros(len(schedule.operations), np.bool_)
    has_waits[messages.operation[waiting]] = True
    end_ps = np.where(has_waits[messages.operation], ready_ps + complete_after_ps, 0)
    if len(messages.groups):
        end_ps[messages.groups.rows()[0]] = 0
    return end_ps


@dataclass(frozen=True)
class _LastChannels:
    """Channels into terminals, grouped by terminal and part of the fabric.

    ``rows`` are the channels, ``first`` and ``size`` the groups among them; ``group`` is that of each message.
    ``one_per_plane`` tells of each group whether no two of its channels are of one plane.
    """

    rows: Int64
    first: Int64
    size: Int64
    group: Int64
    one_per_plane: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, network: Network, traffic: Traffic) -> _LastChannels:
        channels, num_planes = network.channels, np.int64(network.num_planes)
        part = parts_of_planes(network)
        into = channels.target_node < network.num_terminals
        # A terminal without a live one receives nothing; it keeps the others, so that each has some.
        has_live = np.bincount(channels.target_node[into & ~channels.dead], minlength=network.num_nodes) > 0
        rows = np.flatnonzero(into & ~(channels.dead & has_live[channels.target_node]))
        kinds, group = np.unique(
            channels.target_node[rows] * num_planes + part[channels.plane[rows]], return_inverse=True
        )
        size = np.bincount(group)
        planes = np.unique(group * num_planes + channels.plane[rows]) // num_planes
        bundle_part = part[channels.plane[network.bundle_channels[network.bundle_first[:-1]]]]
        return cls(
            rows=rows[np.argsort(group, kind="stable")],
            first=np.cumsum(size) - size,
            size=size,
            group=np.searchsorted(kinds, traffic.target_terminal * num_planes + bundle_part[traffic.bundle]),
            one_per_plane=np.bincount(planes, minlength=len(size)) == size,
        )


def _groups(key: Int64) -> tuple[Int64, Int64]:
    """Rows sorted by key, and where in that order each key begins."""
    order = np.argsort(key, kind="stable")
    return order, np.flatnonzero(np.diff(key[order], prepend=-1))


class _Rate:
    """Rational rates of all channels, in ps per byte, as numbers of kinds in the order fastest to slowest."""

    def __init__(self, numerator: Int64, denominator: Int64) -> None:
        # One column at a time: rows of pairs would be sorted as bytes, ten times slower.
        nums, num = np.unique(numerator, return_inverse=True)
        dens, den = np.unique(denominator, return_inverse=True)
        pairs, kind = np.unique(num * len(dens) + den, return_inverse=True)
        pair_num, pair_den = nums[pairs // len(dens)], dens[pairs % len(dens)]
        rates = [Fraction(num, den) for num, den in zip(pair_num.tolist(), pair_den.tolist(), strict=True)]
        by_rate = sorted(range(len(rates)), key=rates.__getitem__)
        self.num: Int64 = pair_num[by_rate]
        self.den: Int64 = pair_den[by_rate]
        self.kind = np.argsort(by_rate)[kind]

    def fastest(self, rows: npt.NDArray[np.integer], first: Int64) -> Int64:
        """Kind of the fastest channel of each group of channel rows."""
        return np.minimum.reduceat(self.kind[rows], first)

    def slowest(self, rows: npt.NDArray[np.integer], first: Int64) -> Int64:
        """Kind of the slowest channel of each group of channel rows."""
        return np.maximum.reduceat(self.kind[rows], first)

    def ceil_ps(self, packet_bytes: Int64, kind: Int64) -> Int64:
        """Time of one packet; a fabric's limits on rates and packets keep the product inside int64."""
        return -(-packet_bytes * self.num[kind] // self.den[kind])

    def work_ps(self, total_bytes: Int64, kind: Int64, num_channels: Int64) -> Int64:
        """Time of many bytes over several alike channels, rounded down; in Python integers, which cannot wrap."""
        exact = total_bytes.astype(object) * self.num[kind] // (self.den[kind].astype(object) * num_channels)
        return exact.astype(np.int64)
