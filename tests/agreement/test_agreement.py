"""The analytical model against the simulator: equal where nothing is shared, close and equally ordered elsewhere.

Measured when the bounds were set, on random legal mappings of the ResNet layers below: with one core all of them equal;
on ``quad-edge`` (4 cores, 1 channel) errors from -0.37 to +0.0002 (median -0.003 to 0), rank correlation 0.980 or more;
on ``mlu100-32`` (32 cores, 4 channels) from -0.03 to 0, rank correlation 0.9992 or more.
"""

from __future__ import annotations

import math
import random
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_model.analytical.model import AnalyticalModel
from cost_model.simulator import SimulatorModel, simulate_batch
from tests.simulator_cases import random_case
from tvm_spm.arch import archs, load_arch
from tvm_spm.cost import Cost
from tvm_spm.mapping import Mapping
from tvm_spm.space.legality_batch import check_batch
from tvm_spm.space.mapping_batch import decode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import VectorWork, Workload

seeds = st.integers(min_value=0, max_value=2**32 - 1)

LAYERS = {
    "conv1": Workload.conv2d(K=64, C=3, OY=112, OX=112, FY=7, FX=7, stride=2, padding=3, IY=224, IX=224),
    "conv2": Workload.conv2d(K=64, C=64, OY=56, OX=56, FY=3, FX=3, padding=1),
    "conv3_1": Workload.conv2d(K=128, C=64, OY=28, OX=28, FY=3, FX=3, stride=2, padding=1, IY=56, IX=56),
    "down3": Workload.conv2d(K=128, C=64, OY=28, OX=28, FY=1, FX=1, stride=2, IY=56, IX=56),
    "conv5": Workload.conv2d(K=512, C=512, OY=7, OX=7, FY=3, FX=3, padding=1),
}

MAPPINGS_PER_LAYER = 40


def legal_mappings(workload: Workload, arch_name: str, *, spill: bool = False) -> list[Mapping]:
    arch = load_arch(arch_name)
    space = MapSpace(workload=workload, arch=arch, allow_spill=spill)
    batch = space.sample(np.random.default_rng(1), MAPPINGS_PER_LAYER)
    legal = np.flatnonzero(check_batch(workload, arch, batch) == 0)
    assert len(legal) >= MAPPINGS_PER_LAYER // 2
    return [decode(batch, int(row)) for row in legal]


def assert_same_energy(simulated: Cost, estimated: Cost) -> None:
    for field in fields(simulated.energy):
        ours, theirs = getattr(simulated.energy, field.name), getattr(estimated.energy, field.name)
        assert math.isclose(ours, theirs, rel_tol=1e-12), field.name
    assert simulated.dram_bytes == estimated.dram_bytes


def assert_same_cost(simulated: Cost, estimated: Cost) -> None:
    assert_same_energy(simulated, estimated)
    for field in fields(simulated):
        if field.name not in ("model", "energy"):
            assert getattr(simulated, field.name) == getattr(estimated, field.name), field.name


@settings(max_examples=150, deadline=None)
@given(seed=seeds)
def test_one_core_is_exact_for_every_odd_shape(seed: int):
    workload, arch, mapping = random_case(random.Random(seed))
    assert_same_cost(SimulatorModel().cost(workload, arch, mapping), AnalyticalModel().cost(workload, arch, mapping))


@settings(max_examples=150, deadline=None)
@given(seed=seeds, cores=st.integers(min_value=2, max_value=4))
def test_cores_with_a_channel_each_are_exact(seed: int, cores: int):
    workload, arch, mapping = random_case(random.Random(seed), num_cores=cores, num_channels=cores)
    assert_same_cost(SimulatorModel().cost(workload, arch, mapping), AnalyticalModel().cost(workload, arch, mapping))


@settings(max_examples=100, deadline=None)
@given(seed=seeds, cores=st.integers(min_value=2, max_value=4))
def test_energy_is_exact_with_contention(seed: int, cores: int):
    workload, arch, mapping = random_case(random.Random(seed), num_cores=cores)
    assert_same_energy(SimulatorModel().cost(workload, arch, mapping), AnalyticalModel().cost(workload, arch, mapping))


@pytest.mark.parametrize("arch_name", ["dmazerunner-256", "edge-256", "vta-1x16x16"])
@pytest.mark.parametrize("spill", [False, True])
@pytest.mark.parametrize("layer", ["conv2", "conv3_1", "down3"])
def test_one_core_is_exact_for_real_layers(layer: str, arch_name: str, spill: bool):
    workload, arch = LAYERS[layer], load_arch(arch_name)
    mappings = legal_mappings(workload, arch_name, spill=spill)[:15]
    for mapping, simulated in zip(mappings, simulate_batch(workload, arch, mappings), strict=True):
        assert_same_cost(simulated, AnalyticalModel().cost(workload, arch, mapping))


@pytest.mark.parametrize(
    ("arch_name", "largest_error", "median_error", "least_correlation"),
    [("quad-edge", 0.45, 0.02, 0.97), ("mlu100-32", 0.05, 0.005, 0.998)],
)
@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_shared_channels_keep_the_order(
    layer: str, arch_name: str, largest_error: float, median_error: float, least_correlation: float
):
    workload, arch = LAYERS[layer], load_arch(arch_name)
    mappings = legal_mappings(workload, arch_name)
    simulated = simulate_batch(workload, arch, mappings)
    estimated = [AnalyticalModel().cost(workload, arch, mapping) for mapping in mappings]
    for ours, theirs in zip(simulated, estimated, strict=True):
        assert_same_energy(ours, theirs)
    ours_cycles = np.array([cost.cycles for cost in simulated])
    theirs_cycles = np.array([cost.cycles for cost in estimated])
    errors = theirs_cycles / ours_cycles - 1
    assert np.abs(errors).max() <= largest_error
    assert np.median(np.abs(errors)) <= median_error
    assert rank_correlation(ours_cycles, theirs_cycles) >= least_correlation


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


@settings(max_examples=50, deadline=None)
@given(
    arch_name=st.sampled_from(archs()),
    read_bytes=st.integers(min_value=0, max_value=10**8),
    write_bytes=st.integers(min_value=0, max_value=10**8),
    num_ops=st.integers(min_value=0, max_value=10**9),
)
def test_vector_work_costs_the_same_everywhere(arch_name: str, read_bytes: int, write_bytes: int, num_ops: int):
    work = VectorWork(operator="softmax", read_bytes=read_bytes, write_bytes=write_bytes, num_ops=num_ops)
    arch = load_arch(arch_name)
    simulated, estimated = SimulatorModel().vector_cost(work, arch), AnalyticalModel().vector_cost(work, arch)
    assert (simulated.cycles, simulated.energy) == (estimated.cycles, estimated.energy)
    assert simulated.dma_busy_cycles <= simulated.cycles * arch.cores.count
