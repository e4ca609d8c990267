"""Detours: the throughput that channel loads give, freedom from deadlock, faults, and what a fabric's file may say."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import fabricsim as fs
from fabricsim.engine.check import check
from fabricsim.engine.driver import RunRecord, Simulation
from fabricsim.errors import SelfCheckError
from fabricsim.fabrics.faults import apply_faults, read_faults
from fabricsim.fabrics.links import link_classes, linked, node_of
from fabricsim.fabrics.mesh import Dimension
from fabricsim.fabrics.network import Endpoint, Int64, Network, PacketFormat, channels_between
from fabricsim.fabrics.topologies import Link, check_acyclic
from fabricsim.graphs import find_cycle
from fabricsim.results.estimate import Load
from fabricsim.results.routes import find_routes
from fabricsim.results.run import simulate
from fabricsim.results.traffic import message_traffic
from tests.engine.test_equality import assert_equal
from tests.fabrics.test_mesh import build
from tests.oracle.simulator import simulate as oracle
from tests.results.small import linear
from tests.test_queueing import BYTES, SERVICE_PS, single_packets
from tests.test_queueing import simulate as run_packets

PACKET = PacketFormat("bare", max_payload_bytes=BYTES, overhead_bytes=0, flit_bytes=1, stripe_min_bytes=BYTES)
ENDPOINT = Endpoint(launch_latency_ps=0, message_overhead_ps=0, slots=64)


def fast_mesh(routing: str, *sizes: int, packets: int = 256) -> Network:
    """A mesh whose terminals are 64 times as fast as its links; buffers hold so many packets."""
    link = Link(Fraction(SERVICE_PS, BYTES), 20_000, packets * BYTES)
    fast = replace(link, ps_per_byte=link.ps_per_byte / 64)
    dimensions = [Dimension(f"d{number}", size, link) for number, size in enumerate(sizes)]
    return build(*sizes, routing=routing, dimensions=dimensions, up=fast, down=fast, packet=PACKET, endpoint=ENDPOINT)


def linked_switches(joined: list[tuple[int, int]], routing: str) -> Network:
    """Switches with a terminal each, joined as listed."""
    count = 1 + max(max(pair) for pair in joined)
    names = [(f"gpu{number}", f"leaf.{number}") for number in range(count)]
    names += [(f"leaf.{one}", f"leaf.{other}") for one, other in joined]
    nodes = [(node_of(one, "gpu", count), node_of(other, "gpu", count)) for one, other in names]
    ups, downs = link_classes(nodes)
    link = Link(Fraction(10), 1_000, 1 << 20)
    return linked(
        name="switches",
        terminal_name="gpu",
        num_terminals=count,
        links=nodes,
        classes={name: link for name in dict.fromkeys([*ups, *downs])},
        packet=PACKET,
        endpoint=ENDPOINT,
        routing=routing,
        copy_ps_per_byte=None,
        ejection_ps_per_byte=None,
    )


def run_rounds(network: Network, target: Int64) -> RunRecord:
    """Round after round, a packet from every terminal to its target; all are ready at the begin. Shape (rounds, n)."""
    source = np.tile(np.arange(network.num_terminals), len(target))
    ready_ps = np.zeros(len(source), np.int64)
    return run_packets(network, single_packets(network.num_terminals, source, target.ravel(), ready_ps))


def accepted(record: RunRecord, terminals: int) -> float:
    """What a terminal got through, in rates of a link, while 20 to 60 % of the packets were delivered."""
    end_ps = np.sort(record.message_complete_ps)
    first, last = len(end_ps) // 5, 3 * len(end_ps) // 5
    return (last - first) * SERVICE_PS / (float(end_ps[last] - end_ps[first]) * terminals)


N = 8


@pytest.mark.parametrize(
    ("routing", "capacity"), [("deterministic", 1), ("valiant", Fraction(N - 1, 2)), ("ugal", Fraction(N, 2))]
)
def test_neighbour_to_neighbour_gets_what_the_channel_loads_say(routing: str, capacity: Fraction) -> None:
    """On a full mesh of n switches each terminal sends to that of the next switch alone.

    Minimal routes load one channel in n - 1 with all of it. With valiant a packet takes each of the n - 1 outputs
    equally often, and all but one of them go on: a channel bears 1 / (n - 1) of what its own terminal sends, and as
    much of what another one sends to its end, but for the direct one. So the largest load is 2 / (n - 1). With
    ugal the direct channels are full as well: they carry 1, the n - 2 others 1/2 each, as each detour takes two.
    """
    target = np.tile((np.arange(N) + 1) % N, (2000, 1))
    record = run_rounds(fast_mesh(routing, N), target)
    assert accepted(record, N) == pytest.approx(float(capacity), rel=0.02)
    if routing == "valiant":
        channels = fast_mesh(routing, N).channels
        is_direct = channels.target_node - N == (channels.source_node - N + 1) % N
        expected = np.where(is_direct, 1, 2) / (N - 1)
        between = channels.channel_class == 1
        assert record.channel_packets[between] / len(target) == pytest.approx(expected[between], rel=0.01)


def test_a_line_of_a_mesh_is_as_a_full_mesh() -> None:
    """In two dimensions, with all targets in one of them, the detours are those of that dimension's lines."""
    width, height = 6, 3
    terminal = np.arange(width * height)
    target = terminal - terminal % width + (terminal + 1) % width
    record = run_rounds(fast_mesh("valiant", width, height), np.tile(target, (1000, 1)))
    assert accepted(record, width * height) == pytest.approx((width - 1) / 2, rel=0.01)
    assert not record.channel_packets[fast_mesh("valiant", width, height).channels.channel_class == 2].any()


