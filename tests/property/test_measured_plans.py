"""Plans of groups that are measured, on machines that are not what is expected of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from cost_model.fused import group_key
from tests.fused_cases import conv_chain
from tests.property.test_convex_plans import Part
from tests.property.test_network_plan import Costs, best_of_all, draw, value
from tests.unit.test_network_fusion import ARCH, cost
from tvm_spm.cost import Cost
from tvm_spm.fusion.hopes import GroupHope
from tvm_spm.fusion.measured import MOST_MEASURED
from tvm_spm.fusion.network import Alone, FusedGroup, NetworkPlan, Surroundings, plan_network
from tvm_spm.fusion.network_plan import ENOUGH
from tvm_spm.group import Group


class Machine:
    """Takes as much longer than expected as a seed says, another share for each mapping of a group."""

    def __init__(self, seed: int, low: float, high: float) -> None:
        self._seed, self._low, self._high = seed, low, high
        self.measured: dict[Part, dict[str, Cost]] = {}
        self.num_asked = 0

    def measure(self, ways: Sequence[FusedGroup]) -> list[Cost]:
        found = []
        for way in ways:
            self.num_asked += 1
            rng = random.Random(f"{self._seed} {group_key(way.group)} {way.mapping}")
            cycles = max(1, round(way.cost.cycles * rng.uniform(self._low, self._high)))
            more = cycles - way.cost.cycles
            cost = replace(way.cost, cycles=cycles, dma_stall_cycles=way.cost.dma_stall_cycles + more)
            self.measured.setdefault(way.group.layers, {})[str(way.mapping)] = cost
            found.append(cost)
        return found


def plan(whole: Group, arch, objective: str, alone, machine, *, most: int = 1000, **around) -> NetworkPlan:
    return plan_network(
        whole.graph, arch, objective, alone, why_not=lambda ways: [None] * len(ways),
        around=Surroundings(measure=machine, most_measured=most, **around),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(10))
def test_a_machine_that_is_slower_all_over_is_planned_for(seed: int, monkeypatch: pytest.MonkeyPatch):
    whole, arch, objective, alone, costs = draw(seed)
    # would leave the space that is enumerated
    monkeypatch.setattr(GroupHope, "polish", lambda hope, point: None)
    machine = Machine(seed, 2.0, 2.0)
    found = plan(whole, arch, objective, alone, machine.measure, ratios=(2.0, 2.0, 2.0))
    slower: dict[Part, Costs] = {
        part: points if len(part) == 1 else [(2 * cycles, energy_pj) for cycles, energy_pj in points]
        for part, points in costs.items()
    }
    best = best_of_all(whole, slower, objective)
    assert best * (1 - 1e-9) <= found.value <= best * (1 + 2 * ENOUGH)
    # its layers said so beforehand, so that nothing is measured in vain
    assert machine.num_asked == found.num_measured <= len(found.groups) + 1
    assert found.lower_bound == 0
    assert "measured mapping" in found.optimality


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_is_the_best_of_what_was_measured(seed: int, monkeypatch: pytest.MonkeyPatch):
    whole, arch, objective, alone, costs = draw(seed)
    monkeypatch.setattr(GroupHope, "polish", lambda hope, point: None)
    machine = Machine(seed, 0.5, 3.0)
    found = plan(whole, arch, objective, alone, machine.measure)
    for way in found.groups:
        assert way.cost == machine.measured[way.group.layers][str(way.mapping)]
    measured: dict[Part, Costs] = {
        part: points if len(part) == 1 else [] for part, points in costs.items()
    }  # fmt: skip
    keys = {part: group_key(Group(graph=whole.graph, layers=part)) for part in costs if len(part) > 1}
    for part, answers in machine.measured.items():
        for other, key in keys.items():
            if key == keys[part]:
                measured[other] = [(cost.cycles, cost.energy_pj) for cost in answers.values()]
    assert found.value == pytest.approx(best_of_all(whole, measured, objective), rel=ENOUGH)
    assert found.value <= value(
        sum(one.cost.cycles for one in alone), sum(one.cost.energy_pj for one in alone), objective
    ) * (1 + 1e-9)  # fmt: skip
    # no group is measured for ever, and none twice
    assert all(len(answers) <= MOST_MEASURED for answers in machine.measured.values())
    assert machine.num_asked == sum(map(len, machine.measured.values())) == found.num_measured


def gaining() -> tuple[Group, object, str, list]:
    """A network whose best plan has a group."""
    for seed in range(100):
        whole, arch, objective, alone, _ = draw(seed)
        if plan(whole, arch, objective, alone, Machine(0, 1.0, 1.0).measure).groups:
            return whole, arch, objective, alone
    raise AssertionError("no group gains anything")


def test_groups_that_nobody_can_measure_run_alone():
    network = gaining()
    found = plan(*network, lambda ways: ["no board"] * len(ways))
    assert found.groups == ()
    assert {reason for _, reason in found.failed_measurements} == {"no board"}
    assert len(found.failed_measurements) == found.num_measured > 0


def test_a_budget_of_measurements_is_kept_and_named():
    network = gaining()
    machine = Machine(1, 3.0, 3.0)
    found = plan(*network, machine.measure, most=1)
    assert machine.num_asked == found.num_measured == 1
    assert found.limits in ((), ("1 may be measured",))
    none = plan(*network, machine.measure, most=0)
    assert (none.groups, none.num_measured, none.limits) == ((), 0, ("0 may be measured",))
    assert "0 may be measured" in none.optimality


def test_without_time_nothing_is_measured():
    machine, calls = Machine(1, 1.0, 1.0), []
    whole, arch, objective, alone = gaining()

    def stops_when_asked(ways: Sequence[FusedGroup]) -> list[None]:
        calls.append(len(ways))
        return [None] * len(ways)

    found = plan(whole, arch, objective, alone, stops_when_asked)
    assert (found.groups, found.limits, len(calls)) == ((), ("stopped",), 1)
    assert machine.num_asked == 0


def test_equal_groups_are_measured_once():
    whole = conv_chain(16, 16, 16, 16, 16, size=24)
    alone = [Alone(task=0, cost=cost(10**6, 1e9), num_cores=1) for _ in whole.layers]
    machine = Machine(3, 1.0, 1.0)
    # two by two, as more do not fit
    spm = replace(ARCH.levels.SPM, capacity_bytes=24 << 10)
    small = replace(ARCH, levels=replace(ARCH.levels, SPM=spm))
    found = plan(whole, small, "edp", alone, machine.measure)
    ways = {(group_key(way.group), str(way.mapping)) for way in found.groups}
    assert len(found.groups) > len(ways)
    assert machine.num_asked == found.num_measured
