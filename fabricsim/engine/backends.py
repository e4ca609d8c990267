"""Who runs the kernel: compiled by Numba, or as plain Python."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import NamedTuple

from fabricsim.engine import _jit
from fabricsim.engine.layout import State
from fabricsim.errors import ConfigError, unknown

KERNELS = ("auto", "numba", "c", "python")  #: what ``--kernel`` takes

NO_C_KERNEL = "the C kernel is not part of this version"

Run = Callable[[State, int], int]


class Availability(NamedTuple):
    """One kernel, whether it can run here, and why (not)."""

    name: str
    usable: bool
    reason: str


def available() -> tuple[Availability, ...]:
    """Say for every kernel whether it can run here; ``auto`` takes the first usable one."""
    import numba

    return (
        Availability("c", False, NO_C_KERNEL),
        Availability("numba", True, f"Numba {numba.__version__} compiles the kernel at its first use"),
        Availability("python", True, "the same source without Numba: for tests, about a thousand times slower"),
    )


def choose(kernel: str) -> tuple[str, str]:
    """Return the kernel that *kernel* stands for and the reason; ConfigError if it cannot run."""
    if kernel not in KERNELS:
        raise ConfigError(unknown("kernel", kernel, KERNELS))
    if kernel == "c":
        raise ConfigError(f"--kernel c: {NO_C_KERNEL}; use --kernel auto or numba")
    if kernel == "auto":
        return "numba", f"auto: {NO_C_KERNEL}"
    return kernel, "asked for"


def is_compiled() -> bool:
    """Tell whether the compiled kernel is at hand: used in this process before, or in the cache."""
    folder = _jit.cache_folder()
    return bool(getattr(load("numba"), "signatures", ())) or (folder is not None and any(folder.rglob("*.nbi")))


@functools.cache
def load(kernel: str) -> Run:
    """Return ``run`` of the kernel named *kernel* ("numba" or "python").

    The source is one: the module is executed once with Numba's decorator and once with none.
    """
    jitted = kernel == "numba"
    spec = importlib.util.find_spec("fabricsim.engine.kernel")
    assert isinstance(spec, ModuleSpec)
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = _jit.enabled
    _jit.enabled = jitted
    try:
        spec.loader.exec_module(module)
    finally:
        _jit.enabled = before
    run: Run = module.run
    return run
