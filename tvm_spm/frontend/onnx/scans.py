"""Loops over sequences (Scan) whose length is known: short ones are written out, of others a step runs many times.

Long recurrent layers and long ``Loop`` nodes become such loops too, so that all go one way from here on. A body may
read tensors of the graph around it; before the import these become states that no round changes, so that other passes
see all that a node reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx
import tvm
from onnx import helper, numpy_helper

from tvm_spm.errors import ModelError
from tvm_spm.frontend.onnx.branches import rename
from tvm_spm.frontend.onnx.host import HostNodes, TensorKind, value_of
from tvm_spm.frontend.onnx.writer import Array, Writer, captured, known_arrays, require_opset, with_nodes
from tvm_spm.frontend.rounds import Rounds

MOST_NODES = 1_000
"""Of a loop that is written out: more of them take seconds to import, and a loop costs 0.2 % more cycles at most."""

_Any = TypeVar("_Any")

ImportBody = Callable[[onnx.ModelProto, str], tvm.IRModule]
"""The module of the body of a node, which the text names in errors."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scan:
    """A node and its attributes.

    Attributes:
        node: The node.
        num_states: Values that go from round to round, the first inputs and outputs.
        in_axes: Of each sequence, the axis that rounds run over.
        in_backward: Of each sequence, whether its last row comes first.
        out_axes: Of each value that is collected, the axis along which.
        out_backward: Of each value that is collected, whether the first round makes the last row.
    """

    node: onnx.NodeProto
    num_states: int
    in_axes: tuple[int, ...]
    in_backward: tuple[bool, ...]
    out_axes: tuple[int, ...]
    out_backward: tuple[bool, ...]

    @classmethod
    def of(cls, node: onnx.NodeProto) -> Scan:
        """What a node says."""
        given = {attr.name: helper.get_attribute_value(attr) for attr in node.attribute if attr.name != "body"}
        num_in = int(given["num_scan_inputs"])
        num_states = len(node.input) - num_in
        num_out = len(_body_of(node).output) - num_states

        def numbers(name: str, count: int) -> tuple[int, ...]:
            return tuple(int(each) for each in given.get(name, ())) or (0,) * count

        return cls(
            node=node, num_states=num_states,
            in_axes=numbers("scan_input_axes", num_in), out_axes=numbers("scan_output_axes", num_out),
            in_backward=tuple(map(bool, numbers("scan_input_directions", num_in))),
            out_backward=tuple(map(bool, numbers("scan_output_directions", num_out))),
        )  # fmt: skip

    @property
    def body(self) -> onnx.GraphProto:
        """What every round computes."""
        return _body_of(self.node)

    @property
    def sequences(self) -> list[str]:
        """The tensors that rounds run over."""
        return list(self.node.input[self.num_states :])

    def is_same(self, state: int) -> bool:
        """Whether no round changes a state."""
        sources = {out: inner for inner in self.body.node for out in inner.output}
        name = self.body.output[state].name
        while name in sources and sources[name].op_type == "Identity":
            name = sources[name].input[0]
        return bool(name == self.body.input[state].name)

    def num_rounds(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """The common length of all sequences, None if it is not known."""
        found = {
            shapes[name][axis] if name in shapes and -len(shapes[name]) <= axis < len(shapes[name]) else None
            for name, axis in zip(self.sequences, self.in_axes, strict=True)
        }
        return found.pop() if len(found) == 1 else None


def is_scan(node: onnx.NodeProto) -> bool:
    """Whether a node is a Scan."""
    return bool(node.op_type == "Scan" and node.domain in ("", "ai.onnx"))


def first_output(node: onnx.NodeProto) -> str:
    """A name that no other node has, not even a copy of this one."""
    return next(name for name in node.output if name)


def _body_of(node: onnx.NodeProto) -> onnx.GraphProto:
    return next(attr.g for attr in node.attribute if attr.name == "body")


def _is_short(scan: Scan, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    rounds = scan.num_rounds(shapes)
    return rounds is not None and 1 <= rounds and rounds * max(1, len(scan.body.node)) <= MOST_NODES


def write_out_scans(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], origin: str
) -> onnx.ModelProto | None:
    """The model with short loops over sequences written out; None if it has none.

    Args:
        model: Any model.
        shapes: Of its tensors, as far as known.
        origin: What errors call the model.

    Raises:
        ModelError: It has a Scan of opset 8, which has a batch of sequences of different lengths.
    """
    opset = require_opset(model, "operator Scan", origin) if any(map(is_scan, model.graph.node)) else 0
    if not any(is_scan(node) and _is_short(Scan.of(node), shapes) for node in model.graph.node):
        return None
    known = known_arrays(model)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Array] = {}
    tensors: list[onnx.TensorProto] = []
    for node in model.graph.node:
        if not is_scan(node) or not _is_short(Scan.of(node), shapes):
            nodes.append(node)
            continue
        writer = Writer(prefix=f"{first_output(node)}/rounds", opset=opset, known=known)
        tensors += _write_out(writer, Scan.of(node), shapes)
        nodes += writer.nodes
        constants |= writer.constants
    found = with_nodes(model, nodes, constants)
    found.graph.initializer.extend(tensors)
    return found


