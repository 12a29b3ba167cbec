"""The plan of a small network and its bound, against every cut with every mapping of every group."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from cost_model.fused.flat import flatten
from cost_model.fused.inner_mapper import InnerMapper
from tests.group_proof_cases import OBJECTIVES, draw_arch, draw_group, mappings
from tests.unit.test_network_fusion import cost
from tvm_spm.arch import Arch
from tvm_spm.fusion import network
from tvm_spm.fusion.hopes import GroupHope
from tvm_spm.fusion.network import Alone, NetworkPlan, plan_network
from tvm_spm.fusion.timing import Timer
from tvm_spm.group import Group, refuse_group

Costs = list[tuple[int, float]]


def front(group: Group, arch: Arch, objective: str) -> Costs:
    """Cycles and energy of all mappings that no other beats."""
    flat, mapper, found = flatten(group), InnerMapper(arch, objective), set()
    for choice in mappings(group, arch):
        timer = Timer(group, flat, arch, mapper)
        if timer.time(*choice) == "":
            one = timer.front()[0][1].cost
            found.add((one.cycles, one.energy_pj))
    kept: Costs = []
    for point in sorted(found):
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return kept


def value(cycles: float, energy_pj: float, objective: str) -> float:
    return {"edp": cycles * energy_pj, "energy": energy_pj, "latency": float(cycles)}[objective]


def cuts(num_layers: int) -> list[list[tuple[int, int]]]:
    if num_layers == 0:
        return [[]]
    return [[*rest, (first, num_layers)] for first in range(num_layers) for rest in cuts(first)]


def draw(seed: int) -> tuple[Group, Arch, str, list[Alone], dict[tuple[int, int], Costs]]:
    """A network, and what its layers and groups cost; a layer alone is about as good as a part of a group."""
    rng = random.Random(seed)
    whole, arch, objective = draw_group(rng, most_size=4, most_channels=5), draw_arch(rng), rng.choice(OBJECTIVES)
    num, costs = len(whole.graph.layers), {}
    for first, stop in itertools.combinations(range(num + 1), 2):
        if stop - first > 1 and refuse_group(whole.graph, first, stop) is None:
            costs[first, stop] = front(Group(graph=whole.graph, first=first, stop=stop), arch, objective)
    typical = [point for points in costs.values() for point in points] or [(100, 1e5)]
    alone = []
    for index in range(num):
        cycles, energy_pj = rng.choice(typical)
        scale = rng.uniform(0.2, 0.8)
        alone.append(Alone(task=0, cost=cost(1 + int(scale * cycles), scale * energy_pj), num_cores=1))
        costs[index, index + 1] = [(alone[-1].cost.cycles, alone[-1].cost.energy_pj)]
    return whole, arch, objective, alone, costs


def best_of_all(num_layers: int, costs: dict[tuple[int, int], Costs], objective: str) -> float:
    best = math.inf
    for cut in cuts(num_layers):
        for points in itertools.product(*(costs.get(span, []) for span in cut)):
            best = min(best, value(sum(p[0] for p in points), sum(p[1] for p in points), objective))
    return best


def plan(whole: Group, arch: Arch, objective: str, alone: list[Alone]) -> NetworkPlan:
    return plan_network(
        whole.graph, arch, objective, alone, why_not=lambda ways: [None] * len(ways)
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(10))
def test_no_plan_is_below_its_bound(seed: int, monkeypatch: pytest.MonkeyPatch):
    whole, arch, objective, alone, costs = draw(seed)
    best = best_of_all(len(alone), costs, objective)
    # would leave the space that is enumerated
    monkeypatch.setattr(GroupHope, "polish", lambda hope, point: None)
    for budget in (0, 3, 10_000):
        monkeypatch.setattr(network, "STEPS_PER_GROUP", budget)
        monkeypatch.setattr(network, "STEPS_OF_ONE_LAYER", 0)
        found = plan(whole, arch, objective, alone)
        assert found.lower_bound <= best * (1 + 1e-9)
        assert found.value >= best * (1 - 1e-9)
        if found.gap == 0:
            assert found.value == pytest.approx(best, rel=2 * network.PROVED)
    # Convex regions leave little where there was time for all of it.
    assert found.value == pytest.approx(best, rel=1e-9)
    assert found.gap < 5e-4
