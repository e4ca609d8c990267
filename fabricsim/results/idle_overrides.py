"""A number of the fabric that a user set and that no part of the run can feel is refused, as an idle option is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np

from fabricsim.engine.in_network import merging_times_ps
from fabricsim.engine.launch import launch_latencies_ps
from fabricsim.errors import ConfigError
from fabricsim.fabrics import FabricSpec
from fabricsim.fabrics.network import Channels, Network, channels_between
from fabricsim.results.reach import server_times_ps, talking_pairs
from fabricsim.results.traffic import Int32, message_traffic
from fabricsim.workloads.schedule import ScheduleBlocks

#: What tells how the nodes are joined and how packets find their ways.
_SHAPE = (
    "route_first",
    "route_count",
    "detour_count",
    "candidates",
    "spray_start",
    "bundle_index",
    "bundle_first",
    "bundle_channels",
)
#: Columns of the channel table that act only through the times of packets, which are compared in their place.
_RATES = ("copy_ps_per_byte_num", "copy_ps_per_byte_den", "ejection_ps_per_byte_num", "ejection_ps_per_byte_den")


def refuse_idle_overrides(
    spec: FabricSpec,
    network: Network,
    build: Callable[[FabricSpec], Network],
    blocks: ScheduleBlocks,
    terminal_of_rank: Int32,
) -> None:
    """Raise ``ConfigError`` for an override without which all else in the run would provably be the same.

    ``network`` is what ``build`` makes of ``spec`` with the options of the run. An override counts if the run without
    it is refused, or if the tables without it differ where a launch or a packet of the run may meet them.
    """
    if not spec.overrides:
        return
    reach = _Reach(network, blocks, terminal_of_rank)
    for key, value in spec.overrides.items():
        try:
            other = build(spec.without_override(key))
        except ConfigError:
            continue
        if not reach.feels(other):
            raise ConfigError(
                f"setting {key}={value} has no effect on this run on {spec.name}: nothing that the run launches or "
                "sends meets it; leave it out"
            )


def feels(network: Network, other: Network, blocks: ScheduleBlocks, terminal_of_rank: Int32) -> bool:
    """Tell whether a run on a network may differ from one on a network of other numbers, whatever the seed."""
    return _Reach(network, blocks, terminal_of_rank).feels(other)


class _Reach:
    """What a run on a network may use of it, whatever the seed."""

    def __init__(self, network: Network, blocks: ScheduleBlocks, terminal_of_rank: Int32) -> None:
        self.network = network
        self._blocks = blocks
        self._terminal_of_rank = terminal_of_rank
        pairs = talking_pairs(network, blocks, terminal_of_rank)
        per_bundle = np.zeros(len(network.bundle_first) - 1, np.int64)
        for block in blocks:
            traffic = message_traffic(network, block.schedule, terminal_of_rank)
            of_message = np.unique(traffic.message, return_index=True)[1]
            per_bundle += np.bincount(traffic.bundle[of_message], minlength=len(per_bundle))
        self.moves = bool(pairs.any())
        #: No injection channel has more messages than this.
        self.most_messages = int(per_bundle.max(initial=0))
        self.channels = channels_between(network, *np.nonzero(pairs))

    def feels(self, other: Network) -> bool:
        """Tell whether the run may differ on a network of other numbers."""
        mine, theirs = self.network.endpoint, other.endpoint
        for block in self._blocks if mine != theirs else ():
            latencies_ps, other_ps = (launch_latencies_ps(endpoint, block.schedule) for endpoint in (mine, theirs))
            if not np.array_equal(latencies_ps, other_ps):
                return True
        slots_differ = mine.slots != theirs.slots and min(mine.slots, theirs.slots) < self.most_messages
        return self.moves and (
            slots_differ
            or mine.message_overhead_ps != theirs.message_overhead_ps
            or self.network.packet != other.packet
            or not _same_shape(self.network, other)
            or self._channels_differ(other)
            or self._reductions_differ(other)
            or self._shares_differ(other)
        )

    def _reductions_differ(self, other: Network) -> bool:
        """Tell whether a switch takes other times for the packets that it makes of several."""
        if self.network.reduction_ps_per_byte == other.reduction_ps_per_byte:
            return False
        outputs = self.channels & (self.network.channels.target_node < self.network.num_terminals)
        for block in self._blocks:
            if (block.schedule.messages.groups.sources > 1).any():
                times_ps = (
                    merging_times_ps(network, block.schedule, self._terminal_of_rank, outputs)
                    for network in (self.network, other)
                )
                if len(set(times_ps)) > 1:
                    return True
        return False

    def _shares_differ(self, other: Network) -> bool:
        """Tell whether messages are shared out over their planes by other weights."""
        if self.network.weights is None and other.weights is None:
            return False
        for block in self._blocks:
            mine, theirs = (
                message_traffic(network, block.schedule, self._terminal_of_rank).cut_bytes
                for network in (self.network, other)
            )
            if not np.array_equal(mine, theirs):
                return True
        return False

    def _channels_differ(self, other: Network) -> bool:
        """Tell whether a channel that packets of the run may cross takes other times or has another buffer."""
        for field in fields(Channels):
            mine, theirs = (getattr(network.channels, field.name) for network in (self.network, other))
            if field.name not in _RATES and not np.array_equal(mine[self.channels], theirs[self.channels]):
                return True
        channels, num_terminals = self.network.channels, self.network.num_terminals
        first = self.channels & (channels.source_node < num_terminals)
        last = self.channels & (channels.target_node < num_terminals)
        return server_times_ps(self.network, first, last) != server_times_ps(other, first, last)


def _same_shape(one: Network, other: Network) -> bool:
    """Tell whether two networks differ in numbers of their channels and terminals alone."""
    return (
        one.num_nodes == other.num_nodes
        and one.num_planes == other.num_planes
        and len(one.channels) == len(other.channels)
        and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in _SHAPE)
    )
