"""Published and measured points: what a machine did, as figures that a simulation can be held against."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

from fabricsim.engine.placement import Placement
from fabricsim.workloads.collectives import IN_NETWORK, MOE_COLLECTIVES, collective
from fabricsim.workloads.schedule import Schedule
from fabricsim.workloads.transfers import batch, fan

_FOLDER = resources.files("fabricsim.results") / "validation"
_FILES = ("nccl.csv", "moe.csv", "published.csv")

#: How many dies a terminal has that do the same side by side; and the first terminal of cloudmatrix384's second node.
DIES_SIDE_BY_SIDE = {"cloudmatrix384": 2}
SECOND_NODE = 8


@dataclass(frozen=True)
class Point:
    """One figure of a machine.

    ``measured`` is in ``unit``: us, or GB/s (``GB/s``: size over time, ``GB/s busbw`` as nccl-tests, ``GB/s per die``
    of one die of a terminal). ``fitted`` tells that the endpoint's numbers were fitted to it. ``tokens`` are those of a
    rank, or the descriptors of a batch; 0 where there are none. ``endpoint`` is that of the fabric that it is run with.
    """

    family: str
    fabric: str
    scenario: str
    ranks: int
    size_bytes: int
    tokens: int
    copy_bytes: int
    measured: float
    unit: str
    fitted: bool
    source: str
    endpoint: str = "fitted"

    @property
    def what(self) -> str:
        """What was measured, in words."""
        return f"{self.family}, {self.ranks} ranks" + (f", {self.tokens} tokens" if self.copy_bytes else "")

    def schedule(self) -> Schedule:
        """Make the workload that stands for it."""
        name, _, rest = self.scenario.partition("_batch_")
        if rest:
            return batch(name, self.size_bytes * DIES_SIDE_BY_SIDE.get(self.fabric, 1), self.tokens)
        if self.scenario == "load":
            return batch("read", self.size_bytes, 1)
        if self.scenario in ("copy", "store", "outcast", "incast"):
            return fan(self.ranks, self.size_bytes, into_root=self.scenario == "incast")
        if self.scenario in MOE_COLLECTIVES:
            return collective(self.scenario, ranks=self.ranks, tokens=self.tokens, copy_bytes=self.copy_bytes)
        op, in_network, _ = self.scenario.partition("_in_network")
        algorithm = IN_NETWORK if in_network else None
        return collective(op, ranks=self.ranks, size=self.size_bytes, algorithm=algorithm)

    @property
    def placement(self) -> Placement | None:
        """The terminals of its ranks where they are not the first ones."""
        return [0, SECOND_NODE] if self.scenario.endswith("_batch_nodes") else None

    def figure(self, time_us: float, size_bytes: int, busbw_GBps: float | None) -> float:
        """Give what was simulated in the unit of the point."""
        if self.unit == "us":
            return time_us
        if self.unit == "GB/s busbw":
            return busbw_GBps or 0.0
        dies = DIES_SIDE_BY_SIDE.get(self.fabric, 1) if self.unit == "GB/s per die" else 1
        return size_bytes / time_us / 1e3 / dies


def load_points() -> list[Point]:
    """Read all points of the package, with the full names of their sources."""
    sources = {
        row["key"]: f"{row['source']} ({row['licence']})" if row["licence"] else row["source"]
        for row in _rows("sources.csv")
    }
    return [
        Point(
            family=row["family"],
            fabric=row["fabric"],
            scenario=row["scenario"],
            ranks=int(row["ranks"]),
            size_bytes=int(row["size_bytes"] or 0),
            tokens=int(row["tokens"] or 0),
            copy_bytes=int(row["copy_bytes"] or 0),
            measured=float(row["measured"]),
            unit=row["unit"],
            fitted=row["fitted"] == "1",
            source=sources[row["source"]],
            endpoint=row.get("endpoint") or "fitted",
        )
        for name in _FILES
        for row in _rows(name)
    ]


def _rows(name: str) -> Iterator[dict[str, str]]:
    lines = (_FOLDER / name).read_text("utf-8").splitlines()
    return csv.DictReader(line for line in lines if not line.startswith("#"))
