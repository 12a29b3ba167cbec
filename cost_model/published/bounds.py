"""Compiled branch and bound over the tilings of the published model.

A tiling is an SPM tile, an array tile that divides it, and a split of the array tile over PEs and RFs. Each step down
has a lower bound on what every tiling below it costs, so that most are never priced. All bounds rest on three facts:

- At either level only one operand is reused, and reusing it as often as its loops allow is never worse than less.
- Cycles and energy of the layer grow with those of an SPM pass, and those with RF passes, stalls and deliveries.
- Which operand stays in the RFs follows from what is reused, so the bounds can follow the same rule.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cost_model.published.batch import (
    NO_OPERAND,
    O,
    Scratch,
    Tables,
    dram_pj,
    fill_transfers,
    last_wait_cycles,
    layer_cycles,
    make_scratch,
    spm_pass_cycles,
    spm_pass_pj,
    tiling_best,
)
from cost_model.published.lattice import UNREACHED, ArrayTiles, Floats, Ints, Lattice, Splits
from cost_model.published.nest import NUM_LOOPS
from tvm_spm.jit import entry, kernel

ROUNDING_PJ = 1.0
"""Taken off every energy bound: the model rounds energies, and floats are added in another order."""

SHRINK = 1 - 1e-12
"""Factor on every bound made of floats, above which the order of additions cannot lift it."""


class Layer(NamedTuple):
    """What does not change within one search. ``metric`` is 0 for EDP, 1 for energy, 2 for cycles."""

    tables: Tables
    lattice: Lattice
    sizes: Ints
    elems: Ints
    splits: Splits
    array: ArrayTiles
    macs: int
    metric: int


class PerMac(NamedTuple):
    """Least cycles and energy per MAC of an SPM pass, over all array tiles that divide a tile, by tile.

    Columns: the operand whose NoC and SPM traffic counts nothing, because it is reused or stays in the RFs.
    """

    cycles: Floats
    energy_pj: Floats


@entry
def per_mac(layer: Layer) -> PerMac:
    """The values of each tile as an array tile; infinite if it has no split. Not yet the least over divisors."""
    num_tiles = len(layer.sizes)
    cycles, energy = np.full((num_tiles, 3), np.inf), np.full((num_tiles, 3), np.inf)
    scratch = make_scratch()
    for tile in range(num_tiles):
        if layer.array.rf_pass_cycles[tile] == UNREACHED:
            continue
        _use_array_tile(layer, scratch, tile)
        num_macs = layer.sizes[tile].prod()
        for free in range(3):
            # A single RF pass in which nothing of ``free`` moves.
            pass_cycles = spm_pass_cycles(
                scratch.noc, layer.array.rf_pass_cycles[tile], layer.array.stall_cycles[tile], 1, NO_OPERAND, 1, free
            )
            cycles[tile, free] = pass_cycles / num_macs * SHRINK
            energy[tile, free] = spm_pass_pj(scratch, 0.0, 1, NO_OPERAND, 1, free) / num_macs * SHRINK
    return PerMac(cycles, energy)


@entry
def bound_spm_tiles(layer: Layer, least: PerMac, tiles: Ints) -> Floats:
    """A value that no tiling with the given SPM tile is below, one per tile."""
    scratch, bounds = make_scratch(), np.full(len(tiles), np.inf)
    outer = np.empty(NUM_LOOPS, np.int64)
    for row in range(len(tiles)):
        tile = tiles[row]
        num_passes, output_passes = _use_spm_tile(layer, scratch, tile, outer)
        num_macs = layer.macs // num_passes
        for free in range(3):
            if np.isinf(least.cycles[tile, free]):
                continue
            pass_cycles = int(num_macs * least.cycles[tile, free])
            pass_pj = num_macs * least.energy_pj[tile, free]
            for moved in range(3):
                visits = num_passes // _most_reuse(layer.tables, outer, moved)
                name = moved if visits < num_passes else NO_OPERAND
                cycles = layer_cycles(scratch, num_passes, name, visits, pass_cycles, 0, 0)
                fetched_pj = dram_pj(scratch, 0.0, num_passes, output_passes, name, visits, NO_OPERAND)
                value = _bound(layer, cycles, num_passes * pass_pj + fetched_pj)
                bounds[row] = min(bounds[row], value)
    return bounds


@entry
def search_spm_tiles(layer: Layer, tiles: Ints, bounds: Floats, best_value: float, best: Ints) -> tuple[int, float]:
    """Prices what may be below ``best_value`` under some SPM tiles, given in ascending order of their bounds.

    Returns:
        How many tilings were priced and the least value; its factors (4, 7) are written to ``best``.
    """
    scratch, num_priced = make_scratch(), 0
    outer, inner, digits = np.empty((3, NUM_LOOPS), np.int64)
    for row in range(len(tiles)):
        if bounds[row] >= best_value:
            break
        tile = tiles[row]
        num_passes, output_passes = _use_spm_tile(layer, scratch, tile, outer)
        digits[:] = 0
        while True:
            array_tile = _number(layer.lattice, digits)
            rf_pass = layer.array.rf_pass_cycles[array_tile]
            if rf_pass != UNREACHED:
                for loop in range(NUM_LOOPS):
                    inner[loop] = layer.sizes[tile, loop] // layer.sizes[array_tile, loop]
                _use_array_tile(layer, scratch, array_tile)
                stall = layer.array.stall_cycles[array_tile]
                if _bound_orders(layer, scratch, outer, inner, output_passes, rf_pass, stall) < best_value:
                    num, best_value = _price_splits(
                        layer, scratch, outer, inner, output_passes, array_tile, best_value, best
                    )
                    num_priced += num
                    _use_spm_tile(layer, scratch, tile, outer)
            if not _next_divisor(layer, tile, digits):
                break
    return num_priced, best_value


@entry
def tilings_at(layer: Layer, tiles: Ints, numbers: Ints) -> Ints:
    """Factors (n, 4, 7) of the given tilings, by SPM tile and number among the tilings with that SPM tile.

    Rows are in ascending order of tile and number, so that all tilings of one tile take a single walk.
    """
    factors, digits = np.empty((len(tiles), 4, NUM_LOOPS), np.int64), np.empty(NUM_LOOPS, np.int64)
    walked, passed, array_tile = -1, 0, 0
    for row in range(len(tiles)):
        tile = tiles[row]
        if tile != walked:
            walked, passed, array_tile = tile, 0, 0
            digits[:] = 0
        start = layer.splits.start
        while numbers[row] - passed >= start[array_tile + 1] - start[array_tile]:
            passed += start[array_tile + 1] - start[array_tile]
            if not _next_divisor(layer, tile, digits):
                raise IndexError("the SPM tile has fewer tilings")
            array_tile = _number(layer.lattice, digits)
        p, r = layer.splits.pairs[start[array_tile] + numbers[row] - passed]
        factors[row, 0] = layer.sizes[-1] // layer.sizes[tile]
        factors[row, 1] = layer.sizes[tile] // layer.sizes[array_tile]
        factors[row, 2], factors[row, 3] = layer.splits.rf[r], layer.splits.spatial[p]
    return factors


@kernel
def _price_splits(
    layer: Layer,
    scratch: Scratch,
    outer: Ints,
    inner: Ints,
    output_passes: int,
    array_tile: int,
    best_value: float,
    best: Ints,
) -> tuple[int, float]:
    factors, num_priced = np.empty((4, NUM_LOOPS), np.int64), 0
    factors[0], factors[1] = outer, inner
    for index in range(layer.splits.start[array_tile], layer.splits.start[array_tile + 1]):
        factors[2] = layer.splits.rf[layer.splits.pairs[index, 1]]
        factors[3] = layer.splits.spatial[layer.splits.pairs[index, 0]]
        num_priced += 1
        cycles, energy, edp = tiling_best(layer.tables, scratch, factors)
        value = edp if layer.metric == 0 else energy if layer.metric == 1 else float(cycles)
        if value < best_value:
            best_value = value
            best[:] = factors
    return num_priced, best_value


@kernel
def _bound_orders(
    layer: Layer, scratch: Scratch, outer: Ints, inner: Ints, output_passes: int, rf_pass: int, stall: int
) -> float:
    """A value that no order and no split of the array tile in ``scratch`` is below."""
    num_spm_passes, num_rf_passes, least = outer.prod(), inner.prod(), np.inf
    for reused in range(3):
        reuse = _most_reuse(layer.tables, inner, reused)
        for moved in range(3):
            visits = num_spm_passes // _most_reuse(layer.tables, outer, moved)
            name = moved if visits < num_spm_passes else NO_OPERAND
            stays = name >= 0 and (reuse if name == reused else 1) == num_rf_passes
            kept = name if stays else NO_OPERAND
            pass_cycles = spm_pass_cycles(scratch.noc, rf_pass, stall, num_rf_passes, reused, reuse, kept)
            pass_pj = spm_pass_pj(scratch, 0.0, num_rf_passes, reused, reuse, kept)
            first = stall if kept == O else 0
            last = last_wait_cycles(scratch.noc, reused, reuse, kept)
            cycles = layer_cycles(scratch, num_spm_passes, name, visits, pass_cycles, first, last)
            moved_pj = dram_pj(scratch, 0.0, num_spm_passes, output_passes, name, visits, kept)
            least = min(least, _bound(layer, cycles, num_spm_passes * pass_pj + moved_pj))
    return least


@kernel
def _bound(layer: Layer, cycles: int, moving_pj: float) -> float:
    tables = layer.tables
    energy = (layer.macs * tables.mac_pj + 4 * layer.macs * tables.rf_pj + moving_pj) * SHRINK - ROUNDING_PJ
    if layer.metric == 0:
        return energy * cycles * SHRINK
    return energy if layer.metric == 1 else float(cycles)


@kernel
def _most_reuse(tables: Tables, factors: Ints, operand: int) -> int:
    """Product of the loops that an operand does not depend on."""
    product = 1
    for loop in range(NUM_LOOPS):
        if not tables.depends[operand, loop]:
            product *= factors[loop]
    return product


@kernel
def _use_array_tile(layer: Layer, scratch: Scratch, tile: int) -> None:
    """Fills the NoC cycles, and the least energy of one visit, of each operand."""
    for operand in range(3):
        noc = layer.elems[tile, operand]
        scratch.noc[operand] = noc
        delivered = layer.array.delivered[tile, operand]
        scratch.visit_pj[operand] = delivered * layer.tables.noc_pj + noc * layer.tables.spm_pj


@kernel
def _use_spm_tile(layer: Layer, scratch: Scratch, tile: int, outer: Ints) -> tuple[int, int]:
    """Fills the DRAM factors and what the DMA transfers cost; returns the SPM passes, and those with other outputs."""
    num_passes, output_passes = 1, 1
    for loop in range(NUM_LOOPS):
        scratch.spm_tile[loop] = layer.sizes[tile, loop]
        outer[loop] = layer.sizes[-1, loop] // layer.sizes[tile, loop]
        num_passes *= outer[loop]
        if layer.tables.depends[O, loop]:
            output_passes *= outer[loop]
    fill_transfers(layer.tables, scratch)
    return num_passes, output_passes


@kernel
def _number(lattice: Lattice, digits: Ints) -> int:
    """Number of the tile with these divisors."""
    number = 0
    for loop in range(NUM_LOOPS):
        number += digits[loop] * lattice.stride[loop]
    return number


@kernel
def _next_divisor(layer: Layer, tile: int, digits: Ints) -> bool:
    """Moves the digits to the next tile that divides ``tile``."""
    for loop in range(NUM_LOOPS - 1, -1, -1):
        size = layer.sizes[tile, loop]
        while layer.lattice.divisors[loop, digits[loop]] < size:
            digits[loop] += 1
            if size % layer.lattice.divisors[loop, digits[loop]] == 0:
                return True
        digits[loop] = 0
    return False
