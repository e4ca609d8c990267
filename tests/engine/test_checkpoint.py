"""Checkpoints of the engine: a run that another continues ends the same, whoever computes, wherever it was cut."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabricsim.engine import threads
from fabricsim.engine.check import check
from fabricsim.engine.driver import RunRecord, Simulation
from fabricsim.engine.layout import Code
from fabricsim.engine.threads import Threads
from fabricsim.engine.work import BlockRecord
from fabricsim.errors import UnreachableError
from fabricsim.fabrics import load_fabric
from fabricsim.results.digest import Digest
from fabricsim.workloads.replay import schedule_blocks
from fabricsim.workloads.schedule import ScheduleBlock
from fabricsim.workloads.trace import Trace
from tests.engine.kernels import COMPILED, NUMBA, C
from tests.engine.test_blocks import Blocks, assert_same, chained, whole
from tests.oracle.cases import Case, cases, cases_with_changes, in_network_cases
from tests.workloads.trace_cases import write_long_trace

#: Attributes of a run that do not say where it is: who computes, for whom, and how long that took.
GIVEN = ("kernel", "kernel_reason", "threads", "_run", "_sink", "engine_s")


def through_a_file(dumped: dict[str, Any]) -> dict[str, Any]:
    """Return what comes back from a file: tables by way of an archive, the rest by way of JSON."""
    archive = io.BytesIO()
    np.savez(archive, allow_pickle=False, **dumped.pop("state"))
    archive.seek(0)
    with np.load(archive, allow_pickle=False) as stored:
        return {**json.loads(json.dumps(dumped)), "state": dict(stored)}


def alike(one: Any, other: Any) -> bool:
    """Compare all that two hold; of iterators and functions, which cannot be compared, that both are some."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(alike, one, other))
    if is_dataclass(one):
        return all(alike(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    if type(one).__module__.startswith("fabricsim") and hasattr(one, "__dict__"):
        return alike(
            *({name: value for name, value in vars(each).items() if name not in GIVEN} for each in (one, other))
        )
    return bool(one == other) or hasattr(one, "__next__") or callable(one)


def resumed(run: Simulation, again: Simulation) -> Simulation:
    """Let *again* go on where *run* is; all that they hold is alike then."""
    again.load(through_a_file(run.dump()))
    check(again.state, again.network)
    assert alike(again, run)
    return again


def resumed_blocks(run: Blocks, again: Blocks) -> Blocks:
    """As ``resumed``, with what was handed over until now."""
    resumed(run.simulation, again.simulation)
    again.retired, again.horizon_ps = list(run.retired), run.horizon_ps
    return again


def ended(run: Blocks) -> RunRecord:
    """Return the record of a run that is done."""
    run.simulation.work.finish(run.simulation.state, run.take)
    return run.joined(run.simulation.figures())


@pytest.mark.parametrize("kernel", [C, NUMBA])
@settings(max_examples=25)
@given(
    case=cases(),
    operations=st.sampled_from([1, 2, 7]),
    times=st.sampled_from([1, 4]),
    slices=st.lists(st.integers(0, 400), min_size=1, max_size=3),
)
def test_a_resumed_run_ends_the_same(case: Case, operations: int, times: int, slices: list[int], kernel: str) -> None:
    """Any case in blocks, cut anywhere, resumed by the kernels in turn: what is recorded, and all of the state."""
    case = chained(case, times)
    run = Blocks(case, operations, kernel)
    for number, slice_events in enumerate(slices):
        run.simulation.advance(slice_events)
        run = resumed_blocks(run, Blocks(case, operations, COMPILED[number % len(COMPILED)]))
    assert_same(run.run(), whole(case))


@settings(max_examples=25)
@given(case=cases_with_changes(), operations=st.sampled_from([1, 2]), slice_events=st.integers(20, 300))
def test_a_network_that_changes_is_resumed(case: Case, operations: int, slice_events: int) -> None:
    """Cut before, between and after the changes of a network, after each slice."""
    try:
        expected = whole(case)
    except UnreachableError:
        return
    run = Blocks(case, operations)
    while run.simulation.advance(slice_events) == Code.SLICE:
        run = resumed_blocks(run, Blocks(case, operations))
    assert_same(ended(run), expected)


@settings(max_examples=25)
@given(case=in_network_cases(), slice_events=st.integers(10, 100))
def test_in_network_operations_are_resumed(case: Case, slice_events: int) -> None:
    """Packets that wait in a switch for others, and copies under way, are part of a checkpoint."""
    terminals = np.array(case.terminal_of_rank, np.int32)

    def new() -> Simulation:
        return Simulation(case.network, case.schedule, terminals, seed=case.seed)

    run = new()
    while run.advance(slice_events) == Code.SLICE:
        run = resumed(run, new())
    assert_same(run.record(), whole(case))


class Replay:
    """A replay with two lanes on nvl72, and the digest of what it handed over."""

    def __init__(self, trace: Path, kernel: str, num_threads: int, digest: Digest | None = None) -> None:
        self.digest = Digest() if digest is None else digest
        blocks = schedule_blocks(Trace.open(trace), max_operations=4)
        assert len(blocks.lane_operations) == 2
        self.simulation = Simulation(
            load_fabric("nvl72").network(),
            blocks,
            np.arange(blocks.num_ranks, dtype=np.int32),
            kernel=kernel,
            threads=num_threads,
            sink=self.take,
        )

    def take(self, retired: list[tuple[ScheduleBlock, BlockRecord]], horizon_ps: int) -> None:
        """Hash what is handed over."""
        for block, record in retired:
            self.digest.add(block, record)
        self.digest.advance(horizon_ps)

    def advance(self, slice_events: int) -> Code:
        """Run a slice on the run's threads."""
        if self.simulation.threads == 1:
            return self.simulation.advance(slice_events)
        with Threads(self.simulation._run, self.simulation.threads) as team:
            return self.simulation.advance_threads(team)


@pytest.mark.parametrize("kernel", [C, NUMBA, "python"])
def test_fifty_resumes_of_a_replay(tmp_path: Path, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two lanes, resumed at 50 random moments in this process, on one thread and on two in turn."""
    monkeypatch.setattr("fabricsim.engine.driver.SLICE_S", 0.0003)
    monkeypatch.setattr(threads, "WORTH_HOPS", 0)
    monkeypatch.setattr(threads, "TURN_EVENTS", 20)
    write_long_trace(tmp_path / "long.arrow", 60, num_ranks=4)
    undisturbed = Replay(tmp_path / "long.arrow", COMPILED[0], 1)
    expected = undisturbed.simulation.run_to_end()
    random, resumes = Random(7), 0
    run = Replay(tmp_path / "long.arrow", kernel, 1)
    while run.advance(random.randint(1, expected.packet_hops // 60)) == Code.SLICE:
        if resumes < 50:
            resumes += 1
            again = Replay(tmp_path / "long.arrow", kernel, 1 + resumes % 2, run.digest)
            resumed(run.simulation, again.simulation)
            run = again
    assert resumes == 50
    run.simulation.work.finish(run.simulation.state, run.take)
    assert run.digest.hexdigest() == undisturbed.digest.hexdigest()
    figures = run.simulation.figures()
    assert np.array_equal(figures.channel_credit_stall_ps, expected.channel_credit_stall_ps)
    assert np.array_equal(figures.packet_latency_counts, expected.packet_latency_counts)
    assert figures.packet_latency_sum_ps == expected.packet_latency_sum_ps
