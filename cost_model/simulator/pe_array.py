"""Time of one pass: the steps of the PE array, its operand networks, fill and drain.

A pass is an odometer of steps over the SPM loops. What a step costs depends only on the tile sizes of the step and its
two neighbours, and on which loops move between them; so steps of equal kind are counted instead of walked, which gives
the same integers.
"""

from __future__ import annotations

import numpy as np

from cost_model.arrays import UNBOUNDED
from cost_model.crossing import crossing_cycles
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
from cost_model.simulator.state import Odometer
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

_THIS, _BEFORE, _AFTER, _TIMES, _FIRST_PART = 0, 1, 2, 3, 4
"""What a log is told of a step: kinds of its tile and its neighbours', how often it happens, and its two parts."""

_SLOWEST, _SLOWEST_BY, _END, _USED, _STARTS, _PART_FIELDS = 0, 1, 2, 3, 4, 8
"""What it is told of a part: cycles of the slowest thing in it and which network that is, when all is across, networks
in use (bits), and when each starts."""

_BESIDE, _TURN = _FIRST_PART, _FIRST_PART + _PART_FIELDS
"""The parts: beside the work, and after it."""

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
    _find_loops(problem, nest, tile, odometer)
    steps = np.empty((odometer.num_kinds, _KIND_FIELDS), dtype=np.int64)
    _fill_table(problem, nest, odometer, tile, steps)
    last, drain_cycles = odometer.num_kinds - 1, 0
    for column in range(PASS_FIELDS):
        record[column] = 0
    record[PASS_CYCLES] = problem.pipeline_cycles + _fill_cycles(problem, steps, flags, record)
    if log.at[AT_REPEATS] > 0:
        _note_fill(problem, steps, flags, record[PASS_CYCLES] - problem.pipeline_cycles, log)
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
        drain_cycles = steps[last, _OUT_CYCLES]
        record[PASS_CYCLES] += drain_cycles
    if log.at[AT_REPEATS] > 0:
        _note_end(problem.pipeline_cycles, drain_cycles, steps[last, _BYTES + O], log)


@small
def _find_loops(problem: Problem, nest: Nest, tile: Ints, odometer: Odometer) -> None:
    """Find the SPM loops that iterate over this tile."""
    dim, count, edge_bit = odometer.dim, odometer.loop_count, odometer.edge_bit
    num_loops, num_kinds = 0, 1
    odometer.over_outputs = -1
    for operand in range(3):
        odometer.position[operand] = -1
    for loop in range(nest.num_loops[1]):
        d = nest.loop_dim[1, loop]
        if tile[d] <= nest.tile[ARRAY, d]:
            continue
        for operand in range(3):
            if nest.num_loops[0] + loop <= nest.position[PE, operand]:
                odometer.position[operand] = num_loops
        if not problem.is_reduction[d]:
            odometer.over_outputs = num_loops
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
            steps[kind, _IN_CYCLES + operand] = crossing_cycles(
                elems, problem.elem_bits[operand], problem.noc_elems_per_cycle, problem.spm_bytes_per_cycle
            )
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
def _fill_cycles(problem: Problem, steps: Ints, flags: int, record: Ints) -> int:
    """Cycles before the first step, and its loads added to the record."""
    cycles = 0
    for operand in range(3):
        if flags & (1 << operand):
            start = 0 if problem.spm_bytes_per_cycle == UNBOUNDED else cycles
            cycles = max(cycles, start + steps[0, _IN_CYCLES + operand])
            record[CROSSED + operand] += steps[0, _ELEMS + operand]
            record[DELIVERED + operand] += steps[0, _HEARD + operand]
    return cycles


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

    step = odometer.step
    step[_THIS], step[_BEFORE], step[_AFTER], step[_TIMES] = kind, kind_before, kind_after, repeats
    beside, turn = step[_BESIDE:_TURN], step[_TURN : _TURN + _PART_FIELDS]
    beside[_SLOWEST] = beside[_END] = steps[kind, _MACS]
    turn[_SLOWEST] = turn[_END] = beside[_SLOWEST_BY] = turn[_SLOWEST_BY] = beside[_USED] = turn[_USED] = 0
    is_alone, pipeline_cycles = problem.spm_bytes_per_cycle == UNBOUNDED, problem.pipeline_cycles
    # a port of SPM with a limit serves one network after the other
    beside_next = turn_next = 0
    if moves >= 0:
        for operand in (I, W):
            if moves <= position[operand]:
                record[CROSSED + operand] += repeats * steps[kind_after, _ELEMS + operand]
                record[DELIVERED + operand] += repeats * steps[kind_after, _HEARD + operand]
                cycles = steps[kind_after, _IN_CYCLES + operand]
                if nest.double[PE, operand]:
                    beside_next = _cross(beside, operand, 0 if is_alone else beside_next, cycles, cycles)
                else:
                    turn_next = _cross(turn, operand, 0 if is_alone else turn_next, cycles, cycles)
    leaves = moves <= position[O] if moves >= 0 else flags & O_LEAVES != 0
    reads = 0 <= moves <= position[O] and (reduced or flags & READS_O != 0)
    if reads:
        record[CROSSED + O] += repeats * steps[kind_after, _ELEMS + O]
        record[DELIVERED + O] += repeats * steps[kind_after, _HEARD + O]
    if leaves:
        record[LEFT_ELEMS] += repeats * steps[kind, _ELEMS + O]
        record[CROSSED + O] += repeats * steps[kind, _ELEMS + O]
        record[DELIVERED + O] += repeats * steps[kind, _HEARD + O]
    out_cycles, in_cycles = steps[kind_before, _OUT_CYCLES], steps[kind_after, _IN_CYCLES + O]
    if nest.double[PE, O]:
        # the next sums go where those before this step's are: behind them, or when they are gone
        start = 0 if is_alone else beside_next
        if 0 <= moved <= min(position[O], odometer.over_outputs):
            start = max(start, pipeline_cycles)
            end = _cross(beside, _O_OUT, start, out_cycles, pipeline_cycles + out_cycles)
            if not is_alone or _come_in_another_order(problem, odometer, kind_before, kind_after):
                start = end
        if reads and moves <= odometer.over_outputs:
            _cross(beside, O, start, in_cycles, start + in_cycles if is_alone else in_cycles)
    if moves >= 0 and leaves and (not nest.double[PE, O] or moves > odometer.over_outputs):
        # nothing to work on until these sums are gone, and the next ones are there
        out_cycles = steps[kind, _OUT_CYCLES]
        start = max(0 if is_alone else turn_next, pipeline_cycles)
        start = _cross(turn, _O_OUT, start, out_cycles, pipeline_cycles + out_cycles)
        if reads:
            _cross(turn, O, start, in_cycles, pipeline_cycles + out_cycles + in_cycles)
    record[PASS_CYCLES] += repeats * (beside[_END] + turn[_END])
    record[MAC_CYCLES] += repeats * steps[kind, _MACS]
    if log.at[AT_REPEATS] > 0:
        _note_step(steps, step, log)


