"""No rank is favoured (docs/physics.md, section 3): ties fall by a hash, not by the number of a port.

Each rank sends to all others in an order of its own, a permutation drawn from the seed. (With a rotated order a Clos
favours positions by its structure; that is not a tie's doing.) Over the seeds a rank's mean finish time may then differ
from another's by no more than sampling error. It is looked at twice: when a rank has all that it receives, and
when, in the mean over its messages, all that it sent is delivered; ties show in the second.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pytest

from fabricsim.engine.driver import Simulation
from fabricsim.fabrics import load_fabric
from fabricsim.workloads.collectives import collective
from fabricsim.workloads.schedule import Schedule

SEEDS = 100
MESSAGE_BYTES = 512  # one or two packets each: a hundred runs in seconds, and plenty of ties

#: A fair simulator fails a test at this level once in a hundred thousand choices of seeds.
LIMIT = NormalDist().inv_cdf(1 - 1e-5)

Times = npt.NDArray[np.float64]


def shuffled(schedule: Schedule, seed: int) -> Schedule:
    """Return an all-to-all in which each rank sends to its peers in a random order."""
    ranks = schedule.num_ranks
    generator = np.random.Generator(np.random.PCG64(seed))
    order = generator.permuted(np.tile(np.arange(ranks - 1), (ranks, 1)), axis=1)
    order += np.arange(ranks)[:, None] * (ranks - 1)
    messages = replace(schedule.messages, target_task=schedule.messages.target_task[order.reshape(-1)])
    return replace(schedule, messages=messages)


def finish_times(name: str, endpoint: str, *, tie_breaks: bool = True) -> tuple[Times, Times]:
    """Return, in ps and of shape (seeds, ranks), when each rank has ended, and its messages' mean completion."""
    network = load_fabric(name).network(endpoint=endpoint)
    ranks = network.num_terminals
    schedule = collective("all_to_all", size=ranks * MESSAGE_BYTES, ranks=ranks)
    ended, delivered = np.empty((SEEDS, ranks)), np.empty((SEEDS, ranks))
    for seed in range(SEEDS):
        run = Simulation(network, shuffled(schedule, seed), np.arange(ranks, dtype=np.int32), seed=seed)
        if not tie_breaks:
            run.state.channels["tie_key"] = 0  # all ties are equal: the place decides
        record = run.run()
        ended[seed] = record.task_end_ps
        delivered[seed] = record.message_complete_ps.reshape(ranks, -1).mean(axis=1)
    return ended, delivered


def excess(finish: Times) -> float:
    """Return how far the ranks' means lie apart, in standard deviations of what chance gives.

    Two-way analysis of variance with seeds as blocks: F = variance between ranks / residual variance, with r - 1 and
    (r - 1)(s - 1) degrees of freedom, made normal by the approximation of Wilson and Hilferty.
    """
    seeds, ranks = finish.shape
    between = seeds * finish.mean(axis=0).var(ddof=1)
    residual = finish - finish.mean(axis=0) - finish.mean(axis=1, keepdims=True) + finish.mean()
    f = between / ((residual**2).sum() / ((ranks - 1) * (seeds - 1)))
    a, b = 2 / (9 * (ranks - 1)), 2 / (9 * (ranks - 1) * (seeds - 1))
    return float(((1 - b) * f ** (1 / 3) - (1 - a)) / sqrt(b * f ** (2 / 3) + a))


@pytest.mark.parametrize(("name", "endpoint"), [("nvl72", "ideal"), ("nvl72", "fitted"), ("cloudmatrix384", "ideal")])
def test_no_rank_is_favoured(name: str, endpoint: str) -> None:
    """The mean finish times of all ranks agree within sampling error over 100 seeds."""
    ended, delivered = finish_times(name, endpoint)
    assert excess(ended) < LIMIT
    assert excess(delivered) < LIMIT


def test_ties_by_port_number_would_be_noticed() -> None:
    """The same test fails clearly for a simulator that lets the lower port win."""
    _, delivered = finish_times("nvl72", "ideal", tie_breaks=False)
    assert excess(delivered) > 5 * LIMIT
