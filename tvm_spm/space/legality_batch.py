"""The same verdict as ``legality.check`` for many mappings at once; a property test compares the two."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tvm_spm.arch import Arch
from tvm_spm.jit import entry, lean
from tvm_spm.rejection import REASONS
from tvm_spm.space.mapping_batch import NO_DIM, NUM_DIMS, MappingBatch
from tvm_spm.space.tensors import Tensors, axis_elems
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Operand, Workload

HUGE_ELEMS = 1 << 44
"""Products stop here: even at one bit each, so many elements exceed the largest capacity an ``Arch`` may have."""


class Limits(NamedTuple):
    """One workload on one arch as arrays: what the rules compare a mapping with.

    Per-dim arrays follow ``DIM_NAMES``, per-operand arrays ``I W O``.
    """

    extents: NDArray[np.int64]
    is_reduction: NDArray[np.bool_]
    is_output: NDArray[np.bool_]
    tensors: Tensors
    spm_bits: NDArray[np.int64]
    rf_bits: NDArray[np.int64]
    spm_bytes: NDArray[np.int64]
    is_split: bool
    bank_bytes: int
    rf_bytes: int
    num_cores: int
    num_rows: int
    num_cols: int


def limits_of(workload: Workload, arch: Arch) -> Limits:
    """The arrays for one workload on one arch."""
    rf_bits = [workload.projection(operand).elem_bits for operand in Operand]
    return Limits(
        extents=np.array(workload.dims.as_tuple(), dtype=np.int64),
        is_reduction=np.array([name in REDUCTION_DIMS for name in DIM_NAMES]),
        is_output=np.array([name in workload.O.relevant_dims for name in DIM_NAMES]),
        tensors=Tensors.of(workload),
        spm_bits=np.array([rf_bits[0], rf_bits[1], max(rf_bits[2], workload.out_bits)], dtype=np.int64),
        rf_bits=np.array(rf_bits, dtype=np.int64),
        spm_bytes=np.array([arch.levels.SPM.capacity_of(operand) for operand in Operand], dtype=np.int64),
        is_split=arch.levels.SPM.is_split,
        bank_bytes=arch.levels.SPM.bank_bytes,
        rf_bytes=arch.levels.RF.capacity_bytes,
        num_cores=arch.cores.count,
        num_rows=arch.pe.rows,
        num_cols=arch.pe.cols,
    )


def check_batch(workload: Workload, arch: Arch, batch: MappingBatch) -> NDArray[np.int8]:
    """0 for a legal mapping, else 1 + the index in ``REASONS`` of the first broken rule."""
    return check_rows(limits_of(workload, arch), batch)


def check_rows(limits: Limits, batch: MappingBatch) -> NDArray[np.int8]:
    """``check_batch`` for callers that keep the ``Limits``."""
    codes = np.empty(batch.num_mappings, dtype=np.int8)
    _check_rows(limits, batch, np.empty(NUM_DIMS, dtype=np.int64), codes)
    return codes


def count_reasons(codes: NDArray[np.int8]) -> dict[str, int]:
    """How many mappings each reason removed, in the order of ``REASONS``; reasons that removed none are left out."""
    counts = np.bincount(codes.astype(np.int64), minlength=len(REASONS) + 1)
    return {reason: int(counts[1 + i]) for i, reason in enumerate(REASONS) if counts[1 + i]}


@lean
def _capped_elems(limits: Limits, operand: int, tile: NDArray[np.int64]) -> int:
    """``tile_elems`` of a tile of any size, at most ``HUGE_ELEMS``."""
    tensors, elems = limits.tensors, 1
    for axis in range(tensors.axis_start[operand], tensors.axis_start[operand + 1]):
        spanned = axis_elems(tensors, axis, tile)
        if spanned > HUGE_ELEMS // elems:
            return HUGE_ELEMS
        elems *= spanned
    return elems


@lean
def fits_spm(limits: Limits, tile: NDArray[np.int64], doubled: int) -> bool:
    """Whether the tiles of all operands and their second buffers fit the scratchpad."""
    total = 0
    for operand in range(3):
        tile_bytes = (_capped_elems(limits, operand, tile) * limits.spm_bits[operand] + 7) // 8
        needed = (1 + (doubled >> operand & 1)) * (-(-tile_bytes // limits.bank_bytes) * limits.bank_bytes)
        if limits.is_split and needed > limits.spm_bytes[operand]:
            return False
        total += needed
    return limits.is_split or total <= limits.spm_bytes[0]


@lean
def fits_rf(limits: Limits, tile: NDArray[np.int64], doubled: int) -> bool:
    """Whether the tiles of all operands and their second buffers fit one PE."""
    total = 0
    for operand in range(3):
        tile_bytes = (_capped_elems(limits, operand, tile) * limits.rf_bits[operand] + 7) // 8
        total += (1 + (doubled >> operand & 1)) * tile_bytes
    return total <= limits.rf_bytes


@lean
def spills(limits: Limits, core_tile: NDArray[np.int64], spm: NDArray[np.int64], order: NDArray[np.int8]) -> bool:
    """Whether some reduction loop at DRAM runs outside the innermost DRAM loop that moves the output tile."""
    reduction_outside = False
    for position in range(NUM_DIMS):
        d = order[position]
        if d == NO_DIM:
            break
        if core_tile[d] > spm[d]:
            if limits.is_reduction[d]:
                reduction_outside = True
            if limits.is_output[d] and reduction_outside:
                return True
    return False


@lean
def _exceeds(factors: NDArray[np.int64], available: int) -> bool:
    product = 1
    for d in range(NUM_DIMS):
        product *= factors[d]
        if product > available:
            return True
    return False


@lean
def _names(order: NDArray[np.int8], dim: int) -> bool:
    for position in range(NUM_DIMS):
        if order[position] == dim:
            return True
    return False


@lean
def _idle_core(limits: Limits, cores: NDArray[np.int64], core_tile: NDArray[np.int64]) -> bool:
    for d in range(NUM_DIMS):
        if -(-limits.extents[d] // core_tile[d]) != cores[d]:
            return True
    return False


@lean
def _order_code(batch: MappingBatch, row: int, core_tile: NDArray[np.int64]) -> bool:
    for d in range(NUM_DIMS):
        if core_tile[d] > batch.spm[row, d] and not _names(batch.dram_order[row], d):
            return True
        array = batch.rf[row, d] * batch.rows[row, d] * batch.cols[row, d]
        if batch.spm[row, d] > array and not _names(batch.spm_order[row], d):
            return True
    return False


@lean
def _first_broken(limits: Limits, batch: MappingBatch, row: int, core_tile: NDArray[np.int64]) -> int:
    cores, spm, rf = batch.cores[row], batch.spm[row], batch.rf[row]
    if _exceeds(cores, limits.num_cores):
        return 1
    for d in range(NUM_DIMS):
        core_tile[d] = -(-limits.extents[d] // cores[d])
        if limits.is_reduction[d] and cores[d] > 1:
            return 2
    if _idle_core(limits, cores, core_tile):
        return 3
    if _exceeds(batch.rows[row], limits.num_rows):
        return 4
    if _exceeds(batch.cols[row], limits.num_cols):
        return 5
    for d in range(NUM_DIMS):
        if batch.rows[row, d] * batch.cols[row, d] > -(-spm[d] // rf[d]):
            return 6
    for d in range(NUM_DIMS):
        if spm[d] > core_tile[d] or rf[d] > spm[d]:
            return 7
    if _order_code(batch, row, core_tile):
        return 8
    if not fits_spm(limits, spm, batch.spm_double[row]):
        return 9
    if not fits_rf(limits, rf, batch.rf_double[row]):
        return 10
    if not batch.spill[row] and spills(limits, core_tile, spm, batch.dram_order[row]):
        return 11
    return 0


@entry
def _check_rows(limits: Limits, batch: MappingBatch, core_tile: NDArray[np.int64], codes: NDArray[np.int8]) -> None:
    for row in range(codes.shape[0]):
        codes[row] = _first_broken(limits, batch, row, core_tile)
