"""One long run as a Slurm job that goes back into the queue, as docs/batch.md has it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import fabricsim as fs
from tests.campaigns.real.cluster import CPUS, ROOT, slurm, wait_for

RUN = ("nvl72", "all_to_all", "--size", "4MiB", "--kernel", "python", "--threads", "1")


def recipe(folder: Path) -> str:
    """The script of the page, with a run that is slow rather than large, a checkpoint each moment and one CPU."""
    page = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"<!-- sbatch-example -->\n```sh\n(.*?)```", page, re.DOTALL)
    changed = script
    for old, new in (
        ("=16 --time=4:00:00", "=1 --time=10"),
        ("--cpus-per-task=16 fabricsim", f"--cpus-per-task=1 {shlex.quote(sys.executable)} -m fabricsim"),
        ("cloudmatrix384 all_to_all --size 1GiB", shlex.join(RUN)),
        ("=out.log", f"={folder / 'out.log'}"),
        ("-o out", f"-o {folder / 'out'}"),
        ("every 10min", "every 200ms"),
    ):
        assert changed.count(old) == 1, old
        changed = changed.replace(old, new)
    return changed


def test_a_long_run_goes_back_into_the_queue(tmp_path: Path) -> None:
    """Signalled once, pre-empted once: each time it ends with a checkpoint, and the third start brings the result."""
    tmp_path.chmod(0o755)
    out, log = tmp_path / "out", tmp_path / "out.log"
    with slurm(tmp_path / "slurm") as env:

        def command(*arguments: str, stdin: str | None = None) -> str:
            ended = subprocess.run(arguments, input=stdin, env=env, capture_output=True, text=True, check=False)
            assert ended.returncode == 0, f"{arguments}: {ended.stderr}"
            return ended.stdout.strip()

        def says(words: str) -> int:
            return log.read_text().count(words) if log.exists() else 0

        def bring_back(starts: int) -> None:
            wait_for("the job to go on", lambda: says("resuming from the checkpoint") == starts)

        job = command("sbatch", "--parsable", stdin=recipe(tmp_path))
        wait_for("a checkpoint", (out / "checkpoint").exists)
        command("scancel", "--signal=USR1", job)
        wait_for("the job to wait", lambda: command("squeue", "-h", "-j", job, "-o", "%T") == "PENDING")
        bring_back(1)
        command("sbatch", "-p", "high", "-n", str(CPUS), "-o", str(tmp_path / "high"), "--wrap", "true")
        wait_for("the job to wait", lambda: command("squeue", "-h", "-j", job, "-o", "%T") == "PENDING")
        bring_back(2)
        wait_for("the result", (out / "summary.json").exists, every=0.2)
        wait_for("the job to end", lambda: not command("squeue", "-h", "-j", job), every=0.2)
        assert says("interrupted; checkpoint written") == 2
    workload = fs.collective("all_to_all", size="4MiB", ranks=72)
    assert json.loads((out / "summary.json").read_text())["digest"] == fs.simulate("nvl72", workload).digest
