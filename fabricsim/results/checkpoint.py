"""Checkpoints: one file that holds how far a run is, from which the same run goes on to the same bit.

The file is a line with the SHA-256 of all that follows, and a NumPy archive (``.npz``, nothing pickled): the tables of
the engine, those of the results so far, and in ``values`` the rest as JSON, with what identifies the run. The blocks of
the workload are not in it; they are made again from the workload.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from fabricsim.engine.checkpoint import layout_sha256
from fabricsim.engine.driver import Simulation
from fabricsim.errors import CheckpointedError, ConfigError, TraceError
from fabricsim.files import whole_file
from fabricsim.results.collected import Collected
from fabricsim.results.versions import package_version

if TYPE_CHECKING:
    from fabricsim.results.run import Run, Workload

VERSION = 2

_MAGIC = b"fabricsim checkpoint "
_HEADER_BYTES = len(_MAGIC) + 2 * hashlib.sha256().digest_size + 1
_VALUES = "values"

#: How messages name what identifies a run; one with a figure that people read shows both.
_NAMES = {
    "version": "fabricsim",
    "tables": "the engine's tables",
    "fabric": "fabric",
    "fabric_sha256": "the fabric's numbers",
    "overrides": "--set",
    "packet": "packet",
    "routing": "routing",
    "endpoint": "endpoint",
    "faults": "faults",
    "placement_sha256": "the placement",
    "seed": "seed",
    "workload_sha256": "the workload",
    "fold": "folding",
}


class Checkpoint:
    """Where ``simulate`` and ``replay`` keep how far they are, and when.

    ``stop()``, from a signal handler or another thread, lets the run write a checkpoint within a fraction of a second
    and end with ``CheckpointedError``. The file stays when the run is complete: ``remove()`` it once the result is
    safe. A run may be resumed with another kernel and other threads.

    Parameters
    ----------
    path
        The file, which appears whole or not at all.
    every_s
        Besides write one each time that so many seconds have passed.
    resume
        Go on from the file, if it is there; without, one that is there is refused.

    Raises
    ------
    ConfigError
        From here: a time that is not above 0, a file that is in the way or cannot be written. From the run: a
        checkpoint of another run or another version of fabricsim.
    TraceError
        From the run: a damaged file.
    """

    def __init__(self, path: str | os.PathLike[str], *, every_s: float | None = None, resume: bool = False) -> None:
        self.path = Path(path)
        self.every_s = every_s
        self.resume = resume
        self.begun = False  #: whether the run is past what ``stop`` cannot end, from its first slice on
        self.stopping = False
        self.on_resume: Callable[[], None] = lambda: None  #: called when a run goes on from the file, which fits it
        if every_s is not None and not every_s > 0:
            raise ConfigError(f"checkpoints every {every_s} s: give a time above 0")
        if self.exists and not resume:
            raise ConfigError(
                f"{path} is there already; add --resume (resume=True) to go on from it if it is a checkpoint, or name "
                "another file"
            )
        folder = self.path.parent
        if self.path.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(f"checkpoint {path} cannot be written; name a file in a folder that can be written")

    @property
    def exists(self) -> bool:
        """Whether there is such a file."""
        return self.path.is_file()

    def stop(self) -> None:
        """Let the run end with a checkpoint when its slice has ended."""
        self.stopping = True

    def remove(self) -> None:
        """Remove the file, if there is one."""
        self.path.unlink(missing_ok=True)


class CheckpointKeeper:
    """Resumes one run from its checkpoint, and writes it between slices."""

    def __init__(
        self, checkpoint: Checkpoint, identity: Mapping[str, Any], collected: Collected, started_s: float
    ) -> None:
        checkpoint.begun = False  # it may have kept another run before
        self._checkpoint = checkpoint
        self._identity = dict(identity)
        self._collected = collected
        self._started_s = self._written_s = started_s
        self.earlier_s = 0.0  #: wall time of the run before it was resumed

    def begin(self, run: Simulation) -> None:
        """Go on from the checkpoint, if that is wished and there is one."""
        checkpoint = self._checkpoint
        if checkpoint.resume and checkpoint.exists:
            with read_checkpoint(checkpoint.path) as stored:
                refuse_foreign(checkpoint.path, stored, self._identity)
                checkpoint.on_resume()
                self._collected.load(stored["collected"])
                run.load(stored["engine"])
                self.earlier_s = stored["wall_s"]
        self._written_s = time.perf_counter()
        checkpoint.begun = True

    def between(self, run: Simulation) -> None:
        """Write a checkpoint if one is due, and end the run if that is wished."""
        checkpoint = self._checkpoint
        if checkpoint.stopping:
            self._write(run)
            raise CheckpointedError(f"interrupted; checkpoint written to {checkpoint.path}")
        if checkpoint.every_s is not None and time.perf_counter() - self._written_s >= checkpoint.every_s:
            self._write(run)
            self._written_s = time.perf_counter()

    def _write(self, run: Simulation) -> None:
        write_checkpoint(
            self._checkpoint.path,
            {
                "format": VERSION,
                "run": self._identity,
                "wall_s": self.earlier_s + time.perf_counter() - self._started_s,
                "engine": run.dump(),
                "collected": self._collected.dump(),
            },
        )


# --- which run -----------------------------------------------------------------------------------------------------


def identity_of(run: Run, *, fold: bool) -> dict[str, Any]:
    """Return what decides each bit of a run, as JSON: two with the same may take over from one another."""
    network = run.whole
    return {
        "version": package_version(),
        "tables": layout_sha256(),
        "fabric": run.spec.name,
        "fabric_sha256": run.spec.spec_sha256,
        "overrides": dict(run.spec.overrides),
        "packet": network.packet.name,
        "routing": network.routing,
        "endpoint": run.endpoint,
        "faults": [fault.text for fault in run.faults],
        "placement_sha256": hashlib.sha256(np.ascontiguousarray(run.terminals, "<i4").tobytes()).hexdigest(),
        "seed": run.seed,
        "workload_sha256": workload_sha256(run.workload),
        "fold": fold,
    }


def identity_sha256(identity: Mapping[str, Any]) -> str:
    """Return a name for a run."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def workload_sha256(workload: Workload) -> str:
    """Return a hash of what a workload is made from, else of all its blocks."""
    if workload.source_sha256 is not None:
        return workload.source_sha256()
    digest = hashlib.sha256()
    for block in workload.blocks:
        _hash(digest, block)
    return digest.hexdigest()


