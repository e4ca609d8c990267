"""Tables that may be longer than memory: the bytes of Arrow columns, in memory while they are few, else in a file."""

from __future__ import annotations

import mmap
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

Column = npt.NDArray[np.integer]

#: A spool of more bytes than this is a file, in the folder for temporary files; it goes with the spool.
MEMORY_BYTES = 1 << 20

#: Arrow columns begin at multiples of this.
ALIGNMENT = 64


class Spool:
    """Rows that come in blocks, in any order of these, and are read in the order of their numbers.

    ``columns`` are the names and types; ``num_rows`` is how many rows there are so far.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._columns = {name: np.dtype(kind) for name, kind in columns.items()}
        self._file = tempfile.SpooledTemporaryFile(MEMORY_BYTES)
        weakref.finalize(self, self._file.close)
        self._end = 0
        self._blocks: list[tuple[int, int, dict[str, int]]] = []  # number, rows, where each column begins
        self.num_rows = 0

    def append(self, number: int, columns: Sequence[Column]) -> None:
        """Add the rows of a block, a column for each name; blocks without rows leave no trace."""
        if not len(columns[0]):
            return
        begins = {}
        self._file.seek(self._end)
        for (name, kind), values in zip(self._columns.items(), columns, strict=True):
            data = np.ascontiguousarray(values, kind).tobytes()
            begins[name] = self._end
            padded = -(-len(data) // ALIGNMENT) * ALIGNMENT
            self._file.write(data.ljust(padded, b"\0"))
            self._end += padded
        self._blocks.append((number, len(columns[0]), begins))
        self.num_rows += len(columns[0])

    def blocks(self, *names: str) -> Iterator[list[Column]]:
        """Read some columns, or all, block by block."""
        for _, count, begins in sorted(self._blocks, key=lambda block: block[0]):
            read = []
            for name in names or self._columns:
                self._file.seek(begins[name])
                kind = self._columns[name]
                read.append(np.frombuffer(self._file.read(count * kind.itemsize), kind))
            yield read

    def table(self) -> pa.Table:
        """Map the rows into memory as an Arrow table, without copying them."""
        import pyarrow as pa

        schema = pa.schema({name: pa.from_numpy_dtype(kind) for name, kind in self._columns.items()})
        if not self.num_rows:
            return schema.empty_table()
        self._file.flush()
        memory = pa.py_buffer(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))
        batches = []
        for _, count, begins in sorted(self._blocks, key=lambda block: block[0]):
            arrays = [
                pa.Array.from_buffers(field.type, count, [None, memory.slice(begins[field.name])]) for field in schema
            ]
            batches.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
        return pa.Table.from_batches(batches)
