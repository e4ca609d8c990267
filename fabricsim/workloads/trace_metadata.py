"""The schema metadata of a collective trace: ranks, groups, clocks and what was lost (docs/trace-format.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fabricsim.errors import TraceError, nearest, unknown
from fabricsim.workloads.trace_complaints import few

FORMAT = "collective-trace"
VERSION = (1, 0)


@dataclass(frozen=True)
class MetadataKey:
    """One key of the Arrow schema metadata; values are UTF-8 text, and JSON where the example has brackets."""

    name: str
    required: bool
    example: str
    meaning: str


PREFIX = "fabricsim."
METADATA_KEYS = (
    MetadataKey("fabricsim.format", True, FORMAT, "says that the table is a collective trace"),
    MetadataKey("fabricsim.schema_version", True, "1.0", "major.minor of this schema"),
    MetadataKey("fabricsim.world_size", True, "384", "number of ranks"),
    MetadataKey(
        "fabricsim.groups",
        True,
        '[{"id": 0, "name": "0", "desc": "world", "ranks": {"start": 0, "stride": 1, "count": 384}}]',
        "all groups; ids count 0, 1, ...; ranks may also be a list; their order is the rank in the group",
    ),
    MetadataKey("fabricsim.t0_unix_ns", False, "1700000000000000000", "the instant from which all times count"),
    MetadataKey(
        "fabricsim.clock",
        False,
        '{"aligned": true, "max_skew_ns": 7000}',
        "whether times of different ranks may be compared, and how far they may be off (null: unknown)",
    ),
    MetadataKey(
        "fabricsim.complete",
        False,
        '{"missing_ranks": [], "dropped_ops": 0}',
        "what the recorder is known to have lost",
    ),
    MetadataKey("fabricsim.source", False, '{"format": "kineto"}', "where the trace comes from; free JSON object"),
    MetadataKey(
        "fabricsim.placement",
        False,
        "[0, 1, 2]",
        "device number of each rank: its terminal in a replay, unless `--placement` names another",
    ),
)


@dataclass(frozen=True, eq=False)
class Group:
    """A set of ranks; ``ranks`` are global ranks (int32) in the order of the rank in the group."""

    id: int
    name: str
    desc: str
    ranks: npt.NDArray[np.int32]

    def __post_init__(self) -> None:
        """Keep an own, read-only copy of the ranks."""
        ranks = np.array(self.ranks, np.int32)
        ranks.setflags(write=False)
        object.__setattr__(self, "ranks", ranks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Group) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.id, self.name, self.desc, self.ranks.tobytes()))

    def __len__(self) -> int:
        return len(self.ranks)

    def to_json(self) -> dict[str, Any]:
        """As in ``fabricsim.groups``: evenly spaced ranks as start, stride and count."""
        ranks: Any = self.ranks.tolist()
        if len(ranks) > 2 and (stride := ranks[1] - ranks[0]) > 0 and set(np.diff(self.ranks).tolist()) == {stride}:
            ranks = {"start": ranks[0], "stride": stride, "count": len(ranks)}
        return {"id": self.id, "name": self.name, "desc": self.desc, "ranks": ranks}


@dataclass(frozen=True)
class Clock:
    """Whether times of different ranks may be compared, and how far they may be off (``None``: unknown)."""

    aligned: bool
    max_skew_ns: int | None = None


@dataclass(frozen=True)
class Completeness:
    """What the recorder is known to have lost."""

    missing_ranks: tuple[int, ...] = ()
    dropped_ops: int = 0


@dataclass(frozen=True)
class TraceMetadata:
    """The schema metadata of a trace; ``None`` where the trace does not say.

    ``placement`` is the device number of each rank, which a replay takes for its terminal. ``version`` is
    (major, minor) of the schema.
    """

    world_size: int
    groups: tuple[Group, ...]
    t0_unix_ns: int | None = None
    clock: Clock | None = None
    complete: Completeness | None = None
    source: Mapping[str, Any] | None = None
    placement: tuple[int, ...] | None = None
    version: tuple[int, int] = VERSION

    def __post_init__(self) -> None:
        """Refuse what no trace can mean; raise ``TraceError`` with all complaints."""
        _check_world_size(self.world_size)
        if faults := _metadata_faults(self):
            raise TraceError("; ".join(faults))

    def to_arrow(self) -> dict[str, str]:
        """Return the schema metadata as written, always in the version of this package."""
        values: dict[str, Any] = {
            "groups": [group.to_json() for group in self.groups],
            "clock": self.clock and {"aligned": self.clock.aligned, "max_skew_ns": self.clock.max_skew_ns},
            "complete": self.complete
            and {"missing_ranks": list(self.complete.missing_ranks), "dropped_ops": self.complete.dropped_ops},
            "source": self.source,
            "placement": self.placement,
            "t0_unix_ns": self.t0_unix_ns,
        }
        texts = {PREFIX + key: json.dumps(value) for key, value in values.items() if value is not None}
        return {
            "fabricsim.format": FORMAT,
            "fabricsim.schema_version": f"{VERSION[0]}.{VERSION[1]}",
            "fabricsim.world_size": str(self.world_size),
            **texts,
        }


def _check_world_size(world_size: int) -> None:
    if not 1 <= world_size < 2**31:
        raise TraceError(f"fabricsim.world_size is {world_size}; it must be a number of ranks, 1 to 2^31 - 1")


def _metadata_faults(metadata: TraceMetadata) -> list[str]:
    faults = []
    size = metadata.world_size
    if not metadata.groups:
        faults.append("fabricsim.groups is empty; give at least one group of ranks")
    for index, group in enumerate(metadata.groups):
        who = f"group {group.id} of fabricsim.groups"
        if group.id != index:
            faults.append(f"{who} stands at place {index}; ids must count 0, 1, 2, ... in order")
        if len(group) == 0:
            faults.append(f"{who} has no ranks; name its members")
        elif outside := group.ranks[(group.ranks < 0) | (group.ranks >= size)].tolist():
            faults.append(f"{who} holds ranks {few(outside)} outside 0..{size - 1}; mend the group or the world size")
        elif len(np.unique(group.ranks)) != len(group):
            faults.append(f"{who} names a rank twice; name each member once")
    if metadata.complete and (outside := [r for r in metadata.complete.missing_ranks if not 0 <= r < size]):
        faults.append(f"fabricsim.complete: missing_ranks {few(outside)} are outside 0..{size - 1}")
    if metadata.complete and metadata.complete.dropped_ops < 0:
        faults.append("fabricsim.complete: dropped_ops is below 0; count what was lost")
    if metadata.placement is not None and len(metadata.placement) != size:
        faults.append(f"fabricsim.placement has {len(metadata.placement)} entries; it needs one per rank, {size}")
    return faults


def parse_metadata(
    raw: Mapping[bytes, bytes] | None,
    where: str,
    *,
    world_size: int | None = None,
    groups: Iterable[Group | Mapping[str, Any]] | None = None,
) -> TraceMetadata:
    """Read schema metadata; *world_size* and *groups* stand in for missing keys.

    A table that went through a library which drops metadata has no ``fabricsim.`` key at all; with both
    arguments it is read as the version of this package. Raises ``TraceError`` naming *where* and the key.
    """
    texts = _own_texts(raw, where)
    given = {key for key, value in (("world_size", world_size), ("groups", groups)) if value is not None}
    if both := sorted(given & texts.keys()):
        names = " and ".join(f"{PREFIX}{key}" for key in both)
        raise TraceError(f"{where}: the metadata already says {names}; leave out {' and '.join(f'{k}=' for k in both)}")
    if texts or len(given) < 2:
        required = {key.name.removeprefix(PREFIX) for key in METADATA_KEYS if key.required}
        if missing := sorted(required - texts.keys() - given):
            raise TraceError(
                f"{where}: no schema metadata {', '.join(PREFIX + key for key in missing)}; some libraries drop it on "
                "a round trip: write the trace with its metadata again, or pass world_size= and groups= to Trace.open "
                "or Trace.from_table"
            )
    version = _version(texts, where)
    _refuse_unknown_keys(texts, version, where)
    reader = _JsonReader(texts, where)
    try:
        size = world_size if world_size is not None else reader.integer("world_size")
        listed = groups if groups is not None else reader.json("groups")
        return TraceMetadata(
            world_size=size,
            groups=as_groups(listed, size, f"{where}: fabricsim.groups"),
            t0_unix_ns=reader.integer("t0_unix_ns") if "t0_unix_ns" in texts else None,
            clock=reader.clock(),
            complete=reader.complete(),
            source=reader.source(),
            placement=reader.placement(),
            version=version,
        )
    except TraceError as error:
        text = str(error)
        raise TraceError(text if text.startswith(where) else f"{where}: {text}") from None


def _own_texts(raw: Mapping[bytes, bytes] | None, where: str) -> dict[str, str]:
    """Pick the keys with our prefix and strip it; other programs' keys are theirs."""
    texts = {}
    for key, value in (raw or {}).items():
        name = key.decode("utf-8", "replace")
        if name.startswith(PREFIX):
            try:
                texts[name.removeprefix(PREFIX)] = value.decode("utf-8")
            except UnicodeDecodeError:
                raise TraceError(f"{where}: metadata {name} is not UTF-8 text; write it as UTF-8") from None
    return texts


