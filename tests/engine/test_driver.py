"""The driver: slices, growth, progress, and a hang that becomes a sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt
import pytest

from fabricsim.engine.check import check, walk
from fabricsim.engine.driver import Progress, RunRecord, Simulation, run_schedule
from fabricsim.engine.layout import NONE, Code, Rows
from fabricsim.engine.state import LIMIT_PS, allocate, grow
from fabricsim.errors import ConfigError, SelfCheckError, StallError
from fabricsim.fabrics import load_fabric
from fabricsim.fabrics.network import Network
from fabricsim.workloads.collectives import collective
from fabricsim.workloads.schedule import Schedule
from tests.engine.kernels import needs_numba
from tests.oracle.cases import MessageDraft, OperationDraft, TaskDraft, build_schedule
from tests.oracle.test_oracle import fabric, star

RANKS = 8


def all_to_all(ranks: int = RANKS, size: str = "64KiB") -> Schedule:
    """Return a small all-to-all."""
    return collective("all_to_all", size=size, ranks=ranks)


def on_nvl72(schedule: Schedule, seed: int = 1) -> Simulation:
    """Return a run on nvl72, rank r at terminal r."""
    network = load_fabric("nvl72").network()
    return Simulation(network, schedule, np.arange(schedule.num_ranks, dtype=np.int32), seed=seed)


def no_packets(network: Network, messages: Rows, domains: Rows) -> npt.NDArray[np.int64]:
    """Stand for ``packets_at_start`` where a run is to grow its tables."""
    return np.zeros(len(domains), np.int64)


def same(one: RunRecord, other: RunRecord) -> bool:
    """Compare all that was recorded, wall time aside."""
    names = [field.name for field in fields(RunRecord) if field.name != "engine_s"]
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


@pytest.mark.parametrize("slice_events", [1, 7, 40])
def test_slices_do_not_change_the_result(slice_events: int) -> None:
    """A run cut into slices of any size records what the whole run records."""
    whole = on_nvl72(all_to_all()).run()
    cut = on_nvl72(all_to_all())
    assert cut.advance(0) == Code.SLICE
    slices = 0
    while cut.advance(slice_events) == Code.SLICE:
        slices += 1
    assert slices > 1
    assert same(cut.record(), whole)


def test_growing_tables_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that starts with the least tables grows them and records the same."""
    schedule = all_to_all(72, "1MiB")
    with monkeypatch.context() as patch:
        patch.setattr("fabricsim.engine.state.packets_at_start", no_packets)
        whole = on_nvl72(schedule)
    before = len(whole.state.packets)
    record = whole.run()
    assert len(whole.state.packets) > before
    check(whole.state, whole.network)

    ample = on_nvl72(schedule)
    ample.state = grow(ample.state, np.full(len(ample.state.domains), 20_000))
    assert same(ample.run(), record)


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    """Ties fall by the seed and by nothing else."""
    network = load_fabric("cloudmatrix384").network()
    incast = [MessageDraft(source, 0, 4096) for source in range(1, RANKS)]
    schedule = build_schedule(RANKS, [OperationDraft([TaskDraft(rank) for rank in range(RANKS)], incast)])
    terminals = np.arange(RANKS, dtype=np.int32)
    records = [run_schedule(network, schedule, terminal_of_rank=terminals, seed=seed) for seed in (5, 5, 6)]
    assert same(records[0], records[1])
    assert not np.array_equal(records[0].message_complete_ps, records[2].message_complete_ps)


def test_progress_is_told_and_grows() -> None:
    """Progress reports rise to the end of the run and count all packets and tasks."""
    seen: list[Progress] = []
    record = on_nvl72(all_to_all(72, "1MiB")).run(seen.append)
    assert [report.packet_hops for report in seen] == sorted(report.packet_hops for report in seen)
    last = seen[-1]
    assert (last.tasks_ended, last.num_tasks) == (72, 72)
    assert last.delivered_packets == last.total_packets == record.packets
    assert last.packet_hops == record.packet_hops == 2 * record.packets


