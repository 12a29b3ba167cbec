"""Processes in which generated code is compiled and run; when one crashes, another one takes its place.

Each is started once and asked again and again, since importing TVM takes seconds. Messages are pickled objects of our
own over a pipe that only the two processes have; modules travel as TVM's JSON.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading

from tvm_spm.deploy.verify.messages import NetworkRequest, ReferenceKept, ReferenceRequest, Request, TaskRequest
from tvm_spm.deploy.verify.outcome import Verification
from tvm_spm.errors import ModelError
from tvm_spm.workers.child import Child, pipes_of_child, read, write


class _Child(Child):
    """The other process."""

    def __init__(self) -> None:
        super().__init__(serve)

    def verify(self, request: Request) -> Verification | ModelError | ReferenceKept | None:
        """The answer; None if the process ended instead."""
        answer = self.ask(request)
        assert answer is None or isinstance(answer, (Verification, ModelError, ReferenceKept))
        return answer


class _Children:
    """The processes of this one, at most as many as ask at the same time; a fork has none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[_Child] = []
        self._busy: set[_Child] = set()
        self._owner = os.getpid()

    def start(self, num: int) -> None:
        """Let so many be there."""
        with self._lock:
            self._forget_of_parent()
            self._free += [_Child() for _ in range(num - len(self._free) - len(self._busy))]

    def stop(self) -> None:
        """End the processes, if they are ours; who waits for one is told that it crashed."""
        with self._lock:
            self._forget_of_parent()
            free, self._free = self._free, []
            for child in self._busy:
                child.kill()  # closed by who waits for it
        for child in free:
            child.close()

    def ask(self, request: Request) -> Verification:
        """The answer of a process that nobody else asks meanwhile."""
        child = self._take()
        try:
            answer = child.verify(request)
        except BaseException:
            # Interrupted between question and answer: what comes next would be taken for another answer.
            self._end(child)
            raise
        if answer is None:
            why = child.why_ended()
            self._end(child)
            return Verification.failed(f"the code crashed: the process that ran it {why}")
        with self._lock:
            self._busy.discard(child)
            self._free.append(child)
        if isinstance(answer, ModelError):
            raise answer
        assert isinstance(answer, Verification)
        return answer

    def ask_beforehand(self, request: ReferenceRequest) -> Beforehand:
        """Let a process of its own work on a reference until it is needed."""
        return Beforehand(self._take(), request)

    def end(self, child: _Child) -> None:
        """A process that nobody needs."""
        self._end(child)

    def _take(self) -> _Child:
        with self._lock:
            self._forget_of_parent()
            while self._free:
                child = self._free.pop(0)
                if child.is_alive():
                    break
                child.close()
            else:
                child = _Child()
            self._busy.add(child)
        return child

    def _end(self, child: _Child) -> None:
        with self._lock:
            self._busy.discard(child)
        child.close()

    def _forget_of_parent(self) -> None:
        if self._owner != os.getpid():
            self._free, self._busy, self._owner = [], set(), os.getpid()


class Beforehand:
    """A process that finds out what a network computes, and waits to be asked about another one."""

    def __init__(self, child: _Child, request: ReferenceRequest) -> None:
        self._child = child
        self._answer: object = None
        # Its own end must not wait for this thread: the process it waits for is ended with us.
        self._thread = threading.Thread(target=self._ask, args=(request,), name="reference", daemon=True)
        self._thread.start()

    def _ask(self, request: ReferenceRequest) -> None:
        self._answer = self._child.verify(request)

    @property
    def is_ready(self) -> bool:
        """Whether it waits to be asked."""
        return isinstance(self._answer, ReferenceKept) and not self._thread.is_alive()

    def ask(self, request: NetworkRequest | TaskRequest) -> Verification | None:
        """The outcome; None if that process has no answer, so that another one must be asked.

        Args:
            request: If about a network, without a reference. One thread asks at a time.
        """
        self._thread.join()
        answer = (
            self._child.verify(request) if isinstance(self._answer, ReferenceKept) and self._child.is_alive() else None
        )
        return answer if isinstance(answer, Verification) else None

    def end(self) -> None:
        """Nothing more will be asked."""
        self._child.kill()
        self._thread.join()
        with contextlib.suppress(BrokenPipeError):  # a question that was not read
            _children.end(self._child)


_children = _Children()
"""Live as long as this process; the import of TVM in them is paid once."""
atexit.register(_children.stop)


def start_early(num: int = 1) -> None:
    """Start processes now, so that they are ready when they are first needed.

    Args:
        num: How many are asked at the same time.
    """
    _children.start(num)


def stop() -> None:
    """End the processes; the next question starts another one."""
    _children.stop()


def ask(request: Request) -> Verification:
    """Compare in another process; several threads may ask at the same time.

    Returns:
        The outcome; failed with its reason if the code there crashed.

    Raises:
        ModelError: What is asked for cannot be compared.
    """
    return _children.ask(request)


def ask_beforehand(request: ReferenceRequest) -> Beforehand:
    """Begin to find out what a network computes, in a process of its own."""
    return _children.ask_beforehand(request)


def serve(parent: int) -> None:
    """Answer until the other end closes the pipe or is gone.

    Args:
        parent: Process id of the one that asks.
    """
    questions, answers = pipes_of_child(parent)
    from tvm_spm.deploy.verify.answers import Responder  # TVM, which takes seconds

    responder = Responder()
    while True:
        try:
            request = read(questions)
        except EOFError:
            return
        assert isinstance(request, (TaskRequest, ReferenceRequest, NetworkRequest))
        write(answers, responder.answer(request))
