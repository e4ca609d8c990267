from __future__ import annotations

import numpy as np
import pytest

from fabricsim.results.metrics import (
    Distribution,
    Utilization,
    algbw_GBps,
    busbw_GBps,
    exact_distribution,
    histogram_distribution,
    utilization,
)
from tests.engine.test_equality import bucket


def histogram(values_ps: list[int]) -> np.ndarray:
    """Counts of all buckets of 64-bit values."""
    return np.bincount([bucket(value) for value in values_ps], minlength=128 * 58).astype(np.int64)


def test_algbw_is_size_over_time() -> None:
    """1,000,000 bytes in 4 us are 250 GB/s; nothing, or no time, has no bandwidth."""
    assert algbw_GBps(1_000_000, 4_000_000) == 250.0
    assert algbw_GBps(0, 4_000_000) is None
    assert algbw_GBps(1_000_000, 0) is None


@pytest.mark.parametrize(
    ("op", "expected_GBps"),
    [
        ("all_reduce", 375.0),  # 2 * 3 / 4
        ("all_gather", 187.5),  # 3 / 4
        ("reduce_scatter", 187.5),
        ("all_to_all", 187.5),
        ("all_to_all_v", 187.5),
        ("broadcast", 250.0),
        ("send_recv", 250.0),
        ("barrier", None),
    ],
)
def test_busbw_has_the_factors_of_nccl_tests(op: str, expected_GBps: float | None) -> None:
    """An algbw of 250 GB/s over 4 ranks, times the factor of doc/PERFORMANCE.md in nccl-tests."""
    assert busbw_GBps(op, 4, 1_000_000, 4_000_000) == expected_GBps


def test_percentiles_are_nearest_ranks() -> None:
    """Of 1 to 1000 us the p-th percentile is the ceil(p * 1000)-th value."""
    values = np.random.default_rng(1).permutation(np.arange(1, 1_001)) * 1_000_000
    assert exact_distribution(lambda: [values]) == Distribution(
        p50=500, p90=900, p99=990, p999=999, max=1_000, mean=500.5
    )


def test_one_latency_is_every_percentile() -> None:
    """A single value is its own distribution, also in a histogram, where the largest value caps its bucket."""
    alone = Distribution(p50=1.234567, p90=1.234567, p99=1.234567, p999=1.234567, max=1.234567, mean=1.234567)
    assert exact_distribution(lambda: [np.array([1_234_567])]) == alone
    assert histogram_distribution(histogram([1_234_567]), 1_234_567, 1_234_567) == alone


def test_nothing_has_no_latency() -> None:
    """Without messages or packets every figure is None."""
    nothing = Distribution(None, None, None, None, None, None)
    assert exact_distribution(lambda: [np.zeros(0, np.int64)]) == nothing
    assert histogram_distribution(histogram([]), 0, 0) == nothing


def test_histogram_percentiles_lie_at_most_one_bucket_above() -> None:
    """A percentile out of the histogram is never below the true value and less than 1/128 above it."""
    values = np.random.default_rng(2).integers(1, 10**9, 5_000)
    true = exact_distribution(lambda: [values])
    read = histogram_distribution(histogram(values.tolist()), int(values.sum()), int(values.max()))
    assert (read.max, read.mean) == (true.max, pytest.approx(true.mean, rel=1e-12))
    for name in ("p50", "p90", "p99", "p999"):
        assert getattr(true, name) <= getattr(read, name) <= getattr(true, name) * (1 + 1 / 128)


def test_small_values_are_exact_in_a_histogram() -> None:
    """Below 256 ps every value has its own bucket."""
    read = histogram_distribution(histogram([3, 127, 128, 200, 255]), 713, 255)
    assert (read.p50, read.p90) == (128e-6, 255e-6)


def test_utilization_is_the_busy_fraction() -> None:
    """Channels busy for 0, 250 and 500 of 1,000 ps."""
    assert utilization(np.array([500, 0, 250]), 1_000) == Utilization(mean=0.25, p99=0.5, max=0.5)


def test_a_run_of_no_time_uses_nothing() -> None:
    """Zero simulated time divides nothing."""
    assert utilization(np.zeros(3, np.int64), 0) == Utilization(0.0, 0.0, 0.0)
