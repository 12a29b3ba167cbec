"""Blocks of a scheduled function, where they stand, and the rewriting of what surrounds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import tvm
import tvm_ffi
from tvm import s_tir, tirx

Node = TypeVar("Node", "tirx.PrimExpr", "tirx.Stmt")

ARRAY_LEVELS = ("rows", "cols", "rf")
"""Levels of loops over PEs and over what one PE does."""

COPY_ATTRS = ("spm.dma", "spm.noc")
"""Annotations of blocks that copy a tile between DRAM and SPM and between SPM and RF; the value is the operand, or
``E`` with the number of an extra that the epilogue reads from DRAM."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A block and the loops around it, outer to inner."""

    realize: s_tir.SBlockRealize
    loops: tuple[tirx.For, ...]

    @property
    def block(self) -> s_tir.SBlock:
        """Without its bindings."""
        return self.realize.block

    @property
    def copied_operand(self) -> str:
        """The operand this block copies, or an empty text."""
        notes = self.block.annotations
        return next((str(notes[name]) for name in COPY_ATTRS if name in notes), "")

    @property
    def moved_indices(self) -> list[tirx.PrimExpr]:
        """Where a copy writes, in terms of its loops."""
        pairs = zip(self.block.iter_vars, self.realize.iter_values, strict=True)
        values = {iter_var.var: value for iter_var, value in pairs}
        return [values.get(axis.min, axis.min) for axis in self.block.writes[0].region]


def placed_blocks(stmt: tirx.Stmt, loops: tuple[tirx.For, ...] = ()) -> Iterator[Placed]:
    """Every block with its loops, in order; a block before those inside it."""
    if isinstance(stmt, tirx.SeqStmt):
        for inner in stmt.seq:
            yield from placed_blocks(inner, loops)
    elif isinstance(stmt, tirx.For):
        yield from placed_blocks(stmt.body, (*loops, stmt))
    elif isinstance(stmt, s_tir.SBlockRealize):
        yield Placed(stmt, loops)
        yield from placed_blocks(stmt.block.body, loops)


def loop_vars(block: Placed) -> list[tirx.Var]:
    """Variables of the loops around a block."""
    return [loop.loop_var for loop in block.loops]


def parts_of(predicate: tirx.PrimExpr) -> list[tirx.PrimExpr]:
    """What a conjunction is made of; nothing if it is always true."""
    if isinstance(predicate, tirx.And):
        return parts_of(predicate.a) + parts_of(predicate.b)
    return [] if isinstance(predicate, tirx.IntImm) and int(predicate) else [predicate]


def rebuilt(
    stmt: tirx.Stmt,
    *,
    loop: Callable[[tirx.For, tirx.Stmt], tirx.Stmt] | None = None,
    block: Callable[[s_tir.SBlockRealize], tirx.Stmt | None] | None = None,
) -> tirx.Stmt:
    """A statement with other loops and blocks.

    Args:
        stmt: Made of sequences, loops and blocks.
        loop: Makes a loop of the old one and its new body.
        block: Makes a statement of a block, or returns ``None`` to go inside.
    """

    def visit(stmt: tirx.Stmt) -> tirx.Stmt:
        if isinstance(stmt, tirx.SeqStmt):
            return sequence([visit(inner) for inner in stmt.seq])
        if isinstance(stmt, tirx.For):
            body = visit(stmt.body)
            return loop(stmt, body) if loop else with_loop_body(stmt, body)
        if isinstance(stmt, s_tir.SBlockRealize):
            made = block(stmt) if block else None
            return with_block_body(stmt, visit(stmt.block.body)) if made is None else made
        return stmt

    return visit(stmt)


def sequence(stmts: Sequence[tirx.Stmt]) -> tirx.Stmt:
    """One after the other; what does nothing is left out."""
    kept = [stmt for stmt in stmts if not isinstance(stmt, tirx.Evaluate)]
    return kept[0] if len(kept) == 1 else tirx.SeqStmt(kept)


