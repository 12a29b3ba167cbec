"""Transfers between DRAM and SPM: the clipped tile, its bursts, and the cycles of the DMA engine."""

from __future__ import annotations

from cost_model.simulator.state import Ints, Problem, Tensors
from cost_model.transfer import transfer
from tvm_spm.jit import kernel


@kernel
def move(
    problem: Problem, tensors: Tensors, projection: int, elem_bits: int, first: Ints, tile: Ints
) -> tuple[int, int, int]:
    """(cycles, elements, bits in whole bursts) of moving one tile, see ``transfer``.

    Args:
        problem: DMA numbers.
        tensors: All projections.
        projection: Row of the tensor.
        elem_bits: Width of an element while it moves.
        first: First loop index per dim.
        tile: Elements per dim.
    """
    axes = tensors.axes
    elems, bursts, is_split = 1, 1, False
    for axis in range(tensors.spans[projection, 1] - 1, tensors.spans[projection, 0] - 1, -1):
        extent, start, span = axes[axis, 0], axes[axis, 1], 1
        for term in range(3, 3 + 2 * axes[axis, 2], 2):
            d, coefficient = axes[axis, term], axes[axis, term + 1]
            start += coefficient * first[d]
            span += coefficient * (tile[d] - 1)
        inside = min(extent, start + span) - max(0, start)
        if inside <= 0:
            return 0, 0, 0
        elems *= inside
        if is_split:
            bursts *= inside
        elif inside < extent:
            is_split = True
    cycles, moved_bits = transfer(
        elems, bursts, elem_bits, problem.burst_bits, problem.burst_startup_cycles, problem.dma_bytes_per_cycle
    )
    return cycles, elems, moved_bits
