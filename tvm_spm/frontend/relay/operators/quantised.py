"""Quantised numbers: how they are made, rescaled and combined.

Rescaling follows Relay: the ratio of two scales becomes a 31-bit multiplier and a shift, products are 64 bits wide, and
halves go up. Where a text leaves the arithmetic open (``compute_dtype="None"``) it is integer; TVM took float32 there
on x86 processors alone, and may differ by one step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tvm_spm.errors import ModelError
from tvm_spm.frontend.relay.arrays import Array
from tvm_spm.frontend.relay.operators.data_movement import concatenate, known, tensors_of
from tvm_spm.frontend.relay.operators.elementwise import (
    along,
    binary,
    cast,
    clip,
    round_away,
    scalar,
    unary,
    where,
)
from tvm_spm.frontend.relay.operators.registry import REQUIRED, Attrs, operator
from tvm_spm.frontend.relay.tensors import Builder, Dequantised, Tensor, Value

_FRACTION_BITS = 31
_Integers = NDArray[np.int64]


def saturate(b: Builder, data: Tensor, dtype: str) -> Tensor:
    """Elements as a narrower dtype; what does not fit becomes the nearest that does."""
    if dtype == data.dtype:
        return data
    info = np.iinfo(dtype)
    return cast(b, clip(b, data, float(info.min), float(info.max)), dtype)


def dequantize(b: Builder, data: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """Float32 numbers that quantised ones stand for."""
    shifted = binary(b, "subtract", cast(b, data, "int32"), cast(b, along(b, zero_point, axis, data), "int32"))
    return binary(b, "multiply", cast(b, shifted, "float32"), along(b, scale, axis, data))


def quantize(b: Builder, data: Tensor, scale: Tensor, zero_point: Tensor, axis: int, dtype: str) -> Tensor:
    """Quantised numbers nearest to float32 ones."""
    steps = round_away(b, binary(b, "divide", data, along(b, scale, axis, data)))
    shifted = binary(b, "add", steps, cast(b, along(b, zero_point, axis, data), "float32"))
    return saturate(b, shifted, dtype)


@operator("qnn.quantize", "data output_scale output_zero_point", weights=(1, 2), out_dtype="int8", axis=-1)
def _quantize(b: Builder, a: Attrs, data: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return quantize(b, data, scale, zero_point, a.integer("axis"), a.text("out_dtype"))


@operator("qnn.dequantize", "data input_scale input_zero_point", weights=(1, 2), out_dtype="float32", axis=-1)
def _dequantize(b: Builder, a: Attrs, data: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    found = cast(b, dequantize(b, data, scale, zero_point, a.integer("axis")), a.text("out_dtype") or "float32")
    return _remember(b, found, data, scale, zero_point, a.integer("axis"))


def _remember(b: Builder, floats: Tensor, data: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """Floats that know what they were made of, if their scale is known."""
    if scale.array is None or zero_point.array is None or floats.dtype != "float32":
        return floats
    scale, zero_point = (
        b.const(np.reshape(each.array, ())) if each.array is not None and each.array.size == 1 else each
        for each in (scale, zero_point)
    )
    floats.dequantised = Dequantised(data=data, scale=scale, zero_point=zero_point, axis=axis)
    return floats


def fixed_point(ratio: float) -> tuple[int, int]:
    """A multiplier of 31 bits behind the point and a power of two: ``ratio = multiplier * 2**(exponent - 31)``."""
    fraction, exponent = math.frexp(ratio)
    multiplier = math.floor(abs(fraction) * (1 << _FRACTION_BITS) + 0.5)
    if multiplier == 1 << _FRACTION_BITS:
        multiplier, exponent = multiplier // 2, exponent + 1
    return (multiplier if ratio >= 0 else -multiplier), exponent


def multiply_shift(
    b: Builder, data: Tensor, multiplier: _Integers, exponent: _Integers, axis: int, *, up: bool = True
) -> Tensor:
    """``data * multiplier * 2**(exponent - 31)`` in integers; int32 in and out.

    Args:
        b: Emits the operators.
        data: int32.
        multiplier: One, or one per element of ``axis``.
        exponent: As many; positive ones shift left first.
        axis: Only for several multipliers.
        up: Halves go up; otherwise away from zero.
    """

    def number(values: _Integers) -> Tensor:
        return along(b, b.const(values if values.size > 1 else values.reshape(()), "int64"), axis, data)

    # Below half a step for every int32: 0, and no shift by more bits than a number has.
    is_nothing = exponent < -_FRACTION_BITS
    multiplier, exponent = np.where(is_nothing, 0, multiplier), np.where(is_nothing, 0, exponent)
    wide = cast(b, data, "int64")
    if (exponent > 0).any():
        wide = binary(b, "left_shift", wide, number(np.maximum(exponent, 0)))
    wide = binary(b, "multiply", wide, number(multiplier))
    shift = _FRACTION_BITS + np.maximum(-exponent, 0)
    half = np.left_shift(np.int64(1), (shift - 1).astype(np.int64))
    rounder = number(half)
    if not up:
        rounder = where(b, binary(b, "less", wide, scalar(b, 0, wide)), number(half - 1), rounder)
    return cast(b, binary(b, "right_shift", binary(b, "add", wide, rounder), number(shift)), "int32")


def multiply_ratio(b: Builder, data: Tensor, ratio: Array, axis: int, *, up: bool = True) -> Tensor:
    """int32 numbers times known ratios, in integers."""
    pairs = np.array([fixed_point(float(value)) for value in ratio.reshape(-1)], np.int64)
    return multiply_shift(b, data, pairs[:, 0], pairs[:, 1], axis, up=up)


def requantize(
    b: Builder,
    data: Tensor,
    scale: tuple[Tensor, Tensor],
    zero_point: tuple[Tensor, Tensor],
    dtype: str,
    *,
    axis: int = -1,
    up: bool = True,
    arithmetic: str = "int64",
) -> Tensor:
    """Quantised numbers in another scale.

    Args:
        b: Emits the operators.
        data: Any integers.
        scale: Of ``data`` and of the result; must be known.
        zero_point: Of ``data`` and of the result.
        dtype: Of the result.
        axis: Of a scale or a zero point per channel.
        up: Halves go up; otherwise away from zero.
        arithmetic: ``int64``, ``float32`` or ``float64``.
    """
    scale_in, scale_out = (known(each, "a scale").astype(np.float64) for each in scale)
    if not (scale_out > 0).all():
        raise ModelError(f"output scale {float(scale_out.min())} <= 0")
    number = "int32" if arithmetic == "int64" else arithmetic
    shifted = cast(b, data, number)
    if not is_zero(zero_point[0]):
        shifted = binary(b, "subtract", shifted, cast(b, along(b, zero_point[0], axis, data), number))
    ratio = np.asarray(scale_in / scale_out)
    if ratio.size > 1 or scale_in.reshape(-1)[0] != scale_out.reshape(-1)[0]:
        if arithmetic == "int64":
            shifted = multiply_ratio(b, shifted, ratio, axis, up=up)
        else:
            factor = along(b, b.const(ratio if ratio.size > 1 else ratio.reshape(()), number), axis, data)
            shifted = binary(b, "multiply", shifted, factor)
    if not is_zero(zero_point[1]):
        shifted = binary(b, "add", shifted, cast(b, along(b, zero_point[1], axis, data), number))
    if arithmetic != "int64":
        biased = unary(b, "floor", binary(b, "add", shifted, scalar(b, 0.5, shifted))) if up else None
        shifted = cast(b, biased or round_away(b, shifted), "int32")
    return saturate(b, shifted, dtype)


def is_zero(tensor: Tensor) -> bool:
    """Whether all elements are known to be 0."""
    return tensor.array is not None and not tensor.array.any()


def same(left: Tensor, right: Tensor) -> bool:
    """Whether two scalars are known to be equal."""
    return left.array is not None and right.array is not None and bool(np.array_equal(left.array, right.array))


@operator("qnn.requantize", "data input_scale input_zero_point output_scale output_zero_point", weights=(1, 2, 3, 4),
          axis=-1, rounding="None", compute_dtype="None", out_dtype="int8")  # fmt: skip
def _requantize(
    b: Builder, a: Attrs, data: Tensor, scale: Tensor, zero_point: Tensor, out_scale: Tensor, out_zero_point: Tensor
) -> Tensor:
    rounding, arithmetic = a.text("rounding") or "None", a.text("compute_dtype") or "None"
    if rounding not in ("None", "UPWARD", "TONEAREST"):
        raise ModelError(f"rounding {rounding!r}: only 'UPWARD' and 'TONEAREST' are known")
    if arithmetic not in ("None", "int64", "float32", "float64"):
        raise ModelError(f"compute_dtype {arithmetic!r}: only 'int64', 'float32' and 'float64' are known")
    return requantize(
        b, data, (scale, out_scale), (zero_point, out_zero_point), a.text("out_dtype") or "int8",
        axis=a.integer("axis"), up=rounding != "TONEAREST",
        arithmetic="int64" if arithmetic == "None" else arithmetic,
    )  # fmt: skip


def requantize_or_widen(
    b: Builder, data: Tensor, scale: tuple[Tensor, Tensor], zero_point: tuple[Tensor, Tensor]
) -> Tensor:
    """As int32 in another scale; only widened if that is its own."""
    if same(*scale) and same(*zero_point):
        return cast(b, data, "int32")
    return requantize(b, data, scale, zero_point, "int32")


_TWO = "lhs rhs lhs_scale lhs_zero_point rhs_scale rhs_zero_point output_scale output_zero_point"


def _enter_sum(name: str, sign: str, other: str) -> None:
    @operator(f"qnn.{name}", _TWO, weights=(2, 3, 4, 5, 6, 7), lhs_axis=-1, rhs_axis=-1)
    def combined(b: Builder, a: Attrs, lhs: Tensor, rhs: Tensor, *params: Tensor) -> Tensor:
        out_scale, out_zero_point = params[4:]
        left = requantize_or_widen(b, lhs, (params[0], out_scale), (params[1], out_zero_point))
        right = requantize_or_widen(b, rhs, (params[2], out_scale), (params[3], out_zero_point))
        total = binary(b, sign, left, right)
        if not is_zero(out_zero_point):
            total = binary(b, other, total, out_zero_point)
        return saturate(b, total, lhs.dtype)


# Both terms hold the zero point of the result: a sum has one too many, a difference none.
_enter_sum("add", "add", "subtract")
_enter_sum("subtract", "subtract", "add")


@operator("qnn.mul", _TWO, weights=(2, 3, 4, 5, 6, 7), lhs_axis=-1, rhs_axis=-1)
def _mul(b: Builder, a: Attrs, lhs: Tensor, rhs: Tensor, *params: Tensor) -> Tensor:
    shifted = [
        binary(b, "subtract", cast(b, data, "int32"), zero_point)
        for data, zero_point in ((lhs, params[1]), (rhs, params[3]))
    ]
    scale = b.const(known(params[0], "a scale").astype(np.float32) * known(params[2], "a scale").astype(np.float32))
    zero = b.const(np.zeros(()), "int32")
    return requantize(b, binary(b, "multiply", *shifted), (scale, params[4]), (zero, params[5]), lhs.dtype)


@operator("qnn.concatenate", "*data *input_scales *input_zero_points output_scale output_zero_point",
          weights=(3, 4), axis=0)  # fmt: skip
def _concatenate(
    b: Builder, a: Attrs, data: Value, scales: Value, zero_points: Value, scale: Tensor, zero_point: Tensor
) -> Tensor:
    parts = zip(
        tensors_of(data, "data"), tensors_of(scales, "input_scales"), tensors_of(zero_points, "input_zero_points"),
        strict=True,
    )  # fmt: skip
    rescaled = tuple(
        part
        if same(scale_in, scale) and same(zero_in, zero_point)
        else requantize(b, part, (scale_in, scale), (zero_in, zero_point), part.dtype)
        for part, scale_in, zero_in in parts
    )
    return concatenate(b, rescaled, a.integer("axis"))


_MAPPED = "data scale zero_point output_scale output_zero_point"


def _hard_swish(b: Builder, data: Tensor) -> Tensor:
    shifted = clip(b, binary(b, "add", data, scalar(b, 3, data)), 0, 6)
    return binary(b, "divide", binary(b, "multiply", data, shifted), scalar(b, 6, data))


def _enter_map(name: str, make: Callable[[Builder, Tensor], Tensor]) -> None:
    """A function of one number: through float32 and back."""

    @operator(f"qnn.{name}", _MAPPED, weights=(1, 2, 3, 4))
    def mapped(b: Builder, a: Attrs, data: Tensor, *params: Tensor) -> Tensor:
        result = make(b, dequantize(b, data, params[0], params[1], -1))
        return quantize(b, result, params[2], params[3], -1, data.dtype)


for _name in ("sigmoid", "tanh", "erf", "exp", "sqrt", "rsqrt", "abs", "log"):
    _enter_map(_name, lambda b, data, name=_name: unary(b, name, data))  # type: ignore[misc]
_enter_map("hardswish", _hard_swish)


@operator("qnn.leaky_relu", "data input_scale input_zero_point output_scale output_zero_point", weights=(1, 2, 3, 4),
          alpha=0.25)  # fmt: skip
def _leaky_relu(b: Builder, a: Attrs, data: Tensor, *params: Tensor) -> Tensor:
    alpha = a.real("alpha")
    wide = cast(b, data, "int32")
    rescaled = requantize_or_widen(b, wide, (params[0], params[2]), (params[1], params[3]))
    scaled = multiply_ratio(b, rescaled, np.array(alpha), -1)
    rest = multiply_ratio(b, cast(b, params[3], "int32"), np.array(1 - alpha), -1)
    small = binary(b, "add", scaled, rest)
    return saturate(b, where(b, binary(b, "less", wide, params[1]), small, rescaled), data.dtype)


@operator("fixed_point_multiply", "data", multiplier=REQUIRED, shift=REQUIRED)
def _fixed_point_multiply(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    multiplier, shift = (np.array([a.integer(key)]) for key in ("multiplier", "shift"))
    return multiply_shift(b, data, multiplier, shift, -1)


@operator("fixed_point_multiply_per_axis", "data fp_multiplier left_shift right_shift", weights=(1, 2, 3),
          is_lshift_required=False, is_rshift_required=False, axes=REQUIRED)  # fmt: skip
def _fixed_point_multiply_per_axis(b: Builder, a: Attrs, data: Tensor, *params: Tensor) -> Tensor:
    axes = a.integers("axes")
    if len(axes) != 1:
        raise ModelError(f"axes = {list(axes)}: one axis can be imported")
    multiplier, left, right = (known(each, "a multiplier").reshape(-1).astype(np.int64) for each in params)
    exponent = left * a.flag("is_lshift_required") - right
    if (np.minimum(left * a.flag("is_lshift_required"), right) > 0).any():
        raise ModelError("a channel is shifted both ways")
    return multiply_shift(b, data, multiplier, exponent, axes[0])