def _version(texts: Mapping[str, str], where: str) -> tuple[int, int]:
    if texts.get("format", FORMAT) != FORMAT:
        raise TraceError(f"{where}: fabricsim.format is {texts['format']!r}, not {FORMAT!r}; this table is no trace")
    text = texts.get("schema_version", "1.0")
    major, dot, minor = text.partition(".")
    if not (dot and major.isdecimal() and minor.isdecimal()):
        raise TraceError(f"{where}: fabricsim.schema_version is {text!r}; it must read like '1.0'")
    if int(major) != VERSION[0]:
        raise TraceError(
            f"{where}: the trace has schema version {text}, this fabricsim reads {VERSION[0]}.x; convert the trace or "
            "use a fabricsim of the same major version"
        )
    return int(major), int(minor)


def _refuse_unknown_keys(texts: Mapping[str, str], version: tuple[int, int], where: str) -> None:
    known = [key.name.removeprefix(PREFIX) for key in METADATA_KEYS]
    strange = [key for key in texts if key not in known]
    if strange and version <= VERSION:
        hint = nearest(strange[0], known)
        raise TraceError(f"{where}: unknown metadata {PREFIX}{strange[0]}{hint}; keys of others need another prefix")


@dataclass(frozen=True)
class _JsonReader:
    """Typed access to metadata texts; every fault names the key."""

    texts: Mapping[str, str]
    where: str

    def fault(self, key: str, remedy: str) -> TraceError:
        text = self.texts[key]
        shown = text if len(text) <= 60 else text[:57] + "..."
        return TraceError(f"{self.where}: metadata {PREFIX}{key} is {shown!r}; {remedy}")

    def integer(self, key: str) -> int:
        try:
            return int(self.texts[key])
        except ValueError:
            raise self.fault(key, "it must be a whole number") from None

    def json(self, key: str) -> Any:
        try:
            return json.loads(self.texts[key])
        except (ValueError, RecursionError) as error:
            raise self.fault(key, f"it must be JSON ({error})") from None

    def object(self, key: str, fields: Mapping[str, tuple[type, ...]]) -> dict[str, Any] | None:
        if key not in self.texts:
            return None
        value = self.json(key)
        exact = isinstance(value, dict) and value.keys() <= fields.keys()
        if not exact or any(type(part) not in fields[name] for name, part in value.items()):
            example = next(entry.example for entry in METADATA_KEYS if entry.name == PREFIX + key)
            raise self.fault(key, f"it must look like {example}")
        return dict(value)

    def clock(self) -> Clock | None:
        value = self.object("clock", {"aligned": (bool,), "max_skew_ns": (int, type(None))})
        if value is not None and "aligned" not in value:
            raise self.fault("clock", "it must say whether clocks are aligned")
        return None if value is None else Clock(**value)

    def complete(self) -> Completeness | None:
        value = self.object("complete", {"missing_ranks": (list,), "dropped_ops": (int,)})
        if value is None:
            return None
        ranks = self.integers("complete", value.get("missing_ranks", []))
        return Completeness(ranks, value.get("dropped_ops", 0))

    def source(self) -> dict[str, Any] | None:
        if "source" not in self.texts:
            return None
        value = self.json("source")
        if not isinstance(value, dict):
            raise self.fault("source", "it must be a JSON object")
        return value

    def placement(self) -> tuple[int, ...] | None:
        return self.integers("placement", self.json("placement")) if "placement" in self.texts else None

    def integers(self, key: str, value: Any) -> tuple[int, ...]:
        if not (isinstance(value, list) and all(type(part) is int for part in value)):
            raise self.fault(key, "it must hold a list of whole numbers")
        return tuple(value)


