"""fabricsim: a packet-level traffic simulator of AI supernodes.

>>> import fabricsim as fs
>>> fabric = fs.load_fabric("nvl72")
>>> result = fs.simulate(fabric, fs.collective("all_to_all", size="64MiB", ranks=72))
>>> result.ops, result.channels, result.summary(), result.digest  # doctest: +SKIP

The names below are loaded when first used, so that importing the package loads no library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fabricsim.errors import (
    CheckpointedError,
    ConfigError,
    FabricsimError,
    InterruptedRunError,
    SelfCheckError,
    StallError,
    TraceError,
)

if TYPE_CHECKING:
    from fabricsim.fabrics import FabricSpec, fabric_names, load_fabric
    from fabricsim.fabrics.faults import Fault
    from fabricsim.results.checkpoint import Checkpoint
    from fabricsim.results.compare import compare
    from fabricsim.results.report import write_report
    from fabricsim.results.result import Result
    from fabricsim.results.run import replay, simulate
    from fabricsim.results.snapshot import Snapshots
    from fabricsim.results.systems import compare_fabrics
    from fabricsim.workloads.collectives import collective
    from fabricsim.workloads.trace import Trace

    __version__: str

__all__ = [
    "Checkpoint",
    "CheckpointedError",
    "ConfigError",
    "FabricSpec",
    "FabricsimError",
    "Fault",
    "InterruptedRunError",
    "Result",
    "SelfCheckError",
    "Snapshots",
    "StallError",
    "Trace",
    "TraceError",
    "__version__",
    "collective",
    "compare",
    "compare_fabrics",
    "fabric_names",
    "load_fabric",
    "replay",
    "simulate",
    "write_report",
]

_HOMES = {
    "Checkpoint": "fabricsim.results.checkpoint",
    "FabricSpec": "fabricsim.fabrics",
    "Fault": "fabricsim.fabrics.faults",
    "Result": "fabricsim.results.result",
    "Snapshots": "fabricsim.results.snapshot",
    "Trace": "fabricsim.workloads.trace",
    "collective": "fabricsim.workloads.collectives",
    "compare": "fabricsim.results.compare",
    "compare_fabrics": "fabricsim.results.systems",
    "fabric_names": "fabricsim.fabrics",
    "load_fabric": "fabricsim.fabrics",
    "replay": "fabricsim.results.run",
    "simulate": "fabricsim.results.run",
    "write_report": "fabricsim.results.report",
}


def __getattr__(name: str) -> Any:
    value: Any
    if name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(_HOMES[name]), name)
    elif name == "__version__":
        from fabricsim.results.versions import package_version

        value = package_version()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
