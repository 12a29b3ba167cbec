"""Extents of tiles on the axes of a tensor (compiled; see ``Axis.tile_elems`` and ``Axis.clipped_elems``)."""

from __future__ import annotations

from cost_model.arrays import WorkloadArrays
from tvm_spm.exact.pass_time import Ints
from tvm_spm.jit import lean


@lean
def tile_elems(workload: WorkloadArrays, projection: int, tile: Ints) -> int:
    """Elements of the bounding box of a tile, padding included."""
    elems = 1
    for axis in range(workload.axis_start[projection], workload.axis_start[projection + 1]):
        span = 1
        for term in range(workload.term_start[axis], workload.term_start[axis + 1]):
            span += workload.term_coefficient[term] * (tile[workload.term_dim[term]] - 1)
        elems *= span
    return elems


@lean
def inside_elems(workload: WorkloadArrays, axis: int, first: Ints, tile: Ints) -> int:
    """Elements inside the tensor that a tile spans on one axis."""
    start, span = workload.axis_offset[axis], 1
    for term in range(workload.term_start[axis], workload.term_start[axis + 1]):
        d = workload.term_dim[term]
        start += workload.term_coefficient[term] * first[d]
        span += workload.term_coefficient[term] * (tile[d] - 1)
    return max(0, min(workload.axis_extent[axis], start + span) - max(0, start))


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
