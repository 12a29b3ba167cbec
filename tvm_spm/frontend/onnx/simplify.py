"""Inference-time rewrites of an ONNX graph, so that a layer with its scale, bias and activation becomes one task.

- Batch normalisation and per-channel multiplies and adds fold into the convolution before them; others become one
  multiply and one add. A bias becomes an add of a broadcast constant.
- ``Sum`` becomes adds; dropout and identity vanish; views of constants are taken at once.
- Weights that a file describes by their shape only (``ConstantOfShape``) become inputs, since they hold no numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tvm_spm.frontend.onnx.writer import captured, opset_of

Array = NDArray[np.generic]

_LEAST_OPSET = 9
"""Older models state batch normalisation and broadcasts in other ways; they are imported as they are."""

_KEEP_RANK = (
    "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "Dropout", "GlobalAveragePool", "HardSwish",
    "Identity", "LRN", "LeakyRelu", "MaxPool", "Mul", "Relu", "Sigmoid", "Sum",
)  # fmt: skip
"""An input with four axes gives an output with four axes."""

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KnownTensor:
    """A tensor known before the run; ``array`` is ``None`` if only its shape is."""

    shape: tuple[int, ...]
    dtype: str
    array: Array | None = None

    @classmethod
    def of(cls, array: Array) -> KnownTensor:
        """A tensor with numbers."""
        return cls(shape=tuple(array.shape), dtype=str(array.dtype), array=array)

    @property
    def num_elems(self) -> int:
        """Product of the shape."""
        return int(np.prod(self.shape, dtype=np.int64))

    def reshape(self, shape: tuple[int, ...]) -> KnownTensor:
        """The same numbers in another shape of as many elements."""
        return replace(self, shape=shape, array=None if self.array is None else self.array.reshape(shape))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pending:
    """``(conv or input) * scale + shift`` per channel, not written yet; ``None`` stands for 1 and 0."""

    source: str
    num_channels: int
    conv: onnx.NodeProto | None = None
    scale: KnownTensor | None = None
    shift: KnownTensor | None = None


@dataclass(slots=True, kw_only=True)
class _Graph:
    """The graph being written."""

    values: dict[str, KnownTensor]
    uses: Counter[str]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    alias: dict[str, str] = field(default_factory=dict)
    pending: dict[str, _Pending] = field(default_factory=dict)
    images: set[str] = field(default_factory=set)
    """Tensors known to have four axes."""


def simplify(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Rewrite a model for inference.

    Returns:
        A model with the same inputs and outputs, and how many weights were appended to its inputs.
    """
    source = model.graph
    opset = opset_of(model)
    if opset < _LEAST_OPSET or any(captured(node) for node in source.node):
        return model, 0
    initial = {init.name: init for init in source.initializer}
    uses = Counter(name for node in source.node for name in node.input)
    outputs = [output.name for output in source.output]
    given = {value.name for value in source.input}
    uses.update({name: 2 for name in outputs})  # An output stays whatever else reads it.
    values = {name: KnownTensor.of(numpy_helper.to_array(init)) for name, init in initial.items()}
    graph = _Graph(values=values, uses=uses)
    graph.images.update(value.name for value in source.input if len(value.type.tensor_type.shape.dim) == 4)
    weightless = is_weightless(source)
    for node in source.node:
        if node.op_type in _KEEP_RANK and graph.images.intersection(node.input):
            graph.images.update(node.output)
        if weightless and (value := _shape_only(graph, node)) is not None:
            graph.values[node.output[0]] = value
        else:
            _REWRITES.get(node.op_type, _keep)(graph, _renamed(graph, node))
    for name in outputs:
        _flush(graph, name)
        if name in graph.alias or name in graph.values or name in given:
            graph.nodes.append(helper.make_node("Identity", [graph.alias.get(name, name)], [name + _KEPT]))
    return _written(model, graph, initial)


_KEPT = "__output"


def is_weightless(source: onnx.GraphProto) -> bool:
    """Whether a file describes weights by their shape only."""
    made = {name for node in source.node if node.op_type == "ConstantOfShape" for name in node.output}
    return any(node.op_type in _WEIGHTED and made.intersection(node.input[1:2]) for node in source.node)


def _shape_only(graph: _Graph, node: onnx.NodeProto) -> KnownTensor | None:
    """The tensor of a ``ConstantOfShape`` node of floats."""
    if node.op_type != "ConstantOfShape" or node.input[0] not in graph.values:
        return None
    fill = next((numpy_helper.to_array(attr.t) for attr in node.attribute if attr.name == "value"), np.zeros(1, "f4"))
    shape = graph.values[node.input[0]].array
    if shape is None or fill.dtype.kind != "f":
        return None
    return KnownTensor(shape=tuple(int(extent) for extent in shape), dtype=str(fill.dtype))


