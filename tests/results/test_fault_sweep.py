"""One fault after another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import fabricsim as fs
from fabricsim.errors import ConfigError
from fabricsim.results.fault_sweep import FaultSweep, sweep_faults
from fabricsim.results.run import one_collective, prepare


def two_tiers(planes: int = 2) -> fs.FabricSpec:
    """CloudMatrix cut down to 2 nodes of 2 NPUs under 2 L2 switches, in 2 planes."""
    tables: dict[str, Any] = fs.load_fabric("cloudmatrix384").model_dump(exclude_none=True)
    del tables["scale_out"]
    tables["link"] = {key: link for key, link in tables["link"].items() if "rail" not in key}
    tables["topology"]["planes"]["value"] = planes
    tables["tier"]["l1"]["children"]["value"] = 2
    tables["tier"]["l2"] |= {name: tables["tier"]["l2"][name] | {"value": 2} for name in ("children", "parents")}
    return fs.FabricSpec(**tables)


def sweep(fabric: fs.FabricSpec, each: str, **options: Any) -> FaultSweep:
    """Sweep an all-to-all of 64 KiB over all terminals, unless told otherwise."""
    ranks = options.pop("ranks", fabric.num_terminals)
    workload = one_collective("all_to_all", size=options.pop("size", "64KiB"), ranks=ranks)
    return sweep_faults(fabric, workload, each=each, **options)


def test_faults_are_ranked_and_those_of_planes_that_are_alike_are_simulated_once() -> None:
    """8 switches: each has the times of a run of its own, the slowest stands first, and one plane stands for both."""
    fabric = two_tiers()
    merged, single = sweep(fabric, "switch"), sweep(fabric, "switch", fold=False)
    assert (merged.simulated, single.simulated) == (4, 8)
    times = {row.fault.text: row.time_ps for row in merged.rows}
    assert times == {row.fault.text: row.time_ps for row in single.rows}
    assert [row.time_ps for row in merged.rows] == sorted(times.values(), reverse=True)
    for row in merged.rows:
        assert (row.same_as is None) == row.fault.text.endswith(".0")
        assert row.same_as is None or row.same_as.text == f"{row.fault.text[:-2]}.0"
    workload = fs.collective("all_to_all", size="64KiB", ranks=4)
    alone = fs.simulate(fabric, workload, faults=["switch:l1.1.1"])
    assert times["switch:l1.1.1"] == next(alone.op_rows())["time_ps"]


def test_messages_that_choose_planes_are_not_merged() -> None:
    """An all-to-all of 64 B per rank sends each message over one of two planes: which one counts."""
    assert sweep(two_tiers(), "switch", size="64B").simulated == 8


def test_the_document() -> None:
    """Slow-downs against the baseline, faults in the words that --fault takes, and what stands in for what."""
    document = sweep(two_tiers(), "plane").summary(command="fabricsim faults ...")
    assert (document["schema"], document["each"], document["simulated"]) == ("fabricsim.faults/1", "plane", 1)
    base_us = document["baseline"]["time_us"]
    first, second = document["faults"]
    assert first == {
        "fault": "plane:0",
        "outcome": "simulated",
        "slowdown": pytest.approx(first["time_us"] / base_us),
        "time_us": first["time_us"],
        "unreachable_pair": None,
        "same_as": None,
    }
    assert second == first | {"fault": "plane:1", "same_as": "plane:0"}


def test_the_page_has_every_field_of_the_document_and_no_other() -> None:
    """docs/results.md, but for what a sweep has in common with the summary of a run."""
    page = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| field of a fault sweep \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    document = sweep(two_tiers(), "plane").summary()
    in_common = sweep(two_tiers(), "plane").baseline.summary().keys() - {"wall_s"}
    found = {key for key, value in document.items() if key not in in_common and key not in ("baseline", "faults")}
    found |= {f"baseline.{key}" for key in document["baseline"]} | {f"faults[].{key}" for key in document["faults"][0]}
    assert set(re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)) == found


def test_faults_that_cut_apart_or_that_nothing_meets_are_listed_as_such() -> None:
    """In one plane an L1 switch cuts its NPUs off; links of NPUs without a rank count for nothing."""
    rows = {row.fault.text: row for row in sweep(two_tiers(planes=1), "switch").rows}
    assert rows["switch:l1.0.0"].pair == ("npu0", "npu1")
    document = sweep(two_tiers(planes=1), "link", ranks=2).summary()["faults"]
    assert [row["outcome"] for row in document] == ["unreachable"] * 2 + ["no_effect"] * 6
    assert [(row["slowdown"], row["unreachable_pair"]) for row in document[::2][:2]] == [
        (None, ["npu0", "npu1"]),
        (1.0, None),
    ]


def test_faults_that_are_there_all_the_time() -> None:
    """The baseline has them, and they are not broken again."""
    found = sweep(two_tiers(), "plane", faults=["lanes:npu0-l1.0.1=0.5"])
    assert found.baseline.summary()["fabric"]["faults"] == ["lanes:npu0-l1.0.1=0.5"]
    assert [row.fault.text for row in sweep(two_tiers(), "plane", faults=["plane:1"]).rows] == ["plane:0"]


def test_faults_that_nothing_meets_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the two links of NPU 0 to its switches are built anew; of NPUs without a rank nothing is."""
    prepared: list[str] = []

    def prepare_and_count(*args: Any, **options: Any) -> Any:
        prepared.append(options["faults"][-1].text)
        return prepare(*args, **options)

    monkeypatch.setattr("fabricsim.results.fault_sweep.prepare", prepare_and_count)
    rows = sweep(two_tiers(), "link", ranks=2, fold=False).rows
    assert sorted(prepared) == sorted(row.fault.text for row in rows if row.outcome == "simulated")
    assert len(prepared) == 4
    assert len(rows) == 16
    assert all(row.same_as is None for row in rows)


def test_a_fault_that_another_one_hides() -> None:
    """A link that is slow all the time is simulated dead too, as it would be without the lost lanes."""
    slow = {row.fault.text: row.time_ps for row in sweep(two_tiers(), "link", faults=["lanes:l1.0.1-npu0=0.5"]).rows}
    assert (
        slow["link:npu0-l1.0.1"]
        == {row.fault.text: row.time_ps for row in sweep(two_tiers(), "link").rows}["link:npu0-l1.0.1"]
    )
    again = sweep(two_tiers(), "link", faults=["link:l1.0.1-npu0"]).rows
    assert "link:npu0-l1.0.1" not in {row.fault.text for row in again}
    assert len(again) == 15


def test_a_workload_without_time_is_refused() -> None:
    """There is no slow-down of nothing."""
    with pytest.raises(ConfigError, match="takes no time"):
        sweep(two_tiers(), "plane", ranks=1, size="16B", endpoint="ideal")


def test_dead_links_and_in_network_operations_do_not_meet() -> None:
    """Ranks of different planes have no switch in common: refused at the start, with what can be swept in its place."""
    workload = one_collective("all_reduce", size="64KiB", ranks=8, algorithm="sharp")
    with pytest.raises(ConfigError, match="use --each switch or plane, or a ring"):
        sweep_faults(fs.load_fabric("hgx-h100"), workload, each="link")
