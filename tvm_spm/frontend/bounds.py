"""Bounds that never bind are no work: a clip with one infinite bound is a maximum or a minimum."""

from __future__ import annotations

import math

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator


@mutator
class OneSidedClips(PyExprMutator):
    """Rewrites clips of floats with an infinite bound, as PyTorch's ``clamp(min=0)`` is imported.

    Before::

        clip(clip(x + 3, 0, inf), -inf, 6)

    After::

        minimum(maximum(x + 3, 0), 6)
    """

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """A clip."""
        call = self.visit_expr_post_order(call)
        if not isinstance(call.op, tvm.ir.Op) or call.op.name != "relax.clip" or "float" not in str(call.ty.dtype):
            return call
        low, high = (float(getattr(arg.value, "value", arg.value)) for arg in call.args[1:])
        if math.inf not in (-low, high):
            return call
        value, dtype = call.args[0], str(call.ty.dtype)
        if low > -math.inf:
            value = relax.op.maximum(value, relax.const(low, dtype))
        return relax.op.minimum(value, relax.const(high, dtype)) if high < math.inf else value
