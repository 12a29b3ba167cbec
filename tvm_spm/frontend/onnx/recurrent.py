"""Recurrent layers of an ONNX graph (RNN, GRU, LSTM) as products and element-wise operators, step after step.

The product of all inputs with the input weights does not depend on the state: it is one matrix product before the
loop. Each step then multiplies its state by the recurrent weights, once for all gates.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from tvm_spm.frontend.onnx.writer import Array, Writer, known_arrays, require_opset, with_nodes
from tvm_spm.units import shown

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}

_DEFAULT_ACTIVATIONS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}

_QUANTISED = "DynamicQuantize"
"""Start of the name of the layer of onnxruntime whose weights are bytes."""

MAX_STEPS = 1_000
"""Steps of one direction that are written out; each takes a dozen operators."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
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


def has_recurrent(model: onnx.ModelProto) -> bool:
    """Whether a graph has an RNN, a GRU or an LSTM."""
    return any(_is_recurrent(node) for node in model.graph.node)


def _is_recurrent(node: onnx.NodeProto) -> bool:
    if node.domain == "com.microsoft":
        return bool(node.op_type == _QUANTISED + "LSTM")
    return node.op_type in _GATES and node.domain in ("", "ai.onnx")


def unroll_recurrent(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], origin: str) -> onnx.ModelProto:
    """Write out every RNN, GRU and LSTM.

    Args:
        model: The dims of its inputs are known.
        shapes: Of its tensors, as far as known.
        origin: What errors call the model.

    Raises:
        ModelError: The shape of a layer's input is not known, it has too many steps, or an attribute is unknown.
    """
    opset = require_opset(model, "recurrent layers", origin)
    known = known_arrays(model)
    shapes = {**{name: array.shape for name, array in known.items()}, **shapes}
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Array] = {}
    for position, node in enumerate(model.graph.node):
        if not _is_recurrent(node):
            nodes.append(node)
            continue
        layer = _layer(node, shapes, known, origin)
        writer = Writer(prefix=f"{node.op_type.lower()}{position}", opset=opset, known=known)
        _write_layer(writer, layer)
        nodes += writer.nodes
        constants |= writer.constants
    return with_nodes(model, nodes, constants)


def _layer(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]], known: dict[str, Array], origin: str) -> _Layer:
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
    layer = _Layer(
        node=node, num_steps=num_steps, batch=batch, depth=depth, hidden=hidden, dtype=dtype, attributes=attributes,
        origin=origin,
    )  # fmt: skip
    if num_steps > MAX_STEPS:
        raise ModelError(
            f"{layer.what}: {num_steps:,} steps: must be <= {MAX_STEPS:,}; export it for a shorter sequence"
        )
    gates = _GATES[layer.kind]
    for name, what, rows in ((node.input[1], "weights", depth), (node.input[2], "recurrent weights", hidden)):
        needed = (len(layer.directions), *((rows, gates * hidden) if layer.is_quantised else (gates * hidden, rows)))
        if shapes[name] != needed:
            raise ModelError(f"{layer.what}: {what} {shapes[name]}: must be {needed}")
    return layer


def _write_layer(writer: Writer, layer: _Layer) -> None:
    sequence = layer.input(0)
    if layer.is_batch_first:
        sequence = writer.emit("Transpose", sequence, perm=[1, 0, 2])
    rows = writer.emit("Reshape", sequence, writer.integers(layer.num_steps * layer.batch, layer.depth))
    valid = list(_valid(writer, layer))
    per_direction = [_Direction(writer, layer, number) for number in range(len(layer.directions))]
    found = [direction.run(rows, valid) for direction in per_direction]
    axis = 2 if layer.is_batch_first else 1
    if layer.output(0):
        sequences = [_stack(writer, each.outputs, layer) for each in found]
        writer.concat([writer.unsqueezed(each, axis) for each in sequences], axis, out=layer.output(0))
    last = 1 if layer.is_batch_first else 0
    for out, states in ((layer.output(1), [e.state for e in found]), (layer.output(2), [e.cell for e in found])):
        if out:
            writer.concat([writer.unsqueezed(state, last) for state in states], last, out=out)


@dataclass(frozen=True, slots=True, kw_only=True)
class _States:
    """Of one direction: the output of each step, and the states after the last."""

    outputs: list[str]
    state: str
    cell: str


