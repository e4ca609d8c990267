"""A run as a Perfetto trace (perfetto.dev), which the timeline viewers of its family open.

Each rank is a process, each of its streams a thread, an operation there a slice; those that overlap in a stream lie on
further threads. The process ``fabric`` has counters by channel class, and a slice as long as the run for each of the
hottest channels. Perfetto counts nanoseconds; arguments of the slices have the exact picoseconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fabricsim.errors import ConfigError
from fabricsim.files import whole_file
from fabricsim.results.extras import needed_from
from fabricsim.results.lanes import lanes_of
from fabricsim.results.output import longest
from fabricsim.results.over_time import classes_over_time

if TYPE_CHECKING:
    from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TracePacket
    from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder

    from fabricsim.results.result import Result
    from fabricsim.results.spool import Spool

#: Of more tasks the longest are drawn: 25 MB.
MAX_SLICES = 100_000

#: How names of such files end.
SUFFIXES = (".pftrace", ".perfetto-trace")

PS_PER_NS = 1_000
FABRIC_PID = 1
#: Of the packets that make tracks and events: one writer, which resets nothing.
SEQUENCE = 1


class PerfettoFiles:
    """Where the traces of one command go: *path* itself, or for a result with a name ``trace-nvl72.pftrace``.

    ``None`` for the path writes nothing. Raises ConfigError, before anything runs, where nothing can be written.
    """

    def __init__(self, path: str | None) -> None:
        self._path = None if path is None else Path(path)
        if self._path is not None:
            if self._path.suffix not in SUFFIXES:
                raise ConfigError(
                    f"--perfetto {path}: the trace is a file in Perfetto's own format, whose name ends with "
                    f"{' or '.join(SUFFIXES)}; give such a name"
                )
            _writer()
            if self._path.is_dir() or not self._path.parent.is_dir():
                what = "is a folder" if self._path.is_dir() else f"cannot be made: no folder {self._path.parent}"
                raise ConfigError(f"--perfetto {path}: the file {what}; give the name of a file in an existing folder")

    def write(self, result: Result, name: str) -> str | None:
        """Write a result, and return a sentence on what was left out, if anything was."""
        if self._path is None:
            return None
        path = self._path.with_stem(f"{self._path.stem}-{name}") if name else self._path
        left_out = result.write_perfetto(path)
        if not left_out:
            return None
        return f"{path}: the {MAX_SLICES:,} longest operations at a rank are drawn, {left_out:,} others are left out"


def write_perfetto(result: Result, path: str | os.PathLike[str]) -> int:
    """Write a trace, whole or not at all, and return how many operations at a rank were left out of it."""
    tasks = result.collected.tasks
    kept = min(tasks.num_rows, MAX_SLICES)
    with whole_file(path) as sink:
        trace = _Trace(_writer()(sink))
        _write_fabric(trace, result)
        _write_ranks(trace, result, tasks, kept)
    return tasks.num_rows - kept


def _writer() -> type[StreamingTraceProtoBuilder]:
    with needed_from("perfetto", "--perfetto"):
        from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder
    builder: type[StreamingTraceProtoBuilder] = StreamingTraceProtoBuilder
    return builder


class _Trace:
    """Tracks and what happens on them; a track is its number. Processes and their threads are shown in this order."""

    def __init__(self, builder: StreamingTraceProtoBuilder) -> None:
        from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as words

        self._builder = builder
        self._words = words
        self._tracks = 0
        # Track 0 stands for the whole; if it does not ask for their order, viewers show first what is busiest.
        whole = self._packet()
        whole.track_descriptor.uuid = 0
        whole.track_descriptor.process_ordering = words.TrackDescriptor.PROCESS_ORDERING_EXPLICIT
        whole.track_descriptor.thread_ordering = words.TrackDescriptor.THREAD_ORDERING_EXPLICIT
        builder.write_packet(whole)

    def process(self, pid: int, name: str) -> int:
        packet, track = self._track()
        packet.track_descriptor.process.pid = pid
        packet.track_descriptor.process.process_name = name
        self._builder.write_packet(packet)
        return track

    def thread(self, pid: int, name: str) -> int:
        packet, track = self._track()
        thread = packet.track_descriptor.thread
        # A thread whose number is the process's would be its main thread; tracks have numbers that nothing else has.
        thread.pid, thread.tid, thread.thread_name = pid, (1 << 24) + track, name
        self._builder.write_packet(packet)
        return track

    def counter(self, process: int, name: str, unit: str) -> int:
        packet, track = self._track()
        packet.track_descriptor.parent_uuid = process
        packet.track_descriptor.name = name
        packet.track_descriptor.counter.unit_name = unit
        self._builder.write_packet(packet)
        return track

    def slice(self, track: int, name: str, begin_ps: int, end_ps: int, about: Mapping[str, Any]) -> None:
        begin = self._event(track, begin_ps, self._words.TrackEvent.TYPE_SLICE_BEGIN)
        begin.track_event.name = name
        for key, value in about.items():
            if value is not None:
                note = begin.track_event.debug_annotations.add()
                note.name = key
                kind = {str: "string_value", int: "int_value", float: "double_value"}[type(value)]
                setattr(note, kind, value)
        self._builder.write_packet(begin)
        self._builder.write_packet(self._event(track, end_ps, self._words.TrackEvent.TYPE_SLICE_END))

    def count(self, track: int, time_ps: int, value: float) -> None:
        event = self._event(track, time_ps, self._words.TrackEvent.TYPE_COUNTER)
        event.track_event.double_counter_value = value
        self._builder.write_packet(event)

    def _track(self) -> tuple[TracePacket, int]:
        self._tracks += 1
        packet = self._packet()
        packet.track_descriptor.uuid = packet.track_descriptor.sibling_order_rank = self._tracks
        return packet, self._tracks

    def _event(self, track: int, time_ps: int, kind: Any) -> TracePacket:
        packet = self._packet()
        packet.timestamp = time_ps // PS_PER_NS
        packet.track_event.track_uuid = track
        packet.track_event.type = kind
        return packet

    def _packet(self) -> TracePacket:
        packet = self._builder.create_packet()
        packet.trusted_packet_sequence_id = SEQUENCE
        return packet


def _write_fabric(trace: _Trace, result: Result) -> None:
    process = trace.process(FABRIC_PID, f"fabric {result.network.name}")
    for row in classes_over_time(result.timeline, result.channels):
        for name, unit, values in (
            (f"{row.name} utilization", "%", 100 * row.utilization),
            (f"{row.name} credit stall", "%", 100 * row.credit_stall),
            (f"{row.name} peak buffer occupancy", "B", row.peak_occupancy_bytes),
        ):
            track = trace.counter(process, name, unit)
            for time_ps, value in zip(row.edges_ps.tolist(), [*values.tolist(), 0], strict=True):
                trace.count(track, time_ps, value)
    for place, channel in enumerate(result.summary()["hottest_channels"], start=1):
        about = {key: value for key, value in channel.items() if not isinstance(value, list)}
        for number, flow in enumerate(channel["flows"], start=1):
            about[f"flow {number}"] = f"rank {flow['source_rank']} to {flow['target_rank']}: {flow['bytes']:,} B"
        track = trace.thread(FABRIC_PID, f"hottest channel {place}")
        trace.slice(track, channel["channel"], 0, result.simulated_time_ps, about)


def _write_ranks(trace: _Trace, result: Result, tasks: Spool, kept: int) -> None:
    columns = [
        np.concatenate(parts) if len(parts) else np.zeros(0, np.int64)
        for parts in zip(*_columns(tasks, kept), strict=True)
    ]
    operation, rank, stream, begin_ps, end_ps = columns
    drawn = set(operation.tolist())
    rows = {row["operation"]: row for row in result.op_rows() if row["operation"] in drawn}
    lane = lanes_of(rank, stream, begin_ps, end_ps)
    tracks: dict[tuple[int, int, int], int] = {}
    here = -1
    for place in np.lexsort((end_ps, begin_ps, lane, stream, rank)).tolist():
        if int(rank[place]) != here:
            here = int(rank[place])
            trace.process(FABRIC_PID + 1 + here, f"rank {here}")
        where = (here, int(stream[place]), int(lane[place]))
        if where not in tracks:
            name = f"stream {where[1]}" if where[2] == 0 else f"stream {where[1]} ({where[2] + 1})"
            tracks[where] = trace.thread(FABRIC_PID + 1 + here, name)
        row = rows[int(operation[place])]
        about = {
            **{key: row[key] for key in ("operation", "op", "algorithm", "ranks", "size_bytes")},
            "time_ps_at_this_rank": int(end_ps[place] - begin_ps[place]),
            **{key: row[key] for key in ("time_ps", "lower_bound_ps", "algbw_GBps", "busbw_GBps", "efficiency")},
        }
        trace.slice(tracks[where], row["name"], int(begin_ps[place]), int(end_ps[place]), about)


def _columns(tasks: Spool, kept: int) -> Iterator[list[Any]]:
    for batch in longest(tasks, kept, "begin_ps", "end_ps"):
        yield [column.to_numpy() for column in batch.columns]
