"""The passes of one core when all tiles divide, gathered by what the DMA does beside and behind each of them.

What the PEs do inside a pass enters only as the pass's cycles, so one table serves every array tile: the core's cycles
are ``base + sum(weight * (max(pass cycles, beside) + behind))``.

Bounds ``core_times`` of ``cost_model.analytical.core``: of one core without edge tiles, however it waits for others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tvm_spm.exact.boxes import store_cycles, transfer_cycles, unclipped_tiles
from tvm_spm.exact.case_arrays import CaseArrays, Ints, O
from tvm_spm.jit import kernel, lean
from tvm_spm.space.mapping_batch import NUM_DIMS

WEIGHT, FLAGS, BESIDE, BEHIND = 0, 1, 2, 3
"""Rows of a table. Flags: I, W enter before the pass; outputs are partial sums; outputs leave after it."""


@lean
def fill_runs(
    case: CaseArrays, axes: tuple[int, int], d: int, part: tuple[int, int, int], accumulates: bool, starts: Ints
) -> int:
    """Cut the tiles of a dim into runs that some axes clip alike; returns their number.

    ``starts[r]`` is the first index of run ``r``, and the number of tiles ends the last one.

    Args:
        case: What is searched.
        axes: First of the axes, and one behind the last.
        d: The dim.
        part: First index and extent of the loops, and the tile.
        accumulates: Whether tiles must accumulate alike, too.
        starts: Filled.
    """
    workload, (first, extent, tile) = case.workload, part
    count = extent // tile
    low, high = 0, count
    for axis in range(axes[0], axes[1]):
        if case.is_clipped[axis]:
            for term in range(workload.term_start[axis], workload.term_start[axis + 1]):
                if workload.term_dim[term] == d:
                    lowest, highest = unclipped_tiles(workload, axis, d, first, extent, tile)
                    low, high = max(low, lowest), min(high, highest)
    num_runs, index = 0, 0
    while index < count:
        starts[num_runs] = index
        num_runs += 1
        is_first = accumulates and index == 0 and workload.is_reduction[d]
        index = high if low <= index < high and not is_first else index + 1
    starts[num_runs] = count
    return num_runs


@kernel
def stores_cycles(case: CaseArrays, part_first: Ints, part: Ints, tile: Ints, runs: Ints, engine: int) -> int:
    """Cycles to store all outputs of a part of the loops: of a channel, or of the DMA engine if ``engine`` is 1."""
    workload = case.workload
    num_runs, digit = np.ones(NUM_DIMS, dtype=np.int64), np.zeros(NUM_DIMS, dtype=np.int64)
    first, is_needed = part_first.copy(), workload.is_relevant[O].copy()
    for extra in range(3, len(workload.elem_bits)):
        is_needed |= workload.is_relevant[extra]
    axes = (workload.axis_start[O], len(case.is_clipped))
    for d in range(NUM_DIMS):
        if is_needed[d]:
            num_runs[d] = fill_runs(case, axes, d, (part_first[d], part[d], tile[d]), False, runs[d])
    total = 0
    while True:
        weight = 1
        for d in range(NUM_DIMS):
            if is_needed[d]:
                first[d] = part_first[d] + runs[d, digit[d]] * tile[d]
                weight *= runs[d, digit[d] + 1] - runs[d, digit[d]]
        total += weight * store_cycles(case, first, tile)[engine]
        d = NUM_DIMS - 1
        while d >= 0:
            digit[d] += 1
            if digit[d] < num_runs[d]:
                break
            digit[d] = 0
            d -= 1
        if d < 0:
            return total


@lean
def passes_cycles(table: Ints, num_entries: int, times: Ints) -> int:
    """Cycles of all passes and of the DMA work beside and behind them, given those of a pass by its flags."""
    cycles = 0
    for entry in range(num_entries):
        inside = max(times[table[FLAGS, entry]], table[BESIDE, entry])
        cycles += table[WEIGHT, entry] * (inside + table[BEHIND, entry])
    return cycles


@lean
def _is_still(index: Ints, order: Ints, position: int, num_loops: int) -> bool:
    """Whether all loops inside a position are at their first index."""
    for loop in range(position + 1, num_loops):
        if index[order[loop]] != 0:
            return False
    return True


class CoreLoops(NamedTuple):
    """One core's passes: where its part begins, the tiles in SPM, and the DRAM loops that iterate.

    Attributes:
        first: Where the part begins.
        tile: Elements in SPM.
        counts: Iterations per dim.
        order: Dims of the loops, outer to inner.
        positions: Per operand the innermost loop it depends on, or -1.
        double: Bits of the operands with two SPM buffers.
    """

    first: Ints
    tile: Ints
    counts: Ints
    order: Ints
    positions: Ints
    double: int


@kernel
def _emit(
    case: CaseArrays, core: CoreLoops, at: Ints, ticks: tuple[int, int], weight: int, table: Ints, num_entries: int
) -> int:
    """Add passes like the one ``at``; ``ticks`` are the loops that tick before and after it, -1 if none does.

    Returns:
        Entries of the table, -1 if it is full.
    """
    workload, (before, after) = case.workload, ticks
    tile, count, order, positions, double = core.tile, core.counts, core.order, core.positions, core.double
    num_loops, core_first = len(order), core.first
    first, index = np.empty(NUM_DIMS, dtype=np.int64), np.empty(NUM_DIMS, dtype=np.int64)
    flags = 0
    for operand in range(2):
        if _is_still(at, order, positions[operand], num_loops):
            flags |= 1 << operand
    for loop in range(num_loops):
        if workload.is_reduction[order[loop]] and at[order[loop]] > 0:
            flags |= 4
    leaves = True
    for loop in range(positions[O] + 1, num_loops):
        if at[order[loop]] != count[order[loop]] - 1:
            leaves = False
    beside, behind = 0, 0
    for d in range(NUM_DIMS):
        first[d] = core_first[d] + at[d] * tile[d]
    if leaves:
        flags |= 8
        if double >> O & 1 == 0:
            behind += store_cycles(case, first, tile)[1]
    if before >= 0 and double >> O & 1 and before <= positions[O]:
        # the pass before: the ticking loop one less, all loops inside it at their last
        index[:] = at
        index[order[before]] -= 1
        for loop in range(before + 1, num_loops):
            index[order[loop]] = count[order[loop]] - 1
        for d in range(NUM_DIMS):
            first[d] = core_first[d] + index[d] * tile[d]
        beside += store_cycles(case, first, tile)[1]
    if after >= 0:
        index[:] = at
        index[order[after]] += 1
        for loop in range(after + 1, num_loops):
            index[order[loop]] = 0
        for d in range(NUM_DIMS):
            first[d] = core_first[d] + index[d] * tile[d]
        for operand in range(2):
            if after <= positions[operand]:
                cycles = transfer_cycles(case, operand, workload.elem_bits[operand], first, tile)[0]
                if double >> operand & 1:
                    beside += cycles
                else:
                    behind += cycles
    for entry in range(num_entries):
        if table[FLAGS, entry] == flags and table[BESIDE, entry] == beside and table[BEHIND, entry] == behind:
            table[WEIGHT, entry] += weight
            return num_entries
    if num_entries == table.shape[1]:
        return -1
    table[WEIGHT, num_entries], table[FLAGS, num_entries] = weight, flags
    table[BESIDE, num_entries], table[BEHIND, num_entries] = beside, behind
    return num_entries + 1


@kernel
def fill_table(
    case: CaseArrays,
    core_first: Ints,
    core_tile: Ints,
    tile: Ints,
    order: Ints,
    double: int,
    runs: Ints,
    table: Ints,
) -> int:
    """Gather the passes of the core that starts at ``core_first``.

    Args:
        case: What is searched.
        core_first: Where the core's part begins.
        core_tile: Elements of the core's part.
        tile: Elements in SPM.
        order: Dims of the DRAM loops that iterate, outer to inner.
        double: Bits of the operands with two SPM buffers.
        runs: Scratch of 8 rows.
        table: Overwritten.

    Returns:
        Entries of the table, -1 if it has no room.
    """
    workload, num_loops, num_runs = case.workload, len(order), np.ones(NUM_DIMS, dtype=np.int64)
    count, positions = np.empty(NUM_DIMS, dtype=np.int64), np.full(3, -1, dtype=np.int64)
    for d in range(NUM_DIMS):
        count[d] = core_tile[d] // tile[d]
    core = CoreLoops(core_first, tile, count, order, positions, double)
    for loop in range(num_loops):
        d = order[loop]
        part = (core_first[d], core_tile[d], tile[d])
        num_runs[loop] = fill_runs(case, (0, len(case.is_clipped)), d, part, True, runs[loop])
        for operand in range(3):
            if workload.is_relevant[operand, d]:
                positions[operand] = loop
    at = np.zeros(NUM_DIMS, dtype=np.int64)
    digit = np.zeros(NUM_DIMS, dtype=np.int64)
    inner = num_loops - 1
    entries = _emit(case, core, at, (-1, inner), 1, table, 0)
    if inner < 0:
        return entries
    for ticking in range(num_loops):
        # loops further out stand still in any combination of runs
        digit[:] = 0
        while True:
            standing = 1
            at[:] = 0
            for loop in range(ticking):
                at[order[loop]] = runs[loop, digit[loop]]
                standing *= runs[loop, digit[loop] + 1] - runs[loop, digit[loop]]
            d = order[ticking]
            for run in range(num_runs[ticking]):
                low, high = runs[ticking, run], runs[ticking, run + 1]
                for is_link in range(2):
                    # two neighbours inside the run, or its last and the next run's first
                    pairs, index = (1, high - 1) if is_link else (high - 1 - low, low)
                    if is_link and run == num_runs[ticking] - 1:
                        continue
                    if ticking == inner:
                        if index == 0:
                            # the first index has another pass before it
                            pairs -= 1
                            index += 1
                        if pairs <= 0 or (is_link and pairs < 1):
                            continue
                        at[d] = index
                        entries = _emit(case, core, at, (inner, inner), standing * pairs, table, entries)
                        if entries < 0:
                            return -1
                        continue
                    if pairs == 0:
                        continue
                    at[d] = index
                    for loop in range(ticking + 1, num_loops):
                        at[order[loop]] = count[order[loop]] - 1
                    entries = _emit(case, core, at, (inner, ticking), standing * pairs, table, entries)
                    if entries < 0:
                        return -1
                    at[d] = index + 1
                    for loop in range(ticking + 1, num_loops):
                        at[order[loop]] = 0
                    entries = _emit(case, core, at, (ticking, inner), standing * pairs, table, entries)
                    if entries < 0:
                        return -1
            loop = ticking - 1
            while loop >= 0:
                digit[loop] += 1
                if digit[loop] < num_runs[loop]:
                    break
                digit[loop] = 0
                loop -= 1
            if loop < 0:
                break
    for loop in range(num_loops):
        at[order[loop]] = count[order[loop]] - 1
    return _emit(case, core, at, (inner, -1), 1, table, entries)
