"""Timeline of one core of one mapping (compiled; see ``analytical_time``).

Passes are counted like the steps of a pass. The indices of a loop are cut into runs of equal kind; what a pass depends
on is a state of the loops that stand still: which are at edge tiles, how far reductions are, and, per operand, a code
that says which of its distinct DRAM transfers belongs to it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cost_model.arrays import ArchArrays, WorkloadArrays
from cost_model.batched_nest import I, Ints, Nest, O, W, inside_elems, unclipped_tiles
from cost_model.batched_pass import (
    DRAIN_CYCLES,
    FRESH_CYCLES,
    IN_BYTES,
    IN_CYCLES,
    PARTIAL_CYCLES,
    pass_record,
    port_cycles,
)
from tvm_spm.mapping_batch import NUM_DIMS

CYCLES, PROLOGUE, CHANNEL = 0, 1, 2
"""Columns of a core's times: until its last store, its first loads, and all that it holds a DRAM channel."""

FINAL, ENGINE = 3, 4
"""Rows of transfers after those of I, W and partial O: a final store's channel and engine cycles."""

RUN_FIRST, RUN_LENGTH, RUN_KIND = 0, 1, 2
"""Planes of a table of runs: first index, number of indices, and which distinct transfer they share."""

MASK, IS_PARTIAL, IS_BEFORE_LAST, CODE, WAYS = 0, 1, 2, 3, 6
"""Rows of a table of states: bits of edge tiles, whether a reduction is beyond its first index, whether one is before
its last, three codes of transfers, and how many index vectors are in this state."""

_START, _END = -1, -1
"""Positions of the tick before the first and after the last pass: outside every loop, so that everything moves."""


class Scratch(NamedTuple):
    """Room for one mapping; sized once for a workload.

    Attributes:
        runs: ``(3, 8, runs)``, see ``RUN_FIRST``.
        kind_first: ``(8, runs)`` an index of each distinct transfer.
        stride: ``(8, 3)`` of a loop's transfers in the codes of I, W, O.
        transfers: ``(5, codes)`` cycles.
        states: ``(7, states)``, see ``MASK``.
        passes: ``(256, PASS_FIELDS)``.
        steps: Table of ``STEP_FIELDS``.
        ways: For ``pass_record``.
        tiles: For ``energy_pj``.
    """

    runs: Ints
    kind_first: Ints
    stride: Ints
    transfers: Ints
    states: Ints
    passes: Ints
    steps: NDArray[np.void]
    ways: Ints
    tiles: Ints


@njit(error_model="numpy")
def core_times(
    workload: WorkloadArrays,
    arch: ArchArrays,
    is_clipped: NDArray[np.bool_],
    nest: Nest,
    first: Ints,
    extent: Ints,
    scratch: Scratch,
    times: Ints,
) -> None:
    """Fill ``times`` with those of the core that owns ``extent`` elements from ``first`` on along each dim."""
    dim, count = np.empty(NUM_DIMS, dtype=np.int64), np.empty(NUM_DIMS, dtype=np.int64)
    bit, position = np.zeros(NUM_DIMS, dtype=np.int64), np.empty(NUM_DIMS, dtype=np.int64)
    num_runs, red = np.empty(NUM_DIMS, dtype=np.int64), np.empty(NUM_DIMS, dtype=np.int64)
    num_loops, num_masks = 0, 1
    codes = np.ones(3, dtype=np.int64)
    for loop in range(nest.num_dram):
        d = nest.dram_dim[loop]
        if extent[d] <= nest.spm[d]:
            continue
        whole = extent[d] // nest.spm[d]
        has_edge = whole * nest.spm[d] < extent[d]
        dim[num_loops], count[num_loops], position[num_loops] = d, whole + has_edge, loop
        red[num_loops] = 1 if workload.is_reduction[d] else 0
        if has_edge:
            bit[num_loops] = num_masks
            num_masks *= 2
        low, high = 0, whole
        for axis in range(len(is_clipped)):
            if is_clipped[axis]:
                for term in range(workload.term_start[axis], workload.term_start[axis + 1]):
                    if workload.term_dim[term] == d:
                        lowest, highest = unclipped_tiles(workload, axis, d, first[d], extent[d], nest.spm[d])
                        low, high = max(low, lowest), min(high, highest)
        runs, kinds = _cut_runs(
            scratch, num_loops, whole + has_edge, low, high, red[num_loops] == 1, red[num_loops] == 1 and nest.spill == 1
        )
        num_runs[num_loops] = runs
        for operand in range(3):
            scratch.stride[num_loops, operand] = 0
            if workload.is_relevant[operand, d]:
                scratch.stride[num_loops, operand] = codes[operand]
                codes[operand] *= kinds
        num_loops += 1
    _fill_transfers(workload, arch, nest, first, extent, dim, num_loops, codes, scratch)
    _fill_passes(workload, arch, nest, extent, dim, bit, num_loops, num_masks, scratch)
    times[PROLOGUE] = scratch.transfers[I, 0] + scratch.transfers[W, 0]
    times[CYCLES], times[CHANNEL] = _timeline(
        arch, nest, num_loops, count, bit, position, red, num_runs, scratch, times[PROLOGUE]
    )


