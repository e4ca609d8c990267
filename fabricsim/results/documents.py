"""JSON documents that are not about a run: fabrics. A run's own document is ``Result.summary``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from fabricsim.fabrics import FabricSpec, fabric_names, load_fabric
from fabricsim.results.result import Result

FABRICS_SCHEMA = "fabricsim.fabrics/1"
FABRIC_SCHEMA = "fabricsim.fabric_quantities/1"


def runs_document(results: Sequence[Result], *, command: str) -> dict[str, Any]:
    """Give the summary of one result, or a document of several, each whole."""
    summaries = [result.summary(command=command) for result in results]
    return summaries[0] if len(summaries) == 1 else {"results": summaries}


def fabrics_document() -> dict[str, Any]:
    """List the catalog: name, title, number of terminals and description of every fabric."""
    specs = [load_fabric(name) for name in fabric_names()]
    return {
        "schema": FABRICS_SCHEMA,
        "fabrics": [
            {
                "name": spec.name,
                "title": spec.title,
                "terminals": spec.num_terminals,
                "description": spec.description,
                "spec_sha256": spec.spec_sha256,
            }
            for spec in specs
        ],
    }


def fabric_document(spec: FabricSpec) -> dict[str, Any]:
    """List every number of a fabric with its value, unit, evidence class and source."""
    return {
        "schema": FABRIC_SCHEMA,
        "name": spec.name,
        "title": spec.title,
        "terminals": spec.num_terminals,
        "description": spec.description,
        "spec_sha256": spec.spec_sha256,
        "quantities": [dataclasses.asdict(row) for row in spec.quantities()],
    }
