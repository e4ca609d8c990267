"""The operations and the columns of a collective trace (docs/trace-format.md).

Reader, writer, checks and the tables of docs/trace-format.md all come from the declarations here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

MAX_ROWS_PER_BATCH = 65_536


@dataclass(frozen=True)
class Op:
    """One kind of operation: ``collective`` (all ranks of the group), ``transfer`` (two ranks) or ``local``.

    ``send`` and ``recv`` say what ``send_bytes`` and ``recv_bytes`` are, in these words: B, the bytes of the whole
    buffer; n, the ranks of the group. ``needs`` are optional columns that its rows must fill, ``may`` lists that they
    may carry besides.
    """

    name: str
    kind: Literal["collective", "transfer", "local"]
    send: str
    recv: str
    needs: tuple[str, ...] = ("group_seq",)
    may: tuple[str, ...] = ()


_SPLIT = ("group_seq", "send_bytes_per_peer")
_ROOT = ("group_seq", "root")
OPS = (
    Op("all_to_all", "collective", "B, a multiple of n", "B"),
    Op(
        "all_to_all_v",
        "collective",
        "sum of its list",
        "sum of what each rank sends it",
        _SPLIT,
        ("recv_bytes_per_peer",),
    ),
    Op("all_reduce", "collective", "B", "B"),
    Op("all_gather", "collective", "B / n", "B"),
    Op("all_gather_v", "collective", "its part", "sum of all parts", may=("recv_bytes_per_peer",)),
    Op("reduce_scatter", "collective", "B", "B / n"),
    Op("reduce_scatter_v", "collective", "sum of all parts", "its part", _SPLIT),
    Op("broadcast", "collective", "B at the root, else 0", "B", _ROOT),
    Op("reduce", "collective", "B", "B at the root, else 0", _ROOT),
    Op("gather", "collective", "B / n", "B at the root, else 0", _ROOT),
    Op("scatter", "collective", "B at the root, else 0", "B / n", _ROOT),
    Op("barrier", "collective", "0", "0"),
    Op("send", "transfer", "B", "0", ("peer",)),
    Op("recv", "transfer", "0", "B", ("peer",)),
    Op("compute", "local", "0", "0", ()),
    Op("wait", "local", "0", "0", ()),
)
OP_NAMES: tuple[str, ...] = tuple(op.name for op in OPS)
OP_CODES: Mapping[str, int] = {name: code for code, name in enumerate(OP_NAMES)}


@dataclass(frozen=True)
class Column:
    """One column: its name, Arrow type, whether it may hold nulls, its unit, its smallest value and its meaning.

    ``values`` lists the words that a text column may hold, ``None`` where any will do. A column that may hold
    nulls may also be absent; null means "not recorded".
    """

    name: str
    type: Any  # pa.DataType; pyarrow ships no types
    nullable: bool
    meaning: str
    unit: str = ""
    minimum: int | None = None
    values: tuple[str, ...] | None = None

    @property
    def arrow_field(self) -> Any:
        """The ``pa.Field`` as written: a unit stands in the field's metadata under ``unit``."""
        metadata = {"unit": self.unit} if self.unit else None
        return pa.field(self.name, self.type, nullable=self.nullable, metadata=metadata)

    def accepts(self, arrow_type: Any) -> bool:
        """Whether a column of *arrow_type* can be cast to this one (each value is still checked)."""
        types = pa.types
        if pa.types.is_null(arrow_type):
            return self.nullable
        if types.is_integer(self.type):
            return bool(types.is_integer(arrow_type))
        if types.is_boolean(self.type):
            return bool(types.is_boolean(arrow_type))
        if types.is_list(self.type):
            return _is_any_list(arrow_type) and bool(types.is_integer(arrow_type.value_type))
        if types.is_map(self.type):
            return _holds_key_value_texts(arrow_type)
        if types.is_dictionary(arrow_type):
            return _is_text(arrow_type.value_type)
        return _is_text(arrow_type)


def _is_text(arrow_type: Any) -> bool:
    types = pa.types
    return bool(types.is_string(arrow_type) or types.is_large_string(arrow_type) or types.is_string_view(arrow_type))


def _is_any_list(arrow_type: Any) -> bool:
    tests = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
    return any(getattr(pa.types, test)(arrow_type) for test in tests)


def _holds_key_value_texts(arrow_type: Any) -> bool:
    # Some libraries have no map type and hand a map back as a list of {key, value}.
    if pa.types.is_map(arrow_type):
        return _is_text(arrow_type.key_type) and _is_text(arrow_type.item_type)
    if not (pa.types.is_list(arrow_type) or pa.types.is_large_list(arrow_type)):
        return False
    pair = arrow_type.value_type
    return bool(
        pa.types.is_struct(pair)
        and [part.name for part in pair] == ["key", "value"]
        and all(_is_text(part.type) for part in pair)
    )


