"""Nouns of the fusion planner: what a group may cost, and the groups a network was cut into."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

from tvm_spm.errors import PlanError
from tvm_spm.units import format_energy, format_si


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOption:
    """One way to run one group; ``choice`` (cores, halo, mapping) is only handed back."""

    cycles: int
    energy_pj: float
    choice: object = None

    def __post_init__(self) -> None:
        if operator.index(self.cycles) < 0:
            raise PlanError(f"GroupOption.cycles: {self.cycles} < 0")
        if not 0 <= self.energy_pj < math.inf:
            raise PlanError(f"GroupOption.energy_pj: {self.energy_pj} is not within 0 <= energy_pj < inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedGroup:
    """Layers ``first .. stop - 1`` run as one group, in one of its ways."""

    first: int
    stop: int
    option: GroupOption

    @property
    def num_layers(self) -> int:
        """Layers in the group."""
        return self.stop - self.first

    def __str__(self) -> str:
        layers = f"layer {self.first}" if self.num_layers == 1 else f"layers {self.first}..{self.stop - 1}"
        cycles, energy = format_si(self.option.cycles, "cycles"), format_energy(self.option.energy_pj)
        return f"{layers}: {cycles}, {energy}" + ("" if self.option.choice is None else f", {self.option.choice}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionPlan:
    """A network cut into groups that run one after another, of least ``objective`` among all such plans.

    ``num_sweeps`` is how often the network was solved for one price of a cycle.
    """

    groups: tuple[PlannedGroup, ...]
    cycles: int
    energy_pj: float
    objective: str
    num_intervals: int
    num_options: int
    num_sweeps: int

    @property
    def edp_pj_cycles(self) -> float:
        """Energy times delay of the whole network."""
        return self.energy_pj * self.cycles

    @property
    def num_layers(self) -> int:
        """Layers of the network."""
        return self.groups[-1].stop

    @property
    def cuts(self) -> tuple[int, ...]:
        """First layers of all groups but the first."""
        return tuple(group.first for group in self.groups[1:])

    def __str__(self) -> str:
        head = (
            f"{self.num_layers} layers in {len(self.groups)} groups, least {self.objective} of every plan: "
            f"{self.cycles:,} cycles, {self.energy_pj:.6g} pJ, EDP {self.edp_pj_cycles:.6g} pJ x cycles"
        )
        return "\n".join([head, *(f"  {group}" for group in self.groups)])
