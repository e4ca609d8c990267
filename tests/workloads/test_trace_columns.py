from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest

from fabricsim.errors import TraceError
from fabricsim.workloads.trace import NULL_NS, OP_NAMES, Trace, check, summary
from tests.workloads.trace_cases import (
    PAIR,
    all_reduce,
    all_to_all_v,
    collective,
    compute,
    pair_trace,
    transfer,
    with_column,
)


def test_nulls_and_absent_columns_read_alike():
    """Null is the value that TraceColumns promises, whether the column is absent or holds nulls."""
    absent = pair_trace(all_reduce()).columns()
    rows = [
        *all_reduce(),
        {**compute(0), "root": 1, "peer": 1, "tag": 5, "stream": 7, "batch_id": 4, "dtype": "a", "name": "b"}
        | {"t_start_ns": 1, "t_end_ns": 2, "duration_ns": 3, "gap_ns": 4, "deps": [0], "algorithm": "Ring", "op_id": 9},
    ]
    rows = [{"op_id": i} | row for i, row in enumerate(rows)]
    given = pair_trace(rows).columns()
    for name in ("root", "peer", "tag", "batch_id", "dtype", "algorithm", "name"):
        assert getattr(absent, name).tolist() == getattr(given, name)[:2].tolist() == [-1, -1], name
    for name in ("t_start_ns", "t_end_ns", "duration_ns", "gap_ns"):
        assert getattr(absent, name).tolist() == getattr(given, name)[:2].tolist() == [NULL_NS, NULL_NS], name
    assert absent.stream.tolist() == given.stream[:2].tolist() == [0, 0]
    assert given.group_seq.tolist() == [0, 0, -1]
    assert given.deps_recorded.tolist() == [False, False, True]
    assert given.deps_first.tolist() == [0, 0, 0, 1]
    assert (given.stream[2], given.gap_ns[2], given.tag[2], given.deps[0]) == (7, 4, 5, 0)
    assert (given.dtypes, given.algorithms, given.names) == (("a",), ("Ring",), ("b",))


def test_types_are_as_declared():
    """The arrays have the widths that a kernel can rely on."""
    columns = pair_trace(all_to_all_v([[1, 2], [3, 4]])).columns()
    widths = {
        name: str(getattr(columns, name).dtype) for name in ("op_id", "rank", "op", "send_splits", "root", "dtype")
    }
    assert widths == {
        "op_id": "int64",
        "rank": "int32",
        "op": "uint8",
        "send_splits": "int64",
        "root": "int32",
        "dtype": "int32",
    }


def test_no_dependencies_is_not_unrecorded_dependencies():
    """[] and null are told apart."""
    rows = [{**compute(0), "deps": []}, compute(0)]
    assert pair_trace(rows).columns().deps_recorded.tolist() == [True, False]


def test_lists_of_a_sliced_table_are_its_own():
    """A slice starts inside the buffers of its lists; the values before it must not show."""
    rows = [row for seq in range(3) for row in all_to_all_v([[seq, 10], [20, 30]], seq)]
    table = pair_trace(rows).table()
    columns = Trace.from_table(table.slice(2, 2)).columns()
    assert columns.send_splits_first.tolist() == [0, 2, 4]
    assert columns.send_splits.tolist() == [1, 10, 20, 30]
    assert columns.recv_splits.tolist() == [1, 20, 10, 30]


def test_what_lies_behind_a_null_list_is_not_read():
    """Arrow lets a null list own values; they are not part of the trace."""
    trace = pair_trace([*all_to_all_v([[1, 2], [3, 4]]), *all_reduce(1)])
    lists = pa.ListArray.from_arrays(
        pa.array([0, 2, 4, 6, 6]), pa.array([1, 2, 3, 4, 8, 9]), mask=pa.array([False, False, True, True])
    )
    columns = Trace.from_table(with_column(trace, "send_bytes_per_peer", lists)).columns()
    assert columns.send_splits_first.tolist() == [0, 2, 4, 4, 4]
    assert columns.send_splits.tolist() == [1, 2, 3, 4]


