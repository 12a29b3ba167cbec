"""The timeline of one core: passes one after the other, and the DMA transfers beside and between them."""

from __future__ import annotations

from cost_model.nest import CORE, Nest
from cost_model.problem import O, Problem
from cost_model.simulator.ledger import BUSY_CYCLES, Ledger
from cost_model.simulator.log import FIRST_LOAD, LAST_STORE, MOST_EVENTS, Log
from cost_model.simulator.notes import note_pass, note_row, note_transfer
from cost_model.simulator.passes import ITS_LOADS, ITS_STORE, ITS_WORK, look_at
from cost_model.simulator.state import (
    CHANNEL_CYCLES,
    ENGINE_CYCLES,
    NUM_STORES,
    STORES,
    Core,
)
from tvm_spm.jit import small


@small
def advance(problem: Problem, nest: Nest, core: Core, ledger: Ledger, log: Log) -> bool:
    """Run a core until it asks for a DRAM channel at its ``clock``; False if it has finished instead."""
    while core.num_served == core.num_queued:
        core.clock = max(core.clock, core.pass_end)
        if core.slots_left == 0:
            return False
        core.slots_left -= 1
        core.pass_end = core.clock + core.pass_cycles
        if core.pass_cycles > 0 and len(log.account) > 0:
            note_pass(problem, nest, core, ledger, log)
        running = core.pass_number
        core.pass_number = running + 1
        if core.passes_left > 0:
            if running >= 0:
                _step(nest, core)
            core.passes_left -= 1
            look_at(problem, nest, core, ledger, log, ITS_LOADS | ITS_WORK | ITS_STORE)
            if log.at[MOST_EVENTS] > 0:
                note_row(nest, core, log)
        else:
            core.pass_cycles = 0
            forget(core)
        queue_slot(nest, core, running)
    if core.num_served >= core.num_beside:
        core.clock = max(core.clock, core.pass_end)
    return True


@small
def serve(core: Core, ledger: Ledger, log: Log, grant: int, channel: int) -> int:
    """Run the transfer that a core asked for, from ``grant`` on; returns when the channel is free again."""
    transfer = core.transfer[core.queue[core.num_served]]
    if len(log.account) > 0:
        note_transfer(core, log, transfer, grant, channel)
    core.num_served += 1
    core.clock = grant + transfer[ENGINE_CYCLES]
    ledger.totals[BUSY_CYCLES] += core.repeats * transfer[ENGINE_CYCLES]
    return grant + transfer[CHANNEL_CYCLES]


@small
def queue_slot(nest: Nest, core: Core, running: int) -> None:
    """Queue what is prepared: beside pass ``running``, and after it; -1 stands before the first pass."""
    core.num_queued = core.num_served = 0
    if running < 0:
        core.after_note = FIRST_LOAD
    if nest.double[CORE, O]:
        _queue(core, STORES + (running - 1 & NUM_STORES - 1))
    if running >= 0:
        for operand in range(3):
            if nest.double[CORE, operand]:
                _queue(core, operand)
    core.num_beside = core.num_queued
    if nest.double[CORE, O] == 0:
        _queue(core, STORES + (running & NUM_STORES - 1))
    for operand in range(3):
        if running < 0 or not nest.double[CORE, operand]:
            _queue(core, operand)


@small
def forget(core: Core) -> None:
    """Prepare no loads, and no store of the pass that would be next: there is none."""
    core.after_note = LAST_STORE
    for operand in range(3):
        core.transfer[operand, ENGINE_CYCLES] = 0
    core.transfer[STORES + (core.pass_number & NUM_STORES - 1), ENGINE_CYCLES] = 0


@small
def _step(nest: Nest, core: Core) -> None:
    """The next index of the DRAM loops."""
    loop = nest.num_loops[0] - 1
    while core.loop_index[loop] == core.loop_count[loop] - 1:
        core.loop_index[loop] = 0
        loop -= 1
    core.loop_index[loop] += 1
    core.stale = min(core.stale, loop)


@small
def _queue(core: Core, row: int) -> None:
    """Add a transfer to the slot, if it moves anything."""
    if core.transfer[row, ENGINE_CYCLES] > 0:
        core.queue[core.num_queued] = row
        core.num_queued += 1
