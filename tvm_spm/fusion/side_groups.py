"""Groups that an order with units side by side may want beside those of a plan: all that gain by themselves."""

from __future__ import annotations

from tvm_spm.fusion.group_prices import GroupPrices
from tvm_spm.fusion.network_plan import FusedGroup
from tvm_spm.fusion.plan import FusionPlan, GroupOption
from tvm_spm.objective import Objective

MOST_WAYS = 4
"""Ways to run a group that are kept."""


def groups_that_gain(prices: GroupPrices, plan: FusionPlan) -> tuple[tuple[FusedGroup, ...], ...]:
    """Per group that is worth less than its layers cut in any way, at what the plan is worth: how it may run.

    Args:
        prices: Of all groups.
        plan: The best of them.

    Returns:
        Groups by size, of each the ways that are worth least, the best first.
    """
    cycle, pj = (plan.energy_pj, float(plan.cycles)) if plan.objective == Objective.EDP else (1.0, 0.0)

    def worth(option: GroupOption) -> float:
        return cycle * option.cycles + pj * option.energy_pj

    steps, found = prices.orders.steps, []
    behind: dict[int, list[int]] = {}
    for first, stop in steps:
        behind.setdefault(first, []).append(stop)
    least: dict[tuple[int, ...], float] = {}

    def cut(first: int, stop: int, layers: tuple[int, ...]) -> float:
        """The least that layers are worth in several steps."""
        inside, best = set(layers), {first: 0.0}
        for at in range(first, stop):
            for end in behind.get(at, []) if at in best else []:
                if end <= stop and (at, end) != (first, stop) and inside.issuperset(steps[at, end]):
                    best[end] = min(best.get(end, float("inf")), best[at] + least[steps[at, end]])
        return min(best.get(stop, float("inf")), sum(least[layer,] for layer in layers))

    for (first, stop), layers in sorted(steps.items(), key=lambda step: (len(step[1]), step[0])):
        if layers in least:
            continue
        options = sorted(prices.options_of(layers), key=worth)
        apart = cut(first, stop, layers) if len(layers) > 1 else float("inf")
        least[layers] = min([apart, *(worth(option) for option in options)])
        if least[layers] < apart and len(layers) > 1:
            ways = [prices.way(layers, option) for option in options[:MOST_WAYS]]
            found.append(tuple(way for way in ways if way is not None))
    return tuple(found)
