"""Lets branches of a planned network run at the same time on disjoint cores, where that pays.

The space: the layers of a plan, its groups and others that gain by themselves (``side_groups``), in any order that what
they read allows (``down_sets`` has its limits), each by itself as it was planned, or up to ``MOST_TOGETHER`` that do
not depend on each other at the same time; the next step begins when the last of them has finished. There they run as
planned, if enough cores are left for the others, or as a search says for ``SHARES`` of the cores; of the ways that
this gives, those that promise most are timed together, with the DRAM channels that they share. Vector work and
attentions run alone, as do layers of functions that the network calls.

The serial plan is one of the space, so the result is never worse. At the prices given it is the best of the space, by
the same sums in whole numbers as that of groups: sets of finished layers take the place of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from tvm_spm.arch import Arch
from tvm_spm.fusion.down_sets import FIRST_WINDOW, MOST_SETS, MOST_TOGETHER, DownSets, down_sets
from tvm_spm.fusion.network_plan import NetworkPlan
from tvm_spm.fusion.plan import GroupOption
from tvm_spm.fusion.planner import plan_groups
from tvm_spm.fusion.side_ways import MOST_TIMED, Exchange, SideWays
from tvm_spm.fusion.sides import Scheduled, SideBySide, SidePlan, Unit, layer_names_of
from tvm_spm.group import GroupMapping
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective


def plan_side_by_side(
    plan: NetworkPlan,
    arch: Arch,
    mappings: Sequence[Mapping | None],
    before: Sequence[frozenset[int]],
    movable: Collection[int],
    *,
    why_not: Callable[[Sequence[Scheduled]], Sequence[str | None]],
    should_stop: Callable[[], bool],
) -> SidePlan | None:
    """The best order of a plan's layers and groups, some of them at the same time; None where that cannot pay.

    Args:
        plan: How the network runs one after the other.
        arch: The accelerator.
        mappings: Per layer, how it runs by itself; None for vector work and on the host.
        before: Per layer, those that it reads, directly or through calls that are no layers.
        movable: Layers that may run in another order than they stand in.
        why_not: Makes code; returns for each why it cannot run, None if it can.
        should_stop: Once true, nothing more is searched.
    """
    aim = Objective.of(plan.plan.objective)
    if arch.cores.count < 2 or aim is Objective.ENERGY or len(plan.graph.layers) < 2:
        return None
    units, serial = _units(plan)
    ways = SideWays(plan.graph, arch, aim, _exchange(aim, plan), mappings, should_stop)
    shares = [_may_share(unit, mappings, movable) for unit in units]
    sets = down_sets([unit.layers for unit in units], before, shares.__getitem__)
    refused: dict[tuple[str, str], None] = {}
    while True:
        steps, cycles, energy_pj = _best(units, serial, ways, sets, plan.plan.objective)
        asked = [*_beside(steps), *_alone(steps)]
        reasons = why_not(asked)
        for (unit, mapping), reason in zip(asked, reasons, strict=True):
            if reason is not None:
                ways.refuse(unit, mapping)
                refused[" > ".join(layer_names_of(plan.graph, unit)), reason] = None
        if all(reason is None for reason in reasons):
            break
    return SidePlan(
        steps=tuple(steps), cycles=cycles, energy_pj=energy_pj,
        serial_cycles=plan.plan.cycles, serial_energy_pj=plan.plan.energy_pj, num_sets=ways.num_sets,
        space=_space(arch, ways, sets), limits=_limits(ways, sets, len(before)), refused=tuple(refused),
    )  # fmt: skip


def _beside(steps: Sequence[Unit | SideBySide]) -> list[Scheduled]:
    return [
        Scheduled(side.unit, side.job.mapping)
        for step in steps if isinstance(step, SideBySide) for side in step.sides
    ]  # fmt: skip


def _alone(steps: Sequence[Unit | SideBySide]) -> list[Scheduled]:
    """Groups that run by themselves; layers that do are scheduled with the rest of the network."""
    return [Scheduled(step, step.group.mapping) for step in steps if isinstance(step, Unit) and step.group is not None]


def _units(plan: NetworkPlan) -> tuple[list[Unit], list[GroupOption]]:
    """Every layer, then every group of the plan, and what each costs by itself."""
    units, options = [], []
    for index, alone in enumerate(plan.alone):
        cycles, energy_pj = (alone.cost.cycles, alone.cost.energy_pj) if alone.cost else (0, 0.0)
        units.append(Unit(layers=(index,)))
        options.append(GroupOption(cycles=cycles * alone.times, energy_pj=energy_pj * alone.times))
    planned = {tuple(way.group.layers): way for way in plan.groups}
    others = {tuple(ways[0].group.layers): ways for ways in plan.candidates}
    for layers in [*planned, *(layers for layers in others if layers not in planned)]:
        ways = others.get(layers, ())
        way = planned.get(layers) or ways[0]
        units.append(Unit(layers=layers, group=way, others=ways))
        options.append(way.option)
    return units, options


def _may_share(unit: Unit, mappings: Sequence[Mapping | None], movable: Collection[int]) -> bool:
    if not all(layer in movable for layer in unit.layers):
        return False
    if unit.group is not None:
        return isinstance(unit.group.mapping, GroupMapping)
    return mappings[unit.layers[0]] is not None


def _exchange(aim: Objective, plan: NetworkPlan) -> Exchange:
    """Of two plans near this one, that with the lower sum has the lower product."""
    if aim is Objective.EDP:
        return Exchange(cycle=plan.plan.energy_pj, pj=float(plan.plan.cycles))
    return Exchange(cycle=1.0, pj=0.0)


def _best(
    units: Sequence[Unit], serial: Sequence[GroupOption], ways: SideWays, sets: DownSets, objective: str
) -> tuple[list[Unit | SideBySide], int, float]:
    options: dict[tuple[int, int], list[GroupOption]] = {}
    for ends, choices in sets.steps.items():
        found = options.setdefault(ends, [])
        for pick in choices:
            if len(pick) == 1:
                unit, option = units[pick[0]], serial[pick[0]]
                if not ways.is_refused(unit):
                    found.append(GroupOption(cycles=option.cycles, energy_pj=option.energy_pj, choice=unit))
            else:
                found += [
                    GroupOption(cycles=each.cost.cycles, energy_pj=each.cost.energy_pj, choice=each)
                    for each in ways.together([units[at] for at in pick], _value(ways.exchange, serial, pick))
                ]  # fmt: skip
    best = plan_groups(
        sets.num_sets - 1, lambda first, stop: options[first, stop], objective, spans=sorted(options)
    )  # fmt: skip
    steps = [group.option.choice for group in best.groups]
    assert all(isinstance(step, (Unit, SideBySide)) for step in steps)
    return [step for step in steps if isinstance(step, (Unit, SideBySide))], best.cycles, best.energy_pj


def _value(exchange: Exchange, serial: Sequence[GroupOption], pick: Sequence[int]) -> float:
    """Of units one after the other."""
    return exchange.value(sum(serial[at].cycles for at in pick), sum(serial[at].energy_pj for at in pick))


def _space(arch: Arch, ways: SideWays, sets: DownSets) -> str:
    counts = " ".join(map(str, ways.counts()))
    return (
        f"up to {MOST_TOGETHER} layers or groups of the plan at the same time, in orders that start a layer among the "
        f"{sets.window} that follow the first that has not run, each as planned or searched for up to {counts} of "
        f"{arch.cores.count} cores; of each such set that may gain, up to the {MOST_TIMED} ways that promise most were "
        f"timed"
    )


def _limits(ways: SideWays, sets: DownSets, num_layers: int) -> tuple[str, ...]:
    found = []
    if sets.window < min(FIRST_WINDOW, num_layers):
        found.append(f"orders reach {sets.window} layers ahead, as farther ones have more than {MOST_SETS:,} states")
    if ways.num_unsearched:
        found.append(f"{ways.num_unsearched:,} sets were not timed")
    return tuple(found)
