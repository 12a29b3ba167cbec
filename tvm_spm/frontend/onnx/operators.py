"""ONNX operators that TVM's importer lacks, or imports with wider numbers than they need."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import tvm
from tvm import relax
from tvm.ir.expr import GenericConst
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter, _get_convert_map

from tvm_spm.errors import ModelError
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.frontend.onnx.host import HostNodes, host_nodes
from tvm_spm.frontend.onnx.packed import INTEGER_PRODUCT, PRODUCT, packed_matmul, packed_matmul_integer
from tvm_spm.frontend.onnx.writer import opset_of
from tvm_spm.frontend.relay.operators.convolution import conv_attrs
from tvm_spm.frontend.relay.operators.data_movement import known
from tvm_spm.frontend.relay.operators.quantised_layers import convolve_integers, multiply_integers
from tvm_spm.frontend.relay.operators.registry import Attrs
from tvm_spm.frontend.relay.tensors import Builder, Tensor

_Attributes = Mapping[str, Any]
_Convert = Callable[[Builder, list["Tensor | None"], _Attributes], Tensor]

_log = logging.getLogger(__name__)

MAX_CONSTANT_BYTES = 2**40
"""A constant made on the way; the file's own are counted before."""


class OnnxImporter(ONNXGraphImporter):
    """TVM's importer with the operators of this file before its own, and the reference behind them.

    Args:
        shapes: Dims of inputs by name.
        nodes: What the reference may evaluate.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], nodes: HostNodes) -> None:
        super().__init__({name: list(shape) for name, shape in shapes.items()}, "float32")
        self._host_nodes = nodes

    def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
        known = {*_get_convert_map(), *OPERATORS, "If", "Constant"}
        unknown = {node.op_type for node in graph.node if not self._host_nodes.may_call(node.name)} - known
        if unknown:
            raise NotImplementedError(f"operators unknown to the importer: {', '.join(sorted(unknown))}")

    def _convert_operator(self, op_name: str, inputs: Sequence[Any], attrs: _Attributes, opset: int) -> relax.Expr:
        try:
            return self._converted(op_name, inputs, attrs, opset)
        except TVM_ERRORS as error:
            name = attrs["tvm_custom"]["name"]
            if op_name in _NEVER_ON_HOST or not self._host_nodes.may_call(name):
                raise
            _log.info("%s stays on the host: %s", op_name, first_line(error))
            return self.bb.emit(self._host_nodes.call(name, inputs))

    def _converted(self, op_name: str, inputs: Sequence[Any], attrs: _Attributes, opset: int) -> relax.Expr:
        convert = OPERATORS.get(op_name)
        if convert is not None:
            builder = Builder(MAX_CONSTANT_BYTES, block_builder=self.bb)
            given = [None if each is None else _tensor(each) for each in inputs]
            return builder.expr(convert(builder, given, attrs))
        if op_name not in _get_convert_map():
            raise NotImplementedError(f"operator {op_name} is unknown to the importer")
        found = super()._convert_operator(op_name, inputs, attrs, opset)
        fields = found.ty.fields if isinstance(found.ty, relax.TupleType) else [found]
        if len(fields) < attrs["tvm_custom"]["num_outputs"]:
            raise NotImplementedError(f"operator {op_name}: only its first {len(fields)} outputs are imported")
        return found


def import_graph(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], origin: str) -> tvm.IRModule:
    """A model as a Relax module; as ``relax.frontend.onnx.from_onnx``, with the operators of this file."""
    importer = OnnxImporter(shapes, host_nodes(model, origin))
    return importer.from_onnx(model.graph, opset_of(model))


def _tensor(expr: relax.Expr) -> Tensor:
    if isinstance(expr, GenericConst):
        array = expr.value.numpy()
        return Tensor(shape=array.shape, dtype=str(array.dtype), array=array, expr=expr)
    shape = tuple(int(extent) for extent in expr.ty.shape.values)
    return Tensor(shape=shape, dtype=str(expr.ty.dtype), expr=expr)


def _zeros(b: Builder, inputs: list[Tensor | None], first: int) -> tuple[Tensor, Tensor]:
    """Zero points of both operands; 0 where they are left out. One of a single element is a scalar."""
    found = []
    for index in (first, first + 1):
        given = inputs[index] if index < len(inputs) else None
        if given is None:
            given = b.const(np.zeros((), np.int8))
        found.append(b.reshape(given, ()) if given.rank and given.shape == (1,) * given.rank else given)
    return found[0], found[1]


def _conv_integer(b: Builder, inputs: list[Tensor | None], attributes: _Attributes) -> Tensor:
    data, weights = inputs[0], inputs[1]
    assert data is not None
    assert weights is not None
    num_axes = data.rank - 2
    strides = tuple(attributes.get("strides", (1,) * num_axes))
    dilation = tuple(attributes.get("dilations", (1,) * num_axes))
    window = [dilation[axis] * (weights.shape[2 + axis] - 1) + 1 for axis in range(num_axes)]
    padding = tuple(attributes.get("pads", (0,) * 2 * num_axes))
    auto = attributes.get("auto_pad", b"NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else str(auto)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        padding = _same(data.shape[2:], window, strides, is_upper=auto == "SAME_UPPER")
    elif auto not in ("NOTSET", "VALID"):
        raise ModelError(f"attribute auto_pad = {auto!r}: must be NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    chosen = Attrs(conv_attrs(num_axes)).but(
        strides=strides, dilation=dilation, padding=padding, groups=int(attributes.get("group", 1))
    )
    return convolve_integers(b, chosen, data, weights, _zeros(b, inputs, 2))


def _same(image: Sequence[int], window: Sequence[int], strides: Sequence[int], *, is_upper: bool) -> tuple[int, ...]:
    """Padding with which every ``stride``-th element has an output; an odd one goes behind or in front."""
    front, behind = [], []
    for extent, taps, stride in zip(image, window, strides, strict=True):
        total = max(0, (-(-extent // stride) - 1) * stride + taps - extent)
        less, more = total // 2, total - total // 2
        front.append(less if is_upper else more)
        behind.append(more if is_upper else less)
    return (*front, *behind)


def _matmul_integer(b: Builder, inputs: list[Tensor | None], attributes: _Attributes) -> Tensor:
    left, right = inputs[0], inputs[1]
    assert left is not None
    assert right is not None
    return multiply_integers(b, left, right, _zeros(b, inputs, 2))


def _upsample(b: Builder, inputs: list[Tensor | None], attributes: _Attributes) -> Tensor:
    """Grow the last two axes; TVM's converter does not know that scales are an input."""
    data, scales = inputs[0], inputs[1] if len(inputs) > 1 else None
    assert data is not None
    factors = [float(each) for each in attributes.get("scales", () if scales is None else known(scales, "scales"))]
    if data.rank != 4 or len(factors) != 4 or factors[:2] != [1.0, 1.0]:
        raise ModelError(f"scales {factors} of a tensor with {data.rank} axes: must be (1, 1, height, width)")
    mode = attributes.get("mode", b"nearest")
    mode = mode.decode() if isinstance(mode, bytes) else str(mode)
    size = [math.floor(extent * factor) for extent, factor in zip(data.shape[2:], factors[2:], strict=True)]
    method = {"nearest": "nearest_neighbor", "linear": "linear", "bilinear": "linear"}.get(mode)
    if method is None:
        raise ModelError(f"attribute mode = {mode!r}: must be nearest or linear")
    return b.emit(
        relax.op.image.resize2d(
            b.expr(data), tuple(size), layout="NCHW", method=method, coordinate_transformation_mode="asymmetric",
            rounding_method="floor",
        )
    )  # fmt: skip


