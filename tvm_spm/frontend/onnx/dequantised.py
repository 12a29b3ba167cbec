"""Layers between ``DequantizeLinear`` nodes as sums of integers, and dequantised constants as the floats they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from tvm_spm.frontend.onnx.host import tensor_kinds, value_of
from tvm_spm.frontend.onnx.in_place import Floats, NodeInPlace, Rewrite, integer_sums, rewritten
from tvm_spm.frontend.onnx.packed import DOMAIN, PackedWeight, packed_weight, with_domain, write_product, write_sums
from tvm_spm.frontend.onnx.requantised import Requantisations, without_scale
from tvm_spm.frontend.onnx.writer import Array


def take_integers(model: onnx.ModelProto, origin: str, packed: dict[str, PackedWeight]) -> onnx.ModelProto:
    """Layers between ``DequantizeLinear`` nodes as sums of integers; other constants are dequantised at once.

    Products with matrices of four bits become nodes that only the importer reads.

    Args:
        model: What is written again.
        origin: What errors call it.
        packed: By name, constants that are matrices of four bits; grows.

    Raises:
        ModelError: The model is too old.
    """
    makers = {name: node for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    if not makers and not packed:
        return model
    halves = {init.name for init in model.graph.initializer if init.data_type in _HALF_BYTES}

    requantised = Requantisations(model)

    def is_half(name: str) -> bool:
        return name in packed or (name in makers and makers[name].input[0] in halves)

    def rewrite_of(node: onnx.NodeProto) -> Rewrite | None:
        if node.domain in ("", "ai.onnx") and node.op_type in ("Conv", "MatMul", "Gemm"):
            if node.input[0] in makers and node.input[1] in makers:
                return lambda each: _layer(each, makers, halves, requantised)
            if node.op_type == "MatMul" and is_half(node.input[1]):
                return _packed_product
        if node.op_type == "DequantizeLinear":
            return lambda each: _constant(each, halves)
        # Known only once the layer in front was written.
        return without_scale if requantised.is_joined(node) else None

    kinds = tensor_kinds(model, origin) if packed or halves else {}
    found = rewritten(model, origin, rewrite_of, packed)
    own = [name for node in found.graph.node if node.domain == DOMAIN for name in node.output if name in kinds]
    # Shape inference does not know these nodes.
    found.graph.value_info.extend(value_of(name, kinds[name]) for name in own)
    return with_domain(found) if any(node.domain == DOMAIN for node in found.graph.node) else found


_HALF_BYTES = (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)


def _packed_product(each: NodeInPlace) -> None:
    """With a matrix of four bits, if blocks end with bytes."""
    weight = each.writer.packed.get(each.input(1))
    if weight is None or not weight.can_be_packed:
        each.writer.nodes.append(each.node)
    else:
        write_product(each, weight)


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


def _layer(
    each: NodeInPlace, makers: dict[str, onnx.NodeProto], halves: set[str], requantised: Requantisations
) -> None:
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
    weight = _half_bytes(known[right]) if is_product and weights.name in halves and not weights.zero else None
    if weight is not None:
        sums = write_sums(each, data.name, data.zero, weight)
    else:
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
    behind = None if bias else requantised.behind(each.out, known)
    if behind is not None:
        scale = scale / behind.step
        requantised.join(behind)
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


def _half_bytes(matrix: Array) -> PackedWeight | None:
    """A matrix of four bits without scales, if it can be packed."""
    if matrix.ndim != 2:
        return None
    one = np.ones((), np.float32)
    found = packed_weight(matrix, one, np.zeros((), np.float32), 1, 0)
    return found if found is not None and found.can_be_packed else None


def _constant(each: NodeInPlace, halves: set[str]) -> None:
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
    if names[0] in halves and scale.dtype == np.float32:
        weight = packed_weight(data, scale.astype(np.float32), zero.astype(np.float32), axis, block)
        if weight is not None:
            each.writer.packed[each.out] = weight
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
