"""Floors under one SPM tile with one array tile, by the operand that the innermost SPM loop leaves in place.

Bounds ``_sum_slots`` of ``cost_model.analytical.passes`` by sums over steps, and what ``energy`` counts for the RFs.
"""

from __future__ import annotations

import math

import numpy as np

from tvm_spm.exact.any_factors.arrays import (
    irrelevant_product,
    rf_prices,
    spanned,
    spanned_whole,
)
from tvm_spm.exact.any_factors.floors import ANY_CYCLES, SLACK, Floor
from tvm_spm.exact.any_factors.pair import (
    DRAM_PJ,
    FIRSTS,
    FULL_PJ,
    KEPT_LOADS,
    KEPT_TILES,
    LOADS,
    MAY_RETURN,
    MOST_LOAD,
    MOST_TIME,
    NUM_PASSES,
    ONCE_ELEMS,
    ONCE_PJ,
    PASS_LAST_TIME,
    PASS_TIME,
    PIECE_PJ,
    READS,
    STEP_PJ,
    Pair,
    Steps,
)
from tvm_spm.exact.any_factors.ports import across, crossing_rate, is_shared, tile_cycles
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
from tvm_spm.exact.case_arrays import NONE, SINGLE_STEP, CaseArrays, Ints, O, objective_of
from tvm_spm.jit import lean
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.space.tensors import tile_elems


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
            pair.all.cuts[field, d] = row[field]
        tiles, array = tables.tiles[d, floor.at[d]], pes[d] * pair.rf[d]
        pair.all.passes[d], pair.tiles[d] = tiles[PASSES], tiles[ALL_TILES]
        pair.end[d] = tables.share[d] - (tiles[PASSES] - 1) * floor.spm[d]
        pair.loops[d] = -(-floor.spm[d] // array)
        pair.array[d] = min(array, floor.spm[d])
    return True


@lean
def measure_energy(case: CaseArrays, tables: CoreTables, reduction_pes: int, pair: Pair) -> None:
    """Energy of all that the pair may move."""
    arch, cuts = case.arch, pair.all.cuts
    for operand in range(3):
        elem_pj, delivery_pj = rf_prices(case, operand)
        elems = spanned_whole(case, tables, operand, cuts[ALL_STEPS], cuts[ALL_STEPS])
        repeats = irrelevant_product(case, operand, cuts[ALL_STEPS])
        repeats_dram = irrelevant_product(case, operand, pair.tiles)
        repeats_once = irrelevant_product(case, operand, tables.cores)
        numbers = pair.all.operands[:, operand]
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
        numbers[ONCE_ELEMS] = elems
        if tables.num_cores > 1:
            numbers[ONCE_ELEMS] = spanned(case, tables, operand, tables.share, cuts[STEPS], cuts[STEPS])


@lean
def measure_passes(case: CaseArrays, tables: CoreTables, hops: int, pair: Pair) -> None:
    """Time of all passes of the first core, after their energy."""
    _measure_steps(case, tables, hops, pair, pair.all)


@lean
def measure_last(case: CaseArrays, tables: CoreTables, hops: int, pair: Pair) -> None:
    """Time of the last pass of the first core."""
    cuts = pair.last.cuts
    for d in range(NUM_DIMS):
        full, rest = pair.end[d] // pair.array[d], pair.end[d] % pair.array[d]
        cuts[STEPS, d], cuts[FULL_STEPS, d] = full + (1 if rest > 0 else 0), full
        cuts[FIRST, d] = min(pair.array[d], pair.end[d])
        cuts[LAST, d] = rest if rest > 0 else pair.array[d]
        cuts[LAST_TIME, d] = min(pair.rf[d], cuts[LAST, d])
        cuts[TIME, d] = full * pair.rf[d] + min(pair.rf[d], rest)
    for operand in range(3):
        once = spanned(case, tables, operand, pair.end, cuts[STEPS], cuts[STEPS])
        pair.last.operands[ONCE_ELEMS, operand] = once
    _measure_steps(case, tables, hops, pair, pair.last)


@lean
def _measure_steps(case: CaseArrays, tables: CoreTables, hops: int, pair: Pair, steps: Steps) -> None:
    """Time of all that moves in some passes."""
    workload, arch, cuts, times = case.workload, case.arch, steps.cuts, steps.times
    num_steps, full_steps, accumulates = 1.0, 1.0, False
    times[:], times[MAY_RETURN] = 1.0, 0.0
    for d in range(NUM_DIMS):
        times[NUM_PASSES] *= steps.passes[d]
        times[PASS_TIME] *= cuts[TIME, d]
        times[PASS_LAST_TIME] *= cuts[LAST_TIME, d]
        times[MOST_TIME] *= min(pair.rf[d], pair.array[d])
        num_steps *= cuts[STEPS, d]
        full_steps *= cuts[FULL_STEPS, d]
        if workload.is_reduction[d] and steps.passes[d] > 1:
            accumulates = True
        if pair.loops[d] > 1 and not workload.is_reduction[d] and pair.end[d] <= pair.array[d]:
            times[MAY_RETURN] = 1.0
    for operand in range(3):
        rate = crossing_rate(case, operand)
        numbers = steps.operands[:, operand]
        once = numbers[ONCE_ELEMS]
        own = once * irrelevant_product(case, operand, cuts[STEPS])
        passes = irrelevant_product(case, operand, steps.passes)
        kept_tiles = passes
        for d in range(NUM_DIMS):
            if workload.is_relevant[operand, d]:
                kept_tiles *= cuts[STEPS, d]
        numbers[KEPT_TILES], numbers[KEPT_LOADS] = kept_tiles, once * passes / rate
        largest = tile_elems(workload, operand, pair.array)
        edges = FIRST if operand != O else LAST
        ends = spanned(case, tables, operand, cuts[edges], steps.passes, steps.passes)
        ends *= passes
        numbers[MOST_LOAD] = tile_cycles(case, operand, largest)
        numbers[LOADS] = own / rate + full_steps * (numbers[MOST_LOAD] - largest / rate)
        numbers[FIRSTS] = ends / rate
        reads = own - once
        if operand == O and accumulates:
            # what comes in before a pass is not among its steps
            reads -= spanned(case, tables, O, cuts[FIRST], steps.passes, steps.passes) * irrelevant_product(
                case, O, steps.passes
            )
        numbers[READS] = max(0.0, reads) / rate
        if operand == O:
            # a port with a limit may be busy while the pipelines get empty
            late = hops if is_shared(case) else hops + arch.mac_stages - 1
            numbers[MOST_LOAD] += hops + arch.mac_stages - 1
            numbers[LOADS] += num_steps * late
            numbers[KEPT_LOADS] += kept_tiles * late
            numbers[FIRSTS] += times[NUM_PASSES] * late


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
    if not _is_possible(case, pair, kept):
        return np.inf
    is_resident = _is_resident(case, pair, kept)
    for double in range(8):
        pair.cycles[kept, double], pair.last_cycles[kept, double] = np.inf, 0.0
        if fitting >> double & 1:
            pair.cycles[kept, double] = _passes_cycles(case, pair.all, kept, double, is_resident)
    return _bound_class(case, floor, pair, kept, is_resident)


@lean
def _is_possible(case: CaseArrays, pair: Pair, kept: int) -> bool:
    """Whether the innermost SPM loop may leave an operand in place."""
    is_possible = kept == SINGLE_STEP
    for d in range(NUM_DIMS):
        if pair.loops[d] > 1 and case.kind[d] == kept:
            is_possible = True
    return is_possible and (kept == SINGLE_STEP) == is_single_step(pair)


@lean
def bound_energy(case: CaseArrays, floor: Floor, pair: Pair, kept: int) -> float:
    """As ``bound_pair``, with no more known than energies: passes take as long as the PEs multiply."""
    if not _is_possible(case, pair, kept):
        return np.inf
    is_resident, bound = _is_resident(case, pair, kept), np.inf
    cycles = floor.num_passes * (case.arch.mac_stages - 1.0)
    product = 1.0
    for d in range(NUM_DIMS):
        product *= pair.all.cuts[TIME, d]
    for keeps in range(2):
        all_cycles = max(float(floor.dma[keeps]), floor.once[keeps] + product + cycles)
        bound = min(bound, objective_of(case, _class_pj(floor, pair, keeps, kept, is_resident), all_cycles))
    return bound


@lean
def _class_pj(floor: Floor, pair: Pair, keeps: int, kept: int, is_resident: bool) -> float:
    """A floor under the energy of a class of mappings."""
    energy_pj = floor.energy_pj[keeps]
    for operand in range(3):
        energy_pj += pair.all.operands[_moves(floor, keeps, kept, is_resident, operand), operand]
    return energy_pj


@lean
def has_last(floor: Floor) -> bool:
    """Whether the last pass of a pair is worth a look."""
    return floor.before < ANY_CYCLES and floor.num_passes > 1


@lean
def bound_last(case: CaseArrays, floor: Floor, pair: Pair, fitting: int, kept: int) -> float:
    """As ``bound_pair``, which comes first, with regard to the last pass, beside which nothing is loaded."""
    is_resident = _is_resident(case, pair, kept)
    for double in range(8):
        if fitting >> double & 1:
            pair.last_cycles[kept, double] = _passes_cycles(case, pair.last, kept, double, is_resident)
    return _bound_class(case, floor, pair, kept, is_resident)


@lean
def _is_resident(case: CaseArrays, pair: Pair, kept: int) -> bool:
    """Whether an operand stays in place in all SPM loops."""
    for d in range(NUM_DIMS):
        if pair.loops[d] > 1 and case.kind[d] != kept:
            return False
    return kept != NONE


@lean
def _bound_class(case: CaseArrays, floor: Floor, pair: Pair, kept: int, is_resident: bool) -> float:
    """A floor under the objective of a class, given its cycles by buffers."""
    bound = np.inf
    for keeps in range(2):
        energy_pj, least = _class_pj(floor, pair, keeps, kept, is_resident), np.inf
        for double in range(8):
            if pair.cycles[kept, double] < np.inf:
                own = whole_cycles(floor.once[keeps], pair.cycles[kept, double])
                late = whole_cycles(0, pair.last_cycles[kept, double]) - floor.before
                least = min(least, max(own, floor.dma[keeps] + max(0.0, late - floor.late)))
        bound = min(bound, objective_of(case, energy_pj, least))
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
def _passes_cycles(case: CaseArrays, steps: Steps, kept: int, double: int, is_resident: bool) -> float:
    """A floor under the cycles of some passes of the first core, with these RF buffers.

    In a pass the sum of maxima over its steps is at least the maximum of sums. What is summed of an operand leaves out
    the first tile of each pass, which comes in before it, and the last outputs, which leave behind it.
    """
    times, operands = steps.times, steps.operands
    stages = times[NUM_PASSES] * (case.arch.mac_stages - 1.0)
    if kept == SINGLE_STEP:
        return times[PASS_TIME] + stages
    one_by_one = is_shared(case)
    # rounding up each of these adds less than a cycle
    is_whole = case.arch.noc_elems_per_cycle == 1.0 and not one_by_one
    rounding = 0.0 if is_whole else times[NUM_PASSES]
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
        total += max(0.0, moved - (operands[KEPT_TILES, kept] - times[NUM_PASSES]) * most)
    return total
