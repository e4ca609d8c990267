"""Digests of named runs, committed: a change of any result is seen in review, whatever it was meant to change.

A digest covers every task and message time (docs/physics.md, section 10), so what makes the simulator faster must leave
all of them as they are. Where a result is meant to change, ``pytest tests/test_golden.py --update-golden`` rewrites
golden/digests.json, and the reason goes into the commit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import fabricsim as fs
from fabricsim.workloads.collectives import COLLECTIVES, IN_NETWORK, MOE_COLLECTIVES, algorithms_of
from fabricsim.workloads.trace import Clock, trace_from_rows

FILE = Path(__file__).parent / "golden" / "digests.json"
TRACES = Path(__file__).resolve().parents[1] / "traces"


def collective(fabric: str, op: str, algorithm: str) -> fs.Result:
    """24 ranks, on CloudMatrix 384 three nodes, so that packets take all kinds of routes; quick, but with queues."""
    # 256 experts stand on 32 ranks, 8 on each.
    moe = {"tokens": 16, "skew": 0.5, "ranks": 32}
    amount: dict[str, Any] = moe if op in MOE_COLLECTIVES else {"size": "256KiB", "ranks": 24}
    if fabric == "hgx-h100":
        amount["ranks"] = 8
    return fs.simulate(fabric, fs.collective(op, algorithm=algorithm, **amount))


def replay(trace: str, fabric: str, **options: Any) -> fs.Result:
    """One of the shipped traces."""
    return fs.replay(TRACES / trace, fabric, **options)


def uncommon(fabric: str) -> fs.Result:
    """What no size asks for: rooted collectives, a barrier, a transfer, a computation and gaps, over 3 ranks."""
    rows: list[dict[str, Any]] = []
    for op, sends, receives in (
        ("reduce", (9_000, 9_000, 9_000), (0, 9_000, 0)),
        ("gather", (5_000, 5_000, 5_000), (0, 15_000, 0)),
        ("barrier", (0, 0, 0), (0, 0, 0)),
        ("scatter", (0, 15_000, 0), (5_000, 5_000, 5_000)),
        ("all_gather_v", (100, 2_000, 30_000), (32_100, 32_100, 32_100)),
    ):
        rooted = {"root": 1} if op in ("reduce", "gather", "scatter") else {}
        rows += [
            {"op": op, "rank": rank, "group_id": 0, "group_seq": len(rows) // 3, "gap_ns": 100 * rank, **rooted,
             "send_bytes": sends[rank], "recv_bytes": receives[rank]}
            for rank in range(3)
        ]  # fmt: skip
    local = {"group_id": 0, "send_bytes": 0, "recv_bytes": 0}
    rows += [
        {**local, "op": "compute", "rank": 0, "duration_ns": 1_500},
        {**local, "op": "send", "rank": 0, "peer": 2, "send_bytes": 70_000},
        {**local, "op": "recv", "rank": 2, "peer": 0, "recv_bytes": 70_000},
    ]
    groups = [{"id": 0, "ranks": [2, 0, 1]}]
    trace = trace_from_rows(rows, world_size=3, groups=groups, clock=Clock(aligned=True), placement=[0, 17, 64])
    return fs.replay(trace, fabric)


FABRICS = ("nvl72", "cloudmatrix384")
RUNS: dict[str, Callable[[], fs.Result]] = {
    **{
        f"{op} {algorithm} on {fabric}": partial(collective, fabric, op, algorithm)
        for op in COLLECTIVES
        for algorithm in algorithms_of(op)
        for fabric in (FABRICS if algorithm != IN_NETWORK else ("nvl72", "hgx-h100"))
    },
    **{f"uncommon operations on {fabric}": partial(uncommon, fabric) for fabric in FABRICS},
    **{
        f"dlrm-8rank on {fabric}": partial(replay, "dlrm-8rank.arrow", fabric)
        for fabric in (*FABRICS, "cloudmatrix384-mesh")
    },
    **{
        f"dlrm-8rank {mode} on nvl72": partial(replay, "dlrm-8rank.arrow", "nvl72", mode=mode)
        for mode in ("recorded", "back-to-back")
    },
    "dlrm-8rank ideal, deterministic, load/store, seed 7 on cloudmatrix384": partial(
        *(replay, "dlrm-8rank.arrow", "cloudmatrix384"),
        **{"endpoint": "ideal", "routing": "deterministic", "packet": "load_store", "seed": 7, "placement": "scatter"},
    ),
    "moe-ep64 on cloudmatrix384": partial(replay, "moe-ep64.arrow", "cloudmatrix384"),
    "moe-ep384 on cloudmatrix384": partial(replay, "moe-ep384.arrow", "cloudmatrix384"),
}


@pytest.fixture(scope="module")
def golden(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """The committed results by name of the run; under --update-golden what the tests put there is written back."""
    results = json.loads(FILE.read_text(encoding="utf-8"))
    if not request.config.getoption("--update-golden"):
        yield results
        return
    kept = {name: results.get(name) for name in RUNS}
    yield kept
    FILE.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


@pytest.mark.parametrize("name", RUNS)
def test_results_are_the_committed_ones(name: str, golden: dict[str, Any], request: pytest.FixtureRequest) -> None:
    """Digest, simulated time and packet-hops of each run are those of golden/digests.json."""
    result = RUNS[name]()
    found = {
        "digest": result.digest,
        "simulated_time_ps": result.simulated_time_ps,
        "packet_hops": result.record.packet_hops,
    }
    if request.config.getoption("--update-golden"):
        golden[name] = found
        pytest.skip("its result was written to golden/digests.json")
    assert found == golden.get(name), "if this change of a result is meant: pytest tests/test_golden.py --update-golden"


def test_every_committed_result_is_of_a_run(golden: dict[str, Any]) -> None:
    """A run that was renamed or taken out leaves nothing behind."""
    assert list(golden) == list(RUNS)
