from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import fabricsim as fs
from fabricsim.cli import main
from fabricsim.engine.layout import NONE, State
from fabricsim.engine.state import allocate
from fabricsim.results import run
from fabricsim.workloads.collectives import COLLECTIVES, algorithms_of
from fabricsim.workloads.trace import Trace, trace_from_rows
from tests.results.small import small_trace, tiny_fabric

ROOT = Path(__file__).resolve().parents[1]
PYTHON_KERNEL = ("--kernel", "python")


@pytest.fixture(autouse=True)
def _plain_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables 80 columns wide, whatever the terminal of the test run."""
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a fabric of 4 GPUs and 2 planes."""
    path = tmp_path_factory.mktemp("fabrics") / "tiny.toml"
    path.write_text(tiny_fabric().to_toml(), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a trace of two collectives over two ranks."""
    path = tmp_path_factory.mktemp("traces") / "small.arrow"
    small_trace().write(path)
    return str(path)


def run_cli(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command; argparse's own exits count too."""
    try:
        code = main(argv)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys: pytest.CaptureFixture[str], code: int, *argv: str) -> str:
    """The message of a command that fails with this code: one, on standard error, without a traceback."""
    returned, out, err = run_cli(capsys, *argv)
    assert (returned, out) == (code, "")
    assert err.startswith("fabricsim: error: ")
    assert "Traceback" not in err
    return err


# ----------------------------------------------------------------------------------------------------------------------
# What works


