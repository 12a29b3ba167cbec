"""A list of jobs in, their results in order out, whoever runs them.

What depends on who works is decided here and nowhere else: a job whose worker died is given to another one, one that
takes suspiciously long is given to a second one as well, and the first answer counts. So jobs must be functions of
their arguments alone; then results are those of one job after the other.
"""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from tvm_spm.units import shown
from tvm_spm.workers.calls import Timed, call, call_packed, pack, timed
from tvm_spm.workers.errors import WorkerDiedError, WorkersError, WorkersLostError
from tvm_spm.workers.processes import ProcessWorkers

T = TypeVar("T")

_log = logging.getLogger(__name__)

MOST_DEATHS = 3
"""Workers that may die with one job before it is not given to another."""

MOST_ISSUES = 3
"""Workers that may have one job at the same time."""

POLL_S = 0.1
"""Between two looks at whether to stop."""

REMEMBERED = 64
"""Answers of which the longest says what is usual."""

_EXPECTED = (
    "pass a concurrent.futures.Executor, such as ProcessPoolExecutor(), or get_executor() of a Dask client, or None"
)

_DASK = "distributed"
"""The package of a cluster's executor."""

_DEATHS = frozenset({"KilledWorker"})
"""Its exceptions that say that several workers died with a job."""


class Patience(NamedTuple):
    """When an answer is overdue: after so many times the longest of the last ones, and so many seconds."""

    times: float
    seconds: float


QUICK = Patience(times=3.0, seconds=1.0)
"""For jobs that all take about as long."""

LONG = Patience(times=4.0, seconds=30.0)
"""For jobs of very different lengths."""


def _never() -> bool:
    return False


class Workers:
    """Who runs jobs.

    Args:
        executor: Of ``concurrent.futures``; this process, one job after the other, if None.
    """

    def __init__(self, executor: Executor | None = None) -> None:
        self._executor = executor
        self._seconds: dict[str, deque[float]] = {}

    @property
    def are_others(self) -> bool:
        """Whether somebody else than this thread works."""
        return self._executor is not None

    def in_order(
        self,
        function: Callable[..., T],
        jobs: Sequence[tuple[object, ...]],
        *,
        should_stop: Callable[[], bool] = _never,
        least: int = 1,
        patience: Patience = QUICK,
        waits: bool = False,
        given_up: Callable[[WorkerDiedError], T] | None = None,
    ) -> Iterator[tuple[int, T]]:
        """Run jobs.

        Args:
            function: Of a module or a closure; its value depends on its arguments alone.
            jobs: Arguments of each.
            should_stop: Once true, no job is begun, and only results that are back are given.
            least: So many jobs at the beginning are done in any case.
            patience: When a job is given to a second worker.
            waits: The function only waits for another process, so that a thread is worker enough.
            given_up: Makes a result for a job with which ``MOST_DEATHS`` workers died; None to raise the error.

        Yields:
            Positions in ``jobs`` with results: in order, but for what is saved before an error or a stop.

        Raises:
            WorkersLostError: The executor takes no more work, or its workers are gone.
            WorkerDiedError: So many workers died with one job.
            WorkersError: A job cannot be sent to another process, or the executor gives no futures.
        """
        if self._executor is None:
            for position, job in enumerate(jobs):
                if position >= least and should_stop():
                    return
                yield position, function(*job)
            return
        seconds = self._seconds.setdefault(f"{function.__module__}.{function.__qualname__}", deque(maxlen=REMEMBERED))
        batch = _Batch(
            [partial(self._submit, function, job, waits=waits) for job in jobs], seconds, given_up,
            getattr(self._executor, "abandon", Future.cancel),
        )  # fmt: skip
        try:
            yield from batch.results(should_stop, least, patience)
        finally:
            batch.abandon()

    def _submit(
        self, function: Callable[..., object], job: tuple[object, ...], *, waits: bool
    ) -> Future[Timed | bytes]:
        executor = self._executor
        assert executor is not None
        submit: Callable[..., Future[Timed | bytes]] = executor.submit
        if isinstance(executor, ProcessWorkers) and waits:
            submit = executor.submit_waiting
        if isinstance(executor, ProcessPoolExecutor) or type(executor).__module__.partition(".")[0] == _DASK:
            packed = pack(function, job)
            return _given(executor, lambda: submit(call_packed, packed))
        return _given(executor, lambda: submit(call, function, job))


def _given(executor: Executor, submit: Callable[[], Future[Timed | bytes]]) -> Future[Timed | bytes]:
    """What an executor gives for a job: executors are written by others, too."""
    try:
        future: object = submit()
    except TypeError as error:
        raise WorkersError(
            f"executor = {_named(executor)}: its submit takes no function and arguments ({error}); {_EXPECTED}"
        ) from error
    if isinstance(future, Future):
        return future
    if inspect.iscoroutine(future):
        future.close()
    raise WorkersError(
        f"executor = {_named(executor)}: its submit gave {_named(future)}, no concurrent.futures.Future; {_EXPECTED}"
    )


