"""The result of one run: checked, as Arrow tables, as a summary and as a digest."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from fabricsim.engine.driver import RunFigures
from fabricsim.fabrics import FabricSpec
from fabricsim.fabrics.network import Network
from fabricsim.results import metrics
from fabricsim.results.attribution import KEYS
from fabricsim.results.bottleneck import Bottleneck, find_bottleneck
from fabricsim.results.collected import Collected
from fabricsim.results.hottest import hottest_channels
from fabricsim.results.output import MAX_MESSAGES, write_result
from fabricsim.results.traffic import Int32, Int64
from fabricsim.results.versions import library_versions, package_version

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = "fabricsim.result/1"

#: Rows of ``ops`` that are dictionaries at a time, of about 1 kB each.
OP_BATCH_ROWS = 1 << 12


@dataclass(frozen=True)
class RunInfo:
    """What was asked for, beside the network and the schedule, and what the engine did for it; goes into the summary.

    ``spec`` is the fabric, with the numbers that were set for the run. ``late_faults`` are those faults that came after
    its end. ``folding`` says how planes were folded, or why not (``fabricsim.engine.folding``). ``run_sha256`` hashes
    all that decides the result (``fabricsim.results.checkpoint.identity_of``), of runs with a checkpoint.
    """

    spec: FabricSpec
    workload: Mapping[str, Any]
    placement: str
    endpoint: str
    faults: tuple[str, ...]
    late_faults: tuple[str, ...]
    seed: int
    folded: bool
    folding: str
    packet_hops_simulated: int
    wall_s: float
    run_sha256: str | None = None


class Tables:
    """What happened in a run, or so far in one that goes on, as Arrow tables.

    ``channel_time_ps`` is how far the run has come in simulated time, as one figure or by channel (int64).
    """

    def __init__(
        self, network: Network, record: RunFigures, collected: Collected, channel_time_ps: int | Int64
    ) -> None:
        self.network = network
        self.record = record
        self.collected = collected
        self._channel_time_ps = channel_time_ps

    def op_rows(self) -> Iterator[dict[str, Any]]:
        """Make the rows of ``ops`` as dictionaries, one after the other, without loading Arrow."""
        return self.collected.operation_rows()

    @cached_property
    def ops(self) -> pa.Table:
        """One row per operation, as an Arrow table.

        ``operation`` is its number in the schedule, in which the joins that a replay adds have numbers too.
        ``begin_ps`` is when its last rank arrived, ``end_ps`` when its last rank was done, ``time_ps`` their
        difference; for a computation ``begin_ps`` is the begin of its gap. ``lower_bound_ps`` bounds ``time_ps``, and
        ``efficiency`` is their ratio. Null: not defined, or not recorded.
        """
        import pyarrow as pa

        return pa.Table.from_batches(self.op_batches())

    def op_batches(self) -> Iterator[pa.RecordBatch]:
        """Make ``ops`` batch by batch, for those who need not hold it as a whole; at least one, maybe empty."""
        import pyarrow as pa

        schema = pa.schema(
            {
                "operation": pa.int32(),
                "name": pa.string(),
                "op": pa.string(),
                "algorithm": pa.string(),
                "ranks": pa.int32(),
                "size_bytes": pa.int64(),
                "begin_ps": pa.int64(),
                "end_ps": pa.int64(),
                "time_ps": pa.int64(),
                "algbw_GBps": pa.float64(),
                "busbw_GBps": pa.float64(),
                "lower_bound_ps": pa.int64(),
                "efficiency": pa.float64(),
                "recorded_ps": pa.int64(),
                **{f"{key}_ps": pa.int64() for key in KEYS},
            }
        )
        rows = self.op_rows()
        yield pa.RecordBatch.from_pylist(list(islice(rows, OP_BATCH_ROWS)), schema)
        while batch := list(islice(rows, OP_BATCH_ROWS)):
            yield pa.RecordBatch.from_pylist(batch, schema)

    @cached_property
    def tasks(self) -> pa.Table:
        """One row per operation of ``ops`` and rank, as an Arrow table: its stream, and begin and end there in ps."""
        return self.collected.tasks.table()

    @cached_property
    def messages(self) -> pa.Table:
        """One row per message, as an Arrow table: its ends, its size, and when it was ready, injected and complete."""
        return self.collected.messages.table()

    @cached_property
    def channels(self) -> pa.Table:
        """One row per channel, as an Arrow table: where it runs and what it carried.

        ``name`` is ``source-target``, which names the link for ``--fault``. ``dead`` tells whether a fault keeps it
        from carrying anything. ``utilization`` is its busy fraction of the simulated time, null where it is dead.
        ``buffer_bytes`` and ``peak_occupancy_bytes`` are of the buffer at its downstream end, of which each virtual
        channel has one: the size of one, and the largest occupancy of one.
        """
        import pyarrow as pa

        channels, record = self.network.channels, self.record
        names = self.network.node_names
        nodes = pa.array(names, pa.string())
        ends = zip(channels.source_node.tolist(), channels.target_node.tolist(), strict=True)
        classes = pa.array(self.network.channel_class_names, pa.string())
        return pa.table(
            {
                "name": [f"{names[source]}-{names[target]}" for source, target in ends],
                "source": pa.DictionaryArray.from_arrays(channels.source_node, nodes),
                "target": pa.DictionaryArray.from_arrays(channels.target_node, nodes),
                "plane": channels.plane,
                "channel_class": pa.DictionaryArray.from_arrays(channels.channel_class, classes),
                "bandwidth_GBps": channels.ps_per_byte_den * 1000 / channels.ps_per_byte_num,
                "latency_ps": channels.latency_ps,
                "busy_ps": record.channel_busy_ps,
                "dead": channels.dead,
                "utilization": pa.array(
                    record.channel_busy_ps / np.maximum(self._channel_time_ps, 1),
                    mask=channels.dead,
                    type=pa.float64(),
                ),
                "wire_bytes": record.channel_wire_bytes,
                "packets": record.channel_packets,
                "credit_stall_ps": record.channel_credit_stall_ps,
                "peak_occupancy_bytes": record.channel_peak_occupancy_bytes,
                "buffer_bytes": channels.buffer_bytes,
            }
        )

    @cached_property
    def timeline(self) -> pa.Table:
        """One row per plane, channel class and span of simulated time, as an Arrow table: what its channels did then.

        ``plane`` is null where planes share a row. ``utilization`` is the busy fraction of the live channels of the
        row, null where there are none. The packets that start within a span count there as wholes, so one that is as
        short as a packet may be over 1.
        """
        import pyarrow as pa

        channels, timeline = self.network.channels, self.record.timeline
        planes, classes, bins = timeline.busy_ps.shape
        plane = channels.plane if planes > 1 else np.zeros(len(channels), np.int32)
        row = plane * classes + channels.channel_class
        present = np.flatnonzero(np.bincount(row, minlength=planes * classes))
        live = np.repeat(np.bincount(row[~channels.dead], minlength=planes * classes)[present], bins)
        begin_ps = np.tile(np.arange(bins) * timeline.bin_ps, len(present))
        names = pa.array(self.network.channel_class_names, pa.string())

        def column(values: Int64) -> Int64:
            rows: Int64 = values.reshape(planes * classes, bins)[present].reshape(-1)
            return rows

        return pa.table(
            {
                "begin_ps": begin_ps,
                "end_ps": begin_ps + timeline.bin_ps,
                "plane": pa.array(
                    np.repeat(present // classes, bins), pa.int32(), mask=np.full(len(live), planes == 1)
                ),
                "channel_class": pa.DictionaryArray.from_arrays(
                    np.repeat(present % classes, bins).astype(np.int32), names
                ),
                "busy_ps": column(timeline.busy_ps),
                "credit_stall_ps": column(timeline.credit_stall_ps),
                "peak_occupancy_bytes": column(timeline.peak_occupancy_bytes),
                "utilization": pa.array(
                    column(timeline.busy_ps) / (np.maximum(live, 1) * timeline.bin_ps),
                    mask=live == 0,
                    type=pa.float64(),
                ),
            }
        )


class Result(Tables):
    """What happened in one run.

    Attributes
    ----------
    network : Network
        The fabric as simulated, with its packet format, endpoint and routing.
    num_ranks : int
        Ranks of the workload.
    terminal_of_rank : numpy.ndarray
        Shape (ranks,), int32: the placement.
    record : RunFigures
        The kernel's own figures of the whole run, unfolded.
    collected : Collected
        What was recorded of operations, tasks and messages; the tables below are made from it.
    info : RunInfo
        What was asked for, and what the engine did for it.

    Raises
    ------
    SelfCheckError
        The record contradicts the physics: bytes lost or doubled, an effect before its cause, a time below its lower
        bound. No result with such a fault can be had.
    """

    def __init__(
        self,
        *,
        network: Network,
        num_ranks: int,
        terminal_of_rank: Int32,
        record: RunFigures,
        collected: Collected,
        info: RunInfo,
    ) -> None:
        super().__init__(network, record, collected, collected.simulated_ps)
        self.num_ranks = num_ranks
        self.terminal_of_rank = terminal_of_rank
        self.info = info
        collected.finish(record)

    def __repr__(self) -> str:
        """Say what ran where, and how long it took."""
        operations = self.num_operations
        return (
            f"<Result of {operations} operation{'s' * (operations != 1)} over {self.num_ranks} ranks on "
            f"{self.network.name}: {self.simulated_time_ps / metrics.PS_PER_US:,.3f} us>"
        )

    @property
    def num_operations(self) -> int:
        """Operations of the workload, computations among them, without the joins that a replay adds."""
        return self.collected.num_operations

    @property
    def simulated_time_ps(self) -> int:
        """When the last task ended, in picoseconds."""
        return self.collected.simulated_ps

    @property
    def in_flight_ps(self) -> int:
        """For how long at least one message was ready and not complete, in picoseconds."""
        return self.collected.in_flight_ps

    @property
    def routing(self) -> str | None:
        """How packets with a choice were routed; ``None`` where no packet of this run has one."""
        return self.network.routing if self.collected.has_choice else None

    @property
    def digest(self) -> str:
        """SHA-256 over all task and message times, hexadecimal (docs/physics.md, section 10)."""
        return self.collected.digest

    @cached_property
    def message_latency(self) -> metrics.Distribution:
        """Complete minus ready over all messages that made packets, exact."""
        return metrics.exact_distribution(self.collected.message_latencies_ps)

    @cached_property
    def packet_latency(self) -> metrics.Distribution:
        """Delivery minus start on the first channel over all packets, from the kernel's histogram."""
        record = self.record
        return metrics.histogram_distribution(
            record.packet_latency_counts, record.packet_latency_sum_ps, record.packet_latency_max_ps
        )

    @cached_property
    def utilization(self) -> dict[str, metrics.Utilization]:
        """Busy fractions of the simulated time by channel class, in the order of a route; of live channels only."""
        channels = self.network.channels
        live = {
            name: np.flatnonzero((channels.channel_class == number) & ~channels.dead)
            for number, name in enumerate(self.network.channel_class_names)
        }
        return {
            name: metrics.utilization(self.record.channel_busy_ps[rows], self.simulated_time_ps)
            for name, rows in live.items()
            if len(rows)
        }

    @property
    def efficiency(self) -> float | None:
        """Lower bounds over times, of all operations that could move something together; ``None`` without any."""
        return self.collected.efficiency

    @cached_property
    def bottleneck(self) -> Bottleneck:
        """What holds the run back."""
        return find_bottleneck(self)

    @cached_property
    def hottest_channels(self) -> list[dict[str, Any]]:
        """The ten channels that were busy longest, ready for JSON, each with the five largest of its flows."""
        return hottest_channels(self)

    def summary(self, *, command: str | None = None) -> dict[str, Any]:
        """Sum the run up as a JSON-ready dictionary of the schema ``fabricsim.result/1``.

        Times are in microseconds where their name says ``_us``, bandwidths in 10^9 bytes per second; ``efficiency``
        and ``utilization`` are fractions. ``None`` stands where a figure is not defined. Fields may be added in later
        versions, none is renamed.

        Parameters
        ----------
        command
            The command line that asked for the run; ``None`` if Python did.
        """
        record, network, path = self.record, self.network, self.collected.critical_path
        return {
            "schema": SCHEMA,
            "fabricsim_version": package_version(),
            "versions": library_versions(),
            "command": command,
            "kernel": record.kernel,
            "kernel_reason": record.kernel_reason,
            "threads": record.threads,
            "folded": self.info.folded,
            "folding": self.info.folding,
            "seed": self.info.seed,
            "digest": self.digest,
            "fabric": {
                "name": network.name,
                "terminals": network.num_terminals,
                "channels": len(network.channels),
                "planes": network.num_planes,
                "spec_sha256": self.info.spec.spec_sha256,
                "overrides": dict(self.info.spec.overrides),
                "packet": dataclasses.asdict(network.packet),
                "endpoint": self.info.endpoint,
                "completion": "acked" if network.endpoint.acked else "sent",
                "routing": self.routing,
                "virtual_channels": network.vcs.count,
                "arbitration": network.vcs.arbitration,
                "faults": list(self.info.faults),
                "late_faults": list(self.info.late_faults),
                "dead_channels": int(network.channels.dead.sum()),
            },
            "workload": {
                **self.info.workload,
                "ranks": self.num_ranks,
                "placement": self.info.placement,
                "operations": self.num_operations,
                "messages": self.collected.num_messages,
                "message_bytes": self.collected.message_bytes,
            },
            "simulated_time_ps": self.simulated_time_ps,
            "wall_s": self.info.wall_s,
            "packets": record.packets,
            "packet_hops": record.packet_hops,
            "packet_hops_simulated": self.info.packet_hops_simulated,
            "packet_hops_per_s": self.info.packet_hops_simulated / record.engine_s if record.engine_s else None,
            "ops": [_op_summary(row) for row in self.op_rows()],
            "latency_us": {
                "message": dataclasses.asdict(self.message_latency),
                "packet": dataclasses.asdict(self.packet_latency),
            },
            "utilization": {name: dataclasses.asdict(used) for name, used in self.utilization.items()},
            "attribution": {"ps": path.ps, "percent": path.percent},
            "efficiency": self.efficiency,
            "bottleneck": dataclasses.asdict(self.bottleneck),
            "hottest_channels": self.hottest_channels,
        }

    def write(
        self,
        folder: str | os.PathLike[str],
        *,
        format: str = "arrow",
        messages: int = MAX_MESSAGES,
        command: str | None = None,
    ) -> dict[str, Any]:
        """Write the summary, the tables and what the fabric is into a folder (docs/results.md).

        Each file appears under its name once it is whole, ``summary.json`` last.

        Parameters
        ----------
        folder
            Made if need be; it may hold nothing but what a run that was broken off has left there.
        format
            Of the tables: ``"arrow"`` (the file format of Arrow IPC, also known as Feather) or ``"parquet"``.
        messages
            Of more messages than this, only so many are written: those that took longest from ready to complete.
        command
            As for ``summary``.

        Returns
        -------
        dict
            What stands in ``summary.json``: the summary, and in ``files`` what was written and what was left out.

        Raises
        ------
        ConfigError
            The folder holds something, or cannot be written; an unknown format; ``messages`` below 1.
        """
        return write_result(self, folder, format=format, messages=messages, command=command)

    def write_perfetto(self, path: str | os.PathLike[str]) -> int:
        """Write the run as a trace for the Perfetto viewer, whole or not at all (docs/results.md).

        Returns
        -------
        int
            Of how many operations at a rank there was no room: the longest 100,000 are drawn.

        Raises
        ------
        ConfigError
            The extra ``perfetto`` is not installed, or the file cannot be written.
        """
        from fabricsim.results.perfetto import write_perfetto

        return write_perfetto(self, path)


def _op_summary(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{key: row[key] for key in ("name", "op", "ranks", "size_bytes", "algorithm")},
        "time_us": row["time_ps"] / metrics.PS_PER_US,
        "algbw_GBps": row["algbw_GBps"],
        "busbw_GBps": row["busbw_GBps"],
        "lower_bound_us": row["lower_bound_ps"] / metrics.PS_PER_US,
        "efficiency": row["efficiency"],
        "recorded_us": None if row["recorded_ps"] is None else row["recorded_ps"] / metrics.PS_PER_US,
        "attribution_us": {key: row[f"{key}_ps"] / metrics.PS_PER_US for key in KEYS},
    }
