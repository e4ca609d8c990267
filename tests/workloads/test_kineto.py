"""The Kineto importer: on hand-made recordings, and on real ones where they are at hand."""

from __future__ import annotations

import copy
import gzip
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabricsim.errors import ConfigError, TraceError
from fabricsim.workloads.importers.documents import read_documents
from fabricsim.workloads.importers.execution_trace import read_execution_trace
from fabricsim.workloads.importers.kineto import import_kineto
from fabricsim.workloads.importers.pytorch import bytes_per_peer
from fabricsim.workloads.trace import Trace

ROOT = Path(__file__).resolve().parents[2]

KERNELS = {
    "all_to_allv": "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)",
    "allreduce": "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
    "_allgather_base": "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
    "broadcast": "ncclDevKernel_Broadcast_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
    "barrier": "ncclDevKernel_AllReduce_Sum_u8_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
}


def arguments(collective: str, sent: int, received: int | None = None, **more: Any) -> dict[str, Any]:
    """NCCL arguments as recent profilers write them, for a group of two."""
    return {
        "Collective name": collective,
        "In msg nelems": sent,
        "Out msg nelems": sent if received is None else received,
        "dtype": "BFloat16",
        "In split size": "[]",
        "Out split size": "[]",
        "Process Group Name": "0",
        "Process Group Ranks": "[0, 1]",
    } | more


