"""Processes in which generated code is compiled and run; when one crashes, another one takes its place.

Each is started once and asked again and again, since importing TVM takes seconds. Messages are pickled objects of our
own over a pipe that only the two processes have; modules travel as TVM's JSON.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from typing import IO

from tvm_spm import interrupt
from tvm_spm.deploy.verify.messages import NetworkRequest, ReferenceKept, ReferenceRequest, Request, TaskRequest
from tvm_spm.deploy.verify.outcome import Verification
from tvm_spm.errors import ModelError

_LENGTH = struct.Struct("<Q")


class _Child:
    """The other process."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        start = f"from {__name__} import serve; serve({os.getpid()})"
        code = f"import sys; sys.path[:] = {sys.path!r}; {start}"
        # A group of its own: Ctrl-C is for this process, which ends the other one.
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            start_new_session=True,
        )  # fmt: skip
        interrupt.add_child(self._process.pid)

    def ask(self, request: Request) -> Verification | ModelError | ReferenceKept | None:
        """The answer; None if the process ended instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            _write(self._process.stdin, request)
            answer = _read(self._process.stdout)
        except (BrokenPipeError, EOFError):
            return None
        assert isinstance(answer, (Verification, ModelError, ReferenceKept))
        return answer

    def why_ended(self) -> str:
        """How the process ended, and the last line it wrote."""
        code = self._process.wait()
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 4096))
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        try:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        except ValueError:
            how = f"was ended by signal {-code}"
        return f"{how}{f' ({lines[-1][:200]})' if lines and code > 0 else ''}"

    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it now; who waits for its answer gets none."""
        self._process.kill()

    def close(self) -> None:
        """End it, and forget it."""
        self.kill()
        self._process.wait()
        interrupt.forget_child(self._process.pid)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._errors.close()


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
            answer = child.ask(request)
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
        self._answer = self._child.ask(request)

    def ask(self, request: NetworkRequest) -> Verification | None:
        """The outcome; None if that process has no answer, so that another one must be asked.

        Args:
            request: Without a reference.
        """
        self._thread.join()
        answer = (
            self._child.ask(request) if isinstance(self._answer, ReferenceKept) and self._child.is_alive() else None
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
    questions = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    # What compilers print must not end up between the answers.
    os.dup2(2, 1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    from tvm_spm.deploy.verify.answers import Responder  # TVM, which takes seconds

    responder = Responder()
    while True:
        try:
            request = _read(questions)
        except EOFError:
            return
        assert isinstance(request, (TaskRequest, ReferenceRequest, NetworkRequest))
        _write(answers, responder.answer(request))


def _end_with(parent: int) -> None:
    """End this process, whatever it is doing, when the one that asked is gone."""
    waiting = threading.Event()
    while os.getppid() == parent:
        waiting.wait(1.0)
    os._exit(0)


def _write(pipe: IO[bytes], message: object) -> None:
    content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.write(_LENGTH.pack(len(content)))
    pipe.write(content)
    pipe.flush()


def _read(pipe: IO[bytes]) -> object:
    header = pipe.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(header)
    content = pipe.read(length)
    if len(content) < length:
        raise EOFError
    return pickle.loads(content)
