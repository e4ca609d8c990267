from __future__ import annotations

import contextlib
import io
import os
import re

import numpy as np
import pyarrow as pa
import pytest

from fabricsim.errors import ConfigError, TraceError
from fabricsim.workloads.trace import Clock, Completeness, Trace, check, trace_from_rows
from tests.workloads.trace_cases import PAIR, all_reduce, all_to_all_v, pair_trace, with_column, with_metadata

RICH = dict(
    t0_unix_ns=1_700_000_000_000_000_000,
    clock=Clock(True, 7000),
    complete=Completeness((), 3),
    source={"format": "test", "files": [{"name": "a", "sha256": "00"}]},
    placement=(4, 2),
)


def rich_trace() -> Trace:
    """A trace with a column of each kind and all metadata."""
    rows = all_to_all_v([[1, 2], [3, 4]])
    for row in rows:
        row |= {"t_start_ns": 5, "t_end_ns": 9, "dtype": "uint8", "deps": [], "annotations": {"busbw": "1"}}
        row |= {"in_place": False, "source_ref": "a:1", "reduce_op": "sum", "timing_source": "modelled", "name": "x"}
    return pair_trace(rows, **RICH)


def test_a_damaged_count_of_rows_is_an_error(tmp_path):
    """The number of rows comes from the batches' own headers."""
    path = tmp_path / "x.arrow"
    rich_trace().write(path)
    whole = bytearray(path.read_bytes())
    header = bytes(whole).rfind(b"\xff\xff\xff\xff", 0, bytes(whole).rfind(b"\xff\xff\xff\xff"))
    whole[header + 8 : header + 16] = b"\x7f" * 8
    path.write_bytes(whole)
    with pytest.raises(TraceError, match="cannot be read"):
        _ = Trace.open(path).num_rows


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_what_is_written_is_read(tmp_path, compression):
    """Rows, types, schema and metadata survive a file, compressed or not."""
    trace = rich_trace()
    trace.write(tmp_path / "x.arrow", compression=compression)
    read = Trace.open(tmp_path / "x.arrow")
    assert read.table().equals(trace.table(), check_metadata=True)
    assert read.metadata == trace.metadata
    assert read.num_rows == 2
    assert read.path == tmp_path / "x.arrow"


def test_an_uncompressed_file_is_mapped_not_copied(tmp_path):
    """Reading the columns of a mapped file allocates no Arrow memory for its lists."""
    wide = all_to_all_v([[7] * 64] * 64)
    trace_from_rows(wide, world_size=64, groups=[{"id": 0, "ranks": range(64)}]).write(tmp_path / "x.arrow")
    trace = Trace.open(tmp_path / "x.arrow")
    before = pa.total_allocated_bytes()
    columns = trace.columns()
    assert columns.send_splits.size == 64 * 64
    assert pa.total_allocated_bytes() - before < columns.send_splits.nbytes
    assert not columns.send_splits.flags.writeable


def test_batches_hold_at_most_65536_rows(tmp_path):
    """A longer trace is cut into batches, which are read one by one and joined in order."""
    rows = [row for seq in range(33_000) for row in all_reduce(seq)]
    pair_trace(rows).write(tmp_path / "x.arrow")
    trace = Trace.open(tmp_path / "x.arrow")
    assert [batch.num_rows for batch in trace.batches()] == [65_536, 464]
    columns = trace.columns()
    assert np.array_equal(columns.op_id, np.arange(66_000))
    assert check(trace).collectives == 33_000


def test_writing_is_all_or_nothing(tmp_path):
    """A faulty trace leaves neither a file nor a part behind, and an older file untouched."""
    target = tmp_path / "x.arrow"
    pair_trace(all_reduce()).write(target)
    before = target.read_bytes()
    faulty = Trace.from_table(with_column(pair_trace(all_reduce()), "send_bytes", [-1, 1]))
    with pytest.raises(TraceError):
        faulty.write(target)
    assert target.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.arrow"]


