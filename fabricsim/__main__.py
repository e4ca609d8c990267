"""``fabricsim`` and ``python -m fabricsim``: the command line as a process of its own."""

from __future__ import annotations

import sys

from fabricsim.results.signals import hold


def run() -> int:
    """Run the command of this process and return its exit code."""
    hold()
    from fabricsim.cli import main  # no signal ends the process while that is loaded

    return main()


if __name__ == "__main__":
    sys.exit(run())
