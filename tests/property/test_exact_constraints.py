"""Under constraints the certified optimum is that of pricing every allowed mapping."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_model.analytical.model import AnalyticalModel
from tests.exact_cases import draw_small, objectives, price_all
from tests.mapspace_cases import satisfies
from tests.property.test_constraints import any_clause, clauses_of
from tvm_spm.errors import NoMappingError, SpmError
from tvm_spm.exact import exact_search
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.space.constraints import Constraints
from tvm_spm.space.mapping_batch import encode
from tvm_spm.space.mapspace import MapSpace

seeds = st.integers(0, 2**32 - 1)


def check_constrained_optimum(seed: int, most_mappings: int) -> None:
    """Clauses that some mapping keeps, or any clauses, and all objectives."""
    workload, arch = draw_small(seed, most_mappings=most_mappings)
    mappings, costs = price_all(workload, arch)
    if not mappings:
        return
    rng = np.random.default_rng(seed)
    if rng.random() < 0.7:
        constraints = clauses_of(rng, mappings[int(rng.integers(len(mappings)))], workload)
    else:
        try:
            constraints = Constraints.parse([any_clause(rng, workload) for _ in range(int(rng.integers(1, 4)))])
        except SpmError:
            return
    is_allowed = np.array([satisfies(constraints, mapping, workload) for mapping in mappings])
    space = MapSpace(workload=workload, arch=arch, perfect=True, constraints=constraints)
    for objective in Objective:
        if not is_allowed.any():
            with pytest.raises(NoMappingError):
                exact_search(Case(workload=workload, arch=arch, objective=objective, constraints=constraints))
            continue
        result = exact_search(Case(workload=workload, arch=arch, objective=objective, constraints=constraints))
        assert result.certified
        assert space.contains(result.mapping)
        assert result.value == pytest.approx(objectives(costs, objective)[is_allowed].min(), rel=1e-9)
        assert result.cost == AnalyticalModel().cost(workload, arch, result.mapping)


@settings(deadline=None, max_examples=60)
@given(seeds)
def test_optimum_is_that_of_pricing_every_allowed_mapping(seed: int):
    check_constrained_optimum(seed, most_mappings=6000)


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(seeds)
def test_optimum_is_that_of_pricing_every_allowed_mapping_of_larger_spaces(seed: int):
    check_constrained_optimum(seed, most_mappings=40000)


@settings(deadline=None, max_examples=4)
@given(seeds)
def test_imperfect_mappings_keep_constraints_too(seed: int):
    workload, arch = draw_small(seed, most_mappings=2000)
    try:
        free = exact_search(Case(workload=workload, arch=arch)).mapping
    except NoMappingError:
        return
    constraints = clauses_of(np.random.default_rng(seed), free, workload)
    result = exact_search(Case(workload=workload, arch=arch, constraints=constraints), perfect=False)
    assert satisfies(constraints, result.mapping, workload)
    assert MapSpace(workload=workload, arch=arch, constraints=constraints).check(encode([result.mapping]))[0] == 0
