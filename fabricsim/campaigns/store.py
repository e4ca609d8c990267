"""What a campaign's folder holds of each case: its result or its failure, and who is at work on it.

A result is a file that appears whole, names its case and carries a checksum; one that fails any of this counts for
nothing. A claim is a file that its owner holds locked (``flock``). The lock ends with the process, however that ends,
and Linux keeps it between machines on NFS and, where it is mounted with ``flock``, on Lustre; there is no time-out.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fabricsim.campaigns.plan import CLAIMS, RESULTS, Case, Plan
from fabricsim.errors import ConfigError
from fabricsim.files import whole_file
from fabricsim.results.result import SCHEMA as RESULT_SCHEMA

RESULT_FILE_SCHEMA = "fabricsim.case_result/1"
FAILURE_SCHEMA = "fabricsim.case_failure/1"

#: A look at a claim from elsewhere holds its lock for microseconds; a claim that is held for longer has an owner.
CLAIM_TRIES = 5
CLAIM_PAUSE_S = 0.01


@dataclass(frozen=True)
class Failure:
    """Why a case has no result: the exit code that the run would have had, and its message."""

    exit_code: int
    message: str


class Store:
    """The results, failures and claims of one plan."""

    def __init__(self, plan: Plan) -> None:
        self._results = plan.folder / RESULTS
        self._claims = plan.folder / CLAIMS
        self._version = plan.version

    def result_path(self, case: Case) -> Path:
        """Say where the result of a case stands."""
        return self._results / f"{case.case}.json"

    def _failure_path(self, case: Case) -> Path:
        return self._results / f"{case.case}.failed.json"

    def result(self, case: Case) -> dict[str, Any] | None:
        """Read the file of a result; ``None`` where there is none, or one that is not valid."""
        document = _read(self.result_path(case), RESULT_FILE_SCHEMA, case)
        if document is None:
            return None
        result = document.get("result")
        is_valid = (
            isinstance(result, dict)
            and result.get("schema") == RESULT_SCHEMA
            and result.get("fabricsim_version") == self._version
            and document.get("sha256") == _checksum(result)
        )
        return document if is_valid else None

    def write_result(self, case: Case, result: Mapping[str, Any]) -> None:
        """Keep the summary of a case, and forget an earlier failure."""
        document = {
            "schema": RESULT_FILE_SCHEMA,
            "case": case.case,
            "host": platform.node(),
            "sha256": _checksum(result),
            "result": result,
        }
        _write(self.result_path(case), document)
        self._failure_path(case).unlink(missing_ok=True)

    def failure(self, case: Case) -> Failure | None:
        """Say why the last try of a case failed; ``None`` where it did not."""
        document = _read(self._failure_path(case), FAILURE_SCHEMA, case)
        if document is None:
            return None
        try:
            return Failure(int(document["exit_code"]), str(document["message"]))
        except (KeyError, ValueError):
            return None

    def failure_stamp(self, case: Case) -> int | None:
        """Tell two failures of a case apart: when the file of the last one was written, in the server's nanoseconds."""
        try:
            return self._failure_path(case).stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def write_failure(self, case: Case, failure: Failure) -> None:
        """Keep why a case failed."""
        document = {
            "schema": FAILURE_SCHEMA,
            "case": case.case,
            "host": platform.node(),
            "exit_code": failure.exit_code,
            "message": failure.message,
        }
        _write(self._failure_path(case), document)

    @contextmanager
    def claim(self, case: Case) -> Iterator[bool]:
        """Hold a case for this process alone; false where another one holds it.

        Raises ``ConfigError`` on a file system that has no such locks: nothing would keep two from one case.
        """
        path = self._claims / f"{case.case}.lock"
        descriptor = _lock(path)
        if descriptor is None:
            yield False
            return
        try:
            with suppress(OSError):  # a full disk; the name of the owner is for people
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _owner().encode(), 0)
            _look_anew(self._results)
            yield True
        finally:
            path.unlink(missing_ok=True)  # before the lock goes, so that it is still ours
            os.close(descriptor)

    def owner(self, case: Case) -> str | None:
        """Say who is at work on a case; ``None`` where nobody is. Needs no permission to write."""
        path = self._claims / f"{case.case}.lock"
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read ({error.strerror}), so nobody knows whether the case is at work; mend its "
                "permissions"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.pread(descriptor, 200, 0).decode(errors="replace") or "a process"
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return None


def _lock(path: Path) -> int | None:
    """Lock a file of this name, made if need be; ``None`` while another process holds it."""
    for _ in range(CLAIM_TRIES):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror}); mend that, or choose another") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last owner may have removed it between our opening and locking; then others see another file.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(descriptor)
            time.sleep(CLAIM_PAUSE_S)
            continue
        except OSError as error:
            os.close(descriptor)
            raise ConfigError(
                f"{path}: this file system has no locks ({error.strerror}), which keep two runs from one case; mount "
                "it with them (Lustre: option flock), or plan the study in a folder elsewhere"
            ) from None
        os.close(descriptor)
    return None


def _owner() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    return f"process {os.getpid()} on {platform.node()}" + (f", Slurm job {job}" if job else "")


def _look_anew(folder: Path) -> None:
    """Make NFS ask the server what is in a folder: it checks when it opens one, and else remembers for a minute."""
    os.close(os.open(folder, os.O_RDONLY))


def _checksum(result: Mapping[str, Any]) -> str:
    """SHA-256 of a document in JSON's shortest form, keys sorted: what a reader of the file makes of it again."""
    return hashlib.sha256(json.dumps(result, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read(path: Path, schema: str, case: Case) -> dict[str, Any] | None:
    """Read a document of this schema that names the case; ``None`` for anything else."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    is_right = isinstance(document, dict) and (document.get("schema"), document.get("case")) == (schema, case.case)
    return document if is_right else None


def _write(path: Path, document: Mapping[str, Any]) -> None:
    with whole_file(path) as sink:
        sink.write((json.dumps(document, allow_nan=False) + "\n").encode())