def _named(value: object) -> str:
    return "None" if value is None else f"{shown(value)} ({type(value).__module__}.{type(value).__qualname__})"


class _Raised(NamedTuple):
    """Stands for the result of a job that has none; or nobody can work any more."""

    error: BaseException
    is_loss: bool = False


class _Batch(Generic[T]):
    """Jobs under way.

    Args:
        submits: Gives each job to a worker.
        seconds: How long such jobs took; told those of this batch.
        given_up: As ``Workers.in_order``.
        abandon: Told of futures whose answer nobody needs.
    """

    def __init__(
        self,
        submits: Sequence[Callable[[], Future[Timed | bytes]]],
        seconds: deque[float],
        given_up: Callable[[WorkerDiedError], T] | None,
        abandon: Callable[[Future[Timed | bytes]], object],
    ) -> None:
        self._submits, self._seconds, self._given_up, self._abandon = submits, seconds, given_up, abandon
        self._out: dict[Future[Timed | bytes], int] = {}
        self._found: dict[int, T | _Raised] = {}
        self._deaths = [0] * len(submits)

    def results(self, should_stop: Callable[[], bool], least: int, patience: Patience) -> Iterator[tuple[int, T]]:
        """As ``Workers.in_order``."""
        for position in range(len(self._submits)):
            self._issue(position)
        given, last_s = 0, time.monotonic()
        while given < len(self._submits) and not (given >= least and should_stop()):
            if given not in self._found:
                is_quiet = time.monotonic() - last_s > self._due_s(patience)
                if self._take_back(POLL_S) or (is_quiet and self._issue_again()):
                    last_s = time.monotonic()
                continue
            found = self._found.pop(given)
            if isinstance(found, _Raised):
                saved = list(self._saved())
                yield from saved
                if found.is_loss:
                    raise _lost(found.error, len(self._submits) - given - len(saved)) from found.error
                raise found.error
            yield given, found
            given += 1
        yield from self._saved()

    def abandon(self) -> None:
        """Nobody waits any more."""
        for future in self._out:
            self._abandon(future)
        self._out.clear()

    def _saved(self) -> Iterator[tuple[int, T]]:
        """Results that are back and were not given yet."""
        self._take_back(0.0)
        for position, found in sorted(self._found.items(), key=lambda item: item[0]):
            if not isinstance(found, _Raised):
                yield position, found

    def _issue(self, position: int) -> None:
        try:
            self._out[self._submits[position]()] = position
        except RuntimeError as error:
            # A broken executor, and one that was shut down.
            self._found.setdefault(position, _Raised(error, is_loss=True))

    def _issue_again(self) -> bool:
        """Give what is overdue to another worker; not where jobs wait for workers as it is."""
        running = [future.running() for future in self._out]
        if any(running) and not all(running):
            return False
        num_issues = Counter(self._out.values())
        again = [position for position, num in num_issues.items() if num < MOST_ISSUES]
        for position in again:
            _log.info("job %d is overdue: another worker gets it, too", position)
            self._issue(position)
        return bool(again)

    def _due_s(self, patience: Patience) -> float:
        return patience.times * max(self._seconds) + patience.seconds if self._seconds else math.inf

    def _take_back(self, timeout_s: float) -> bool:
        """Wait for answers; whether there are any."""
        done, _ = wait(self._out, timeout=timeout_s, return_when=FIRST_COMPLETED)
        for future in sorted(done, key=self._out.__getitem__):
            # An answer to a job takes all others to it out.
            if future in self._out:
                self._take(future, self._out.pop(future))
        return bool(done)

    def _take(self, future: Future[Timed | bytes], position: int) -> None:
        error = CancelledError() if future.cancelled() else future.exception()
        if isinstance(error, WorkerDiedError) or type(error).__name__ in _DEATHS:
            self._bury(position, error)
            return
        if error is None:
            answer = timed(future.result())
            self._seconds.append(answer.seconds)
            self._found[position] = answer.value  # type: ignore[assignment]
        else:
            self._found[position] = _Raised(error, is_loss=isinstance(error, (BrokenExecutor, CancelledError)))
        for other in [each for each, at in self._out.items() if at == position]:
            del self._out[other]
            self._abandon(other)

    def _bury(self, position: int, error: BaseException | None) -> None:
        """A worker died: its job goes to another one."""
        self._deaths[position] = self._deaths[position] + 1 if isinstance(error, WorkerDiedError) else MOST_DEATHS
        if position in self._out.values():
            return
        if self._deaths[position] < MOST_DEATHS:
            _log.info("the worker of job %d died (%s): another one gets it", position, error)
            self._issue(position)
            return
        died = WorkerDiedError(f"{MOST_DEATHS} workers died with it, the last one: {error}")
        self._found[position] = _Raised(died) if self._given_up is None else self._given_up(died)


def _lost(error: BaseException, num_missing: int) -> WorkersLostError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return WorkersLostError(
        f"the workers are gone ({reason}); {num_missing} answers are missing, all others are in the log if there is a "
        "work directory: make a new executor and tune with the same workdir to continue"
    )
