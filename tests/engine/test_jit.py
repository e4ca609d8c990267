"""The jit wrapper: its options still mean what they meant, its cache is keyed by all that matters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabricsim.engine import _jit, backends
from fabricsim.engine.layout import Code
from fabricsim.engine.state import allocate, grow
from tests.oracle.cases import MessageDraft, OperationDraft, TaskDraft, build_schedule
from tests.oracle.test_oracle import fabric, star


@pytest.fixture(scope="module")
def assembly() -> str:
    """Return the assembly of a part of the kernel, compiled here and now: Numba shows none of what a cache gives it.

    All of the kernel's functions have the same options, and hand each other all tables; the whole takes half a minute.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_jit, "cache_folder", lambda: None)
        run: Any = backends.load_python.__wrapped__(jitted=True, plain=True)
    schedule = build_schedule(2, [OperationDraft([TaskDraft(0), TaskDraft(1)], [MessageDraft(0, 1, 10)])])
    state = grow(allocate(fabric(star(2)), schedule, np.arange(2, dtype=np.int32), 1))
    part = run.py_func.__globals__["close_epoch"]
    assert part(state) == Code.SLICE
    (text,) = part.inspect_asm().values()
    assert isinstance(text, str)
    return text


def test_no_table_is_reference_counted(assembly: str) -> None:
    """The private option ``_nrt=False`` still works: the kernel's code calls no reference counting."""
    assert "NRT_incref" not in assembly
    assert "NRT_decref" not in assembly


def test_numba_s_default_would_count_references() -> None:
    """Without the option the same kind of code does count, so the test above can fail."""
    import numba

    options = {**_jit.OPTIONS, "_nrt": True, "forceinline": False}

    @numba.jit(**options)
    def helper(table):  # type: ignore[no-untyped-def]
        return table

    @numba.jit(**options)
    def pick(tables, index):  # type: ignore[no-untyped-def]
        return helper(tables[index])

    pick((np.zeros(3), np.zeros(3)), 1)
    (llvm,) = pick.inspect_llvm().values()
    assert "NRT_incref" in llvm


def test_helpers_are_inlined(assembly: str) -> None:
    """``forceinline`` still works: of the kernel's functions the module holds the one compiled and nothing else."""
    labels = [line for line in assembly.splitlines() if line.endswith(":") and "engine6kernel" in line]
    helpers = [line for line in labels if "engine6kernel11close_epoch" not in line and "NumbaEnv" not in line]
    assert helpers == []
    assert labels


def test_the_jit_leaves_the_cache_of_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba's own setting is what it was after a function of ours is decorated."""
    import numba

    before = numba.config.CACHE_DIR
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    _jit.jit(lambda number: number)
    assert before == numba.config.CACHE_DIR


def test_the_cache_folder_follows_every_engine_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in any engine source gives another folder: Numba itself overlooks helpers of other modules."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    before = _jit.cache_folder()
    copies = tmp_path / "engine"
    copies.mkdir()
    for source in Path(_jit.__file__).parent.glob("*.py"):
        (copies / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(_jit, "__file__", str(copies / "_jit.py"))
    assert _jit.cache_folder() == before
    (copies / "hashing.py").write_text((copies / "hashing.py").read_text() + "\n# edited\n")
    assert _jit.cache_folder() != before


def test_the_cache_folder_follows_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other jit options are another kernel."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    before = _jit.cache_folder()
    monkeypatch.setitem(_jit.OPTIONS, "nogil", False)
    assert _jit.cache_folder() != before


def test_the_cache_folder_follows_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with another CPU, or one whose name Numba is told, has a folder of its own."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    before = _jit.cache_folder()
    monkeypatch.setattr("numba.config.CPU_NAME", "generic")
    assert _jit.cache_folder() != before


def test_no_cache_where_none_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder to write to, the kernel is compiled without a cache."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(blocked))
    assert _jit.cache_folder() is None


def test_no_cache_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home folder gets no cache and no traceback."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    monkeypatch.setattr(Path, "expanduser", _no_home)
    assert _jit.cache_folder() is None


def _no_home(path: Path) -> Path:
    raise RuntimeError(f"Could not determine home directory for {path}.")


def test_the_python_kernel_needs_no_numba() -> None:
    """``--kernel python`` runs the source as it is, without importing Numba."""
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from fabricsim.engine import backends\n"
        "print(backends.load('python', plain=True).__module__)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(_jit.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "fabricsim.engine.kernel"
