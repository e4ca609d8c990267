"""docs/trace-format.md says what the declarations say, and its example makes a valid trace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fabricsim.workloads.trace import Trace, check
from fabricsim.workloads.trace_metadata import METADATA_KEYS
from fabricsim.workloads.trace_schema import COLUMNS, OPS

PAGE = Path(__file__).parents[2] / "docs" / "trace-format.md"


def columns_table() -> list[str]:
    """The table of columns as the page shows it."""
    lines = ["| column | type | null | unit | smallest | meaning |", "|---|---|---|---|---|---|"]
    for column in COLUMNS:
        words = f" ({', '.join(column.values)})" if column.values and column.name != "op" else ""
        minimum = "" if column.minimum is None else column.minimum
        null = "yes" if column.nullable else "no"
        # Arrow writes dictionary<values=string, indices=int32, ordered=0>; the page says it shorter.
        kind = re.sub(r"dictionary<.*>", "dictionary<int32, utf8>", str(column.type)).replace("string", "utf8")
        lines.append(f"| `{column.name}` | {kind} | {null} | {column.unit} | {minimum} | {column.meaning}{words} |")
    return lines


def operations_table() -> list[str]:
    """The table of operations as the page shows it."""
    lines = ["| op | kind | `send_bytes` | `recv_bytes` | needs | may have |", "|---|---|---|---|---|---|"]
    for op in OPS:
        needs, may = (", ".join(f"`{name}`" for name in names) for names in (op.needs, op.may))
        lines.append(f"| {op.name} | {op.kind} | {op.send} | {op.recv} | {needs} | {may} |")
    return lines


def metadata_table() -> list[str]:
    """The table of metadata keys as the page shows it."""
    lines = ["| key | required | example | meaning |", "|---|---|---|---|"]
    required = {True: "yes", False: "no"}
    return lines + [f"| `{k.name}` | {required[k.required]} | `{k.example}` | {k.meaning} |" for k in METADATA_KEYS]


@pytest.mark.parametrize("table", [columns_table, operations_table, metadata_table])
def test_the_page_has_the_declared_table(table):
    """Each table of the page is, line by line, what the declarations give."""
    assert "\n".join(table()) in PAGE.read_text()


def test_the_example_makes_a_sound_trace(tmp_path, monkeypatch):
    """The page's Python block, run as it stands, writes a file that passes every check."""
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    exec(compile(block, "docs/trace-format.md", "exec"), {})
    found = check(Trace.open("tiny.arrow"))
    assert (found.rows, found.collectives) == (2, 1)


def test_the_example_has_ten_lines():
    """A trace in ten lines is what the heading promises."""
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(block.splitlines()) == 10