def _renamed(graph: _Graph, node: onnx.NodeProto) -> onnx.NodeProto:
    if not any(name in graph.alias for name in node.input):
        return node
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [graph.alias.get(name, name) for name in node.input]
    return copy


def _keep(graph: _Graph, node: onnx.NodeProto) -> None:
    for name in node.input:
        _flush(graph, name)
    graph.nodes.append(node)


def _flush(graph: _Graph, name: str) -> None:
    """Write what is pending under a name."""
    todo = graph.pending.pop(name, None)
    if todo is None:
        return
    _flush(graph, todo.source)
    parts = [("Mul", todo.scale), ("Add", todo.shift)]
    steps = [(op, value) for op, value in parts if value is not None]
    current = todo.source
    if todo.conv is not None:
        weight = todo.conv.input[1]
        if todo.scale is not None:
            weight, folded = name + "__weight", graph.values[weight]
            per_filter = todo.scale.reshape((todo.num_channels, *(1,) * (len(folded.shape) - 1)))
            graph.values[weight] = _combine(np.multiply, folded, per_filter)
        steps = [step for step in steps if step[0] == "Add"]
        current = name if not steps else name + "__conv"
        conv = onnx.NodeProto()
        conv.CopyFrom(todo.conv)
        conv.input[:], conv.output[:] = [todo.source, weight], [current]
        graph.nodes.append(conv)
    for position, (op, value) in enumerate(steps):
        operand = f"{name}__{'scale' if op == 'Mul' else 'shift'}"
        graph.values[operand] = value.reshape((1, todo.num_channels, 1, 1))
        result = name if position == len(steps) - 1 else name + "__scaled"
        graph.nodes.append(helper.make_node(op, [current, operand], [result]))
        current = result


def _conv(graph: _Graph, node: onnx.NodeProto) -> None:
    weight = graph.values.get(node.input[1])
    bias = graph.values.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    has_unknown_bias = len(node.input) > 2 and node.input[2] and bias is None
    if weight is None or len(weight.shape) != 4 or has_unknown_bias:
        return _keep(graph, node)
    _flush(graph, node.input[0])
    graph.images.add(node.output[0])
    graph.pending[node.output[0]] = _Pending(
        source=node.input[0], num_channels=weight.shape[0], conv=node, shift=bias
    )  # fmt: skip
    return None


def _batch_norm(graph: _Graph, node: onnx.NodeProto) -> None:
    known = [graph.values.get(name) for name in node.input[1:5]]
    params = [value for value in known if value is not None]
    attrs = {attr.name: helper.get_attribute_value(attr) for attr in node.attribute}
    extra = [name for name in node.output[1:] if graph.uses[name]]
    if len(params) < 4 or attrs.get("training_mode", 0) or extra or node.input[0] not in graph.images:
        return _keep(graph, node)
    gamma, beta, mean, variance = params
    epsilon = float(attrs.get("epsilon", 1e-5))
    deviation = _combine(lambda v, e: np.sqrt(v + e), variance, KnownTensor.of(np.array(epsilon)))
    scale = _combine(np.divide, gamma, deviation)
    shift = _combine(np.subtract, beta, _combine(np.multiply, mean, scale))
    return _apply(graph, node, node.input[0], scale, shift, gamma.num_elems)


def _multiply_or_add(graph: _Graph, node: onnx.NodeProto) -> None:
    """Fold a per-channel multiply or add into what is pending before it."""
    for data, other in ((node.input[0], node.input[1]), (node.input[1], node.input[0])):
        value, before = graph.values.get(other), graph.pending.get(data)
        if value is None or before is None or graph.uses[data] > 1:
            continue
        channels = before.num_channels
        shape = (1,) * (4 - len(value.shape)) + value.shape
        if shape == (1, channels, 1, 1):
            flat = value.reshape((channels,))
            scale, shift = (flat, None) if node.op_type == "Mul" else (None, flat)
            return _apply(graph, node, data, scale, shift, channels)
    return _keep(graph, node)


