from __future__ import annotations

from pathlib import Path

import pytest

from fabricsim.campaigns.study import read_study
from fabricsim.errors import ConfigError
from tests.campaigns.plans import AXES, CASES, HEAD, write_study

ROOT = Path(__file__).resolve().parents[2]


def points(tmp_path: Path, text: str) -> list[dict[str, object]]:
    """The points of a study of this text."""
    return read_study(write_study(tmp_path, text)).points("study.toml")


def test_cases_are_all_combinations_in_the_order_of_the_axes(tmp_path: Path) -> None:
    """The last axis changes fastest; what is left out has one value, and a single value needs no list."""
    found = points(tmp_path, HEAD + AXES)
    assert len(found) == CASES
    order = [(point["collective"], point["size"], point["seed"]) for point in found]
    assert order[:4] == [
        ("all_to_all", "1KiB", 1),
        ("all_to_all", "1KiB", 2),
        ("all_to_all", "1KiB", 3),
        ("all_to_all", "4KiB", 1),
    ]
    assert {(point["fabric"], point["ranks"], point["fault"]) for point in found} == {("tiny.toml", "default", ())}


def test_settings_and_faults_are_axes(tmp_path: Path) -> None:
    """A count needs no quotes; a case may have no fault, one, or several at once."""
    faults = 'fault = ["none", "plane:1", ["slow_rank:0=2", "slow_rank:1=2"]]\n'
    found = points(tmp_path, HEAD + AXES + faults + '[axes.set]\n"terminal.slots" = ["default", 1]\n')
    assert len(found) == 6 * CASES
    assert [point["fault"] for point in found[:18:6]] == [(), ("plane:1",), ("slow_rank:0=2", "slow_rank:1=2")]
    assert [point["set.terminal.slots"] for point in found[:2]] == ["default", "1"]


def test_filters_leave_combinations_out(tmp_path: Path) -> None:
    """An entry of exclude takes a value or several of each axis that it names, and leaves out what agrees with all."""
    text = (
        HEAD + 'exclude = [{ size = "4KiB", seed = [2, 3] }, { fault = "plane:1", collective = "all_gather" }]\n' + AXES
    )
    assert len(points(tmp_path, HEAD + "exclude = { seed = 1 }\n" + AXES)) == CASES * 2 // 3  # one without a list
    found = points(tmp_path, text + 'fault = ["none", "plane:1"]\n')
    left = {(point["collective"], point["size"], point["seed"], point["fault"]) for point in found}
    assert len(found) == len(left) == 2 * CASES - 8 - 4
    assert not any(size == "4KiB" and seed in (2, 3) for _, size, seed, _ in left)
    assert not any(fault == ("plane:1",) and op == "all_gather" for op, _, _, fault in left)


def test_replicas_are_seeds(tmp_path: Path) -> None:
    """Each combination comes with so many seeds, from that of the axis on."""
    found = points(tmp_path, HEAD + "replicas = 3\n" + AXES.replace("[1, 2, 3]", "7"))
    assert [point["seed"] for point in found] == [7, 8, 9] * 4


def test_the_example_has_60_cases() -> None:
    """docs/examples/study.toml is what the documents say."""
    path = ROOT / "docs" / "examples" / "study.toml"
    assert len(read_study(path).points(str(path))) == 60


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + AXES + "sizes = 1\n", r"study.toml: axes.sizes: unknown key 'sizes' \(did you mean 'size'\?\)"),
        (HEAD + "replica = 2\n" + AXES, r"study.toml: replica: unknown key 'replica' \(did you mean 'replicas'\?\)"),
        (AXES, r"study.toml: 2 faults:\n  format: is missing; add it\n  title: is missing; add it"),
        (HEAD + AXES.replace('"tiny.toml"', "[]"), r"axes.fabric: an empty list; write one value or more"),
        (HEAD + AXES.replace("[1, 2, 3]", "[]"), r"study.toml: axes.seed: an empty list; write one value or more$"),
        (HEAD + AXES.replace("[1, 2, 3]", '["1"]'), r"study.toml: axes.seed.0: found '1'; input should be a valid int"),
        (
            HEAD + "exclude = 3\n" + AXES,
            r"study.toml: exclude: found 3; write tables of axes and values, as in \[\{ fab",
        ),
        (HEAD + AXES.replace("[1, 2, 3]", "[1, 1]"), r"axes.seed: has 1 twice; name it once"),
        (HEAD + AXES + "ranks = 0\n", r"axes.ranks.0: found 0; write a whole number of at least 1, or 'default'"),
        (HEAD + AXES + 'skew = "much"\n', r"axes.skew.0: found 'much'; write a number of at least 0, or 'default'"),
        (HEAD + AXES + "fault = [[]]\n", r"axes.fault.0: an empty list; write 'none' where nothing is broken"),
        (HEAD + "replicas = 2\n" + AXES, r"replicas: are the seeds from that of the axis on; give the axis one seed"),
        (HEAD + "exclude = [{}]\n" + AXES, r"study.toml: exclude\[0\]: names no axis; name one or more"),
        (HEAD + "exclude = [{ sise = 1 }]\n" + AXES, r"exclude\[0\]: unknown axis 'sise' \(did you mean 'size'\?\)"),
        (HEAD + "exclude = [{ tokens = 1 }]\n" + AXES, r"exclude\[0\]: unknown axis 'tokens'"),
        (
            HEAD + 'exclude = [{ size = "1kiB" }]\n' + AXES,
            r"exclude\[0\].size: unknown value of the axis '1kiB' \(did you mean '1KiB'\?\)",
        ),
        (
            HEAD + "exclude = [{ seed = 1 }, { seed = 1, size = '1KiB' }, { seed = [] }]\n" + AXES,
            r"exclude\[2\]: leaves no case out; mend it, or drop it",
        ),
        (HEAD + "exclude = [{ seed = [1, 2, 3] }]\n" + AXES, r"exclude: leaves no case at all; drop some of it"),
        (HEAD + "[axes\n", r"study.toml: not valid TOML: .*; mend that line"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    """File, key, finding and remedy; all faults of a file at once."""
    with pytest.raises(ConfigError, match=message):
        points(tmp_path, text)


def test_a_study_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file, and one of another encoding."""
    with pytest.raises(ConfigError, match=r"no.toml: cannot read this study: No such file or directory; give the path"):
        read_study(tmp_path / "no.toml")
    path = tmp_path / "latin.toml"
    path.write_bytes('title = "\xe9"'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin.toml: not UTF-8 at byte 9; save the file as UTF-8"):
        read_study(path)
