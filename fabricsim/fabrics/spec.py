"""A fabric as people write it: a TOML file in which every number has a unit, a source and an evidence class.

``FabricSpec`` is the typed, strict reader of the format in docs/fabrics.md; a ``FabricSpec`` that exists can be built.
``load_fabric`` finds one by name in the package's catalog, or by path.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib import resources
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError

from fabricsim.errors import ConfigError, unknown
from fabricsim.fabrics.complaints import Complaint, refusal, translate
from fabricsim.fabrics.links import Node, link_classes, linked, node_of
from fabricsim.fabrics.mesh import Dimension, mesh
from fabricsim.fabrics.network import Endpoint, Network, PacketFormat, Protocol, VirtualChannels
from fabricsim.fabrics.overrides import put_in, refuse_unknown
from fabricsim.fabrics.parts import package_and_racks
from fabricsim.fabrics.topologies import (
    DETOUR_ROUTINGS,
    ROUTINGS,
    Link,
    Tier,
    check_acyclic,
    check_link,
    clos,
    full_mesh,
)
from fabricsim.units import parse_bandwidth, parse_bytes, parse_time_ps, ps_per_byte, split_quantity

UNLIMITED = "unlimited"
#: What joins racks: a switch for each rail, and spines that join these.
SCALE_OUT_TIERS = ("rail", "spine")
#: Powers of two: the virtual channels of a channel are neighbouring rows, and never fall apart into two banks.
VC_COUNTS = (1, 2, 4, 8, 16)
ENDPOINTS = ("fitted", "ideal")
_CATALOG = resources.files("fabricsim.fabrics") / "catalog"

Evidence = Literal["vendor", "paper", "measured", "derived", "assumed", "unknown"]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
# Channel classes are named "<below>-<above>", so the names of terminals and tiers have no "-" themselves.
LevelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


def _parse_limit(text: str) -> Fraction | None:
    return None if text == UNLIMITED else parse_bandwidth(text)


def _written_as(parse: Callable[[str], object]) -> BeforeValidator:
    """Check the text of a quantity with a parser of ``fabricsim.units``; a bare TOML number lacks its unit."""

    def check(value: object) -> object:
        if isinstance(value, str | int | float):
            try:
                parse(str(value))
            except ConfigError as error:
                raise PydanticCustomError("quantity", "{reason}", {"reason": str(error)}) from None
        return value

    return BeforeValidator(check)


class Table(BaseModel):
    """A table of the file: immutable, and every key in it is known."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Quantity(Table):
    """One number of a fabric: ``value`` as written, where it comes from and what that is worth."""

    value: Any
    source: Text
    evidence: Evidence
    note: Text | None = None

    @property
    @abstractmethod
    def exact(self) -> int | Fraction | None:
        """What the value means, free of its spelling."""


class Count(Quantity):
    """A number of things, at least 1."""

    value: Annotated[int, Field(ge=1)]

    @property
    def exact(self) -> int:
        """The number itself."""
        return self.value


class Size(Quantity):
    """A size such as ``4096 B``."""

    value: Annotated[str, _written_as(parse_bytes)]

    @property
    def exact(self) -> int:
        """Bytes."""
        return parse_bytes(self.value)


class Time(Quantity):
    """A time such as ``250 ns``."""

    value: Annotated[str, _written_as(parse_time_ps)]

    @property
    def exact(self) -> int:
        """Picoseconds."""
        return parse_time_ps(self.value)


class Bandwidth(Quantity):
    """A bandwidth such as ``50 GB/s``."""

    value: Annotated[str, _written_as(parse_bandwidth)]

    @property
    def exact(self) -> Fraction:
        """Picoseconds per byte."""
        return ps_per_byte(parse_bandwidth(self.value))


class Limit(Quantity):
    """A bandwidth that may be ``unlimited``."""

    value: Annotated[str, _written_as(_parse_limit)]

    @property
    def exact(self) -> Fraction | None:
        """Picoseconds per byte; ``None`` if it does not limit."""
        limit = _parse_limit(self.value)
        return None if limit is None else ps_per_byte(limit)


class ClosTable(Table):
    """``[topology]`` of a folded Clos: its tiers from the terminals up, built once per plane."""

    kind: Literal["clos"]
    tiers: Annotated[tuple[LevelName, ...], Field(strict=False, min_length=1)]
    planes: Count


