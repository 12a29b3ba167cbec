"""What the SPM tiles of one axis of a tensor span, for all tiles of its dims: a tensor is a product of its axes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cost_model.transfer import transfer
from tvm_spm.exact.case_arrays import CaseArrays, Ints, O
from tvm_spm.exact.perfect.core_passes import fill_runs
from tvm_spm.jit import kernel, lean
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.space.tensors import inside_elems

INSIDE, COVERING, ENDED = 0, 1, 2
"""Columns of ``sums``."""


class AxisTables(NamedTuple):
    """For one choice of factors across cores.

    A row is one axis with one tile of each of its dims.

    Attributes:
        axis_start: First row per axis.
        num_tiles: ``(8,)`` tiles per dim.
        sums: ``(rows, 3)``, of all tiles of all cores: elements inside the tensor; tiles that span the whole axis; bits
            of the others in whole bursts, each with all inner axes.
        part_start: ``(rows + 1,)`` into ``parts``.
        parts: Of the tiles of a part of the loops: elements inside the tensor, and how many tiles have so many.
    """

    axis_start: Ints
    num_tiles: Ints
    sums: Ints
    part_start: Ints
    parts: Ints


@lean
def row_of(case: CaseArrays, tables: AxisTables, axis: int, at: Ints) -> int:
    """The row of an axis, given the index of the tile per dim."""
    row = 0
    for term in range(case.workload.term_start[axis], case.workload.term_start[axis + 1]):
        d = case.workload.term_dim[term]
        row = row * tables.num_tiles[d] + at[d]
    return tables.axis_start[axis] + int(row)


@kernel
def make_axis_tables(
    case: CaseArrays, divisors: Ints, num_tiles: Ints, part_first: Ints, part: Ints, runs: Ints
) -> AxisTables:
    """Look at every axis with every tile.

    Args:
        case: What is searched.
        divisors: ``(8, n)`` tiles per dim.
        num_tiles: ``(8,)`` how many of them.
        part_first: First indices of the loops that ``parts`` are about.
        part: Extents of those loops, multiples of all tiles.
        runs: Scratch of 8 rows.
    """
    workload, num_axes = case.workload, len(case.workload.axis_extent)
    axis_start, num_rows = np.zeros(num_axes, dtype=np.int64), 0
    for axis in range(num_axes):
        axis_start[axis], count = num_rows, 1
        for term in range(workload.term_start[axis], workload.term_start[axis + 1]):
            count *= num_tiles[workload.term_dim[term]]
        num_rows += count
    sums, part_start = np.zeros((num_rows, 3), dtype=np.int64), np.zeros(num_rows + 1, dtype=np.int64)
    parts, num_parts = np.zeros((4 * num_rows, 2), dtype=np.int64), 0
    tile = np.ones(NUM_DIMS, dtype=np.int64)
    for projection in range(len(workload.elem_bits)):
        inner, bits = 1, workload.out_bits if projection == O else workload.elem_bits[projection]
        for axis in range(workload.axis_start[projection + 1] - 1, workload.axis_start[projection] - 1, -1):
            end = axis_start[axis + 1] if axis + 1 < num_axes else num_rows
            for row in range(axis_start[axis], end):
                _set_tile(case, axis, row - axis_start[axis], divisors, num_tiles, tile)
                _sum_tiles(case, axis, tile, (inner, bits), sums[row])
            inner *= workload.axis_extent[axis]
    for axis in range(num_axes):
        end = axis_start[axis + 1] if axis + 1 < num_axes else num_rows
        for row in range(axis_start[axis], end):
            _set_tile(case, axis, row - axis_start[axis], divisors, num_tiles, tile)
            part_start[row] = num_parts
            most = num_parts + workload.axis_extent[axis] + 1
            if most > len(parts):
                parts = np.concatenate((parts, np.zeros((most, 2), dtype=np.int64)))
            num_parts += _fill_parts(case, axis, tile, (part_first, part), runs, parts[num_parts:])
    part_start[num_rows] = num_parts
    return AxisTables(axis_start, num_tiles.copy(), sums, part_start, parts)


@lean
def _set_tile(case: CaseArrays, axis: int, number: int, divisors: Ints, num_tiles: Ints, tile: Ints) -> None:
    """Let a tile be the one of an axis's dims that has a number, as ``row_of`` counts."""
    for term in range(case.workload.term_start[axis + 1] - 1, case.workload.term_start[axis] - 1, -1):
        d = case.workload.term_dim[term]
        tile[d] = divisors[d, number % num_tiles[d]]
        number //= num_tiles[d]


