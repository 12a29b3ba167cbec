"""Boxes of tensors, found by looking at every index and every address; slow and obvious, for small cases.

Nothing here calls the product; it reads fields of its nouns (``terms``, ``offset``, ``extent``, ``accesses``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from functools import lru_cache

from tvm_spm.graph import Layer, Read
from tvm_spm.workload import DIM_NAMES, Axis, Dims

Range = tuple[int, int]
"""First index and the one behind the last."""

Box = tuple[Range, ...]
"""One range per axis of a tensor."""

Terms = tuple[tuple[str, int], ...]


def num_parts(extent: int, tile: int) -> int:
    """Tiles that cover an extent, counted by their starts."""
    return len(range(0, extent, tile))


def whole_bytes(bits: int) -> int:
    """Bytes that hold so many bits."""
    return num_parts(bits, 8)


@lru_cache(maxsize=1 << 16)
def _reached(terms: Terms, offset: int, ranges: Box) -> Range:
    """The box around every index that an affine map reaches."""
    strides = [stride for _, stride in terms]
    found = [
        offset + sum(stride * at for stride, at in zip(strides, point, strict=True))
        for point in itertools.product(*(range(*one) for one in ranges))
    ]
    return (min(found), max(found) + 1) if found else (0, 0)


def reached(axis: Axis, loops: Mapping[str, Range]) -> Range:
    """Indices of an axis between the first and the last that ranges of loops reach, padding and holes included."""
    return _reached(axis.terms, axis.offset, tuple(loops[name] for name, _ in axis.terms))


def clip(span: Range, extent: int) -> Range:
    """The part of a range that lies in a tensor; ``(0, 0)`` if none does."""
    inside = [index for index in range(*span) if 0 <= index < extent]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def tile_loops(tile: Dims, first: Mapping[str, int] | None = None) -> dict[str, Range]:
    """Ranges of the loops of a tile that starts at ``first``, where a loop not named starts at 0."""
    starts = first or {}
    return {name: (starts.get(name, 0), starts.get(name, 0) + tile[name]) for name in DIM_NAMES}


def spanned_elems(axes: Iterable[Axis], tile: Dims) -> int:
    """Elements of the box around a tile, padding and holes of a stride included."""
    loops = tile_loops(tile)
    return math.prod(len(range(*reached(axis, loops))) for axis in axes)


def clipped_box(axes: Iterable[Axis], first: Mapping[str, int], tile: Dims) -> Box:
    """The box around a tile that starts at ``first``, as far as it lies in the tensor."""
    loops = tile_loops(tile, first)
    return tuple(clip(reached(axis, loops), axis.extent) for axis in axes)


def num_elems(box: Box) -> int:
    """Elements of a box; 0 if a range is empty."""
    return math.prod(len(range(*one)) for one in box)


def elements(box: Box) -> set[tuple[int, ...]]:
    """Every index of a box."""
    return set(itertools.product(*(range(*one) for one in box)))


def bounding(some: Iterable[tuple[int, ...]]) -> Box | None:
    """The box around indices; None without any."""
    found = list(some)
    return tuple((min(column), max(column) + 1) for column in zip(*found, strict=True)) if found else None


def joined(boxes: Iterable[Box]) -> Box | None:
    """The box around boxes, empty ones left out; None without any."""
    filled = [box for box in boxes if num_elems(box)]
    if not filled:
        return None
    return tuple((min(f for f, _ in ranges), max(s for _, s in ranges)) for ranges in zip(*filled, strict=True))


@lru_cache(maxsize=1 << 16)
def _reaching(terms: Terms, offset: int, extents: tuple[int, ...], wanted: Range) -> Box:
    points = [
        point
        for point in itertools.product(*map(range, extents))
        if wanted[0] <= offset + sum(stride * at for (_, stride), at in zip(terms, point, strict=True)) < wanted[1]
    ]
    return bounding(points) or tuple((0, 0) for _ in extents)


def loops_reaching(layer: Layer, box: Box) -> dict[str, Range]:
    """Ranges around all iterations of a layer that write into a box of its output, found by trying every one."""
    extents = dict(layer.loops)
    ranges = {name: (0, extent) for name, extent in layer.loops}
    for axis, wanted in zip(layer.out_axes, box, strict=True):
        names = [name for name, _ in axis.terms]
        found = _reaching(axis.terms, axis.offset, tuple(extents[name] for name in names), wanted)
        ranges.update(zip(names, found, strict=True))
    return ranges


def box_read(read: Read, loops: Mapping[str, Range]) -> Box:
    """The box around what ranges of loops read of a tensor, as far as it lies in it; all ranges empty if nothing."""
    nothing = tuple((0, 0) for _ in read.accesses[0])
    if any(not range(*one) for one in loops.values()):
        return nothing
    boxes = [tuple(clip(reached(axis, loops), axis.extent) for axis in access) for access in read.accesses]
    return joined(boxes) or nothing


@lru_cache(maxsize=1 << 16)
def run_lengths(extents: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Elements of each run of neighbours in memory, from the addresses of all elements of a box in row-major order."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    lengths: list[int] = []
    last = -2
    for index in itertools.product(*map(range, extents)):
        address = sum(i * stride for i, stride in zip(index, strides, strict=True))
        if address == last + 1:
            lengths[-1] += 1
        else:
            lengths.append(1)
        last = address
    return tuple(lengths)


@lru_cache(maxsize=1 << 16)
def run_bits(elems: int, elem_bits: int, burst_bytes: int) -> int:
    """Bits of all bursts of memory that a run touches, which starts with a burst; memory without bursts moves bits."""
    if burst_bytes == 1:
        return elems * elem_bits
    return 8 * burst_bytes * len({bit // 8 // burst_bytes for bit in range(elems * elem_bits)})


def moved_bits(box: Box, shape: tuple[int, ...], elem_bits: int, burst_bytes: int) -> int:
    """Bits that cross between memory and scratchpad for a box."""
    runs = run_lengths(tuple(len(range(*one)) for one in box), shape)
    return sum(run_bits(elems, elem_bits, burst_bytes) for elems in runs)


def move_cycles(num_runs: int, bits: int, startup_cycles: float, bytes_per_cycle: float) -> int:
    """Cycles of a transfer: every run starts up, and all bytes pass."""
    return math.ceil(num_runs * startup_cycles + whole_bytes(bits) / bytes_per_cycle) if num_runs else 0
