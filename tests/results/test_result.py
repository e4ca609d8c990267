from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from fabricsim.engine.driver import run_schedule
from fabricsim.engine.work import PARTS
from fabricsim.fabrics.network import Endpoint
from fabricsim.results.attribution import KEYS
from fabricsim.results.result import Result
from fabricsim.workloads.schedule import Operation, Schedule
from tests.oracle.cases import MessageDraft, OperationDraft, TaskDraft, build_schedule
from tests.results.small import crossbar, finished, linear, mesh, one_operation


def run(network: object, schedule: Schedule) -> Result:
    """Simulate with rank r at terminal r."""
    return finished(
        network, schedule, run_schedule(network, schedule, terminal_of_rank=linear(schedule), kernel="python")
    )


@pytest.fixture(scope="module")
def flow() -> Result:
    """250 B from rank 0 to rank 1 of four: ends at 7,610 ps (tests/results/test_bounds.py)."""
    return run(crossbar(), one_operation((0, 1, 250)))


def test_ops_are_an_arrow_table(flow: Result) -> None:
    """One row per operation with units in the names; other libraries can take it over."""
    (row,) = flow.ops.to_pylist()
    assert sum(row.pop(f"{part}_ps") for part in PARTS) == 2_610
    assert row == {
        "operation": 0,
        "name": "operation0",
        "op": "all_to_all_v",
        "algorithm": "direct",
        "ranks": 4,
        "size_bytes": 250,
        "begin_ps": 0,
        "end_ps": 7_610,
        "time_ps": 7_610,
        "algbw_GBps": pytest.approx(250 / 7.61),
        "busbw_GBps": pytest.approx(250 / 7.61 * 3 / 4),
        "lower_bound_ps": 7_610,
        "efficiency": 1.0,
        "recorded_ps": None,
        "launch_ps": 5_000,
        "compute_gap_ps": 0,
        "dependency_wait_ps": 0,
    }
    assert pa.RecordBatchReader.from_stream(flow.ops).read_all() == flow.ops


def test_tasks_and_messages_are_arrow_tables(flow: Result) -> None:
    """Rank 0 has sent its 310 wire bytes at 5,610 ps; ranks 2 and 3 have nothing to do after their launch."""
    assert flow.tasks.to_pydict() == {
        "operation": [0, 0, 0, 0],
        "rank": [0, 1, 2, 3],
        "stream": [0, 0, 0, 0],
        "begin_ps": [0, 0, 0, 0],
        "end_ps": [5_610, 7_610, 5_000, 5_000],
    }
    assert flow.messages.to_pylist() == [
        {
            "operation": 0,
            "index": 0,
            "source_rank": 0,
            "target_rank": 1,
            "size_bytes": 250,
            "ready_ps": 5_000,
            "first_injection_ps": 5_300,
            "complete_ps": 7_610,
        }
    ]


def test_channels_are_an_arrow_table(flow: Result) -> None:
    """The flow crosses one channel up and one down, each busy for 310 of 7,610 ps."""
    used = [row for row in flow.channels.to_pylist() if row["packets"]]
    assert [(row["source"], row["target"], row["channel_class"]) for row in used] == [
        ("gpu0", "switch.0.0", "gpu-switch"),
        ("switch.0.0", "gpu1", "switch-gpu"),
    ]
    for row in used:
        assert (row["bandwidth_GBps"], row["latency_ps"], row["buffer_bytes"]) == (1_000.0, 1_000, 12_000)
        assert (row["busy_ps"], row["wire_bytes"], row["packets"], row["credit_stall_ps"]) == (310, 310, 3, 0)
        assert row["utilization"] == 310 / 7_610


def test_latencies_are_those_of_messages_and_packets(flow: Result) -> None:
    """The message takes 2,610 ps from ready; packets of 120, 120 and 70 wire bytes take 2,000 ps more than that."""
    assert (flow.message_latency.p50, flow.message_latency.max) == (2_610e-6, 2_610e-6)
    assert flow.packet_latency.max == 2_120e-6
    assert flow.packet_latency.mean == pytest.approx((2_120 + 2_120 + 2_070) / 3 * 1e-6)


def test_messages_without_packets_have_no_latency() -> None:
    """An empty and an own message are not among the latencies; an operation that moves nothing has no bandwidth."""
    result = run(crossbar(), one_operation((0, 1, 0), (2, 2, 100)))
    assert result.message_latency.mean is None
    assert result.summary()["latency_us"]["packet"]["p50"] is None
    assert result.summary()["utilization"]["gpu-switch"] == {"mean": 0.0, "p99": 0.0, "max": 0.0}


def test_utilization_is_by_channel_class(flow: Result) -> None:
    """One of four channels of each class is busy for 310 of 7,610 ps."""
    assert list(flow.utilization) == ["gpu-switch", "switch-gpu"]
    for used in flow.utilization.values():
        assert used.mean == pytest.approx(310 / 7_610 / 4)
        assert used.max == used.p99 == 310 / 7_610


