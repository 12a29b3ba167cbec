"""Planning a network: prices, refusals, ways known beforehand, and an early end."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fused_cases import attention, conv_chain
from tvm_spm.arch import load_arch
from tvm_spm.attention import AttentionMapping
from tvm_spm.cost import Cost, Energy
from tvm_spm.errors import PlanError, SpmError
from tvm_spm.fusion import network
from tvm_spm.fusion.network import (
    NOT_SCHEDULED,
    Alone,
    FusedGroup,
    NetworkPlan,
    Surroundings,
    groups_of,
    plan_network,
)
from tvm_spm.group import Group
from tvm_spm.report.plan_picture import draw_plan

ARCH = load_arch("edge-256")


def cost(cycles: int, energy_pj: float) -> Cost:
    return Cost(
        cycles=cycles, energy=Energy(mac_pj=energy_pj), model="made up", macs=1, utilization=0.0, compute_cycles=cycles,
        noc_stall_cycles=0, dma_stall_cycles=0, overhead_cycles=0, dram_bytes=(0, 0, 0, 0), dma_busy_cycles=0,
    )  # fmt: skip


def alone(num_layers: int, cycles: int = 10**9) -> list[Alone]:
    """Layers so dear that anything else is better."""
    return [Alone(task=0, cost=cost(cycles, 1e12), num_cores=1) for _ in range(num_layers)]


def plan(
    group: Group,
    layers: Sequence[Alone],
    *,
    too_long: int = 99,
    known: Sequence[FusedGroup] = (),
    stop_after: int = 10**9,
    objective: str = "edp",
    reports: list[None] | None = None,
) -> NetworkPlan:
    """A plan where groups of ``too_long`` layers have no code, and the time is over once some intervals were priced."""
    reached = [] if reports is None else reports

    def why_not(ways: Sequence[FusedGroup]) -> list[str | None]:
        return ["too long" if len(way.group.layers) >= too_long else None for way in ways]

    return plan_network(
        group.graph, ARCH, objective, layers, known=known, why_not=why_not,
        around=Surroundings(should_stop=lambda: len(reached) > stop_after, report=lambda: reached.append(None)),
    )  # fmt: skip


def sizes(found: NetworkPlan) -> list[int]:
    return [len(layers) for layers in found.units]


def test_dear_layers_run_as_one():
    chain, reports = conv_chain(4, 4, 4, 4, size=8), []
    found = plan(chain, alone(3), reports=reports)
    assert sizes(found) == [3]
    # Two groups of two layers and one of three.
    assert len(reports) == len(groups_of(chain.graph, alone(3)).layers) == 3
    assert found.refused == ()
    assert str(found.groups[0]).endswith(f"on 1 cores, {found.groups[0].spm_bytes:,} B of SPM")


def test_layers_that_run_often_count_as_often():
    chain = conv_chain(4, 4, 4, size=8)
    once = plan(chain, alone(2))
    often = plan(chain, [replace(layer, times=5) for layer in alone(2)])
    (one,), (many,) = once.groups, often.groups
    assert (many.cost, many.times) == (one.cost, 5)
    assert often.plan.cycles == 5 * once.plan.cycles
    assert often.lower_bound == pytest.approx(25 * once.lower_bound, rel=1e-3)


def test_cheap_layers_run_alone():
    chain = conv_chain(4, 4, 4, size=8)
    assert sizes(plan(chain, alone(2, cycles=0))) == [1, 1]


def test_a_group_without_code_is_refused_with_its_equals():
    # Layers 0 and 1 are the same group as layers 1 and 2: refused together, once.
    chain = conv_chain(4, 4, 4, 4, size=8)
    found = plan(chain, alone(3), too_long=2)
    assert sizes(found) == [1, 1, 1]
    assert [(len(refused.names), refused.kind, refused.reason) for refused in found.unscheduled] == [
        (3, NOT_SCHEDULED, "too long"), (2, NOT_SCHEDULED, "too long"),
    ]  # fmt: skip
    assert found.num_refused() == {}


def test_a_layer_on_the_host_is_in_no_group():
    chain = conv_chain(4, 4, 4, 4, size=8)
    layers = alone(3)
    layers[1] = Alone(task=0, cost=None, num_cores=0)
    assert sizes(plan(chain, layers)) == [1, 1, 1]


def test_what_was_found_before_the_end_stays():
    chain, values, bounds = conv_chain(4, 4, 4, 4, size=8), [], []
    full = plan(chain, alone(3))
    for number in range(4):
        asked = itertools.count()
        found = plan_network(
            chain.graph, ARCH, "edp", alone(3), why_not=lambda ways: [None] * len(ways),
            around=Surroundings(should_stop=lambda asked=asked, number=number: next(asked) >= number),
        )  # fmt: skip
        values.append(found.value)
        bounds.append(found.lower_bound)
        assert found.lower_bound <= full.value <= found.value
        assert "stopped" in found.optimality
    # Groups of one length after the other are looked at, equal ones once: two different ones, then the search.
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]
    assert bounds[0] == 0


@pytest.mark.parametrize("objective", ["edp", "energy", "latency"])
def test_a_plan_says_how_good_it_is(objective: str):
    chain = conv_chain(4, 4, 4, 4, size=8)
    found = plan(chain, alone(3), objective=objective)
    total = found.plan.cycles, found.plan.energy_pj
    assert found.value == {"edp": total[0] * total[1], "energy": total[1], "latency": total[0]}[objective]
    if objective == "edp":
        # A region above tangents of a hyperbola leaves a little.
        assert 0 < found.gap < 5e-4
        assert found.limits == ("regions of groups are convex",)
        assert found.optimality.startswith("within 0.0")
    else:
        assert (found.gap, found.limits, found.lower_bound) == (0, (), found.value)
        assert found.optimality == ("proved to be the best of its space, convex groups of up to 10 layers in any order")


def test_the_budget_grows_with_different_groups_not_with_layers(monkeypatch: pytest.MonkeyPatch):
    # Nine layers of one kind: eight groups of two of them, and so on, are one and the same group each.
    monkeypatch.setattr(network, "FEWEST_STEPS", 0)
    monkeypatch.setattr(network, "STEPS_PER_GROUP", 1)
    found = plan(conv_chain(*[16] * 10, size=28), alone(9))
    assert found.num_priced == 8
    (limit,) = found.limits
    assert limit.endswith(" steps were made, where about 8 may be")


def test_a_budget_of_mappings_is_in_the_result(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(network, "FEWEST_STEPS", 0)
    monkeypatch.setattr(network, "STEPS_PER_GROUP", 0)
    chain = conv_chain(16, 16, 16, size=28)
    found = plan(chain, alone(2))
    # A few mappings are priced anyway.
    assert sizes(found) == [2]
    (limit,) = found.limits
    assert limit.endswith(" steps were made, where about 0 may be")
    assert 0 < found.lower_bound < found.value
    assert found.optimality == f"within {100 * found.gap:.3g} % of the best of its space, {found.space} ({limit})"


def test_without_time_layers_run_alone_and_nothing_is_known_about_groups():
    chain = conv_chain(4, 4, 4, 4, size=8)
    found = plan_network(
        chain.graph, ARCH, "edp", alone(3), why_not=lambda ways: [None] * len(ways),
        around=Surroundings(should_stop=lambda: True),
    )  # fmt: skip
    assert sizes(found) == [1, 1, 1]
    # Two groups of two layers are equal, beside one of three.
    assert (found.num_priced, found.num_unpriced) == (0, 2)
    assert (found.lower_bound, found.gap) == (0, 1)
    assert found.limits == ("2 groups were not looked at", "stopped")
    assert found.optimality.startswith("no bound is known of its space, convex groups")


def test_layers_that_form_a_cycle_are_named():
    # The second of three layers reads what the third writes.
    chain = conv_chain(4, 4, 4, 4, size=8)
    layers = list(chain.graph.layers)
    read = replace(layers[1].reads[0], tensor=layers[2].output)
    layers[1] = replace(layers[1], reads=(read, *layers[1].reads[1:]))
    graph = replace(chain.graph, layers=tuple(layers))
    with pytest.raises(
        PlanError, match=rf"layer 1, {layers[1].name}: reads .* of layer 2, {layers[2].name}, and 2 >= 1"
    ):
        plan_network(
            graph, ARCH, "edp", alone(3), why_not=lambda ways: [None] * len(ways),
        )  # fmt: skip


def test_a_group_that_cannot_be_lowered_falls_back_to_the_next_best_plan():
    chain = conv_chain(4, 4, 4, 4, size=8)
    whole, parts = plan(chain, alone(3)), plan(chain, alone(3), too_long=3)
    assert (sizes(whole), sorted(sizes(parts))) == ([3], [1, 2])
    assert [(len(refused.names), refused.kind, refused.reason) for refused in parts.unscheduled] == [
        (3, NOT_SCHEDULED, "too long")
    ]
    # It is out of the space, so the bound is of plans without it.
    assert whole.value < parts.lower_bound <= parts.value


def test_ways_known_beforehand_need_no_search():
    site = attention()
    graph = site.graph
    way = FusedGroup(
        group=Group.interval(graph, 0, 3),
        mapping=AttentionMapping(cores=(1, 1), query_tile=2, key_tile=3),
        cost=cost(1, 1.0),
        spm_bytes=7,
    )
    layers = alone(len(graph.layers))
    found = plan(site, layers, known=[way], stop_after=0)
    assert found.groups == (way,)
    # Six keys: three of them at a time need corrections.
    assert (way.tile, way.overlap) == ("2 queries x 3 keys", "online softmax")
    without = plan(site, layers, known=[way], stop_after=0, too_long=3)
    assert without.groups == ()
    assert [refused.reason for refused in without.unscheduled] == ["too long"]


def test_picture_of_a_plan(tmp_path: Path):
    chain = conv_chain(4, 4, 4, 4, size=8)
    found = plan(chain, alone(3), too_long=3)
    draw_plan(chain.graph, found.drawn_groups(), tmp_path / "plan.svg", title="two and one")
    draw_plan(chain.graph, found.drawn_groups(), tmp_path / "plan.svg", title=r"$\frac{ is no formula \x1b")
    text = (tmp_path / "plan.svg").read_text()
    assert "<svg" in text
    with pytest.raises(SpmError, match=r"a picture is an \.svg or a \.png file"):
        draw_plan(chain.graph, found.drawn_groups(), tmp_path / "plan.jpg", title="")
