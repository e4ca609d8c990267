"""What ``fabricsim doctor`` says: what this machine runs the simulator with, and what slows a fabric down."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from fabricsim.engine import _jit, backends
from fabricsim.fabrics import FabricSpec, fabric_names, load_fabric
from fabricsim.fabrics.network import Network
from fabricsim.results.versions import library_versions, package_version

SCHEMA = "fabricsim.doctor/1"

#: Below this channel latency a window holds so few events that its fixed cost shows.
SMALL_WINDOW_PS = 20_000


def examine(fabrics: Iterable[str] = ()) -> dict[str, Any]:
    """Examine the installation, and the named fabrics or else all of the catalog.

    Returns a JSON-ready dictionary of the schema ``fabricsim.doctor/1``. Raises ``ConfigError`` for a fabric that
    cannot be read.
    """
    kernel, reason = backends.choose("auto")
    cache = _jit.cache_folder()
    return {
        "schema": SCHEMA,
        "fabricsim_version": package_version(),
        "versions": library_versions(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "kernels": [kernel._asdict() for kernel in backends.available()],
        "auto": {"kernel": kernel, "reason": reason},
        "kernel_cache": None if cache is None else os.fspath(cache),
        "fabrics": [_examine_fabric(load_fabric(name)) for name in (tuple(fabrics) or fabric_names())],
    }


def _examine_fabric(spec: FabricSpec) -> dict[str, Any]:
    warnings = [warning for packet in spec.packet for warning in network_warnings(spec.network(packet=packet))]
    return {"name": spec.name, "packets": list(spec.packet), "warnings": warnings}


def network_warnings(network: Network) -> Iterator[str]:
    """Say which channels cannot run at full rate, and whether the engine's windows are small.

    A sender that is never to wait for credits needs ``ceil(2 * latency / serialization) + 1 + ceil(next serialization /
    serialization)`` largest packets of buffer (docs/physics.md, section 6).
    """
    channels, packet = network.channels, network.packet
    largest_bytes = packet.wire_bytes(packet.max_payload_bytes)
    classes, example = np.unique(channels.channel_class, return_index=True)
    serialization_ps = {
        number: -(-largest_bytes * int(channels.ps_per_byte_num[row]) // int(channels.ps_per_byte_den[row]))
        for number, row in zip(classes.tolist(), example.tolist(), strict=True)
    }
    followers = _followers(network)
    for number, row in zip(classes.tolist(), example.tolist(), strict=True):
        own_ps = serialization_ps[number]
        next_ps = [serialization_ps[follower] for follower in followers.get(number, ())]
        if channels.target_node[row] < network.num_terminals:
            copy_ps = packet.max_payload_bytes * int(channels.ejection_ps_per_byte_num[row])
            next_ps.append(max(own_ps, -(-copy_ps // int(channels.ejection_ps_per_byte_den[row]))))
        # Links that a list has beside direct ones may lead nowhere.
        packets = -(-2 * int(channels.latency_ps[row]) // own_ps) + 1 - (-max(next_ps, default=0) // own_ps)
        buffer_bytes = int(channels.buffer_bytes[row])
        if buffer_bytes < packets * largest_bytes:
            yield (
                f"packets {packet.name}: the buffers behind {network.channel_class_names[number]} channels hold "
                f"{buffer_bytes:,} B, but full rate needs {packets * largest_bytes:,} B ({packets} largest packets): "
                "the channels will wait for credits; enlarge the buffer if that is not meant"
            )
    window_ps = int(channels.latency_ps.min())
    if window_ps < SMALL_WINDOW_PS:
        yield (
            f"packets {packet.name}: the smallest channel latency is {window_ps:,} ps, so the engine runs in small "
            f"windows and slowly; {SMALL_WINDOW_PS:,} ps or more is better"
        )


def _followers(network: Network) -> dict[int, set[int]]:
    """Which channel classes a packet may cross right after which, as far as any route goes."""
    network = network.by_vc
    channels, first = network.channels, network.route_first
    switch, target = np.nonzero(network.route_count)
    source, destination = np.nonzero(network.bundle_index >= 0)
    last = first + network.route_count - 1  # where there are detours, one of them
    before = np.concatenate(
        [
            network.candidates[first[switch, target]],
            network.candidates[last[switch, target]],
            network.bundle_channels[network.bundle_first[network.bundle_index[source, destination]]],
        ]
    )
    target = np.concatenate([target, target, destination])
    onward = np.flatnonzero(channels.target_node[before] >= network.num_terminals)
    after = network.candidates[first[channels.target_node[before[onward]] - network.num_terminals, target[onward]]]
    num_classes = len(network.channel_class_names)
    followers: dict[int, set[int]] = {}
    # One number per pair: rows of two would be sorted as bytes, ten times slower.
    pairs = np.unique(channels.channel_class[before[onward]] * num_classes + channels.channel_class[after])
    for left, right in zip(*(part.tolist() for part in np.divmod(pairs, num_classes)), strict=True):
        followers.setdefault(left, set()).add(right)
    return followers
