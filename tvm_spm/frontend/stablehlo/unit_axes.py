"""Axes of one element taken out of chains of operators, as JAX puts them around attention for groups of heads."""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_spm.frontend.attention_forms.expressions import array_of, op_name, shape_of, swaps_last_axes

_ELEMENTWISE = ("add", "divide", "exp", "maximum", "minimum", "multiply", "subtract", "where")


@mutator
class UnitAxes(PyExprMutator):
    """Lets operators follow one another without views that only add, take off or move axes of one element.

    Before::

        divide(reshape(x, (B, H, M, 1, N)), reshape(y, (B, H, M, 1, 1)))

    After::

        reshape(divide(x, reshape(y, (B, H, M, 1))), (B, H, M, 1, N))

    and a product of two operands that are turned round is the product of these, turned round.
    """

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """One call of a chain."""
        call = self.visit_expr_post_order(call)
        name = op_name(call)
        if not shape_of(call):
            return call
        if name == "reshape":
            return self._view(call.args[0], shape_of(call))
        if name == "permute_dims":
            return self._moved(call)
        if name == "matmul":
            return self._turned(call)
        if name in ("max", "sum") and len(call.attrs.axis or ()) == 1 and not call.attrs.keepdims:
            return self._reduced(call, name)
        return self._elementwise(call) if name in _ELEMENTWISE else call

    def _value(self, expr: relax.Expr) -> relax.Expr:
        """What an expression is bound to, through other names of it; a parameter itself."""
        value = expr
        while isinstance(value, relax.Var):
            bound = self.lookup_binding(value)
            if bound is None:
                return value
            value = bound
        return value

    def _view(self, expr: relax.Expr, shape: Sequence[int]) -> relax.Expr:
        """A tensor in another shape, straight from what it is itself a view of."""
        value = self._value(expr)
        while op_name(value) == "reshape":
            expr = value.args[0]
            value = self._value(expr)
        return expr if shape_of(expr) == tuple(shape) else relax.op.reshape(expr, list(shape))

    def _root(self, expr: relax.Expr) -> relax.Expr:
        """What an expression shows with other axes of one element, or itself."""
        value = self._value(expr)
        is_padded = op_name(value) == "reshape" and _real(shape_of(value)) == _real(shape_of(value.args[0]))
        return value.args[0] if is_padded else expr

    def _moved(self, call: relax.Call) -> relax.Expr:
        source, rank = shape_of(call.args[0]), call.args[0].ty.ndim
        axes = list(range(rank))[::-1] if call.attrs.axes is None else [int(axis) % rank for axis in call.attrs.axes]
        real = [axis for axis in axes if source[axis] != 1]
        if real == sorted(real):
            return self._view(call.args[0], shape_of(call))
        root = self._root(call.args[0])
        if root.same_as(call.args[0]):
            return call
        places = [axis for axis, extent in enumerate(shape_of(root)) if extent != 1]
        order = list(range(root.ty.ndim))
        for place, axis in zip(places, real, strict=True):
            order[place] = places[sorted(real).index(axis)]
        return relax.op.reshape(self._emit(relax.op.permute_dims(root, order)), list(shape_of(call)))

    def _turned(self, call: relax.Call) -> relax.Expr:
        left, right = (self._value(arg) for arg in call.args)
        if op_name(left) != "permute_dims" or not swaps_last_axes(right) or shape_of(left)[:-2] != shape_of(right)[:-2]:
            return call
        rank = left.args[0].ty.ndim
        axes = [int(axis) % rank for axis in left.attrs.axes or ()]
        if rank < 3 or len(axes) != rank:
            return call
        first = self._emit(relax.op.permute_dims(left.args[0], [*axes[:-2], axes[-1], axes[-2]]))
        made = self._emit(relax.op.matmul(right.args[0], first, out_dtype=call.attrs.out_dtype))
        return relax.op.permute_dims(made, [*range(rank - 2), rank - 1, rank - 2])

    def _reduced(self, call: relax.Call, name: str) -> relax.Expr:
        root, shape = self._root(call.args[0]), shape_of(call.args[0])
        axis = int(call.attrs.axis[0]) % len(shape)
        if root.same_as(call.args[0]) or shape[axis] == 1:
            return call
        places = [place for place, extent in enumerate(shape_of(root)) if extent != 1]
        place = places[sum(extent != 1 for extent in shape[:axis])]
        made = self._emit((relax.op.max if name == "max" else relax.op.sum)(root, place))
        return relax.op.reshape(made, list(shape_of(call)))

    def _elementwise(self, call: relax.Call) -> relax.Expr:
        shape = shape_of(call)
        roots = [self._root(arg) for arg in call.args if shape_of(arg) == shape]
        root = next((each for each in roots if not any(each.same_as(arg) for arg in call.args)), None)
        if root is None:
            return call
        kept = [axis for axis in range(-len(shape), 0) if shape[axis] != 1]
        places = [place for place, extent in enumerate(shape_of(root)) if extent != 1]
        args = []
        for arg in call.args:
            extents, wanted = shape_of(arg), [1] * root.ty.ndim
            for place, axis in zip(places, kept, strict=True):
                wanted[place] = extents[axis] if -axis <= len(extents) else 1
            array = array_of(arg)
            if not extents:
                args.append(arg)
            elif array is not None:
                args.append(relax.const(array.reshape(wanted), str(arg.ty.dtype)))
            else:
                args.append(self._emit(self._view(arg, wanted)))
        made = self._emit(relax.Call(call.op, args, call.attrs))
        return relax.op.reshape(made, list(shape))

    def _emit(self, expr: relax.Expr) -> relax.Expr:
        return expr if isinstance(expr, relax.Var) else self.builder_.emit(expr)


def without_unit_axes(mod: tvm.IRModule) -> tvm.IRModule:
    """A module with the rewriting above in all its functions."""
    rewriter = UnitAxes(mod)
    for name, func in mod.functions_items():
        if isinstance(func, relax.Function):
            rewriter.builder_.update_func(name, rewriter.visit_expr(func))
    return rewriter.builder_.get()


def _real(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(extent for extent in shape if extent != 1)
