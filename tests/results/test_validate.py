from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fabricsim import cli
from fabricsim.errors import ConfigError
from fabricsim.fabrics import fabric_names
from fabricsim.results import points, validate
from fabricsim.results.points import Point, load_points
from fabricsim.results.validate import families

POINTS = load_points()


def row(size_bytes: int, error_percent: float, *, fitted: bool = False, family: str = "f") -> dict[str, object]:
    """What families() looks at."""
    return {
        "fabric": "x",
        "family": family,
        "fitted": fitted,
        "size_bytes": size_bytes,
        "error_percent": error_percent,
    }


def test_points_are_of_the_catalog_and_have_sources() -> None:
    """Every point can be made a workload, and says where it is from."""
    assert {point.fabric for point in POINTS} <= set(fabric_names())
    assert all(point.source and point.measured > 0 for point in POINTS)
    scenarios = {(point.scenario, point.unit): point for point in POINTS if point.ranks <= 16}
    for point in scenarios.values():
        assert point.schedule().num_ranks == point.ranks


def test_every_second_size_of_a_series_is_for_fitting() -> None:
    """From the smallest on, in each family that anything was fitted to by sizes or tokens."""
    series: dict[tuple[str, str, int], list[Point]] = {}
    for point in POINTS:
        if point.source.startswith("ai-dynamo"):
            series.setdefault((point.fabric, point.family, point.ranks), []).append(point)
    assert len(series) == 32 + 36
    for members in series.values():
        members.sort(key=lambda point: (point.size_bytes, point.tokens))
        fitted = [point.fitted for point in members]
        assert fitted in ([True, False] * 15, [True, False] * 10 + [True], [False] * 30)


def test_points_in_their_units() -> None:
    """Times in us; bandwidths are size over time, per die on a fabric of two dies a terminal."""
    point = next(point for point in POINTS if point.unit == "GB/s per die")
    assert point.figure(2.0, 8_000, None) == pytest.approx(2.0)
    assert replace(point, unit="GB/s").figure(2.0, 8_000, None) == pytest.approx(4.0)
    assert replace(point, unit="GB/s busbw").figure(2.0, 8_000, 3.5) == 3.5
    assert replace(point, unit="us").figure(2.0, 8_000, None) == 2.0


def test_families_sum_up_the_predicted_points() -> None:
    """Fitted ones count apart; up to 1 MiB only the worst counts; median, worst and small one all have a limit."""
    large, small = 2**20 + 1, 2**20
    good = [row(large, -5.0), row(large, 1.0), row(large, 14.0), row(small, 24.0), row(large, 99.0, fitted=True)]
    (summed,) = families(good)
    assert (summed["fitted"], summed["predicted"]) == (1, 4)
    assert (summed["median_percent"], summed["worst_percent"], summed["worst_small_percent"]) == (5.0, 14.0, 24.0)
    assert summed["within"] is True
    for bad in (row(large, 16.0), row(small, -26.0)):
        assert families([*good, bad])[0]["within"] is False
    assert families([row(large, 6.0)])[0]["within"] is False
    assert families([row(large, 99.0, fitted=True)])[0]["within"] is None
    assert [entry["family"] for entry in families([row(1, 1.0), row(1, 1.0, family="g")])] == ["f", "g"]


def test_what_a_fit_reaches_stays_reached() -> None:
    """Predicted points of the families that the endpoint model explains, at some sizes in between."""
    chosen = [
        point
        for point in POINTS
        if (point.fabric == "nvl72" and point.family in ("NCCL all_gather", "NCCL all_reduce", "incast"))
        or point.family in ("A3 descriptors read, two nodes", "A3 descriptors write, one node")
    ]
    document = validate.validate(points=chosen)
    assert document["schema"] == "fabricsim.validate/1"
    assert document["skipped"] == 0
    assert {entry["family"]: entry["within"] for entry in document["families"]} == {
        "NCCL all_gather": True,
        "NCCL all_reduce": True,
        "A3 descriptors read, two nodes": True,
        "A3 descriptors write, one node": True,
        "incast": True,
    }


def test_large_points_are_skipped_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """512 MiB from one GPU to another are 2^21 packets, two hops each; of 18 planes one is simulated: 233,018."""
    (point,) = (point for point in POINTS if point.family == "point-to-point CE read" and point.fabric == "nvl72")
    monkeypatch.setattr(validate, "MAX_PACKET_HOPS", 233_017)
    assert validate.validate(points=[point])["skipped"] == 1
    assert validate.validate(points=[point], everything=True)["skipped"] == 0
    monkeypatch.setattr(validate, "MAX_PACKET_HOPS", 233_018)
    assert validate.validate(points=[point])["skipped"] == 0


def test_progress_counts_to_the_end() -> None:
    """From none done to all, so that a line on a terminal ends."""
    chosen = [point for point in POINTS if point.scenario == "load"]
    reports: list[tuple[int, int]] = []
    validate.validate(points=chosen, progress=lambda done, total: reports.append((done, total)))
    assert reports == [(done, len(chosen)) for done in range(len(chosen) + 1)]


def test_a_fabric_without_points_is_refused() -> None:
    """The nearest one with points is named."""
    with pytest.raises(ConfigError, match="did you mean 'nvl72'"):
        validate.validate("nvl7")


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of points and one of families; --json - gives the document alone."""
    chosen = [point for point in POINTS if "latency" in point.family and point.scenario == "load"]
    monkeypatch.setattr(validate, "load_points", lambda: chosen)
    assert cli.main(["validate", "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [entry["fabric"] for entry in document["points"]] == ["nvl72", "hgx-h100"]
    assert document["points"][0]["measured"] == 1.727
    assert cli.main(["validate", "hgx-h100"]) == 0
    out = capsys.readouterr().out
    assert "load latency" in out
    assert "fitted" in out
    assert "nvl72" not in out


def test_the_command_says_what_it_skipped(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """And how to run it."""
    chosen = [point for point in POINTS if point.family == "incast"]
    monkeypatch.setattr(validate, "load_points", lambda: chosen)
    monkeypatch.setattr(validate, "MAX_PACKET_HOPS", 1)
    assert cli.main(["validate"]) == 0
    assert "1 point of more than 20 M packet-hops was skipped; --all runs it." in capsys.readouterr().out


def test_the_page_has_every_family_and_figure() -> None:
    """docs/validation.md has a row for each family, and one for each single figure; nothing that missed is left out."""
    page = (Path(__file__).parents[2] / "docs" / "validation.md").read_text(encoding="utf-8")

    def rows(name: str) -> list[tuple[str, str]]:
        (block,) = re.findall(rf"<!-- {name} -->\n[^\n]*\n[^\n]*\n(.*?)<!-- /{name} -->", page, re.DOTALL)
        return [(cells[1].strip(), cells[2].strip()) for cells in (line.split("|") for line in block.splitlines())]

    assert sorted(rows("families")) == sorted({(point.fabric, point.family) for point in POINTS})
    single = [(point.fabric, point.what) for point in POINTS if not point.source.startswith("ai-dynamo/aiconfigurator")]
    assert sorted(rows("points")) == sorted(single)


def test_a_die_pair_is_a_terminal() -> None:
    """On cloudmatrix384 both dies of an NPU copy their own buffer; across nodes the second one is in the next."""
    point = next(point for point in POINTS if point.scenario == "read_batch_nodes")
    assert point.schedule().operations[0].size_bytes == 2 * 128 * 2**20
    assert point.placement == [0, points.SECOND_NODE]