_TEXT = pa.dictionary(pa.int32(), pa.utf8())
_INT64_LIST = pa.list_(pa.field("item", pa.int64(), nullable=False))
_REDUCE_OPS = ("sum", "prod", "min", "max", "avg", "premulsum")
_TIMING_SOURCES = ("device_kernel", "host_kernel", "host_call", "watchdog", "modelled")

COLUMNS = (
    Column(
        "op_id", pa.int64(), False, "number of the row's operation, unique in the trace; `deps` points at it", minimum=0
    ),
    Column("rank", pa.int32(), False, "global rank, 0 to world_size - 1", minimum=0),
    Column("group_id", pa.int32(), False, "index into the groups of the metadata; the rank is a member", minimum=0),
    Column(
        "group_seq",
        pa.int64(),
        True,
        "n-th collective on that group, equal on all members",
        minimum=0,
    ),
    Column("op", _TEXT, False, "what is done: one of the operations below", values=OP_NAMES),
    Column("send_bytes", pa.int64(), False, "what this rank hands over, with the part for itself", "B", 0),
    Column("recv_bytes", pa.int64(), False, "what this rank is handed, with the part from itself", "B", 0),
    Column(
        "send_bytes_per_peer",
        _INT64_LIST,
        True,
        "`send_bytes` by receiver, one entry per rank of the group, in its order",
        "B",
        0,
    ),
    Column(
        "recv_bytes_per_peer",
        _INT64_LIST,
        True,
        "`recv_bytes` by sender, one entry per rank of the group, in its order",
        "B",
        0,
    ),
    Column("dtype", _TEXT, True, "element type as numpy or ml_dtypes spell it: float32, bfloat16, float8_e4m3, ..."),
    Column("elem_bits", pa.int16(), True, "size of an element", "bit", 1),
    Column("send_count", pa.int64(), True, "elements sent, as the source counts them", "", 0),
    Column("recv_count", pa.int64(), True, "elements received, as the source counts them", "", 0),
    Column("reduce_op", _TEXT, True, "how elements are combined", values=_REDUCE_OPS),
    Column("root", pa.int32(), True, "global rank of the root of broadcast, reduce, gather or scatter", minimum=0),
    Column("peer", pa.int32(), True, "global rank at the other end of a send or recv", minimum=0),
    Column("tag", pa.int64(), True, "tag of a send or recv", minimum=0),
    Column("stream", pa.int32(), True, "rows of one (rank, stream) run in row order; null means 0", minimum=0),
    Column(
        "batch_id",
        pa.int64(),
        True,
        "rows next to one another on a (rank, stream) with equal numbers were issued together: none waits on another",
        minimum=0,
    ),
    Column("t_issue_ns", pa.int64(), True, "time after t0_unix_ns at which the host enqueued the operation", "ns", 0),
    Column("t_start_ns", pa.int64(), True, "time after t0_unix_ns at which the device began it", "ns", 0),
    Column("t_end_ns", pa.int64(), True, "time after t0_unix_ns at which the device ended it", "ns", 0),
    Column("duration_ns", pa.int64(), True, "recorded duration, where start and end are absent or less exact", "ns", 0),
    Column("timing_source", _TEXT, True, "who took the times", values=_TIMING_SOURCES),
    Column(
        "deps",
        _INT64_LIST,
        True,
        "`op_id`s on the same rank that must end first; null: not recorded, the stream's order counts; []: none",
        minimum=0,
    ),
    Column(
        "gap_ns",
        pa.int64(),
        True,
        "local computation between the last dependency and readiness; null: to be derived from the times",
        "ns",
        0,
    ),
    Column("algorithm", _TEXT, True, "recorded algorithm: Ring, Tree, ..."),
    Column("protocol", _TEXT, True, "recorded protocol: LL, LL128, Simple, ..."),
    Column("in_place", pa.bool_(), True, "send and receive buffer are one"),
    Column("is_async", pa.bool_(), True, "the caller did not wait"),
    Column("name", _TEXT, True, "name in the source, such as the kernel's"),
    Column("source_ref", pa.utf8(), True, "where it stands in the source: file and node, line or record"),
    Column("annotations", pa.map_(pa.utf8(), pa.utf8()), True, "every field of the source that has no column"),
)
COLUMN: Mapping[str, Column] = {column.name: column for column in COLUMNS}
REQUIRED = tuple(column.name for column in COLUMNS if not column.nullable)
