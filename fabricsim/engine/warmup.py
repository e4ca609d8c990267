"""The first call of a compiled kernel: one process compiles, the others wait for its file.

Numba's cache alone would give right results, for it writes whole files; but of a thousand processes that start
together on an empty cache each would compile.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from fabricsim.engine import _jit, backends
from fabricsim.engine.layout import Part, State

Report = Callable[[str], None]

COMPILING = "compiling the kernel (once, about 20 s)"

#: Between two looks at the lock and at the cache.
LOOK_EVERY_S = 0.1

#: A process that has waited this long compiles for itself. The lock of a killed process is free at once, but not that
#: of a stopped one, or of a machine that died with a file server keeping its locks.
PATIENCE_S = 600.0


def compile_once(run: Any, state: State, report: Report) -> bool:
    """Make *run*, a kernel's entry as Numba jitted it, ready for *state*: loaded, or compiled while others wait for it.

    *report* is told what takes long here. Returns whether *run* was compiled here; nothing is simulated.
    """
    if run.signatures:
        return False
    if run.stats.cache_path is None:
        report(COMPILING)
        run(state, int(Part.WHOLE), 0)  # compiles; a slice of no events changes nothing
        return True
    if _is_kept(run):
        _first_call(run, state)
        return False
    with _turn(run, report):
        compiles = not _is_kept(run)
        if compiles:
            report(COMPILING)
            _first_call(run, state)
    if not compiles:
        _first_call(run, state)  # without the lock: those who waited load side by side
    return compiles


def warm_up(report: Report) -> tuple[bool, Path | None]:
    """Fill the cache with the Numba kernel, for plain fabrics and for all.

    Returns whether anything was compiled here, and the folder that keeps it, None if one is not kept.
    """
    from fabricsim.engine.state import allocate
    from fabricsim.fabrics import load_fabric
    from fabricsim.workloads.collectives import collective

    network = load_fabric("nvl72").network()
    schedule = collective("send_recv", size="16B", ranks=2)
    state = allocate(network, schedule, np.arange(2, dtype=np.int32), seed=1)
    runs: list[Any] = [backends.load("numba", plain=plain) for plain in (True, False)]
    compiled = [compile_once(run, state, report) for run in runs]
    return any(compiled), _jit.cache_folder() if all(_is_kept(run) for run in runs) else None


def _is_kept(run: Any) -> bool:
    """Tell whether the cache holds *run*; of a function's files Numba writes the ``.nbc`` last, whole or not at all."""
    folder = run.stats.cache_path
    return folder is not None and any(Path(folder).glob(f"*.{run.__name__}-*.nbc"))


def _first_call(run: Any, state: State) -> None:
    try:
        run(state, int(Part.WHOLE), 0)
    except Exception:
        # A file that a crash of the machine cut short, or a full disk: Numba raises what it meets. Without the files it
        # compiles, or has done so by now; an error that is not the cache's comes again.
        for path in Path(run.stats.cache_path).glob(f"*.{run.__name__}-*.nb[ci]"):
            with suppress(OSError):
                path.unlink()
        run(state, int(Part.WHOLE), 0)


@contextmanager
def _turn(run: Any, report: Report) -> Iterator[None]:
    """Hold the lock of the cache; without it once *run* is kept there, or after ``PATIENCE_S``."""
    path = Path(run.stats.cache_path, "lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # a full disk, or another user's lock: compile side by side
        yield
        return
    try:
        patient_until_s = time.monotonic() + PATIENCE_S
        reported = False
        while not _locks(descriptor) and not _is_kept(run) and time.monotonic() < patient_until_s:
            if not reported:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
                report(f"waiting for {holder}, which compiles the kernel (lock {path})")
                reported = True
            time.sleep(LOOK_EVERY_S)
        yield
    finally:
        os.close(descriptor)  # frees the lock


def _locks(descriptor: int) -> bool:
    """Try to lock a file and to leave one's name in it; false while another process holds the lock.

    The lock goes with its process, however that ends, and over NFS it holds between machines. Where there are no such
    locks (Windows, some cluster file systems) each process compiles for itself.
    """
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return True
    with suppress(OSError):  # a full disk
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)
    return True
