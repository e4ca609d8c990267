"""Faults of a trace, collected so that one look shows them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fabricsim.errors import TraceError

MAX_COMPLAINTS = 20


@dataclass
class Complaints:
    """Up to ``MAX_COMPLAINTS`` texts about the trace *where*, and the number of all.

    ``batch_rows`` holds the number of rows of each batch seen so far: a row of the trace is named by its
    number in the file and in its batch.
    """

    where: str
    batch_rows: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, text: str) -> None:
        """Complain about the trace as a whole; what the pieces of one batch say alike is one fault."""
        told = f"{self.where}: {text}"
        if told in self.texts:
            return
        self.count += 1
        if len(self.texts) < MAX_COMPLAINTS:
            self.texts.append(told)

    def add_row(self, row: int, column: str, text: str) -> None:
        """Complain about *column* in *row*, a row number of the trace."""
        self.add(f"{self.row_name(row)}, column {column}: {text}")

    def add_rows(self, rows: npt.NDArray[np.integer], column: str, text: Callable[[int], str]) -> None:
        """Complain about *column* in each of *rows* (numbers in the trace); ``text(i)`` speaks of ``rows[i]``."""
        shown = rows[: MAX_COMPLAINTS - len(self.texts)]
        for i, row in enumerate(shown):
            self.add_row(int(row), column, text(i))
        self.count += len(rows) - len(shown)

    def row_name(self, row: int) -> str:
        """``row 70000 (batch 1, row 4464 of it)``."""
        ends = np.cumsum(self.batch_rows)
        batch = int(np.searchsorted(ends, row, side="right"))
        return f"row {row} (batch {batch}, row {row - int(ends[batch]) + self.batch_rows[batch]} of it)"

    def raise_any(self) -> None:
        """Raise ``TraceError`` with all that was said, if anything was."""
        if self.count == 0:
            return
        if self.count == 1:
            raise TraceError(self.texts[0])
        more = [f"... and {self.count - len(self.texts)} more"] if self.count > len(self.texts) else []
        raise TraceError("\n  ".join([f"{self.where}: {self.count} faults", *self.texts, *more]))


def few(values: Sequence[Any]) -> str:
    """Write out the first eight of *values* and how many there are, where they are more."""
    shown = ", ".join(str(value) for value in values[:8])
    return shown + (f", ... ({len(values)} in all)" if len(values) > 8 else "")
