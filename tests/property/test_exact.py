"""The certified optimum is that of pricing every mapping, for factors that divide and for any factors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_model.analytical.model import AnalyticalModel
from tests.analytical_cases import draw_case
from tests.exact_cases import draw_small, objectives, price_all
from tests.mapspace_cases import satisfies
from tests.property.test_constraints import clauses_of
from tvm_spm.errors import NoMappingError
from tvm_spm.exact import exact_search
from tvm_spm.exact.any_factors.search import AnyFactorsSearch
from tvm_spm.exact.perfect.search import PerfectSearch
from tvm_spm.exact.stops import Stops
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.space.constraints import Constraints
from tvm_spm.space.mapping_batch import decode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Operand

seeds = st.integers(0, 2**32 - 1)


def optimum_of(case: Case, cap_pj: float, *, perfect: bool) -> tuple[float, float, Mapping]:
    """(bound, objective, mapping) of a search that knows no mapping to start from, so that a wrong bound shows."""
    stops = Stops(None, None, None)
    if perfect:
        start = PerfectSearch(case, cap_pj, stops)
        return start.run(), start.value, decode(start.best.row, 0)
    search = AnyFactorsSearch(case, cap_pj, stops, (None, math.inf))
    bound = search.run()
    assert search.best is not None
    return bound, search.value, decode(search.best, 0)


def check_optimum(seed: int, most_mappings: int, least_mappings: int = 128, *, perfect: bool) -> None:
    """All objectives, and latency under a cap that a tenth of all mappings keep; often under constraints."""
    workload, arch = draw_small(seed, most_mappings=most_mappings, least_mappings=least_mappings, perfect=perfect)
    mappings, costs = price_all(workload, arch, perfect=perfect)
    if not mappings:
        with pytest.raises(NoMappingError, match="no mapping"):
            exact_search(Case(workload=workload, arch=arch), perfect=perfect)
        return
    rng, constraints, is_allowed = np.random.default_rng(seed), Constraints(), np.ones(len(mappings), dtype=np.bool_)
    if rng.random() < 0.4:
        constraints = clauses_of(rng, mappings[int(rng.integers(len(mappings)))], workload)
        is_allowed = np.array([satisfies(constraints, mapping, workload) for mapping in mappings])
    space = MapSpace(workload=workload, arch=arch, perfect=perfect, constraints=constraints)
    cap = float(np.quantile(costs.energy_pj[is_allowed], 0.1))
    for objective, cap_pj in (*((objective, math.inf) for objective in Objective), (Objective.LATENCY, cap)):
        case = Case(workload=workload, arch=arch, objective=objective, constraints=constraints)
        bound, value, mapping = optimum_of(case, cap_pj, perfect=perfect)
        is_wanted = is_allowed & (costs.energy_pj <= cap_pj * (1 + 1e-12))
        assert value == pytest.approx(objectives(costs, objective)[is_wanted].min(), rel=1e-9)
        # One is a sum of table entries, the other the formula's: the same numbers in another order.
        assert bound == pytest.approx(value, rel=1e-12)
        assert space.contains(mapping)
        assert AnalyticalModel().cost(workload, arch, mapping).objective(objective) == pytest.approx(value)


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_optimum_of_factors_that_divide(seed: int):
    check_optimum(seed, most_mappings=6000, perfect=True)


@settings(deadline=None, max_examples=12)
@given(seeds)
def test_optimum_of_any_factors(seed: int):
    check_optimum(seed, most_mappings=6000, perfect=False)


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(seeds)
def test_optimum_of_larger_spaces_with_factors_that_divide(seed: int):
    check_optimum(seed, most_mappings=40000, least_mappings=4000, perfect=True)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(seeds)
def test_optimum_of_larger_spaces_with_any_factors(seed: int):
    check_optimum(seed, most_mappings=20000, least_mappings=1000, perfect=False)


@settings(deadline=None, max_examples=8)
@given(seeds, st.booleans())
def test_no_mapping_is_faster_than_the_fastest_with_as_little_energy(seed: int, perfect: bool):
    """A bound may wrongly leave out any mapping, so caps make optima of mappings all over the space."""
    workload, arch = draw_small(seed, most_mappings=6000, perfect=perfect)
    _, costs = price_all(workload, arch, perfect=perfect)
    case = Case(workload=workload, arch=arch, objective=Objective.LATENCY)
    rng = np.random.default_rng(seed)
    for index in rng.integers(0, len(costs.cycles), 20 if len(costs.cycles) else 0).tolist():
        cap = float(costs.energy_pj[index])
        bound, value, _ = optimum_of(case, cap, perfect=perfect)
        assert bound == value == costs.cycles[costs.energy_pj <= cap * (1 + 1e-12)].min()


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
    workload, arch = draw_small(seed, most_mappings=20000, perfect=False)
    case = Case(workload=workload, arch=arch)
    try:
        perfect = exact_search(case)
    except NoMappingError:
        return
    any_factors = exact_search(case, perfect=False)
    assert any_factors.certified
    assert any_factors.value <= perfect.value
    assert any_factors.mapping == exact_search(case, perfect=False).mapping
    for optimum, is_perfect in ((perfect, True), (any_factors, False)):
        stopped = exact_search(case, perfect=is_perfect, should_stop=lambda: True)
        assert stopped.lower_bound <= optimum.value * (1 + 1e-9)
        assert stopped.value >= optimum.value * (1 - 1e-9)
