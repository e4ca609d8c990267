"""The declaration table and what is made from it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fabricsim.engine.layout import DTYPES, TABLES, State, c_header, main
from fabricsim.engine.state import rows

HEADER = Path(__file__).parents[2] / "csrc" / "state.h"


def test_header_is_fresh() -> None:
    """The committed header is what the layout gives now."""
    assert HEADER.read_text() == c_header()
    assert main(["--check"]) == 0


def test_a_stale_header_is_noticed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``--check`` fails, naming the command that mends it, once a field is added."""
    monkeypatch.setattr("fabricsim.engine.layout.TABLES", TABLES[:-1])
    assert main(["--check"]) == 1
    assert "python -m fabricsim.engine.layout" in capsys.readouterr().err


def test_state_has_the_tables_in_order() -> None:
    """The tuple that kernels take is the declaration table, name by name."""
    assert State._fields == tuple(table.name for table in TABLES)


def test_no_two_fields_of_a_table_share_a_name() -> None:
    """Names are unique per table, and every field's bytes are its own."""
    for table in TABLES:
        names = [field.name for field in table.fields]
        assert len(set(names)) == len(names), table.name
        ends = [DTYPES[table.name].fields[name][1] + DTYPES[table.name].fields[name][0].itemsize for name in names]
        starts = [DTYPES[table.name].fields[name][1] for name in names]
        assert all(end <= start for end, start in zip(ends[:-1], starts[1:], strict=True)), table.name


def test_a_c_compiler_lays_the_structs_out_alike(tmp_path: Path) -> None:
    """Sizes and offsets of the C structs equal NumPy's, field by field."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: the kernel needs none, this comparison does")
    lines = [
        "#include <stdint.h>",
        "#include <stddef.h>",
        "#include <stdio.h>",
        f'#include "{HEADER}"',
        "int main(void) {",
    ]
    expected = []
    for table in TABLES:
        lines.append(f'printf("%zu\\n", sizeof({table.row}));')
        expected.append(DTYPES[table.name].itemsize)
        for field in table.fields:
            lines.append(f'printf("%zu\\n", offsetof({table.row}, {field.name}));')
            expected.append(DTYPES[table.name].fields[field.name][1])
    source = tmp_path / "layout.c"
    source.write_text("\n".join([*lines, "return 0; }"]))
    subprocess.run([compiler, "-Wall", "-Werror", str(source), "-o", str(tmp_path / "layout")], check=True)
    printed = subprocess.run([str(tmp_path / "layout")], check=True, capture_output=True, text=True).stdout
    assert [int(line) for line in printed.split()] == expected


def test_hot_rows_fill_cache_lines() -> None:
    """The rows that every hop touches are half a line of 64 bytes, or two lines: none begins in the midst of one."""
    assert DTYPES["packets"].itemsize == 32
    assert DTYPES["channels"].itemsize == 128
    assert rows("packets", 5).ctypes.data % 64 == 0
