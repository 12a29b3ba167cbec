"""Search with the analytical model alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cost_model.analytical.model import AnalyticalModel, evaluate_batch
from cost_model.bounds import lower_bound
from cost_model.learned import Estimate
from tvm_spm.cost import Cost
from tvm_spm.mapping import Mapping
from tvm_spm.result import SearchResult
from tvm_spm.searchers import MakeSearcher, Searcher
from tvm_spm.space.case import Case
from tvm_spm.space.mapping_batch import MappingBatch, decode, encode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.tuning.run import Run

POPULATION = 512
"""Mappings per generation."""


def screen_workload(case: Case, run: Run, make_searcher: MakeSearcher, *, trials: int) -> SearchResult:
    """Find the mapping that the analytical model likes best; nothing is measured.

    Args:
        case: What to run, where, and what is minimised.
        run: Its seed and its request to stop count.
        make_searcher: Makes what proposes mappings.
        trials: Mappings priced at most.

    Raises:
        NoMappingError: Nothing in the map space is legal; the text counts the reasons.
    """
    space = space_of(case)
    default = space.require_default()
    searcher = make_searcher(space, rng=np.random.default_rng(run.seed), start=encode([default]))

    def price(batch: MappingBatch) -> NDArray[np.float64]:
        return np.asarray(case.objective.value_of(*estimate(case, batch)))

    best, num_evaluated = climb(searcher, default, price, run, trials=trials)
    cost, default_cost = (AnalyticalModel().cost(case.workload, case.arch, mapping) for mapping in (best, default))
    return replace(unproved(case, best, cost), default_cost=default_cost, num_evaluated=num_evaluated)


def climb(
    searcher: Searcher,
    start: Mapping,
    price: Callable[[MappingBatch], NDArray[np.float64]],
    run: Run,
    *,
    trials: int,
    population: int = POPULATION,
) -> tuple[Mapping, int]:
    """The mapping of least price that a searcher proposes, and how many were priced.

    Args:
        searcher: Proposes.
        start: Priced first.
        price: Of a batch.
        run: Its request to stop counts.
        trials: Mappings priced at most.
        population: Of them, those of one generation.
    """
    best, best_score, num_evaluated = start, float(price(encode([start]))[0]), 1
    while num_evaluated < trials and not run.should_stop():
        batch = searcher.ask(min(population, trials - num_evaluated))
        if batch.num_mappings == 0:
            break
        scores = price(batch)
        searcher.tell(batch, scores)
        num_evaluated += batch.num_mappings
        leader = int(np.argmin(scores))
        if scores[leader] < best_score:
            best, best_score = decode(batch, leader), float(scores[leader])
    return best, num_evaluated


def space_of(case: Case) -> MapSpace:
    """All mappings that a search of a case may choose from."""
    return MapSpace(
        workload=case.workload, arch=case.arch, constraints=case.constraints, allow_spill=case.constraints.wants_spill
    )


def estimate(case: Case, batch: MappingBatch) -> Estimate:
    """Cycles and energy of a batch by the analytical model."""
    cost = evaluate_batch(case.workload, case.arch, batch)
    return Estimate(cycles=cost.cycles.astype(np.float64), energy_pj=cost.energy_pj)


def unproved(case: Case, mapping: Mapping, cost: Cost) -> SearchResult:
    """The result of a search without a proof: only physics bounds it."""
    bound = lower_bound(case.workload, case.arch, case.objective)
    return SearchResult(
        mapping=mapping,
        cost=cost,
        objective=case.objective,
        lower_bound=bound,
        certified=cost.objective(case.objective) <= bound,
        num_evaluated=1,
        space="all executions (physical bound: every MAC and every touched word once)",
    )
