"""With any factors too, the certified optimum is that of pricing every mapping, and no bound exceeds what it bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_model.analytical.model import AnalyticalModel
from tests.exact_cases import draw_small, objectives, price_all
from tests.property.test_constraints import clauses_of
from tests.property.test_exact import kept_operand
from tvm_spm.arch import Arch
from tvm_spm.errors import NoMappingError
from tvm_spm.exact import exact_search
from tvm_spm.exact.balanced.search import BalancedSearch, _groups_of
from tvm_spm.exact.balanced.tables import make_tables
from tvm_spm.exact.problem import make_problem
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.space.constraints import Constraints
from tvm_spm.space.constraints_batch import rules_of
from tvm_spm.space.mapping_batch import decode, encode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Workload

seeds = st.integers(0, 2**32 - 1)


def search_of(
    workload: Workload, arch: Arch, objective: Objective, constraints: Constraints, cap: float = math.inf
) -> BalancedSearch:
    """A search that knows no mapping yet."""
    problem = make_problem(workload, arch, objective.code, cap, constraints)
    rules = rules_of(constraints, workload)
    return BalancedSearch(workload, arch, problem, rules, encode([Mapping()]), math.inf, bool)


def check_optimum(seed: int, most_mappings: int, least_mappings: int = 128) -> None:
    """All objectives, and latency under a cap that a tenth of all mappings keep; often under constraints."""
    workload, arch = draw_small(seed, most_mappings=most_mappings, least_mappings=least_mappings, perfect=False)
    mappings, costs = price_all(workload, arch, perfect=False)
    if not mappings:
        with pytest.raises(NoMappingError, match="no mapping was found"):
            exact_search(Case(workload=workload, arch=arch), perfect=False)
        return
    rng, constraints, is_allowed = np.random.default_rng(seed), Constraints(), np.ones(len(mappings), dtype=np.bool_)
    if rng.random() < 0.4:
        constraints = clauses_of(rng, mappings[int(rng.integers(len(mappings)))], workload)
        is_allowed = np.array([constraints.allows(mapping, workload) for mapping in mappings])
    space = MapSpace(workload=workload, arch=arch, constraints=constraints)
    cap = float(np.quantile(costs.energy_pj[is_allowed], 0.1))
    for objective, limit_pj in (*((objective, math.inf) for objective in Objective), (Objective.LATENCY, cap)):
        search = search_of(workload, arch, objective, constraints, limit_pj)
        bound = search.run()
        mapping = decode(search.best, 0)
        is_wanted = is_allowed & (costs.energy_pj <= limit_pj * (1 + 1e-12))
        assert search.value == pytest.approx(objectives(costs, objective)[is_wanted].min(), rel=1e-9)
        assert bound == search.value
        assert space.contains(mapping)
        assert AnalyticalModel().cost(workload, arch, mapping).objective(objective) == pytest.approx(search.value)


@settings(deadline=None, max_examples=12)
@given(seeds)
def test_optimum_is_that_of_pricing_every_mapping(seed: int):
    check_optimum(seed, most_mappings=6000)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(seeds)
def test_optimum_is_that_of_pricing_every_mapping_of_larger_spaces(seed: int):
    check_optimum(seed, most_mappings=20000, least_mappings=1000)


@settings(deadline=None, max_examples=10)
@given(seeds, st.sampled_from(Objective))
def test_no_bound_exceeds_a_mapping_below_it(seed: int, objective: Objective):
    workload, arch = draw_small(seed, most_mappings=6000, perfect=False)
    mappings, costs = price_all(workload, arch, perfect=False)
    search, values = search_of(workload, arch, objective, Constraints()), objectives(costs, objective)
    rng = np.random.default_rng(seed)
    for index in rng.integers(0, len(mappings), 25 if mappings else 0).tolist():
        mapping, limit = mappings[index], values[index] * (1 + 1e-9)
        cores = np.array(mapping.cores.as_tuple(), dtype=np.int64)
        tables = make_tables(search.problem, search.rules, cores, arch.num_pes)
        floors = search._list_floors(tables)
        floors = floors[(floors["spm"] == mapping.spm.as_tuple()).all(axis=1)]
        assert len(floors) == 1
        assert floors["bound"][0] <= limit
        pairs, hops = search._unrollings(tables.share, 0.0, 0.0)
        pes = pairs[:, 0] * pairs[:, 1]
        is_own = (pes == np.array(mapping.rows.as_tuple()) * mapping.cols.as_tuple()).all(axis=1)
        kept = kept_operand(workload, mapping)
        arrays = search._list_arrays(tables, pes, hops, _groups_of(floors))
        own = arrays[(arrays["rf"] == mapping.rf.as_tuple()).all(axis=1) & is_own[arrays["pes"]]]
        # passes of a single step are bounded without a list of array tiles
        assert kept == 4 or own["bound"].min() <= limit
        found = search._join(tables, pes, hops, floors, arrays, 0)
        own = found[(found["rf"] == mapping.rf.as_tuple()).all(axis=1) & is_own[found["pes"]] & (found["kept"] == kept)]
        assert own["bound"].min() <= limit


@settings(deadline=None, max_examples=5)
@given(seeds)
def test_whole_search_is_no_worse_than_with_perfect_factors(seed: int):
    workload, arch = draw_small(seed, most_mappings=20000, perfect=False)
    try:
        perfect = exact_search(Case(workload=workload, arch=arch))
    except NoMappingError:
        return
    result = exact_search(Case(workload=workload, arch=arch), perfect=False)
    assert result.certified
    assert result.value <= perfect.value
    assert result.mapping == exact_search(Case(workload=workload, arch=arch), perfect=False).mapping
    stopped = exact_search(Case(workload=workload, arch=arch), perfect=False, should_stop=lambda: True)
    assert stopped.lower_bound <= result.value * (1 + 1e-9)
    assert stopped.value >= result.value * (1 - 1e-9)
