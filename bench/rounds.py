"""Times variants of a run against each other: in turn, in one process, round after round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from pytest_benchmark.fixture import BenchmarkFixture


class Record(Protocol):
    """What a run tells: a RunRecord, or what a peer's process came to."""

    @property
    def packet_hops(self) -> int:
        """Packets times channels."""

    @property
    def engine_s(self) -> float:
        """The time that counts."""


AnyRecord = TypeVar("AnyRecord", bound=Record)
AnyRecord_co = TypeVar("AnyRecord_co", bound=Record, covariant=True)


class Run(Protocol[AnyRecord_co]):
    """A run that is prepared: a Simulation, or a peer's process."""

    def run(self) -> AnyRecord_co:
        """Run to the end."""


def compare(
    benchmark: BenchmarkFixture,
    table: str,
    row: Mapping[str, Any],
    variants: Mapping[str, Callable[[], Run[AnyRecord]]],
    *,
    rounds: int,
) -> list[AnyRecord]:
    """Run all variants once per round, and note their times for ``bench.table``; return the last round's records.

    Each round runs the variants in the opposite order of the round before, so that a machine that grows slower
    favours none. Preparing is not timed; the time noted is ``RunRecord.engine_s``, which leaves out compilation.
    """
    order = list(variants)
    records: dict[str, AnyRecord] = {}
    engine_s: dict[str, list[float]] = {name: [] for name in variants}

    def prepare() -> tuple[tuple[dict[str, Run[AnyRecord]]], dict[str, Any]]:
        order.reverse()
        return ({name: variants[name]() for name in order},), {}

    def run(simulations: dict[str, Run[AnyRecord]]) -> None:
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