def with_loop_body(loop: tirx.For, body: tirx.Stmt) -> tirx.For:
    """The same loop around another body."""
    return tirx.For(
        loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding, loop.annotations, loop.step
    )


def with_block_body(
    realize: s_tir.SBlockRealize, body: tirx.Stmt, allocated: Sequence[tirx.Buffer] = ()
) -> s_tir.SBlockRealize:
    """The same block around another body, with more buffers."""
    block = realize.block
    inner = s_tir.SBlock(
        block.iter_vars, block.reads, block.writes, block.name_hint, body, block.init,
        [*block.alloc_buffers, *allocated], block.match_buffers, block.annotations,
    )  # fmt: skip
    return s_tir.SBlockRealize(realize.iter_values, realize.predicate, inner)


def substitute(value: Node, by: Mapping[tirx.Var, tirx.PrimExpr]) -> Node:
    """An expression or statement with other variables."""
    return tvm_ffi.structural_map(value, (tvm.ir.Var, lambda var: by.get(var, var)), order="post")


@dataclass(frozen=True, slots=True, eq=False)
class Redirected:
    """Where the elements of a buffer lie instead: in ``buffer``, at what ``at`` makes of their indices.

    ``extents_at`` makes the extents of a region of those of the old one, if axes are in another order.
    """

    buffer: tirx.Buffer
    at: Callable[[Sequence[tirx.PrimExpr]], list[tirx.PrimExpr]]
    extents_at: Callable[[Sequence[tirx.PrimExpr]], list[tirx.PrimExpr]] | None = None


def redirected(
    body: tirx.Stmt,
    moved: Mapping[tirx.Buffer, Redirected],
    guards: Mapping[s_tir.SBlock, Sequence[tirx.PrimExpr]] | None = None,
) -> tirx.Stmt:
    """A statement that finds some tensors in other buffers.

    Args:
        body: Made of sequences, loops and blocks.
        moved: By buffer; the new ones take the place of the old where these are allocated. An axis that a new one has
            in front of the old ones has extent 1 in regions.
        guards: More conditions under which a block runs.
    """

    def load(node: tvm.ir.TensorLoad) -> tvm.ir.TensorLoad:
        where = moved.get(node.source)
        return node if where is None else tirx.BufferLoad(where.buffer, where.at(node.indices))

    def region(node: tvm.ir.TensorRegion) -> tvm.ir.TensorRegion:
        where = moved.get(node.source)
        if where is None:
            return node
        starts = where.at([axis.min for axis in node.region])
        extents = [axis.extent for axis in node.region]
        extents = [1] * (len(starts) - len(extents)) + (where.extents_at(extents) if where.extents_at else extents)
        ranges = [tvm.ir.Range.from_min_extent(*each) for each in zip(starts, extents, strict=True)]
        return tirx.BufferRegion(where.buffer, ranges)

    def leaf(stmt: tirx.Stmt) -> tirx.Stmt:
        mapped = tvm_ffi.structural_map(stmt, (tvm.ir.TensorLoad, load), order="post")
        where = moved.get(mapped.buffer) if isinstance(mapped, tirx.BufferStore) else None
        return mapped if where is None else tirx.BufferStore(where.buffer, mapped.value, where.at(mapped.indices))

    def block(node: s_tir.SBlockRealize) -> s_tir.SBlockRealize:
        inner = node.block
        more = (guards or {}).get(inner, ())
        is_leaf = isinstance(inner.body, tirx.BufferStore)
        made = s_tir.SBlock(
            inner.iter_vars, list(map(region, inner.reads)), list(map(region, inner.writes)), inner.name_hint,
            leaf(inner.body) if is_leaf else rebuilt(inner.body, block=block),
            None if inner.init is None else leaf(inner.init),
            [moved[buffer].buffer if buffer in moved else buffer for buffer in inner.alloc_buffers],
            inner.match_buffers, inner.annotations,
        )  # fmt: skip
        return s_tir.SBlockRealize(node.iter_values, tirx.all(node.predicate, *more) if more else node.predicate, made)

    return rebuilt(body, block=block)
