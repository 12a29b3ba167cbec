"""Layers between ``DequantizeLinear`` nodes as sums of integers, and dequantised constants as the floats they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from tvm_spm.frontend.onnx.host import tensor_kinds, value_of
from tvm_spm.frontend.onnx.in_place import Floats, NodeInPlace, Rewrite, integer_sums, rewritten
from tvm_spm.frontend.onnx.packed import (
    DOMAIN,
    SmallConstant,
    with_domain,
    write_convolution,
    write_product,
    write_sums,
    write_window_sums,
)
from tvm_spm.frontend.onnx.requantised import Requantisations, without_scale
from tvm_spm.frontend.onnx.writer import Array


def take_integers(model: onnx.ModelProto, origin: str, packed: dict[str, SmallConstant]) -> onnx.ModelProto:
    """Layers between ``DequantizeLinear`` nodes as sums of integers; other constants are dequantised at once.

    Layers with constants of few bits become nodes that only the importer reads.

    Args:
        model: What is written again.
        origin: What errors call it.
        packed: By name, constants of few bits; grows.

    Raises:
        ModelError: The model is too old.
    """
    makers = {name: node for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    if not makers and not packed:
        return model
    small = {init.name: _BITS[init.data_type] for init in model.graph.initializer if init.data_type in _BITS}
    requantised = Requantisations(model)

    def is_small(name: str) -> bool:
        return name in packed or (name in makers and makers[name].input[0] in small)

    def rewrite_of(node: onnx.NodeProto) -> Rewrite | None:
        if node.domain in ("", "ai.onnx") and node.op_type in ("Conv", "MatMul", "Gemm"):
            if node.input[0] in makers and node.input[1] in makers:
                return lambda each: _layer(each, makers, small, requantised)
            if is_small(node.input[1]):
                return _of_floats
        if node.op_type == "DequantizeLinear":
            return lambda each: _constant(each, small)
        # Known only once the layer in front was written.
        return without_scale if requantised.is_joined(node) else None

    kinds = tensor_kinds(model, origin) if packed or small else {}
    found = rewritten(model, origin, rewrite_of, packed)
    own = [name for node in found.graph.node if node.domain == DOMAIN for name in node.output if name in kinds]
    # Shape inference does not know these nodes.
    found.graph.value_info.extend(value_of(name, kinds[name]) for name in own)
    return with_domain(found) if any(node.domain == DOMAIN for node in found.graph.node) else found


_WIDTHS = {"INT2": 2, "UINT2": 2, "INT4": 4, "UINT4": 4, "INT8": 8, "UINT8": 8}
_BITS = {int(value): _WIDTHS[name] for name, value in onnx.TensorProto.DataType.items() if name in _WIDTHS}
"""By type; older versions of ONNX lack some."""


def _of_floats(each: NodeInPlace) -> None:
    """A layer that multiplies floats by a constant of few bits, if that can stay as it is."""
    constant, operator = each.writer.packed.get(each.input(1)), each.node.op_type
    is_plain = operator != "Gemm" or not each.integer("transA")
    if constant is None or not is_plain:
        each.writer.nodes.append(each.node)
    elif operator == "Conv":
        _convolution_of_floats(each, constant)
    else:
        _product_of_floats(each, constant)


def _convolution_of_floats(each: NodeInPlace, constant: SmallConstant) -> None:
    filters, bias = constant.filters(), each.input(2)
    if filters is None:
        each.writer.nodes.append(each.node)
        return
    found = write_convolution(each, filters, out=f"{each.writer.prefix}__product" if bias else each.out)
    if bias:
        spread = [-1] + [1] * (filters.numbers.ndim - 2)
        if bias in each.writer.known:
            each.writer.emit("Add", found, each.writer.constant(each.writer.known[bias].reshape(spread)), out=each.out)
        else:
            shape = each.writer.integers(*spread)
            each.writer.emit("Add", found, each.writer.emit("Reshape", bias, shape), out=each.out)


def _product_of_floats(each: NodeInPlace, constant: SmallConstant) -> None:
    is_gemm = each.node.op_type == "Gemm"
    weight = constant.matrix(is_flipped=is_gemm and each.integer("transB") != 0)
    if weight is None:
        each.writer.nodes.append(each.node)
        return
    bias, beta = (each.input(2), each.attribute("beta", 1.0)) if is_gemm else ("", 1.0)
    out = f"{each.writer.prefix}__product" if bias else each.out
    found = write_product(each, weight, out=out, factor=each.attribute("alpha", 1.0) if is_gemm else 1.0)
    if bias and beta != 1.0:
        known = each.writer.known.get(bias)
        factor = each.writer.constant(np.asarray(beta, np.float32 if known is None else known.dtype))
        bias = each.writer.emit("Mul", bias, factor)
    if bias:
        each.writer.emit("Add", found, bias, out=each.out)


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
    each: NodeInPlace, makers: dict[str, onnx.NodeProto], small: dict[str, int], requantised: Requantisations
) -> None:
    """A convolution or product of dequantised tensors, if its scales leave the sum over its terms."""
    known, node = each.writer.known, each.node
    data, weights = (_before(each, makers[node.input[index]]) for index in (0, 1))
    if data is None or weights is None or data.scale.size > 1 or weights.bits > 8 or data.bits > 8:
        _of_floats(each)
        return
    is_product = node.op_type != "Conv"
    if node.op_type == "Gemm" and (each.integer("transA") or each.attribute("beta", 1.0) != 1.0):
        _of_floats(each)
        return
    is_flipped = node.op_type == "Gemm" and each.integer("transB") != 0
    rank = known[weights.name].ndim if weights.name in known else 0
    filters = (0 if is_flipped or not is_product else rank - 1) if rank else None
    if weights.scale.size > 1 and (filters is None or weights.axis % max(rank, 1) != filters):
        _of_floats(each)
        return
    if (not is_product and not rank) or (is_flipped and weights.name not in known):
        _of_floats(each)
        return
    right = each.writer.transposed(weights.name) if is_flipped else weights.name
    operator = "MatMulInteger" if is_product else "ConvInteger"
    sums = _packed_sums(each, data, (right, weights.zero), small.get(weights.name, 8))
    if sums is None:
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


def _packed_sums(each: NodeInPlace, data: _Quantised, weights: tuple[str, str], bits: int) -> str | None:
    """With weights of less than a byte, given by name and zero point, if they can be packed as integers."""
    known = each.writer.known
    name, zero = weights
    if bits == 8 or name not in known:
        return None
    taken_off = known[zero].astype(np.float32) if zero else np.zeros((), np.float32)
    one, axis = np.ones((), np.float32), known[name].ndim - 1 if each.node.op_type != "Conv" else 0
    constant = SmallConstant(numbers=known[name], bits=bits, scale=one, zero=taken_off, axis=axis)  # type: ignore[arg-type]
    if each.node.op_type == "Conv":
        filters = constant.filters()
        return None if filters is None else write_window_sums(each, data.name, data.zero, filters)
    weight = constant.matrix()
    is_whole = weight is not None and weight.zero is None
    return write_sums(each, data.name, data.zero, weight) if weight is not None and is_whole else None


def _constant(each: NodeInPlace, small: dict[str, int]) -> None:
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
    if names[0] in small and scale.dtype in (np.float32, np.float16):
        each.writer.packed[each.out] = SmallConstant(
            numbers=data,  # type: ignore[arg-type]
            bits=small[names[0]],
            scale=scale.astype(np.float32),
            zero=zero.astype(np.float32),
            axis=axis,
            block=block,
        )
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
