"""What faults do to a run: the network and the workload with them, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fabricsim.engine.changes import Change
from fabricsim.errors import ConfigError, UnreachableError
from fabricsim.fabrics.faults import RANK_KINDS, Fault, apply_faults, touched_channels
from fabricsim.fabrics.network import Bool, Network, channels_between
from fabricsim.results.reach import server_times_ps, talking_pairs
from fabricsim.results.traffic import Int32
from fabricsim.workloads.delays import delayed, first_tasks
from fabricsim.workloads.schedule import ScheduleBlocks


class IdleFaultError(ConfigError):
    """A fault makes no difference to the run at hand."""


def with_faults(
    network: Network, blocks: ScheduleBlocks, faults: Sequence[Fault], terminal_of_rank: Int32
) -> tuple[Network, ScheduleBlocks]:
    """Break a whole network, and delay the workload, as the faults from time zero on say.

    Raises ``ConfigError`` for places that the network does not have, and ``UnreachableError`` where the faults cut two
    terminals of the run apart.
    """
    faults = [fault for fault in faults if not fault.time_ps]
    if not faults:
        return network, blocks
    broken = apply_faults(network, faults, terminal_of_rank)
    pairs = talking_pairs(network, blocks, terminal_of_rank)
    for source, target in np.argwhere(pairs & (broken.bundle_index < 0))[:1].tolist():
        pair = network.node_names[source], network.node_names[target]
        raise UnreachableError(
            f"{network.name}: the faults leave no way from {pair[0]} to {pair[1]}, and the run needs one; leave a "
            "fault out, or use ranks that can still reach each other",
            pair,
        )
    amounts = {
        kind: {int(fault.where): fault.amount for fault in faults if fault.kind == kind and fault.amount is not None}
        for kind in RANK_KINDS
    }
    skew_ps = {rank: int(amount) for rank, amount in amounts["arrival_skew"].items()}
    return broken, delayed(blocks, amounts["slow_rank"], skew_ps)


def changes_of(network: Network, faults: Sequence[Fault], terminal_of_rank: Int32) -> tuple[Change, ...]:
    """Say what the faults leave of a whole network at each time above zero at which some begin.

    Raises ``ConfigError`` for places that the network does not have.
    """
    times_ps = sorted({fault.time_ps for fault in faults if fault.time_ps})
    return tuple(
        Change(time_ps, apply_faults(network, [one for one in faults if one.time_ps <= time_ps], terminal_of_rank))
        for time_ps in times_ps
    )


def refuse_idle_faults(
    network: Network, blocks: ScheduleBlocks, faults: Sequence[Fault], terminal_of_rank: Int32
) -> None:
    """Raise ``ConfigError`` for a rank that the run has not, ``IdleFaultError`` for a fault that nothing in it meets.

    *network* and *blocks* are whole; each fault is held against what the others leave of them while it is there. One
    that comes after the end of the run is not found.
    """
    if not faults:
        return
    pairs = talking_pairs(network, blocks, terminal_of_rank)
    for fault in faults:
        crossed = np.zeros(len(network.channels), np.bool_)
        try:
            for others in _beside(fault, faults):
                left = apply_faults(network, others, terminal_of_rank)
                crossed |= channels_between(left, *np.nonzero(pairs & (left.bundle_index >= 0)))
        except ConfigError:
            continue  # without it the others could not be simulated, so it counts
        if fault.kind in RANK_KINDS:
            _refuse_idle_rank(left, blocks, fault, terminal_of_rank, crossed)
        elif not crossed[touched_channels(network, fault)].any():
            raise IdleFaultError(
                f"fault {fault.text} has no effect on this run on {network.name}: no packet of it would come there; "
                "leave it out"
            )


def _beside(fault: Fault, faults: Sequence[Fault]) -> list[list[Fault]]:
    """List the faults that are there beside one: just before it, for what is under way then, and from then on."""
    others = [other for other in faults if other is not fault]
    begins_ps = {fault.time_ps, *(other.time_ps for other in others if other.time_ps > fault.time_ps)}
    sets = [[other for other in others if other.time_ps <= time_ps] for time_ps in sorted(begins_ps, reverse=True)]
    return [*sets, [other for other in others if other.time_ps < fault.time_ps]] if fault.time_ps else sets


def _refuse_idle_rank(
    network: Network, blocks: ScheduleBlocks, fault: Fault, terminal_of_rank: Int32, crossed: Bool
) -> None:
    """Refuse a fault of a rank that takes no part, or that has nothing that would be slower on the channels crossed."""
    rank = int(fault.where)
    if rank >= blocks.num_ranks:
        raise ConfigError(f"fault {fault.text}: the run has no rank {rank}; its ranks are 0 to {blocks.num_ranks - 1}")
    if fault.kind == "slow_rank" and _slows_copies(network, fault, terminal_of_rank, crossed):
        return
    for block in blocks:
        tasks = block.schedule.tasks
        if fault.kind == "slow_rank" and tasks.gap_ps[tasks.rank == rank].any():
            return
        if fault.kind == "arrival_skew" and (tasks.rank[first_tasks(block)] == rank).any():
            return
    what = "copies or compute gaps that would take longer" if fault.kind == "slow_rank" else "tasks"
    raise IdleFaultError(
        f"fault {fault.text} has no effect on this run on {network.name}: the rank has no {what}; leave it out"
    )


def _slows_copies(network: Network, fault: Fault, terminal_of_rank: Int32, crossed: Bool) -> bool:
    """Tell whether a packet that a slow rank sends or receives over the channels crossed may take longer."""
    channels, terminal = network.channels, terminal_of_rank[int(fault.where)]
    ends = crossed & (channels.source_node == terminal), crossed & (channels.target_node == terminal)
    slowed = apply_faults(network, [fault], terminal_of_rank)
    return server_times_ps(network, *ends) != server_times_ps(slowed, *ends)
