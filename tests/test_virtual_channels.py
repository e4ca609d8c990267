"""Virtual channels of a fabric file: who goes first, and who need not wait for whom."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fabricsim as fs
from fabricsim.results.result import Result
from fabricsim.results.run import simulate
from fabricsim.workloads.schedule import Messages, Operation, Schedule, Tasks
from tests.results import small

COUNT = {"source": "a test", "evidence": "assumed"}


def fabric(arbitration: str, *operations: list[str], count: int = 2, **buffer: str) -> fs.FabricSpec:
    """Four GPUs on two switches, with virtual channels."""
    tables: dict[str, Any] = small.tiny_fabric().model_dump(exclude_none=True)
    tables["vcs"] = {"count": COUNT | {"value": count}, "arbitration": arbitration, "operations": operations}
    for value in buffer.values():
        tables["link"]["gpu-nvswitch"]["buffer"]["value"] = value
    return fs.FabricSpec(**tables)


def rivals(size_bytes: int = 1 << 20) -> Schedule:
    """Two operations at the same time, each from one rank to rank 2: the first from rank 0, the second from rank 1."""
    operations = tuple(Operation(name, "send", "direct", (rank, 2), size_bytes) for rank, name in enumerate(("a", "b")))
    none = np.zeros(0, np.int32)
    return Schedule(
        4,
        operations,
        Tasks(
            operation=np.array([0, 0, 1, 1], np.int32),
            rank=np.array([0, 2, 1, 2], np.int32),
            gap_ps=np.zeros(4, np.int64),
            not_before_ps=np.zeros(4, np.int64),
            launches=np.ones(4, np.bool_),
            predecessor_first=np.zeros(5, np.int64),
            predecessors=none,
        ),
        Messages(
            operation=np.array([0, 1], np.int32),
            index=np.zeros(2, np.int32),
            source_task=np.array([0, 2], np.int32),
            target_task=np.array([1, 3], np.int32),
            size_bytes=np.full(2, size_bytes),
            waits_first=np.zeros(3, np.int64),
            waits_for=none,
        ),
    )


def times_us(result: Result) -> dict[str, float]:
    """The time of each operation."""
    return {row["name"]: row["time_ps"] / 1e6 for row in result.op_rows()}


def test_the_lower_virtual_channel_goes_first() -> None:
    """Two flows share the links into one GPU; with priorities one takes as long as alone, the other twice that."""
    alone = simulate(fabric("oldest"), fs.collective("send_recv", size="1MiB", ranks=2)).simulated_time_ps / 1e6
    shared = times_us(simulate(fabric("oldest", ["b"]), rivals()))
    first = times_us(simulate(fabric("priority", ["b"]), rivals()))
    second = times_us(simulate(fabric("priority", ["a"]), rivals()))
    wire_us = alone - 10
    assert shared["a"] == pytest.approx(shared["b"], rel=0.02)
    assert first["a"] == pytest.approx(alone, rel=0.02)
    assert second["b"] == pytest.approx(alone, rel=0.02)
    assert first["b"] - first["a"] == pytest.approx(wire_us, rel=0.1)


def test_round_robin_shares_evenly_whoever_came_first() -> None:
    """A flow that is behind gets every other packet: it does not wait until the queue before it is empty."""
    late = rivals()
    late.tasks.not_before_ps[2:] = 5_000_000
    times = {kind: times_us(simulate(fabric(kind, ["b"]), late)) for kind in ("oldest", "round_robin")}
    assert times["round_robin"]["b"] <= times["oldest"]["b"]
    assert times["round_robin"]["a"] >= times["oldest"]["a"]


def test_the_summary_and_the_digest_know_of_them() -> None:
    """Unused ones change no time; the summary says how many there are."""
    plain, more = (simulate(spec, rivals()) for spec in (small.tiny_fabric(), fabric("priority", count=4)))
    assert plain.digest == more.digest
    assert plain.summary()["fabric"]["virtual_channels"] == 1
    assert more.summary()["fabric"]["virtual_channels"] == 4
    assert more.summary()["fabric"]["arbitration"] == "priority"


@pytest.mark.parametrize(
    ("count", "operations", "complaint"),
    [
        (3, [], r"vcs.count is 3; an engine takes 1, 2, 4, 8, 16|vcs.count: is 3"),
        (2, [["a"], ["b"]], "the last of 2 is vc 1"),
        (4, [["a", "b"], ["b"]], "'b' twice"),
    ],
)
def test_what_cannot_be_is_refused(count: int, operations: list[list[str]], complaint: str) -> None:
    """A number that no engine takes, a channel that there is not, and an operation on two."""
    with pytest.raises(fs.ConfigError, match=complaint):
        fabric("oldest", *operations, count=count)