def _write_out(writer: Writer, scan: Scan, shapes: Mapping[str, tuple[int, ...]]) -> list[onnx.TensorProto]:
    """Returns the constants of the body."""
    body, rounds = scan.body, scan.num_rounds(shapes) or 0
    rows = []
    for name, axis in zip(scan.sequences, scan.in_axes, strict=True):
        along = axis % len(shapes[name])
        rows.append([writer.squeezed(row, along) for row in writer.split(name, (1,) * rounds, along)])
    shared = {constant.name: f"{writer.prefix}/{constant.name}" for constant in body.initializer}
    constants = []
    for constant in body.initializer:
        copy = onnx.TensorProto()
        copy.CopyFrom(constant)
        copy.name = shared[constant.name]
        constants.append(copy)
    states = list(scan.node.input[: scan.num_states])
    collected: list[list[str]] = [[] for _ in scan.out_axes]
    for number in range(rounds):
        at = [number if not is_backward else rounds - 1 - number for is_backward in scan.in_backward]
        given = [*states, *(parts[position] for parts, position in zip(rows, at, strict=True))]
        names = {**shared, **{value.name: name for value, name in zip(body.input, given, strict=True)}}
        names |= {out: f"{writer.prefix}/{number}/{out}" for inner in body.node for out in inner.output if out}
        for inner in body.node:
            copied = onnx.NodeProto()
            copied.CopyFrom(inner)
            rename(copied, names)
            writer.nodes.append(copied)
        results = [names.get(result.name, result.name) for result in body.output]
        states = results[: scan.num_states]
        for parts, result in zip(collected, results[scan.num_states :], strict=True):
            parts.append(result)
    for name, output in zip(states, scan.node.output[: scan.num_states], strict=False):
        if output:
            writer.emit("Identity", name, out=output)
    for number, output in enumerate(scan.node.output[scan.num_states :]):
        if output:
            parts = collected[number][::-1] if scan.out_backward[number] else collected[number]
            axis = scan.out_axes[number]
            writer.concat([writer.unsqueezed(part, axis) for part in parts], axis, out=output)
    return constants