def kineto(rank: int, calls: list[dict[str, Any]], *, old: bool = False, world_size: int = 2) -> dict[str, Any]:
    """A Kineto file: call i starts at i ms, its kernel runs from 0.1 ms to 0.2 ms after that.

    *old* leaves out the arguments but for the annotation with the input's dimensions.
    """
    events: list[dict[str, Any]] = [{"ph": "M", "name": "process_name", "args": {"name": "python3"}}]
    for i, call in enumerate(calls):
        ts = 1000 * i + rank
        thread = {"ph": "X", "pid": 7, "tid": 8}
        events.append(
            {**thread, "cat": "cpu_op", "name": "record_param_comms", "ts": ts, "dur": 50, "args": {} if old else call}
        )
        if call["Collective name"] == "wait":
            continue
        note = {"Input Dims": [[call["In msg nelems"] // 2, 2]]}
        events += [
            {**thread, "cat": "user_annotation", "name": "nccl:x", "ts": ts + 5, "dur": 30, "args": note},
            {**thread, "cat": "cuda_runtime", "name": "cudaLaunchKernelExC", "ts": ts + 10, "dur": 5}
            | {"args": {"correlation": 100 + i}},
            {"ph": "X", "cat": "kernel", "pid": 0, "tid": 9, "ts": ts + 100, "dur": 100}
            | {"name": KERNELS[call["Collective name"]], "args": {"stream": 9, "correlation": 100 + i}},
        ]
    return {"distributedInfo": {"rank": rank, "world_size": world_size}, "traceEvents": events}


def execution_trace(rank: int, calls: list[dict[str, Any]]) -> dict[str, Any]:
    """An execution trace of schema 1.0.1, with an address for the process group."""
    nodes: list[dict[str, Any]] = [{"id": 1, "name": "[pytorch|profiler|execution_graph|process]"}]
    for i, call in enumerate(calls):
        name = call["Collective name"]
        tail: list[Any] = [[], []]
        outputs = [[13, 14, 0, call["Out msg nelems"], 2, f"cuda:{rank}"]]
        if call["In split size"] != "[]":
            tail = [json.loads(call[key]) for key in ("In split size", "Out split size")]
        if name in ("wait", "barrier"):
            inputs, types, outputs = [i, 94594108284448 + rank, rank, name, *tail], ["Int"], []
        else:
            tensor = [11, 12, 0, call["In msg nelems"], 2, f"cuda:{rank}"]
            inputs, types = [tensor, i, 94594108284448 + rank, rank, name, *tail], ["Tensor(c10::BFloat16)"]
        node = {"inputs": inputs, "input_types": types, "outputs": outputs}
        nodes.append({"id": 10 + i, "name": "record_param_comms"} | node)
    return {"schema": "1.0.1", "nodes": nodes}


def save(folder: Path, **documents: Any) -> Path:
    """Write documents as JSON files into a folder."""
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def both(calls: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    """Kineto files of ranks 0 and 1 with the same calls."""
    return {f"r{rank}": kineto(rank, copy.deepcopy(calls), **options) for rank in (0, 1)}


def rows(trace: Trace, rank: int = 0) -> list[dict[str, Any]]:
    """The rows of one rank."""
    return [row for row in trace.table().to_pylist() if row["rank"] == rank]


def refusal(folder: Path) -> str:
    """What the importer says to a folder that it must refuse."""
    with pytest.raises(TraceError) as caught:
        import_kineto(folder)
    return str(caught.value)


# Recent files, with arguments.


def test_recent_file_gives_every_column(tmp_path: Path):
    """Sizes, group, order, times, algorithm and source of one all-reduce, each from its place in the file."""
    trace = import_kineto(save(tmp_path, **both([arguments("allreduce", 600)])))
    (row,) = rows(trace, rank=1)
    assert {key: value for key, value in row.items() if value is not None} == {
        "op_id": 1,
        "rank": 1,
        "group_id": 0,
        "group_seq": 0,
        "op": "all_reduce",
        "send_bytes": 1200,
        "recv_bytes": 1200,
        "dtype": "bfloat16",
        "elem_bits": 16,
        "send_count": 600,
        "recv_count": 600,
        "reduce_op": "sum",
        "stream": 9,
        "t_issue_ns": 1_000,  # rank 1 is 1 us late; times count from the launch of rank 0
        "t_start_ns": 91_000,
        "t_end_ns": 191_000,
        "timing_source": "device_kernel",
        "algorithm": "Ring",
        "protocol": "LL",
        "name": "allreduce",
        "source_ref": "r1.json: NCCL kernel with correlation 100",
        "annotations": [
            ("kernel", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL"),
            ("arguments", "r1.json: NCCL kernel with correlation 100"),
        ],
    }
    assert trace.world_size == 2
    assert [(group.name, group.ranks.tolist()) for group in trace.groups] == [("0", [0, 1])]
    assert trace.metadata.t0_unix_ns == 10_000
    assert trace.metadata.complete is not None
    assert trace.metadata.complete.missing_ranks == ()


def test_times_are_exact_decimals(tmp_path: Path):
    """Microseconds with three decimals become whole nanoseconds, though no double holds them."""
    documents = both([arguments("allreduce", 2)])
    for document in documents.values():
        document["baseTimeNanoseconds"] = 1711964646000000000
        for event in document["traceEvents"][1:]:
            event["ts"] += 4458676524716
    text = json.dumps(documents["r0"])
    assert text.count("4458676524816,") == 1
    (tmp_path / "r0.json").write_text(text.replace("4458676524816,", "4458676524816.094,"), encoding="utf-8")
    save(tmp_path, r1=documents["r1"])
    trace = import_kineto(tmp_path)
    t0_ns = trace.metadata.t0_unix_ns
    assert t0_ns is not None
    assert t0_ns + rows(trace)[0]["t_start_ns"] == 1711964646000000000 + 4458676524816094
    assert rows(trace)[0]["t_end_ns"] - rows(trace)[0]["t_start_ns"] == 100_000


def test_splits_are_rows_of_dimension_0(tmp_path: Path):
    """A split counts rows: 3 and 1 of 4 rows of 8 BF16 elements are 48 and 16 bytes."""
    splits = [("[3, 1]", "[3, 5]"), ("[5, 1]", "[1, 1]")]
    for rank, (sent, received) in enumerate(splits):
        rows_sent, rows_received = sum(json.loads(sent)), sum(json.loads(received))
        call = arguments("all_to_allv", 8 * rows_sent, 8 * rows_received)
        save(tmp_path, **{f"r{rank}": kineto(rank, [call | {"In split size": sent, "Out split size": received}])})
    first, second = (rows(import_kineto(tmp_path), rank)[0] for rank in (0, 1))
    assert first["op"] == "all_to_all_v"
    assert (first["send_bytes_per_peer"], first["recv_bytes_per_peer"]) == ([48, 16], [48, 80])
    assert (second["send_bytes_per_peer"], second["recv_bytes_per_peer"]) == ([80, 16], [16, 16])
    assert (first["send_bytes"], first["recv_bytes"]) == (64, 128)


def test_wait_is_not_a_transfer(tmp_path: Path):
    """A wait between two collectives makes no row and takes no number."""
    calls = [arguments("allreduce", 2), arguments("wait", 0), arguments("allreduce", 4)]
    trace = import_kineto(save(tmp_path, **both(calls)))
    assert [(row["group_seq"], row["send_bytes"]) for row in rows(trace)] == [(0, 4), (1, 8)]


def test_other_collectives(tmp_path: Path):
    """A gather has its shard, a broadcast sends at its root only, a barrier moves nothing."""
    calls = [
        arguments("_allgather_base", 2, 4),
        arguments("broadcast", 6, Rank=1),
        arguments("barrier", 0),
    ]
    trace = import_kineto(save(tmp_path, **both(calls)))
    seen = {rank: [(row["op"], row["send_bytes"], row["recv_bytes"]) for row in rows(trace, rank)] for rank in (0, 1)}
    assert seen[0] == [("all_gather", 4, 8), ("broadcast", 0, 12), ("barrier", 0, 0)]
    assert seen[1] == [("all_gather", 4, 8), ("broadcast", 12, 12), ("barrier", 0, 0)]
    assert rows(trace)[1]["root"] == 1


def test_groups_come_from_the_header(tmp_path: Path):
    """Members stand in pg_config, where an empty list means everyone; the cut list of the call is not used."""
    calls = [
        arguments("allreduce", 2, **{"Process Group Name": "tp", "Process Group Ranks": "[2, 0, ...]"}),
        arguments("allreduce", 4, **{"Process Group Name": "0"}),
    ]
    documents = {}
    for rank in range(3):
        document = kineto(rank, calls if rank != 1 else calls[1:], world_size=3)
        document["distributedInfo"]["pg_config"] = [
            {"pg_name": "0", "ranks": []},
            {"pg_name": "tp", "ranks": [2, 0]},
        ]
        documents[f"r{rank}"] = document
    trace = import_kineto(save(tmp_path, **documents))
    assert [(group.name, group.ranks.tolist()) for group in trace.groups] == [("0", [0, 1, 2]), ("tp", [2, 0])]
    assert [(row["group_id"], row["group_seq"]) for row in rows(trace)] == [(1, 0), (0, 0)]
    assert [(row["group_id"], row["group_seq"]) for row in rows(trace, 1)] == [(0, 0)]


def test_recorded_sequence_numbers_are_used(tmp_path: Path):
    """Where every call has a Seq, it matches the ranks, and nothing was inferred."""
    calls = [arguments("allreduce", 2, Seq=41), arguments("allreduce", 4, Seq=42)]
    trace = import_kineto(save(tmp_path, **both(calls)))
    assert [row["group_seq"] for row in rows(trace)] == [41, 42]
    assert trace.metadata.source is not None
    assert trace.metadata.source["inferred"] == []


def test_clock_is_judged_by_the_collectives(tmp_path: Path):
    """Clocks agree if no rank ends before the last has begun; here the two ends are 1 us apart, then 500 us."""
    trace = import_kineto(save(tmp_path, **both([arguments("allreduce", 2)])))
    assert trace.metadata.clock is not None
    assert (trace.metadata.clock.aligned, trace.metadata.clock.max_skew_ns) == (True, 1000)
    documents = both([arguments("allreduce", 2)])
    documents["r1"]["traceEvents"][-1]["ts"] += 499
    trace = import_kineto(save(tmp_path, **documents))
    assert trace.metadata.clock is not None
    assert (trace.metadata.clock.aligned, trace.metadata.clock.max_skew_ns) == (False, 500_000)


# Old files, joined with execution traces.


def old_recording(folder: Path, calls: list[dict[str, Any]]) -> Path:
    """Kineto files without arguments beside execution traces, both ranks."""
    return save(folder, **both(calls, old=True), **{f"et{rank}": execution_trace(rank, calls) for rank in (0, 1)})


EVEN = {"In split size": "[2, 2]", "Out split size": "[2, 2]"}


def test_old_file_is_joined_by_order(tmp_path: Path):
    """Sizes and splits come from the execution trace, times from the profile; what was inferred is written down."""
    calls = [
        arguments("all_to_allv", 8) | EVEN,
        arguments("wait", 0),
        arguments("barrier", 0),
        arguments("allreduce", 4),
    ]
    trace = import_kineto(old_recording(tmp_path, calls))
    assert [(row["op"], row["send_bytes"], row["t_start_ns"]) for row in rows(trace)] == [
        ("all_to_all_v", 16, 90_000),
        ("barrier", 0, 2_090_000),
        ("all_reduce", 8, 3_090_000),
    ]
    assert rows(trace)[0]["send_bytes_per_peer"] == [8, 8]
    assert rows(trace)[0]["annotations"][1] == ("arguments", "et0.json: node 10")
    assert [(group.name, group.ranks.tolist()) for group in trace.groups] == [("world", [0, 1])]
    assert trace.metadata.source is not None
    assert [text.split(":")[0] for text in trace.metadata.source["inferred"]] == [
        "sizes and splits",
        "groups",
        "group_seq",
    ]


def test_cut_split_list_is_refused_unless_the_execution_trace_has_it(tmp_path: Path):
    """The profiler cuts lists after 30 entries; the importer never pads, but takes whole lists where they are."""
    calls = [arguments("all_to_allv", 8) | EVEN]
    cut = [calls[0] | {"In split size": "[2, ...]"}]
    assert "cut the split list short" in refusal(save(tmp_path, **both(cut)))
    save(tmp_path, **{f"et{rank}": execution_trace(rank, calls) for rank in (0, 1)})
    trace = import_kineto(tmp_path)
    assert rows(trace)[0]["send_bytes_per_peer"] == [8, 8]
    assert [group.name for group in trace.groups] == ["0"]


def test_old_file_alone_is_refused(tmp_path: Path):
    """Without arguments and without execution traces nobody knows what was moved."""
    text = refusal(save(tmp_path, **both([arguments("allreduce", 4)], old=True)))
    assert text.startswith("r0.json: NCCL kernel with correlation 100: the file does not say what was moved")
    assert "give the execution trace of rank 0 too" in text


@pytest.mark.parametrize(
    ("profiled", "traced", "complaint"),
    [
        (
            ["allreduce"],
            ["allreduce", "allreduce"],
            "1 NCCL kernels, but 2 collectives in the execution trace of rank 0",
        ),
        (["allreduce"], ["_allgather_base"], "does not carry _allgather_base of et0.json: node 10"),
    ],
)
def test_files_of_different_steps_are_refused(tmp_path: Path, profiled: list[str], traced: list[str], complaint: str):
    """A join whose numbers or kinds of calls differ is an error, not a guess."""
    save(tmp_path, **both([arguments(name, 4) for name in profiled], old=True))
    calls = [arguments(name, 4) for name in traced]
    save(tmp_path, **{f"et{rank}": execution_trace(rank, calls) for rank in (0, 1)})
    text = refusal(tmp_path)
    assert complaint in text
    assert "do not show the same steps" in text


@pytest.mark.parametrize("old", [True, False])
def test_files_with_different_sizes_are_refused(tmp_path: Path, old: bool):
    """The profile's element count, from its annotation or its arguments, must be the execution trace's."""
    save(tmp_path, **both([arguments("allreduce", 6)], old=old), et0=execution_trace(0, [arguments("allreduce", 4)]))
    assert "send_count is 6, but 4 in et0.json: node 10" in refusal(tmp_path)


def test_several_unnamed_groups_are_refused(tmp_path: Path):
    """Addresses of process groups say nothing of their members; with two of them the world is not a safe guess."""
    calls = [arguments("allreduce", 4)] * 2
    old_recording(tmp_path, calls)
    document = execution_trace(0, calls)
    document["nodes"][-1]["inputs"][2] += 64
    assert "rank 0 uses several process groups" in refusal(save(tmp_path, et0=document))


# What is refused.


def test_missing_ranks_are_named(tmp_path: Path):
    """One rank of two is no recording of a collective; the message says which is missing and what to do."""
    text = refusal(save(tmp_path, r0=kineto(0, [arguments("allreduce", 4)], world_size=12)))
    assert "the job has 12 ranks, the recording 1; missing ranks: 1, 2, 3, 4, 5, 6, 7, 8, ... (11 in all)." in text
    assert "add their Kineto files" in text


def test_collectives_short_of_a_rank_are_refused(tmp_path: Path):
    """A rank with fewer collectives in a group was profiled over other steps."""
    calls = [arguments("allreduce", 4)] * 3
    text = refusal(save(tmp_path, r0=kineto(0, calls), r1=kineto(1, calls[:2])))
    assert "process group '0': rank 0 recorded 3 collectives, rank 1 2; profile the same steps" in text


def test_ranks_that_disagree_are_refused(tmp_path: Path):
    """What one rank sends another must expect: the trace's own rules hold on import."""
    documents = both([arguments("all_to_allv", 8) | EVEN])
    for event in documents["r1"]["traceEvents"]:
        if event["name"] == "record_param_comms":
            event["args"]["Out split size"] = "[1, 3]"
    assert "per_peer" in refusal(save(tmp_path, **documents))


def change(key: str, value: Any) -> Any:
    """Make a change of the first call's arguments."""

    def apply(document: dict[str, Any]) -> None:
        document["traceEvents"][1]["args"][key] = value

    return apply


def drop(category: str) -> Any:
    """Make a change that removes the events of a category."""

    def apply(document: dict[str, Any]) -> None:
        document["traceEvents"] = [event for event in document["traceEvents"] if event.get("cat") != category]

    return apply


def launch_both_in_one_call(document: dict[str, Any]) -> None:
    """Put the second launch into the first call."""
    launches = [event for event in document["traceEvents"] if event.get("cat") == "cuda_runtime"]
    launches[1]["ts"] = launches[0]["ts"] + 1


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (change("Collective name", "send"), "'send' cannot be converted; the importer knows _allgather_base,"),
        (change("Collective name", "broadcast"), "does not carry broadcast"),
        (change("dtype", "Quad"), "unknown element type 'Quad'; known: BFloat16,"),
        (change("In msg nelems", "many"), "its NCCL arguments cannot be read"),
        (change("Process Group Ranks", "[1, 2]"), "process group '0' has ranks 1, 2, not the caller 0"),
        (change("Process Group Ranks", "[0, ...]"), "process group '0' has unknown ranks"),
        (launch_both_in_one_call, "comes from the same call as r0.json: NCCL kernel with correlation 100"),
        (drop("cuda_runtime"), "its launch was not recorded"),
        (drop("cpu_op"), "no record_param_comms encloses its launch"),
        (drop("kernel"), "the 'allreduce' called at 0 ns has no NCCL kernel"),
        (lambda document: document.pop("distributedInfo"), "distributedInfo with rank and world_size is missing"),
        (lambda document: document["traceEvents"][1].pop("ts"), "not the shape of a Kineto file (KeyError('ts'))"),
        (
            lambda document: document["distributedInfo"].update(rank=1),
            "r1.json: a second Kineto file of rank 1, after r0",
        ),
        (lambda document: document["distributedInfo"].update(world_size=3), "world_size is 2, but 3 in r0.json"),
    ],
)
def test_unusable_file_is_refused(tmp_path: Path, edit: Any, complaint: str):
    """Each fault of one file ends with a message that names the file and the fault."""
    documents = both([arguments("allreduce", 4)] * 2)
    edit(documents["r0"])
    assert complaint in refusal(save(tmp_path, **documents))


def test_clock_is_unknown_from_broadcasts(tmp_path: Path):
    """A root may leave a broadcast before the others come, so it says nothing of clocks."""
    assert import_kineto(save(tmp_path, **both([arguments("broadcast", 4, Rank=0)]))).metadata.clock is None


def test_broadcast_without_root_is_refused(tmp_path: Path):
    """Files of 2023 and 2024 do not say who broadcasts; the importer does not guess."""
    assert "the root of this broadcast is not recorded" in refusal(save(tmp_path, **both([arguments("broadcast", 4)])))


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda nodes: nodes[1]["inputs"].pop(), "et0.json: node 10: not the shape of an execution trace"),
        (lambda nodes: nodes[1]["inputs"][0].__setitem__(4, 4), "element size contradicts its type 'c10::BFloat16'"),
        (lambda nodes: nodes[1]["inputs"].__setitem__(3, 1), "its collectives name 2 ranks as the caller"),
        (
            lambda nodes: [node["inputs"].__setitem__(3, 5) for node in nodes[1:]],
            "et0.json: of rank 5, but the job has 2",
        ),
    ],
)
def test_unusable_execution_trace_is_refused(tmp_path: Path, edit: Any, complaint: str):
    """Each fault of an execution trace ends with a message that names file and node."""
    calls = [arguments("allreduce", 4)] * 2
    old_recording(tmp_path, calls)
    document = execution_trace(0, calls)
    edit(document["nodes"])
    assert complaint in refusal(save(tmp_path, et0=document))


