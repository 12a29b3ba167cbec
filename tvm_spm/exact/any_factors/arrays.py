"""What every array tile costs at least: PEs per dim times an RF tile, perfect or with any factors."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tvm_spm.exact.any_factors.floors import SLACK
from tvm_spm.exact.any_factors.ports import across, crossing_rate, is_shared, tile_cycles
from tvm_spm.exact.any_factors.tables import (
    ARRAY_FIELDS,
    LEAST_ALL,
    LEAST_ONCE,
    LEAST_PIECES,
    LEAST_STEPS,
    LEAST_TIME,
    MOST_ALL,
    MOST_PIECES,
    MOST_STEPS,
    CoreTables,
)
from tvm_spm.exact.case_arrays import ALL_DOUBLE, NONE, CaseArrays, Floats, I, Ints, O, W, objective_of
from tvm_spm.jit import kernel, lean
from tvm_spm.objective import ENERGY
from tvm_spm.space.constraints_batch import ANY_BUFFERS
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.space.tensors import tile_elems


@lean
def spanned(case: CaseArrays, tables: CoreTables, projection: int, extents: Ints, least: Ints, most: Ints) -> float:
    """Elements that tiles span, summed over all tiles of a tensor that add up to ``extents``; at least.

    Args:
        case: What is searched.
        tables: For the factors across cores.
        projection: The tensor.
        extents: What the tiles of a dim add up to.
        least: Tiles per dim, at least.
        most: Tiles per dim, at most: along strides, more tiles span less.
    """
    workload = case.workload
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
def spanned_whole(case: CaseArrays, tables: CoreTables, projection: int, least: Ints, most: Ints) -> float:
    """``spanned`` of a whole tensor."""
    if tables.elems[projection] > 0.0:
        return float(tables.elems[projection])
    return spanned(case, tables, projection, case.workload.dims, least, most)


@lean
def irrelevant_product(case: CaseArrays, projection: int, counts: Ints) -> float:
    """Product over the dims that a tensor does not depend on."""
    product = 1.0
    for d in range(NUM_DIMS):
        if not case.workload.is_relevant[projection, d]:
            product *= counts[d]
    return product


@lean
def fitting_buffers(case: CaseArrays, rf: Ints) -> int:
    """Bit ``b`` is set if the operands with the bits ``b`` may have two RF buffers; 0 if not even one fits."""
    bytes_i, bytes_w, bytes_o = 0, 0, 0
    for operand in range(3):
        num_bytes = (tile_elems(case.workload, operand, rf) * case.limits.rf_bits[operand] + 7) // 8
        if operand == I:
            bytes_i = num_bytes
        elif operand == W:
            bytes_w = num_bytes
        else:
            bytes_o = num_bytes
    fitting, room = 0, case.limits.rf_bytes - bytes_i - bytes_w - bytes_o
    for double in range(8):
        if (double & 1) * bytes_i + (double >> 1 & 1) * bytes_w + (double >> 2 & 1) * bytes_o <= room:
            fitting |= 1 << double
    return fitting


@lean
def allowed_buffers(case: CaseArrays, fitting: int) -> int:
    """Those of ``fitting_buffers`` that the constraints leave, and that make a difference."""
    if case.rf_double != ANY_BUFFERS:
        return fitting & 1 << case.rf_double
    return fitting & 1 if case.objective == ENERGY else fitting


@lean
def rf_prices(case: CaseArrays, operand: int) -> tuple[float, float]:
    """Energy of one element that crosses the network, and of one that a PE receives."""
    arch = case.arch
    word = case.words[operand]
    return (
        word * (arch.noc_elem_pj + arch.spm_access_pj),
        word * (arch.rf_fill_pj + arch.noc_delivery_pj),
    )


class ArrayBound(NamedTuple):
    """An array tile, or one with some dims open, and a floor under all mappings with it.

    Attributes:
        counts: ``(ARRAY_FIELDS, 8)`` per dim.
        rf: Elements of a PE; 1 along dims that are open.
        array: Elements of all PEs, all 0 if some dims are open.
        class_pj: By the operand that the innermost SPM loop leaves in place: energy of the RFs' traffic, at least.
        class_cycles: Likewise: cycles of all passes of the first core, at least.
        moved_pj: Scratch per operand: energy if it moves with every step.
        times: Scratch per operand: cycles of all its array tiles.
        once_cycles: Scratch per operand: cycles if each tile moves once.
        most: Scratch per operand: cycles of the largest tile.
        num_tiles: Scratch per operand: distinct tiles.
    """

    counts: Ints
    rf: Ints
    array: Ints
    class_pj: Floats
    class_cycles: Floats
    moved_pj: Floats
    times: Floats
    once_cycles: Floats
    most: Floats
    num_tiles: Floats


@kernel
def make_array_bound() -> ArrayBound:
    """Room for one."""
    floats = np.zeros((5, 3), dtype=np.float64)
    classes = np.zeros((2, NONE + 1), dtype=np.float64)
    ints = np.zeros((ARRAY_FIELDS + 2, NUM_DIMS), dtype=np.int64)
    return ArrayBound(
        ints[:ARRAY_FIELDS], ints[ARRAY_FIELDS], ints[ARRAY_FIELDS + 1], classes[0], classes[1],
        floats[0], floats[1], floats[2], floats[3], floats[4],
    )  # fmt: skip


@lean
def _measure_array(case: CaseArrays, tables: CoreTables, hops: int, reduction_pes: int, bound: ArrayBound) -> float:
    """Fill energies and cycles per operand; returns the energy if every tile moves once.

    Bounds what ``cost_model.analytical.energy`` counts for the RFs, and ``_fill_steps`` of ``passes``, over all steps.
    """
    arch, counts, least_pj = case.arch, bound.counts, 0.0
    all_steps = 1.0
    for d in range(NUM_DIMS):
        all_steps *= counts[LEAST_STEPS, d]
    for operand in range(3):
        elem_pj, delivery_pj = rf_prices(case, operand)
        elems = spanned_whole(case, tables, operand, counts[LEAST_ALL], counts[MOST_ALL])
        if operand == O:
            # results cross as often as they enter, partial sums one time less per tile
            crossings = 2.0 * irrelevant_product(case, O, counts[LEAST_ALL]) - 1.0
            hop_pj = case.words[O] * (reduction_pes - 1) * arch.noc_reduction_hop_pj
            price = elem_pj + delivery_pj
            bound.moved_pj[O] = elems * (crossings * price + (crossings + 1.0) / 2.0 * hop_pj)
            once_pj = elems * (price + hop_pj)
        else:
            pieces = spanned_whole(case, tables, operand, counts[LEAST_PIECES], counts[MOST_PIECES])
            bound.moved_pj[operand] = (
                elem_pj * elems * irrelevant_product(case, operand, counts[LEAST_ALL])
                + delivery_pj * pieces * irrelevant_product(case, operand, counts[LEAST_PIECES])
            )  # fmt: skip
            once_pj = (
                elem_pj * elems * irrelevant_product(case, operand, tables.cores)
                + delivery_pj * pieces * irrelevant_product(case, operand, counts[LEAST_ONCE])
            )  # fmt: skip
        own_steps = irrelevant_product(case, operand, counts[LEAST_STEPS])
        if tables.num_cores == 1:
            own = elems * irrelevant_product(case, operand, counts[LEAST_ALL])
        else:
            own = spanned(case, tables, operand, tables.share, counts[LEAST_STEPS], counts[MOST_STEPS])
            own *= own_steps
        rate = crossing_rate(case, operand)
        bound.once_cycles[operand] = own / own_steps / rate
        bound.times[operand] = own / rate
        # a port with a limit may be busy while the pipelines get empty
        late = hops if is_shared(case) else hops + arch.mac_stages - 1
        if operand == O:
            bound.times[operand] += all_steps * late
        bound.most[operand], bound.num_tiles[operand] = 0.0, np.inf
        if bound.array[0] > 0:
            largest = tile_elems(case.workload, operand, bound.array)
            bound.most[operand] = tile_cycles(case, operand, largest)
            if operand == O:
                bound.most[operand] += hops + arch.mac_stages - 1
            bound.num_tiles[operand] = 1.0
            for d in range(NUM_DIMS):
                if case.workload.is_relevant[operand, d]:
                    bound.num_tiles[operand] *= counts[MOST_STEPS, d]
        least_pj += once_pj
        # what a kept operand saves
        bound.moved_pj[operand] -= once_pj
    return least_pj


@lean
def _slots_cycles(case: CaseArrays, tables: CoreTables, fitting: int, kept: int, bound: ArrayBound) -> float:
    """A floor under the cycles of all steps of a class; bounds ``_slot_cycles`` of ``cost_model.analytical.passes``."""
    cycles, most_time, least, one_by_one = 1.0, 1.0, np.inf, is_shared(case)
    for d in range(NUM_DIMS):
        cycles *= bound.counts[LEAST_TIME, d]
        most_time *= min(bound.rf[d], tables.share[d])
    # with all buffers double, a sum is least; only what swaps add depends on more
    for double in range(ALL_DOUBLE if fitting >> ALL_DOUBLE & 1 and bound.array[0] == 0 else 0, 8):
        if fitting >> double & 1:
            hidden, shown, slot, behind = 0.0, 0.0, 0.0, 0.0
            for operand in range(3):
                if operand != kept:
                    if double >> operand & 1:
                        hidden = across(one_by_one, hidden, bound.times[operand])
                        slot = across(one_by_one, slot, bound.most[operand])
                    else:
                        shown = across(one_by_one, shown, bound.times[operand])
                        behind = across(one_by_one, behind, bound.most[operand])
            if not double >> O & 1:
                # partial sums may come in too
                behind += bound.most[O]
            slots, slot = max(cycles + shown, hidden + shown if one_by_one else hidden), max(most_time, slot)
            if kept != NONE and bound.array[0] > 0:
                # steps that bring in what then stays last as long as that takes at least
                slots += max(0.0, bound.once_cycles[kept] - bound.num_tiles[kept] * (slot + behind))
            least = min(least, slots)
    # what stays comes in, or leaves, once at least
    return least if kept == NONE else max(least, bound.once_cycles[kept])


@lean
def bound_array(
    case: CaseArrays, tables: CoreTables, hops: int, reduction_pes: int, fitting: int, around: Floats, bound: ArrayBound
) -> float:
    """A floor under the objective of all mappings with an array tile, or with some of its dims given.

    Args:
        case: What is searched.
        tables: For the factors across cores.
        hops: Of the reduction network.
        reduction_pes: PEs whose results are summed.
        fitting: See ``fitting_buffers``.
        around: Floors under groups of SPM tiles, see ``list_arrays``.
        bound: Its tile and counts are given; the rest is set.
    """
    least_pj = _measure_array(case, tables, hops, reduction_pes, bound)
    moving_pj, least = bound.moved_pj[I] + bound.moved_pj[W] + bound.moved_pj[O], np.inf
    for kept in range(NONE + 1):
        class_pj = least_pj + moving_pj
        if kept != NONE:
            class_pj -= bound.moved_pj[kept]
        whole = math.ceil(_slots_cycles(case, tables, fitting, kept, bound) * (1.0 - 1e-12) - SLACK)
        for group in range(len(around)):
            group_cycles = max(around[group, 1], around[group, 2] + max(float(whole), around[group, 3]))
            least = min(least, objective_of(case, around[group, 0] + class_pj, group_cycles))
        bound.class_pj[kept], bound.class_cycles[kept] = class_pj, whole
    return least
