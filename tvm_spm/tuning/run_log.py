"""A run and its work directory: what earlier runs measured, what this one adds, and that nobody else writes there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cost_model.batched.model import evaluate_batch
from tvm_spm import durable
from tvm_spm.arch import Arch
from tvm_spm.errors import WorkdirError
from tvm_spm.space import legality
from tvm_spm.space.mapping_batch import encode
from tvm_spm.trial import Trial
from tvm_spm.tuning.agreement import DisagreementError, check_agreement
from tvm_spm.tuning.measurer import identity_of
from tvm_spm.tuning.saved_run import LOG_NAME
from tvm_spm.tuning.task_memory import EndedSearch, Measured, SearchName, TaskMemory
from tvm_spm.tuning.trial_log import LogHeader, RunStart, SearchEnd, TrialLog
from tvm_spm.units import parse_whole
from tvm_spm.workload import Workload

LOCK_NAME = ".lock"
OWNER_NAME = ".owner"

_log = logging.getLogger(__name__)


@contextmanager
def own(workdir: Path | None) -> Iterator[None]:
    """Keep other processes out of a work directory; without one there is nothing to do.

    Raises:
        WorkdirError: The directory cannot be written, or another process works in it; names it.
    """
    if workdir is None:
        yield
        return
    durable.make_directory(workdir)
    path = workdir / LOCK_NAME
    if path.is_symlink():
        raise WorkdirError(f"{path}: cannot lock: it is a symbolic link; delete it")
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        # Whoever has just taken the lock may not have signed yet.
        owner = parse_whole((durable.read_file(workdir / OWNER_NAME) or b"").decode(errors="replace").strip())
        who = "another process" if owner is None else f"process {owner}"
        raise WorkdirError(
            f"{workdir}: in use by {who}; wait until it has ended, or choose another --workdir"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise WorkdirError(f"{path}: cannot lock: {error}; choose a --workdir on another file system") from error
    try:
        durable.write_file(workdir / OWNER_NAME, f"{os.getpid()}\n".encode())
        yield
    finally:
        lock.release()


class RunLog:
    """Memories of tasks, kept in the log of a work directory; without one, kept nowhere."""

    def __init__(self, log: TrialLog | None, arch: Arch, run: RunStart) -> None:
        self._log, self._arch, self._run = log, arch, run
        self._trials: dict[str, list[Trial]] = {}
        for trial in () if log is None else log.content.trials:
            self._trials.setdefault(trial.task, []).append(trial)

    @classmethod
    def open(cls, workdir: Path | None, arch: Arch, run: RunStart) -> RunLog:
        """Read the log of a work directory and add that this run begins, unless an equal one did before.

        Raises:
            WorkdirError: The directory cannot be written, or its log is none, of a later format, or of another
                accelerator.
        """
        if workdir is None:
            return cls(None, arch, run)
        log = TrialLog(workdir / LOG_NAME, LogHeader.of(arch))
        for warning in log.warnings:
            _log.warning("%s", warning)
        if run not in log.content.runs:
            log.append(run)
        return cls(log, arch, run)

    def memory(self, key: str, workload: Workload) -> TaskMemory:
        """What is known of a task by this run's measurer; it keeps what is added."""
        if self._log is None:
            return TaskMemory()
        trials, measurer = self._trials.setdefault(key, []), self._run.measurer
        known = [
            Measured(mapping=trial.mapping, cost=trial.cost, failure=trial.failure)
            for trial in trials
            if trial.measurer == measurer and trial.rejection is None and self._is_sound(workload, trial)
        ]
        ended = [
            (
                SearchName(objective=end.objective, settings=end.settings),
                EndedSearch(num_trials=end.num_trials, rejected=end.rejected, failures=end.failures),
            )
            for end in self._log.content.searches
            if (end.task, end.measurer, end.seed) == (key, measurer, self._run.seed)
        ]

        def keep(found: Sequence[Measured]) -> None:
            new = [self._trial(key, len(trials) + offset, measured) for offset, measured in enumerate(found)]
            self._append(*new)
            trials.extend(new)

        def keep_end(search: SearchName, end: EndedSearch) -> None:
            self._append(
                SearchEnd(
                    task=key, objective=search.objective, seed=self._run.seed, measurer=measurer,
                    settings=search.settings, num_trials=end.num_trials, rejected=end.rejected, failures=end.failures,
                )
            )  # fmt: skip

        return TaskMemory(known, ended, keep=keep, keep_end=keep_end)

    def _trial(self, key: str, index: int, measured: Measured) -> Trial:
        return Trial(
            index=index, task=key, mapping=measured.mapping, measurer=self._run.measurer, model=self._run.model,
            arch_sha256=self._arch.sha256()[:16], seed=self._run.seed,
            predicted=() if measured.predicted is None else (measured.predicted,),
            cost=measured.cost, failure=measured.failure,
        )  # fmt: skip

    def _is_sound(self, workload: Workload, trial: Trial) -> bool:
        """Whether a logged trial may be used: a legal mapping, and no contradiction between simulator and model."""
        if legality.check(workload, self._arch, trial.mapping) is not None:
            return False
        if trial.cost is None or trial.measurer != identity_of(None):
            return True
        try:
            estimated = evaluate_batch(workload, self._arch, encode([trial.mapping]))
            check_agreement(workload, self._arch, [trial.mapping], [trial.cost], estimated)
        except DisagreementError as error:
            _log.warning("trial %d in the log is measured again: %s", trial.index, error)
            return False
        return True

    def _append(self, *lines: Trial | SearchEnd) -> None:
        assert self._log is not None
        self._log.append(*lines)
