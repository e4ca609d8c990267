"""Prints the tables of a run of the benchmark as Markdown: ``python -m bench.table bench.json``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

#: Title of each table, in the order in which they are printed.
TITLES = {
    "bulk": "The bars: 64 MiB all_to_all in the fabric's own packets",
    "kernels": "Kernel against kernel",
    "terminals": "Terminals against terminals",
    "threads": "Two threads against one",
    "folding": "Folded against not folded",
    "peer": "A peer's process against ours",
}

Instructions = Mapping[tuple[Any, ...], float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables of the JSON document that pytest-benchmark wrote."""
    parser = argparse.ArgumentParser(prog="python -m bench.table", description=__doc__)
    parser.add_argument("document", type=Path, help="what --benchmark-json wrote")
    parser.add_argument("--instructions", type=Path, help="what python -m bench.instructions wrote")
    given = parser.parse_args(arguments)
    counted = given.instructions.read_text("utf-8").splitlines() if given.instructions else []
    print("\n".join(render(json.loads(given.document.read_text("utf-8")), [json.loads(line) for line in counted])))


def render(document: Mapping[str, Any], counted: Sequence[Mapping[str, Any]] = ()) -> Iterator[str]:
    """Give the lines of all tables; ``counted`` holds what ``bench.instructions`` wrote, one dict per line."""
    yield about(document)
    instructions = {
        (*entry["row"].values(), entry["kernel"]): entry["instructions"] / entry["packet_hops"] for entry in counted
    }
    for table, title in TITLES.items():
        measured = [entry["extra_info"] for entry in document["benchmarks"] if entry["extra_info"]["table"] == table]
        if measured:
            yield from ("", f"### {title}", "")
            yield from table_lines(measured, instructions if table == "kernels" else {})


def about(document: Mapping[str, Any]) -> str:
    """Say what was measured, on what and when."""
    machine, commit = document["machine_info"], document["commit_info"]
    changed = " with uncommitted changes" if commit["dirty"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    cpu = machine["cpu"]
    return (
        f"Commit {commit['id'][:10]}{changed}, {document['datetime'][:10]}; {cpu['brand_raw']}, {cpu['count']} CPUs, "
        f"{machine['system']} {machine['release']} {machine['machine']}; {versions}."
    )


def table_lines(measured: Sequence[Mapping[str, Any]], instructions: Instructions) -> Iterator[str]:
    """Give one table: a row per bench, a column per variant, and the speed of each variant over the first."""
    names = list(measured[0]["variants"])
    first, *others = names
    columns = [*measured[0]["row"], "packet-hops", *(f"{name}, ns" for name in names)]
    columns += [f"speed of {name} over {first}" for name in others]
    if instructions:
        columns += [f"{name}, instructions" for name in names]
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for entry in measured:
        ns = {name: nanoseconds_per_packet_hop(variant) for name, variant in entry["variants"].items()}
        cells = [str(value) for value in entry["row"].values()]
        cells.append(" / ".join(dict.fromkeys(f"{variant['packet_hops']:,}" for variant in entry["variants"].values())))
        cells += [f"{median(ns[name]):.1f}" for name in names]
        cells += [ratio([base / own for base, own in zip(ns[first], ns[name], strict=True)]) for name in others]
        if instructions:
            own = [instructions.get((*entry["row"].values(), name)) for name in names]
            cells += ["-" if count is None else f"{count:.0f}" for count in own]
        yield f"| {' | '.join(cells)} |"


def nanoseconds_per_packet_hop(variant: Mapping[str, Any]) -> list[float]:
    """Give the figure of each round."""
    return [1e9 * engine_s / variant["packet_hops"] for engine_s in variant["engine_s"]]


def ratio(rounds: Sequence[float]) -> str:
    """Write the median of the rounds' ratios, and the smallest and the largest."""
    return f"{median(rounds):.2f} ({min(rounds):.2f} to {max(rounds):.2f})"


if __name__ == "__main__":
    main()
