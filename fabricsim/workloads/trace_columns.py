"""The columns of a trace as numpy arrays, decoded batch by batch from Arrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fabricsim.errors import unknown
from fabricsim.workloads.schedule import Bool, Int32, Int64, offsets, slices
from fabricsim.workloads.trace_complaints import Complaints, few
from fabricsim.workloads.trace_schema import COLUMN, COLUMNS, OP_CODES, Column

NULL_NS = int(np.iinfo(np.int64).min)


@dataclass(frozen=True)
class TraceColumns:
    """All rows of a trace in row order; every array has one entry per row unless said otherwise.

    Null is -1 in ``group_seq``, ``root``, ``peer``, ``tag``, ``batch_id`` and the text codes, 0 in ``stream``
    and ``NULL_NS`` in the times. ``op`` indexes ``OP_NAMES``; ``dtype``, ``algorithm`` and ``name`` index
    ``dtypes``, ``algorithms`` and ``names``. Lists are CSR: row ``i`` has
    ``send_splits[send_splits_first[i] : send_splits_first[i + 1]]`` (``*_first`` has one entry more than there
    are rows); an empty range of splits is null, for ``deps`` see ``deps_recorded``. Arrays may be read-only
    views of a mapped file.
    """

    op_id: Int64
    rank: Int32
    group_id: Int32
    group_seq: Int64
    op: npt.NDArray[np.uint8]
    send_bytes: Int64
    recv_bytes: Int64
    send_splits_first: Int64
    send_splits: Int64
    recv_splits_first: Int64
    recv_splits: Int64
    root: Int32
    peer: Int32
    tag: Int64
    stream: Int32
    batch_id: Int64
    t_start_ns: Int64
    t_end_ns: Int64
    duration_ns: Int64
    gap_ns: Int64
    deps_first: Int64
    deps: Int64
    deps_recorded: Bool
    dtype: Int32
    dtypes: tuple[str, ...]
    algorithm: Int32
    algorithms: tuple[str, ...]
    name: Int32
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.op_id)

    def take(self, rows: Int64) -> TraceColumns:
        """Copy some rows, in the order of *rows*."""
        values = {column.name: getattr(self, column.name) for column in fields(self)}
        apart = {*_TEXTS.values(), *_LISTS.values(), *(f"{name}_first" for name in _LISTS.values())}
        for name in values.keys() - apart:
            values[name] = values[name][rows]
        for name in _LISTS.values():
            first = values[f"{name}_first"]
            count = np.diff(first)[rows]
            values[name] = values[name][slices(first[rows], count)]
            values[f"{name}_first"] = offsets(count)
        return TraceColumns(**values)

    def without_splits(self) -> TraceColumns:
        """Leave out ``send_splits`` and ``recv_splits``, which are most of a trace."""
        none, first = np.zeros(0, np.int64), np.zeros(len(self) + 1, np.int64)
        return replace(self, send_splits=none, recv_splits=none, send_splits_first=first, recv_splits_first=first)


# Column of the trace -> (field of TraceColumns, value for null).
_INTEGERS: Mapping[str, int] = {
    "op_id": 0,
    "rank": 0,
    "group_id": 0,
    "group_seq": -1,
    "send_bytes": 0,
    "recv_bytes": 0,
    "root": -1,
    "peer": -1,
    "tag": -1,
    "stream": 0,
    "batch_id": -1,
    "t_start_ns": NULL_NS,
    "t_end_ns": NULL_NS,
    "duration_ns": NULL_NS,
    "gap_ns": NULL_NS,
}
_LISTS: Mapping[str, str] = {"send_bytes_per_peer": "send_splits", "recv_bytes_per_peer": "recv_splits", "deps": "deps"}
_TEXTS: Mapping[str, str] = {"dtype": "dtypes", "algorithm": "algorithms", "name": "names"}


@dataclass
class Vocabulary:
    """Words of one text column over all batches: batches of one trace may number them differently."""

    codes: dict[str, int] = field(default_factory=dict)

    def encode(self, column: Any) -> Int32:
        """Codes (int32, -1 for null) of a canonical dictionary array, new words added."""
        indices = column.indices.fill_null(-1).to_numpy()
        used, place = np.unique(indices, return_inverse=True)
        codes = np.full(len(used), -1, np.int32)
        known = used >= 0  # an index of -1 stands for null
        words = column.dictionary.take(pa.array(used[known])).to_pylist()
        codes[known] = [-1 if word is None else self.codes.setdefault(word, len(self.codes)) for word in words]
        return codes[place]


def canonical_batch(batch: Any, complaints: Complaints, begin: int = 0) -> Any | None:
    """Cast a batch of a trace, or a piece of it, to the canonical types and hold its values against the columns' rules.

    The batch is the last of ``complaints.batch_rows``, *begin* the row of it at which a piece begins. Returns a
    ``pa.RecordBatch`` of the known columns in canonical order, or ``None`` where a fault was added to *complaints*.
    After it every buffer may be read without looking.
    """
    number = len(complaints.batch_rows) - 1
    first_row = sum(complaints.batch_rows[:-1]) + begin
    try:
        # IPC readers trust offsets and dictionary codes (Arrow, "Security Considerations"): look before use.
        batch.validate(full=True)
    except pa.ArrowException as error:
        complaints.add(f"batch {number} is damaged ({_first_line(error)}); record or copy the file again")
        return None
    known_before = complaints.count
    arrays, schema = [], []
    for column in COLUMNS:
        if column.name in batch.schema.names:
            try:
                array = _cast(column, batch.column(column.name), first_row, complaints)
            except pa.ArrowException as error:
                complaints.add(
                    f"batch {number}, column {column.name}: {_first_line(error)}; it must hold {column.type}"
                )
                continue
            if array is not None:
                _check_values(column, array, first_row, complaints)
            arrays.append(array)
            schema.append(column.arrow_field)
    if complaints.count > known_before:
        return None
    return pa.record_batch(arrays, schema=pa.schema(schema))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _cast(column: Column, array: Any, first_row: int, complaints: Complaints) -> Any | None:
    """Cast to the column's type; raises ``pa.ArrowException``, or complains of each row and returns ``None``."""
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), column.type)
    if pa.types.is_dictionary(array.type) and array.dictionary.null_count:
        array = array.cast(array.type.value_type)  # a null word is a null, which the code alone does not show
    if array.type == column.type:
        return array
    if pa.types.is_map(column.type):
        return _cast_map(array)
    if pa.types.is_integer(column.type) and (wide := _outside(array, column.type)) is not None:
        complaints.add_rows(
            first_row + wide, column.name, lambda i: f"{array[int(wide[i])]} does not fit {column.type}"
        )
        return None
    if pa.types.is_dictionary(column.type) and not pa.types.is_dictionary(array.type):
        array = array.cast(pa.utf8())
    return array.cast(column.type)


