from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabricsim.errors import ConfigError
from fabricsim.fabrics import load_fabric
from fabricsim.fabrics.network import Channels, Endpoint, Int64, Network, PacketFormat
from fabricsim.fabrics.topologies import Link, Tier, check_acyclic, clos, full_mesh, spray_starts

PACKET = PacketFormat("bulk", max_payload_bytes=4096, overhead_bytes=52, flit_bytes=20, stripe_min_bytes=512)
ENDPOINT = Endpoint(launch_latency_ps=0, message_overhead_ps=1_000, slots=4)
LINK = Link(Fraction(250, 7), 350_000, 81_920)
LEAF = Tier("leaf", 4, 1, LINK, LINK)
SPINE = Tier("spine", 3, 2, LINK, LINK)


def build_clos(*tiers: Tier, num_planes: int = 2, packet: PacketFormat = PACKET, **numbers: object) -> Network:
    """Build a Clos of the given tiers with the numbers that the test at hand does not care for."""
    rest = {"endpoint": ENDPOINT, "routing": "spray", "copy_ps_per_byte": None, "ejection_ps_per_byte": None}
    return clos(
        name="small",
        terminal_name="gpu",
        tiers=tiers,
        num_planes=num_planes,
        packet=packet,
        **(rest | numbers),  # type: ignore[arg-type]
    )


def build_mesh(num_terminals: int = 5, link: Link = LINK) -> Network:
    """Build a mesh whose terminals copy at 1 ps per byte and eject without limit."""
    return full_mesh(
        name="mesh",
        terminal_name="npu",
        num_terminals=num_terminals,
        link=link,
        packet=PACKET,
        endpoint=ENDPOINT,
        copy_ps_per_byte=Fraction(1),
        ejection_ps_per_byte=None,
    )


def walk(network: Network, seed: int = 1) -> Iterator[tuple[int, Int64]]:
    """Walk every pair's route once per plane, with random candidates; yield the plane and the channels per pair.

    A pair with fewer planes than others walks its last one again.

    The array has one row per ordered pair of terminals and one column per hop, filled with -1.
    """
    rng = np.random.default_rng(seed)
    source, target = np.nonzero(network.bundle_index >= 0)
    bundle = network.bundle_index[source, target]
    width = int((network.bundle_first[1:] - network.bundle_first[:-1]).max())
    for plane in range(width):
        member = np.minimum(network.bundle_first[bundle] + plane, network.bundle_first[bundle + 1] - 1)
        channel = network.bundle_channels[member].astype(np.int64)
        assert (network.channels.source_node[channel] == source).all()
        hops = []
        while True:
            hops.append(channel)
            node = np.where(channel >= 0, network.channels.target_node[channel], target)
            on_the_way = node != target
            if not on_the_way.any():
                break
            assert len(hops) < 10, "a route runs in circles"
            row, column = node[on_the_way] - network.num_terminals, target[on_the_way]
            assert (row >= 0).all(), "a packet is delivered to the wrong terminal"
            minimal, count = network.route_count[row, column], network.candidate_count[row, column]
            choice = rng.integers(np.where(minimal > 0, minimal, count))  # a detour where no minimal way is left
            channel = np.full(len(target), -1, np.int64)
            channel[on_the_way] = network.candidates[network.route_first[row, column] + choice]
            assert (network.channels.source_node[channel[on_the_way]] == node[on_the_way]).all()
        yield plane, np.stack(hops, axis=1)


@pytest.mark.parametrize(
    ("name", "terminals", "switches", "classes"),
    [
        ("nvl72", 72, 18, {"gpu-nvswitch": 72 * 18, "nvswitch-gpu": 72 * 18}),
        (
            "cloudmatrix384",
            384,
            336 + 112,
            {"npu-l1": 384 * 7, "l1-l2": 336 * 16, "l2-l1": 112 * 48, "l1-npu": 384 * 7},
        ),
        ("cloudmatrix384-mesh", 384, 0, {"npu-npu": 384 * 383}),
    ],
)
def test_counts_of_the_catalog(name: str, terminals: int, switches: int, classes: dict[str, int]) -> None:
    """Terminals, switches and channels per class are the published machine's."""
    network = load_fabric(name).network()
    counts = np.bincount(network.channels.channel_class)
    assert (network.num_terminals, network.num_switches) == (terminals, switches)
    assert dict(zip(network.channel_class_names, counts.tolist(), strict=True)) == classes
    assert len(network.node_names) == network.num_nodes
    assert len(set(network.node_names)) == network.num_nodes


