"""Energy of one mapping from trip counts (compiled; the same products and sums as ``reuse`` and ``analytical``)."""

from __future__ import annotations

import numpy as np
from numba import njit

from cost_model.arrays import ArchArrays, WorkloadArrays
from cost_model.batched_nest import Ints, Nest, inside_elems, unclipped_tiles
from tvm_spm.mapping_batch import NUM_DIMS

TILE_FIRST, TILE_SIZE, TILE_COUNT = 0, 1, 2
"""Planes of a table of tiles that are clipped alike."""


@njit(error_model="numpy")
def energy_pj(
    workload: WorkloadArrays, arch: ArchArrays, is_clipped: Ints, tensor_elems: int, nest: Nest, tiles: Ints
) -> float:
    """Total energy.

    Args:
        workload: Its arrays.
        arch: Its arrays.
        is_clipped: Per axis, whether any tile may stick out of the tensor.
        tensor_elems: Elements of the output.
        nest: The mapping.
        tiles: Scratch of ``(3, 8, tiles)``.
    """
    words_i = workload.elem_bits[0] / arch.word_bits
    words_w = workload.elem_bits[1] / arch.word_bits
    words_o = workload.elem_bits[2] / arch.word_bits
    words_final = workload.out_bits / arch.word_bits
    crossed_i, delivered_i = _rf_elems(workload, nest, 0)
    crossed_w, delivered_w = _rf_elems(workload, nest, 1)
    left_o, _ = _rf_elems(workload, nest, 2)
    first_o = _array_elems(workload, nest, 2)
    in_i = _moved_elems(workload, is_clipped, nest, 0, tiles) * _dram_repeats(workload, nest, 0)
    in_w = _moved_elems(workload, is_clipped, nest, 1, tiles) * _dram_repeats(workload, nest, 1)
    final = _moved_elems(workload, is_clipped, nest, 2, tiles)
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
        streamed = _moved_elems(workload, is_clipped, nest, extra, tiles) * repeats
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
def _summed(workload: WorkloadArrays, axis: int, trips: Ints) -> int:
    """Elements that an axis spans, padding included, summed over ``trips`` tiles per dim."""
    all_tiles = 1
    for term in range(workload.term_start[axis], workload.term_start[axis + 1]):
        all_tiles *= trips[workload.term_dim[term]]
    spans = all_tiles
    for term in range(workload.term_start[axis], workload.term_start[axis + 1]):
        d = workload.term_dim[term]
        rest = 1
        for other in range(workload.term_start[axis], workload.term_start[axis + 1]):
            if other != term:
                rest *= trips[workload.term_dim[other]]
        spans += workload.term_coefficient[term] * (workload.dims[d] - trips[d]) * rest
    return spans


@njit(error_model="numpy", forceinline=True)
def _array_elems(workload: WorkloadArrays, nest: Nest, operand: int) -> int:
    """Elements of all distinct array tiles."""
    elems = 1
    for axis in range(workload.axis_start[operand], workload.axis_start[operand + 1]):
        elems *= _summed(workload, axis, nest.num_array_tiles)
    for d in range(NUM_DIMS):
        if not workload.is_relevant[operand, d]:
            elems *= nest.cores[d]
    return elems


@njit(error_model="numpy", forceinline=True)
def _rf_elems(workload: WorkloadArrays, nest: Nest, operand: int) -> tuple[int, int]:
    """(elements that cross to the PEs, deliveries) over all loads of one operand."""
    crossed, delivered = 1, 1
    for axis in range(workload.axis_start[operand], workload.axis_start[operand + 1]):
        crossed *= _summed(workload, axis, nest.num_array_tiles)
        delivered *= _summed(workload, axis, nest.num_pe_tiles)
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


@njit(error_model="numpy", forceinline=True)
def _moved_elems(workload: WorkloadArrays, is_clipped: Ints, nest: Nest, projection: int, tiles: Ints) -> int:
    """Elements inside the tensor over all its SPM tiles."""
    elems = 1
    for axis in range(workload.axis_start[projection], workload.axis_start[projection + 1]):
        if is_clipped[axis]:
            elems *= _clipped_elems(workload, axis, nest, tiles)
        else:
            elems *= _summed(workload, axis, nest.num_spm_tiles)
    return elems


@njit(error_model="numpy")
def _clipped_elems(workload: WorkloadArrays, axis: int, nest: Nest, tiles: Ints) -> int:
    """Elements inside the tensor that one axis spans, summed over all SPM tiles."""
    num_tiles = np.zeros(NUM_DIMS, dtype=np.int64)
    at = np.zeros(NUM_DIMS, dtype=np.int64)
    first = np.zeros(NUM_DIMS, dtype=np.int64)
    size = np.ones(NUM_DIMS, dtype=np.int64)
    begin, end = workload.term_start[axis], workload.term_start[axis + 1]
    for term in range(begin, end):
        d = workload.term_dim[term]
        num_tiles[d] = _list_tiles(workload, axis, d, nest, tiles)
    total = 0
    while True:
        count = 1
        for term in range(begin, end):
            d = workload.term_dim[term]
            first[d], size[d] = tiles[TILE_FIRST, d, at[d]], tiles[TILE_SIZE, d, at[d]]
            count *= tiles[TILE_COUNT, d, at[d]]
        total += count * inside_elems(workload, axis, first, size)
        term = begin
        while term < end:
            d = workload.term_dim[term]
            at[d] += 1
            if at[d] < num_tiles[d]:
                break
            at[d] = 0
            term += 1
        if term == end:
            return total


@njit(error_model="numpy")
def _list_tiles(workload: WorkloadArrays, axis: int, d: int, nest: Nest, tiles: Ints) -> int:
    """Fill ``tiles`` with the SPM tiles of one dim over all cores; those that are clipped nowhere are one entry."""
    num, inner_first, inner_count = 0, 0, 0
    for first in range(0, workload.dims[d], nest.core_tile[d]):
        extent = min(nest.core_tile[d], workload.dims[d] - first)
        count = -(-extent // nest.spm[d])
        low, high = unclipped_tiles(workload, axis, d, first, extent, nest.spm[d])
        if high > low:
            inner_first = first + low * nest.spm[d]
            inner_count += high - low
        index = high if low == 0 else 0
        while index < count:
            tiles[TILE_FIRST, d, num] = first + index * nest.spm[d]
            tiles[TILE_SIZE, d, num] = min(nest.spm[d], extent - index * nest.spm[d])
            tiles[TILE_COUNT, d, num] = 1
            num += 1
            index = max(index + 1, high) if index + 1 >= low else index + 1
    if inner_count > 0:
        tiles[TILE_FIRST, d, num], tiles[TILE_SIZE, d, num] = inner_first, nest.spm[d]
        tiles[TILE_COUNT, d, num] = inner_count
        num += 1
    return num
