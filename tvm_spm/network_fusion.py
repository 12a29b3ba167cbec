"""Which layers of a network run as one: prices of all groups, the best plan, and its refinement until it is stable."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from cost_model.fused import GroupCost, group_key
from tvm_spm.arch import Arch
from tvm_spm.cost import Cost
from tvm_spm.fusion import FusionPlan, GroupOption, plan_groups
from tvm_spm.group import Group, GroupMapping, refuse_group
from tvm_spm.group_search import group_search, refine_group
from tvm_spm.layer_graph import LayerGraph
from tvm_spm.report.plan_picture import DrawnGroup

MAX_GROUP = 10
"""Most layers in a group; longer ones hardly ever fit a scratchpad."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """A layer that runs by itself: its task, and what that costs on how many cores.

    Without a cost it stays on the host, and in no group.
    """

    task: int
    cost: Cost | None
    num_cores: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedGroup:
    """Several layers, and how they run as one."""

    group: Group
    mapping: GroupMapping
    cost: GroupCost

    def __str__(self) -> str:
        return f"{' > '.join(_names(self.group))} on {self.mapping.num_cores} cores, {self.cost.spm_bytes:,} B of SPM"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """A network cut into groups.

    Attributes:
        graph: The layers.
        alone: Per layer, how it runs by itself.
        groups: Those of several layers, in order.
        plan: What the planner decided, single layers included.
        refused: Groups that the plan does without, and why.
    """

    graph: LayerGraph
    alone: tuple[Alone, ...]
    groups: tuple[FusedGroup, ...]
    plan: FusionPlan
    refused: tuple[tuple[tuple[str, ...], str], ...]

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
    """What every interval of layers may cost as one group; equal groups are priced once."""

    def __init__(
        self,
        graph: LayerGraph,
        arch: Arch,
        objective: str,
        alone: Sequence[Alone],
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
        self._found: dict[Hashable, list[FusedGroup]] = {}
        self._refused: dict[Hashable, tuple[tuple[str, ...], str]] = {}
        self._refined: set[Hashable] = set()
        self._asked: set[tuple[int, int]] = set()

    @property
    def refused(self) -> tuple[tuple[tuple[str, ...], str], ...]:
        """Names of the layers and the reason, of groups that were asked for in vain."""
        return tuple(self._refused.values())

    def options(self, first: int, stop: int) -> list[GroupOption]:
        """For ``plan_groups``: the ways to run an interval, none if it cannot be one group."""
        if stop - first == 1:
            cost = self._alone[first].cost
            # A layer without a mapping stays on the host and costs the accelerator nothing.
            return [GroupOption(cycles=cost.cycles if cost else 0, energy_pj=cost.energy_pj if cost else 0.0)]
        if any(self._alone[index].cost is None for index in range(first, stop)):
            return []
        if (first, stop) not in self._asked:
            self._asked.add((first, stop))
            self._report()
        group = Group(graph=self._graph, first=first, stop=stop)
        return [
            GroupOption(cycles=found.cost.cost.cycles, energy_pj=found.cost.cost.energy_pj, choice=found)
            for found in self._ways(group)
        ]

    def refuse(self, group: Group, reason: str) -> None:
        """Do without a group and all equal ones."""
        key = group_key(group)
        self._found[key] = []
        self._refused[key] = (_names(group), reason)

    def refine(self, found: FusedGroup) -> bool:
        """Search around a way that a plan chose; whether that gave a better one."""
        key = group_key(found.group)
        if key in self._refined or self._should_stop():
            return False
        self._refined.add(key)
        better = False
        for way in list(self._found[key]):
            mapping, cost = refine_group(way.group, self._arch, way.mapping, objective=self._objective)
            if cost.cost.objective(self._objective) < way.cost.cost.objective(self._objective):
                self._found[key].append(FusedGroup(group=way.group, mapping=mapping, cost=cost))
                better = True
        return better

    def _ways(self, group: Group) -> list[FusedGroup]:
        if refuse_group(group.graph, group.first, group.stop) is not None or self._should_stop():
            return []
        key = group_key(group)
        if key not in self._found:
            result = group_search(group, self._arch, objective=self._objective)
            self._found[key] = [FusedGroup(group=group, mapping=mapping, cost=cost) for mapping, cost in result.options]
            if result.refusal is not None:
                self._refused[key] = (_names(group), result.refusal)
        return [FusedGroup(group=group, mapping=way.mapping, cost=way.cost) for way in self._found[key]]


def plan_network(
    graph: LayerGraph,
    arch: Arch,
    objective: str,
    alone: Sequence[Alone],
    *,
    why_not: Callable[[Sequence[FusedGroup]], Sequence[str | None]],
    should_stop: Callable[[], bool],
    report: Callable[[], None],
    max_group: int = MAX_GROUP,
) -> NetworkPlan:
    """The best plan whose groups all can be scheduled.

    The groups of the best plan are searched more finely and the plan is made again, until neither changes. A group that
    cannot be scheduled is refused, and so are equal ones.

    Args:
        graph: The layers.
        arch: The accelerator.
        objective: Of the whole network: ``latency``, ``energy``, or ``edp``, the product of both sums.
        alone: Per layer, how it runs by itself.
        why_not: Tries to schedule groups; returns for each the reason if that fails.
        should_stop: Once true, no further group is priced.
        report: Called once for each interval of several layers, ``num_intervals`` times.
        max_group: Most layers in a group.
    """
    prices = GroupPrices(graph, arch, objective, alone, should_stop=should_stop, report=report)
    while True:
        plan = plan_groups(len(graph.layers), prices.options, objective, max_group)
        chosen = [planned.option.choice for planned in plan.groups if planned.num_layers > 1]
        groups = [found for found in chosen if isinstance(found, FusedGroup)]
        if any([prices.refine(found) for found in groups]):
            continue
        reasons = why_not(groups)
        for found, reason in zip(groups, reasons, strict=True):
            if reason is not None:
                prices.refuse(found.group, reason)
        if not any(reasons):
            return NetworkPlan(graph=graph, alone=tuple(alone), groups=tuple(groups), plan=plan, refused=prices.refused)


def num_intervals(num_layers: int, max_group: int = MAX_GROUP) -> int:
    """Intervals of two to ``max_group`` layers."""
    return sum(max(0, num_layers - size + 1) for size in range(2, max_group + 1))


def _names(group: Group) -> tuple[str, ...]:
    return tuple(group.graph.layers[index].name for index in group.layers)
