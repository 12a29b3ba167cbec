"""ONNX operators that TVM's importer lacks, or imports with wider numbers than they need."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax
from tvm.ir.expr import GenericConst
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter, _get_convert_map

from tvm_spm.errors import ModelError
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.frontend.onnx.adapted import adapted, input_list, mish
from tvm_spm.frontend.onnx.bodies import body_of
from tvm_spm.frontend.onnx.bodies import expand_functions as expand_bodies
from tvm_spm.frontend.onnx.host import HostNodes, host_nodes
from tvm_spm.frontend.onnx.ignored import refuse_computed, refuse_ignored
from tvm_spm.frontend.onnx.indices import indices_of_largest
from tvm_spm.frontend.onnx.limited import clip, largest, least
from tvm_spm.frontend.onnx.limits import refuse_small
from tvm_spm.frontend.onnx.norms import instance_norm, lp_norm, mean_variance_norm, unreduced, widened
from tvm_spm.frontend.onnx.packed import CONVOLUTION, INTEGER_CONVOLUTION, INTEGER_PRODUCT, PRODUCT
from tvm_spm.frontend.onnx.packed_layers import (
    packed_conv,
    packed_conv_integer,
    packed_matmul,
    packed_matmul_integer,
)
from tvm_spm.frontend.onnx.resampling import upsample
from tvm_spm.frontend.onnx.scans import ImportBody, StepOfScan, is_scan, step_of_scan
from tvm_spm.frontend.onnx.windows import windows_of
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
        results: Names of the outputs of the model.
        origin: What errors call the model.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], nodes: HostNodes, results: Sequence[str], origin: str
    ) -> None:
        super().__init__({name: list(shape) for name, shape in shapes.items()}, "float32")
        self._nodes: dict[str, relax.Expr] = self._nodes
        self._host_nodes = nodes
        self._results = frozenset(results)
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
            where = f"{self._origin}: in node {node.name!r} (operator {node.op_type})"
            try:
                step = step_of_scan(node, self._host_nodes, used)
                module = import_body(step.model, where)
                self._loops[node.name] = step, add_rounds(self.bb, name, module, step.rounds)
            except ModelError as error:
                if not self._host_nodes.may_call(node.name):
                    reason = str(error).removeprefix(f"{where}: cannot import: ")
                    raise ModelError(f"{where}: cannot import: {reason}") from error
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
        known = {*_taken(), "If", "Constant"}
        for node in graph.node:
            is_known = node.op_type in known or node.name in self._loops
            why = None if is_known else self._host_nodes.refusal(node.name)
            if why is not None:
                of = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
                raise ModelError(f"{self._origin}: cannot import: node {node.name!r} (operator {of}): {why}")

    def _convert_operator(self, op_name: str, inputs: Sequence[Any], attrs: _Attributes, opset: int) -> relax.Expr:
        """TVM's or our own converter, else the operators that define this one, else the reference."""
        name = attrs["tvm_custom"]["name"]
        try:
            return self._converted(op_name, inputs, attrs, opset)
        except (*TVM_ERRORS, ModelError) as error:
            why = first_line(error) if not isinstance(error, ModelError) else str(error)
            if op_name not in _NEVER_ON_HOST:
                found = self._written_out(name)
                if found is not None:
                    return found
                refusal = self._host_nodes.refusal(name)
                if refusal is None:
                    try:
                        made = self._on_host(name, inputs)
                    except ModelError as second:
                        refusal = str(second)
                    else:
                        _log.info("%s stays on the host: %s", op_name, why)
                        return made
                why = f"{why}; nor can ONNX's reference evaluate it: {refusal}"
            elif not isinstance(error, ModelError):
                raise
            raise ModelError(f"{self._origin}: cannot import: node {name!r} (operator {op_name}): {why}") from error

    def _written_out(self, name: str) -> relax.Expr | None:
        """The value of a node by the operators that define it; None where there are none, or TVM lacks one of them."""
        node = self._host_nodes.nodes.get(name)
        body = None if node is None else body_of(self._host_nodes, name, _taken(), self._origin)
        if node is None or body is None:
            return None
        before: dict[str, relax.Expr] = dict(self._nodes)
        try:
            self._host_nodes.add(body, self._origin)
            self._parse_graph_initializers(body)
            self._construct_nodes(body)
        except (*TVM_ERRORS, ModelError) as error:
            _log.info("%s is not written out: %s", node.op_type, first_line(error))
            self._nodes = before
            return None
        return _for_outputs(node, [self._nodes[each] for each in node.output if each])

    def _parse_attr(self, attr_proto: Sequence[onnx.AttributeProto]) -> dict[str, Any]:
        """TVM's importer takes a list without an element for no attribute at all, and fails."""
        kinds = (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS, onnx.AttributeProto.STRINGS)
        given = [attr for attr in attr_proto if attr.type not in kinds or attr.ints or attr.floats or attr.strings]
        found: dict[str, Any] = super()._parse_attr(given)
        return found

    def _on_host(self, name: str, inputs: Sequence[Any]) -> relax.Expr:
        """The value of a node by ONNX's reference.

        Raises:
            ModelError: It does not take the node.
        """
        found = self.bb.emit(self._host_nodes.call(name, inputs))
        if not isinstance(found.ty, relax.TupleType):
            return found
        each = [self.bb.emit(relax.TupleGetItem(found, at)) for at in range(len(found.ty.fields))]
        return _for_outputs(self._host_nodes.nodes[name], each)

    def _converted(self, op_name: str, inputs: Sequence[Any], attrs: _Attributes, opset: int) -> relax.Expr:
        if attrs["tvm_custom"]["name"] in self._loops:
            return self._loop(attrs["tvm_custom"]["name"], inputs)
        inputs, attrs, opset = adapted(op_name, inputs, attrs, opset)
        convert = OPERATORS.get("Upsample" if op_name == "Resize" and opset < 11 else op_name)
        if convert is not None and (op_name not in _OF_KNOWN_SHAPE or all(_is_static(each) for each in inputs)):
            builder = Builder(MAX_CONSTANT_BYTES, block_builder=self.bb)
            given = [None if each is None else _tensor(each) for each in inputs]
            return builder.expr(convert(builder, given, attrs))
        if op_name not in _get_convert_map():
            raise NotImplementedError(f"operator {op_name} is unknown to the importer")
        refuse_ignored(op_name, inputs, attrs, opset)
        if op_name == "Range" and self._host_nodes.nodes[attrs["tvm_custom"]["name"]].output[0] not in self._results:
            refuse_computed(op_name, inputs, (0, 1, 2), opset)  # TVM's fusion reads a length before it is computed
        kept = unreduced(Builder(MAX_CONSTANT_BYTES, block_builder=self.bb), op_name, inputs, attrs)
        if kept is not None:
            return kept.expr
        wide = widened(op_name, inputs)
        if wide:
            rounded = str(inputs[min(wide)].ty.dtype)
            inputs = input_list([self.bb.emit(wide[at]) if at in wide else each for at, each in enumerate(inputs)])
        found = super()._convert_operator(op_name, inputs, attrs, opset)
        if wide:
            found = self.bb.normalize(relax.op.astype(self.bb.emit(found), rounded))
        if op_name == "MaxPool" and attrs["tvm_custom"]["num_outputs"] == 2:
            largest = self.bb.emit(found)
            return relax.Tuple([largest, self.bb.emit(indices_of_largest(self.bb, inputs[0], largest, attrs))])
        fields = found.ty.fields if isinstance(found.ty, relax.TupleType) else [found]
        if len(fields) < attrs["tvm_custom"]["num_outputs"]:
            raise NotImplementedError(f"operator {op_name}: only its first {len(fields)} outputs are imported")
        return found


