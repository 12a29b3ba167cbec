"""Which layers of a network run as one: prices of groups, the best plan of them, and its refinement until stable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from cost_model.fused import GroupCost, group_key
from tvm_spm.arch import Arch
from tvm_spm.attention import AttentionMapping
from tvm_spm.cost import Cost
from tvm_spm.errors import MappingError
from tvm_spm.fusion.planner import FusionPlan, GroupOption, plan_groups
from tvm_spm.fusion.search import GroupSearchResult, group_search, refine_group
from tvm_spm.graph import LayerGraph
from tvm_spm.group import Group, GroupMapping, refuse_group
from tvm_spm.report.plan_picture import DrawnGroup

MAX_GROUP = 10
"""Most layers in a group; longer ones hardly ever fit a scratchpad."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """A layer that runs by itself: its task, what that costs on how many cores, and how often it runs.

    Without a cost it stays on the host, and in no group.
    """

    task: int
    cost: Cost | None
    num_cores: int
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedGroup:
    """Several layers, and how they run as one.

    Attributes:
        group: The layers.
        mapping: Tile by tile of the last output, or by chunks of keys with an online softmax.
        cost: By the simulator.
        spm_bytes: Most that one core holds at a time.
        recompute_share: Multiply-accumulates done more than once, as a share of those needed.
        times: How often the layers run in the network.
    """

    group: Group
    mapping: GroupMapping | AttentionMapping
    cost: Cost
    spm_bytes: int
    recompute_share: float = 0.0
    times: int = 1

    @classmethod
    def of(cls, group: Group, mapping: GroupMapping, cost: GroupCost) -> FusedGroup:
        """What a search of group mappings found."""
        return cls(
            group=group, mapping=mapping, cost=cost.cost, spm_bytes=cost.spm_bytes,
            recompute_share=cost.recompute_share,
        )  # fmt: skip

    @property
    def option(self) -> GroupOption:
        """For the planner."""
        return GroupOption(
            cycles=self.cost.cycles * self.times, energy_pj=self.cost.energy_pj * self.times, choice=self
        )  # fmt: skip

    @property
    def tile(self) -> str:
        """What one core works on at a time."""
        if isinstance(self.mapping, AttentionMapping):
            return f"{self.mapping.query_tile} queries x {min(self.mapping.key_tile, self._num_keys)} keys"
        return "x".join(str(extent) for extent in self.mapping.tile)

    @property
    def overlap(self) -> str:
        """What happens to the overlap of neighbouring tiles, or how the softmax is computed."""
        if isinstance(self.mapping, AttentionMapping):
            return "online softmax" if self.mapping.key_tile < self._num_keys else "softmax of whole rows"
        kept = ["NCHW"[axis] if len(self.mapping.tile) == 4 else str(axis) for axis in self.mapping.kept]
        return f"kept along {' '.join(kept)}" if kept else "recomputed"

    @property
    def _num_keys(self) -> int:
        """Columns of the scores, which the first layer of an attention writes."""
        return self.group.graph.tensors[self.group.graph.layers[self.group.first].output].shape[-1]

    def __str__(self) -> str:
        return f"{' > '.join(_names(self.group))} on {self.mapping.num_cores} cores, {self.spm_bytes:,} B of SPM"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedGroup:
    """Layers that were asked for as one group, in vain.

    Attributes:
        names: The layers of the first such group; equal groups are refused with it.
        kind: In a few words, for counting; ``NOT_SCHEDULED`` where no code could be made.
        reason: In full.
    """

    names: tuple[str, ...]
    kind: str
    reason: str


NOT_SCHEDULED = "no schedule"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """A network cut into groups.

    Attributes:
        graph: The layers.
        alone: Per layer, how it runs by itself.
        groups: Those of several layers, in order.
        plan: What the planner decided, single layers included.
        refused: Groups that cannot run or be scheduled, with reasons.
        num_priced: Different groups that were searched to the end.
        num_unpriced: Different groups that were not, as there was no time.
        num_unrefined: Groups of the plan around which nothing was searched, as there was no time.
    """

    graph: LayerGraph
    alone: tuple[Alone, ...]
    groups: tuple[FusedGroup, ...]
    plan: FusionPlan
    refused: tuple[RefusedGroup, ...]
    num_priced: int = 0
    num_unpriced: int = 0
    num_unrefined: int = 0

    @property
    def unscheduled(self) -> tuple[RefusedGroup, ...]:
        """Groups that a plan chose but that have no code."""
        return tuple(refused for refused in self.refused if refused.kind == NOT_SCHEDULED)

    def num_refused(self) -> dict[str, int]:
        """How many different groups cannot run, by kind of reason, the most frequent first."""
        others = (refused.kind for refused in self.refused if refused.kind != NOT_SCHEDULED)
        return dict(Counter(others).most_common())

    def drawn_groups(self) -> list[DrawnGroup]:
        """All groups, single layers included, for a picture."""
        cores = {found.group.first: found.mapping.num_cores for found in self.groups}
        return [
            DrawnGroup(
                first=planned.first, stop=planned.stop,
                num_cores=cores.get(planned.first, self.alone[planned.first].num_cores),
            )
            for planned in self.plan.groups
        ]  # fmt: skip


class GroupPrices:
    """What every interval of layers may cost as one group; equal groups are priced once.

    Ways known beforehand stand beside those that a search finds, and survive when the search is stopped.
    """

    def __init__(
        self,
        graph: LayerGraph,
        arch: Arch,
        objective: str,
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
        self._report = report
        self._known = {(way.group.first, way.group.stop): way for way in known}
        self._keys: dict[tuple[int, int], Hashable] = {}
        """Of intervals that may be groups; None for the others."""
        self._found: dict[Hashable, list[FusedGroup]] = {}
        self._refused: dict[tuple[Hashable, type], RefusedGroup] = {}
        """By group and kind of mapping."""
        self._refined: set[tuple[Hashable, GroupMapping]] = set()
        self._unfinished: set[Hashable] = set()
        """Groups whose search was stopped, or not begun."""

    @property
    def num_priced(self) -> int:
        """Different groups that were searched to the end."""
        return len(self._found.keys() - self._unfinished)

    @property
    def num_unpriced(self) -> int:
        """Different groups that were not."""
        return len(self._unfinished)

    def is_refined(self, chosen: FusedGroup) -> bool:
        """Whether nothing better is near a way, as far as a search can tell."""
        key = self._keys[chosen.group.first, chosen.group.stop]
        return isinstance(chosen.mapping, AttentionMapping) or (key, chosen.mapping) in self._refined

    @property
    def refused(self) -> tuple[RefusedGroup, ...]:
        """Groups that were asked for in vain."""
        return tuple(self._refused.values())

    def options(self, first: int, stop: int) -> list[GroupOption]:
        """For ``plan_groups``: the ways to run an interval, none if it cannot be one group."""
        if stop - first == 1:
            cost, times = self._alone[first].cost, self._alone[first].times
            # A layer without a mapping stays on the host and costs the accelerator nothing.
            cycles, energy_pj = (cost.cycles * times, cost.energy_pj * times) if cost else (0, 0.0)
            return [GroupOption(cycles=cycles, energy_pj=energy_pj)]
        group = Group(graph=self._graph, first=first, stop=stop)
        if (first, stop) not in self._keys:
            self._keys[first, stop] = self._key(group)
            self._report()
        key = self._keys[first, stop]
        return [] if key is None else [way.option for way in self._ways(group, key)]

    def refuse(self, way: FusedGroup, reason: str) -> None:
        """Do without a kind of code for a group and all equal ones."""
        key = self._key(way.group), type(way.mapping)
        self._refused[key] = RefusedGroup(names=_names(way.group), kind=NOT_SCHEDULED, reason=reason)

    def refine(self, chosen: FusedGroup) -> bool:
        """Search around a way that a plan chose; whether that gave a better one."""
        mapping, key = chosen.mapping, self._keys[chosen.group.first, chosen.group.stop]
        if isinstance(mapping, AttentionMapping) or (key, mapping) in self._refined or self._should_stop():
            return False
        found = refine_group(
            chosen.group, self._arch, mapping, objective=self._objective, should_stop=self._should_stop
        )  # fmt: skip
        better = FusedGroup.of(chosen.group, *found)
        if not self._should_stop():
            self._refined |= {(key, mapping), (key, found[0])}
        if better.cost.objective(self._objective) >= chosen.cost.objective(self._objective):
            return False
        self._found[key].append(better)
        return True

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

    def _ways(self, group: Group, key: Hashable) -> list[FusedGroup]:
        if key not in self._found and self._should_stop():
            self._unfinished.add(key)
        elif key not in self._found:
            result = group_search(group, self._arch, objective=self._objective, should_stop=self._should_stop)
            if not result.is_complete:
                self._unfinished.add(key)
            self._found[key] = [FusedGroup.of(group, mapping, cost) for mapping, cost in result.options]
            if result.refusal is not None:
                self._refused[key, GroupMapping] = RefusedGroup(
                    names=_names(group), kind=_kind(result), reason=result.refusal
                )
        times = self._alone[group.first].times
        ways = [replace(way, group=group, times=times) for way in self._found.get(key, [])]
        known = self._known.get((group.first, group.stop))
        others = (replace(known, times=times),) if known else ()
        return [
            way for way in (*ways, *others) if (key, type(way.mapping)) not in self._refused
        ]  # fmt: skip


def plan_network(
    graph: LayerGraph,
    arch: Arch,
    objective: str,
    alone: Sequence[Alone],
    *,
    known: Sequence[FusedGroup] = (),
    why_not: Callable[[Sequence[FusedGroup]], Sequence[str | None]],
    should_stop: Callable[[], bool],
    report: Callable[[], None],
) -> NetworkPlan:
    """The best plan of the groups and mappings that were priced, all of which can be scheduled.

    The groups of the best plan are searched more finely and the plan is made again, until neither changes. A group that
    cannot be scheduled is refused, and so are equal ones.

    Args:
        graph: The layers.
        arch: The accelerator.
        objective: Of the whole network: ``latency``, ``energy``, or ``edp``, the product of both sums.
        alone: Per layer, how it runs by itself.
        known: Ways to run some intervals that no search of group mappings finds, such as attention.
        why_not: Tries to schedule groups; returns for each the reason if that fails.
        should_stop: Once true, no further group is priced.
        report: Called once for each interval of several layers, ``num_intervals`` times.
    """
    prices = GroupPrices(graph, arch, objective, alone, known, should_stop=should_stop, report=report)
    while True:
        plan = plan_groups(len(graph.layers), prices.options, objective, MAX_GROUP)
        chosen = [planned.option.choice for planned in plan.groups if planned.num_layers > 1]
        groups = [found for found in chosen if isinstance(found, FusedGroup)]
        if any([prices.refine(found) for found in groups]):
            continue
        reasons = why_not(groups)
        for found, reason in zip(groups, reasons, strict=True):
            if reason is not None:
                prices.refuse(found, reason)
        if all(reason is None for reason in reasons):
            return NetworkPlan(
                graph=graph, alone=tuple(alone), groups=tuple(groups), plan=plan, refused=prices.refused,
                num_priced=prices.num_priced, num_unpriced=prices.num_unpriced,
                num_unrefined=sum(not prices.is_refined(found) for found in groups) if should_stop() else 0,
            )  # fmt: skip


def num_intervals(num_layers: int) -> int:
    """Intervals of two to ``MAX_GROUP`` layers."""
    return sum(max(0, num_layers - size + 1) for size in range(2, MAX_GROUP + 1))


def _kind(result: GroupSearchResult) -> str:
    """What refused most of the mappings tried, or why none was."""
    counts = [(-count, reason) for reason, count in result.refused]
    return min(counts)[1] if counts else result.nearest


def _names(group: Group) -> tuple[str, ...]:
    return tuple(group.graph.layers[index].name for index in group.layers)