OPERATORS: dict[str, _Convert] = {
    "ConvInteger": _conv_integer, "MatMulInteger": _matmul_integer, "Upsample": _upsample, PRODUCT: packed_matmul,
    INTEGER_PRODUCT: packed_matmul_integer,
}  # fmt: skip
"""By name, in ONNX's own domain, and in that of ``packed``."""

_NEVER_ON_HOST = ("Conv", "ConvTranspose", "Gemm", "If", "MatMul", "Reshape", PRODUCT, INTEGER_PRODUCT)
"""What the importer refuses of these is a fault of the model."""


def expand_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write functions of the model, and operators that ONNX defines by others and TVM lacks, as their bodies."""
    found = onnx.inliner.inline_local_functions(model) if model.functions else model
    lacking = {node.op_type for node in found.graph.node if not node.domain} - {*_get_convert_map(), *OPERATORS}
    lacking |= {node.op_type for node in found.graph.node if not node.domain and node.op_type == "Attention"}
    chosen = [("", name) for name in sorted(lacking) if _has_body(name, opset_of(model))]
    if not chosen:
        return found
    whole = onnx.ModelProto()
    whole.CopyFrom(found)
    for node in whole.graph.node:
        if ("", node.op_type) in chosen:
            _set_defaults(node, opset_of(model))
    return onnx.inliner.inline_selected_functions(whole, chosen, inline_schema_functions=True)


def _set_defaults(node: onnx.NodeProto, opset: int) -> None:
    """Write the attributes that a node leaves out: a body that reads one has no default of its own."""
    given = {attr.name for attr in node.attribute}
    for name, attribute in onnx.defs.get_schema(node.op_type, opset).attributes.items():
        if name not in given and attribute.default_value.type != onnx.AttributeProto.UNDEFINED:
            node.attribute.append(attribute.default_value)


def _has_body(name: str, opset: int) -> bool:
    try:
        schema = onnx.defs.get_schema(name, opset)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)
