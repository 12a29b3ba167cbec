"""All perfect SPM tiles that fit, with what they cost at DRAM and a floor under everything that uses them.

Energies bound ``_moved_elems`` and ``_unused_once`` of ``cost_model.analytical.energy``; cycles, what ``core_times``
and ``contended_cycles`` of the formula count for a core in the middle and for the channels.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tvm_spm.exact.boxes import store_cycles, transfer_cycles
from tvm_spm.exact.case_arrays import CaseArrays, I, Ints, O, W, fitting_of
from tvm_spm.exact.perfect.axis_tables import AxisTables, loads_cycles, make_axis_tables, moved_total
from tvm_spm.exact.perfect.core_passes import stores_cycles
from tvm_spm.jit import entry, kernel, lean
from tvm_spm.space.legality_batch import fits_spm
from tvm_spm.space.mapping_batch import NUM_DIMS

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


class CoreShare(NamedTuple):
    """What one core does, for one choice of factors across cores.

    Attributes:
        tile: Extents of its loops.
        middle: First indices of a core in the middle.
        own: Of the tensors, as that core loads them.
        all: As all cores load them.
    """

    tile: Ints
    middle: Ints
    own: AxisTables
    all: AxisTables


@kernel
def _share_of(case: CaseArrays, cores: Ints, divisors: Ints, num_divisors: Ints, runs: Ints) -> CoreShare:
    tile, middle = np.empty(NUM_DIMS, dtype=np.int64), np.empty(NUM_DIMS, dtype=np.int64)
    for d in range(NUM_DIMS):
        tile[d] = case.workload.dims[d] // cores[d]
        # no other core bounds the time of all from below any better without looking at all
        middle[d] = cores[d] // 2 * tile[d]
    own = make_axis_tables(case, divisors, num_divisors, middle, tile, runs)
    if cores.prod() <= case.arch.dram_channels:
        return CoreShare(tile, middle, own, own)
    first = np.zeros(NUM_DIMS, dtype=np.int64)
    return CoreShare(tile, middle, own, make_axis_tables(case, divisors, num_divisors, first, case.workload.dims, runs))


@kernel
def fill_floor(case: CaseArrays, share: CoreShare, at: Ints, runs: Ints, floor: PerfectTile) -> None:
    """What all mappings with ``floor.cores`` and ``floor.spm`` have in common; ``at`` are the indices of the tile."""
    core_tile, own = share.tile, share.own
    workload, arch, words = case.workload, case.arch, case.words
    # a copy has the type of any array, so that what takes it is compiled once
    tile = floor.spm.copy()
    floor.num_cores, floor.num_passes = 1, 1
    any_reduction = False
    core_first, last = share.middle, np.empty(NUM_DIMS, dtype=np.int64)
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
        last[d] = core_first[d] + core_tile[d] - tile[d]
    load_i = transfer_cycles(case, I, workload.elem_bits[I], core_first, tile)[0]
    load_w = transfer_cycles(case, W, workload.elem_bits[W], core_first, tile)[0]
    floor.first_cycles = arch.launch_cycles + load_i + load_w
    floor.last_cycles = store_cycles(case, last, tile)[1]
    cycles_i, cycles_w = loads_cycles(case, own, I, at), loads_cycles(case, own, W, at)
    cycles_o = stores_cycles(case, core_first, core_tile, tile, runs, 1)
    unused_pj = arch.dram_access_pj / arch.word_bits
    for operand in range(2):
        elems, unused = moved_total(case, own, operand, at)
        floor.elems_pj[operand] = elems * words[operand] * (arch.spm_access_pj + arch.dram_access_pj)
        floor.elems_pj[operand] += unused * unused_pj
    elems, unused = moved_total(case, own, O, at)
    floor.elems_pj[O] = elems * (words[O] * arch.spm_access_pj + words[3] * arch.dram_access_pj) + unused * unused_pj
    for extra in range(3, len(workload.elem_bits)):
        streams = 1
        for d in range(NUM_DIMS):
            if workload.is_relevant[O, d] and not workload.is_relevant[extra, d]:
                streams *= workload.dims[d] // tile[d]
        elems, unused = moved_total(case, own, extra, at)
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
        _share_channels(case, share, at, runs, floor)


@kernel
def _share_channels(case: CaseArrays, share: CoreShare, digits: Ints, runs: Ints, floor: PerfectTile) -> None:
    """Raise the floors to what the channels need for all cores, and for the first tiles of all."""
    workload, arch, tile, core_tile = case.workload, case.arch, floor.spm.copy(), share.tile
    first = np.zeros(NUM_DIMS, dtype=np.int64)
    cycles_i, cycles_w = loads_cycles(case, share.all, I, digits), loads_cycles(case, share.all, W, digits)
    cycles_o = stores_cycles(case, first, workload.dims, tile, runs, 0)
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
    tile = np.empty(NUM_DIMS, dtype=np.int64)
    for choice in range(len(core_choices)):
        share = _share_of(case, core_choices[choice], divisors[choice], num_divisors[choice], runs)
        digit[:] = 0
        while True:
            for d in range(NUM_DIMS):
                tile[d] = divisors[choice, d, digit[d]]
            fits = fits_spm(case.limits, tile, 0)
            if fits:
                floor = floors[num]
                floor.cores[:] = core_choices[choice]
                floor.spm[:] = tile
                floor.fitting = fitting_of(case, tile)
                fill_floor(case, share, digit, runs, floor)
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
