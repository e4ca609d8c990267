"""Schedules from short lists, and hypothesis strategies that draw small random cases to simulate.

A case is all that a simulator takes: a network, a schedule, a seed and a placement. No case can deadlock: a task waits
only for tasks of earlier operations, a message only for messages drawn before it in its operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np
from hypothesis import reject
from hypothesis import strategies as st

from fabricsim.engine.changes import Change
from fabricsim.errors import ConfigError, UnreachableError
from fabricsim.fabrics.faults import Fault, apply_faults, each_fault
from fabricsim.fabrics.links import link_classes, linked, node_of
from fabricsim.fabrics.mesh import Dimension, mesh
from fabricsim.fabrics.network import Endpoint, Network, PacketFormat, Protocol, VirtualChannels
from fabricsim.fabrics.parts import package_and_racks
from fabricsim.fabrics.topologies import Link, Tier, check_acyclic, clos, full_mesh
from fabricsim.workloads.schedule import Groups, Messages, Operation, Schedule, Tasks
from tests.oracle.simulator import OracleResult, simulate

# A case stays this small so that a kernel without a compiler can run hundreds of them.
MAX_PACKETS = 500
MAX_SIZE_BYTES = 2000

#: Kinds of networks; the Clos has the most to get wrong, so it comes most often.
KINDS = ("clos", "clos", "clos", "full mesh", "mesh", "links", "parts")


@dataclass(frozen=True)
class TaskDraft:
    """One row of the task table; ``after`` names earlier operations that have a task at the same rank."""

    rank: int
    gap_ps: int = 0
    not_before_ps: int = 0
    launches: bool = True
    after: tuple[int, ...] = ()


@dataclass(frozen=True)
class MessageDraft:
    """One row of the message table; ``waits_for`` are indices inside the operation."""

    source_rank: int
    target_rank: int
    size_bytes: int
    waits_for: tuple[int, ...] = ()


@dataclass(frozen=True)
class OperationDraft:
    """An operation, with one task for each of its ranks."""

    tasks: Sequence[TaskDraft]
    messages: Sequence[MessageDraft] = ()
    groups: Sequence[tuple[int, int, int]] = ()  # first message, count, sources


@dataclass(frozen=True)
class Case:
    """The arguments of a simulator; rank r sits at terminal ``terminal_of_rank[r]``."""

    network: Network
    schedule: Schedule
    seed: int
    terminal_of_rank: tuple[int, ...]
    changes: tuple[Change, ...] = ()


def build_schedule(num_ranks: int, drafts: Sequence[OperationDraft]) -> Schedule:
    """Lay out drafts as the tables of a ``Schedule``."""
    tasks = [(operation, task) for operation, draft in enumerate(drafts) for task in draft.tasks]
    messages = [
        (operation, index, message)
        for operation, draft in enumerate(drafts)
        for index, message in enumerate(draft.messages)
    ]
    task_row = {(operation, task.rank): row for row, (operation, task) in enumerate(tasks)}
    message_row = {(operation, index): row for row, (operation, index, _) in enumerate(messages)}
    predecessors = [[task_row[before, task.rank] for before in task.after] for _, task in tasks]
    groups = [
        (message_row[operation, first], count, sources)
        for operation, draft in enumerate(drafts)
        for first, count, sources in draft.groups
    ]
    waits = [[message_row[operation, index] for index in message.waits_for] for operation, _, message in messages]
    return Schedule(
        num_ranks=num_ranks,
        operations=tuple(
            Operation(
                name=f"operation{number}",
                op="all_to_all_v",
                algorithm="direct",
                ranks=tuple(task.rank for task in draft.tasks),
                size_bytes=sum(message.size_bytes for message in draft.messages),
                descriptors=number,
            )
            for number, draft in enumerate(drafts)
        ),
        tasks=Tasks(
            operation=np.array([operation for operation, _ in tasks], np.int32),
            rank=np.array([task.rank for _, task in tasks], np.int32),
            gap_ps=np.array([task.gap_ps for _, task in tasks], np.int64),
            not_before_ps=np.array([task.not_before_ps for _, task in tasks], np.int64),
            launches=np.array([task.launches for _, task in tasks], np.bool_),
            predecessor_first=np.cumsum([0, *(len(rows) for rows in predecessors)], dtype=np.int64),
            predecessors=np.array([row for rows in predecessors for row in rows], np.int32),
        ),
        messages=Messages(
            operation=np.array([operation for operation, _, _ in messages], np.int32),
            index=np.array([index for _, index, _ in messages], np.int32),
            source_task=np.array([task_row[operation, m.source_rank] for operation, _, m in messages], np.int32),
            target_task=np.array([task_row[operation, m.target_rank] for operation, _, m in messages], np.int32),
            size_bytes=np.array([m.size_bytes for _, _, m in messages], np.int64),
            waits_first=np.cumsum([0, *(len(rows) for rows in waits)], dtype=np.int64),
            waits_for=np.array([row for rows in waits for row in rows], np.int32),
            groups=Groups(*np.array(groups, np.int64).reshape(-1, 3).T),
        ),
    )


def cases() -> st.SearchStrategy[Case]:
    """Draw a case: at random, synchronised, crowded, with detours, of pairs that have lost planes, in the network."""
    return st.one_of(
        random_cases(), synchronised_cases(), crowded_cases(), crowded_meshes(), bereft_cases(), in_network_cases()
    )


@st.composite
def random_cases(draw: st.DrawFn, kinds: Sequence[str] = KINDS, *, whole: bool = False) -> Case:
    """Draw a case in which sizes, times and waits are all drawn for themselves, on a whole network or maybe not."""
    network = draw(networks(alike=draw(st.booleans()), kinds=kinds))
    terminal_of_rank = draw(placements(network))
    if not whole:
        network = draw(faulty(network, terminal_of_rank))
    schedule = draw(random_schedules(len(terminal_of_rank), network))
    return Case(network, schedule, draw(seeds()), terminal_of_rank)


@st.composite
def synchronised_cases(draw: st.DrawFn, *, whole: bool = False) -> Case:
    """Draw a case in which all ranks do the same at the same time, with messages of one size.

    Mostly nothing but ties and places decides who goes first in it.
    """
    network = draw(networks(alike=draw(st.booleans())))
    terminal_of_rank = draw(placements(network))
    if not whole:
        network = draw(faulty(network, terminal_of_rank))
    ranks = range(len(terminal_of_rank))
    size_bytes = draw(sizes(network.packet))
    budget = Budget(network)
    drafts: list[OperationDraft] = []
    for number in range(draw(st.integers(1, 3))):
        pairs = draw(patterns(ranks))
        # One after the other, or all at once: then their messages meet in the slots.
        after = (number - 1,) if number and draw(st.booleans()) else ()
        drafts.append(
            OperationDraft(
                [TaskDraft(rank, after=after) for rank in ranks],
                [MessageDraft(source, target, budget.grant(size_bytes)) for source, target in pairs],
            )
        )
    return Case(network, build_schedule(len(ranks), drafts), draw(seeds()), terminal_of_rank)


@st.composite
def crowded_cases(draw: st.DrawFn) -> Case:
    """Draw one switch with small buffers and latencies of many packets, all of whose terminals send at once.

    Then many credits of a channel are on their way together, and not in the order in which their packets came.
    """
    packet = PacketFormat("crowd", max_payload_bytes=100, overhead_bytes=0, flit_bytes=1, stripe_min_bytes=100)
    links = st.builds(
        Link,
        ps_per_byte=st.sampled_from([Fraction(50), Fraction(100), Fraction(150)]),
        latency_ps=st.sampled_from([5_000, 20_000, 100_000]),
        buffer_bytes=st.integers(1, 6).map(lambda packets: 100 * packets),
    )
    ranks = draw(st.integers(3, 5))
    network = clos(
        name="crowded star",
        terminal_name="gpu",
        tiers=[Tier("switch", children=ranks, parents=1, up=draw(links), down=draw(links))],
        num_planes=1,
        packet=packet,
        endpoint=Endpoint(launch_latency_ps=0, message_overhead_ps=0, slots=draw(st.sampled_from([2, 4]))),
        routing="spray",
        copy_ps_per_byte=None,
        ejection_ps_per_byte=None,
    )
    pair = st.tuples(st.integers(0, ranks - 1), st.integers(1, ranks - 1))
    messages = st.builds(
        lambda pair, size_bytes: MessageDraft(pair[0], sum(pair) % ranks, size_bytes),
        pair,
        st.sampled_from([57, 100, 200, 250, 300]),
    )
    drafts = draw(st.lists(messages, min_size=8, max_size=30))
    schedule = build_schedule(ranks, [OperationDraft([TaskDraft(rank) for rank in range(ranks)], drafts)])
    return Case(network, schedule, draw(seeds()), tuple(range(ranks)))


@st.composite
def crowded_meshes(draw: st.DrawFn) -> Case:
    """Draw a mesh with detours and small buffers, whose terminals are faster than its links and send at once.

    Then queues are long, and detours are taken by cost and by room.
    """
    packet = PacketFormat("crowd", max_payload_bytes=100, overhead_bytes=0, flit_bytes=1, stripe_min_bytes=100)
    sizes = draw(st.sampled_from([(4,), (5,), (3, 2), (3, 3)]))
    between, leaf = (
        Link(Fraction(rate), draw(st.sampled_from([5_000, 20_000])), 100 * draw(st.integers(1, 5)))
        for rate in (100, 20)
    )
    network = mesh(
        name="crowded mesh",
        terminal_name="gpu",
        switch_name="chip",
        dimensions=[Dimension(f"dimension{number}", size, between) for number, size in enumerate(sizes)],
        up=leaf,
        down=leaf,
        packet=packet,
        endpoint=Endpoint(launch_latency_ps=0, message_overhead_ps=0, slots=4),
        routing=draw(st.sampled_from(["ugal", "ugal", "valiant"])),
        copy_ps_per_byte=None,
        ejection_ps_per_byte=None,
    )
    vcs = VirtualChannels(2, draw(st.sampled_from(["oldest", "round_robin", "priority"])))
    ranks = network.num_terminals
    step = draw(st.integers(1, ranks - 1))
    sizes_bytes = draw(st.lists(st.sampled_from([57, 100, 700, 1_500]), min_size=ranks, max_size=ranks))
    drafts = [MessageDraft(rank, (rank + step) % ranks, size_bytes) for rank, size_bytes in enumerate(sizes_bytes)]
    schedule = build_schedule(ranks, [OperationDraft([TaskDraft(rank) for rank in range(ranks)], 2 * drafts)])
    return Case(replace(network, vcs=vcs), schedule, draw(seeds()), tuple(range(ranks)))


@st.composite
def bereft_cases(draw: st.DrawFn) -> Case:
    """Draw some planes of one switch each with dead links, so that pairs have fewer planes than their source.

    Messages use some of the planes, or all.
    """
    packet = draw(packet_formats())
    ranks, planes = draw(st.integers(3, 5)), draw(st.integers(2, 5))
    link = draw(links_for(packet))
    network = clos(
        name="bereft star",
        terminal_name="gpu",
        tiers=[Tier("switch", children=ranks, parents=1, up=link, down=link)],
        num_planes=planes,
        packet=packet,
        endpoint=draw(endpoints()),
        routing="spray",
        copy_ps_per_byte=draw(st.none() | ps_per_byte()),
        ejection_ps_per_byte=None,
    )
    terminals = tuple(range(ranks))
    links = st.lists(st.sampled_from(each_fault(network, "link")), min_size=1, max_size=3, unique=True)
    try:
        broken = apply_faults(network, draw(links), np.array(terminals, np.int32))
    except ConfigError:
        broken = network  # these together cannot be simulated in one run
    budget = Budget(network)
    messages = []
    for _ in range(draw(st.integers(1, 12))):
        source, target = draw(st.sampled_from(terminals)), draw(st.sampled_from(terminals))
        parts = draw(st.integers(1, planes + 1))
        if source == target or broken.bundle_index[source, target] >= 0:
            messages.append(MessageDraft(source, target, budget.grant(parts * packet.stripe_min_bytes)))
    drafts = [OperationDraft([TaskDraft(rank) for rank in terminals], messages)]
    return Case(broken, build_schedule(ranks, drafts), draw(seeds()), terminals)


def cases_with_changes() -> st.SearchStrategy[Case]:
    """Draw a case in which faults come at a time: any, or those after which packets go other ways."""
    return st.one_of(changing_cases(), changing_cases(one_way=True))


@st.composite
def changing_cases(draw: st.DrawFn, *, refused: bool = False, one_way: bool = False) -> Case:
    """Draw a case in which faults come at a time, while there is traffic; if asked in *one_way*.

    Those that would be *refused* come later or not at all; or if so asked they stay, where there are any.
    """
    others = [] if one_way else [random_cases(whole=True), synchronised_cases(whole=True)]
    case = draw(st.one_of(one_way_cases(), *others).filter(lambda case: case.network.detour_count is None))
    case = replace(case, network=replace(case.network, weights=None))
    whole, ranks = case.network, np.array(case.terminal_of_rank, np.int32)

    def run(case: Case) -> OracleResult:
        return simulate(
            case.network,
            case.schedule,
            seed=case.seed,
            terminal_of_rank=case.terminal_of_rank,
            changes=case.changes,
        )

    healthy = run(case)
    links = busy_links(whole, healthy)
    if not links:
        return case
    moments = [healthy.message_ready_ps, healthy.message_first_injection_ps, healthy.message_complete_ps]
    instants = sorted(set(np.concatenate([*moments, healthy.task_end_ps]).tolist()))
    begin_ps, span_ps = int(healthy.message_first_injection_ps.min()), int(healthy.message_complete_ps.max()) + 1
    span_ps -= begin_ps
    times = st.integers(0, 255).map(lambda part: begin_ps + span_ps * part // 256) | st.sampled_from(instants)
    times = times.map(lambda time_ps: max(1, time_ps))
    faults: list[Fault] = []
    for number in range(draw(st.integers(1, 3))):
        kinds = st.sampled_from(links) if one_way else timed_faults(whole, links)
        more = draw(st.lists(kinds, min_size=1, max_size=2))
        try:
            broken = apply_faults(whole, [*faults, *more], ranks)
        except ConfigError:
            continue  # these together cannot be simulated in one run
        for time_ps in sorted(draw(st.lists(times, min_size=3, max_size=3))):
            if number == 0 and not one_way and draw(st.booleans()):
                attempt = replace(case, network=broken)
            else:
                attempt = replace(case, changes=(*case.changes, Change(time_ps, broken)))
            if case.changes and time_ps <= case.changes[-1].time_ps:
                continue
            try:
                run(attempt)
            except UnreachableError:
                if refused and attempt.changes:
                    return attempt
                continue
            case, faults = attempt, [*faults, *more]
            break
    return case


@st.composite
def one_way_cases(draw: st.DrawFn) -> Case:
    """Draw traffic in one direction through a Clos with a choice of ways; of a dead link only the way up is used."""
    packet = draw(packet_formats())
    common = {
        "terminal_name": "gpu",
        "packet": packet,
        "endpoint": draw(endpoints()),
        "copy_ps_per_byte": draw(st.none() | ps_per_byte()),
        "ejection_ps_per_byte": None,
    }
    link = draw(links_for(packet))
    up = replace(link, ps_per_byte=link.ps_per_byte * draw(st.sampled_from([Fraction(1, 4), 1, 5, 25])))
    half = draw(st.integers(2, 4))
    network = clos(
        name="one way",
        tiers=[
            Tier("leaf", children=half, parents=1, up=link, down=draw(links_for(packet))),
            Tier("spine", children=2, parents=draw(st.integers(2, 4)), up=up, down=draw(links_for(packet))),
        ],
        num_planes=draw(st.integers(1, 2)),
        routing=draw(st.sampled_from(["spray", "deterministic", "adaptive"])),
        **common,
    )
    network = replace(network, vcs=draw(virtual_channels()))
    budget = Budget(network)
    size_bytes = draw(st.integers(1, 6)) * packet.max_payload_bytes + draw(st.integers(0, 1))
    rounds, in_turn = draw(st.integers(1, 3)), draw(st.booleans())
    tasks = [TaskDraft(rank) for rank in range(2 * half)]
    pairs = [(source, half + target) for source in range(half) for target in range(half)] * draw(st.integers(1, 3))
    drafts = [
        OperationDraft(
            [replace(task, after=(number - 1,) if number and in_turn else ()) for task in tasks],
            [MessageDraft(source, target, budget.grant(size_bytes)) for source, target in pairs],
        )
        for number in range(rounds)
    ]
    return Case(network, build_schedule(2 * half, drafts), draw(seeds()), tuple(range(2 * half)))


def busy_links(network: Network, healthy: OracleResult) -> list[Fault]:
    """List the links that carry something; if there are any, those between switches that do so in one direction."""
    channels, names = network.channels, network.node_names
    ends = [channels.source_node, channels.target_node]
    busy = np.sort(np.stack(ends)[:, healthy.channel_packets > 0], axis=0).T
    used, directions = np.unique(busy, axis=0, return_counts=True)
    one_way = used[(directions == 1) & (used[:, 0] >= network.num_terminals)]
    return [Fault("link", f"{names[low]}-{names[high]}") for low, high in (one_way if len(one_way) else used).tolist()]


def timed_faults(network: Network, links: Sequence[Fault]) -> st.SearchStrategy[Fault]:
    """Draw a dead link, switch or plane, lost lanes, or bit errors; mostly links that carry something."""
    link = st.sampled_from(links)
    kinds = [link, link, link, link.map(lambda one: Fault("lanes", one.where, Fraction(2, 3)))]
    kinds.append(link.map(lambda one: Fault("bit_errors", one.where, Fraction(1, 10_000))))
    kinds.append(link.map(lambda one: Fault("lanes", one.where, Fraction(1, 7))))
    if network.num_switches:
        kinds.append(st.sampled_from([*each_fault(network, "switch"), *each_fault(network, "plane")]))
    return st.one_of(kinds)


@st.composite
def in_network_cases(draw: st.DrawFn) -> Case:
    """Draw operations with multicasts, a reduction and other messages, on planes of one switch that are mostly whole.

    Buffers hold a packet or few, so packets wait for others while copies wait for their outputs.
    """
    packet = draw(packet_formats())
    num_terminals = draw(st.integers(2, 5))
    link = links_for(packet) if draw(st.booleans()) else st.just(draw(links_for(packet)))
    network = clos(
        name="reducing star",
        terminal_name="gpu",
        tiers=[Tier("switch", children=num_terminals, parents=1, up=draw(link), down=draw(link))],
        num_planes=draw(st.integers(1, 3)),
        packet=packet,
        endpoint=draw(endpoints()),
        routing=draw(st.sampled_from(["spray", "deterministic", "adaptive"])),
        copy_ps_per_byte=draw(st.none() | ps_per_byte()),
        ejection_ps_per_byte=draw(st.none() | ps_per_byte()),
    )
    rate = draw(st.sampled_from([Fraction(0), Fraction(1), Fraction(7, 3), Fraction(40)]))
    network = replace(network, vcs=draw(virtual_channels()), reduction_ps_per_byte=rate)
    if draw(st.booleans()):
        slow = st.sampled_from(each_fault(network, "link")).map(lambda one: Fault("lanes", one.where, Fraction(2, 3)))
        faults = draw(st.lists(slow, min_size=1, max_size=2, unique_by=lambda one: one.where))
        if network.num_planes > 1 and draw(st.booleans()):
            faults.append(draw(st.sampled_from(each_fault(network, "plane"))))
        network = apply_faults(network, faults, np.arange(num_terminals, dtype=np.int32))
    terminal_of_rank = draw(placements(network))
    budget = Budget(network)
    drafts = []
    for number in range(draw(st.integers(1, 3))):
        members = draw(subsets(range(len(terminal_of_rank))))
        messages, groups = draw(in_network_messages(members, network, budget))
        after = tuple(range(number))  # of those before only the ones that the rank is in
        tasks = [
            TaskDraft(
                rank,
                gap_ps=draw(st.just(0) | st.integers(1, 200_000)),
                after=tuple(k for k in after if any(task.rank == rank for task in drafts[k].tasks)),
            )
            for rank in members
        ]
        drafts.append(OperationDraft(tasks, messages, groups))
    schedule = build_schedule(len(terminal_of_rank), drafts)
    return Case(network, schedule, draw(seeds()), terminal_of_rank)


@st.composite
def in_network_messages(
    draw: st.DrawFn, members: Sequence[int], network: Network, budget: Budget
) -> tuple[list[MessageDraft], list[tuple[int, int, int]]]:
    """Draw the messages and groups of an operation: some of a reduction, multicasts, and others between them."""
    messages: list[MessageDraft] = []
    groups: list[tuple[int, int, int]] = []
    pairs = st.tuples(st.sampled_from(members), st.sampled_from(members))

    def others() -> None:
        for source, target in draw(st.lists(pairs, max_size=4)):
            messages.append(MessageDraft(source, target, budget.grant(draw(sizes(network.packet)))))

    def grant(size_bytes: int, copies: int) -> int:
        granted = [budget.grant(size_bytes) for _ in range(copies)]
        return min(granted, default=0)

    others()
    reduced: list[int] = []
    rounds = draw(st.sampled_from([1, 0, 2, 3]))
    size_bytes = grant(draw(sizes(network.packet).filter(bool)), rounds * len(members))
    if rounds and size_bytes:
        groups.append((len(messages), rounds * len(members), len(members)))
        reduced = list(range(len(messages), len(messages) + rounds * len(members)))
        messages += [MessageDraft(rank, rank, size_bytes) for _ in range(rounds) for rank in members]
    others()
    for _ in range(draw(st.integers(0, 4))):
        root = draw(st.sampled_from(members))
        to = [root, *draw(st.permutations([rank for rank in members if rank != root]))]
        to = to[: draw(st.integers(2, len(to)))]
        size_bytes = grant(draw(sizes(network.packet).filter(bool)), len(to))
        if not size_bytes:
            continue
        mine = [index for index in reduced if messages[index].source_rank == root]
        waits = tuple(draw(st.lists(st.sampled_from(mine), max_size=1))) if mine else ()
        groups.append((len(messages), len(to), 1))
        messages += [MessageDraft(root, rank, size_bytes, waits if rank == root else ()) for rank in to]
    if messages and draw(st.booleans()):
        awaited = draw(st.integers(0, len(messages) - 1))
        size_bytes = budget.grant(draw(sizes(network.packet)))
        source = draw(st.sampled_from([messages[awaited].source_rank, messages[awaited].target_rank]))
        messages.append(MessageDraft(source, draw(st.sampled_from(members)), size_bytes, (awaited,)))
    return messages, groups


@st.composite
def networks(draw: st.DrawFn, *, alike: bool, kinds: Sequence[str] = KINDS) -> Network:
    """Draw a network of one of the kinds, with some virtual channels; ``alike`` gives all its channels one link."""
    network = draw(networks_of_a_kind(alike=alike, kinds=kinds))
    if network.num_planes > 1 and draw(st.integers(0, 2)) == 0:
        count = len(network.channels)
        drawn = draw(st.lists(st.integers(1, 5), min_size=count, max_size=count))
        network = replace(network, weights=np.array(drawn, np.int64))
    if network.detour_count is None:
        return replace(network, vcs=draw(virtual_channels()))
    return replace(network, vcs=VirtualChannels(2, draw(st.sampled_from(["oldest", "round_robin", "priority"]))))


def virtual_channels() -> st.SearchStrategy[VirtualChannels]:
    """Draw up to 4, and which of the first operations of a case travel on which."""
    drawn = st.lists(st.integers(0, 3), min_size=6, max_size=6)

    def build(count: int, arbitration: str, vcs: list[int]) -> VirtualChannels:
        operations = ([f"operation{number}" for number, vc in enumerate(vcs) if vc == k] for k in range(1, count))
        return VirtualChannels(count, arbitration, tuple(map(tuple, operations)))

    return st.builds(build, st.sampled_from([1, 2, 4]), st.sampled_from(["oldest", "round_robin", "priority"]), drawn)


@st.composite
def networks_of_a_kind(draw: st.DrawFn, *, alike: bool, kinds: Sequence[str]) -> Network:
    """Draw a network of one of the kinds, with one virtual channel."""
    packet = draw(packet_formats())
    links = st.just(draw(links_for(packet))) if alike else links_for(packet)
    rates = st.none() | ps_per_byte()
    common = {
        "terminal_name": "gpu",
        "packet": packet,
        "endpoint": draw(endpoints()),
        "copy_ps_per_byte": draw(rates),
        "ejection_ps_per_byte": draw(rates),
    }
    routing = draw(st.sampled_from(["spray", "deterministic", "adaptive"]))
    kind = draw(st.sampled_from(kinds))
    if kind == "full mesh":
        num_terminals = draw(st.integers(2, 6))
        return full_mesh(name="random full mesh", num_terminals=num_terminals, link=draw(links), **common)
    if kind == "mesh":
        return draw(meshes(links, draw(st.sampled_from(["deterministic", "valiant", "ugal"])), common))
    if kind == "links":
        return draw(linked_networks(links, draw(st.sampled_from([routing, "valiant", "ugal"])), common))
    network = draw(closes(links, routing, common))
    if kind == "parts" and network.num_terminals <= 4:
        network = draw(parted_networks(network, links, routing, common))
    if draw(st.booleans()):
        return network
    # An overhead of some least latencies lets a simulator run planes ahead of each other: tempt it to.
    overhead_ps = draw(st.integers(1, 20)) * int(network.channels.latency_ps.min())
    return replace(network, endpoint=replace(network.endpoint, message_overhead_ps=overhead_ps))


@st.composite
def closes(draw: st.DrawFn, links: st.SearchStrategy[Link], routing: str, common: dict[str, Any]) -> Network:
    """Draw a Clos of 1 to 3 tiers and 1 to 3 planes."""
    num_tiers = draw(st.sampled_from([1, 2, 3, 2, 3]))  # deeper ones take their turns and mix their rates
    children = st.integers(2, {1: 6, 2: 3, 3: 2}[num_tiers])
    tiers = [
        Tier(
            name=f"tier{level}",
            children=draw(children | st.just(1) if level < num_tiers else children),
            parents=draw(st.sampled_from([2, 3, 1])) if level > 1 else 1,
            up=draw(links),
            down=draw(links),
        )
        for level in range(1, num_tiers + 1)
    ]
    return clos(name="random clos", tiers=tiers, num_planes=draw(st.sampled_from([2, 3, 1])), routing=routing, **common)


@st.composite
def meshes(draw: st.DrawFn, links: st.SearchStrategy[Link], routing: str, common: dict[str, Any]) -> Network:
    """Draw a full mesh of 1 to 3 dimensions; one of a single terminal is among them, and many have detours."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3).filter(lambda sizes: 2 <= prod(sizes) <= 12))
    dimensions = [Dimension(f"dimension{number}", size, draw(links)) for number, size in enumerate(sizes)]
    return mesh(
        name="random mesh",
        switch_name="chip",
        dimensions=dimensions,
        up=draw(links),
        down=draw(links),
        routing=routing if max(sizes) > 2 else "deterministic",
        **common,
    )


