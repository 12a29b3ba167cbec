"""The engine against a literal walk, folded against unfolded, and physical bounds."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_model.simulator import simulate_batch
from tests.simulator_cases import random_arch, random_case, random_mapping, random_workload
from tests.simulator_reference import energy_pj, simulate
from tvm_spm.arch import Arch
from tvm_spm.cost import Cost
from tvm_spm.mapping import Mapping
from tvm_spm.workload import Workload

seeds = st.integers(min_value=0, max_value=2**32 - 1)
few_cores = st.sampled_from([(1, 1), (2, 1), (3, 1), (4, 1), (4, 2), (3, 4)])


def run(workload: Workload, arch: Arch, mapping: Mapping) -> Cost:
    return simulate_batch(workload, arch, [mapping])[0]


@settings(max_examples=250, deadline=None)
@given(seed=seeds, shape=few_cores)
def test_engine_equals_a_literal_walk(seed: int, shape: tuple[int, int]):
    workload, arch, mapping = random_case(random.Random(seed), num_cores=shape[0], num_channels=shape[1])
    cost, walk = run(workload, arch, mapping), simulate(workload, arch, mapping)
    assert cost.cycles == walk.cycles
    assert cost.compute_cycles == walk.compute_cycles
    assert cost.noc_stall_cycles == walk.noc_stall_cycles
    assert cost.dma_stall_cycles == walk.dma_stall_cycles
    assert cost.dma_busy_cycles == walk.dma_busy_cycles
    assert cost.dram_bytes == tuple(walk.dram_bytes)
    for part, expected_pj in energy_pj(workload, arch, walk).items():
        assert getattr(cost.energy, part) == pytest.approx(expected_pj, rel=1e-12), part


@settings(max_examples=300, deadline=None)
@given(seed=seeds, shape=few_cores)
def test_folding_changes_nothing(seed: int, shape: tuple[int, int]):
    rng = random.Random(seed)
    workload = random_workload(rng, small=False)
    arch = random_arch(rng, num_cores=shape[0], num_channels=shape[1])
    mappings = [random_mapping(rng, workload, arch, perfect=i % 2 == 0) for i in range(4)]
    assert simulate_batch(workload, arch, mappings) == simulate_batch(workload, arch, mappings, fold=False)


@settings(max_examples=200, deadline=None)
@given(seed=seeds, shape=few_cores)
def test_physical_bounds_hold(seed: int, shape: tuple[int, int]):
    workload, arch, mapping = random_case(random.Random(seed), num_cores=shape[0], num_channels=shape[1])
    cost = run(workload, arch, mapping)
    used_cores = mapping.cores.product()
    assert cost.cycles >= workload.macs / arch.peak_macs_per_cycle
    assert 0 < cost.utilization <= 1
    # every input, weight and output element that the nest needs crosses the DRAM at least once, at the channels' rate
    channels = min(used_cores, arch.levels.DRAM.channels)
    assert cost.cycles >= compulsory_bytes(workload) / (channels * arch.dma_bytes_per_cycle) - 1e-6
    assert sum(cost.dram_bytes) >= compulsory_bytes(workload)
    assert cost.dma_busy_cycles <= cost.cycles * used_cores
    parts = (cost.compute_cycles, cost.noc_stall_cycles, cost.dma_stall_cycles, cost.overhead_cycles)
    assert sum(parts) == cost.cycles
    assert min(parts) >= 0
    assert cost.energy_pj == pytest.approx(
        sum(getattr(cost.energy, f"{part}_pj") for part in ("mac", "rf", "noc", "spm", "dram", "vector"))
    )


@settings(max_examples=150, deadline=None)
@given(seed=seeds)
def test_a_better_machine_is_never_slower_on_one_core(seed: int):
    workload, arch, mapping = random_case(random.Random(seed))
    cycles = run(workload, arch, mapping).cycles
    levels = arch.levels
    faster = {
        "DMA": replace(
            arch,
            dma=replace(arch.dma, cycles_per_byte=arch.dma.cycles_per_byte / 2),
            levels=replace(
                levels,
                DRAM=replace(levels.DRAM, channel_bytes_per_cycle=levels.DRAM.channel_bytes_per_cycle * 2),
            ),
        ),
        "start-up": replace(arch, dma=replace(arch.dma, startup_cycles=arch.dma.startup_cycles / 3)),
        "NoC": replace(arch, noc=replace(arch.noc, elems_per_cycle=arch.noc.elems_per_cycle * 1.7)),
        "port": replace(arch, levels=replace(levels, SPM=replace(levels.SPM, bytes_per_cycle=None))),
        "vector unit": replace(arch, vector=replace(arch.vector, ops_per_cycle=arch.vector.ops_per_cycle * 2)),
        "pipeline": replace(arch, pe=replace(arch.pe, mac_stages=1)),
    }
    for what, better in faster.items():
        assert run(workload, better, mapping).cycles <= cycles, what


@settings(max_examples=100, deadline=None)
@given(seed=seeds)
def test_loops_that_iterate_once_change_nothing(seed: int):
    workload, arch, mapping = random_case(random.Random(seed), num_cores=2)
    assert run(workload, arch, mapping.canonical(workload)) == run(workload, arch, mapping)


@settings(max_examples=50, deadline=None)
@given(seed=seeds)
def test_batches_and_threads_change_nothing(seed: int):
    rng = random.Random(seed)
    workload, arch = random_workload(rng), random_arch(rng)
    mappings = [random_mapping(rng, workload, arch) for _ in range(40)]
    together = simulate_batch(workload, arch, mappings, num_threads=2)
    assert together == simulate_batch(workload, arch, mappings, num_threads=1)
    assert together[7] == run(workload, arch, mappings[7])


def compulsory_bytes(workload: Workload) -> int:
    """Bytes of the distinct elements that the nest touches: the inputs that some output needs, weights, results."""
    touched = 0
    for projection in (workload.I, workload.W, workload.final_projection()):
        elems = 1
        for axis in projection.axes:
            elems *= len({index for index in _indices(axis.terms, axis.offset, workload) if 0 <= index < axis.extent})
        touched += elems * projection.elem_bits // 8
    return touched


def _indices(terms: tuple[tuple[str, int], ...], offset: int, workload: Workload) -> set[int]:
    found = {offset}
    for name, coefficient in terms:
        found = {base + coefficient * i for base in found for i in range(workload.dims[name])}
    return found
