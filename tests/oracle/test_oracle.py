"""The oracle itself, against cases computed by hand and against what holds in every case.

By hand means: each docstring does the arithmetic. Unless it says otherwise a byte takes 10 ps on every link and 100
payload bytes make a full packet without overhead, so serialization S = 1000 ps; on the way up a link takes 3000 ps, on
the way down 5000 ps; nothing is lost to launches, overheads or copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabricsim.errors import StallError
from fabricsim.fabrics.network import Endpoint, Network, PacketFormat
from fabricsim.fabrics.topologies import Link, Tier, clos, full_mesh
from tests.oracle.cases import (
    MAX_PACKETS,
    Case,
    MessageDraft,
    OperationDraft,
    TaskDraft,
    build_schedule,
    cases,
    networks,
    packet_formats,
)
from tests.oracle.simulator import OracleResult, Simulation, hash_of, launch_ps_of, mix32, simulate

AMPLE = 1 << 20
TEN = Fraction(10)
UP = Link(TEN, 3_000, AMPLE)
DOWN = Link(TEN, 5_000, AMPLE)
PACKET = PacketFormat("bare", max_payload_bytes=100, overhead_bytes=0, flit_bytes=1, stripe_min_bytes=100)
NO_DELAYS = Endpoint(launch_latency_ps=0, message_overhead_ps=0, slots=8)


def fabric(
    *tiers: Tier,
    num_planes: int = 1,
    packet: PacketFormat = PACKET,
    endpoint: Endpoint = NO_DELAYS,
    routing: str = "spray",
    copy_ps_per_byte: Fraction | None = None,
    ejection_ps_per_byte: Fraction | None = None,
) -> Network:
    """A Clos, its rates of copy and ejection unlimited unless given."""
    return clos(
        name="by hand",
        terminal_name="gpu",
        tiers=tiers,
        num_planes=num_planes,
        packet=packet,
        endpoint=endpoint,
        routing=routing,
        copy_ps_per_byte=copy_ps_per_byte,
        ejection_ps_per_byte=ejection_ps_per_byte,
    )


def star(terminals: int, up: Link = UP, down: Link = DOWN) -> Tier:
    """One switch above all terminals."""
    return Tier("switch", children=terminals, parents=1, up=up, down=down)


def run(network: Network, operations: Sequence[OperationDraft], seed: int = 0) -> OracleResult:
    """Simulate with one rank per terminal, in order."""
    schedule = build_schedule(network.num_terminals, operations)
    return simulate(network, schedule, seed=seed, terminal_of_rank=range(network.num_terminals))


def run_messages(network: Network, *messages: MessageDraft, seed: int = 0) -> OracleResult:
    """Simulate one operation over all terminals."""
    tasks = [TaskDraft(rank) for rank in range(network.num_terminals)]
    return run(network, [OperationDraft(tasks, messages)], seed)


def simulate_case(case: Case) -> OracleResult:
    """Simulate a drawn case."""
    return simulate(case.network, case.schedule, seed=case.seed, terminal_of_rank=case.terminal_of_rank)


# Hashes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "mixed"), [(0, 0), (1, 0x86D2FA73), (0xDEADBEEF, 0x2A2ACAF2), (0xFFFFFFFF, 0x99B5E683)]
)
def test_mix32_agrees_with_32_bit_c(word: int, mixed: int) -> None:
    """The expected values come from a C program in uint32_t arithmetic, which wraps by itself."""
    assert mix32(word) == mixed


def test_hash_takes_both_words_of_each_argument() -> None:
    """Expected from the same C program; -1 is two words of ones, 5e9 has a high word of 1."""
    assert hash_of(-1, 2, 3, 5_000_000_000) == 0x4E7FA872


# One packet and two -----------------------------------------------------------------------------------------


def test_one_packet_over_one_switch() -> None:
    """Head at the switch at 3000, on the next channel at once, at the terminal at 8000, ejected for S: 9000."""
    result = run_messages(fabric(star(2)), MessageDraft(0, 1, 100))
    assert result.message_ready_ps.tolist() == [0]
    assert result.message_first_injection_ps.tolist() == [0]
    assert result.message_complete_ps.tolist() == [9_000]
    assert result.packet_latency_ps.tolist() == [9_000]
    # The sender is done when its packet's injection time has passed, at S; the receiver with the delivery.
    assert result.task_begin_ps.tolist() == [0, 0]
    assert result.task_end_ps.tolist() == [1_000, 9_000]
    assert result.simulated_time_ps == 9_000


def test_wire_bytes_count_overhead_in_whole_flits() -> None:
    """30 bytes and 7 of overhead are 37, in flits of 16 three: 48 bytes, 480 ps; 3000 + 5000 + 480 = 8480."""
    packet = PacketFormat("flits", max_payload_bytes=100, overhead_bytes=7, flit_bytes=16, stripe_min_bytes=100)
    result = run_messages(fabric(star(2), packet=packet), MessageDraft(0, 1, 30))
    assert result.message_complete_ps.tolist() == [8_480]
    assert result.channel_wire_bytes.sum() == 2 * 48


def test_serialization_is_rounded_up() -> None:
    """100 bytes at 250/7 ps are 3571.43 ps, so 3572 on each channel; 3000 + 5000 + 3572 = 11572."""
    rate = Fraction(250, 7)
    result = run_messages(fabric(star(2, Link(rate, 3_000, AMPLE), Link(rate, 5_000, AMPLE))), MessageDraft(0, 1, 100))
    assert result.message_complete_ps.tolist() == [11_572]
    assert result.channel_busy_ps.sum() == 2 * 3_572


@pytest.mark.parametrize(("seed", "winner"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_tie_at_an_output_goes_by_the_seed(seed: int, winner: int) -> None:
    """Two heads reach the switch at 3000: the winner goes through in 9000, the other starts S later: 10000.

    The winner is the smaller of mix32(H(seed, 1, place) ^ 3000), places 0 and 1, worked out by a C program.
    """
    result = run_messages(fabric(star(3)), MessageDraft(0, 2, 100), MessageDraft(1, 2, 100), seed=seed)
    assert result.message_complete_ps[winner] == 9_000
    assert result.message_complete_ps[1 - winner] == 10_000
    assert result.packet_latency_ps.tolist() == [9_000, 10_000]


def test_mesh_has_a_channel_and_slots_for_each_pair() -> None:
    """One terminal sends 100 bytes to each of two others at once, without a switch: both take 7000 + S = 8000."""
    network = full_mesh(
        name="mesh",
        terminal_name="npu",
        num_terminals=3,
        link=Link(TEN, 7_000, AMPLE),
        packet=PACKET,
        endpoint=Endpoint(0, 0, slots=1),
        copy_ps_per_byte=None,
        ejection_ps_per_byte=None,
    )
    result = run_messages(network, MessageDraft(0, 1, 100), MessageDraft(0, 2, 100))
    assert result.message_complete_ps.tolist() == [8_000, 8_000]


# Credits and rates ------------------------------------------------------------------------------------------


def test_credit_wait_with_a_buffer_of_one_packet() -> None:
    """With room for one packet at the switch each waits for the credit of the one before.

    A packet starts at t, its head leaves the switch at t + 3000, its tail at t + 4000, and its credit is usable at
    t + 7000: starts at 0, 7000, 14000; the last is delivered at 23000. Each wait began when the channel was free
    again, S after the last start: 2 x 6000 of credit stall. The way down is started on at 3000, 10000 and 17000, and
    the credit of the first packet comes back at 9000 + 5000 = 14000, so its sender sees two packets below at 10000.
    """
    result = run_messages(fabric(star(2, up=Link(TEN, 3_000, 100))), MessageDraft(0, 1, 300))
    assert result.message_complete_ps.tolist() == [23_000]
    assert result.packet_latency_ps.tolist() == [9_000] * 3
    assert result.channel_credit_stall_ps.tolist() == [12_000, 0, 0, 0]
    assert result.channel_peak_occupancy_bytes.tolist() == [100, 0, 0, 200]
    # Of the message: two packets and the ejection of the last, both latencies, both stalls; it is sent at 15000.
    assert result.message_complete_parts_ps.tolist() == [[0, 3_000, 8_000, 12_000, 0]]
    assert result.message_sent_parts_ps.tolist() == [[0, 3_000, 0, 12_000, 0]]


def test_peak_occupancy_is_what_the_sender_sees() -> None:
    """With ample buffers three packets start at 0, 1000, 2000 and no credit is back before 7000: 300 bytes seen."""
    result = run_messages(fabric(star(2)), MessageDraft(0, 1, 300))
    assert result.channel_peak_occupancy_bytes.tolist() == [300, 0, 0, 300]
    assert result.channel_packets.tolist() == [3, 0, 0, 3]
    assert result.message_complete_ps.tolist() == [11_000]


def test_faster_channel_waits_for_a_slower_one_before_it() -> None:
    """Fast, slow, slow, fast: S = 1000, 3000, 3000, 1000, every latency 1000.

    First packet: heads at 1000, 2000, 3000; the last channel is faster than the one before, so it starts at
    3000 + (3000 - 1000) = 5000; head at 6000, delivered at 7000. The second is at the first switch at 2000, where the
    slow channel is busy until 4000; heads at 5000, 6000; start at 8000, head at 9000, delivered at 10000.
    """
    fast, slow = Link(TEN, 1_000, AMPLE), Link(Fraction(30), 1_000, AMPLE)
    network = fabric(Tier("leaf", 1, 1, up=fast, down=fast), Tier("spine", 2, 1, up=slow, down=slow))
    result = run_messages(network, MessageDraft(0, 1, 200))
    assert result.packet_latency_ps.tolist() == [7_000, 9_000]
    assert result.message_complete_ps.tolist() == [10_000]
    assert result.channel_credit_stall_ps.sum() == 0
    # The first packet, 3000 - 1000 at the last switch and the ejection; from 2000 to 4000 the first goes before.
    assert result.message_complete_parts_ps.tolist() == [[0, 4_000, 4_000, 0, 2_000]]


def test_short_packet_behind_a_slow_one_starts_when_its_own_tail_allows() -> None:
    """Up at 30 ps per byte, down at 10: a full packet, then one of 50 bytes.

    Starts on the way up: 0 and 3000. Heads at the switch: 3000 and 6000. On the way down the first may start at
    3000 + (3000 - 1000) = 5000 and ends at 6000, the second at 6000 + (1500 - 500) = 7000. Delivered at
    7000 + 5000 + 500 = 12500.
    """
    network = fabric(star(2, up=Link(Fraction(30), 3_000, AMPLE)))
    result = run_messages(network, MessageDraft(0, 1, 150))
    assert result.message_complete_ps.tolist() == [12_500]
    assert result.packet_latency_ps.tolist() == [9_500, 11_000]


# Terminals --------------------------------------------------------------------------------------------------


def test_slots_are_served_round_robin() -> None:
    """Two slots; A has one packet, B three, C two, all ready at 0.

    0: A and B have the slots, A goes and leaves the ring. 1000: A's slot is free, C joins behind B, and only then B
    goes and queues behind C. 2000: C. 3000: B. 4000: C, which leaves. 5000: B. Deliveries 9000 after the last start.
    """
    network = fabric(star(4), endpoint=Endpoint(0, 0, slots=2))
    result = run_messages(network, MessageDraft(0, 1, 100), MessageDraft(0, 2, 300), MessageDraft(0, 3, 200))
    assert result.message_first_injection_ps.tolist() == [0, 1_000, 2_000]
    assert result.message_complete_ps.tolist() == [9_000, 14_000, 13_000]


def test_overhead_is_paid_in_the_slot() -> None:
    """One slot and 500 ps of overhead: the second message takes the slot at 1500 and goes at 2000.

    The channel was free from 1500, but no wait in its ring had ended, so nothing of that is a credit stall.
    """
    network = fabric(star(2), endpoint=Endpoint(0, message_overhead_ps=500, slots=1))
    result = run_messages(network, MessageDraft(0, 1, 100), MessageDraft(0, 1, 100))
    assert result.message_ready_ps.tolist() == [0, 0]
    assert result.message_first_injection_ps.tolist() == [500, 2_000]
    assert result.channel_credit_stall_ps.sum() == 0
    assert result.message_complete_parts_ps.tolist() == [[500, 1_000, 8_000, 0, 0], [2_000, 1_000, 8_000, 0, 0]]


def test_share_without_room_is_skipped_and_keeps_its_place() -> None:
    """Room for 150 bytes at the switch; A has two packets of 100 bytes, B one of 50, C one of 100.

    0: A goes, ring B C A, 50 bytes of room. 1000: B goes (the last room). Credits: A's first at 7000, B's at
    1000 + 3000 + 500 + 3000 = 7500 if the way down is free. 7000: room for 100: C stands before A and goes.
    A follows when C's credit is back, at 14000. Stalls: 7000 - 1500 = 5500 and 14000 - 8000 = 6000.
    """
    network = fabric(star(2, up=Link(TEN, 3_000, 150)))
    result = run_messages(network, MessageDraft(0, 1, 200), MessageDraft(0, 1, 50), MessageDraft(0, 1, 100))
    assert result.message_first_injection_ps.tolist() == [0, 1_000, 7_000]
    assert result.message_complete_ps.tolist() == [23_000, 9_500, 16_000]
    assert result.channel_credit_stall_ps[0] == 11_500
    # A has both stalls to bear and waits for B and C to start, B for A, C for both and the first stall.
    assert result.message_complete_parts_ps.tolist() == [
        [0, 2_000, 8_000, 11_500, 1_500],
        [0, 500, 8_000, 0, 1_000],
        [0, 1_000, 8_000, 5_500, 1_500],
    ]


def test_small_packet_overtakes_one_without_room() -> None:
    """Room for 150 bytes at the switch; A has two packets of 100 bytes, B one of 100, C one of 50.

    0: A goes. 1000: B has no room and is skipped, C goes. B is still in front of A and goes at 7000.
    """
    network = fabric(star(2, up=Link(TEN, 3_000, 150)))
    result = run_messages(network, MessageDraft(0, 1, 200), MessageDraft(0, 1, 100), MessageDraft(0, 1, 50))
    assert result.message_first_injection_ps.tolist() == [0, 7_000, 1_000]
    assert result.message_complete_ps.tolist() == [23_000, 16_000, 9_500]


def test_copy_slower_than_the_wire_spaces_injections() -> None:
    """A copy at 25 ps per byte makes an injection 2500: starts at 0 and 2500, sent at 5000, delivered at 11500.

    The wire is busy for S per packet all the same.
    """
    result = run_messages(fabric(star(2), copy_ps_per_byte=Fraction(25)), MessageDraft(0, 1, 200))
    assert result.task_end_ps.tolist() == [5_000, 11_500]
    assert result.channel_busy_ps.tolist() == [2_000, 0, 0, 2_000]
    assert result.channel_credit_stall_ps.sum() == 0
    # The copy of the first packet is 1500 longer than its serialization; that of the last holds up the sender alone.
    assert result.message_complete_parts_ps.tolist() == [[1_500, 2_000, 8_000, 0, 0]]
    assert result.message_sent_parts_ps.tolist() == [[1_500, 3_500, 0, 0, 0]]


def test_ejection_slower_than_the_wire() -> None:
    """Ejection at 40 ps per byte takes 4000: heads arrive at 8000 and 9000, deliveries at 12000 and 16000."""
    result = run_messages(fabric(star(2), ejection_ps_per_byte=Fraction(40)), MessageDraft(0, 1, 200))
    assert result.packet_latency_ps.tolist() == [12_000, 15_000]
    assert result.message_complete_ps.tolist() == [16_000]
    assert result.message_complete_parts_ps.tolist() == [[0, 5_000, 8_000, 0, 3_000]]


def test_ejection_holds_the_buffer_until_its_end() -> None:
    """As above with room for one packet at the terminal: the credit of the first is usable at 12000 + 5000.

    The second starts on the way down at 17000, 13000 after both it (3000 + 1000) and the channel (4000) were ready,
    and is delivered at 17000 + 5000 + 4000 = 26000.
    """
    network = fabric(star(2, down=Link(TEN, 5_000, 100)), ejection_ps_per_byte=Fraction(40))
    result = run_messages(network, MessageDraft(0, 1, 200))
    assert result.message_complete_ps.tolist() == [26_000]
    assert result.channel_credit_stall_ps.tolist() == [0, 0, 0, 13_000]
    assert result.message_complete_parts_ps.tolist() == [[0, 5_000, 8_000, 13_000, 0]]


# Striping and routing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "first"), [(0, 2), (2, 1), (4, 0), (6, 3)])
def test_striping_over_fewer_planes_than_there_are(seed: int, first: int) -> None:
    """250 bytes with stripe_min 100 use 3 of 4 planes, from H(seed, 4, 0, 1, 0, 0) mod 4 (by a C program) on.

    The shares hold 84, 83 and 83 bytes and are all cut as 84: packets of 50 and 34 bytes, 168 bytes on the wire of
    each channel of two. The second starts at 500 and takes 340: 500 + 3000 + 5000 + 340 on the way, but it may not
    overtake the ejection of the first, 8000 to 8500: its head arrives at 8500 and it is delivered at 8840.
    """
    packet = PacketFormat("half", max_payload_bytes=50, overhead_bytes=0, flit_bytes=1, stripe_min_bytes=100)
    network = fabric(star(2), num_planes=4, packet=packet)
    result = run_messages(network, MessageDraft(0, 1, 250), seed=seed)
    used = [(first + i) % 4 for i in range(3)]
    by_plane = result.channel_wire_bytes.reshape(4, 4)  # planes by (0 up, 1 up, down to 0, down to 1)
    assert by_plane.tolist() == [[84, 0, 0, 84] if plane in used else [0] * 4 for plane in range(4)]
    assert result.channel_packets.sum() == 3 * 2 * 2
    assert result.message_delivered_bytes.tolist() == [250]
    assert result.message_complete_ps.tolist() == [8_840]


def test_message_over_all_planes_starts_with_the_first() -> None:
    """Three messages of 399 bytes on four planes use all (m = 4): 100, 100, 100 and 99 bytes, timed as 100.

    Every plane carries three packets, one after the other: done at 9000, 10000, 11000.
    """
    result = run_messages(fabric(star(2), num_planes=4), *[MessageDraft(0, 1, 399)] * 3)
    assert result.channel_packets.reshape(4, 4)[:, 0].tolist() == [3] * 4
    assert result.message_complete_ps.tolist() == [9_000, 10_000, 11_000]
    assert result.message_delivered_bytes.tolist() == [399] * 3


@pytest.mark.parametrize(
    ("routing", "seed", "by_spine"),
    [
        # Spray: terminal 0's channel is the first of 2 inputs, counter 0 * 2 // 2 = 0: spines 0, 1, 0. Terminal 1's
        # starts at 1 * 2 // 2 = 1: spines 1, 0, 1. Deterministic: H(seed, 2, src, dst) mod 2, by a C program.
        ("spray", 0, [3, 3]),
        ("deterministic", 0, [0, 6]),
        ("deterministic", 1, [3, 3]),
        ("deterministic", 2, [6, 0]),
    ],
)
def test_routing_chooses_among_the_parents(routing: str, seed: int, by_spine: list[int]) -> None:
    """Two leaves of two terminals under two spines; 0 and 1 send three packets each to 2 and 3."""
    network = fabric(Tier("leaf", 2, 1, UP, DOWN), Tier("spine", 2, 2, UP, DOWN), routing=routing)
    result = run_messages(network, MessageDraft(0, 2, 300), MessageDraft(1, 3, 300), seed=seed)
    leaf, spines = 4, (6, 7)
    counted = [
        int(result.channel_packets[(network.channels.source_node == leaf) & (network.channels.target_node == s)].sum())
        for s in spines
    ]
    assert counted == by_spine


def test_spray_takes_turns_from_the_start_of_its_input() -> None:
    """Three packets of terminal 1 find the counter at 1: spines 1, 0, 1."""
    network = fabric(Tier("leaf", 2, 1, UP, DOWN), Tier("spine", 2, 2, UP, DOWN))
    result = run_messages(network, MessageDraft(1, 3, 300))
    up = [int(result.channel_packets[(network.channels.target_node == spine)].sum()) for spine in (6, 7)]
    assert up == [1, 2]


# Messages and operations ------------------------------------------------------------------------------------


def test_zero_byte_and_self_messages_make_no_packet() -> None:
    """After a launch of 2000 all of them are ready at once, one after another in the same instant.

    Message 2 waits for the zero-byte message 1, which waits for the self message 0; message 3 goes back at once, for
    its rank does not wait for the zero-byte message 1 that it receives. Two real messages: 2000 + 9000.
    """
    network = fabric(star(2), endpoint=Endpoint(launch_latency_ps=2_000, message_overhead_ps=0, slots=1))
    result = run_messages(
        network,
        MessageDraft(0, 0, 500),
        MessageDraft(0, 1, 0, waits_for=(0,)),
        MessageDraft(0, 1, 100, waits_for=(1,)),
        MessageDraft(1, 0, 100, waits_for=(1,)),
    )
    assert result.message_ready_ps.tolist() == [2_000] * 4
    assert result.message_first_injection_ps.tolist() == [2_000] * 4
    assert result.message_complete_ps.tolist() == [2_000, 2_000, 11_000, 11_000]
    assert result.channel_packets.sum() == 2 * 2
    assert result.message_delivered_bytes.tolist() == [500, 0, 100, 100]


def test_target_of_a_zero_byte_message_does_not_wait() -> None:
    """The source begins at 50000; the target has nothing else to do and ends as it starts, at 0."""
    tasks = [TaskDraft(0, not_before_ps=50_000), TaskDraft(1)]
    result = run(fabric(star(2)), [OperationDraft(tasks, [MessageDraft(0, 1, 0)])])
    assert result.message_complete_ps.tolist() == [50_000]
    assert result.task_end_ps.tolist() == [50_000, 0]


def test_message_waits_for_those_sent_and_received() -> None:
    """A ring of two steps over three ranks; message 3 + r goes from rank r + 1 after r's first message has come.

    Received at 9000, so sent on at 9000 and delivered at 18000. A message that waits for its own rank's message goes
    when that is sent: message 6 at S of message 3, 9000 + 1000; delivered at 19000.
    """
    first = [MessageDraft(rank, (rank + 1) % 3, 100) for rank in range(3)]
    second = [MessageDraft((rank + 1) % 3, (rank + 2) % 3, 100, waits_for=(rank,)) for rank in range(3)]
    result = run_messages(fabric(star(3)), *first, *second, MessageDraft(1, 2, 100, waits_for=(3,)))
    assert result.message_ready_ps.tolist() == [0, 0, 0, 9_000, 9_000, 9_000, 10_000]
    assert result.message_complete_ps.tolist() == [9_000, 9_000, 9_000, 18_000, 18_000, 18_000, 19_000]


def test_task_begins_after_predecessors_and_its_time_and_gap() -> None:
    """Rank 0: an operation that ends at S = 1000 + launch 2000 = 3000; then a computation (no launch).

    The computation begins at max(3000, not before 4000) + gap 600 = 4600 and ends at once. The third operation comes
    after both, at max(3000, 4600) + 50 = 4650, and ends one launch later. Rank 1's task of the third begins at 0.
    """
    network = fabric(star(2), endpoint=Endpoint(launch_latency_ps=2_000, message_overhead_ps=0, slots=1))
    result = run(
        network,
        [
            OperationDraft([TaskDraft(0), TaskDraft(1)], [MessageDraft(0, 1, 100)]),
            OperationDraft([TaskDraft(0, gap_ps=600, not_before_ps=4_000, launches=False, after=(0,))]),
            OperationDraft([TaskDraft(0, gap_ps=50, after=(0, 1)), TaskDraft(1)]),
        ],
    )
    assert result.task_begin_ps.tolist() == [0, 0, 4_600, 4_650, 0]
    assert result.task_end_ps.tolist() == [3_000, 11_000, 4_600, 6_650, 2_000]
    assert result.simulated_time_ps == 11_000


def test_data_for_an_operation_that_has_not_started_are_accepted() -> None:
    """The receiver begins at 20000; its data are there since 9000, so it ends as it starts."""
    tasks = [TaskDraft(0), TaskDraft(1, not_before_ps=20_000)]
    result = run(fabric(star(2)), [OperationDraft(tasks, [MessageDraft(0, 1, 100)])])
    assert result.message_complete_ps.tolist() == [9_000]
    assert result.task_end_ps.tolist() == [1_000, 20_000]


def test_stall_lists_what_is_unfinished() -> None:
    """Two messages that wait for each other never become ready; the message that ran is not in the list."""
    with pytest.raises(StallError, match="nothing is left to do at 14000 ps") as caught:
        run_messages(
            fabric(star(2)),
            MessageDraft(0, 1, 100),
            MessageDraft(0, 1, 100, waits_for=(2,)),
            MessageDraft(1, 0, 100, waits_for=(1,)),
        )
    said = str(caught.value)
    assert "task 0 (operation 0 at rank 0) began at 0 ps and did not end" in said
    assert "message 1 (rank 0 to 1) never became ready" in said
    assert "message 0 " not in said


# What holds in every case -----------------------------------------------------------------------------------


def routes(network: Network, channel: int, target: int, vc: int = 0) -> Iterator[list[int]]:
    """Every route to terminal ``target`` that begins with ``channel``, on ``vc`` where that decides on detours."""
    node = int(network.channels.target_node[channel])
    if node == target:
        yield [channel]
        return
    first = int(network.route_first[node - network.num_terminals, target])
    count = int(network.route_count[node - network.num_terminals, target])
    detours = 0
    if network.detour_count is not None and vc == 0:
        detours = int(network.detour_count[node - network.num_terminals, target])
    for place, candidate in enumerate(network.candidates[first : first + count + detours]):
        for rest in routes(network, int(candidate), target, vc=int(place >= count)):
            yield [channel, *rest]


def zero_load_ps(network: Network, route: Sequence[int], payload_bytes: int) -> int:
    """The closed form of docs/physics.md, section 11, for one packet."""
    channels = network.channels

    def time_ps(size_bytes: int, num: np.int64, den: np.int64) -> int:
        return ceil(Fraction(size_bytes * int(num), int(den)))

    wire_bytes = network.packet.wire_bytes(payload_bytes)
    last = route[-1]
    serialization = [time_ps(wire_bytes, channels.ps_per_byte_num[c], channels.ps_per_byte_den[c]) for c in route]
    copy_ps = time_ps(payload_bytes, channels.ejection_ps_per_byte_num[last], channels.ejection_ps_per_byte_den[last])
    waits = sum(max(0, before - own) for before, own in pairwise(serialization))
    return int(channels.latency_ps[route].sum()) + waits + max(serialization[-1], copy_ps)


@settings(max_examples=50)
@given(network=networks(alike=False) | networks(alike=True), data=st.data())
def test_single_packet_takes_the_zero_load_latency(network: Network, data: st.DataObject) -> None:
    """In an empty network one packet takes exactly the closed form of its route, whichever that is."""
    source, target = data.draw(st.permutations(range(network.num_terminals)))[:2]
    packet = network.packet
    size_bytes = data.draw(st.integers(1, min(packet.max_payload_bytes, packet.stripe_min_bytes)))
    result = run_messages(network, MessageDraft(source, target, size_bytes), seed=data.draw(st.integers(0, 99)))
    bundle = network.bundle_index[source, target]
    injection = network.bundle_channels[network.bundle_first[bundle] : network.bundle_first[bundle + 1]]
    possible = {
        zero_load_ps(network, route, size_bytes) for c in injection for route in routes(network, int(c), target)
    }
    [latency_ps] = result.packet_latency_ps.tolist()
    assert latency_ps in possible
    assert result.message_complete_ps[0] - result.message_first_injection_ps[0] == latency_ps
    assert result.channel_credit_stall_ps.sum() == 0


@settings(max_examples=50)
@given(case=cases())
def test_cases_keep_to_the_seams(case: Case) -> None:
    """Drawn tables obey what ``schedule.Tasks`` and ``schedule.Messages`` say of themselves, and cases are small."""
    tasks, messages = case.schedule.tasks, case.schedule.messages
    assert np.diff(tasks.operation).min(initial=0) >= 0
    assert len(set(zip(tasks.operation.tolist(), tasks.rank.tolist(), strict=True))) == len(tasks)
    for row in range(len(tasks)):
        before = tasks.predecessors[tasks.predecessor_first[row] : tasks.predecessor_first[row + 1]]
        assert (tasks.rank[before] == tasks.rank[row]).all()
        assert (tasks.operation[before] < tasks.operation[row]).all()
    for row in range(len(messages)):
        operation = messages.operation[row]
        assert messages.index[row] == row - np.searchsorted(messages.operation, operation)
        assert tasks.operation[messages.source_task[row]] == tasks.operation[messages.target_task[row]] == operation
        awaited = messages.waits_for[messages.waits_first[row] : messages.waits_first[row + 1]]
        ends = np.stack([messages.source_task[awaited], messages.target_task[awaited]])
        assert (ends == messages.source_task[row]).any(axis=0).all()
        assert (messages.operation[awaited] == operation).all()
    assert len(case.terminal_of_rank) == case.schedule.num_ranks == len(set(case.terminal_of_rank))
    assert len(simulate_case(case).packet_latency_ps) <= MAX_PACKETS


@settings(max_examples=100)
@given(case=cases())
def test_every_case_conserves_bytes_and_keeps_its_bounds(case: Case) -> None:
    """Delivered is sent; each channel's and each message's figures fit together; no message beats its zero load."""
    network, channels, messages, tasks = (
        case.network,
        case.network.channels,
        case.schedule.messages,
        case.schedule.tasks,
    )
    result = simulate_case(case)
    assert result.message_delivered_bytes.tolist() == messages.size_bytes.tolist()
    # Every packet is injected once, delivered once, and leaves each switch on one channel as it came on another.
    in_groups = set(messages.groups.rows()[0].tolist())
    if not in_groups:
        into = np.bincount(channels.target_node, result.channel_wire_bytes, network.num_nodes)
        out_of = np.bincount(channels.source_node, result.channel_wire_bytes, network.num_nodes)
        assert into[network.num_terminals :].tolist() == out_of[network.num_terminals :].tolist()
        at_terminals = channels.source_node < network.num_terminals
        assert result.channel_packets[at_terminals].sum() == len(result.packet_latency_ps)
    into_terminals = channels.target_node < network.num_terminals
    assert result.channel_packets[into_terminals].sum() == len(result.packet_latency_ps)
    assert (result.channel_peak_occupancy_bytes <= channels.buffer_bytes).all()
    assert ((result.channel_peak_occupancy_bytes > 0) == (result.channel_packets > 0)).all()
    assert (result.channel_credit_stall_ps >= 0).all()
    assert (result.channel_busy_ps + result.channel_credit_stall_ps <= result.simulated_time_ps).all()
    launch_ps = [launch_ps_of(network.endpoint, operation) for operation in case.schedule.operations]
    launch_ps = np.array(launch_ps, np.int64)[tasks.operation]
    assert (result.task_begin_ps + tasks.launches * launch_ps <= result.task_end_ps).all()
    assert (result.message_ready_ps >= result.task_begin_ps[messages.source_task]).all()
    assert (result.message_complete_ps <= result.simulated_time_ps).all()
    terminals = np.array(case.terminal_of_rank)
    for row in range(len(messages)):
        source, target = terminals[tasks.rank[[messages.source_task[row], messages.target_task[row]]]]
        size_bytes, ready_ps = int(messages.size_bytes[row]), result.message_ready_ps[row]
        first_ps, complete_ps = result.message_first_injection_ps[row], result.message_complete_ps[row]
        if row in in_groups:
            assert ready_ps + network.endpoint.message_overhead_ps <= first_ps < complete_ps
            continue
        if source == target or size_bytes == 0:
            assert ready_ps == first_ps == complete_ps
            continue
        assert first_ps >= ready_ps + network.endpoint.message_overhead_ps
        bundle = network.bundle_index[source, target]
        injection = network.bundle_channels[network.bundle_first[bundle] : network.bundle_first[bundle + 1]].tolist()
        planes = min(len(injection), ceil(size_bytes / network.packet.stripe_min_bytes))
        first_packet_bytes = min(ceil(size_bytes / planes), network.packet.max_payload_bytes)
        ways = (route for channel in injection for route in routes(network, channel, int(target)))
        assert complete_ps - first_ps >= min(zero_load_ps(network, way, first_packet_bytes) for way in ways)


@settings(max_examples=20)
@given(case=cases())
def test_simulation_leaves_nothing_behind(case: Case) -> None:
    """After the last instant every buffer is empty, every slot free, and no share or packet waits anywhere."""
    simulation = Simulation(case.network, case.schedule, case.seed, case.terminal_of_rank)
    simulation.run()
    for channel in simulation.channels:
        assert set(channel.room_bytes) == {channel.buffer_bytes}
        assert channel.free_slots == case.network.endpoint.slots
        assert [*channel.queues, channel.ejection_queue] == [[]] * (case.network.vcs.count + 1)
        assert channel.ready + channel.ring == []


@settings(max_examples=50)
@given(packet=packet_formats(), payload_bytes=st.integers(0, 300))
def test_wire_bytes_are_the_smallest_whole_flits(packet: PacketFormat, payload_bytes: int) -> None:
    """The packet format's own formula, against the definition: fits, and one flit less does not."""
    wire_bytes = packet.wire_bytes(payload_bytes)
    assert wire_bytes % packet.flit_bytes == 0
    assert wire_bytes - packet.flit_bytes < payload_bytes + packet.overhead_bytes <= wire_bytes
