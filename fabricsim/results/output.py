"""The folder that ``-o`` asks for: the summary of a result, and its tables for other programs (docs/results.md)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fabricsim.errors import ConfigError, TraceError, unknown
from fabricsim.files import STDOUT, whole_file
from fabricsim.results import metrics
from fabricsim.results.documents import fabric_document, json_bytes
from fabricsim.units import format_bytes, whole_number

if TYPE_CHECKING:
    import pyarrow as pa

    from fabricsim.fabrics import FabricSpec
    from fabricsim.results.result import Result, Tables
    from fabricsim.results.run import Workload
    from fabricsim.results.snapshot import Snapshots
    from fabricsim.results.spool import Spool
    from fabricsim.results.traffic import Int64

SUMMARY = "summary.json"
CHECKPOINT = "checkpoint"
FORMATS = ("arrow", "parquet")
FABRIC = "fabric.json"
TABLES = ("ops", "tasks", "messages", "channels", "timeline")

#: What a run that goes on, or was broken off, may leave: tables without a summary beside them, and parts of files.
LEFTOVERS = (
    FABRIC,
    f"{FABRIC}.part",
    f"{SUMMARY}.part",
    f"{CHECKPOINT}.part",
    *(f"{name}.{end}{part}" for name in TABLES for end in FORMATS for part in ("", ".part")),
)

#: Of more messages the slowest are kept, unless the user says otherwise: 48 MB in the format arrow.
MAX_MESSAGES = 1_000_000

#: Rows of a batch in a file, or of a row group: enough to be read fast, few enough to be in memory at a time.
BATCH_ROWS = 1 << 17


def write_result(
    result: Result, folder: str | os.PathLike[str], *, format: str, messages: int, command: str | None
) -> dict[str, Any]:
    """Write the files of one result, the summary last; ``Result.write`` says what is what."""
    check_wishes(format, messages)
    folder = open_folder(folder, [Path(folder, CHECKPOINT)])
    clear(folder, {FABRIC, *(f"{name}.{format}" for name in TABLES)})  # which are written over
    kept = write_tables(result, folder, format=format, messages=messages)
    _write_json(folder / FABRIC, fabric_document(result.info.spec))
    document = result.summary(command=command)
    document["files"] = {
        "format": format,
        "messages": kept,
        "messages_left_out": result.collected.messages.num_rows - kept,
    }
    if result.info.run_sha256 is not None:
        document["files"]["run_sha256"] = result.info.run_sha256
    _write_json(folder / SUMMARY, document)
    return document


def clear(folder: Path, stays: Collection[str] = ()) -> None:
    """Remove what runs that were broken off have left in a folder."""
    for name in LEFTOVERS:
        if name not in stays:
            (folder / name).unlink(missing_ok=True)


def write_tables(
    tables: Tables, folder: Path, *, format: str, messages: int, watch: Callable[[], None] = lambda: None
) -> int:
    """Write the tables of a run, or of one that goes on, each whole, and return how many messages are in them.

    *watch* is called many times meanwhile; what it raises leaves the tables that are not yet written as they were.
    """
    stored = tables.collected.messages
    kept = min(stored.num_rows, messages)
    contents = (
        tables.op_batches(),
        tables.collected.tasks.batches(),
        longest(stored, kept, "ready_ps", "complete_ps"),
        tables.channels.to_batches(),
        tables.timeline.to_batches(),
    )
    for name, batches in zip(TABLES, contents, strict=True):
        _write_table(folder / f"{name}.{format}", _watched(batches, watch))
    return kept


def _watched(batches: Iterable[pa.RecordBatch], watch: Callable[[], None]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        watch()
        yield batch


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    with whole_file(path) as sink:
        sink.write(json_bytes(document))


def check_wishes(format: str, messages: int) -> None:
    """Refuse a format that is none, and to keep no message."""
    if format not in FORMATS:
        raise ConfigError(unknown("format", format, FORMATS))
    if whole_number("messages", messages) < 1:
        raise ConfigError(f"messages is {messages}; give how many of the slowest to keep, 1 or more")


def open_folder(folder: str | os.PathLike[str], expected: Collection[Path] = ()) -> Path:
    """Make the folder, or take one with nothing but leftovers and *expected* files; ConfigError for any other."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"folder {folder} cannot be made ({error.strerror}); choose another place") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"folder {folder} cannot be written; choose another place")
    files = (path for path in folder.rglob("*") if not path.is_dir())
    found = next((path for path in files if path.name not in LEFTOVERS and path not in expected), None)
    if found is not None and found.name == CHECKPOINT:
        raise ConfigError(
            f"folder {folder} holds {found.relative_to(folder)}, of a run that is not complete; add --resume to go on "
            "from there, or remove the folder"
        )
    if found is not None:
        raise ConfigError(
            f"folder {folder} already holds {found.relative_to(folder)}, and nothing is written over it; "
            "choose a new folder, or remove this one"
        )
    return folder


def apart(names: Sequence[str]) -> list[str]:
    """Give names that come again a number: ``nvl72``, ``nvl72-2``. A single one is not needed: an empty text."""
    if len(names) == 1:
        return [""]
    used: list[str] = []
    for name in names:
        number, found = 1, name
        while found in used:
            number += 1
            found = f"{name}-{number}"
        used.append(found)
    return used