def _for_outputs(node: onnx.NodeProto, named: list[relax.Expr]) -> relax.Expr:
    """One value, or a tuple with any in the place of outputs without a name."""
    left = iter(named)
    found = [next(left) if each else named[0] for each in node.output]
    return found[0] if len(found) == 1 else relax.Tuple(found)


def _taken() -> set[str]:
    """Operators that are converted here or by TVM."""
    return {*_get_convert_map(), *OPERATORS}


def expand_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write functions of the model, and operators that ONNX defines by others and TVM lacks, as their bodies."""
    return expand_bodies(model, _taken())


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
    nodes = host_nodes(model, origin)
    refuse_small(model, nodes.kinds, origin)
    importer = OnnxImporter(shapes, nodes, [value.name for value in model.graph.output], origin)
    importer.add_loops(model.graph, import_body)
    return importer.from_onnx(model.graph, opset_of(model))


def _is_static(expr: relax.Expr | None) -> bool:
    if expr is None or isinstance(expr, GenericConst):
        return True
    shape = getattr(expr.ty, "shape", None)
    return isinstance(shape, relax.ShapeExpr) and all(isinstance(each, tvm.tirx.IntImm) for each in shape.values)


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
    windows = windows_of(data.shape[2:], weights.shape[2:], attributes)
    chosen = Attrs(conv_attrs(data.rank - 2)).but(
        strides=windows.strides, dilation=windows.dilation, padding=windows.padding, groups=windows.groups
    )
    return convolve_integers(b, chosen, data, weights, _zeros(b, inputs, 2))


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
    "Clip": clip, "ConvInteger": _conv_integer, "InstanceNormalization": instance_norm, "LpNormalization": lp_norm,
    "MatMulInteger": _matmul_integer, "Max": largest, "MeanVarianceNormalization": mean_variance_norm, "Min": least,
    "Mish": mish, "OneHot": _one_hot, "Upsample": upsample, PRODUCT: packed_matmul,
    INTEGER_PRODUCT: packed_matmul_integer, CONVOLUTION: packed_conv, INTEGER_CONVOLUTION: packed_conv_integer,
}  # fmt: skip
"""By name, in ONNX's own domain, and in that of ``packed``."""

_OF_KNOWN_SHAPE = ("Clip", "Max", "Min")
"""Those whose other inputs TVM's converters take, too."""

_NEVER_ON_HOST = (
    "Conv",
    "ConvTranspose",
    "Gemm",
    "If",
    "InstanceNormalization",
    "LpNormalization",
    "MatMul",
    "Reshape",
    PRODUCT,
    INTEGER_PRODUCT,
    CONVOLUTION,
    INTEGER_CONVOLUTION,
)
"""What the importer refuses of these is a fault of the model."""
