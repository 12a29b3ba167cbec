"""Prices every mapping of one SPM tile and one array tile that the bounds leave, over all orders and bufferings."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tvm_spm.exact.array_tiles import ArrayTile
from tvm_spm.exact.contention import contended_cycles
from tvm_spm.exact.pass_time import ALL_RF, NONE, I, Ints, O, W, pass_cycles
from tvm_spm.exact.problem import Problem
from tvm_spm.exact.spm_tiles import TOLERANCE, Floor, objective_of, order_repeats
from tvm_spm.exact.timeline import fill_table, passes_cycles
from tvm_spm.jit import kernel, lean, part
from tvm_spm.space.mapping_batch import NO_DIM, NUM_DIMS, MappingBatch

SINGLE_STEP = 4
"""Kind of a candidate whose passes are a single step: all operands stay."""

NUM_FLAGS = 16


class Tables(NamedTuple):
    """Timelines of one SPM tile: one per order of the DRAM loops and choice of SPM buffers.

    ``order`` is ``(n, 8)``, ``double`` bits, ``repeats`` how often I, W, O move, ``energy_pj`` all but the traffic of
    the RFs, ``base`` cycles outside all passes, ``passes`` ``(n, 4, entries)`` of which ``num`` are in use.
    """

    order: Ints
    double: Ints
    repeats: Ints
    energy_pj: NDArray[np.float64]
    base: Ints
    passes: Ints
    num: Ints


class Best(NamedTuple):
    """The best mapping so far, what it achieves, and counts of mappings priced and of tile pairs left out."""

    row: MappingBatch
    objective: NDArray[np.float64]
    num_evaluated: Ints
    num_bounded: Ints


@lean
def next_order(order: Ints, low: int, high: int) -> bool:
    """The next permutation of ``order[low:high]`` in lexicographic order; after the last one the first."""
    pivot = high - 2
    while pivot >= low and order[pivot] >= order[pivot + 1]:
        pivot -= 1
    if pivot >= low:
        other = high - 1
        while order[other] <= order[pivot]:
            other -= 1
        order[pivot], order[other] = order[other], order[pivot]
    left, right = pivot + 1 if pivot >= low else low, high - 1
    while left < right:
        order[left], order[right] = order[right], order[left]
        left, right = left + 1, right - 1
    return pivot >= low


@lean
def is_ordered(outside: NDArray[np.bool_], order: Ints, num_loops: int) -> bool:
    """Whether an order, outer to inner, is as the constraints ask."""
    for inner in range(1, num_loops):
        for outer in range(inner):
            if outside[order[inner], order[outer]]:
                return False
    return True


@kernel
def make_tables(problem: Problem, floor: Floor, runs: Ints, room: int) -> Tables:
    """Timelines of all orders that finish outputs before they leave SPM, with as many SPM buffers as fit.

    An entry of ``num`` is -1 if ``room`` is too little for one timeline.
    """
    workload = problem.workload
    cores, tile = floor.cores.copy(), floor.spm.copy()
    core_tile = workload.dims // cores
    counts = core_tile // tile
    loops = np.empty(NUM_DIMS, dtype=np.int64)
    num_outer = num_loops = 0
    for is_reduction in range(2):
        for d in range(NUM_DIMS):
            if counts[d] > 1 and workload.is_reduction[d] == (is_reduction == 1):
                loops[num_loops] = d
                num_loops += 1
        if is_reduction == 0:
            num_outer = num_loops
    num_orders = 0
    while True:
        if is_ordered(problem.wanted.outside[0], loops, num_loops):
            num_orders += 1
        if not next_order(loops, num_outer, num_loops) and not next_order(loops, 0, num_outer):
            break
    doubles, num_doubles = np.empty(8, dtype=np.int64), 0
    for double in range(8):
        if floor.fitting >> double & 1 and (floor.num_cores > 1 or is_maximal(floor.fitting, double)):
            doubles[num_doubles] = double
            num_doubles += 1
    total = num_orders * num_doubles
    tables = Tables(
        np.full((total, NUM_DIMS), NO_DIM, dtype=np.int64), np.empty(total, dtype=np.int64),
        np.empty((total, 3), dtype=np.int64), np.empty(total, dtype=np.float64), np.empty(total, dtype=np.int64),
        np.empty((total, 4, room), dtype=np.int64), np.zeros(total, dtype=np.int64),
    )  # fmt: skip
    core_first = cores // 2 * core_tile
    row = 0
    while True:
        for choice in range(num_doubles if is_ordered(problem.wanted.outside[0], loops, num_loops) else 0):
            tables.order[row, :num_loops] = loops[:num_loops]
            tables.double[row] = doubles[choice]
            for operand in range(3):
                tables.repeats[row, operand] = order_repeats(problem, cores, counts, loops, num_loops, operand)
            tables.energy_pj[row] = (
                problem.constant_pj + floor.elems_pj[O]
                + tables.repeats[row, I] * floor.elems_pj[I] + tables.repeats[row, W] * floor.elems_pj[W]
            )  # fmt: skip
            tables.num[row] = fill_table(
                workload, problem.arch, problem.is_clipped, core_first, core_tile, tile, loops, num_loops,
                doubles[choice], runs, tables.passes[row],
            )  # fmt: skip
            if tables.num[row] < 0:
                return tables
            # stores of single buffers are part of the last pass
            tables.base[row] = floor.first_cycles + (floor.last_cycles if doubles[choice] >> O & 1 else 0)
            row += 1
        if not next_order(loops, num_outer, num_loops) and not next_order(loops, 0, num_outer):
            return tables


@lean
def is_maximal(fitting: int, double: int) -> bool:
    """Whether no further operand can have two buffers.

    On one core a second SPM buffer never costs cycles: a pass's slot is ``max(pass, beside) + behind``, a load that
    moves from behind to beside adds at most itself to the maximum, and a store moves to the next pass's beside alike.
    """
    for operand in range(3):
        more = double | 1 << operand
        if more != double and fitting >> more & 1:
            return False
    return True


@part
def finish(
    problem: Problem,
    pairs: Ints,
    floor: Floor,
    array: ArrayTile,
    kept: int,
    least_pass: int,
    tables: Tables,
    best: Best,
    runs: Ints,
) -> None:
    """Try all mappings of a candidate whose innermost SPM loop leaves operand ``kept`` in place.

    Args:
        problem: What is searched.
        pairs: Rows and columns of each unrolling.
        floor: The SPM tile.
        array: The array tile.
        kept: The operand, ``NONE`` or ``SINGLE_STEP``.
        least_pass: A floor under the cycles of a pass.
        tables: Of the SPM tile.
        best: Updated.
        runs: Scratch.
    """
    num_tables, arch = len(tables.num), problem.arch
    times = np.full(NUM_FLAGS, least_pass, dtype=np.int64)
    least_cycles = np.empty(num_tables, dtype=np.int64)
    for row in range(num_tables):
        least_cycles[row] = tables.base[row] + passes_cycles(tables.passes[row], tables.num[row], times)
    order, num_loops = np.full(NUM_DIMS, NO_DIM, dtype=np.int64), 0
    for d in range(NUM_DIMS):
        if floor.spm[d] > array.array[d]:
            order[num_loops] = d
            num_loops += 1
    count, kind = np.empty(NUM_DIMS, dtype=np.int64), np.empty(NUM_DIMS, dtype=np.int64)
    moved_pj = np.empty(num_tables, dtype=np.float64)
    while True:
        for loop in range(num_loops):
            count[loop] = floor.spm[order[loop]] // array.array[order[loop]]
            kind[loop] = problem.kind[order[loop]]
        if _is_wanted(problem.wanted.outside[1], order, kind, num_loops, kept):
            resident = _price_order(array, kept, count, kind, num_loops, tables, moved_pj)
            if _any_better(problem, tables, moved_pj, least_cycles, best):
                for double in range(ALL_RF, -1, -1):
                    if array.fitting >> double & 1:
                        at_least = _fill_times(array.step, arch.spm_bytes_per_cycle, arch.mac_stages, double, count,
                                               kind, num_loops, resident, times)  # fmt: skip
                        _try_tables(problem, pairs, floor, array, order, double, times, moved_pj, tables, best, runs)
                        if at_least <= least_pass and arch.num_cores == 1:
                            break
        if not next_order(order, 0, num_loops):
            return


@lean
def _is_wanted(outside: NDArray[np.bool_], order: Ints, kind: Ints, num_loops: int, kept: int) -> bool:
    """Whether an order belongs to the class; of neighbours of one kind only one order does."""
    if num_loops == 0:
        return True
    if kind[num_loops - 1] != kept:
        return False
    for loop in range(1, num_loops):
        outer, inner = order[loop - 1], order[loop]
        if kind[loop - 1] == kind[loop] and outer > inner and not outside[outer, inner]:
            return False
    return is_ordered(outside, order, num_loops)


@lean
def _price_order(
    array: ArrayTile,
    kept: int,
    count: Ints,
    kind: Ints,
    num_loops: int,
    tables: Tables,
    moved_pj: NDArray[np.float64],
) -> bool:
    """Energy of the traffic of the RFs per table; returns whether the kept operand stays from pass to pass."""
    if kept == SINGLE_STEP:
        for row in range(len(moved_pj)):
            moved_pj[row] = (
                tables.repeats[row, I] * array.kept_pj[I]
                + tables.repeats[row, W] * array.kept_pj[W]
                + array.num_tiles[O] * array.out_pj
            )
        return True
    run, loop = 1, num_loops - 1
    while loop >= 0 and kind[loop] == kept:
        run *= count[loop]
        loop -= 1
    resident = kept != NONE and loop < 0
    for row in range(len(moved_pj)):
        moved_pj[row] = array.moved_pj[kept]
        if resident:
            moved_pj[row] += tables.repeats[row, kept] * array.kept_pj[kept]
        elif kept != NONE:
            price = array.in_pj[kept] + (array.out_pj if kept == O else 0.0)
            moved_pj[row] += array.num_steps // run * price
    return resident


@lean
def _any_better(
    problem: Problem, tables: Tables, moved_pj: NDArray[np.float64], least_cycles: Ints, best: Best
) -> bool:
    limit = best.objective[0] * (1.0 - TOLERANCE)
    for row in range(len(moved_pj)):
        if objective_of(problem, tables.energy_pj[row] + moved_pj[row], least_cycles[row]) < limit:
            return True
    return False


@lean
def _fill_times(
    step: Ints,
    rate: float,
    stages: int,
    double: int,
    count: Ints,
    kind: Ints,
    num_loops: int,
    resident: bool,
    times: Ints,
) -> int:
    """Cycles of a pass for all flags; returns the most. Only operands that stay from pass to pass regard all flags."""
    most = 0
    for flags in range(NUM_FLAGS):
        if resident or flags == 0 or flags == 4:
            times[flags] = pass_cycles(step, rate, stages, double, count, kind, num_loops, flags)
        else:
            times[flags] = times[flags & 4]
        most = max(most, times[flags])
    return most


@part
def _try_tables(
    problem: Problem,
    pairs: Ints,
    floor: Floor,
    array: ArrayTile,
    order: Ints,
    double: int,
    times: Ints,
    moved_pj: NDArray[np.float64],
    tables: Tables,
    best: Best,
    runs: Ints,
) -> None:
    for row in range(len(moved_pj)):
        energy_pj = tables.energy_pj[row] + moved_pj[row]
        limit = best.objective[0] * (1.0 - TOLERANCE)
        if objective_of(problem, energy_pj, 0.0) >= limit:
            continue
        objective = objective_of(
            problem, energy_pj, tables.base[row] + passes_cycles(tables.passes[row], tables.num[row], times)
        )
        best.num_evaluated[0] += 1
        if objective >= limit:
            continue
        if floor.num_cores > 1:
            num_loops = 0
            while num_loops < NUM_DIMS and tables.order[row, num_loops] != NO_DIM:
                num_loops += 1
            cycles = contended_cycles(
                problem, floor.cores.copy(), floor.spm.copy(), tables.order[row], num_loops, tables.double[row],
                tables.repeats[row], times, runs,
            )  # fmt: skip
            objective = objective_of(problem, energy_pj, cycles)
            if objective >= limit:
                continue
        best.objective[0] = objective
        _write(pairs, floor, array, order, double, tables, row, best.row)


@lean
def _write(
    pairs: Ints,
    floor: Floor,
    array: ArrayTile,
    order: Ints,
    double: int,
    tables: Tables,
    table: int,
    row: MappingBatch,
) -> None:
    """The first row of a batch becomes the mapping."""
    for d in range(NUM_DIMS):
        row.cores[0, d], row.spm[0, d] = floor.cores[d], floor.spm[d]
        row.rows[0, d], row.cols[0, d] = pairs[array.unrolling, 0, d], pairs[array.unrolling, 1, d]
        row.rf[0, d] = array.array[d] // (row.rows[0, d] * row.cols[0, d])
        row.dram_order[0, d] = tables.order[table, d]
        row.spm_order[0, d] = order[d]
    row.spm_double[0], row.rf_double[0] = tables.double[table], double
    row.spill[0] = False
