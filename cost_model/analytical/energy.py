"""Energy of one mapping from trip counts (compiled)."""

from __future__ import annotations

from cost_model.analytical.nest import CORE, HELD, PE, SHARE, Nest, ceil_div, clipped_range
from cost_model.analytical.problem import CLIPPED, WHOLE, Floats, I, Ints, O, Problem, W
from cost_model.transfer import transfer
from tvm_spm.jit import lean, small
from tvm_spm.space.mapping_batch import NUM_DIMS

FIRST, SIZE, COUNT = 0, 1, 2
"""Rows of a table of tiles that are clipped alike: where one starts, its size, and how many there are."""

ALONG, COMBINED, REMAINDERS = 0, 1, 2
"""Tables of tiles along one dim, of their combinations over the dims of one axis so far, and of how many tiles have
each number of elements modulo 8."""


MAC, RF, NOC, SPM, DRAM, VECTOR, NUM_PARTS = 0, 1, 2, 3, 4, 5, 6
"""Parts of the energy, in the order of ``Energy``."""


@lean
def energy_pj(problem: Problem, nest: Nest, tiles: Ints, parts: Floats) -> float:
    """Fill ``parts`` and return their sum; ``tiles`` is scratch of ``(3, 3, tiles)``.

    Every access is priced; words other than ``word_bits`` wide count in proportion.
    """
    words_i, words_w, words_o = problem.words[I], problem.words[W], problem.words[O]
    crossed_i, delivered_i = rf_elems(problem, nest, I)
    crossed_w, delivered_w = rf_elems(problem, nest, W)
    left_o, _ = rf_elems(problem, nest, O)
    in_i = _moved_elems(problem, nest, I, tiles) * _num_loads(problem, nest, I)
    in_w = _moved_elems(problem, nest, W, tiles) * _num_loads(problem, nest, W)
    final = _moved_elems(problem, nest, O, tiles)
    partial = 2 * (final * (_num_loads(problem, nest, O) - 1))
    crossed_o = left_o - array_elems(problem, nest, O) + left_o
    crossed = crossed_i * words_i + crossed_w * words_w + crossed_o * words_o
    delivered = delivered_i * words_i + delivered_w * words_w + crossed_o * words_o
    moved = in_i * words_i + in_w * words_w + partial * words_o
    extras = 0.0
    for extra in range(O + 1, problem.num_projections):
        repeats = _num_streams(problem, nest, extra)
        extras += _moved_elems(problem, nest, extra, tiles) * repeats * problem.words[extra]
    unused = 0.0
    if problem.burst_bits > 1:
        unused = _unused_bits(problem, nest, tiles) / problem.word_bits
    hops = left_o * (nest.reduction_pes - 1)
    parts[MAC] = problem.macs * problem.mac_pj
    parts[RF] = problem.macs * (words_i + words_w + 2 * words_o) * problem.rf_access_pj
    parts[RF] += delivered * problem.rf_fill_pj
    parts[NOC] = crossed * problem.noc_elem_pj + delivered * problem.noc_delivery_pj
    parts[NOC] += hops * words_o * problem.noc_hop_pj
    parts[SPM] = (crossed + moved + final * words_o) * problem.spm_pj
    parts[DRAM] = (moved + final * problem.out_words + extras + unused) * problem.dram_pj
    parts[VECTOR] = problem.out_elems * problem.num_ops_per_elem * problem.vector_pj
    return parts[MAC] + parts[RF] + parts[NOC] + parts[SPM] + parts[DRAM] + parts[VECTOR]


@lean
def count_bytes(problem: Problem, nest: Nest, tiles: Ints, num_bytes: Ints) -> int:
    """Fill ``num_bytes`` with those that cross DRAM of I, W, O and extras: whole bursts, and whole bytes per transfer.

    Returns:
        Bits among them that no tile asked for.
    """
    for operand in range(O + 2):
        num_bytes[operand] = 0
    for projection in range(problem.num_projections):
        repeats = _num_streams(problem, nest, projection) if projection > O else _num_loads(problem, nest, projection)
        if projection == O:
            # all but the last time an output leaves it is a partial sum that comes back
            num_bytes[O] = _bytes_once(problem, nest, O, problem.out_bits, tiles)
            repeats = 2 * (repeats - 1)
        if repeats > 0:
            once = _bytes_once(problem, nest, projection, problem.elem_bits[projection], tiles)
            num_bytes[min(projection, O + 1)] += repeats * once
    return _unused_bits(problem, nest, tiles) if problem.burst_bits > 1 else 0


