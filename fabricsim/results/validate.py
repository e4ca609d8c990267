"""Simulated figures beside measured ones: what ``fabricsim validate`` computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from fabricsim.errors import ConfigError, unknown
from fabricsim.fabrics import FabricSpec, load_fabric
from fabricsim.results.estimate import packet_hops_to_simulate
from fabricsim.results.metrics import PS_PER_US
from fabricsim.results.points import Point, load_points
from fabricsim.results.run import simulate

SCHEMA = "fabricsim.validate/1"

#: A point that needs more packet-hops, those of planes that are folded away left out, is skipped unless all are asked.
MAX_PACKET_HOPS = 20_000_000

#: From what size on the launch is no longer the most of a time, and what is asked of predictions there and below [%].
LARGE_BYTES = 2**20
MEDIAN_PERCENT, WORST_PERCENT, WORST_SMALL_PERCENT = 5.0, 15.0, 25.0


@dataclass(frozen=True)
class Comparison:
    """A point and what was simulated of it, in the point's unit; ``size_bytes`` as nccl-tests defines it."""

    point: Point
    size_bytes: int
    simulated: float

    @property
    def error_percent(self) -> float:
        """How far the simulated figure is above the measured one."""
        return 100 * (self.simulated / self.point.measured - 1)

    def row(self) -> dict[str, Any]:
        """Give the entry of the document."""
        point = self.point
        return {
            "fabric": point.fabric,
            "what": point.what,
            "family": point.family,
            "source": point.source,
            "endpoint": point.endpoint,
            "fitted": point.fitted,
            "size_bytes": self.size_bytes,
            "measured": point.measured,
            "simulated": self.simulated,
            "unit": point.unit,
            "error_percent": self.error_percent,
        }


def validate(
    fabric: str | None = None,
    *,
    everything: bool = False,
    points: Sequence[Point] | None = None,
    kernel: str = "auto",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Simulate the published and measured points of one fabric of the catalog, or of all.

    Parameters
    ----------
    fabric
        A name; ``None`` is every fabric that has points.
    everything
        Simulate points of more than MAX_PACKET_HOPS packet-hops as well.
    points
        In place of those of the package.
    kernel, threads
        As for ``simulate``; they change no figure.
    progress
        Gets how many points are done, and of how many.

    Returns
    -------
    dict
        JSON-ready, of the schema ``fabricsim.validate/1`` (docs/results.md).

    Raises
    ------
    ConfigError
        A fabric without points.
    """
    chosen = load_points() if points is None else list(points)
    names = sorted({point.fabric for point in chosen})
    if fabric is not None:
        if fabric not in names:
            raise ConfigError(unknown("fabric with measured points", fabric, names))
        chosen = [point for point in chosen if point.fabric == fabric]
    specs = {name: load_fabric(name) for name in {point.fabric for point in chosen}}
    compared = []
    for number, point in enumerate(chosen):
        if progress is not None:
            progress(number, len(chosen))
        found = compare(specs[point.fabric], point, everything=everything, kernel=kernel, threads=threads)
        if found is not None:
            compared.append(found)
    if progress is not None:
        progress(len(chosen), len(chosen))
    return {
        "schema": SCHEMA,
        "points": [comparison.row() for comparison in compared],
        "families": families(comparison.row() for comparison in compared),
        "skipped": len(chosen) - len(compared),
    }


def compare(
    spec: FabricSpec, point: Point, *, everything: bool, kernel: str = "auto", threads: int | None = None
) -> Comparison | None:
    """Simulate a point; ``None`` if it takes too many packet-hops and not *everything* is asked for."""
    schedule = point.schedule()
    if not everything and packet_hops_to_simulate(spec, schedule, point.placement) > MAX_PACKET_HOPS:
        return None
    result = simulate(
        spec, schedule, placement=point.placement, endpoint=point.endpoint, kernel=kernel, threads=threads
    )
    (row,) = result.op_rows()
    figure = point.figure(row["time_ps"] / PS_PER_US, row["size_bytes"], row["busbw_GBps"])
    return Comparison(point, row["size_bytes"], figure)


def families(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sum up the rows by fabric and family: errors of the points that nothing was fitted to, large and small apart.

    ``within`` tells whether they are as small as MEDIAN_PERCENT, WORST_PERCENT and WORST_SMALL_PERCENT ask; ``None``
    where all points were fitted.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["fabric"], row["family"]), []).append(row)
    summed = []
    for (fabric, family), members in groups.items():
        predicted = [row for row in members if not row["fitted"]]
        large = [abs(row["error_percent"]) for row in predicted if row["size_bytes"] > LARGE_BYTES]
        small = [abs(row["error_percent"]) for row in predicted if row["size_bytes"] <= LARGE_BYTES]
        fitted = [abs(row["error_percent"]) for row in members if row["fitted"]]
        within = not large or (median(large) <= MEDIAN_PERCENT and max(large) <= WORST_PERCENT)
        within = within and max(small, default=0.0) <= WORST_SMALL_PERCENT
        summed.append(
            {
                "fabric": fabric,
                "family": family,
                "fitted": len(fitted),
                "predicted": len(predicted),
                "fitted_median_percent": median(fitted) if fitted else None,
                "median_percent": median(large) if large else None,
                "worst_percent": max(large, default=None),
                "worst_small_percent": max(small, default=None),
                "within": within if predicted else None,
            }
        )
    return summed
