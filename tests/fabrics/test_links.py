from __future__ import annotations

from dataclasses import fields
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from fabricsim.errors import ConfigError
from fabricsim.fabrics import FabricSpec
from fabricsim.fabrics.network import Channels, Network
from fabricsim.fabrics.topologies import Link, Tier, clos
from tests.fabrics.test_topologies import walk
from tests.results.small import one_rack

LINK: dict[str, Any] = {
    "bandwidth": {"value": "50 GB/s", "source": "a test", "evidence": "assumed"},
    "latency": {"value": "250 ns", "source": "a test", "evidence": "assumed"},
    "buffer": {"value": "64 KiB", "source": "a test", "evidence": "assumed"},
}


def build(terminals: int, *links: str, routing: str | None = None, **link: dict[str, Any]) -> FabricSpec:
    """A fabric of links written as ``gpu0 leaf.0``; all of them alike, but for classes (``leaf_gpu``) given."""
    tables = one_rack("nvl72").model_dump(exclude_none=True)
    pairs = [text.split() for text in links]
    tables["topology"] = {
        "kind": "links",
        "terminals": {"value": terminals, "source": "a test", "evidence": "assumed"},
        "links": pairs,
    }
    levels = {tuple(end.rstrip("0123456789").rstrip(".") for end in pair) for pair in pairs}
    tables["link"] = {f"{one}-{other}": LINK for one, other in sorted(levels)}
    tables["link"] |= {name.replace("_", "-"): {**LINK, **table} for name, table in link.items()}
    del tables["tier"]
    if routing is not None:
        tables["defaults"]["routing"] = routing
    return FabricSpec(**tables)


def two_tiers() -> FabricSpec:
    """Two planes of three leaves with two GPUs each and of two spines, link by link; spines are slower."""
    links = []
    for plane in range(2):
        leaves = [f"leaf.{3 * plane + number}" for number in range(3)]
        links += [f"gpu{gpu} {leaves[gpu // 2]}" for gpu in range(6)]
        links += [f"{leaf} spine.{2 * plane + spine}" for leaf in leaves for spine in range(2)]
    slower = {"bandwidth": {**LINK["bandwidth"], "value": "20 GB/s"}}
    return build(6, *links, routing="spray", leaf_spine=slower)


def test_links_of_a_clos_are_that_clos() -> None:
    """The tables are those that the same Clos gets from its tiers, but for the names of nodes."""
    spec = two_tiers()
    listed = spec.network()
    link, slower = Link(Fraction(20), 250_000, 65_536), Link(Fraction(50), 250_000, 65_536)
    tiers = [Tier("leaf", 2, 1, link, link), Tier("spine", 3, 2, slower, slower)]
    expected = clos(
        name=listed.name,
        terminal_name="gpu",
        tiers=tiers,
        num_planes=2,
        packet=listed.packet,
        endpoint=listed.endpoint,
        routing="spray",
        copy_ps_per_byte=spec.terminal.copy_rate.exact,
        ejection_ps_per_byte=None,
    )
    for field in fields(Channels):
        found, wanted = getattr(listed.channels, field.name), getattr(expected.channels, field.name)
        assert found.dtype == wanted.dtype, field.name
        rows = (
            listed.channels.source_node < 6 if field.name.startswith("copy") else slice(None)
        )  # there alone it counts
        assert found[rows].tolist() == wanted[rows].tolist(), field.name
    for name in ("channel_class_names", "num_planes", "num_switches", "num_terminals"):
        assert getattr(listed, name) == getattr(expected, name), name
    for name in ("route_count", "spray_start", "bundle_index", "bundle_first", "bundle_channels"):
        assert np.array_equal(getattr(listed, name), getattr(expected, name)), name
    for switch, terminal in np.ndindex(expected.route_count.shape):
        assert candidates(listed, switch, terminal) == candidates(expected, switch, terminal)


def candidates(network: Network, switch: int, terminal: int) -> list[int]:
    """The channels that a packet for a terminal may take at a switch."""
    first = network.route_first[switch, terminal]
    return network.candidates[first : first + network.route_count[switch, terminal]].tolist()


