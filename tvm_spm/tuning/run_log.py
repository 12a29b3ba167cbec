"""A run and its work directory: what earlier runs measured, what this one adds, and that nobody else writes there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cost_model.analytical.model import evaluate_batch
from tvm_spm import durable
from tvm_spm.arch import Arch
from tvm_spm.errors import WorkdirError
from tvm_spm.space import legality
from tvm_spm.space.mapping_batch import encode
from tvm_spm.trial import Trial
from tvm_spm.tuning.agreement import DisagreementError, check_agreement
from tvm_spm.tuning.group_memory import GroupMemory
from tvm_spm.tuning.log_lines import LogHeader, RunStart
from tvm_spm.tuning.measurer import identity_of
from tvm_spm.tuning.saved_run import LOG_NAME
from tvm_spm.tuning.task_memory import Origin, TaskMemory, key_of
from tvm_spm.tuning.trial_log import TrialLog
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
    """Memories of tasks, kept in the log of a work directory."""

    def __init__(self, workdir: Path, arch: Arch, run: RunStart) -> None:
        """Read the log of a work directory and add that this run begins, unless an equal one did before.

        Raises:
            WorkdirError: The directory cannot be written, or its log is none, of a later format, or of another
                accelerator.
        """
        self._arch, self._run = arch, run
        self._log = TrialLog(workdir / LOG_NAME, LogHeader.of(arch))
        for warning in self._log.warnings:
            _log.warning("%s", warning)
        if run not in self._log.content.runs:
            self._log.append(run)

    def memory(self, workload: Workload) -> TaskMemory:
        """What is known of a task by this run's measurer; it keeps what is added."""
        content, run, key = self._log.content, self._run, key_of(workload)
        trials = [trial for trial in content.trials if trial.task == key]
        return TaskMemory(
            Origin(
                task=key, measurer=run.measurer, model=run.model, arch_sha256=self._arch.sha256()[:16], seed=run.seed
            ),
            known=(
                trial for trial in trials
                if trial.measurer == run.measurer and trial.rejection is None and self._is_sound(workload, trial)
            ),
            ended=(
                end for end in content.searches
                if (end.task, end.measurer, end.seed) == (key, run.measurer, run.seed)
            ),
            num_logged=len(trials),
            append=self._log.append,
        )  # fmt: skip

    def group_memory(self) -> GroupMemory:
        """What is known of groups by this run's measurer; it keeps what is added."""
        known = (trial for trial in self._log.content.groups if trial.measurer == self._run.measurer)
        return GroupMemory(self._run.measurer, known=known, append=self._log.append)

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
