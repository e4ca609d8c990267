"""The shipped traces: sound, small, reproducible, and as traces/README.md describes them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fabricsim.workloads.trace import Trace, check

FOLDER = Path(__file__).resolve().parents[1] / "traces"
NAMES = sorted(path.name for path in FOLDER.glob("*.arrow"))


@pytest.fixture(scope="module")
def make_traces() -> ModuleType:
    """Load traces/make_traces.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("make_traces", FOLDER / "make_traces.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    """Split traces/README.md into the text under each heading."""
    parts = re.split(r"^## (.+)$", (FOLDER / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table(section: str) -> list[list[str]]:
    """Give the body of the first table of a section, cell by cell."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_trace_is_made_by_the_script(make_traces: ModuleType):
    """The script knows every file of the folder, and no other."""
    assert sorted([make_traces.DLRM_TRACE, *make_traces.MOE_TRACES]) == NAMES


def test_every_trace_has_a_section(sections: dict[str, str]):
    """The README has one section per file, with what it is, how it was made and its licence."""
    assert sorted(sections) == NAMES
    for text in sections.values():
        assert re.findall(r"^\*\*(What it is|How it was made|Licence)\.\*\*", text, flags=re.MULTILINE) == [
            "What it is",
            "How it was made",
            "Licence",
        ]


@pytest.mark.parametrize("name", NAMES)
def test_trace_is_sound_and_small(name: str):
    """Each file passes all rules of the format and stays under 1 MiB."""
    trace = Trace.open(FOLDER / name)
    assert check(trace).rows == trace.num_rows > 0
    assert (FOLDER / name).stat().st_size < 2**20


def test_moe_traces_are_what_the_generator_makes(make_traces: ModuleType, tmp_path: Path):
    """The script, run again, gives the shipped MoE layers, metadata included."""
    make_traces.main(["-o", str(tmp_path)])
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == sorted(make_traces.MOE_TRACES)
    for name in made:
        again, shipped = Trace.open(tmp_path / name).table(), Trace.open(FOLDER / name).table()
        assert again.equals(shipped, check_metadata=True), name


def test_dlrm_trace_is_what_the_script_makes(make_traces: ModuleType, shared: Path, tmp_path: Path):
    """The script, run on the recordings that the README names, gives the shipped file, metadata included."""
    recording = shared / "recordings" / "param-dlrm"
    archives = [str(recording / name) for name in ("dlrm_kineto.tar.gz", "dlrm_pytorch_et.tar.gz")]
    made = make_traces.dlrm_trace(archives).table()
    assert made.equals(Trace.open(FOLDER / make_traces.DLRM_TRACE).table(), check_metadata=True)


def test_dlrm_trace_carries_its_licence(make_traces: ModuleType, sections: dict[str, str]):
    """Origin and licence stand in the file too, as the README has them."""
    source = Trace.open(FOLDER / make_traces.DLRM_TRACE).metadata.source
    assert source is not None
    text = " ".join(sections[make_traces.DLRM_TRACE].replace("> ", "").split())
    for words in (*source["origin"].replace("commit ", "").split(", "), *source["licence"].split(", ", 1)):
        assert words in text


@pytest.mark.parametrize(("name", "ep", "tokens"), [("moe-ep64.arrow", 64, 1024), ("moe-ep384.arrow", 384, 128)])
def test_moe_traces_have_the_published_sizes(name: str, ep: int, tokens: int, sections: dict[str, str]):
    """Every token makes 1 to 8 copies of 7,392 and 14,336 bytes; the README's extremes are those of the file."""
    trace = Trace.open(FOLDER / name)
    assert trace.world_size == ep
    rows = trace.table().to_pylist()
    dispatch, combine = rows[:ep], rows[ep:]
    assert [row["name"] for row in rows] == ["moe_dispatch"] * ep + ["moe_combine"] * ep
    for row, back in zip(dispatch, combine, strict=True):
        copies, remainder = divmod(row["send_bytes"], 7392)
        assert remainder == 0
        assert tokens <= copies <= 8 * tokens
        assert back["recv_bytes"] == copies * 14336
    for cells, loads in zip(
        table(sections[name]),
        ([row["recv_bytes"] for row in dispatch], [row["send_bytes"] for row in combine]),
        strict=True,
    ):
        assert [int(cell) for cell in cells[2:]] == [sum(loads) // ep, min(loads), max(loads)]


def test_dlrm_figures_of_the_readme(make_traces: ModuleType, sections: dict[str, str]):
    """The README's table of collectives is that of the file, and its licence notice names the authors."""
    text = sections[make_traces.DLRM_TRACE]
    assert "Copyright (c) Facebook, Inc. and its affiliates." in text
    assert 'THE SOFTWARE IS PROVIDED "AS IS"' in text
    rows: list[dict[str, Any]] = Trace.open(FOLDER / make_traces.DLRM_TRACE).table().to_pylist()
    for number, cells in enumerate(table(text)):
        of_all = [row for row in rows if row["group_seq"] == number]
        durations_us = [(row["t_end_ns"] - row["t_start_ns"]) // 1000 for row in of_all]
        transfer_ns = max(row["t_end_ns"] for row in of_all) - max(row["t_start_ns"] for row in of_all)
        assert cells == [
            str(number),
            of_all[0]["op"],
            str(of_all[0]["send_bytes"]),
            f"{min(durations_us)} to {max(durations_us)}",
            str(transfer_ns // 1000),
        ]
    assert len(table(text)) == max(row["group_seq"] for row in rows) + 1
