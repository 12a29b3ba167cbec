"""Quantised layers of an ONNX graph as sums of integers, and what is left of the scales around them.

``QLinear`` operators multiply 8-bit numbers: they become ``ConvInteger`` or ``MatMulInteger``, whose int32 sums are
scaled once. Those that only add, pool or look up are defined by the float operator between two scales.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tvm_spm.errors import ModelError
from tvm_spm.frontend.onnx.in_place import Floats, NodeInPlace, Rewrite, integer_sums, rewritten
from tvm_spm.frontend.onnx.packed import SmallConstant
from tvm_spm.frontend.onnx.writer import Array

_MICROSOFT = "com.microsoft"


def expand_quantised(model: onnx.ModelProto, origin: str, packed: dict[str, SmallConstant]) -> onnx.ModelProto:
    """Write operators on quantised tensors as sums of integers with a scale, or as float ones between two scales.

    Args:
        model: What is written again.
        origin: What errors call it.
        packed: By name, constants of the result of few bits an element; grows.

    Raises:
        ModelError: A scale or zero point depends on the data, or the model is too old.
    """
    return rewritten(model, origin, _rewrite_of, packed)


def _rewrite_of(node: onnx.NodeProto) -> Rewrite | None:
    table = MICROSOFT_OPERATORS if node.domain == _MICROSOFT else _OPERATORS if not node.domain else {}
    return table.get(node.op_type)


def _scaled(each: NodeInPlace, sums: str, scale: Floats, *, axis: int, rank: int) -> str:
    """int32 sums as float32, times one scale or one per index of ``axis``."""
    if scale.size > 1:
        scale = scale.reshape([-1 if position == axis else 1 for position in range(rank)])
    else:
        scale = scale.reshape(())
    floats = each.writer.emit("Cast", sums, to=onnx.TensorProto.FLOAT)
    return each.writer.emit("Mul", floats, each.writer.constant(scale))


def _requantised(each: NodeInPlace, floats: str, zero_point: str, *, out: str) -> None:
    """The nearest whole number plus the zero point, halves to even, as 8 bits."""
    one = each.writer.constant(np.ones((), np.float32))
    each.writer.emit("QuantizeLinear", floats, one, zero_point, out=out)


def _qlinear_conv(each: NodeInPlace) -> None:
    """Inputs: x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias."""
    weights = each.array(3, "weight")
    data, is_last, rank = each.input(0), bool(each.integer("channels_last")), weights.ndim
    if is_last:
        data = each.writer.emit("Transpose", data, perm=[0, rank - 1, *range(1, rank - 1)])
    sums = integer_sums(each, "ConvInteger", (data, each.input(3), each.input(2), each.input(5)))
    if each.input(8):
        bias = each.array(8, "bias").reshape([-1] + [1] * (weights.ndim - 2))
        sums = each.writer.emit("Add", sums, each.writer.constant(bias[None]))
    scale = each.scale(1) * each.scale(4) / each.scale(6)
    floats = _scaled(each, sums, scale, axis=1, rank=rank)
    if is_last:
        floats = each.writer.emit("Transpose", floats, perm=[0, *range(2, rank), 1])
    _requantised(each, floats, each.input(7), out=each.out)


def _qlinear_matmul(each: NodeInPlace) -> None:
    """Inputs: a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero."""
    sums = integer_sums(each, "MatMulInteger", (each.input(0), each.input(3), each.input(2), each.input(5)))
    scale = each.scale(1) * each.scale(4) / each.scale(6)
    floats = each.writer.emit("Cast", sums, to=onnx.TensorProto.FLOAT)
    _requantised(each, each.writer.emit("Mul", floats, each.writer.constant(scale)), each.input(7), out=each.out)


def _qgemm(each: NodeInPlace) -> None:
    """Inputs: a, a_scale, a_zero, b, b_scale, b_zero, c, y_scale, y_zero; without the last two the result is float."""
    left, right = each.input(0), each.input(3)
    if each.integer("transA"):
        left = each.writer.transposed(left)
    if each.integer("transB"):
        right = each.writer.transposed(right)
    sums = integer_sums(each, "MatMulInteger", (left, right, each.input(2), each.input(5)))
    if each.input(6):
        sums = each.writer.emit("Add", sums, each.input(6))
    scale = np.float32(each.attribute("alpha", 1.0)) * each.scale(1) * each.scale(4)
    if not each.input(7):
        each.writer.emit("Identity", _scaled(each, sums, scale, axis=1, rank=2), out=each.out)
    else:
        _requantised(each, _scaled(each, sums, scale / each.scale(7), axis=1, rank=2), each.input(8), out=each.out)


def _floats(each: NodeInPlace, first: int) -> str:
    """A quantised input (tensor, scale, zero point) as float32."""
    inputs = [name for name in (each.input(first), each.input(first + 1), each.input(first + 2)) if name]
    return each.writer.emit("DequantizeLinear", *inputs)


def _quantised(each: NodeInPlace, floats: str, first: int) -> None:
    """The output, from the scale and the zero point that come as inputs."""
    inputs = [name for name in (each.input(first), each.input(first + 1)) if name]
    each.writer.emit("QuantizeLinear", floats, *inputs, out=each.out)


def _by_float(operator: str, num_operands: int, *attributes: str) -> Rewrite:
    """The float operator between scales; that is how these are defined."""

    def rewrite(each: NodeInPlace) -> None:
        operands = [_floats(each, 3 * number) for number in range(num_operands)]
        found = each.writer.emit(operator, *operands, **each.kept(*attributes))
        _quantised(each, found, 3 * num_operands)

    return rewrite


def _pooled(operator: str, *attributes: str) -> Rewrite:
    def rewrite(each: NodeInPlace) -> None:
        data = _floats(each, 0)
        kept = each.kept(*attributes)
        if not each.integer("channels_last"):
            return _quantised(each, each.writer.emit(operator, data, **kept), 3)
        data = each.writer.emit("Transpose", data, perm=[0, 3, 1, 2])
        found = each.writer.emit(operator, data, **kept)
        return _quantised(each, each.writer.emit("Transpose", found, perm=[0, 2, 3, 1]), 3)

    return rewrite


def _qlinear_concat(each: NodeInPlace) -> None:
    """Inputs: y_scale, y_zero, then three for each part."""
    parts = [_floats(each, first) for first in range(2, len(each.node.input), 3)]
    _quantised(each, each.writer.concat(parts, each.integer("axis")), 0)


def _qlinear_reduce_mean(each: NodeInPlace) -> None:
    """Inputs: x, x_scale, x_zero, y_scale, y_zero."""
    kept, data = each.kept("axes", "keepdims"), _floats(each, 0)
    if each.writer.opset < 18 or "axes" not in kept:
        found = each.writer.emit("ReduceMean", data, **kept)
    else:
        axes = each.writer.integers(*kept.pop("axes"))
        found = each.writer.emit("ReduceMean", data, axes, **kept)
    _quantised(each, found, 3)


def _qlinear_where(each: NodeInPlace) -> None:
    """Inputs: condition, then three for each choice."""
    found = each.writer.emit("Where", each.input(0), _floats(each, 1), _floats(each, 4))
    _quantised(each, found, 7)


def _matmul_integer_to_float(each: NodeInPlace) -> None:
    """Inputs: a, b, a_scale, b_scale, a_zero, b_zero, bias."""
    sums = integer_sums(each, "MatMulInteger", (each.input(0), each.input(1), each.input(4), each.input(5)))
    floats = each.writer.emit("Cast", sums, to=onnx.TensorProto.FLOAT)
    if each.input(2) in each.writer.known and each.input(3) in each.writer.known:
        scale = each.writer.constant(each.scale(2) * each.scale(3))
    else:
        scale = each.writer.emit("Mul", each.input(2), each.input(3))
    found = each.writer.emit("Mul", floats, scale)
    each.writer.emit(*(("Add", found, each.input(6)) if each.input(6) else ("Identity", found)), out=each.out)


def _dynamic_quantize_matmul(each: NodeInPlace) -> None:
    """Inputs: a (float), b, b_scale, b_zero, bias."""
    names = [f"{each.writer.prefix}__{what}" for what in ("a", "scale", "zero")]
    each.writer.nodes.append(helper.make_node("DynamicQuantizeLinear", [each.input(0)], names))
    sums = integer_sums(each, "MatMulInteger", (names[0], each.input(1), names[2], each.input(3)))
    floats = each.writer.emit("Cast", sums, to=onnx.TensorProto.FLOAT)
    found = each.writer.emit("Mul", floats, each.writer.emit("Mul", names[1], each.input(2)))
    each.writer.emit(*(("Add", found, each.input(4)) if each.input(4) else ("Identity", found)), out=each.out)


def _matmul_bits(each: NodeInPlace) -> None:
    """Weights of 2, 4 or 8 bits in blocks along the rows, packed low bits first.

    Inputs: a, b of (N, blocks, bytes a block), scales, zero points (packed, or as many floats as scales), group index,
    bias.
    """
    bits, block = each.integer("bits", 4), each.integer("block_size")
    depth, columns = each.integer("K"), each.integer("N")
    num_blocks = -(-depth // max(block, 1))
    if bits not in (2, 4, 8) or block < 16 or each.input(4):
        raise ModelError(
            f"{each.origin}: cannot import: node {each.node.name or each.out!r} (operator MatMulNBits): bits = {bits}, "
            f"block_size = {block}{', with a group index' if each.input(4) else ''}: must be 2, 4 or 8 bits in blocks "
            "of at least 16 without a group index"
        )
    numbers = _unpacked(each.array(1, "weight"), bits).reshape(columns, num_blocks, block)
    scale = each.scale(2).reshape(columns, num_blocks, 1)
    zero: Floats = np.full((columns, num_blocks), 1 << (bits - 1), np.float32)
    if each.input(3):
        given = each.array(3, "zero point")
        if given.dtype == np.uint8:
            given = _unpacked(given.reshape(columns, -1), bits)[:, :num_blocks]
        zero = given.reshape(columns, num_blocks).astype(np.float32)
    dtype = each.array(2, "scale").dtype
    floats = ((numbers.astype(np.float32) - zero[..., None]) * scale).astype(np.float32)
    constant = each.writer.constant(np.ascontiguousarray(floats.reshape(columns, -1).T[:depth].astype(dtype)))
    if num_blocks * block == depth:
        each.writer.packed[constant] = SmallConstant(
            numbers=numbers.reshape(columns, depth).T, bits=bits, scale=scale[..., 0].T, zero=zero.T, block=block
        )
    found = each.writer.emit("MatMul", each.input(0), constant)
    each.writer.emit(*(("Add", found, each.input(5)) if each.input(5) else ("Identity", found)), out=each.out)


def _unpacked(packed: Array, bits: int) -> NDArray[np.uint8]:
    """Numbers of ``bits`` each from bytes, low bits first; the last axis grows."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    found = (packed.astype(np.uint8)[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return found.reshape(*packed.shape[:-1], -1).astype(np.uint8)


_OPERATORS: dict[str, Rewrite] = {"QLinearConv": _qlinear_conv, "QLinearMatMul": _qlinear_matmul}

_POOL = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
MICROSOFT_OPERATORS: dict[str, Rewrite] = {
    "DynamicQuantizeMatMul": _dynamic_quantize_matmul,
    "MatMulIntegerToFloat": _matmul_integer_to_float,
    "MatMulNBits": _matmul_bits,
    "QGemm": _qgemm,
    "QLinearAdd": _by_float("Add", 2),
    "QLinearAveragePool": _pooled("AveragePool", *_POOL),
    "QLinearConcat": _qlinear_concat,
    "QLinearConv": _qlinear_conv,
    "QLinearGlobalAveragePool": _pooled("GlobalAveragePool"),
    "QLinearLeakyRelu": _by_float("LeakyRelu", 1, "alpha"),
    "QLinearReduceMean": _qlinear_reduce_mean,
    "QLinearWhere": _qlinear_where,
    "QLinearMul": _by_float("Mul", 2),
    "QLinearSigmoid": _by_float("Sigmoid", 1),
    "QLinearSoftmax": _by_float("Softmax", 1, "axis"),
}
"""By name, in onnxruntime's domain."""
