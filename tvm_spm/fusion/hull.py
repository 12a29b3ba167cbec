"""Plans that are best at some prices of cycles and energy, and the plan of least energy times delay among them.

All plans are points (cycles, energy); those that are best at some prices are the corners of the lower left of the
convex hull of all points.

The plan of least energy x delay is such a corner, so no plan inside the hull has to be looked at: with ``v > 0`` the
least product, every point lies in the strictly convex region ``cycles * energy >= v``. The best point ``p`` lies on its
border, and the tangent there leaves the whole region on one side and touches it in ``p`` alone. Hence ``p`` is the one
best plan when a cycle costs ``p.energy`` and a unit of energy ``p.cycles``. (``v = 0``: ``p`` has the least cycles or
the least energy of all.)
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from fractions import Fraction

from tvm_spm.fusion.sweep import Prices, Sweep, drop_useless, sweep
from tvm_spm.fusion.table import Point, Rows


def keep_cornered(rows: Rows) -> Rows:
    """Only options that are best at some prices; no other is part of a plan that is."""
    return [[(stop, _keep_corners(points)) for stop, points in row] for row in rows]


def least_latency(rows: Rows) -> Prices:
    """One cycle outweighs all energy."""
    return Prices(sum(max((points[0][1] for _, points in row), default=0) for row in rows) + 1, 1)


def least_energy(rows: Rows) -> Prices:
    """One unit of energy outweighs all cycles."""
    return Prices(1, sum(max((points[-1][0] for _, points in row), default=0) for row in rows) + 1)


def least_edp(rows: Rows) -> tuple[Prices, int]:
    """Prices at which only the plan of least cycles x energy is best; of equal products, that of least cycles.

    Between two corners, all others lie in the triangle that the corners form with the crossing of the lines on which
    they are best. No product inside is less than the least of its three corners, so a triangle above the best plan
    known is never opened; the others are cut at the plan that is best where both corners cost the same.

    Returns:
        The prices, and the number of sweeps.
    """
    fast, lean = sweep(rows, least_latency(rows)), sweep(rows, least_energy(rows))
    assert fast is not None
    assert lean is not None
    best = min((fast, lean), key=_rank)
    num_sweeps, serial = 2, itertools.count()
    triangles = [(_least_product(fast, lean), next(serial), fast, lean, rows)]
    while triangles:
        floor, _, left, right, rows = heapq.heappop(triangles)
        if floor > _rank(best)[0]:
            break
        middle, rows = _split(left, right, rows)
        num_sweeps += 1
        if middle is None:
            continue
        best = min(best, middle, key=_rank)
        for part in ((left, middle), (middle, right)):
            heapq.heappush(triangles, (_least_product(*part), next(serial), *part, rows))
    ends = [found.prices for found in (fast, lean) if found.total == best.total]
    return (ends[0] if ends else Prices(best.total[1], best.total[0])), num_sweeps


def _keep_corners(points: Sequence[Point]) -> list[Point]:
    """The lower left of the convex hull of unbeaten points by rising cycles, with those inside its edges."""
    kept: list[Point] = []
    for point in points:
        while len(kept) > 1 and _height(kept[-2], kept[-1], point) > 0:
            kept.pop()
        kept.append(point)
    return kept


def _height(left: Point, middle: Point, right: Point) -> int:
    """Above 0 where ``middle`` lies above the line through the other two."""
    return (middle[1] - left[1]) * (right[0] - left[0]) - (right[1] - left[1]) * (middle[0] - left[0])


def _split(left: Sweep, right: Sweep, rows: Rows) -> tuple[Sweep | None, Rows]:
    """A plan below the line through two, best where they cost the same, and the options that matter between them."""
    prices = Prices(left.total[1] - right.total[1], right.total[0] - left.total[0])
    if right.prices.cost(left.total) == right.cost or left.prices.cost(right.total) == left.cost:
        return None, rows
    rows = drop_useless(rows, left, right)
    middle = sweep(rows, prices)
    return (middle if middle is not None and middle.cost < prices.cost(left.total) else None), rows


def _rank(found: Sweep) -> tuple[int, int]:
    return found.total[0] * found.total[1], found.total[0]


def _least_product(left: Sweep, right: Sweep) -> Fraction:
    """No plan best at prices between those of two sweeps has less cycles x energy."""
    least = Fraction(min(_rank(left)[0], _rank(right)[0]))
    (left_cycle, left_energy), (right_cycle, right_energy) = left.prices, right.prices
    slope = left_cycle * right_energy - right_cycle * left_energy
    if slope == 0:
        return least
    # Where the line of plans as good as ``left`` at its prices crosses that of ``right``.
    cycles = Fraction(left.cost * right_energy - right.cost * left_energy, slope)
    energy = Fraction(left_cycle * right.cost - right_cycle * left.cost, slope)
    return min(least, cycles * energy)
