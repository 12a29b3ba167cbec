"""The cost model of MetaSchedule: the analytical formula, corrected by boosted trees once there are answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule import TuneContext
from tvm.s_tir.meta_schedule.cost_model import PyCostModel
from tvm.s_tir.meta_schedule.runner import RunnerResult
from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate

from cost_model.learned import XGBoostRanker
from tvm_spm import durable
from tvm_spm.errors import MappingError, ModelError
from tvm_spm.mapping import Mapping
from tvm_spm.meta_schedule.tasks import NestTask, TaskTable, mapping_of
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.space.mapping_batch import encode
from tvm_spm.tuning.screen import estimate
from tvm_spm.tuning.task_memory import key_of

MIN_TO_LEARN = 16
"""Answers on a task before the trees have a say."""

_VERSION = 1


@dataclass(slots=True, kw_only=True)
class _Learned:
    """Of the task with this name; cycles of what failed are infinite."""

    name: str
    ranker: XGBoostRanker
    cycles: dict[Mapping, float] = field(default_factory=dict)


@derived_object
class MappingCostModel(PyCostModel):
    """Scores mappings: 1 is a machine whose MACs never wait, and twice the score is half the cycles.

    Args:
        tasks: Shared by all parts of a run.
        learns: Whether answers change scores; without, they are those of the formula.
    """

    def __init__(self, tasks: TaskTable, *, learns: bool = True) -> None:
        super().__init__()
        self._tasks, self._learns = tasks, learns
        self._models: dict[str, _Learned] = {}
        self._loaded: dict[str, dict[Mapping, float]] = {}

    def predict(self, context: TuneContext, candidates: Sequence[MeasureCandidate]) -> NDArray[np.float64]:
        """A score for each candidate, larger is better; 0 for what carries no mapping."""
        scores = np.zeros(len(candidates))
        task = self._tasks.mapped(context.mod)
        mappings = [mapping_of(each.sch.mod) for each in candidates]
        rows = [at for at, mapping in enumerate(mappings) if mapping is not None]
        if task is None or not rows:
            return scores
        log2_cycles = self._model(task).ranker.scores(encode([m for m in mappings if m is not None]))
        ideal_cycles = task.nest.workload.macs / self._tasks.arch.peak_macs_per_cycle
        scores[rows] = ideal_cycles / np.exp2(log2_cycles)
        return scores

    def update(
        self, context: TuneContext, candidates: Sequence[MeasureCandidate], results: Sequence[RunnerResult]
    ) -> None:
        """Learn from answers."""
        task = self._tasks.mapped(context.mod)
        if task is None:
            return
        model = self._model(task)
        for candidate, result in zip(candidates, results, strict=True):
            mapping, seconds = mapping_of(candidate.sch.mod), seconds_of(result)
            if mapping is not None:
                model.cycles[mapping] = seconds * self._tasks.arch.clock_hz
        self._fit(model)

    def save(self, path: str) -> None:
        """Write all answers to a file, from which ``load`` learns again."""
        cycles = {task: dict(found) for task, found in self._loaded.items()}
        for model in self._models.values():
            cycles.setdefault(model.name, {}).update(model.cycles)
        lines = {
            task: {mapping.line(): each for mapping, each in found.items() if np.isfinite(each)}
            for task, found in cycles.items()
        }
        content = {"version": _VERSION, "arch": self._tasks.arch.sha256(), "cycles": lines}
        durable.write_file(Path(path), json.dumps(content).encode())

    def load(self, path: str) -> None:
        """Learn from the answers in a file.

        Raises:
            ModelError: It is not a file that ``save`` wrote, or is about another accelerator. TVM, through which a
                cost model is called, makes a ``RuntimeError`` of it, with the same text.
        """
        try:
            content = json.loads(durable.read_file(Path(path)) or b"")
            version, arch = content["version"], content["arch"]
            known = {
                task: {Mapping.parse(line): float(cycles) for line, cycles in found.items()}
                for task, found in content["cycles"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, MappingError) as error:
            raise ModelError(f"{path}: not a cost model of tvm_spm.meta_schedule ({error})") from None
        if version != _VERSION:
            raise ModelError(f"{path}: written by version {version} of the cost model: this is {_VERSION}")
        if arch != self._tasks.arch.sha256():
            raise ModelError(f"{path}: about another accelerator than {self._tasks.arch.name}")
        self._loaded = known
        self._models.clear()

    def _model(self, task: NestTask) -> _Learned:
        if task.key not in self._models:
            workload, arch = task.nest.workload, self._tasks.arch
            case = Case(workload=workload, arch=arch, objective=Objective.LATENCY)
            ranker = XGBoostRanker(workload, arch, objective=Objective.LATENCY, estimate=partial(estimate, case))
            model = _Learned(name=key_of(workload), ranker=ranker)
            model.cycles.update(self._loaded.get(model.name, {}))
            self._fit(model)
            self._models[task.key] = model
        return self._models[task.key]

    def _fit(self, model: _Learned) -> None:
        if self._learns and sum(np.isfinite(list(model.cycles.values()))) >= MIN_TO_LEARN:
            model.ranker.fit(encode(list(model.cycles)), np.array(list(model.cycles.values())))


def seconds_of(result: RunnerResult) -> float:
    """The mean time of an answer; infinite for a failure."""
    if result.run_secs is None or len(result.run_secs) == 0:
        return float("inf")
    return float(np.mean([float(each) for each in result.run_secs]))
