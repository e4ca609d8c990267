"""Faults at time zero: how they are written, and what they leave of the tables of a network."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabricsim.errors import ConfigError
from fabricsim.fabrics import load_fabric
from fabricsim.fabrics.faults import (
    KINDS,
    Fault,
    apply_faults,
    each_fault,
    parse_fault,
    read_faults,
    touched_channels,
)
from fabricsim.fabrics.network import Network, channels_between
from fabricsim.fabrics.topologies import Tier, check_acyclic
from tests.fabrics.test_topologies import LINK, build_clos, build_mesh, walk
from tests.oracle.cases import faulty, networks

NO_RANKS = np.zeros(0, np.int32)
LEAF, SPINE = Tier("leaf", 4, 1, LINK, LINK), Tier("spine", 3, 2, LINK, LINK)


def broken(network: Network, *texts: str) -> Network:
    """Apply faults in the words of users; ranks sit at the terminals of their numbers."""
    return apply_faults(network, read_faults(texts), np.arange(network.num_terminals, dtype=np.int32))


def channel(network: Network, source: str, target: str) -> int:
    """Find the channel between two nodes."""
    names, channels = network.node_names, network.channels
    ends = (channels.source_node == names.index(source)) & (channels.target_node == names.index(target))
    (row,) = np.flatnonzero(ends).tolist()
    return int(row)


def bundle(network: Network, source: int, target: int) -> list[str]:
    """Name the channels over which a terminal stripes to another."""
    number = network.bundle_index[source, target]
    rows = network.bundle_channels[network.bundle_first[number] : network.bundle_first[number + 1]]
    return [network.channel_name(row) for row in rows.tolist()]


def candidates(network: Network, switch: str, target: int) -> list[str]:
    """Name the nodes to which a switch may send a packet for a terminal."""
    row = network.node_names.index(switch) - network.num_terminals
    first = network.route_first[row, target]
    rows = network.candidates[first : first + network.route_count[row, target]]
    return [network.node_names[network.channels.target_node[candidate]] for candidate in rows.tolist()]


# Words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", [example for example, _ in KINDS.values()])
def test_faults_are_read_as_they_are_written(example: str) -> None:
    """The text of a fault reads back as the fault, exactly."""
    fault = parse_fault(example)
    assert parse_fault(fault.text) == fault
    assert parse_fault(f"  {example.replace(':', ' : ')} ") == fault


@given(amount=st.fractions(min_value=0, max_value=1).filter(lambda amount: 0 < amount < 1))
def test_any_fraction_is_kept(amount: Fraction) -> None:
    """No rounding between a fault and its text."""
    fault = Fault("lanes", "a-b", amount)
    assert parse_fault(fault.text) == fault


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("swich:l2.3.6", "unknown kind of fault 'swich' (did you mean 'switch'?)"),
        ("plane", "write it like plane:5"),
        ("plane:two", "'two' is not a whole number"),
        ("plane:2=1", "write it like plane:5"),
        ("lanes:a-b", "write it like lanes:"),
        ("lanes:a-b=1.5", "a number between 0 and 1"),
        ("lanes:a-b=half", "'half' is not a number"),
        ("bit_errors:a-b=0", "such as 1e-9"),
        ("slow_rank:3=0.5", "write a number above 1"),
        ("arrival_skew:3=5", "has no unit"),
        ("arrival_skew:3=0us", "has no effect"),
    ],
)
def test_words_that_are_no_fault_are_refused(text: str, complaint: str) -> None:
    """The error names the fault, the cause and the remedy."""
    with pytest.raises(ConfigError) as caught:
        read_faults([text])
    assert complaint in str(caught.value)


def test_a_file_of_faults(tmp_path: Path) -> None:
    """A TOML file stands for the faults in it; what is wrong with it is said with its name."""
    path = tmp_path / "storm.toml"
    path.write_text('format = "fabricsim.fault_list/1"\nfaults = ["plane:1", "arrival_skew:3=5us"]\n')
    skew = Fault("arrival_skew", "3", Fraction(5_000_000))
    assert read_faults([path, "plane:2"]) == (Fault("plane", "1"), skew, Fault("plane", "2"))
    with pytest.raises(ConfigError, match=r"plane:1 is given twice"):
        read_faults([str(path), "plane:1"])
    for text, complaint in (
        ("faults = []", "fault_list/1"),
        ('format = "fabricsim.fault_list/1"\nfaults = []', "a list of texts"),
        ('format = "fabricsim.fault_list/1"\nfaults = ["plane"]', r"storm\.toml: fault 'plane'"),
        ('format = "fabricsim.fault_list/1"\nfault = ["plane:1"]', "unknown key 'fault'"),
        ("faults = [", "not valid TOML"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=complaint):
            read_faults([path])
    with pytest.raises(ConfigError, match="cannot read the file of faults"):
        read_faults([tmp_path / "none.toml"])


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (["slow_rank:3=2", "slow_rank:3=3"], "rank 3 is given slow_rank twice, =2.0 and =3.0; give it once"),
        (["arrival_skew:3=2us", "arrival_skew:03=3us"], "rank 3 is given arrival_skew twice, =2us and =3us"),
        (["lanes:a-b=0.5", "lanes:b - a=0.25"], "link b - a is given lanes twice, =0.5 and =0.25; give it once"),
        (["lanes:a-b=0.5", "lanes:b-a=0.5"], "fault lanes:b-a=0.5 is given twice; give it once"),
        (["link:a-b", "link:b-a"], "fault link:b-a is given twice; give it once"),
    ],
)
def test_a_place_has_one_fault_of_a_kind(texts: list[str], complaint: str) -> None:
    """A link is the same whichever of its ends is written first."""
    with pytest.raises(ConfigError) as caught:
        read_faults(texts)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("switch:spine.0.7", "no node 'spine.0.7' (did you mean 'spine.0.1'?)"),
        ("switch:gpu3", "gpu3 is a terminal"),
        ("link:gpu3-leaf.1.0", "gpu3 has links to leaf.0.0, leaf.0.1"),
        ("link:gpu3", "does not name a link"),
        ("plane:2", "its planes are 0 to 1"),
    ],
)
def test_unknown_places_are_refused(text: str, complaint: str) -> None:
    """With the nearest name, or those that there are."""
    with pytest.raises(ConfigError) as caught:
        broken(build_clos(LEAF, SPINE), text)
    assert complaint in str(caught.value)


def test_each_thing_is_listed() -> None:
    """All planes, all switches, and all links once; a mesh has no switches."""
    network = build_clos(LEAF, SPINE)
    assert [len(each_fault(network, what)) for what in ("plane", "switch", "link")] == [2, 10, 36]
    assert all(len(touched_channels(network, fault)) == 2 for fault in each_fault(network, "link"))
    assert len(each_fault(build_mesh(), "link")) == 10
    with pytest.raises(ConfigError, match="has no switches; break each link"):
        each_fault(build_mesh(), "switch")
    with pytest.raises(ConfigError, match="did you mean 'switch'"):
        each_fault(network, "switches")


# Tables -----------------------------------------------------------------------------------------------------


def test_a_dead_spine_is_no_candidate_any_more() -> None:
    """Leaves go over the other spine alone, bundles stay whole, and nobody has a choice: all counters begin at 0."""
    network = build_clos(LEAF, SPINE)
    after = broken(network, "switch:spine.0.1")
    assert candidates(after, "leaf.0.1", 11) == ["spine.1.1"]
    assert candidates(after, "leaf.0.0", 11) == ["spine.0.0", "spine.1.0"]
    assert np.array_equal(after.bundle_index, network.bundle_index)
    of_plane = network.channels.plane == 1
    assert network.spray_start[of_plane].any()
    assert not after.spray_start[of_plane].any()
    assert after.spray_start[~of_plane].tolist() == network.spray_start[~of_plane].tolist()
    assert int(after.channels.dead.sum()) == 6


def test_a_link_that_is_dead_below_is_avoided_from_above() -> None:
    """Other leaves send by the spine that still reaches the leaf; the spine that does not is kept for the rest."""
    after = broken(build_clos(LEAF, SPINE), "link:leaf.2.0-spine.1.0")
    assert candidates(after, "leaf.0.0", 8) == ["spine.0.0"]
    assert candidates(after, "leaf.0.0", 7) == ["spine.0.0", "spine.1.0"]
    assert candidates(after, "leaf.2.0", 0) == ["spine.0.0"]
    assert candidates(after, "spine.1.0", 8) == []


def test_a_pair_that_has_lost_a_plane_has_a_part_of_its_sources_bundle() -> None:
    """A dead link of gpu3 in plane 1 of 3: from gpu3 and to gpu3 the planes 2 and 0, successive in the ring."""
    after = broken(build_clos(LEAF, num_planes=3), "link:gpu3-leaf.0.1")
    assert bundle(after, 3, 0) == ["gpu3 -> leaf.0.0 (plane 0)", "gpu3 -> leaf.0.2 (plane 2)"]
    assert bundle(after, 0, 1) == [f"gpu0 -> leaf.0.{plane} (plane {plane})" for plane in range(3)]
    assert bundle(after, 0, 3) == ["gpu0 -> leaf.0.2 (plane 2)", "gpu0 -> leaf.0.0 (plane 0)"]
    assert after.bundle_whole[after.bundle_index[0, 3]] == after.bundle_index[0, 1]


def test_planes_that_a_pair_has_lost_stand_together_in_the_ring() -> None:
    """Planes 0 and 2 of 4 are lost to gpu3: the ring of the others is another one, in which 1 and 3 are successive."""
    after = broken(build_clos(LEAF, num_planes=4), "link:gpu3-leaf.0.0", "link:gpu3-leaf.0.2")
    assert sorted(bundle(after, 0, 3)) == ["gpu0 -> leaf.0.1 (plane 1)", "gpu0 -> leaf.0.3 (plane 3)"]
    assert len(bundle(after, 0, 1)) == 4


def test_losses_that_fit_no_ring_are_refused() -> None:
    """Three targets have lost two of five planes each, every two of them one in common: no ring has all successive."""
    lost = {1: (0, 1), 2: (1, 2), 3: (0, 2)}
    texts = [f"link:gpu{gpu}-leaf.0.{plane}" for gpu, planes in lost.items() for plane in planes]
    with pytest.raises(ConfigError, match="cannot be simulated in one run; leave a fault"):
        broken(build_clos(LEAF, num_planes=5), *texts)


def test_terminals_that_are_cut_off_have_no_bundle() -> None:
    """All links of a terminal dead: nothing leads to it or from it, and the others are as they were."""
    network = build_clos(LEAF, num_planes=2)
    after = broken(network, "link:gpu3-leaf.0.0", "link:gpu3-leaf.0.1")
    assert (after.bundle_index[3] == -1).all()
    assert (after.bundle_index[:, 3] == -1).all()
    assert (np.delete(np.delete(after.bundle_index, 3, 0), 3, 1) >= 0).sum() == 6
    mesh = broken(build_mesh(), "link:npu1-npu4")
    assert np.argwhere((mesh.bundle_index < 0) & ~np.eye(5, dtype=bool)).tolist() == [[1, 4], [4, 1]]


@given(data=st.data(), network=networks(alike=False))
def test_routes_of_what_is_left_are_whole(data: st.DataObject, network: Network) -> None:
    """Whatever is broken: each pair arrives on every plane that it has left, by live channels, without a cycle."""
    after = data.draw(faulty(network, tuple(range(network.num_terminals))))
    check_acyclic(after)
    assert not after.channels.dead[after.bundle_channels].any()
    assert not channels_between(after, *np.nonzero(after.bundle_index >= 0))[after.channels.dead].any()
    for _plane, hops in walk(after):
        assert not after.channels.dead[hops[hops >= 0]].any()


# Rates ------------------------------------------------------------------------------------------------------


def test_lost_lanes_slow_both_directions_and_share_out_the_copies_anew() -> None:
    """Half of the lanes in one of two planes: twice the ps per byte, and the copies go by 1/3 and 2/3 of the rate."""
    network = build_clos(LEAF, copy_ps_per_byte=Fraction(10), ejection_ps_per_byte=Fraction(20))
    after = broken(network, "lanes:leaf.0.1-gpu3=1/2")
    channels = after.channels
    slow, fast = channel(after, "gpu3", "leaf.0.1"), channel(after, "gpu3", "leaf.0.0")
    back = channel(after, "leaf.0.1", "gpu3")
    assert [
        Fraction(int(channels.ps_per_byte_num[row]), int(channels.ps_per_byte_den[row])) for row in (slow, back)
    ] == [2 * LINK.ps_per_byte] * 2
    copies = [
        Fraction(int(channels.copy_ps_per_byte_num[row]), int(channels.copy_ps_per_byte_den[row]))
        for row in (slow, fast)
    ]
    assert copies == [30, 15]
    assert Fraction(int(channels.ejection_ps_per_byte_num[back]), int(channels.ejection_ps_per_byte_den[back])) == 60


def test_a_terminal_copies_at_its_whole_rate_over_the_links_that_it_has_left() -> None:
    """10 ps per byte over three planes are 30 each; over two 20 each. Others keep theirs."""
    network = build_clos(LEAF, num_planes=3, copy_ps_per_byte=Fraction(10))
    after = broken(network, "link:gpu3-leaf.0.1").channels
    mine = (after.source_node == 3) & ~after.dead
    assert after.copy_ps_per_byte_num[mine].tolist() == [20, 20]
    assert set(after.copy_ps_per_byte_num[after.source_node == 2].tolist()) == {30}


def test_retries_take_the_time_of_a_round_trip() -> None:
    """The largest packet has 4,160 B: S = ceil(4160 * 250 / 7) ps, L = 350 ns.

    With one bit in a million wrong, q = 1 - (1 - 1e-6)^33280 = 3.27 % of the packets are, so 1 / (1 - q) - 1 = 3.384 %
    of them are sent again, each of which costs (S + 2 L) / S: 1 + 0.03384 * 5.711... as much time per byte.
    """
    network = build_clos(LEAF)
    after = broken(network, "bit_errors:gpu3-leaf.0.1=1e-6")
    row = channel(after, "gpu3", "leaf.0.1")
    factor = (
        Fraction(int(after.channels.ps_per_byte_num[row]), int(after.channels.ps_per_byte_den[row])) / LINK.ps_per_byte
    )
    serialization_ps = 148_572
    expected = 1 + ((1 - 1e-6) ** -33_280 - 1) * (serialization_ps + 700_000) / serialization_ps
    assert float(factor) == pytest.approx(expected, abs=2e-6)
    with pytest.raises(ConfigError, match="use link:gpu3-leaf"):
        broken(network, "bit_errors:gpu3-leaf.0.1=0.01")


def test_a_slow_rank_copies_and_ejects_slowly_where_that_is_limited() -> None:
    """Rank 1 sits at terminal 3: its copies take 1.5 times as long; ejection has no limit and keeps none."""
    network = build_clos(LEAF, copy_ps_per_byte=Fraction(10))
    after = apply_faults(network, read_faults(["slow_rank:1=1.5"]), np.array([0, 3], np.int32)).channels
    assert after.copy_ps_per_byte_num[after.source_node == 3].tolist() == [30, 30]
    assert after.copy_ps_per_byte_num[after.source_node == 1].tolist() == [20, 20]
    assert not after.ejection_ps_per_byte_num.any()


def test_nothing_broken_is_the_same_network() -> None:
    """No faults, no change; and a fault of a rank that waits leaves the wires alone."""
    network = load_fabric("nvl72").network()
    assert apply_faults(network, (), NO_RANKS) is network
    assert broken(network, "arrival_skew:3=5us") is network
