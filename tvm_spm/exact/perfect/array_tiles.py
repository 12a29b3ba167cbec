"""All perfect array tiles: unrollings that fit the PEs times RF tiles that fit a PE, without the dominated ones.

Energies of a tile bound what ``cost_model.analytical.energy`` counts for the RFs; its cycles, ``_fill_steps``
of ``passes``; all without edge tiles.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cost_model.arrays import UNBOUNDED
from cost_model.crossing import crossing_cycles
from cost_model.record import record
from tvm_spm.exact.case_arrays import ALL_DOUBLE, NONE, CaseArrays, Floats, I, Ints, O, W, objective_of
from tvm_spm.exact.perfect.pass_time import (
    COMPUTE,
    EMPTY,
    IN,
    IS_SHARED,
    OUT,
    STEP_FIELDS,
    least_slot_cycles,
    slot_cycles,
)
from tvm_spm.exact.perfect.unrollings import divisors_of
from tvm_spm.jit import entry, small
from tvm_spm.objective import ENERGY, LATENCY
from tvm_spm.space.constraints_batch import ANY_BUFFERS
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.space.tensors import tile_elems
from tvm_spm.units import ceil_div
from tvm_spm.workload import Workload

ARRAYS_AT_ONCE = 20_000
"""RF tiles judged in one call, so that there is a time to stop in between."""


class ArrayTile(Protocol):
    """A record of ``ARRAY_FIELDS``: one array tile, over all cores.

    Attributes:
        array: Elements of all PEs together.
        unrolling: Index of the rows and columns.
        num_pes: In use.
        reduction_pes: PEs whose results are summed.
        fitting: Bit ``b`` is set if the operands with the bits ``b`` may have two RF buffers.
        step: See ``pass_time``.
        slot: ``least_slot_cycles`` by the operand that the innermost loop leaves in place.
        in_pj: Energy of bringing one tile of each operand.
        out_pj: Energy of taking one tile of outputs away.
        num_steps: Of all passes.
        num_tiles: Distinct tiles of each operand.
        moved_pj: Energy of the traffic of all operands but the one that stays.
        kept_pj: Energy of moving each tile of the operand that stays once.
        least_pj: Energy of moving each tile of every operand once.
        bound: On the objective, under any SPM tile.
    """

    array: Ints
    unrolling: int
    num_pes: int
    reduction_pes: int
    fitting: int
    step: Ints
    slot: Ints
    in_pj: Floats
    out_pj: float
    num_steps: int
    num_tiles: Ints
    moved_pj: Floats
    kept_pj: Floats
    least_pj: float
    bound: float


ARRAY_FIELDS = record(ArrayTile, {
    "array": NUM_DIMS, "step": STEP_FIELDS, "slot": 4, "in_pj": 3, "num_tiles": 3, "moved_pj": 4, "kept_pj": 4,
})  # fmt: skip


class Shapes(NamedTuple):
    """Numbers the perfect tiles of a workload.

    Row ``row[v]`` of ``divisors`` holds the ``num[row[v]]`` ascending divisors of ``v``.
    """

    divisors: Ints
    row: Ints
    num: Ints


def make_shapes(workload: Workload) -> Shapes:
    """For all divisors of the extents."""
    values = sorted({d for extent in workload.dims for d in divisors_of(extent)})
    lists = [divisors_of(value) for value in values]
    table = np.ones((len(values), max(map(len, lists))), dtype=np.int64)
    row = np.zeros(values[-1] + 1, dtype=np.int64)
    for index, divisors in enumerate(lists):
        table[index, : len(divisors)] = divisors
        row[values[index]] = index
    return Shapes(table, row, np.array([len(divisors) for divisors in lists], dtype=np.int64))


@small
def shape_of(case: CaseArrays, shapes: Shapes, tile: Ints) -> int:
    """Number of a tile among all tuples of divisors of the extents."""
    shape = 0
    for d in range(NUM_DIMS):
        row = shapes.row[case.workload.dims[d]]
        low, high = 0, shapes.num[row] - 1
        while low < high:
            middle = (low + high) // 2
            if shapes.divisors[row, middle] < tile[d]:
                low = middle + 1
            else:
                high = middle
        shape = shape * shapes.num[row] + low
    return shape


@entry
def single_energies(case: CaseArrays, shapes: Shapes, floors: NDArray[np.void], single_pj: Floats) -> None:
    """Per shape the least energy of the SPM tiles of this shape; shapes without one keep what they have."""
    for index in range(len(floors)):
        floor = floors[index]
        shape = shape_of(case, shapes, floor.spm)
        for keeps in range(2):
            single_pj[shape] = min(single_pj[shape], floor.energy_pj[keeps])


@small
def _fits(case: CaseArrays, rf: Ints, num_bytes: Ints) -> bool:
    """Whether single buffers fit a PE; sets the bytes of each."""
    total = 0
    for operand in range(3):
        elems = tile_elems(case.workload, operand, rf)
        num_bytes[operand] = (elems * case.limits.rf_bits[operand] + 7) // 8
        total += num_bytes[operand]
    return total <= case.limits.rf_bytes


@small
def _is_wanted(case: CaseArrays, rf: Ints) -> bool:
    """Whether the constraints allow an RF tile."""
    for d in range(NUM_DIMS):
        if rf[d] < case.least_rf[d] or rf[d] > case.most_rf[d]:
            return False
    return True


@small
def _fill_array(case: CaseArrays, pes: Ints, hops: int, rf: Ints, num_bytes: Ints, entry: ArrayTile) -> None:
    workload, arch, words = case.workload, case.arch, case.words
    entry.num_pes, entry.reduction_pes, entry.num_steps = 1, 1, 1
    entry.num_tiles[:] = 1
    entry.step[COMPUTE], entry.step[EMPTY] = 1, arch.mac_stages - 1
    entry.step[IS_SHARED] = 0 if arch.spm_bytes_per_cycle == UNBOUNDED else 1
    for d in range(NUM_DIMS):
        entry.array[d] = rf[d] * pes[d]
        entry.num_pes *= pes[d]
        entry.step[COMPUTE] *= rf[d]
        count = workload.dims[d] // entry.array[d]
        entry.num_steps *= count
        if workload.is_reduction[d]:
            entry.reduction_pes *= pes[d]
        for operand in range(3):
            if workload.is_relevant[operand, d]:
                entry.num_tiles[operand] *= count
    for operand in range(3):
        elems = tile_elems(workload, operand, entry.array)
        entry.step[IN + operand] = crossing_cycles(
            elems, workload.elem_bits[operand], arch.noc_elems_per_cycle, arch.spm_bytes_per_cycle
        )
        pj = elems * (arch.noc_elem_pj + arch.spm_access_pj)
        delivered = elems if operand == O else entry.num_pes * tile_elems(workload, operand, rf)
        pj += delivered * (arch.rf_fill_pj + arch.noc_delivery_pj)
        entry.in_pj[operand] = words[operand] * pj
        if operand == O:
            entry.out_pj = words[O] * (pj + elems * (entry.reduction_pes - 1) * arch.noc_reduction_hop_pj)
    entry.step[OUT] = entry.step[IN + O] + hops
    entry.fitting = 0
    single, room = num_bytes[0] + num_bytes[1] + num_bytes[2], case.limits.rf_bytes
    for double in range(8):
        extra = (double & 1) * num_bytes[0] + (double >> 1 & 1) * num_bytes[1] + (double >> 2 & 1) * num_bytes[2]
        if single + extra <= room:
            entry.fitting |= 1 << double
    if case.rf_double != ANY_BUFFERS:
        entry.fitting &= 1 << case.rf_double
    if case.objective == ENERGY:
        # cycles do not matter, so neither does what they depend on beside the array tile
        entry.step[COMPUTE], entry.step[OUT] = 1, 1
        if case.rf_double == ANY_BUFFERS:
            entry.fitting = 1


@small
def _price_array(case: CaseArrays, entry: ArrayTile, least_energy_pj: float, single_energy_pj: float) -> None:
    """What follows from the tile prices: energy by the operand that stays, and a bound under any SPM tile.

    Args:
        case: What is searched.
        entry: Completed.
        least_energy_pj: Of all but the RFs' traffic, with any SPM tile.
        single_energy_pj: The same with an SPM tile equal to this array tile.
    """
    for operand in range(2):
        entry.kept_pj[operand] = entry.num_tiles[operand] * entry.in_pj[operand]
    all_i_pj, all_w_pj = entry.num_steps * entry.in_pj[I], entry.num_steps * entry.in_pj[W]
    all_o_pj = entry.num_steps * (entry.in_pj[O] + entry.out_pj) - entry.num_tiles[O] * entry.in_pj[O]
    # an output tile that stays is written each time but read back one time less; the rest is constant
    entry.kept_pj[O] = entry.num_tiles[O] * (entry.in_pj[O] + entry.out_pj)
    entry.kept_pj[NONE] = 0.0
    entry.moved_pj[I] = all_w_pj + all_o_pj
    entry.moved_pj[W] = all_i_pj + all_o_pj
    entry.moved_pj[O] = all_i_pj + all_w_pj - entry.num_tiles[O] * entry.in_pj[O]
    entry.moved_pj[NONE] = all_i_pj + all_w_pj + all_o_pj
    # if a pass is a single step, all three stay: no order moves less than every tile once
    entry.least_pj = entry.kept_pj[I] + entry.kept_pj[W] + entry.num_tiles[O] * entry.out_pj
    steps, launch = entry.num_steps // case.arch.num_cores, case.arch.launch_cycles
    entry.bound = np.inf
    for kept in range(4):
        # n steps take n slots at least: the fill and the drain make up for the first and the last, which lack a part
        slot = slot_cycles(entry.step, ALL_DOUBLE, 3 & ~(1 << kept), False, False, kept != O)
        energy_pj = least_energy_pj + entry.moved_pj[kept] + entry.kept_pj[kept]
        entry.bound = min(entry.bound, objective_of(case, energy_pj, launch + steps * slot))
    single_pj = single_energy_pj + entry.least_pj
    entry.bound = min(entry.bound, objective_of(case, single_pj, launch + steps * entry.step[COMPUTE]))


@small
def _dominates(a: ArrayTile, b: ArrayTile, by_hops: bool) -> bool:
    """Whether ``a`` is as good as ``b``, both with the same array tile, in every respect."""
    if a.reduction_pes > b.reduction_pes or a.in_pj[I] > b.in_pj[I] or a.in_pj[W] > b.in_pj[W]:
        return False
    if b.fitting & ~a.fitting:
        return False
    if by_hops:
        return a.step[COMPUTE] <= b.step[COMPUTE] and a.step[OUT] <= b.step[OUT]
    return a.step[COMPUTE] == b.step[COMPUTE] and a.step[OUT] == b.step[OUT]


class Unrolled(NamedTuple):
    """Rows and columns ``(n, 2, 8)`` and hops of each unrolling; those over fewer than ``least_pes`` are left out."""

    pairs: Ints
    hops: Ints
    least_pes: int


class ArrayLimits(NamedTuple):
    """What bounds an array tile.

    Attributes:
        single_pj: Per shape the least energy of all but the RFs' traffic with an SPM tile of this shape.
        least_pj: The least of ``single_pj``.
        limit: Array tiles whose bound is not below are left out.
    """

    single_pj: Floats
    least_pj: float
    limit: float


class ArrayRoom(NamedTuple):
    """Where array tiles are listed.

    Attributes:
        entries: Filled.
        links: Scratch, as long as ``entries``.
        heads: Scratch, -1 for each shape.
        place: Where to go on: entries in use, unrolling, and the numbers of the RF tile's divisors; starts as zeros.
    """

    entries: NDArray[np.void]
    links: Ints
    heads: Ints
    place: Ints


@entry
def list_arrays(case: CaseArrays, unrolled: Unrolled, shapes: Shapes, prices: ArrayLimits, room: ArrayRoom) -> bool:
    """List the array tiles that no other of the same shape dominates, ``ARRAYS_AT_ONCE`` at a time.

    What is dominated by a later one stays, without an unrolling; ``keep_arrays`` removes it at the end.

    Returns:
        Whether all were judged. If not, call again, with more room if all entries are in use.
    """
    pairs, hops, single_pj = unrolled.pairs, unrolled.hops, prices.single_pj
    entries, links, heads, place = room.entries, room.links, room.heads, room.place
    workload = case.workload
    num, digit, num_judged = place[0], place[2:].copy(), 0
    rf, pes, row = np.empty(NUM_DIMS, np.int64), np.empty(NUM_DIMS, np.int64), np.empty(NUM_DIMS, np.int64)
    num_bytes = np.empty(3, dtype=np.int64)
    for unrolling in range(place[1], len(pairs)):
        num_pes = 1
        for d in range(NUM_DIMS):
            pes[d] = pairs[unrolling, 0, d] * pairs[unrolling, 1, d]
            num_pes *= pes[d]
            row[d] = shapes.row[workload.dims[d] // pes[d]]
        if num_pes < unrolled.least_pes:
            continue
        while True:
            if num == len(entries) or num_judged == ARRAYS_AT_ONCE:
                place[0], place[1] = num, unrolling
                place[2:] = digit
                return False
            num_judged += 1
            for d in range(NUM_DIMS):
                rf[d] = shapes.divisors[row[d], digit[d]]
            fits = _fits(case, rf, num_bytes)
            if fits:
                entry = entries[num]
                _fill_array(case, pes, hops[unrolling], rf, num_bytes, entry)
                shape = shape_of(case, shapes, entry.array)
                _price_array(case, entry, prices.least_pj, single_pj[shape])
                if entry.bound < prices.limit and entry.fitting != 0 and _is_wanted(case, rf):
                    entry.unrolling = unrolling
                    num = _insert(case, entries, num, shape, heads, links)
            d = NUM_DIMS - 1
            if not fits:
                while d >= 0 and digit[d] == 0:
                    d -= 1
                if d < 0:
                    break
                digit[d] = 0
                d -= 1
            while d >= 0:
                digit[d] += 1
                if digit[d] < shapes.num[row[d]]:
                    break
                digit[d] = 0
                d -= 1
            if d < 0:
                break
        digit[:] = 0
    place[0], place[1] = num, len(pairs)
    return True


@entry
def keep_arrays(case: CaseArrays, entries: NDArray[np.void], num: int) -> int:
    """Move those of the first ``num`` entries that nothing dominates to the front, and complete them; how many."""
    kept = 0
    for index in range(num):
        if entries[index].unrolling >= 0:
            if kept < index:
                entries[kept] = entries[index]
            entry = entries[kept]
            for operand in range(4):
                entry.slot[operand] = least_slot_cycles(entry.step, entry.fitting, operand)
            kept += 1
    return kept


@small
def _insert(case: CaseArrays, entries: NDArray[np.void], num: int, shape: int, heads: Ints, links: Ints) -> int:
    """Keep the entry at ``num`` unless one of its shape dominates it; unmark those that it dominates."""
    entry, by_hops = entries[num], case.arch.num_cores == 1
    other = heads[shape]
    while other >= 0:
        if entries[other].unrolling >= 0 and _dominates(entries[other], entry, by_hops):
            return num
        other = links[other]
    other = heads[shape]
    while other >= 0:
        if entries[other].unrolling >= 0 and _dominates(entry, entries[other], by_hops):
            entries[other].unrolling = -1
        other = links[other]
    links[num] = heads[shape]
    heads[shape] = num
    return num + 1


def least_pes(case: CaseArrays, objective: float, least_energy_pj: float) -> int:
    """Fewest PEs with which less than ``objective`` is possible."""
    if case.objective == ENERGY or math.isinf(objective):
        return 1
    if case.objective != LATENCY and least_energy_pj == 0:
        # Some mapping needs no energy, so any number of cycles has an EDP of 0.
        return 1
    cycles = objective if case.objective == LATENCY else objective / least_energy_pj
    return max(1, ceil_div(case.workload.macs, (math.floor(cycles) + 1) * case.arch.num_cores))
