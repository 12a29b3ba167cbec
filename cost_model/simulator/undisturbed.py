"""The timeline of a core that never waits for a DRAM channel: slots of equal kind are counted instead of walked.

Without contention a slot depends only on its pass and the two passes around it. Along a DRAM loop, iterations whose
tile and whose neighbours' tiles are full and lie inside every tensor are alike, but for the first and the last.
"""

from __future__ import annotations

import numpy as np

from cost_model.simulator.passes import load, look_at, store, work
from cost_model.simulator.state import BUSY_CYCLES, Core, Ints, Ledger, Nest, O, Problem
from tvm_spm.jit import kernel, part
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.space.tensors import Tensors


@part
def run_undisturbed(problem: Problem, tensors: Tensors, nest: Nest, core: Core, ledger: Ledger) -> None:
    """Run a core from its first slot to its last."""
    num_loops = nest.num_dram_loops
    like_first = np.zeros(NUM_DIMS, dtype=np.int64)
    like_last = np.zeros(NUM_DIMS, dtype=np.int64)
    for loop in range(num_loops):
        like_first[loop], like_last[loop] = _alike(tensors, nest, core, loop)
    index = np.zeros(NUM_DIMS, dtype=np.int64)

    core.repeats = 1
    look_at(problem, nest, core, ledger)
    load(problem, tensors, nest, core, ledger)
    _spend(core, ledger, core.loads[0] + core.loads[1] + core.loads[2], 0)
    core.pass_cycles = 0
    is_last = False
    while not is_last:
        beside_cycles = after_cycles = 0
        if nest.spm_double[O] and _go_to(core, index, num_loops, -1):
            core.repeats = 0
            look_at(problem, nest, core, ledger)
            store(problem, tensors, nest, core, ledger)
            beside_cycles += core.store[1]
        core.repeats = 1
        for loop in range(num_loops):
            if index[loop] == like_first[loop]:
                core.repeats *= like_last[loop] - like_first[loop] + 1
        _go_to(core, index, num_loops, 0)
        look_at(problem, nest, core, ledger)
        work(problem, tensors, nest, core, ledger)
        store(problem, tensors, nest, core, ledger)
        if nest.spm_double[O] == 0:
            after_cycles += core.store[1]
        is_last = not _go_to(core, index, num_loops, 1)
        if not is_last:
            look_at(problem, nest, core, ledger)
            load(problem, tensors, nest, core, ledger)
            for operand in range(3):
                if nest.spm_double[operand]:
                    beside_cycles += core.loads[operand]
                else:
                    after_cycles += core.loads[operand]
        _spend(core, ledger, beside_cycles, after_cycles)
        loop = num_loops - 1
        while loop >= 0 and index[loop] == core.loop_count[loop] - 1:
            index[loop] = 0
            loop -= 1
        if loop >= 0:
            index[loop] = like_last[loop] + 1 if index[loop] == like_first[loop] else index[loop] + 1
    if nest.spm_double[O]:
        core.pass_cycles = 0
        _spend(core, ledger, core.store[1], 0)


@kernel
def _spend(core: Core, ledger: Ledger, beside_cycles: int, after_cycles: int) -> None:
    """Let the slots of equal kind go by: transfers beside the pass, and after both."""
    core.clock += core.repeats * (max(beside_cycles, core.pass_cycles) + after_cycles)
    ledger.totals[BUSY_CYCLES] += core.repeats * (beside_cycles + after_cycles)


@kernel
def _go_to(core: Core, index: Ints, num_loops: int, offset: int) -> bool:
    """Let a core look ``offset`` passes (-1, 0 or 1) beyond ``index``; False if no such pass exists."""
    for loop in range(num_loops):
        core.loop_index[loop] = index[loop]
    if offset == 0:
        return True
    for loop in range(num_loops - 1, -1, -1):
        last = core.loop_count[loop] - 1
        if core.loop_index[loop] != (last if offset > 0 else 0):
            core.loop_index[loop] += offset
            return True
        core.loop_index[loop] = 0 if offset > 0 else last
    return False


@part
def _alike(tensors: Tensors, nest: Nest, core: Core, loop: int) -> tuple[int, int]:
    """First and last of the iterations of a DRAM loop that are alike; (-1, -1) if no two are."""
    d, count = nest.loops[loop], core.loop_count[loop]
    inside_first, inside_end = 0, core.chunk[d] // nest.spm[d]
    for axis in range(len(tensors.axis_extent)):
        coefficient, low, high = 0, tensors.axis_offset[axis], tensors.axis_offset[axis]
        for term in range(tensors.term_start[axis], tensors.term_start[axis + 1]):
            other = tensors.term_dim[term]
            if other == d:
                coefficient = tensors.term_coefficient[term]
            else:
                low += tensors.term_coefficient[term] * core.chunk_first[other]
                high += tensors.term_coefficient[term] * (core.chunk_first[other] + core.chunk[other] - 1)
        if coefficient == 0:
            continue
        while inside_first < inside_end and low + coefficient * (core.chunk_first[d] + inside_first * nest.spm[d]) < 0:
            inside_first += 1
        while inside_end > inside_first and (
            high + coefficient * (core.chunk_first[d] + inside_end * nest.spm[d] - 1) >= tensors.axis_extent[axis]
        ):
            inside_end -= 1
    first, last = inside_first + 1, min(inside_end, count) - 2
    return (first, last) if last > first else (-1, -1)
