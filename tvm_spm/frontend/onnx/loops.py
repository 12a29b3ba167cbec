"""Loops whose number of rounds is known, written out, or as loops over the numbers of the rounds where they are long.

Such are the loops that exporters make of a ``for`` over a fixed range. One that ends when the data says so is left to
ONNX's reference, or refused by name where the data decides on the shape of its result too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from tvm_spm.errors import ModelError
from tvm_spm.frontend.onnx.branches import rename
from tvm_spm.frontend.onnx.host import TensorKind, known_kinds, tensor_kinds, value_of
from tvm_spm.frontend.onnx.scans import MOST_NODES, first_output, hold_captured
from tvm_spm.frontend.onnx.writer import LEAST_OPSET, Writer, captured, opset_of, with_nodes
from tvm_spm.frontend.rounds import MOST_ROUNDS

MOST_CHANGING_NODES = 20_000
"""Of a loop that is written out however long, as the shapes of its values change."""


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


def is_loop(node: onnx.NodeProto) -> bool:
    """Whether a node is a Loop."""
    return bool(node.op_type == "Loop" and node.domain in ("", "ai.onnx"))


def has_loops(model: onnx.ModelProto) -> bool:
    """Whether a loop is left whose number of rounds is known."""
    known = _known(model.graph)
    return any(_num_rounds(node, known) is not None for node in model.graph.node)


def write_loops(model: onnx.ModelProto, origin: str) -> onnx.ModelProto:
    """The model with such loops written out, those inside of them become visible; a long one becomes a Scan.

    Raises:
        ModelError: One has more rounds than can run, or a long one has values whose shapes change; names it.
    """
    walk = _Unrolling(opset=opset_of(model), origin=origin, known=_known(model.graph))
    kinds = tensor_kinds(model, origin)
    for node in model.graph.node:
        rounds = _num_rounds(node, walk.known)
        if rounds is None:
            walk.nodes.append(node)
        elif rounds * max(1, len(_body(node).node)) <= MOST_NODES:
            _write_out(walk, node, rounds)
        elif walk.opset >= LEAST_OPSET and carried_kinds(node, kinds, walk.opset) is not None:
            walk.nodes.append(_as_scan(walk, node, rounds))
        else:
            _require_few(walk, node, rounds)
            _write_out(walk, node, rounds)
    unrolled = onnx.ModelProto()
    unrolled.CopyFrom(model)
    del unrolled.graph.node[:]
    unrolled.graph.node.extend(walk.nodes)
    unrolled.graph.initializer.extend(walk.constants)
    del unrolled.graph.value_info[:]
    return unrolled


def keep_loops(model: onnx.ModelProto, origin: str) -> onnx.ModelProto:
    """The model with the loops that the data ends, so that the reference can evaluate them.

    Each takes all that its body reads as inputs, and the shapes of its outputs are said.

    Raises:
        ModelError: The data decides on the shape of an output too; names the loop.
    """
    if not any(is_loop(node) for node in model.graph.node):
        return model
    kinds, opset = tensor_kinds(model, origin), opset_of(model)
    constants = {init.name: (init.data_type, tuple(init.dims)) for init in model.graph.initializer}
    used = {name for node in model.graph.node for name in (*node.input, *captured(node))}
    used |= {value.name for value in model.graph.output}
    nodes: list[onnx.NodeProto] = []
    writer = Writer(prefix="loops", opset=opset, known={})
    for node in model.graph.node:
        nodes.append(node)
        if not is_loop(node):
            continue
        num_states = len(node.input) - 2
        carried = carried_kinds(node, kinds, opset)
        collected = [name for name in node.output[num_states:] if name in used]
        if carried is None or collected:
            changing = next((name for name in (*collected, *node.output) if name in used), first_output(node))
            raise ModelError(
                f"{origin}: cannot import: node {node.name or node.output[0]!r} (operator Loop): the data decides when "
                f"it ends, and with it on the shape of its output {changing!r}; fix the input that does "
                "(--value NAME=NUMBER), or export it for a fixed number of rounds"
            )
        own = onnx.NodeProto()
        own.CopyFrom(node)
        del own.output[num_states:]
        _forget_collected(own, num_states)
        hold_captured(own, num_states, constants, first=2)
        nodes[-1] = own
        for number, kind in enumerate(carried):
            name = node.output[number]
            if name:
                own.output[number] = f"{name}/looped"
                nodes.append(
                    helper.make_node("Reshape", [own.output[number], writer.integers(*kind.shape)], [name])
                )  # fmt: skip
    return with_nodes(model, nodes, writer.constants)


def _forget_collected(node: onnx.NodeProto, num_states: int) -> None:
    body = _body(node)
    results = list(body.output)[: 1 + num_states]
    del body.output[:]
    body.output.extend(results)


def _known(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    found = {constant.name: constant for constant in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found.update((node.output[0], attr.t) for attr in node.attribute if attr.name == "value")
    return found


def _num_rounds(node: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> int | None:
    """How often a loop runs, if that does not depend on the data; None for all other nodes."""
    if not is_loop(node) or node.input[0] not in known:
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
    body, prefix = _body(node), first_output(node)
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


def _require_few(walk: _Unrolling, node: onnx.NodeProto, rounds: int) -> None:
    num_nodes = rounds * max(1, len(_body(node).node))
    if num_nodes > MOST_CHANGING_NODES:
        raise ModelError(
            f"{walk.origin}: cannot import: node {node.name or node.output[0]!r} (operator Loop): {rounds:,} rounds of "
            f"{len(_body(node).node)} nodes are {num_nodes:,}: must be <= {MOST_CHANGING_NODES:,}, as shapes change "
            "from round to round; export it for fewer rounds"
        )


def carried_kinds(node: onnx.NodeProto, kinds: dict[str, TensorKind], opset: int) -> list[TensorKind] | None:
    """Dtypes and shapes of the values that go from round to round in a Loop, if no round changes them.

    Args:
        node: A Loop.
        kinds: Of the tensors around it, as far as known.
        opset: Of ONNX's own operators.
    """
    body, carried = _body(node), list(node.input[2:])
    if any(name not in kinds for name in carried):
        return None
    before = [kinds[name] for name in carried]
    inputs = [
        helper.make_tensor_value_info(body.input[0].name, onnx.TensorProto.INT64, ()),
        helper.make_tensor_value_info(body.input[1].name, onnx.TensorProto.BOOL, ()),
        *(value_of(value.name, kind) for value, kind in zip(body.input[2:], before, strict=True)),
        *(value_of(name, kinds[name]) for name in sorted(captured(node) & set(kinds))),
    ]
    outputs = [onnx.ValueInfoProto(name=value.name) for value in body.output[1 : 1 + len(carried)]]
    # A shape that a file declares is not believed.
    graph = helper.make_graph(body.node, "round", inputs, outputs, body.initializer)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        found = known_kinds(shape_inference.infer_shapes(model))
    except (shape_inference.InferenceError, RuntimeError, ValueError):
        return None
    after = [found.get(value.name) for value in outputs]
    return before if after == before else None


def _as_scan(walk: _Unrolling, node: onnx.NodeProto, rounds: int) -> onnx.NodeProto:
    """A loop over the numbers of its rounds, whose values keep their shapes."""
    prefix = first_output(node)
    if rounds > MOST_ROUNDS:
        raise ModelError(
            f"{walk.origin}: cannot import: node {node.name or prefix!r} (operator Loop): {rounds:,} rounds: must be "
            f"<= {MOST_ROUNDS:,}; export it for fewer"
        )
    body = onnx.GraphProto()
    body.CopyFrom(_body(node))
    number, going_on, *carried = body.input
    del body.input[:]
    body.input.extend([*carried, number])
    body.initializer.append(numpy_helper.from_array(np.array(True), going_on.name))
    results = list(body.output)[1:]
    del body.output[:]
    # A body gives no tensor out under two names, and none that it takes.
    for position, result in enumerate(results):
        out = f"{prefix}/result{position}"
        body.node.append(helper.make_node("Identity", [result.name], [out]))
        result.name = out
    body.output.extend(results)
    numbers = walk.constant(f"{prefix}/numbers", np.arange(rounds, dtype=np.int64))
    made = helper.make_node("Scan", [*node.input[2:], numbers], node.output, name=prefix, num_scan_inputs=1, body=body)
    # A result that nobody wants has a name too: they are told apart by their place.
    made.output[:] = [name or f"{prefix}/unread{place}" for place, name in enumerate(_padded(node, len(results)))]
    return made


def _padded(node: onnx.NodeProto, length: int) -> list[str]:
    return [*node.output, *[""] * (length - len(node.output))]


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
