"""Simulations per second, on the mappings a tuner sends to the simulator.

The 11 unique convolutions of ResNet-18 (batch 1, int16) on ``dmazerunner-256``: per layer the 32 mappings of least
energy x delay out of 4,000 random ones with perfect factors; one batch is all layers. Then one layer on all 32 cores of
``mlu100-32``, whose cores wait for 4 DRAM channels, so that every pass of every core is walked. Expected time: under a
minute, after compilation.

    python -m pytest benchmarks/bench_simulator.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from cost_model.analytical.model import evaluate_batch
from cost_model.simulator import SimulatorModel, simulate_batch
from tvm_spm.arch import load_arch
from tvm_spm.mapping import Mapping
from tvm_spm.report.breakdown import explain
from tvm_spm.report.timeline import timeline
from tvm_spm.space.legality_batch import check_batch
from tvm_spm.space.mapping_batch import decode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Workload

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

SHAPES = (
    # K, C, outputs, taps, stride, inputs
    (64, 3, 112, 7, 2, 224),
    (64, 64, 56, 3, 1, 56),
    (128, 64, 28, 3, 2, 56),
    (128, 64, 28, 1, 2, 56),
    (128, 128, 28, 3, 1, 28),
    (256, 128, 14, 3, 2, 28),
    (256, 128, 14, 1, 2, 28),
    (256, 256, 14, 3, 1, 14),
    (512, 256, 7, 3, 2, 14),
    (512, 256, 7, 1, 2, 14),
    (512, 512, 7, 3, 1, 7),
)

RANDOM = {
    "conv": Workload.conv2d(K=64, C=64, OY=56, OX=56, FY=3, FX=3, padding=1),
    "matmul": Workload.matmul(m=128, k=768, n=768),
    "pointwise": Workload.conv2d(K=24, C=144, OY=28, OX=28, FY=1, FX=1),
}
"""Of ResNet-18, BERT and MobileNet-V2."""

NUM_RANDOM = 4000
NUM_KEPT = 32


def layer(k: int, c: int, outputs: int, taps: int, stride: int, inputs: int) -> Workload:
    """One square convolution with the usual padding."""
    return Workload.conv2d(
        K=k, C=c, OY=outputs, OX=outputs, FY=taps, FX=taps, stride=stride, padding=taps // 2, IY=inputs, IX=inputs
    )


def good_mappings(workload: Workload, arch_name: str, *, least_cores: int = 1) -> list[Mapping]:
    """The best of a random sample, by the analytical model."""
    arch = load_arch(arch_name)
    batch = MapSpace(workload=workload, arch=arch, perfect=True).sample(np.random.default_rng(0), NUM_RANDOM)
    batch = batch.take(check_batch(workload, arch, batch) == 0)
    batch = batch.take(np.prod(batch.cores, axis=1) >= least_cores)
    costs = evaluate_batch(workload, arch, batch)
    best = np.argsort(costs.cycles * costs.energy_pj, kind="stable")[:NUM_KEPT]
    return [decode(batch, int(row)) for row in best]


def test_resnet18_layers(benchmark: BenchmarkFixture) -> None:
    """All CPUs, in batches."""
    arch = load_arch("dmazerunner-256")
    batches = [(workload, good_mappings(workload, arch.name)) for workload in (layer(*shape) for shape in SHAPES)]

    def simulate() -> int:
        return sum(len(simulate_batch(workload, arch, mappings)) for workload, mappings in batches)

    num_simulations = benchmark(simulate)
    benchmark.extra_info["simulations_per_s"] = num_simulations / benchmark.stats.stats.median


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1], SHAPES[-1]], ids=["conv1", "conv2", "conv5"])
def test_one_mapping_at_a_time(benchmark: BenchmarkFixture, shape: tuple[int, int, int, int, int, int]) -> None:
    """One call per mapping, as ``evaluate`` does."""
    workload, arch, model = layer(*shape), load_arch("dmazerunner-256"), SimulatorModel()
    mappings = good_mappings(workload, arch.name)
    benchmark(lambda: [model.cost(workload, arch, mapping) for mapping in mappings])
    benchmark.extra_info["simulations_per_s"] = len(mappings) / benchmark.stats.stats.median


def test_32_cores(benchmark: BenchmarkFixture) -> None:
    """Contention: passes are walked until the cores fall into a rhythm."""
    workload, arch = layer(*SHAPES[1]), load_arch("mlu100-32")
    mappings = good_mappings(workload, arch.name, least_cores=28)
    assert mappings
    benchmark(lambda: simulate_batch(workload, arch, mappings))
    benchmark.extra_info["simulations_per_s"] = len(mappings) / benchmark.stats.stats.median


@pytest.mark.parametrize("name", ["conv", "matmul", "pointwise"])
def test_random_mappings_on_four_cores(benchmark: BenchmarkFixture, name: str) -> None:
    """As a search would not choose them: many small tiles, and contention."""
    workload, arch = RANDOM[name], load_arch("quad-edge")
    space = MapSpace(workload=workload, arch=arch)
    batch = space.sample(np.random.default_rng(0), NUM_RANDOM)
    batch = batch.take(np.flatnonzero(space.check(batch) == 0)[:1000])
    mappings = [decode(batch, row) for row in range(batch.num_mappings)]
    benchmark(lambda: simulate_batch(workload, arch, mappings))
    benchmark.extra_info["simulations_per_s"] = len(mappings) / benchmark.stats.stats.median


@pytest.mark.parametrize("arch_name", ["dmazerunner-256", "quad-edge"])
def test_explain(benchmark: BenchmarkFixture, arch_name: str) -> None:
    """A breakdown; where cores share a channel, each pass is walked."""
    workload = layer(*SHAPES[1])
    mappings = good_mappings(workload, arch_name)
    benchmark(lambda: [explain(workload, arch_name, mapping) for mapping in mappings])
    benchmark.extra_info["breakdowns_per_s"] = len(mappings) / benchmark.stats.stats.median


def test_timeline(benchmark: BenchmarkFixture) -> None:
    """Up to 20,000 events."""
    workload = layer(*SHAPES[1])
    mapping = good_mappings(workload, "quad-edge")[0]
    recorded = benchmark(lambda: timeline(workload, "quad-edge", mapping))
    benchmark.extra_info["events_per_s"] = len(recorded.events) / benchmark.stats.stats.median