@kernel
def _sum_tiles(case: CaseArrays, axis: int, tile: Ints, burst: tuple[int, int], sums: Ints) -> None:
    """Fill a row of ``sums``; a burst goes on over so many inner elements, each of so many bits."""
    workload, (inner, bits) = case.workload, burst
    low, high = workload.term_start[axis], workload.term_start[axis + 1]
    first = np.zeros(NUM_DIMS, dtype=np.int64)
    while True:
        inside = inside_elems(workload, axis, first, tile)
        sums[INSIDE] += inside
        if inside == workload.axis_extent[axis]:
            sums[COVERING] += 1
        else:
            sums[ENDED] += transfer(inside * inner, 1, bits, case.arch.burst_bits, 0.0, 1.0)[1]
        term = high - 1
        while term >= low:
            d = workload.term_dim[term]
            first[d] += tile[d]
            if first[d] < workload.dims[d]:
                break
            first[d] = 0
            term -= 1
        if term < low:
            return


@kernel
def _fill_parts(case: CaseArrays, axis: int, tile: Ints, part: tuple[Ints, Ints], runs: Ints, parts: Ints) -> int:
    """Fill rows of ``parts`` for one axis, each number of elements once; returns how many."""
    workload, (part_first, extents) = case.workload, part
    low, high = workload.term_start[axis], workload.term_start[axis + 1]
    digit, num_runs = np.zeros(NUM_DIMS, dtype=np.int64), np.ones(NUM_DIMS, dtype=np.int64)
    first = part_first.copy()
    for term in range(low, high):
        d = workload.term_dim[term]
        num_runs[d] = fill_runs(case, (axis, axis + 1), d, (part_first[d], extents[d], tile[d]), False, runs[d])
    num = 0
    while True:
        weight = 1
        for term in range(low, high):
            d = workload.term_dim[term]
            first[d] = part_first[d] + runs[d, digit[d]] * tile[d]
            weight *= runs[d, digit[d] + 1] - runs[d, digit[d]]
        inside, at = inside_elems(workload, axis, first, tile), 0
        while at < num and parts[at, 0] != inside:
            at += 1
        if at == num:
            parts[num, 0], parts[num, 1] = inside, 0
            num += 1
        parts[at, 1] += weight
        term = high - 1
        while term >= low:
            d = workload.term_dim[term]
            digit[d] += 1
            if digit[d] < num_runs[d]:
                break
            digit[d] = 0
            term -= 1
        if term < low:
            return num


@lean
def moved_total(case: CaseArrays, tables: AxisTables, projection: int, at: Ints) -> tuple[float, float]:
    """(elements, unused bits of whole bursts) if every SPM tile of a projection, over all cores, moves once.

    Exact: sums over tiles of ``transfer``, as a product over axes. A burst goes on from the innermost axis out as long
    as tiles cover the axes, and ends on the first one of which a tile leaves out a part.
    """
    workload = case.workload
    bits = workload.out_bits if projection == O else workload.elem_bits[projection]
    elems, moved, whole, inner = 1.0, 0.0, 1.0, 1
    for axis in range(workload.axis_start[projection + 1] - 1, workload.axis_start[projection] - 1, -1):
        sums = tables.sums[row_of(case, tables, axis, at)]
        moved = moved * sums[INSIDE] + whole * sums[ENDED]
        elems, whole, inner = elems * sums[INSIDE], whole * sums[COVERING], inner * workload.axis_extent[axis]
    moved += whole * transfer(inner, 1, bits, case.arch.burst_bits, 0.0, 1.0)[1]
    return elems, moved - elems * bits


@kernel
def loads_cycles(case: CaseArrays, tables: AxisTables, operand: int, at: Ints) -> int:
    """Cycles of a channel to load all tiles of the part of an operand once: a sum over tiles of ``transfer``."""
    workload = case.workload
    low, high = workload.axis_start[operand], workload.axis_start[operand + 1]
    num_axes = high - low
    digit, rows = np.empty(num_axes, dtype=np.int64), np.empty(num_axes, dtype=np.int64)
    for axis in range(num_axes):
        rows[axis] = row_of(case, tables, low + axis, at)
        digit[axis] = tables.part_start[rows[axis]]
    total = 0
    while True:
        elems, bursts, weight, is_whole = 1, 1, 1, True
        for axis in range(num_axes - 1, -1, -1):
            inside = tables.parts[digit[axis], 0]
            weight *= tables.parts[digit[axis], 1]
            elems *= inside
            if not is_whole:
                bursts *= inside
            if inside < workload.axis_extent[low + axis]:
                is_whole = False
        total += weight * transfer(
            elems, bursts, workload.elem_bits[operand], case.arch.burst_bits, case.arch.burst_startup_cycles,
            case.arch.dma_bytes_per_cycle,
        )[0]  # fmt: skip
        axis = num_axes - 1
        while axis >= 0:
            digit[axis] += 1
            if digit[axis] < tables.part_start[rows[axis] + 1]:
                break
            digit[axis] = tables.part_start[rows[axis]]
            axis -= 1
        if axis < 0:
            return total