@st.composite
def linked_networks(draw: st.DrawFn, links: st.SearchStrategy[Link], routing: str, common: dict[str, Any]) -> Network:
    """Draw two planes of any connected switches, joined by trees and some links more, and some direct links."""
    num_terminals = draw(st.integers(2, 5))
    pairs = []
    for plane in range(draw(st.integers(1, 2))):
        level = f"level{plane}"
        num_switches = draw(st.integers(1, 4))
        pairs += [
            (f"{level}.{switch}", f"{level}.{draw(st.integers(0, switch - 1))}") for switch in range(1, num_switches)
        ]
        switches = st.integers(0, num_switches - 1)
        more = draw(st.lists(st.tuples(switches, switches), max_size=3))
        pairs += [(f"{level}.{one}", f"{level}.{other}") for one, other in more if one != other]
        pairs += [(f"gpu{terminal}", f"{level}.{draw(switches)}") for terminal in range(num_terminals)]
    terminals = st.integers(0, num_terminals - 1)
    direct = draw(st.sets(st.tuples(terminals, terminals), max_size=2))
    pairs += [(f"gpu{one}", f"gpu{other}") for one, other in direct if one < other]
    nodes = [
        (node_of(a, "gpu", num_terminals), node_of(b, "gpu", num_terminals)) for a, b in draw(st.permutations(pairs))
    ]
    ups, downs = link_classes(nodes)
    classes = {name: draw(links) for name in dict.fromkeys([*ups, *downs])}
    try:
        network = linked(
            name="random links", num_terminals=num_terminals, links=nodes, classes=classes, routing=routing, **common
        )
        check_acyclic(network)
    except ConfigError:
        reject()
    return network