def _stack(writer: Writer, outputs: list[str], layer: _Layer) -> str:
    axis = 1 if layer.is_batch_first else 0
    rows = [writer.unsqueezed(one, axis) for one in outputs]
    return writer.concat(rows, axis)


def _valid(writer: Writer, layer: _Layer) -> Iterator[str | None]:
    """Per step, which sequences reach it, as a column; nothing where all do."""
    lengths = layer.input(4)
    known = writer.known.get(lengths)
    if lengths and known is None:
        # One comparison for all steps, so that the functions of all steps are the same.
        steps = writer.constant(np.arange(layer.num_steps, dtype=np.int32).reshape(-1, 1))
        reached = writer.emit("Greater", writer.unsqueezed(lengths, 0), steps)
        column = writer.emit("Reshape", reached, writer.integers(layer.num_steps * layer.batch, 1))
        yield from writer.split(column, (layer.batch,) * layer.num_steps, 0)
        return
    for step in range(layer.num_steps):
        reaches = None if known is None else np.greater(known.reshape(-1, 1), step)
        yield None if reaches is None or reaches.all() else writer.constant(reaches)


class _Direction:
    """One direction of a layer."""

    def __init__(self, writer: Writer, layer: _Layer, number: int) -> None:
        self._writer, self._layer, self._number = writer, layer, number
        self._is_backwards = layer.directions[number]
        recurrent = writer.at(layer.input(2), number)
        self._recurrent = recurrent if layer.is_quantised else writer.transposed(recurrent)
        self._activations = layer.activations(number)
        self._peepholes = []  # weights from the cell state to the gates input, output and forget
        if layer.input(7):
            self._peepholes = writer.split(writer.at(layer.input(7), number), (layer.hidden,) * 3, 0)
        self._columns = ("", "")
        if layer.kind == "GRU" and not layer.flag("linear_before_reset"):
            early, new = writer.split(self._recurrent, (2 * layer.hidden, layer.hidden), 1)
            self._columns = early, new
        self._one = writer.constant(np.ones((), layer.dtype))

    def run(self, rows: str, valid: list[str | None]) -> _States:
        """All steps, the last first if it runs backwards."""
        writer, layer = self._writer, self._layer
        bias, recurrent_bias = self._biases()
        weights = writer.at(layer.input(1), self._number)
        weights = weights if layer.is_quantised else writer.transposed(weights)
        inputs = self._product(rows, weights, 0)
        if bias:
            inputs = writer.emit("Add", inputs, bias)
        by_step = writer.split(inputs, (layer.batch,) * layer.num_steps, 0)
        state, cell = self._initial(5), self._initial(6)
        zero = writer.constant(np.zeros((layer.batch, layer.hidden), layer.dtype))
        outputs = [""] * layer.num_steps
        steps = range(layer.num_steps)
        for step in reversed(steps) if self._is_backwards else steps:
            if layer.kind == "LSTM":
                new, new_cell = self._lstm(by_step[step], state, cell)
            elif layer.kind == "GRU":
                new, new_cell = self._gru(by_step[step], state, recurrent_bias), cell
            else:
                product = writer.emit("Add", by_step[step], self._product(state, self._recurrent, 1))
                new, new_cell = self._activate(0, product), cell
            reached, outputs[step] = valid[step], new
            if reached is not None:
                outputs[step] = writer.emit("Where", reached, new, zero)
                new = writer.emit("Where", reached, new, state)
                new_cell = new_cell if new_cell == cell else writer.emit("Where", reached, new_cell, cell)
            state, cell = new, new_cell
        return _States(outputs=outputs, state=state, cell=cell)

    def _product(self, rows: str, weights: str, which: int) -> str:
        """Rows times the input (0) or recurrent (1) weights; of quantised ones, rows become bytes on the way."""
        writer, layer = self._writer, self._layer
        if not layer.is_quantised:
            return writer.emit("MatMul", rows, weights)
        scale, zero = (writer.at(layer.input(8 + 2 * which + part), self._number) for part in (0, 1))
        names = [f"{writer.prefix}__q{len(writer.nodes)}_{part}" for part in ("bytes", "scale", "zero")]
        writer.nodes.append(helper.make_node("DynamicQuantizeLinear", [rows], names))
        sums = writer.emit("Cast", writer.emit("MatMulInteger", names[0], weights, names[2], zero), to=1)
        return writer.emit("Mul", sums, writer.emit("Mul", names[1], scale))

    def _initial(self, index: int) -> str:
        writer, layer = self._writer, self._layer
        if not layer.input(index):
            return writer.constant(np.zeros((layer.batch, layer.hidden), layer.dtype))
        return writer.at(layer.input(index), self._number, axis=1 if layer.is_batch_first else 0)

    def _biases(self) -> tuple[str, str]:
        """The bias that is added to all inputs at once, and that of a GRU's last recurrent gate if it is apart."""
        writer, layer = self._writer, self._layer
        if not layer.input(3):
            return "", ""
        gates, hidden = _GATES[layer.kind], layer.hidden
        both = writer.at(layer.input(3), self._number)
        parts = writer.split(both, (gates * hidden, gates * hidden), 0)
        if layer.kind != "GRU" or not layer.flag("linear_before_reset"):
            return writer.add(parts[0], parts[1]), ""
        early, last = writer.split(parts[1], (2 * hidden, hidden), 0)
        zeros = writer.constant(np.zeros(hidden, layer.dtype))
        return writer.add(parts[0], writer.concat([early, zeros], 0)), last

    def _activate(self, which: int, tensor: str) -> str:
        """One activation; gates are clipped before it, an LSTM's cell state is not (as onnxruntime has it)."""
        clip = self._layer.attributes.get("clip")
        if clip is not None and which < 2:
            tensor = self._writer.clipped(tensor, -float(clip), float(clip), self._layer.dtype)
        name, alpha, beta = self._activations[which]
        return ACTIVATIONS[name](self._writer, tensor, self._number_of(alpha), self._number_of(beta))

    def _number_of(self, value: float | None) -> Array | None:
        return None if value is None else np.array(value, self._layer.dtype)

    def _lstm(self, inputs: str, state: str, cell: str) -> tuple[str, str]:
        """Gates come in the order input, output, forget, cell."""
        writer, hidden = self._writer, self._layer.hidden
        total = writer.emit("Add", inputs, self._product(state, self._recurrent, 1))
        entered, left, kept, new = writer.split(total, (hidden,) * 4, 1)
        peep = self._peepholes
        if peep:
            entered = writer.emit("Add", entered, writer.emit("Mul", peep[0], cell))
            kept = writer.emit("Add", kept, writer.emit("Mul", peep[2], cell))
        entered = self._activate(0, entered)
        if self._layer.flag("input_forget"):
            kept = writer.emit("Sub", self._one, entered)
        else:
            kept = self._activate(0, kept)
        cell = writer.emit("Add", writer.emit("Mul", kept, cell), writer.emit("Mul", entered, self._activate(1, new)))
        if peep:
            left = writer.emit("Add", left, writer.emit("Mul", peep[1], cell))
        return writer.emit("Mul", self._activate(0, left), self._activate(2, cell)), cell

    def _gru(self, inputs: str, state: str, late_bias: str) -> str:
        """Gates come in the order update, reset, hidden."""
        writer, hidden = self._writer, self._layer.hidden
        if self._layer.flag("linear_before_reset"):
            early_in, new_in = writer.split(inputs, (2 * hidden, hidden), 1)
            product = self._product(state, self._recurrent, 1)
            early, new = writer.split(product, (2 * hidden, hidden), 1)
            new = writer.emit("Add", new, late_bias) if late_bias else new
            update, reset = writer.split(self._activate(0, writer.emit("Add", early_in, early)), (hidden, hidden), 1)
            new = writer.emit("Mul", reset, new)
        else:
            early_in, new_in = writer.split(inputs, (2 * hidden, hidden), 1)
            early_weights, new_weights = self._columns
            early = writer.emit("MatMul", state, early_weights)
            update, reset = writer.split(self._activate(0, writer.emit("Add", early_in, early)), (hidden, hidden), 1)
            new = writer.emit("MatMul", writer.emit("Mul", reset, state), new_weights)
        new = self._activate(1, writer.emit("Add", new_in, new))
        rest = writer.emit("Sub", self._one, update)
        return writer.emit("Add", writer.emit("Mul", rest, new), writer.emit("Mul", update, state))


def _decoded(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
