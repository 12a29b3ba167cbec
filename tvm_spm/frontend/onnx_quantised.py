"""Quantised layers of an ONNX graph as sums of integers, and what is left of the scales around them.

A layer between ``DequantizeLinear`` and ``QuantizeLinear``, and every ``QLinear`` operator, multiplies 8-bit numbers:
it becomes ``ConvInteger`` or ``MatMulInteger``, whose int32 sums are scaled once. Constants are dequantised here, not
in each inference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tvm_spm.errors import ModelError
from tvm_spm.frontend.onnx_writer import Array, Writer, known_arrays, require_opset, with_nodes

_MICROSOFT = "com.microsoft"

_BYTES = (np.dtype(np.int8), np.dtype(np.uint8))
_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")

_Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    """One node with the writer of what replaces it."""

    node: onnx.NodeProto
    writer: Writer
    origin: str

    def input(self, index: int) -> str:
        """The name of an input, or nothing if it is left out."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def attribute(self, name: str, default: float = 0) -> float:
        """The value of an attribute that is a number."""
        found = next((attr for attr in self.node.attribute if attr.name == name), None)
        return default if found is None else float(helper.get_attribute_value(found))

    def integer(self, name: str, default: int = 0) -> int:
        """The value of an attribute that is a whole number."""
        return int(self.attribute(name, default))

    def kept(self, *names: str) -> dict[str, Any]:
        """Attributes of these names, as far as they are given."""
        return {attr.name: helper.get_attribute_value(attr) for attr in self.node.attribute if attr.name in names}

    def array(self, index: int, what: str) -> Array:
        """A constant input.

        Raises:
            ModelError: It depends on the inputs of the model.
        """
        name = self.input(index)
        if name not in self.writer.known:
            raise ModelError(
                f"{self.origin}: cannot import: node {self.node.name or self.node.output[0]!r} "
                f"(operator {self.node.op_type}): its {what} {name!r} depends on the inputs; only a constant can be "
                "imported"
            )
        return self.writer.known[name]

    def scale(self, index: int) -> _Floats:
        """A constant scale as float32."""
        return self.array(index, "scale").astype(np.float32)

    @property
    def out(self) -> str:
        """The name of the first output."""
        return str(self.node.output[0])


_Rewrite = Callable[[_Node], None]


def expand_quantised(model: onnx.ModelProto, origin: str) -> onnx.ModelProto:
    """Write operators on quantised tensors as sums of integers with a scale, or as float ones between two scales.

    Raises:
        ModelError: A scale or zero point depends on the data, or the model is too old.
    """
    return _rewritten(model, origin, _rewrite_of)


def _rewrite_of(node: onnx.NodeProto) -> _Rewrite | None:
    table = _MICROSOFT_OPERATORS if node.domain == _MICROSOFT else _OPERATORS if not node.domain else {}
    return table.get(node.op_type)


def _rewritten(
    model: onnx.ModelProto, origin: str, rewrite_of: Callable[[onnx.NodeProto], _Rewrite | None]
) -> onnx.ModelProto:
    if not any(rewrite_of(node) for node in model.graph.node):
        return model
    opset = require_opset(model, "quantised operators", origin)
    known = known_arrays(model)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Array] = {}
    for position, node in enumerate(model.graph.node):
        rewrite = rewrite_of(node)
        if rewrite is None:
            nodes.append(node)
            continue
        writer = Writer(prefix=f"{node.op_type.lower()}{position}", opset=opset, known=known)
        rewrite(_Node(node=node, writer=writer, origin=origin))
        nodes += writer.nodes
        constants |= writer.constants
    return with_nodes(model, nodes, constants)


def _scaled(each: _Node, sums: str, scale: _Floats, *, axis: int, rank: int) -> str:
    """int32 sums as float32, times one scale or one per index of ``axis``."""
    if scale.size > 1:
        scale = scale.reshape([-1 if position == axis else 1 for position in range(rank)])
    else:
        scale = scale.reshape(())
    floats = each.writer.emit("Cast", sums, to=onnx.TensorProto.FLOAT)
    return each.writer.emit("Mul", floats, each.writer.constant(scale))


def _requantised(each: _Node, floats: str, zero_point: str, *, out: str) -> None:
    """The nearest whole number plus the zero point, halves to even, as 8 bits."""
    one = each.writer.constant(np.ones((), np.float32))
    each.writer.emit("QuantizeLinear", floats, one, zero_point, out=out)


