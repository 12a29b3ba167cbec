"""Groups that an order with units side by side may want beside those of a plan: all that gain by themselves."""

from __future__ import annotations

from tvm_spm.fusion.group_prices import MAX_GROUP, GroupPrices
from tvm_spm.fusion.network_plan import FusedGroup
from tvm_spm.fusion.plan import FusionPlan, GroupOption, PlannedGroup
from tvm_spm.objective import Objective

MOST_WAYS = 4
"""Ways to run a group that are kept."""


def groups_that_gain(prices: GroupPrices, plan: FusionPlan) -> tuple[tuple[FusedGroup, ...], ...]:
    """Per interval that is worth less as one group than cut in any way, at what the plan is worth: how it may run.

    Args:
        prices: Of all groups.
        plan: The best of them.

    Returns:
        Groups in order, of each the ways that are worth least, the best first.
    """
    cycle, pj = (plan.energy_pj, float(plan.cycles)) if plan.objective == Objective.EDP else (1.0, 0.0)

    def worth(option: GroupOption) -> float:
        return cycle * option.cycles + pj * option.energy_pj

    num_layers, found = plan.num_layers, []
    least: dict[tuple[int, int], float] = {}
    for size in range(1, MAX_GROUP + 1):
        for first in range(num_layers - size + 1):
            stop = first + size
            cut = min(
                (least[first, at] + least[at, stop] for at in range(first + 1, stop)), default=float("inf")
            )  # fmt: skip
            options = sorted(prices.options(first, stop), key=worth)
            least[first, stop] = min([cut, *(worth(option) for option in options)])
            if size > 1 and least[first, stop] < cut:
                ways = [
                    prices.way(PlannedGroup(first=first, stop=stop, option=option)) for option in options[:MOST_WAYS]
                ]
                found.append(tuple(way for way in ways if way is not None))
    return tuple(found)
