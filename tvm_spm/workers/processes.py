"""Processes of this machine as an executor; one that is killed takes nothing with it but the answer it owed."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, ParamSpec, TypeVar

import cloudpickle

from tvm_spm.interrupt import own_process
from tvm_spm.workers.calls import pack, unpack
from tvm_spm.workers.child import Child, pipes_of_child, read, write
from tvm_spm.workers.errors import WorkerDiedError, WorkersError

P = ParamSpec("P")
T = TypeVar("T")


class _Job(NamedTuple):
    """What waits for a worker: a packed call, or one that a thread makes here."""

    future: Future[object]
    content: bytes | None
    here: Callable[[], object] | None


class ProcessWorkers(Executor):
    """An executor of processes, each of which is started when it is first needed, and again after it died.

    A job whose process dies ends with ``WorkerDiedError``; all others go on. Where a ``ProcessPoolExecutor`` imports
    the main script again, these processes do not, so a script needs no guard.

    Args:
        num_workers: Jobs at once.

    Raises:
        WorkersError: There would be none.
    """

    def __init__(self, num_workers: int) -> None:
        if num_workers < 1:
            raise WorkersError(f"{num_workers} workers: needs at least 1")
        self.num_workers = num_workers
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._running: weakref.WeakKeyDictionary[Future[object], Child] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        self._is_down = False

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a call in one of the processes.

        Raises:
            WorkersError: An argument cannot be sent to another process.
        """
        return self._put(_Job(Future(), pack(partial(function, **kwargs) if kwargs else function, args), None))

    def submit_waiting(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a call that does nothing but wait for another process: a thread of a worker does, in this process."""
        return self._put(_Job(Future(), None, partial(function, *args, **kwargs)))

    def abandon(self, future: Future[object]) -> None:
        """Nobody waits for an answer any more: a process that still works on it is ended, and another one started."""
        if future.cancel():
            return
        with self._lock:
            child = self._running.get(future)
            if child is not None:
                child.kill()

    def pids(self) -> list[int]:
        """Of processes that work on a job."""
        with self._lock:
            return [child.pid for child in self._running.values()]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs; ``cancel_futures`` ends those under way, too."""
        with self._lock:
            self._is_down, was_down = True, self._is_down
        if cancel_futures:
            self._cancel_waiting()
            with self._lock:
                running = list(self._running.values())
            for child in running:
                child.end()
        if not was_down:
            for _ in self._threads:
                self._jobs.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _cancel_waiting(self) -> None:
        ends = 0
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                ends += 1
            else:
                job.future.cancel()
                job.future.set_running_or_notify_cancel()
        for _ in range(ends):
            self._jobs.put(None)

    def _put(self, job: _Job) -> Future:  # type: ignore[type-arg]
        with self._lock:
            if self._is_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if len(self._threads) < self.num_workers:
                self._threads.append(threading.Thread(target=self._work, name="worker", daemon=True))
                self._threads[-1].start()
        self._jobs.put(job)
        return job.future

    def _work(self) -> None:
        """One worker: a thread, and its process once there is work for it."""
        child: Child | None = None
        while (job := self._jobs.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            if job.here is not None:
                _settle(job.future, _outcome(job.here))
                continue
            if child is not None and not child.is_alive():
                child.close()
                child = None
            try:
                child = child or Child(serve)
            except OSError as error:
                _settle(job.future, _Outcome(None, WorkersError(f"cannot start a worker: {error}")))
                continue
            with self._lock:
                self._running[job.future] = child
            answer = child.ask(job.content)
            with self._lock:
                del self._running[job.future]
            if answer is None:
                _settle(job.future, _Outcome(None, WorkerDiedError(f"its process {child.why_ended()}")))
                child.close()
                child = None
            else:
                read_back = _outcome(partial(_read_answer, answer))
                _settle(job.future, read_back.value if isinstance(read_back.value, _Outcome) else read_back)
        if child is not None:
            child.close()


class _Outcome(NamedTuple):
    """Of a call: its value, or what it raised."""

    value: object
    error: BaseException | None


def _read_answer(content: object) -> object:
    assert isinstance(content, bytes)
    return cloudpickle.loads(content)


def _settle(future: Future[object], outcome: _Outcome) -> None:
    if outcome.error is not None:
        future.set_exception(outcome.error)
    else:
        future.set_result(outcome.value)


def _outcome(function: Callable[[], object]) -> _Outcome:
    """What a call gives or raises, as data."""
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(function)
        error = future.exception()
    return _Outcome(None if error else future.result(), error)


def _answer(content: bytes) -> bytes:
    """The outcome of a packed call, packed."""
    outcome = _outcome(lambda: _made(content))
    packed = _outcome(lambda: _checked(outcome))
    if packed.error is not None:
        what = outcome.value if outcome.error is None else outcome.error
        text = f"{type(what).__qualname__}: cannot be sent back by a worker: {packed.error}"
        return bytes(
            cloudpickle.dumps(_Outcome(None, WorkersError(text if outcome.error is None else f"{text} ({what})")))
        )
    assert isinstance(packed.value, bytes)
    return packed.value


def _made(content: bytes) -> object:
    function, arguments = unpack(content)
    return function(*arguments)


def _checked(outcome: _Outcome) -> bytes:
    content = bytes(cloudpickle.dumps(outcome))
    if outcome.error is not None:
        # Exceptions whose arguments are not those of their class come to pieces on the other side only.
        cloudpickle.loads(content)
    return content


def serve(parent: int) -> None:
    """Make calls until the other end closes the pipe or is gone.

    Args:
        parent: Process id of the one that asks.
    """
    own_process()
    questions, answers = pipes_of_child(parent)
    while True:
        try:
            content = read(questions)
        except EOFError:
            return
        assert isinstance(content, bytes)
        write(answers, _answer(content))
