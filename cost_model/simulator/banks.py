"""What a transfer waits for rows of DRAM: the runs of its tiles, walked through the banks of a channel."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cost_model.nest import CORE, HELD, Nest
from cost_model.problem import MAX_PROJECTIONS, Ints, O, Problem
from cost_model.record import record
from cost_model.simulator.log import SPILL
from cost_model.simulator.state import (
    CHANNEL_CYCLES,
    ENGINE_CYCLES,
    FIRST_EXTRA,
    KIND,
    OF_PASS,
    STORES,
    VECTOR_CYCLES,
    VECTOR_START,
    Core,
)
from tvm_spm import pages as rule
from tvm_spm import tile
from tvm_spm.addresses import PARTIAL, locate
from tvm_spm.arch import Arch
from tvm_spm.jit import lean, small
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.space.tensors import clip, terms_of
from tvm_spm.workload import Workload

OF_PARTIAL = MAX_PROJECTIONS
"""Place of partial sums among the addresses of tensors."""

BLOCKS, MISSES = 0, 1
"""Columns of what a run counts: blocks that runs reached, and rows that were opened for them."""

_visit = lean(rule.visit)
_span_at = small(tile.span_at)


class Memory(Protocol):
    """A record of ``MEMORY_FIELDS``: see ``tvm_spm.pages.Pages`` for what is not told here.

    Attributes:
        banks: Of a channel; 0 if it makes no difference where a run lies.
        address: Per tensor, its first byte, partial sums last: if none leave SPM, and if some do.
        first: Room for the first loop index of a tile, per dim.
        tile: For its elements, per dim.
        stride: For elements from one index of an axis to the next, per axis of a tensor.
        inside: For the indices of a tile inside the tensor.
        index: For where a walk of them stands.
    """

    banks: int
    row_bytes: int
    block_bytes: int
    hit_cycles: int
    miss_cycles: int
    address: Ints
    first: Ints
    tile: Ints
    stride: Ints
    inside: Ints
    index: Ints


MEMORY_FIELDS = record(Memory, {
    "address": (2, MAX_PROJECTIONS + 1), "first": NUM_DIMS, "tile": NUM_DIMS, "stride": NUM_DIMS, "inside": NUM_DIMS,
    "index": NUM_DIMS,
})  # fmt: skip


class Banks(NamedTuple):
    """The memory and the state of its banks.

    Attributes:
        memory: One record of ``MEMORY_FIELDS``.
        open_rows: Per channel and bank, the number of its row; -1 for none.
    """

    memory: NDArray[np.void]
    open_rows: Ints


def banks_of(workload: Workload, arch: Arch) -> Banks:
    """For one workload on one arch; not to be shared between threads."""
    memory, pages = np.zeros(1, dtype=MEMORY_FIELDS), arch.levels.DRAM.pages
    if pages is None:
        return Banks(memory, np.empty((0, 0), dtype=np.int64))
    memory["banks"], memory["row_bytes"], memory["block_bytes"] = pages.banks, pages.row_bytes, pages.block_bytes
    memory["hit_cycles"], memory["miss_cycles"] = pages.hit_cycles, pages.miss_cycles
    for spills in (False, True):
        located = locate(workload, spills=spills)
        tensors = [each.address for each in located if each.name != PARTIAL]
        memory["address"][0, int(spills), : len(tensors)] = tensors
        if spills:
            memory["address"][0, 1, OF_PARTIAL] = next(each.address for each in located if each.name == PARTIAL)
    return Banks(memory, np.empty((arch.levels.DRAM.channels, pages.banks), dtype=np.int64))


@lean
def wait_for_rows(problem: Problem, nest: Nest, core: Core, memory: Memory, open_rows: Ints, counts: Ints) -> None:
    """Lengthen the transfer that a core asked for by what it waits for rows of the channel it is given.

    Args:
        problem: Tensors.
        nest: The mapping.
        core: Whose transfer is next.
        memory: The banks, and room.
        open_rows: Of the channel, per bank.
        counts: ``BLOCKS`` and ``MISSES`` are added to.
    """
    row = core.queue[core.num_served]
    transfer = core.transfer[row]
    _find_tile(nest, core, transfer[OF_PASS], memory)
    spills = 0
    for d in range(NUM_DIMS):
        if nest.outside[CORE, 0, O] >> d & 1 and problem.is_reduction[d]:
            spills = 1
    address, waited = memory.address[spills], 0
    if row < STORES and row != O:
        waited = _walk(problem, memory, row, problem.elem_bits[row], address[row], open_rows, counts)
    elif row == O or transfer[KIND] == SPILL:
        waited = _walk(problem, memory, O, problem.elem_bits[O], address[OF_PARTIAL], open_rows, counts)
    else:
        for extra in range(FIRST_EXTRA, problem.num_projections):
            waited += _walk(problem, memory, extra, problem.elem_bits[extra], address[extra], open_rows, counts)
        transfer[VECTOR_START] += waited
        waited += _walk(problem, memory, O, problem.out_bits, address[O], open_rows, counts)
    transfer[CHANNEL_CYCLES] += waited
    transfer[ENGINE_CYCLES] = max(transfer[CHANNEL_CYCLES], transfer[VECTOR_START] + transfer[VECTOR_CYCLES])


@lean
def _find_tile(nest: Nest, core: Core, number: int, memory: Memory) -> None:
    """The tile of a pass of a core."""
    for d in range(NUM_DIMS):
        memory.first[d] = core.chunk_first[d]
        memory.tile[d] = min(nest.tile[HELD, d], core.chunk[d])
    for loop in range(nest.num_loops[0] - 1, -1, -1):
        d, index = nest.loop_dim[0, loop], number % core.loop_count[loop]
        number //= core.loop_count[loop]
        memory.first[d] += index * nest.tile[HELD, d]
        memory.tile[d] = min(nest.tile[HELD, d], core.chunk[d] - index * nest.tile[HELD, d])


@lean
def _walk(
    problem: Problem, memory: Memory, tensor: int, elem_bits: int, address: int, open_rows: Ints, counts: Ints
) -> int:
    """Cycles that the runs of a tile wait beyond a hit each, which is part of their start; outermost axis slowest."""
    begin, end = problem.axis_start[tensor], problem.axis_start[tensor + 1]
    at = 0
    for axis in range(begin, end):
        start, span = _span_at(
            problem.term_dim, problem.term_coefficient, terms_of(problem, axis), memory.first, memory.tile
        )
        start += problem.axis_offset[axis]
        low, high = clip(problem.axis_extent[axis], start, start + span)
        if high <= low:
            return 0
        at = at * problem.axis_extent[axis] + low
        memory.inside[axis - begin], memory.index[axis - begin] = high - low, 0
    # axes that are moved whole, and one that is not, are one run
    run, stride, outer = 1, 1, end - begin
    is_split = False
    for axis in range(end - begin - 1, -1, -1):
        memory.stride[axis] = stride
        stride *= problem.axis_extent[begin + axis]
        if not is_split:
            run *= memory.inside[axis]
            outer = axis
            is_split = memory.inside[axis] < problem.axis_extent[begin + axis]
    runs = blocks = misses = 0
    while True:
        first_bit = at * elem_bits
        reached, opened = _visit(
            open_rows, address + (first_bit >> 3), address + ((first_bit + run * elem_bits + 7) >> 3), memory.banks,
            memory.row_bytes, memory.block_bytes,
        )  # fmt: skip
        runs, blocks, misses = runs + 1, blocks + reached, misses + opened
        axis = outer - 1
        while axis >= 0 and memory.index[axis] == memory.inside[axis] - 1:
            at -= memory.index[axis] * memory.stride[axis]
            memory.index[axis] = 0
            axis -= 1
        if axis < 0:
            break
        memory.index[axis] += 1
        at += memory.stride[axis]
    counts[BLOCKS] += blocks
    counts[MISSES] += misses
    return (blocks - runs) * memory.hit_cycles + misses * (memory.miss_cycles - memory.hit_cycles)
