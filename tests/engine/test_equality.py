"""The kernel, jitted and not, against the oracle: equality to the byte on random cases."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabricsim.engine.check import check
from fabricsim.engine.driver import RunRecord, Simulation, Timeline
from fabricsim.engine.layout import Code
from fabricsim.errors import UnreachableError
from tests.oracle.cases import Case, cases, cases_with_changes, changing_cases
from tests.oracle.simulator import OracleResult, simulate


def simulation(case: Case, kernel: str = "auto", threads: int | None = None) -> Simulation:
    """Return a run of *case* before its first event."""
    terminal_of_rank = np.array(case.terminal_of_rank, np.int32)
    return Simulation(
        case.network,
        case.schedule,
        terminal_of_rank,
        seed=case.seed,
        kernel=kernel,
        threads=threads,
        changes=case.changes,
    )


def oracle(case: Case) -> OracleResult:
    """Return what the oracle records of a case."""
    return simulate(
        case.network,
        case.schedule,
        seed=case.seed,
        terminal_of_rank=case.terminal_of_rank,
        changes=case.changes,
    )


def bucket(latency_ps: int) -> int:
    """Return the histogram bucket of a packet latency (docs/physics.md, section 10)."""
    shift = max(0, latency_ps.bit_length() - 8)
    return 128 * shift + (latency_ps >> shift)


def assert_equal(record: RunRecord, expected: OracleResult) -> None:
    """Hold all that a kernel recorded against the oracle, with ``==``."""
    for name in (
        "task_begin_ps",
        "task_end_ps",
        "message_ready_ps",
        "message_first_injection_ps",
        "message_sent_ps",
        "message_complete_ps",
        "message_complete_parts_ps",
        "message_sent_parts_ps",
    ):
        assert getattr(record, name).tolist() == getattr(expected, name).tolist(), name
    assert_parts_add_up(record)
    assert_same_timeline(record.timeline, expected)
    for name in ("busy_ps", "wire_bytes", "packets", "credit_stall_ps", "peak_occupancy_bytes"):
        ours = getattr(record, f"channel_{name}").tolist()
        assert ours == getattr(expected, f"channel_{name}").tolist(), name
    latencies = expected.packet_latency_ps.tolist()
    assert record.packets == len(latencies)
    assert record.packet_latency_sum_ps == sum(latencies)
    assert record.packet_latency_max_ps == max(latencies, default=0)
    counts = {
        int(index): int(record.packet_latency_counts[index]) for index in np.flatnonzero(record.packet_latency_counts)
    }
    assert counts == Counter(bucket(latency) for latency in latencies)


def assert_parts_add_up(record: RunRecord) -> None:
    """What became of the time of a message is all of it, and no part is below zero."""
    for parts_ps, end_ps in (
        (record.message_complete_parts_ps, record.message_complete_ps),
        (record.message_sent_parts_ps, record.message_sent_ps),
    ):
        assert parts_ps.sum(axis=1).tolist() == (end_ps - record.message_ready_ps).tolist()
        assert parts_ps.min(initial=0) == 0


def assert_same_timeline(timeline: Timeline, expected: OracleResult) -> None:
    """Every start is in its bin; bins are a power of two in length, and no more than 64."""
    num_domains, _, num_bins = timeline.busy_ps.shape
    assert timeline.bin_ps & (timeline.bin_ps - 1) == 0
    assert num_bins <= 64
    busy_ps, stall_ps = np.zeros_like(timeline.busy_ps), np.zeros_like(timeline.busy_ps)
    occupancy_bytes = np.zeros_like(timeline.busy_ps)
    for use in expected.uses:
        place = use.plane if num_domains > 1 else 0, use.channel_class, use.time_ps // timeline.bin_ps
        busy_ps[place] += use.busy_ps
        stall_ps[place] += use.credit_stall_ps
        occupancy_bytes[place] = max(occupancy_bytes[place], use.occupancy_bytes)
    assert timeline.busy_ps.tolist() == busy_ps.tolist()
    assert timeline.credit_stall_ps.tolist() == stall_ps.tolist()
    assert timeline.peak_occupancy_bytes.tolist() == occupancy_bytes.tolist()


@settings(max_examples=400)
@given(case=cases())
def test_kernel_equals_oracle(case: Case) -> None:
    """Every recorded time, count and histogram of a random case is the oracle's."""
    expected = oracle(case)
    assert_equal(simulation(case).run(), expected)


