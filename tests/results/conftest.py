"""A fabric and a trace so small that an uncompiled kernel runs them at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from fabricsim.fabrics import FabricSpec
from fabricsim.workloads.trace import Trace
from tests.results import small


@pytest.fixture(scope="session")
def tiny() -> FabricSpec:
    """NVL72 cut down to 4 GPUs and 2 planes."""
    return small.tiny_fabric()


@pytest.fixture(scope="session")
def tiny_path(tiny: FabricSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a TOML file."""
    path = tmp_path_factory.mktemp("fabrics") / "tiny.toml"
    path.write_text(tiny.to_toml(), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def small_trace() -> Trace:
    """Two collectives of two ranks."""
    return small.small_trace()
