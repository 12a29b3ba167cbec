"""An odometer counted instead of walked: its slots of equal kind, each with a representative and a weight.

What happens in one iteration of a loop nest depends on the iteration before and after it, that is on which loop ticks
between them: every loop inside that one jumps from its last index to 0, every loop outside it stands still. So there
are only as many kinds of neighbours as loops, times the distinct kinds of index of the loops that stand still.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

Index = tuple[int, ...]
"""One iteration: an index per loop, outer to inner."""


@dataclass(frozen=True, slots=True)
class Slot:
    """``weight`` iterations that look like ``at`` between ``before`` and ``after``; ``None`` beyond either end."""

    weight: int
    before: Index | None
    at: Index
    after: Index | None


def index_runs(count: int, cuts: Iterable[int]) -> tuple[range, ...]:
    """Cut ``0 .. count - 1`` in front of every index in ``cuts`` (those outside cut nothing)."""
    edges = sorted({0, count} | {cut for cut in cuts if 0 < cut < count})
    return tuple(range(low, high) for low, high in pairwise(edges))


def representative_slots(runs: Sequence[tuple[range, ...]]) -> Iterator[Slot]:
    """All kinds of iteration of a nest; the weights add up to the number of iterations.

    Args:
        runs: Per loop, outer to inner, its indices in runs of equal kind (see ``index_runs``). A loop needs a cut only
            where its index matters while a loop inside it ticks.
    """
    last = tuple(loop[-1][-1] for loop in runs)
    ticking = [position for position, index in enumerate(last) if index > 0]
    first = (0,) * len(runs)
    if not ticking:
        yield Slot(1, None, first, None)
        return
    inner = ticking[-1]
    for position in ticking[:-1]:
        for outer, outer_weight in _standing(runs[:position]):
            for index, pairs in _pairs(runs[position]):
                ending = (*outer, index, *last[position + 1 :])
                starting = (*outer, index + 1, *first[position + 1 :])
                weight = outer_weight * pairs
                yield Slot(weight, _moved(ending, inner, -1), ending, starting)
                yield Slot(weight, ending, starting, _moved(starting, inner, 1))
    zero_apart = index_runs(last[inner] + 1, [1, *(run.start for run in runs[inner])])
    for outer, outer_weight in _standing(runs[:inner]):
        for index, pairs in _pairs(zero_apart):
            if index > 0:
                at = (*outer, index, *first[inner + 1 :])
                yield Slot(outer_weight * pairs, _moved(at, inner, -1), at, _moved(at, inner, 1))
    yield Slot(1, None, first, _moved(first, inner, 1))
    yield Slot(1, _moved(last, inner, -1), last, None)


def _standing(runs: Sequence[tuple[range, ...]]) -> Iterator[tuple[Index, int]]:
    """One index vector of each kind, and how many there are."""
    for combination in product(*runs):
        yield tuple(run[0] for run in combination), math.prod(len(run) for run in combination)


def _pairs(runs: tuple[range, ...]) -> Iterator[tuple[int, int]]:
    """Kinds of two consecutive indices: the first of both, and how many such pairs."""
    for run in runs:
        if len(run) > 1:
            yield run[0], len(run) - 1
    for run in runs[:-1]:
        yield run[-1], 1


def _moved(index: Index, position: int, step: int) -> Index:
    return (*index[:position], index[position] + step, *index[position + 1 :])
