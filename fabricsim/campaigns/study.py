"""A study as people write it: a TOML file of axes, filters and replicas (docs/batch.md)."""

from __future__ import annotations

import itertools
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from fabricsim.errors import ConfigError, unknown
from fabricsim.fabrics.complaints import Complaint, refusal, translate

FORMAT = "fabricsim.study/1"

#: What an axis holds where a case has what the fabric or the collective has anyway.
DEFAULT = "default"
#: What the axis ``fault`` holds where nothing is broken.
NO_FAULT = "none"
#: What stands before the keys of ``[axes.set]`` where they are named beside the other axes.
SET = "set."

#: A case before it is resolved: the value of each axis, as written.
Point = dict[str, Any]


def _in_a_list(value: object) -> object:
    """Let one value stand for a list of one."""
    if value == []:
        raise PydanticCustomError("quantity", "an empty list; write one value or more")
    return value if isinstance(value, list) else [value]


def _rules(value: object) -> object:
    """Let one entry of ``exclude`` stand for a list of one."""
    rules = value if isinstance(value, list) else [value]
    for rule in rules:
        if not isinstance(rule, dict):
            words = "write tables of axes and values, as in [{ fabric = 'nvl72', ranks = 72 }]"
            raise PydanticCustomError("quantity", "found {value}; {words}", {"value": repr(rule), "words": words})
    return rules


def _fault_value(value: object) -> object:
    """Give the faults of one value of the axis as a list: several that come together, one, or none."""
    if value == NO_FAULT:
        return []
    if value == []:
        raise PydanticCustomError("quantity", "an empty list; write 'none' where nothing is broken")
    return _in_a_list(value)


def _number_or_default(least: float, kind: type) -> BeforeValidator:
    """Check a number of at least *least*, or ``default``; one complaint for both."""

    def check(value: object) -> object:
        is_number = isinstance(value, int | kind) and not isinstance(value, bool)
        if value != DEFAULT and not (is_number and value >= least):  # type: ignore[operator]
            words = f"a {'whole ' if kind is int else ''}number of at least {least:g}, or '{DEFAULT}'"
            raise PydanticCustomError(
                "quantity", "found {value}; write {words}", {"value": repr(value), "words": words}
            )
        return value

    return BeforeValidator(check)


