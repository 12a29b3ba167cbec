"""Plans per second: networks of 60 and 500 layers, groups of up to 12, 10 to 20 options each, by objective.

The networks are those of ``fusion_depth.py`` in which no option can be dropped beforehand. Expected time: a quarter of
a minute.

    pytest benchmarks/bench_fusion.py
"""

from __future__ import annotations

import pytest
from fusion_depth import OBJECTIVES, draw_options, plan
from pytest_benchmark.fixture import BenchmarkFixture


@pytest.mark.parametrize("num_layers", [60, 500])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_plan(benchmark: BenchmarkFixture, objective: str, num_layers: int) -> None:
    """From reading the options to the plan."""
    options = draw_options("convex", num_layers, 0)
    found, _ = benchmark.pedantic(plan, args=(options, num_layers, objective), rounds=3)
    benchmark.extra_info["sweeps"] = found.num_sweeps
