"""What one mapping moves between the outermost memory and the cores, from trip counts (compiled)."""

from __future__ import annotations

from cost_model.analytical.transfers import Scratch
from cost_model.nest import CORE, HELD, SHARE, Nest, ceil_div, clipped_range, levels_outside, summed_elems
from cost_model.problem import CLIPPED, Ints, O, Problem
from cost_model.transfer import transfer
from tvm_spm.jit import lean, small
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.space.tensors import elems_inside

FINAL = 3
"""Column of moved elements after those of I, W and partial O: finished outputs."""

UNUSED_BITS, DRAM_BYTES, NUM_COUNTS = 3, 4, 8
"""Columns of counts behind those of ``model.MAC_CYCLES``: bits of whole bursts that no tile asked for, and bytes of I,
W, O and extras."""

FIRST, SIZE, COUNT = 0, 1, 2
"""Rows of a table of tiles that are clipped alike: where one starts, its size, and how many there are."""

ALONG, COMBINED, REMAINDERS = 0, 1, 2
"""Tables of tiles along one dim, of their combinations over the dims of one axis so far, and of how many tiles have
each number of elements modulo 8."""


@small
def count_traffic(problem: Problem, nest: Nest, scratch: Scratch) -> tuple[float, int]:
    """Fill ``scratch.moved_elems`` and the last columns of ``scratch.counts``.

    Returns:
        (words of extras, bits that no tile asked for).
    """
    elems, counts, tiles = scratch.moved_elems, scratch.counts, scratch.tiles
    extras, unused_bits = 0.0, 0
    for column in range(DRAM_BYTES, NUM_COUNTS):
        counts[column] = 0
    for projection in range(problem.num_projections):
        once, bits = _elems_once(problem, nest, projection, tiles), problem.elem_bits[projection]
        if projection > O:
            times = _num_streams(problem, nest, projection)
            extras += once * times * problem.words[projection]
        elif projection < O:
            times = _num_loads(problem, nest, projection)
            elems[projection] = once * times
        else:
            # all but the last time an output leaves it is a partial sum that comes back
            times = 2 * (_num_loads(problem, nest, O) - 1)
            elems[O], elems[FINAL] = once * times, once
            moved_bits = _bits_once(problem, nest, O, problem.out_bits, once, tiles)
            counts[DRAM_BYTES + O] = moved_bits >> 3
            unused_bits += moved_bits - once * problem.out_bits
        if times > 0:
            moved_bits = _bits_once(problem, nest, projection, bits, once, tiles)
            counts[DRAM_BYTES + min(projection, O + 1)] += times * (moved_bits >> 3)
            unused_bits += times * (moved_bits - once * bits)
    # without bursts, what rounds a transfer up to whole bytes is not charged
    counts[UNUSED_BITS] = unused_bits if problem.burst_bits > 1 else 0
    return extras, counts[UNUSED_BITS]


@small
def _bits_once(problem: Problem, nest: Nest, projection: int, bits: int, elems: int, tiles: Ints) -> int:
    """Bits in whole bytes if every tile of a tensor moves once."""
    if problem.burst_bits > 1:
        return _burst_bits(problem, nest, projection, bits, tiles)
    return elems * bits + (0 if bits & 7 == 0 else _padding_bits(problem, nest, projection, bits, tiles))


@small
def _num_loads(problem: Problem, nest: Nest, operand: int) -> int:
    """How often each tile passes between the shared memory and that of a core."""
    repeats = 1
    for d in range(NUM_DIMS):
        if problem.relevant[operand] >> d & 1 == 0:
            repeats *= nest.num_tiles[levels_outside(nest, CORE, operand, d), d]
    return repeats


@small
def _num_streams(problem: Problem, nest: Nest, extra: int) -> int:
    """Final stores that stream the same tile of an extra."""
    repeats = 1
    for d in range(NUM_DIMS):
        if (problem.relevant[O] & ~problem.relevant[extra]) >> d & 1:
            repeats *= nest.num_tiles[CORE + 1, d]
    return repeats


@lean
def _elems_once(problem: Problem, nest: Nest, projection: int, tiles: Ints) -> int:
    """Elements inside the tensor over all tiles that cores hold."""
    elems = 1
    for axis in range(problem.axis_start[projection], problem.axis_start[projection + 1]):
        if problem.axis_kind[axis] != CLIPPED:
            elems *= summed_elems(problem, axis, nest.num_tiles[CORE + 1])
            continue
        inside = 0
        for tile in range(_list_axis(problem, axis, nest, tiles)):
            inside += tiles[COMBINED, COUNT, tile] * _part(problem, axis, tiles, tile)
        elems *= inside
    return elems


@small
def _part(problem: Problem, axis: int, tiles: Ints, tile: int) -> int:
    """Elements of a combined tile that lie in the tensor."""
    return elems_inside(problem.axis_extent[axis], tiles[COMBINED, FIRST, tile], tiles[COMBINED, SIZE, tile])