def test_batches_may_number_words_differently():
    """Codes are mapped batch by batch, so that one word has one code in the whole trace."""
    trace = pair_trace([*all_reduce(0, name="a"), *all_reduce(1, name="b"), *collective("barrier", [(0, 0)] * 2, 2)])
    table = trace.table()
    for column, words in (("name", [["a", "a"], ["b", "b"], [None, None]]), ("op", [[4, 4]] * 3)):
        place = table.schema.names.index(column)
        if column == "op":
            pieces = [table.column("op").slice(2 * i, 2).combine_chunks().dictionary_decode() for i in range(3)]
        else:
            pieces = [pa.array(piece, pa.utf8()) for piece in words]
        chunks = pa.chunked_array([piece.dictionary_encode() for piece in pieces])
        table = table.set_column(place, column, chunks)
    read = Trace.from_table(table)
    assert len(list(read.batches())) == 3
    columns = read.columns()
    assert [OP_NAMES[code] for code in columns.op] == ["all_reduce"] * 4 + ["barrier"] * 2
    assert columns.name.tolist() == [0, 0, 1, 1, -1, -1]
    assert columns.names == ("a", "b")


def test_a_null_word_of_a_dictionary_is_a_null():
    """Arrow lets the dictionary itself hold a null, which no null count shows."""
    words = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array(["all_reduce", None]))
    table = with_column(pair_trace(all_reduce()), "op", pa.chunked_array([words]))
    with pytest.raises(TraceError, match="column op: null in a required column"):
        Trace.from_table(table).columns()


def test_unused_words_of_a_dictionary_do_no_harm():
    """A filtered table keeps words that no row uses, known or not."""
    words = pa.DictionaryArray.from_arrays(pa.array([1, 1], pa.int8()), pa.array(["teleport", "all_reduce"]))
    trace = Trace.from_table(with_column(pair_trace(all_reduce()), "op", pa.chunked_array([words])))
    assert check(trace).collectives == 1


OTHER_TYPES = {
    "op_id": pa.uint16(),
    "rank": pa.int64(),
    "group_seq": pa.int8(),
    "op": pa.string_view(),
    "send_bytes": pa.uint64(),
    "recv_bytes": pa.int32(),
    "send_bytes_per_peer": pa.large_list(pa.int32()),
    "recv_bytes_per_peer": pa.list_(pa.int64(), 2),
    "dtype": pa.dictionary(pa.uint8(), pa.large_string()),
    "name": pa.large_string(),
    "source_ref": pa.string_view(),
    "algorithm": pa.null(),
}


def test_other_libraries_types_are_read():
    """Other widths, views, large and fixed-size lists, plain text and key-value lists mean the same rows."""
    rows = all_to_all_v([[1, 2], [3, 4]])
    for row in rows:
        row |= {"dtype": "uint8", "name": "x", "source_ref": "a:1", "annotations": {"k": "v"}}
    rows[1]["annotations"] = None
    trace = pair_trace(rows)
    columns = {}
    for name, column in zip(trace.column_names, trace.table().columns, strict=True):
        kind = OTHER_TYPES.get(name, column.type)
        if pa.types.is_string_view(kind) or pa.types.is_large_string(kind):
            columns[name] = column.cast(pa.utf8()).cast(kind)
        elif name == "annotations":
            pair = pa.struct([("key", pa.string_view()), ("value", pa.large_string())])
            columns[name] = pa.array([[{"key": "k", "value": "v"}], None], pa.large_list(pair))
        else:
            columns[name] = pa.array(column.to_pylist(), kind)
    columns["algorithm"] = pa.nulls(2)
    table = pa.table(columns).replace_schema_metadata(trace.schema.metadata)
    assert {table.schema.field(name).type for name in OTHER_TYPES} == set(OTHER_TYPES.values())
    read = Trace.from_table(table)
    assert read.table().drop_columns(["algorithm"]).equals(trace.table())
    assert read.table().column("algorithm").null_count == 2
    check(read)


def test_a_column_of_nothing_is_an_absent_one():
    """A library that infers types gives the null type to a column without values."""
    trace = pair_trace(all_reduce())
    columns = {"annotations": pa.nulls(2), "deps": pa.nulls(2), "in_place": pa.nulls(2), "root": pa.nulls(2)}
    table = trace.table()
    for name, column in columns.items():
        table = table.append_column(name, column)
    assert check(Trace.from_table(table)).collectives == 1
    assert set(summary(Trace.from_table(table))["recorded"]) == {"group_seq"}