def _sums(each: _Node, operator: str, operands: tuple[str, str, str, str]) -> str:
    """ConvInteger or MatMulInteger of (data, weights, zero point of data, of weights)."""
    data, weights, data_zero, weight_zero = operands
    attributes = each.kept(*_CONV) if operator == "ConvInteger" else {}
    inputs = [data, weights, data_zero, weight_zero]
    while not inputs[-1]:
        inputs.pop()
    return each.writer.emit(operator, *inputs, **attributes)


def _qlinear_conv(each: _Node) -> None:
    """Inputs: x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias."""
    weights = each.array(3, "weight")
    sums = _sums(each, "ConvInteger", (each.input(0), each.input(3), each.input(2), each.input(5)))
    if each.input(8):
        bias = each.array(8, "bias").reshape([-1] + [1] * (weights.ndim - 2))
        sums = each.writer.emit("Add", sums, each.writer.constant(bias[None]))
    scale = each.scale(1) * each.scale(4) / each.scale(6)
    _requantised(each, _scaled(each, sums, scale, axis=1, rank=weights.ndim), each.input(7), out=each.out)


def _qlinear_matmul(each: _Node) -> None:
    """Inputs: a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero."""
    sums = _sums(each, "MatMulInteger", (each.input(0), each.input(3), each.input(2), each.input(5)))
    scale = each.scale(1) * each.scale(4) / each.scale(6)
    floats = each.writer.emit("Cast", sums, to=onnx.TensorProto.FLOAT)
    _requantised(each, each.writer.emit("Mul", floats, each.writer.constant(scale)), each.input(7), out=each.out)


def _qgemm(each: _Node) -> None:
    """Inputs: a, a_scale, a_zero, b, b_scale, b_zero, c, y_scale, y_zero; without the last two the result is float."""
    left, right = each.input(0), each.input(3)
    if each.integer("transA"):
        left = each.writer.transposed(left)
    if each.integer("transB"):
        right = each.writer.transposed(right)
    sums = _sums(each, "MatMulInteger", (left, right, each.input(2), each.input(5)))
    if each.input(6):
        sums = each.writer.emit("Add", sums, each.input(6))
    scale = np.float32(each.attribute("alpha", 1.0)) * each.scale(1) * each.scale(4)
    if not each.input(7):
        each.writer.emit("Identity", _scaled(each, sums, scale, axis=1, rank=2), out=each.out)
    else:
        _requantised(each, _scaled(each, sums, scale / each.scale(7), axis=1, rank=2), each.input(8), out=each.out)


def _floats(each: _Node, first: int) -> str:
    """A quantised input (tensor, scale, zero point) as float32."""
    inputs = [name for name in (each.input(first), each.input(first + 1), each.input(first + 2)) if name]
    return each.writer.emit("DequantizeLinear", *inputs)


def _quantised(each: _Node, floats: str, first: int) -> None:
    """The output, from the scale and the zero point that come as inputs."""
    inputs = [name for name in (each.input(first), each.input(first + 1)) if name]
    each.writer.emit("QuantizeLinear", floats, *inputs, out=each.out)


def _by_float(operator: str, num_operands: int, *attributes: str) -> _Rewrite:
    """The float operator between scales; that is how these are defined."""

    def rewrite(each: _Node) -> None:
        operands = [_floats(each, 3 * number) for number in range(num_operands)]
        found = each.writer.emit(operator, *operands, **each.kept(*attributes))
        _quantised(each, found, 3 * num_operands)

    return rewrite


def _pooled(operator: str, *attributes: str) -> _Rewrite:
    def rewrite(each: _Node) -> None:
        data = _floats(each, 0)
        kept = each.kept(*attributes)
        if not each.integer("channels_last"):
            return _quantised(each, each.writer.emit(operator, data, **kept), 3)
        data = each.writer.emit("Transpose", data, perm=[0, 3, 1, 2])
        found = each.writer.emit(operator, data, **kept)
        return _quantised(each, each.writer.emit("Transpose", found, perm=[0, 2, 3, 1]), 3)

    return rewrite


def _qlinear_concat(each: _Node) -> None:
    """Inputs: y_scale, y_zero, then three for each part."""
    parts = [_floats(each, first) for first in range(2, len(each.node.input), 3)]
    _quantised(each, each.writer.concat(parts, each.integer("axis")), 0)


