"""Networks and records small enough to compute by hand."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from fabricsim.engine.driver import RunRecord
from fabricsim.fabrics import FabricSpec, load_fabric
from fabricsim.fabrics.network import Endpoint, Network, PacketFormat
from fabricsim.fabrics.topologies import Link, Tier, clos, full_mesh
from fabricsim.results.collected import Collected
from fabricsim.results.digest import Digest
from fabricsim.results.result import Result, RunInfo
from fabricsim.workloads.schedule import Schedule, ScheduleBlocks
from fabricsim.workloads.trace import Clock, Trace, trace_from_rows
from tests.oracle.cases import MessageDraft, OperationDraft, TaskDraft, build_schedule

#: Payloads of 100 B become 120 B on the wire: 20 B of overhead, flits of 10 B.
PACKET = PacketFormat(name="small", max_payload_bytes=100, overhead_bytes=20, flit_bytes=10, stripe_min_bytes=50)
#: 1 ps per byte, 1 ns of latency.
LINK = Link(ps_per_byte=Fraction(1), latency_ps=1_000, buffer_bytes=12_000)


def crossbar(terminals: int = 4, planes: int = 1, **changes: Any) -> Network:
    """One switch per plane; launch latency 5 ns, message overhead 300 ps."""
    arguments: dict[str, Any] = {
        "name": "crossbar",
        "terminal_name": "gpu",
        "tiers": [Tier("switch", terminals, 1, LINK, LINK)],
        "num_planes": planes,
        "packet": PACKET,
        "endpoint": Endpoint(launch_latency_ps=5_000, message_overhead_ps=300, slots=16),
        "routing": "spray",
        "copy_ps_per_byte": None,
        "ejection_ps_per_byte": None,
    }
    return clos(**{**arguments, **changes})


def mesh(terminals: int = 4, link: Link = LINK) -> Network:
    """A channel per pair, without launch latency or message overhead."""
    return full_mesh(
        name="mesh",
        terminal_name="npu",
        num_terminals=terminals,
        link=link,
        packet=PACKET,
        endpoint=Endpoint(launch_latency_ps=0, message_overhead_ps=0, slots=16),
        copy_ps_per_byte=None,
        ejection_ps_per_byte=None,
    )


def one_operation(*messages: tuple[int, int, int], ranks: int = 4) -> Schedule:
    """All ranks take part at once; messages are (source rank, target rank, bytes)."""
    drafts = [MessageDraft(source, target, size_bytes) for source, target, size_bytes in messages]
    return build_schedule(ranks, [OperationDraft([TaskDraft(rank) for rank in range(ranks)], drafts)])


def linear(schedule: Schedule) -> np.ndarray:
    """Rank r at terminal r."""
    return np.arange(schedule.num_ranks, dtype=np.int32)


def finished(network: Network, schedule: Schedule, record: RunRecord) -> Result:
    """Make a result with rank r at terminal r."""
    info = RunInfo(
        spec=tiny_fabric(),
        workload={"kind": "test"},
        placement="linear",
        endpoint="fitted",
        faults=(),
        late_faults=(),
        seed=1,
        folded=False,
        folding="switched off",
        packet_hops_simulated=record.packet_hops,
        wall_s=0.5,
    )
    terminals = linear(schedule)
    return Result(
        network=network,
        num_ranks=schedule.num_ranks,
        terminal_of_rank=terminals,
        record=record,
        collected=Collected.of(network, schedule, terminals, record),
        info=info,
    )


def digest_of(schedule: Schedule, record: Any) -> str:
    """The digest of a schedule that comes as a whole."""
    digest = Digest()
    (block,) = ScheduleBlocks.of(schedule)
    digest.add(block, record)
    return digest.hexdigest()


def one_rack(name: str) -> FabricSpec:
    """A fabric of the catalog without what joins several of it."""
    tables = load_fabric(name).model_dump(exclude_none=True)
    del tables["scale_out"], tables["defaults"]["routing"]
    tables["link"] = {key: link for key, link in tables["link"].items() if "rail" not in key}
    return FabricSpec(**tables)


def tiny_fabric() -> FabricSpec:
    """NVL72 cut down to 4 GPUs and 2 planes."""
    tables = one_rack("nvl72").model_dump(exclude_none=True)
    tables["name"] = "tiny"
    tables["topology"]["planes"]["value"] = 2
    tables["tier"]["nvswitch"]["children"]["value"] = 4
    return FabricSpec(**tables)


def small_trace() -> Trace:
    """An all-to-all of 4 KiB per rank over two ranks, 7 us after the begin, and an all-reduce of 100 B after it."""
    rows = [
        {"op": op, "rank": rank, "group_id": 0, "group_seq": seq, "send_bytes": size, "recv_bytes": size,
         "t_start_ns": begin_ns + rank, "t_end_ns": begin_ns + 2_000, "stream": 0}
        for seq, (op, size, begin_ns) in enumerate([("all_to_all", 4_096, 7_000), ("all_reduce", 100, 20_000)])
        for rank in range(2)
    ]  # fmt: skip
    return trace_from_rows(
        rows,
        world_size=2,
        groups=[{"id": 0, "name": "world", "desc": "", "ranks": [0, 1]}],
        clock=Clock(aligned=True, max_skew_ns=None),
        source={"format": "test"},
    )
