"""Recurrent layers of PyTorch over many steps: a product with all inputs, and a step that runs many times.

PyTorch itself takes such a layer apart step by step, as long as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import tvm
from torch import fx
from tvm import relax

from tvm_spm.frontend.rounds import MOST_ROUNDS, Rounds, add_rounds

if TYPE_CHECKING:
    from tvm_spm.frontend.torch.importer import Importer

STEPS_WRITTEN_OUT = 32
"""As PyTorch writes them; more are a loop."""

LAYERS = ("gru.input", "lstm.input", "rnn_relu.input", "rnn_tanh.input")
"""By name, as in ``torch.ops.aten``."""

_GATES = {"lstm": 4, "gru": 3, "rnn_relu": 1, "rnn_tanh": 1}


def has_long_layers(program: torch.export.ExportedProgram) -> bool:
    """Whether a program has a recurrent layer of more than ``STEPS_WRITTEN_OUT`` steps."""
    return any(
        node.op == "call_function" and str(node.target) in {f"aten.{name}" for name in LAYERS}
        and _num_steps(node) > STEPS_WRITTEN_OUT
        for node in program.graph.nodes
    )  # fmt: skip


def _num_steps(node: fx.Node) -> int:
    shape = node.args[0].meta["val"].shape
    return int(shape[1 if node.args[-1] else 0])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Direction:
    """One direction of one layer.

    Attributes:
        kind: As in ``_GATES``.
        weights: Input and recurrent weights, both biases if there are any, the weights of a projection if there are.
        has_biases: Whether there are biases.
        states: Before the first step; two of an LSTM.
        is_backward: Whether the last step comes first.
    """

    kind: str
    weights: tuple[relax.Expr, ...]
    has_biases: bool
    states: tuple[relax.Expr, ...]
    is_backward: bool

    @property
    def late_weights(self) -> tuple[relax.Expr, ...]:
        """What a step reads: recurrent weights, their bias where it is not added before, the projection."""
        late_bias = self.weights[3:4] if self.has_biases and self.kind == "gru" else ()
        return (self.weights[1], *late_bias, *self.weights[4 if self.has_biases else 2 :])


def recurrent(node: fx.Node, importer: Importer) -> tuple[relax.Expr, ...]:
    """A node as its outputs: of all steps, and the states after the last one."""
    args, _ = importer.arguments(node)
    data, states, weights, has_biases, num_layers, dropout, trains, is_bidirectional, is_batch_first = args
    if dropout and trains:
        raise NotImplementedError(f"it drops {dropout:g} of its outputs at random, as in training")
    kind = str(node.target).split(".")[1]
    if _num_steps(node) > MOST_ROUNDS:
        raise NotImplementedError(f"{_num_steps(node):,} steps: must be <= {MOST_ROUNDS:,}")
    states = list(states) if kind == "lstm" else [states]
    rows = importer.emit(relax.op.permute_dims(data, [1, 0, 2])) if is_batch_first else data
    num_directions = 2 if is_bidirectional else 1
    per_direction = len(weights) // (num_layers * num_directions)
    ends: list[list[relax.Expr]] = [[] for _ in states]
    for layer in range(num_layers):
        outputs = []
        for number in range(layer * num_directions, (layer + 1) * num_directions):
            direction = _Direction(
                kind=kind, weights=tuple(weights[number * per_direction : (number + 1) * per_direction]),
                has_biases=has_biases, states=tuple(_at(importer, each, number) for each in states),
                is_backward=number % num_directions == 1,
            )  # fmt: skip
            *after, output = _run(importer, f"{node.name}_{number}", direction, rows)
            outputs.append(output)
            for found, state in zip(ends, after, strict=True):
                found.append(importer.emit(relax.op.expand_dims(state, 0)))
        rows = outputs[0] if len(outputs) == 1 else importer.emit(relax.op.concat(outputs, axis=2))
    whole = importer.emit(relax.op.permute_dims(rows, [1, 0, 2])) if is_batch_first else rows
    return (whole, *(each[0] if len(each) == 1 else importer.emit(relax.op.concat(each, axis=0)) for each in ends))


def _at(importer: Importer, states: relax.Expr, number: int) -> relax.Expr:
    cut = importer.emit(relax.op.strided_slice(states, [0], [number], [number + 1]))
    return importer.emit(relax.op.squeeze(cut, [0]))


def _run(importer: Importer, name: str, direction: _Direction, rows: relax.Expr) -> list[relax.Expr]:
    """The states after the last step, and the outputs of all."""
    num_steps, batch, _ = (int(extent) for extent in rows.ty.shape.values)
    flat = importer.emit(relax.op.reshape(rows, (num_steps * batch, -1)))
    total = importer.emit(relax.op.matmul(flat, importer.emit(relax.op.permute_dims(direction.weights[0]))))
    early = direction.weights[2 : 3 if direction.kind == "gru" else 4] if direction.has_biases else ()
    for bias in early:
        total = importer.emit(relax.op.add(total, bias))
    inputs = importer.emit(relax.op.reshape(total, (num_steps, batch, -1)))
    how = Rounds(
        num_rounds=num_steps, num_states=len(direction.states), num_same=len(direction.late_weights),
        is_backward=(direction.is_backward,), collects_backward=(direction.is_backward,),
    )  # fmt: skip
    function = add_rounds(importer.loops, name, _step(direction, inputs), how)
    made = importer.emit(relax.Call(function, [*direction.states, *direction.late_weights, inputs]))
    return [importer.emit(relax.TupleGetItem(made, index)) for index in range(len(direction.states) + 1)]


def _step(direction: _Direction, inputs: relax.Expr) -> tvm.IRModule:
    """One step: of the states, the weights and one row of the inputs, the new states and one row of the outputs."""
    kind = direction.kind
    row = relax.TensorType([1, *list(inputs.ty.shape.values)[1:]], inputs.ty.dtype)
    types = [each.ty for each in (*direction.states, *direction.late_weights)]
    params = [relax.Var(f"p{number}", ty) for number, ty in enumerate([*types, row])]
    builder = relax.BlockBuilder()
    emit = builder.emit

    def transposed(matrix: relax.Expr) -> relax.Expr:
        return emit(relax.op.permute_dims(matrix))

    def split(tensor: relax.Expr) -> list[relax.Expr]:
        parts = emit(relax.op.split(tensor, _GATES[kind], axis=1))
        return [emit(relax.TupleGetItem(parts, number)) for number in range(_GATES[kind])]

    with builder.function("main", params):
        with builder.dataflow():
            hidden, late = params[0], params[len(direction.states) : -1]
            given = emit(relax.op.squeeze(params[-1], [0]))
            product = emit(relax.op.matmul(hidden, transposed(late[0])))
            if kind == "gru":
                product = emit(relax.op.add(product, late[1])) if direction.has_biases else product
                after: Sequence[relax.Expr] = _gru(emit, split(given), split(product), hidden)
            elif kind == "lstm":
                after = _lstm(emit, split(emit(relax.op.add(given, product))), params[1])
                if len(late) > 1:
                    after = [emit(relax.op.matmul(after[0], transposed(late[1]))), after[1]]
            else:
                activation = relax.op.tanh if kind == "rnn_tanh" else relax.op.nn.relu
                after = [emit(activation(emit(relax.op.add(given, product))))]
            made = [*after, emit(relax.op.expand_dims(after[0], 0))]
            out = builder.emit_output(relax.Tuple(made))
        builder.emit_func_output(out)
    return builder.get()


def _gru(emit: Any, given: list[relax.Expr], product: list[relax.Expr], hidden: relax.Expr) -> list[relax.Expr]:  # noqa: ANN401 (a method of TVM's)
    reset, update = (emit(relax.op.sigmoid(emit(relax.op.add(given[number], product[number])))) for number in (0, 1))
    new = emit(relax.op.tanh(emit(relax.op.add(given[2], emit(relax.op.multiply(reset, product[2]))))))
    return [emit(relax.op.add(new, emit(relax.op.multiply(update, emit(relax.op.subtract(hidden, new))))))]


def _lstm(emit: Any, gates: list[relax.Expr], cell: relax.Expr) -> list[relax.Expr]:  # noqa: ANN401 (as above)
    entered, kept, left = (emit(relax.op.sigmoid(gates[number])) for number in (0, 1, 3))
    new = emit(relax.op.multiply(entered, emit(relax.op.tanh(gates[2]))))
    cell = emit(relax.op.add(emit(relax.op.multiply(kept, cell)), new))
    return [emit(relax.op.multiply(left, emit(relax.op.tanh(cell)))), cell]
