"""Tables of a run that goes on: whole, never taken for a result, and without a trace in the result."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

import fabricsim as fs
from fabricsim import cli
from fabricsim.engine.driver import Progress, Simulation
from fabricsim.errors import CheckpointedError, ConfigError
from fabricsim.fabrics import FabricSpec
from fabricsim.results import snapshot, spool
from fabricsim.results.output import FABRIC, FORMATS, SUMMARY, TABLES
from fabricsim.results.result import Result, Tables
from fabricsim.results.run import load_trace
from fabricsim.results.spool import Spool
from fabricsim.workloads import replay
from tests.workloads.trace_cases import write_long_trace

READ = {"arrow": feather.read_table, "parquet": parquet.read_table}


@pytest.fixture
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a snapshot follow each slice, and slices be short."""
    advance, random = Simulation.advance, Random(5)
    monkeypatch.setattr(snapshot, "EVERY_S", 0.0)
    monkeypatch.setattr(snapshot, "TIMES_WRITTEN", 0)
    monkeypatch.setattr(Simulation, "advance", lambda self, _: advance(self, random.randint(1, 60)))
    monkeypatch.setattr("fabricsim.engine.driver.SLICE_S", 0.0001)
    monkeypatch.setattr("fabricsim.engine.threads.WORTH_HOPS", 0)


@pytest.fixture
def short_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trace of ninety operations on two streams that drift apart, in blocks of three."""
    monkeypatch.setattr(replay, "schedule_blocks", partial(replay.schedule_blocks, max_operations=3))
    monkeypatch.setattr(spool, "MEMORY_BYTES", 1 << 10)
    write_long_trace(tmp_path / "long.arrow", 90, num_ranks=4)
    return tmp_path / "long.arrow"


def held(folder: Path) -> dict[str, bytes]:
    """All files of a folder but the summary, which has wall times."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != SUMMARY}


def reading(folder: Path, kind: str, seen: list[dict[str, pa.Table]]) -> Callable[[Progress], None]:
    """Read all tables between two slices; nothing else is there."""
    last_ns = 0

    def read(_: Progress) -> None:
        nonlocal last_ns
        if os.listdir(folder):
            assert sorted(os.listdir(folder)) == sorted(f"{name}.{kind}" for name in TABLES)
            written_ns = (folder / f"timeline.{kind}").stat().st_mtime_ns
            if written_ns != last_ns:
                seen.append({name: READ[kind](folder / f"{name}.{kind}") for name in TABLES})
            last_ns = written_ns

    return read


def sometimes(slices: int) -> Callable[[snapshot.SnapshotKeeper, Simulation], None]:
    """Look only each so many slices: of those by time there are thousands."""
    seen, between = 0, snapshot.SnapshotKeeper.between

    def look(self: snapshot.SnapshotKeeper, run: Simulation) -> None:
        nonlocal seen
        seen += 1
        if seen % slices == 0:
            between(self, run)

    return look


def used(table: pa.Table) -> list[tuple[Any, ...]]:
    """Busy times and credit stalls by class."""
    sums = table.group_by("channel_class").aggregate([("busy_ps", "sum"), ("credit_stall_ps", "sum")])
    return sorted(tuple(row.values()) for row in sums.to_pylist())


# ----------------------------------------------------------------------------------------------------------------------
# What is to be seen


