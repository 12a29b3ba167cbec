"""What is fixed before a mapping runs: its loops, where operands are loaded, each core's share, kinds of passes."""

from __future__ import annotations

from cost_model.simulator.state import (
    ENGINE_CYCLES,
    IN_CORE,
    IN_PE,
    KIND,
    NUM_STORES,
    STORES,
    VECTOR_CYCLES,
    Core,
    Nest,
    Problem,
)
from tvm_spm.jit import lean
from tvm_spm.space.mapping_batch import NUM_DIMS, MappingBatch


@lean
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
        nest.position[IN_CORE, operand] = nest.position[IN_PE, operand] = -1
        for loop in range(num_loops):
            if problem.is_relevant[operand, nest.loops[loop]]:
                nest.position[IN_PE, operand] = loop
                if loop < nest.num_dram_loops:
                    nest.position[IN_CORE, operand] = loop
        nest.double[IN_CORE, operand] = batch.spm_double[row] >> operand & 1
        nest.double[IN_PE, operand] = batch.rf_double[row] >> operand & 1


@lean
def place_core(problem: Problem, nest: Nest, number: int, core: Core) -> None:
    """Put a core before its first slot; numbers count row-major over the dims."""
    core.number, core.pass_number, core.repeats, core.row = number, -1, 1, -1
    core.clock = core.pass_end = problem.launch_cycles
    core.pass_cycles = core.num_beside = core.num_queued = core.num_served = 0
    core.sum_pass_cycles = core.sum_mac_cycles = 0
    for row in range(STORES + NUM_STORES):
        core.transfer[row, ENGINE_CYCLES] = core.transfer[row, VECTOR_CYCLES] = 0
        core.transfer[row, KIND] = row
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
