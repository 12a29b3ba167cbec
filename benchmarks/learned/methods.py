"""Ways to spend measurements: each gives the values of the objective in the order in which it asked for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cost_model.learned import XGBoostRanker
from learned.machines import Machine
from tvm_spm.exact import exact_search
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.searchers.evolutionary import EvolutionarySearcher, EvolutionOptions
from tvm_spm.searchers.random import RandomSearcher
from tvm_spm.space.case import Case
from tvm_spm.space.mapping_batch import MappingBatch, concat, decode, encode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.tuning.guided import Guide, GuidedTask, search_together
from tvm_spm.tuning.measurer import Measurement, MeasureRequest
from tvm_spm.tuning.options import EXACT, TunerOptions
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.screen import estimate
from tvm_spm.workload import Workload

Floats = NDArray[np.float64]

BATCH = 16
"""Measurements between two fits: a quarter of AutoTVM's and MetaSchedule's, as budgets are as small as theirs."""

EPSILON = 0.05
"""Share of measurements at random, in AutoTVM and MetaSchedule."""


@dataclass
class Trace:
    """Calls of one method on one task.

    Attributes:
        case: The task, on the declared accelerator.
        machine: Who answers.
        budget: Calls at most.
        values: Of the objective, by call.
    """

    case: Case
    machine: Machine
    budget: int
    values: list[float] = field(default_factory=list)
    known: dict[Mapping, float] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """Calls that may follow."""
        return self.budget - len(self.values)

    def measure(self, mappings: Sequence[Mapping]) -> Floats:
        """Ask for mappings, as far as the budget goes; energy is the formula's, as nobody measures it."""
        fresh = [each for each in dict.fromkeys(mappings) if each not in self.known][: self.left]
        if fresh:
            cycles = self.machine.cycles(self.case.workload, fresh)
            energy = estimate(self.case, encode(fresh)).energy_pj
            found = self.case.objective.value_of(cycles, energy)
            self.known.update(zip(fresh, found.tolist(), strict=True))
            self.values += found.tolist()
        return np.array([self.known.get(each, math.inf) for each in mappings])


def space_of(trace: Trace) -> MapSpace:
    """All mappings of the task."""
    return MapSpace(workload=trace.case.workload, arch=trace.case.arch)


def rows_of(batch: MappingBatch) -> list[Mapping]:
    """A batch as mappings."""
    return [decode(batch, row) for row in range(batch.num_mappings)]


def random(trace: Trace, seed: int) -> None:
    """Random legal mappings."""
    trace.measure(rows_of(RandomSearcher(space_of(trace), rng=np.random.default_rng(seed)).ask(trace.budget)))


def genetic(trace: Trace, seed: int) -> None:
    """Tournaments, crossing and mutation on measured values alone, as AutoTVM's GATuner: a population of 16."""
    options = EvolutionOptions(population=16, min_parents=16)
    searcher = EvolutionarySearcher(space_of(trace), rng=np.random.default_rng(seed), options=options)
    while trace.left > 0:
        batch = searcher.ask(min(16, trace.left))
        if batch.num_mappings == 0:
            return
        searcher.tell(batch, trace.measure(rows_of(batch)))


def _model(trace: Trace, seed: int) -> Callable[[MappingBatch], Floats]:
    """Scores of a model of boosted trees that saw only what was measured; without any, at random."""
    if not trace.values:
        return lambda batch: np.random.default_rng(seed).random(batch.num_mappings)
    ranker = XGBoostRanker(trace.case.workload, trace.case.arch, objective=trace.case.objective, seed=seed)
    ranker.fit(encode(list(trace.known)), np.array(list(trace.known.values())))
    return ranker.scores


def annealing(trace: Trace, seed: int) -> None:
    """Simulated annealing on boosted trees, in AutoTVM's settings: 128 chains, temperature 1 to 0, 5 % at random.

    AutoTVM plans 64 measurements at once; with budgets as small as these, a quarter of it.
    """
    rng, space = np.random.default_rng(seed), space_of(trace)
    while trace.left > 0:
        points = space.sample(rng, 512)
        points = points.take(np.flatnonzero(space.check(points) == 0)[:128])
        score = _model(trace, seed)
        scores = score(points)
        seen, found = [points], [scores]
        for step in range(50 if trace.values else 0):
            moved = space.mutate(points, rng)
            legal = space.check(moved) == 0
            after = np.where(legal, score(moved), np.inf)
            temperature = max(1e-9, 1 - step / 50)
            taken = rng.random(len(after)) < np.exp(np.minimum(0.0, (scores - after) / temperature))
            points = MappingBatch(*(
                np.where(taken.reshape(-1, *[1] * (new.ndim - 1)), new, old)
                for new, old in zip(moved, points, strict=True)
            ))  # fmt: skip
            scores = np.where(taken, after, scores)
            seen.append(moved.take(legal))
            found.append(after[legal])
        _measure_best(trace, concat(seen), np.concatenate(found), rng)


