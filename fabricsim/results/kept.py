"""What checkpoints keep of the results of a run that goes on: attributes, none of which can be forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np


class Kept:
    """Something of whose attributes a checkpoint keeps all but those in ``GIVEN``, with which it was made.

    An attribute may be a number, text, ``bytes``, an array, a list of arrays, a set of texts, a ``dict`` of numbers,
    texts or arrays by text, or something with ``dump`` and ``load`` of its own. ``dump`` raises TypeError for others:
    those need a form that can be kept.
    """

    GIVEN: ClassVar[frozenset[str]] = frozenset()

    def dump(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: arrays, and values that JSON knows."""
        return {name: _dumped(name, value) for name, value in self._kept()}

    def load(self, stored: Mapping[str, Any]) -> None:
        """Take over what ``dump`` gave; this one was made anew with the same arguments."""
        for name, value in self._kept():
            setattr(self, name, _loaded(value, stored[name]))

    def _kept(self) -> list[tuple[str, Any]]:
        return [(name, value) for name, value in vars(self).items() if name not in self.GIVEN]


def _dumped(name: str, value: Any) -> Any:
    if hasattr(value, "load"):  # arrays have a dump of their own
        return value.dump()
    if isinstance(value, bool | int | float | str | np.ndarray):
        return value
    if isinstance(value, bytes):
        return np.frombuffer(value, np.uint8)
    if isinstance(value, set) and all(isinstance(item, str) for item in value):
        return sorted(value)
    if isinstance(value, list) and all(isinstance(item, np.ndarray) for item in value):
        return {str(number): item for number, item in enumerate(value)}
    if isinstance(value, dict) and all(
        isinstance(key, str) and isinstance(item, int | float | str | np.ndarray) for key, item in value.items()
    ):
        return value
    raise TypeError(f"a checkpoint cannot keep {name}, a {type(value).__name__}: give it a form that it can")


def _loaded(now: Any, stored: Any) -> Any:
    """Return what was stored in the place of a value of the same type."""
    if hasattr(now, "load"):
        now.load(stored)
        return now
    if isinstance(now, bytes):
        return stored.tobytes()
    if isinstance(now, set):
        return set(stored)
    if isinstance(now, list):
        return [stored[str(number)] for number in range(len(stored))]
    if isinstance(now, dict):
        return dict(stored)
    return stored