@pytest.mark.parametrize(
    ("routing", "capacity", "least"),
    [("deterministic", N - 1, 0.93), ("valiant", (N - 1) ** 2 / (2 * N - 3), 0.97), ("ugal", N - 1, 0.9)],
)
def test_uniform_random_traffic_saturates_where_the_channel_loads_say(
    routing: str, capacity: float, least: float
) -> None:
    """A packet takes one channel, with valiant 1 + (n - 2) / (n - 1) of them, and all n - 1 of a switch alike.

    ugal stays with the minimal ones, but for the queues that chance makes.
    """
    random = np.random.default_rng(5)
    target = (np.arange(N) + random.integers(1, N, (3000, N))) % N
    throughput = accepted(run_rounds(fast_mesh(routing, N), target), N)
    assert least * capacity < throughput <= 1.02 * capacity


def test_in_an_empty_network_ugal_takes_no_detour() -> None:
    """A detour costs more than a minimal way where no packet waits; valiant takes it all the same."""
    ready_ps = np.arange(60) * 10_000_000
    source, target = np.zeros(60, np.int64), np.full(60, 3)
    packets = single_packets(4, source, target, ready_ps)
    hops = {routing: run_packets(fast_mesh(routing, 4), packets).packet_hops for routing in ("ugal", "valiant")}
    assert hops == {"ugal": 3 * 60, "valiant": 3 * 60 + 40}


def test_the_self_check_knows_where_no_detour_can_be() -> None:
    """A packet that comes to its terminal by vc 1 is noticed."""
    network = fast_mesh("valiant", 4)
    packets = single_packets(4, np.zeros(9, np.int64), np.ones(9, np.int64), np.zeros(9, np.int64))
    run = Simulation(network, packets, linear(packets))
    run.run()
    check(run.state, run.network)
    into = np.flatnonzero(network.channels.target_node == 1)[0]
    run.state.channels["packets"][2 * into + np.arange(2)] += np.array([-1, 1])
    with pytest.raises(SelfCheckError, match="by the vc of detours"):
        check(run.state, run.network)