@st.composite
def parted_networks(
    draw: st.DrawFn, rack: Network, links: st.SearchStrategy[Link], routing: str, common: dict[str, Any]
) -> Network:
    """Draw packages inside a rack, several racks that a rail network joins, or both."""
    num_racks = draw(st.integers(1, 2))
    package = scale_out = None
    if rack.num_terminals == 4 and (num_racks == 1 or draw(st.booleans())):
        package = full_mesh(name="package", num_terminals=2, link=draw(links), **common)
    num_rails = draw(st.sampled_from([size for size in (1, 2, 3, 4) if rack.num_terminals % size == 0]))
    if num_racks > 1:
        per_rail = num_racks * rack.num_terminals // num_rails
        spine = Tier("spine", num_rails, draw(st.integers(1, 3)), draw(links), draw(links))
        rail = Tier("rail", per_rail, 1, draw(links), draw(links))
        scale_out = clos(name="scale-out", tiers=[rail, spine], num_planes=1, routing=routing, **common)
    return package_and_racks(
        replace(rack, name="random parts"),
        terminal_name="gpu",
        routing=routing,
        package=package,
        num_racks=num_racks,
        scale_out=scale_out,
        num_rails=num_rails,
    )


def packet_formats() -> st.SearchStrategy[PacketFormat]:
    """Draw a format of small packets, so that few bytes make many and the last one is often short."""
    return st.builds(
        PacketFormat,
        name=st.just("tiny"),
        max_payload_bytes=st.integers(1, 300),
        overhead_bytes=st.integers(0, 40),
        flit_bytes=st.integers(1, 20),
        stripe_min_bytes=st.integers(1, 300),
    )


