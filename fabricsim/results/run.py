"""From a fabric and a workload to a checked result: what ``fabricsim run`` and ``fabricsim replay`` call."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from fabricsim.engine.changes import Change
from fabricsim.engine.driver import Keeper, Progress, run_blocks
from fabricsim.engine.folding import Folding, unfolded
from fabricsim.engine.folding import fold as fold_planes
from fabricsim.engine.placement import Int32, Placement, placement_name, terminal_of_rank
from fabricsim.engine.threads import threads_at_hand
from fabricsim.errors import ConfigError, StallError
from fabricsim.fabrics import FabricSpec, load_fabric
from fabricsim.fabrics.faults import Fault, read_faults
from fabricsim.fabrics.network import Network
from fabricsim.results.checkpoint import Checkpoint, CheckpointKeeper, identity_of, identity_sha256
from fabricsim.results.collected import Collected
from fabricsim.results.fault_effects import changes_of, refuse_idle_faults, with_faults
from fabricsim.results.idle_overrides import feels, refuse_idle_overrides
from fabricsim.results.result import Result, RunInfo
from fabricsim.results.routes import find_routes
from fabricsim.results.snapshot import SnapshotKeeper, Snapshots
from fabricsim.results.traffic import message_traffic
from fabricsim.units import parse_bytes, whole_number
from fabricsim.workloads.collectives import COLLECTIVES, MOE_COLLECTIVES, algorithms_of, collective
from fabricsim.workloads.schedule import Schedule, ScheduleBlocks
from fabricsim.workloads.schedule_check import check_schedule

if TYPE_CHECKING:
    from fabricsim.workloads.replay import Mode
    from fabricsim.workloads.trace import Trace


class ArrowTable(Protocol):
    """A table of any library that speaks the Arrow PyCapsule interface (pyarrow, polars, pandas, duckdb, ...)."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Give the rows as a stream of batches."""


@dataclass(frozen=True)
class Workload:
    """A schedule in blocks, what the summary says of its origin, and the terminals of its ranks if it recorded them.

    ``source_sha256`` hashes what the blocks are made from, where that is quicker than to hash them. ``asked_bytes`` is
    the size that a user gave for a collective, which rounds it to whole parts for its ranks.
    """

    blocks: ScheduleBlocks
    about: Mapping[str, Any]
    placement: Sequence[int] | None = None
    source_sha256: Callable[[], str] | None = None
    asked_bytes: int | None = None


def load_trace(trace: Trace | str | os.PathLike[str] | ArrowTable, *, mode: Mode = "dependency") -> Workload:
    """Read, check and schedule a trace once, for replay on several fabrics.

    Takes what ``replay`` takes, and raises what it raises for the trace.
    """
    from fabricsim.workloads.replay import schedule_blocks
    from fabricsim.workloads.trace import Trace, check

    about: dict[str, Any] = {"kind": "trace", "mode": mode}
    if isinstance(trace, str | os.PathLike):
        about["trace"] = os.fspath(trace)
        trace = Trace.open(trace)
    elif not isinstance(trace, Trace):
        trace = Trace.from_table(trace)
    check(trace)
    blocks = schedule_blocks(trace, mode)
    return Workload(blocks, about, trace.metadata.placement, lambda: f"{mode} {trace.sha256}")


def _workload_of(schedule: Schedule) -> Workload:
    """Say of a schedule what can be seen in it: one collective as we run it, or something else."""
    blocks = ScheduleBlocks.of(schedule)
    if len(schedule.operations) == 1:
        (operation,) = schedule.operations
        if operation.op in COLLECTIVES and operation.algorithm in algorithms_of(operation.op):
            return Workload(blocks, {"kind": "collective", "collective": operation.op})
    return Workload(blocks, {"kind": "schedule"})


