"""Schedules of all tasks of a network, and whether each computes what it should: made beside other work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from tvm_spm.arch import Arch
from tvm_spm.deploy.task_code import make_schedule
from tvm_spm.deploy.verify import compare as verify
from tvm_spm.deploy.verify import process
from tvm_spm.deploy.verify.compare import NetworkCheck
from tvm_spm.deploy.verify.messages import TaskRequest
from tvm_spm.deploy.verify.outcome import Verification
from tvm_spm.errors import ModelError
from tvm_spm.lowering.target import target_of
from tvm_spm.result import SearchResult

if TYPE_CHECKING:
    import tvm

    from tvm_spm.frontend import Extraction

Asks = Callable[[TaskRequest], Verification]
"""Has a task compared in some process."""


class TaskChecks:
    """The schedules of the tasks of a network, compared one after the other in other processes.

    One of these is that which compares the network: as soon as it knows what that computes, and until it is asked
    about it. A context: what is not done at its end is left.

    Args:
        extraction: The network.
        arch: The accelerator.
        found: Per task index, how it runs.
        check: Of the network; its seed is that of all random inputs.
    """

    def __init__(
        self, extraction: Extraction, arch: Arch, found: Mapping[int, SearchResult], check: NetworkCheck
    ) -> None:
        self._extraction, self._found, self._check = extraction, found, check
        self._target = target_of(arch)
        self._first_use = {index: name for name, index in reversed(extraction.functions)}
        self._schedules: dict[int, tvm.s_tir.Schedule | str] = {}
        self._left = SimpleQueue[int | None]()
        self._outcomes: dict[int, Verification] = {}
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="tasks")
        self._at_network, self._at_tasks, self._telling = threading.Lock(), threading.Lock(), threading.Lock()
        self._tell: Callable[[int], None] | None = None
        self._scheduled: Future[None] | None = None
        self._compared: Future[None] | None = None
        self._is_over = False

    def __enter__(self) -> TaskChecks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._threads.shutdown()

    def begin(self) -> None:
        """Start now, if it has not been started."""
        if self._scheduled is None:
            self._scheduled = self._threads.submit(self._schedule_all)
            self._compared = self._threads.submit(self.compare)

    def stop(self) -> None:
        """Compare nothing more; who waits for an answer is told that its process crashed."""
        self._is_over = True
        if self._compared is not None and not self._compared.done():
            process.stop()

    def ask(self, request: TaskRequest) -> Verification:
        """Have something compared in a process that is free, or has done what it is at.

        Raises:
            ModelError: What is asked for cannot be compared.
        """
        if self._check.is_ready and self._at_network.acquire(blocking=False):
            try:
                return self._check.ask(request)
            finally:
                self._at_network.release()
        with self._at_tasks:
            return process.ask(request)

    def compare_network(self, tuned: tvm.IRModule) -> Verification:
        """The outcome for the whole network; what cannot be compared has not passed."""
        with self._at_network:
            try:
                return self._check.check(tuned)
            except ModelError as error:
                return Verification.failed(f"the network cannot be compared: {error}")

    def schedules(self) -> dict[int, tvm.s_tir.Schedule | str]:
        """Per task its schedule, or why there is none; waits until all are made."""
        self.begin()
        assert self._scheduled is not None
        self._scheduled.result()
        return self._schedules

    def follow(self, tell: Callable[[int], None]) -> None:
        """Be told the index of every task that has been compared, and of every one that will be."""
        with self._telling:
            self._tell = tell
            for index in self._outcomes:
                tell(index)

    def compare(self) -> None:
        """Compare tasks until none is left; so may several threads."""
        while not self._is_over and (index := self._left.get()) is not None:
            made = self._schedules[index]
            assert not isinstance(made, str)
            rng = np.random.default_rng([self._check.seed, index])
            func, scheduled = self._extraction.mod[self._first_use[index]], made.mod["main"]
            outcome = verify_function(func, scheduled, rng=rng, target=self._target, asks=self.ask)
            with self._telling:
                self._outcomes[index] = outcome
                if self._tell is not None:
                    self._tell(index)
        self._left.put(None)  # for the next one who looks

    def wait(self) -> None:
        """Until nothing is left but what other threads are at."""
        self.begin()
        assert self._compared is not None
        self._compared.result()

    def outcomes(self) -> dict[int, Verification]:
        """Per task that was compared, its schedule with the unscheduled function."""
        return {index: self._outcomes[index] for index in self._found if index in self._outcomes}

    def _schedule_all(self) -> None:
        try:
            for index, result in self._found.items():
                if self._is_over:
                    return
                func = self._extraction.mod[self._first_use[index]]
                made = make_schedule(func, self._extraction.nests[index], result.mapping)
                self._schedules[index] = made
                if not isinstance(made, str):
                    self._left.put(index)
        finally:
            self._left.put(None)


def verify_function(
    func: tvm.tirx.PrimFunc,
    scheduled: tvm.tirx.PrimFunc,
    *,
    rng: np.random.Generator,
    target: tvm.target.Target,
    asks: Asks = process.ask,
) -> Verification:
    """Compare a function with its schedule; what cannot be compared has not passed."""
    try:
        return verify.verify_task(func, scheduled, rng=rng, target=target, asks=asks)
    except ModelError as error:
        return Verification.failed(str(error))
