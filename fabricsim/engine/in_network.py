"""In-network operations on a network: whether its switches can, and what they take (docs/physics.md, section 14)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fabricsim.engine.hashing import FIRST_PLANE, hash_words
from fabricsim.errors import ConfigError
from fabricsim.fabrics.network import Network
from fabricsim.workloads.schedule import Schedule

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Cut:
    """How the messages of each group are striped and cut: one entry per group, int64.

    A message has ``packets`` packets of ``payload_bytes`` on each of ``shares`` planes. ``reduction_ps`` is how long
    the switch takes for the packets that become one, 0 for a multicast.
    """

    bundle: Int64
    shares: Int64
    packets: Int64
    payload_bytes: Int64
    reduction_ps: Int64


def cut_groups(network: Network, schedule: Schedule, terminal_of_rank: Int32) -> Cut:
    """Stripe and cut the messages of groups; ``check_groups`` has allowed them."""
    messages, packet = schedule.messages, network.packet
    groups = messages.groups
    terminal = terminal_of_rank[schedule.tasks.rank]
    source, toward = terminal[messages.source_task[groups.first]], terminal[messages.toward_task[groups.first]]
    bundle = network.bundle_index[source, toward].astype(np.int64)
    width = np.diff(network.bundle_first)[bundle].astype(np.int64)
    size_bytes = messages.size_bytes[groups.first]
    shares = np.minimum(width, -(-size_bytes // packet.stripe_min_bytes))
    share_bytes = -(-size_bytes // shares)
    packets = -(-share_bytes // packet.max_payload_bytes)
    payload_bytes = -(-share_bytes // packets)
    rate = network.reduction_ps_per_byte
    assert rate is not None or not len(groups)
    switch = network.channels.target_node[network.bundle_channels[network.bundle_first[bundle]]]
    # Virtual channels have rows of their own, all in the place of their channel.
    _, output = np.unique(np.stack([network.channels.plane, network.channels.place]), axis=1, return_index=True)
    num_outputs = np.bincount(network.channels.source_node[output], minlength=network.num_nodes)[switch]
    num, den = (rate.numerator, rate.denominator) if rate is not None else (0, 1)
    # In Python integers, which cannot wrap.
    inputs = (groups.sources * payload_bytes).astype(object)
    reduction_ps = np.array(-(-inputs * num_outputs * num // den), np.int64)
    return Cut(bundle, shares, packets, payload_bytes, np.where(groups.sources > 1, reduction_ps, 0))


def merging_times_ps(network: Network, schedule: Schedule, terminal_of_rank: Int32, outputs: Bool) -> tuple[int, ...]:
    """Return per reduction how long a packet made of several holds one of *outputs*, at least: what may limit it."""
    cut = cut_groups(network, schedule, terminal_of_rank)
    channels = network.channels
    num, den = channels.ps_per_byte_num[outputs].astype(object), channels.ps_per_byte_den[outputs].astype(object)
    times_ps = []
    for payload_bytes, reduction_ps in zip(cut.payload_bytes.tolist(), cut.reduction_ps.tolist(), strict=True):
        serialization_ps = int((-(-network.packet.wire_bytes(payload_bytes) * num // den)).min())
        times_ps.append(max(serialization_ps, reduction_ps))
    return tuple(times_ps)


def first_planes(schedule: Schedule, seed: int, operation: Int64) -> Int64:
    """Return per group what chooses the first plane of its messages, where they use fewer than all.

    ``operation`` is, of each message, the number of its operation in the whole workload.
    """
    messages = schedule.messages
    first = messages.groups.first
    chosen: Int64 = hash_words(seed, FIRST_PLANE, operation[first], messages.index[first].astype(np.int64))
    return chosen


def check_groups(network: Network, schedule: Schedule, terminal_of_rank: Int32) -> None:
    """Raise ``ConfigError`` unless on each plane one switch that can reduces and copies for all members of a group."""
    messages, groups = schedule.messages, schedule.messages.groups
    if not len(groups):
        return
    if network.reduction_ps_per_byte is None:
        raise ConfigError(
            f"the switches of {network.name} do not reduce or copy packets, which none do between racks: use another "
            "algorithm, or one rack (without --racks) of a fabric whose switches do, such as nvl72 or hgx-h100"
        )
    terminal = terminal_of_rank[schedule.tasks.rank]
    known: set[bytes] = set()
    for first, count, sources in zip(
        groups.first.tolist(), groups.count.tolist(), groups.sources.tolist(), strict=True
    ):
        carriers = slice(first, first + sources)
        members = terminal[
            messages.source_task[carriers] if sources > 1 else messages.target_task[first : first + count]
        ]
        if members.tobytes() not in known:
            known.add(members.tobytes())
            _check_members(network, members.astype(np.int64))


def _check_members(network: Network, members: Int64) -> None:
    """Refuse members that do not meet in one switch of every plane, with a channel of each to and from it."""
    channels, first = network.channels, network.bundle_first
    bundle = network.bundle_index[members, np.roll(members, -1)]
    planes = [(channels.plane[network.bundle_channels[first[b] : first[b + 1]]].tolist()) for b in bundle.tolist()]
    whole = bool((bundle >= 0).all()) and bool((network.bundle_whole[bundle] == bundle).all())
    if whole and all(one == planes[0] for one in planes):
        up = np.stack([network.bundle_channels[first[b] : first[b + 1]] for b in bundle.tolist()])
        switch = channels.target_node[up] - network.num_terminals
        if (switch >= 0).all() and (switch == switch[0]).all():
            at = switch[0][:, None], members[None, :]
            down = network.candidates[network.route_first[at]]
            if (network.route_count[at] == 1).all() and (channels.target_node[down] == members[None, :]).all():
                return
    raise ConfigError(
        f"in-network operations need all ranks at the same switch of every plane, and {network.name} as it is joins "
        "these ranks otherwise: use another algorithm, or leave out the faults that took planes from some of them"
    )
