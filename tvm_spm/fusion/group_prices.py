"""What every interval of layers of a network may cost as one group, and at least."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from cost_model.fused import group_key
from tvm_spm.arch import Arch
from tvm_spm.errors import MappingError
from tvm_spm.fusion.hopes import PARTS, GroupHope
from tvm_spm.fusion.network_plan import NOT_SCHEDULED, Alone, FusedGroup, RefusedGroup, layer_names
from tvm_spm.fusion.plan import FusionPlan, GroupOption, PlannedGroup
from tvm_spm.fusion.prover import GroupProver, Point
from tvm_spm.graph import LayerGraph
from tvm_spm.group import Group, GroupMapping, refuse_group
from tvm_spm.objective import Objective

MAX_GROUP = 10
"""Most layers in a group; longer ones hardly ever fit a scratchpad."""


ALL_CUTS, FEWEST_CUTS = 200_000, 2_000
"""Ways to cut all groups of a network into tiles of any size, and for each at least; of groups that have more than that
only even cuts are looked at."""

SAMPLED_LAYERS = 3
"""Groups of more layers are searched only where the best plan hopes for them."""


class GroupPrices:
    """What every interval of layers may cost as one group, and at least; equal groups are looked at once.

    Ways known beforehand stand beside those that a search finds, and survive when the search is stopped.
    """

    def __init__(
        self,
        graph: LayerGraph,
        arch: Arch,
        objective: Objective,
        alone: Sequence[Alone],
        known: Sequence[FusedGroup],
        *,
        should_stop: Callable[[], bool],
        report: Callable[[], None],
    ) -> None:
        self._graph = graph
        self._arch = arch
        self._objective = objective
        self._alone = alone
        self._should_stop = should_stop
        self._known = {(way.group.first, way.group.stop): way for way in known}
        self._keys: dict[tuple[int, int], Hashable] = {}
        """Of intervals that may be groups; None for the others."""
        self._hopes: dict[Hashable, GroupHope] = {}
        self._refused: dict[tuple[Hashable, type], RefusedGroup] = {}
        """By group and kind of mapping."""
        self._unfinished: set[Hashable] = set()
        """Groups that were not looked at."""
        num_layers = len(graph.layers)
        self._most_cuts = max(FEWEST_CUTS, ALL_CUTS // max(1, num_intervals(num_layers)))
        for size in range(2, MAX_GROUP + 1):
            for first in range(num_layers - size + 1):
                self._look_at(Group(graph=graph, first=first, stop=first + size))
                report()

    @property
    def num_bounded(self) -> int:
        """Different groups that were looked at."""
        return len({key for key in self._keys.values() if key is not None} - self._unfinished)

    @property
    def num_unbounded(self) -> int:
        """Different groups that were not."""
        return len(self._unfinished)

    @property
    def num_steps(self) -> int:
        """Of all searches, but for groups that are refused."""
        return sum(hope.num_steps for key, hope in self._hopes.items() if (key, GroupMapping) not in self._refused)

    @property
    def refused(self) -> tuple[RefusedGroup, ...]:
        """Groups that were asked for in vain."""
        return tuple(self._refused.values())

    def _look_at(self, group: Group) -> None:
        key = self._keys[group.first, group.stop] = self._key(group)
        if key is None or key in self._hopes or (key, GroupMapping) in self._refused:
            return
        if self._should_stop():
            self._unfinished.add(key)
            return
        self._unfinished.discard(key)
        arch = self._arch
        if arch.levels.SPM.is_split:
            reason = f"{arch.name} has a split scratchpad, whose parts cannot hold tensors that are output and input"
            self._refused[key, GroupMapping] = RefusedGroup(names=layer_names(group), kind=reason, reason=reason)
            return
        prover = GroupProver(
            group, arch, self._objective.value_of, mappers=(self._objective.value,), most_cuts=self._most_cuts
        )
        hope = GroupHope(prover, self._objective)
        if hope.fits:
            self._hopes[key] = hope
        else:
            self._refused[key, GroupMapping] = RefusedGroup(
                names=layer_names(group), kind="spm-capacity", reason=prover.why_nothing_fits
            )

    def options(self, first: int, stop: int) -> list[GroupOption]:
        """For ``plan_groups``: the known ways to run an interval, none if it cannot be one group."""
        times = self._alone[first].times
        if stop - first == 1:
            cost = self._alone[first].cost
            # A layer without a mapping stays on the host and costs the accelerator nothing.
            cycles, energy_pj = (cost.cycles * times, cost.energy_pj * times) if cost else (0, 0.0)
            return [GroupOption(cycles=cycles, energy_pj=energy_pj)]
        found = []
        hope = self._hope(first, stop)
        if hope is not None:
            found = [
                GroupOption(cycles=point.cycles * times, energy_pj=point.energy_pj * times, choice=point)
                for point in hope.points
            ]
        known = self._known.get((first, stop))
        if known is not None and (self._keys[first, stop], type(known.mapping)) not in self._refused:
            found.append(replace(known, times=times).option)
        return found

    def hopes(self, first: int, stop: int) -> list[GroupOption]:
        """As ``options`` but in ``PARTS`` of a cycle, and corners of what is possible; their ``choice`` is a hope."""
        found = [replace(each, cycles=PARTS * each.cycles) for each in self.options(first, stop)]
        hope, times = self._hope(first, stop), self._alone[first].times
        if stop - first > 1 and self._keys[first, stop] in self._unfinished:
            found.append(GroupOption(cycles=0, energy_pj=0.0, choice=None))
        if hope is not None:
            found += [
                GroupOption(cycles=cycles * times, energy_pj=pj * times, choice=hope) for cycles, pj in hope.corners
            ]
        return found

    def times(self, planned: PlannedGroup) -> int:
        """How often a group runs."""
        return self._alone[planned.first].times

    def _hope(self, first: int, stop: int) -> GroupHope | None:
        key = self._keys.get((first, stop))
        return None if key is None or (key, GroupMapping) in self._refused else self._hopes.get(key)

    def way(self, planned: PlannedGroup) -> FusedGroup | None:
        """How a group of several layers runs; None for one layer."""
        choice = planned.option.choice
        if isinstance(choice, FusedGroup):
            return choice
        hope = self._hope(planned.first, planned.stop)
        if hope is None or not isinstance(choice, Point):
            return None
        group = Group(graph=self._graph, first=planned.first, stop=planned.stop)
        return replace(FusedGroup.of(group, *hope.mapping(choice)), times=self.times(planned))

    def sample(self, plan: FusionPlan) -> None:
        """Price a few mappings of all groups of up to ``SAMPLED_LAYERS`` that may be better than their layers alone.

        Args:
            plan: Of layers alone.
        """
        value, sampled = self._objective.value_of(float(plan.cycles), plan.energy_pj), set()
        for first, stop in self._keys:
            hope = self._hope(first, stop)
            if hope is None or hope in sampled or stop - first > SAMPLED_LAYERS or self._should_stop():
                continue
            times, layers = (
                self._alone[first].times,
                [self.options(index, index + 1)[0] for index in range(first, stop)],
            )
            cycles = plan.cycles - sum(one.cycles for one in layers)
            energy_pj = plan.energy_pj - sum(one.energy_pj for one in layers)
            if any(
                self._objective.value_of(cycles + times * corner / PARTS, energy_pj + times * corner_pj) < value
                for corner, corner_pj in hope.corners
            ):
                sampled.add(hope)
                hope.sample()

    def polish(self, planned: PlannedGroup) -> bool:
        """Look around the way of a group for sizes that do not divide evenly; whether some other way was found."""
        choice, hope = planned.option.choice, self._hope(planned.first, planned.stop)
        if hope is None or not isinstance(choice, Point):
            return False
        before = hope.points
        hope.polish(choice)
        return hope.points != before

    def refuse(self, way: FusedGroup, reason: str) -> None:
        """Do without a kind of code for a group and all equal ones."""
        key = self._key(way.group), type(way.mapping)
        self._refused[key] = RefusedGroup(names=layer_names(way.group), kind=NOT_SCHEDULED, reason=reason)

    def _key(self, group: Group) -> Hashable:
        if any(self._alone[index].cost is None for index in group.layers):
            return None
        if refuse_group(group.graph, group.first, group.stop) is not None:
            return None
        try:
            return group_key(group)
        except MappingError:
            # Boxes cannot say what it reads.
            return None


def num_intervals(num_layers: int) -> int:
    """Intervals of two to ``MAX_GROUP`` layers."""
    return sum(max(0, num_layers - size + 1) for size in range(2, MAX_GROUP + 1))