def test_run_prints_a_table_like_nccl_tests(capsys: pytest.CaptureFixture[str], fabric: str) -> None:
    """Size, time, algbw, busbw, lower bound and efficiency per size, inside 80 columns, and nothing else on stderr."""
    code, out, err = run_cli(capsys, "run", fabric, "all_to_all", "--size", "4KiB,8KiB", *PYTHON_KERNEL)
    assert (code, err) == (0, "")
    assert "all_to_all (direct) over 4 ranks on tiny (4 terminals, 16 channels)" in out
    assert re.search(r"size +time +algbw +busbw +lower bound +efficiency", out)
    rows = [line.split() for line in out.splitlines() if re.match(r"\s*\d,\d{3} ", line)]
    assert [(row[0], len(row)) for row in rows] == [("4,096", 6), ("8,192", 6)]
    verdict = r" of 8,192 B: efficiency [\d.]+ % \(lower bounds over times\); critical path: launch [\d.]+ %, "
    assert re.search(verdict, " ".join(out.split()))
    assert re.search(r"^bottleneck: launch\. Launches take ", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 80


def test_folding_is_shown_and_switched_off(
    capsys: pytest.CaptureFixture[str], fabric: str, trace: str, tmp_path: Path
) -> None:
    """The table says how planes were folded or why not, each thing once; the document has it as fields."""
    sizes = ("run", fabric, "all_to_all", "--size", "1KiB,4KiB,4KiB")
    out = run_cli(capsys, *sizes, *PYTHON_KERNEL)[1]
    assert re.findall(r"^.*folded: .*$", out, re.MULTILINE) == [
        "not folded: a message of 256 B uses 1 of 2 planes",
        "folded: 2 planes as 1, for 96 packet-hops",
    ]
    assert out.count("folded: ") == 2
    assert "\nnot folded: switched off\n" in run_cli(capsys, *sizes, "--no-fold", *PYTHON_KERNEL)[1]
    out = run_cli(capsys, "replay", trace, "--fabric", fabric, "--no-fold", *PYTHON_KERNEL)[1]
    assert "\n  not folded: switched off\n" in out
    document = tmp_path / "result.json"
    run_cli(capsys, "run", fabric, "all_to_all", "--size", "4KiB", "--json", str(document), *PYTHON_KERNEL)
    summary = json.loads(document.read_text())
    assert (summary["folded"], summary["folding"]) == (True, "2 planes as 1")
    assert (summary["packets"], summary["packet_hops"], summary["packet_hops_simulated"]) == (48, 96, 48)


def test_an_estimate_stands_where_the_run_would(
    capsys: pytest.CaptureFixture[str], fabric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each size packet-hops, time and memory, inside 80 columns; a run that takes long is not run to its end."""
    monkeypatch.setattr("fabricsim.results.estimate.CALIBRATION_S", 0.0)
    sizes = ("run", fabric, "all_to_all", "--size", "4KiB,1MiB")
    code, out, err = run_cli(capsys, *sizes, "--estimate", *PYTHON_KERNEL)
    assert (code, err) == (0, "")
    assert re.findall(r"^all_to_all \(direct\) of ([\d,]+) B over 4 ranks on tiny", out, re.M) == ["4,096", "1,048,576"]
    assert re.findall(r"^folded +(.*)$", out, re.M) == ["2 planes as 1"] * 2
    assert re.findall(r"^packet-hops +([\d,]+), of which the engine does ([\d,]+)$", out, re.M)[0] == ("96", "48")
    assert re.findall(r"^measured +(all|the first) ", out, re.M) == ["all", "the first"]
    assert len(re.findall(r"^time +\d.*: .* to build its tables, .* in the engine$", out, re.M)) == 2
    assert (
        len(re.findall(r"^memory +[\d,]+ MiB: process [\d,]+ MiB, tables \d+ MiB, packets in flight ", out, re.M)) == 2
    )
    assert "busbw" not in out
    assert "tiny latencies" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_estimates_of_a_trace_are_documents(
    capsys: pytest.CaptureFixture[str], fabric: str, trace: str, tmp_path: Path
) -> None:
    """One for each fabric, with the trace, the command and the packet-hops of the run; the text says what is odd."""
    slow = tmp_path / "slow.toml"
    text = Path(fabric).read_text().replace('name = "tiny"', 'name = "slow"', 1)
    slow.write_text(re.sub(r'(?<=latency\]\nvalue = )".*"', '"1 ns"', text))
    argv = ("replay", trace, "--fabric", fabric, "--fabric", str(slow), *PYTHON_KERNEL)
    target = tmp_path / "estimates.json"
    code, out, _ = run_cli(capsys, *argv, "--estimate", "--json", str(target))
    assert code == 0
    assert f"{trace}, mode dependency: 2 ranks on slow" in out.replace("\n", " ")
    assert out.count("a fabric of tiny latencies") == 1
    estimates = json.loads(target.read_text())["results"]
    assert [estimate["schema"] for estimate in estimates] == ["fabricsim.estimate/1"] * 2
    assert [estimate["has_small_windows"] for estimate in estimates] == [False, True]
    assert {estimate["workload"]["trace"] for estimate in estimates} == {trace}
    assert estimates[0]["command"].endswith(f"--estimate --json {target}")
    results = json.loads(run_cli(capsys, *argv, "--json", "-")[1])["results"]
    assert [estimate["packet_hops"] for estimate in estimates] == [result["packet_hops"] for result in results]


def test_an_estimate_refuses_what_the_run_refuses(capsys: pytest.CaptureFixture[str], fabric: str) -> None:
    """With the same message and exit code."""
    argv = ("run", fabric, "all_to_all", "--size", "4KiB", "--packet", "jumbo")
    assert refused(capsys, 2, *argv, "--estimate") == refused(capsys, 2, *argv)


def test_run_sweeps_sizes(capsys: pytest.CaptureFixture[str], fabric: str) -> None:
    """--min-size to --max-size by --factor is one run per size, in one document."""
    sweep = ("--min-size", "1KiB", "--max-size", "16KiB", "--factor", "4")
    code, out, _ = run_cli(capsys, "run", fabric, "broadcast", *sweep, "--json", "-", *PYTHON_KERNEL)
    assert code == 0
    document = json.loads(out)
    assert list(document) == ["results"]
    assert [result["ops"][0]["size_bytes"] for result in document["results"]] == [1_024, 4_096, 16_384]
    assert {result["schema"] for result in document["results"]} == {"fabricsim.result/1"}


def test_json_on_stdout_is_the_document_alone(capsys: pytest.CaptureFixture[str], fabric: str) -> None:
    """One size gives one document, which names the command; the table does not mix with it."""
    argv = ("run", fabric, "all_reduce", "--size", "1KiB", "--ranks", "2", "--json", "-", *PYTHON_KERNEL)
    code, out, err = run_cli(capsys, *argv)
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["command"] == " ".join(["fabricsim", *argv])
    assert document["workload"]["ranks"] == 2
    assert document["ops"][0]["lower_bound_us"] <= document["ops"][0]["time_us"]


def test_json_in_a_file_leaves_the_table(capsys: pytest.CaptureFixture[str], fabric: str, tmp_path: Path) -> None:
    """The file holds the document, standard output the table."""
    target = tmp_path / "result.json"
    code, out, _ = run_cli(capsys, "run", fabric, "send_recv", "--size", "1KiB", "--json", str(target), *PYTHON_KERNEL)
    assert code == 0
    assert "send_recv" in out
    assert json.loads(target.read_text())["digest"]
    assert os.listdir(tmp_path) == ["result.json"]


def test_options_reach_the_run(capsys: pytest.CaptureFixture[str], fabric: str, tmp_path: Path) -> None:
    """Seed, endpoint, packet format, placement and algorithm are in the document as they were asked for."""
    placement = tmp_path / "placement"
    placement.write_text("3\n1\n")
    code, out, _ = run_cli(
        *(capsys, "run", fabric, "all_to_all", "--size", "1KiB", "--ranks", "2", "--algorithm", "rotated"),
        *("--seed", "7", "--endpoint", "ideal", "--packet", "bulk", "--placement", str(placement), "--threads", "1"),
        *("--quiet", "--json", "-", *PYTHON_KERNEL),
    )
    document = json.loads(out)
    assert code == 0
    assert (document["seed"], document["fabric"]["endpoint"], document["fabric"]["packet"]["name"]) == (
        7,
        "ideal",
        "bulk",
    )
    assert (document["workload"]["placement"], document["ops"][0]["algorithm"]) == (str(placement), "rotated")


def test_routing_is_chosen_where_there_is_a_choice(capsys: pytest.CaptureFixture[str]) -> None:
    """Between two nodes of CloudMatrix 384 packets may be routed deterministically."""
    code, out, _ = run_cli(
        *(capsys, "run", "cloudmatrix384", "send_recv", "--size", "1KiB", "--ranks", "2", "--placement", "scatter"),
        *("--routing", "deterministic", "--json", "-", *PYTHON_KERNEL),
    )
    assert code == 0
    assert json.loads(out)["fabric"]["routing"] == "deterministic"


def test_numbers_of_the_fabric_are_set(capsys: pytest.CaptureFixture[str], fabric: str, trace: str) -> None:
    """``--set`` changes the run and is shown in the header; of several fabrics each must have the key."""
    argv = ("run", fabric, "all_to_all", "--size", "4KiB", *PYTHON_KERNEL)
    code, out, _ = run_cli(capsys, *argv, "--set", "terminal.slots=1", "--set", "link.gpu-nvswitch.latency = 1us")
    assert code == 0
    assert "\nset by the user: terminal.slots = 1\nset by the user: link.gpu-nvswitch.latency = 1us\n" in out
    assert "terminal.slots" in refused(capsys, 2, *argv, "--set", "terminal.slot=1")
    replay = ("replay", trace, "--fabric", fabric, "--fabric", "cloudmatrix384", *PYTHON_KERNEL)
    assert "cloudmatrix384: it has no quantity 'link.gpu-nvswitch.latency'" in refused(
        capsys, 2, *replay, "--set", "link.gpu-nvswitch.latency=1us"
    )
    code, out, _ = run_cli(capsys, *replay, "--set", "terminal.message_overhead=1us")
    assert (code, out.count("  set by the user: terminal.message_overhead = 1us\n")) == (0, 2)


def test_racks_are_joined(capsys: pytest.CaptureFixture[str], fabric: str) -> None:
    """``--racks`` doubles the terminals of a fabric that has a scale-out network; without one there is no such key."""
    argv = ("--size", "64KiB", "--ranks", "4", "--placement", "scatter", *PYTHON_KERNEL)
    code, out, _ = run_cli(capsys, "run", "nvl72", "all_to_all", *argv, "--racks", "2")
    assert code == 0
    assert "on nvl72 (144 terminals" in out
    assert "set by the user: scale_out.racks = 2\n" in out
    assert "no quantity 'scale_out.racks'" in refused(capsys, 2, "run", fabric, "all_to_all", *argv, "--racks", "2")


def test_replay_shows_recorded_beside_simulated(capsys: pytest.CaptureFixture[str], fabric: str, trace: str) -> None:
    """What holds each back, each collective with its recorded and simulated time, latencies, utilization, channels."""
    code, out, err = run_cli(capsys, "replay", trace, "--fabric", fabric, "--fabric", "nvl72", *PYTHON_KERNEL)
    assert (code, err) == (0, "")
    assert re.search(r"operation +ranks +\(B\) +\(us\) +\(us\) +\(us\)", out)
    assert re.search(r"all_to_all +2 +4,096 +1\.999 +\d+\.\d+ +\d+\.\d+", out)
    for words in ("latency in us", "  messages", "  packets", "utilization in %", "  gpu-nvswitch"):
        assert words in out
    for name in ("tiny", "nvl72"):
        verdict = rf" {name} \([^)]*\): [\d.]+ us simulated efficiency [\d.]+ % [^:]*: launch .* bottleneck: launch\. "
        assert re.search(verdict, " ".join(out.split()))
    assert re.search(r"hottest channels +plane", out)
    assert re.search(r"^  nvswitch\.0\.\d+-gpu0 .* 1 to 0 ", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 80


def test_a_replaced_algorithm_is_said(capsys: pytest.CaptureFixture[str], fabric: str, tmp_path: Path) -> None:
    """One line for each operation whose recorded algorithm we lack, none for one that we have."""
    recorded = pa.array(["NVLS"] * 2 + ["RING"] * 2).dictionary_encode()
    both = small_trace().table().append_column("algorithm", recorded)
    path = write_table(both, tmp_path / "algorithms.arrow")
    code, out, _ = run_cli(capsys, "replay", path, "--fabric", fabric, *PYTHON_KERNEL)
    assert code == 0
    assert re.findall(r"^.*recorded NVLS.*$", out, re.MULTILINE) == ["all_to_all: recorded NVLS, simulated direct."]
    assert "RING" not in out


def test_joins_are_no_operations(capsys: pytest.CaptureFixture[str], fabric: str, tmp_path: Path) -> None:
    """Two batches of two computations are four operations, whatever stands between them in the schedule."""
    compute = {"op": "compute", "rank": 0, "group_id": 0, "send_bytes": 0, "recv_bytes": 0, "duration_ns": 5}
    rows = [{**compute, "batch_id": batch} for batch in (1, 1, 2, 2)]
    path = tmp_path / "batches.arrow"
    trace_from_rows(rows, world_size=1, groups=[{"id": 0, "ranks": [0]}]).write(path)
    target = tmp_path / "result.json"
    argv = ("replay", str(path), "--fabric", fabric, "--json", str(target), *PYTHON_KERNEL)
    code, out, _ = run_cli(capsys, *argv)
    assert code == 0
    assert "1 ranks, 4 operations" in out
    document = json.loads(target.read_text())
    assert [op["op"] for op in document["ops"]] == ["compute"] * 4
    assert document["workload"]["operations"] == 4
    assert document["simulated_time_ps"] == 10_000


def test_help_lists_collectives_and_algorithms(capsys: pytest.CaptureFixture[str]) -> None:
    """What `run` runs, with all algorithms, the default first; only the help of `run` has the list."""
    _, out, _ = run_cli(capsys, "run", "--help")
    for op in COLLECTIVES:
        assert re.search(rf"^  {op} +{', '.join(algorithms_of(op))}$", out, re.MULTILINE)
    assert "binomial" not in run_cli(capsys, "replay", "--help")[1]


def test_moe_collectives_run_by_tokens(capsys: pytest.CaptureFixture[str], fabric: str) -> None:
    """One result per number of tokens: to each of 4 GPUs a copy of each token, of 14,336 bytes in a combine."""
    code, out, _ = run_cli(capsys, "run", fabric, "moe_combine", "--tokens", "1,2", "--json", "-", *PYTHON_KERNEL)
    assert code == 0
    operations = [result["ops"][0] for result in json.loads(out)["results"]]
    assert [(row["op"], row["size_bytes"]) for row in operations] == [("moe_combine", 57_344), ("moe_combine", 114_688)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("moe_dispatch", "--size", "1MiB"), "moe_dispatch is run by tokens"),
        (("moe_dispatch", "--tokens", "1,x"), "--tokens '1,x': write whole numbers"),
        (("all_to_all", "--size", "1KiB", "--tokens", "1"), "--tokens and --skew are for moe_dispatch and moe_combine"),
        (("all_to_all", "--size", "1KiB", "--skew", "0.5"), "--tokens and --skew are for moe_dispatch and moe_combine"),
    ],
)
def test_tokens_and_sizes_are_not_mixed(
    capsys: pytest.CaptureFixture[str], fabric: str, arguments: tuple[str, ...], words: str
) -> None:
    """Each is refused where it would have no effect."""
    code, _, err = run_cli(capsys, "run", fabric, *arguments)
    assert code == 2
    assert words in err


@pytest.mark.parametrize("codec", ["none", "zstd", "lz4"])
def test_traces_are_written_with_the_compression_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, codec: str
) -> None:
    """The same rows with and without; what is repetitive gets smaller, and none is the default."""
    small = ("--ep", "2", "--tokens", "64", "--hidden", "128", "--experts", "4", "--top-k", "2", "--skew", "0")
    paths = [tmp_path / "plain.arrow", tmp_path / "asked.arrow"]
    for path, more in zip(paths, ((), ("--compression", codec)), strict=True):
        assert run_cli(capsys, "trace", "generate", "moe", *small, "-o", str(path), *more)[0] == 0
    plain, asked = paths
    assert (plain.read_bytes() == asked.read_bytes()) == (codec == "none")
    assert Trace.open(plain).table() == Trace.open(asked).table()


def test_replay_on_several_fabrics_gives_several_documents(
    capsys: pytest.CaptureFixture[str], fabric: str, trace: str
) -> None:
    """Each is a whole document with the trace and the mode."""
    code, out, _ = run_cli(
        *(capsys, "replay", trace, "--fabric", fabric, "--fabric", "nvl72", "--mode", "back-to-back"),
        *("--json", "-", *PYTHON_KERNEL),
    )
    results = json.loads(out)["results"]
    assert code == 0
    assert [result["fabric"]["name"] for result in results] == ["tiny", "nvl72"]
    assert {(result["workload"]["trace"], result["workload"]["mode"]) for result in results} == {
        (trace, "back-to-back")
    }
    assert [op["recorded_us"] for op in results[0]["ops"]] == [1.999, 1.999]


def test_many_fabrics_take_several_tables(capsys: pytest.CaptureFixture[str], fabric: str, trace: str) -> None:
    """What does not fit 80 columns side by side stands in a table below."""
    fabrics = [word for _ in range(6) for word in ("--fabric", fabric)]
    code, out, _ = run_cli(capsys, "replay", trace, *fabrics, *PYTHON_KERNEL)
    assert code == 0
    assert len(re.findall(r"^operation +ranks", out, re.MULTILINE)) == 2
    assert max(map(len, out.splitlines())) <= 80


def test_a_trace_without_times_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A generated layer has nothing recorded: no such column, and a sentence instead."""
    path = str(tmp_path / "moe.arrow")
    small = ("--hidden", "128", "--experts", "4", "--top-k", "2", "--skew", "0", "--seed", "3")
    code, out, _ = run_cli(capsys, "trace", "generate", "moe", "--ep", "2", "--tokens", "4", *small, "-o", path)
    assert (code, out) == (0, f"{path}: 4 rows of 2 ranks\n")
    code, out, _ = run_cli(capsys, "replay", path, "--fabric", "nvl72", *PYTHON_KERNEL)
    assert code == 0
    assert "no recorded times" in out
    assert "recorded (us)" not in out


def test_recorded_names_stand_beside_the_operations(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Dispatch and combine are both an all_to_all_v; their names tell them apart, inside 80 columns."""
    path = str(tmp_path / "moe.arrow")
    small = ("--hidden", "128", "--experts", "4", "--top-k", "2")
    assert run_cli(capsys, "trace", "generate", "moe", "--ep", "2", "--tokens", "4", *small, "-o", path)[0] == 0
    fabrics = ("--fabric", "cloudmatrix384", "--fabric", "nvl72")
    code, out, _ = run_cli(capsys, "replay", path, *fabrics, *PYTHON_KERNEL)
    assert code == 0
    assert re.search(r"^operation +name +ranks +\(B\) +\(us\) +\(us\)$", out, re.MULTILINE)
    assert re.findall(r"^all_to_all_v +(\w+) +2 ", out, re.MULTILINE) == ["moe_dispatch", "moe_combine"]
    assert max(map(len, out.splitlines())) <= 80


def test_long_names_are_cut_and_empty_ones_left_out(
    capsys: pytest.CaptureFixture[str], fabric: str, tmp_path: Path
) -> None:
    """A kernel's name is cut to 20 letters; one that is the operation in other letters says nothing and is left out."""
    path = str(tmp_path / "named.arrow")
    table = small_trace().table()
    names = pa.array(["ncclDevKernel_SendRecv_Of_Some_Length"] * 2 + ["allReduce"] * 2).dictionary_encode()
    table = table.append_column("name", names)
    code, out, _ = run_cli(capsys, "replay", write_table(table, Path(path)), "--fabric", fabric, *PYTHON_KERNEL)
    assert code == 0
    assert re.search(r"^all_to_all +ncclDevKernel_Sen\.\.\. +2 ", out, re.MULTILINE)
    assert re.search(r"^all_reduce +2 ", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 80


def test_long_replays_are_cut_on_the_screen(
    capsys: pytest.CaptureFixture[str], fabric: str, trace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the largest number of rows the table says how many more there are."""
    monkeypatch.setattr("fabricsim.results.console.MAX_ROWS", 1)
    _, out, _ = run_cli(capsys, "replay", trace, "--fabric", fabric, *PYTHON_KERNEL)
    assert "1 more operations are left out here; --json FILE has them all." in " ".join(out.split())
    assert "all_reduce" not in out


def test_fabrics_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """All presets with their numbers of terminals, for people and as JSON."""
    code, out, _ = run_cli(capsys, "fabrics")
    assert code == 0
    assert re.search(r"^nvl72 +72 ", out, re.MULTILINE)
    code, out, _ = run_cli(capsys, "fabrics", "--json", "-")
    terminals = {fabric["name"]: fabric["terminals"] for fabric in json.loads(out)["fabrics"]}
    assert (terminals["cloudmatrix384"], terminals["cloudmatrix384-mesh"], terminals["nvl72"]) == (384, 384, 72)


def test_a_fabric_is_listed_with_the_source_of_every_number(capsys: pytest.CaptureFixture[str]) -> None:
    """Every quantity of the specification is there with value, evidence class and source, also as JSON."""
    code, out, _ = run_cli(capsys, "fabrics", "nvl72")
    assert code == 0
    code, document, _ = run_cli(capsys, "fabrics", "nvl72", "--json", "-")
    assert code == 0
    quantities = json.loads(document)["quantities"]
    assert len(quantities) == len(fs.load_fabric("nvl72").quantities())
    for quantity in quantities:
        assert re.search(rf"^{re.escape(quantity['key'])} = .*\({quantity['evidence']}\)$", out, re.MULTILINE)
    assert "link.gpu-nvswitch.bandwidth = 50 GB/s (vendor)" in out
    assert "terminal.ejection_rate = unlimited (" in out


def test_a_fabric_is_listed_with_its_settings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What is no number comes before the numbers: kinds, names, defaults, what protocols and virtual channels carry."""
    own = tmp_path / "own.toml"
    count = '{ value = 2, source = "a test", evidence = "assumed" }'
    vcs = f'\n[vcs]\ncount = {count}\narbitration = "priority"\noperations = [["barrier", "send"]]\n'
    own.write_text(fs.load_fabric("cloudmatrix384").to_toml() + vcs, encoding="utf-8")
    code, out, _ = run_cli(capsys, "fabrics", str(own))
    assert code == 0
    code, document, _ = run_cli(capsys, "fabrics", str(own), "--json", "-")
    assert code == 0
    settings = json.loads(document)["settings"]
    before = out.partition("topology.planes = ")[0]
    for key, value, printed in (
        ("topology.kind", "clos", "clos"),
        ("topology.tiers", ["l1", "l2"], '["l1", "l2"]'),
        ("defaults.packet", "bulk", "bulk"),
        ("defaults.routing", "spray", "spray"),
        ("vcs.arbitration", "priority", "priority"),
        ("vcs.operations", [["barrier", "send"]], '[["barrier", "send"]]'),
        ("terminal.name", "npu", "npu"),
    ):
        assert settings[key] == value
        assert f"{key} = {printed}\n" in before
    protocols = fs.load_fabric("cloudmatrix384").terminal.protocol
    for name, protocol in protocols.items():
        assert tuple(settings[f"terminal.protocol.{name}.operations"]) == protocol.operations
    assert not {"name", "title", "description", "format"} & settings.keys()


def test_a_fabric_as_toml_is_a_start_for_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What --toml prints is a fabric file of the same fabric."""
    code, out, _ = run_cli(capsys, "fabrics", "cloudmatrix384", "--toml")
    own = tmp_path / "own.toml"
    own.write_text(out, encoding="utf-8")
    assert code == 0
    assert fs.load_fabric(own).spec_sha256 == fs.load_fabric("cloudmatrix384").spec_sha256


def test_trace_info_says_what_a_trace_holds(capsys: pytest.CaptureFixture[str], trace: str) -> None:
    """Rows, ranks, operations and what was recorded, also as JSON."""
    code, out, _ = run_cli(capsys, "trace", "info", trace)
    assert code == 0
    for words in (trace, "world (2 ranks)", "t_start_ns", "15 us", "aligned"):
        assert words in out
    assert re.search(r"all_to_all +2 +8,192 +8,192", out)
    code, out, _ = run_cli(capsys, "trace", "info", trace, "--json", "-")
    document = json.loads(out)
    assert (document["schema"], document["rows"]) == ("fabricsim.trace_summary/1", 4)


def test_trace_info_says_where_a_trace_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the shipped recording: format, origin, licence, files and what was inferred; long lists and hashes are cut."""
    code, out, _ = run_cli(capsys, "trace", "info", str(ROOT / "traces" / "dlrm-8rank.arrow"))
    assert code == 0
    source = Trace.open(ROOT / "traces" / "dlrm-8rank.arrow").metadata.source
    shown = " ".join(out.split())
    assert re.search(r"^source +kineto$", out, re.MULTILINE)
    for words in (source["origin"], source["licence"], *source["inferred"], source["files"][7]["name"], "(16 in all)"):
        assert words in shown
    assert source["files"][0]["sha256"][:16] + "..." in shown
    assert source["files"][8]["name"] not in shown
    assert max(map(len, out.splitlines())) <= 80


def test_trace_info_takes_several_files(capsys: pytest.CaptureFixture[str], trace: str, tmp_path: Path) -> None:
    """Each is summed up, apart from the others; JSON has one document for each, and none if a file cannot be read."""
    code, out, _ = run_cli(capsys, "trace", "info", trace, trace)
    assert code == 0
    assert out.count(f"{trace}, schema version") == 2
    assert f"\n\n{trace}, schema version" in out
    assert "\n\n\n" not in out
    code, out, _ = run_cli(capsys, "trace", "info", trace, trace, "--json", "-")
    assert [document["rows"] for document in json.loads(out)["results"]] == [4, 4]
    target = tmp_path / "info.json"
    code, out, err = run_cli(capsys, "trace", "info", "/no/such.arrow", trace, "--json", str(target))
    assert code == 2
    assert "/no/such.arrow: no such file" in err
    assert f"{trace}, schema version" in out
    assert not target.exists()


def test_trace_check_counts_what_is_sound(capsys: pytest.CaptureFixture[str], trace: str) -> None:
    """A sound trace ends with 0 and its counts."""
    code, out, _ = run_cli(capsys, "trace", "check", trace)
    assert (code, out) == (0, f"{trace}: ok, 4 rows: 2 collectives, 0 transfers, 0 local operations\n")


def test_trace_check_goes_through_all_files(capsys: pytest.CaptureFixture[str], trace: str, tmp_path: Path) -> None:
    """Each file has a verdict, on standard output if sound, else on standard error; the worst decides the exit code."""
    bad = write_table(BAD_TRACES["short collective"][0], tmp_path / "bad.arrow")
    code, out, err = run_cli(capsys, "trace", "check", trace, bad, "/no/such.arrow", trace)
    assert code == 3
    assert [line.split(",")[0] for line in out.splitlines()] == [f"{trace}: ok"] * 2
    assert [line.split(": ")[2] for line in err.splitlines()] == [bad, "/no/such.arrow"]
    assert run_cli(capsys, "trace", "check", "/no/such.arrow", trace)[0] == 2


def test_trace_import_writes_an_arrow_trace(capsys: pytest.CaptureFixture[str], shared: Path, tmp_path: Path) -> None:
    """The real recording becomes a trace that passes the check."""
    path = str(tmp_path / "dlrm.arrow")
    code, out, _ = run_cli(capsys, "trace", "import", "kineto", str(shared / "recordings" / "param-dlrm"), "-o", path)
    assert (code, out) == (0, f"{path}: 64 rows of 8 ranks\n")
    assert run_cli(capsys, "trace", "check", path)[0] == 0


def test_doctor_says_what_runs_here(capsys: pytest.CaptureFixture[str], fabric: str) -> None:
    """Versions, the kernel that auto picks and why, where compiled kernels are kept; also as JSON."""
    code, out, _ = run_cli(capsys, "doctor", fabric)
    assert code == 0
    assert re.search(r"^--kernel auto +(c|numba) \(auto: ", out, re.MULTILINE)
    assert re.search(r"^fabrics +tiny: no warnings", out, re.MULTILINE)
    code, out, _ = run_cli(capsys, "doctor", fabric, "--json", "-")
    assert json.loads(out)["schema"] == "fabricsim.doctor/1"


def test_warmup_says_what_it_did_and_where(capsys: pytest.CaptureFixture[str]) -> None:
    """The Numba kernel is kept in a named folder, from the second time on it was before; the others need nothing."""
    run_cli(capsys, "warmup", "--kernel", "numba")
    code, out, err = run_cli(capsys, "warmup", "--kernel", "numba")
    found = re.fullmatch(
        r"kernel numba \(asked for\): was compiled before, and loaded in \d+\.\d s; kept in (.+)\n", out
    )
    assert (code, err) == (0, "")
    assert found is not None
    assert len(list(Path(found[1]).rglob("kernel.run-*.nbc"))) == 2  # for plain fabrics, and for all
    code, out, err = run_cli(capsys, "warmup", *PYTHON_KERNEL)
    assert (code, err) == (0, "")
    assert out.startswith("kernel python (asked for): nothing to compile")


def test_warmup_that_keeps_nothing_fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that cannot be written is an error with its remedy: later runs would compile again."""

    def not_kept(report: Callable[[str], None]) -> tuple[bool, None]:
        report("compiling")
        return True, None

    monkeypatch.setattr("fabricsim.engine.warmup.warm_up", not_kept)
    code, out, err = run_cli(capsys, "warmup", "--kernel", "numba")
    assert (code, out) == (2, "")
    assert err.startswith("fabricsim: compiling\nfabricsim: error: warmup: the kernel compiled in ")
    assert "set NUMBA_CACHE_DIR" in err


def test_doctor_warns_of_a_fabric_that_cannot_run_at_full_rate(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A buffer of one packet is legal and slow."""
    tables = tiny_fabric().model_dump(exclude_none=True)
    tables["link"]["gpu-nvswitch"]["buffer"]["value"] = "288B"
    path = tmp_path / "short.toml"
    path.write_text(fs.FabricSpec(**tables).to_toml(), encoding="utf-8")
    code, out, _ = run_cli(capsys, "doctor", str(path))
    assert code == 0
    assert "fabrics           tiny: 2 warnings" in out
    assert "warning: tiny: packets bulk: the buffers behind gpu-nvswitch channels hold 288 B" in " ".join(out.split())


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints one line and ends with 0."""
    assert run_cli(capsys, "--version") == (0, f"fabricsim {fs.__version__}\n", "")


@pytest.mark.parametrize(
    "command",
    ["", "fabrics", "run", "replay", "trace", "trace info", "trace generate moe", "compare", "doctor", "warmup"],
)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """--help describes the command in at most 80 columns."""
    code, out, _ = run_cli(capsys, *command.split(), "--help")
    assert code == 0
    assert out.startswith("usage: fabricsim")
    assert max(map(len, out.splitlines())) <= 80


def test_examples_of_the_help_are_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """What the help shows as examples can be parsed as it stands."""
    from fabricsim.cli import EXAMPLES, build_parser

    examples = re.findall(r"^  fabricsim (.+)$", EXAMPLES, re.MULTILINE)
    assert len(examples) > 5
    for example in examples:
        assert build_parser().parse_args(example.split()).function


# ----------------------------------------------------------------------------------------------------------------------
# What is refused, each with one message and its exit code


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["run", "nvl27", "all_to_all", "--size", "1MiB"], r"unknown fabric 'nvl27' \(did you mean 'nvl72'"),
        (
            ["run", "nvl72", "all_to_al", "--size", "1MiB"],
            r"unknown collective 'all_to_al' \(did you mean 'all_to_all'",
        ),
        (["run", "nvl72", "all_to_all", "--size", "64Gb"], "did you mean 64GB .*or 8GB"),
        (["run", "nvl72", "all_to_all", "--size", "64"], "'64' has no unit; write one of 64 B, .*64 MiB"),
        (["run", "nvl72", "all_to_all", "--size", "1MiB,"], "'1MiB,' has an empty entry; write sizes with one comma"),
        (
            ["run", "cloudmatrix384", "all_to_all", "--size", "1MiB", "--ranks", "8", "--routing", "deterministic"],
            "routing deterministic has no effect on this run .*leave it out",
        ),
        (
            ["run", "nvl72", "all_to_all", "--size", "1MiB", "--ranks", "1", "--packet", "bulk"],
            "packet has no effect on this run .*nothing is sent .*leave it out",
        ),
        (["run", "nvl72", "all_to_all", "--size", "16B"], "round to zero.*use at least 1152 bytes"),
        (["run", "nvl72", "all_to_all"], "--size 64MiB"),
        (["run", "nvl72", "all_to_all", "--size", "1MiB", "--factor", "2"], "--size 64MiB"),
        (
            ["run", "nvl72", "all_to_all", "--size", "1MiB", "--ranks", "73"],
            "73 ranks do not fit on nvl72.*use at most 72 ranks",
        ),
        (["run", "nvl72", "all_to_all", "--size", "1MiB", "--algorithm", "ring"], "'ring'; known: direct, rotated"),
        (
            ["run", "nvl72", "all_to_all", "--size", "1MiB", "--kernel", "fortran"],
            "unknown kernel 'fortran'.*auto, numba, c, python",
        ),
        (["run", "nvl72", "all_to_all", "--size", "1MiB", "--threads", "0"], "give 1 or more"),
        (["run", "nvl72", "all_to_all", "--size", "1MiB", "--endpoint", "real"], "unknown endpoint .*fitted, ideal"),
        (
            ["run", "cloudmatrix384-mesh", "all_to_all", "--size", "1MiB", "--routing", "spray"],
            "has no effect.*leave it out",
        ),
        (["run", "nvl72", "all_to_all", "--size", "1MiB", "--packet", "jumbo"], "unknown packet format .*known: bulk"),
        (
            ["run", "nvl72", "all_to_all", "--size", "1MiB", "--placement", "/no/such/file"],
            "cannot read the placement.*linear, scatter or",
        ),
        (["run", "nvl72", "all_to_all", "--size", "1MiB", "--json", "/no/such/folder/x.json"], "there is no folder"),
        (["run", "nvl72", "all_to_all", "--size", "1MiB", "--json", "/"], "is a folder"),
        (
            ["run", "nvl72", "all_to_all", "--size", "1MiB", "--seed", "9" * 30],
            "does not fit 64 bits; use a smaller number",
        ),
        (["replay", "/no/such/trace.arrow", "--fabric", "nvl72"], "no such file; check the path"),
        (["trace", "check", "/no/such/trace.arrow"], "no such file"),
        (["trace", "import", "kineto", "/no/such/recording", "-o", "x.arrow"], "check the path and its permissions"),
        (["trace", "generate", "moe", "--ep", "3", "--tokens", "8", "-o", "x.arrow"], "redundant_experts=2 fits"),
        (["fabrics", "--toml"], "name it"),
        (["fabrics", "nvl72", "--toml", "--json", "-"], "leave --json out"),
        (["doctor", "nvl27"], r"did you mean 'nvl72'\?"),
    ],
)
def test_configuration_errors_end_with_2(
    capsys: pytest.CaptureFixture[str], argv: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, numbers, units and options that cannot be met."""
    monkeypatch.chdir(tmp_path)
    assert re.search(words, refused(capsys, 2, *argv))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "argv",
    [
        *([], ["walk"], ["run"], ["run", "nvl72", "all_to_all", "--siez", "1MiB"], ["replay", "x.arrow"], ["trace"]),
        ["trace", "generate", "moe", "--ep", "2", "--tokens", "4", "-o", "x.arrow", "--compression", "gzip"],
    ],
)
def test_usage_errors_end_with_2(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    """What is no command at all gets the usage on standard error."""
    code, out, err = run_cli(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith("usage: fabricsim")


@pytest.mark.parametrize("option", ["--size", "--json", "--seed"])
def test_an_option_given_twice_is_refused(capsys: pytest.CaptureFixture[str], option: str) -> None:
    """The last one would win in silence; --fabric of a replay is the one to repeat."""
    code, out, err = run_cli(capsys, "run", "nvl72", "all_to_all", option, "7", option, "8")
    assert (code, out) == (2, "")
    assert f"argument {option}: given twice; give it once" in err


def test_a_mode_without_effect_ends_with_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Back to back leaves out nothing of a trace without gaps, times and computation."""
    path = write_table(small_trace().table().drop_columns(["t_start_ns", "t_end_ns"]), tmp_path / "untimed.arrow")
    message = refused(capsys, 2, "replay", path, "--fabric", "nvl72", "--mode", "back-to-back")
    assert "'back-to-back' has no effect" in message
    assert "use mode 'dependency'" in message


def test_unknown_key_in_a_fabric_ends_with_2(capsys: pytest.CaptureFixture[str], fabric: str, tmp_path: Path) -> None:
    """File, key and the nearest known key are named."""
    path = tmp_path / "wrong.toml"
    path.write_text(
        Path(fabric).read_text().replace("gpu-nvswitch.bandwidth", "gpu-nvswitch.bandwith"), encoding="utf-8"
    )
    message = refused(capsys, 2, "run", str(path), "all_to_all", "--size", "1MiB")
    for words in (str(path), "bandwith", "bandwidth"):
        assert words in message


def changed_trace(changes: dict[str, Any]) -> pa.Table:
    """The small trace with other columns."""
    table = small_trace().table()
    for name, values in changes.items():
        table = table.set_column(table.column_names.index(name), table.schema.field(name), pa.array(values))
    return table


def all_reduces(rows: list[tuple[int, int]], *, world_size: int) -> pa.Table:
    """Rows of (rank, group_seq), in their order, of 64-byte all_reduces over a group of the ranks 0 and 1."""
    return trace_from_rows(
        [
            {"op": "all_reduce", "rank": rank, "group_id": 0, "group_seq": seq, "send_bytes": 64, "recv_bytes": 64}
            for rank, seq in rows
        ],
        world_size=world_size,
        groups=[{"id": 0, "ranks": [0, 1]}],
    ).table()


def write_table(table: pa.Table, path: Path) -> str:
    """Write a table as an Arrow file, unchecked."""
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    return str(path)


BAD_TRACES: dict[str, tuple[pa.Table, str]] = {
    "null size": (
        changed_trace({"send_bytes": pa.array([4_096, None, 100, 100], pa.int64())}),
        "send_bytes.*null|null.*send_bytes",
    ),
    "negative size": (changed_trace({"send_bytes": [4_096, -1, 100, 100]}), "send_bytes.*-1"),
    "rank out of its group": (
        all_reduces([(0, 0), (1, 0), (2, 0)], world_size=3),
        "row 2 .*column rank: 2 is not in group 0 .*mend the row or fabricsim.groups",
    ),
    "rank out of the world": (changed_trace({"rank": pa.array([0, 5, 0, 1], pa.int32())}), "row 1 .*column rank: .*5"),
    "short collective": (small_trace().table().slice(0, 3), "incomplete"),
    "crossed orders": (
        all_reduces([(0, 0), (0, 1), (1, 1), (1, 0)], world_size=2),
        "crossed orders would deadlock: .*group_seq 1.* before .*group_seq 0.*To mend it, record operations in one",
    ),
}


@pytest.mark.parametrize("fault", BAD_TRACES)
@pytest.mark.parametrize("command", ["check", "replay"])
def test_bad_traces_end_with_3(capsys: pytest.CaptureFixture[str], fault: str, command: str, tmp_path: Path) -> None:
    """Found before the run, by the check and by the replay alike; the file is named."""
    table, words = BAD_TRACES[fault]
    path = write_table(table, tmp_path / "bad.arrow")
    argv = ["trace", "check", path] if command == "check" else ["replay", path, "--fabric", "nvl72"]
    message = refused(capsys, 3, *argv)
    assert path in message
    assert re.search(words, message)


def test_splits_that_do_not_sum_end_with_3(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Row and column of the list are named."""
    path = tmp_path / "moe.arrow"
    small = ("--hidden", "128", "--experts", "4", "--top-k", "2")
    assert run_cli(capsys, "trace", "generate", "moe", "--ep", "2", "--tokens", "4", *small, "-o", str(path))[0] == 0
    table = Trace.open(path).table()
    more = pc.add(table["send_bytes"], 1)
    table = table.set_column(table.column_names.index("send_bytes"), table.schema.field("send_bytes"), more)
    message = refused(capsys, 3, "replay", write_table(table, tmp_path / "bad.arrow"), "--fabric", "nvl72")
    assert "send_bytes_per_peer" in message


def test_a_truncated_file_ends_with_3(capsys: pytest.CaptureFixture[str], trace: str, tmp_path: Path) -> None:
    """A file that lost its end is named as such."""
    path = tmp_path / "cut.arrow"
    path.write_bytes(Path(trace).read_bytes()[:-100])
    assert str(path) in refused(capsys, 3, "replay", str(path), "--fabric", "nvl72")


def test_a_stream_where_a_file_is_expected_ends_with_3(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The message says that it is a stream, and how to convert it."""
    path = tmp_path / "stream.arrow"
    table = small_trace().table()
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    assert "stream" in refused(capsys, 3, "replay", str(path), "--fabric", "nvl72")


def test_recorded_mode_needs_recorded_times(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """--mode recorded on a trace without times is refused, not ignored."""
    path = write_table(small_trace().table().drop_columns(["t_start_ns", "t_end_ns"]), tmp_path / "untimed.arrow")
    assert "t_start_ns" in refused(capsys, 3, "replay", path, "--fabric", "nvl72", "--mode", "recorded")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (fs.ConfigError("c"), 2),
        (fs.TraceError("t"), 3),
        (fs.StallError("s"), 4),
        (fs.SelfCheckError("f"), 5),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_each_failure_of_a_run_has_its_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    """What ends a run, a stall or Ctrl-C for instance, decides the exit code and leaves one line."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(run, "run_blocks", fail)
    returned, out, err = run_cli(capsys, "run", "nvl72", "broadcast", "--size", "1KiB")
    assert (returned, out) == (code, "")
    assert err.startswith("fabricsim: ")
    assert err.count("\n") == 1


def test_a_lost_credit_ends_with_4_and_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fabric: str
) -> None:
    """A run in which nothing can move any more names the first blocked message, its channel and the missing credit."""

    def allocate_without_credit(*arguments: Any) -> State:
        state = allocate(*arguments)
        state.channels["room_bytes"][state.channels["injector"] == NONE] = 1
        return state

    monkeypatch.setattr("fabricsim.engine.driver.allocate", allocate_without_credit)
    err = refused(capsys, 4, "run", fabric, "all_to_all", "--size", "4KiB", "--no-fold", *PYTHON_KERNEL)
    assert re.search(
        r"stalled at .* us: 4 of 4 tasks cannot end\. message \d+ of 'all_to_all' \(rank \d to rank \d, 1024 B\) "
        r"waits at channel .* -> .*: its next packet needs \d+ B of credit, 1 B of the \d+ B buffer are free",
        err,
    )


def test_sigterm_ends_with_143(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminated run ends with a sentence; afterwards the signal means what it did before."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(run, "run_blocks", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    returned, out, err = run_cli(capsys, "run", "nvl72", "broadcast", "--size", "1KiB")
    assert (returned, out) == (143, "")
    assert "terminated" in err
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_is_done_is_shown_when_a_later_run_fails(
    capsys: pytest.CaptureFixture[str], fabric: str, trace: str, tmp_path: Path
) -> None:
    """The first fabric's table is printed, the second's error decides the exit code, and no document is written."""
    placement = tmp_path / "placement"
    placement.write_text("70\n71\n")
    target = tmp_path / "result.json"
    code, out, err = run_cli(
        *(capsys, "replay", trace, "--fabric", "nvl72", "--fabric", fabric, "--placement", str(placement)),
        *("--json", str(target), *PYTHON_KERNEL),
    )
    assert code == 2
    assert "nvl72 (72 terminals" in out
    assert "there is no terminal 70 on tiny" in err
    assert not target.exists()


def test_a_closed_pipe_ends_quietly() -> None:
    """When the reader of standard output has gone, the program ends without a traceback, and not with 0."""
    command = [sys.executable, "-m", "fabricsim", "fabrics"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_colours_are_for_terminals(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No escape codes without a terminal; on one there are, unless NO_COLOR is set (https://no-color.org)."""
    assert "\x1b" not in run_cli(capsys, "fabrics", "nvl72")[1]
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[1m" in run_cli(capsys, "fabrics", "nvl72")[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in run_cli(capsys, "fabrics", "nvl72")[1]


def test_faults_are_run_and_shown(capsys: pytest.CaptureFixture[str], fabric: str) -> None:
    """``--fault`` may be given more than once, each is shown, and what it cuts off is a usage error."""
    sizes = ("run", fabric, "all_to_all", "--size", "4KiB", *PYTHON_KERNEL)
    code, out, _ = run_cli(capsys, *sizes, "--fault", "plane:1", "--fault", "arrival_skew:2=1us")
    assert code == 0
    assert "fault plane:1\nfault arrival_skew:2=1us\n" in out
    assert "no way from gpu0 to gpu1" in refused(capsys, 2, *sizes, "--fault", "plane:0", "--fault", "plane:1")
    code, out, _ = run_cli(capsys, *sizes, "--fault", "plane:1", "--set", "terminal.slots=2", "--estimate")
    assert code == 0
    assert "set by the user: terminal.slots = 2\nfault plane:1\n" in out


def test_one_fault_after_another(capsys: pytest.CaptureFixture[str], fabric: str, tmp_path: Path) -> None:
    """A table, worst first, what stands in for what, and the same as a document."""
    path = tmp_path / "faults.json"
    argv = ("faults", fabric, "all_to_all", "--each", "switch", "--size", "64KiB", *PYTHON_KERNEL)
    code, out, err = run_cli(capsys, *argv, "--json", str(path))
    assert (code, err) == (0, "")
    assert "2 faults, 1 of\nthem simulated" in out
    assert "switch:nvswitch.0.0, switch:nvswitch.0.1" in out
    document = json.loads(path.read_text(encoding="utf-8"))
    assert [row["fault"] for row in document["faults"]] == ["switch:nvswitch.0.0", "switch:nvswitch.0.1"]
    assert document["faults"][0]["slowdown"] > 1
    assert "known: switch, link, plane" in refused(capsys, 2, *argv[:4], "gpu", *argv[5:])


def test_a_fault_sweep_takes_numbers_and_racks(capsys: pytest.CaptureFixture[str], fabric: str) -> None:
    """They are set as for ``run``, stand in the document, and unknown ones are refused."""
    sweep = ("faults", fabric, "all_to_all", "--each", "plane", "--size", "64KiB", *PYTHON_KERNEL)
    code, out, _ = run_cli(capsys, *sweep, "--set", "link.gpu-nvswitch.latency=1 us", "--json", "-")
    assert code == 0
    assert json.loads(out)["fabric"]["overrides"] == {"link.gpu-nvswitch.latency": "1 us"}
    assert "no quantity 'terminal.slot'" in refused(capsys, 2, *sweep, "--set", "terminal.slot=3")
    assert "no quantity 'scale_out.racks'" in refused(capsys, 2, *sweep, "--racks", "2")
    argv = ("--each", "plane", "--size", "1KiB", "--ranks", "4", "--racks", "2", *PYTHON_KERNEL)
    code, out, _ = run_cli(capsys, "faults", "nvl72", "all_to_all", *argv, "--json", "-")
    assert code == 0
    assert json.loads(out)["fabric"]["overrides"] == {"scale_out.racks": "2"}


def test_a_fault_sweep_is_of_one_collective(capsys: pytest.CaptureFixture[str], fabric: str) -> None:
    """Those of experts go by tokens; several sizes and none are refused."""
    each = ("--each", "plane", *PYTHON_KERNEL)
    code, out, _ = run_cli(capsys, "faults", fabric, "moe_dispatch", "--tokens", "8", "--skew", "0.5", *each)
    assert code == 0
    assert "moe_dispatch" in out
    several = refused(capsys, 2, "faults", fabric, "all_to_all", "--size", "1MiB,2MiB", *each)
    assert "--size 1MiB,2MiB names 2 workloads, and faults are compared on one; give one" in several
    assert "--tokens 8,9 names 2 workloads" in refused(
        capsys, 2, "faults", fabric, "moe_combine", "--tokens", "8,9", *each
    )
    assert "all_to_all needs a size" in refused(capsys, 2, "faults", fabric, "all_to_all", *each)
    assert "give --tokens" in refused(capsys, 2, "faults", fabric, "moe_combine", "--size", "1KiB", *each)


def test_two_racks_take_faults(capsys: pytest.CaptureFixture[str]) -> None:
    """Without ``--racks`` there are fewer terminals than ranks, so it counts, whatever is broken."""
    argv = ("run", "nvl72", "all_to_all", "--size", "16KiB", "--ranks", "73", "--racks", "2", *PYTHON_KERNEL)
    code, out, _ = run_cli(capsys, *argv, "--fault", "arrival_skew:72=1us")
    assert code == 0
    assert "set by the user: scale_out.racks = 2\nfault arrival_skew:72=1us\n" in out
