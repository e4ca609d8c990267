from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from fabricsim.engine.launch import launch_latencies_ps, launch_latency_ps
from fabricsim.errors import ConfigError
from fabricsim.fabrics import fabric_names, load_fabric
from fabricsim.fabrics.network import Endpoint, Protocol
from fabricsim.workloads.collectives import collective
from fabricsim.workloads.schedule import Operation
from fabricsim.workloads.transfers import fan

PLAIN = Protocol(operations=("all_gather", "all_reduce"), least_part_bytes=0, launch_latency_ps=100)
ENDPOINT = Endpoint(7, 0, slots=1, copy_ps_per_byte=Fraction(2), protocols=(PLAIN,))


def operation(op: str, size_bytes: int = 1000, ranks: int = 4, name: str = "", descriptors: int = 0) -> Operation:
    """An operation of which only what counts is told."""
    return Operation(name or op, op, "direct", tuple(range(ranks)), size_bytes, descriptors=descriptors)


def test_an_operation_that_no_protocol_is_for_has_the_launch_latency() -> None:
    """7 ps of the terminal, not the 100 ps of the protocol."""
    assert launch_latency_ps(ENDPOINT, operation("broadcast")) == 7
    assert launch_latency_ps(ENDPOINT, operation("all_gather")) == 100


@pytest.mark.parametrize(
    ("more", "of_gather", "of_reduce"),
    [
        ({"step_latency_ps": 10}, 3 * 10, 6 * 10),
        ({"staging_ps_per_byte": Fraction(1, 7)}, 108, 215),  # ceil(750 / 7), ceil(1500 / 7)
        ({"part_ps_per_byte": Fraction(3)}, 750, 750),
        ({"piece_overhead_ps": 5}, 200, 200),  # 2 isqrt(5 * 2000)
        ({"descriptor_latency_ps": 4}, 4 * 900, 4 * 900),
        ({"descriptor_gap_ps": 3}, 900 * 3 - 1500, 0),  # 750 B at 2 ps hide 1500 ps, 1500 B more than all
    ],
)
def test_each_parameter_adds_its_term(more: dict[str, Fraction], of_gather: int, of_reduce: int) -> None:
    """1000 B and 900 descriptors over 4 ranks: parts of 250 B; an all_reduce goes around twice."""
    endpoint = replace(ENDPOINT, protocols=(replace(PLAIN, **more),))
    assert launch_latency_ps(endpoint, operation("all_gather", descriptors=900)) == 100 + of_gather
    assert launch_latency_ps(endpoint, operation("all_reduce", descriptors=900)) == 100 + of_reduce


def test_the_protocol_with_the_largest_part_counts() -> None:
    """From 250 B a part on the bulk protocol, below the other; the order in the file does not matter."""
    bulk = replace(PLAIN, least_part_bytes=250, launch_latency_ps=500)
    for protocols in ((PLAIN, bulk), (bulk, PLAIN)):
        endpoint = replace(ENDPOINT, protocols=protocols)
        assert launch_latency_ps(endpoint, operation("all_gather", 1000)) == 500
        assert launch_latency_ps(endpoint, operation("all_gather", 999)) == 100


def test_a_name_goes_before_the_kind_of_operation() -> None:
    """A trace's all_to_all_v with the name moe_dispatch takes that protocol."""
    moe = replace(PLAIN, operations=("moe_dispatch",), launch_latency_ps=300)
    exchange = replace(PLAIN, operations=("all_to_all_v",), launch_latency_ps=200)
    endpoint = replace(ENDPOINT, protocols=(exchange, moe))
    assert launch_latency_ps(endpoint, operation("all_to_all_v", name="moe_dispatch")) == 300
    assert launch_latency_ps(endpoint, operation("all_to_all_v", name="shuffle")) == 200


def test_only_launched_tasks_have_a_launch_latency() -> None:
    """A copy that a benchmark times on the device has none."""
    assert launch_latencies_ps(ENDPOINT, collective("all_gather", size=1024, ranks=3)).tolist() == [100] * 3
    assert not launch_latencies_ps(ENDPOINT, fan(3, 1000, into_root=True)).any()


def test_a_protocol_for_no_operation_is_refused() -> None:
    """The nearest operation is named."""
    endpoint = replace(ENDPOINT, protocols=(replace(PLAIN, operations=("all_gatter",)),))
    with pytest.raises(ConfigError, match="unknown operation 'all_gatter' \\(did you mean 'all_gather'"):
        launch_latencies_ps(endpoint, collective("broadcast", size=1024, ranks=2))


def test_a_latency_beyond_counting_is_refused() -> None:
    """It would wrap in 64 bits."""
    endpoint = replace(ENDPOINT, protocols=(replace(PLAIN, part_ps_per_byte=Fraction(10**6)),))
    with pytest.raises(ConfigError, match=r"all_gather of .* is beyond what is counted"):
        launch_latency_ps(endpoint, operation("all_gather", 2**62))


@pytest.mark.parametrize("name", fabric_names())
def test_the_catalog_s_protocols_are_for_operations_that_there_are(name: str) -> None:
    """And a larger size never starts earlier under one and the same protocol."""
    endpoint = load_fabric(name).network().endpoint
    assert launch_latencies_ps(endpoint, collective("all_gather", size=1024, ranks=2)).all()
    for protocol in endpoint.protocols:
        alone = replace(endpoint, protocols=(replace(protocol, least_part_bytes=0, descriptor_gap_ps=0),))
        times_ps = [launch_latency_ps(alone, operation(protocol.operations[0], 2**k)) for k in range(4, 34)]
        assert (np.diff(times_ps) >= 0).all()
