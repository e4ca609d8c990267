from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabricsim.errors import ConfigError
from fabricsim.fabrics import load_fabric
from fabricsim.fabrics.mesh import Dimension, mesh
from fabricsim.fabrics.network import Endpoint, Network, PacketFormat
from fabricsim.fabrics.topologies import Link, check_acyclic
from tests.fabrics.test_topologies import walk

PACKET = PacketFormat("bulk", max_payload_bytes=4096, overhead_bytes=52, flit_bytes=20, stripe_min_bytes=512)
LINK = Link(Fraction(250, 7), 350_000, 81_920)


def build(*sizes: int, **numbers: Any) -> Network:
    """A mesh of the given sizes, all of whose links are alike."""
    arguments: dict[str, Any] = {
        "name": "small",
        "terminal_name": "npu",
        "switch_name": "io",
        "dimensions": [Dimension(f"d{number}", size, LINK) for number, size in enumerate(sizes)],
        "up": LINK,
        "down": LINK,
        "packet": PACKET,
        "endpoint": Endpoint(launch_latency_ps=0, message_overhead_ps=1_000, slots=4),
        "copy_ps_per_byte": None,
        "ejection_ps_per_byte": None,
    }
    return mesh(**{**arguments, **numbers})


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4).filter(lambda sizes: 2 <= prod(sizes) <= 40))
def test_routes_cross_each_dimension_once(sizes: list[int]) -> None:
    """A way has a link for every coordinate that differs, in the order of the dimensions, and no cycle can form."""
    network = build(*sizes)
    check_acyclic(network)
    channels = network.channels
    assert len(channels) == prod(sizes) * (2 + sum(size - 1 for size in sizes))
    coordinates = np.stack(np.unravel_index(np.arange(prod(sizes)), sizes[::-1])[::-1])
    source, target = np.nonzero(network.bundle_index >= 0)
    differ = coordinates[:, source] != coordinates[:, target]
    [(_, hops)] = walk(network)
    assert ((hops >= 0).sum(axis=1) == 2 + differ.sum(axis=0)).all()
    for hop, differs in zip(hops.tolist(), differ.T.tolist(), strict=True):
        crossed = [int(channels.channel_class[channel]) for channel in hop if channel >= 0]
        assert crossed == [0, *(1 + np.flatnonzero(differs)).tolist(), len(sizes) + 1]


def test_a_line_is_joined_pairwise() -> None:
    """In a mesh of 3 x 2 every switch has two neighbours in the first dimension and one in the second."""
    network = build(3, 2)
    assert network.channel_class_names == ("npu-io", "io-d0", "io-d1", "io-npu")
    pairs = {
        (network.node_names[source], network.node_names[target])
        for source, target, kind in zip(
            network.channels.source_node, network.channels.target_node, network.channels.channel_class, strict=True
        )
        if kind in (1, 2)
    }
    lines = [(0, 1, 2), (3, 4, 5), (0, 3), (1, 4), (2, 5)]
    assert pairs == {(f"io.{a}", f"io.{b}") for line in lines for a in line for b in line if a != b}


def test_ub_mesh() -> None:
    """1,024 NPUs with 7 + 7 links in the rack and 3 + 3 between racks; what leaves an NPU adds up to 952 GB/s."""
    network = load_fabric("ub-mesh-1024").network()
    channels = network.channels
    assert (network.num_terminals, network.num_switches) == (1024, 1024)
    counts = np.bincount(channels.channel_class).tolist()
    assert counts == [1024, 1024 * 7, 1024 * 7, 1024 * 3, 1024 * 3, 1024]
    rate_GBps = 1000 * channels.ps_per_byte_den // channels.ps_per_byte_num
    between = (channels.source_node >= 1024) & (channels.target_node >= 1024)
    assert set(np.bincount(channels.source_node[between], rate_GBps[between])[1024:]) == {952.0}
    assert set(rate_GBps[channels.source_node < 1024]) == {952}


@pytest.mark.parametrize(
    ("sizes", "numbers", "words"),
    [
        ((1, 1), {}, "the fabric has 1 terminals"),
        ((0, 2), {}, "the size of dimension d0 is 0"),
        ((2, 2), {"switch_name": "npu"}, "no two may be alike"),
        ((2, 2), {"down": Link(Fraction(1), 0, 81_920)}, "set link.io-npu.latency"),
        ((300, 300), {}, "90,000 terminals"),
    ],
)
def test_meshes_that_cannot_be_are_refused(sizes: tuple[int, ...], numbers: dict[str, Any], words: str) -> None:
    """Each with the dimension or the channel class, and the remedy."""
    with pytest.raises(ConfigError, match=words):
        build(*sizes, **numbers)
