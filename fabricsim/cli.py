"""The command line: parse, call, print. What it calls is imported only when a command needs it."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from fabricsim.errors import CheckpointedError, ConfigError, FabricsimError, TraceError
from fabricsim.results import log
from fabricsim.results.signals import Signals

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fabricsim.fabrics import FabricSpec
    from fabricsim.results.progress import CountReporter
    from fabricsim.results.run import Workload
    from fabricsim.workloads.trace import Trace

EXIT_SIGINT = 130
EXIT_SIGPIPE = 141  # what a shell reports for a program that the end of its pipe has left

EXAMPLES = """\
examples:
  fabricsim run nvl72 all_to_all --size 64MiB
  fabricsim run cloudmatrix384 all_reduce --min-size 1MiB --max-size 64MiB
  fabricsim replay traces/moe-ep64.arrow --fabric cloudmatrix384 --fabric nvl72
  fabricsim replay traces/moe-ep64.arrow --fabric nvl72 -o moe-nvl72
  fabricsim compare moe-nvl72 moe-cloudmatrix384
  fabricsim report moe-nvl72 -o moe-nvl72.html
  fabricsim faults nvl72 all_to_all --each switch --size 16MiB
  fabricsim fabrics nvl72
  fabricsim fabrics --compare cloudmatrix384 nvl72
  fabricsim trace generate moe --ep 64 --tokens 1024 -o moe.arrow
  fabricsim campaign plan docs/examples/study.toml -o study

exit codes: 0 ok; 2 usage or configuration; 3 bad trace or data; 4 stall;
5 failed self-check; 75 interrupted with a checkpoint, resume me; 130 and 143
interrupted without one
"""

#: Options of ``trace generate moe`` by the name of the generator's parameter.
MOE_OPTIONS: dict[str, tuple[type, str]] = {
    "hidden": (int, "elements of a token"),
    "experts": (int, "routed experts"),
    "top_k": (int, "experts per token"),
    "redundant_experts": (int, "second replicas of the most popular experts"),
    "skew": (float, "spread of the experts' popularities, 0 is even"),
    "seed": (int, "decides popularities and routing"),
    "compute_ns_per_token": (int, "nanoseconds that an expert works on a token"),
}


class _Version(argparse.Action):
    """``--version``, which looks the version up only when asked."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from fabricsim.results.versions import package_version

        print(f"fabricsim {package_version()}")
        parser.exit()


