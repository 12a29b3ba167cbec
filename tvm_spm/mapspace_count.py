"""The exact number of points of a map space, without visiting them."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tvm_spm.mapping_batch import NUM_DIMS
from tvm_spm.mapspace_repair import Knobs
from tvm_spm.mapspace_tiles import num_tiles, tile_at

NUM_BUFFERINGS = 64
"""Two levels, three operands, one or two buffers each."""

_LOOPS = NUM_DIMS + 1
"""A level has 0 to ``NUM_DIMS`` loops."""


def count_mappings(knobs: Knobs) -> int:
    """Points of the product of all knobs, capacities not regarded.

    A dynamic program over dims. Its state is what is left of cores, rows and columns (only the floor of the quotient
    matters), and per state a count for each number of output loops at DRAM, reduction loops at DRAM and loops at SPM,
    which decides how many orders there are. These counts are the digits of one long integer, so that a dim multiplies
    all of them at once.
    """
    limits = knobs.limits
    tables = [_choices(knobs, d) for d in range(NUM_DIMS) if limits.extents[d] > 1]
    bits = 1 + sum(int(table.sum()).bit_length() for _, table in tables)
    start = (limits.num_cores, limits.num_rows, limits.num_cols)
    states: dict[tuple[int, int, int], int] = {start: 1}
    for is_reduction, table in tables:
        shifts = [bits * (_digit(0, d, s) if is_reduction else _digit(d, 0, s)) for d in (0, 1) for s in (0, 1)]
        states = _advance(states, table, shifts)
    total = sum(states.values())
    mask = (1 << bits) - 1
    counted = 0
    for outputs in range(_LOOPS):
        for reductions in range(_LOOPS - outputs):
            for inner in range(_LOOPS):
                points = total >> (bits * _digit(outputs, reductions, inner)) & mask
                counted += points * _num_dram_orders(knobs, outputs, reductions) * math.factorial(inner)
    return counted * NUM_BUFFERINGS


def _digit(outputs: int, reductions: int, inner: int) -> int:
    return (outputs * _LOOPS + reductions) * _LOOPS + inner


def _num_dram_orders(knobs: Knobs, outputs: int, reductions: int) -> int:
    if knobs.allow_spill:
        return math.factorial(outputs + reductions)
    return math.factorial(outputs) * math.factorial(reductions)


def _choices(knobs: Knobs, d: int) -> tuple[bool, NDArray[np.int64]]:
    """How many tiles one dim has per factor across cores, rows, columns; the last axis is 2 * DRAM loop + SPM loop."""
    limits = knobs.limits
    extent, is_reduction = int(limits.extents[d]), bool(limits.is_reduction[d])
    table = np.zeros(
        (
            1 if is_reduction else min(extent, limits.num_cores),
            min(extent, limits.num_rows) if knobs.may_rows[d] else 1,
            min(extent, limits.num_cols) if knobs.may_cols[d] else 1,
            4,
        ),
        dtype=np.int64,
    )
    _fill_choices(extent, knobs.perfect, table)
    return is_reduction, table


@njit(cache=True)
def _num_divisors(number: int) -> int:
    count, i = 0, 1
    while i * i <= number:
        if number % i == 0:
            count += 1 if i * i == number else 2
        i += 1
    return count


@njit(cache=True)
def _add_rf_choices(spm: int, num_pes: int, perfect: bool, counts: NDArray[np.int64]) -> None:
    """Count RF tiles: ``counts[0]`` without and ``counts[1]`` with a loop at SPM."""
    if perfect:
        counts[0] += 1
        counts[1] += _num_divisors(spm // num_pes) - 1
        return
    share = -(-spm // num_pes)
    counts[1] += num_tiles(share) - 1
    if share * (num_pes - 1) < spm:
        counts[0] += 1


@njit(cache=True)
def _fill_choices(extent: int, perfect: bool, table: NDArray[np.int64]) -> None:
    num_cores, num_rows, num_cols, _ = table.shape
    by_pes = np.empty((num_rows * num_cols + 1, 4), dtype=np.int64)
    for cores in range(1, num_cores + 1):
        core_tile = -(-extent // cores)
        if -(-extent // core_tile) != cores or (perfect and extent % cores):
            continue
        by_pes[:] = 0
        for i in range(core_tile if perfect else num_tiles(core_tile)):
            spm = i + 1 if perfect else tile_at(core_tile, i)
            if perfect and core_tile % spm:
                continue
            first = 2 if spm < core_tile else 0
            for num_pes in range(1, min(spm, num_rows * num_cols) + 1):
                if not perfect or spm % num_pes == 0:
                    _add_rf_choices(spm, num_pes, perfect, by_pes[num_pes, first : first + 2])
        for rows in range(1, num_rows + 1):
            for cols in range(1, num_cols + 1):
                table[cores - 1, rows - 1, cols - 1] = by_pes[rows * cols]


def _collect(available: int, num_factors: int) -> tuple[list[int], NDArray[np.int64]]:
    """What can be left of ``available`` after one factor, and which factors leave it, as a 0/1 matrix."""
    left = sorted({available // factor for factor in range(1, min(available, num_factors) + 1)})
    matrix = np.zeros((len(left), num_factors), dtype=np.int64)
    for factor in range(1, min(available, num_factors) + 1):
        matrix[left.index(available // factor), factor - 1] = 1
    return left, matrix


def _advance(
    states: dict[tuple[int, int, int], int], table: NDArray[np.int64], shifts: list[int]
) -> dict[tuple[int, int, int], int]:
    reached: dict[tuple[int, int, int], int] = {}
    for cores in sorted({state[0] for state in states}):
        cores_left, matrix = _collect(cores, table.shape[0])
        by_cores = np.tensordot(matrix, table, axes=1)
        for rows in sorted({state[1] for state in states if state[0] == cores}):
            rows_left, matrix = _collect(rows, table.shape[1])
            by_rows = np.einsum("tr,xrcf->xtcf", matrix, by_cores)
            for cols in sorted({state[2] for state in states if state[:2] == (cores, rows)}):
                cols_left, matrix = _collect(cols, table.shape[2])
                counts = np.einsum("tc,xrcf->xrtf", matrix, by_rows)
                number = states[cores, rows, cols]
                for x, y, z in zip(*np.nonzero(counts.any(axis=3)), strict=True):
                    digits = sum(int(count) << shift for count, shift in zip(counts[x, y, z], shifts, strict=True))
                    key = (cores_left[x], rows_left[y], cols_left[z])
                    reached[key] = reached.get(key, 0) + number * digits
    return reached
