"""Blocks of a scheduled function, where they stand, and the rewriting of what surrounds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tvm import s_tir, tirx

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
