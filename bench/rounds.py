"""Times variants of a run against each other: in turn, in one process, round after round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

from fabricsim.engine.driver import RunRecord, Simulation

Prepare = Callable[[], Simulation]


def compare(
    benchmark: BenchmarkFixture, table: str, row: Mapping[str, Any], variants: Mapping[str, Prepare], *, rounds: int
) -> list[RunRecord]:
    """Run all variants once per round, and note their times for ``bench.table``; return the last round's records.

    Each round runs the variants in the opposite order of the round before, so that a machine that grows slower
    favours none. Preparing is not timed; the time noted is ``RunRecord.engine_s``, which leaves out compilation.
    """
    order = list(variants)
    records: dict[str, RunRecord] = {}
    engine_s: dict[str, list[float]] = {name: [] for name in variants}

    def prepare() -> tuple[tuple[dict[str, Simulation]], dict[str, Any]]:
        order.reverse()
        return ({name: variants[name]() for name in order},), {}

    def run(simulations: dict[str, Simulation]) -> None:
        for name, simulation in simulations.items():
            records[name] = simulation.run()
            engine_s[name].append(records[name].engine_s)

    benchmark.pedantic(run, setup=prepare, rounds=rounds)
    benchmark.extra_info["table"] = table
    benchmark.extra_info["row"] = dict(row)
    benchmark.extra_info["variants"] = {
        name: {"packet_hops": records[name].packet_hops, "engine_s": engine_s[name]} for name in variants
    }
    return [records[name] for name in variants]
