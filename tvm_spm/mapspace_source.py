"""Numba's cache watches only the file of a cached function; the hash of all files below joins the key instead.

Entry points close over it. What they call is not cached on its own, except functions that call nothing of other files.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from numba import njit

_OTHERS = ("legality_batch.py", "constraints_batch.py", "mapping_batch.py")

compiled = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""A function that only compiled code calls."""


def source_hash() -> str:
    """Of every file whose functions the entry points of the map space are compiled from."""
    here = Path(__file__).parent
    sources = [*sorted(here.glob("mapspace_*.py")), *(here / name for name in _OTHERS)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
