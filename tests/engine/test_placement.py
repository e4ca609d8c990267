from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fabricsim.engine.placement import Placement, placement_name, terminal_of_rank
from fabricsim.errors import ConfigError


def place(
    placement: Placement | None, ranks: int = 3, terminals: int = 8, recorded: Sequence[int] | None = None
) -> list[int]:
    """Place ranks on a fabric called f."""
    terminal = terminal_of_rank(placement, num_ranks=ranks, num_terminals=terminals, fabric="f", recorded=recorded)
    assert terminal.dtype == np.int32
    return terminal.tolist()


def test_linear_puts_rank_r_at_terminal_r() -> None:
    """The default."""
    assert place("linear") == [0, 1, 2]


def test_scatter_spreads_ranks_evenly() -> None:
    """Rank r of 3 sits at terminal floor(8 r / 3)."""
    assert place("scatter") == [0, 2, 5]


def test_explicit_terminals_are_taken() -> None:
    """A sequence says where each rank sits."""
    assert place([7, 0, 3]) == [7, 0, 3]


def test_a_recorded_placement_counts_unless_another_is_asked_for() -> None:
    """None is the recorded one; linear, asked for, is linear; without either it is linear too."""
    assert place(None, recorded=(5, 0, 2)) == [5, 0, 2]
    assert place("linear", recorded=(5, 0, 2)) == [0, 1, 2]
    assert place([1, 2, 3], recorded=(5, 0, 2)) == [1, 2, 3]
    assert place(None) == [0, 1, 2]


def test_every_placement_has_a_name() -> None:
    """What was asked for, or what stands in its place."""
    assert placement_name(None, None) == placement_name("linear", (5, 0)) == "linear"
    assert placement_name(None, (5, 0)) == "recorded"
    assert placement_name([0, 1], (5, 0)) == "explicit"
    assert placement_name(Path("a") / "b", None) == os.path.join("a", "b")


@pytest.mark.parametrize(
    ("recorded", "words"),
    [
        ((0, 1, 8), r"fabricsim\.placement\[2\]: there is no terminal 8 on f; terminals are 0 to 7, or choose another"),
        ((0, 1, 0), r"fabricsim\.placement\[2\]: terminal 0 is already taken by .*placement\[0\]; .* such as linear"),
    ],
)
def test_a_recorded_placement_that_does_not_fit_is_refused(recorded: tuple[int, ...], words: str) -> None:
    """Key and rank are named, and that another placement may be asked for."""
    with pytest.raises(ConfigError, match=words):
        place(None, recorded=recorded)


def test_a_file_has_one_terminal_per_line(tmp_path: Path) -> None:
    """Line = rank; the last line may lack its end."""
    file = tmp_path / "placement.txt"
    file.write_text("7\n 0\n3")
    assert place(str(file)) == [7, 0, 3]
    assert place(file) == [7, 0, 3]


def test_more_ranks_than_terminals_are_refused() -> None:
    """Both numbers and the remedy are named."""
    with pytest.raises(ConfigError, match="9 ranks do not fit on f, which has 8 terminals; use at most 8 ranks"):
        place("linear", ranks=9)


def test_a_scatter_that_is_linear_is_refused() -> None:
    """With a rank on every terminal nothing is spread."""
    with pytest.raises(ConfigError, match="scatter has no effect"):
        place("scatter", ranks=8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("7\nx\n3\n", "line 2: 'x' is not a terminal index"),
        ("7\n\n3\n", "line 2: '' is not a terminal index"),
        ("7\n-1\n3\n", "line 2: '-1' is not a terminal index"),
        ("7\n0\n8\n", "line 3: there is no terminal 8 on f; terminals are 0 to 7"),
        ("7\n0\n7\n", "line 3: terminal 7 is already taken by placement file .*, line 1"),
        ("7\n0\n", "places 2 ranks, but the workload has 3"),
        ("7\n0\n1\n2\n", "places 4 ranks, but the workload has 3"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, words: str) -> None:
    """Every fault of a placement file names the file and the line or the numbers."""
    file = tmp_path / "placement.txt"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        place(str(file))
    assert "placement.txt" in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file, a misspelt scheme and bytes that are no text."""
    with pytest.raises(ConfigError, match=r"scater.*No such file.*linear, scatter or a file"):
        place("scater")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not text"):
        place(binary)
