"""Numbers of a fabric that a user sets for a run: ``KEY=VALUE`` texts, and the tables of a file with them put in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fabricsim.errors import ConfigError, nearest

#: The key of the number of racks.
RACKS = "scale_out.racks"
#: What takes the place of source and evidence of a number that a user set.
PROVENANCE = {"source": "set by the user", "evidence": "assumed"}


def parse_overrides(texts: Iterable[str], *, racks: int | None = None) -> dict[str, str]:
    """Read texts such as ``link.gpu-nvswitch.bandwidth=25 GB/s``; ``ConfigError`` for another form or a key twice.

    ``racks`` is a short way to set ``RACKS``.
    """
    overrides: dict[str, str] = {}
    for text in [*texts, *([] if racks is None else [f"{RACKS}={racks}"])]:
        key, sign, value = (part.strip() for part in text.partition("="))
        if not (key and sign and value):
            raise ConfigError(f"--set {text!r} is not KEY=VALUE; write one as in --set terminal.slots=4")
        if key in overrides:
            raise ConfigError(f"--set {key} is given twice, as {overrides[key]!r} and as {value!r}; give it once")
        overrides[key] = value
    return overrides


def put_in(tables: Mapping[str, Any], overrides: Mapping[str, str], counts: Iterable[str]) -> dict[str, Any]:
    """Copy the tables of a fabric with other values at the keys of *overrides*; *counts* are keys of bare numbers."""
    counts = set(counts)

    def copy(path: str, node: Any) -> Any:
        if path in overrides:
            return {**PROVENANCE, "value": _count(path, overrides[path]) if path in counts else overrides[path]}
        if isinstance(node, Mapping):
            return {key: copy(f"{path}.{key}" if path else key, child) for key, child in node.items()}
        return node

    copied: dict[str, Any] = copy("", tables)
    return copied


def refuse_unknown(fabric: str, key: str, known: Sequence[str]) -> None:
    """Refuse a key that is none of *known*; name those that hold its words in its order, else the nearest one."""
    if key in known:
        return
    within = re.compile(r".*\.".join(re.escape(word) for word in key.split(".")))
    candidates = [name for name in known if within.search(name)]
    hint = f" (did you mean {' or '.join(map(repr, candidates))}?)" if candidates else nearest(key, known)
    raise ConfigError(
        f"{fabric}: it has no quantity {key!r}{hint}; 'fabricsim fabrics {fabric}' lists all, and of several "
        "fabrics each must have the key"
    )


def _count(key: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ConfigError(f"{key}={text}: it counts things; set it to a whole number without a unit")
    return int(text)
