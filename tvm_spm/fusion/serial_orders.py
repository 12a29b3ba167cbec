"""Orders in which groups and layers can run one after the other: sets of finished layers, and the steps between.

A cut of a network into groups can run if some order has every group behind those that it reads. Of such orders only one
is looked at for each cut: the next group is the one with the earliest layer among those that can start. So a layer is
left for later only where it may be in a group that cannot start yet, and a chain has one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_SETS = 2_000
"""Sets of finished layers that are looked at."""

FIRST_REACH = 24
"""A group may start with one of so many layers that have not run, counted from the first."""


@dataclass(frozen=True, slots=True)
class SerialOrders:
    """Sets of finished layers and the steps between them.

    Attributes:
        steps: Per pair of sets, by their numbers, the layers that lead from one to the other; rising. Sets rise by
            size: the empty one is 0, all layers are the last.
        num_sets: Of them.
        reach: See ``FIRST_REACH``; what it was in the end. 0: groups are intervals of the one order of layers.
    """

    steps: dict[tuple[int, int], tuple[int, ...]]
    num_sets: int
    reach: int


def serial_orders(groups: Sequence[tuple[int, ...]], before: Sequence[frozenset[int]]) -> SerialOrders:
    """All orders, with a reach that is halved until there are no more than ``MOST_SETS`` sets.

    Args:
        groups: Of several layers each; every layer is a group of its own beside.
        before: Per layer, those that it needs, directly.
    """
    reach = min(FIRST_REACH, len(before))
    while True:
        units: list[tuple[int, ...]] = [(layer,) for layer in range(len(before))]
        units += [group for group in groups if reach or group[-1] - group[0] + 1 == len(group)]
        found = _search(units, before, reach)
        if found is not None:
            return found
        reach //= 2


def _search(units: Sequence[tuple[int, ...]], before: Sequence[frozenset[int]], reach: int) -> SerialOrders | None:
    """The sets within one reach; None if they are too many."""
    whole = (1 << len(before)) - 1
    masks = [sum(1 << layer for layer in layers) for layers in units]
    needs = [
        sum({1 << other for layer in layers for other in before[layer]}) & ~mask
        for layers, mask in zip(units, masks, strict=True)
    ]  # fmt: skip
    starting: list[list[int]] = [[] for _ in before]
    holding: list[list[int]] = [[] for _ in before]
    for unit, layers in enumerate(units):
        starting[layers[0]].append(unit)
        for layer in layers:
            holding[layer].append(unit)
    reached, order = {0}, [0]
    steps: dict[tuple[int, int], int] = {}
    for done in order:
        left = ~done & whole
        for _ in range(max(1, reach)):
            if not left:
                break
            layer = (left & -left).bit_length() - 1
            left &= left - 1
            for unit in starting[layer]:
                if masks[unit] & done or needs[unit] & ~done:
                    continue
                after = done | masks[unit]
                steps[done, after] = unit
                if after not in reached:
                    reached.add(after)
                    order.append(after)
            if not any(needs[unit] & ~done and not masks[unit] & done for unit in holding[layer]):
                break
        if len(order) > MOST_SETS and reach:
            return None
    number = {done: place for place, done in enumerate(sorted(order, key=lambda done: (done.bit_count(), done)))}
    found = sorted((number[done], number[after], unit) for (done, after), unit in steps.items())
    return SerialOrders({(first, stop): units[unit] for first, stop, unit in found}, len(order), reach)
