"""From Relax operators to TIR functions, one per layer with everything element-wise that follows it."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator


def fuse(mod: tvm.IRModule) -> tvm.IRModule:
    """Lower all operators to TIR and fuse each layer with its bias, activation and residual add.

    Constant folding is left out on purpose: it compiles every constant expression and takes most of the time.
    """
    transform = relax.transform
    passes = [
        transform.DecomposeOpsForInference(),
        transform.CanonicalizeBindings(),
        _reshape_to_expand_dims(),
        transform.DeadCodeElimination(),
        transform.FuseTransposeMatmul(),
        transform.LegalizeOps(),
        transform.AnnotateTIROpPattern(),
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.DeadCodeElimination(),
    ]
    return tvm.transform.Sequential(passes)(mod)


def _static_shape(expr: relax.Expr) -> tuple[int, ...] | None:
    shape = getattr(expr.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        return None
    extents = [int(extent) for extent in shape.values if isinstance(extent, tvm.tirx.IntImm)]
    return tuple(extents) if len(extents) == len(shape.values) else None


def _new_axes(before: tuple[int, ...], after: tuple[int, ...]) -> list[int] | None:
    """Where axes of extent 1 were inserted, if that is all that a reshape did."""
    axes, position = [], 0
    for axis, extent in enumerate(after):
        if position < len(before) and before[position] == extent:
            position += 1
        elif extent == 1:
            axes.append(axis)
        else:
            return None
    return axes if position == len(before) and axes else None


@mutator
class _ExpandDims(PyExprMutator):
    """A reshape that only adds axes of extent 1 says so; fusion then takes it along with its consumer."""

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        if not isinstance(call.op, tvm.ir.Op) or call.op.name != "relax.reshape":
            return call
        before, after = _static_shape(call.args[0]), _static_shape(call)
        axes = None if before is None or after is None else _new_axes(before, after)
        return call if axes is None else relax.op.expand_dims(call.args[0], axes)


def _reshape_to_expand_dims() -> tvm.transform.Pass:
    @tvm.transform.module_pass(opt_level=0, name="tvm_spm.reshape_to_expand_dims")
    def rewrite(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        rewriter = _ExpandDims(mod)
        for name, func in mod.functions_items():
            if isinstance(func, relax.Function):
                rewriter.builder_.update_func(name, rewriter.visit_expr(func))
        return rewriter.builder_.get()

    return rewrite
