"""Joins and splits of many tensors, as unrolled recurrences and detection heads have them, in several steps.

TVM lowers a join to one choice inside another for every tensor: readers that follow expressions need more calls than
Python has from some hundreds on, and compilers minutes.
"""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

MOST_TENSORS = 32
"""That one function joins, or splits into."""


@mutator
class WideJoins(PyExprMutator):
    """Replaces ``concat`` and ``split`` of more than ``MOST_TENSORS`` tensors."""

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """A call, or a tensor or tuple in its place."""
        call = self.visit_expr_post_order(call)
        name = call.op.name if isinstance(call.op, tvm.ir.Op) else ""
        if name == "relax.concat":
            return self._join(call)
        return self._split(call) if name == "relax.split" else call

    def _join(self, call: relax.Call) -> relax.Expr:
        joined = self.lookup_binding(call.args[0]) if isinstance(call.args[0], relax.Var) else call.args[0]
        if not isinstance(joined, relax.Tuple):
            return call
        parts = list(joined.fields)
        if len(parts) <= MOST_TENSORS:
            return call
        axis = call.attrs.axis
        while len(parts) > MOST_TENSORS:
            parts = [
                self.builder_.emit(relax.op.concat(group, axis)) if len(group) > 1 else group[0]
                for group in _groups(parts)
            ]
        return relax.op.concat(parts, axis)

    def _split(self, call: relax.Call) -> relax.Expr:
        bounds = call.attrs.indices_or_sections
        axis, source = int(call.attrs.axis), call.args[0]
        extent = int(source.ty.shape[axis])
        if isinstance(bounds, tvm.tirx.IntImm):
            step = -(-extent // int(bounds))
            starts = list(range(0, extent, step))
        else:
            starts = [0, *(int(bound) for bound in bounds)]
        if len(starts) <= MOST_TENSORS:
            return call
        return relax.Tuple(self._parts(source, [*starts, extent], axis))

    def _parts(self, source: relax.Expr, bounds: list[int], axis: int) -> list[relax.Expr]:
        """The pieces between bounds, cut in levels of at most ``MOST_TENSORS``."""
        if len(bounds) == 2:
            return [source]
        size = MOST_TENSORS
        while size * MOST_TENSORS < len(bounds) - 1:
            size *= MOST_TENSORS
        per_piece = size if len(bounds) - 1 > MOST_TENSORS else 1
        cuts = bounds[per_piece:-1:per_piece]
        whole = self.builder_.emit(relax.op.split(source, [cut - bounds[0] for cut in cuts], axis))
        found: list[relax.Expr] = []
        for index in range(len(cuts) + 1):
            piece = self.builder_.emit(relax.TupleGetItem(whole, index))
            found += self._parts(piece, bounds[index * per_piece : (index + 1) * per_piece + 1], axis)
        return found


def _groups(parts: list[relax.Expr]) -> list[list[relax.Expr]]:
    return [parts[start : start + MOST_TENSORS] for start in range(0, len(parts), MOST_TENSORS)]
