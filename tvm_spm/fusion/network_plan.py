"""Nouns of planning a network: layers alone, fused groups, and the plan of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from cost_model.fused import GroupCost
from tvm_spm.attention import AttentionMapping
from tvm_spm.cost import Cost
from tvm_spm.fusion.convex_groups import MAX_GROUP
from tvm_spm.fusion.plan import FusionPlan, GroupOption
from tvm_spm.graph import LayerGraph
from tvm_spm.group import Group, GroupMapping
from tvm_spm.objective import Objective
from tvm_spm.report.plan_picture import DrawnGroup

ENOUGH = 5e-4
"""Less gain over the best plan of measured groups than this, as a share, is no reason to measure others."""


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
        cost: By the simulator, or measured.
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
            kind = "online softmax" if self.mapping.key_tile < self._num_keys else "softmax of whole rows"
            return f"{kind} beside the products" if self.mapping.beside else kind
        kept = ["NCHW"[axis] if len(self.mapping.tile) == 4 else str(axis) for axis in self.mapping.kept]
        return f"kept along {' '.join(kept)}" if kept else "recomputed"

    @property
    def _num_keys(self) -> int:
        """Columns of the scores, which the first layer of an attention writes."""
        return self.group.graph.tensors[self.group.graph.layers[self.group.layers[0]].output].shape[-1]

    def __str__(self) -> str:
        return f"{' > '.join(layer_names(self.group))} on {self.mapping.num_cores} cores, {self.spm_bytes:,} B of SPM"


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
        units: Layers of every group of ``plan``, in order.
        refused: Groups that cannot run or be scheduled, with reasons.
        num_priced: Different groups that were looked at.
        num_unpriced: Different groups that were not, as there was no time.
        num_unrefined: Groups that may still be better and were not searched further, as there was no time.
        num_measured: Mappings of groups that were measured with success; None where all prices are the simulator's.
        failed_measurements: Layers of groups whose measurement failed, each with the reason.
        lower_bound: No plan of the space has less of the objective: convex sets of layers as groups, in any order in
            which they can run, layers alone as they are given, groups in the mappings of ``fusion.group_space`` or as
            known beforehand; without what ``shortened`` says.
        shortened: What of that space was left out, and why; empty if nothing.
        limits: What ended the search before the plan was proved, or before all groups were measured of which some gain
            is expected; empty if nothing.
        candidates: Groups that gain by themselves, each with the ways that are worth most, see ``side_groups``.
    """

    graph: LayerGraph
    alone: tuple[Alone, ...]
    groups: tuple[FusedGroup, ...]
    plan: FusionPlan
    units: tuple[tuple[int, ...], ...]
    refused: tuple[RefusedGroup, ...]
    num_priced: int = 0
    num_unpriced: int = 0
    num_unrefined: int = 0
    num_measured: int | None = None
    failed_measurements: tuple[tuple[tuple[str, ...], str], ...] = ()
    lower_bound: float = 0.0
    shortened: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    candidates: tuple[tuple[FusedGroup, ...], ...] = ()

    @property
    def value(self) -> float:
        """Objective of the plan."""
        return Objective.of(self.plan.objective).value_of(float(self.plan.cycles), self.plan.energy_pj)

    @property
    def gap(self) -> float:
        """How much less than this plan any other of the space has at most, as a share; 0 if it is proved."""
        return 0.0 if self.value <= self.lower_bound else 1 - self.lower_bound / self.value

    @property
    def optimality(self) -> str:
        """In a few words."""
        if self.num_measured is not None:
            mappings = f"{self.num_measured:,} measured mapping{'' if self.num_measured == 1 else 's'} of groups"
            rest = "; ".join(self.limits) or f"of others no gain above {100 * ENOUGH:g} % is expected"
            return f"the best of layers alone and {mappings}; {rest}; its space is {self.space}"
        if self.gap == 0:
            return f"proved to be the best of its space, {self.space}"
        near = f"within {100 * self.gap:.3g} % of the best of" if self.lower_bound > 0 else "no bound is known of"
        return f"{near} its space, {self.space} ({'; '.join(self.limits)})"

    @property
    def space(self) -> str:
        """What ``optimality`` is about, in a few words; ``lower_bound`` has all of it."""
        words = f"convex groups of up to {MAX_GROUP} layers in any order"
        return f"{words} ({'; '.join(self.shortened)})" if self.shortened else words

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
        cores = {found.group.layers: found.mapping.num_cores for found in self.groups}
        return [
            DrawnGroup(layers=layers, num_cores=cores.get(layers, self.alone[layers[0]].num_cores))
            for layers in self.units
        ]


def layer_names(group: Group) -> tuple[str, ...]:
    """Of the layers of a group."""
    return tuple(group.graph.layers[index].name for index in group.layers)
