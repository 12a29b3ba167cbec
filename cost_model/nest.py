"""One mapping of a batch as a record: its tiles, loops, load positions and trip counts, level by level (compiled).

Levels are counted outermost first. The loops of level 0 cut a core's share of the tensors, which lie in the memory all
cores share, into tiles that the core's own memory holds; the loops of level 1 cut such a tile into tiles of the array,
of which every PE holds a piece.
"""

from __future__ import annotations

from typing import Protocol

from cost_model.problem import WHOLE, Ints, Problem
from cost_model.record import record
from tvm_spm.jit import lean, small
from tvm_spm.space.mapping_batch import NUM_DIMS, MappingBatch

NUM_LEVELS = 2
"""Levels that have loops; each moves tiles over one link into the memory below it."""

CORE, PE = 0, 1
"""Memories below the outermost one, by who has one each."""

SHARE, HELD, ARRAY, PIECE, NUM_TILES = 0, 1, 2, 3, 4
"""Tiles: the share of a core, what its memory holds, what its PEs hold together, what one PE holds. The loops of level
``l`` cut tile ``l`` into tiles ``l + 1``."""


class Nest(Protocol):
    """A record of ``NEST_FIELDS``.

    Attributes:
        cores: Factor per dim.
        tile: ``(tiles, dims)``, full tiles, see ``SHARE``.
        num_tiles: ``(levels + 1, dims)``, over all cores, shares, tiles in the cores' memories, and tiles of the array:
            of a dim whose loops iterate in the first so many levels while the others stay at their first index.
        num_pieces: The same for pieces of single PEs.
        loop_dim: ``(levels, dims)``, dims of the loops that iterate, outer to inner.
        num_loops: Per level.
        looping: Per level, bits of the dims of its loops.
        position: ``(memories, operands)``, the innermost loop a tile there depends on, counted over all levels, or -1.
        outside: ``(memories, levels, operands)``, bits of the dims of a level's loops up to ``position``.
        double: ``(memories, operands)``, 1 for two buffers.
        spill: Whether partial sums may leave a core.
        num_cores: Product of ``cores``.
        hop_cycles: Through the reduction network.
        reduction_pes: PEs whose results are summed.
    """

    cores: Ints
    tile: Ints
    num_tiles: Ints
    num_pieces: Ints
    loop_dim: Ints
    num_loops: Ints
    looping: Ints
    position: Ints
    outside: Ints
    double: Ints
    spill: int
    num_cores: int
    hop_cycles: int
    reduction_pes: int


NEST_FIELDS = record(Nest, {
    "cores": NUM_DIMS, "tile": (NUM_TILES, NUM_DIMS), "num_tiles": (NUM_LEVELS + 1, NUM_DIMS),
    "num_pieces": (NUM_LEVELS + 1, NUM_DIMS), "loop_dim": (NUM_LEVELS, NUM_DIMS), "num_loops": NUM_LEVELS,
    "looping": NUM_LEVELS, "position": (NUM_LEVELS, 3), "outside": (NUM_LEVELS, NUM_LEVELS, 3),
    "double": (NUM_LEVELS, 3),
})  # fmt: skip


@small
def floor_div(a: int, b: int) -> int:
    """``a // b`` for ``0 <= a < 2**52`` and ``b > 0``; the quotient of doubles is exact enough and much faster."""
    return int(a / b)


@small
def ceil_div(a: int, b: int) -> int:
    """``ceil(a / b)`` for ``0 <= a < 2**52`` and ``b > 0``."""
    return int((a + b - 1) / b)


@lean
def build_nest(problem: Problem, batch: MappingBatch, row: int, nest: Nest) -> None:
    """Fill ``nest`` from one row of a batch."""
    nest.num_cores = 1
    row_pes, col_pes = 1, 1
    for d in range(NUM_DIMS):
        extent, cores, rf = problem.dims[d], batch.cores[row, d], batch.rf[row, d]
        pes = batch.rows[row, d] * batch.cols[row, d]
        nest.cores[d] = cores
        nest.tile[SHARE, d] = extent if cores == 1 else ceil_div(extent, cores)
        nest.tile[HELD, d] = batch.spm[row, d]
        nest.tile[ARRAY, d] = rf * pes
        nest.tile[PIECE, d] = rf
        nest.num_cores *= cores
        if problem.is_reduction[d] == 1:
            row_pes *= batch.rows[row, d]
            col_pes *= batch.cols[row, d]
        if extent == 1:
            for level in range(NUM_LEVELS + 1):
                nest.num_tiles[level, d] = nest.num_pieces[level, d] = 1
        else:
            _count_tiles(nest, d, extent, pes)
    nest.hop_cycles = row_pes - 1 + col_pes - 1
    nest.reduction_pes = row_pes * col_pes
    nest.spill = batch.spill[row]
    for operand in range(3):
        nest.double[CORE, operand] = (batch.spm_double[row] >> operand) & 1
        nest.double[PE, operand] = (batch.rf_double[row] >> operand) & 1
    _place_loops(problem, batch, row, nest)


