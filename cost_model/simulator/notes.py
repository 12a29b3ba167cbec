"""What a core notes in a log: transfers, and the steps of the array in a pass."""

from __future__ import annotations

import numpy as np

from cost_model.nest import CORE, Nest
from cost_model.problem import I, Ints, O, Problem, W
from cost_model.simulator.ledger import Ledger
from cost_model.simulator.log import (
    ARBITRATION,
    AT_CORE,
    AT_PASS,
    AT_REPEATS,
    AT_TIME,
    BESIDE,
    CHANNEL,
    DMA,
    ENTERS,
    HORIZON,
    IS_FULL,
    LAST_STORE,
    LEAVES,
    MOST_EVENTS,
    NUM_PASSES,
    PASS_CORE,
    PASS_END,
    PASS_FIRST,
    PASS_NUMBER,
    PASS_REPEATS,
    PASS_START,
    PASS_TILE,
    VECTOR,
    VECTOR_UNIT,
    WAIT,
    Log,
    note,
)
from cost_model.simulator.pe_array import PASS_FIELDS, pass_record
from cost_model.simulator.state import (
    CHANNEL_CYCLES,
    ENGINE_CYCLES,
    KIND,
    NUM_BYTES,
    OF_PASS,
    VECTOR_CYCLES,
    VECTOR_START,
    Core,
)
from tvm_spm.jit import kernel, lean
from tvm_spm.space.mapping_batch import NUM_DIMS


@lean
def note_transfer(core: Core, log: Log, transfer: Ints, grant: int, channel: int) -> None:
    """Note a transfer that a core asked for at its ``clock``, and the array's wait for it."""
    at, kind, request = log.at, transfer[KIND], core.clock
    at[AT_CORE], at[AT_PASS], at[AT_REPEATS], at[IS_FULL] = core.number, transfer[OF_PASS], core.repeats, 0
    moved, end, num_bytes = grant + transfer[CHANNEL_CYCLES], grant + transfer[ENGINE_CYCLES], transfer[NUM_BYTES]
    note(log, WAIT + kind, request, grant, 0, 0)
    note(log, DMA + kind, grant, end, num_bytes, 0)
    note(log, CHANNEL + kind, grant, moved, num_bytes, channel)
    start = grant + transfer[VECTOR_START]
    note(log, VECTOR + kind, start, start + transfer[VECTOR_CYCLES], 0, 0)
    since, why = request, core.after_note
    if core.num_served < core.num_beside:
        since, why = core.pass_end, LAST_STORE if core.slots_left == 0 else BESIDE
    # what of it falls after the pass: the wait for a channel, the transfer itself, and the vector unit
    request, grant = max(request, since), max(grant, since)
    note(log, ARBITRATION, request, grant, 0, 0)
    note(log, why + min(kind, O + 1), grant, max(grant, moved), 0, 0)
    moved = max(moved, since)
    note(log, VECTOR_UNIT, moved, max(moved, end), 0, 0)
    at[AT_REPEATS] = 0


@kernel
def note_pass(problem: Problem, nest: Nest, core: Core, ledger: Ledger, log: Log) -> None:
    """Note what the array does in the pass last worked on, from ``clock`` on; if events are wanted, step by step."""
    at, odometer = log.at, ledger.odometers[0]
    fold = odometer.fold
    at[AT_CORE], at[AT_PASS], at[AT_TIME], at[IS_FULL] = core.number, core.pass_number, core.clock, 0
    if at[MOST_EVENTS] > 0:
        if 0 <= at[HORIZON] <= core.clock:
            return
        if core.row < len(log.passes):
            log.passes[core.row, PASS_START], log.passes[core.row, PASS_END] = core.clock, core.pass_end
        odometer.fold = 0
    at[AT_REPEATS] = at[PASS_REPEATS] = core.repeats
    pass_record(problem, nest, odometer, core.tile, core.edges, np.empty(PASS_FIELDS, np.int64), log)
    at[AT_REPEATS], at[IS_FULL], odometer.fold = 0, 0, fold


@lean
def note_row(nest: Nest, core: Core, log: Log) -> None:
    """Note the pass looked at: its tile and what of it is new."""
    core.row = log.at[NUM_PASSES]
    log.at[NUM_PASSES] += 1
    if core.row < len(log.passes):
        row = log.passes[core.row]
        row[PASS_CORE], row[PASS_NUMBER], row[PASS_START], row[PASS_END] = core.number, core.pass_number, -1, -1
        row[ENTERS] = 0
        for operand in (I, W):
            if core.moved <= nest.position[CORE, operand]:
                row[ENTERS] |= 1 << operand
        row[LEAVES] = core.moves <= nest.position[CORE, O]
        for d in range(NUM_DIMS):
            row[PASS_FIRST + d], row[PASS_TILE + d] = core.first[d], core.tile[d]