class FullMeshTable(Table):
    """``[topology]`` of a full mesh: every ordered pair of terminals has its own channel."""

    kind: Literal["full_mesh"]
    terminals: Count


class MeshTable(Table):
    """``[topology]`` of an n-dimensional full mesh: ``switch`` names the forwarding switch that each terminal has."""

    kind: Literal["mesh"]
    switch: LevelName
    dimensions: Annotated[tuple[LevelName, ...], Field(strict=False, min_length=1)]


class LinksTable(Table):
    """``[topology]`` of an explicit list of links between named nodes."""

    kind: Literal["links"]
    terminals: Count
    links: Annotated[tuple[Annotated[tuple[Text, Text], Field(strict=False)], ...], Field(strict=False, min_length=1)]

    def nodes(self, terminal_name: str) -> list[tuple[Node, Node]]:
        """Read the ends of all links; ``ConfigError`` for a name that is no node."""
        count = self.terminals.exact
        return [(node_of(a, terminal_name, count), node_of(b, terminal_name, count)) for a, b in self.links]


class PackageTable(Table):
    """``[package]``: so many terminals, neighbours in number, are joined pairwise by channels of their own."""

    terminals: Count
    copy_rate: Limit


class ScaleOutTable(Table):
    """``[scale_out]``: what joins so many copies of the topology, a switch per rail and spines above these."""

    racks: Count
    rails: Count
    spines_per_rack: Count
    copy_rate: Limit


class DefaultsTable(Table):
    """``[defaults]``: what a run uses unless it is told otherwise. ``routing`` stands where there is a choice."""

    packet: Name
    routing: Literal["spray", "deterministic", "adaptive", "valiant", "ugal"] | None = None


class VcsTable(Table):
    """``[vcs]``: virtual channels, and what travels on each but the first (docs/physics.md, section 5)."""

    count: Count
    arbitration: Literal["oldest", "round_robin", "priority"]
    operations: Annotated[tuple[Annotated[tuple[Text, ...], Field(strict=False)], ...], Field(strict=False)] = ()


class ProtocolTable(Table):
    """``[terminal.protocol.NAME]``: what a library adds to some operations (docs/physics.md, section 9).

    What is left out adds nothing. Rates are those of a whole terminal.
    """

    operations: Annotated[tuple[Text, ...], Field(strict=False, min_length=1)]
    least_part: Size | None = None
    launch_latency: Time
    step_latency: Time | None = None
    staging_rate: Bandwidth | None = None
    part_rate: Bandwidth | None = None
    piece_overhead: Time | None = None
    descriptor_latency: Time | None = None
    descriptor_gap: Time | None = None

    def protocol(self) -> Protocol:
        """Give the numbers as the engine takes them."""

        def exact(quantity: Size | Time | None) -> int:
            return 0 if quantity is None else quantity.exact

        def rate(quantity: Bandwidth | None) -> Fraction:
            return Fraction(0) if quantity is None else quantity.exact

        return Protocol(
            operations=self.operations,
            least_part_bytes=exact(self.least_part),
            launch_latency_ps=self.launch_latency.exact,
            step_latency_ps=exact(self.step_latency),
            staging_ps_per_byte=rate(self.staging_rate),
            part_ps_per_byte=rate(self.part_rate),
            piece_overhead_ps=exact(self.piece_overhead),
            descriptor_latency_ps=exact(self.descriptor_latency),
            descriptor_gap_ps=exact(self.descriptor_gap),
        )


class EndpointTable(Table):
    """``[terminal.endpoint.NAME]``: the copy rate where something else than usual copies, or in the other direction.

    A run that chooses this endpoint has it in place of the terminal's own.
    """

    copy_rate: Limit


class TerminalTable(Table):
    """``[terminal]``: its name, and what it adds to the wires (docs/physics.md, sections 8 and 9)."""

    name: LevelName
    launch_latency: Time
    message_overhead: Time
    slots: Count
    completion: Literal["sent", "acked"] | None = None
    copy_rate: Limit
    ejection_rate: Limit
    endpoint: dict[Name, EndpointTable] = {}
    protocol: dict[Name, ProtocolTable] = {}


class TierTable(Table):
    """``[tier.NAME]``: one level of switches; counts per switch and per node below, within a plane.

    ``reduction`` stands where the switches reduce and copy packets (docs/physics.md, section 14): bytes of packets that
    one of them reduces per second.
    """

    children: Count
    parents: Count
    reduction: Limit | None = None


