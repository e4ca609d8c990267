from __future__ import annotations

import os
from pathlib import Path

import pytest

from fabricsim.errors import ConfigError
from fabricsim.files import whole_file


def test_a_whole_file_replaces_the_older_one(tmp_path: Path) -> None:
    """Until the block ends the older file is there, afterwards the new one alone."""
    path = tmp_path / "x.json"
    path.write_bytes(b"old")
    with whole_file(path) as sink:
        sink.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_broken_off_file_leaves_the_older_one(tmp_path: Path) -> None:
    """An error inside the block goes through; no part of a file stays."""
    path = tmp_path / "x.json"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), whole_file(path) as sink:
        sink.writelines([b"new", None])
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing folder and a full disk end with the file, the cause and the remedy, and leave nothing behind."""
    with pytest.raises(ConfigError, match=r"no/x: cannot be written \(No such file or directory\); choose another"):
        with whole_file(tmp_path / "no" / "x"):
            pass

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"x: cannot be written \(No space left on device\)"):
        with whole_file(tmp_path / "x") as sink:
            sink.write(b"new")
    assert os.listdir(tmp_path) == []


def test_what_is_no_file_stays_what_it_is(tmp_path: Path) -> None:
    """A link is followed; a pipe gets the bytes, and is not replaced by a file."""
    target, link, pipe = tmp_path / "target", tmp_path / "link", tmp_path / "pipe"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with whole_file(link) as sink:
        sink.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with whole_file(pipe) as sink:
        sink.write(b"new")
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    assert pipe.is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe", "target"]
