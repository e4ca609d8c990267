"""Where the time moved between two results of one workload: by part, operation, rank and class of channels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fabricsim.errors import ConfigError
from fabricsim.results.attribution import KEYS
from fabricsim.results.metrics import PS_PER_US
from fabricsim.results.result import SCHEMA as RESULT_SCHEMA
from fabricsim.results.stored import find_results, read_json
from fabricsim.results.versions import package_version

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = "fabricsim.compare/1"

#: What makes an operation the same in both results.
_OPERATION = ("name", "op", "ranks", "size_bytes")

#: What may differ between the runs.
_SETTINGS = (
    "fabric",
    "algorithms",
    "mode",
    "endpoint",
    "routing",
    "placement",
    "packet",
    "virtual_channels",
    "arbitration",
    "seed",
    "overrides",
    "faults",
)


def compare(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> dict[str, Any]:
    """Compare two results of one workload.

    Parameters
    ----------
    a, b
        Folders that ``-o`` or ``Result.write`` wrote, or JSON summaries. Ranks are compared where both are folders.

    Returns
    -------
    dict
        A document of the schema ``fabricsim.compare/1`` (docs/results.md), ready for JSON: changes are b less a.

    Raises
    ------
    ConfigError
        No result is there, or the two are not of one workload.
    TraceError
        A file is damaged.
    """
    (one, tasks_a), (other, tasks_b) = (_open(Path(path)) for path in (a, b))
    _refuse_others(one, other, a, b)
    about_a, about_b = _about(one, a), _about(other, b)
    a_us, b_us = one["simulated_time_ps"] / PS_PER_US, other["simulated_time_ps"] / PS_PER_US
    return {
        "schema": SCHEMA,
        "fabricsim_version": package_version(),
        "a": about_a,
        "b": about_b,
        "differ": [name for name in _SETTINGS if about_a[name] != about_b[name]],
        "same_times": one["digest"] == other["digest"],
        "time_us": _change(a_us, b_us),
        "attribution_us": {
            key: _change(*(summary["attribution"]["ps"][key] / PS_PER_US for summary in (one, other))) for key in KEYS
        },
        "ops": [_operation(number, rows) for number, rows in enumerate(zip(one["ops"], other["ops"], strict=True))],
        "ranks": _ranks(tasks_a, tasks_b),
        "utilization": {
            name: {"a": one["utilization"].get(name), "b": other["utilization"].get(name)}
            for name in dict.fromkeys([*one["utilization"], *other["utilization"]])
        },
    }


def _open(path: Path) -> tuple[Mapping[str, Any], pa.Table | None]:
    """Read the summary of a result, and the tasks beside it; ``None`` for these where it is only a summary."""
    if not path.exists():
        raise ConfigError(f"there is no result {path}: give a folder that -o wrote, or a JSON summary")
    stored = None
    if path.is_dir():
        stored, *others = find_results(path)
        if others:
            names = ", ".join(one.name for one in (stored, *others))
            raise ConfigError(f"folder {path} holds several results ({names}): name one, as {stored.folder}")
    summary = read_json(path) if stored is None else stored.summary
    if isinstance(summary.get("results"), list):
        raise ConfigError(f"{path} holds {len(summary['results'])} results: write each with -o, and name two of them")
    if summary.get("schema") != RESULT_SCHEMA:
        raise ConfigError(f"{path} is no result of a run (schema {summary.get('schema')!r}, not {RESULT_SCHEMA!r})")
    if "attribution" not in summary:
        raise ConfigError(
            f"{path} was written by fabricsim {summary['fabricsim_version']}, which did not yet say where the time "
            "goes; run it again"
        )
    return summary, None if stored is None else stored.table("tasks", ["rank", "begin_ps", "end_ps"])


def _refuse_others(
    one: Mapping[str, Any], other: Mapping[str, Any], path_a: str | os.PathLike[str], path_b: str | os.PathLike[str]
) -> None:
    """Refuse results that are not of one workload: there is no saying what a difference would come from."""
    a, b = one["workload"], other["workload"]

    def refuse(what: str, in_a: object, in_b: object) -> None:
        raise ConfigError(
            f"{path_a} and {path_b} are not of one workload: {what}, {in_a} and {in_b}; compare runs of the same "
            "operations, ranks and bytes"
        )

    for key in ("ranks", "operations"):
        if a[key] != b[key]:
            refuse(f"they differ in their number of {key}", f"{a[key]:,}", f"{b[key]:,}")
    same_algorithms = True
    for number, (mine, others) in enumerate(zip(one["ops"], other["ops"], strict=True)):
        for key in _OPERATION:
            if mine[key] != others[key]:
                refuse(f"operation {number} differs in its {key}", mine[key], others[key])
        same_algorithms &= mine["algorithm"] == others["algorithm"]
    if same_algorithms:  # another algorithm moves the same in other messages
        for key in ("messages", "message_bytes"):
            if a[key] != b[key]:
                refuse(f"they differ in {key.replace('_', ' ')}", f"{a[key]:,}", f"{b[key]:,}")


def _about(summary: Mapping[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    fabric = summary["fabric"]
    return {
        "path": os.fspath(path),
        "command": summary["command"],
        "fabric": fabric["name"],
        "algorithms": sorted({row["algorithm"] for row in summary["ops"]} - {""}),
        "mode": summary["workload"].get("mode"),
        "endpoint": fabric["endpoint"],
        "routing": fabric["routing"],
        "placement": summary["workload"]["placement"],
        "packet": fabric["packet"]["name"],
        "virtual_channels": fabric["virtual_channels"],
        "arbitration": fabric["arbitration"],
        "seed": summary["seed"],
        "overrides": fabric["overrides"],
        "faults": fabric["faults"],
        "digest": summary["digest"],
        "efficiency": summary["efficiency"],
        "bottleneck": summary["bottleneck"],
    }


def _change(a: float, b: float) -> dict[str, float]:
    return {"a": a, "b": b, "change": b - a}


def _operation(number: int, rows: tuple[Mapping[str, Any], Mapping[str, Any]]) -> dict[str, Any]:
    a, b = rows
    return {
        "operation": number,
        **{key: a[key] for key in _OPERATION},
        "algorithm": {"a": a["algorithm"], "b": b["algorithm"]},
        "time_us": _change(a["time_us"], b["time_us"]),
        "attribution_us": {key: _change(a["attribution_us"][key], b["attribution_us"][key]) for key in KEYS},
    }


def _ranks(a: pa.Table | None, b: pa.Table | None) -> list[dict[str, Any]] | None:
    """Compare for how long each rank was in operations, and when it ended its last."""
    if a is None or b is None:
        return None
    sums = [_rank_sums(table) for table in (a, b)]
    count = max(len(end_us) for _, end_us in sums)
    (in_a, end_a), (in_b, end_b) = (
        tuple(np.pad(column, (0, count - len(column))).tolist() for column in columns) for columns in sums
    )
    return [
        {
            "rank": rank,
            "in_operations_us": _change(in_a[rank], in_b[rank]),
            "end_us": _change(end_a[rank], end_b[rank]),
        }
        for rank in range(count)
    ]


def _rank_sums(table: pa.Table) -> Sequence[Any]:
    rank, begin_ps, end_ps = (table[name].to_numpy() for name in ("rank", "begin_ps", "end_ps"))
    in_operations_ps, last_ps = np.zeros((2, int(rank.max(initial=-1)) + 1), np.int64)
    np.add.at(in_operations_ps, rank, end_ps - begin_ps)
    np.maximum.at(last_ps, rank, end_ps)
    return in_operations_ps / PS_PER_US, last_ps / PS_PER_US
