"""The planner on networks small enough to plan by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.fusion_cases import Network, make_network
from tvm_spm.errors import PlanError
from tvm_spm.fusion.planner import GroupOption, plan_groups

# Two layers: one by one 10 + 10 cycles and 5 + 5 pJ; fused 16 cycles and 12 pJ, or 28 cycles and 4 pJ.
# EDP: 20 * 10 = 200, 16 * 12 = 192, 28 * 4 = 112.
PAIR = make_network(2, {(0, 1): [(10, 5.0)], (1, 2): [(10, 5.0)], (0, 2): [(16, 12.0), (28, 4.0)]})


def plan(network: Network, objective: str, max_group: int | None = None):
    return plan_groups(network.num_layers, network.options_of, objective, max_group)


def spans(found) -> list[tuple[int, int]]:
    return [(group.first, group.stop) for group in found.groups]


@pytest.mark.parametrize(
    ("objective", "choice", "cycles", "energy_pj"),
    [("latency", 0, 16, 12.0), ("energy", 1, 28, 4.0), ("edp", 1, 28, 4.0)],
)
def test_fusing_two_layers(objective: str, choice: int, cycles: int, energy_pj: float):
    found = plan(PAIR, objective)
    assert spans(found) == [(0, 2)]
    assert found.groups[0].option.choice == choice
    assert (found.cycles, found.energy_pj, found.objective) == (cycles, energy_pj, objective)
    assert found.edp_pj_cycles == cycles * energy_pj


def test_groups_are_no_longer_than_allowed():
    found = plan(PAIR, "edp", 1)
    assert spans(found) == [(0, 1), (1, 2)]
    assert found.cuts == (1,)
    assert (found.cycles, found.energy_pj, found.num_intervals, found.num_options) == (20, 10.0, 2, 2)


def test_options_are_asked_for_once_per_interval_of_allowed_length():
    asked = []

    def options_of(first: int, stop: int) -> list[GroupOption]:
        asked.append((first, stop))
        return [GroupOption(cycles=1, energy_pj=1.0)]

    plan_groups(3, options_of, "edp", 2)
    assert asked == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]


def test_least_edp_is_of_the_sums_not_the_sum_of_edps():
    # Alone, (1, 100) and (9, 10) have EDP 100 and 90. Behind a layer of 100 cycles and 1 pJ:
    # (100 + 1) * (1 + 100) = 10,201 and (100 + 9) * (1 + 10) = 1,199. Behind one of 1 cycle and 1,000 pJ:
    # (1 + 1) * (1,000 + 100) = 2,200 and (1 + 9) * (1,000 + 10) = 10,100.
    for head, choice in (((100, 1.0), 1), ((1, 1000.0), 0)):
        network = make_network(2, {(0, 1): [head], (1, 2): [(1, 100.0), (9, 10.0)]})
        assert plan(network, "edp").groups[1].option.choice == choice


def test_equal_plans_have_fewest_groups_then_cut_early_then_take_the_first_option():
    one, two, three = [(1, 1.0)] * 2, [(2, 2.0)] * 2, [(3, 3.0)] * 2
    costs = {(0, 1): one, (1, 2): one, (2, 3): one, (0, 2): two, (1, 3): two}
    found = plan(make_network(3, costs | {(0, 3): three}), "edp")
    assert spans(found) == [(0, 3)]
    assert found.groups[0].option.choice == 0
    assert spans(plan(make_network(3, costs), "edp")) == [(0, 1), (1, 3)]


def test_of_equal_edp_the_fewest_cycles():
    # 2 * 8 = 4 * 4 = 8 * 2 = 16
    network = make_network(1, {(0, 1): [(8, 2.0), (4, 4.0), (2, 8.0)]})
    assert plan(network, "edp").cycles == 2


def test_of_equal_edp_the_fewest_cycles_wherever_they_are_on_the_hull():
    # Corners (2, 13), (3, 7), (4, 5), (5, 4), (7, 3) with products 26, 21, 20, 20, 21. As (3, 7) - (4, 5) is parallel
    # to (2, 13) - (7, 3) less far out, and (4, 5) - (5, 4) to (3, 7) - (7, 3), and as the others are listed first,
    # (5, 4) is met before (4, 5), which lies at the very tip of the last triangle: its bound is no better than 20.
    network = make_network(1, {(0, 1): [(2, 13.0), (3, 7.0), (5, 4.0), (7, 3.0), (4, 5.0)]})
    found = plan(network, "edp")
    assert (found.cycles, found.energy_pj) == (4, 5.0)


def test_free_plans_are_best():
    # 0 * 7 = 0 = 3 * 0, and fewer cycles win.
    network = make_network(1, {(0, 1): [(3, 0.0), (1, 1.0), (0, 7.0)]})
    assert plan(network, "edp").cycles == 0
    # Without it, 3 * 0 < 1 * 1.
    network = make_network(1, {(0, 1): [(3, 0.0), (1, 1.0)]})
    assert plan(network, "edp").cycles == 3


def test_energies_are_added_without_rounding():
    # In floats 2**53 + 1 + 1 == 2**53, so the fused group (2**53 + 1.5, which is 2**53 + 2 as a float) seems worse.
    big = 2.0**53
    network = make_network(
        3, {(0, 1): [(1, big)], (1, 2): [(1, 1.0)], (2, 3): [(1, 1.0)], (1, 3): [(2, 1.5)], (0, 3): [(3, big)]}
    )
    # big < big + 1.5 < big + 2
    assert spans(plan(network, "energy")) == [(0, 3)]
    del network.options[0, 3]
    found = plan(network, "energy")
    assert spans(found) == [(0, 1), (1, 3)]
    assert found.energy_pj == big + 2
    assert found.cycles == 3


def test_energies_of_any_size():
    # 1,023 + 1,022 bits apart: 1e308 + 5e-324 is not a float, yet the plan with the smaller rest is found.
    network = make_network(2, {(0, 1): [(1, 1e308)], (1, 2): [(1, 1e-323), (1, 5e-324)]})
    found = plan(network, "edp")
    assert found.groups[1].option.choice == 1
    assert found.energy_pj == 1e308


def test_costs_of_numpy_do_not_overflow():
    option = GroupOption(cycles=np.int64(2**62), energy_pj=np.float64(0.1))
    found = plan_groups(4, lambda first, stop: [option], "edp", 1)
    assert found.cycles == 2**64
    # Four times the float nearest to 0.1 is a float.
    assert found.energy_pj == 0.4


def test_a_layer_in_no_group():
    network = make_network(3, {(0, 1): [(1, 1.0)], (2, 3): [(1, 1.0)]})
    with pytest.raises(PlanError, match=r"^layer 1 of 3: no group that contains it has an option; allow it"):
        plan(network, "edp")
    with pytest.raises(PlanError, match=r"^layer 0 of 2: no group that contains it"):
        plan(make_network(2, {(0, 2): [(1, 1.0)]}), "edp", 1)


def test_groups_that_do_not_fit_together():
    network = make_network(3, {(0, 2): [(1, 1.0)], (1, 3): [(1, 1.0)]})
    with pytest.raises(
        PlanError, match=r"^layer 2 of 3: no group that starts with it has an option, and no groups fit"
    ):
        plan(network, "latency")


def test_groups_that_lead_nowhere_are_not_counted():
    # (0, 2) ends where no group starts; (1, 2) follows, and leads there too.
    network = make_network(3, {(0, 1): [(1, 1.0)], (0, 2): [(1, 1.0)], (1, 2): [(1, 1.0)], (1, 3): [(1, 1.0)] * 2})
    found = plan(network, "energy")
    assert spans(found) == [(0, 1), (1, 3)]
    assert (found.num_intervals, found.num_options) == (2, 3)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_layers": 0}, "num_layers: 0 < 1"),
        ({"max_group": 0}, "max_group: 0 < 1"),
        ({"objective": "edpp"}, "objective: 'edpp' is unknown; did you mean 'edp'?"),
    ],
)
def test_wrong_arguments(change: dict[str, object], text: str):
    arguments = {"num_layers": 2, "options_of": PAIR.options_of, "objective": "edp"} | change
    with pytest.raises(PlanError) as raised:
        plan_groups(**arguments)
    assert str(raised.value) == text


@pytest.mark.parametrize("energy_pj", [-1.0, math.nan, math.inf])
def test_absurd_energy(energy_pj: float):
    with pytest.raises(PlanError, match=r"^GroupOption.energy_pj: .* is not within 0 <= energy_pj < inf"):
        GroupOption(cycles=1, energy_pj=energy_pj)


def test_absurd_cycles():
    with pytest.raises(PlanError, match=r"^GroupOption.cycles: -1 < 0"):
        GroupOption(cycles=-1, energy_pj=1.0)
    with pytest.raises(TypeError):
        GroupOption(cycles=1.5, energy_pj=1.0)


def test_text():
    found = plan(PAIR, "edp", 1)
    assert str(found).splitlines() == [
        "2 layers in 2 groups, least edp of every plan: 20 cycles, 10 pJ, EDP 200 pJ x cycles",
        "  layer 0: 10 cycles, 5 pJ, 0",
        "  layer 1: 10 cycles, 5 pJ, 0",
    ]
    assert str(plan(PAIR, "energy").groups[0]) == "layers 0..1: 28 cycles, 4 pJ, 1"