def simulate(
    fabric: FabricSpec | str | os.PathLike[str],
    workload: Schedule | Workload,
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
    checkpoint: Checkpoint | None = None,
    snapshots: Snapshots | None = None,
) -> Result:
    """Run a workload over a fabric, packet by packet.

    Parameters
    ----------
    fabric
        From ``load_fabric``; a name or a path is loaded.
    workload
        From ``collective``, or a ``Schedule`` of one's own.
    seed
        Decides ties, deterministic routes and the planes of small messages; the same seed gives the same digest. A
        64-bit integer.
    kernel
        ``"auto"`` (C where it was built, else Numba), ``"numba"``, ``"c"`` or ``"python"``: who computes, never what.
    threads
        The most that share the planes of the fabric; ``None`` is ``SLURM_CPUS_PER_TASK``, else the CPUs that the
        process may use. Never changes a figure.
    routing
        ``"spray"``, ``"deterministic"`` or ``"adaptive"``; with detours ``"valiant"`` or ``"ugal"``. ``None`` is the
        fabric's own.
    packet
        Name of one of the fabric's packet formats; ``None`` is its default.
    endpoint
        ``"fitted"``; ``"ideal"``: no launch latency, no message overhead, no copy limit; or the name of one of the
        fabric's other endpoints: what copies at another rate.
    placement
        ``"linear"``, ``"scatter"``, terminals by rank, or the path of a file with one terminal per line. ``None`` is
        the placement that a trace records (``fabricsim.placement``), where there is none ``"linear"``.
    faults
        What is broken, such as ``"switch:nvswitch.0.5"``, or from a time on, ``"lanes:gpu3-nvswitch.0.5=0.5@12us"``,
        or the path of a TOML file of such texts (docs/fabrics.md).
    fold
        Simulate planes that are alike once for all where that changes no figure (docs/physics.md, section 12);
        ``False`` simulates each of them.
    progress
        Called a few times per second with how far the run is: of folded planes the one that is simulated.
    checkpoint
        A ``Checkpoint``: where the run is kept when it is stopped, or each so many seconds, and resumed from
        (docs/batch.md).
    snapshots
        A ``Snapshots``: the folder that shows the tables of the run so far while it goes on (docs/results.md).

    Returns
    -------
    Result
        Checked: all bytes delivered, no time below its lower bound.

    Raises
    ------
    ConfigError
        An unknown name, more ranks than terminals, faults that cut two ranks apart, or an option that makes no
        difference to this run.
    TraceError
        A schedule that cannot be run.
    StallError
        Nothing is left to do and messages are undelivered.
    SelfCheckError
        The result contradicts the physics.
    CheckpointedError
        ``checkpoint.stop()`` was called; the checkpoint is written.
    """
    started_s = time.perf_counter()
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
    refuse_idle_faults(run.whole, run.workload.blocks, run.faults, run.terminals)
    options = {"routing": routing, "packet": packet, "placement": placement}
    given = [name for name, value in options.items() if value is not None]
    _refuse_idle_options(given, run.network, run.blocks, run.terminals)

    def build(spec: FabricSpec, endpoint: str = endpoint) -> Network:
        network = spec.network(packet=packet, routing=routing, endpoint=endpoint)
        if run.terminals.max() >= network.num_terminals:
            raise ConfigError(
                f"the run uses terminal {run.terminals.max()}, and {network.name} has only {network.num_terminals}; "
                "use fewer ranks"
            )
        refuse_idle_faults(network, run.workload.blocks, run.faults, run.terminals)
        return with_faults(network, run.workload.blocks, run.faults, run.terminals)[0]

    if endpoint != "fitted" and not feels(run.network, build(run.spec, "fitted"), run.blocks, run.terminals):
        raise ConfigError(
            f"endpoint {endpoint} has no effect on this run on {run.spec.name}: with it terminals add the same to its "
            "wires; leave it out"
        )
    refuse_idle_overrides(run.spec, run.network, build, run.blocks, run.terminals)
    return execute(
        run,
        kernel=kernel,
        threads=threads,
        fold=fold,
        progress=progress,
        started_s=started_s,
        checkpoint=checkpoint,
        snapshots=snapshots,
    )


