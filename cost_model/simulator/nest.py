"""What is fixed before a mapping runs: its loops, where operands are loaded, each core's share, kinds of passes."""

from __future__ import annotations

import numpy as np

from cost_model.simulator.pe_array import PASS_FIELDS
from cost_model.simulator.state import (
    EDGE_FLAGS,
    FIRST_EXTRA,
    TOTAL_FIELDS,
    Core,
    Ledger,
    Nest,
    Problem,
)
from tvm_spm.jit import kernel, part
from tvm_spm.space.mapping_batch import NUM_DIMS, MappingBatch
from tvm_spm.space.tensors import Tensors


@part
def build_nest(problem: Problem, batch: MappingBatch, row: int, nest: Nest) -> None:
    """Fill ``nest`` from one row of a batch."""
    red_rows, red_cols = 1, 1
    for d in range(NUM_DIMS):
        nest.cores[d], nest.spm[d], nest.rf[d] = batch.cores[row, d], batch.spm[row, d], batch.rf[row, d]
        nest.array[d] = batch.rf[row, d] * batch.rows[row, d] * batch.cols[row, d]
        nest.core_tile[d] = -(-problem.dims[d] // batch.cores[row, d])
        if problem.is_reduction[d]:
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
            if problem.is_relevant[operand, nest.loops[loop]]:
                nest.rf_position[operand] = loop
                if loop < nest.num_dram_loops:
                    nest.spm_position[operand] = loop
        nest.spm_double[operand] = batch.spm_double[row] >> operand & 1
        nest.rf_double[operand] = batch.rf_double[row] >> operand & 1


@part
def open_ledger(problem: Problem, tensors: Tensors, nest: Nest) -> Ledger:
    """An empty ledger: per dim, SPM tiles are full, the last of a full chunk, or the last of the last chunk."""
    kind_stride = np.zeros(NUM_DIMS, dtype=np.int64)
    num_kinds = EDGE_FLAGS
    for d in range(NUM_DIMS):
        kind_stride[d] = num_kinds
        last_chunk = problem.dims[d] - (nest.cores[d] - 1) * nest.core_tile[d]
        num_kinds *= 1 + (nest.core_tile[d] % nest.spm[d] != 0) + (last_chunk % nest.spm[d] != 0)
    return Ledger(
        kind_stride,
        np.empty((num_kinds, PASS_FIELDS), dtype=np.int64),
        np.zeros(num_kinds, dtype=np.int64),
        np.zeros(TOTAL_FIELDS, dtype=np.int64),
        np.zeros(len(tensors.elem_bits) - FIRST_EXTRA, dtype=np.int64),
    )


@kernel
def place_core(problem: Problem, nest: Nest, number: int, core: Core) -> None:
    """Put a core before its first slot; numbers count row-major over the dims."""
    core.clock = core.pass_end = problem.launch_cycles
    core.pass_cycles = core.num_beside = core.num_transfers = core.num_served = 0
    core.sum_pass_cycles = core.sum_mac_cycles = 0
    core.store[0] = core.store[1] = core.pending[0] = core.pending[1] = 0
    core.passes_left = 1
    for d in range(NUM_DIMS - 1, -1, -1):
        core.chunk_first[d] = number % nest.cores[d] * nest.core_tile[d]
        number //= nest.cores[d]
        core.chunk[d] = min(nest.core_tile[d], problem.dims[d] - core.chunk_first[d])
        core.edge_kind[d] = core.loop_index[d] = 0
        if core.chunk[d] % nest.spm[d] != 0:
            is_second = core.chunk[d] != nest.core_tile[d] and nest.core_tile[d] % nest.spm[d] != 0
            core.edge_kind[d] = 2 if is_second else 1
    for loop in range(nest.num_dram_loops):
        d = nest.loops[loop]
        core.loop_count[loop] = -(-core.chunk[d] // nest.spm[d])
        core.passes_left *= core.loop_count[loop]
    core.slots_left = core.passes_left + 2
