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
work``, started that much before as its injection takes, and is delivered its delay and its ejection later.

*Ejection.* A part of the fabric is a set of planes over which messages are striped together. A terminal with ``n`` last
channels of a part has to eject what it receives over it, which takes the busiest of them at least ``work = max(W *
ps_per_byte, C * ejection_ps_per_byte) / n``. The first packet cannot arrive before the smallest ``s + message_overhead
+ delay`` of the messages to it. The first packet of a message to arrive is a full one, or the last of a share: that
starts at least the serialization of the full one before it later.

*In-network operations* (section 14). A terminal injects what its carriers bring and ejects what is delivered to it;
both hold as they stand. No way is counted for what goes to its own terminal, and all packets of a share are alike.

*Start.* A task that moves nothing ends no earlier than ``s``.

*Faults at a time* take ways away and make wires slower, never the other way round, so the ways and wires of time zero
bound all that follows. What a terminal copies and ejects on a channel gets faster where it loses others: each channel
has its fastest rate of all times. Messages are cut as the planes of their time say.

The latest of these ends bounds the end of the operation. Where all ranks begin together that is the larger of the
injection and the ejection time plus the latency of an empty network (docs/results.md, "The lower bound").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from fabricsim.engine.changes import Change
from fabricsim.engine.launch import launch_latencies_ps
from fabricsim.fabrics.network import Network
from fabricsim.results.routes import Routes
from fabricsim.results.traffic import Traffic, wire_bytes_of
from fabricsim.workloads.schedule import Schedule

Int64 = npt.NDArray[np.int64]


def earliest_ends_ps(
    network: Network, schedule: Schedule, traffic: Traffic, routes: Routes, task_begin_ps: Int64
) -> Int64:
    """Bound the end of every operation from below, given when its tasks began.

    Parameters
    ----------
    network, schedule
        Where and what.
    traffic
        ``message_traffic`` of the two.
    routes
        ``find_routes`` of the network.
    task_begin_ps
        Shape (tasks,): as recorded.

    Returns
    -------
    numpy.ndarray
        Shape (operations,), int64: no operation ends before its simulated time here, in picoseconds.
    """
    tasks = schedule.tasks
    start_ps = task_begin_ps + launch_latencies_ps(network.endpoint, schedule)
    end_ps = np.zeros(len(schedule.operations), np.int64)
    np.maximum.at(end_ps, tasks.operation, start_ps)
    if len(traffic.message):
        ready_ps = start_ps[schedule.messages.source_task[traffic.message]] + network.endpoint.message_overhead_ps
        last_delay_ps = routes.least_delay_ps(
            traffic.source_terminal, traffic.target_terminal, wire_bytes_of(network, traffic.last_payload_bytes)
        )
        arrival_ps = ready_ps + _first_delay_ps(network, traffic, routes, last_delay_ps)
        last = _LastChannels.of(network, traffic)
        for operation, group_end_ps in (
            _injection_ends_ps(network, traffic, last, ready_ps, last_delay_ps),
            _ejection_ends_ps(network, traffic, last, arrival_ps),
        ):
            np.maximum.at(end_ps, operation, group_end_ps)
    return end_ps


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


def _injection_ends_ps(
    network: Network, traffic: Traffic, last: _LastChannels, ready_ps: Int64, delay_ps: Int64
) -> tuple[Int64, Int64]:
    """Operation and earliest end of all that one operation sends over one bundle."""
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
    ejection = _Rate(channels.ejection_ps_per_byte_num, channels.ejection_ps_per_byte_den)
    ejection_ps = np.maximum(
        wire.ceil_ps(last_wire_bytes, wire.fastest(last.rows, last.first)[last.group]),
        ejection.ceil_ps(last_bytes, ejection.fastest(last.rows, last.first)[last.group]),
    )
    # The injection's own end is a bound too, so a tail below zero counts as none.
    tail_ps = np.maximum(delay_ps + ejection_ps - injection_ps, 0)

    order, group = _groups(traffic.operation * len(size) + traffic.bundle)
    bundle = traffic.bundle[order][group]
    work_ps = np.maximum(
        wire.work_ps(
            np.add.reduceat((traffic.wire_bytes * traffic.injections)[order], group),
            wire.fastest(rows, first)[bundle],
            size[bundle],
        ),
        copy.work_ps(
            np.add.reduceat((traffic.cut_bytes * traffic.injections)[order], group),
            copy.fastest(rows, first)[bundle],
            size[bundle],
        ),
    )
    # A bundle belongs to one terminal, so to one task of the operation: all its messages share one start.
    end_ps = ready_ps[order][group] + work_ps + np.minimum.reduceat(tail_ps[order], group)
    return traffic.operation[order][group], end_ps


def _ejection_ends_ps(
    network: Network, traffic: Traffic, last: _LastChannels, arrival_ps: Int64
) -> tuple[Int64, Int64]:
    """Operation and earliest end of all that one operation brings to one terminal over one part of the fabric."""
    channels = network.channels
    wire = _Rate(channels.ps_per_byte_num, channels.ps_per_byte_den)
    ejection = _Rate(channels.ejection_ps_per_byte_num, channels.ejection_ps_per_byte_den)
    order, group = _groups(traffic.operation * len(last.size) + last.group)
    into = last.group[order][group]
    wire_bytes = np.add.reduceat(traffic.wire_bytes[order], group)
    cut_bytes = np.add.reduceat(traffic.cut_bytes[order], group)
    work_ps = np.maximum(
        wire.work_ps(wire_bytes, wire.fastest(last.rows, last.first)[into], last.size[into]),
        ejection.work_ps(cut_bytes, ejection.fastest(last.rows, last.first)[into], last.size[into]),
    )
    return traffic.operation[order][group], np.minimum.reduceat(arrival_ps[order], group) + work_ps


@dataclass(frozen=True)
class _LastChannels:
    """Channels into terminals, grouped by terminal and part of the fabric.

    ``rows`` are the channels, ``first`` and ``size`` the groups among them; ``group`` is that of each message.
    """

    rows: Int64
    first: Int64
    size: Int64
    group: Int64

    @classmethod
    def of(cls, network: Network, traffic: Traffic) -> _LastChannels:
        channels, num_planes = network.channels, np.int64(network.num_planes)
        part = _parts(network)
        into = channels.target_node < network.num_terminals
        # A terminal without a live one receives nothing; it keeps the others, so that each has some.
        has_live = np.bincount(channels.target_node[into & ~channels.dead], minlength=network.num_nodes) > 0
        rows = np.flatnonzero(into & ~(channels.dead & has_live[channels.target_node]))
        kinds, group = np.unique(
            channels.target_node[rows] * num_planes + part[channels.plane[rows]], return_inverse=True
        )
        size = np.bincount(group)
        bundle_part = part[channels.plane[network.bundle_channels[network.bundle_first[:-1]]]]
        return cls(
            rows=rows[np.argsort(group, kind="stable")],
            first=np.cumsum(size) - size,
            size=size,
            group=np.searchsorted(kinds, traffic.target_terminal * num_planes + bundle_part[traffic.bundle]),
        )


def _parts(network: Network) -> Int64:
    """Part of each plane, a plane of it: those over which some bundle stripes are one part; shape (planes,)."""
    plane = network.channels.plane[network.bundle_channels]
    first = network.bundle_first[:-1].astype(np.int64)
    size = np.diff(network.bundle_first)
    part = np.arange(network.num_planes)
    while True:
        before = part.copy()
        np.minimum.at(part, plane, np.repeat(np.minimum.reduceat(part[plane], first), size))
        if np.array_equal(part, before):
            return part


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