def test_execution_traces_alone_are_refused(tmp_path: Path):
    """They have no times."""
    text = refusal(save(tmp_path, et0=execution_trace(0, [arguments("allreduce", 4)])))
    assert "there is no Kineto file: execution traces have no times" in text


def test_profile_without_nccl_is_refused(tmp_path: Path):
    """A profile of the host alone holds nothing to replay."""
    assert "no rank ran an NCCL kernel" in refusal(save(tmp_path, **both([])))


# Splits.


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40), st.integers(1, 64), st.sampled_from([8, 16, 32, 64]))
def test_bytes_per_peer_sum_to_the_whole(splits: list[int], row_elements: int, elem_bits: int):
    """Whatever the rows are, the parts sum to the count and each is its share."""
    count = sum(splits) * row_elements
    parts = bytes_per_peer(splits, count, elem_bits, len(splits), "here")
    assert sum(parts) == count * elem_bits // 8
    assert [part * 8 for part in parts] == [split * row_elements * elem_bits for split in splits]


@pytest.mark.parametrize(
    ("splits", "count", "complaint"),
    [
        ([1, 1, 1], 4, "here: the split list has 3 entries, its group 2 ranks"),
        ([2, 1], 4, "here: splits [2, 1] do not divide 4 elements"),
        ([0, 0], 4, "here: splits [0, 0] do not divide 4 elements"),
        ([3, -1], 4, "here: splits [3, -1] do not divide 4 elements"),
        ([], 3, "here: splits [1, 1] do not divide 3 elements"),
    ],
)
def test_impossible_splits_are_refused(splits: list[int], count: int, complaint: str):
    """Splits must fit the group and the count; no list means even parts."""
    with pytest.raises(TraceError) as caught:
        bytes_per_peer(splits, count, 16, 2, "here")
    assert complaint in str(caught.value)


