"""The timeline of a core that never waits for a DRAM channel: slots of equal kind are counted instead of walked.

Without contention a slot depends only on its pass and the two passes around it. Along a DRAM loop, iterations whose
tile and whose neighbours' tiles are full and lie inside every tensor are alike, but for the first and the last.
"""

from __future__ import annotations

from cost_model.nest import CORE, HELD, Nest
from cost_model.problem import Ints, O, Problem
from cost_model.simulator.core import forget, queue_slot, serve
from cost_model.simulator.ledger import Ledger
from cost_model.simulator.log import Log
from cost_model.simulator.notes import note_pass
from cost_model.simulator.passes import ITS_LOADS, ITS_STORE, ITS_WORK, look_at
from cost_model.simulator.state import Core
from tvm_spm.jit import lean, small


@lean
def run_undisturbed(problem: Problem, nest: Nest, core: Core, ledger: Ledger, log: Log) -> None:
    """Run a core from its first slot to its last."""
    num_loops, index, like_first, like_last = nest.num_loops[0], core.slot_index, core.like_first, core.like_last
    for loop in range(num_loops):
        like_first[loop], like_last[loop] = alike(problem, nest, core, loop)
        index[loop] = 0

    look_at(problem, nest, core, ledger, log, ITS_LOADS)
    queue_slot(nest, core, -1)
    _run_slot(core, ledger, log)
    is_last = False
    while not is_last:
        # stores of the pass before, and of this one: passes number 0 and 1 here
        core.pass_number = 0
        forget(core)
        if nest.double[CORE, O] and _go_to(core, index, num_loops, -1):
            core.repeats = 0
            look_at(problem, nest, core, ledger, log, ITS_STORE)
        core.pass_number = core.repeats = 1
        for loop in range(num_loops):
            if index[loop] == like_first[loop]:
                core.repeats *= like_last[loop] - like_first[loop] + 1
        _go_to(core, index, num_loops, 0)
        look_at(problem, nest, core, ledger, log, ITS_WORK | ITS_STORE)
        if len(log.account) > 0:
            note_pass(problem, nest, core, ledger, log)
        is_last = not _go_to(core, index, num_loops, 1)
        if not is_last:
            look_at(problem, nest, core, ledger, log, ITS_LOADS)
        queue_slot(nest, core, 1)
        _run_slot(core, ledger, log)
        loop = num_loops - 1
        while loop >= 0 and index[loop] == core.loop_count[loop] - 1:
            index[loop] = 0
            loop -= 1
        if loop >= 0:
            index[loop] = like_last[loop] + 1 if index[loop] == like_first[loop] else index[loop] + 1
    core.pass_cycles = core.slots_left = 0
    queue_slot(nest, core, 2)
    if nest.double[CORE, O]:
        _run_slot(core, ledger, log)


@small
def _run_slot(core: Core, ledger: Ledger, log: Log) -> None:
    """Let the slots of equal kind go by; every transfer gets a channel at once."""
    start = core.clock
    core.pass_end = start + core.pass_cycles
    while core.num_served < core.num_queued:
        if core.num_served >= core.num_beside:
            core.clock = max(core.clock, core.pass_end)
        serve(core, ledger, log, core.clock, 0)
    core.clock = start + core.repeats * (max(core.clock, core.pass_end) - start)


@small
def _go_to(core: Core, index: Ints, num_loops: int, offset: int) -> bool:
    """Let a core look ``offset`` passes (-1, 0 or 1) beyond ``index``; False if no such pass exists."""
    core.stale = 0
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


@lean
def alike(problem: Problem, nest: Nest, core: Core, loop: int) -> tuple[int, int]:
    """First and last of the iterations of a DRAM loop that are alike; (-1, -1) if no two are."""
    d, count = nest.loop_dim[0, loop], core.loop_count[loop]
    inside_first, inside_end = 0, core.chunk[d] // nest.tile[HELD, d]
    for axis in range(problem.axis_start[problem.num_projections]):
        coefficient, low, high = 0, problem.axis_offset[axis], problem.axis_offset[axis]
        for term in range(problem.term_start[axis], problem.term_start[axis + 1]):
            other = problem.term_dim[term]
            if other == d:
                coefficient = problem.term_coefficient[term]
            else:
                low += problem.term_coefficient[term] * core.chunk_first[other]
                high += problem.term_coefficient[term] * (core.chunk_first[other] + core.chunk[other] - 1)
        if coefficient == 0:
            continue
        while (
            inside_first < inside_end
            and low + coefficient * (core.chunk_first[d] + inside_first * nest.tile[HELD, d]) < 0
        ):
            inside_first += 1
        while inside_end > inside_first and (
            high + coefficient * (core.chunk_first[d] + inside_end * nest.tile[HELD, d] - 1)
            >= problem.axis_extent[axis]
        ):
            inside_end -= 1
    first, last = inside_first + 1, min(inside_end, count) - 2
    return (first, last) if last > first else (-1, -1)
