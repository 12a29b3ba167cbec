"""Fills staged buffers with a marker, so that a read of what was never staged shows in the result."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import s_tir, tirx

_UNTIL_ALLOCATION = (
    s_tir.transform.CanonicalizeLoop(),
    s_tir.transform.LowerInitBlock(),
    s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
    s_tir.transform.ConvertBlocksToOpaque(),
    s_tir.transform.CompactBufferAllocation(),
)


def lower_to_allocations(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function with buffers of final size at their final place."""
    mod = tvm.IRModule({"main": func})
    for lowering in _UNTIL_ALLOCATION:
        mod = lowering(mod)
    return mod["main"]


def poisoned(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Every allocation, in SPM, in RF or for partial sums in DRAM, is filled with NaN, or 113, where it is made."""
    return func.with_body(_visit(func.body))


def _visit(stmt: tirx.Stmt) -> tirx.Stmt:
    if isinstance(stmt, tirx.SeqStmt):
        return tirx.SeqStmt([_visit(inner) for inner in stmt.seq])
    if isinstance(stmt, tirx.For):
        return tirx.For(stmt.loop_var, stmt.min, stmt.extent, stmt.kind, _visit(stmt.body), None, stmt.annotations)
    if isinstance(stmt, tirx.IfThenElse):
        return tirx.IfThenElse(stmt.condition, _visit(stmt.then_case), None)
    if not isinstance(stmt, s_tir.SBlockRealize):
        return stmt
    block = stmt.block
    body = _visit(block.body)
    if block.alloc_buffers:
        body = tirx.SeqStmt([*map(_fill, block.alloc_buffers), body])
    return s_tir.SBlockRealize(
        stmt.iter_values, stmt.predicate,
        s_tir.SBlock(
            block.iter_vars, block.reads, block.writes, block.name_hint, body, None, block.alloc_buffers,
            block.match_buffers, block.annotations,
        ),
    )  # fmt: skip


def _fill(buffer: tirx.Buffer) -> tirx.Stmt:
    at = [tirx.Var(f"fill{axis}", "int32") for axis in range(len(buffer.shape))]
    marker = np.nan if str(buffer.dtype).startswith("float") else 113
    stmt: tirx.Stmt = tirx.BufferStore(buffer, tirx.const(marker, str(buffer.dtype)), at)
    for var, extent in reversed(list(zip(at, buffer.shape, strict=True))):
        stmt = tirx.For(var, 0, int(extent), tirx.ForKind.SERIAL, stmt)
    return stmt
