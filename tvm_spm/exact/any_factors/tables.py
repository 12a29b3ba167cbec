"""What every balanced cut of one dim comes to: its tiles, steps and pieces of PEs, counted once and looked up since.

A balanced tile is the smallest for its number of pieces (see ``space.tiles``). All that a mapping moves and computes
is a product over dims of these counts, or over axes of sums that are linear in them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.transfer import transfer
from tvm_spm.exact.case_arrays import CaseArrays, Floats, Ints, O
from tvm_spm.jit import entry, kernel, lean
from tvm_spm.space.constraints_batch import DRAM, RF, SPM, Rules
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.space.tensors import inside_elems
from tvm_spm.space.tiles import num_tiles, tile_at

PASSES, ALL_TILES = 0, 1
"""Of an SPM tile: tiles of the first core, and of all cores."""

TILE_FIELDS = 2

TIME, STEPS, FULL_STEPS, FIRST, LAST, LAST_TIME, ALL_STEPS, PIECES, PIECES_DRAM, PIECES_ONCE = range(10)
"""Of an SPM tile, PEs and an RF tile. On the first core: cycles, 0 if the RF tile is not balanced; array tiles, and
full ones; elements of the first, and of the last array tile of each pass, and cycles of the last. On all cores: array
tiles; pieces that one PE holds: of all array tiles, of the first of each SPM tile, and of the first of each core."""

CUT_FIELDS = 10

LEAST_TIME, LEAST_STEPS, MOST_STEPS, LEAST_ALL, MOST_ALL, LEAST_PIECES, MOST_PIECES, LEAST_ONCE = range(8)
"""Of PEs and an RF tile under any SPM tile, 0 if there is none; the most steps and pieces bound sums of strides."""

ARRAY_FIELDS = 8


class CoreTables(NamedTuple):
    """Counts for one choice of factors across cores.

    Attributes:
        cores: Factors.
        num_cores: Product of the factors.
        share: Elements of the first core, which has the most.
        num_spm: SPM tiles per dim.
        spm: ``(8, n)`` SPM tiles, ascending.
        tiles: ``(8, n, TILE_FIELDS)``.
        cut_start: ``(8, n, p)``: the row of RF tile 1, -1 if so many PEs have no work.
        cuts: ``(rows, CUT_FIELDS)``.
        least_time: ``(8, n, p)``: the least cycles under any RF tile.
        array_start: ``(8, p)``: the row of RF tile 1.
        arrays: ``(rows, ARRAY_FIELDS)``.
        arrays_upto: Of every row of ``arrays``, the least, or the most, of all RF tiles up to its own.
        axis_start: First row of ``inside`` per axis.
        inside: Per axis and SPM tiles of its dims: elements inside the tensor of all tiles; tiles that span the whole
            axis; tiles that span a part of it; bits that those move in whole bursts, if they cover all inner axes.
        tensor_bits: Per projection, bits of the whole tensor in whole bursts.
        elems: Elements of I, W, O if tiles of any size span each just once, else 0.
        is_strided: Per axis, whether neighbours are further apart than one element.
    """

    cores: Ints
    num_cores: int
    share: Ints
    num_spm: Ints
    spm: Ints
    tiles: Ints
    cut_start: Ints
    cuts: Ints
    least_time: Ints
    array_start: Ints
    arrays: Ints
    arrays_upto: Ints
    axis_start: Ints
    inside: Floats
    tensor_bits: Floats
    elems: Floats
    is_strided: NDArray[np.bool_]


@lean
def ceil_of(a: int, b: int) -> int:
    """Round up."""
    return -(-a // b)


@lean
def fill_tile(extent: int, cores: int, share: int, tile: int, row: Ints) -> None:
    """Count the SPM tiles of a dim."""
    row[PASSES] = ceil_of(share, tile)
    row[ALL_TILES] = (cores - 1) * row[PASSES] + ceil_of(extent - (cores - 1) * share, tile)


@lean
def fill_cut(extent: int, cores: int, share: int, tile: int, pes: int, rf: int, row: Ints) -> None:
    """Count the array tiles of a dim and the pieces of its PEs."""
    row[:] = 0
    array = pes * rf
    for is_last in range(2):
        chunk = share if is_last == 0 else extent - (cores - 1) * share
        chunks = cores - 1 if is_last == 0 and cores > 1 else 1
        if is_last == 1 and cores == 1:
            break
        row[PIECES_ONCE] += chunks * ceil_of(min(array, min(chunk, tile)), rf)
        for is_edge in range(2):
            part = tile if is_edge == 0 else chunk % tile
            parts = chunk // tile if is_edge == 0 else 1
            if part == 0 or parts == 0:
                continue
            full, rest = part // array, part % array
            steps = full + (1 if rest > 0 else 0)
            row[ALL_STEPS] += chunks * parts * steps
            row[PIECES] += chunks * parts * (full * pes + ceil_of(rest, rf))
            row[PIECES_DRAM] += chunks * parts * ceil_of(min(array, part), rf)
            if is_last == 0:
                last = rest if rest > 0 else array
                row[TIME] += parts * (full * rf + min(rf, rest))
                row[STEPS] += parts * steps
                row[FULL_STEPS] += parts * full
                row[FIRST] += parts * min(array, part)
                row[LAST] += parts * last
                row[LAST_TIME] += parts * min(rf, last)


@lean
def is_balanced(extent: int, tile: int) -> bool:
    """Whether no smaller tile has as few pieces."""
    return tile == 1 or ceil_of(extent, tile - 1) > ceil_of(extent, tile)


@entry
def make_tables(case: CaseArrays, rules: Rules, cores: Ints, most_pes: int) -> CoreTables:
    """Count everything for one choice of factors across cores."""
    dims = case.workload.dims
    share, num_spm = np.empty(NUM_DIMS, dtype=np.int64), np.zeros(NUM_DIMS, dtype=np.int64)
    most_spm = 0
    for d in range(NUM_DIMS):
        share[d] = ceil_of(dims[d], cores[d])
        most_spm = max(most_spm, num_tiles(share[d]))
    pes_end = min(most_pes, share.max()) + 1
    spm = np.ones((NUM_DIMS, most_spm), dtype=np.int64)
    num_cuts, num_arrays = 0, 0
    cut_start = np.full((NUM_DIMS, most_spm, pes_end), -1, dtype=np.int64)
    array_start = np.full((NUM_DIMS, pes_end), -1, dtype=np.int64)
    for d in range(NUM_DIMS):
        for index in range(num_tiles(share[d])):
            tile = tile_at(share[d], index)
            loops = ceil_of(share[d], tile)
            if rules.low[SPM, d] <= tile <= rules.high[SPM, d] and rules.low[DRAM, d] <= loops <= rules.high[DRAM, d]:
                spm[d, num_spm[d]] = tile
                num_spm[d] += 1
        for pes in range(1, min(pes_end - 1, share[d]) + 1):
            array_start[d, pes] = num_arrays
            num_arrays += ceil_of(share[d], pes)
            for index in range(num_spm[d]):
                if spm[d, index] >= pes:
                    cut_start[d, index, pes] = num_cuts
                    num_cuts += ceil_of(spm[d, index], pes)
    tiles = np.zeros((NUM_DIMS, most_spm, TILE_FIELDS), dtype=np.int64)
    cuts = np.zeros((num_cuts, CUT_FIELDS), dtype=np.int64)
    least_time = np.zeros((NUM_DIMS, most_spm, pes_end), dtype=np.int64)
    arrays = np.zeros((num_arrays, ARRAY_FIELDS), dtype=np.int64)
    arrays_upto = np.zeros((num_arrays, ARRAY_FIELDS), dtype=np.int64)
    for d in range(NUM_DIMS):
        for index in range(num_spm[d]):
            tile = spm[d, index]
            fill_tile(dims[d], cores[d], share[d], tile, tiles[d, index])
            for pes in range(1, min(pes_end - 1, tile) + 1):
                most = ceil_of(tile, pes)
                for rf in range(max(1, rules.low[RF, d]), min(most, rules.high[RF, d]) + 1):
                    if not is_balanced(most, rf) or rf * (pes - 1) >= tile:
                        continue
                    row = cuts[cut_start[d, index, pes] + rf - 1]
                    fill_cut(dims[d], cores[d], share[d], tile, pes, rf, row)
                    if least_time[d, index, pes] == 0 or row[TIME] < least_time[d, index, pes]:
                        least_time[d, index, pes] = row[TIME]
                    _gather(row, arrays[array_start[d, pes] + rf - 1])
        for pes in range(1, min(pes_end - 1, share[d]) + 1):
            for rf in range(1, ceil_of(share[d], pes) + 1):
                row = array_start[d, pes] + rf - 1
                if rf > 1:
                    arrays_upto[row] = arrays_upto[row - 1]
                _lower(arrays[row], arrays_upto[row])
    axis_start, inside, tensor_bits = _sum_axes(case, cores, share, num_spm, spm)
    is_strided = np.zeros(len(axis_start), dtype=np.bool_)
    for axis in range(len(axis_start)):
        for term in range(case.workload.term_start[axis], case.workload.term_start[axis + 1]):
            if case.workload.term_coefficient[term] != 1:
                is_strided[axis] = True
    elems = np.ones(3, dtype=np.float64)
    for operand in range(3):
        for axis in range(case.workload.axis_start[operand], case.workload.axis_start[operand + 1]):
            first = case.workload.term_start[axis]
            is_apart = case.workload.term_start[axis + 1] - first == 1 and not is_strided[axis]
            elems[operand] *= dims[case.workload.term_dim[first]] if is_apart else 0
    return CoreTables(
        cores, int(cores.prod()), share, num_spm, spm, tiles, cut_start, cuts, least_time, array_start, arrays,
        arrays_upto, axis_start, inside, tensor_bits, elems, is_strided,
    )  # fmt: skip


@lean
def _gather(cut: Ints, array: Ints) -> None:
    """Let an array tile stand for one more SPM tile."""
    is_new = array[LEAST_TIME] == 0
    for least, count in (
        (LEAST_TIME, TIME), (LEAST_STEPS, STEPS), (LEAST_ALL, ALL_STEPS), (LEAST_PIECES, PIECES),
        (LEAST_ONCE, PIECES_ONCE),
    ):  # fmt: skip
        array[least] = cut[count] if is_new else min(array[least], cut[count])
    for most, count in ((MOST_STEPS, STEPS), (MOST_ALL, ALL_STEPS), (MOST_PIECES, PIECES)):
        array[most] = max(array[most], cut[count])


@lean
def _lower(array: Ints, least: Ints) -> None:
    """Let the least of all RF tiles regard one more."""
    if array[LEAST_TIME] == 0:
        return
    is_new = least[LEAST_TIME] == 0
    for field in (LEAST_TIME, LEAST_STEPS, LEAST_ALL, LEAST_PIECES, LEAST_ONCE):
        least[field] = array[field] if is_new else min(least[field], array[field])
    for field in (MOST_STEPS, MOST_ALL, MOST_PIECES):
        least[field] = max(least[field], array[field])


@kernel
def _burst_axes(case: CaseArrays) -> tuple[Ints, Ints, Floats]:
    """Per axis the elements of all inner axes together, and bits of an element as it moves; and ``tensor_bits``."""
    workload = case.workload
    num_axes = len(workload.axis_extent)
    inner, bits = np.ones(num_axes, dtype=np.int64), np.zeros(num_axes, dtype=np.int64)
    tensor_bits = np.zeros(len(workload.elem_bits), dtype=np.float64)
    for projection in range(len(workload.elem_bits)):
        elems = 1
        # outputs of this search are finished when they move
        width = workload.out_bits if projection == O else workload.elem_bits[projection]
        for axis in range(workload.axis_start[projection + 1] - 1, workload.axis_start[projection] - 1, -1):
            inner[axis], bits[axis] = elems, width
            elems *= workload.axis_extent[axis]
        tensor_bits[projection] = transfer(elems, 1, width, case.arch.burst_bits, 0.0, 1.0)[1]
    return inner, bits, tensor_bits


@kernel
def _sum_axes(case: CaseArrays, cores: Ints, share: Ints, num_spm: Ints, spm: Ints) -> tuple[Ints, Floats, Floats]:
    """``axis_start``, ``inside`` and ``tensor_bits``."""
    workload = case.workload
    num_axes = len(workload.axis_extent)
    inner, bits, tensor_bits = _burst_axes(case)
    axis_start, rows = np.zeros(num_axes, dtype=np.int64), 0
    for axis in range(num_axes):
        axis_start[axis] = rows
        count = 1
        for term in range(workload.term_start[axis], workload.term_start[axis + 1]):
            count *= num_spm[workload.term_dim[term]]
        rows += count
    inside = np.zeros((rows, 4), dtype=np.float64)
    first, size, tile = np.zeros(NUM_DIMS, np.int64), np.ones(NUM_DIMS, np.int64), np.ones(NUM_DIMS, np.int64)
    at = np.zeros(NUM_DIMS, dtype=np.int64)
    for axis in range(num_axes):
        low, high = workload.term_start[axis], workload.term_start[axis + 1]
        end = axis_start[axis + 1] if axis + 1 < num_axes else rows
        for row in range(axis_start[axis], end):
            rest = row - axis_start[axis]
            for term in range(high - 1, low - 1, -1):
                d = workload.term_dim[term]
                at[d] = rest % num_spm[d]
                rest //= num_spm[d]
                tile[d] = spm[d, at[d]]
                first[d], size[d] = 0, min(tile[d], share[d])
            while True:
                elems = inside_elems(workload, axis, first, size)
                inside[row, 0] += elems
                if elems == workload.axis_extent[axis]:
                    inside[row, 1] += 1
                elif elems > 0:
                    inside[row, 2] += 1
                    inside[row, 3] += transfer(elems * inner[axis], 1, bits[axis], case.arch.burst_bits, 0.0, 1.0)[1]
                term = high - 1
                while term >= low:
                    d = workload.term_dim[term]
                    first[d] += size[d]
                    if first[d] < workload.dims[d]:
                        # no tile reaches beyond the share of its core
                        share_end = min(workload.dims[d], (first[d] // share[d] + 1) * share[d])
                        size[d] = min(tile[d], share_end - first[d])
                        break
                    first[d], size[d] = 0, min(tile[d], share[d])
                    term -= 1
                if term < low:
                    break
    return axis_start, inside, tensor_bits