class _Once(argparse.Action):
    """Store a value, and refuse an option that is given again: one of the two would have no effect."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        given: frozenset[str] = getattr(namespace, "given", frozenset())
        if option is not None and self.dest in given:
            raise argparse.ArgumentError(self, "given twice; give it once")
        namespace.given = given | {self.dest}
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    """A parser whose options are given once each, and whose epilog may be written when it is asked for."""

    late_epilog: Callable[[], str] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register("action", None, _Once)

    def format_help(self) -> str:
        if self.late_epilog is not None:
            self.epilog = self.late_epilog()
        return super().format_help()


def _collectives_help() -> str:
    """List what ``fabricsim run`` runs; the module is imported for this help alone."""
    from fabricsim.workloads.collectives import COLLECTIVES, algorithms_of

    rows = [f"  {op:<16}{', '.join(algorithms_of(op))}" for op in COLLECTIVES]
    return "\n".join(["collectives and their algorithms, the default first:", *rows])


def build_parser() -> argparse.ArgumentParser:
    """Describe all commands and options."""
    parser = _Parser(
        prog="fabricsim",
        description="A packet-level traffic simulator of CloudMatrix 384 and GB200 NVL72.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    json_option = _Parser(add_help=False)
    json_option.add_argument("--json", metavar="FILE", help="write the result as JSON; - is standard output, alone")

    reporting = _Parser(add_help=False)
    reporting.add_argument("--quiet", action="store_true", help="no progress on standard error")
    reporting.add_argument(
        "--log-format",
        default=log.FORMATS[0],
        choices=log.FORMATS,
        help="of what is said on standard error (default: text)",
    )

    common = _Parser(add_help=False, parents=[json_option, reporting])
    common.add_argument("--kernel", default="auto", metavar="NAME", help="auto, numba, c or python (default: auto)")
    common.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads of the engine, at most one per plane (default: the CPUs given)",
    )
    common.add_argument("--no-fold", action="store_true", help="simulate every plane, even where planes are alike")
    common.add_argument("--seed", type=int, default=1, metavar="N", help="decides ties and routes (default: 1)")
    common.add_argument(
        "--endpoint",
        default="fitted",
        metavar="NAME",
        help="fitted; ideal: terminals that add nothing to the wires; or one of the fabric's, of another copy rate",
    )
    common.add_argument(
        "--routing", metavar="NAME", help="spray, deterministic, adaptive, valiant or ugal (default: the fabric's)"
    )
    common.add_argument("--packet", metavar="NAME", help="packet format of the fabric (default: the fabric's)")
    common.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a number of the fabric by its key, as fabricsim fabrics NAME lists it; repeatable",
    )
    common.add_argument("--racks", type=int, metavar="N", help="join N racks or supernodes by their scale-out network")
    common.add_argument(
        "--placement",
        metavar="HOW",
        help="linear, scatter or a file with a terminal per rank (default: as the trace recorded it, else linear)",
    )
    common.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="SPEC",
        help="what is broken, for instance switch:nvswitch.0.5, with @12us behind it from then on, or a TOML file of "
        "such words; repeatable",
    )

    running = _Parser(add_help=False, parents=[common])
    running.add_argument(
        "--estimate",
        action="store_true",
        help="do not run; say what the run would take in packet-hops, time and memory",
    )
    running.add_argument(
        "-o", "--output", metavar="DIR", help="write summary and tables of each result into this new or empty folder"
    )
    running.add_argument("--format", metavar="NAME", help="of these tables: arrow or parquet (default: arrow)")
    running.add_argument(
        "--messages", type=int, metavar="N", help="of more messages than this keep the N slowest (default: 1,000,000)"
    )
    running.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="of a single run: where it is kept when it is interrupted (default with -o: DIR/checkpoint)",
    )
    running.add_argument("--checkpoint-every", metavar="T", help="keep it besides each time this has passed: 10min")
    running.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint, if it is there; skip what is complete"
    )

    running.add_argument(
        "--perfetto",
        metavar="FILE",
        help="write the run as a trace for the Perfetto viewer; with several fabrics or sizes FILE gets their names",
    )

    def command(group: Any, name: str, function: Any, help_text: str, *parents: Any) -> _Parser:
        added: _Parser = group.add_parser(
            name, help=help_text, description=f"{help_text}.", parents=parents, allow_abbrev=False
        )
        added.set_defaults(function=function)
        return added

    fabrics = command(
        *(commands, "fabrics", _fabrics, "list the fabrics, or one with the source of every number"),
        *(json_option, reporting),
    )
    fabrics.add_argument("name", nargs="?", metavar="NAME", help="a fabric, or the path of a TOML file")
    fabrics.add_argument("--toml", action="store_true", help="print the fabric as TOML, a start for one's own")
    fabrics.add_argument(
        "--compare",
        nargs="+",
        metavar="F",
        help="set fabrics side by side: what is published of the machines, and a simulated all-to-all per accelerator, "
        "rack, kW and dollar",
    )
    fabrics.add_argument("--size", metavar="A", help="of this all-to-all, per rank (default: 64MiB)")

    run = command(commands, "run", _run, "run one collective, and print a table like nccl-tests", running)
    run.add_argument("fabric", metavar="FABRIC", help="a name, or the path of a TOML file")
    run.add_argument("collective", metavar="COLLECTIVE", help="one of the list below")
    run.formatter_class = argparse.RawDescriptionHelpFormatter
    run.late_epilog = _collectives_help
    run.add_argument("--size", metavar="A[,B...]", help="sizes as nccl-tests defines them, for instance 64MiB")
    run.add_argument("--min-size", metavar="A", help="smallest size of a sweep")
    run.add_argument("--max-size", metavar="B", help="largest size of a sweep")
    run.add_argument("--factor", type=int, metavar="N", help="step of a sweep (default: 2)")

    replay = command(commands, "replay", _replay, "replay a recorded trace on one or more fabrics", running)
    replay.add_argument("trace", metavar="TRACE", help="an Arrow trace (docs/trace-format.md)")
    replay.add_argument(
        "--fabric", action="append", required=True, metavar="F", help="a name, or the path of a TOML file; repeatable"
    )
    replay.add_argument(
        "--mode",
        default="dependency",
        metavar="MODE",
        help="dependency, recorded or back-to-back (default: dependency)",
    )

    faults = command(commands, "faults", _faults, "run one collective with one fault after another", common)
    faults.add_argument("fabric", metavar="FABRIC", help="a name, or the path of a TOML file")
    faults.add_argument("collective", metavar="COLLECTIVE", help="as for run")
    faults.add_argument("--each", required=True, metavar="WHAT", help="what dies, one at a time: switch, link or plane")
    faults.add_argument("--size", metavar="A", help="size as nccl-tests defines it, for instance 16MiB")
    for running_one, tokens in ((run, "A[,B...]"), (faults, "A")):
        running_one.add_argument("--ranks", type=int, metavar="N", help="number of ranks (default: one per terminal)")
        running_one.add_argument(
            "--tokens", metavar=tokens, help="of moe_dispatch and moe_combine: tokens per rank, not a size"
        )
        running_one.add_argument(
            "--skew", type=float, metavar="X", help="of these: spread of the experts' popularities"
        )
        running_one.add_argument("--algorithm", metavar="NAME", help="algorithm of the collective (default: its first)")

    trace = commands.add_parser("trace", help="look into, check and make traces", allow_abbrev=False)
    traces = trace.add_subparsers(metavar="COMMAND", required=True)
    info = command(traces, "info", _trace_info, "say what traces hold", json_option)
    check = command(traces, "check", _trace_check, "hold traces against all rules of docs/trace-format.md")
    for looking in (info, check):
        looking.add_argument("files", nargs="+", metavar="FILE", help="an Arrow trace")

    importer = traces.add_parser("import", help="convert recordings of other tools", allow_abbrev=False)
    importers = importer.add_subparsers(metavar="FORMAT", required=True)
    kineto = command(importers, "kineto", _import_kineto, "convert PyTorch profiler files of all ranks into one trace")
    kineto.add_argument("paths", nargs="+", metavar="PATH", help="Kineto and execution-trace JSON, archives or folders")

    generator = traces.add_parser("generate", help="make a trace from a model of a workload", allow_abbrev=False)
    generators = generator.add_subparsers(metavar="WORKLOAD", required=True)
    moe = command(generators, "moe", _generate_moe, "make one mixture-of-experts layer: dispatch and combine")
    moe.add_argument("--ep", type=int, required=True, metavar="N", help="ranks of the expert-parallel group")
    moe.add_argument("--tokens", type=int, required=True, metavar="N", help="tokens per rank")
    for name, (kind, help_text) in MOE_OPTIONS.items():
        # One that is left out stays absent, so that the generator's own default holds.
        moe.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=argparse.SUPPRESS,
            metavar="N" if kind is int else "X",
            help=help_text,
        )
    for making in (kineto, moe):
        making.add_argument("-o", "--output", required=True, metavar="FILE", help="the Arrow trace to write")
        making.add_argument(
            "--compression",
            choices=("none", "zstd", "lz4"),
            default="none",
            help="of the file; only an uncompressed one is mapped into memory (default: none)",
        )

    comparing = command(
        commands,
        "compare",
        _compare_results,
        "say where the time moved between two results of one workload",
        json_option,
    )
    for letter in "ab":
        comparing.add_argument(letter, metavar=letter.upper(), help="a folder that -o wrote, or a JSON summary")
    report = command(commands, "report", _report, "make one HTML page of the results in a folder of -o")
    report.add_argument("folder", metavar="DIR", help="what -o of run or replay has written")
    report.add_argument("-o", "--output", required=True, metavar="FILE", help="the page to write, for offline use")

    validate = command(
        *(commands, "validate", _validate, "hold simulated figures against published and measured ones"),
        *(json_option, reporting),
    )
    validate.add_argument("fabric", nargs="?", metavar="FABRIC", help="one of the catalog (default: all with points)")
    validate.add_argument("--all", action="store_true", help="also the points of more than 20 M packet-hops")
    for simulating in (fabrics, validate):
        simulating.add_argument(
            "--kernel", default="auto", metavar="NAME", help="auto, numba, c or python (default: auto)"
        )
        simulating.add_argument(
            "--threads", type=int, metavar="N", help="threads of the engine (default: the CPUs given)"
        )

    doctor = command(
        commands, "doctor", _doctor, "say what the simulator runs with here, and what slows it", json_option
    )
    doctor.add_argument("fabrics", nargs="*", metavar="FABRIC", help="fabrics to examine (default: the catalog)")

    _add_campaign(commands, command, json_option, reporting)

    warmup = command(commands, "warmup", _warmup, "compile the kernel and keep it for the runs to come")
    warmup.add_argument("--kernel", default="auto", metavar="NAME", help="auto, numba, c or python (default: auto)")
    return parser


def _add_campaign(commands: Any, command: Callable[..., _Parser], json_option: _Parser, reporting: _Parser) -> None:
    """Describe ``fabricsim campaign``."""
    campaign = commands.add_parser("campaign", help="plan, run and merge many runs (docs/batch.md)", allow_abbrev=False)
    campaigns = campaign.add_subparsers(metavar="COMMAND", required=True)

    plan = command(campaigns, "plan", _campaign_plan, "number and name the cases of a study")
    plan.add_argument("study", metavar="STUDY", help="a TOML file of axes, filters and replicas")
    plan.add_argument("-o", "--output", required=True, metavar="DIR", help="the new or empty folder of the plan")
    run = command(campaigns, "run", _campaign_run, "run the cases that have no valid result yet", reporting)
    status = command(campaigns, "status", _campaign_status, "list done, running, failed and missing cases", json_option)
    merge = command(campaigns, "merge", _campaign_merge, "write all results into one table")
    slurm = command(campaigns, "slurm", _campaign_slurm, "print a script for sbatch that runs the plan as a job array")
    for planned in (run, status, merge, slurm):
        planned.add_argument("folder", metavar="DIR", help="the folder of a plan")

    chosen = run.add_mutually_exclusive_group()
    chosen.add_argument("--index", metavar="N", help="these cases only, for instance 7 or 0-9,12")
    chosen.add_argument("--case", metavar="HASH", help="the case of this name only")
    run.add_argument(
        "--executor",
        metavar="NAME",
        help="local, mpi or dask (default: mpi under python -m mpi4py.futures, else local)",
    )
    run.add_argument("--workers", type=int, metavar="N", help="processes of local (default: one per CPU given)")
    run.add_argument("--scheduler", metavar="ADDR", help="address of the scheduler of dask")
    run.add_argument("--kernel", default="auto", metavar="NAME", help="auto, numba, c or python (default: auto)")
    run.add_argument(
        "--threads", type=int, metavar="N", help="of each case (default: 1; of a single case the CPUs given)"
    )

    merge.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="a file that ends in .parquet, .arrow or .csv"
    )
    merge.add_argument("--with-run-info", action="store_true", help="add host, kernel, threads and wall time")

    slurm.add_argument("--per-task", type=int, default=1, metavar="N", help="cases of each array task (default: 1)")
    slurm.add_argument("--cpus", type=int, default=1, metavar="N", help="CPUs of each array task (default: 1)")
    slurm.add_argument("--all", action="store_true", help="also the cases that are done or at work")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    ``argv`` is without the program's name; left out it is that of the process, which is to end with the command.
    """
    ends = argv is None
    argv = sys.argv[1:] if argv is None else list(argv)
    args = build_parser().parse_args(argv)
    args.command_line = shlex.join(["fabricsim", *argv])
    # Nothing here multiplies matrices, and the threads that NumPy's OpenBLAS starts for that take time from the rest.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        keeps = hasattr(args, "resume") and (args.output or args.checkpoint) is not None
        with Signals(keeps=keeps, ends=ends) as args.signals:
            args.signals.admit()
            code: int = args.function(args) or 0
    except CheckpointedError as error:
        again = args.command_line if args.resume else f"{args.command_line} --resume"
        _log(args).say("interrupted", f"{error}; resume with: {again}", exit_code=error.exit_code)
        return error.exit_code
    except FabricsimError as error:
        _complain(args, error)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        kept = str(interrupt) or "interrupted; nothing was kept of the unfinished run"
        _log(args).say("interrupted", kept, exit_code=EXIT_SIGINT)
        return EXIT_SIGINT
    except BrokenPipeError:
        # The interpreter flushes standard output once more at its end; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_SIGPIPE
    return code


