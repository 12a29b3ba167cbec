"""One mapping of a batch as a record: its tiles, loops, load positions and trip counts (compiled)."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from cost_model.analytical.problem import Ints, Problem
from tvm_spm.jit import lean, small
from tvm_spm.space.mapping_batch import NUM_DIMS, MappingBatch

NEST_FIELDS = np.dtype(
    [
        ("cores", np.int64, NUM_DIMS),
        ("core_tile", np.int64, NUM_DIMS),
        ("spm", np.int64, NUM_DIMS),
        ("array", np.int64, NUM_DIMS),
        ("rf", np.int64, NUM_DIMS),
        ("num_spm_tiles", np.int64, NUM_DIMS),
        ("num_array_tiles", np.int64, NUM_DIMS),
        ("num_pe_tiles", np.int64, NUM_DIMS),
        ("num_first_pes_of_spm_tiles", np.int64, NUM_DIMS),
        ("num_first_pes_of_cores", np.int64, NUM_DIMS),
        ("dram_dim", np.int64, NUM_DIMS),
        ("spm_dim", np.int64, NUM_DIMS),
        ("num_dram", np.int64),
        ("num_spm", np.int64),
        ("spm_position", np.int64, 3),
        ("rf_position", np.int64, 3),
        ("dram_outside_spm", np.int64, 3),
        ("dram_outside_rf", np.int64, 3),
        ("spm_outside_rf", np.int64, 3),
        ("spm_double", np.int64, 3),
        ("rf_double", np.int64, 3),
        ("spill", np.int64),
        ("num_cores", np.int64),
        ("hop_cycles", np.int64),
        ("reduction_pes", np.int64),
    ]
)


class Nest(Protocol):
    """A record of ``NEST_FIELDS``.

    Attributes:
        cores: Factor per dim.
        core_tile: Full tile of a core.
        spm: Full tile in SPM.
        array: Full tile of the PE array.
        rf: Full tile of a PE.
        num_spm_tiles: Per dim over all cores; the next two alike.
        num_array_tiles: Array tiles.
        num_pe_tiles: Pieces of single PEs.
        num_first_pes_of_spm_tiles: Pieces of single PEs in the first array tile of every SPM tile.
        num_first_pes_of_cores: The same, of the first SPM tile of every core.
        dram_dim: Dims of the DRAM loops that iterate, outer to inner.
        spm_dim: Dims of the SPM loops that iterate, outer to inner.
        num_dram: DRAM loops.
        num_spm: SPM loops.
        spm_position: Per operand, the innermost DRAM loop it depends on, or -1.
        rf_position: Per operand, the innermost loop it depends on, counting DRAM loops, then SPM loops, or -1.
        dram_outside_spm: Per operand, bits of the dims of the DRAM loops up to ``spm_position``.
        dram_outside_rf: Per operand, bits of the dims of the DRAM loops up to ``rf_position``.
        spm_outside_rf: Per operand, bits of the dims of the SPM loops up to ``rf_position``.
        spm_double: Per operand.
        rf_double: Per operand.
        spill: Whether partial sums may leave SPM.
        num_cores: Product of ``cores``.
        hop_cycles: Through the reduction network.
        reduction_pes: PEs whose results are summed.
    """

    cores: Ints
    core_tile: Ints
    spm: Ints
    array: Ints
    rf: Ints
    num_spm_tiles: Ints
    num_array_tiles: Ints
    num_pe_tiles: Ints
    num_first_pes_of_spm_tiles: Ints
    num_first_pes_of_cores: Ints
    dram_dim: Ints
    spm_dim: Ints
    num_dram: int
    num_spm: int
    spm_position: Ints
    rf_position: Ints
    dram_outside_spm: Ints
    dram_outside_rf: Ints
    spm_outside_rf: Ints
    spm_double: Ints
    rf_double: Ints
    spill: int
    num_cores: int
    hop_cycles: int
    reduction_pes: int


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
        nest.spm[d] = batch.spm[row, d]
        nest.rf[d] = rf
        nest.array[d] = rf * pes
        nest.core_tile[d] = extent if cores == 1 else ceil_div(extent, cores)
        nest.num_cores *= cores
        if problem.is_reduction[d] == 1:
            row_pes *= batch.rows[row, d]
            col_pes *= batch.cols[row, d]
        if extent == 1:
            nest.num_spm_tiles[d] = nest.num_array_tiles[d] = nest.num_pe_tiles[d] = 1
            nest.num_first_pes_of_spm_tiles[d] = nest.num_first_pes_of_cores[d] = 1
        else:
            _count_tiles(nest, d, extent, pes)
    nest.hop_cycles = row_pes - 1 + col_pes - 1
    nest.reduction_pes = row_pes * col_pes
    nest.spill = batch.spill[row]
    for operand in range(3):
        nest.spm_double[operand] = (batch.spm_double[row] >> operand) & 1
        nest.rf_double[operand] = (batch.rf_double[row] >> operand) & 1
    _place_loops(problem, batch, row, nest)


@small
def _count_tiles(nest: Nest, d: int, extent: int, pes: int) -> None:
    """Trip counts of one dim: those of a full core, times their number, and those of a smaller last core."""
    spm, array, rf = nest.spm[d], nest.array[d], nest.rf[d]
    full_arrays, full_pes, full_first = _array_tiles(spm, array, rf, pes)
    num_spm = num_array = num_pe = first_of_spm = first_of_core = 0
    remaining, chunk, times = extent, nest.core_tile[d], nest.cores[d]
    if times > 1 and chunk * times > extent:
        times -= 1
    while remaining > 0:
        whole = floor_div(chunk, spm)
        edge = chunk - whole * spm
        num_spm += times * whole
        num_array += times * whole * full_arrays
        num_pe += times * whole * full_pes
        first_of_spm += times * whole * full_first
        first = full_first
        if edge > 0:
            arrays, pieces, edge_first = _array_tiles(edge, array, rf, pes)
            num_spm += times
            num_array += times * arrays
            num_pe += times * pieces
            first_of_spm += times * edge_first
            if whole == 0:
                first = edge_first
        first_of_core += times * first
        remaining -= times * chunk
        chunk, times = remaining, 1
    nest.num_spm_tiles[d] = num_spm
    nest.num_array_tiles[d] = num_array
    nest.num_pe_tiles[d] = num_pe
    nest.num_first_pes_of_spm_tiles[d] = first_of_spm
    nest.num_first_pes_of_cores[d] = first_of_core


@small
def _array_tiles(tile: int, array: int, rf: int, pes: int) -> tuple[int, int, int]:
    """(array tiles, pieces of single PEs, those of the first array tile) of one SPM tile of one dim."""
    whole = floor_div(tile, array)
    edge = tile - whole * array
    if edge == 0:
        return whole, whole * pes, pes
    edge_pes = ceil_div(edge, rf)
    return whole + 1, whole * pes + edge_pes, pes if whole > 0 else edge_pes


@small
def _place_loops(problem: Problem, batch: MappingBatch, row: int, nest: Nest) -> None:
    """Keep the loops that iterate in a full tile, and find what each operand's loads depend on."""
    for operand in range(3):
        nest.spm_position[operand] = nest.rf_position[operand] = -1
        nest.dram_outside_spm[operand] = nest.dram_outside_rf[operand] = nest.spm_outside_rf[operand] = 0
    position, seen = 0, 0
    for slot in range(NUM_DIMS):
        d = int(batch.dram_order[row, slot])
        if d < 0:
            break
        if nest.core_tile[d] <= nest.spm[d]:
            continue
        nest.dram_dim[position] = d
        seen |= 1 << d
        for operand in range(3):
            if problem.relevant[operand] >> d & 1:
                nest.spm_position[operand] = nest.rf_position[operand] = position
                nest.dram_outside_spm[operand] = nest.dram_outside_rf[operand] = seen
        position += 1
    nest.num_dram = position
    dram_seen, seen = seen, 0
    for slot in range(NUM_DIMS):
        d = int(batch.spm_order[row, slot])
        if d < 0:
            break
        if nest.spm[d] <= nest.array[d]:
            continue
        nest.spm_dim[position - nest.num_dram] = d
        seen |= 1 << d
        for operand in range(3):
            if problem.relevant[operand] >> d & 1:
                nest.rf_position[operand] = position
                nest.dram_outside_rf[operand], nest.spm_outside_rf[operand] = dram_seen, seen
        position += 1
    nest.num_spm = position - nest.num_dram


@small
def tile_elems(problem: Problem, projection: int, size: Ints) -> int:
    """Elements of the bounding box of a tile, padding included."""
    elems = 1
    for axis in range(problem.axis_start[projection], problem.axis_start[projection + 1]):
        along = 1
        for term in range(problem.term_start[axis], problem.term_start[axis + 1]):
            along += problem.term_coefficient[term] * (size[problem.term_dim[term]] - 1)
        elems *= along
    return elems


@small
def clipped_range(problem: Problem, d: int, first: int, extent: int, tile: int) -> tuple[int, int]:
    """[low, high): the full tiles of a part of dim ``d`` that stay inside all tensors wherever the other dims are."""
    low = ceil_div(max(0, problem.clip_low[d] - first), tile)
    return low, max(low, floor_div(max(0, min(extent, problem.clip_end[d] - first)), tile))
