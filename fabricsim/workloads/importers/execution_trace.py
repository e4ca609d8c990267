"""PyTorch execution traces (facebookresearch/param, mlcommons/chakra): sizes and splits, but no times.

A collective call is a node ``record_param_comms`` with positional inputs

    tensors, sequence number, process group, rank, collective, send splits, recv splits [, start, stride, size]

where ``wait`` and ``barrier`` have no tensors. Schema 1.0.1 keeps them in ``inputs`` and gives the process group
as an address; later ones keep them in ``inputs.values`` and give (name, description), followed by the group's first
global rank, stride and size. ``rank`` is the caller's rank in the group, but the root's for rooted collectives. Split
lists are whole at any size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fabricsim.errors import TraceError
from fabricsim.workloads.importers.documents import Document
from fabricsim.workloads.importers.pytorch import HOST_CALL, NOT_TRANSFERS, ROOTED, Call, dtype_of


def is_execution_trace(document: Document) -> bool:
    """Tell an execution trace by its keys."""
    return "nodes" in document.content and "schema" in document.content


def read_execution_trace(document: Document) -> tuple[int, list[Call]]:
    """Give the global rank of an execution trace and its collective calls in issue order.

    Raises
    ------
    TraceError
        A node has another shape than expected, or the nodes do not tell the rank.
    """
    ranks: set[int] = set()
    calls: list[Call] = []
    where = document.name
    try:
        nodes = [node for node in document.content["nodes"] if node["name"] == HOST_CALL]
        for node in sorted(nodes, key=lambda node: int(node["id"])):
            where = f"{document.name}: node {node['id']}"
            values, types, outputs = _parts(node)
            if not isinstance(values[0], list):
                values, types = [[], *values], ["Tensor(unsigned char)", *types]
            rank, collective = values[3], values[4]
            if collective in NOT_TRANSFERS:
                continue
            call = _call(values, types[0], outputs, where)
            calls.append(call)
            if collective not in ROOTED:
                ranks.add(call.ranks[rank] if call.ranks else rank)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise TraceError(
            f"{where}: not the shape of an execution trace of schema 1.0.1 to 1.1 ({error!r}); "
            f"the file says schema {document.content['schema']}"
        ) from None
    if len(ranks) != 1:
        raise TraceError(
            f"{document.name}: its collectives name {len(ranks)} ranks as the caller, so the rank of the trace is "
            "unknown; give one whose collectives name exactly one"
        )
    return ranks.pop(), calls


def _parts(node: dict[str, Any]) -> tuple[list[Any], list[str], list[Any]]:
    """Give inputs, their types and outputs, wherever the schema keeps them."""
    if isinstance(node["inputs"], dict):
        return node["inputs"]["values"], node["inputs"]["types"], node["outputs"]["values"]
    return node["inputs"], node["input_types"], node["outputs"]


def _call(values: list[Any], input_type: str, outputs: list[Any], where: str) -> Call:
    tensors, _, group, rank, collective, send_splits, recv_splits, *layout = values
    sent, received = list(_tensors(tensors)), list(_tensors(outputs))
    # Tensor(float) or GenericList[Tensor(float),Tensor(float)]
    type_name = input_type.partition("Tensor(")[2].partition(")")[0]
    dtype, elem_bits = dtype_of(type_name, where)
    if any(tensor[4] * 8 != elem_bits for tensor in sent + received):
        raise TraceError(f"{where}: a tensor's element size contradicts its type {type_name!r}; was the file edited?")
    ranks: tuple[int, ...] = ()
    if layout:
        start, stride, size = layout[:3]
        # A negative stride says that the group is not evenly spaced; then the profile must list it.
        ranks = tuple(range(start, start + stride * size, stride)) if stride > 0 else ()
    return Call(
        where=where,
        collective=collective,
        dtype=dtype,
        elem_bits=elem_bits,
        send_count=sum(tensor[3] for tensor in sent),
        recv_count=sum(tensor[3] for tensor in received),
        send_splits=tuple(send_splits),
        recv_splits=tuple(recv_splits),
        group=group if isinstance(group, int) else group[0],
        ranks=ranks,
        root=rank if collective in ROOTED else None,
    )


def _tensors(values: list[Any]) -> Iterator[list[Any]]:
    """Find the tensors (id, storage, offset, elements, bytes per element, device) in nested lists."""
    if len(values) == 6 and isinstance(values[5], str):
        yield values
        return
    for value in values:
        yield from _tensors(value)