def endpoints() -> st.SearchStrategy[Endpoint]:
    """Draw what a terminal adds; a launch latency and a message overhead of zero are as likely as not."""
    return st.builds(
        Endpoint,
        launch_latency_ps=st.just(0) | st.integers(1, 3_000_000),
        message_overhead_ps=st.just(0) | st.integers(1, 500_000),
        slots=st.sampled_from([2, 3, 4, 1]),
        acked=st.sampled_from([False, False, True]),
        copy_ps_per_byte=st.just(Fraction(0)) | ps_per_byte(),
        protocols=st.lists(protocols(), max_size=2).map(tuple),
    )


def protocols() -> st.SearchStrategy[Protocol]:
    """Draw what a library adds to all_to_all_v, which all operations of a case are; any of it may be nothing."""
    times_ps = st.just(0) | st.integers(1, 300_000)
    rates = st.just(Fraction(0)) | ps_per_byte()
    return st.builds(
        Protocol,
        operations=st.sampled_from([("all_to_all_v",), ("all_reduce", "all_to_all_v"), ("moe_combine",)]),
        least_part_bytes=st.sampled_from([0, 1, 100, 1000]),
        launch_latency_ps=times_ps,
        step_latency_ps=times_ps,
        staging_ps_per_byte=rates,
        part_ps_per_byte=rates,
        piece_overhead_ps=times_ps,
        descriptor_latency_ps=times_ps,
        descriptor_gap_ps=times_ps,
    )


