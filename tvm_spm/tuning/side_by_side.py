"""Which layers and groups of a planned network run at the same time, and what that gives."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tvm_spm.arch import Arch
from tvm_spm.deploy.groups import FusedNetwork, GroupScheduler
from tvm_spm.deploy.side_by_side import SideScheduler
from tvm_spm.deploy.verify.outcome import Verification
from tvm_spm.fusion.network_plan import NetworkPlan
from tvm_spm.fusion.side_by_side import plan_side_by_side
from tvm_spm.fusion.sides import Side, SidePlan, layer_names_of
from tvm_spm.result import SearchResult
from tvm_spm.tuning.parts import SideResult, TogetherResult, total_cost
from tvm_spm.workload import Workload

if TYPE_CHECKING:
    import tvm

    from tvm_spm.frontend import Extraction, NetworkLayers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlannedSides:
    """What runs side by side.

    Attributes:
        plan: The order of everything.
        scheduler: Makes its code.
    """

    plan: SidePlan
    scheduler: SideScheduler

    def fuse(self) -> FusedNetwork:
        """The network in this order."""
        return self.scheduler.fuse(self.plan)


def plan_sides(
    extraction: Extraction,
    layers: NetworkLayers,
    arch: Arch,
    outcomes: dict[int, SearchResult],
    plan: NetworkPlan,
    groups: GroupScheduler,
    *,
    verify: Callable[[tvm.tirx.PrimFunc, tvm.tirx.PrimFunc], Verification],
    should_stop: Callable[[], bool],
) -> PlannedSides | None:
    """Let branches of a network run at the same time; None if none do.

    Args:
        extraction: The network.
        layers: Its layers.
        arch: The accelerator.
        outcomes: Per index of a task that can be mapped, how it runs alone.
        plan: How it runs one after the other.
        groups: Makes the code of groups.
        verify: Compares a scheduled function with the plain one.
        should_stop: Once true, nothing more is searched.
    """
    scheduler = SideScheduler(extraction, layers, groups, verify)
    tasks = [extraction.graph.nodes[node].task for node in layers.node_of_layer]
    mappings = [
        outcomes[task].mapping
        if task in outcomes and isinstance(extraction.graph.tasks[task].work, Workload) else None
        for task in tasks
    ]  # fmt: skip
    found = plan_side_by_side(
        plan, arch, mappings, scheduler.before(), scheduler.movable(),
        why_not=scheduler.why_not, should_stop=should_stop,
    )  # fmt: skip
    return None if found is None else PlannedSides(plan=found, scheduler=scheduler)


def together_results(
    planned: PlannedSides, plan: NetworkPlan, arch: Arch, fused: FusedNetwork
) -> tuple[TogetherResult, ...]:
    """Equal steps that run the same way are one result.

    Args:
        planned: The order of everything.
        plan: How the network runs one after the other.
        arch: The accelerator.
        fused: What became of the groups, those beside others behind those that run alone.
    """
    of_groups = iter(fused.verifications[len(planned.plan.groups) :])
    serial = {way.group.layers: way.cost for way in (*(ways[0] for ways in plan.candidates), *plan.groups)}
    found: dict[Hashable, TogetherResult] = {}
    for step in planned.plan.together:
        verifications = [
            planned.scheduler.verification(side) if side.unit.group is None else next(of_groups)
            for side in step.sides
        ]  # fmt: skip
        sides = tuple(
            _side_result(plan, side, verification) for side, verification in zip(step.sides, verifications, strict=True)
        )
        key = tuple((side.tasks, side.mapping) for side in sides)
        if key in found:
            found[key] = replace(found[key], count=found[key].count + 1)
            continue
        costs = []
        for side in step.sides:
            unit = side.unit
            if unit.group is not None:
                costs.append(serial[unit.group.group.layers])
            else:
                alone = plan.alone[unit.layers[0]].cost
                assert alone is not None
                costs.append(alone)
        found[key] = TogetherResult(
            sides=sides, count=1, cost=step.cost, serial_cost=total_cost([(cost, 1) for cost in costs], arch)
        )
    return tuple(found.values())


def _side_result(plan: NetworkPlan, side: Side, verification: Verification) -> SideResult:
    return SideResult(
        names=layer_names_of(plan.graph, side.unit),
        tasks=tuple(plan.alone[index].task for index in side.unit.layers),
        mapping=side.job.mapping, cores=side.cores, finish_cycles=side.finish_cycles, cost=side.cost,
        verification=verification,
    )  # fmt: skip
