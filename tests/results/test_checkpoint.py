"""Checkpoints of runs: whole, of this run alone, and never seen in the result."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import fabricsim as fs
from fabricsim import cli
from fabricsim.engine.driver import Progress, Simulation
from fabricsim.engine.layout import Code
from fabricsim.errors import CheckpointedError, ConfigError, FabricsimError, TraceError
from fabricsim.fabrics import FabricSpec
from fabricsim.results import checkpoint as checkpoints
from fabricsim.results import digest, run, spool
from fabricsim.results.checkpoint import (
    CheckpointKeeper,
    is_checkpoint,
    read_checkpoint,
    workload_sha256,
    write_checkpoint,
)
from fabricsim.results.kept import Kept
from fabricsim.results.output import FABRIC, SUMMARY, TABLES
from fabricsim.results.result import Result
from fabricsim.results.run import load_trace
from fabricsim.workloads import replay
from tests.engine.kernels import NUMBA, C
from tests.engine.test_checkpoint import alike
from tests.results.small import tiny_fabric
from tests.workloads.trace_cases import write_long_trace

ROOT = Path(__file__).parents[2]
PYTHON_KERNEL = ("--kernel", "python")


@pytest.fixture
def _short_slices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let slices have a random number of events, and blocks few operations, so that runs are cut anywhere."""
    advance, random = Simulation.advance, Random(5)
    monkeypatch.setattr(Simulation, "advance", lambda self, _: advance(self, random.randint(1, 60)))
    monkeypatch.setattr("fabricsim.engine.driver.SLICE_S", 0.0001)
    monkeypatch.setattr("fabricsim.engine.threads.WORTH_HOPS", 0)
    monkeypatch.setattr("fabricsim.engine.threads.TURN_EVENTS", 20)
    blocks = partial(replay.schedule_blocks, max_operations=3)
    monkeypatch.setattr(replay, "schedule_blocks", blocks)


@pytest.fixture
def long_trace(tmp_path: Path) -> Path:
    """Ninety operations of four ranks on two streams, in lanes of their own."""
    write_long_trace(tmp_path / "long.arrow", 90, num_ranks=4)
    return tmp_path / "long.arrow"


def outcome(result: Result) -> list[Any]:
    """All figures and tables of a run but wall times and who computed."""
    tables = (result.ops, result.tasks, result.messages, result.channels)
    summary = result.summary()
    for name in ("kernel", "kernel_reason", "threads", "wall_s", "packet_hops_per_s"):
        del summary[name]
    return [summary, result.in_flight_ps, *(table.to_pydict() for table in tables)]


def stopping(checkpoint: fs.Checkpoint, after: int) -> Callable[[Progress], None]:
    """Stop a run after so many slices."""
    slices = 0

    def count(_: Progress) -> None:
        nonlocal slices
        slices += 1
        if slices == after:
            checkpoint.stop()

    return count


def interrupted(path: Path, start: Callable[..., Result], after: int, **options: Any) -> Result | None:
    """Go on with a run for so many slices; ``None`` if it is not complete by then."""
    checkpoint = fs.Checkpoint(path, resume=True)
    try:
        return start(checkpoint=checkpoint, progress=stopping(checkpoint, after), **options)
    except CheckpointedError:
        return None


# ----------------------------------------------------------------------------------------------------------------------
# The same result