class DimensionTable(Table):
    """``[dimension.NAME]``: how many terminals stand on each line of a mesh in this dimension."""

    size: Count


class LinkTable(Table):
    """``[link.BELOW-ABOVE]``: both directions of a link, or one where ``[link.ABOVE-BELOW]`` stands as well."""

    bandwidth: Bandwidth
    latency: Time
    buffer: Size
    weight: Count | None = None

    def link(self) -> Link:
        """Give the numbers as the topologies take them."""
        return Link(self.bandwidth.exact, self.latency.exact, self.buffer.exact)


class PacketTable(Table):
    """``[packet.NAME]``: how messages are cut (docs/physics.md, sections 4 and 7)."""

    max_payload: Size
    overhead: Size
    flit: Size
    stripe_min: Size


@dataclass(frozen=True)
class QuantityRow:
    """One number of a fabric as ``fabricsim fabrics NAME`` lists it; value and unit as written."""

    key: str
    value: str
    unit: str
    evidence: str
    source: str
    note: str | None


class FabricSpec(Table):
    """A fabric, with the provenance of every number.

    Made by ``load_fabric``, ``FabricSpec.from_toml`` or ``FabricSpec(**tables)``; each raises one ``ConfigError`` that
    lists every fault with its key and remedy. The fields are the tables of the file (docs/fabrics.md).
    """

    format: Literal["fabricsim.fabric/1"]
    name: Name
    title: Text
    description: Text
    topology: Annotated[ClosTable | FullMeshTable | MeshTable | LinksTable, Field(discriminator="kind")]
    package: PackageTable | None = None
    scale_out: ScaleOutTable | None = None
    defaults: DefaultsTable
    vcs: VcsTable | None = None
    terminal: TerminalTable
    tier: dict[LevelName, TierTable] = {}
    dimension: dict[LevelName, DimensionTable] = {}
    link: dict[str, LinkTable]
    packet: Annotated[dict[Name, PacketTable], Field(min_length=1)]
    # What `with_overrides` set, and in what.
    _overrides: Mapping[str, str] = PrivateAttr(default_factory=dict)
    _original: FabricSpec | None = PrivateAttr(None)

    @classmethod
    def from_toml(cls, text: str, *, origin: str) -> Self:
        """Read the text of a fabric file; ``origin`` names it in messages."""
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{origin}: not valid TOML: {error}; mend that line") from None
        return cls.model_validate(tables, context=origin)

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_all_faults_at_once(
        cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        origin = info.context or cls.__name__
        try:
            spec = handler(data)
        except ValidationError as error:
            raise refusal(origin, translate(cls, error)) from None
        if contradictions := list(spec._contradictions()):
            raise refusal(origin, contradictions)
        try:
            spec._check_parts()
            # The planes of a fabric are alike and share no switch, so one shows whether all can be built.
            networks = [spec._build(packet, spec._routing, "fitted", num_planes=1) for packet in spec.packet]
            if not isinstance(spec.topology, MeshTable):  # dimension order has no cycles, and many channels
                check_acyclic(networks[0])
        except ConfigError as error:
            raise ConfigError(f"{origin}: {error}") from None
        if isinstance(spec.topology, LinksTable):
            has_choice = bool((networks[0].candidate_count > 1).any()) or spec.scale_out is not None
            if faults := list(spec._routing_faults(has_choice)):
                raise refusal(origin, faults)
        return spec

    def _contradictions(self) -> Iterator[Complaint]:
        """Find what each table alone cannot show."""
        topology = self.topology
        levels: tuple[tuple[str, tuple[str, ...], Mapping[str, Table]], ...] = (
            ("tier", self._tiers, self.tier),
            ("dimension", topology.dimensions if isinstance(topology, MeshTable) else (), self.dimension),
        )
        for kind, names, tables in levels:
            for name in tables.keys() - set(names):
                yield Complaint(f"{kind}.{name}", unknown(f"{kind} of the topology", name, names))
            for name in names:
                if name not in tables:
                    words = f"is missing, topology.{kind}s names it; add a table [{kind}.{name}]"
                    yield Complaint(f"{kind}.{name}", words)
        for name, tier in self.tier.items():
            if tier.reduction is not None and len(self._tiers) != 1:
                words = "stands with a single tier of switches only, where one joins all terminals; drop it"
                yield Complaint(f"tier.{name}.reduction", words)
        if self.package is not None and isinstance(topology, FullMeshTable):
            yield Complaint("package", "a full mesh joins all terminals already; drop it, or take another topology")
        try:
            ups, downs = self._channel_classes()
        except ConfigError as error:
            yield Complaint("topology.links", str(error))
            return
        for name in self.link.keys() - {*ups, *downs}:
            yield Complaint(f"link.{name}", unknown("channel class", name, [*ups, *downs]))
        for name in ups:
            if name not in self.link:
                yield Complaint(
                    f"link.{name}", f"is missing; add a table [link.{name}] with bandwidth, latency, buffer"
                )
        if self.defaults.packet not in self.packet:
            yield Complaint("defaults.packet", unknown("packet format", self.defaults.packet, self.packet))
        for name in self.terminal.endpoint.keys() & set(ENDPOINTS):
            yield Complaint(f"terminal.endpoint.{name}", "is an endpoint that every fabric has; rename it")
        yield from self._contradictory_protocols()
        yield from self._contradictory_vcs()
        yield from self._contradictory_weights()
        if complaint := self._detour_fault(self._routing):
            yield Complaint("defaults.routing", complaint)
        if not isinstance(topology, LinksTable):  # of which it shows when it is built
            tiers_choose = any(self.tier[tier].parents.exact > 1 for tier in self._tiers if tier in self.tier)
            yield from self._routing_faults(tiers_choose or self.scale_out is not None)

    def _check_parts(self) -> None:
        """Refuse parts that do not fit the topology; what joins racks is not built while there is one."""
        per_rack = self._terminals_per_rack
        if self.package is not None and (per_rack % (size := self.package.terminals.exact) or not 1 < size < per_rack):
            raise ConfigError(
                f"package.terminals is {size}, but packages of that size do not make up the {per_rack} terminals of "
                "the topology; choose a divisor above 1"
            )
        if self.scale_out is None:
            return
        if per_rack % (rails := self.scale_out.rails.exact):
            raise ConfigError(
                f"scale_out.rails is {rails}, but rails have equal numbers of the {per_rack} terminals of a rack; "
                "choose a divisor"
            )
        if clash := {self.terminal.name, *self._tiers}.intersection(SCALE_OUT_TIERS):
            raise ConfigError(f"the scale-out network has a tier {', '.join(clash)} of its own; rename the other one")
        ups, downs = _both_ways(pairwise((self.terminal.name, *SCALE_OUT_TIERS)))
        for packet in self.packet:
            for up, down in zip(ups, downs, strict=True):
                check_link(self.name, up, self.link[up].link(), self._packet_format(packet))
                check_link(self.name, down, self._way_back(up, down), self._packet_format(packet))

    def _routing_faults(self, has_choice: bool) -> Iterator[Complaint]:
        """Hold ``defaults.routing`` against whether a switch may have a choice."""
        if has_choice and self.defaults.routing is None:
            yield Complaint(
                "defaults.routing", f"is missing; switches have a choice here: one of {', '.join(ROUTINGS)}"
            )
        if not has_choice and self.defaults.routing not in (None, *DETOUR_ROUTINGS):
            yield Complaint(
                "defaults.routing", f"found {self.defaults.routing!r}, but each pair has one path per plane; drop it"
            )

    def _contradictory_weights(self) -> Iterator[Complaint]:
        """Find weights of what leads into no plane of its own."""
        terminal, into_planes = self.terminal.name, set[str]()
        if isinstance(self.topology, LinksTable):
            ups, downs = link_classes(self.topology.nodes(terminal))
            into_planes = {name for name in (*ups, *downs) if name.startswith(f"{terminal}-")} - {
                f"{terminal}-{terminal}"
            }
        for name, table in self.link.items():
            if table.weight is not None and name not in into_planes:
                yield Complaint(
                    f"link.{name}.weight",
                    "is for links of a list, from terminals to switches: planes of other topologies are alike; drop it",
                )

    def _detour_fault(self, routing: str) -> str | None:
        """Say why the fabric cannot have the detours that a routing takes, if it takes some."""
        if routing not in DETOUR_ROUTINGS:
            return None
        if not isinstance(self.topology, MeshTable | LinksTable) or self.scale_out is not None:
            return (
                f"found {routing!r}, whose detours are there for a mesh and a list of links, without a scale-out "
                f"network; choose one of {', '.join(ROUTINGS)}, or none where no switch has a choice"
            )
        if self.vcs is None or self.vcs.count.exact != 2 or self.vcs.operations:
            return (
                f"found {routing!r}, whose detours take one of 2 virtual channels, and no operations can be shared out "
                "to these; give the fabric [vcs] with count 2 and without operations"
            )
        return None

    def _contradictory_vcs(self) -> Iterator[Complaint]:
        """Find virtual channels that there cannot be, and operations of which no one could say on which they travel."""
        if self.vcs is None:
            return
        count, operations = self.vcs.count.exact, self.vcs.operations
        if count not in VC_COUNTS:
            yield Complaint("vcs.count", f"is {count}; an engine takes {', '.join(map(str, VC_COUNTS))}")
        if len(operations) >= count:
            yield Complaint(
                "vcs.operations",
                f"names what travels on vc 1 to {len(operations)}, but the last of {count} is vc {count - 1}; "
                "the first list is that of vc 1, and all that stands in none travels on vc 0",
            )
        words = [word for of_one in operations for word in of_one]
        for word in dict.fromkeys(word for word in words if words.count(word) > 1):
            yield Complaint("vcs.operations", f"has {word!r} twice; name it once")

    def _contradictory_protocols(self) -> Iterator[Complaint]:
        """Find protocols of which no one could say which counts, or that count with a rate that there is not."""
        taken: dict[tuple[str, int], str] = {}
        rates = {"terminal": self.terminal.copy_rate} | {
            f"terminal.endpoint.{name}": table.copy_rate for name, table in self.terminal.endpoint.items()
        }
        unlimited = [f"{table}.copy_rate" for table, rate in rates.items() if rate.exact is None]
        for name, table in self.terminal.protocol.items():
            key = f"terminal.protocol.{name}"
            for operation in table.operations:
                choice = (operation, table.protocol().least_part_bytes)
                if choice in taken:
                    yield Complaint(
                        f"{key}.operations",
                        f"found {operation!r}, which terminal.protocol.{taken[choice]} is for as well; drop it here or "
                        "give the two different least_part",
                    )
                taken[choice] = name
            for quantity in ("piece_overhead", "descriptor_gap"):
                if getattr(table, quantity) is not None and unlimited:
                    yield Complaint(
                        f"{key}.{quantity}", f"counts with {unlimited[0]}, which is unlimited; drop one of them"
                    )

    @property
    def _tiers(self) -> tuple[str, ...]:
        return self.topology.tiers if isinstance(self.topology, ClosTable) else ()

    @property
    def _routing(self) -> str:
        # Where no switch has a choice the rule is never asked; the cheaper one stands in the tables.
        return self.defaults.routing or "deterministic"

    def _channel_classes(self) -> tuple[list[str], list[str]]:
        """Names of the upward classes, which a file must have, and of their ways back, which it may have.

        In the order of the parts, of each from the terminals up; what joins equals has no way back of its own.
        """
        name, topology = self.terminal.name, self.topology
        package = [f"{name}-{name}"] if self.package is not None else []
        scale_out = list(pairwise((name, *SCALE_OUT_TIERS))) if self.scale_out is not None else []
        match topology:
            case ClosTable():
                ups, downs = _both_ways(pairwise((name, *topology.tiers)))
            case FullMeshTable():
                ups, downs = [f"{name}-{name}"], []
            case MeshTable():
                ups, downs = _both_ways([(name, topology.switch)])
                ups += [f"{topology.switch}-{dimension}" for dimension in topology.dimensions]
            case LinksTable():
                ups, downs = link_classes(topology.nodes(name))
        above, below = _both_ways(scale_out)
        return [*package, *ups, *above], [*downs, *below]

    @property
    def overrides(self) -> Mapping[str, str]:
        """The numbers that ``with_overrides`` set, as written, by key."""
        return self._overrides

    def with_overrides(self, overrides: Mapping[str, str]) -> FabricSpec:
        """Set numbers by their keys, as ``quantities`` lists them, to texts with units as in a file.

        ``{"terminal.slots": "4", "link.gpu-nvswitch.bandwidth": "25 GB/s"}``, for instance. Raises ``ConfigError`` for
        a key that does not exist, for a value that no file may hold and for one that the fabric has already.
        """
        if not overrides:
            return self
        before = dict(self._quantities())
        for key in overrides:
            refuse_unknown(self.name, key, list(before))
        counts = [key for key, quantity in before.items() if isinstance(quantity, Count)]
        tables = put_in(self.model_dump(exclude_none=True), overrides, counts)
        spec = type(self).model_validate(tables, context=f"{self.name} with {_settings(overrides)}")
        after = dict(spec._quantities())
        for key, value in overrides.items():
            if after[key].exact == before[key].exact:
                raise ConfigError(f"{self.name}: setting {key}={value} has no effect, that is its value; leave it out")
        spec._overrides = {**self._overrides, **overrides}
        spec._original = self._original or self
        return spec

    def without_override(self, key: str) -> FabricSpec:
        """Undo one of the ``overrides``; raises ``ConfigError`` where the others cannot stand without it."""
        original = self._original or self
        return original.with_overrides({name: value for name, value in self._overrides.items() if name != key})

    @property
    def num_terminals(self) -> int:
        """How many terminals the fabric has."""
        return self._terminals_per_rack * (self.scale_out.racks.exact if self.scale_out is not None else 1)

    @property
    def _terminals_per_rack(self) -> int:
        match self.topology:
            case ClosTable():
                return prod(self.tier[tier].children.exact for tier in self.topology.tiers)
            case MeshTable():
                return prod(self.dimension[name].size.exact for name in self.topology.dimensions)
            case _:
                return self.topology.terminals.exact

    @property
    def spec_sha256(self) -> str:
        """SHA-256 of all that can change a result: the values in base units and the names, not the prose."""
        facts: dict[str, Any] = {
            "format": self.format,
            "name": self.name,
            "topology": {name: value for name, value in self.topology if not isinstance(value, Quantity)},
            "defaults": self.defaults.model_dump(),
            "terminal": self.terminal.name,
            "protocols": {name: protocol.operations for name, protocol in self.terminal.protocol.items()},
            "quantities": {key: str(quantity.exact) for key, quantity in self._quantities()},
        }
        if self.terminal.completion == "acked":
            facts["completion"] = self.terminal.completion
        if self.vcs is not None:
            facts["vcs"] = self.vcs.arbitration, self.vcs.operations
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def quantities(self) -> tuple[QuantityRow, ...]:
        """List every number with value, unit, evidence class and source; a count has the unit ``count``."""
        rows = []
        for key, quantity in self._quantities():
            if isinstance(quantity, Count):
                value, unit = str(quantity.value), "count"
            elif quantity.value == UNLIMITED:
                value, unit = UNLIMITED, "GB/s"
            else:
                value, unit = split_quantity(quantity.value)
            rows.append(QuantityRow(key, value, unit, quantity.evidence, quantity.source, quantity.note))
        return tuple(rows)

    def settings(self) -> dict[str, str | tuple[Any, ...]]:
        """List by key what the file says beside its numbers and what describes it: texts, and lists of them."""
        prose = ("format", "name", "title", "description")
        return {key: value for key, value in self._leaves() if not isinstance(value, Quantity) and key not in prose}

    def _quantities(self) -> Iterator[tuple[str, Quantity]]:
        return ((key, value) for key, value in self._leaves() if isinstance(value, Quantity))

    def _leaves(self) -> Iterator[tuple[str, Any]]:
        """All that the file says, by key, in the order of the format."""

        def walk(prefix: str, node: object) -> Iterator[tuple[str, Any]]:
            if isinstance(node, Table | dict) and not isinstance(node, Quantity):
                for key, child in node.items() if isinstance(node, dict) else node:
                    yield from walk(f"{prefix}.{key}" if prefix else key, child)
            elif node is not None:
                yield prefix, node

        return walk("", self)

    def to_toml(self) -> str:
        """Write the fabric as a file of its own format; ``from_toml`` reads it back to an equal ``FabricSpec``."""

        def table(path: str, node: Mapping[str, Any]) -> Iterator[str]:
            plain = {key: value for key, value in node.items() if not isinstance(value, dict)}
            if path and plain:
                yield f"\n[{path}]"
            yield from (f"{key} = {_toml(value)}" for key, value in plain.items())
            for key, value in node.items():
                if isinstance(value, dict):
                    yield from table(f"{path}.{key}" if path else key, value)

        return "\n".join(table("", self.model_dump(exclude_none=True))) + "\n"

    def network(self, *, packet: str | None = None, routing: str | None = None, endpoint: str = "fitted") -> Network:
        """Build the tables that the engine runs on.

        ``packet`` and ``routing`` default to the file's ``[defaults]``. ``endpoint`` is ``fitted``; ``ideal``: no
        launch latency, no protocols, no message overhead, no copy limit; or the name of a ``[terminal.endpoint.NAME]``:
        ``fitted`` with another copy rate. Raises ``ConfigError`` for a name that does not exist and for a routing where
        no switch has a choice.
        """
        packet = self.defaults.packet if packet is None else packet
        if packet not in self.packet:
            raise ConfigError(f"{self.name}: {unknown('packet format', packet, self.packet)}")
        endpoints = (*ENDPOINTS, *self.terminal.endpoint)
        if endpoint not in endpoints:
            raise ConfigError(f"{self.name}: {unknown('endpoint', endpoint, endpoints)}")
        if routing not in (None, *ROUTINGS, *DETOUR_ROUTINGS):
            raise ConfigError(f"{self.name}: {unknown('routing', routing, ROUTINGS + DETOUR_ROUTINGS)}")
        if routing is not None and (fault := self._detour_fault(routing)):
            raise ConfigError(f"{self.name}: routing: {fault}")
        if routing not in (None, *DETOUR_ROUTINGS) and self.defaults.routing is None:
            raise ConfigError(
                f"routing {routing} has no effect on {self.name}: each pair of terminals has one path per plane; "
                "leave it out"
            )
        planes = self.topology.planes.exact if isinstance(self.topology, ClosTable) else 1
        return self._build(packet, self._routing if routing is None else routing, endpoint, num_planes=planes)

    def _build(self, packet: str, routing: str, endpoint: str, num_planes: int) -> Network:
        terminal = self.terminal
        is_fitted = endpoint != "ideal"
        copies = terminal.endpoint.get(endpoint, terminal)
        common: dict[str, Any] = {
            "name": self.name,
            "terminal_name": terminal.name,
            "packet": self._packet_format(packet),
            "endpoint": Endpoint(
                launch_latency_ps=terminal.launch_latency.exact if is_fitted else 0,
                message_overhead_ps=terminal.message_overhead.exact if is_fitted else 0,
                slots=terminal.slots.exact,
                copy_ps_per_byte=(copies.copy_rate.exact if is_fitted else None) or Fraction(0),
                protocols=tuple(table.protocol() for table in terminal.protocol.values()) if is_fitted else (),
                acked=terminal.completion == "acked",
            ),
            "ejection_ps_per_byte": terminal.ejection_rate.exact,
        }

        def of(part: TerminalTable | EndpointTable | PackageTable | ScaleOutTable) -> dict[str, Any]:
            return {**common, "copy_ps_per_byte": part.copy_rate.exact if is_fitted else None}

        package = scale_out = None
        if self.package is not None:
            link = self.link[f"{terminal.name}-{terminal.name}"].link()
            package = full_mesh(num_terminals=self.package.terminals.exact, link=link, **of(self.package))
        num_racks = num_rails = 1
        if self.scale_out is not None:
            num_racks, num_rails = self.scale_out.racks.exact, self.scale_out.rails.exact
        if self.scale_out is not None and num_racks > 1:
            children = self.num_terminals // num_rails, num_rails
            parents = 1, self.scale_out.spines_per_rack.exact * num_racks
            tiers = self._clos_tiers(SCALE_OUT_TIERS, children, parents)
            scale_out = clos(tiers=tiers, num_planes=1, routing=routing, **of(self.scale_out))
        whole = package_and_racks(
            self._rack(routing, num_planes, of(copies)),
            terminal_name=terminal.name,
            routing=routing,
            package=package,
            num_racks=num_racks,
            scale_out=scale_out,
            num_rails=num_rails,
        )
        topology = self.topology
        if isinstance(topology, ClosTable) and num_racks == 1:
            reduction = self.tier[topology.tiers[0]].reduction
            if reduction is not None:
                whole = replace(whole, reduction_ps_per_byte=reduction.exact or Fraction(0))
        if self.vcs is None:
            return whole
        vcs = VirtualChannels(self.vcs.count.exact, self.vcs.arbitration, self.vcs.operations)
        return replace(whole, vcs=vcs)

    def _packet_format(self, packet: str) -> PacketFormat:
        table = self.packet[packet]
        return PacketFormat(
            name=packet,
            max_payload_bytes=table.max_payload.exact,
            overhead_bytes=table.overhead.exact,
            flit_bytes=table.flit.exact,
            stripe_min_bytes=table.stripe_min.exact,
        )

    def _way_back(self, up: str, down: str) -> Link:
        return self.link.get(down, self.link[up]).link()

    def _clos_tiers(self, names: Sequence[str], children: Sequence[int], parents: Sequence[int]) -> list[Tier]:
        steps = zip(pairwise((self.terminal.name, *names)), children, parents, strict=True)
        return [
            Tier(
                name=above,
                children=num_children,
                parents=num_parents,
                up=self.link[f"{below}-{above}"].link(),
                down=self._way_back(f"{below}-{above}", f"{above}-{below}"),
            )
            for (below, above), num_children, num_parents in steps
        ]

    def _rack(self, routing: str, num_planes: int, common: Mapping[str, Any]) -> Network:
        """Build ``[topology]`` once."""
        topology, name = self.topology, self.terminal.name
        match topology:
            case ClosTable():
                tiers = [self.tier[tier] for tier in topology.tiers]
                return clos(
                    tiers=self._clos_tiers(
                        topology.tiers,
                        [tier.children.exact for tier in tiers],
                        [tier.parents.exact for tier in tiers],
                    ),
                    num_planes=num_planes,
                    routing=routing,
                    **common,
                )
            case FullMeshTable():
                link = self.link[f"{name}-{name}"].link()
                return full_mesh(num_terminals=topology.terminals.exact, link=link, **common)
            case MeshTable():
                switch = topology.switch
                return mesh(
                    switch_name=switch,
                    dimensions=[
                        Dimension(
                            dimension, self.dimension[dimension].size.exact, self.link[f"{switch}-{dimension}"].link()
                        )
                        for dimension in topology.dimensions
                    ],
                    up=self.link[f"{name}-{switch}"].link(),
                    down=self._way_back(f"{name}-{switch}", f"{switch}-{name}"),
                    routing=routing,
                    **common,
                )
            case LinksTable():
                nodes = topology.nodes(name)
                ups, downs = link_classes(nodes)
                classes = {up: self.link[up].link() for up in ups}
                ways_back = {down: self._way_back(up, down) for up, down in zip(ups, downs, strict=True)}
                return linked(
                    num_terminals=topology.terminals.exact,
                    links=nodes,
                    classes=classes | dict(reversed(ways_back.items())),
                    weights={kind: table.weight.exact for kind, table in self.link.items() if table.weight is not None},
                    routing=routing,
                    **common,
                )


def _both_ways(steps: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Name the channel classes of steps (below, above), upwards and back."""
    steps = list(steps)
    return [f"{below}-{above}" for below, above in steps], [f"{above}-{below}" for below, above in steps]


def _settings(overrides: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in overrides.items())


def _toml(value: str | int | tuple[str, ...]) -> str:
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL; a text of several lines stays readable as such.
        escaped = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        return f'"""\n{escaped[1:-1]}"""'.replace("\\n", "\n") if "\n" in value and "\\" not in value else escaped
    return str(value) if isinstance(value, int) else f"[{', '.join(map(_toml, value))}]"


def fabric_names() -> tuple[str, ...]:
    """Names of the fabrics in the package's catalog, sorted."""
    return tuple(
        sorted(entry.name.removesuffix(".toml") for entry in _CATALOG.iterdir() if entry.name.endswith(".toml"))
    )


def load_fabric(name_or_path: str | os.PathLike[str]) -> FabricSpec:
    """Load a fabric by its name in the catalog, or from the path of a TOML file.

    Text that ends in ``.toml`` or holds a path separator is a path. Raises ``ConfigError`` that names the nearest
    known fabric, or the file and each faulty key with its remedy.
    """
    text = os.fspath(name_or_path)
    is_path = not isinstance(name_or_path, str) or text.endswith(".toml") or os.path.basename(text) != text
    if not is_path:
        if text not in fabric_names():
            raise ConfigError(f"{unknown('fabric', text, fabric_names())}; a path to a file of your own ends in .toml")
        return FabricSpec.from_toml((_CATALOG / f"{text}.toml").read_text("utf-8"), origin=f"{text}.toml")
    try:
        content = Path(text).read_text("utf-8")
    except OSError as error:
        raise ConfigError(
            f"{text}: cannot read this fabric file: {error.strerror}; give the path of a readable TOML file or one of "
            f"the names {', '.join(fabric_names())}"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{text}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    return FabricSpec.from_toml(content, origin=text)
