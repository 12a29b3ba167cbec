"""A TIR function as the list of its blocks, before any schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm.s_tir import SBlock, SBlockRealize

_REDUCE = 2
"""``IterVar.CommReduce``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block with one store. ``iters`` holds (variable, extent, whether it reduces)."""

    sblock: SBlock
    store: tvm.tirx.BufferStore
    iters: tuple[tuple[tvm.ir.Var, int, bool], ...]

    @property
    def name(self) -> str:
        """Unique within the function."""
        return str(self.sblock.name_hint)

    @property
    def buffer(self) -> tvm.ir.Var:
        """What the block writes."""
        return self.store.buffer

    @property
    def dtype(self) -> str:
        """Of one element written."""
        return str(self.buffer.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what the block writes."""
        return tuple(int(extent) for extent in self.buffer.shape)

    @property
    def has_init(self) -> bool:
        """Whether the block starts an accumulation."""
        return self.sblock.init is not None

    @property
    def reduces(self) -> bool:
        """Whether the block sums over something."""
        return self.has_init or any(reduce for _, _, reduce in self.iters)

    @property
    def num_iterations(self) -> int:
        """Executions of the store."""
        return math.prod(extent for _, extent, _ in self.iters)


def read_blocks(func: tvm.tirx.PrimFunc) -> tuple[Block, ...] | str:
    """The blocks of an unscheduled function in order, or why it is not made of simple blocks."""
    body = func.body
    if not isinstance(body, SBlockRealize) or body.block.iter_vars:
        return "the function has no root block"
    buffers = [*func.params, *body.block.alloc_buffers]
    for buffer in buffers:
        if not hasattr(buffer, "shape"):
            return f"parameter {buffer.name} is not a tensor"
        if any(constant(extent) is None for extent in buffer.shape):
            return f"tensor {buffer.name} has a symbolic shape"
    found: list[Block] = []
    for realize in _realizes(body.block.body):
        block = realize if isinstance(realize, str) else _simple_block(realize)
        if isinstance(block, str):
            return block
        found.append(block)
    names = [block.name for block in found]
    if len(set(names)) < len(names):
        return "two blocks have the same name"
    return tuple(found)


def _realizes(stmt: tvm.tirx.Stmt) -> Iterator[SBlockRealize | str]:
    if isinstance(stmt, tvm.tirx.SeqStmt):
        for inner in stmt.seq:
            yield from _realizes(inner)
    elif isinstance(stmt, tvm.tirx.For):
        yield from _realizes(stmt.body)
    elif isinstance(stmt, SBlockRealize):
        yield stmt
    else:
        yield f"a {type(stmt).__name__} stands outside of every block"


def _simple_block(realize: SBlockRealize) -> Block | str:
    block, name = realize.block, realize.block.name_hint
    if any(not isinstance(v, tvm.ir.Var) and constant(v) is None for v in realize.iter_values):
        return f"block {name} is already scheduled"
    if constant(realize.predicate) != 1:
        return f"block {name} has a predicate"
    if not isinstance(block.body, tvm.tirx.BufferStore):
        return f"block {name} is not a single store"
    iters = []
    for var in block.iter_vars:
        extent, start = constant(var.dom.extent), constant(var.dom.min)
        if extent is None or start != 0:
            return f"block {name} has a loop of unknown extent"
        iters.append((var.var, int(extent), int(var.iter_type) == _REDUCE))
    return Block(sblock=block, store=block.body, iters=tuple(iters))


def constant(value: tvm.ir.Expr) -> int | float | None:
    """The number an immediate holds."""
    if isinstance(value, tvm.tirx.IntImm):
        return int(value.value)
    return float(value.value) if isinstance(value, tvm.tirx.FloatImm) else None


def strip_casts(value: tvm.ir.Expr) -> tvm.ir.Expr:
    """The value before conversions."""
    while isinstance(value, tvm.tirx.Cast):
        value = value.value
    return value


def _parts(value: tvm.ir.Expr) -> tuple[tuple[tvm.ir.Expr, ...], int]:
    """Sub-expressions that hold data, and the operations of this node itself; tests of loop indices cost nothing."""
    if isinstance(value, tvm.tirx.Cast):
        return (value.value,), 1
    if isinstance(value, tvm.tirx.Select):
        return (value.condition, value.true_value, value.false_value), 1
    if isinstance(value, tvm.tirx.Let):
        return (value.value, value.body), 0
    if isinstance(value, tvm.ir.Call):
        return tuple(value.args), 1
    if hasattr(value, "a") and hasattr(value, "b"):
        return (value.a, value.b), 1
    if isinstance(value, tvm.tirx.Not):
        return (value.a,), 1
    return (), 0


def loads_of(value: tvm.ir.Expr) -> list[tvm.ir.TensorLoad]:
    """Every tensor element a value is made of, left to right; what only computes an index is left out."""
    if isinstance(value, tvm.ir.TensorLoad):
        return [value]
    return [load for part in _parts(value)[0] for load in loads_of(part)]


def count_ops(value: tvm.ir.Expr) -> int:
    """Arithmetic operations on data for one element; index arithmetic and copies cost nothing."""
    if not loads_of(value):
        return 0
    parts, ops = _parts(value)
    if isinstance(value, tvm.ir.Call) and value.op.name.endswith(".if_then_else") and not loads_of(parts[0]):
        ops = 0
    return ops + sum(count_ops(part) for part in parts)


def count_distinct_ops(value: tvm.ir.Expr) -> int:
    """The same for an expression in which other blocks were merged: equal parts are computed once."""
    seen: list[tvm.ir.Expr] = []
    pending, total = [value], 0
    while pending:
        part = pending.pop()
        if not loads_of(part) or any(tvm_ffi.structural_equal(part, other) for other in seen):
            continue
        seen.append(part)
        total += count_ops(part) - sum(count_ops(inner) for inner in _parts(part)[0])
        pending += _parts(part)[0]
    return total
