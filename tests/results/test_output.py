"""The files of ``-o``: whole, complete, bounded, and read by the libraries that docs/results.md names."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather, parquet

import fabricsim as fs
from fabricsim import cli
from fabricsim.errors import ConfigError
from fabricsim.fabrics import FabricSpec
from fabricsim.results import digest, documents, output, result, spool
from fabricsim.results.result import Result
from fabricsim.results.spool import Spool
from fabricsim.workloads import trace_file
from tests.workloads.trace_cases import write_long_trace

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
READ = {"arrow": feather.read_table, "parquet": parquet.read_table}


@pytest.fixture(scope="module")
def finished(tiny: FabricSpec) -> Result:
    """Four ranks to all four, at different times, with a dead link: 12 messages over 16 channels."""
    workload = fs.collective("all_to_all", size="4KiB", ranks=4)
    faults = ["link:gpu3-nvswitch.0.1", "arrival_skew:1=1us", "arrival_skew:2=3us"]
    return fs.simulate(tiny, workload, kernel="python", faults=faults)


def files(kind: str) -> list[str]:
    """The files of a whole result."""
    return sorted(["fabric.json", "summary.json", *(f"{name}.{kind}" for name in output.TABLES)])


def held(folder: Path) -> list[str]:
    """All files in a folder and below, by path from there."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ----------------------------------------------------------------------------------------------------------------------
# What is in the files


@pytest.mark.parametrize("kind", output.FORMATS)
def test_files_hold_the_result(finished: Result, tmp_path: Path, kind: str) -> None:
    """Each table comes back as it is in Python, the summary as JSON; nothing else is left in the folder."""
    document = finished.write(tmp_path / "new" / "out", format=kind, command="fabricsim run")
    folder = tmp_path / "new" / "out"
    assert held(folder) == files(kind)
    for name in output.TABLES:
        table = READ[kind](folder / f"{name}.{kind}")
        assert table.equals(getattr(finished, name)), name
    assert json.loads((folder / "summary.json").read_text()) == document
    about = {"format": kind, "messages": finished.messages.num_rows, "messages_left_out": 0}
    assert document == {**finished.summary(command="fabricsim run"), "files": about}
    assert (folder / "fabric.json").read_bytes() == documents.json_bytes(documents.fabric_document(finished.info.spec))


def test_figures_add_up(finished: Result, tmp_path: Path) -> None:
    """What other programs compute from the files is what the summary says."""
    summary = finished.write(tmp_path)
    ops, tasks, messages, channels, timeline = (
        feather.read_table(tmp_path / f"{name}.arrow").to_pandas() for name in output.TABLES
    )
    assert channels["packets"].sum() == summary["packet_hops"]
    assert channels["dead"].sum() == summary["fabric"]["dead_channels"] == channels["utilization"].isna().sum() == 2
    by_class = channels.groupby("channel_class", observed=True)["utilization"]
    for name, used in summary["utilization"].items():
        assert by_class.mean()[name] == pytest.approx(used["mean"])
        assert by_class.max()[name] == pytest.approx(used["max"])
    assert ops["end_ps"].max() == summary["simulated_time_ps"]
    assert messages["size_bytes"].sum() == summary["workload"]["message_bytes"]
    assert tasks.groupby("operation")["end_ps"].max().tolist() == ops["end_ps"].tolist()
    for column in ("busy_ps", "credit_stall_ps"):
        by_row = [
            table.groupby(["plane", "channel_class"], observed=True)[column].sum() for table in (channels, timeline)
        ]
        assert by_row[0].equals(by_row[1]), column
    moved = messages[messages["source_rank"] != messages["target_rank"]]
    assert (moved["complete_ps"] - moved["ready_ps"]).max() == summary["latency_us"]["message"]["max"] * 1e6


def test_channel_names_are_those_of_faults(finished: Result, tiny: FabricSpec) -> None:
    """No two channels of a fabric have one name, and a fault takes it in either direction."""
    names = finished.channels["name"].to_pylist()
    assert len(set(names)) == len(names) == 16
    workload = fs.collective("all_to_all", size="4KiB", ranks=4)
    for name in ("gpu3-nvswitch.0.1", "nvswitch.0.1-gpu3"):
        assert name in names
        broken = fs.simulate(tiny, workload, kernel="python", faults=[f"link:{name}"]).channels
        dead = [row["name"] for row in broken.to_pylist() if row["dead"]]
        assert dead == ["gpu3-nvswitch.0.1", "nvswitch.0.1-gpu3"]


