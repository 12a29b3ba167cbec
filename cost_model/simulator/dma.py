"""Transfers between DRAM and SPM: the clipped tile, its bursts, and the cycles of the DMA engine."""

from __future__ import annotations

from cost_model.problem import Ints, Problem
from cost_model.transfer import transfer
from tvm_spm.jit import small
from tvm_spm.space.tensors import inside_elems


@small
def move(problem: Problem, projection: int, elem_bits: int, first: Ints, tile: Ints) -> tuple[int, int, int]:
    """(cycles, elements, bits in whole bursts) of moving one tile, see ``transfer``.

    Args:
        problem: Tensors and DMA numbers.
        projection: Row of the tensor.
        elem_bits: Width of an element while it moves.
        first: First loop index per dim.
        tile: Elements per dim.
    """
    elems, bursts, is_split = 1, 1, False
    for axis in range(problem.axis_start[projection + 1] - 1, problem.axis_start[projection] - 1, -1):
        inside = inside_elems(problem, axis, first, tile)
        if inside == 0:
            return 0, 0, 0
        elems *= inside
        if is_split:
            bursts *= inside
        elif inside < problem.axis_extent[axis]:
            is_split = True
    cycles, moved_bits = transfer(
        elems, bursts, elem_bits, problem.burst_bits, problem.burst_startup_cycles, problem.dma_bytes_per_cycle
    )
    return cycles, elems, moved_bits