def test_a_place_that_cannot_be_written_is_a_configuration_error(tmp_path):
    """The message names the path and the reason."""
    with pytest.raises(ConfigError, match=r"no/x\.arrow: cannot be written \(No such file or directory\)"):
        pair_trace(all_reduce()).write(tmp_path / "no" / "x.arrow")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="Not a directory"):
        pair_trace(all_reduce()).write(tmp_path / "file" / "x.arrow")


def test_a_missing_file_is_a_configuration_error(tmp_path):
    """Exit code 2, as for every missing file."""
    with pytest.raises(ConfigError, match=r"x\.arrow: no such file") as caught:
        Trace.open(tmp_path / "x.arrow")
    assert caught.value.exit_code == 2


def test_a_folder_is_a_configuration_error(tmp_path):
    """A path that is no file says so."""
    with pytest.raises(ConfigError, match="Is a directory"):
        Trace.open(tmp_path)


def test_a_truncated_file_is_named_as_such(tmp_path):
    """A file that lost its end has the magic only at its start."""
    path = tmp_path / "x.arrow"
    rich_trace().write(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TraceError, match=r"x\.arrow: truncated Arrow file") as caught:
        Trace.open(path)
    assert caught.value.exit_code == 3


def test_a_file_that_lost_its_middle_is_damaged(tmp_path):
    """Both magics are there, the footer is not what it says."""
    path = tmp_path / "x.arrow"
    rich_trace().write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:64] + whole[-10:])
    with pytest.raises(TraceError, match=r"x\.arrow: damaged Arrow file"):
        Trace.open(path)


def test_a_stream_is_refused_with_the_lines_that_convert_it(tmp_path, monkeypatch):
    """The two lines of the message, run as they stand, make a file that opens."""
    monkeypatch.chdir(tmp_path)
    table = rich_trace().table()
    with pa.ipc.new_stream("x.arrows", table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(TraceError, match="this is an Arrow IPC stream") as caught:
        Trace.open("x.arrows")
    assert caught.value.exit_code == 3
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 2
    exec("\n".join(line.strip() for line in lines), {})
    assert Trace.open("x.arrow").table().equals(table, check_metadata=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"PAR1....PAR1", "it looks like Parquet"),
        (b'{"traceEvents": []}', r"no Arrow IPC file; write it with"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    """What the file is, as far as its first bytes tell, and what to do."""
    path = tmp_path / "x.arrow"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=message):
        Trace.open(path)


def test_every_single_flipped_byte_is_an_error_or_harmless(tmp_path):
    """Damage anywhere in a file ends in a TraceError or in a trace that can be read: never in a crash."""
    path = tmp_path / "x.arrow"
    rich_trace().write(path)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 61):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        with contextlib.suppress(TraceError):
            trace = Trace.open(path)
            assert trace.num_rows == sum(batch.num_rows for batch in trace.batches())
            check(trace)
            continue
        refused += 1
    assert refused > 0


def test_a_damaged_batch_is_named(tmp_path):
    """Offsets are looked at before any buffer is read through them."""
    path = tmp_path / "x.arrow"
    rich_trace().write(path)
    whole = path.read_bytes()
    offsets = np.array([0, 2, 4], np.int32).tobytes()
    assert offsets in whole
    path.write_bytes(whole.replace(offsets, np.array([0, 2, 1 << 30], np.int32).tobytes()))
    with pytest.raises(TraceError, match="batch 0 is damaged"):
        Trace.open(path).columns()


def test_a_table_of_another_library_is_taken_over():
    """Any object with __arrow_c_stream__ will do; a trace itself is one, and gives a new stream each time."""

    class Foreign:
        def __arrow_c_stream__(self, requested_schema=None):
            return rich_trace().table().__arrow_c_stream__(requested_schema)

    trace = Trace.from_table(Foreign())
    assert trace.metadata == rich_trace().metadata
    assert pa.table(trace).equals(pa.table(trace))
    assert pa.schema(trace).equals(trace.schema)
    assert Trace.from_table(trace).table().equals(trace.table(), check_metadata=True)


