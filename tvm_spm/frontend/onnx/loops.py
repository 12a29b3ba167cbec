"""Loops whose number of rounds is known, written out: TVM's importer has none.

Such are the loops that exporters make of a ``for`` over a fixed range. One that ends when the data says so stays as it
is, and is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tvm_spm.errors import ModelError
from tvm_spm.frontend.onnx.branches import rename
from tvm_spm.frontend.onnx.writer import opset_of

MOST_NODES = 20_000
"""Of a loop that is written out."""


@dataclass(slots=True, kw_only=True)
class _Unrolling:
    """One walk over the nodes."""

    opset: int
    origin: str
    known: dict[str, onnx.TensorProto]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        """The name of a new constant."""
        self.constants.append(numpy_helper.from_array(array, name))
        return name


def has_loops(model: onnx.ModelProto) -> bool:
    """Whether a loop is left whose number of rounds is known."""
    known = _known(model.graph)
    return any(_num_rounds(node, known) is not None for node in model.graph.node)


def unroll_loops(model: onnx.ModelProto, origin: str) -> onnx.ModelProto:
    """The model with such loops written out; those inside of them become visible.

    Raises:
        ModelError: One would take more than ``MOST_NODES`` nodes; names it.
    """
    walk = _Unrolling(opset=opset_of(model), origin=origin, known=_known(model.graph))
    for node in model.graph.node:
        rounds = _num_rounds(node, walk.known)
        if rounds is None:
            walk.nodes.append(node)
        else:
            _write_out(walk, node, rounds)
    unrolled = onnx.ModelProto()
    unrolled.CopyFrom(model)
    del unrolled.graph.node[:]
    unrolled.graph.node.extend(walk.nodes)
    unrolled.graph.initializer.extend(walk.constants)
    del unrolled.graph.value_info[:]
    return unrolled


def refuse_loops(model: onnx.ModelProto, origin: str) -> None:
    """Say why a loop cannot be written out.

    Raises:
        ModelError: There is one; names it.
    """
    for node in model.graph.node:
        if node.op_type == "Loop" and node.domain in ("", "ai.onnx"):
            raise ModelError(
                f"{origin}: cannot import: node {node.name or node.output[0]!r} (operator Loop): the data decides when "
                "it ends; fix the input that does (--value NAME=NUMBER), or export it for a fixed number of rounds"
            )


def _known(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    found = {constant.name: constant for constant in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found.update((node.output[0], attr.t) for attr in node.attribute if attr.name == "value")
    return found


def _num_rounds(node: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> int | None:
    """How often a loop runs, if that does not depend on the data; None for all other nodes."""
    if node.op_type != "Loop" or node.domain not in ("", "ai.onnx") or node.input[0] not in known:
        return None
    condition = node.input[1] if len(node.input) > 1 else ""
    if condition and (condition not in known or not numpy_helper.to_array(known[condition]).all()):
        return None
    body = _body(node)
    sources = {out: inner for inner in body.node for out in inner.output}
    name, inside = body.output[0].name, {**known, **_known(body)}
    while name in sources and sources[name].op_type == "Identity":
        name = sources[name].input[0]
    goes_on = name == body.input[1].name or (name in inside and bool(numpy_helper.to_array(inside[name]).all()))
    return int(numpy_helper.to_array(known[node.input[0]]).ravel()[0]) if goes_on else None


def _body(node: onnx.NodeProto) -> onnx.GraphProto:
    return next(attr.g for attr in node.attribute if attr.name == "body")


def _write_out(walk: _Unrolling, node: onnx.NodeProto, rounds: int) -> None:
    body, prefix = _body(node), node.name or node.output[0]
    num_nodes = rounds * max(1, len(body.node))
    if num_nodes > MOST_NODES:
        raise ModelError(
            f"{walk.origin}: cannot import: node {prefix!r} (operator Loop): {rounds:,} rounds of {len(body.node)} "
            f"nodes are {num_nodes:,}: must be <= {MOST_NODES:,}; export it for fewer rounds"
        )
    shared = {constant.name: f"{prefix}/{constant.name}" for constant in body.initializer}
    for constant in body.initializer:
        copy = onnx.TensorProto()
        copy.CopyFrom(constant)
        copy.name = shared[constant.name]
        walk.constants.append(copy)
    carried, num_carried = list(node.input[2:]), len(node.input) - 2
    scanned: list[list[str]] = [[] for _ in body.output[1 + num_carried :]]
    going_on = walk.constant(f"{prefix}/goes_on", np.array(True))
    for number in range(rounds):
        names = {**shared, body.input[1].name: going_on}
        names[body.input[0].name] = walk.constant(f"{prefix}/{number}", np.array(number, np.int64))
        names |= {value.name: name for value, name in zip(body.input[2:], carried, strict=True)}
        names |= {out: f"{prefix}/{number}/{out}" for inner in body.node for out in inner.output if out}
        for inner in body.node:
            copied = onnx.NodeProto()
            copied.CopyFrom(inner)
            rename(copied, names)
            walk.nodes.append(copied)
        results = [names.get(result.name, result.name) for result in body.output[1:]]
        carried = results[:num_carried]
        for rows, result in zip(scanned, results[num_carried:], strict=True):
            rows.append(result)
    for name, output in zip(carried, node.output[:num_carried], strict=True):
        if output:
            walk.nodes.append(helper.make_node("Identity", [name], [output]))
    for rows, output in zip(scanned, node.output[num_carried:], strict=False):
        if output:
            _stack(walk, rows, output)


def _stack(walk: _Unrolling, rows: list[str], output: str) -> None:
    """What a loop puts out in every round, along a new first axis."""
    if not rows:
        raise ModelError(f"{walk.origin}: cannot import: a loop of no rounds leaves {output!r} without an element")
    wide = [f"{output}/{number}" for number in range(len(rows))]
    axes = walk.constant(f"{output}/axes", np.array([0], np.int64)) if walk.opset >= 13 else ""
    for row, name in zip(rows, wide, strict=True):
        if axes:
            walk.nodes.append(helper.make_node("Unsqueeze", [row, axes], [name]))
        else:
            walk.nodes.append(helper.make_node("Unsqueeze", [row], [name], axes=[0]))
    walk.nodes.append(helper.make_node("Concat", wide, [output], axis=0))
