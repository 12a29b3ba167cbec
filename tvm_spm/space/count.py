"""The exact number of points of a map space, without visiting them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tvm_spm.jit import entry, lean
from tvm_spm.space.constraints_batch import ANY_BUFFERS, COLS, CORES, DRAM, RF, ROWS, SPM
from tvm_spm.space.knobs import Knobs
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.space.tiles import is_rf, num_tiles, tile_at

_NUM_BUFFERINGS = 8
"""Three operands, one or two buffers each, at one level."""

_LOOPS = NUM_DIMS + 1
"""A level has 0 to ``NUM_DIMS`` loops."""


def count_mappings(knobs: Knobs) -> int:
    """Points of the product of all knobs, capacities not regarded.

    A dynamic program over dims. Its state is what is left of cores, rows and columns (only the floor of the quotient
    matters), and per state a count for each number of output loops at DRAM, reduction loops at DRAM and loops at SPM,
    which decides how many orders there are; if orders are constrained, for each set of loops at DRAM and SPM. These
    counts are the digits of one long integer, so that a dim multiplies all of them at once.
    """
    limits = knobs.limits
    dims = [d for d in range(NUM_DIMS) if limits.extents[d] > 1 or knobs.is_bound[d]]
    tables = [_choices(knobs, d) for d in dims]
    # Whole bytes, so that the digits of a long integer can be cut out of it.
    bits = 8 * (1 + sum(int(table.sum()).bit_length() for table in tables) // 8)
    start = (limits.num_cores, limits.num_rows, limits.num_cols)
    states: dict[tuple[int, int, int], int] = {start: 1}
    for index, (d, table) in enumerate(zip(dims, tables, strict=True)):
        is_reduction = bool(limits.is_reduction[d])
        if knobs.has_order:
            digits = [outer << 2 * index | inner << 2 * index + 1 for outer in (0, 1) for inner in (0, 1)]
        else:
            digits = [_digit(0, n, s) if is_reduction else _digit(n, 0, s) for n in (0, 1) for s in (0, 1)]
        states = _advance(states, table, [bits * digit for digit in digits])
    count = _count_constrained_orders if knobs.has_order else _count_orders
    counted = count(knobs, dims, sum(states.values()), bits)
    for double in knobs.rules.double:
        counted *= _NUM_BUFFERINGS if double == ANY_BUFFERS else 1
    return counted


def _digit(outputs: int, reductions: int, inner: int) -> int:
    return (outputs * _LOOPS + reductions) * _LOOPS + inner


def _count_orders(knobs: Knobs, dims: list[int], total: int, bits: int) -> int:
    mask = (1 << bits) - 1
    counted = 0
    for outputs in range(_LOOPS):
        for reductions in range(_LOOPS - outputs):
            for inner in range(_LOOPS):
                points = total >> (bits * _digit(outputs, reductions, inner)) & mask
                counted += points * _num_dram_orders(knobs, outputs, reductions) * math.factorial(inner)
    return counted


def _num_dram_orders(knobs: Knobs, outputs: int, reductions: int) -> int:
    if knobs.allow_spill:
        return math.factorial(outputs + reductions)
    return math.factorial(outputs) * math.factorial(reductions)


def _count_constrained_orders(knobs: Knobs, dims: list[int], total: int, bits: int) -> int:
    reductions = knobs.limits.is_reduction
    grouping = np.zeros_like(knobs.rules.outside[0])
    if not knobs.allow_spill:
        grouping = ~reductions[:, None] & reductions[None, :]
    chosen = np.array(dims, dtype=np.int64)
    outer, inner = (
        _num_orders(outside[np.ix_(chosen, chosen)])
        for outside in (knobs.rules.outside[0] | grouping, knobs.rules.outside[1])
    )
    digits = total.to_bytes((bits // 8) << 2 * len(dims), "little")
    counted = 0
    for loops in range(1 << 2 * len(dims)):
        points = int.from_bytes(digits[loops * bits // 8 : (loops + 1) * bits // 8], "little")
        if points:
            at_dram = sum((loops >> 2 * i & 1) << i for i in range(len(dims)))
            at_spm = sum((loops >> 2 * i + 1 & 1) << i for i in range(len(dims)))
            counted += points * outer[at_dram] * inner[at_spm]
    return counted


def _num_orders(outside: NDArray[np.bool_]) -> list[int]:
    """Per set of loops, as bits, how many orders keep every loop outside those it must be outside of."""
    num = len(outside)
    counts = [1] + [0] * ((1 << num) - 1)
    for loops in range(1, 1 << num):
        for last in range(num):
            others = [i for i in range(num) if i != last and loops >> i & 1]
            if loops >> last & 1 and not any(outside[last, i] for i in others):
                counts[loops] += counts[loops ^ 1 << last]
    return counts


def _choices(knobs: Knobs, d: int) -> NDArray[np.int64]:
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
    by_pes = np.empty((table.shape[1] * table.shape[2] + 1, 4), dtype=np.int64)
    _fill_choices(extent, knobs.perfect, knobs.rules.low[:, d].copy(), knobs.rules.high[:, d].copy(), by_pes, table)
    return table


@lean
def _num_divisors(number: int) -> int:
    count, i = 0, 1
    while i * i <= number:
        if number % i == 0:
            count += 1 if i * i == number else 2
        i += 1
    return count


@lean
def _add_rf_choices(spm: int, num_pes: int, perfect: bool, low: int, high: int, counts: NDArray[np.int64]) -> None:
    """Count RF tiles: ``counts[0]`` without and ``counts[1]`` with a loop at SPM."""
    share = -(-spm // num_pes)
    if low > 1 or high < share:
        for tile in range(low, min(high, share) + 1):
            if is_rf(spm, num_pes, tile, perfect):
                counts[0 if tile == share else 1] += 1
    elif perfect:
        counts[0] += 1
        counts[1] += _num_divisors(share) - 1
    else:
        counts[1] += num_tiles(share) - 1
        if share * (num_pes - 1) < spm:
            counts[0] += 1


@entry
def _fill_choices(
    extent: int,
    perfect: bool,
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    by_pes: NDArray[np.int64],
    table: NDArray[np.int64],
) -> None:
    num_cores, num_rows, num_cols, _ = table.shape
    for cores in range(low[CORES], min(high[CORES], num_cores) + 1):
        core_tile = -(-extent // cores)
        if -(-extent // core_tile) != cores or (perfect and extent % cores):
            continue
        by_pes[:] = 0
        for i in range(core_tile if perfect else num_tiles(core_tile)):
            spm = i + 1 if perfect else tile_at(core_tile, i)
            if (perfect and core_tile % spm) or spm < low[SPM] or spm > high[SPM]:
                continue
            num_passes = -(-core_tile // spm)
            if num_passes < low[DRAM] or num_passes > high[DRAM]:
                continue
            first = 2 if spm < core_tile else 0
            for num_pes in range(1, min(spm, num_rows * num_cols) + 1):
                if not perfect or spm % num_pes == 0:
                    _add_rf_choices(spm, num_pes, perfect, low[RF], high[RF], by_pes[num_pes, first : first + 2])
        for rows in range(low[ROWS], min(high[ROWS], num_rows) + 1):
            for cols in range(low[COLS], min(high[COLS], num_cols) + 1):
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
