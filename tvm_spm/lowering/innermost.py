"""Lowering for the host: the widest dim of the array becomes vectors of neighbours, which no compiler would find."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import s_tir, sym, tirx

from tvm_spm.lowering.blocks import (
    ARRAY_LEVELS,
    Placed,
    Redirected,
    parts_of,
    placed_blocks,
    redirected,
    substitute,
    with_block_body,
    with_loop_body,
)

_RF_SCOPE = "global.rf"
_MIN_LANES, _MAX_LANES = 4, 64
"""With fewer elements side by side the processor gains nothing; more of them compile for longer and run no faster."""


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """One dim of the output, innermost.

    Attributes:
        vector: Of the loop over vectors.
        lane: Of the loop over the elements of a vector.
        width: Elements of the dim.
        num_lanes: Of them, those of one vector.
        replaced: The loops over the dim that go, and what stands for their variables.
        realize: The multiply-accumulates, in terms of ``vector`` and ``lane``.
        last_axis: Per buffer the axis along the dim that must become the last one.
    """

    vector: tirx.Var
    lane: tirx.Var
    width: int
    num_lanes: int
    replaced: tuple[tirx.For, ...]
    realize: s_tir.SBlockRealize
    last_axis: dict[tirx.Buffer, int]


def widest_innermost(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Run the PEs and RF tiles of one dim of the output side by side, innermost, and let them lie side by side in RF.

    PEs work at the same time, so their order is free; every sum keeps the order of its terms and so its roundings.

    Before, with ``k = 4 * k0 + k1``::

        for c in range(16): for k0 in range(8): for k1 in range(4): for x in range(2):
            O_rf[k, x] += I_rf[c, x] * W_rf[k, c]

    After::

        for c in range(16): for x in range(2): for k in vectorized(32):
            O_rf[x, k] += I_rf[c, x] * W_rf[c, k]

    Args:
        func: Scheduled, its blocks not lowered yet; one without annotated loops over an array is returned as it is.
    """
    mac = _multiply_accumulates(func.body)
    nest = [] if mac is None else _array_nest(mac)
    by_dim: dict[str, list[tirx.For]] = {}
    for loop in nest:
        if "spm.dim" in loop.annotations:
            by_dim.setdefault(str(loop.annotations["spm.dim"]), []).append(loop)
    plans = [plan for loops in by_dim.values() if mac is not None and (plan := _plan(mac, loops)) is not None]
    if not plans:
        return func
    # Of equally wide ones that which leaves more buffers as they are.
    best = max(plans, key=lambda plan: (plan.width, -len(plan.last_axis)))
    body = _with_vectors(func.body, nest, best)
    return func.with_body(redirected(body, {buffer: _moved(buffer, axis) for buffer, axis in best.last_axis.items()}))


def _multiply_accumulates(body: tirx.Stmt) -> Placed | None:
    """The block with the most loops of the mapping around it."""
    plain = [block for block in placed_blocks(body) if not block.copied_operand]

    def depth(block: Placed) -> tuple[int, int]:
        return sum("spm.level" in loop.annotations for loop in block.loops), len(block.block.iter_vars)

    found = max(plain, key=depth, default=None)
    return found if found is not None and depth(found)[0] and isinstance(found.block.body, tirx.BufferStore) else None


def _array_nest(mac: Placed) -> list[tirx.For]:
    """The loops over PEs and RF tiles right around a block, outer to inner, with nothing else between them."""
    nest: list[tirx.For] = []
    inside: tirx.Stmt = mac.realize
    for loop in reversed(mac.loops):
        level = str(loop.annotations.get("spm.level", ARRAY_LEVELS[-1]))
        is_plain = loop.kind == tirx.ForKind.SERIAL and isinstance(loop.extent, tirx.IntImm)
        if not loop.body.same_as(inside) or level not in ARRAY_LEVELS or not is_plain or not _is_zero(loop.min):
            break
        nest.append(loop)
        inside = loop
    return nest[::-1]


