"""All tiles of a nest whose sizes divide its bounds, how each splits over PEs and RFs, and what every split costs.

A tile is one divisor per loop. Tiles are numbered so that a tile comes after all tiles that divide it.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from cost_model.published.nest import NUM_LOOPS, PublishedMachine, PublishedNest
from cost_model.published.space import Prunes, divisors, spatial_rows
from tvm_spm.jit import entry, kernel
from tvm_spm.workload import Operand

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Number = TypeVar("Number", np.int64, np.float64)

UNREACHED = 1 << 40
"""Cycles of an array tile that no valid split makes; larger than any count of a tile."""


class Lattice(NamedTuple):
    """Divisors of each loop's bound, ascending; ``product[loop, a, b]`` is the digit of their product, or -1."""

    num_divisors: Ints
    divisors: Ints
    stride: Ints
    product: Ints


class Splits(NamedTuple):
    """Every valid way to divide an array tile over PEs (``spatial``) and into their RFs (``rf``), by tile.

    Those of tile ``t`` are ``start[t]`` up to ``start[t + 1]`` of ``pairs``: rows of ``spatial`` and of ``rf``.
    """

    spatial: Ints
    rf: Ints
    start: Ints
    pairs: NDArray[np.int32]


class ArrayTiles(NamedTuple):
    """Per tile the least that any of its splits needs, each least on its own.

    ``stall_cycles`` is an RF pass with its spatial reduction; ``delivered`` counts elements sent to PEs, by operand.
    """

    rf_pass_cycles: Ints
    stall_cycles: Ints
    delivered: Ints


class TileSet(NamedTuple):
    """Tiles of a nest, and which of them fit one SPM buffer."""

    lattice: Lattice
    sizes: Ints
    elems: Ints
    fits_spm: NDArray[np.bool_]


