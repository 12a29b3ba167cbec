"""Lowering of staged tiles: a copy moves, and a buffer holds, nothing that the guards of the nest exclude."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import tvm
from tvm import s_tir, sym, tirx

from tvm_spm.lowering.blocks import COPY_ATTRS, Placed, Redirected, loop_vars, parts_of, placed_blocks, redirected
from tvm_spm.lowering.double import two_buffers
from tvm_spm.lowering.partial import stage_partial_sums

_SPM_SCOPE = "global.spm"


@dataclass(frozen=True, slots=True)
class _Box:
    """What one copy moves: per axis the first index and the number of indices, and the guards of cut-off tiles."""

    first: list[tirx.PrimExpr]
    extents: list[int]
    guards: list[tirx.PrimExpr]


def exact_tiles(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Let every copy of an input move exactly the box its multiply-accumulates read, into a buffer of that size.

    Sums that are interrupted and tiles that are buffered twice get the buffers that they need, too.

    Where a tile is cut off, by the end of a core's share or of an SPM tile, ``compute_at`` still copies all of it.
    Numbers do not depend on it; the bytes moved and the size of the buffer do.

    Before::

        for k in range(16): W_spm[9 * tile + k] = W[9 * tile + k]
        for k0, k1 in grid(2, 8): where k0 * 8 + k1 < 9: mac[...] += W_spm[9 * tile + k0 * 8 + k1] * ...

    After, with ``W_spm`` of extent 9::

        for k in range(16): where k <= 8: W_spm[k] = W[9 * tile + k]
        for k0, k1 in grid(2, 8): where k0 * 8 + k1 < 9: mac[...] += W_spm[k0 * 8 + k1] * ...

    Args:
        func: Scheduled, its blocks not lowered yet; one without annotated copies is returned as it is.
    """
    func = stage_partial_sums(func)
    placed = list(placed_blocks(func.body))
    boxes: dict[s_tir.SBlock, _Box] = {}
    tiles: dict[tirx.Buffer, Redirected] = {}
    analyzer = sym.Analyzer()
    for copy in placed:
        if _is_read(copy):
            reader, indices = _reader(copy, placed)
            staged, box = copy.block.writes[0].source, _box(reader, indices, loop_vars(copy), copy)
            boxes[copy.block] = box
        elif copy.copied_operand and COPY_ATTRS[0] in copy.block.annotations and not _writes_spm(copy):
            read = next(read for read in copy.block.reads if read.source.scope() == _SPM_SCOPE)
            around = {var for block in placed if _writes(block, read.source) for var in loop_vars(block)}
            staged, box = read.source, _box(copy, [axis.min for axis in read.region], around, None)
        else:
            continue
        if COPY_ATTRS[0] in copy.block.annotations:
            tile = tirx.decl_buffer(box.extents, staged.dtype, staged.name, scope=staged.scope())

            def at(
                indices: Sequence[tirx.PrimExpr], first: Sequence[tirx.PrimExpr] = tuple(box.first)
            ) -> list[tirx.PrimExpr]:
                return [analyzer.simplify(index - start) for index, start in zip(indices, first, strict=True)]

            tiles[staged] = Redirected(tile, at)
    guards = {block: box.guards for block, box in boxes.items()}
    return two_buffers(func.with_body(redirected(func.body, tiles, guards))) if boxes else func


def _is_read(block: Placed) -> bool:
    """Whether a block copies an input or an extra of the epilogue."""
    return block.copied_operand not in ("", "O")


def _writes_spm(block: Placed) -> bool:
    return block.block.writes[0].source.scope() == _SPM_SCOPE


def _writes(block: Placed, buffer: tirx.Buffer) -> bool:
    return bool(block.block.iter_vars) and any(write.source.same_as(buffer) for write in block.block.writes)


