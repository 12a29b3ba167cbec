"""All SPM tiles that fit, with a floor under everything that uses them.

Bounds ``_moved_elems`` and ``_unused_once`` of ``cost_model.analytical.energy``, and the transfers of ``core_times``.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tvm_spm.exact.any_factors.tables import ALL_TILES, PASSES, CoreTables, ceil_of
from tvm_spm.exact.boxes import store_cycles, transfer_cycles
from tvm_spm.exact.case_arrays import CaseArrays, Floats, I, Ints, O, W, objective_of
from tvm_spm.jit import entry, kernel, lean
from tvm_spm.space.legality_batch import fits_spm
from tvm_spm.space.mapping_batch import NUM_DIMS

SLACK = 1e-6
"""Sums of fractions of a cycle may be so far off before they are rounded up."""

FLOOR_FIELDS = np.dtype(
    [
        ("at", np.int64, NUM_DIMS),
        ("spm", np.int64, NUM_DIMS),
        ("fitting", np.int64),
        ("num_passes", np.int64),
        ("once", np.int64),
        ("dma", np.int64, 2),
        ("stays", np.int64, (2, 2)),
        ("energy_pj", np.float64, 2),
        ("elems_pj", np.float64, 3),
        ("elem_cycles", np.float64, 3),
        ("bound", np.float64),
    ]
)


class Floor(Protocol):
    """A record of ``FLOOR_FIELDS``.

    Attributes:
        at: Index per dim of the SPM tile in the counts.
        spm: Elements in one core's SPM.
        fitting: Bit ``b`` is set if the operands with the bits ``b`` may have two SPM buffers.
        num_passes: Of the first core.
        once: Cycles before the first pass, with those that cores wait for their first tiles, and after the last.
        dma: Cycles of the DMA, by column: orders whose innermost DRAM loops leave I, or W, in SPM; every order is one.
        stays: By the same columns, whether I and W are loaded only once for all loops that they do not depend on.
        energy_pj: Of all but the traffic of the RFs, by the same columns.
        elems_pj: Energy of moving each tensor between DRAM and SPM once, outputs with all that is streamed with them.
        elem_cycles: Cycles of the DMA for the same.
        bound: On the objective, with any array tile.
    """

    at: Ints
    spm: Ints
    fitting: int
    num_passes: int
    once: int
    dma: Ints
    stays: Ints
    energy_pj: Floats
    elems_pj: Floats
    elem_cycles: Floats
    bound: float


@lean
def _sum_tensor(case: CaseArrays, tables: CoreTables, projection: int, at: Ints) -> tuple[float, float, float]:
    """(elements inside the tensor, bursts, bits in whole bursts) of all SPM tiles of a tensor, each moved once."""
    workload = case.workload
    elems, whole, parts, moved = 1.0, 1.0, 0.0, 0.0
    for axis in range(workload.axis_start[projection + 1] - 1, workload.axis_start[projection] - 1, -1):
        row = 0
        for term in range(workload.term_start[axis], workload.term_start[axis + 1]):
            d = workload.term_dim[term]
            row = row * tables.num_spm[d] + at[d]
        inside = tables.inside[tables.axis_start[axis] + row]
        elems *= inside[0]
        # a tile that covers all inner axes is one run so far; each further element of a run cut short is another
        parts = parts * inside[0] + whole * inside[2]
        moved = moved * inside[0] + whole * inside[3]
        whole *= inside[1]
    return elems, whole + parts, moved + whole * tables.tensor_bits[projection]


@lean
def dma_cycles(case: CaseArrays, bursts: float, moved_bits: float) -> float:
    """Cycles of all transfers of a tensor; bounds the sum of ``transfer``, as fractions are not rounded up."""
    return bursts * case.arch.burst_startup_cycles + moved_bits / 8 / case.arch.dma_bytes_per_cycle


@lean
def _fill_floor(case: CaseArrays, tables: CoreTables, floor: Floor) -> None:
    """All but what comes before the first and after the last pass, and the bound."""
    workload, arch, words = case.workload, case.arch, case.words
    floor.num_passes = 1
    is_reduced = False
    full_i, full_w, split_i, split_w = 1, 1, 1, 1
    for d in range(NUM_DIMS):
        tiles = tables.tiles[d, floor.at[d]]
        floor.num_passes *= tiles[PASSES]
        if workload.is_reduction[d] and tiles[PASSES] > 1:
            is_reduced = True
        if not workload.is_relevant[I, d]:
            full_i, split_i = full_i * tiles[ALL_TILES], split_i * tables.cores[d]
        if not workload.is_relevant[W, d]:
            full_w, split_w = full_w * tiles[ALL_TILES], split_w * tables.cores[d]
    elems_i, bursts_i, moved_i = _sum_tensor(case, tables, I, floor.at)
    elems_w, bursts_w, moved_w = _sum_tensor(case, tables, W, floor.at)
    elems_o, bursts_o, moved_o = _sum_tensor(case, tables, O, floor.at)
    floor.elems_pj[I] = elems_i * words[I] * (arch.spm_access_pj + arch.dram_access_pj)
    floor.elems_pj[W] = elems_w * words[W] * (arch.spm_access_pj + arch.dram_access_pj)
    floor.elems_pj[O] = elems_o * (words[O] * arch.spm_access_pj + words[3] * arch.dram_access_pj)
    unused_pj = arch.dram_access_pj / arch.word_bits
    floor.elems_pj[I] += (moved_i - elems_i * workload.elem_bits[I]) * unused_pj
    floor.elems_pj[W] += (moved_w - elems_w * workload.elem_bits[W]) * unused_pj
    floor.elems_pj[O] += (moved_o - elems_o * workload.out_bits) * unused_pj
    cycles_i = dma_cycles(case, bursts_i, moved_i)
    cycles_w = dma_cycles(case, bursts_w, moved_w)
    cycles_o = dma_cycles(case, bursts_o, moved_o)
    for extra in range(3, len(workload.elem_bits)):
        streams = 1
        for d in range(NUM_DIMS):
            if workload.is_relevant[O, d] and not workload.is_relevant[extra, d]:
                streams *= tables.tiles[d, floor.at[d], ALL_TILES]
        elems, bursts, moved = _sum_tensor(case, tables, extra, floor.at)
        floor.elems_pj[O] += elems * streams * words[extra + 1] * arch.dram_access_pj
        floor.elems_pj[O] += streams * (moved - elems * workload.elem_bits[extra]) * unused_pj
        cycles_o += streams * dma_cycles(case, bursts, moved)
    floor.elem_cycles[I], floor.elem_cycles[W], floor.elem_cycles[O] = cycles_i, cycles_w, cycles_o
    for keeps in range(2):
        floor.stays[keeps, I] = 1 if keeps == I and not is_reduced else 0
        floor.stays[keeps, W] = 1 if keeps == W and not is_reduced else 0
        repeats_i = split_i if floor.stays[keeps, I] == 1 else full_i
        repeats_w = split_w if floor.stays[keeps, W] == 1 else full_w
        floor.energy_pj[keeps] = (
            case.constant_pj + floor.elems_pj[O] + repeats_i * floor.elems_pj[I] + repeats_w * floor.elems_pj[W]
        )
        floor.dma[keeps] = dma_limit(case, tables, cycles_o + repeats_i * cycles_i + repeats_w * cycles_w)


@lean
def dma_limit(case: CaseArrays, tables: CoreTables, cycles: float) -> int:
    """Cycles until all channels in use are done, if they share the work evenly."""
    at_once = min(tables.num_cores, case.arch.dram_channels)
    return case.arch.launch_cycles + int(math.ceil(cycles / at_once * (1.0 - 1e-12) - SLACK))


@kernel
def _once_cycles(case: CaseArrays, tables: CoreTables, spm: Ints) -> int:
    """Cycles before the first and after the last pass of a core with the share of the first.

    The prologue and the last store of the first core. If cores share channels and all have equal shares, and so equal
    passes and last stores, some core has its first tiles when the channels have served all of them (``least_cycles`` of
    ``cost_model.analytical.cores``).
    """
    first, tile = np.zeros(NUM_DIMS, dtype=np.int64), spm.copy()
    prologue = _prologue_cycles(case, first, tile)
    cycles = case.arch.launch_cycles + max(prologue, _late_start(case, tables, tile))
    for d in range(NUM_DIMS):
        first[d] = (tables.share[d] - 1) // tile[d] * tile[d]
        tile[d] = tables.share[d] - first[d]
    return cycles + store_cycles(case, first, tile)[1]


@lean
def _prologue_cycles(case: CaseArrays, first: Ints, tile: Ints) -> int:
    """Cycles of the first loads of a core."""
    cycles = 0
    for operand in range(2):
        cycles += transfer_cycles(case, operand, case.workload.elem_bits[operand], first, tile)[0]
    return cycles


@kernel
def _late_start(case: CaseArrays, tables: CoreTables, tile: Ints) -> int:
    """Cycles until all cores have their first tiles; 0 where that says nothing of a core like the first."""
    if tables.num_cores <= case.arch.dram_channels:
        return 0
    for axis in range(case.workload.axis_start[O], len(case.is_clipped)):
        # a last store may be shorter where the border cuts outputs, or what streams in before it
        if case.is_clipped[axis]:
            return 0
    for d in range(NUM_DIMS):
        if tables.share[d] * tables.cores[d] != case.workload.dims[d]:
            return 0
    at, first, cycles = np.zeros(NUM_DIMS, dtype=np.int64), np.zeros(NUM_DIMS, dtype=np.int64), 0
    while True:
        for d in range(NUM_DIMS):
            first[d] = at[d] * tables.share[d]
        cycles += _prologue_cycles(case, first, tile)
        d = NUM_DIMS - 1
        while d >= 0:
            at[d] += 1
            if at[d] < tables.cores[d]:
                break
            at[d] = 0
            d -= 1
        if d < 0:
            return ceil_of(cycles, case.arch.dram_channels)


@entry
def list_floors(case: CaseArrays, tables: CoreTables, least_time: int, limit: float, floors: NDArray[np.void]) -> int:
    """Fill ``floors`` with all SPM tiles that fit, single buffers at least, and that the bound leaves.

    Args:
        case: What is searched.
        tables: For the factors across cores.
        least_time: No unrolling multiplies in fewer cycles.
        limit: Leave out SPM tiles whose bound is not below.
        floors: Filled.

    Returns:
        How many, or -1 if there is no room.
    """
    num, at, tile = 0, np.zeros(NUM_DIMS, dtype=np.int64), np.empty(NUM_DIMS, dtype=np.int64)
    while True:
        for d in range(NUM_DIMS):
            tile[d] = tables.spm[d, at[d]]
        fits = fits_spm(case.limits, tile, 0)
        d = NUM_DIMS - 1
        if fits:
            if num == len(floors):
                return -1
            floor = floors[num]
            for dim in range(NUM_DIMS):
                floor.at[dim], floor.spm[dim] = at[dim], tile[dim]
            _fill_floor(case, tables, floor)
            if bound_floor(case, floor, 0, least_time) < limit:
                floor.once = _once_cycles(case, tables, tile)
                floor.bound = bound_floor(case, floor, floor.once, least_time)
                floor.fitting = 0
                for double in range(8):
                    if fits_spm(case.limits, tile, double):
                        floor.fitting |= 1 << double
                if floor.bound < limit:
                    num += 1
        else:
            # a larger tile along the last dim does not fit either
            while d >= 0 and at[d] == 0:
                d -= 1
            if d < 0:
                return num
            at[d] = 0
            d -= 1
        while d >= 0:
            at[d] += 1
            if at[d] < tables.num_spm[d]:
                break
            at[d] = 0
            d -= 1
        if d < 0:
            return num


@lean
def bound_floor(case: CaseArrays, floor: Floor, once: int, least_time: int) -> float:
    """A floor under the objective of all mappings with an SPM tile."""
    cycles = max(least_time, floor.num_passes) + floor.num_passes * (case.arch.mac_stages - 1)
    bound = np.inf
    for keeps in range(2):
        all_cycles = max(floor.dma[keeps], once + cycles)
        bound = min(bound, objective_of(case, floor.energy_pj[keeps], all_cycles))
    return bound
