"""What a run would take, found out without it: packet-hops from the routes, time and memory from its first moments."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fabricsim.engine import backends
from fabricsim.engine.driver import Progress
from fabricsim.engine.folding import fold as fold_planes
from fabricsim.engine.layout import State
from fabricsim.engine.placement import Placement, terminal_of_rank
from fabricsim.engine.state import allocate
from fabricsim.engine.threads import threads_at_hand, threads_of_run
from fabricsim.fabrics import FabricSpec
from fabricsim.fabrics.faults import Fault, read_faults
from fabricsim.fabrics.network import Network
from fabricsim.results.doctor import SMALL_WINDOW_PS
from fabricsim.results.routes import find_routes
from fabricsim.results.run import Workload, folding_of, prepare, simulate
from fabricsim.results.traffic import Int64, Traffic, message_traffic, wire_bytes_of
from fabricsim.results.versions import package_version
from fabricsim.workloads.schedule import Schedule

SCHEMA = "fabricsim.estimate/1"

#: So long the run itself is run, to see how fast it goes here [s]. The slow begin, with empty queues and untouched
#: tables, is over after about a tenth of it.
CALIBRATION_S = 0.3

#: Where Linux says how many pages a process holds: the second number.
STATM = "/proc/self/statm"


@dataclass(frozen=True)
class Calibration:
    """What the first moments of the run itself showed, on this machine.

    ``setup_s`` is what comes before the first event: networks, tables, and loading the kernel, but not compiling it,
    which took ``compile_s`` (0.0 where it was at hand). ``whole`` tells that the run came to its end within them.
    """

    packet_hops: int
    elapsed_s: float
    setup_s: float
    compile_s: float
    whole: bool


@dataclass(frozen=True)
class Memory:
    """Bytes by what holds them.

    ``process`` is what this process holds beside the engine: Python, its libraries, the fabric and the workload;
    ``None`` where the system does not tell. ``tables`` are the engine's, but for ``packets``: the table of packets in
    flight if they fill every buffer, and the smaller one that it grows from, which is there until it is copied.
    """

    process_bytes: int | None
    tables_bytes: int
    packets_bytes: int

    @property
    def total_bytes(self) -> int | None:
        """All of them."""
        return None if self.process_bytes is None else self.process_bytes + self.tables_bytes + self.packets_bytes


@dataclass(frozen=True)
class Estimate:
    """What one run would take; ``packet_hops_simulated`` is what the engine does of ``packet_hops`` where it folds."""

    network: Network
    spec_sha256: str
    overrides: Mapping[str, str]
    faults: tuple[Fault, ...]
    workload: Workload
    kernel: str
    kernel_reason: str
    threads: int
    folded: bool
    folding: str
    messages: int
    message_bytes: int
    packets: int
    packet_hops: int
    packet_hops_simulated: int
    window_ps: int
    calibration: Calibration
    memory: Memory

    @property
    def ns_per_packet_hop(self) -> float | None:
        """Wall time of a packet-hop as the calibration showed it; ``None`` where it came to none."""
        calibration = self.calibration
        return 1e9 * calibration.elapsed_s / calibration.packet_hops if calibration.packet_hops else None

    @property
    def engine_s(self) -> float | None:
        """Wall time in the engine; ``None`` where the calibration came to no packet."""
        if self.calibration.whole:
            return self.calibration.elapsed_s
        rate_ns = self.ns_per_packet_hop
        return None if rate_ns is None else self.packet_hops_simulated * rate_ns / 1e9

    @property
    def time_s(self) -> float | None:
        """Wall time from the fabric to the end of the simulation, without compilation."""
        return None if self.engine_s is None else self.calibration.setup_s + self.engine_s

    @property
    def has_small_windows(self) -> bool:
        """Whether the fabric's smallest channel latency makes windows so small that their fixed cost shows."""
        return int(self.network.channels.latency_ps.min()) < SMALL_WINDOW_PS

    def summary(self, *, command: str | None = None) -> dict[str, Any]:
        """Sum the estimate up as a JSON-ready dictionary of the schema ``fabricsim.estimate/1``."""
        network, calibration, memory = self.network, self.calibration, self.memory
        return {
            "schema": SCHEMA,
            "fabricsim_version": package_version(),
            "command": command,
            "kernel": self.kernel,
            "kernel_reason": self.kernel_reason,
            "threads": self.threads,
            "folded": self.folded,
            "folding": self.folding,
            "fabric": {
                "name": network.name,
                "terminals": network.num_terminals,
                "channels": len(network.channels),
                "planes": network.num_planes,
                "spec_sha256": self.spec_sha256,
                "overrides": dict(self.overrides),
                "faults": [fault.text for fault in self.faults],
                "dead_channels": int(network.channels.dead.sum()),
            },
            "workload": {
                **self.workload.about,
                "ranks": self.workload.blocks.num_ranks,
                "messages": self.messages,
                "message_bytes": self.message_bytes,
            },
            "packets": self.packets,
            "packet_hops": self.packet_hops,
            "packet_hops_simulated": self.packet_hops_simulated,
            "window_ps": self.window_ps,
            "has_small_windows": self.has_small_windows,
            "time_s": self.time_s,
            "engine_s": self.engine_s,
            "setup_s": calibration.setup_s,
            "compile_s": calibration.compile_s,
            "calibration": {
                "packet_hops": calibration.packet_hops,
                "elapsed_s": calibration.elapsed_s,
                "whole": calibration.whole,
            },
            "memory": {
                "process_bytes": memory.process_bytes,
                "tables_bytes": memory.tables_bytes,
                "packets_bytes": memory.packets_bytes,
                "total_bytes": memory.total_bytes,
            },
        }


