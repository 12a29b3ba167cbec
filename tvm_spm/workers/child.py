"""Another process of this machine that answers one message after the other through pipes that only the two have."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import IO

from tvm_spm import garbage, interrupt

_LENGTH = struct.Struct("<Q")

GRACE_S = 2.0
"""Between the request to end and the end."""


class Child:
    """The other process.

    Args:
        serve: A function of a module that serves: it is called there with the id of this process.
    """

    def __init__(self, serve: Callable[[int], None]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        start = f"from {serve.__module__} import {serve.__name__} as serve; serve({os.getpid()})"
        code = f"import sys; sys.path[:] = {sys.path!r}; {start}"
        # A group of its own: Ctrl-C is for this process, which ends the other one.
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            start_new_session=True,
        )  # fmt: skip
        interrupt.add_child(self._process.pid)

    @property
    def pid(self) -> int:
        """Of the other process."""
        return self._process.pid

    def ask(self, message: object) -> object | None:
        """The answer; None if the process ended instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            write(self._process.stdin, message)
            return read(self._process.stdout)
        except (BrokenPipeError, EOFError):
            return None

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

    def end(self) -> None:
        """Let it end what it started, and itself; now if it takes longer than ``GRACE_S``."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        self.kill()

    def close(self) -> None:
        """End it, and forget it."""
        self.kill()
        self._process.wait()
        interrupt.forget_child(self._process.pid)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._errors.close()


def pipes_of_child(parent: int) -> tuple[IO[bytes], IO[bytes]]:
    """Questions and answers, in the other process; it ends when its parent is gone, whatever it is doing.

    Args:
        parent: Process id of the one that asks.
    """
    garbage.collect_seldom()
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What libraries print must not end up between the answers.
    os.dup2(2, 1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    return questions, answers


def _end_with(parent: int) -> None:
    waiting = threading.Event()
    while os.getppid() == parent:
        waiting.wait(1.0)
    os.kill(os.getpid(), signal.SIGTERM)


def write(pipe: IO[bytes], message: object) -> None:
    """Send a message.

    Raises:
        BrokenPipeError: The other process ended.
    """
    content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.write(_LENGTH.pack(len(content)))
    pipe.write(content)
    pipe.flush()


def read(pipe: IO[bytes]) -> object:
    """Wait for a message.

    Raises:
        EOFError: The other process ended.
    """
    header = pipe.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(header)
    content = pipe.read(length)
    if len(content) < length:
        raise EOFError
    return pickle.loads(content)
