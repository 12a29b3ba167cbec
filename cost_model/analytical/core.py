"""Timeline of one core of one mapping (compiled).

Passes are counted like the steps of a pass. The indices of a loop are cut into runs of equal kind; what a pass depends
on is a state of the loops that stand still: which are at edge tiles, how far reductions are, and, per operand, a code
that says which of its distinct DRAM transfers belongs to it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.analytical.passes import Loops, PassRecord, add_loop, clear_loops, crossed_by, fill_pass, set_edges
from cost_model.analytical.transfers import (
    FINAL,
    FINAL_ENGINE,
    RUN_FIRST,
    RUN_KIND,
    RUN_LENGTH,
    SPILL_ENGINE,
    Scratch,
    cut_runs,
    fill_transfers,
)
from cost_model.nest import ARRAY, CORE, HELD, PE, PIECE, Nest, clipped_range, floor_div
from cost_model.problem import I, Ints, O, Problem, W
from tvm_spm.jit import small
from tvm_spm.space.mapping_batch import NUM_DIMS


class CoreTimes(NamedTuple):
    """Cycles of a core on its own.

    Attributes:
        cycles: Until its last store.
        channel: It holds a DRAM channel.
        engine: Its DMA engine is kept, longer where the vector unit is slower than the store.
        passes: Of all passes.
        late: Its last pass and the store after it.
        late_channel: It holds a DRAM channel beside or after its last pass.
    """

    cycles: int
    channel: int
    engine: int
    passes: int
    late: int
    late_channel: int


MASK, IS_PARTIAL, IS_BEFORE_LAST, CODE, WAYS = 0, 1, 2, 3, 6
"""Columns of a table of states: bits of edge tiles, whether a reduction is beyond its first index, whether one is
before its last, three codes of transfers, and how many index vectors are in this state."""

_START, _END = -1, -1
"""Positions of the tick before the first and after the last pass: outside every loop, so that everything moves."""


@small
def core_times(problem: Problem, nest: Nest, first: Ints, extent: Ints, scratch: Scratch) -> tuple[CoreTimes, int]:
    """Times of the core that owns ``extent`` elements from ``first`` on along each dim, and of its first loads."""
    loops = scratch.loops[0]
    clear_loops(loops)
    for d in range(NUM_DIMS):
        loops.of_dim[d] = -1
        loops.size[d] = min(nest.tile[HELD, d], extent[d])
    for position in range(nest.num_loops[CORE]):
        d = nest.loop_dim[CORE, position]
        if extent[d] > nest.tile[HELD, d]:
            loops.of_dim[d] = loops.num_loops
            add_loop(loops, d, extent[d], nest.tile[HELD, d], problem.is_reduction[d], position)
            low, high = clipped_range(problem, d, first[d], extent[d], nest.tile[HELD, d])
            cut_runs(scratch.runs, loops, loops.of_dim[d], low, high, nest.spill)
    for operand in range(3):
        fill_transfers(problem, nest, loops, first, extent, operand, scratch)
    for mask in range(loops.num_masks):
        if mask > 0:
            set_edges(loops, mask, extent, nest.tile[HELD])
        fill_pass(problem, nest, loops.size, scratch.loops[1], scratch.steps, scratch.ways, scratch.passes[mask])
    prologue = scratch.transfers[I, 0] + scratch.transfers[W, 0]
    times = CoreTimes(problem.launch_cycles + prologue, prologue, prologue, 0, 0, 0)
    return _with_passes(problem, nest, loops, scratch, times), prologue


@small
def mac_cycles(nest: Nest, extent: Ints) -> int:
    """Cycles in which the PEs of a core multiply: per step, the MACs of the fullest PE."""
    cycles = 1
    for d in range(NUM_DIMS):
        tile, array, rf = nest.tile[HELD, d], nest.tile[ARRAY, d], nest.tile[PIECE, d]
        whole = floor_div(extent[d], tile)
        edge = extent[d] - whole * tile
        cycles *= whole * _longest_pieces(tile, array, rf) + _longest_pieces(edge, array, rf)
    return cycles


@small
def _longest_pieces(tile: int, array: int, rf: int) -> int:
    """Elements of the largest piece of a PE, summed over the array tiles of one SPM tile of one dim."""
    whole = floor_div(tile, array)
    return whole * rf + min(rf, tile - whole * array)


@small
def pass_cycles(problem: Problem, nest: Nest, record: PassRecord, tick_in: int, tick_out: int, is_partial: int) -> int:
    """Cycles of a pass with its fill and drain, between two ticks."""
    fill = 0
    for operand in range(3):
        if tick_in <= nest.position[PE, operand] and (operand != O or is_partial == 1):
            fill = crossed_by(problem, fill, record.in_cycles[operand])
    drain = record.drain_cycles if tick_out <= nest.position[PE, O] else 0
    return record.cycles[is_partial] + fill + problem.pipeline_cycles + drain


@small
def _fill_pass_cycles(
    problem: Problem, nest: Nest, loops: Loops, passes: NDArray[np.void], tick_in: int, tick_out: int, cycles: Ints
) -> None:
    """``cycles[mask, is_partial]`` of every kind of pass between two ticks."""
    for mask in range(loops.num_masks):
        for is_partial in range(2):
            cycles[mask, is_partial] = pass_cycles(problem, nest, passes[mask], tick_in, tick_out, is_partial)


class Moves(NamedTuple):
    """What the DMA engine does between two ticks, as 0 or 1.

    Attributes:
        stores_before: It stores the outputs of the pass before, beside this pass.
        leaves: The outputs of this pass leave.
        loads: It loads I, W, O for the pass after.
        double: Beside this pass, per operand; else behind it. The same for the outputs of this pass.
    """

    stores_before: int
    leaves: int
    loads: tuple[int, int, int]
    double: tuple[int, int, int]


@small
def _moves(nest: Nest, tick_in: int, tick_out: int) -> Moves:
    i = 1 if 0 <= tick_out <= nest.position[CORE, I] else 0
    w = 1 if 0 <= tick_out <= nest.position[CORE, W] else 0
    o = 1 if 0 <= tick_out <= nest.position[CORE, O] else 0
    stores_before = nest.double[CORE, O] if 0 <= tick_in <= nest.position[CORE, O] else 0
    leaves = 1 if tick_out <= nest.position[CORE, O] else 0
    return Moves(stores_before, leaves, (i, w, o), (nest.double[CORE, I], nest.double[CORE, W], nest.double[CORE, O]))


@small
def _with_slots(
    times: CoreTimes,
    transfers: Ints,
    moves: Moves,
    passes: tuple[int, int],
    before: tuple[int, int],
    at: tuple[int, int],
    after: tuple[int, int, int, int],
) -> CoreTimes:
    """Add passes, and the transfers beside and behind each, to the times of a core.

    Args:
        times: Of the core.
        transfers: By code.
        moves: Of the ticks around the pass.
        passes: How many, and cycles of each.
        before: Code of the output tile of the pass before, and 1 if it is complete.
        at: The same of this pass.
        after: Codes of I, W, O of the pass after, and 1 if its outputs are partial sums.
    """
    loads, double, (weight, cycles) = moves.loads, moves.double, passes
    load_i, load_w = loads[I] * transfers[I, after[0]], loads[W] * transfers[W, after[1]]
    load_o = loads[O] * after[3] * transfers[O, after[2]]
    store = moves.leaves * transfers[SPILL_ENGINE + at[1], at[0]]
    beside = moves.stores_before * transfers[SPILL_ENGINE + before[1], before[0]]
    beside += double[I] * load_i + double[W] * load_w + double[O] * load_o
    behind = (1 - double[I]) * load_i + (1 - double[W]) * load_w + (1 - double[O]) * (load_o + store)
    load = load_i + load_w + load_o
    channel = load + moves.leaves * transfers[O + at[1], at[0]]
    return CoreTimes(
        times.cycles + weight * (max(cycles, beside) + behind),
        times.channel + weight * channel,
        times.engine + weight * (load + store),
        times.passes + weight * cycles,
        times.late,
        times.late_channel,
    )


@small
def _with_last_store(
    times: CoreTimes, transfers: Ints, moves: Moves, cycles: int, before: tuple[int, int], last_o: int
) -> CoreTimes:
    """Add the store of two-buffered outputs after the last pass, and what comes late.

    Args:
        times: Of the core.
        transfers: By code.
        moves: Of the ticks around the last pass.
        cycles: Of that pass.
        before: As for ``_with_slots``.
        last_o: Code of the last output tile, which is complete.
    """
    stored = transfers[FINAL_ENGINE, last_o]
    late_channel = transfers[FINAL, last_o] + moves.stores_before * transfers[O + before[1], before[0]]
    return CoreTimes(
        times.cycles + moves.double[O] * stored, times.channel, times.engine, times.passes, cycles + stored,
        late_channel,
    )  # fmt: skip


@small
def _code(scratch: Scratch, loops: Loops, loop: int, run: int, operand: int) -> int:
    return scratch.runs[RUN_KIND, loop, run] * loops.stride[operand, loop]


@small
def _code_at(scratch: Scratch, loops: Loops, loop: int, index: int, operand: int) -> int:
    run = loops.num_runs[loop] - 1
    while scratch.runs[RUN_FIRST, loop, run] > index:
        run -= 1
    return _code(scratch, loops, loop, run, operand)


@small
def _pair(scratch: Scratch, loop: int, num_runs: int, number: int) -> tuple[int, int, int, int]:
    """Kind ``number`` of two neighbouring indices: inside a run if even, else the last of a run and the next.

    Returns:
        (how many, first index, its run, run of the second).
    """
    run = number >> 1
    first, length = scratch.runs[RUN_FIRST, loop, run], scratch.runs[RUN_LENGTH, loop, run]
    if number & 1 == 0:
        return length - 1, first, run, run
    return 1, first + length - 1, run, min(run + 1, num_runs - 1)


@small
def _with_passes(problem: Problem, nest: Nest, loops: Loops, scratch: Scratch, times: CoreTimes) -> CoreTimes:
    """Add all passes, and the transfers between them, to the times of a core.

    What happens around a pass depends on the loop that ticks before it and the one that ticks after it: every loop
    inside that one jumps from its last index to 0, every loop outside it stands still. So there are only as many kinds
    of neighbours as loops, times the states of the loops that stand still.
    """
    states, transfers, passes = scratch.states, scratch.transfers, scratch.passes
    ending, starting = scratch.ending, scratch.starting
    if loops.num_loops == 0:
        cycles, moves = pass_cycles(problem, nest, passes[0], _START, _END, 0), _moves(nest, _START, _END)
        times = _with_slots(times, transfers, moves, (1, cycles), (0, 0), (0, 1), (0, 0, 0, 0))
        return _with_last_store(times, transfers, moves, cycles, (0, 0), 0)

    inner = loops.num_loops - 1
    inner_position, inner_red = loops.position[inner], loops.red[inner]
    second_i, second_w = _code_at(scratch, loops, inner, 1, I), _code_at(scratch, loops, inner, 1, W)
    second_o = _code_at(scratch, loops, inner, 1, O)
    all_edges, any_red, last_o = loops.num_masks - 1, 0, 0
    for loop in range(loops.num_loops):
        any_red |= loops.red[loop]
        last_o += _code(scratch, loops, loop, loops.num_runs[loop] - 1, O)
    before_last_o = _code_at(scratch, loops, inner, loops.count[inner] - 2, O)
    before_last_o -= _code(scratch, loops, inner, loops.num_runs[inner] - 1, O)

    cycles = pass_cycles(problem, nest, passes[0], _START, inner_position, 0)
    moves = _moves(nest, _START, inner_position)
    after = second_i, second_w, second_o, inner_red
    times = _with_slots(times, transfers, moves, (1, cycles), (0, 0), (0, 1 - any_red), after)
    cycles = pass_cycles(problem, nest, passes[all_edges], inner_position, _END, any_red)
    moves, before = _moves(nest, inner_position, _END), (last_o + before_last_o, 1 - inner_red)
    times = _with_slots(times, transfers, moves, (1, cycles), before, (last_o, 1), (0, 0, 0, 0))
    times = _with_last_store(times, transfers, moves, cycles, before, last_o)

    states[0, :] = 0
    states[0, WAYS] = 1
    num_states, repeats, inside_edges, inside_o = 1, 1, all_edges, last_o
    for loop in range(inner):
        red, bit, position, num_runs = loops.red[loop], loops.bit[loop], loops.position[loop], loops.num_runs[loop]
        inside_edges &= ~bit
        inside_o -= _code(scratch, loops, loop, num_runs - 1, O)
        inside_red = 0
        for other in range(loop + 1, loops.num_loops):
            inside_red |= loops.red[other]
        _fill_pass_cycles(problem, nest, loops, passes, inner_position, position, ending)
        _fill_pass_cycles(problem, nest, loops, passes, position, inner_position, starting)
        moves_ending = _moves(nest, inner_position, position)
        moves_starting = _moves(nest, position, inner_position)
        for number in range(2 * num_runs - 1):
            pairs, index, run, run_after = _pair(scratch, loop, num_runs, number)
            if pairs == 0:
                continue
            edge = bit if index + 2 == loops.count[loop] else 0
            beyond_first = red if index > 0 else 0
            before_last = red if index + 2 < loops.count[loop] else 0
            run_o = _code(scratch, loops, loop, run, O) + inside_o
            after_i, after_w = _code(scratch, loops, loop, run_after, I), _code(scratch, loops, loop, run_after, W)
            after_o = _code(scratch, loops, loop, run_after, O)
            for row in range(num_states):
                weight = states[row, WAYS] * repeats * pairs
                mask, is_partial, is_before_last = (
                    states[row, MASK],
                    states[row, IS_PARTIAL],
                    states[row, IS_BEFORE_LAST],
                )
                ending_o = states[row, CODE + O] + run_o
                i, w = states[row, CODE + I] + after_i, states[row, CODE + W] + after_w
                o = states[row, CODE + O] + after_o
                complete, starts_partial = 1 - (is_before_last | red), is_partial | red
                cycles = ending[mask | inside_edges, is_partial | beyond_first | inside_red]
                before, at = (ending_o + before_last_o, complete & (1 - inner_red)), (ending_o, complete)
                times = _with_slots(
                    times, transfers, moves_ending, (weight, cycles), before, at, (i, w, o, starts_partial)
                )
                cycles = starting[mask | edge, starts_partial]
                before, at = at, (o, 1 - (is_before_last | before_last | inside_red))
                after = i + second_i, w + second_w, o + second_o, starts_partial | inner_red
                times = _with_slots(times, transfers, moves_starting, (weight, cycles), before, at, after)
        if num_runs == 1:
            repeats *= loops.count[loop]
        else:
            num_states = _stand(scratch, loops, loop, num_states)

    _fill_pass_cycles(problem, nest, loops, passes, inner_position, inner_position, ending)
    moves = _moves(nest, inner_position, inner_position)
    for number in range(2 * loops.num_runs[inner] - 1):
        pairs, index, run, run_after = _pair(scratch, inner, loops.num_runs[inner], number)
        if index == 0:
            pairs -= 1
        if pairs <= 0:
            continue
        run_o, after_i = _code(scratch, loops, inner, run, O), _code(scratch, loops, inner, run_after, I)
        after_w, after_o = _code(scratch, loops, inner, run_after, W), _code(scratch, loops, inner, run_after, O)
        for row in range(num_states):
            is_partial = states[row, IS_PARTIAL] | inner_red
            at = states[row, CODE + O] + run_o, 1 - (states[row, IS_BEFORE_LAST] | inner_red)
            cycles = ending[states[row, MASK], is_partial]
            i, w, o = states[row, CODE + I] + after_i, states[row, CODE + W] + after_w, states[row, CODE + O] + after_o
            weight = states[row, WAYS] * repeats * pairs
            times = _with_slots(times, transfers, moves, (weight, cycles), at, at, (i, w, o, is_partial))
    return times


@small
def _stand(scratch: Scratch, loops: Loops, loop: int, num_states: int) -> int:
    """Let one more loop stand in any of its runs."""
    states, runs, count, red = scratch.states, scratch.runs, loops.count[loop], loops.red[loop]
    for run in range(loops.num_runs[loop] - 1, -1, -1):
        index, length = runs[RUN_FIRST, loop, run], runs[RUN_LENGTH, loop, run]
        edge = loops.bit[loop] if index == count - 1 else 0
        is_partial = red if index > 0 else 0
        is_before_last = red if index + length < count else 0
        for row in range(num_states):
            target = run * num_states + row
            states[target, MASK] = states[row, MASK] | edge
            states[target, IS_PARTIAL] = states[row, IS_PARTIAL] | is_partial
            states[target, IS_BEFORE_LAST] = states[row, IS_BEFORE_LAST] | is_before_last
            for operand in range(3):
                states[target, CODE + operand] = states[row, CODE + operand] + _code(scratch, loops, loop, run, operand)
            states[target, WAYS] = states[row, WAYS] * length
    return loops.num_runs[loop] * num_states