@st.composite
def links_for(draw: st.DrawFn, packet: PacketFormat) -> Link:
    """Draw a link whose buffer holds one largest packet exactly, a few or all packets of a case."""
    largest = packet.wire_bytes(packet.max_payload_bytes)
    return Link(
        ps_per_byte=draw(ps_per_byte()),
        latency_ps=draw(st.sampled_from([1_000, 20_000, 100_000, 200_000]) | st.integers(1_000, 2_000_000)),
        buffer_bytes=draw(st.just(largest) | st.integers(largest, 3 * largest) | st.just(1 << 20)),
    )


def ps_per_byte() -> st.SearchStrategy[Fraction]:
    """Draw a rate in ps per byte: a usual one, or any fraction of small terms (down to 1/30: many bytes per ps)."""
    usual = st.sampled_from([Fraction(10), Fraction(20), Fraction(125, 7), Fraction(250, 7), Fraction(383000, 392)])
    return usual | st.builds(Fraction, st.integers(1, 3_000), st.integers(1, 30))


def seeds() -> st.SearchStrategy[int]:
    """Draw a seed; half of them do not fit into 32 bits."""
    return st.integers(0, 2**32 - 1) | st.integers(2**32, 2**63 - 1)


@st.composite
def placements(draw: st.DrawFn, network: Network) -> tuple[int, ...]:
    """Draw a terminal for each of at least two ranks; some terminals may stay empty."""
    return draw(subsets(range(network.num_terminals)))