def test_the_page_has_every_column(finished: Result, tmp_path: Path) -> None:
    """Names, types and order of the columns stand in docs/results.md, with the units of their names and a meaning."""
    units = {"_bytes": "B", "_ps": "ps", "_GBps": "GB/s"}
    finished.write(tmp_path)
    for name in output.TABLES:
        (body,) = re.findall(rf"^\| column of `{name}` .*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
        rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in body.splitlines()]
        schema = feather.read_table(tmp_path / f"{name}.arrow").schema
        kinds = ["dictionary" if pa.types.is_dictionary(field.type) else str(field.type) for field in schema]
        assert [(column, kind) for column, kind, _, _ in rows] == [
            (f"`{field.name}`", kind) for field, kind in zip(schema, kinds, strict=True)
        ]
        for column, _, unit, meaning in rows:
            in_name = [units[end] for end in units if column.strip("`").endswith(end)]
            assert unit in (in_name or ["", "fraction"]), column
            assert meaning


@pytest.mark.parametrize(("kind", "mark"), [("arrow", "hottest"), ("parquet", "hottest-parquet")])
def test_the_hottest_channels_are_one_line_away(
    finished: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, mark: str
) -> None:
    """The lines of docs/results.md for DuckDB, polars and pandas run as they stand and agree; dead channels are out."""
    (code,) = re.findall(rf"<!-- {mark} -->\n```python\n(.*?)```\n<!-- /{mark} -->", PAGE, re.DOTALL)
    lines = code.splitlines()
    assert [re.match(r"\w+", line)[0] for line in lines] == ["duckdb", "polars", "pandas"]
    monkeypatch.chdir(tmp_path)
    finished.write("out", format=kind)
    rows = [row for row in finished.channels.to_pylist() if not row["dead"]]
    expected = sorted((row["utilization"] for row in rows), reverse=True)[:10]
    of_name = {row["name"]: row["utilization"] for row in rows}
    scope = {name: importlib.import_module(name) for name in ("duckdb", "polars", "pandas", "pyarrow")}
    for line in lines:
        hottest = eval(line, scope)
        assert list(hottest["utilization"]) == expected, line
        names = list(hottest["name"])
        assert len(set(names)) == 10, line
        assert [of_name[name] for name in names] == expected, line


# ----------------------------------------------------------------------------------------------------------------------
# Many messages, many blocks


@given(st.lists(st.lists(st.integers(0, 6), max_size=5), min_size=1, max_size=6), st.data())
def test_the_slowest_messages_are_kept(blocks: list[list[int]], data: st.DataObject) -> None:
    """Of blocks in any order, those that took longest, of equal ones the first, in the order of the table."""
    table = Spool({"index": "i4", "ready_ps": "i8", "complete_ps": "i8"})
    latencies = [latency for block in blocks for latency in block]
    begins = np.cumsum([0, *map(len, blocks)])
    for number in data.draw(st.permutations(range(len(blocks)))):
        rows = np.arange(begins[number], begins[number + 1])
        table.append([rows, 10 * rows, 10 * rows + np.array(blocks[number], np.int64)])
    count = data.draw(st.integers(min(1, len(latencies)), len(latencies)))
    kept = pa.Table.from_batches(output.longest(table, count, "ready_ps", "complete_ps"))
    slowest = sorted(range(len(latencies)), key=lambda row: (-latencies[row], row))[:count]
    assert kept["index"].to_pylist() == sorted(slowest)


def test_the_number_of_messages_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """The page and the help name the default."""
    assert f"of more than `--messages N` ({output.MAX_MESSAGES:,})" in PAGE
    with pytest.raises(SystemExit):
        cli.main(("run", "--help"))
    assert f"(default: {output.MAX_MESSAGES:,})" in " ".join(capsys.readouterr().out.split())


def test_a_table_without_rows_is_a_table(tiny: FabricSpec, tmp_path: Path) -> None:
    """A rank alone in a barrier sends nothing: its messages are a table of no rows in both formats."""
    empty = Spool({"index": "i4"})
    for kind in output.FORMATS:
        output._write_table(tmp_path / f"messages.{kind}", output.longest(empty, 0, "ready_ps", "complete_ps"))
        assert READ[kind](tmp_path / f"messages.{kind}").equals(empty.table())


