"""What a run gives block by block is what it gives as a whole, in memory for what is active."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabricsim.errors import ConfigError, TraceError
from fabricsim.fabrics import FabricSpec
from fabricsim.results import digest, spool
from fabricsim.results.collected import BusyTime
from fabricsim.results.run import Workload, replay, simulate
from fabricsim.results.spool import Spool
from fabricsim.workloads import trace_file
from fabricsim.workloads.replay import MODES, Mode, schedule_blocks
from fabricsim.workloads.schedule import ScheduleBlocks
from fabricsim.workloads.trace import Clock, trace_from_rows
from tests.results.small import tiny_fabric
from tests.workloads.joined import joined
from tests.workloads.trace_cases import random_trace, write_long_trace


@pytest.fixture(scope="module")
def fabric() -> FabricSpec:
    """A small fabric."""
    return tiny_fabric()


def peak_bytes(path: Path, fabric: FabricSpec) -> int:
    """Measure what a replay and its figures take at most, files left out."""
    tracemalloc.start()
    try:
        result = replay(path, fabric)
        assert result.message_latency.mean
        assert result.in_flight_ps
        assert sum(1 for _ in result.op_rows()) == result.num_operations
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compute_stream", [1, 2])
def test_memory_does_not_grow_with_the_trace(
    tmp_path: Path, fabric: FabricSpec, compute_stream: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times the operations take less than 1.2 times the memory, also where computation is far ahead."""
    monkeypatch.setattr(trace_file, "PIECE_ROWS", 512)
    monkeypatch.setattr(spool, "MEMORY_BYTES", 1 << 12)
    monkeypatch.setattr(digest, "BLOCK_ROWS", 1 << 10)
    for num_operations in (100, 900, 3_600):
        write_long_trace(
            tmp_path / f"{num_operations}.arrow", num_operations, num_ranks=4, compute_stream=compute_stream
        )
    peak_bytes(tmp_path / "100.arrow", fabric)  # what is imported or cached once does not count
    assert peak_bytes(tmp_path / "3600.arrow", fabric) < 1.2 * peak_bytes(tmp_path / "900.arrow", fabric)


def outcome(blocks: ScheduleBlocks, fabric: FabricSpec) -> list[object]:
    """All figures and tables of a replay."""
    result = simulate(fabric, Workload(blocks, {"kind": "trace"}))
    tables = (result.ops, result.tasks, result.messages, result.channels)
    figures = (
        result.digest,
        result.collected.critical_path,
        result.collected.moving_ps,
        result.collected.work_ps,
        result.in_flight_ps,
        result.message_latency,
        result.packet_latency,
        result.routing,
    )
    return [*figures, result.info.folding, *(table.to_pydict() for table in tables)]


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from(MODES), st.sampled_from([1, 2, 7]))
def test_blocks_give_the_result_of_the_whole_trace(seed: int, mode: Mode, max_operations: int) -> None:
    """Any trace in blocks of 1, 2 and 7 operations: digest, figures and tables."""
    trace, fabric = random_trace(Random(seed)), tiny_fabric()
    try:
        whole = joined(schedule_blocks(trace, mode))
    except (ConfigError, TraceError):
        return
    expected = outcome(ScheduleBlocks.of(whole), fabric)
    assert outcome(schedule_blocks(trace, mode, max_operations=max_operations), fabric) == expected


def test_a_computation_is_its_gap_in_the_table_of_tasks(fabric: FabricSpec) -> None:
    """Of two ranks that compute and then exchange 64 B: begin to end of the one is the gap, the other begins after."""
    rows = [
        {"op": op, "rank": rank, "group_id": 0, "send_bytes": size, "recv_bytes": size,
         "t_start_ns": begin_ns, "t_end_ns": begin_ns + 3_000, "stream": 0, **more}
        for rank in range(2)
        for op, size, begin_ns, more in (("compute", 0, 0, {}), ("all_reduce", 64, 4_000, {"group_seq": 0}))
    ]  # fmt: skip
    trace = trace_from_rows(
        rows,
        world_size=2,
        groups=[{"id": 0, "name": "world", "desc": "", "ranks": [0, 1]}],
        clock=Clock(aligned=True, max_skew_ns=None),
        source={"format": "test"},
    )
    result = replay(trace, fabric)
    ops = {row["operation"]: row for row in result.ops.to_pylist()}
    tasks = [(ops[row["operation"]], row) for row in result.tasks.to_pylist()]
    computed = [(op, row) for op, row in tasks if op["op"] == "compute"]
    assert [row["end_ps"] - row["begin_ps"] for _, row in computed] == [3_000_000] * 2
    assert all((op["begin_ps"], op["end_ps"]) == (row["begin_ps"], row["end_ps"]) for op, row in computed)
    (reduce_ps,) = {row["begin_ps"] for op, row in tasks if op["op"] == "all_reduce"}
    assert reduce_ps > 3_000_000


def test_a_spool_is_read_in_the_order_of_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory and in a file: columns or batches block by block, and all as a table, also where blocks interlock."""
    for memory_bytes in (0, 1 << 20):
        monkeypatch.setattr(spool, "MEMORY_BYTES", memory_bytes)
        rows = Spool({"number": "i4", "time_ps": "i8"})
        assert rows.table().num_rows == 0
        assert pa.Table.from_batches(rows.batches()) == rows.table()
        rows.append([np.array([7, 8]), np.array([70, 80])])
        rows.append([np.empty(0, np.int64)] * 2)
        rows.append([np.array([3]), np.array([1 << 40])])
        assert [[part.tolist() for part in block] for block in rows.blocks("time_ps")] == [[[1 << 40]], [[70, 80]]]
        rows.append([np.array([9, 11, 11]), np.array([90, 110, 111])])
        rows.append([np.array([10, 12]), np.array([100, 120])])
        expected = {3: [1 << 40], 7: [70], 8: [80], 9: [90], 10: [100], 11: [110, 111], 12: [120]}
        assert rows.table() == pa.table(
            {
                "number": pa.array([number for number, times in expected.items() for _ in times], pa.int32()),
                "time_ps": pa.array([time for times in expected.values() for time in times]),
            }
        )
        assert pa.Table.from_batches(rows.batches()) == rows.table()


def test_busy_time_is_that_of_the_union() -> None:
    """Intervals that overlap or touch count once, in whatever order and blocks they come."""
    generator = np.random.default_rng(3)
    begin_ps = generator.integers(0, 1_000, 200)
    end_ps = begin_ps + generator.integers(0, 9, 200)
    busy = BusyTime()
    for part in np.array_split(np.arange(200), 7):
        busy.add(begin_ps[part], end_ps[part])
    covered = np.zeros(1_100, np.bool_)
    for begin, end in zip(begin_ps, end_ps, strict=True):
        covered[begin:end] = True
    assert busy.total_ps() == covered.sum()
