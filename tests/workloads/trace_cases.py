"""Small traces for the tests of the trace format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from fabricsim.workloads.trace import Trace, trace_from_rows

PAIR = [{"id": 0, "name": "pair", "ranks": [0, 1]}]


def collective(op: str, sizes: list[tuple[int, int]], group_seq: int = 0, **more: Any) -> list[dict[str, Any]]:
    """Rows of a collective of group 0 on ranks 0, 1, ...; *sizes* are (send_bytes, recv_bytes) by rank."""
    return [
        {"rank": rank, "group_id": 0, "group_seq": group_seq, "op": op, "send_bytes": send, "recv_bytes": recv, **more}
        for rank, (send, recv) in enumerate(sizes)
    ]


def all_reduce(group_seq: int = 0, ranks: int = 2, **more: Any) -> list[dict[str, Any]]:
    """Rows of an all_reduce of 1,024 bytes."""
    return collective("all_reduce", [(1024, 1024)] * ranks, group_seq, **more)


def all_to_all_v(matrix: list[list[int]], group_seq: int = 0, recv: bool = True) -> list[dict[str, Any]]:
    """Rows of an all_to_all_v; ``matrix[i][j]`` is what rank i sends to rank j."""
    rows = []
    for rank, sends in enumerate(matrix):
        receives = [line[rank] for line in matrix]
        row = collective("all_to_all_v", [(0, 0)] * len(matrix), group_seq)[rank]
        row |= {"send_bytes": sum(sends), "recv_bytes": sum(receives), "send_bytes_per_peer": sends}
        rows.append(row | ({"recv_bytes_per_peer": receives} if recv else {}))
    return rows


def transfer(op: str, rank: int, peer: int, size: int = 64, **more: Any) -> dict[str, Any]:
    """A send or recv row of group 0."""
    send, recv = (size, 0) if op == "send" else (0, size)
    return {"rank": rank, "group_id": 0, "op": op, "peer": peer, "send_bytes": send, "recv_bytes": recv, **more}


def compute(rank: int, **more: Any) -> dict[str, Any]:
    """A compute row of group 0."""
    return {"rank": rank, "group_id": 0, "op": "compute", "send_bytes": 0, "recv_bytes": 0, **more}


def pair_trace(rows: list[dict[str, Any]], **more: Any) -> Trace:
    """A trace of ranks 0 and 1 in one group."""
    return trace_from_rows(rows, world_size=2, groups=PAIR, **more)


def with_column(trace: Trace, name: str, values: Any) -> Any:
    """The table of *trace* with one column replaced, its metadata kept."""
    table = trace.table()
    place = table.schema.names.index(name)
    return table.set_column(place, name, values if isinstance(values, pa.ChunkedArray) else pa.array(values))


def with_metadata(trace: Trace, changes: Mapping[str, str | None]) -> Any:
    """The table of *trace* with metadata keys (without prefix) replaced, or removed where ``None``."""
    metadata = {key.decode(): value.decode() for key, value in trace.schema.metadata.items()}
    metadata |= {f"fabricsim.{key}": value for key, value in changes.items()}
    return trace.table().replace_schema_metadata({key: value for key, value in metadata.items() if value is not None})