@needs_numba
def test_a_compilation_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the start of a Numba run waits for is reported before anything is simulated; a ready kernel reports none."""
    seen: list[Progress] = []
    terminals = np.arange(RANKS, dtype=np.int32)

    def run() -> None:
        Simulation(load_fabric("nvl72").network(), all_to_all(), terminals, kernel="numba").run(seen.append)

    run()
    seen.clear()
    run()
    assert not any(report.compiling for report in seen)

    def compile_once(run: object, state: object, report: Callable[[str], None]) -> bool:
        report("compiling")
        return True

    monkeypatch.setattr("fabricsim.engine.driver.compile_once", compile_once)
    run()
    assert [report.compiling for report in seen if report.compiling] == ["compiling"]


def test_an_interrupt_leaves_between_slices() -> None:
    """Ctrl-C passes through, and the state it leaves behind is whole and can go on."""
    run = on_nvl72(all_to_all(72, "1MiB"))

    def interrupt(report: Progress) -> None:
        if report.packet_hops > 1000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run(interrupt)
    check(run.state, run.network)
    assert same(run.run(), on_nvl72(all_to_all(72, "1MiB")).run())


def test_an_empty_schedule_ends_at_once() -> None:
    """No operation: nothing recorded, no error."""
    record = run_schedule(fabric(star(2)), build_schedule(2, []), terminal_of_rank=np.arange(2, dtype=np.int32))
    assert record.packets == 0
    assert len(record.task_end_ps) == 0


def test_the_time_limit_is_an_error_not_a_wrap() -> None:
    """A gap beyond the limit of 64-bit picoseconds is refused in a sentence."""
    schedule = build_schedule(2, [OperationDraft([TaskDraft(0, gap_ps=LIMIT_PS)])])
    with pytest.raises(ConfigError, match="64-bit picoseconds could wrap"):
        run_schedule(fabric(star(2)), schedule, terminal_of_rank=np.arange(2, dtype=np.int32))


def stalled(spoil: Callable[[Simulation], None], messages: list[MessageDraft]) -> str:
    """Run two ranks on one switch after *spoil*, and return what the stall says."""
    tasks = [TaskDraft(0), TaskDraft(1)]
    schedule = build_schedule(2, [OperationDraft(tasks, messages)])
    run = Simulation(fabric(star(2)), schedule, np.arange(2, dtype=np.int32))
    spoil(run)
    with pytest.raises(StallError) as caught:
        run.run()
    return str(caught.value)


def test_a_switch_without_credit_is_named() -> None:
    """A stall names the message, the channel and the missing credit."""

    def lose_the_credit(run: Simulation) -> None:
        last = run.network.channels.target_node == 1
        run.state.channels["room_bytes"][last] = 3

    said = stalled(lose_the_credit, [MessageDraft(0, 1, 10)])
    assert "message 0 of 'operation0' (rank 0 to rank 1, 10 B)" in said
    assert "3 B of the" in said
    assert "-> gpu1 (plane 0)" in said


def test_a_terminal_without_credit_is_named() -> None:
    """A share that cannot leave its terminal is named likewise."""

    def lose_the_credit(run: Simulation) -> None:
        first = run.network.channels.source_node == 0
        run.state.channels["room_bytes"][first] = 0

    said = stalled(lose_the_credit, [MessageDraft(0, 1, 10)])
    assert "rank 0 to rank 1" in said
    assert "0 B of the" in said


def test_tasks_that_wait_for_each_other_are_named() -> None:
    """A cycle among operations is named by its first operation and rank."""

    def wait_for_ever(run: Simulation) -> None:
        run.state.tasks["waiting"] = 1
        run.state.clock["new_task"] = NONE

    said = stalled(wait_for_ever, [MessageDraft(0, 1, 10)])
    assert "'operation0' at rank 0 waits for 1 tasks that cannot end" in said


def test_messages_that_wait_for_each_other_are_named() -> None:
    """A message that never becomes ready leaves its task open; the task is named."""

    def never_ready(run: Simulation) -> None:
        run.state.messages["waiting"] += 1

    said = stalled(never_ready, [MessageDraft(0, 1, 10)])
    assert "'operation0' at rank 0 waits for 1 messages that never became ready" in said


SPOILABLE = (
    ("channels", "room_bytes"),
    ("channels", "packets"),
    ("channels", "wire_bytes"),
    ("channels", "queue_last"),
    ("clock", "tasks_left"),
    ("channels", "least_room_bytes"),
    ("clock", "waits_left"),
    ("clock", "free_timer"),
    ("domains", "num_free_packets"),
    ("domains", "free_packet"),
    ("domains", "free_share"),
    ("domains", "delivered_packets"),
    ("domains", "arriving"),
    ("domains", "hops"),
    ("inboxes", "packet"),
    ("packets", "payload_bytes"),
    ("packets", "next"),
    ("counts", "packets_left"),
    ("injectors", "fresh_slots"),
    ("injectors", "ring_last"),
    ("injectors", "waiting_last"),
    ("injectors", "freed_last"),
    ("latencies", "packets"),
    ("meters", "busy_ps"),
    ("meters", "credit_stall_ps"),
    ("meters", "least_room_bytes"),
    ("timeline", "busy_ps"),
    ("timeline", "credit_stall_ps"),
    ("timeline", "peak_occupancy_bytes"),
    ("messages", "parts_left"),
    ("messages", "shares_left"),
    ("messages", "waiting"),
    ("messages", "ready_ps"),
    ("tasks", "begin_ps"),
    ("tasks", "end_ps"),
    ("tasks", "pending"),
    ("tasks", "started"),
    ("tasks", "waiting"),
    ("messages", "next_ready"),
    ("bundles", "last_ready"),
    ("places", "position"),
    ("places", "num_members"),
    ("injectors", "position"),
)


#: Fields that mean something only where another one is set.
GUARDS = {
    "queue_last": "queue_first",
    "ring_last": "ring_first",
    "waiting_last": "waiting_first",
    "freed_last": "freed_first",
}


def used(values: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Say which values are neither nothing nor a link to nothing."""
    return (values > 0) & (values != NONE)


