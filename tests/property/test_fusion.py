"""The plan and its ties are those of enumerating every partition with every option."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fusion_cases import Network, check_network, draw_network, enumerate_plans, find_front, make_network, total
from tvm_spm.fusion.planner import plan_groups

seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_random_networks(seed: int):
    check_network(draw_network(np.random.default_rng(seed), most_layers=10, most_plans=1500))


@settings(max_examples=30, deadline=None)
@given(seed=seeds, max_group=st.integers(1, 4))
def test_groups_of_limited_length(seed: int, max_group: int):
    check_network(draw_network(np.random.default_rng(seed), most_layers=7, most_plans=1500), max_group)


costs = st.tuples(
    st.integers(0, 6) | st.integers(0, 2**40),
    st.integers(0, 6).map(float) | st.floats(0, 1e18, allow_subnormal=True) | st.floats(0, 1e-300),
)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), num_layers=st.integers(1, 4))
def test_any_costs(data: st.DataObject, num_layers: int):
    spans = [(first, stop) for first in range(num_layers) for stop in range(first + 1, num_layers + 1)]
    listed = {span: data.draw(st.lists(costs, max_size=3)) for span in spans}
    check_network(make_network(num_layers, {span: found for span, found in listed.items() if found}))


def whole_front(network: Network, max_group: int) -> list[tuple[int, Fraction]]:
    """Cycles and energy of all plans that no other beats, layer by layer from the last."""
    fronts = [[(0, Fraction(0))]]
    for first in range(network.num_layers - 1, -1, -1):
        totals = {
            (option.cycles + cycles, Fraction(option.energy_pj) + energy)
            for stop in range(first + 1, min(first + max_group, network.num_layers) + 1)
            for option in network.options_of(first, stop)
            for cycles, energy in fronts[stop - first - 1]
        }
        front: list[tuple[int, Fraction]] = []
        for point in sorted(totals):
            if not front or point[1] < front[-1][1]:
                front.append(point)
        fronts.insert(0, front)
    return fronts[0]


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_the_whole_front_is_that_of_all_plans(seed: int):
    network = draw_network(np.random.default_rng(seed), most_layers=6, most_plans=800)
    totals = {total(groups) for groups in enumerate_plans(network)}
    assert whole_front(network, network.num_layers) == find_front(totals)


@pytest.mark.parametrize("objective", ["latency", "energy", "edp"])
@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_deep_networks_agree_with_the_whole_front(objective: str, seed: int):
    rng = np.random.default_rng(seed)
    network = make_network(
        30,
        {
            (first, stop): [
                (int(c), float(e)) for c, e in zip(rng.integers(1, 200, 4), rng.uniform(1, 9, 4), strict=True)
            ]
            for first in range(30)
            for stop in range(first + 1, min(first + 4, 30) + 1)
        },
    )
    found = plan_groups(30, network.options_of, objective, 4)
    values = {
        "latency": lambda point: point[0],
        "energy": lambda point: point[1],
        "edp": lambda point: point[0] * point[1],
    }
    cycles, energy = min(whole_front(network, 4), key=values[objective])
    assert (found.cycles, found.energy_pj) == (cycles, float(energy))
