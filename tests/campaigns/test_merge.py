from __future__ import annotations

from pathlib import Path

import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

from fabricsim.campaigns.merge import merge
from fabricsim.campaigns.plan import Plan
from fabricsim.campaigns.run import run_cases
from fabricsim.campaigns.store import Store
from fabricsim.errors import ConfigError, IncompleteError
from tests.campaigns.plans import AXES, CASES, HEAD, planned


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A plan whose 24 cases are done."""
    plan = planned(tmp_path_factory.mktemp("merge"), HEAD + AXES + '[axes.set]\n"terminal.slots" = ["default", 1]\n')
    assert run_cases(plan, plan.cases, kernel="python").done == 2 * CASES
    return plan


def test_rows_are_cases_in_their_order(plan: Plan, tmp_path: Path) -> None:
    """Name, index, axes, digest and figures are those of the results."""
    assert merge(plan, tmp_path / "all.parquet") == 2 * CASES
    rows = pyarrow.parquet.read_table(tmp_path / "all.parquet").to_pylist()
    assert [(row["case"], row["index"]) for row in rows] == [(case.case, case.index) for case in plan.cases]
    for case, row in zip(plan.cases, rows, strict=True):
        document = Store(plan).result(case)
        assert document is not None
        result = document["result"]
        axes = ("collective", "size_bytes", "ranks", "algorithm", "seed")
        assert [row[name] for name in axes] == [getattr(case, name) for name in axes]
        assert (row["fabric"], row["set.terminal.slots"]) == ("tiny.toml", case.overrides.get("terminal.slots"))
        assert (row["digest"], row["time_us"]) == (result["digest"], result["ops"][0]["time_us"])
        assert row["packet_latency_p99_us"] == result["latency_us"]["packet"]["p99"]
        assert row["utilization.gpu-nvswitch.mean"] == result["utilization"]["gpu-nvswitch"]["mean"]
    assert not {"host", "kernel", "threads", "wall_s"} & set(rows[0])


def test_who_computed_is_told_when_asked(plan: Plan, tmp_path: Path) -> None:
    """Host, kernel, threads and wall time come last."""
    merge(plan, tmp_path / "all.parquet", run_info=True)
    table = pyarrow.parquet.read_table(tmp_path / "all.parquet")
    assert table.column_names[-4:] == ["host", "kernel", "threads", "wall_s"]
    assert set(table["kernel"].to_pylist()) == {"python"}


def test_all_formats_hold_the_same_table(plan: Plan, tmp_path: Path) -> None:
    """Parquet, Arrow and CSV, by the suffix; another one is refused."""
    for suffix in ("parquet", "arrow", "csv"):
        merge(plan, tmp_path / f"all.{suffix}")
    table = pyarrow.parquet.read_table(tmp_path / "all.parquet")
    assert pyarrow.feather.read_table(tmp_path / "all.arrow").equals(table)
    read = pyarrow.csv.read_csv(tmp_path / "all.csv")
    assert read.select(["case", "digest", "time_us"]).equals(table.select(["case", "digest", "time_us"]))
    with pytest.raises(ConfigError, match=r"all.xlsx: unknown suffix '.xlsx'; known: .parquet, .arrow, .csv"):
        merge(plan, tmp_path / "all.xlsx")


def test_holes_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    """The first five, each with its reason, and how many more; exit code 3."""
    plan = planned(tmp_path)
    run_cases(plan, plan.cases[:4], kernel="python")
    Store(plan).result_path(plan.cases[1]).write_bytes(b"{}")
    with pytest.raises(IncompleteError) as raised:
        merge(plan, tmp_path / "all.parquet")
    names = [case.case for case in plan.cases]
    assert str(raised.value).splitlines() == [
        f"{plan.folder}: 9 of 12 cases have no valid result:",
        f"  index 1 ({names[1]}) is there, but damaged",
        *(f"  index {index} ({names[index]}) is missing" for index in (4, 5, 6, 7)),
        "  and 4 more",
        f"run fabricsim campaign run {plan.folder}, then merge again",
    ]
    assert raised.value.exit_code == 3
    assert not (tmp_path / "all.parquet").exists()
