"""What one search tried, in order; answers come from memory or from the measurer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cost_model.analytical.model import BatchCost, evaluate_batch
from tvm_spm.mapping import Mapping
from tvm_spm.space.case import Case
from tvm_spm.space.mapping_batch import MappingBatch, concat, encode
from tvm_spm.trial import Prediction, Trial
from tvm_spm.tuning.agreement import check_agreement
from tvm_spm.tuning.measurer import MeasureRequest, SimulatorMeasurer
from tvm_spm.tuning.measuring import Answer, NoMeasurementError, measure_in_order
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.task_memory import TaskMemory

GIVE_UP = 4
"""So many failures without a success end the measurements of a task."""

ProgramOf = Callable[[Mapping], str | None]
"""The scheduled code of a mapping, for a measurer that runs code."""


class SearchPath:
    """The trials of one search.

    Args:
        case: What is searched.
        run: Who measures, and where.
        memory: Answers of earlier runs, and keeper of the new ones.
        program_of: Asked for the code of mappings if the measurer is a user's.

    Attributes:
        trials: By mapping, in order.
        batch: Their mappings as arrays, in the same order.
    """

    def __init__(self, case: Case, run: Run, memory: TaskMemory, program_of: ProgramOf | None) -> None:
        self._case, self._run, self._memory = case, run, memory
        self._measurer = SimulatorMeasurer() if run.measurer is None else run.measurer
        self._program_of = program_of if run.measurer is not None else None
        self.trials: dict[Mapping, Trial] = {}
        self.batch: MappingBatch = encode([])

    @property
    def num_trials(self) -> int:
        """Mappings tried."""
        return len(self.trials)

    def failures(self) -> tuple[str, ...]:
        """Why measurements failed."""
        return tuple(trial.failure for trial in self.trials.values() if trial.failure)

    def measured(self) -> tuple[MappingBatch, list[float]]:
        """The mappings that were measured, and their objective."""
        succeeded = [trial.cost is not None for trial in self.trials.values()]
        values = [
            trial.cost.objective(self._case.objective) for trial in self.trials.values() if trial.cost is not None
        ]
        return self.batch.take(np.flatnonzero(succeeded)), values

    def best_value(self) -> float:
        """Of this path alone; other runs must not change where it leads."""
        return min(self.measured()[1], default=np.inf)

    def measure(self, mappings: Sequence[Mapping]) -> None:
        """Answers to all mappings that were not tried before.

        Raises:
            NoMeasurementError: Nothing but failures so far.
        """
        fresh = [mapping for mapping in dict.fromkeys(mappings) if mapping not in self.trials]
        batch = encode(fresh)
        known = {mapping: trial for mapping in fresh if (trial := self._memory.recall(mapping)) is not None}
        missing = np.array([at for at, mapping in enumerate(fresh) if mapping not in known], dtype=np.int64)
        for found in self._answers([fresh[at] for at in missing], batch.take(missing)):
            known.update((trial.mapping, trial) for trial in self._memory.record(found))
            if self._is_hopeless(known) or self._run.should_stop():
                break
        answered = [at for at, mapping in enumerate(fresh) if mapping in known]
        self.trials.update((fresh[at], known[fresh[at]]) for at in answered)
        self.batch = concat([self.batch, batch.take(np.array(answered, dtype=np.int64))])
        if self._is_hopeless({}):
            raise self.no_measurement()

    def no_measurement(self) -> NoMeasurementError:
        """That nothing was measured, with the last reason."""
        failures = self.failures()
        count = "the only measurement" if len(failures) == 1 else f"all of the first {len(failures)} measurements"
        return NoMeasurementError(f"{self._measurer.name}: {count} failed, the last reason: {failures[-1]}")

    def _answers(
        self, mappings: list[Mapping], batch: MappingBatch
    ) -> Iterator[list[tuple[Mapping, Answer, Prediction]]]:
        if not mappings:
            return
        workload, arch = self._case.workload, self._case.arch
        estimated = evaluate_batch(workload, arch, batch)
        requests = [
            MeasureRequest(
                workload=workload, arch=arch, mapping=mapping,
                program=None if self._program_of is None else self._program_of(mapping),
            )
            for mapping in mappings
        ]  # fmt: skip
        for found in measure_in_order(requests, self._measurer, self._run.executor):
            if isinstance(self._measurer, SimulatorMeasurer):
                self._check(mappings, found, estimated)
            yield [(mappings[at], answer, _prediction(estimated, at)) for at, answer in found]

    def _check(self, mappings: list[Mapping], found: list[tuple[int, Answer]], estimated: BatchCost) -> None:
        costs = {at: answer for at, answer in found if not isinstance(answer, str)}
        rows = list(costs)
        check_agreement(
            self._case.workload, self._case.arch, [mappings[at] for at in rows], list(costs.values()),
            BatchCost(cycles=estimated.cycles[rows], energy_pj=estimated.energy_pj[rows]),
        )  # fmt: skip

    def _is_hopeless(self, more: dict[Mapping, Trial]) -> bool:
        known = {**self.trials, **more}.values()
        return len(known) >= GIVE_UP and all(trial.failure for trial in known)


def _prediction(estimated: BatchCost, at: int) -> Prediction:
    return Prediction(
        model="analytical", cycles=float(estimated.cycles[at]), energy_pj=float(estimated.energy_pj[at])
    )  # fmt: skip
