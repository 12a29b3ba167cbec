"""Mappings per second of the analytical model, one at a time and in batches.

Claim: screening a layer costs a second per million mappings. Measured on random mappings of ResNet's 64x64 3x3
convolution on 56x56 (padding 1) for edge-256, with factors that divide and with any, with all CPUs; a mapping with
edge tiles has more kinds of passes and steps, so it takes longer. Run time: about ten seconds after the first call,
which compiles (the result is cached on disk).

    pytest benchmarks/bench_analytical.py
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from cost_model.analytical.model import AnalyticalModel, evaluate_batch
from tvm_spm.arch import load_arch
from tvm_spm.space.mapping_batch import decode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Workload

NUM_MAPPINGS = 50_000

PADDED = Workload.conv2d(K=64, C=64, OY=56, OX=56, FY=3, FX=3, padding=1)
UNPADDED = Workload.conv2d(K=64, C=64, OY=56, OX=56, FY=3, FX=3)


@pytest.mark.parametrize("perfect", [True, False], ids=["perfect", "imperfect"])
@pytest.mark.parametrize("workload", [PADDED, UNPADDED], ids=["padded", "unpadded"])
def test_batched_mappings_per_second(benchmark: BenchmarkFixture, workload: Workload, perfect: bool) -> None:
    """All CPUs; ``mappings_per_cpu_s`` does not count what other processes take."""
    arch = load_arch("edge-256")
    space = MapSpace(workload=workload, arch=arch, perfect=perfect)
    batch = space.sample(np.random.default_rng(0), NUM_MAPPINGS)
    started_s = time.perf_counter()
    evaluate_batch(workload, arch, batch.take(slice(0, 1)))
    benchmark.extra_info["first_call_s"] = time.perf_counter() - started_s
    cpu_s = time.process_time()
    benchmark.pedantic(evaluate_batch, args=(workload, arch, batch), rounds=5)
    cpu_s = (time.process_time() - cpu_s) / 5
    benchmark.extra_info["mappings_per_cpu_s"] = round(NUM_MAPPINGS / cpu_s)
    benchmark.extra_info["mappings_per_s"] = round(NUM_MAPPINGS / benchmark.stats.stats.min)


@pytest.mark.parametrize("perfect", [True, False], ids=["perfect", "imperfect"])
def test_single_mappings_per_second(benchmark: BenchmarkFixture, perfect: bool) -> None:
    """One call each, with the breakdown."""
    arch = load_arch("edge-256")
    batch = MapSpace(workload=PADDED, arch=arch, perfect=perfect).sample(np.random.default_rng(0), 20)
    mappings = [decode(batch, row) for row in range(batch.num_mappings)]
    model = AnalyticalModel()
    benchmark.pedantic(lambda: [model.cost(PADDED, arch, mapping) for mapping in mappings], rounds=2)
    benchmark.extra_info["mappings_per_s"] = round(len(mappings) / benchmark.stats.stats.min)