def test_an_object_without_arrow_is_refused():
    """The message says what would do."""
    with pytest.raises(TraceError, match="a dict is no Arrow table; give an object with __arrow_c_stream__"):
        Trace.from_table({"op_id": [1]})


def test_dropped_metadata_may_be_given_again():
    """A library that drops the schema metadata costs two arguments, not the trace."""
    bare = pair_trace(all_reduce()).table().replace_schema_metadata(None)
    with pytest.raises(TraceError, match=r"no schema metadata fabricsim\.format, .*pass world_size= and groups="):
        Trace.from_table(bare)
    with pytest.raises(TraceError, match=r"fabricsim\.groups"):
        Trace.from_table(bare, world_size=2)
    trace = Trace.from_table(bare, world_size=2, groups=PAIR)
    assert check(trace).collectives == 1


def test_metadata_cannot_be_said_twice():
    """An argument that the file already answers is an error, not a silent choice."""
    with pytest.raises(TraceError, match=r"already says fabricsim\.world_size; leave out world_size="):
        Trace.from_table(pair_trace(all_reduce()).table(), world_size=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "weather"}, "fabricsim.format is 'weather', not 'collective-trace'"),
        ({"schema_version": "2.0"}, "the trace has schema version 2.0, this fabricsim reads 1.x"),
        ({"schema_version": "one"}, "fabricsim.schema_version is 'one'"),
        ({"world_size": None}, "no schema metadata fabricsim.world_size"),
        ({"world_size": "two"}, "metadata fabricsim.world_size is 'two'; it must be a whole number"),
        ({"world_size": "0"}, "fabricsim.world_size is 0"),
        ({"world_sise": "2"}, "unknown metadata fabricsim.world_sise (did you mean 'world_size'?)"),
        ({"groups": "[{"}, "metadata fabricsim.groups is '[{'; it must be JSON"),
        ({"groups": "[" * 100_000}, "it must be JSON"),
        ({"groups": "[]"}, "fabricsim.groups is empty"),
        ({"groups": "3"}, "fabricsim.groups: must be a list of groups"),
        ({"groups": "[3]"}, "entry 0 is no object"),
        ({"groups": '[{"id": 0}]'}, "entry 0 lacks ranks"),
        ({"groups": '[{"id": "0", "ranks": [0]}]'}, "entry 0: id must be a whole number"),
        ({"groups": '[{"id": 1, "ranks": [0]}]'}, "group 1 of fabricsim.groups stands at place 0"),
        ({"groups": '[{"id": 0, "ranks": []}]'}, "group 0 of fabricsim.groups has no ranks"),
        ({"groups": '[{"id": 0, "ranks": "all"}]'}, "entry 0: ranks must be a list"),
        ({"groups": '[{"id": 0, "ranks": [0, 2]}]'}, "entry 0: ranks must be whole numbers in 0..1"),
        ({"groups": '[{"id": 0, "ranks": [1, 1]}]'}, "group 0 of fabricsim.groups names a rank twice"),
        ({"groups": '[{"id": 0, "ranks": [0], "rank": 1}]'}, "unknown key 'rank' (did you mean 'ranks'?)"),
        (
            {"groups": '[{"id": 0, "ranks": {"start": 0, "stride": 1, "count": 2000000000}}]'},
            "do not lie in 0..1",
        ),
        ({"clock": '{"max_skew_ns": 3}'}, "it must say whether clocks are aligned"),
        ({"clock": '{"aligned": 1}'}, 'it must look like {"aligned": true'),
        ({"complete": '{"missing_ranks": [9]}'}, "fabricsim.complete: missing_ranks 9 are outside 0..1"),
        ({"complete": '{"missing_ranks": ["a"]}'}, "it must hold a list of whole numbers"),
        ({"complete": '{"dropped_ops": -1}'}, "dropped_ops is below 0"),
        ({"source": "[]"}, "it must be a JSON object"),
        ({"placement": "[0]"}, "fabricsim.placement has 1 entries; it needs one per rank, 2"),
    ],
)
def test_faulty_metadata_is_named(changes, message):
    """Each message names the key and what it should be."""
    with pytest.raises(TraceError, match=re.escape(message)) as caught:
        Trace.from_table(with_metadata(pair_trace(all_reduce()), changes))
    assert str(caught.value).startswith("trace in memory: ")