@pytest.mark.parametrize(("table", "field"), SPOILABLE)
def test_check_notices_a_wrong_number(table: str, field: str) -> None:
    """Any field that a kernel changes, changed in one row that is in use, breaks an invariant."""
    ranks = 24
    tasks = [TaskDraft(rank) for rank in range(ranks)]
    after = [TaskDraft(rank, after=(0,)) for rank in range(ranks)]
    incast = [MessageDraft(source, 0, 100_000) for source in range(1, ranks) for _ in range(20)]
    chain = [MessageDraft(0, 1, 600), MessageDraft(1, 2, 600, waits_for=(0,))]
    computation = OperationDraft([TaskDraft(0, launches=False)])
    schedule = build_schedule(ranks, [OperationDraft(tasks, incast), OperationDraft(after, chain), computation])
    network = load_fabric("cloudmatrix384").network()
    run = Simulation(network, schedule, np.arange(ranks, dtype=np.int32))
    lists = ("ring_first", "waiting_first", "freed_first")
    while not (
        run.state.domains["delivered_packets"].any()
        and run.state.clock["epoch_open"] == 0
        and used(run.state.channels["queue_first"]).any()
        and all(used(run.state.injectors[name]).any() for name in lists)
    ):
        assert run.advance(1) == Code.SLICE
    check(run.state, run.network)
    rows = getattr(run.state, table)
    guard = GUARDS.get(field, field)
    in_use = np.flatnonzero(used(rows[guard]) | (rows[guard] == 0) & field.endswith("_ps"))
    rows[field][in_use[-1]] += 1 << 40 if field.endswith("_ps") else 1
    with pytest.raises(SelfCheckError):
        check(run.state, run.network)


@pytest.mark.parametrize(("table", "field"), [("acks", "share"), ("acks", "injector"), ("shares", "until_ps")])
def test_check_notices_a_wrong_slot(table: str, field: str) -> None:
    """Shares that wait for their acknowledgements hold slots, and slots that are free are in the order of time."""
    network = load_fabric("nvl72").network()
    network = replace(network, endpoint=replace(network.endpoint, slots=2, acked=True))
    tasks = [TaskDraft(rank) for rank in range(3)]
    # Of two messages at once the shorter one has its slot free first, and no third one takes it.
    messages = [MessageDraft(0, 1, 200_000), MessageDraft(0, 2, 100_000)]
    run = Simulation(network, build_schedule(3, [OperationDraft(tasks, messages)]), np.arange(3, dtype=np.int32))
    shares, acks = run.state.shares, run.state.acks

    def freed() -> list[int]:
        return walk(shares, run.state.injectors["freed_first"][0])

    while not (used(acks["share"]).any() if table == "acks" else len(freed()) == 2):
        assert run.advance(1) == Code.SLICE
    check(run.state, run.network)
    row = freed()[0] if table == "shares" else np.flatnonzero(used(acks["share"]))[0]
    getattr(run.state, table)[field][row] += 1 << 40 if field.endswith("_ps") else 1
    with pytest.raises(SelfCheckError, match=r"slot|two places"):
        check(run.state, run.network)


def test_a_large_buffer_alone_costs_nothing() -> None:
    """Inboxes reach as far as heads fly, whatever the buffers hold."""
    network = load_fabric("nvl72").network()
    channels = replace(network.channels, buffer_bytes=network.channels.buffer_bytes * 10_000)
    small, large = (
        allocate(net, all_to_all(), np.arange(8, dtype=np.int32), 1)
        for net in (network, replace(network, channels=channels))
    )
    assert len(large.inboxes) == len(small.inboxes)


def test_a_tiny_latency_takes_no_more_memory() -> None:
    """A latency of 1 ps beside long ones makes short windows and is slow, but inboxes reach only so far ahead."""
    network = load_fabric("nvl72").network()
    latency_ps = network.channels.latency_ps.copy()
    latency_ps[0] = 1
    state = allocate(
        replace(network, channels=replace(network.channels, latency_ps=latency_ps)),
        all_to_all(),
        np.arange(8, dtype=np.int32),
        1,
    )
    assert state.clock["window_shift"][0] == 0
    assert state.inboxes.nbytes < 100e6
