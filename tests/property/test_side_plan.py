"""Plans with units side by side, against every order of small networks with every set of units that could start."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest

from cost_model.side_by_side import finish_together
from cost_model.simulator import SimulatorModel
from tests.fused_cases import Builder
from tvm_spm.arch import Arch, load_arch
from tvm_spm.fusion.network_plan import Alone, NetworkPlan
from tvm_spm.fusion.planner import GroupOption, plan_groups
from tvm_spm.fusion.side_by_side import plan_side_by_side
from tvm_spm.fusion.side_ways import Exchange, SideWays
from tvm_spm.fusion.sides import SideBySide, SidePlan, Unit
from tvm_spm.graph import LayerGraph
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.space.mapspace import MapSpace

Before = list[frozenset[int]]


def draw(seed: int) -> tuple[LayerGraph, Before, Arch, str]:
    """A few convolutions, each of which reads one before it or the input, and now and then two."""
    rng = random.Random(seed)
    builder, before = Builder(), []
    outputs = [builder.tensor("in", (1, 4, 6, 6))]
    for number in range(rng.randint(2, 5)):
        source = rng.randrange(len(outputs))
        others = [at for at in range(1, len(outputs)) if at != source]
        extra = rng.choice(others) if others and rng.random() < 0.3 else None
        outputs.append(
            builder.conv(
                f"conv{number}", outputs[source], 4, taps=rng.choice([1, 3]),
                extras=() if extra is None else (outputs[extra],),
            )
        )  # fmt: skip
        before.append(frozenset(at - 1 for at in (source, extra or 0) if at > 0))
    graph = LayerGraph(tensors=tuple(builder.tensors), layers=tuple(builder.layers), outputs=tuple(outputs[1:]))
    return graph, before, load_arch(rng.choice(["quad-edge", "mlu100-32"])), rng.choice(["edp", "latency"])


def serial(graph: LayerGraph, arch: Arch, objective: str) -> tuple[NetworkPlan, list[Mapping]]:
    """Every layer alone, in its default mapping."""
    mappings, alone = [], []
    for layer in graph.layers:
        assert layer.workload is not None
        mapping = MapSpace(workload=layer.workload, arch=arch).require_default()
        mappings.append(mapping)
        cost = SimulatorModel().cost(layer.workload, arch, mapping)
        alone.append(Alone(task=0, cost=cost, num_cores=mapping.cores.product()))

    def option(first: int, stop: int) -> list[GroupOption]:
        cost = alone[first].cost
        assert cost is not None
        return [GroupOption(cycles=cost.cycles, energy_pj=cost.energy_pj)] if stop - first == 1 else []

    plan = plan_groups(len(alone), option, objective, 1)
    units = tuple((index,) for index in range(len(alone)))
    return NetworkPlan(graph=graph, alone=tuple(alone), groups=(), plan=plan, units=units, refused=()), mappings


def planned(seed: int, refuses: int = 0) -> tuple[SidePlan, Before, Arch, str, SideWays, NetworkPlan]:
    graph, before, arch, objective = draw(seed)
    plan, mappings = serial(graph, arch, objective)
    asked = itertools.count()
    found = plan_side_by_side(
        plan, arch, mappings, before, range(len(graph.layers)),
        why_not=lambda sides: ["no" if next(asked) < refuses else None for _ in sides], should_stop=lambda: False,
    )  # fmt: skip
    assert found is not None
    exchange = Exchange(cycle=1.0, pj=0.0)
    if objective == "edp":
        exchange = Exchange(cycle=plan.plan.energy_pj, pj=float(plan.plan.cycles))
    ways = SideWays(graph, arch, Objective.of(objective), exchange, mappings, lambda: False)
    return found, before, arch, objective, ways, plan


def value(objective: str, cycles: float, energy_pj: float) -> float:
    return cycles * energy_pj if objective == "edp" else cycles


def every_total(before: Before, ways: SideWays, plan: NetworkPlan) -> set[tuple[int, float]]:
    """Cycles and energy of every order, by trying at each point everything that could start."""
    totals: dict[frozenset[int], set[tuple[int, float]]] = {}
    whole = frozenset(range(len(before)))

    def behind(done: frozenset[int]) -> set[tuple[int, float]]:
        if done == whole:
            return {(0, 0.0)}
        if done not in totals:
            ready = [layer for layer in sorted(whole - done) if before[layer] <= done]
            found = set()
            for size in range(1, 5):
                for pick in itertools.combinations(ready, size):
                    costs = [plan.alone[pick[0]].cost] if size == 1 else []
                    if size > 1:
                        units = [Unit(layers=(layer,)) for layer in pick]
                        alone = [cost for layer in pick if (cost := plan.alone[layer].cost) is not None]
                        limit = ways.exchange.value(sum(c.cycles for c in alone), sum(c.energy_pj for c in alone))
                        costs = [step.cost for step in ways.together(units, limit)]
                    for cost in costs:
                        assert cost is not None
                        for cycles, energy_pj in behind(done | set(pick)):
                            found.add((cost.cycles + cycles, cost.energy_pj + energy_pj))
            totals[done] = found
        return totals[done]

    return behind(frozenset())


@pytest.mark.parametrize("seed", range(16))
def test_the_plan_is_the_best_of_every_order_and_never_worse_than_the_serial_one(seed: int):
    found, before, _, objective, ways, plan = planned(seed)
    best = min(value(objective, *total) for total in every_total(before, ways, plan))
    mine = value(objective, found.cycles, found.energy_pj)
    assert math.isclose(mine, best, rel_tol=1e-9)
    assert mine <= value(objective, plan.plan.cycles, plan.plan.energy_pj)
    # fewer layers than the window reaches
    assert found.limits == ()


@pytest.mark.parametrize("seed", range(16, 32))
def test_every_layer_runs_once_behind_what_it_reads_on_cores_of_its_own(seed: int):
    found, before, arch, _, _, _ = planned(seed)
    done: set[int] = set()
    for step in found.steps:
        units = [side.unit for side in step.sides] if isinstance(step, SideBySide) else [step]
        layers = [layer for unit in units for layer in unit.layers]
        assert all(before[layer] <= done for layer in layers)
        done |= set(layers)
        if isinstance(step, SideBySide):
            cores = [core for side in step.sides for core in side.cores]
            assert sorted(set(cores)) == sorted(cores)
            assert set(cores) <= set(range(arch.cores.count))
            ends = finish_together(arch, [side.job for side in step.sides])
            assert step.cost.cycles == max(end.cycles for end in ends)
    assert done == set(range(len(before)))
    assert sum(len(step.sides) if isinstance(step, SideBySide) else 1 for step in found.steps) == len(before)


@pytest.mark.parametrize("seed", range(4))
def test_what_has_no_code_runs_another_way_or_alone(seed: int):
    found, _, _, objective, _, plan = planned(seed, refuses=3)
    assert value(objective, found.cycles, found.energy_pj) <= value(objective, plan.plan.cycles, plan.plan.energy_pj)


def test_a_network_gains_most_where_all_its_layers_are_equal_and_small():
    """Four layers that each use one core of four, one after the other and together."""
    builder = Builder()
    source = builder.tensor("in", (1, 16, 16, 16))
    outputs = tuple(builder.conv(f"conv{number}", source, 16) for number in range(4))
    graph = LayerGraph(tensors=tuple(builder.tensors), layers=tuple(builder.layers), outputs=outputs)
    arch = load_arch("quad-edge")
    dram = replace(arch.levels.DRAM, channels=4)
    arch = replace(arch, levels=replace(arch.levels, DRAM=dram))
    one_core = replace(arch, cores=replace(arch.cores, count=1))
    plan, mappings = serial(graph, one_core, "edp")
    found = plan_side_by_side(
        plan, arch, mappings, [frozenset()] * 4, range(4), why_not=lambda sides: [None] * len(sides),
        should_stop=lambda: False,
    )  # fmt: skip
    assert found is not None
    # a channel each: all finish when one alone does
    assert found.cycles <= plan.plan.cycles // 4
