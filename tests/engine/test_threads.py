"""Threads: how many, that they run at the same time, and that none is left behind."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fabricsim as fs
from fabricsim.engine import backends, threads
from fabricsim.engine.check import check
from fabricsim.engine.driver import RunRecord, Simulation
from fabricsim.engine.layout import Code, State
from fabricsim.engine.state import is_plain
from fabricsim.engine.threads import Threads, default_threads, threads_at_hand, threads_of_run
from fabricsim.errors import ConfigError
from fabricsim.fabrics import load_fabric
from fabricsim.workloads.collectives import collective

RANKS = 24


def ring(num_threads: int) -> Simulation:
    """Return a ring of 24 GPUs over 18 planes: its steps wait for each other, so that it has many epochs."""
    schedule = collective("all_reduce", size="1MiB", ranks=RANKS)
    network = load_fabric("nvl72").network()
    return Simulation(network, schedule, np.arange(RANKS, dtype=np.int32), threads=num_threads)


def assert_same(one: RunRecord, other: RunRecord) -> None:
    """Compare times, channels and packets."""
    for name in ("task_end_ps", "message_complete_ps", "channel_busy_ps", "packet_latency_counts"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def advance_to_end(run: Simulation, kernel: backends.Run, num_threads: int = 2) -> Code:
    """Run to the end on threads that call *kernel* in place of the run's own."""
    with Threads(kernel, num_threads) as team:
        while (code := run.advance_threads(team)) == Code.SLICE:
            pass
    return code


def running() -> list[str]:
    """Return the names of the engine's threads that have not ended."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fabricsim")]


@pytest.fixture
def _all_epochs_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Share each epoch among the threads, however small, in turns of some packets."""
    monkeypatch.setattr(threads, "WORTH_HOPS", 0)
    monkeypatch.setattr(threads, "TURN_EVENTS", 100)


@pytest.fixture
def _no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what a job around these tests was given."""
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(threads, "OWN_CGROUP", Path("/no/cgroup"))


def test_slurm_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a Slurm job the default is the number of CPUs per task, but no more than the process may use."""
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    for cpus, found in ((8, 3), (2, 2)):
        monkeypatch.setattr(threads, "most_threads", lambda cpus=cpus: cpus)
        assert default_threads() == found


def test_no_more_threads_than_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """More threads than CPUs that the process may use would only be in the way: a run takes what there is."""
    monkeypatch.setattr(threads, "most_threads", lambda: 4)
    assert [threads_at_hand(asked) for asked in (None, 3, 4, 64)] == [None, 3, 4, 4]
    result = fs.simulate("nvl72", fs.collective("all_to_all", size="1MiB", ranks=8), threads=18, fold=False)
    assert result.record.threads == 4


@pytest.mark.usefixtures("_no_slurm")
def test_a_container_says_how_many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No more than the CPU time of the control group or of one around it, rounded up; where none limits, the CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(threads, "CGROUPS", tmp_path / "cgroups")
    job = tmp_path / "cgroups" / "slurm" / "job"
    job.mkdir(parents=True)
    assert default_threads() == 8
    (tmp_path / "own").write_text("1:cpu:/old\n0::/slurm/job\n")
    assert default_threads() == 8
    (job / "cpu.max").write_text("max 100000\n")
    assert default_threads() == 8
    (job.parent / "cpu.max").write_text("250000 100000\n")
    assert default_threads() == 3
    (job / "cpu.max").write_text("50000 100000\n")
    assert default_threads() == 1


@pytest.mark.usefixtures("_no_slurm")
def test_the_affinity_mask_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside a job the default is the number of CPUs that the process may use, not that of the machine."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 5, 7}, raising=False)
    assert default_threads() == 3


@pytest.mark.usefixtures("_no_slurm")
def test_without_an_affinity_mask_the_machine_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a system has no such mask, as macOS has none, the default is its number of CPUs, or one if unknown."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert default_threads() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_threads() == 1


