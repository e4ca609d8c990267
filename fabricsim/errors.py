"""What can go wrong, one class per exit code of the command line."""

from __future__ import annotations


class FabricsimError(Exception):
    """Root of all errors that fabricsim raises on purpose; never raised itself.

    The message names the cause and the remedy; the command line prints it without
    a traceback and ends with ``exit_code``.
    """

    exit_code = 1


class ConfigError(FabricsimError):
    """Usage or configuration: unknown name, bad unit, too many ranks, missing file."""

    exit_code = 2


class TraceError(FabricsimError):
    """A trace, schedule or other data that cannot be run; found before the run."""

    exit_code = 3


class StallError(FabricsimError):
    """Nothing is left to do and messages are undelivered."""

    exit_code = 4


class SelfCheckError(FabricsimError):
    """A result contradicts physics or an invariant: a defect of fabricsim, not of the input."""

    exit_code = 5


class InterruptedRunError(FabricsimError):
    """A run was ended by a signal; ``exit_code`` is 130 (SIGINT) or 143 (SIGTERM)."""

    exit_code = 130
