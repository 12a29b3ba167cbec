"""Read files that strangers wrote: regular ones only, and no more of them than was agreed."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path, PurePath

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


def open_beneath(base: Path, relative: str) -> int:
    """A descriptor for reading a regular file under a directory, reached without any link.

    Neither a folder on the way nor the file may be a link, symbolic or (as a second name of the file) hard, so that
    what is read lies in the directory whatever its owner put there.

    Args:
        base: The directory, itself reached through links or not.
        relative: Path of the file under it, without ``..``.

    Raises:
        OSError: There is no such file, there is a link on the way, or it is no regular file.
    """
    *folders, name = PurePath(relative).parts
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    at = os.open(base, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        for folder in folders:
            inner = os.open(folder, flags | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = inner
        descriptor = os.open(name, flags | os.O_NONBLOCK, dir_fd=at)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "is a link, and links are not followed") from None
        raise
    finally:
        os.close(at)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        reason = "has a second name (a hard link)" if stat.S_ISREG(status.st_mode) else "not a regular file"
        raise OSError(errno.EINVAL, reason)
    return descriptor
