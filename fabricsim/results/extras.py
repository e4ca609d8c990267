"""Libraries that only some commands need, and that are installed with an extra of the package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fabricsim.errors import ConfigError


@contextmanager
def needed_from(extra: str, what: str) -> Iterator[None]:
    """Let what is inside import libraries of an extra; a missing one is a ConfigError that says how to get it.

    *what* needs them, for instance ``"the report"``.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{what} needs {error.name}, which is not installed; get it with: pip install 'fabricsim[{extra}]'"
        ) from None
