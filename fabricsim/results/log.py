"""What a command says on standard error: lines for people, or one JSON object per line (``--log-format json``)."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

FORMATS = ("text", "json")


class Log:
    """Writes lines.

    Parameters
    ----------
    format
        ``"text"`` or ``"json"``.
    stream
        Where to write; standard error if left out.
    """

    def __init__(self, format: str = "text", *, stream: TextIO | None = None) -> None:
        self._format = format
        self.stream = sys.stderr if stream is None else stream

    @property
    def is_live(self) -> bool:
        """Whether people watch it on a terminal, where a line can be drawn over and over."""
        return self._format == "text" and self.stream.isatty()

    def say(self, event: str, message: str, *, of: str = "fabricsim", **figures: Any) -> None:
        """Write a line on an *event*: the message behind what it is *of*, or an object with the *figures* besides."""
        if self._format == "text":
            print(f"{of}: {message}", file=self.stream, flush=True)
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": now, "event": event, "of": of, "message": message, **figures}
        print(json.dumps(line), file=self.stream, flush=True)
