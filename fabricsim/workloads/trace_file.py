"""A trace on disk or in memory: open, read, write."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.ipc

from fabricsim.errors import ConfigError, TraceError, nearest
from fabricsim.files import whole_file
from fabricsim.workloads.trace_columns import Decoder, TraceColumns, canonical_batch, concatenate
from fabricsim.workloads.trace_complaints import Complaints
from fabricsim.workloads.trace_metadata import VERSION, Group, TraceMetadata, parse_metadata
from fabricsim.workloads.trace_schema import COLUMN, COLUMNS, MAX_ROWS_PER_BATCH, REQUIRED

PIECE_ROWS = 8192
"""Rows are decoded in pieces of at most so many ..."""

PIECE_BYTES = 1 << 21
"""... and, but for a row that is larger, of about so many bytes, so that memory follows neither batches nor files."""

_MAGIC = b"ARROW1"
_STREAM_START = b"\xff\xff\xff\xff"
IN_MEMORY = "trace in memory"


class Trace:
    """A collective trace (docs/trace-format.md): an immutable handle on a mapped file or a table in memory.

    Opening reads the schema only. Reading rows refuses damaged batches, nulls in required columns, values out
    of their column's range and unknown operations; ``check`` holds all other rules. Make one with ``open``,
    ``from_table`` or ``trace_from_rows``.
    """

    def __init__(
        self,
        source: Any,
        where: str,
        metadata: TraceMetadata,
        path: Path | None = None,
        mapped: mmap.mmap | None = None,
    ) -> None:
        self._source = source  # pa.ipc.RecordBatchFileReader or pa.Table
        self._mapped = mapped  # what a reader reads
        self.where = where  # how messages name the trace
        self.path = path
        self.metadata = metadata
        present = set(source.schema.names)
        self.column_names = tuple(column.name for column in COLUMNS if column.name in present)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        world_size: int | None = None,
        groups: Iterable[Group | Mapping[str, Any]] | None = None,
    ) -> Self:
        """Map an Arrow IPC file into memory; nothing is copied unless the file is compressed.

        *world_size* and *groups* stand in for schema metadata that another library dropped. Raises
        ``ConfigError`` where there is no such file, ``TraceError`` where it is no Arrow IPC file (a stream,
        a truncated file, another format) or not the schema of a trace.
        """
        path = Path(path)
        _check_kind(path)
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            reader = pa.ipc.open_file(pa.py_buffer(mapped))
            _ = reader.schema.names  # decodes them
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise TraceError(f"{path}: damaged Arrow file ({error}); record or copy it again") from None
        metadata = parse_metadata(reader.schema.metadata, str(path), world_size=world_size, groups=groups)
        _check_schema(reader.schema, str(path), metadata.version)
        return cls(reader, str(path), metadata, path, mapped)

    @classmethod
    def from_table(
        cls,
        table: Any,
        *,
        world_size: int | None = None,
        groups: Iterable[Group | Mapping[str, Any]] | None = None,
    ) -> Self:
        """Take over a table from any object with ``__arrow_c_stream__`` (pyarrow, polars, duckdb, pandas, ...).

        *world_size* and *groups* stand in for schema metadata that the other library dropped. Raises
        ``TraceError`` where it is not the schema of a trace.
        """
        if not hasattr(table, "__arrow_c_stream__"):
            raise TraceError(
                f"a {type(table).__name__} is no Arrow table; give an object with __arrow_c_stream__, such as a "
                "pyarrow, polars or pandas table"
            )
        source = pa.table(table)
        metadata = parse_metadata(source.schema.metadata, IN_MEMORY, world_size=world_size, groups=groups)
        _check_schema(source.schema, IN_MEMORY, metadata.version)
        return cls(source, IN_MEMORY, metadata)

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.metadata.world_size

    @property
    def groups(self) -> tuple[Group, ...]:
        """All groups; ``group_id`` of a row is an index into them."""
        return self.metadata.groups

    @cached_property
    def num_rows(self) -> int:
        """Number of rows; raises ``TraceError`` where the file is damaged."""
        if isinstance(self._source, pa.Table):
            return int(self._source.num_rows)
        try:
            return int(self._source.count_rows())
        except (pa.ArrowException, OSError) as error:
            raise self._damaged("its batches", error) from None

    @cached_property
    def sha256(self) -> str:
        """Hash of the rows as they lie in the file or in memory, and of what is known of them."""
        digest = hashlib.sha256(repr(sorted(self.metadata.to_arrow().items())).encode())
        if self._mapped is not None:
            for begin in range(0, len(self._mapped), PIECE_BYTES):
                digest.update(self._mapped[begin : begin + PIECE_BYTES])
            self._forget_pages()
            return digest.hexdigest()
        for batch in self.batches():
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            digest.update(sink.getvalue())
        return digest.hexdigest()

    def batches(self) -> Iterator[Any]:
        """Yield the rows as ``pa.RecordBatch`` objects with the canonical types, one at a time.

        Raises ``TraceError`` with all faults of the first faulty batch.
        """
        complaints = Complaints(self.where)
        for raw in self._raw_batches():
            complaints.batch_rows.append(raw.num_rows)
            batch = canonical_batch(raw, complaints)
            complaints.raise_any()
            yield batch

    def examine(self, complaints: Complaints) -> Iterator[tuple[int, TraceColumns]]:
        """Yield the rows in pieces, each with the number of its first row, or add what is wrong to *complaints*.

        An empty trace is one piece without rows.
        """
        decoder = Decoder()
        for raw in self._raw_batches():
            complaints.batch_rows.append(raw.num_rows)
            step = max(1, min(PIECE_ROWS, raw.num_rows * PIECE_BYTES // max(raw.nbytes, 1)))
            for begin in range(0, raw.num_rows, step):
                piece = canonical_batch(raw.slice(begin, step), complaints, begin)
                if piece is not None:
                    yield sum(complaints.batch_rows[:-1]) + begin, decoder.decode(piece)
                self._forget_pages()
        if not sum(complaints.batch_rows):
            yield 0, decoder.decode(pa.RecordBatch.from_pylist([], schema=self.schema))

    def columns(self) -> TraceColumns:
        """All rows as numpy arrays, views of the mapped file where they are one piece that is not compressed.

        Raises ``TraceError`` with all values that no row may have; rules that span rows are those of ``check``.
        """
        complaints = Complaints(self.where)
        parts = [part for _, part in self.examine(complaints)]
        complaints.raise_any()
        return concatenate(parts)

    def table(self) -> Any:
        """Return the whole trace as one ``pa.Table`` with canonical types and the schema metadata."""
        return pa.Table.from_batches(self.batches(), schema=self.schema)

    @property
    def schema(self) -> Any:
        """The canonical ``pa.Schema`` of the columns that are present, with the schema metadata."""
        return pa.schema([COLUMN[name].arrow_field for name in self.column_names], metadata=self.metadata.to_arrow())

    def __arrow_c_schema__(self) -> Any:
        return self.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        reader = pa.RecordBatchReader.from_batches(self.schema, self.batches())
        return reader.__arrow_c_stream__(requested_schema)

    def write(self, path: str | os.PathLike[str], *, compression: Literal["zstd", "lz4"] | None = None) -> None:
        """Write an Arrow IPC file, whole or not at all; without *compression* it can be mapped.

        Batches hold at most 65,536 rows. The file appears under its name only once it is complete and on disk.
        Raises ``TraceError`` where rows are faulty and ``ConfigError`` where the file cannot be written.
        """
        table = self.table()
        # The IPC file format allows one dictionary per column.
        options = pa.ipc.IpcWriteOptions(compression=compression, unify_dictionaries=True)
        with whole_file(path) as sink, pa.ipc.new_file(sink, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=MAX_ROWS_PER_BATCH)

    def _raw_batches(self) -> Iterator[Any]:
        if isinstance(self._source, pa.Table):
            yield from self._source.to_batches()
            return
        for number in range(self._source.num_record_batches):
            try:
                batch = self._source.get_batch(number)
            except (pa.ArrowException, OSError) as error:
                raise self._damaged(f"batch {number}", error) from None
            yield batch

    def _forget_pages(self) -> None:
        """Let go of what was read of a mapped file; who looks again finds it in the system's cache."""
        if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)

    def _damaged(self, part: str, error: Exception) -> TraceError:
        return TraceError(f"{self.where}: {part} cannot be read ({error}); record or copy the file again")


