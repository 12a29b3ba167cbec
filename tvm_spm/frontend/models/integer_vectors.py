"""What a network of integers computes in float32 on the vector unit, from int8 to int8 in one function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from tvm import te, tirx, topi

_LOW, _HIGH = -128.0, 127.0


Scaled = tuple[te.Tensor, float]
"""A tensor, and what a step of it is worth."""


def add(left: Scaled, right: Scaled) -> te.Tensor:
    """Element by element, with broadcasting."""
    return _combined(left, right, lambda one, other: one + other)


def multiply(left: Scaled, right: Scaled) -> te.Tensor:
    """Element by element, with broadcasting."""
    return _combined(left, right, lambda one, other: one * other)


def _combined(left: Scaled, right: Scaled, operator: Callable[[tirx.PrimExpr, tirx.PrimExpr], te.Tensor]) -> te.Tensor:
    """In one function, so that no other one widens the numbers that it passes on."""
    shape = np.broadcast_shapes(*([int(extent) for extent in tensor.shape] for tensor, _ in (left, right)))

    def number(scaled: Scaled, at: tuple[tirx.PrimExpr, ...]) -> tirx.PrimExpr:
        tensor, scale = scaled
        first = len(shape) - len(tensor.shape)
        read = tensor(*(at[first + i] if shape[first + i] == int(e) else 0 for i, e in enumerate(tensor.shape)))
        return read if str(tensor.dtype) == "float32" else read.astype("float32") * tirx.const(scale, "float32")

    return te.compute(shape, lambda *at: operator(number(left, at), number(right, at)))


def numbers(data: te.Tensor, scale: float) -> te.Tensor:
    """What integers stand for."""
    factor = tirx.const(scale, "float32")
    return te.compute(data.shape, lambda *at: data(*at).astype("float32") * factor, name="numbers")


def rounded(data: te.Tensor, scale: float) -> te.Tensor:
    """The nearest integers, halves to even, as int8."""
    factor = tirx.const(1 / scale, "float32")

    def nearest(*at: tirx.PrimExpr) -> tirx.PrimExpr:
        whole = tirx.nearbyint(data(*at) * factor)
        low, high = tirx.const(_LOW, "float32"), tirx.const(_HIGH, "float32")
        return tirx.max(tirx.min(whole, high), low).astype("int8")

    return te.compute(data.shape, nearest, name="rounded")


def mean(data: te.Tensor, axes: Sequence[int], *, keepdims: bool) -> te.Tensor:
    """Over some axes."""
    count = math.prod(int(data.shape[axis]) for axis in axes)
    return topi.divide(topi.sum(data, list(axes), keepdims), tirx.const(count, "float32"))


def softmax(data: te.Tensor, mask: te.Tensor | None = None) -> te.Tensor:
    """Along the last axis, of the sum with a mask."""
    return topi.nn.softmax(data if mask is None else topi.add(data, mask), axis=-1)


def layer_norm(data: te.Tensor, gamma: te.Tensor, beta: te.Tensor, axes: Sequence[int], epsilon: float) -> te.Tensor:
    """Rows of mean 0 and deviation 1, scaled and shifted."""
    return topi.nn.layer_norm(data, gamma, beta, [axis % len(data.shape) for axis in axes], epsilon)


def rms_norm(data: te.Tensor, gamma: te.Tensor, axes: Sequence[int], epsilon: float) -> te.Tensor:
    """Rows of root mean square 1, scaled."""
    return topi.nn.rms_norm(data, gamma, [axis % len(data.shape) for axis in axes], epsilon)
