"""What pytest and pytest-benchmark ask the benchmark for."""

from __future__ import annotations

import argparse
import os
import shutil
from typing import Any

import pytest

from bench.cases import CASES
from fabricsim.results.versions import library_versions, package_version


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names the peer."""
    parser.addoption("--peer", metavar="PATH", type=program, help="compare with this htsim_roce of csg-htsim")


def program(path: str) -> str:
    """Return the whole path of a program, since it will run in another folder."""
    found = shutil.which(path)
    if found is None:
        raise argparse.ArgumentTypeError(f"{path} is no program: give the path of an htsim_roce that was built here")
    return os.path.abspath(found)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every case, or with ``--benchmark-disable`` those of the smallest Clos."""
    if "case" in metafunc.fixturenames:
        smoke = metafunc.config.getoption("benchmark_disable")
        cases = [case for case in CASES if case.fabric == "clos72" or not smoke]
        metafunc.parametrize("case", cases, ids=str)


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Add to the JSON document the versions that the times depend on."""
    machine_info["versions"] = {"fabricsim": package_version(), **library_versions()}
