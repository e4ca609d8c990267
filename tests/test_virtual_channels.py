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


MIB = 1 << 20


def rivals(*sizes_bytes: int) -> Schedule:
    """Operations a, b, ... at the same time, each one message to rank 3: a from rank 0, b from rank 1, and so on."""
    count = len(sizes_bytes)
    source = np.arange(count, dtype=np.int32)
    operations = tuple(Operation("abc"[rank], "send", "direct", (rank, 3), sizes_bytes[rank]) for rank in range(count))
    none = np.zeros(0, np.int32)
    return Schedule(
        4,
        operations,
        Tasks(
            operation=np.repeat(source, 2),
            rank=np.stack([source, np.full_like(source, 3)], axis=1).ravel(),
            gap_ps=np.zeros(2 * count, np.int64),
            not_before_ps=np.zeros(2 * count, np.int64),
            launches=np.ones(2 * count, np.bool_),
            predecessor_first=np.zeros(2 * count + 1, np.int64),
            predecessors=none,
        ),
        Messages(
            operation=source,
            index=np.zeros(count, np.int32),
            source_task=2 * source,
            target_task=2 * source + 1,
            size_bytes=np.array(sizes_bytes, np.int64),
            waits_first=np.zeros(count + 1, np.int64),
            waits_for=none,
        ),
    )


def times_us(result: Result) -> dict[str, float]:
    """The time of each operation."""
    return {row["name"]: row["time_ps"] / 1e6 for row in result.op_rows()}


def test_the_lower_virtual_channel_goes_first() -> None:
    """Two flows share the links into one GPU; with priorities one takes as long as alone, the other twice that."""
    alone = simulate(fabric("oldest"), fs.collective("send_recv", size="1MiB", ranks=2)).simulated_time_ps / 1e6
    shared = times_us(simulate(fabric("oldest", ["b"]), rivals(MIB, MIB)))
    first = times_us(simulate(fabric("priority", ["b"]), rivals(MIB, MIB)))
    second = times_us(simulate(fabric("priority", ["a"]), rivals(MIB, MIB)))
    wire_us = alone - 10
    assert shared["a"] == pytest.approx(shared["b"], rel=0.02)
    assert first["a"] == pytest.approx(alone, rel=0.02)
    assert second["b"] == pytest.approx(alone, rel=0.02)
    assert first["b"] - first["a"] == pytest.approx(wire_us, rel=0.1)


def test_round_robin_shares_evenly_however_many_there_are() -> None:
    """Two flows on one vc and a third on another: in turns the third has half of the link, else a third of it."""
    sizes = MIB, MIB, 3 * MIB // 2
    alone = simulate(fabric("oldest"), fs.collective("send_recv", size=f"{sizes[2]} B", ranks=2))
    wire_us = alone.simulated_time_ps / 1e6 - 10
    times = {kind: times_us(simulate(fabric(kind, ["c"]), rivals(*sizes))) for kind in ("oldest", "round_robin")}
    assert times["round_robin"]["c"] < times["oldest"]["c"]
    assert times["round_robin"]["a"] > times["oldest"]["a"]
    assert times["round_robin"]["b"] > times["oldest"]["b"]
    # All that the third sends meets the others, which have more to send.
    assert times["round_robin"]["c"] - 10 == pytest.approx(2 * wire_us, rel=0.05)


def test_the_summary_and_the_digest_know_of_them() -> None:
    """Unused ones change no time; the summary says how many there are."""
    plain, more = (simulate(spec, rivals(MIB, MIB)) for spec in (small.tiny_fabric(), fabric("priority", count=4)))
    assert plain.digest == more.digest
    assert plain.summary()["fabric"]["virtual_channels"] == 1
    assert more.summary()["fabric"]["virtual_channels"] == 4
    assert more.summary()["fabric"]["arbitration"] == "priority"


@pytest.mark.parametrize(
    ("count", "operations", "complaint"),
    [
        (3, [], "vcs.count: is 3; an engine takes 1, 2, 4, 8, 16"),
        (2, [["a"], ["b"]], "the last of 2 is vc 1"),
        (4, [["a", "b"], ["b"]], "'b' twice"),
    ],
)
def test_what_cannot_be_is_refused(count: int, operations: list[list[str]], complaint: str) -> None:
    """A number that no engine takes, a channel that there is not, and an operation on two."""
    with pytest.raises(fs.ConfigError, match=complaint):
        fabric("oldest", *operations, count=count)
