"""The compiled kernels as parameters of tests; ``NUMBA_DISABLE_JIT=1`` leaves out what takes Numba's."""

from __future__ import annotations

import numba
import pytest

from fabricsim.engine import backends

needs_numba = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT: Numba's kernel is not compiled"
)
needs_c = pytest.mark.skipif(backends.c_problem() is not None, reason=f"the C kernel is {backends.c_problem()}")

NUMBA = pytest.param("numba", marks=needs_numba)
C = pytest.param("c", marks=needs_c)

#: Those that can run here.
COMPILED = tuple(
    kernel.name
    for kernel in backends.available()
    if kernel.usable and not (kernel.name == "python" or (kernel.name == "numba" and numba.config.DISABLE_JIT))
)