def run_sha256(
    fabric: FabricSpec,
    workload: Workload,
    *,
    seed: int,
    routing: str | None,
    packet: str | None,
    endpoint: str,
    placement: Placement | None,
    faults: Sequence[Fault | str],
    fold: bool,
) -> str:
    """Return what ``simulate`` with the same arguments puts into ``RunInfo.run_sha256`` of a run with a checkpoint."""
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
    return identity_sha256(identity_of(run, fold=fold))


@dataclass(frozen=True)
class Run:
    """What is to be simulated: a network and blocks of a workload, both with their faults, and how they came about.

    ``whole`` is the network without its faults, ``workload`` has none either. ``changes`` are the networks that faults
    at a time make of ``network``.
    """

    spec: FabricSpec
    workload: Workload
    whole: Network
    network: Network
    changes: tuple[Change, ...]
    blocks: ScheduleBlocks
    terminals: Int32
    endpoint: str
    placement: str
    faults: tuple[Fault, ...]
    seed: int


def prepare(
    fabric: FabricSpec | str | os.PathLike[str],
    workload: Schedule | Workload,
    *,
    seed: int,
    routing: str | None,
    packet: str | None,
    endpoint: str,
    placement: Placement | None,
    faults: Sequence[Fault],
) -> Run:
    """Build and check what ``simulate`` takes; faults and options that make no difference are not refused yet."""
    spec = _spec_of(fabric)
    if isinstance(workload, Schedule):
        check_schedule(workload)  # it may be hand-made, and kernels validate nothing
        workload = _workload_of(workload)
    elif not isinstance(workload, Workload):
        raise ConfigError(
            f"the workload is a {type(workload).__name__}; give what fabricsim.collective returns, or a Schedule "
            "(a trace is for fabricsim.replay)"
        )
    blocks = workload.blocks
    seed = whole_number("seed", seed)
    if not -(2**63) <= seed < 2**63:
        raise ConfigError(f"seed {seed} does not fit 64 bits; use a smaller number")
    whole = spec.network(packet=packet, routing=routing, endpoint=endpoint)
    terminals = terminal_of_rank(
        placement,
        num_ranks=blocks.num_ranks,
        num_terminals=whole.num_terminals,
        fabric=whole.name,
        recorded=workload.placement,
    )
    network, blocks = with_faults(whole, blocks, faults, terminals)
    changes = changes_of(whole, faults, terminals)
    named = placement_name(placement, workload.placement)
    return Run(spec, workload, whole, network, changes, blocks, terminals, endpoint, named, tuple(faults), seed)


def folding_of(run: Run, *, fold: bool) -> Folding:
    """Fold what can be folded of a run, if it may be."""
    if not fold:
        return unfolded(run.network, "switched off")
    if run.changes:
        return unfolded(run.network, "faults come at a time")
    return fold_planes(run.network, (block.schedule for block in run.blocks), run.terminals)


def execute(
    run: Run,
    *,
    kernel: str,
    threads: int | None,
    fold: bool,
    progress: Callable[[Progress], None] | None,
    started_s: float,
    checkpoint: Checkpoint | None = None,
    snapshots: Snapshots | None = None,
) -> Result:
    """Simulate what ``prepare`` gave; its wall time counts from ``started_s``."""
    network, blocks, terminals = run.network, run.blocks, run.terminals
    folding = folding_of(run, fold=fold)
    # Planes that are folded are alike, so the routes of those that are left are all kinds that there are.
    collected = Collected(network, find_routes(folding.network), terminals, run.changes)
    identity = None if checkpoint is None else identity_of(run, fold=fold)
    keeper = None
    if checkpoint is not None and identity is not None:
        keeper = CheckpointKeeper(checkpoint, identity, collected, started_s)
    # Checkpoints come first: a run that is to end does so before it writes tables.
    keepers: list[Keeper] = [] if keeper is None else [keeper]
    if snapshots is not None:
        keepers.append(SnapshotKeeper(snapshots, network, folding, collected, checkpoint))
    try:
        record = run_blocks(
            folding.network,
            blocks,
            folding.schedule,
            collected.take,
            terminal_of_rank=terminals,
            seed=run.seed,
            kernel=kernel,
            threads=threads_at_hand(threads),
            changes=run.changes,
            progress=progress,
            keepers=keepers,
        )
    except StallError as error:
        if not folding.folded:
            raise
        raise StallError(
            f"{error} (folded: {folding.words}, so planes and sizes are those of the folded run; leave folding out, "
            "with --no-fold or fold=False, to see the whole ones)"
        ) from error
    return Result(
        network=network,
        num_ranks=blocks.num_ranks,
        terminal_of_rank=terminals,
        record=folding.unfold(record),
        collected=collected,
        info=RunInfo(
            spec=run.spec,
            workload=run.workload.about,
            placement=run.placement,
            endpoint=run.endpoint,
            faults=tuple(fault.text for fault in run.faults),
            late_faults=tuple(fault.text for fault in run.faults if 0 < collected.simulated_ps <= fault.time_ps),
            seed=run.seed,
            folded=folding.folded,
            folding=folding.words,
            packet_hops_simulated=record.packet_hops,
            wall_s=time.perf_counter() - started_s + (0.0 if keeper is None else keeper.earlier_s),
            run_sha256=None if identity is None else identity_sha256(identity),
        ),
    )


