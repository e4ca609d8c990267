"""The part of a workload that is in the tables: blocks are admitted as a run gets near them, retired when they ended.

A block has consecutive rows in each table. Rows of retired blocks are used again, so that the tables follow what is
active, not how long the workload is. Each lane of a workload is admitted as far as the run is in it.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fabricsim.engine.changes import old_bundles, unreachable
from fabricsim.engine.layout import NEVER, NONE, NOT_YET, Rows, State, TimerKind
from fabricsim.engine.state import (
    ack_rows,
    chain,
    chain_new_tasks,
    follower_rows,
    limit_starts,
    link_edges,
    message_rows,
    num_timers,
    part_rows,
    rows,
    scratch_rows,
    share_packets,
    share_rows,
    shortest_payload,
    starts_per_window,
    task_rows,
    total_packets,
)
from fabricsim.errors import SelfCheckError
from fabricsim.fabrics.network import Network
from fabricsim.workloads.schedule import Schedule, ScheduleBlock, ScheduleBlocks

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

#: The tables in which each block has rows of its own.
TABLES = ("messages", "followers", "tasks", "sends", "successors")

#: The tables that have a row per message and plane.
PART_TABLES = ("parts", "counts", "sent", "complete")

#: What becomes of the time of a message (docs/physics.md, section 10); columns of ``BlockRecord``.
PARTS = ("endpoint", "serialization", "propagation", "credit_stall", "queueing")


@dataclass(frozen=True)
class BlockRecord:
    """What a kernel recorded of one block (docs/physics.md, section 10), by its tasks and messages; int64 arrays.

    ``message_complete_parts_ps`` and ``message_sent_parts_ps`` have the shape (messages, ``PARTS``): what became of the
    time from ready to complete, and from ready to sent. They sum exactly to it.
    """

    task_begin_ps: Int64
    task_end_ps: Int64
    message_ready_ps: Int64
    message_first_injection_ps: Int64
    message_sent_ps: Int64
    message_complete_ps: Int64
    message_complete_parts_ps: Int64
    message_sent_parts_ps: Int64


#: Takes blocks all of whose tasks have ended, and a time before which nothing ends in any other block.
Sink = Callable[[list[tuple[ScheduleBlock, BlockRecord]], int], None]


@dataclass(frozen=True, eq=False)
class Admitted:
    """A block of a lane, its number there, and its rows by table."""

    lane: int
    number: int
    block: ScheduleBlock
    rows: dict[str, slice]


@dataclass
class Lane:
    """What is not yet admitted of a lane: blocks, the first task, and when one without predecessors begins."""

    coming: Iterator[ScheduleBlock]
    operations_left: int
    admitted: int = 0
    next_task: int = 0
    begin_ps: int = 0

    def note(self, block: ScheduleBlock) -> None:
        """Enter what the next block that is admitted says of those after it."""
        self.operations_left -= len(block.operation)
        self.admitted += 1
        self.next_task = int(block.task.max(initial=-1)) + 1
        self.begin_ps = block.later_begin_ps


class FreeRows:
    """Rows of a table that belong to no block: ranges, apart and in order."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._ranges = list(ranges)

    def take(self, count: int) -> slice | None:
        """Take consecutive rows, the first that fit; ``None`` where no range is as long."""
        for place, (first, stop) in enumerate(self._ranges):
            if stop - first >= count:
                self._ranges[place : place + 1] = [(first + count, stop)] if stop - first > count else []
                return slice(first, first + count)
        return None

    def ranges(self) -> list[tuple[int, int]]:
        """Return the first row of each range and the one after its last."""
        return list(self._ranges)

    def add(self, first: int, stop: int) -> None:
        """Give rows back, or new ones."""
        if first == stop:
            return
        insort(self._ranges, (first, stop))
        joined: list[tuple[int, int]] = []
        for low, high in self._ranges:
            if joined and joined[-1][1] == low:
                low = joined.pop()[0]
            joined.append((low, high))
        self._ranges = joined


