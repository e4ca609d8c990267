from __future__ import annotations

from fabricsim.results.traffic import message_traffic
from tests.results.small import crossbar, linear, one_operation


def test_a_message_on_one_plane_is_cut_into_full_packets_and_a_rest() -> None:
    """250 B are packets of 100, 100 and 50 B; on the wire 120, 120 and 70 B (70 = 50 + 20, whole flits)."""
    schedule = one_operation((0, 1, 250))
    traffic = message_traffic(crossbar(), schedule, linear(schedule))
    assert (traffic.packets.tolist(), traffic.cut_bytes.tolist()) == ([3], [250])
    assert (traffic.wire_bytes.tolist(), traffic.last_payload_bytes.tolist()) == ([310], [50])


def test_a_message_on_two_planes_is_cut_alike_on_both() -> None:
    """251 B are two shares of ceil(251 / 2) = 126 B: packets of 100 and 26 B, 120 and 50 B on the wire."""
    schedule = one_operation((0, 1, 251))
    traffic = message_traffic(crossbar(planes=2), schedule, linear(schedule))
    assert (traffic.packets.tolist(), traffic.cut_bytes.tolist()) == ([4], [252])
    assert (traffic.wire_bytes.tolist(), traffic.last_payload_bytes.tolist()) == ([340], [26])


def test_a_small_message_takes_fewer_planes() -> None:
    """With stripe_min 50 B a message of 120 B takes ceil(120 / 50) = 3 of 4 planes, as shares of 40 B."""
    schedule = one_operation((0, 1, 120))
    traffic = message_traffic(crossbar(planes=4), schedule, linear(schedule))
    assert (traffic.packets.tolist(), traffic.wire_bytes.tolist()) == ([3], [180])


def test_a_full_last_packet_is_a_full_packet() -> None:
    """200 B are two full packets, and the last payload is 100 B, not 0."""
    schedule = one_operation((0, 1, 200))
    traffic = message_traffic(crossbar(), schedule, linear(schedule))
    assert (traffic.packets.tolist(), traffic.last_payload_bytes.tolist()) == ([2], [100])


def test_empty_and_own_messages_make_no_packets() -> None:
    """A message of zero bytes and one to oneself are left out."""
    schedule = one_operation((0, 1, 0), (2, 2, 100), (3, 1, 100))
    traffic = message_traffic(crossbar(), schedule, linear(schedule))
    assert traffic.message.tolist() == [2]
    assert (traffic.source_terminal.tolist(), traffic.target_terminal.tolist()) == ([3], [1])