# Files.


def test_archives_and_compressed_files_are_read(tmp_path: Path):
    """A folder with a tar archive and a gzip file gives the same documents; macOS attribute files are passed over."""
    documents = both([arguments("allreduce", 4)])
    with tarfile.open(tmp_path / "profile.tar.gz", "w:gz") as archive:
        for name, data in (
            ("run/r0.json", json.dumps(documents["r0"]).encode()),
            ("run/._r0.json", b"\x00\x05\x16\x07"),
            ("run/notes.txt", b"not a profile"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    (tmp_path / "r1.json.gz").write_bytes(gzip.compress(json.dumps(documents["r1"]).encode()))
    by_folder = import_kineto(tmp_path)
    by_name = import_kineto([tmp_path / "profile.tar.gz", tmp_path / "r1.json.gz"])
    assert by_folder.table().equals(by_name.table(), check_metadata=True)
    assert [row["send_bytes"] for row in rows(by_folder)] == [8]
    assert by_folder.metadata.source is not None
    assert [file["name"] for file in by_folder.metadata.source["files"]] == ["r0.json", "r1.json.gz"]


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("x.json", b'{"traceEvents": [', "x.json: not JSON"),
        ("x.json", b"[1]", "x.json: the JSON document is no object"),
        ("x.json", b'{"a": 1}', "x.json: neither a Kineto file (no traceEvents) nor an execution trace"),
        ("x.json.gz", gzip.compress(b'{"traceEvents": []}')[:-9], "x.json.gz: the file is damaged"),
        ("x.json.gz", gzip.compress(b'{"traceEvents": []}')[:-8] + bytes(8), "x.json.gz: the file is damaged (CRC"),
        ("x.tar", b"", "x.tar: not JSON"),
        ("readme.txt", b"", "holds no .json or .json.gz file"),
    ],
    ids=["cut off", "list", "other keys", "cut off gzip", "wrong checksum", "empty", "no JSON at all"],
)
def test_unreadable_file_is_refused(tmp_path: Path, name: str, data: bytes, complaint: str):
    """What is no recording is named, with what was expected."""
    (tmp_path / name).write_bytes(data)
    assert complaint in refusal(tmp_path)


