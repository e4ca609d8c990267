"""Make a trace from rows, for importers and generators."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fabricsim.errors import TraceError, nearest
from fabricsim.workloads.trace_file import Trace
from fabricsim.workloads.trace_metadata import Clock, Completeness, Group, TraceMetadata, as_groups
from fabricsim.workloads.trace_schema import COLUMN, COLUMNS, MAX_ROWS_PER_BATCH, REQUIRED, Column


def trace_from_rows(
    rows: Iterable[Mapping[str, Any]],
    *,
    world_size: int,
    groups: Iterable[Group | Mapping[str, Any]],
    t0_unix_ns: int | None = None,
    clock: Clock | None = None,
    complete: Completeness | None = None,
    source: Mapping[str, Any] | None = None,
    placement: Sequence[int] | None = None,
) -> Trace:
    """Make a trace in memory from rows: mappings from column name to value, ``None`` or no key where not recorded.

    Lists may be Python lists or numpy arrays. The rows are sorted by (``t_start_ns``, ``rank``), rows equal in
    both keep their order; where any row lacks a start time the given order stays, so rows of one (rank, stream) must
    come in the order in which they run. ``op_id`` may be left out of all rows, which then are numbered in
    their final order. *groups* are ``Group`` objects or mappings as in the metadata key ``fabricsim.groups``.
    Raises ``TraceError`` naming the row (as given) and the column; the rules that span rows are those of ``check``.
    """
    metadata = TraceMetadata(
        world_size,
        as_groups(groups, world_size),
        t0_unix_ns,
        clock,
        complete,
        source,
        None if placement is None else tuple(int(device) for device in placement),
    )
    given: list[Mapping[str, Any]] = list(rows)
    names = _column_names(given)
    order = list(range(len(given)))
    if given and all(row.get("t_start_ns") is not None for row in given):
        order.sort(key=lambda index: (given[index]["t_start_ns"], given[index]["rank"]))
    if "op_id" not in names:
        for op_id, index in enumerate(order):
            given[index] = {**given[index], "op_id": op_id}
    columns = [column for column in COLUMNS if column.name in names or column.name == "op_id"]
    schema = pa.schema([column.arrow_field for column in columns], metadata=metadata.to_arrow())
    batches = [
        pa.record_batch(
            [_array(column, given, order[start : start + MAX_ROWS_PER_BATCH]) for column in columns], schema
        )
        for start in range(0, len(given), MAX_ROWS_PER_BATCH)
    ]
    return Trace.from_table(pa.Table.from_batches(batches, schema))


def _column_names(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Name the columns that hold a value in any row; refuse unknown ones and missing required ones."""
    names = set(REQUIRED) - {"op_id"}
    for index, row in enumerate(rows):
        if strange := [name for name in row if name not in COLUMN]:
            hint = nearest(strange[0], COLUMN)
            raise TraceError(f"row {index}: unknown column {strange[0]}{hint}; put what has no column into annotations")
        names.update(name for name, value in row.items() if value is not None)
    for index, row in enumerate(rows):
        if missing := [name for name in REQUIRED if name in names and row.get(name) is None]:
            raise TraceError(f"row {index}: no {', '.join(missing)}; every row needs {', '.join(REQUIRED)}")
        if "op_id" not in names and len(row.get("deps") or ()):
            raise TraceError(f"row {index}, column deps: it names op_ids, but no row has one; give every row its op_id")
    return names


def _array(column: Column, rows: Sequence[Mapping[str, Any]], order: Sequence[int]) -> Any:
    faults = (pa.ArrowException, TypeError, ValueError, OverflowError)
    try:
        return pa.array([_exact(column, rows[index].get(column.name)) for index in order], column.type)
    except faults as fault:
        for index in order:
            try:
                pa.array([_exact(column, rows[index].get(column.name))], column.type)
            except faults as error:
                raise TraceError(f"row {index}, column {column.name}: {error}; it must hold {column.type}") from None
        raise TraceError(f"column {column.name}: {fault}; make a trace of fewer rows") from None


def _exact(column: Column, value: Any) -> Any:
    """Refuse fractions where whole numbers belong: pyarrow would cut them off."""
    if value is None or not (pa.types.is_integer(column.type) or pa.types.is_list(column.type)):
        return value
    if pa.types.is_integer(column.type):
        return operator.index(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "iu":
            raise TypeError(f"an array of {value.dtype}")
        return value
    return [operator.index(entry) for entry in value]