@settings(max_examples=80)
@given(case=cases())
def test_kernel_without_the_jit_equals_oracle(case: Case) -> None:
    """The same source as plain Python gives the oracle's figures too."""
    expected = oracle(case)
    assert_equal(simulation(case, "python").run(), expected)


@settings(max_examples=100)
@given(case=cases(), windows=st.sampled_from([2, 4, 8]))
def test_a_short_wheel_puts_packets_off(case: Case, windows: int) -> None:
    """Inboxes that reach only a few windows ahead, and tables that grow, give the oracle's figures too."""
    expected = oracle(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fabricsim.engine.state.MAX_WHEEL_WINDOWS", windows)
        patch.setattr(
            "fabricsim.engine.state.packets_at_start", lambda _network, _messages, domains: 0 * domains["hops"]
        )
        assert_equal(simulation(case).run(), expected)


@settings(max_examples=60)
@given(case=cases(), slice_events=st.integers(20, 300))
def test_invariants_hold_after_every_slice(case: Case, slice_events: int) -> None:
    """``check`` finds nothing to complain about between any two slices, and none of them changes the result."""
    run = simulation(case)
    check(run.state, run.network)
    while run.advance(slice_events) == Code.SLICE:
        check(run.state, run.network)
    check(run.state, run.network)
    whole = simulation(case).run()
    parts = run.record()
    for name in (
        "task_end_ps",
        "message_complete_ps",
        "channel_busy_ps",
        "channel_credit_stall_ps",
        "channel_peak_occupancy_bytes",
    ):
        assert getattr(parts, name).tolist() == getattr(whole, name).tolist(), name


@settings(max_examples=200)
@given(case=cases_with_changes(), threads=st.sampled_from([1, 2]))
def test_a_network_that_changes_equals_oracle(case: Case, threads: int) -> None:
    """Faults at a time, with all that is under way then, give the oracle's figures, on one thread or two."""
    assert_equal(simulation(case, threads=threads).run(), oracle(case))


@settings(max_examples=60)
@given(case=cases_with_changes())
def test_a_network_that_changes_equals_oracle_without_the_jit(case: Case) -> None:
    """The same source as plain Python gives the oracle's figures too."""
    assert_equal(simulation(case, "python").run(), oracle(case))


@settings(max_examples=60)
@given(case=cases_with_changes(), slice_events=st.integers(5, 100), windows=st.sampled_from([2, 4, 1024]))
def test_invariants_hold_while_the_network_changes(case: Case, slice_events: int, windows: int) -> None:
    """``check`` finds nothing to complain about around a change, with short slices, small tables and a short wheel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fabricsim.engine.state.MAX_WHEEL_WINDOWS", windows)
        patch.setattr(
            "fabricsim.engine.state.packets_at_start", lambda _network, _messages, domains: 0 * domains["hops"]
        )
        run = simulation(case)
        while run.advance(slice_events) == Code.SLICE:
            check(run.state, run.network)
        check(run.state, run.network)
        assert_equal(run.record(), oracle(case))


@settings(max_examples=60)
@given(case=changing_cases(refused=True))
def test_what_cannot_be_sent_again_is_refused(case: Case) -> None:
    """The kernel refuses a fault at a time exactly where the oracle does."""
    try:
        expected = oracle(case)
    except UnreachableError:
        with pytest.raises(UnreachableError, match="leave a fault out"):
            simulation(case).run()
    else:
        assert_equal(simulation(case).run(), expected)
