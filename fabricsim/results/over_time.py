"""What the channels of each class did over time, all planes together: what pictures draw of a timeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ClassOverTime:
    """One class of channels, entry by entry a span of time from ``edges_ps[i]`` to ``edges_ps[i + 1]``.

    ``utilization`` and ``credit_stall`` are fractions of the span, of its live channels on average;
    ``peak_occupancy_bytes`` is that of the fullest buffer.
    """

    name: str
    edges_ps: npt.NDArray[np.int64]
    utilization: npt.NDArray[np.float64]
    credit_stall: npt.NDArray[np.float64]
    peak_occupancy_bytes: npt.NDArray[np.int64]


def classes_over_time(timeline: pa.Table, channels: pa.Table) -> list[ClassOverTime]:
    """Give the classes of a timeline in the order of a route; *channels* is the table of the same result."""
    begin_ps = timeline["begin_ps"].to_numpy()
    first_ps, span = np.unique(begin_ps, return_inverse=True)
    edges_ps = np.append(first_ps, timeline["end_ps"].to_numpy().max(initial=0))
    names = np.array(timeline["channel_class"].to_pylist(), object)
    live_names = np.array(channels["channel_class"].to_pylist(), object)[~channels["dead"].to_numpy()]

    def sums(column: str, rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        total = np.zeros(len(first_ps), np.int64)
        np.add.at(total, span[rows], timeline[column].to_numpy()[rows])
        return total

    found = []
    for name in dict.fromkeys(names.tolist()):
        rows = names == name
        capacity_ps = max(int((live_names == name).sum()), 1) * np.diff(edges_ps)
        peaks = np.zeros(len(first_ps), np.int64)
        np.maximum.at(peaks, span[rows], timeline["peak_occupancy_bytes"].to_numpy()[rows])
        found.append(
            ClassOverTime(
                name,
                edges_ps,
                utilization=sums("busy_ps", rows) / capacity_ps,
                credit_stall=sums("credit_stall_ps", rows) / capacity_ps,
                peak_occupancy_bytes=peaks,
            )
        )
    return found
