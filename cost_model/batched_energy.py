"""Energy of one mapping from trip counts (compiled; the same products and sums as ``reuse`` and ``analytical``)."""

from __future__ import annotations

import numpy as np
from numba import njit

from cost_model.arrays import ArchArrays, WorkloadArrays
from cost_model.batched_nest import CLIPPED, WHOLE, Ints, Nest, ceil_div, unclipped_tiles
from tvm_spm.mapping_batch import NUM_DIMS

FIRST, SIZE, COUNT = 0, 1, 2
"""Rows of a table of tiles that are clipped alike: where one starts, its size, and how many there are."""

ALONG, COMBINED = 0, 1
"""Tables of tiles along one dim, and of their combinations over the dims of one axis so far."""


@njit(error_model="numpy")
def energy_pj(
    workload: WorkloadArrays, arch: ArchArrays, axis_kind: Ints, tensor_elems: int, nest: Nest, tiles: Ints
) -> float:
    """Total energy.

    Args:
        workload: Its arrays.
        arch: Its arrays.
        axis_kind: Per axis, ``WHOLE``, ``LINEAR`` or ``CLIPPED``.
        tensor_elems: Elements of the output.
        nest: The mapping.
        tiles: Scratch of ``(2, 3, tiles)``.
    """
    words_i = workload.elem_bits[0] / arch.word_bits
    words_w = workload.elem_bits[1] / arch.word_bits
    words_o = workload.elem_bits[2] / arch.word_bits
    words_final = workload.out_bits / arch.word_bits
    crossed_i, delivered_i = _rf_elems(workload, axis_kind, nest, 0)
    crossed_w, delivered_w = _rf_elems(workload, axis_kind, nest, 1)
    left_o, _ = _rf_elems(workload, axis_kind, nest, 2)
    first_o = _array_elems(workload, axis_kind, nest, 2)
    in_i = _moved_elems(workload, axis_kind, nest, 0, tiles) * _dram_repeats(workload, nest, 0)
    in_w = _moved_elems(workload, axis_kind, nest, 1, tiles) * _dram_repeats(workload, nest, 1)
    final = _moved_elems(workload, axis_kind, nest, 2, tiles)
    partial = 2 * (final * (_dram_repeats(workload, nest, 2) - 1))
    crossed_o = left_o - first_o + left_o
    crossed = crossed_i * words_i + crossed_w * words_w + crossed_o * words_o
    delivered = delivered_i * words_i + delivered_w * words_w + crossed_o * words_o
    moved = in_i * words_i + in_w * words_w + partial * words_o
    extras = 0.0
    for extra in range(3, len(workload.elem_bits)):
        repeats = 1
        for d in range(NUM_DIMS):
            if workload.is_relevant[2, d] and not workload.is_relevant[extra, d]:
                repeats *= nest.num_spm_tiles[d]
        streamed = _moved_elems(workload, axis_kind, nest, extra, tiles) * repeats
        extras += streamed * (workload.elem_bits[extra] / arch.word_bits)
    hops = left_o * (nest.reduction_pes - 1)
    mac_pj = workload.macs * arch.mac_op_pj
    rf_pj = workload.macs * (words_i + words_w + 2 * words_o) * arch.rf_access_pj + delivered * arch.rf_fill_pj
    noc_pj = crossed * arch.noc_elem_pj + delivered * arch.noc_delivery_pj + hops * words_o * arch.noc_reduction_hop_pj
    spm_pj = (crossed + moved + final * words_o) * arch.spm_access_pj
    dram_pj = (moved + final * words_final + extras) * arch.dram_access_pj
    vector_pj = tensor_elems * workload.num_ops_per_elem * arch.vector_op_pj
    return mac_pj + rf_pj + noc_pj + spm_pj + dram_pj + vector_pj


@njit(error_model="numpy", forceinline=True)
def _summed(workload: WorkloadArrays, axis_kind: Ints, axis: int, trips: Ints) -> int:
    """Elements that an axis spans, padding included, summed over ``trips`` tiles per dim."""
    begin, end = workload.term_start[axis], workload.term_start[axis + 1]
    if axis_kind[axis] == WHOLE:
        return workload.dims[workload.term_dim[begin]]
    all_tiles, spans = 1, 0
    for term in range(begin, end):
        d = workload.term_dim[term]
        # spans so far repeat for every tile of this dim, and this dim's for every combination of the others
        spans = spans * trips[d] + all_tiles * workload.term_coefficient[term] * (workload.dims[d] - trips[d])
        all_tiles *= trips[d]
    return all_tiles + spans


@njit(error_model="numpy", forceinline=True)
def _array_elems(workload: WorkloadArrays, axis_kind: Ints, nest: Nest, operand: int) -> int:
    """Elements of all distinct array tiles."""
    elems = 1
    for axis in range(workload.axis_start[operand], workload.axis_start[operand + 1]):
        elems *= _summed(workload, axis_kind, axis, nest.num_array_tiles)
    for d in range(NUM_DIMS):
        if not workload.is_relevant[operand, d]:
            elems *= nest.cores[d]
    return elems


