"""Norms and roots of sums, of which ONNX says what they are and not in how many roundings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import relax
from tvm.ir.expr import GenericConst

from tvm_spm.attention import sum_dtype
from tvm_spm.errors import ModelError
from tvm_spm.frontend.relay.tensors import Builder, Tensor

_AT_ONCE = (
    "GlobalLpPool", "LRN", "LpPool", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare",
)  # fmt: skip
"""Operators that the importer makes of several, between which squares and sums would be rounded to 16 bits."""

_OF_ONE: dict[str, Callable[[relax.Expr], relax.Expr]] = {
    "ReduceL1": relax.op.abs, "ReduceL2": relax.op.abs, "ReduceLogSum": relax.op.log,
    "ReduceSumSquare": lambda x: relax.op.multiply(x, x),
}  # fmt: skip
"""What these make of a single number."""

_LEAST_DEVIATION = 1e-9
"""Is added to a deviation, by ONNX's definition of ``MeanVarianceNormalization``."""


def widened(operator: str, inputs: Sequence[Any]) -> dict[int, relax.Expr]:
    """Inputs by their position, as float32, of an operator that is rounded once at its end; none of any other."""
    if operator not in _AT_ONCE:
        return {}
    floats = {
        at: each for at, each in enumerate(inputs)
        if each is not None and str(each.ty.dtype) != sum_dtype(str(each.ty.dtype))
    }  # fmt: skip
    return {at: relax.op.astype(each, sum_dtype(str(each.ty.dtype))) for at, each in floats.items()}


def unreduced(b: Builder, operator: str, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor | None:
    """What is left of a reduction over no axis, if no axis stands for none of them; TVM leaves nothing."""
    each = _OF_ONE.get(operator)
    axes = inputs[1] if len(inputs) > 1 else None
    is_empty = axes is None or (isinstance(axes, GenericConst) and axes.value.numpy().size == 0)
    if each is None or not attributes.get("noop_with_empty_axes", 0) or not is_empty:
        return None
    return b.emit(each(inputs[0]))


def instance_norm(b: Builder, inputs: list[Tensor | None], attributes: Mapping[str, Any]) -> Tensor:
    """Mean 0 and variance 1 of every channel of every image, as one function; TVM's converter makes nine of it."""
    data, scale, shift = inputs
    assert data is not None
    assert scale is not None
    assert shift is not None
    for name, each in (("scale", scale), ("B", shift)):
        if each.shape != data.shape[1:2]:
            raise ModelError(
                f"{name} has shape {list(each.shape)}: must be {list(data.shape[1:2])}, one number for each channel"
            )
    epsilon = float(attributes.get("epsilon", 1e-5))
    axes = list(range(2, data.rank))
    return b.emit(
        relax.op.nn.instance_norm(
            b.expr(data), b.expr(scale), b.expr(shift), channel_axis=1, axes=axes, epsilon=epsilon
        )
    )


def mean_variance_norm(b: Builder, inputs: list[Tensor | None], attributes: Mapping[str, Any]) -> Tensor:
    """``(x - mean) / (deviation + 1e-9)``; ONNX's own definition adds float32 to whatever type the numbers have."""
    x, dtype = _wide(b, inputs[0])
    axes = [int(axis) for axis in attributes.get("axes", (0, 2, 3))]
    centred = b.relax.emit(x - relax.op.mean(x, axes, keepdims=True))
    deviation = relax.op.sqrt(relax.op.mean(centred * centred, axes, keepdims=True))
    return _rounded(b, centred / (deviation + relax.const(_LEAST_DEVIATION, str(x.ty.dtype))), dtype)


def lp_norm(b: Builder, inputs: list[Tensor | None], attributes: Mapping[str, Any]) -> Tensor:
    """A tensor over the sum of its magnitudes, or the root of its squares, along one axis; 0 where that is 0."""
    assert inputs[0] is not None
    order, axis = int(attributes.get("p", 2)), inputs[0].axis(int(attributes.get("axis", -1)))
    if order not in (1, 2):
        raise ModelError(f"attribute p = {order}: must be 1 or 2")
    x, dtype = _wide(b, inputs[0])
    if order == 1:
        length = relax.op.sum(relax.op.abs(x), axis, keepdims=True)
    else:
        length = relax.op.sqrt(relax.op.sum(x * x, axis, keepdims=True))
    length, zero = b.relax.emit(length), relax.const(0, str(x.ty.dtype))
    return _rounded(b, relax.op.where(relax.op.equal(length, zero), zero, x / length), dtype)


def _wide(b: Builder, data: Tensor | None) -> tuple[relax.Expr, str]:
    """A tensor in the type of its sums, and its own type."""
    assert data is not None
    wide = sum_dtype(data.dtype)
    return (b.relax.emit(relax.op.astype(b.expr(data), wide)) if wide != data.dtype else b.expr(data)), data.dtype


def _rounded(b: Builder, value: relax.Expr, dtype: str) -> Tensor:
    found = b.emit(value)
    return found if found.dtype == dtype else b.emit(relax.op.astype(b.expr(found), dtype))
