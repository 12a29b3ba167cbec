"""Lowering for the host that runs the accelerator's code: loops end where guards would fail, and use all threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import tvm
from tvm import s_tir, sym, tirx

from tvm_spm.lowering.blocks import parts_of, with_block_body

_LEVELS = ("dram", "spm")
_REDUCTION_DIMS = ("C", "FY", "FX")
_MIN_PARALLEL_ITERATIONS = 1 << 17
"""Below this many iterations inside, starting threads takes longer than the work."""


def fit_to_host(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Make a scheduled function fast on the host; what it computes, loads and stores stays the same.

    Before::

        for k0 in range(2): for k1 in range(8):
            where k0 * 8 + k1 < 9
            mac[...] += ...

    After, if ``k0`` is the outermost loop over a dim of the output::

        for k0 in parallel(2): for k1 in range(min(8, 9 - k0 * 8)):
            mac[...] += ...

    Args:
        func: Scheduled, its blocks not lowered yet; one without annotated loops is returned as it is.
    """
    found = _annotated_loops(func.body)
    if not found:
        return func
    shared_out = None if any(loop.kind == tirx.ForKind.PARALLEL for loop in found) else _outermost_of_output(func.body)
    bounded = _bound(func.body, _Context(analyzer=sym.Analyzer(), parallel=shared_out))
    return func.with_body(_guard(bounded.stmt, bounded.conditions))


@dataclass(frozen=True, slots=True)
class _Context:
    analyzer: sym.Analyzer
    parallel: tirx.Var | None


@dataclass(frozen=True, slots=True)
class _Bounded:
    """A statement, and the conditions ``value <= 0`` under which it is to run at all."""

    stmt: tirx.Stmt
    conditions: list[tirx.PrimExpr]


def _annotated_loops(stmt: tirx.Stmt) -> list[tirx.For]:
    if isinstance(stmt, tirx.SeqStmt):
        return [loop for inner in stmt.seq for loop in _annotated_loops(inner)]
    if isinstance(stmt, tirx.For):
        return ([stmt] if "spm.level" in stmt.annotations else []) + _annotated_loops(stmt.body)
    return _annotated_loops(stmt.block.body) if isinstance(stmt, s_tir.SBlockRealize) else []


def _outermost_of_output(stmt: tirx.Stmt) -> tirx.Var | None:
    """The outermost loop over a dim of the output: its iterations write different elements and share only reads."""
    loops = [loop for loop in _annotated_loops(stmt) if isinstance(loop.extent, tirx.IntImm)]
    for position, loop in enumerate(loops):
        notes = loop.annotations
        if str(notes["spm.level"]) in _LEVELS and str(notes["spm.dim"]) not in _REDUCTION_DIMS:
            work = math.prod(int(inner.extent) for inner in loops[position:])
            return loop.loop_var if work >= _MIN_PARALLEL_ITERATIONS else None
    return None


def _bound(stmt: tirx.Stmt, context: _Context) -> _Bounded:
    if isinstance(stmt, tirx.SeqStmt):
        parts = [_bound(inner, context) for inner in stmt.seq]
        return _Bounded(tirx.SeqStmt([_guard(part.stmt, part.conditions) for part in parts]), [])
    if isinstance(stmt, tirx.For):
        return _bound_loop(stmt, context)
    if isinstance(stmt, s_tir.SBlockRealize):
        return _bound_block(stmt, context)
    return _Bounded(stmt, [])


def _bound_loop(loop: tirx.For, context: _Context) -> _Bounded:
    context.analyzer.bind(loop.loop_var, tvm.ir.Range.from_min_extent(loop.min, loop.extent))
    body = _bound(loop.body, context)
    extent, outside, inside = loop.extent, [], []
    for condition in body.conditions:
        factor, rest = _linear(condition, loop.loop_var)
        if factor == 0:
            outside.append(condition)
        elif factor > 0:
            last = context.analyzer.simplify(tirx.floordiv(-rest, factor) + 1)
            if not context.analyzer.can_prove(last >= loop.extent):
                extent = tirx.min(extent, last)
        else:
            inside.append(condition)
    if extent is not loop.extent:
        extent = tirx.max(extent, tirx.const(0, loop.loop_var.ty.dtype))
    is_shared_out = context.parallel is not None and loop.loop_var.same_as(context.parallel)
    kind = tirx.ForKind.PARALLEL if is_shared_out else loop.kind
    bounded = tirx.For(
        loop.loop_var, loop.min, extent, kind, _guard(body.stmt, inside), loop.thread_binding, loop.annotations,
        loop.step,
    )  # fmt: skip
    return _Bounded(bounded, outside)


def _bound_block(realize: s_tir.SBlockRealize, context: _Context) -> _Bounded:
    body = _bound(realize.block.body, context)
    inner = with_block_body(realize, _guard(body.stmt, body.conditions)).block
    kept, conditions = [], []
    for part in parts_of(realize.predicate):
        if isinstance(part, tirx.LT):
            conditions.append(part.a - part.b + 1)
        elif isinstance(part, tirx.LE):
            conditions.append(part.a - part.b)
        else:
            kept.append(part)
    predicate = tirx.all(*kept) if kept else tirx.const(True, "bool")
    return _Bounded(s_tir.SBlockRealize(realize.iter_values, predicate, inner), conditions)


def _guard(stmt: tirx.Stmt, conditions: Sequence[tirx.PrimExpr]) -> tirx.Stmt:
    if not conditions:
        return stmt
    return tirx.IfThenElse(tirx.all(*(condition <= 0 for condition in conditions)), stmt, None)


def _linear(value: tirx.PrimExpr, var: tirx.Var) -> tuple[int, tirx.PrimExpr]:
    """Factor of a variable and the rest; a factor that is no number counts as negative."""
    found = list(sym.detect_linear_equation(value, [var]))
    if not found or not isinstance(found[0], tirx.IntImm):
        return -1, value
    return int(found[0]), found[1]