class Folders:
    """Where the results of one command go: into subfolders by their *names*, one without a name into *folder* itself.

    ``None`` for the folder writes nothing, for other arguments it is the default. With *resume* there may be results
    that are complete, and checkpoints. Raises ConfigError, before anything runs, for what ``Result.write`` would
    refuse, and for options that are idle without a folder.
    """

    def __init__(
        self, folder: str | None, names: Sequence[str], *, format: str | None, messages: int | None, resume: bool
    ) -> None:
        if folder is None and (format, messages) != (None, None):
            raise ConfigError("--format and --messages are for the tables that -o DIR writes; give -o, or leave them")
        self._format = FORMATS[0] if format is None else format
        self._messages = MAX_MESSAGES if messages is None else messages
        check_wishes(self._format, self._messages)
        self._folders: list[Path] = []
        if folder is None:
            return
        if folder == STDOUT:
            raise ConfigError(
                "-o - names no folder: tables do not go to standard output; give a folder, or --json - for the summary"
            )
        root = Path(folder)
        self._folders = [root / name for name in names]
        open_folder(root, {one / name for one in self._folders for name in (SUMMARY, CHECKPOINT)} if resume else ())

    def folder(self, number: int) -> Path:
        """Return where a result is written."""
        return self._folders[number]

    def checkpoint(self, number: int) -> Path | None:
        """Return where the checkpoint of a run goes, and make its folder; ``None`` where nothing is written."""
        if not self._folders:
            return None
        self._folders[number].mkdir(exist_ok=True)
        return self._folders[number] / CHECKPOINT

    def snapshots(self, number: int) -> Snapshots | None:
        """Return where the tables of a run are written while it goes on; ``None`` where nothing is written."""
        if not self._folders:
            return None
        from fabricsim.results.snapshot import Snapshots

        return Snapshots(self._folders[number], format=self._format, messages=self._messages)

    def complete(self, number: int, run_sha256: Callable[[], str]) -> dict[str, Any] | None:
        """Return the summary that an earlier command wrote of a run; ConfigError if it is that of another run."""
        if not self._folders or not (path := self._folders[number] / SUMMARY).exists():
            return None
        try:
            summary: dict[str, Any] = json.loads(path.read_bytes())
            theirs = summary.pop("files")["run_sha256"]
        except (ValueError, KeyError):
            raise TraceError(f"{path}: damaged, or no result of a run with -o; remove it to run again") from None
        if theirs != run_sha256():
            raise ConfigError(
                f"{path} is the result of another run: resume with the command that wrote it, or choose a new folder"
            )
        return summary

    def write(self, number: int, result: Result, *, command: str) -> str | None:
        """Write a result to its folder, and return a sentence on what was left out, if anything was."""
        if not self._folders:
            return None
        folder = self._folders[number]
        files = result.write(folder, format=self._format, messages=self._messages, command=command)["files"]
        if not files["messages_left_out"]:
            return None
        return (
            f"{folder}: the {files['messages']:,} slowest messages are written, {files['messages_left_out']:,} others "
            "are left out; --messages N keeps N"
        )


def by_fabric(fabric: FabricSpec, workload: Workload) -> str:
    """Name a result by its fabric."""
    return fabric.name


def by_size(fabric: FabricSpec, workload: Workload) -> str:
    """Name a result by the size that was asked for, ``64MiB``; where none was, by that of its first operation."""
    asked_bytes = workload.asked_bytes
    if asked_bytes is None:
        asked_bytes = next(iter(workload.blocks)).schedule.operations[0].size_bytes
    return format_bytes(asked_bytes)


def longest(rows: Spool, count: int, begin: str, end: str) -> Iterator[pa.RecordBatch]:
    """Give *count* of the rows, those with most time from *begin* to *end*, in their order; at least one batch."""
    import pyarrow as pa

    if count == rows.num_rows:
        yield from rows.batches()
        return

    def times_ps() -> Iterator[Int64]:
        for begin_ps, end_ps in rows.blocks(begin, end):
            yield end_ps - begin_ps

    max_ps = max(int(part.max()) for part in times_ps())
    rank = rows.num_rows - count + 1
    least_ps = metrics.smallest(times_ps, [rank], max_ps)[rank]
    # Of those that took exactly as long as the quickest that is kept, the first.
    equal = count - sum(int((part > least_ps).sum()) for part in times_ps())
    for batch, part in zip(rows.batches(), times_ps(), strict=True):
        is_equal = part == least_ps
        is_kept = (part > least_ps) | (is_equal & (is_equal.cumsum() <= equal))
        equal -= min(equal, int(is_equal.sum()))
        yield batch.filter(pa.array(is_kept))


def _write_table(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """Write batches, at least one, as a file of the format that its name ends with."""
    if path.suffix == ".arrow":
        from pyarrow.ipc import new_file as make
    else:
        from pyarrow.parquet import ParquetWriter as make  # noqa: N813  (a class and a function that make a writer)
    pieces = _pieces(batches)
    first = next(pieces)
    with whole_file(path) as sink, make(sink, first.schema) as writer:
        writer.write_table(first, BATCH_ROWS)
        for piece in pieces:
            writer.write_table(piece, BATCH_ROWS)


def _pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Join short batches until they have ``BATCH_ROWS`` rows: each has a cost for those who read the file."""
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        if rows >= BATCH_ROWS:
            yield pa.Table.from_batches(held).combine_chunks()
            held, rows = [], 0
    if held:
        yield pa.Table.from_batches(held).combine_chunks()
