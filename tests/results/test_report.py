"""The page of ``fabricsim report``: it says what the files say, is bounded, and shows all of it in a real browser."""

from __future__ import annotations

import html
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fabricsim as fs
from fabricsim import cli
from fabricsim.errors import ConfigError, TraceError
from fabricsim.fabrics import FabricSpec
from fabricsim.fabrics.system_cards import FIGURE_LABELS
from fabricsim.results import report, report_data
from fabricsim.results.lanes import lanes_of, lines_of
from fabricsim.results.over_time import classes_over_time
from fabricsim.results.stored import find_results
from fabricsim.units import format_time
from fabricsim.workloads.trace import trace_from_rows
from tests.results.browser import Page, browsing


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a MoE layer of eight ranks on both machines, with a number set on one of them."""
    folder = tmp_path_factory.mktemp("two")
    rows = [
        {"op": "all_to_all", "rank": rank, "group_id": 0, "group_seq": number, "send_bytes": size, "recv_bytes": size,
         "name": f"layer {number} <b>&amp;", "stream": 0, "gap_ns": 500 * rank}
        for number, size in enumerate([1 << 16, 1 << 18])
        for rank in range(8)
    ]  # fmt: skip
    groups = [{"id": 0, "name": "world", "desc": "", "ranks": list(range(8))}]
    trace = trace_from_rows(rows, world_size=8, groups=groups, source={"format": "test"})
    for fabric in (
        fs.load_fabric("cloudmatrix384"),
        fs.load_fabric("nvl72").with_overrides({"link.gpu-nvswitch.latency": "1 us"}),
    ):
        fs.replay(trace, fabric).write(folder / "out" / fabric.name, command="fabricsim replay a --fabric b")
    return folder / "out"


@pytest.fixture(scope="module")
def page(two: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of these."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert re.fullmatch(rf"{path}: [12]\.\d MB, 2 results", fs.write_report(two, path))
    return path


def body_of(page: Path) -> str:
    """Give what a page shows, without its library."""
    text = page.read_text(encoding="utf-8")
    return text[text.index("<body>") :]


def cells(page: Path, table: str) -> list[list[str]]:
    """Give the rows of a table of the page, as texts."""
    (inside,) = re.findall(rf'<table id="{table}">(.*?)</table>', body_of(page), re.DOTALL)
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", inside, re.DOTALL)
    parts = (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows)
    return [[html.unescape(re.sub(r"<[^>]+>", " ", cell)).strip() for cell in row] for row in parts]


# ----------------------------------------------------------------------------------------------------------------------
# What it says


def test_the_first_thing_is_what_holds_the_run_back(two: Path, page: Path) -> None:
    """Above all charts, for each fabric: the sentence of the summary, the time, the bound and the efficiency."""
    top = body_of(page).partition("<h2")[0]
    for name in ("cloudmatrix384", "nvl72"):
        summary = json.loads((two / name / "summary.json").read_text())
        assert html.escape(summary["bottleneck"]["sentence"], quote=False) in html.unescape(top)
        bounds, times = (sum(op[key] for op in summary["ops"]) for key in ("lower_bound_us", "time_us"))
        assert f"{100 * bounds / times:.1f} %" in top
        assert html.escape(format_time(summary["simulated_time_ps"])) in top
    assert "Simulated packet by packet" in top


def test_operations_stand_side_by_side(two: Path, page: Path) -> None:
    """A row per operation, in order of time, with the figures of each fabric; names are shown as they are written."""
    header, units, *rows = cells(page, "ops")
    assert header[-4:] == ["cloudmatrix384", "", "nvl72", ""]
    assert len(units) == 10
    kind = "all_to_all, 8 ranks,"
    assert [re.sub(" +", " ", row[0]) for row in rows] == [
        f"0: layer 0 <b>&amp; {kind} 65,536 B",
        f"1: layer 1 <b>&amp; {kind} 262,144 B",
    ]
    for place, name in enumerate(("cloudmatrix384", "nvl72")):
        ops = json.loads((two / name / "summary.json").read_text())["ops"]
        for row, op in zip(rows, ops, strict=True):
            figures = row[1 + 5 * place : 6 + 5 * place]
            assert float(figures[0].replace(",", "")) == pytest.approx(op["time_us"], rel=1e-3)
            assert float(figures[2]) == pytest.approx(100 * op["efficiency"], abs=0.06)
            assert float(figures[3]) == pytest.approx(op["algbw_GBps"], rel=1e-3)
    legends = re.findall(r'<p class="legend">(.*?)</p>', body_of(page), re.DOTALL)
    names = [re.findall(r"</i>(.*?)</span>", legend) for legend in legends]
    assert [f"layer {number} &lt;b&gt;&amp;amp;" for number in range(2)] in names


def test_the_attribution_is_that_of_the_summary(two: Path, page: Path) -> None:
    """A row per cause, in picoseconds of microseconds and percent of the whole run."""
    _, *rows = cells(page, "shares")
    whole = json.loads((two / "nvl72" / "summary.json").read_text())["attribution"]
    assert [row[0].replace(" ", "_") for row in rows] == list(whole["ps"])
    assert [float(row[4]) for row in rows] == [round(value, 1) for value in whole["percent"].values()]


def test_every_number_has_its_source(page: Path) -> None:
    """All settings and quantities of both fabrics, with unit, evidence and source; what the user set is told apart."""
    text = html.unescape(body_of(page))
    for spec in (fs.load_fabric("cloudmatrix384"), fs.load_fabric("nvl72")):
        for row in spec.quantities():
            assert f'<th class="text">{row.key}</th>' in text
            if row.key != "link.gpu-nvswitch.latency":
                assert row.source in text, row.key
        for key, value in spec.settings().items():
            assert f"<code>{key} = {value if isinstance(value, str) else json.dumps(value)}</code>" in text
    assert re.search(
        r'<tr class="set"><th class="text">link.gpu-nvswitch.latency</th><td>1</td>.*set by the user', text
    )
    assert "Huawei CloudMatrix 384" in text  # its card
    assert [row[0] for row in cells(page, "cards")[1:]] == list(FIGURE_LABELS.values())
    assert "NVIDIA GB200 NVL72</th>" not in text  # one whose numbers were changed has none


def test_nothing_comes_from_anywhere(page: Path) -> None:
    """No element of the page names another file or address."""
    text = page.read_text(encoding="utf-8")
    assert len(page.read_bytes()) < report.MAX_BYTES
    elements = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert re.findall(r'(?:src|href)="([^"]*)"', elements) == ["data:,"]
    assert "@import" not in elements
    assert not re.search(r"url\((?!#)", elements)


def test_results_that_share_no_operation_have_rows_of_their_own(
    tiny: FabricSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep of more sizes than are drawn: the operations by result, and a list of all, in the order of the sizes."""
    monkeypatch.setattr(report, "MAX_RESULTS", 2)
    for size in ("2KiB", "16KiB", "512B"):
        run = fs.simulate(tiny, fs.collective("all_to_all", size=size, ranks=4), kernel="python")
        run.write(tmp_path / "out" / size, format="parquet")
    for size in ("64KiB", "128KiB", "256KiB"):
        (tmp_path / "out" / size).mkdir()
    (tmp_path / "out" / "64KiB" / "ops.parquet.part").touch()
    (tmp_path / "out" / "128KiB" / "checkpoint").touch()  # 256KiB has just begun
    path = tmp_path / "page.html"
    names = "128KiB, 256KiB, 64KiB"
    assert f" 3 results; not complete, and left out: {names}: wait" in fs.write_report(tmp_path / "out", path)
    assert f"Not complete, and not on this page: {names}: wait" in body_of(path)
    assert "with --resume" in body_of(path)
    assert "<h1>all_to_all of 512B to 16KiB over 4 ranks</h1>" in body_of(path)
    assert [row[0] for row in cells(path, "everything")[1:]] == ["512B", "2KiB", "16KiB"]
    assert [row[0] for row in cells(path, "ops")[2:]] == ["512B", "2KiB"]
    assert "Of 3 results the first 2 are drawn" in body_of(path)


