"""The plan, its ties and both fronts are those of enumerating every partition with every option."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fusion_cases import check_network, draw_network, enumerate_plans, find_front, make_network, rank, total
from tvm_spm.fusion.front import find_front as find_labels
from tvm_spm.fusion.planner import plan_groups
from tvm_spm.fusion.table import make_table

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


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_a_plan_per_point_of_the_front(seed: int):
    network = draw_network(np.random.default_rng(seed), most_layers=6, most_plans=800)
    plans = list(enumerate_plans(network))
    if not plans:
        return
    front = find_labels(make_table(network.num_layers, network.options_of, network.num_layers), max_labels=10**6)
    for index, point in enumerate(find_front({total(groups) for groups in plans})):
        equal = [groups for groups in plans if total(groups) == point]
        assert front.groups(index) == min(equal, key=lambda groups: rank(groups, "latency"))


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
    found = plan_groups(30, network.options_of, objective, 4, front="all")
    values = {
        "latency": lambda point: point.cycles,
        "energy": lambda point: point.energy_pj,
        "edp": lambda point: point.cycles * point.energy_pj,
    }
    best = min(found.front, key=values[objective])
    assert (found.cycles, found.energy_pj) == (best.cycles, best.energy_pj)
    corners = plan_groups(30, network.options_of, objective, 4).front
    assert set(corners) <= set(found.front)
