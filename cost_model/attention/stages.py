"""The two products of one tile on the array: cycles and counts of a pass, and the best way to run it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from cost_model.fused.energy import array_energy
from cost_model.fused.flat import Ints
from cost_model.fused.passes import CROSSED, CYCLES, DELIVERED, LEFT, pass_problem, pass_records
from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.space.legality_batch import check_batch
from tvm_spm.space.mapping_batch import NO_DIM, NUM_DIMS, MappingBatch, decode, encode
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Epilogue, Operand, Workload

_DIMS = ("OX", "K", "C")
_COLUMNS = tuple(DIM_NAMES.index(name) for name in _DIMS)
_LARGEST_RF_TILE = 64
_RF_DOUBLE = (0b000, 0b011, 0b111)
"""Which operands have two RF buffers: none, those that come in, all."""


def tile_records(
    workload: Workload, arch: Arch, mapping: Mapping, shapes: Sequence[Dims], accumulates: Sequence[bool]
) -> Ints:
    """The passes of one mapping over tiles of several shapes; see ``fused.passes`` for the columns.

    Args:
        workload: The product.
        arch: The accelerator.
        mapping: Its parts below SPM; smaller tiles use fewer PEs and steps.
        shapes: Extents.
        accumulates: Whether sums start from what SPM holds instead of 0.
    """
    batch = encode([replace(mapping, cores=Dims(), dram_order=())])
    dims = np.array([tile.as_tuple() for tile in shapes], np.int64)
    which = np.zeros(len(dims), np.int64)
    return pass_records(pass_problem(workload, arch), batch, which, dims, np.array(accumulates, np.int64))


def tile_energy(workload: Workload, arch: Arch, mapping: Mapping, macs: int, record: Ints) -> NDArray[np.float64]:
    """Energy by part (see ``fused.energy``) of one pass, or of records summed over many, without what DMA moves."""
    scales = np.array([workload.projection(x).elem_bits for x in Operand]) / arch.word_bits
    reduction_pes = math.prod(mapping.rows[name] * mapping.cols[name] for name in REDUCTION_DIMS)
    counts = np.array([macs, record[LEFT], *record[CROSSED:DELIVERED], *record[DELIVERED:]], np.float64)
    return array_energy(arch, scales, reduction_pes, counts)


@lru_cache(maxsize=4096)
def best_inner(workload: Workload, arch: Arch, tile: Dims, *, accumulates: bool, objective: str) -> Mapping | None:
    """The best way to run one tile, or None if none is legal.

    Considered are one dim along the rows and one along the columns of the array, RF tiles of powers of two, all loop
    orders, and three bufferings. The product of cycles and energy stands for ``edp``.

    Args:
        workload: The product.
        arch: The accelerator.
        tile: Extents, all in SPM.
        accumulates: Whether sums start from what SPM holds.
        objective: ``edp``, ``energy`` or ``latency``; of equal ones the earlier in the enumeration.
    """
    alone = replace(workload, dims=tile, epilogue=Epilogue())
    batch = _candidates(alone, arch, tile)
    batch = batch.take(check_batch(alone, arch, batch) == 0)
    if batch.num_mappings == 0:
        return None
    num = batch.num_mappings
    dims, partial = np.tile(np.array(tile.as_tuple(), np.int64), (num, 1)), np.full(num, int(accumulates))
    records = pass_records(pass_problem(workload, arch), batch, np.arange(num), dims, partial)
    cycles = records[:, CYCLES].astype(np.float64)
    energy_pj = _energies(workload, arch, batch, records)
    aim = Objective.of(objective)
    order = np.lexsort((energy_pj if aim is Objective.LATENCY else cycles, aim.value_of(cycles, energy_pj)))
    return decode(batch, int(order[0])).canonical(alone)


def _energies(workload: Workload, arch: Arch, batch: MappingBatch, records: Ints) -> NDArray[np.float64]:
    """What differs between mappings of the same tile: not the MACs; the order of the sum decides between equals."""
    scales = np.array([workload.projection(x).elem_bits / arch.word_bits for x in Operand])
    crossed, delivered = records[:, CROSSED:DELIVERED] @ scales, records[:, DELIVERED:] @ scales
    reduction = [DIM_NAMES.index(name) for name in REDUCTION_DIMS]
    hops = (batch.rows[:, reduction] * batch.cols[:, reduction]).prod(axis=1) - 1
    noc = arch.noc
    return np.asarray(
        crossed * (noc.elem_pj + arch.levels.SPM.access_pj)
        + delivered * (noc.delivery_pj + arch.levels.RF.fill_pj)
        + records[:, LEFT] * hops * scales[2] * noc.reduction_hop_pj
    )


def _candidates(workload: Workload, arch: Arch, tile: Dims) -> MappingBatch:
    extents = [tile[name] for name in _DIMS]
    rf_tiles = _rf_tiles(workload, arch, extents)
    unrolled = []
    for row_dim, col_dim in product(range(3), repeat=2):
        rows, cols = np.ones_like(rf_tiles), np.ones_like(rf_tiles)
        rows[:, row_dim] = np.minimum(arch.pe.rows, -(-extents[row_dim] // rf_tiles[:, row_dim]))
        left = -(-extents[col_dim] // (rf_tiles[:, col_dim] * rows[:, col_dim]))
        cols[:, col_dim] = np.minimum(arch.pe.cols, left)
        unrolled.append(np.stack([rows, cols, rf_tiles], axis=1))
    below_spm = np.unique(np.concatenate(unrolled), axis=0)
    orders = list(permutations(range(3)))
    num = len(below_spm) * len(orders) * len(_RF_DOUBLE)

    def dims(part: Ints) -> Ints:
        table = np.ones((len(part), NUM_DIMS), dtype=np.int64)
        table[:, _COLUMNS] = part
        return np.repeat(table, len(orders) * len(_RF_DOUBLE), axis=0)

    order_table = np.full((num, NUM_DIMS), NO_DIM, dtype=np.int8)
    order_table[:, :3] = np.tile(
        np.repeat(np.array([[_COLUMNS[i] for i in order] for order in orders], np.int8), len(_RF_DOUBLE), axis=0),
        (len(below_spm), 1),
    )
    ones = np.ones((num, NUM_DIMS), dtype=np.int64)
    return MappingBatch(
        ones, np.tile(np.array(tile.as_tuple(), np.int64), (num, 1)),
        dims(below_spm[:, 0]), dims(below_spm[:, 1]), dims(below_spm[:, 2]),
        np.full((num, NUM_DIMS), NO_DIM, dtype=np.int8), order_table, np.zeros(num, np.int8),
        np.tile(np.array(_RF_DOUBLE, np.int8), num // len(_RF_DOUBLE)), np.zeros(num, np.bool_),
    )  # fmt: skip


def _rf_tiles(workload: Workload, arch: Arch, extents: list[int]) -> Ints:
    """Powers of two, or all of a small extent, that fit the RF with one buffer each."""
    choices = []
    for extent in extents:
        powers = [1 << i for i in range(_LARGEST_RF_TILE.bit_length()) if 1 << i <= extent]
        choices.append(sorted({*powers, min(extent, _LARGEST_RF_TILE)}))
    ox, k, c = np.array(list(product(*choices)), dtype=np.int64).T
    bits = [workload.projection(operand).elem_bits for operand in Operand]
    used = sum(-(-elems * width // 8) for elems, width in zip((ox * c, k * c, ox * k), bits, strict=True))
    return np.stack([ox, k, c], axis=1)[used <= arch.levels.RF.capacity_bytes]
