"""``model.py`` for many tilings at once: the same integers and the same float additions, compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.objective import objective_value
from cost_model.published.nest import NUM_LOOPS, PublishedMachine, PublishedNest
from tvm_spm.jit import entry, kernel
from tvm_spm.workload import Operand

MAX_AXES = 4
MAX_TERMS = 2
MAX_CLASSES = 16
NO_OPERAND = -1
"""Stands where no operand is reused, and where none stays in the RFs."""

I, W, O = Operand.I.value, Operand.W.value, Operand.O.value


class NestArrays(NamedTuple):
    """A nest and its machine for compiled code; operands are rows in the order ``I W O``."""

    machine: PublishedMachine
    macs: int
    num_axes: NDArray[np.int64]
    axis_extent: NDArray[np.int64]
    axis_loop: NDArray[np.int64]
    axis_coefficient: NDArray[np.int64]
    depends: NDArray[np.bool_]


class TilingScratch(NamedTuple):
    """Arrays that one thread reuses for every tiling; rows of ``classes`` are operand and reuse, DRAM then SPM."""

    array_tile: NDArray[np.int64]
    spm_tile: NDArray[np.int64]
    noc: NDArray[np.int64]
    dma: NDArray[np.int64]
    fetch_pj: NDArray[np.float64]
    visit_pj: NDArray[np.float64]
    free: NDArray[np.int64]
    classes: NDArray[np.int64]


def nest_arrays(nest: PublishedNest, machine: PublishedMachine) -> NestArrays:
    """Arrays for the compiled functions."""
    shape = (len(Operand), MAX_AXES)
    extent, loops = np.ones(shape, np.int64), np.zeros((*shape, MAX_TERMS), np.int64)
    coefficients = np.zeros_like(loops)
    for operand in Operand:
        for index, axis in enumerate(nest.axes(operand)):
            extent[operand.value, index] = axis.extent
            for term, (loop, coefficient) in enumerate(axis.terms):
                loops[operand.value, index, term] = loop
                coefficients[operand.value, index, term] = coefficient
    return NestArrays(
        machine=machine,
        macs=nest.macs,
        num_axes=np.array([len(nest.axes(operand)) for operand in Operand], np.int64),
        axis_extent=extent,
        axis_loop=loops,
        axis_coefficient=coefficients,
        depends=np.array([[nest.depends(operand, loop) for loop in range(NUM_LOOPS)] for operand in Operand], np.bool_),
    )


@kernel
def make_scratch() -> TilingScratch:
    """Uninitialised arrays for ``tiling_best``."""
    return TilingScratch(
        np.empty(NUM_LOOPS, np.int64),
        np.empty(NUM_LOOPS, np.int64),
        np.empty(3, np.int64),
        np.empty(3, np.int64),
        np.empty(3, np.float64),
        np.empty(3, np.float64),
        np.empty(NUM_LOOPS, np.int64),
        np.empty((4, MAX_CLASSES), np.int64),
    )


@entry
def batch_best(nest: NestArrays, factors: NDArray[np.int64], objective: int) -> NDArray[np.float64]:
    """Least value of an objective over all loop orders of each tiling.

    Args:
        nest: The loops and the accelerator.
        factors: ``(n, 4, 7)``: levels ``DRAM SPM RF spatial``, loops in the order of ``PublishedNest.dims``.
        objective: A code of ``tvm_spm.objective``.
    """
    scratch, values = make_scratch(), np.empty(len(factors), np.float64)
    for row in range(len(factors)):
        values[row] = tiling_best(nest, scratch, factors[row], objective)
    return values


@kernel
def axis_span(nest: NestArrays, operand: int, axis: int, tile: NDArray[np.int64]) -> int:
    """Elements of one axis that a tile spans."""
    span = 1
    for term in range(MAX_TERMS):
        span += nest.axis_coefficient[operand, axis, term] * (tile[nest.axis_loop[operand, axis, term]] - 1)
    return span


@kernel
def footprint(nest: NestArrays, operand: int, tile: NDArray[np.int64]) -> int:
    """Elements of the bounding box of a tile."""
    elems = 1
    for axis in range(nest.num_axes[operand]):
        elems *= axis_span(nest, operand, axis, tile)
    return elems


@kernel
def _bursts(nest: NestArrays, operand: int, tile: NDArray[np.int64]) -> tuple[int, int]:
    elems, num, is_open = 1, 1, True
    for axis in range(nest.num_axes[operand] - 1, -1, -1):
        span = axis_span(nest, operand, axis, tile)
        if is_open:
            elems *= span
            is_open = span == nest.axis_extent[operand, axis]
        else:
            num *= span
    return num, elems


@kernel
def _reuse_classes(
    nest: NestArrays, factors: NDArray[np.int64], free: NDArray[np.int64], classes: NDArray[np.int64], row: int
) -> int:
    """Fills two rows of ``classes``: the reused operand and its reuse; returns how many classes there are."""
    num, num_loops, needed_by_all = 0, 0, False
    for loop in range(NUM_LOOPS):
        if factors[loop] > 1:
            num_loops += 1
            if nest.depends[I, loop] and nest.depends[W, loop] and nest.depends[O, loop]:
                needed_by_all = True
    for operand in range(3):
        num_free = 0
        for loop in range(NUM_LOOPS):
            if factors[loop] > 1 and not nest.depends[operand, loop]:
                free[num_free] = factors[loop]
                num_free += 1
        if num_free == 0:
            continue
        begin, every = num, (1 << num_free) - 1
        for chosen in range(1 if num_free < num_loops else every, every + 1):
            product = 1
            for index in range(num_free):
                if chosen >> index & 1:
                    product *= free[index]
            is_new = True
            for known in range(begin, num):
                if classes[row + 1, known] == product:
                    is_new = False
            if is_new:
                classes[row, num], classes[row + 1, num] = operand, product
                num += 1
    if needed_by_all or num_loops == 0:
        classes[row, num], classes[row + 1, num] = NO_OPERAND, 1
        num += 1
    return num


@kernel
def spm_pass_cycles(
    noc: NDArray[np.int64], rf_pass: int, stall: int, num_passes: int, reused: int, reuse: int, kept: int
) -> int:
    """As ``model._spm_pass_cycles``: one operand has ``reuse``, the others 1; partial sums wait ``stall``."""
    every, rare = 0, 0
    for operand in range(3):
        if operand != kept:
            if operand == reused and reuse > 1:
                rare = max(rare, noc[operand])
            else:
                every = max(every, noc[operand])
    output_is_rare = reused == O and reuse > 1
    if kept != O and not output_is_rare:
        cycles = (every + stall) * num_passes
        level = every
    else:
        level = max(rf_pass, every)
        cycles = level * num_passes
    if rare > 0:
        cycles += max(0, rare - level) * num_passes // reuse
        if output_is_rare:
            cycles += stall * num_passes // reuse
    return cycles


@kernel
def fill_transfers(nest: NestArrays, scratch: TilingScratch) -> None:
    """Fills what one DMA transfer of each operand's SPM tile costs."""
    for operand in range(3):
        num_bursts, elems = _bursts(nest, operand, scratch.spm_tile)
        dma_cycles = (
            nest.machine.dma_startup_cycles + nest.machine.dma_cycles_per_byte * nest.machine.elem_bytes * elems
        )
        scratch.dma[operand] = num_bursts * int(np.ceil(dma_cycles * nest.machine.clock_hz / nest.machine.dma_clock_hz))
        scratch.fetch_pj[operand] = num_bursts * elems * nest.machine.dram_pj


