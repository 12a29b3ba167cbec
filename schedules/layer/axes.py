"""What the axes of operands say about loops: their order, and whether they reach into padding."""

from __future__ import annotations

from tvm_spm.workload import DIM_NAMES, Axis, Dims, Projection, Workload


def outer_first(axis: Axis) -> list[tuple[str, int]]:
    """The terms of an axis from the one with the widest stride to the narrowest."""
    return sorted(axis.terms, key=lambda term: (-term[1], DIM_NAMES.index(term[0])))


def needs_padding(workload: Workload) -> bool:
    """Whether the loops reach outside the input tensor."""
    return any(before or after for before, after in overhang(workload.I, workload.dims))


def overhang(projection: Projection, dims: Dims) -> list[tuple[int, int]]:
    """Per axis of a tensor, how many indices the loops reach before its first element and behind its last."""
    found = []
    for axis in projection.axes:
        last = axis.offset + axis.tile_elems(dims) - 1
        found.append((max(0, -axis.offset), max(0, last - axis.extent + 1)))
    return found