@njit(error_model="numpy")
def _rf_elems(workload: WorkloadArrays, axis_kind: Ints, nest: Nest, operand: int) -> tuple[int, int]:
    """(elements that cross to the PEs, deliveries) over all loads of one operand."""
    crossed, delivered = 1, 1
    for axis in range(workload.axis_start[operand], workload.axis_start[operand + 1]):
        crossed *= _summed(workload, axis_kind, axis, nest.num_array_tiles)
        delivered *= _summed(workload, axis_kind, axis, nest.num_pe_tiles)
    for d in range(NUM_DIMS):
        if workload.is_relevant[operand, d]:
            continue
        if nest.spm_outside_rf[operand] >> d & 1:
            crossed *= nest.num_array_tiles[d]
            delivered *= nest.num_pe_tiles[d]
        elif nest.dram_outside_rf[operand] >> d & 1:
            crossed *= nest.num_spm_tiles[d]
            delivered *= nest.num_first_pes_of_spm_tiles[d]
        else:
            crossed *= nest.cores[d]
            delivered *= nest.num_first_pes_of_cores[d]
    return crossed, delivered


@njit(error_model="numpy", forceinline=True)
def _dram_repeats(workload: WorkloadArrays, nest: Nest, operand: int) -> int:
    """How often each tile passes between DRAM and SPM."""
    repeats = 1
    for d in range(NUM_DIMS):
        if not workload.is_relevant[operand, d]:
            is_outside = nest.dram_outside_spm[operand] >> d & 1
            repeats *= nest.num_spm_tiles[d] if is_outside else nest.cores[d]
    return repeats


@njit(error_model="numpy")
def _moved_elems(workload: WorkloadArrays, axis_kind: Ints, nest: Nest, projection: int, tiles: Ints) -> int:
    """Elements inside the tensor over all its SPM tiles."""
    elems = 1
    for axis in range(workload.axis_start[projection], workload.axis_start[projection + 1]):
        if axis_kind[axis] == CLIPPED:
            elems *= _clipped_elems(workload, axis, nest, tiles)
        else:
            elems *= _summed(workload, axis_kind, axis, nest.num_spm_tiles)
    return elems


@njit(error_model="numpy")
def _clipped_elems(workload: WorkloadArrays, axis: int, nest: Nest, tiles: Ints) -> int:
    """Elements inside the tensor that one axis spans, summed over all SPM tiles."""
    tiles[COMBINED, FIRST, 0], tiles[COMBINED, SIZE, 0], tiles[COMBINED, COUNT, 0] = workload.axis_offset[axis], 1, 1
    num = 1
    for term in range(workload.term_start[axis], workload.term_start[axis + 1]):
        coefficient = workload.term_coefficient[term]
        along = _list_tiles(workload, axis, workload.term_dim[term], nest, tiles)
        for tile in range(along - 1, -1, -1):
            start = coefficient * tiles[ALONG, FIRST, tile]
            span = coefficient * (tiles[ALONG, SIZE, tile] - 1)
            for other in range(num):
                target = tile * num + other
                tiles[COMBINED, FIRST, target] = tiles[COMBINED, FIRST, other] + start
                tiles[COMBINED, SIZE, target] = tiles[COMBINED, SIZE, other] + span
                tiles[COMBINED, COUNT, target] = tiles[COMBINED, COUNT, other] * tiles[ALONG, COUNT, tile]
        num *= along
    total, extent = 0, workload.axis_extent[axis]
    for tile in range(num):
        start = tiles[COMBINED, FIRST, tile]
        inside = min(extent, start + tiles[COMBINED, SIZE, tile]) - max(0, start)
        total += tiles[COMBINED, COUNT, tile] * max(0, inside)
    return total


@njit(error_model="numpy")
def _list_tiles(workload: WorkloadArrays, axis: int, d: int, nest: Nest, tiles: Ints) -> int:
    """Fill ``tiles`` with the SPM tiles of one dim over all cores; those that are clipped nowhere are one entry."""
    num, inner_first, inner_count = 0, 0, 0
    for first in range(0, workload.dims[d], nest.core_tile[d]):
        extent = min(nest.core_tile[d], workload.dims[d] - first)
        count = ceil_div(extent, nest.spm[d])
        low, high = unclipped_tiles(workload, axis, d, first, extent, nest.spm[d])
        if high > low:
            inner_first = first + low * nest.spm[d]
            inner_count += high - low
        index = high if low == 0 else 0
        while index < count:
            tiles[ALONG, FIRST, num] = first + index * nest.spm[d]
            tiles[ALONG, SIZE, num] = min(nest.spm[d], extent - index * nest.spm[d])
            tiles[ALONG, COUNT, num] = 1
            num += 1
            index = max(index + 1, high) if index + 1 >= low else index + 1
    if inner_count > 0:
        tiles[ALONG, FIRST, num], tiles[ALONG, SIZE, num] = inner_first, nest.spm[d]
        tiles[ALONG, COUNT, num] = inner_count
        num += 1
    return num
