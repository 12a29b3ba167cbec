"""Ways to choose groups and cores, from no optimisation to the optimum; all see the same prices."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from tvm_spm.errors import PlanError
from tvm_spm.fusion.planner import GroupOption, plan_groups
from tvm_spm.graph import LayerGraph
from tvm_spm.reproduce.dlfusion.prices import AskedPrices, GroupPrice, PriceTable, refuse_block

POWERS_OF_TWO = (1, 2, 4, 8, 16, 32)
"""Numbers of cores that the heuristic and the reduced brute force look at."""

MAX_GROUP = 8
"""Most layers in a group of ``exact`` and of ``fuse_with_one_count``; the others may have longer ones."""

MAX_CUTS = 18
"""The reduced brute force enumerates at most ``2 ** MAX_CUTS`` sets of cuts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedGroup:
    """A group and how it runs."""

    first: int
    stop: int
    price: GroupPrice


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a strategy chose, and what that took.

    Attributes:
        strategy: One of ``STRATEGIES``.
        blocks: Cover the network, in order.
        note: What the strategy settled by itself.
        cost_s: Seconds to compute every price it looked at, had it been alone.
        decide_s: All its other seconds.
        num_prices: AskedPrices it looked at.
    """

    strategy: str
    blocks: tuple[PricedGroup, ...]
    note: str
    cost_s: float
    decide_s: float
    num_prices: int

    @property
    def cycles(self) -> int:
        """Groups run one after another."""
        return sum(block.price.cycles for block in self.blocks)

    @property
    def energy_pj(self) -> float:
        """Of all groups."""
        return sum(block.price.energy_pj for block in self.blocks)


Chosen = tuple[list[PricedGroup], str]

Strategy = Callable[[AskedPrices], Chosen]

CountsOf = Callable[[int, int], tuple[int, ...]]


def no_optimisation(prices: AskedPrices) -> Chosen:
    """Layer by layer on one core."""
    return _layer_by_layer(prices, lambda layer: prices.on(layer, layer + 1, 1)), ""


def fixed_cores(prices: AskedPrices) -> Chosen:
    """Layer by layer on all cores, or on as many as the layer can be split over."""
    every = max(prices.core_counts)
    return _layer_by_layer(prices, lambda layer: prices.on(layer, layer + 1, every)), f"{every} cores"


def best_cores(prices: AskedPrices) -> Chosen:
    """Layer by layer, each on the number of cores on which it is fastest."""
    return _layer_by_layer(prices, lambda layer: prices.best(layer, layer + 1)), ""


def fuse_everything(prices: AskedPrices) -> Chosen:
    """Groups on all cores, each grown from the front until the next layer no longer fits."""
    blocks = grown_groups(prices, 0, prices.num_layers, max(prices.core_counts))
    whole = "one group" if len(blocks) == 1 else f"does not fit as one: cut into {len(blocks)} groups"
    return blocks, whole


def fuse_with_one_count(prices: AskedPrices) -> Chosen:
    """The optimal groups if all run on one number of cores, the best for the whole network.

    A number of cores whose bounds alone add up to no less than the best plan known is not looked at.
    """
    every = [count for count in POWERS_OF_TWO if count in prices.core_counts]
    floors = sorted((_least_of_all(prices, _only(prices, count)), count) for count in every)
    plans: dict[int, list[PricedGroup]] = {}
    for floor, count in floors:
        if not plans or floor < min(_cycles(blocks) for blocks in plans.values()):
            plans[count] = optimal_groups(prices, _only(prices, count))[0]
    best = min(plans, key=lambda count: (_cycles(plans[count]), count))
    return plans[best], f"{best} cores"


def reduced_brute_force(prices: AskedPrices) -> Chosen:
    """Every set of cuts at the places of ``reduced_cuts``, each block on the best power of two of cores.

    Block costs add up, so cores are tried block by block, and a block whose bound is not below what its parts take need
    not be priced. Layers between two neighbouring places that do not fit as one block are cut as ``fuse_everything``
    does, all on one number of cores, the best.
    """
    counts = tuple(count for count in POWERS_OF_TWO if count in prices.core_counts)
    cuts, num_dropped = reduced_cuts(prices)
    bounds = [0, *cuts, prices.num_layers]
    parts = {ends: _one_block(prices, *ends, counts) for ends in zip(bounds[:-1], bounds[1:], strict=True)}
    cover = {ends: _cycles(blocks) for ends, blocks in parts.items()}
    for length in range(2, len(bounds)):
        for place in range(len(bounds) - length):
            first, stop = ends = bounds[place], bounds[place + length]
            best = min(cover[first, cut] + cover[cut, stop] for cut in bounds[place + 1 : place + length])
            found = _priced_below(prices, first, stop, counts, best)[0]
            if found:
                price = min(found, key=lambda price: (price.cycles, price.num_cores))
                parts[ends] = [PricedGroup(first=first, stop=stop, price=price)]
                best = min(best, price.cycles)
            cover[ends] = int(best)
    cycles = {ends: _cycles(blocks) for ends, blocks in parts.items()}
    best_cycles: int | None = None
    best_ends: tuple[int, ...] = ()
    waiting: list[tuple[int, tuple[int, ...]]] = [(0, (0,))]
    while waiting:
        total, chosen = waiting.pop()
        if chosen[-1] == prices.num_layers:
            if best_cycles is None or total < best_cycles:
                best_cycles, best_ends = total, chosen
            continue
        waiting += [
            (total + cycles[chosen[-1], stop], (*chosen, stop)) for stop in bounds if (chosen[-1], stop) in cycles
        ]
    blocks = [block for ends in zip(best_ends[:-1], best_ends[1:], strict=True) for block in parts[ends]]
    left_out = f", {num_dropped} more places left out" if num_dropped else ""
    return blocks, f"{1 << len(cuts):,} sets of cuts at {len(cuts)} places{left_out}"


def reduced_cuts(prices: AskedPrices) -> tuple[tuple[int, ...], int]:
    """Layers before which the reduced brute force may cut, and how many places beyond ``MAX_CUTS`` it leaves out.

    A place counts if no tensor but the output of the layer before is needed across it. Where the resolution changes
    comes first, then where the number of channels does, then all others, those between most weights first.
    """
    graph = prices.graph
    shapes = [graph.tensors[layer.output].shape for layer in graph.layers]
    last_reader = [max(graph.consumers(layer.output), default=0) for layer in graph.layers]
    clean = [at for at in range(1, len(shapes)) if all(reader < at for reader in last_reader[: at - 1])]
    resolution = [at for at in clean if shapes[at][2:] != shapes[at - 1][2:]]
    channels = [at for at in clean if shapes[at][1:2] != shapes[at - 1][1:2] and at not in resolution]
    weights = [_num_weights(graph, index) for index in range(len(shapes))]
    others = sorted(clean, key=lambda at: -weights[at - 1] - weights[at])
    ordered = list(dict.fromkeys(resolution + channels + others))
    return tuple(sorted(ordered[:MAX_CUTS])), max(0, len(ordered) - MAX_CUTS)


def _num_weights(graph: LayerGraph, layer: int) -> int:
    return sum(prod(graph.tensors[read.tensor].shape) for read in graph.layers[layer].reads if read.role == "W")


def exact(prices: AskedPrices) -> Chosen:
    """The optimum over all intervals of at most ``MAX_GROUP`` layers and all numbers of cores, with a proof."""
    blocks, num_groups, num_excluded = optimal_groups(prices, lambda first, stop: prices.core_counts)
    return blocks, f"{num_groups:,} groups x counts, {num_excluded:,} excluded by bounds"


def optimal_groups(
    prices: AskedPrices, counts_of: CountsOf, *, max_group: int = MAX_GROUP
) -> tuple[list[PricedGroup], int, int]:
    """The fastest plan of all intervals, each on one of its numbers of cores.

    Intervals are taken by length. One whose bound on some number of cores is not below the best way to cover the same
    layers by groups known so far is not priced there: wherever a plan uses it, that cover is at least as good.

    Args:
        prices: Of every group.
        counts_of: Numbers of cores to choose from, by first layer and stop.
        max_group: Most layers in a group.

    Returns:
        The groups, how many pairs of an interval and a number of cores there are, and how many a bound excluded.
    """
    num_layers = prices.num_layers
    cover: dict[tuple[int, int], int] = {}
    options: dict[tuple[int, int], list[GroupOption]] = {}
    num_groups = num_excluded = 0
    for length in range(1, num_layers + 1):
        for first in range(num_layers - length + 1):
            stop = first + length
            parts = [
                cover[first, cut] + cover[cut, stop]
                for cut in range(first + 1, stop)
                if (first, cut) in cover and (cut, stop) in cover
            ]
            best = min(parts, default=math.inf)
            found: list[GroupPrice] = []
            if length <= max_group and refuse_block(prices.graph, first, stop) is None:
                counts = counts_of(first, stop)
                found, excluded = _priced_below(prices, first, stop, counts, best)
                num_groups, num_excluded = num_groups + len(counts), num_excluded + excluded
            best = min([best, *(price.cycles for price in found)])
            if best < math.inf:
                cover[first, stop] = int(best)
            options[first, stop] = [
                GroupOption(cycles=price.cycles, energy_pj=price.energy_pj, choice=price) for price in found
            ]
    plan = plan_groups(num_layers, lambda first, stop: options[first, stop], objective="latency")
    blocks = [PricedGroup(first=group.first, stop=group.stop, price=_price_of(group.option)) for group in plan.groups]
    return blocks, num_groups, num_excluded


def grown_groups(prices: AskedPrices, first: int, stop: int, cores: int) -> list[PricedGroup]:
    """Cut an interval from the front into groups that grow until the next layer no longer fits on ``cores``.

    Intervals that are no group whatever the machine (a tensor inside is read outside) are passed over. A layer that
    does not fit on ``cores`` runs on the best number.

    Raises:
        PlanError: Some layer does not fit.
    """
    blocks = []
    while first < stop:
        block = None
        for end in range(first + 1, stop + 1):
            if refuse_block(prices.graph, first, end) is not None:
                continue
            price = prices.on(first, end, cores)
            if price is None:
                break
            block = PricedGroup(first=first, stop=end, price=price)
        if block is None:
            block = PricedGroup(first=first, stop=first + 1, price=_alone(prices, first))
        blocks.append(block)
        first = block.stop
    return blocks


def decide(name: str, strategy: Strategy, table: PriceTable) -> Decision:
    """Run one strategy on a view of the prices that is its own.

    Raises:
        PlanError: Some layer fits on no number of cores.
    """
    prices = AskedPrices(table=table)
    begin = time.perf_counter()
    blocks, note = strategy(prices)
    elapsed = time.perf_counter() - begin
    return Decision(
        strategy=name,
        blocks=tuple(blocks),
        note=note,
        cost_s=prices.cost_s,
        decide_s=elapsed - prices.waited_s,
        num_prices=len(prices.asked),
    )


def _layer_by_layer(prices: AskedPrices, price_of: Callable[[int], GroupPrice | None]) -> list[PricedGroup]:
    return [
        PricedGroup(first=layer, stop=layer + 1, price=price_of(layer) or _alone(prices, layer))
        for layer in range(prices.num_layers)
    ]


def _alone(prices: AskedPrices, layer: int) -> GroupPrice:
    price = prices.best(layer, layer + 1)
    if price is None:
        raise PlanError(f"layer {prices.graph.layers[layer].name}: does not fit")
    return price


def _only(prices: AskedPrices, count: int) -> CountsOf:
    return lambda first, stop: (prices.usable(stop, count),)


def _least_of_all(prices: AskedPrices, counts_of: CountsOf) -> float:
    """No plan takes fewer cycles: the best plan if every group cost its bound."""
    least = [0.0] + [math.inf] * prices.num_layers
    for stop in range(1, prices.num_layers + 1):
        for first in range(max(0, stop - MAX_GROUP), stop):
            if refuse_block(prices.graph, first, stop) is None:
                bound = prices.bounds(first, stop, counts_of(first, stop))[0][0]
                least[stop] = min(least[stop], least[first] + bound)
    return least[prices.num_layers]


def _one_block(prices: AskedPrices, first: int, stop: int, counts: tuple[int, ...]) -> list[PricedGroup]:
    price = prices.best(first, stop, counts)
    if price is not None:
        return [PricedGroup(first=first, stop=stop, price=price)]
    return min((grown_groups(prices, first, stop, count) for count in counts), key=_cycles)


def _priced_below(
    prices: AskedPrices, first: int, stop: int, counts: tuple[int, ...], best: float
) -> tuple[list[GroupPrice], int]:
    """AskedPrices of a group on every number of cores whose bound is below ``best`` and below the prices before it."""
    found: list[GroupPrice] = []
    num_excluded = 0
    if refuse_block(prices.graph, first, stop) is not None:
        return found, num_excluded
    for bound, cores in prices.bounds(first, stop, counts):
        if bound >= best:
            num_excluded += 1
        elif (price := prices.exactly(first, stop, cores)) is not None:
            best = min(best, price.cycles)
            found.append(price)
    return found, num_excluded


def _price_of(option: GroupOption) -> GroupPrice:
    if not isinstance(option.choice, GroupPrice):
        raise PlanError(f"choice {option.choice!r}: not a price")
    return option.choice


def _cycles(blocks: Sequence[PricedGroup]) -> int:
    return sum(block.price.cycles for block in blocks)
