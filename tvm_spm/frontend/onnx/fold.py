"""Constants of an ONNX graph that exporters write as computations: shapes, pads, grids, and branches on them.

TVM's importer computes none of them, so that a Reshape to a computed shape or a Pad by computed pads cannot be imported
although every number follows from the shapes of the inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tvm_spm.errors import ModelError
from tvm_spm.frontend.fuse import TVM_ERRORS
from tvm_spm.frontend.onnx.branches import branch_of
from tvm_spm.frontend.onnx.check import LARGEST_KNOWN, checked_skeleton, infer_shapes
from tvm_spm.frontend.onnx.writer import SUBGRAPHS

Array = NDArray[np.generic]

_KEPT = (
    "Bernoulli", "DequantizeLinear", "Dropout", "DynamicQuantizeLinear", "If", "Loop", "Multinomial",
    "QuantizeLinear", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Scan",
)  # fmt: skip
"""What is random, has a body of its own, or says how numbers are stored."""

_MAX_ROUNDS = 32
"""Every round lets more shapes follow; a chain of so many computed shapes is not seen in practice."""

_LARGEST_MASK = 1 << 26
"""Elements of a mask that is written out."""


@dataclass(slots=True, kw_only=True)
class _Folding:
    """One walk over the nodes."""

    origin: str
    opsets: list[onnx.OperatorSetIdProto]
    ir_version: int
    shapes: dict[str, tuple[int, ...]]
    known: dict[str, Array]
    keep_fills: bool
    """Whether constants given by their shape stay as they are: they stand for weights."""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    made: dict[str, Array] = field(default_factory=dict)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    """Of branches that were taken."""
    changed: bool = False


def fold_constants(model: onnx.ModelProto, origin: str, *, keep_fills: bool, max_memory_bytes: int) -> onnx.ModelProto:
    """Compute what does not depend on the data, until nothing more follows.

    Args:
        model: The dims of its inputs are known.
        origin: What errors call the model.
        keep_fills: Leave ``ConstantOfShape`` alone.
        max_memory_bytes: Of all tensors whose shape is known, each once.

    Returns:
        A model with the same inputs and outputs; the numbers of its weights are shared with the original where nothing
        is folded.

    Raises:
        ModelError: The graph is not valid, or it asks for more memory than allowed.
    """
    skeleton = folded = checked_skeleton(model, origin)
    for _ in range(_MAX_ROUNDS):
        shapes = infer_shapes(folded, origin, max_memory_bytes=max_memory_bytes)
        folding = _walked(folded, shapes, origin, keep_fills=keep_fills)
        if not folding.changed:
            break
        folded = _written(folded, folding)
    return model if folded is skeleton else _with_large_constants(folded, model)


def _walked(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], origin: str, *, keep_fills: bool) -> _Folding:
    folding = _Folding(
        origin=origin,
        opsets=list(model.opset_import),
        ir_version=model.ir_version,
        shapes=shapes,
        known={
            constant.name: numpy_helper.to_array(constant)
            for constant in model.graph.initializer
            if math.prod(constant.dims) <= LARGEST_KNOWN
        },
        keep_fills=keep_fills,
    )
    for node in model.graph.node:
        _visit(folding, node)
    return folding


def _visit(folding: _Folding, node: onnx.NodeProto) -> None:
    if node.domain not in ("", "ai.onnx"):
        folding.nodes.append(node)
        return
    if node.op_type == "If" and node.input[0] in folding.known:
        _take_branch(folding, node)
        return
    _check_indices(folding, node)
    values = _values(folding, node)
    if values is None:
        folding.nodes.append(_without_mask(folding, node))
        return
    folding.changed = True
    for name, value in zip(node.output, values, strict=False):
        if name:
            folding.known[name] = folding.made[name] = value


def _check_indices(folding: _Folding, node: onnx.NodeProto) -> None:
    """Known indices must lie inside of the tensor: the code that reads with them checks nothing.

    Raises:
        ModelError: One does not; names the node.
    """
    if node.op_type not in ("Gather", "GatherElements") or node.input[1] not in folding.known:
        return
    shape, indices = folding.shapes.get(node.input[0]), folding.known[node.input[1]].astype(np.int64)
    axis = next((int(attr.i) for attr in node.attribute if attr.name == "axis"), 0)
    if shape is None or not -len(shape) <= axis < len(shape):
        return
    extent = shape[axis]
    wrong = indices[(indices < -extent) | (indices >= extent)]
    if wrong.size:
        raise ModelError(
            f"{folding.origin}: cannot import: node {node.name or node.output[0]!r} (operator {node.op_type}): "
            f"index {int(wrong.ravel()[0])} is outside of axis {axis}, whose extent is {extent}: "
            f"indices from {-extent} to {extent - 1} fit"
        )


def _without_mask(folding: _Folding, node: onnx.NodeProto) -> onnx.NodeProto:
    """In inference a dropout keeps everything, and its mask says so; TVM makes a mask of the type of the data."""
    shape = folding.shapes.get(node.output[0]) if node.op_type == "Dropout" and len(node.output) > 1 else None
    if shape is None or math.prod(shape) > _LARGEST_MASK:
        return node
    training = folding.known.get(node.input[2]) if len(node.input) > 2 and node.input[2] else np.False_
    if training is None or training.any():
        return node
    folding.changed = True
    if node.output[1]:
        folding.made[node.output[1]] = np.ones(shape, dtype=np.bool_)
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.output[1:]
    return copy


def _values(folding: _Folding, node: onnx.NodeProto) -> list[Array] | None:
    """The results of a node, if they follow from what is known."""
    if node.op_type in ("Shape", "Size") and node.input[0] in folding.shapes:
        return [_shape_value(node, folding.shapes[node.input[0]])]
    fills = node.op_type == "ConstantOfShape" and folding.keep_fills
    if node.op_type in _KEPT or fills or any(attr.type in SUBGRAPHS for attr in node.attribute):
        return None
    if any(name and name not in folding.known for name in node.input) or _num_elems(folding, node) > LARGEST_KNOWN:
        return None
    return _evaluated(folding, node)


def _shape_value(node: onnx.NodeProto, shape: tuple[int, ...]) -> Array:
    if node.op_type == "Size":
        return np.array(math.prod(shape), dtype=np.int64)
    attrs = {attr.name: attr.i for attr in node.attribute}
    return np.array(shape[slice(attrs.get("start", 0), attrs.get("end"))], dtype=np.int64)


def _num_elems(folding: _Folding, node: onnx.NodeProto) -> float:
    """Elements of the largest result, before it is computed; infinite where that cannot be told."""
    if node.op_type == "Constant":
        return max((float(math.prod(attr.t.dims)) for attr in node.attribute if attr.name == "value"), default=1.0)
    if node.op_type == "Range":
        bounds = [folding.known[name] for name in node.input]
        if any(bound.size != 1 for bound in bounds):
            return math.inf
        start, limit, step = (float(bound.ravel()[0]) for bound in bounds)
        return max(0.0, (limit - start) / step) if step else math.inf
    shapes = [folding.shapes.get(name) for name in node.output if name]
    return max((math.inf if shape is None else float(math.prod(shape)) for shape in shapes), default=0.0)


def _evaluated(folding: _Folding, node: onnx.NodeProto) -> list[Array] | None:
    inputs = {name: folding.known[name] for name in node.input if name}
    kinds = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in inputs.items()}
    graph = helper.make_graph(
        [node], "node",
        [helper.make_tensor_value_info(name, kinds[name], value.shape) for name, value in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in node.output if name],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=folding.opsets, ir_version=folding.ir_version)
    try:
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(model).run(None, inputs)
    except (*TVM_ERRORS, ImportError):
        # What the reference cannot compute stays a node, and the importer says what it thinks of it.
        return None
    values = [np.asarray(value) for value in found]
    is_tensor = all(isinstance(value, (np.ndarray, np.generic)) for value in found)
    if not is_tensor or any(value.dtype.kind in "OSU" for value in values):
        # Sequences, optional values and texts are no constants of a graph.
        return None
    at = iter(values)
    return [next(at) if name else np.empty(0) for name in node.output]


def _take_branch(folding: _Folding, node: onnx.NodeProto) -> None:
    """Put the nodes of the branch that is taken in the place of the condition."""
    folding.changed = True
    wanted = "then_branch" if bool(folding.known[node.input[0]].ravel()[0]) else "else_branch"
    branch = branch_of(node, wanted)
    for constant in branch.constants:
        folding.constants.append(constant)
        if math.prod(constant.dims) <= LARGEST_KNOWN:
            folding.known[constant.name] = numpy_helper.to_array(constant)
    # Shapes inside of the branch follow in the next round.
    folding.nodes += branch.nodes
    for result, output in zip(branch.results, node.output, strict=True):
        folding.nodes.append(helper.make_node("Identity", [result], [output]))


def _written(model: onnx.ModelProto, folding: _Folding) -> onnx.ModelProto:
    graph = onnx.GraphProto(name=model.graph.name or "graph")
    graph.node.extend(folding.nodes)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.initializer.extend(model.graph.initializer)
    graph.initializer.extend(folding.constants)
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    used = {name for node in folding.nodes for name in _read_by(node)} | {value.name for value in graph.output}
    graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in folding.made.items() if name in used
    )
    written = helper.make_model(graph, opset_imports=model.opset_import, functions=model.functions)
    # From IR version 4 on, constants need not be listed as inputs.
    written.ir_version = max(4, model.ir_version)
    return written


def _with_large_constants(folded: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """What the skeleton had as inputs comes back with its numbers."""
    small = {constant.name for constant in folded.graph.initializer}
    large = [constant for constant in model.graph.initializer if constant.name not in small]
    listed = {value.name for value in model.graph.input}
    inputs = [value for value in folded.graph.input if value.name in listed]
    del folded.graph.input[:]
    folded.graph.input.extend(inputs)
    used = {name for node in folded.graph.node for name in _read_by(node)}
    used.update(value.name for value in folded.graph.output)
    folded.graph.initializer.extend(constant for constant in large if constant.name in used)
    return folded


def _read_by(node: onnx.NodeProto) -> set[str]:
    """Names that a node and the bodies in it read."""
    found = set(node.input)
    for attr in node.attribute:
        for graph in [attr.g, *attr.graphs] if attr.type in SUBGRAPHS else []:
            for inner in graph.node:
                found |= _read_by(inner)
            found |= {value.name for value in graph.output}
    return found
