"""Nouns of running layers and groups side by side, each on cores of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from cost_model.side_by_side import Job, JobEnd
from tvm_spm.arch import Arch
from tvm_spm.attention import AttentionMapping
from tvm_spm.cost import Cost, Energy
from tvm_spm.fusion.network_plan import Alone, FusedGroup
from tvm_spm.graph import LayerGraph
from tvm_spm.group import GroupMapping
from tvm_spm.mapping import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What runs as one: a layer by itself, or a group of a plan.

    Attributes:
        layers: Indices, in order.
        group: How the group runs by itself; None for a layer.
        others: Other ways to run the group.
    """

    layers: tuple[int, ...]
    group: FusedGroup | None = None
    others: tuple[FusedGroup, ...] = ()


class Scheduled(NamedTuple):
    """A unit that code is made for, and the mapping that it follows."""

    unit: Unit
    mapping: Mapping | GroupMapping | AttentionMapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A unit that runs beside others.

    Attributes:
        unit: What runs; a group as it runs here.
        job: With its mapping, on the cores that it has.
        cost: By itself on these cores.
        first_core: The lowest of its cores; the others follow.
        finish_cycles: When it has finished, beside the others.
    """

    unit: Unit
    job: Job
    cost: Cost
    first_core: int
    finish_cycles: int

    @property
    def cores(self) -> range:
        """Numbers of its cores."""
        return range(self.first_core, self.first_core + self.job.num_cores)


class Way(NamedTuple):
    """A unit on some cores, its group as it runs there, and what that costs by itself."""

    unit: Unit
    job: Job
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """Units that are launched at once on disjoint cores.

    Attributes:
        sides: In order of cores.
        cost: Until the last has finished; energy and traffic are sums.
    """

    sides: tuple[Side, ...]
    cost: Cost

    @property
    def num_cores(self) -> int:
        """Cores in use."""
        return sum(side.job.num_cores for side in self.sides)

    def of(self, units: Sequence[Unit]) -> SideBySide:
        """The same of other units that are equal, one by one."""
        sides = []
        for side, unit in zip(self.sides, units, strict=True):
            if side.unit.group is None or unit.group is None:
                sides.append(replace(side, unit=unit))
                continue
            group = replace(side.unit.group, group=unit.group.group)
            sides.append(
                replace(side, unit=replace(unit, group=group), job=replace(side.job, work=group.group))
            )  # fmt: skip
        return replace(self, sides=tuple(sides))

    def __str__(self) -> str:
        return f"{len(self.sides)} side by side on {self.num_cores} cores"


@dataclass(frozen=True, slots=True, kw_only=True)
class SidePlan:
    """A network in the order in which it runs, some of it side by side.

    Attributes:
        steps: Units that run alone, and those that run side by side.
        cycles: Of all steps, one after the other.
        energy_pj: Of all steps.
        serial_cycles: If every unit of the plan that was given ran alone.
        serial_energy_pj: The same.
        num_sets: Different sets of units that were timed side by side.
        space: What was looked at.
        limits: What of that was left out, and why; empty if nothing.
        refused: Units that were chosen to run side by side and have no code for it, and why.
    """

    steps: tuple[Unit | SideBySide, ...]
    cycles: int
    energy_pj: float
    serial_cycles: int
    serial_energy_pj: float
    num_sets: int
    space: str
    limits: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def together(self) -> tuple[SideBySide, ...]:
        """The steps in which units run side by side."""
        return tuple(step for step in self.steps if isinstance(step, SideBySide))

    def drawn(self, alone: Sequence[Alone]) -> list[tuple[tuple[int, ...], int]]:
        """Layers of every unit and the number of its cores; ``alone`` says how layers run by themselves."""
        found = []
        for step in self.steps:
            if isinstance(step, SideBySide):
                found += [(side.unit.layers, side.job.num_cores) for side in step.sides]
            elif step.group is not None:
                found.append((step.layers, step.group.mapping.num_cores))
            else:
                found.append((step.layers, alone[step.layers[0]].num_cores))
        return found

    @property
    def groups(self) -> tuple[FusedGroup, ...]:
        """Groups that run by themselves, in order."""
        return tuple(step.group for step in self.steps if isinstance(step, Unit) and step.group is not None)


def place_sides(arch: Arch, ways: Sequence[Way], finishes: Sequence[JobEnd]) -> SideBySide:
    """Units beside each other, once it is known when each finishes."""
    sides, first_core = [], 0
    for way, finish in zip(ways, finishes, strict=True):
        sides.append(
            Side(unit=way.unit, job=way.job, cost=way.cost, first_core=first_core, finish_cycles=finish.cycles)
        )  # fmt: skip
        first_core += way.job.num_cores
    return SideBySide(sides=tuple(sides), cost=_cost(arch, [way.cost for way in ways], finishes))


def _cost(arch: Arch, costs: list[Cost], finishes: Sequence[JobEnd]) -> Cost:
    """Cycles are those of the core that finishes last, everything else is added up: events do not depend on when."""
    last = max(finishes, key=lambda finish: finish.cycles)
    launch_cycles, macs = arch.cores.launch_cycles, sum(cost.macs for cost in costs)
    parts = Energy.__dataclass_fields__
    i_bytes, w_bytes, o_bytes, extras_bytes = (
        sum(cost.dram_bytes[place] for cost in costs) for place in range(4)
    )  # fmt: skip
    return Cost(
        cycles=last.cycles,
        energy=Energy(**{name: sum(getattr(cost.energy, name) for cost in costs) for name in parts}),
        model=costs[0].model,
        macs=macs,
        utilization=macs / (last.cycles * arch.peak_macs_per_cycle),
        compute_cycles=last.compute_cycles,
        noc_stall_cycles=last.pass_cycles - last.compute_cycles,
        dma_stall_cycles=last.cycles - launch_cycles - last.pass_cycles,
        overhead_cycles=launch_cycles,
        dram_bytes=(i_bytes, w_bytes, o_bytes, extras_bytes),
        dma_busy_cycles=sum(cost.dma_busy_cycles for cost in costs),
        dram_unused_bytes=sum(cost.dram_unused_bytes for cost in costs),
    )


def layer_names_of(graph: LayerGraph, unit: Unit) -> tuple[str, ...]:
    """Names of the layers of a unit."""
    return tuple(graph.layers[index].name for index in unit.layers)
