"""A recurrent node of an ONNX graph (RNN, GRU, LSTM): its dims, its attributes, and whether they go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tvm_spm.errors import ModelError, did_you_mean
from tvm_spm.frontend.onnx.activations import (
    ACTIVATIONS,
    DEFAULT_ALPHA,
    DEFAULT_BETA,
    TAKES_ALPHA,
    TAKES_BETA,
)
from tvm_spm.frontend.onnx.writer import Array
from tvm_spm.frontend.rounds import MOST_ROUNDS
from tvm_spm.units import shown

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}

_DEFAULT_ACTIVATIONS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}

_QUANTISED = "DynamicQuantize"
"""Start of the name of the layer of onnxruntime whose weights are bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentLayer:
    """A node, its dims, and its attributes."""

    node: onnx.NodeProto
    num_steps: int
    batch: int
    depth: int
    hidden: int
    dtype: np.dtype[np.generic]
    attributes: dict[str, Any]
    origin: str

    @property
    def directions(self) -> tuple[bool, ...]:
        """Whether each direction runs backwards."""
        text = self.attributes.get("direction", b"forward")
        name = text.decode() if isinstance(text, bytes) else str(text)
        found = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
        if name not in found:
            raise ModelError(f"{self.what}: direction {name!r}: {did_you_mean(name, found)}")
        return found[name]

    @property
    def what(self) -> str:
        """How errors call the node."""
        name = self.node.name or self.node.output[0]
        return f"{self.origin}: cannot import: node {name!r} (operator {self.node.op_type})"

    @property
    def is_batch_first(self) -> bool:
        """Whether batches come before steps."""
        return bool(self.attributes.get("layout", 0))

    @property
    def kind(self) -> str:
        """RNN, GRU or LSTM."""
        return str(self.node.op_type).removeprefix(_QUANTISED)

    @property
    def is_quantised(self) -> bool:
        """Whether weights are bytes, stored as columns, with a scale and a zero point a direction."""
        return str(self.node.op_type).startswith(_QUANTISED)

    def flag(self, name: str) -> bool:
        """An attribute that is 0 or 1."""
        return bool(self.attributes.get(name, 0))

    def input(self, index: int) -> str:
        """The name of an input, or nothing if it is left out."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def output(self, index: int) -> str:
        """The name of an output, or nothing if it is not wanted."""
        return self.node.output[index] if index < len(self.node.output) else ""

    def activations(self, direction: int) -> list[tuple[str, float | None, float | None]]:
        """(name, alpha, beta) of the activations of one direction.

        Raises:
            ModelError: There are too few, or one is unknown.
        """
        each = _DEFAULT_ACTIVATIONS[self.kind]
        given = self.attributes.get("activations")
        names = each * len(self.directions) if given is None else [_decoded(name) for name in given]
        if len(names) != len(each) * len(self.directions):
            raise ModelError(
                f"{self.what}: {len(names)} activations: must be {len(each)} for each of "
                f"{len(self.directions)} directions"
            )
        alphas = iter(self.attributes.get("activation_alpha", ()))
        betas = iter(self.attributes.get("activation_beta", ()))
        found = []
        for name in names:
            known = next((one for one in ACTIVATIONS if one.lower() == name.lower()), None)
            if known is None:
                raise ModelError(f"{self.what}: activation {shown(name)}: {did_you_mean(name, ACTIVATIONS)}")
            takes_alpha, takes_beta = known in TAKES_ALPHA, known in TAKES_BETA
            alpha = next(alphas, DEFAULT_ALPHA.get(known)) if takes_alpha else None
            beta = next(betas, DEFAULT_BETA.get(known)) if takes_beta else None
            if (takes_alpha and alpha is None) or (takes_beta and beta is None):
                raise ModelError(f"{self.what}: activation {known}: needs activation_alpha and activation_beta")
            found.append((known, alpha, beta))
        start = direction * len(each)
        return found[start : start + len(each)]


def is_recurrent(node: onnx.NodeProto) -> bool:
    """Whether a node is an RNN, a GRU or an LSTM."""
    if node.domain == "com.microsoft":
        return bool(node.op_type == _QUANTISED + "LSTM")
    return node.op_type in GATES and node.domain in ("", "ai.onnx")


def layer_of(
    node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]], known: dict[str, Array], origin: str
) -> RecurrentLayer:
    """A node, checked.

    Args:
        node: A recurrent one.
        shapes: Of tensors, as far as known.
        known: Constants.
        origin: What errors call the model.

    Raises:
        ModelError: The shape of its input is not known, it has too many steps, or weights have another shape.
    """
    attributes = {attr.name: helper.get_attribute_value(attr) for attr in node.attribute}
    for name in node.input[:3]:
        found = shapes.get(name)
        if found is None or len(found) != 3:
            why = "depends on the data" if found is None else f"is {found}"
            raise ModelError(
                f"{origin}: cannot import: node {node.name or node.output[0]!r} (operator {node.op_type}): "
                f"the shape of its input {name!r} {why}: must be three known extents"
            )
    first, second, depth = shapes[node.input[0]]
    num_steps, batch = (second, first) if attributes.get("layout", 0) else (first, second)
    hidden = int(attributes.get("hidden_size", 0)) or shapes[node.input[2]][2]
    weights = known.get(node.input[1])
    dtype = np.dtype(np.float32) if weights is None or weights.dtype.kind != "f" else weights.dtype
    layer = RecurrentLayer(
        node=node, num_steps=num_steps, batch=batch, depth=depth, hidden=hidden, dtype=dtype, attributes=attributes,
        origin=origin,
    )  # fmt: skip
    if num_steps > MOST_ROUNDS:
        raise ModelError(
            f"{layer.what}: {num_steps:,} steps: must be <= {MOST_ROUNDS:,}; export it for a shorter sequence"
        )
    gates = GATES[layer.kind]
    for name, what, rows in ((node.input[1], "weights", depth), (node.input[2], "recurrent weights", hidden)):
        needed = (len(layer.directions), *((rows, gates * hidden) if layer.is_quantised else (gates * hidden, rows)))
        if shapes[name] != needed:
            raise ModelError(f"{layer.what}: {what} {shapes[name]}: must be {needed}")
    return layer


def _decoded(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
