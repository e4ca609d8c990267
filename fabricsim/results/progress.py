"""How far a run is: a live bar on a terminal, a plain line every 30 seconds elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from fabricsim.engine.driver import Progress
from fabricsim.units import format_time

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

LINE_EVERY_S = 30.0


class ProgressReporter:
    """Shows the progress of one run; a context manager to be passed as ``progress``.

    Parameters
    ----------
    label
        What runs, for instance ``nvl72 (1/2)``.
    quiet
        Show nothing.
    stream
        Where to write; standard error if left out.
    """

    def __init__(self, label: str, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._label = label
        self._quiet = quiet
        self._stream = sys.stderr if stream is None else stream
        self._last_line_s = 0.0
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._stream.isatty() and not self._quiet:
            from rich.console import Console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TaskProgressColumn(),
                TextColumn("{task.fields[state]}"),
                TimeRemainingColumn(compact=True),
                console=Console(file=self._stream),
                transient=True,
            )
            self._task = self._bar.add_task(self._label, total=1.0, state="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Take one report from the engine."""
        if progress.compiling:
            self._say(progress.compiling)
            return
        done = fraction_done(progress)
        rate = progress.packet_hops / progress.elapsed_s if progress.elapsed_s else 0.0
        simulated = f"simulated {format_time(progress.simulated_ps)}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, state=f"{simulated}, {rate / 1e6:.1f} M hops/s")
        elif progress.elapsed_s - self._last_line_s >= LINE_EVERY_S:
            self._last_line_s = progress.elapsed_s
            left = f", about {progress.elapsed_s * (1 - done) / done:.0f} s left" if done else ""
            self._say(
                f"{done:.1%} delivered, {simulated}, {progress.packet_hops:,} packet-hops "
                f"({rate / 1e6:.1f} M/s) in {progress.elapsed_s:.0f} s{left}"
            )

    def _say(self, words: str) -> None:
        """Write a line, or beside the bar."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, state=words)
        elif not self._quiet:
            print(f"{self._label}: {words}", file=self._stream, flush=True)


class CountReporter:
    """Shows how many of several runs are done: over and over in one line of a terminal, every 30 seconds elsewhere.

    Parameters
    ----------
    label
        What runs.
    quiet
        Show nothing.
    stream
        Where to write; standard error if left out.
    """

    def __init__(self, label: str, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._label = label
        self._quiet = quiet
        self._stream = sys.stderr if stream is None else stream
        self._last_line_s = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Take one report."""
        if self._quiet:
            return
        line = f"{self._label}: {done:,} of {total:,}"
        if self._stream.isatty():
            print(f"\r{line}", end="\n" if done == total else "", file=self._stream, flush=True)
        elif time.monotonic() - self._last_line_s >= LINE_EVERY_S:
            self._last_line_s = time.monotonic()
            print(line, file=self._stream, flush=True)


def fraction_done(progress: Progress) -> float:
    """Delivered over all packets; ended over all tasks where nothing is to be moved."""
    if progress.total_packets:
        return progress.delivered_packets / progress.total_packets
    return progress.tasks_ended / progress.num_tasks if progress.num_tasks else 1.0
