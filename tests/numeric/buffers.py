"""Bytes in SPM: what a mapping claims, and what code allocates."""

from __future__ import annotations

import math

import tvm_ffi
from tvm import s_tir, tirx

from tvm_spm.mapping import Mapping
from tvm_spm.units import bits_to_bytes
from tvm_spm.workload import Operand, Workload, dtype_bits


def claimed_spm_bytes(workload: Workload, mapping: Mapping) -> int:
    """Bytes that one copy of every operand's SPM tile takes by the mapping."""
    tile = mapping.spm.combine(mapping.core_tile(workload.dims), min)
    return sum(workload.projection(operand).tile_bytes(tile) for operand in Operand)


def spm_bytes(lowered: tirx.PrimFunc) -> int:
    """Bytes of all buffers in scope ``global.spm`` that a function allocates, one copy each.

    Args:
        lowered: After ``CompactBufferAllocation``, which shrinks staged buffers to their tiles; groups are written so.
    """
    total = 0
    for buffer in allocated_buffers(lowered.body):
        if buffer.scope() == "global.spm":
            elems = math.prod(int(extent) for extent in buffer.shape)
            total += bits_to_bytes(elems * dtype_bits(str(buffer.dtype)))
    return total


def allocated_buffers(body: tirx.Stmt) -> list[tirx.Buffer]:
    """Every buffer allocated in a function's body, before or after blocks are lowered."""
    found: list[tirx.Buffer] = []
    tvm_ffi.structural_walk(body, (s_tir.SBlock, lambda block: found.extend(block.alloc_buffers)), order="post")
    tvm_ffi.structural_walk(body, (tirx.AllocBuffer, lambda stmt: found.append(stmt.buffer)), order="post")
    return found
