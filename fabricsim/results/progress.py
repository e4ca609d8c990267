"""How far a run is: a live bar on a terminal, a line every 30 seconds elsewhere; always on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fabricsim.engine.driver import Progress
from fabricsim.results.log import Log
from fabricsim.units import format_time

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

LINE_EVERY_S = 30.0


class Reporter:
    """Says something every ``LINE_EVERY_S``, if it is not to be *quiet*, and whenever it is asked."""

    def __init__(self, label: str, *, quiet: bool = False, log: Log | None = None) -> None:
        self._label = label
        self._quiet = quiet
        self._log = Log() if log is None else log
        self._last_line_s = 0.0
        self._asked = False
        self._ending: BaseException | None = None

    def ask(self) -> None:
        """Let the next report be written, whenever that is; a signal may come while another line is."""
        self._asked = True

    def end(self, error: BaseException) -> None:
        """Raise an error from the next report."""
        self._ending = error

    def _end_if_wished(self) -> None:
        if self._ending is not None:
            raise self._ending

    def _is_due(self, elapsed_s: float) -> bool:
        """Tell whether a report after so many seconds is to be written."""
        due = not self._quiet and not self._log.is_live and elapsed_s - self._last_line_s >= LINE_EVERY_S
        if due or self._asked:
            self._last_line_s = elapsed_s
            self._asked = False
            return True
        return False

    def _say(self, event: str, message: str, **figures: Any) -> None:
        self._log.say(event, message, of=self._label, **figures)


class ProgressReporter(Reporter):
    """Shows the progress of one run; a context manager to be passed as ``progress``.

    Parameters
    ----------
    label
        What runs, for instance ``nvl72 (1/2)``.
    quiet
        Show nothing but what is asked for.
    log
        Where to write.
    """

    def __init__(self, label: str, *, quiet: bool = False, log: Log | None = None) -> None:
        super().__init__(label, quiet=quiet, log=log)
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._log.is_live and not self._quiet:
            from rich.console import Console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TaskProgressColumn(),
                TextColumn("{task.fields[state]}"),
                TimeRemainingColumn(compact=True),
                console=Console(file=self._log.stream),
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
        self._end_if_wished()
        if progress.compiling:
            self._note(progress.compiling)
            return
        done = fraction_done(progress)
        rate = progress.packet_hops / progress.elapsed_s if progress.elapsed_s else 0.0
        simulated = f"simulated {format_time(progress.simulated_ps)}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, state=f"{simulated}, {rate / 1e6:.1f} M hops/s")
        if self._is_due(progress.elapsed_s):
            left_s = progress.elapsed_s * (1 - done) / done if done else None
            memory_bytes = peak_memory_bytes()
            left = "" if left_s is None else f", about {left_s:.0f} s left"
            memory = "" if memory_bytes is None else f", {memory_bytes / 2**20:,.0f} MiB"
            self._say(
                "progress",
                f"{done:.1%} delivered, {simulated}, {progress.packet_hops:,} packet-hops "
                f"({rate / 1e6:.1f} M/s) in {progress.elapsed_s:.0f} s{left}{memory}",
                done=done,
                simulated_ps=progress.simulated_ps,
                packet_hops=progress.packet_hops,
                packet_hops_per_s=rate,
                elapsed_s=progress.elapsed_s,
                left_s=left_s,
                memory_bytes=memory_bytes,
            )

    def _note(self, words: str) -> None:
        """Write a line, or beside the bar."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, state=words)
        elif not self._quiet:
            self._say("compiling", words)


class CountReporter(Reporter):
    """Shows how many of several runs are done: over and over in one line of a terminal, every 30 seconds elsewhere.

    Parameters
    ----------
    label
        What runs.
    quiet
        Show nothing but what is asked for.
    log
        Where to write.
    """

    def __init__(self, label: str, *, quiet: bool = False, log: Log | None = None) -> None:
        super().__init__(label, quiet=quiet, log=log)
        self._begin_s = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Take one report."""
        self._end_if_wished()
        words = f"{done:,} of {total:,}"
        if self._log.is_live and not self._quiet:
            print(f"\r{self._label}: {words}", end="\n" if done == total else "", file=self._log.stream, flush=True)
        elapsed_s = time.monotonic() - self._begin_s
        if self._is_due(elapsed_s):
            self._say("progress", words, done=done, total=total, elapsed_s=elapsed_s, memory_bytes=peak_memory_bytes())


def fraction_done(progress: Progress) -> float:
    """Delivered over all packets; ended over all tasks where nothing is to be moved."""
    if progress.total_packets:
        return progress.delivered_packets / progress.total_packets
    return progress.tasks_ended / progress.num_tasks if progress.num_tasks else 1.0


def peak_memory_bytes() -> int | None:
    """Return the most memory that this process has held so far; ``None`` where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
