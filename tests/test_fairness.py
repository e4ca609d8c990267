"""No rank is favoured (docs/physics.md, section 3): ties fall by a hash, not by the number of a port.

Each rank sends to all others in an order of its own, a permutation drawn from the seed. (With a rotated order a Clos favours
positions by its structure; that is not a tie's doing.) Over the seeds the mean finish time of a rank may then differ from
another's by no more than sampling error.
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
from fabricsim.fabrics.network import Network
from fabricsim.workloads.collectives import collective
from fabricsim.workloads.schedule import Schedule

SEEDS = 100
PACKETS = 2  # full packets per message: enough for messages to meet

#: A fair simulator fails a test at this level once in a hundred thousand choices of seeds.
LEVEL = 1e-5


def shuffled_all_to_all(ranks: int, size_bytes: int, seed: int) -> Schedule:
    """Return an all-to-all in which each rank sends to its peers in a random order."""
    schedule = collective("all_to_all", size=size_bytes, ranks=ranks)
    messages = schedule.messages
    generator = np.random.Generator(np.random.PCG64(seed))
    order = generator.permuted(np.tile(np.arange(ranks - 1), (ranks, 1)), axis=1)
    order += np.arange(ranks)[:, None] * (ranks - 1)
    return replace(schedule, messages=replace(messages, target_task=messages.target_task[order.reshape(-1)]))


def finish_times(network: Network, tie_breaks: bool = True) -> npt.NDArray[np.float64]:
    """Return the time at which the last byte reaches each rank, shape (seeds, ranks), in ps."""
    ranks = network.num_terminals
    finish = np.empty((SEEDS, ranks))
    for seed in range(SEEDS):
        schedule = shuffled_all_to_all(ranks, ranks * PACKETS * network.packet.stripe_min_bytes, seed)
        run = Simulation(network, schedule, np.arange(ranks, dtype=np.int32), seed=seed)
        if not tie_breaks:
            run.state.channels["tie_key"] = 0  # all ties are equal: the place decides
        finish[seed] = run.run().task_end_ps
    return finish


def excess(finish: npt.NDArray[np.float64]) -> float:
    """Return how far the ranks' means lie apart, in standard deviations of what chance gives.

    Two-way analysis of variance with seeds as blocks: F = variance between ranks / residual variance, with r - 1 and (r - 1)(s - 1)
    degrees of freedom, made normal by the approximation of Wilson and Hilferty.
    """
    seeds, ranks = finish.shape
    between = seeds * finish.mean(axis=0).var(ddof=1)
    residual = finish - finish.mean(axis=0) - finish.mean(axis=1, keepdims=True) + finish.mean()
    f = between / ((residual**2).sum() / ((ranks - 1) * (seeds - 1)))
    a, b = 2 / (9 * (ranks - 1)), 2 / (9 * (ranks - 1) * (seeds - 1))
    return float(((1 - b) * f ** (1 / 3) - (1 - a)) / sqrt(b * f ** (2 / 3) + a))


@pytest.mark.parametrize("name", ["nvl72", "cloudmatrix384"])
def test_no_rank_is_favoured(name: str) -> None:
    """The mean finish times of all ranks agree within sampling error over 100 seeds."""
    assert excess(finish_times(load_fabric(name).network())) < NormalDist().inv_cdf(1 - LEVEL)


def test_ties_by_port_number_would_be_noticed() -> None:
    """The same test fails clearly for a simulator that lets the lower port win."""
    assert excess(finish_times(load_fabric("nvl72").network(), tie_breaks=False)) > NormalDist().inv_cdf(1 - LEVEL)
