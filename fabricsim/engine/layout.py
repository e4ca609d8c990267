"""THE declaration of the engine's state: tables, fields, constants, codes.

Everything that a kernel reads or writes stands here once. The NumPy dtypes and the C header ``csrc/state.h`` are made
from it (``python -m fabricsim.engine.layout`` writes the header, ``--check`` proves it fresh).

A table is one structured array, one row per thing (array of structs: an event touches several fields of one
channel). A link to a row of another table is an unsigned 32-bit index, ``NONE`` where there is none: a signed one Numba
tests for Python's counting from the end at each use, and the kernel took 1.4 times as long.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

NONE = 0xFFFFFFFF  #: no row
NOT_YET = -1  #: a time that has not come [ps]
NEVER = 1 << 62  #: a time that does not come [ps]
BANK_SHIFT = 5  #: 2**BANK_SHIFT neighbouring channels are a bank
ADAPTIVE_SLACK = 4  #: largest packets by which the backlog of an adaptive choice may exceed the least
LINE_BYTES = 64  #: a cache line: two threads that write into one wait for each other
LATENCY_SHIFT = 8  #: a latency keeps its 8 leading bits in the histogram: buckets are at most 1/128 wide
LATENCY_BUCKETS = 1 << (LATENCY_SHIFT - 1)  #: buckets per doubling of the latency
LATENCY_ROWS = LATENCY_BUCKETS * 64  #: buckets of one domain
WAY_LIMIT_PS = NONE  #: 4.3 ms: latencies and serialization on a packet's way beyond that count as queueing
TIMELINE_BINS = 64  #: bins of equal length in which the use of channels is kept; even


class Code(IntEnum):
    """Why a slice ended; PACKETS_FULL leaves every table as if the server at hand had not been touched."""

    SLICE = 0  #: the event budget is spent, more is to be done
    DONE = 1  #: every task ended and every credit is home
    STALLED = 2  #: tasks are unfinished and nothing can happen any more
    PACKETS_FULL = 3  #: grow ``packets`` for the domain at hand
    TIME_LIMIT = 4  #: the next event lies at or beyond ``limit_ps``
    NEED_WORK = 5  #: nothing more can happen before the next block of the workload is admitted
    HALT = 6  #: all that happens before ``halt_ps`` has happened, and nothing else


class Part(IntEnum):
    """What a kernel's entry does where it is not given a domain."""

    WHOLE = -1  #: everything
    OPEN = -2  #: open an epoch
    CLOSE = -3  #: close an epoch, all of whose domains have ended it


class TimerKind(IntEnum):
    """What happens at a terminal without a packet."""

    TASK_STARTS = 0  #: the launch latency of a task has passed
    MESSAGE_SENT = 1  #: the injection time of the last packet of a message has passed
    MESSAGE_COMPLETE = 2  #: the last packet of a message is delivered


class Routing(IntEnum):
    """How a packet with a choice takes an output (docs/physics.md, section 6)."""

    SPRAY = 0
    DETERMINISTIC = 1
    ADAPTIVE = 2
    # These choose alike; that there are detours is another word of the clock.
    VALIANT = SPRAY
    UGAL = ADAPTIVE


class Arbitration(IntEnum):
    """Which virtual channel an output serves next (docs/physics.md, section 5)."""

    OLDEST = 0
    ROUND_ROBIN = 1
    PRIORITY = 2


@dataclass(frozen=True)
class Field:
    """One field: its name (with its unit), its type as NumPy spells it, and its meaning."""

    name: str
    kind: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """One entity; ``name`` is its place in ``State``, ``row`` the name of its C struct.

    ``own_lines``: a row is filled up to whole cache lines, for threads write neighbouring rows at once, or nearly each
    access is to another row and waits for memory.
    """

    name: str
    row: str
    meaning: str
    fields: tuple[Field, ...]
    own_lines: bool = False

    @property
    def filling(self) -> int:
        """Bytes that fill a row up."""
        size = np.dtype([(field.name, field.kind) for field in self.fields], align=True).itemsize
        return -size % LINE_BYTES if self.own_lines else 0

    @property
    def dtype(self) -> np.dtype[np.void]:
        """The NumPy dtype, laid out as a C compiler lays out the struct."""
        filling = [("filling", f"S{self.filling}")] if self.filling else []
        return np.dtype([(field.name, field.kind) for field in self.fields] + filling, align=True)