def _setting(value: object) -> object:
    """Take a count, which has no unit, as the text that ``--set`` would be given."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_AS_LIST = BeforeValidator(_in_a_list)
_MANY = Field(strict=False)
_Text = Annotated[str, Field(min_length=1)]
_Texts = Annotated[tuple[_Text, ...], _MANY, _AS_LIST]
_Whole = Annotated[int, Field(ge=1)]
_Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class _Table(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Axes(_Table):
    """``[axes]``: lists of values, of which every combination is a case; a single value need not stand in a list."""

    fabric: _Texts
    collective: _Texts
    size: _Texts | None = None
    tokens: Annotated[tuple[_Whole, ...], _MANY, _AS_LIST] | None = None
    skew: Annotated[tuple[Annotated[float | str, _number_or_default(0, float)], ...], _MANY, _AS_LIST] = (DEFAULT,)
    ranks: Annotated[tuple[Annotated[int | str, _number_or_default(1, int)], ...], _MANY, _AS_LIST] = (DEFAULT,)
    algorithm: _Texts = (DEFAULT,)
    routing: _Texts = (DEFAULT,)
    packet: _Texts = (DEFAULT,)
    endpoint: _Texts = ("fitted",)
    placement: Annotated[tuple[Literal["default", "linear", "scatter"], ...], _MANY, _AS_LIST] = ("default",)
    fault: Annotated[
        tuple[Annotated[tuple[_Text, ...], Field(strict=False), BeforeValidator(_fault_value)], ...], _MANY, _AS_LIST
    ] = ((),)
    seed: Annotated[tuple[_Seed, ...], _MANY, _AS_LIST] = (1,)
    set: dict[str, Annotated[tuple[Annotated[_Text, BeforeValidator(_setting)], ...], _MANY, _AS_LIST]] = {}

    def by_name(self) -> dict[str, Sequence[Any]]:
        """Give the values of every axis, those of ``set`` by their keys behind ``set.``; an absent axis has one."""
        axes: dict[str, Sequence[Any]] = {}
        for name in type(self).model_fields:
            if name != "set":
                values = getattr(self, name)
                axes[name] = (None,) if values is None else values
        return axes | {f"{SET}{key}": values for key, values in self.set.items()}


class Study(_Table):
    """A whole study file. ``exclude`` leaves combinations out; ``replicas`` runs each with so many seeds."""

    format: Literal["fabricsim.study/1"]
    title: _Text
    replicas: Annotated[int, Field(ge=1)] = 1
    exclude: Annotated[tuple[dict[str, Any], ...], Field(strict=False), BeforeValidator(_rules)] = ()
    axes: Axes

    def points(self, origin: str) -> list[Point]:
        """List all cases in their order, that of the axes, the last of which changes fastest.

        Raises ``ConfigError`` that names the file *origin*, the key and the remedy for what no table alone shows.
        """
        axes = self.axes.by_name()
        if complaints := [*self._contradictions(axes)]:
            raise refusal(origin, complaints)
        rules = [self._rule(rule, number, axes, origin) for number, rule in enumerate(self.exclude)]
        points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        kept = []
        used = [False] * len(rules)
        for point in points:
            hits = [all(point[name] in values for name, values in rule.items()) for rule in rules]
            used = [before or hit for before, hit in zip(used, hits, strict=True)]
            if not any(hits):
                kept.append(point)
        if not all(used):
            number = used.index(False)
            raise ConfigError(f"{origin}: exclude[{number}]: leaves no case out; mend it, or drop it")
        if not kept:
            raise ConfigError(f"{origin}: exclude: leaves no case at all; drop some of it")
        return [point | {"seed": point["seed"] + replica} for point in kept for replica in range(self.replicas)]

    def _contradictions(self, axes: Mapping[str, Sequence[Any]]) -> Iterator[Complaint]:
        for name, values in axes.items():
            for value in dict.fromkeys(value for value in values if values.count(value) > 1):
                yield Complaint(f"axes.{name}", f"has {_written(name, value)!r} twice; name it once")
        if self.replicas > 1 and len(self.axes.seed) > 1:
            yield Complaint("replicas", "are the seeds from that of the axis on; give the axis one seed, or drop them")
        if self.axes.seed[-1] + self.replicas > 2**63:
            yield Complaint("replicas", "have seeds beyond 64 bits; start from a smaller one")

    def _rule(
        self, rule: Mapping[str, Any], number: int, axes: Mapping[str, Sequence[Any]], origin: str
    ) -> dict[str, list[Any]]:
        """Read an entry of ``exclude``: by axis the values that it leaves out together."""
        where = f"{origin}: exclude[{number}]"
        if not rule:
            raise ConfigError(f"{where}: names no axis; name one or more, as in {{fabric = 'nvl72', ranks = 72}}")
        found = {}
        for name, given in rule.items():
            if name not in axes or axes[name] == (None,):
                raise ConfigError(f"{where}: {unknown('axis', name, [key for key in axes if axes[key] != (None,)])}")
            written = {str(_written(name, value)): value for value in axes[name]}
            wanted = given if isinstance(given, list) else [given]
            for value in wanted:
                if str(value) not in written:
                    raise ConfigError(f"{where}.{name}: {unknown('value of the axis', str(value), written)}")
            found[name] = [written[str(value)] for value in wanted]
        return found


def read_study(path: str | os.PathLike[str]) -> Study:
    """Read a study file; ``ConfigError`` lists every fault with file, key and remedy."""
    origin = os.fspath(path)
    try:
        tables = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{origin}: cannot read this study: {error.strerror}; give the path of a readable TOML file"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{origin}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin}: not valid TOML: {error}; mend that line") from None
    try:
        return Study.model_validate(tables)
    except ValidationError as error:
        raise refusal(origin, translate(Study, error)) from None


def _written(name: str, value: Any) -> Any:
    """Give a value as it stands in the file; the faults of a case are a list of them, one, or ``none``."""
    if name != "fault":
        return value
    return list(value) if len(value) > 1 else value[0] if value else NO_FAULT
