"""Fabrics side by side: published figures of the machines beside a simulated all-to-all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fabricsim as fs
from fabricsim.cli import main
from fabricsim.errors import ConfigError
from fabricsim.results.systems import KUSD_PER_MUSD

SIZE = "64KiB"


@pytest.fixture(autouse=True)
def _plain_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables 80 columns wide, whatever the terminal of the test run."""
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """NVL72, which has a card, and HGX H100, which has none."""
    return fs.compare_fabrics(["nvl72", "hgx-h100"], size=SIZE)


def two_nodes_of_dies() -> fs.FabricSpec:
    """CloudMatrix by dies, cut down to 2 nodes of 2 NPUs in 2 planes."""
    tables: dict[str, Any] = fs.load_fabric("cloudmatrix384-die").model_dump(exclude_none=True)
    tables["topology"]["planes"]["value"] = 2
    tables["tier"]["l1"]["children"]["value"] = 4
    tables["tier"]["l2"] |= {name: tables["tier"]["l2"][name] | {"value": 2} for name in ("children", "parents")}
    return fs.FabricSpec(**tables)


def test_figures_follow_from_the_run_and_the_card(document: dict[str, Any]) -> None:
    """The bus bandwidth is that of simulate(); that of all ranks is divided by racks, kW and thousands of dollars."""
    nvl72 = document["systems"][0]
    result = fs.simulate("nvl72", fs.collective("all_to_all", size=SIZE, ranks=72))
    (row,) = result.op_rows()
    simulated, figures = nvl72["simulated"], nvl72["card"]["figures"]
    assert simulated["digest"] == result.digest
    assert simulated["time_us"] == row["time_ps"] / 1e6
    assert (simulated["size_bytes"], simulated["efficiency"]) == (row["size_bytes"], row["efficiency"])
    assert simulated["busbw_GBps"] == simulated["GBps_per_accelerator"] == row["busbw_GBps"]
    total = simulated["total_GBps"]
    # 71 of 72 parts of every rank's buffer go to others.
    assert total == pytest.approx(72 * row["size_bytes"] * 71 / 72 / row["time_ps"] * 1e3)
    assert simulated["GBps_per_rack"] == {"low": total, "high": total}
    assert (figures["power_kW"]["low"], figures["power_kW"]["high"]) == (140, 145)
    assert simulated["GBps_per_kW"] == pytest.approx({"low": total / 145, "high": total / 140})
    assert simulated["GBps_per_kUSD"] == pytest.approx({"low": total / 3_000, "high": total / 3_000})
    assert KUSD_PER_MUSD == 1e6 / 1e3


def test_a_fabric_without_a_card_has_its_simulated_figures(document: dict[str, Any]) -> None:
    """What would need the card is null."""
    hgx = document["systems"][1]
    assert (hgx["fabric"], hgx["card"]) == ("hgx-h100", None)
    simulated = hgx["simulated"]
    assert simulated["total_GBps"] == pytest.approx(8 * simulated["busbw_GBps"])
    assert [simulated[f"GBps_per_{what}"] for what in ("rack", "kW", "kUSD")] == [None] * 3


def test_a_package_is_an_accelerator() -> None:
    """Two dies are one NPU; other fabrics count terminals. Numbers other than the catalog's have no card."""
    tiny, dies = fs.compare_fabrics([fs.load_fabric("hgx-h100"), two_nodes_of_dies()], size=SIZE)["systems"]
    assert dies["terminals"] == 8
    for entry, terminals in ((tiny, 1), (dies, 2)):
        simulated = entry["simulated"]
        assert simulated["GBps_per_accelerator"] == pytest.approx(terminals * simulated["busbw_GBps"])
        assert entry["card"] is None


def test_the_kernel_changes_nothing_but_its_name(tiny: fs.FabricSpec) -> None:
    """Nor does the number of threads. The size that was asked for is there beside the one that was run."""
    other = tiny.with_overrides({"link.gpu-nvswitch.bandwidth": "25 GB/s"})
    seen: list[tuple[int, int]] = []
    auto = fs.compare_fabrics([tiny, other], size="10000B", progress=lambda *done: seen.append(done))
    python = fs.compare_fabrics([tiny, other], size="10000B", kernel="python", threads=1)
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert auto["asked_size_bytes"] == 10_000
    assert auto["systems"][0]["simulated"]["size_bytes"] == 9_984
    assert auto["systems"][1]["overrides"] == {"link.gpu-nvswitch.bandwidth": "25 GB/s"}
    for document in (auto, python):
        for entry in document["systems"]:
            del entry["simulated"]["kernel"]
    assert auto == python


