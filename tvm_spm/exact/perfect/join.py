"""Pairs SPM tiles with array tiles, best bound first, and finishes the pairs that may hold a better mapping."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tvm_spm.exact.case_arrays import NONE, SINGLE_STEP, TOLERANCE, CaseArrays, I, Ints, O, W, objective_of
from tvm_spm.exact.perfect.array_tiles import ArrayTile
from tvm_spm.exact.perfect.finish import (
    CANDIDATE,
    DOUBLE,
    FLOOR,
    NUM,
    RANK,
    Best,
    PairPlace,
    Tables,
    finish,
    make_tables,
)
from tvm_spm.exact.perfect.pass_time import COMPUTE, least_pass_cycles
from tvm_spm.exact.perfect.spm_tiles import PerfectTile
from tvm_spm.jit import entry, lean
from tvm_spm.space.mapping_batch import NUM_DIMS

CANDIDATE_FIELDS = np.dtype([("bound", np.float64), ("array", np.int64), ("kept", np.int64), ("least_pass", np.int64)])
"""An array tile under an SPM tile, and the operand that the innermost SPM loop leaves in place."""


@entry
def bound_floors(case: CaseArrays, floors: NDArray[np.void], least_moved_pj: float, most_pes: int) -> None:
    """Set the bound of every SPM tile: no array tile moves less or multiplies faster than given."""
    for index in range(len(floors)):
        floor = floors[index]
        steps = case.workload.macs // (floor.num_cores * most_pes)
        cycles = max(steps, floor.num_passes) + floor.num_passes * (case.arch.mac_stages - 1)
        floor.bound = np.inf
        for keeps in range(2):
            all_cycles = max(floor.dma[keeps], floor.first_cycles + floor.last_cycles + cycles)
            objective = objective_of(case, floor.energy_pj[keeps] + least_moved_pj, all_cycles)
            floor.bound = min(floor.bound, objective)


@lean
def pair_bound(case: CaseArrays, floor: PerfectTile, array: ArrayTile, kept: int, limit: float) -> tuple[float, int]:
    """(bound, floor under the cycles of a pass) of a class of mappings; infinite if it is empty.

    The class has these two tiles, and an innermost SPM loop that leaves operand ``kept`` in place. A bound not below
    ``limit`` is not made any better.
    """
    num_steps, num_swaps, outer_kept, is_resident, is_possible = 1, 1, 1, kept != NONE, kept == SINGLE_STEP
    for d in range(NUM_DIMS):
        count = floor.spm[d] // array.array[d]
        num_steps *= count
        if case.kind[d] == kept:
            outer_kept *= case.workload.dims[d] // floor.spm[d]
            if count > 1:
                is_possible = True
        elif count > 1:
            is_resident = False
            num_swaps *= count
    if (kept == SINGLE_STEP) != (num_steps == 1) or not is_possible:
        return np.inf, 0
    once = floor.first_cycles + floor.last_cycles
    if kept == SINGLE_STEP:
        least_pass = array.step[COMPUTE] + case.arch.mac_stages - 1
    else:
        least_pass = num_steps * array.step[COMPUTE]
        if _bound(case, floor, array, kept, outer_kept, is_resident, once, least_pass) < limit:
            least_pass = least_pass_cycles(array.step, array.slot[kept], kept, num_steps, num_swaps, is_resident)
    return _bound(case, floor, array, kept, outer_kept, is_resident, once, least_pass), least_pass


@lean
def _bound(
    case: CaseArrays,
    floor: PerfectTile,
    array: ArrayTile,
    kept: int,
    outer_kept: int,
    is_resident: bool,
    once: int,
    least_pass: int,
) -> float:
    bound = np.inf
    for keeps in range(2):
        repeats_i, repeats_w = floor.repeats[keeps, I], floor.repeats[keeps, W]
        if kept == SINGLE_STEP:
            moved_pj = repeats_i * array.kept_pj[I] + repeats_w * array.kept_pj[W] + array.num_tiles[O] * array.out_pj
        elif kept == NONE:
            moved_pj = array.moved_pj[NONE]
        else:
            repeats = outer_kept
            if is_resident:
                # what stays in RF from pass to pass moves as often as it does between DRAM and SPM
                repeats = repeats_i if kept == I else repeats_w if kept == W else 1
            moved_pj = array.moved_pj[kept] + repeats * array.kept_pj[kept]
        cycles = max(floor.dma[keeps], once + floor.num_passes * least_pass)
        bound = min(bound, objective_of(case, floor.energy_pj[keeps] + moved_pj, cycles))
    return bound


@lean
def _list_candidates(
    case: CaseArrays, floor: PerfectTile, arrays: NDArray[np.void], limit: float, found: NDArray[np.void]
) -> int:
    """Classes of mappings under one SPM tile with a bound below ``limit``; arrays are in order of their bounds."""
    num = 0
    once = floor.first_cycles + floor.last_cycles
    for index in range(len(arrays)):
        array = arrays[index]
        if array.bound >= limit:
            break
        least = np.inf
        cycles = once + array.num_steps // floor.num_cores * array.step[COMPUTE]
        for keeps in range(2):
            energy_pj = floor.energy_pj[keeps] + array.least_pj
            least = min(least, objective_of(case, energy_pj, max(floor.dma[keeps], cycles)))
        if least >= limit:
            continue
        divides = True
        for d in range(NUM_DIMS):
            if floor.spm[d] % array.array[d] != 0:
                divides = False
                break
        if not divides:
            continue
        for kept in range(SINGLE_STEP + 1):
            bound, least_pass = pair_bound(case, floor, array, kept, limit)
            if bound < limit and num < len(found):
                found[num].bound, found[num].array = bound, index
                found[num].kept, found[num].least_pass = kept, least_pass
                num += 1
    return num


@lean
def _sink(found: NDArray[np.void], heap: Ints, place: int, size: int) -> None:
    """Restore a heap of candidates, least bound first and of equal ones the first found, whose ``place`` is new."""
    while True:
        least = place
        for child in range(2 * place + 1, min(2 * place + 3, size)):
            a, b = found[heap[child]].bound, found[heap[least]].bound
            if a < b or (a == b and heap[child] < heap[least]):
                least = child
        if least == place:
            return
        heap[place], heap[least] = heap[least], heap[place]
        place = least


@lean
def _is_filled(tables: Tables) -> bool:
    for row in range(len(tables.num)):
        if tables.num[row] < 0:
            return False
    return True


class PairRoom(NamedTuple):
    """Room for a search.

    Attributes:
        runs: For ``fill_table``.
        found: Candidates; room for all classes under one SPM tile.
        heap: As long as ``found``.
        place: Where to go on; starts as zeros, with -1 for the RF buffers.
    """

    runs: Ints
    found: NDArray[np.void]
    heap: Ints
    place: PairPlace


ENDED, PRICE, DONE = range(3)
"""Why ``join`` returns: no later SPM tile can be better; ``best.trial`` is to be priced; these SPM tiles are done."""


@entry
def join(
    case: CaseArrays,
    pairs: Ints,
    floors: NDArray[np.void],
    arrays: NDArray[np.void],
    most_candidates: int,
    scratch: PairRoom,
    best: Best,
) -> int:
    """Search SPM tiles that are in order of their bounds, up to a mapping that may be better.

    The formula that prices it is compiled on its own: pasted in here, it would be compiled twice.

    Args:
        case: What is searched.
        pairs: Rows and columns of each unrolling.
        floors: SPM tiles.
        arrays: Array tiles in order of their bounds.
        most_candidates: Finish only so many per SPM tile; the search is exhaustive only if it is not below the room
            in ``scratch.found``.
        scratch: Room, and where to go on.
        best: Updated but for its best mapping.

    Returns:
        ``ENDED``, ``PRICE`` or ``DONE``.
    """
    found, heap, at = scratch.found, scratch.heap, scratch.place.at
    for index in range(at[FLOOR], len(floors)):
        floor = floors[index]
        at[FLOOR] = index
        if at[DOUBLE] < 0:
            limit = best.objective[0] * (1.0 - TOLERANCE)
            if floor.bound >= limit:
                return ENDED
            at[RANK], at[NUM] = 0, _list_candidates(case, floor, arrays, limit, found)
            best.num_bounded[0] += len(arrays)
            for candidate in range(at[NUM]):
                heap[candidate] = candidate
            for start in range(at[NUM] // 2 - 1, -1, -1):
                _sink(found, heap, start, at[NUM])
        if at[NUM] == 0:
            continue
        room = 64
        tables = make_tables(case, floor, scratch.runs, room)
        while not _is_filled(tables):
            room *= 2
            tables = make_tables(case, floor, scratch.runs, room)
        while at[DOUBLE] >= 0 or at[RANK] < min(at[NUM], most_candidates):
            if at[DOUBLE] < 0:
                at[CANDIDATE], at[RANK] = heap[0], at[RANK] + 1
                heap[0] = heap[at[NUM] - at[RANK]]
                _sink(found, heap, 0, at[NUM] - at[RANK])
                if found[at[CANDIDATE]].bound >= best.objective[0] * (1.0 - TOLERANCE):
                    break
            candidate = found[at[CANDIDATE]]
            if finish(case, pairs, floor, arrays[candidate.array], candidate, tables, scratch.place, best):
                return PRICE
    return DONE
