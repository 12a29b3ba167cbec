"""What each group of layers costs on each number of cores: asked once, remembered, and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from cost_model.fused import group_key
from tvm_spm.graph import LayerGraph
from tvm_spm.group import Group, GroupMapping, refuse_group


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPrice:
    """The fastest way to run one group on a given number of cores.

    Attributes:
        cycles: From the first load to the last store.
        energy_pj: Of all cores.
        num_cores: In use.
        dram_bytes: Moved in both directions by all cores.
        macs: Executed, those done again in halos included.
        mapping: How; None where it does not matter.
    """

    cycles: int
    energy_pj: float
    num_cores: int
    dram_bytes: int = 0
    macs: int = 0
    mapping: GroupMapping | None = None


PriceGroup = Callable[[Group, int], GroupPrice | None]
"""Prices a group on exactly so many cores; None if it cannot run on them."""

BoundGroup = Callable[[Group, tuple[int, ...]], tuple[float, ...]]
"""Per number of cores, cycles that no mapping of a group on exactly so many stays below."""

CanSplit = Callable[[tuple[int, ...], int], bool]
"""Whether an output of some shape can be split over exactly so many cores."""


def refuse_block(graph: LayerGraph, first: int, stop: int) -> str | None:
    """Why an interval of layers cannot be one group of the paper, out of which one tensor comes; None if it can."""
    group = Group.interval(graph, first, stop)
    refusal = refuse_group(group)
    if refusal is not None:
        return refusal
    leaving = group.leaving
    return f"layer {graph.layers[leaving[0]].name}: its output is also read outside" if len(leaving) > 1 else None


def no_bounds(group: Group, counts: tuple[int, ...]) -> tuple[float, ...]:
    """Knows nothing."""
    return (0.0,) * len(counts)


def any_split(shape: tuple[int, ...], cores: int) -> bool:
    """Everything can be split."""
    return True


@dataclass(slots=True, kw_only=True)
class PriceTable:
    """Prices of one network on one accelerator.

    Attributes:
        graph: The network.
        core_counts: Numbers of cores that may be asked for, rising.
        price_group: Prices what is not known yet.
        bound_group: What a price cannot be below.
        can_split: Whether the output of a group can be split over some number of cores.
        known: Price and seconds by shape of the group and number of cores; shared by networks on one accelerator.
    """

    graph: LayerGraph
    core_counts: tuple[int, ...]
    price_group: PriceGroup
    bound_group: BoundGroup = no_bounds
    can_split: CanSplit = any_split
    known: dict[Hashable, tuple[GroupPrice | None, float]] = field(default_factory=dict)
    _shapes: dict[tuple[int, int], Hashable] = field(default_factory=dict)
    _bounds: dict[Hashable, dict[int, float]] = field(default_factory=dict)

    def lookup(self, first: int, stop: int, cores: int) -> tuple[Hashable, GroupPrice | None]:
        """The key under which a price is known, and the price on exactly ``cores``."""
        key = (self._shape(first, stop), cores)
        if key not in self.known:
            begin = time.perf_counter()
            price = self.price_group(Group.interval(self.graph, first, stop), cores)
            self.known[key] = price, time.perf_counter() - begin
        return key, self.known[key][0]

    def bounds(self, first: int, stop: int) -> dict[int, float]:
        """Per number of cores, cycles that no price is below."""
        shape = self._shape(first, stop)
        if shape not in self._bounds:
            found = self.bound_group(Group.interval(self.graph, first, stop), self.core_counts)
            self._bounds[shape] = dict(zip(self.core_counts, found, strict=True))
        return self._bounds[shape]

    def _shape(self, first: int, stop: int) -> Hashable:
        if (first, stop) not in self._shapes:
            self._shapes[first, stop] = group_key(Group.interval(self.graph, first, stop))
        return self._shapes[first, stop]


@dataclass(slots=True, kw_only=True)
class AskedPrices:
    """What one strategy asks of a table, and how long the answers took when they were first computed."""

    table: PriceTable
    asked: dict[Hashable, float] = field(default_factory=dict)
    waited_s: float = 0.0

    @property
    def num_layers(self) -> int:
        """Layers of the network."""
        return len(self.table.graph.layers)

    @property
    def graph(self) -> LayerGraph:
        """The network."""
        return self.table.graph

    @property
    def core_counts(self) -> tuple[int, ...]:
        """Numbers of cores there are prices for, rising."""
        return self.table.core_counts

    @property
    def cost_s(self) -> float:
        """Seconds of every price asked, as if no other strategy had asked before."""
        return sum(self.asked.values())

    def exactly(self, first: int, stop: int, cores: int) -> GroupPrice | None:
        """The fastest way on exactly ``cores``; None if the layers are no group or do not fit."""
        if refuse_block(self.graph, first, stop) is not None:
            return None
        begin = time.perf_counter()
        key, price = self.table.lookup(first, stop, cores)
        self.waited_s += time.perf_counter() - begin
        self.asked[key] = self.table.known[key][1]
        return price

    def bounds(self, first: int, stop: int, counts: tuple[int, ...]) -> list[tuple[float, int]]:
        """Cycles that ``exactly`` cannot be below, and the number of cores, by rising cycles."""
        found = self.table.bounds(first, stop)
        return sorted((found[count], count) for count in counts)

    def usable(self, stop: int, cores: int) -> int:
        """``cores``, or the largest smaller number over which the output of layer ``stop - 1`` can be split."""
        shape = self.graph.tensors[self.graph.layers[stop - 1].output].shape
        counts = [count for count in self.core_counts if count <= cores and self.table.can_split(shape, count)]
        return max(counts, default=min(self.core_counts))

    def on(self, first: int, stop: int, cores: int) -> GroupPrice | None:
        """On ``cores``, or on the largest smaller number over which the output of the group can be split."""
        return self.exactly(first, stop, self.usable(stop, cores))

    def best(self, first: int, stop: int, counts: tuple[int, ...] | None = None) -> GroupPrice | None:
        """The fastest over numbers of cores; of equal ones that with fewest."""
        found = [self.exactly(first, stop, count) for count in (self.core_counts if counts is None else counts)]
        return min(filter(None, found), key=lambda price: (price.cycles, price.num_cores), default=None)
