"""Recurrent layers of an ONNX graph (RNN, GRU, LSTM) as products and element-wise operators, step after step.

The product of all inputs with the input weights does not depend on the state: it is one matrix product before the
loop. Each step then multiplies its state by the recurrent weights, once for all gates. A short loop is written out; a
long one is a Scan over the steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from tvm_spm.frontend.onnx.activations import ACTIVATIONS
from tvm_spm.frontend.onnx.recurrent_layer import GATES, RecurrentLayer, is_recurrent, layer_of
from tvm_spm.frontend.onnx.writer import Array, Writer, known_arrays, require_opset, with_nodes

STEPS_WRITTEN_OUT = 32
"""More steps of one direction are a loop. Up to here its copies of rows are the same, and the first state is known."""


def has_recurrent(model: onnx.ModelProto) -> bool:
    """Whether a graph has an RNN, a GRU or an LSTM."""
    return any(is_recurrent(node) for node in model.graph.node)


def write_recurrent(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], origin: str) -> onnx.ModelProto:
    """Write every RNN, GRU and LSTM by other operators.

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
        if not is_recurrent(node):
            nodes.append(node)
            continue
        layer = layer_of(node, shapes, known, origin)
        writer = Writer(prefix=f"{node.op_type.lower()}{position}", opset=opset, known=known)
        _write_layer(writer, layer)
        nodes += writer.nodes
        constants |= writer.constants
    return with_nodes(model, nodes, constants)


def _write_layer(writer: Writer, layer: RecurrentLayer) -> None:
    sequence = layer.input(0)
    if layer.is_batch_first:
        sequence = writer.emit("Transpose", sequence, perm=[1, 0, 2])
    rows = writer.emit("Reshape", sequence, writer.integers(layer.num_steps * layer.batch, layer.depth))
    valid = _valid(writer, layer)
    per_direction = [_Direction(writer, layer, number) for number in range(len(layer.directions))]
    found = [direction.run(rows, valid) for direction in per_direction]
    axis = 2 if layer.is_batch_first else 1
    if layer.output(0):
        writer.concat([writer.unsqueezed(each.outputs, axis) for each in found], axis, out=layer.output(0))
    last = 1 if layer.is_batch_first else 0
    for out, states in ((layer.output(1), [e.state for e in found]), (layer.output(2), [e.cell for e in found])):
        if out:
            writer.concat([writer.unsqueezed(state, last) for state in states], last, out=out)


@dataclass(frozen=True, slots=True, kw_only=True)
class _States:
    """Of one direction: the outputs of all steps, and the states after the last."""

    outputs: str
    state: str
    cell: str


def _valid(writer: Writer, layer: RecurrentLayer) -> str:
    """Which sequences reach each step, as a column of all steps and sequences; nothing where all do."""
    lengths = layer.input(4)
    known = writer.known.get(lengths)
    if lengths and known is None:
        # One comparison for all steps, so that the functions of all steps are the same.
        steps = writer.constant(np.arange(layer.num_steps, dtype=np.int32).reshape(-1, 1))
        reached = writer.emit("Greater", writer.unsqueezed(lengths, 0), steps)
        return writer.emit("Reshape", reached, writer.integers(layer.num_steps * layer.batch, 1))
    if known is None or np.greater_equal(known, layer.num_steps).all():
        return ""
    return writer.constant(np.greater(known.reshape(1, -1), np.arange(layer.num_steps).reshape(-1, 1)).reshape(-1, 1))


def _valid_by_step(writer: Writer, layer: RecurrentLayer, valid: str) -> list[str]:
    """The column of each step, nothing where all sequences are known to reach it."""
    if not valid:
        return [""] * layer.num_steps
    parts = writer.split(valid, (layer.batch,) * layer.num_steps, 0)
    return ["" if part in writer.known and writer.known[part].all() else part for part in parts]


