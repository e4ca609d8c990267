"""What the command line prints: tables that fit 80 columns, in colour on a terminal only.

Every function here gives the text of one answer; ``show`` writes it to standard output. rich honours NO_COLOR and the
width of the terminal; without a terminal the width is 80 columns.
"""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fabricsim.errors import ConfigError
from fabricsim.fabrics.spec import UNLIMITED
from fabricsim.fabrics.system_cards import FIGURE_LABELS
from fabricsim.files import STDOUT as STDOUT
from fabricsim.files import whole_file
from fabricsim.results.documents import json_bytes
from fabricsim.units import format_bytes, format_number, format_time, format_us

if TYPE_CHECKING:
    from fabricsim.results.estimate import Estimate
    from fabricsim.results.fault_sweep import FaultRow, FaultSweep
    from fabricsim.results.result import Result

PS_PER_NS = 1_000
PS_PER_S = 10**12

#: Replays of more operations show this many; the JSON document has them all.
MAX_ROWS = 40
#: Of longer lists of facts, such as the files that a trace was made from, this many are shown.
_MAX_ENTRIES = 8
#: A profiler's kernel names are longer than a table is wide.
_MAX_NAME = 20
_MAX_HASH = 16
#: Parts of the critical path below this are not shown [%].
_LEAST_PERCENT = 0.1
#: Of operations and ranks whose time moved between two results, this many are shown.
_MAX_MOVED = 10
#: Of the hottest channels this many are shown.
_MAX_HOTTEST = 3
#: Of faults that end alike, and of planes, this many are named.
_MAX_NAMES = 3

_WHERE_FROM = "fabricsim fabrics NAME says where every number of a fabric is from."


def answer(
    document: Mapping[str, Any], lay_out: Callable[[Mapping[str, Any]], RenderableType], json_target: str | None
) -> None:
    """Give a document to people, or as JSON to a file beside that, or to standard output instead of it."""
    check_json_target(json_target)
    if json_target != STDOUT:
        show(lay_out(document))
    if json_target is not None:
        write_json(document, json_target)


def show(content: RenderableType) -> None:
    """Write text and tables to standard output."""
    console = _console()
    with console.capture() as captured:
        console.print(content)
    lines = [line.rstrip() for line in captured.get().split("\n")]
    sys.stdout.write("\n".join(lines))
    sys.stdout.flush()


def check_json_target(target: str | None) -> None:
    """Refuse a ``--json`` target that could not be written, before the run rather than after it."""
    if target is None or target == STDOUT:
        return
    path = Path(target)
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else f"cannot be made, there is no folder {path.parent}"
        raise ConfigError(f"--json {target}: the file {what}; give the name of a file in an existing folder, or -")


def write_json(document: Mapping[str, Any], target: str) -> None:
    """Write a JSON document to a file, whole or not at all, or to standard output (``-``)."""
    content = json_bytes(document)
    if target == STDOUT:
        sys.stdout.write(content.decode())
        sys.stdout.flush()
        return
    with whole_file(target) as sink:
        sink.write(content)


def run_answer(results: Sequence[Result]) -> RenderableType:
    """Lay out runs of one collective at several sizes like nccl-tests, each beside its lower bound."""
    first = results[0]
    operation = next(first.op_rows())
    table = _table(
        ("size", "B"), ("time", "us"), ("algbw", "GB/s"), ("busbw", "GB/s"), ("lower bound", "us"), ("efficiency", "%")
    )
    for result in results:
        for row in result.op_rows():
            table.add_row(
                f"{row['size_bytes']:,}",
                format_us(row["time_ps"]),
                format_number(row["algbw_GBps"]),
                format_number(row["busbw_GBps"]),
                format_us(row["lower_bound_ps"]),
                _percent(row["efficiency"]),
            )
    return _apart(
        Text(
            f"{operation['op']} ({operation['algorithm']}) over {operation['ranks']} ranks on {_fabric(first)}\n"
            f"{_settings(first)}\n"
            f"kernel {first.record.kernel} ({first.record.kernel_reason}), seed {first.info.seed}\n"
            + "\n".join(dict.fromkeys(map(_folding, results)))
        ),
        table,
        Text(_last_size(results) + _verdict(results[-1])),
    )


