"""All perfect SPM tiles that fit, with what they cost at DRAM and a floor under everything that uses them.

Energies bound ``_moved_elems`` and ``_unused_once`` of ``cost_model.analytical.energy``; cycles, what ``core_times``
and ``contended_cycles`` of the formula count for a core in the middle and for the channels.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cost_model.transfer import transfer
from tvm_spm.exact.boxes import store_cycles, transfer_cycles
from tvm_spm.exact.case_arrays import CaseArrays, I, Ints, O, W
from tvm_spm.exact.perfect.core_passes import tensor_cycles
from tvm_spm.jit import entry, kernel, lean
from tvm_spm.space.legality_batch import fits_spm
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.space.tensors import inside_elems

KEEPS_I, KEEPS_W = 0, 1
"""Columns of the floors: orders whose innermost DRAM loops leave I, or W, in SPM. Every order is under one of them."""

PERFECT_TILE_FIELDS = np.dtype(
    [
        ("cores", np.int64, NUM_DIMS),
        ("spm", np.int64, NUM_DIMS),
        ("fitting", np.int64),
        ("num_cores", np.int64),
        ("num_passes", np.int64),
        ("first_cycles", np.int64),
        ("last_cycles", np.int64),
        ("dma", np.int64, 2),
        ("repeats", np.int64, (2, 2)),
        ("energy_pj", np.float64, 2),
        ("elems_pj", np.float64, 3),
        ("bound", np.float64),
    ]
)


class PerfectTile(Protocol):
    """A record of ``PERFECT_TILE_FIELDS``: one SPM tile, and floors under all mappings with it.

    Attributes:
        cores: Factors across cores.
        spm: Elements in one core's SPM.
        fitting: Bit ``b`` is set if the operands with the bits ``b`` may have two SPM buffers.
        num_cores: In use.
        num_passes: Of one core.
        first_cycles: Before the first pass.
        last_cycles: After the last pass.
        dma: Cycles of the DMA, by column ``KEEPS_I`` and ``KEEPS_W``.
        repeats: How often I and W are loaded, by the same columns.
        energy_pj: Of all but the traffic of the RFs, by the same columns.
        elems_pj: Energy of moving each tensor between DRAM and SPM once, outputs with all that is streamed with them.
        bound: On the objective, with any array tile.
    """

    cores: Ints
    spm: Ints
    fitting: int
    num_cores: int
    num_passes: int
    first_cycles: int
    last_cycles: int
    dma: Ints
    repeats: Ints
    energy_pj: NDArray[np.float64]
    elems_pj: NDArray[np.float64]
    bound: float


@kernel
def moved_total(case: CaseArrays, projection: int, bits: int, tile: Ints) -> tuple[float, float]:
    """(elements, unused bits of whole bursts) if every SPM tile of a projection, over all cores, moves once.

    Exact: sums over tiles of ``transfer``, as a product over axes. A burst goes on from the innermost axis out as long
    as tiles cover the axes, and ends on the first one of which a tile leaves out a part.
    """
    workload, burst_bits = case.workload, case.arch.burst_bits
    first = np.zeros(NUM_DIMS, dtype=np.int64)
    elems, moved, whole, inner = 1.0, 0.0, 1.0, 1
    for axis in range(workload.axis_start[projection + 1] - 1, workload.axis_start[projection] - 1, -1):
        low, high = workload.term_start[axis], workload.term_start[axis + 1]
        extent, sum_inside, covering, ended = workload.axis_extent[axis], 0, 0, 0
        first[:] = 0
        while True:
            inside = inside_elems(workload, axis, first, tile)
            sum_inside += inside
            if inside == extent:
                covering += 1
            else:
                ended += transfer(inside * inner, 1, bits, burst_bits, 0.0, 1.0)[1]
            term = high - 1
            while term >= low:
                d = workload.term_dim[term]
                first[d] += tile[d]
                if first[d] < workload.dims[d]:
                    break
                first[d] = 0
                term -= 1
            if term < low:
                break
        moved = moved * sum_inside + whole * ended
        elems, whole, inner = elems * sum_inside, whole * covering, inner * extent
    moved += whole * transfer(inner, 1, bits, burst_bits, 0.0, 1.0)[1]
    return elems, moved - elems * bits


@lean
def order_repeats(case: CaseArrays, cores: Ints, counts: Ints, order: Ints, num_loops: int, operand: int) -> int:
    """How often each tile of an operand passes between DRAM and SPM."""
    workload = case.workload
    position = -1
    for loop in range(num_loops):
        if workload.is_relevant[operand, order[loop]]:
            position = loop
    repeats = 1
    for d in range(NUM_DIMS):
        if not workload.is_relevant[operand, d]:
            repeats *= cores[d]
    for loop in range(position):
        if not workload.is_relevant[operand, order[loop]]:
            repeats *= counts[order[loop]]
    return repeats


@kernel
def fill_floor(case: CaseArrays, core_tile: Ints, runs: Ints, floor: PerfectTile) -> None:
    """What all mappings with ``floor.cores`` and ``floor.spm`` have in common."""
    workload, arch, words = case.workload, case.arch, case.words
    # a copy has the type of any array, so that what takes it is compiled once
    tile = floor.spm.copy()
    floor.num_cores, floor.num_passes = 1, 1
    any_reduction = False
    core_first, last = np.empty(NUM_DIMS, dtype=np.int64), np.empty(NUM_DIMS, dtype=np.int64)
    full = np.ones(3, dtype=np.int64)
    split = np.ones(3, dtype=np.int64)
    for d in range(NUM_DIMS):
        count = core_tile[d] // tile[d]
        floor.num_cores *= floor.cores[d]
        floor.num_passes *= count
        if workload.is_reduction[d] and count > 1:
            any_reduction = True
        for operand in range(3):
            if not workload.is_relevant[operand, d]:
                full[operand] *= floor.cores[d] * count
                split[operand] *= floor.cores[d]
        # a core in the middle: no other core bounds the time of all from below any better without looking at all
        core_first[d] = floor.cores[d] // 2 * core_tile[d]
        last[d] = core_first[d] + core_tile[d] - tile[d]
    load_i = transfer_cycles(case, I, workload.elem_bits[I], core_first, tile)[0]
    load_w = transfer_cycles(case, W, workload.elem_bits[W], core_first, tile)[0]
    floor.first_cycles = arch.launch_cycles + load_i + load_w
    floor.last_cycles = store_cycles(case, last, tile)[1]
    cycles_i = tensor_cycles(case, I, core_first, core_tile, tile, runs, 1)
    cycles_w = tensor_cycles(case, W, core_first, core_tile, tile, runs, 1)
    cycles_o = tensor_cycles(case, O, core_first, core_tile, tile, runs, 1)
    unused_pj = arch.dram_access_pj / arch.word_bits
    for operand in range(2):
        elems, unused = moved_total(case, operand, workload.elem_bits[operand], tile)
        floor.elems_pj[operand] = elems * words[operand] * (arch.spm_access_pj + arch.dram_access_pj)
        floor.elems_pj[operand] += unused * unused_pj
    elems, unused = moved_total(case, O, workload.out_bits, tile)
    floor.elems_pj[O] = elems * (words[O] * arch.spm_access_pj + words[3] * arch.dram_access_pj) + unused * unused_pj
    for extra in range(3, len(workload.elem_bits)):
        streams = 1
        for d in range(NUM_DIMS):
            if workload.is_relevant[O, d] and not workload.is_relevant[extra, d]:
                streams *= workload.dims[d] // tile[d]
        elems, unused = moved_total(case, extra, workload.elem_bits[extra], tile)
        floor.elems_pj[O] += elems * streams * words[extra + 1] * arch.dram_access_pj + streams * unused * unused_pj
    floor.bound = np.inf
    for keeps in range(2):
        for operand in range(2):
            kept = operand == keeps and not any_reduction
            floor.repeats[keeps, operand] = split[operand] if kept else full[operand]
        repeats_i, repeats_w = floor.repeats[keeps, 0], floor.repeats[keeps, 1]
        floor.energy_pj[keeps] = (
            case.constant_pj + floor.elems_pj[O] + repeats_i * floor.elems_pj[I] + repeats_w * floor.elems_pj[W]
        )
        floor.dma[keeps] = (
            arch.launch_cycles + cycles_o + repeats_i // split[I] * cycles_i + repeats_w // split[W] * cycles_w
        )
    if floor.num_cores > arch.dram_channels:
        _share_channels(case, core_tile, runs, floor)


@kernel
def _share_channels(case: CaseArrays, core_tile: Ints, runs: Ints, floor: PerfectTile) -> None:
    """Raise the floors to what the channels need for all cores, and for the first tiles of all."""
    workload, arch, tile = case.workload, case.arch, floor.spm.copy()
    first = np.zeros(NUM_DIMS, dtype=np.int64)
    cycles_i = tensor_cycles(case, I, first, workload.dims, tile, runs, 0)
    cycles_w = tensor_cycles(case, W, first, workload.dims, tile, runs, 0)
    cycles_o = tensor_cycles(case, O, first, workload.dims, tile, runs, 0)
    for keeps in range(2):
        held = cycles_o + floor.repeats[keeps, I] * cycles_i + floor.repeats[keeps, W] * cycles_w
        floor.dma[keeps] = max(floor.dma[keeps], arch.launch_cycles + -(-held // arch.dram_channels))
    total, most, at = 0, 0, np.zeros(NUM_DIMS, dtype=np.int64)
    while True:
        for d in range(NUM_DIMS):
            first[d] = at[d] * core_tile[d]
        prologue = transfer_cycles(case, I, workload.elem_bits[I], first, tile)[0]
        prologue += transfer_cycles(case, W, workload.elem_bits[W], first, tile)[0]
        total, most = total + prologue, max(most, prologue)
        d = NUM_DIMS - 1
        while d >= 0:
            at[d] += 1
            if at[d] < floor.cores[d]:
                break
            at[d] = 0
            d -= 1
        if d < 0:
            break
    # whichever core is the slowest, its first tiles wait until those of all are served
    floor.first_cycles += max(0, -(-total // arch.dram_channels) - most)


@entry
def list_tiles(
    case: CaseArrays, core_choices: Ints, divisors: Ints, num_divisors: Ints, runs: Ints, floors: NDArray[np.void]
) -> int:
    """Fill ``floors`` with all tiles that fit, single buffers at least; returns how many.

    Args:
        case: What is searched.
        core_choices: ``(n, 8)`` factors across cores.
        divisors: ``(n, 8, m)`` ascending divisors of each core's share.
        num_divisors: ``(n, 8)``.
        runs: Scratch.
        floors: Room for the product of all divisors.
    """
    num, digit = 0, np.zeros(NUM_DIMS, dtype=np.int64)
    tile, core_tile = np.empty(NUM_DIMS, dtype=np.int64), np.empty(NUM_DIMS, dtype=np.int64)
    for choice in range(len(core_choices)):
        for d in range(NUM_DIMS):
            core_tile[d] = case.workload.dims[d] // core_choices[choice, d]
        digit[:] = 0
        while True:
            for d in range(NUM_DIMS):
                tile[d] = divisors[choice, d, digit[d]]
            fits = fits_spm(case.limits, tile, 0)
            if fits:
                floor = floors[num]
                floor.cores[:] = core_choices[choice]
                floor.spm[:] = tile
                floor.fitting = 0
                for double in range(8):
                    if fits_spm(case.limits, tile, double):
                        floor.fitting |= 1 << double
                fill_floor(case, core_tile, runs, floor)
                num += 1
            # a larger tile along the last dim does not fit either
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
                if digit[d] < num_divisors[choice, d]:
                    break
                digit[d] = 0
                d -= 1
            if d < 0:
                break
    return num