def test_damaged_archive_is_refused(tmp_path: Path):
    """An archive that was cut off is named as such."""
    path = tmp_path / "profile.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(save(tmp_path, r0=kineto(0, [arguments("allreduce", 4)] * 500)) / "r0.json")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(TraceError, match=r"profile\.tar\.gz: the file is damaged"):
        import_kineto(path)


def test_missing_path_is_a_usage_error(tmp_path: Path):
    """No such file, and no file at all, are mistakes of the command, not of the data."""
    with pytest.raises(ConfigError, match=r"absent.json: cannot be read \(No such file or directory\)"):
        import_kineto(tmp_path / "absent.json")
    with pytest.raises(ConfigError, match="no recording was given"):
        import_kineto([])


# Real recordings.

#: Per collective of the DLRM step: operation, bytes sent per rank, shortest and longest kernel in us, and the
#: time from the last start to the last end in us. Read off the recording by other means than the importer.
DLRM = [
    ("all_to_all_v", 24_576, 10, 7635, 11),
    ("all_to_all", 192, 8, 1108, 8),
    ("all_to_all_v", 1_536, 7, 176, 8),
    ("all_to_all_v", 13_568, 7, 133, 8),
    ("all_reduce", 1_576_964, 86, 307, 87),
    ("all_to_all_v", 24_576, 10, 545, 11),
    ("all_reduce", 448, 20, 602, 23),
    ("all_reduce", 907_840, 69, 952, 69),
]


