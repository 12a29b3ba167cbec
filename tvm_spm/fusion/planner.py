"""Cuts a network into fused groups, with a proof: no plan of the space below is better, at the prices given.

The space: the layers stand in one fixed order. A group is an interval ``first .. stop - 1`` of that order; an interval
without options is no group. A plan covers every layer by exactly one group and runs each group in one of its options.
Groups run one after another on the whole machine, so cycles and energy of a plan are the sums over its groups. Other
orders come in where sets of finished layers take the place of layers: see ``serial_orders``, and ``side_by_side`` for
groups that run at the same time. Not in the space: layers computed in two groups.

All sums and comparisons are in whole numbers (``table``); only reported energies are rounded, to the nearest
float. Latency and energy need one dynamic program over the intervals; least energy times delay, which is not a sum,
needs a few (``hull`` has the proof).
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm_spm.errors import PlanError, did_you_mean
from tvm_spm.fusion.hull import keep_cornered, least_edp, least_energy, least_latency
from tvm_spm.fusion.plan import FusionPlan, GroupOption, PlannedGroup
from tvm_spm.fusion.sweep import pick_groups
from tvm_spm.fusion.table import OptionsOf, make_table
from tvm_spm.objective import Objective

__all__ = ["FusionPlan", "GroupOption", "OptionsOf", "PlannedGroup", "plan_groups"]


def plan_groups(
    num_layers: int, options_of: OptionsOf, objective: str, max_group: int | None = None, *,
    spans: Sequence[tuple[int, int]] | None = None,
) -> FusionPlan:  # fmt: skip
    """The plan of least ``objective``.

    Of plans of equal objective: that of fewest cycles, then of least energy, then of fewest groups, then that whose
    first group ends earliest, and so on; a group runs in the first listed of equally good options.

    Args:
        num_layers: Layers of the network.
        options_of: Called once per interval ``(first, stop)``; returns nothing for one that cannot be a group.
        objective: ``latency``, ``energy`` or ``edp``.
        max_group: Most layers in a group; None for any number.
        spans: The intervals that may be groups, rising; None for all of up to ``max_group`` layers.

    Raises:
        PlanError: The groups cannot cover some layer, or an argument is out of range.
    """
    if num_layers < 1:
        raise PlanError(f"num_layers: {num_layers} < 1")
    if max_group is not None and max_group < 1:
        raise PlanError(f"max_group: {max_group} < 1")
    if objective not in (names := [each.value for each in Objective]):
        raise PlanError(f"objective: {objective!r} is unknown; {did_you_mean(objective, names)}")
    table = make_table(num_layers, options_of, spans or _intervals(num_layers, max_group or num_layers))
    rows = keep_cornered(table.rows)
    num_sweeps = 1
    if objective == Objective.EDP:
        prices, num_sweeps = least_edp(rows)
        num_sweeps += 1
    else:
        prices = least_latency(rows) if objective == Objective.LATENCY else least_energy(rows)
    groups = table.groups(pick_groups(rows, prices))
    cycles, energy_pj = table.total(groups)
    return FusionPlan(
        groups=groups,
        cycles=cycles,
        energy_pj=energy_pj,
        objective=objective,
        num_intervals=len(table.options),
        num_options=sum(len(found) for found in table.options.values()),
        num_sweeps=num_sweeps,
    )


def _intervals(num_layers: int, max_group: int) -> list[tuple[int, int]]:
    return [
        (first, stop)
        for first in range(num_layers)
        for stop in range(first + 1, min(first + max_group, num_layers) + 1)
    ]
