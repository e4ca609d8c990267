"""What can go wrong, one class per exit code of the command line, and how a wrong name is answered."""

from __future__ import annotations

from collections.abc import Iterable


class FabricsimError(Exception):
    """Root of all errors that fabricsim raises on purpose; never raised itself.

    The message names the cause and the remedy; the command line prints it without
    a traceback and ends with ``exit_code``.
    """

    exit_code = 1


class ConfigError(FabricsimError):
    """Usage or configuration: unknown name, bad unit, too many ranks, missing file."""

    exit_code = 2


class UnreachableError(ConfigError):
    """Faults leave no way between two terminals that the run needs; ``pair`` are their names."""

    def __init__(self, message: str, pair: tuple[str, str]) -> None:
        super().__init__(message)
        self.pair = pair


class TraceError(FabricsimError):
    """A trace, schedule or other data that cannot be run; found before the run."""

    exit_code = 3


class IncompleteError(FabricsimError):
    """A campaign of which some cases have no valid result."""

    exit_code = 3


class StallError(FabricsimError):
    """Nothing is left to do and messages are undelivered."""

    exit_code = 4


class SelfCheckError(FabricsimError):
    """A result contradicts physics or an invariant: a defect of fabricsim, not of the input."""

    exit_code = 5


class CheckpointedError(FabricsimError):
    """A run was interrupted and can go on later, from its checkpoint where one was written."""

    exit_code = 75


class InterruptedRunError(FabricsimError):
    """A command was terminated (SIGTERM); Ctrl-C stays a KeyboardInterrupt."""

    exit_code = 143


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the known name that is most like *name*, capitals aside; empty if none is."""
    from difflib import get_close_matches  # only where something is wrong already, so that a start does not pay for it

    by_lower = {item.lower(): item for item in known}
    match = get_close_matches(name.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[match[0]]!r}?)" if match else ""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Answer a name that is none of *known*: ``unknown mode 'record' (did you mean 'recorded'?); known: recorded``."""
    names = list(known)
    return f"unknown {what} {name!r}{nearest(name, names)}; known: {', '.join(names) or 'none'}"
