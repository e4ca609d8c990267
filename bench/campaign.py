"""What a campaign of 1,000 tiny cases costs beside its simulations: ``python -m bench.campaign``."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fabricsim.campaigns.merge import merge
from fabricsim.campaigns.plan import RESULTS, make_plan
from fabricsim.campaigns.run import run_cases
from fabricsim.campaigns.status import status
from fabricsim.engine.threads import default_threads

CASES = 1_000
STUDY = f"""\
format = "fabricsim.study/1"
title = "Tiny cases"
replicas = {CASES // 4}
[axes]
fabric = "nvl72"
collective = ["all_to_all", "all_gather"]
size = ["1KiB", "2KiB"]
ranks = 4
"""


def main() -> None:
    """Plan a campaign, run it here and in processes of its own, look at it, merge it, and print what each took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "study.toml").write_text(STUDY, encoding="utf-8")
        with _timed("plan"):
            plan, _ = make_plan(folder / "study.toml", folder / "plan")
        assert len(plan.cases) == CASES
        for workers in sorted({1, default_threads()}):
            for path in (plan.folder / RESULTS).iterdir():
                path.unlink()
            begin_s = time.perf_counter()
            assert run_cases(plan, plan.cases, executor="local", count=workers).done == CASES
            busy_s = workers * (time.perf_counter() - begin_s)
            simulated_s = sum(
                json.loads(path.read_bytes())["result"]["wall_s"] for path in (plan.folder / RESULTS).iterdir()
            )
            print(
                f"run, {workers} worker{'s' * (workers != 1)}: {1e3 * simulated_s / CASES:.1f} ms of simulation and "
                f"{1e3 * (busy_s - simulated_s) / CASES:.1f} ms of overhead per case, start included"
            )
        with _timed("status"):
            assert status(plan)["done"] == CASES
        with _timed("merge"):
            assert merge(plan, folder / "all.parquet") == CASES


@contextmanager
def _timed(name: str) -> Iterator[None]:
    begin_s = time.perf_counter()
    yield
    print(f"{name}: {time.perf_counter() - begin_s:.2f} s")


if __name__ == "__main__":
    main()