@small
def _cross(part: Ints, network: int, start: int, cycles: int, slowest: int) -> int:
    """Let a tile cross in a part of a step.

    Args:
        part: Of the step.
        network: Its number.
        start: When, from the start of the part on.
        cycles: It takes so long.
        slowest: If nothing else held it up, it would be across by then.

    Returns:
        When it is across.
    """
    part[_USED] |= 1 << network
    part[_STARTS + network] = start
    part[_END] = max(part[_END], start + cycles)
    if slowest > part[_SLOWEST]:
        part[_SLOWEST], part[_SLOWEST_BY] = slowest, network
    return start + cycles


@small
def _come_in_another_order(problem: Problem, odometer: Odometer, before: int, after: int) -> bool:
    """Whether the output tile of a kind is longer along one dim than that of another, and shorter along another."""
    shrinks, grows = False, False
    for loop in range(odometer.num_loops):
        bit = odometer.edge_bit[loop]
        if not problem.is_reduction[odometer.dim[loop]]:
            shrinks = shrinks or (after & ~before & bit) != 0
            grows = grows or (before & ~after & bit) != 0
    return shrinks and grows


@lean
def _note_fill(problem: Problem, steps: Ints, flags: int, cycles: int, log: Log) -> None:
    """Note what crosses before the first step."""
    time = log.at[AT_TIME]
    start = time
    for operand in range(3):
        if flags & (1 << operand):
            end = start + steps[0, _IN_CYCLES + operand]
            note(log, CROSSING + operand, start, end, steps[0, _BYTES + operand], 0)
            start = time if problem.spm_bytes_per_cycle == UNBOUNDED else end
    note(log, FILL, time, time + cycles, 0, 0)
    log.at[AT_TIME] += cycles


@lean
def _note_step(steps: Ints, step: Ints, log: Log) -> None:
    """Note a step, what crosses beside it and after it, and what the array waits for meanwhile."""
    at, kind = log.at, step[_THIS]
    at[AT_REPEATS] = at[PASS_REPEATS] * step[_TIMES]
    begin, macs = at[AT_TIME], steps[kind, _MACS]
    note(log, MULTIPLY, begin, begin + macs, steps[kind, _ALL_MACS], 0)
    for first in (_BESIDE, _TURN):
        part = step[first : first + _PART_FIELDS]
        # in the order of their starts: a full log misses nothing that starts earlier
        for network in (I, W, _O_OUT, O):
            if part[_USED] >> network & 1:
                start = begin + part[_STARTS + network]
                which = step[_AFTER] if network != _O_OUT else step[_BEFORE] if first == _BESIDE else kind
                cycles = steps[which, _OUT_CYCLES] if network == _O_OUT else steps[which, _IN_CYCLES + network]
                note(log, CROSSING + network, start, start + cycles, steps[which, _BYTES + min(network, O)], 0)
        slowest, end = begin + part[_SLOWEST], begin + part[_END]
        if first == _BESIDE:
            note(log, NETWORK + part[_SLOWEST_BY], begin + macs, slowest, 0, 0)
        else:
            note(log, REGISTERS + min(part[_SLOWEST_BY], O), begin, slowest, 0, 0)
        note(log, PORT, slowest, end, 0, 0)
        begin = end
    at[AT_TIME], at[AT_REPEATS] = begin, at[PASS_REPEATS]


@lean
def _note_end(pipeline_cycles: int, drain_cycles: int, num_bytes: int, log: Log) -> None:
    """Note what happens after the last step."""
    time = log.at[AT_TIME] + pipeline_cycles
    note(log, PIPELINE, log.at[AT_TIME], time, 0, 0)
    if drain_cycles > 0:
        note(log, CROSSING + _O_OUT, time, time + drain_cycles, num_bytes, 0)
        note(log, DRAIN, time, time + drain_cycles, 0, 0)
