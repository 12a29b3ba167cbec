"""From Relax operators to TIR functions, one per layer with everything element-wise that follows it."""

from __future__ import annotations

import tvm
from tvm import relax, te
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_spm.errors import ModelError
from tvm_spm.frontend.attention_forms.grouped import GroupedHeads
from tvm_spm.frontend.attention_forms.heads import Heads
from tvm_spm.frontend.attention_forms.products import BatchedProducts
from tvm_spm.frontend.attention_forms.softmax import ComposedSoftmax, MaskedScores, SafeSoftmax
from tvm_spm.frontend.bounds import OneSidedClips
from tvm_spm.frontend.broadcast import keep_broadcasts_apart
from tvm_spm.frontend.channel_scales import ChannelScales
from tvm_spm.frontend.lift import lift_constants
from tvm_spm.frontend.norms import LOWERINGS
from tvm_spm.frontend.prologue import Prologues
from tvm_spm.frontend.sums import sum_in_float32
from tvm_spm.frontend.transposed import TransposedConvolutions
from tvm_spm.frontend.wide import WideJoins

TVM_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
"""What TVM raises on an operator or a shape that it cannot read or lower; it has no common class of errors."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its class where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def fuse(mod: tvm.IRModule) -> tvm.IRModule:
    """Lower all operators to TIR and fuse each layer with its bias, activation and residual add.

    What a function computes before its nest becomes a function of its own, so that it is counted. Private Relax
    functions are inlined; others that ``main`` calls stay, and take their constants from their callers.

    Constant folding is left out on purpose: it compiles every constant expression and takes most of the time.

    Raises:
        ModelError: TVM cannot lower the module.
    """
    transform = relax.transform
    given = [str(var.name_hint) for var, func in mod.functions_items() if isinstance(func, tvm.tirx.PrimFunc)]
    passes = [
        transform.InlinePrivateFunctions(),
        transform.CanonicalizeBindings(),
        _rewrite(OneSidedClips),
        _rewrite(ChannelScales),
        transform.DecomposeOpsForInference(),
        _rewrite(WideJoins),
        transform.CanonicalizeBindings(),
        transform.DeadCodeElimination(),
        _rewrite(BatchedProducts),
        _rewrite(ComposedSoftmax),
        transform.CanonicalizeBindings(),
        transform.DeadCodeElimination(),
        _rewrite(GroupedHeads),
        _rewrite(SafeSoftmax),
        _rewrite(MaskedScores),
        transform.CanonicalizeBindings(),
        transform.DeadCodeElimination(),
        _rewrite(Heads),
        transform.CanonicalizeBindings(),
        transform.DeadCodeElimination(),
        _rewrite(_ExpandDims),
        _rewrite(_TransposedMatmul),
        _rewrite(TransposedConvolutions),
        transform.DeadCodeElimination(),
        transform.LegalizeOps(LOWERINGS),
        transform.AnnotateTIROpPattern(),
        sum_in_float32(given),
        keep_broadcasts_apart,
        transform.FuseOps(),
        transform.FuseTIR(),
        _rewrite(Prologues),
        transform.DeadCodeElimination(),
        lift_constants,
    ]
    try:
        return tvm.transform.Sequential(passes)(mod)
    except TVM_ERRORS as error:
        raise ModelError(f"cannot lower the module to TIR: {first_line(error)}") from error


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


def _swaps_last_axes(call: relax.Expr | None) -> bool:
    if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op) or call.op.name != "relax.permute_dims":
        return False
    rank = call.args[0].ty.ndim
    axes = list(range(rank))[::-1] if call.attrs.axes is None else [int(axis) % rank for axis in call.attrs.axes]
    return rank >= 2 and axes == [*range(rank - 2), rank - 1, rank - 2]


def _matmul_transposed(data: te.Tensor, weight: te.Tensor, dtype: str) -> te.Tensor:
    """``data (..., m, k)`` times ``weight (..., n, k)``; leading axes broadcast."""
    rank = max(len(data.shape), len(weight.shape))
    summed = te.reduce_axis((0, data.shape[-1]), name="k")

    def batch(tensor: te.Tensor, at: tuple[tvm.tirx.PrimExpr, ...]) -> list[tvm.tirx.PrimExpr]:
        lead = tensor.shape[:-2]
        return [0 if extent == 1 else i for extent, i in zip(lead, at[len(at) - len(lead) :], strict=True)]

    def element(*at: tvm.tirx.PrimExpr) -> tvm.tirx.PrimExpr:
        left = data(*batch(data, at[:-2]), at[-2], summed)
        right = weight(*batch(weight, at[:-2]), at[-1], summed)
        return te.sum(left.astype(dtype) * right.astype(dtype), axis=summed)

    leads = [(1,) * (rank - len(t.shape)) + tuple(int(e) for e in t.shape[:-2]) for t in (data, weight)]
    lead = [max(pair) for pair in zip(*leads, strict=True)]
    return te.compute((*lead, data.shape[-2], weight.shape[-2]), element, name="matmul_transposed")


@mutator
class _TransposedMatmul(PyExprMutator):
    """A matmul reads a transposed operand where it is stored, instead of a transposed copy.

    TVM's own pass of this kind stops at a tensor multiplied by its own transpose.
    """

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        if not isinstance(call.op, tvm.ir.Op) or call.op.name != "relax.matmul":
            return call
        data, moved = call.args
        source = self.lookup_binding(moved) if isinstance(moved, relax.Var) else moved
        if not _swaps_last_axes(source) or source.args[0].same_as(data):
            return call
        shapes = [_static_shape(expr) for expr in (data, source.args[0])]
        if any(shape is None or len(shape) < 2 for shape in shapes):
            return call
        return self.builder_.call_te(
            _matmul_transposed, data, source.args[0], str(call.ty.dtype), primfunc_name_hint="matmul_transposed"
        )


def _rewrite(mutator_class: type[PyExprMutator]) -> tvm.transform.Pass:
    @tvm.transform.module_pass(opt_level=0, name=f"tvm_spm.{mutator_class.__name__.lstrip('_')}")
    def rewrite(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        rewriter = mutator_class(mod)
        for name, func in mod.functions_items():
            if isinstance(func, relax.Function):
                rewriter.builder_.update_func(name, rewriter.visit_expr(func))
        return rewriter.builder_.get()

    return rewrite
