"""A rough count of cycles, only good enough to pick the untuned baseline; no cost model and no lower bound."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tvm_spm.arch import Arch
from tvm_spm.space.mapping_batch import MappingBatch
from tvm_spm.tile import spanned_elems
from tvm_spm.transfer import transfer
from tvm_spm.workload import DIM_NAMES, Operand, Projection, Workload

SERIAL_SHARE = 0.1
"""How much of the shorter ones of DMA, NoC and compute is assumed not to overlap; it also breaks ties."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Orders = NDArray[np.int8]


def rough_cycles(workload: Workload, arch: Arch, batch: MappingBatch, orders: tuple[Orders, Orders]) -> Floats:
    """DMA, NoC and compute side by side; tiles count as full and padding as data.

    Args:
        workload: What is computed.
        arch: On what.
        batch: Mappings; their own orders do not matter.
        orders: At DRAM and at SPM the orders to try, per mapping, or with one row for all: (mappings, orders, dims),
            filled up with ``NO_DIM``. They need not name loops; one that is not named counts as innermost.

    Returns:
        Cycles of each mapping with each pair of orders: (mappings, orders).
    """
    core_tile = -(-np.array(workload.dims.as_tuple()) // batch.cores)
    array = batch.rows * batch.cols * batch.rf
    dram, spm = -(-core_tile // batch.spm), -(-batch.spm // array)
    outer, inner = _Loops(dram, orders[0]), _Loops(spm, orders[1])
    num_waiting = (-(-batch.cores.prod(axis=1) // arch.levels.DRAM.channels)).astype(np.float64)[:, None]
    one = np.ones(batch.num_mappings, dtype=np.int64)
    dma, noc = np.zeros(outer.trips.shape[:2]), np.zeros(inner.trips.shape[:2])
    for operand in Operand:
        projection = workload.projection(operand)
        relevant = [DIM_NAMES.index(name) for name in projection.relevant_dims]
        fetches = outer.fetches(relevant)
        dma = dma + num_waiting * fetches * _transfer_cycles(projection, arch, batch.spm)[:, None]
        inside = inner.fetches(relevant)
        crossings = np.where(inside > 1, outer.trips[:, :, -1] * inside, fetches)
        held = math.prod(_spans(projection, np.minimum(array, batch.spm)), start=one)[:, None]
        noc = np.maximum(noc, crossings * held / arch.noc.elems_per_cycle)
    compute = (dram.prod(axis=1) * spm.prod(axis=1) * batch.rf.prod(axis=1)).astype(np.float64)[:, None]
    longest = np.maximum(np.maximum(dma, noc), compute)
    return np.asarray(longest + SERIAL_SHARE * (dma + noc + compute - longest))


class _Loops:
    """Loops of one level: ``trips`` are iterations of each loop and all around it, (mappings, orders, positions)."""

    def __init__(self, factors: Ints, orders: Orders) -> None:
        # what NO_DIM points at loops once
        factors = np.concatenate([factors, np.ones((len(factors), 1), dtype=np.int64)], axis=1)
        self._orders = np.broadcast_to(orders, (len(factors), *orders.shape[1:]))
        along = factors[np.arange(len(factors))[:, None, None], self._orders]
        self._iterates = along > 1
        self.trips: Floats = np.cumprod(along, axis=2).astype(np.float64)

    def fetches(self, relevant: list[int]) -> Floats:
        """Iterations from the outermost loop down to the innermost relevant one."""
        matters = np.zeros(len(DIM_NAMES) + 1, dtype=np.bool_)
        matters[relevant] = True
        found: Floats = np.where(matters[self._orders] & self._iterates, self.trips, 1.0).max(axis=2)
        return found


def _spans(projection: Projection, tiles: Ints) -> list[Ints]:
    by_dim = dict(zip(DIM_NAMES, tiles.T, strict=True))
    return [spanned_elems(axis.dims, axis.coefficients, range(len(axis.terms)), by_dim) for axis in projection.axes]


def _transfer_cycles(projection: Projection, arch: Arch, tiles: Ints) -> Floats:
    run, bursts = np.ones(len(tiles), dtype=np.int64), np.ones(len(tiles), dtype=np.int64)
    is_contiguous = np.ones(len(tiles), dtype=np.bool_)
    for axis, spanned in reversed(list(zip(projection.axes, _spans(projection, tiles), strict=True))):
        elems = np.minimum(spanned, axis.extent)
        run = run * np.where(is_contiguous, elems, 1)
        bursts = bursts * np.where(is_contiguous, 1, elems)
        is_contiguous = is_contiguous & (elems == axis.extent)
    startup, rate = arch.burst_startup_cycles, arch.dma_bytes_per_cycle
    moved = [
        transfer(elems, num, projection.elem_bits, arch.burst_bits, startup, rate)[1]
        for elems, num in zip((bursts * run).tolist(), bursts.tolist(), strict=True)
    ]
    return np.asarray(bursts * startup + np.array(moved) / 8 / rate)
