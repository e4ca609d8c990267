"""How fast the Numba kernel moves packets; ``make bench`` runs it, the tests do not."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import fabricsim as fs


def bench_all_to_all_nvl72(benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture[str]) -> None:
    """One all-to-all of 1 MiB per GPU over all 72 GPUs of nvl72, from tables to results."""
    fabric = fs.load_fabric("nvl72")
    workload = fs.collective("all_to_all", size="1MiB", ranks=72)

    def run() -> fs.Result:
        return fs.simulate(fabric, workload, kernel="numba")

    # The warm-up round compiles the kernel where no earlier run left it in the cache.
    result = benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    summary = result.summary()
    benchmark.extra_info["packet_hops"] = summary["packet_hops_simulated"]
    benchmark.extra_info["packet_hops_per_s"] = summary["packet_hops_per_s"]
    with capsys.disabled():
        print(f"\n{summary['packet_hops_per_s'] / 1e6:.2f} M packet-hops/s in the engine (last round)")
