"""Tune one workload: screen with the analytical model, rank with the learned one, measure by simulator or board."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from cost_model.batched.model import BatchCost, evaluate_batch
from cost_model.features import Estimate
from cost_model.learned import XGBoostRanker
from tvm_spm.arch import Arch
from tvm_spm.errors import NoMappingError
from tvm_spm.exact import exact_search
from tvm_spm.mapping import Mapping
from tvm_spm.searchers import Searcher
from tvm_spm.searchers.evolutionary import EvolutionarySearcher
from tvm_spm.searchers.random import RandomSearcher
from tvm_spm.space.constraints import ANYTHING, Constraints
from tvm_spm.space.countable import require_countable
from tvm_spm.space.mapping_batch import MappingBatch, concat, decode, encode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.trial import Prediction
from tvm_spm.tuning.agreement import check_agreement
from tvm_spm.tuning.measurer import Measurer, SimulatorMeasurer
from tvm_spm.tuning.measuring import Answer, NoMeasurementError, measure_in_order
from tvm_spm.tuning.task_memory import EndedSearch, Measured, SearchName, TaskMemory
from tvm_spm.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class TunerOptions:
    """How much work goes into one task.

    Attributes:
        trials: Mappings measured on the simulator.
        batch: Mappings measured between two refits of the learned model.
        population: Mappings screened by the analytical model per generation.
        generations: Generations between two measured batches.
        patience: Measured batches without improvement after which the task is done.
        explore: Share of each measured batch drawn at random among the candidates.
        min_to_rank: Measurements before the learned model has a say.
        exact_polls: How long the exact search may take, counted in its own steps, so that no clock decides a result.
    """

    trials: int = 64
    batch: int = 16
    population: int = 512
    generations: int = 8
    patience: int = 3
    explore: float = 0.125
    min_to_rank: int = 16
    exact_polls: int = 40


SEARCH_VERSION = 1
"""Raised when the same settings come to try other mappings, so that searches which ended before are done again."""

GIVE_UP = 4
"""So many failures without a success end the measurements of a task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutcome:
    """The best of one task and how it was found.

    Attributes:
        best: The best mapping among everything that is known of the task.
        default: The untuned default mapping; None if its measurement failed.
        num_trials: Mappings tried, failures and those an earlier run measured included.
        num_new_trials: Those measured by this run.
        rejected: Mappings refused, by reason.
        failures: Why measurements failed, in order.
    """

    best: Measured
    default: Measured | None
    num_trials: int
    num_new_trials: int
    rejected: tuple[tuple[str, int], ...]
    failures: tuple[str, ...] = ()


