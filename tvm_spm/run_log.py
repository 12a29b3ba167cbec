"""The log of one run in its work directory: what earlier runs measured, and what this one adds."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from tvm_spm.arch import Arch
from tvm_spm.errors import WorkdirError
from tvm_spm.saved_run import LOG_NAME
from tvm_spm.task_tuner import Measured
from tvm_spm.trial import LogHeader, Trial, TrialLog

_log = logging.getLogger(__name__)


class RunLog:
    """Trials by task; without a work directory nothing is kept."""

    def __init__(self, log: TrialLog | None) -> None:
        self._log = log
        self._trials: tuple[Trial, ...] = () if log is None else log.content.trials
        self._num_trials = len(self._trials)

    @classmethod
    def open(cls, workdir: Path | None, arch: Arch, *, model_name: str, model_sha256: str) -> RunLog:
        """Read the log of a work directory.

        Raises:
            WorkdirError: The directory cannot be written, or its log is damaged or belongs to another run.
        """
        if workdir is None:
            return cls(None)
        _require_writable(workdir)
        header = LogHeader.of(arch, model_name=model_name, model_sha256=model_sha256)
        log = TrialLog(workdir / LOG_NAME, header)
        if log.warning:
            _log.warning("%s", log.warning)
        return cls(log)

    def known(self, task: str) -> list[Measured]:
        """What earlier runs measured for a task, in order."""
        return [
            Measured(mapping=trial.mapping, predicted=dict(trial.predicted).get("analytical", 0.0), cost=trial.cost)
            for trial in self._trials
            if trial.task == task and trial.cost is not None
        ]

    def record(self, task: str, measured: Measured) -> None:
        """Add one measurement.

        Raises:
            WorkdirError: The log cannot be written.
        """
        if self._log is None:
            return
        self._log.append(
            Trial(
                index=self._num_trials,
                task=task,
                mapping=measured.mapping,
                source=measured.cost.model,
                predicted=(("analytical", measured.predicted),),
                cost=measured.cost,
            )
        )
        self._num_trials += 1


def _require_writable(workdir: Path) -> None:
    """Fail before the work, not after it."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"{workdir}: cannot create: {error.strerror}; choose a writable --workdir") from error
    if not os.access(workdir, os.W_OK | os.X_OK):
        raise WorkdirError(f"{workdir}: cannot write: permission denied; choose a writable --workdir")
