"""The timeline of one core: passes one after the other, and the DMA transfers beside and between them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cost_model.simulator.dma import final_store, transfer
from cost_model.simulator.nest import NUM_DIMS, O
from cost_model.simulator.pe_array import (
    MAC_CYCLES,
    O_LEAVES,
    PASS_CYCLES,
    PASS_FIELDS,
    READS_O,
    pass_record,
)

MOVED, FINAL_ELEMS, DRAM_BYTES, BUSY_CYCLES, TOTAL_FIELDS = 0, 3, 4, 8, 9
"""Columns of the totals over all cores: elements of I W O moved as operands, finished outputs, bytes of I W O extras."""

_MAX_TRANSFERS = 8
_EDGE_KINDS = 16


class Cores(NamedTuple):
    """All cores of one mapping, a row each.

    A slot is a pass and the transfers that belong to it: the first ``num_beside`` of ``num_transfers`` run beside the
    pass, the others after both. The slot before the first pass and the one after the last have no pass.

    Attributes:
        first: First loop index per dim of the pass last entered.
        tile: Elements per dim of that pass.
        chunk_first: First loop index per dim of the core's share.
        chunk: Elements per dim of the core's share.
        edge_kind: Per dim, which size of tile the last one is: 0 if it is full.
        index: Per DRAM loop.
        count: Per DRAM loop.
        clock: When the last thing finished.
        pass_end: When the pass of this slot finishes.
        pass_cycles: Of the pass last entered.
        store: Channel and engine cycles of that pass's store, 0 if the outputs stay.
        pending: Those of a finished double-buffered tile.
        queue: Channel and engine cycles of the slot's transfers.
        num_beside: Transfers that run beside the pass.
        num_transfers: Transfers of the slot.
        num_served: Transfers finished.
        passes_left: Not yet entered.
        slots_left: Not yet opened.
        sum_pass_cycles: Over all passes so far.
        sum_mac_cycles: Over all passes so far.
    """

    first: NDArray[np.int64]
    tile: NDArray[np.int64]
    chunk_first: NDArray[np.int64]
    chunk: NDArray[np.int64]
    edge_kind: NDArray[np.int64]
    index: NDArray[np.int64]
    count: NDArray[np.int64]
    clock: NDArray[np.int64]
    pass_end: NDArray[np.int64]
    pass_cycles: NDArray[np.int64]
    store: NDArray[np.int64]
    pending: NDArray[np.int64]
    queue: NDArray[np.int64]
    num_beside: NDArray[np.int64]
    num_transfers: NDArray[np.int64]
    num_served: NDArray[np.int64]
    passes_left: NDArray[np.int64]
    slots_left: NDArray[np.int64]
    sum_pass_cycles: NDArray[np.int64]
    sum_mac_cycles: NDArray[np.int64]


class Ledger(NamedTuple):
    """What all cores share: one record per kind of pass, how many passes are of that kind, and what was moved."""

    kind_stride: NDArray[np.int64]
    records: NDArray[np.int64]
    num_passes: NDArray[np.int64]
    totals: NDArray[np.int64]
    extra_elems: NDArray[np.int64]


@njit  # type: ignore[misc]
def open_ledger(workload, nest):  # type: ignore[no-untyped-def]
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


@njit  # type: ignore[misc]
def place_cores(workload, arch, nest):  # type: ignore[no-untyped-def]
    """All cores before their first slot; core numbers count row-major over the dims."""
    num_cores = 1
    for d in range(NUM_DIMS):
        num_cores *= nest.cores[d]
    cores = Cores(
        np.zeros((num_cores, NUM_DIMS), dtype=np.int64), np.zeros((num_cores, NUM_DIMS), dtype=np.int64),
        np.zeros((num_cores, NUM_DIMS), dtype=np.int64), np.zeros((num_cores, NUM_DIMS), dtype=np.int64),
        np.zeros((num_cores, NUM_DIMS), dtype=np.int64), np.zeros((num_cores, NUM_DIMS), dtype=np.int64),
        np.zeros((num_cores, NUM_DIMS), dtype=np.int64),
        np.full(num_cores, arch.launch_cycles, dtype=np.int64), np.full(num_cores, arch.launch_cycles, dtype=np.int64),
        np.zeros(num_cores, dtype=np.int64), np.zeros((num_cores, 2), dtype=np.int64),
        np.zeros((num_cores, 2), dtype=np.int64), np.zeros((num_cores, _MAX_TRANSFERS, 2), dtype=np.int64),
        np.zeros(num_cores, dtype=np.int64), np.zeros(num_cores, dtype=np.int64), np.zeros(num_cores, dtype=np.int64),
        np.ones(num_cores, dtype=np.int64), np.zeros(num_cores, dtype=np.int64),
        np.zeros(num_cores, dtype=np.int64), np.zeros(num_cores, dtype=np.int64),
    )  # fmt: skip
    for core in range(num_cores):
        rest = core
        for d in range(NUM_DIMS - 1, -1, -1):
            start = rest % nest.cores[d] * nest.core_tile[d]
            rest //= nest.cores[d]
            chunk = min(nest.core_tile[d], workload.dims[d] - start)
            cores.chunk_first[core, d], cores.chunk[core, d] = start, chunk
            if chunk % nest.spm[d] != 0:
                is_second = chunk != nest.core_tile[d] and nest.core_tile[d] % nest.spm[d] != 0
                cores.edge_kind[core, d] = 1 + is_second
        for loop in range(nest.num_dram_loops):
            d = nest.loops[loop]
            cores.count[core, loop] = -(-cores.chunk[core, d] // nest.spm[d])
            cores.passes_left[core] *= cores.count[core, loop]
        cores.slots_left[core] = cores.passes_left[core] + 2
    return cores


@njit  # type: ignore[misc]
def advance(workload, arch, nest, cores, ledger, core, fold):  # type: ignore[no-untyped-def]
    """Run a core until it asks for a DRAM channel at its ``clock``; False if it has finished instead."""
    while cores.num_served[core] == cores.num_transfers[core]:
        cores.clock[core] = max(cores.clock[core], cores.pass_end[core])
        if cores.slots_left[core] == 0:
            return False
        _open_slot(workload, arch, nest, cores, ledger, core, fold)
    if cores.num_served[core] >= cores.num_beside[core]:
        cores.clock[core] = max(cores.clock[core], cores.pass_end[core])
    return True


@njit  # type: ignore[misc]
def serve(cores, ledger, core, grant):  # type: ignore[no-untyped-def]
    """Run the transfer that a core asked for, from ``grant`` on; returns when the channel is free again."""
    served = cores.num_served[core]
    cores.num_served[core] = served + 1
    cores.clock[core] = grant + cores.queue[core, served, 1]
    ledger.totals[BUSY_CYCLES] += cores.queue[core, served, 1]
    return grant + cores.queue[core, served, 0]


@njit  # type: ignore[misc]
def _open_slot(workload, arch, nest, cores, ledger, core, fold):  # type: ignore[no-untyped-def]
    """Queue the transfers of the next slot: beside the pass last entered, and after it."""
    cores.slots_left[core] -= 1
    queue, length = cores.queue[core], 0
    cores.pass_end[core] = cores.clock[core] + cores.pass_cycles[core]
    if cores.pending[core, 0] > 0:
        queue[0, 0], queue[0, 1] = cores.pending[core, 0], cores.pending[core, 1]
        length = 1
    store_channel, store_engine = cores.store[core, 0], cores.store[core, 1]
    is_prologue = cores.pass_cycles[core] == 0 and cores.passes_left[core] > 0
    loads = np.zeros(3, dtype=np.int64)
    _enter_pass(workload, arch, nest, cores, ledger, core, is_prologue, loads, fold)
    if not is_prologue:
        for operand in range(3):
            if nest.spm_double[operand] and loads[operand] > 0:
                queue[length, 0] = queue[length, 1] = loads[operand]
                length += 1
    cores.num_beside[core] = length
    cores.pending[core, 0] = cores.pending[core, 1] = 0
    if store_channel > 0:
        if nest.spm_double[O]:
            cores.pending[core, 0], cores.pending[core, 1] = store_channel, store_engine
        else:
            queue[length, 0], queue[length, 1] = store_channel, store_engine
            length += 1
    for operand in range(3):
        if (is_prologue or not nest.spm_double[operand]) and loads[operand] > 0:
            queue[length, 0] = queue[length, 1] = loads[operand]
            length += 1
    cores.num_transfers[core], cores.num_served[core] = length, 0


@njit  # type: ignore[misc]
def _enter_pass(workload, arch, nest, cores, ledger, core, is_first, loads, fold):  # type: ignore[no-untyped-def]
    """Step to the next pass, if there is one: its cycles, its store, and the cycles of its loads."""
    cores.pass_cycles[core] = cores.store[core, 0] = cores.store[core, 1] = 0
    if cores.passes_left[core] == 0:
        return
    index, count, first, tile = cores.index[core], cores.count[core], cores.first[core], cores.tile[core]
    if not is_first:
        loop = nest.num_dram_loops - 1
        while index[loop] == count[loop] - 1:
            index[loop] = 0
            loop -= 1
        index[loop] += 1
    cores.passes_left[core] -= 1

    kind, moved, moves, is_first_sum, is_last_sum = 0, -1, -1, True, True
    for d in range(NUM_DIMS):
        first[d] = cores.chunk_first[core, d]
        tile[d] = min(nest.spm[d], cores.chunk[core, d])
        if cores.chunk[core, d] < nest.spm[d]:
            kind += ledger.kind_stride[d] * cores.edge_kind[core, d]
    for loop in range(nest.num_dram_loops):
        d = nest.loops[loop]
        first[d] += index[loop] * nest.spm[d]
        if index[loop] > 0:
            moved = loop
            is_first_sum = is_first_sum and not workload.is_reduction[d]
            tile[d] = min(nest.spm[d], cores.chunk[core, d] - index[loop] * nest.spm[d])
            if index[loop] == count[loop] - 1:
                kind += ledger.kind_stride[d] * cores.edge_kind[core, d]
        if index[loop] < count[loop] - 1:
            moves = loop
            is_last_sum = is_last_sum and not workload.is_reduction[d]

    totals = ledger.totals
    for operand in range(3):
        if moved <= nest.spm_position[operand] and (operand != O or not is_first_sum):
            cycles, elems, num_bytes = transfer(workload, arch, operand, workload.elem_bits[operand], first, tile)
            loads[operand] = cycles
            totals[MOVED + operand] += elems
            totals[DRAM_BYTES + operand] += num_bytes
            kind += 1 << operand
        elif nest.rf_position[operand] >= nest.num_dram_loops and operand != O:
            kind += 1 << operand
    if nest.rf_position[O] >= nest.num_dram_loops and not is_first_sum and moved > nest.spm_position[O]:
        kind += READS_O
    if moves <= nest.spm_position[O]:
        _store_cost(workload, arch, cores, ledger, core, is_last_sum)
        kind += O_LEAVES
    elif nest.rf_position[O] >= nest.num_dram_loops:
        kind += O_LEAVES
    if ledger.num_passes[kind] == 0:
        pass_record(workload, arch, nest, tile, kind % _EDGE_KINDS, fold, ledger.records[kind])
    ledger.num_passes[kind] += 1
    cores.pass_cycles[core] = ledger.records[kind, PASS_CYCLES]
    cores.sum_pass_cycles[core] += ledger.records[kind, PASS_CYCLES]
    cores.sum_mac_cycles[core] += ledger.records[kind, MAC_CYCLES]


@njit  # type: ignore[misc]
def _store_cost(workload, arch, cores, ledger, core, is_complete):  # type: ignore[no-untyped-def]
    """Note the store of the pass just entered: a finished tile, or a partial sum that spills."""
    first, tile, totals = cores.first[core], cores.tile[core], ledger.totals
    if is_complete:
        channel, engine, elems, num_bytes, extra_bytes = final_store(workload, arch, first, tile, ledger.extra_elems)
        totals[FINAL_ELEMS] += elems
        totals[DRAM_BYTES + 3] += extra_bytes
    else:
        channel, elems, num_bytes = transfer(workload, arch, O, workload.elem_bits[O], first, tile)
        engine = channel
        totals[MOVED + O] += elems
    totals[DRAM_BYTES + O] += num_bytes
    cores.store[core, 0], cores.store[core, 1] = channel, engine
