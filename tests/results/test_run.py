from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fabricsim as fs
from fabricsim.engine.driver import Progress
from fabricsim.results.run import collective_sweep, load_trace, replay, simulate, sweep_sizes
from fabricsim.workloads.schedule import Schedule
from tests.oracle.cases import OperationDraft, TaskDraft, build_schedule
from tests.results import small

TRACES = Path(__file__).resolve().parents[2] / "traces"


def exchange(ranks: int = 4, size: str = "4KiB") -> Schedule:
    """An all-to-all small enough for an uncompiled kernel."""
    return fs.collective("all_to_all", size=size, ranks=ranks)


def test_simulate_runs_a_collective(tiny: fs.FabricSpec) -> None:
    """4 KiB over 4 ranks are 1,024 B per pair, so 512 B per plane: two packets, over two hops each."""
    result = simulate(tiny, exchange(), kernel="python")
    assert (result.record.packets, result.record.packet_hops) == (4 * 3 * 2 * 2, 4 * 3 * 2 * 2 * 2)
    (row,) = result.ops.to_pylist()
    assert (row["op"], row["algorithm"], row["ranks"], row["size_bytes"]) == ("all_to_all", "direct", 4, 4_096)
    assert row["lower_bound_ps"] <= row["time_ps"]


def test_a_fabric_may_be_named_by_its_path(tiny: fs.FabricSpec, tiny_path: Path) -> None:
    """A path, text or not, is loaded; the result is that of the loaded fabric."""
    loaded = simulate(tiny, exchange(), kernel="python")
    for path in (tiny_path, str(tiny_path)):
        result = simulate(path, exchange(), kernel="python")
        assert (result.digest, result.info.spec.spec_sha256) == (loaded.digest, loaded.info.spec.spec_sha256)


def test_placement_is_part_of_the_run(tiny: fs.FabricSpec) -> None:
    """Two of four terminals, spread or listed; the summary says which way."""
    for placement, terminals, said in (("scatter", [0, 2], "scatter"), ([3, 1], [3, 1], "explicit")):
        result = simulate(tiny, exchange(ranks=2), kernel="python", placement=placement)
        assert result.terminal_of_rank.tolist() == terminals
        assert result.summary()["workload"]["placement"] == said


def test_an_ideal_endpoint_adds_nothing(tiny: fs.FabricSpec) -> None:
    """Without launch latency and overhead one message takes its wires: 4 packets in a row and 500 ns of latency.

    2,048 B from each of two ranks to the other: 1,024 B, so 512 B per plane, two packets of ceil(288 * 20) ps.
    """
    result = simulate(tiny, exchange(ranks=2, size="2KiB"), kernel="python", endpoint="ideal")
    assert result.simulated_time_ps == 2 * 288 * 20 + 2 * 250_000
    assert result.summary()["fabric"]["endpoint"] == "ideal"


def test_an_ideal_endpoint_without_effect_is_refused(tiny: fs.FabricSpec) -> None:
    """A fabric whose terminals add nothing is already ideal."""
    tables = tiny.model_dump(exclude_none=True)
    for key, value in (("launch_latency", "0 us"), ("message_overhead", "0 us"), ("copy_rate", "unlimited")):
        tables["terminal"][key]["value"] = value
    del tables["terminal"]["protocol"]
    with pytest.raises(fs.ConfigError, match="endpoint ideal has no effect on this run on tiny"):
        simulate(fs.FabricSpec(**tables), exchange(), kernel="python", endpoint="ideal")


def test_an_endpoint_of_the_fabric_copies_at_its_own_rate(tiny: fs.FabricSpec) -> None:
    """Of two packets per plane the first takes 256 * 50 ps at 20 GB/s per channel in place of 288 * 20 of wire."""
    slow = tiny.with_overrides({"terminal.endpoint.sm_write.copy_rate": "40 GB/s"})
    fitted = simulate(tiny, exchange(ranks=2, size="2KiB"), kernel="python")
    result = simulate(slow, exchange(ranks=2, size="2KiB"), kernel="python", endpoint="sm_write")
    assert result.simulated_time_ps - fitted.simulated_time_ps == 256 * 50 - 288 * 20
    assert result.summary()["fabric"]["endpoint"] == "sm_write"


