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
from cost_model.simulator import simulate_cycles
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

MOST_FITS = 3
"""Of numbers, from what the simulator of the last ones says of waits."""

DOUBTFUL = 0.03
"""A spread of the logarithm of what a fit leaves; a formula that describes the machine leaves a tenth of it."""

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
        is_declined: Whether the declared numbers are used all the same, as what is learned beside them explains more.
        before: What earlier runs measured, of these workloads or of others.
        rehearses: Whether the simulator of the machine as it is known is asked, where the formula only estimates it.
    """

    declared: Arch
    rehearses: bool = False
    before: tuple[Answers, ...] = ()
    fitted: FittedArch | None = None
    residual: LearnedResidual | None = None
    is_declined: bool = False

    @property
    def arch(self) -> Arch:
        """The accelerator that the formula is asked about."""
        return self.declared if self.fitted is None or self.is_declined else self.fitted.arch

    @property
    def is_doubtful(self) -> bool:
        """Whether fitted numbers leave so much unexplained that declared ones may be as good for another workload."""
        return self.fitted is not None and bool(self.fitted.numbers) and self.fitted.spread_after > DOUBTFUL

    def calibrated(self, answers: Sequence[Answers]) -> Guide:
        """With the numbers of the accelerator fitted to all answers, earlier ones included.

        Where cores share channels of DRAM the formula is fitted to what is left of the measurements without the waits
        that the simulator sees and the formula does not. Those are of a machine, so a fit changes them: it is repeated
        from the machine that it found, and that fit is kept whose simulator is nearest to the measurements.
        """
        known = [each for each in (*self.before, *answers) if each.batch.num_mappings]
        if not self.rehearses:
            return replace(
                self, fitted=self._fit(known, [each.cycles for each in known]), residual=None, is_declined=False
            )
        tried: dict[Arch, tuple[float, FittedArch | None]] = {}
        at = replace(self, fitted=None, is_declined=False)
        for _ in range(MOST_FITS):
            simulated = [at.estimate(each.workload, each.batch).cycles for each in known]
            misses = [np.abs(np.log(own / each.cycles)) for own, each in zip(simulated, known, strict=True)]
            tried[at.arch] = float(np.mean(np.concatenate([np.zeros(0), *misses]))) if misses else 0.0, at.fitted
            unwaited = [
                each.cycles * at.screen(each.workload, each.batch).cycles / own
                for own, each in zip(simulated, known, strict=True)
            ]
            found = self._fit(known, unwaited)
            if found.arch in tried:
                tried[found.arch] = tried[found.arch][0], found
                break
            at = replace(at, fitted=found)
        best = min(tried, key=lambda arch: tried[arch][0])
        return replace(self, fitted=tried[best][1], residual=None, is_declined=False)

    def _fit(self, known: Sequence[Answers], cycles: Sequence[Floats]) -> FittedArch:
        measured = [
            Measured(workload=each.workload, batch=each.batch, cycles=own)
            for each, own in zip(known, cycles, strict=True)
        ]
        return fit_arch(self.declared, measured)

    def taught(self, answers: Sequence[Answers], seed: int, at_least: int = MIN_LESSONS) -> Guide:
        """With a residual learned from all answers, earlier ones included, if there are at least so many.

        Where fitted numbers leave much unexplained the residual is also learned beside the declared ones, and those are
        kept beside which it misses measurements that it did not see by less.
        """
        guides = [replace(self, is_declined=False)]
        if self.is_doubtful:
            guides.append(replace(self, is_declined=True))
        taught = [each._taught(answers, seed, at_least) for each in guides]
        return min(taught, key=lambda each: 0.0 if each.residual is None else each.residual.noise)

    def _taught(self, answers: Sequence[Answers], seed: int, at_least: int) -> Guide:
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

    def screen(self, workload: Workload, batch: MappingBatch) -> Estimate:
        """Cycles and energy by the formula."""
        cost = evaluate_batch(workload, self.arch, batch)
        return Estimate(cycles=cost.cycles.astype(np.float64), energy_pj=cost.energy_pj)

    def estimate(self, workload: Workload, batch: MappingBatch) -> Estimate:
        """Cycles and energy by what knows most of the machine: its simulator where cores share, else the formula."""
        found = self.screen(workload, batch)
        if not self.rehearses or batch.num_mappings == 0:
            return found
        return found._replace(cycles=simulate_cycles(workload, self.arch, batch).astype(np.float64))

    def expect(self, case: Case, batch: MappingBatch, *, screens: bool = False) -> Expected:
        """What is expected of mappings of a task. Energy is what the formula counts.

        Args:
            case: The task.
            batch: Mappings.
            screens: By the formula, for many mappings of which few are looked at more closely.
        """
        estimate = (self.screen if screens else self.estimate)(case.workload, batch)
        mean = np.log(np.maximum(case.objective.value_of(*estimate), LEAST_VALUE))
        if self.residual is None or case.objective is Objective.ENERGY:
            return Expected(mean, np.zeros(batch.num_mappings))
        more, deviation = self.residual.predict(case.workload, batch, estimate)
        return Expected(mean + more, deviation)
