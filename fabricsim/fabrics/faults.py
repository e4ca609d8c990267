"""Faults: from the words of a user to the tables of a network without what is broken.

The engine knows nothing of faults: it gets a network in which dead channels have no routes and belong to no bundle, and
slowed ones have another rate. The rules that the tables follow are in docs/physics.md, section 13.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import numpy as np

from fabricsim.errors import ConfigError, nearest, unknown
from fabricsim.fabrics.network import Bool, Channels, Int32, Int64, Network, table_rows
from fabricsim.fabrics.topologies import check_rate, spray_starts
from fabricsim.units import parse_time_ps, time_text

FILE_FORMAT = "fabricsim.fault_list/1"

#: A channel that bit errors slow down more than this carries nothing worth the name.
MAX_RETRY_FACTOR = 1000
#: Rates stay short fractions: what retries add is rounded up to a whole number of these parts.
_RETRY_PARTS = 10**6


@dataclass(frozen=True)
class Fault:
    """One fault: what kind, where, and how much of it.

    ``where`` is the name of a switch or of the two nodes of a link, a plane or a rank. ``amount`` is the fraction of
    the lanes that is left, the probability that a bit is wrong, the factor by which a rank is slower, or picoseconds;
    ``None`` for a thing that is dead. It is there from ``time_ps`` on. ``text`` is how users write it.
    """

    kind: str
    where: str
    amount: Fraction | None = None
    time_ps: int = 0

    @property
    def text(self) -> str:
        """The fault in the words of ``--fault``."""
        when = f"@{time_text(self.time_ps)}" if self.time_ps else ""
        return f"{self.kind}:{self.where}{self.amount_text}{when}"

    @property
    def amount_text(self) -> str:
        """The amount as it stands behind the place; empty for a thing that is dead."""
        if self.amount is None:
            return ""
        if self.kind == "arrival_skew":
            return f"={time_text(int(self.amount))}"
        decimal = repr(float(self.amount))
        return f"={decimal if Fraction(decimal) == self.amount else self.amount}"

    @property
    def subject(self) -> tuple[str, tuple[str, ...]]:
        """The kind and the place, the two ends of a link in one order whichever was written first."""
        return self.kind, tuple(sorted(name.strip() for name in self.where.split("-")))

    @property
    def is_dead(self) -> bool:
        """Whether the channels that it touches carry nothing."""
        return self.kind in ("link", "switch", "plane")


def _number(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"{text!r} is not a number") from None


def _lanes(text: str) -> Fraction:
    left = _number(text)
    if not 0 < left < 1:
        raise ConfigError(
            f"{text} of the lanes cannot be left; write a number between 0 and 1, or link: for a dead link"
        )
    return left


def _probability(text: str) -> Fraction:
    wrong = _number(text)
    if not 0 < wrong < 1:
        raise ConfigError(f"{text} is not the probability of a wrong bit; write a number between 0 and 1, such as 1e-9")
    return wrong


def _factor(text: str) -> Fraction:
    factor = _number(text)
    if not 1 < factor <= 10**6:
        raise ConfigError(f"a rank cannot be {text} times slower; write a number above 1, such as 2.0")
    return factor


def _skew(text: str) -> Fraction:
    skew_ps = parse_time_ps(text)
    if skew_ps == 0:
        raise ConfigError("a skew of no time has no effect; leave it out")
    return Fraction(skew_ps)


#: Each kind of fault with an example, and how its amount is read, if it has one.
KINDS: dict[str, tuple[str, Callable[[str], Fraction] | None]] = {
    "link": ("link:gpu3-nvswitch.0.5", None),
    "switch": ("switch:nvswitch.0.5", None),
    "plane": ("plane:5", None),
    "lanes": ("lanes:gpu3-nvswitch.0.5=0.5", _lanes),
    "bit_errors": ("bit_errors:gpu3-nvswitch.0.5=1e-9", _probability),
    "slow_rank": ("slow_rank:12=2.0", _factor),
    "arrival_skew": ("arrival_skew:12=5us", _skew),
}

RANK_KINDS = ("slow_rank", "arrival_skew")


def read_faults(given: Iterable[Fault | str | os.PathLike[str]]) -> tuple[Fault, ...]:
    """Read faults in the words of ``--fault``, and files of them (names that end in ``.toml``).

    Raises ``ConfigError`` for what is no fault, and for two of one kind at one place.
    """
    faults: list[Fault] = []
    for entry in given:
        if isinstance(entry, Fault):
            faults.append(entry)
        elif os.fspath(entry).endswith(".toml"):
            faults += _read_file(Path(entry))
        else:
            faults.append(parse_fault(os.fspath(entry)))
    first: dict[tuple[str, tuple[str, ...]], Fault] = {}
    for fault in faults:
        before = first.setdefault(fault.subject, fault)
        if before is fault:
            continue
        if before.amount == fault.amount:
            raise ConfigError(f"fault {fault.text} is given twice; give it once")
        thing = "rank" if fault.kind in RANK_KINDS else "link"
        raise ConfigError(
            f"{thing} {fault.where} is given {fault.kind} twice, {before.amount_text} and {fault.amount_text}; give it "
            "once"
        )
    return tuple(faults)


def parse_fault(text: str) -> Fault:
    """Read one fault such as ``lanes:gpu3-nvswitch.0.5=0.5@12us``; names are looked up when it is applied."""
    words, at, time = (part.strip() for part in text.partition("@"))
    kind, colon, rest = (part.strip() for part in words.partition(":"))
    if kind not in KINDS:
        raise ConfigError(f"fault {text!r}: {unknown('kind of fault', kind, KINDS)}")
    example, read_amount = KINDS[kind]
    where, equals, amount = (part.strip() for part in rest.partition("="))
    if not colon or not where or bool(equals) != (read_amount is not None):
        raise ConfigError(f"fault {text!r} is not written as one of its kind; write it like {example}")
    if kind == "plane" or kind in RANK_KINDS:
        if not (where.isascii() and where.isdigit()):
            raise ConfigError(f"fault {text!r}: {where!r} is not a whole number; write it like {example}")
        where = str(int(where))
    try:
        time_ps = parse_time_ps(time) if at else 0
        if at and kind in RANK_KINDS:
            raise ConfigError(f"a rank has {kind} from its start on; leave @{time} out")
        return Fault(kind, where, None if read_amount is None else read_amount(amount), time_ps)
    except ConfigError as error:
        raise ConfigError(f"fault {text!r}: {error}") from None


def _read_file(path: Path) -> list[Fault]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the file of faults {path}: {error.strerror}; give an existing file") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"file of faults {path}: not valid TOML: {error}; mend that") from None
    for key in tables:
        if key not in ("format", "faults"):
            raise ConfigError(f"file of faults {path}: {unknown('key', key, ('format', 'faults'))}")
    if tables.get("format") != FILE_FORMAT:
        raise ConfigError(f'file of faults {path}: format is {tables.get("format")!r}; write format = "{FILE_FORMAT}"')
    texts = tables.get("faults")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f'file of faults {path}: faults is {texts!r}; write a list of texts such as ["plane:5"]')
    try:
        return [parse_fault(text) for text in texts]
    except ConfigError as error:
        raise ConfigError(f"file of faults {path}: {error}") from None


def each_fault(network: Network, what: str) -> tuple[Fault, ...]:
    """List all faults of one dead ``switch``, ``link`` or ``plane``, in the order of the fabric.

    Raises ``ConfigError`` for another word, and where the fabric has none of them.
    """
    if what not in ("switch", "link", "plane"):
        raise ConfigError(unknown("thing to break", what, ("switch", "link", "plane")))
    if what == "plane":
        return tuple(Fault("plane", str(plane)) for plane in range(network.num_planes))
    if what == "switch":
        if not network.num_switches:
            raise ConfigError(f"{network.name} has no switches; break each link")
        return tuple(Fault("switch", name) for name in network.node_names[network.num_terminals :])
    ends = np.sort(np.stack([network.channels.source_node, network.channels.target_node]), axis=0)
    names = network.node_names
    return tuple(Fault("link", f"{names[low]}-{names[high]}") for low, high in np.unique(ends, axis=1).T.tolist())


def touched_channels(network: Network, fault: Fault) -> Int64:
    """Find the channels that a fault of the fabric stands for: those of its plane, its switch or its link.

    Raises ``ConfigError`` for a name that the fabric does not have; it names the nearest.
    """
    channels = network.channels
    if fault.kind == "plane":
        if int(fault.where) >= network.num_planes:
            raise ConfigError(
                f"fault {fault.text}: {network.name} has no plane {fault.where}; its planes are 0 to "
                f"{network.num_planes - 1}"
            )
        return np.flatnonzero(channels.plane == int(fault.where))
    if fault.kind == "switch":
        switch = _node(network, fault, fault.where)
        if switch < network.num_terminals:
            raise ConfigError(f"fault {fault.text}: {fault.where} is a terminal; leave its rank out of the run instead")
        return np.flatnonzero((channels.source_node == switch) | (channels.target_node == switch))
    names = fault.where.split("-")
    if len(names) != 2:
        raise ConfigError(
            f"fault {fault.text}: {fault.where!r} does not name a link; write both of its ends with - between, "
            f"like {KINDS[fault.kind][0]}"
        )
    one, other = (_node(network, fault, name.strip()) for name in names)
    forth = (channels.source_node == one) & (channels.target_node == other)
    back = (channels.source_node == other) & (channels.target_node == one)
    found = np.flatnonzero(forth | back)
    if not len(found):
        beside = np.unique(channels.target_node[channels.source_node == one])
        more = ", ..." if len(beside) > 8 else ""
        raise ConfigError(
            f"fault {fault.text}: no link joins {names[0]} and {names[1]}; {names[0]} has links to "
            + ", ".join(network.node_names[node] for node in beside[:8].tolist())
            + more
        )
    return found


def _node(network: Network, fault: Fault, name: str) -> int:
    try:
        return network.node_names.index(name)
    except ValueError:
        # Names of one level differ in their numbers alone, so the nearest has the same letters.
        letters = re.sub(r"[\d.]+$", "", name)
        alike = [known for known in network.node_names if known.startswith(letters)]
        raise ConfigError(
            f"fault {fault.text}: {network.name} has no node {name!r}{nearest(name, alike or network.node_names)}; "
            f"its nodes are called like {', '.join(_examples(network))}"
        ) from None


def _examples(network: Network) -> list[str]:
    """Name the last node of each level."""
    return list({re.sub(r"[\d.]+$", "", name): name for name in network.node_names}.values())


def apply_faults(network: Network, faults: Sequence[Fault], terminal_of_rank: Int32) -> Network:
    """Give the network that the faults, whatever their times, leave of a whole one.

    Takes all kinds; of those of a rank what they do to its terminal. Raises ``ConfigError`` for names that the network
    does not have, and for faults that the tables cannot hold together. A pair of terminals that the faults cut apart
    has no bundle.
    """
    channels = network.channels
    dead = channels.dead.copy()
    rate_of: dict[int, Fraction] = {}
    for fault in faults:
        if fault.is_dead:
            dead[touched_channels(network, fault)] = True
        elif fault.kind not in RANK_KINDS:
            for channel in touched_channels(network, fault).tolist():
                before = rate_of.get(channel, _fraction(channels.ps_per_byte_num, channels.ps_per_byte_den, channel))
                rate_of[channel] = _slowed(network, fault, channel, before)
    changed = np.union1d(np.flatnonzero(dead), np.array(list(rate_of), np.int64)).astype(np.int64)
    if len(changed):
        num, den = channels.ps_per_byte_num.copy(), channels.ps_per_byte_den.copy()
        for channel, rate in rate_of.items():
            num[channel], den[channel] = rate.as_integer_ratio()
        network = replace(network, channels=replace(channels, ps_per_byte_num=num, ps_per_byte_den=den, dead=dead))
        network = replace(network, channels=_shared_out(network, channels, changed))
    if dead.any():
        network = _rerouted(network)
    for fault in faults:
        if fault.kind == "slow_rank" and int(fault.where) < len(terminal_of_rank):
            network = _slow_terminal(network, fault, int(terminal_of_rank[int(fault.where)]))
    return network


def _fraction(num: Int64, den: Int64, row: int) -> Fraction:
    return Fraction(int(num[row]), int(den[row]))


def _slowed(network: Network, fault: Fault, channel: int, before: Fraction) -> Fraction:
    """Give the ps per byte of a channel that has lost lanes, or repeats packets."""
    assert fault.amount is not None
    if fault.kind == "lanes":
        after = before / fault.amount
    else:
        after = before * _retry_factor(network, fault, int(network.channels.latency_ps[channel]), before)
    check_rate(network.name, f"fault {fault.text}: {network.channel_name(channel)}", after)
    return after


def _retry_factor(network: Network, fault: Fault, latency_ps: int, ps_per_byte: Fraction) -> Fraction:
    """Say how much longer the largest packets occupy a link that repeats those with wrong bits.

    A packet of n bits arrives unharmed with probability u = (1 - p) ** n, so it is sent 1 / u - 1 times in vain. Each
    time costs its own serialization and the round trip until the sender hears of it, in which what follows is sent in
    vain too (go-back-N). Decimal arithmetic, which is the same on every machine.
    """
    wire_bytes = network.packet.wire_bytes(network.packet.max_payload_bytes)
    serialization_ps = -(-wire_bytes * ps_per_byte.numerator // ps_per_byte.denominator)
    assert fault.amount is not None
    with localcontext() as context:
        context.prec = 60
        unharmed = (1 - Decimal(fault.amount.numerator) / Decimal(fault.amount.denominator)) ** (8 * wire_bytes)
        retries = (1 / unharmed - 1) if unharmed else Decimal("Infinity")
        added = retries * (serialization_ps + 2 * latency_ps) / serialization_ps
        if added >= MAX_RETRY_FACTOR:
            raise ConfigError(
                f"fault {fault.text}: hardly a packet of {wire_bytes:,} B would arrive unharmed; use "
                f"link:{fault.where} for a link that carries nothing"
            )
        parts = int((added * _RETRY_PARTS).to_integral_value(rounding="ROUND_CEILING"))
    return 1 + Fraction(parts, _RETRY_PARTS)


def _shared_out(network: Network, whole: Channels, changed: Int64) -> Channels:
    """Share the copy and ejection rates of the terminals concerned out anew: by the rates of the links they have left.

    ``changed`` are the channels of ``whole`` that are dead or slower now.
    """
    channels = network.channels
    columns: dict[str, Int64] = {}
    for what, end in (("copy", channels.source_node), ("ejection", channels.target_node)):
        num, den = getattr(whole, f"{what}_ps_per_byte_num"), getattr(whole, f"{what}_ps_per_byte_den")
        columns[f"{what}_ps_per_byte_num"], columns[f"{what}_ps_per_byte_den"] = new_num, new_den = (
            num.copy(),
            den.copy(),
        )
        at_end = end[changed]
        for terminal in np.unique(at_end[at_end < network.num_terminals]).tolist():
            mine = np.flatnonzero(end == terminal)
            limited = mine[num[mine] > 0].tolist()
            live = mine[~channels.dead[mine]].tolist()
            if not limited or not live:
                continue
            total = sum(1 / _fraction(num, den, channel) for channel in limited)
            wires = {
                channel: 1 / _fraction(channels.ps_per_byte_num, channels.ps_per_byte_den, channel) for channel in live
            }
            sum_of_wires = sum(wires.values())
            for channel, wire in wires.items():
                share = sum_of_wires / (total * wire)
                check_rate(network.name, f"the {what} rate of {network.node_names[terminal]}", share)
                new_num[channel], new_den[channel] = share.as_integer_ratio()
    return _with_columns(channels, columns)


def _with_columns(channels: Channels, columns: dict[str, Int64]) -> Channels:
    return Channels(
        **{field.name: columns.get(field.name, getattr(channels, field.name)) for field in fields(channels)}
    )


def _slow_terminal(network: Network, fault: Fault, terminal: int) -> Network:
    """Make the copies and ejections of a terminal slower, where they are limited at all."""
    channels = network.channels
    assert fault.amount is not None
    columns: dict[str, Int64] = {}
    for what, end in (("copy", channels.source_node), ("ejection", channels.target_node)):
        num, den = (getattr(channels, f"{what}_ps_per_byte_{part}").copy() for part in ("num", "den"))
        for channel in np.flatnonzero((end == terminal) & (num > 0)).tolist():
            rate = _fraction(num, den, channel) * fault.amount
            check_rate(network.name, f"fault {fault.text}: the {what} rate of {network.node_names[terminal]}", rate)
            num[channel], den[channel] = rate.as_integer_ratio()
        columns |= {f"{what}_ps_per_byte_num": num, f"{what}_ps_per_byte_den": den}
    return replace(network, channels=_with_columns(channels, columns))


def _rerouted(network: Network) -> Network:
    """Take all that leads to dead channels out of the routes, the bundles and the spray counters."""
    planes = np.unique(network.channels.plane[network.channels.dead])
    switches = np.flatnonzero(np.isin(network.switch_plane, planes))
    network, reach = _without_dead_ends(network, switches)
    network = _with_live_bundles(network, np.isin(network.channels.plane, planes), reach)
    return replace(network, spray_start=spray_starts(network, switches))


def _without_dead_ends(network: Network, switches: Int64) -> tuple[Network, Bool]:
    """Leave each of these switches the candidates from which a way still leads to the destination.

    Also tells from which nodes which terminals can be reached: shape (nodes, terminals). Of a detour the way that leads
    on from its end is one without a further detour there.
    """
    channels, num_terminals = network.channels, network.num_terminals
    reach = np.zeros((network.num_nodes, num_terminals), np.bool_)
    np.fill_diagonal(reach, True)
    reach[num_terminals:] = network.candidate_count > 0
    reach[num_terminals + switches] = False
    count = network.candidate_count[switches].ravel()
    channel = network.candidates[table_rows(network.route_first[switches].ravel(), count)]
    pair = np.repeat(np.arange(len(count)), count)  # of a switch and a destination
    node, target = num_terminals + switches[pair // num_terminals], pair % num_terminals
    minimal = network.route_count[switches].ravel()
    is_detour = table_rows(np.zeros_like(count), count) >= minimal[pair]
    reach_minimally = reach.copy()
    leads = np.zeros(len(channel), np.bool_)
    while True:
        onward = np.where(
            is_detour,
            reach_minimally[channels.target_node[channel], target],
            reach[channels.target_node[channel], target],
        )
        further = ~channels.dead[channel] & onward
        if np.array_equal(further, leads):
            break
        leads = further
        reach[node[leads], target[leads]] = True
        reach_minimally[node[leads & ~is_detour], target[leads & ~is_detour]] = True
    left = np.bincount(pair[leads], minlength=len(count))
    minimal_left = np.bincount(pair[leads & ~is_detour], minlength=len(count))
    channel, pair = channel[leads], pair[leads]
    # A list of candidates that has become shorter stands behind all others, once per switch.
    width = int(left.max(initial=0))
    shorter = np.flatnonzero(left < count)
    first = np.cumsum(left) - left
    lists = np.full((len(shorter), width), -1, np.int32)
    in_list = np.repeat(np.arange(len(shorter)), left[shorter])
    rows = table_rows(first[shorter], left[shorter])
    lists[in_list, rows - first[shorter][in_list]] = channel[rows]
    distinct, which = np.unique(lists, axis=0, return_inverse=True)
    length = np.count_nonzero(distinct >= 0, axis=1)
    begins = len(network.candidates) + np.cumsum(length) - length
    route_first, route_count = network.route_first.copy(), network.route_count.copy()
    place = switches[shorter // num_terminals], shorter % num_terminals
    route_count[place] = minimal_left[shorter]
    route_first[place] = np.where(left[shorter] > 0, begins[which.reshape(-1)], 0)
    candidates = np.concatenate([network.candidates, distinct[distinct >= 0]]).astype(np.int32)
    network = replace(network, route_first=route_first, route_count=route_count, candidates=candidates)
    if network.detour_count is not None:
        detour_count = network.detour_count.copy()
        detour_count[place] = (left - minimal_left)[shorter]
        network = replace(network, detour_count=detour_count)
    return network, reach


def _with_live_bundles(network: Network, in_faulty_plane: Bool, reach: Bool) -> Network:
    """Leave each pair of terminals the injection channels from which a way still leads to its destination."""
    channels = network.channels
    width = np.diff(network.bundle_first)
    bundle_of_member = np.repeat(np.arange(len(width)), width)
    member = network.bundle_channels
    to_switch = channels.target_node[member] >= network.num_terminals
    suspect = channels.dead[member] | (to_switch & in_faulty_plane[member])
    stays = np.ones(len(width), np.bool_)
    stays[bundle_of_member[suspect]] = False

    source, target = np.nonzero(network.bundle_index >= 0)
    bundle = network.bundle_index[source, target]
    order = np.argsort(bundle, kind="stable")
    first_pair = np.searchsorted(bundle[order], np.arange(len(width) + 1))
    number = np.cumsum(stays) - 1  # of the bundles that stay as they are
    bundle_index = np.where(network.bundle_index >= 0, number[network.bundle_index], -1)
    added: list[Int32] = []
    for old in np.flatnonzero(~stays).tolist():
        mine = order[first_pair[old] : first_pair[old + 1]]
        live = member[network.bundle_first[old] : network.bundle_first[old + 1]]
        usable = ~channels.dead[live, None] & reach[np.ix_(channels.target_node[live], target[mine])]
        live, usable = live[usable.any(axis=1)], usable[usable.any(axis=1)]
        kinds, kind = _kinds_of_columns(usable)
        ring = _ring_order(network, kinds, kind, source[mine], target[mine])
        whole = int(stays.sum()) + len(added)
        numbers = np.full(len(kinds), -1)
        if len(live):
            added.append(live[ring])
        for row, uses in enumerate(kinds[:, ring]):
            if uses.all() and len(live):
                numbers[row] = whole
            elif uses.any():
                numbers[row] = int(stays.sum()) + len(added)
                begin = int(np.flatnonzero(uses & ~np.roll(uses, 1))[0])
                added.append(np.roll(live[ring], -begin)[: int(uses.sum())])
        bundle_index[source[mine], target[mine]] = numbers[kind]
    sizes = np.concatenate([width[stays], np.array([len(rows) for rows in added], np.int64)])
    return replace(
        network,
        bundle_index=bundle_index.astype(np.int32),
        bundle_first=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
        bundle_channels=np.concatenate([member[stays[bundle_of_member]], *added]).astype(np.int32),
    )


def _kinds_of_columns(usable: Bool) -> tuple[Bool, Int64]:
    """Name the different columns: give each of them as a row, first the one that is all true, and which is where."""
    rest = np.flatnonzero(~usable.all(axis=0))  # few, and np.unique is slow on rows
    kinds, which = np.unique(usable[:, rest].T, axis=0, return_inverse=True)
    kind = np.zeros(usable.shape[1], np.int64)
    kind[rest] = 1 + which.reshape(-1)
    return np.concatenate([np.ones((1, len(usable)), np.bool_), kinds]), kind


def _ring_order(network: Network, kinds: Bool, kind: Int64, source: Int64, target: Int64) -> Int64:
    """Order the channels of a terminal in a ring in which each kind of pair uses successive ones.

    ``kinds[k, i]`` tells whether pairs of kind k use channel i. In the order of the planes if that is one; else the
    planes that some pair has lost stand together.
    """

    def is_ring(order: Int64) -> bool:
        lined_up = kinds[:, order]
        return bool((np.count_nonzero(lined_up != np.roll(lined_up, 1, axis=1), axis=1) <= 2).all())

    in_order = np.arange(kinds.shape[1])
    if is_ring(in_order):
        return in_order
    by_loss = np.argsort(np.count_nonzero(kinds, axis=1), kind="stable")
    together = np.lexsort(kinds[by_loss[::-1]])
    if is_ring(together):
        return together
    worst = int(np.flatnonzero(kind == by_loss[0])[0])
    raise ConfigError(
        f"{network.name}: these faults together take planes from {network.node_names[source[worst]]} to "
        f"{network.node_names[target[worst]]} and, in part the same, from it to others, which cannot be simulated in "
        "one run; leave a fault of the planes concerned out"
    )
