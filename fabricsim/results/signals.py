"""What Ctrl-C, SIGTERM and SIGUSR1 do to a command (docs/batch.md)."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from fabricsim.errors import CheckpointedError, InterruptedRunError

if TYPE_CHECKING:
    from fabricsim.results.checkpoint import Checkpoint
    from fabricsim.results.progress import Reporter

#: Launchers pass one signal on by two ways at times; what comes so soon after the first is the first.
ECHO_S = 0.5

_NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


def hold() -> None:
    """Let signals wait for ``Signals.admit``, so that none ends a process which has only begun; Windows cannot."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS)


class Signals:
    """Handles the signals while a command runs; a context manager.

    A signal that the process was started to ignore stays ignored, as Ctrl-C is in what a script puts into the
    background. *keeps* says that the command's runs will have checkpoints, *ends* that the process ends with it: what
    comes after the command is ignored then, so that its exit code is that of the process.
    """

    def __init__(self, *, keeps: bool, ends: bool = False) -> None:
        self._keeps = keeps
        self._ends = ends
        self._checkpoint: Checkpoint | None = None
        self._reporter: Reporter | None = None
        self._ending: BaseException | None = None
        self._stopped_s: float | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in _NUMBERS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self._ends else handler)

    def admit(self) -> None:
        """Take what ``hold`` let wait."""
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _NUMBERS)

    def watch(self, reporter: Reporter, checkpoint: Checkpoint | None = None) -> None:
        """From now on, ask *reporter* for a line of progress, or end the run that keeps *checkpoint*.

        Raises what a signal was to end the command by before; CheckpointedError if it was to end the run before, which
        was complete by then.
        """
        self._reporter, self._checkpoint = reporter, checkpoint
        if self._ending is not None:
            raise self._ending
        if checkpoint is not None and self._stopped_s is not None:
            raise CheckpointedError("interrupted between two runs; what is complete stays")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        checkpoint = self._checkpoint
        if checkpoint is None and self._keeps and self._stopped_s is None:
            self._stopped_s = time.monotonic()
            self._end(CheckpointedError("interrupted before the run began; nothing is lost"))
        if checkpoint is None and number == getattr(signal, "SIGUSR1", None):
            if self._reporter is not None:
                self._reporter.ask()
        elif checkpoint is not None and self._stopped_s is None:
            self._stopped_s = time.monotonic()
            checkpoint.stop()
            if not checkpoint.begun:
                kept = f"the checkpoint {checkpoint.path} stays" if checkpoint.exists else "nothing is lost"
                # Should this be lost, as said below, the run ends with a checkpoint.
                raise CheckpointedError(f"interrupted before the first packet; {kept}")
        elif self._stopped_s is not None and time.monotonic() - self._stopped_s < ECHO_S:
            pass
        elif number == signal.SIGINT:
            self._end(KeyboardInterrupt())
        else:
            self._end(InterruptedRunError("terminated; nothing was kept of the unfinished run"))

    def _end(self, error: BaseException) -> NoReturn:
        """Raise an error, again when the next run begins and in its next report.

        What a handler raises can be lost: C code clears errors at times, as the constant folding of ``compile()`` does,
        and the interpreter those of finalizers.
        """
        self._ending = error
        if self._reporter is not None:
            self._reporter.end(error)
        raise error
