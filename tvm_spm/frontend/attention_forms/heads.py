"""Products that write heads where attention reads them, and read them where attention wrote them: no copies between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import tvm
from tvm import relax, te, tirx, topi
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_spm.frontend.attention_forms.expressions import number_of, op_name, shape_of, swaps_last_axes, uses_of

_WITH_NUMBERS = {
    "add": tirx.Add, "divide": tirx.Div, "maximum": tirx.Max, "minimum": tirx.Min, "multiply": tirx.Mul,
    "subtract": tirx.Sub,
}  # fmt: skip
"""Of an element and a number, or the element of a vector."""

_Step: TypeAlias = "tuple[relax.Call, relax.Expr | None]"
"""Element-wise work behind a product, and the vector that it reads, if any."""


@mutator
class Heads(PyExprMutator):
    """Rewrites products whose columns are cut into heads, and products of heads that are put side by side.

    Before, with a bias and other element-wise work in between::

        permute_dims(reshape(matmul(x, W) + b, (B, T, H, D)), (0, 2, 1, 3))
        matmul(reshape(permute_dims(y, (0, 2, 1, 3)), (B, T, H * D)), W)

    After::

        z[b, h, t, d] = sum_c x[b, t, c] * W[c, h * D + d] + b[h * D + d]
        z[b, t, n] = sum_hd y[b, h, t, d] * W[h * D + d, n]
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._old_uses = uses_of(mod)
        self._uses: Counter[relax.Var] = Counter()

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Keep count of the readers of what is bound."""
        super().visit_var_binding_(binding)
        self._uses[self.visit_expr(binding.var)] += self._old_uses[binding.var]

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """A change of axes, a view, or a product."""
        call = self.visit_expr_post_order(call)
        rewrites = {"matmul": self._joined, "permute_dims": self._cut, "reshape": self._shown}
        rewrite = rewrites.get(op_name(call))
        made = None if rewrite is None else rewrite(call)
        return call if made is None else made

    def _shown(self, view: relax.Call) -> relax.Expr | None:
        """A view of what it is a view of, in one step: TVM would copy for two."""
        return self._view(view.args[0], shape_of(view)) if shape_of(view) else None

    def _view(self, source: relax.Expr, wanted: tuple[int, ...]) -> relax.Expr:
        while op_name(inner := self._bound(source, is_read_once=False)) == "reshape":
            source = inner.args[0]
        return source if shape_of(source) == wanted else relax.op.reshape(source, wanted)

    def _bound(self, expr: relax.Expr, *, is_read_once: bool = True) -> relax.Expr:
        """What an expression is bound to."""
        while isinstance(expr, relax.Var):
            value = None if is_read_once and self._uses[expr] > 1 else self.lookup_binding(expr)
            if value is None:
                return expr
            expr = value
        return expr

    def _cut(self, call: relax.Call) -> relax.Expr | None:
        """The product behind a change of axes of its heads."""
        view = self._bound(call.args[0])
        if op_name(view) != "reshape":
            return None
        steps, product = self._steps(view.args[0])
        weight = _Weight.of(product, self._bound) if op_name(product) == "matmul" else None
        before, after = shape_of(product), shape_of(view)
        lead = len(before) - 1
        if weight is None or not _keeps(lead, before, after) or shape_of(product.args[0])[:-1] != before[:-1]:
            return None
        axes = _axes_of(call)
        if _moves_nothing(axes, after):
            return self._view(view.args[0], shape_of(call))
        cut = _Cut(shape=after, axes=tuple(axes), lead=lead)
        chain = [(step, vector is not None) for step, vector in steps]
        vectors = [vector for _, vector in steps if vector is not None]
        dtype = str(product.ty.dtype)

        def compute(data: te.Tensor, weights: te.Tensor, *read: te.Tensor) -> te.Tensor:
            return _with_steps(_to_heads(data, weights, weight.is_turned, cut, dtype), chain, read, cut)

        name = "matmul_to_heads"
        return self.builder_.call_te(compute, product.args[0], weight.expr, *vectors, primfunc_name_hint=name)

    def _joined(self, product: relax.Call) -> relax.Expr | None:
        """The product of heads that a change of axes put side by side."""
        view = self._bound(product.args[0], is_read_once=False)
        moved = self._bound(view.args[0], is_read_once=False) if op_name(view) == "reshape" else view
        weight = _Weight.of(product, self._bound)
        if op_name(moved) != "permute_dims" or moved is view or weight is None:
            return None
        before, after = shape_of(moved), shape_of(view)
        lead = len(after) - 1
        if not _keeps(lead, after, before):
            return None
        axes = _axes_of(moved)
        if _moves_nothing(axes, shape_of(moved.args[0])):
            rows = self.builder_.emit(self._view(moved.args[0], after))
            return relax.op.matmul(rows, product.args[1], out_dtype=product.attrs.out_dtype)
        cut, dtype = _Cut(shape=before, axes=tuple(axes), lead=lead), str(product.ty.dtype)

        def compute(data: te.Tensor, weights: te.Tensor) -> te.Tensor:
            return _of_heads(data, weights, weight.is_turned, cut, dtype)

        return self.builder_.call_te(compute, moved.args[0], weight.expr, primfunc_name_hint="matmul_of_heads")

    def _steps(self, expr: relax.Expr) -> tuple[list[_Step], relax.Expr]:
        """Element-wise work behind a product, the first step first, and the product; or whatever else there is."""
        steps: list[_Step] = []
        value = self._bound(expr)
        while (step := _step(value)) is not None:
            steps.insert(0, step)
            value = self._bound(value.args[0])
        return steps, value


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Weight:
    """A matrix that a product multiplies by, and whether it is stored with the summed axis last."""

    expr: relax.Expr
    is_turned: bool

    @classmethod
    def of(cls, product: relax.Call, bound: Callable[..., relax.Expr]) -> _Weight | None:
        """Of a product; None if it multiplies by something else."""
        source = bound(product.args[1], is_read_once=False)
        if swaps_last_axes(source) and len(shape_of(source)) == 2:
            return cls(expr=source.args[0], is_turned=True)
        return cls(expr=product.args[1], is_turned=False) if len(shape_of(product.args[1])) == 2 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    """Rows of heads in two orders of axes.

    Attributes:
        shape: With all of a row's heads behind its place among the rows.
        axes: The other order, as positions in ``shape`` where attention reads, or in it where attention writes.
        lead: Axes of the rows; the others make up the heads.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    lead: int

    def places(self, at: Sequence[tirx.PrimExpr]) -> list[tirx.PrimExpr]:
        """Indices of ``shape`` from those of the other order."""
        return [at[self.axes.index(axis)] for axis in range(len(self.shape))]

    def column(self, parts: Sequence[tirx.PrimExpr]) -> tirx.PrimExpr:
        """Where the element of a head lies in its row."""
        total: tirx.PrimExpr = tirx.const(0, "int64")
        for axis, part in enumerate(parts, self.lead):
            stride = prod(self.shape[axis + 1 :])
            if self.shape[axis] > 1:
                total = total + part * tirx.const(stride, "int64") if stride > 1 else total + part
        return total