def _matmul_integer_to_float(each: _Node) -> None:
    """Inputs: a, b, a_scale, b_scale, a_zero, b_zero, bias."""
    sums = _sums(each, "MatMulInteger", (each.input(0), each.input(1), each.input(4), each.input(5)))
    floats = each.writer.emit("Cast", sums, to=onnx.TensorProto.FLOAT)
    if each.input(2) in each.writer.known and each.input(3) in each.writer.known:
        scale = each.writer.constant(each.scale(2) * each.scale(3))
    else:
        scale = each.writer.emit("Mul", each.input(2), each.input(3))
    found = each.writer.emit("Mul", floats, scale)
    each.writer.emit(*(("Add", found, each.input(6)) if each.input(6) else ("Identity", found)), out=each.out)


def _dynamic_quantize_matmul(each: _Node) -> None:
    """Inputs: a (float), b, b_scale, b_zero, bias."""
    names = [f"{each.writer.prefix}__{what}" for what in ("a", "scale", "zero")]
    each.writer.nodes.append(helper.make_node("DynamicQuantizeLinear", [each.input(0)], names))
    sums = _sums(each, "MatMulInteger", (names[0], each.input(1), names[2], each.input(3)))
    floats = each.writer.emit("Cast", sums, to=onnx.TensorProto.FLOAT)
    found = each.writer.emit("Mul", floats, each.writer.emit("Mul", names[1], each.input(2)))
    each.writer.emit(*(("Add", found, each.input(4)) if each.input(4) else ("Identity", found)), out=each.out)


def _matmul_bits(each: _Node) -> None:
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
    weights = _unpacked(each.array(1, "weight"), bits).reshape(columns, num_blocks, block).astype(np.float32)
    scale = each.scale(2).reshape(columns, num_blocks, 1)
    zero: Array = np.full((columns, num_blocks), 1 << (bits - 1), np.float32)
    if each.input(3):
        given = each.array(3, "zero point")
        if given.dtype == np.uint8:
            given = _unpacked(given.reshape(columns, -1), bits)[:, :num_blocks]
        zero = given.reshape(columns, num_blocks).astype(np.float32)
    dtype = each.array(2, "scale").dtype
    matrix = ((weights - zero[..., None].astype(np.float32)) * scale).reshape(columns, -1)[:, :depth].T
    found = each.writer.emit("MatMul", each.input(0), each.writer.constant(np.ascontiguousarray(matrix.astype(dtype))))
    each.writer.emit(*(("Add", found, each.input(5)) if each.input(5) else ("Identity", found)), out=each.out)


