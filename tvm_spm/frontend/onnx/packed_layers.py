"""How layers with weights of few bits are computed: nodes that ``packed`` wrote, as Relax calls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, te, tirx

from tvm_spm.frontend.onnx.packed import PackedWeight
from tvm_spm.frontend.onnx.windows import windows_of
from tvm_spm.frontend.relay.operators.convolution import conv_attrs
from tvm_spm.frontend.relay.operators.elementwise import binary, cast
from tvm_spm.frontend.relay.operators.quantised_layers import minus_zero_point, sums_inside
from tvm_spm.frontend.relay.operators.registry import Attrs
from tvm_spm.frontend.relay.tensors import Builder, Tensor
from tvm_spm.frontend.tir import packed as bits_of

_Attributes = Mapping[str, Any]
_Inputs = list["Tensor | None"]


def packed_matmul(b: Builder, inputs: _Inputs, attributes: _Attributes) -> Tensor:
    """Inputs: data, packed weights, scales, zero points.

    The sums of all blocks, then their sum by the scales: where several rows make the sums of blocks larger than the
    weights, these become floats at once.
    """
    data, packed, scale = _given(inputs, 3)
    zero = inputs[3] if len(inputs) > 3 else None
    assert packed.array is not None
    assert scale.array is not None
    columns, num_blocks, _ = packed.shape
    numbers = _numbers(packed, attributes)
    bits = int(attributes["bits"])
    if num_blocks > 1 and not _is_less(data, numbers.shape[-1], bits):
        taken_off = None if zero is None else zero.array
        weight = PackedWeight(numbers=numbers, scale=scale.array, zero=taken_off).floats()  # type: ignore[arg-type]
        return b.emit(relax.op.matmul(b.expr(data), b.expr(b.const(weight, data.dtype))))
    total = _sums(b, data, packed, attributes, "float32")
    if num_blocks == 1:
        total = binary(b, "multiply", total, b.const(scale.array.reshape(columns)))
    else:
        total = _weighed(b, total, scale)
    if zero is not None and zero.array is not None:
        of_blocks = np.multiply(zero.array.astype(np.float32), scale.array.astype(np.float32)).T
        total = binary(b, "subtract", total, _of_zeros(b, data, num_blocks, of_blocks))
    return cast(b, total, data.dtype)


def packed_matmul_integer(b: Builder, inputs: _Inputs, attributes: _Attributes) -> Tensor:
    """Inputs: data, packed weights, zero point of the data."""
    data, packed = _given(inputs, 2)
    zero = inputs[2] if len(inputs) > 2 else None
    total = _sums(b, data, packed, attributes, "int32")
    if zero is None:
        return total
    of_columns = b.const(_numbers(packed, attributes).astype(np.int64).sum((1, 2)), "int32")
    return binary(b, "subtract", total, binary(b, "multiply", cast(b, b.reshape(zero, ()), "int32"), of_columns))


def packed_conv(b: Builder, inputs: _Inputs, attributes: _Attributes) -> Tensor:
    """Inputs: data, packed filters, scales."""
    data, packed, scale = _given(inputs, 3)
    assert scale.array is not None
    total = _convolved(b, data, packed, attributes, "float32")
    spread = scale.array.reshape(-1, *[1] * (data.rank - 2))
    return cast(b, binary(b, "multiply", total, b.const(spread)), data.dtype)


def packed_conv_integer(b: Builder, inputs: _Inputs, attributes: _Attributes) -> Tensor:
    """Inputs: data, packed filters, zero point of the data."""
    data, packed = _given(inputs, 2)
    zero = inputs[2] if len(inputs) > 2 else None
    total = _convolved(b, data, packed, attributes, "int32")
    if zero is None:
        return total
    kernel = _numbers(packed, attributes).transpose(np.argsort(attributes["order"]))
    windows = windows_of(data.shape[2:], kernel.shape[2:], attributes)
    attrs = Attrs(conv_attrs(data.rank - 2)).but(
        strides=windows.strides, dilation=windows.dilation, padding=windows.padding, groups=windows.groups
    )
    sums = sums_inside(kernel, data.shape[2:], total.shape[2:], attrs)
    return minus_zero_point(b, total, b.reshape(zero, ()), sums)


def _given(inputs: _Inputs, number: int) -> list[Tensor]:
    found = [each for each in inputs[:number] if each is not None]
    assert len(found) == number
    return found


def _numbers(packed: Tensor, attributes: _Attributes) -> NDArray[np.integer[Any]]:
    assert packed.array is not None
    bits = int(attributes["bits"])
    if bits == bits_of.BYTE:
        return packed.array  # type: ignore[return-value]
    return bits_of.unpack(packed.array.astype(np.uint8), bits, is_signed=bool(attributes["signed"]))


def _taken_out(weight: te.Tensor, attributes: _Attributes) -> te.Tensor:
    """Numbers, a byte each."""
    bits = int(attributes["bits"])
    if bits == bits_of.BYTE:
        return weight
    return bits_of.unpacked(weight, "int8" if attributes["signed"] else "uint8", bits)


def _is_less(data: Tensor, depth: int, bits: int) -> bool:
    """Whether DRAM moves less than with floats, for one block of one column.

    The sums of a block leave and come back as float32, once for each row of the data.
    """
    rows = math.prod(data.shape[:-1])
    width = np.dtype(data.dtype).itemsize
    return depth * bits // bits_of.BYTE + 4 + 2 * 4 * rows < depth * width


def _sums(b: Builder, data: Tensor, packed: Tensor, attributes: _Attributes, dtype: str) -> Tensor:
    """Of one block (..., columns), of several (blocks, ..., columns)."""
    columns, num_blocks, _ = packed.shape
    multiply, name = (bits_of.product, "packed_matmul") if num_blocks == 1 else (bits_of.sums, "packed_matmul_blocks")
    weight = b.reshape(packed, (columns, packed.shape[2])) if num_blocks == 1 else packed

    def made(x: te.Tensor, w: te.Tensor) -> te.Tensor:
        return multiply(x, _taken_out(w, attributes), dtype)

    rows = data if num_blocks == 1 else _in_blocks(b, data, num_blocks)
    return b.emit(b.relax.call_te(made, b.expr(rows), b.expr(weight), primfunc_name_hint=name))


def _convolved(b: Builder, data: Tensor, packed: Tensor, attributes: _Attributes, dtype: str) -> Tensor:
    order = [int(axis) for axis in attributes["order"]]
    extents = list(packed.shape)
    extents[-1] *= bits_of.per_byte(int(attributes["bits"]))
    taps = [extents[order.index(axis)] for axis in range(2, len(order))]
    windows = windows_of(data.shape[2:], taps, attributes)

    def made(x: te.Tensor, w: te.Tensor) -> te.Tensor:
        return bits_of.convolution(x, _taken_out(w, attributes), order, windows, dtype)

    return b.emit(b.relax.call_te(made, b.expr(data), b.expr(packed), primfunc_name_hint="packed_conv"))


def _in_blocks(b: Builder, data: Tensor, num_blocks: int) -> Tensor:
    return b.reshape(data, (*data.shape[:-1], num_blocks, data.shape[-1] // num_blocks))


def _weighed(b: Builder, total: Tensor, scale: Tensor) -> Tensor:
    """Sums of blocks by the scales of the blocks."""

    def weighed(sums: te.Tensor, scales: te.Tensor) -> te.Tensor:
        block = te.reduce_axis((0, sums.shape[0]), name="block")

        def element(*at: tirx.Var) -> tirx.PrimExpr:
            return te.sum(sums(block, *at) * scales[at[-1], block], axis=block)

        return te.compute(sums.shape[1:], element, name="weighed")

    return b.emit(b.relax.call_te(weighed, b.expr(total), b.expr(scale), primfunc_name_hint="weighed_blocks"))


def _of_zeros(b: Builder, data: Tensor, num_blocks: int, zeros: NDArray[np.generic]) -> Tensor:
    """What zero points take off: the sums of the data by (blocks, columns) zero points times scales."""
    blocks = _in_blocks(b, cast(b, data, "float32"), num_blocks)
    return b.emit(relax.op.matmul(b.expr(b.emit(relax.op.sum(b.expr(blocks), axis=-1))), b.expr(b.const(zeros))))
