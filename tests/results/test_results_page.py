"""docs/results.md says what a summary holds and how commands end, and nothing else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import feather

import fabricsim as fs
from fabricsim import cli
from fabricsim.campaigns import status
from fabricsim.fabrics.system_cards import system_cards
from fabricsim.results import compare, doctor, documents, fault_sweep, result, systems, validate
from fabricsim.results.run import collective_sweep

PAGE = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
TYPES = {str: "str", int: "int", float: "float", bool: "bool", type(None): "null"}
UNITS = {"_bytes": "B", "_ps": "ps", "_us": "us", "_percent": "%", "_per_s": "1/s", "_s": "s", "_GBps": "GB/s"}


def table(header: str) -> list[list[str]]:
    """Give the cells of the table under a header line."""
    (body,) = re.findall(rf"^{re.escape(header)}\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in body.splitlines()]


def fields(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Give path and type of every field of a document, channel classes written ``<class>``."""
    if isinstance(value, dict) and value:
        for key, entry in value.items():
            inner = "<class>" if path == "utilization" else key
            yield from fields(entry, f"{path}.{inner}" if path else inner)
    elif isinstance(value, list):
        for entry in value:
            yield from fields(entry, f"{path}[]")
    else:
        yield path, "object" if value == {} else TYPES[type(value)]


