"""THE declaration of the engine's state: tables, fields, constants, codes.

Everything that a kernel reads or writes stands here once. The NumPy dtypes and the C header ``csrc/state.h`` are made
from it (``python -m fabricsim.engine.layout`` writes the header, ``--check`` proves it fresh).

A table is one structured array, one row per thing (array of structs: an event touches several fields of one
channel). A link to a row of another table is an int32 index, ``NONE`` where there is none.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

NONE = -1  #: no row
NEVER = 1 << 62  #: a time that does not come [ps]
BLOCK_SHIFT = 4  #: inboxes grow by blocks of 2**BLOCK_SHIFT records
BLOCK = 1 << BLOCK_SHIFT
LATENCY_SHIFT = 8  #: a latency keeps its 8 leading bits in the histogram: buckets are at most 1/128 wide
LATENCY_BUCKETS = 1 << (LATENCY_SHIFT - 1)  #: buckets per doubling of the latency


class Code(IntEnum):
    """Why a slice ended; the full codes leave every table as if the node at hand had not been touched."""

    SLICE = 0  #: the event budget is spent, more is to be done
    DONE = 1  #: every task ended and every credit is home
    STALLED = 2  #: tasks are unfinished and nothing can happen any more
    ARRIVALS_FULL = 3  #: grow ``arrivals`` and ``arrival_blocks``
    CREDITS_FULL = 4  #: grow ``credits`` and ``credit_blocks``
    PACKETS_FULL = 5  #: grow ``packets``
    TIME_LIMIT = 6  #: the next event lies at or beyond ``limit_ps``


class TimerKind(IntEnum):
    """What happens at a terminal without a packet."""

    TASK_STARTS = 0  #: the launch latency of a task has passed
    MESSAGE_SENT = 1  #: the injection time of the last packet of a message has passed
    MESSAGE_COMPLETE = 2  #: the last packet of a message is delivered


class Routing(IntEnum):
    """How a packet with a choice takes an output (docs/physics.md, section 6)."""

    SPRAY = 0
    DETERMINISTIC = 1


@dataclass(frozen=True)
class Field:
    """One field: its name (with its unit), its type as NumPy spells it, and its meaning."""

    name: str
    kind: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """One entity; ``name`` is its place in ``State``, ``row`` the name of its C struct."""

    name: str
    row: str
    meaning: str
    fields: tuple[Field, ...]

    @property
    def dtype(self) -> np.dtype[np.void]:
        """The NumPy dtype, laid out as a C compiler lays out the struct."""
        return np.dtype([(field.name, field.kind) for field in self.fields], align=True)


TABLES = (
    Table(
        "clock",
        "clock_row",
        "the run as a whole; one row",
        (
            Field("epoch_start_ps", "i8", "the epoch at hand is [epoch_start_ps, epoch_end_ps), whole windows"),
            Field("epoch_end_ps", "i8", "all planes have come so far when an epoch ends"),
            Field("epoch_windows", "i8", "windows in an epoch"),
            Field("defers", "i8", "1 if completions are handled at the end of an epoch, 0 if in time order"),
            Field("epoch_open", "i8", "1 between the first and the last plane of an epoch"),
            Field("next_domain", "i8", "first domain that has not ended this epoch"),
            Field(
                "next_node", "i8", "first node of the domain not yet processed in its window, counted from its first"
            ),
            Field("window_start_ps", "i8", "of the domain at hand: its window is [window_start_ps, + 2**window_shift)"),
            Field("in_flight", "i8", "of the domain at hand: arrivals and credits in inboxes"),
            Field("window_shift", "i8", "log2 of the window length in ps; the length is at most the least latency"),
            Field("wheel_mask", "i8", "windows in the wheel of inboxes, less one; a power of two less one"),
            Field("puts_off", "i8", "1 if records can lie beyond the wheel: then they do not come in order"),
            Field("num_nodes", "i8", "of all domains"),
            Field("num_terminals", "i8", "the first nodes of each domain are its terminals"),
            Field("num_domains", "i8", ""),
            Field("routing", "i8", "a Routing"),
            Field("max_payload_bytes", "i8", "payload of a full packet"),
            Field("message_overhead_ps", "i8", "wait of a share in its slot"),
            Field("limit_ps", "i8", "the run ends before this time"),
            Field("tasks_left", "i8", "tasks that have not ended"),
            Field("delivered_packets", "i8", "packets ejected so far"),
            Field("packet_latency_sum_ps", "i8", "over the packets of this slice; the driver drains it"),
            Field("packet_latency_max_ps", "i8", "largest packet latency so far"),
            Field("free_arrival_block", "i4", "head of the list of free arrival blocks"),
            Field("num_free_arrival_blocks", "i4", "its length"),
            Field("free_credit_block", "i4", "head of the list of free credit blocks"),
            Field("num_free_credit_blocks", "i4", "its length"),
            Field("free_packet", "i4", "head of the list of free packets"),
            Field("num_free_packets", "i4", "its length"),
            Field("free_share", "i4", "head of the list of free shares"),
            Field("free_timer", "i4", "head of the list of free timers"),
        ),
    ),
    Table(
        "domains",
        "domain_row",
        "planes that run together. Planes influence each other only through messages that become ready, and those are "
        "injected a message overhead later: so each plane is a domain and runs alone, its state in the cache, for an "
        "epoch of at most that length. With an overhead of less than a window all planes are one domain",
        (
            Field("window_start_ps", "i8", "its next window, while it is not at hand"),
            Field("in_flight", "i8", "arrivals and credits in its inboxes, while it is not at hand"),
            Field("first_node", "i4", "its nodes are consecutive: terminals, then switches"),
            Field("num_nodes", "i4", ""),
        ),
    ),
    Table(
        "terminals",
        "terminal_row",
        "what a terminal is beside its channels",
        (Field("first_timer", "i4", "its timers, a list in time order"),),
    ),
    Table(
        "nodes",
        "node_row",
        "a switch, or a terminal's part in a domain",
        (
            Field("wake_ps", "i8", "earliest time at which the node has work that no inbox announces"),
            Field("first_output", "i4", "switch: its first output channel"),
            Field("num_outputs", "i4", "switch: its output channels, consecutive"),
            Field("first_injector", "i4", "terminal: its first injector"),
            Field("num_injectors", "i4", "terminal: its injectors, consecutive"),
            Field("route_row", "i4", "switch: first of its routes, one per terminal; like switches share them"),
            Field("max_starts", "i4", "most packets that its channels can start in one window"),
        ),
    ),
    Table(
        "channels",
        "channel_row",
        "one direction of a link and the buffer at its downstream end",
        # What a start touches comes first, what an arrival by the channel touches last: a cache line holds 64 bytes.
        (
            Field("free_ps", "i8", "when the channel can start its next packet"),
            Field("room_bytes", "i8", "free buffer downstream as the sender knows it"),
            Field("latency_ps", "i8", "wire flight and downstream chip"),
            Field("buffer_bytes", "i8", "capacity of the buffer"),
            Field("credit_first", "i4", "credits usable in this window, in time order"),
            Field("credit_last", "i4", "the last of them"),
            Field("queue_first", "i4", "switch output: oldest packet that waits"),
            Field("queue_last", "i4", "switch output: youngest packet that waits"),
            Field("target_node", "i4", "where it ends"),
            Field("source_node", "i4", "where it starts"),
            Field("serialization_row", "i4", "durations[row + payload] is the serialization"),
            Field("injector", "i4", "the injector that feeds it, or NONE"),
            Field("busy_ps", "i8", "recorded: sum of serialization"),
            Field("wire_bytes", "i8", "recorded: bytes carried"),
            Field("packets", "i8", "recorded: packets carried"),
            Field("credit_stall_ps", "i8", "recorded: time lost waiting for room"),
            Field("peak_occupancy_bytes", "i8", "recorded: most of the buffer in use just after a start"),
            Field("spray_counter", "i8", "next choice of packets that come in by this channel"),
            Field("tie_key", "i8", "H(seed, 1, place)"),
            Field("ejection_free_ps", "i8", "end of the last ejection from this channel"),
            Field("injection_row", "i4", "durations[row + payload] is the injection time"),
            Field("ejection_row", "i4", "durations[row + payload] is the ejection time"),
            Field("place", "i4", "its number in its plane"),
        ),
    ),
    Table(
        "durations",
        "duration_row",
        "look-up by payload, one row of max_payload + 1 entries per kind of server; row 0 holds wire bytes",
        (Field("value", "i8", "ps (row 0: bytes)"),),
    ),
    Table(
        "routes",
        "route_row",
        "candidates by kind of switch and destination",
        (Field("first", "i4", "first candidate"), Field("count", "i4", "number of candidates")),
    ),
    Table(
        "candidates",
        "candidate_row",
        "outputs, in the order of the fabric",
        (Field("output", "i4", "counted from the first output of the switch"),),
    ),
    Table(
        "inboxes",
        "inbox_row",
        "what reaches a node in one window of the wheel: row (window & wheel_mask) * num_nodes + node",
        (
            Field("first_arrival_block", "i4", "arrivals: a list of blocks"),
            Field("last_arrival_block", "i4", "the block that is being filled"),
            Field("num_arrivals", "i4", "records in the list"),
            Field("first_credit_block", "i4", "credits: a list of blocks"),
            Field("last_credit_block", "i4", "the block that is being filled"),
            Field("num_credits", "i4", "records in the list"),
        ),
    ),
    Table(
        "arrivals",
        "arrival_row",
        "a packet whose head reaches a node; it carries all that a switch needs",
        (
            Field("time_ps", "i8", "head arrival"),
            Field("injected_ps", "i8", "start on the first channel"),
            Field("message", "i4", ""),
            Field("channel", "i4", "the channel that it came by"),
            Field("flow", "u4", "H(seed, 2, source, destination)"),
            Field("destination", "u2", "terminal"),
            Field("payload_bytes", "u2", ""),
        ),
    ),
    Table("arrival_blocks", "arrival_block_row", "arrivals come in blocks", (Field("next", "i4", "next block"),)),
    Table(
        "credits",
        "credit_row",
        "room that comes back to the sender of a channel",
        (
            Field("time_ps", "i8", "when it is usable"),
            Field("channel", "i4", ""),
            Field("bytes", "i4", ""),
            Field("next", "i4", "next credit of the channel in this window, in time order"),
        ),
    ),
    Table("credit_blocks", "credit_block_row", "credits come in blocks", (Field("next", "i4", "next block"),)),
    Table(
        "packets",
        "packet_row",
        "packets that wait at a switch output",
        (
            Field("earliest_ps", "i8", "e: the channel may not start the packet before"),
            Field("injected_ps", "i8", "start on the first channel"),
            Field("message", "i4", ""),
            Field("channel", "i4", "the channel that it came by"),
            Field("flow", "u4", ""),
            Field("destination", "u2", ""),
            Field("payload_bytes", "u2", ""),
            Field("next", "i4", "next packet of the queue, or of the free list"),
        ),
    ),
    Table(
        "injectors",
        "injector_row",
        "the server of one injection channel; numbered by domain, terminal, bundle",
        (
            Field("wait_end_ps", "i8", "end of the first wait of its shares, NEVER without one"),
            Field("channel", "i4", ""),
            Field("node", "i4", ""),
            Field("bundle", "i4", ""),
            Field("position", "i4", "of its plane in the bundle"),
            Field("fresh_slots", "i4", "slots that were never taken"),
            Field("freed_first", "i4", "shares that have left their slots, in the order of the time they did"),
            Field("freed_last", "i4", "the last of them"),
            Field("next_message", "i4", "first ready message that has not taken a slot here"),
            Field("ring_first", "i4", "shares in slots that no longer wait, in the order of service"),
            Field("ring_last", "i4", "the back of the ring"),
            Field("waiting_first", "i4", "shares in slots that still wait, in the order of their slots"),
            Field("waiting_last", "i4", "the last of them"),
            Field("blocked", "i4", "1 while a share that no longer waits has no room"),
        ),
    ),
    Table(
        "wakes",
        "wake_row",
        "per injector; apart from the injectors because a terminal searches its least one per packet",
        (Field("wake_ps", "i8", "when the injector has to be looked at"),),
    ),
    Table(
        "bundles",
        "bundle_row",
        "injectors over which messages are striped, and the ready messages in order",
        (
            Field("ready_ps", "i8", "ready time of the last message of the list"),
            Field("first_member", "i4", "its injectors: first row of members"),
            Field("num_members", "i4", "planes of the bundle"),
            Field("last_ready", "i4", "last message of the list"),
            Field("anchor", "i4", "last message of the list that became ready before ready_ps"),
            Field("instant_first", "i4", "first message of the list that became ready at ready_ps"),
        ),
    ),
    Table("members", "member_row", "injectors by bundle, in the order of the planes", (Field("injector", "i4", ""),)),
    Table(
        "shares",
        "share_row",
        "a slot, and the message's part on this channel that holds it",
        (
            Field("until_ps", "i8", "in use: end of the message overhead; afterwards: since when the slot is free"),
            Field("bytes_left", "i8", "not yet injected"),
            Field("joined", "i8", "twice the time at which it went to the back of the ring, + 1 if it was served then"),
            Field("flow", "i8", ""),
            Field("message", "i4", ""),
            Field("destination", "i4", ""),
            Field("started", "i4", "1 after its first packet"),
            Field("next", "i4", "next share of the list that it is in"),
        ),
    ),
    Table(
        "timers",
        "timer_row",
        "what happens at a terminal without a packet",
        (
            Field("time_ps", "i8", ""),
            Field("kind", "i4", "a TimerKind"),
            Field("subject", "i4", "a task or a message"),
            Field("next", "i4", "next timer of the terminal, or of the free list"),
        ),
    ),
    Table(
        "messages",
        "message_row",
        "",
        (
            Field("ready_ps", "i8", "recorded"),
            Field("first_injection_ps", "i8", "recorded: start of the first packet"),
            Field("sent_ps", "i8", "end of the injection time of the last packet"),
            Field("complete_ps", "i8", "recorded: last delivery"),
            Field("packets_left", "i8", "not yet delivered"),
            Field("share_bytes", "i8", "each share is cut and timed as this many; 0: the message makes no packet"),
            Field("flow", "i8", "H(seed, 2, source, destination)"),
            Field("source", "i4", "terminal"),
            Field("destination", "i4", "terminal"),
            Field("source_task", "i4", ""),
            Field("target_task", "i4", ""),
            Field("waiting", "i4", "waits that are not over: its task's start and messages"),
            Field("shares_left", "i4", "not yet sent"),
            Field("num_shares", "i4", "planes that it uses"),
            Field("first_plane", "i4", "position in the bundle of its first share"),
            Field("bundle", "i4", ""),
            Field("next_ready", "i4", "next message of the bundle's ready list"),
            Field("after_sent_first", "i4", "followers released when it is sent: first row of followers"),
            Field("after_sent_count", "i4", ""),
            Field("after_complete_first", "i4", "followers released when it is complete"),
            Field("after_complete_count", "i4", ""),
        ),
    ),
    Table("followers", "follower_row", "messages that wait for messages", (Field("message", "i4", ""),)),
    Table(
        "tasks",
        "task_row",
        "an operation at one rank",
        (
            Field("begin_ps", "i8", "recorded"),
            Field("end_ps", "i8", "recorded"),
            Field("not_before_ps", "i8", ""),
            Field("gap_ps", "i8", ""),
            Field("launch_ps", "i8", "launch latency, 0 for a task that moves nothing"),
            Field("terminal", "i4", ""),
            Field("waiting", "i4", "predecessors that have not ended"),
            Field("started", "i4", "1 once it has started"),
            Field("pending", "i4", "messages not yet sent or not yet complete"),
            Field("sends_first", "i4", "its messages: first row of sends"),
            Field("sends_count", "i4", ""),
            Field("successors_first", "i4", "first row of successors"),
            Field("successors_count", "i4", ""),
        ),
    ),
    Table("sends", "send_row", "messages by source task, in order", (Field("message", "i4", ""),)),
    Table("successors", "successor_row", "tasks by predecessor", (Field("task", "i4", ""),)),
    Table(
        "latencies",
        "latency_row",
        "histogram of packet latencies: bucket v for v < 256 ps, else shift * 128 + (v >> shift)",
        (Field("packets", "i8", ""),),
    ),
    Table("keys", "key_row", "scratch: sort keys of one node's arrivals", (Field("key", "i8", ""),)),
    Table("swap", "swap_row", "scratch of the sort", (Field("key", "i8", ""),)),
)

DTYPES: dict[str, np.dtype[np.void]] = {table.name: table.dtype for table in TABLES}

Rows = npt.NDArray[np.void]


class State(NamedTuple):
    """All tables of a run, in the order of ``TABLES``; one NumPy structured array each."""

    clock: Rows
    domains: Rows
    terminals: Rows
    nodes: Rows
    channels: Rows
    durations: Rows
    routes: Rows
    candidates: Rows
    inboxes: Rows
    arrivals: Rows
    arrival_blocks: Rows
    credits: Rows
    credit_blocks: Rows
    packets: Rows
    injectors: Rows
    wakes: Rows
    bundles: Rows
    members: Rows
    shares: Rows
    timers: Rows
    messages: Rows
    followers: Rows
    tasks: Rows
    sends: Rows
    successors: Rows
    latencies: Rows
    keys: Rows
    swap: Rows


_C_TYPES = {"i8": "int64_t", "i4": "int32_t", "u4": "uint32_t", "u2": "uint16_t"}

# The header is read by the compiler and by cffi, which takes plain declarations only: no guards, no includes.
_HEADER = """\
/* Generated by `python -m fabricsim.engine.layout` from fabricsim/engine/layout.py. Do not edit. */
"""


def c_header() -> str:
    """Return the text of ``csrc/state.h``: constants, codes, one struct per table, the state."""
    lines = [_HEADER, f"#define NONE ({NONE})", f"#define BLOCK_SHIFT {BLOCK_SHIFT}", f"#define BLOCK {BLOCK}"]
    lines += [f"#define LATENCY_SHIFT {LATENCY_SHIFT}", f"#define LATENCY_BUCKETS {LATENCY_BUCKETS}"]
    lines += [f"#define NEVER {NEVER}", ""]
    enums: tuple[Any, ...] = (Code, TimerKind, Routing)
    for enum in enums:
        lines.append("enum {")
        lines += [f"    {enum.__name__.upper()}_{member.name} = {member.value}," for member in enum]
        lines += ["};", ""]
    for table in TABLES:
        if table.meaning:
            lines.append(f"/* {table.name}: {table.meaning} */")
        lines.append("typedef struct {")
        for field in table.fields:
            comment = f" /* {field.meaning} */" if field.meaning else ""
            lines.append(f"    {_C_TYPES[field.kind]} {field.name};{comment}")
        lines += [f"}} {table.row};", ""]
    lines.append("typedef struct {")
    lines += [f"    {table.row} *{table.name};" for table in TABLES]
    lines += ["} fabric_state;", ""]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Write ``csrc/state.h``, or with ``--check`` compare it with the layout (exit 1 if stale)."""
    path = Path(__file__).parents[2] / "csrc" / "state.h"
    if "--check" not in arguments:
        path.write_text(c_header())
        return 0
    if path.exists() and path.read_text() == c_header():
        return 0
    print(f"{path.name} is stale; run: python -m fabricsim.engine.layout", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
