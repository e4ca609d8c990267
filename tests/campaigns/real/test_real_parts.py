"""The campaign of docs/examples/study.toml through real schedulers: of 60 cases none is lost, repeated or wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.campaigns.real.cluster import CPUS, ROOT, daemon, environment, free_ports, need, slurm, wait_for

STUDY = ROOT / "docs" / "examples" / "study.toml"
FABRICSIM = (sys.executable, "-m", "fabricsim")
CASES = 60


def campaign(*arguments: str | Path, launcher: tuple[str, ...] = FABRICSIM, env: dict[str, str] | None = None) -> str:
    """Run a campaign command that has to succeed, and return what it prints."""
    command = [*launcher, "campaign", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=env or environment(), timeout=150)
    assert ended.returncode == 0, f"{ended.returncode}: {ended.stdout}{ended.stderr}"
    return ended.stdout


def merged(folder: Path) -> bytes:
    """The merged file of a campaign."""
    target = folder.with_suffix(".parquet")
    assert f"{CASES} rows" in campaign("merge", folder, "-o", target)
    return target.read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The merged file of local processes."""
    folder = tmp_path_factory.mktemp("local") / "study"
    campaign("plan", STUDY, "-o", folder)
    assert "60 run, 0 had a result, 0 failed" in campaign("run", folder)
    return merged(folder)


def test_mpi_gives_the_same_bytes(tmp_path: Path, undisturbed: bytes) -> None:
    """Through mpirun and the launcher of mpi4py, which make the executor that of MPI unless one is named."""
    need(programs=("mpirun",), modules=("mpi4py",))
    folder = tmp_path / "study"
    campaign("plan", STUDY, "-o", folder)
    as_root = ("--allow-run-as-root",) if os.getuid() == 0 else ()
    mpirun = (
        "mpirun",
        *as_root,
        "--oversubscribe",
        "-n",
        "3",
        sys.executable,
        "-m",
        "mpi4py.futures",
        "-m",
        "fabricsim",
    )
    assert "60 run, 0 had a result, 0 failed" in campaign("run", folder, launcher=mpirun)
    assert merged(folder) == undisturbed


def test_dask_gives_the_same_bytes(tmp_path: Path, undisturbed: bytes) -> None:
    """Through a Dask scheduler with two worker processes."""
    need(modules=("distributed",))
    folder = tmp_path / "study"
    campaign("plan", STUDY, "-o", folder)
    (port,) = free_ports(1)
    address = f"tcp://127.0.0.1:{port}"
    dask = (sys.executable, "-m", "dask")
    started = (*dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    of_two = ("--nworkers", "2", "--nthreads", "1", "--local-directory", str(tmp_path))
    working = (*dask, "worker", address, *of_two, "--no-dashboard")
    with (
        daemon(started, tmp_path / "scheduler.log", environment()),
        daemon(working, tmp_path / "worker.log", environment()),
    ):
        wait_for("two workers", lambda: (tmp_path / "scheduler.log").read_text().count("Register worker") >= 2)
        told = ("--executor", "dask", "--scheduler", address)
        assert "60 run, 0 had a result, 0 failed" in campaign("run", folder, *told)
    assert merged(folder) == undisturbed


class Array:
    """A campaign as a Slurm array, of which single tasks can be caught at work."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self._env = env

    def command(self, *arguments: str, stdin: str | None = None) -> str:
        """Run a command of Slurm."""
        ended = subprocess.run(arguments, input=stdin, env=self._env, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"{arguments}: {ended.stderr}"
        return ended.stdout.strip()

    def submit(self) -> tuple[list[str], str]:
        """Submit what ``campaign slurm`` prints; the indices of its cases and the number of the job."""
        script = campaign("slurm", self.folder, env=self._env)
        (indices,) = re.findall(r"^indices=\((.*?)\)", script, re.MULTILINE)
        return indices.split(), self.command("sbatch", "--parsable", stdin=script)

    def catch(self) -> tuple[int, str]:
        """Stop a process while it works on a case; its number, and the name of the case."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            for claim in (self.folder / "claims").glob("*.lock"):
                with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                    owner = re.fullmatch(r"process (\d+) on .*, Slurm job \d+", claim.read_text())
                    if owner is None:
                        continue
                    pid, case = int(owner[1]), claim.stem
                    os.kill(pid, signal.SIGSTOP)
                    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                    if state in "tT" and claim.exists() and not self.result(case).exists():
                        return pid, case
                    os.kill(pid, signal.SIGCONT)
            time.sleep(0.002)
        pytest.fail("no task was caught at work")

    def result(self, case: str) -> Path:
        """Where the result of a case stands."""
        return self.folder / "results" / f"{case}.json"

    def has_ended(self, job: str) -> bool:
        """Whether no task of the array waits or runs."""
        return not self.command("squeue", "-h", "-j", job, "-t", "PENDING,RUNNING,COMPLETING,SUSPENDED,REQUEUED")


def test_a_slurm_array_loses_nothing(tmp_path: Path, undisturbed: bytes) -> None:
    """Two tasks are killed, one job is pre-empted and requeued, a result is truncated; after resubmission all is there.

    A stopped process stands for a case that takes long. The job that needs the whole node has the higher priority, so
    Slurm pre-empts what runs: SIGCONT, SIGTERM, and back into the queue.
    """
    folder = tmp_path / "study"
    tmp_path.chmod(0o755)
    with slurm(tmp_path / "slurm") as env:
        campaign("plan", STUDY, "-o", folder)
        array = Array(folder, env)
        indices, job = array.submit()
        assert indices == [str(index) for index in range(CASES)]
        killed = []
        for _ in range(2):
            pid, case = array.catch()
            os.kill(pid, signal.SIGKILL)
            killed.append(case)
        pid, preempted = array.catch()
        array.command(
            "sbatch", "--parsable", "-p", "high", "-n", str(CPUS), "-o", str(tmp_path / "high"), "--wrap", "true"
        )
        wait_for("the pre-empted process to end", lambda: not Path(f"/proc/{pid}").exists())
        wait_for("the array to end", lambda: array.has_ended(job), every=0.2)

        done = sorted((folder / "results").glob("*.json"))
        assert {path.stem for path in done}.isdisjoint(killed)
        assert array.result(preempted) in done  # after it was requeued
        content = done[0].read_bytes()
        done[0].write_bytes(content[: len(content) // 2])

        document = json.loads(campaign("status", folder, "--json", "-"))
        assert (document["done"], document["running"], document["failed"]) == (CASES - 3, [], [])
        missing = {entry["case"]: entry["damaged"] for entry in document["missing"]}
        assert missing == {**dict.fromkeys(killed, False), done[0].stem: True}
        refused = subprocess.run(
            [*FABRICSIM, "campaign", "merge", str(folder), "-o", str(tmp_path / "no.parquet")],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert refused.returncode == 3
        assert all(case in refused.stderr for case in missing)
        assert not (tmp_path / "no.parquet").exists()

        indices, rest = array.submit()
        assert indices == [str(entry["index"]) for entry in document["missing"]]
        wait_for("the rest to end", lambda: array.has_ended(rest), every=0.2)
        restarts = re.findall(r"Restarts=(\d+)", array.command("scontrol", "-o", "show", "job", job))
        assert restarts.count("1") >= 1
    assert merged(folder) == undisturbed
    assert list((folder / "claims").iterdir()) == []