TABLES = (
    Table(
        "clock",
        "clock_row",
        "the run as a whole; one row",
        (
            Field("epoch_start_ps", "i8", "the epoch at hand is [epoch_start_ps, epoch_end_ps), whole windows"),
            Field(
                "epoch_end_ps", "i8", "all domains have come so far when an epoch ends; NEVER: they run to their ends"
            ),
            Field("epoch_windows", "i8", "windows in an epoch"),
            Field("defers", "i8", "1 if completions are handled at the end of an epoch, 0 if in time order"),
            Field("epoch_open", "i8", "1 between the first and the last domain of an epoch"),
            Field("next_domain", "i8", "first domain that has not ended this epoch"),
            Field("window_shift", "i8", "log2 of the window length in ps; the length is at most the least latency"),
            Field("wheel_mask", "i8", "windows in the wheel of inboxes, less one; a power of two less one"),
            Field("num_channels", "i8", "rows of channels, of all domains"),
            Field("vc_mask", "i8", "virtual channels of a channel, less one; a power of two less one"),
            Field("arbitration", "i8", "an Arbitration"),
            Field("num_banks", "i8", "of all domains"),
            Field("num_terminals", "i8", ""),
            Field("num_domains", "i8", ""),
            Field("num_messages", "i8", "rows of messages: parts has so many per plane"),
            Field("routing", "i8", "a Routing"),
            Field("weighted", "i8", "1 if planes have weights"),
            Field("detours", "i8", "1 if candidates say by which virtual channel a packet goes on"),
            Field("max_payload_bytes", "i8", "payload of a full packet"),
            Field("message_overhead_ps", "i8", "wait of a share in its slot"),
            Field("acked", "i8", "1 if a share holds its slot until its delivery is known at its source"),
            Field("limit_ps", "i8", "the run ends before this time"),
            Field(
                "halt_ps", "i8", "epochs and windows end here at the latest, for the tables to change; NEVER: none do"
            ),
            Field("tasks_left", "i8", "tasks that have not ended"),
            Field("waits_left", "i8", "tasks that have not started, and messages that are not ready"),
            Field("num_classes", "i8", "classes of channels: timeline has so many rows per bin"),
            Field(
                "num_groups", "i8", "rows of groups; without any the tables of in-network operations have one empty row"
            ),
            Field("more_work", "i8", "1 while blocks of the workload are to be admitted"),
            Field("admit_ps", "i8", "an epoch that ends later needs the next block; NEVER: none begins by itself"),
            Field("retired_packets", "i8", "packets of the messages whose rows were freed"),
            Field("free_timer", "u4", "head of the list of free timers"),
            Field("new_task", "u4", "tasks admitted since the last epoch that wait for none, a list"),
        ),
    ),
    Table(
        "domains",
        "domain_row",
        "planes that run together. Planes influence each other only through messages that become ready, and those are "
        "injected a message overhead later: so each plane is a domain and runs alone, its state in the cache, for an "
        "epoch of at most that length. With an overhead of less than a window all planes are one domain. A thread has "
        "a domain to itself: what a domain writes in an epoch is its own",
        (
            Field("window_start_ps", "i8", "its window is [window_start_ps, + 2**window_shift)"),
            Field("arriving", "i8", "packets in its inboxes"),
            Field("next_place", "i8", "first place of the window that is to be looked at: terminals, then banks"),
            Field("first_channel", "i8", "its channels are consecutive"),
            Field("num_channels", "i8", ""),
            Field("first_bank", "i8", "its channels in banks"),
            Field("num_banks", "i8", ""),
            Field("max_starts", "i8", "most packets that a terminal or channel can start in one window"),
            Field("first_key", "i8", "its part of the scratch tables"),
            Field("hops", "i8", "packets started on its channels"),
            Field("delivered_packets", "i8", "packets ejected"),
            Field("packet_latency_sum_ps", "i8", "over the packets of this slice; the driver drains it"),
            Field("packet_latency_max_ps", "i8", "largest packet latency so far"),
            Field("first_latency", "i8", "its histogram: first row of latencies"),
            Field("latency_shift", "i8", "of the bucket of the latest packet"),
            Field("bin_shift", "i8", "log2 of the length of its bins of the timeline in ps"),
            Field("first_use", "i8", "of the bin that its window is in: first row of timeline"),
            Field("num_free_packets", "i8", "length of the list of free packets"),
            Field("free_packet", "u4", "head of the list of free packets"),
            Field("free_share", "u4", "head of the list of free shares"),
            Field("num_sent", "u4", "parts that were sent in this epoch: length of its list in sent"),
            Field(
                "num_complete", "u4", "parts whose last packet got its delivery time in this epoch: of that in complete"
            ),
        ),
        own_lines=True,
    ),
    Table(
        "terminals",
        "terminal_row",
        "what a terminal is beside its channels",
        (
            Field("first_timer", "u4", "its timers, a list in time order"),
            Field("recent_timer", "u4", "one of them near which the next is likely to come"),
            Field("first_injector", "u4", "its injectors, where all planes are one domain"),
            Field("num_injectors", "u4", ""),
        ),
    ),
    Table(
        "channels",
        "channel_row",
        "one direction of a link and the buffer at its downstream end; with several virtual channels a row for each. "
        "The first is the server of all: what is not of a buffer and its queue counts there alone",
        # Two cache lines of 64 bytes: what every look at the channel needs, then what a start adds.
        (
            Field("free_ps", "i8", "when the channel can start its next packet"),
            Field("room_bytes", "i8", "free buffer downstream as the sender knows it"),
            Field("latency_ps", "i8", "wire flight and downstream chip"),
            Field("credit_first", "u4", "packets whose credits are on their way, in time order"),
            Field("credit_last", "u4", "the last of them"),
            Field("queue_first", "u4", "switch output: oldest packet that waits"),
            Field("queue_last", "u4", "switch output: youngest packet that waits"),
            Field("blocked", "u4", "1 while a packet that could start has no room"),
            Field("injector", "u4", "the injector that feeds it, or NONE"),
            Field("serialization_row", "u4", "durations[row + payload] is the serialization"),
            Field("ejection_row", "u4", "durations[row + payload] is the ejection time"),
            Field("route_row", "u4", "first route of the switch at its end, one per terminal; NONE: a terminal"),
            Field("first_output", "u4", "first output channel of the switch at its end"),
            Field("spray_counter", "i8", "next choice of packets that come in by this channel"),
            Field("ejection_free_ps", "i8", "end of the last ejection from this channel"),
            Field("packets", "i8", "recorded: packets carried"),
            Field("busy_ps", "i8", "recorded: sum of serialization"),
            Field("wire_bytes", "i8", "recorded: bytes carried"),
            Field("credit_stall_ps", "i8", "recorded: time lost waiting for room"),
            Field("least_room_bytes", "i8", "recorded: least room just after a start in the bin that it is in"),
            Field("tie_key", "u4", "H(seed, 1, place)"),
            Field("first_part", "u4", "parts of its plane: first row of parts"),
        ),
    ),
    Table(
        "wakes",
        "wake_row",
        "per channel; apart from the channels because every window searches them all",
        (Field("wake_ps", "i8", "when the sender has work that no inbox announces"),),
    ),
    Table(
        "banks",
        "bank_row",
        "neighbouring channels of a domain; a window looks at a channel only where its bank has work",
        (Field("wake_ps", "i8", "no wake of its channels is earlier"),),
    ),
    Table(
        "filled",
        "filled_row",
        "by window of the wheel and bank: row (window & wheel_mask) * num_banks + bank",
        (Field("inboxes", "u4", "1 if an inbox of the bank holds a packet"),),
    ),
    Table(
        "inboxes",
        "inbox_row",
        "what reaches a switch output in one window of the wheel: row (window & wheel_mask) * num_channels + channel. "
        "With adaptive routing all that reaches a switch, in the inbox of its first output",
        (Field("packet", "u4", "a list, the newest first"),),
    ),
    Table(
        "arbiters",
        "arbiter_row",
        "per channel, in the row of its first virtual channel: what its output has picked, where there are several",
        (
            Field("pick_ps", "i8", "when it picked"),
            Field("picked", "u4", "the virtual channel whose first packet starts next, NONE before a pick"),
            Field("served", "u4", "the virtual channel that was served last"),
        ),
    ),
    Table(
        "backlogs",
        "backlog_row",
        "per channel, with adaptive routing",
        (Field("queued_bytes", "i8", "wire bytes of the packets in its queue"),),
    ),
    Table(
        "packets",
        "packet_row",
        "packets in the buffer at the end of a channel, from the start on that channel until the credit is taken",
        (
            Field("time_ps", "i8", "head arrival; once started on the next channel: when the credit is usable"),
            Field(
                "injected_ps",
                "i8",
                "start on the first channel. Of the last packet that a share injects for a message, which attribution "
                "follows, the complement of the latencies that it has crossed: a number below 0",
            ),
            Field("message", "u4", "its message; once started: the packet before it among the credits"),
            Field("channel", "u4", "the channel that it came by, whose room it holds"),
            Field("next", "u4", "next packet of the inbox, the queue, the credits or the free list"),
            Field("destination", "u2", "terminal"),
            Field("payload_bytes", "u2", ""),
        ),
    ),
    Table(
        "relays",
        "relay_row",
        "by row of packets, where there are in-network operations: a packet that a switch made, a copy or a merged "
        "one, takes no room itself but stands for packets that do, its holders",
        (
            Field("earliest_ps", "i8", "it starts no earlier; 0 for all other packets"),
            Field("injected_ps", "i8", "start on the first channel of what a packet was made of"),
            Field("until_ps", "i8", "of the first holder: end of the last packet made of it so far"),
            Field("holder", "u4", "the first of its holders, a list; NONE: no switch made the packet"),
            Field("left", "u4", "of the first holder: packets made of it that have not started"),
        ),
    ),
    Table(
        "groups",
        "group_row",
        "in-network operations",
        (
            Field("reduction_ps", "i8", "a reducer takes so long for the packets that become one"),
            Field("first", "u4", "its messages are consecutive"),
            Field("count", "u4", ""),
            Field("sources", "u4", "the first of them that are injected: one of a multicast, several of a reduction"),
            Field("packets", "u4", "of a message on each of its planes"),
            Field("payload_bytes", "u4", "of each of them"),
            Field("first_contribution", "u4", "row of contributions + plane * sources + place in the group"),
            Field("first_merge", "u4", "row of merges + plane * (merge_mask + 1) + (packet & merge_mask)"),
            Field("merge_mask", "u4", "packets of a plane that can wait for others at once, or more, less one"),
        ),
    ),
    Table(
        "contributions",
        "contribution_row",
        "by plane and carrier of a reduction",
        (
            Field("packets", "i8", "packets that started towards the switch"),
            Field("reducer_free_ps", "i8", "the reducer of the output towards it can begin the next packet"),
        ),
    ),
    Table(
        "merges",
        "merge_row",
        "packets of a reduction on one plane that become one, a ring",
        (
            Field("time_ps", "i8", "the last head arrival"),
            Field("earliest_ps", "i8", "the packet made of them starts no earlier"),
            Field("injected_ps", "i8", "the first start on a first channel"),
            Field("propagation_ps", "i8", "latency crossed by the one that attribution follows; 0: it has not come"),
            Field("channel", "u4", "the one by which the last head comes"),
            Field("first", "u4", "those that have come so far, a list"),
            Field("count", "u4", "length of the list; 0: none, and the rest says nothing"),
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
        (Field("first", "u4", "first candidate"), Field("count", "u4", "number of candidates")),
    ),
    Table(
        "candidates",
        "candidate_row",
        "outputs, in the order of the fabric",
        (
            Field(
                "output", "u4", "counted from the first output of the switch; with detours one of its virtual channels"
            ),
        ),
    ),
    Table(
        "injectors",
        "injector_row",
        "the server of one injection channel",
        (
            Field("wait_end_ps", "i8", "end of the first wait of its shares, NEVER without one"),
            Field("channel", "u4", ""),
            Field("domain", "u4", ""),
            Field("bundle", "u4", ""),
            Field("position", "u4", "of its plane in the bundle"),
            Field("injection_row", "u4", "durations[row + payload] is the injection time"),
            Field("weight", "u4", "of its plane among those of the bundle, where planes have weights"),
            Field("fresh_slots", "u4", "slots that were never taken"),
            Field("freed_first", "u4", "shares that have left their slots, in the order of the time they did"),
            Field("freed_last", "u4", "the last of them"),
            Field("next_message", "u4", "first ready message that has not taken a slot here"),
            Field("ring_first", "u4", "shares in slots that no longer wait, in the order of service"),
            Field("ring_last", "u4", "the back of the ring"),
            Field("waiting_first", "u4", "shares in slots that still wait, in the order of their slots"),
            Field("waiting_last", "u4", "the last of them"),
        ),
    ),
    Table(
        "bundles",
        "bundle_row",
        "injectors over which messages are striped, and the ready messages in order",
        (
            Field("ready_ps", "i8", "ready time of the last message of the list"),
            Field("first_member", "u4", "its injectors: first row of members"),
            Field("num_members", "u4", "planes of the bundle"),
            Field("last_ready", "u4", "last message of the list"),
            Field("anchor", "u4", "last message of the list that became ready before ready_ps"),
            Field("instant_first", "u4", "first message of the list that became ready at ready_ps"),
        ),
    ),
    Table(
        "places",
        "place_row",
        "where injectors stand in the rings of their bundles. Bundles that change leave the rings of the messages that "
        "are ready: row first_place + injector, by message",
        (
            Field("position", "u4", "of its plane in the ring; NONE: it belongs to none"),
            Field("num_members", "u4", "planes of the ring"),
        ),
    ),
    Table("members", "member_row", "injectors by bundle, in the order of the planes", (Field("injector", "u4", ""),)),
    Table(
        "shares",
        "share_row",
        "a slot, and the message's part on this channel that holds it",
        (
            Field("until_ps", "i8", "in use: end of the message overhead; afterwards: since when the slot is free"),
            Field("bytes_left", "i8", "not yet injected"),
            Field("endpoint_ps", "i8", "since its message was ready: wait for the slot, message overhead, slow copies"),
            Field("serialization_ps", "i8", "of its packets on this channel"),
            Field("stalled_before_ps", "i8", "stall of the channel for room that came before the share had it to bear"),
            Field("joined", "i8", "twice the time at which it went to the back of the ring, + 1 if it was served then"),
            Field("message", "u4", ""),
            Field("destination", "u4", ""),
            Field("first_injection_ps", "i8", "start of its first packet"),
            Field("started", "u4", "1 after its first packet"),
            Field("vc", "u4", "virtual channel, counted from the first of its channel"),
            Field("payload_bytes", "u4", "payload of its packets, but the last"),
            Field("next", "u4", "next share of the list that it is in"),
        ),
    ),
    Table(
        "timers",
        "timer_row",
        "what happens at a terminal without a packet",
        (
            Field("time_ps", "i8", ""),
            Field("kind", "u4", "a TimerKind"),
            Field("subject", "u4", "a task or a message"),
            Field("next", "u4", "next timer of the terminal, or of the free list"),
            Field("previous", "u4", "the timer of the terminal before it"),
        ),
    ),
    Table(
        "messages",
        "message_row",
        "",
        (
            # Two cache lines: what planes read and write for each share, then the rest.
            Field("ready_ps", "i8", "recorded"),
            Field("first_injection_ps", "i8", "recorded: start of the first packet"),
            Field("sent_ps", "i8", "end of the injection time of the last packet"),
            Field("complete_ps", "i8", "recorded: last delivery"),
            Field(
                "share_bytes", "i8", "each share is cut and timed as this many, with weights all; 0: none is injected"
            ),
            Field("shares_left", "u4", "not yet sent"),
            Field("parts_left", "u4", "shares that are not yet complete"),
            Field("next_ready", "u4", "next message of the bundle's ready list"),
            Field("bundle", "u4", ""),
            Field("num_shares", "u2", "planes that it uses"),
            Field("first_plane", "u2", "position in the bundle of its first share"),
            Field("source", "u2", "terminal"),
            Field("destination", "u2", "terminal"),
            Field("flow", "i8", "H(seed, 2, source, destination)"),
            Field("number", "i8", "place in the order of (operation, index) in the whole workload"),
            Field("source_task", "u4", "NONE: the row is free"),
            Field("target_task", "u4", ""),
            Field("waiting", "u4", "waits that are not over: its task's start and messages"),
            Field("first_place", "u4", "the rings that first_plane counts in: their first row of places"),
            Field("vc", "u4", "virtual channel on which it travels"),
            Field("packets", "u4", "delivered of each share, where these are alike"),
            Field("group", "u4", "the in-network operation that it is part of, or NONE"),
            Field("weights", "u4", "sum of the weights of its planes, 0 where its shares are alike"),
            Field("after_sent_first", "u4", "followers released when it is sent: first row of followers"),
            Field("after_sent_count", "u4", ""),
            Field("after_complete_first", "u4", "followers released when it is complete"),
            Field("after_complete_count", "u4", ""),
        ),
        own_lines=True,
    ),
    Table(
        "parts",
        "part_row",
        "the share of a message on one plane: row plane * num_messages + message. Written by the plane's domain, and "
        "read when the epoch has ended. What became of its time (docs/physics.md, section 10) in two pieces, up to the "
        "start of its last packet on the first channel and on that packet's way from there",
        (
            # One cache line, which a share needs twice: at the start of its last packet, and at that one's ejection.
            Field("sent_ps", "i8", "end of the injection time of its last packet"),
            Field("complete_ps", "i8", "its last delivery"),
            Field("last_injection_ps", "i8", "start of its last packet"),
            Field("endpoint_ps", "i8", "before: wait for a slot, message overhead, slow copies"),
            Field("serialization_ps", "i8", "before: its other packets on the first channel"),
            Field("credit_stall_ps", "i8", "before: the first channel stood still for room"),
            Field("way_credit_stall_ps", "i8", "after: waits for room at switches"),
            Field("way_propagation_ps", "u4", "after: latencies; at most WAY_LIMIT_PS"),
            Field(
                "way_serialization_ps", "u4", "after: waits for slower channels before it, and its ejection; likewise"
            ),
        ),
        own_lines=True,
    ),
    Table(
        "counts",
        "count_row",
        "by row of parts; apart because each delivery counts",
        (Field("packets_left", "u4", "not yet delivered"),),
    ),
    Table(
        "sent",
        "sent_row",
        "by row of parts: the list of a domain",
        (
            Field("first_injection_ps", "i8", "start of its first packet"),
            Field("sent_ps", "i8", "as in parts"),
            Field("message", "u4", ""),
        ),
    ),
    Table(
        "complete",
        "complete_row",
        "by row of parts: the list of a domain",
        (Field("complete_ps", "i8", "as in parts"), Field("message", "u4", "")),
    ),
    Table(
        "acks",
        "ack_row",
        "by row of parts, where slots wait for deliveries; else one empty row",
        (
            Field("way_ps", "i8", "latencies of the way back to the source"),
            Field("share", "u4", "the share that is sent and waits for its last delivery, or NONE"),
            Field("injector", "u4", "the one whose slot it holds"),
        ),
    ),
    Table("followers", "follower_row", "messages that wait for messages", (Field("message", "u4", ""),)),
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
            Field("terminal", "u4", ""),
            Field("waiting", "u4", "predecessors that have not ended"),
            Field("started", "u4", "1 once it has started"),
            Field("pending", "u4", "messages not yet sent or not yet complete"),
            Field("sends_first", "u4", "its messages: first row of sends"),
            Field("sends_count", "u4", ""),
            Field("first_successor", "u4", "its edges to tasks that wait for it, a list"),
            Field("next_new", "u4", "next of the new tasks"),
            Field("awaited", "u4", "1 while a task of a block that is not admitted waits for it: it must not start"),
        ),
    ),
    Table("sends", "send_row", "messages by source task, in order", (Field("message", "u4", ""),)),
    Table(
        "successors",
        "successor_row",
        "edges from tasks to those that wait for them",
        (Field("task", "u4", "the one that waits"), Field("next", "u4", "next edge of the task that it waits for")),
    ),
    Table(
        "latencies",
        "latency_row",
        "histogram of packet latencies, one per domain: bucket v for v < 256 ps, else shift * 128 + (v >> shift)",
        (Field("packets", "i8", ""),),
    ),
    Table(
        "bins",
        "bin_row",
        "per channel: the bin of the timeline that it is in. What it recorded since it came there is not in the "
        "timeline yet, but is entered when the channel is served in another bin",
        (Field("first_use", "u4", "first row of timeline of the bin"),),
    ),
    Table(
        "meters",
        "meter_row",
        "per channel: what it had recorded when it came to its bin",
        (
            Field("busy_ps", "i8", ""),
            Field("credit_stall_ps", "i8", ""),
            Field("least_room_bytes", "i8", "least room just after a start"),
            Field("buffer_bytes", "i8", "size of the buffer downstream"),
            Field("channel_class", "u4", ""),
        ),
    ),
    Table(
        "timeline",
        "use_row",
        "use of the channels of a class by bin of time: row (domain * TIMELINE_BINS + bin) * num_classes + class. A "
        "start is in the bin of its window",
        (
            Field("busy_ps", "i8", "serialization of the packets that started in the bin"),
            Field("credit_stall_ps", "i8", "time that they lost waiting for room"),
            Field("peak_occupancy_bytes", "i8", "largest occupancy of one buffer just after one of these starts"),
        ),
    ),
    Table("keys", "key_row", "scratch: sort keys of the packets that reach an output", (Field("key", "i8", ""),)),
    Table("swap", "swap_row", "scratch of the sort", (Field("key", "i8", ""),)),
)