def collectives(trace: Trace) -> list[tuple[Any, ...]]:
    """Sum a trace up in the form of ``DLRM``."""
    result = []
    table = trace.table().to_pylist()
    for number in sorted({row["group_seq"] for row in table}):
        of_all = [row for row in table if row["group_seq"] == number]
        assert sorted(row["rank"] for row in of_all) == list(range(8))
        ((op, sent),) = {(row["op"], row["send_bytes"]) for row in of_all}
        durations_ns = [row["t_end_ns"] - row["t_start_ns"] for row in of_all]
        transfer_ns = max(row["t_end_ns"] for row in of_all) - max(row["t_start_ns"] for row in of_all)
        result.append((op, sent, min(durations_ns) / 1000, max(durations_ns) / 1000, transfer_ns / 1000))
    return result


def test_shipped_dlrm_trace_has_the_recorded_figures():
    """Sizes, kernel durations and transfer times of all eight collectives, and the uneven splits of the fourth."""
    trace = Trace.open(ROOT / "traces" / "dlrm-8rank.arrow")
    assert collectives(trace) == DLRM
    uneven = [row for row in trace.table().to_pylist() if row["group_seq"] == 3]
    sent = [384, 896, 1152, 6656, 2368, 384, 768, 960]
    assert all(row["send_bytes_per_peer"] == sent for row in uneven)
    assert all(row["recv_bytes_per_peer"] == [sent[row["rank"]]] * 8 for row in uneven)


