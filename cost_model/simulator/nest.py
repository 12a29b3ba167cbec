"""The static part of a mapping: which loops there are, and between which of them each operand is loaded."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tvm_spm.mapping_batch import NUM_DIMS

I, W, O = 0, 1, 2  # noqa: E741 (the operands' own letters)


class Nest(NamedTuple):
    """One mapping, ready to walk.

    ``loops`` holds the DRAM loops, then the SPM loops, outer to inner, only those that iterate in a full tile;
    ``spm_position`` and ``rf_position`` are the innermost loop an operand depends on, -1 for none.
    """

    cores: NDArray[np.int64]
    core_tile: NDArray[np.int64]
    spm: NDArray[np.int64]
    array: NDArray[np.int64]
    rf: NDArray[np.int64]
    loops: NDArray[np.int64]
    num_dram_loops: int
    num_loops: int
    spm_position: NDArray[np.int64]
    rf_position: NDArray[np.int64]
    spm_double: NDArray[np.bool_]
    rf_double: NDArray[np.bool_]
    hop_cycles: int


@njit  # type: ignore[misc]
def build_nest(workload, batch, row):  # type: ignore[no-untyped-def]
    """The nest of one row of a ``MappingBatch``."""
    cores, spm, rf = batch.cores[row], batch.spm[row], batch.rf[row]
    array = np.empty(NUM_DIMS, dtype=np.int64)
    core_tile = np.empty(NUM_DIMS, dtype=np.int64)
    red_rows, red_cols = 1, 1
    for d in range(NUM_DIMS):
        array[d] = rf[d] * batch.rows[row, d] * batch.cols[row, d]
        core_tile[d] = -(-workload.dims[d] // cores[d])
        if workload.is_reduction[d]:
            red_rows *= batch.rows[row, d]
            red_cols *= batch.cols[row, d]
    loops = np.empty(2 * NUM_DIMS, dtype=np.int64)
    num_loops = 0
    for d in batch.dram_order[row]:
        if d >= 0 and core_tile[d] > spm[d]:
            loops[num_loops] = d
            num_loops += 1
    num_dram_loops = num_loops
    for d in batch.spm_order[row]:
        if d >= 0 and spm[d] > array[d]:
            loops[num_loops] = d
            num_loops += 1
    spm_position = np.full(3, -1, dtype=np.int64)
    rf_position = np.full(3, -1, dtype=np.int64)
    spm_double = np.empty(3, dtype=np.bool_)
    rf_double = np.empty(3, dtype=np.bool_)
    for operand in range(3):
        for loop in range(num_loops):
            if workload.is_relevant[operand, loops[loop]]:
                rf_position[operand] = loop
                if loop < num_dram_loops:
                    spm_position[operand] = loop
        spm_double[operand] = (batch.spm_double[row] >> operand) & 1 == 1
        rf_double[operand] = (batch.rf_double[row] >> operand) & 1 == 1
    hop_cycles = red_rows - 1 + red_cols - 1
    return Nest(
        cores, core_tile, spm, array, rf, loops, num_dram_loops, num_loops, spm_position, rf_position, spm_double,
        rf_double, hop_cycles,
    )  # fmt: skip