@lean
def _bytes_once(problem: Problem, nest: Nest, projection: int, bits: int, tiles: Ints) -> int:
    """Bytes if every tile of a tensor moves once."""
    moved = _moved_elems(problem, nest, projection, tiles) * bits
    if problem.burst_bits > 1:
        return (moved + _unused_once(problem, nest, projection, bits, tiles)) >> 3
    return (moved + _padding_bits(problem, nest, projection, bits, tiles)) >> 3


@lean
def _padding_bits(problem: Problem, nest: Nest, projection: int, bits: int, tiles: Ints) -> int:
    """What rounds every tile of a tensor up to whole bytes, if each moves once.

    It depends on the tile's elements modulo 8, and these are the product of the remainders of its axes.
    """
    if bits & 7 == 0:
        return 0
    num_by_rest = tiles[REMAINDERS]
    for rest in range(8):
        num_by_rest[FIRST, rest] = 1 if rest == 1 else 0
    for axis in range(problem.axis_start[projection], problem.axis_start[projection + 1]):
        num_tiles = _list_axis(problem, axis, nest, tiles)
        for rest in range(8):
            num_by_rest[SIZE, rest] = 0
        for tile in range(num_tiles):
            start = tiles[COMBINED, FIRST, tile]
            part = max(0, min(problem.axis_extent[axis], start + tiles[COMBINED, SIZE, tile]) - max(0, start))
            for rest in range(8):
                num_by_rest[SIZE, rest * part & 7] += num_by_rest[FIRST, rest] * tiles[COMBINED, COUNT, tile]
        for rest in range(8):
            num_by_rest[FIRST, rest] = num_by_rest[SIZE, rest]
    padding = 0
    for rest in range(8):
        padding += num_by_rest[FIRST, rest] * (-rest * bits & 7)
    return padding


@small
def _num_streams(problem: Problem, nest: Nest, extra: int) -> int:
    """Final stores that stream the same tile of an extra."""
    repeats = 1
    for d in range(NUM_DIMS):
        if (problem.relevant[O] & ~problem.relevant[extra]) >> d & 1:
            repeats *= nest.num_tiles[CORE + 1, d]
    return repeats


@lean
def _unused_bits(problem: Problem, nest: Nest, tiles: Ints) -> int:
    """What whole bursts bring along, over all transfers between DRAM and SPM."""
    unused = 0
    for operand in range(2):
        once = _unused_once(problem, nest, operand, problem.elem_bits[operand], tiles)
        unused += once * _num_loads(problem, nest, operand)
    spills = _num_loads(problem, nest, O) - 1
    if spills > 0:
        unused += 2 * spills * _unused_once(problem, nest, O, problem.elem_bits[O], tiles)
    unused += _unused_once(problem, nest, O, problem.out_bits, tiles)
    for extra in range(O + 1, problem.num_projections):
        once = _unused_once(problem, nest, extra, problem.elem_bits[extra], tiles)
        unused += once * _num_streams(problem, nest, extra)
    return unused


@lean
def _unused_once(problem: Problem, nest: Nest, projection: int, bits: int, tiles: Ints) -> int:
    """What whole bursts bring along if every tile of a tensor moves once.

    From the innermost axis out: a burst goes on as long as tiles cover the axes, and ends on the first one of which a
    tile leaves out a part; every element of the axes further out has a burst of its own.
    """
    elems, inner, whole, moved = 1, 1, 1, 0
    for axis in range(problem.axis_start[projection + 1] - 1, problem.axis_start[projection] - 1, -1):
        num, inside, covering, ended = _list_axis(problem, axis, nest, tiles), 0, 0, 0
        extent = problem.axis_extent[axis]
        for tile in range(num):
            start = tiles[COMBINED, FIRST, tile]
            part = max(0, min(extent, start + tiles[COMBINED, SIZE, tile]) - max(0, start))
            count = tiles[COMBINED, COUNT, tile]
            inside += count * part
            if part == extent:
                covering += count
            else:
                ended += count * transfer(part * inner, 1, bits, problem.burst_bits, 0.0, 1.0)[1]
        moved = moved * inside + whole * ended
        elems, whole, inner = elems * inside, whole * covering, inner * extent
    moved += whole * transfer(inner, 1, bits, problem.burst_bits, 0.0, 1.0)[1]
    return moved - elems * bits


