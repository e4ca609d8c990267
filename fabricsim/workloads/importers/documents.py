"""Recorded JSON documents, from whatever they come packed in."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from fabricsim.errors import ConfigError, TraceError

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Document:
    """One JSON object and where it was found.

    ``name`` is the file's name, without folders; fractions in ``content`` are ``Decimal``, so that a time
    in microseconds with three decimals stays exact. ``sha256`` is that of the file as it was stored.
    """

    name: str
    sha256: str
    content: dict[str, Any]


def read_documents(paths: Sequence[str | Path]) -> list[Document]:
    """Read all JSON documents of *paths*, in order.

    A path is a ``.json`` or ``.json.gz`` file, a (compressed) tar archive of such files, or a folder with such
    files and archives at its top. What a file is, is told by its content.

    Raises
    ------
    ConfigError
        A path cannot be read, or there is none.
    TraceError
        A file is no JSON object, or a folder or archive holds none.
    """
    if not paths:
        raise ConfigError("no recording was given; name the profiler's .json files, or an archive or folder of them")
    documents: list[Document] = []
    for path in map(Path, paths):
        found = [_parse(name, data) for name, data in _open(path)]
        if not found:
            raise TraceError(f"{path}: holds no .json or .json.gz file; name the profiler's output files themselves")
        documents += found
    return documents


def _open(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        if path.is_dir():
            for member in sorted(path.iterdir()):
                if member.is_file() and _is_wanted(member.name, (".json", ".json.gz", ".tar", ".tar.gz", ".tgz")):
                    yield from _open(member)
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                for entry in sorted(archive.getmembers(), key=lambda entry: entry.name):
                    if entry.isfile() and _is_wanted(entry.name, (".json", ".json.gz")):
                        stream = archive.extractfile(entry)
                        assert stream is not None  # so it is for every regular file
                        yield Path(entry.name).name, stream.read()
        else:
            yield path.name, path.read_bytes()
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TraceError(f"{path}: the file is damaged ({error}); copy it again") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None


def _is_wanted(name: str, suffixes: tuple[str, ...]) -> bool:
    # macOS packs a binary file "._x" with its own attributes beside every file x.
    return name.endswith(suffixes) and not Path(name).name.startswith("._")


def _parse(name: str, data: bytes) -> Document:
    sha256 = hashlib.sha256(data).hexdigest()
    if data.startswith(_GZIP_MAGIC):
        try:
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read()
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise TraceError(f"{name}: the file is damaged ({error}); copy it again") from None
    try:
        # strict=False: profilers write control characters inside names.
        content = json.loads(data, parse_float=Decimal, strict=False)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{name}: not JSON ({error}); was the file cut off?") from None
    if not isinstance(content, dict):
        raise TraceError(f"{name}: the JSON document is no object; expected a Kineto trace or an execution trace")
    return Document(name, sha256, content)
