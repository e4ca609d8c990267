"""Import PyTorch profiler (Kineto) recordings, one JSON file per rank, into one collective trace.

When and on which stream a collective ran stands in the Kineto file: its NCCL kernel. What it moved stands beside the
kernel in recent files; files of 2022 and 2023 say nothing, and there the execution trace of the same rank is
needed. The two are joined by order: the host calls of the profile that have a kernel, in time order, are the calls
of the execution trace, in node order. Number, kernel function and, where the profile has it, the element count must
agree, or the import ends with an error.

Collectives of different ranks are matched by the recorded ``Seq`` if every call has one, else by their order in
the group.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fabricsim.errors import TraceError
from fabricsim.workloads.importers.documents import Document, read_documents
from fabricsim.workloads.importers.execution_trace import is_execution_trace, read_execution_trace
from fabricsim.workloads.importers.kineto_file import COLLECTIVE_KEY, Kernel, Profile, is_kineto, read_profile
from fabricsim.workloads.importers.pytorch import KERNEL_FUNCTIONS, ROOTED, Call, bytes_per_peer, dtype_of
from fabricsim.workloads.trace_complaints import few

if TYPE_CHECKING:
    from fabricsim.workloads.trace import Clock, Trace

_Pairs = list[tuple[Kernel, Call]]

# Words of a kernel's name.
_ALGORITHMS = {"RING": "Ring", "TREE": "Tree", "COLLNET": "CollNet", "NVLS": "NVLS", "PAT": "PAT"}
_PROTOCOLS = {"LL": "LL", "LL128": "LL128", "SIMPLE": "Simple"}
_REDUCE_OPS = {"Sum": "sum", "Prod": "prod", "Min": "min", "Max": "max", "PreMulSum": "premulsum", "SumPostDiv": "avg"}

_OTHER_STEPS = "profile and execution trace do not show the same steps; give those of one profiled run"


def import_kineto(paths: str | Path | Sequence[str | Path]) -> Trace:
    """Convert the profiler files of all ranks, and their execution traces if there are any, into one trace.

    Parameters
    ----------
    paths
        Kineto files and execution traces in any order: ``.json`` or ``.json.gz`` files, tar archives of them, or
        folders. Which is which, and of which rank, is told by the content.

    Returns
    -------
    Trace
        One row per rank and collective, with device start and end; times count from the earliest launch. The
        metadata ``clock`` says whether the ranks' clocks agree (no rank ends a collective before the last one has
        begun it) and, as ``max_skew_ns``, how far apart the ranks end one; ``source`` lists the files with their
        SHA-256, and what was inferred rather than recorded.

    Raises
    ------
    ConfigError
        A path cannot be read, or there is none.
    TraceError
        A rank of the world is missing or given twice, arguments are missing, cut short or contradict one another, or a
        collective cannot be converted (send, recv and coalesced calls, for instance).
    """
    from fabricsim.workloads.trace import Completeness, check, trace_from_rows  # here, because it imports pyarrow

    documents = read_documents([paths] if isinstance(paths, str | Path) else paths)
    profiles, execution_traces = _by_rank(documents)
    inferred: list[str] = []
    calls = {profile.rank: _join(profile, execution_traces.get(profile.rank)) for profile in profiles}
    if execution_traces:
        inferred.append("sizes and splits: profile and execution trace were joined by the order of calls")
    if any(isinstance(call.group, int) for pairs in calls.values() for _, call in pairs):
        inferred.append("groups: none is recorded; each rank uses one process group, taken as all ranks")
    calls = {profile.rank: _with_members(profile, calls[profile.rank]) for profile in profiles}
    if any(call.group_seq is None for pairs in calls.values() for _, call in pairs):
        inferred.append("group_seq: collectives of different ranks were matched by their order in the group")
        _number(calls)
    groups = sorted({(str(call.group), call.ranks) for pairs in calls.values() for _, call in pairs})
    t0_ns = min((kernel.t_issue_ns for pairs in calls.values() for kernel, _ in pairs), default=0)
    rows = [
        _row(rank, kernel, call, groups.index((str(call.group), call.ranks)), t0_ns)
        for rank, pairs in calls.items()
        for kernel, call in pairs
    ]
    if not rows:
        raise TraceError(f"{profiles[0].name}: no rank ran an NCCL kernel; profile with CUDA activities")
    trace = trace_from_rows(
        rows,
        world_size=len(profiles),
        groups=[{"id": i, "name": name, "ranks": list(members)} for i, (name, members) in enumerate(groups)],
        t0_unix_ns=t0_ns,
        clock=_clock(rows),
        complete=Completeness(),
        source={
            "format": "kineto",
            "files": [{"name": document.name, "sha256": document.sha256} for document in documents],
            "inferred": inferred,
        },
    )
    check(trace)  # what no single rank shows, such as splits on which two ranks disagree
    return trace


def _by_rank(documents: Iterable[Document]) -> tuple[list[Profile], dict[int, list[Call]]]:
    """Sort documents into the profiles of all ranks of the world, in order, and execution traces by rank."""
    profiles: dict[int, Profile] = {}
    execution_traces: dict[int, list[Call]] = {}
    names: dict[tuple[str, int], str] = {}
    for document in documents:
        if is_kineto(document):
            profile = read_profile(document)
            kind, rank = "Kineto file", profile.rank
            profiles[rank] = profile
        elif is_execution_trace(document):
            kind = "execution trace"
            rank, execution_traces[rank] = read_execution_trace(document)
        else:
            raise TraceError(
                f"{document.name}: neither a Kineto file (no traceEvents) nor an execution trace (no schema and "
                "nodes); leave it out"
            )
        if (kind, rank) in names:
            raise TraceError(
                f"{document.name}: a second {kind} of rank {rank}, after {names[kind, rank]}; import one profiled run "
                "at a time"
            )
        names[kind, rank] = document.name
    if not profiles:
        raise TraceError("there is no Kineto file: execution traces have no times; add the profiler's files")
    first = profiles[min(profiles)]
    for other in profiles.values():
        if other.world_size != first.world_size:
            raise TraceError(
                f"{other.name}: world_size is {other.world_size}, but {first.world_size} in {first.name}; give the "
                "files of one job"
            )
    if missing := [rank for rank in range(first.world_size) if rank not in profiles]:
        raise TraceError(
            f"{first.name}: the job has {first.world_size} ranks, the recording {len(profiles)}; missing ranks: "
            f"{few(missing)}. A collective cannot be replayed without all its members: add their Kineto files"
        )
    if stray := sorted(set(execution_traces) - set(range(first.world_size))):
        name = names["execution trace", stray[0]]
        raise TraceError(f"{name}: of rank {stray[0]}, but the job has {first.world_size} ranks; leave it out")
    return [profiles[rank] for rank in range(first.world_size)], execution_traces


def _join(profile: Profile, execution_trace: list[Call] | None) -> _Pairs:
    """Pair each kernel of a rank with the arguments of its call."""
    if execution_trace is not None and len(execution_trace) != len(profile.kernels):
        raise TraceError(
            f"{profile.name}: {len(profile.kernels)} NCCL kernels, but {len(execution_trace)} collectives in the "
            f"execution trace of rank {profile.rank}; {_OTHER_STEPS}"
        )
    pairs = []
    for place, kernel in enumerate(profile.kernels):
        profiled = _arguments(kernel) if COLLECTIVE_KEY in kernel.arguments else None
        if execution_trace is not None:
            call = execution_trace[place]
            _compare(kernel, profiled, call)
            if profiled is not None:
                # The execution trace has whole split lists; of groups and numbers the profile knows more.
                call = replace(
                    call, group=profiled.group, ranks=profiled.ranks or call.ranks, group_seq=profiled.group_seq
                )
        elif profiled is not None:
            call = profiled
        else:
            raise TraceError(
                f"{kernel.where}: the file does not say what was moved (no {COLLECTIVE_KEY!r}: an old PyTorch); "
                f"give the execution trace of rank {profile.rank} too"
            )
        if kernel.function not in KERNEL_FUNCTIONS[call.op]:
            raise TraceError(
                f"{kernel.where}: {kernel.name} does not carry {call.collective} of {call.where}; {_OTHER_STEPS}"
            )
        pairs.append((kernel, call))
    return pairs


def _compare(kernel: Kernel, profiled: Call | None, call: Call) -> None:
    """Refuse a join in which profile and execution trace speak of different calls."""
    here: dict[str, Any] = {}
    if profiled is not None:
        here = {field: getattr(profiled, field) for field in ("op", "dtype", "send_count", "recv_count")}
    elif kernel.elements is not None and call.op != "barrier":  # whose one element is PyTorch's own
        here = {"send_count": kernel.elements}
    for field, value in here.items():
        if value != getattr(call, field):
            raise TraceError(
                f"{kernel.where}: {field} is {value}, but {getattr(call, field)} in {call.where}; {_OTHER_STEPS}"
            )


def _arguments(kernel: Kernel) -> Call:
    """Read the NCCL arguments of a recent Kineto file."""
    arguments = kernel.arguments
    try:
        dtype, elem_bits = dtype_of(arguments["dtype"], kernel.where)
        return Call(
            where=kernel.where,
            collective=arguments[COLLECTIVE_KEY],
            dtype=dtype,
            elem_bits=elem_bits,
            send_count=int(arguments["In msg nelems"]),
            recv_count=int(arguments["Out msg nelems"]),
            send_splits=_whole_list(arguments["In split size"]),
            recv_splits=_whole_list(arguments["Out split size"]),
            group=str(arguments["Process Group Name"]),
            ranks=_whole_list(arguments.get("Process Group Ranks", "[]")) or (),
            root=arguments.get("Rank") if arguments[COLLECTIVE_KEY] in ROOTED else None,
            group_seq=arguments.get("Seq"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TraceError(
            f"{kernel.where}: its NCCL arguments cannot be read ({error!r}); record with a newer PyTorch"
        ) from None


def _whole_list(text: str) -> tuple[int, ...] | None:
    """Read a list written as text; None where the profiler cut it (after 30 entries)."""
    return None if "..." in text else tuple(int(value) for value in json.loads(text))


def _with_members(profile: Profile, pairs: _Pairs) -> _Pairs:
    """Add each group's members: from the profile's header, the call itself, or because there is one group only."""
    if len({call.group for _, call in pairs if isinstance(call.group, int)}) > 1:
        raise TraceError(
            f"{profile.name}: rank {profile.rank} uses several process groups, and an execution trace of schema 1.0.1 "
            "does not say which ranks they have; record with a newer PyTorch"
        )
    complete = []
    for kernel, call in pairs:
        if isinstance(call.group, int):
            name, members = "world", tuple(range(profile.world_size))
        else:
            name, members = call.group, profile.groups.get(call.group) or call.ranks
        if profile.rank not in members:
            known = f"has ranks {few(members)}, not the caller {profile.rank}" if members else "has unknown ranks"
            raise TraceError(f"{call.where}: process group {name!r} {known}; record with pg_config in distributedInfo")
        complete.append((kernel, replace(call, group=name, ranks=members)))
    return complete


def _number(calls: dict[int, _Pairs]) -> None:
    """Give the collectives of each group numbers, by their order on each rank, in place."""
    counts: dict[tuple[str | int, tuple[int, ...]], Counter[int]] = defaultdict(Counter)
    for rank, pairs in calls.items():
        for place, (kernel, call) in enumerate(pairs):
            of_group = counts[call.group, call.ranks]
            pairs[place] = kernel, replace(call, group_seq=of_group[rank])
            of_group[rank] += 1
    for (name, members), of_group in counts.items():
        most, least = max(members, key=lambda rank: of_group[rank]), min(members, key=lambda rank: of_group[rank])
        if of_group[most] != of_group[least]:
            raise TraceError(
                f"process group {name!r}: rank {most} recorded {of_group[most]} collectives, rank {least} "
                f"{of_group[least]}; profile the same steps on all ranks"
            )


def _row(rank: int, kernel: Kernel, call: Call, group_id: int, t0_ns: int) -> dict[str, Any]:
    op = call.op
    words = kernel.name.split("_")
    row: dict[str, Any] = {
        "rank": rank,
        "group_id": group_id,
        "group_seq": call.group_seq,
        "op": op,
        "send_bytes": call.send_count * call.elem_bits // 8,
        "recv_bytes": call.recv_count * call.elem_bits // 8,
        "stream": kernel.stream,
        "t_issue_ns": kernel.t_issue_ns - t0_ns,
        "t_start_ns": kernel.t_start_ns - t0_ns,
        "t_end_ns": kernel.t_end_ns - t0_ns,
        "timing_source": "device_kernel",
        # An all-to-all is sends and receives; its kernel's name says RING and means nothing by it.
        "algorithm": None
        if "SendRecv" in words
        else next((_ALGORITHMS[word] for word in words if word in _ALGORITHMS), None),
        "protocol": next((_PROTOCOLS[word] for word in words if word in _PROTOCOLS), None),
        "name": call.collective,
        "source_ref": kernel.where,
        "annotations": [("kernel", kernel.name), ("arguments", call.where)],
    }
    if op == "barrier":
        return row | {"send_bytes": 0, "recv_bytes": 0}
    row |= {
        "dtype": call.dtype,
        "elem_bits": call.elem_bits,
        "send_count": call.send_count,
        "recv_count": call.recv_count,
    }
    if op in ("all_reduce", "reduce_scatter"):
        row["reduce_op"] = next((_REDUCE_OPS[word] for word in words if word in _REDUCE_OPS), None)
    elif op == "all_to_all_v":
        rest = (call.elem_bits, len(call.ranks), call.where)
        row["send_bytes_per_peer"] = bytes_per_peer(call.send_splits, call.send_count, *rest)
        row["recv_bytes_per_peer"] = bytes_per_peer(call.recv_splits, call.recv_count, *rest)
    elif op == "broadcast":
        if call.root is None or not 0 <= call.root < len(call.ranks):
            raise TraceError(
                f"{call.where}: the root of this broadcast is not recorded ('Rank' of its arguments); "
                "give the execution trace too, or record with a newer PyTorch"
            )
        row["root"] = call.ranks[call.root]
        if row["root"] != rank:
            row["send_bytes"] = 0
    return row


def _clock(rows: Iterable[dict[str, Any]]) -> Clock | None:
    """Judge the ranks' clocks by the collectives that no rank can leave before all have come."""
    from fabricsim.workloads.trace import Clock

    spans: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for row in rows:
        if row["op"] != "broadcast":
            spans[row["group_id"], row["group_seq"]].append((row["t_start_ns"], row["t_end_ns"]))
    if not spans:
        return None
    aligned = all(min(end for _, end in span) >= max(start for start, _ in span) for span in spans.values())
    return Clock(aligned, max(max(end for _, end in span) - min(end for _, end in span) for span in spans.values()))
