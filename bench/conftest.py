"""What pytest and pytest-benchmark ask the benchmark for."""

from __future__ import annotations

from typing import Any

import pytest

from bench.cases import CASES
from fabricsim.results.versions import library_versions, package_version


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every case, or with ``--benchmark-disable`` those of the smallest Clos."""
    if "case" in metafunc.fixturenames:
        smoke = metafunc.config.getoption("benchmark_disable")
        cases = [case for case in CASES if case.fabric == "clos72" or not smoke]
        metafunc.parametrize("case", cases, ids=str)


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Add to the JSON document the versions that the times depend on."""
    machine_info["versions"] = {"fabricsim": package_version(), **library_versions()}
