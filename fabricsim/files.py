"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fabricsim.errors import ConfigError

#: Given as a file: standard output in its place, where a command has that.
STDOUT = "-"


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file for writing that appears under its name only once it is complete and on disk.

    Whatever ends the block early leaves an older file of that name untouched, and no part of a new one. A link stays a
    link: what it points to is written. Into what is no file, such as a pipe or /dev/null, the bytes go as they come.
    Raises ``ConfigError`` that names the file where it cannot be written.
    """
    path = Path(os.path.realpath(path))
    part = path.with_name(path.name + ".part")
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as sink:
                yield sink
            return
        with part.open("wb") as sink:
            yield sink
            sink.flush()
            os.fsync(sink.fileno())
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
