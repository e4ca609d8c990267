"""Traces for the Perfetto viewer, read back with Perfetto's own classes."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace as PerfettoTrace
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TrackDescriptor, TrackEvent

import fabricsim as fs
from fabricsim import cli
from fabricsim.errors import ConfigError
from fabricsim.fabrics import FabricSpec
from fabricsim.results import perfetto
from fabricsim.results.result import Result
from fabricsim.workloads.trace import Clock, trace_from_rows


@pytest.fixture
def run(tiny: FabricSpec) -> Result:
    """Two ranks, each with a computation beside an all-to-all."""
    rows: list[dict[str, Any]] = []
    for rank in range(2):
        rows += [
            {"op": "all_to_all", "rank": rank, "group_id": 0, "group_seq": 0, "send_bytes": 4096, "recv_bytes": 4096,
             "stream": 0, "gap_ns": 1_000 * rank},
            {"op": "compute", "rank": rank, "group_id": 0, "send_bytes": 0, "recv_bytes": 0, "stream": 1,
             "duration_ns": 3_000, "name": "expert"},
        ]  # fmt: skip
    groups = [{"id": 0, "name": "world", "desc": "", "ranks": [0, 1]}]
    trace = trace_from_rows(rows, world_size=2, groups=groups, source={"format": "test"})
    return fs.replay(trace, tiny, kernel="python")


class Read:
    """A trace as a reader sees it: processes and threads, slices and counts by track."""

    def __init__(self, path: Path) -> None:
        trace = PerfettoTrace()
        trace.ParseFromString(path.read_bytes())
        self.processes: dict[int, str] = {}
        self.threads: dict[int, tuple[int, str]] = {}
        self.counters: dict[int, str] = {}
        self.slices: dict[int, list[tuple[str, int, int, dict[str, Any]]]] = defaultdict(list)
        self.counts: dict[int, list[tuple[int, float]]] = defaultdict(list)
        uuids = [packet.track_descriptor.uuid for packet in trace.packet if packet.HasField("track_descriptor")]
        assert len(set(uuids)) == len(uuids)
        root = trace.packet[0].track_descriptor
        assert (root.uuid, root.process_ordering, root.thread_ordering) == (
            0,
            TrackDescriptor.PROCESS_ORDERING_EXPLICIT,
            TrackDescriptor.THREAD_ORDERING_EXPLICIT,
        )
        before = 0
        for packet in trace.packet[1:]:
            assert packet.trusted_packet_sequence_id
            if packet.HasField("track_descriptor"):
                track = packet.track_descriptor
                assert track.sibling_order_rank > before  # shown in the order in which we read them
                before = track.sibling_order_rank
                if track.HasField("process"):
                    self.processes[track.process.pid] = track.process.process_name
                elif track.HasField("thread"):
                    self.threads[track.uuid] = (track.thread.pid, track.thread.thread_name)
                else:
                    self.counters[track.uuid] = f"{track.name} ({track.counter.unit_name})"
                    assert track.parent_uuid in uuids
            else:
                self._event(packet.timestamp, packet.track_event)

    def _event(self, time_ns: int, event: Any) -> None:
        if event.type == TrackEvent.TYPE_COUNTER:
            self.counts[event.track_uuid].append((time_ns, event.double_counter_value))
        elif event.type == TrackEvent.TYPE_SLICE_BEGIN:
            about = {note.name: getattr(note, note.WhichOneof("value")) for note in event.debug_annotations}
            self.slices[event.track_uuid].append((event.name, time_ns, -1, about))
        else:
            assert event.type == TrackEvent.TYPE_SLICE_END
            name, begin_ns, end_ns, about = self.slices[event.track_uuid].pop()
            assert end_ns == -1  # one at a time
            self.slices[event.track_uuid].append((name, begin_ns, time_ns, about))

    def of(self, process: str) -> dict[str, list[tuple[str, int, int, dict[str, Any]]]]:
        """Give the slices of a process by thread."""
        return {name: self.slices[uuid] for uuid, (pid, name) in self.threads.items() if self.processes[pid] == process}


def test_ranks_are_processes_and_operations_slices(run: Result, tmp_path: Path) -> None:
    """The streams of a rank are its threads; a computation is its gap; arguments are the row's figures."""
    assert run.write_perfetto(tmp_path / "run.pftrace") == 0
    read = Read(tmp_path / "run.pftrace")
    assert list(read.processes.values()) == ["fabric tiny", "rank 0", "rank 1"]
    ops = {row["operation"]: row for row in run.ops.to_pylist()}
    tasks = {(row["operation"], row["rank"]): row for row in run.tasks.to_pylist()}
    seen = 0
    for rank in range(2):
        threads = read.of(f"rank {rank}")
        assert list(threads) == ["stream 0", "stream 1"]
        assert [one[0] for one in threads["stream 1"]] == ["expert"]
        for thread, slices in threads.items():
            for name, begin_ns, end_ns, about in slices:
                row, task = ops[about["operation"]], tasks[about["operation"], rank]
                assert thread == f"stream {task['stream']}"
                assert (name, begin_ns, end_ns) == (row["name"], task["begin_ps"] // 1000, task["end_ps"] // 1000)
                assert end_ns - begin_ns == 3_000 or row["op"] != "compute"
                assert about["time_ps_at_this_rank"] == task["end_ps"] - task["begin_ps"]
                figures = ("size_bytes", "time_ps", "lower_bound_ps", "algbw_GBps", "efficiency")
                assert {key: about.get(key) for key in figures} == {key: row[key] for key in figures}
                seen += 1
    assert seen == len(tasks) == 4


def test_what_overlaps_in_a_stream_has_further_threads(tiny: FabricSpec, tmp_path: Path) -> None:
    """Two operations at once in stream 7, a third after them, one in stream 20: in the order of the streams."""
    rows = [
        {"op": "all_to_all", "rank": rank, "group_id": 0, "group_seq": number, "send_bytes": 4096, "recv_bytes": 4096,
         "stream": stream, "t_start_ns": start_ns, "name": name}
        for number, (name, stream, start_ns) in enumerate(
            [("other", 20, 0), ("first", 7, 1), ("second", 7, 2), ("third", 7, 1_000_000)]
        )
        for rank in range(2)
    ]  # fmt: skip
    trace = trace_from_rows(
        rows,
        world_size=2,
        groups=[{"id": 0, "name": "world", "desc": "", "ranks": [0, 1]}],
        clock=Clock(aligned=True, max_skew_ns=None),
        source={"format": "test"},
    )
    fs.replay(trace, tiny, mode="recorded", kernel="python").write_perfetto(tmp_path / "run.pftrace")
    read = Read(tmp_path / "run.pftrace")
    for rank in range(2):
        threads = [(name, [one[0] for one in slices]) for name, slices in read.of(f"rank {rank}").items()]
        assert threads == [("stream 7", ["first", "third"]), ("stream 7 (2)", ["second"]), ("stream 20", ["other"])]


def test_channels_are_counted(run: Result, tmp_path: Path) -> None:
    """Each class has three counters that end at zero, and each of the hottest channels a slice over the whole run."""
    run.write_perfetto(tmp_path / "run.pftrace")
    read = Read(tmp_path / "run.pftrace")
    assert list(read.counters.values()) == [
        f"{name} {what}"
        for name in ("gpu-nvswitch", "nvswitch-gpu")
        for what in ("utilization (%)", "credit stall (%)", "peak buffer occupancy (B)")
    ]
    for uuid in read.counters:
        times_ns = [time_ns for time_ns, _ in read.counts[uuid]]
        assert times_ns == sorted(times_ns)
        assert times_ns[-1] == max(run.timeline["end_ps"].to_pylist()) // 1000
        assert read.counts[uuid][-1][1] == 0
    peak = next(uuid for uuid, name in read.counters.items() if name == "gpu-nvswitch peak buffer occupancy (B)")
    channels = run.channels.to_pandas()
    own = channels[channels["channel_class"] == "gpu-nvswitch"]
    assert max(value for _, value in read.counts[peak]) == own["peak_occupancy_bytes"].max()
    hottest = run.summary()["hottest_channels"]
    threads = read.of("fabric tiny")
    assert [slices[0][0] for slices in threads.values()] == [channel["channel"] for channel in hottest]
    for (_, begin_ns, end_ns, about), channel in zip((one[0] for one in threads.values()), hottest, strict=True):
        assert (begin_ns, end_ns) == (0, run.simulated_time_ps // 1000)
        assert about["utilization"] == channel["utilization"]
        flow = channel["flows"][0]
        assert about["flow 1"] == f"rank {flow['source_rank']} to {flow['target_rank']}: {flow['bytes']:,} B"


def test_the_longest_operations_are_drawn(run: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than there is room for; how many others there are is returned."""
    monkeypatch.setattr(perfetto, "MAX_SLICES", 1)
    assert run.write_perfetto(tmp_path / "run.pftrace") == 3
    read = Read(tmp_path / "run.pftrace")
    longest = max(run.tasks.to_pylist(), key=lambda row: row["end_ps"] - row["begin_ps"])
    ((slices,),) = (read.of(name).values() for name in read.processes.values() if name.startswith("rank"))
    assert [about["operation"] for *_, about in slices] == [longest["operation"]]


def test_the_command(tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One size writes the file, several a file each; what cannot be is refused before the run."""
    options = ("run", str(tiny_path), "all_to_all", "--kernel", "python", "--quiet")
    path = str(tmp_path / "run.pftrace")
    assert cli.main((*options, "--size", "1KiB", "--perfetto", path)) == 0
    assert cli.main((*options, "--size", "1KiB,2KiB", "--perfetto", path, "-o", str(tmp_path / "out"))) == 0
    names = sorted(one.name for one in tmp_path.iterdir())
    assert names == ["out", "run-1KiB.pftrace", "run-2KiB.pftrace", "run.pftrace"]
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["1KiB", "2KiB"]
    capsys.readouterr()
    (tmp_path / "is.pftrace").mkdir()
    for more, words in (
        (("--perfetto", str(tmp_path / "is.pftrace")), "is a folder; give the name of a file"),
        (("--perfetto", str(tmp_path / "none" / "a.perfetto-trace")), "cannot be made: no folder"),
        (("--perfetto", "-"), "whose name ends with .pftrace or .perfetto-trace; give such a name"),
        (("--perfetto", str(tmp_path / "run.json")), "run.json: the trace is a file in Perfetto's own format, whose"),
        (("--perfetto", path, "--estimate"), "--estimate runs nothing, so there is nothing to write or keep"),
    ):
        assert cli.main((*options, "--size", "1KiB", *more)) == 2
        assert words in capsys.readouterr().err


def test_a_missing_library_is_named(run: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the command says how to get it, before the run."""
    monkeypatch.setitem(sys.modules, "perfetto.trace_builder.proto_builder", None)
    with pytest.raises(ConfigError, match=r"--perfetto needs perfetto\..*; .*: pip install 'fabricsim\[perfetto"):
        perfetto.PerfettoFiles(str(tmp_path / "a.pftrace"))
