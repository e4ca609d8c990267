from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given

import fabricsim as fs
from fabricsim.engine.driver import Progress, Simulation
from fabricsim.engine.folding import fold
from fabricsim.results import estimate as module
from fabricsim.results.estimate import Calibration, Estimate, Load, estimate, most_packet_rows
from fabricsim.results.routes import find_routes
from fabricsim.results.run import Workload, collective_sweep, load_trace, simulate
from fabricsim.results.traffic import message_traffic
from fabricsim.workloads.schedule import ScheduleBlocks
from tests.oracle.cases import Case, cases
from tests.results import small
from tests.results.test_results_page import PAGE, fields, table


def workload(op: str, size: str, ranks: int, algorithm: str | None = None) -> Workload:
    """One collective."""
    (made,) = collective_sweep(
        op, sizes=size, min_size=None, max_size=None, factor=None, ranks=ranks, algorithm=algorithm
    )
    return made


def changed_fabric(class_name: str, **changes: str) -> fs.FabricSpec:
    """The tiny fabric with other numbers of the links between GPUs and switches."""
    tables = small.tiny_fabric().model_dump(exclude_none=True)
    for key, value in changes.items():
        tables["link"][class_name][key]["value"] = value
    return fs.FabricSpec(**tables)


CASES: dict[str, tuple[str, Workload, dict[str, Any]]] = {
    "folded": ("tiny", workload("all_to_all", "8KiB", 4), {}),
    "not folded": ("tiny", workload("all_to_all", "8KiB", 4), {"fold": False}),
    "messages on one plane": ("tiny", workload("all_to_all", "1KiB", 4), {}),
    "a ring": ("tiny", workload("all_reduce", "5000B", 3), {}),
    "a tree": ("tiny", workload("broadcast", "6000B", 4), {}),
    "a trace": ("tiny", load_trace(small.small_trace()), {}),
    "two tiers, near and far": ("cloudmatrix384", workload("all_to_all", "9KiB", 9), {}),
    "two tiers, all far": ("cloudmatrix384", workload("send_recv", "64KiB", 3), {"placement": "scatter"}),
    "a mesh": ("cloudmatrix384-mesh", workload("all_to_all", "10000B", 5), {}),
    "faults": ("tiny", workload("all_to_all", "64KiB", 4), {"faults": ["plane:1", "arrival_skew:1=1us"]}),
    "in the network": ("nvl72", workload("all_reduce", "500KiB", 5, "sharp"), {}),
    "in the network, not folded": ("hgx-h100", workload("all_gather", "5KiB", 3, "sharp"), {"fold": False}),
    "nothing between terminals": ("nvl72", workload("all_to_all", "1KiB", 1), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_packet_hops_are_those_of_the_run(tiny: fs.FabricSpec, case: str) -> None:
    """Packets, packet-hops and those that the engine does, threads and folding: what the run then says."""
    name, work, options = CASES[case]
    fabric = tiny if name == "tiny" else fs.load_fabric(name)
    expected = simulate(fabric, work, kernel="python", **options).summary()
    found = estimate(fabric, work, kernel="python", **options).summary()
    same = ("kernel", "kernel_reason", "threads", "folded", "folding", "packets", "packet_hops")
    assert {key: found[key] for key in same} == {key: expected[key] for key in same}
    assert found["packet_hops_simulated"] == expected["packet_hops_simulated"]
    for part in ("fabric", "workload"):
        assert found[part].items() <= expected[part].items()


@pytest.mark.parametrize(
    "work",
    [workload("all_to_all", "256KiB", 4), workload("all_to_all", "250000B", 4), workload("broadcast", "64KiB", 4)],
    ids=["all to all", "with short last packets", "broadcast"],
)
@pytest.mark.parametrize("buffer", ["4KiB", "1MiB"])
@pytest.mark.parametrize("folds", [True, False])
def test_memory_holds_the_tables_after_the_run(work: Workload, buffer: str, folds: bool) -> None:
    """Tables are as large as foretold, and packets in flight no larger, with scarce and with ample buffers."""
    fabric = changed_fabric("gpu-nvswitch", buffer=buffer)
    network, terminals = fabric.network(), np.arange(4, dtype=np.int32)
    (schedule,) = (block.schedule for block in work.blocks)
    if folds:
        folding = fold(network, [schedule], terminals)
        assert folding.folded
        simulation = Simulation(folding.network, folding.schedule(schedule), terminals)
    else:
        simulation = Simulation(network, schedule, terminals)
    simulation.run()
    packets_bytes = simulation.state.packets.nbytes
    memory = estimate(fabric, work, fold=folds).memory
    assert memory.tables_bytes == sum(rows.nbytes for rows in simulation.state) - packets_bytes
    assert memory.packets_bytes >= packets_bytes
    if memory.process_bytes is not None:
        assert memory.process_bytes > 10 * 2**20  # an interpreter with NumPy
        assert memory.total_bytes == memory.process_bytes + memory.tables_bytes + memory.packets_bytes


@given(case=cases())
def test_hops_and_tables_are_those_of_any_run(case: Case) -> None:
    """Whatever the network and the load: channels carry what is said, packets stay in bounds, other tables as long."""
    terminals = np.array(case.terminal_of_rank, np.int32)
    simulation = Simulation(case.network, case.schedule, terminals, seed=case.seed)
    begin = simulation.state
    load = Load(simulation.network, len(begin.domains))
    load.add(message_traffic(simulation.network, case.schedule, terminals))
    most_rows, _ = most_packet_rows(load, begin)
    lengths = [{len(way.rates) for way in kind.ways} for kind in find_routes(simulation.network).kinds]
    ran = simulation.run().packet_hops
    assert ran == load.packet_hops if max(map(len, lengths)) == 1 else ran <= load.packet_hops
    assert len(simulation.state.packets) <= most_rows
    others = [name for name in begin._fields if name not in ("packets", "relays")]
    for name in others:
        assert len(getattr(simulation.state, name)) == len(getattr(begin, name)), name


def test_memory_of_short_packets_is_theirs() -> None:
    """A buffer holds many more packets of 1 B than full ones."""
    fabric = changed_fabric("gpu-nvswitch", buffer="4KiB")
    schedule = small.one_operation(*((source, 0, 1) for source in (1, 2, 3) for _ in range(400)))
    simulation = Simulation(fabric.network(endpoint="ideal"), schedule, small.linear(schedule))
    simulation.run()
    memory = estimate(
        fabric, Workload(ScheduleBlocks.of(schedule), {"kind": "schedule"}), endpoint="ideal", fold=False
    ).memory
    assert memory.packets_bytes >= simulation.state.packets.nbytes


def test_a_long_run_is_left(tiny: fs.FabricSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the calibration nothing more is run; the rest is taken to go at the same rate."""
    monkeypatch.setattr(module, "CALIBRATION_S", 0.0)
    reports: list[Progress] = []
    found = estimate(tiny, workload("all_to_all", "1MiB", 4), kernel="python", progress=reports.append)
    calibration = found.calibration
    assert len(reports) == 1
    assert not calibration.whole
    assert 0 < calibration.packet_hops < found.packet_hops_simulated
    assert found.engine_s == pytest.approx(
        calibration.elapsed_s * found.packet_hops_simulated / calibration.packet_hops
    )
    assert found.time_s == found.engine_s + calibration.setup_s


def test_a_short_run_is_its_own_measure(tiny: fs.FabricSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends within the calibration, if at its very end, is all of what was measured."""
    monkeypatch.setattr(module, "CALIBRATION_S", 0.0)
    found = estimate(tiny, workload("all_to_all", "1KiB", 4), kernel="python", threads=1)
    assert found.calibration.whole
    assert found.calibration.packet_hops == found.packet_hops_simulated
    assert found.engine_s == found.calibration.elapsed_s


def test_a_begin_without_packets_tells_no_time(tiny: fs.FabricSpec) -> None:
    """From no packet-hops nothing can be concluded on the many to come."""
    found = estimate(tiny, workload("all_to_all", "1KiB", 4), kernel="python")
    found = replace(found, calibration=Calibration(0, 0.3, 0.1, 0.0, whole=False))
    assert (found.ns_per_packet_hop, found.engine_s, found.time_s) == (None, None, None)


def test_compilation_is_told_apart(tiny: fs.FabricSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 s, 2 s are tables, 15 s compilation, and 3 s the engine's."""
    clock = SimpleNamespace(now_s=100.0)
    work = workload("all_to_all", "1KiB", 4)
    before = Progress(0, 0, 0, 4, 0, 24, elapsed_s=0.0)

    def slow(*_: Any, progress: Any, **__: Any) -> None:
        for seconds, report in (
            (2.0, replace(before, compiling="compiling")),
            (5.0, replace(before, compiling="waiting")),
            (12.0, replace(before, packet_hops=1, elapsed_s=2.0)),
            (1.0, replace(before, packet_hops=24, elapsed_s=3.0, tasks_ended=4)),
        ):
            clock.now_s += seconds
            progress(report)

    monkeypatch.setattr(module, "CALIBRATION_S", 10.0)
    monkeypatch.setattr(module, "simulate", slow)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now_s))
    assert estimate(tiny, work).calibration == Calibration(24, 3.0, 2.0, 15.0, whole=True)


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 2**63},
        {"kernel": "fortran"},
        {"threads": 0},
        {"packet": "jumbo"},
        {"routing": "deterministic"},
        {"endpoint": "real"},
        {"placement": [0, 0, 1, 2]},
        {"placement": "scatter"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_the_run_refuses_is_refused(tiny: fs.FabricSpec, options: dict[str, Any]) -> None:
    """With the same words."""
    work = workload("all_to_all", "1KiB", 4)
    with pytest.raises(fs.ConfigError) as refused:
        simulate(tiny, work, **options)
    with pytest.raises(fs.ConfigError) as refused_before:
        estimate(tiny, work, **options)
    assert str(refused_before.value) == str(refused.value)


@pytest.mark.parametrize(("latency", "small_windows"), [("1ns", True), ("200ns", False)])
def test_small_windows_are_pointed_out(latency: str, small_windows: bool) -> None:
    """A tiny latency makes small windows, at most as long as it."""
    fabric = changed_fabric("gpu-nvswitch", latency=latency)
    found = estimate(fabric, workload("send_recv", "1KiB", 2), kernel="python")
    assert found.has_small_windows == small_windows
    assert found.window_ps <= found.network.channels.latency_ps.min() < 2 * found.window_ps


def test_memory_without_proc_is_that_of_the_tables(tiny: fs.FabricSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system does not tell, the process is not known, nor is the sum."""
    monkeypatch.setattr(module, "STATM", "/nowhere")
    memory = estimate(tiny, workload("send_recv", "1KiB", 2), kernel="python").memory
    assert (memory.process_bytes, memory.total_bytes) == (None, None)
    assert memory.tables_bytes > 0


@pytest.fixture(scope="module")
def estimates(tiny: fs.FabricSpec, tmp_path_factory: pytest.TempPathFactory) -> list[Estimate]:
    """Of a collective with a fault, of a trace in a file, and one in which nothing is known that may be unknown."""
    path = tmp_path_factory.mktemp("traces") / "small.arrow"
    small.small_trace().write(path)
    first = estimate(tiny, workload("all_to_all", "4KiB", 4), kernel="python", faults=["plane:1"])
    return [
        first,
        estimate(tiny, load_trace(path), kernel="python"),
        replace(
            first,
            calibration=Calibration(0, 0.3, 0.1, 0.0, whole=False),
            memory=replace(first.memory, process_bytes=None),
        ),
    ]


def test_the_page_has_every_field_of_an_estimate_and_no_other(estimates: list[Estimate]) -> None:
    """A field, and a type of it, is on the page if and only if a real document has it."""
    found: dict[str, set[str]] = {}
    for document in (estimates[0].summary(command="fabricsim run"), *(each.summary() for each in estimates[1:])):
        for path, kind in fields(document):
            found.setdefault(path, set()).add(kind)
    rows = table("| field of an estimate | type | unit | meaning |")
    assert {path.strip("`"): set(kinds.split(" or ")) for path, kinds, _, _ in rows} == found
    assert f"`{module.SCHEMA}`" in PAGE