def test_metadata_that_is_no_text_is_named():
    """Schema metadata are bytes in Arrow; ours are UTF-8."""
    table = pair_trace(all_reduce()).table()
    broken = table.replace_schema_metadata({**table.schema.metadata, b"fabricsim.clock": b"\xff"})
    with pytest.raises(TraceError, match=r"metadata fabricsim\.clock is not UTF-8"):
        Trace.from_table(broken)


def test_groups_of_object_give_an_own_fault():
    """Group objects of a caller are held against the world size as well."""
    other = trace_from_rows(all_reduce(ranks=3), world_size=3, groups=[{"id": 0, "ranks": [2, 1, 0]}])
    with pytest.raises(TraceError, match=r"group 0 of fabricsim\.groups holds ranks 2 outside 0\.\.1"):
        Trace.from_table(pair_trace(all_reduce()).table().replace_schema_metadata(), world_size=2, groups=other.groups)


def test_evenly_spaced_groups_are_written_short():
    """Start, stride and count stand for a list, and mean the same group."""
    groups = [{"id": 0, "ranks": [1, 3, 5]}, {"id": 1, "ranks": [5, 3, 1]}, {"id": 2, "ranks": [0, 1]}]
    rows = [{**row, "rank": rank} for row, rank in zip(all_reduce(ranks=3), (1, 3, 5), strict=True)]
    trace = trace_from_rows(rows, world_size=6, groups=groups)
    assert b'"ranks": {"start": 1, "stride": 2, "count": 3}' in trace.schema.metadata[b"fabricsim.groups"]
    read = Trace.from_table(trace)
    assert read.groups == trace.groups
    assert len({*read.groups, *trace.groups}) == 3
    assert [group.ranks.tolist() for group in read.groups] == [[1, 3, 5], [5, 3, 1], [0, 1]]


def test_all_schema_faults_are_listed():
    """Missing, unknown, doubled and mistyped columns in one message, with the nearest name."""
    table = pair_trace(all_reduce()).table().drop_columns(["send_bytes"])
    table = table.append_column("send_byte", pa.array([1, 1])).append_column("dtype", pa.array([1.5, 1.5]))
    table = table.append_column("dtype", pa.array(["a", "b"]))
    with pytest.raises(TraceError) as caught:
        Trace.from_table(table)
    text = str(caught.value)
    assert "4 faults" in text
    assert "the required column send_bytes is missing" in text
    assert "there are 2 columns dtype" in text
    assert "unknown column send_byte (did you mean 'send_bytes'?)" in text
    assert "column dtype has type double" in text


def test_a_newer_minor_version_may_hold_more():
    """Columns and keys that this version does not know are left out."""
    table = with_metadata(pair_trace(all_reduce()), {"schema_version": "1.7", "energy": "3"})
    trace = Trace.from_table(table.append_column("joules", pa.array([1, 2])))
    assert trace.metadata.version == (1, 7)
    assert "joules" not in trace.column_names
    assert check(trace).rows == 2
    assert trace.schema.metadata[b"fabricsim.schema_version"] == b"1.0"


def test_an_empty_trace_is_readable_and_refused_by_check(tmp_path):
    """Without rows there is nothing to replay, which is an error and not a success."""
    trace = Trace.from_table(pair_trace(all_reduce()).table().slice(0, 0))
    assert len(trace.columns()) == 0
    assert trace.num_rows == 0
    with pytest.raises(TraceError, match="the trace has no rows"):
        check(trace)


def test_a_stream_in_memory_is_read():
    """A RecordBatchReader, one-shot as it is, becomes a trace that can be read twice."""
    table = rich_trace().table()
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    trace = Trace.from_table(pa.ipc.open_stream(sink.getvalue()))
    assert len(trace.columns()) == len(trace.columns()) == 2
