"""Where a mapping loads and stores its operands, and how many bytes its lowered schedule keeps in SPM."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tvm_ffi
from tvm import s_tir, tirx

from tvm_spm.mapping import Mapping
from tvm_spm.units import bits_to_bytes
from tvm_spm.workload import REDUCTION_DIMS, Operand, Workload, dtype_bits

LEVELS = ("cores", "dram", "spm", "rows", "cols", "rf")
"""Levels of loops, outer to inner."""

Loop = tuple[str, str]
"""Level and dim of one loop of the scheduled nest, for example ``("dram", "K")``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPositions:
    """The loops at which operands enter and leave; ``None`` means before all DRAM loops of a core.

    Attributes:
        loops: DRAM and SPM loops that iterate in a full tile, outer to inner.
        spm: Per operand, the innermost relevant DRAM loop.
        rf: Per operand, the innermost relevant loop.
    """

    loops: tuple[Loop, ...]
    spm: tuple[Loop | None, Loop | None, Loop | None]
    rf: tuple[Loop | None, Loop | None, Loop | None]

    def evicts_partial(self, level: str) -> bool:
        """Whether outputs leave ``"SPM"`` or ``"RF"`` before their last addition."""
        position = {"SPM": self.spm, "RF": self.rf}[level][Operand.O.value]
        outside = self.loops[: self.loops.index(position) + 1] if position else ()
        return any(dim in REDUCTION_DIMS for _, dim in outside)


def load_positions(workload: Workload, mapping: Mapping) -> LoadPositions:
    """Static load positions: they follow from the factors of the full tile and hold on edge tiles too."""
    dram_factors, spm_factors = mapping.dram_factors(workload.dims), mapping.spm_factors()
    dram = tuple(("dram", name) for name in mapping.dram_order if dram_factors[name] > 1)
    inner = tuple(("spm", name) for name in mapping.spm_order if spm_factors[name] > 1)

    def innermost(loops: tuple[Loop, ...], operand: Operand) -> Loop | None:
        relevant = workload.projection(operand).relevant_dims
        return next((loop for loop in reversed(loops) if loop[1] in relevant), None)

    i, w, o = Operand
    return LoadPositions(
        loops=dram + inner,
        spm=(innermost(dram, i), innermost(dram, w), innermost(dram, o)),
        rf=(innermost(dram + inner, i), innermost(dram + inner, w), innermost(dram + inner, o)),
    )


def claimed_spm_bytes(workload: Workload, mapping: Mapping) -> int:
    """Bytes that one copy of every operand's SPM tile takes by the mapping."""
    tile = mapping.spm.combine(mapping.core_tile(workload.dims), min)
    return sum(workload.projection(operand).tile_bytes(tile) for operand in Operand)


def spm_bytes(lowered: tirx.PrimFunc) -> int:
    """Bytes of all buffers in scope ``global.spm`` that a function allocates, one copy each.

    Args:
        lowered: A function after ``CompactBufferAllocation``, which shrinks staged buffers to their tiles.
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
