from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fabricsim.campaigns.plan import make_plan, open_plan
from fabricsim.errors import ConfigError
from tests.campaigns.plans import AXES, CASES, HEAD, planned, write_study


def test_a_case_is_named_by_what_it_is(tmp_path: Path) -> None:
    """Neither the place in the study, nor how a value is written, nor a default that is spelled out changes a name."""
    names = {case.case for case in planned(tmp_path / "a").cases}
    assert len(names) == CASES
    assert all(re.fullmatch(r"[0-9a-f]{16}", name) for name in names)
    text = HEAD.replace("Tiny", "Other") + AXES.replace("[1, 2, 3]", "[3, 2, 1]").replace('"1KiB"', '"1024B"')
    text += 'ranks = 4\nalgorithm = "default"\npacket = "bulk"\nplacement = "linear"\n'
    assert {case.case for case in planned(tmp_path / "b", text).cases} == names
    text = HEAD + AXES + '[axes.set]\n"terminal.slots" = "3"\n'
    assert {case.case for case in planned(tmp_path / "c", text).cases}.isdisjoint(names)


def test_planning_again_changes_nothing(tmp_path: Path) -> None:
    """The same study into the same folder is said to be there; another one, or another folder's file, is refused."""
    study = write_study(tmp_path)
    plan, is_new = make_plan(study, tmp_path / "plan")
    assert is_new
    assert make_plan(study, tmp_path / "plan") == (plan, False)
    assert open_plan(tmp_path / "plan") == plan
    assert (tmp_path / "plan" / "study.toml").read_bytes() == study.read_bytes()
    with pytest.raises(ConfigError, match=r"holds the plan of another study; choose a new folder"):
        planned(tmp_path, HEAD + "replicas = 2\n" + AXES.replace("[1, 2, 3]", "1"))
    with pytest.raises(ConfigError, match=r"already holds \S+; choose a new folder, or an empty one"):
        make_plan(study, tmp_path)
    assert not (tmp_path / "results").exists()


def test_a_plan_needs_no_other_file(tmp_path: Path) -> None:
    """The files that a study names are read when it is planned; the fabric of a case comes from the plan."""
    (tmp_path / "faults.toml").write_text('format = "fabricsim.fault_list/1"\nfaults = ["plane:1"]\n')
    text = HEAD + AXES + 'fault = ["none", "faults.toml"]\n[axes.set]\n"terminal.slots" = ["default", "3"]\n'
    plan = planned(tmp_path, text)
    for name in ("tiny.toml", "faults.toml", "study.toml"):
        (tmp_path / name).unlink()
    assert {case.faults for case in plan.cases} == {(), ("plane:1",)}
    specs = [plan.spec(case) for case in plan.cases[:2]]
    assert [spec.terminal.slots.exact for spec in specs] == [16, 3]
    assert [spec.spec_sha256 for spec in specs] == [case.spec_sha256 for case in plan.cases[:2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            AXES.replace("all_gather", "all_gathr"),
            r"study.toml: case 6 \(.*\): unknown collective 'all_gathr' \(did you",
        ),
        (AXES.replace('"4KiB"', '"4K"'), r"case 3 \(.*size=4K.*\): '4K' could count powers of 1000 or of 1024"),
        (AXES.replace('"tiny.toml"', '"no.toml"'), r"case 0 \(.*\): \S*no.toml: cannot read this fabric file"),
        (AXES + "ranks = 5\n", r"case 0 \(.*ranks=5.*\): 5 ranks do not fit on the 4 terminals of tiny"),
        (AXES + 'algorithm = "rong"\n', r"unknown algorithm of all_to_all 'rong'"),
        (AXES + 'routing = "sprey"\n', r"unknown routing 'sprey' \(did you mean 'spray'\?\)"),
        (AXES + 'endpoint = "none"\n', r"unknown endpoint 'none'; known: "),
        (AXES + 'packet = "huge"\n', r"unknown packet format 'huge'; known: "),
        (AXES + 'fault = "plan:1"\n', r"case 0 \(.*fault=plan:1.*\): "),
        (
            AXES + 'fault = ["none", "switch:nope"]\n',
            r"case 3 \(.*fault=switch:nope.*\): fault switch:nope: tiny has no node 'nope'",
        ),
        (AXES + 'fault = "plane:99@1us"\n', r"case 0 \(.*\): fault plane:99@\S+: .* has no plane 99"),
        (AXES + '[axes.set]\n"terminal.slot" = 1\n', r"tiny: it has no quantity 'terminal.slot'"),
        (AXES + '[axes.set]\n"terminal.slots" = 16\n', r"setting terminal.slots=16 has no effect, that is its value"),
        (AXES + "tokens = 16\n", r"all_to_all is run by the axis size, without tokens and skew"),
        (AXES.replace('"all_gather"', '"moe_dispatch"'), r"moe_dispatch is run by the axis tokens, not by size"),
        (
            AXES.replace('"4KiB"', '"1024B"'),
            r"study.toml: cases 0 and 3 are the same \(.*size=1024B.*\): a value of an",
        ),
        (AXES + 'packet = ["default", "bulk"]\n', r"cases 0 and 3 are the same \(.*packet=bulk"),
    ],
)
def test_a_case_that_cannot_be_is_named(tmp_path: Path, text: str, message: str) -> None:
    """The study, the case with its axes, the finding and the remedy; and no plan is left."""
    with pytest.raises(ConfigError, match=message):
        planned(tmp_path, HEAD + text)
    assert not (tmp_path / "plan" / "cases.json").exists()


def test_cases_are_found_by_index_and_name(tmp_path: Path) -> None:
    """One index, ranges and lists of them as Slurm writes them; anything else is refused."""
    plan = planned(tmp_path)
    assert [case.index for case in plan.at("0,3-5,11")] == [0, 3, 4, 5, 11]
    assert plan.case(plan.cases[7].case) is plan.cases[7]
    for text, message in (
        ("12", "has the indices 0 to 11"),
        ("5-3", "write whole numbers and ranges"),
        ("-1", "write whole numbers and ranges"),
        ("5-", "write whole numbers and ranges"),
        ("0,5-", "write whole numbers and ranges"),
        ("", "write whole numbers and ranges"),
        ("1,0-2", "names an index twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            plan.at(text)
    with pytest.raises(ConfigError, match="there is no case 'nope'"):
        plan.case("nope")


def test_a_plan_of_another_version_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    """Results of two versions may differ, so one version makes all."""
    path = planned(tmp_path).folder / "cases.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"fabricsim_version": "0.0.1"}))
    with pytest.raises(ConfigError, match=r"was made by fabricsim 0.0.1 .*; plan the study in a new folder"):
        open_plan(path.parent)
    path.write_text(json.dumps(document)[:-20])
    with pytest.raises(ConfigError, match=r"cases.json: is damaged"):
        open_plan(path.parent)
    with pytest.raises(ConfigError, match=r"cases.json: cannot be read .*campaign plan STUDY -o DIR"):
        open_plan(tmp_path)


@pytest.mark.parametrize(
    "change", [{"seed": 9}, {"size_bytes": 1}, {"index": 1}, {"case": "0" * 16}, {"overrides": {"terminal.slots": "3"}}]
)
def test_a_plan_that_somebody_edited_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """A result under the name of another case would be wrong."""
    path = planned(tmp_path).folder / "cases.json"
    document = json.loads(path.read_text())
    document["cases"][0] |= change
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"cases.json: is damaged, or was edited; plan the study anew"):
        open_plan(path.parent)
