"""One HTML page of the results in a folder of ``-o``: it needs no network, no server and no other file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from fabricsim.errors import ConfigError, TraceError
from fabricsim.fabrics.system_cards import FIGURE_LABELS
from fabricsim.files import STDOUT, whole_file
from fabricsim.results.extras import needed_from
from fabricsim.results.over_time import classes_over_time
from fabricsim.results.stored import RESUME, Stored, find_results, unfinished
from fabricsim.results.versions import package_version
from fabricsim.units import format_bytes, format_number, format_time, format_us

#: Of more results only so many are drawn, which keeps a page below MAX_BYTES; all are in its list.
MAX_RESULTS = 6
MAX_BYTES = 6_000_000
#: Rows of the table of operations.
MAX_OPERATIONS = 30
#: Of a longer setting of a fabric, such as a list, the first characters are shown.
MAX_SETTING = 500

#: Columns of ``ops`` that a page needs, beside those of the attribution.
_OPS = (
    "operation", "name", "op", "algorithm", "ranks", "size_bytes", "begin_ps", "time_ps", "algbw_GBps", "busbw_GBps",
    "lower_bound_ps", "efficiency", "recorded_ps",
)  # fmt: skip
#: Those that an operation has whatever it runs on.
_SAME = ("operation", "name", "op", "ranks", "size_bytes")


def write_report(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> str:
    """Make the page of the results in *folder* and write it to *path*, whole or not at all.

    Returns
    -------
    str
        A sentence: the path, its size, how many results are in it, and which are not complete.

    Raises
    ------
    ConfigError
        No complete result in the folder, or more of them than fit on a page; a library of the extra ``report`` is
        missing, or *path* cannot be written.
    TraceError
        A file of a result is damaged, or lacks what a page shows.
    """
    if os.fspath(path) == STDOUT:
        raise ConfigError("a report is a file, and does not go to standard output; give its name, such as report.html")
    found = find_results(folder)
    with needed_from("report", "the report"):
        import bokeh.embed  # noqa: F401  (all that the page needs, before any work is done)
        import jinja2  # noqa: F401
    left_out = unfinished(folder)
    page = _page_that_fits(found, left_out)
    with whole_file(path) as sink:
        sink.write(page)
    written = f"{os.fspath(path)}: {len(page) / 1e6:.1f} MB, {len(found)} result{'s' * (len(found) != 1)}"
    return f"{written}; not complete, and left out: {', '.join(left_out)}: {RESUME}" if left_out else written


def _page_that_fits(found: Sequence[Stored], not_complete: Sequence[str]) -> bytes:
    """Make a page of no more than MAX_BYTES; of what is on it the cells of heat maps have no other bound."""
    from fabricsim.results.report_data import MAX_CELLS

    for cells in (MAX_CELLS, MAX_CELLS // 4, 0):
        page = _page(found, not_complete, cells).encode()
        if len(page) <= MAX_BYTES:
            return page
    raise ConfigError(
        f"the page would have {len(page) / 1e6:.1f} MB even without heat maps, over {MAX_BYTES / 1e6:g} MB; give the "
        f"folder of one result, such as {found[0].folder}"
    )


def _page(found: Sequence[Stored], not_complete: Sequence[str], most_cells: int) -> str:
    from bokeh.embed import components
    from bokeh.resources import Resources
    from jinja2 import Environment, StrictUndefined

    charts: dict[str, Any] = {}
    drawn = found[:MAX_RESULTS]
    results = [_result(stored, number, len(drawn)) for number, stored in enumerate(drawn)]
    _draw(results, charts)
    joint = _joint(drawn, results, charts, most_cells // len(drawn))
    script, places = components(charts)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "number": format_number,
        "percent": _percent,
        "share": _share,
        "setting": _setting,
        "us": format_us,
        "bytes": format_bytes,
        "time": format_time,
    }
    template = (resources.files("fabricsim.results") / "report.html.jinja").read_text("utf-8")
    library = Resources(mode="inline", components=["bokeh"])
    return environment.from_string(template).render(
        version=package_version(),
        title=_title(found),
        results=results,
        everything=[_line(stored) for stored in found],
        left_out=[stored.name for stored in found[MAX_RESULTS:]],
        unfinished=not_complete,
        resume=RESUME,
        joint=joint,
        charts=places,
        library=library.js_raw,
        script=script,
    )


def _title(found: Sequence[Stored]) -> str:
    """Say what ran: a trace, a collective, or what they have in common."""
    workloads = [stored.summary["workload"] for stored in found]
    first = workloads[0]

    def agree(*keys: str) -> bool:
        return all(one.get(key) == first.get(key) for one in workloads for key in keys)

    if "trace" in first and agree("kind", "trace"):
        return f"Replay of {os.path.basename(first['trace'])}"
    if first["kind"] == "collective" and agree("kind", "collective", "ranks"):
        sizes = sorted({stored.summary["ops"][0]["size_bytes"] for stored in found})
        span = format_bytes(sizes[0]) + (f" to {format_bytes(sizes[-1])}" if len(sizes) > 1 else "")
        return f"{first['collective']} of {span} over {first['ranks']:,} ranks"
    if agree("kind", "collective", "trace", "operations", "ranks", "message_bytes"):
        return f"{first['operations']:,} operations over {first['ranks']:,} ranks"
    return f"{len(found)} results"


def _line(stored: Stored) -> dict[str, Any]:
    """Give what stands at the top of the page, and in the list of all results."""
    summary = stored.summary
    try:
        cause, sentence = summary["bottleneck"]["cause"], summary["bottleneck"]["sentence"]
        summary["attribution"], summary["hottest_channels"]
    except KeyError as error:
        raise TraceError(
            f"{stored.folder}: its summary.json lacks {error.args[0]}, as fabricsim {summary['fabricsim_version']} "
            "wrote it; run again with this version"
        ) from None
    times_us = [(op["time_us"], op["lower_bound_us"]) for op in summary["ops"] if op["lower_bound_us"]]
    taken_us, bound_us = (sum(column) for column in zip(*times_us, strict=True)) if times_us else (0.0, 0.0)
    return {
        "name": stored.name,
        "fabric": summary["fabric"]["name"],
        "time": format_time(summary["simulated_time_ps"]),
        "taken_us": taken_us,
        "bound_us": bound_us,
        "efficiency": bound_us / taken_us if taken_us else None,
        "bounded": len(times_us),
        "cause": cause.replace("_", " "),
        "sentence": sentence,
        "summary": summary,
    }


def _result(stored: Stored, number: int, share: int) -> dict[str, Any]:
    """Prepare what the page says of one result, which is one of *share*."""
    from fabricsim.results import report_charts, report_data

    keys = list(_line(stored)["summary"]["attribution"]["ps"])
    table = stored.table("ops", [*_OPS, *(f"{key}_ps" for key in keys)])
    ops = {name: table[name].to_pylist() for name in table.column_names}
    bars = report_data.bars_of(stored, ops, report_data.MAX_BARS // share)
    channels = stored.table("channels", ("channel_class", "dead"))
    classes = classes_over_time(stored.table("timeline"), channels)
    return {
        **_line(stored),
        "fabric_document": stored.fabric,
        "keys": [(key.replace("_", " "), report_charts.color(place)) for place, key in enumerate(keys)],
        "shares": report_data.shares_of(stored, ops),
        "bars": bars,
        "bar_names": [(name, report_charts.color(place)) for place, name in enumerate(bars.names)],
        "over_time": classes,
        "classes": [(row.name, report_charts.color(place)) for place, row in enumerate(classes)],
        "color": report_charts.color(number),
        "ops": ops,
    }


def _draw(results: Sequence[Mapping[str, Any]], charts: dict[str, Any]) -> None:
    """Put the charts of each result with the others; those of one workload have the same axes."""
    from fabricsim.results import report_charts

    alike: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for result in results:
        alike.setdefault(_workload(result), []).append(result)
    for number, result in enumerate(results):
        group = alike[_workload(result)]
        end_us = max(one["bars"].end_us for one in group)
        charts[f"shares{number}"] = report_charts.shares_chart(result["shares"], list(result["shares"][0].percent))
        charts[f"bars{number}"] = report_charts.bars_chart(result["bars"], end_us)
        for what in ("utilization", "peak_occupancy_bytes"):
            most = max(
                (float(getattr(row, what).max(initial=0)) for one in group for row in one["over_time"]), default=0
            )
            charts[f"{what}{number}"] = report_charts.over_time_chart(result["over_time"], what, end_us, most)


def _workload(result: Mapping[str, Any]) -> tuple[Any, ...]:
    """Tell results of one workload from others: its operations."""
    ops = result["ops"]
    return tuple(tuple(ops[name]) for name in _SAME)


def _joint(
    found: Sequence[Stored], results: Sequence[dict[str, Any]], charts: dict[str, Any], most_cells: int
) -> dict[str, Any]:
    """Prepare what stands on the page of several results at once."""
    from fabricsim.results import report_charts, report_data

    all_heats = [report_data.heats_of(stored, most_cells) for stored in found]
    brightest = [used for heats, _ in all_heats for heat in heats for used in heat.busiest if used == used]
    most = max(brightest, default=0.0)
    for number, (result, (heats, skipped)) in enumerate(zip(results, all_heats, strict=True)):
        for place, heat in enumerate(heats):
            charts[f"heat{number}_{place}"] = report_charts.heat_chart(heat, most)
        result["heats"] = [(heat.tier, len(heat.name), f"heat{number}_{place}") for place, heat in enumerate(heats)]
        result["heats_left_out"] = skipped
    latencies = [report_data.latencies_of(stored) for stored in found]
    charts["latency"] = report_charts.latency_chart(latencies)
    groups, rows, left_out = _operations(results)
    return {
        "groups": groups,
        "operations": rows,
        "operations_left_out": left_out,
        "recorded": any(row["recorded_ps"] is not None for row in rows),
        "latency_left_out": [row.left_out for row in latencies if row.left_out],
        "figures": _figures(results),
        "most": most,
        "scale": report_charts.SCALE,
        "dead": report_charts.DEAD,
        "fabrics": list(
            {result["fabric_document"]["spec_sha256"]: result["fabric_document"] for result in results}.values()
        ),
    }


def _operations(results: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[dict[str, Any]], int]:
    """Give the results that have columns of their own, the operations that took longest, and how many others there are.

    They stand in order of time, which is that of the first result that has them. Results of one workload stand side by
    side, a column group each. Where they share no operation, as sizes of a sweep do, the group has no name, and the
    rows have the names of the results.
    """
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for result in results:
        ops = result["ops"]
        for place in range(len(ops["operation"])):
            row = {name: ops[name][place] for name in _OPS}
            key = tuple(row[name] for name in _SAME)
            rows.setdefault(key, {**row, "by_result": {}})["by_result"][result["name"]] = row
    in_order = sorted(rows.values(), key=lambda row: row["begin_ps"])
    times_ps = [max(one["time_ps"] for one in row["by_result"].values()) for row in in_order]
    longest = sorted(range(len(in_order)), key=lambda number: -times_ps[number])[:MAX_OPERATIONS]
    found = [in_order[number] for number in sorted(longest)]
    left_out = len(in_order) - len(found)
    if len(results) == 1 or any(len(row["by_result"]) > 1 for row in found):
        return [result["name"] for result in results], found, left_out
    own = [{**row, "result": name, "by_result": {"": row}} for row in found for name in row["by_result"]]
    return [""], own, left_out


def _figures(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Join the system cards: a row for each figure that at least one of them has."""
    cards = [result["fabric_document"]["card"] for result in results]
    if not any(cards):
        return []
    return [
        {"name": label, "cells": [None if card is None else card["figures"][name] for card in cards]}
        for name, label in FIGURE_LABELS.items()
    ]


def _setting(value: str | list[Any]) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= MAX_SETTING else f"{text[:MAX_SETTING]}…"


def _percent(fraction: float | None) -> str:
    return _share(fraction) + ("" if fraction is None else " %")


def _share(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"
