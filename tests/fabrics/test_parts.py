from __future__ import annotations

from dataclasses import fields
from fractions import Fraction

import numpy as np
import pytest

import fabricsim as fs
from fabricsim.engine.folding import classes_of_planes
from fabricsim.errors import ConfigError
from fabricsim.fabrics import FabricSpec, load_fabric
from fabricsim.fabrics.network import Channels, Network
from fabricsim.fabrics.topologies import check_acyclic
from tests.fabrics.test_topologies import walk
from tests.results.small import one_rack

RACKS = load_fabric("nvl72").with_overrides({"scale_out.racks": "3", "tier.nvswitch.children": "8"})
DIES = load_fabric("cloudmatrix384-die").with_overrides({"tier.l2.children": "2", "tier.l1.children": "4"})


def test_one_rack_is_the_topology_alone() -> None:
    """What joins racks is not there while there is one: the network is that of a file without it."""
    found, expected = load_fabric("nvl72").network(), one_rack("nvl72").network()
    for field in fields(Network):
        if field.name not in ("channels", "routing"):
            assert np.array_equal(getattr(found, field.name), getattr(expected, field.name)), field.name
    for field in fields(Channels):
        assert np.array_equal(getattr(found.channels, field.name), getattr(expected.channels, field.name)), field.name


def test_pairs_use_the_first_part_that_connects_them() -> None:
    """In a rack the 18 switch chips, between racks the network card; every way arrives, inside its plane."""
    network = RACKS.network()
    check_acyclic(network)
    assert (RACKS.num_terminals, network.num_terminals, network.num_planes) == (24, 24, 19)
    rack = np.arange(24) // 8
    width = np.diff(network.bundle_first)[network.bundle_index]
    apart = ~np.eye(24, dtype=bool)
    assert (width[apart] == np.where(rack[:, None] == rack, 18, 1)[apart]).all()
    for plane, hops in walk(network):
        crossed = network.channels.plane[hops[:, 0]]
        for hop in hops.T[1:]:
            assert (network.channels.plane[hop][hop >= 0] == crossed[hop >= 0]).all()
        if plane == 0:
            source, target = np.nonzero(network.bundle_index >= 0)
            rail = source % 4 == target % 4
            length = (hops >= 0).sum(axis=1)
            assert (length == np.where(rack[source] == rack[target], 2, np.where(rail, 2, 4))).all()


def test_names_of_racks() -> None:
    """Switches carry the rack before their names, terminals are counted through."""
    names = RACKS.network().node_names
    assert len(set(names)) == len(names) == 24 + 3 * 18 + 4 + 54
    assert {"gpu23", "rack0.nvswitch.0.0", "rack2.nvswitch.0.17", "rail.3.0", "spine.53.0"} <= set(names)


def test_the_names_of_switches_say_their_plane() -> None:
    """The planes of the topology come first, as its switches count them; then the rails, then the packages."""
    for network, last in ((RACKS.network(), "rail"), (DIES.network(), "die")):
        names = network.node_names[network.num_terminals :]
        planes = dict(zip(names, network.switch_plane.tolist(), strict=True))
        of_topology = {name: plane for name, plane in planes.items() if not name.startswith(("rail.", "spine."))}
        assert {name: int(name.rpartition(".")[2]) for name in of_topology} == of_topology
        assert set(of_topology.values()) == set(range(network.num_planes - 1))
        kinds = network.channels.channel_class[network.channels.plane == network.num_planes - 1]
        assert all(last in network.channel_class_names[kind] for kind in set(kinds.tolist()))


def test_the_tables_of_parts_are_in_order() -> None:
    """Channels by plane, source and the order of their part; planes of a part that are alike are found to be so."""
    for network, classes in ((RACKS.network(), [0] * 18 + [1]), (DIES.network(), [0] * 7 + [1])):
        channels = network.channels
        key = channels.plane.astype(np.int64) * network.num_nodes + channels.source_node
        assert (np.diff(key) >= 0).all()
        first = np.searchsorted(channels.plane, np.arange(network.num_planes))
        assert (channels.place == np.arange(len(channels)) - first[channels.plane]).all()
        assert sorted(network.bundle_channels) == np.flatnonzero(channels.source_node < network.num_terminals).tolist()
        assert classes_of_planes(network).tolist() == classes


def test_dies_of_a_package_use_their_own_link() -> None:
    """Two dies have one channel each way between them, at the package's copy rate; all others use the 7 planes."""
    network = DIES.network()
    assert (network.num_terminals, network.routing) == (8, "spray")
    die = np.arange(8)
    width = np.diff(network.bundle_first)[network.bundle_index]
    together = die[:, None] // 2 == die // 2
    assert (width[together & (die[:, None] != die)] == 1).all()
    assert (width[~together] == 7).all()
    channels = network.channels
    for name, copy_rate, planes in (
        ("die-die", DIES.package.copy_rate, 1),
        ("die-l1", DIES.terminal.copy_rate, 7),
    ):
        of_class = channels.channel_class == network.channel_class_names.index(name)
        rates = set(zip(channels.copy_ps_per_byte_num[of_class], channels.copy_ps_per_byte_den[of_class], strict=True))
        assert {Fraction(int(num), int(den)) for num, den in rates} == {copy_rate.exact * planes}


def test_a_flow_takes_the_rate_of_its_part() -> None:
    """A large message runs at the package's 210 GB/s, or at the 163.8 GB/s of a die's copy over its ports."""
    for ranks, GBps in (([0, 1], 210), ([0, 2], 163.8)):  # noqa: N806
        result = fs.simulate(DIES, fs.collective("send_recv", size="64MiB", ranks=2), placement=ranks, kernel="c")
        (row,) = result.op_rows()
        assert row["algbw_GBps"] == pytest.approx(GBps, rel=0.05)
        assert row["efficiency"] > 0.99


@pytest.mark.parametrize(
    ("spec", "key", "value", "words"),
    [
        (RACKS, "scale_out.rails", "3", "scale_out.rails is 3, but rails have equal numbers of the 8 terminals"),
        (RACKS, "link.rail-spine.buffer", "100 B", "set link.rail-spine.buffer to 288 B or more"),
        (DIES, "package.terminals", "3", "package.terminals is 3, but packages of that size"),
        (DIES, "package.terminals", "8", "package.terminals is 8, but packages of that size"),
    ],
)
def test_parts_that_do_not_fit_are_refused(spec: FabricSpec, key: str, value: str, words: str) -> None:
    """Each with its key and the remedy; also while there is one rack."""
    with pytest.raises(ConfigError, match=words):
        spec.with_overrides({key: value})
    if "scale_out.racks" in spec.overrides:
        with pytest.raises(ConfigError, match=words):
            spec.without_override("scale_out.racks").with_overrides({key: value})


def test_a_full_mesh_has_no_packages() -> None:
    """It joins all its terminals already."""
    tables = load_fabric("cloudmatrix384-mesh").model_dump(exclude_none=True)
    tables["package"] = DIES.model_dump(exclude_none=True)["package"]
    with pytest.raises(ConfigError, match="package: a full mesh joins all terminals already"):
        FabricSpec(**tables)


def test_tiers_of_the_scale_out_network_have_their_names() -> None:
    """A topology whose own tier is called spine cannot have another one."""
    text = RACKS.to_toml().replace("nvswitch", "spine").replace("value = 3\n", "value = 1\n")
    with pytest.raises(ConfigError, match="the scale-out network has a tier spine of its own"):
        FabricSpec.from_toml(text, origin="my.toml")
