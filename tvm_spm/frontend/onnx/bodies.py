"""Operators that ONNX defines by others, and functions of a model, written as their bodies."""

from __future__ import annotations

from collections.abc import Collection

import onnx
import onnx.inliner
from onnx import helper

from tvm_spm.frontend.onnx.branches import rename
from tvm_spm.frontend.onnx.fold import fold_constants
from tvm_spm.frontend.onnx.host import HostNodes, value_of
from tvm_spm.frontend.onnx.writer import opset_of

_ALWAYS = ("Attention",)
"""TVM's importer does not know what this leaves out."""

_STATED = "MeanVarianceNormalization"
"""Is converted as it is, but ONNX's inference writes it out, and fails on an attribute that is left out."""

_LARGEST_BODY_BYTES = 2**40
"""Of the tensors in a body; those of the model are counted before."""


def expand_functions(model: onnx.ModelProto, taken: Collection[str]) -> onnx.ModelProto:
    """Write functions of the model, and operators that ONNX defines by others and that nobody takes, as their bodies.

    Args:
        model: May have functions of its own.
        taken: Operators that need no body.
    """
    found = onnx.inliner.inline_local_functions(model) if model.functions else model
    opset, copied, done = opset_of(model), False, set[str]()
    if any(node.op_type == _STATED and not node.domain for node in found.graph.node):
        found, copied = _copy(found), True
        for node in found.graph.node:
            if node.op_type == _STATED and not node.domain:
                _set_defaults(node, opset)
    while True:
        named = {node.op_type for node in found.graph.node if not node.domain} - done
        lacking = (named - set(taken)) | named.intersection(_ALWAYS)
        chosen = [("", name) for name in sorted(lacking) if has_body(name, opset)]
        if not chosen:
            return found
        if not copied:
            found, copied = _copy(found), True
        for node in found.graph.node:
            if ("", node.op_type) in chosen:
                _set_defaults(node, opset)
        found = _inlined(found, chosen)
        done.update(name for _, name in chosen)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    return whole


def has_body(name: str, opset: int) -> bool:
    """Whether ONNX defines an operator by others."""
    try:
        schema = onnx.defs.get_schema(name, opset)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def body_of(nodes: HostNodes, name: str, taken: Collection[str], origin: str) -> onnx.GraphProto | None:
    """What ONNX says that a node computes, with its own tensors under new names; None where it does not say.

    Args:
        nodes: Of the graph.
        name: Of the node, the kinds of whose inputs are known.
        taken: Operators that need no body.
        origin: What errors call the model.

    Raises:
        ModelError: The body is not valid for these inputs.
    """
    node = onnx.NodeProto()
    node.CopyFrom(nodes.nodes[name])
    opset = max((each.version for each in nodes.opsets if each.domain in ("", "ai.onnx")), default=0)
    read = list(dict.fromkeys(each for each in node.input if each))
    if node.domain or not has_body(node.op_type, opset) or not all(each in nodes.kinds for each in read):
        return None
    inputs = [value_of(each, nodes.kinds[each]) for each in read if each not in nodes.constants]
    outputs = [onnx.ValueInfoProto(name=each) for each in node.output if each]
    own = [nodes.constants[each] for each in read if each in nodes.constants]
    graph = helper.make_graph([node], "body", inputs, outputs, own)
    model = helper.make_model(graph, opset_imports=nodes.opsets, ir_version=10)
    body = expand_functions(model, set(taken) - {node.op_type})
    body = fold_constants(body, origin, keep_fills=False, max_memory_bytes=_LARGEST_BODY_BYTES)
    inside = {out for inner in body.graph.node for out in inner.output if out and out not in node.output}
    inside |= {constant.name for constant in body.graph.initializer if constant.name not in read}
    inside -= set(node.output)
    names = {each: f"{name}/{each}" for each in inside}
    for inner in body.graph.node:
        rename(inner, names)
    for constant in body.graph.initializer:
        constant.name = names.get(constant.name, constant.name)
    return body.graph


def _inlined(model: onnx.ModelProto, chosen: list[tuple[str, str]]) -> onnx.ModelProto:
    """Bodies for nodes; ONNX's inliner knows the types of inputs and results, not of constants and of what is left out.

    Args:
        model: Is changed.
        chosen: Domain and name of operators.
    """
    listed = {value.name for value in (*model.graph.input, *model.graph.value_info)}
    added = [
        helper.make_tensor_value_info(constant.name, constant.data_type, constant.dims)
        for constant in model.graph.initializer
        if constant.name not in listed
    ]
    model.graph.value_info.extend([*added, helper.make_tensor_value_info("", onnx.TensorProto.FLOAT, None)])
    found = onnx.inliner.inline_selected_functions(model, chosen, inline_schema_functions=True)
    extra = {"", *(value.name for value in added)}
    kept = [value for value in found.graph.value_info if value.name not in extra]
    del found.graph.value_info[:]
    found.graph.value_info.extend(kept)
    return found


def _set_defaults(node: onnx.NodeProto, opset: int) -> None:
    """Write the attributes that a node leaves out: a body that reads one has no default of its own."""
    given = {attr.name for attr in node.attribute}
    for name, attribute in onnx.defs.get_schema(node.op_type, opset).attributes.items():
        if name not in given and attribute.default_value.type != onnx.AttributeProto.UNDEFINED:
            node.attribute.append(attribute.default_value)