def replay(
    trace: Trace | str | os.PathLike[str] | ArrowTable,
    fabric: FabricSpec | str | os.PathLike[str],
    *,
    mode: Mode = "dependency",
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
    checkpoint: Checkpoint | None = None,
    snapshots: Snapshots | None = None,
) -> Result:
    """Replay a recorded trace on a fabric.

    Parameters
    ----------
    trace
        A ``Trace``, the path of an Arrow file (docs/trace-format.md), or any object with ``__arrow_c_stream__``.
    fabric
        From ``load_fabric``; a name or a path is loaded.
    mode
        ``"dependency"`` (stream order and recorded compute gaps), ``"recorded"`` (every operation begins when it was
        recorded to) or ``"back-to-back"`` (stream order, no gaps).
    seed, kernel, threads, routing, packet, endpoint, placement, faults, fold, progress, checkpoint, snapshots
        As for ``simulate``.

    Returns
    -------
    Result
        As from ``simulate``.

    Raises
    ------
    TraceError
        The trace is damaged, incomplete or contradicts itself, or does not hold what the mode needs.
    ConfigError, StallError, SelfCheckError
        As from ``simulate``.
    """
    return simulate(
        fabric,
        load_trace(trace, mode=mode),
        seed=seed,
        kernel=kernel,
        threads=threads,
        routing=routing,
        packet=packet,
        endpoint=endpoint,
        placement=placement,
        faults=faults,
        fold=fold,
        progress=progress,
        checkpoint=checkpoint,
        snapshots=snapshots,
    )


def one_collective(
    op: str,
    *,
    size: str | None,
    ranks: int,
    algorithm: str | None = None,
    tokens: str | None = None,
    skew: float | None = None,
) -> Workload:
    """Make the workload of ``fabricsim faults``: one collective at one size, or with one number of tokens.

    Raises ``ConfigError`` where the options name none, or several.
    """
    if size is None and op not in MOE_COLLECTIVES:
        raise ConfigError(f"{op} needs a size: give one, as --size 16MiB")
    workloads = collective_sweep(
        op,
        sizes=size,
        min_size=None,
        max_size=None,
        factor=None,
        ranks=ranks,
        algorithm=algorithm,
        tokens=tokens,
        skew=skew,
    )
    if len(workloads) > 1:
        given = f"--size {size}" if tokens is None else f"--tokens {tokens}"
        raise ConfigError(f"{given} names {len(workloads)} workloads, and faults are compared on one; give one")
    return workloads[0]


