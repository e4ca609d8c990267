"""The C kernel against the Numba kernel: after every slice all tables hold the same."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fabricsim.engine import backends
from fabricsim.engine.check import check
from fabricsim.engine.driver import Simulation
from fabricsim.engine.layout import Code, Part, State
from fabricsim.engine.state import grow
from fabricsim.fabrics import load_fabric
from fabricsim.workloads.collectives import collective
from tests.engine.kernels import needs_c, needs_numba
from tests.oracle.cases import Case, MessageDraft, OperationDraft, TaskDraft, build_schedule, cases, cases_with_changes
from tests.oracle.test_oracle import fabric, star

pytestmark = needs_c


def simulation(case: Case, kernel: str) -> Simulation:
    """Return a run of *case* before its first event."""
    terminal_of_rank = np.array(case.terminal_of_rank, np.int32)
    return Simulation(
        case.network,
        case.schedule,
        terminal_of_rank,
        seed=case.seed,
        kernel=kernel,
        threads=1,
        changes=case.changes,
    )


def difference(one: State, other: State) -> str | None:
    """Say where two states differ first: table, row, field. What lies between the fields of a row does not count."""
    for name in State._fields:
        left, right = getattr(one, name), getattr(other, name)
        if left.tobytes() == right.tobytes():
            continue
        if len(left) != len(right):
            return f"{name}: {len(left)} rows, {len(right)} rows"
        places = [
            (int(np.argmax(unequal)), field)
            for field in left.dtype.names
            if (unequal := left[field] != right[field]).any()
        ]
        if places:
            row, field = min(places, key=lambda place: place[0])
            return f"{name}[{row}][{field!r}]: {left[field][row]}, {right[field][row]}"
    return None


def copy(state: State) -> State:
    """Return the state in other memory, as a checkpoint brings it back."""
    return State(*(table.copy() for table in state))


def small_case() -> Case:
    """All kinds of waits in few events: an incast of two rounds on one switch, the second one after the first."""
    ranks = 4
    incast = [MessageDraft(source, 0, 300) for source in range(1, ranks)]
    chain = [MessageDraft(0, 1, 200), MessageDraft(1, 2, 200, waits_for=(0,)), MessageDraft(3, 3, 10)]
    schedule = build_schedule(
        ranks,
        [
            OperationDraft([TaskDraft(rank) for rank in range(ranks)], incast),
            OperationDraft([TaskDraft(rank, gap_ps=7, after=(0,)) for rank in range(ranks)], chain),
        ],
    )
    return Case(fabric(star(ranks)), schedule, 5, tuple(range(ranks)))


@needs_numba
@settings(max_examples=25)
@given(case=st.one_of(cases(), cases_with_changes()))
def test_kernels_go_in_lock_step(case: Case) -> None:
    """After every slice of one event the C kernel and the Numba kernel ended alike and hold the same bytes."""
    ours, theirs = simulation(case, "c"), simulation(case, "numba")
    code = Code.SLICE
    while code == Code.SLICE:
        code = ours.advance(1)
        assert theirs.advance(1) == code
        assert difference(ours.state, theirs.state) is None


@needs_numba
@settings(max_examples=300)
@given(case=st.one_of(cases(), cases_with_changes()), slice_events=st.integers(1, 400))
def test_kernels_end_alike(case: Case, slice_events: int) -> None:
    """In slices of any size the C kernel ends with all tables as the Numba kernel leaves them, and they are sound."""
    ours, theirs = simulation(case, "c"), simulation(case, "numba")
    while (code := ours.advance(slice_events)) == Code.SLICE:
        pass
    while theirs.advance(slice_events) == Code.SLICE:
        pass
    assert code == Code.DONE
    assert difference(ours.state, theirs.state) is None
    check(ours.state, ours.network)


@needs_numba
@settings(max_examples=60)
@given(case=cases(), slices=st.lists(st.tuples(st.sampled_from(["c", "numba"]), st.integers(0, 60)), max_size=12))
def test_a_run_may_change_kernels(case: Case, slices: list[tuple[str, int]]) -> None:
    """Whoever ran the slices before, in whatever memory the tables lie now: a run ends with the same tables."""
    whole = simulation(case, "c")
    whole.run()
    state = simulation(case, "c").state
    for kernel, max_events in [*slices, ("c", 1_000_000)]:
        run = simulation(case, kernel)
        run.state = copy(state)
        run.advance(max_events)
        state = run.state
    assert difference(state, whole.state) is None


def test_a_run_can_be_cut_anywhere() -> None:
    """Up to event k, and from its tables in other memory to the end: the same for every k as in one slice."""
    whole = simulation(small_case(), "c")
    assert whole.advance(1_000_000) == Code.DONE
    k = 0
    while True:
        first, second = simulation(small_case(), "c"), simulation(small_case(), "c")
        code = first.advance(k)
        second.state = copy(first.state)
        assert second.advance(1_000_000) == Code.DONE
        assert difference(second.state, whole.state) is None, k
        if code == Code.DONE:
            break
        k += 1
    assert k > 8


def test_a_difference_is_named() -> None:
    """The comparison says table, row, field and both values; it sees a table that grew, and equal states are equal."""
    one, other = simulation(small_case(), "c").state, simulation(small_case(), "c").state
    assert difference(one, other) is None
    other.channels["room_bytes"][2] += 1
    room_bytes = one.channels["room_bytes"][2]
    assert difference(one, other) == f"channels[2]['room_bytes']: {room_bytes}, {room_bytes + 1}"
    longer = one._replace(packets=np.concatenate([one.packets, one.packets]))
    assert difference(one, longer) == f"packets: {len(one.packets)} rows, {2 * len(one.packets)} rows"


def nvl72(size: str) -> Simulation:
    """Return an all-to-all of 72 GPUs in C."""
    workload = collective("all_to_all", size=size, ranks=72)
    return Simulation(load_fabric("nvl72").network(), workload, np.arange(72, dtype=np.int32), kernel="c", threads=1)


def test_runs_side_by_side_do_not_meet() -> None:
    """Four runs in four threads, in short slices, end as one alone does."""
    alone = nvl72("256KiB")
    alone.run()

    def in_slices(run: Simulation) -> State:
        while run.advance(100) == Code.SLICE:
            pass
        return run.state

    with ThreadPoolExecutor(4) as pool:
        states = list(pool.map(in_slices, [nvl72("256KiB") for _ in range(4)]))
    assert [difference(state, alone.state) for state in states] == [None] * 4


def test_other_threads_run_during_a_slice() -> None:
    """The C kernel holds no lock of Python's: while it runs, another thread ticks."""
    run = nvl72("4MiB")
    run.state = grow(run.state, np.full(len(run.state.domains), 50_000))  # so that no slice ends early
    run.advance(1_000)
    run_in_c = backends.load("c", plain=True)
    done = threading.Event()
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        while not done.wait(0.001):
            ticks += 1

    before_s = sys.getswitchinterval()
    ticking = threading.Thread(target=tick)
    sys.setswitchinterval(60)  # the main thread gives nothing away on its own
    try:
        ticking.start()
        before = ticks
        code = run_in_c(run.state, int(Part.WHOLE), 1_000_000)
        after = ticks
    finally:
        sys.setswitchinterval(before_s)
        done.set()
        ticking.join()
    assert code == Code.SLICE
    assert after > before
