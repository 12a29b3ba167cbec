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
    when that one is asked for. What was not announced is searched here and now.

    Args:
        starts: In the order in which they will be asked for.
        pool: So many threads.
        num_threads: See above.
        should_stop: Asked in every search.
    """

    def __init__(
        self, starts: Sequence[ExactStart], pool: Executor, num_threads: int, should_stop: Callable[[], bool]
    ) -> None:
        self._starts, self._pool, self._num_threads = list(starts), pool, num_threads
        self._should_stop = should_stop
        self._begun: dict[ExactStart, Future[SearchResult | None]] = {}

    def begin(self, first: int) -> None:
        """Begin as many searches as there are threads, if they have not begun."""
        for each in self._starts[first : first + self._num_threads]:
            if each not in self._begun:
                self._begun[each] = self._pool.submit(each.search, self._should_stop)

    def find(self, start: ExactStart, should_stop: Callable[[], bool]) -> SearchResult | None:
        """Wait for a search.

        Raises:
            WorkloadError: A dim of the workload is unlike that of any convolution or matrix product.
        """
        if start not in self._starts:
            return start.search(should_stop)
        self.begin(self._starts.index(start))
        return self._begun[start].result()


@contextmanager
def searches_ahead(
    starts: Sequence[ExactStart], should_stop: Callable[[], bool], *, begins: bool = False
) -> Iterator[Ahead]:
    """Search a few tasks at once, until the block ends.

    Args:
        starts: In the order in which they will be asked for.
        should_stop: Asked in every search.
        begins: Whether the first are known to be asked for, so that they begin before.
    """
    leaving, num_threads = threading.Event(), os.cpu_count() or 1
    with ThreadPoolExecutor(num_threads, thread_name_prefix="searches") as pool:
        ahead = Ahead(starts, pool, num_threads, lambda: leaving.is_set() or should_stop())
        try:
            if begins:
                ahead.begin(0)
            yield ahead
        finally:
            leaving.set()
            pool.shutdown(wait=False, cancel_futures=True)
