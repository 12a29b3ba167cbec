"""Whether a file can be written, asked before the work whose result goes into it."""

from __future__ import annotations

import os
from pathlib import Path

from tvm_spm.errors import SpmError

PICTURES = (".svg", ".png")
"""Suffixes of what can be drawn."""


def check_picture(path: str | Path) -> None:
    """Refuse a picture that cannot be drawn or written.

    Raises:
        SpmError: The suffix is of another kind of file, or as ``check_writable``.
    """
    if Path(path).suffix not in PICTURES:
        raise SpmError(f"{path}: a picture is an .svg or a .png file")
    check_writable(path)


def check_writable(path: str | Path) -> None:
    """Refuse a file that cannot be written; leaves an existing one as it is, and none where there was none.

    Raises:
        SpmError: There is no such directory, the path is one, or the system refuses; says why.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise SpmError(f"{path}: cannot write: no directory {str(target.parent)!r}")
    existed = os.path.lexists(target)
    if existed and not target.is_file() and not target.is_dir():
        return  # a terminal or a pipe: to open it would wait for who reads
    try:
        # Permissions alone do not tell: the file system may be read-only, or the name too long for it.
        with target.open("ab"):
            pass
        if not existed:
            target.unlink()
    except OSError as error:
        raise SpmError(f"{path}: cannot write: {error.strerror}; choose another file") from error
