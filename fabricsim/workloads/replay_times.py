"""What the recorded times of a trace say about gaps, computation and the time of a whole operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fabricsim.errors import TraceError
from fabricsim.workloads.replay_order import RowOrder
from fabricsim.workloads.schedule import Bool, Int64
from fabricsim.workloads.trace import NULL_NS, OP_CODES, Trace, TraceColumns

MAX_NS = 2**62 // 1000
"""Times are int64 picoseconds in a schedule; sums of longer ones would come near their end."""

_MAX_RECORDED_NS = 2**61  # so that two of them can be added; 73 years, enough for times since 1970

_LATE = int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class Times:
    """Recorded times per row, NULL_NS where there is none; of start, end and duration two give the third.

    ``aligned`` says whether times of different ranks may be compared, as far as the trace says so.
    """

    where: str
    start_ns: Int64
    end_ns: Int64
    duration_ns: Int64
    aligned: bool

    @classmethod
    def of(cls, trace: Trace, columns: TraceColumns) -> Times:
        """Read the times of a trace."""
        start, end, duration = columns.t_start_ns, columns.t_end_ns, columns.duration_ns
        for name in ("t_start_ns", "t_end_ns", "duration_ns", "gap_ns"):
            beyond = np.flatnonzero(getattr(columns, name) > _MAX_RECORDED_NS)
            if len(beyond):
                raise TraceError(
                    f"{trace.where}: row {beyond[0]}, column {name}: {getattr(columns, name)[beyond[0]]} ns is more "
                    f"than can be counted with ({_MAX_RECORDED_NS}); mend the time"
                )
        has_start, has_end, has_duration = (times != NULL_NS for times in (start, end, duration))
        clock = trace.metadata.clock
        return cls(
            where=trace.where,
            start_ns=_where(has_end & has_duration & ~has_start, lambda rows: end[rows] - duration[rows], start),
            end_ns=_where(has_start & has_duration & ~has_end, lambda rows: start[rows] + duration[rows], end),
            duration_ns=_where(has_start & has_end & ~has_duration, lambda rows: end[rows] - start[rows], duration),
            aligned=trace.world_size == 1 or (clock is not None and clock.aligned),
        )

    def since_first_start(self) -> Int64:
        """Start times counted from the earliest one; TraceError where one is missing or they cannot be compared."""
        missing = np.flatnonzero(self.start_ns == NULL_NS)
        if len(missing):
            raise TraceError(
                f"{self.where}: row {missing[0]}, column t_start_ns: {len(missing)} of {len(self.start_ns)} rows have "
                "no start time, which replay mode 'recorded' needs; use mode 'dependency' or 'back-to-back'"
            )
        if not self.aligned:
            raise TraceError(
                f"{self.where}: replay mode 'recorded' compares start times of different ranks, but the metadata "
                "fabricsim.clock does not say that their clocks are aligned; use mode 'dependency' or 'back-to-back'"
            )
        since: Int64 = self.start_ns - self.start_ns.min(initial=_LATE)
        return since

    def computation(self, columns: TraceColumns) -> Int64:
        """Duration of compute rows, 0 elsewhere; TraceError where one is missing."""
        compute = columns.op == OP_CODES["compute"]
        missing = np.flatnonzero(compute & (self.duration_ns == NULL_NS))
        if len(missing):
            raise TraceError(
                f"{self.where}: row {missing[0]}, column duration_ns: a compute row does not say how long it took; "
                "record duration_ns, or t_start_ns and t_end_ns, or use mode 'back-to-back'"
            )
        return np.where(compute, self.duration_ns, 0)

    def gaps(self, columns: TraceColumns, order: RowOrder, operation: Int64) -> Int64:
        """Give recorded gaps, else those that follow from the times, and these for last-arriving ranks only.

        ``operation`` is the number of each row's operation.
        """
        derived = np.where(self._arrives_last(operation), self._derived_gaps(columns, order), 0)
        return np.where(columns.gap_ns != NULL_NS, columns.gap_ns, derived)

    def recorded_ps(self, rows: Int64) -> int | None:
        """Give the time that the operation of these rows took, waiting for late ranks left out; None if unknown."""
        starts, ends, durations = self.start_ns[rows], self.end_ns[rows], self.duration_ns[rows]
        if self.aligned and starts.min() != NULL_NS and ends.min() != NULL_NS:
            return int(ends.max() - starts.max()) * 1000
        return int(durations.min()) * 1000 if durations.min() != NULL_NS else None

    def picoseconds(self, times_ns: Int64) -> Int64:
        """Convert times to picoseconds; TraceError where they are too long."""
        if times_ns.max(initial=0) > MAX_NS:
            raise TraceError(
                f"{self.where}: a recorded time of {times_ns.max()} ns is more than can be counted in picoseconds "
                f"({MAX_NS} ns); mend the times or cut the trace into parts"
            )
        return times_ns * 1000

    def _derived_gaps(self, columns: TraceColumns, order: RowOrder) -> Int64:
        """Start less the latest end of what the row waits for; 0 where that is negative or not recorded."""
        num_rows = len(columns)
        start = np.where(self.start_ns != NULL_NS, self.start_ns, _LATE)
        if self.aligned:
            origin = np.full(num_rows, start.min(initial=_LATE))
        else:
            earliest = np.full(columns.rank.max(initial=0) + 1, _LATE)
            np.minimum.at(earliest, columns.rank, start)
            origin = earliest[columns.rank]
        # A join waits for rows of the trace only, so the first pass gives its end and the second reads it.
        end = np.concatenate([self.end_ns, np.full(len(order.join_rank), NULL_NS)])
        end[num_rows:] = _latest_before(order, end)[num_rows:]
        waits = np.diff(order.first)[:num_rows] > 0
        before = np.where(waits, _latest_before(order, end)[:num_rows], origin)
        known = (self.start_ns != NULL_NS) & (before != NULL_NS)
        gaps: Int64 = np.maximum(np.where(known, self.start_ns, 0) - np.where(known, before, 0), 0)
        return gaps

    def _arrives_last(self, operation: Int64) -> Bool:
        """Whether a row is of the last-arriving rank of its operation; so are all that arrive at once."""
        if self.aligned:
            arrival = self.start_ns
        else:  # who came last has waited least
            arrival = _where(self.duration_ns != NULL_NS, lambda rows: -self.duration_ns[rows], self.duration_ns)
        latest = np.full(operation.max(initial=0) + 1, NULL_NS)
        np.maximum.at(latest, operation, arrival)
        last: Bool = arrival == latest[operation]
        return last


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