@pytest.fixture(scope="module")
def summaries(tiny: fs.FabricSpec, small_trace: fs.Trace, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Summaries of a collective, of a trace in a file, and of runs in which a figure is not defined."""
    folder = tmp_path_factory.mktemp("traces")
    path = folder / "small.arrow"
    small_trace.write(path)
    sweep = {"sizes": "4KiB", "min_size": None, "max_size": None, "factor": None, "algorithm": None}
    (workload,) = collective_sweep("all_to_all", ranks=4, **sweep)
    alone = fs.collective("all_to_all", size="16B", ranks=1)  # moves nothing, in no time where terminals are ideal
    run = fs.simulate("cloudmatrix384", alone, kernel="python", endpoint="ideal")
    apart = fs.collective("send_recv", size="1KiB", ranks=2)  # with packets that have a choice
    at_once = copy(run)
    at_once.record = replace(run.record, engine_s=0.0)
    return [
        fs.simulate(tiny, workload, kernel="python").summary(command="fabricsim run"),
        fs.simulate(tiny, workload, kernel="python").write(folder / "out"),
        fs.replay(path, tiny, kernel="python", checkpoint=fs.Checkpoint(folder / "kept")).write(folder / "kept-out"),
        run.summary(),
        fs.simulate("cloudmatrix384", apart, kernel="python", placement="scatter").summary(),
        at_once.summary(),
        fs.simulate(tiny, workload, kernel="python", faults=["plane:1", "plane:0@1s"]).summary(),
    ]


def test_the_page_has_every_field_of_a_summary_and_no_other(summaries: list[Any]) -> None:
    """A field, and a type of it, is on the page if and only if a real summary has it."""
    found: dict[str, set[str]] = {}
    for summary in summaries:
        for path, kind in fields(summary):
            found.setdefault(path, set()).add(kind)
    rows = table("| field | type | unit | meaning |")
    documented = {path.strip("`"): set(kinds.split(" or ")) for path, kinds, _, _ in rows}
    assert documented.keys() == found.keys()
    assert {path: kinds - found[path] for path, kinds in documented.items() if kinds != found[path]} == {}


def test_the_page_has_every_field_of_a_comparison_and_no_other(tiny: fs.FabricSpec) -> None:
    """With and without a system card; figures of a card are written ``<figure>``."""
    document = fs.compare_fabrics([tiny, "nvl72", "hgx-h100"], size="64KiB")
    # Both cards of the package have all figures; one without says null for each.
    without = documents.card_document(next(system_cards()).model_copy(update={"figures": {}}))
    found: dict[str, set[str]] = {}
    for source in (document, {"systems": [{"card": without}]}):
        for path, kind in fields(source):
            found.setdefault(re.sub(r"(?<=\.figures\.)\w+", "<figure>", path), set()).add(kind)
    documented = {
        path.strip("`"): set(kinds.split(" or "))
        for path, kinds, _, _ in table("| field of a comparison | type | unit | meaning |")
    }
    assert documented == found


def test_the_page_has_every_field_of_a_comparison_of_results(
    tiny: fs.FabricSpec, small_trace: fs.Trace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With and without tasks, of collectives and a replay, of fabrics without a class in common; b is like a."""
    folder = tmp_path_factory.mktemp("compared")
    moving = fs.collective("all_to_all", size="4KiB", ranks=2)
    alone = fs.collective("all_to_all", size="16B", ranks=1)
    apart = fs.collective("send_recv", size="1KiB", ranks=2)  # with packets that have a choice
    for name, run in {
        "a": fs.simulate(tiny, moving, faults=["plane:1"]),
        "b": fs.simulate("cloudmatrix384", moving),
        "none": fs.simulate("cloudmatrix384", alone, endpoint="ideal"),
        "apart": fs.simulate("cloudmatrix384", apart, placement="scatter"),
        "replayed": fs.replay(small_trace, tiny),
    }.items():
        run.write(folder / name, command=None if name == "a" else "fabricsim run")
        feather.write_feather(run.tasks, folder / name / "tasks.arrow")
    found: dict[str, set[str]] = {}
    shutil.copy(folder / "b" / "summary.json", folder / "elsewhere.json")
    both = (("a", "b"), ("none", "none"), ("a", "elsewhere.json"), ("apart", "apart"), ("replayed", "replayed"))
    for one, other in both:
        document = fs.compare(folder / one, folder / other)
        for path, kind in fields({key: value for key, value in document.items() if key != "b"}):
            path = re.sub(r"(?<=attribution_us\.)\w+", "<key>", path)
            if path.split(".")[-1] not in ("b", "change") and ".b." not in path:
                found.setdefault(path, set()).add(kind)
    documented = {
        path.strip("`"): set(kinds.split(" or "))
        for path, kinds, _, _ in table("| field of a comparison of results | type | unit | meaning |")
    }
    assert documented.keys() == found.keys()
    assert {path: kinds - found[path] for path, kinds in documented.items() if kinds != found[path]} == {}


def test_units_are_those_of_the_names() -> None:
    """The unit of a field is the one at the end of its name or of its object's; every field has a meaning."""
    for path, _, unit, meaning in table("| field | type | unit | meaning |"):
        in_name = [UNITS[end] for part in path.strip("`").split(".") for end in UNITS if f"_{part}".endswith(end)]
        assert unit in (in_name[:1] or ["", "fraction"]), path
        assert meaning


def test_schemas_are_those_of_the_documents() -> None:
    """The page has the name of every schema that a command writes."""
    schemas = [re.findall(r"`(fabricsim\.\w+/\d+)`", row[1])[0] for row in table("| command | schema |")]
    assert schemas == [
        result.SCHEMA,
        documents.FABRICS_SCHEMA,
        documents.FABRIC_SCHEMA,
        systems.SCHEMA,
        documents.TRACE_SCHEMA,
        validate.SCHEMA,
        fault_sweep.SCHEMA,
        compare.SCHEMA,
        doctor.SCHEMA,
        status.SCHEMA,
    ]


def test_exit_codes_are_those_of_the_errors() -> None:
    """Every class of error stands beside its code, Ctrl-C beside Python's own."""
    rows = [(int(code), name.strip("`")) for code, name, _ in table("| code | Python | meaning |")]
    errors = [(error.exit_code, error.__name__) for error in fs.FabricsimError.__subclasses__()]
    others = [
        (0, ""),
        (fs.FabricsimError.exit_code, ""),
        (cli.EXIT_SIGPIPE, ""),
        (cli.EXIT_SIGINT, "KeyboardInterrupt"),
    ]
    assert sorted(rows) == sorted(errors + others)
