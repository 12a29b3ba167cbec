"""Which layers of a network run as one: plans from prices and bounds of groups, until the best one is proved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tvm_spm.arch import Arch
from tvm_spm.cost import Cost
from tvm_spm.errors import PlanError
from tvm_spm.fusion.convex_groups import MAX_GROUP
from tvm_spm.fusion.group_prices import GroupPrices, groups_of
from tvm_spm.fusion.hopes import PARTS, Around, GroupHope, Wanted, improve_all
from tvm_spm.fusion.measured import Ratio
from tvm_spm.fusion.network_plan import ENOUGH, NOT_SCHEDULED, Alone, FusedGroup, NetworkPlan, RefusedGroup, layer_names
from tvm_spm.fusion.plan import PlannedGroup
from tvm_spm.fusion.side_groups import groups_that_gain
from tvm_spm.graph import LayerGraph
from tvm_spm.objective import Objective
from tvm_spm.workers import Workers

__all__ = [
    "MAX_GROUP", "NOT_SCHEDULED", "Alone", "FusedGroup", "NetworkPlan", "RefusedGroup", "Surroundings", "groups_of",
    "plan_network",
]  # fmt: skip

STEPS_PER_GROUP, FEWEST_STEPS = 40, 8_000
"""Of the searches of groups, for each different group of a network; and for a small one."""

MOST_TURNS = 64
"""Plans that are made on the way to the last one."""

PROVED = 1e-6
"""A bound that is so close, as a share, proves a plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a search has to do with the rest of a run.

    Attributes:
        should_stop: Once true, no further group is looked at or searched.
        report: Called once for each of ``groups_of``.
        workers: Search groups.
        measure: Asked how long groups take, if the prices of the searches are only expected: per group a cost, why
            there is none, or None if there was no time. Plans are made of measured groups then.
        most_measured: So many groups are measured at most.
        ratios: Measured cycles and energies of layers over those expected of them.
    """

    should_stop: Callable[[], bool] = lambda: False
    report: Callable[[], None] = lambda: None
    workers: Workers = field(default_factory=Workers)
    measure: Callable[[Sequence[FusedGroup]], Sequence[Cost | str | None]] | None = None
    most_measured: int = 0
    ratios: tuple[Ratio, ...] = ()


def plan_network(
    graph: LayerGraph,
    arch: Arch,
    objective: str,
    alone: Sequence[Alone],
    *,
    known: Sequence[FusedGroup] = (),
    why_not: Callable[[Sequence[FusedGroup]], Sequence[str | None]],
    around: Surroundings | None = None,
) -> NetworkPlan:
    """The best plan of the groups and mappings that were priced, all of which can be scheduled, and a bound of any.

    Every group has known ways to run, and a region that none leaves. The best plan of the known ways and the best that
    the regions allow close in on each other: the groups in which the latter hopes for more are searched further, until
    the two meet, or as many steps were made as ``STEPS_PER_GROUP`` says. A group that cannot be scheduled is
    refused, and so are equal ones. Where groups can be measured, those of the best plan are, and a new plan is made of
    what was measured and what is expected of others, until nothing more is expected of these.

    Args:
        graph: The layers; convex sets of them are the groups.
        arch: The accelerator.
        objective: Of the whole network: ``latency``, ``energy``, or ``edp``, the product of both sums.
        alone: Per layer, how it runs by itself.
        known: Ways to run some intervals that no search of group mappings finds, such as attention.
        why_not: Tries to schedule groups; returns for each the reason if that fails.
        around: Who searches, who is told, and who may end it; nobody else if None.

    Raises:
        PlanError: A layer reads what a later one writes, as it does where layers form a cycle.
    """
    _check_order(graph)
    aim, run = Objective.of(objective), around or Surroundings()
    should_stop = run.should_stop
    prices = GroupPrices(graph, arch, aim, alone, known, ratios=run.ratios, should_stop=should_stop, report=run.report)
    most_steps = max(FEWEST_STEPS, STEPS_PER_GROUP * prices.num_bounded)
    prices.sample(prices.plan(prices.options, 1))
    turn, with_gaps = 0, not prices.has_gaps
    while True:
        plan, hoped = (prices.plan(each, with_gaps=with_gaps) for each in (prices.options, prices.hopes))
        value = aim.value_of(float(plan.cycles), plan.energy_pj)
        least = aim.value_of(hoped.cycles / PARTS, hoped.energy_pj)
        searched = prices.measured.searched
        hopes = {
            group.option.choice: Wanted(
                Around(
                    *searched(
                        (hoped.cycles - group.option.cycles) / PARTS / prices.times(group),
                        (hoped.energy_pj - group.option.energy_pj) / prices.times(group),
                    )
                ),
                value * aim.value_of(*searched(1.0, 1.0)) / prices.times(group) ** 2,
            )
            for group in hoped.groups if isinstance(group.option.choice, GroupHope)
        }  # fmt: skip
        is_proved = least >= value * (1 - PROVED)
        is_done = is_proved or prices.measured.is_all
        todo = {} if is_done else {hope: wanted for hope, wanted in hopes.items() if not hope.is_settled(wanted)}
        if todo and prices.num_steps < most_steps and turn < MOST_TURNS and not should_stop():
            each = -(-(most_steps - prices.num_steps) // len(todo))
            improve_all(todo, each, run.workers, should_stop)
            turn += 1
            continue
        if not with_gaps:
            # intervals come first, lest the hopes of many other groups keep them from being searched
            turn, with_gaps, most_steps = 0, True, most_steps + most_steps // 2
            continue
        if not (prices.measured.is_all or should_stop()) and any([prices.polish(each) for each in plan.groups]):
            continue
        units = tuple(prices.layers(planned) for planned in plan.groups)
        made = [prices.way(layers, each.option) for layers, each in zip(units, plan.groups, strict=True)]
        ways = [way for way in made if way is not None]
        reasons = why_not(ways)
        for found, reason in zip(ways, reasons, strict=True):
            if reason is not None:
                prices.refuse(found, reason)
                turn = 0
        if any(reason is not None for reason in reasons):
            continue
        grouped = [planned for planned, way in zip(plan.groups, made, strict=True) if way is not None]
        if _measure(prices, aim, value, list(zip(grouped, ways, strict=True)), run):
            turn = 0
            continue
        is_simulated = run.measure is None
        final = NetworkPlan(
            graph=graph, alone=tuple(alone), groups=tuple(ways), plan=plan, units=units,
            refused=prices.refused, shortened=prices.shortened,
            num_priced=prices.num_bounded, num_unpriced=prices.num_unbounded,
            num_unrefined=len(todo) if should_stop() else 0,
            lower_bound=value if is_proved else min(value, least),
            limits=() if is_proved else _limits(prices, len(todo), most_steps, should_stop()),
            candidates=groups_that_gain(prices, plan) if is_simulated and arch.cores.count > 1 else (),
        )  # fmt: skip
        if is_simulated:
            return final
        # what is only expected of other groups proves nothing
        return replace(
            final, lower_bound=0.0, num_measured=prices.measured.num_succeeded,
            limits=tuple(dict.fromkeys((*prices.measured.limits, *_unfinished(prices, should_stop())))),
            failed_measurements=tuple(prices.measured.failures),
        )  # fmt: skip


def _check_order(graph: LayerGraph) -> None:
    """In such an order every layer can run."""
    maker = {layer.output: index for index, layer in enumerate(graph.layers)}
    for index, layer in enumerate(graph.layers):
        for read in layer.reads:
            if (late := maker.get(read.tensor, -1)) >= index:
                raise PlanError(
                    f"layer {index}, {layer.name}: reads {graph.tensors[read.tensor].name} of layer {late}, "
                    f"{graph.layers[late].name}, and {late} >= {index}: layers must come after those that they read, "
                    f"and without a cycle there is such an order"
                )


def _measure(
    prices: GroupPrices, aim: Objective, value: float, planned: Sequence[tuple[PlannedGroup, FusedGroup]],
    run: Surroundings,
) -> bool:  # fmt: skip
    """Have the groups of a plan measured that were not; whether there may be another plan now."""
    ways = {prices.open_way(each): (each, way) for each, way in reversed(planned)}
    new = [found for key, found in reversed(ways.items()) if key is not None]
    if not new or run.measure is None:
        return False
    prices.measured.is_all = True
    best = prices.plan(prices.options)
    if value >= aim.value_of(float(best.cycles), best.energy_pj) * (1 - ENOUGH):
        return True
    left = run.most_measured - len(prices.measured)
    if run.should_stop() or left <= 0:
        prices.measured.limits = ("stopped" if run.should_stop() else f"{run.most_measured:,} may be measured",)
        return True
    prices.measured.is_all = False
    asked = new[:left]
    answers = run.measure([way for _, way in asked])
    if all(answer is None for answer in answers):
        prices.measured.is_all, prices.measured.limits = True, ("stopped",)
    for (each, way), answer in zip(asked, answers, strict=True):
        if isinstance(answer, str):
            prices.measured.failures.append((layer_names(way.group), answer))
        if answer is not None:
            prices.answer(each, None if isinstance(answer, str) else answer)
    prices.measured.learn()
    return True


def _unfinished(prices: GroupPrices, is_stopped: bool) -> list[str]:
    """What there was no time for."""
    found = [f"{prices.num_unbounded:,} groups were not looked at"] if prices.num_unbounded else []
    return [*found, "stopped"] if is_stopped else found


def _limits(prices: GroupPrices, num_open: int, most_steps: int, is_stopped: bool) -> tuple[str, ...]:
    """Why a plan is not proved."""
    found = _unfinished(prices, is_stopped)
    if is_stopped:
        return tuple(found)
    if num_open and prices.num_steps < most_steps:
        found.append(f"{MOST_TURNS} plans were made")
    elif num_open:
        found.append(f"{prices.num_steps:,} steps were made, where about {most_steps:,} may be")
    else:
        found.append("regions of groups are convex")
    return tuple(found)
