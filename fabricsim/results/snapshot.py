"""Snapshots: the tables of a run so far, in the folder of its result, to be read while it goes on."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fabricsim.engine.driver import Simulation
from fabricsim.engine.folding import Folding
from fabricsim.errors import ConfigError
from fabricsim.fabrics.network import Network
from fabricsim.results.collected import Collected
from fabricsim.results.output import CHECKPOINT, FORMATS, MAX_MESSAGES, check_wishes, clear, open_folder, write_tables
from fabricsim.results.result import Tables

if TYPE_CHECKING:
    from fabricsim.results.checkpoint import Checkpoint

#: The least time from one snapshot to the next [s].
EVERY_S = 10.0

#: From one to the next at least so many times what it took to write it: snapshots take 1 % of a run.
TIMES_WRITTEN = 100


class Snapshots:
    """Where ``simulate`` and ``replay`` write their tables while they go on (docs/results.md).

    The first after 10 s, then every 10 s, but never more often than what takes 1 % of the run. ``Result.write`` puts
    the tables of the whole run in their place; until it has written ``summary.json``, no figure there is final.

    Parameters
    ----------
    folder
        Made if need be; it may hold nothing but what a run that was broken off has left there, which is removed when
        the run begins, and a checkpoint.
    format, messages
        As for ``Result.write``.

    Raises
    ------
    ConfigError
        From here: an unknown format; ``messages`` below 1. From the run, before its first packet: the folder holds
        something else, or cannot be written. What cannot be written later is no error, and ``on_failure`` is called.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, format: str = FORMATS[0], messages: int = MAX_MESSAGES
    ) -> None:
        check_wishes(format, messages)
        self.folder = Path(folder)
        self.format = format
        self.messages = messages
        self.on_failure: Callable[[str], None] = warnings.warn  #: called with a sentence, once in a run


class SnapshotKeeper:
    """Writes the tables of one run between slices; given up amid one if *checkpoint* is to be written."""

    def __init__(
        self,
        snapshots: Snapshots,
        network: Network,
        folding: Folding,
        collected: Collected,
        checkpoint: Checkpoint | None,
    ) -> None:
        self._snapshots = snapshots
        self._network = network
        self._folding = folding
        self._collected = collected
        self._checkpoint = checkpoint
        self._has_failed = False
        self._due_s = 0.0

    def begin(self, run: Simulation) -> None:
        """Make the folder empty: what stands there is of another run, or may be of a later moment of this one."""
        folder = self._snapshots.folder
        open_folder(folder, [folder / CHECKPOINT])
        clear(folder)
        self._due_s = time.perf_counter() + EVERY_S

    def between(self, run: Simulation) -> None:
        """Write the tables if that is due; a run of hours does not end because they cannot be written."""
        begin_s = time.perf_counter()
        if begin_s < self._due_s:
            return
        snapshots = self._snapshots
        try:
            write_tables(
                self._tables(run),
                snapshots.folder,
                format=snapshots.format,
                messages=snapshots.messages,
                watch=self._give_way,
            )
        except _GivenUpError:
            pass
        except ConfigError as error:
            if not self._has_failed:
                snapshots.on_failure(f"no tables while the run goes on: {error}; the run goes on without them")
            self._has_failed = True
        end_s = time.perf_counter()
        self._due_s = end_s + max(EVERY_S, TIMES_WRITTEN * (end_s - begin_s))

    def _tables(self, run: Simulation) -> Tables:
        """Return the tables of the whole fabric so far."""
        folding, network = self._folding, self._network
        plane_time_ps = np.broadcast_to(run.reached_ps(), folding.network.num_planes)[folding.plane_stand_in]
        figures = folding.unfold(run.figures())
        return Tables(network, figures, self._collected.so_far(), plane_time_ps[network.channels.plane])

    def _give_way(self) -> None:
        """Give up where a signal asks for a checkpoint: there may be only seconds left for that."""
        if self._checkpoint is not None and self._checkpoint.stopping:
            raise _GivenUpError


class _GivenUpError(Exception):
    """A snapshot is not to be completed."""
