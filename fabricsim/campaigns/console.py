"""What the campaign commands print."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from fabricsim.campaigns.plan import Plan
from fabricsim.campaigns.run import Ran, in_a_line
from fabricsim.campaigns.store import Failure

#: Of long lists this many entries are shown; the JSON document has them all.
MAX_ENTRIES = 10


def plan_answer(plan: Plan, *, is_new: bool) -> str:
    """Say what was planned, and how to go on."""
    folder = shlex.quote(str(plan.folder))
    return (
        f"{plan.folder}: {len(plan.cases):,} cases {'planned' if is_new else 'were planned before, and are the same'}\n"
        f"run them with fabricsim campaign run {folder}, or as a Slurm array: "
        f"fabricsim campaign slurm {folder} | sbatch"
    )


def run_answer(plan: Plan, ran: Ran) -> str:
    """Say what a run did."""
    counts = f"{ran.done:,} run, {ran.valid:,} had a result, {len(ran.failures):,} failed"
    return f"{plan.folder}: of {ran.cases:,} cases {counts}"


def status_answer(document: Mapping[str, Any]) -> Text:
    """Lay out a status: how many of each, then those that are not done."""
    counts = {"done": document["done"], **{name: len(document[name]) for name in ("running", "failed", "missing")}}
    lines = [
        f"{document['folder']}: {document['title']}",
        ", ".join(f"{count:,} {name}" for name, count in counts.items()) + f", of {document['cases']:,} cases",
    ]
    lines += _entries("running", document["running"], lambda entry: entry["owner"])
    lines += _entries(
        "failed", document["failed"], lambda entry: in_a_line(Failure(entry["exit_code"], entry["message"]))
    )
    lines += _entries("missing", document["missing"], lambda entry: "damaged" if entry["damaged"] else "")
    return Text("\n".join(lines))


def _entries(state: str, entries: Sequence[Mapping[str, Any]], words: Any) -> list[str]:
    lines = [f"{state} {entry['index']} ({entry['case']}) {words(entry)}".rstrip() for entry in entries[:MAX_ENTRIES]]
    return [*lines, f"{state}: {len(entries) - MAX_ENTRIES:,} more"] if len(entries) > MAX_ENTRIES else lines
