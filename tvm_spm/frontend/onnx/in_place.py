"""One quantised node of an ONNX graph, and what takes its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tvm_spm.errors import ModelError
from tvm_spm.frontend.onnx.writer import Array, Writer, known_arrays, require_opset, with_nodes

if TYPE_CHECKING:
    from tvm_spm.frontend.onnx.packed import SmallConstant

CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInPlace:
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
                "imported (--value NAME=NUMBERS makes one of an input)"
            )
        return self.writer.known[name]

    def scale(self, index: int) -> Floats:
        """A constant scale as float32."""
        return self.array(index, "scale").astype(np.float32)

    @property
    def out(self) -> str:
        """The name of the first output."""
        return str(self.node.output[0])


Rewrite = Callable[[NodeInPlace], None]


def rewritten(
    model: onnx.ModelProto,
    origin: str,
    rewrite_of: Callable[[onnx.NodeProto], Rewrite | None],
    packed: dict[str, SmallConstant] | None = None,
) -> onnx.ModelProto:
    """The model with other nodes in the place of those that ``rewrite_of`` has a rewrite for.

    Args:
        model: What is written again.
        origin: What errors call it.
        rewrite_of: What takes the place of a node, if it is not to stay.
        packed: By name, constants of few bits; grows.

    Raises:
        ModelError: The model is too old.
    """
    if not any(rewrite_of(node) for node in model.graph.node):
        return model
    opset = require_opset(model, "quantised operators", origin)
    known = known_arrays(model)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Array] = {}
    packed = {} if packed is None else packed
    for position, node in enumerate(model.graph.node):
        rewrite = rewrite_of(node)
        if rewrite is None:
            nodes.append(node)
            continue
        writer = Writer(prefix=f"{node.op_type.lower()}{position}", opset=opset, known=known, packed=packed)
        rewrite(NodeInPlace(node=node, writer=writer, origin=origin))
        nodes += writer.nodes
        constants |= writer.constants
    return with_nodes(model, nodes, constants)


def integer_sums(each: NodeInPlace, operator: str, operands: tuple[str, str, str, str]) -> str:
    """ConvInteger or MatMulInteger of (data, weights, zero point of data, of weights)."""
    data, weights, data_zero, weight_zero = operands
    attributes = each.kept(*CONV) if operator == "ConvInteger" else {}
    inputs = [data, weights, data_zero, weight_zero]
    while not inputs[-1]:
        inputs.pop()
    return each.writer.emit(operator, *inputs, **attributes)
