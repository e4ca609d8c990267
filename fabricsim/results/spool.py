"""Tables that may be longer than memory: the bytes of Arrow columns, in memory while they are few, else in a file."""

from __future__ import annotations

import copy
import mmap
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

Column = npt.NDArray[np.integer]

#: A spool of more bytes than this is a file, in the folder for temporary files; it goes with the spool.
MEMORY_BYTES = 1 << 20

#: Checkpoints hold a spool in pieces of this size, one in memory at a time.
PIECE_BYTES = 1 << 24

#: Arrow columns begin at multiples of this.
ALIGNMENT = 64


@dataclass(frozen=True)
class _Block:
    """The first and the last value of its first column, and where in the file each column begins."""

    first: int
    last: int
    num_rows: int
    begins: dict[str, int]


class Spool:
    """Rows that come in blocks, in any order of these, and are read in the order of their first column.

    That is ascending within a block, and no two blocks share a value of it. ``columns`` are the names and types;
    ``num_rows`` is how many rows there are so far.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._columns = {name: np.dtype(kind) for name, kind in columns.items()}
        self._file = tempfile.SpooledTemporaryFile(MEMORY_BYTES)
        weakref.finalize(self, self._file.close)
        self._end = 0
        self._blocks: list[_Block] = []
        self._as_they_came = False
        self.num_rows = 0

    def as_they_came(self) -> Spool:
        """Return the rows so far, to be read before others come: blocks in the order in which they came.

        To put them in order again and again while they come would write all rows to the file each time.
        """
        rows = copy.copy(self)
        rows._as_they_came = True
        return rows

    def append(self, columns: Sequence[Column]) -> None:
        """Add the rows of a block, a column for each name; blocks without rows leave no trace."""
        if len(columns[0]):
            self._blocks.append(self._write(columns))
            self.num_rows += len(columns[0])

    def _write(self, columns: Sequence[Column]) -> _Block:
        begins = {}
        self._file.seek(self._end)
        for (name, kind), values in zip(self._columns.items(), columns, strict=True):
            data = np.ascontiguousarray(values, kind).tobytes()
            begins[name] = self._end
            padded = -(-len(data) // ALIGNMENT) * ALIGNMENT
            self._file.write(data.ljust(padded, b"\0"))
            self._end += padded
        return _Block(int(columns[0][0]), int(columns[0][-1]), len(columns[0]), begins)

    def _read(self, block: _Block, names: Iterable[str]) -> list[Column]:
        read = []
        for name in names:
            self._file.seek(block.begins[name])
            kind = self._columns[name]
            read.append(np.frombuffer(self._file.read(block.num_rows * kind.itemsize), kind))
        return read

    def _in_order(self) -> list[_Block]:
        """Return the blocks in order, those whose rows lie between each other's joined to one."""
        if self._as_they_came:
            return self._blocks
        groups: list[list[_Block]] = []
        last = -1
        for block in sorted(self._blocks, key=lambda block: block.first):
            if block.first > last:
                groups.append([])
            groups[-1].append(block)
            last = max(last, block.last)
        self._blocks = [group[0] if len(group) == 1 else self._joined(group) for group in groups]
        return self._blocks

    def _joined(self, group: list[_Block]) -> _Block:
        parts = [self._read(block, self._columns) for block in group]
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = np.argsort(columns[0], kind="stable")
        return self._write([column[order] for column in columns])

    def blocks(self, *names: str) -> Iterator[list[Column]]:
        """Read some columns, or all, block by block."""
        for block in self._in_order():
            yield self._read(block, names or self._columns)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read the rows as Arrow batches, one block in memory at a time; at least one, maybe empty."""
        import pyarrow as pa

        schema = self._schema()
        if not self.num_rows:
            yield pa.RecordBatch.from_pylist([], schema)
        for columns in self.blocks():
            yield pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=schema)

    def dump(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the file in pieces, mapped rather than read, and where its blocks are."""
        self._file.flush()
        held = np.empty(0, np.uint8)
        if self._end:
            held = np.frombuffer(mmap.mmap(self._file.fileno(), self._end, access=mmap.ACCESS_READ), np.uint8)
        rows = [[block.first, block.last, block.num_rows, *block.begins.values()] for block in self._blocks]
        return {
            "blocks": np.array(rows, np.int64).reshape(-1, 3 + len(self._columns)),
            "pieces": {str(begin): held[begin : begin + PIECE_BYTES] for begin in range(0, self._end, PIECE_BYTES)},
        }

    def load(self, stored: Mapping[str, Any]) -> None:
        """Take over what ``dump`` of a spool with the same columns gave; this one is new."""
        for piece in stored["pieces"].values():
            self._file.write(piece)
        self._end = self._file.tell()
        for first, last, num_rows, *begins in stored["blocks"].tolist():
            self._blocks.append(_Block(first, last, num_rows, dict(zip(self._columns, begins, strict=True))))
            self.num_rows += num_rows

    def _schema(self) -> pa.Schema:
        import pyarrow as pa

        return pa.schema({name: pa.from_numpy_dtype(kind) for name, kind in self._columns.items()})

    def table(self) -> pa.Table:
        """Map the rows into memory as an Arrow table, without copying them."""
        import pyarrow as pa

        schema = self._schema()
        if not self.num_rows:
            return schema.empty_table()
        blocks = self._in_order()
        self._file.flush()
        memory = pa.py_buffer(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))
        batches = []
        for block in blocks:
            arrays = [
                pa.Array.from_buffers(field.type, block.num_rows, [None, memory.slice(block.begins[field.name])])
                for field in schema
            ]
            batches.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
        return pa.Table.from_batches(batches)