def test_an_endpoint_of_the_fabric_needs_an_effect(tiny: fs.FabricSpec) -> None:
    """On two planes no copy rate of the file limits; without the endpoint its rate is idle, with it the terminal's."""
    with pytest.raises(fs.ConfigError, match="endpoint sm_write has no effect on this run on tiny"):
        simulate(tiny, exchange(), kernel="python", endpoint="sm_write")
    slow = tiny.with_overrides({"terminal.endpoint.sm_write.copy_rate": "40 GB/s"})
    with pytest.raises(fs.ConfigError, match=r"setting terminal\.endpoint\.sm_write\.copy_rate=40 GB/s has no effect"):
        simulate(slow, exchange(), kernel="python")
    with pytest.raises(fs.ConfigError, match=r"setting terminal\.copy_rate=10 GB/s has no effect"):
        simulate(
            slow.with_overrides({"terminal.copy_rate": "10 GB/s"}), exchange(), kernel="python", endpoint="sm_write"
        )


def test_progress_is_reported(tiny: fs.FabricSpec) -> None:
    """The last report has everything delivered, of two folded planes what the one for both carries."""
    for fold, packets in ((False, 48), (True, 24)):
        reports: list[Progress] = []
        simulate(tiny, exchange(), kernel="python", fold=fold, progress=reports.append)
        assert reports[-1].delivered_packets == reports[-1].total_packets == packets


def test_a_schedule_that_cannot_run_is_refused(tiny: fs.FabricSpec) -> None:
    """A hand-made schedule is checked before a kernel sees it."""
    schedule = exchange()
    tasks = dataclasses.replace(schedule.tasks, rank=schedule.tasks.rank + np.int32(9))
    with pytest.raises(fs.TraceError):
        simulate(tiny, dataclasses.replace(schedule, tasks=tasks), kernel="python")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kernel": "fortran"}, "unknown kernel 'fortran'"),
        ({"threads": 0}, "give 1 or more"),
        ({"routing": "spray"}, "routing spray has no effect on tiny"),
        ({"packet": "bulky"}, "unknown packet format 'bulky'"),
        ({"endpoint": "perfect"}, "unknown endpoint 'perfect'"),
        ({"placement": "scatter"}, "scatter has no effect"),
        ({"seed": 2**63}, "does not fit 64 bits"),
    ],
)
def test_options_that_cannot_be_met_are_refused(tiny: fs.FabricSpec, options: dict[str, object], words: str) -> None:
    """Unknown names, and options that make no difference to this run, are configuration errors."""
    with pytest.raises(fs.ConfigError, match=words):
        simulate(tiny, exchange(), **{"kernel": "python", **options})


#: What a summary says of how it was computed: it may change with folding.
ENGINE_FIGURES = ("threads", "folded", "folding", "wall_s", "packet_hops_simulated", "packet_hops_per_s")


def assert_folding_changes_nothing(run: Callable[..., fs.Result], folded: fs.Result) -> None:
    """Compare a run with the one that simulates every plane: digest, tables, and the summary but for the engine's."""
    whole = run(fold=False)
    figures, expected = folded.summary(), whole.summary()
    assert (figures["folded"], expected["folded"]) == (True, False)
    assert figures["folding"] == f"{folded.network.num_planes} planes as 1"
    assert expected["folding"] == "switched off"
    assert figures["packet_hops_simulated"] * folded.network.num_planes == expected["packet_hops_simulated"]
    assert figures["digest"] == expected["digest"]
    for table in ("ops", "tasks", "messages", "channels"):
        assert getattr(folded, table).equals(getattr(whole, table)), table
    for name in ENGINE_FIGURES:
        del figures[name], expected[name]
    assert figures == expected


@pytest.mark.parametrize("endpoint", ["fitted", "ideal"])
@pytest.mark.parametrize(
    ("fabric", "options"),
    [
        ("nvl72", {}),
        ("cloudmatrix384", {"placement": "scatter"}),
        ("cloudmatrix384", {"placement": "scatter", "routing": "deterministic"}),
    ],
)
@pytest.mark.parametrize("op", ["all_to_all", "all_reduce"])
def test_folding_changes_no_figure(op: str, fabric: str, options: dict[str, Any], endpoint: str) -> None:
    """Every message of 24 ranks, of 6 KiB, uses all planes of either fabric."""
    run = partial(simulate, fabric, fs.collective(op, size="144KiB", ranks=24), endpoint=endpoint, **options)
    assert_folding_changes_nothing(run, run())


@pytest.mark.parametrize("name", [path.name for path in sorted(TRACES.glob("*.arrow"))])
def test_folding_changes_no_figure_of_a_trace(name: str) -> None:
    """On CloudMatrix 384 a trace folds if it has no message below 3 KiB and a byte, which fills its 7 planes."""
    run = partial(replay, TRACES / name, "cloudmatrix384")
    result = run()
    sizes = result.messages["size_bytes"].to_numpy()
    smallest = int(sizes[sizes > 0].min())
    if smallest > 6 * 512:
        assert_folding_changes_nothing(run, result)
    else:
        assert result.info.folding == f"a message of {smallest} B uses {-(-smallest // 512)} of 7 planes"


