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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError

from fabricsim.errors import ConfigError, unknown
from fabricsim.fabrics.complaints import Complaint, refusal, translate
from fabricsim.fabrics.network import Endpoint, Network, PacketFormat
from fabricsim.fabrics.topologies import ROUTINGS, Link, Tier, check_acyclic, clos, full_mesh
from fabricsim.units import parse_bandwidth, parse_bytes, parse_time_ps, ps_per_byte, split_quantity

UNLIMITED = "unlimited"
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


class DefaultsTable(Table):
    """``[defaults]``: what a run uses unless it is told otherwise. ``routing`` stands where there is a choice."""

    packet: Name
    routing: Literal["spray", "deterministic"] | None = None


class TerminalTable(Table):
    """``[terminal]``: its name, and what it adds to the wires (docs/physics.md, section 8)."""

    name: LevelName
    launch_latency: Time
    message_overhead: Time
    slots: Count
    copy_rate: Limit
    ejection_rate: Limit


class TierTable(Table):
    """``[tier.NAME]``: one level of switches; counts per switch and per node below, within a plane."""

    children: Count
    parents: Count


class LinkTable(Table):
    """``[link.BELOW-ABOVE]``: both directions of a link, or one where ``[link.ABOVE-BELOW]`` stands as well."""

    bandwidth: Bandwidth
    latency: Time
    buffer: Size

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
    topology: Annotated[ClosTable | FullMeshTable, Field(discriminator="kind")]
    defaults: DefaultsTable
    terminal: TerminalTable
    tier: dict[LevelName, TierTable] = {}
    link: dict[str, LinkTable]
    packet: Annotated[dict[Name, PacketTable], Field(min_length=1)]

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
            # The planes of a fabric are alike and share no switch, so one shows whether all can be built.
            networks = [spec._build(packet, spec._routing, "fitted", num_planes=1) for packet in spec.packet]
            check_acyclic(networks[0])
        except ConfigError as error:
            raise ConfigError(f"{origin}: {error}") from None
        return spec

    def _contradictions(self) -> Iterator[Complaint]:
        """Find what each table alone cannot show."""
        tiers = self._tiers
        for tier in self.tier.keys() - set(tiers):
            yield Complaint(f"tier.{tier}", unknown("tier of the topology", tier, tiers))
        for tier in tiers:
            if tier not in self.tier:
                yield Complaint(f"tier.{tier}", f"is missing, topology.tiers names it; add a table [tier.{tier}]")
        ups, downs = self._channel_classes()
        for name in self.link.keys() - {*ups, *downs}:
            yield Complaint(f"link.{name}", unknown("channel class", name, [*ups, *downs]))
        for name in ups:
            if name not in self.link:
                yield Complaint(
                    f"link.{name}", f"is missing; add a table [link.{name}] with {', '.join(LinkTable.model_fields)}"
                )
        if self.defaults.packet not in self.packet:
            yield Complaint("defaults.packet", unknown("packet format", self.defaults.packet, self.packet))
        choice = any(self.tier[tier].parents.exact > 1 for tier in tiers if tier in self.tier)
        if choice and self.defaults.routing is None:
            yield Complaint("defaults.routing", f"is missing; switches have a choice here: {' or '.join(ROUTINGS)}")
        if not choice and self.defaults.routing is not None:
            yield Complaint(
                "defaults.routing", f"found {self.defaults.routing!r}, but each pair has one path per plane; drop it"
            )

    @property
    def _tiers(self) -> tuple[str, ...]:
        return self.topology.tiers if isinstance(self.topology, ClosTable) else ()

    @property
    def _routing(self) -> str:
        # Where no switch has a choice the rule is never asked; the cheaper one stands in the tables.
        return self.defaults.routing or "deterministic"

    def _channel_classes(self) -> tuple[list[str], list[str]]:
        """Names of the upward classes and of their way back, from the terminals up; a mesh has one of the first."""
        terminal = self.terminal.name
        if isinstance(self.topology, FullMeshTable):
            return [f"{terminal}-{terminal}"], []
        levels = list(pairwise((terminal, *self._tiers)))
        return [f"{below}-{above}" for below, above in levels], [f"{above}-{below}" for below, above in levels]

    @property
    def num_terminals(self) -> int:
        """How many terminals the fabric has."""
        if isinstance(self.topology, FullMeshTable):
            return self.topology.terminals.exact
        return prod(self.tier[tier].children.exact for tier in self._tiers)

    @property
    def spec_sha256(self) -> str:
        """SHA-256 of all that can change a result: the values in base units and the names, not the prose."""
        facts = {
            "format": self.format,
            "name": self.name,
            "kind": self.topology.kind,
            "tiers": self._tiers,
            "defaults": self.defaults.model_dump(),
            "terminal": self.terminal.name,
            "quantities": {key: str(quantity.exact) for key, quantity in self._quantities()},
        }
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

    def _quantities(self) -> Iterator[tuple[str, Quantity]]:
        def walk(prefix: str, node: object) -> Iterator[tuple[str, Quantity]]:
            if isinstance(node, Quantity):
                yield prefix, node
            elif isinstance(node, Table | dict):
                for key, child in node.items() if isinstance(node, dict) else node:
                    yield from walk(f"{prefix}.{key}" if prefix else key, child)

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

        ``packet`` and ``routing`` default to the file's ``[defaults]``. ``endpoint`` is ``fitted``, or ``ideal``: no
        launch latency, no message overhead, no copy limit. Raises ``ConfigError`` for a name that does not exist and
        for a routing where no switch has a choice.
        """
        packet = self.defaults.packet if packet is None else packet
        if packet not in self.packet:
            raise ConfigError(f"{self.name}: {unknown('packet format', packet, self.packet)}")
        if endpoint not in ENDPOINTS:
            raise ConfigError(f"{self.name}: {unknown('endpoint', endpoint, ENDPOINTS)}")
        if routing is not None and self.defaults.routing is None:
            raise ConfigError(
                f"{self.name}: the routing {routing!r} has no effect, each pair has one path per plane; leave it out"
            )
        planes = self.topology.planes.exact if isinstance(self.topology, ClosTable) else 1
        return self._build(packet, self._routing if routing is None else routing, endpoint, num_planes=planes)

    def _build(self, packet: str, routing: str, endpoint: str, num_planes: int) -> Network:
        terminal, table = self.terminal, self.packet[packet]
        is_fitted = endpoint == "fitted"
        packet_format = PacketFormat(
            name=packet,
            max_payload_bytes=table.max_payload.exact,
            overhead_bytes=table.overhead.exact,
            flit_bytes=table.flit.exact,
            stripe_min_bytes=table.stripe_min.exact,
        )
        numbers = Endpoint(
            launch_latency_ps=terminal.launch_latency.exact if is_fitted else 0,
            message_overhead_ps=terminal.message_overhead.exact if is_fitted else 0,
            slots=terminal.slots.exact,
        )
        copy_ps_per_byte = terminal.copy_rate.exact if is_fitted else None
        ups, downs = self._channel_classes()
        if isinstance(self.topology, FullMeshTable):
            return full_mesh(
                name=self.name,
                terminal_name=terminal.name,
                num_terminals=self.num_terminals,
                link=self.link[ups[0]].link(),
                packet=packet_format,
                endpoint=numbers,
                copy_ps_per_byte=copy_ps_per_byte,
                ejection_ps_per_byte=terminal.ejection_rate.exact,
            )
        return clos(
            name=self.name,
            terminal_name=terminal.name,
            tiers=[
                Tier(
                    name=tier,
                    children=self.tier[tier].children.exact,
                    parents=self.tier[tier].parents.exact,
                    up=self.link[up].link(),
                    down=self.link.get(down, self.link[up]).link(),
                )
                for tier, up, down in zip(self._tiers, ups, downs, strict=True)
            ],
            num_planes=num_planes,
            packet=packet_format,
            endpoint=numbers,
            routing=routing,
            copy_ps_per_byte=copy_ps_per_byte,
            ejection_ps_per_byte=terminal.ejection_rate.exact,
        )


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
