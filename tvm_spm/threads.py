"""Threads for compiled code, which lets go of Python's lock; they stay, since many a part is done before one starts."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


def num_threads_of(asked: int | None) -> int:
    """As many as asked for; one per CPU if None."""
    return asked or os.cpu_count() or 1


def in_threads(work: Callable[[Part], Result], parts: Sequence[Part], num_threads: int | None = None) -> list[Result]:
    """What comes of each part, in order; without threads if there is one part, or one thread.

    Args:
        work: Does a part; must not call this function.
        parts: What is to be done.
        num_threads: At most so many at a time, of all callers together; default one per CPU.
    """
    num = num_threads_of(num_threads)
    if len(parts) == 1 or num == 1:
        return [work(part) for part in parts]
    return list(_pool(os.getpid(), num).map(work, parts))


@functools.cache
def _pool(process: int, num_threads: int) -> ThreadPoolExecutor:
    """A fork has none of the threads of its parent."""
    return ThreadPoolExecutor(num_threads, thread_name_prefix=f"compiled-{process}")
