"""A plan as plain data: what is saved, printed as JSON and drawn of groups and of what runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from tvm_spm.fusion.network_plan import NetworkPlan
from tvm_spm.fusion.sides import Side, SidePlan, Unit, layer_names_of
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.report.plan_picture import DrawnGroup
from tvm_spm.tuning.parts import TogetherResult
from tvm_spm.tuning.saved_run import SavedGroup
from tvm_spm.units import finite


class OnHost(Enum):
    """In place of a mapping."""

    HOST = "host"


HOST: Final = OnHost.HOST

Mapped = Mapping | OnHost | None
"""How a task runs alone; None for the vector unit."""


def saved_plan(plan: NetworkPlan, side_plan: SidePlan | None, mappings: Sequence[Mapped]) -> list[SavedGroup]:
    """The whole plan, single layers included, in the order in which it runs.

    Args:
        plan: Groups and layers one after the other.
        side_plan: The order in which they run, if some do at the same time.
        mappings: Per task, how it runs alone.
    """
    if side_plan is None:
        ways = {way.group.layers: way for way in plan.groups}
        units = [Unit(layers=layers, group=ways.get(layers)) for layers in plan.units]
        return [_saved(plan, unit, mappings) for unit in units]
    found, number = list[SavedGroup](), 0
    for step in side_plan.steps:
        if isinstance(step, Unit):
            found.append(_saved(plan, step, mappings))
        else:
            number += 1
            found += [_saved_side(plan, side, number) for side in step.sides]
    return found


def _saved(plan: NetworkPlan, unit: Unit, mappings: Sequence[Mapped]) -> SavedGroup:
    """A layer or a group that runs with nothing at the same time."""
    names, alone = layer_names_of(plan.graph, unit), plan.alone[unit.layers[0]]
    if unit.group is not None:
        option = unit.group.option
        return SavedGroup(
            layers=names, num_cores=unit.group.mapping.num_cores, mapping=str(unit.group.mapping),
            cycles=option.cycles, energy_pj=option.energy_pj,
        )  # fmt: skip
    mapping, cost, times = mappings[alone.task], alone.cost, alone.times
    text = "vector unit" if mapping is None else "host"
    return SavedGroup(
        layers=names, num_cores=alone.num_cores, mapping=mapping.line() if isinstance(mapping, Mapping) else text,
        cycles=0 if cost is None else cost.cycles * times, energy_pj=0.0 if cost is None else cost.energy_pj * times,
    )  # fmt: skip


def _saved_side(plan: NetworkPlan, side: Side, number: int) -> SavedGroup:
    """A layer or a group beside others."""
    mapping = side.job.mapping
    return SavedGroup(
        layers=layer_names_of(plan.graph, side.unit), num_cores=side.job.num_cores,
        mapping=mapping.line() if isinstance(mapping, Mapping) else str(mapping),
        cycles=side.finish_cycles, energy_pj=side.cost.energy_pj, together=number, first_core=side.first_core,
    )  # fmt: skip


def drawn_units(plan: NetworkPlan, side_plan: SidePlan) -> list[DrawnGroup]:
    """All units for a picture."""
    return [DrawnGroup(layers=layers, num_cores=num_cores) for layers, num_cores in side_plan.drawn(plan.alone)]


def side_by_side_data(plan: SidePlan, together: Sequence[TogetherResult], objective: Objective) -> dict[str, object]:
    """For JSON: what runs side by side, and what that gives."""
    return {
        "steps": [_step_data(step, objective) for step in together],
        "value": objective.value_of(plan.cycles, plan.energy_pj),
        "cycles": plan.cycles,
        "energy_pj": plan.energy_pj,
        "serial_value": objective.value_of(plan.serial_cycles, plan.serial_energy_pj),
        "serial_cycles": plan.serial_cycles,
        "serial_energy_pj": plan.serial_energy_pj,
        "sets_timed": plan.num_sets,
        "space": plan.space,
        "limits": list(plan.limits),
        "refused": [{"layers": names, "reason": reason} for names, reason in plan.refused],
    }


def _step_data(step: TogetherResult, objective: Objective) -> dict[str, object]:
    """Layers or groups that run at the same time."""
    return {
        "count": step.count,
        "sides": [
            {
                "layers": list(side.names),
                "cores": [side.cores.start, side.cores.stop],
                "mapping": side.mapping_text,
                "finish_cycles": side.finish_cycles,
                "cycles_alone_on_these_cores": side.cost.cycles,
                "energy_pj": side.cost.energy_pj,
                "verified": side.verification.passed,
            }
            for side in step.sides
        ],
        "cycles": step.cost.cycles,
        "utilization": step.cost.utilization,
        "bound_by": step.cost.bound_by,
        "energy_pj": step.cost.energy_pj,
        "edp_pj_cycles": step.cost.edp_pj_cycles,
        "dram_bytes": sum(step.cost.dram_bytes),
        "serial_cycles": step.serial_cost.cycles,
        "serial_energy_pj": step.serial_cost.energy_pj,
        "gain_over_serial": finite(step.gain(objective)),
    }
