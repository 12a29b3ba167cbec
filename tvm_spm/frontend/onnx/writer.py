"""Nodes that stand in for one node of an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tvm_spm.errors import ModelError

if TYPE_CHECKING:
    from tvm_spm.frontend.onnx.packed import SmallConstant

Array = NDArray[np.generic]

_SMALL = ("int4", "uint4", "int2", "uint2")
"""Dtypes that numpy itself lacks."""

SUBGRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
"""Types of attributes that hold a body."""

LEAST_OPSET = 9
"""Older models state the operators that are written here in other ways."""


@dataclass(slots=True, kw_only=True)
class Writer:
    """Emits nodes; a tensor is known by its name.

    Attributes:
        prefix: Start of the names of new tensors.
        opset: Version in which nodes are written.
        known: Constants of the graph, and new ones that later nodes may take apart.
        nodes: What was emitted.
        constants: New constants; those that nobody reads are left out in the end.
        packed: By name, constants of few bits an element, before they are dequantised.
    """

    prefix: str
    opset: int
    known: dict[str, Array]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    packed: dict[str, SmallConstant] = field(default_factory=dict)

    def constant(self, array: Array) -> str:
        """The name of a new constant."""
        name = f"{self.prefix}__c{len(self.constants)}"
        self.constants[name] = self.known[name] = array
        return name

    def integers(self, *values: int) -> str:
        """Axes, sizes or starts."""
        return self.constant(np.array(values, np.int64))

    def emit(self, operator: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:  # noqa: ANN401
        """The result of an operator with one output."""
        name = out or f"{self.prefix}__{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def split(self, tensor: str, sizes: tuple[int, ...], axis: int) -> list[str]:
        """Parts of a tensor along an axis."""
        if tensor in self.known:
            parts = np.split(self.known[tensor], np.cumsum(sizes)[:-1], axis=axis)
            return [self.constant(np.ascontiguousarray(part)) for part in parts]
        if len(sizes) == 1:
            return [tensor]
        names = [f"{self.prefix}__{len(self.nodes)}_{part}" for part in range(len(sizes))]
        if self.opset < 13:
            self.nodes.append(helper.make_node("Split", [tensor], names, axis=axis, split=list(sizes)))
        else:
            self.nodes.append(helper.make_node("Split", [tensor, self.integers(*sizes)], names, axis=axis))
        return names

    def concat(self, parts: list[str], axis: int, *, out: str | None = None) -> str:
        """Parts one after the other along an axis."""
        if out is None and all(part in self.known for part in parts):
            return self.constant(np.concatenate([self.known[part] for part in parts], axis=axis))
        if len(parts) == 1:
            return self.emit("Identity", parts[0], out=out) if out else parts[0]
        return self.emit("Concat", *parts, axis=axis, out=out)

    def add(self, left: str, right: str) -> str:
        """A sum; of known tensors a known one."""
        if left in self.known and right in self.known:
            return self.constant(np.add(self.known[left], self.known[right]))
        return self.emit("Add", left, right)

    def squeezed(self, tensor: str, axis: int) -> str:
        """A tensor without an axis of one element."""
        if tensor in self.known:
            return self.constant(np.squeeze(self.known[tensor], axis))
        if self.opset < 13:
            return self.emit("Squeeze", tensor, axes=[axis])
        return self.emit("Squeeze", tensor, self.integers(axis))

    def unsqueezed(self, tensor: str, axis: int) -> str:
        """A tensor with one more axis of one element."""
        if self.opset < 13:
            return self.emit("Unsqueeze", tensor, axes=[axis])
        return self.emit("Unsqueeze", tensor, self.integers(axis))

    def padded(self, tensor: str, pads: list[int]) -> str:
        """A tensor with zeros around: in front of every axis, then behind every axis."""
        if self.opset < 11:
            return self.emit("Pad", tensor, pads=pads)
        return self.emit("Pad", tensor, self.integers(*pads))

    def sliced(self, tensor: str, start: int, stop: int, *, axis: int, step: int) -> str:
        """Every ``step``-th index of an axis."""
        if self.opset < 10 and step == 1:
            return self.emit("Slice", tensor, starts=[start], ends=[stop], axes=[axis])
        if self.opset < 10:
            return self.emit("Gather", tensor, self.integers(*range(start, stop, step)), axis=axis)
        return self.emit("Slice", tensor, *(self.integers(each) for each in (start, stop, axis, step)))

    def clipped(self, tensor: str, low: float, high: float, dtype: np.dtype[np.generic]) -> str:
        """Elements between two bounds."""
        if self.opset < 11:
            return self.emit("Clip", tensor, min=low, max=high)
        return self.emit("Clip", tensor, self.constant(np.array(low, dtype)), self.constant(np.array(high, dtype)))

    def at(self, tensor: str, index: int, axis: int = 0) -> str:
        """One index of an axis, which goes."""
        if tensor in self.known:
            return self.constant(np.take(self.known[tensor], index, axis=axis))
        return self.emit("Gather", tensor, self.constant(np.array(index, np.int64)), axis=axis)

    def transposed(self, matrix: str) -> str:
        """Rows as columns."""
        if matrix in self.known:
            return self.constant(np.ascontiguousarray(self.known[matrix].T))
        return self.emit("Transpose", matrix, perm=[1, 0])


def plain_array(tensor: onnx.TensorProto) -> Array:
    """Numbers of a constant; those of less than a byte one to a byte."""
    array = numpy_helper.to_array(tensor)
    if str(array.dtype) in _SMALL:
        return array.astype(np.uint8 if str(array.dtype).startswith("u") else np.int8)
    return array


def known_arrays(model: onnx.ModelProto) -> dict[str, Array]:
    """Numbers of all constants of a graph, those of ``Constant`` nodes among them."""
    known = {init.name: plain_array(init) for init in model.graph.initializer}
    makers = [node for node in model.graph.node if node.op_type == "Constant"]
    return known | {
        node.output[0]: plain_array(attr.t) for node in makers for attr in node.attribute if attr.name == "value"
    }


def opset_of(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def require_opset(model: onnx.ModelProto, what: str, origin: str) -> int:
    """The version of ONNX's own operators, if others can be written beside them.

    Raises:
        ModelError: It is too old.
    """
    opset = opset_of(model)
    if opset < LEAST_OPSET:
        raise ModelError(
            f"{origin}: cannot import: {what} of opset {opset}: must be >= {LEAST_OPSET}; convert the model with "
            "onnx.version_converter"
        )
    return opset


def with_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: dict[str, Array]) -> onnx.ModelProto:
    """A model of other nodes and some more constants, with the same inputs and outputs."""
    used = {name for node in nodes for name in (*node.input, *captured(node))}
    used |= {output.name for output in model.graph.output}
    kept = [init for init in model.graph.initializer if init.name in used]
    new = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items() if name in used]
    graph = helper.make_graph(nodes, model.graph.name or "graph", model.graph.input, model.graph.output, kept + new)
    graph.value_info.extend(model.graph.value_info)
    written = helper.make_model(graph, ir_version=max(4, model.ir_version))
    del written.opset_import[:]
    written.opset_import.extend(model.opset_import)
    written.functions.extend(model.functions)
    return written


def captured(node: onnx.NodeProto) -> set[str]:
    """Names that the bodies of a node (a Scan, a Loop) read from the graph around it."""
    found: set[str] = set()
    for attr in node.attribute:
        for graph in (*([attr.g] if attr.HasField("g") else []), *attr.graphs):
            made = {each.name for each in (*graph.input, *graph.initializer)}
            made |= {name for inner in graph.node for name in inner.output}
            read = {name for inner in graph.node for name in (*inner.input, *captured(inner)) if name}
            found |= (read | {each.name for each in graph.output}) - made
    return found
