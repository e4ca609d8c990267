"""Fabrics beside each other: the published figures of their machines and a simulated all-to-all, per rack, kW, dollar.

What ``fabricsim fabrics --compare`` computes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from fabricsim.errors import ConfigError
from fabricsim.fabrics import FabricSpec, load_fabric
from fabricsim.fabrics.system_cards import FigureName, SystemCard, card_of
from fabricsim.results.documents import card_document, figure_document
from fabricsim.results.metrics import PS_PER_US
from fabricsim.results.result import Result
from fabricsim.results.run import simulate
from fabricsim.results.versions import package_version
from fabricsim.units import parse_bytes
from fabricsim.workloads.collectives import collective

SCHEMA = "fabricsim.systems/1"
#: Large enough that no fabric's launch latency is most of the time.
DEFAULT_SIZE = "64MiB"
OP = "all_to_all"
KUSD_PER_MUSD = 1_000


def compare_fabrics(
    fabrics: Sequence[FabricSpec | str | os.PathLike[str]],
    *,
    size: str = DEFAULT_SIZE,
    kernel: str = "auto",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Set fabrics side by side: published figures of the machines, and an all-to-all of all terminals, simulated here.

    Parameters
    ----------
    fabrics
        Two or more, from ``load_fabric``; a name or a path is loaded.
    size
        Send buffer of a terminal, as nccl-tests defines it, for instance ``"64MiB"``.
    kernel, threads
        As for ``simulate``; they change no figure.
    progress
        Called with how many of how many runs are done: before each, and after the last.

    Returns
    -------
    dict
        JSON-ready, of the schema ``fabricsim.systems/1`` (docs/results.md).

    Raises
    ------
    ConfigError
        An unknown fabric, fewer than two, or one given twice; a size that is none, or too small.
    """
    asked_bytes = parse_bytes(size)
    specs = [fabric if isinstance(fabric, FabricSpec) else load_fabric(fabric) for fabric in fabrics]
    if len(specs) < 2:
        raise ConfigError(f"a comparison takes two fabrics or more, and this one has {len(specs)}; name another one")
    if twice := [spec.name for place, spec in enumerate(specs) if spec.spec_sha256 in _hashes(specs[:place])]:
        raise ConfigError(f"{twice[0]} is given twice; each fabric of a comparison stands in it once")
    workloads = [collective(OP, size=size, ranks=spec.num_terminals) for spec in specs]
    systems = []
    for number, (spec, workload) in enumerate(zip(specs, workloads, strict=True)):
        if progress is not None:
            progress(number, len(specs))
        systems.append(_entry(spec, simulate(spec, workload, kernel=kernel, threads=threads)))
    if progress is not None:
        progress(len(specs), len(specs))
    return {
        "schema": SCHEMA,
        "fabricsim_version": package_version(),
        "op": OP,
        "asked_size_bytes": asked_bytes,
        "systems": systems,
    }


def _hashes(specs: Sequence[FabricSpec]) -> set[str]:
    return {spec.spec_sha256 for spec in specs}


def _entry(spec: FabricSpec, result: Result) -> dict[str, Any]:
    """Give what the document has of one fabric."""
    card = card_of(spec)
    return {
        "fabric": spec.name,
        "title": spec.title,
        "terminals": spec.num_terminals,
        "spec_sha256": spec.spec_sha256,
        "overrides": dict(spec.overrides),
        "card": None if card is None else card_document(card),
        "simulated": _simulated(spec, card, result),
    }


def _simulated(spec: FabricSpec, card: SystemCard | None, result: Result) -> dict[str, Any]:
    """Give the run's figures, and those of the whole machine over figures of its card.

    An accelerator is a terminal, or a package of terminals where the fabric has packages.
    """
    (row,) = result.op_rows()
    total_GBps = row["busbw_GBps"] * row["ranks"]

    def per(name: FigureName, unit: float = 1) -> dict[str, float] | None:
        figure = None if card is None else figure_document(card.figures.get(name))
        if figure is None:
            return None
        return {"low": total_GBps / (figure["high"] * unit), "high": total_GBps / (figure["low"] * unit)}

    return {
        "algorithm": row["algorithm"],
        "ranks": row["ranks"],
        "size_bytes": row["size_bytes"],
        "endpoint": result.info.endpoint,
        "seed": result.info.seed,
        "kernel": result.record.kernel,
        "digest": result.digest,
        "time_us": row["time_ps"] / PS_PER_US,
        "efficiency": row["efficiency"],
        "busbw_GBps": row["busbw_GBps"],
        "GBps_per_accelerator": row["busbw_GBps"] * (1 if spec.package is None else spec.package.terminals.exact),
        "total_GBps": total_GBps,
        "GBps_per_rack": per("racks"),
        "GBps_per_kW": per("power_kW"),
        "GBps_per_kUSD": per("price_MUSD", KUSD_PER_MUSD),
    }
