"""JSON documents: of several runs, of fabrics, of traces. A single run's own document is ``Result.summary``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fabricsim.fabrics import FabricSpec, fabric_names, load_fabric
from fabricsim.fabrics.system_cards import FIGURES, Report, SystemCard, card_of

if TYPE_CHECKING:
    from fabricsim.results.estimate import Estimate
    from fabricsim.results.result import Result
    from fabricsim.workloads.trace import Trace

FABRICS_SCHEMA = "fabricsim.fabrics/1"
FABRIC_SCHEMA = "fabricsim.fabric_quantities/1"
TRACE_SCHEMA = "fabricsim.trace_summary/1"


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """Write a document as it stands in a file; a number that JSON does not know is a defect."""
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()


def joint_document(documents: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Give the only one of the documents as it is, or one of all of them, each whole."""
    return documents[0] if len(documents) == 1 else {"results": documents}


def runs_document(results: Sequence[Result | Estimate | Mapping[str, Any]], *, command: str) -> Mapping[str, Any]:
    """Give the summary of one result or estimate, or a document of several, each whole; some may be summaries."""
    return joint_document(
        [result if isinstance(result, Mapping) else result.summary(command=command) for result in results]
    )


def trace_document(trace: Trace) -> dict[str, Any]:
    """Say what a trace holds; the keys are those of ``fabricsim.workloads.trace.summary``."""
    from fabricsim.workloads.trace import summary  # here, because it imports pyarrow

    return {"schema": TRACE_SCHEMA, **summary(trace)}


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
    """List a fabric's settings, and every number with its value, unit, evidence class and source; and its card."""
    card = card_of(spec)
    return {
        "schema": FABRIC_SCHEMA,
        "name": spec.name,
        "title": spec.title,
        "terminals": spec.num_terminals,
        "description": spec.description,
        "spec_sha256": spec.spec_sha256,
        "settings": spec.settings(),
        "quantities": [dataclasses.asdict(row) for row in spec.quantities()],
        "card": None if card is None else card_document(card),
    }


def card_document(card: SystemCard) -> dict[str, Any]:
    """Give what a system card says: every figure, ``None`` where nobody published it, and the claims in words."""
    return {
        "title": card.title,
        "figures": {name: figure_document(card.figures.get(name)) for name in FIGURES},
        "claims": [claim.model_dump() for claim in card.claims],
    }


def figure_document(reports: Sequence[Report] | None) -> dict[str, Any] | None:
    """Give what is reported of one figure: the smallest, the largest, and all."""
    if reports is None:
        return None
    values = [report.value for report in reports]
    return {"low": min(values), "high": max(values), "reports": [report.model_dump() for report in reports]}
