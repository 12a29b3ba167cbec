"""Draws, changes, crosses and fingerprints rows of a ``MappingBatch`` within a map space."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tvm_spm.jit import entry, lean
from tvm_spm.space.knobs import CORE_TILE, Ints, Knobs
from tvm_spm.space.mapping_batch import NO_DIM, NUM_DIMS, MappingBatch
from tvm_spm.space.repair import pick_below, repair_axes, repair_row
from tvm_spm.space.tiles import random_rf, random_tile, snap_factor, snap_tile, tile_above, tile_below

DRAW, MUTATE, CROSS = range(3)

NUM_MUTATIONS = 9
BUFFERING = 7
"""The mutation that always has something to change."""


@lean
def _shuffle(rng: Generator, order: NDArray[np.int8]) -> None:
    for i in range(NUM_DIMS):
        order[i] = i
    for i in range(NUM_DIMS - 1, 0, -1):
        j = pick_below(rng, i + 1)
        order[i], order[j] = order[j], order[i]


@lean
def _draw_factor(rng: Generator, limit: int) -> int:
    """Often all that is left, so that samples fill an axis; any smaller factor now and then."""
    draw = rng.random()
    if limit <= 1 or draw < 0.3:
        return 1
    return limit if draw < 0.75 else 1 + pick_below(rng, limit)


@lean
def _draw_row(knobs: Knobs, batch: MappingBatch, row: int, rng: Generator, core_tile: NDArray[np.int64]) -> None:
    limits, order = knobs.limits, batch.dram_order[row]
    cores, rows, cols = batch.cores[row], batch.rows[row], batch.cols[row]
    _shuffle(rng, order)
    budget = limits.num_cores
    for d in order:
        if not limits.is_reduction[d]:
            cores[d] = snap_factor(limits.extents[d], _draw_factor(rng, min(budget, limits.extents[d])), knobs.perfect)
            budget //= cores[d]
        core_tile[d] = -(-limits.extents[d] // cores[d])
    _shuffle(rng, order)
    num_rows, num_cols = limits.num_rows, limits.num_cols
    rows_first = rng.random() < 0.5
    for d in order:
        for axis in range(2):
            if (axis == 0) == rows_first and knobs.may_rows[d]:
                rows[d] = _draw_factor(rng, min(num_rows, core_tile[d] // cols[d]))
                num_rows //= rows[d]
            elif (axis == 0) != rows_first and knobs.may_cols[d]:
                cols[d] = _draw_factor(rng, min(num_cols, core_tile[d] // rows[d]))
                num_cols //= cols[d]
    repair_axes(knobs, rng, rows, cols, core_tile)
    for d in range(NUM_DIMS):
        num_pes = rows[d] * cols[d]
        batch.spm[row, d] = random_tile(rng, core_tile[d], num_pes, knobs.perfect)
        batch.rf[row, d] = random_rf(rng, batch.spm[row, d], num_pes, knobs.perfect)
    _shuffle(rng, order)
    _shuffle(rng, batch.spm_order[row])
    batch.spm_double[row] = pick_below(rng, 8)
    batch.rf_double[row] = pick_below(rng, 8)


@lean
def _random_dim(knobs: Knobs, rng: Generator) -> int:
    d = pick_below(rng, NUM_DIMS)
    while knobs.limits.extents[d] == 1:
        d = (d + 1) % NUM_DIMS
    return d


@lean
def _mutate_axis(
    rng: Generator,
    factors: NDArray[np.int64],
    others: NDArray[np.int64],
    core_tile: NDArray[np.int64],
    d: int,
    available: int,
) -> None:
    """Give one dim another factor along one axis; others make room, half of the time, where it needs some."""
    if rng.random() < 0.5:
        for e in range(NUM_DIMS):
            factors[e] = 1
    budget = available
    for e in range(NUM_DIMS):
        if e != d:
            budget //= factors[e]
    factors[d] = _draw_factor(rng, min(max(1, budget), core_tile[d] // others[d]))


@lean
def _swap(rng: Generator, order: NDArray[np.int8]) -> None:
    count = 0
    while count < NUM_DIMS and order[count] != NO_DIM:
        count += 1
    if count > 1:
        i = pick_below(rng, count)
        j = (i + 1 + pick_below(rng, count - 1)) % count
        order[i], order[j] = order[j], order[i]


@lean
def _mutate_spm(knobs: Knobs, batch: MappingBatch, row: int, rng: Generator, core_tile: NDArray[np.int64]) -> None:
    d, spm = _random_dim(knobs, rng), batch.spm[row]
    num_pes, draw = batch.rows[row, d] * batch.cols[row, d], rng.random()
    if draw < 0.3:
        spm[d] = tile_above(core_tile[d], spm[d], num_pes, knobs.perfect)
    elif draw < 0.6:
        spm[d] = max(1, tile_below(core_tile[d], spm[d], num_pes, knobs.perfect))
    elif draw < 0.8:
        other = _random_dim(knobs, rng)
        spm[other] = (spm[other] + 1) // 2
        spm[d] = min(core_tile[d], 2 * spm[d])
    else:
        spm[d] = random_tile(rng, core_tile[d], num_pes, knobs.perfect)
    if rng.random() < 0.5:
        batch.rf[row, d] = random_rf(
            rng, snap_tile(core_tile[d], spm[d], num_pes, knobs.perfect), num_pes, knobs.perfect
        )


@lean
def _mutate_rf(knobs: Knobs, batch: MappingBatch, row: int, rng: Generator) -> None:
    d, rf = _random_dim(knobs, rng), batch.rf[row]
    share = -(-batch.spm[row, d] // (batch.rows[row, d] * batch.cols[row, d]))
    draw = rng.random()
    if draw < 0.4:
        rf[d] = tile_above(share, min(rf[d], share), 1, knobs.perfect)
    elif draw < 0.7:
        rf[d] = max(1, tile_below(share, min(rf[d], share), 1, knobs.perfect))
    else:
        other = _random_dim(knobs, rng)
        rf[other] = (rf[other] + 1) // 2
        rf[d] = random_tile(rng, share, 1, knobs.perfect)


@lean
def _mutate_row(knobs: Knobs, batch: MappingBatch, row: int, rng: Generator, core_tile: NDArray[np.int64]) -> None:
    limits, largest = knobs.limits, 1
    for d in range(NUM_DIMS):
        core_tile[d] = -(-limits.extents[d] // batch.cores[row, d])
        largest = max(largest, limits.extents[d])
    kind = pick_below(rng, NUM_MUTATIONS) if largest > 1 else BUFFERING
    if kind <= 1:
        _mutate_spm(knobs, batch, row, rng, core_tile)
    elif kind <= 3:
        _mutate_rf(knobs, batch, row, rng)
    elif kind == 4:
        d = _random_dim(knobs, rng)
        if rng.random() < 0.5:
            _mutate_axis(rng, batch.rows[row], batch.cols[row], core_tile, d, limits.num_rows)
        else:
            _mutate_axis(rng, batch.cols[row], batch.rows[row], core_tile, d, limits.num_cols)
    elif kind == 5:
        _swap(rng, batch.dram_order[row])
    elif kind == 6:
        _swap(rng, batch.spm_order[row])
    elif kind == BUFFERING:
        bit = 1 << pick_below(rng, 3)
        if rng.random() < 0.5:
            batch.spm_double[row] ^= bit
        else:
            batch.rf_double[row] ^= bit
    elif limits.num_cores > 1:
        batch.cores[row, _random_dim(knobs, rng)] = 1 + pick_below(rng, limits.num_cores)


@lean
def _cross_row(batch: MappingBatch, other: MappingBatch, row: int, rng: Generator) -> None:
    for d in range(NUM_DIMS):
        if rng.random() < 0.5:
            batch.cores[row, d] = other.cores[row, d]
            batch.spm[row, d] = other.spm[row, d]
            batch.rows[row, d] = other.rows[row, d]
            batch.cols[row, d] = other.cols[row, d]
            batch.rf[row, d] = other.rf[row, d]
    if rng.random() < 0.5:
        for i in range(NUM_DIMS):
            batch.dram_order[row, i] = other.dram_order[row, i]
    if rng.random() < 0.5:
        for i in range(NUM_DIMS):
            batch.spm_order[row, i] = other.spm_order[row, i]
    if rng.random() < 0.5:
        batch.spm_double[row] = other.spm_double[row]
        batch.rf_double[row] = other.rf_double[row]


@lean
def _vary_row(
    knobs: Knobs, kind: int, batch: MappingBatch, other: MappingBatch, row: int, rng: Generator, scratch: Ints
) -> None:
    is_changing = True
    while is_changing:
        if kind == DRAW:
            _draw_row(knobs, batch, row, rng, scratch[CORE_TILE])
        elif kind == MUTATE:
            _mutate_row(knobs, batch, row, rng, scratch[CORE_TILE])
        else:
            _cross_row(batch, other, row, rng)
        repair_row(knobs, batch, row, rng, scratch)
        is_changing = kind == MUTATE and rng.random() < 0.4


@entry
def vary_rows(knobs: Knobs, kind: int, batch: MappingBatch, other: MappingBatch, rng: Generator, scratch: Ints) -> None:
    """Give each row another point of the space.

    Args:
        knobs: Of the space.
        kind: ``DRAW`` fills rows of ``empty_batch`` with random points, each legal one can come up; ``MUTATE`` changes
            each row in one or two ways, at times more; ``CROSS`` gives each row some dims, and at times the orders and
            the buffering, of the same row of ``other``.
        batch: What is changed.
        other: Only read by ``CROSS``.
        rng: Source of every random decision.
        scratch: ``new_scratch``.
    """
    for row in range(batch.spill.shape[0]):
        _vary_row(knobs, kind, batch, other, row, rng, scratch)


@lean
def _mix(value: np.uint64, number: np.uint64) -> np.uint64:
    value = (value ^ number) * np.uint64(0x9E3779B97F4A7C15)
    return value ^ (value >> np.uint64(32))


@entry
def hash_rows(batch: MappingBatch, hashes: NDArray[np.uint64]) -> None:
    """A 64-bit fingerprint per row, over all its numbers."""
    for row in range(hashes.shape[0]):
        value = np.uint64(14695981039346656037)
        for d in range(NUM_DIMS):
            for table in (batch.cores, batch.spm, batch.rows, batch.cols, batch.rf):
                value = _mix(value, np.uint64(table[row, d]))
            value = _mix(value, np.uint64(2 + batch.dram_order[row, d]))
            value = _mix(value, np.uint64(2 + batch.spm_order[row, d]))
        value = _mix(value, np.uint64(batch.spm_double[row] + 8 * batch.rf_double[row]))
        hashes[row] = _mix(value, np.uint64(batch.spill[row]))
