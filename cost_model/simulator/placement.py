"""Where a core stands before a mapping runs: its share of the loops, and its first pass."""

from __future__ import annotations

from cost_model.nest import HELD, SHARE, Nest
from cost_model.problem import Problem
from cost_model.simulator.boxes import number_of
from cost_model.simulator.ledger import Ledger
from cost_model.simulator.state import ENGINE_CYCLES, KIND, NUM_STORES, STORES, VECTOR_CYCLES, VECTOR_START, Core
from tvm_spm.jit import lean, small
from tvm_spm.space.mapping_batch import NUM_DIMS


@lean
def place_core(problem: Problem, nest: Nest, ledger: Ledger, number: int, core: Core) -> None:
    """Put a core before its first slot; numbers count row-major over the dims."""
    core.number, core.pass_number, core.repeats, core.row = number, -1, 1, -1
    core.clock = core.pass_end = problem.launch_cycles
    core.pass_cycles = core.num_beside = core.num_queued = core.num_served = 0
    core.sum_pass_cycles = core.sum_mac_cycles = core.size_kind = core.stale = 0
    for row in range(STORES + NUM_STORES):
        core.transfer[row, ENGINE_CYCLES] = core.transfer[row, VECTOR_START] = core.transfer[row, VECTOR_CYCLES] = 0
        core.transfer[row, KIND] = row
    core.passes_left = 1
    for d in range(NUM_DIMS - 1, -1, -1):
        chunk = number % nest.cores[d]
        core.chunk_first[d] = chunk * nest.tile[SHARE, d]
        core.first_tile[d] = chunk * -(-nest.tile[SHARE, d] // nest.tile[HELD, d])
        number //= nest.cores[d]
        core.chunk[d] = min(nest.tile[SHARE, d], problem.dims[d] - core.chunk_first[d])
        core.edge_kind[d] = core.size[d] = core.loop_index[d] = 0
        if core.chunk[d] % nest.tile[HELD, d] != 0:
            is_second = core.chunk[d] != nest.tile[SHARE, d] and nest.tile[SHARE, d] % nest.tile[HELD, d] != 0
            core.edge_kind[d] = 2 if is_second else 1
        put_tile(nest, core, ledger, d, 0)
    for loop in range(nest.num_loops[0]):
        d = nest.loop_dim[0, loop]
        core.loop_count[loop] = -(-core.chunk[d] // nest.tile[HELD, d])
        core.passes_left *= core.loop_count[loop]
    core.slots_left = core.passes_left + 2


@small
def put_tile(nest: Nest, core: Core, ledger: Ledger, d: int, index: int) -> None:
    """Put the tile that a core looks at to an index of the loop over a dim."""
    offset = index * nest.tile[HELD, d]
    core.first[d] = core.chunk_first[d] + offset
    core.tile[d] = min(nest.tile[HELD, d], core.chunk[d] - offset)
    size = core.edge_kind[d] if core.tile[d] < nest.tile[HELD, d] else 0
    core.size_kind += ledger.kind_stride[d] * (size - core.size[d])
    core.size[d] = size
    core.box[d] = number_of(ledger.boxes, d, core.first_tile[d] + index, size)
