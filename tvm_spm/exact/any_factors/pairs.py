"""Floors under one SPM tile with one array tile, by the operand that the innermost SPM loop leaves in place.

Bounds ``_sum_slots`` of ``cost_model.analytical.passes`` by sums over steps, and what ``energy`` counts for the RFs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tvm_spm.exact.any_factors.arrays import (
    across,
    crossing_rate,
    irrelevant_product,
    is_shared,
    rf_prices,
    spanned,
    spanned_whole,
    tile_cycles,
)
from tvm_spm.exact.any_factors.floors import SLACK, Floor
from tvm_spm.exact.any_factors.tables import (
    ALL_STEPS,
    ALL_TILES,
    CUT_FIELDS,
    FIRST,
    FULL_STEPS,
    LAST,
    LAST_TIME,
    PASSES,
    PIECES,
    PIECES_DRAM,
    PIECES_ONCE,
    STEPS,
    TIME,
    CoreTables,
)
from tvm_spm.exact.case_arrays import NONE, SINGLE_STEP, CaseArrays, Floats, Ints, O, objective_of
from tvm_spm.jit import kernel, lean
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.space.tensors import tile_elems

(
    FULL_PJ,
    DRAM_PJ,
    ONCE_PJ,
    LOADS,
    FIRSTS,
    READS,
    MOST_LOAD,
    STEP_PJ,
    PIECE_PJ,
    KEPT_LOADS,
    KEPT_TILES,
    PAIR_FIELDS,
) = range(12)
"""Per operand: energy if it moves with every step, once per SPM tile, once per core; cycles of all its tiles (outputs:
leaving), of the first of each pass (outputs: the last), of partial sums read back; of the largest tile; energy per
step, and per piece of a PE (outputs: what the first entry of each tile saves); cycles of all tiles, and tiles, if each
moves once per pass."""

PASS_TIME, PASS_LAST_TIME, MOST_TIME, MAY_RETURN = range(4)


class Pair(NamedTuple):
    """Scratch: one SPM tile with one array tile.

    Attributes:
        cuts: ``(CUT_FIELDS, 8)``, see ``CoreTables.cuts``.
        passes: SPM tiles of the first core per dim.
        tiles: SPM tiles of all cores per dim.
        loops: Iterations of the SPM loops in a full tile per dim.
        array: Elements of a full array tile, none beyond the SPM tile.
        rf: Elements of a PE.
        operands: ``(PAIR_FIELDS, 3)``.
        times: Cycles of the first core: all steps, the last steps of all passes, the longest step. Then 1 if sums may
            leave and be the next ones too, as a smaller last SPM tile is but one array tile along a dim.
        cycles: ``(5, 8)`` by the operand that stays and by buffers: a floor under all passes of the first core.
    """

    cuts: Ints
    passes: Ints
    tiles: Ints
    loops: Ints
    array: Ints
    rf: Ints
    operands: Floats
    times: Floats
    cycles: Floats


@kernel
def make_pair() -> Pair:
    """Scratch for one pair."""
    ints, floats = np.ones((CUT_FIELDS + 5, NUM_DIMS), dtype=np.int64), np.zeros((SINGLE_STEP + 2, 8), dtype=np.float64)
    return Pair(
        ints[:CUT_FIELDS], ints[CUT_FIELDS], ints[CUT_FIELDS + 1], ints[CUT_FIELDS + 2], ints[CUT_FIELDS + 3],
        ints[CUT_FIELDS + 4], np.zeros((PAIR_FIELDS, 3), dtype=np.float64), floats[SINGLE_STEP + 1],
        floats[: SINGLE_STEP + 1],
    )  # fmt: skip


@lean
def set_pair(tables: CoreTables, floor: Floor, pes: Ints, pair: Pair) -> bool:
    """Look the counts of a pair up, ``pair.rf`` given; False if an RF tile is not balanced in this SPM tile."""
    for d in range(NUM_DIMS):
        start = tables.cut_start[d, floor.at[d], pes[d]]
        if start < 0 or pair.rf[d] > -(-floor.spm[d] // pes[d]) or tables.cuts[start + pair.rf[d] - 1, TIME] == 0:
            return False
    for d in range(NUM_DIMS):
        row = tables.cuts[tables.cut_start[d, floor.at[d], pes[d]] + pair.rf[d] - 1]
        for field in range(CUT_FIELDS):
            pair.cuts[field, d] = row[field]
        tiles, array = tables.tiles[d, floor.at[d]], pes[d] * pair.rf[d]
        pair.passes[d], pair.tiles[d] = tiles[PASSES], tiles[ALL_TILES]
        pair.loops[d] = -(-floor.spm[d] // array)
        pair.array[d] = min(array, floor.spm[d])
    return True


@lean
def measure_pair(case: CaseArrays, tables: CoreTables, floor: Floor, hops: int, reduction_pes: int, pair: Pair) -> None:
    """Energy and time of all that the pair may move."""
    workload, arch, cuts = case.workload, case.arch, pair.cuts
    time, last_time, steps, full_steps, most = 1.0, 1.0, 1.0, 1.0, 1.0
    accumulates = False
    for d in range(NUM_DIMS):
        time *= cuts[TIME, d]
        last_time *= cuts[LAST_TIME, d]
        steps *= cuts[STEPS, d]
        full_steps *= cuts[FULL_STEPS, d]
        most *= min(pair.rf[d], pair.array[d])
        if workload.is_reduction[d] and pair.passes[d] > 1:
            accumulates = True
    pair.times[PASS_TIME], pair.times[PASS_LAST_TIME] = time, last_time
    pair.times[MOST_TIME], pair.times[MAY_RETURN] = most, 0.0
    for d in range(NUM_DIMS):
        if pair.loops[d] > 1 and not workload.is_reduction[d] and 0 < tables.share[d] % floor.spm[d] <= pair.array[d]:
            pair.times[MAY_RETURN] = 1.0
    for operand in range(3):
        rate = crossing_rate(case, operand)
        elem_pj, delivery_pj = rf_prices(case, operand)
        elems = spanned_whole(case, tables, operand, cuts[ALL_STEPS], cuts[ALL_STEPS])
        repeats = irrelevant_product(case, operand, cuts[ALL_STEPS])
        repeats_dram = irrelevant_product(case, operand, pair.tiles)
        repeats_once = irrelevant_product(case, operand, tables.cores)
        numbers = pair.operands[:, operand]
        if operand == O:
            price = elem_pj + delivery_pj
            hop_pj = case.words[O] * (reduction_pes - 1) * arch.noc_reduction_hop_pj
            numbers[STEP_PJ], numbers[PIECE_PJ] = elems * (2 * price + hop_pj), elems * price
            numbers[FULL_PJ] = repeats * numbers[STEP_PJ] - numbers[PIECE_PJ]
            numbers[DRAM_PJ] = repeats_dram * numbers[STEP_PJ] - numbers[PIECE_PJ]
            numbers[ONCE_PJ] = repeats_once * numbers[STEP_PJ] - numbers[PIECE_PJ]
        else:
            pieces = spanned_whole(case, tables, operand, cuts[PIECES], cuts[PIECES])
            step, piece = elem_pj * elems, delivery_pj * pieces
            numbers[STEP_PJ], numbers[PIECE_PJ] = step, piece
            numbers[FULL_PJ] = step * repeats + piece * irrelevant_product(case, operand, cuts[PIECES])
            numbers[DRAM_PJ] = step * repeats_dram + piece * irrelevant_product(case, operand, cuts[PIECES_DRAM])
            numbers[ONCE_PJ] = step * repeats_once + piece * irrelevant_product(case, operand, cuts[PIECES_ONCE])
        if tables.num_cores == 1:
            once, own = elems, elems * repeats
        else:
            once = spanned(case, tables, operand, tables.share, cuts[STEPS], cuts[STEPS])
            own = once * irrelevant_product(case, operand, cuts[STEPS])
        passes = irrelevant_product(case, operand, pair.passes)
        kept_tiles = passes
        for d in range(NUM_DIMS):
            if workload.is_relevant[operand, d]:
                kept_tiles *= cuts[STEPS, d]
        numbers[KEPT_TILES], numbers[KEPT_LOADS] = kept_tiles, once * passes / rate
        largest = tile_elems(workload, operand, pair.array)
        edges = FIRST if operand != O else LAST
        ends = spanned(case, tables, operand, cuts[edges], pair.passes, pair.passes)
        ends *= passes
        numbers[MOST_LOAD] = tile_cycles(case, operand, largest)
        numbers[LOADS] = own / rate + full_steps * (numbers[MOST_LOAD] - largest / rate)
        numbers[FIRSTS] = ends / rate
        reads = own - once
        if operand == O and accumulates:
            # what comes in before a pass is not among its steps
            reads -= spanned(case, tables, O, cuts[FIRST], pair.passes, pair.passes) * irrelevant_product(
                case, O, pair.passes
            )
        numbers[READS] = max(0.0, reads) / rate
        if operand == O:
            # a port with a limit may be busy while the pipelines get empty
            late = hops if is_shared(case) else hops + arch.mac_stages - 1
            numbers[MOST_LOAD] += hops + arch.mac_stages - 1
            numbers[LOADS] += steps * late
            numbers[KEPT_LOADS] += kept_tiles * late
            numbers[FIRSTS] += floor.num_passes * late


@lean
def is_single_step(pair: Pair) -> bool:
    """Whether all passes are a single step."""
    for d in range(NUM_DIMS):
        if pair.loops[d] > 1:
            return False
    return True


@lean
def bound_pair(case: CaseArrays, floor: Floor, pair: Pair, fitting: int, kept: int) -> float:
    """A floor under the objective of all mappings whose innermost SPM loop leaves operand ``kept``; sets its cycles.

    Infinite if there are none.
    """
    is_resident, is_possible = kept != NONE, kept == SINGLE_STEP
    for d in range(NUM_DIMS):
        if pair.loops[d] > 1:
            if case.kind[d] == kept:
                is_possible = True
            else:
                is_resident = False
    if not is_possible or (kept == SINGLE_STEP) != is_single_step(pair):
        return np.inf
    least = np.inf
    for double in range(8):
        pair.cycles[kept, double] = np.inf
        if fitting >> double & 1:
            cycles = _passes_cycles(case, floor, pair, kept, double, is_resident)
            pair.cycles[kept, double] = cycles
            least = min(least, cycles)
    bound = np.inf
    for keeps in range(2):
        energy_pj = floor.energy_pj[keeps]
        for operand in range(3):
            energy_pj += pair.operands[_moves(floor, keeps, kept, is_resident, operand), operand]
        cycles = max(float(floor.dma[keeps]), whole_cycles(floor.once, least))
        bound = min(bound, objective_of(case, energy_pj, cycles))
    return bound


@lean
def whole_cycles(once: int, cycles: float) -> float:
    """Cycles from the launch on."""
    return once + math.ceil(cycles * (1.0 - 1e-12) - SLACK)


@lean
def _moves(floor: Floor, keeps: int, kept: int, is_resident: bool, operand: int) -> int:
    """How often an operand moves at least, as the index of an energy."""
    if kept != SINGLE_STEP and operand != kept:
        return FULL_PJ
    if kept != SINGLE_STEP and not is_resident:
        return DRAM_PJ
    if operand == O or floor.stays[keeps, operand] == 1:
        return ONCE_PJ
    return DRAM_PJ


@lean
def _passes_cycles(case: CaseArrays, floor: Floor, pair: Pair, kept: int, double: int, is_resident: bool) -> float:
    """A floor under the cycles of all passes of the first core, with these RF buffers.

    In a pass the sum of maxima over its steps is at least the maximum of sums. What is summed of an operand leaves out
    the first tile of each pass, which comes in before it, and the last outputs, which leave behind it.
    """
    times, operands = pair.times, pair.operands
    stages = floor.num_passes * (case.arch.mac_stages - 1.0)
    if kept == SINGLE_STEP:
        return times[PASS_TIME] + stages
    one_by_one = is_shared(case)
    # rounding up each of these adds less than a cycle
    is_whole = case.arch.noc_elems_per_cycle == 1.0 and not one_by_one
    rounding = 0.0 if is_whole else float(floor.num_passes)
    beside, last, turn, fill, slot, behind = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for operand in range(2):
        if operand == kept and is_resident:
            continue
        fill = across(one_by_one, fill, operands[FIRSTS, operand])
        if operand == kept:
            continue
        loads = max(0.0, operands[LOADS, operand] - operands[FIRSTS, operand] - rounding)
        if double >> operand & 1:
            beside, last = across(one_by_one, beside, loads), times[PASS_LAST_TIME]
            slot = across(one_by_one, slot, operands[MOST_LOAD, operand])
        else:
            turn = across(one_by_one, turn, loads)
            behind = across(one_by_one, behind, operands[MOST_LOAD, operand])
    # the last step of a pass has no loads beside it
    hidden, drain = max(times[PASS_TIME], beside + last), 0.0
    if kept != O or not is_resident:
        drain = operands[FIRSTS, O]
        if not one_by_one:
            # once a pass the pipelines are among the cycles of what leaves
            stages = 0.0
    if kept != O:
        leaves = max(0.0, operands[LOADS, O] - operands[FIRSTS, O] - rounding)
        if not double >> O & 1:
            turn = across(one_by_one, turn, leaves + operands[READS, O])
            behind = across(one_by_one, behind, 2 * operands[MOST_LOAD, O])
        elif one_by_one:
            hidden, slot = max(hidden, beside + leaves + operands[READS, O]), slot + 2 * operands[MOST_LOAD, O]
        else:
            # sums that come back right after they leave do so in the turn, beside what is loaded there
            hidden = max(hidden, leaves - times[MAY_RETURN] * turn)
            slot = max(slot, operands[MOST_LOAD, O])
    total = fill + drain + hidden + turn + stages
    if kept != NONE and not is_resident:
        # what stays for a while is swapped in a few slots, which last as long as that takes at least
        moved = max(0.0, operands[KEPT_LOADS, kept] - operands[FIRSTS, kept] - rounding)
        most = max(times[MOST_TIME], slot) + behind
        total += max(0.0, moved - (operands[KEPT_TILES, kept] - floor.num_passes) * most)
    return total


class PairOrder(NamedTuple):
    """Dims of the loops that iterate at DRAM and at SPM, outer to inner; those in use fill the arrays."""

    outer: Ints
    inner: Ints


@lean
def order_pj(case: CaseArrays, tables: CoreTables, pair: Pair, loops: PairOrder, operand: int) -> float:
    """Energy of all that moves of an operand between SPM and RF, with the loops in this order."""
    workload, position, num_outer = case.workload, -1, len(loops.outer)
    for loop in range(num_outer + len(loops.inner)):
        d = loops.outer[loop] if loop < num_outer else loops.inner[loop - num_outer]
        if workload.is_relevant[operand, d]:
            position = loop
    steps, pieces = 1.0, 1.0
    for d in range(NUM_DIMS):
        if workload.is_relevant[operand, d]:
            continue
        all_dram, all_spm = pair.passes[d] == 1, pair.loops[d] == 1
        for loop in range(position):
            if loop < num_outer and loops.outer[loop] == d:
                all_dram = True
            if loop >= num_outer and loops.inner[loop - num_outer] == d:
                all_spm = True
        if all_dram and all_spm:
            steps, pieces = steps * pair.cuts[ALL_STEPS, d], pieces * pair.cuts[PIECES, d]
        elif all_dram:
            steps, pieces = steps * pair.tiles[d], pieces * pair.cuts[PIECES_DRAM, d]
        else:
            steps, pieces = steps * tables.cores[d], pieces * pair.cuts[PIECES_ONCE, d]
    if operand == O:
        return pair.operands[STEP_PJ, O] * steps - pair.operands[PIECE_PJ, O]
    return pair.operands[STEP_PJ, operand] * steps + pair.operands[PIECE_PJ, operand] * pieces


@lean
def dram_repeats(case: CaseArrays, tables: CoreTables, floor: Floor, loops: PairOrder, operand: int) -> float:
    """How often each tile of an operand passes between DRAM and SPM."""
    workload, position, repeats = case.workload, -1, 1.0
    for loop in range(len(loops.outer)):
        if workload.is_relevant[operand, loops.outer[loop]]:
            position = loop
    for d in range(NUM_DIMS):
        if not workload.is_relevant[operand, d]:
            repeats *= tables.cores[d]
    for loop in range(position):
        d = loops.outer[loop]
        if not workload.is_relevant[operand, d]:
            # exact: the product over all such loops is a whole number
            repeats *= tables.tiles[d, floor.at[d], ALL_TILES] / tables.cores[d]
    return repeats