def _log(args: argparse.Namespace) -> log.Log:
    return log.Log(getattr(args, "log_format", log.FORMATS[0]))


def _complain(args: argparse.Namespace, error: FabricsimError) -> None:
    _log(args).say("error", f"error: {error}", exit_code=error.exit_code)


def _counter(args: argparse.Namespace, label: str) -> CountReporter:
    """Report how many of several runs are done."""
    from fabricsim.results.progress import CountReporter

    reporter = CountReporter(label, quiet=args.quiet, log=_log(args))
    args.signals.watch(reporter)
    return reporter


def _fabrics(args: argparse.Namespace) -> None:
    from fabricsim.fabrics import load_fabric
    from fabricsim.results import console, documents

    if args.compare is not None:
        _compare(args)
    elif args.size is not None:
        raise ConfigError("--size is that of the all-to-all of --compare; add --compare F G, or leave it out")
    elif args.toml:
        if args.name is None or args.json is not None:
            raise ConfigError("--toml prints one fabric; name it, and leave --json out")
        sys.stdout.write(load_fabric(args.name).to_toml())
    elif args.name is None:
        console.answer(documents.fabrics_document(), console.fabrics_answer, args.json)
    else:
        console.answer(documents.fabric_document(load_fabric(args.name)), console.fabric_answer, args.json)


