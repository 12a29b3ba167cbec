"""Writes of a work directory: all or nothing, no links, and one sentence for each refusal."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.faults import FaultyOs, Killed, faulty
from tvm_spm import durable
from tvm_spm.errors import WorkdirError


def steps_of_a_replacement(folder: Path) -> FaultyOs:
    (folder / "file").write_bytes(b"old")
    with faulty() as disk:
        durable.write_file(folder / "file", b"new!")
    return disk


def test_a_replacement_syncs_the_file_before_its_name_and_the_directory_after(tmp_path: Path):
    disk = steps_of_a_replacement(tmp_path)
    assert (tmp_path / "file").read_bytes() == b"new!"
    # open, write, fsync, replace, fsync of the directory
    assert dict(disk.seen) == {"open": 1, "write": 1, "fsync": 2, "replace": 1}


@pytest.mark.parametrize("kind", ["full", "killed", "torn"])
@pytest.mark.parametrize("point", range(5))
def test_a_replacement_is_whole_or_not_at_all(tmp_path: Path, point: int, kind: str):
    (tmp_path / "file").write_bytes(b"old")
    with faulty(point, kind), pytest.raises((Killed, WorkdirError)):
        durable.write_file(tmp_path / "file", b"new!")
    # The name changes with the fourth step.
    assert (tmp_path / "file").read_bytes() == (b"old" if point < 4 else b"new!")
    if kind == "full":
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
    durable.write_file(tmp_path / "file", b"again")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"again")]


@pytest.mark.parametrize("point", [0, 1])
def test_an_append_that_fails_adds_nothing(tmp_path: Path, point: int):
    """A full disk takes half of the bytes before it says so, or says so when they are synced."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with faulty(point, "full"), pytest.raises(WorkdirError) as caught:
        durable.append(path, b"0123456789")
    assert path.read_bytes() == b"old"
    assert str(caught.value) == (
        f"{path}: cannot write: No space left on device; "
        "free some space and run the same command again, what is in the trial log is kept"
    )


def test_a_write_that_takes_less_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Slow(FaultyOs):
        def write(self, handle: int, data: memoryview) -> int:
            return os.write(handle, data[:3])

    monkeypatch.setattr(durable, "os", Slow())
    durable.write_file(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EIO])
def test_a_directory_that_takes_no_files_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int):
    class Closed(FaultyOs):
        def open(self, path: Path, flags: int, mode: int = 0) -> int:
            if flags & os.O_CREAT:
                raise OSError(code, os.strerror(code))
            return os.open(path, flags, mode)

    monkeypatch.setattr(durable, "os", Closed())
    with pytest.raises(WorkdirError) as caught:
        durable.make_directory(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot write: {os.strerror(code)}; choose a writable --workdir"


def test_directories_are_made_with_their_parents(tmp_path: Path):
    with faulty() as disk:
        durable.make_directory(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    # Each of the two is synced in the directory above it.
    assert (disk.seen["mkdir"], disk.seen["fsync"]) == (2, 2)


def test_links_are_not_followed(tmp_path: Path):
    other, link = tmp_path / "other", tmp_path / "link"
    other.write_bytes(b"precious")
    link.symlink_to(other)
    for act in (durable.read_file, lambda path: durable.append(path, b"x"), lambda path: durable.cut(path, 0)):
        with pytest.raises(WorkdirError, match="link: cannot (read|write): it is a symbolic link"):
            act(link)
    durable.write_file(link, b"mine")
    assert (other.read_bytes(), link.read_bytes(), link.is_symlink()) == (b"precious", b"mine", False)


def test_only_files_are_read(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WorkdirError, match="pipe: cannot read: not a file"):
        durable.read_file(tmp_path / "pipe")
    assert durable.read_file(tmp_path / "nothing") is None
