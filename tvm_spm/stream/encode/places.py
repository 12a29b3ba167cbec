"""Tiles of tensors: where they lie in DRAM and in a buffer, and what of one moves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tvm_spm.stream.errors import StreamError
from tvm_spm.stream.instructions import MOST_AXES
from tvm_spm.tile import clip
from tvm_spm.workload import DIM_NAMES, Axis, Dims, Projection

MOST_TERMS = 3
"""Dims that may index one axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedAxis:
    """One axis of a placed tensor.

    Attributes:
        extent: Of the tensor.
        offset: Minus the padding in front.
        terms: Index of a dim and its coefficient, of every dim with more than one element in a full tile.
        others: The same of all other dims.
        dram_stride: Bytes from one element to the next.
        tile_stride: Likewise in the buffer.
        is_kept: Whether a full tile has more than one element along it.
    """

    extent: int
    offset: int
    terms: tuple[tuple[int, int], ...]
    others: tuple[tuple[int, int], ...]
    dram_stride: int
    tile_stride: int
    is_kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A tensor in DRAM, and the buffer that holds a tile of it: the box of a full tile, row-major.

    Attributes:
        name: For messages.
        dtype: In DRAM.
        address: Of the tensor.
        elem_bytes: In DRAM.
        axes: All, outermost first.
    """

    name: str
    dtype: str
    address: int
    elem_bytes: int
    axes: tuple[PlacedAxis, ...]

    @property
    def kept(self) -> tuple[PlacedAxis, ...]:
        """Axes along which a full tile has more than one element."""
        return tuple(axis for axis in self.axes if axis.is_kept)


class Moved(NamedTuple):
    """What of a tile moves, one number per kept axis.

    Attributes:
        dram: Address of the first element; 0 if none moves.
        num_bursts: Contiguous runs.
        burst_bytes: Of each of them.
        counts: Elements that move.
        fronts: Elements of the box in front of them.
        backs: Elements behind.
    """

    dram: int
    num_bursts: int
    burst_bytes: int
    counts: tuple[int, ...]
    fronts: tuple[int, ...]
    backs: tuple[int, ...]


def place(name: str, projection: Projection, address: int, full_tile: Dims, tile_elem_bytes: int) -> Place:
    """Place a tensor and the buffer of its tiles.

    Args:
        name: For messages.
        projection: How dims index it.
        address: In DRAM.
        full_tile: Elements per dim of the largest tile.
        tile_elem_bytes: Width of an element in the buffer.

    Raises:
        StreamError: The tile has more axes, or an axis more dims, than an instruction has places for.
    """
    elem_bytes = np.dtype(projection.dtype).itemsize
    extents = [axis.extent for axis in projection.axes]
    boxes = [axis.tile_elems(full_tile) for axis in projection.axes]
    axes = []
    for number, axis in enumerate(projection.axes):
        terms = tuple((DIM_NAMES.index(d), coefficient) for d, coefficient in axis.terms)
        in_tile = tuple(term for term in terms if full_tile[DIM_NAMES[term[0]]] > 1)
        if len(in_tile) > MOST_TERMS:
            raise StreamError(f"axis {number} of {name}: {len(in_tile)} dims index it: must be <= {MOST_TERMS}")
        axes.append(
            PlacedAxis(
                extent=axis.extent,
                offset=axis.offset,
                terms=in_tile,
                others=tuple(term for term in terms if term not in in_tile),
                dram_stride=math.prod(extents[number + 1 :]) * elem_bytes,
                tile_stride=math.prod(boxes[number + 1 :]) * tile_elem_bytes,
                is_kept=boxes[number] > 1,
            )
        )
    found = Place(name=name, dtype=projection.dtype, address=address, elem_bytes=elem_bytes, axes=tuple(axes))
    if len(found.kept) > MOST_AXES:
        raise StreamError(
            f"tile of {name}: {len(found.kept)} axes have more than one element: must be <= {MOST_AXES}; give "
            f"{DIM_NAMES[found.kept[0].terms[0][0]]} an SPM tile of 1"
        )
    return found


def steps(placed: Place) -> tuple[int, ...]:
    """Bytes in the buffer that one index of each dim is from the next."""
    found = [0] * len(DIM_NAMES)
    for axis in placed.kept:
        for d, coefficient in axis.terms:
            found[d] += coefficient * axis.tile_stride
    return tuple(found)


def strides_in(tile: Dims, axes: tuple[Axis, ...], elem_bytes: int) -> tuple[int, ...]:
    """Bytes from one element to the next along each axis of the box of a tile, row-major."""
    boxes = [axis.tile_elems(tile) for axis in axes]
    return tuple(math.prod(boxes[number + 1 :]) * elem_bytes for number in range(len(axes)))


def moved(placed: Place, first: tuple[int, ...], tile: tuple[int, ...]) -> Moved:
    """What moves of the tile that starts at loop indices ``first``, with ``tile`` elements per dim.

    A burst is a contiguous run: axes that are moved whole, and one that is not.
    """
    counts, fronts, backs = [], [], []
    dram, elems, num_bursts, is_split = placed.address, 1, 1, False
    for axis in reversed(placed.axes):
        start, box = axis.offset, 1
        for d, coefficient in (*axis.terms, *axis.others):
            start += coefficient * first[d]
            box += coefficient * (tile[d] - 1)
        low, high = clip(axis.extent, start, start + box)
        inside = max(0, high - low)
        elems *= inside
        num_bursts *= inside if is_split else 1
        is_split = is_split or inside < axis.extent
        dram += low * axis.dram_stride
        if axis.is_kept:
            counts.append(inside)
            fronts.append(low - start if inside else box)
            backs.append(start + box - high if inside else 0)
    if elems == 0:
        boxes = tuple(sum(part) for part in zip(counts, fronts, backs, strict=True))
        return Moved(0, 0, 0, (0,) * len(counts), boxes[::-1], (0,) * len(counts))
    burst_bytes = elems // num_bursts * placed.elem_bytes
    return Moved(dram, num_bursts, burst_bytes, tuple(counts[::-1]), tuple(fronts[::-1]), tuple(backs[::-1]))


class Pattern(NamedTuple):
    """How the elements of a tile lie along one axis of its box: those at ``p`` with ``p % period < run``.

    Attributes:
        period: At least 1.
        run: At most ``period``.
        outer: Dim that makes a step of one period; None if there is but one.
        inner: Dim that makes a step of one element; None if runs have one.
    """

    period: int
    run: int
    outer: int | None
    inner: int | None


def patterns(placed: Place, tile: tuple[int, ...]) -> tuple[Pattern, ...]:
    """Per kept axis, where the elements of a tile are in its box; what is between belongs to other tiles.

    Raises:
        StreamError: They form no such pattern.
    """
    found = []
    for number, axis in enumerate(placed.kept):
        terms = sorted(((c, d, tile[d]) for d, c in axis.terms if tile[d] > 1), reverse=True)
        if terms and terms[-1][0] == 1:
            _, inner, run = terms.pop()
        else:
            inner, run = None, 1
        if not terms:
            found.append(Pattern(run, run, None, inner))
        elif len(terms) == 1 and run <= terms[0][0]:
            found.append(Pattern(terms[0][0], run, terms[0][1], inner))
        else:
            raise StreamError(f"axis {number} of {placed.name}: a tile has gaps of several sizes along it: must be one")
    return tuple(found)
