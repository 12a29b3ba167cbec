"""Small pieces of code that a fused group is made of: loops over boxes, tiles in SPM, and copies between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import tvm
import tvm_ffi
from tvm import sym, tirx

from schedules.group.spans import Region

Expr: TypeAlias = tvm.ir.Expr

_ANALYZER = sym.Analyzer()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tile:
    """A buffer that holds a box of a tensor.

    Attributes:
        buffer: Holds it.
        first: Per axis, the first index in the tensor that may be asked for.
        rings: Per axis, None if that element lies at 0; else where it lies, and the extent behind which elements go on
            at 0.
    """

    buffer: tirx.Buffer
    first: tuple[Expr, ...]
    rings: tuple[tuple[Expr, int] | None, ...]

    @classmethod
    def whole(cls, buffer: tirx.Buffer) -> Tile:
        """A tensor where it lies in DRAM."""
        return cls(buffer=buffer, first=tuple(number(0) for _ in buffer.shape), rings=(None,) * len(buffer.shape))

    def at(self, indices: Sequence[Expr]) -> list[Expr]:
        """Where an element of the tensor lies."""
        return [
            _wrapped(simplified(index - first), ring)
            for index, first, ring in zip(indices, self.first, self.rings, strict=True)
        ]

    def load(self, indices: Sequence[Expr]) -> Expr:
        """An element of the tensor."""
        return tirx.BufferLoad(self.buffer, self.at(indices))

    def store(self, indices: Sequence[Expr], value: Expr) -> tirx.Stmt:
        """Write an element of the tensor."""
        return tirx.BufferStore(self.buffer, value, self.at(indices))


def _wrapped(offset: Expr, ring: tuple[Expr, int] | None) -> Expr:
    """An offset in a ring; no remainder is taken, which host compilers make slow code of, and some wrong code."""
    if ring is None:
        return offset
    start, extent = ring
    at = start + offset
    return tirx.Select(at >= extent, at - extent, at)


def number(value: int) -> Expr:
    """An integer as an expression."""
    return tirx.IntImm("int32", value)


def simplified(value: Expr) -> Expr:
    """The same with a shorter expression."""
    return _ANALYZER.simplify(value)


def is_number(value: Expr, wanted: int) -> bool:
    """Whether an expression is a certain number."""
    return isinstance(value, tirx.IntImm) and int(value) == wanted


def with_loads(value: Expr, load: Callable[[tirx.Buffer, list[Expr]], Expr]) -> Expr:
    """An expression that gets its elements of tensors elsewhere."""

    def map_load(node: tvm.ir.TensorLoad) -> Expr:
        return load(node.source, list(node.indices))

    return tvm_ffi.structural_map(value, (tvm.ir.TensorLoad, map_load), order="post")


def sequence(stmts: Sequence[tirx.Stmt | None]) -> tirx.Stmt | None:
    """One after the other; nothing if there is nothing to do."""
    found = [stmt for stmt in stmts if stmt is not None]
    if len(found) < 2:
        return found[0] if found else None
    return tirx.SeqStmt(found)


def opaque(binds: Sequence[tirx.Bind]) -> tuple[list[tirx.Stmt], list[tirx.Buffer]]:
    """Give variables their values by way of a table, except where these are sums and products.

    TVM puts the values of variables into each other to simplify what they are used for; with minima and maxima of
    each other that takes minutes. Remainders are no entries: they index buffers, and TVM cuts buffers to the range that
    it knows of an index, which would be unknown.

    Returns:
        The statements, and the table if there is one.
    """
    num_entries = sum(_chooses(bind.value) for bind in binds)
    if num_entries == 0:
        return list(binds), []
    table = tirx.decl_buffer([num_entries], "int32", "bounds", scope="global.rf")
    stmts: list[tirx.Stmt] = []
    at = 0
    for bind in binds:
        if _chooses(bind.value):
            stmts.append(tirx.BufferStore(table, bind.value, [number(at)]))
            bind = tirx.Bind(bind.var, tirx.BufferLoad(table, [number(at)]))
            at += 1
        stmts.append(bind)
    return stmts, [table]


def _chooses(value: Expr) -> bool:
    if isinstance(value, (tirx.Min, tirx.Max, tirx.Select)):
        return True
    return hasattr(value, "a") and hasattr(value, "b") and (_chooses(value.a) or _chooses(value.b))


def marked(stmt: tirx.Stmt | None, what: str, name: str) -> tirx.Stmt | None:
    """Say what a statement is for."""
    return None if stmt is None else tirx.AttrStmt(name, f"spm.{what}", number(1), stmt)


def only_if(condition: Expr | None, stmt: tirx.Stmt | None) -> tirx.Stmt | None:
    """Run something under a condition, if there is one."""
    if stmt is None or condition is None or is_number(condition, 1):
        return stmt
    return tirx.IfThenElse(condition, stmt, None)


def nested(
    names: Sequence[str],
    extents: Sequence[Expr],
    body: Callable[[list[Expr]], tirx.Stmt],
    notes: Mapping[str, dict[str, object]] | None = None,
) -> tirx.Stmt:
    """Loops from 0, outer to inner; one that iterates once is left out.

    Args:
        names: Of the loops.
        extents: Of the loops.
        body: Makes what they do from their indices.
        notes: Annotations by name of loop.
    """
    indices: list[Expr] = []
    loops: list[tuple[tirx.Var, Expr, str]] = []
    for name, extent in zip(names, extents, strict=True):
        short = simplified(extent)
        if is_number(short, 1):
            indices.append(number(0))
            continue
        var = tirx.Var(name, "int32")
        loops.append((var, short, name))
        indices.append(var)
    stmt = body(indices)
    for var, extent, name in reversed(loops):
        stmt = tirx.For(var, 0, extent, tirx.ForKind.SERIAL, stmt, None, (notes or {}).get(name))
    return stmt


def over_region(region: Region, body: Callable[[list[Expr]], tirx.Stmt]) -> tirx.Stmt:
    """Loops over every element of a box; ``body`` gets the indices in the tensor."""
    names = [f"i{axis}" for axis in range(len(region))]

    def shifted(indices: list[Expr]) -> tirx.Stmt:
        return body([first.expr + index for (first, _), index in zip(region, indices, strict=True)])

    return nested(names, [stop.expr - first.expr for first, stop in region], shifted)


def copied(source: Tile, target: Tile, region: Region) -> tirx.Stmt:
    """Copy a box from one place to another."""
    return over_region(region, lambda at: target.store(at, source.load(at)))
