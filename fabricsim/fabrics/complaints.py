"""All that is wrong with a fabric, in one ``ConfigError`` that names file, key, finding and remedy of each fault."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from fabricsim.errors import ConfigError, unknown


@dataclass(frozen=True)
class Complaint:
    """One fault: the key's path (empty for the whole file), and what was found and how to mend it."""

    key: str
    message: str


def refusal(origin: str, complaints: Sequence[Complaint]) -> ConfigError:
    """Make the error for a file or object with one or more faults."""
    lines = [f"{item.key}: {item.message}" if item.key else item.message for item in complaints]
    if len(lines) == 1:
        return ConfigError(f"{origin}: {lines[0]}")
    return ConfigError(f"{origin}: {len(lines)} faults:" + "".join(f"\n  {line}" for line in lines))


def translate(model: type[BaseModel], error: ValidationError) -> list[Complaint]:
    """Turn pydantic's report on ``model`` into complaints that speak of keys, not of classes."""
    complaints = []
    for fault in error.errors():
        keys, table, kind = _walk(model, fault["loc"])
        found = reprlib.repr(fault["input"])
        match fault["type"]:
            case "quantity":
                message = fault["msg"]
            case "extra_forbidden":
                message = unknown("key", keys[-1], _fields(table))
            case "missing":
                inside = f" with the keys {', '.join(_fields(kind))}" if _fields(kind) else ""
                message = f"is missing; add it{inside}"
            case "union_tag_invalid" | "union_tag_not_found":
                kinds = [str(_tag(member)) for member in get_args(kind)]
                keys.append("kind")
                message = f"found {fault['input'].get('kind')!r}; write one of {', '.join(kinds)}"
            case "model_type":
                message = f"found {found}; write a table with the keys {', '.join(_fields(kind))}"
            case _:
                message = f"found {found}; {fault['msg'][0].lower()}{fault['msg'][1:]}"
        complaints.append(Complaint(".".join(keys), message))
    return complaints


def _fields(kind: Any) -> list[str]:
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _walk(model: type[BaseModel], location: Sequence[int | str]) -> tuple[list[str], Any, Any]:
    """Follow pydantic's location: the keys as written, the table that holds the last one, and the last one's type.

    A location also holds what no user wrote: the tag of a union's member, and ``[key]`` for a dictionary's key.
    """
    keys: list[str] = []
    table: Any = None
    kind: Any = model
    for part in location:
        members = [member for member in get_args(kind) if _tag(member) == part]
        if members:
            kind = members[0]
        elif part != "[key]":
            keys.append(str(part))
            table = kind
            if part in _fields(kind):
                kind = kind.model_fields[part].annotation
            else:
                kind = get_args(kind)[1] if get_origin(kind) is dict else None
    return keys, table, kind


def _tag(member: Any) -> str | None:
    """Give the ``kind`` by which pydantic tells a member of a union from the others."""
    return get_args(member.model_fields["kind"].annotation)[0] if "kind" in _fields(member) else None
