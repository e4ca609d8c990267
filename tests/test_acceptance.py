"""What the project promises a user at first sight: one collective on both fabrics, a recording on both, the demo."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from fabricsim.cli import build_parser, main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: What an NPU's 7 links of 56 GB/s and a GPU's 18 links of 50 GB/s carry, in GB/s.
WIRE_LIMIT_GBPS = {"cloudmatrix384": 392, "nvl72": 900}


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands name traces relative to the repository; tables are 80 columns wide."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def demo_commands() -> list[list[str]]:
    """Arguments of the fabricsim commands that ``make demo`` runs."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    variables = dict(re.findall(r"^(\w+) \??:?= (.*)$", makefile, re.MULTILINE))
    (recipe,) = re.findall(r"^demo: .*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    lines = [re.sub(r"\$\((\w+)\)", lambda name: variables[name[1]], line) for line in recipe.splitlines()]
    return [shlex.split(line.split("/fabricsim ")[1]) for line in lines]


@pytest.mark.parametrize("fabric", WIRE_LIMIT_GBPS)
def test_an_all_to_all_lies_between_its_bounds(capsys: pytest.CaptureFixture[str], fabric: str) -> None:
    """Over all terminals: the schema of a result, the lower bound below the time, busbw below what the wires carry."""
    assert main(["run", fabric, "all_to_all", "--size", "4MiB", "--quiet", "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "fabricsim.result/1"
    assert document["workload"]["ranks"] == document["fabric"]["terminals"]
    (op,) = document["ops"]
    assert 0 < op["lower_bound_us"] < op["time_us"]
    assert 0 < op["busbw_GBps"] < WIRE_LIMIT_GBPS[fabric]


def test_the_demo_is_made_of_commands() -> None:
    """Each line of the Makefile's demo parses, names a trace that is there, and asks for both fabrics."""
    commands = demo_commands()
    assert len(commands) == 2
    for command in commands:
        arguments = build_parser().parse_args(command)
        assert (ROOT / arguments.trace).is_file()
        assert arguments.fabric == list(WIRE_LIMIT_GBPS)


def test_the_demo_shows_the_recording_on_both_fabrics(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's block is the command and what it prints, but for the left-out lines that it marks.

    Every recorded collective stands there with its recorded time and one time per fabric.
    """
    (command,) = (command for command in demo_commands() if "dlrm" in command[1])
    assert main([*command, "--quiet"]) == 0
    printed = capsys.readouterr().out
    rows = re.findall(r"^all_\w+ +8 +[\d,]+((?: +\d+\.\d+){3})$", printed, re.MULTILINE)
    recorded_us = [float(row.split()[0]) for row in rows]
    assert recorded_us == [11, 8, 8, 8, 87, 11, 23, 69]
    (block,) = re.findall(r"<!-- demo-output -->\n```\n(.*?)```\n<!-- /demo-output -->", README, re.DOTALL)
    asked, *parts = block.split("[...]\n")
    assert shlex.split(asked) == ["$", "fabricsim", *command]
    for part in parts:
        assert part.strip("\n") in printed
    assert len(re.findall(r"^all_\w+ +8 ", block, re.MULTILINE)) == len(rows)
    assert block.count("; critical path: ") == 2
