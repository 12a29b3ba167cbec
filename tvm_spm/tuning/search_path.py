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
        case: What is searched.
        memory: As given.
        trials: By mapping, in order.
        batch: Their mappings as arrays, in the same order.
    """

    def __init__(self, case: Case, run: Run, memory: TaskMemory, program_of: ProgramOf | None) -> None:
        self.case, self.memory = case, memory
        self._run = run
        self._measurer = SimulatorMeasurer() if run.measurer is None else run.measurer
        self._program_of = program_of if run.measurer is not None else None
        self.trials: dict[Mapping, Trial] = {}
        self.batch: MappingBatch = encode([])

    @property
    def is_simulated(self) -> bool:
        """Whether the simulator measures, which the formula describes."""
        return isinstance(self._measurer, SimulatorMeasurer)

    @property
    def has_workers(self) -> bool:
        """Whether several mappings may be measured at once."""
        return self._run.workers.are_others

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
        values = [trial.cost.objective(self.case.objective) for trial in self.trials.values() if trial.cost is not None]
        return self.batch.take(np.flatnonzero(succeeded)), values

    def best_value(self) -> float:
        """Of this path alone; other runs must not change where it leads."""
        return min(self.measured()[1], default=np.inf)

    def measure(self, mappings: Sequence[Mapping]) -> None:
        """Answers to all mappings that were not tried before.

        Raises:
            NoMeasurementError: Nothing but failures so far.
        """
        asked = _Asked(self, mappings)
        for found in self.answers(asked.requests):
            asked.take(found)
            if asked.is_hopeless:
                break
        asked.end()

    def answers(self, requests: Sequence[MeasureRequest]) -> Iterator[list[tuple[int, Answer]]]:
        """Of who measures, to requests of any path of the same run."""
        if requests:
            run = self._run
            yield from measure_in_order(requests, self._measurer, run.workers, run.should_stop)

    def program_of(self, mapping: Mapping) -> str | None:
        """The scheduled code of a mapping, for a measurer that runs code."""
        return None if self._program_of is None else self._program_of(mapping)

    def no_measurement(self) -> NoMeasurementError:
        """That nothing was measured, with the last reason."""
        failures = self.failures()
        count = "the only measurement" if len(failures) == 1 else f"all of the first {len(failures)} measurements"
        return NoMeasurementError(f"{self._measurer.name}: {count} failed, the last reason: {failures[-1]}")


class _Asked:
    """Mappings of one path that are measured, from the requests to the trials."""

    def __init__(self, path: SearchPath, mappings: Sequence[Mapping]) -> None:
        fresh = [mapping for mapping in dict.fromkeys(mappings) if mapping not in path.trials]
        self._path, self._fresh, self._batch = path, fresh, encode(fresh)
        self._known = {mapping: trial for mapping in fresh if (trial := path.memory.recall(mapping)) is not None}
        missing = [at for at, mapping in enumerate(fresh) if mapping not in self._known]
        self._missing = [fresh[at] for at in missing]
        workload, arch = path.case.workload, path.case.arch
        batch = self._batch.take(np.array(missing, dtype=np.int64))
        self._estimated = evaluate_batch(workload, arch, batch) if missing else None
        self.requests = [
            MeasureRequest(workload=workload, arch=arch, mapping=mapping, program=path.program_of(mapping))
            for mapping in self._missing
        ]

    @property
    def is_hopeless(self) -> bool:
        """Whether there were enough failures, and nothing else."""
        known = {**self._path.trials, **self._known}.values()
        return len(known) >= GIVE_UP and all(trial.failure for trial in known)

    def take(self, found: Sequence[tuple[int, Answer]]) -> None:
        """Keep answers, by the position of their request."""
        assert self._estimated is not None
        if self._path.is_simulated:
            self._check(found, self._estimated)
        answers = [(self._missing[at], answer, _prediction(self._estimated, at)) for at, answer in found]
        self._known.update((trial.mapping, trial) for trial in self._path.memory.record(answers))

    def end(self) -> None:
        """Make trials of what was answered.

        Raises:
            NoMeasurementError: Nothing but failures so far.
        """
        answered = [at for at, mapping in enumerate(self._fresh) if mapping in self._known]
        self._path.trials.update((self._fresh[at], self._known[self._fresh[at]]) for at in answered)
        self._path.batch = concat([self._path.batch, self._batch.take(np.array(answered, dtype=np.int64))])
        if self.is_hopeless:
            raise self._path.no_measurement()

    def _check(self, found: Sequence[tuple[int, Answer]], estimated: BatchCost) -> None:
        costs = {at: answer for at, answer in found if not isinstance(answer, str)}
        rows = list(costs)
        check_agreement(
            self._path.case.workload, self._path.case.arch, [self._missing[at] for at in rows], list(costs.values()),
            BatchCost(cycles=estimated.cycles[rows], energy_pj=estimated.energy_pj[rows]),
        )  # fmt: skip


def measure_together(wanted: Sequence[tuple[SearchPath, Sequence[Mapping]]]) -> dict[int, NoMeasurementError]:
    """Measure mappings of several paths of one run: at the same time where it has workers, else path by path.

    What each path keeps does not depend on that.

    Returns:
        By position the paths that have nothing but failures.
    """
    failed: dict[int, NoMeasurementError] = {}
    together = [_Asked(*each) for each in wanted] if wanted and wanted[0][0].has_workers else []
    places = [(at, row) for at, asked in enumerate(together) for row in range(len(asked.requests))]
    if places:
        for found in wanted[0][0].answers([together[at].requests[row] for at, row in places]):
            for position, answer in found:
                at, row = places[position]
                if not together[at].is_hopeless:
                    together[at].take([(row, answer)])
    for at, (path, mappings) in enumerate(wanted):
        try:
            if together:
                together[at].end()
            # Whom a request to stop left without any trial gets one.
            if not together or path.num_trials == 0:
                path.measure(mappings)
        except NoMeasurementError as error:
            failed[at] = error
    return failed


def _prediction(estimated: BatchCost, at: int) -> Prediction:
    return Prediction(
        model="analytical", cycles=float(estimated.cycles[at]), energy_pj=float(estimated.energy_pj[at])
    )  # fmt: skip