def _apply(
    graph: _Graph,
    node: onnx.NodeProto,
    data: str,
    scale: KnownTensor | None,
    shift: KnownTensor | None,
    num_channels: int,
) -> None:
    before = graph.pending.get(data)
    if before is None or graph.uses[data] > 1:
        _flush(graph, data)
        before = _Pending(source=data, num_channels=num_channels)
    else:
        del graph.pending[data]
    if scale is not None:
        moved = None if before.shift is None else _combine(np.multiply, before.shift, scale)
        total = scale if before.scale is None else _combine(np.multiply, before.scale, scale)
        before = replace(before, scale=total, shift=moved)
    if shift is not None:
        total = shift if before.shift is None else _combine(np.add, before.shift, shift)
        before = replace(before, shift=total)
    graph.pending[node.output[0]] = before


def _combine(operation: Callable[..., Array], left: KnownTensor, right: KnownTensor) -> KnownTensor:
    """Element-wise in float64, rounded once to the dtype of the first; shape-only if one of both is."""
    shape = np.broadcast_shapes(left.shape, right.shape)
    if left.array is None or right.array is None:
        return KnownTensor(shape=shape, dtype=left.dtype)
    result = operation(left.array.astype(np.float64), right.array.astype(np.float64))
    return KnownTensor.of(result.astype(left.dtype))


def _sum(graph: _Graph, node: onnx.NodeProto) -> None:
    current = node.input[0]
    if len(node.input) == 1:
        return _pass_through(graph, node)
    for position, name in enumerate(node.input[1:], start=1):
        result = node.output[0] if position == len(node.input) - 1 else f"{node.output[0]}__{position}"
        _keep(graph, helper.make_node("Add", [current, name], [result]))
        current = result
    return None


def _pass_through(graph: _Graph, node: onnx.NodeProto) -> None:
    if any(graph.uses[name] for name in node.output[1:]):
        return _keep(graph, node)
    source, result = node.input[0], node.output[0]
    # The two names are one tensor from here on, so each use of the one is a use of the other.
    graph.uses[source] += graph.uses[result] - 1
    graph.alias[result] = source
    return None


def _constant(graph: _Graph, node: onnx.NodeProto) -> None:
    tensor = next((attr.t for attr in node.attribute if attr.name == "value"), None)
    if tensor is None:
        return _keep(graph, node)
    graph.values[node.output[0]] = KnownTensor.of(numpy_helper.to_array(tensor))
    return None


def _unsqueeze(graph: _Graph, node: onnx.NodeProto) -> None:
    value = graph.values.get(node.input[0])
    axes = next((tuple(attr.ints) for attr in node.attribute if attr.name == "axes"), None)
    if axes is None and len(node.input) > 1 and node.input[1] in graph.values:
        given = graph.values[node.input[1]].array
        axes = None if given is None else tuple(int(axis) for axis in given.ravel())
    if value is None or axes is None:
        return _keep(graph, node)
    rank = len(value.shape) + len(axes)
    new = {axis % rank for axis in axes}
    old = iter(value.shape)
    graph.values[node.output[0]] = value.reshape(tuple(1 if axis in new else next(old) for axis in range(rank)))
    return None


_REWRITES: dict[str, Callable[[_Graph, onnx.NodeProto], None]] = {
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "Mul": _multiply_or_add,
    "Add": _multiply_or_add,
    "Sum": _sum,
    "Identity": _pass_through,
    "Dropout": _pass_through,
    "Constant": _constant,
    "Unsqueeze": _unsqueeze,
}


def _written(
    model: onnx.ModelProto, graph: _Graph, initial: dict[str, onnx.TensorProto]
) -> tuple[onnx.ModelProto, int]:
    used = list(dict.fromkeys(name for node in graph.nodes for name in node.input if name in graph.values))
    inputs = [value for value in model.graph.input if value.name not in initial]
    weights, constants = [], []
    for name in used:
        value = graph.values[name]
        if value.array is None:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
            weights.append(helper.make_tensor_value_info(name, kind, value.shape))
        else:
            constants.append(initial[name] if name in initial else numpy_helper.from_array(value.array, name))
    kept = {name for node in graph.nodes for name in node.output}
    outputs = [_output(value, kept) for value in model.graph.output]
    new = helper.make_graph(graph.nodes, model.graph.name or "graph", [*inputs, *weights], outputs, constants)
    # From IR version 4 on, constants need not be listed as inputs.
    opsets: Sequence[onnx.OperatorSetIdProto] = model.opset_import
    return helper.make_model(new, opset_imports=opsets, ir_version=max(4, model.ir_version)), len(weights)


def _output(value: onnx.ValueInfoProto, kept: set[str]) -> onnx.ValueInfoProto:
    if value.name in kept:
        return value
    renamed = onnx.ValueInfoProto()
    renamed.CopyFrom(value)
    renamed.name = value.name + _KEPT
    return renamed
