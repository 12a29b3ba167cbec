"""Prices every mapping of one SPM tile and one array tile that the bounds leave, over all orders and bufferings."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.analytical.model import Formula, price_row
from tvm_spm.exact.case_arrays import (
    ALL_DOUBLE,
    NONE,
    SINGLE_STEP,
    TOLERANCE,
    CaseArrays,
    Floats,
    I,
    Ints,
    O,
    W,
    objective_of,
)
from tvm_spm.exact.orders import is_maximal, is_ordered, next_order
from tvm_spm.exact.perfect.array_tiles import ArrayTile
from tvm_spm.exact.perfect.core_passes import fill_table, passes_cycles
from tvm_spm.exact.perfect.pass_time import pass_cycles
from tvm_spm.exact.perfect.spm_tiles import PerfectTile, order_repeats
from tvm_spm.jit import kernel, lean, part
from tvm_spm.space.mapping_batch import NO_DIM, NUM_DIMS, MappingBatch

NUM_FLAGS = 16


class Tables(NamedTuple):
    """Timelines of one SPM tile: one per order of the DRAM loops and choice of SPM buffers.

    ``order`` is ``(n, 8)``, ``double`` bits, ``repeats`` how often I, W, O move, ``energy_pj`` all but the traffic of
    the RFs, ``base`` cycles outside all passes, ``passes`` ``(n, 4, entries)`` of which ``num`` are in use.
    """

    order: Ints
    double: Ints
    repeats: Ints
    energy_pj: Floats
    base: Ints
    passes: Ints
    num: Ints


class Best(NamedTuple):
    """The best mapping so far, and what it takes to find a better one.

    Attributes:
        row: The best mapping.
        trial: Room for one that may be better.
        formula: What prices it.
        objective: Of the best.
        bound: The same with the energy as the bounds add it up, which may differ in the last bits.
        num_evaluated: Mappings judged by their timelines, or priced.
        num_bounded: Pairs of tiles that were judged by a bound.
    """

    row: MappingBatch
    trial: MappingBatch
    formula: Formula
    objective: Floats
    bound: Floats
    num_evaluated: Ints
    num_bounded: Ints


@kernel
def make_tables(case: CaseArrays, floor: PerfectTile, runs: Ints, room: int) -> Tables:
    """Timelines of all orders that finish outputs before they leave SPM, with as many SPM buffers as fit.

    An entry of ``num`` is -1 if ``room`` is too little for one timeline.
    """
    workload = case.workload
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
        if is_ordered(case.outside[0], loops, num_loops):
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
        for choice in range(num_doubles if is_ordered(case.outside[0], loops, num_loops) else 0):
            tables.order[row, :num_loops] = loops[:num_loops]
            tables.double[row] = doubles[choice]
            for operand in range(3):
                tables.repeats[row, operand] = order_repeats(case, cores, counts, loops, num_loops, operand)
            tables.energy_pj[row] = (
                case.constant_pj + floor.elems_pj[O]
                + tables.repeats[row, I] * floor.elems_pj[I] + tables.repeats[row, W] * floor.elems_pj[W]
            )  # fmt: skip
            tables.num[row] = fill_table(
                case, core_first, core_tile, tile, loops[:num_loops], doubles[choice], runs, tables.passes[row],
            )  # fmt: skip
            if tables.num[row] < 0:
                return tables
            # stores of single buffers are part of the last pass
            tables.base[row] = floor.first_cycles + (floor.last_cycles if doubles[choice] >> O & 1 else 0)
            row += 1
        if not next_order(loops, num_outer, num_loops) and not next_order(loops, 0, num_outer):
            return tables


@part
def finish(
    case: CaseArrays,
    pairs: Ints,
    floor: PerfectTile,
    array: ArrayTile,
    kept: int,
    least_pass: int,
    tables: Tables,
    best: Best,
) -> None:
    """Try all mappings of a candidate whose innermost SPM loop leaves operand ``kept`` in place.

    Args:
        case: What is searched.
        pairs: Rows and columns of each unrolling.
        floor: The SPM tile.
        array: The array tile.
        kept: The operand, ``NONE`` or ``SINGLE_STEP``.
        least_pass: A floor under the cycles of a pass.
        tables: Of the SPM tile.
        best: Updated.
    """
    num_tables, arch = len(tables.num), case.arch
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
            kind[loop] = case.kind[order[loop]]
        if _is_wanted(case.outside[1], order, kind, num_loops, kept):
            resident = _price_order(array, kept, count, kind, num_loops, tables, moved_pj)
            if _any_better(case, tables, moved_pj, least_cycles, best):
                for double in range(ALL_DOUBLE, -1, -1):
                    if array.fitting >> double & 1:
                        at_least = _fill_times(case, array.step, double, count, kind, num_loops, resident, times)
                        _try_tables(case, pairs, floor, array, Inside(order, double, times, moved_pj), tables, best)
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
    moved_pj: Floats,
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
def _any_better(case: CaseArrays, tables: Tables, moved_pj: Floats, least_cycles: Ints, best: Best) -> bool:
    limit = best.objective[0] * (1.0 - TOLERANCE)
    for row in range(len(moved_pj)):
        if objective_of(case, tables.energy_pj[row] + moved_pj[row], least_cycles[row]) < limit:
            return True
    return False


@lean
def _fill_times(
    case: CaseArrays,
    step: Ints,
    double: int,
    count: Ints,
    kind: Ints,
    num_loops: int,
    resident: bool,
    times: Ints,
) -> int:
    """Cycles of a pass for all flags; returns the most. Only operands that stay from pass to pass regard all flags."""
    most, rate, stages = 0, case.arch.spm_bytes_per_cycle, case.arch.mac_stages
    for flags in range(NUM_FLAGS):
        if resident or flags == 0 or flags == 4:
            times[flags] = pass_cycles(step, rate, stages, double, count, kind, num_loops, flags)
        else:
            times[flags] = times[flags & 4]
        most = max(most, times[flags])
    return most


class Inside(NamedTuple):
    """What a mapping does inside its passes.

    Attributes:
        order: Of the SPM loops.
        double: Bits of the operands with two RF buffers.
        times: Cycles of a pass by its flags.
        moved_pj: Energy of the traffic of the RFs, per timeline.
    """

    order: Ints
    double: int
    times: Ints
    moved_pj: Floats


@part
def _try_tables(
    case: CaseArrays, pairs: Ints, floor: PerfectTile, array: ArrayTile, inside: Inside, tables: Tables, best: Best
) -> None:
    """Judge a mapping per timeline, of one core alone; what that leaves is written out and priced by the formula."""
    for row in range(len(inside.moved_pj)):
        energy_pj = tables.energy_pj[row] + inside.moved_pj[row]
        limit = best.objective[0] * (1.0 - TOLERANCE)
        if objective_of(case, energy_pj, 0.0) >= limit:
            continue
        cycles = tables.base[row] + passes_cycles(tables.passes[row], tables.num[row], inside.times)
        best.num_evaluated[0] += 1
        if objective_of(case, energy_pj, cycles) >= limit:
            continue
        _write(pairs, floor, array, inside, tables, row, best.trial)
        priced_cycles, priced_pj = price_row(best.formula, best.trial, 0)
        objective = objective_of(case, priced_pj, priced_cycles)
        if objective < limit:
            best.objective[0], best.bound[0] = objective, objective_of(case, energy_pj, priced_cycles)
            _write(pairs, floor, array, inside, tables, row, best.row)


@lean
def _write(
    pairs: Ints,
    floor: PerfectTile,
    array: ArrayTile,
    inside: Inside,
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
        row.spm_order[0, d] = inside.order[d]
    row.spm_double[0], row.rf_double[0] = tables.double[table], inside.double
    row.spill[0] = False
