"""One pass of a core: where its tile lies, what it loads, how long the array works on it, and what it stores."""

from __future__ import annotations

import math

from cost_model.nest import CORE, HELD, PE, Nest
from cost_model.problem import O, Problem
from cost_model.simulator.dma import move
from cost_model.simulator.ledger import DRAM_BYTES, FINAL_ELEMS, MOVED, UNUSED_BITS, Ledger
from cost_model.simulator.log import BETWEEN, SPILL, STORE, Log
from cost_model.simulator.pe_array import MAC_CYCLES, O_LEAVES, PASS_CYCLES, READS_O, pass_record
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
from tvm_spm.space.mapping_batch import NUM_DIMS


@lean
def look_at(problem: Problem, nest: Nest, core: Core, ledger: Ledger) -> None:
    """Let a core look at the pass at its loop index: the tile and the state of the loops."""
    core.moved = core.moves = -1
    core.is_first_sum = core.is_last_sum = 1
    core.size_kind = 0
    for d in range(NUM_DIMS):
        core.first[d] = core.chunk_first[d]
        core.tile[d] = min(nest.tile[HELD, d], core.chunk[d])
        if core.chunk[d] < nest.tile[HELD, d]:
            core.size_kind += ledger.kind_stride[d] * core.edge_kind[d]
    index = core.loop_index
    for loop in range(nest.num_loops[0]):
        d = nest.loop_dim[0, loop]
        if index[loop] > 0:
            core.moved = loop
            core.first[d] += index[loop] * nest.tile[HELD, d]
            if problem.is_reduction[d]:
                core.is_first_sum = 0
            if index[loop] == core.loop_count[loop] - 1:
                core.tile[d] = core.chunk[d] - index[loop] * nest.tile[HELD, d]
                core.size_kind += ledger.kind_stride[d] * core.edge_kind[d]
        if index[loop] < core.loop_count[loop] - 1:
            core.moves = loop
            if problem.is_reduction[d]:
                core.is_last_sum = 0


@lean
def load(problem: Problem, nest: Nest, core: Core, ledger: Ledger) -> None:
    """Prepare the loads before the pass looked at."""
    core.after_note = BETWEEN
    for operand in range(3):
        transfer = core.transfer[operand]
        transfer[ENGINE_CYCLES] = 0
        if core.moved <= nest.position[CORE, operand] and (operand != O or core.is_first_sum == 0):
            elem_bits = problem.elem_bits[operand]
            cycles, elems, moved_bits = move(problem, operand, elem_bits, core.first, core.tile)
            transfer[CHANNEL_CYCLES] = transfer[ENGINE_CYCLES] = cycles
            transfer[NUM_BYTES], transfer[OF_PASS] = (moved_bits + 7) >> 3, core.pass_number
            ledger.totals[MOVED + operand] += core.repeats * elems
            _count_bits(ledger, operand, core.repeats, elems * elem_bits, moved_bits)


@small
def _count_bits(ledger: Ledger, column: int, repeats: int, elem_bits: int, moved_bits: int) -> None:
    """Add transfers that move ``moved_bits`` for the sake of ``elem_bits``."""
    ledger.totals[DRAM_BYTES + column] += repeats * ((moved_bits + 7) >> 3)
    ledger.totals[UNUSED_BITS + column] += repeats * (moved_bits - elem_bits)


@lean
def work(problem: Problem, nest: Nest, core: Core, ledger: Ledger, log: Log) -> None:
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


@lean
def store(problem: Problem, nest: Nest, core: Core, ledger: Ledger) -> None:
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
    cycles, elems, moved_bits = move(problem, O, elem_bits, core.first, core.tile)
    _count_bits(ledger, O, core.repeats, elems * elem_bits, moved_bits)
    transfer[CHANNEL_CYCLES] = transfer[ENGINE_CYCLES] = cycles
    transfer[NUM_BYTES], transfer[OF_PASS] = (moved_bits + 7) >> 3, core.pass_number
    if core.is_last_sum == 0:
        transfer[KIND], transfer[VECTOR_START], transfer[VECTOR_CYCLES] = SPILL, 0, 0
        totals[MOVED + O] += core.repeats * elems
        return
    totals[FINAL_ELEMS] += core.repeats * elems
    for projection in range(FIRST_EXTRA, problem.num_projections):
        elem_bits = problem.elem_bits[projection]
        more, streamed, moved_bits = move(problem, projection, elem_bits, core.first, core.tile)
        transfer[CHANNEL_CYCLES] += more
        transfer[NUM_BYTES] += (moved_bits + 7) >> 3
        ledger.extra_elems[projection - FIRST_EXTRA] += core.repeats * streamed
        _count_bits(ledger, FIRST_EXTRA, core.repeats, streamed * elem_bits, moved_bits)
    extras_cycles = transfer[CHANNEL_CYCLES] - cycles
    vector_cycles = int(math.ceil(elems * problem.num_ops_per_elem / problem.vector_ops_per_cycle))
    transfer[KIND], transfer[VECTOR_START], transfer[VECTOR_CYCLES] = STORE, extras_cycles, vector_cycles
    transfer[ENGINE_CYCLES] = extras_cycles + max(cycles, vector_cycles)