def _cast_map(array: Any) -> Any:
    """Cast a map, or a list of {key, value}, with texts of any kind to map<utf8, utf8>."""
    pairs = array.cast(pa.list_(pa.struct([("key", pa.utf8()), ("value", pa.utf8())])))
    first = pa.array(offsets(_lengths(pairs)), pa.int32())
    flat = pairs.flatten()
    return pa.MapArray.from_arrays(first, flat.field("key"), flat.field("value"), mask=pairs.is_null())


def _outside(array: Any, integer_type: Any) -> Int64 | None:
    """Find the places of values that do not fit *integer_type*, ``None`` where all fit."""
    if array.type == integer_type or len(array) == array.null_count:
        return None
    bounds = np.iinfo(integer_type.to_pandas_dtype())
    extremes = pc.min_max(array).as_py()
    if bounds.min <= extremes["min"] and extremes["max"] <= bounds.max:
        return None
    values = array.to_pylist()
    return np.array([i for i, v in enumerate(values) if v is not None and not bounds.min <= v <= bounds.max])


def _check_values(column: Column, array: Any, first_row: int, complaints: Complaints) -> None:
    """Nulls, the smallest value and the known words; nothing of this is enforced by Arrow itself."""

    def complain(bad: Any, text: Any) -> None:
        rows = np.flatnonzero(bad)
        complaints.add_rows(first_row + rows, column.name, lambda i: text(array[int(rows[i])].as_py()))

    if not column.nullable and array.null_count:
        complain(_mask(array.is_null()), lambda _: "null in a required column; record the value")
    if pa.types.is_list(column.type):
        _check_list_values(column, array, first_row, complaints)
    elif column.minimum is not None and array.null_count < len(array):
        if pc.min(array).as_py() < column.minimum:
            low = _mask(pc.less(array, column.minimum).fill_null(False))
            complain(low, lambda v: f"{v} is below {column.minimum}; {_negative_remedy(column)}")
    elif column.values is not None:
        known = column.values
        strange = {w for w in array.dictionary.to_pylist() if w not in known}
        if strange:
            words = np.array([w in strange for w in array.dictionary.to_pylist()] + [False])
            bad = words[array.indices.fill_null(-1).to_numpy()]
            complain(bad, lambda v: unknown("word", str(v), known))


