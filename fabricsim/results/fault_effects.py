"""What faults do to a run: the network and the workload with them, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fabricsim.errors import ConfigError
from fabricsim.fabrics.faults import RANK_KINDS, Fault, apply_faults, crossed_channels, touched_channels
from fabricsim.fabrics.network import Bool, Network
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

    Raises ``ConfigError``: ``UnreachableError`` where they cut two terminals of the run apart, ``IdleFaultError`` for a
    fault that no packet and no task of the run meets.
    """
    if not faults:
        return network, blocks
    pairs = talking_pairs(network, blocks, terminal_of_rank)
    for number, fault in enumerate(faults):
        if fault.kind in RANK_KINDS:
            _refuse_idle_rank(network, blocks, fault, terminal_of_rank, pairs)
        else:
            refuse_idle(apply_faults(network, faults[:number], terminal_of_rank), fault, pairs)
    broken = apply_faults(network, faults, terminal_of_rank)
    refuse_unreachable(broken, pairs)
    amounts = {
        kind: {int(fault.where): fault.amount for fault in faults if fault.kind == kind and fault.amount is not None}
        for kind in RANK_KINDS
    }
    skew_ps = {rank: int(amount) for rank, amount in amounts["arrival_skew"].items()}
    return broken, delayed(blocks, amounts["slow_rank"], skew_ps)


def talking_pairs(network: Network, blocks: ScheduleBlocks, terminal_of_rank: Int32) -> Bool:
    """Tell which terminal sends something to which other one in the workload: shape (terminals, terminals)."""
    pairs = np.zeros((network.num_terminals, network.num_terminals), np.bool_)
    for block in blocks:
        messages = block.schedule.messages
        terminal = terminal_of_rank[block.schedule.tasks.rank]
        moves = messages.size_bytes > 0
        pairs[terminal[messages.source_task[moves]], terminal[messages.target_task[moves]]] = True
    np.fill_diagonal(pairs, False)
    return pairs


def refuse_unreachable(network: Network, pairs: Bool) -> None:
    """Raise ``UnreachableError`` for the first of the pairs that has no way."""
    for source, target in np.argwhere(pairs & (network.bundle_index < 0))[:1].tolist():
        raise UnreachableError(network, source, target)


def refuse_idle(network: Network, fault: Fault, pairs: Bool) -> None:
    """Raise ``IdleFaultError`` for a fault of the fabric that no packet of the pairs would meet on this network."""
    touched = touched_channels(network, fault)
    if not crossed_channels(network, pairs & (network.bundle_index >= 0))[touched].any():
        raise IdleFaultError(
            f"fault {fault.text} has no effect on this run on {network.name}: no packet of it would come there; "
            "leave it out"
        )


def _refuse_idle_rank(
    network: Network, blocks: ScheduleBlocks, fault: Fault, terminal_of_rank: Int32, pairs: Bool
) -> None:
    """Refuse a fault of a rank that takes no part, or that has nothing that could be slow."""
    rank = int(fault.where)
    if rank >= blocks.num_ranks:
        raise ConfigError(f"fault {fault.text}: the run has no rank {rank}; its ranks are 0 to {blocks.num_ranks - 1}")
    if fault.kind == "slow_rank" and _copies(network, int(terminal_of_rank[rank]), pairs):
        return
    for block in blocks:
        tasks = block.schedule.tasks
        if fault.kind == "slow_rank" and tasks.gap_ps[tasks.rank == rank].any():
            return
        if fault.kind == "arrival_skew" and (tasks.rank[first_tasks(block)] == rank).any():
            return
    what = "limited copies or compute gaps" if fault.kind == "slow_rank" else "tasks"
    raise IdleFaultError(
        f"fault {fault.text} has no effect on this run on {network.name}: the rank has no {what}; leave it out"
    )


def _copies(network: Network, terminal: int, pairs: Bool) -> bool:
    """Tell whether a terminal sends or receives something that its copy or ejection rate limits."""
    channels = network.channels
    sends = bool(pairs[terminal].any() and channels.copy_ps_per_byte_num[channels.source_node == terminal].any())
    receives = pairs[:, terminal].any() and channels.ejection_ps_per_byte_num[channels.target_node == terminal].any()
    return sends or bool(receives)