def test_degrees_of_cloudmatrix384() -> None:
    """An NPU has a link to each of its node's 7 L1 chips, an L1 chip 8 down and 16 up, an L2 chip one per node."""
    network = load_fabric("cloudmatrix384").network()
    channels = network.channels
    for ends in (channels.source_node, channels.target_node):
        degree = np.bincount(ends)
        is_l2 = np.array([name.startswith("l2") for name in network.node_names])
        is_l1 = np.array([name.startswith("l1") for name in network.node_names])
        assert set(degree[:384]) == {7}
        assert set(degree[is_l1]) == {8 + 16}
        assert set(degree[is_l2]) == {48}
    pairs = set(zip(channels.source_node.tolist(), channels.target_node.tolist(), strict=True))
    assert len(pairs) == len(channels), "no two channels join the same nodes"


@pytest.mark.parametrize("name", ["nvl72", "cloudmatrix384"])
def test_every_route_of_the_catalog_arrives(name: str) -> None:
    """Every pair's route ends at its target, inside its plane, after 2 hops under one L1 and 4 elsewhere."""
    network = load_fabric(name).network()
    source, target = np.nonzero(network.bundle_index >= 0)
    hops = np.where((source // 8 == target // 8) | (name == "nvl72"), 2, 4)
    for plane, routes in walk(network):
        assert ((routes >= 0).sum(axis=1) == hops).all()
        assert set(network.channels.plane[routes[routes >= 0]]) == {plane}


def test_every_mesh_channel_is_a_route() -> None:
    """In a mesh each ordered pair has its own channel, and the walk uses each exactly once."""
    network = build_mesh()
    ((plane, routes),) = walk(network)
    assert plane == 0
    assert sorted(routes[:, 0].tolist()) == list(range(5 * 4))


def test_paths_between_nodes_of_cloudmatrix384() -> None:
    """Under one L1 a pair has one path per plane; between two it has 16 candidates at the L1 and one at each L2."""
    network = load_fabric("cloudmatrix384").network()
    index = {name: node - 384 for node, name in enumerate(network.node_names)}
    for plane in range(7):
        l1 = index[f"l1.0.{plane}"]
        assert network.route_count[l1, 1] == 1
        assert network.route_count[l1, 383] == 16
        first = network.route_first[l1, 383]
        above = network.channels.target_node[network.candidates[first : first + 16]]
        assert [network.node_names[node] for node in above] == [f"l2.{spine}.{plane}" for spine in range(16)]
        assert [network.route_count[node - 384, 383] for node in above] == [1] * 16


@pytest.mark.parametrize("name", ["nvl72", "cloudmatrix384", "cloudmatrix384-mesh"])
def test_channel_numbering(name: str) -> None:
    """Channels are numbered by plane, then source node; places count from the plane's first channel."""
    channels = load_fabric(name).network().channels
    assert (np.diff(channels.plane.astype(np.int64) * 10**6 + channels.source_node) >= 0).all()
    first = np.searchsorted(channels.plane, channels.plane)
    assert (channels.place == np.arange(len(channels)) - first).all()


@pytest.mark.parametrize("name", ["nvl72", "cloudmatrix384"])
def test_planes_are_isomorphic(name: str) -> None:
    """Shifted by whole planes, every plane has the channels, routes and counters of the first."""
    network = load_fabric(name).network()
    planes, terminals = network.num_planes, network.num_terminals
    switches, channels = network.num_switches // planes, len(network.channels) // planes

    def unshifted(nodes: Int64) -> Int64:
        return np.where(nodes < terminals, nodes, terminals + (nodes - terminals) % switches).reshape(planes, -1)

    for field in fields(Channels):
        values = getattr(network.channels, field.name)
        table = unshifted(values) if field.name.endswith("_node") else values.reshape(planes, -1)
        expected = np.arange(planes)[:, None] if field.name == "plane" else table[0]
        assert (table == expected).all(), field.name
    start = np.arange(planes)[:, None, None] * channels
    routes = network.route_first.reshape(planes, switches, terminals) - start
    assert (routes == routes[0]).all()
    assert (network.candidates.reshape(planes, channels) - start[:, :, 0] == network.candidates[:channels]).all()
    assert (network.route_count.reshape(planes, -1) == network.route_count[:switches].ravel()).all()
    assert (network.spray_start.reshape(planes, -1) == network.spray_start[:channels]).all()
    bundles = network.bundle_channels.reshape(terminals, planes) - start[:, 0, 0]
    assert (bundles == bundles[:, :1]).all()


def test_spray_counters_start_apart() -> None:
    """A counter starts at port * candidates // inputs that have a choice, and at 0 where there is never one."""
    network = load_fabric("cloudmatrix384").network()
    channels = network.channels
    into_l1 = channels.channel_class == network.channel_class_names.index("npu-l1")
    assert (network.spray_start[into_l1] == channels.source_node[into_l1] % 8 * 16 // 8).all()
    assert not network.spray_start[~into_l1].any()
    assert not load_fabric("nvl72").network().spray_start.any()
    # What a Clos knows beforehand is what the routes say, of all switches or of some.
    blank = replace(network, spray_start=np.full(len(channels), -1, np.int32))
    of_first = channels.target_node == network.num_terminals
    assert np.array_equal(spray_starts(blank)[into_l1], network.spray_start[into_l1])
    assert not spray_starts(network)[~into_l1].any()
    assert np.array_equal(spray_starts(blank, np.array([0])), np.where(of_first, network.spray_start, -1))


def test_no_spray_counter_below_a_lone_subtree() -> None:
    """Where one switch tops all terminals its inputs have no choice, whatever its parents are."""
    lone = build_clos(LEAF, replace(SPINE, children=1))
    assert not lone.spray_start.any()
    assert set(lone.route_count[0]) == {1}


@pytest.mark.parametrize("name", ["nvl72", "cloudmatrix384-mesh"])
def test_each_injection_channel_is_in_one_bundle(name: str) -> None:
    """Bundles share no channel and together hold all channels that leave terminals."""
    network = load_fabric(name).network()
    injection = np.flatnonzero(network.channels.source_node < network.num_terminals)
    assert np.array_equal(np.sort(network.bundle_channels), injection)
    assert network.bundle_first[-1] == len(network.bundle_channels)
    assert (np.diagonal(network.bundle_index) == -1).all()


def test_terminal_rates_are_shared_over_the_links() -> None:
    """Each of p planes gets 1/p of the terminal's copy and ejection rate, a mesh channel 1/(n - 1); None is 0/1."""
    channels = build_clos(
        LEAF, num_planes=7, copy_ps_per_byte=Fraction(1000, 392), ejection_ps_per_byte=Fraction(1, 3)
    ).channels
    assert set(zip(channels.copy_ps_per_byte_num, channels.copy_ps_per_byte_den, strict=True)) == {(125, 7)}
    assert set(zip(channels.ejection_ps_per_byte_num, channels.ejection_ps_per_byte_den, strict=True)) == {(7, 3)}
    channels = build_mesh(5).channels
    assert set(zip(channels.copy_ps_per_byte_num, channels.copy_ps_per_byte_den, strict=True)) == {(4, 1)}
    assert set(zip(channels.ejection_ps_per_byte_num, channels.ejection_ps_per_byte_den, strict=True)) == {(0, 1)}


def test_up_and_down_may_differ() -> None:
    """Each direction of a tier has its own numbers, in its own channel class."""
    down = Link(Fraction(20), 5_000, 9_000)
    network = build_clos(replace(LEAF, down=down))
    channels = network.channels
    is_down = channels.channel_class == network.channel_class_names.index("leaf-gpu")
    assert set(channels.latency_ps[is_down]) == {5_000}
    assert set(channels.buffer_bytes[is_down]) == {9_000}
    assert set(zip(channels.ps_per_byte_num[is_down], channels.ps_per_byte_den[is_down], strict=True)) == {(20, 1)}
    assert set(channels.latency_ps[~is_down]) == {350_000}


def test_names_say_where_a_channel_runs() -> None:
    """Switches are named by tier, number and plane, terminals by their number."""
    network = build_clos(LEAF, SPINE)
    assert network.channel_class_names == ("gpu-leaf", "leaf-spine", "spine-leaf", "leaf-gpu")
    first_of_plane_1 = len(network.channels) // 2
    assert network.channel_name(first_of_plane_1 + 5) == "gpu5 -> leaf.1.1 (plane 1)"


@given(
    children=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    parents=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    num_planes=st.integers(1, 2),
)
def test_any_tree_is_sound(children: list[int], parents: list[int], num_planes: int) -> None:
    """In a fat tree of any shape every route arrives, up then down over the lowest common level, without cycles."""
    tiers = [Tier(f"t{level}", count, (1, *parents)[level], LINK, LINK) for level, count in enumerate(children)]
    terminals = int(np.prod(children))
    if terminals == 1:
        tiers[0] = replace(tiers[0], children=2)
        terminals = 2
    network = build_clos(*tiers, num_planes=num_planes)
    check_acyclic(network)
    source, target = np.nonzero(network.bundle_index >= 0)
    levels = np.zeros(len(source), np.int64)
    leaves = 1
    for tier in tiers:
        levels += source // leaves != target // leaves
        leaves *= tier.children
    for _, routes in walk(network):
        assert ((routes >= 0).sum(axis=1) == 2 * levels).all()


def ring() -> Network:
    """Three switches in a one-way ring, a terminal at each: the textbook's deadlock."""
    template = build_clos(replace(LEAF, children=3), num_planes=1)
    terminals, switches = np.arange(3), 3 + np.arange(3)
    source = np.concatenate([terminals, np.repeat(switches, 2)])
    target = np.concatenate([switches, np.stack([terminals, 3 + (terminals + 1) % 3], axis=1).ravel()])
    columns = {
        field.name: np.repeat(getattr(template.channels, field.name)[:1], 9) for field in fields(template.channels)
    }
    columns |= {"source_node": source, "target_node": target, "place": np.arange(9)}
    route_first = 3 + 2 * terminals[:, None] + (terminals[:, None] != terminals)
    return replace(
        template,
        num_switches=3,
        channels=Channels(**columns),
        node_names=("gpu0", "gpu1", "gpu2", "s0", "s1", "s2"),
        route_first=route_first,
        route_count=np.ones_like(route_first),
        candidates=np.arange(9),
    )


def test_a_cycle_is_refused_by_name() -> None:
    """A ring of switches can deadlock: the error names the channels of the cycle in order, and the remedy."""
    with pytest.raises(ConfigError) as caught:
        check_acyclic(ring())
    message = str(caught.value)
    assert "s0 -> s1 (plane 0), then s1 -> s2 (plane 0), then s2 -> s0 (plane 0), then s0 -> s1" in message
    assert "gpu" not in message
    assert "change the routes" in message


def test_a_cycle_needs_packets_that_take_it() -> None:
    """Two-hop routes of a ring that no packet chains into a circle are allowed."""
    network = ring()
    # Only 0 -> 1 and 1 -> 2 remain, so no packet ever crosses s2 -> s0.
    bundles = np.full((3, 3), -1)
    bundles[0, 1], bundles[1, 2] = 0, 1
    check_acyclic(replace(network, bundle_index=bundles))


@pytest.mark.parametrize(
    ("tier", "parts"),
    [
        (replace(LEAF, up=replace(LINK, latency_ps=0)), ["gpu-leaf", "latency is 0 ps", "link.gpu-leaf.latency"]),
        (replace(LEAF, down=replace(LINK, latency_ps=-5)), ["leaf-gpu", "latency is -5 ps"]),
        (
            replace(LEAF, down=replace(LINK, buffer_bytes=4_159)),
            ["leaf-gpu", "buffer is 4,159 bytes", "4,160", "link.leaf-gpu.buffer"],
        ),
        (replace(LEAF, up=replace(LINK, buffer_bytes=2**62 + 1)), ["gpu-leaf", "below 4 EiB"]),
        (replace(LEAF, up=replace(LINK, ps_per_byte=Fraction(0))), ["gpu-leaf", "more than 0"]),
        (replace(LEAF, up=replace(LINK, ps_per_byte=Fraction(2**46 + 1, 3))), ["gpu-leaf", "fewer digits"]),
        (replace(LEAF, parents=2), ["2 parents", "set parents to 1"]),
        (replace(LEAF, children=0), ["children of tier leaf is 0"]),
        (replace(LEAF, children=65_536), ["65,536", "65,535"]),
        (replace(LEAF, children=1), ["1 terminals"]),
        (replace(LEAF, name="gpu"), ["gpu, gpu", "a name of its own"]),
    ],
)
def test_an_impossible_tier_is_refused(tier: Tier, parts: list[str]) -> None:
    """What cannot run is refused with the channel class or tier, the value and the remedy."""
    with pytest.raises(ConfigError) as caught:
        build_clos(tier)
    assert [part for part in parts if part not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("packet", "part"),
    [
        (replace(PACKET, max_payload_bytes=65_536), "max_payload is 65,536 bytes; choose 1 to 65,535"),
        (replace(PACKET, max_payload_bytes=0), "max_payload is 0 bytes"),
        (replace(PACKET, overhead_bytes=-1), "overhead is -1"),
        (replace(PACKET, flit_bytes=0), "flit 0"),
        (replace(PACKET, stripe_min_bytes=0), "stripe_min 0"),
        (replace(PACKET, overhead_bytes=200_000), "smaller overhead or flit"),
    ],
)
def test_an_impossible_packet_is_refused(packet: PacketFormat, part: str) -> None:
    """A packet format is named with the value that cannot be."""
    with pytest.raises(ConfigError, match="packet format bulk") as caught:
        build_clos(LEAF, packet=packet)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("numbers", "part"),
    [
        ({"routing": "valiant"}, "unknown routing 'valiant'; known: spray, deterministic, adaptive"),
        ({"num_planes": 0}, "number of planes is 0"),
        ({"endpoint": replace(ENDPOINT, slots=0)}, "slots of an injection channel is 0"),
        ({"endpoint": replace(ENDPOINT, launch_latency_ps=-1)}, "launch_latency is -1 ps"),
        ({"endpoint": replace(ENDPOINT, message_overhead_ps=2**60)}, "message_overhead"),
        ({"copy_ps_per_byte": Fraction(-1)}, "copy rate takes -2 ps per byte"),
    ],
)
def test_impossible_numbers_are_refused(numbers: dict[str, object], part: str) -> None:
    """Routing, planes, endpoint and terminal rates are checked before any table is made."""
    with pytest.raises(ConfigError) as caught:
        build_clos(LEAF, **numbers)  # type: ignore[arg-type]
    assert part in str(caught.value)


def test_a_clos_too_large_for_its_tables_is_refused() -> None:
    """More route entries than int32 can number are refused with their number."""
    with pytest.raises(ConfigError, match=r"2,400,000,000 route entries.*make it smaller"):
        build_clos(replace(LEAF, children=60_000), num_planes=40_000)


def test_a_clos_needs_a_tier() -> None:
    """No tiers at all is refused with the topology that has none."""
    with pytest.raises(ConfigError, match=r"at least one tier.*full_mesh"):
        build_clos()


@pytest.mark.parametrize("num_terminals", [1, 65_536])
def test_an_impossible_mesh_is_refused(num_terminals: int) -> None:
    """A mesh has 2 to 65,535 terminals."""
    with pytest.raises(ConfigError, match="2 to 65,535"):
        build_mesh(num_terminals)


def test_a_mesh_too_large_for_its_tables_is_refused() -> None:
    """More channels than int32 can number are refused with their number."""
    with pytest.raises(ConfigError, match=r"2,499,950,000 channels.*make it smaller"):
        build_mesh(50_000)


def test_a_mesh_link_is_checked() -> None:
    """A mesh channel with latency zero is refused like any other."""
    with pytest.raises(ConfigError, match="channel class npu-npu: latency is 0 ps"):
        build_mesh(link=replace(LINK, latency_ps=0))
