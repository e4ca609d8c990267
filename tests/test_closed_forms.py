"""Closed forms, equal to the picosecond (docs/physics.md, section 11), on the shipped fabrics.

Notation, per channel of a route: L latency, S serialization of a full packet; E its ejection time; I the
injection time (copy rate included). ``Z`` is the zero-load latency from the injection start to the delivery. Each
test derives its form; ``full_packet`` does the ceilings of section 4. Endpoint times are those of the presets, without
the protocols, which only change the launch latency A (tests/engine/test_launch.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import ceil

import numpy as np
import pytest

from fabricsim.engine.driver import RunRecord, run_schedule
from fabricsim.fabrics import load_fabric
from fabricsim.fabrics.network import Network
from fabricsim.workloads.collectives import collective
from fabricsim.workloads.schedule import Schedule
from tests.oracle.cases import MessageDraft, OperationDraft, TaskDraft, build_schedule

FABRICS = ("cloudmatrix384", "cloudmatrix384-mesh", "nvl72")
PACKETS = 5  # full packets per plane of a message: enough to see the rate, few enough to stay fast

#: A route by its channel classes, and a pair of terminals that takes it.
ROUTES = (
    ("nvl72", ("gpu-nvswitch", "nvswitch-gpu"), (0, 71)),
    ("cloudmatrix384", ("npu-l1", "l1-npu"), (0, 7)),
    ("cloudmatrix384", ("npu-l1", "l1-l2", "l2-l1", "l1-npu"), (7, 8)),
    ("cloudmatrix384-mesh", ("npu-npu",), (0, 383)),
)


@dataclass(frozen=True)
class Form:
    """The times of one full packet on a route, in ps."""

    zero_load: int
    injection: int
    ejection: int
    slowest: int
    last_serialization: int


def without_protocols(name: str) -> Network:
    """Build a fabric whose operations all have the same launch latency."""
    network = load_fabric(name).network()
    return replace(network, endpoint=replace(network.endpoint, protocols=()))


def full_packet(network: Network, classes: tuple[str, ...], payload_bytes: int | None = None) -> Form:
    """Work out section 11 for a packet (full by default) that crosses *classes*, one channel of each."""
    payload = payload_bytes or network.packet.max_payload_bytes
    flits = ceil(Fraction(payload + network.packet.overhead_bytes, network.packet.flit_bytes))
    wire = flits * network.packet.flit_bytes
    table = network.channels
    rows = [int(np.argmax(table.channel_class == network.channel_class_names.index(name))) for name in classes]
    serialization = [
        ceil(wire * Fraction(int(table.ps_per_byte_num[row]), int(table.ps_per_byte_den[row]))) for row in rows
    ]
    copy = Fraction(int(table.copy_ps_per_byte_num[rows[0]]), int(table.copy_ps_per_byte_den[rows[0]]))
    eject = Fraction(int(table.ejection_ps_per_byte_num[rows[-1]]), int(table.ejection_ps_per_byte_den[rows[-1]]))
    injection = max(serialization[0], ceil(payload * copy))
    ejection = max(serialization[-1], ceil(payload * eject))
    waits = sum(max(0, before - own) for before, own in pairwise(serialization))
    zero_load = sum(int(table.latency_ps[row]) for row in rows) + waits + ejection
    return Form(zero_load, injection, ejection, max(injection, ejection, *serialization), serialization[-1])


def planes_of(network: Network) -> int:
    """Return over how many channels a large message is striped."""
    return int(network.bundle_first[1] - network.bundle_first[0])


def send(network: Network, pairs: list[tuple[int, int]], size_bytes: int) -> RunRecord:
    """Send one message per pair of terminals, all at time 0."""
    tasks = [TaskDraft(rank) for rank in sorted({rank for pair in pairs for rank in pair})]
    messages = [MessageDraft(source, target, size_bytes) for source, target in pairs]
    schedule = build_schedule(network.num_terminals, [OperationDraft(tasks, messages)])
    return run(network, schedule)


def run(network: Network, schedule: Schedule) -> RunRecord:
    """Run with rank r at terminal r."""
    return run_schedule(network, schedule, terminal_of_rank=np.arange(schedule.num_ranks, dtype=np.int32))


def duration(record: RunRecord) -> int:
    """Return the time from the first injection start to the last delivery, in ps."""
    return int(record.message_complete_ps.max() - record.message_first_injection_ps.min())


@pytest.mark.parametrize(
    ("name", "classes", "pair", "packet"),
    [(*route, packet) for route in ROUTES for packet in load_fabric(route[0]).packet],
)
def test_zero_load_latency(name: str, classes: tuple[str, ...], pair: tuple[int, int], packet: str) -> None:
    """One full packet per plane meets nobody: the sum of L, the waits of faster channels for slower ones, then E.

    On a channel the head needs L. A channel that is faster than the one before may not start before head arrival
    + S_before - S_own. The last head arrives, and E later the packet is delivered.
    """
    network = load_fabric(name).network(packet=packet)
    record = send(network, [pair], planes_of(network) * network.packet.max_payload_bytes)
    assert duration(record) == full_packet(network, classes).zero_load


def test_zero_load_latency_in_numbers() -> None:
    """The same by hand, so that a wrong preset cannot agree with itself.

    nvl72: 256 B and 32 B of overhead are 288 B; at 50 GB/s 5,760 ps; two channels of 250 ns: 505,760 ps.
    cloudmatrix384: 4,096 B and 52 B are 208 flits = 4,160 B; at 56 GB/s 74,286 ps, at 28 GB/s 148,572 ps. Within a node
    2 * 175,000 + 74,286 = 424,286. Between nodes 2 * 175,000 + 2 * 350,000 + (148,572 - 74,286) + 74,286 = 1,198,572.
    mesh: at 392/383 GB/s 4,160 B take ceil(4,160 * 383,000 / 392) = 4,064,490 ps, and 350 ns of latency.
    """
    expected = {(0, 71): 505_760, (0, 7): 424_286, (7, 8): 1_198_572, (0, 383): 4_414_490}
    for name, classes, pair in ROUTES:
        assert full_packet(load_fabric(name).network(), classes).zero_load == expected[pair]


@pytest.mark.parametrize(("name", "classes", "pair"), ROUTES)
@pytest.mark.parametrize("payload_bytes", [1, 100])
def test_zero_load_latency_of_a_short_packet(
    name: str, classes: tuple[str, ...], pair: tuple[int, int], payload_bytes: int
) -> None:
    """A message below the striping minimum is one short packet on one plane; the form is the same."""
    network = load_fabric(name).network()
    assert duration(send(network, [pair], payload_bytes)) == full_packet(network, classes, payload_bytes).zero_load


@pytest.mark.parametrize(("name", "classes", "pair"), ROUTES)
@pytest.mark.parametrize("endpoint", ["fitted", "ideal"])
def test_one_flow_at_full_rate(name: str, classes: tuple[str, ...], pair: tuple[int, int], endpoint: str) -> None:
    """Of k full packets per plane the first needs Z, each other one follows at the slowest server R = max(I, S, E).

    Packets of one plane pass the same servers in order, and buffers are ample, so the k-th is delivered (k - 1) R after
    the first. Where uplinks are several, spray finds each packet an idle one, so their S does not count; the
    copy, the first and the last channel do.
    """
    network = load_fabric(name).network(endpoint=endpoint)
    form = full_packet(network, classes)
    shared = max(form.injection, form.ejection, form.last_serialization)
    record = send(network, [pair], planes_of(network) * PACKETS * network.packet.max_payload_bytes)
    assert duration(record) == form.zero_load + (PACKETS - 1) * shared


INCASTS = (
    ("nvl72", ("gpu-nvswitch", "nvswitch-gpu"), range(1, 8), "fitted"),
    ("cloudmatrix384", ("npu-l1", "l1-npu"), range(1, 8), "fitted"),
    ("cloudmatrix384", ("npu-l1", "l1-l2", "l2-l1", "l1-npu"), range(9, 64, 9), "ideal"),
    ("cloudmatrix384-mesh", ("npu-npu",), range(1, 8), "fitted"),
)


@pytest.mark.parametrize(("name", "classes", "sources", "endpoint"), INCASTS)
def test_incast_of_seven(name: str, classes: tuple[str, ...], sources: range, endpoint: str) -> None:
    """Seven terminals send k full packets per plane to an eighth one, terminal 0.

    All first packets arrive at the last switch together; from then on its output never runs dry, because seven packets
    arrive per injection time I < 7 S. So the 7 k packets leave at its pace, and the last is delivered
    Z + (7 k - 1) max(S, E) after the common injection start. From seven other nodes the same holds: the senders sit at
    different ports (9 = 8 + 1), so spray starts them on different uplinks, 2 apart, and they move on in step. (With
    the copy rate, the seven second packets come late by more than six S, and the output pauses once.) In the mesh each
    pair owns a channel and an ejection server: incast equals one flow.
    """
    network = load_fabric(name).network(endpoint=endpoint)
    form = full_packet(network, classes)
    size = planes_of(network) * PACKETS * network.packet.max_payload_bytes
    record = send(network, [(source, 0) for source in sources], size)
    if len(classes) == 1:
        assert duration(record) == form.zero_load + (PACKETS - 1) * form.slowest
    else:
        assert form.injection < 7 * form.last_serialization
        assert duration(record) == form.zero_load + (7 * PACKETS - 1) * max(form.last_serialization, form.ejection)


@pytest.mark.parametrize("name", ["nvl72", "cloudmatrix384-mesh"])
def test_rotated_all_to_all_in_lock_step(name: str) -> None:
    """In step j rank r sends k full packets per plane to r + j: a permutation, so nobody shares an output.

    A step begins for all at once: each message takes its slot, waits the overhead O, and is complete Z + (k - 1) R and
    sent I + (k - 1) R later, R = max(I, S, E); the next step waits for both. With the launch latency A and n ranks the
    operation ends at A + (n - 1) (O + max(Z, I) + (k - 1) R).
    """
    network = without_protocols(name)
    ranks = 72 if name == "nvl72" else 12
    packets = 2
    classes = next(classes for fabric, classes, _ in ROUTES if fabric == name)
    form = full_packet(network, classes)
    size = ranks * planes_of(network) * packets * network.packet.max_payload_bytes
    record = run(network, collective("all_to_all", size=size, ranks=ranks, algorithm="rotated"))
    step = network.endpoint.message_overhead_ps + max(form.zero_load, form.injection) + (packets - 1) * form.slowest
    expected = network.endpoint.launch_latency_ps + (ranks - 1) * step
    assert record.task_end_ps.tolist() == [expected] * ranks


@pytest.mark.parametrize(
    ("name", "classes", "ranks"),
    [
        ("nvl72", ("gpu-nvswitch", "nvswitch-gpu"), 72),
        ("cloudmatrix384", ("npu-l1", "l1-npu"), 8),
        ("cloudmatrix384-mesh", ("npu-npu",), 8),
    ],
)
def test_ring_all_reduce(name: str, classes: tuple[str, ...], ranks: int) -> None:
    """Each of 2 (n - 1) steps passes a chunk of k full packets per plane to the neighbour.

    Neighbours share no channel, and a step's message waits for the chunk of the step before and for the channel. So
    each step but the last takes max(O + Z, I) + (k - 1) R after its first packet's start. The operation ends when the
    last message is complete and sent: at A + O + (2 (n - 1) - 1) (max(O + Z, I) + (k - 1) R) + (k - 1) R + max(Z, I).
    """
    network = without_protocols(name)
    form = full_packet(network, classes)
    packets = 3
    size = ranks * planes_of(network) * packets * network.packet.max_payload_bytes
    record = run(network, collective("all_reduce", size=size, ranks=ranks))
    overhead = network.endpoint.message_overhead_ps
    train = (packets - 1) * form.slowest
    step = max(overhead + form.zero_load, form.injection) + train
    last = train + max(form.zero_load, form.injection)
    expected = network.endpoint.launch_latency_ps + overhead + (2 * (ranks - 1) - 1) * step + last
    assert record.task_end_ps.tolist() == [expected] * ranks


@pytest.mark.parametrize("name", FABRICS)
def test_launch_and_overhead_come_first(name: str) -> None:
    """The first packet starts after the launch latency (once) and the message overhead (in its slot)."""
    network = without_protocols(name)
    record = send(network, [(0, 1)], 64)
    endpoint = network.endpoint
    assert record.message_ready_ps[0] == endpoint.launch_latency_ps
    assert record.message_first_injection_ps[0] == endpoint.launch_latency_ps + endpoint.message_overhead_ps


@pytest.mark.parametrize(("name", "classes", "pair"), ROUTES)
def test_acknowledged_messages_go_one_after_the_other(
    name: str, classes: tuple[str, ...], pair: tuple[int, int]
) -> None:
    """With one slot until the acknowledgement is back the k-th message starts k (O + max(I, Z + sum of L)) late.

    One packet each, on every plane alike. On the mesh I, the slow copy, is longer than all its way.
    """
    network = without_protocols(name)
    network = replace(network, endpoint=replace(network.endpoint, slots=1, acked=True))
    planes = np.diff(network.bundle_first)[network.bundle_index[pair]]
    form = full_packet(network, classes)
    record = send(network, [pair] * 4, int(planes) * network.packet.max_payload_bytes)
    table = network.channels
    rows = [np.flatnonzero(table.channel_class == network.channel_class_names.index(one))[0] for one in classes]
    back_ps = int(table.latency_ps[rows].sum())
    late = network.endpoint.message_overhead_ps + max(form.injection, form.zero_load + back_ps)
    first = network.endpoint.launch_latency_ps + network.endpoint.message_overhead_ps
    assert record.message_first_injection_ps.tolist() == [first + k * late for k in range(4)]
    # Nobody waits for the last acknowledgement.
    assert record.task_end_ps.max() == first + 3 * late + max(form.injection, form.zero_load)


def test_slots_limit_the_messages_in_flight() -> None:
    """With one slot a message waits for the one before it, then its own overhead: the k-th starts k (O + I) late."""
    network = without_protocols("nvl72")
    network = replace(network, endpoint=replace(network.endpoint, slots=1))
    form = full_packet(network, ("gpu-nvswitch", "nvswitch-gpu"))
    record = send(network, [(0, target) for target in range(1, 5)], 18 * 256)
    overhead = network.endpoint.message_overhead_ps
    starts = [network.endpoint.launch_latency_ps + overhead + k * (form.injection + overhead) for k in range(4)]
    assert record.message_first_injection_ps.tolist() == starts