def test_routes_are_minimal() -> None:
    """Over a ladder of switches every way has the fewest channels, and all shortest ways are candidates."""
    network = build(
        2, "gpu0 sw.0", "sw.0 sw.1", "sw.0 sw.2", "sw.1 sw.3", "sw.2 sw.3", "sw.1 sw.2", "sw.3 gpu1", routing="spray"
    ).network()
    [(_, hops)] = walk(network)
    assert (hops >= 0).sum(axis=1).tolist() == [4, 4]
    assert len(candidates(network, 0, 1)) == 2


def test_a_direct_link_takes_all_between_its_ends() -> None:
    """GPU 0 and 1 use their own link alone, all other pairs both switches; the copy rate is shared by link rates."""
    spec = build(
        3, "gpu0 gpu1", *(f"gpu{gpu} sw.{plane}" for plane in range(2) for gpu in range(3)),
        gpu_gpu={"bandwidth": {**LINK["bandwidth"], "value": "100 GB/s"}},
    )  # fmt: skip
    network = spec.network()
    bundles = np.split(network.bundle_channels, network.bundle_first[1:-1])
    names = [[network.channel_name(channel) for channel in bundle] for bundle in bundles]
    assert names[network.bundle_index[0, 1]] == ["gpu0 -> gpu1 (plane 0)"]
    assert names[network.bundle_index[0, 2]] == ["gpu0 -> sw.0 (plane 1)", "gpu0 -> sw.1 (plane 2)"]
    assert names[network.bundle_index[2, 0]] == names[network.bundle_index[2, 1]]
    copy = spec.terminal.copy_rate.exact
    assert copy is not None
    for bundle, share in ((network.bundle_index[0, 1], Fraction(1, 2)), (network.bundle_index[0, 2], Fraction(1, 4))):
        for channel in bundles[bundle]:
            numbers = network.channels.copy_ps_per_byte_num[channel], network.channels.copy_ps_per_byte_den[channel]
            assert Fraction(*map(int, numbers)) == copy / share


STAR = ("gpu0 sw.0", "gpu1 sw.0", "gpu2 sw.0")


@pytest.mark.parametrize(
    ("links", "words"),
    [
        (("gpu0 sw.0", "gpu1 sw.0"), "no way leads from gpu0 to gpu2; add links"),
        ((*STAR, "gpu0 sw.0"), "gpu0 has 2 links into one plane, to sw.0; a terminal has one per plane"),
        ((*STAR, "gpu0 sw.1", "gpu1 sw.1"), "gpu0 would stripe over other planes to some terminals than to others"),
        ((*STAR, "gpu3 sw.0"), "there is no gpu3; the terminals are gpu0 to gpu2"),
        ((*STAR, "sw.0 sw.0"), "a link joins sw 0 to itself"),
        ((*STAR, "sw0 sw.0"), "'sw0' is no node; write gpu0 to gpu2"),
        (
            tuple(f"sw.{number} sw.{(number + 1) % 5}" for number in range(5))
            + tuple(f"gpu{number} sw.{number}" for number in range(5)),
            "the routes can deadlock.*: sw.. -> sw.",
        ),
    ],
)
def test_lists_that_cannot_be_are_refused(links: tuple[str, ...], words: str) -> None:
    """Each fault with the node, link or pair, and the remedy; a ring of switches can wait for itself."""
    with pytest.raises(ConfigError, match=words):
        build(5 if "sw.4 sw.0" in links else 3, *links)


def test_a_list_that_has_a_choice_needs_a_routing() -> None:
    """That shows only when the routes are built; one without a choice has no use for a routing."""
    with pytest.raises(ConfigError, match=r"defaults\.routing: is missing"):
        build(2, "gpu0 sw.0", "gpu1 sw.1", "sw.0 sw.1", "sw.0 sw.1")
    with pytest.raises(ConfigError, match=r"defaults\.routing: found 'spray'"):
        build(3, *STAR, routing="spray")
