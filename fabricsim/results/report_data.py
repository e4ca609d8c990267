"""What the charts of a report draw, prepared from the files of results: bounded, with a word on what is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fabricsim.results.lanes import lanes_of, lines_of
from fabricsim.results.metrics import PERCENTILES, PS_PER_US
from fabricsim.results.stored import Stored
from fabricsim.units import format_time

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

#: Lines of ranks, and bars on them, of all results together; bars take about 80 B each in the page.
MAX_RANKS = 64
MAX_BARS = 20_000
#: Cells of the heat maps of all results together, of about 90 B each; a tier that has more is left out.
MAX_CELLS = 20_000
#: Points of a curve of latencies.
MAX_POINTS = 500
#: Operations with a bar of their own for where their time went.
MAX_SHARES = 8
#: Names of operations that have a colour of their own.
MAX_NAMES = 7


@dataclass(frozen=True)
class Share:
    """A bar: where the time of a run or an operation went, in percent by key."""

    name: str
    time: str
    percent: Mapping[str, float]


def shares_of(stored: Stored, ops: Mapping[str, Sequence[Any]]) -> list[Share]:
    """Give a bar for the whole run, and one for each of the operations that took longest, in order of time."""
    keys = stored.summary["attribution"]["ps"]
    shares = [
        Share("whole run", format_time(stored.summary["simulated_time_ps"]), stored.summary["attribution"]["percent"])
    ]
    by_time = sorted(range(len(ops["operation"])), key=lambda row: -ops["time_ps"][row])
    for row in sorted(by_time[:MAX_SHARES], key=lambda row: (ops["begin_ps"][row], row)):
        time_ps = ops["time_ps"][row]
        percent = {key: 100 * ops[f"{key}_ps"][row] / max(time_ps, 1) for key in keys}
        shares.append(Share(f"{ops['operation'][row]}: {short(ops['name'][row])}", format_time(time_ps), percent))
    return shares


def short(name: str, length: int = 18) -> str:
    """Cut a long name in its middle."""
    return name if len(name) <= length else f"{name[: length - 8]}…{name[-7:]}"


@dataclass(frozen=True)
class Bars:
    """Bars on lines of ranks; arrays have an entry per bar, ``ranks`` is the rank of each line from above.

    ``names[kind]`` is the name of the operation. ``left_out`` says in a sentence what is not drawn, or is empty.
    """

    ranks: Sequence[int]
    names: Sequence[str]
    end_us: float
    left_out: str
    begin_us: Float64
    end_at_us: Float64
    top: Float64
    bottom: Float64
    rank: Int64
    stream: Int64
    operation: Int64
    kind: Int64


def bars_of(stored: Stored, ops: Mapping[str, Sequence[Any]], most_bars: int) -> Bars:
    """Lay the operations of the ranks out on lines: of many ranks some, and of many operations there the longest."""
    columns = ("operation", "rank", "stream", "begin_ps", "end_ps")
    table = stored.table("tasks", columns)
    operation, rank, stream, begin_ps, end_ps = (table[name].to_numpy().astype(np.int64) for name in columns)
    chosen = _some_ranks(stored.summary["workload"]["ranks"], rank, end_ps)
    words = []
    if len(chosen) < stored.summary["workload"]["ranks"]:
        words.append(
            f"{len(chosen)} of {stored.summary['workload']['ranks']:,} ranks are drawn, evenly apart, and among them "
            f"rank {int(rank[end_ps.argmax()])}, which ended last."
        )
    rows = np.flatnonzero(np.isin(rank, chosen))
    if len(rows) > most_bars:
        words.append(f"Of {len(rows):,} operations at these ranks the {most_bars:,} longest are drawn.")
        rows = rows[_longest((end_ps - begin_ps)[rows], most_bars)]
    operation, rank, stream, begin_ps, end_ps = (column[rows] for column in (operation, rank, stream, begin_ps, end_ps))
    lane = lines_of(rank, stream, lanes_of(rank, stream, begin_ps, end_ps))
    line = np.searchsorted(chosen, rank)
    lanes = np.ones(len(chosen), np.int64)
    np.maximum.at(lanes, line, lane + 1)
    height = 0.8 / lanes[line]
    top = line - 0.4 + lane * height
    name_of = dict(zip(ops["operation"], ops["name"], strict=True))
    named = [name_of[number] for number in operation.tolist()]
    kinds = _kinds(named, begin_ps, end_ps)
    others = len(kinds)
    names = [*kinds, "others"] if set(named) - set(kinds) else list(kinds)
    places = {name: place for place, name in enumerate(kinds)}
    return Bars(
        ranks=chosen.tolist(),
        names=names,
        end_us=max(stored.summary["simulated_time_ps"], 1) / PS_PER_US,
        left_out=" ".join(words),
        begin_us=begin_ps / PS_PER_US,
        end_at_us=end_ps / PS_PER_US,
        top=top,
        bottom=top + height,
        rank=rank,
        stream=stream,
        operation=operation,
        kind=np.array([places.get(name, others) for name in named], np.int64),
    )


def _some_ranks(num_ranks: int, rank: Int64, end_ps: Int64) -> Int64:
    """Choose ranks evenly, and the one that ended last."""
    if num_ranks <= MAX_RANKS or not len(rank):
        return np.arange(num_ranks)
    evenly = np.linspace(0, num_ranks - 1, MAX_RANKS - 1).round().astype(np.int64)
    return np.unique(np.append(evenly, rank[end_ps.argmax()]))


def _longest(time_ps: Int64, count: int) -> Int64:
    """Give the rows of the longest times, in order; of those that equal the shortest of them some, evenly apart."""
    least_ps = np.partition(time_ps, -count)[-count]
    longer, equal = np.flatnonzero(time_ps > least_ps), np.flatnonzero(time_ps == least_ps)
    some = equal[np.arange(count - len(longer)) * len(equal) // (count - len(longer))]
    return np.sort(np.concatenate([longer, some]))


def _kinds(names: Sequence[str], begin_ps: Int64, end_ps: Int64) -> list[str]:
    """Give the names with most time, in the order in which they begin."""
    sums: dict[str, int] = {}
    first_ps: dict[str, int] = {}
    for name, begin, end in zip(names, begin_ps.tolist(), end_ps.tolist(), strict=True):
        sums[name] = sums.get(name, 0) + end - begin
        first_ps[name] = min(first_ps.get(name, begin), begin)
    most = sorted(sums, key=lambda name: -sums[name])[:MAX_NAMES]
    return sorted(most, key=lambda name: first_ps[name])


@dataclass(frozen=True)
class Heat:
    """The nodes of a tier, in a plane each: the busiest of the channels that enter or leave it, and their mean [%]."""

    tier: str
    plane: Sequence[int]
    column: Sequence[int]
    name: Sequence[str]
    busiest: Sequence[float]
    mean: Sequence[float]
    channel: Sequence[str]


def heats_of(stored: Stored, most_cells: int) -> tuple[list[Heat], list[str]]:
    """Give the tiers of a fabric, switches first, and the names of those that have too many nodes to be drawn."""
    table = stored.table("channels", ("name", "source", "target", "plane", "channel_class", "utilization"))
    columns = {name: table[name].to_pylist() for name in table.column_names}
    tier_of: dict[str, str] = {}
    for source, one_class in zip(columns["source"], columns["channel_class"], strict=True):
        tier_of.setdefault(source, one_class.partition("-")[0])
    terminal = next(iter(tier_of.values()))
    nodes: dict[tuple[str, int, str], list[int]] = {}
    for row, plane in enumerate(columns["plane"]):
        for end in ("source", "target"):
            node = columns[end][row]
            if node in tier_of:
                nodes.setdefault((tier_of[node], plane, node), []).append(row)
    percent = [None if used is None else 100 * used for used in columns["utilization"]]
    tiers = dict.fromkeys(tier for tier, _, _ in nodes)
    heats, left_out, cells = [], [], 0
    for tier in sorted(tiers, key=lambda tier: tier == terminal):
        own = [key for key in nodes if key[0] == tier]
        if cells + len(own) > most_cells:
            left_out.append(tier)
            continue
        cells += len(own)
        heats.append(_heat(tier, own, nodes, percent, columns["name"]))
    return heats, left_out


def _heat(
    tier: str,
    own: Sequence[tuple[str, int, str]],
    nodes: Mapping[tuple[str, int, str], Sequence[int]],
    percent: Sequence[float | None],
    names: Sequence[str],
) -> Heat:
    number: dict[int, int] = {}
    heat = Heat(tier, [], [], [], [], [], [])
    cells: list[tuple[int, int, str, float, float, str]] = []
    for key in own:
        _, plane, node = key
        number[plane] = number.get(plane, -1) + 1
        live = [(used, row) for row in nodes[key] if (used := percent[row]) is not None]
        busiest, row = max(live, key=lambda pair: pair[0], default=(float("nan"), nodes[key][0]))
        mean = sum(used for used, _ in live) / len(live) if live else float("nan")
        cells.append((plane, number[plane], node, busiest, mean, names[row] if live else "dead"))
    columns = [list(column) for column in zip(*cells, strict=True)]
    return Heat(heat.tier, *columns)


@dataclass(frozen=True)
class Latencies:
    """Of each latency of messages the percentage that took no longer; and the percentiles of packets."""

    name: str
    message_us: Float64
    message_percent: Float64
    packet_us: Sequence[float]
    packet_percent: Sequence[float]
    packet_words: Sequence[str]
    left_out: str


def latencies_of(stored: Stored) -> Latencies:
    """Read the curve of the messages off their table, and the points of the packets off the summary."""
    names = ("size_bytes", "source_rank", "target_rank", "ready_ps", "complete_ps")
    table = stored.table("messages", names)
    size_bytes, source, target, ready_ps, complete_ps = (table[name].to_numpy() for name in names)
    in_order = np.sort((complete_ps - ready_ps)[(size_bytes > 0) & (source != target)])
    missing = stored.summary["files"]["messages_left_out"]
    count = len(in_order)
    at = np.unique(np.linspace(0, max(count - 1, 0), min(count, MAX_POINTS)).round().astype(np.int64))
    points = {**{name: float(part) * 100 for name, part in PERCENTILES.items()}, "max": 100.0}
    packet = stored.summary["latency_us"]["packet"]
    known = [name for name in points if packet[name] is not None]
    return Latencies(
        name=stored.name,
        message_us=in_order[at] / PS_PER_US,
        message_percent=100 * (missing + at + 1) / max(missing + count, 1),
        packet_us=[packet[name] for name in known],
        packet_percent=[points[name] for name in known],
        packet_words=[name if name == "max" else f"{points[name]:g} %" for name in known],
        left_out=(
            f"{stored.name}: the {missing:,} quickest messages are not in the files; the curve begins above them."
            if missing
            else ""
        ),
    )
