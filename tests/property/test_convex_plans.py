"""Cuts of small networks into convex groups: the best is that of enumerating all partitions of the layers."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fused_cases import Builder
from tvm_spm.fusion import convex_groups as groups_module
from tvm_spm.fusion import serial_orders as orders_module
from tvm_spm.fusion.convex_groups import convex_groups
from tvm_spm.fusion.planner import GroupOption, plan_groups
from tvm_spm.fusion.serial_orders import serial_orders
from tvm_spm.graph import LayerGraph

Part = tuple[int, ...]
Costs = dict[Part, list[tuple[int, float]]]


def draw_graph(rng: random.Random, most_layers: int) -> LayerGraph:
    """Sums of up to three tensors; some results are needed outside."""
    b = Builder()
    tensors = [b.tensor("x", (1, 2, 3, 3))]
    for number in range(rng.randint(2, most_layers)):
        near = tensors[-3:] if rng.random() < 0.5 else tensors
        sources = rng.sample(near, min(len(near), rng.randint(1, 3)))
        tensors.append(b.elementwise(f"l{number}", *sources))
    return b.graph()


def readers(graph: LayerGraph) -> list[set[int]]:
    return [{r for r, layer in enumerate(graph.layers) if any(read.tensor == made.output for read in layer.reads)}
            for made in graph.layers]  # fmt: skip


def is_group(part: Part, reads: list[set[int]]) -> bool:
    """Every layer but the last is read inside, and nothing that leaves comes back."""
    if any(not reads[layer] & set(part) for layer in part[:-1]):
        return False
    outside = {r for layer in part for r in reads[layer]} - set(part)
    while True:
        if any(reads[layer] & set(part) for layer in outside):
            return False
        more = {r for layer in outside for r in reads[layer]} - outside
        if not more:
            return True
        outside |= more


def partitions(layers: list[int]) -> Iterator[list[Part]]:
    if not layers:
        yield []
        return
    head, rest = layers[0], layers[1:]
    for size in range(len(rest) + 1):
        for others in itertools.combinations(rest, size):
            for parts in partitions([layer for layer in rest if layer not in others]):
                yield [(head, *others), *parts]


def can_run(parts: list[Part], reads: list[set[int]]) -> bool:
    """Whether some order has every part behind those that it reads."""
    left, done = list(parts), set[int]()
    while left:
        ready = [p for p in left if all(d in done or d in p for d in range(len(reads)) if reads[d] & set(p))]
        if not ready:
            return False
        done.update(*ready)
        left = [p for p in left if p not in ready]
    return True


def draw_costs(rng: random.Random, graph: LayerGraph, reads: list[set[int]]) -> Costs:
    costs: Costs = {}
    num = len(graph.layers)
    for size in range(1, num + 1):
        for part in itertools.combinations(range(num), size):
            if size == 1 or is_group(part, reads):
                costs[part] = [
                    (rng.randint(1, 10 * size), rng.uniform(1, 10 * size)) for _ in range(rng.randint(1, 2))
                ]  # fmt: skip
    return costs


def best_of_all(costs: Costs, reads: list[set[int]], objective: str) -> float:
    value = {"edp": lambda c, e: c * e, "latency": lambda c, e: c, "energy": lambda c, e: e}[objective]
    best = math.inf
    for parts in partitions(list(range(len(reads)))):
        if all(part in costs for part in parts) and can_run(parts, reads):
            for options in itertools.product(*(costs[part] for part in parts)):
                best = min(best, value(sum(c for c, _ in options), sum(e for _, e in options)))
    return best


@pytest.mark.parametrize("objective", ["edp", "latency", "energy"])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_plan_is_the_best_of_all_partitions(objective: str, seed: int):
    rng = random.Random(seed)
    graph = draw_graph(rng, 6)
    reads = readers(graph)
    costs = draw_costs(rng, graph, reads)
    found = convex_groups(graph, lambda index: True)
    assert set(found.layers) == {part for part in costs if len(part) > 1}
    assert not found.shortened
    orders = serial_orders(found.layers, graph.before)
    plan = plan_groups(
        orders.num_sets - 1,
        lambda first, stop: [GroupOption(cycles=c, energy_pj=e) for c, e in costs[orders.steps[first, stop]]],
        objective, spans=list(orders.steps),
    )  # fmt: skip
    got = {"edp": plan.edp_pj_cycles, "latency": plan.cycles, "energy": plan.energy_pj}[objective]
    assert got == pytest.approx(best_of_all(costs, reads, objective), rel=1e-12)
    ran = [layer for each in plan.groups for layer in orders.steps[each.first, each.stop]]
    assert sorted(ran) == list(range(len(graph.layers)))


def diamond() -> LayerGraph:
    """0, then 1 beside 2 > 3, joined by 4."""
    b = Builder()
    stem = b.elementwise("stem", b.tensor("x", (1, 2, 3, 3)))
    one = b.elementwise("one", stem)
    two = b.elementwise("two", b.elementwise("reduce", stem))
    b.elementwise("join", one, two)
    return b.graph()


def test_a_branch_and_its_join_are_a_group_in_any_order():
    # In the one order, 1 stands before 2 and 3: only that of 3 with the join is an interval.
    found = convex_groups(diamond(), lambda index: True)
    assert {(1, 4), (3, 4), (2, 3), (1, 3, 4), (2, 3, 4), (1, 2, 3, 4)} <= set(found.layers)
    # 2 and 4 without 3 would need what 3 makes of 2.
    assert (2, 4) not in found.layers
    orders = serial_orders(found.layers, diamond().before)
    assert (1, 4) in orders.steps.values()


def test_a_chain_has_one_order():
    b = Builder()
    at = b.tensor("x", (1, 2, 3, 3))
    for number in range(12):
        at = b.elementwise(f"l{number}", at)
    graph = b.graph()
    found = convex_groups(graph, lambda index: True)
    # 11 + 10 + .. + 3 intervals of 2 to 10 layers
    assert len(found.layers) == sum(range(3, 12))
    assert serial_orders(found.layers, graph.before).num_sets == 13


def test_what_is_left_out_is_said(monkeypatch: pytest.MonkeyPatch):
    b = Builder()
    stem = b.elementwise("stem", b.tensor("x", (1, 2, 3, 3)))
    b.elementwise("join", *(b.elementwise(f"b{number}", stem) for number in range(6)))
    graph = b.graph()
    monkeypatch.setattr(groups_module, "MOST_ENDING", 20)
    found = convex_groups(graph, lambda index: True)
    # One branch and the join, or two: 6 + 15 > 20.
    assert found.shortened == {7: 2}
    assert [layers for layers in found.layers if layers[-1] == 7] == [(branch, 7) for branch in range(1, 7)]
    monkeypatch.setattr(orders_module, "MOST_SETS", 10)
    orders = serial_orders(found.layers, graph.before)
    assert (orders.reach, orders.num_sets) == (0, 9)
    assert all(layers[-1] - layers[0] + 1 == len(layers) for layers in orders.steps.values())
