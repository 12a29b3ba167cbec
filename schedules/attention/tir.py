"""Statements written directly: loops with exact ends, tiles in SPM, and their copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from tvm import ir, tirx

from tvm_spm.units import ceil_div

INDEX_DTYPE = "int64"

_SPM_SCOPE = "global.spm"

Extent: TypeAlias = int | ir.Expr


@dataclass(frozen=True, slots=True, eq=False)
class SpmTile:
    """A buffer in SPM; with ``is_swapped``, its first index runs faster."""

    buffer: ir.Var
    is_swapped: bool = False

    def load(self, *at: Extent) -> ir.Expr:
        """One element."""
        return tirx.BufferLoad(self.buffer, self._indices(at))

    def store(self, value: ir.Expr, *at: Extent) -> tirx.Stmt:
        """Set one element."""
        return tirx.BufferStore(self.buffer, value, self._indices(at))

    def add(self, value: ir.Expr, *at: Extent) -> tirx.Stmt:
        """Add to one element."""
        return self.store(self.load(*at) + value, *at)

    def fill(
        self, operand: str, first: Extent, second: Extent, element: Callable[[ir.Expr, ir.Expr], ir.Expr]
    ) -> tirx.Stmt:
        """Copy from DRAM, in the order of storage."""

        def copy(i: ir.Expr, j: ir.Expr) -> tirx.Stmt:
            return self.store(element(i, j), i, j)

        if self.is_swapped:
            loops = grid(second, first, lambda j, i: copy(i, j))
        else:
            loops = grid(first, second, copy)
        return annotated(loops, "spm.dma", operand)

    def _indices(self, at: tuple[Extent, ...]) -> list[Extent]:
        return list(reversed(at)) if self.is_swapped else list(at)


@dataclass(slots=True)
class TileAllocator:
    """Allocates tiles."""

    buffers: list[ir.Var] = field(default_factory=list)

    def tile(self, name: str, dtype: str, *shape: int, is_swapped: bool = False) -> SpmTile:
        """A new tile."""
        extents = list(reversed(shape)) if is_swapped else list(shape)
        buffer = tirx.decl_buffer([const(extent) for extent in extents], dtype, name, scope=_SPM_SCOPE)
        self.buffers.append(buffer)
        return SpmTile(buffer, is_swapped)


def const(value: Extent) -> ir.Expr:
    """An index."""
    return tirx.const(value, INDEX_DTYPE) if isinstance(value, int) else value


def loop(name: str, extent: Extent, body: Callable[[ir.Expr], tirx.Stmt], *, is_parallel: bool = False) -> tirx.Stmt:
    """``for name in range(extent)``; what iterates once is no loop."""
    if isinstance(extent, int) and extent == 1:
        return body(const(0))
    var = tirx.Var(name, INDEX_DTYPE)
    kind = tirx.ForKind.PARALLEL if is_parallel else tirx.ForKind.SERIAL
    return tirx.For(var, const(0), const(extent), kind, body(var))


def grid(first: Extent, second: Extent, body: Callable[[ir.Expr, ir.Expr], tirx.Stmt]) -> tirx.Stmt:
    """Two nested loops."""
    return loop("i", first, lambda i: loop("j", second, lambda j: body(i, j)))


def part(per_part: int, extent: int, index: ir.Expr) -> Extent:
    """How much of an extent the part at an index has: ``per_part``, the last maybe less."""
    if extent % per_part == 0:
        return per_part
    return extent if extent < per_part else tirx.min(const(per_part), extent - index * per_part)


def tiles(
    name: str, extent: Extent, largest: int, tile: int, body: Callable[[ir.Expr, Extent], tirx.Stmt]
) -> tirx.Stmt:
    """A loop over tiles: their first index and their extent.

    Args:
        name: Of the loop.
        extent: What is cut into tiles.
        largest: What ``extent`` is at most.
        tile: Extent of all tiles but the last.
        body: Makes one tile.
    """
    if isinstance(extent, int):
        return loop(name, ceil_div(extent, tile), lambda i: body(i * tile, part(tile, extent, i)))
    if largest <= tile:
        return body(const(0), extent)
    count = tirx.floordiv(extent + (tile - 1), const(tile))
    return loop(name, count, lambda i: body(i * tile, tirx.min(const(tile), extent - i * tile)))


def seq(*stmts: tirx.Stmt) -> tirx.Stmt:
    """One after the other."""
    return stmts[0] if len(stmts) == 1 else tirx.SeqStmt(list(stmts))


def annotated(stmt: tirx.Stmt, key: str, value: str) -> tirx.Stmt:
    """The same loop with a note; a statement without loops stays as it is."""
    if not isinstance(stmt, tirx.For):
        return stmt
    return tirx.For(stmt.loop_var, stmt.min, stmt.extent, stmt.kind, stmt.body, None, {key: value}, None)
