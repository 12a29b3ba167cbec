"""Operators of ``ai.onnx.ml`` that stand before or behind a network, and whose result ONNX infers no shape of."""

from __future__ import annotations

import numpy as np

from tvm_spm.errors import ModelError
from tvm_spm.frontend.onnx.microsoft.place import TypedNode, TypedRewrite


def _scaler(each: TypedNode) -> None:
    """Minus an offset, times a scale, each one number or one for each column."""
    w, data = each.writer, each.cast(each.input(0), np.float32)
    offset, scale = (w.constant(np.array(each.numbers(name), np.float32)) for name in ("offset", "scale"))
    w.emit("Mul", w.emit("Sub", data, offset), scale, out=each.out)


def _normalizer(each: TypedNode) -> None:
    """Rows over their largest number, the sum of their sizes or their length; a row of zeros stays."""
    w, data, norm = each.writer, each.cast(each.input(0), np.float32), each.text("norm", "MAX")
    operator = {"MAX": "ReduceMax", "L1": "ReduceL1", "L2": "ReduceL2"}.get(norm)
    if operator is None:
        raise ModelError(f"{each.what}: attribute norm = {norm!r}: must be MAX, L1 or L2")
    if w.opset < _AXES_ARE_AN_INPUT:
        size = w.emit(operator, data, axes=[-1], keepdims=1)
    else:
        size = w.emit(operator, data, w.integers(-1), keepdims=1)
    zero, one = (w.constant(np.array(value, np.float32)) for value in (0, 1))
    w.emit("Div", data, w.emit("Where", w.emit("Equal", size, zero), one, size), out=each.out)


def _linear_regressor(each: TypedNode) -> None:
    """A product with coefficients, row by row those of one target, plus an intercept of each."""
    w, targets = each.writer, each.integer("targets", 1)
    if each.text("post_transform", "NONE") != "NONE":
        raise ModelError(f"{each.what}: attribute post_transform = {each.text('post_transform')!r}: must be NONE")
    weights = np.array(each.numbers("coefficients"), np.float32).reshape(targets, -1).T
    found = w.emit("MatMul", each.cast(each.input(0), np.float32), w.constant(np.ascontiguousarray(weights)))
    intercepts = each.numbers("intercepts") or [0.0]
    w.emit("Add", found, w.constant(np.array(intercepts, np.float32)), out=each.out)


_AXES_ARE_AN_INPUT = 18
"""First opset, for all reductions used here."""

LEARNED: dict[str, TypedRewrite] = {
    "LinearRegressor": _linear_regressor,
    "Normalizer": _normalizer,
    "Scaler": _scaler,
}
