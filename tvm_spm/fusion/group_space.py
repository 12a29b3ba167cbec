"""The space of mappings of a group that a proof is about: every way to cut it, as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import prod

import numpy as np

from cost_model.fused.flat import IS_MAC, K_LOOP, FlatGroup, Ints
from tvm_spm.fusion.bounds import Cut
from tvm_spm.fusion.candidates import FEWEST_CHANNELS, Candidate, axes_of
from tvm_spm.group import Group
from tvm_spm.units import ceil_div

_ROUND = 3, 4, 7, 8, 16, 32
"""Sizes that arrays or extents often are multiples of."""


@lru_cache(maxsize=4096)
def even_sizes(extent: int) -> tuple[int, ...]:
    """The least sizes that cut an extent into each number of pieces, falling."""
    return tuple(dict.fromkeys(ceil_div(extent, pieces) for pieces in range(1, extent + 1)))


def largest_up_to(sizes: Sequence[int], most: int) -> int:
    """Of falling sizes the first that is small enough, or the last."""
    return next((size for size in sizes if size <= most), sizes[-1])


def _around(sizes: tuple[int, ...], size: int, *, even: bool) -> list[int]:
    """The next smaller and larger of falling sizes, half, double, and all; and others that are near or round."""
    place = sizes.index(size) if size in sizes else sizes.index(largest_up_to(sizes, size))
    near = [*sizes[max(0, place - 2) : place + 3], sizes[0]]
    near += [largest_up_to(sizes, size // 2), largest_up_to(sizes, 2 * size)]
    if not even:
        near += [size - 2, size - 1, size + 1, size + 2]
        near += [unit * (size // unit + more) for unit in _ROUND for more in (-1, 0, 1)]
    return [each for each in dict.fromkeys(near) if each != size and sizes[-1] <= each <= sizes[0]]


def splits(shape: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """All splits of any axes over exactly ``count`` cores, none of them idle."""
    if not shape:
        return [()] if count == 1 else []
    extent = shape[0]
    return [
        (parts, *rest)
        for parts in range(1, min(count, extent) + 1)
        if count % parts == 0 and ceil_div(extent, ceil_div(extent, parts)) == parts
        for rest in splits(shape[1:], count // parts)
    ]


class GroupSpace:
    """Splits over cores, tiles of a core's share, axes along which overlap stays, and channels at a time.

    Args:
        group: The group.
        flat: Its arrays.
        counts: Numbers of cores.
        most_cuts: Tiles of any size if that makes no more ways to cut the group, else those that cut evenly.
    """

    def __init__(self, group: Group, flat: FlatGroup, counts: Sequence[int], most_cuts: int) -> None:
        self.shape, self.counts = group.sink_shape, tuple(counts)
        axes = axes_of(group, flat)
        self._whole = {axis for axis in axes.channels if axis in axes.shared}
        self.halo = axes.halo
        self.splits = [split for count in counts for split in splits(self.shape, count)]
        self.is_even = False
        self.is_even = sum(prod(map(len, self._axis_cuts(split))) for split in self.splits) > most_cuts
        self.k_options = [
            tuple(size for size in even_sizes(k) if size >= min(k, FEWEST_CHANNELS))
            for k in np.where(flat.layer[:, IS_MAC] == 1, flat.loops[:, K_LOOP], 1).tolist()
        ]

    def __str__(self) -> str:
        sizes = "evenly into any number" if self.is_even else "into any size"
        cut = [str(axis) for axis in range(len(self.shape)) if axis not in self._whole]
        return (
            f"{' '.join(map(str, self.counts))} cores over any axes, none idle; tiles that cut each of the axes "
            f"{' '.join(cut)} of a core's share of the last output {sizes}; overlap kept along any of the "
            f"axes {' '.join(map(str, self.halo)) or '(none)'} that are cut; per layer all output channels at a "
            f"time, or an even part of at least {FEWEST_CHANNELS}; one or two buffers; the array mappings of least "
            f"cycles, of least energy or of least product that the mapper of stages finds for the stages with most of "
            f"the work"
        )

    def tile_sizes(self, axis: int, extent: int) -> tuple[int, ...]:
        """Tiles of a share along an axis."""
        if axis in self._whole:
            return (extent,)
        return even_sizes(extent) if self.is_even else tuple(range(extent, 0, -1))

    def cuts(self) -> list[Cut]:
        """All ways to cut one axis."""
        return list(dict.fromkeys(cut for split in self.splits for axis in self._axis_cuts(split) for cut in axis))

    def _axis_cuts(self, split: tuple[int, ...]) -> list[list[Cut]]:
        found = []
        for axis, (extent, parts) in enumerate(zip(self.shape, split, strict=True)):
            share = ceil_div(extent, parts)
            found.append([
                (axis, parts, size, kept)
                for size in self.tile_sizes(axis, share)
                for kept in ((0, 1) if size < share and axis in self.halo else (0,))
            ])  # fmt: skip
        return found

    def rows(self, split: tuple[int, ...], row_of: dict[Cut, int]) -> Ints:
        """``(rows, axes)``: every combination of ways to cut the axes."""
        numbers = [[row_of[cut] for cut in axis] for axis in self._axis_cuts(split)]
        return np.stack([grid.ravel() for grid in np.meshgrid(*numbers, indexing="ij")], axis=1)

    def neighbours(
        self, candidate: Candidate, is_double: bool, *, even: bool = True
    ) -> Iterator[tuple[Candidate, bool]]:
        """Mappings that differ in one decision, or in the split over cores with a tile of much the same size.

        Args:
            candidate: A mapping but for the array.
            is_double: Whether it has two buffers.
            even: Whether they stay in the space; else sizes that do not divide evenly are among them.
        """
        yield candidate, not is_double
        shares = self._shares(candidate.cores)
        for axis, share in enumerate(shares):
            if axis in self.halo and candidate.tile[axis] < share:
                yield candidate._replace(kept=tuple(sorted(set(candidate.kept) ^ {axis}))), is_double
            sizes = self.tile_sizes(axis, share)
            for size in _around(sizes, candidate.tile[axis], even=even or len(sizes) == 1):
                tile = _with(candidate.tile, axis, size)
                for more in ((), (axis,)) if axis in self.halo and axis not in candidate.kept else ((),):
                    kept = sorted((*candidate.kept, *more))
                    cut = tuple(place for place in kept if tile[place] < shares[place])
                    yield candidate._replace(tile=tile, kept=cut), is_double
        for layer, options in enumerate(self.k_options):
            for size in _around(options, candidate.k_tile[layer], even=even or len(options) == 1):
                yield candidate._replace(k_tile=_with(candidate.k_tile, layer, size)), is_double
        for split in self.splits:
            if split != candidate.cores:
                others = self._shares(split)
                tile = tuple(
                    largest_up_to(self.tile_sizes(axis, share), old)
                    for axis, (old, share) in enumerate(zip(candidate.tile, others, strict=True))
                )
                stay = tuple(axis for axis in candidate.kept if tile[axis] < others[axis])
                yield Candidate(split, tile, stay, candidate.k_tile), is_double

    def _shares(self, split: tuple[int, ...]) -> list[int]:
        return [ceil_div(extent, parts) for extent, parts in zip(self.shape, split, strict=True)]


def _with(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])