@small
def _count_tiles(nest: Nest, d: int, extent: int, pes: int) -> None:
    """Trip counts of one dim: those of a full core, times their number, and those of a smaller last core."""
    held, array, piece = nest.tile[HELD, d], nest.tile[ARRAY, d], nest.tile[PIECE, d]
    full_arrays, full_pieces, full_first = _array_tiles(held, array, piece, pes)
    num_held = num_array = num_pieces = first_of_held = first_of_core = 0
    remaining, chunk, times = extent, nest.tile[SHARE, d], nest.cores[d]
    if times > 1 and chunk * times > extent:
        times -= 1
    while remaining > 0:
        whole = floor_div(chunk, held)
        edge = chunk - whole * held
        num_held += times * whole
        num_array += times * whole * full_arrays
        num_pieces += times * whole * full_pieces
        first_of_held += times * whole * full_first
        first = full_first
        if edge > 0:
            arrays, pieces, edge_first = _array_tiles(edge, array, piece, pes)
            num_held += times
            num_array += times * arrays
            num_pieces += times * pieces
            first_of_held += times * edge_first
            if whole == 0:
                first = edge_first
        first_of_core += times * first
        remaining -= times * chunk
        chunk, times = remaining, 1
    nest.num_tiles[0, d], nest.num_tiles[1, d], nest.num_tiles[2, d] = nest.cores[d], num_held, num_array
    nest.num_pieces[0, d], nest.num_pieces[1, d], nest.num_pieces[2, d] = first_of_core, first_of_held, num_pieces


@small
def _array_tiles(tile: int, array: int, piece: int, pes: int) -> tuple[int, int, int]:
    """(array tiles, pieces of single PEs, those of the first array tile) of one tile in a core's memory, of one dim."""
    whole = floor_div(tile, array)
    edge = tile - whole * array
    if edge == 0:
        return whole, whole * pes, pes
    edge_pes = ceil_div(edge, piece)
    return whole + 1, whole * pes + edge_pes, pes if whole > 0 else edge_pes


@small
def _place_loops(problem: Problem, batch: MappingBatch, row: int, nest: Nest) -> None:
    """Keep the loops that iterate in a full tile, and find what each operand's loads depend on."""
    for operand in range(3):
        for memory in range(NUM_LEVELS):
            nest.position[memory, operand] = -1
            for level in range(NUM_LEVELS):
                nest.outside[memory, level, operand] = 0
    position = 0
    for level in range(NUM_LEVELS):
        seen, count, order = 0, 0, batch.dram_order if level == 0 else batch.spm_order
        for slot in range(NUM_DIMS):
            d = int(order[row, slot])
            if d < 0:
                break
            if nest.tile[level, d] <= nest.tile[level + 1, d]:
                continue
            nest.loop_dim[level, count] = d
            seen |= 1 << d
            for operand in range(3):
                if problem.relevant[operand] >> d & 1:
                    for memory in range(level, NUM_LEVELS):
                        nest.position[memory, operand] = position + count
                        nest.outside[memory, level, operand] = seen
                        for outer in range(level):
                            nest.outside[memory, outer, operand] = nest.looping[outer]
            count += 1
        nest.looping[level], nest.num_loops[level] = seen, count
        position += count


@small
def clipped_range(problem: Problem, d: int, first: int, extent: int, tile: int) -> tuple[int, int]:
    """[low, high): the full tiles of a part of dim ``d`` that stay inside all tensors wherever the other dims are."""
    low = ceil_div(max(0, problem.clip_low[d] - first), tile)
    return low, max(low, floor_div(max(0, min(extent, problem.clip_end[d] - first)), tile))


@small
def levels_outside(nest: Nest, memory: int, operand: int, d: int) -> int:
    """Levels, outermost first, down to the last that has a loop over a dim outside the loads of a memory."""
    levels = 0
    for level in range(memory + 1):
        if nest.outside[memory, level, operand] >> d & 1:
            levels = level + 1
    return levels


@small
def summed_elems(problem: Problem, axis: int, trips: Ints) -> int:
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
