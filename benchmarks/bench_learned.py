"""Speed of what is learned: features and prediction of a pool of candidates, a fit of the residual, and of numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cost_model.analytical.model import evaluate_batch
from cost_model.calibration import Measured, fit_arch
from cost_model.learned import Estimate
from cost_model.learned.residual import Lesson, fit_residual
from tvm_spm.arch import load_arch
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Workload

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

ARCH = load_arch("edge-256")
LAYER = Workload.conv2d(K=64, C=64, OY=56, OX=56, FY=3, FX=3, padding=1)
NUM_ROWS = 200_000


def lesson(num_rows: int) -> Lesson:
    """Measurements that differ from the formula by what tiles there are."""
    space, rng = MapSpace(workload=LAYER, arch=ARCH), np.random.default_rng(0)
    batch = space.sample(rng, 4096)
    batch = batch.take(np.flatnonzero(space.check(batch) == 0))
    batch = batch.take(np.arange(num_rows) % batch.num_mappings)
    cost = evaluate_batch(LAYER, ARCH, batch)
    estimate = Estimate(cost.cycles.astype(np.float64), cost.energy_pj)
    ratio = 1 + 0.1 * (batch.spm[:, 2] % 4 == 0) + 0.05 * np.log2(batch.spm[:, 4])
    return Lesson(workload=LAYER, batch=batch, estimate=estimate, cycles=estimate.cycles * ratio)


@pytest.fixture(scope="module")
def few() -> Lesson:
    """As many as a task is measured."""
    return lesson(256)


def test_fit(benchmark: BenchmarkFixture, few: Lesson) -> None:
    """The members of one model."""
    benchmark.extra_info["measurements"] = few.batch.num_mappings
    assert benchmark(fit_residual, ARCH, [few]) is not None


def test_features_and_prediction(benchmark: BenchmarkFixture, few: Lesson) -> None:
    """Of a pool; the estimate is given."""
    model, many = fit_residual(ARCH, [few]), lesson(NUM_ROWS)
    benchmark.extra_info["rows"] = NUM_ROWS
    mean, _ = benchmark(model.predict, LAYER, many.batch, many.estimate)
    assert np.abs(mean - many.residuals).mean() < np.abs(many.residuals).mean() / 4


def test_fit_of_numbers(benchmark: BenchmarkFixture) -> None:
    """Of an accelerator, to three mappings of each of 13 layers."""
    built = replace(ARCH, dma=replace(ARCH.dma, startup_cycles=198.0), noc=replace(ARCH.noc, elems_per_cycle=8.0))
    layers = [
        Workload.conv2d(K=64 * k, C=64 * c, OY=56 // k, OX=56 // k, FY=taps, FX=taps, padding=taps // 2)
        for k, c, taps in [(k, k, 3) for k in (1, 2, 4, 8)] + [(k, c, 1) for k in (1, 2, 4) for c in (1, 2, 4)]
    ]
    measured = []
    for seed, layer in enumerate(layers):
        space = MapSpace(workload=layer, arch=ARCH)
        batch = space.sample(np.random.default_rng(seed), 64)
        batch = batch.take(np.flatnonzero(space.check(batch) == 0)[:3])
        cycles = evaluate_batch(layer, built, batch).cycles.astype(np.float64)
        measured.append(Measured(workload=layer, batch=batch, cycles=cycles))
    found = benchmark.pedantic(fit_arch, (ARCH, measured), rounds=3, warmup_rounds=1)
    assert {number.path: number.value for number in found.numbers}["dma.startup_cycles"] == 198