@st.composite
def subsets(draw: st.DrawFn, items: Sequence[int]) -> tuple[int, ...]:
    """Draw at least two of the items, often all of them, in any order."""
    count = draw(st.just(len(items)) | st.integers(2, len(items)))
    return tuple(draw(st.permutations(items))[:count])


@st.composite
def faulty(draw: st.DrawFn, network: Network, terminal_of_rank: tuple[int, ...]) -> Network:
    """Break nothing, as often as not, or up to three things that leave a way between any two of the ranks."""
    whole = network
    ranks = np.array(terminal_of_rank, np.int32)
    faults: list[Fault] = []
    links = st.sampled_from(each_fault(whole, "link"))
    for _ in range(draw(st.sampled_from([0, 1, 0, 2, 0, 3]))):
        kinds = [links, links.map(lambda link: Fault("lanes", link.where, Fraction(2, 3)))]
        if whole.num_switches:
            kinds.append(st.sampled_from([*each_fault(whole, "switch"), *each_fault(whole, "plane")]))
        kinds.append(st.integers(0, len(ranks) - 1).map(lambda rank: Fault("slow_rank", str(rank), Fraction(3, 2))))
        fault = draw(st.one_of(kinds))
        try:
            broken = apply_faults(whole, [*faults, fault], ranks)
        except ConfigError:
            continue  # these together cannot be simulated in one run
        if (broken.bundle_index[np.ix_(ranks, ranks)] >= 0).sum() == len(ranks) * (len(ranks) - 1):
            network = broken
            faults.append(fault)
    return network