def _check_kind(path: Path) -> None:
    """Say what a file that is no Arrow IPC file is, by its first and last bytes."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
            file.seek(0, os.SEEK_END)
            size = file.tell()
            file.seek(max(0, size - len(_MAGIC)))
            end = file.read()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); give a readable trace file") from None
    if start.startswith(_MAGIC):
        if end != _MAGIC or size < 2 * len(_MAGIC) + 4:
            raise TraceError(f"{path}: truncated Arrow file (its footer is missing); record or copy it again")
    elif start.startswith(_STREAM_START):
        raise TraceError(
            f"{path}: this is an Arrow IPC stream, a replay needs the file format; convert it in Python:\n"
            "  import pyarrow as pa, fabricsim\n"
            f"  fabricsim.Trace.from_table(pa.ipc.open_stream(pa.OSFile({str(path)!r}))).write({_converted(path)!r})"
        )
    elif size == 0:
        raise TraceError(f"{path}: the file is empty; record or copy it again")
    else:
        kind = " (it looks like Parquet)" if start.startswith(b"PAR1") else ""
        raise TraceError(
            f"{path}: no Arrow IPC file{kind}; write it with pyarrow.ipc.new_file or read its table and use "
            "fabricsim.Trace.from_table(table).write(path)"
        )


def _converted(path: Path) -> str:
    target = path.with_suffix(".arrow")
    return str(target if target != path else path.with_name(path.stem + "-file.arrow"))


def _check_schema(schema: Any, where: str, version: tuple[int, int]) -> None:
    """Refuse missing, doubled, unknown and mistyped columns; a newer minor version may have more columns."""
    complaints = Complaints(where)
    for name in REQUIRED:
        if name not in schema.names:
            complaints.add(f"the required column {name} is missing; see docs/trace-format.md")
    for name in sorted({name for name in schema.names if schema.names.count(name) > 1}):
        complaints.add(f"there are {schema.names.count(name)} columns {name}; keep one")
    for field in schema:
        if field.name not in COLUMN:
            if version <= VERSION:
                complaints.add(
                    f"unknown column {field.name}{nearest(field.name, COLUMN)}; put what has no column into annotations"
                )
        elif not COLUMN[field.name].accepts(field.type):
            complaints.add(f"column {field.name} has type {field.type}; it must be {COLUMN[field.name].type}")
    complaints.raise_any()
