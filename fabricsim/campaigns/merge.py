"""All results of a plan as one table, which does not depend on who made them, when or where."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fabricsim.campaigns.plan import Case, Plan
from fabricsim.campaigns.run import in_a_line
from fabricsim.campaigns.store import Store
from fabricsim.errors import ConfigError, IncompleteError, unknown
from fabricsim.files import whole_file

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".parquet", ".arrow", ".csv")
#: Of the cases without a result so many are named.
MAX_NAMED = 5
#: Percentiles of latencies, and what is told of each channel class.
LATENCIES = ("p50", "p99", "max")
UTILIZATIONS = ("mean", "max")


def merge(plan: Plan, path: str | os.PathLike[str], *, run_info: bool = False) -> int:
    """Write a row for each case, in their order, into one file, and return how many rows that are.

    Parameters
    ----------
    plan
        All of its cases must have a valid result.
    path
        Whose suffix names the format: ``.parquet``, ``.arrow`` (the file format of Arrow IPC) or ``.csv``.
    run_info
        Adds who computed: ``host``, ``kernel``, ``threads``, ``wall_s``. Without these the file is the same, byte for
        byte, however the cases were run.

    Raises
    ------
    IncompleteError
        Cases without a valid result; it names the first of them, and nothing is written.
    ConfigError
        Another suffix, or a file that cannot be written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: {unknown('suffix', path.suffix, SUFFIXES)}")
    store = Store(plan)
    results: list[Mapping[str, Any]] = []
    holes: list[Case] = []
    for case in plan.cases:
        document = store.result(case)
        if document is None:
            holes.append(case)
        else:
            results.append(document)
    if holes:
        raise _incomplete(plan, store, holes)
    _write(_table(plan, results, run_info=run_info), path)
    return len(results)


def _incomplete(plan: Plan, store: Store, holes: Sequence[Case]) -> IncompleteError:
    """Name cases without a result, and say how to get them."""
    named = []
    for case in holes[:MAX_NAMED]:
        failure = store.failure(case)
        reason = "is there, but damaged" if store.result_path(case).exists() else "is missing"
        named.append(f"\n  index {case.index} ({case.case}) {reason if failure is None else in_a_line(failure)}")
    more = f"\n  and {len(holes) - MAX_NAMED} more" if len(holes) > MAX_NAMED else ""
    return IncompleteError(
        f"{plan.folder}: {len(holes)} of {len(plan.cases)} cases have no valid result:{''.join(named)}{more}\n"
        f"run fabricsim campaign run {plan.folder}, then merge again"
    )


def _table(plan: Plan, results: Sequence[Mapping[str, Any]], *, run_info: bool) -> pa.Table:
    import pyarrow as pa

    settings = list(dict.fromkeys(key for case in plan.cases for key in case.overrides))
    classes = list(dict.fromkeys(name for document in results for name in document["result"]["utilization"]))
    fields = {
        **dict.fromkeys(("case",), pa.string()),
        "index": pa.int64(),
        **dict.fromkeys(("fabric", "collective", "algorithm"), pa.string()),
        **dict.fromkeys(("size_bytes", "tokens"), pa.int64()),
        "skew": pa.float64(),
        "ranks": pa.int64(),
        **dict.fromkeys(("routing", "packet", "endpoint", "placement", "faults"), pa.string()),
        "seed": pa.int64(),
        **{f"set.{key}": pa.string() for key in settings},
        "digest": pa.string(),
        **dict.fromkeys(("time_us", "algbw_GBps", "busbw_GBps", "lower_bound_us", "efficiency"), pa.float64()),
        **dict.fromkeys(("packets", "packet_hops"), pa.int64()),
        **{f"{kind}_latency_{name}_us": pa.float64() for kind in ("message", "packet") for name in LATENCIES},
        **{f"utilization.{kind}.{name}": pa.float64() for kind in classes for name in UTILIZATIONS},
    }
    if run_info:
        fields |= {"host": pa.string(), "kernel": pa.string(), "threads": pa.int64(), "wall_s": pa.float64()}
    rows = [_row(case, document, run_info) for case, document in zip(plan.cases, results, strict=True)]
    return pa.Table.from_pylist(rows, pa.schema(fields))


def _row(case: Case, document: Mapping[str, Any], run_info: bool) -> dict[str, Any]:
    result = document["result"]
    (op,) = result["ops"]
    fabric = result["fabric"]
    row = {
        "case": case.case,
        "index": case.index,
        "fabric": case.fabric,
        "collective": case.collective,
        **{key: op[key] for key in ("algorithm", "size_bytes", "ranks")},
        "tokens": case.tokens,
        "skew": case.skew,
        "routing": fabric["routing"],
        "packet": fabric["packet"]["name"],
        "endpoint": fabric["endpoint"],
        "placement": result["workload"]["placement"],
        "faults": " ".join(fabric["faults"]),
        "seed": result["seed"],
        **{f"set.{key}": value for key, value in case.overrides.items()},
        "digest": result["digest"],
        **{key: op[key] for key in ("time_us", "algbw_GBps", "busbw_GBps", "lower_bound_us", "efficiency")},
        **{key: result[key] for key in ("packets", "packet_hops")},
    }
    for kind in ("message", "packet"):
        row |= {f"{kind}_latency_{name}_us": result["latency_us"][kind][name] for name in LATENCIES}
    for kind, used in result["utilization"].items():
        row |= {f"utilization.{kind}.{name}": used[name] for name in UTILIZATIONS}
    if run_info:
        row |= {"host": document["host"], **{key: result[key] for key in ("kernel", "threads", "wall_s")}}
    return row


def _write(table: pa.Table, path: Path) -> None:
    with whole_file(path) as sink:
        if path.suffix == ".parquet":
            from pyarrow.parquet import write_table

            write_table(table, sink)
        elif path.suffix == ".csv":
            from pyarrow.csv import write_csv

            write_csv(table, sink)
        else:
            from pyarrow.ipc import new_file

            with new_file(sink, table.schema) as writer:
                writer.write_table(table)