DTYPES: dict[str, np.dtype[np.void]] = {table.name: table.dtype for table in TABLES}

Rows = npt.NDArray[np.void]


class State(NamedTuple):
    """All tables of a run, in the order of ``TABLES``; one NumPy structured array each."""

    clock: Rows
    domains: Rows
    terminals: Rows
    channels: Rows
    wakes: Rows
    banks: Rows
    filled: Rows
    inboxes: Rows
    arbiters: Rows
    backlogs: Rows
    packets: Rows
    relays: Rows
    groups: Rows
    contributions: Rows
    merges: Rows
    durations: Rows
    routes: Rows
    candidates: Rows
    injectors: Rows
    bundles: Rows
    places: Rows
    members: Rows
    shares: Rows
    timers: Rows
    messages: Rows
    parts: Rows
    counts: Rows
    sent: Rows
    complete: Rows
    acks: Rows
    followers: Rows
    tasks: Rows
    sends: Rows
    successors: Rows
    latencies: Rows
    bins: Rows
    meters: Rows
    timeline: Rows
    keys: Rows
    swap: Rows


_C_TYPES = {"i8": "int64_t", "u4": "uint32_t", "u2": "uint16_t"}

# The header is read by the compiler and by cffi, which takes plain declarations only: no guards, no includes.
_HEADER = """\
/* Generated by `python -m fabricsim.engine.layout` from fabricsim/engine/layout.py. Do not edit. */
"""


def c_header() -> str:
    """Return the text of ``csrc/state.h``: constants, codes, one struct per table, the state."""
    lines = [_HEADER, f"#define NONE {NONE}", f"#define NEVER {NEVER}", f"#define BANK_SHIFT {BANK_SHIFT}"]
    lines += [f"#define ADAPTIVE_SLACK {ADAPTIVE_SLACK}"]
    lines += [f"#define WAY_LIMIT_PS {WAY_LIMIT_PS}", f"#define TIMELINE_BINS {TIMELINE_BINS}"]
    lines += [f"#define LATENCY_SHIFT {LATENCY_SHIFT}", f"#define LATENCY_BUCKETS {LATENCY_BUCKETS}", ""]
    enums: tuple[Any, ...] = (Code, Part, TimerKind, Routing, Arbitration)
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
        if table.filling:
            lines.append(f"    char filling[{table.filling}];")
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
