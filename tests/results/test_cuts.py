"""Cuts by hand: every pair of terminals has one message of 200 packets, ``W`` wire bytes, and terminals are ideal.

Channels are those of ``small``, 1 ps per byte and 1,000 ps, where nothing else is said. What crosses a cut begins after
a first channel, and the last packet there is counted from its start: a latency less a serialization remain, ``TAIL``.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest

from fabricsim.fabrics.links import link_classes, linked, node_of
from fabricsim.fabrics.mesh import Dimension
from fabricsim.fabrics.mesh import mesh as dimensional_mesh
from fabricsim.fabrics.network import Endpoint, Network
from fabricsim.fabrics.parts import package_and_racks
from fabricsim.fabrics.topologies import Link, Tier
from fabricsim.results.cuts import find_cuts
from tests.results.small import LINK, PACKET, crossbar, mesh, one_operation
from tests.results.test_bounds import bounds

SIZE_BYTES, W = 20_000, 24_000
FIRST, TAIL = 1_000, 1_000 - 120
FAST = replace(LINK, ps_per_byte=Fraction(1, 10))
IDEAL = Endpoint(launch_latency_ps=0, message_overhead_ps=0, slots=16)


def all_to_all(network: Network) -> tuple[int, int]:
    """Bound and time of one message per pair of terminals; each one's targets begin with the next terminal."""
    ranks = network.num_terminals
    pairs = sorted(permutations(range(ranks), 2), key=lambda pair: (pair[0], (pair[1] - pair[0]) % ranks))
    schedule = one_operation(*((*pair, SIZE_BYTES) for pair in pairs), ranks=ranks)
    (bound_ps,), (end_ps,) = bounds(network, schedule, "auto")
    return bound_ps, end_ps


def switches(*links: str, terminals: int, **classes: Link) -> Network:
    """Join nodes by links such as ``gpu0 sw.0``; those of terminals are fast, if *classes* do not say otherwise."""
    texts = [text.split() for text in links]
    pairs = [(node_of(one, "gpu", terminals), node_of(other, "gpu", terminals)) for one, other in texts]
    forth, back = link_classes(pairs)
    named = {name.replace("_", "-"): link for name, link in classes.items()}
    return linked(
        name="switches",
        terminal_name="gpu",
        num_terminals=terminals,
        links=pairs,
        classes={kind: named.get(kind, FAST if "gpu" in kind else LINK) for kind in (*forth, *back)},
        packet=PACKET,
        endpoint=IDEAL,
        routing="spray",
        copy_ps_per_byte=None,
        ejection_ps_per_byte=None,
    )


def pods() -> Network:
    """Two pods of two leaves and two spines each; a channel of each spine leads to a core of its own."""
    tiers = [Tier("leaf", 2, 1, LINK, LINK), Tier("spine", 2, 2, LINK, LINK), Tier("core", 2, 1, LINK, LINK)]
    return crossbar(tiers=tiers, endpoint=IDEAL)


def slow_second_dimension() -> Network:
    """A mesh of 4 x 3 terminals, whose second dimension takes 5 ps per byte."""
    slow = replace(LINK, ps_per_byte=Fraction(5))
    return dimensional_mesh(
        name="mesh",
        terminal_name="gpu",
        switch_name="chip",
        dimensions=[Dimension("x", 4, LINK), Dimension("y", 3, slow)],
        up=LINK,
        down=LINK,
        packet=PACKET,
        endpoint=IDEAL,
        copy_ps_per_byte=None,
        ejection_ps_per_byte=None,
    )


def dumbbell() -> Network:
    """At either end two switches with two terminals each hang on one without; one link joins these two."""
    pairs = [f"gpu{terminal} sw.{terminal // 2}" for terminal in range(8)]
    return switches(*pairs, "sw.0 sw.4", "sw.1 sw.4", "sw.4 sw.5", "sw.2 sw.5", "sw.3 sw.5", terminals=8)


def ring(length: int) -> Network:
    """Join so many switches, each with a terminal, to a ring."""
    pairs = [f"gpu{number} sw.{number}" for number in range(length)]
    return switches(*pairs, *(f"sw.{number} sw.{(number + 1) % length}" for number in range(length)), terminals=length)


