"""Lists the array tiles of balanced mappings that a bound leaves: PEs per dim times RF tiles that fit a PE."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tvm_spm.exact.balanced.arrays import allowed_buffers, bound_array, fitting_buffers
from tvm_spm.exact.balanced.tables import ARRAY_FIELDS, LEAST_TIME, Tables
from tvm_spm.exact.pass_time import NONE, I, Ints, O, W
from tvm_spm.exact.problem import Problem
from tvm_spm.jit import entry, lean
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.space.tensors import tile_elems

BALANCED_ARRAY_FIELDS = np.dtype(
    [
        ("pes", np.int64),
        ("rf", np.int32, NUM_DIMS),
        ("fitting", np.int64),
        ("class_pj", np.float64, NONE + 1),
        ("class_cycles", np.float64, NONE + 1),
        ("bound", np.float64),
    ]
)
"""PEs as an index of unrollings, RF tile, buffers that fit; by the operand that the innermost SPM loop leaves in place,
floors under the energy of the RFs' traffic and the cycles of all passes; and a floor under the objective."""


FIRST_WIDTH = 4
"""RF tiles along a dim that are judged at once to begin with; doubles if all are left out, halves if not."""

ANY_FITTING = 255
"""Any operands may have two RF buffers."""


@entry
def list_arrays(
    problem: Problem,
    tables: Tables,
    pes: Ints,
    hops: Ints,
    around: NDArray[np.float64],
    limit: float,
    start: int,
    found: NDArray[np.void],
) -> tuple[int, int]:
    """Fill ``found`` with all array tiles whose bound is below ``limit``, but those of passes of a single step.

    Args:
        problem: What is searched.
        tables: For the factors across cores.
        pes: ``(n, 8)`` PEs per dim.
        hops: Of each.
        around: Floors under groups of SPM tiles: energy of all but the traffic of the RFs, cycles of the DMA, and
            cycles before the first and after the last pass.
        limit: See above.
        start: The first PEs.
        found: Filled with all array tiles of some PEs, and perhaps a part of those of the next.

    Returns:
        (how many of the former, first PEs left).
    """
    num, dims, num_dims = 0, np.empty(NUM_DIMS, dtype=np.int64), 0
    for d in range(NUM_DIMS):
        if tables.share[d] > 1:
            dims[num_dims] = d
            num_dims += 1
    if num_dims == 0:
        return 0, len(pes)
    # dims with few tiles first, so that much is known when there are many to choose from
    for index in range(1, num_dims):
        for place in range(index, 0, -1):
            if tables.share[dims[place - 1]] > tables.share[dims[place]]:
                dims[place - 1], dims[place] = dims[place], dims[place - 1]
    width = np.empty(NUM_DIMS, dtype=np.int64)
    counts = np.ones((NUM_DIMS, ARRAY_FIELDS), dtype=np.int64)
    scratch, moved_pj = np.empty((ARRAY_FIELDS, NUM_DIMS), dtype=np.int64), np.empty(23, dtype=np.float64)
    array, no_array = np.zeros(NUM_DIMS, dtype=np.int64), np.zeros(NUM_DIMS, dtype=np.int64)
    # the largest RF tile of every dim that fits beside those given, by the number of dims given
    most = np.ones((NUM_DIMS + 1, NUM_DIMS), dtype=np.int64)
    rf = np.ones(NUM_DIMS, dtype=np.int64)
    if fitting_buffers(problem, rf) == 0:
        return 0, len(pes)
    for unrolling in range(start, len(pes)):
        end = _list_unrolling(problem, tables, pes[unrolling], hops[unrolling], unrolling, dims, num_dims, around,
                              limit, counts, scratch, moved_pj, most, width, array, no_array, rf, found,
                              num)  # fmt: skip
        if end < 0:
            return num, unrolling
        num = end
    return num, len(pes)