def test_a_stall_says_that_planes_were_folded(tiny: fs.FabricSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence of a folded run speaks of one plane, and says so; that of any other run is left as it is."""

    def stall(*_: object, **__: object) -> None:
        raise fs.StallError("stalled")

    monkeypatch.setattr("fabricsim.results.run.run_blocks", stall)
    with pytest.raises(fs.StallError, match=r"^stalled \(folded: 2 planes as 1, so .* --no-fold or fold=False"):
        simulate(tiny, exchange(), kernel="python")
    with pytest.raises(fs.StallError, match=r"^stalled$"):
        simulate(tiny, exchange(), kernel="python", fold=False)


def test_replay_takes_a_trace_a_path_or_a_table(tiny: fs.FabricSpec, small_trace: fs.Trace, tmp_path: Path) -> None:
    """All three give the same times; the summary says what was replayed."""
    path = tmp_path / "small.arrow"
    small_trace.write(path)
    results = [replay(source, tiny, kernel="python") for source in (small_trace, path, small_trace.table())]
    assert len({result.digest for result in results}) == 1
    assert [row["op"] for row in results[0].ops.to_pylist()] == ["all_to_all", "all_reduce"]
    assert results[1].summary()["workload"]["trace"] == str(path)
    assert results[1].summary()["workload"]["mode"] == "dependency"


def test_a_summary_says_what_the_schedule_is(tiny: fs.FabricSpec) -> None:
    """A collective is one by whatever way it was made; other operations, or several, are a schedule."""
    sweep = {"sizes": "4KiB", "min_size": None, "max_size": None, "factor": None, "algorithm": None}
    (swept,) = collective_sweep("all_to_all", ranks=4, **sweep)
    for workload in (exchange(), swept):
        about = simulate(tiny, workload, kernel="python").summary()["workload"]
        assert (about["kind"], about["collective"]) == ("collective", "all_to_all")
    one = exchange()
    other = dataclasses.replace(one, operations=(dataclasses.replace(one.operations[0], algorithm="mine"),))
    about = simulate(tiny, other, kernel="python").summary()["workload"]
    assert about["kind"] == "schedule"
    assert "collective" not in about


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"workload": "all_to_all"}, "the workload is a str; give what fabricsim.collective returns"),
        ({"workload": small.small_trace()}, "the workload is a Trace; .*a trace is for fabricsim.replay"),
        ({"fabric": 72}, "the fabric is a int; give a name"),
        ({"seed": 1.5}, "seed is 1.5, which is not a whole number"),
        ({"seed": True}, "seed is True, which is not a whole number"),
        ({"placement": [1.7, 2, 0, 3]}, r"placement\[0\] is 1.7, which is not a whole number"),
        ({"placement": 3}, "placement is 3; give linear, scatter"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused(tiny: fs.FabricSpec, arguments: dict[str, Any], words: str) -> None:
    """One sentence that names the argument and what to give, never a TypeError from inside."""
    with pytest.raises(fs.ConfigError, match=words):
        simulate(**{"fabric": tiny, "workload": exchange(), "kernel": "python", **arguments})


def test_numpy_integers_are_integers(tiny: fs.FabricSpec) -> None:
    """Size, ranks, seed and placement may come from arrays."""
    workload = fs.collective("all_to_all", size=np.int64(4_096), ranks=np.int32(2))
    result = simulate(tiny, workload, kernel="python", seed=np.int64(7), placement=np.array([3, 1]))
    assert result.terminal_of_rank.tolist() == [3, 1]
    assert result.summary()["seed"] == 7


def test_routing_is_that_of_the_traffic() -> None:
    """Under one first switch of CloudMatrix 384 no packet has a choice; between two nodes each has."""
    near = simulate("cloudmatrix384", exchange(ranks=2), kernel="python")
    far = simulate("cloudmatrix384", exchange(ranks=2), kernel="python", placement="scatter", routing="deterministic")
    assert (near.routing, far.routing) == (None, "deterministic")
    with pytest.raises(fs.ConfigError, match="routing deterministic has no effect on this run on cloudmatrix384"):
        simulate("cloudmatrix384", exchange(ranks=2), kernel="python", routing="deterministic")


@pytest.mark.parametrize("option", [{"packet": "bulk"}, {"placement": "linear"}])
def test_options_of_packets_need_packets(tiny: fs.FabricSpec, option: dict[str, str]) -> None:
    """One rank alone sends nothing, so nothing tells its format or its place."""
    (name,) = option
    with pytest.raises(fs.ConfigError, match=f"{name} has no effect on this run on tiny: nothing is sent"):
        simulate(tiny, exchange(ranks=1), kernel="python", **option)


def test_an_ideal_endpoint_needs_something_to_leave_out(tiny: fs.FabricSpec) -> None:
    """A computation is not launched and sends nothing."""
    draft = OperationDraft([TaskDraft(0, gap_ps=5, launches=False)])
    assert simulate(tiny, build_schedule(1, [draft]), kernel="python").simulated_time_ps == 5
    with pytest.raises(fs.ConfigError, match="endpoint ideal has no effect on this run on tiny"):
        simulate(tiny, build_schedule(1, [draft]), kernel="python", endpoint="ideal")


def test_a_recorded_placement_is_that_of_the_replay(tiny: fs.FabricSpec, small_trace: fs.Trace) -> None:
    """The trace says where its ranks were; a placement that is asked for wins; the summary says which it was."""
    metadata = dataclasses.replace(small_trace.metadata, placement=(3, 1)).to_arrow()
    trace = fs.Trace.from_table(small_trace.table().replace_schema_metadata(metadata))
    for placement, terminals, said in (
        (None, [3, 1], "recorded"),
        ("linear", [0, 1], "linear"),
        ([2, 0], [2, 0], "explicit"),
    ):
        result = replay(trace, tiny, kernel="python", placement=placement)
        assert result.terminal_of_rank.tolist() == terminals
        assert result.summary()["workload"]["placement"] == said
    assert replay(small_trace, tiny, kernel="python").summary()["workload"]["placement"] == "linear"


def test_recorded_times_stand_beside_simulated_ones(tiny: fs.FabricSpec, small_trace: fs.Trace) -> None:
    """The recording took 2,000 ns less the skew of 1 ns: from its last start to its last end."""
    result = replay(small_trace, tiny, kernel="python", mode="recorded")
    assert [row["recorded_ps"] for row in result.ops.to_pylist()] == [1_999_000, 1_999_000]
    assert [op["recorded_us"] for op in result.summary()["ops"]] == [1.999, 1.999]


def test_an_unsound_trace_is_refused(tiny: fs.FabricSpec, small_trace: fs.Trace) -> None:
    """A trace that lacks a rank of a collective is not replayed."""
    with pytest.raises(fs.TraceError, match="incomplete"):
        replay(small_trace.table().slice(0, 3), tiny, kernel="python")


def test_an_unknown_mode_is_refused(small_trace: fs.Trace) -> None:
    """The nearest mode is named."""
    with pytest.raises(fs.ConfigError, match="recorded"):
        load_trace(small_trace, mode="recordet")


def test_sizes_are_listed_or_swept() -> None:
    """A list is taken as it is; a sweep doubles, or steps by the factor given."""

    def sizes(**options: object) -> list[int]:
        none = dict.fromkeys(("sizes", "min_size", "max_size", "factor", "algorithm"))
        return [
            next(iter(workload.blocks)).schedule.operations[0].size_bytes
            for workload in collective_sweep("broadcast", ranks=2, **{**none, **options})
        ]

    assert sizes(sizes="1KiB,3MB") == [1_024, 3_000_000]
    assert sizes(min_size="1KiB", max_size="5KiB") == [1_024, 2_048, 4_096]
    assert sizes(min_size="1B", max_size="100B", factor=10) == [1, 10, 100]
    for empty in ("1KiB,", ",1KiB", "", "1KiB, ,2KiB"):
        with pytest.raises(fs.ConfigError, match="has an empty entry"):
            sizes(sizes=empty)
    for wrong in ({}, {"min_size": "1B"}, {"max_size": "1B"}, {"sizes": "1B", "factor": 2}, {"factor": 2}):
        with pytest.raises(fs.ConfigError, match="--size 64MiB"):
            sizes(**wrong)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((0, 8, 2), "span no sizes"), ((8, 4, 2), "span no sizes"), ((1, 8, 1), "does not grow")],
)
def test_empty_and_endless_sweeps_are_refused(arguments: tuple[int, int, int], words: str) -> None:
    """A sweep needs a first size, a last one and a step."""
    with pytest.raises(fs.ConfigError, match=words):
        sweep_sizes(*arguments)