@pytest.mark.parametrize(
    "column",
    [pa.array([[1], [2]]), pa.array([{"key": "a"}] * 2), pa.array([[{"k": "a", "v": "b"}]] * 2), pa.array(["a", "b"])],
)
def test_annotations_of_another_shape_are_refused(column):
    """Only maps of text, or lists of {key, value}, are annotations."""
    with pytest.raises(TraceError, match=r"column annotations has type .*; it must be map<string, string>"):
        Trace.from_table(pair_trace(all_reduce()).table().append_column("annotations", column))


def pair_of_rows(**changes: list[object]) -> Trace:
    """Two sound rows with some columns replaced."""
    trace = pair_trace(all_to_all_v([[1, 2], [3, 4]]))
    table = trace.table()
    for name, values in changes.items():
        array = pa.array(values)
        place = table.schema.names.index(name) if name in table.schema.names else None
        if place is None:
            table = table.append_column(name, array)
        else:
            table = table.set_column(place, name, array)
    return Trace.from_table(table)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"send_bytes": [3, None]}, "row 1 (batch 0, row 1 of it), column send_bytes: null in a required column"),
        ({"send_bytes": [3, -7]}, "column send_bytes: -7 is below 0; a size counts from 0"),
        ({"rank": [0, -1]}, "column rank: -1 is below 0"),
        ({"root": [0, -1]}, "column root: -1 is below 0; what was not recorded is null, never a stand-in"),
        ({"op": ["all_to_all_v", "all_to_al"]}, "unknown word 'all_to_al' (did you mean 'all_to_all'?)"),
        ({"timing_source": ["device_kernel", "sundial"]}, "column timing_source: unknown word 'sundial'"),
        ({"rank": [0, 2**40]}, f"row 1 (batch 0, row 1 of it), column rank: {2**40} does not fit int32"),
        ({"send_bytes_per_peer": [[1, 2], [3, -4]]}, "row 1 (batch 0, row 1 of it), column send_bytes_per_peer"),
        (
            {"annotations": [[{"key": "a", "value": "b"}], [{"key": None, "value": "c"}]]},
            "batch 0, column annotations: ",
        ),
        ({"send_bytes_per_peer": [[1, 2], [3, None]]}, "the list [3, None] holds a null; give every entry"),
        (
            {"send_bytes_per_peer": pa.array([[1, 2], [3, 2**63]], pa.list_(pa.uint64()))},
            "batch 0, column send_bytes_per_peer: ",
        ),
    ],
)
def test_values_that_no_row_may_have(changes, message):
    """Each is refused before any kernel sees it, with its place and the remedy."""
    with pytest.raises(TraceError, match=re.escape(message)) as caught:
        pair_of_rows(**changes).columns()
    assert caught.value.exit_code == 3
    with pytest.raises(TraceError, match=re.escape(message)):
        check(pair_of_rows(**changes))


def test_rows_of_later_batches_are_numbered_in_file_and_batch(tmp_path):
    """A fault is found by its row in the file and by its batch."""
    table = pair_trace([row for seq in range(3) for row in all_reduce(seq)]).table()
    place = table.schema.names.index("recv_bytes")
    table = table.set_column(place, "recv_bytes", pa.array([1024, 1024, 1024, 1024, 1024, -9]))
    with pa.ipc.new_file(tmp_path / "x.arrow", table.schema) as writer:
        for start in (0, 2, 4):
            writer.write_table(table.slice(start, 2))
    message = "x.arrow: row 5 (batch 2, row 1 of it), column recv_bytes: -9 is below 0"
    for read in (check, Trace.columns):
        with pytest.raises(TraceError, match=re.escape(message)):
            read(Trace.open(tmp_path / "x.arrow"))


def test_send_and_recv_rows_have_their_peer():
    """The peer of a transfer is a global rank, its group_seq null."""
    columns = pair_trace([transfer("send", 0, 1, tag=3), transfer("recv", 1, 0, tag=3)]).columns()
    assert columns.peer.tolist() == [1, 0]
    assert columns.tag.tolist() == [3, 3]
    assert columns.group_seq.tolist() == [-1, -1]


def test_groups_of_arguments_are_read_like_those_of_metadata():
    """Mappings as in the metadata make groups."""
    trace = Trace.from_table(
        pair_trace(all_reduce()).table().replace_schema_metadata(None), world_size=2, groups=iter(PAIR)
    )
    assert trace.groups[0].name == "pair"
    assert trace.groups[0].ranks.dtype == np.int32
