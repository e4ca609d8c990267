"""Small traces for the tests of the trace format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

from fabricsim.workloads.trace import Clock, Trace, TraceMetadata, trace_from_rows
from fabricsim.workloads.trace_metadata import as_groups
from fabricsim.workloads.trace_schema import COLUMN

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


def random_trace(random: Random) -> Trace:
    """A sound trace of a few operations of all kinds, with ranks as far apart as they may be.

    Every rank has its rows in the order of the operations, so that a replay ends; the ranks take turns at random.
    """
    world_size = random.randint(1, 4)
    groups = [random.sample(range(world_size), random.randint(1, world_size)) for _ in range(random.randint(1, 3))]
    op_ids, counts = random.sample(range(10_000), 2_000), [0] * len(groups)
    timed = random.random() < 0.7
    queues: list[list[dict[str, Any]]] = [[] for _ in range(world_size)]

    def add(rank: int, op: str, group_id: int, **values: Any) -> None:
        begin = random.randrange(1_000)
        row = {"op_id": op_ids.pop(), "rank": rank, "op": op, "group_id": group_id, "send_bytes": 0, "recv_bytes": 0}
        row |= {"stream": random.choice([None, 1, 2]), "batch_id": random.choice([None, None, 1, 2]), **values}
        if timed or op == "compute":
            row |= {"t_start_ns": begin, "t_end_ns": begin + random.randrange(50)}
        if random.random() < 0.1:
            row["gap_ns"] = random.randrange(20)
        if queues[rank] and random.random() < 0.2:
            row["deps"] = [random.choice(queues[rank])["op_id"] for _ in range(random.randrange(3))]
        queues[rank].append(row)

    for _ in range(random.randint(1, 25)):
        group_id = random.randrange(len(groups))
        ranks, size = groups[group_id], random.randrange(9)
        op = random.choice(["all_to_all_v", "all_reduce", "barrier", "send", "compute", "wait"])
        if op == "send":
            source, target, tag = random.choice(ranks), random.choice(ranks), random.choice([None, 1])
            add(source, "send", group_id, peer=target, send_bytes=size, tag=tag)
            add(target, "recv", group_id, peer=source, recv_bytes=size, tag=tag)
        elif op in ("compute", "wait"):
            add(random.choice(ranks), op, group_id)
        else:
            matrix = [[random.randrange(9) for _ in ranks] for _ in ranks]
            for place, rank in enumerate(ranks):
                values: dict[str, Any] = {"group_seq": counts[group_id]}
                if op == "all_reduce":
                    values |= {"send_bytes": size, "recv_bytes": size}
                if op == "all_to_all_v":
                    received = [line[place] for line in matrix]
                    values |= {"send_bytes": sum(matrix[place]), "recv_bytes": sum(received)}
                    values["send_bytes_per_peer"] = matrix[place]
                add(rank, op, group_id, **values)
            counts[group_id] += 1
    rows = []
    while waiting := [queue for queue in queues if queue]:
        rows.append(random.choice(waiting).pop(0))
    clock = random.choice([None, Clock(aligned=True), Clock(aligned=False)])
    named = [{"id": number, "name": str(number), "ranks": ranks} for number, ranks in enumerate(groups)]
    # A first row without a start, which is cut off again, keeps the others from being sorted by theirs.
    head = {**compute(0), "op_id": 10_000}
    table = trace_from_rows([head, *rows], world_size=world_size, groups=named, clock=clock).table()
    return Trace.from_table(table.slice(1))


def write_long_trace(path: Path, num_operations: int, num_ranks: int = 8, *, compute_stream: int = 2) -> None:
    """Write a trace in which all_reduce, all_to_all_v and computation take turns, batch by batch.

    Collectives run on stream 1 of each rank. A computation counts as one operation here, on all ranks; on a stream of
    its own it waits for no collective, so that a replay can be far ahead on one of the streams.
    """
    ranks = np.arange(num_ranks, dtype=np.int32)
    groups = as_groups([{"id": 0, "name": "all", "ranks": ranks.tolist()}], num_ranks)
    metadata = TraceMetadata(num_ranks, groups, None, Clock(aligned=True), None, None, None)
    names = ("op_id", "rank", "group_id", "group_seq", "op", "send_bytes", "recv_bytes", "send_bytes_per_peer")
    columns = [COLUMN[name] for name in (*names, "stream", "t_start_ns", "t_end_ns")]
    schema = pa.schema([column.arrow_field for column in columns], metadata=metadata.to_arrow())
    words = pa.array(["all_reduce", "all_to_all_v", "compute"])
    with pa.ipc.new_file(path, schema) as writer:
        for first in range(0, num_operations, 4096):
            number = np.repeat(np.arange(first, min(first + 4096, num_operations)), num_ranks)
            kind = number % 3
            size_bytes = np.where(kind == 2, 0, 512 * num_ranks)
            values = {
                "op_id": number * num_ranks + np.tile(ranks, len(number) // num_ranks),
                "rank": np.tile(ranks, len(number) // num_ranks),
                "group_id": np.zeros(len(number), np.int32),
                "group_seq": pa.array(number, mask=kind == 2),
                "op": pa.DictionaryArray.from_arrays(pa.array(kind, pa.int32()), words),
                "send_bytes": size_bytes,
                "recv_bytes": size_bytes,
                "send_bytes_per_peer": pa.array([[512] * num_ranks if k == 1 else None for k in kind.tolist()]),
                "stream": np.where(kind == 2, compute_stream, 1),
                "t_start_ns": number * 10_000,
                "t_end_ns": number * 10_000 + 9_000,
            }
            writer.write_batch(pa.record_batch([pa.array(values[c.name]).cast(c.type) for c in columns], schema))