def close_scans(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with loops over sequences that take all that they read as inputs, and hold it as states."""
    if not any(is_scan(node) and captured(node) for node in model.graph.node):
        return model
    closed = onnx.ModelProto()
    closed.CopyFrom(model)
    kinds = {init.name: (init.data_type, tuple(init.dims)) for init in model.graph.initializer}
    for node in closed.graph.node:
        if is_scan(node):
            hold_captured(node, Scan.of(node).num_states, kinds)
    return closed


def hold_captured(
    node: onnx.NodeProto, num_states: int, kinds: Mapping[str, tuple[int, tuple[int, ...]]], *, first: int = 0
) -> None:
    """Let a loop take what its body reads from the graph around it as states that no round changes.

    Args:
        node: Is changed.
        num_states: Of the node.
        kinds: Types and shapes of constants.
        first: Inputs before the states; before those that the body makes is one less.
    """
    names, body = sorted(captured(node)), _body_of(node)
    if not names:
        return
    inside = {name: f"{name}/{first_output(node)}" for name in names}
    for inner in body.node:
        rename(inner, inside)
    for value in body.output:
        value.name = inside.get(value.name, value.name)
    same = [
        helper.make_tensor_value_info(inside[name], *kinds[name]) if name in kinds
        else onnx.ValueInfoProto(name=inside[name])
        for name in names
    ]  # fmt: skip
    ends = [f"{value.name}/end" for value in same]
    body.node.extend(helper.make_node("Identity", [value.name], [end]) for value, end in zip(same, ends, strict=True))
    after = [onnx.ValueInfoProto(name=end) for end in ends]
    inputs, outputs = list(body.input), list(body.output)
    del body.input[:], body.output[:]
    body.input.extend(_inserted(inputs, first + num_states, same))
    made_first = max(0, first - 1)
    body.output.extend(_inserted(outputs, made_first + num_states, after))
    results = list(node.output) + [""] * (len(outputs) - made_first - len(node.output))
    node.input[:] = _inserted(list(node.input), first + num_states, names)
    node.output[:] = _inserted(results, num_states, [f"{end}/unread" for end in ends])


def _inserted(values: list[_Any], at: int, more: list[_Any]) -> list[_Any]:
    return [*values[:at], *more, *values[at:]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepOfScan:
    """The body of a node as a model of its own.

    Attributes:
        scan: The node; it takes all that its body reads.
        model: Takes the states that change, those that do not and are no constants, and one row of every sequence, with
            a first axis of one element; makes the new states and one row of everything that is read.
        rounds: How it runs.
        states: Inputs of the node that are the first inputs of the model.
        sequences: Positions, among the sequences of the node, of those that are the last inputs of the model.
        results: Per output of the model, the output of the node that it becomes.
    """

    scan: Scan
    model: onnx.ModelProto
    rounds: Rounds
    states: tuple[int, ...]
    sequences: tuple[int, ...]
    results: tuple[int, ...]


def step_of_scan(node: onnx.NodeProto, graph: HostNodes, used: set[str]) -> StepOfScan:
    """The body of a node, its constants among the states inside of it.

    Args:
        node: A Scan that takes all that its body reads.
        graph: Around it.
        used: Names that something reads.

    Raises:
        ModelError: A shape is not known; names the tensor.
    """
    scan, body = Scan.of(node), _body_of(node)
    unknown = [name for name in node.input if name not in graph.kinds]
    if unknown:
        raise ModelError(f"the shape of {unknown[0]!r} depends on the data")
    opset = max(entry.version for entry in graph.opsets if entry.domain in ("", "ai.onnx"))
    writer = Writer(prefix=f"{first_output(node)}/rows", opset=opset, known={})
    read = {name for inner in body.node for name in (*inner.input, *captured(inner))}
    read |= {value.name for value in body.output}
    same = [number for number in range(scan.num_states) if scan.is_same(number)]
    changing = [number for number in range(scan.num_states) if number not in same]
    constants = [*body.initializer]
    given = []
    for number in same:
        if node.input[number] in graph.constants:
            copy = onnx.TensorProto()
            copy.CopyFrom(graph.constants[node.input[number]])
            copy.name = body.input[number].name
            constants.append(copy)
        else:
            given.append(number)
    inputs = [value_of(body.input[number].name, graph.kinds[node.input[number]]) for number in (*changing, *given)]
    sequences = []
    for position, (name, axis) in enumerate(zip(scan.sequences, scan.in_axes, strict=True)):
        value = body.input[scan.num_states + position]
        if value.name in read:
            row = _without(graph.kinds[name], axis)
            inputs.append(value_of(f"{value.name}/row", _as_row(row)))
            writer.emit("Reshape", f"{value.name}/row", writer.integers(*row.shape), out=value.name)
            sequences.append(position)
    after = Writer(prefix=f"{first_output(node)}/ends", opset=opset, known={})
    outputs = []
    for number in changing:
        outputs.append(value_of(after.emit("Identity", body.output[number].name), graph.kinds[node.input[number]]))
    collected = [
        number for number in range(scan.num_states, len(node.output)) if node.output[number] in used
    ]  # fmt: skip
    for number in collected:
        # ONNX may not know its shape before the body is folded.
        outputs.append(onnx.ValueInfoProto(name=after.unsqueezed(body.output[number].name, 0)))
    constants += [
        numpy_helper.from_array(np.asarray(array), name)
        for each in (writer, after) for name, array in each.constants.items()
    ]  # fmt: skip
    made = helper.make_graph([*writer.nodes, *body.node, *after.nodes], "step", inputs, outputs, constants)
    backward = [scan.out_backward[number - scan.num_states] for number in collected]
    rounds = Rounds(
        num_rounds=scan.num_rounds({name: kind.shape for name, kind in graph.kinds.items()}) or 0,
        num_states=len(changing), num_same=len(given),
        is_backward=tuple(scan.in_backward[position] for position in sequences), collects_backward=tuple(backward),
    )  # fmt: skip
    return StepOfScan(
        scan=scan, model=helper.make_model(made, opset_imports=graph.opsets, ir_version=10), rounds=rounds,
        states=(*changing, *given), sequences=tuple(sequences), results=(*changing, *collected),
    )  # fmt: skip


def _without(kind: TensorKind, axis: int) -> TensorKind:
    axis %= len(kind.shape)
    return TensorKind(dtype=kind.dtype, shape=(*kind.shape[:axis], *kind.shape[axis + 1 :]))


def _as_row(kind: TensorKind) -> TensorKind:
    return TensorKind(dtype=kind.dtype, shape=(1, *kind.shape))
