"""Layers between ``DequantizeLinear`` nodes as sums of integers, and dequantised constants as the floats they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from tvm_spm.frontend.onnx.in_place import Floats, NodeInPlace, Rewrite, integer_sums, rewritten
from tvm_spm.frontend.onnx.writer import Array


def take_integers(model: onnx.ModelProto, origin: str) -> onnx.ModelProto:
    """Layers between ``DequantizeLinear`` nodes as sums of integers; other constants are dequantised at once.

    Raises:
        ModelError: The model is too old.
    """
    makers = {name: node for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}

    def rewrite_of(node: onnx.NodeProto) -> Rewrite | None:
        if node.domain in ("", "ai.onnx") and node.op_type in ("Conv", "MatMul", "Gemm"):
            if node.input[0] in makers and node.input[1] in makers:
                return lambda each: _layer(each, makers)
        if node.op_type == "DequantizeLinear":
            return _constant
        return None

    return rewritten(model, origin, rewrite_of) if makers else model


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quantised:
    """A tensor before ``DequantizeLinear``."""

    name: str
    zero: str
    scale: Floats
    axis: int
    bits: int


def _before(each: NodeInPlace, maker: onnx.NodeProto | None) -> _Quantised | None:
    """What a ``DequantizeLinear`` read, if its scale is known and it has no blocks."""
    if maker is None:
        return None
    inputs = NodeInPlace(node=maker, writer=each.writer, origin=each.origin)
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


def _layer(each: NodeInPlace, makers: dict[str, onnx.NodeProto]) -> None:
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
    sums = integer_sums(each, operator, (data.name, right, data.zero, weights.zero))
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


def _is_alike(bias_scale: Floats, scale: Floats) -> bool:
    """Whether a bias counts in the same unit as the sums; tools round the product of the scales."""
    return bool(np.allclose(np.broadcast_to(bias_scale.reshape(-1), scale.size), scale.reshape(-1), rtol=1e-6, atol=0))


def _constant(each: NodeInPlace) -> None:
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


def _repeated(each: NodeInPlace, array: Array, block: int, axis: int, shape: tuple[int, ...]) -> Array:
    """One number for each element, from one for each block along an axis."""
    if array.ndim == 0:
        return array
    grown = np.repeat(array, block, axis=axis)
    return np.take(grown, np.arange(shape[axis]), axis=axis)
