"""The one jit wrapper: options, cache and their reasons.

Options, weighed as `bench/README.md` says, with Numba 0.68.1 on the kernel itself:

* ``_nrt=False``: a kernel allocates nothing, so no array needs a reference count; with Numba's default every table
  that a helper receives is counted. The option is private: ``tests/engine/test_jit.py`` notices when it changes.
* ``forceinline=True``: a call of a helper passes every table of the state by value, an array by 7 words. Inlined by
  LLVM none is passed; without it a packet-hop took 1.5 times as long.
* ``error_model="numpy"``: no test for a zero divisor before each division; the kernel divides by counts only.
* ``nogil=True``: slices run beside the progress display and, later, beside each other.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

OPTIONS: dict[str, Any] = {
    "nopython": True,
    "_nrt": False,
    "forceinline": True,
    "error_model": "numpy",
    "nogil": True,
}

#: The functions that Python calls, and the only ones that the cache keeps: all others are inlined into them. Files of
#: their own are read by nothing, and setting 32 more caches up took 25 ms of every start.
ENTRIES = frozenset({"run"})

#: While False, ``jit`` returns functions as they are; ``backends`` loads the kernel once with each value.
enabled = True

#: What the kernel is compiled for (``kernel.PLAIN``); ``backends`` loads it once with each value.
plain = False


def jit(function: Function) -> Function:
    """Compile *function* with the project's options at its first call, or leave it as it is if not ``enabled``."""
    if not enabled:
        return function
    import numba

    cache = cache_folder() if function.__name__ in ENTRIES else None
    if cache is not None and plain:
        cache = cache / "plain"  # Numba would take the two for one function
    config: Any = numba.config
    before = config.CACHE_DIR
    if cache is not None:
        config.CACHE_DIR = str(cache)  # read when a function is decorated; the functions of others keep their folder
    compiled: Function = numba.jit(**OPTIONS, cache=cache is not None)(function)
    config.CACHE_DIR = before
    return compiled


def cache_folder() -> Path | None:
    """Return the folder of compiled kernels, or None where none can be written.

    Below ``NUMBA_CACHE_DIR``, else below the user's cache folder. Numba notices neither a change in a helper of
    another module nor one of the options, so the folder is named by a hash of all engine sources, the
    options, the Numba version and the CPU with its features, which differ between machines of one CPU name.
    """
    import numba
    from numba.core.registry import cpu_target

    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    cpu = cpu_target.target_context.codegen().magic_tuple()
    parts = (sorted(OPTIONS.items()), numba.__version__, platform.python_version(), cpu)
    digest.update(repr(parts).encode())
    base = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = Path(base).expanduser() / "fabricsim" / digest.hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home to expand
        return None
    return folder if os.access(folder, os.W_OK) else None
