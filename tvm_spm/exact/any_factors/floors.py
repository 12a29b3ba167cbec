"""An SPM tile, and a floor under everything that uses it.

Bounds ``_moved_elems`` and ``_unused_once`` of ``cost_model.analytical.energy``, and the transfers of ``core_times``.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from cost_model.record import record
from tvm_spm.exact.any_factors.ports import across, crossing_rate, is_shared
from tvm_spm.exact.any_factors.tables import ALL_TILES, PASSES, CoreTables, ceil_of
from tvm_spm.exact.boxes import store_cycles, transfer_cycles
from tvm_spm.exact.case_arrays import ALL_DOUBLE, CaseArrays, Floats, I, Ints, O, W, objective_of
from tvm_spm.jit import kernel, lean
from tvm_spm.space.mapping_batch import NUM_DIMS

SLACK = 1e-6
"""Sums of fractions of a cycle may be so far off before they are rounded up."""

ANY_CYCLES = 1 << 62
"""More than any mapping takes."""


class Floor(Protocol):
    """A record of ``FLOOR_FIELDS``.

    Attributes:
        at: Index per dim of the SPM tile in the counts.
        spm: Elements in one core's SPM.
        fitting: Bit ``b`` is set if the operands with the bits ``b`` may have two SPM buffers.
        num_passes: Of the first core.
        around: Cycles before the first pass, with those that cores wait for their first tiles, and after the last.
        once: Those, and between passes where SPM has no room for two buffers, by column: orders whose innermost DRAM
            loops leave I, or W, in SPM; every order is one.
        edges: Cycles of the first loads of I and W, and of the last store.
        before: On one core, the most cycles in which outputs are stored beside its last pass; on several
            ``ANY_CYCLES``.
        late: On one core, cycles of its last pass in which the DMA rests.
        dma: Cycles of the DMA, and those in which it rests, by the same columns.
        cross: Cycles of all passes of the first core, by the same columns, as tiles cross between SPM and the RFs.
        stays: By the same columns, whether I and W are loaded only once for all loops that they do not depend on.
        energy_pj: Of all but the traffic of the RFs, by the same columns.
        elems_pj: Energy of moving each tensor between DRAM and SPM once, outputs with all that is streamed with them.
        elem_cycles: Cycles of the DMA for the same.
        vector_cycles: By which all stores together keep the DMA engines longer, as the vector unit is slower.
        bound: On the objective, with any array tile.
    """

    at: Ints
    spm: Ints
    fitting: int
    num_passes: int
    around: int
    once: Ints
    edges: Ints
    before: int
    late: int
    dma: Ints
    cross: Ints
    stays: Ints
    energy_pj: Floats
    elems_pj: Floats
    elem_cycles: Floats
    vector_cycles: float
    bound: float


FLOOR_FIELDS = record(Floor, {
    "at": NUM_DIMS, "spm": NUM_DIMS, "once": 2, "edges": 3, "dma": 2, "cross": 2, "stays": (2, 2), "energy_pj": 2,
    "elems_pj": 3, "elem_cycles": 3,
})  # fmt: skip


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
def fill_floor(case: CaseArrays, tables: CoreTables, floor: Floor) -> None:
    """All but what comes before the first and after the last pass, and the bound."""
    workload, arch, words = case.workload, case.arch, case.words
    floor.num_passes = 1
    is_reduced = False
    for d in range(NUM_DIMS):
        tiles = tables.tiles[d, floor.at[d]]
        floor.num_passes *= tiles[PASSES]
        if workload.is_reduction[d] and tiles[PASSES] > 1:
            is_reduced = True
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
    floor.vector_cycles = max(0.0, elems_o * workload.num_ops_per_elem / arch.vector_ops_per_cycle - cycles_o)
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
        repeats_i, repeats_w = least_repeats(case, tables, floor, keeps)
        floor.energy_pj[keeps] = (
            case.constant_pj + floor.elems_pj[O] + repeats_i * floor.elems_pj[I] + repeats_w * floor.elems_pj[W]
        )
        floor.dma[keeps] = dma_limit(case, tables, floor, cycles_o + repeats_i * cycles_i + repeats_w * cycles_w)
        all_i = 0.0 if _skips(case, tables, I) else repeats_i * elems_i
        floor.cross[keeps] = _cross_cycles(case, tables, (all_i, repeats_w * elems_w, elems_o))


@lean
def _skips(case: CaseArrays, tables: CoreTables, projection: int) -> bool:
    """Whether a tile may hold elements that nothing needs."""
    for axis in range(case.workload.axis_start[projection], case.workload.axis_start[projection + 1]):
        if tables.is_strided[axis]:
            return True
    return False


@lean
def _cross_cycles(case: CaseArrays, tables: CoreTables, elems: tuple[float, float, float]) -> int:
    """Cycles in which all that is loaded comes in from SPM once, and all that is stored leaves the PEs once.

    Args:
        case: What is searched.
        tables: For the factors across cores; the first core has no less than the mean.
        elems: Of I, W, O, that pass between DRAM and the SPMs of all cores.
    """
    cycles, one_by_one = 0.0, is_shared(case)
    for operand in range(3):
        own = elems[operand] / tables.num_cores
        cycles = across(one_by_one, cycles, own / crossing_rate(case, operand))
    return int(math.ceil(cycles * (1.0 - 1e-12) - SLACK))


@lean
def dma_limit(case: CaseArrays, tables: CoreTables, floor: Floor, cycles: float) -> int:
    """Cycles until all channels in use, and all DMA engines, are done with all transfers, if they share them evenly."""
    at_once = min(tables.num_cores, case.arch.dram_channels)
    longest = max(cycles / at_once, (cycles + floor.vector_cycles) / tables.num_cores)
    return case.arch.launch_cycles + int(math.ceil(longest * (1.0 - 1e-12) - SLACK))


@kernel
def fill_once(case: CaseArrays, tables: CoreTables, floor: Floor) -> None:
    """Cycles in which no pass of a core with the share of the first runs.

    The prologue and the last store of the first core. If cores share channels and all have equal shares, and so equal
    passes and last stores, some core has its first tiles when the channels have served all of them (``least_cycles`` of
    ``cost_model.analytical.cores``).
    """
    first, tile, is_reduced = np.zeros(NUM_DIMS, dtype=np.int64), floor.spm.copy(), False
    for operand in range(2):
        floor.edges[operand] = transfer_cycles(case, operand, case.workload.elem_bits[operand], first, tile)[0]
    prologue = max(floor.edges[I] + floor.edges[W], _late_start(case, tables, tile))
    for d in range(NUM_DIMS):
        passes = tables.tiles[d, floor.at[d], PASSES]
        first[d] = (passes - 1) * tile[d]
        tile[d] = tables.share[d] - first[d]
        if passes > 1 and case.workload.is_reduction[d]:
            is_reduced = True
    floor.edges[O] = store_cycles(case, first, tile)[1]
    floor.around = case.arch.launch_cycles + prologue + floor.edges[O]
    floor.once[:] = floor.around
    floor.before, floor.late = 0, 0
    if tables.num_cores > 1:
        floor.before = ANY_CYCLES
        return
    for d in range(NUM_DIMS):
        # loops over sums are the innermost, so that with one the pass before leaves nothing
        if not is_reduced and tables.tiles[d, floor.at[d], PASSES] > 1:
            last, first[d], tile[d] = tile[d], first[d] - floor.spm[d], floor.spm[d]
            floor.before = max(floor.before, store_cycles(case, first, tile)[1])
            first[d], tile[d] = first[d] + floor.spm[d], last
    floor.late = _late_cycles(case, tables, floor, tile)
    for keeps in range(2):
        floor.dma[keeps] += floor.late
        behind, repeats = np.inf, least_repeats(case, tables, floor, keeps)
        for double in range(ALL_DOUBLE + 1):
            if floor.fitting >> double & 1:
                behind = min(behind, behind_passes(floor, repeats, double))
        floor.once[keeps] += int(math.ceil(behind * (1.0 - 1e-12) - SLACK))


@lean
def _late_cycles(case: CaseArrays, tables: CoreTables, floor: Floor, end: Ints) -> int:
    """Cycles of the last pass with nothing to load or store: what comes in and leaves the RFs in it, at least.

    Outputs are complete in the last pass and leave. I and W come in if they depend on whatever loop ticks before it.

    Args:
        case: What is searched.
        tables: For the factors across cores.
        floor: The SPM tile.
        end: The last one.
    """
    is_reduced, one_by_one, cycles = False, is_shared(case), 0.0
    for d in range(NUM_DIMS):
        if tables.tiles[d, floor.at[d], PASSES] > 1 and case.workload.is_reduction[d]:
            is_reduced = True
    for operand in range(3):
        moves = True
        for d in range(NUM_DIMS):
            # the innermost loop is one over sums if there is any
            may_tick = tables.tiles[d, floor.at[d], PASSES] > 1 and (case.workload.is_reduction[d] or not is_reduced)
            if operand != O and may_tick and not case.workload.is_relevant[operand, d]:
                moves = False
        if moves:
            cycles = across(one_by_one, cycles, _distinct_elems(case, operand, end) / crossing_rate(case, operand))
    return max(0, int(math.ceil(cycles * (1.0 - 1e-12) - SLACK)) - floor.before)


@lean
def _distinct_elems(case: CaseArrays, projection: int, tile: Ints) -> float:
    """Elements that a tile needs, at least."""
    elems = 1.0
    for axis in range(case.workload.axis_start[projection], case.workload.axis_start[projection + 1]):
        most = 1
        for term in range(case.workload.term_start[axis], case.workload.term_start[axis + 1]):
            most = max(most, tile[case.workload.term_dim[term]])
        elems *= most
    return elems


@lean
def least_repeats(case: CaseArrays, tables: CoreTables, floor: Floor, keeps: int) -> tuple[float, float]:
    """How often each tile of I and of W is loaded at least."""
    repeats_i, repeats_w = 1.0, 1.0
    for d in range(NUM_DIMS):
        if not case.workload.is_relevant[I, d]:
            repeats_i *= tables.cores[d] if floor.stays[keeps, I] == 1 else tables.tiles[d, floor.at[d], ALL_TILES]
        if not case.workload.is_relevant[W, d]:
            repeats_w *= tables.cores[d] if floor.stays[keeps, W] == 1 else tables.tiles[d, floor.at[d], ALL_TILES]
    return repeats_i, repeats_w


@lean
def behind_passes(floor: Floor, repeats: tuple[float, float], double: int) -> float:
    """Cycles of one core's DMA between passes: of all transfers but the edges of operands with one buffer in SPM.

    Args:
        floor: The SPM tile.
        repeats: How often each tile of I and of W is loaded.
        double: Bits of the operands with two buffers.
    """
    cycles = 0.0
    for operand in range(3):
        if double >> operand & 1 == 0:
            moved = floor.elem_cycles[operand]
            moved = moved * repeats[operand] if operand != O else moved + floor.vector_cycles
            cycles += max(0.0, moved - floor.edges[operand])
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
        for operand in range(2):
            cycles += transfer_cycles(case, operand, case.workload.elem_bits[operand], first, tile)[0]
        d = NUM_DIMS - 1
        while d >= 0:
            at[d] += 1
            if at[d] < tables.cores[d]:
                break
            at[d] = 0
            d -= 1
        if d < 0:
            return ceil_of(cycles, case.arch.dram_channels)


@lean
def bound_floor(case: CaseArrays, floor: Floor, least_time: int) -> float:
    """A floor under the objective of all mappings with an SPM tile."""
    cycles = max(least_time, floor.num_passes) + floor.num_passes * (case.arch.mac_stages - 1)
    bound = np.inf
    for keeps in range(2):
        all_cycles = max(floor.dma[keeps], floor.once[keeps] + max(cycles, floor.cross[keeps]))
        bound = min(bound, objective_of(case, floor.energy_pj[keeps], all_cycles))
    return bound
