"""One pass of a core: where its tile lies, what it loads, how long the array works on it, and what it stores."""

from __future__ import annotations

import math

from cost_model.nest import CORE, PE, Nest
from cost_model.problem import O, Problem
from cost_model.simulator.boxes import move_box
from cost_model.simulator.ledger import DRAM_BYTES, FINAL_ELEMS, MOVED, UNUSED_BITS, Ledger
from cost_model.simulator.log import BETWEEN, SPILL, STORE, Log
from cost_model.simulator.pe_array import MAC_CYCLES, O_LEAVES, PASS_CYCLES, READS_O, pass_record
from cost_model.simulator.placement import put_tile
from cost_model.simulator.state import (
    CHANNEL_CYCLES,
    ENGINE_CYCLES,
    FIRST_EXTRA,
    KIND,
    NUM_BYTES,
    NUM_STORES,
    OF_PASS,
    STORES,
    VECTOR_CYCLES,
    VECTOR_START,
    Core,
)
from tvm_spm.jit import lean, small

ITS_LOADS, ITS_WORK, ITS_STORE = 1, 2, 4
"""What is worked out of a pass: its loads, the array's cycles, its store."""


@lean
def look_at(problem: Problem, nest: Nest, core: Core, ledger: Ledger, log: Log, parts: int) -> None:
    """Let a core look at the pass at its loop index, and work out ``parts`` of it."""
    _find(problem, nest, core, ledger)
    if parts & ITS_LOADS:
        _load(problem, nest, core, ledger)
    if parts & ITS_WORK:
        _work(problem, nest, core, ledger, log)
    if parts & ITS_STORE:
        _store(problem, nest, core, ledger)


@small
def _find(problem: Problem, nest: Nest, core: Core, ledger: Ledger) -> None:
    """Find the tile and the state of the loops."""
    for loop in range(core.stale, nest.num_loops[0]):
        put_tile(nest, core, ledger, nest.loop_dim[0, loop], core.loop_index[loop])
    core.stale = nest.num_loops[0]
    core.moved = core.moves = -1
    core.is_first_sum = core.is_last_sum = 1
    for loop in range(nest.num_loops[0]):
        d, index = nest.loop_dim[0, loop], core.loop_index[loop]
        if index > 0:
            core.moved = loop
            if problem.is_reduction[d]:
                core.is_first_sum = 0
        if index < core.loop_count[loop] - 1:
            core.moves = loop
            if problem.is_reduction[d]:
                core.is_last_sum = 0


@small
def _load(problem: Problem, nest: Nest, core: Core, ledger: Ledger) -> None:
    """Prepare the loads before the pass looked at."""
    core.after_note = BETWEEN
    for operand in range(3):
        transfer = core.transfer[operand]
        transfer[ENGINE_CYCLES] = 0
        if core.moved <= nest.position[CORE, operand] and (operand != O or core.is_first_sum == 0):
            cycles, elems, moved_bits = move_box(problem, core, ledger.boxes, operand)
            transfer[CHANNEL_CYCLES] = transfer[ENGINE_CYCLES] = cycles
            transfer[NUM_BYTES], transfer[OF_PASS] = (moved_bits + 7) >> 3, core.pass_number
            ledger.totals[MOVED + operand] += core.repeats * elems
            _count_bits(ledger, operand, core.repeats, elems * problem.elem_bits[operand], moved_bits)


@small
def _count_bits(ledger: Ledger, column: int, repeats: int, elem_bits: int, moved_bits: int) -> None:
    """Add transfers that move ``moved_bits`` for the sake of ``elem_bits``."""
    ledger.totals[DRAM_BYTES + column] += repeats * ((moved_bits + 7) >> 3)
    ledger.totals[UNUSED_BITS + column] += repeats * (moved_bits - elem_bits)


@small
def _work(problem: Problem, nest: Nest, core: Core, ledger: Ledger, log: Log) -> None:
    """Set the array's cycles of the pass looked at."""
    flags, outside, num_dram_loops = 0, nest.position, nest.num_loops[0]
    for operand in range(3):
        is_loaded = core.moved <= outside[CORE, operand] or outside[PE, operand] >= num_dram_loops
        if is_loaded and operand != O:
            flags += 1 << operand
        if is_loaded and operand == O and core.is_first_sum == 0:
            flags += READS_O
    if core.moves <= outside[CORE, O] or outside[PE, O] >= num_dram_loops:
        flags += O_LEAVES
    kind = core.size_kind + flags
    if ledger.num_passes[kind] == 0:
        pass_record(problem, nest, ledger.odometers[0], core.tile, flags, ledger.records[kind], log)
    core.edges = flags
    ledger.num_passes[kind] += core.repeats
    core.pass_cycles = ledger.records[kind, PASS_CYCLES]
    core.sum_pass_cycles += core.repeats * ledger.records[kind, PASS_CYCLES]
    core.sum_mac_cycles += core.repeats * ledger.records[kind, MAC_CYCLES]


@small
def _store(problem: Problem, nest: Nest, core: Core, ledger: Ledger) -> None:
    """Prepare the store after the pass looked at.

    A finished tile passes the vector unit on its way, once its extras have streamed in, so that the slower of store and
    vector unit counts; an unfinished one spills as partial sums.
    """
    transfer = core.transfer[STORES + (core.pass_number & NUM_STORES - 1)]
    transfer[ENGINE_CYCLES] = 0
    if core.moves > nest.position[CORE, O]:
        return
    totals = ledger.totals
    elem_bits = problem.out_bits if core.is_last_sum else problem.elem_bits[O]
    cycles, elems, moved_bits = move_box(
        problem, core, ledger.boxes, problem.num_projections if core.is_last_sum else O
    )
    _count_bits(ledger, O, core.repeats, elems * elem_bits, moved_bits)
    transfer[CHANNEL_CYCLES] = transfer[ENGINE_CYCLES] = cycles
    transfer[NUM_BYTES], transfer[OF_PASS] = (moved_bits + 7) >> 3, core.pass_number
    if core.is_last_sum == 0:
        transfer[KIND], transfer[VECTOR_START], transfer[VECTOR_CYCLES] = SPILL, 0, 0
        totals[MOVED + O] += core.repeats * elems
        return
    totals[FINAL_ELEMS] += core.repeats * elems
    for projection in range(FIRST_EXTRA, problem.num_projections):
        more, streamed, moved_bits = move_box(problem, core, ledger.boxes, projection)
        transfer[CHANNEL_CYCLES] += more
        transfer[NUM_BYTES] += (moved_bits + 7) >> 3
        ledger.extra_elems[projection - FIRST_EXTRA] += core.repeats * streamed
        _count_bits(ledger, FIRST_EXTRA, core.repeats, streamed * problem.elem_bits[projection], moved_bits)
    extras_cycles = transfer[CHANNEL_CYCLES] - cycles
    vector_cycles = int(math.ceil(elems * problem.num_ops_per_elem / problem.vector_ops_per_cycle))
    transfer[KIND], transfer[VECTOR_START], transfer[VECTOR_CYCLES] = STORE, extras_cycles, vector_cycles
    transfer[ENGINE_CYCLES] = extras_cycles + max(cycles, vector_cycles)
