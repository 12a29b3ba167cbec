"""Every set of layers that may run as one: convex, and each layer but the last read by another one of the set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tvm_spm.graph import LayerGraph
from tvm_spm.group import Group, refuse_group

MAX_GROUP = 10
"""Most layers in a group; longer ones hardly ever fit a scratchpad."""

MOST_ENDING = 200
"""Groups of several layers with the same last one; if there are more, only those of fewer layers are looked at."""


@dataclass(frozen=True, slots=True)
class ConvexGroups:
    """Groups of several layers.

    Attributes:
        layers: Of each, rising; sorted by size, then by layers.
        shortened: Per last layer whose groups are too many, most layers of those that are listed.
    """

    layers: tuple[tuple[int, ...], ...]
    shortened: dict[int, int]


def convex_groups(graph: LayerGraph, may_join: Callable[[int], bool]) -> ConvexGroups:
    """All groups of two to ``MAX_GROUP`` layers that ``refuse_group`` lets pass.

    Args:
        graph: The network.
        may_join: Whether a layer may be in a group.
    """
    found: list[tuple[int, ...]] = []
    shortened: dict[int, int] = {}
    sets = _Sets(graph, may_join)
    for sink in range(len(graph.layers)):
        most = MAX_GROUP
        while True:
            own = sets.ending_in(sink, most, MOST_ENDING)
            if own is not None:
                break
            most -= 1
            shortened[sink] = most
        found += [layers for layers in own if refuse_group(Group(graph=graph, layers=layers)) is None]
    return ConvexGroups(tuple(sorted(found, key=lambda layers: (len(layers), layers))), shortened)


class _Sets:
    """Convex sets of layers as bits, from their last layer backwards."""

    def __init__(self, graph: LayerGraph, may_join: Callable[[int], bool]) -> None:
        made = [[graph.tensors[read.tensor].producer for read in layer.reads] for layer in graph.layers]
        self._may_join = [may_join(index) for index in range(len(graph.layers))]
        self._read = [_bits(maker for maker in own if maker is not None) for own in made]
        self._before = [_bits(before) for before in graph.before]
        self._above: list[int] = []
        """Per layer all that it needs, directly or not."""
        for before in graph.before:
            self._above.append(_bits(before) | _all(self._above[index] for index in before))

    def ending_in(self, sink: int, most_layers: int, most_sets: int) -> list[tuple[int, ...]] | None:
        """Sets of at least two layers; None if they are too many."""
        if not self._may_join[sink]:
            return []
        found: list[tuple[int, ...]] = []
        pending = [(1 << sink, self._read[sink], self._blocked(sink), 1)]
        while pending:
            inside, open_, blocked, size = pending.pop()
            if not open_ or size == most_layers:
                if size > 1:
                    found.append(_layers(inside))
                if len(found) > most_sets:
                    return None
                continue
            # Layers that are still open come before all that were decided.
            layer = open_.bit_length() - 1
            rest = open_ & ~(1 << layer)
            # Nothing that an outside layer needs which the group needs in turn.
            pending.append((inside, rest, blocked | self._above[layer], size))
            if self._may_join[layer] and not blocked >> layer & 1:
                more = self._blocked(layer)
                pending.append((inside | 1 << layer, rest | self._read[layer], blocked | more, size + 1))
        return found

    def _blocked(self, layer: int) -> int:
        """What comes to a layer by way of calls that are no layers."""
        behind = self._before[layer] & ~self._read[layer]
        return behind | _all(self._above[index] for index in _layers(behind))


def _bits(layers: Iterator[int] | frozenset[int]) -> int:
    return _all(1 << index for index in layers)


def _all(masks: Iterator[int]) -> int:
    found = 0
    for mask in masks:
        found |= mask
    return found


def _layers(mask: int) -> tuple[int, ...]:
    return tuple(index for index in range(mask.bit_length()) if mask >> index & 1)
