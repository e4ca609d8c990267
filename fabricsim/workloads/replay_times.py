"""What the recorded times of a trace say about gaps, computation and the time of a whole operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from fabricsim.errors import TraceError
from fabricsim.workloads.replay_order import RowOrder
from fabricsim.workloads.schedule import Bool, Int64
from fabricsim.workloads.trace_columns import NULL_NS, TraceColumns
from fabricsim.workloads.trace_file import Trace
from fabricsim.workloads.trace_schema import OP_CODES

MAX_NS = 2**62 // 1000
"""Times are int64 picoseconds in a schedule; sums of longer ones would come near their end."""

_MAX_RECORDED_NS = 2**61  # so that two of them can be added; 73 years, enough for times since 1970

_LATE = int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class Clocks:
    """What the times of a whole trace are counted from.

    ``aligned`` says whether times of different ranks may be compared, as far as the trace says so; ``origin_ns`` is by
    rank: the earliest start of the trace, or of the rank where clocks are not aligned.
    """

    where: str
    aligned: bool
    origin_ns: Int64

    @classmethod
    def of(cls, trace: Trace, pieces: Iterable[tuple[int, TraceColumns]], *, recorded: bool, computes: bool) -> Clocks:
        """Read all times of a trace, given in pieces that each come with the number of their first row.

        Raises TraceError where one is too large to be counted with, where ``recorded`` start times are asked for and
        one is missing or they cannot be compared, and where ``computes`` asks for computations and the duration of one
        is missing.
        """
        clock = trace.metadata.clock
        aligned = trace.world_size == 1 or (clock is not None and clock.aligned)
        earliest = np.full(trace.world_size, _LATE)
        num_rows = 0
        no_start, no_duration = _Missing(), _Missing()
        for first_row, columns in pieces:
            _refuse_huge(trace.where, columns, first_row)
            times = Times.of(columns)
            known = times.start_ns != NULL_NS
            np.minimum.at(earliest, columns.rank[known], times.start_ns[known])
            no_start.add(first_row, ~known)
            no_duration.add(first_row, (columns.op == OP_CODES["compute"]) & (times.duration_ns == NULL_NS))
            num_rows += len(columns)
        if recorded and no_start.count:
            raise TraceError(
                f"{trace.where}: row {no_start.first_row}, column t_start_ns: {no_start.count} of {num_rows} rows have "
                "no start time, which replay mode 'recorded' needs; use mode 'dependency' or 'back-to-back'"
            )
        if recorded and not aligned:
            raise TraceError(
                f"{trace.where}: replay mode 'recorded' compares start times of different ranks, but the metadata "
                "fabricsim.clock does not say that their clocks are aligned; use mode 'dependency' or 'back-to-back'"
            )
        if computes and no_duration.count:
            raise TraceError(
                f"{trace.where}: row {no_duration.first_row}, column duration_ns: a compute row does not say how "
                "long it took; record duration_ns, or t_start_ns and t_end_ns, or use mode 'back-to-back'"
            )
        return cls(trace.where, aligned, np.full_like(earliest, earliest.min()) if aligned else earliest)

    def picoseconds(self, times_ns: Int64) -> Int64:
        """Convert times to picoseconds; TraceError where they are too long."""
        if times_ns.max(initial=0) > MAX_NS:
            raise TraceError(
                f"{self.where}: a recorded time of {times_ns.max()} ns is more than can be counted in picoseconds "
                f"({MAX_NS} ns); mend the times or cut the trace into parts"
            )
        return times_ns * 1000


@dataclass(frozen=True)
class Times:
    """Recorded times per row, NULL_NS where there is none; of start, end and duration two give the third."""

    start_ns: Int64
    end_ns: Int64
    duration_ns: Int64

    @classmethod
    def of(cls, columns: TraceColumns) -> Times:
        """Complete the times of some rows."""
        start, end, duration = columns.t_start_ns, columns.t_end_ns, columns.duration_ns
        has_start, has_end, has_duration = (times != NULL_NS for times in (start, end, duration))
        return cls(
            start_ns=_where(has_end & has_duration & ~has_start, lambda rows: end[rows] - duration[rows], start),
            end_ns=_where(has_start & has_duration & ~has_end, lambda rows: start[rows] + duration[rows], end),
            duration_ns=_where(has_start & has_end & ~has_duration, lambda rows: end[rows] - start[rows], duration),
        )

    def gaps(
        self, columns: TraceColumns, clocks: Clocks, order: RowOrder, earlier_end_ns: Int64, operation: Int64
    ) -> Int64:
        """Give recorded gaps, else those that follow from the times, and these for last-arriving ranks only.

        ``earlier_end_ns`` is the end of the rows that have negative numbers in the order, ``operation`` the number of
        each row's operation.
        """
        derived = self._derived_gaps(columns, clocks, order, earlier_end_ns)
        derived = np.where(self._arrives_last(clocks, operation), derived, 0)
        return np.where(columns.gap_ns != NULL_NS, columns.gap_ns, derived)

    def recorded_ps(self, clocks: Clocks, rows: Int64, first: Int64) -> list[int | None]:
        """Give the time that each operation took, waiting for late ranks left out; None where it is unknown.

        Operation ``o`` has ``rows[first[o] : first[o + 1]]``, at least one; rows beyond the last are joins.
        """
        start, end, took = (
            np.append(times, NULL_NS)[rows.clip(max=len(times))]
            for times in (self.start_ns, self.end_ns, self.duration_ns)
        )
        begin = first[:-1]
        took_ns = np.minimum.reduceat(took, begin)
        if clocks.aligned:
            known = np.minimum.reduceat(np.minimum(start, end), begin) != NULL_NS
            span_ns = np.maximum.reduceat(end, begin) - np.maximum.reduceat(start, begin)
            took_ns = np.where(known, span_ns, took_ns)
        return [None if time_ns == NULL_NS else time_ns * 1000 for time_ns in took_ns.tolist()]

    def _derived_gaps(self, columns: TraceColumns, clocks: Clocks, order: RowOrder, earlier_end_ns: Int64) -> Int64:
        """Start less the latest end of what the row waits for; 0 where that is negative or not recorded."""
        num_rows = len(columns)
        # A join waits for rows of the trace only, so the first pass gives its end and the second reads it.
        joins = slice(num_rows, num_rows + len(order.join_rank))
        end = np.concatenate([self.end_ns, np.full(len(order.join_rank), NULL_NS), earlier_end_ns])
        end[joins] = _latest_before(order, end)[joins]
        waits = np.diff(order.first)[:num_rows] > 0
        before = np.where(waits, _latest_before(order, end)[:num_rows], clocks.origin_ns[columns.rank])
        known = (self.start_ns != NULL_NS) & (before != NULL_NS)
        gaps: Int64 = np.maximum(np.where(known, self.start_ns, 0) - np.where(known, before, 0), 0)
        return gaps

    def _arrives_last(self, clocks: Clocks, operation: Int64) -> Bool:
        """Whether a row is of the last-arriving rank of its operation; so are all that arrive at once."""
        if clocks.aligned:
            arrival = self.start_ns
        else:  # who came last has waited least
            arrival = _where(self.duration_ns != NULL_NS, lambda rows: -self.duration_ns[rows], self.duration_ns)
        operation = operation[: len(arrival)]
        latest = np.full(operation.max(initial=0) + 1, NULL_NS)
        np.maximum.at(latest, operation, arrival)
        last: Bool = arrival == latest[operation]
        return last


@dataclass
class _Missing:
    """How many rows lack a value, and the first of them."""

    count: int = 0
    first_row: int = 0

    def add(self, first_row: int, missing: Bool) -> None:
        """Count the missing ones of a piece that begins at row ``first_row``."""
        if not self.count and missing.any():
            self.first_row = first_row + int(missing.argmax())
        self.count += int(missing.sum())


def _refuse_huge(where: str, columns: TraceColumns, first_row: int) -> None:
    for name in ("t_start_ns", "t_end_ns", "duration_ns", "gap_ns"):
        beyond = np.flatnonzero(getattr(columns, name) > _MAX_RECORDED_NS)
        if len(beyond):
            raise TraceError(
                f"{where}: row {first_row + beyond[0]}, column {name}: {getattr(columns, name)[beyond[0]]} ns is more "
                f"than can be counted with ({_MAX_RECORDED_NS}); mend the time"
            )


def _latest_before(order: RowOrder, end_ns: Int64) -> Int64:
    """Give the latest end of what each row waits for, NULL_NS where that is nothing or an end is missing."""
    latest = np.full(len(order.first) - 1, NULL_NS)
    waiting = np.flatnonzero(np.diff(order.first))
    if len(waiting):
        ends = end_ns[order.rows]
        complete = np.minimum.reduceat(ends, order.first[waiting]) != NULL_NS
        latest[waiting] = np.where(complete, np.maximum.reduceat(ends, order.first[waiting]), NULL_NS)
    return latest


def _where(chosen: Bool, value: Callable[[Int64], Int64], other: Int64) -> Int64:
    """Like ``np.where``, but computes only where chosen: nulls must not enter arithmetic."""
    rows = np.flatnonzero(chosen)
    result = other.copy()
    result[rows] = value(rows)
    return result