@lean
def _burst_bits(problem: Problem, nest: Nest, projection: int, bits: int, tiles: Ints) -> int:
    """Bits of whole bursts if every tile of a tensor moves once.

    From the innermost axis out: a burst goes on as long as tiles cover the axes, and ends on the first one of which a
    tile leaves out a part; every element of the axes further out has a burst of its own.
    """
    inner, whole, moved = 1, 1, 0
    for axis in range(problem.axis_start[projection + 1] - 1, problem.axis_start[projection] - 1, -1):
        num, inside, covering, ended = _list_axis(problem, axis, nest, tiles), 0, 0, 0
        extent = problem.axis_extent[axis]
        for tile in range(num):
            part = _part(problem, axis, tiles, tile)
            count = tiles[COMBINED, COUNT, tile]
            inside += count * part
            if part == extent:
                covering += count
            else:
                ended += count * transfer(part * inner, 1, bits, problem.burst_bits, 0.0, 1.0)[1]
        moved = moved * inside + whole * ended
        whole, inner = whole * covering, inner * extent
    return moved + whole * transfer(inner, 1, bits, problem.burst_bits, 0.0, 1.0)[1]


@lean
def _padding_bits(problem: Problem, nest: Nest, projection: int, bits: int, tiles: Ints) -> int:
    """What rounds every tile of a tensor up to whole bytes, if each moves once.

    It depends on the tile's elements modulo 8, and these are the product of the remainders of its axes.
    """
    num_by_rest = tiles[REMAINDERS]
    for rest in range(8):
        num_by_rest[FIRST, rest] = 1 if rest == 1 else 0
    for axis in range(problem.axis_start[projection], problem.axis_start[projection + 1]):
        num_tiles = _list_axis(problem, axis, nest, tiles)
        for rest in range(8):
            num_by_rest[SIZE, rest] = 0
        for tile in range(num_tiles):
            part = _part(problem, axis, tiles, tile)
            for rest in range(8):
                num_by_rest[SIZE, rest * part & 7] += num_by_rest[FIRST, rest] * tiles[COMBINED, COUNT, tile]
        for rest in range(8):
            num_by_rest[FIRST, rest] = num_by_rest[SIZE, rest]
    padding = 0
    for rest in range(8):
        padding += num_by_rest[FIRST, rest] * (-rest * bits & 7)
    return padding


@lean
def _list_axis(problem: Problem, axis: int, nest: Nest, tiles: Ints) -> int:
    """Fill ``tiles`` with the combined SPM tiles of one axis, where they start on it and what they span."""
    tiles[COMBINED, FIRST, 0], tiles[COMBINED, SIZE, 0], tiles[COMBINED, COUNT, 0] = problem.axis_offset[axis], 1, 1
    num = 1
    for term in range(problem.term_start[axis], problem.term_start[axis + 1]):
        coefficient = problem.term_coefficient[term]
        along = _list_tiles(problem, problem.term_dim[term], nest, tiles)
        for tile in range(along - 1, -1, -1):
            start = coefficient * tiles[ALONG, FIRST, tile]
            span = coefficient * (tiles[ALONG, SIZE, tile] - 1)
            for other in range(num):
                target = tile * num + other
                tiles[COMBINED, FIRST, target] = tiles[COMBINED, FIRST, other] + start
                tiles[COMBINED, SIZE, target] = tiles[COMBINED, SIZE, other] + span
                tiles[COMBINED, COUNT, target] = tiles[COMBINED, COUNT, other] * tiles[ALONG, COUNT, tile]
        num *= along
    return num


@lean
def _list_tiles(problem: Problem, d: int, nest: Nest, tiles: Ints) -> int:
    """Fill ``tiles`` with the SPM tiles of one dim over all cores; those that are clipped nowhere are one entry."""
    num, inner_first, inner_count = 0, 0, 0
    for first in range(0, problem.dims[d], nest.tile[SHARE, d]):
        extent = min(nest.tile[SHARE, d], problem.dims[d] - first)
        count = ceil_div(extent, nest.tile[HELD, d])
        low, high = clipped_range(problem, d, first, extent, nest.tile[HELD, d])
        if high > low:
            inner_first = first + low * nest.tile[HELD, d]
            inner_count += high - low
        index = high if low == 0 else 0
        while index < count:
            tiles[ALONG, FIRST, num] = first + index * nest.tile[HELD, d]
            tiles[ALONG, SIZE, num] = min(nest.tile[HELD, d], extent - index * nest.tile[HELD, d])
            tiles[ALONG, COUNT, num] = 1
            num += 1
            index = max(index + 1, high) if index + 1 >= low else index + 1
    if inner_count > 0:
        tiles[ALONG, FIRST, num], tiles[ALONG, SIZE, num] = inner_first, nest.tile[HELD, d]
        tiles[ALONG, COUNT, num] = inner_count
        num += 1
    return num
