"""The search strategy of MetaSchedule: mappings of a queue as candidates, ranked by MetaSchedule's cost model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tvm import s_tir
from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule import TuneContext
from tvm.s_tir.meta_schedule.arg_info import ArgInfo
from tvm.s_tir.meta_schedule.cost_model import CostModel
from tvm.s_tir.meta_schedule.database import Database
from tvm.s_tir.meta_schedule.runner import RunnerResult
from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate, PySearchStrategy, SearchStrategy

from tvm_spm.mapping import Mapping
from tvm_spm.meta_schedule.context import light_context
from tvm_spm.meta_schedule.model import seconds_of
from tvm_spm.meta_schedule.queue import MappingQueue, QueueOptions
from tvm_spm.meta_schedule.tasks import HostTask, NestTask, TaskTable, TirTask, mapping_of

_log = logging.getLogger(__name__)


@derived_object
class MappingStrategy(PySearchStrategy):
    """Exact start, then evolution on the formula, ranked by the cost model; ends when three batches gain nothing.

    Vector work is measured once, since there is nothing to choose; what stays on the host is not measured, and the log
    says why. A database of an earlier run changes nothing in what is tried.

    Args:
        tasks: Shared by all parts of a run.
        options: How much goes into choosing what is measured.
    """

    def __init__(self, tasks: TaskTable, options: QueueOptions) -> None:
        super().__init__()
        self._tasks, self._options = tasks, options
        self._seed = 0
        self._task: TirTask | None = None
        self._search: _Search | None = None

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        # The context holds this object, so holding the context would keep both for ever.
        self._seed, self._task = int(context.rand_state), self._tasks.of(context.mod)

    def pre_tuning(
        self,
        max_trials: int,
        num_trials_per_iter: int,
        design_spaces: Sequence[s_tir.Schedule],
        database: Database | None = None,
        cost_model: CostModel | None = None,
    ) -> None:
        """Begin; designs and database are not looked at."""
        assert self._task is not None
        if isinstance(self._task, HostTask):
            _log.warning("not tuned, it stays on the host: %s", self._task.reason)
        self._search = _Search(
            task=self._task, num_left=max_trials, batch=num_trials_per_iter, cost_model=cost_model,
            context=light_context(self._task.mod, None, "main"),
        )  # fmt: skip
        if isinstance(self._task, NestTask):
            self._search.queue = MappingQueue(self._task.space, self._task.default, self._seed, self._options)

    def post_tuning(self) -> None:
        """End."""
        self._search = None

    def generate_measure_candidates(self) -> list[MeasureCandidate] | None:
        """The next batch; None when the task is done."""
        return None if self._search is None else self._search.candidates() or None

    def notify_runner_results(
        self, measure_candidates: Sequence[MeasureCandidate], results: Sequence[RunnerResult]
    ) -> None:
        """Answers to a batch."""
        if self._search is not None and self._search.queue is not None:
            known = [mapping_of(each.sch.mod) for each in measure_candidates]
            pairs = [(m, seconds_of(result)) for m, result in zip(known, results, strict=True) if m is not None]
            self._search.queue.tell([m for m, _ in pairs], [seconds for _, seconds in pairs])

    def clone(self) -> SearchStrategy:
        """One that has not begun."""
        return MappingStrategy(self._tasks, self._options)


@dataclass(slots=True, kw_only=True)
class _Search:
    """One task from begin to end."""

    task: TirTask
    num_left: int
    batch: int
    cost_model: CostModel | None
    context: TuneContext
    queue: MappingQueue | None = None
    made: dict[Mapping, s_tir.Schedule | str] = field(default_factory=dict)

    def candidates(self) -> list[MeasureCandidate]:
        if isinstance(self.task, HostTask) or self.num_left < 1:
            return []
        if self.queue is None:
            self.num_left = 0
            return [self._candidate(s_tir.Schedule(self.task.mod))]
        chosen = self.queue.ask(min(self.batch, self.num_left), self._score)
        self.num_left -= len(chosen)
        made = [self._make(mapping) for mapping in chosen]
        return [self._candidate(sch) for sch in made if not isinstance(sch, str)]

    def _make(self, mapping: Mapping) -> s_tir.Schedule | str:
        assert isinstance(self.task, NestTask)
        return self.made[mapping] if mapping in self.made else self.task.realised(mapping)

    def _score(self, mappings: list[Mapping]) -> NDArray[np.float64]:
        """By the cost model, which is shown finished schedules, so that it may be any; in the given order without."""
        scores = np.full(len(mappings), -np.inf)
        # Most of what was not chosen stands among the best again.
        self.made = {mapping: self._make(mapping) for mapping in mappings}
        made = [(at, sch) for at, sch in enumerate(self.made.values()) if not isinstance(sch, str)]
        if not made:
            return scores
        rows = [at for at, _ in made]
        if self.cost_model is None:
            scores[rows] = -np.array(rows, dtype=np.float64)
        else:
            scores[rows] = self.cost_model.predict(self.context, [self._candidate(sch) for _, sch in made])
        return scores

    def _candidate(self, sch: s_tir.Schedule) -> MeasureCandidate:
        (func,) = self.task.mod.functions.values()
        return MeasureCandidate(sch, ArgInfo.from_prim_func(func))
