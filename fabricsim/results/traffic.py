"""What the messages of a schedule put on the wires of a network, before anything runs (docs/physics.md, section 7).

Striping and cutting are worked out from the physics a second time here, apart from the engine's own tables, so that
``checks`` can hold the packets and bytes that the engine counted against figures that it did not make.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fabricsim.engine.changes import Change
from fabricsim.fabrics.network import Network, table_rows
from fabricsim.workloads.schedule import Schedule

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Traffic:
    """One entry per message that makes packets, with weights one per share of it.

    All arrays have that length, int64 (``in_network``: bool).

    ``message`` is the row in the schedule, ``shares`` the number of channels that it is striped over. ``packets``,
    ``cut_bytes`` and ``wire_bytes`` count what is delivered; ``cut_bytes`` is what is cut and timed: the payload plus
    the slack of striping. ``last_payload_bytes`` is the payload of the last packet of each of its shares, which are all
    alike. What is injected is ``injections`` times what is delivered: 1, but where ``in_network`` switches make packets
    of packets (docs/physics.md, section 14).
    """

    message: Int64
    operation: Int64
    source_terminal: Int64
    target_terminal: Int64
    bundle: Int64
    shares: Int64
    packets: Int64
    cut_bytes: Int64
    wire_bytes: Int64
    last_payload_bytes: Int64
    injections: Int64
    in_network: npt.NDArray[np.bool_]


def message_traffic(
    network: Network,
    schedule: Schedule,
    terminal_of_rank: Int32,
    *,
    changes: Sequence[Change] = (),
    ready_ps: Int64 | None = None,
) -> Traffic:
    """Stripe and cut every message, without its timing.

    Parameters
    ----------
    network, schedule
        Where and what.
    terminal_of_rank
        Shape (ranks,): the placement.
    changes, ready_ps
        Networks that take the place of *network*, in time order, and when each message became ready, for it is striped
        over the planes of that time. ``bundle`` names that of *network* all the same.

    Returns
    -------
    Traffic
        Rows in the order of the schedule; messages of zero bytes and messages to oneself are left out.
    """
    messages, tasks, packet = schedule.messages, schedule.tasks, network.packet
    terminal_of_task = terminal_of_rank[tasks.rank]
    source = terminal_of_task[messages.source_task]
    target = terminal_of_task[messages.target_task]
    toward = terminal_of_task[messages.toward_task]
    rows = np.flatnonzero((messages.size_bytes > 0) & (source != toward))
    source, target, toward = source[rows], target[rows], toward[rows]
    size_bytes = messages.size_bytes[rows]
    bundle = network.bundle_index[source, toward].astype(np.int64)
    width = np.diff(network.bundle_first)[bundle].astype(np.int64)
    for change in changes:
        later = np.flatnonzero(ready_ps[rows] >= change.time_ps) if ready_ps is not None else rows[:0]
        there = change.network.bundle_index[source[later], toward[later]]
        width[later] = np.diff(change.network.bundle_first)[there]
    shares = np.minimum(width, -(-size_bytes // packet.stripe_min_bytes))
    share_bytes = -(-size_bytes // shares)
    injections, in_network = _injections(schedule)
    injections, in_network = injections[rows], in_network[rows]
    if network.weights is not None:
        # A row per share where these differ.
        weighted = shares == width
        copies = np.where(weighted, width, 1)
        member = network.bundle_channels[table_rows(network.bundle_first[bundle], copies)]
        weight = network.weights[member]
        row = np.repeat(np.arange(len(rows)), copies)
        weights = np.bincount(row, weight, len(rows)).astype(np.int64)[row]
        whole, rest = np.divmod(size_bytes[row], weights)
        share_bytes = np.where(weighted[row], whole * weight - (-rest * weight // weights), share_bytes[row])
        shares = np.where(weighted, 1, shares)[row]
        rows, source, target, bundle = rows[row], source[row], target[row], bundle[row]
        injections, in_network = injections[row], in_network[row]
    # Where switches make packets of packets, all packets of a share are equal.
    share_packets = -(-share_bytes // packet.max_payload_bytes)
    share_bytes = np.where(in_network, -(-share_bytes // share_packets) * share_packets, share_bytes)
    full_packets = share_packets - 1
    last_payload_bytes = np.where(
        in_network, share_bytes // share_packets, share_bytes - full_packets * packet.max_payload_bytes
    )
    last_wire_bytes = wire_bytes_of(network, last_payload_bytes)
    full_wire_bytes = np.where(in_network, last_wire_bytes, packet.wire_bytes(packet.max_payload_bytes))
    share_wire_bytes = full_packets * full_wire_bytes + last_wire_bytes
    return Traffic(
        message=rows.astype(np.int64),
        operation=messages.operation[rows].astype(np.int64),
        source_terminal=source.astype(np.int64),
        target_terminal=target.astype(np.int64),
        bundle=bundle,
        shares=shares,
        packets=shares * (full_packets + 1),
        cut_bytes=shares * share_bytes,
        wire_bytes=shares * share_wire_bytes,
        last_payload_bytes=last_payload_bytes,
        injections=injections,
        in_network=in_network,
    )


def _injections(schedule: Schedule) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Say of each message how often its bytes are injected, and whether switches make packets of its packets."""
    groups = schedule.messages.groups
    injections, in_network = np.ones(len(schedule.messages), np.int64), np.zeros(len(schedule.messages), np.bool_)
    for first, count, sources in zip(
        groups.first.tolist(), groups.count.tolist(), groups.sources.tolist(), strict=True
    ):
        in_network[first : first + count] = True
        injections[first : first + count] = 0
        # A carrier of a reduction brings the bytes of all its messages, that of a multicast its own.
        injections[first : first + sources] = count if sources > 1 else 1
    return injections, in_network


def wire_bytes_of(network: Network, payload_bytes: Int64) -> Int64:
    """Wire bytes of one packet for each payload (docs/physics.md, section 4)."""
    payloads, position = np.unique(payload_bytes, return_inverse=True)
    wire_bytes = [network.packet.wire_bytes(payload) for payload in payloads.tolist()]
    return np.array(wire_bytes, np.int64)[position]
