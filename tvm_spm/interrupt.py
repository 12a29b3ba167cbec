"""Ctrl-C, SIGTERM and a time limit as one request to finish, handed down as a value.

Until there is a result worth keeping, a signal ends the work at once. From ``StopRequest.keep`` on, the first one
stops the search, whose best so far is verified and given back; a second one ends the work at once.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class _Signals:
    """What arrived; shared by all requests of a run."""

    def __init__(self) -> None:
        self.is_kept = False
        self.first: int | None = None

    def note(self, signum: int) -> bool:
        """Take a signal as a request to finish; False if the work must end at once instead."""
        if not self.is_kept or self.first is not None:
            return False
        self.first = signum
        # Straight to the descriptor: the signal may have interrupted a write to the stream.
        _tell(f"finishing with the best so far ({_NAMES[signal.Signals(signum)]} again quits)")
        return True


class StopRequest:
    """Set by a signal or by a deadline; long work asks it between steps."""

    def __init__(self, deadline_s: float = math.inf, signals: _Signals | None = None) -> None:
        self._deadline_s = deadline_s
        self._signals = _Signals() if signals is None else signals

    def __call__(self) -> bool:
        """Whether to stop now."""
        return self.interrupted or self.is_late

    @property
    def interrupted(self) -> bool:
        """Whether a signal asked to finish."""
        return self._signals.first is not None

    @property
    def signal_name(self) -> str | None:
        """Of the signal that asked to finish."""
        return None if self._signals.first is None else _NAMES[signal.Signals(self._signals.first)]

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self._deadline_s

    def keep(self) -> None:
        """From now on there is something to keep: a first signal is a request and not the end."""
        self._signals.is_kept = True

    @property
    def left_s(self) -> float:
        """Until the deadline; infinite if there is none."""
        return max(0.0, self._deadline_s - time.monotonic())

    @property
    def is_endless(self) -> bool:
        """Whether there is no deadline."""
        return math.isinf(self._deadline_s)

    def share(self, parts_left: float) -> StopRequest:
        """A request that also stops when this part's share of the time left is used up, one of so many."""
        if self.is_endless or parts_left < 1:
            return self
        now = time.monotonic()
        return StopRequest(now + max(0.0, self._deadline_s - now) / parts_left, self._signals)


class _Process:
    """The signals of a whole process, where a command of ours is all it does; at most one of these is made."""

    def __init__(self) -> None:
        self.signals = _Signals()
        self.children: set[int] = set()
        # A thread of its own hears of signals while the main one is in compiled code or in LLVM, which run without the
        # interpreter's lock; and no exception is raised in the middle of foreign code.
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        for signum in SIGNALS:
            # What starts a program in the background may tell it to ignore Ctrl-C.
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, lambda signum, frame: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), name="signals", daemon=True).start()

    def _watch(self, reader: int) -> None:
        while True:
            for signum in os.read(reader, 1):
                if signum in SIGNALS and not self.signals.note(signum):
                    self.leave(signum)

    def leave(self, signum: int) -> None:
        """End the process and what it started."""
        for pid in tuple(self.children):
            with contextlib.suppress(ProcessLookupError):
                # Who leads a group of its own started what else is in it.
                kill = os.killpg if os.getpgid(pid) == pid else os.kill
                kill(pid, signal.SIGKILL)
        if "multiprocessing" in sys.modules:
            for child in sys.modules["multiprocessing"].active_children():
                child.kill()
        _tell("stopped")
        os._exit(128 + signum)


_process: _Process | None = None


def own_process() -> None:
    """Take signals over for good: they belong to the command line from its first instruction to its last.

    Only in the main thread: a program that runs the command line in another one keeps its signals.
    """
    global _process
    if _process is None and threading.current_thread() is threading.main_thread():
        _process = _Process()


def add_child(pid: int) -> None:
    """Name a process that must not outlive this one."""
    if _process is not None:
        _process.children.add(pid)


def forget_child(pid: int) -> None:
    """A process named before has ended."""
    if _process is not None:
        _process.children.discard(pid)


@contextlib.contextmanager
def stop_on_interrupt(time_limit_s: float | None) -> Iterator[StopRequest]:
    """Turn signals into a request; restores the former handlers.

    A signal that is not a request gets the former handler: in a program that set none, Ctrl-C raises
    ``KeyboardInterrupt`` and SIGTERM ends the program. Outside the main thread Python delivers no signals, so only the
    time limit counts there.
    """
    deadline_s = math.inf if time_limit_s is None else time.monotonic() + time_limit_s
    if _process is not None:
        yield StopRequest(deadline_s, _process.signals)
        return
    signals = _Signals()
    if threading.current_thread() is not threading.main_thread():
        yield StopRequest(deadline_s, signals)
        return
    former = {signum: signal.getsignal(signum) for signum in SIGNALS}

    def handle(signum: int, frame: FrameType | None) -> None:
        if signals.note(signum):
            return
        known = former[signal.Signals(signum)]
        if callable(known):
            known(signum, frame)
        elif known is signal.SIG_DFL:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)

    # A handler of None was not set from Python, and could not be restored.
    taken = [signum for signum in SIGNALS if former[signum] not in (signal.SIG_IGN, None)]
    for signum in taken:
        signal.signal(signum, handle)
    try:
        yield StopRequest(deadline_s, signals)
    finally:
        for signum in taken:
            signal.signal(signum, former[signum])


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"tvm-spm: {text}\n".encode())
