"""ONNX operators that TVM's importer lacks, or imports with wider numbers than they need."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import tvm
from onnx import helper
from tvm import relax
from tvm.ir.expr import GenericConst
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter, _get_convert_map

from tvm_spm.errors import ModelError
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.frontend.onnx.host import HostNodes, host_nodes
from tvm_spm.frontend.onnx.ignored import refuse_ignored, with_pads
from tvm_spm.frontend.onnx.packed import INTEGER_PRODUCT, PRODUCT, packed_matmul, packed_matmul_integer
from tvm_spm.frontend.onnx.resampling import upsample
from tvm_spm.frontend.onnx.scans import ImportBody, StepOfScan, is_scan, step_of_scan
from tvm_spm.frontend.onnx.writer import captured, opset_of
from tvm_spm.frontend.relay.operators.convolution import conv_attrs
from tvm_spm.frontend.relay.operators.data_movement import known
from tvm_spm.frontend.relay.operators.quantised_layers import convolve_integers, multiply_integers
from tvm_spm.frontend.relay.operators.registry import Attrs
from tvm_spm.frontend.relay.tensors import Builder, Tensor
from tvm_spm.frontend.rounds import add_rounds

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
        origin: What errors call the model.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], nodes: HostNodes, origin: str) -> None:
        super().__init__({name: list(shape) for name, shape in shapes.items()}, "float32")
        self._host_nodes = nodes
        self._origin = origin
        self._loops: dict[str, tuple[StepOfScan, tvm.ir.GlobalVar]] = {}

    def add_loops(self, graph: onnx.GraphProto, import_body: ImportBody) -> None:
        """Add the functions of loops over sequences, before the graph is imported.

        A loop whose body cannot be imported is left to the reference.

        Raises:
            ModelError: The reference does not take it either.
        """
        used = {name for node in graph.node for name in (*node.input, *captured(node))}
        used |= {value.name for value in graph.output}
        for node in graph.node:
            if not is_scan(node):
                continue
            name = re.sub(r"\W", "_", node.name)
            try:
                step = step_of_scan(node, self._host_nodes, used)
                module = import_body(step.model, f"{self._origin}: in node {node.name!r} (operator {node.op_type})")
                self._loops[node.name] = step, add_rounds(self.bb, name, module, step.rounds)
            except ModelError as error:
                if not self._host_nodes.may_call(node.name):
                    raise
                _log.warning("%s; the whole loop stays on the host", error)

    def _loop(self, name: str, inputs: Sequence[relax.Expr]) -> relax.Expr:
        step, function = self._loops[name]
        scan, num_states = step.scan, step.scan.num_states
        sequences = [self._moved(inputs[num_states + at], scan.in_axes[at], 0) for at in step.sequences]
        call = self.bb.emit(relax.Call(function, [*(inputs[number] for number in step.states), *sequences]))
        made = [call]
        if isinstance(call.ty, relax.TupleType):
            made = [self.bb.emit(relax.TupleGetItem(call, index)) for index in range(len(call.ty.fields))]
        found = [*inputs[:num_states], *([inputs[0]] * len(scan.out_axes))]  # nobody reads what is left of these
        for number, value in zip(step.results, made, strict=True):
            found[number] = value if number < num_states else self._moved(value, 0, scan.out_axes[number - num_states])
        found = found[: len(scan.node.output)]
        return found[0] if len(found) == 1 else relax.Tuple(found)

    def _moved(self, value: relax.Expr, axis: int, to: int) -> relax.Expr:
        axes = list(range(value.ty.ndim))
        axes.insert(to % len(axes), axes.pop(axis))
        return value if axes == sorted(axes) else self.bb.emit(relax.op.permute_dims(value, axes))

    def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
        known = {*_get_convert_map(), *OPERATORS, "If", "Constant"}
        left = [node for node in graph.node if node.name not in self._loops]
        unknown = {node.op_type for node in left if not self._host_nodes.may_call(node.name)} - known
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
            return self.bb.emit(self._on_host(op_name, name, inputs))
        except ModelError as error:
            name = attrs["tvm_custom"]["name"]
            raise ModelError(f"{self._origin}: cannot import: node {name!r} (operator {op_name}): {error}") from error

    def _on_host(self, op_name: str, name: str, inputs: Sequence[Any]) -> relax.Expr:
        try:
            return self._host_nodes.call(name, inputs)
        except ModelError as error:
            raise ModelError(f"{self._origin}: cannot import: node {name!r}: {error}") from error

    def _converted(self, op_name: str, inputs: Sequence[Any], attrs: _Attributes, opset: int) -> relax.Expr:
        if attrs["tvm_custom"]["name"] in self._loops:
            return self._loop(attrs["tvm_custom"]["name"], inputs)
        if op_name == "ConvTranspose" and "output_shape" in attrs:
            attrs = with_pads(inputs, attrs)
        convert = OPERATORS.get("Upsample" if op_name == "Resize" and opset < 11 else op_name)
        if convert is not None:
            builder = Builder(MAX_CONSTANT_BYTES, block_builder=self.bb)
            given = [None if each is None else _tensor(each) for each in inputs]
            return builder.expr(convert(builder, given, attrs))
        if op_name not in _get_convert_map():
            raise NotImplementedError(f"operator {op_name} is unknown to the importer")
        refuse_ignored(op_name, inputs, attrs, opset)
        found = super()._convert_operator(op_name, inputs, attrs, opset)
        fields = found.ty.fields if isinstance(found.ty, relax.TupleType) else [found]
        if len(fields) < attrs["tvm_custom"]["num_outputs"]:
            raise NotImplementedError(f"operator {op_name}: only its first {len(fields)} outputs are imported")
        return found


def import_graph(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], origin: str, import_body: ImportBody
) -> tvm.IRModule:
    """A model as a Relax module; as ``relax.frontend.onnx.from_onnx``, with the operators of this file.

    Args:
        model: Its nodes are named here.
        shapes: Dims of inputs by name.
        origin: What errors call the model.
        import_body: Imports the body of a loop.
    """
    importer = OnnxImporter(shapes, host_nodes(model, origin), origin)
    importer.add_loops(model.graph, import_body)
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


def _one_hot(b: Builder, inputs: list[Tensor | None], attributes: _Attributes) -> Tensor:
    """Compare with every class; TVM's converter makes values of 64 bits and takes only some shapes of the depth."""
    indices, depth, values = inputs
    assert indices is not None
    assert depth is not None
    assert values is not None
    num_classes = int(np.ravel(known(depth, "depth"))[0])
    off, on = (relax.const(each, values.dtype) for each in known(values, "values"))
    axis = int(attributes.get("axis", -1)) % (indices.rank + 1)
    b.reserve(math.prod(indices.shape) * num_classes, values.dtype)
    shape = [1] * (indices.rank + 1)
    shape[axis] = num_classes
    found = relax.op.expand_dims(b.expr(indices), axis)
    # A class counts from the end where it is below 0; one beyond the depth is none.
    ahead, behind = (
        relax.const(np.arange(first, first + num_classes).reshape(shape).astype(indices.dtype))
        for first in (0, -num_classes)
    )
    is_hot = relax.op.logical_or(relax.op.equal(found, ahead), relax.op.equal(found, behind))
    return b.emit(relax.op.where(is_hot, on, off))


