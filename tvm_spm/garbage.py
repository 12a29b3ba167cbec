"""How often Python looks for cycles among its objects, in processes that are ours alone."""

from __future__ import annotations

import gc

_ALLOCATIONS = 100_000
"""Between two looks; Python's own 700 cost a fifth of the time that imports take."""


def collect_seldom() -> None:
    """Look for cycles seldom: what is imported stays, and nearly all else is freed when nobody refers to it."""
    gc.set_threshold(_ALLOCATIONS)
