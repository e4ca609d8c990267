"""How far a plan is: which cases are done, which are at work, which failed and which are missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fabricsim.campaigns.plan import Case, Plan
from fabricsim.campaigns.store import Store

SCHEMA = "fabricsim.campaign_status/1"


def status(plan: Plan) -> dict[str, Any]:
    """Look at every case once, and list those that are not done, as a document of ``fabricsim.campaign_status/1``."""
    store = Store(plan)
    running, failed, missing = [], [], []
    done = 0
    for case in plan.cases:
        if store.result(case) is not None:
            done += 1
        elif (owner := store.owner(case)) is not None:
            running.append({**_name(case), "owner": owner})
        elif (failure := store.failure(case)) is not None:
            failed.append({**_name(case), "exit_code": failure.exit_code, "message": failure.message})
        else:
            missing.append({**_name(case), "damaged": store.result_path(case).exists()})
    return {
        "schema": SCHEMA,
        "title": plan.title,
        "folder": str(plan.folder),
        "cases": len(plan.cases),
        "done": done,
        "running": running,
        "failed": failed,
        "missing": missing,
    }


def undone(plan: Plan) -> tuple[Case, ...]:
    """List the cases without a valid result that nobody is at work on."""
    document = status(plan)
    entries = [*document["failed"], *document["missing"]]
    return tuple(plan.cases[index] for index in sorted(entry["index"] for entry in entries))


def index_ranges(cases: Sequence[Case]) -> str:
    """Write the indices of cases as Slurm does: ``0-9,12``."""
    parts: list[list[int]] = []
    for case in cases:
        if parts and parts[-1][-1] == case.index - 1:
            parts[-1][1:] = [case.index]
        else:
            parts.append([case.index])
    return ",".join("-".join(map(str, part)) for part in parts)


def _name(case: Case) -> dict[str, Any]:
    return {"index": case.index, "case": case.case}