# ----------------------------------------------------------------------------------------------------------------------
# What is drawn


def test_long_runs_are_drawn_in_part(two: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of ranks, bars and nodes no more than the bounds, the longest bars and the last rank among them; it is said."""
    monkeypatch.setattr(report_data, "MAX_RANKS", 4)
    monkeypatch.setattr(report_data, "MAX_BARS", 10)
    monkeypatch.setattr(report_data, "MAX_CELLS", 200)
    stored = find_results(two)[0]
    table = stored.table("ops")
    ops = {name: table[name].to_pylist() for name in table.column_names}
    bars = report_data.bars_of(stored, ops, 5)
    tasks = stored.table("tasks").to_pylist()
    last = max(tasks, key=lambda row: row["end_ps"])["rank"]
    assert len(bars.rank) == 5
    assert last in bars.ranks
    assert len(bars.ranks) <= 4
    there = sorted((row["end_ps"] - row["begin_ps"] for row in tasks if row["rank"] in bars.ranks), reverse=True)
    assert sorted(bars.end_at_us - bars.begin_us, reverse=True) == pytest.approx([one / 1e6 for one in there[:5]])
    assert f"{len(bars.ranks)} of 8 ranks are drawn" in bars.left_out
    assert "the 5 longest are drawn" in bars.left_out
    heats, left_out = report_data.heats_of(stored, 100)
    assert [heat.tier for heat in heats] == []
    assert left_out == ["l1", "l2", "npu"]
    fs.write_report(two, tmp_path / "page.html")
    assert "Not drawn, for their number: l1, l2, npu." in body_of(tmp_path / "page.html")


def test_a_page_makes_room_and_is_never_too_large(
    two: Path, page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Tiers are left out where the page would be too large; where even that does not help the error says what does."""
    path = tmp_path / "page.html"
    monkeypatch.setattr(report, "MAX_BYTES", len(page.read_bytes()) - 1)
    fs.write_report(two, path)
    assert "Not drawn, for their number: npu." in body_of(path)
    assert len(path.read_bytes()) < len(page.read_bytes())
    monkeypatch.setattr(report, "MAX_BYTES", 1_000_000)
    with pytest.raises(
        ConfigError, match=r"\d MB even without heat maps, over 1 MB; give the folder of one result, such"
    ):
        fs.write_report(two, tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


def test_results_share_the_cells_of_heat_maps(two: Path, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many results there are, all their cells together are bounded."""
    asked = []
    heats_of = report_data.heats_of
    monkeypatch.setattr(report_data, "heats_of", lambda stored, most: asked.append(most) or heats_of(stored, most))
    found = find_results(two)
    report._page(found, (), 7000)
    assert asked == [3500, 3500]


def test_results_of_one_workload_have_the_same_axes(two: Path) -> None:
    """Time and percent end at the same place on both fabrics; results of different workloads have axes of their own."""
    results = [report._result(stored, number, 2) for number, stored in enumerate(find_results(two))]
    whats = ("utilization", "peak_occupancy_bytes")
    charts: dict[str, Any] = {}
    report._draw(results, charts)
    slowest_us = max(result["bars"].end_us for result in results)
    assert len({result["bars"].end_us for result in results}) == 2
    for number in range(2):
        for chart in (charts[f"{name}{number}"] for name in ("bars", *whats)):
            assert chart.x_range.end == slowest_us
        for what in whats:
            assert charts[f"{what}{number}"].y_range.end == charts[f"{what}{1 - number}"].y_range.end
    highest = max(row.utilization.max() for result in results for row in result["over_time"])
    assert 100 * highest < charts["utilization0"].y_range.end < 110 * highest
    results[0]["ops"]["size_bytes"][0] += 1
    report._draw(results, charts)
    assert [charts[f"bars{number}"].x_range.end for number in range(2)] == [one["bars"].end_us for one in results]


def test_the_title_is_what_all_results_have_in_common(two: Path, tiny: FabricSpec, tmp_path: Path) -> None:
    """Of results that share no workload it says how many there are."""
    for op in ("all_to_all", "all_gather"):
        run = fs.simulate(tiny, fs.collective(op, size="2KiB", ranks=4), kernel="python")
        run.write(tmp_path / op)
    gather, exchange = find_results(tmp_path)
    assert report._title([exchange, exchange]) == "all_to_all of 2KiB over 4 ranks"
    assert report._title([gather, exchange]) == "2 results"
    assert report._title([*find_results(two), exchange]) == "3 results"
    assert report._title(find_results(two)) == "2 operations over 8 ranks"


def test_few_bounds_and_one_operation_are_said_shortly(tiny: FabricSpec, tmp_path: Path) -> None:
    """Of one operation the time stands once; a setting that is a long list is cut."""
    fs.simulate(tiny, fs.collective("all_to_all", size="2KiB", ranks=4), kernel="python").write(tmp_path / "out")
    fs.write_report(tmp_path / "out", tmp_path / "page.html")
    assert "<small>lower bound</small>" in body_of(tmp_path / "page.html")
    assert "they took" not in body_of(tmp_path / "page.html")
    assert report._setting(["a" * 1000]) == '["' + "a" * 498 + "…"


def test_a_computation_is_its_gap(tiny: FabricSpec, tmp_path: Path) -> None:
    """Its bar begins where the gap before it does, and not where its task begins; beside it stands its stream."""
    rows = [
        {"op": "compute", "rank": rank, "group_id": 0, "send_bytes": 0, "recv_bytes": 0, "duration_ns": duration_ns,
         "stream": 7 + rank}
        for rank, duration_ns in enumerate([3_000, 1_000])
    ]  # fmt: skip
    groups = [{"id": 0, "name": "world", "desc": "", "ranks": [0, 1]}]
    trace = trace_from_rows(rows, world_size=2, groups=groups, source={"format": "test"})
    fs.replay(trace, tiny, kernel="python").write(tmp_path)
    (stored,) = find_results(tmp_path)
    table = stored.table("ops")
    bars = report_data.bars_of(stored, {name: table[name].to_pylist() for name in table.column_names}, 10)
    assert dict(zip(bars.rank.tolist(), (bars.end_at_us - bars.begin_us).tolist(), strict=True)) == {0: 3.0, 1: 1.0}
    assert dict(zip(bars.rank.tolist(), bars.stream.tolist(), strict=True)) == {0: 7, 1: 8}


def test_heat_is_that_of_the_busiest_channel(two: Path) -> None:
    """Each node in each plane has a cell, with the busiest and the mean of the channels that touch it."""
    stored = next(one for one in find_results(two) if one.name == "nvl72")
    heats, _ = report_data.heats_of(stored, report_data.MAX_CELLS)
    assert [(heat.tier, len(heat.name)) for heat in heats] == [("nvswitch", 18), ("gpu", 72 * 18)]
    channels = stored.table("channels").to_pylist()
    for heat in heats:
        for place in (0, 17):
            used = [
                100 * row["utilization"]
                for row in channels
                if heat.name[place] in (row["source"], row["target"]) and row["plane"] == heat.plane[place]
            ]
            assert (heat.busiest[place], heat.mean[place]) == pytest.approx((max(used), sum(used) / len(used)))


def test_classes_over_time_add_up(two: Path) -> None:
    """The mean over time of what is drawn is what all channels of the class did."""
    for stored in find_results(two):
        timeline, channels = stored.table("timeline"), stored.table("channels").to_pandas()
        for row in classes_over_time(timeline, stored.table("channels")):
            own = channels[channels["channel_class"] == row.name]
            span_ps = np.diff(row.edges_ps)
            assert (row.utilization * span_ps).sum() * len(own) == pytest.approx(own["busy_ps"].sum())
            assert (row.credit_stall * span_ps).sum() * len(own) == pytest.approx(own["credit_stall_ps"].sum())
            assert row.peak_occupancy_bytes.max() == own["peak_occupancy_bytes"].max()


def test_the_curve_of_latencies_is_exact_where_messages_are_left_out(tiny: FabricSpec, tmp_path: Path) -> None:
    """It begins above those that are not in the files, and ends at the slowest."""
    run = fs.simulate(tiny, fs.collective("all_to_all", size="4KiB", ranks=4), kernel="python")
    for kept in (12, 3):
        run.write(tmp_path / f"{kept}", messages=kept)
    whole, some = (report_data.latencies_of(find_results(tmp_path / f"{kept}")[0]) for kept in (12, 3))
    assert whole.message_percent.tolist()[-3:] == some.message_percent.tolist()
    assert whole.message_us.tolist()[-3:] == some.message_us.tolist()
    assert some.message_percent[-1] == 100
    assert "9 quickest messages are not in the files" in some.left_out
    assert whole.left_out == ""


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.data())
def test_of_equal_times_some_are_drawn_evenly(times: list[int], data: st.DataObject) -> None:
    """No time that is left out is longer than one that is drawn; of equal ones those drawn are spread over the run."""
    count = data.draw(st.integers(1, len(times)))
    rows = report_data._longest(np.array(times), count).tolist()
    assert len(set(rows)) == count
    assert sorted((times[row] for row in rows), reverse=True) == sorted(times, reverse=True)[:count]
    if len(set(times)) == 1 and count > 1:
        assert rows[-1] >= len(times) // 2


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0, 7]), st.integers(0, 9), st.integers(0, 5)), max_size=20)
)
def test_lanes_keep_apart_what_overlaps(tasks: list[tuple[int, int, int, int]]) -> None:
    """In a lane of a stream nothing overlaps, and there are as many lanes as tasks at one time; each has a line."""
    rank, stream, begin, length = (np.array([task[column] for task in tasks], np.int64) for column in range(4))
    end = begin + length
    lane = lanes_of(rank, stream, begin, end)
    line = lines_of(rank, stream, lane)
    for here in set(rank.tolist()):
        places = sorted(set(zip(*(column[rank == here].tolist() for column in (stream, lane, line)), strict=True)))
        assert [place[2] for place in places] == list(range(len({place[:2] for place in places})))
    for here in set(zip(rank.tolist(), stream.tolist(), strict=True)):
        own = (rank == here[0]) & (stream == here[1])
        at_once = [int(((begin <= time) & (time < end) & own).sum()) for time in range(15)]
        assert lane[own].max() + 1 <= max(max(at_once), 1) + int((length[own] == 0).any())
        for number in set(lane[own].tolist()):
            rows = np.flatnonzero(own & (lane == number))
            rows = rows[np.lexsort((end[rows], begin[rows]))]
            assert (begin[rows[1:]] >= end[rows[:-1]]).all()


# ----------------------------------------------------------------------------------------------------------------------
# What cannot be shown


def test_what_is_no_result_is_refused(two: Path, tmp_path: Path) -> None:
    """No summary; one that is damaged, of another schema, or of a version without attribution; a missing table."""

    def damaged(change: Any) -> Path:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for path in (two / "nvl72").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        change(folder)
        return folder

    def without(key: str) -> Any:
        def change(folder: Path) -> None:
            summary = json.loads((folder / "summary.json").read_text())
            del summary[key]
            (folder / "summary.json").write_text(json.dumps(summary))

        return change

    for change, error, words in (
        (lambda folder: (folder / "summary.json").unlink(), ConfigError, "its run still goes on, or was .* --resume"),
        (
            lambda folder: [path.unlink() for path in folder.iterdir()],
            ConfigError,
            "no summary.json in it.* that -o of",
        ),
        (lambda folder: (folder / "summary.json").write_text("{"), TraceError, "summary.json cannot be read"),
        (lambda folder: (folder / "summary.json").write_text("[]"), TraceError, "summary.json is no JSON object"),
        (without("schema"), TraceError, "is no summary of the schema fabricsim.result/1"),
        (without("bottleneck"), TraceError, "its summary.json lacks bottleneck, .*; run again with this version"),
        (lambda folder: (folder / "fabric.json").unlink(), TraceError, "fabric.json cannot be read"),
        (lambda folder: (folder / "tasks.arrow").unlink(), TraceError, "tasks.arrow cannot be read .*; run again"),
        (lambda folder: (folder / "ops.arrow").write_bytes(b"no"), TraceError, "ops.arrow cannot be read"),
    ):
        with pytest.raises(error, match=words):
            fs.write_report(damaged(change), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_runs_that_have_not_ended_are_told_from_what_is_none(tmp_path: Path) -> None:
    """A single run that has kept a checkpoint, several of which none has ended, and a folder that is not there."""
    for name in ("one", "two/nvl72", "two/tiny"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "one" / "checkpoint").touch()
    for name, words in (
        ("one", "its run still goes on, or was interrupted; .* with --resume"),
        ("two", r"of the runs in it none has ended \(nvl72, tiny\); .* with --resume"),
        ("none", "there is no such folder; give the one that -o"),
    ):
        with pytest.raises(ConfigError, match=f"{name} holds no complete result: {words}"):
            fs.write_report(tmp_path / name, tmp_path / "page.html")


def test_a_missing_library_is_named(two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the command says how to get it."""
    monkeypatch.setitem(sys.modules, "bokeh.embed", None)
    with pytest.raises(ConfigError, match=r"needs bokeh.embed, .* not installed; .*: pip install 'fabricsim\[report"):
        fs.write_report(two, tmp_path / "page.html")


def test_the_command(two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what it wrote, and ends with 2 where there is nothing to show."""
    path = tmp_path / "page.html"
    assert cli.main(("report", str(two / "nvl72"), "-o", str(path))) == 0
    assert re.fullmatch(rf"{path}: \d\.\d MB, 1 result\n", capsys.readouterr().out)
    assert cli.main(("report", str(tmp_path), "-o", str(path))) == 2
    assert "holds no complete result" in capsys.readouterr().err
    assert cli.main(("report", str(two), "-o", "-")) == 2
    assert "does not go to standard output; give its name" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------------------
# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A browser that reaches no network."""
    with browsing(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


#: Of each chart: how wide it is, where it ends, how many colours it has, and the colour of its corner.
CHARTS = """
[...Bokeh.index.roots].filter(view => view.model.type == "Figure").map(view => {
  const box = view.el.getBoundingClientRect()
  const drawn = view.canvas_view.primary.canvas
  const copy = new OffscreenCanvas(drawn.width, drawn.height).getContext("2d", {willReadFrequently: true})
  copy.drawImage(drawn, 0, 0)
  const pixels = copy.getImageData(0, 0, drawn.width, drawn.height).data
  const corner = 4 * (2 * drawn.width + 2)
  const colours = new Set(new Uint32Array(pixels.buffer))
  return [box.width, box.right, colours.size, [...pixels.slice(corner, corner + 3)].join()]
})
"""


@pytest.mark.parametrize("width", [480, 1440])
def test_the_page_shows_its_charts(browser: Page, page: Path, width: int) -> None:
    """All are drawn, within the width of the page, in light and dark; nothing is fetched, nothing is complained of."""
    paper = {}
    for dark in (False, True):
        browser.open(page, width=width, dark=dark)
        charts = browser.run(CHARTS)
        drawn = len(re.findall(r'role="img"', body_of(page)))
        assert len(charts) == drawn >= 14
        for chart_width, right, colours, _ in charts:
            assert min(width, 1600) / 3 < chart_width
            assert right <= width
            assert colours > 5
        assert browser.run("document.documentElement.scrollWidth") <= width
        paper[dark] = browser.run("getComputedStyle(document.body).backgroundColor")
        clipped = browser.run(
            "[...document.querySelectorAll('h1, h2, h3, p, .big div, figcaption')]"
            ".filter(one => one.scrollWidth > one.clientWidth + 1 || one.getBoundingClientRect().right > innerWidth)"
            ".map(one => one.textContent)"
        )
        assert clipped == []
        seen = browser.run(
            "[document.querySelector('#ops').offsetWidth, document.querySelector('.wide:has(#ops)').clientWidth]"
        )
        assert seen[0] <= seen[1]
        shown = browser.run(
            "[...document.querySelectorAll('#ops tbody tr')]"
            ".map(row => [...row.cells].filter(one => one.offsetWidth).length)"
        )
        assert shown == ([7, 7] if width < 600 else [11, 11])
    assert paper[False] != paper[True]
    assert browser.complaints == []
    assert {re.match(r"\w+:", address)[0] for address in browser.requests} == {"file:", "data:"}
    assert {address for address in browser.requests if address.startswith("file:")} == {page.as_uri()}


def test_charts_follow_the_colours_of_their_reader(browser: Page, page: Path) -> None:
    """Who changes from light to dark with the page open sees all charts in other colours."""
    browser.open(page, width=1440, dark=False)
    assert {corner for *_, corner in browser.run(CHARTS)} == {"255,255,255"}
    browser.prefer(dark=True)
    browser.wait(f"{CHARTS.strip()}.every(chart => chart[3] == '20,23,27')")
    assert browser.complaints == []