@pytest.mark.parametrize(
    ("fabrics", "size", "words"),
    [
        (["nvl72"], SIZE, "takes two fabrics or more, and this one has 1; name another one"),
        ([], SIZE, "has 0"),
        (["nvl72", "nvl27"], SIZE, r"unknown fabric 'nvl27' \(did you mean 'nvl72'"),
        (["nvl72", "hgx-h100", "nvl72"], SIZE, "nvl72 is given twice"),
        (["nvl72", "hgx-h100"], "64", "'64' has no unit"),
        (["hgx-h100", "nvl72"], "1KiB", "round to zero.*use at least 1152 bytes"),
    ],
)
def test_what_cannot_be_compared_is_refused(fabrics: list[str], size: str, words: str) -> None:
    """Before any run."""

    def ran(done: int, total: int) -> None:
        raise AssertionError((done, total))

    with pytest.raises(ConfigError, match=words):
        fs.compare_fabrics(fabrics, size=size, progress=ran)


def test_the_command_prints_both_with_all_sources(capsys: pytest.CaptureFixture[str], document: dict[str, Any]) -> None:
    """Inside 80 columns: figures side by side, the source of each below, n/a and a sentence where there is no card."""
    assert main(["fabrics", "--compare", "nvl72", "hgx-h100", "--size", SIZE]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80
    rows = {line[:33].strip(): line[33:].split() for line in out.splitlines()}
    assert rows["power (kW)"] == ["140", "to", "145", "n/a"]
    assert rows["price (million USD)"] == ["3", "n/a"]
    nvl72, hgx = (entry["simulated"] for entry in document["systems"])
    assert rows["GB/s per accelerator"] == [f"{one['busbw_GBps']:.3f}" for one in (nvl72, hgx)]
    low, high = (f"{nvl72['GBps_per_kW'][end]:.3f}" for end in ("low", "high"))
    assert rows["GB/s per kW"] == [low, "to", high, "n/a"]
    assert rows["GB/s per 1,000 USD"] == [f"{nvl72['GBps_per_kUSD']['low']:.3f}", "n/a"]
    assert "hgx-h100: no system card belongs to it" in out
    flat = " ".join(out.split())
    card = document["systems"][0]["card"]
    for figure in card["figures"].values():
        for report in figure["reports"]:
            assert f"{report['source']} ({report['evidence']})" in flat
            assert f": {report['value']:,g}" in flat
    for claim in card["claims"]:
        assert f"{claim['about']}: {claim['text']}" in flat
        assert f"{claim['source']} ({claim['evidence']})" in flat


def test_json_is_the_document(capsys: pytest.CaptureFixture[str], document: dict[str, Any], tmp_path: Path) -> None:
    """Alone on standard output, or in a file beside the table."""
    command = ["fabrics", "--compare", "nvl72", "hgx-h100", "--size", SIZE, "--quiet"]
    assert main([*command, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(document))
    path = tmp_path / "systems.json"
    assert main([*command, "--json", str(path)]) == 0
    assert capsys.readouterr().out
    assert json.loads(path.read_text("utf-8")) == json.loads(json.dumps(document))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--compare", "nvl72"], "takes two fabrics or more"),
        (["nvl72", "--compare", "nvl72", "hgx-h100"], "no name before"),
        (["--toml", "--compare", "nvl72", "hgx-h100"], "leave --toml out"),
        (["--size", "1MiB"], "--size is that of the all-to-all of --compare"),
        (["--compare", "nvl72", "hgx-h100", "--json", "/nowhere/x.json"], "there is no folder /nowhere"),
    ],
)
def test_the_command_refuses(capsys: pytest.CaptureFixture[str], argv: list[str], words: str) -> None:
    """One sentence on standard error, exit code 2, nothing on standard output."""
    assert main(["fabrics", *argv]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err


def test_fabrics_that_do_not_fit_stand_below(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Long names take several tables of at most 80 columns; fabrics of one's own have no card."""
    paths = []
    for number in range(3):
        name = f"a-fabric-with-a-long-name-{number}"
        path = tmp_path / f"{number}.toml"
        path.write_text(two_nodes_of_dies().to_toml().replace("cloudmatrix384-die", name, 1), encoding="utf-8")
        paths.append(str(path))
    assert main(["fabrics", "--compare", *paths, "--size", SIZE]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line == "published" for line in lines) == 3
    assert sum("no system card belongs to it" in line for line in lines) == 3