@kernel
def _fill_visits(
    nest: NestArrays, scratch: TilingScratch, factors: NDArray[np.int64], pes: int, output_pes: int
) -> int:
    """Fills what each operand costs per visit of the PE array; returns the cycles of a spatial reduction."""
    reduction = 0
    for operand in range(3):
        noc = footprint(nest, operand, scratch.array_tile)
        rf_elems = footprint(nest, operand, factors[2])
        reached = pes
        if operand == O:
            reached = output_pes
            reduction = rf_elems * (pes // output_pes - 1) * output_pes
        scratch.noc[operand] = noc
        scratch.visit_pj[operand] = rf_elems * reached * nest.machine.noc_pj + noc * nest.machine.spm_pj
    return reduction


@kernel
def last_wait_cycles(noc: NDArray[np.int64], reused: int, reuse: int, kept: int) -> int:
    """How much longer the kept operand takes to leave or enter the RFs than what is sent in every RF pass."""
    if kept == NO_OPERAND:
        return 0
    always_sent = 0
    for operand in range(3):
        if operand != kept and (reuse == 1 or operand != reused):
            always_sent = max(always_sent, noc[operand])
    return max(0, noc[kept] - always_sent)


@kernel
def spm_pass_pj(
    scratch: TilingScratch, reduction_pj: float, num_passes: int, reused: int, reuse: int, kept: int
) -> float:
    """NoC and SPM energy of one SPM pass, without the operand that stays in the RFs."""
    total = 0.0
    for operand in (O, I, W):
        if operand != kept:
            visits = num_passes // reuse if operand == reused else num_passes
            if operand == O:
                total += visits * (2 * scratch.visit_pj[operand] + reduction_pj)
            else:
                total += visits * scratch.visit_pj[operand]
    return total


@kernel
def dram_pj(
    scratch: TilingScratch, reduction_pj: float, num_passes: int, output_passes: int, moved: int, visits: int, kept: int
) -> float:
    """DRAM energy of the layer, with what the operand that stays in the RFs costs between SPM passes."""
    total = 0.0
    for operand in (O, I, W):
        fetches = visits if operand == moved else num_passes
        if operand == O and fetches > 1:
            fetches = 2 * fetches - output_passes
        total += scratch.fetch_pj[operand] * fetches
        if operand == kept:
            total += (scratch.visit_pj[operand] + (reduction_pj if operand == O else 0.0)) * visits
    return total


@kernel
def layer_cycles(
    scratch: TilingScratch, num_passes: int, moved: int, visits: int, spm_cycles: int, keep_first: int, keep_last: int
) -> int:
    """As ``model._layer_cycles``; ``moved`` is the operand with reuse at DRAM, fetched ``visits`` times."""
    every_pass = 2 * scratch.dma[O] + scratch.dma[I] + scratch.dma[W]
    if moved == NO_OPERAND:
        return max(every_pass, spm_cycles) * num_passes
    transfer = scratch.dma[moved]
    every_pass -= 2 * transfer if moved == O else transfer
    base = max(every_pass, spm_cycles)
    first = max(every_pass + transfer, spm_cycles + keep_first)
    last = max(every_pass + (transfer if moved == O else 0), spm_cycles + keep_last)
    return base * num_passes + visits * (max(0, first - base) + max(0, last - base))


@kernel
def tiling_best(nest: NestArrays, scratch: TilingScratch, factors: NDArray[np.int64], objective: int) -> float:
    """Least value of an objective of one tiling (4, 7) over all loop orders."""
    num_spm_passes, num_rf_passes, rf_pass, pes, output_pes, output_passes = 1, 1, 1, 1, 1, 1
    for loop in range(NUM_LOOPS):
        scratch.array_tile[loop] = factors[2, loop] * factors[3, loop]
        scratch.spm_tile[loop] = scratch.array_tile[loop] * factors[1, loop]
        num_spm_passes *= factors[0, loop]
        num_rf_passes *= factors[1, loop]
        rf_pass *= factors[2, loop]
        pes *= factors[3, loop]
        if nest.depends[O, loop]:
            output_passes *= factors[0, loop]
            output_pes *= factors[3, loop]
    fill_transfers(nest, scratch)
    reduction = _fill_visits(nest, scratch, factors, pes, output_pes)
    reduction_pj = reduction * (3 * nest.machine.rf_pj + nest.machine.noc_pj + nest.machine.mac_pj)
    compute_pj = nest.macs * nest.machine.mac_pj + 4 * nest.macs * nest.machine.rf_pj
    classes, noc = scratch.classes, scratch.noc
    num_dram = _reuse_classes(nest, factors[0], scratch.free, classes, 0)
    num_spm = _reuse_classes(nest, factors[1], scratch.free, classes, 2)

    best = np.inf
    for s in range(num_spm):
        reused, reuse = classes[2, s], classes[3, s]
        for kept in range(NO_OPERAND, 3):
            # An operand stays in the RFs across SPM passes if no loop of the SPM level changes it.
            if kept >= 0 and (reuse if kept == reused else 1) != num_rf_passes:
                continue
            spm_cycles = spm_pass_cycles(noc, rf_pass, rf_pass + reduction, num_rf_passes, reused, reuse, kept)
            pass_pj = spm_pass_pj(scratch, reduction_pj, num_rf_passes, reused, reuse, kept)
            keep_first = reduction + rf_pass if kept == O else 0
            keep_last = last_wait_cycles(noc, reused, reuse, kept)
            for d in range(num_dram):
                moved, visits = classes[0, d], num_spm_passes // classes[1, d]
                stays = moved >= 0 and (reuse if moved == reused else 1) == num_rf_passes
                if kept != (moved if stays else NO_OPERAND):
                    continue
                cycles = layer_cycles(scratch, num_spm_passes, moved, visits, spm_cycles, keep_first, keep_last)
                moved_pj = dram_pj(scratch, reduction_pj, num_spm_passes, output_passes, moved, visits, kept)
                energy = np.rint(compute_pj + num_spm_passes * pass_pj + moved_pj)
                best = min(best, objective_value(objective, cycles, energy))
    return best
