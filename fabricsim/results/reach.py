"""What of a network a workload may use: pairs of terminals that talk, and how fast its ends serve packets."""

from __future__ import annotations

import numpy as np

from fabricsim.engine.state import Durations
from fabricsim.fabrics.network import Bool, Network
from fabricsim.results.traffic import Int32
from fabricsim.workloads.schedule import ScheduleBlocks


def talking_pairs(network: Network, blocks: ScheduleBlocks, terminal_of_rank: Int32) -> Bool:
    """Tell which terminal sends something to which other one in the workload: shape (terminals, terminals)."""
    pairs = np.zeros((network.num_terminals, network.num_terminals), np.bool_)
    for block in blocks:
        messages = block.schedule.messages
        terminal = terminal_of_rank[block.schedule.tasks.rank]
        moves = messages.size_bytes > 0
        for end in (messages.target_task, messages.toward_task):
            pairs[terminal[messages.source_task[moves]], terminal[end[moves]]] = True
    np.fill_diagonal(pairs, False)
    return pairs


def server_times_ps(network: Network, first: Bool, last: Bool) -> list[bytes]:
    """Injection times on the channels *first* and ejection times on *last*, of every payload that a packet may have."""
    durations = Durations(network)
    rows = durations.table()["value"].reshape(-1, durations.length)[:, 1:]
    times = [row.tobytes() for row in rows]
    of_channels = np.concatenate([durations.injection_row[first], durations.ejection_row[last]]) // durations.length
    return [times[row] for row in of_channels.tolist()]
