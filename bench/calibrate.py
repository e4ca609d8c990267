"""Fit the endpoints of the catalog to the fitting half of the points, and write the fit into the fabrics' files.

    python -m bench.calibrate            print the parameters and their residuals
    python -m bench.calibrate --write    and rewrite the TOML files, with a NAME.fit.json beside each

Each fitting point is simulated once without launch latency and protocols. What a protocol adds to that is linear in its
parameters but for the part from which it counts and the gap of descriptors, for which a grid is tried. The sum of the
squares of the relative errors is made least; a parameter that would come out negative is left out. Message overhead and
copy rate of cloudmatrix384 are fitted to reads, and then its copy rate of writes to writes, by Gauss-Newton steps, each
over simulations.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fabricsim.engine.launch import ROUNDS
from fabricsim.fabrics import FabricSpec, load_fabric
from fabricsim.results.points import Point, load_points
from fabricsim.results.run import simulate
from fabricsim.units import parse_bandwidth

CATALOG = Path(__file__).parents[1] / "fabricsim" / "fabrics" / "catalog"
PS_PER_US = 1e6
RATES = ("staging_rate", "part_rate")


@dataclass(frozen=True)
class Fit:
    """What is to be fitted: a protocol for ``operations``, its parameters, and the families of points that show it.

    With several ``least_parts`` two protocols are fitted, below and from one of them on. ``gaps_ns`` are tried as the
    gap of descriptors.
    """

    name: str
    operations: tuple[str, ...]
    families: tuple[str, ...]
    parameters: tuple[str, ...]
    least_parts: tuple[int, ...] = (0,)
    gaps_ns: tuple[int, ...] = (0,)


OF_NCCL = ("launch_latency", "step_latency", "staging_rate", "part_rate", "piece_overhead")
OF_MOE = ("launch_latency", "step_latency", "staging_rate", "part_rate", "descriptor_latency")
NCCL = (
    Fit(
        "exchange",
        ("all_to_all", "all_to_all_v"),
        ("NCCL all_to_all",),
        OF_NCCL,
        least_parts=tuple(2**k for k in range(13, 20)),
    ),
    Fit(
        "ring",
        ("all_gather", "all_gather_v", "reduce_scatter", "reduce_scatter_v", "all_reduce"),
        ("NCCL all_gather", "NCCL reduce_scatter", "NCCL all_reduce"),
        OF_NCCL,
        least_parts=tuple(2**k for k in range(18, 24)),
    ),
)
TWO_SIDED = ("bfloat16", "fp8", "nvfp4")
GB200_MOE = tuple(
    Fit(
        operation,
        (operation,),
        tuple(f"{operation} two-sided {dtype}" for dtype in TWO_SIDED),
        OF_MOE,
        gaps_ns=tuple(range(0, 100, 2)),
    )
    for operation in ("moe_dispatch", "moe_combine")
)
CM384_MOE = tuple(
    Fit(f"moe_{kind}", (f"moe_{kind}",), (f"EP low latency {kind}",), ("launch_latency",))
    for kind in ("dispatch", "combine")
)
FITS = {"nvl72": (*NCCL, *GB200_MOE), "hgx-h100": NCCL, "hgx-b200": NCCL, "cloudmatrix384": CM384_MOE}

#: The fabrics whose message overhead and copy rate are fitted to batches of reads, and the copy rate of an endpoint for
#: writes to batches of these; and by which other fabrics they are shared.
BATCHES = {"cloudmatrix384": ("A3 descriptors read, one node", "A3 descriptors read, two nodes")}
WRITES = {"cloudmatrix384": ("A3 descriptors write, one node", "A3 descriptors write, two nodes")}
WRITE = "write"
SHARED = {"cloudmatrix384": ("cloudmatrix384-mesh", "cloudmatrix384-die")}


@dataclass(frozen=True)
class Sample:
    """A point, its size and descriptors, and its simulated time without what is to be fitted [us]."""

    point: Point
    size_bytes: int
    descriptors: int
    bare_us: float
    copy_us_per_byte: float

    @property
    def part_bytes(self) -> int:
        """Bytes of a part."""
        return self.size_bytes // self.point.ranks

    def factors(self, gap_ns: int) -> tuple[dict[str, float], float]:
        """Give what each parameter is multiplied by (docs/physics.md, section 9), and the time without them [us]."""
        rounds = ROUNDS[self.point.scenario]
        moved_bytes = rounds * (self.size_bytes - self.part_bytes)
        gap_us = max(0.0, self.descriptors * gap_ns / 1e3 - moved_bytes * self.copy_us_per_byte)
        return {
            "launch_latency": 1.0,
            "step_latency": rounds * (self.point.ranks - 1),
            "staging_rate": moved_bytes,
            "part_rate": self.part_bytes,
            # Its square root is what the time is linear in.
            "piece_overhead": 2 * (self.size_bytes * self.copy_us_per_byte) ** 0.5,
            "descriptor_latency": self.descriptors,
        }, self.bare_us + gap_us


@dataclass(frozen=True)
class Solution:
    """Fitted parameters, in us and us per byte, and the relative error of each sample."""

    samples: Sequence[Sample]
    values: Mapping[str, float]
    errors: np.ndarray
    gap_ns: int = 0

    @property
    def loss(self) -> float:
        """The sum of the squares of the relative errors."""
        return float((self.errors**2).sum())


def simulated_us(spec: FabricSpec, point: Point) -> float:
    """Simulate a point."""
    (row,) = simulate(spec, point.schedule(), placement=point.placement, endpoint=point.endpoint).op_rows()
    return float(row["time_ps"]) / PS_PER_US


def with_terminal(spec: FabricSpec, **changes: Any) -> FabricSpec:
    """Give the fabric with other keys of [terminal]; a bare text replaces the value of a quantity."""
    tables = spec.model_dump(exclude_none=True)
    for key, change in changes.items():
        if isinstance(change, str):
            tables["terminal"][key]["value"] = change
        else:
            tables["terminal"][key] = change
    return FabricSpec(**tables)


def samples_of(spec: FabricSpec, points: Iterable[Point]) -> list[Sample]:
    """Simulate points without launch latency and protocols."""
    bare = with_terminal(spec, launch_latency="0 us", protocol={})
    copy_us_per_byte = float(bare.network().endpoint.copy_ps_per_byte) / PS_PER_US
    samples = []
    for point in points:
        (operation,) = point.schedule().operations
        bare_us = simulated_us(bare, point)
        samples.append(Sample(point, operation.size_bytes, operation.descriptors, bare_us, copy_us_per_byte))
    return samples


def solve(samples: Sequence[Sample], parameters: Sequence[str], gap_ns: int = 0) -> Solution:
    """Fit the parameters to samples by least squares of the relative errors; none is negative."""
    measured = np.array([sample.point.measured for sample in samples])
    rows = [sample.factors(gap_ns) for sample in samples]
    target = 1 - np.array([rest for _, rest in rows]) / measured
    free = list(parameters)
    while True:
        matrix = np.array([[factors[name] for name in free] for factors, _ in rows]) / measured[:, None]
        scale = np.abs(matrix).max(axis=0)
        found = np.linalg.lstsq(matrix / scale, target, rcond=None)[0] / scale
        if (found >= 0).all():
            values = dict(zip(free, found.tolist(), strict=True))
            return Solution(samples, values, matrix @ found - target, gap_ns)
        free = [name for name, value in zip(free, found, strict=True) if value > 0]


def fit_protocols(spec: FabricSpec, fit: Fit, points: Sequence[Point]) -> dict[str, tuple[int, Solution]]:
    """Fit one protocol or two; give the least part and the solution of each by its name."""
    samples = samples_of(spec, points)
    if fit.least_parts == (0,):
        solutions = (solve(samples, fit.parameters, gap_ns) for gap_ns in fit.gaps_ns)
        return {fit.name: (0, min(solutions, key=lambda solution: solution.loss))}
    pairs = []
    for least_part in fit.least_parts:
        below = [sample for sample in samples if sample.part_bytes < least_part]
        above = [sample for sample in samples if sample.part_bytes >= least_part]
        pairs.append((least_part, solve(below, fit.parameters), solve(above, fit.parameters)))
    least_part, low, bulk = min(pairs, key=lambda pair: pair[1].loss + pair[2].loss)
    return {fit.name: (0, low), f"{fit.name}_bulk": (least_part, bulk)}


def protocol_table(fit: Fit, least_part: int, solution: Solution) -> dict[str, Any]:
    """Write a fit as a table [terminal.protocol.NAME]."""
    sources = sorted({sample.point.source for sample in solution.samples})
    percent = np.abs(solution.errors) * 100
    of_points = f"{len(percent)} point{'s' * (len(percent) > 1)}"
    note = f"{of_points}: median error {np.median(percent):.1f} %, worst {percent.max():.1f} %."

    def quantity(value: str) -> dict[str, str]:
        source = f"fitted by bench/calibrate.py on {'; '.join(sources)}"
        return {"value": value, "source": source, "evidence": "derived", "note": note}

    table: dict[str, Any] = {"operations": list(fit.operations)}
    if least_part:
        table["least_part"] = quantity(f"{least_part // 1024} KiB")
    for name, value in solution.values.items():
        if name in RATES:
            table[name] = quantity(f"{1e-3 / value:.4g} GB/s")
        else:
            us = value**2 if name == "piece_overhead" else value
            table[name] = quantity(f"{us * 1e3:.4g} ns" if us < 1 else f"{us:.4g} us")
    if solution.gap_ns:
        table["descriptor_gap"] = quantity(f"{solution.gap_ns} ns")
    return table


def least_squares(
    changed: Callable[..., FabricSpec], start: Sequence[float], points: Sequence[Point]
) -> tuple[FabricSpec, np.ndarray]:
    """Fit the values that ``changed`` takes, from a start on; give what it makes of them and the relative errors."""
    measured = np.array([point.measured for point in points])

    def relative(values: np.ndarray) -> np.ndarray:
        return np.array([simulated_us(changed(*values), point) for point in points]) / measured - 1

    values = np.array(start)
    for _ in range(3):
        now = relative(values)
        steps = 1 + 0.1 * np.eye(len(values))
        slopes = np.stack([(relative(values * step) - now) / (values * step - values).sum() for step in steps])
        values = values - np.linalg.lstsq(slopes.T, now, rcond=None)[0]
    return changed(*values), relative(values)


def fit_batches(spec: FabricSpec, points: Sequence[Point]) -> tuple[FabricSpec, np.ndarray]:
    """Fit message overhead and copy rate; give the fabric with them and the relative errors of the points."""

    def changed(overhead_us: float, us_per_byte: float) -> FabricSpec:
        overhead, rate = f"{overhead_us * 1e3:.4g} ns", f"{1e-3 / us_per_byte:.4g} GB/s"
        return with_terminal(spec, message_overhead=overhead, copy_rate=rate)

    return least_squares(changed, [1.0, 3e-6], points)


def fit_writes(spec: FabricSpec, points: Sequence[Point]) -> tuple[FabricSpec, np.ndarray]:
    """Fit the copy rate of the endpoint for writes, with the message overhead of reads."""

    def changed(us_per_byte: float) -> FabricSpec:
        rate = {"value": f"{1e-3 / us_per_byte:.4g} GB/s", "source": "to be fitted", "evidence": "derived"}
        return with_terminal(spec, endpoint={WRITE: {"copy_rate": rate}})

    return least_squares(changed, [3e-6], points)


def main() -> None:
    """Fit all fabrics; print, and write where asked."""
    parser = argparse.ArgumentParser(description="Fit the endpoints of the catalog.")
    parser.add_argument("fabrics", nargs="*", default=list(FITS), help="which (default: all)")
    parser.add_argument("--write", action="store_true", help="write the fits into the catalog")
    args = parser.parse_args()
    points = [point for point in load_points() if point.fitted]
    for name in args.fabrics:
        spec, residuals = calibrate(load_fabric(name), [point for point in points if point.fabric == name])
        for row in spec.quantities():
            if row.source.startswith("fitted by"):
                print(f"{name:<16}{row.key:<55}{row.value:>8} {row.unit:<6}{row.note}")
        if args.write:
            write(spec, residuals)


def calibrate(spec: FabricSpec, points: Sequence[Point]) -> tuple[FabricSpec, list[dict[str, Any]]]:
    """Fit one fabric; give it with the fit, and the residuals."""
    residuals = []

    def keep(name: str, chosen: Iterable[Point], errors: np.ndarray) -> None:
        for point, error in zip(chosen, errors.tolist(), strict=True):
            residuals.append(
                {
                    "fit": name,
                    "what": point.what,
                    "size_bytes": point.size_bytes,
                    "error_percent": round(100 * error, 2),
                }
            )

    batches = [point for point in points if point.family in BATCHES.get(spec.name, ())]
    if batches:
        spec, errors = fit_batches(spec, batches)
        keep("batches", batches, errors)
        provenance = of_batches(batches, errors, "reads", "a request and the part before it")
        terminal = spec.terminal.model_dump(exclude_none=True)
        spec = with_terminal(
            spec, **{key: {"value": terminal[key]["value"], **provenance} for key in ("message_overhead", "copy_rate")}
        )
    writes = [point for point in points if point.family in WRITES.get(spec.name, ())]
    if writes:
        spec, errors = fit_writes(spec, writes)
        keep("writes", writes, errors)
        provenance = of_batches(writes, errors, "writes", "the acknowledgement of the part before it")
        rate = {"value": spec.terminal.endpoint[WRITE].copy_rate.value, **provenance}
        spec = with_terminal(spec, endpoint={WRITE: {"copy_rate": rate}})
    tables = {}
    for fit in FITS[spec.name]:
        chosen = [point for point in points if point.family in fit.families]
        for name, (least_part, solution) in fit_protocols(spec, fit, chosen).items():
            tables[name] = protocol_table(fit, least_part, solution)
            keep(name, [sample.point for sample in solution.samples], solution.errors)
    return with_terminal(spec, protocol=tables), residuals


def of_batches(points: Sequence[Point], errors: np.ndarray, what: str, waits_for: str) -> dict[str, str]:
    """Say where a number that was fitted to batches comes from, and how well it fits."""
    percent = np.abs(errors) * 100
    return {
        "source": f"fitted by bench/calibrate.py on {points[0].source}",
        "evidence": "derived",
        "note": f"{len(points)} batches of {what}, in and across nodes: median error {np.median(percent):.1f} %, "
        f"worst {percent.max():.1f} %. Each part waits for {waits_for}.",
    }


def write(spec: FabricSpec, residuals: list[dict[str, Any]]) -> None:
    """Write a fabric, and those that share its endpoint, into the catalog, with the residuals beside it."""
    (CATALOG / f"{spec.name}.toml").write_text(spec.to_toml(), encoding="utf-8")
    document = {"schema": "fabricsim.fit/1", "fabric": spec.name, "residuals": residuals}
    (CATALOG / f"{spec.name}.fit.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for name in SHARED.get(spec.name, ()):
        other = load_fabric(name)
        terminal = spec.terminal.model_dump(exclude_none=True)
        shared = {key: terminal[key] for key in ("message_overhead", "copy_rate", "endpoint", "protocol")}
        # The terminals of the other may be parts of this one's.
        for table in (shared, *shared["endpoint"].values()):
            rate = float(parse_bandwidth(table["copy_rate"]["value"])) / 1e9 * spec.num_terminals / other.num_terminals
            table["copy_rate"]["value"] = f"{rate:.4g} GB/s"
        (CATALOG / f"{other.name}.toml").write_text(with_terminal(other, **shared).to_toml(), encoding="utf-8")


if __name__ == "__main__":
    main()
