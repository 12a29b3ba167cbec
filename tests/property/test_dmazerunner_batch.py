"""The compiled published model equals the readable one on random tilings, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_model.published.batch import batch_best, nest_arrays
from cost_model.published.model import order_classes
from cost_model.published.nest import LEVELS, NUM_LOOPS, PublishedNest, published_machine, published_nest
from tests.unit.published_orders import best_over_orders
from tvm_spm.arch import load_arch
from tvm_spm.objective import Objective
from tvm_spm.workload import Workload

ARCH = load_arch("dmazerunner-256")
LAYERS = {
    "conv": Workload.conv2d(N=4, K=512, C=512, OY=7, OX=7, FY=3, FX=3, padding=1),
    "strided": Workload.conv2d(N=2, K=12, C=6, OY=4, OX=6, FY=3, FX=2, stride=2, padding=1, IY=9, IX=12),
    "depthwise": Workload.conv2d(N=4, K=96, C=96, OY=14, OX=14, FY=3, FX=3, groups=96, padding=1),
    "matmul": Workload.matmul(m=24, k=60, n=32),
    "batched matmul": Workload.matmul(m=8, k=6, n=12, batch=4),
    "one loop": Workload.conv2d(K=1, C=1, OY=4, OX=1, FY=1, FX=1),
}


def prime_factors(value: int) -> list[int]:
    primes = []
    divisor = 2
    while value > 1:
        while value % divisor == 0:
            primes.append(divisor)
            value //= divisor
        divisor += 1
    return primes


@st.composite
def tilings(draw: st.DrawFn, nest: PublishedNest) -> np.ndarray:
    """Every prime factor of every bound goes to some level."""
    factors = np.ones((len(LEVELS), NUM_LOOPS), np.int64)
    for loop, extent in enumerate(nest.extents):
        for prime in prime_factors(extent):
            factors[draw(st.integers(0, len(LEVELS) - 1)), loop] *= prime
    return factors


def named(nest: PublishedNest, factors: np.ndarray) -> dict[str, dict[str, int]]:
    return nest.named(tuple(tuple(row) for row in factors.tolist()))


@pytest.mark.parametrize("workload", LAYERS.values(), ids=LAYERS.keys())
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_compiled_equals_readable(workload: Workload, data: st.DataObject):
    nest = published_nest(workload)
    factors = data.draw(tilings(nest))
    arrays, best = nest_arrays(nest, published_machine(ARCH)), best_over_orders(workload, ARCH, named(nest, factors))
    for objective in Objective:
        assert batch_best(arrays, factors[None], objective.code)[0] == best.of(objective)


@pytest.mark.parametrize("workload", LAYERS.values(), ids=LAYERS.keys())
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_parts_add_up_and_no_order_beats_the_array(workload: Workload, data: st.DataObject):
    nest = published_nest(workload)
    factors = data.draw(tilings(nest))
    for order in order_classes(workload, ARCH, named(nest, factors)):
        assert order.energy.total_pj == pytest.approx(order.energy_pj, abs=1)
        assert order.cycles * int(factors[LEVELS.index("spatial")].prod()) >= workload.macs


def test_a_batch_is_its_rows():
    nest = published_nest(LAYERS["strided"])
    arrays = nest_arrays(nest, published_machine(ARCH))
    rng = np.random.default_rng(0)
    factors = np.ones((50, len(LEVELS), NUM_LOOPS), np.int64)
    for row in factors:
        for loop, extent in enumerate(nest.extents):
            for prime in prime_factors(extent):
                row[rng.integers(len(LEVELS)), loop] *= prime
    for objective in Objective:
        whole = batch_best(arrays, factors, objective.code)
        alone = [batch_best(arrays, factors[index : index + 1], objective.code)[0] for index in range(len(factors))]
        assert whole.tolist() == alone
