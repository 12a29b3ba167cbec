"""Pairs SPM tiles with array tiles, and lists the mappings of those pairs that the bounds leave."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tvm_spm.exact.any_factors.array_list import Unrollings
from tvm_spm.exact.any_factors.arrays import allowed_buffers, fitting_buffers
from tvm_spm.exact.any_factors.floors import Floor, behind_passes, dma_limit
from tvm_spm.exact.any_factors.pair import Pair, make_pair
from tvm_spm.exact.any_factors.pair_order import PairOrder, dram_repeats, order_pj
from tvm_spm.exact.any_factors.pairs import (
    bound_energy,
    bound_last,
    bound_pair,
    has_last,
    is_single_step,
    measure_energy,
    measure_last,
    measure_passes,
    set_pair,
    whole_cycles,
)
from tvm_spm.exact.any_factors.tables import TIME, CoreTables
from tvm_spm.exact.case_arrays import (
    ALL_DOUBLE,
    NONE,
    SINGLE_STEP,
    CaseArrays,
    Floats,
    I,
    Ints,
    O,
    W,
    objective_of,
)
from tvm_spm.exact.orders import is_maximal, is_ordered, next_order
from tvm_spm.jit import entry, kernel, lean
from tvm_spm.objective import ENERGY
from tvm_spm.space.mapping_batch import NO_DIM, NUM_DIMS, MappingBatch

CANDIDATE_FIELDS = np.dtype(
    [("floor", np.int64), ("pes", np.int64), ("rf", np.int32, NUM_DIMS), ("kept", np.int64), ("bound", np.float64)]
)
"""An SPM tile, PEs, an RF tile, and the operand that the innermost SPM loop leaves in place."""


class Chosen(NamedTuple):
    """Rows and columns, the operand that the innermost SPM loop leaves in place, and what a mapping must be below."""

    factors: Ints
    kept: int
    limit: float


class Rows(NamedTuple):
    """Rows of a batch, and how many are in use: one number, as an array."""

    batch: MappingBatch
    num: Ints


@lean
def _quick_bound(case: CaseArrays, floor: Floor, moved_pj: float, cycles: float) -> float:
    """A floor from the least traffic of the RFs and the least cycles of all passes."""
    bound = np.inf
    for keeps in range(2):
        all_cycles = max(float(floor.dma[keeps]), floor.once[keeps] + max(cycles, float(floor.cross[keeps])))
        bound = min(bound, objective_of(case, floor.energy_pj[keeps] + moved_pj, all_cycles))
    return bound


@lean
def _may_be_better(
    case: CaseArrays, floor: Floor, class_pj: Floats, class_cycles: Floats, least_cycles: float, limit: float
) -> bool:
    """Whether any class of mappings of an array tile may be below a limit."""
    for kept in range(NONE + 1):
        if _quick_bound(case, floor, class_pj[kept], max(class_cycles[kept], least_cycles)) < limit:
            return True
    return False


@entry
def join(
    case: CaseArrays,
    tables: CoreTables,
    unrollings: Unrollings,
    floors: NDArray[np.void],
    arrays: NDArray[np.void],
    least: Floats,
    limit: float,
    found: NDArray[np.void],
) -> tuple[int, int]:
    """Fill ``found`` with all classes of mappings below some SPM tiles with a bound below a limit.

    Args:
        case: What is searched.
        tables: For the factors across cores.
        unrollings: Those of the array tiles.
        floors: The SPM tiles.
        arrays: Array tiles, best bound first.
        least: ``class_pj`` and ``class_cycles``, the least of all array tiles.
        limit: Objective of a known mapping.
        found: Filled.

    Returns:
        (how many, pairs of tiles judged), or -1 for the first if there is no room.
    """
    num, num_bounded, pair = 0, 0, make_pair()
    for index in range(len(floors)):
        floor = floors[index]
        if floor.bound >= limit:
            continue
        # passes of a single step: the SPM tile tells the array tile
        for unrolling in range(len(unrollings.hops)):
            if not _may_be_single(case, tables, floor, unrollings.pes[unrolling], limit, pair):
                continue
            fitting = allowed_buffers(case, fitting_buffers(case, pair.rf))
            if fitting == 0 or not set_pair(tables, floor, unrollings.pes[unrolling], pair):
                continue
            measure_energy(case, tables, unrollings.reduction_pes[unrolling], pair)
            added = _note_classes(case, tables, floor, pair, (unrollings.hops[unrolling], fitting), limit, found[num:])
            if added < 0:
                return -1, num_bounded
            for place in range(num, num + added):
                found[place].floor, found[place].pes = index, unrolling
            num += added
        if not _may_be_better(case, floor, least[0], least[1], 0.0, limit):
            continue
        for row in range(len(arrays)):
            array = arrays[row]
            if array.bound >= limit:
                break
            num_bounded += 1
            if not _may_be_better(case, floor, array.class_pj, array.class_cycles, 0.0, limit):
                continue
            for d in range(NUM_DIMS):
                pair.rf[d] = array.rf[d]
            unrolling = array.pes
            if not set_pair(tables, floor, unrollings.pes[unrolling], pair) or is_single_step(pair):
                continue
            time = floor.num_passes * (case.arch.mac_stages - 1)
            product = 1
            for d in range(NUM_DIMS):
                product *= pair.all.cuts[TIME, d]
            if not _may_be_better(case, floor, array.class_pj, array.class_cycles, float(product + time), limit):
                continue
            measure_energy(case, tables, unrollings.reduction_pes[unrolling], pair)
            added = _note_classes(
                case, tables, floor, pair, (unrollings.hops[unrolling], array.fitting), limit, found[num:]
            )
            if added < 0:
                return -1, num_bounded
            for place in range(num, num + added):
                found[place].floor, found[place].pes = index, unrolling
            num += added
    return num, num_bounded


@lean
def _may_be_single(case: CaseArrays, tables: CoreTables, floor: Floor, pes: Ints, limit: float, pair: Pair) -> bool:
    """Whether passes of a single step may be below a limit; sets the RF tile of that step."""
    time = 1
    for d in range(NUM_DIMS):
        if tables.cut_start[d, floor.at[d], pes[d]] < 0:
            return False
        time *= tables.least_time[d, floor.at[d], pes[d]]
        pair.rf[d] = -(-floor.spm[d] // pes[d])
    stages = floor.num_passes * (case.arch.mac_stages - 1)
    return time > 0 and _quick_bound(case, floor, 0.0, float(time + stages)) < limit


@lean
def _note_classes(
    case: CaseArrays, tables: CoreTables, floor: Floor, pair: Pair, pes: tuple[int, int], limit: float,
    found: NDArray[np.void],
) -> int:  # fmt: skip
    """Fill ``found`` with the classes of a pair that have a bound below a limit; how many, -1 if there is no room.

    Args:
        case: What is searched.
        tables: For the factors across cores.
        floor: The SPM tile.
        pair: It, with the array tile.
        pes: Hops of the reduction network, and RF buffers that fit.
        limit: See above.
        found: Filled.
    """
    num, (hops, fitting), num_measured = 0, pes, 0
    for kept in range(SINGLE_STEP + 1):
        if bound_energy(case, floor, pair, kept) >= limit:
            continue
        if num_measured == 0:
            measure_passes(case, tables, hops, pair)
            num_measured = 1
        bound = bound_pair(case, floor, pair, fitting, kept)
        if bound < limit and has_last(floor):
            if num_measured == 1:
                measure_last(case, tables, hops, pair)
                num_measured = 2
            bound = bound_last(case, floor, pair, fitting, kept)
        if bound < limit:
            if num == len(found):
                return -1
            candidate = found[num]
            candidate.kept, candidate.bound = kept, bound
            for d in range(NUM_DIMS):
                candidate.rf[d] = pair.rf[d]
            num += 1
    return num


@entry
def list_mappings(
    case: CaseArrays,
    tables: CoreTables,
    unrollings: Unrollings,
    floors: NDArray[np.void],
    candidates: NDArray[np.void],
    limit: float,
    batch: MappingBatch,
) -> tuple[int, int]:
    """Fill a batch with the mappings of candidates, in their order, that have a bound below a limit.

    Args:
        case: What is searched.
        tables: For the factors across cores.
        unrollings: Over PEs.
        floors: SPM tiles.
        candidates: In order of their bounds.
        limit: See above.
        batch: Filled with all mappings of a candidate, or none.

    Returns:
        (rows filled, candidates done).
    """
    rows, pair, num = Rows(batch, np.zeros(1, dtype=np.int64)), make_pair(), 0
    for index in range(len(candidates)):
        candidate = candidates[index]
        if candidate.bound >= limit:
            return num, len(candidates)
        floor, kept, unrolling = floors[candidate.floor], candidate.kept, candidate.pes
        for d in range(NUM_DIMS):
            pair.rf[d] = candidate.rf[d]
        set_pair(tables, floor, unrollings.pes[unrolling], pair)
        measure_energy(case, tables, unrollings.reduction_pes[unrolling], pair)
        measure_passes(case, tables, unrollings.hops[unrolling], pair)
        fitting = allowed_buffers(case, fitting_buffers(case, pair.rf))
        bound_pair(case, floor, pair, fitting, kept)
        if has_last(floor):
            measure_last(case, tables, unrollings.hops[unrolling], pair)
            bound_last(case, floor, pair, fitting, kept)
        if not _list_pair(case, tables, floor, pair, Chosen(unrollings.factors[unrolling], kept, limit), rows):
            return num, index
        num = rows.num[0]
    return num, len(candidates)


@kernel
def _list_pair(case: CaseArrays, tables: CoreTables, floor: Floor, pair: Pair, chosen: Chosen, rows: Rows) -> bool:
    """Append the mappings of one pair; False if there is no room."""
    outer, inner = np.empty(NUM_DIMS, dtype=np.int64), np.empty(NUM_DIMS, dtype=np.int64)
    num_outputs = num_outer = num_inner = 0
    for is_reduction in range(2):
        for d in range(NUM_DIMS):
            if pair.all.passes[d] > 1 and case.workload.is_reduction[d] == (is_reduction == 1):
                outer[num_outer] = d
                num_outer += 1
        if is_reduction == 0:
            num_outputs = num_outer
    for d in range(NUM_DIMS):
        if pair.loops[d] > 1:
            inner[num_inner] = d
            num_inner += 1
    loops = PairOrder(outer[:num_outer], inner[:num_inner])
    while True:
        is_wanted = is_ordered(case.outside[0], outer, num_outer)
        while is_wanted:
            is_kept = chosen.kept == SINGLE_STEP or case.kind[inner[num_inner - 1]] == chosen.kept
            if is_kept and is_ordered(case.outside[1], inner, num_inner):
                if not _list_order(case, tables, floor, pair, chosen, loops, rows):
                    return False
            if not next_order(inner, 0, num_inner):
                break
        if not next_order(outer, num_outputs, num_outer) and not next_order(outer, 0, num_outputs):
            return True


@lean
def _list_order(
    case: CaseArrays, tables: CoreTables, floor: Floor, pair: Pair, chosen: Chosen, loops: PairOrder, rows: Rows
) -> bool:
    """Append the mappings with these loop orders, all bufferings; False if there is no room."""
    repeats = dram_repeats(case, tables, floor, loops, I), dram_repeats(case, tables, floor, loops, W)
    energy_pj, dma = case.constant_pj + floor.elems_pj[O], floor.elem_cycles[O]
    for operand in range(2):
        energy_pj += repeats[operand] * floor.elems_pj[operand]
        dma += repeats[operand] * floor.elem_cycles[operand]
    for operand in range(3):
        energy_pj += order_pj(case, tables, pair, loops, operand)
    least_cycles = dma_limit(case, tables, floor, dma)
    for spm_double in range(8):
        if floor.fitting >> spm_double & 1 == 0:
            continue
        if tables.num_cores == 1 and case.objective != ENERGY and not is_maximal(floor.fitting, spm_double):
            continue
        behind = behind_passes(floor, repeats, spm_double) if tables.num_cores == 1 else 0.0
        before = floor.before if spm_double >> O & 1 else 0
        for double in range(ALL_DOUBLE, -1, -1):
            if pair.cycles[chosen.kept, double] == np.inf:
                continue
            own = whole_cycles(floor.around, pair.cycles[chosen.kept, double] + behind)
            late = whole_cycles(0, pair.last_cycles[chosen.kept, double]) - before
            if objective_of(case, energy_pj, max(own, least_cycles + max(float(floor.late), late))) >= chosen.limit:
                continue
            if rows.num[0] == len(rows.batch.spill):
                return False
            _write(tables, floor, pair, chosen, loops, rows)
            rows.batch.spm_double[rows.num[0]], rows.batch.rf_double[rows.num[0]] = spm_double, double
            rows.num[0] += 1
        if case.objective == ENERGY:
            break
    return True


@lean
def _write(tables: CoreTables, floor: Floor, pair: Pair, chosen: Chosen, loops: PairOrder, rows: Rows) -> None:
    """The next row becomes the mapping, but for its buffers."""
    batch, num = rows.batch, rows.num[0]
    batch.spill[num] = False
    for d in range(NUM_DIMS):
        batch.cores[num, d], batch.spm[num, d], batch.rf[num, d] = tables.cores[d], floor.spm[d], pair.rf[d]
        batch.rows[num, d], batch.cols[num, d] = chosen.factors[0, d], chosen.factors[1, d]
        batch.dram_order[num, d] = loops.outer[d] if d < len(loops.outer) else NO_DIM
        batch.spm_order[num, d] = loops.inner[d] if d < len(loops.inner) else NO_DIM