def as_groups(groups: object, world_size: int, where: str = "groups") -> tuple[Group, ...]:
    """Make groups from ``Group`` objects or from mappings as in ``fabricsim.groups``.

    Raises ``TraceError`` naming *where* and the entry for a mapping of another shape.
    """
    _check_world_size(world_size)  # first, for it bounds the memory that a group may ask for
    if not isinstance(groups, Iterable) or isinstance(groups, str | Mapping):
        raise TraceError(f"{where}: must be a list of groups")
    return tuple(
        group if isinstance(group, Group) else _group(group, world_size, f"{where}: entry {index}")
        for index, group in enumerate(groups)
    )


_GROUP_FIELDS = ("id", "name", "desc", "ranks")
_RANGE_FIELDS = {"start", "stride", "count"}


def _group(entry: Any, world_size: int, where: str) -> Group:
    if not isinstance(entry, Mapping):
        raise TraceError(f"{where} is no object; it must have the keys {', '.join(_GROUP_FIELDS)}")
    if strange := [key for key in entry if key not in _GROUP_FIELDS]:
        raise TraceError(f"{where}: {unknown('key', str(strange[0]), _GROUP_FIELDS)}")
    if missing := [key for key in ("id", "ranks") if key not in entry]:
        raise TraceError(f"{where} lacks {' and '.join(missing)}; name them")
    if type(entry["id"]) is not int:
        raise TraceError(f"{where}: id must be a whole number")
    return Group(
        entry["id"],
        str(entry.get("name", entry["id"])),
        str(entry.get("desc", "")),
        _ranks(entry["ranks"], world_size, where),
    )


def _ranks(ranks: Any, world_size: int, where: str) -> npt.NDArray[np.int32]:
    if isinstance(ranks, Mapping) and set(ranks) == _RANGE_FIELDS and all(_is_whole(part) for part in ranks.values()):
        start, stride, count = ranks["start"], ranks["stride"], ranks["count"]
        if not (start >= 0 and stride >= 1 and count >= 1 and start + stride * (count - 1) < world_size):
            raise TraceError(
                f"{where}: ranks {dict(ranks)} do not lie in 0..{world_size - 1}; mend start, stride or count"
            )
        return np.arange(start, start + stride * count, stride, dtype=np.int32)
    if isinstance(ranks, str | Mapping) or not isinstance(ranks, Iterable):
        raise TraceError(f"{where}: ranks must be a list of ranks, or start, stride and count")
    listed = list(ranks)
    if not all(_is_whole(rank) and 0 <= rank < world_size for rank in listed):
        raise TraceError(f"{where}: ranks must be whole numbers in 0..{world_size - 1}")
    return np.array(listed, np.int32)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
