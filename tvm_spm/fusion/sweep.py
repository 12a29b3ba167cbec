"""The best plan when a cycle and a unit of energy have prices: interval dynamic programming on whole numbers."""

from __future__ import annotations

from typing import NamedTuple

from tvm_spm.fusion.table import Picks, Point, Rows

Total = tuple[int, int]
"""Cycles and energy of a whole plan."""


class Prices(NamedTuple):
    """What a cycle and a unit of energy cost; both above 0."""

    cycle: int
    energy: int

    def cost(self, total: Total) -> int:
        """Of a whole plan."""
        return self.cycle * total[0] + self.energy * total[1]


class Sweep(NamedTuple):
    """A best plan at ``prices``, and the least cost of every part of the network (None: cannot be planned)."""

    prices: Prices
    total: Total
    cost: int
    before: list[int | None]
    """Of layers ``0 .. i - 1``."""
    behind: list[int | None]
    """Of layers ``i .. num_layers - 1``."""


def sweep(rows: Rows, prices: Prices) -> Sweep | None:
    """Solve ``rows`` from both ends; None if they hold no plan."""
    behind, stops = _cost_behind(rows, prices, tie=0)
    cost = behind[0]
    if cost is None:
        return None
    picks = _follow(rows, prices, stops)
    total = sum(point[0] for _, _, point in picks), sum(point[1] for _, _, point in picks)
    return Sweep(prices=prices, total=total, cost=cost, before=_cost_before(rows, prices), behind=behind)


def pick_groups(rows: Rows, prices: Prices) -> Picks:
    """Of the best plans that with fewest groups, of those the one whose first group ends earliest, and so on.

    A group runs in the first listed of its best ways.
    """
    # A group costs 1 where two plans of different cost are at least the number of layers, plus 1, apart.
    scale = len(rows) + 1
    scaled = Prices(prices.cycle * scale, prices.energy * scale)
    _, stops = _cost_behind(rows, scaled, tie=1)
    return [(first, stop, point[2]) for first, stop, point in _follow(rows, scaled, stops)]


def drop_useless(rows: Rows, left: Sweep, right: Sweep) -> Rows:
    """Only options of plans that beat both sweeps at some prices between theirs.

    Prices between are a mix ``(1 - t) * left + t * right``. The least cost of a plan with some option is concave in
    ``t``, hence at least the mix of what such a plan costs at either end; at most ``min(t * over_right, (1 - t) *
    over_left)`` above the mix of the two best costs lies what the two known plans cost. Both are largest apart where
    the known plans cost the same.
    """
    over_right = right.prices.cost(left.total) - right.cost
    over_left = left.prices.cost(right.total) - left.cost
    most = over_right * over_left
    # Cost of an option, over_right * (what it adds at the left) + over_left * (... right), is again a price.
    cycle = over_right * left.prices.cycle + over_left * right.prices.cycle
    energy = over_right * left.prices.energy + over_left * right.prices.energy
    base = over_right * left.cost + over_left * right.cost + most
    before, behind = ([
        None if at_left is None or at_right is None else over_right * at_left + over_left * at_right
        for at_left, at_right in zip(lefts, rights, strict=True)
    ] for lefts, rights in ((left.before, right.before), (left.behind, right.behind)))  # fmt: skip
    kept: Rows = []
    for row, ahead in zip(rows, before, strict=False):
        kept.append([])
        if ahead is None:
            continue
        for stop, points in row:
            if (rest := behind[stop]) is None:
                continue
            limit = base - ahead - rest
            if useful := [point for point in points if cycle * point[0] + energy * point[1] <= limit]:
                kept[-1].append((stop, useful))
    return kept


def _cost_behind(rows: Rows, prices: Prices, *, tie: int) -> tuple[list[int | None], list[int]]:
    """Least cost from every layer to the last, a group costing ``tie`` more; and the earliest stop that attains it."""
    cycle, energy = prices
    costs: list[int | None] = [None] * len(rows) + [0]
    stops = [0] * len(rows)
    for first in range(len(rows) - 1, -1, -1):
        best = None
        for stop, points in rows[first]:
            if (rest := costs[stop]) is None:
                continue
            cost = rest + tie + min([cycle * point[0] + energy * point[1] for point in points])
            if best is None or cost < best:
                best, stops[first] = cost, stop
        costs[first] = best
    return costs, stops


def _cost_before(rows: Rows, prices: Prices) -> list[int | None]:
    cycle, energy = prices
    costs: list[int | None] = [0] + [None] * len(rows)
    for first, row in enumerate(rows):
        if (rest := costs[first]) is None:
            continue
        for stop, points in row:
            cost = rest + min([cycle * point[0] + energy * point[1] for point in points])
            best = costs[stop]
            if best is None or cost < best:
                costs[stop] = cost
    return costs


def _follow(rows: Rows, prices: Prices, stops: list[int]) -> list[tuple[int, int, Point]]:
    """First layer, stop and first listed best point of every group."""
    found, first = [], 0
    while first < len(rows):
        points = dict(rows[first])[stops[first]]
        point = min(points, key=lambda point: (prices.cost(point[:2]), point[2]))
        found.append((first, stops[first], point))
        first = stops[first]
    return found
