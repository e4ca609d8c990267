"""System cards: what is published of the machine around a fabric, such as racks, power and price.

A card is one TOML file in ``systems/``. Reports of one figure may disagree; a card keeps them all, each with its
source and evidence class. Nothing here enters a simulation.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib import resources
from typing import Annotated, Literal, get_args

from pydantic import Field

from fabricsim.fabrics.spec import Evidence, FabricSpec, Name, Table, Text, load_fabric

_FOLDER = resources.files("fabricsim.fabrics") / "systems"


#: Units stand in the names; MUSD is a million US dollars, an accelerator an NPU or a GPU.
FigureName = Literal[
    "accelerators",
    "cpus",
    "racks",
    "bf16_PFLOPS",
    "accelerator_bf16_TFLOPS",
    "accelerator_memory_GB",
    "accelerator_memory_TBps",
    "power_kW",
    "price_MUSD",
]
FIGURES: tuple[FigureName, ...] = get_args(FigureName)
#: The same in words, in the order in which tables have them.
FIGURE_LABELS: dict[FigureName, str] = {
    "accelerators": "accelerators",
    "cpus": "CPUs",
    "racks": "racks",
    "bf16_PFLOPS": "BF16 (PFLOPS)",
    "accelerator_bf16_TFLOPS": "BF16 per accelerator (TFLOPS)",
    "accelerator_memory_GB": "memory per accelerator (GB)",
    "accelerator_memory_TBps": "memory per accelerator (TB/s)",
    "power_kW": "power (kW)",
    "price_MUSD": "price (million USD)",
}


class Report(Table):
    """A figure as somebody gave it, in the unit of its name; ``press``: a news article says so."""

    value: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    source: Text
    evidence: Evidence | Literal["press"]
    note: Text | None = None


class Claim(Table):
    """What is said of the machine in words."""

    about: Text
    text: Text
    source: Text
    evidence: Evidence | Literal["press"]
    note: Text | None = None


class SystemCard(Table):
    """A machine as it is published; a figure that ``figures`` lacks is not.

    ``fabrics`` names the fabrics of the catalog that describe this machine.
    """

    format: Literal["fabricsim.system/1"]
    title: Text
    fabrics: Annotated[tuple[Name, ...], Field(strict=False, min_length=1)]
    figures: dict[FigureName, Annotated[tuple[Report, ...], Field(strict=False, min_length=1)]]
    claims: Annotated[tuple[Claim, ...], Field(strict=False)] = ()


def system_cards() -> Iterator[SystemCard]:
    """Read the cards of the package, sorted by file name."""
    for entry in sorted(_FOLDER.iterdir(), key=lambda entry: entry.name):
        yield SystemCard.model_validate(tomllib.loads(entry.read_text("utf-8")))


def card_of(fabric: FabricSpec) -> SystemCard | None:
    """Give the card of the machine that a fabric of the catalog describes.

    ``None`` for a fabric without a card. One whose numbers were changed is not the machine any more, whatever its name.
    """
    for card in system_cards():
        if fabric.name in card.fabrics and load_fabric(fabric.name).spec_sha256 == fabric.spec_sha256:
            return card
    return None