@njit(error_model="numpy", forceinline=True)
def _cut_runs(
    scratch: Scratch, loop: int, count: int, low: int, high: int, split_first: bool, split_last: bool
) -> tuple[int, int]:
    """Cut the indices of a loop into runs; those in [low, high) are clipped nowhere and share a transfer.

    Returns:
        (runs, distinct transfers).
    """
    runs, num, kinds = scratch.runs, 0, 0
    low = min(low, count)
    high = max(low, high)
    at = 0
    while at < count:
        end = at + 1
        if low <= at < high:
            end = high
            if split_first and at == 0:
                end = 1
            elif split_last and high == count and at < count - 1:
                end = count - 1
        is_shared = low < at < high
        runs[RUN_FIRST, loop, num], runs[RUN_LENGTH, loop, num] = at, end - at
        runs[RUN_KIND, loop, num] = kinds - 1 if is_shared else kinds
        if not is_shared:
            scratch.kind_first[loop, kinds] = at
            kinds += 1
        num += 1
        at = end
    return num, kinds


@njit(error_model="numpy", forceinline=True)
def _transfer_cycles(
    workload: WorkloadArrays, arch: ArchArrays, projection: int, elem_bits: int, first: Ints, size: Ints
) -> tuple[int, int]:
    """(cycles, elements) of moving one tile; a tile wholly in padding moves nothing and takes no time."""
    elems, bursts, is_split = 1, 1, False
    for axis in range(workload.axis_start[projection + 1] - 1, workload.axis_start[projection] - 1, -1):
        inside = inside_elems(workload, axis, first, size)
        elems *= inside
        if is_split:
            bursts *= inside
        elif inside < workload.axis_extent[axis]:
            is_split = True
    if elems == 0:
        return 0, 0
    num_bytes = -(-elems * elem_bits // 8)
    return int(math.ceil(bursts * arch.burst_startup_cycles + num_bytes / arch.dma_bytes_per_cycle)), elems


@njit(error_model="numpy", forceinline=True)
def _fill_transfers(
    workload: WorkloadArrays,
    arch: ArchArrays,
    nest: Nest,
    core_first: Ints,
    extent: Ints,
    dim: Ints,
    num_loops: int,
    codes: Ints,
    scratch: Scratch,
) -> None:
    """All distinct transfers of I, W, O, and the final stores, indexed by their codes."""
    first, size = np.empty(NUM_DIMS, dtype=np.int64), np.empty(NUM_DIMS, dtype=np.int64)
    transfers = scratch.transfers
    for d in range(NUM_DIMS):
        first[d], size[d] = core_first[d], min(nest.spm[d], extent[d])
    for operand in range(3):
        for code in range(codes[operand]):
            rest = code
            for loop in range(num_loops - 1, -1, -1):
                stride = scratch.stride[loop, operand]
                if stride > 0:
                    kind = rest // stride if rest >= stride else 0
                    rest -= kind * stride
                    d = dim[loop]
                    offset = scratch.kind_first[loop, kind] * nest.spm[d]
                    first[d], size[d] = core_first[d] + offset, min(nest.spm[d], extent[d] - offset)
            transfers[operand, code], elems = _transfer_cycles(
                workload, arch, operand, workload.elem_bits[operand], first, size
            )
            if operand == O:
                cycles, _ = _transfer_cycles(workload, arch, O, workload.out_bits, first, size)
                for extra in range(O + 1, len(workload.elem_bits)):
                    more, _ = _transfer_cycles(workload, arch, extra, workload.elem_bits[extra], first, size)
                    cycles += more
                ops_cycles = int(math.ceil(elems * workload.num_ops_per_elem / arch.vector_ops_per_cycle))
                transfers[FINAL, code], transfers[ENGINE, code] = cycles, max(cycles, ops_cycles)


@njit(error_model="numpy", forceinline=True)
def _fill_passes(
    workload: WorkloadArrays,
    arch: ArchArrays,
    nest: Nest,
    extent: Ints,
    dim: Ints,
    bit: Ints,
    num_loops: int,
    num_masks: int,
    scratch: Scratch,
) -> None:
    """One pass record per combination of loops that are at their edge tile."""
    tile = np.empty(NUM_DIMS, dtype=np.int64)
    for d in range(NUM_DIMS):
        tile[d] = min(nest.spm[d], extent[d])
    for mask in range(num_masks):
        for loop in range(num_loops):
            if bit[loop] > 0:
                d = dim[loop]
                tile[d] = extent[d] % nest.spm[d] if mask & bit[loop] else nest.spm[d]
        pass_record(workload, arch, nest, tile, scratch.steps, scratch.ways, scratch.passes[mask])


@njit(error_model="numpy", forceinline=True)
def _slot_cycles(
    arch: ArchArrays,
    nest: Nest,
    scratch: Scratch,
    tick_in: int,
    tick_out: int,
    mask: int,
    is_partial: int,
    before: tuple[int, int],
    at: tuple[int, int],
    after: tuple[int, int, int, int],
) -> tuple[int, int]:
    """(cycles, channel cycles) of one pass and the transfers beside and behind it.

    Args:
        arch: Its arrays.
        nest: The mapping.
        scratch: Passes and transfers.
        tick_in: Position of the loop that ticked before the pass.
        tick_out: Of that which ticks after it.
        mask: Which loops are at edge tiles.
        is_partial: Whether a reduction loop is beyond its first index.
        before: Code of the output tile of the pass before, or -1, and whether it is complete.
        at: The same of this pass.
        after: Codes of I, W, O of the pass after, or -1, and whether its outputs are partial sums.
    """
    record, transfers = scratch.passes[mask], scratch.transfers
    fill, fill_bytes = 0, 0
    for operand in range(3):
        if tick_in <= nest.rf_position[operand] and (operand != O or is_partial == 1):
            fill = max(fill, record[IN_CYCLES + operand])
            fill_bytes += record[IN_BYTES + operand]
    cycles = record[PARTIAL_CYCLES] if is_partial == 1 else record[FRESH_CYCLES]
    cycles += max(fill, port_cycles(arch, fill_bytes)) + arch.mac_stages - 1
    if tick_out <= nest.rf_position[O]:
        cycles += record[DRAIN_CYCLES]
    beside, behind, channel = 0, 0, 0
    if nest.spm_double[O] == 1 and before[0] >= 0 and tick_in <= nest.spm_position[O]:
        beside = transfers[ENGINE if before[1] == 1 else O, before[0]]
    if tick_out <= nest.spm_position[O]:
        channel = transfers[FINAL if at[1] == 1 else O, at[0]]
        if nest.spm_double[O] == 0:
            behind = transfers[ENGINE if at[1] == 1 else O, at[0]]
    if after[0] >= 0:
        for operand in range(3):
            if tick_out <= nest.spm_position[operand] and (operand != O or after[3] == 1):
                load = transfers[operand, after[operand]]
                channel += load
                if nest.spm_double[operand] == 1:
                    beside += load
                else:
                    behind += load
    return max(cycles, beside) + behind, channel


@njit(error_model="numpy", forceinline=True)
def _code(scratch: Scratch, loop: int, run: int, operand: int) -> int:
    return scratch.runs[RUN_KIND, loop, run] * scratch.stride[loop, operand]


@njit(error_model="numpy", forceinline=True)
def _run_of(scratch: Scratch, loop: int, num_runs: int, index: int) -> int:
    run = num_runs - 1
    while scratch.runs[RUN_FIRST, loop, run] > index:
        run -= 1
    return run


@njit(error_model="numpy", forceinline=True)
def _timeline(
    arch: ArchArrays,
    nest: Nest,
    num_loops: int,
    count: Ints,
    bit: Ints,
    position: Ints,
    red: Ints,
    num_runs: Ints,
    scratch: Scratch,
    prologue: int,
) -> tuple[int, int]:
    """(cycles, channel cycles) of all passes: see ``slots.representative_slots``."""
    states, runs = scratch.states, scratch.runs
    total, held = arch.launch_cycles + prologue, prologue
    nothing, no_output = (-1, -1, -1, 0), (-1, 0)
    if num_loops == 0:
        slot, channel = _slot_cycles(arch, nest, scratch, _START, _END, 0, 0, no_output, (0, 1), nothing)
        return total + slot + (scratch.transfers[ENGINE, 0] if nest.spm_double[O] == 1 else 0), held + channel

    inner = num_loops - 1
    inner_position, inner_red, inner_count = position[inner], red[inner], count[inner]
    second = _run_of(scratch, inner, num_runs[inner], 1)
    second_i, second_w = _code(scratch, inner, second, I), _code(scratch, inner, second, W)
    second_o = _code(scratch, inner, second, O)
    last_o = _code(scratch, inner, num_runs[inner] - 1, O)
    next_to_last_o = _code(scratch, inner, _run_of(scratch, inner, num_runs[inner], inner_count - 2), O)
    all_edges, any_red, inside_o = 0, 0, 0
    for loop in range(num_loops):
        all_edges |= bit[loop]
        any_red |= red[loop]
        inside_o += _code(scratch, loop, num_runs[loop] - 1, O)
    all_last_o, inside_edges = inside_o, all_edges
    num_states, ways = 1, 1
    states[:, 0] = 0
    states[WAYS, 0] = 1
    for loop in range(inner):
        inside_edges &= ~bit[loop]
        inside_o -= _code(scratch, loop, num_runs[loop] - 1, O)
        inside_red = 0
        for other in range(loop + 1, num_loops):
            inside_red |= red[other]
        for run in range(num_runs[loop]):
            for is_link in range(2):
                # two indices in one run, or the last of this run and the first of the next
                pairs, after = runs[RUN_LENGTH, loop, run] - 1, run
                if is_link == 1:
                    pairs, after = 1, run + 1
                    if after == num_runs[loop]:
                        break
                if pairs == 0:
                    continue
                index = runs[RUN_FIRST, loop, run] + (runs[RUN_LENGTH, loop, run] - 1 if is_link == 1 else 0)
                edge = bit[loop] if index + 1 == count[loop] - 1 else 0
                beyond_first = 1 if red[loop] == 1 and index > 0 else 0
                before_last = 1 if red[loop] == 1 and index + 1 < count[loop] - 1 else 0
                for state in range(num_states):
                    weight = states[WAYS, state] * ways * pairs
                    mask, is_partial = states[MASK, state], states[IS_PARTIAL, state]
                    before_last_state = states[IS_BEFORE_LAST, state]
                    ending_o = states[CODE + O, state] + _code(scratch, loop, run, O) + inside_o
                    starting_i = states[CODE + I, state] + _code(scratch, loop, after, I)
                    starting_w = states[CODE + W, state] + _code(scratch, loop, after, W)
                    starting_o = states[CODE + O, state] + _code(scratch, loop, after, O)
                    is_complete = 1 if before_last_state | red[loop] == 0 else 0
                    starts_partial = is_partial | red[loop]
                    slot, channel = _slot_cycles(
                        arch, nest, scratch, inner_position, position[loop],
                        mask | inside_edges, is_partial | beyond_first | inside_red,
                        (ending_o - last_o + next_to_last_o, is_complete & ~inner_red), (ending_o, is_complete),
                        (starting_i, starting_w, starting_o, starts_partial),
                    )  # fmt: skip
                    total += weight * slot
                    held += weight * channel
                    at_complete = 1 if before_last_state | before_last | inside_red == 0 else 0
                    slot, channel = _slot_cycles(
                        arch, nest, scratch, position[loop], inner_position, mask | edge, starts_partial,
                        (ending_o, is_complete), (starting_o, at_complete),
                        (starting_i + second_i, starting_w + second_w, starting_o + second_o,
                         starts_partial | inner_red),
                    )  # fmt: skip
                    total += weight * slot
                    held += weight * channel
        if num_runs[loop] == 1:
            ways *= count[loop]
        else:
            num_states = _stand(scratch, loop, num_runs[loop], count[loop], bit[loop], red[loop], num_states)
    for run in range(num_runs[inner]):
        for is_link in range(2):
            pairs, after = runs[RUN_LENGTH, inner, run] - 1, run
            if is_link == 1:
                pairs, after = 1, run + 1
                if after == num_runs[inner]:
                    break
            if runs[RUN_FIRST, inner, run] == 0 and (is_link == 0 or runs[RUN_LENGTH, inner, run] == 1):
                pairs -= 1
            if pairs <= 0:
                continue
            for state in range(num_states):
                weight = states[WAYS, state] * ways * pairs
                is_partial = states[IS_PARTIAL, state] | inner_red
                at_o = states[CODE + O, state] + _code(scratch, inner, run, O)
                is_complete = 1 if states[IS_BEFORE_LAST, state] | inner_red == 0 else 0
                slot, channel = _slot_cycles(
                    arch, nest, scratch, inner_position, inner_position, states[MASK, state], is_partial,
                    (at_o, is_complete), (at_o, is_complete),
                    (states[CODE + I, state] + _code(scratch, inner, after, I),
                     states[CODE + W, state] + _code(scratch, inner, after, W),
                     states[CODE + O, state] + _code(scratch, inner, after, O), is_partial),
                )  # fmt: skip
                total += weight * slot
                held += weight * channel
    slot, channel = _slot_cycles(
        arch, nest, scratch, _START, inner_position, 0, 0, no_output, (0, 1 - any_red),
        (second_i, second_w, second_o, inner_red),
    )  # fmt: skip
    total += slot
    held += channel
    slot, channel = _slot_cycles(
        arch, nest, scratch, inner_position, _END, all_edges, any_red,
        (all_last_o - last_o + next_to_last_o, 1 - inner_red), (all_last_o, 1), nothing,
    )  # fmt: skip
    total += slot + (scratch.transfers[ENGINE, all_last_o] if nest.spm_double[O] == 1 else 0)
    return total, held + channel


@njit(error_model="numpy", forceinline=True)
def _stand(scratch: Scratch, loop: int, num_runs: int, count: int, bit: int, red: int, num_states: int) -> int:
    """Let one more loop stand in any of its runs."""
    states, runs = scratch.states, scratch.runs
    for run in range(num_runs - 1, -1, -1):
        index, length = runs[RUN_FIRST, loop, run], runs[RUN_LENGTH, loop, run]
        edge = bit if index == count - 1 else 0
        is_partial = 1 if red == 1 and index > 0 else 0
        is_before_last = 1 if red == 1 and index + length < count else 0
        for state in range(num_states):
            target = run * num_states + state
            states[MASK, target] = states[MASK, state] | edge
            states[IS_PARTIAL, target] = states[IS_PARTIAL, state] | is_partial
            states[IS_BEFORE_LAST, target] = states[IS_BEFORE_LAST, state] | is_before_last
            for operand in range(3):
                states[CODE + operand, target] = states[CODE + operand, state] + _code(scratch, loop, run, operand)
            states[WAYS, target] = states[WAYS, state] * length
    return num_runs * num_states
