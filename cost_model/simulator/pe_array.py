"""Time of one pass: the steps of the PE array, its operand networks, fill and drain.

A pass is an odometer of steps over the SPM loops. What a step costs depends only on the tile sizes of the step and its
two neighbours, and on which loops move between them; so steps of equal kind are counted instead of walked, which gives
the same integers.
"""

from __future__ import annotations

import math

import numpy as np

from cost_model.arrays import UNBOUNDED
from cost_model.nest import ARRAY, PE, PIECE, Nest
from cost_model.problem import I, Ints, O, Problem, W
from cost_model.simulator.log import (
    AT_REPEATS,
    AT_TIME,
    CROSSING,
    DRAIN,
    FILL,
    IS_FULL,
    MULTIPLY,
    NETWORK,
    PASS_REPEATS,
    PIPELINE,
    PORT,
    REGISTERS,
    Log,
    note,
)
from cost_model.simulator.state import STEP_FIELDS, Odometer
from tvm_spm.jit import kernel, lean, small
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.space.tensors import tile_elems

LOADS_I, LOADS_W, READS_O, O_LEAVES = 1, 2, 4, 8
"""What happens at the edges of a pass: RF loads before its first step, O read back then, O gone after its last."""

PASS_FIELDS = 9
PASS_CYCLES, MAC_CYCLES, LEFT_ELEMS, CROSSED, DELIVERED = 0, 1, 2, 3, 6
"""Columns of a pass record; ``CROSSED`` and ``DELIVERED`` are three columns each, in the order I W O."""

_KIND_FIELDS = 15
_MACS, _IN_CYCLES, _OUT_CYCLES, _ELEMS, _HEARD, _BYTES, _ALL_MACS = 0, 1, 4, 5, 8, 11, 14
"""Columns of a step record, for a tile that leaves fewer elements to it: MACs of a PE and of all PEs, and three columns
each in the order I W O; cycles of O are for the way in and the way out."""

(
    _THIS, _BEFORE, _AFTER, _TIMES, _HIDDEN, _HIDDEN_BY, _HIDDEN_BITS, _HIDDEN_PORT, _SHOWN, _SHOWN_BY, _SHOWN_BITS,
    _SHOWN_PORT,
) = range(STEP_FIELDS)  # fmt: skip
"""What a log is told of a step: kinds of its tile and its neighbours', how often it happens; beside the work and after
it, cycles of the slowest crossing, which it is, the networks in use and cycles of the port."""

_O_OUT = 3
"""Number of the network for outputs that leave, behind those of I W O on their way in."""


@kernel
def pass_record(
    problem: Problem, nest: Nest, odometer: Odometer, tile: Ints, flags: int, record: Ints, log: Log
) -> None:
    """Fill ``record`` with the cycles and counts of a pass over an SPM ``tile``.

    Args:
        problem: Numbers of the workload and the accelerator.
        nest: The mapping.
        odometer: Room for the loops of the pass.
        tile: Elements per dim.
        flags: What happens at the edges of the pass.
        record: ``PASS_FIELDS`` numbers, overwritten.
        log: Told what happens, if it is to note anything.
    """
    _find_loops(nest, tile, odometer)
    steps = np.empty((odometer.num_kinds, _KIND_FIELDS), dtype=np.int64)
    _fill_table(problem, nest, odometer, tile, steps)
    last, drain_cycles = odometer.num_kinds - 1, 0
    for column in range(PASS_FIELDS):
        record[column] = 0
    record[PASS_CYCLES] = problem.pipeline_cycles + _fill_cycles(problem, steps, flags, record)
    if log.at[AT_REPEATS] > 0:
        _note_fill(steps, flags, record[PASS_CYCLES] - problem.pipeline_cycles, log)
    while True:
        _add_step(problem, nest, odometer, steps, flags, record, log)
        if log.at[IS_FULL]:
            break
        loop = odometer.num_loops - 1
        while loop >= 0 and odometer.loop_index[loop] == odometer.loop_count[loop] - 1:
            odometer.loop_index[loop] = 0
            loop -= 1
        if loop < 0:
            break
        odometer.loop_index[loop] += _repeats(odometer, loop)
    if flags & O_LEAVES:
        drain_cycles = max(steps[last, _OUT_CYCLES], _port_cycles(problem, steps[last, _BYTES + O]))
        record[PASS_CYCLES] += drain_cycles
    if log.at[AT_REPEATS] > 0:
        _note_end(problem.pipeline_cycles, drain_cycles, steps[last, _OUT_CYCLES], steps[last, _BYTES + O], log)


