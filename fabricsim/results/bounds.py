"""The time below which no operation can end, whatever the switches do: a self-check and a yardstick.

Derivation, for one operation, from docs/physics.md. Let a task of the operation begin at ``b`` and start at
``s = b + launch``. All quantities below are exact (whole picoseconds, rounded down where they do not come out).

*Injection.* A bundle of ``n`` channels has to inject the packets of all messages that the operation sends over it:
``W`` wire bytes and ``C`` cut bytes. The injection of a packet takes at least its serialization and at least its copy
time, so the channel that works longest works at least ``work = max(W * ps_per_byte, C * copy_ps_per_byte) / n``, taken
at the fastest channel of the bundle. The first packet cannot start before ``s + message_overhead``. The last packet
that this channel starts is the last packet of a share. It ends its injection no earlier than ``s + message_overhead +
work``, started that much before as its injection takes, and is delivered its route's latencies and its ejection later.

*Ejection.* A terminal with ``n`` last channels has to eject what it receives, which takes the busiest of them at least
``work = max(W * ps_per_byte, C * ejection_ps_per_byte) / n``. The first packet cannot arrive before the smallest
``s + message_overhead + latencies`` of the messages to it.

*Start.* A task that moves nothing ends no earlier than ``s``.

The latest of these ends bounds the end of the operation. Where all ranks begin together that is the larger of the
injection and the ejection time plus the latency of an empty network (less its rate-mismatch waits, see
docs/physics.md, section 11: a bound with them would be tighter by some ten nanoseconds, and longer to derive).
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from fabricsim.fabrics.network import Network
from fabricsim.results.traffic import Traffic, wire_bytes_of
from fabricsim.workloads.schedule import Schedule

Int64 = npt.NDArray[np.int64]

_FAR_PS = 2**62


def earliest_ends_ps(network: Network, schedule: Schedule, traffic: Traffic, task_begin_ps: Int64) -> Int64:
    """Bound the end of every operation from below, given when its tasks began.

    Parameters
    ----------
    network, schedule
        Where and what.
    traffic
        ``message_traffic`` of the two.
    task_begin_ps
        Shape (tasks,): as recorded.

    Returns
    -------
    numpy.ndarray
        Shape (operations,), int64: no operation ends before its simulated time here, in picoseconds.
    """
    tasks = schedule.tasks
    start_ps = task_begin_ps + np.where(tasks.launches, network.endpoint.launch_latency_ps, 0)
    end_ps = np.zeros(len(schedule.operations), np.int64)
    np.maximum.at(end_ps, tasks.operation, start_ps)
    if len(traffic.message):
        ready_ps = start_ps[schedule.messages.source_task[traffic.message]] + network.endpoint.message_overhead_ps
        latency_ps = route_latencies_ps(network)[traffic.source_terminal, traffic.target_terminal]
        for operation, group_end_ps in (
            _injection_ends_ps(network, traffic, ready_ps, latency_ps),
            _ejection_ends_ps(network, traffic, ready_ps + latency_ps),
        ):
            np.maximum.at(end_ps, operation, group_end_ps)
    return end_ps


def route_latencies_ps(network: Network) -> Int64:
    """Sum the channel latencies of the quickest route of every pair.

    Returns
    -------
    numpy.ndarray
        Shape (terminals, terminals), int64 picoseconds; 0 on the diagonal.
    """
    channels, num_terminals = network.channels, network.num_terminals
    onward_ps = np.full((network.num_nodes, num_terminals), _FAR_PS, np.int64)
    np.fill_diagonal(onward_ps, 0)
    switch, target = np.nonzero(network.route_count)
    first = network.route_first[switch, target].astype(np.int64)
    count = network.route_count[switch, target].astype(np.int64)
    # Routes end at their terminal, so from there backwards every step settles the switches one channel further away.
    while len(switch):
        ready = onward_ps[channels.target_node[network.candidates[first]], target] < _FAR_PS
        best_ps = np.full(int(ready.sum()), _FAR_PS, np.int64)
        for choice in range(int(count[ready].max(initial=0))):
            channel = network.candidates[first[ready] + np.minimum(choice, count[ready] - 1)]
            step_ps = channels.latency_ps[channel] + onward_ps[channels.target_node[channel], target[ready]]
            np.minimum(best_ps, step_ps, out=best_ps)
        onward_ps[num_terminals + switch[ready], target[ready]] = best_ps
        switch, target, first, count = (array[~ready] for array in (switch, target, first, count))
    source, target = np.nonzero(network.bundle_index >= 0)
    bundle = network.bundle_index[source, target]
    first, end = network.bundle_first[bundle].astype(np.int64), network.bundle_first[bundle + 1].astype(np.int64)
    latency_ps = np.zeros((num_terminals, num_terminals), np.int64)
    latency_ps[source, target] = _FAR_PS
    for plane in range(int((end - first).max(initial=0))):
        channel = network.bundle_channels[np.minimum(first + plane, end - 1)]
        step_ps = channels.latency_ps[channel] + onward_ps[channels.target_node[channel], target]
        latency_ps[source, target] = np.minimum(latency_ps[source, target], step_ps)
    return latency_ps


def _injection_ends_ps(network: Network, traffic: Traffic, ready_ps: Int64, latency_ps: Int64) -> tuple[Int64, Int64]:
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
    into, into_first, _ = _last_channels(network)
    ejection = _Rate(channels.ejection_ps_per_byte_num, channels.ejection_ps_per_byte_den)
    ejection_ps = np.maximum(
        wire.ceil_ps(last_wire_bytes, wire.fastest(into, into_first)[traffic.target_terminal]),
        ejection.ceil_ps(last_bytes, ejection.fastest(into, into_first)[traffic.target_terminal]),
    )
    # The injection's own end is a bound too, so a tail below zero counts as none.
    tail_ps = np.maximum(latency_ps + ejection_ps - injection_ps, 0)

    order, group = _groups(traffic.operation * len(size) + traffic.bundle)
    bundle = traffic.bundle[order][group]
    work_ps = np.maximum(
        wire.work_ps(
            np.add.reduceat(traffic.wire_bytes[order], group), wire.fastest(rows, first)[bundle], size[bundle]
        ),
        copy.work_ps(np.add.reduceat(traffic.cut_bytes[order], group), copy.fastest(rows, first)[bundle], size[bundle]),
    )
    # A bundle belongs to one terminal, so to one task of the operation: all its messages share one start.
    end_ps = ready_ps[order][group] + work_ps + np.minimum.reduceat(tail_ps[order], group)
    return traffic.operation[order][group], end_ps


def _ejection_ends_ps(network: Network, traffic: Traffic, arrival_ps: Int64) -> tuple[Int64, Int64]:
    """Operation and earliest end of all that one operation brings to one terminal."""
    channels = network.channels
    rows, first, size = _last_channels(network)
    wire = _Rate(channels.ps_per_byte_num, channels.ps_per_byte_den)
    ejection = _Rate(channels.ejection_ps_per_byte_num, channels.ejection_ps_per_byte_den)
    order, group = _groups(traffic.operation * network.num_terminals + traffic.target_terminal)
    target = traffic.target_terminal[order][group]
    wire_bytes = np.add.reduceat(traffic.wire_bytes[order], group)
    cut_bytes = np.add.reduceat(traffic.cut_bytes[order], group)
    work_ps = np.maximum(
        wire.work_ps(wire_bytes, wire.fastest(rows, first)[target], size[target]),
        ejection.work_ps(cut_bytes, ejection.fastest(rows, first)[target], size[target]),
    )
    return traffic.operation[order][group], np.minimum.reduceat(arrival_ps[order], group) + work_ps


def _last_channels(network: Network) -> tuple[Int64, Int64, Int64]:
    """Channels into terminals, grouped by terminal: rows, first of each terminal, number for each terminal."""
    rows = np.flatnonzero(network.channels.target_node < network.num_terminals)
    rows = rows[np.argsort(network.channels.target_node[rows], kind="stable")]
    first = np.searchsorted(network.channels.target_node[rows], np.arange(network.num_terminals + 1))
    return rows, first[:-1], np.diff(first)


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
