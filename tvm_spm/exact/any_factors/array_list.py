"""Lists the array tiles that a bound leaves: PEs per dim times RF tiles that fit a PE."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tvm_spm.exact.any_factors.arrays import ArrayBound, allowed_buffers, bound_array, fitting_buffers, make_array_bound
from tvm_spm.exact.any_factors.tables import ARRAY_FIELDS, LEAST_TIME, CoreTables
from tvm_spm.exact.case_arrays import NONE, CaseArrays, Floats, Ints
from tvm_spm.jit import entry, lean
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.space.tensors import tile_elems

ARRAY_TILE_FIELDS = np.dtype(
    [
        ("pes", np.int64),
        ("rf", np.int32, NUM_DIMS),
        ("fitting", np.int64),
        ("class_pj", np.float64, NONE + 1),
        ("class_cycles", np.float64, NONE + 1),
        ("bound", np.float64),
    ]
)
"""PEs as an index of unrollings, RF tile, buffers that fit; ``class_pj`` and ``class_cycles`` of its ``ArrayBound``; a
floor under the objective."""

FIRST_WIDTH = 4
"""RF tiles along a dim that are judged at once to begin with; doubles if all are left out, halves if not."""

ANY_FITTING = 255
"""Any operands may have two RF buffers."""


class Unrollings(NamedTuple):
    """Factors across the PE array.

    Attributes:
        factors: ``(n, 2, 8)`` rows and columns.
        pes: ``(n, 8)`` their products.
        hops: Of the reduction network, in cycles.
        reduction_pes: PEs whose results are summed.
    """

    factors: Ints
    pes: Ints
    hops: Ints
    reduction_pes: Ints


class RfListing(NamedTuple):
    """Where the listing of RF tiles stands: dims are given one after the other.

    Attributes:
        dims: Dims that iterate, those with few tiles first, so that much is known when there are many to choose from.
        most: ``(9, 8)`` by the number of dims given: the largest RF tile of every dim that fits beside those.
        width: RF tiles along a dim that are judged at once, by the number of dims given.
        bound: Of the tile so far.
        num_bounded: How many bounds there were, one number as an array.
    """

    dims: Ints
    most: Ints
    width: Ints
    bound: ArrayBound
    num_bounded: Ints


@entry
def list_arrays(
    case: CaseArrays,
    tables: CoreTables,
    unrollings: Unrollings,
    around: Floats,
    limit: float,
    start: int,
    found: NDArray[np.void],
) -> tuple[int, int, int]:
    """Fill ``found`` with all array tiles whose bound is below ``limit``, but those of passes of a single step.

    Args:
        case: What is searched.
        tables: For the factors across cores.
        unrollings: Over PEs.
        around: Floors under groups of SPM tiles: energy of all but the traffic of the RFs, cycles of the DMA, cycles in
            which no pass runs, and cycles of all passes.
        limit: See above.
        start: The first unrolling.
        found: Filled with all array tiles of some unrollings, and perhaps a part of those of the next.

    Returns:
        (how many of the former, first unrolling left, bounds computed).
    """
    num, num_dims = 0, 0
    for d in range(NUM_DIMS):
        num_dims += 1 if tables.share[d] > 1 else 0
    dims = np.empty(num_dims, dtype=np.int64)
    for d in range(NUM_DIMS - 1, -1, -1):
        if tables.share[d] > 1:
            num_dims -= 1
            dims[num_dims] = d
    for index in range(1, len(dims)):
        for place in range(index, 0, -1):
            if tables.share[dims[place - 1]] > tables.share[dims[place]]:
                dims[place - 1], dims[place] = dims[place], dims[place - 1]
    walk = RfListing(
        dims, np.ones((NUM_DIMS + 1, NUM_DIMS), np.int64), np.empty(NUM_DIMS, np.int64), make_array_bound(),
        np.zeros(1, np.int64),
    )  # fmt: skip
    walk.bound.rf[:] = 1
    walk.bound.counts[:] = 1
    if len(dims) == 0 or fitting_buffers(case, walk.bound.rf) == 0:
        return 0, len(unrollings.hops), 0
    for unrolling in range(start, len(unrollings.hops)):
        end = _list_unrolling(case, tables, unrollings, unrolling, around, limit, walk, found[num:])
        if end < 0:
            return num, unrolling, walk.num_bounded[0]
        num += end
    return num, len(unrollings.hops), walk.num_bounded[0]


@lean
def _look_up(table: Ints, row: int, d: int, counts: Ints) -> bool:
    """Set the counts of a dim; False if no tile is so."""
    for field in range(ARRAY_FIELDS):
        counts[field, d] = table[row, field]
    return bool(table[row, LEAST_TIME] > 0)


@lean
def _list_unrolling(
    case: CaseArrays,
    tables: CoreTables,
    unrollings: Unrollings,
    unrolling: int,
    around: Floats,
    limit: float,
    walk: RfListing,
    found: NDArray[np.void],
) -> int:
    """Fill ``found`` with the array tiles of one unrolling; returns how many, -1 if there is no room."""
    pes, hops, reduction_pes = (
        unrollings.pes[unrolling],
        unrollings.hops[unrolling],
        unrollings.reduction_pes[unrolling],
    )
    dims, most, bound, rf, num = walk.dims, walk.most, walk.bound, walk.bound.rf, 0
    num_dims = len(dims)
    for d in range(NUM_DIMS):
        rf[d], bound.array[d], most[0, d] = 1, 0, -(-tables.share[d] // pes[d])
        _look_up(tables.arrays_upto, tables.array_start[d, pes[d]], d, bound.counts)
    walk.num_bounded[0] += 1
    if not _bound_rest(case, tables, pes, 0, walk):
        return 0
    if bound_array(case, tables, hops, reduction_pes, ANY_FITTING, around, bound) >= limit:
        return 0
    depth, rf[dims[0]], walk.width[0] = 0, 0, FIRST_WIDTH
    while depth >= 0:
        d = dims[depth]
        rf[d] += 1
        if rf[d] > most[depth, d]:
            rf[d] = 1
            depth -= 1
            continue
        fitting = fitting_buffers(case, rf)
        if fitting == 0:
            most[depth, d] = 0
            continue
        # RF tiles from this one on at once, if they are likely to be left out
        last = min(rf[d] + walk.width[depth] - 1, most[depth, d])
        is_one, is_leaf = last == rf[d], depth == num_dims - 1 and last == rf[d]
        row = tables.array_start[d, pes[d]] + last - 1
        if not _look_up(tables.arrays if is_one else tables.arrays_upto, row, d, bound.counts):
            rf[d] = last
            continue
        for dim in range(NUM_DIMS):
            most[depth + 1, dim] = most[depth, dim]
            bound.array[dim] = pes[dim] * rf[dim] if is_leaf else 0
        walk.num_bounded[0] += 1
        is_left = _bound_rest(case, tables, pes, depth + 1, walk)
        if is_leaf:
            fitting = allowed_buffers(case, fitting)
            is_left = is_left and fitting != 0
        objective = np.inf
        if is_left:
            objective = bound_array(case, tables, hops, reduction_pes, fitting, around, bound)
        if objective >= limit:
            rf[d] = last
            walk.width[depth] *= 2
        elif not is_one:
            rf[d] -= 1
            walk.width[depth] //= 2
        elif is_leaf:
            if num == len(found):
                return -1
            entry = found[num]
            entry.pes, entry.fitting, entry.bound = unrolling, fitting, objective
            for kept in range(NONE + 1):
                entry.class_pj[kept], entry.class_cycles[kept] = bound.class_pj[kept], bound.class_cycles[kept]
            for dim in range(NUM_DIMS):
                entry.rf[dim] = rf[dim]
            num += 1
        else:
            depth += 1
            rf[dims[depth]], walk.width[depth] = 0, FIRST_WIDTH
    return num


@lean
def _bound_rest(case: CaseArrays, tables: CoreTables, pes: Ints, start: int, walk: RfListing) -> bool:
    """Let the dims from ``start`` on have any RF tiles that fit beside those given; False if one has none.

    ``walk.most[start]`` has upper bounds of them, and is lowered.
    """
    rf, room = walk.bound.rf, 8 * case.limits.rf_bytes
    for operand in range(3):
        room -= tile_elems(case.workload, operand, rf) * case.limits.rf_bits[operand]
    if room < 0:
        return False
    for index in range(start, len(walk.dims)):
        d = walk.dims[index]
        # a dim is on one axis of a tensor at most, so that elements are linear in its tile
        step = 0
        for operand in range(3):
            step -= tile_elems(case.workload, operand, rf) * case.limits.rf_bits[operand]
        rf[d] = 2
        for operand in range(3):
            step += tile_elems(case.workload, operand, rf) * case.limits.rf_bits[operand]
        rf[d] = 1
        if step > 0:
            walk.most[start, d] = min(walk.most[start, d], 1 + room // step)
        row = tables.array_start[d, pes[d]] + walk.most[start, d] - 1
        if not _look_up(tables.arrays_upto, row, d, walk.bound.counts):
            return False
    return True
