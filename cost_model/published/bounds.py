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

from cost_model.objective import objective_value
from cost_model.published.batch import (
    NO_OPERAND,
    NestArrays,
    O,
    TilingScratch,
    dram_pj,
    fill_transfers,
    last_wait_cycles,
    layer_cycles,
    make_scratch,
    spm_pass_cycles,
    spm_pass_pj,
    tiling_best,
)
from cost_model.published.lattice import UNREACHED, ArrayTiles, Floats, Ints, Lattice, Splits, TileSet
from cost_model.published.nest import NUM_LOOPS
from tvm_spm.jit import entry, kernel
from tvm_spm.objective import EDP

ROUNDING_PJ = 1.0
"""Taken off every energy bound: the model rounds energies, and floats are added in another order."""

SHRINK = 1 - 1e-12
"""Factor on every bound made of floats, above which the order of additions cannot lift it."""


class TilingSpace(NamedTuple):
    """All tilings of a nest, and what is searched among them.

    ``spm_tiles`` are those in use and ``num_below`` the tilings under each; ``objective`` is a code of
    ``tvm_spm.objective``; ``prices_all`` leaves nothing to bounds and takes, of equally good tilings, the first in the
    order of ``_is_earlier``.
    """

    nest: NestArrays
    tiles: TileSet
    splits: Splits
    array: ArrayTiles
    spm_tiles: Ints
    num_below: Ints
    objective: int
    prices_all: bool

    @property
    def num_tilings(self) -> int:
        """Tilings in the space."""
        return int(self.num_below.sum())


class PerMac(NamedTuple):
    """Least cycles and energy per MAC of an SPM pass, over all array tiles that divide a tile, by tile.

    Columns: the operand whose NoC and SPM traffic counts nothing, because it is reused or stays in the RFs.
    """

    cycles: Floats
    energy_pj: Floats


@entry
def per_mac(space: TilingSpace) -> PerMac:
    """The values of each tile as an array tile; infinite if it has no split. Not yet the least over divisors."""
    num_tiles = len(space.tiles.sizes)
    cycles, energy = np.full((num_tiles, 3), np.inf), np.full((num_tiles, 3), np.inf)
    scratch = make_scratch()
    for tile in range(num_tiles):
        if space.array.rf_pass_cycles[tile] == UNREACHED:
            continue
        _use_array_tile(space, scratch, tile)
        num_macs = space.tiles.sizes[tile].prod()
        for free in range(3):
            # A single RF pass in which nothing of ``free`` moves.
            pass_cycles = spm_pass_cycles(
                scratch.noc, space.array.rf_pass_cycles[tile], space.array.stall_cycles[tile], 1, NO_OPERAND, 1, free
            )
            cycles[tile, free] = pass_cycles / num_macs * SHRINK
            energy[tile, free] = spm_pass_pj(scratch, 0.0, 1, NO_OPERAND, 1, free) / num_macs * SHRINK
    return PerMac(cycles, energy)


@entry
def bound_spm_tiles(space: TilingSpace, least: PerMac) -> Floats:
    """A value that no tiling with an SPM tile is below, for each of ``spm_tiles``."""
    scratch, bounds = make_scratch(), np.full(len(space.spm_tiles), np.inf)
    outer = np.empty(NUM_LOOPS, np.int64)
    for row in range(len(bounds)):
        tile = space.spm_tiles[row]
        num_passes, output_passes = _use_spm_tile(space, scratch, tile, outer)
        num_macs = space.nest.macs // num_passes
        for free in range(3):
            if np.isinf(least.cycles[tile, free]):
                continue
            pass_cycles = int(num_macs * least.cycles[tile, free])
            pass_pj = num_macs * least.energy_pj[tile, free]
            for moved in range(3):
                visits = num_passes // _most_reuse(space.nest, outer, moved)
                name = moved if visits < num_passes else NO_OPERAND
                cycles = layer_cycles(scratch, num_passes, name, visits, pass_cycles, 0, 0)
                fetched_pj = dram_pj(scratch, 0.0, num_passes, output_passes, name, visits, NO_OPERAND)
                value = _bound(space, cycles, num_passes * pass_pj + fetched_pj)
                bounds[row] = min(bounds[row], value)
    return bounds


