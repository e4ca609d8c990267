from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabricsim.errors import ConfigError
from fabricsim.fabrics import fabric_names, load_fabric, parse_overrides

NVL72 = load_fabric("nvl72")


def test_an_override_is_the_users() -> None:
    """The number changes, and says who set it; the others, and the fabric itself, stay as they are."""
    changed = NVL72.with_overrides({"link.gpu-nvswitch.bandwidth": "25 GB/s", "topology.planes": "9"})
    assert dict(changed.overrides) == {"link.gpu-nvswitch.bandwidth": "25 GB/s", "topology.planes": "9"}
    rows = {row.key: row for row in changed.quantities()}
    before = {row.key: row for row in NVL72.quantities()}
    row = rows["link.gpu-nvswitch.bandwidth"]
    assert (row.value, row.unit, row.evidence, row.source, row.note) == (
        "25",
        "GB/s",
        "assumed",
        "set by the user",
        None,
    )
    assert rows["topology.planes"].value == "9"
    assert {key for key in rows if rows[key] != before[key]} == set(changed.overrides)
    assert changed.spec_sha256 != NVL72.spec_sha256
    assert NVL72.overrides == {}
    assert changed.network().num_planes == 9
    assert NVL72.with_overrides({}) is NVL72


def test_overrides_add_up_and_can_be_undone() -> None:
    """What is set later joins what was set before; undone are they one by one, back to the file's numbers."""
    both = NVL72.with_overrides({"terminal.slots": "4"}).with_overrides({"topology.planes": "9"})
    assert dict(both.overrides) == {"terminal.slots": "4", "topology.planes": "9"}
    assert dict(both.without_override("terminal.slots").overrides) == {"topology.planes": "9"}
    assert both.without_override("terminal.slots").without_override("topology.planes") == NVL72


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (
            "link.bandwidth",
            "25 GB/s",
            r"'link.bandwidth' \(did you mean 'link.gpu-nvswitch.bandwidth' or 'link.gpu-rail",
        ),
        ("terminal.slot", "4", r"no quantity 'terminal.slot' \(did you mean 'terminal.slots'\?\)"),
        ("terminal.slots", "16", "terminal.slots=16 has no effect, that is its value"),
        ("link.gpu-nvswitch.bandwidth", "50000 MB/s", "has no effect, that is its value"),
        ("terminal.slots", "4 kB", "terminal.slots=4 kB: it counts things"),
        ("terminal.slots", "0", "terminal.slots.value: found 0"),
        ("link.gpu-nvswitch.bandwidth", "25", "'25' has no unit; write one of 25 B/s"),
        ("link.gpu-nvswitch.buffer", "10 B", "nvl72 with link.gpu-nvswitch.buffer=10 B: .*288 B or more"),
        ("terminal.copy_rate", "400 Gb/s", "did you mean 400 GB/s"),
    ],
)
def test_overrides_that_cannot_be_are_refused(key: str, value: str, words: str) -> None:
    """An unknown key is answered with those like it, a value as it would be in a file."""
    with pytest.raises(ConfigError, match=words):
        NVL72.with_overrides({key: value})


@pytest.mark.parametrize("name", fabric_names())
def test_every_quantity_can_be_set(name: str) -> None:
    """Each key that is listed can be set, and to the value that it has it cannot."""
    spec = load_fabric(name)
    for row in spec.quantities():
        own = row.value if row.unit == "count" or row.value == "unlimited" else f"{row.value} {row.unit}"
        with pytest.raises(ConfigError, match="that is its value"):
            spec.with_overrides({row.key: own})


@given(st.dictionaries(st.text("abc.-", min_size=1), st.text("01 GB/s=", min_size=1).map(str.strip).filter(bool)))
def test_texts_are_read_as_written(overrides: dict[str, str]) -> None:
    """KEY=VALUE comes apart at its first sign of equality."""
    assert parse_overrides(f" {key} = {value}" for key, value in overrides.items()) == overrides


@pytest.mark.parametrize("texts", [["a"], ["=1"], ["a="], ["a=1", "a=2"]])
def test_other_texts_are_refused(texts: list[str]) -> None:
    """A key and a value, once."""
    with pytest.raises(ConfigError, match=r"is not KEY=VALUE|given twice"):
        parse_overrides(texts)