class Budget:
    """The packets that a case may still make."""

    def __init__(self, network: Network) -> None:
        self.packet = network.packet
        self.planes = network.num_planes
        self.packets_left = MAX_PACKETS

    def grant(self, size_bytes: int) -> int:
        """Return ``size_bytes``, or 0 where a message of that size would make too many packets."""
        packets = self.planes + size_bytes // self.packet.max_payload_bytes  # at most: a short one on each plane
        if packets > self.packets_left:
            return 0
        self.packets_left -= packets
        return size_bytes


def sizes(packet: PacketFormat) -> st.SearchStrategy[int]:
    """Draw the size of a message: any, a packet or less (which may fit where a full one does not), or whole packets."""
    full = packet.max_payload_bytes
    most = min(MAX_SIZE_BYTES, 40 * full)
    return st.integers(0, most) | st.integers(1, full) | st.integers(1, min(8, most // full)).map(lambda n: n * full)


@st.composite
def patterns(draw: st.DrawFn, ranks: Sequence[int]) -> list[tuple[int, int]]:
    """Draw who sends to whom, as (source rank, target rank): each to all, all to one, one pair again and again, any."""
    ranks = list(ranks)
    shape = draw(st.sampled_from(["all to all", "incast", "one pair", "any"]))
    if shape == "all to all":
        return [(source, target) for source in ranks for target in ranks]
    if shape == "any":
        anyone = st.sampled_from(ranks)
        return draw(st.lists(st.tuples(anyone, anyone), min_size=6, max_size=16))
    source, target = draw(st.permutations(ranks))[:2]
    if shape == "one pair":
        return [(source, target)] * draw(st.integers(2, 8))
    return [(source, target) for source in ranks if source != target] * draw(st.integers(1, 3))


@st.composite
def random_schedules(draw: st.DrawFn, num_ranks: int, network: Network) -> Schedule:
    """Draw up to five operations, each over any of the ranks; some move nothing, as a recorded computation does."""
    budget = Budget(network)
    times_ps = st.just(0) | st.integers(1, 2_000_000)
    drafts: list[OperationDraft] = []
    operations_at: dict[int, list[int]] = {rank: [] for rank in range(num_ranks)}
    for number in range(draw(st.integers(1, 5))):
        ranks = draw(subsets(range(num_ranks)))
        moves = draw(st.sampled_from([True, True, True, False]))
        tasks = []
        for rank in ranks:
            earlier = operations_at[rank]
            tasks.append(
                TaskDraft(
                    rank,
                    gap_ps=draw(times_ps),
                    not_before_ps=draw(times_ps),
                    launches=draw(st.booleans()),
                    after=tuple(draw(st.lists(st.sampled_from(earlier), max_size=3, unique=True))) if earlier else (),
                )
            )
        for rank in ranks:
            operations_at[rank].append(number)
        messages = draw(random_messages(ranks, network, budget)) if moves else ()
        drafts.append(OperationDraft(tasks, messages))
    return build_schedule(num_ranks, drafts)


@st.composite
def random_messages(draw: st.DrawFn, ranks: Sequence[int], network: Network, budget: Budget) -> list[MessageDraft]:
    """Draw the messages of an operation; those that wait, wait for smaller indices only or for larger ones only."""
    pairs = draw(patterns(ranks))
    common_bytes = draw(st.none() | sizes(network.packet))
    step = draw(st.sampled_from([1, -1]))
    order = list(range(len(pairs)))[::step]
    waits_for: list[tuple[int, ...]] = [()] * len(pairs)
    if draw(st.booleans()):
        for position, index in enumerate(order):
            source = pairs[index][0]
            allowed = [other for other in order[:position] if source in pairs[other]]
            if allowed:
                waits_for[index] = tuple(draw(st.lists(st.sampled_from(allowed), max_size=3, unique=True)))
    return [
        MessageDraft(
            source,
            target,
            budget.grant(draw(sizes(network.packet)) if common_bytes is None else common_bytes),
            waits_for[index],
        )
        for index, (source, target) in enumerate(pairs)
    ]