def _negative_remedy(column: Column) -> str:
    if column.nullable:
        return "what was not recorded is null, never a stand-in"
    return f"a {'size' if column.unit == 'B' else 'number'} counts from {column.minimum}"


def _check_list_values(column: Column, array: Any, first_row: int, complaints: Complaints) -> None:
    values = array.flatten()
    first = np.concatenate(([0], np.cumsum(_lengths(array))))

    def complain(bad: Any, text: str) -> None:
        rows = np.unique(np.searchsorted(first, np.flatnonzero(bad), side="right") - 1)
        complaints.add_rows(
            first_row + rows, column.name, lambda i: text.format(values=few(array[int(rows[i])].as_py()))
        )

    if values.null_count:
        complain(_mask(values.is_null()), "the list [{values}] holds a null; give every entry")
    elif len(values) and pc.min(values).as_py() < (column.minimum or 0):
        complain(
            values.to_numpy() < (column.minimum or 0), "the list [{values}] holds a negative entry; sizes count from 0"
        )


def _mask(booleans: Any) -> Bool:
    return np.asarray(booleans.to_numpy(zero_copy_only=False), np.bool_)


def _lengths(array: Any) -> Int64:
    return np.asarray(pc.list_value_length(array).fill_null(0).to_numpy(), np.int64)


@dataclass
class Decoder:
    """Turns canonical batches of one trace into ``TraceColumns`` with words numbered alike in all of them."""

    words: dict[str, Vocabulary] = field(default_factory=lambda: {name: Vocabulary() for name in _TEXTS})

    def decode(self, batch: Any) -> TraceColumns:
        """Numpy views of a canonical ``pa.RecordBatch``, without a copy where a column has no nulls."""
        values: dict[str, Any] = {}
        for name, null in _INTEGERS.items():
            values[name] = _integers(batch, name, null)
        for name, target in _LISTS.items():
            values[f"{target}_first"], values[target] = _csr(batch, name)
        values["deps_recorded"] = (
            _mask(batch.column("deps").is_valid())
            if "deps" in batch.schema.names
            else np.zeros(batch.num_rows, np.bool_)
        )
        ops = batch.column("op")
        # A dictionary may hold strange words as long as no row uses them.
        codes = np.array([OP_CODES.get(word, 0) for word in ops.dictionary.to_pylist()], np.uint8)
        values["op"] = codes[ops.indices.to_numpy()]
        for name, target in _TEXTS.items():
            vocabulary = self.words[name]
            present = name in batch.schema.names
            values[name] = vocabulary.encode(batch.column(name)) if present else np.full(batch.num_rows, -1, np.int32)
            values[target] = tuple(vocabulary.codes)
        return TraceColumns(**values)


def _integers(batch: Any, name: str, null: int) -> npt.NDArray[np.signedinteger[Any]]:
    dtype = COLUMN[name].type.to_pandas_dtype()
    if name not in batch.schema.names:
        return np.full(batch.num_rows, null, dtype)
    array = batch.column(name)
    return np.asarray((array.fill_null(null) if array.null_count else array).to_numpy(), dtype)


def _csr(batch: Any, name: str) -> tuple[Int64, Int64]:
    if name not in batch.schema.names:
        return np.zeros(batch.num_rows + 1, np.int64), np.zeros(0, np.int64)
    array = batch.column(name)
    first = np.zeros(len(array) + 1, np.int64)
    np.cumsum(_lengths(array), out=first[1:])
    # flatten, unlike values, honours a slice and skips what lies behind a null.
    return first, array.flatten().to_numpy()


def concatenate(parts: Sequence[TraceColumns]) -> TraceColumns:
    """Join at least one part, all of one ``Decoder`` and in order; a single part is returned as it is."""
    if len(parts) == 1:
        return parts[0]
    values: dict[str, Any] = {}
    for column in fields(TraceColumns):
        pieces = [getattr(part, column.name) for part in parts]
        if column.name.endswith("_first"):
            ends = np.cumsum([0, *(piece[-1] for piece in pieces)])
            shifted = [piece[1:] + end for piece, end in zip(pieces, ends, strict=False)]
            values[column.name] = np.concatenate([pieces[0][:1], *shifted])
        elif column.name in _TEXTS.values():
            values[column.name] = pieces[-1]  # a vocabulary only grows
        else:
            values[column.name] = np.concatenate(pieces)
    return TraceColumns(**values)
