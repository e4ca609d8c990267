"""Results as ``-o DIR`` has written them, read back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fabricsim.errors import ConfigError, TraceError
from fabricsim.results.output import CHECKPOINT, FABRIC, LEFTOVERS, SUMMARY
from fabricsim.results.result import SCHEMA

if TYPE_CHECKING:
    import pyarrow as pa


#: What completes a result.
RESUME = "wait for the end, or give the same command again with --resume"


@dataclass(frozen=True)
class Stored:
    """The files of one result; ``name`` is that of its subfolder, or of the fabric where it has none."""

    name: str
    folder: Path
    summary: Mapping[str, Any]

    @cached_property
    def fabric(self) -> Mapping[str, Any]:
        """What the fabric was, of the schema ``fabricsim.fabric_quantities/1``."""
        return read_json(self.folder / FABRIC)

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read some columns, or all, of a table; TraceError where it is missing, damaged or has no such column."""
        kind = self.summary["files"]["format"]
        path = self.folder / f"{name}.{kind}"
        if kind == "arrow":
            from pyarrow.feather import read_table
        else:
            from pyarrow.parquet import read_table
        import pyarrow as pa

        try:
            return read_table(path, columns=None if columns is None else list(columns))
        except (OSError, KeyError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise TraceError(f"{path} cannot be read ({reason}); run again into a new folder") from None


def find_results(folder: str | os.PathLike[str]) -> list[Stored]:
    """Find the complete results in a folder of ``-o``: its own, or those of its subfolders by size, then by name.

    Raises ConfigError where there is none, TraceError for a summary that is damaged or none.
    """
    folder = Path(folder)
    if (folder / SUMMARY).is_file():
        summary = _summary(folder / SUMMARY)
        return [Stored(summary["fabric"]["name"], folder, summary)]
    paths = sorted(folder.glob(f"*/{SUMMARY}"))
    if not paths:
        raise ConfigError(f"{folder} holds no complete result: {_why_none(folder)}")
    found = [Stored(path.parent.name, path.parent, _summary(path)) for path in paths]
    return sorted(found, key=lambda stored: stored.summary["ops"][0]["size_bytes"] if stored.summary["ops"] else 0)


def unfinished(folder: str | os.PathLike[str]) -> list[str]:
    """Name the subfolders of runs that still go on, or were interrupted: empty, or without a summary."""
    paths = (path for path in Path(folder).glob("*/") if path.is_dir())
    return sorted(path.name for path in paths if _is_begun(path, empty=True))


def _is_begun(folder: Path, *, empty: bool) -> bool:
    """Tell whether a run has begun in a folder and not ended there; one that is *empty* may be said to be such."""
    if not os.access(folder, os.R_OK | os.X_OK):
        return False
    names = [path.name for path in folder.iterdir()]
    if SUMMARY in names:
        return False
    return any(name in LEFTOVERS or name == CHECKPOINT for name in names) if names else empty


def _why_none(folder: Path) -> str:
    """Say why there is no result in a folder, and what to do."""
    if not folder.is_dir():
        return "there is no such folder; give the one that -o of run or replay has written"
    if _is_begun(folder, empty=False):
        return f"its run still goes on, or was interrupted; {RESUME}"
    if begun := unfinished(folder):
        return f"of the runs in it none has ended ({', '.join(begun)}); {RESUME}"
    return f"there is no {SUMMARY} in it, nor in a folder in it; give the folder that -o of run or replay has written"


def _summary(path: Path) -> Mapping[str, Any]:
    summary = read_json(path)
    if summary.get("schema") != SCHEMA or "files" not in summary:
        raise TraceError(f"{path} is no summary of the schema {SCHEMA} beside its tables; give a folder of -o")
    return summary


def read_json(path: Path) -> Mapping[str, Any]:
    """Read a file that holds a JSON object; TraceError where it does not."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise TraceError(f"{path} cannot be read ({error}); run again into a new folder") from None
    if not isinstance(document, dict):
        raise TraceError(f"{path} is no JSON object; run again into a new folder")
    return document
