"""A softmax whose rows are 0 where nothing is visible, as one operator."""

from __future__ import annotations

import math

import tvm
from tvm import relax, te, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_spm.frontend.attention_forms.expressions import array_of, number_of, op_name, shape_of

_ZEROS = ("zeros_like", "zeros")


def _softmax_or_zero(scores: te.Tensor) -> te.Tensor:
    lead, num_keys = scores.shape[:-1], scores.shape[-1]
    keys = [te.reduce_axis((0, num_keys), name="k") for _ in range(2)]
    largest = te.compute(lead, lambda *at: te.max(scores(*at, keys[0]), axis=keys[0]), name="largest")
    powers = te.compute(scores.shape, lambda *at: te.exp(scores(*at) - largest(*at[:-1])), name="powers")
    total = te.compute(lead, lambda *at: te.sum(powers(*at, keys[1]), axis=keys[1]), name="total")
    zero = tirx.const(0, str(scores.dtype))

    def quotient(*at: tirx.Var) -> tvm.ir.Expr:
        return tirx.Select(total(*at[:-1]) == zero, zero, powers(*at) / total(*at[:-1]))

    return te.compute(scores.shape, quotient, name="softmax_or_zero")


def value_of(reader: PyExprMutator, expr: relax.Expr) -> relax.Expr:
    """What a variable is bound to, in the end."""
    while isinstance(expr, relax.Var):
        value = reader.lookup_binding(expr)
        if value is None:
            return expr
        expr = value
    return expr


@mutator
class SafeSoftmax(PyExprMutator):
    """Rewrites a softmax that something else zeroes.

    Before, as PyTorch and its ONNX exporter write it::

        where(not any(not (scores == -inf)), 0, softmax(scores))
        where(isnan(softmax(scores)), 0, softmax(scores))

    or, as ONNX defines its operator::

        where(max(mask) == -inf, 0, softmax(product + mask))

    After, a plain softmax where scores are a scaled product, without a mask, and else::

        powers / sum if sum != 0 else 0
    """

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """A choice between 0 and a softmax."""
        call = self.visit_expr_post_order(call)
        if op_name(call) != "where" or not self._is_zero(call.args[1]):
            return call
        chosen = array_of(value_of(self, call.args[0]))
        if chosen is not None and not chosen.any() and shape_of(call.args[2]) == shape_of(call):
            return call.args[2]
        condition, weights = value_of(self, call.args[0]), value_of(self, call.args[2])
        is_cast = op_name(weights) == "astype"
        weights = value_of(self, weights.args[0]) if is_cast else weights
        if op_name(weights) != "nn.softmax" or int(weights.attrs.axis) not in (-1, weights.ty.ndim - 1):
            return call
        scores = weights.args[0]
        # In another dtype than what the scores are added up in.
        wide: relax.Expr = value_of(self, scores) if is_cast else None
        scores = wide.args[0] if op_name(wide) == "astype" else scores
        is_nan = op_name(condition) == "isnan" and self._name(condition.args[0]).same_as(self._name(call.args[2]))
        if not (is_nan or self._is_all_hidden(condition, scores) or self._is_mask_hidden(condition, scores)):
            return call
        if self._is_product(scores):
            return call.args[2]
        found = self.builder_.call_te(_softmax_or_zero, weights.args[0], primfunc_name_hint="softmax_or_zero")
        return relax.op.astype(self.builder_.emit(found), str(call.ty.dtype)) if is_cast else found

    def _name(self, expr: relax.Expr) -> relax.Expr:
        """The variable that others are only names of."""
        while isinstance(expr, relax.Var) and isinstance(self.lookup_binding(expr), relax.Var):
            expr = self.lookup_binding(expr)
        return expr

    def _is_zero(self, expr: relax.Expr) -> bool:
        value = value_of(self, expr)
        if op_name(value) in ("full_like", "broadcast_to"):
            return self._is_zero(value.args[-1] if op_name(value) == "full_like" else value.args[0])
        if op_name(value) == "full":
            return self._is_zero(value.args[1])
        array = array_of(value)
        return op_name(value) in _ZEROS or (array is not None and not array.any())

    def _is_all_hidden(self, condition: relax.Expr, scores: relax.Expr) -> bool:
        """Whether a condition is that no score of a row differs from minus infinity."""
        steps = ("logical_not", "astype", "max", "astype", "logical_not", "equal")
        value = condition
        for step in steps:
            if op_name(value) != step:
                return False
            if step == "max" and ([int(axis) for axis in value.attrs.axis or ()] not in ([-1], [scores.ty.ndim - 1])):
                return False
            if step != "equal":
                value = value_of(self, value.args[0])
        compared, number = value.args
        return self._name(compared).same_as(self._name(scores)) and number_of(number) == -math.inf

    def _is_mask_hidden(self, condition: relax.Expr, scores: relax.Expr) -> bool:
        """Whether a condition is that a row of what was added to the scores is minus infinity throughout."""
        largest: relax.Expr = value_of(self, condition.args[0]) if op_name(condition) == "equal" else None
        total = value_of(self, scores)
        if op_name(largest) != "max" or number_of(value_of(self, condition.args[1])) != -math.inf:
            return False
        mask = self._name(largest.args[0])
        is_row = [int(axis) % mask.ty.ndim for axis in largest.attrs.axis or ()] == [mask.ty.ndim - 1]
        is_added = op_name(total) == "add" and any(self._name(each).same_as(mask) for each in total.args)
        return is_row and is_added and shape_of(mask)[-1] == shape_of(scores)[-1]

    def _is_product(self, scores: relax.Expr) -> bool:
        value = value_of(self, scores)
        while op_name(value) in ("multiply", "divide") and number_of(value.args[1]) is not None:
            value = value_of(self, value.args[0])
        return op_name(value) == "matmul"