def _step(value: relax.Expr) -> _Step | None:
    """Element-wise work on the first operand alone, or with a number or a vector along the last axis."""
    name = op_name(value)
    if name in ("astype", "round", "clip"):
        return value, None
    if name not in _WITH_NUMBERS or (name == "divide" and not str(value.ty.dtype).startswith("float")):
        return None
    extents, shape = shape_of(value.args[1]), shape_of(value)
    if shape_of(value.args[0]) != shape or not shape:
        return None
    if number_of(value.args[1]) is not None:
        return value, None
    return (value, value.args[1]) if extents and prod(extents) == extents[-1] == shape[-1] else None


def _keeps(lead: int, row: tuple[int, ...], cut: tuple[int, ...]) -> bool:
    """Whether a view only cuts the last axis of rows in several."""
    return lead >= 1 and len(row) == lead + 1 and cut[:lead] == row[:lead] and len(cut) >= lead + 2


def _axes_of(call: relax.Call) -> list[int]:
    rank = len(shape_of(call))
    return list(range(rank))[::-1] if call.attrs.axes is None else [int(axis) % rank for axis in call.attrs.axes]


def _moves_nothing(axes: Sequence[int], shape: tuple[int, ...]) -> bool:
    """Whether only axes of extent 1 change their place."""
    wide = [axis for axis in axes if shape[axis] > 1]
    return wide == sorted(wide)


