"""Orders of branches, as sets of finished layers and the steps between them."""

from __future__ import annotations

from tvm_spm.fusion import down_sets as limits
from tvm_spm.fusion.down_sets import down_sets


def diamond() -> list[frozenset[int]]:
    """0 is read by 1 and 2, which 3 reads."""
    return [frozenset(), frozenset({0}), frozenset({0}), frozenset({1, 2})]


def singles(count: int) -> list[tuple[int, ...]]:
    return [(layer,) for layer in range(count)]


def test_a_diamond_runs_in_two_orders_or_with_both_branches_at_once():
    found = down_sets(singles(4), diamond(), lambda unit: True)
    # {}, {0}, {0 1}, {0 2}, {0 1 2}, all: numbers 0 to 5
    assert found.num_sets == 6
    assert found.steps == {
        (0, 1): [(0,)], (1, 2): [(1,)], (1, 3): [(2,)], (1, 4): [(1, 2)], (2, 4): [(2,)], (3, 4): [(1,)],
        (4, 5): [(3,)],
    }  # fmt: skip


def test_a_unit_that_may_not_share_runs_alone():
    found = down_sets(singles(4), diamond(), lambda unit: unit != 2)
    assert all(len(pick) == 1 for picks in found.steps.values() for pick in picks)


def test_a_group_waits_for_all_that_its_layers_read_and_hides_none_of_them():
    """Group 4 is layers 2 and 3: it needs 0 and 1, and can run beside nothing."""
    found = down_sets([*singles(4), (2, 3)], diamond(), lambda unit: True)
    of_group = {ends: picks for ends, picks in found.steps.items() if any(4 in pick for pick in picks)}
    # from {0 1}, number 2, to all
    assert of_group == {(2, 5): [(4,)]}


def test_two_groups_run_side_by_side_if_no_layer_of_either_reads_the_other():
    """Two chains of two layers behind nothing: 0 > 1 and 2 > 3."""
    before = [frozenset(), frozenset({0}), frozenset(), frozenset({2})]
    found = down_sets([*singles(4), (0, 1), (2, 3)], before, lambda unit: True)
    assert found.steps[0, found.num_sets - 1] == [(4, 5)]


def test_no_more_units_than_the_most_run_together():
    before = [frozenset()] * 6
    found = down_sets(singles(6), before, lambda unit: True)
    assert max(len(pick) for picks in found.steps.values() for pick in picks) == limits.MOST_TOGETHER


def test_too_many_orders_narrow_the_window_until_there_are_few():
    """16 layers that read nothing have 2^16 sets; in a window of 6 or fewer there are less than the most."""
    found = down_sets(singles(16), [frozenset()] * 16, lambda unit: True)
    assert found.num_sets <= limits.MOST_SETS
    assert 0 < found.window < 16


def test_the_order_given_is_always_among_them():
    before = [frozenset()] * 40
    found = down_sets([*singles(40), tuple(range(10, 20))], before, lambda unit: True)
    reached, groups = {0}, set()
    for (first, stop), picks in sorted(found.steps.items()):
        if first in reached:
            reached.add(stop)
            groups |= {pick for pick in picks if len(pick) == 1}
    assert reached == set(range(found.num_sets))
    assert groups == {(unit,) for unit in range(41)}