def _box(reader: Placed, indices: Sequence[tirx.PrimExpr], around: Collection[tirx.Var], copy: Placed | None) -> _Box:
    """The box that ``reader`` touches over its loops that are not ``around`` it."""
    inner = [loop for loop in reader.loops if loop.loop_var not in around]
    analyzer = sym.Analyzer()
    for loop in (*reader.loops, *(copy.loops if copy else ())):
        analyzer.bind(loop.loop_var, tvm.ir.Range.from_min_extent(loop.min, loop.extent))
    for iter_var in reader.block.iter_vars:
        analyzer.bind(iter_var.var, iter_var.dom)
    conditions = [part for part in parts_of(reader.realize.predicate) if isinstance(part, tirx.LT)]
    moving = [condition for condition in conditions if not _is_outside(condition.a, inner, analyzer)]
    variables, values = [v.var for v in reader.block.iter_vars], list(reader.realize.iter_values)
    linear = [_linear(analyzer.simplify(index), variables) for index in indices]
    is_used = [any(int(factors[i]) for factors in linear) for i in range(len(variables))]
    last = [
        _last_values(value, moving, inner, analyzer) if used else []
        for value, used in zip(values, is_used, strict=True)
    ]
    moved = copy.moved_indices if copy else []
    first, extents, guards = [], [], []
    single: set[tirx.Var] = set()
    for axis, (*factors, rest) in enumerate(linear):
        used = [(factor, value) for factor, value in zip(factors, values, strict=True) if int(factor)]
        element = rest + sum(factor * value for factor, value in used)
        if len(used) == 1:
            single.update(tirx.analysis.undefined_vars(element))
        start = analyzer.simplify(_linear(element, [loop.loop_var for loop in inner])[-1])
        bounds = list(_bounds(factors, rest, last))
        spans = [analyzer.simplify(bound - start) for bound in bounds]
        extents.append(1 + min(int(span) for span in spans if isinstance(span, tirx.IntImm)))
        first.append(start)
        if copy is not None:
            guards += [analyzer.simplify(moved[axis] - bound) <= 0 for bound in bounds]
    if copy is not None:
        guards = _idle_guards(conditions, inner, single, analyzer) + guards
    return _Box(first, extents, [guard for guard in guards if not analyzer.can_prove(guard)])


def _idle_guards(
    conditions: Sequence[tirx.LT], inner: Sequence[tirx.For], single: set[tirx.Var], analyzer: sym.Analyzer
) -> list[tirx.PrimExpr]:
    """Whether the reader has any iteration left; an axis of ``single`` variables is empty then, and copies nothing."""
    guards = []
    for condition in conditions:
        is_outside = _is_outside(condition.a, inner, analyzer)
        if is_outside or not single.intersection(tirx.analysis.undefined_vars(condition.a)):
            at_first = _linear(condition.a, [loop.loop_var for loop in inner])[-1]
            guards.append(condition if is_outside else tirx.LT(analyzer.simplify(at_first), condition.b))
    return guards


def _reader(copy: Placed, placed: Sequence[Placed]) -> tuple[Placed, list[tirx.PrimExpr]]:
    """The block that computes with what a copy moves, maybe through another copy, and the indices it reads at."""
    written = copy.block.writes[0].source
    for block in placed:
        for read in block.block.reads if block.block.iter_vars else ():
            if read.source.same_as(written):
                if _is_read(block):
                    return _reader(block, placed)
                return block, [axis.min for axis in read.region]
    raise AssertionError(f"nothing reads {written.name}")


def _is_outside(value: tirx.PrimExpr, inner: Sequence[tirx.For], analyzer: sym.Analyzer) -> bool:
    *factors, _ = _linear(value, [loop.loop_var for loop in inner])
    return all(
        int(factor) == 0 if isinstance(factor, tirx.IntImm) else analyzer.can_prove_equal(factor, 0)
        for factor in factors
    )


def _last_values(
    value: tirx.PrimExpr, moving: Sequence[tirx.LT], inner: Sequence[tirx.For], analyzer: sym.Analyzer
) -> list[tirx.PrimExpr]:
    """Upper bounds of an iteration variable over the inner loops; each holds, and the least is reached.

    Args:
        value: Of the variable.
        moving: Conditions that test the inner loops.
        inner: The loops.
        analyzer: Knows the domains.
    """
    *factors, rest = _linear(value, [loop.loop_var for loop in inner])
    bounds = [rest + sum(factor * (loop.extent - 1) for factor, loop in zip(factors, inner, strict=True))]
    if _is_outside(value, inner, analyzer):
        return bounds
    for condition in moving:
        left = value - condition.a
        if _is_outside(left, inner, analyzer):
            bounds.append(analyzer.simplify(left) + condition.b - 1)
    return bounds


def _bounds(
    factors: Sequence[tirx.PrimExpr], rest: tirx.PrimExpr, last: Sequence[Sequence[tirx.PrimExpr]]
) -> Iterator[tirx.PrimExpr]:
    """Upper bounds of an index, which never falls when an iteration variable grows."""
    used = [(factor, bounds) for factor, bounds in zip(factors, last, strict=True) if int(factor)]
    for choice in itertools.product(*(bounds for _, bounds in used)):
        yield rest + sum(factor * bound for (factor, _), bound in zip(used, choice, strict=True))


def _linear(value: tirx.PrimExpr, variables: Sequence[tirx.Var]) -> list[tirx.PrimExpr]:
    """Factors of the variables, then the rest."""
    if not variables:
        return [value]
    found = list(sym.detect_linear_equation(value, variables))
    if not found:
        raise AssertionError(f"{value} is not linear")
    return found
