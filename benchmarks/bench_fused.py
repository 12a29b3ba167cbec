"""Groups per second, and candidates and stages per second, of the search of fused groups.

The bottlenecks of ResNet-50 (batch 1, int16), and two plain 3x3 convolutions, on ``quad-edge`` and ``mlu100-32``.
Expected time: a minute, after compilation.

    python -m pytest benchmarks/bench_fused.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cost_model.fused.inner_mapper import InnerMapper
from tests.fused_cases import Builder, conv_chain
from tvm_spm.arch import load_arch
from tvm_spm.fusion.search import group_search
from tvm_spm.group import Group
from tvm_spm.workload import Workload

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


def bottleneck(c: int, m: int, size: int) -> Group:
    """1x1, 3x3, 1x1 and the sum with the input."""
    b = Builder()
    x = b.tensor("x", (1, c, size, size))
    at = b.conv("conv", b.conv("reduce", x, m, taps=1), m)
    b.conv("expand", at, c, taps=1, extras=(x,), num_ops=3)
    return b.group()


@pytest.mark.parametrize("arch_name", ["quad-edge", "mlu100-32"])
def test_group_search(benchmark: BenchmarkFixture, arch_name: str) -> None:
    """Every group anew; the array mappings of stages are known after the first round."""
    arch = load_arch(arch_name)
    groups = [bottleneck(256, 64, 56), bottleneck(512, 128, 28), conv_chain(64, 64, 64, size=56)]
    results = benchmark(lambda: [group_search(group, arch) for group in groups])
    seconds = benchmark.stats.stats.median
    benchmark.extra_info["groups_per_s"] = len(groups) / seconds
    benchmark.extra_info["candidates_per_s"] = sum(result.num_enumerated for result in results) / seconds
    benchmark.extra_info["timed_per_s"] = sum(result.num_timed for result in results) / seconds


def test_inner_mapper(benchmark: BenchmarkFixture) -> None:
    """Stages of a convolution, none of them seen before."""
    arch, workload = load_arch("edge-256"), Workload.conv2d(K=64, C=64, OY=56, OX=56, FY=3, FX=3, padding=1)
    shapes = [(1, 1, k, 64, oy, ox, 3, 3) for k in (16, 32, 64) for oy in range(1, 15) for ox in (7, 14, 28, 56)]

    def choose() -> int:
        mapper = InnerMapper(arch, "edp")
        return len(mapper.choose(mapper.number(workload), shapes))

    num_shapes = benchmark(choose)
    benchmark.extra_info["shapes_per_s"] = num_shapes / benchmark.stats.stats.median
