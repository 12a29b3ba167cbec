"""What every array tile of a balanced mapping costs at least: PEs per dim times an RF tile."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tvm_spm.exact.balanced.floors import SLACK
from tvm_spm.exact.balanced.tables import (
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
from tvm_spm.exact.pass_time import ALL_RF, NONE, I, Ints, O, W
from tvm_spm.exact.problem import Problem
from tvm_spm.exact.spm_tiles import objective_of
from tvm_spm.jit import lean
from tvm_spm.space.constraints_batch import ANY_BUFFERS
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.space.tensors import tile_elems


@lean
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


@lean
def spanned_whole(problem: Problem, tables: Tables, projection: int, least: Ints, most: Ints) -> float:
    """``spanned`` of a whole tensor."""
    if tables.elems[projection] > 0.0:
        return float(tables.elems[projection])
    return spanned(problem, tables, projection, problem.workload.dims, least, most)


@lean
def irrelevant_product(problem: Problem, projection: int, counts: Ints) -> float:
    """Product over the dims that a tensor does not depend on."""
    product = 1.0
    for d in range(NUM_DIMS):
        if not problem.workload.is_relevant[projection, d]:
            product *= counts[d]
    return product


@lean
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


@lean
def allowed_buffers(problem: Problem, fitting: int) -> int:
    """Those of ``fitting_buffers`` that the constraints leave, and that make a difference."""
    if problem.wanted.rf_double != ANY_BUFFERS:
        return fitting & 1 << problem.wanted.rf_double
    return fitting & 1 if problem.objective == 1 else fitting


@lean
def rf_prices(problem: Problem, operand: int) -> tuple[float, float]:
    """Energy of one element that crosses the network, and of one that a PE receives."""
    arch = problem.arch
    word = problem.words[operand]
    return (
        word * (arch.noc_elem_pj + arch.spm_access_pj),
        word * (arch.rf_fill_pj + arch.noc_delivery_pj),
    )


@lean
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
