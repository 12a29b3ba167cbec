"""The certified optimum is that of pricing every mapping, and no bound exceeds what it bounds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from cost_model.analytical.model import AnalyticalModel
from tests.analytical_cases import draw_case
from tests.exact_cases import draw_small, objectives, price_all
from tvm_spm.arch import Arch
from tvm_spm.errors import NoMappingError
from tvm_spm.exact import exact_search
from tvm_spm.exact.join import pair_bound
from tvm_spm.exact.pass_time import NONE
from tvm_spm.exact.problem import make_problem
from tvm_spm.exact.search import _Search
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.space.constraints import Constraints
from tvm_spm.space.constraints_batch import rules_of
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Operand, Workload

seeds = st.integers(0, 2**32 - 1)


@njit(error_model="numpy")
def bound_of_pair(problem, floor, array, kept):
    return pair_bound(problem, floor, array, kept, np.inf)[0]


def check_optimum(workload: Workload, arch: Arch) -> None:
    """All objectives, and latency under a cap that a tenth of all mappings keep."""
    mappings, costs = price_all(workload, arch)
    if not mappings:
        with pytest.raises(NoMappingError):
            exact_search(Case(workload=workload, arch=arch))
        return
    for objective in Objective:
        result = exact_search(Case(workload=workload, arch=arch, objective=objective))
        assert result.certified
        assert result.value == pytest.approx(objectives(costs, objective).min(), rel=1e-9)
        assert result.lower_bound == pytest.approx(result.value, rel=1e-9)
        assert MapSpace(workload=workload, arch=arch, perfect=True).contains(result.mapping)
        assert result.cost == AnalyticalModel().cost(workload, arch, result.mapping)
    cap = float(np.quantile(costs.energy_pj, 0.1))
    result = exact_search(Case(workload=workload, arch=arch, objective=Objective.LATENCY), energy_cap_pj=cap)
    assert result.certified
    assert result.cost.energy_pj <= cap * (1 + 1e-9)
    assert result.value == costs.cycles[costs.energy_pj <= cap * (1 + 1e-9)].min()


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_optimum_is_that_of_pricing_every_mapping(seed: int):
    check_optimum(*draw_small(seed, most_mappings=6000))


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(seeds)
def test_optimum_is_that_of_pricing_every_mapping_of_larger_spaces(seed: int):
    check_optimum(*draw_small(seed, most_mappings=40000, least_mappings=4000))


def kept_operand(workload: Workload, mapping: Mapping) -> int:
    """The operand that the innermost SPM loop leaves in place; 4 if a pass is a single step."""
    factors = mapping.spm_factors()
    loops = [name for name in mapping.spm_order if factors[name] > 1]
    if not loops:
        return 4
    free = [x.value for x in Operand if loops[-1] not in workload.projection(x).relevant_dims]
    return free[0] if free else NONE


@settings(deadline=None, max_examples=15)
@given(seeds, st.sampled_from(Objective))
def test_no_bound_exceeds_a_mapping_below_it(seed: int, objective: Objective):
    workload, arch = draw_small(seed, most_mappings=6000)
    mappings, costs = price_all(workload, arch)
    search = _Search(
        workload,
        arch,
        make_problem(workload, arch, objective.code, math.inf),
        bool,
        rules_of(Constraints(), workload),
    )
    arrays = search._list_arrays(1)
    if not mappings:
        return
    search._order_floors(arrays)
    values = objectives(costs, objective)
    rng = np.random.default_rng(seed)
    for index in rng.integers(0, len(mappings), 60).tolist():
        mapping, limit = mappings[index], values[index] * (1 + 1e-9)
        is_floor = (search.floors["cores"] == mapping.cores.as_tuple()).all(axis=1)
        is_floor &= (search.floors["spm"] == mapping.spm.as_tuple()).all(axis=1)
        (floor,) = search.floors[is_floor]
        assert floor["bound"] <= limit
        same_shape = arrays[(arrays["array"] == mapping.array.as_tuple()).all(axis=1)]
        assert same_shape["bound"].min() <= limit
        kept = kept_operand(workload, mapping)
        # an array tile of the same shape that is as good in every respect may stand for the mapping's own
        assert min(bound_of_pair(search.problem, floor, array, kept) for array in same_shape) <= limit


@settings(deadline=None, max_examples=60)
@given(seeds, st.sampled_from(list(Operand)))
def test_a_second_spm_buffer_never_costs_cycles_on_one_core(seed: int, operand: Operand):
    workload, arch, mapping = draw_case(seed, max_steps=200)
    single = replace(mapping, spm_double=tuple(x for x in mapping.spm_double if x is not operand), spill=True)
    double = replace(single, spm_double=tuple(x for x in Operand if x in single.spm_double or x is operand))
    cycles = [AnalyticalModel().cost(workload, arch, m).cycles for m in (single, double)]
    assert cycles[1] <= cycles[0]


@settings(deadline=None, max_examples=8)
@given(seeds)
def test_a_stopped_search_still_bounds_the_optimum(seed: int):
    workload, arch = draw_small(seed, most_mappings=100000, least_mappings=2000)
    try:
        optimum = exact_search(Case(workload=workload, arch=arch))
    except NoMappingError:
        return
    stopped = exact_search(Case(workload=workload, arch=arch), should_stop=lambda: True)
    assert stopped.lower_bound <= optimum.value * (1 + 1e-9)
    assert stopped.value >= optimum.value * (1 - 1e-9)
