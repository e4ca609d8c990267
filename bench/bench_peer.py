"""fabricsim against a peer simulator whose path is given; without one this is skipped."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.cases import compiled_kernels
from bench.peer import PLANES, fabricsim, htsim
from bench.rounds import compare

SMALL_PAIR_BYTES = 1 << 14


@pytest.mark.parametrize("shape", PLANES)
def bench_peer(benchmark: BenchmarkFixture, pytestconfig: pytest.Config, tmp_path: Path, shape: str) -> None:
    """The same all_to_all in both, process against process."""
    binary = pytestconfig.getoption("peer")
    if binary is None:
        pytest.skip("no --peer PATH of an htsim_roce")
    plane, kernel = PLANES[shape], compiled_kernels()[0]
    pair_bytes = SMALL_PAIR_BYTES if benchmark.disabled else 1 << 20
    fabricsim(tmp_path, kernel, plane, SMALL_PAIR_BYTES).run()  # Numba compiles, and is not timed
    variants = {
        "htsim_roce": partial(htsim, tmp_path, binary, plane, pair_bytes),
        "fabricsim": partial(fabricsim, tmp_path, kernel, plane, pair_bytes),
    }
    row = {"fabric": shape, "kernel": kernel, "pair_bytes": pair_bytes}
    peer, own = compare(benchmark, "peer", row, variants, rounds=3)
    assert peer.packet_hops == own.packet_hops
