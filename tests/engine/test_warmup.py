"""The first call of a compiled kernel: one process compiles, the others wait, and nobody waits in vain."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from numba.core.errors import TypingError

from fabricsim.engine import _jit, warmup
from fabricsim.engine.warmup import COMPILING, compile_once

ROOT = Path(__file__).resolve().parents[2]

KERNEL = """
from fabricsim.engine._jit import jit

@jit
def double(number):
    return 2 * number

@jit
def run(state, part, max_events):
    return double(state)
"""

STATE: Any = 21


class Run:
    """Stands for a jitted kernel: a call leaves a file in the cache and does nothing else."""

    def __init__(self, folder: Path) -> None:
        self.__name__ = "run"
        self.signatures: list[object] = []
        self.stats = SimpleNamespace(cache_path=str(folder))
        self.calls = 0

    def __call__(self, state: object, part: int, max_events: int) -> int:
        """Count the calls."""
        self.calls += 1
        Path(self.stats.cache_path, "kernel.run-1.nbc").touch()
        return 0


@pytest.fixture
def held(tmp_path: Path) -> Iterator[int]:
    """The lock of the cache, held by someone else until the test ends or closes it."""
    descriptor = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.write(descriptor, b"process 7 on node3")
    yield descriptor
    os.close(descriptor)


def load_kernel(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Load the small kernel as a new process would, with a cache below *folder*, and return its entry."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(folder))
    path = folder / "kernel.py"
    path.write_text(KERNEL)
    spec = spec_from_file_location("small_kernel", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run


def kept(run: Any) -> list[str]:
    """Return the names of the files in the cache of *run*."""
    return sorted(path.name for path in Path(run.stats.cache_path).iterdir())


def ignore(words: str) -> None:
    """Take a report."""


def test_of_many_first_starts_one_compiles(tmp_path: Path) -> None:
    """Processes that start together on an empty cache compile once, and all have the kernel."""
    (tmp_path / "kernel.py").write_text(KERNEL)
    code = (
        "import sys, kernel\n"
        "from fabricsim.engine.warmup import compile_once\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "compiled = compile_once(kernel.run, 21, lambda words: None)\n"
        "print('compiled' if compiled else 'loaded', kernel.run(21, -1, 0))\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_DEBUG_CACHE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join((str(tmp_path), str(ROOT)))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 3
    assert "".join(said).count("data saved to") == 1
    assert sorted(text.splitlines()[-1] for text in said) == ["compiled 42", *["loaded 42"] * 2]


def test_a_killed_compiler_blocks_nobody(tmp_path: Path) -> None:
    """Who waits is told for whom, and compiles as soon as that process has been killed."""
    code = (
        "import sys, time\n"
        "from tests.engine.test_warmup import Run, ignore\n"
        "from fabricsim.engine.warmup import compile_once\n"
        "class Endless(Run):\n"
        "    def __call__(self, state, part, max_events):\n"
        "        print('compiling', flush=True)\n"
        "        time.sleep(600)\n"
        "compile_once(Endless(sys.argv[1]), None, ignore)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    said: list[str] = []

    def report(words: str) -> None:
        said.append(words)
        if words != COMPILING:
            compiler.kill()

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as compiler:
        assert compiler.stdout is not None
        assert compiler.stdout.readline() == "compiling\n"
        run = Run(tmp_path)
        assert compile_once(run, STATE, report)
    waiting, compiling = said
    assert waiting.startswith(f"waiting for process {compiler.pid} on ")
    assert str(tmp_path / "lock") in waiting
    assert (compiling, run.calls) == (COMPILING, 1)


def test_a_wait_ends_when_the_kernel_is_kept(tmp_path: Path, held: int) -> None:
    """Who waits loads once the file is there, while the lock is still held."""
    said: list[str] = []

    def report(words: str) -> None:
        said.append(words)
        (tmp_path / "kernel.run-1.nbc").touch()

    run = Run(tmp_path)
    assert not compile_once(run, STATE, report)
    assert said == [f"waiting for process 7 on node3, which compiles the kernel (lock {tmp_path / 'lock'})"]
    assert run.calls == 1


def test_patience_ends(tmp_path: Path, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is never freed is passed by after a while."""
    monkeypatch.setattr(warmup, "PATIENCE_S", 0.0)
    assert compile_once(Run(tmp_path), STATE, ignore)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Where no file can be locked each process compiles for itself."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert compile_once(Run(tmp_path), STATE, ignore)


def test_a_lock_that_cannot_be_opened(tmp_path: Path) -> None:
    """Without a lock file the kernel is compiled all the same."""
    (tmp_path / "lock").mkdir()
    assert compile_once(Run(tmp_path), STATE, ignore)


def test_the_cache_holds_the_entry_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Helpers are inlined into the entry and have no files; a second process loads that one and compiles nothing."""
    said: list[str] = []
    run = load_kernel(tmp_path, monkeypatch)
    assert compile_once(run, STATE, said.append)
    assert not compile_once(run, STATE, said.append)
    assert [name.split("-")[0] for name in kept(run)] == ["kernel.run", "kernel.run", "lock"]
    again = load_kernel(tmp_path, monkeypatch)
    assert not compile_once(again, STATE, said.append)
    assert said == [COMPILING]
    assert sum(again.stats.cache_hits.values()) == 1
    assert sum(again.stats.cache_misses.values()) == 0


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_a_damaged_file_is_compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """A file that a crash cut short costs one compilation, and is whole afterwards."""
    run = load_kernel(tmp_path, monkeypatch)
    compile_once(run, STATE, ignore)
    (path,) = Path(run.stats.cache_path).glob(f"*.{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[:10])
    run = load_kernel(tmp_path, monkeypatch)
    compile_once(run, STATE, ignore)
    assert len(run.signatures) == 1
    assert path.stat().st_size > 10
    run = load_kernel(tmp_path, monkeypatch)
    compile_once(run, STATE, ignore)
    assert sum(run.stats.cache_misses.values()) == 0


def test_a_full_disk_costs_the_cache_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that cannot be written is compiled once and used."""
    compiled: list[str] = []

    def full(self: object, name: str, data: object) -> None:
        compiled.append(name)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._save_data", full)
    run = load_kernel(tmp_path, monkeypatch)
    assert compile_once(run, STATE, ignore)
    assert len(compiled) == len(run.signatures) == 1
    assert kept(run) == ["lock"]


def test_an_error_of_the_kernel_itself_comes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Numba cannot compile is not taken for a damaged cache."""
    run = load_kernel(tmp_path, monkeypatch)
    with pytest.raises(TypingError):
        compile_once(run, None, ignore)  # type: ignore[arg-type]


def test_without_a_cache_each_process_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no folder can be written the kernel is compiled, and said to be."""
    monkeypatch.setattr(_jit, "cache_folder", lambda: None)
    run = load_kernel(tmp_path, monkeypatch)
    said: list[str] = []
    assert compile_once(run, STATE, said.append)
    assert said == [COMPILING]
