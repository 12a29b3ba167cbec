"""Tune one workload: screen with the analytical model, rank with the learned one, measure by simulator or board."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cost_model.batched import BatchCost, evaluate_batch
from cost_model.features import Estimate
from cost_model.learned import XGBoostRanker
from tvm_spm.agreement import check_agreement
from tvm_spm.arch import Arch
from tvm_spm.constraints import ANYTHING, Constraints
from tvm_spm.cost import Cost
from tvm_spm.countable import require_countable
from tvm_spm.errors import NoMappingError
from tvm_spm.exact import exact_search
from tvm_spm.mapping import Mapping
from tvm_spm.mapping_batch import MappingBatch, concat, decode, encode
from tvm_spm.mapspace import MapSpace
from tvm_spm.measurer import Measurer, SimulatorMeasurer, measure
from tvm_spm.searchers import Searcher
from tvm_spm.searchers.evolutionary import EvolutionarySearcher
from tvm_spm.searchers.random import RandomSearcher
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One mapping, what the analytical model said, and what the simulator said."""

    mapping: Mapping
    predicted: float
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutcome:
    """The best of one task and how it was found."""

    best: Measured
    default: Measured
    num_trials: int
    num_new_trials: int
    rejected: tuple[tuple[str, int], ...]


def tune_workload(
    workload: Workload,
    arch: Arch,
    *,
    objective: str,
    options: TunerOptions,
    seed: int,
    searcher: str = "exact",
    constraints: Constraints = ANYTHING,
    known: Sequence[Measured] = (),
    executor: Executor | None = None,
    measurer: Measurer | None = None,
    program_of: Callable[[Mapping], str | None] = lambda mapping: None,
    record: Callable[[Measured], None] = lambda measured: None,
    report: Callable[[int, float, float], None] = lambda done, best, legal_share: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TaskOutcome:
    """Find the mapping of one workload that measures best.

    Args:
        workload: What to run.
        arch: Where to run it.
        objective: ``edp``, ``energy`` or ``latency``.
        options: Budget.
        seed: Same seed, same trials.
        searcher: ``exact``, ``evolutionary`` or ``random``; proposes what is screened. ``exact`` starts evolution from
            the best mapping with perfect factors.
        constraints: What every mapping must keep to.
        known: Measurements of an earlier run; they count towards the budget.
        executor: Runs measurements; in this process if None.
        measurer: Says how long a mapping takes; the simulator if None.
        program_of: The scheduled code of a mapping, for a measurer that runs code.
        record: Called with every new measurement, in order.
        report: Called with trials done, best objective and share of legal mappings.
        should_stop: Asked between batches.

    Raises:
        NoMappingError: Nothing in the map space is legal; the text counts the reasons. Or a mapping could take more
            cycles than 64 bits count.
        DisagreementError: The simulator and the analytical model differ where they must be equal.
    """
    require_countable(workload, arch)
    space = MapSpace(workload=workload, arch=arch, constraints=constraints, allow_spill=constraints.wants_spill)
    default_mapping = space.require_default()
    rng = np.random.default_rng([seed, len(known)])
    predict = _Predictor(workload, arch, objective)
    measured = list(known)
    seen = {measurement.mapping for measurement in measured}

    def measure(mappings: list[Mapping]) -> None:
        fresh = [mapping for mapping in dict.fromkeys(mappings) if mapping not in seen]
        if not fresh:
            return
        estimated = predict.cost(encode(fresh))
        who = SimulatorMeasurer() if measurer is None else measurer
        programs = None if measurer is None else [program_of(mapping) for mapping in fresh]
        costs = _measure(workload, arch, fresh, who, programs, executor)
        if isinstance(who, SimulatorMeasurer):
            check_agreement(workload, arch, fresh, costs, estimated)
        for mapping, guess, cost in zip(fresh, predict.objective_of(estimated), costs, strict=True):
            measurement = Measured(mapping=mapping, predicted=float(guess), cost=cost)
            measured.append(measurement)
            seen.add(mapping)
            record(measurement)

    def best() -> Measured:
        return min(measured, key=lambda m: (m.cost.objective(objective), m.mapping.line()))

    measure([default_mapping])
    if searcher == "exact" and len(measured) < options.trials:
        measure(_exact_start(space, objective, options.exact_polls, should_stop))
    proposer = _searcher(searcher, space, rng, [m.mapping for m in measured])
    ranker = XGBoostRanker(workload, arch, objective=objective, estimate=predict.estimate, seed=seed)
    pool = _Pool()
    idle, legal_share = 0, 1.0
    while len(measured) < options.trials and idle < options.patience and not should_stop():
        for _ in range(options.generations):
            batch = proposer.ask(options.population)
            if batch.num_mappings == 0:
                break
            scores = predict(batch)
            proposer.tell(batch, scores)
            pool.add(batch, scores)
        legal_share = proposer.legal_share
        room = min(options.batch, options.trials - len(measured))
        chosen = _choose(pool, ranker, measured, seen, room, options, objective, rng)
        if not chosen:
            break
        before = best().cost.objective(objective)
        measure(chosen)
        idle = 0 if best().cost.objective(objective) < before else idle + 1
        report(len(measured), best().cost.objective(objective), legal_share)
    default = next(m for m in measured if m.mapping == default_mapping)
    return TaskOutcome(
        best=best(),
        default=default,
        num_trials=len(measured),
        num_new_trials=len(measured) - len(known),
        rejected=tuple(sorted(proposer.rejected.items())),
    )


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
    left = iter(range(polls))
    try:
        found = exact_search(
            space.workload, space.arch, objective=objective, constraints=space.constraints,
            should_stop=lambda: should_stop() or next(left, None) is None,
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
    seen: set[Mapping],
    room: int,
    options: TunerOptions,
    objective: str,
    rng: np.random.Generator,
) -> list[Mapping]:
    """The next mappings to measure: the best ranked, and a few at random."""
    if pool.batch is None:
        return []
    order = np.arange(pool.batch.num_mappings)
    if len(measured) >= options.min_to_rank:
        ranker.fit(encode([m.mapping for m in measured]), np.array([m.cost.objective(objective) for m in measured]))
        order = np.asarray(ranker.rank(pool.batch))
    num_random = min(room - 1, round(options.explore * room)) if len(measured) >= options.min_to_rank else 0
    shuffled = rng.permutation(order)
    chosen: list[Mapping] = []
    for source, limit in ((order, room - num_random), (shuffled, room)):
        for mapping in _decoded(pool.batch, source):
            if len(chosen) >= limit:
                break
            if mapping not in seen and mapping not in chosen:
                chosen.append(mapping)
    return chosen


def _decoded(batch: MappingBatch, order: NDArray[np.integer]) -> Iterator[Mapping]:
    for row in order:
        yield decode(batch, int(row))


def _measure(
    workload: Workload,
    arch: Arch,
    mappings: list[Mapping],
    measurer: Measurer,
    programs: list[str | None] | None,
    executor: Executor | None,
) -> list[Cost]:
    if executor is None:
        return measure(workload, arch, mappings, measurer, programs=programs)
    futures = [
        executor.submit(
            measure, workload, arch, [mapping], measurer, programs=None if programs is None else [programs[at]]
        )
        for at, mapping in enumerate(mappings)
    ]
    return [future.result()[0] for future in futures]
