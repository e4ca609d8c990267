"""The plan of a study: numbered cases, each named by the hash of what it is, in a folder that holds all they need."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from fabricsim.campaigns.study import DEFAULT, SET, Point, read_study
from fabricsim.engine.placement import LINEAR
from fabricsim.errors import ConfigError, unknown
from fabricsim.fabrics import FabricSpec, load_fabric
from fabricsim.fabrics.faults import RANK_KINDS, Fault, read_faults, touched_channels
from fabricsim.fabrics.spec import ENDPOINTS
from fabricsim.fabrics.topologies import DETOUR_ROUTINGS, ROUTINGS
from fabricsim.files import whole_file
from fabricsim.results.versions import package_version
from fabricsim.units import parse_bytes
from fabricsim.workloads.collectives import COLLECTIVES, MOE_COLLECTIVES, choose_algorithm

SCHEMA = "fabricsim.campaign/1"
#: Goes into the name of a case; changes when the same words would ask for something else.
CASE_SCHEMA = "fabricsim.case/1"

CASES = "cases.json"
STUDY = "study.toml"
RESULTS = "results"
CLAIMS = "claims"
LOGS = "logs"
#: What the folder of a plan holds, and so may one in which planning was broken off.
ENTRIES = (CASES, STUDY, RESULTS, CLAIMS, LOGS, f"{CASES}.part", f"{STUDY}.part")

#: Hexadecimal digits of a name. Two names that are equal by chance would be refused like two cases that are.
NAME_DIGITS = 16


@dataclass(frozen=True)
class Case:
    """One run of a plan: its number, its name, and what it is.

    ``fabric`` is as the study has it, ``fabric_sha256`` names its text in the plan, ``spec_sha256`` is that of the
    fabric with its ``overrides``. ``None`` stands for what the fabric has anyway, and for what the case has not.
    """

    index: int
    case: str
    fabric: str
    fabric_sha256: str
    spec_sha256: str
    overrides: Mapping[str, str]
    collective: str
    size_bytes: int | None
    tokens: int | None
    skew: float | None
    ranks: int
    algorithm: str
    routing: str | None
    packet: str | None
    endpoint: str
    placement: str | None
    faults: tuple[str, ...]
    seed: int


#: The fields of ``Case`` that say which one it is, and on what; the others say what is run there.
_WHERE = ("index", "case", "fabric", "fabric_sha256", "spec_sha256", "overrides")
_WHAT = tuple(field.name for field in fields(Case) if field.name not in _WHERE)


@dataclass(frozen=True)
class Plan:
    """All cases of a study, in their order, and the fabrics that they run on as TOML texts.

    ``sha256`` is that of the file; whoever works on a case checks by it that the plan is still the same.
    """

    folder: Path
    title: str
    version: str
    sha256: str
    fabrics: Mapping[str, str]
    cases: tuple[Case, ...]

    def case(self, name: str) -> Case:
        """Find a case by its name."""
        for case in self.cases:
            if case.case == name:
                return case
        raise ConfigError(f"{self.folder}: there is no case {name!r}; {CASES} lists all")

    def at(self, ranges: str) -> list[Case]:
        """Find the cases of indices as Slurm writes them: ``7``, ``0-9`` or ``3,7,12-15``."""
        indices: list[int] = []
        for part in ranges.split(","):
            first, dash, last = part.partition("-")
            last = last if dash else first
            if not first.isdecimal() or not last.isdecimal() or int(last) < int(first):
                raise ConfigError(f"--index {ranges!r}: write whole numbers and ranges, as in 7, 0-9 or 3,7,12-15")
            if int(last) >= len(self.cases):
                raise ConfigError(
                    f"--index {ranges}: {self.folder} has the indices 0 to {len(self.cases) - 1}; stay within them"
                )
            indices += range(int(first), int(last) + 1)
        if len(set(indices)) < len(indices):
            raise ConfigError(f"--index {ranges}: names an index twice; name it once")
        return [self.cases[index] for index in indices]

    def spec(self, case: Case) -> FabricSpec:
        """Build the fabric of a case; those used last are kept."""
        return self._hashed_spec(case)[0]

    def _hashed_spec(self, case: Case) -> tuple[FabricSpec, str]:
        return _spec(self.fabrics[case.fabric_sha256], case.fabric, tuple(case.overrides.items()))

    def is_itself(self) -> bool:
        """Tell whether every case is what its index and its name say."""
        for index, case in enumerate(self.cases):
            spec, spec_sha256 = self._hashed_spec(case)
            what = {name: getattr(case, name) for name in _WHAT}
            if (index, spec_sha256, _named(spec, spec_sha256, what)) != (case.index, case.spec_sha256, case.case):
                return False
        return True


@lru_cache(maxsize=256)  # of a study of so many fabrics and settings each is read once
def _spec(text: str, origin: str, overrides: tuple[tuple[str, str], ...]) -> tuple[FabricSpec, str]:
    return _hashed(FabricSpec.from_toml(text, origin=origin).with_overrides(dict(overrides)))


def make_plan(study: str | os.PathLike[str], folder: str | os.PathLike[str]) -> tuple[Plan, bool]:
    """Read a study and write its plan into a new or empty folder.

    Every file that the study names is read here and never again. Returns the plan, and whether it is new: where the
    folder has the same plan already nothing is changed. Raises ``ConfigError`` for a study that cannot be, for a folder
    with anything else in it, and for one that cannot be written.
    """
    study, folder = Path(study), Path(folder)
    read = read_study(study)
    fabrics: dict[str, str] = {}
    cases = _cases(read.points(str(study)), study, fabrics)
    content = _content(read.title, fabrics, cases)
    path = folder / CASES
    if path.exists():
        if path.read_bytes() != content:
            raise ConfigError(f"{folder}: holds the plan of another study; choose a new folder, or remove this one")
        return open_plan(folder), False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = next((entry.name for entry in folder.iterdir() if entry.name not in ENTRIES), None)
        if found is not None:
            raise ConfigError(f"folder {folder} already holds {found}; choose a new folder, or an empty one")
        for name in (RESULTS, CLAIMS, LOGS):
            (folder / name).mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(f"folder {folder} cannot be made ({error.strerror}); choose another place") from None
    with whole_file(folder / STUDY) as sink:
        sink.write(study.read_bytes())
    with whole_file(path) as sink:  # last: a folder that has it is whole
        sink.write(content)
    return open_plan(folder), True


def open_plan(folder: str | os.PathLike[str]) -> Plan:
    """Read the plan that a folder holds; ``ConfigError`` where there is none, or one of another version."""
    folder = Path(folder)
    path = folder / CASES
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); make the folder with fabricsim campaign plan STUDY -o DIR"
        ) from None
    try:
        document = json.loads(content)
        schema, version = document["schema"], document["fabricsim_version"]
        if schema == SCHEMA and version == package_version():
            plan = Plan(
                folder,
                document["title"],
                version,
                hashlib.sha256(content).hexdigest(),
                document["fabrics"],
                tuple(Case(**(entry | {"faults": tuple(entry["faults"])})) for entry in document["cases"]),
            )
            if plan.is_itself():
                return plan
            raise ValueError("a case is not what it says")
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError):
        raise ConfigError(f"{path}: is damaged, or was edited; plan the study anew in another folder") from None
    raise ConfigError(
        f"{path}: was made by fabricsim {version} (schema {schema}), and this is {package_version()} ({SCHEMA}), of "
        "which results may differ; plan the study in a new folder, or run the version that planned it"
    )


def _content(title: str, fabrics: Mapping[str, str], cases: list[Case]) -> bytes:
    """Write the plan as JSON with one line for each case."""
    head = {"schema": SCHEMA, "fabricsim_version": package_version(), "title": title, "fabrics": fabrics}
    lines = ",\n".join(json.dumps(asdict(case)) for case in cases)
    return f'{json.dumps(head, indent=1)[:-2]},\n "cases": [\n{lines}\n]}}\n'.encode()


def _cases(points: list[Point], study: Path, fabrics: dict[str, str]) -> list[Case]:
    """Resolve all points; the texts of the fabrics that they name go into *fabrics*."""
    specs: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[FabricSpec, str]] = {}
    faults: dict[tuple[str, ...], tuple[Fault, ...]] = {}
    placed: set[tuple[str, tuple[str, ...]]] = set()
    taken: dict[str, int] = {}
    cases = []
    for index, point in enumerate(points):
        overrides = {
            name.removeprefix(SET): value for name, value in point.items() if name.startswith(SET) and value != DEFAULT
        }
        try:
            plain, plain_sha256 = specs.get((point["fabric"], ())) or _hashed(
                load_fabric(_path(study, point["fabric"]))
            )
            specs[point["fabric"], ()] = plain, plain_sha256
            key = point["fabric"], tuple(overrides.items())
            if key not in specs:
                specs[key] = _hashed(plain.with_overrides(overrides))
            spec, spec_sha256 = specs[key]
            if point["fault"] not in faults:
                beside = [study.parent / fault if fault.endswith(".toml") else fault for fault in point["fault"]]
                faults[point["fault"]] = read_faults(beside)
            what = _what(point, spec, tuple(fault.text for fault in faults[point["fault"]]))
            if (spec_sha256, point["fault"]) not in placed:
                _place(spec, faults[point["fault"]])
                placed.add((spec_sha256, point["fault"]))
        except ConfigError as error:
            raise ConfigError(f"{study}: case {index} ({_words(point)}): {error}") from None
        name = _named(spec, spec_sha256, what)
        if name in taken:
            raise ConfigError(
                f"{study}: cases {taken[name]} and {index} are the same ({_words(point)}): a value of an axis "
                "says what another one or the default says too; drop one of the two"
            )
        taken[name] = index
        if plain_sha256 not in fabrics:
            fabrics[plain_sha256] = plain.to_toml()
        cases.append(Case(index, name, point["fabric"], plain_sha256, spec_sha256, overrides, **what))
    return cases


def _place(spec: FabricSpec, faults: tuple[Fault, ...]) -> None:
    """Raise ``ConfigError`` for a switch, link or plane that the fabric does not have; ranks are left to the run."""
    faults = tuple(fault for fault in faults if fault.kind not in RANK_KINDS)
    network = spec.network() if faults else None
    for fault in faults:
        assert network is not None
        touched_channels(network, fault)


def _hashed(spec: FabricSpec) -> tuple[FabricSpec, str]:
    return spec, spec.spec_sha256


def _what(point: Point, spec: FabricSpec, faults: tuple[str, ...]) -> dict[str, Any]:
    """Resolve what is to run on a fabric: the fields of ``Case`` from ``collective`` on."""
    given: dict[str, Any] = {name: None if value == DEFAULT else value for name, value in point.items()}
    op = given["collective"]
    if op not in COLLECTIVES:
        raise ConfigError(unknown("collective", op, COLLECTIVES))
    if op in MOE_COLLECTIVES and (given["tokens"] is None or given["size"] is not None):
        raise ConfigError(f"{op} is run by the axis tokens, not by size; give it a study without size")
    if op not in MOE_COLLECTIVES and (given["size"] is None or (given["tokens"], given["skew"]) != (None, None)):
        raise ConfigError(f"{op} is run by the axis size, without tokens and skew; give it a study without these")
    ranks = spec.num_terminals if given["ranks"] is None else given["ranks"]
    if ranks > spec.num_terminals:
        raise ConfigError(
            f"{ranks} ranks do not fit on the {spec.num_terminals} terminals of {spec.name}; use fewer, or exclude this"
        )
    if given["packet"] not in (None, *spec.packet):
        raise ConfigError(unknown("packet format", given["packet"], spec.packet))
    if given["routing"] not in (None, *ROUTINGS, *DETOUR_ROUTINGS):
        raise ConfigError(unknown("routing", given["routing"], ROUTINGS + DETOUR_ROUTINGS))
    endpoints = (*ENDPOINTS, *spec.terminal.endpoint)
    if given["endpoint"] not in endpoints:
        raise ConfigError(unknown("endpoint", given["endpoint"], endpoints))
    return {
        "collective": op,
        "size_bytes": None if given["size"] is None else parse_bytes(given["size"]),
        "tokens": given["tokens"],
        "skew": given["skew"],
        "ranks": ranks,
        "algorithm": choose_algorithm(op, given["algorithm"]),
        "routing": given["routing"],
        "packet": given["packet"],
        "endpoint": given["endpoint"],
        "placement": given["placement"],
        "faults": faults,
        "seed": given["seed"],
    }


def _named(spec: FabricSpec, spec_sha256: str, what: Mapping[str, Any]) -> str:
    """Name a case by the hash of all that can change its result, however that was written."""
    identity = {
        **what,
        "schema": CASE_SCHEMA,
        "spec_sha256": spec_sha256,
        "routing": what["routing"] or spec.defaults.routing,
        "packet": what["packet"] or spec.defaults.packet,
        "placement": what["placement"] or LINEAR,
        "faults": sorted(what["faults"]),
    }
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:NAME_DIGITS]


def _path(study: Path, name: str) -> str:
    """Read the path of a fabric's file from the folder of the study; leave any other name."""
    return str(study.parent / name) if name.endswith(".toml") or os.path.basename(name) != name else name


def _words(point: Point) -> str:
    """Say what a point is, in the words of the study, without what is left out or stands for nothing."""
    return ", ".join(
        f"{name}={' '.join(value) if isinstance(value, tuple) else value}"
        for name, value in point.items()
        if value not in (None, DEFAULT, ())
    )
