"""Cycles of one pass when all tiles divide: exactly for an order of the SPM loops, from below for a class of orders.

A pass is described by its loops alone: how often each iterates, and which operand does not depend on it. All steps of
a pass are of one size, so only the loop that ticks between two steps matters.

Bounds ``_slot_cycles`` and ``_sum_slots`` of ``cost_model.analytical.passes``, with fill and drain: without edge tiles,
and for a class of orders the least of all.
"""

from __future__ import annotations

from tvm_spm.exact.case_arrays import ALL_DOUBLE, NONE, I, Ints, O, W
from tvm_spm.jit import lean

COMPUTE, IN, OUT, EMPTY, IS_SHARED, STEP_FIELDS = 0, 1, 4, 5, 6, 7
"""Entries of a step: cycles of the MACs, of I, W, O coming in, of O going out, and until the MAC pipelines are empty; 1
if a port of SPM serves one network after the other."""


@lean
def slot_cycles(step: Ints, double: int, loads: int, swaps: bool, reads: bool, left: bool) -> int:
    """One step and what moves before the next.

    Args:
        step: Cycles.
        double: Bits of the operands with two RF buffers.
        loads: Bits of I and W, loaded for the next step.
        swaps: Whether outputs leave after this step.
        reads: Whether partial sums are read for the next step.
        left: Whether outputs left after the step before.
    """
    is_shared = step[IS_SHARED] == 1
    beside, turn = 0, 0
    for operand in range(2):
        if loads >> operand & 1:
            cycles = step[IN + operand]
            if double >> operand & 1:
                beside = beside + cycles if is_shared else max(beside, cycles)
            else:
                turn = turn + cycles if is_shared else max(turn, cycles)
    hidden = max(step[COMPUTE], beside)
    if double >> O & 1:
        start = beside if is_shared else 0
        if left:
            start = max(start, step[EMPTY])
            hidden = max(hidden, start + step[OUT])
            if is_shared:
                start += step[OUT]
        if reads:
            hidden = max(hidden, start + step[IN + O])
    elif swaps:
        start = max(turn, step[EMPTY]) if is_shared else step[EMPTY]
        turn = max(turn, start + step[OUT] + (step[IN + O] if reads else 0))
    return hidden + turn


@lean
def _fill_cycles(step: Ints, moves: int) -> int:
    cycles = 0
    for operand in range(3):
        if moves >> operand & 1:
            cycles = cycles + step[IN + operand] if step[IS_SHARED] == 1 else max(cycles, step[IN + operand])
    return cycles


