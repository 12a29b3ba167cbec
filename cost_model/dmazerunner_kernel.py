"""Compiled enumeration of the RF and SPM factors under given spatial factors, pricing each tiling as it appears."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cost_model.dmazerunner_batch import Tables, footprint, make_scratch, tiling_best
from cost_model.dmazerunner_nest import NUM_LOOPS

DRAM, SPM, RF, SPATIAL = 0, 1, 2, 3
"""Rows of a tiling."""


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
    spm_bytes: int
    min_spm_bytes: float


@njit(cache=True, nogil=True)
def _footprints(tables: Tables, tile: NDArray[np.int64]) -> int:
    return footprint(tables, 0, tile) + footprint(tables, 1, tile) + footprint(tables, 2, tile)


@njit(cache=True, nogil=True)
def _fits_spm(tables: Tables, space: Space, tile: NDArray[np.int64]) -> bool:
    banks = 0
    for operand in range(3):
        banks += -(-footprint(tables, operand, tile) * tables.elem_bytes // space.bank_bytes)
    return banks <= space.num_banks


@njit(cache=True, nogil=True)
def _advance(space: Space, bound: NDArray[np.int64], digits: NDArray[np.int64], digit: int) -> int:
    """Counts one up at ``digit``, carrying to the left; returns the digit that grew, or -1 after the last tuple."""
    while digit >= 0:
        if digits[digit] + 1 < space.divisor_count[space.divisor_row[bound[digit]]]:
            digits[digit] += 1
            return digit
        digits[digit] = 0
        digit -= 1
    return -1


@njit(cache=True, nogil=True)
def _next(space: Space, bound: NDArray[np.int64], digits: NDArray[np.int64], fits: bool) -> bool:
    """Moves to the next tuple of divisors. Footprints grow with every digit, so what does not fit ends its own loop."""
    digit = NUM_LOOPS - 1
    if not fits:
        while digit >= 0 and digits[digit] == 0:
            digit -= 1
        if digit < 0:
            return False
        digits[digit] = 0
        digit -= 1
    return _advance(space, bound, digits, digit) >= 0


@njit(cache=True, nogil=True)
def _factor(space: Space, bound: NDArray[np.int64], digits: NDArray[np.int64], loop: int) -> int:
    return space.divisors[space.divisor_row[bound[loop]], digits[loop]]


@njit(cache=True, nogil=True)
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
    rf_bound, spm_bound = np.empty(NUM_LOOPS, np.int64), np.empty(NUM_LOOPS, np.int64)
    rf_digits, spm_digits = np.zeros(NUM_LOOPS, np.int64), np.zeros(NUM_LOOPS, np.int64)
    tile = np.empty(NUM_LOOPS, np.int64)
    num = 0
    for row in range(spatial.shape[0]):
        factors[SPATIAL] = spatial[row]
        rf_bound[:] = space.extents // spatial[row]
        rf_digits[:] = 0
        more_rf = True
        while more_rf:
            for loop in range(NUM_LOOPS):
                factors[RF, loop] = _factor(space, rf_bound, rf_digits, loop)
            rf_elems = _footprints(tables, factors[RF])
            if space.min_rf_elems <= rf_elems <= space.rf_elems:
                spm_bound[:] = rf_bound // factors[RF]
                spm_digits[:] = 0
                more_spm = True
                while more_spm:
                    is_whole = True
                    for loop in range(NUM_LOOPS):
                        factors[SPM, loop] = _factor(space, spm_bound, spm_digits, loop)
                        factors[DRAM, loop] = spm_bound[loop] // factors[SPM, loop]
                        tile[loop] = factors[SPM, loop] * factors[RF, loop] * factors[SPATIAL, loop]
                        is_whole = is_whole and (factors[DRAM, loop] == 1 or not space.whole_at_dram[loop])
                    fits = _fits_spm(tables, space, tile)
                    if fits and is_whole and _footprints(tables, tile) * tables.elem_bytes >= space.min_spm_bytes:
                        num += 1
                        cycles, energy, edp = tiling_best(tables, scratch, factors)
                        value = edp if metric == 0 else energy if metric == 1 else float(cycles)
                        if value < best_value:
                            best_value = value
                            best[:] = factors
                    more_spm = _next(space, spm_bound, spm_digits, fits)
            more_rf = _next(space, rf_bound, rf_digits, rf_elems <= space.rf_elems)
    return num, best_value, best
