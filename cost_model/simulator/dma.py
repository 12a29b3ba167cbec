"""Transfers between DRAM and SPM: the clipped tile, its bursts, and the cycles of the DMA engine."""

from __future__ import annotations

import math

from cost_model.simulator.state import Ints, Problem, Tensors
from tvm_spm.jit import kernel


@kernel
def transfer(
    problem: Problem, tensors: Tensors, projection: int, elem_bits: int, first: Ints, tile: Ints
) -> tuple[int, int, int]:
    """(cycles, elements, bytes) of moving one tile; a tile wholly in padding moves nothing and takes no time.

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
    num_bytes = (elems * elem_bits + 7) >> 3
    cycles = int(math.ceil(bursts * problem.burst_startup_cycles + num_bytes / problem.dma_bytes_per_cycle))
    return cycles, elems, num_bytes
