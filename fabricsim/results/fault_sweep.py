"""One fault after another on one workload, ranked by how much each slows it down."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fabricsim.engine.folding import classes_of_planes
from fabricsim.engine.placement import Placement
from fabricsim.errors import ConfigError, UnreachableError
from fabricsim.fabrics import FabricSpec
from fabricsim.fabrics.faults import Fault, each_fault, read_faults, touched_channels
from fabricsim.fabrics.network import Network, channels_between
from fabricsim.results import metrics
from fabricsim.results.reach import talking_pairs
from fabricsim.results.result import Result
from fabricsim.results.run import Workload, execute, prepare, simulate
from fabricsim.results.versions import package_version

SCHEMA = "fabricsim.faults/1"

#: How a fault can end, worst first.
UNREACHABLE, RAN, IDLE = "unreachable", "simulated", "no_effect"


@dataclass(frozen=True)
class FaultRow:
    """What one fault does: its ``outcome``, and the time of the operation, if there is one.

    ``pair`` are the terminals that an unreachable one cuts apart. ``same_as`` is the fault that was simulated in the
    place of this one, which would give the same times.
    """

    fault: Fault
    outcome: str
    time_ps: int | None
    pair: tuple[str, str] | None = None
    same_as: Fault | None = None


@dataclass(frozen=True)
class FaultSweep:
    """All single faults of one kind on one collective, worst first; ``baseline`` is the run without them."""

    each: str
    baseline: Result
    baseline_ps: int
    rows: tuple[FaultRow, ...]
    simulated: int
    wall_s: float

    def slowdown(self, row: FaultRow) -> float | None:
        """Give the time with the fault over that without; ``None`` where there is no time."""
        return None if row.time_ps is None else row.time_ps / self.baseline_ps

    def summary(self, *, command: str | None = None) -> dict[str, Any]:
        """Sum the sweep up as a JSON-ready dictionary of the schema ``fabricsim.faults/1``."""
        baseline = self.baseline.summary()
        return {
            "schema": SCHEMA,
            "fabricsim_version": package_version(),
            "command": command,
            "kernel": baseline["kernel"],
            "seed": baseline["seed"],
            "fabric": baseline["fabric"],
            "workload": baseline["workload"],
            "each": self.each,
            "baseline": {
                "time_us": self.baseline_ps / metrics.PS_PER_US,
                "digest": baseline["digest"],
                "folding": baseline["folding"],
            },
            "simulated": self.simulated,
            "wall_s": self.wall_s,
            "faults": [self._row(row) for row in self.rows],
        }

    def _row(self, row: FaultRow) -> Mapping[str, Any]:
        return {
            "fault": row.fault.text,
            "outcome": row.outcome,
            "slowdown": self.slowdown(row),
            "time_us": None if row.time_ps is None else row.time_ps / metrics.PS_PER_US,
            "unreachable_pair": None if row.pair is None else list(row.pair),
            "same_as": None if row.same_as is None else row.same_as.text,
        }


def sweep_faults(
    fabric: FabricSpec,
    workload: Workload,
    *,
    each: str,
    seed: int = 1,
    kernel: str = "auto",
    threads: int | None = None,
    routing: str | None = None,
    packet: str | None = None,
    endpoint: str = "fitted",
    placement: Placement | None = None,
    faults: Sequence[Fault | str] = (),
    fold: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> FaultSweep:
    """Run a workload of one operation without and with each ``switch``, ``link`` or ``plane`` dead, one at a time.

    *faults* are there all the time. *progress* gets how many faults are done, and of how many. Where planes were folded
    without the fault, faults of the same place in planes that are alike give the same times (docs/physics.md, section
    13), and the first stands for all: ``fold=False`` simulates each. Other arguments as for ``simulate``, which says
    what is raised; a fault that leaves no way or meets no packet is a row and no error.
    """
    begin_s = time.perf_counter()
    options: dict[str, Any] = {
        "seed": seed,
        "routing": routing,
        "packet": packet,
        "endpoint": endpoint,
        "placement": placement,
    }
    engine: dict[str, Any] = {"kernel": kernel, "threads": threads, "fold": fold}
    always = read_faults(faults)
    baseline = simulate(fabric, workload, faults=always, **options, **engine)
    baseline_ps = _time_ps(baseline)
    if not baseline_ps:
        raise ConfigError("the operation takes no time without faults, so nothing can slow it down; move some bytes")
    if each == "link" and any(len(block.schedule.messages.groups) for block in workload.blocks):
        raise ConfigError(
            "a dead link leaves the ranks of an in-network operation different planes, and it needs the same ones; use "
            "--each switch or plane, or a ring"
        )
    found: dict[tuple[Any, ...], FaultRow] = {}
    rows: list[FaultRow] = []
    broken = {fault.subject for fault in always}
    candidates = [fault for fault in each_fault(baseline.network, each) if fault.subject not in broken]
    place_of = _Places(baseline)
    pairs = talking_pairs(baseline.network, workload.blocks, baseline.terminal_of_rank)
    crossed = channels_between(baseline.network, *np.nonzero(pairs))
    for number, fault in enumerate(candidates):
        if progress is not None:
            progress(number, len(candidates))
        if not crossed[touched_channels(baseline.network, fault)].any():
            rows.append(FaultRow(fault, IDLE, baseline_ps))
            continue
        place = place_of(fault)
        if place in found:
            first = found[place]
            rows.append(replace(first, fault=fault, same_as=first.fault))
            continue
        rows.append(found.setdefault(place, _row(fabric, workload, [*always, fault], baseline_ps, options, engine)))
    if progress is not None:
        progress(len(candidates), len(candidates))
    rows.sort(key=lambda row: (row.outcome != UNREACHABLE, -(row.time_ps or 0)))
    simulated = sum(row.outcome == RAN and row.same_as is None for row in rows)
    return FaultSweep(each, baseline, baseline_ps, tuple(rows), simulated, time.perf_counter() - begin_s)


def _row(
    fabric: FabricSpec,
    workload: Workload,
    faults: Sequence[Fault],
    baseline_ps: int,
    options: Mapping[str, Any],
    engine: Mapping[str, Any],
) -> FaultRow:
    fault = faults[-1]
    try:
        run = prepare(fabric, workload, faults=faults, **options)
        result = execute(run, progress=None, started_s=time.perf_counter(), **engine)
    except UnreachableError as error:
        return FaultRow(fault, UNREACHABLE, None, pair=error.pair)
    return FaultRow(fault, RAN, _time_ps(result))


def _time_ps(result: Result) -> int:
    """From the arrival of the last rank to the end of the last one."""
    (operation,) = result.op_rows()
    time_ps: int = operation["time_ps"]
    return time_ps


class _Places:
    """Names the place of a fault, so that faults at one place of planes that are alike have the same name."""

    def __init__(self, baseline: Result) -> None:
        self._network: Network = baseline.network
        # Folded, so every message over planes that are alike uses all of them, with or without the fault.
        folded = baseline.info.folded
        self._class = classes_of_planes(self._network) if folded else np.arange(self._network.num_planes)

    def __call__(self, fault: Fault) -> tuple[Any, ...]:
        channels = self._network.channels
        touched = touched_channels(self._network, fault)
        (plane,) = np.unique(channels.plane[touched]).tolist()
        return int(self._class[plane]), channels.place[touched].tobytes()