def metaschedule(trace: Trace, seed: int) -> None:
    """Evolution on boosted trees, in MetaSchedule's settings: population 512, 4 generations, 5 % at random."""
    rng, space = np.random.default_rng(seed), space_of(trace)
    while trace.left > 0:
        start = encode(sorted(trace.known, key=trace.known.__getitem__)[:102]) if trace.known else None
        searcher = EvolutionarySearcher(
            space, rng=rng, start=start, options=EvolutionOptions(population=512, min_parents=64, crossed_share=0.15)
        )
        score = _model(trace, seed)
        seen, found = [], []
        for _ in range(4):
            batch = searcher.ask(512)
            if batch.num_mappings == 0:
                break
            scores = score(batch)
            searcher.tell(batch, scores)
            seen.append(batch)
            found.append(scores)
        if not seen:
            return
        _measure_best(trace, concat(seen), np.concatenate(found), rng)


def _measure_best(trace: Trace, batch: MappingBatch, scores: Floats, rng: Generator) -> None:
    """Measure the best ranked, and in their place a few at random."""
    order = np.argsort(scores, kind="stable")
    strange = rng.permutation(len(order))
    chosen: list[Mapping] = []
    for place, row in enumerate(order):
        pick = int(strange[place] if rng.random() < EPSILON else row)
        mapping = decode(batch, pick)
        if mapping not in trace.known and mapping not in chosen:
            chosen.append(mapping)
        if len(chosen) >= min(BATCH, trace.left):
            break
    if not chosen:
        trace.budget = len(trace.values)
    trace.measure(chosen)


def formula(trace: Trace, seed: int) -> None:
    """What the formula with declared numbers likes best, in that order."""
    searcher = EvolutionarySearcher(space_of(trace), rng=np.random.default_rng(seed))
    seen, found = [], []
    for _ in range(16):
        batch = searcher.ask(512)
        scores = trace.case.objective.value_of(*estimate(trace.case, batch))
        searcher.tell(batch, scores)
        seen.append(batch)
        found.append(scores)
    order = np.argsort(np.concatenate(found), kind="stable")[: trace.budget]
    trace.measure(rows_of(concat(seen).take(order)))


def exact(trace: Trace, seed: int) -> None:
    """The default mapping and the best one by declared numbers."""
    trace.measure([space_of(trace).require_default(), exact_search(trace.case, perfect=False, most_steps=300).mapping])


ALONE: dict[str, Callable[[Trace, int], None]] = {
    "random": random, "genetic": genetic, "annealing": annealing, "metaschedule": metaschedule, "formula": formula,
    "exact": exact,
}  # fmt: skip
"""Methods that see one task at a time."""


@dataclass(frozen=True)
class BlackBox:
    """A machine as a measurer.

    Attributes:
        machine: Who answers.
        asked: Workload and cycles of every call, in order.
    """

    machine: Machine
    name: str = "machine"
    asked: list[tuple[Workload, int]] = field(default_factory=list)

    def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
        """One call after the other."""
        cycles = [int(self.machine.cycles(each.workload, [each.mapping])[0]) for each in requests]
        self.asked.extend((each.workload, found) for each, found in zip(requests, cycles, strict=True))
        return [Measurement(cycles=found) for found in cycles]


def guided(
    machine: Machine, workloads: Sequence[Workload], objective: str, budget: int, seed: int, *,
    calibrates: bool = True, learns: bool = True,
) -> list[list[float]]:  # fmt: skip
    """What ``tune`` does with a measurer, all tasks together; parts of it may be left out.

    Returns:
        Values in the order of the calls, per workload.
    """
    run = Run(seed=seed, measurer=BlackBox(machine))
    options = TunerOptions(trials=budget)
    cases = [Case(workload=each, arch=machine.declared, objective=Objective.of(objective)) for each in workloads]
    tasks = [GuidedTask(case, options, run, proposer=EXACT, program_of=None) for case in cases]
    search_together(tasks, Guide(declared=machine.declared), options, run, calibrates=calibrates, learns=learns)
    return [
        [trial.cost.objective(objective) for trial in task.path.trials.values() if trial.cost is not None]
        for task in tasks
    ]


TOGETHER: dict[str, Callable[..., list[list[float]]]] = {
    "calibration": partial(guided, learns=False),
    "residual": partial(guided, calibrates=False),
    "ours": guided,
}
"""Methods that see all tasks."""