def _compare(args: argparse.Namespace) -> None:
    from fabricsim.results import console
    from fabricsim.results.systems import DEFAULT_SIZE, compare_fabrics

    if args.name is not None or args.toml:
        raise ConfigError(
            "--compare takes all fabrics after it and prints a table; leave --toml out, and no name before"
        )
    console.check_json_target(args.json)
    document = compare_fabrics(
        args.compare,
        size=DEFAULT_SIZE if args.size is None else args.size,
        kernel=args.kernel,
        threads=args.threads,
        progress=_counter(args, "fabrics"),
    )
    console.answer(document, console.systems_answer, args.json)


def _compare_results(args: argparse.Namespace) -> None:
    from fabricsim.results import console
    from fabricsim.results.compare import compare

    console.answer(compare(args.a, args.b), console.compare_answer, args.json)


def _run(args: argparse.Namespace) -> None:
    from fabricsim.fabrics import load_fabric, parse_overrides
    from fabricsim.results import console, output
    from fabricsim.results.run import collective_sweep

    fabric = load_fabric(args.fabric).with_overrides(parse_overrides(args.set, racks=args.racks))
    workloads = collective_sweep(
        args.collective,
        sizes=args.size,
        min_size=args.min_size,
        max_size=args.max_size,
        factor=args.factor,
        ranks=fabric.num_terminals if args.ranks is None else args.ranks,
        algorithm=args.algorithm,
        tokens=args.tokens,
        skew=args.skew,
    )
    _simulate(args, [(fabric, workload) for workload in workloads], console.run_answer, output.by_size)