@pytest.mark.parametrize(
    ("network", "work_ps", "efficiency"),
    [
        # Out of a pod go the messages of 4 terminals to 4 over 2 channels; out of a terminal go 7.
        (pods(), 4 * 4 * W / 2, 0.97),
        # Out of a row of 4 go the messages to the 8 others over 2 channels per terminal; out of a terminal go 11.
        (slow_second_dimension(), 8 * W / 2 * 5, 0.99),
        # One channel has all that goes from end to end; out of a switch with two terminals go 2 * 6.
        (dumbbell(), 4 * 4 * W, 0.99),
        # Two channels join the halves; two leave each switch, for what its terminal sends to 3 or to 5 others.
        (ring(4), 2 * 2 * W / 2, 0.97),
        (ring(6), 3 * 3 * W / 2, 0.98),
    ],
)
def test_the_narrowest_cut_bounds_an_all_to_all(network: Network, work_ps: float, efficiency: float) -> None:
    """Nothing else is as long, and minimal routes come close to it. The mesh's slow packets take 600 ps, not 120."""
    tail_ps = TAIL - 480 if network.name == "mesh" else TAIL
    bound_ps, end_ps = all_to_all(network)
    assert bound_ps == FIRST + work_ps + tail_ps
    assert efficiency < bound_ps / end_ps <= 1


def test_channels_of_unequal_rates_add_up() -> None:
    """Two leaves, joined by a switch at 1 and by one at 3 ps per byte: 4 messages need 4 W / (1 + 1 / 3) ps at least.

    Sprayed evenly they take more; the last packet that the bound knows of takes 360 ps on the slower channel.
    """
    leaves = [f"gpu{terminal} leaf.{terminal // 2}" for terminal in range(4)]
    above = [f"leaf.{leaf} {name}.0" for leaf in range(2) for name in ("quick", "slow")]
    network = switches(*leaves, *above, terminals=4, leaf_slow=replace(LINK, ps_per_byte=Fraction(3)))
    bound_ps, end_ps = all_to_all(network)
    assert bound_ps == FIRST + 3 * W + 1_000 - 360
    assert end_ps > 2 * W * 3


def test_houses_are_found_for_each_kind_of_link() -> None:
    """Terminals on one leaf, and those of one pod; the rows and columns of a mesh, and each terminal of it."""

    def houses(network: Network) -> set[tuple[int, ...]]:
        (part,) = find_cuts(network)
        return {tuple(cut.house.tolist()) for cut in part.cuts if cut.house.min() == 0}

    assert houses(pods()) == {(0, 0, 1, 1, 2, 2, 3, 3), (0, 0, 0, 0, 1, 1, 1, 1)}
    rows, columns = np.divmod(np.arange(12), 4)
    assert houses(slow_second_dimension()) == {tuple(rows.tolist()), tuple(columns.tolist()), tuple(range(12))}


def test_a_fabric_without_links_between_switches_has_no_cuts() -> None:
    """What crosses them is injected and ejected by the same channels."""
    assert find_cuts(crossbar(planes=2)) == find_cuts(mesh()) == ()


@pytest.mark.parametrize(("name", "out", "into"), [("spine-core", [1, 2], [2, 2]), ("core-spine", [2, 2], [1, 2])])
def test_dead_channels_do_not_cross(name: str, out: list[int], into: list[int]) -> None:
    """The first pod loses one of two channels to the cores, or from them; what the other pod has of them stays."""
    network = pods()
    of_class = network.channels.channel_class == network.channel_class_names.index(name)
    dead = np.arange(len(of_class)) == of_class.argmax()
    (part,) = find_cuts(replace(network, channels=replace(network.channels, dead=dead)))
    (cut,) = (cut for cut in part.cuts if cut.house.tolist() == [0, 0, 0, 0, 1, 1, 1, 1])
    assert [(side.num / side.den).tolist() for side in (cut.out, cut.into)] == [out, into]


def test_racks_are_halved_each() -> None:
    """Two rings of 4 switches each in planes of the same number: pairs of different ones go by another part."""
    rack = ring(4)
    network = package_and_racks(
        rack,
        terminal_name="gpu",
        routing="spray",
        package=None,
        num_racks=2,
        scale_out=crossbar(8),
        num_rails=1,
    )
    (part,) = find_cuts(network)
    assert [cut.house.tolist() for cut in part.cuts] == [list(range(8)), [0, 0, -1, -1, 1, 1, -1, -1]]
    assert [(cut.out.num / cut.out.den).tolist() for cut in part.cuts] == [[2] * 8, [2, 2]]