@pytest.mark.parametrize("given", ["0", "-1", "two", "1.5", "2(x2)", " "])
def test_a_bad_number_from_slurm_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no number of CPUs is named with the remedy, and does no harm where --threads is given."""
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
    with pytest.raises(ConfigError) as caught:
        default_threads()
    said = f"SLURM_CPUS_PER_TASK is {given!r}, not a number of CPUs; correct it or give --threads"
    assert str(caught.value) == said
    assert threads_of_run(2, 7) == 2


@pytest.mark.parametrize("asked", [0, -3])
def test_fewer_than_one_thread_is_refused(asked: int) -> None:
    """No thread can run nothing: the option is named with the remedy."""
    with pytest.raises(ConfigError, match=f"^--threads {asked}: give 1 or more, or leave it out$"):
        threads_of_run(asked, 7)


def test_a_run_has_at_most_a_thread_per_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    """More threads than planes would be idle; the flag counts before Slurm, and Slurm where there is no flag."""
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "5")
    monkeypatch.setattr(threads, "most_threads", lambda: 8)
    assert [threads_of_run(asked, 7) for asked in (None, 1, 6, 100)] == [5, 1, 6, 7]
    network = load_fabric("nvl72").network()
    schedule = collective("send_recv", size="1KiB", ranks=2)
    runs = [Simulation(network, schedule, np.arange(2, dtype=np.int32), threads=asked) for asked in (None, 100)]
    assert [run.threads for run in runs] == [5, network.num_planes]
    assert runs[1].run().threads == network.num_planes
    assert running() == []


def test_no_cache_line_is_shared_where_every_hop_writes() -> None:
    """Rows of two domains, and flags of their banks, are never in one line: two threads would wait for each other."""
    state = ring(2).state
    for name, first, count in (
        ("domains", np.arange(len(state.domains)), np.ones(len(state.domains), np.int64)),
        ("banks", state.domains["first_bank"], state.domains["num_banks"]),
        ("filled", state.domains["first_bank"], state.domains["num_banks"]),
    ):
        table = getattr(state, name)
        begin = table.ctypes.data + first * table.itemsize
        first_line, last_line = begin // 64, (begin + count * table.itemsize - 1) // 64
        assert np.all(last_line[:-1] < first_line[1:]), name


@pytest.mark.usefixtures("_all_epochs_shared")
def test_two_threads_are_in_the_kernel_at_once() -> None:
    """Two threads run domains of one epoch at the same time: each waits in its first turn until the other has one."""
    run = ring(2)
    kernel = backends.load(run.kernel, plain=is_plain(run.state))
    both = threading.Barrier(2, timeout=60)
    met: set[int] = set()

    def meet(state: State, part: int, max_events: int) -> int:
        if part >= 0 and threading.get_ident() not in met:
            met.add(threading.get_ident())
            both.wait()
        return kernel(state, part, max_events)

    assert advance_to_end(run, meet) == Code.DONE
    assert len(met) == 2
    assert_same(run.record(), ring(1).run())


@pytest.mark.usefixtures("_all_epochs_shared")
@pytest.mark.parametrize("num_threads", [2, 5])
def test_no_domain_is_in_two_threads(num_threads: int) -> None:
    """A thread that stays with its domain, while many others wait, does not offer it to another thread."""
    run = ring(num_threads)
    kernel = backends.load(run.kernel, plain=is_plain(run.state))
    taken: list[int] = []

    def note(state: State, part: int, max_events: int) -> int:
        assert part not in taken
        taken.append(part)
        try:
            return kernel(state, part, max_events)
        finally:
            taken.remove(part)

    assert advance_to_end(run, note, num_threads) == Code.DONE
    assert_same(run.record(), ring(1).run())


def test_small_epochs_stay_on_one_thread() -> None:
    """A run whose epochs have few packets each stays on one thread: to wake another takes longer than to run them."""
    schedule = collective("send_recv", size="64KiB", ranks=2)
    run = Simulation(load_fabric("nvl72").network(), schedule, np.arange(2, dtype=np.int32), threads=2)
    kernel = backends.load(run.kernel, plain=is_plain(run.state))
    seen: set[int] = set()

    def note(state: State, part: int, max_events: int) -> int:
        seen.add(threading.get_ident())
        return kernel(state, part, max_events)

    assert advance_to_end(run, note) == Code.DONE
    assert 0 < run.record().packet_hops < threads.WORTH_HOPS
    assert seen == {threading.get_ident()}


@pytest.mark.usefixtures("_all_epochs_shared")
@pytest.mark.parametrize("num_threads", [2, 5, 18])
def test_tables_grow_in_a_threaded_run(num_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that starts with the least tables grows them amid its epochs, on any number of threads, to one result."""
    schedule = collective("all_to_all", size="1MiB", ranks=72)
    network = load_fabric("nvl72").network()
    alone = Simulation(network, schedule, np.arange(72, dtype=np.int32), threads=1)
    monkeypatch.setattr(
        "fabricsim.engine.state.packets_at_start", lambda network, messages, domains: np.zeros(len(domains), np.int64)
    )
    shared = Simulation(network, schedule, np.arange(72, dtype=np.int32), threads=num_threads)
    before = len(shared.state.packets)
    record = shared.run()
    assert record.threads == num_threads
    assert len(shared.state.packets) > before
    check(shared.state, network)
    assert_same(record, alone.run())


