"""The runs of one command: where each is written, kept and resumed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fabricsim.errors import ConfigError
from fabricsim.results.output import CHECKPOINT, Folders, apart
from fabricsim.results.perfetto import PerfettoFiles
from fabricsim.units import parse_time_ps

if TYPE_CHECKING:
    from fabricsim.fabrics import FabricSpec
    from fabricsim.results.checkpoint import Checkpoint
    from fabricsim.results.log import Log
    from fabricsim.results.result import Result
    from fabricsim.results.run import Workload
    from fabricsim.results.snapshot import Snapshots

PS_PER_S = 10**12


class Batch:
    """The runs of one command, by number; *names* are those of their folders and traces where there are several.

    The other arguments are the options of the command. Raises ConfigError, before anything runs, for those that cannot
    be met or have no effect.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        output: str | None,
        format: str | None,
        messages: int | None,
        perfetto: str | None,
        checkpoint: str | None,
        every: str | None,
        resume: bool,
        command: str,
        log: Log,
    ) -> None:
        if checkpoint is not None and len(names) > 1:
            raise ConfigError(
                f"--checkpoint keeps one run, and these are {len(names)}; give -o DIR, where each has its own, or one "
                "size and fabric"
            )
        if checkpoint is not None and output is not None:
            file, folder = Path(checkpoint).resolve(), Path(output).resolve()
            if file.is_relative_to(folder) and file != folder / CHECKPOINT:
                raise ConfigError(
                    f"--checkpoint {checkpoint} is in the folder of -o, which is to hold nothing but the result; leave "
                    f"it out, as -o keeps {Path(output) / CHECKPOINT}, or give it a place outside of {output}"
                )
        if (every is not None or resume) and output is None and checkpoint is None:
            raise ConfigError("--checkpoint-every and --resume need a checkpoint: give -o DIR or --checkpoint FILE")
        self._names = apart(names)
        self._traces = PerfettoFiles(perfetto)
        self._folders = Folders(output, self._names, format=format, messages=messages, resume=resume)
        self._path = None if checkpoint is None else Path(checkpoint)
        self._every_s = None if every is None else parse_time_ps(every) / PS_PER_S
        self._resume = resume
        self._command = command
        self._log = log
        self._checkpoints: dict[int, Checkpoint] = {}

    def checkpoint(self, number: int) -> Checkpoint | None:
        """Return the checkpoint of a run, ``None`` where none was asked for; it says where the run begins."""
        path = self._folders.checkpoint(number) if self._path is None else self._path
        if path is None:
            return None
        from fabricsim.results.checkpoint import Checkpoint

        checkpoint = Checkpoint(path, every_s=self._every_s, resume=self._resume)
        self._checkpoints[number] = checkpoint
        checkpoint.on_resume = lambda: self._log.say("resume", f"resuming from the checkpoint {path}")
        if self._resume and not checkpoint.exists:
            self._log.say("resume", f"no checkpoint {path}: starting from the beginning")
        return checkpoint

    def snapshots(self, number: int) -> Snapshots | None:
        """Return where the tables of a run are written while it goes on, ``None`` where no folder was asked for."""
        snapshots = self._folders.snapshots(number)
        if snapshots is not None:
            snapshots.on_failure = lambda words: self._log.say("warning", words)
        return snapshots

    def complete(
        self, number: int, fabric: FabricSpec, workload: Workload, options: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """Return the summary of a run that an earlier command has completed, and say so; ``None`` if none has."""

        def sha256() -> str:
            from fabricsim.results.run import run_sha256

            return run_sha256(fabric, workload, **options)

        summary = self._folders.complete(number, sha256)
        if summary is not None:
            from fabricsim.results.checkpoint import is_checkpoint

            if self._path is None:
                (self._folders.folder(number) / CHECKPOINT).unlink(missing_ok=True)
            elif is_checkpoint(self._path):  # it may be any other file
                self._path.unlink()
            self._log.say("complete", f"{self._folders.folder(number)} holds the whole result already")
        return summary

    def write(self, number: int, result: Result) -> None:
        """Write a result where that was asked for, and remove its checkpoint."""
        # The folder is last: where it holds a result, all else is there too.
        for left_out in (
            self._traces.write(result, self._names[number]),
            self._folders.write(number, result, command=self._command),
        ):
            if left_out:
                self._log.say("left_out", left_out)
        if number in self._checkpoints:
            self._checkpoints[number].remove()
