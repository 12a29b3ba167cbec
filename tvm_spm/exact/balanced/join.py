"""Pairs balanced SPM tiles with array tiles, and lists the mappings of those pairs that the bounds leave."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tvm_spm.exact.balanced.arrays import allowed_buffers, fitting_buffers
from tvm_spm.exact.balanced.floors import BalancedFloor, dma_limit
from tvm_spm.exact.balanced.pairs import (
    Floats,
    Pair,
    bound_pair,
    is_single_step,
    make_pair,
    measure_pair,
    order_pj,
    set_pair,
    whole_cycles,
)
from tvm_spm.exact.balanced.tables import ALL_TILES, TIME, Tables
from tvm_spm.exact.finish import SINGLE_STEP, is_maximal, is_ordered, next_order
from tvm_spm.exact.pass_time import ALL_RF, NONE, Ints, O
from tvm_spm.exact.problem import ENERGY, Problem
from tvm_spm.exact.spm_tiles import objective_of
from tvm_spm.jit import entry, kernel, lean
from tvm_spm.space.mapping_batch import NO_DIM, NUM_DIMS, MappingBatch

BALANCED_CANDIDATE_FIELDS = np.dtype(
    [("floor", np.int64), ("pes", np.int64), ("rf", np.int32, NUM_DIMS), ("kept", np.int64), ("bound", np.float64)]
)
"""An SPM tile, PEs, an RF tile, and the operand that the innermost SPM loop leaves in place."""


@lean
def _reduction_pes(problem: Problem, pes: Ints) -> int:
    product = 1
    for d in range(NUM_DIMS):
        if problem.workload.is_reduction[d]:
            product *= pes[d]
    return product


@lean
def _quick_bound(problem: Problem, floor: BalancedFloor, moved_pj: float, cycles: float) -> float:
    """A floor from the least traffic of the RFs and the least cycles of all passes."""
    bound = np.inf
    for keeps in range(2):
        all_cycles = max(float(floor.dma[keeps]), floor.once + cycles)
        bound = min(bound, objective_of(problem, floor.energy_pj[keeps] + moved_pj, all_cycles))
    return bound


@lean
def _may_be_better(
    problem: Problem, floor: BalancedFloor, class_pj: Floats, class_cycles: Floats, least_cycles: float, limit: float
) -> bool:
    """Whether any class of mappings of an array tile may be below a limit."""
    for kept in range(NONE + 1):
        if _quick_bound(problem, floor, class_pj[kept], max(class_cycles[kept], least_cycles)) < limit:
            return True
    return False


@entry
def join(
    problem: Problem,
    tables: Tables,
    pes: Ints,
    hops: Ints,
    floors: NDArray[np.void],
    arrays: NDArray[np.void],
    start: int,
    stop: int,
    limit: float,
    found: NDArray[np.void],
    counters: Ints,
) -> int:
    """Fill ``found`` with all classes of mappings below the SPM tiles ``start`` to ``stop`` with a bound below a limit.

    Returns:
        How many, or -1 if there is no room.
    """
    num, pair, num_pes = 0, make_pair(), len(pes)
    least_pj, least_cycles = np.full(NONE + 1, np.inf), np.full(NONE + 1, np.inf)
    for row in range(len(arrays)):
        for kept in range(NONE + 1):
            least_pj[kept] = min(least_pj[kept], arrays[row].class_pj[kept])
            least_cycles[kept] = min(least_cycles[kept], arrays[row].class_cycles[kept])
    for index in range(start, stop):
        floor = floors[index]
        if floor.bound >= limit:
            continue
        # passes of a single step: the SPM tile tells the array tile
        for unrolling in range(num_pes):
            time = 1
            for d in range(NUM_DIMS):
                start_row = tables.cut_start[d, floor.at[d], pes[unrolling, d]]
                if start_row < 0:
                    time = -1
                    break
                time *= tables.least_time[d, floor.at[d], pes[unrolling, d]]
                pair.rf[d] = -(-floor.spm[d] // pes[unrolling, d])
            if time <= 0:
                continue
            stages = floor.num_passes * (problem.arch.mac_stages - 1)
            if _quick_bound(problem, floor, 0.0, float(time + stages)) >= limit:
                continue
            fitting = allowed_buffers(problem, fitting_buffers(problem, pair.rf))
            if fitting == 0 or not set_pair(problem, tables, floor, pes[unrolling], pair):
                continue
            measure_pair(problem, tables, floor, hops[unrolling], _reduction_pes(problem, pes[unrolling]), pair)
            bound = bound_pair(problem, floor, pair, fitting, SINGLE_STEP)
            if bound < limit:
                if num == len(found):
                    return -1
                _note(found, num, index, unrolling, pair.rf, SINGLE_STEP, bound)
                num += 1
        if not _may_be_better(problem, floor, least_pj, least_cycles, 0.0, limit):
            continue
        for row in range(len(arrays)):
            array = arrays[row]
            if array.bound >= limit:
                break
            counters[0] += 1
            if not _may_be_better(problem, floor, array.class_pj, array.class_cycles, 0.0, limit):
                continue
            for d in range(NUM_DIMS):
                pair.rf[d] = array.rf[d]
            if not set_pair(problem, tables, floor, pes[array.pes], pair) or is_single_step(pair):
                continue
            time = floor.num_passes * (problem.arch.mac_stages - 1)
            product = 1
            for d in range(NUM_DIMS):
                product *= pair.cuts[TIME, d]
            if not _may_be_better(problem, floor, array.class_pj, array.class_cycles, float(product + time), limit):
                continue
            counters[1] += 1
            measure_pair(problem, tables, floor, hops[array.pes], _reduction_pes(problem, pes[array.pes]), pair)
            for kept in range(SINGLE_STEP):
                bound = bound_pair(problem, floor, pair, array.fitting, kept)
                if bound < limit:
                    if num == len(found):
                        return -1
                    _note(found, num, index, array.pes, pair.rf, kept, bound)
                    num += 1
    return num


@lean
def _note(found: NDArray[np.void], num: int, floor: int, pes: int, rf: Ints, kept: int, bound: float) -> None:
    candidate = found[num]
    candidate.floor, candidate.pes, candidate.kept, candidate.bound = floor, pes, kept, bound
    for d in range(NUM_DIMS):
        candidate.rf[d] = rf[d]


@entry
def list_mappings(
    problem: Problem,
    tables: Tables,
    pairs: Ints,
    hops: Ints,
    floors: NDArray[np.void],
    candidates: NDArray[np.void],
    start: int,
    limit: float,
    batch: MappingBatch,
) -> tuple[int, int]:
    """Fill a batch with the mappings of candidates, in their order, that have a bound below a limit.

    Args:
        problem: What is searched.
        tables: For the factors across cores.
        pairs: ``(n, 2, 8)`` rows and columns.
        hops: Of each.
        floors: SPM tiles.
        candidates: In order of their bounds.
        start: The first candidate.
        limit: See above.
        batch: Filled with all mappings of a candidate, or none.

    Returns:
        (rows filled, first candidate left).
    """
    num, pair = 0, make_pair()
    for index in range(start, len(candidates)):
        candidate = candidates[index]
        if candidate.bound >= limit:
            return num, len(candidates)
        floor = floors[candidate.floor]
        end = _list_candidate(problem, tables, pairs[candidate.pes], hops[candidate.pes], floor, candidate.rf,
                              candidate.kept, limit, pair, batch, num)  # fmt: skip
        if end < 0:
            return num, index
        num = end
    return num, len(candidates)


@kernel
def _list_candidate(
    problem: Problem,
    tables: Tables,
    factors: Ints,
    hops: int,
    floor: BalancedFloor,
    rf: Ints,
    kept: int,
    limit: float,
    pair: Pair,
    batch: MappingBatch,
    num: int,
) -> int:
    """Append the mappings of one candidate; returns the rows in use, -1 if there is no room."""
    workload = problem.workload
    pes = factors[0] * factors[1]
    for d in range(NUM_DIMS):
        pair.rf[d] = rf[d]
    set_pair(problem, tables, floor, pes, pair)
    measure_pair(problem, tables, floor, hops, _reduction_pes(problem, pes), pair)
    fitting = allowed_buffers(problem, fitting_buffers(problem, pair.rf))
    bound_pair(problem, floor, pair, fitting, kept)
    outer, inner = np.empty(NUM_DIMS, dtype=np.int64), np.empty(NUM_DIMS, dtype=np.int64)
    num_outputs = num_outer = num_inner = 0
    for is_reduction in range(2):
        for d in range(NUM_DIMS):
            if pair.passes[d] > 1 and workload.is_reduction[d] == (is_reduction == 1):
                outer[num_outer] = d
                num_outer += 1
        if is_reduction == 0:
            num_outputs = num_outer
    for d in range(NUM_DIMS):
        if pair.loops[d] > 1:
            inner[num_inner] = d
            num_inner += 1
    while True:
        is_wanted = is_ordered(problem.wanted.outside[0], outer, num_outer)
        while is_wanted:
            is_kept = kept == SINGLE_STEP or problem.kind[inner[num_inner - 1]] == kept
            if is_kept and is_ordered(problem.wanted.outside[1], inner, num_inner):
                num = _list_order(problem, tables, factors, floor, pair, fitting, kept, outer, num_outer, inner,
                                  num_inner, limit, batch, num)  # fmt: skip
                if num < 0:
                    return -1
            if not next_order(inner, 0, num_inner):
                break
        if not next_order(outer, num_outputs, num_outer) and not next_order(outer, 0, num_outputs):
            return num


@lean
def _list_order(
    problem: Problem,
    tables: Tables,
    factors: Ints,
    floor: BalancedFloor,
    pair: Pair,
    fitting: int,
    kept: int,
    outer: Ints,
    num_outer: int,
    inner: Ints,
    num_inner: int,
    limit: float,
    batch: MappingBatch,
    num: int,
) -> int:
    """Append the mappings with these loop orders, all bufferings."""
    energy_pj, dma = problem.constant_pj + floor.elems_pj[O], floor.elem_cycles[O]
    for operand in range(2):
        repeats = _dram_repeats(problem, tables, floor, outer, num_outer, operand)
        energy_pj += repeats * floor.elems_pj[operand]
        dma += repeats * floor.elem_cycles[operand]
    for operand in range(3):
        energy_pj += order_pj(problem, tables, pair, outer, num_outer, inner, num_inner, operand)
    least_cycles = dma_limit(problem, tables, dma)
    for double in range(ALL_RF, -1, -1):
        if fitting >> double & 1 == 0:
            continue
        cycles = max(float(least_cycles), whole_cycles(floor.once, pair.cycles[kept, double]))
        if objective_of(problem, energy_pj, cycles) >= limit:
            continue
        for spm_double in range(8):
            if floor.fitting >> spm_double & 1 == 0:
                continue
            if tables.num_cores == 1 and problem.objective != ENERGY and not is_maximal(floor.fitting, spm_double):
                continue
            if num == len(batch.spill):
                return -1
            for d in range(NUM_DIMS):
                batch.cores[num, d], batch.spm[num, d], batch.rf[num, d] = tables.cores[d], floor.spm[d], pair.rf[d]
                batch.rows[num, d], batch.cols[num, d] = factors[0, d], factors[1, d]
                batch.dram_order[num, d] = outer[d] if d < num_outer else NO_DIM
                batch.spm_order[num, d] = inner[d] if d < num_inner else NO_DIM
            batch.spm_double[num], batch.rf_double[num], batch.spill[num] = spm_double, double, False
            num += 1
            if problem.objective == ENERGY:
                break
    return num


@lean
def _dram_repeats(
    problem: Problem, tables: Tables, floor: BalancedFloor, outer: Ints, num_outer: int, operand: int
) -> float:
    """How often each tile of an operand passes between DRAM and SPM."""
    workload, position, repeats = problem.workload, -1, 1.0
    for loop in range(num_outer):
        if workload.is_relevant[operand, outer[loop]]:
            position = loop
    for d in range(NUM_DIMS):
        if not workload.is_relevant[operand, d]:
            repeats *= tables.cores[d]
    for loop in range(position):
        d = outer[loop]
        if not workload.is_relevant[operand, d]:
            # exact: the product over all such loops is a whole number
            repeats *= tables.tiles[d, floor.at[d], ALL_TILES] / tables.cores[d]
    return repeats
