"""What holds a run back, in one word and one sentence that gives its reason in numbers.

The word is found from the outside in. First the critical path says whether time goes to launches, computation,
recorded start times, a late rank or the network. Where it is the network, a server that is busy most of the time with
messages in flight is the root of all that waits for it: a channel, or a terminal's copies in and out. Where none is,
it may be another server in each operation. Else channels that stand still for want of room have too little of it, or
the critical path tells again: many messages that wait for one another, or the largest part of its time.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fabricsim.results.hottest import channel_name
from fabricsim.units import format_time

if TYPE_CHECKING:
    from fabricsim.results.attribution import CriticalPath
    from fabricsim.results.result import Result

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

CAUSES = (
    "launch",
    "compute",
    "recorded_start",
    "straggler",
    "dependency_chain",
    "endpoint",
    "link",
    "credits",
    "latency",
    "contention",
)

#: A server that is busy for this part of the time with messages in flight is saturated.
SATURATED = 0.7
#: A channel that waits for room for this part of it, with none saturated, has too small a buffer behind it.
STALLED = 0.2
#: Of a channel that is busy for less than this, waits for room that fill nearly all of the rest are the cause.
NEARLY_SATURATED = 0.9
#: A chain: on average so many messages of one operation wait for one another.
CHAIN_MESSAGES = 3
#: Of operations that make up less than this part of the time, the sentence is silent.
MINOR = 0.05
#: A terminal whose copies take this much longer per byte than the median's is slow, not busy.
SLOW = 1.25


@dataclass(frozen=True)
class Bottleneck:
    """What holds a run back: one of ``CAUSES``, a sentence, and the fraction of the time that the sentence speaks of.

    That is of the simulated time, or for a server or credits of the time with messages in flight.
    """

    cause: str
    sentence: str
    fraction: float


def find_bottleneck(result: Result) -> Bottleneck:
    """Name what holds a run back."""
    path, simulated_ps = result.collected.critical_path, result.simulated_time_ps
    if not simulated_ps:
        return Bottleneck("launch", "The run takes no time.", 0.0)
    waits_ps, computes_ps = path.ps["dependency_wait"], path.ps["compute_gap"]
    late_ps = min(path.late_ps, waits_ps + computes_ps)
    of_waits_ps = min(late_ps, waits_ps)
    spent_ps = {
        "launch": path.ps["launch"],
        "compute": computes_ps - (late_ps - of_waits_ps),
        "recorded_start": waits_ps - of_waits_ps,
        "straggler": late_ps,
    }
    spent_ps["network"] = simulated_ps - sum(spent_ps.values())
    cause = max(spent_ps, key=spent_ps.__getitem__)
    if cause == "network":
        return _in_network(result, path)
    fraction = spent_ps[cause] / simulated_ps
    share = f"{format_time(spent_ps[cause])} of {format_time(simulated_ps)} ({fraction:.0%})"
    tasks = f"{path.tasks:,} operation{'s' * (path.tasks != 1)}"
    sentence = {
        "launch": f"Launches take {share} on the critical path, which passes {tasks}: before anything moves, whatever "
        "the wires can do.",
        "compute": f"Computation and recorded gaps take {share} on the critical path; the network has nothing to do "
        "with them.",
        "recorded_start": f"The critical path waits for recorded start times for {share}; a faster network does not "
        "end that sooner.",
        "straggler": f"Rank {path.latest_rank} is late, by {format_time(path.latest_ps)}: the critical path waits "
        f"{share} for ranks that arrive after the median rank of their operation.",
    }
    return Bottleneck(cause, sentence[cause], fraction)


def _in_network(result: Result, path: CriticalPath) -> Bottleneck:
    in_flight_ps = max(result.in_flight_ps, 1)
    busy = result.record.channel_busy_ps / in_flight_ps
    stalled = result.record.channel_credit_stall_ps / in_flight_ps
    copies = _Copies.of(result)
    wire, copy = int(busy.argmax()), int(copies.busy.argmax())
    with_messages = f"of the {format_time(result.in_flight_ps)} with messages in flight"
    root, most_stalled = max(busy[wire], copies.busy[copy]), int(stalled.argmax())
    starved = STALLED <= stalled[wire] and busy[wire] + stalled[wire] >= NEARLY_SATURATED > root
    if root >= SATURATED and not starved:
        if copies.busy[copy] <= busy[wire]:
            return _link(result, wire, float(busy[wire]), with_messages)
        # What a terminal copies for a slow wire is as slow as that, and no fault of its own.
        if copies.slow_wire[copy]:
            return _link(result, int(copies.channel[copy]), float(copies.busy[copy]), with_messages)
        return copies.bottleneck(copy, with_messages)
    found = None if starved else _by_operation(result)
    if found is None and stalled[most_stalled] >= STALLED:
        channels = result.network.channels
        return Bottleneck(
            "credits",
            f"The channel {channel_name(result.network, most_stalled)} stands still for {stalled[most_stalled]:.0%} "
            f"{with_messages}, for want of room in the {int(channels.buffer_bytes[most_stalled]):,} B behind it, while "
            f"no channel is busy for more than {busy[wire]:.0%}: the buffer is too small for the way there and back of "
            f"{format_time(2 * int(channels.latency_ps[most_stalled]))}.",
            float(stalled[most_stalled]),
        )
    return found or _on_path(result, path)


def _link(result: Result, channel: int, busy: float, with_messages: str) -> Bottleneck:
    """Say that a channel is the root; with the copies for it, it is busy for that fraction."""
    network, channels = result.network, result.network.channels
    name = network.channel_class_names[channels.channel_class[channel]]
    alike = (channels.channel_class == channels.channel_class[channel]) & ~channels.dead
    average = result.record.channel_busy_ps[alike].mean() / max(result.in_flight_ps, 1)
    ps_per_byte = channels.ps_per_byte_num / channels.ps_per_byte_den
    slower = ps_per_byte[channel] / np.median(ps_per_byte[alike])
    slow = f" takes {slower:.2f} times as long per byte as the median of its class and" if slower >= SLOW else ""
    return Bottleneck(
        "link",
        f"The channel {channel_name(network, channel)}{slow} is busy for {busy:.0%} {with_messages}, the average of "
        f"its class {name} for {average:.0%}: more time there ends the run later, whatever else is faster.",
        busy,
    )


def _by_operation(result: Result) -> Bottleneck | None:
    """Name wires or terminals if they are saturated operation by operation, though other ones in each."""
    moving_ps, work_ps = result.collected.moving_ps, result.collected.work_ps
    total_ps = max(sum(moving_ps.values()), 1)
    if sum(work_ps.values()) / total_ps < SATURATED:
        return None
    cause, other = sorted(work_ps, key=lambda cause: -work_ps[cause])
    in_each = {cause: work_ps[cause] / max(moving_ps[cause], 1) for cause in work_ps}
    share, others_share = moving_ps[cause] / total_ps, moving_ps[other] / total_ps
    whole = f"the {format_time(total_ps)} that operations take after their launches"
    if not moving_ps[other]:
        sentence = f"In each operation {_BUSIEST[cause]}: for {in_each[cause]:.0%} of {whole}."
    else:
        sentence = (
            f"In operations that make up {share:.0%} of {whole}, {_BUSIEST[cause]}: for {in_each[cause]:.0%} of that."
        )
    if others_share >= MINOR:
        sentence += f" In the others {_BUSIEST[other]}: for {in_each[other]:.0%}."
    return Bottleneck(cause, sentence, work_ps[cause] / total_ps)


_BUSIEST = {
    "link": "the wires that have most to move are busy",
    "endpoint": "the terminal that has most to do is busy with copies and overheads",
}


def _on_path(result: Result, path: CriticalPath) -> Bottleneck:
    """Name the part of the critical path that takes longest where no server is saturated and no buffer too small."""
    simulated_ps, parts_ps = result.simulated_time_ps, path.ps
    network_ps = sum(parts_ps[key] for key in ("endpoint", "serialization", "propagation", "credit_stall", "queueing"))
    if path.messages >= CHAIN_MESSAGES * path.tasks:
        fraction = network_ps / simulated_ps
        return Bottleneck(
            "dependency_chain",
            f"{path.messages:,} messages in {path.tasks:,} operation{'s' * (path.tasks != 1)} wait for one another on "
            f"the critical path and take {format_time(network_ps)} of {format_time(simulated_ps)} ({fraction:.0%}), "
            f"{format_time(network_ps // path.messages)} each, while no channel is busy for more than "
            f"{result.record.channel_busy_ps.max(initial=0) / max(result.in_flight_ps, 1):.0%} of the time.",
            fraction,
        )
    causes = {
        "endpoint": ("endpoint", "Terminals take {}: messages wait for a slot, their overhead and copies"),
        "serialization": ("link", "Sending the bytes of messages over their channels takes {}"),
        "propagation": ("latency", "The latencies of wires and chips take {}"),
        "credit_stall": ("credits", "Waiting for room in buffers takes {}"),
        "queueing": ("contention", "Packets wait for other packets for {}"),
    }
    key = max(causes, key=parts_ps.__getitem__)
    fraction = parts_ps[key] / simulated_ps
    cause, words = causes[key]
    share = f"{format_time(parts_ps[key])} of {format_time(simulated_ps)} ({fraction:.0%})"
    return Bottleneck(cause, f"{words.format(share)} on the critical path, and no channel is saturated.", fraction)


@dataclass(frozen=True)
class _Copies:
    """The copies of terminals, in and out, where their rates limit: one entry per channel and direction.

    ``busy`` is the least part of the time with messages in flight that it has to copy what the ``channel`` carried.
    ``slower`` says how many times longer it takes than the median of its class, for each byte and beside its wire, and
    ``slow_wire`` whether that wire takes longer than the median.
    """

    name: list[str]
    channel: Int64
    busy: Float64
    slower: Float64
    slow_wire: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, result: Result) -> _Copies:
        network, record = result.network, result.record
        channels = network.channels
        payload_bytes = record.channel_wire_bytes - network.packet.overhead_bytes * record.channel_packets
        wire = channels.ps_per_byte_num / channels.ps_per_byte_den
        # One that does nothing, so that there is a busiest.
        names, rows, busy, slower, slow_wire = [""], [[0]], [[0.0]], [[1.0]], [[False]]
        for what, node in (("copy", channels.source_node), ("ejection", channels.target_node)):
            num, den = (getattr(channels, f"{what}_ps_per_byte_{part}") for part in ("num", "den"))
            mine = np.flatnonzero((node < network.num_terminals) & (num > 0) & (payload_bytes > 0))
            ps_per_byte = num[mine] / den[mine]
            rows.append(mine.tolist())
            busy.append((payload_bytes[mine] * ps_per_byte / max(result.in_flight_ps, 1)).tolist())
            classes = channels.channel_class[mine]
            slower.append(_over_median(ps_per_byte / wire[mine], classes).tolist())
            slow_wire.append((_over_median(wire[mine], classes) >= SLOW).tolist())
            names += [f"{network.node_names[terminal]}, {_WORDS[what]}" for terminal in node[mine].tolist()]
        return cls(names, *(np.array(list(chain.from_iterable(parts))) for parts in (rows, busy, slower, slow_wire)))

    def bottleneck(self, row: int, with_messages: str) -> Bottleneck:
        """Say that one of them is the root."""
        busy, slower = float(self.busy[row]), float(self.slower[row])
        if slower >= SLOW:
            return Bottleneck(
                "straggler",
                f"The terminal {self.name[row]}, is busy for {busy:.0%} {with_messages} and takes {slower:.2f} times "
                "as long per byte as the median terminal: the others wait for it.",
                busy,
            )
        return Bottleneck(
            "endpoint",
            f"The terminal {self.name[row]}, is busy for {busy:.0%} {with_messages}: its rate limits the run, not that "
            "of a wire.",
            busy,
        )


_WORDS = {"copy": "copying out", "ejection": "copying in"}


def _over_median(ps_per_byte: Float64, channel_class: npt.NDArray[np.integer]) -> Float64:
    """Hold rates against the median of their class of channels."""
    slower = np.ones(len(ps_per_byte))
    for number in np.unique(channel_class).tolist():
        rows = channel_class == number
        slower[rows] = ps_per_byte[rows] / np.median(ps_per_byte[rows])
    return slower
