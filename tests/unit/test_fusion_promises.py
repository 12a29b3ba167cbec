"""Promises of fusion, each with a case in which breaking it shows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction

import pytest

from tests.fused_cases import Builder, conv_chain
from tests.unit.test_network_fusion import cost, plan
from tvm_spm.arch import load_arch
from tvm_spm.fusion.network import Alone, Surroundings, plan_network
from tvm_spm.fusion.search import group_search
from tvm_spm.graph import LayerGraph
from tvm_spm.group import Group, GroupMapping, refuse_group
from tvm_spm.reproduce.dlfusion.recompute import needed_boxes, recompute_factor
from tvm_spm.workers import Workers

EDGE, QUAD = load_arch("edge-256"), load_arch("quad-edge")


def test_a_group_of_a_plan_is_proved():
    # Two 3x3 layers 16-16-16 @28x28: what promises most from a few tiles is not the best.
    chain = conv_chain(16, 16, 16, size=28)
    first = group_search(chain, QUAD).best("edp")
    assert first is not None
    dear = [Alone(task=0, cost=cost(10**9, 1e12), num_cores=1)] * 2
    found = plan_network(
        chain.graph, QUAD, "edp", dear, why_not=lambda ways: [None] * len(ways)
    )  # fmt: skip
    # Searched by others, copies come back: the same steps, and the same answer.
    with ThreadPoolExecutor(2) as threads:
        other = plan_network(
            chain.graph, QUAD, "edp", dear, why_not=lambda ways: [None] * len(ways),
            around=Surroundings(workers=Workers(threads)),
        )  # fmt: skip
    assert (other.groups, other.lower_bound, other.limits) == (found.groups, found.lower_bound, found.limits)
    assert found.groups[0].cost.objective("edp") == found.value < 0.85 * first[1].cost.objective("edp")
    assert found.gap < 5e-4


def test_more_than_one_candidate_is_timed():
    result = group_search(conv_chain(16, 16, 16, size=28), EDGE)
    timed_best = result.best("energy"), result.best("latency")
    assert result.num_timed > 6
    # what promises most by one measure is not what is best by another
    assert timed_best[0] is not None
    assert timed_best[0] != timed_best[1]
    assert isinstance(timed_best[0][0], GroupMapping)


@pytest.mark.parametrize(
    ("taps", "stride", "size", "leaves"),
    # 6 rows, padding 1: 3 taps in steps of 2 read rows -1..1, 1..3, 3..5, all of them; 1 tap reads rows 0, 2, 4.
    [(3, 1, 6, True), (3, 2, 6, True), (1, 1, 6, True), (1, 2, 6, False), (2, 2, 6, True),
     # 7 rows in steps of 2, 2 taps, no padding: row 6 is left out; 5 taps in steps of 6: rows 0-2 and 4-6.
     (2, 2, 7, False), (5, 6, 7, False)],
)  # fmt: skip
def test_a_tensor_leaves_from_within_where_the_group_needs_all_of_it(taps: int, stride: int, size: int, leaves: bool):
    # a > b, and c reads the output of a as well.
    build = Builder()
    a = build.conv("a", build.tensor("in", (1, 4, size, size)), 4)
    b = build.conv("b", a, 4, taps=taps, stride=stride, padding=taps // 2 if taps != 2 else 0)
    build.elementwise("c", a)
    build.elementwise("d", b)
    refusal = refuse_group(Group.interval(build.graph(), 0, 2))
    if leaves:
        assert refusal is None
        assert build.group(2).leaving == (0, 1)
    else:
        assert refusal == "layer a: its output is also read by c, and tiles of b may leave out some of it"


def test_a_tensor_that_the_group_does_not_read_ends_it():
    build = Builder()
    a = build.conv("a", build.tensor("in", (1, 4, 6, 6)), 4)
    build.conv("b", build.tensor("other", (1, 4, 6, 6)), 4)
    build.elementwise("c", a)
    assert refuse_group(Group.interval(build.graph(), 0, 2)) == "layer a: nothing in the group reads its output"


def test_what_comes_back_through_a_call_that_is_no_layer_ends_a_group():
    build = Builder()
    a = build.conv("a", build.tensor("in", (1, 4, 6, 6)), 4)
    view = build.tensor("view of a", (1, 4, 6, 6))
    build.conv("b", a, 4, extras=(view,))
    graph = replace(build.graph(), outputs=(a,))
    assert refuse_group(Group.interval(graph, 0, 2)) is None
    assert refuse_group(Group.interval(replace(graph, behind=((0, 1),)), 0, 2)) == (
        "layer b: reads what a writes by way of a call that is no layer"
    )


def chain_of_two(taps: int) -> LayerGraph:
    build = Builder()
    build.conv("second", build.conv("first", build.tensor("in", (1, 1, 12, 12)), 1, taps=taps), 1, taps=taps)
    return build.graph()


@pytest.mark.parametrize(
    ("rows", "needed"),
    # 5x5 with padding 2: rows a to b (not b itself) need a - 2 to b + 2, as far as there are rows.
    [((0, 3), (0, 5)), ((4, 6), (2, 8)), ((9, 12), (7, 12))],
)
def test_a_halo_has_an_upper_and_a_lower_side(rows: tuple[int, int], needed: tuple[int, int]):
    boxes = needed_boxes(chain_of_two(5), 0, 2, ((0, 1), (0, 1), rows, (0, 12)))
    assert boxes[0][2] == needed
    assert boxes[1][2] == rows


def test_rows_done_again_on_both_sides():
    # 12 rows in three parts of 4, 3x3 twice: the first layer does rows 0-4, 3-8 and 7-11, 5 + 6 + 5 for 12.
    factor = recompute_factor(chain_of_two(3), 0, 2, axis=2, parts=((0, 4), (4, 8), (8, 12)))
    assert factor == Fraction(5 + 6 + 5 + 12, 12 + 12)


@pytest.mark.parametrize(("objective", "num_groups"), [("energy", 1), ("latency", 0)])
def test_a_plan_is_for_its_objective(objective: str, num_groups: int):
    # Alone, the two layers are the fastest, and use more energy than any group.
    chain = conv_chain(4, 4, 4, size=8)
    alone = [Alone(task=0, cost=cost(1, 1e12), num_cores=1)] * 2
    found = plan_network(
        chain.graph, EDGE, objective, alone, why_not=lambda ways: [None] * len(ways)
    )  # fmt: skip
    assert len(found.groups) == num_groups


def test_the_code_of_a_group_is_asked_for_after_the_proof():
    chain = conv_chain(4, 4, 4, size=8)
    found = plan(chain, [Alone(task=0, cost=cost(10**9, 1e12), num_cores=1)] * 2)
    group = found.groups[0]
    assert isinstance(group.group, Group)
    assert isinstance(group.mapping, GroupMapping)
    assert found.gap < 5e-4
