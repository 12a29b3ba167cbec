"""Every order in which units can run, some of them at the same time: sets of finished layers, and the steps between.

A set of layers may have finished if it holds all that its members read. Units that could start behind such a set read
nothing of each other, so any of them may run side by side. A path of steps from the empty set to all layers is one way
to run the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

MOST_SETS = 2_000
"""Sets of finished layers that are looked at."""

FIRST_WINDOW = 24
"""A unit may start while some of so many layers of the order, counted from the first that has not run, have not."""

MOST_TOGETHER = 4
"""Units that run side by side."""


@dataclass(frozen=True, slots=True)
class DownSets:
    """Sets of finished layers and the steps between them.

    Attributes:
        steps: Per pair of sets, by their numbers, each choice of units that leads from one to the other when they run
            at the same time. Sets rise by size: the empty one is 0, all layers are the last.
        num_sets: Of them.
        window: See ``FIRST_WINDOW``; what it was in the end.
    """

    steps: dict[tuple[int, int], list[tuple[int, ...]]]
    num_sets: int
    window: int


def down_sets(
    units: Sequence[tuple[int, ...]], before: Sequence[frozenset[int]], may_share: Callable[[int], bool]
) -> DownSets:
    """The sets, in a window that is halved until there are no more than ``MOST_SETS``.

    Args:
        units: Layers of each; every layer is a unit of its own too, and no two have the same layers.
        before: Per layer, those that it reads, directly.
        may_share: Of a unit, whether others may run at the same time.
    """
    masks = [sum(1 << layer for layer in unit) for unit in units]
    needs = [
        sum({1 << layer for member in unit for layer in before[member]}) & ~mask
        for unit, mask in zip(units, masks, strict=True)
    ]  # fmt: skip
    shares = [may_share(unit) for unit in range(len(units))]
    window = min(FIRST_WINDOW, len(before))
    while True:
        found = _search(units, masks, needs, shares, window)
        if found is not None:
            return found
        window //= 2


def _search(
    units: Sequence[tuple[int, ...]], masks: list[int], needs: list[int], shares: list[bool], window: int
) -> DownSets | None:
    """The sets in one window; None if they are too many. With window 0, layers run in their order."""
    num_layers = 1 + max(layer for unit in units for layer in unit)
    whole = (1 << num_layers) - 1
    starting: dict[int, list[int]] = {}
    for unit, layers in enumerate(units):
        starting.setdefault(min(layers), []).append(unit)
    reached, order, at = {0}, [0], 0
    steps: dict[tuple[int, int], list[tuple[int, ...]]] = {}
    while at < len(order):
        done = order[at]
        at += 1
        if done == whole:
            continue
        first = (~done & (done + 1)).bit_length() - 1
        ready = [
            unit
            for layer in range(first, min(num_layers, first + max(1, window)))
            for unit in starting.get(layer, [])
            if not masks[unit] & done and not needs[unit] & ~done
        ]  # fmt: skip
        together = [unit for unit in ready if shares[unit]] if window else []
        chosen: list[tuple[int, ...]] = [(unit,) for unit in ready]
        for size in range(2, MOST_TOGETHER + 1):
            chosen += [pick for pick in combinations(together, size) if _is_disjoint(masks, pick)]
        for pick in chosen:
            after = done
            for unit in pick:
                after |= masks[unit]
            # of several ways to the same set, e.g. a group or its layers, every one counts
            steps.setdefault((done, after), []).append(pick)
            if after not in reached:
                reached.add(after)
                order.append(after)
                if len(order) > MOST_SETS and window:
                    return None
    number = {done: place for place, done in enumerate(sorted(order, key=lambda done: (done.bit_count(), done)))}
    return DownSets({(number[a], number[b]): picks for (a, b), picks in steps.items()}, len(order), window)


def _is_disjoint(masks: Sequence[int], pick: Sequence[int]) -> bool:
    seen = 0
    for unit in pick:
        if masks[unit] & seen:
            return False
        seen |= masks[unit]
    return True
