"""The plan of a small network and its bound, against every cut into convex groups with every mapping of every group."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from cost_model.fused.flat import flatten
from cost_model.fused.inner_mapper import InnerMapper
from tests.group_proof_cases import OBJECTIVES, draw_arch, draw_group, mappings
from tests.property.test_convex_plans import Part, can_run, partitions, readers
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


def draw(seed: int) -> tuple[Group, Arch, str, list[Alone], dict[Part, Costs]]:
    """A network, and what its layers and groups cost; a layer alone is about as good as a part of a group."""
    rng = random.Random(seed)
    whole, arch, objective = draw_group(rng, most_size=4, most_channels=5), draw_arch(rng), rng.choice(OBJECTIVES)
    num, costs = len(whole.graph.layers), {}
    for size in range(2, num + 1):
        for layers in itertools.combinations(range(num), size):
            group = Group(graph=whole.graph, layers=layers)
            if refuse_group(group) is None:
                costs[layers] = front(group, arch, objective)
    typical = [point for points in costs.values() for point in points] or [(100, 1e5)]
    alone = []
    for index in range(num):
        cycles, energy_pj = rng.choice(typical)
        scale = rng.uniform(0.2, 0.8)
        alone.append(Alone(task=0, cost=cost(1 + int(scale * cycles), scale * energy_pj), num_cores=1))
        costs[index,] = [(alone[-1].cost.cycles, alone[-1].cost.energy_pj)]
    return whole, arch, objective, alone, costs


def best_of_all(whole: Group, costs: dict[Part, Costs], objective: str) -> float:
    best, reads = math.inf, readers(whole.graph)
    for parts in partitions(list(range(len(reads)))):
        if not can_run(parts, reads):
            continue
        for points in itertools.product(*(costs.get(part, []) for part in parts)):
            best = min(best, value(sum(p[0] for p in points), sum(p[1] for p in points), objective))
    return best


def plan(whole: Group, arch: Arch, objective: str, alone: list[Alone]) -> NetworkPlan:
    return plan_network(
        whole.graph, arch, objective, alone, why_not=lambda ways: [None] * len(ways)
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(10))
def test_no_plan_is_below_its_bound(seed: int, monkeypatch: pytest.MonkeyPatch):
    whole, arch, objective, alone, costs = draw(seed)
    best = best_of_all(whole, costs, objective)
    # would leave the space that is enumerated
    monkeypatch.setattr(GroupHope, "polish", lambda hope, point: None)
    for budget in (0, 3, 10_000):
        monkeypatch.setattr(network, "STEPS_PER_GROUP", budget)
        monkeypatch.setattr(network, "FEWEST_STEPS", 0)
        found = plan(whole, arch, objective, alone)
        assert found.lower_bound <= best * (1 + 1e-9)
        assert found.value >= best * (1 - 1e-9)
        if found.gap == 0:
            assert found.value == pytest.approx(best, rel=2 * network.PROVED)
    # Convex regions leave little where there was time for all of it.
    assert found.value == pytest.approx(best, rel=1e-9)
    assert found.gap < 5e-4
