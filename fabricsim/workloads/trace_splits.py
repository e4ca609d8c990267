"""What the lists of several ranks say about one collective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fabricsim.workloads.schedule import Int64
from fabricsim.workloads.trace_columns import TraceColumns
from fabricsim.workloads.trace_complaints import Complaints
from fabricsim.workloads.trace_metadata import Group
from fabricsim.workloads.trace_row_rules import list_sums
from fabricsim.workloads.trace_schema import OP_CODES

_V_CODES = {OP_CODES[name]: name for name in ("all_to_all_v", "all_gather_v", "reduce_scatter_v")}


@dataclass
class _Parts:
    """Rows of one collective so far, by rank in the group."""

    op: str
    one_op: bool = True
    rows: dict[int, int] = field(default_factory=dict)
    send_bytes: dict[int, int] = field(default_factory=dict)
    recv_bytes: dict[int, int] = field(default_factory=dict)
    send_splits: dict[int, Int64] = field(default_factory=dict)
    recv_splits: dict[int, Int64] = field(default_factory=dict)


class SplitMatcher:
    """Holds the lists of each ``_v`` collective until all its ranks have spoken, then compares them.

    So memory follows the collectives that are open at one place of the trace, not its length.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups
        self._open: dict[tuple[int, int], _Parts] = {}
        self._faults: list[tuple[int, str, str]] = []

    def add(self, part: TraceColumns, positions: Int64, first_row: int) -> None:
        """Take in a batch of sound rows that starts at row *first_row*; *positions* are ranks in the group."""
        for row in np.flatnonzero(np.isin(part.op, list(_V_CODES))).tolist():
            key = (int(part.group_id[row]), int(part.group_seq[row]))
            op = _V_CODES[int(part.op[row])]
            parts = self._open.setdefault(key, _Parts(op))
            parts.one_op &= parts.op == op
            place = int(positions[row])
            parts.rows[place] = first_row + row
            parts.send_bytes[place] = int(part.send_bytes[row])
            parts.recv_bytes[place] = int(part.recv_bytes[row])
            for first, values, target in (
                (part.send_splits_first, part.send_splits, parts.send_splits),
                (part.recv_splits_first, part.recv_splits, parts.recv_splits),
            ):
                if first[row + 1] > first[row]:
                    target[place] = values[first[row] : first[row + 1]]
            if len(parts.rows) == len(self._groups[key[0]]):
                self._compare(key[0], parts)
                del self._open[key]

    @property
    def found_faults(self) -> bool:
        """Whether there is anything to complain of."""
        return bool(self._faults)

    def complain(self, complaints: Complaints) -> None:
        """Add what was found; collectives that never became whole are another rule's matter."""
        for row, column, text in sorted(self._faults):
            complaints.add_row(row, column, text)

    def _compare(self, group_id: int, parts: _Parts) -> None:
        if not parts.one_op:
            return  # another rule's matter
        ranks = self._groups[group_id].ranks
        size = len(ranks)
        if parts.op == "all_gather_v":
            given = np.array([parts.send_bytes[place] for place in range(size)])
            expected = np.broadcast_to(given, (size, size))
        elif parts.op == "all_to_all_v":
            expected = np.array([parts.send_splits[place] for place in range(size)]).T
        else:
            segments = parts.send_splits[0]
            for place, row in parts.rows.items():
                if not np.array_equal(parts.send_splits[place], segments):
                    leader = f"rank {ranks[0]} (row {parts.rows[0]})"
                    text = f"differs from that of {leader}; all ranks reduce the same segments"
                    self._faults.append((row, "send_bytes_per_peer", text))
            expected = np.zeros((size, size), np.int64)
            expected[:, 0] = segments
        totals = list_sums(np.arange(size + 1) * size, expected.ravel())
        for place, row in parts.rows.items():
            total = int(totals[place])
            listed = parts.recv_splits.get(place)
            if listed is not None and (differs := np.flatnonzero(listed != expected[place])).size:
                sender = int(differs[0])
                text = (
                    f"rank {ranks[place]} expects {listed[sender]} bytes from rank {ranks[sender]}, which sends "
                    f"{expected[place][sender]} (row {parts.rows[sender]}); make both lists agree"
                )
                self._faults.append((row, "recv_bytes_per_peer", text))
            elif parts.recv_bytes[place] != total:
                text = f"{parts.recv_bytes[place]}, but the group sends {total} to rank {ranks[place]}; make both agree"
                self._faults.append((row, "recv_bytes", text))
