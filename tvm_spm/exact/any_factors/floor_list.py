"""All SPM tiles that fit, and that a bound leaves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tvm_spm.exact.any_factors.floors import Floor, bound_floor, fill_floor, fill_once
from tvm_spm.exact.any_factors.tables import PASSES, CoreTables
from tvm_spm.exact.case_arrays import CaseArrays, Ints, fitting_of
from tvm_spm.jit import entry, lean
from tvm_spm.space.legality_batch import fits_spm
from tvm_spm.space.mapping_batch import NUM_DIMS


@lean
def _window_start(case: CaseArrays, tables: CoreTables) -> int:
    """The first of the innermost dims along which a tile is the better the larger it is, if only it fits.

    Dims that are summed over, without gaps between neighbours: the tiles of any cut together span what the whole spans,
    in bursts no longer, and are loaded as often at least.
    """
    workload, start, num = case.workload, NUM_DIMS, 1
    while start > 0:
        d = start - 1
        if not workload.is_reduction[d] or tables.tiles[d, tables.num_spm[d] - 1, PASSES] != 1:
            break
        has_gaps = False
        for term in range(len(workload.term_dim)):
            if workload.term_dim[term] == d and workload.term_coefficient[term] != 1:
                has_gaps = True
        if has_gaps:
            break
        start, num = d, num * tables.num_spm[d]
    return start if num > 1 else NUM_DIMS


@lean
def _bound_window(case: CaseArrays, tables: CoreTables, window: tuple[int, int], at: Ints, floor: Floor) -> float:
    """A floor under all tiles that differ from one in the innermost dims alone; none if there are no such dims.

    Args:
        case: What is searched.
        tables: For the factors across cores.
        window: The first of these dims, and the least cycles of all multiplications.
        at: Index per dim of the tile.
        floor: Overwritten.
    """
    start, least_time = window
    if start == NUM_DIMS:
        return 0.0
    for d in range(NUM_DIMS):
        floor.at[d] = at[d] if d < start else tables.num_spm[d] - 1
    fill_floor(case, tables, floor)
    floor.once[:] = 0
    return float(bound_floor(case, floor, least_time))


@entry
def list_floors(case: CaseArrays, tables: CoreTables, least_time: int, limit: float, floors: NDArray[np.void]) -> int:
    """Fill ``floors`` with all SPM tiles that fit, single buffers at least, and that the bound leaves.

    Args:
        case: What is searched.
        tables: For the factors across cores.
        least_time: No unrolling multiplies in fewer cycles.
        limit: Leave out SPM tiles whose bound is not below.
        floors: Filled.

    Returns:
        How many, or -1 if there is no room.
    """
    num, window = 0, _window_start(case, tables)
    at, tile = np.zeros(NUM_DIMS, dtype=np.int64), np.empty(NUM_DIMS, dtype=np.int64)
    while True:
        for d in range(NUM_DIMS):
            tile[d] = tables.spm[d, at[d]]
        fits = fits_spm(case.limits, tile, 0)
        d = NUM_DIMS - 1
        if not fits:
            # a larger tile along the last dim does not fit either
            while d >= 0 and at[d] == 0:
                d -= 1
            if d < 0:
                return num
            at[d] = 0
            d -= 1
        elif num == len(floors):
            return -1
        elif not at[window:].any() and _bound_window(case, tables, (window, least_time), at, floors[num]) >= limit:
            d = window - 1
        else:
            floor = floors[num]
            for dim in range(NUM_DIMS):
                floor.at[dim], floor.spm[dim] = at[dim], tile[dim]
            fill_floor(case, tables, floor)
            floor.once[:] = 0
            if bound_floor(case, floor, least_time) < limit:
                floor.fitting = fitting_of(case, tile)
                fill_once(case, tables, floor)
                floor.bound = bound_floor(case, floor, least_time)
                if floor.bound < limit:
                    num += 1
        while d >= 0:
            at[d] += 1
            if at[d] < tables.num_spm[d]:
                break
            at[d] = 0
            d -= 1
        if d < 0:
            return num
