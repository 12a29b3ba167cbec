"""A process in which generated code is compiled and run; when it crashes, another one takes its place.

It is started once and asked again and again, since importing TVM takes seconds. Messages are pickled objects of our own
over a pipe that only the two processes have; modules travel as TVM's JSON.
"""

from __future__ import annotations

import atexit
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
from tvm_spm.deploy.verify.messages import NetworkRequest, Request, TaskRequest
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

    def ask(self, request: Request) -> Verification | ModelError | None:
        """The answer; None if the process ended instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            _write(self._process.stdin, request)
            answer = _read(self._process.stdout)
        except (BrokenPipeError, EOFError):
            return None
        assert isinstance(answer, (Verification, ModelError))
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

    def close(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.wait()
        interrupt.forget_child(self._process.pid)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._errors.close()


class _Children:
    """The one process there is at a time, of this process: a fork has none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._owner = os.getpid()

    def start(self) -> _Child:
        """The process, started unless it runs."""
        if self._owner != os.getpid():
            self._child, self._owner = None, os.getpid()
        if self._child is None or not self._child.is_alive():
            self.stop()
            self._child = _Child()
        return self._child

    def stop(self) -> None:
        """End the process, if it is ours."""
        if self._child is not None and self._owner == os.getpid():
            self._child.close()
        self._child = None

    def ask(self, request: Request) -> Verification:
        """The answer of the process."""
        with self._lock:
            child = self.start()
            try:
                answer = child.ask(request)
            except BaseException:
                # Interrupted between question and answer: what comes next would be taken for another answer.
                self.stop()
                raise
            if answer is None:
                why = child.why_ended()
                self.stop()
                return Verification.failed(f"the code crashed: the process that ran it {why}")
        if isinstance(answer, ModelError):
            raise answer
        return answer


_children = _Children()
"""Lives as long as this process; the import of TVM in the other one is paid once."""
atexit.register(_children.stop)


def start_early() -> None:
    """Start the process now, so that it is ready when it is first needed."""
    _children.start()


def stop() -> None:
    """End the process; the next question starts another one."""
    _children.stop()


def ask(request: Request) -> Verification:
    """Compare in the other process.

    Returns:
        The outcome; failed with its reason if the code there crashed.

    Raises:
        ModelError: What is asked for cannot be compared.
    """
    return _children.ask(request)


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
    from tvm_spm.deploy.verify.answers import answer  # TVM, which takes seconds

    while True:
        try:
            request = _read(questions)
        except EOFError:
            return
        assert isinstance(request, (TaskRequest, NetworkRequest))
        _write(answers, answer(request))


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
