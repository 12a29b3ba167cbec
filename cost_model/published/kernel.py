"""Compiled enumeration of the RF and SPM factors under given spatial factors, pricing each tiling as it appears."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.published.batch import Tables, footprint, make_scratch, tiling_best
from cost_model.published.nest import NUM_LOOPS
from tvm_spm.jit import entry, kernel

DRAM, SPM, RF, SPATIAL = 0, 1, 2, 3
"""Rows of a tiling."""

BOUND, DIGIT, COUNT, ROW = 0, 1, 2, 3
"""Rows of an odometer over divisors: what is divided, which divisor, of how many, in which row of the table."""


class Space(NamedTuple):
    """Loop bounds, their divisors and the limits of a valid tiling.

    ``divisors[divisor_row[v]]`` holds the ``divisor_count[divisor_row[v]]`` divisors of ``v``, ascending.
    """

    extents: NDArray[np.int64]
    divisor_row: NDArray[np.int64]
    divisor_count: NDArray[np.int64]
    divisors: NDArray[np.int64]
    whole_at_dram: NDArray[np.bool_]
    rf_elems: int
    min_rf_elems: float
    bank_bytes: int
    num_banks: int
    min_spm_bytes: float


@kernel
def _rf_elems(tables: Tables, tile: NDArray[np.int64]) -> int:
    return footprint(tables, 0, tile) + footprint(tables, 1, tile) + footprint(tables, 2, tile)


@kernel
def _spm_bytes(tables: Tables, space: Space, tile: NDArray[np.int64]) -> int:
    """Bytes of the three tiles, or -1 if their whole banks do not fit."""
    banks, total = 0, 0
    for operand in range(3):
        num_bytes = footprint(tables, operand, tile) * tables.elem_bytes
        banks += -(-num_bytes // space.bank_bytes)
        total += num_bytes
    return total if banks <= space.num_banks else -1


@kernel
def _start(space: Space, odometer: NDArray[np.int64], fixed_whole: bool) -> None:
    """Sets all loops to their first divisor; rows of ``odometer`` are bound, digit, number of digits, divisor row."""
    for loop in range(NUM_LOOPS):
        row = space.divisor_row[odometer[BOUND, loop]]
        odometer[ROW, loop] = row
        odometer[DIGIT, loop] = 0
        odometer[COUNT, loop] = 1 if fixed_whole and space.whole_at_dram[loop] else space.divisor_count[row]


@kernel
def _next(odometer: NDArray[np.int64], fits: bool) -> bool:
    """Moves to the next tuple of divisors. Footprints grow with every digit, so what does not fit ends its own loop."""
    loop = NUM_LOOPS - 1
    if not fits:
        while loop >= 0 and odometer[DIGIT, loop] == 0:
            loop -= 1
        if loop < 0:
            return False
        odometer[DIGIT, loop] = 0
        loop -= 1
    while loop >= 0:
        if odometer[DIGIT, loop] + 1 < odometer[COUNT, loop]:
            odometer[DIGIT, loop] += 1
            return True
        odometer[DIGIT, loop] = 0
        loop -= 1
    return False


@kernel
def _read(space: Space, odometer: NDArray[np.int64], factors: NDArray[np.int64], level: int, fixed_whole: bool) -> None:
    """Writes the divisors to one level and what they leave of the bounds to the level outside it."""
    for loop in range(NUM_LOOPS):
        row, digit = odometer[ROW, loop], odometer[DIGIT, loop]
        # The divisors are ascending, so those at equal distance from both ends multiply to the bound.
        mirrored = space.divisor_count[row] - 1 - digit
        if fixed_whole and space.whole_at_dram[loop]:
            digit, mirrored = mirrored, digit
        factors[level, loop] = space.divisors[row, digit]
        factors[level - 1, loop] = space.divisors[row, mirrored]


@entry
def search_spatial(
    tables: Tables, space: Space, spatial: NDArray[np.int64], metric: int, best_value: float
) -> tuple[int, float, NDArray[np.int64]]:
    """All valid tilings with each row of ``spatial``.

    Args:
        tables: Nest and machine.
        space: Bounds and limits.
        spatial: ``(n, 7)`` spatial factors.
        metric: 0 EDP, 1 energy, 2 cycles.
        best_value: Only a smaller value replaces it.

    Returns:
        How many tilings were priced, the least value, and its factors (undefined if nothing was smaller).
    """
    scratch = make_scratch()
    factors, best = np.ones((4, NUM_LOOPS), np.int64), np.ones((4, NUM_LOOPS), np.int64)
    rf, spm = np.zeros((4, NUM_LOOPS), np.int64), np.zeros((4, NUM_LOOPS), np.int64)
    tile = np.empty(NUM_LOOPS, np.int64)
    num = 0
    for row in range(spatial.shape[0]):
        factors[SPATIAL] = spatial[row]
        rf[BOUND] = space.extents // spatial[row]
        _start(space, rf, False)
        more_rf = True
        while more_rf:
            _read(space, rf, factors, RF, False)
            rf_elems = _rf_elems(tables, factors[RF])
            if space.min_rf_elems <= rf_elems <= space.rf_elems:
                spm[BOUND] = factors[SPM]
                _start(space, spm, True)
                more_spm = True
                while more_spm:
                    _read(space, spm, factors, SPM, True)
                    for loop in range(NUM_LOOPS):
                        tile[loop] = factors[SPM, loop] * factors[RF, loop] * factors[SPATIAL, loop]
                    num_bytes = _spm_bytes(tables, space, tile)
                    if num_bytes >= space.min_spm_bytes:
                        num += 1
                        cycles, energy, edp = tiling_best(tables, scratch, factors)
                        value = edp if metric == 0 else energy if metric == 1 else float(cycles)
                        if value < best_value:
                            best_value = value
                            best[:] = factors
                    more_spm = _next(spm, num_bytes >= 0)
            more_rf = _next(rf, rf_elems <= space.rf_elems)
    return num, best_value, best