def test_detours_need_their_virtual_channel() -> None:
    """The pairs (channel, vc) of a full mesh have no cycle; the channels alone would have one."""
    network = build(4, routing="valiant")
    check_acyclic(network)
    split = network.by_vc
    before, after = [], []
    for switch, target in np.argwhere(split.route_count > 0).tolist():
        first = split.route_first[switch, target]
        outputs = split.candidates[first : first + split.route_count[switch, target]]
        inputs = np.flatnonzero(split.channels.target_node == split.num_terminals + switch)
        # What a channel carries goes to no terminal that it leads away from.
        came_from = (split.channels.source_node[inputs] - split.num_terminals) // 2
        for row in inputs[came_from != target].tolist():
            before += [row // 2] * len(outputs)
            after += (outputs // 2).tolist()
    assert find_cycle(len(network.channels), np.array(before), np.array(after))


def test_detours_that_could_deadlock_are_refused() -> None:
    """A list of links whose minimal routes have no cycle, but have one with detours; the message names vcs."""
    joined = [(0, 1), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4), (2, 3), (2, 5), (3, 5)]
    check_acyclic(linked_switches(joined, "spray"))
    with pytest.raises(fs.ConfigError, match=r"leaf.0 -> leaf.3 \(plane 0\) on vc 0, then leaf.3 -> leaf.2 .* on vc 1"):
        linked_switches(joined, "valiant")
    with pytest.raises(fs.ConfigError, match="no three switches"):
        linked_switches([(0, 1), (1, 2)], "ugal")


def test_detours_of_a_list_of_links_are_those_of_the_mesh() -> None:
    """A triangle of switches has the candidates, the counters and the result of a mesh of one dimension."""
    triangle, line = linked_switches([(0, 1), (0, 2), (1, 2)], "valiant"), build(3, routing="valiant")
    for network in (triangle, line):
        assert network.detour_count is not None
        assert network.route_count.tolist() == [[1] * 3] * 3
        assert network.detour_count.tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
        kinds = find_routes(network)
        assert kinds.has_choice(np.array([0]), np.array([1]))
        assert {len(way.rates) for way in kinds.kinds[kinds.kind[0, 1]].ways} == {3, 4}


def test_a_dead_link_is_gone_around() -> None:
    """Without its direct link a pair has the detours that are left, and none over a switch that has lost its own."""
    for routing in ("valiant", "ugal"):
        network = build(4, routing=routing)
        ranks = np.arange(4, dtype=np.int32)
        broken = apply_faults(network, read_faults(["link:io.0-io.1"]), ranks)
        assert (broken.bundle_index >= 0).sum() == 12
        crossed = channels_between(broken, np.array([0]), np.array([1]))
        assert {network.channel_name(row).split(" (")[0] for row in np.flatnonzero(crossed)} == {
            "npu0 -> io.0",
            *(f"io.0 -> io.{number}" for number in (2, 3)),
            *(f"io.{number} -> io.1" for number in (2, 3)),
            "io.1 -> npu1",
        }
        check_acyclic(broken)
        worse = apply_faults(network, read_faults(["link:io.0-io.1", "link:io.2-io.1", "link:io.0-io.3"]), ranks)
        assert worse.bundle_index[0, 1] < 0  # 0 - 2 - 3 - 1 would be two detours
        assert worse.bundle_index[1, 0] < 0
        assert worse.bundle_index[0, 3] >= 0
    minimal = apply_faults(build(4), read_faults(["link:io.0-io.1"]), np.arange(4, dtype=np.int32))
    assert minimal.bundle_index[0, 1] < 0


@pytest.mark.parametrize("routing", ["valiant", "ugal"])
def test_where_only_a_detour_is_left_the_oracle_takes_it_too(routing: str) -> None:
    """Three nodes, one link dead: its pair goes by the third, in the kernel and in the oracle alike."""
    ranks = np.arange(3, dtype=np.int32)
    network = apply_faults(build(3, routing=routing), read_faults(["link:io.0-io.1"]), ranks)
    schedule = fs.collective("all_to_all", size="3KiB", ranks=3)
    expected = oracle(network, schedule, seed=1, terminal_of_rank=range(3))
    assert_equal(Simulation(network, schedule, ranks).run(), expected)


def test_an_estimate_counts_the_longest_ways() -> None:
    """Packet-hops of an estimate are those of a detour for every packet, at most."""
    network = fast_mesh("valiant", 4)
    source = np.tile(np.arange(4), 50)
    packets = single_packets(4, source, (source + 1) % 4, np.zeros(200, np.int64))
    load = Load(network)
    load.add(message_traffic(network, packets, linear(packets)))
    assert load.packet_hops == 4 * 200
    assert 3 * 200 < run_packets(network, packets).packet_hops < load.packet_hops


COUNT = {"source": "a test", "evidence": "assumed"}


def small_mesh(vcs: dict[str, Any] | None, routing: str | None) -> fs.FabricSpec:
    """A board of 8 of the pod, as a user would write it."""
    tables: dict[str, Any] = fs.load_fabric("ub-mesh-1024").model_dump(exclude_none=True)
    tables["name"] = "board"
    for name in ("row", "column"):
        del tables["dimension"][name], tables["link"][f"io-{name}"]
    tables["topology"]["dimensions"] = ["board", "rack"]
    tables["dimension"]["rack"]["size"]["value"] = 2
    del tables["vcs"]
    if vcs is not None:
        tables["vcs"] = vcs
    if routing is not None:
        tables["defaults"]["routing"] = routing
    return fs.FabricSpec(**tables)


TWO = {"count": COUNT | {"value": 2}, "arbitration": "oldest"}


def test_a_run_says_what_it_took() -> None:
    """A fabric with two vcs has minimal routes unless it, or the run, asks for detours."""
    workload = fs.collective("all_to_all", size="64KiB", ranks=16)
    plain = simulate(small_mesh(None, None), workload)
    minimal = simulate(small_mesh(TWO, None), workload)
    by_option = simulate(small_mesh(TWO, None), workload, routing="valiant")
    by_file = simulate(small_mesh(TWO, "valiant"), workload)
    assert plain.digest == minimal.digest
    assert by_option.digest == by_file.digest != minimal.digest
    assert (minimal.routing, by_file.routing) == (None, "valiant")
    assert by_file.record.packet_hops > minimal.record.packet_hops
    assert simulate(small_mesh(TWO, "ugal"), workload).simulated_time_ps <= by_file.simulated_time_ps


@pytest.mark.parametrize(
    ("vcs", "routing", "words"),
    [
        (None, "valiant", r"found 'valiant', whose detours take one of 2 virtual channels"),
        (TWO | {"count": COUNT | {"value": 4}}, "ugal", r"give the fabric \[vcs\] with count 2"),
        (TWO | {"operations": [["all_reduce"]]}, "ugal", "no operations can be shared out"),
        (TWO, "spray", "each pair has one path per plane"),
    ],
)
def test_what_cannot_be_is_refused(vcs: dict[str, Any] | None, routing: str, words: str) -> None:
    """Detours without their vc, or with traffic classes on it; a choice where there is none."""
    with pytest.raises(fs.ConfigError, match=words):
        small_mesh(vcs, routing)


def test_a_routing_with_detours_is_for_fabrics_that_have_some() -> None:
    """A Clos has none; a mesh with one vc could not take them; an unknown one is told from these."""
    with pytest.raises(fs.ConfigError, match="are there for a mesh and a list of links"):
        fs.load_fabric("cloudmatrix384").network(routing="valiant")
    with pytest.raises(fs.ConfigError, match="2 virtual channels"):
        small_mesh(None, None).network(routing="ugal")
    with pytest.raises(fs.ConfigError, match="unknown routing 'valian'"):
        small_mesh(TWO, None).network(routing="valian")
