"""What queueing theory says of switches: the wait of M/D/1, and saturation where the channel loads say."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fabricsim.engine.driver import RunRecord, run_schedule
from fabricsim.fabrics.network import Endpoint, Int64, Network, PacketFormat
from fabricsim.fabrics.topologies import Link, Tier, clos
from fabricsim.workloads.schedule import Messages, Operation, Schedule, Tasks
from tests.results.small import linear

BYTES = 100
SERVICE_PS = 100_000  #: serialization of a packet on the output under test
AMPLE = 1 << 40
#: Quantile of Student's t for 19 degrees of freedom and 99 % on both sides.
T_99 = 2.861
BATCHES = 20


def network_of(*tiers: Tier, slots: int) -> Network:
    """Ideal terminals and bare packets of 100 B."""
    return clos(
        name="queueing",
        terminal_name="gpu",
        tiers=tiers,
        num_planes=1,
        packet=PacketFormat("bare", max_payload_bytes=BYTES, overhead_bytes=0, flit_bytes=1, stripe_min_bytes=BYTES),
        endpoint=Endpoint(launch_latency_ps=0, message_overhead_ps=0, slots=slots),
        routing="spray",
        copy_ps_per_byte=None,
        ejection_ps_per_byte=None,
    )


def single_packets(num_ranks: int, source: Int64, target: Int64, ready_ps: Int64) -> Schedule:
    """Make each packet an operation of its own, which begins at its time."""
    count = len(source)
    rank = np.stack([source, target], axis=1)
    order = np.argsort(rank, axis=1)
    row = np.argsort(order, axis=1) + 2 * np.arange(count)[:, None]
    none, zeros = np.zeros(0, np.int32), np.zeros(2 * count, np.int64)
    return Schedule(
        num_ranks=num_ranks,
        operations=tuple(
            Operation(name="packet", op="all_to_all_v", algorithm="direct", ranks=tuple(sorted(pair)), size_bytes=BYTES)
            for pair in rank.tolist()
        ),
        tasks=Tasks(
            operation=np.repeat(np.arange(count), 2).astype(np.int32),
            rank=np.sort(rank, axis=1).ravel().astype(np.int32),
            gap_ps=zeros,
            not_before_ps=np.repeat(ready_ps, 2),
            launches=np.zeros(2 * count, np.bool_),
            predecessor_first=np.zeros(2 * count + 1, np.int64),
            predecessors=none,
        ),
        messages=Messages(
            operation=np.arange(count, dtype=np.int32),
            index=np.zeros(count, np.int32),
            source_task=row[:, 0].astype(np.int32),
            target_task=row[:, 1].astype(np.int32),
            size_bytes=np.full(count, BYTES, np.int64),
            waits_first=np.zeros(count + 1, np.int64),
            waits_for=none,
        ),
    )


def simulate(network: Network, schedule: Schedule) -> RunRecord:
    """Run with rank r at terminal r."""
    return run_schedule(network, schedule, terminal_of_rank=linear(schedule))


@pytest.mark.parametrize("load", [0.3, 0.6, 0.9])
def test_poisson_arrivals_at_one_output_wait_as_in_m_d_1(load: float) -> None:
    """The mean wait is load * service / (2 (1 - load)), within the 99 % confidence interval of batch means.

    16 terminals send to one. Their channels take 1 ps per packet, so that packets wait nowhere but at the output of the
    switch; all buffers are ample. A packet's wait is its latency less that of an empty network.
    """
    fast, slow = Link(Fraction(1, BYTES), 1_000_000, AMPLE), Link(Fraction(SERVICE_PS, BYTES), 1_000_000, AMPLE)
    network = network_of(Tier("switch", 17, 1, up=fast, down=slow), slots=64)
    random = np.random.default_rng(7)
    count = 240_000
    ready_ps = np.cumsum(random.exponential(SERVICE_PS / load, count)).astype(np.int64)
    source = random.integers(1, 17, count)
    record = simulate(network, single_packets(17, source, np.zeros(count, np.int64), ready_ps))
    wait_ps = record.message_complete_ps - ready_ps - (2_000_000 + SERVICE_PS)
    assert wait_ps.min() == 0
    means = wait_ps[count // 6 :].reshape(BATCHES, -1).mean(axis=1)  # the first sixth is the way to the steady state
    half_width = T_99 * means.std(ddof=1) / BATCHES**0.5
    expected = load * SERVICE_PS / (2 * (1 - load))
    assert abs(means.mean() - expected) <= half_width
    assert half_width < 0.12 * expected


@pytest.mark.parametrize(("children", "parents"), [(4, 4), (4, 2), (6, 2)])
def test_uniform_random_traffic_saturates_where_the_channel_loads_say(children: int, parents: int) -> None:
    """Each terminal offers all it can to others drawn at random; what is accepted is what the busiest channels carry.

    Of ``terminals`` under switches of ``children`` a packet leaves its switch with (terminals - children) /
    (terminals - 1), so each of the ``parents`` channels up carries children / parents as much per offered packet. A
    terminal gets its rate over the largest channel load, and the channels into terminals bear 1.
    """
    link = Link(Fraction(SERVICE_PS, BYTES), 20_000, 64 * BYTES)
    leaves, packets = 8, 1_500
    terminals = leaves * children
    network = network_of(
        Tier("leaf", children, 1, up=link, down=link), Tier("spine", leaves, parents, up=link, down=link), slots=4
    )
    random = np.random.default_rng(11)
    source = np.tile(np.arange(terminals), packets)
    target = (source + random.integers(1, terminals, len(source))) % terminals
    record = simulate(network, single_packets(terminals, source, target, np.zeros(len(source), np.int64)))
    outside = (terminals - children) / (terminals - 1)
    capacity = 1 / max(1.0, outside * children / parents)
    # From when buffers are full to before the first terminals run out of packets.
    end_ps = 0.7 * packets * SERVICE_PS / capacity
    begin_ps = end_ps / 4
    delivered = np.count_nonzero((record.message_complete_ps > begin_ps) & (record.message_complete_ps <= end_ps))
    accepted = delivered * SERVICE_PS / ((end_ps - begin_ps) * terminals)
    assert 0.95 * capacity < accepted <= 1.005 * capacity
