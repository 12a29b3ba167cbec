"""Tiles that the border of a tensor cuts nowhere (compiled)."""

from __future__ import annotations

from cost_model.arrays import WorkloadArrays
from tvm_spm.jit import lean


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