def test_long_tables_are_written_batch_by_batch(
    finished: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches and row groups have a bounded length, whatever the blocks were, and lose no row."""
    monkeypatch.setattr(output, "BATCH_ROWS", 5)
    for kind in output.FORMATS:
        folder = tmp_path / kind
        finished.write(folder, format=kind)
        for name in output.TABLES:
            assert READ[kind](folder / f"{name}.{kind}").to_pydict() == getattr(finished, name).to_pydict()
    with pa.ipc.open_file(tmp_path / "arrow" / "channels.arrow") as file:
        assert [file.get_batch(number).num_rows for number in range(file.num_record_batches)] == [5, 5, 5, 1]
    assert parquet.ParquetFile(tmp_path / "parquet" / "messages.parquet").num_row_groups == 3


def test_memory_does_not_grow_with_the_trace(tmp_path: Path, tiny: FabricSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of six times the operations: every row is written, in less than 1.2 times the memory, Arrow's included."""
    for module, name, rows in (
        (trace_file, "PIECE_ROWS", 512),
        (spool, "MEMORY_BYTES", 1 << 12),
        (digest, "BLOCK_ROWS", 1 << 10),
        (result, "OP_BATCH_ROWS", 64),
        (output, "BATCH_ROWS", 256),
    ):
        monkeypatch.setattr(module, name, rows)
    monkeypatch.setattr(Result, "summary", lambda *_, **__: {})  # it lists all operations
    pieces, arrow_bytes, peaks = output._pieces, [0], []

    def watched(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
        for piece in pieces(batches):
            arrow_bytes.append(pa.total_allocated_bytes())
            yield piece

    monkeypatch.setattr(output, "_pieces", watched)
    for num_operations in (100, 500, 3_000):  # what is imported or cached once counts in the first alone
        write_long_trace(tmp_path / "long.arrow", num_operations, num_ranks=4, compute_stream=1)
        done = fs.replay(tmp_path / "long.arrow", tiny)
        arrow_bytes[:] = [0]
        tracemalloc.start()
        try:
            files = done.write(tmp_path / f"{num_operations}", messages=10**9)["files"]
            assert done.write(tmp_path / f"{num_operations}-slowest", messages=300)["files"]["messages"] == 300
            peaks.append((tracemalloc.get_traced_memory()[1], max(arrow_bytes)))
        finally:
            tracemalloc.stop()
        assert feather.read_table(tmp_path / f"{num_operations}" / "ops.arrow").num_rows == done.num_operations
        rows = feather.read_table(tmp_path / f"{num_operations}" / "messages.arrow").num_rows
        assert rows == files["messages"] == done.collected.num_messages == done.messages.num_rows
        assert feather.read_table(tmp_path / f"{num_operations}-slowest" / "messages.arrow").num_rows == 300
    for short, long in zip(*peaks[1:], strict=True):
        assert long < 1.2 * short, peaks


# ----------------------------------------------------------------------------------------------------------------------
# Whole or not at all


@pytest.mark.parametrize("last", ["ops.arrow", "messages.arrow", "timeline.arrow", "fabric.json", "summary.json"])
def test_what_breaks_off_leaves_no_summary(
    finished: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """An error or Ctrl-C while any of the files is written: no summary, no part of a file; the next run takes over."""
    fsync, whole_file = os.fsync, output.whole_file
    writing = ""

    def noted(path: Path) -> Any:
        nonlocal writing
        writing = path.name
        return whole_file(path)

    def interrupted(file: int) -> None:
        if writing == last:
            raise KeyboardInterrupt
        fsync(file)

    monkeypatch.setattr(output, "whole_file", noted)
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finished.write(tmp_path)
    names = [*(f"{name}.arrow" for name in output.TABLES), "fabric.json"]
    assert held(tmp_path) == sorted(names[: names.index(last)] if last in names else names)
    monkeypatch.undo()
    finished.write(tmp_path, format="arrow")
    assert (tmp_path / "summary.json").exists()


def test_a_killed_writer_leaves_no_summary(finished: Result, tiny_path: Path, tmp_path: Path) -> None:
    """A process that vanishes in the middle of the last table leaves what the next run may write over."""
    code = f"""
import os
import fabricsim as fs
from fabricsim.results import output
result = fs.simulate({str(tiny_path)!r}, fs.collective("all_to_all", size="4KiB", ranks=4), kernel="python")
pieces = output._pieces
def vanish(batches):
    batches = list(batches)
    yield from pieces(batches)
    if "dead" in batches[0].schema.names:
        os._exit(9)
output._pieces = vanish
result.write({str(tmp_path)!r})
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 9, ended.stderr
    assert held(tmp_path) == ["channels.arrow.part", "messages.arrow", "ops.arrow", "tasks.arrow"]
    finished.write(tmp_path, format="parquet")
    assert held(tmp_path) == files("parquet")


def test_nothing_is_written_over(finished: Result, tmp_path: Path) -> None:
    """A folder that holds a result, the results of several runs or anything else is refused and stays as it is."""
    finished.write(tmp_path / "whole")
    finished.write(tmp_path / "several" / "nvl72")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for name, found in (("whole", r"\w+\.\w+"), ("several", r"nvl72/\w+\.\w+"), ("other", "notes.txt")):
        with pytest.raises(ConfigError, match=rf"{name} already holds {found}, .*; choose a new folder, or remove"):
            finished.write(tmp_path / name)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_folder_that_cannot_be_is_named(finished: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in its place, and a folder that others own: before anything is written."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"folder .*file cannot be made \(File exists\); choose another place"):
        finished.write(tmp_path / "file")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"folder .*out cannot be written; choose another place"):
        finished.write(tmp_path / "out")
    assert held(tmp_path) == ["file"]


def test_wishes_that_cannot_be_met_are_refused(finished: Result, tmp_path: Path) -> None:
    """An unknown format, no message, a number that is none."""
    for wish, words in (
        ({"format": "parket"}, r"unknown format 'parket' \(did you mean 'parquet'\?\); known: arrow, parquet"),
        ({"messages": 0}, "messages is 0; give how many of the slowest to keep, 1 or more"),
        ({"messages": 1.5}, "messages is 1.5, which is not a whole number"),
    ):
        with pytest.raises(ConfigError, match=words):
            finished.write(tmp_path / "out", **wish)
    assert held(tmp_path) == []


# ----------------------------------------------------------------------------------------------------------------------
# The command line


@pytest.fixture
def trace_path(small_trace: fs.Trace, tmp_path: Path) -> str:
    """Two collectives of two ranks, in a file."""
    path = tmp_path / "small.arrow"
    small_trace.write(path)
    return str(path)


def test_each_fabric_has_a_folder(
    tiny_path: Path, trace_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Subfolders bear the names of the fabrics; their summaries are the entries of ``--json``."""
    out = tmp_path / "out"
    fabrics = ("--fabric", str(tiny_path), "--fabric", "hgx-h100", "--fabric", str(tiny_path))
    argv = ("replay", trace_path, *fabrics, "--kernel", "python", "--json", "-", "-o", str(out))
    assert cli.main(argv) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert {path.parent.name for path in out.glob("*/summary.json")} == {"tiny", "hgx-h100", "tiny-2"}
    summaries = [json.loads((out / name / "summary.json").read_text()) for name in ("tiny", "hgx-h100", "tiny-2")]
    assert [summary.pop("files")["messages_left_out"] for summary in summaries] == [0, 0, 0]
    assert summaries == json.loads(captured.out)["results"]
    assert cli.main(argv) == 2
    assert "already holds" in capsys.readouterr().err


def test_each_size_has_a_folder(tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep names subfolders by the size asked for, one size lies in the folder itself; what is left out is said."""
    out = tmp_path / "out"
    run = ("run", str(tiny_path), "all_to_all", "--kernel", "python", "--format", "parquet", "--messages", "4")
    assert cli.main((*run, "--size", "1KiB,1500B,1KiB", "-o", str(out / "sweep"))) == 0
    assert sorted(os.listdir(out / "sweep")) == ["1500B", "1KiB", "1KiB-2"]
    assert json.loads((out / "sweep" / "1500B" / "summary.json").read_text())["ops"][0]["size_bytes"] == 1472
    assert capsys.readouterr().err.splitlines() == [
        f"fabricsim: {out / 'sweep' / name}: the 4 slowest messages are written, 8 others are left out; "
        "--messages N keeps N"
        for name in ("1KiB", "1500B", "1KiB-2")
    ]
    assert cli.main((*run, "--size", "1KiB,1500B,1KiB", "-o", str(out / "sweep"), "--resume")) == 0
    assert capsys.readouterr().err.count("holds the whole result already") == 3
    assert cli.main((*run, "--size", "1KiB", "--output", str(out / "one"))) == 0
    assert held(out / "one") == files("parquet")
    listed = json.loads((out / "one" / "summary.json").read_text())["files"]
    assert len(listed.pop("run_sha256")) == 64
    assert listed == {
        "format": "parquet",
        "messages": 4,
        "messages_left_out": 8,
    }


def test_idle_and_impossible_options_end_before_the_run(
    tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options of tables without ``-o``, ``-o`` with an estimate, a folder that holds something: exit code 2."""

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("fabricsim.results.run.simulate", never)
    monkeypatch.setattr("fabricsim.results.estimate.estimate", never)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "summary.json").touch()
    for options, words in (
        (("--format", "arrow"), "--format and --messages are for the tables that -o DIR writes"),
        (("--messages", "5"), "--format and --messages are for the tables that -o DIR writes"),
        (("--estimate", "-o", str(tmp_path / "new")), "--estimate runs nothing"),
        (("-o", str(tmp_path / "full")), "full already holds summary.json, and nothing is written over it"),
        (("-o", str(tmp_path / "new"), "--messages", "0"), "messages is 0"),
        (("-o", "-"), "-o - names no folder: tables do not go to standard output; give a folder, or --json -"),
    ):
        assert cli.main(("run", str(tiny_path), "all_to_all", "--size", "1KiB", *options)) == 2
        assert words in capsys.readouterr().err
    assert held(tmp_path) == ["full/summary.json"]