@small
def _summed(problem: Problem, axis: int, trips: Ints) -> int:
    """Elements that an axis spans, padding included, summed over ``trips`` tiles per dim."""
    begin, end = problem.term_start[axis], problem.term_start[axis + 1]
    if problem.axis_kind[axis] == WHOLE:
        return problem.dims[problem.term_dim[begin]]
    all_tiles, spans = 1, 0
    for term in range(begin, end):
        d = problem.term_dim[term]
        # spans so far repeat for every tile of this dim, and this dim's for every combination of the others
        spans = spans * trips[d] + all_tiles * problem.term_coefficient[term] * (problem.dims[d] - trips[d])
        all_tiles *= trips[d]
    return all_tiles + spans


@small
def array_elems(problem: Problem, nest: Nest, operand: int) -> int:
    """Elements of all distinct array tiles."""
    elems = 1
    for axis in range(problem.axis_start[operand], problem.axis_start[operand + 1]):
        elems *= _summed(problem, axis, nest.num_tiles[PE + 1])
    for d in range(NUM_DIMS):
        if problem.relevant[operand] >> d & 1 == 0:
            elems *= nest.cores[d]
    return elems


@small
def _levels_outside(nest: Nest, memory: int, operand: int, d: int) -> int:
    """Levels, outermost first, down to the last that has a loop over a dim outside the loads of a memory."""
    level = memory + 1
    while level > 0 and nest.outside[memory, level - 1, operand] >> d & 1 == 0:
        level -= 1
    return level


@lean
def rf_elems(problem: Problem, nest: Nest, operand: int) -> tuple[int, int]:
    """(elements that cross to the PEs, deliveries) over all loads of one operand."""
    crossed, delivered = 1, 1
    for axis in range(problem.axis_start[operand], problem.axis_start[operand + 1]):
        crossed *= _summed(problem, axis, nest.num_tiles[PE + 1])
        delivered *= _summed(problem, axis, nest.num_pieces[PE + 1])
    for d in range(NUM_DIMS):
        if problem.relevant[operand] >> d & 1 == 0:
            level = _levels_outside(nest, PE, operand, d)
            crossed *= nest.num_tiles[level, d]
            delivered *= nest.num_pieces[level, d]
    return crossed, delivered


@small
def _num_loads(problem: Problem, nest: Nest, operand: int) -> int:
    """How often each tile passes between the shared memory and that of a core."""
    repeats = 1
    for d in range(NUM_DIMS):
        if problem.relevant[operand] >> d & 1 == 0:
            repeats *= nest.num_tiles[_levels_outside(nest, CORE, operand, d), d]
    return repeats


@lean
def _moved_elems(problem: Problem, nest: Nest, projection: int, tiles: Ints) -> int:
    """Elements inside the tensor over all its SPM tiles."""
    elems = 1
    for axis in range(problem.axis_start[projection], problem.axis_start[projection + 1]):
        if problem.axis_kind[axis] == CLIPPED:
            elems *= _clipped_elems(problem, axis, nest, tiles)
        else:
            elems *= _summed(problem, axis, nest.num_tiles[CORE + 1])
    return elems


@lean
def _clipped_elems(problem: Problem, axis: int, nest: Nest, tiles: Ints) -> int:
    """Elements inside the tensor that one axis spans, summed over all SPM tiles."""
    total, extent = 0, problem.axis_extent[axis]
    for tile in range(_list_axis(problem, axis, nest, tiles)):
        start = tiles[COMBINED, FIRST, tile]
        inside = min(extent, start + tiles[COMBINED, SIZE, tile]) - max(0, start)
        total += tiles[COMBINED, COUNT, tile] * max(0, inside)
    return total


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
