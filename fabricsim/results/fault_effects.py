"""What faults do to a run: the network and the workload with them, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fabricsim.errors import ConfigError
from fabricsim.fabrics.faults import RANK_KINDS, Fault, apply_faults, touched_channels
from fabricsim.fabrics.network import Bool, Network, channels_between
from fabricsim.results.reach import server_times_ps, talking_pairs
from fabricsim.results.traffic import Int32
from fabricsim.workloads.delays import delayed, first_tasks
from fabricsim.workloads.schedule import ScheduleBlocks


class IdleFaultError(ConfigError):
    """A fault makes no difference to the run at hand."""


class UnreachableError(ConfigError):
    """Faults leave no way between two terminals that the run needs; ``pair`` are their names."""

    def __init__(self, network: Network, source: int, target: int) -> None:
        self.pair = network.node_names[source], network.node_names[target]
        super().__init__(
            f"{network.name}: the faults leave no way from {self.pair[0]} to {self.pair[1]}, and the run needs one; "
            "leave a fault out, or use ranks that can still reach each other"
        )


def with_faults(
    network: Network, blocks: ScheduleBlocks, faults: Sequence[Fault], terminal_of_rank: Int32
) -> tuple[Network, ScheduleBlocks]:
    """Break a whole network, and delay the workload, as the faults say.

    Raises ``ConfigError`` for places that the network does not have, and ``UnreachableError`` where the faults cut two
    terminals of the run apart.
    """
    if not faults:
        return network, blocks
    broken = apply_faults(network, faults, terminal_of_rank)
    pairs = talking_pairs(network, blocks, terminal_of_rank)
    for source, target in np.argwhere(pairs & (broken.bundle_index < 0))[:1].tolist():
        raise UnreachableError(network, source, target)
    amounts = {
        kind: {int(fault.where): fault.amount for fault in faults if fault.kind == kind and fault.amount is not None}
        for kind in RANK_KINDS
    }
    skew_ps = {rank: int(amount) for rank, amount in amounts["arrival_skew"].items()}
    return broken, delayed(blocks, amounts["slow_rank"], skew_ps)


def refuse_idle_faults(
    network: Network, blocks: ScheduleBlocks, faults: Sequence[Fault], terminal_of_rank: Int32
) -> None:
    """Raise ``ConfigError`` for a rank that the run has not, ``IdleFaultError`` for a fault that nothing in it meets.

    *network* and *blocks* are whole; each fault is held against what all the others leave of them.
    """
    if not faults:
        return
    pairs = talking_pairs(network, blocks, terminal_of_rank)
    for number, fault in enumerate(faults):
        try:
            others = apply_faults(network, [*faults[:number], *faults[number + 1 :]], terminal_of_rank)
        except ConfigError:
            continue  # without it the others could not be simulated, so it counts
        crossed = channels_between(others, *np.nonzero(pairs & (others.bundle_index >= 0)))
        if fault.kind in RANK_KINDS:
            _refuse_idle_rank(others, blocks, fault, terminal_of_rank, crossed)
        elif not crossed[touched_channels(network, fault)].any():
            raise IdleFaultError(
                f"fault {fault.text} has no effect on this run on {network.name}: no packet of it would come there; "
                "leave it out"
            )


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