def test_time_counts_from_the_last_arrival() -> None:
    """Ranks begin at 0 and 9,000 ps; the late one sends, so the operation takes launch, overhead and flight again."""
    draft = OperationDraft([TaskDraft(0), TaskDraft(1, not_before_ps=9_000)], [MessageDraft(1, 0, 100)])
    (row,) = run(crossbar(2), build_schedule(2, [draft])).ops.to_pylist()
    assert (row["begin_ps"], row["end_ps"]) == (9_000, 9_000 + 5_300 + 2_000 + 120)
    assert row["time_ps"] == row["lower_bound_ps"] == 7_420


def test_a_computation_takes_its_gap() -> None:
    """A compute task of 4,000 ps after a begin at 1,000 ps: its operation takes 4,000 ps."""
    schedule = build_schedule(1, [OperationDraft([TaskDraft(0, gap_ps=4_000, not_before_ps=1_000, launches=False)])])
    compute = Operation(name="gemm", op="compute", algorithm="", ranks=(0,), size_bytes=0, recorded_ps=3_000)
    schedule = Schedule(1, (compute,), schedule.tasks, schedule.messages)
    (row,) = run(crossbar(2), schedule).ops.to_pylist()
    assert (row["begin_ps"], row["end_ps"], row["time_ps"]) == (1_000, 5_000, 4_000)
    assert (row["lower_bound_ps"], row["recorded_ps"], row["algbw_GBps"]) == (4_000, 3_000, None)


def test_an_operation_of_no_time_has_no_efficiency() -> None:
    """Without launch latency an operation that moves nothing ends as it begins, and divides nothing."""
    network = crossbar(2, endpoint=Endpoint(launch_latency_ps=0, message_overhead_ps=0, slots=1))
    (row,) = run(network, one_operation(ranks=2)).ops.to_pylist()
    assert (row["time_ps"], row["efficiency"], row["algbw_GBps"]) == (0, None, None)


def test_summary_has_every_field_of_its_schema(flow: Result) -> None:
    """The fields of fabricsim.result/1 are there, in JSON, and say what ran."""
    summary = json.loads(json.dumps(flow.summary(command="fabricsim run"), allow_nan=False))
    assert summary["schema"] == "fabricsim.result/1"
    assert set(summary) >= {
        *("schema", "fabricsim_version", "versions", "command", "kernel", "threads", "folded", "seed", "digest"),
        *("fabric", "workload", "simulated_time_ps", "wall_s", "packets", "packet_hops", "packet_hops_simulated"),
        *("packet_hops_per_s", "ops", "latency_us", "utilization"),
    }
    assert set(summary["versions"]) >= {"python", "numpy", "numba"}
    assert set(summary["fabric"]) >= {"name", "terminals", "channels", "spec_sha256", "overrides"}
    (op,) = summary["ops"]
    assert set(op) == {
        *("name", "op", "ranks", "size_bytes", "algorithm", "time_us", "algbw_GBps", "busbw_GBps"),
        *("lower_bound_us", "efficiency", "recorded_us", "attribution_us"),
    }
    assert list(op["attribution_us"]) == list(summary["attribution"]["ps"]) == list(KEYS)
    assert sum(summary["attribution"]["ps"].values()) == 7_610
    assert sum(summary["attribution"]["percent"].values()) == pytest.approx(100)
    assert summary["bottleneck"]["cause"] == "launch"
    hottest = summary["hottest_channels"]
    assert [(row["channel"], row["busy_ps"]) for row in hottest] == [("gpu0-switch.0.0", 310), ("switch.0.0-gpu1", 310)]
    assert [row["flows"] for row in hottest] == [[{"source_rank": 0, "target_rank": 1, "bytes": 250}]] * 2
    for latencies in (summary["latency_us"]["message"], summary["latency_us"]["packet"]):
        assert set(latencies) == {"p50", "p90", "p99", "p999", "max", "mean"}
    assert set(summary["utilization"]["gpu-switch"]) == {"mean", "p99", "max"}
    assert (summary["command"], summary["kernel"], summary["folded"], summary["threads"]) == (
        *("fabricsim run", "python", False, 1),
    )
    assert (op["time_us"], op["lower_bound_us"], summary["simulated_time_ps"]) == (7_610e-6, 7_610e-6, 7_610)
    assert (summary["packets"], summary["packet_hops"], summary["packet_hops_simulated"]) == (3, 6, 6)
    assert summary["packet_hops_per_s"] > 0


def test_summary_says_how_packets_were_routed(flow: Result) -> None:
    """A route without choice has no routing; the mesh is one."""
    assert flow.summary()["fabric"]["routing"] is None
    assert run(mesh(), one_operation((0, 1, 100))).routing is None


def test_same_seed_same_digest(flow: Result) -> None:
    """The digest is a property of the times alone."""
    again = run(crossbar(), one_operation((0, 1, 250)))
    other = run(crossbar(), one_operation((0, 1, 251)))
    assert again.digest == flow.digest
    assert other.digest != flow.digest


def test_repr_says_what_ran(flow: Result) -> None:
    """A result at the prompt is one line."""
    assert repr(flow) == "<Result of 1 operation over 4 ranks on crossbar: 0.008 us>"


def test_terminals_follow_the_placement(flow: Result) -> None:
    """The placement that ran is part of the result."""
    assert np.array_equal(flow.terminal_of_rank, [0, 1, 2, 3])