@pytest.mark.usefixtures("_often")
@pytest.mark.parametrize(("kind", "threads"), [("arrow", 1), ("parquet", 2)])
def test_tables_can_be_read_while_a_run_goes_on(
    tiny: FabricSpec, short_blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, threads: int
) -> None:
    """Rows of blocks that have ended, as they are in the result; channels and their timeline up to one moment."""
    monkeypatch.setattr(snapshot.SnapshotKeeper, "between", sometimes(20 if threads > 1 else 1))
    workload = load_trace(short_blocks)
    options: dict[str, Any] = {"fabric": tiny, "workload": workload, "fold": False, "threads": threads}
    expected = fs.simulate(**options)
    expected.write(tmp_path / "expected", format=kind)
    seen: list[dict[str, pa.Table]] = []
    out = tmp_path / "out"
    out.mkdir()
    result = fs.simulate(**options, snapshots=fs.Snapshots(out, format=kind), progress=reading(out, kind, seen))
    assert len(seen) > 20

    for name in ("ops", "tasks", "messages"):
        counts = [tables[name].num_rows for tables in seen]
        assert counts == sorted(counts)
        assert len(set(counts)) > 5
    final = {row["operation"]: row for row in expected.ops.to_pylist()}
    whole = set(expected.messages.to_pandas().itertuples(index=False, name=None))
    for tables in seen:
        assert [column.type for column in tables["ops"].columns] == [column.type for column in expected.ops.columns]
        assert all(final[row["operation"]] == row for row in tables["ops"].to_pylist())
        assert set(tables["tasks"]["operation"].to_pylist()) == set(tables["ops"]["operation"].to_pylist())
        assert set(tables["messages"].to_pandas().itertuples(index=False, name=None)) <= whole
        assert used(tables["channels"]) == used(tables["timeline"])
        assert tables["channels"]["name"].equals(expected.channels["name"])
    busy_ps = np.array([tables["channels"]["busy_ps"].to_numpy() for tables in seen])
    assert (np.diff(busy_ps, axis=0) >= 0).all()
    assert 0 < busy_ps[0].sum() < busy_ps[-1].sum() <= expected.record.channel_busy_ps.sum()
    assert seen[-1]["channels"]["utilization"].to_numpy().max() <= 1

    assert result.digest == expected.digest
    assert not (out / SUMMARY).exists()
    result.write(out, format=kind)
    assert (out / SUMMARY).exists()
    assert held(out) == held(tmp_path / "expected")


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "folded": ("tiny", {"op": "all_reduce", "size": "64KiB", "ranks": 4}, {}),
    "folded, planes together": (
        "tiny",
        {"op": "all_gather", "size": "64KiB", "ranks": 4},
        {"endpoint": "ideal"},
    ),
    "faults at a time": (
        "tiny",
        {"op": "all_to_all", "size": "256KiB", "ranks": 4},
        {"faults": ["lanes:gpu3-nvswitch.0.1=0.5@12us", "arrival_skew:1=1us"]},
    ),
    "in-network operations": ("nvl72", {"op": "all_reduce", "size": "1MiB", "ranks": 8, "algorithm": "sharp"}, {}),
}


@pytest.mark.usefixtures("_often")
@pytest.mark.parametrize("case", CASES)
def test_all_kinds_of_runs_show_the_whole_fabric(case: str, tiny: FabricSpec, tmp_path: Path) -> None:
    """Also of planes that are not simulated; of a workload in one block no operation is seen before the end."""
    name, collective, options = CASES[case]
    arguments: dict[str, Any] = {
        "fabric": tiny if name == "tiny" else fs.load_fabric(name),
        "workload": fs.collective(**collective),
        "threads": 1,
        **options,
    }
    expected = fs.simulate(**arguments)
    seen: list[dict[str, pa.Table]] = []
    result = fs.simulate(**arguments, snapshots=fs.Snapshots(tmp_path), progress=reading(tmp_path, "arrow", seen))
    assert expected.info.folded == ("faults" not in options)
    assert len(seen) > 3
    for tables in seen:
        assert [tables[name].num_rows for name in ("ops", "tasks", "messages")] == [0, 0, 0]
        for column in ("name", "plane", "dead", "buffer_bytes"):
            assert tables["channels"][column].equals(expected.channels[column])
        assert set(tables["timeline"]["plane"].to_pylist()) == set(expected.timeline["plane"].to_pylist())
        assert used(tables["channels"]) == used(tables["timeline"])
    assert seen[-1]["channels"]["busy_ps"].to_numpy().sum() > 0
    assert result.digest == expected.digest
    assert result.channels.equals(expected.channels)
    assert result.timeline.equals(expected.timeline)


