"""Kernels, sizes of a fabric, threads and folding, each against another; ``make bench`` runs it, the tests do not.

With ``--benchmark-disable`` each bench runs one round of a small load, to show that it works.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.cases import NUM_PACKETS, PACKETS_BYTES, Case, bulk, compiled_kernels, prepare, uniform_packets
from bench.rounds import compare
from fabricsim.engine.driver import RunRecord
from fabricsim.engine.folding import fold

SMALL_NUM_PACKETS = 1 << 12
BULK_FABRICS = ("nvl72", "cloudmatrix384")


def bulk_size(benchmark: BenchmarkFixture) -> str:
    """Return the bytes that each rank sends in a bulk run; the small one still uses all planes of both fabrics."""
    return "2MiB" if benchmark.disabled else "64MiB"


@pytest.mark.parametrize("fabric", BULK_FABRICS)
def bench_bulk(benchmark: BenchmarkFixture, fabric: str) -> None:
    """The headline: an all_to_all of 64 MiB in the fabric's own packets and buffers, on each kernel."""
    size = bulk_size(benchmark)
    network, schedule = bulk(fabric, size)
    variants = {kernel: partial(prepare, network, schedule, kernel=kernel) for kernel in compiled_kernels()}
    check_equal(compare(benchmark, "bulk", {"fabric": fabric, "size": size}, variants, rounds=3))


def bench_kernels(benchmark: BenchmarkFixture, case: Case) -> None:
    """Every case on each kernel."""
    num_packets = SMALL_NUM_PACKETS if benchmark.disabled else NUM_PACKETS
    variants = {
        kernel: partial(case.simulation, kernel=kernel, num_packets=num_packets) for kernel in compiled_kernels()
    }
    check_equal(compare(benchmark, "kernels", vars(case), variants, rounds=3))


@pytest.mark.parametrize(
    ("packet_bytes", "packets_per_share"), [*((size, 1) for size in PACKETS_BYTES), (max(PACKETS_BYTES), 8)]
)
@pytest.mark.parametrize("kernel", compiled_kernels())
def bench_terminals(benchmark: BenchmarkFixture, kernel: str, packet_bytes: int, packets_per_share: int) -> None:
    """As many packets of a uniform load on 72, 384 and 768 terminals of one kind of Clos.

    With one packet per share the 768 spend their time on messages.
    """
    num_packets, load = uniform_packets("clos768", packet_bytes, packets_per_share), "uniform"
    if benchmark.disabled:
        num_packets, load = SMALL_NUM_PACKETS, "permutation"  # which has no least size
    variants = {
        f"{fabric.removeprefix('clos')} terminals": partial(
            Case(fabric, packet_bytes, "ample", load).simulation, kernel=kernel, num_packets=num_packets
        )
        for fabric in ("clos72", "clos384", "clos768")
    }
    row = {"kernel": kernel, "packet_bytes": packet_bytes, "packets per share": packets_per_share}
    compare(benchmark, "terminals", row, variants, rounds=3)


@pytest.mark.parametrize("fabric", BULK_FABRICS)
@pytest.mark.parametrize("kernel", compiled_kernels())
def bench_threads(benchmark: BenchmarkFixture, kernel: str, fabric: str) -> None:
    """The same on one thread and on two."""
    size = bulk_size(benchmark)
    network, schedule = bulk(fabric, size)
    variants = {
        f"{threads} thread{'s' * (threads > 1)}": partial(prepare, network, schedule, kernel=kernel, threads=threads)
        for threads in (1, 2)
    }
    check_equal(compare(benchmark, "threads", {"kernel": kernel, "fabric": fabric, "size": size}, variants, rounds=3))


@pytest.mark.parametrize("fabric", BULK_FABRICS)
@pytest.mark.parametrize("kernel", compiled_kernels())
def bench_folding(benchmark: BenchmarkFixture, kernel: str, fabric: str) -> None:
    """The same on all planes, and on the one that stands for them."""
    size = bulk_size(benchmark)
    network, schedule = bulk(fabric, size)
    folding = fold(network, [schedule], np.arange(schedule.num_ranks, dtype=np.int32))
    assert folding.folded, folding.words
    variants = {
        "not folded": partial(prepare, network, schedule, kernel=kernel),
        "folded": partial(prepare, folding.network, folding.schedule(schedule), kernel=kernel),
    }
    row = {"kernel": kernel, "fabric": fabric, "size": size}
    whole, part = compare(benchmark, "folding", row, variants, rounds=3)
    unfolded = folding.unfold(part)
    check_equal([whole, unfolded])
    benchmark.extra_info["variants"]["folded"]["packet_hops"] = unfolded.packet_hops  # those that it stands for


def check_equal(records: Sequence[RunRecord]) -> None:
    """Refuse a comparison of speed between runs of different results."""
    for record in records[1:]:
        np.testing.assert_array_equal(record.message_complete_ps, records[0].message_complete_ps)