def _to_heads(data: te.Tensor, weight: te.Tensor, is_turned: bool, cut: _Cut, dtype: str) -> te.Tensor:  # noqa: FBT001
    """``data (lead, c)`` times ``weight (c, k)``, with the axes of ``k``'s heads as ``cut.axes`` say."""
    summed = te.reduce_axis((0, data.shape[-1]), name="c")

    def element(*at: tirx.PrimExpr) -> tirx.PrimExpr:
        places = cut.places(at)
        column = cut.column(places[cut.lead :])
        left = data(*places[: cut.lead], summed)
        right = weight(column, summed) if is_turned else weight(summed, column)
        return te.sum(left.astype(dtype) * right.astype(dtype), axis=summed)

    return te.compute([cut.shape[axis] for axis in cut.axes], element, name="matmul_to_heads")


def _with_steps(
    made: te.Tensor, chain: Sequence[tuple[relax.Call, bool]], read: Sequence[te.Tensor], cut: _Cut
) -> te.Tensor:
    """What followed the product, on axes that are in another order."""
    vectors = iter(read)
    for call, reads_vector in chain:
        name = op_name(call)
        if name == "astype":
            made = topi.cast(made, str(call.ty.dtype))
        elif name == "round":
            made = topi.round(made)
        elif name == "clip":
            made = topi.clip(made, *(float(bound.value) for bound in call.args[1:]))
        else:
            made = _with_number(made, call, next(vectors) if reads_vector else None, cut)
    return made


def _with_number(made: te.Tensor, call: relax.Call, vector: te.Tensor | None, cut: _Cut) -> te.Tensor:
    name = op_name(call)

    def element(*at: tirx.PrimExpr) -> tirx.PrimExpr:
        if vector is None:
            other = tirx.const(number_of(call.args[1]), made.dtype)
        else:
            other = vector(*[0] * (len(vector.shape) - 1), cut.column(cut.places(at)[cut.lead :]))
        return _WITH_NUMBERS[name](made(*at), other)

    return te.compute(made.shape, element, name=f"T_{name}")


def _of_heads(data: te.Tensor, weight: te.Tensor, is_turned: bool, cut: _Cut, dtype: str) -> te.Tensor:  # noqa: FBT001
    """Heads as ``cut.axes`` order them in ``data``, side by side, times ``weight (k, n)``."""
    sums = [te.reduce_axis((0, extent), name=f"c{i}") for i, extent in enumerate(cut.shape[cut.lead :])]

    def element(*at: tirx.PrimExpr) -> tirx.PrimExpr:
        places = [*at[:-1], *sums]
        left = data(*(places[cut.axes.index(axis)] for axis in range(len(places))))
        column = cut.column(sums)
        right = weight(at[-1], column) if is_turned else weight(column, at[-1])
        return te.sum(left.astype(dtype) * right.astype(dtype), axis=sums)

    num_out = weight.shape[0] if is_turned else weight.shape[1]
    return te.compute((*cut.shape[: cut.lead], num_out), element, name="matmul_of_heads")