def collective_sweep(
    op: str,
    *,
    sizes: str | None,
    min_size: str | None,
    max_size: str | None,
    factor: int | None,
    ranks: int,
    algorithm: str | None,
    tokens: str | None = None,
    skew: float | None = None,
) -> list[Workload]:
    """Make the workloads of ``fabricsim run``: one collective at the sizes that its options name.

    ``sizes`` is a list such as ``1MiB,64MiB``; the other way to say it is ``min_size`` to ``max_size``, each size
    ``factor`` (2) times the one before. moe_dispatch and moe_combine take a list of ``tokens`` in their place. Raises
    ``ConfigError`` where the options name no sizes, or name them twice.
    """
    swept = (min_size, max_size, factor) != (None, None, None)
    if op in MOE_COLLECTIVES:
        if tokens is None or swept or sizes is not None:
            raise ConfigError(f"{op} is run by tokens per rank in place of a size: give --tokens 128[,...] alone")
        if not all(entry.strip().isdecimal() for entry in tokens.split(",")):
            raise ConfigError(f"--tokens {tokens!r}: write whole numbers with one comma between: 128,4096")
        return [
            _workload_of(collective(op, tokens=int(entry), ranks=ranks, algorithm=algorithm, skew=skew))
            for entry in tokens.split(",")
        ]
    if tokens is not None or skew is not None:
        raise ConfigError(f"--tokens and --skew are for {' and '.join(MOE_COLLECTIVES)}, not for {op}; leave them out")
    if sizes is not None and not swept:
        entries = sizes.split(",")
        if not all(entry.strip() for entry in entries):
            raise ConfigError(f"--size {sizes!r} has an empty entry; write sizes with one comma between: 1MiB,64MiB")
        chosen = [parse_bytes(entry) for entry in entries]
    elif sizes is None and min_size is not None and max_size is not None:
        chosen = sweep_sizes(parse_bytes(min_size), parse_bytes(max_size), 2 if factor is None else factor)
    else:
        raise ConfigError(
            "give the sizes either as --size 64MiB[,...] or as --min-size and --max-size (and --factor) of a sweep"
        )
    return [
        replace(_workload_of(collective(op, size=size, ranks=ranks, algorithm=algorithm)), asked_bytes=size)
        for size in chosen
    ]


def sweep_sizes(smallest_bytes: int, largest_bytes: int, factor: int) -> list[int]:
    """Sizes from the smallest to the largest, each ``factor`` times the one before, as nccl-tests steps.

    Raises ``ConfigError`` for an empty or endless range.
    """
    if not 0 < smallest_bytes <= largest_bytes:
        raise ConfigError(
            f"--min-size {smallest_bytes}B and --max-size {largest_bytes}B span no sizes; "
            "give a smallest size above 0 and a largest one not below it"
        )
    if factor < 2:
        raise ConfigError(f"--factor {factor} does not grow; use 2 or more")
    sizes = [smallest_bytes]
    while sizes[-1] * factor <= largest_bytes:
        sizes.append(sizes[-1] * factor)
    return sizes


def _spec_of(fabric: FabricSpec | str | os.PathLike[str]) -> FabricSpec:
    if isinstance(fabric, FabricSpec):
        return fabric
    if isinstance(fabric, str | os.PathLike):
        return load_fabric(fabric)
    raise ConfigError(f"the fabric is a {type(fabric).__name__}; give a name, a path or what load_fabric returns")


# An option that makes no difference is refused: it would let a user compare a run with itself.


def _refuse_idle_options(given: Sequence[str], network: Network, blocks: ScheduleBlocks, terminals: Int32) -> None:
    """Refuse the named options where no packet of the run can tell the difference."""
    if not given:
        return
    routes = find_routes(network)
    moves = False
    for block in blocks:
        traffic = message_traffic(network, block.schedule, terminals)
        moves = moves or len(traffic.message) > 0
        has_choice = moves and routes.has_choice(traffic.source_terminal, traffic.target_terminal)
        if moves and ("routing" not in given or has_choice):
            return
    if not moves:
        raise ConfigError(
            f"{given[0]} has no effect on this run on {network.name}: nothing is sent between terminals; leave it out"
        )
    raise ConfigError(
        f"routing {network.routing} has no effect on this run on {network.name}: each pair of terminals in it "
        "has one path per plane; leave it out"
    )