class Work:
    """Admits and retires the blocks of a workload; ``first`` is the one that ``begin`` finds in the tables."""

    def __init__(self, network: Network, blocks: ScheduleBlocks, terminal_of_rank: Int32, seed: int) -> None:
        self._network = network
        self._blocks = blocks
        self._lanes = self._all_lanes()
        self._terminal_of_rank = terminal_of_rank
        self._seed = seed
        self._free = {name: FreeRows() for name in TABLES}
        self._changed_ps = 0
        self._first_place = 0
        self._shortest_bytes = network.packet.max_payload_bytes
        self.first = next(self._lanes[0].coming)
        self.admitted_tasks = 0
        self.live: list[Admitted] = []

    def begin(self, state: State) -> State:
        """Take over the tables with the first block in them."""
        self._shortest_bytes = shortest_payload(self._network, state.messages)
        # The fastest that there will be: faults only make links slower.
        self._serialization_row = state.channels["serialization_row"].astype(np.int64)
        self._note(state, 0, self.first, {name: slice(0, len(getattr(state, name))) for name in TABLES})
        if state.clock["more_work"][0]:
            # Later blocks may fill every slot.
            state = state._replace(shares=share_rows(self._network, state.domains, state.injectors))
            if state.clock["defers"][0] == 0:  # tasks may end at any time in an epoch: all followers must be there
                for number, lane in enumerate(self._lanes):
                    while lane.operations_left:
                        state = self.admit(state, number)
        return state

    def due(self, state: State) -> list[int]:
        """Say which lanes a kernel waits for that returned NEED_WORK: each has a next block."""
        if state.clock["epoch_open"][0]:
            # Tasks that must not start before the next block of their lane is there.
            first_timer = state.terminals["first_timer"]
            timers = state.timers[first_timer[first_timer != NONE]]
            starts = (timers["kind"] == TimerKind.TASK_STARTS) & (timers["time_ps"] < state.clock["epoch_end_ps"])
            held = timers["subject"][starts]
            held = held[state.tasks["awaited"][held] == 1]
            assert len(held), "the kernel waits for a block that no task waits for"
            return sorted({self._admitted("tasks", task).lane for task in held.tolist()})
        left = [(lane.begin_ps, number) for number, lane in enumerate(self._lanes) if lane.operations_left]
        return [min(left)[1]]

    def admit(self, state: State, lane: int) -> State:
        """Put the next block of a lane into the tables, which grow where they must; return the state."""
        network, clock = self._network, state.clock[0]
        block = next(self._lanes[lane].coming)
        schedule = block.schedule
        # A workload with in-network operations is one block.
        assert not clock["num_groups"]
        assert not len(schedule.messages.groups)
        messages = self._message_rows(state, block)
        tasks, sends, successors = task_rows(network, schedule, messages, self._terminal_of_rank)
        followers = follower_rows(schedule, messages)
        later, earlier = self._open_predecessors(state, lane, block)

        counts = (len(messages), len(followers), len(tasks), len(sends), len(successors) + len(later))
        place = {}
        for name, count in zip(TABLES, counts, strict=True):
            state, place[name] = self._take(state, name, count)
        first = {name: taken.start for name, taken in place.items()}
        for name in ("source_task", "target_task"):
            messages[name] += first["tasks"]
        for name in ("after_sent_first", "after_complete_first"):
            messages[name] += first["followers"]
        followers["message"] += first["messages"]
        tasks["sends_first"] += first["sends"]
        tasks["first_successor"] += np.where(tasks["first_successor"] == NONE, 0, first["successors"]).astype(np.uint32)
        sends["message"] += first["messages"]
        successors["task"] += first["tasks"]
        successors["next"] += np.where(successors["next"] == NONE, 0, first["successors"]).astype(np.uint32)
        state.messages[place["messages"]] = messages
        counts_left = state.counts["packets_left"].reshape(network.num_planes, -1)
        counts_left[:, place["messages"]] = share_packets(network, messages)
        state.followers[place["followers"]] = followers
        state.tasks[place["tasks"]] = tasks
        state.sends[place["sends"]] = sends
        inside = first["successors"] + len(successors)
        state.successors[first["successors"] : inside] = successors
        state.successors["task"][inside : inside + len(later)] = first["tasks"] + later
        link_edges(state.tasks, state.successors, inside, earlier)

        if (state.tasks["waiting"][first["tasks"] + block.earlier_task] == 0).any():
            raise SelfCheckError(
                "all that a task waits for ended before its block was admitted; this is a defect of fabricsim, please "
                "report it"
            )
        free = first["tasks"] + np.flatnonzero(state.tasks["waiting"][place["tasks"]] == 0)
        clock["new_task"] = chain_new_tasks(state.tasks, free, int(clock["new_task"]))
        clock["tasks_left"] += len(tasks)
        clock["waits_left"] += len(tasks) + len(messages)
        self._note(state, lane, block, place)
        return self._shorter_packets(state, shortest_payload(network, messages))

    def change(self, state: State, network: Network, time_ps: int) -> State:
        """Stripe the messages that are not ready at *time_ps* over the planes that *network*, new then, has for them.

        Raises ``UnreachableError`` for a pair that has none.
        """
        self._network, self._changed_ps = network, time_ps
        self._first_place = len(state.places) - len(state.injectors)
        counts = state.counts["packets_left"].reshape(network.num_planes, -1)
        for one in self.live:
            taken = one.rows["messages"]
            later = taken.start + np.flatnonzero(state.messages["ready_ps"][taken] == NOT_YET)
            if not (state.messages["share_bytes"][later] > 0).any():
                continue
            messages = self._message_rows(state, one.block, later - taken.start)
            for name in ("share_bytes", "packets", "shares_left", "parts_left", "num_shares", "first_plane", "bundle"):
                state.messages[name][later] = messages[name][later - taken.start]
            state.messages["first_place"][later] = self._first_place
            counts[:, later] = messages["packets"][later - taken.start]
            state = self._shorter_packets(state, shortest_payload(network, messages[later - taken.start]))
        return state

    def _message_rows(self, state: State, block: ScheduleBlock, later: Int64 | None = None) -> Rows:
        """Return the table of messages of a block; if given, only the rows *later* have to be right."""
        network = self._network
        if self._changed_ps:
            source = block.schedule.messages
            terminal = self._terminal_of_rank[block.schedule.tasks.rank]
            src, dst = terminal[source.source_task], terminal[source.target_task]
            cut = (source.size_bytes > 0) & (src != dst) & (network.bundle_index[src, dst] < 0)
            if later is not None:
                cut[np.setdiff1d(np.arange(len(cut)), later)] = False
            for src_cut, dst_cut in zip(src[cut][:1].tolist(), dst[cut][:1].tolist(), strict=True):
                raise unreachable(network, src_cut, dst_cut, self._changed_ps, "has no way any more")
        messages = message_rows(network, block.schedule, self._terminal_of_rank, self._seed, block.operation)
        if self._changed_ps:
            messages["bundle"] = old_bundles(state, network)[messages["bundle"]]
            messages["first_place"] = self._first_place
        return messages

    def retire(self, state: State, sink: Sink) -> None:
        """Hand the blocks all of whose tasks have ended to *sink*, and free their rows."""
        ended = [one for one in self.live if bool((state.tasks["end_ps"][one.rows["tasks"]] != NOT_YET).all())]
        if ended:
            self.live = [one for one in self.live if one not in ended]
            sink([(one.block, record_of(state, one)) for one in ended], self._horizon_ps(state))
            self._forget(state, ended)

    def finish(self, state: State, sink: Sink) -> None:
        """Hand all blocks to *sink* at the end of a run; their rows stay as they are."""
        sink([(one.block, record_of(state, one)) for one in self.live], NEVER)

    def find(self, table: str, row: int) -> tuple[Schedule, int]:
        """Return the schedule that a row of *table* belongs to, and its row there."""
        one = self._admitted(table, row)
        return one.block.schedule, row - one.rows[table].start

    def _admitted(self, table: str, row: int) -> Admitted:
        """Return the block that a row of *table* belongs to."""
        for one in self.live:
            if one.rows[table].start <= row < one.rows[table].stop:
                return one
        raise AssertionError(f"row {row} of {table} is free")

    def _all_lanes(self) -> list[Lane]:
        """Begin with the lanes of the workload anew."""
        blocks = self._blocks
        return [Lane(blocks.make(number), count) for number, count in enumerate(blocks.lane_operations)]

    def dump(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as JSON knows it; the blocks themselves are made again from the workload."""
        return {
            "admitted": [lane.admitted for lane in self._lanes],
            "live": [
                [one.lane, one.number, {name: [int(rows.start), int(rows.stop)] for name, rows in one.rows.items()}]
                for one in self.live
            ],
            "free": {name: free.ranges() for name, free in self._free.items()},
            "changed_ps": int(self._changed_ps),
            "first_place": int(self._first_place),
            "shortest_bytes": int(self._shortest_bytes),
        }

    def load(self, stored: Mapping[str, Any], network: Network) -> None:
        """Go to where another ``Work`` of the same workload was when it gave ``dump``, on the network of that time."""
        self._network = network
        self._lanes = self._all_lanes()
        self.admitted_tasks = 0
        live = {(lane, number): rows for lane, number, rows in stored["live"]}
        found: dict[tuple[int, int], ScheduleBlock] = {}
        for number, (lane, admitted) in enumerate(zip(self._lanes, stored["admitted"], strict=True)):
            while lane.admitted < admitted:
                block = next(lane.coming)
                if (number, lane.admitted) in live:
                    found[number, lane.admitted] = block
                lane.note(block)
                self.admitted_tasks += len(block.task)
        self.live = [
            Admitted(*place, found[place], {name: slice(*ends) for name, ends in rows.items()})
            for place, rows in live.items()
        ]
        self._free = {name: FreeRows(map(tuple, stored["free"][name])) for name in TABLES}
        self._changed_ps = stored["changed_ps"]
        self._first_place = stored["first_place"]
        self._shortest_bytes = stored["shortest_bytes"]

    def _note(self, state: State, number: int, block: ScheduleBlock, rows: dict[str, slice]) -> None:
        """Enter the block that lane *number* admitted, and what it says of those after it."""
        lane, clock = self._lanes[number], state.clock[0]
        admitted = Admitted(number, lane.admitted, block, rows)
        self.live.append(admitted)
        lane.note(block)
        self.admitted_tasks += len(block.task)
        state.tasks["awaited"][admitted.rows["tasks"].start + block.awaited] = 1
        clock["more_work"] = any(lane.operations_left for lane in self._lanes)
        clock["admit_ps"] = min(lane.begin_ps for lane in self._lanes)
        for one in self.live:
            if one.lane == admitted.lane:
                over = one.block.awaited[one.block.awaited_by < lane.next_task]
                state.tasks["awaited"][one.rows["tasks"].start + over] = 0

    def _open_predecessors(self, state: State, lane: int, block: ScheduleBlock) -> tuple[Int64, Int64]:
        """Return which tasks of a block wait for which earlier rows of ``tasks`` that have not ended, by the latter."""
        later, earlier = [block.earlier_task[:0]], [block.earlier_predecessor[:0]]
        for one in self.live:  # what is not in one of them is retired
            if one.lane == lane:
                place = np.searchsorted(one.block.task, block.earlier_predecessor).clip(max=len(one.block.task) - 1)
                rows = one.rows["tasks"].start + place
                is_open = one.block.task[place] == block.earlier_predecessor
                is_open &= state.tasks["end_ps"][rows] == NOT_YET
                later.append(block.earlier_task[is_open])
                earlier.append(rows[is_open])
        found, awaited = np.concatenate(later), np.concatenate(earlier)
        order = np.argsort(awaited, kind="stable")
        return found[order], awaited[order]

    def _take(self, state: State, name: str, count: int) -> tuple[State, slice]:
        """Take rows of a table, which becomes twice as long where no range is long enough."""
        if not count:
            return state, slice(0, 0)
        taken = self._free[name].take(count)
        if taken is None:
            old = len(getattr(state, name))
            new = old + max(old, count)
            self._free[name].add(old, new)
            state = self._longer(state, name, new)
            taken = self._free[name].take(count)
            assert taken is not None
        return state, taken

    def _longer(self, state: State, name: str, count: int) -> State:
        """Return the state with *count* rows in a table, the new ones free, and with what depends on their number."""
        old = len(getattr(state, name))
        tables = {name: longer(name, getattr(state, name), count)}
        clear(name, tables[name], slice(old, count))
        if name == "messages":
            planes = self._network.num_planes
            for part in PART_TABLES:
                tables[part] = part_rows(part, self._network, count)
                tables[part].reshape(planes, count)[:, :old] = getattr(state, part).reshape(planes, old)
            if state.clock["acked"][0]:
                tables["acks"] = ack_rows(self._network, count)
                tables["acks"].reshape(planes, count)[:, :old] = state.acks.reshape(planes, old)
            state.clock["num_messages"] = count
            state.channels["first_part"] = self._network.channels.plane.astype(np.int64) * count
        state = state._replace(**tables)
        more = num_timers(state.messages, state.tasks) - len(state.timers)
        if more > 0:
            old = len(state.timers)
            timers = longer("timers", state.timers, old + more)
            timers["next"][old:] = chain(old, more, int(state.clock["free_timer"][0]))
            state.clock["free_timer"] = old
            state = state._replace(timers=timers)
        return state

    def _shorter_packets(self, state: State, shortest_bytes: int) -> State:
        """Return the state with room for as many starts in a window as packets of that payload make."""
        if shortest_bytes >= self._shortest_bytes:
            return state
        self._shortest_bytes = shortest_bytes
        clock, network = state.clock[0], self._network
        duration_ps = state.durations["value"][self._serialization_row + shortest_bytes]
        starts = starts_per_window(duration_ps, int(clock["window_shift"]))
        limit_starts(network, state.domains, starts, bool(clock["defers"]))
        scratch = len(state.domains) * scratch_rows(network, starts)
        return state._replace(keys=rows("keys", scratch), swap=rows("swap", scratch))

    def _horizon_ps(self, state: State) -> int:
        """Return a time before which nothing ends but in blocks that are retired."""
        clock = state.clock[0]
        horizon_ps = int(clock["epoch_start_ps"] if clock["epoch_open"] else clock["epoch_end_ps"])
        for one in self.live:
            for ends_ps in (
                state.tasks["end_ps"][one.rows["tasks"]],
                state.messages["complete_ps"][one.rows["messages"]],
            ):
                horizon_ps = min(horizon_ps, int(ends_ps[ends_ps != NOT_YET].min(initial=horizon_ps)))
        return horizon_ps

    def _forget(self, state: State, ended: list[Admitted]) -> None:
        """Free the rows of blocks."""
        gone = np.zeros(len(state.messages), np.bool_)
        for one in ended:
            gone[one.rows["messages"]] = True
            mine = state.messages[one.rows["messages"]]
            state.clock["retired_packets"] += total_packets(self._network, mine)
        unlink(state, gone)
        counts = state.counts.reshape(self._network.num_planes, -1)
        parts = state.parts.reshape(counts.shape)
        for one in ended:
            counts["packets_left"][:, one.rows["messages"]] = 0  # of planes that they did not use
            parts[:, one.rows["messages"]] = np.zeros((), parts.dtype)
            for name, taken in one.rows.items():
                clear(name, getattr(state, name), taken)
                self._free[name].add(taken.start, taken.stop)


def record_of(state: State, admitted: Admitted) -> BlockRecord:
    """Return what was recorded of a block so far, as copies.

    What the switches make of a message is ready and injected when that one is.
    """
    tasks, messages = state.tasks[admitted.rows["tasks"]], state.messages[admitted.rows["messages"]]
    num_planes = max(1, len(state.parts) // max(1, len(state.messages)))
    parts = state.parts.reshape(num_planes, -1)[:, admitted.rows["messages"]]
    carrier = own = np.arange(len(messages))
    if len(admitted.block.schedule.messages.groups):
        carrier = admitted.block.schedule.messages.carrier
        group = messages["group"]
        reduced = (group != NONE) & (state.groups["sources"][np.minimum(group, len(state.groups) - 1)] > 1)
        own = np.where(reduced, own, carrier)
    ready_ps, sent_ps = messages["ready_ps"][carrier], messages["sent_ps"][carrier]
    return BlockRecord(
        task_begin_ps=tasks["begin_ps"].copy(),
        task_end_ps=tasks["end_ps"].copy(),
        message_ready_ps=ready_ps,
        message_first_injection_ps=messages["first_injection_ps"][carrier],
        message_sent_ps=sent_ps,
        message_complete_ps=messages["complete_ps"].copy(),
        message_complete_parts_ps=_complete_parts_ps(parts, own, messages["complete_ps"] - ready_ps),
        message_sent_parts_ps=_sent_parts_ps(parts, carrier, sent_ps - ready_ps),
    )


def _complete_parts_ps(parts: Rows, injected: Int64, time_ps: Int64) -> Int64:
    """Return what became of the times until messages were complete; shape (messages, ``PARTS``).

    *parts* has the shape (planes, messages); *injected* says which messages were injected for them.
    """
    plane, every = _last_plane(parts["complete_ps"]), np.arange(len(time_ps))
    way, start = parts[plane, every], parts[plane, injected]
    known = (
        start["endpoint_ps"],
        start["serialization_ps"] + way["way_serialization_ps"],
        way["way_propagation_ps"],
        start["credit_stall_ps"] + way["way_credit_stall_ps"],
    )
    return _with_rest(known, way["complete_ps"] > 0, time_ps)


def _sent_parts_ps(parts: Rows, injected: Int64, time_ps: Int64) -> Int64:
    """Return what became of the times until messages were sent; as ``_complete_parts_ps``."""
    plane = _last_plane(parts["sent_ps"])[injected]
    start = parts[plane, injected]
    known = (
        start["endpoint_ps"],
        start["serialization_ps"] + start["sent_ps"] - start["last_injection_ps"],
        np.zeros_like(time_ps),
        start["credit_stall_ps"],
    )
    return _with_rest(known, start["sent_ps"] > 0, time_ps)


def _last_plane(time_ps: Int64) -> Int64:
    """Return the plane of the last time of each message, the lowest of several; *time_ps*: (planes, messages)."""
    plane: Int64 = time_ps.argmax(axis=0)
    return plane


def _with_rest(known: Sequence[Int64], moved: Bool, time_ps: Int64) -> Int64:
    """Put parts of times side by side and the rest of *time_ps* behind them; zeros where no packet *moved*."""
    parts_ps = np.stack([*known, time_ps], axis=1)
    parts_ps[:, -1] -= parts_ps[:, :-1].sum(axis=1)
    parts_ps[~moved] = 0
    return parts_ps


def longer(name: str, table: Rows, count: int) -> Rows:
    """Return a table with more rows."""
    result = rows(name, count)
    result[: len(table)] = table
    return result


def clear(name: str, table: Rows, taken: slice) -> None:
    """Make rows free: such a task has started and ended, such a message is complete."""
    table[taken] = np.zeros((), table.dtype)
    if name == "messages":
        for field in ("source_task", "target_task", "group", "next_ready"):
            table[field][taken] = NONE
    if name == "tasks":
        table["started"][taken] = 1
        for field in ("terminal", "first_successor", "next_new"):
            table[field][taken] = NONE


def unlink(state: State, gone: Bool) -> None:
    """Take complete messages out of the lists of ready messages.

    An injector that a message does not use may still stand before it, and a list may end with it. *gone* says which
    messages these are.
    """
    gone = np.append(gone, False)

    def leads_to_gone(link: npt.NDArray[np.integer]) -> Bool:
        found: Bool = gone[np.minimum(link, len(gone) - 1)]  # NONE is not gone
        return found

    messages, bundles = state.messages, state.bundles
    behind = messages["next_ready"].astype(np.int64)
    # From each of them to the next that stays, by steps that double.
    jump = np.flatnonzero(gone)
    while len(jump := jump[leads_to_gone(behind[jump])]):
        behind[jump] = behind[behind[jump]]

    def past(link: npt.NDArray[np.uint32]) -> None:
        at_gone = np.flatnonzero(leads_to_gone(link))
        link[at_gone] = behind[link[at_gone]]

    past(messages["next_ready"])
    past(state.injectors["next_message"])
    past(bundles["instant_first"])
    listed = np.flatnonzero((messages["share_bytes"] > 0) & (messages["ready_ps"] != NOT_YET) & ~gone[:-1])
    after, bundle = messages["next_ready"][listed], messages["bundle"][listed]
    for name, follower in (("last_ready", np.full(len(bundles), NONE)), ("anchor", bundles["instant_first"])):
        last = bundles[name]
        lost = leads_to_gone(last)
        last[lost] = NONE
        found = lost[bundle] & (after == follower[bundle])
        last[bundle[found]] = listed[found]
