from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fabricsim.campaigns.plan import make_plan
from fabricsim.campaigns.run import run_cases
from fabricsim.campaigns.slurm import script
from fabricsim.campaigns.store import Failure, Store
from fabricsim.cli import build_parser, main
from fabricsim.errors import ConfigError
from tests.campaigns.plans import AXES, CASES, HEAD, planned, write_study

ROOT = Path(__file__).resolve().parents[2]
PYTHON_KERNEL = ("--kernel", "python", "--workers", "1")


def test_the_commands_in_turn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Plan, run one, run all, look, merge: each says in a line what it did, on standard output alone."""
    folder, target = str(tmp_path / "plan"), str(tmp_path / "all.csv")

    def said(*argv: str) -> str:
        assert main(["campaign", *argv]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    study = str(write_study(tmp_path))
    assert said("plan", study, "-o", folder).startswith(f"{folder}: 12 cases planned\n")
    assert said("plan", study, "-o", folder).startswith(f"{folder}: 12 cases were planned before, and are the same\n")
    assert (
        said("run", folder, "--index", "2", *PYTHON_KERNEL) == f"{folder}: of 1 cases 1 run, 0 had a result, 0 failed\n"
    )
    case = make_plan(study, folder)[0].cases[2].case
    assert "0 run, 1 had a result" in said("run", folder, "--case", case, *PYTHON_KERNEL)
    out = said("status", folder)
    assert f"{folder}: Tiny\n1 done, 0 running, 0 failed, 11 missing, of 12 cases\nmissing 0 (" in out
    assert out.endswith("missing: 1 more\n")
    assert "of 12 cases 11 run, 1 had a result, 0 failed" in said("run", folder, *PYTHON_KERNEL)
    document = json.loads(said("status", folder, "--json", "-"))
    assert (document["schema"], document["done"]) == ("fabricsim.campaign_status/1", 12)
    assert said("merge", folder, "-o", target) == f"{target}: 12 rows\n"
    assert len(Path(target).read_text().splitlines()) == 13


def test_a_merge_with_holes_ends_with_3(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """And a failed case with its own code, at the next run as well."""
    plan = planned(tmp_path)
    assert main(["campaign", "merge", str(plan.folder), "-o", str(tmp_path / "all.csv")]) == 3
    assert capsys.readouterr().err.startswith(
        f"fabricsim: error: {plan.folder}: 12 of 12 cases have no valid result:\n"
    )


def test_status_tells_the_states_apart(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Done, running with its owner, failed with code and message, missing, and damaged."""
    plan = planned(tmp_path)
    store = Store(plan)
    run_cases(plan, plan.cases[:10], kernel="python")
    store.result_path(plan.cases[0]).write_bytes(b"")
    store.write_failure(plan.cases[10], Failure(4, "nothing moves\nbut"))
    with store.claim(plan.cases[11]):
        assert main(["campaign", "status", str(plan.folder)]) == 0
    lines = capsys.readouterr().out.replace("\n on ", " on ").splitlines()
    assert lines[1] == "9 done, 1 running, 1 failed, 1 missing, of 12 cases"
    names = [case.case for case in plan.cases]
    assert lines[2].startswith(f"running 11 ({names[11]}) process ")
    assert lines[3:] == [
        f"failed 10 ({names[10]}) exit code 4: nothing moves",
        f"missing 0 ({names[0]}) damaged",
    ]


def test_the_script_for_slurm_covers_what_is_left(tmp_path: Path) -> None:
    """The array is that of the cases without a result, in tasks of one case or several; bash can read the script."""
    plan = planned(tmp_path)
    run_cases(plan, [plan.cases[index] for index in (3, 4, 7)], kernel="python")
    text = script(plan)
    assert "#SBATCH --array=0-8\n" in text
    assert "\nindices=(0 1 2 5 6 8 9 10 11)  #" in text
    assert f"#SBATCH --output={plan.folder}/logs/%A_%a.log\n" in text
    text = script(plan, per_task=4, cpus=2)
    assert "#SBATCH --array=0-2\n#SBATCH --ntasks=1\n#SBATCH --cpus-per-task=2\n" in text
    assert "\nindices=(0-2,5 6,8-10 11)  #" in text
    (command,) = re.findall(r"^srun .*$", text, re.MULTILINE)
    assert command == (
        f"srun --cpus-per-task=2 {sys.executable} -m fabricsim campaign run {plan.folder} "
        '--index "${indices[$SLURM_ARRAY_TASK_ID]}"'
    )
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert f"#SBATCH --array=0-{CASES - 1}\n" in script(plan, all_cases=True)


def test_a_long_array_is_warned_of(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Slurm's MaxArraySize is 1001 where nobody has set it; indices above that are positions, not those of cases."""
    many = HEAD + "replicas = 1002\n" + AXES.replace("[1, 2, 3]", "1").replace('["1KiB", "4KiB"]', '"1KiB"')
    plan = planned(tmp_path, many.replace("title", "exclude = {collective = 'all_gather'}\ntitle"))
    assert main(["campaign", "slurm", str(plan.folder)]) == 0
    captured = capsys.readouterr()
    assert "#SBATCH --array=0-1001\n" in captured.out
    assert captured.err.startswith("fabricsim: 1,002 array tasks; where MaxArraySize is not above its default of 1,001")
    assert "give --per-task 2 or more" in captured.err
    assert main(["campaign", "slurm", str(plan.folder), "--per-task", "2"]) == 0
    captured = capsys.readouterr()
    assert ("#SBATCH --array=0-500\n" in captured.out, captured.err) == (True, "")
    run_cases(plan, plan.cases[:1], kernel="python")
    told: list[str] = []
    text = script(plan, warn=lambda event, words: told.append(event))
    assert told == []
    assert "#SBATCH --array=0-1000\n" in text
    assert " 1000 1001)  #" in text


def test_a_folder_of_odd_name_is_quoted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """For the shell, and for sbatch, which replaces %A and such in the name of an output."""
    folder = tmp_path / "50%A of it"
    assert main(["campaign", "plan", str(write_study(tmp_path)), "-o", str(folder)]) == 0
    assert f"run them with fabricsim campaign run '{folder}', or" in capsys.readouterr().out
    text = script(make_plan(tmp_path / "study.toml", folder)[0])
    assert f"#SBATCH --output='{tmp_path}/50%%A of it/logs'/%A_%a.log\n" in text
    assert f"campaign run '{folder}' --index" in text


def test_the_document_is_right(tmp_path: Path) -> None:
    """The study in docs/batch.md can be planned, and its commands, whoever launches them, are commands."""
    page = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")
    (study,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert len(planned(tmp_path, study).cases) == 24
    blocks = "".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
    commands = re.findall(r"(?:^|-m |\.sif )(?:fabricsim )?(campaign [^|#\n]*)", blocks, re.MULTILINE)
    assert len(commands) == blocks.count("campaign ") > 10
    for command in commands:
        build_parser().parse_args(shlex.split(command))


def test_there_is_no_script_for_nothing(tmp_path: Path) -> None:
    """Where all is done, and for numbers below 1."""
    plan = planned(tmp_path)
    with pytest.raises(ConfigError, match="--per-task 0 --cpus 1: give 1 or more of each"):
        script(plan, per_task=0)
    run_cases(plan, plan.cases, kernel="python")
    with pytest.raises(ConfigError, match="every case is done or at work; merge it, or give --all"):
        script(plan)
