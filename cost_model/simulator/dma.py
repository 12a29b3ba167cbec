"""Transfers between DRAM and SPM: the clipped tile, its bursts, and the cycles of the DMA engine."""

from __future__ import annotations

import math

from numba import njit

from cost_model.arrays import ArchArrays, WorkloadArrays
from cost_model.simulator.nest import Ints, O

CHANNEL_CYCLES, ENGINE_CYCLES, MOVED_ELEMS, MOVED_BYTES = 0, 1, 2, 3
"""Columns of a transfer record. A vector unit may keep the engine longer than the DRAM channel."""

TRANSFER_FIELDS = 4


@njit(error_model="numpy")
def transfer(
    workload: WorkloadArrays, arch: ArchArrays, projection: int, elem_bits: int, first: Ints, tile: Ints
) -> tuple[int, int, int]:
    """(cycles, elements, bytes) of moving one tile; a tile wholly in padding moves nothing and takes no time."""
    elems, bursts, is_split = 1, 1, False
    for axis in range(workload.axis_start[projection + 1] - 1, workload.axis_start[projection] - 1, -1):
        start, span = workload.axis_offset[axis], 1
        for term in range(workload.term_start[axis], workload.term_start[axis + 1]):
            d = workload.term_dim[term]
            start += workload.term_coefficient[term] * first[d]
            span += workload.term_coefficient[term] * (tile[d] - 1)
        inside = min(workload.axis_extent[axis], start + span) - max(0, start)
        if inside <= 0:
            return 0, 0, 0
        elems *= inside
        if is_split:
            bursts *= inside
        elif inside < workload.axis_extent[axis]:
            is_split = True
    num_bytes = -(-elems * elem_bits // 8)
    cycles = int(math.ceil(bursts * arch.burst_startup_cycles + num_bytes / arch.dma_bytes_per_cycle))
    return cycles, elems, num_bytes


@njit(error_model="numpy")
def final_store(
    workload: WorkloadArrays, arch: ArchArrays, first: Ints, tile: Ints, extra_elems: Ints
) -> tuple[int, int, int, int, int]:
    """(channel cycles, engine cycles, output elements, output bytes, bytes of extras) of a finished tile.

    The tile passes the vector unit on its way and the extras stream by, so the slower of DMA and vector unit counts.

    Args:
        workload: Its arrays.
        arch: Its arrays.
        first: First index per dim.
        tile: Elements per dim.
        extra_elems: Elements moved per extra, added to.
    """
    cycles, elems, num_bytes = transfer(workload, arch, O, workload.out_bits, first, tile)
    extra_bytes = 0
    for extra in range(len(extra_elems)):
        projection = O + 1 + extra
        more, streamed, streamed_bytes = transfer(
            workload, arch, projection, workload.elem_bits[projection], first, tile
        )
        cycles += more
        extra_elems[extra] += streamed
        extra_bytes += streamed_bytes
    vector_cycles = int(math.ceil(elems * workload.num_ops_per_elem / arch.vector_ops_per_cycle))
    return cycles, max(cycles, vector_cycles), elems, num_bytes, extra_bytes
