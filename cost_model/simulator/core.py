"""The timeline of one core: passes one after the other, and the DMA transfers beside and between them."""

from __future__ import annotations

from cost_model.simulator.passes import load, look_at, store, work
from cost_model.simulator.state import BUSY_CYCLES, Core, Ledger, Nest, O, Problem
from tvm_spm.jit import kernel, part
from tvm_spm.space.tensors import Tensors


@kernel
def advance(problem: Problem, tensors: Tensors, nest: Nest, core: Core, ledger: Ledger) -> bool:
    """Run a core until it asks for a DRAM channel at its ``clock``; False if it has finished instead."""
    while core.num_served == core.num_transfers:
        core.clock = max(core.clock, core.pass_end)
        if core.slots_left == 0:
            return False
        _open_slot(problem, tensors, nest, core, ledger)
    if core.num_served >= core.num_beside:
        core.clock = max(core.clock, core.pass_end)
    return True


@kernel
def serve(core: Core, ledger: Ledger, grant: int) -> int:
    """Run the transfer that a core asked for, from ``grant`` on; returns when the channel is free again."""
    served = core.num_served
    core.num_served = served + 1
    core.clock = grant + core.engine_cycles[served]
    ledger.totals[BUSY_CYCLES] += core.engine_cycles[served]
    return grant + core.channel_cycles[served]


@part
def _open_slot(problem: Problem, tensors: Tensors, nest: Nest, core: Core, ledger: Ledger) -> None:
    """Queue the transfers of the next slot: beside the pass last entered, and after it."""
    core.slots_left -= 1
    core.num_transfers = core.num_served = 0
    core.pass_end = core.clock + core.pass_cycles
    _queue(core, core.pending[0], core.pending[1])
    store_channel_cycles, store_engine_cycles = core.store[0], core.store[1]
    is_prologue = core.pass_cycles == 0 and core.passes_left > 0
    core.pass_cycles = core.store[0] = core.store[1] = 0
    core.loads[0] = core.loads[1] = core.loads[2] = 0
    if core.passes_left > 0:
        if not is_prologue:
            _step(nest, core)
        core.passes_left -= 1
        core.repeats = 1
        look_at(problem, nest, core, ledger)
        load(problem, tensors, nest, core, ledger)
        work(problem, tensors, nest, core, ledger)
        store(problem, tensors, nest, core, ledger)
    if not is_prologue:
        for operand in range(3):
            if nest.spm_double[operand]:
                _queue(core, core.loads[operand], core.loads[operand])
    core.num_beside = core.num_transfers
    core.pending[0] = core.pending[1] = 0
    if nest.spm_double[O]:
        core.pending[0], core.pending[1] = store_channel_cycles, store_engine_cycles
    else:
        _queue(core, store_channel_cycles, store_engine_cycles)
    for operand in range(3):
        if is_prologue or not nest.spm_double[operand]:
            _queue(core, core.loads[operand], core.loads[operand])


@part
def _step(nest: Nest, core: Core) -> None:
    """The next index of the DRAM loops."""
    loop = nest.num_dram_loops - 1
    while core.loop_index[loop] == core.loop_count[loop] - 1:
        core.loop_index[loop] = 0
        loop -= 1
    core.loop_index[loop] += 1


@kernel
def _queue(core: Core, channel_cycles: int, engine_cycles: int) -> None:
    """Add a transfer to the slot, if it moves anything."""
    if channel_cycles > 0:
        core.channel_cycles[core.num_transfers] = channel_cycles
        core.engine_cycles[core.num_transfers] = engine_cycles
        core.num_transfers += 1
