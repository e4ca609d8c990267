from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fabricsim.campaigns import store as store_module
from fabricsim.campaigns.plan import Plan
from fabricsim.campaigns.store import Failure, Store
from fabricsim.errors import ConfigError
from fabricsim.results.versions import package_version
from tests.campaigns.plans import planned

RESULT = {"schema": "fabricsim.result/1", "fabricsim_version": package_version(), "digest": "ab", "x": [0.1, None, 3]}

HOLD = """
import sys, time
from fabricsim.campaigns.plan import open_plan
from fabricsim.campaigns.store import Store
plan = open_plan(sys.argv[1])
with Store(plan).claim(plan.cases[0]) as is_ours:
    print(is_ours, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A plan of 12 cases."""
    return planned(tmp_path)


def test_a_result_is_read_back_whole_or_not_at_all(plan: Plan) -> None:
    """Every truncation, and every flipped byte that changes its meaning, makes it none."""
    store, case = Store(plan), plan.cases[0]
    assert store.result(case) is None
    store.write_result(case, RESULT)
    path = store.result_path(case)
    content = path.read_bytes()
    document = store.result(case)
    assert document is not None
    assert document["result"] == RESULT
    for length in range(len(content) - 1):
        path.write_bytes(content[:length])
        assert store.result(case) is None
    inside = content.index(b'"digest"')
    for place in range(inside, len(content) - 3):
        flipped = bytearray(content)
        flipped[place] ^= 1
        path.write_bytes(bytes(flipped))
        assert store.result(case) is None or json.loads(flipped)["result"] == RESULT
    assert os.listdir(path.parent) == [path.name]


def test_a_result_of_something_else_is_none(plan: Plan) -> None:
    """Another case's, another version's and another schema's."""
    store, (case, other) = Store(plan), plan.cases[:2]
    store.write_result(case, RESULT)
    store.result_path(other).write_bytes(store.result_path(case).read_bytes())
    assert store.result(other) is None
    for change in ({"fabricsim_version": "0.0.1"}, {"schema": "fabricsim.result/2"}):
        store.write_result(case, RESULT | change)
        assert store.result(case) is None


def test_a_result_ends_a_failure(plan: Plan) -> None:
    """A failure is kept with its code and message until there is a result."""
    store, case = Store(plan), plan.cases[0]
    assert (store.failure(case), store.failure_stamp(case)) == (None, None)
    store.write_failure(case, Failure(4, "stalled"))
    assert store.failure(case) == Failure(4, "stalled")
    assert store.failure_stamp(case) is not None
    store.write_result(case, RESULT)
    assert store.failure(case) is None


def test_a_claim_is_one_process_alone(plan: Plan) -> None:
    """Nobody else gets the case, not even this process again; a status sees the owner; afterwards nothing is left."""
    store, (case, other) = Store(plan), plan.cases[:2]
    assert store.owner(case) is None
    with store.claim(case) as is_ours, store.claim(case) as again, store.claim(other) as another:
        assert (is_ours, again, another) == (True, False, True)
        assert str(store.owner(case)).startswith(f"process {os.getpid()} on ")
    assert store.owner(case) is None
    assert list((plan.folder / "claims").iterdir()) == []


def test_a_reader_sees_the_owner(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without permission to write; a claim that cannot be read either is refused, not taken for none."""
    store, case = Store(plan), plan.cases[0]
    real = os.open
    with store.claim(case):

        def read_only(path: Path, flags: int, mode: int = 0o777) -> int:
            if flags & (os.O_RDWR | os.O_WRONLY):
                raise PermissionError(13, "Permission denied")
            return real(path, flags, mode)

        monkeypatch.setattr(store_module.os, "open", read_only)
        assert str(store.owner(case)).startswith(f"process {os.getpid()} on ")

        def nothing(path: Path, flags: int, mode: int = 0o777) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(store_module.os, "open", nothing)
        with pytest.raises(ConfigError, match=r"\.lock: cannot be read \(Permission denied\), so nobody knows"):
            store.owner(case)
        monkeypatch.undo()


@pytest.mark.parametrize("kills", [True, False])
def test_a_claim_dies_with_its_owner(plan: Plan, kills: bool) -> None:
    """Of a process that is killed the file stays, and says nothing."""
    store, case = Store(plan), plan.cases[0]
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(plan.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert str(store.owner(case)).startswith(f"process {process.pid} on ")
        with store.claim(case) as is_ours:
            assert not is_ours
        if kills:
            process.kill()
    assert (plan.folder / "claims" / f"{case.case}.lock").exists() is kills
    assert store.owner(case) is None
    with store.claim(case) as is_ours:
        assert is_ours


def test_a_file_that_its_owner_has_just_removed_is_no_claim(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the opening of a file and its lock the owner may remove it; then another file is the one that counts."""
    store, case = Store(plan), plan.cases[0]
    path = plan.folder / "claims" / f"{case.case}.lock"
    real, removed = store_module.fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        real(descriptor, operation)
        if not removed:
            removed.append(path.unlink())

    monkeypatch.setattr(store_module.fcntl, "flock", flock)
    with store.claim(case) as is_ours:
        assert is_ours
        assert path.exists()


def test_a_file_system_without_locks_is_refused(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing would keep two runs from one case; the error says what to do."""

    def flock(_descriptor: int, _operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(store_module.fcntl, "flock", flock)
    with pytest.raises(ConfigError, match=r"has no locks \(Function not implemented\).*Lustre: option flock"):
        with Store(plan).claim(plan.cases[0]):
            pass
