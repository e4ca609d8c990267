"""A planted bottleneck is the one that is named, on several fabrics and at random sizes."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

import fabricsim as fs
from fabricsim.engine.driver import run_schedule
from fabricsim.engine.work import PARTS
from fabricsim.fabrics.network import Endpoint
from fabricsim.results.bottleneck import CAUSES, Bottleneck
from fabricsim.workloads.schedule import Schedule
from fabricsim.workloads.trace import Clock, trace_from_rows
from tests.oracle.cases import MessageDraft, OperationDraft, TaskDraft, build_schedule
from tests.results.small import crossbar, finished, linear

FABRICS = ["nvl72", "cloudmatrix384", "hgx-h100", "cloudmatrix384-mesh"]
SEEDS = range(3)


def named(fabric: Any, workload: Any, **options: Any) -> Bottleneck:
    """Name what holds a run back; the sentence is one, and the cause one of those that there are."""
    found = fs.simulate(fabric, workload, **options).bottleneck
    assert found.cause in CAUSES
    assert found.sentence.endswith(".")
    assert "  " not in found.sentence
    return found


def size_between(random: Random, low: int, high: int) -> str:
    """Draw a size, in KiB."""
    return f"{random.randint(low, high)}KiB"


def first_link(fabric: str, rank: int) -> str:
    """Name a link of a terminal."""
    network = fs.load_fabric(fabric).network()
    channel = int(np.flatnonzero(network.channels.source_node == rank)[0])
    return f"{network.node_names[rank]}-{network.node_names[network.channels.target_node[channel]]}"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fabric", FABRICS)
def test_a_slow_link_is_named(fabric: str, seed: int) -> None:
    """One link of a terminal with a fiftieth of its lanes: the root, also where credits stall behind it."""
    random = Random(seed)
    link = first_link(fabric, random.randrange(1, 8))
    workload = fs.collective("all_to_all", size=size_between(random, 1_024, 4_096), ranks=8)
    found = named(fabric, workload, faults=[f"lanes:{link}=1/50"], seed=seed)
    assert found.cause == "link"
    ends = link.split("-")
    assert any(f"The channel {'-'.join(pair)} takes" in found.sentence for pair in (ends, ends[::-1]))
    assert "takes 50.00 times as long per byte" in found.sentence


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("fabric", "buffer"),
    [("nvl72", "gpu-nvswitch"), ("cloudmatrix384", "npu-l1"), ("hgx-h100", "gpu-nvswitch")],
)
def test_scarce_buffers_are_named(fabric: str, buffer: str, seed: int) -> None:
    """Room for a few packets, where the way there and back takes many more."""
    random = Random(seed)
    spec = fs.load_fabric(fabric)
    packet = spec.network().packet
    room = random.randint(2, 4) * packet.wire_bytes(packet.max_payload_bytes)
    spec = spec.with_overrides({f"link.{buffer}.buffer": f"{room}B"})
    workload = fs.collective("all_to_all", size=size_between(random, 2_048, 4_096), ranks=8)
    found = named(spec, workload, seed=seed, endpoint="ideal")
    assert found.cause == "credits"
    assert f"in the {room:,} B behind it" in found.sentence


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fabric", FABRICS)
def test_a_late_rank_is_named(fabric: str, seed: int) -> None:
    """A rank that arrives 5 ms after the others, who wait for it."""
    random = Random(seed)
    rank = random.randrange(8)
    workload = fs.collective("all_to_all", size=size_between(random, 64, 4_096), ranks=8)
    found = named(fabric, workload, faults=[f"arrival_skew:{rank}=5ms"], seed=seed)
    assert found.cause == "straggler"
    assert found.sentence.startswith(f"Rank {rank} is late")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fabric", FABRICS[:3])
def test_a_slow_rank_is_named(fabric: str, seed: int) -> None:
    """A rank whose copies take eight times as long holds the others back."""
    random = Random(seed)
    rank = random.randrange(8)
    workload = fs.collective("all_to_all", size=size_between(random, 4_096, 16_384), ranks=8)
    found = named(fabric, workload, faults=[f"slow_rank:{rank}=8"], seed=seed)
    assert found.cause == "straggler"
    assert f"pu{rank}, copying" in found.sentence
    assert "takes 8.00 times as long" in found.sentence


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("op", ["all_reduce", "broadcast"])
def test_a_chain_is_named(fabric: str, op: str, seed: int) -> None:
    """Tiny messages of a ring or a tree, one after the other, on terminals that add nothing."""
    random = Random(seed)
    ranks = random.randint(16, 64) if "hgx" not in fabric else 8
    size = 64 * random.randint(8, 16)
    found = named(fabric, fs.collective(op, size=size, ranks=ranks), endpoint="ideal", seed=seed)
    assert found.cause == "dependency_chain"
    steps = 2 * (ranks - 1) if op == "all_reduce" else (ranks - 1).bit_length()
    messages = int(found.sentence.split()[0])
    assert messages <= steps
    assert messages == steps or op == "broadcast"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fabric", FABRICS)
def test_a_tiny_message_is_bound_by_its_launch(fabric: str, seed: int) -> None:
    """Up to 1 KiB to the neighbour is there long before the launch of the operation has passed."""
    size = f"{Random(seed).randint(16, 1_024)}B"
    found = named(fabric, fs.collective("send_recv", size=size, ranks=4), seed=seed)
    assert found.cause == "launch"
    assert found.fraction > 0.5


@pytest.mark.parametrize("fabric", ["nvl72", "cloudmatrix384"])
def test_terminals_that_copy_slowly_are_named(fabric: str) -> None:
    """Copies at a tenth of what the links carry, at all terminals alike."""
    spec = fs.load_fabric(fabric).with_overrides({"terminal.copy_rate": "30 GB/s"})
    found = named(spec, fs.collective("all_to_all", size="4MiB", ranks=8))
    assert found.cause == "endpoint"
    assert "copying out, is busy for" in found.sentence


def recorded(mode: Any, *, duration_ns: int, second_ns: int) -> Bottleneck:
    """Replay a computation and an all-reduce on two ranks, and the same again."""
    rows = []
    for rank in range(2):
        for number, begin_ns in enumerate((0, second_ns)):
            compute = {"op": "compute", "group_id": 0, "send_bytes": 0, "recv_bytes": 0}
            rows.append({**compute, "rank": rank, "t_start_ns": begin_ns, "t_end_ns": begin_ns + duration_ns})
            begin_ns += duration_ns + 1_000
            reduce = {"op": "all_reduce", "group_id": 0, "group_seq": number, "send_bytes": 64, "recv_bytes": 64}
            rows.append({**reduce, "rank": rank, "t_start_ns": begin_ns, "t_end_ns": begin_ns + 1_000})
    trace = trace_from_rows(
        rows,
        world_size=2,
        groups=[{"id": 0, "name": "world", "desc": "", "ranks": [0, 1]}],
        clock=Clock(aligned=True, max_skew_ns=None),
        source={"format": "test"},
    )
    return fs.replay(trace, "nvl72", mode=mode).bottleneck


def test_computation_and_recorded_starts_are_named() -> None:
    """A millisecond of computation is computation; a second begin after a pause is waited for in mode recorded."""
    assert recorded("dependency", duration_ns=1_000_000, second_ns=1_100_000).cause == "compute"
    assert recorded("recorded", duration_ns=1_000, second_ns=1_000_000).cause == "recorded_start"


@pytest.mark.parametrize(
    ("part", "cause"),
    [
        ("endpoint", "endpoint"),
        ("serialization", "link"),
        ("propagation", "latency"),
        ("credit_stall", "credits"),
        ("queueing", "contention"),
    ],
)
def test_without_a_saturated_server_the_largest_part_is_named(part: str, cause: str) -> None:
    """One message without a launch, all of whose time is one part."""
    draft = OperationDraft([TaskDraft(0, launches=False), TaskDraft(1, launches=False)], [MessageDraft(0, 1, 100)])
    found = made_of(build_schedule(2, [draft]), part)
    assert found.cause == cause
    assert "2.42 ns of 2.42 ns (100%)" in found.sentence


def made_of(schedule: Schedule, part: str) -> Bottleneck:
    """Name what holds a run back whose messages spend all their time in one part."""
    record = run_schedule(crossbar(), schedule, terminal_of_rank=linear(schedule), kernel="python")
    parts = np.zeros((len(schedule.messages), len(PARTS)), np.int64)
    parts[:, PARTS.index(part)] = record.message_complete_ps - record.message_ready_ps
    return finished(crossbar(), schedule, replace(record, message_complete_parts_ps=parts)).bottleneck


def test_a_server_of_each_operation_is_named() -> None:
    """Four operations, each of which saturates another wire, though none of them for more than a quarter of the run."""
    drafts = [
        OperationDraft(
            [TaskDraft(rank, launches=False, after=(number - 1,) if number else ()) for rank in range(4)],
            [
                MessageDraft(number, (number + 1) % 4, 100_000),
                *(MessageDraft(number, peer, 1) for peer in range(4) if peer != number),
                *(MessageDraft(peer, number, 1) for peer in range(4) if peer != number),
            ],
        )
        for number in range(4)
    ]
    found = made_of(build_schedule(4, drafts), "queueing")
    assert (found.cause, round(found.fraction, 1)) == ("link", 1.0)
    assert found.sentence.startswith("In each operation the wires that have most to move are busy: for ")


@pytest.mark.parametrize(("size_bytes", "cause"), [(20_000, "endpoint"), (60_000, "link")])
def test_operations_of_two_kinds_count_apart(size_bytes: int, cause: str) -> None:
    """A wire limits one operation, a terminal's overheads the next: that with more work is named, with its part."""
    network = crossbar(endpoint=Endpoint(launch_latency_ps=0, message_overhead_ps=300, slots=2))
    drafts = [
        OperationDraft([TaskDraft(rank) for rank in range(4)], [MessageDraft(0, 1, size_bytes)]),
        OperationDraft(
            [TaskDraft(rank, after=(0,)) for rank in range(4)],
            [MessageDraft(1, peer, 1) for peer in (0, 2, 3) for _ in range(100)],
        ),
    ]
    schedule = build_schedule(4, drafts)
    result = finished(network, schedule, run_schedule(network, schedule, terminal_of_rank=linear(schedule)))
    # 120 B on the wire per 100 B; two slots share 300 messages of 300 ps of overhead and 30 B.
    assert result.collected.work_ps == {"link": size_bytes * 12 // 10, "endpoint": 300 * (300 + 30) // 2}
    found = result.bottleneck
    moving_ps = result.collected.moving_ps
    assert sum(moving_ps.values()) == sum(row["time_ps"] for row in result.op_rows())
    share = moving_ps[cause] / sum(moving_ps.values())
    assert found.cause == cause
    assert found.fraction == result.collected.work_ps[cause] / sum(moving_ps.values())
    assert found.sentence.startswith(f"In operations that make up {share:.0%} of the ")
    of_wires, of_terminals = "the wires that have most to move are", "the terminal that has most to do is"
    words = sorted((of_wires, of_terminals), key=found.sentence.index)
    assert words[0] == (of_wires if cause == "link" else of_terminals)


def test_the_late_rank_is_one_that_the_path_waits_for() -> None:
    """Rank 7 is the latest of all, in an operation that nothing waits for; on the path rank 2 is later than rank 3."""
    four = range(4)
    drafts = [
        OperationDraft(
            [TaskDraft(rank, not_before_ps=500_000 * (rank == 3), launches=False) for rank in four],
            [MessageDraft(3, rank, 1) for rank in range(3)],
        ),
        OperationDraft(
            [TaskDraft(rank, not_before_ps=900_000 * (rank == 7), launches=False) for rank in range(4, 8)],
            [MessageDraft(7, 4, 1)],
        ),
        OperationDraft(
            [TaskDraft(rank, not_before_ps=1_100_000 * (rank == 2), launches=False, after=(0,)) for rank in four],
            [MessageDraft(2, 0, 1)],
        ),
    ]
    schedule, network = build_schedule(8, drafts), crossbar(8)
    result = finished(network, schedule, run_schedule(network, schedule, terminal_of_rank=linear(schedule)))
    path = result.collected.critical_path
    assert path.latest_rank == 2
    assert path.late_ps == 500_000 + path.latest_ps
    assert result.bottleneck.cause == "straggler"
    assert result.bottleneck.sentence.startswith("Rank 2 is late, by ")


def test_a_run_of_no_time_has_a_sentence_too() -> None:
    """Nothing to move and nothing to launch."""
    draft = OperationDraft([TaskDraft(0, launches=False)])
    schedule = build_schedule(1, [draft])
    record = run_schedule(crossbar(), schedule, terminal_of_rank=linear(schedule), kernel="python")
    result = finished(crossbar(), schedule, record)
    assert result.bottleneck == Bottleneck("launch", "The run takes no time.", 0.0)
    assert set(result.collected.critical_path.percent.values()) == {0.0}
