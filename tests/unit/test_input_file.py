"""Files of strangers: only regular ones, only so many bytes, and never a wait."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tvm_spm.arch import load_arch
from tvm_spm.errors import ArchError
from tvm_spm.input_file import read_regular


def read(path: Path, max_bytes: int = 10) -> bytes:
    return read_regular(path, max_bytes=max_bytes, error=ArchError)


def test_a_file_up_to_the_limit_is_read(tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(b"x" * 10)
    (tmp_path / "link").symlink_to(path)
    assert read(path) == read(tmp_path / "link") == b"x" * 10


def test_one_byte_more_is_refused(tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(b"x" * 11)
    with pytest.raises(ArchError) as caught:
        read(path)
    assert str(caught.value) == f"{path}: 11 B: must be <= 10 B"


def test_a_pipe_does_not_block(tmp_path: Path):
    path = tmp_path / "pipe.toml"
    os.mkfifo(path)
    with pytest.raises(ArchError, match="pipe.toml: cannot read: not a regular file"):
        load_arch(path)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "/"])
def test_devices_and_directories_are_refused(path: str):
    with pytest.raises(ArchError, match="cannot read: (not a regular file|is a directory)"):
        load_arch(path)


@pytest.mark.parametrize("name", ["a\0b.toml", "x" * 5000, "x" * 5000 + ".toml", "a\0b", "\ud800.toml"], ids=range(5))
def test_a_path_that_cannot_be_is_refused(name: str):
    with pytest.raises(ArchError):
        load_arch(name)


def test_a_file_that_states_no_size_is_bounded():
    # The kernel says 0 bytes for this file and hands out more.
    with pytest.raises(ArchError, match="more than 10 B"):
        read(Path("/proc/cpuinfo"))


def test_an_arch_file_of_more_than_a_mebibyte_is_refused(tmp_path: Path):
    path = tmp_path / "big.toml"
    path.write_text("#" * (2**20 + 1))
    with pytest.raises(ArchError) as caught:
        load_arch(path)
    assert str(caught.value) == f"{path}: 1,048,577 B: must be <= 1,048,576 B"