def _last_size(results: Sequence[Result]) -> str:
    """Name the size that the verdict is on, where there are several."""
    if len(results) == 1:
        return ""
    size_bytes = next(results[-1].op_rows())["size_bytes"]
    return f"of {size_bytes:,} B: "


def replay_answer(results: Sequence[Result]) -> RenderableType:
    """Lay out one trace on several fabrics: what holds it back, each operation, then latencies and channels."""
    parts: list[RenderableType] = [Group(_replay_header(results[0]), *(_run_header(result) for result in results))]
    parts += _side_by_side(results, _operations)
    parts += [_notes(results[0]), _latencies(results), _utilizations(results), _hottest(results)]
    return _apart(*parts)


def faults_answer(sweep: FaultSweep) -> RenderableType:
    """Lay out what single faults do, worst first; faults that end alike share a row and are all counted there."""
    baseline = sweep.baseline
    operation = next(baseline.op_rows())
    table = _table(("slowdown", ""), ("time", "us"), ("faults", ""), ("fault", "", "left"))
    for rows in _alike(sweep):
        first = rows[0]
        slowdown = sweep.slowdown(first)
        if slowdown is None:
            assert first.pair is not None
            cells = ("-", f"no way from {first.pair[0]} to {first.pair[1]}")
        elif first.outcome == "no_effect":
            cells = ("1.000", "no packet comes there")
        else:
            cells = (f"{slowdown:.3f}", format_us(first.time_ps))
        names = [row.fault.text for row in rows]
        table.add_row(
            *cells, str(len(rows)), ", ".join(names[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")
        )
    stand_in = sum(row.same_as is not None for row in sweep.rows)
    return _apart(
        Text(
            f"{operation['op']} ({operation['algorithm']}) of {operation['size_bytes']:,} B over {operation['ranks']} "
            f"ranks on {_fabric(baseline)}\n{_settings(baseline)}\n"
            f"kernel {baseline.record.kernel} ({baseline.record.kernel_reason}), seed {baseline.info.seed}\n"
            f"without the fault: {format_us(sweep.baseline_ps)} us; each {sweep.each} dead, one at a time: "
            f"{len(sweep.rows):,} faults, {sweep.simulated:,} of them simulated in {_seconds(sweep.wall_s)}"
            + (f"; {stand_in:,} have the times of the same fault in a plane that is alike" if stand_in else "")
        ),
        table,
    )


def _alike(sweep: FaultSweep) -> Iterator[list[FaultRow]]:
    """Group faults that follow one another and end alike."""
    for _, rows in groupby(sweep.rows, key=lambda row: (row.outcome, row.time_ps, row.pair)):
        yield list(rows)


def estimate_answer(estimates: Sequence[Estimate]) -> RenderableType:
    """Lay out what runs would take, one after the other, and what that is founded on."""
    timed = any(fault.time_ps for estimate in estimates for fault in estimate.faults)
    return _apart(
        *(Group(Text(_estimate_header(estimate)), _facts(*_estimate_rows(estimate))) for estimate in estimates),
        Text(
            f"Packet-hops are exact{', but for faults at a time' if timed else ''}, or the most where packets may "
            "take longer ways, such as detours. Time is an estimate: the rest of a run may be slower or faster than "
            "its first moments, and checking and writing its results comes on top. Memory is for the worst case, every "
            "buffer full of the smallest packets; most runs take less."
        ),
    )


def compare_answer(document: Mapping[str, Any]) -> RenderableType:
    """Lay out where the time moved between two results, the largest changes first."""
    a, b, time_us = document["a"], document["b"], document["time_us"]
    names = [f"{letter.upper()}: {document[letter]['fabric']}" for letter in "ab"]
    header = [
        f"{name} ({about['path']})" + _changes(about["overrides"], about["faults"], "  ")
        for name, about in zip(names, (a, b), strict=True)
    ]
    # The lines above have these in full.
    shown = ("fabric", "overrides", "faults")
    header += [_difference(name, a, b) for name in document["differ"] if name not in shown]
    if document["same_times"]:
        header.append("All times are the same.")
    elif time_us["a"]:
        ratio = time_us["b"] / time_us["a"]
        header.append(f"B takes {ratio:.3f} times as long as A: {_signed(time_us['change'])} us.")
    parts = [] if document["same_times"] else _moved(document)
    table = _table(("utilization", "%", "left"), ("A mean", ""), ("A max", ""), ("B mean", ""), ("B max", ""))
    for name, used in document["utilization"].items():
        cells = (None if used[letter] is None else used[letter][key] for letter in "ab" for key in ("mean", "max"))
        table.add_row(name, *(_percent(cell) for cell in cells))
    if any(used["a"] != used["b"] for used in document["utilization"].values()):
        parts.append(table)
    sentences = [document[letter]["bottleneck"]["sentence"] for letter in "ab"]
    said = [f"A and B: {sentences[0]}"] if len({*sentences}) == 1 else [f"A: {sentences[0]}", f"B: {sentences[1]}"]
    return _apart(Text("\n".join(header)), *parts, Text("\n".join(said)))


def _difference(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Say how two runs differ in a setting."""
    words = [
        ", ".join(value) or "none" if isinstance(value, list) else "none" if value is None else str(value)
        for value in (a[name], b[name])
    ]
    return f"{name.replace('_', ' ')}: A {words[0]}, B {words[1]}"


def _moved(document: Mapping[str, Any]) -> list[RenderableType]:
    """Lay out the changes of the critical path, of operations and of ranks."""
    time_us = document["time_us"]
    parts: list[RenderableType] = [
        _compared(
            ("critical path", "us"),
            [
                (key.replace("_", " "), figures)
                for key, figures in [*document["attribution_us"].items(), ("in all", time_us)]
                if figures["a"] or figures["b"]
            ],
        ),
        *_most_moved(
            ("operation", "us"), "operations", [(_operation_name(row), row["time_us"]) for row in document["ops"]]
        ),
    ]
    if document["ranks"]:
        rows = [(f"rank {row['rank']}", row["in_operations_us"]) for row in document["ranks"]]
        parts += _most_moved(("time in operations", "us"), "ranks", rows)
    return parts


def _most_moved(
    what: tuple[str, str], things: str, rows: Sequence[tuple[str, Mapping[str, float]]]
) -> Iterator[RenderableType]:
    """Lay out the largest changes, and say how many are left out."""
    yield _compared(what, sorted(rows, key=lambda row: -abs(row[1]["change"]))[:_MAX_MOVED])
    if len(rows) > _MAX_MOVED:
        yield Text(f"{len(rows) - _MAX_MOVED:,} more {things} changed less, or not; --json FILE has them all.")


def _operation_name(row: Mapping[str, Any]) -> str:
    return f"{row['operation']}: {row['op']} of {row['size_bytes']:,} B"


def _compared(what: tuple[str, str], rows: Sequence[tuple[str, Mapping[str, float]]]) -> Table:
    """Lay out figures of A and B, and their changes."""
    table = _table((*what, "left"), ("A", ""), ("B", ""), ("change", ""))
    for name, figures in rows:
        table.add_row(name, format_number(figures["a"]), format_number(figures["b"]), _signed(figures["change"]))
    return table


def _signed(value: float) -> str:
    sign = "+" if value > 0 else "-" if value < 0 else ""
    return f"{sign}{format_number(abs(value))}"


def fabrics_answer(document: Mapping[str, Any]) -> RenderableType:
    """Lay out the list of fabrics."""
    table = _table(("fabric", "", "left"), ("terminals", ""), ("", "", "left"))
    for fabric in document["fabrics"]:
        table.add_row(fabric["name"], str(fabric["terminals"]), fabric["title"])
    return _apart(table, Text(_WHERE_FROM))


def systems_answer(document: Mapping[str, Any]) -> RenderableType:
    """Lay out fabrics beside each other: figures of the machines, an all-to-all, then the sources of all figures."""
    systems = document["systems"]
    first = systems[0]["simulated"]
    parts: list[RenderableType] = [
        Text(
            f"{document['op']} ({first['algorithm']}) of {format_bytes(document['asked_size_bytes'])} per rank, a rank "
            f"on every terminal\nendpoint {first['endpoint']}, kernel {first['kernel']}, seed {first['seed']}"
        ),
        *_side_by_side(systems, _systems),
        Text("n/a: not published, or no system card. GB/s are bytes to other ranks over the simulated time (busbw)."),
    ]
    parts += [_sources(card) for card in {s["card"]["title"]: s["card"] for s in systems if s["card"]}.values()]
    parts += [
        Text(
            f"{system['fabric']}: no system card belongs to it, so figures of the machine are n/a; the simulated ones "
            "stand."
        )
        for system in systems
        if system["card"] is None
    ]
    return _apart(*parts, Text(f"What is simulated follows from the fabrics alone: {_WHERE_FROM}"))


def _systems(systems: Sequence[Mapping[str, Any]]) -> Table:
    table = _table(("", "", "left"), *((system["fabric"], "") for system in systems))
    table.add_row("published", style="bold")
    for key, label in FIGURE_LABELS.items():
        table.add_row(
            f"  {label}",
            *(_span(None if (card := s["card"]) is None else card["figures"][key], _plain) for s in systems),
        )
    table.add_row("simulated", style="bold")
    runs = [system["simulated"] for system in systems]
    table.add_row("  terminals", *(f"{system['terminals']:,}" for system in systems))
    table.add_row("  time (us)", *(format_number(run["time_us"]) for run in runs))
    table.add_row("  lower bound over time (%)", *(_percent(run["efficiency"]) for run in runs))
    table.add_row("  GB/s per accelerator", *(format_number(run["GBps_per_accelerator"]) for run in runs))
    table.add_row("  GB/s in all", *(format_number(run["total_GBps"]) for run in runs))
    for unit, words in (("rack", "rack"), ("kW", "kW"), ("kUSD", "1,000 USD")):
        table.add_row(f"  GB/s per {words}", *(_span(run[f"GBps_per_{unit}"], format_number) for run in runs))
    return table


def _span(figure: Mapping[str, Any] | None, write: Callable[[float], str]) -> str:
    """Write the smallest and the largest of what is reported; one where they look alike."""
    return "n/a" if figure is None else " to ".join(dict.fromkeys(write(figure[end]) for end in ("low", "high")))


def _plain(value: float) -> str:
    return f"{value:,g}"


def _sources(card: Mapping[str, Any]) -> RenderableType:
    """List what is published of a machine, source by source."""
    said: dict[tuple[str, str], list[str]] = {}
    for key, figure in card["figures"].items():
        for report in figure["reports"] if figure else ():
            said.setdefault((report["source"], report["evidence"]), []).append(
                f"{FIGURE_LABELS[key]}: {_plain(report['value'])}{_noted(report)}"
            )
    for claim in card["claims"]:
        said.setdefault((claim["source"], claim["evidence"]), []).append(
            f"{claim['about']}: {claim['text']}{_noted(claim)}"
        )
    return Group(
        Text(f"{card['title']}: published figures by source", "bold"),
        *(
            Group(Text(f"{source} ({evidence})"), Padding("; ".join(entries), (0, 0, 0, 4)))
            for (source, evidence), entries in said.items()
        ),
    )


def _noted(entry: Mapping[str, Any]) -> str:
    return "" if entry["note"] is None else f" ({entry['note']})"


def fabric_answer(document: Mapping[str, Any]) -> RenderableType:
    """Lay out one fabric: its settings, then every number with its provenance."""
    paragraphs = document["description"].strip().split("\n\n")
    parts: list[RenderableType] = [Text(f"{document['name']}: {document['title']}", "bold")]
    parts += [Text(" ".join(paragraph.split())) for paragraph in paragraphs]
    texts = (
        f"{key} = {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in document["settings"].items()
    )
    parts.append(Text("\n".join(texts), "bold"))
    for row in document["quantities"]:
        bare = row["unit"] == "count" or row["value"] == UNLIMITED
        value = row["value"] if bare else f"{row['value']} {row['unit']}"
        prose = [Padding(row[key], (0, 0, 0, 4)) for key in ("source", "note") if row[key] is not None]
        parts.append(Group(Text(f"{row['key']} = {value} ({row['evidence']})", "bold"), *prose))
    return _apart(*parts)


def validate_answer(document: Mapping[str, Any]) -> RenderableType:
    """Lay out simulated figures beside measured ones: every point by fabric and source, then the families."""
    parts: list[RenderableType] = []
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in document["points"]:
        groups.setdefault((row["fabric"], row["source"]), []).append(row)
    for (fabric, source), rows in groups.items():
        table = _table(
            ("figure", "", "left"),
            ("size", "B"),
            ("unit", ""),
            ("measured", ""),
            ("simulated", ""),
            ("error", "%"),
            ("", ""),
        )
        for row in rows:
            table.add_row(
                row["what"],
                f"{row['size_bytes']:,}",
                row["unit"],
                format_number(row["measured"]),
                format_number(row["simulated"]),
                f"{row['error_percent']:+.1f}",
                "fitted" if row["fitted"] else "predicted",
            )
        parts.append(Group(Text(f"{fabric}: {source}", "bold"), table))
    parts.append(
        Text(
            "Errors of the predicted points: median and worst above 1 MiB, the worst up to there (small).\n"
            "Within: at most 5, 15 and 25 %.",
            "bold",
        )
    )
    for fabric in dict.fromkeys(row["fabric"] for row in document["families"]):
        table = _table(
            (fabric, "", "left"),
            ("fitted", ""),
            ("predicted", ""),
            ("median", "%"),
            ("worst", "%"),
            ("small", "%"),
            ("within", ""),
        )
        for row in (row for row in document["families"] if row["fabric"] == fabric):
            errors = (row[key] for key in ("median_percent", "worst_percent", "worst_small_percent"))
            table.add_row(
                row["family"],
                str(row["fitted"]),
                str(row["predicted"]),
                *("-" if error is None else f"{error:.1f}" for error in errors),
                {True: "yes", False: "no", None: "-"}[row["within"]],
            )
        parts.append(table)
    skipped = document["skipped"]
    if skipped:
        what, them = (
            ("point", "was skipped; --all runs it") if skipped == 1 else ("points", "were skipped; --all runs them")
        )
        parts.append(Text(f"{skipped} {what} of more than 20 M packet-hops {them}."))
    return _apart(*parts)


def trace_answer(summary: Mapping[str, Any], *, follows: bool = False) -> RenderableType:
    """Lay out what a trace holds, from ``documents.trace_document``; apart from another one that it follows."""
    span_ns, complete, clock = summary["time_span_ns"], summary["complete"], summary["clock"]
    above = "\n" * follows
    table = _table(("operation", "", "left"), ("rows", ""), ("send", "B"), ("receive", "B"))
    for name, op in summary["ops"].items():
        table.add_row(name, f"{op['rows']:,}", f"{op['send_bytes']:,}", f"{op['recv_bytes']:,}")
    return _apart(
        Text(f"{above}{summary['path']}, schema version {summary['schema_version']}"),
        _facts(
            ("rows", f"{summary['rows']:,}"),
            ("batches", f"{summary['batches']:,}"),
            ("ranks", f"{summary['world_size']:,}"),
            ("groups", ", ".join(f"{group['name']} ({group['num_ranks']} ranks)" for group in summary["groups"])),
            ("time span", "not recorded" if span_ns is None else format_time(span_ns * PS_PER_NS)),
            ("clocks", "not recorded" if clock is None else "aligned" if clock["aligned"] else "not aligned"),
            ("optional columns", ", ".join(summary["recorded"]) or "none"),
            ("lost by the recorder", "not recorded" if complete is None else _losses(complete)),
            ("placement", "not recorded" if summary["placement"] is None else _entries(summary["placement"], ", ")),
            *([("source", "not recorded")] if summary["source"] is None else _source(summary["source"])),
        ),
        table,
    )


def doctor_answer(report: Mapping[str, Any]) -> RenderableType:
    """Lay out what ``doctor.examine`` found."""
    auto = report["auto"]
    warnings = [f"{fabric['name']}: {warning}" for fabric in report["fabrics"] for warning in fabric["warnings"]]
    examined = ", ".join(fabric["name"] for fabric in report["fabrics"])
    return Group(
        _facts(
            ("fabricsim", report["fabricsim_version"]),
            *report["versions"].items(),
            ("platform", report["platform"]),
            ("cpus", str(report["cpus"])),
            *(
                (f"kernel {kernel['name']}", f"{'usable' if kernel['usable'] else 'not usable'}: {kernel['reason']}")
                for kernel in report["kernels"]
            ),
            ("--kernel auto", f"{auto['kernel']} ({auto['reason']})"),
            (
                "compiled kernels",
                report["kernel_cache"]
                or "not kept: no folder can be written, every process compiles anew; set NUMBA_CACHE_DIR to one",
            ),
            ("fabrics", f"{examined}: {len(warnings) or 'no'} warning{'s' * (len(warnings) != 1)}"),
        ),
        *(Text(f"warning: {warning}") for warning in warnings),
    )


def _source(source: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of all that a trace says of its source; hashes and long lists are cut."""
    rest = [(f"  {key}", _entries(value)) for key, value in source.items() if key != "format"]
    return [("source", str(source.get("format", "of an unnamed format"))), *rest]


def _entries(value: Any, separator: str = "\n") -> str:
    """Write a JSON value for people: the entries of a list one by one, those of an object with their names."""
    if isinstance(value, list):
        more = [f"... ({len(value)} in all)"] if len(value) > _MAX_ENTRIES else []
        return separator.join([*(_entries(entry, ", ") for entry in value[:_MAX_ENTRIES]), *more])
    if isinstance(value, dict):
        return ", ".join(f"{key} {_entries(entry, ' ')}" for key, entry in value.items())
    if isinstance(value, str) and len(value) > _MAX_HASH and set(value) <= set(string.hexdigits):
        return f"{value[:_MAX_HASH]}..."
    return value if isinstance(value, str) else json.dumps(value)


def _losses(complete: Mapping[str, Any]) -> str:
    missing = ", ".join(map(str, complete["missing_ranks"]))
    return f"{f'ranks {missing}' if missing else 'no ranks'}, {complete['dropped_ops']:,} operations"


def _facts(*rows: tuple[str, str]) -> Table:
    """Lay out names and values."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _console() -> Console:
    return Console(markup=False, highlight=False, emoji=False)


def _fits(table: Table) -> bool:
    console = _console()
    unbounded = console.options.update(max_width=10 * console.width)
    return Measurement.get(console, unbounded, table).maximum <= console.width


def _side_by_side(columns: Sequence[Any], lay_out: Callable[[Sequence[Any]], Table]) -> Iterator[Table]:
    """Lay out tables of as many columns side by side as fit, one at least."""
    while columns:
        count = len(columns)
        while count > 1 and not _fits(lay_out(columns[:count])):
            count -= 1
        yield lay_out(columns[:count])
        columns = columns[count:]


def _apart(*parts: RenderableType) -> Group:
    """Put an empty line between the parts."""
    spaced = [piece for part in parts for piece in (Text(), part)]
    return Group(*spaced[1:])


def _replay_header(result: Result) -> Text:
    about = result.info.workload
    source = about.get("trace", "trace")
    operations = result.num_operations
    return Text(
        f"{source}, mode {about['mode']}: {result.num_ranks} ranks, {operations:,} operation{'s' * (operations != 1)}"
    )


def _run_header(result: Result) -> Text:
    record, info, engine_ps = result.record, result.info, round(result.record.engine_s * PS_PER_S)
    return Text(
        f"{_fabric(result)}: {format_time(result.simulated_time_ps)} simulated\n"
        f"{_verdict(result)}\n"
        f"  {_settings(result, indent='  ')}\n"
        f"  {_folding(result)}\n"
        f"  {info.packet_hops_simulated:,} packet-hops in {format_time(engine_ps)}, kernel {record.kernel}, "
        f"digest {result.digest[:16]}"
    )


def _verdict(result: Result) -> str:
    """Say how good a result is, where its time went and what holds it back."""
    efficiency = result.efficiency
    percent = {key: part for key, part in result.collected.critical_path.percent.items() if part >= _LEAST_PERCENT}
    largest = sorted(percent, key=lambda key: -percent[key])
    parts = ", ".join(f"{key.replace('_', ' ')} {percent[key]:.1f} %" for key in largest)
    good = "" if efficiency is None else f"efficiency {_percent(efficiency)} % (lower bounds over times); "
    found = result.bottleneck
    held_back = f"bottleneck: {found.cause.replace('_', ' ')}. {found.sentence}"
    return f"{good}critical path: {parts or 'nothing'}\n{held_back}"


def _hottest(results: Sequence[Result]) -> Table:
    """Lay out the channels that were busy longest, each with the flow that brings it most; alike planes as one."""
    from fabricsim.results.hottest import hottest_in_planes

    table = _table(("hottest channels", "", "left"), ("plane", ""), ("busy", "%"), ("largest flow", "ranks"), ("", "B"))
    for result in results:
        table.add_row(result.network.name)
        for row, planes in hottest_in_planes(result, _MAX_HOTTEST):
            flow = row["flows"][0] if row["flows"] else None
            table.add_row(
                f"  {row['channel']}",
                _planes(planes),
                _percent(row["utilization"]),
                "-" if flow is None else f"{flow['source_rank']} to {flow['target_rank']}",
                "-" if flow is None else f"{flow['bytes']:,}",
            )
    return table


def _planes(planes: Sequence[int]) -> str:
    """Write planes, ``0 to 6`` where they follow one another."""
    if len(planes) > 1 and planes[-1] - planes[0] == len(planes) - 1:
        return f"{planes[0]} to {planes[-1]}"
    return ", ".join(map(str, planes[:_MAX_NAMES])) + (", ..." if len(planes) > _MAX_NAMES else "")


def _estimate_header(estimate: Estimate) -> str:
    about, blocks = estimate.workload.about, estimate.workload.blocks
    if about["kind"] == "trace":
        what = f"{about.get('trace', 'trace')}, mode {about['mode']}: {blocks.num_ranks} ranks"
    else:
        operation = next(iter(blocks)).schedule.operations[0]
        what = f"{operation.op} ({operation.algorithm}) of {operation.size_bytes:,} B over {blocks.num_ranks} ranks"
    return f"{what} on {_fabric(estimate)}{_changes(estimate.overrides, [fault.text for fault in estimate.faults])}"


def _estimate_rows(estimate: Estimate) -> list[tuple[str, str]]:
    calibration, memory, rate_ns = estimate.calibration, estimate.memory, estimate.ns_per_packet_hop
    parts = [("tables", memory.tables_bytes), ("packets in flight", memory.packets_bytes)]
    if memory.process_bytes is not None:
        parts.insert(0, ("process", memory.process_bytes))
    rows = [
        ("folded" if estimate.folded else "not folded", estimate.folding),
        ("packet-hops", f"{estimate.packet_hops:,}, of which the engine does {estimate.packet_hops_simulated:,}"),
        (
            "time",
            "not known: its first moments have no packets"
            if estimate.engine_s is None
            else f"{_seconds(calibration.setup_s + estimate.engine_s)}: {_seconds(calibration.setup_s)} to build its "
            f"tables, {_seconds(estimate.engine_s)} in the engine",
        ),
        (
            "measured",
            f"{'all' if calibration.whole else 'the first'} {calibration.packet_hops:,} packet-hops in "
            f"{_seconds(calibration.elapsed_s)}{'' if rate_ns is None else f', {rate_ns:.1f} ns each'}, on "
            f"{estimate.threads} thread{'s' * (estimate.threads != 1)}",
        ),
        ("kernel", f"{estimate.kernel} ({estimate.kernel_reason})"),
        (
            "memory",
            f"{_mebibytes(sum(size_bytes for _, size_bytes in parts))}: "
            + ", ".join(f"{name} {_mebibytes(size_bytes)}" for name, size_bytes in parts),
        ),
    ]
    if calibration.compile_s:
        rows.append(("compilation", f"{_seconds(calibration.compile_s)} just now, not in the time above"))
    if estimate.has_small_windows:
        rows.append(("windows", f"only {estimate.window_ps:,} ps: a fabric of tiny latencies makes the engine slow"))
    return rows


def _seconds(time_s: float) -> str:
    if time_s >= 2 * 3_600:
        return f"{time_s / 3_600:,.1f} h"
    return f"{time_s:,.0f} s" if time_s >= 100 else f"{time_s:.2g} s" if time_s < 1 else f"{time_s:.1f} s"


def _mebibytes(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"


def _operations(results: Sequence[Result]) -> Table:
    rows = list(islice(_moving_rows(results), MAX_ROWS))
    recorded = results[0].collected.has_recorded
    named = any(_recorded_name(row[0]) for row in rows)
    table = _table(
        ("operation", "", "left"),
        *([("name", "", "left")] if named else []),
        ("ranks", ""),
        ("size", "B"),
        *([("recorded", "us")] if recorded else []),
        *((result.network.name, "us") for result in results),
    )
    for row in rows:
        first = row[0]
        table.add_row(
            first["op"],
            *([_recorded_name(first)] if named else []),
            str(first["ranks"]),
            f"{first['size_bytes']:,}",
            *([format_us(first["recorded_ps"])] if recorded else []),
            *(format_us(cell["time_ps"]) for cell in row),
        )
    return table


def _recorded_name(row: Mapping[str, Any]) -> str:
    """Name of an operation where it says more than the operation itself; ``allreduce`` of an all_reduce does not."""
    name: str = row["name"]
    if name.lower().replace("_", "") == row["op"].replace("_", ""):
        return ""
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 3]}..."


def _notes(result: Result) -> Text:
    collected = result.collected
    notes = ["Times run from the arrival of an operation's last rank to the end of its last rank."]
    if collected.has_recorded:
        notes.append(
            "Recorded: on the machine that made the trace, from the last start on a device; simulated times hold the "
            "launch latency, which stands for what a library's kernels do beside the transfer."
        )
    else:
        notes.append("The trace has no recorded times to compare with.")
    if collected.num_moving > MAX_ROWS:
        notes.append(
            f"{collected.num_moving - MAX_ROWS:,} more operations are left out here; --json FILE has them all."
        )
    return Text("\n".join([" ".join(notes), *sorted(collected.replaced)]))


def _moving_rows(results: Sequence[Result]) -> Iterator[tuple[dict[str, Any], ...]]:
    """Rows of the operations that could move something, each with one entry per result."""
    from fabricsim.results.collected import LOCAL

    rows = zip(*(result.op_rows() for result in results), strict=True)
    return (row for row in rows if row[0]["op"] not in LOCAL)


def _latencies(results: Sequence[Result]) -> Table:
    names = ("p50", "p90", "p99", "p99.9", "max", "mean")
    table = _table(("latency in us", "", "left"), *((name, "") for name in names))
    for result in results:
        table.add_row(result.network.name)
        for what, latency in (("messages", result.message_latency), ("packets", result.packet_latency)):
            figures = (latency.p50, latency.p90, latency.p99, latency.p999, latency.max, latency.mean)
            table.add_row(f"  {what}", *(format_number(figure) for figure in figures))
    return table


def _utilizations(results: Sequence[Result]) -> Table:
    table = _table(("utilization in %", "", "left"), ("mean", ""), ("p99", ""), ("max", ""))
    for result in results:
        table.add_row(result.network.name)
        for name, used in result.utilization.items():
            table.add_row(f"  {name}", *(_percent(part) for part in (used.mean, used.p99, used.max)))
    return table


def _table(*columns: tuple[str, str] | tuple[str, str, str]) -> Table:
    """Columns of (name, unit) to the right, or of (name, unit, "left")."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for name, unit, *left in columns:
        header = f"{name}\n({unit})" if unit else name
        table.add_column(header, justify="left" if left else "right", overflow="fold")
    return table


def _fabric(result: Result | Estimate) -> str:
    network = result.network
    return f"{network.name} ({network.num_terminals} terminals, {len(network.channels):,} channels)"


def _settings(result: Result, indent: str = "") -> str:
    packet, info = result.network.packet, result.info
    routing = "single path" if result.routing is None else f"{result.routing} routing"
    vcs = result.network.vcs
    if vcs.count > 1:
        routing += f", {vcs.count} virtual channels ({vcs.arbitration.replace('_', ' ')})"
    return (
        f"packets {packet.name} ({format_bytes(packet.max_payload_bytes)} + {packet.overhead_bytes}B), {routing}, "
        f"endpoint {info.endpoint}, placement {info.placement}"
        + _changes(info.spec.overrides, info.faults, indent, info.late_faults)
    )


def _changes(overrides: Mapping[str, str], faults: Sequence[str], indent: str = "", late: Sequence[str] = ()) -> str:
    """Give a line for each number that was set, and for each fault; say of *late* ones that they changed nothing."""
    lines = [f"set by the user: {key} = {value}" for key, value in overrides.items()]
    lines += [f"fault {fault}" + " (after the end: without effect)" * (fault in late) for fault in faults]
    return "".join(f"\n{indent}{line}" for line in lines)


def _folding(result: Result) -> str:
    info = result.info
    if not info.folded:
        return f"not folded: {info.folding}"
    return f"folded: {info.folding}, for {result.record.packet_hops:,} packet-hops"


def _percent(fraction: float | None) -> str:
    if fraction is None:
        return "-"
    decimals = 1 if fraction >= 0.1 else 2
    return f"{fraction * 100:.{decimals}f}"