def _replay(args: argparse.Namespace) -> None:
    from fabricsim.fabrics import load_fabric, parse_overrides
    from fabricsim.results import console, output
    from fabricsim.results.run import load_trace

    overrides = parse_overrides(args.set, racks=args.racks)
    fabrics = [load_fabric(name).with_overrides(overrides) for name in args.fabric]
    workload = load_trace(args.trace, mode=args.mode)
    _simulate(args, [(fabric, workload) for fabric in fabrics], console.replay_answer, output.by_fabric)


def _simulate(
    args: argparse.Namespace,
    runs: Sequence[tuple[FabricSpec, Workload]],
    lay_out: Callable[[Sequence[Any]], RenderableType],
    name: Callable[[FabricSpec, Workload], str],
) -> None:
    from fabricsim.results import console, documents
    from fabricsim.results.batch import Batch
    from fabricsim.results.progress import ProgressReporter

    run: Callable[..., Any]
    if args.estimate:
        if (args.output, args.checkpoint, args.perfetto) != (None, None, None):
            raise ConfigError(
                "--estimate runs nothing, so there is nothing to write or keep; leave -o, --checkpoint and --perfetto "
                "out, or --estimate"
            )
        from fabricsim.results.estimate import estimate as run

        lay_out = console.estimate_answer
    else:
        from fabricsim.results.run import simulate as run

    console.check_json_target(args.json)
    batch = Batch(
        [name(fabric, workload) for fabric, workload in runs],
        output=args.output,
        format=args.format,
        messages=args.messages,
        perfetto=args.perfetto,
        checkpoint=args.checkpoint,
        every=args.checkpoint_every,
        resume=args.resume,
        command=args.command_line,
        log=_log(args),
    )
    options = {
        "seed": args.seed,
        "routing": args.routing,
        "packet": args.packet,
        "endpoint": args.endpoint,
        "placement": args.placement,
        "faults": args.fault,
        "fold": not args.no_fold,
    }
    results: list[Any] = []
    outcomes: list[Any] = []  # with the summaries of what was complete before
    try:
        for number, (fabric, workload) in enumerate(runs):
            if (summary := batch.complete(number, fabric, workload, options)) is not None:
                outcomes.append(summary)
                continue
            label = f"{fabric.name} ({number + 1}/{len(runs)})"
            with ProgressReporter(label, quiet=args.quiet, log=_log(args)) as progress:
                checkpoint = batch.checkpoint(number)
                args.signals.watch(progress, checkpoint)
                kept = {} if args.estimate else {"checkpoint": checkpoint, "snapshots": batch.snapshots(number)}
                done = run(
                    *(fabric, workload), **options, kernel=args.kernel, threads=args.threads, progress=progress, **kept
                )
            results.append(done)
            outcomes.append(done)
            batch.write(number, done)
    finally:
        # What is done is shown even if a later run fails; the exit code tells that it is not all.
        if results and args.json != console.STDOUT:
            console.show(lay_out(results))
    if args.json is not None:
        console.write_json(documents.runs_document(outcomes, command=args.command_line), args.json)


