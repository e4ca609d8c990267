"""From recorded picoseconds to the figures that people compare: bandwidths, percentiles, utilization.

``algbw`` and ``busbw`` are defined as in NVIDIA/nccl-tests, doc/PERFORMANCE.md: 1 GB is 10^9 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from fabricsim.engine.layout import LATENCY_BUCKETS

Int64 = npt.NDArray[np.int64]

PERCENTILES = {"p50": Fraction(1, 2), "p90": Fraction(9, 10), "p99": Fraction(99, 100), "p999": Fraction(999, 1000)}
PS_PER_US = 1_000_000


def algbw_GBps(size_bytes: int, time_ps: int) -> float | None:
    """Size over time, in GB/s; ``None`` where either is zero."""
    return size_bytes / time_ps * 1000 if size_bytes and time_ps else None


def busbw_factor(op: str, num_ranks: int) -> Fraction | None:
    """Say what turns an operation's algbw into its busbw; ``None`` for one that nccl-tests does not know.

    ``all_to_all_v`` takes the factor of ``all_to_all``, as ROCm/rccl-tests does for its alltoallv.
    """
    if op == "all_reduce":
        return Fraction(2 * (num_ranks - 1), num_ranks)
    if op in ("all_gather", "all_gather_v", "reduce_scatter", "reduce_scatter_v", "all_to_all", "all_to_all_v"):
        return Fraction(num_ranks - 1, num_ranks)
    if op in ("gather", "scatter"):
        return Fraction(num_ranks - 1, num_ranks)
    if op in ("broadcast", "reduce", "send", "recv", "send_recv"):
        return Fraction(1)
    return None


def busbw_GBps(op: str, num_ranks: int, size_bytes: int, time_ps: int) -> float | None:
    """Bus bandwidth in GB/s, comparable with the rate of a link; ``None`` where it is not defined."""
    algbw = algbw_GBps(size_bytes, time_ps)
    factor = busbw_factor(op, num_ranks)
    return None if algbw is None or factor is None else algbw * float(factor)


@dataclass(frozen=True)
class Distribution:
    """Latencies in microseconds; ``None`` where there were no messages or packets."""

    p50: float | None
    p90: float | None
    p99: float | None
    p999: float | None
    max: float | None
    mean: float | None


def exact_distribution(latencies_ps: Callable[[], Iterable[Int64]]) -> Distribution:
    """Percentiles by nearest rank: the smallest latency that at least that fraction does not exceed.

    ``latencies_ps`` gives all latencies, part by part, each time that it is called.
    """
    count = sum_ps = max_ps = 0
    for part in latencies_ps():
        count += len(part)
        sum_ps += int(part.sum())
        max_ps = max(max_ps, int(part.max(initial=0)))
    if not count:
        return Distribution(None, None, None, None, None, None)
    names = {name: math.ceil(fraction * count) for name, fraction in PERCENTILES.items()}
    found = smallest(latencies_ps, sorted(set(names.values())), max_ps)
    return Distribution(
        **{name: found[rank] / PS_PER_US for name, rank in names.items()},
        max=max_ps / PS_PER_US,
        mean=sum_ps / count / PS_PER_US,
    )


#: Digits, in binary, that a pass over all latencies tells of a percentile.
_DIGITS = 16


def smallest(latencies_ps: Callable[[], Iterable[Int64]], ranks: Sequence[int], max_ps: int) -> dict[int, int]:
    """Return the latencies of these ranks, counted from 1 in ascending order, none above *max_ps*.

    Pass by pass it counts by the next digits those latencies that begin with the digits found so far.
    """
    left = max_ps.bit_length()
    head = dict.fromkeys(ranks, 0)
    before = dict.fromkeys(ranks, 0)  # latencies with a smaller head
    while left > 0:
        step = min(_DIGITS, left)
        counts = {value: np.zeros(1 << step, np.int64) for value in head.values()}
        for part in latencies_ps():
            heads, digits = part >> left, (part >> (left - step)) & ((1 << step) - 1)
            for value, count in counts.items():
                count += np.bincount(digits[heads == value], minlength=1 << step)
        left -= step
        for rank in ranks:
            cumulative = np.cumsum(counts[head[rank]])
            digit = int(np.searchsorted(cumulative, rank - before[rank]))
            before[rank] += int(cumulative[digit - 1]) if digit else 0
            head[rank] = (head[rank] << step) | digit
    return head


def histogram_distribution(counts: Int64, sum_ps: int, max_ps: int) -> Distribution:
    """Percentiles by nearest rank from the kernel's histogram (docs/physics.md, section 10).

    A percentile is the upper edge of its bucket, at most 1 / ``LATENCY_BUCKETS`` above the true value, and no more than
    the largest value; ``max`` and ``mean`` are exact.

    Parameters
    ----------
    counts
        Values below ``2 * LATENCY_BUCKETS`` have buckets of their own; a larger value ``v`` lies in bucket
        ``LATENCY_BUCKETS * shift + (v >> shift)``, with the ``shift`` that leaves as many digits as these have at most.
    sum_ps, max_ps
        Of all values.
    """
    cumulative = np.cumsum(counts)
    total = int(cumulative[-1]) if len(cumulative) else 0
    if not total:
        return Distribution(None, None, None, None, None, None)
    values = {}
    for name, fraction in PERCENTILES.items():
        bucket = int(np.searchsorted(cumulative, math.ceil(fraction * total)))
        values[name] = min(_upper_edge_ps(bucket), max_ps) / PS_PER_US
    return Distribution(**values, max=max_ps / PS_PER_US, mean=sum_ps / total / PS_PER_US)


def _upper_edge_ps(bucket: int) -> int:
    shift = max(bucket // LATENCY_BUCKETS - 1, 0)
    return ((bucket - LATENCY_BUCKETS * shift + 1) << shift) - 1


@dataclass(frozen=True)
class Utilization:
    """Busy fraction of the simulated time over the channels of one class; ``p99`` by nearest rank."""

    mean: float
    p99: float
    max: float


def utilization(busy_ps: Int64, simulated_ps: int) -> Utilization:
    """Summarise the channels of one class (at least one); a run of no time has used nothing."""
    if not simulated_ps:
        return Utilization(0.0, 0.0, 0.0)
    in_order = np.sort(busy_ps)
    rank = math.ceil(PERCENTILES["p99"] * len(in_order)) - 1
    return Utilization(
        mean=float(in_order.mean()) / simulated_ps,
        p99=int(in_order[rank]) / simulated_ps,
        max=int(in_order[-1]) / simulated_ps,
    )
