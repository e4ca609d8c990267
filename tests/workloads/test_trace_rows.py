from __future__ import annotations

import re

import numpy as np
import pytest

from fabricsim.errors import TraceError
from fabricsim.workloads.trace import Trace, check, trace_from_rows
from tests.workloads.trace_cases import PAIR, all_reduce, all_to_all_v, compute, pair_trace


def test_rows_are_sorted_by_start_and_rank():
    """Rows that start at one time stand by rank, and those of one rank as they were given."""
    rows = [
        compute(1, t_start_ns=5, name="d"),
        compute(0, t_start_ns=9, name="e"),
        compute(0, t_start_ns=5, name="b"),
        compute(0, t_start_ns=5, name="c"),
        compute(1, t_start_ns=0, name="a"),
    ]
    columns = pair_trace(rows).columns()
    assert [columns.names[code] for code in columns.name] == ["a", "b", "c", "d", "e"]
    assert columns.op_id.tolist() == [0, 1, 2, 3, 4]


def test_rows_without_all_starts_keep_their_order():
    """One missing start time and the issue order is all that is known."""
    columns = pair_trace([compute(1, t_start_ns=5), compute(0)]).columns()
    assert columns.rank.tolist() == [1, 0]


def test_given_numbers_are_kept():
    """op_id is what deps point at, so it stays with its row when rows are sorted."""
    rows = [compute(0, op_id=7, t_start_ns=9, deps=[3]), compute(0, op_id=3, t_start_ns=2, deps=[])]
    trace = pair_trace(rows)
    assert trace.columns().op_id.tolist() == [3, 7]
    assert check(trace).local_operations == 2


def test_only_recorded_columns_are_there():
    """A column without any value is absent, as is one whose values are all None."""
    trace = pair_trace(all_reduce(root=None, tag=None, name="x"))
    assert trace.column_names == ("op_id", "rank", "group_id", "group_seq", "op", "send_bytes", "recv_bytes", "name")


def test_lists_may_be_numpy_arrays():
    """Generators hand over arrays; they mean the same as lists."""
    rows = all_to_all_v([[1, 2], [3, 4]])
    arrays = [{**row, "send_bytes_per_peer": np.array(row["send_bytes_per_peer"])} for row in rows]
    assert pair_trace(arrays).table().equals(pair_trace(rows).table())


def test_the_given_rows_are_left_alone():
    """A caller's mappings are read, not written."""
    rows = all_reduce()
    pair_trace(rows)
    assert "op_id" not in rows[0]


def test_no_rows_make_an_empty_trace():
    """An importer that found nothing gets a trace of no rows, which check refuses."""
    trace = trace_from_rows([], world_size=2, groups=PAIR)
    assert trace.num_rows == 0
    assert list(trace.columns().op) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"rnk": 0}], "row 0: unknown column rnk (did you mean 'rank'?)"),
        ([*all_reduce(), {"rank": 0, "op": "wait"}], "row 2: no group_id, send_bytes, recv_bytes; every row needs"),
        ([compute(0), compute(0, op_id=3)], "row 0: no op_id"),
        ([compute(0), compute(0, deps=[0])], "row 1, column deps: it names op_ids, but no row has one"),
        ([compute(0), compute(0, t_end_ns="noon")], "row 1, column t_end_ns: "),
        ([compute(0), compute(2**31)], "row 1, column rank: "),
        ([compute(0), compute(1, gap_ns=1.5)], "row 1, column gap_ns: 'float' object"),
        ([{**row, "send_bytes_per_peer": [512, 512.0]} for row in all_reduce()], "row 0, column send_bytes_per_peer: "),
        (
            [{**row, "recv_bytes_per_peer": np.ones(2)} for row in all_reduce()],
            "row 0, column recv_bytes_per_peer: an array of float64; it must hold list<item: int64 not null>",
        ),
    ],
)
def test_faulty_rows_are_named(rows, message):
    """The row number counts the rows as given."""
    with pytest.raises(TraceError, match="^" + re.escape(message)):
        pair_trace(rows)


@pytest.mark.parametrize(
    ("world_size", "groups", "message"),
    [
        (0, PAIR, "fabricsim.world_size is 0"),
        (2, [], "fabricsim.groups is empty"),
        (2, [{"id": 0, "ranks": [0, 5]}], "groups: entry 0: ranks must be whole numbers in 0..1"),
    ],
)
def test_faulty_metadata_is_refused_at_once(world_size, groups, message):
    """A trace that could not be opened again is not made."""
    with pytest.raises(TraceError, match=re.escape(message)):
        trace_from_rows(all_reduce(), world_size=world_size, groups=groups)


def test_a_written_trace_needs_no_arguments(tmp_path):
    """All that trace_from_rows was told stands in the file."""
    trace = pair_trace(all_reduce(), source={"format": "test"}, placement=np.array([1, 0]))
    trace.write(tmp_path / "x.arrow")
    assert Trace.open(tmp_path / "x.arrow").metadata == trace.metadata
    assert trace.metadata.placement == (1, 0)
