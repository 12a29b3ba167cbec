"""Time of one pass: the steps of the PE array, its operand networks, fill and drain.

A pass is an odometer of steps over the SPM loops. What a step costs depends only on the tile sizes of the step and its
two neighbours, and on which loops move between them; so steps of equal kind are counted instead of walked, which gives
the same integers.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cost_model.arrays import UNBOUNDED, ArchArrays, WorkloadArrays
from cost_model.simulator.nest import I, Ints, Nest, O, W
from tvm_spm.mapping_batch import NUM_DIMS

LOADS_I, LOADS_W, READS_O, O_LEAVES = 1, 2, 4, 8
"""What happens at the edges of a pass: RF loads before its first step, O read back then, O gone after its last."""

PASS_FIELDS = 9
PASS_CYCLES, MAC_CYCLES, LEFT_ELEMS, CROSSED, DELIVERED = 0, 1, 2, 3, 6
"""Columns of a pass record; ``CROSSED`` and ``DELIVERED`` are three columns each, in the order I W O."""

_STEP_FIELDS = 14
_MACS, _IN_CYCLES, _OUT_CYCLES, _ELEMS, _HEARD, _BYTES = 0, 1, 4, 5, 8, 11
"""Columns of a step record; all but the first and the out cycles are three columns each."""


@njit(error_model="numpy")
def pass_record(
    workload: WorkloadArrays, arch: ArchArrays, nest: Nest, tile: Ints, flags: int, fold: bool, record: Ints
) -> None:
    """Fill ``record`` with the cycles and counts of a pass over an SPM ``tile``.

    Args:
        workload: Its arrays.
        arch: Its arrays.
        nest: The mapping.
        tile: Elements per dim.
        flags: What happens at the edges of the pass.
        fold: Count steps of equal kind; otherwise walk each.
        record: ``PASS_FIELDS`` numbers, overwritten.
    """
    dim = np.empty(NUM_DIMS, dtype=np.int64)
    count = np.empty(NUM_DIMS, dtype=np.int64)
    edge_bit = np.zeros(NUM_DIMS, dtype=np.int64)
    position = np.full(3, -1, dtype=np.int64)
    num_loops, num_kinds = 0, 1
    for loop in range(nest.num_dram_loops, nest.num_loops):
        d = nest.loops[loop]
        if tile[d] <= nest.array[d]:
            continue
        for operand in range(3):
            if loop <= nest.rf_position[operand]:
                position[operand] = num_loops
        dim[num_loops] = d
        count[num_loops] = -(-tile[d] // nest.array[d])
        if tile[d] % nest.array[d] != 0:
            edge_bit[num_loops] = num_kinds
            num_kinds *= 2
        num_loops += 1
    steps = _step_table(workload, arch, nest, tile, dim, edge_bit, num_loops, num_kinds)

    record[:] = 0
    first, last = 0, num_kinds - 1
    record[PASS_CYCLES] = arch.mac_stages - 1 + _fill_cycles(arch, steps[first], flags, record)
    index = np.zeros(NUM_DIMS, dtype=np.int64)
    while True:
        _add_slot(workload, arch, nest, steps, index, count, edge_bit, dim, position, num_loops, flags, fold, record)
        loop = num_loops - 1
        while loop >= 0 and index[loop] == count[loop] - 1:
            index[loop] = 0
            loop -= 1
        if loop < 0:
            break
        index[loop] = _following(index[loop], count[loop], edge_bit[loop], fold)
    if flags & O_LEAVES:
        record[PASS_CYCLES] += max(steps[last, _OUT_CYCLES], _port_cycles(arch, steps[last, _BYTES + O]))


@njit(error_model="numpy")
def tile_elems(workload: WorkloadArrays, projection: int, size: Ints) -> int:
    """Elements of the bounding box of a tile, padding included."""
    elems = 1
    for axis in range(workload.axis_start[projection], workload.axis_start[projection + 1]):
        along = 1
        for term in range(workload.term_start[axis], workload.term_start[axis + 1]):
            along += workload.term_coefficient[term] * (size[workload.term_dim[term]] - 1)
        elems *= along
    return elems


@njit(error_model="numpy")
def _step_table(
    workload: WorkloadArrays,
    arch: ArchArrays,
    nest: Nest,
    tile: Ints,
    dim: Ints,
    edge_bit: Ints,
    num_loops: int,
    num_kinds: int,
) -> Ints:
    """One record per combination of loops that are at their smaller last tile."""
    steps = np.empty((num_kinds, _STEP_FIELDS), dtype=np.int64)
    size = np.empty(NUM_DIMS, dtype=np.int64)
    for d in range(NUM_DIMS):
        size[d] = min(nest.array[d], tile[d])
    for kind in range(num_kinds):
        for loop in range(num_loops):
            d = dim[loop]
            size[d] = tile[d] % nest.array[d] if kind & edge_bit[loop] else nest.array[d]
        macs = 1
        for d in range(NUM_DIMS):
            macs *= min(nest.rf[d], size[d])
        steps[kind, _MACS] = macs
        for operand in range(3):
            elems = tile_elems(workload, operand, size)
            steps[kind, _IN_CYCLES + operand] = math.ceil(elems / arch.noc_elems_per_cycle)
            steps[kind, _ELEMS + operand] = elems
            steps[kind, _HEARD + operand] = elems if operand == O else _heard_elems(workload, operand, nest.rf, size)
            steps[kind, _BYTES + operand] = -(-elems * workload.elem_bits[operand] // 8)
        steps[kind, _OUT_CYCLES] = steps[kind, _IN_CYCLES + O] + nest.hop_cycles
    return steps


@njit(error_model="numpy")
def _heard_elems(workload: WorkloadArrays, operand: int, rf: Ints, size: Ints) -> int:
    """Elements that arrive in all active PEs together, each hearing the bounding box of its own piece."""
    heard = 1
    for d in range(NUM_DIMS):
        if not workload.is_relevant[operand, d]:
            heard *= -(-size[d] // rf[d])
    for axis in range(workload.axis_start[operand], workload.axis_start[operand + 1]):
        active = 1
        for term in range(workload.term_start[axis], workload.term_start[axis + 1]):
            active *= -(-size[workload.term_dim[term]] // rf[workload.term_dim[term]])
        elems = active
        for term in range(workload.term_start[axis], workload.term_start[axis + 1]):
            d = workload.term_dim[term]
            along = -(-size[d] // rf[d])
            # the pieces along d, less one element each, hold size - along elements together
            elems += workload.term_coefficient[term] * (size[d] - along) * (active // along)
        heard *= elems
    return heard


@njit(error_model="numpy")
def _port_cycles(arch: ArchArrays, num_bytes: int) -> int:
    """Cycles that the SPM port needs for a group of simultaneous transfers."""
    if arch.spm_bytes_per_cycle == UNBOUNDED:
        return 0
    return int(math.ceil(num_bytes / arch.spm_bytes_per_cycle))


@njit(error_model="numpy")
def _fill_cycles(arch: ArchArrays, step: Ints, flags: int, record: Ints) -> int:
    """Cycles before the first step, and its loads added to the record."""
    cycles, num_bytes = 0, 0
    for operand in range(3):
        if flags & (1 << operand):
            cycles = max(cycles, step[_IN_CYCLES + operand])
            num_bytes += step[_BYTES + operand]
            record[CROSSED + operand] += step[_ELEMS + operand]
            record[DELIVERED + operand] += step[_HEARD + operand]
    return max(cycles, _port_cycles(arch, num_bytes))


@njit(error_model="numpy")
def _following(index: int, count: int, edge_bit: int, fold: bool) -> int:
    """The next index to visit: all of them, or 0, 1, the last but one if the last tile is smaller, and the last."""
    if fold and index == 1 and count > 3:
        return count - 2 if edge_bit else count - 1
    return index + 1


@njit(error_model="numpy")
def _repeats(index: int, count: int, edge_bit: int, fold: bool) -> int:
    """Indices that a visited index stands for."""
    if fold and index == 1 and count > 3:
        return count - 3 if edge_bit else count - 2
    return 1


@njit(error_model="numpy")
def _add_slot(
    workload: WorkloadArrays,
    arch: ArchArrays,
    nest: Nest,
    steps: Ints,
    index: Ints,
    count: Ints,
    edge_bit: Ints,
    dim: Ints,
    position: Ints,
    num_loops: int,
    flags: int,
    fold: bool,
    record: Ints,
) -> None:
    """Add the slots of all steps that ``index`` stands for."""
    repeats, kind, moves, moved, reduced = 1, 0, -1, -1, False
    for loop in range(num_loops):
        repeats *= _repeats(index[loop], count[loop], edge_bit[loop], fold)
        if index[loop] == count[loop] - 1:
            kind |= edge_bit[loop]
        else:
            moves = loop
        if index[loop] > 0:
            moved = loop
    kind_after, kind_before = 0, 0
    for loop in range(num_loops):
        at_last = index[loop] == count[loop] - 1
        if loop < moves:
            reduced = reduced or (workload.is_reduction[dim[loop]] and index[loop] > 0)
        elif loop == moves:
            reduced = reduced or workload.is_reduction[dim[loop]]
        if (loop < moves and at_last) or (loop == moves and index[loop] == count[loop] - 2):
            kind_after |= edge_bit[loop]
        if (loop < moved and at_last) or loop > moved:
            kind_before |= edge_bit[loop]

    hidden, hidden_bytes, shown, shown_bytes = steps[kind, _MACS], 0, 0, 0
    if moves >= 0:
        for operand in (I, W):
            if moves <= position[operand]:
                record[CROSSED + operand] += repeats * steps[kind_after, _ELEMS + operand]
                record[DELIVERED + operand] += repeats * steps[kind_after, _HEARD + operand]
                if nest.rf_double[operand]:
                    hidden = max(hidden, steps[kind_after, _IN_CYCLES + operand])
                    hidden_bytes += steps[kind_after, _BYTES + operand]
                else:
                    shown = max(shown, steps[kind_after, _IN_CYCLES + operand])
                    shown_bytes += steps[kind_after, _BYTES + operand]
    leaves = moves <= position[O] if moves >= 0 else flags & O_LEAVES != 0
    reads = 0 <= moves <= position[O] and (reduced or flags & READS_O != 0)
    if reads:
        record[CROSSED + O] += repeats * steps[kind_after, _ELEMS + O]
        record[DELIVERED + O] += repeats * steps[kind_after, _HEARD + O]
    if leaves:
        record[LEFT_ELEMS] += repeats * steps[kind, _ELEMS + O]
        record[CROSSED + O] += repeats * steps[kind, _ELEMS + O]
        record[DELIVERED + O] += repeats * steps[kind, _HEARD + O]
    if nest.rf_double[O]:
        if reads:
            hidden = max(hidden, steps[kind_after, _IN_CYCLES + O])
            hidden_bytes += steps[kind_after, _BYTES + O]
        if 0 <= moved <= position[O]:
            hidden = max(hidden, steps[kind_before, _OUT_CYCLES])
            hidden_bytes += steps[kind_before, _BYTES + O]
    else:
        turn = 0
        if leaves and moves >= 0:
            turn += steps[kind, _OUT_CYCLES]
            shown_bytes += steps[kind, _BYTES + O]
        if reads:
            turn += steps[kind_after, _IN_CYCLES + O]
            shown_bytes += steps[kind_after, _BYTES + O]
        shown = max(shown, turn)
    hidden = max(hidden, _port_cycles(arch, hidden_bytes))
    shown = max(shown, _port_cycles(arch, shown_bytes))
    record[PASS_CYCLES] += repeats * (hidden + shown)
    record[MAC_CYCLES] += repeats * steps[kind, _MACS]
