"""What a run gave, taken block by block as the engine retires them: checked, and kept as tables that need no memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fabricsim.engine.changes import Change
from fabricsim.engine.driver import RunFigures
from fabricsim.engine.work import BlockRecord
from fabricsim.fabrics.network import Network
from fabricsim.results import metrics
from fabricsim.results.attribution import FIRST_PART, KEYS, Attribution
from fabricsim.results.bounds import Bounds, find_bounds, most_favourable
from fabricsim.results.checks import Due, check_bounds, check_parts, check_times
from fabricsim.results.cuts import PartCuts, find_cuts
from fabricsim.results.digest import Digest
from fabricsim.results.kept import Kept
from fabricsim.results.routes import Routes, find_routes
from fabricsim.results.spool import Spool
from fabricsim.results.traffic import Int32, Int64, Traffic, message_traffic
from fabricsim.workloads.schedule import Schedule, ScheduleBlock, ScheduleBlocks

NOT_RECORDED = -1
LOCAL = ("compute", "wait")  #: operations that move nothing by their nature


class Collected(Kept):
    """The tables, sums and digest of a run; *routes* are those of its network, *changes* the networks that follow it.

    Attributes
    ----------
    num_operations : int
        Without the joins that a replay adds.
    num_messages, message_bytes : int
        Of all messages, empty ones among them.
    simulated_ps : int
        When the last task ended.
    has_choice : bool
        Whether a packet could go more than one way.
    num_moving, has_recorded : int, bool
        How many operations could move something, and whether the trace says how long one of these took.
    critical_path : CriticalPath
        Of the whole run; there when it is finished.
    moving_ps, work_ps : dict of int
        Of these operations, added up: times less launches, and for how long their busiest server works at least; of
        those in which wires have most to do under ``link``, of those in which terminals have under ``endpoint``.
    replaced : set of str
        Which algorithms were simulated in the place of recorded ones, as sentences.
    """

    GIVEN = frozenset({"_network", "_changes", "_network_of_bounds", "_terminal_of_rank", "_routes", "_cuts"})

    def __init__(
        self, network: Network, routes: Routes, terminal_of_rank: Int32, changes: Sequence[Change] = ()
    ) -> None:
        self._network = network
        self._changes = changes
        self._network_of_bounds = most_favourable(network, changes)
        self._terminal_of_rank = terminal_of_rank
        self._routes = routes
        self._cuts = find_cuts(network)
        self._due = Due(network)
        self._digest = Digest()
        self._in_flight = BusyTime()
        self._attribution = Attribution(network.endpoint)
        self._words: dict[str, int] = {}
        self.digest = ""
        self.num_operations = self.num_messages = self.message_bytes = self.simulated_ps = self.num_moving = 0
        self._bound_ps = self._time_ps = 0
        self.moving_ps = {"link": 0, "endpoint": 0}
        self.work_ps = {"link": 0, "endpoint": 0}
        self.has_choice = self.has_recorded = False
        self.replaced: set[str] = set()
        numbers = {"ranks": "i4", "size_bytes": "i8", "begin_ps": "i8", "end_ps": "i8", "bound_ps": "i8"}
        words = {"name": "i4", "op": "i4", "algorithm": "i4"}
        parts = {f"{key}_ps": "i8" for key in KEYS}
        self.operations = Spool({"operation": "i4", **words, **numbers, "recorded_ps": "i8", **parts})
        self.tasks = Spool({"operation": "i4", "rank": "i4", "stream": "i4", "begin_ps": "i8", "end_ps": "i8"})
        self.messages = Spool(
            {
                "operation": "i4",
                "index": "i4",
                "source_rank": "i4",
                "target_rank": "i4",
                "size_bytes": "i8",
                "ready_ps": "i8",
                "first_injection_ps": "i8",
                "complete_ps": "i8",
            }
        )

    def take(self, retired: list[tuple[ScheduleBlock, BlockRecord]], horizon_ps: int) -> None:
        """Take blocks; nothing that is still to come ended before *horizon_ps*."""
        for block, record in retired:
            self._take(block, record)
        self._digest.advance(horizon_ps)

    def so_far(self) -> Collected:
        """Return what was taken so far, to be read before more is: rows in the order in which blocks retired."""
        taken = copy.copy(self)
        taken.operations, taken.tasks, taken.messages = (
            rows.as_they_came() for rows in (self.operations, self.tasks, self.messages)
        )
        return taken

    def finish(self, figures: RunFigures) -> None:
        """End with the figures of the run as a whole; raises SelfCheckError where they contradict the blocks."""
        self._due.check(figures, self.simulated_ps)
        self.critical_path = self._attribution.finish(self.simulated_ps)
        self.digest = self._digest.hexdigest()

    @classmethod
    def of(
        cls,
        network: Network,
        schedule: Schedule,
        terminal_of_rank: Int32,
        record: BlockRecord,
        changes: Sequence[Change] = (),
    ) -> Collected:
        """Take a whole schedule."""
        collected = cls(network, find_routes(network), terminal_of_rank, changes)
        (block,) = ScheduleBlocks.of(schedule)
        collected._take(block, record)
        return collected

    @property
    def efficiency(self) -> float | None:
        """Lower bounds over times, of all operations that could move something; ``None`` where they take no time."""
        return self._bound_ps / self._time_ps if self._time_ps else None

    @property
    def in_flight_ps(self) -> int:
        """For how long at least one message was ready and not complete."""
        return self._in_flight.total_ps()

    def message_latencies_ps(self) -> Iterator[Int64]:
        """Complete minus ready of the messages that made packets, block by block."""
        names = ("size_bytes", "source_rank", "target_rank", "ready_ps", "complete_ps")
        for size_bytes, source, target, ready_ps, complete_ps in self.messages.blocks(*names):
            moved = (size_bytes > 0) & (source != target)
            yield (complete_ps - ready_ps)[moved]

    def operation_rows(self) -> Iterator[dict[str, Any]]:
        """Make the rows of ``Result.ops``."""
        words = list(self._words)
        for columns in self.operations.blocks():
            for values in zip(*(column.tolist() for column in columns), strict=True):
                number, name, op, algorithm, ranks, size_bytes, begin_ps, end_ps, bound_ps, recorded_ps, *parts = values
                time_ps = end_ps - begin_ps
                yield {
                    "operation": number,
                    "name": words[name],
                    "op": words[op],
                    "algorithm": words[algorithm],
                    "ranks": ranks,
                    "size_bytes": size_bytes,
                    "begin_ps": begin_ps,
                    "end_ps": end_ps,
                    "time_ps": time_ps,
                    "algbw_GBps": metrics.algbw_GBps(size_bytes, time_ps),
                    "busbw_GBps": metrics.busbw_GBps(words[op], ranks, size_bytes, time_ps),
                    "lower_bound_ps": bound_ps - begin_ps,
                    "efficiency": (bound_ps - begin_ps) / time_ps if time_ps else None,
                    "recorded_ps": None if recorded_ps == NOT_RECORDED else recorded_ps,
                    **{f"{key}_ps": part_ps for key, part_ps in zip(KEYS, parts, strict=True)},
                }

    def _take(self, block: ScheduleBlock, record: BlockRecord) -> None:
        schedule = block.schedule
        check_times(block, record)
        traffic = message_traffic(
            self._network,
            schedule,
            self._terminal_of_rank,
            changes=self._changes,
            ready_ps=record.message_ready_ps,
        )
        times = _operation_times(self._network_of_bounds, schedule, traffic, self._routes, self._cuts, record)
        check_bounds(block, times.end_ps, times.bounds.end_ps)
        path_ps = self._attribution.take(block, record, times.arrival_ps)
        check_parts(block, times.end_ps - times.arrival_ps, path_ps)
        self._due.add(traffic)
        self._digest.add(block, record)
        self._in_flight.add(record.message_ready_ps, record.message_complete_ps)
        self.simulated_ps = max(self.simulated_ps, int(record.task_end_ps.max(initial=0)))
        self.has_choice = self.has_choice or self._routes.has_choice(traffic.source_terminal, traffic.target_terminal)
        self._take_operations(block, times, path_ps)
        self._take_tasks(block, record)
        self._take_messages(block, record)

    def _take_operations(self, block: ScheduleBlock, times: _OperationTimes, path_ps: Int64) -> None:
        listed = [(row, operation) for row, operation in enumerate(block.schedule.operations) if not operation.is_join]
        rows = np.array([row for row, _ in listed], np.int64)
        self.num_operations += len(listed)
        for row, operation in listed:
            if operation.op not in LOCAL:
                self.num_moving += 1
                self._bound_ps += int(times.bounds.end_ps[row] - times.arrival_ps[row])
                self._time_ps += int(times.end_ps[row] - times.arrival_ps[row])
                wire_ps, terminal_ps = int(times.bounds.wire_ps[row]), int(times.bounds.terminal_ps[row])
                busiest = "link" if wire_ps >= terminal_ps else "endpoint"
                self.moving_ps[busiest] += int(path_ps[row, FIRST_PART:].sum())
                self.work_ps[busiest] += max(wire_ps, terminal_ps)
                self.has_recorded = self.has_recorded or operation.recorded_ps is not None
            if operation.recorded_algorithm:
                self.replaced.add(
                    f"{operation.op}: recorded {operation.recorded_algorithm}, simulated {operation.algorithm}."
                )

        def column(values: Iterator[int]) -> Int64:
            return np.fromiter(values, np.int64, len(listed))

        self.operations.append(
            [
                block.operation[rows],
                column(self._word(operation.name) for _, operation in listed),
                column(self._word(operation.op) for _, operation in listed),
                column(self._word(operation.algorithm) for _, operation in listed),
                column(len(operation.ranks) for _, operation in listed),
                column(operation.size_bytes for _, operation in listed),
                times.arrival_ps[rows],
                times.end_ps[rows],
                times.bounds.end_ps[rows],
                column(
                    NOT_RECORDED if operation.recorded_ps is None else operation.recorded_ps for _, operation in listed
                ),
                *path_ps[rows].T,
            ]
        )

    def _take_tasks(self, block: ScheduleBlock, record: BlockRecord) -> None:
        tasks = block.schedule.tasks
        joins = np.array([operation.is_join for operation in block.schedule.operations], np.bool_)
        rows = np.flatnonzero(~joins[tasks.operation])
        begin_ps = record.task_begin_ps - _computed_ps(block.schedule)
        self.tasks.append(
            [
                block.operation[tasks.operation[rows]],
                tasks.rank[rows],
                tasks.stream[rows],
                begin_ps[rows],
                record.task_end_ps[rows],
            ]
        )

    def _take_messages(self, block: ScheduleBlock, record: BlockRecord) -> None:
        messages, rank = block.schedule.messages, block.schedule.tasks.rank
        self.num_messages += len(messages)
        self.message_bytes += int(messages.size_bytes.sum())
        self.messages.append(
            [
                block.operation[messages.operation],
                messages.index,
                rank[messages.source_task],
                rank[messages.target_task],
                messages.size_bytes,
                record.message_ready_ps,
                record.message_first_injection_ps,
                record.message_complete_ps,
            ]
        )

    def _word(self, word: str) -> int:
        """Give each word that operations share a number."""
        return self._words.setdefault(word, len(self._words))


class BusyTime(Kept):
    """The length of a union of intervals that come in any order; it keeps what is left when they are joined."""

    def __init__(self) -> None:
        self._begin_ps = self._end_ps = np.empty(0, np.int64)
        self._new: list[Int64] = []
        self._num_new = 0

    def add(self, begin_ps: Int64, end_ps: Int64) -> None:
        """Take intervals."""
        self._new.append(np.stack(_union(begin_ps, end_ps)))
        self._num_new += self._new[-1].shape[1]
        if self._num_new > len(self._begin_ps):
            self._join()

    def total_ps(self) -> int:
        """Return the length of the union."""
        self._join()
        return int((self._end_ps - self._begin_ps).sum())

    def _join(self) -> None:
        parts = [np.stack([self._begin_ps, self._end_ps]), *self._new]
        self._begin_ps, self._end_ps = _union(*np.concatenate(parts, axis=1))
        self._new, self._num_new = [], 0


def _union(begin_ps: Int64, end_ps: Int64) -> tuple[Int64, Int64]:
    """Join intervals that touch; give the others in order."""
    order = np.argsort(begin_ps)
    begin_ps, reach_ps = begin_ps[order], np.maximum.accumulate(end_ps[order])
    is_first = np.append(True, begin_ps[1:] > reach_ps[:-1])[: len(order)]
    is_last = np.append(is_first[1:], True)[: len(order)]
    return begin_ps[is_first], reach_ps[is_last]


@dataclass(frozen=True)
class _OperationTimes:
    """Arrivals and ends are of shape (operations,), int64 picoseconds of simulated time."""

    arrival_ps: Int64
    end_ps: Int64
    bounds: Bounds


def _computed_ps(schedule: Schedule) -> Int64:
    """Return the gaps of computations, which are these gaps; for all others the gap comes before the operation."""
    tasks = schedule.tasks
    computes = np.array([operation.op == "compute" for operation in schedule.operations], np.bool_)
    gap_ps: Int64 = np.where(computes[tasks.operation], tasks.gap_ps, 0)
    return gap_ps


def _operation_times(
    network: Network,
    schedule: Schedule,
    traffic: Traffic,
    routes: Routes,
    cuts: Sequence[PartCuts],
    record: BlockRecord,
) -> _OperationTimes:
    tasks, count = schedule.tasks, len(schedule.operations)

    def latest(values: Int64) -> Int64:
        last = np.zeros(count, np.int64)
        np.maximum.at(last, tasks.operation, values)
        return last

    return _OperationTimes(
        arrival_ps=latest(record.task_begin_ps - _computed_ps(schedule)),
        end_ps=latest(record.task_end_ps),
        bounds=find_bounds(network, schedule, traffic, routes, cuts, record.task_begin_ps),
    )
