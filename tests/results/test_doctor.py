from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from fabricsim.engine import backends
from fabricsim.errors import ConfigError
from fabricsim.fabrics import FabricSpec
from fabricsim.fabrics.topologies import Link, Tier
from fabricsim.results.doctor import examine, network_warnings
from tests.results.small import crossbar, mesh, one_rack


def test_the_installation_is_described(tiny_path: Path) -> None:
    """Versions, kernels, what auto picks and the fabric asked for."""
    report = examine([str(tiny_path)])
    assert report["schema"] == "fabricsim.doctor/1"
    assert [kernel["name"] for kernel in report["kernels"]] == ["c", "numba", "python"]
    kernel, reason = backends.choose("auto")
    assert report["auto"] == {"kernel": kernel, "reason": reason}
    assert report["fabrics"] == [{"name": "tiny", "packets": ["bulk"], "warnings": []}]


def test_shipped_fabrics_run_at_full_rate() -> None:
    """No preset has a buffer below the rule of docs/physics.md, section 6, or small windows."""
    fabrics = {fabric["name"]: fabric["warnings"] for fabric in examine()["fabrics"]}
    assert set(fabrics) >= {"cloudmatrix384", "cloudmatrix384-mesh", "nvl72"}
    assert not any(fabrics.values())


def test_an_unknown_fabric_is_refused() -> None:
    """The doctor names the nearest fabric, as all commands do."""
    with pytest.raises(ConfigError, match="nvl72"):
        examine(["nvl27"])


def link(ps_per_byte: int, latency_ps: int, packets: int) -> Link:
    """A link whose buffer holds so many largest packets of 120 B."""
    return Link(Fraction(ps_per_byte), latency_ps, packets * 120)


def test_full_rate_needs_the_round_trip_and_the_next_channel() -> None:
    """Rules by hand, for packets of 120 B.

    Up at 100 ps/B, latency 30 ns: ceil(60,000 / 12,000) + 1 + ceil(24,000 / 12,000) = 8 packets, for down is half as
    fast. Down at 200 ps/B, latency 24 ns: ceil(48,000 / 24,000) + 1 + 1 = 4 packets, ejection being no limit.
    """
    enough = [Tier("switch", 4, 1, link(100, 30_000, 8), link(200, 24_000, 4))]
    assert list(network_warnings(crossbar(tiers=enough))) == []
    short = [Tier("switch", 4, 1, link(100, 30_000, 7), link(200, 24_000, 3))]
    up, down = network_warnings(crossbar(tiers=short))
    assert "behind gpu-switch channels hold 840 B, but full rate needs 960 B (8 largest packets)" in up
    assert "behind switch-gpu channels hold 360 B, but full rate needs 480 B (4 largest packets)" in down


def test_slow_ejection_needs_more_room() -> None:
    """Ejection at 960 ps per byte of payload takes 96 ns, four times the packet's 24 ns on the wire: 2 + 1 + 4 = 7."""
    tiers = [Tier("switch", 4, 1, link(200, 24_000, 9), link(200, 24_000, 6))]
    (warning,) = network_warnings(crossbar(tiers=tiers, ejection_ps_per_byte=Fraction(960)))
    assert "behind switch-gpu channels hold 720 B, but full rate needs 840 B (7 largest packets)" in warning


def test_turns_that_no_packet_takes_do_not_count() -> None:
    """What comes down to a low switch goes on down, so the slow way up from there asks for no room.

    Down at 100 ps/B and 30 ns, next channel alike: ceil(60,000 / 12,000) + 1 + 1 = 7 packets are enough, although the
    way up takes 20 times as long.
    """
    slow = link(2_000, 30_000, 9)
    down = link(100, 30_000, 7)
    tiers = [Tier("low", 2, 1, link(2_000, 30_000, 9), down), Tier("high", 2, 1, slow, down)]
    assert list(network_warnings(crossbar(tiers=tiers))) == []


def test_small_windows_are_slow() -> None:
    """A mesh with a latency below 20 ns works, but slowly."""
    (warning,) = network_warnings(mesh(link=link(200, 19_999, 9)))
    assert "the smallest channel latency is 19,999 ps" in warning


def test_links_that_lead_nowhere_need_no_buffer_for_others() -> None:
    """Where a direct link carries all, the switch beside it is never used, and nothing follows its links."""
    quantity = {"source": "a test", "evidence": "assumed"}
    tables = one_rack("nvl72").model_dump(exclude_none=True)
    link = tables["link"]["gpu-nvswitch"]
    tables["topology"] = {
        "kind": "links",
        "terminals": {"value": 2, **quantity},
        "links": [["gpu0", "gpu1"], ["gpu0", "sw.0"], ["gpu1", "sw.0"]],
    }
    tables["link"] = {"gpu-gpu": link, "gpu-sw": link}
    del tables["tier"]
    assert list(network_warnings(FabricSpec(**tables).network())) == []
