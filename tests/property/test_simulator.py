"""The engine against a literal walk, folded against unfolded, and physical bounds."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_model.roofs import roofs
from cost_model.simulator import simulate_batch, simulate_cycles
from tests.simulator_cases import random_arch, random_case, random_mapping, random_workload
from tests.simulator_reference import energy_pj, simulate
from tvm_spm.arch import Arch, Cores
from tvm_spm.cost import Cost
from tvm_spm.mapping import Mapping
from tvm_spm.space.mapping_batch import encode
from tvm_spm.workload import DIM_NAMES, Epilogue, Workload

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
    assert cost.dram_unused_bytes == walk.unused_bits // 8
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


@settings(max_examples=30, deadline=None)
@given(seed=seeds, shape=few_cores, number=st.sampled_from([0, 1, 7, 40]))
def test_cycles_alone_are_those_of_the_costs(seed: int, shape: tuple[int, int], number: int):
    rng = random.Random(seed)
    workload = random_workload(rng, small=True)
    arch = random_arch(rng, num_cores=shape[0], num_channels=shape[1])
    mappings = [random_mapping(rng, workload, arch, perfect=i % 2 == 0) for i in range(number)]
    costs = simulate_batch(workload, arch, mappings)
    assert simulate_cycles(workload, arch, encode(mappings)).tolist() == [cost.cycles for cost in costs]


@settings(max_examples=60, deadline=None)
@given(seed=seeds, shape=st.sampled_from([(2, 1), (3, 1), (4, 1), (4, 2)]))
def test_boxes_that_come_again_are_moved_as_a_literal_walk_moves_them(seed: int, shape: tuple[int, int]):
    """Many small tiles, of which some stick out into padding on each side and the last ones are smaller."""
    rng = random.Random(seed)
    work = Workload.conv2d(
        K=rng.randint(1, 3), C=rng.randint(1, 2), OY=rng.randint(5, 12), OX=rng.randint(3, 6), FY=3,
        FX=rng.choice([1, 3]), padding=rng.choice([1, 2]), stride=rng.choice([1, 1, 2]), dilation=rng.choice([1, 1, 2]),
        out_dtype=rng.choice([None, "int32"]),
    )  # fmt: skip
    if rng.random() < 0.5:
        work = replace(work, epilogue=Epilogue(num_ops_per_elem=3, extras=(work.final_projection(),)), out_dtype="int8")
    arch = random_arch(rng, num_cores=shape[0], num_channels=shape[1])
    drawn = [random_mapping(rng, work, arch) for _ in range(30)]
    few = [mapping for mapping in drawn if 60 <= num_passes(work, mapping) <= 600]
    for mapping in few[:1]:
        cost, walk = run(work, arch, mapping), simulate(work, arch, mapping)
        assert (cost.cycles, cost.dma_busy_cycles) == (walk.cycles, walk.dma_busy_cycles)
        assert cost.dram_bytes == tuple(walk.dram_bytes)
        assert cost.dram_unused_bytes == walk.unused_bits // 8


def num_passes(workload: Workload, mapping: Mapping) -> int:
    """Of all cores together, at most."""
    shares = (-(-workload.dims[d] // mapping.cores[d]) for d in DIM_NAMES)
    tiles = (-(-share // mapping.spm[d]) for d, share in zip(DIM_NAMES, shares, strict=True))
    return mapping.cores.product() * math.prod(tiles)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, dims=st.tuples(*[st.integers(min_value=20, max_value=200)] * 3), shape=few_cores)
def test_a_rhythm_of_several_cores_changes_nothing(seed: int, dims: tuple[int, int, int], shape: tuple[int, int]):
    """Long loops over tiles that are alike: what the cores do there is counted."""
    rng, (m, k, n) = random.Random(seed), dims
    workload = Workload.matmul(m=m, k=k, n=n)
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
    assert all(roof.reached_by(cost.cycles) <= 1 for roof in roofs(workload, arch))
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


@settings(max_examples=150, deadline=None)
@given(seed=seeds, shape=few_cores)
def test_whole_bursts_only_add_to_what_moves(seed: int, shape: tuple[int, int]):
    workload, arch, mapping = random_case(random.Random(seed), num_cores=shape[0], num_channels=shape[1])

    def cost_with(burst_bytes: int) -> Cost:
        dram = replace(arch.levels.DRAM, burst_bytes=burst_bytes)
        return run(workload, replace(arch, levels=replace(arch.levels, DRAM=dram)), mapping)

    costs = [cost_with(burst_bytes) for burst_bytes in (1, 8, 64)]
    words = [cost.energy.dram_pj / arch.levels.DRAM.access_pj for cost in costs]
    # every burst of 64 B holds eight of 8 B, and those hold bytes
    for few, more, few_words, more_words in zip(costs, costs[1:], words, words[1:], strict=False):
        assert all(a <= b for a, b in zip(few.dram_bytes, more.dram_bytes, strict=True))
        assert few.dma_busy_cycles <= more.dma_busy_cycles
        assert shape != (1, 1) or few.cycles <= more.cycles
        assert few_words <= more_words * (1 + 1e-12)
        assert more.energy_pj - more.energy.dram_pj == pytest.approx(few.energy_pj - few.energy.dram_pj, rel=1e-12)
    assert costs[0].dram_unused_bytes == 0
    for cost, burst_bytes in zip(costs[1:], (8, 64), strict=True):
        assert all(num_bytes % burst_bytes == 0 for num_bytes in cost.dram_bytes)
        # 8- and 16- and 32-bit elements: whole bytes are used
        assert sum(cost.dram_bytes) - cost.dram_unused_bytes == sum(costs[0].dram_bytes)


@settings(max_examples=150, deadline=None)
@given(seed=seeds, factor=st.sampled_from([1.1, 2, 3, 16]))
def test_more_bandwidth_never_makes_one_core_slower(seed: int, factor: float):
    workload, arch, mapping = random_case(random.Random(seed))
    cycles, levels = run(workload, arch, mapping).cycles, arch.levels
    faster_engine = replace(arch, dma=replace(arch.dma, cycles_per_byte=arch.dma.cycles_per_byte / factor))
    faster_channel = replace(
        levels.DRAM, channel_bytes_per_cycle=levels.DRAM.channel_bytes_per_cycle * factor
    )  # fmt: skip
    assert run(workload, faster_engine, mapping).cycles <= cycles
    assert run(workload, replace(arch, levels=replace(levels, DRAM=faster_channel)), mapping).cycles <= cycles
    if levels.SPM.bytes_per_cycle is not None:
        port = replace(levels.SPM, bytes_per_cycle=levels.SPM.bytes_per_cycle * factor)
        assert run(workload, replace(arch, levels=replace(levels, SPM=port)), mapping).cycles <= cycles


@settings(max_examples=100, deadline=None)
@given(seed=seeds, shape=few_cores)
def test_room_that_a_mapping_does_not_use_changes_no_cycle(seed: int, shape: tuple[int, int]):
    workload, arch, mapping = random_case(random.Random(seed), num_cores=shape[0], num_channels=shape[1])
    levels = arch.levels
    room = replace(
        levels,
        RF=replace(levels.RF, capacity_bytes=4 * levels.RF.capacity_bytes),
        SPM=replace(levels.SPM, capacity_bytes=2**30),
    )
    assert run(workload, replace(arch, levels=room), mapping) == run(workload, arch, mapping)


@settings(max_examples=100, deadline=None)
@given(seed=seeds, shape=few_cores)
def test_launch_delays_everything_by_itself(seed: int, shape: tuple[int, int]):
    workload, arch, mapping = random_case(random.Random(seed), num_cores=shape[0], num_channels=shape[1])
    count = arch.cores.count
    slow, fast = (replace(arch, cores=Cores(count=count, launch_cycles=launch)) for launch in (1000, 0))
    assert run(workload, slow, mapping).cycles == run(workload, fast, mapping).cycles + 1000


@settings(max_examples=100, deadline=None)
@given(seed=seeds, shape=few_cores)
def test_clocks_of_everything_twice_as_fast_change_no_cycle(seed: int, shape: tuple[int, int]):
    workload, arch, mapping = random_case(random.Random(seed), num_cores=shape[0], num_channels=shape[1])
    faster = replace(arch, clock_hz=2 * arch.clock_hz, dma=replace(arch.dma, clock_hz=2 * arch.dma.clock_hz))
    assert run(workload, faster, mapping) == run(workload, arch, mapping)


@settings(max_examples=100, deadline=None)
@given(seed=seeds)
def test_a_second_channel_is_of_no_use_to_one_core(seed: int):
    workload, arch, mapping = random_case(random.Random(seed))
    dram = replace(arch.levels.DRAM, channels=2)
    more = replace(arch, levels=replace(arch.levels, DRAM=dram))
    assert run(workload, more, mapping) == run(workload, arch, mapping)


@settings(max_examples=100, deadline=None)
@given(seed=seeds, num_cores=st.integers(min_value=2, max_value=4))
def test_a_channel_for_each_core_is_never_slower_than_fewer(seed: int, num_cores: int):
    workload, arch, mapping = random_case(random.Random(seed), num_cores=num_cores)
    dram = replace(arch.levels.DRAM, channels=num_cores)
    alone = replace(arch, levels=replace(arch.levels, DRAM=dram))
    assert run(workload, alone, mapping).cycles <= run(workload, arch, mapping).cycles


@settings(max_examples=100, deadline=None)
@given(seed=seeds, shape=few_cores)
def test_energy_follows_events_not_time(seed: int, shape: tuple[int, int]):
    workload, arch, mapping = random_case(random.Random(seed), num_cores=shape[0], num_channels=shape[1])
    slow = replace(
        arch,
        cores=Cores(count=arch.cores.count, launch_cycles=99),
        pe=replace(arch.pe, mac_stages=9),
        noc=replace(arch.noc, elems_per_cycle=0.25),
        dma=replace(arch.dma, startup_cycles=1000.0),
        vector=replace(arch.vector, ops_per_cycle=0.1),
    )
    assert run(workload, slow, mapping).energy == run(workload, arch, mapping).energy
    # twice the price of one event is twice that part of the energy and no other
    dearer = replace(arch, mac=replace(arch.mac, op_pj=2 * arch.mac.op_pj))
    energy, twice = run(workload, arch, mapping).energy, run(workload, dearer, mapping).energy
    assert twice == replace(energy, mac_pj=2 * energy.mac_pj)


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
