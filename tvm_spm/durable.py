"""Files that survive a crash: every write into a work directory goes through these few functions.

A file is replaced as a whole or not at all, an append is on the disk when the call returns, and nothing that is a link
is followed. Whoever reads after a kill at any moment sees the old bytes or the new ones; only the end of an append may
be cut.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from tvm_spm.errors import WorkdirError

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_READ_BYTES = 1 << 20


def read_file(path: Path) -> bytes | None:
    """All bytes of a regular file; None if there is none.

    Raises:
        WorkdirError: It is a link, no regular file, or cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | _NO_LINK | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _cannot_read(path, error) from error
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise WorkdirError(f"{path}: cannot read: {'Is a directory' if stat.S_ISDIR(mode) else 'not a file'}")
        parts = []
        while part := os.read(handle, _READ_BYTES):
            parts.append(part)
        return b"".join(parts)
    except OSError as error:
        raise _cannot_read(path, error) from error
    finally:
        os.close(handle)


def write_file(path: Path, data: bytes) -> None:
    """Put a file in place, complete and on the disk, or leave what is there untouched.

    Raises:
        WorkdirError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        try:
            _unlink(temporary)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666)
            try:
                _write_all(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(temporary, path)
        except OSError:
            _remove_quietly(temporary)
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def append(path: Path, data: bytes) -> None:
    """Add to a file that exists, on the disk when this returns; what fails adds nothing.

    Raises:
        WorkdirError: It cannot be written.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | _NO_LINK)
        try:
            length = os.fstat(handle).st_size
            try:
                _write_all(handle, data)
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, length)
                raise
        finally:
            os.close(handle)
    except OSError as error:
        raise cannot_write(path, error) from error


def cut(path: Path, num_bytes: int) -> None:
    """Keep only the first bytes of a file.

    Raises:
        WorkdirError: It cannot be written.
    """
    try:
        handle = os.open(path, os.O_WRONLY | _NO_LINK)
        try:
            os.ftruncate(handle, num_bytes)
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise cannot_write(path, error) from error


def remove(path: Path) -> None:
    """Remove a file if it is there.

    Raises:
        WorkdirError: It cannot be removed.
    """
    try:
        os.unlink(path)
        _sync_directory(path.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot_write(path, error) from error


def make_directory(path: Path) -> None:
    """Make a directory and its parents, and find out whether files can be made in it.

    Raises:
        WorkdirError: It cannot be made or written.
    """
    try:
        missing = []
        above = path
        while not above.exists():
            missing.append(above)
            above = above.parent
        for each in reversed(missing):
            os.mkdir(each)
            _sync_directory(each.parent)
    except OSError as error:
        raise WorkdirError(f"{path}: cannot create: {_why(error)}; {_way_out(error)}") from error
    probe = path / ".probe.new"
    try:
        _unlink(probe)
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666))
        os.unlink(probe)
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> WorkdirError:
    """The sentence for a file or directory that the operating system refused to write."""
    return WorkdirError(f"{path}: cannot write: {_why(error)}; {_way_out(error)}")


def _cannot_read(path: Path, error: OSError) -> WorkdirError:
    return WorkdirError(f"{path}: cannot read: {_why(error)}")


def _write_all(handle: int, data: bytes) -> None:
    """A write may take less than it is given, for example just before the disk is full."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _sync_directory(path: Path) -> None:
    """Names of files are kept in the directory; without this a new one may be lost though its bytes are not."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems cannot sync a directory; they say so with EINVAL.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)


def _unlink(path: Path) -> None:
    """What a run that was killed may have left."""
    if os.path.lexists(path):
        os.unlink(path)


def _remove_quietly(path: Path) -> None:
    """The first failure is the one to tell."""
    try:
        os.unlink(path)
    except OSError:
        return


def _why(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "it is a symbolic link"
    return error.strerror or str(error)


def _way_out(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space and run the same command again, what is in the trial log is kept"
    return "choose a writable --workdir"
