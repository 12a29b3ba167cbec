"""Quantised convolutions, products, pools and softmax.

The sum over ``(q - zp) * (w - zw)`` is taken as the sum over ``q * w`` minus ``zp`` times the sum over ``w``, which is
known when the network is imported: the layer reads its data at 8 bits, padding is 0, and the rest is one subtraction.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from tvm_spm.errors import ModelError
from tvm_spm.frontend.relay.arrays import Array
from tvm_spm.frontend.relay.operators.convolution import (
    both_sides,
    check_units,
    conv_attrs,
    convolve,
    convolve_transposed,
    out_layout,
    per_axis,
    plain_kernel,
    product,
    transposed_kernel,
)
from tvm_spm.frontend.relay.operators.data_movement import known
from tvm_spm.frontend.relay.operators.elementwise import (
    along,
    binary,
    cast,
    clip,
    is_float,
    round_away,
    scalar,
    unary,
)
from tvm_spm.frontend.relay.operators.image import pool, pool_attrs
from tvm_spm.frontend.relay.operators.quantised import (
    is_zero,
    requantize,
    requantize_or_widen,
    saturate,
)
from tvm_spm.frontend.relay.operators.registry import REQUIRED, Attrs, operator
from tvm_spm.frontend.relay.tensors import Builder, Tensor

_LAYER = "data weight input_zero_point weight_zero_point input_scale weight_scale"


def zero_points(params: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The zero points among zero points and scales; the documentation and the printer disagree on their order."""
    found = [param for param in params if not is_float(param.dtype)]
    if len(found) != 2:
        raise ModelError(f"{len(found)} integer zero points among the last {len(params)} arguments, 2 are needed")
    return found[0], found[1]


