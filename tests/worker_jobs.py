"""Jobs for workers, and an executor that answers in any order and loses workers."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path

from tvm_spm.tuning.measurer import Measurement, MeasureRequest
from tvm_spm.workers import WorkerDiedError


def square(number: int) -> int:
    return number * number


def square_slowly(number: int, folder: str) -> int:
    """Leaves its process id; takes long for who does it first and is number 0."""
    first = Path(folder) / f"{number}"
    is_first = not first.exists()
    first.with_suffix(".new").write_text(str(os.getpid()))
    first.with_suffix(".new").rename(first)
    time.sleep(600 if number == 0 and is_first else 0.05)
    return number * number


def square_or_end(number: int, deadly: tuple[int, ...]) -> int:
    """Ends its process for some numbers."""
    if number in deadly:
        os._exit(7)
    return number * number


def fail(number: int) -> int:
    raise ZeroDivisionError(f"number {number}")


class TwoArguments(Exception):
    """Cannot be unpickled: its one argument is not what it is made with."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(one + other)


def fail_oddly(number: int) -> int:
    raise TwoArguments(number, 1)


def give_a_lock(number: int) -> object:
    return threading.Lock()


class Shuffled(Executor):
    """Makes calls in an order of its own; some of its workers die."""

    def __init__(self, seed: int, deaths: float) -> None:
        self._rng, self._deaths = random.Random(seed), deaths
        self._waiting: list[tuple[Future, Callable[..., object], tuple[object, ...]]] = []
        self._lock, self._is_open = threading.Lock(), True
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def submit(self, function, /, *args):
        future: Future = Future()
        with self._lock:
            self._waiting.append((future, function, args))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._is_open = False
        self._thread.join()

    def _work(self) -> None:
        while self._is_open:
            time.sleep(1e-4)
            with self._lock:
                if not self._waiting:
                    continue
                future, function, args = self._waiting.pop(self._rng.randrange(len(self._waiting)))
            if not future.set_running_or_notify_cancel():
                continue
            if self._rng.random() < self._deaths:
                future.set_exception(WorkerDiedError("bad luck"))
            else:
                future.set_result(function(*args))


@dataclass(frozen=True)
class Mortal:
    """A measurer that ends its process the first time that it is asked certain mappings, and waits a little."""

    folder: str
    every: int = 0
    seconds: float = 0.0
    name: str = "mortal"

    def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
        return [self._measure(each) for each in requests]

    def _measure(self, request: MeasureRequest) -> Measurement:
        number = sum(request.mapping.line().encode())
        seen = Path(self.folder) / str(number)
        if self.every and number % self.every == 0 and not seen.exists():
            seen.touch()
            os._exit(1)
        time.sleep(self.seconds)
        return Measurement(cycles=request.workload.macs + number)