OPERATORS: dict[str, _Convert] = {
    "ConvInteger": _conv_integer, "MatMulInteger": _matmul_integer, "OneHot": _one_hot, "Upsample": upsample,
    PRODUCT: packed_matmul, INTEGER_PRODUCT: packed_matmul_integer,
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
    return _inlined(whole, chosen)


def _inlined(model: onnx.ModelProto, chosen: list[tuple[str, str]]) -> onnx.ModelProto:
    """Bodies for nodes; ONNX's inliner knows the types of inputs and results, not of constants and of what is left out.

    Args:
        model: Is changed.
        chosen: Domain and name of operators.
    """
    listed = {value.name for value in (*model.graph.input, *model.graph.value_info)}
    added = [
        helper.make_tensor_value_info(constant.name, constant.data_type, constant.dims)
        for constant in model.graph.initializer
        if constant.name not in listed
    ]
    model.graph.value_info.extend([*added, helper.make_tensor_value_info("", onnx.TensorProto.FLOAT, None)])
    found = onnx.inliner.inline_selected_functions(model, chosen, inline_schema_functions=True)
    extra = {"", *(value.name for value in added)}
    kept = [value for value in found.graph.value_info if value.name not in extra]
    del found.graph.value_info[:]
    found.graph.value_info.extend(kept)
    return found


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
