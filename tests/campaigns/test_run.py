from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fabricsim.campaigns import work
from fabricsim.campaigns.executors import default_executor
from fabricsim.campaigns.merge import merge
from fabricsim.campaigns.plan import Plan
from fabricsim.campaigns.run import run_cases
from fabricsim.campaigns.status import status
from fabricsim.campaigns.store import Failure, Store
from fabricsim.errors import ConfigError, IncompleteError, InterruptedRunError, StallError
from tests.campaigns.plans import AXES, CASES, HEAD, planned

ROOT = Path(__file__).resolve().parents[2]
#: Cases that take minutes on the Python kernel.
LONG = '[axes]\nfabric = "nvl72"\ncollective = "all_to_all"\nsize = "64MiB"\nseed = [1, 2, 3]\n'
#: Of four cases one is refused when it runs: it has no rank 3.
IDLE = """\
[axes]
fabric = "tiny.toml"
collective = "all_to_all"
size = "1KiB"
ranks = [2, 4]
fault = ["none", "arrival_skew:3=5us"]
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A plan of 12 cases."""
    return planned(tmp_path)


@pytest.fixture
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """An allocation of two CPUs, however many this machine has."""
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")


def ran(plan: Plan, **options: Any) -> tuple[int, int, dict[int, Failure]]:
    """Run all cases on the Python kernel; how many were run, how many had a result, and what failed."""
    found = run_cases(plan, plan.cases, **{"kernel": "python", **options})
    return found.done, found.valid, found.failures


def start(plan: Plan, *options: str, **more: Any) -> subprocess.Popen[str]:
    """Start ``campaign run`` on the Python kernel as a process."""
    command = [sys.executable, "-m", "fabricsim", "campaign", "run", str(plan.folder), "--kernel", "python", *options]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a script in the background ignores it
        **more,
    )


def wait_for(is_so: Callable[[], bool]) -> None:
    """Look again and again until it is so."""
    for _ in range(1200):
        if is_so():
            return
        time.sleep(0.05)
    pytest.fail("waited for a minute in vain")


def owners(plan: Plan) -> list[int]:
    """The processes that work on cases."""
    words = [entry["owner"] for entry in status(plan)["running"]]
    return [int(number) for number in re.findall(r"process (\d+) on", " ".join(words))]


def test_every_case_is_run_once(plan: Plan) -> None:
    """A second run finds nothing to do; results that are broken are made again, to the same bytes but for the host."""
    assert ran(plan) == (CASES, 0, {})
    assert ran(plan) == (0, CASES, {})
    store = Store(plan)
    before = [store.result(case)["result"]["digest"] for case in plan.cases]  # type: ignore[index]
    path = store.result_path(plan.cases[3])
    path.write_bytes(path.read_bytes()[:-30])
    store.result_path(plan.cases[5]).unlink()
    document = status(plan)
    assert (document["done"], [entry["damaged"] for entry in document["missing"]]) == (CASES - 2, [True, False])
    assert ran(plan) == (2, CASES - 2, {})
    assert [store.result(case)["result"]["digest"] for case in plan.cases] == before  # type: ignore[index]


@pytest.mark.usefixtures("two_cpus")
def test_processes_give_what_one_process_gives(plan: Plan, tmp_path: Path) -> None:
    """Two worker processes and none: the merged files are equal."""
    other = planned(tmp_path / "other")
    assert ran(plan, executor="local", count=1)[0] == CASES
    assert ran(other, executor="local")[0] == CASES
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for of, path in zip((plan, other), files, strict=True):
        assert merge(of, path) == CASES
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_failure_is_kept_and_tried_again(tmp_path: Path) -> None:
    """The run goes on, ends with the code of the first failed case, and the next run tries that one again."""
    plan = planned(tmp_path, HEAD + IDLE)
    told: list[str] = []
    found = run_cases(plan, plan.cases, kernel="python", report=lambda event, words: told.append(f"{event}: {words}"))
    (failed,) = [case for case in plan.cases if case.ranks == 2 and case.faults]
    assert (found.done, list(found.failures), found.exit_code) == (3, [failed.index], 2)
    assert "arrival_skew:3" in found.failures[failed.index].message
    (line,) = told
    assert line.startswith(f"failed: case {failed.index} ({failed.case}) failed, exit code 2: ")
    assert line.endswith(found.failures[failed.index].message)
    document = status(plan)
    assert [(entry["index"], entry["exit_code"]) for entry in document["failed"]] == [(failed.index, 2)]
    with pytest.raises(
        IncompleteError, match=rf"1 of 4 cases .*\n  index {failed.index} \({failed.case}\) exit code 2: "
    ):
        merge(plan, tmp_path / "all.csv")
    assert ran(plan)[:2] == (0, 3)


def order(plan: Plan, index: int) -> work.Order:
    """An order as a run gives it."""
    stamp = Store(plan).failure_stamp(plan.cases[index])
    return work.Order(str(plan.folder), plan.sha256, index, "python", 1, stamp)