def test_rows_that_are_read_too_early_stay_where_they_are() -> None:
    """Blocks in the order in which they came, and the file does not grow; later the rows are in order."""
    rows = Spool({"number": "i4"})
    blocks = [np.array([1, 5]), np.array([0, 3]), np.array([2, 4]), np.array([6])]
    came: list[int] = []
    for block in blocks:
        rows.append([block])
        came += block.tolist()
        end = rows._end
        assert pa.Table.from_batches(rows.as_they_came().batches())["number"].to_pylist() == came
        assert rows._end == end
    assert rows.table()["number"].to_pylist() == sorted(came)


# ----------------------------------------------------------------------------------------------------------------------
# When


def test_snapshots_take_a_hundredth_of_a_run(tiny: FabricSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first after 10 s, then every 10 s, or a hundred times what the last one took after it."""
    monkeypatch.setattr(Simulation, "advance", lambda self, _, advance=Simulation.advance: advance(self, 100))
    now_s, written, took_s = 0.0, [], iter([0.0, 0.05, 0.5, *([0.0] * 1_000)])
    monkeypatch.setattr(time, "perf_counter", lambda: now_s)

    def write(*_: Any, **__: Any) -> None:
        nonlocal now_s
        written.append(now_s)
        now_s += next(took_s)

    def tick(_: Progress) -> None:
        nonlocal now_s
        now_s += 1.0

    monkeypatch.setattr(snapshot, "write_tables", write)
    workload = fs.collective("all_reduce", size="1MiB", ranks=4)
    fs.simulate(tiny, workload, snapshots=fs.Snapshots(tmp_path), progress=tick, threads=1)
    assert written[:2] == [10.0, 20.0]
    assert written[2] == pytest.approx(30.05)
    assert 80.55 <= written[3] < 81.55
    assert 10 <= written[4] - written[3] < 11


# ----------------------------------------------------------------------------------------------------------------------
# What goes wrong


@pytest.fixture
def _terminable() -> Iterator[None]:
    """Let SIGTERM mean what it does in a shell, whoever started the tests."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def run_argv(fabric: Path, out: Path, *options: str) -> list[str]:
    """Run some thousand packet-hops, in slices."""
    return ["run", str(fabric), "all_to_all", "--size", "64KiB", "--threads", "1", "-o", str(out), *options]


@pytest.mark.usefixtures("_often", "_terminable")
def test_what_is_broken_off_is_no_result(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tables stay beside the checkpoint, and nobody takes them for a result; resumed, the run writes over them."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    slices, between = 0, snapshot.SnapshotKeeper.between

    def count(self: snapshot.SnapshotKeeper, run: Simulation) -> None:
        nonlocal slices
        between(self, run)
        slices += 1
        if slices == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(snapshot.SnapshotKeeper, "between", count)
    assert cli.main(run_argv(tiny_path, out)) == 75
    assert sorted(os.listdir(out)) == sorted(["checkpoint", *(f"{name}.arrow" for name in TABLES)])
    assert cli.main(run_argv(tiny_path, whole)) == 0
    capsys.readouterr()
    for argv in (["report", str(out), "-o", str(tmp_path / "page.html")], ["compare", str(out), str(whole)]):
        assert cli.main(argv) == 2
        assert "out holds no complete result: its run still goes on, or was interrupted" in capsys.readouterr().err
    assert cli.main(run_argv(tiny_path, out)) == 2
    assert "of a run that is not complete; add --resume" in capsys.readouterr().err
    assert cli.main(run_argv(tiny_path, out, "--resume", "--format", "parquet")) == 0
    assert sorted(os.listdir(out)) == sorted([SUMMARY, FABRIC, *(f"{name}.parquet" for name in TABLES)])
    for name in TABLES:
        assert READ["parquet"](out / f"{name}.parquet").equals(READ["arrow"](whole / f"{name}.arrow"))


@pytest.mark.usefixtures("_often")
def test_tables_of_another_run_go_when_one_begins(tiny: FabricSpec, tmp_path: Path) -> None:
    """Nobody takes them for those of this one; any other file is refused before the first packet."""
    workload = fs.collective("all_to_all", size="4KiB", ranks=4)
    for kind in FORMATS:
        for name in TABLES:
            (tmp_path / f"{name}.{kind}").touch()
            (tmp_path / f"{name}.{kind}.part").touch()

    def look(_: Progress) -> None:
        assert all(path.stat().st_size for path in tmp_path.iterdir())

    fs.simulate(tiny, workload, snapshots=fs.Snapshots(tmp_path), progress=look)
    assert sorted(os.listdir(tmp_path)) == sorted(f"{name}.arrow" for name in TABLES)
    (tmp_path / "notes").touch()
    with pytest.raises(ConfigError, match="already holds notes, and nothing is written over it"):
        fs.simulate(tiny, workload, snapshots=fs.Snapshots(tmp_path))
    with pytest.raises(ConfigError, match="messages is 0"):
        fs.Snapshots(tmp_path, messages=0)


@pytest.mark.usefixtures("_often")
def test_a_full_disk_does_not_end_a_run(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said once, and nothing half is left; a result that cannot be written is an error as ever."""
    out, fsync, slices = tmp_path / "out", os.fsync, 0

    def full(_: int) -> None:
        nonlocal slices
        slices += 1
        raise OSError(28, "No space left on device")

    def write(self: Result, *arguments: Any, write: Any = Result.write, **options: Any) -> Any:
        assert os.listdir(out) == []
        monkeypatch.setattr(os, "fsync", fsync)
        return write(self, *arguments, **options)

    monkeypatch.setattr(os, "fsync", full)
    with monkeypatch.context() as patch:
        patch.setattr(Result, "write", write)
        assert cli.main(run_argv(tiny_path, out)) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"fabricsim: no tables while the run goes on: {out / 'ops.arrow'}: cannot be written (No space left on device);"
        " choose another place; the run goes on without them"
    )
    assert slices > 1
    assert (out / SUMMARY).exists()
    monkeypatch.setattr(os, "fsync", full)
    assert cli.main(run_argv(tiny_path, tmp_path / "none")) == 2


@pytest.mark.usefixtures("_often")
def test_a_full_disk_is_a_warning_in_python(
    tiny: FabricSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """One for a run."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    workload = fs.collective("all_to_all", size="64KiB", ranks=4)
    fs.simulate(tiny, workload, snapshots=fs.Snapshots(tmp_path), threads=1)
    (warning,) = recwarn
    assert str(warning.message).startswith("no tables while the run goes on: ")


@pytest.mark.usefixtures("_often")
def test_a_checkpoint_does_not_wait_for_tables(
    tiny: FabricSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal amid a snapshot: the table at hand is given up, those after it are not begun."""
    checkpoint, batches = fs.Checkpoint(tmp_path / "checkpoint"), Spool.batches

    def signalled(self: Spool) -> Any:
        checkpoint.stop()  # as the second table is to be written
        return batches(self)

    monkeypatch.setattr(Spool, "batches", signalled)
    workload = fs.collective("all_to_all", size="64KiB", ranks=4)
    with pytest.raises(CheckpointedError):
        fs.simulate(tiny, workload, checkpoint=checkpoint, snapshots=fs.Snapshots(tmp_path), threads=1)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint"]


def test_a_time_for_each_plane(tiny: FabricSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planes that run apart are not at the same time: each channel is as used as its own plane has come."""
    monkeypatch.setattr(Simulation, "reached_ps", lambda _: np.array([1_000_000, 4_000_000]))
    seen: list[Tables] = []
    monkeypatch.setattr(snapshot, "EVERY_S", 0.0)
    monkeypatch.setattr(snapshot, "write_tables", lambda tables, *_, **__: seen.append(tables))
    workload = fs.collective("all_to_all", size="64KiB", ranks=4)
    fs.simulate(tiny, workload, snapshots=fs.Snapshots(tmp_path), threads=1, fold=False)
    channels = seen[0].channels
    time_ps = np.where(channels["plane"].to_numpy() == 0, 1_000_000, 4_000_000)
    assert np.array_equal(channels["utilization"].to_numpy(), channels["busy_ps"].to_numpy() / time_ps)
    assert channels["busy_ps"].to_numpy().any()