@mutator
class MaskedScores(PyExprMutator):
    """Rewrites a mask of truths that is turned into numbers first.

    Before::

        scores + where(mask, 0, -inf)

    After, which reads a byte per element and adds nothing::

        where(mask, scores, -inf)
    """

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """A sum with a choice of two numbers, or with nothing."""
        call = self.visit_expr_post_order(call)
        if op_name(call) != "add" or str(call.ty.dtype) not in ("float16", "bfloat16", "float32", "float64"):
            return call
        for scores, mask in (call.args, reversed(call.args)):
            if shape_of(scores) != shape_of(call) or not shape_of(call):
                continue
            choice = self.lookup_binding(mask) if isinstance(mask, relax.Var) else mask
            array = array_of(choice)
            if array is not None and not array.any():
                return scores
            if op_name(choice) == "where" and [number_of(each) for each in choice.args[1:]] == [0, -math.inf]:
                return relax.op.where(choice.args[0], scores, relax.const(-math.inf, str(call.ty.dtype)))
        return call


@mutator
class ComposedSoftmax(PyExprMutator):
    """Rewrites a softmax over the last axis that was taken apart, as JAX writes it.

    Before::

        e = exp(x - max(x)); e / sum(e)

    After::

        softmax(x)
    """

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """A quotient of powers and their sum."""
        call = self.visit_expr_post_order(call)
        if op_name(call) != "divide":
            return call
        power = value_of(self, call.args[0])
        shifted: relax.Expr = value_of(self, power.args[0]) if op_name(power) == "exp" else None
        if op_name(shifted) != "subtract" or shape_of(shifted) != shape_of(call) or not shape_of(call):
            return call
        scores = shifted.args[0]
        is_softmax = self._is_over_last(call.args[1], "sum", call.args[0]) and self._is_over_last(
            shifted.args[1], "max", scores
        )
        return relax.op.nn.softmax(scores, axis=-1) if is_softmax else call

    def _is_over_last(self, expr: relax.Expr, name: str, source: relax.Expr) -> bool:
        """Whether an expression is a maximum or sum of ``source`` over its last axis, with an axis of 1 for it."""
        value, wanted = value_of(self, expr), (*shape_of(source)[:-1], 1)
        if shape_of(value) != wanted:
            return False
        while op_name(value) in ("reshape", "expand_dims") or (name == "max" and self._is_no_bound(value)):
            value = value_of(self, value.args[1] if op_name(value) == "maximum" else value.args[0])
        if op_name(value) != name or [int(axis) for axis in value.attrs.axis or ()] not in ([-1], [len(wanted) - 1]):
            return False
        found = value.args[0]
        return bool(found.same_as(source)) or value_of(self, found).same_as(value_of(self, source))

    def _is_no_bound(self, value: relax.Expr) -> bool:
        return op_name(value) == "maximum" and number_of(value_of(self, value.args[0])) == -math.inf