def _plan(mac: Placed, loops: Sequence[tirx.For]) -> _Plan | None:
    """How the loops over one dim become one, innermost; None if its elements would not be neighbours."""
    width = math.prod(int(loop.extent) for loop in loops)
    num_lanes = max(lanes for lanes in range(1, _MAX_LANES + 1) if width % lanes == 0)
    if num_lanes < _MIN_LANES:
        return None
    vector, lane = (tirx.Var(name, loops[0].loop_var.ty) for name in ("vector", "lane"))
    element = vector * num_lanes + lane
    values: dict[tirx.Var, tirx.PrimExpr] = {}
    inner = width
    for loop in loops:
        outer, inner = inner, inner // int(loop.extent)
        values[loop.loop_var] = tirx.floordiv(tirx.floormod(element, outer), inner)
    analyzer = sym.Analyzer()
    for loop in mac.loops:
        analyzer.bind(loop.loop_var, tvm.ir.Range.from_min_extent(loop.min, loop.extent))
    analyzer.bind(vector, tvm.ir.Range.from_min_extent(0, width // num_lanes))
    analyzer.bind(lane, tvm.ir.Range.from_min_extent(0, num_lanes))

    def rewritten(value: tirx.PrimExpr) -> tirx.PrimExpr:
        return analyzer.simplify(substitute(value, values))

    bindings = [rewritten(value) for value in mac.realize.iter_values]
    along = [position for position, value in enumerate(bindings) if _uses(value, lane)]
    conditions = parts_of(rewritten(mac.realize.predicate))
    # A guard within a vector would take it apart again.
    is_guarded = any(_uses(part, lane) or _uses(part, vector) for part in conditions)
    if is_guarded or len(along) != 1 or _factor(bindings[along[0]], lane) != 1:
        return None
    axes = _axes_along(mac.block, mac.block.iter_vars[along[0]].var)
    if axes is None:
        return None
    realize = s_tir.SBlockRealize(
        bindings, tirx.all(*conditions) if conditions else tirx.const(True, "bool"), mac.block
    )
    return _Plan(
        vector=vector, lane=lane, width=width, num_lanes=num_lanes, replaced=tuple(loops), realize=realize,
        last_axis=axes,
    )  # fmt: skip


def _axes_along(block: s_tir.SBlock, var: tirx.Var) -> dict[tirx.Buffer, int] | None:
    """Per buffer of RF the axis that follows a variable and is not the last; None if neighbours cannot be made.

    What is summed over is no axis of the output, whatever a block says of its variables.
    """
    store = block.body
    if not any(_uses(index, var) for index in store.indices):
        return None
    accesses: list[tuple[tirx.Buffer, Sequence[tirx.PrimExpr]]] = [(store.buffer, store.indices)]
    tvm_ffi.structural_walk(
        store.value, (tvm.ir.TensorLoad, lambda load: accesses.append((load.source, load.indices))), order="post"
    )
    found: dict[tirx.Buffer, int] = {}
    for buffer, indices in accesses:
        axes = [axis for axis, index in enumerate(indices) if _uses(index, var)]
        if not axes:
            continue
        if len(axes) > 1 or _factor(indices[axes[0]], var) != 1:
            return None
        if axes[0] == len(indices) - 1 and buffer not in found:
            continue
        if buffer.scope() != _RF_SCOPE or found.setdefault(buffer, axes[0]) != axes[0]:
            return None
    return found


def _with_vectors(body: tirx.Stmt, nest: Sequence[tirx.For], plan: _Plan) -> tirx.Stmt:
    notes = {"spm.dim": str(plan.replaced[0].annotations["spm.dim"]), "spm.level": ARRAY_LEVELS[-1]}
    lanes = _loop(plan.lane, plan.num_lanes, tirx.ForKind.VECTORIZED, plan.realize, notes)
    stmt: tirx.Stmt = _loop(plan.vector, plan.width // plan.num_lanes, tirx.ForKind.SERIAL, lanes, notes)
    for loop in reversed([loop for loop in nest if loop not in plan.replaced]):
        stmt = with_loop_body(loop, stmt)
    return _replaced(body, nest[0], stmt)


def _loop(var: tirx.Var, extent: int, kind: tirx.ForKind, body: tirx.Stmt, notes: dict[str, str]) -> tirx.For:
    first, count = (tirx.const(value, var.ty.dtype) for value in (0, extent))
    return tirx.For(var, first, count, kind, body, annotations=notes)


def _replaced(body: tirx.Stmt, old: tirx.For, new: tirx.Stmt) -> tirx.Stmt:
    if body.same_as(old):
        return new
    if isinstance(body, tirx.SeqStmt):
        return tirx.SeqStmt([_replaced(inner, old, new) for inner in body.seq])
    if isinstance(body, tirx.For):
        return with_loop_body(body, _replaced(body.body, old, new))
    return (
        with_block_body(body, _replaced(body.block.body, old, new)) if isinstance(body, s_tir.SBlockRealize) else body
    )


def _moved(buffer: tirx.Buffer, axis: int) -> Redirected:
    """The same buffer with one axis last."""

    def last(items: Sequence[tirx.PrimExpr]) -> list[tirx.PrimExpr]:
        listed = list(items)
        return [*listed[:axis], *listed[axis + 1 :], listed[axis]]

    made = tirx.decl_buffer(last(buffer.shape), buffer.dtype, buffer.name, scope=buffer.scope(), layout=None)
    return Redirected(made, last, last)


def _uses(value: tirx.PrimExpr, var: tirx.Var) -> bool:
    return any(used.same_as(var) for used in tirx.analysis.undefined_vars(value))


def _factor(value: tirx.PrimExpr, var: tirx.Var) -> int | None:
    """What a variable is multiplied by in a linear expression; None if it is not linear."""
    if not _uses(value, var):
        return 0
    found = list(sym.detect_linear_equation(value, [var]))
    return int(found[0]) if found and isinstance(found[0], tirx.IntImm) and not _uses(found[1], var) else None


def _is_zero(value: tirx.PrimExpr) -> bool:
    return isinstance(value, tirx.IntImm) and int(value) == 0
