"""Read files that strangers wrote: regular ones only, and no more of them than was agreed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tvm_spm.errors import SpmError
from tvm_spm.units import format_bytes


def read_regular(path: Path, *, max_bytes: int, error: type[SpmError]) -> bytes:
    """The content of a regular file; links to one are followed, since the caller named the path.

    A named pipe would wait for its writer and a device has no end, so both are refused without reading.

    Args:
        path: The file.
        max_bytes: Larger files are refused.
        error: What to raise.

    Raises:
        SpmError: Of the kind ``error``: no such file, no regular file, or a larger one.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe waits.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as problem:
        raise error(f"{path}: cannot read: {problem.strerror}") from problem
    except ValueError as problem:  # a null byte in the name
        raise error(f"{path}: cannot read: {problem}") from problem
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        kind = "is a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise error(f"{path}: cannot read: {kind}")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > max_bytes:
            raise error(f"{path}: {format_bytes(status.st_size)}: must be <= {format_bytes(max_bytes)}")
        try:
            content = file.read(max_bytes + 1)
        except OSError as problem:
            raise error(f"{path}: cannot read: {problem.strerror}") from problem
    # Some file systems state a size of 0, and another process may append.
    if len(content) > max_bytes:
        raise error(f"{path}: more than {format_bytes(max_bytes)}: must be <= {format_bytes(max_bytes)}")
    return content
