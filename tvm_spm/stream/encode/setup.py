"""What is set up once per layer: loops, dims, axes, and where buffers lie in SPM and RF."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping
from tvm_spm.space.legality import spm_terms
from tvm_spm.stream.encode.places import Place, place, steps, strides_in
from tvm_spm.stream.instructions import AxisSetup, DimSetup, NestSetup, VectorStep
from tvm_spm.stream.memory import MemoryMap
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Operand, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffers:
    """Where tiles lie in SPM and in the vector unit's stream buffer.

    Attributes:
        spm: Per operand, addresses of its two buffers; the same twice if there is one.
        spm_bytes: Of SPM in use; per operand if it is split, else all in the first number.
        is_split: Whether each operand has a scratchpad of its own.
        extras: Per extra, the address of its box.
        extra_bytes: Of all boxes.
    """

    spm: tuple[tuple[int, int], ...]
    spm_bytes: tuple[int, int, int]
    is_split: bool
    extras: tuple[int, ...]
    extra_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Every tensor of a layer.

    Attributes:
        operands: I, W, and O as finished.
        partial: Partial sums in DRAM; O itself if none leave SPM.
        extras: What the epilogue reads.
    """

    operands: tuple[Place, Place, Place]
    partial: Place
    extras: tuple[Place, ...]


def place_tensors(workload: Workload, mapping: Mapping, memory: MemoryMap, *, spills: bool) -> Places:
    """Where all tensors and their tiles lie."""

    def placed(name: str, index: int, region: str) -> Place:
        projection = (workload.I, workload.W, workload.final_projection(), workload.O)[index]
        tile_bytes = np.dtype(workload.O.dtype if index >= Operand.O.value else projection.dtype).itemsize
        return place(name, projection, memory.region(region).address, mapping.spm, tile_bytes)

    extras = tuple(
        place(
            f"extra {number}", extra, memory.region(f"E{number}").address, mapping.spm, np.dtype(extra.dtype).itemsize
        )
        for number, extra in enumerate(workload.epilogue.extras)
    )
    operands = (placed("I", 0, "I"), placed("W", 1, "W"), placed("O", 2, "O"))
    partial = placed("partial sums", 3, "P") if spills else operands[2]
    return Places(operands=operands, partial=partial, extras=extras)


def place_buffers(workload: Workload, arch: Arch, mapping: Mapping) -> Buffers:
    """Buffers one after the other: I, W and O in whole banks, extras in whole elements."""
    taken = [num_bytes for _, num_bytes in spm_terms(workload, arch, mapping, mapping.spm)]
    is_split, address, spm = arch.levels.SPM.is_split, 0, []
    for operand, num_bytes in zip(Operand, taken, strict=True):
        count = mapping.num_buffers("SPM", operand)
        first = 0 if is_split else address
        spm.append((first, first + (num_bytes // 2 if count == 2 else 0)))
        address += num_bytes
    extras, at = [], 0
    for extra in workload.epilogue.extras:
        elem_bytes = np.dtype(extra.dtype).itemsize
        at = ceil_div(at, elem_bytes) * elem_bytes
        extras.append(at)
        at += extra.tile_elems(mapping.spm) * elem_bytes
    spm_bytes = (taken[0], taken[1], taken[2]) if is_split else (address, 0, 0)
    return Buffers(
        spm=tuple(spm), spm_bytes=spm_bytes, is_split=is_split, extras=tuple(extras), extra_bytes=at
    )  # fmt: skip


def rf_addresses(workload: Workload, mapping: Mapping) -> tuple[tuple[int, ...], int]:
    """First and second buffer of I, W and O in one PE, the widest elements first, and the bytes of all."""
    found, address = [0] * 6, 0
    for operand in sorted(Operand, key=lambda each: (-workload.projection(each).elem_bits, each.value)):
        num_bytes = workload.projection(operand).tile_bytes(mapping.rf)
        count = mapping.num_buffers("RF", operand)
        found[2 * operand.value] = address
        found[2 * operand.value + 1] = address + (num_bytes if count == 2 else 0)
        address += count * num_bytes
    return tuple(found), address


def setups(
    workload: Workload, mapping: Mapping, places: Places, vector: tuple[VectorStep, ...], *, spills: bool
) -> Iterator[NestSetup | DimSetup | AxisSetup | VectorStep]:
    """All but the number of passes, which differs between cores: it is 0 here."""
    factors, addresses = mapping.spm_factors(), rf_addresses(workload, mapping)
    loops = tuple(d for d in mapping.spm_order if factors[d] > 1)
    depths = [
        max((at + 1 for at, d in enumerate(loops) if d in workload.projection(operand).relevant_dims), default=0)
        for operand in Operand
    ]
    reducing = [math.prod(factor[d] for d in REDUCTION_DIMS) for factor in (mapping.rows, mapping.cols)]
    doubles = [tuple(int(mapping.num_buffers(level, operand) == 2) for operand in Operand) for level in ("RF", "SPM")]
    yield NestSetup(
        loops=loops,
        rf_double=(doubles[0][0], doubles[0][1], doubles[0][2]),
        spm_double=(doubles[1][0], doubles[1][1], doubles[1][2]),
        spills=int(spills),
        depths=(depths[0], depths[1], depths[2]),
        dtypes=(workload.I.dtype, workload.W.dtype, workload.O.dtype, workload.out_dtype),
        reducing=(reducing[0], reducing[1]),
        num_ops_per_elem=workload.epilogue.num_ops_per_elem,
        num_passes=0,
        rf_addresses=(
            addresses[0][0],
            addresses[0][1],
            addresses[0][2],
            addresses[0][3],
            addresses[0][4],
            addresses[0][5],
        ),
        rf_bytes=addresses[1],
        num_vector_steps=len(vector),
    )
    rf_strides = []
    for operand in Operand:
        projection = workload.projection(operand)
        rf_strides.append(strides_in(mapping.rf, projection.axes, projection.elem_bits // 8))
    spm_steps = [steps(placed) for placed in places.operands]
    for number, d in enumerate(DIM_NAMES):
        rf_steps = [
            sum(
                coefficient * stride
                for axis, stride in zip(workload.projection(operand).axes, rf_strides[operand.value], strict=True)
                for name, coefficient in axis.terms
                if name == d and mapping.rf[d] > 1
            )
            for operand in Operand
        ]
        yield DimSetup(
            dim=d, array=mapping.array[d], rows=mapping.rows[d], cols=mapping.cols[d], rf=mapping.rf[d],
            spm_steps=(spm_steps[0][number], spm_steps[1][number], spm_steps[2][number]),
            rf_steps=(rf_steps[0], rf_steps[1], rf_steps[2]),
        )  # fmt: skip
    for operand, placed in zip(Operand, places.operands, strict=True):
        kept = [(axis, rf) for axis, rf in zip(placed.axes, rf_strides[operand.value], strict=True) if axis.is_kept]
        for at, (axis, rf_stride) in enumerate(kept):
            yield AxisSetup(
                operand=operand.name, axis=at, dims=tuple(DIM_NAMES[d] for d, _ in axis.terms),
                coefficients=tuple(coefficient for _, coefficient in axis.terms), spm_stride=axis.tile_stride,
                rf_stride=rf_stride,
            )  # fmt: skip
    yield from vector