def _report(args: argparse.Namespace) -> None:
    from fabricsim.results.report import write_report

    print(write_report(args.folder, args.output))


def _validate(args: argparse.Namespace) -> None:
    from fabricsim.results import console
    from fabricsim.results.validate import validate

    console.check_json_target(args.json)
    document = validate(
        args.fabric,
        everything=args.all,
        kernel=args.kernel,
        threads=args.threads,
        progress=_counter(args, "points"),
    )
    console.answer(document, console.validate_answer, args.json)


def _faults(args: argparse.Namespace) -> None:
    from fabricsim.fabrics import load_fabric, parse_overrides
    from fabricsim.results import console
    from fabricsim.results.fault_sweep import sweep_faults
    from fabricsim.results.run import one_collective

    console.check_json_target(args.json)
    fabric = load_fabric(args.fabric).with_overrides(parse_overrides(args.set, racks=args.racks))
    workload = one_collective(
        args.collective,
        size=args.size,
        ranks=fabric.num_terminals if args.ranks is None else args.ranks,
        algorithm=args.algorithm,
        tokens=args.tokens,
        skew=args.skew,
    )
    sweep = sweep_faults(
        fabric,
        workload,
        each=args.each,
        seed=args.seed,
        kernel=args.kernel,
        routing=args.routing,
        packet=args.packet,
        endpoint=args.endpoint,
        placement=args.placement,
        faults=args.fault,
        threads=args.threads,
        fold=not args.no_fold,
        progress=_counter(args, f"{fabric.name}, each {args.each}"),
    )
    if args.json != console.STDOUT:
        console.show(console.faults_answer(sweep))
    if args.json is not None:
        console.write_json(sweep.summary(command=args.command_line), args.json)


def _trace_info(args: argparse.Namespace) -> int:
    from fabricsim.results import console, documents
    from fabricsim.workloads.trace import Trace

    console.check_json_target(args.json)
    summaries: list[dict[str, Any]] = []

    def look_into(path: str) -> None:
        summaries.append(documents.trace_document(Trace.open(path)))
        if args.json != console.STDOUT:
            console.show(console.trace_answer(summaries[-1], follows=len(summaries) > 1))

    code = _for_each(args, look_into)
    if args.json is not None and code == 0:
        console.write_json(documents.joint_document(summaries), args.json)
    return code


def _trace_check(args: argparse.Namespace) -> int:
    from fabricsim.workloads.trace import Trace, check

    def hold(path: str) -> None:
        found = check(Trace.open(path))
        print(
            f"{path}: ok, {found.rows:,} rows: {found.collectives:,} collectives, {found.transfers:,} transfers, "
            f"{found.local_operations:,} local operations",
            flush=True,  # so that the verdicts stand in order where both outputs go to one file
        )

    return _for_each(args, hold)


