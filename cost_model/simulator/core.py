"""The timeline of one core: passes one after the other, and the DMA transfers beside and between them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numba import njit

from cost_model.arrays import ArchArrays, WorkloadArrays
from cost_model.simulator.dma import final_store, transfer
from cost_model.simulator.nest import Ints, Nest, O
from cost_model.simulator.pe_array import (
    MAC_CYCLES,
    O_LEAVES,
    PASS_CYCLES,
    PASS_FIELDS,
    READS_O,
    pass_record,
)
from tvm_spm.mapping_batch import NUM_DIMS

MOVED, FINAL_ELEMS, DRAM_BYTES, BUSY_CYCLES, TOTAL_FIELDS = 0, 3, 4, 8, 9
"""Columns of the totals over all cores: elements of I W O moved as operands, finished outputs, DRAM bytes, DMA time."""

_MAX_TRANSFERS = 8
_EDGE_KINDS = 16


CORE_FIELDS = np.dtype(
    [
        ("first", np.int64, NUM_DIMS),
        ("tile", np.int64, NUM_DIMS),
        ("chunk_first", np.int64, NUM_DIMS),
        ("chunk", np.int64, NUM_DIMS),
        ("edge_kind", np.int64, NUM_DIMS),
        ("loop_index", np.int64, NUM_DIMS),
        ("loop_count", np.int64, NUM_DIMS),
        ("clock", np.int64),
        ("pass_end", np.int64),
        ("pass_cycles", np.int64),
        ("loads", np.int64, 3),
        ("store", np.int64, 2),
        ("pending", np.int64, 2),
        ("channel_cycles", np.int64, _MAX_TRANSFERS),
        ("engine_cycles", np.int64, _MAX_TRANSFERS),
        ("num_beside", np.int64),
        ("num_transfers", np.int64),
        ("num_served", np.int64),
        ("passes_left", np.int64),
        ("slots_left", np.int64),
        ("sum_pass_cycles", np.int64),
        ("sum_mac_cycles", np.int64),
    ]
)


class Core(Protocol):
    """A record of ``CORE_FIELDS``: where one core stands.

    A slot is a pass and the transfers that belong to it: the first ``num_beside`` of ``num_transfers`` run beside the
    pass, the others after both. The slot before the first pass and the one after the last have no pass.

    Attributes:
        first: First loop index per dim of the pass last entered.
        tile: Elements per dim of that pass.
        chunk_first: First loop index per dim of the core's share.
        chunk: Elements per dim of the core's share.
        edge_kind: Per dim, which size of tile the last one is: 0 if it is full.
        loop_index: Per DRAM loop.
        loop_count: Per DRAM loop.
        clock: When the last thing finished.
        pass_end: When the pass of this slot finishes.
        pass_cycles: Of the pass last entered.
        loads: DMA cycles of that pass's loads of I W O, 0 for none.
        store: Channel and engine cycles of that pass's store, 0 if the outputs stay.
        pending: Those of a finished double-buffered tile.
        channel_cycles: Per transfer of the slot.
        engine_cycles: Per transfer of the slot.
        num_beside: Transfers that run beside the pass.
        num_transfers: Transfers of the slot.
        num_served: Transfers finished.
        passes_left: Not yet entered.
        slots_left: Not yet opened.
        sum_pass_cycles: Over all passes so far.
        sum_mac_cycles: Over all passes so far.
    """

    first: Ints
    tile: Ints
    chunk_first: Ints
    chunk: Ints
    edge_kind: Ints
    loop_index: Ints
    loop_count: Ints
    clock: int
    pass_end: int
    pass_cycles: int
    loads: Ints
    store: Ints
    pending: Ints
    channel_cycles: Ints
    engine_cycles: Ints
    num_beside: int
    num_transfers: int
    num_served: int
    passes_left: int
    slots_left: int
    sum_pass_cycles: int
    sum_mac_cycles: int


class Ledger(NamedTuple):
    """What all cores share: one record per kind of pass, how many passes are of that kind, and what was moved."""

    kind_stride: Ints
    records: Ints
    num_passes: Ints
    totals: Ints
    extra_elems: Ints


@njit(error_model="numpy")
def open_ledger(workload: WorkloadArrays, nest: Nest) -> Ledger:
    """An empty ledger: per dim, SPM tiles are full, the last of a full chunk, or the last of the last chunk."""
    kind_stride = np.zeros(NUM_DIMS, dtype=np.int64)
    num_kinds = _EDGE_KINDS
    for d in range(NUM_DIMS):
        kind_stride[d] = num_kinds
        last_chunk = workload.dims[d] - (nest.cores[d] - 1) * nest.core_tile[d]
        num_kinds *= 1 + (nest.core_tile[d] % nest.spm[d] != 0) + (last_chunk % nest.spm[d] != 0)
    return Ledger(
        kind_stride,
        np.empty((num_kinds, PASS_FIELDS), dtype=np.int64),
        np.zeros(num_kinds, dtype=np.int64),
        np.zeros(TOTAL_FIELDS, dtype=np.int64),
        np.zeros(len(workload.elem_bits) - 3, dtype=np.int64),
    )


@njit(error_model="numpy")
def place_core(workload: WorkloadArrays, arch: ArchArrays, nest: Nest, number: int, core: Core) -> None:
    """Put a core before its first slot; numbers count row-major over the dims."""
    core.clock = core.pass_end = arch.launch_cycles
    core.pass_cycles = core.num_beside = core.num_transfers = core.num_served = 0
    core.sum_pass_cycles = core.sum_mac_cycles = 0
    core.store[0] = core.store[1] = core.pending[0] = core.pending[1] = 0
    core.passes_left = 1
    for d in range(NUM_DIMS - 1, -1, -1):
        core.chunk_first[d] = number % nest.cores[d] * nest.core_tile[d]
        number //= nest.cores[d]
        core.chunk[d] = min(nest.core_tile[d], workload.dims[d] - core.chunk_first[d])
        core.edge_kind[d] = core.loop_index[d] = 0
        if core.chunk[d] % nest.spm[d] != 0:
            is_second = core.chunk[d] != nest.core_tile[d] and nest.core_tile[d] % nest.spm[d] != 0
            core.edge_kind[d] = 2 if is_second else 1
    for loop in range(nest.num_dram_loops):
        d = nest.loops[loop]
        core.loop_count[loop] = -(-core.chunk[d] // nest.spm[d])
        core.passes_left *= core.loop_count[loop]
    core.slots_left = core.passes_left + 2


@njit(error_model="numpy")
def advance(workload: WorkloadArrays, arch: ArchArrays, nest: Nest, core: Core, ledger: Ledger, fold: bool) -> bool:
    """Run a core until it asks for a DRAM channel at its ``clock``; False if it has finished instead."""
    while core.num_served == core.num_transfers:
        core.clock = max(core.clock, core.pass_end)
        if core.slots_left == 0:
            return False
        _open_slot(workload, arch, nest, core, ledger, fold)
    if core.num_served >= core.num_beside:
        core.clock = max(core.clock, core.pass_end)
    return True


@njit(error_model="numpy")
def serve(core: Core, ledger: Ledger, grant: int) -> int:
    """Run the transfer that a core asked for, from ``grant`` on; returns when the channel is free again."""
    served = core.num_served
    core.num_served = served + 1
    core.clock = grant + core.engine_cycles[served]
    ledger.totals[BUSY_CYCLES] += core.engine_cycles[served]
    return grant + core.channel_cycles[served]


@njit(error_model="numpy")
def _open_slot(workload: WorkloadArrays, arch: ArchArrays, nest: Nest, core: Core, ledger: Ledger, fold: bool) -> None:
    """Queue the transfers of the next slot: beside the pass last entered, and after it."""
    core.slots_left -= 1
    core.num_transfers = core.num_served = 0
    core.pass_end = core.clock + core.pass_cycles
    _queue(core, core.pending[0], core.pending[1])
    store_channel_cycles, store_engine_cycles = core.store[0], core.store[1]
    is_prologue = core.pass_cycles == 0 and core.passes_left > 0
    _enter_pass(workload, arch, nest, core, ledger, is_prologue, fold)
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


@njit(error_model="numpy")
def _queue(core: Core, channel_cycles: int, engine_cycles: int) -> None:
    """Add a transfer to the slot, if it moves anything."""
    if channel_cycles > 0:
        core.channel_cycles[core.num_transfers] = channel_cycles
        core.engine_cycles[core.num_transfers] = engine_cycles
        core.num_transfers += 1


@njit(error_model="numpy")
def _enter_pass(
    workload: WorkloadArrays,
    arch: ArchArrays,
    nest: Nest,
    core: Core,
    ledger: Ledger,
    is_first: bool,
    fold: bool,
) -> None:
    """Step to the next pass, if there is one: its cycles, its store, and the cycles of its loads."""
    core.pass_cycles = core.store[0] = core.store[1] = 0
    core.loads[0] = core.loads[1] = core.loads[2] = 0
    if core.passes_left == 0:
        return
    index, count, first, tile = core.loop_index, core.loop_count, core.first, core.tile
    if not is_first:
        loop = nest.num_dram_loops - 1
        while index[loop] == count[loop] - 1:
            index[loop] = 0
            loop -= 1
        index[loop] += 1
    core.passes_left -= 1

    kind, moved, moves, is_first_sum, is_last_sum = 0, -1, -1, True, True
    for d in range(NUM_DIMS):
        first[d] = core.chunk_first[d]
        tile[d] = min(nest.spm[d], core.chunk[d])
        if core.chunk[d] < nest.spm[d]:
            kind += ledger.kind_stride[d] * core.edge_kind[d]
    for loop in range(nest.num_dram_loops):
        d = nest.loops[loop]
        first[d] += index[loop] * nest.spm[d]
        if index[loop] > 0:
            moved = loop
            is_first_sum = is_first_sum and not workload.is_reduction[d]
            tile[d] = min(nest.spm[d], core.chunk[d] - index[loop] * nest.spm[d])
            if index[loop] == count[loop] - 1:
                kind += ledger.kind_stride[d] * core.edge_kind[d]
        if index[loop] < count[loop] - 1:
            moves = loop
            is_last_sum = is_last_sum and not workload.is_reduction[d]

    totals = ledger.totals
    for operand in range(3):
        if moved <= nest.spm_position[operand] and (operand != O or not is_first_sum):
            cycles, elems, num_bytes = transfer(workload, arch, operand, workload.elem_bits[operand], first, tile)
            core.loads[operand] = cycles
            totals[MOVED + operand] += elems
            totals[DRAM_BYTES + operand] += num_bytes
            kind += 1 << operand
        elif nest.rf_position[operand] >= nest.num_dram_loops and operand != O:
            kind += 1 << operand
    if nest.rf_position[O] >= nest.num_dram_loops and not is_first_sum and moved > nest.spm_position[O]:
        kind += READS_O
    if moves <= nest.spm_position[O]:
        _store_cost(workload, arch, core, ledger, is_last_sum)
        kind += O_LEAVES
    elif nest.rf_position[O] >= nest.num_dram_loops:
        kind += O_LEAVES
    if ledger.num_passes[kind] == 0:
        pass_record(workload, arch, nest, tile, kind % _EDGE_KINDS, fold, ledger.records[kind])
    ledger.num_passes[kind] += 1
    core.pass_cycles = ledger.records[kind, PASS_CYCLES]
    core.sum_pass_cycles += ledger.records[kind, PASS_CYCLES]
    core.sum_mac_cycles += ledger.records[kind, MAC_CYCLES]


@njit(error_model="numpy")
def _store_cost(workload: WorkloadArrays, arch: ArchArrays, core: Core, ledger: Ledger, is_complete: bool) -> None:
    """Note the store of the pass just entered: a finished tile, or a partial sum that spills."""
    first, tile, totals = core.first, core.tile, ledger.totals
    if is_complete:
        channel, engine, elems, num_bytes, extra_bytes = final_store(workload, arch, first, tile, ledger.extra_elems)
        totals[FINAL_ELEMS] += elems
        totals[DRAM_BYTES + 3] += extra_bytes
    else:
        channel, elems, num_bytes = transfer(workload, arch, O, workload.elem_bits[O], first, tile)
        engine = channel
        totals[MOVED + O] += elems
    totals[DRAM_BYTES + O] += num_bytes
    core.store[0], core.store[1] = channel, engine