def test_a_failure_of_another_run_stands(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another run found since this one began is not tried again, whether that was a result or a failure."""
    monkeypatch.setattr(work, "simulate", lambda *_, **__: pytest.fail("simulated a case twice"))
    given = order(plan, 0)
    Store(plan).write_failure(plan.cases[0], Failure(4, "stalled"))
    assert work.work_on(given) == work.Outcome(0, "failed", Failure(4, "stalled"))
    with Store(plan).claim(plan.cases[1]):
        assert work.work_on(order(plan, 1)) == work.Outcome(1, "claimed")
    with pytest.raises(ConfigError, match="its plan has changed while it is run"):
        work.work_on(replace(given, plan_sha256="0"))


@pytest.mark.parametrize(
    ("error", "outcome", "exit_code"),
    [
        (StallError("nothing moves"), "failed", 4),
        (ZeroDivisionError("oh"), "failed", 1),
        (InterruptedRunError("terminated"), "interrupted", None),
    ],
)
def test_an_error_is_a_failure_unless_the_run_was_interrupted(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, error: Exception, outcome: str, exit_code: int | None
) -> None:
    """A defect leaves its traceback; what was interrupted is neither done nor failed."""

    def simulate(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(work, "simulate", simulate)
    found = work.work_on(order(plan, 0))
    assert found.state == outcome
    assert (None if found.failure is None else found.failure.exit_code) == exit_code
    assert Store(plan).failure(plan.cases[0]) == found.failure
    assert ("Traceback" in str(found.failure)) is (exit_code == 1)
    assert list((plan.folder / "claims").iterdir()) == []


def test_two_runs_share_the_cases(tmp_path: Path) -> None:
    """Started together each case is run by one of them; both wait for the last and end with 0."""
    plan = planned(tmp_path, HEAD + AXES.replace("[1, 2, 3]", str([*range(1, 11)])))
    runs = [start(plan, "--workers", "1") for _ in range(2)]
    ended = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], ended
    counts = [[int(number) for number in re.findall(r"\d+", out.partition(": ")[2])] for out, _ in ended]
    assert [total for total, *_ in counts] == [40, 40]
    assert sum(run for _, run, _, _ in counts) == 40
    assert status(plan)["done"] == 40


@pytest.mark.parametrize("options", [("--index", "1"), ("--workers", "2")])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("times", [0, 2])
def test_a_signal_ends_a_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], number: int, code: int, times: int
) -> None:
    """In this process or in workers: no claim is left, no part of a result, no failure, and no process.

    The signal comes to the process alone (*times* 0), or twice to its group, as from launchers, for which it is one.
    """
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    plan = planned(tmp_path, HEAD + LONG)
    expected = 2 if "--workers" in options else 1
    with start(plan, *options, start_new_session=True) as run:
        wait_for(lambda: len(owners(plan)) == expected)
        pids = owners(plan)
        if not times:
            run.send_signal(number)
        for _ in range(times):
            os.killpg(run.pid, number)
        _, err = run.communicate(timeout=20)
    assert run.returncode == code
    assert "Traceback" not in err
    assert "what is done is kept, and the same command runs the cases without a result" in err
    assert list((plan.folder / "claims").iterdir()) == []
    assert list((plan.folder / "results").iterdir()) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("at_once", [True, False])
def test_workers_are_born_deaf_to_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool) -> None:
    """A signal while they start ends the run in order too: none dies of it, with a traceback or without."""
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    plan = planned(tmp_path, HEAD + LONG)
    with start(plan, "--workers", "2", start_new_session=True) as run:
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
        wait_for(lambda: len(children.read_text().split()) == 3)  # two workers and what tracks their semaphores
        if not at_once:
            time.sleep(0.1)
        os.killpg(run.pid, signal.SIGTERM)
        _, err = run.communicate(timeout=20)
    assert (run.returncode, "Traceback" in err) == (143, False), err
    assert list((plan.folder / "claims").iterdir()) == []


@pytest.mark.parametrize("options", [("--index", "1"), ("--workers", "2")])
def test_usr1_to_the_group_is_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """Each answer is a line of JSON; the run goes on, no worker dies."""
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    plan = planned(tmp_path, HEAD + LONG)
    with start(plan, *options, "--quiet", "--log-format", "json", start_new_session=True) as run:
        wait_for(lambda: len(owners(plan)) == (2 if "--workers" in options else 1))
        pids = owners(plan)
        assert run.stderr is not None
        for _ in range(2):
            os.killpg(run.pid, signal.SIGUSR1)
            line = json.loads(run.stderr.readline())
            assert line["event"] == "progress"
            if "--workers" in options:
                assert (line["of"], line["done"], line["total"]) == ("cases", 0, 3)
            else:
                assert (line["of"], line["done"] < 1) == (f"case 1 ({plan.cases[1].case})", True)
        assert sorted(owners(plan)) == sorted(pids)
        os.killpg(run.pid, signal.SIGTERM)
        run.communicate(timeout=20)
    assert run.returncode == 143


def test_a_second_signal_ends_a_worker_only_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within half a second of the first, or when the worker is told to end anyway, it is the first by another way."""
    ended: list[int] = []
    now_s = [100.0]
    monkeypatch.setattr(work.os, "_exit", ended.append)
    monkeypatch.setattr(work.time, "monotonic", lambda: now_s[0])
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: got.append(number))
    try:
        with work._Interruptible():
            signal.raise_signal(signal.SIGTERM)
            now_s[0] += 0.4
            signal.raise_signal(signal.SIGTERM)
            now_s[0] += 60
            work.ending.set()
            signal.raise_signal(signal.SIGTERM)
            work.ending.clear()
            assert (ended, got) == ([], [])
            signal.raise_signal(signal.SIGTERM)
            assert ended == [143]
        assert got == [signal.SIGTERM]
    finally:
        work.ending.clear()
        signal.signal(signal.SIGTERM, before)


