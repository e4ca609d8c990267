"""Planes with weights: what each carries of a message, how long that takes, and where weights do nothing."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import pytest

import fabricsim as fs
from fabricsim.errors import ConfigError
from fabricsim.results.estimate import estimate
from fabricsim.results.run import Workload, simulate
from fabricsim.workloads.schedule import ScheduleBlocks
from tests.fabrics.test_links import LINK, build

COUNT = {"source": "a test", "evidence": "assumed"}
#: Rates of the links into three planes, which are their weights as well.
RATES = {"fast": 150, "middle": 100, "slow": 50}


def planes(*names: str, weights: dict[str, int] | None = None) -> fs.FabricSpec:
    """Four GPUs on a switch in each of these planes; weights by the names of the switches."""
    links = [f"gpu{gpu} {name}.0" for name in names for gpu in range(4)]
    tables: dict[str, Any] = {}
    for name in names:
        tables[f"gpu_{name}"] = {"bandwidth": {**LINK["bandwidth"], "value": f"{RATES[name]} GB/s"}}
        if weights is not None and name in weights:
            tables[f"gpu_{name}"]["weight"] = COUNT | {"value": weights[name]}
    return build(4, *links, **tables)


def test_planes_with_weights_stay_as_they_are() -> None:
    """A fault at a time would change the shares of what is not sent yet: that has no rule, and is refused."""
    fabric = planes("fast", "slow", weights={"fast": 3, "slow": 1})
    with pytest.raises(ConfigError, match="a fault at a given time cannot meet planes with weights"):
        fs.simulate(fabric, fs.collective("all_to_all", size="64KiB", ranks=4), faults=["lanes:gpu0-slow.0=0.5@1us"])


def sent_over(result: fs.Result, name: str) -> int:
    """Packets that GPU 0 put on its link into a plane."""
    network = result.network
    switch = network.node_names.index(f"{name}.0")
    channels = network.channels
    [channel] = np.flatnonzero((channels.source_node == 0) & (channels.target_node == switch))
    return int(result.record.channel_packets[channel])


SIZE = 10_000_001
PAYLOAD = 256


def one_message(size_bytes: int = SIZE) -> fs.Schedule:
    """GPU 0 sends GPU 1 a message."""
    return fs.collective("send_recv", size=f"{size_bytes} B", ranks=2)


def test_shares_follow_the_weights_and_so_does_the_time() -> None:
    """Over planes of 100 and 50 GB/s a long message takes as long as at 150 GB/s; in equal shares as at 100 GB/s."""
    by_weight = simulate(planes("middle", "slow", weights={"middle": 2}), one_message(), endpoint="ideal")
    evenly = simulate(planes("middle", "slow"), one_message(), endpoint="ideal")
    assert sent_over(by_weight, "middle") == ceil(ceil(SIZE * 2 / 3) / PAYLOAD)
    assert sent_over(by_weight, "slow") == ceil(ceil(SIZE / 3) / PAYLOAD)
    assert sent_over(evenly, "middle") == sent_over(evenly, "slow") == ceil(ceil(SIZE / 2) / PAYLOAD)
    assert evenly.simulated_time_ps / by_weight.simulated_time_ps == pytest.approx(1.5, rel=0.01)
    wire_ps = ceil(SIZE / PAYLOAD) * 288 * 1000 / 150
    assert by_weight.simulated_time_ps == pytest.approx(wire_ps, rel=0.01)


def test_equal_weights_are_none() -> None:
    """Where all planes weigh the same, to the byte; a message that uses some planes alone ignores weights."""
    none = planes("middle", "slow")
    small = one_message(200)  # one plane of two
    assert (
        simulate(none, one_message()).digest
        == simulate(planes("middle", "slow", weights={"middle": 7, "slow": 7}), one_message()).digest
    )
    assert simulate(none, small).digest == simulate(planes("middle", "slow", weights={"slow": 9}), small).digest


def test_what_is_left_of_the_planes_is_shared_by_what_is_left_of_the_weights() -> None:
    """Of weights 3, 2 and 1 a dead plane leaves 3 and 1, or 2 and 1."""
    spec = planes(*RATES, weights={"fast": 3, "middle": 2})
    whole = simulate(spec, one_message(), endpoint="ideal")
    assert [sent_over(whole, name) for name in RATES] == [
        ceil(ceil(SIZE * weight / 6) / PAYLOAD) for weight in (3, 2, 1)
    ]
    broken = simulate(spec, one_message(), endpoint="ideal", faults=["switch:middle.0"])
    assert [sent_over(broken, name) for name in RATES] == [
        ceil(ceil(SIZE * weight / 4) / PAYLOAD) for weight in (3, 0, 1)
    ]
    assert broken.simulated_time_ps / whole.simulated_time_ps == pytest.approx(300 / 200, rel=0.01)


def test_a_run_is_not_folded_and_its_estimate_is_exact() -> None:
    """Planes of one rate with unlike weights do not stand for each other, and their packets are counted one by one."""
    links = [f"gpu{gpu} {name}.{plane}" for plane, name in enumerate(("leaf", "leaf", "core")) for gpu in range(4)]
    spec = build(4, *links, gpu_core={"weight": COUNT | {"value": 3}})
    schedule = fs.collective("all_to_all", size="1000000 B", ranks=4)
    result = simulate(spec, schedule)
    assert result.summary()["folding"] == "planes have weights"
    found = estimate(spec, Workload(ScheduleBlocks.of(schedule), {"kind": "collective"}))
    assert found.packets == result.record.packets
    assert found.packet_hops == found.packet_hops_simulated == result.record.packet_hops


def test_a_weight_is_a_number_of_the_fabric() -> None:
    """It is listed, settable, part of the hash, and refused where no message of the run feels it."""
    spec = planes("middle", "slow", weights={"middle": 2})
    assert [row.value for row in spec.quantities() if row.key == "link.gpu-middle.weight"] == ["2"]
    other = spec.with_overrides({"link.gpu-middle.weight": "3"})
    assert other.spec_sha256 != spec.spec_sha256
    assert fs.FabricSpec.from_toml(other.to_toml(), origin="a test").spec_sha256 == other.spec_sha256
    result = simulate(other, one_message())
    assert sent_over(result, "middle") == ceil(ceil(SIZE * 3 / 4) / PAYLOAD)
    with pytest.raises(fs.ConfigError, match=r"link.gpu-middle.weight=3 has no effect"):
        simulate(other, one_message(200))


def test_weights_are_for_planes_of_a_list() -> None:
    """Planes of a Clos are alike, a link between switches leads into none, and one plane has nothing to share."""
    weight = {"weight": COUNT | {"value": 2}}
    tables = fs.load_fabric("nvl72").model_dump(exclude_none=True)
    tables["link"]["gpu-nvswitch"] |= weight
    with pytest.raises(fs.ConfigError, match=r"link.gpu-nvswitch.weight: is for links of a list"):
        fs.FabricSpec(**tables)
    links = ["gpu0 leaf.0", "gpu1 leaf.1", "leaf.0 spine.0", "leaf.1 spine.0"]
    with pytest.raises(fs.ConfigError, match=r"link.leaf-spine.weight: is for links of a list"):
        build(2, *links, leaf_spine=weight)
    with pytest.raises(fs.ConfigError, match="gpu-leaf have a weight, but no message has a choice of planes"):
        build(2, *links, gpu_leaf=weight)