def _unpacked(packed: Array, bits: int) -> NDArray[np.uint8]:
    """Numbers of ``bits`` each from bytes, low bits first; the last axis grows."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    found = (packed.astype(np.uint8)[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return found.reshape(*packed.shape[:-1], -1).astype(np.uint8)


_OPERATORS: dict[str, _Rewrite] = {"QLinearConv": _qlinear_conv, "QLinearMatMul": _qlinear_matmul}

_POOL = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
_MICROSOFT_OPERATORS: dict[str, _Rewrite] = {
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
    "QLinearMul": _by_float("Mul", 2),
    "QLinearSigmoid": _by_float("Sigmoid", 1),
    "QLinearSoftmax": _by_float("Softmax", 1, "axis"),
}


def take_integers(model: onnx.ModelProto, origin: str) -> onnx.ModelProto:
    """Layers between ``DequantizeLinear`` nodes as sums of integers; other constants are dequantised at once.

    Raises:
        ModelError: The model is too old.
    """
    makers = {name: node for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}

    def rewrite_of(node: onnx.NodeProto) -> _Rewrite | None:
        if node.domain in ("", "ai.onnx") and node.op_type in ("Conv", "MatMul", "Gemm"):
            if node.input[0] in makers and node.input[1] in makers:
                return lambda each: _layer(each, makers)
        if node.op_type == "DequantizeLinear":
            return _constant
        return None

    return _rewritten(model, origin, rewrite_of) if makers else model


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quantised:
    """A tensor before ``DequantizeLinear``."""

    name: str
    zero: str
    scale: _Floats
    axis: int
    bits: int


def _before(each: _Node, maker: onnx.NodeProto | None) -> _Quantised | None:
    """What a ``DequantizeLinear`` read, if its scale is known and it has no blocks."""
    if maker is None:
        return None
    inputs = _Node(node=maker, writer=each.writer, origin=each.origin)
    known = each.writer.known
    if inputs.input(1) not in known or (inputs.input(2) and inputs.input(2) not in known):
        return None
    if inputs.integer("block_size") or known[inputs.input(1)].dtype != np.float32:
        return None
    zero = inputs.input(2)
    if zero and not known[zero].any():
        zero = ""
    dtype = known[inputs.input(0)].dtype if inputs.input(0) in known else None
    bits = 8 if dtype is None else 8 * dtype.itemsize
    axis = inputs.integer("axis", 1)
    return _Quantised(name=inputs.input(0), zero=zero, scale=inputs.scale(1), axis=axis, bits=bits)


def _layer(each: _Node, makers: dict[str, onnx.NodeProto]) -> None:
    """A convolution or product of dequantised tensors, if its scales leave the sum over its terms."""
    known, node = each.writer.known, each.node
    data, weights = (_before(each, makers[node.input[index]]) for index in (0, 1))
    if data is None or weights is None or data.scale.size > 1 or weights.bits > 8 or data.bits > 8:
        each.writer.nodes.append(node)
        return
    is_product = node.op_type != "Conv"
    if node.op_type == "Gemm" and (each.integer("transA") or each.attribute("beta", 1.0) != 1.0):
        each.writer.nodes.append(node)
        return
    is_flipped = node.op_type == "Gemm" and each.integer("transB") != 0
    rank = known[weights.name].ndim if weights.name in known else 0
    filters = (0 if is_flipped or not is_product else rank - 1) if rank else None
    if weights.scale.size > 1 and (filters is None or weights.axis % max(rank, 1) != filters):
        each.writer.nodes.append(node)
        return
    if (not is_product and not rank) or (is_flipped and weights.name not in known):
        each.writer.nodes.append(node)
        return
    right = each.writer.transposed(weights.name) if is_flipped else weights.name
    operator = "MatMulInteger" if is_product else "ConvInteger"
    sums = _sums(each, operator, (data.name, right, data.zero, weights.zero))
    scale = data.scale.reshape(()) * weights.scale
    if node.op_type == "Gemm":
        scale = np.float32(each.attribute("alpha", 1.0)) * scale
    spread = [-1] + [1] * (0 if is_product else rank - 2)
    bias = each.input(2)
    whole = _before(each, makers.get(bias)) if bias else None
    if whole is not None and whole.name in known and not whole.zero and _is_alike(whole.scale, scale):
        sums = each.writer.emit("Add", sums, each.writer.constant(known[whole.name].reshape(spread)))
        bias = ""
    elif whole is not None and whole.name in known:
        bias = each.writer.constant((known[whole.name].astype(np.float32) * whole.scale).astype(np.float32))
    floats = each.writer.emit("Cast", sums, to=onnx.TensorProto.FLOAT)
    factor = scale.reshape(()) if scale.size == 1 else scale.reshape(spread)
    found = each.writer.emit("Mul", floats, each.writer.constant(factor), out=None if bias else each.out)
    if bias and bias in known:
        each.writer.emit("Add", found, each.writer.constant(known[bias].reshape(spread)), out=each.out)
    elif bias:
        shape = each.writer.integers(*spread)
        each.writer.emit("Add", found, bias if is_product else each.writer.emit("Reshape", bias, shape), out=each.out)


def _is_alike(bias_scale: _Floats, scale: _Floats) -> bool:
    """Whether a bias counts in the same unit as the sums; tools round the product of the scales."""
    return bool(np.allclose(np.broadcast_to(bias_scale.reshape(-1), scale.size), scale.reshape(-1), rtol=1e-6, atol=0))


def _constant(each: _Node) -> None:
    """A dequantised constant as the floats it stands for; others stay."""
    known, node = each.writer.known, each.node
    names = [name for name in node.input if name]
    if not all(name in known for name in names):
        each.writer.nodes.append(node)
        return
    data, scale = known[names[0]], known[names[1]]
    zero = known[names[2]] if len(names) > 2 else np.zeros((), data.dtype)
    axis, block = each.integer("axis", 1), each.integer("block_size")
    wide = data.astype(np.int64)
    if scale.ndim == 0 or scale.size == 1:
        scale, zero = scale.reshape(()), zero.reshape(-1)[0]
    elif block:
        scale, zero = (_repeated(each, array, block, axis, data.shape) for array in (scale, zero))
    else:
        spread = [-1 if position == axis % data.ndim else 1 for position in range(data.ndim)]
        scale, zero = scale.reshape(spread), zero.reshape(spread if zero.size > 1 else ())
    floats = (wide - zero.astype(np.int64)).astype(scale.dtype) * scale  # type: ignore[operator]
    each.writer.constants[each.out] = known[each.out] = np.asarray(floats)


def _repeated(each: _Node, array: Array, block: int, axis: int, shape: tuple[int, ...]) -> Array:
    """One number for each element, from one for each block along an axis."""
    if array.ndim == 0:
        return array
    grown = np.repeat(array, block, axis=axis)
    return np.take(grown, np.arange(shape[axis]), axis=axis)
