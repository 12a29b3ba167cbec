"""Local search among mappings with any factors, from a good one."""

from __future__ import annotations

import numpy as np

from cost_model.analytical.model import BatchCost, evaluate_batch
from tvm_spm.exact.case_arrays import TOLERANCE, Floats
from tvm_spm.exact.stops import Stops
from tvm_spm.space.case import Case
from tvm_spm.space.mapping_batch import MappingBatch, concat
from tvm_spm.space.mapspace import MapSpace, fingerprints

NUM_PARENTS = 64
NUM_CHILDREN, CHILDREN_PER_STEP = 512, 2048
"""Of a generation, and so many as take as long to make and price as a step of the search."""

NUM_GENERATIONS = 60
NUM_IDLE_GENERATIONS = 6
"""Generations without any progress before the search gives up."""


def improve(case: Case, start: MappingBatch, energy_cap_pj: float, stops: Stops) -> tuple[MappingBatch, int]:
    """Change one or a few knobs of the best mappings again and again; repeatable unless stopped.

    Returns:
        The best mappings by the formula, none better than the first, and how many were priced.
    """
    workload, arch = case.workload, case.arch
    space = MapSpace(workload=workload, arch=arch, constraints=case.constraints)
    rng = np.random.default_rng(0)

    def objectives(cost: BatchCost) -> Floats:
        values = case.objective.value_of(cost.cycles.astype(np.float64), cost.energy_pj)
        return np.where(cost.energy_pj <= energy_cap_pj * (1.0 + TOLERANCE), values, np.inf)

    parents = start
    values = objectives(evaluate_batch(workload, arch, parents))
    num_evaluated, num_idle = 1, 0
    for _ in range(NUM_GENERATIONS):
        if stops.ends_work(NUM_CHILDREN / CHILDREN_PER_STEP) or num_idle == NUM_IDLE_GENERATIONS:
            break
        children = space.mutate(parents.take(rng.integers(0, parents.num_mappings, NUM_CHILDREN)), rng)
        children = children.take(space.check(children) == 0)
        num_evaluated += children.num_mappings
        everyone = concat([parents, children])
        all_values = np.concatenate([values, objectives(evaluate_batch(workload, arch, children))])
        _, distinct = np.unique(fingerprints(everyone), return_index=True)
        distinct.sort()
        best = distinct[np.argsort(all_values[distinct], kind="stable")[:NUM_PARENTS]]
        num_idle = 0 if all_values[best[0]] < values[0] else num_idle + 1
        parents, values = everyone.take(best), all_values[best]
    return parents, num_evaluated