@entry
def search_spm_tiles(
    space: TilingSpace, tiles: Ints, bounds: Floats, best_value: float, best: Ints
) -> tuple[int, float]:
    """Prices what may be below ``best_value`` under some SPM tiles, given in ascending order of their bounds.

    Returns:
        How many tilings were priced and the least value; its factors (4, 7) are written to ``best``.
    """
    scratch, num_priced = make_scratch(), 0
    factors, digits = np.empty((4, NUM_LOOPS), np.int64), np.empty(NUM_LOOPS, np.int64)
    splits = space.splits
    for row in range(len(tiles)):
        if bounds[row] >= best_value:
            break
        tile = tiles[row]
        _use_spm_tile(space, scratch, tile, factors[0])
        digits[:] = 0
        while True:
            array_tile = _number(space.tiles.lattice, digits)
            if splits.start[array_tile] < splits.start[array_tile + 1]:
                for loop in range(NUM_LOOPS):
                    factors[1, loop] = space.tiles.sizes[tile, loop] // space.tiles.sizes[array_tile, loop]
                if space.prices_all or _bound_orders(space, scratch, factors, array_tile) < best_value:
                    for index in range(splits.start[array_tile], splits.start[array_tile + 1]):
                        factors[2] = splits.rf[splits.pairs[index, 1]]
                        factors[3] = splits.spatial[splits.pairs[index, 0]]
                        num_priced += 1
                        value = tiling_best(space.nest, scratch, factors, space.objective)
                        is_tied = space.prices_all and value == best_value
                        if value < best_value or (is_tied and _is_earlier(factors, best)):
                            best_value = value
                            best[:] = factors
                    _use_spm_tile(space, scratch, tile, factors[0])
            if not _next_divisor(space, tile, digits):
                break
    return num_priced, best_value


@entry
def tilings_at(space: TilingSpace, tiles: Ints, numbers: Ints) -> Ints:
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
        start = space.splits.start
        while numbers[row] - passed >= start[array_tile + 1] - start[array_tile]:
            passed += start[array_tile + 1] - start[array_tile]
            if not _next_divisor(space, tile, digits):
                raise IndexError("the SPM tile has fewer tilings")
            array_tile = _number(space.tiles.lattice, digits)
        p, r = space.splits.pairs[start[array_tile] + numbers[row] - passed]
        factors[row, 0] = space.tiles.sizes[-1] // space.tiles.sizes[tile]
        factors[row, 1] = space.tiles.sizes[tile] // space.tiles.sizes[array_tile]
        factors[row, 2], factors[row, 3] = space.splits.rf[r], space.splits.spatial[p]
    return factors


@kernel
def _is_earlier(factors: Ints, others: Ints) -> bool:
    """Whether the spatial factors come first in lexicographic order; if equal, the RF ones; if equal, the SPM ones."""
    for level in range(3, 0, -1):
        for loop in range(NUM_LOOPS):
            if factors[level, loop] != others[level, loop]:
                return factors[level, loop] < others[level, loop]
    return False