def estimate(
    fabric: FabricSpec,
    workload: Workload,
    *,
    seed: int = 1,
    kernel: str = "auto",
    threads: int | None = None,
    routing: str | None = None,
    packet: str | None = None,
    endpoint: str = "fitted",
    placement: Placement | None = None,
    faults: Sequence[Fault | str] = (),
    fold: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> Estimate:
    """Say what ``simulate`` with the same arguments would take; raises what it raises before its end comes in sight.

    *progress* is called until the calibration is over, so that a compilation is seen.
    """
    calibration = _calibrate(
        fabric,
        workload,
        progress,
        seed=seed,
        kernel=kernel,
        threads=threads,
        routing=routing,
        packet=packet,
        endpoint=endpoint,
        placement=placement,
        faults=faults,
        fold=fold,
    )
    # From here on nothing is refused: the run has begun with the same.
    run = prepare(
        fabric,
        workload,
        seed=seed,
        routing=routing,
        packet=packet,
        endpoint=endpoint,
        placement=placement,
        faults=read_faults(faults),
    )
    network, blocks, terminals = run.network, run.blocks, run.terminals
    folding = folding_of(run, fold=fold)
    process_bytes = _resident_bytes()
    in_engine = folding.network.split_into_vcs()
    state = allocate(in_engine, folding.schedule(next(iter(blocks)).schedule), terminals, seed)
    whole, simulated = Load(network), Load(in_engine, len(state.domains))
    messages = message_bytes = 0
    for block in blocks:
        messages += len(block.schedule.messages)
        message_bytes += int(block.schedule.messages.size_bytes.sum())
        whole.add(message_traffic(network, block.schedule, terminals))
        simulated.add(message_traffic(in_engine, folding.schedule(block.schedule), terminals))
    rows, outgrown = most_packet_rows(simulated, state)
    growing = (state.packets, state.relays) if state.clock["num_groups"][0] else (state.packets,)
    chosen, reason = backends.choose(kernel)
    return Estimate(
        network=network,
        spec_sha256=fabric.spec_sha256,
        overrides=fabric.overrides,
        faults=run.faults,
        workload=workload,
        kernel=chosen,
        kernel_reason=reason,
        threads=threads_of_run(threads_at_hand(threads), len(state.domains)),
        folded=folding.folded,
        folding=folding.words,
        messages=messages,
        message_bytes=message_bytes,
        packets=whole.packets,
        packet_hops=whole.packet_hops,
        packet_hops_simulated=simulated.packet_hops,
        window_ps=1 << int(state.clock["window_shift"][0]),
        calibration=calibration,
        memory=Memory(
            process_bytes=process_bytes,
            tables_bytes=sum(table.nbytes for table in state) - sum(table.nbytes for table in growing),
            packets_bytes=(rows + outgrown) * sum(table.itemsize for table in growing),
        ),
    )


def packet_hops_to_simulate(fabric: FabricSpec, schedule: Schedule, placement: Placement | None) -> int:
    """Count the packet-hops that the engine would do, those of planes that are folded away left out."""
    network = fabric.network()
    terminals = terminal_of_rank(
        placement, num_ranks=schedule.num_ranks, num_terminals=network.num_terminals, fabric=network.name, recorded=None
    )
    folding = fold_planes(network, [schedule], terminals)
    load = Load(folding.network)
    load.add(message_traffic(folding.network, folding.schedule(schedule), terminals))
    return load.packet_hops


class _EnoughSeen(Exception):  # noqa: N818 - no error
    """Ends the calibration from inside the run."""


def _calibrate(
    fabric: FabricSpec, workload: Workload, progress: Callable[[Progress], None] | None, **options: Any
) -> Calibration:
    """Begin the run itself and stop it: what it refuses is refused, and it is as fast as itself."""
    begin_s = time.perf_counter()
    compiles_at_s: list[float] = []
    setup_s = compile_s = 0.0
    last: Progress | None = None

    def watch(now: Progress) -> None:
        nonlocal setup_s, compile_s, last
        if progress is not None:
            progress(now)
        if now.compiling:
            compiles_at_s.append(time.perf_counter())
            return
        if last is None:
            starts_at_s = time.perf_counter() - now.elapsed_s
            compile_s = starts_at_s - compiles_at_s[0] if compiles_at_s else 0.0
            setup_s = starts_at_s - begin_s - compile_s
        last = now
        if now.elapsed_s >= CALIBRATION_S and now.tasks_ended < now.num_tasks:
            raise _EnoughSeen

    try:
        simulate(fabric, workload, progress=watch, **options)
        whole = True
    except _EnoughSeen:
        whole = False
    assert last is not None  # a run reports at least once
    return Calibration(last.packet_hops, last.elapsed_s, setup_s, compile_s, whole)


class Load:
    """What the messages of a workload come to on a network, added up block by block.

    Attributes
    ----------
    packets, packet_hops : int
        Packets, and channels that they cross.
    domain_packet_hops, domain_short_hops : int
        Packet-hops on the domain of the engine that has most, and those of packets that are not full.
    least_wire_bytes : int
        Of the smallest packet.
    """

    def __init__(self, network: Network, num_domains: int = 1) -> None:
        self.network = network
        self._num_domains = num_domains
        routes = find_routes(network)
        # All ways of a pair cross as many channels, but where a list of links or faults leave longer ones beside them.
        self._hops = np.array([max(len(way.rates) for way in kind.ways) for kind in routes.kinds], np.int64)
        self._kind = routes.kind
        self.packets = self.packet_hops = self.domain_packet_hops = self.domain_short_hops = 0
        self.least_wire_bytes = network.packet.wire_bytes(network.packet.max_payload_bytes)

    def add(self, traffic: Traffic) -> None:
        """Add the messages of a block."""
        packet = self.network.packet
        hops = self._hops[self._kind[traffic.source_terminal, traffic.target_terminal]]
        # A delivered packet crosses its last channel, and each injected one its first.
        hops = np.where(traffic.in_network, 1 + traffic.injections, hops)
        self.packets += int(traffic.packets.sum())
        self.packet_hops += int((traffic.packets * hops).sum())
        # A domain that is one plane of several has at most one share of a message.
        shares = np.minimum(traffic.shares, 1) if self._num_domains > 1 else traffic.shares
        last_bytes = wire_bytes_of(self.network, traffic.last_payload_bytes)
        short = last_bytes < packet.wire_bytes(packet.max_payload_bytes)
        self.domain_packet_hops += int((traffic.packets // traffic.shares * shares * hops).sum())
        self.domain_short_hops += int((shares * hops)[short].sum())
        self.least_wire_bytes = int(last_bytes.min(initial=self.least_wire_bytes))


def most_packet_rows(load: Load, state: State) -> tuple[int, int]:
    """Bound the length of the table of packets, from the *state* at the begin of a run; and how long it was before.

    From its start on a channel until its credit is back, a packet has a row and room in the buffer of the channel. So
    there are no more rows in use than buffers hold of the smallest packet, nor than they hold full ones and short ones
    cross channels.
    """
    network, domains = load.network, state.domains
    full_bytes = network.packet.wire_bytes(network.packet.max_payload_bytes)

    def held(wire_bytes: int) -> Int64:
        in_buffers: Int64 = np.add.reduceat(network.channels.buffer_bytes // wire_bytes, domains["first_channel"])
        return in_buffers

    short_too = held(full_bytes) + load.domain_short_hops
    in_use = np.minimum(np.minimum(held(load.least_wire_bytes), short_too), load.domain_packet_hops)
    if state.clock["num_groups"][0]:  # packets that switches make hold no room
        in_use = np.minimum(in_use * (1 + int(state.groups["count"].max())), load.domain_packet_hops)
    rows, outgrown = domains["num_free_packets"].copy(), 0
    # As fabricsim.engine.state.grow does when a domain has too few free rows for its next step.
    while (rows < in_use + domains["max_starts"]).any():
        outgrown = int(rows.sum())
        rows += -(-outgrown // len(domains))
    return int(rows.sum()), outgrown


def _resident_bytes() -> int | None:
    """Return the memory that this process holds, where the system tells it."""
    try:
        pages = int(Path(STATM).read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
