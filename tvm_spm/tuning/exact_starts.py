"""Exact searches of several tasks, at the same time where there are workers for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm_spm.errors import NoMappingError, WorkloadError
from tvm_spm.exact import exact_search
from tvm_spm.interrupt import StopRequest
from tvm_spm.result import SearchResult
from tvm_spm.space.case import Case
from tvm_spm.workers import LONG, Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactStart:
    """What is asked of one exact search.

    Attributes:
        case: What is searched.
        most_steps: Of the search.
        perfect: Only factors that divide.
        is_simulated: The simulator decides, and not the formula.
    """

    case: Case
    most_steps: int
    perfect: bool = True
    is_simulated: bool = False

    def search(self, should_stop: Callable[[], bool]) -> SearchResult | None:
        """The best mapping, as far as the budget goes; None if none fits.

        Raises:
            WorkloadError: A dim of the workload is unlike that of any convolution or matrix product.
        """
        try:
            return exact_search(
                self.case, perfect=self.perfect, is_simulated=self.is_simulated, most_steps=self.most_steps,
                should_stop=should_stop,
            )  # fmt: skip
        except NoMappingError:
            return None


class Starts:
    """What exact searches find: all that workers have found already, and the rest here and now.

    Args:
        starts: What workers search; one that fails there is searched again here, and fails here.
        workers: Who searches; nothing is searched beforehand if there are no others than this thread.
        should_stop: Once true, what is not done is left to be searched here.
        report: Called for each that is done.
    """

    def __init__(
        self,
        starts: Sequence[ExactStart],
        workers: Workers,
        should_stop: StopRequest,
        report: Callable[[], None] = lambda: None,
    ) -> None:
        self._known: dict[ExactStart, SearchResult | None] = {}
        jobs = [(start, should_stop.left_s) for start in starts] if workers.are_others else []
        for at, found in workers.in_order(_search, jobs, should_stop=should_stop, patience=LONG, least=0):
            report()
            if not isinstance(found, WorkloadError):
                self._known[starts[at]] = found

    def find(self, start: ExactStart, should_stop: Callable[[], bool]) -> SearchResult | None:
        """The best mapping; None if none fits.

        Raises:
            WorkloadError: A dim of the workload is unlike that of any convolution or matrix product.
        """
        return self._known[start] if start in self._known else start.search(should_stop)


def _search(start: ExactStart, left_s: float) -> SearchResult | WorkloadError | None:
    """In a worker, whose clock is another one."""
    try:
        return start.search(StopRequest(time.monotonic() + left_s if math.isfinite(left_s) else math.inf))
    except WorkloadError as error:
        return error