class _Direction:
    """One direction of a layer."""

    def __init__(self, writer: Writer, layer: RecurrentLayer, number: int) -> None:
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
        self._zero = self._late_bias = ""

    def run(self, rows: str, valid: str) -> _States:
        """All steps, the last first if it runs backwards."""
        writer, layer = self._writer, self._layer
        bias, self._late_bias = self._biases()
        weights = writer.at(layer.input(1), self._number)
        weights = weights if layer.is_quantised else writer.transposed(weights)
        inputs = self._product(rows, weights, 0)
        if bias:
            inputs = writer.emit("Add", inputs, bias)
        state, cell = self._initial(5), self._initial(6)
        self._zero = writer.constant(np.zeros((layer.batch, layer.hidden), layer.dtype))
        written = self._written_out if layer.num_steps <= STEPS_WRITTEN_OUT else self._scanned
        return written(inputs, valid, state, cell)

    def _written_out(self, inputs: str, valid: str, state: str, cell: str) -> _States:
        writer, layer = self._writer, self._layer
        by_step = writer.split(inputs, (layer.batch,) * layer.num_steps, 0)
        reached = _valid_by_step(writer, layer, valid)
        outputs = [""] * layer.num_steps
        steps = range(layer.num_steps)
        for step in reversed(steps) if self._is_backwards else steps:
            outputs[step], state, cell = self._step(by_step[step], reached[step], state, cell)
        axis = 1 if layer.is_batch_first else 0
        stacked = writer.concat([writer.unsqueezed(one, axis) for one in outputs], axis)
        return _States(outputs=stacked, state=state, cell=cell)

    def _scanned(self, inputs: str, valid: str, state: str, cell: str) -> _States:
        """All steps as one node, whose body reads weights from the graph around it."""
        outer, layer = self._writer, self._layer
        num_gates = GATES[layer.kind] * layer.hidden
        by_step = [
            (inputs, "x", num_gates, layer.dtype),
            *([(valid, "reached", 1, np.dtype(np.bool_))] if valid else []),
        ]
        sequences = [
            outer.emit("Reshape", rows, outer.integers(layer.num_steps, layer.batch, width))
            for rows, _, width, _ in by_step
        ]
        initial = [(state, "state"), *([(cell, "cell")] if layer.kind == "LSTM" else [])]
        prefix = f"{outer.prefix}__step{self._number}"
        self._writer = Writer(prefix=prefix, opset=outer.opset, known=outer.known, constants=outer.constants)
        names = {name: f"{prefix}__{name}" for name in ("x", "reached", "state", "cell")}
        made = self._step(names["x"], names["reached"] if valid else "", names["state"], names["cell"])
        body, self._writer = self._writer, outer
        # A body gives no tensor out under two names.
        results = [body.emit("Identity", name) for name in (*made[1 : 1 + len(initial)], made[0])]
        whole = (layer.batch, layer.hidden)
        graph = helper.make_graph(
            body.nodes, prefix,
            [
                *(_value(names[name], whole, layer.dtype) for _, name in initial),
                *(_value(names[name], (layer.batch, width), dtype) for _, name, width, dtype in by_step),
            ],
            [_value(name, whole, layer.dtype) for name in results],
        )  # fmt: skip
        ends = [f"{prefix}__end{number}" for number in range(len(results))]
        backwards = int(self._is_backwards)
        outer.nodes.append(
            helper.make_node(
                "Scan", [*(name for name, _ in initial), *sequences], ends, name=prefix, body=graph,
                num_scan_inputs=len(sequences), scan_input_directions=[backwards] * len(sequences),
                scan_output_directions=[backwards],
            )
        )  # fmt: skip
        outputs = outer.emit("Transpose", ends[-1], perm=[1, 0, 2]) if layer.is_batch_first else ends[-1]
        return _States(outputs=outputs, state=ends[0], cell=ends[1] if layer.kind == "LSTM" else cell)

    def _step(self, inputs: str, reached: str, state: str, cell: str) -> tuple[str, str, str]:
        """The output of a step, and the states after it."""
        writer, layer = self._writer, self._layer
        if layer.kind == "LSTM":
            new, new_cell = self._lstm(inputs, state, cell)
        elif layer.kind == "GRU":
            new, new_cell = self._gru(inputs, state, self._late_bias), cell
        else:
            product = writer.emit("Add", inputs, self._product(state, self._recurrent, 1))
            new, new_cell = self._activate(0, product), cell
        if not reached:
            return new, new, new_cell
        output = writer.emit("Where", reached, new, self._zero)
        new_cell = new_cell if new_cell == cell else writer.emit("Where", reached, new_cell, cell)
        return output, writer.emit("Where", reached, new, state), new_cell

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
        gates, hidden = GATES[layer.kind], layer.hidden
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


def _value(name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)