@kernel
def _bound_orders(space: TilingSpace, scratch: TilingScratch, factors: Ints, array_tile: int) -> float:
    """A value that no order and no split of an array tile is below, under the DRAM and SPM ``factors``."""
    nest = space.nest
    _use_array_tile(space, scratch, array_tile)
    rf_pass, stall = space.array.rf_pass_cycles[array_tile], space.array.stall_cycles[array_tile]
    num_spm_passes, num_rf_passes, output_passes, least = 1, 1, 1, np.inf
    for loop in range(NUM_LOOPS):
        num_spm_passes *= factors[0, loop]
        num_rf_passes *= factors[1, loop]
        if nest.depends[O, loop]:
            output_passes *= factors[0, loop]
    for reused in range(3):
        reuse = _most_reuse(nest, factors[1], reused)
        for moved in range(3):
            visits = num_spm_passes // _most_reuse(nest, factors[0], moved)
            name = moved if visits < num_spm_passes else NO_OPERAND
            stays = name >= 0 and (reuse if name == reused else 1) == num_rf_passes
            kept = name if stays else NO_OPERAND
            pass_cycles = spm_pass_cycles(scratch.noc, rf_pass, stall, num_rf_passes, reused, reuse, kept)
            pass_pj = spm_pass_pj(scratch, 0.0, num_rf_passes, reused, reuse, kept)
            first = stall if kept == O else 0
            last = last_wait_cycles(scratch.noc, reused, reuse, kept)
            cycles = layer_cycles(scratch, num_spm_passes, name, visits, pass_cycles, first, last)
            moved_pj = dram_pj(scratch, 0.0, num_spm_passes, output_passes, name, visits, kept)
            least = min(least, _bound(space, cycles, num_spm_passes * pass_pj + moved_pj))
    return least


@kernel
def _bound(space: TilingSpace, cycles: int, moving_pj: float) -> float:
    nest = space.nest
    compute_pj = nest.macs * nest.machine.mac_pj + 4 * nest.macs * nest.machine.rf_pj
    energy_pj = (compute_pj + moving_pj) * SHRINK - ROUNDING_PJ
    value = objective_value(space.objective, cycles, energy_pj)
    return value * SHRINK if space.objective == EDP else value


@kernel
def _most_reuse(nest: NestArrays, factors: Ints, operand: int) -> int:
    """Product of the loops that an operand does not depend on."""
    product = 1
    for loop in range(NUM_LOOPS):
        if not nest.depends[operand, loop]:
            product *= factors[loop]
    return product


@kernel
def _use_array_tile(space: TilingSpace, scratch: TilingScratch, tile: int) -> None:
    """Fills the NoC cycles, and the least energy of one visit, of each operand."""
    for operand in range(3):
        noc = space.tiles.elems[tile, operand]
        scratch.noc[operand] = noc
        delivered = space.array.delivered[tile, operand]
        scratch.visit_pj[operand] = delivered * space.nest.machine.noc_pj + noc * space.nest.machine.spm_pj


@kernel
def _use_spm_tile(space: TilingSpace, scratch: TilingScratch, tile: int, outer: Ints) -> tuple[int, int]:
    """Fills the DRAM factors and what the DMA transfers cost; returns the SPM passes, and those with other outputs."""
    num_passes, output_passes = 1, 1
    for loop in range(NUM_LOOPS):
        scratch.spm_tile[loop] = space.tiles.sizes[tile, loop]
        outer[loop] = space.tiles.sizes[-1, loop] // space.tiles.sizes[tile, loop]
        num_passes *= outer[loop]
        if space.nest.depends[O, loop]:
            output_passes *= outer[loop]
    fill_transfers(space.nest, scratch)
    return num_passes, output_passes


@kernel
def _number(lattice: Lattice, digits: Ints) -> int:
    """Number of the tile with these divisors."""
    number = 0
    for loop in range(NUM_LOOPS):
        number += digits[loop] * lattice.stride[loop]
    return number


@kernel
def _next_divisor(space: TilingSpace, tile: int, digits: Ints) -> bool:
    """Moves the digits to the next tile that divides ``tile``."""
    for loop in range(NUM_LOOPS - 1, -1, -1):
        size = space.tiles.sizes[tile, loop]
        while space.tiles.lattice.divisors[loop, digits[loop]] < size:
            digits[loop] += 1
            if size % space.tiles.lattice.divisors[loop, digits[loop]] == 0:
                return True
        digits[loop] = 0
    return False
