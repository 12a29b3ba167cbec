"""All array tiles of balanced mappings that a bound leaves: PEs per dim times RF tiles that fit a PE."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tvm_spm.constraints_batch import ANY_BUFFERS
from tvm_spm.exact.balanced_floors import SLACK
from tvm_spm.exact.balanced_tables import (
    ARRAY_FIELDS,
    LEAST_ALL,
    LEAST_ONCE,
    LEAST_PIECES,
    LEAST_STEPS,
    LEAST_TIME,
    MOST_ALL,
    MOST_PIECES,
    MOST_STEPS,
    Tables,
)
from tvm_spm.exact.boxes import tile_elems
from tvm_spm.exact.compiled import compiled, compiled_lean
from tvm_spm.exact.pass_time import ALL_RF, NONE, I, Ints, O, W
from tvm_spm.exact.problem import Problem
from tvm_spm.exact.spm_tiles import objective_of
from tvm_spm.mapping_batch import NUM_DIMS

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


@compiled_lean
def spanned(problem: Problem, tables: Tables, projection: int, extents: Ints, least: Ints, most: Ints) -> float:
    """Elements that tiles span, summed over all tiles of a tensor that add up to ``extents``; at least.

    Args:
        problem: What is searched.
        tables: For the factors across cores.
        projection: The tensor.
        extents: What the tiles of a dim add up to.
        least: Tiles per dim, at least.
        most: Tiles per dim, at most: along strides, more tiles span less.
    """
    workload = problem.workload
    total = 1.0
    for axis in range(workload.axis_start[projection], workload.axis_start[projection + 1]):
        low, high = workload.term_start[axis], workload.term_start[axis + 1]
        if high - low == 1 and not tables.is_strided[axis]:
            total *= extents[workload.term_dim[low]]
            continue
        num_corners = 1 << (high - low) if tables.is_strided[axis] else 1
        smallest = np.inf
        for corner in range(num_corners):
            count, span = 1.0, 1.0
            for term in range(low, high):
                d = workload.term_dim[term]
                n = float(most[d] if corner >> (term - low) & 1 else least[d])
                # spans so far of as many tiles as before, each n times, and this dim's once for each of those
                span = span * n + count * workload.term_coefficient[term] * (extents[d] - n)
                count *= n
            smallest = min(smallest, span)
        total *= smallest
    return total


@compiled_lean
def spanned_whole(problem: Problem, tables: Tables, projection: int, least: Ints, most: Ints) -> float:
    """``spanned`` of a whole tensor."""
    if tables.elems[projection] > 0.0:
        return float(tables.elems[projection])
    return spanned(problem, tables, projection, problem.workload.dims, least, most)


@compiled_lean
def irrelevant_product(problem: Problem, projection: int, counts: Ints) -> float:
    """Product over the dims that a tensor does not depend on."""
    product = 1.0
    for d in range(NUM_DIMS):
        if not problem.workload.is_relevant[projection, d]:
            product *= counts[d]
    return product


@compiled_lean
def fitting_buffers(problem: Problem, rf: Ints) -> int:
    """Bit ``b`` is set if the operands with the bits ``b`` may have two RF buffers; 0 if not even one fits."""
    bytes_i, bytes_w, bytes_o = 0, 0, 0
    for operand in range(3):
        num_bytes = (tile_elems(problem.workload, operand, rf) * problem.limits.rf_bits[operand] + 7) // 8
        if operand == I:
            bytes_i = num_bytes
        elif operand == W:
            bytes_w = num_bytes
        else:
            bytes_o = num_bytes
    fitting, room = 0, problem.limits.rf_bytes - bytes_i - bytes_w - bytes_o
    for double in range(8):
        if (double & 1) * bytes_i + (double >> 1 & 1) * bytes_w + (double >> 2 & 1) * bytes_o <= room:
            fitting |= 1 << double
    return fitting


@compiled_lean
def allowed_buffers(problem: Problem, fitting: int) -> int:
    """Those of ``fitting_buffers`` that the constraints leave, and that make a difference."""
    if problem.wanted.rf_double != ANY_BUFFERS:
        return fitting & 1 << problem.wanted.rf_double
    return fitting & 1 if problem.objective == 1 else fitting


@compiled_lean
def rf_prices(problem: Problem, operand: int) -> tuple[float, float]:
    """Energy of one element that crosses the network, and of one that a PE receives."""
    arch = problem.arch
    word = problem.words[operand]
    return (
        word * (arch.noc_elem_pj + arch.spm_access_pj),
        word * (arch.rf_fill_pj + arch.noc_delivery_pj),
    )


@compiled_lean
def bound_array(
    problem: Problem,
    tables: Tables,
    counts: Ints,
    hops: int,
    reduction_pes: int,
    fitting: int,
    rf: Ints,
    array: Ints,
    around: NDArray[np.float64],
    scratch: Ints,
    moved_pj: NDArray[np.float64],
) -> float:
    """A floor under the objective of all mappings with an array tile, or with some of its dims given.

    Args:
        problem: What is searched.
        tables: For the factors across cores.
        counts: ``(8, ARRAY_FIELDS)`` per dim.
        hops: Of the reduction network.
        reduction_pes: PEs whose results are summed.
        fitting: See ``fitting_buffers``.
        rf: Elements of a PE.
        array: Elements of all PEs, all 0 if not all dims are given.
        around: Floors under groups of SPM tiles, see ``list_arrays``.
        scratch: ``(ARRAY_FIELDS, 8)``.
        moved_pj: Scratch of 23; the last 8 are set to what ``class_pj`` and ``class_cycles`` of an array tile are.
    """
    workload, arch = problem.workload, problem.arch
    cycles, all_steps = 1.0, 1.0
    for d in range(NUM_DIMS):
        for field in range(ARRAY_FIELDS):
            scratch[field, d] = counts[d, field]
        cycles *= counts[d, LEAST_TIME]
        all_steps *= counts[d, LEAST_STEPS]
    least_pj, times, once_cycles, most, num_tiles = 0.0, moved_pj[3:6], moved_pj[6:9], moved_pj[9:12], moved_pj[12:15]
    most_time = 1.0
    for d in range(NUM_DIMS):
        most_time *= min(rf[d], tables.share[d])
    for operand in range(3):
        elem_pj, delivery_pj = rf_prices(problem, operand)
        elems = spanned_whole(problem, tables, operand, scratch[LEAST_ALL], scratch[MOST_ALL])
        if operand == O:
            # results cross as often as they enter, partial sums one time less per tile
            crossings = 2.0 * irrelevant_product(problem, O, scratch[LEAST_ALL]) - 1.0
            hop_pj = problem.words[O] * (reduction_pes - 1) * arch.noc_reduction_hop_pj
            price = elem_pj + delivery_pj
            moved_pj[O] = elems * (crossings * price + (crossings + 1.0) / 2.0 * hop_pj)
            once_pj = elems * (price + hop_pj)
        else:
            pieces = spanned_whole(problem, tables, operand, scratch[LEAST_PIECES], scratch[MOST_PIECES])
            moved_pj[operand] = (
                elem_pj * elems * irrelevant_product(problem, operand, scratch[LEAST_ALL])
                + delivery_pj * pieces * irrelevant_product(problem, operand, scratch[LEAST_PIECES])
            )  # fmt: skip
            once_pj = (
                elem_pj * elems * irrelevant_product(problem, operand, tables.cores)
                + delivery_pj * pieces * irrelevant_product(problem, operand, scratch[LEAST_ONCE])
            )  # fmt: skip
        if tables.num_cores == 1:
            own = elems * irrelevant_product(problem, operand, scratch[LEAST_ALL])
        else:
            own = spanned(problem, tables, operand, tables.share, scratch[LEAST_STEPS], scratch[MOST_STEPS])
            own *= irrelevant_product(problem, operand, scratch[LEAST_STEPS])
        once_cycles[operand] = own / irrelevant_product(problem, operand, scratch[LEAST_STEPS])
        once_cycles[operand] /= arch.noc_elems_per_cycle
        times[operand] = own / arch.noc_elems_per_cycle
        if operand == O:
            times[operand] += all_steps * hops
        most[operand], num_tiles[operand] = 0.0, np.inf
        if array[0] > 0:
            most[operand] = math.ceil(tile_elems(workload, operand, array) / arch.noc_elems_per_cycle)
            most[operand] += hops if operand == O else 0
            num_tiles[operand] = 1.0
            for d in range(NUM_DIMS):
                if workload.is_relevant[operand, d]:
                    num_tiles[operand] *= scratch[MOST_STEPS, d]
        least_pj += once_pj
        # what a kept operand saves
        moved_pj[operand] -= once_pj
    bound = np.inf
    moving_pj = moved_pj[I] + moved_pj[W] + moved_pj[O]
    for kept in range(NONE + 1):
        class_cycles, class_pj = np.inf, least_pj + moving_pj
        if kept != NONE:
            class_pj -= moved_pj[kept]
        # with all buffers double, a sum is least; only what swaps add depends on more
        for double in range(ALL_RF if fitting >> ALL_RF & 1 and array[0] == 0 else 0, 8):
            if fitting >> double & 1:
                hidden, shown, slot, behind = 0.0, 0.0, most_time, 0.0
                for operand in range(3):
                    if operand != kept:
                        if double >> operand & 1:
                            hidden, slot = max(hidden, times[operand]), max(slot, most[operand])
                        else:
                            shown, behind = max(shown, times[operand]), max(behind, most[operand])
                if not double >> O & 1:
                    # partial sums may come in too
                    behind += most[O]
                slots = max(cycles + shown, hidden)
                if kept != NONE and array[0] > 0:
                    # steps that bring in what then stays last as long as that takes at least
                    slots += max(0.0, once_cycles[kept] - num_tiles[kept] * (slot + behind))
                class_cycles = min(class_cycles, slots)
        if kept != NONE:
            # what stays comes in, or leaves, once at least
            class_cycles = max(class_cycles, once_cycles[kept])
        whole = math.ceil(class_cycles * (1.0 - 1e-12) - SLACK)
        for group in range(len(around)):
            group_cycles = max(around[group, 1], around[group, 2] + whole)
            bound = min(bound, objective_of(problem, around[group, 0] + class_pj, group_cycles))
        moved_pj[15 + kept], moved_pj[19 + kept] = class_pj, whole
    return bound


@compiled
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


@compiled_lean
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


@compiled_lean
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
