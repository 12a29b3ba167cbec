"""Exact searches of the tasks to come, beside that of the task at hand."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

from tvm_spm.result import SearchResult
from tvm_spm.tuning.exact_starts import ExactStart


class FindsStarts(Protocol):
    """Knows what exact searches find, or searches."""

    def find(self, start: ExactStart, should_stop: Callable[[], bool]) -> SearchResult | None:
        """The best mapping; None if none fits."""
        ...


class Ahead:
    """Does a few searches at once, as many as there are threads.

    A search depends on its question alone, so that the order in which they end changes nothing. Those after one begin
    when that one is asked for.

    Args:
        starts: In the order in which they will be asked for.
        pool: So many threads.
        num_threads: See above.
        should_stop: Asked in every search.
        others: Finds all else.
    """

    def __init__(
        self,
        starts: Sequence[ExactStart],
        pool: Executor,
        num_threads: int,
        should_stop: Callable[[], bool],
        others: FindsStarts,
    ) -> None:
        self._starts, self._pool, self._num_threads = list(starts), pool, num_threads
        self._should_stop, self._others = should_stop, others
        self._begun: dict[ExactStart, Future[SearchResult | None]] = {}

    def find(self, start: ExactStart, should_stop: Callable[[], bool]) -> SearchResult | None:
        """Wait for a search.

        Raises:
            WorkloadError: A dim of the workload is unlike that of any convolution or matrix product.
        """
        if start not in self._starts:
            return self._others.find(start, should_stop)
        first = self._starts.index(start)
        for each in self._starts[first : first + self._num_threads]:
            if each not in self._begun:
                self._begun[each] = self._pool.submit(each.search, self._should_stop)
        return self._begun[start].result()


@contextmanager
def searches_ahead(
    starts: Sequence[ExactStart], should_stop: Callable[[], bool], others: FindsStarts
) -> Iterator[FindsStarts]:
    """Search a few tasks at once, until the block ends.

    Args:
        starts: In the order in which they will be asked for.
        should_stop: Asked in every search.
        others: Finds all else.
    """
    if not starts:
        yield others
        return
    leaving, num_threads = threading.Event(), os.cpu_count() or 1
    with ThreadPoolExecutor(num_threads, thread_name_prefix="searches") as pool:
        try:
            yield Ahead(starts, pool, num_threads, lambda: leaving.is_set() or should_stop(), others)
        finally:
            leaving.set()
            pool.shutdown(wait=False, cancel_futures=True)
