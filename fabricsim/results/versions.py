"""Which versions made a result, without importing what they are versions of."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata


def package_version() -> str:
    """Version of the installed package, the one source; a source tree that is not installed has none."""
    return _version("fabricsim")


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a result could depend on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in ("numpy", "numba", "pyarrow")}}


@cache  # looked up in files, which takes as long as a tiny run
def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
