"""Open pages of DRAM: the engine against a walk byte by byte, and what no waits for rows can be below."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_model.analytical.model import AnalyticalModel
from cost_model.simulator import account, record, simulate_batch
from tests.simulator_cases import random_case, with_pages
from tests.simulator_reference import simulate

seeds = st.integers(min_value=0, max_value=2**32 - 1)
few_cores = st.sampled_from([(1, 1), (1, 1), (2, 1), (4, 2), (3, 4)])


@settings(max_examples=150, deadline=None)
@given(seed=seeds, shape=few_cores)
def test_engine_equals_a_walk_byte_by_byte(seed: int, shape: tuple[int, int]):
    rng = random.Random(seed)
    workload, arch, mapping = random_case(rng, num_cores=shape[0], num_channels=shape[1])
    arch = with_pages(rng, arch)
    found, walk = account(workload, arch, mapping), simulate(workload, arch, mapping)
    assert (found.counts.blocks, found.counts.misses) == (walk.blocks, walk.misses)
    assert found.cost.cycles == walk.cycles
    assert found.cost.dma_busy_cycles == walk.dma_busy_cycles
    assert found.cost.dma_stall_cycles == walk.dma_stall_cycles
    assert found.cost.dram_bytes == tuple(walk.dram_bytes)
    assert simulate_batch(workload, arch, [mapping] * 2, fold=False) == [found.cost] * 2
    assert record(workload, arch, mapping, most_events=10**6)[0] == walk.cycles


@settings(max_examples=150, deadline=None)
@given(seed=seeds)
def test_the_formula_is_a_bound_on_one_core(seed: int):
    rng = random.Random(seed)
    workload, ideal, mapping = random_case(rng)
    arch = with_pages(rng, ideal)
    cost, bound = simulate_batch(workload, arch, [mapping])[0], AnalyticalModel().cost(workload, arch, mapping)
    assert simulate_batch(workload, ideal, [mapping])[0].cycles <= bound.cycles <= cost.cycles
    assert cost.energy_pj == pytest.approx(bound.energy_pj, rel=1e-12)
    assert cost.dram_bytes == bound.dram_bytes


@settings(max_examples=50, deadline=None)
@given(seed=seeds)
def test_rows_that_cost_nothing_change_nothing(seed: int):
    rng = random.Random(seed)
    workload, ideal, mapping = random_case(rng, num_cores=2)
    arch = with_pages(rng, ideal)
    pages = arch.levels.DRAM.pages
    assert pages is not None
    free = replace(pages, hit_cycles=0, miss_cycles=0)
    arch = replace(arch, levels=replace(arch.levels, DRAM=replace(arch.levels.DRAM, pages=free)))
    assert simulate_batch(workload, arch, [mapping]) == simulate_batch(workload, ideal, [mapping])


@settings(max_examples=50, deadline=None)
@given(seed=seeds)
def test_one_row_that_holds_everything_is_opened_once_a_bank(seed: int):
    rng = random.Random(seed)
    workload, ideal, mapping = random_case(rng)
    arch = with_pages(rng, ideal)
    pages = arch.levels.DRAM.pages
    assert pages is not None
    wide = replace(pages, banks=1, row_bytes=2**20, interleave_bytes=None)
    arch = replace(arch, levels=replace(arch.levels, DRAM=replace(arch.levels.DRAM, pages=wide)))
    assert account(workload, arch, mapping).counts.misses == 1
