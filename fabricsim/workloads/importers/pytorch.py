"""What PyTorch's recorders have in common: names of collectives and types, and the arguments of one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fabricsim.errors import TraceError, unknown

#: The host operation that every recorder writes per collective call.
HOST_CALL = "record_param_comms"

#: Host calls that move nothing.
NOT_TRANSFERS = ("wait",)

#: Recorded collective -> operation of the trace. What is not here is refused by name.
OPS: Mapping[str, str] = {
    "all_to_all": "all_to_all",
    "all_to_allv": "all_to_all_v",
    "allreduce": "all_reduce",
    "all_gather": "all_gather",
    "_allgather_base": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "_reduce_scatter_base": "reduce_scatter",
    "broadcast": "broadcast",
    "barrier": "barrier",
}

#: The recorded rank of these is that of the root, not the caller's.
ROOTED = ("broadcast",)

#: NCCL kernels that can carry an operation. Every flavour of all-to-all is SendRecv; Generic can be anything.
KERNEL_FUNCTIONS: Mapping[str, tuple[str, ...]] = {
    "all_to_all": ("SendRecv", "Generic"),
    "all_to_all_v": ("SendRecv", "Generic"),
    "all_reduce": ("AllReduce", "Generic"),
    "all_gather": ("AllGather", "Generic"),
    "reduce_scatter": ("ReduceScatter", "Generic"),
    "broadcast": ("Broadcast", "Generic"),
    "barrier": ("AllReduce", "Generic"),  # PyTorch makes a barrier of an all-reduce of one element
}

#: Type names of the profiler (c10) and of execution traces (C++) -> dtype of the trace, bits.
DTYPES: Mapping[str, tuple[str, int]] = {
    **dict.fromkeys(("Byte", "unsigned char"), ("uint8", 8)),
    **dict.fromkeys(("Char", "signed char"), ("int8", 8)),
    **dict.fromkeys(("Short", "short"), ("int16", 16)),
    **dict.fromkeys(("Int", "int"), ("int32", 32)),
    **dict.fromkeys(("Long", "long int", "long"), ("int64", 64)),
    **dict.fromkeys(("Half", "c10::Half"), ("float16", 16)),
    **dict.fromkeys(("BFloat16", "c10::BFloat16"), ("bfloat16", 16)),
    **dict.fromkeys(("Float", "float"), ("float32", 32)),
    **dict.fromkeys(("Double", "double"), ("float64", 64)),
    **dict.fromkeys(("Bool", "bool"), ("bool", 8)),
    **dict.fromkeys(("Float8_e4m3fn", "c10::Float8_e4m3fn"), ("float8_e4m3fn", 8)),
    **dict.fromkeys(("Float8_e5m2", "c10::Float8_e5m2"), ("float8_e5m2", 8)),
}


@dataclass(frozen=True)
class Call:
    """The arguments of one collective call on one rank.

    Counts are elements, all peers together. Splits are rows of dimension 0 per peer, empty where the recorder says
    "even" and ``None`` where it cut the list short. ``group`` is the recorded name of the process group, or its address
    (an int) in old execution traces; ``ranks`` are its global ranks, empty where not recorded; ``root`` is a rank *in
    the group*. ``where`` names file and record.
    """

    where: str
    collective: str
    dtype: str
    elem_bits: int
    send_count: int
    recv_count: int
    send_splits: tuple[int, ...] | None
    recv_splits: tuple[int, ...] | None
    group: str | int
    ranks: tuple[int, ...] = ()
    root: int | None = None
    group_seq: int | None = None

    @property
    def op(self) -> str:
        """The operation of the trace; TraceError if this collective cannot be converted."""
        if self.collective not in OPS:
            raise TraceError(
                f"{self.where}: {self.collective!r} cannot be converted; the importer knows {', '.join(sorted(OPS))}"
            )
        return OPS[self.collective]


def dtype_of(type_name: str, where: str) -> tuple[str, int]:
    """Dtype and bits of an element of the recorded type; TraceError if the type is unknown."""
    if type_name not in DTYPES:
        raise TraceError(f"{where}: {unknown('element type', type_name, sorted(DTYPES))}")
    return DTYPES[type_name]


def bytes_per_peer(splits: Sequence[int] | None, count: int, elem_bits: int, group_size: int, where: str) -> list[int]:
    """Turn a split list into bytes per peer, in group order.

    PyTorch counts splits in rows of dimension 0, so one row has ``count / sum(splits)`` elements.

    Raises
    ------
    TraceError
        The list was cut short by the recorder, has another length than the group, or does not divide *count*.
    """
    if splits is None:
        raise TraceError(
            f"{where}: the recorder cut the split list short (it has a '...'); record an execution trace of the "
            "same ranks, which keeps whole lists, and give it together with the profile"
        )
    rows = splits or (1,) * group_size
    if len(rows) != group_size:
        raise TraceError(f"{where}: the split list has {len(rows)} entries, its group {group_size} ranks")
    total = max(1, sum(rows))  # no rows at all: then there must be no elements either
    if min(rows) < 0 or count % total or (count and not any(rows)):
        raise TraceError(f"{where}: splits {list(rows)} do not divide {count} elements into whole rows")
    return [row * (count // total) * elem_bits // 8 for row in rows]
