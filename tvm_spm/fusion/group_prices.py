"""What every convex set of layers of a network may cost as one group, and at least."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from cost_model.fused import group_key
from tvm_spm.arch import Arch
from tvm_spm.attention import AttentionMapping
from tvm_spm.cost import Cost
from tvm_spm.errors import MappingError
from tvm_spm.fusion.convex_groups import MAX_GROUP, MOST_ENDING, ConvexGroups, convex_groups
from tvm_spm.fusion.hopes import PARTS, GroupHope
from tvm_spm.fusion.measured import MeasuredGroups, Ratio, Way
from tvm_spm.fusion.network_plan import NOT_SCHEDULED, Alone, FusedGroup, RefusedGroup, layer_names
from tvm_spm.fusion.plan import FusionPlan, GroupOption, PlannedGroup
from tvm_spm.fusion.planner import OptionsOf, plan_groups
from tvm_spm.fusion.prover import GroupProver, Point
from tvm_spm.fusion.serial_orders import FIRST_REACH, MOST_SETS, serial_orders
from tvm_spm.graph import LayerGraph
from tvm_spm.group import Group, GroupMapping
from tvm_spm.objective import Objective

ALL_CUTS, FEWEST_CUTS = 200_000, 2_000
"""Ways to cut all groups of a network into tiles of any size, and for each at least; of groups that have more than that
only even cuts are looked at."""

SAMPLED_LAYERS = 3
"""Groups of more layers are searched only where the best plan hopes for them."""


class GroupPrices:
    """What every set of layers may cost as one group, and at least; equal groups are looked at once.

    Options are asked for by steps of ``orders``: between two sets of finished layers.

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
        ratios: Sequence[Ratio] = (),
        should_stop: Callable[[], bool],
        report: Callable[[], None],
    ) -> None:
        self._graph = graph
        self._arch = arch
        self._objective = objective
        self._alone = alone
        self._should_stop = should_stop
        self._known = {way.group.layers: way for way in known}
        self.measured = MeasuredGroups(ratios)
        self._numbers: dict[Hashable, int] = {}
        """Of what tells groups apart, which takes long to hash."""
        self._keys: dict[tuple[int, ...], int | None] = {}
        """By layers of groups; None for those that the array cannot run."""
        self._hopes: dict[int, GroupHope] = {}
        self._refused: dict[tuple[int | None, type], RefusedGroup] = {}
        """By group and kind of mapping."""
        self._unfinished: set[int | None] = set()
        """Groups that were not looked at."""
        groups = groups_of(graph, alone)
        self._shortened = groups.shortened
        self._most_cuts = max(FEWEST_CUTS, ALL_CUTS // max(1, len(groups.layers)))
        for layers in groups.layers:
            self._look_at(Group(graph=graph, layers=layers))
            report()
        apart = [layers for layers in self._known if layers not in self._keys]
        self._keys.update(dict.fromkeys(apart))
        self.orders = serial_orders([*groups.layers, *apart], graph.before)

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
        key = self._keys[group.layers] = self._key(group)
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

    @property
    def shortened(self) -> tuple[str, ...]:
        """What is left out of the space, and why."""
        found = [
            f"groups that end with {self._graph.layers[sink].name} have at most {most} layers, as there are more than "
            f"{MOST_ENDING} of more" for sink, most in self._shortened.items()
        ]  # fmt: skip
        if self.orders.reach < min(FIRST_REACH, len(self._graph.layers)):
            found.append(
                f"orders reach {self.orders.reach} layers ahead, as farther ones have more than {MOST_SETS:,} states"
            )
        return tuple(found)

    @property
    def has_gaps(self) -> bool:
        """Whether some group is no interval of the one order of layers."""
        return not all(map(_is_interval, self.orders.steps.values()))

    def plan(
        self, options_of: OptionsOf, most_layers: int = MAX_GROUP, *, with_gaps: bool = True
    ) -> FusionPlan:  # fmt: skip
        """The best of all plans of groups of at most so many layers, at the costs that ``options_of`` gives steps."""
        spans = [
            span for span, layers in self.orders.steps.items()
            if len(layers) <= most_layers and (with_gaps or _is_interval(layers))
        ]  # fmt: skip
        return plan_groups(self.orders.num_sets - 1, options_of, self._objective.value, spans=spans)

    def layers(self, planned: PlannedGroup) -> tuple[int, ...]:
        """Of a step of a plan."""
        return self.orders.steps[planned.first, planned.stop]

    def options(self, first: int, stop: int) -> list[GroupOption]:
        """For ``plan_groups``: the known ways to run the layers of a step, none if they cannot be one group."""
        return self.options_of(self.orders.steps[first, stop])

    def options_of(self, layers: tuple[int, ...]) -> list[GroupOption]:
        """The known ways to run layers as one."""
        times = self._alone[layers[0]].times
        if len(layers) == 1:
            cost = self._alone[layers[0]].cost
            # A layer without a mapping stays on the host and costs the accelerator nothing.
            cycles, energy_pj = (cost.cycles * times, cost.energy_pj * times) if cost else (0, 0.0)
            return [GroupOption(cycles=cycles, energy_pj=energy_pj)]
        found, place, measured = list[GroupOption](), self._place(layers), self.measured
        costs, is_closed = measured.costs(place), measured.is_closed(place)
        hope = self._hope(layers)
        if hope is not None:
            priced = [
                (*measured.expected(point.cycles, point.energy_pj), point)
                for point in hope.points if not (is_closed or measured.knows(place, point))
            ]  # fmt: skip
            priced += [
                (cost.cycles, cost.energy_pj, way) for way, cost in costs.items() if isinstance(way, Point)
            ]  # fmt: skip
            found = [
                GroupOption(cycles=cycles * times, energy_pj=energy_pj * times, choice=point)
                for cycles, energy_pj, point in priced
            ]
        known = self._known.get(layers)
        if known is None or (self._keys[layers], type(known.mapping)) in self._refused:
            return found
        known = replace(known, times=times)
        if isinstance(known.mapping, AttentionMapping) and measured.knows(place, known.mapping):
            cost = costs.get(known.mapping)
            return found if cost is None else [*found, replace(known, cost=cost).option]
        option = known.option
        cycles, energy_pj = measured.expected(option.cycles, option.energy_pj)
        return found if is_closed else [*found, replace(option, cycles=cycles, energy_pj=energy_pj)]

    def hopes(self, first: int, stop: int) -> list[GroupOption]:
        """As ``options`` but in ``PARTS`` of a cycle, and corners of what is possible; their ``choice`` is a hope."""
        found = [replace(each, cycles=PARTS * each.cycles) for each in self.options(first, stop)]
        layers = self.orders.steps[first, stop]
        hope, times = self._hope(layers), self._alone[layers[0]].times
        if len(layers) > 1 and self._keys[layers] in self._unfinished:
            found.append(GroupOption(cycles=0, energy_pj=0.0, choice=None))
        if hope is not None:
            found += [
                GroupOption(cycles=cycles * times, energy_pj=energy_pj * times, choice=hope)
                for cycles, energy_pj in itertools.starmap(self.measured.expected, hope.corners)
            ]
        return found

    def times(self, planned: PlannedGroup) -> int:
        """How often a group runs."""
        return self._alone[self.layers(planned)[0]].times

    def open_way(self, planned: PlannedGroup) -> Hashable | None:
        """How a group of several layers runs, if nobody measured that; equal for equal groups that run the same way."""
        way, place = _way_of(planned.option), self._place(self.layers(planned))
        return None if way is None or self.measured.knows(place, way) else (place, way)

    def answer(self, planned: PlannedGroup, cost: Cost | None) -> None:
        """What a measurement says of a group with an open way; None if it failed."""
        way, layers = _way_of(planned.option), self.layers(planned)
        if way is not None:
            found = way if isinstance(way, Point) else self._known[layers].cost
            self.measured.add(self._place(layers), way, cost, (found.cycles, found.energy_pj))

    def _place(self, layers: tuple[int, ...]) -> Hashable:
        """Equal for equal groups."""
        key = self._keys.get(layers)
        return layers if key is None else key

    def _hope(self, layers: tuple[int, ...]) -> GroupHope | None:
        key = self._keys.get(layers)
        return None if key is None or (key, GroupMapping) in self._refused else self._hopes.get(key)

    def way(self, layers: tuple[int, ...], option: GroupOption) -> FusedGroup | None:
        """How a group of several layers runs; None for one layer."""
        if isinstance(option.choice, FusedGroup):
            return option.choice
        hope = self._hope(layers)
        if hope is None or not isinstance(option.choice, Point):
            return None
        group = Group(graph=self._graph, layers=layers)
        way = replace(FusedGroup.of(group, *hope.mapping(option.choice)), times=self._alone[layers[0]].times)
        measured = self.measured.costs(self._place(layers)).get(option.choice)
        return way if measured is None else replace(way, cost=measured)

    def sample(self, plan: FusionPlan) -> None:
        """Price a few mappings of all groups of up to ``SAMPLED_LAYERS`` that may be better than their layers alone.

        Args:
            plan: Of layers alone.
        """
        value, sampled = self._objective.value_of(float(plan.cycles), plan.energy_pj), set()
        for layers in self._keys:
            hope = self._hope(layers)
            if hope is None or hope in sampled or len(layers) > SAMPLED_LAYERS or self._should_stop():
                continue
            times, apart = self._alone[layers[0]].times, [self.options_of((index,))[0] for index in layers]
            cycles = plan.cycles - sum(one.cycles for one in apart)
            energy_pj = plan.energy_pj - sum(one.energy_pj for one in apart)
            if any(
                self._objective.value_of(cycles + times * corner / PARTS, energy_pj + times * corner_pj) < value
                for corner, corner_pj in itertools.starmap(self.measured.expected, hope.corners)
            ):
                sampled.add(hope)
                hope.sample()

    def polish(self, planned: PlannedGroup) -> bool:
        """Look around the way of a group for sizes that do not divide evenly; whether some other way was found."""
        choice, hope = planned.option.choice, self._hope(self.layers(planned))
        if hope is None or not isinstance(choice, Point):
            return False
        before = hope.points
        hope.polish(choice)
        return hope.points != before

    def refuse(self, way: FusedGroup, reason: str) -> None:
        """Do without a kind of code for a group and all equal ones."""
        key = self._key(way.group), type(way.mapping)
        self._refused[key] = RefusedGroup(names=layer_names(way.group), kind=NOT_SCHEDULED, reason=reason)

    def _key(self, group: Group) -> int | None:
        try:
            return self._numbers.setdefault(group_key(group), len(self._numbers))
        except MappingError:
            # Boxes cannot say what it reads.
            return None


def _way_of(option: GroupOption) -> Way | None:
    """How several layers run as one; None for one layer."""
    if isinstance(option.choice, FusedGroup) and isinstance(option.choice.mapping, AttentionMapping):
        return option.choice.mapping
    return option.choice if isinstance(option.choice, Point) else None


def _is_interval(layers: tuple[int, ...]) -> bool:
    return layers[-1] - layers[0] + 1 == len(layers)


def groups_of(graph: LayerGraph, alone: Sequence[Alone]) -> ConvexGroups:
    """Sets of layers that may run as one, none of which stays on the host."""
    return convex_groups(graph, lambda index: alone[index].cost is not None)
