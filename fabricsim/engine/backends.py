"""Who runs the kernel: C, or one Python source compiled by Numba or left as it is."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from fabricsim.engine import _jit
from fabricsim.engine.layout import DTYPES, State
from fabricsim.errors import ConfigError, unknown

KERNELS = ("auto", "numba", "c", "python")  #: what ``--kernel`` takes

#: The kernel's C sources, in a checkout; an installed package holds what was compiled from them and no sources.
CSRC = Path(__file__).parents[2] / "csrc"

C_MODULE = "fabricsim.engine._ckernel"
REBUILD = "rebuild it with a C compiler and pip install -e ."

Run = Callable[[State, int, int], int]


class Availability(NamedTuple):
    """One kernel, whether it can run here, and why (not)."""

    name: str
    usable: bool
    reason: str


def available() -> tuple[Availability, ...]:
    """Say for every kernel whether it can run here; ``auto`` takes the first usable one."""
    problem = c_problem()
    return (
        Availability("c", problem is None, problem or "built with this installation"),
        Availability("numba", True, f"Numba {version('numba')} compiles the kernel at its first use"),
        Availability("python", True, "the same source without Numba: for tests, about a thousand times slower"),
    )


def choose(kernel: str) -> tuple[str, str]:
    """Return the kernel that *kernel* stands for and the reason; ConfigError if it cannot run."""
    if kernel not in KERNELS:
        raise ConfigError(unknown("kernel", kernel, KERNELS))
    if kernel not in ("auto", "c"):
        return kernel, "asked for"
    problem = c_problem()
    if kernel == "auto":
        return (
            ("c", "auto: it is built, and the first choice")
            if problem is None
            else ("numba", f"auto: the C kernel is {problem}")
        )
    if problem is not None:
        raise ConfigError(f"--kernel c: the C kernel is {problem}; or use --kernel auto or numba")
    return kernel, "asked for"


def load(kernel: str, *, plain: bool) -> Run:
    """Return ``run`` of the kernel named *kernel* ("c", "numba" or "python"), for one run to call.

    With *plain* the faster one, for a state that ``state.is_plain``; without, one for any state.
    """
    return CKernel(plain=plain) if kernel == "c" else load_python(jitted=kernel == "numba", plain=plain)


@functools.cache
def load_python(*, jitted: bool, plain: bool) -> Run:
    """Execute the kernel's module with Numba's decorator or with none; the source is one."""
    spec = importlib.util.find_spec("fabricsim.engine.kernel")
    assert isinstance(spec, ModuleSpec)
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = _jit.enabled, _jit.plain
    _jit.enabled, _jit.plain = jitted, plain
    try:
        spec.loader.exec_module(module)
    finally:
        _jit.enabled, _jit.plain = before
    run: Run = module.run
    return run


class CKernel:
    """``run`` in C, and the addresses of the tables that it was last called with.

    One for each run: two runs that shared the addresses could not take their slices at the same time.
    """

    def __init__(self, *, plain: bool) -> None:
        module, problem = _c_module()
        assert problem is None
        self._ffi = module.ffi
        self._entry = module.lib.fabric_run_plain if plain else module.lib.fabric_run
        self._pointers = [(name, field.type) for name, field in self._ffi.typeof("fabric_state").fields]
        self._addresses = self._ffi.new("fabric_state *")
        self._state: State | None = None

    def __call__(self, state: State, part: int, max_events: int) -> int:
        """Run one slice; cffi lets other threads run meanwhile."""
        if state is not self._state:
            for name, pointer in self._pointers:
                setattr(self._addresses, name, self._ffi.from_buffer(pointer, getattr(state, name), True))
            self._state = state  # keeps the tables where they are; one that grows is a new table in a new State
        code: int = self._entry(self._addresses, part, max_events)
        return code


def c_problem() -> str | None:
    """Say what the C kernel is instead of usable, and the remedy; None if it can run."""
    return _c_module()[1]


@functools.cache
def _c_module() -> tuple[Any, str | None]:
    """Return the compiled module, and what ``c_problem`` says of it."""
    try:
        module = importlib.import_module(C_MODULE)
    except ImportError as error:
        if error.name == C_MODULE:
            return None, "not built: install a C compiler (gcc or clang), then install fabricsim again"
        return None, f"broken: {error}; install fabricsim again"
    if CSRC.is_dir():
        sources = b"".join(path.read_bytes() for path in sorted(CSRC.glob("*.[ch]")))
        built_from = module.ffi.string(module.lib.fabric_sources_sha256).decode()
        if built_from != hashlib.sha256(sources).hexdigest():
            return module, f"out of date: csrc/ changed since it was built; {REBUILD}"
    if _layout_in_c(module.ffi) != _layout_in_numpy():
        return module, f"out of date: the tables have another layout now; {REBUILD}"
    return module, None


Layout = dict[str, tuple[int, dict[str, tuple[int, int]]]]  # per table: size of a row, offset and size of each field


def _layout_in_c(ffi: Any) -> Layout:
    """Return where the C compiler put every field."""
    structs = {name: field.type.item for name, field in ffi.typeof("fabric_state").fields}
    return {
        name: (ffi.sizeof(row), {inner: (field.offset, ffi.sizeof(field.type)) for inner, field in row.fields})
        for name, row in structs.items()
    }


def _layout_in_numpy() -> Layout:
    """Return where NumPy put every field."""
    return {
        name: (dtype.itemsize, {inner: (field[1], field[0].itemsize) for inner, field in (dtype.fields or {}).items()})
        for name, dtype in DTYPES.items()
    }
