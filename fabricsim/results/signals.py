"""What Ctrl-C, SIGTERM and SIGUSR1 do to a command (docs/batch.md)."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from fabricsim.errors import CheckpointedError, InterruptedRunError

if TYPE_CHECKING:
    from fabricsim.results.checkpoint import Checkpoint

#: Launchers pass one signal on by two ways at times; what comes so soon after the first is the first.
ECHO_S = 0.5


class Signals:
    """Handles the signals while a command runs; a context manager.

    A signal that the process was started to ignore stays ignored, as Ctrl-C is in what a script puts into the
    background. *keeps* says that the command's runs will have checkpoints.
    """

    def __init__(self, *, keeps: bool) -> None:
        self._keeps = keeps
        self._checkpoint: Checkpoint | None = None
        self._ask: Callable[[], None] | None = None
        self._stopped_s: float | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
            number = getattr(signal, name, None)  # Windows has two of them
            if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def watch(self, ask: Callable[[], None] | None, checkpoint: Checkpoint | None = None) -> None:
        """From now on, *ask* for a line of progress, or end the run that keeps *checkpoint*.

        Raises CheckpointedError if a signal has come that was to end the run before, which was complete by then.
        """
        self._ask, self._checkpoint = ask, checkpoint
        if checkpoint is not None and self._stopped_s is not None:
            raise CheckpointedError("interrupted between two runs; what is complete stays")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        checkpoint = self._checkpoint
        if checkpoint is None and self._keeps and self._stopped_s is None:
            self._stopped_s = time.monotonic()
            raise CheckpointedError("interrupted before the run began; nothing is lost")
        if checkpoint is None and number == getattr(signal, "SIGUSR1", None):
            if self._ask is not None:
                self._ask()
        elif checkpoint is not None and self._stopped_s is None:
            self._stopped_s = time.monotonic()
            if not checkpoint.begun:
                kept = f"the checkpoint {checkpoint.path} stays" if checkpoint.exists else "nothing is lost"
                raise CheckpointedError(f"interrupted before the first packet; {kept}")
            checkpoint.stop()
        elif self._stopped_s is not None and time.monotonic() - self._stopped_s < ECHO_S:
            pass
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise InterruptedRunError("terminated; nothing was kept of the unfinished run")