@lean
def pass_cycles(step: Ints, double: int, count: Ints, kind: Ints, num_loops: int, flags: int) -> int:
    """Cycles of a pass with its SPM loops in this order.

    Args:
        step: Cycles of one step.
        double: Bits of the operands with two RF buffers.
        count: Iterations per loop, outer to inner, all above 1.
        kind: Per loop the operand that does not depend on it.
        num_loops: Entries of both in use.
        flags: Bits: I, W enter SPM before this pass; outputs are partial sums; outputs leave SPM after it.
    """
    position_i, position_w, position_o = -1, -1, -1
    for loop in range(num_loops):
        if kind[loop] != I:
            position_i = loop
        if kind[loop] != W:
            position_w = loop
        if kind[loop] != O:
            position_o = loop
    accumulates = flags & 4 != 0
    moves = 0
    if position_i >= 0 or flags & 1:
        moves |= 1
    if position_w >= 0 or flags & 2:
        moves |= 2
    if position_o >= 0 and accumulates:
        moves |= 4
    total = _fill_cycles(step, moves) + step[EMPTY]
    if position_o >= 0 or flags & 8:
        total += step[OUT]
    inner = num_loops - 1
    if inner < 0:
        return total + step[COMPUTE]
    inner_out = position_o == inner
    inner_reads = accumulates or kind[inner] == O
    inner_loads = (1 if position_i == inner else 0) | (2 if position_w == inner else 0)
    # outer: ways the loops further out stand; fresh: those of them in which no reduction loop is beyond its first
    outer, fresh = 1, 0 if accumulates else 1
    for loop in range(inner):
        ticks, fresh_ticks = outer * (count[loop] - 1), 0
        if kind[loop] != O:
            fresh_ticks = fresh * (count[loop] - 1)
        loads = (1 if loop <= position_i else 0) | (2 if loop <= position_w else 0)
        swaps = loop <= position_o
        if fresh_ticks > 0:
            total += fresh_ticks * slot_cycles(step, double, loads, swaps, False, inner_out)
            total += fresh_ticks * slot_cycles(step, double, inner_loads, inner_out, inner_out and inner_reads, swaps)
        if ticks > fresh_ticks:
            total += (ticks - fresh_ticks) * slot_cycles(step, double, loads, swaps, swaps, inner_out)
            total += (ticks - fresh_ticks) * slot_cycles(step, double, inner_loads, inner_out, inner_out, swaps)
        outer *= count[loop]
        if kind[loop] != O:
            fresh *= count[loop]
    total += slot_cycles(step, double, inner_loads, inner_out, inner_out and inner_reads, False)
    between = outer * (count[inner] - 2)
    fresh_between = 0 if inner_reads else fresh * (count[inner] - 2)
    if fresh_between > 0:
        total += fresh_between * slot_cycles(step, double, inner_loads, inner_out, False, inner_out)
    if between > fresh_between:
        total += (between - fresh_between) * slot_cycles(step, double, inner_loads, inner_out, inner_out, inner_out)
    return total + slot_cycles(step, double, 0, False, False, inner_out)


@lean
def least_slot_cycles(step: Ints, fitting: int, kept: int) -> int:
    """A floor under a step between two others if the innermost SPM loop leaves operand ``kept`` in place.

    Every operand that depends on the innermost loop moves with each step. ``fitting`` has bit ``b`` set if the operands
    with the bits ``b`` may have two RF buffers.
    """
    loads = 3 & ~(1 << kept)
    swaps = kept != O
    if fitting >> ALL_DOUBLE & 1:
        return slot_cycles(step, ALL_DOUBLE, loads, swaps, False, swaps)
    least = -1
    for double in range(8):
        if fitting >> double & 1:
            cycles = slot_cycles(step, double, loads, swaps, False, swaps)
            if least < 0 or cycles < least:
                least = cycles
    return least


@lean
def least_pass_cycles(step: Ints, slot: int, kept: int, num_steps: int, num_swaps: int, resident: bool) -> int:
    """A floor under every pass of an order whose innermost SPM loop leaves operand ``kept`` in place.

    All buffers double is least, but of fewer one operand of two may cost more to hide than none; ``slot`` regards that
    (see ``least_slot_cycles``). Outputs with two buffers leave one step late, so that one
    slot of a pass may lack them; the drain is what they cost at least.

    Args:
        step: Cycles of one step.
        slot: ``least_slot_cycles``.
        kept: The operand.
        num_steps: Of a pass, above 1.
        num_swaps: Tiles of the kept operand that a pass uses, at least.
        resident: Whether the kept operand stays in RF from pass to pass, as no SPM loop changes it.
    """
    fill, drain = _fill_cycles(step, 3 & ~(1 << kept)), step[OUT]
    if kept == O:
        cycles = fill + (num_steps - 1) * slot + step[COMPUTE]
        if not resident:
            cycles += drain + (num_swaps - 1) * max(0, step[EMPTY] + step[OUT] - slot)
    else:
        cycles = fill + drain + max((num_steps - 1) * slot, num_steps * step[COMPUTE])
        if kept != NONE and not resident:
            cycles += (num_swaps - 1) * max(0, step[IN + kept] - slot)
    return cycles + step[EMPTY]