def _hash(digest: Any, value: Any) -> None:
    """Add a value, and all that it holds."""
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype.str}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value))
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            _hash(digest, getattr(value, field.name))
    elif isinstance(value, tuple):
        digest.update(f"{len(value)}".encode())
        for item in value:
            _hash(digest, item)
    else:
        digest.update(f"{value!r};".encode())


def refuse_foreign(path: Path, stored: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raise ConfigError for a checkpoint of another format or another run than the one of *identity*."""
    remedy = "resume with the command that wrote it, or remove it to start anew"
    if stored["format"] != VERSION:
        raise ConfigError(f"{path}: a checkpoint of format {stored['format']}, not {VERSION}; {remedy}")
    theirs = stored["run"]
    found = [
        _NAMES[key]
        if "sha256" in key or key == "tables"
        else f"{_NAMES[key]} ({_shown(theirs[key])}, not {_shown(ours)})"
        for key, ours in identity.items()
        if _plain(theirs[key]) != ours
    ]
    if found:
        raise ConfigError(f"{path}: the checkpoint is of another run, which differs in {', '.join(found)}; {remedy}")


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        value = [f"{key}={number}" for key, number in value.items()]
    return " ".join(value) or "none" if isinstance(value, list) else str(value)


# --- the file ------------------------------------------------------------------------------------------------------


def write_checkpoint(path: Path, tree: Mapping[str, Any]) -> None:
    """Write values and arrays, in mappings by texts; raises ConfigError where the file cannot be written."""
    arrays: dict[str, np.ndarray] = {}
    values = json.dumps(_without_arrays(tree, "", arrays), allow_nan=False).encode()
    with whole_file(path) as sink:
        sink.write(b" " * _HEADER_BYTES)
        hashed = _Hashed(sink)
        with zipfile.ZipFile(cast(Any, hashed), "w") as archive:
            for name, array in {_VALUES: np.frombuffer(values, np.uint8), **arrays}.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        sink.seek(0)
        sink.write(_header(hashed.digest))


def _without_arrays(tree: Mapping[str, Any], prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Put the arrays of a tree into *arrays*, by their paths, and return the rest with ``None`` in their place."""
    rest: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, np.ndarray):
            arrays[f"{prefix}{key}"] = value
            rest[key] = None
        else:
            rest[key] = _without_arrays(value, f"{prefix}{key}/", arrays) if isinstance(value, Mapping) else value
    return rest


def is_checkpoint(path: Path) -> bool:
    """Tell whether a file is there that begins like a checkpoint."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


@contextmanager
def read_checkpoint(path: Path) -> Iterator[Mapping[str, Any]]:
    """Give what ``write_checkpoint`` wrote, its arrays read one by one when they are asked for.

    Raises TraceError for a file that is damaged or no checkpoint, ConfigError for one that cannot be read.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a checkpoint that can be read") from None
    with file:
        header = file.read(_HEADER_BYTES)
        if header != _header(hashlib.file_digest(file, "sha256")):
            raise TraceError(
                f"{path}: the checkpoint is damaged, or it is none; remove it to start anew, or put back a copy"
            )
        file.seek(_HEADER_BYTES)
        with np.load(file, allow_pickle=False) as arrays:
            yield _Stored(json.loads(arrays[_VALUES].tobytes()), arrays, "")


def _header(digest: Any) -> bytes:
    return _MAGIC + bytes(digest.hexdigest(), "ascii") + b"\n"


class _Hashed:
    """Writes on, and hashes what it writes; it cannot seek, so that nothing is written twice."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write bytes."""
        self.digest.update(data)
        return self._sink.write(data)

    def flush(self) -> None:
        """Leave that to the file."""


class _Stored(Mapping[str, Any]):
    """Values and arrays of an archive as a mapping of mappings."""

    def __init__(self, values: dict[str, Any], arrays: Any, prefix: str) -> None:
        self._values = values
        self._arrays = arrays
        self._prefix = prefix

    def __getitem__(self, key: str) -> Any:
        value, name = self._values[key], f"{self._prefix}{key}"
        if isinstance(value, dict):
            return _Stored(value, self._arrays, f"{name}/")
        return self._arrays[name] if value is None and name in self._arrays else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
