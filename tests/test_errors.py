from __future__ import annotations

import pytest

from fabricsim.errors import nearest, unknown


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("nvl27", ["cloudmatrix384", "nvl72"], " (did you mean 'nvl72'?)"),
        ("NVL72", ["cloudmatrix384", "nvl72"], " (did you mean 'nvl72'?)"),
        ("mib", ["KiB", "MiB"], " (did you mean 'MiB'?)"),
        ("torus", ["cloudmatrix384", "nvl72"], ""),
        ("torus", [], ""),
    ],
)
def test_the_nearest_name_is_offered_if_one_is_near(name: str, known: list[str], hint: str) -> None:
    """Capitals do not count, and what resembles nothing gets no hint."""
    assert nearest(name, known) == hint


def test_an_unknown_name_is_answered_with_all_known_ones() -> None:
    """What kind of name it is, the nearest one, then all, in the order given."""
    assert (
        unknown("mode", "record", ["recorded", "b"])
        == "unknown mode 'record' (did you mean 'recorded'?); known: recorded, b"
    )
    assert unknown("key", "x", iter(())) == "unknown key 'x'; known: none"