def tune_workload(
    workload: Workload,
    arch: Arch,
    *,
    objective: str,
    options: TunerOptions,
    seed: int,
    searcher: str = "exact",
    constraints: Constraints = ANYTHING,
    memory: TaskMemory | None = None,
    executor: Executor | None = None,
    measurer: Measurer | None = None,
    program_of: Callable[[Mapping], str | None] = lambda mapping: None,
    report: Callable[[int, float, float], None] = lambda done, best, legal_share: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TaskOutcome:
    """Find the mapping of one workload that measures best.

    Args:
        workload: What to run.
        arch: Where to run it.
        objective: ``edp``, ``energy`` or ``latency``.
        options: Budget.
        seed: Same seed, same trials: what is tried follows from it, the number of the batch, and the answers.
        searcher: ``exact``, ``evolutionary`` or ``random``; proposes what is screened. ``exact`` starts evolution from
            the best mapping with perfect factors.
        constraints: What every mapping must keep to.
        memory: Answers of earlier runs, which are not measured again, and keeper of the new ones. It changes nothing in
            the path of the search; only the best mapping measured by then is the result.
        executor: Runs measurements; in this process if None.
        measurer: Says how long a mapping takes; the simulator if None.
        program_of: The scheduled code of a mapping, for a measurer that runs code.
        report: Called with trials done, best objective and share of legal mappings.
        should_stop: Asked between batches.

    Raises:
        NoMappingError: Nothing in the map space is legal; the text counts the reasons. Or a mapping could take more
            cycles than 64 bits count.
        NoMeasurementError: No measurement succeeded.
        DisagreementError: The simulator and the analytical model differ where they must be equal.
        WorkersLostError: The executor is broken.
        WorkdirError: The memory cannot be written.
    """
    require_countable(workload, arch)
    space = MapSpace(workload=workload, arch=arch, constraints=constraints, allow_spill=constraints.wants_spill)
    default_mapping = space.require_default()
    memory = TaskMemory() if memory is None else memory
    name = SearchName(objective=objective, settings=_settings(options, searcher, constraints))
    ended = memory.ended(name)
    if ended is not None and memory.succeeded():
        return TaskOutcome(
            best=_best(memory.succeeded(), objective), default=memory.recall(default_mapping),
            num_trials=ended.num_trials, num_new_trials=0, rejected=ended.rejected, failures=ended.failures,
        )  # fmt: skip
    rng = np.random.default_rng([seed, 0])
    predict = _Predictor(workload, arch, objective)
    path = _Path(workload, arch, predict, memory, SimulatorMeasurer() if measurer is None else measurer, executor)

    def measure(mappings: list[Mapping]) -> None:
        path.measure(mappings, program_of if measurer is not None else lambda mapping: None, should_stop)

    measure([default_mapping])
    if searcher == "exact" and path.num_trials < options.trials:
        measure(_exact_start(space, objective, options.exact_polls, should_stop))
    proposer = _searcher(searcher, space, rng, list(path.tried))
    ranker = XGBoostRanker(workload, arch, objective=objective, estimate=predict.estimate, seed=seed)
    pool = _Pool()
    idle, legal_share, number = 0, 1.0, 0
    while path.num_trials < options.trials and idle < options.patience and not should_stop():
        number += 1
        _reseed(rng, seed, number)
        for _ in range(options.generations):
            batch = proposer.ask(options.population)
            if batch.num_mappings == 0:
                break
            scores = predict(batch)
            proposer.tell(batch, scores)
            pool.add(batch, scores)
        legal_share = proposer.legal_share
        # Chosen as if the whole batch fitted, so that a larger budget later goes on where this one ends.
        chosen = _choose(pool, ranker, path.succeeded(), path.tried, options, objective, rng)
        if not chosen:
            break
        before = path.best_value(objective)
        measure(chosen[: options.trials - path.num_trials])
        idle = 0 if path.best_value(objective) < before else idle + 1
        report(path.num_trials, path.best_value(objective), legal_share)
    if not memory.succeeded():
        raise path.no_measurement()
    end = EndedSearch(
        num_trials=path.num_trials, rejected=tuple(sorted(proposer.rejected.items())), failures=path.failures()
    )
    if not should_stop():
        memory.end(name, end)
    return TaskOutcome(
        best=_best(memory.succeeded(), objective), default=memory.recall(default_mapping), num_trials=end.num_trials,
        num_new_trials=path.num_new, rejected=end.rejected, failures=end.failures,
    )  # fmt: skip


class _Path:
    """What one search tried, in order; answers come from memory or from the measurer."""

    def __init__(
        self,
        workload: Workload,
        arch: Arch,
        predict: _Predictor,
        memory: TaskMemory,
        measurer: Measurer,
        executor: Executor | None,
    ) -> None:
        self._workload, self._arch, self._predict, self._memory = workload, arch, predict, memory
        self._measurer, self._executor = measurer, executor
        self.tried: dict[Mapping, Measured] = {}
        self.num_new = 0

    @property
    def num_trials(self) -> int:
        """Mappings tried."""
        return len(self.tried)

    def succeeded(self) -> list[Measured]:
        """The measurements that did not fail."""
        return [measured for measured in self.tried.values() if not measured.failure]

    def failures(self) -> tuple[str, ...]:
        """Why the others failed."""
        return tuple(measured.failure for measured in self.tried.values() if measured.failure)

    def best_value(self, objective: str) -> float:
        """Of this path alone; other runs must not change where it leads."""
        return min((m.measured_cost.objective(objective) for m in self.succeeded()), default=np.inf)

    def measure(
        self,
        mappings: Sequence[Mapping],
        program_of: Callable[[Mapping], str | None],
        should_stop: Callable[[], bool],
    ) -> None:
        """Answers to all mappings that were not tried before.

        Raises:
            NoMeasurementError: Nothing but failures so far.
        """
        fresh = [mapping for mapping in dict.fromkeys(mappings) if mapping not in self.tried]
        answers = {mapping: self._memory.recall(mapping) for mapping in fresh}
        missing = [mapping for mapping in fresh if answers[mapping] is None]
        for found in self._answers(missing, program_of):
            self._memory.record(found)
            self.num_new += len(found)
            answers.update((measured.mapping, measured) for measured in found)
            if self._is_hopeless(answers) or should_stop():
                break
        self.tried.update((mapping, measured) for mapping, measured in answers.items() if measured is not None)
        if self._is_hopeless(answers):
            raise self.no_measurement()

    def no_measurement(self) -> NoMeasurementError:
        """That nothing was measured, with the last reason."""
        failures = self.failures()
        count = "the only measurement" if len(failures) == 1 else f"all of the first {len(failures)} measurements"
        return NoMeasurementError(f"{self._measurer.name}: {count} failed, the last reason: {failures[-1]}")

    def _answers(
        self, mappings: list[Mapping], program_of: Callable[[Mapping], str | None]
    ) -> Iterator[list[Measured]]:
        if not mappings:
            return
        estimated = self._predict.cost(encode(mappings))
        programs = [program_of(mapping) for mapping in mappings]
        for found in measure_in_order(
            self._workload, self._arch, mappings, self._measurer, programs, self._executor
        ):  # fmt: skip
            if isinstance(self._measurer, SimulatorMeasurer):
                self._check(mappings, found, estimated)
            yield [
                Measured(
                    mapping=mappings[at],
                    predicted=Prediction(
                        model="analytical", cycles=float(estimated.cycles[at]), energy_pj=float(estimated.energy_pj[at])
                    ),
                    cost=None if isinstance(answer, str) else answer,
                    failure=answer if isinstance(answer, str) else "",
                )
                for at, answer in found
            ]

    def _check(self, mappings: list[Mapping], found: list[tuple[int, Answer]], estimated: BatchCost) -> None:
        costs = {at: answer for at, answer in found if not isinstance(answer, str)}
        rows = list(costs)
        check_agreement(
            self._workload, self._arch, [mappings[at] for at in rows], list(costs.values()),
            BatchCost(cycles=estimated.cycles[rows], energy_pj=estimated.energy_pj[rows]),
        )  # fmt: skip

    def _is_hopeless(self, answers: dict[Mapping, Measured | None]) -> bool:
        known = {**self.tried, **answers}.values()
        failed = [measured for measured in known if measured is not None and measured.failure]
        return len(failed) >= GIVE_UP and not any(measured is not None and not measured.failure for measured in known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Screened:
    """The best mapping by the analytical model alone."""

    best: Mapping
    default: Mapping
    num_evaluated: int


def screen_workload(
    workload: Workload,
    arch: Arch,
    *,
    objective: str,
    searcher: str,
    trials: int,
    seed: int,
    constraints: Constraints = ANYTHING,
    should_stop: Callable[[], bool] = lambda: False,
    population: int = 512,
) -> Screened:
    """Find the mapping that the analytical model likes best; nothing is measured.

    Args:
        workload: What to run.
        arch: Where to run it.
        objective: ``edp``, ``energy`` or ``latency``.
        searcher: ``evolutionary`` or ``random``.
        trials: Mappings priced at most.
        seed: Same seed, same result.
        constraints: What every mapping must keep to.
        should_stop: Asked between generations.
        population: Mappings per generation.

    Raises:
        NoMappingError: Nothing in the map space is legal; the text counts the reasons.
    """
    space = MapSpace(workload=workload, arch=arch, constraints=constraints, allow_spill=constraints.wants_spill)
    default = space.require_default()
    predict = _Predictor(workload, arch, objective)
    proposer = _searcher(searcher, space, np.random.default_rng(seed), [default])
    best, best_score, num_evaluated = default, float(predict(encode([default]))[0]), 1
    while num_evaluated < trials and not should_stop():
        batch = proposer.ask(min(population, trials - num_evaluated))
        if batch.num_mappings == 0:
            break
        scores = predict(batch)
        proposer.tell(batch, scores)
        num_evaluated += batch.num_mappings
        leader = int(np.argmin(scores))
        if scores[leader] < best_score:
            best, best_score = decode(batch, leader), float(scores[leader])
    return Screened(best=best, default=default, num_evaluated=num_evaluated)


def _exact_start(space: MapSpace, objective: str, polls: int, should_stop: Callable[[], bool]) -> list[Mapping]:
    """The best mapping with perfect factors, as far as the budget of the exact search goes; none if none fits."""
    try:
        found = exact_search(
            space.workload, space.arch, objective=objective, constraints=space.constraints,
            most_steps=polls, should_stop=should_stop,
        )  # fmt: skip
    except NoMappingError:
        return []
    return [found.mapping]


def _searcher(name: str, space: MapSpace, rng: np.random.Generator, start: Sequence[Mapping]) -> Searcher:
    if name == "random":
        return RandomSearcher(space, rng=rng)
    return EvolutionarySearcher(space, rng=rng, start=encode(start))


class _Predictor:
    """The analytical model's objective for a batch."""

    def __init__(self, workload: Workload, arch: Arch, objective: str) -> None:
        self._workload, self._arch, self._objective = workload, arch, objective

    def cost(self, batch: MappingBatch) -> BatchCost:
        """Cycles and energy."""
        return evaluate_batch(self._workload, self._arch, batch)

    def estimate(self, batch: MappingBatch) -> Estimate:
        """The same as features."""
        cost = self.cost(batch)
        return Estimate(cycles=cost.cycles.astype(np.float64), energy_pj=cost.energy_pj)

    def objective_of(self, cost: BatchCost) -> NDArray[np.float64]:
        """Of each mapping."""
        cycles = cost.cycles.astype(np.float64)
        return {"latency": cycles, "energy": cost.energy_pj, "edp": cycles * cost.energy_pj}[self._objective]

    def __call__(self, batch: MappingBatch) -> NDArray[np.float64]:
        return self.objective_of(self.cost(batch))


class _Pool:
    """The best screened mappings so far, by predicted objective."""

    LIMIT = 512

    def __init__(self) -> None:
        self.batch: MappingBatch | None = None
        self.scores: NDArray[np.float64] = np.empty(0)

    def add(self, batch: MappingBatch, scores: NDArray[np.float64]) -> None:
        """Merge a screened batch; ties keep the earlier mapping."""
        merged = batch if self.batch is None else concat([self.batch, batch])
        total = np.concatenate([self.scores, scores])
        keep = np.argsort(total, kind="stable")[: self.LIMIT]
        self.batch, self.scores = merged.take(keep), total[keep]


def _choose(
    pool: _Pool,
    ranker: XGBoostRanker,
    measured: Sequence[Measured],
    tried: Container[Mapping],
    options: TunerOptions,
    objective: str,
    rng: np.random.Generator,
) -> list[Mapping]:
    """The next batch to measure: the best ranked, then a few at random."""
    if pool.batch is None:
        return []
    order = np.arange(pool.batch.num_mappings)
    num_random = 0
    if len(measured) >= options.min_to_rank:
        values = [m.measured_cost.objective(objective) for m in measured]
        ranker.fit(encode([m.mapping for m in measured]), np.array(values))
        order = np.asarray(ranker.rank(pool.batch))
        num_random = min(options.batch - 1, round(options.explore * options.batch))
    shuffled = rng.permutation(order)
    chosen: list[Mapping] = []
    for source, limit in ((order, options.batch - num_random), (shuffled, options.batch)):
        for mapping in _decoded(pool.batch, source):
            if len(chosen) >= limit:
                break
            if mapping not in tried and mapping not in chosen:
                chosen.append(mapping)
    return chosen


def _best(measured: Sequence[Measured], objective: str) -> Measured:
    return min(measured, key=lambda m: (m.measured_cost.objective(objective), m.mapping.line()))


def _settings(options: TunerOptions, searcher: str, constraints: Constraints) -> str:
    """Everything but objective and seed that decides which mappings are tried."""
    found = {"version": SEARCH_VERSION, "searcher": searcher, "constraints": str(constraints), **asdict(options)}
    return json.dumps(found)


def _reseed(rng: np.random.Generator, seed: int, number: int) -> None:
    """What is drawn in a batch depends on the seed and its number alone, not on what was drawn before."""
    rng.bit_generator.state = np.random.default_rng([seed, number]).bit_generator.state


def _decoded(batch: MappingBatch, order: NDArray[np.integer]) -> Iterator[Mapping]:
    for row in order:
        yield decode(batch, int(row))
