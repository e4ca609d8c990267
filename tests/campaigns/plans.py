"""Studies of a fabric of 4 GPUs, whose cases take milliseconds also on the Python kernel."""

from __future__ import annotations

from pathlib import Path

from fabricsim.campaigns.plan import Plan, make_plan
from tests.results.small import tiny_fabric

HEAD = 'format = "fabricsim.study/1"\ntitle = "Tiny"\n'
AXES = """\
[axes]
fabric = "tiny.toml"
collective = ["all_to_all", "all_gather"]
size = ["1KiB", "4KiB"]
seed = [1, 2, 3]
"""
CASES = 12


def write_study(folder: Path, text: str = HEAD + AXES) -> Path:
    """Write a study beside the file of the fabric that it names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.toml").write_text(tiny_fabric().to_toml(), encoding="utf-8")
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def planned(folder: Path, text: str = HEAD + AXES) -> Plan:
    """Plan a study into the folder ``plan``."""
    return make_plan(write_study(folder, text), folder / "plan")[0]
