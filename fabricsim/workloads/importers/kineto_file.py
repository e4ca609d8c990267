"""One Kineto file: the NCCL kernels of one rank, and the host call behind each.

A kernel belongs to the host call (``record_param_comms``) that encloses its launch: the CUDA runtime event with the
kernel's correlation number, on the same thread. Numbers like "External id" are not used: in files of 2023 they
count different things on the host and on the device.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from math import prod
from typing import Any

from fabricsim.errors import TraceError
from fabricsim.workloads.importers.documents import Document
from fabricsim.workloads.importers.pytorch import HOST_CALL, NOT_TRANSFERS

#: Key of a call's arguments; old files do not have it.
COLLECTIVE_KEY = "Collective name"

# ncclKernel_AllReduce_RING_LL_Sum_float(...), ncclDevKernel_AllReduce_Sum_f32_RING_LL(...)
_KERNEL_NAME = re.compile(r"(nccl(?:Dev)?Kernel_([A-Za-z]+)\w*)")

_Event = dict[str, Any]
_Thread = tuple[Any, Any]


@dataclass(frozen=True)
class Kernel:
    """One NCCL kernel; times in nanoseconds since the epoch of the file.

    ``function`` is NCCL's (AllReduce, SendRecv, ...), ``arguments`` those of the host call and of the kernel,
    ``elements`` what the ``nccl:...`` annotation inside the host call says of the input tensors, ``None`` if nothing.
    """

    where: str
    name: str
    function: str
    arguments: dict[str, Any]
    elements: int | None
    stream: int
    t_issue_ns: int
    t_start_ns: int
    t_end_ns: int


@dataclass(frozen=True)
class Profile:
    """What one Kineto file holds; ``groups`` are global ranks by name, ``kernels`` stand in host call order."""

    name: str
    rank: int
    world_size: int
    groups: dict[str, tuple[int, ...]]
    kernels: list[Kernel]


@dataclass(frozen=True)
class _HostCall:
    start_ns: int
    end_ns: int
    thread: _Thread
    arguments: dict[str, Any]


def is_kineto(document: Document) -> bool:
    """Tell a Kineto file by its keys."""
    return "traceEvents" in document.content


def read_profile(document: Document) -> Profile:
    """Read a Kineto file.

    Raises
    ------
    TraceError
        The file does not say its rank, a kernel has no host call or shares one, a host call has no kernel, or the
        file has another shape than expected.
    """
    info = document.content.get("distributedInfo")
    if not isinstance(info, dict) or not {"rank", "world_size"} <= info.keys():
        raise TraceError(
            f"{document.name}: distributedInfo with rank and world_size is missing; start the profiler after "
            "torch.distributed is initialised"
        )
    try:
        rank, world_size = int(info["rank"]), int(info["world_size"])
        groups = {
            str(config["pg_name"]): tuple(config["ranks"]) or tuple(range(world_size))  # no ranks: all of them
            for config in info.get("pg_config") or ()
            if isinstance(config["ranks"], list)
        }
        return Profile(document.name, rank, world_size, groups, _read_kernels(document))
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise TraceError(f"{document.name}: not the shape of a Kineto file ({error!r}); was it edited?") from None


def _read_kernels(document: Document) -> list[Kernel]:
    """Find the host call of each NCCL kernel, and no call without its kernel; in the order of the calls."""
    events = _Events.of(document)
    found: dict[int, tuple[_HostCall, Kernel]] = {}
    for event in events.kernels:
        call, kernel = _call_and_kernel(event, events, document.name)
        if id(call) in found:
            raise TraceError(
                f"{kernel.where}: comes from the same call as {found[id(call)][1].where}; coalesced and point-to-point "
                "calls cannot be imported"
            )
        found[id(call)] = call, kernel
    for call in (call for of_thread in events.calls.values() for call in of_thread):
        collective = call.arguments.get(COLLECTIVE_KEY)
        if collective is not None and collective not in NOT_TRANSFERS and id(call) not in found:
            raise TraceError(
                f"{document.name}: the {collective!r} called at {call.start_ns} ns has no NCCL kernel; the profile "
                "ends before it, or another backend ran it: profile whole steps of NCCL collectives"
            )
    in_order = sorted(found.values(), key=lambda pair: (pair[0].start_ns, pair[1].t_issue_ns))
    return [kernel for _, kernel in in_order]


@dataclass(frozen=True)
class _Events:
    """The events of a file that matter here; a thread is (process, thread).

    ``kernels`` are NCCL's, ``launches`` the CUDA runtime events by correlation number. By thread: ``calls`` in the
    order of their start, ``annotations`` as (start in ns, elements).
    """

    base_ns: int
    kernels: list[_Event]
    launches: dict[Any, _Event]
    calls: dict[_Thread, list[_HostCall]]
    annotations: dict[_Thread, list[tuple[int, int]]]

    @classmethod
    def of(cls, document: Document) -> _Events:
        base_ns = int(document.content.get("baseTimeNanoseconds", 0))
        events = cls(base_ns, [], {}, defaultdict(list), defaultdict(list))
        for event in document.content["traceEvents"]:
            if event.get("ph") != "X":
                continue
            category, name, thread = event.get("cat"), event["name"], (event.get("pid"), event.get("tid"))
            if category == "kernel":
                if _KERNEL_NAME.match(name):
                    events.kernels.append(event)
            elif category in ("cuda_runtime", "cuda_driver"):
                events.launches[event["args"].get("correlation")] = event
            elif name == HOST_CALL:
                events.calls[thread].append(_HostCall(*_span_ns(event, base_ns), thread, event["args"]))
            elif name.startswith("nccl:") and (elements := _elements(event)):
                events.annotations[thread].append((_span_ns(event, base_ns)[0], elements))
        for of_thread in events.calls.values():
            of_thread.sort(key=lambda call: (call.start_ns, call.end_ns))
        return events


def _call_and_kernel(event: _Event, events: _Events, file_name: str) -> tuple[_HostCall, Kernel]:
    """Read one kernel and find the host call that encloses its launch."""
    correlation = event["args"]["correlation"]
    where = f"{file_name}: NCCL kernel with correlation {correlation}"
    if correlation not in events.launches:
        raise TraceError(f"{where}: its launch was not recorded; profile with both CPU and CUDA activities")
    launch = events.launches[correlation]
    t_issue_ns, _ = _span_ns(launch, events.base_ns)
    call = _enclosing(events.calls[launch.get("pid"), launch.get("tid")], t_issue_ns)
    if call is None:
        raise TraceError(
            f"{where}: no {HOST_CALL} encloses its launch; kernels that a CUDA graph replays cannot be imported"
        )
    t_start_ns, t_end_ns = _span_ns(event, events.base_ns)
    match = _KERNEL_NAME.match(event["name"])
    assert match is not None  # so it was chosen
    annotations = events.annotations[call.thread]
    return call, Kernel(
        where=where,
        name=match[1],
        function=match[2],
        arguments={**call.arguments, **event["args"]},  # some releases have the arguments on the call only
        elements=next((n for at_ns, n in annotations if call.start_ns <= at_ns <= call.end_ns), None),
        stream=int(event["args"]["stream"]),
        t_issue_ns=t_issue_ns,
        t_start_ns=t_start_ns,
        t_end_ns=t_end_ns,
    )


def _enclosing(calls: list[_HostCall], t_ns: int) -> _HostCall | None:
    """Find the innermost call that encloses a time; the calls of one thread, sorted, are nested or apart."""
    for place in range(bisect_right(calls, t_ns, key=lambda call: call.start_ns) - 1, -1, -1):
        if calls[place].end_ns >= t_ns:
            return calls[place]
    return None


def _span_ns(event: _Event, base_ns: int) -> tuple[int, int]:
    """Start and end of an event in nanoseconds; the profiler writes microseconds with up to three decimals."""
    start_ns = int((Decimal(event["ts"]) * 1000).to_integral_value(ROUND_HALF_EVEN))
    duration_ns = int((Decimal(event["dur"]) * 1000).to_integral_value(ROUND_HALF_EVEN))
    return base_ns + start_ns, base_ns + start_ns + duration_ns


def _elements(annotation: _Event) -> int:
    """Elements of the tensors of an ``nccl:...`` annotation; 0 where their dimensions were not recorded."""
    dims = [dim for dim in annotation.get("args", {}).get("Input Dims", ()) if dim]
    return sum(prod(tensor) for dim in dims for tensor in (dim if isinstance(dim[0], list) else [dim]))