@lean
def _list_unrolling(
    problem: Problem,
    tables: Tables,
    p: Ints,
    hops: int,
    unrolling: int,
    dims: Ints,
    num_dims: int,
    around: NDArray[np.float64],
    limit: float,
    counts: Ints,
    scratch: Ints,
    moved_pj: NDArray[np.float64],
    most: Ints,
    width: Ints,
    array: Ints,
    no_array: Ints,
    rf: Ints,
    found: NDArray[np.void],
    num: int,
) -> int:
    """Append the array tiles of one unrolling; returns the entries in use, -1 if there is no room."""
    workload = problem.workload
    reduction_pes = 1
    rf[:] = 1
    for d in range(NUM_DIMS):
        most[0, d] = -(-tables.share[d] // p[d])
        row = tables.arrays_upto[tables.array_start[d, p[d]]]
        for field in range(ARRAY_FIELDS):
            counts[d, field] = row[field]
        if workload.is_reduction[d]:
            reduction_pes *= p[d]
    if not _bound_rest(problem, tables, p, dims, 0, num_dims, rf, most[0], counts):
        return num
    bound = bound_array(problem, tables, counts, hops, reduction_pes, ANY_FITTING, rf,
                              no_array, around, scratch, moved_pj)  # fmt: skip
    if bound >= limit:
        return num
    depth, rf[dims[0]], width[0] = 0, 0, FIRST_WIDTH
    while depth >= 0:
        d = dims[depth]
        rf[d] += 1
        if rf[d] > most[depth, d]:
            rf[d] = 1
            depth -= 1
            continue
        fitting = fitting_buffers(problem, rf)
        if fitting == 0:
            most[depth, d] = 0
            continue
        # RF tiles from this one on at once, if they are likely to be left out
        last = min(rf[d] + width[depth] - 1, most[depth, d])
        is_one, is_leaf = last == rf[d], depth == num_dims - 1 and last == rf[d]
        row = (tables.arrays if is_one else tables.arrays_upto)[tables.array_start[d, p[d]] + last - 1]
        if row[LEAST_TIME] == 0:
            rf[d] = last
            continue
        for field in range(ARRAY_FIELDS):
            counts[d, field] = row[field]
        for dim in range(NUM_DIMS):
            most[depth + 1, dim] = most[depth, dim]
            array[dim] = p[dim] * rf[dim]
        is_left = _bound_rest(problem, tables, p, dims, depth + 1, num_dims, rf, most[depth + 1], counts)
        if is_leaf:
            fitting = allowed_buffers(problem, fitting)
            is_left = is_left and fitting != 0
        bound = np.inf
        if is_left:
            bound = bound_array(problem, tables, counts, hops, reduction_pes,
                                                        fitting, rf, array if is_leaf else no_array, around,
                                                        scratch, moved_pj)  # fmt: skip
        if bound >= limit:
            rf[d] = last
            width[depth] *= 2
        elif not is_one:
            rf[d] -= 1
            width[depth] //= 2
        elif is_leaf:
            if num == len(found):
                return -1
            entry = found[num]
            entry.pes, entry.fitting, entry.bound = unrolling, fitting, bound
            for kept in range(NONE + 1):
                entry.class_pj[kept], entry.class_cycles[kept] = moved_pj[15 + kept], moved_pj[19 + kept]
            for dim in range(NUM_DIMS):
                entry.rf[dim] = rf[dim]
            num += 1
        else:
            depth += 1
            rf[dims[depth]], width[depth] = 0, FIRST_WIDTH
    return num


@lean
def _bound_rest(
    problem: Problem, tables: Tables, pes: Ints, dims: Ints, start: int, stop: int, rf: Ints, most: Ints, counts: Ints
) -> bool:
    """Let the dims from ``start`` on have any RF tiles that fit beside those given; False if one has none.

    ``most`` has upper bounds of them, and is lowered.
    """
    bits = problem.limits.rf_bits
    elems_i, elems_w, elems_o = (
        tile_elems(problem.workload, I, rf), tile_elems(problem.workload, W, rf), tile_elems(problem.workload, O, rf)
    )  # fmt: skip
    room = 8 * problem.limits.rf_bytes - elems_i * bits[I] - elems_w * bits[W] - elems_o * bits[O]
    if room < 0:
        return False
    for index in range(start, stop):
        d = dims[index]
        # a dim is on one axis of a tensor at most, so that elements are linear in its tile
        rf[d] = 2
        step = (
            (tile_elems(problem.workload, I, rf) - elems_i) * bits[I]
            + (tile_elems(problem.workload, W, rf) - elems_w) * bits[W]
            + (tile_elems(problem.workload, O, rf) - elems_o) * bits[O]
        )
        rf[d] = 1
        if step > 0:
            most[d] = min(most[d], 1 + room // step)
        row = tables.arrays_upto[tables.array_start[d, pes[d]] + most[d] - 1]
        for field in range(ARRAY_FIELDS):
            counts[d, field] = row[field]
        if counts[d, LEAST_TIME] == 0:
            return False
    return True
