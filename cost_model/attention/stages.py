"""The two products of one tile on the array: cycles and counts of a pass, and the best way to run it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from cost_model.arrays import ArchArrays, WorkloadArrays
from cost_model.simulator.nest import build_nest
from cost_model.simulator.pe_array import (
    CROSSED,
    DELIVERED,
    LEFT_ELEMS,
    LOADS_I,
    LOADS_W,
    MAC_CYCLES,
    O_LEAVES,
    PASS_CYCLES,
    PASS_FIELDS,
    READS_O,
    pass_record,
)
from cost_model.simulator.state import NEST_FIELDS, Ints, Tensors, pack_problem, pack_tensors
from tvm_spm.arch import Arch
from tvm_spm.cost import Energy
from tvm_spm.jit import entry
from tvm_spm.mapping import Mapping
from tvm_spm.space.legality_batch import check_batch
from tvm_spm.space.mapping_batch import NO_DIM, NUM_DIMS, MappingBatch, decode, encode
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Epilogue, Operand, Workload

_DIMS = ("OX", "K", "C")
_COLUMNS = tuple(DIM_NAMES.index(name) for name in _DIMS)
_LARGEST_RF_TILE = 64
_RF_DOUBLE = (0b000, 0b011, 0b111)
"""Which operands have two RF buffers: none, those that come in, all."""


@entry
def _fill_records(
    problems: NDArray[np.void],
    tensors: Tensors,
    batch: MappingBatch,
    nests: NDArray[np.void],
    dims: Ints,
    flags: Ints,
    records: Ints,
) -> None:
    problem, nest = problems[0], nests[0]
    for row in range(len(batch.spm)):
        build_nest(problem, batch, row, nest)
        nest.fold = 1
        for shape in range(len(dims)):
            pass_record(problem, tensors, nest, dims[shape], flags[shape], records[row, shape])


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRecord:
    """One pass over a tile that lies in SPM; nothing is in the RFs before or after.

    Attributes:
        cycles: Of the pass.
        mac_cycles: Of them, in which PEs multiply.
        left: Outputs that left the array.
        crossed: Elements of I W O that crossed the network.
        delivered: Arrivals of I W O at PEs.
    """

    cycles: int
    mac_cycles: int
    left: int
    crossed: tuple[int, int, int]
    delivered: tuple[int, int, int]


def pass_records(
    workload: Workload, arch: Arch, mapping: Mapping, shapes: tuple[tuple[Dims, bool], ...]
) -> tuple[PassRecord, ...]:
    """The passes of one mapping over tiles of several shapes.

    Args:
        workload: The product.
        arch: The accelerator.
        mapping: Its parts below SPM; smaller tiles use fewer PEs and steps.
        shapes: Extents, and whether sums start from what SPM holds instead of 0.
    """
    batch = encode([replace(mapping, cores=Dims(), dram_order=())])
    return tuple(_record(row) for row in _records(workload, arch, batch, shapes)[0])


def pass_energy(workload: Workload, arch: Arch, mapping: Mapping, macs: int, record: PassRecord) -> Energy:
    """Energy of one pass, or of counts that are summed over many, without what DMA moves."""
    i_scale, w_scale, o_scale = scales = [workload.projection(x).elem_bits / arch.word_bits for x in Operand]
    crossed = sum(elems * scale for elems, scale in zip(record.crossed, scales, strict=True))
    delivered = sum(elems * scale for elems, scale in zip(record.delivered, scales, strict=True))
    hops = math.prod(mapping.rows[name] * mapping.cols[name] for name in REDUCTION_DIMS) - 1
    rf, noc = arch.levels.RF, arch.noc
    return Energy(
        mac_pj=macs * arch.mac.op_pj,
        rf_pj=macs * rf.access_pj * (i_scale + w_scale + 2 * o_scale) + delivered * rf.fill_pj,
        noc_pj=crossed * noc.elem_pj
        + delivered * noc.delivery_pj
        + record.left * hops * o_scale * noc.reduction_hop_pj,
        spm_pj=crossed * arch.levels.SPM.access_pj,
    )


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
    records = _records(workload, arch, batch, ((tile, accumulates),))[:, 0]
    cycles, energy = records[:, PASS_CYCLES].astype(np.float64), _energies(workload, arch, batch, records)
    keys = {"latency": (energy, cycles), "energy": (cycles, energy), "edp": (cycles, energy * cycles)}[objective]
    return decode(batch, int(np.lexsort(keys)[0])).canonical(alone)


def _records(workload: Workload, arch: Arch, batch: MappingBatch, shapes: tuple[tuple[Dims, bool], ...]) -> Ints:
    arrays = WorkloadArrays.of(workload)
    dims = np.array([tile.as_tuple() for tile, _ in shapes], dtype=np.int64).reshape(len(shapes), NUM_DIMS)
    flags = np.array(
        [LOADS_I + LOADS_W + O_LEAVES + (READS_O if accumulates else 0) for _, accumulates in shapes], dtype=np.int64
    )
    records = np.zeros((batch.num_mappings, len(shapes), PASS_FIELDS), dtype=np.int64)
    _fill_records(
        pack_problem(arrays, ArchArrays.of(arch)),
        pack_tensors(arrays),
        batch,
        np.zeros(1, NEST_FIELDS),
        dims,
        flags,
        records,
    )
    return records


def _record(row: Ints) -> PassRecord:
    numbers = [int(number) for number in row]
    return PassRecord(
        cycles=numbers[PASS_CYCLES],
        mac_cycles=numbers[MAC_CYCLES],
        left=numbers[LEFT_ELEMS],
        crossed=(numbers[CROSSED], numbers[CROSSED + 1], numbers[CROSSED + 2]),
        delivered=(numbers[DELIVERED], numbers[DELIVERED + 1], numbers[DELIVERED + 2]),
    )


def _energies(workload: Workload, arch: Arch, batch: MappingBatch, records: Ints) -> NDArray[np.float64]:
    """What differs between mappings of the same tile."""
    scales = np.array([workload.projection(x).elem_bits / arch.word_bits for x in Operand])
    crossed = records[:, CROSSED : CROSSED + 3] @ scales
    delivered = records[:, DELIVERED : DELIVERED + 3] @ scales
    reduction = [DIM_NAMES.index(name) for name in REDUCTION_DIMS]
    hops = batch.rows[:, reduction].prod(axis=1) * batch.cols[:, reduction].prod(axis=1) - 1
    noc = arch.noc
    return np.asarray(
        crossed * (noc.elem_pj + arch.levels.SPM.access_pj)
        + delivered * (noc.delivery_pj + arch.levels.RF.fill_pj)
        + records[:, LEFT_ELEMS] * hops * scales[2] * noc.reduction_hop_pj
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


__all__ = ["PassRecord", "best_inner", "pass_energy", "pass_records"]