def test_dlrm_recording_gives_the_shipped_trace(shared: Path):
    """The importer, run on the recording, gives every value of the shipped file, and all metadata but whose it is."""
    recording = shared / "recordings" / "param-dlrm"
    trace = import_kineto([recording / "dlrm_kineto.tar.gz", recording / "dlrm_pytorch_et.tar.gz"])
    assert collectives(trace) == DLRM
    shipped = Trace.open(ROOT / "traces" / "dlrm-8rank.arrow")
    assert trace.table().equals(shipped.table())
    recorded = {key: shipped.metadata.source[key] for key in trace.metadata.source}
    assert replace(shipped.metadata, source=recorded) == trace.metadata


def test_recent_recording_of_one_rank(shared: Path, tmp_path: Path):
    """HTA's file is rank 0 of 2 and does not name the roots of its broadcasts: refused for both, and read without."""
    path = shared / "recordings" / "hta" / "nccl_data.json.gz"
    with pytest.raises(TraceError, match="the job has 2 ranks, the recording 1; missing ranks: 1"):
        import_kineto(path)
    text = gzip.decompress(path.read_bytes()).decode()
    other = text.replace('"rank": 0, "world_size": 2', '"rank": 1, "world_size": 2', 1)
    assert other != text
    (tmp_path / "r1.json").write_text(other, encoding="utf-8")
    with pytest.raises(TraceError, match="the root of this broadcast is not recorded"):
        import_kineto([path, tmp_path / "r1.json"])
    with_root = '"Collective name": "broadcast", "Rank": 0,'
    for rank, content in enumerate((text, other)):
        edited = content.replace('"Collective name": "broadcast",', with_root)
        edited = edited.replace('"Collective name": "broadcast"\n', with_root[:-1] + "\n")
        (tmp_path / f"r{rank}.json").write_text(edited, encoding="utf-8")
    seen = rows(import_kineto(tmp_path))
    assert [row["op"] for row in seen].count("all_reduce") == 15
    assert [row["op"] for row in seen].count("broadcast") == 6
    assert {row["send_bytes"] for row in seen if row["op"] == "all_reduce"} == {
        8_196_000,
        31_502_336,
        26_255_360,
        26_550_272,
        9_724_160,
    }


def test_execution_traces_of_later_schemas(shared: Path):
    """Schemas 1.0.3 and 1.1.0 give ranks, members, roots and sizes of 15 all-reduces and 6 broadcasts, no waits."""
    for name, rank, members in (("resnet_1gpu_et", 0, (0,)), ("resnet_2gpu_et", 1, (0, 1))):
        (document,) = read_documents([shared / "recordings" / "param-et" / f"{name}.json.gz"])
        found, calls = read_execution_trace(document)
        assert found == rank
        assert [call.op for call in calls].count("all_reduce") == 15
        assert [call.root for call in calls if call.op == "broadcast"] == [0] * 6
        assert {call.ranks for call in calls} == {members}
        assert calls[0].send_count == calls[0].recv_count == 53120