@pytest.mark.usefixtures("_short_slices")
@pytest.mark.parametrize("kernel", [C, NUMBA, "python"])
def test_fifty_interruptions_do_not_change_a_result(
    kernel: str, tiny: FabricSpec, long_trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay resumed at 50 random moments, blocks, spools and open digest in all states: tables and figures.

    In this process: a run is dropped and another takes its checkpoint over. Processes are signalled and killed below.
    """
    monkeypatch.setattr(spool, "MEMORY_BYTES", 1 << 10)
    monkeypatch.setattr(spool, "PIECE_BYTES", 1 << 11)
    monkeypatch.setattr(digest, "BLOCK_ROWS", 64)
    workload = load_trace(long_trace)
    expected = fs.simulate(tiny, workload, fold=False)
    random, resumes, result = Random(3), 0, None
    while result is None:
        threads = 1 + (resumes % 8 == 7)
        options = {"fabric": tiny, "workload": workload, "kernel": kernel, "fold": False, "threads": threads}
        result = interrupted(tmp_path / "checkpoint", fs.simulate, 1 + random.randrange(4), **options)
        resumes += result is None
    assert resumes >= 50
    assert outcome(result) == outcome(expected)


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "folded": ("tiny", {"op": "all_reduce", "size": "64KiB", "ranks": 4}, {}),
    "faults at a time": (
        "tiny",
        {"op": "all_to_all", "size": "256KiB", "ranks": 4},
        {"faults": ["lanes:gpu3-nvswitch.0.1=0.5@12us", "arrival_skew:1=1us"]},
    ),
    "in-network operations": ("nvl72", {"op": "all_reduce", "size": "1MiB", "ranks": 8, "algorithm": "sharp"}, {}),
    "ideal terminals": ("tiny", {"op": "all_gather", "size": "64KiB", "ranks": 4}, {"endpoint": "ideal"}),
}


@pytest.mark.usefixtures("_short_slices")
@pytest.mark.parametrize("case", CASES)
def test_all_kinds_of_runs_are_resumed(case: str, tiny: FabricSpec, tmp_path: Path) -> None:
    """Interrupted every few slices; between two of them all that the results hold is as in the run that was cut."""
    name, collective, options = CASES[case]
    fabric = tiny if name == "tiny" else fs.load_fabric(name)
    workload = fs.collective(**collective)
    expected = fs.simulate(fabric, workload, **options)
    path, resumes = tmp_path / "checkpoint", 0
    while (result := interrupted(path, fs.simulate, 4, fabric=fabric, workload=workload, **options)) is None:
        resumes += 1
        assert path.exists()
    assert resumes > 1
    assert outcome(result) == outcome(expected)


def plain(value: Any) -> Any:
    """Turn what checkpoints keep into mappings and arrays, down to the rows of a spool."""
    if isinstance(value, spool.Spool):
        return [value.num_rows, [list(block) for block in value.blocks()]]
    if isinstance(value, Kept):
        return {name: plain(part) for name, part in vars(value).items() if name not in value.GIVEN}
    return value


@pytest.mark.usefixtures("_short_slices")
def test_nothing_of_the_results_is_forgotten(
    tiny: FabricSpec, long_trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every attribute of what is collected comes back as it was when the checkpoint was written."""
    written: list[Any] = []
    begin, write = CheckpointKeeper.begin, CheckpointKeeper._write

    def begin_and_compare(self: CheckpointKeeper, simulation: Simulation) -> None:
        begin(self, simulation)
        if written:
            assert alike(plain(self._collected), written[-1])

    def write_and_note(self: CheckpointKeeper, simulation: Simulation) -> None:
        write(self, simulation)
        written.append(plain(self._collected))

    monkeypatch.setattr(CheckpointKeeper, "begin", begin_and_compare)
    monkeypatch.setattr(CheckpointKeeper, "_write", write_and_note)
    options = {"trace": long_trace, "fabric": tiny, "fold": False, "threads": 1}
    while interrupted(tmp_path / "checkpoint", fs.replay, 9, **options) is None:
        pass
    assert len(written) > 5


def test_what_cannot_be_kept_is_an_error() -> None:
    """A new attribute of a form that a checkpoint does not know is found by the first one that is written."""

    class More(Kept):
        def __init__(self) -> None:
            self.rows = {1: 2}

    with pytest.raises(TypeError, match="a checkpoint cannot keep rows, a dict"):
        More().dump()


# ----------------------------------------------------------------------------------------------------------------------
# When, and where


def test_checkpoints_come_by_the_clock(tiny: FabricSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time that so many seconds have passed; the file stays until it is removed."""
    monkeypatch.setattr(Simulation, "advance", lambda self, _, advance=Simulation.advance: advance(self, 100))
    now_s, written = 0.0, []
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: now_s)
    monkeypatch.setattr(
        CheckpointKeeper,
        "_write",
        lambda self, run, write=CheckpointKeeper._write: (written.append(now_s), write(self, run)),
    )

    def tick(_: Progress) -> None:
        nonlocal now_s
        now_s += 1.0

    workload = fs.collective("all_reduce", size="64KiB", ranks=4)
    checkpoint = fs.Checkpoint(tmp_path / "checkpoint", every_s=3.0)
    fs.simulate(tiny, workload, checkpoint=checkpoint, progress=tick, threads=1)
    assert written[:3] == [3.0, 6.0, 9.0]
    assert checkpoint.exists
    checkpoint.remove()
    checkpoint.remove()
    assert not checkpoint.exists


def test_a_run_is_as_long_as_its_parts(tiny: FabricSpec, tmp_path: Path) -> None:
    """Wall time counts from the first start, without the time in between."""
    workload = fs.collective("all_reduce", size="64KiB", ranks=4)
    path = tmp_path / "checkpoint"
    assert interrupted(path, fs.simulate, 1, fabric=tiny, workload=workload, kernel="python", threads=1) is None
    with read_checkpoint(path) as stored:
        before_s, engine_s = stored["wall_s"], stored["engine"]["engine_s"]
    assert before_s > engine_s > 0
    result = fs.simulate(tiny, workload, kernel="python", threads=1, checkpoint=fs.Checkpoint(path, resume=True))
    assert result.info.wall_s > before_s
    assert result.record.engine_s > engine_s


def test_places_and_times_that_cannot_be_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the run: no time, a file in the way, a folder that is not there or cannot be written."""
    (tmp_path / "old").touch()
    for path, options, words in (
        ("new", {"every_s": 0}, "checkpoints every 0 s: give a time above 0"),
        ("old", {}, r"old is there already; add --resume \(resume=True\) to go on from it if it is a checkpoint, or"),
        (".", {"resume": True}, r"cannot be written; name a file in a folder that can be written"),
        ("no/new", {}, r"no/new cannot be written; name a file in a folder that can be written"),
    ):
        with pytest.raises(ConfigError, match=words):
            fs.Checkpoint(tmp_path / path, **options)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match="cannot be written"):
        fs.Checkpoint(tmp_path / "new")


def test_a_disk_that_is_full_leaves_the_checkpoint_of_before(
    tiny: FabricSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be written whole is not written, and the sentence says why."""
    workload = fs.collective("all_reduce", size="64KiB", ranks=4)
    path = tmp_path / "checkpoint"
    options = {"fabric": tiny, "workload": workload, "kernel": "python", "threads": 1}
    assert interrupted(path, fs.simulate, 1, **options) is None
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"checkpoint: cannot be written \(No space left on device\)"):
        interrupted(path, fs.simulate, 1, **options)
    assert (path.read_bytes(), os.listdir(tmp_path)) == (before, ["checkpoint"])


# ----------------------------------------------------------------------------------------------------------------------
# Damaged and foreign ones


@pytest.fixture(scope="module")
def kept(tiny: FabricSpec, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A checkpoint of a small run."""
    path = tmp_path_factory.mktemp("kept") / "checkpoint"
    assert interrupted(path, fs.simulate, 1, **SMALL, fabric=tiny) is None
    return path.read_bytes()


SMALL: dict[str, Any] = {
    "workload": fs.collective("all_reduce", size="64KiB", ranks=4),
    "kernel": "python",
    "threads": 1,
}


def resume(path: Path, fabric: FabricSpec, **options: Any) -> Result:
    """Go on with the small run, or with another."""
    return fs.simulate(**{**SMALL, "fabric": fabric, **options}, checkpoint=fs.Checkpoint(path, resume=True))


def test_damage_is_found(kept: bytes, tiny: FabricSpec, tmp_path: Path) -> None:
    """One byte flipped anywhere, an end that is missing, nothing at all, another file: exit code 3."""
    random, path = Random(1), tmp_path / "checkpoint"
    places = [*range(0, 90, 7), *(random.randrange(len(kept)) for _ in range(40)), len(kept) - 1]
    flipped = [kept[:place] + bytes([kept[place] ^ 1 << random.randrange(8)]) + kept[place + 1 :] for place in places]
    for content in (*flipped, kept[:-1], kept[: len(kept) // 2], kept[:50], b"", b"fabricsim " * 50):
        path.write_bytes(content)
        with pytest.raises(
            TraceError, match="checkpoint: the checkpoint is damaged, or it is none; remove it to start"
        ):
            resume(path, tiny)
    path.write_bytes(kept)
    assert resume(path, tiny).digest


def test_a_checkpoint_of_another_run_is_refused(
    kept: bytes, tiny: FabricSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence says what differs; who computes may differ."""
    path = tmp_path / "checkpoint"
    path.write_bytes(kept)
    other = fs.collective("all_reduce", size="32KiB", ranks=4)
    slower = tiny.with_overrides({"link.gpu-nvswitch.latency": "1 us"})
    for options, words in (
        ({"seed": 2}, r"differs in seed \(1, not 2\); resume with the command that wrote it"),
        ({"workload": other}, "differs in the workload;"),
        ({"fabric": slower}, r"differs in .*--set \(none, not link.gpu-nvswitch.latency=1 us\)"),
        ({"fabric": "hgx-h100"}, r"differs in fabric \(tiny, not hgx-h100\), the fabric's numbers"),
        ({"placement": [3, 2, 1, 0]}, "differs in the placement;"),
        ({"endpoint": "ideal"}, r"differs in endpoint \(fitted, not ideal\)"),
        ({"packet": "small"}, r"differs in packet \(bulk, not small\)"),
        ({"faults": ["plane:1", "arrival_skew:1=1us"]}, r"differs in faults \(none, not plane:1 arrival_skew:1=1us\)"),
        ({"fold": False}, "differs in folding"),
    ):
        if "packet" in options and "small" not in [packet for packet in tiny.packet]:
            continue
        with pytest.raises(ConfigError, match=words):
            resume(path, **{"fabric": tiny, **options})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "package_version", lambda: "9.9")
        with pytest.raises(ConfigError, match=r"differs in fabricsim \(.*, not 9.9\)"):
            resume(path, tiny)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "layout_sha256", lambda: "")
        with pytest.raises(ConfigError, match="differs in the engine's tables;"):
            resume(path, tiny)
    words = f"a checkpoint of format {checkpoints.VERSION}, not 0; resume with"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "VERSION", 0)
        with pytest.raises(ConfigError, match=words):
            resume(path, tiny)
    assert resume(path, tiny, kernel="auto", threads=2).digest


def test_a_trace_is_known_by_its_rows(tiny: FabricSpec, small_trace: fs.Trace, tmp_path: Path) -> None:
    """The same file under another name is the same, another mode is not; tables in memory have hashes too."""
    path, same = tmp_path / "one.arrow", tmp_path / "two.arrow"
    small_trace.write(path)
    same.write_bytes(path.read_bytes())

    def of(trace: Any, mode: str = "dependency") -> str:
        return workload_sha256(load_trace(trace, mode=mode))

    assert of(path) == of(same) != of(path, "recorded")
    assert of(small_trace) == of(small_trace.table()) != of(small_trace.table().slice(0, 2))


# ----------------------------------------------------------------------------------------------------------------------
# Signals and the command line


@pytest.fixture
def _signals_reach_us() -> Iterator[None]:
    """Let Ctrl-C and SIGUSR1 mean what they do in a shell, whoever started the tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def signal_after(monkeypatch: pytest.MonkeyPatch, slices: int, *numbers: signal.Signals) -> None:
    """Let signals come in the slice after so many, counted over all runs."""
    begun, advance = 0, Simulation.advance

    def counted(self: Simulation, _: int) -> Any:
        nonlocal begun
        begun += 1
        if begun == slices + 1:
            for number in numbers:
                signal.raise_signal(number)
        return advance(self, 300)

    monkeypatch.setattr(Simulation, "advance", counted)


def run_argv(fabric: Path, *options: str, size: str = "64KiB") -> list[str]:
    """Run some thousand packet-hops, in slices."""
    return ["run", str(fabric), "all_to_all", "--size", size, "--threads", "1", "--no-fold", *PYTHON_KERNEL, *options]


def digest_of(fabric: Path, size: str = "64KiB") -> str:
    """What a run gives that nobody disturbs."""
    return fs.simulate(fabric, fs.collective("all_to_all", size=size, ranks=4)).digest


def signalled(argv: list[str], checkpoint: Path, number: signal.Signals) -> tuple[int, str, str]:
    """Start a command, send it a signal once it has written a checkpoint, and return code and output."""
    with subprocess.Popen(
        [sys.executable, "-m", "fabricsim", *argv],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        while not checkpoint.exists() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(number)
        printed, said = process.communicate()
    return process.returncode, printed, said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_process_ends_with_75_and_goes_on(number: signal.Signals, tiny_path: Path, tmp_path: Path) -> None:
    """A signal from outside; the command that it names gives the result, and leaves nothing else behind."""
    out = tmp_path / "out"
    argv = run_argv(tiny_path, "-o", str(out), "--checkpoint-every", "1us", size="512KiB")
    again = ["fabricsim", *argv, "--resume"]
    assert signalled(argv, out / "checkpoint", number) == (
        *(75, ""),
        f"fabricsim: interrupted; checkpoint written to {out / 'checkpoint'}; resume with: {shlex.join(again)}\n",
    )
    assert os.listdir(out) == ["checkpoint"]
    done = subprocess.run([sys.executable, "-m", *again], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, f"fabricsim: resuming from the checkpoint {out / 'checkpoint'}\n")
    assert sorted(os.listdir(out)) == sorted([FABRIC, SUMMARY, *(f"{name}.arrow" for name in TABLES)])
    assert json.loads((out / "summary.json").read_text())["digest"] == digest_of(tiny_path, "512KiB")


def test_a_process_that_is_killed_goes_on(tiny_path: Path, tmp_path: Path) -> None:
    """From the last checkpoint by the clock; what it was writing just then is of no account."""
    out = tmp_path / "out"
    argv = run_argv(tiny_path, "-o", str(out), "--checkpoint-every", "1us", "--resume", size="512KiB")
    assert signalled(argv, out / "checkpoint", signal.SIGKILL)[0] == -signal.SIGKILL
    (out / "checkpoint.part").write_bytes(b"fabricsim")
    assert cli.main(argv) == 0
    assert "checkpoint" not in " ".join(os.listdir(out))
    assert json.loads((out / "summary.json").read_text())["digest"] == digest_of(tiny_path, "512KiB")


@pytest.mark.usefixtures("_signals_reach_us")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_without_a_checkpoint_nothing_is_kept(
    number: signal.Signals,
    code: int,
    tiny_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A sentence and the code of a signal."""
    signal_after(monkeypatch, 2, number)
    before = signal.getsignal(number)
    assert cli.main(run_argv(tiny_path)) == code
    assert capsys.readouterr().err.endswith("; nothing was kept of the unfinished run\n")
    assert signal.getsignal(number) == before


@pytest.mark.usefixtures("_signals_reach_us")
def test_sigusr1_asks_for_a_line(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a checkpoint the run goes on; also of one that is quiet, as JSON, and of several runs counted."""
    signal_after(monkeypatch, 2, signal.SIGUSR1)
    assert cli.main(run_argv(tiny_path, "--quiet")) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"tiny \(1/1\): [\d.]+% delivered, simulated .*, [\d,]+ MiB", line)
    signal_after(monkeypatch, 2, signal.SIGUSR1)
    assert cli.main(run_argv(tiny_path, "--log-format", "json")) == 0
    assert json.loads(capsys.readouterr().err)["packet_hops"] > 0
    signal_after(monkeypatch, 2, signal.SIGUSR1)
    sweep = ("faults", str(tiny_path), "all_to_all", "--each", "plane", "--size", "16KiB", "--no-fold")
    assert cli.main([*sweep, "--threads", "1", *PYTHON_KERNEL]) == 0
    assert re.fullmatch(r"tiny, each plane: 1 of \d\n", capsys.readouterr().err)


@pytest.mark.usefixtures("_signals_reach_us")
@pytest.mark.parametrize(("echo_s", "code"), [(0.0, 130), (60.0, 75)])
def test_a_second_signal_leaves_at_once(
    echo_s: float, code: int, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But one that comes with the first is its echo."""
    monkeypatch.setattr("fabricsim.results.signals.ECHO_S", echo_s)
    signal_after(monkeypatch, 2, signal.SIGTERM, signal.SIGINT)
    assert cli.main(run_argv(tiny_path, "--checkpoint", str(tmp_path / "checkpoint"))) == code
    assert os.listdir(tmp_path) == (["checkpoint"] if code == 75 else [])


@pytest.mark.usefixtures("_signals_reach_us")
def test_a_signal_before_the_run(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is nothing to write yet, and the checkpoint of before stays: requeue me all the same."""
    argv = run_argv(tiny_path, "-o", str(tmp_path / "out"), "--resume")
    with monkeypatch.context() as patch:
        patch.setattr(run, "find_routes", lambda *_: signal.raise_signal(signal.SIGTERM))
        assert cli.main(argv) == 75
    assert "no checkpoint" in (said := capsys.readouterr().err)
    assert "interrupted before the first packet; nothing is lost; resume with: fabricsim run" in said
    with monkeypatch.context() as patch:
        patch.setattr(run, "collective_sweep", lambda *_, **__: signal.raise_signal(signal.SIGUSR1))
        assert cli.main(argv) == 75
    assert "interrupted before the run began; nothing is lost; resume with:" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        signal_after(patch, 2, signal.SIGTERM)
        assert cli.main(argv) == 75
    content = (tmp_path / "out" / "checkpoint").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(run, "find_routes", lambda *_: signal.raise_signal(signal.SIGTERM))
        assert cli.main(argv) == 75
    assert f"the checkpoint {tmp_path / 'out' / 'checkpoint'} stays" in capsys.readouterr().err
    assert (tmp_path / "out" / "checkpoint").read_bytes() == content
    assert cli.main(argv) == 0


def raise_in_compile(number: signal.Signals) -> None:
    """Let a signal come while ``compile()`` folds constants, which drops what a handler raises but KeyboardInterrupt.

    The products alone look for signals; SIGVTALRM, which comes after 10 ms of computing, stands for the signal.
    """
    source = ",".join(["123456789012345 * 987654321098765"] * 30_000)
    came = []

    def stand_in(_: int, frame: Any) -> None:
        came.append(number)
        signal.getsignal(number)(number, frame)

    before = signal.signal(signal.SIGVTALRM, stand_in)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.01)
    try:
        compile(source, "products", "exec")
    finally:
        signal.signal(signal.SIGVTALRM, before)
    assert came


LOST: dict[str, tuple[str, tuple[str, ...], int, str]] = {
    "before the run": ("fabricsim.results.run.collective_sweep", (), 143, "error: terminated; nothing was kept"),
    "while tables are built": ("fabricsim.results.run.find_routes", (), 143, "error: terminated; nothing was kept"),
    "before the run, kept": (
        *("fabricsim.results.run.collective_sweep", ("--checkpoint", "file"), 75),
        "interrupted before the run began; nothing is lost; resume with",
    ),
    "between watch and run, kept": (
        *("fabricsim.results.run.find_routes", ("--checkpoint", "file"), 75),
        "interrupted; checkpoint written to file; resume with",
    ),
}


@pytest.mark.usefixtures("_signals_reach_us")
@pytest.mark.parametrize("case", LOST)
def test_a_signal_is_not_lost_in_compile(
    case: str, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where its error is dropped, the command ends when the run begins, or after its first slice."""
    place, options, code, words = LOST[case]
    module, _, name = place.rpartition(".")
    function = getattr(sys.modules[module], name)

    def meanwhile(*arguments: Any, **others: Any) -> Any:
        raise_in_compile(signal.SIGTERM)
        return function(*arguments, **others)

    monkeypatch.setattr(place, meanwhile)
    signal_after(monkeypatch, 10**9)  # in slices
    monkeypatch.chdir(tmp_path)
    argv = run_argv(tiny_path, *options)
    assert cli.main(argv) == code
    said = capsys.readouterr()
    assert (said.out, said.err.startswith(f"fabricsim: {words}")) == ("", True)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert cli.main([*argv, *(("--resume",) if options else ()), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == digest_of(tiny_path)


@pytest.mark.usefixtures("_signals_reach_us")
def test_a_count_ends_when_a_signal_was_lost(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command of several runs ends before the next."""
    advance, advanced = Simulation.advance, []

    def lossy(self: Simulation, slice_events: int) -> Any:
        advanced.append(self)
        with suppress(FabricsimError):
            signal.raise_signal(signal.SIGTERM)
        return advance(self, slice_events)

    monkeypatch.setattr(Simulation, "advance", lossy)
    sweep = ["faults", str(tiny_path), "all_to_all", "--each", "plane", "--size", "16KiB", "--no-fold"]
    assert cli.main([*sweep, "--threads", "1", *PYTHON_KERNEL]) == 143
    assert capsys.readouterr() == ("", "fabricsim: error: terminated; nothing was kept of the unfinished run\n")
    assert len({id(one) for one in advanced}) == 1


def run_process(before: str, after: str, *argv: str) -> tuple[int, str]:
    """Run a command as a process with signals before it and after it; its code, and what it says."""
    script = (
        "import os, signal, sys, fabricsim.__main__ as process, fabricsim.results.signals as signals\n"
        f"signals.hold()\n{before}\ncode = process.run()\n{after}\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script, *argv], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stderr


def test_a_process_is_not_ended_by_a_signal_at_its_begin_or_end(tiny_path: Path, tmp_path: Path) -> None:
    """Each waits for the command, or finds it complete; the exit code is that of the command."""
    argv = run_argv(tiny_path, size="4KiB")
    user, term = (f"os.kill(os.getpid(), signal.{name})" for name in ("SIGUSR1", "SIGTERM"))
    assert run_process(user, "", *argv) == (0, "")
    code, said = run_process(user, f"{user}; {term}", *argv, "--checkpoint", str(tmp_path / "file"))
    assert code == 75
    assert said.startswith("fabricsim: interrupted before the run began; nothing is lost; resume with:")
    assert run_process(term, "", *argv)[0] == 143
    assert run_process("", f"{user}; {term}", *argv) == (0, "")


@pytest.mark.usefixtures("_signals_reach_us")
def test_a_sweep_goes_on_where_it_was(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three sizes the first is complete, the second goes on, the third starts; the document has all of them."""
    out, document = tmp_path / "out", tmp_path / "document.json"
    argv = run_argv(tiny_path, "-o", str(out), "--json", str(document), "--resume", size="4KiB,32KiB,8KiB")
    slices = Simulation(
        tiny_fabric().network(), fs.collective("all_to_all", size="4KiB", ranks=4), np.arange(4, dtype=np.int32)
    )
    first = 1
    while slices.advance(300) == Code.SLICE:
        first += 1
    with monkeypatch.context() as patch:
        signal_after(patch, first + 1, signal.SIGTERM)
        assert cli.main(argv) == 75
    captured = capsys.readouterr()
    assert "\n4,096 " in captured.out
    assert not document.exists()
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"4KiB/summary.json", "32KiB/checkpoint"} <= found
    before = (out / "4KiB" / "summary.json").stat().st_mtime_ns
    assert cli.main(argv) == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        f"fabricsim: {out / '4KiB'} holds the whole result already",
        f"fabricsim: resuming from the checkpoint {out / '32KiB' / 'checkpoint'}",
        f"fabricsim: no checkpoint {out / '8KiB' / 'checkpoint'}: starting from the beginning",
    ]
    assert "\n4,096 " not in captured.out
    digests = [summary["digest"] for summary in json.loads(document.read_text())["results"]]
    assert digests == [digest_of(tiny_path, size) for size in ("4KiB", "32KiB", "8KiB")]
    assert (out / "4KiB" / "summary.json").stat().st_mtime_ns == before
    assert not list(out.rglob("checkpoint"))
    (out / "8KiB" / "checkpoint").touch()  # of a process that was killed just before it removed it
    assert cli.main(argv) == 0  # all is there
    assert not list(out.rglob("checkpoint"))
    assert capsys.readouterr().out == ""
    assert [summary["digest"] for summary in json.loads(document.read_text())["results"]] == digests
    assert cli.main([*argv, "--seed", "2"]) == 2
    assert "summary.json is the result of another run: resume with the command that wrote it" in capsys.readouterr().err
    (out / "4KiB" / "summary.json").write_text("{}")
    assert cli.main(argv) == 3
    assert "summary.json: damaged" in capsys.readouterr().err


@pytest.mark.usefixtures("_signals_reach_us")
def test_a_signal_while_a_result_is_written(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is complete, and stays so; of several the next does not begin."""
    write = Result.write

    def interrupted_write(self: Result, *arguments: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return write(self, *arguments, **options)

    monkeypatch.setattr(Result, "write", interrupted_write)
    assert cli.main(run_argv(tiny_path, "-o", str(tmp_path / "one"), size="4KiB")) == 0
    assert cli.main(run_argv(tiny_path, "-o", str(tmp_path / "two"), size="4KiB,8KiB")) == 75
    assert "interrupted between two runs; what is complete stays; resume with:" in capsys.readouterr().err
    assert (tmp_path / "two" / "4KiB" / "summary.json").exists()


def test_one_command_line_for_start_and_restart(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --resume a run starts, goes on or is complete; without, a checkpoint is not written over."""
    argv = run_argv(tiny_path, "-o", str(tmp_path / "out"))
    with monkeypatch.context() as patch:
        signal_after(patch, 2, signal.SIGTERM)
        assert cli.main(argv) == 75
    assert cli.main(argv) == 2
    assert "out holds checkpoint, of a run that is not complete; add --resume to go on" in capsys.readouterr().err
    file = tmp_path / "file"
    with monkeypatch.context() as patch:
        signal_after(patch, 2, signal.SIGTERM)
        assert cli.main(run_argv(tiny_path, "--checkpoint", str(file))) == 75
    assert cli.main(run_argv(tiny_path, "--checkpoint", str(file))) == 2
    assert "file is there already; add --resume" in capsys.readouterr().err
    assert cli.main(run_argv(tiny_path, "--checkpoint", str(file), "--resume", "--json", "-")) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == digest_of(tiny_path)
    assert not file.exists()


@pytest.mark.parametrize("foreign", [False, True])
def test_what_is_refused_is_not_said_to_be_resumed(
    foreign: bool, tiny_path: Path, tmp_path: Path, kept: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint of another run or a damaged one: the error alone."""
    (tmp_path / "file").write_bytes(kept if foreign else b"notes")
    assert cli.main(run_argv(tiny_path, "--checkpoint", str(tmp_path / "file"), "--resume")) == (2 if foreign else 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fabricsim: error: {tmp_path / 'file'}: the checkpoint is ")


def test_options_without_effect_are_refused(tiny_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Checkpoints of nothing, of several runs in one file, of an estimate; and a time without a unit."""
    for options, words in (
        (("--resume",), "--checkpoint-every and --resume need a checkpoint: give -o DIR or --checkpoint FILE"),
        (("--checkpoint-every", "10min"), "need a checkpoint"),
        (("--checkpoint", "x", "--size", "1KiB,2KiB"), "--checkpoint keeps one run, and these are 2; give -o DIR"),
        (("--checkpoint", "x", "--estimate"), "--estimate runs nothing, so there is nothing to write or keep"),
        (("--checkpoint", "out/x", "-o", "out"), "leave it out, as -o keeps out/checkpoint, or give it a place"),
        (("--checkpoint", "x", "--checkpoint-every", "10"), "'10' has no unit"),
        (("--checkpoint", "x", "--checkpoint-every", "0s"), "give a time above 0"),
    ):
        argv = ["run", str(tiny_path), "all_to_all", *(() if "--size" in options else ("--size", "1KiB")), *options]
        assert cli.main(argv) == 2
        assert words in capsys.readouterr().err


def test_errors_are_json_too(tiny_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --log-format json what went wrong is an object with the exit code."""
    assert cli.main(run_argv(tiny_path, "--log-format", "json", "--resume")) == 2
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["exit_code"]) == ("error", 2)
    assert line["message"].startswith("error: --checkpoint-every and --resume need")


# ----------------------------------------------------------------------------------------------------------------------
# What docs/batch.md says


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands on the page; it leaves the result alone."""
    page = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"<!-- checkpoint-example -->\n```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "batch.md", "exec"), {})
    assert os.listdir(tmp_path) == ["moe"]


def test_events_of_the_log_are_on_the_page() -> None:
    """Every event that the code names, and no other."""
    page = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `event` \| (.*) \|$", page, re.MULTILINE)
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "fabricsim").rglob("*.py")]
    events = {event for source in sources for event in re.findall(r"\b(?:_?say|report|warn)\(\s*\"(\w+)\"", source)}
    assert events == set(re.findall(r"`(\w+)`", row))


def test_neither_home_nor_cache_is_needed(tiny_path: Path, tmp_path: Path) -> None:
    """A job without HOME, whose caches cannot be made, in a folder that others own, runs and keeps its checkpoint."""
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    nowhere = tmp_path / "file"
    nowhere.touch()
    environment |= {"NUMBA_CACHE_DIR": str(nowhere / "cache"), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = run_argv(tiny_path, "-o", str(tmp_path / "out"), "--checkpoint-every", "1us", size="4KiB")
    command = [sys.executable, "-m", "fabricsim", *argv]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "checkpoint" not in os.listdir(tmp_path / "out")


def test_only_a_checkpoint_is_removed(tmp_path: Path) -> None:
    """A complete result makes its checkpoint superfluous, and no other file that bears the name."""
    write_checkpoint(tmp_path / "one", {"values": 1})
    (tmp_path / "other").write_bytes(b"fabric")
    assert [is_checkpoint(tmp_path / name) for name in ("one", "other", "none")] == [True, False, False]
