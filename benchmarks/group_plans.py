"""Plans of groups on all cores that a machine has, and what they move."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

from cost_model.fused import GroupCost, group_key
from cost_model.simulator import SimulatorModel
from tvm_spm.arch import Arch
from tvm_spm.cost import Cost
from tvm_spm.errors import PlanError
from tvm_spm.exact import exact_search
from tvm_spm.fusion.planner import GroupOption, plan_groups
from tvm_spm.fusion.search import group_search
from tvm_spm.graph import GraphTensor, Layer, LayerGraph
from tvm_spm.group import Group, GroupMapping, refuse_group
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.units import bits_to_bytes
from tvm_spm.workload import VectorWork, Workload

Known = dict[Hashable, list[tuple[GroupMapping, GroupCost]]]
"""Ways to run each group; equal groups have equal keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBlock:
    """One group of a plan; no mapping where the layer alone was mapped by other means."""

    first: int
    stop: int
    mapping: GroupMapping | None
    cost: GroupCost

    def __str__(self) -> str:
        cores = "" if self.mapping is None else f"@{self.mapping.num_cores}"
        return f"{self.first}-{self.stop - 1}{cores}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Groups that cover a network.

    Attributes:
        blocks: In order.
        num_searched: Different groups that were searched.
    """

    blocks: tuple[PlannedBlock, ...]
    num_searched: int


def plan_with_groups(
    graph: LayerGraph,
    arch: Arch,
    objective: Literal["latency", "energy", "edp"],
    *,
    max_group: int,
    known: Known,
    alone: Mapping[int, GroupCost] | None = None,
) -> Plan:
    """The best plan of groups of at most ``max_group`` layers.

    Args:
        graph: The network.
        arch: The machine.
        objective: Of the plan and of the mappings.
        max_group: 1 for no fusion.
        known: Looked up, and filled.
        alone: What some layers cost on their own, where that is not to be searched as a group of one.

    Raises:
        PlanError: Some layer fits in no way.
    """
    keys: set[Hashable] = set()

    def options_of(first: int, stop: int) -> list[GroupOption]:
        if refuse_group(Group.interval(graph, first, stop)) is not None:
            return []
        if alone is not None and stop - first == 1 and first in alone:
            cost = alone[first]
            return [GroupOption(cycles=cost.cost.cycles, energy_pj=cost.cost.energy_pj, choice=(None, cost))]
        group = Group.interval(graph, first, stop)
        key = group_key(group)
        keys.add(key)
        if key not in known:
            known[key] = list(group_search(group, arch, objective=objective).options)
        return [
            GroupOption(cycles=cost.cost.cycles, energy_pj=cost.cost.energy_pj, choice=(mapping, cost))
            for mapping, cost in known[key]
        ]

    plan = plan_groups(len(graph.layers), options_of, objective, max_group)
    blocks = []
    for group in plan.groups:
        if not isinstance(group.option.choice, tuple):
            raise PlanError(f"choice {group.option.choice!r}: not a mapping and its cost")
        mapping, cost = group.option.choice
        blocks.append(PlannedBlock(first=group.first, stop=group.stop, mapping=mapping, cost=cost))
    return Plan(blocks=tuple(blocks), num_searched=len(keys))


def layers_without_group(graph: LayerGraph, arch: Arch, objective: str, known: Known) -> list[int]:
    """Layers that do not fit as a group of one, because groups keep the whole of a sum in the scratchpad."""
    found = []
    for index in range(len(graph.layers)):
        group = Group.interval(graph, index, index + 1)
        key = group_key(group)
        if key not in known:
            known[key] = list(group_search(group, arch, objective=objective).options)
        if not known[key]:
            found.append(index)
    return found


def exact_costs(graph: LayerGraph, arch: Arch, objective: str, layers: Iterable[int]) -> dict[int, GroupCost]:
    """Layers alone, in their certified best mappings under the analytical model, priced by the simulator."""
    model, known, found = SimulatorModel(), dict[Workload | VectorWork, Cost](), dict[int, GroupCost]()
    for index in layers:
        layer = graph.layers[index]
        work = layer.workload if layer.workload is not None else _vector_work(graph, layer)
        if work not in known:
            if isinstance(work, Workload):
                case = Case(workload=work, arch=arch, objective=Objective.of(objective))
                known[work] = model.cost(work, arch, exact_search(case).mapping)
            else:
                known[work] = model.vector_cost(work, arch)
        cost = known[work]
        inputs, weights, outputs, extras = cost.dram_bytes
        found[index] = GroupCost(
            cost=cost,
            macs_needed=cost.macs,
            macs_executed=cost.macs,
            spm_bytes=0,
            input_bytes=inputs + extras,
            weight_bytes=weights,
            output_bytes=outputs,
        )
    return found


def _vector_work(graph: LayerGraph, layer: Layer) -> VectorWork:
    """What a vector layer asks for when it runs alone: every tensor it reads once."""
    output = graph.tensors[layer.output]
    return VectorWork(
        operator=layer.name,
        read_bytes=sum(_num_bytes(graph.tensors[index]) for index in sorted({read.tensor for read in layer.reads})),
        write_bytes=_num_bytes(output),
        num_ops=prod(output.shape) * layer.num_ops_per_elem,
    )


def _num_bytes(tensor: GraphTensor) -> int:
    return bits_to_bytes(prod(tensor.shape) * tensor.elem_bits)


def plan_row(plan: Plan, arch: Arch, network: str, dtype: str, name: str, objective: str) -> dict[str, object]:
    """One row of a CSV file, without its seconds."""
    costs = [block.cost for block in plan.blocks]
    cycles, energy_pj = sum(cost.cost.cycles for cost in costs), sum(cost.cost.energy_pj for cost in costs)
    executed, needed = sum(cost.macs_executed for cost in costs), sum(cost.macs_needed for cost in costs)
    return {
        "arch": arch.name,
        "arch_sha256": arch.sha256(),
        "workload": f"{network}, batch 1, {dtype}",
        "layer": network,
        "objective": objective,
        "searcher": name,
        "seed": 0,
        "budget_trials": plan.num_searched,
        "cycles": cycles,
        "energy_pj": energy_pj,
        "edp_pj_cycles": cycles * energy_pj,
        "mapping": " ".join(str(block) for block in plan.blocks),
        "source": "simulated",
        "num_groups": len(plan.blocks),
        "longest_group": max(block.stop - block.first for block in plan.blocks),
        "dram_bytes": sum(cost.dram_bytes for cost in costs),
        "weight_bytes": sum(cost.weight_bytes for cost in costs),
        "recompute_share": executed / needed - 1,
    }