def test_workers_end_with_the_process_that_started_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When that is killed they give their claims back and go; whoever comes next has the cases."""
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    plan = planned(tmp_path, HEAD + LONG)
    with start(plan, "--workers", "2") as run:
        wait_for(lambda: len(owners(plan)) == 2)
        pids = owners(plan)
        run.kill()
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    document = status(plan)
    assert (document["done"], document["running"], len(document["missing"])) == (0, [], 3)


def test_a_killed_worker_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run says so and ends with code 3; it does not go on with cases that may kill the next worker."""
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    plan = planned(tmp_path, HEAD + LONG)
    with start(plan, "--workers", "2") as run:
        wait_for(lambda: len(owners(plan)) == 2)
        os.kill(owners(plan)[0], signal.SIGKILL)
        _, err = run.communicate(timeout=20)
    assert run.returncode == 3
    assert "a worker was killed, perhaps for want of memory; run the same command again, with fewer --workers" in err


def test_a_run_waits_for_what_others_run(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A case that somebody else claimed and left without a result is run here once the claim is gone."""
    monkeypatch.setattr("fabricsim.campaigns.run.LOOK_EVERY_S", 0.01)
    told: list[str] = []
    claim = Store(plan).claim(plan.cases[4])
    claim.__enter__()

    def report(event: str, words: str) -> None:
        told.append(words)
        assert event == "waiting"
        claim.__exit__(None, None, None)

    assert ran(plan, report=report) == (CASES, 0, {})
    assert told == [f"waiting for 1 case of another run (process {os.getpid()} on {os.uname().nodename})"]


@pytest.mark.usefixtures("two_cpus")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "loacl"}, r"unknown executor 'loacl' \(did you mean 'local'\?\); known: local, mpi, dask"),
        ({"count": 3}, r"--workers 3 of 1 thread do not fit the 2 CPUs given to this process; use 1 to 2"),
        ({"count": 2, "threads": 2}, r"--workers 2 of 2 threads do not fit the 2 CPUs"),
        ({"kernel": "d"}, r"unknown kernel 'd'"),
        ({"threads": 0}, r"--threads 0: give 1 or more, or leave it out"),
        ({"threads": 3}, r"--threads 3 is more than the 2 CPUs given to this process"),
        ({"executor": "mpi"}, r"start it as mpirun -n N python -m mpi4py.futures -m fabricsim campaign run DIR"),
        (
            {"executor": "mpi", "count": 2},
            r"--workers is for the executor local; mpi has the workers that were started",
        ),
        ({"executor": "dask"}, r"--scheduler ADDR and --executor dask belong together"),
        ({"scheduler": "tcp://x"}, r"--scheduler ADDR and --executor dask belong together"),
    ],
)
def test_an_option_that_cannot_be_is_refused(plan: Plan, options: dict[str, Any], message: str) -> None:
    """The finding and the remedy, before anything runs."""
    if options.get("executor") == "mpi" and "count" not in options:
        pytest.importorskip("mpi4py")
    with pytest.raises(ConfigError, match=message):
        ran(plan, **options)
    assert status(plan)["done"] == 0


@pytest.mark.parametrize(("name", "module"), [("mpi", "mpi4py"), ("dask", "distributed")])
def test_an_extra_that_is_not_there_is_named(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    """With the line that installs it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"needs {module}; install it with pip install 'fabricsim\[{name}\]'"):
        ran(plan, executor=name, scheduler="tcp://x" if name == "dask" else None)


def test_mpi_is_the_default_under_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """``python -m mpi4py.futures`` has loaded its package before anything of ours runs."""
    monkeypatch.delitem(sys.modules, "mpi4py.futures", raising=False)
    assert default_executor() == "local"
    monkeypatch.setitem(sys.modules, "mpi4py.futures", work)
    assert default_executor() == "mpi"


def test_a_result_holds_the_whole_summary(plan: Plan) -> None:
    """The schema of a result, with the name of the case and a checksum around it."""
    run_cases(plan, plan.cases[:1], kernel="python")
    document = json.loads(Store(plan).result_path(plan.cases[0]).read_text())
    assert set(document) == {"schema", "case", "host", "sha256", "result"}
    assert (document["result"]["schema"], document["result"]["kernel"]) == ("fabricsim.result/1", "python")
    assert document["result"]["fabric"]["spec_sha256"] == plan.cases[0].spec_sha256
