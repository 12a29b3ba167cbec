"""Tiles that the border of a tensor cuts nowhere, and the transfer of a box (compiled)."""

from __future__ import annotations

import math

from cost_model.arrays import WorkloadArrays
from cost_model.transfer import transfer
from tvm_spm.exact.case_arrays import CaseArrays, Ints, O
from tvm_spm.jit import lean
from tvm_spm.space.tensors import inside_elems


@lean
def unclipped_tiles(workload: WorkloadArrays, axis: int, d: int, first: int, extent: int, tile: int) -> tuple[int, int]:
    """[low, high): tiles of a part of dim ``d`` that stay inside the tensor wherever the other dims are."""
    coefficient, others = 1, 0
    for term in range(workload.term_start[axis], workload.term_start[axis + 1]):
        if workload.term_dim[term] == d:
            coefficient = workload.term_coefficient[term]
        else:
            others += workload.term_coefficient[term] * (workload.dims[workload.term_dim[term]] - 1)
    lowest = -(workload.axis_offset[axis] // coefficient) - first
    low = max(0, -(-lowest // tile))
    elems_before_end = (workload.axis_extent[axis] - 1 - workload.axis_offset[axis] - others) // coefficient - first + 1
    return low, max(low, min(extent, elems_before_end) // tile)


@lean
def transfer_cycles(case: CaseArrays, projection: int, bits: int, first: Ints, tile: Ints) -> tuple[int, int]:
    """(DMA cycles, elements inside the tensor) of one tile."""
    workload, arch = case.workload, case.arch
    elems, bursts, is_whole = 1, 1, True
    for axis in range(workload.axis_start[projection + 1] - 1, workload.axis_start[projection] - 1, -1):
        inside = inside_elems(workload, axis, first, tile)
        elems *= inside
        if not is_whole:
            bursts *= inside
        if inside < workload.axis_extent[axis]:
            is_whole = False
    cycles = transfer(elems, bursts, bits, arch.burst_bits, arch.burst_startup_cycles, arch.dma_bytes_per_cycle)[0]
    return cycles, elems


@lean
def store_cycles(case: CaseArrays, first: Ints, tile: Ints) -> tuple[int, int]:
    """(channel cycles, engine cycles) of storing finished outputs: ``FINAL`` and ``FINAL_ENGINE`` of the formula."""
    workload = case.workload
    cycles, elems = transfer_cycles(case, O, workload.out_bits, first, tile)
    vector_cycles = int(math.ceil(elems * workload.num_ops_per_elem / case.arch.vector_ops_per_cycle))
    longer = max(0, vector_cycles - cycles)
    for extra in range(O + 1, len(workload.elem_bits)):
        cycles += transfer_cycles(case, extra, workload.elem_bits[extra], first, tile)[0]
    return cycles, cycles + longer
