"""Files of Relay parameters from strangers: no wait, and no memory that the file does not fill."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tvm_spm.errors import ModelError
from tvm_spm.frontend.relay.params import read_params


def npz(shape: str, data: bytes) -> bytes:
    """An archive whose one array has a header of our own."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", array)
    return content.getvalue()


def test_an_archive_is_read():
    data = np.arange(6, dtype=np.float32)
    assert (read_params(npz("(2, 3)", data.tobytes()), 1000)["w"] == data.reshape(2, 3)).all()


@pytest.mark.parametrize(
    "shape", ["(1099511627776,)", "(2, 4)", "(2, 2)", "(4611686018427387904, 4)", "(-1,)", "([" * 300]
)
def test_a_header_cannot_ask_for_more_than_is_there(shape: str):
    with pytest.raises(ModelError):
        read_params(npz(shape, b"\0" * 24), 2**20)


def test_a_small_archive_cannot_unpack_to_more_than_allowed():
    content = npz(f"({2**22},)", b"\0" * 2**24)
    assert len(content) < 2**16
    with pytest.raises(ModelError, match="parameters need 16 MiB: must be <= 1 MiB"):
        read_params(content, 2**20)


def test_a_pipe_does_not_block(tmp_path: Path):
    os.mkfifo(tmp_path / "w.npz")
    with pytest.raises(ModelError, match="cannot read: not a regular file"):
        read_params(tmp_path / "w.npz", 2**20)


def test_damaged_archives_are_refused():
    content = npz("(2, 3)", b"\0" * 24)
    for at in range(0, len(content), 3):
        for value in (0, 255):
            damaged = content[:at] + bytes([value]) + content[at + 1 :]
            try:
                assert read_params(damaged, 2**20)["w"].shape == (2, 3)
            except ModelError:
                continue
            except KeyError:
                pass  # the name of the array was hit
