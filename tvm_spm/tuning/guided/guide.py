"""What is known of a machine: its fitted numbers, and what the formula still gets wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.analytical.model import evaluate_batch
from cost_model.calibration import FittedArch, Measured, fit_arch
from cost_model.learned import Estimate
from cost_model.learned.residual import LearnedResidual, Lesson, fit_residual
from tvm_spm.arch import Arch
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.space.mapping_batch import MappingBatch, encode
from tvm_spm.trial import Trial
from tvm_spm.tuning.search_path import SearchPath
from tvm_spm.workload import Workload

Floats = NDArray[np.float64]

MIN_LESSONS = 16
"""Measurements of all tasks before a residual is learned."""

LEAST_VALUE = float(np.finfo(np.float64).tiny)
"""Stands for an objective of 0, as a machine or a measurer without energy has it, where a logarithm is taken."""


class Expected(NamedTuple):
    """What is expected of mappings: the logarithm of the objective, and its standard deviation."""

    mean: Floats
    deviation: Floats


class Answers(NamedTuple):
    """The measurements of one workload.

    Attributes:
        workload: What ran.
        batch: Mappings.
        cycles: What they took.
    """

    workload: Workload
    batch: MappingBatch
    cycles: Floats


def experience_of(trials: Mapping[Workload, Sequence[Trial]]) -> list[Answers]:
    """What earlier runs measured, as what a guide learns from."""
    found = []
    for workload, each in trials.items():
        known = [(trial.mapping, trial.cost.cycles) for trial in each if trial.cost is not None]
        cycles = np.array([count for _, count in known], dtype=np.float64)
        found.append(Answers(workload, encode([mapping for mapping, _ in known]), cycles))
    return found


def answers_on(path: SearchPath, workload: Workload) -> Answers:
    """What was measured on the path of one search."""
    batch, _ = path.measured()
    cycles = [trial.cost.cycles for trial in path.trials.values() if trial.cost is not None]
    return Answers(workload, batch, np.array(cycles, dtype=np.float64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """What measurements so far say of a machine.

    Attributes:
        declared: The accelerator of the file.
        fitted: What was fitted to it; None before the first fit, or where the file is believed.
        residual: What the formula still gets wrong; None where that is nothing, or not known yet.
        before: What earlier runs measured, of these workloads or of others.
    """

    declared: Arch
    before: tuple[Answers, ...] = ()
    fitted: FittedArch | None = None
    residual: LearnedResidual | None = None

    @property
    def arch(self) -> Arch:
        """The accelerator that the formula is asked about."""
        return self.declared if self.fitted is None else self.fitted.arch

    def calibrated(self, answers: Sequence[Answers]) -> Guide:
        """With the numbers of the accelerator fitted to all answers, earlier ones included."""
        measured = [
            Measured(workload=each.workload, batch=each.batch, cycles=each.cycles) for each in (*self.before, *answers)
        ]
        return replace(self, fitted=fit_arch(self.declared, measured), residual=None)

    def taught(self, answers: Sequence[Answers], seed: int, at_least: int = MIN_LESSONS) -> Guide:
        """With a residual learned from all answers, earlier ones included, if there are at least so many."""
        lessons = [
            Lesson(
                workload=each.workload, batch=each.batch, cycles=each.cycles,
                estimate=self.estimate(each.workload, each.batch),
            )
            for each in (*self.before, *answers) if each.batch.num_mappings
        ]  # fmt: skip
        is_enough = sum(lesson.batch.num_mappings for lesson in lessons) >= at_least
        return replace(self, residual=fit_residual(self.arch, lessons, seed=seed) if is_enough else None)

    def case(self, case: Case) -> Case:
        """A task on the accelerator as it is known."""
        return replace(case, arch=self.arch)

    def estimate(self, workload: Workload, batch: MappingBatch) -> Estimate:
        """Cycles and energy by the formula."""
        cost = evaluate_batch(workload, self.arch, batch)
        return Estimate(cycles=cost.cycles.astype(np.float64), energy_pj=cost.energy_pj)

    def expect(self, case: Case, batch: MappingBatch) -> Expected:
        """What is expected of mappings of a task. Energy is what the formula counts."""
        estimate = self.estimate(case.workload, batch)
        mean = np.log(np.maximum(case.objective.value_of(*estimate), LEAST_VALUE))
        if self.residual is None or case.objective is Objective.ENERGY:
            return Expected(mean, np.zeros(batch.num_mappings))
        more, deviation = self.residual.predict(case.workload, batch, estimate)
        return Expected(mean + more, deviation)