def _for_each(args: argparse.Namespace, function: Callable[[str], None]) -> int:
    """Go through all files, whatever is wrong with some of them, and return the worst exit code."""
    code = 0
    for path in args.files:
        try:
            function(path)
        except (ConfigError, TraceError) as error:
            _complain(args, error)
            code = max(code, error.exit_code)
    return code


def _import_kineto(args: argparse.Namespace) -> None:
    from fabricsim.workloads.importers.kineto import import_kineto

    _write_trace(import_kineto(args.paths), args)


def _generate_moe(args: argparse.Namespace) -> None:
    from fabricsim.workloads.moe import moe_trace

    options = {name: getattr(args, name) for name in MOE_OPTIONS if hasattr(args, name)}
    _write_trace(moe_trace(ep=args.ep, tokens_per_rank=args.tokens, **options), args)


def _write_trace(trace: Trace, args: argparse.Namespace) -> None:
    trace.write(args.output, compression=None if args.compression == "none" else args.compression)
    print(f"{args.output}: {trace.num_rows:,} rows of {trace.world_size:,} ranks")


def _campaign_plan(args: argparse.Namespace) -> None:
    from fabricsim.campaigns import console
    from fabricsim.campaigns.plan import make_plan

    plan, is_new = make_plan(args.study, args.output)
    print(console.plan_answer(plan, is_new=is_new))


def _campaign_run(args: argparse.Namespace) -> int:
    from fabricsim.campaigns import console
    from fabricsim.campaigns.plan import open_plan
    from fabricsim.campaigns.run import run_cases
    from fabricsim.results.progress import ProgressReporter

    plan = open_plan(args.folder)
    if args.case is not None:
        cases = [plan.case(args.case)]
    else:
        cases = list(plan.cases) if args.index is None else plan.at(args.index)
    counter = _counter(args, "cases")

    def watch(index: int) -> ProgressReporter:
        # Never begun as a context: a bar for each of many short cases would flicker.
        reporter = ProgressReporter(f"case {index} ({plan.cases[index].case})", quiet=args.quiet, log=_log(args))
        args.signals.watch(reporter)
        return reporter

    ran = run_cases(
        plan,
        cases,
        executor=args.executor,
        count=args.workers,
        scheduler=args.scheduler,
        kernel=args.kernel,
        threads=args.threads,
        progress=counter,
        report=_log(args).say,
        watch=watch,
    )
    print(console.run_answer(plan, ran))
    return ran.exit_code


def _campaign_status(args: argparse.Namespace) -> None:
    from fabricsim.campaigns import console as answers
    from fabricsim.campaigns.plan import open_plan
    from fabricsim.campaigns.status import status
    from fabricsim.results import console

    console.answer(status(open_plan(args.folder)), answers.status_answer, args.json)


def _campaign_merge(args: argparse.Namespace) -> None:
    from fabricsim.campaigns.merge import merge
    from fabricsim.campaigns.plan import open_plan

    rows = merge(open_plan(args.folder), args.output, run_info=args.with_run_info)
    print(f"{args.output}: {rows:,} rows")


def _campaign_slurm(args: argparse.Namespace) -> None:
    from fabricsim.campaigns.plan import open_plan
    from fabricsim.campaigns.slurm import script

    plan = open_plan(args.folder)
    text = script(plan, per_task=args.per_task, cpus=args.cpus, all_cases=args.all, warn=_log(args).say)
    sys.stdout.write(text)


def _doctor(args: argparse.Namespace) -> None:
    from fabricsim.results import console, doctor

    console.answer(doctor.examine(args.fabrics), console.doctor_answer, args.json)


def _warmup(args: argparse.Namespace) -> None:
    from fabricsim.engine import backends
    from fabricsim.engine.warmup import warm_up

    kernel, reason = backends.choose(args.kernel)
    if kernel != "numba":
        print(f"kernel {kernel} ({reason}): nothing to compile; --kernel numba compiles for the Numba kernel")
        return
    started_s = time.perf_counter()
    compiled, folder = warm_up(lambda words: print(f"fabricsim: {words}", file=sys.stderr))
    took = f"{'compiled' if compiled else 'was compiled before, and loaded'} in {time.perf_counter() - started_s:.1f} s"
    if folder is None:
        raise ConfigError(
            f"warmup: the kernel {took}, but it cannot be kept; set NUMBA_CACHE_DIR to a folder that can be written, "
            "on a disk that is not full"
        )
    print(f"kernel numba ({reason}): {took}; kept in {folder}")
