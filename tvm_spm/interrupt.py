"""Ctrl-C as a request to finish: the first one stops the search, a second one quits."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_log = logging.getLogger(__name__)


class StopRequest:
    """Set by Ctrl-C or by a deadline; long work asks it between steps."""

    def __init__(self, deadline_s: float | None) -> None:
        self.interrupted = False
        self._deadline_s = deadline_s

    def __call__(self) -> bool:
        """Whether to stop now."""
        return self.interrupted or (self._deadline_s is not None and time.monotonic() >= self._deadline_s)

    def share(self, parts_left: int) -> StopRequest:
        """A request that also stops when this part's share of the time left is used up."""
        if self._deadline_s is None or parts_left < 1:
            return self
        now = time.monotonic()
        part = _Part(now + max(0.0, self._deadline_s - now) / parts_left)
        part.whole = self
        return part


class _Part(StopRequest):
    """One part's share of a whole."""

    whole: StopRequest

    def __call__(self) -> bool:
        return self.whole() or super().__call__()


@contextmanager
def stop_on_interrupt(time_limit_s: float | None) -> Iterator[StopRequest]:
    """Turn the first Ctrl-C into a request; restores the former handler.

    Outside the main thread Python delivers no signals, so only the time limit counts there.
    """
    request = StopRequest(None if time_limit_s is None else time.monotonic() + time_limit_s)

    def handle(signum: int, frame: FrameType | None) -> None:
        if request.interrupted:
            raise KeyboardInterrupt
        request.interrupted = True
        _log.warning("stopping the search; verifying the best so far (Ctrl-C again quits)")

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    former = signal.signal(signal.SIGINT, handle)
    try:
        yield request
    finally:
        signal.signal(signal.SIGINT, former)
