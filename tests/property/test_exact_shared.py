"""Where cores share channels of DRAM: what bounds the simulator, and the optimum under it with a proof."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_model.analytical.model import bound_batch
from cost_model.simulator import simulate_batch
from tests.analytical_cases import draw_case, draw_mapping
from tests.exact_cases import draw_machine, draw_small
from tests.mapspace_cases import satisfies
from tests.property.test_constraints import clauses_of
from tvm_spm.arch import Arch, load_arch
from tvm_spm.errors import NoMappingError, SpmError
from tvm_spm.exact import exact_search
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.space.constraints import Constraints
from tvm_spm.space.mapping_batch import encode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Workload

seeds = st.integers(0, 2**32 - 1)


def draw_shared(seed: int, most_mappings: int) -> tuple[Workload, Arch]:
    """A small layer and a machine of two to five cores, most of them with fewer channels."""
    rng = np.random.default_rng(seed)
    while True:
        workload, _ = draw_small(seed, most_mappings=most_mappings, perfect=False)
        # of some layers every such machine has more mappings
        for _ in range(20):
            arch = draw_machine(rng, int(rng.choice([2, 3, 4, 5])))
            dram = replace(arch.levels.DRAM, channels=int(rng.choice([1, 1, 1, 2])))
            arch = replace(arch, levels=replace(arch.levels, DRAM=dram))
            if MapSpace(workload=workload, arch=arch).num_mappings <= most_mappings:
                return workload, arch
        seed += 1


@settings(deadline=None, max_examples=80)
@given(seeds, st.integers(1, 5))
def test_no_simulation_is_faster_than_the_bound(seed: int, cores: int):
    workload, arch, mapping = draw_case(seed, cores=cores, max_steps=3000)
    rng = np.random.default_rng(seed)
    mappings = [mapping] + [draw_mapping(rng, workload, cores=cores) for _ in range(4)]
    bounds = bound_batch(workload, arch, encode(mappings))
    costs = simulate_batch(workload, arch, mappings)
    for each, cost, cycles, energy_pj in zip(mappings, costs, bounds.cycles, bounds.energy_pj, strict=True):
        assert cost.energy_pj == pytest.approx(energy_pj, rel=1e-9)
        if math.prod(each.cores) <= arch.levels.DRAM.channels:
            assert cycles == cost.cycles
        assert cycles <= cost.cycles


@settings(deadline=None, max_examples=8)
@given(seeds)
def test_the_optimum_is_that_of_simulating_every_mapping(seed: int):
    workload, arch = draw_shared(seed, most_mappings=2000)
    mappings = list(MapSpace(workload=workload, arch=arch).enumerate())
    if not mappings:
        with pytest.raises(NoMappingError, match="no mapping"):
            exact_search(Case(workload=workload, arch=arch), perfect=False, is_simulated=True)
        return
    rng, constraints = np.random.default_rng(seed), Constraints()
    if rng.random() < 0.3:
        constraints = clauses_of(rng, mappings[int(rng.integers(len(mappings)))], workload)
        mappings = [mapping for mapping in mappings if satisfies(constraints, mapping, workload)]
    costs = simulate_batch(workload, arch, mappings)
    for objective in Objective:
        case = Case(workload=workload, arch=arch, objective=objective, constraints=constraints)
        least = min(cost.objective(objective) for cost in costs)
        found = exact_search(case, perfect=False, is_simulated=True)
        assert found.certified
        assert found.value == pytest.approx(least, rel=1e-9)
        assert found.lower_bound == pytest.approx(least, rel=1e-9)
        assert found.cost == simulate_batch(workload, arch, [found.mapping])[0]
        assert found.space.endswith(f"under the simulator{f', with {constraints}' if constraints else ''}")
        for steps in (0, 1, 3):
            some = exact_search(case, perfect=False, is_simulated=True, most_steps=steps)
            assert some.lower_bound <= least * (1 + 1e-9)
            assert some.value >= least * (1 - 1e-9)
            assert some.certified or some.ended_by == f"a budget of {steps:,} steps"


@settings(deadline=None, max_examples=6)
@given(seeds)
def test_where_pages_of_dram_are_open_it_is_that_of_simulating_every_mapping_too(seed: int):
    workload, shared = draw_shared(seed, most_mappings=1000)
    dram = replace(shared.levels.DRAM, pages=load_arch("edge-256-ddr4").levels.DRAM.pages)
    arch = replace(shared, levels=replace(shared.levels, DRAM=dram))
    mappings = list(MapSpace(workload=workload, arch=arch).enumerate())
    if not mappings:
        return
    costs = simulate_batch(workload, arch, mappings)
    for objective in Objective:
        least = min(cost.objective(objective) for cost in costs)
        found = exact_search(Case(workload=workload, arch=arch, objective=objective), perfect=False, is_simulated=True)
        assert found.value >= least * (1 - 1e-9)
        assert found.lower_bound <= least * (1 + 1e-9)
        assert not found.certified or found.value == pytest.approx(least, rel=1e-9)
        assert found.cost == simulate_batch(workload, arch, [found.mapping])[0]


def test_perfect_factors_are_not_searched_under_the_simulator():
    case = Case(workload=Workload.matmul(m=2, n=2, k=2), arch=load_arch("edge-256"))
    with pytest.raises(SpmError, match="is_simulated = True, perfect = True"):
        exact_search(case, is_simulated=True)
