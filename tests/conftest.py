"""What all tests share: profiles, the kernel under test, a folder for compiled kernels, the recordings nearby."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from fabricsim.engine import backends

ROOT = Path(__file__).resolve().parents[1]

# No deadline in either: a loaded machine is not a failure. Under CI the same examples every time, so that a red
# run is the submission's doing; elsewhere new ones, which are remembered in .hypothesis when they fail.
settings.register_profile("dev", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that says which kernel is under test, and the one that rewrites committed results."""
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden with the results of this run")
    parser.addoption(
        "--kernel",
        dest="kernel_under_test",
        choices=("c", "numba"),
        help="the kernel of every test that names none (default: the one that --kernel auto of fabricsim takes)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled kernels in pytest's cache folder, and refuse a kernel that cannot run.

    They are then compiled once for the session and its subprocesses and found again by the next session, even where
    there is no home folder to write to. ``pytest --cache-clear`` compiles them anew.
    """
    os.environ.setdefault("NUMBA_CACHE_DIR", str(config.cache.mkdir("numba")))
    problem = backends.c_problem()
    if config.getoption("kernel_under_test") == "c" and problem is not None:
        raise pytest.UsageError(f"--kernel c: the C kernel is {problem}")


def pytest_report_header(config: pytest.Config) -> str:
    """Say which kernel runs where a test names none."""
    return f"kernel: {config.getoption('kernel_under_test') or backends.choose('auto')[0]}"


@pytest.fixture(scope="session", autouse=True)
def _kernel_under_test(pytestconfig: pytest.Config) -> Iterator[None]:
    """Let "auto" stand for the kernel under test, in this process."""
    kernel, choose = pytestconfig.getoption("kernel_under_test"), backends.choose
    with pytest.MonkeyPatch.context() as patch:
        if kernel is not None:
            named = (kernel, "auto: pytest --kernel")
            patch.setattr(backends, "choose", lambda asked: named if asked == "auto" else choose(asked))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of recordings and measurements that may stand beside the repository."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no folder of recordings at ../{folder.name}: it is not part of the repository")
    return folder
