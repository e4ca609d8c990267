"""Fabrics: what the wires are. A TOML file with a source for every number becomes the tables of a ``Network``.

The names below are loaded when first used, so that importing this package loads no library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fabricsim.fabrics.overrides import parse_overrides
    from fabricsim.fabrics.spec import FabricSpec, fabric_names, load_fabric

__all__ = ["FabricSpec", "fabric_names", "load_fabric", "parse_overrides"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from fabricsim.fabrics import overrides, spec

        return getattr(overrides if name == "parse_overrides" else spec, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
