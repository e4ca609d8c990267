"""What all tests share: hypothesis profiles, one folder for compiled kernels, the recordings beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# No deadline in either: a loaded machine is not a failure. Under CI the same examples every time, so that a red
# run is the submission's doing; elsewhere new ones, which are remembered in .hypothesis when they fail.
settings.register_profile("dev", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that rewrites committed results."""
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden with the results of this run")


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled kernels in pytest's cache folder.

    They are then compiled once for the session and its subprocesses and found again by the next session, even where
    there is no home folder to write to. ``pytest --cache-clear`` compiles them anew.
    """
    os.environ.setdefault("NUMBA_CACHE_DIR", str(config.cache.mkdir("numba")))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of recordings and measurements that may stand beside the repository."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no folder of recordings at ../{folder.name}: it is not part of the repository")
    return folder