@small
def _find_loops(nest: Nest, tile: Ints, odometer: Odometer) -> None:
    """Find the SPM loops that iterate over this tile."""
    dim, count, edge_bit = odometer.dim, odometer.loop_count, odometer.edge_bit
    num_loops, num_kinds = 0, 1
    for operand in range(3):
        odometer.position[operand] = -1
    for loop in range(nest.num_loops[1]):
        d = nest.loop_dim[1, loop]
        if tile[d] <= nest.tile[ARRAY, d]:
            continue
        for operand in range(3):
            if nest.num_loops[0] + loop <= nest.position[PE, operand]:
                odometer.position[operand] = num_loops
        dim[num_loops] = d
        odometer.loop_index[num_loops] = edge_bit[num_loops] = 0
        count[num_loops] = -(-tile[d] // nest.tile[ARRAY, d])
        if tile[d] % nest.tile[ARRAY, d] != 0:
            edge_bit[num_loops] = num_kinds
            num_kinds *= 2
        num_loops += 1
    odometer.num_loops, odometer.num_kinds = num_loops, num_kinds


@small
def _fill_table(problem: Problem, nest: Nest, odometer: Odometer, tile: Ints, steps: Ints) -> None:
    """Write one record per combination of loops that are at their smaller last tile."""
    size = odometer.size
    for d in range(NUM_DIMS):
        size[d] = min(nest.tile[ARRAY, d], tile[d])
    for kind in range(odometer.num_kinds):
        for loop in range(odometer.num_loops):
            d = odometer.dim[loop]
            size[d] = tile[d] % nest.tile[ARRAY, d] if kind & odometer.edge_bit[loop] else nest.tile[ARRAY, d]
        macs = all_macs = 1
        for d in range(NUM_DIMS):
            macs *= min(nest.tile[PIECE, d], size[d])
            all_macs *= size[d]
        steps[kind, _MACS], steps[kind, _ALL_MACS] = macs, all_macs
        for operand in range(3):
            elems = tile_elems(problem, operand, size)
            steps[kind, _IN_CYCLES + operand] = math.ceil(elems / problem.noc_elems_per_cycle)
            steps[kind, _ELEMS + operand] = elems
            steps[kind, _HEARD + operand] = (
                elems if operand == O else _heard_elems(problem, operand, nest.tile[PIECE], size)
            )
            steps[kind, _BYTES + operand] = (elems * problem.elem_bits[operand] + 7) >> 3
        steps[kind, _OUT_CYCLES] = steps[kind, _IN_CYCLES + O] + nest.hop_cycles


@lean
def _heard_elems(problem: Problem, operand: int, rf: Ints, size: Ints) -> int:
    """Elements that arrive in all active PEs together, each hearing the bounding box of its own piece."""
    heard = 1
    for d in range(NUM_DIMS):
        if not problem.relevant[operand] >> d & 1:
            heard *= -(-size[d] // rf[d])
    for axis in range(problem.axis_start[operand], problem.axis_start[operand + 1]):
        active = 1
        for term in range(problem.term_start[axis], problem.term_start[axis + 1]):
            d = problem.term_dim[term]
            active *= -(-size[d] // rf[d])
        elems = active
        for term in range(problem.term_start[axis], problem.term_start[axis + 1]):
            d, coefficient = problem.term_dim[term], problem.term_coefficient[term]
            along = -(-size[d] // rf[d])
            # the pieces along d, less one element each, hold size - along elements together
            elems += coefficient * (size[d] - along) * (active // along)
        heard *= elems
    return heard


@small
def _port_cycles(problem: Problem, num_bytes: int) -> int:
    """Cycles that the SPM port needs for a group of simultaneous transfers."""
    if problem.spm_bytes_per_cycle == UNBOUNDED:
        return 0
    return int(math.ceil(num_bytes / problem.spm_bytes_per_cycle))


@small
def _fill_cycles(problem: Problem, steps: Ints, flags: int, record: Ints) -> int:
    """Cycles before the first step, and its loads added to the record."""
    cycles, num_bytes = 0, 0
    for operand in range(3):
        if flags & (1 << operand):
            cycles = max(cycles, steps[0, _IN_CYCLES + operand])
            num_bytes += steps[0, _BYTES + operand]
            record[CROSSED + operand] += steps[0, _ELEMS + operand]
            record[DELIVERED + operand] += steps[0, _HEARD + operand]
    return max(cycles, _port_cycles(problem, num_bytes))


@small
def _repeats(odometer: Odometer, loop: int) -> int:
    """Iterations of a loop, from the one it is at, that are alike.

    Those after the first up to the last are; the last but one is not if the last tile is smaller.
    """
    if odometer.fold and odometer.loop_index[loop] == 1:
        return max(1, odometer.loop_count[loop] - (3 if odometer.edge_bit[loop] else 2))
    return 1


@small
def _add_step(
    problem: Problem, nest: Nest, odometer: Odometer, steps: Ints, flags: int, record: Ints, log: Log
) -> None:
    """Add all steps that the index stands for, and what crosses the networks beside and after each."""
    index, count, edge_bit, position = odometer.loop_index, odometer.loop_count, odometer.edge_bit, odometer.position
    repeats, kind, moves, moved, reduced = 1, 0, -1, -1, False
    for loop in range(odometer.num_loops):
        repeats *= _repeats(odometer, loop)
        if index[loop] == count[loop] - 1:
            kind |= edge_bit[loop]
        else:
            moves = loop
        if index[loop] > 0:
            moved = loop
    kind_after, kind_before = 0, 0
    for loop in range(odometer.num_loops):
        at_last = index[loop] == count[loop] - 1
        if loop < moves:
            reduced = reduced or (problem.is_reduction[odometer.dim[loop]] != 0 and index[loop] > 0)
        elif loop == moves:
            reduced = reduced or problem.is_reduction[odometer.dim[loop]] != 0
        if (loop < moves and at_last) or (loop == moves and index[loop] == count[loop] - 2):
            kind_after |= edge_bit[loop]
        if (loop < moved and at_last) or loop > moved:
            kind_before |= edge_bit[loop]

    # beside the work, and after it: the slowest crossing and which it is, bytes, and which networks are in use (bits)
    hidden, hidden_by, hidden_bytes, hidden_bits = steps[kind, _MACS], 0, 0, 0
    shown, shown_by, shown_bytes, shown_bits = 0, 0, 0, 0
    if moves >= 0:
        for operand in (I, W):
            if moves <= position[operand]:
                record[CROSSED + operand] += repeats * steps[kind_after, _ELEMS + operand]
                record[DELIVERED + operand] += repeats * steps[kind_after, _HEARD + operand]
                cycles, num_bytes = steps[kind_after, _IN_CYCLES + operand], steps[kind_after, _BYTES + operand]
                if nest.double[PE, operand]:
                    hidden_bytes, hidden_bits = hidden_bytes + num_bytes, hidden_bits | 1 << operand
                    if cycles > hidden:
                        hidden, hidden_by = cycles, operand
                else:
                    shown_bytes, shown_bits = shown_bytes + num_bytes, shown_bits | 1 << operand
                    if cycles > shown:
                        shown, shown_by = cycles, operand
    leaves = moves <= position[O] if moves >= 0 else flags & O_LEAVES != 0
    reads = 0 <= moves <= position[O] and (reduced or flags & READS_O != 0)
    if reads:
        record[CROSSED + O] += repeats * steps[kind_after, _ELEMS + O]
        record[DELIVERED + O] += repeats * steps[kind_after, _HEARD + O]
    if leaves:
        record[LEFT_ELEMS] += repeats * steps[kind, _ELEMS + O]
        record[CROSSED + O] += repeats * steps[kind, _ELEMS + O]
        record[DELIVERED + O] += repeats * steps[kind, _HEARD + O]
    if nest.double[PE, O]:
        if 0 <= moved <= position[O]:
            hidden_bytes, hidden_bits = hidden_bytes + steps[kind_before, _BYTES + O], hidden_bits | 1 << _O_OUT
            if steps[kind_before, _OUT_CYCLES] > hidden:
                hidden, hidden_by = steps[kind_before, _OUT_CYCLES], _O_OUT
        if reads:
            hidden_bytes, hidden_bits = hidden_bytes + steps[kind_after, _BYTES + O], hidden_bits | 1 << O
            if steps[kind_after, _IN_CYCLES + O] > hidden:
                hidden, hidden_by = steps[kind_after, _IN_CYCLES + O], O
    else:
        turn = 0
        if leaves and moves >= 0:
            turn += steps[kind, _OUT_CYCLES]
            shown_bytes, shown_bits = shown_bytes + steps[kind, _BYTES + O], shown_bits | 1 << _O_OUT
        if reads:
            turn += steps[kind_after, _IN_CYCLES + O]
            shown_bytes, shown_bits = shown_bytes + steps[kind_after, _BYTES + O], shown_bits | 1 << O
        if turn > shown:
            shown, shown_by = turn, O
    hidden_port, shown_port = _port_cycles(problem, hidden_bytes), _port_cycles(problem, shown_bytes)
    record[PASS_CYCLES] += repeats * (max(hidden, hidden_port) + max(shown, shown_port))
    record[MAC_CYCLES] += repeats * steps[kind, _MACS]
    if log.at[AT_REPEATS] > 0:
        step = odometer.step
        step[_THIS], step[_BEFORE], step[_AFTER], step[_TIMES] = kind, kind_before, kind_after, repeats
        step[_HIDDEN], step[_HIDDEN_BY], step[_HIDDEN_BITS] = hidden, hidden_by, hidden_bits
        step[_SHOWN], step[_SHOWN_BY], step[_SHOWN_BITS] = shown, shown_by, shown_bits
        step[_HIDDEN_PORT], step[_SHOWN_PORT] = hidden_port, shown_port
        _note_step(steps, step, log)


@lean
def _note_fill(steps: Ints, flags: int, cycles: int, log: Log) -> None:
    """Note what crosses before the first step."""
    time = log.at[AT_TIME]
    for operand in range(3):
        if flags & (1 << operand):
            note(log, CROSSING + operand, time, time + steps[0, _IN_CYCLES + operand], steps[0, _BYTES + operand], 0)
    note(log, FILL, time, time + cycles, 0, 0)
    log.at[AT_TIME] += cycles


@lean
def _note_step(steps: Ints, step: Ints, log: Log) -> None:
    """Note a step, what crosses beside it and after it, and what the array waits for meanwhile."""
    at, kind = log.at, step[_THIS]
    at[AT_REPEATS] = at[PASS_REPEATS] * step[_TIMES]
    start, macs, hidden, shown = at[AT_TIME], steps[kind, _MACS], step[_HIDDEN], step[_SHOWN]
    turn = start + max(hidden, step[_HIDDEN_PORT])
    end = turn + max(shown, step[_SHOWN_PORT])
    note(log, MULTIPLY, start, start + macs, steps[kind, _ALL_MACS], 0)
    # in the order of their starts: a full log misses nothing that starts earlier; outputs leave before others come
    for bits, before, begin in ((step[_HIDDEN_BITS], step[_BEFORE], start), (step[_SHOWN_BITS], kind, turn)):
        out_end = begin
        for network in (I, W, _O_OUT, O):
            if bits >> network & 1:
                which = before if network == _O_OUT else step[_AFTER]
                cycles, num_bytes = steps[which, _IN_CYCLES + network], steps[which, _BYTES + min(network, O)]
                first = out_end if network == O else begin
                note(log, CROSSING + network, first, first + cycles, num_bytes, 0)
                if network == _O_OUT and begin == turn:
                    out_end = turn + cycles
    note(log, NETWORK + step[_HIDDEN_BY], start + macs, start + hidden, 0, 0)
    note(log, PORT, start + hidden, turn, 0, 0)
    note(log, REGISTERS + step[_SHOWN_BY], turn, turn + shown, 0, 0)
    note(log, PORT, turn + shown, end, 0, 0)
    at[AT_TIME], at[AT_REPEATS] = end, at[PASS_REPEATS]


@lean
def _note_end(pipeline_cycles: int, drain_cycles: int, out_cycles: int, num_bytes: int, log: Log) -> None:
    """Note what happens after the last step."""
    time = log.at[AT_TIME] + pipeline_cycles
    note(log, PIPELINE, log.at[AT_TIME], time, 0, 0)
    if drain_cycles > 0:
        note(log, CROSSING + _O_OUT, time, time + out_cycles, num_bytes, 0)
        note(log, DRAIN, time, time + drain_cycles, 0, 0)
