from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fabricsim.fabrics import FabricSpec, fabric_names, load_fabric
from fabricsim.fabrics.system_cards import FigureName, SystemCard, card_of, system_cards

CARDS = {card.title: card for card in system_cards()}
CLOUDMATRIX, NVL72 = CARDS["Huawei CloudMatrix 384"], CARDS["NVIDIA GB200 NVL72"]


def values(card: SystemCard, name: FigureName) -> list[float]:
    """All that is reported of a figure."""
    return [report.value for report in card.figures[name]]


def value(card: SystemCard, name: FigureName) -> float:
    """The mean of what is reported, which is all that a ratio of two digits can tell."""
    found = values(card, name)
    return sum(found) / len(found)


def test_cards_are_of_the_catalog() -> None:
    """Each names fabrics of the catalog, and no fabric has two."""
    named = [name for card in CARDS.values() for name in card.fabrics]
    assert len(named) == len(set(named))
    assert set(named) <= set(fabric_names())


def test_every_figure_and_claim_has_its_provenance() -> None:
    """A source that is more than a word, and an evidence class."""
    for card in CARDS.values():
        entries = [report for reports in card.figures.values() for report in reports]
        for entry in (*entries, *card.claims):
            assert " " in entry.source.strip()
            assert entry.evidence in ("press", "vendor")


@pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.fabrics[0])
def test_figures_of_a_card_agree(card: SystemCard) -> None:
    """Accelerators times the rate of one make the rate of all; and they are those of each fabric."""
    whole = value(card, "accelerators") * value(card, "accelerator_bf16_TFLOPS") / 1_000
    assert whole == pytest.approx(value(card, "bf16_PFLOPS"), rel=0.01)
    for name in card.fabrics:
        spec = load_fabric(name)
        per_accelerator = 1 if spec.package is None else spec.package.terminals.exact
        assert values(card, "accelerators") == [spec.num_terminals / per_accelerator]


def test_ratios_are_those_that_the_press_printed() -> None:
    """1.7 times the compute, 3.6 times the memory, 2.1 times its bandwidth, 2.3 times the power per FLOP."""

    def ratio(*names: FigureName) -> float:
        of_both = [1.0, 1.0]
        for name in names:
            of_both = [product * value(card, name) for product, card in zip(of_both, (CLOUDMATRIX, NVL72), strict=True)]
        return of_both[0] / of_both[1]

    assert round(ratio("bf16_PFLOPS"), 1) == 1.7
    assert round(ratio("accelerators", "accelerator_memory_GB"), 1) == 3.6
    assert round(ratio("accelerators", "accelerator_memory_TBps"), 1) == 2.1
    assert ratio("power_kW") / ratio("bf16_PFLOPS") == pytest.approx(2.3, abs=0.1)


def test_reports_that_disagree_all_stand() -> None:
    """The two readings of the power of either machine."""
    assert values(CLOUDMATRIX, "power_kW") == [559, 560]
    assert values(NVL72, "power_kW") == [140, 145]


def test_a_card_belongs_to_the_fabric_of_the_catalog_alone() -> None:
    """A copy of its file has it, other numbers or another name have not."""
    spec = load_fabric("nvl72")
    assert card_of(spec) == NVL72
    assert card_of(FabricSpec.from_toml(spec.to_toml(), origin="copy.toml")) == NVL72
    assert card_of(spec.with_overrides({"scale_out.racks": "2"})) is None
    assert card_of(load_fabric("cloudmatrix384-mesh")) == CLOUDMATRIX
    assert card_of(load_fabric("hgx-h100")) is None


@pytest.mark.parametrize(
    "change",
    [
        {"price": 1},
        {"fabrics": []},
        {"figures": {"power_MW": [{"value": 1, "source": "a test", "evidence": "press"}]}},
        {"figures": {"power_kW": []}},
        {"figures": {"power_kW": [{"value": 0, "source": "a test", "evidence": "press"}]}},
        {"figures": {"power_kW": [{"value": float("inf"), "source": "a test", "evidence": "press"}]}},
        {"figures": {"power_kW": [{"value": "1 kW", "source": "a test", "evidence": "press"}]}},
        {"figures": {"power_kW": [{"value": 1, "evidence": "press"}]}},
        {"figures": {"power_kW": [{"value": 1, "source": "a test", "evidence": "hearsay"}]}},
    ],
)
def test_a_card_is_strict(change: dict[str, Any]) -> None:
    """Unknown keys, figures without a value above zero, without a source or an evidence class are refused."""
    card = NVL72.model_dump()
    assert SystemCard.model_validate(card) == NVL72
    with pytest.raises(ValidationError):
        SystemCard.model_validate(card | change)
