"""Finds mappings of one SPM tile and one array tile that may be better, over all orders and bufferings."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

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
from tvm_spm.jit import kernel, lean
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
        trial: One that may be better, which the formula is to price.
        trial_pj: Its energy as the bounds add it up.
        objective: Of the best.
        bound: The same with the energy as the bounds add it up, which may differ in the last bits.
        num_evaluated: Mappings judged by their timelines.
        num_bounded: Pairs of tiles that were judged by a bound.
    """

    row: MappingBatch
    trial: MappingBatch
    trial_pj: Floats
    objective: Floats
    bound: Floats
    num_evaluated: Ints
    num_bounded: Ints


class PairClass(Protocol):
    """A record of ``CANDIDATE_FIELDS``: an array tile under an SPM tile, and what the innermost SPM loop leaves.

    Attributes:
        bound: On the objective.
        array: Index of the array tile.
        kept: The operand that stays in place, ``NONE`` or ``SINGLE_STEP``.
        least_pass: A floor under the cycles of a pass.
    """

    bound: float
    array: int
    kept: int
    least_pass: int


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


class Inside(NamedTuple):
    """What a mapping does inside its passes.

    Attributes:
        order: Of the SPM loops.
        times: Cycles of a pass by its flags.
        moved_pj: Energy of the traffic of the RFs, per timeline.
    """

    order: Ints
    times: Ints
    moved_pj: Floats


class PairPlace(NamedTuple):
    """Where a search goes on after it left a mapping to the formula.

    Attributes:
        at: See ``FLOOR``.
        order: Of the SPM loops.
    """

    at: Ints
    order: Ints


FLOOR, NUM, RANK, CANDIDATE, DOUBLE, TABLE = range(6)
"""Of a ``PairPlace``: the SPM tile, how many candidates it has, how many of them are done, which is in work; of that,
the RF buffers, -1 if none is in work, and the timeline that was judged last."""


@kernel
def finish(
    case: CaseArrays,
    pairs: Ints,
    floor: PerfectTile,
    array: ArrayTile,
    found: PairClass,
    tables: Tables,
    place: PairPlace,
    best: Best,
) -> bool:
    """Go through the mappings of a candidate, whose innermost SPM loop leaves one operand in place.

    Args:
        case: What is searched.
        pairs: Rows and columns of each unrolling.
        floor: The SPM tile.
        array: The array tile.
        found: The candidate.
        tables: Of the SPM tile.
        place: Where to go on; updated.
        best: What is to be beaten; updated but for its best mapping.

    Returns:
        Whether ``best.trial`` is a mapping that may be better; call again once it is priced.
    """
    num_tables, arch, at, order, kept = len(tables.num), case.arch, place.at, place.order, found.kept
    times = np.full(NUM_FLAGS, found.least_pass, dtype=np.int64)
    least_cycles = np.empty(num_tables, dtype=np.int64)
    for row in range(num_tables):
        least_cycles[row] = tables.base[row] + passes_cycles(tables.passes[row], tables.num[row], times)
    goes_on, num_loops = at[DOUBLE] >= 0, 0
    for d in range(NUM_DIMS):
        if floor.spm[d] > array.array[d]:
            if not goes_on:
                order[num_loops] = d
            num_loops += 1
    for loop in range(num_loops, NUM_DIMS):
        order[loop] = NO_DIM
    count, kind = np.empty(NUM_DIMS, dtype=np.int64), np.empty(NUM_DIMS, dtype=np.int64)
    inside = Inside(order, times, np.empty(num_tables, dtype=np.float64))
    while True:
        for loop in range(num_loops):
            count[loop] = floor.spm[order[loop]] // array.array[order[loop]]
            kind[loop] = case.kind[order[loop]]
        if goes_on or _is_wanted(case.outside[1], order, kind, num_loops, kept):
            resident = _price_order(array, kept, count, kind, num_loops, tables, inside.moved_pj)
            if goes_on or _any_better(case, tables, inside.moved_pj, least_cycles, best):
                for double in range(at[DOUBLE] if goes_on else ALL_DOUBLE, -1, -1):
                    if array.fitting >> double & 1:
                        at_least = _fill_times(array.step, double, count, kind, num_loops, resident, times)
                        row = _next_better(case, inside, tables, at[TABLE] + 1 if goes_on else 0, best)
                        goes_on = False
                        if row >= 0:
                            at[DOUBLE], at[TABLE] = double, row
                            best.trial_pj[0] = tables.energy_pj[row] + inside.moved_pj[row]
                            _write(pairs, floor, array, inside, tables, at, best.trial)
                            return True
                        if at_least <= found.least_pass and arch.num_cores == 1:
                            break
        if not next_order(order, 0, num_loops):
            at[DOUBLE] = -1
            return False


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
    step: Ints,
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
            times[flags] = pass_cycles(step, double, count, kind, num_loops, flags)
        else:
            times[flags] = times[flags & 4]
        most = max(most, times[flags])
    return most


@lean
def _next_better(case: CaseArrays, inside: Inside, tables: Tables, start: int, best: Best) -> int:
    """Judge a mapping per timeline, of one core alone, from one on; the first that may be better, -1 if none."""
    for row in range(start, len(inside.moved_pj)):
        energy_pj = tables.energy_pj[row] + inside.moved_pj[row]
        limit = best.objective[0] * (1.0 - TOLERANCE)
        if objective_of(case, energy_pj, 0.0) >= limit:
            continue
        cycles = tables.base[row] + passes_cycles(tables.passes[row], tables.num[row], inside.times)
        best.num_evaluated[0] += 1
        if objective_of(case, energy_pj, cycles) < limit:
            return row
    return -1


@lean
def _write(
    pairs: Ints,
    floor: PerfectTile,
    array: ArrayTile,
    inside: Inside,
    tables: Tables,
    at: Ints,
    row: MappingBatch,
) -> None:
    """The first row of a batch becomes the mapping."""
    for d in range(NUM_DIMS):
        row.cores[0, d], row.spm[0, d] = floor.cores[d], floor.spm[d]
        row.rows[0, d], row.cols[0, d] = pairs[array.unrolling, 0, d], pairs[array.unrolling, 1, d]
        row.rf[0, d] = array.array[d] // (row.rows[0, d] * row.cols[0, d])
        row.dram_order[0, d] = tables.order[at[TABLE], d]
        row.spm_order[0, d] = inside.order[d]
    row.spm_double[0], row.rf_double[0] = tables.double[at[TABLE]], at[DOUBLE]
    row.spill[0] = False
