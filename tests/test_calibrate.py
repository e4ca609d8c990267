"""The fit of the endpoints, on samples whose parameters are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.calibrate import FITS, OF_MOE, OF_NCCL, Sample, calibrate, protocol_table, solve
from fabricsim.fabrics import load_fabric
from fabricsim.results.points import Point, load_points

POINT = Point("f", "nvl72", "all_gather", 4, 0, 0, 0, 1.0, "us", True, "somewhere")


def sample(size_bytes: int, ranks: int, measured: float = 1.0, descriptors: int = 0) -> Sample:
    """A sample that takes 1 us and 1 ps per byte without what is fitted."""
    point = replace(POINT, ranks=ranks, measured=measured)
    return Sample(point, size_bytes, descriptors, 1.0 + size_bytes * 1e-6, copy_us_per_byte=1e-6)


def test_parameters_come_back() -> None:
    """From times that were made of them, whatever the size."""
    values = {
        "launch_latency": 8.0,
        "step_latency": 0.4,
        "staging_rate": 2e-7,
        "part_rate": 1e-6,
        "piece_overhead": 0.3,
    }
    samples = []
    for ranks in (2, 4, 8):
        for k in range(9, 30):
            bare = sample(2**k, ranks)
            factors, rest = bare.factors(0)
            samples.append(sample(2**k, ranks, rest + sum(values[name] * factors[name] for name in values)))
    solution = solve(samples, OF_NCCL)
    assert solution.loss < 1e-12
    assert solution.values == pytest.approx(values)
    table = protocol_table(FITS["nvl72"][0], 2**20, solution)
    assert table["least_part"]["value"] == "1024 KiB"
    assert table["launch_latency"]["value"] == "8 us"
    assert table["part_rate"]["value"] == "1000 GB/s"
    assert table["piece_overhead"]["value"] == "90 ns"  # the square of 0.3, in us


def test_what_would_be_negative_is_left_out() -> None:
    """Times that fall with the ranks have no step latency."""
    samples = [sample(2**k, ranks, 20 - ranks + 2**k * 1e-6) for k in range(10, 24) for ranks in (2, 4)]
    assert set(solve(samples, ("launch_latency", "step_latency")).values) == {"launch_latency"}


def test_the_gap_of_descriptors_hides_behind_the_transfer() -> None:
    """1000 descriptors of 5 ns take 5 us; 750 of 1000 kB, at 1 us per MB, hide 0.75 us of them."""
    factors, rest = sample(1_000_000, 4, descriptors=1000).factors(5)
    assert set(OF_MOE) <= set(factors)
    assert rest == pytest.approx(2.0 + 5.0 - 0.75)


def test_the_catalog_has_what_the_script_finds() -> None:
    """The fits of CloudMatrix 384, which are quick, come out as they stand in its file."""
    spec = load_fabric("cloudmatrix384")
    points = [point for point in load_points() if point.fabric == spec.name and point.fitted]
    assert len(points) == 2 * 4 + 2
    found, residuals = calibrate(spec, points)
    assert found.to_toml() == spec.to_toml()
    for name in ("batches", "writes"):
        errors = [entry["error_percent"] for entry in residuals if entry["fit"] == name]
        assert len(errors) == 4
        assert np.abs(errors).max() < 1