@pytest.mark.usefixtures("_all_epochs_shared")
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("in_main", [True, False])
def test_an_error_leaves_no_thread_behind(error: type[BaseException], in_main: bool) -> None:
    """What is raised in any of the threads ends them all and comes out; the tables are whole and the run can go on."""
    run = ring(2)
    kernel = backends.load(run.kernel, plain=is_plain(run.state))
    raised = threading.Event()
    turns = 0

    def fail(state: State, part: int, max_events: int) -> int:
        nonlocal turns
        if part >= 0 and (threading.current_thread() is threading.main_thread()) != in_main:
            raised.wait(60)  # the other thread's turns are to come
        code = kernel(state, part, max_events)
        if part >= 0 and (threading.current_thread() is threading.main_thread()) == in_main:
            turns += 1
            if turns == 10:
                raised.set()
                raise error
        return code

    with pytest.raises(error):
        advance_to_end(run, fail)
    assert running() == []
    assert run.state.clock["tasks_left"][0] > 0
    check(run.state, run.network)
    assert_same(run.run(), ring(1).run())


@pytest.fixture
def _ctrl_c() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt, which it does not in what a script starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_all_epochs_shared", "_ctrl_c")
def test_ctrl_c_ends_all_threads() -> None:
    """A signal reaches the main thread while each thread is in its turn; both end, and the run can go on."""
    run = ring(2)
    kernel = backends.load(run.kernel, plain=is_plain(run.state))
    both = threading.Barrier(2, timeout=60)
    sent = threading.Event()

    def interrupt(state: State, part: int, max_events: int) -> int:
        if part >= 0 and not sent.is_set():
            both.wait()
            if threading.current_thread() is threading.main_thread():
                sent.wait(60)  # until the signal comes
            else:
                signal.raise_signal(signal.SIGINT)  # handled by the main thread as soon as it wakes, and not later
                sent.set()
        return kernel(state, part, max_events)

    with pytest.raises(KeyboardInterrupt):
        advance_to_end(run, interrupt)
    assert running() == []
    check(run.state, run.network)
    assert_same(run.run(), ring(1).run())


@pytest.mark.usefixtures("_all_epochs_shared")
def test_an_interrupt_between_slices_leaves_no_thread_behind() -> None:
    """Ctrl-C between two slices passes through ``run``, which ends its threads first."""

    def stop(report: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ring(2).run(stop)
    assert running() == []


class Interrupted(ThreadPoolExecutor):
    """A pool that Ctrl-C meets while it starts a thread, so that it never hears of it."""

    def submit(self, *arguments: Any, **options: Any) -> Future[Any]:
        """Start the thread, forget it and be interrupted."""
        super().submit(*arguments, **options)
        self._threads.clear()
        raise KeyboardInterrupt


@pytest.mark.usefixtures("_all_epochs_shared")
def test_ctrl_c_at_the_start_of_a_thread_waits_for_it() -> None:
    """When the interrupt comes out no thread is in its turn any more, not even one that its pool does not know."""
    run = ring(2)
    kernel = backends.load(run.kernel, plain=is_plain(run.state))
    in_turn: list[int] = []

    def note(state: State, part: int, max_events: int) -> int:
        in_turn.append(part)
        try:
            return kernel(state, part, max_events)
        finally:
            in_turn.remove(part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "ThreadPoolExecutor", Interrupted)
        for _ in range(20):
            with pytest.raises(KeyboardInterrupt):
                advance_to_end(run, note)
            assert in_turn == []
    assert_same(run.run(), ring(1).run())
