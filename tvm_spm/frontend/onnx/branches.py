"""Branches of ``If`` nodes in the graph around them.

A branch that is taken in any case takes the place of its condition. Where the data decides, both are computed and
``Where`` chooses: TVM's importer computes both too, but reads neither as well as the graph around them.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import helper

from tvm_spm.frontend.onnx.writer import SUBGRAPHS, with_nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """The nodes and constants of a branch under names of their own, and the names of its results."""

    nodes: list[onnx.NodeProto]
    constants: list[onnx.TensorProto]
    results: list[str]


def branch_of(node: onnx.NodeProto, which: str) -> Branch:
    """``then_branch`` or ``else_branch`` of an ``If`` node, to stand beside it."""
    graph = next(attr.g for attr in node.attribute if attr.name == which)
    inside = [constant.name for constant in graph.initializer]
    inside += [name for inner in graph.node for name in inner.output if name]
    names = {name: f"{node.output[0]}/{which[:4]}/{name}" for name in inside}
    constants, nodes = [], []
    for constant in graph.initializer:
        copy = onnx.TensorProto()
        copy.CopyFrom(constant)
        copy.name = names[constant.name]
        constants.append(copy)
    for inner in graph.node:
        copy_node = onnx.NodeProto()
        copy_node.CopyFrom(inner)
        rename(copy_node, names)
        nodes.append(copy_node)
    results = [names.get(result.name, result.name) for result in graph.output]
    return Branch(nodes=nodes, constants=constants, results=results)


def rename(node: onnx.NodeProto, names: dict[str, str]) -> None:
    """Give tensors other names, in bodies too where these do not name one of their own so."""
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for attr in node.attribute:
        for graph in [attr.g, *attr.graphs] if attr.type in SUBGRAPHS else []:
            shadowed = {value.name for value in graph.input}
            visible = {old: new for old, new in names.items() if old not in shadowed}
            for inner in graph.node:
                rename(inner, visible)
            for result in graph.output:
                result.name = visible.get(result.name, result.name)


def has_branches(model: onnx.ModelProto) -> bool:
    """Whether an ``If`` node is left."""
    return any(node.op_type == "If" for node in model.graph.node)


def choose_by_where(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with both branches of every ``If`` node of the graph, and a ``Where`` for each of its outputs."""
    nodes, constants = [], []
    for node in model.graph.node:
        if node.op_type != "If":
            nodes.append(node)
            continue
        taken, other = (branch_of(node, which) for which in ("then_branch", "else_branch"))
        nodes += [*taken.nodes, *other.nodes]
        constants += [*taken.constants, *other.constants]
        for left, right, output in zip(taken.results, other.results, node.output, strict=True):
            nodes.append(helper.make_node("Where", [node.input[0], left, right], [output], name=output))
    found = with_nodes(model, nodes, {})
    found.graph.initializer.extend(constants)
    return found
