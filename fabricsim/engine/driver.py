"""The driver: runs a kernel in slices, grows its tables, reports progress, and says why nothing moves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fabricsim.engine import backends
from fabricsim.engine.changes import Change, change_network
from fabricsim.engine.checkpoint import load_state
from fabricsim.engine.layout import LATENCY_ROWS, NEVER, TIMELINE_BINS, Code, Part, Rows, State
from fabricsim.engine.stall import describe_stall
from fabricsim.engine.state import LIMIT_PS, allocate, grow, is_plain, total_packets
from fabricsim.engine.threads import Threads, threads_of_run
from fabricsim.engine.warmup import compile_once
from fabricsim.engine.work import BlockRecord, Sink, Work, record_of
from fabricsim.errors import ConfigError, StallError
from fabricsim.fabrics.network import Network
from fabricsim.workloads.schedule import Schedule, ScheduleBlock, ScheduleBlocks

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

#: A slice aims at this wall time [s], so that signals and progress are never far.
SLICE_S = 0.1


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    simulated_ps: int
    packet_hops: int
    tasks_ended: int
    num_tasks: int
    delivered_packets: int
    total_packets: int
    elapsed_s: float
    compiling: str = ""  #: before the run: that the kernel is being compiled, here or by whom


@dataclass(frozen=True, eq=False)
class Timeline:
    """The use of channels over time; bin b is [b * bin_ps, (b + 1) * bin_ps), and all belongs to the bin of its start.

    ``busy_ps`` (sum of serialization), ``credit_stall_ps`` and ``peak_occupancy_bytes`` (of one buffer, just after a
    start) are int64 of the shape (domains, channel classes, bins); domains are planes where planes run apart, else one
    of all. ``bin_ps`` is a power of two.
    """

    bin_ps: int
    busy_ps: Int64
    credit_stall_ps: Int64
    peak_occupancy_bytes: Int64

    def __eq__(self, other: object) -> bool:
        """Tell whether all figures are equal."""
        return isinstance(other, Timeline) and all(
            np.array_equal(vars(self)[name], vars(other)[name]) for name in vars(self)
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class RunFigures:
    """What a kernel recorded of a run as a whole (docs/physics.md, section 10); int64 arrays unless said otherwise.

    ``channel_*`` has one entry per channel of the network.
    ``packet_latency_counts`` is a histogram: bucket v for v < 256 ps, else ``128 * shift + (v >> shift)``
    with ``shift = bit_length(v) - 8``. ``domain_*`` are its parts: by plane where planes run apart
    (``fabricsim.engine.state.planes_run_apart``), else one of all; counts have the shape (domains, buckets), sums are
    Python integers. ``engine_s`` is the wall time inside the kernel, after compilation.
    """

    channel_busy_ps: Int64
    channel_wire_bytes: Int64
    channel_packets: Int64
    channel_credit_stall_ps: Int64
    channel_peak_occupancy_bytes: Int64
    packet_latency_counts: Int64
    packet_latency_sum_ps: int
    packet_latency_max_ps: int
    domain_latency_counts: Int64
    domain_latency_sum_ps: tuple[int, ...]
    domain_packets: Int64
    timeline: Timeline
    packets: int
    packet_hops: int
    engine_s: float
    kernel: str
    kernel_reason: str
    threads: int


@dataclass(frozen=True)
class RunRecord(BlockRecord, RunFigures):
    """What a kernel recorded of a schedule: ``task_*`` has one entry per task, ``message_*`` one per message."""


class Keeper(Protocol):
    """Keeps something of a run that goes on: checkpoints, or its tables."""

    def begin(self, run: Simulation) -> None:
        """Bring a run that has not begun to where it was before, if it was anywhere."""

    def between(self, run: Simulation) -> None:
        """See a run after each slice; what is raised here ends it."""


def discard(retired: list[tuple[ScheduleBlock, BlockRecord]], horizon_ps: int) -> None:
    """Take what was recorded of blocks, for those who read it from the tables."""


class Simulation:
    """One run: a state, a kernel, and the loop between them.

    ``workload`` is a schedule, or blocks of one, which come into the tables as the run gets near them.
    ``terminal_of_rank[r]`` is the terminal of rank r (int32, all different). ``threads`` is the most that ``run`` uses,
    ``None`` what the machine or Slurm gives. *changes* are the networks that take the place of *network*, in the order
    of their times. Raises ConfigError for an unknown or unusable kernel, or no threads.
    """

    def __init__(
        self,
        network: Network,
        workload: Schedule | ScheduleBlocks,
        terminal_of_rank: Int32,
        *,
        seed: int = 1,
        kernel: str = "auto",
        threads: int | None = None,
        sink: Sink = discard,
        changes: Sequence[Change] = (),
    ) -> None:
        self.network = network = network.split_into_vcs()
        self._changes = list(changes)
        blocks = workload if isinstance(workload, ScheduleBlocks) else ScheduleBlocks.of(workload)
        self.kernel, self.kernel_reason = backends.choose(kernel)
        self._sink = sink
        self.num_tasks = blocks.num_tasks
        self.work = Work(network, blocks, terminal_of_rank, seed)
        first = self.work.first
        self.state: State = self.work.begin(allocate(network, first.schedule, terminal_of_rank, seed, first.operation))
        if self._changes:
            refuse_untimed(network, self.state)
        self._halt_at_next_change()
        self._run = backends.load(self.kernel, plain=is_plain(self.state))
        self.threads = threads_of_run(threads, len(self.state.domains))
        self.total_packets = (
            total_packets(network, self.state.messages) if self.num_tasks == len(first.schedule.tasks) else 0
        )
        self.engine_s = 0.0
        self._latency_sum_ps = [0] * len(self.state.domains)

    def advance(self, max_events: int) -> Code:
        """Run one slice of about *max_events* events, growing tables as needed.

        Returns SLICE, DONE, STALLED or TIME_LIMIT.
        """
        end = int(self.state.domains["hops"].sum()) + max_events
        while True:
            left = max(0, end - int(self.state.domains["hops"].sum()))
            code = Code(self._run(self.state, int(Part.WHOLE), left))
            self._drain()
            if code not in (Code.PACKETS_FULL, Code.NEED_WORK, Code.HALT):
                return code
            self._make_room(code)

    def _halt_at_next_change(self) -> None:
        """Let the kernel stop where the network changes next."""
        self.state.clock["halt_ps"] = self._changes[0].time_ps if self._changes else NEVER

    def advance_threads(self, threads: Threads) -> Code:
        """Run one slice on several threads; as ``advance``, but for the time ``SLICE_S``."""
        while True:
            code = threads.advance(self.state, SLICE_S)
            self._drain()
            if code not in (Code.PACKETS_FULL, Code.NEED_WORK, Code.HALT):
                return code
            self._make_room(code)

    def dump(self) -> dict[str, Any]:
        """Return what a checkpoint keeps between two slices: the tables themselves, and values that JSON knows.

        Neither kernel nor threads are part of it.
        """
        return {
            "state": self.state._asdict(),
            "work": self.work.dump(),
            "changes_left": len(self._changes),
            "total_packets": int(self.total_packets),
            "engine_s": self.engine_s,
            "latency_sum_ps": self._latency_sum_ps,
        }

    def load(self, stored: Mapping[str, Any]) -> None:
        """Go to where another run of the same network, workload and seed was when it gave ``dump``."""
        while len(self._changes) > stored["changes_left"]:
            self.network = self._changes.pop(0).network.split_into_vcs()
        self.state = load_state(stored["state"])
        self.work.load(stored["work"], self.network)
        self.total_packets = stored["total_packets"]
        self.engine_s = stored["engine_s"]
        self._latency_sum_ps = list(stored["latency_sum_ps"])

    def _make_room(self, code: Code) -> None:
        """Give a kernel what it asks for: packets, the next block, or the network from now on."""
        if code == Code.PACKETS_FULL:
            self.state = grow(self.state)
        elif code == Code.HALT:
            change = self._changes.pop(0)
            old, self.network = self.network, change.network.split_into_vcs()
            self.state = change_network(self.state, old, self.network, change.time_ps)
            self.state = self.work.change(self.state, self.network, change.time_ps)
            self.total_packets = total_packets(self.network, self.state.messages) if self.total_packets else 0
            self._halt_at_next_change()
        else:
            begin_s = time.perf_counter()
            self.work.retire(self.state, self._sink)
            for lane in self.work.due(self.state):
                self.state = self.work.admit(self.state, lane)
            self.engine_s -= time.perf_counter() - begin_s  # no time of the kernel

    def _drain(self) -> None:
        """Take over what grows beyond 64 bits in a long run."""
        domains = self.state.domains
        for domain, sum_ps in enumerate(domains["packet_latency_sum_ps"].tolist()):
            self._latency_sum_ps[domain] += sum_ps
        domains["packet_latency_sum_ps"] = 0

    def run(self, progress: Callable[[Progress], None] | None = None) -> RunRecord:
        """Run a schedule to the end and return the record; as ``run_to_end``."""
        self.run_to_end(progress)
        return self.record()

    def run_to_end(
        self, progress: Callable[[Progress], None] | None = None, keepers: Sequence[Keeper] = ()
    ) -> RunFigures:
        """Run to the end, hand what was recorded of the blocks to the sink, and return the figures of the whole.

        *progress* and *keepers* are called between slices. Raises StallError if nothing can happen any more,
        ConfigError at the time limit. KeyboardInterrupt passes through, between two slices.
        """
        if self.kernel == "numba":

            def report(words: str) -> None:
                if progress is not None:
                    progress(replace(self.progress(0.0), compiling=words))

            compile_once(self._run, self.state, report)
        for keeper in keepers:
            keeper.begin(self)
        begin_s = time.perf_counter() - self.engine_s
        with ExitStack() as stack:
            threads = stack.enter_context(Threads(self._run, self.threads)) if self.threads > 1 else None
            max_events = 1_000
            code = Code.SLICE
            while code == Code.SLICE:
                slice_begin_s = time.perf_counter()
                code = self.advance(max_events) if threads is None else self.advance_threads(threads)
                slice_s = time.perf_counter() - slice_begin_s
                self.engine_s += slice_s
                if progress is not None:
                    progress(self.progress(time.perf_counter() - begin_s))
                for keeper in keepers:
                    keeper.between(self)
                max_events = max(100, min(2 * max_events, int(max_events * SLICE_S / max(slice_s, 1e-6))))
        if code == Code.STALLED:
            raise StallError(describe_stall(self.state, self.network, self.work))
        if code == Code.TIME_LIMIT:
            raise ConfigError(
                f"the simulated time reached {LIMIT_PS / 1e12:.0f} s, beyond which 64-bit picoseconds could wrap: "
                "shorten the workload or its recorded gaps"
            )
        self.work.finish(self.state, self._sink)
        return self.figures()

    def progress(self, elapsed_s: float) -> Progress:
        """Return how far the run is."""
        clock = self.state.clock[0]
        return Progress(
            simulated_ps=int(self.state.domains["window_start_ps"].mean()),
            packet_hops=int(self.state.domains["hops"].sum()),
            tasks_ended=self.work.admitted_tasks - int(clock["tasks_left"]),
            num_tasks=self.num_tasks,
            delivered_packets=int(self.state.domains["delivered_packets"].sum()),
            total_packets=self.total_packets,
            elapsed_s=elapsed_s,
        )

    def reached_ps(self) -> Int64:
        """Return how far the run is in simulated time, by domain: planes where planes run apart, else one of all."""
        return self.state.domains["window_start_ps"].astype(np.int64)

    def record(self) -> RunRecord:
        """Return what the kernel recorded so far, as copies, of a workload in one block."""
        (block,) = self.work.live
        return RunRecord(**vars(self.figures()), **vars(record_of(self.state, block)))

    def figures(self) -> RunFigures:
        """Return what the kernel recorded so far of the run as a whole."""
        channels = self.state.channels.reshape(-1, self.network.vcs.count)
        meters = self.state.meters.reshape(channels.shape)
        least_room_bytes = np.minimum(channels["least_room_bytes"], meters["least_room_bytes"])
        occupied_bytes = self.network.channels.buffer_bytes.reshape(channels.shape) - least_room_bytes
        domain_latency_counts = self.state.latencies["packets"].reshape(-1, LATENCY_ROWS).astype(np.int64)
        return RunFigures(
            channel_busy_ps=channels["busy_ps"].sum(axis=1),
            channel_wire_bytes=channels["wire_bytes"].sum(axis=1),
            channel_packets=channels["packets"].sum(axis=1),
            channel_credit_stall_ps=channels["credit_stall_ps"].sum(axis=1),
            channel_peak_occupancy_bytes=occupied_bytes.max(axis=1),
            packet_latency_counts=domain_latency_counts.sum(axis=0),
            packet_latency_sum_ps=sum(self._latency_sum_ps),
            packet_latency_max_ps=int(self.state.domains["packet_latency_max_ps"].max()),
            domain_latency_counts=domain_latency_counts,
            domain_latency_sum_ps=tuple(self._latency_sum_ps),
            domain_packets=self.state.domains["delivered_packets"].astype(np.int64),
            timeline=timeline_of(self.state),
            packets=int(self.state.domains["delivered_packets"].sum()),
            packet_hops=int(channels["packets"].sum()),
            engine_s=self.engine_s,
            kernel=self.kernel,
            kernel_reason=self.kernel_reason,
            threads=self.threads,
        )


def with_open_bins(state: State) -> Rows:
    """Return the timeline with what channels recorded in the bins that they are in."""
    channels, meters, timeline = state.channels, state.meters, state.timeline.copy()
    row = state.bins["first_use"].astype(np.int64) + meters["channel_class"]
    for name in ("busy_ps", "credit_stall_ps"):
        np.add.at(timeline[name], row, channels[name] - meters[name])
    occupied_bytes = meters["buffer_bytes"] - channels["least_room_bytes"]
    np.maximum.at(timeline["peak_occupancy_bytes"], row, occupied_bytes)
    return timeline


def timeline_of(state: State) -> Timeline:
    """Return the timeline up to its last start, at least one bin; all are as long as the longest of a domain."""
    shift = int(state.domains["bin_shift"].max())
    shape = len(state.domains), TIMELINE_BINS, int(state.clock["num_classes"][0])
    tables = with_open_bins(state).reshape(shape)
    merged = np.zeros(shape, tables.dtype)
    for domain, table in enumerate(tables):
        into = np.arange(TIMELINE_BINS) >> (shift - int(state.domains["bin_shift"][domain]))
        for name in ("busy_ps", "credit_stall_ps"):
            np.add.at(merged[name][domain], into, table[name])
        np.maximum.at(merged["peak_occupancy_bytes"][domain], into, table["peak_occupancy_bytes"])
    used = int(np.flatnonzero(merged["busy_ps"].any(axis=(0, 2))).max(initial=0)) + 1
    merged = merged[:, :used].transpose(0, 2, 1)
    return Timeline(
        bin_ps=1 << shift,
        busy_ps=merged["busy_ps"].copy(),
        credit_stall_ps=merged["credit_stall_ps"].copy(),
        peak_occupancy_bytes=merged["peak_occupancy_bytes"].copy(),
    )


def refuse_untimed(network: Network, state: State) -> None:
    """Raise ConfigError where no network may take the place of another amid a run."""
    for found, what, remedy in (
        (state.clock["num_groups"][0] > 0, "in-network operations", "use a ring"),
        (state.clock["detours"][0] == 1, "detours", "use another routing"),
        (network.weights is not None, "planes with weights", "drop the weights"),
    ):
        if found:
            raise ConfigError(f"a fault at a given time cannot meet {what}: leave out its time, or {remedy}")


def run_schedule(
    network: Network,
    schedule: Schedule,
    *,
    terminal_of_rank: Int32,
    seed: int = 1,
    kernel: str = "auto",
    threads: int | None = None,
    changes: Sequence[Change] = (),
    progress: Callable[[Progress], None] | None = None,
) -> RunRecord:
    """Simulate *schedule* on *network* and return the record; see ``Simulation``."""
    run = Simulation(network, schedule, terminal_of_rank, seed=seed, kernel=kernel, threads=threads, changes=changes)
    return run.run(progress)


@dataclass(frozen=True)
class CarriedBlock(ScheduleBlock):
    """What a network carries of the block ``whole``."""

    whole: ScheduleBlock


def run_blocks(
    network: Network,
    blocks: ScheduleBlocks,
    carried: Callable[[Schedule], Schedule],
    sink: Sink,
    *,
    terminal_of_rank: Int32,
    seed: int = 1,
    kernel: str = "auto",
    threads: int | None = None,
    changes: Sequence[Change] = (),
    progress: Callable[[Progress], None] | None = None,
    keepers: Sequence[Keeper] = (),
) -> RunFigures:
    """Simulate on *network* what *carried* makes of each block, as it comes; *sink* gets the blocks themselves."""

    def make(lane: int | None) -> Iterator[ScheduleBlock]:
        for block in blocks.make(lane):
            yield CarriedBlock(**{**vars(block), "schedule": carried(block.schedule)}, whole=block)

    def take(retired: list[tuple[ScheduleBlock, BlockRecord]], horizon_ps: int) -> None:
        wholes = []
        for block, record in retired:
            assert isinstance(block, CarriedBlock)
            wholes.append((block.whole, record))
        sink(wholes, horizon_ps)

    coming = replace(blocks, make=make)
    run = Simulation(
        network, coming, terminal_of_rank, seed=seed, kernel=kernel, threads=threads, sink=take, changes=changes
    )
    return run.run_to_end(progress, keepers)