def shifted_weight(b: Builder, weight: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """A weight minus its zero point, in the narrowest dtype that holds it."""
    if is_zero(zero_point):
        return weight
    wide = binary(b, "subtract", cast(b, weight, "int32"), along(b, zero_point, axis, weight))
    if wide.array is None:
        return wide
    low, high = int(wide.array.min(initial=0)), int(wide.array.max(initial=0))
    fitting = [t for t in ("int8", "uint8", "int16") if np.iinfo(t).min <= low and high <= np.iinfo(t).max]
    return cast(b, wide, fitting[0] if fitting else "int32")


def sums_inside(kernel: Array, image: tuple[int, ...], out: tuple[int, ...], a: Attrs) -> NDArray[np.int32]:
    """Per output channel and pixel, the sum over the weights that meet the image and not its padding.

    A row or column of weights meets the image or does not, on its own: per axis a 0/1 matrix says which.
    """
    num_axes = len(image)
    strides = per_axis(a.integers("strides"), num_axes, "strides")
    dilation = per_axis(a.integers("dilation"), num_axes, "dilation")
    front = both_sides(a.integers("padding"), num_axes)[:num_axes]
    sums = kernel.astype(np.int64).sum(1)
    for axis in range(num_axes):
        at = np.arange(out[axis])[:, None] * strides[axis] - front[axis]
        at = at + np.arange(kernel.shape[2 + axis])[None, :] * dilation[axis]
        inside = ((at >= 0) & (at < image[axis])).astype(np.int64)
        sums = np.moveaxis(np.tensordot(inside, sums, axes=(1, 1 + axis)), 0, 1 + axis)
    return sums.astype(np.int32)[None]


def minus_zero_point(b: Builder, total: Tensor, zero_point: Tensor, sums: NDArray[np.int32]) -> Tensor:
    """``total - zero_point * sums``; one number per channel where no padding is met."""
    corner = sums[(slice(None), slice(None), *(slice(0, 1),) * (sums.ndim - 2))]
    sums = corner if (sums == corner).all() else sums
    if zero_point.array is None:
        correction = binary(b, "multiply", cast(b, zero_point, "int32"), b.const(sums, "int32"))
    else:
        correction = b.const(zero_point.array.astype(np.int64) * sums, "int32")
    return binary(b, "subtract", total, correction)


def convolve_integers(b: Builder, a: Attrs, plain: Tensor, kernel: Tensor, zeros: tuple[Tensor, Tensor]) -> Tensor:
    """int32 sums of data times weights, each minus its zero point.

    Args:
        b: Emits the operators.
        a: Of a convolution over plain layouts; the result is int32 whatever they say.
        plain: Data in plain order.
        kernel: Weights in plain order, output channels first.
        zeros: Zero point of the data, one, and of the weights, one or one per output channel.
    """
    data_zero, weight_zero = zeros
    num_axes = plain.rank - 2
    kernel = shifted_weight(b, kernel, weight_zero, 0)
    inner = a.but(out_dtype="int32", channels=None)
    if kernel.array is None and not is_zero(data_zero):
        shifted = binary(b, "subtract", cast(b, plain, "int32"), cast(b, data_zero, "int32"))
        return convolve(b, inner, shifted, cast(b, kernel, "int32"), num_axes)
    total = convolve(b, inner, plain, kernel, num_axes)
    if is_zero(data_zero):
        return total
    sums = sums_inside(known(kernel, "weight"), plain.shape[2:], total.shape[2:], inner)
    return minus_zero_point(b, total, data_zero, sums)


def multiply_integers(b: Builder, left: Tensor, right: Tensor, zeros: tuple[Tensor, Tensor]) -> Tensor:
    """int32 matrix product of ``left`` and ``right``, each minus its zero point.

    Args:
        b: Emits the operators.
        left: Rows.
        right: Columns; at 8 bits as far as it is known.
        zeros: Zero point of ``left``, one or one per row, and of ``right``, one or one per column.
    """
    left_zero, right_zero = zeros
    right = shifted_weight(b, right, right_zero, right.rank - 1)
    if right.array is None and not is_zero(left_zero):
        # Both follow from the inputs: differences of 8-bit numbers fit 16 bits.
        left, right = (cast(b, tensor, "int16") for tensor in (left, right))
        left = binary(b, "subtract", left, cast(b, along(b, left_zero, left.rank - 2, left), "int16"))
        return product(b, left, right, "int32", flip=(False, False))
    total = product(b, left, right, "int32", flip=(False, False))
    if is_zero(left_zero):
        return total
    sums = b.const(known(right, "weight").astype(np.int64).sum(-2, keepdims=right.rank > 2), "int32")
    zero = cast(b, along(b, left_zero, left.rank - 2, left), "int32")
    return binary(b, "subtract", total, binary(b, "multiply", zero, sums))


@operator("qnn.conv2d", _LAYER, weights=(1, 2, 3, 4, 5), common=conv_attrs(2))
def _conv2d(b: Builder, a: Attrs, data: Tensor, weight: Tensor, *params: Tensor) -> Tensor:
    plain = b.plain(data, a.text("data_layout"))
    kernel = plain_kernel(b, a, weight, 2, plain.shape[1], a.integer("groups"))
    inner = a.but(data_layout="NCHW", kernel_layout="OIHW")
    total = convolve_integers(b, inner, plain, kernel, zero_points(params))
    return b.seen_as(cast(b, total, a.text("out_dtype") or "int32"), out_layout(a))


@operator("qnn.conv2d_transpose", _LAYER, weights=(1, 2, 3, 4, 5), common=conv_attrs(2, transposed=True))
def _conv2d_transpose(b: Builder, a: Attrs, data: Tensor, weight: Tensor, *params: Tensor) -> Tensor:
    data_zero, weight_zero = zero_points(params)
    plain = b.plain(data, a.text("data_layout"))
    kernel = shifted_weight(b, transposed_kernel(b, a, weight, plain.shape[1]), weight_zero, 1)
    if not is_zero(data_zero):
        plain = binary(b, "subtract", cast(b, plain, "int32"), cast(b, data_zero, "int32"))
    if plain.dtype != kernel.dtype:
        plain, kernel = cast(b, plain, "int32"), cast(b, kernel, "int32")
    inner = a.but(data_layout="NCHW", kernel_layout="IOHW", out_dtype="int32", channels=None)
    total = convolve_transposed(b, inner, plain, kernel, 2)
    return b.seen_as(cast(b, total, a.text("out_dtype") or "int32"), out_layout(a))


@operator("qnn.dense", _LAYER, weights=(1, 2, 3, 4, 5), units=None, out_dtype="int32")
def _dense(b: Builder, a: Attrs, data: Tensor, weight: Tensor, *params: Tensor) -> Tensor:
    check_units(a, weight.shape[0])
    data_zero, weight_zero = zero_points(params)
    rows = shifted_weight(b, weight, weight_zero, 0)
    if rows.array is None and not is_zero(data_zero):
        shifted = binary(b, "subtract", cast(b, data, "int32"), cast(b, data_zero, "int32"))
        return product(b, shifted, cast(b, rows, "int32"), "int32", flip=(False, True))
    total = product(b, data, rows, "int32", flip=(False, True))
    if not is_zero(data_zero):
        sums = known(rows, "weight").astype(np.int64).sum(1)
        correction = known(data_zero, "input_zero_point").astype(np.int64) * sums
        total = binary(b, "subtract", total, b.const(correction, "int32"))
    return cast(b, total, a.text("out_dtype") or "int32")


# Texts older than the attribute mean a transposed y, newer ones print it.
@operator("qnn.batch_matmul", "x y x_zero_point y_zero_point x_scale y_scale", weights=(2, 3, 4, 5), out_dtype="int32",
          transpose_a=False, transpose_b=True)  # fmt: skip
def _batch_matmul(b: Builder, a: Attrs, x: Tensor, y: Tensor, *params: Tensor) -> Tensor:
    operands = []
    for tensor, zero_point in zip((x, y), zero_points(params), strict=True):
        operands.append(shifted_weight(b, tensor, zero_point, -1))
    flip = a.flag("transpose_a"), a.flag("transpose_b")
    return product(b, operands[0], operands[1], a.text("out_dtype") or "int32", flip=flip)


@operator("qnn.avg_pool2d", "data input_scale input_zero_point output_scale output_zero_point", weights=(1, 2, 3, 4),
          pool_size=REQUIRED, count_include_pad=False, common=pool_attrs(2))  # fmt: skip
def _avg_pool2d(b: Builder, a: Attrs, data: Tensor, *params: Tensor) -> Tensor:
    wide = requantize_or_widen(b, data, (params[0], params[2]), (params[1], params[3]))
    return saturate(b, pool(b, a, wide, 2, average=True), data.dtype)


@operator("qnn.softmax", "data scale zero_point output_scale output_zero_point", weights=(1, 2, 3, 4), axis=-1)
def _softmax(b: Builder, a: Attrs, data: Tensor, *params: Tensor) -> Tensor:
    """Integers only: I-ViT, ICCV 2023, algorithm 1, with 2**x by shifts of 8 bits and a quotient of 30."""
    axis = data.axis(a.integer("axis"))
    wide = binary(b, "subtract", cast(b, data, "int32"), cast(b, params[1], "int32"))
    one = cast(b, clip(b, round_away(b, binary(b, "divide", scalar(b, 1, params[0]), params[0])), -(2**31), 2**31 - 1),
               "int32")  # fmt: skip

    def number(value: int) -> Tensor:
        return b.const(np.array(value), "int32")

    def over(make: object, tensor: Tensor) -> Tensor:
        assert callable(make)
        return b.along_axes(tensor, lambda expr, stored: make(expr, [stored[axis]], True))

    x = binary(b, "subtract", wide, over(relax.op.max, wide))
    halved, small = (binary(b, "right_shift", x, number(bits)) for bits in (1, 4))
    powers = binary(b, "subtract", binary(b, "add", x, halved), small)
    minus_one = unary(b, "negative", one)
    quotient = binary(b, "divide", powers, minus_one)
    rest = binary(b, "subtract", powers, binary(b, "multiply", quotient, minus_one))
    base = binary(b, "add", binary(b, "right_shift", rest, number(1)), one)
    # Relay shifts left by 8 - quotient, which means nothing where that is negative: such a term shifts right here.
    bits = binary(b, "subtract", number(8), quotient)
    exps = binary(b, "left_shift", base, clip(b, bits, 0, 31))
    exps = binary(b, "right_shift", exps, clip(b, unary(b, "negative", bits), 0, 31))
    share = binary(b, "multiply", binary(b, "divide", number(1 << 30), over(relax.op.sum, exps)), exps)
    found = binary(b, "right_shift", share, number(30 - 7))
    scale = b.const(np.array(1 / 128), "float32")
    return requantize(b, found, (scale, params[2]), (number(0), params[3]), "int8")
