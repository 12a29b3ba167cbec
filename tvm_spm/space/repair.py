"""Moves a row of a ``MappingBatch`` to the nearest point of the map space; whoever draws or changes rows ends here."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tvm_spm.jit import lean
from tvm_spm.space.constraints_batch import ANY_BUFFERS, COLS, ROWS
from tvm_spm.space.knobs import (
    CORE_TILE,
    IS_DONE,
    IS_WHOLE,
    KEPT,
    LOOPS,
    Ints,
    Knobs,
    bound_below,
    bound_rf,
    bound_tile,
    enforce_order,
    repair_bound_axes,
    repair_bound_cores,
)
from tvm_spm.space.legality_batch import fits_rf, fits_spm, spills
from tvm_spm.space.mapping_batch import NO_DIM, NUM_DIMS, MappingBatch
from tvm_spm.space.tiles import snap_factor, snap_rf, snap_tile, tile_below


def empty_batch(num_mappings: int) -> MappingBatch:
    """Rows of the mapping that does one element at a time."""

    def ones() -> NDArray[np.int64]:
        return np.ones((num_mappings, NUM_DIMS), dtype=np.int64)

    def orders() -> NDArray[np.int8]:
        return np.full((num_mappings, NUM_DIMS), NO_DIM, dtype=np.int8)

    flags = np.zeros(num_mappings, dtype=np.int8)
    spill = np.zeros(num_mappings, dtype=np.bool_)
    return MappingBatch(ones(), ones(), ones(), ones(), ones(), orders(), orders(), flags, flags.copy(), spill)


@lean
def pick_below(rng: Generator, limit: int) -> int:
    """A random integer from 0 up to, not including, ``limit``."""
    return int(rng.random() * limit)


@lean
def _cap_product(rng: Generator, factors: NDArray[np.int64], available: int) -> None:
    """Give up random factors until the product is available."""
    first = pick_below(rng, NUM_DIMS)
    for i in range(NUM_DIMS):
        product = 1
        for d in range(NUM_DIMS):
            product *= factors[d]
            if product > available:
                break
        if product <= available:
            return
        factors[(first + i) % NUM_DIMS] = 1


@lean
def _repair_cores(knobs: Knobs, rng: Generator, cores: NDArray[np.int64], core_tile: NDArray[np.int64]) -> None:
    limits = knobs.limits
    for d in range(NUM_DIMS):
        cores[d] = 1 if limits.is_reduction[d] else snap_factor(limits.extents[d], cores[d], knobs.perfect)
    _cap_product(rng, cores, limits.num_cores)
    for d in range(NUM_DIMS):
        core_tile[d] = -(-limits.extents[d] // cores[d])


@lean
def repair_axes(
    knobs: Knobs, rng: Generator, rows: NDArray[np.int64], cols: NDArray[np.int64], core_tile: NDArray[np.int64]
) -> None:
    """Cut factors along rows and columns to what the array and a core's share offer."""
    for d in range(NUM_DIMS):
        rows[d] = min(rows[d], core_tile[d]) if knobs.may_rows[d] else 1
        cols[d] = min(cols[d], core_tile[d]) if knobs.may_cols[d] else 1
    _cap_product(rng, rows, knobs.limits.num_rows)
    _cap_product(rng, cols, knobs.limits.num_cols)
    for d in range(NUM_DIMS):
        if knobs.perfect:
            rows[d] = snap_factor(core_tile[d], rows[d], True)
            cols[d] = snap_factor(core_tile[d] // rows[d], cols[d], True)
        else:
            cols[d] = min(cols[d], core_tile[d] // rows[d])


@lean
def _snap_dim(knobs: Knobs, batch: MappingBatch, row: int, d: int, core_tile: int, wanted: int) -> None:
    num_pes = batch.rows[row, d] * batch.cols[row, d]
    if knobs.is_bound[d]:
        tile = bound_tile(knobs.rules, d, core_tile, num_pes, wanted, knobs.perfect)
        if tile:
            batch.spm[row, d] = tile
            batch.rf[row, d] = bound_rf(knobs.rules, d, tile, num_pes, batch.rf[row, d], knobs.perfect)
            return
    batch.spm[row, d] = snap_tile(core_tile, wanted, num_pes, knobs.perfect)
    batch.rf[row, d] = snap_rf(batch.spm[row, d], num_pes, batch.rf[row, d], knobs.perfect)


@lean
def _shrink_rf(knobs: Knobs, batch: MappingBatch, row: int, rng: Generator) -> None:
    rf = batch.rf[row]
    while not fits_rf(knobs.limits, rf, batch.rf_double[row]):
        first, shrunk = pick_below(rng, NUM_DIMS), False
        for i in range(NUM_DIMS):
            d = (first + i) % NUM_DIMS
            if rf[d] > 1:
                num_pes = batch.rows[row, d] * batch.cols[row, d]
                wanted = rf[d] - 1 if rng.random() < 0.5 else (rf[d] + 1) // 2
                if knobs.is_bound[d]:
                    tile = bound_rf(knobs.rules, d, batch.spm[row, d], num_pes, wanted, knobs.perfect)
                    if tile == 0 or tile >= rf[d]:
                        continue
                    rf[d] = tile
                else:
                    rf[d] = snap_rf(batch.spm[row, d], num_pes, wanted, knobs.perfect)
                shrunk = True
                break
        if not shrunk:
            if batch.rf_double[row] == 0 or knobs.rules.double[1] != ANY_BUFFERS:
                return
            batch.rf_double[row] &= batch.rf_double[row] - 1


@lean
def _choose_whole(
    knobs: Knobs,
    batch: MappingBatch,
    row: int,
    rng: Generator,
    core_tile: NDArray[np.int64],
    is_whole: Ints,
) -> None:
    """Give one of two dims all of a core's share where both may not loop at DRAM.

    A rule puts the loop over the first, a reduction, outside the other one, which would evict unfinished outputs.
    """
    limits, spm = knobs.limits, batch.spm[row]
    for outer in range(NUM_DIMS):
        for inner in range(NUM_DIMS):
            if not knobs.rules.outside[0, outer, inner] or not limits.is_reduction[outer] or limits.is_reduction[inner]:
                continue
            if is_whole[outer] or is_whole[inner]:
                continue
            outer_loops, inner_loops = spm[outer] < core_tile[outer], spm[inner] < core_tile[inner]
            first = inner if outer_loops and not inner_loops else outer
            if outer_loops == inner_loops and rng.random() < 0.5:
                first = inner
            for d in (first, outer + inner - first):
                _snap_dim(knobs, batch, row, d, core_tile[d], core_tile[d])
                if spm[d] == core_tile[d]:
                    is_whole[d] = 1
                    break


@lean
def _shrink_spm_once(
    knobs: Knobs,
    batch: MappingBatch,
    row: int,
    rng: Generator,
    core_tile: NDArray[np.int64],
    is_whole: Ints,
) -> bool:
    first = pick_below(rng, NUM_DIMS)
    for i in range(NUM_DIMS):
        d = (first + i) % NUM_DIMS
        num_pes = batch.rows[row, d] * batch.cols[row, d]
        spm = batch.spm[row, d]
        if is_whole[d]:
            below = 0
        elif knobs.is_bound[d]:
            below = bound_below(knobs.rules, d, core_tile[d], num_pes, spm, knobs.perfect)
        else:
            below = tile_below(core_tile[d], spm, num_pes, knobs.perfect)
        if below:
            if rng.random() < 0.5:
                below = min(below, snap_tile(core_tile[d], (spm + 1) // 2, num_pes, knobs.perfect))
            _snap_dim(knobs, batch, row, d, core_tile[d], below)
            if batch.spm[row, d] < spm:
                return True
    if batch.spm_double[row] and knobs.rules.double[0] == ANY_BUFFERS:
        batch.spm_double[row] &= batch.spm_double[row] - 1
        return True
    for i in range(NUM_DIMS):
        d = (first + i) % NUM_DIMS
        if knobs.is_bound[d] and (
            max(knobs.rules.low[ROWS, d], knobs.rules.low[COLS, d]) > 1 or not knobs.left[d, batch.cores[row, d], 1]
        ):
            continue
        if batch.rows[row, d] * batch.cols[row, d] > 1:
            batch.rows[row, d] = 1
            batch.cols[row, d] = 1
            _snap_dim(knobs, batch, row, d, core_tile[d], batch.spm[row, d])
            return True
    return False


@lean
def _repair_order(
    knobs: Knobs,
    rng: Generator,
    order: NDArray[np.int8],
    grouped: bool,
    outside: NDArray[np.bool_],
    scratch: Ints,
) -> None:
    """Keep the ``LOOPS`` that iterate, insert missing ones anywhere; grouped: reduction loops go inside all others."""
    kept, loops, seen = scratch[KEPT], scratch[LOOPS], scratch[IS_DONE]
    for d in range(NUM_DIMS):
        seen[d] = 0
    count = 0
    for i in range(NUM_DIMS):
        d = order[i]
        if d != NO_DIM and loops[d] and not seen[d]:
            seen[d] = 1
            kept[count] = d
            count += 1
    for d in range(NUM_DIMS):
        if loops[d] and not seen[d]:
            place = pick_below(rng, count + 1)
            for i in range(count, place, -1):
                kept[i] = kept[i - 1]
            kept[place] = d
            count += 1
    for i in range(NUM_DIMS):
        order[i] = NO_DIM
    filled = 0
    for reduction in (False, True):
        for i in range(count):
            if not grouped or knobs.limits.is_reduction[kept[i]] == reduction:
                order[filled] = kept[i]
                filled += 1
        if not grouped:
            break
    if knobs.has_order:
        enforce_order(outside, knobs.limits.is_reduction, grouped, order, count, scratch)


@lean
def repair_row(knobs: Knobs, batch: MappingBatch, row: int, rng: Generator, scratch: Ints) -> None:
    """Move a row to a point of the space nearby, small enough for the memories if that is possible at all."""
    core_tile, is_whole = scratch[CORE_TILE], scratch[IS_WHOLE]
    if knobs.has_bound:
        repair_bound_cores(knobs, pick_below(rng, NUM_DIMS), batch.cores[row], scratch)
        first = pick_below(rng, NUM_DIMS)
        repair_bound_axes(knobs, first, batch.cores[row], batch.rows[row], batch.cols[row], scratch)
    else:
        _repair_cores(knobs, rng, batch.cores[row], core_tile)
        repair_axes(knobs, rng, batch.rows[row], batch.cols[row], core_tile)
    if knobs.rules.double[0] != ANY_BUFFERS:
        batch.spm_double[row] = knobs.rules.double[0]
    if knobs.rules.double[1] != ANY_BUFFERS:
        batch.rf_double[row] = knobs.rules.double[1]
    for d in range(NUM_DIMS):
        _snap_dim(knobs, batch, row, d, core_tile[d], batch.spm[row, d])
        is_whole[d] = 0
    if knobs.has_order and not knobs.allow_spill:
        _choose_whole(knobs, batch, row, rng, core_tile, is_whole)
    while not fits_spm(knobs.limits, batch.spm[row], batch.spm_double[row]):
        if not _shrink_spm_once(knobs, batch, row, rng, core_tile, is_whole):
            break
    _shrink_rf(knobs, batch, row, rng)
    for level in range(2):
        for d in range(NUM_DIMS):
            array = batch.rf[row, d] * batch.rows[row, d] * batch.cols[row, d]
            scratch[LOOPS, d] = core_tile[d] > batch.spm[row, d] if level == 0 else batch.spm[row, d] > array
        order = batch.dram_order[row] if level == 0 else batch.spm_order[row]
        _repair_order(knobs, rng, order, level == 0 and not knobs.allow_spill, knobs.rules.outside[level], scratch)
    batch.spill[row] = knobs.allow_spill and spills(knobs.limits, core_tile, batch.spm[row], batch.dram_order[row])
