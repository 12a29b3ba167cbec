"""Plans of groups that are measured, on machines that are not what is expected of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from cost_model.fused import group_key
from tests.fused_cases import attention, conv_chain
from tests.property.test_convex_plans import Part
from tests.property.test_network_plan import Costs, best_of_all, draw, value
from tests.unit.test_network_fusion import ARCH, cost
from tvm_spm.attention import AttentionMapping
from tvm_spm.cost import Cost, Energy
from tvm_spm.fusion.hopes import GroupHope
from tvm_spm.fusion.measured import MOST_MEASURED, MeasuredGroups, Ratio
from tvm_spm.fusion.network import Alone, FusedGroup, NetworkPlan, Surroundings, plan_network
from tvm_spm.fusion.network_plan import ENOUGH
from tvm_spm.fusion.prover import Point
from tvm_spm.group import Group
from tvm_spm.mapping import Mapping


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
    found = plan(whole, arch, objective, alone, machine.measure, ratios=(Ratio(2.0, 1.0),) * 3)
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
    assert found.num_measured == 0
    assert "0 measured mappings" in found.optimality


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


def test_what_is_expected_is_the_median_of_what_was_measured():
    groups = MeasuredGroups([Ratio(1.0, 1.0)] * 2)
    assert groups.expected(100, 5.0) == (100, 5.0)
    way = Point(cycles=100, energy_pj=5.0, choice=(0,), mapper=0)
    groups.add("a", way, cost(1000, 50.0), (100, 5.0))
    groups.learn()
    # one group that is slower than all else is the only one that is
    assert groups.expected(100, 5.0) == (100, 5.0)
    for name in "bc":
        groups.add(name, way, cost(1000, 50.0), (100, 5.0))
    assert groups.expected(100, 5.0) == (100, 5.0)
    groups.learn()
    assert groups.expected(100, 5.0) == (1000, 50.0)
    groups.add("d", way, None, (100, 5.0))
    assert (len(groups), groups.num_succeeded, groups.costs("d")) == (4, 3, {})
    assert groups.knows("d", way)
    for number in range(MOST_MEASURED - 1):
        assert not groups.is_closed("a")
        groups.add("a", Point(cycles=number, energy_pj=5.0, choice=(0,), mapper=0), None, (100, 5.0))
    assert groups.is_closed("a")
    assert not groups.is_closed("b")


def test_groups_teach_what_is_expected_of_others(monkeypatch: pytest.MonkeyPatch):
    """On machines four times as slow as expected, of which layers say nothing."""
    asked = []
    for learns in (True, False):
        if not learns:
            monkeypatch.setattr(MeasuredGroups, "learn", lambda groups: None)
        asked.append(0)
        for seed in range(12):
            whole, arch, objective, alone, _ = draw(seed)
            machine = Machine(seed, 1.5, 1.5)
            plan(whole, arch, objective, alone, machine.measure)
            asked[-1] += machine.num_asked
    assert 0 < asked[0] < asked[1]


@pytest.mark.parametrize(("slower", "is_asked"), [(1.0, True), (2.0, False)])
def test_a_way_known_beforehand_is_expected_like_the_others(slower: float, is_asked: bool):
    whole = attention()
    alone = [Alone(task=0, cost=cost(100, 100.0), num_cores=1) for _ in whole.layers]
    inner = (Mapping(), Mapping())
    mapping = AttentionMapping(cores=(1, 1), query_tile=1, key_tile=1, inner=inner)
    way = FusedGroup(group=whole, mapping=mapping, cost=cost(200, 250.0), spm_bytes=1)
    asked = []

    def measure(ways: Sequence[FusedGroup]) -> list[Cost]:
        asked.extend(each.mapping for each in ways)
        return [cost(10**9, 1e9) for _ in ways]

    ratios = (Ratio(slower, 1.0),) * 99
    found = plan_network(
        whole.graph, ARCH, "edp", alone, known=[way], why_not=lambda ways: [None] * len(ways),
        around=Surroundings(measure=measure, most_measured=99, ratios=ratios),
    )  # fmt: skip
    assert (mapping in asked) == is_asked
    assert found.groups == ()


@pytest.mark.parametrize("metered", [0.01, 1.0, 100.0])
def test_energy_is_compared_as_the_board_meters_it(metered: float):
    whole, arch, objective, alone = gaining()
    board = [replace(one, cost=replace(one.cost, energy=Energy(mac_pj=one.cost.energy_pj * metered))) for one in alone]

    def measure(ways: Sequence[FusedGroup]) -> list[Cost]:
        return [replace(way.cost, energy=Energy(mac_pj=way.cost.energy_pj * metered)) for way in ways]

    found = plan(whole, arch, objective, board, measure, ratios=(Ratio(1.0, metered),) * 3)
    wanted = plan(whole, arch, objective, alone, Machine(0, 1.0, 1.0).measure)
    assert [way.group.layers for way in found.groups] == [way.group.layers for way in wanted.groups] != []


def test_time_that_was_not_there_is_named():
    whole, arch, objective, alone = gaining()
    found = plan(whole, arch, objective, alone, Machine(0, 1.0, 1.0).measure, should_stop=lambda: True)
    assert found.groups == ()
    assert found.limits[-1] == "stopped"
    assert any("were not looked at" in limit for limit in found.limits)
    assert "no gain" not in found.optimality
