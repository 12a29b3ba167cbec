"""The static part of a mapping: which loops there are, and between which of them each operand is loaded."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cost_model.arrays import WorkloadArrays
from tvm_spm.mapping_batch import NUM_DIMS, MappingBatch

I, W, O = 0, 1, 2  # noqa: E741 (the operands' own letters)

Ints = NDArray[np.int64]

NEST_FIELDS = np.dtype(
    [
        ("cores", np.int64, NUM_DIMS),
        ("core_tile", np.int64, NUM_DIMS),
        ("spm", np.int64, NUM_DIMS),
        ("array", np.int64, NUM_DIMS),
        ("rf", np.int64, NUM_DIMS),
        ("loops", np.int64, 2 * NUM_DIMS),
        ("num_dram_loops", np.int64),
        ("num_loops", np.int64),
        ("spm_position", np.int64, 3),
        ("rf_position", np.int64, 3),
        ("spm_double", np.int64, 3),
        ("rf_double", np.int64, 3),
        ("hop_cycles", np.int64),
    ]
)


class Nest(Protocol):
    """A record of ``NEST_FIELDS``: one mapping, ready to walk.

    ``loops`` holds the DRAM loops, then the SPM loops, outer to inner, only those that iterate in a full tile;
    ``spm_position`` and ``rf_position`` are the innermost loop an operand depends on, -1 for none.
    """

    cores: Ints
    core_tile: Ints
    spm: Ints
    array: Ints
    rf: Ints
    loops: Ints
    num_dram_loops: int
    num_loops: int
    spm_position: Ints
    rf_position: Ints
    spm_double: Ints
    rf_double: Ints
    hop_cycles: int


@njit(error_model="numpy")
def build_nest(workload: WorkloadArrays, batch: MappingBatch, row: int, nest: Nest) -> None:
    """Fill ``nest`` from one row of a batch."""
    red_rows, red_cols = 1, 1
    for d in range(NUM_DIMS):
        nest.cores[d], nest.spm[d], nest.rf[d] = batch.cores[row, d], batch.spm[row, d], batch.rf[row, d]
        nest.array[d] = batch.rf[row, d] * batch.rows[row, d] * batch.cols[row, d]
        nest.core_tile[d] = -(-workload.dims[d] // batch.cores[row, d])
        if workload.is_reduction[d]:
            red_rows *= batch.rows[row, d]
            red_cols *= batch.cols[row, d]
    nest.hop_cycles = red_rows - 1 + red_cols - 1
    num_loops = 0
    for place in range(NUM_DIMS):
        d = batch.dram_order[row, place]
        if d >= 0 and nest.core_tile[d] > nest.spm[d]:
            nest.loops[num_loops] = d
            num_loops += 1
    nest.num_dram_loops = num_loops
    for place in range(NUM_DIMS):
        d = batch.spm_order[row, place]
        if d >= 0 and nest.spm[d] > nest.array[d]:
            nest.loops[num_loops] = d
            num_loops += 1
    nest.num_loops = num_loops
    for operand in range(3):
        nest.spm_position[operand] = nest.rf_position[operand] = -1
        for loop in range(num_loops):
            if workload.is_relevant[operand, nest.loops[loop]]:
                nest.rf_position[operand] = loop
                if loop < nest.num_dram_loops:
                    nest.spm_position[operand] = loop
        nest.spm_double[operand] = batch.spm_double[row] >> operand & 1
        nest.rf_double[operand] = batch.rf_double[row] >> operand & 1