def tile_set(nest: PublishedNest, machine: PublishedMachine, prunes: Prunes) -> TileSet:
    """Every tile, its elements per operand, and whether the SPM holds it and the prunes leave it."""
    lattice = _lattice(nest)
    digits = np.indices(lattice.num_divisors.tolist()).reshape(NUM_LOOPS, -1).T
    sizes = np.ascontiguousarray(lattice.divisors[np.arange(NUM_LOOPS), digits])
    elems = np.stack([_footprints(nest, operand, sizes) for operand in Operand], axis=1)
    num_bytes = elems * machine.elem_bytes
    banks = -(-num_bytes // machine.bank_bytes)
    fits = banks.sum(axis=1) <= machine.spm_buffer_bytes // machine.bank_bytes
    fits &= num_bytes.sum(axis=1) >= prunes.min_spm_share * machine.spm_buffer_bytes
    if prunes.whole_filters:
        for loop in nest.filter_loops:
            fits &= sizes[:, loop] == nest.extents[loop]
    return TileSet(lattice, sizes, elems, fits)


def splits_of(nest: PublishedNest, machine: PublishedMachine, prunes: Prunes, tiles: TileSet) -> Splits:
    """All pairs of spatial and RF factors that are valid and divide the bounds."""
    rf_elems = tiles.elems.sum(axis=1)
    fits_rf = (rf_elems <= machine.rf_elems) & (rf_elems >= prunes.min_rf_share * machine.rf_elems)
    spatial = np.array(list(spatial_rows(nest, machine, prunes)), np.int64).reshape(-1, NUM_LOOPS)
    rf = tiles.sizes[fits_rf]
    lattice = tiles.lattice
    start, pairs = _pair_up(lattice, _digits(lattice, spatial), _digits(lattice, rf), len(tiles.sizes))
    return Splits(spatial, rf, start, pairs)


def array_tiles(nest: PublishedNest, tiles: TileSet, splits: Splits) -> ArrayTiles:
    """The least cycles and deliveries over the splits of every tile."""
    used = np.array([nest.depends(Operand.O, loop) for loop in range(NUM_LOOPS)])
    pes = splits.spatial.prod(axis=1)
    reached = np.stack([pes, pes, splits.spatial[:, used].prod(axis=1)], axis=1)
    elems = np.stack([_footprints(nest, operand, splits.rf) for operand in Operand], axis=1)
    return ArrayTiles(*_least(splits.start, splits.pairs, reached, elems, splits.rf.prod(axis=1)))


def over_divisors(lattice: Lattice, values: NDArray[Number], combine: np.ufunc) -> NDArray[Number]:
    """For each tile the values of all tiles that divide it, itself included, combined (minimum or sum)."""
    grid = values.reshape(tuple(lattice.num_divisors)).copy()
    for loop in range(NUM_LOOPS):
        along = np.moveaxis(grid, loop, 0)
        sizes = lattice.divisors[loop, : lattice.num_divisors[loop]]
        for digit in range(len(sizes) - 1, -1, -1):
            for smaller in np.flatnonzero(sizes[digit] % sizes[:digit] == 0):
                combine(along[digit], along[smaller], out=along[digit])
    return grid.reshape(-1)


def _lattice(nest: PublishedNest) -> Lattice:
    rows = [divisors(extent) for extent in nest.extents]
    num = np.array([len(row) for row in rows], np.int64)
    table = np.ones((NUM_LOOPS, int(num.max())), np.int64)
    product = np.full((NUM_LOOPS, int(num.max()), int(num.max())), -1, np.int64)
    for loop, row in enumerate(rows):
        table[loop, : len(row)] = row
        for a, left in enumerate(row):
            for b, right in enumerate(row):
                if nest.extents[loop] % (left * right) == 0:
                    product[loop, a, b] = row.index(left * right)
    stride = np.array([int(num[loop + 1 :].prod()) for loop in range(NUM_LOOPS)], np.int64)
    return Lattice(num, table, stride, product)


def _digits(lattice: Lattice, sizes: Ints) -> Ints:
    columns = [
        np.searchsorted(lattice.divisors[loop, : lattice.num_divisors[loop]], sizes[:, loop])
        for loop in range(NUM_LOOPS)
    ]
    return np.ascontiguousarray(np.stack(columns, axis=1).astype(np.int64))


def _footprints(nest: PublishedNest, operand: Operand, sizes: Ints) -> Ints:
    elems = np.ones(len(sizes), np.int64)
    for axis in nest.axes(operand):
        elems *= 1 + sum((coefficient * (sizes[:, loop] - 1) for loop, coefficient in axis.terms), np.int64(0))
    return elems


@kernel
def _tile_of(lattice: Lattice, a: Ints, b: Ints) -> int:
    """Number of the tile that is the product of two tiles, -1 if it does not divide the bounds."""
    tile = 0
    for loop in range(NUM_LOOPS):
        digit = lattice.product[loop, a[loop], b[loop]]
        if digit < 0:
            return -1
        tile += digit * lattice.stride[loop]
    return tile


@entry
def _pair_up(lattice: Lattice, spatial: Ints, rf: Ints, num_tiles: int) -> tuple[Ints, NDArray[np.int32]]:
    start = np.zeros(num_tiles + 1, np.int64)
    for p in range(len(spatial)):
        for r in range(len(rf)):
            tile = _tile_of(lattice, spatial[p], rf[r])
            if tile >= 0:
                start[tile + 1] += 1
    start = np.cumsum(start)
    free = start.copy()
    pairs = np.empty((start[-1], 2), np.int32)
    for p in range(len(spatial)):
        for r in range(len(rf)):
            tile = _tile_of(lattice, spatial[p], rf[r])
            if tile >= 0:
                pairs[free[tile], 0], pairs[free[tile], 1] = p, r
                free[tile] += 1
    return start, pairs


@entry
def _least(
    start: Ints, pairs: NDArray[np.int32], reached: Ints, elems: Ints, rf_pass_cycles: Ints
) -> tuple[Ints, Ints, Ints]:
    num_tiles = len(start) - 1
    rf_pass, stall = np.full(num_tiles, UNREACHED, np.int64), np.full(num_tiles, UNREACHED, np.int64)
    delivered = np.full((num_tiles, 3), UNREACHED, np.int64)
    for tile in range(num_tiles):
        for index in range(start[tile], start[tile + 1]):
            p, r = pairs[index]
            # All PEs that add into the same outputs send their partial sums one after the other.
            reduction = elems[r, 2] * (reached[p, 0] - reached[p, 2])
            rf_pass[tile] = min(rf_pass[tile], rf_pass_cycles[r])
            stall[tile] = min(stall[tile], rf_pass_cycles[r] + reduction)
            for operand in range(3):
                delivered[tile, operand] = min(delivered[tile, operand], elems[r, operand] * reached[p, operand])
    return rf_pass, stall, delivered
