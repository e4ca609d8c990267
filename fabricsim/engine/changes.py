"""A network that changes at a given time: its new tables, and what is under way between the old ones and them.

The kernel stops where nothing before that time is left to do (``Code.HALT``), ``change_network`` puts the tables of the
new network into the state, and the kernel goes on. The rules are in docs/physics.md, section 13.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fabricsim.engine.layout import ADAPTIVE_SLACK, BANK_SHIFT, NONE, Routing, Rows, State
from fabricsim.engine.state import Durations, column, place_rows, route_rows, rows
from fabricsim.errors import UnreachableError
from fabricsim.fabrics.network import Network
from fabricsim.units import time_text

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


class Change(NamedTuple):
    """From ``time_ps`` (above 0) on the run has ``network``, which differs in rates, dead channels and routes alone."""

    time_ps: int
    network: Network


def change_network(state: State, old: Network, new: Network, time_ps: int) -> State:
    """Return the state at *time_ps* with the tables of the network *new*, all but those of messages.

    All that happens before has happened. Raises ``UnreachableError`` where something would have to be sent again.
    """
    refuse_cut_shares(state, new, time_ps)
    inbox, arriving = in_lists(state.packets, state.inboxes["packet"])
    adapts = state.clock["routing"][0] == Routing.ADAPTIVE
    if not adapts:
        take_back_choices(state, arriving)
    state = with_rates(state, new)
    routes, candidates, route_row, _ = route_rows(new)
    at_switch = new.channels.target_node >= new.num_terminals
    state.channels["route_row"][at_switch] = route_row[new.channels.target_node[at_switch] - new.num_terminals]
    state = state._replace(routes=routes, candidates=candidates)

    lost = route_waiting_again(state, new, time_ps)
    came_by = state.packets["channel"][arriving].astype(np.int64)
    refuse_stranded(state, new, arriving, choices_of(state, came_by, arriving)[1], time_ps)
    if not adapts:
        route_arriving(state, inbox, arriving)
    slower = old.channels.ps_per_byte_num != new.channels.ps_per_byte_num
    slower |= old.channels.ps_per_byte_den != new.channels.ps_per_byte_den
    free_from(state, np.flatnonzero(lost | slower), time_ps)
    wake_outputs(state, time_ps)
    return with_rings(state, new)


# --- lists and routes ----------------------------------------------------------------------------------------------


def in_lists(table: Rows, heads: npt.NDArray[np.uint32]) -> tuple[Int64, Int64]:
    """Return all rows of *table* in the lists that begin with *heads*: which list, and which row, list by list."""
    owner = np.flatnonzero(heads != NONE)
    row = heads[owner].astype(np.int64)
    owners, found = [owner], [row]
    while len(row):
        after = table["next"][row]
        owner, row = owner[after != NONE], after[after != NONE].astype(np.int64)
        owners.append(owner)
        found.append(row)
    order = np.argsort(np.concatenate(owners), kind="stable")
    return np.concatenate(owners)[order], np.concatenate(found)[order]


def server_of(state: State, channel: Int64) -> Int64:
    """Return the first virtual channels of the channels that these belong to."""
    server: Int64 = channel & ~state.clock["vc_mask"][0]
    return server


def choices_of(state: State, came_by: Int64, packet: Int64) -> tuple[Int64, Int64]:
    """Return first candidate and number of candidates of packets at the switches at the end of *came_by*."""
    row = state.channels["route_row"][came_by].astype(np.int64) + state.packets["destination"][packet]
    return state.routes["first"][row].astype(np.int64), state.routes["count"][row].astype(np.int64)


def take_back_choices(state: State, arriving: Int64) -> None:
    """Set the counters of ``spray`` back to before the packets that are on their way to a switch were routed."""
    if state.clock["routing"][0] == Routing.SPRAY:
        came_by = state.packets["channel"][arriving].astype(np.int64)
        chose = choices_of(state, came_by, arriving)[1] > 1
        np.subtract.at(state.channels["spray_counter"], server_of(state, came_by[chose]), 1)


def route_arriving(state: State, inbox: Int64, arriving: Int64) -> None:
    """Route the packets that are on their way to a switch, and put each into the inbox of its output."""
    packets, channels, clock = state.packets, state.channels, state.clock[0]
    # By input channel, in the order in which they come.
    order = np.lexsort((packets["time_ps"][arriving], server_of(state, packets["channel"][arriving].astype(np.int64))))
    slot, arriving = inbox[order] // clock["num_channels"], arriving[order]
    came_by = packets["channel"][arriving].astype(np.int64)
    server = server_of(state, came_by)
    first, count = choices_of(state, came_by, arriving)
    if clock["routing"] == Routing.SPRAY:
        chooses = count > 1
        before: Int64 = np.cumsum(chooses) - chooses
        _, begin, which = np.unique(server, return_index=True, return_inverse=True)
        choice = channels["spray_counter"][server] + before - before[begin[which]]
        np.add.at(channels["spray_counter"], server[chooses], 1)
    else:
        choice = state.messages["flow"][packets["message"][arriving]]
    output = channels["first_output"][server] + state.candidates["output"][first + choice % count].astype(np.int64)
    output += came_by - server

    state.inboxes["packet"][inbox] = NONE
    row = slot * clock["num_channels"] + output
    order = np.argsort(row, kind="stable")
    row, arriving = row[order], arriving[order]
    is_last = np.append(row[1:] != row[:-1], True)[: len(row)]
    packets["next"][arriving] = np.where(is_last, NONE, np.roll(arriving, -1))
    is_first = np.roll(is_last, 1)
    state.inboxes["packet"][row[is_first]] = arriving[is_first]
    state.filled["inboxes"][slot * clock["num_banks"] + banks_of(state, output)] = 1


def banks_of(state: State, channel: Int64) -> Int64:
    """Return the banks that channels belong to."""
    domain = state.domains[np.searchsorted(state.domains["first_channel"], channel, "right") - 1]
    bank: Int64 = domain["first_bank"] + ((channel - domain["first_channel"]) >> BANK_SHIFT)
    return bank


# --- packets that wait ---------------------------------------------------------------------------------------------


def route_waiting_again(state: State, network: Network, time_ps: int) -> Bool:
    """Route the packets again that wait for outputs that are no longer candidates for them.

    Returns which channels lost one; a row for each virtual channel.
    """
    packets, channels = state.packets, state.channels
    output, waiting = in_lists(packets, channels["queue_first"])
    came_by = packets["channel"][waiting].astype(np.int64)
    first, count = choices_of(state, came_by, waiting)
    refuse_stranded(state, network, waiting, count, time_ps)
    place = server_of(state, output) - channels["first_output"][came_by]
    stays = np.zeros(len(waiting), np.bool_)
    for k in range(int(count.max(initial=0))):
        candidate = np.minimum(first + k, len(state.candidates) - 1)
        stays |= (k < count) & (state.candidates["output"][candidate] == place)

    lost = np.zeros(len(channels), np.bool_)
    lost[output[~stays]] = True
    drop_picks(state, output, waiting, stays)
    queues: defaultdict[int, list[int]] = defaultdict(list)
    for one in np.flatnonzero(lost).tolist():
        queues[one] = waiting[stays & (output == one)].tolist()
    wire_bytes = state.durations["value"][packets["payload_bytes"][waiting].astype(np.int64)]
    np.subtract.at(state.backlogs["queued_bytes"], server_of(state, output[~stays]), wire_bytes[~stays])
    packets["time_ps"][waiting[~stays]] = time_ps
    for packet, size in zip(waiting[~stays].tolist(), wire_bytes[~stays].tolist(), strict=True):
        goes_by = choose_again(state, packet)
        if goes_by not in queues:
            queues[goes_by] = in_lists(packets, channels["queue_first"][goes_by : goes_by + 1])[1].tolist()
        queues[goes_by].append(packet)
        state.backlogs["queued_bytes"][server_of(state, np.array(goes_by))] += size
    if state.clock["routing"][0] != Routing.ADAPTIVE:
        state.backlogs["queued_bytes"] = 0
    for one, queue in queues.items():
        channels["queue_first"][one], channels["queue_last"][one] = (queue[0], queue[-1]) if queue else (NONE, NONE)
        packets["next"][queue] = [*queue[1:], NONE][: len(queue)]
    channels["blocked"][lost] = 0
    return lost


def drop_picks(state: State, output: Int64, waiting: Int64, stays: Bool) -> None:
    """Take back the picks of packets that go elsewhere."""
    picked = state.arbiters["picked"]
    front = np.full(len(picked), NONE)
    has = picked != NONE
    front[has] = state.channels["queue_first"][picked[has]]
    picked[np.isin(front, waiting[~stays])] = NONE


def choose_again(state: State, packet: int) -> int:
    """Return the output, of its virtual channel, that a packet takes that is routed before all else of an instant."""
    row = state.packets[packet]
    channel = int(row["channel"])
    server = int(server_of(state, np.array(channel)))
    vc, source = channel - server, state.channels[server]
    route = state.routes[int(source["route_row"]) + int(row["destination"])]
    first, count = int(route["first"]), int(route["count"])
    outputs = (
        int(source["first_output"]) + state.candidates["output"][first : first + count].astype(np.int64)
    ).tolist()
    if count == 1:
        return int(outputs[0]) + vc
    if state.clock["routing"][0] == Routing.DETERMINISTIC:
        return int(outputs[int(state.messages["flow"][row["message"]]) % count]) + vc
    choice = int(source["spray_counter"]) % count
    source["spray_counter"] += 1
    if state.clock["routing"][0] == Routing.SPRAY:
        return int(outputs[choice]) + vc
    in_turn = outputs[choice:] + outputs[:choice]
    queued_bytes = state.backlogs["queued_bytes"]
    largest_bytes = int(state.durations["value"][state.clock["max_payload_bytes"][0]])
    most_bytes = int(queued_bytes[outputs].min()) + ADAPTIVE_SLACK * largest_bytes
    return int(next(output for output in in_turn if queued_bytes[output] <= most_bytes)) + vc


def free_from(state: State, channel: Int64, time_ps: int) -> None:
    """Let switch outputs, which are given by any of their virtual channels, start nothing before *time_ps*."""
    server = np.unique(server_of(state, channel))
    server = server[state.channels["injector"][server] == NONE]
    state.channels["free_ps"][server] = np.maximum(state.channels["free_ps"][server], time_ps)
    state.arbiters["pick_ps"][server] = np.maximum(state.arbiters["pick_ps"][server], time_ps)


def wake_outputs(state: State, time_ps: int) -> None:
    """Let every output at which packets wait be looked at."""
    server = np.unique(server_of(state, np.flatnonzero(state.channels["queue_first"] != NONE)))
    state.wakes["wake_ps"][server] = np.minimum(state.wakes["wake_ps"][server], time_ps)
    np.minimum.at(state.banks["wake_ps"], banks_of(state, server), time_ps)


# --- rates and rings -----------------------------------------------------------------------------------------------


def with_rates(state: State, network: Network) -> State:
    """Return the state with the times of packets on the channels of *network*, behind those that it has."""
    durations = Durations(network)
    first = len(state.durations)
    state.channels["serialization_row"] = first + durations.serialization_row
    state.channels["ejection_row"] = first + durations.ejection_row
    state.injectors["injection_row"] = first + durations.injection_row[state.injectors["channel"]]
    values = np.concatenate([state.durations["value"], durations.table()["value"]])
    return state._replace(durations=column("durations", "value", values))


def with_rings(state: State, network: Network) -> State:
    """Return the state with the bundles of *network* for all messages that become ready from now on.

    A bundle keeps its list; messages that are in it keep the ring over which they are striped.
    """
    num_injectors, bundles = len(state.injectors), state.bundles
    bundles["num_members"] = 0
    width = np.diff(network.bundle_first)
    bundle = np.repeat(np.arange(len(width)), width)
    member = np.flatnonzero(network.bundle_whole[bundle] == bundle)  # bundles that share channels hang on the whole one
    injector = state.channels["injector"][network.bundle_channels[member]].astype(np.int64)
    mine = state.injectors["bundle"][injector]
    position = member - network.bundle_first[bundle[member]]
    bundles["num_members"] = np.bincount(mine, minlength=len(bundles))
    bundles["first_member"][mine[position == 0]] = np.flatnonzero(position == 0)
    state.injectors["position"] = NONE
    state.injectors["position"][injector] = position
    state.injectors["next_message"][state.injectors["position"] == NONE] = NONE
    places = rows("places", len(state.places) + num_injectors)[: len(state.places) + num_injectors]
    places[: len(state.places)] = state.places
    places[len(state.places) :] = place_rows(bundles, state.injectors["bundle"], state.injectors["position"])
    return state._replace(places=places, members=column("members", "injector", injector))


def old_bundles(state: State, network: Network) -> Int64:
    """Return for each bundle of a network that took the place of another the bundle of the state that stands for it."""
    channel = network.bundle_channels[network.bundle_first[:-1]]
    bundle: Int64 = state.injectors["bundle"][state.channels["injector"][channel]].astype(np.int64)
    return bundle


# --- refusals ------------------------------------------------------------------------------------------------------


def leads_on(network: Network, channel: Int64, terminal: Int64) -> Bool:
    """Tell whether a way leads by these channels to these terminals."""
    target = network.channels.target_node[channel]
    switch = np.maximum(target - network.num_terminals, 0)
    further = network.route_count[switch, terminal] > 0 if network.num_switches else np.zeros(len(channel), np.bool_)
    leads: Bool = ~network.channels.dead[channel] & np.where(
        target < network.num_terminals, target == terminal, further
    )
    return leads


def refuse_cut_shares(state: State, network: Network, time_ps: int) -> None:
    """Raise UnreachableError for a share of a ready message with packets to inject on a channel without a way."""
    injectors, messages = state.injectors, state.messages
    found: list[tuple[Int64, Int64]] = []
    for first in ("ring_first", "waiting_first"):
        injector, share = in_lists(state.shares, injectors[first])
        found.append((injector, state.shares["message"][share].astype(np.int64)))
    every = np.arange(network.num_terminals)
    for one in np.flatnonzero(injectors["next_message"] != NONE).tolist():
        channel = int(injectors["channel"][one])
        # A terminal never sends to itself.
        away = every[every != network.channels.source_node[channel]]
        if leads_on(network, np.full(len(away), channel), away).all():
            continue
        message = int(injectors["next_message"][one])
        while message != NONE:
            row = messages[message]
            place = state.places[int(row["first_place"]) + one]
            distance = int(place["position"]) - int(row["first_plane"])
            if (distance + int(place["num_members"]) if distance < 0 else distance) < row["num_shares"]:
                found.append((np.array([one]), np.array([message])))
            message = int(row["next_ready"])
    injector = np.concatenate([one for one, _ in found])
    message_of = np.concatenate([message for _, message in found])
    channels = injectors["channel"][injector].astype(np.int64)
    cut = np.flatnonzero(~leads_on(network, channels, messages["destination"][message_of].astype(np.int64)))
    if len(cut):
        row = messages[message_of[cut[0]]]
        plane = network.channels.plane[channels[cut[0]]]
        what = f"still has bytes for plane {plane}, where no way is left, and they cannot be sent again"
        raise unreachable(network, int(row["source"]), int(row["destination"]), time_ps, what)


def refuse_stranded(state: State, network: Network, packet: Int64, count: Int64, time_ps: int) -> None:
    """Raise UnreachableError for a packet at, or on its way to, a switch where it has no candidate."""
    stranded = packet[count == 0]
    if len(stranded):
        one = state.packets[stranded[0]]
        channel = int(one["channel"])
        switch = network.node_names[network.channels.target_node[channel]]
        plane = network.channels.plane[channel]
        row = state.messages[one["message"]]
        what = f"has a packet at or before {switch} (plane {plane}), where no way is left, and it cannot be sent again"
        raise unreachable(network, int(row["source"]), int(row["destination"]), time_ps, what)


def unreachable(network: Network, source: int, target: int, time_ps: int, what: str) -> UnreachableError:
    """Make the error for a message between two terminals that would have to be sent again, or cannot be sent."""
    pair = network.node_names[source], network.node_names[target]
    return UnreachableError(
        f"{network.name}: with the faults at {time_text(time_ps)}, {pair[0]} to {pair[1]} {what}; leave a fault out, "
        "or give it another time, at which the pair sends nothing",
        pair,
    )
