"""A graph with onnxruntime's own nodes replaced, as far as the shapes of their inputs are known."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import defs, numpy_helper, shape_inference

from tvm_spm.frontend.onnx.check import LARGEST_KNOWN, checked_skeleton
from tvm_spm.frontend.onnx.host import TensorKind
from tvm_spm.frontend.onnx.microsoft.activated import ACTIVATED
from tvm_spm.frontend.onnx.microsoft.attention import ATTENTION
from tvm_spm.frontend.onnx.microsoft.cached import CACHED
from tvm_spm.frontend.onnx.microsoft.learned import LEARNED
from tvm_spm.frontend.onnx.microsoft.normalised import NORMALISED
from tvm_spm.frontend.onnx.microsoft.place import TypedNode, TypedRewrite, UnknownShapeError, kind_of
from tvm_spm.frontend.onnx.microsoft.tables import TABLES
from tvm_spm.frontend.onnx.writer import Array, Writer, known_arrays, opset_of, require_opset, with_nodes

DOMAIN = "com.microsoft"

REWRITES: dict[str, TypedRewrite] = {**ACTIVATED, **ATTENTION, **CACHED, **NORMALISED, **TABLES}
"""By name, in ``DOMAIN``."""

_LEARNED_DOMAIN = "ai.onnx.ml"


def in_own_domain(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with those nodes in ``DOMAIN`` that TVM cannot take as ONNX's own.

    onnxruntime writes some of them in ONNX's domain before that had any of the name. And TVM's importer gives
    normalisations no statistics, and none of a root mean square over several axes; those of groups are kernels of
    their own there, and ONNX's checker refuses the older form.
    """
    opset = opset_of(model)
    read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}

    def is_foreign(node: onnx.NodeProto) -> bool:
        if node.domain not in ("", "ai.onnx") or node.op_type not in REWRITES:
            return False
        if node.op_type == "LayerNormalization" and read.intersection(name for name in node.output[1:] if name):
            return True
        if node.op_type == "GroupNormalization":
            return True
        axis = next((attr.i for attr in node.attribute if attr.name == "axis"), -1)
        return (node.op_type == "RMSNormalization" and axis != -1) or not defs.has(node.op_type, opset, "")

    if not any(is_foreign(node) for node in model.graph.node):
        return model
    found = onnx.ModelProto()
    found.CopyFrom(model)
    for node in found.graph.node:
        if is_foreign(node):
            node.domain = DOMAIN
    if all(entry.domain != DOMAIN for entry in found.opset_import):
        found.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    return found


def has_own_operators(model: onnx.ModelProto) -> bool:
    """Whether a node is left that can be written out."""
    return any(_rewrite_of(node) is not None for node in model.graph.node)


def has_learned(model: onnx.ModelProto) -> bool:
    """Whether one must be written out before ONNX infers anything: it knows no type of what these make."""
    return any(node.domain == _LEARNED_DOMAIN and node.op_type in LEARNED for node in model.graph.node)


def _rewrite_of(node: onnx.NodeProto) -> TypedRewrite | None:
    table = {DOMAIN: REWRITES, _LEARNED_DOMAIN: LEARNED}.get(node.domain, {})
    return table.get(node.op_type)


def write_out(model: onnx.ModelProto, origin: str) -> onnx.ModelProto:
    """Replace all nodes whose inputs have known shapes.

    Args:
        model: The dims of its inputs are known.
        origin: What errors call the model.

    Raises:
        ModelError: A node says what cannot be written out, or the data decides the shapes that all wait for.
    """
    opset = require_opset(model, "operators of onnxruntime", origin)
    walk = _Walk(model, origin)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Array] = {}
    first: UnknownShapeError | None = None
    is_changed = False
    for node in model.graph.node:
        rewrite = _rewrite_of(node)
        written = [node]
        if rewrite is not None:
            writer = Writer(prefix=f"{node.output[0]}/{node.op_type}", opset=opset, known=walk.known)
            try:
                rewrite(TypedNode(node=node, writer=writer, origin=origin, kinds=walk.kinds))
            except UnknownShapeError as error:
                first = first or error
            else:
                written, is_changed = writer.nodes, True
                constants |= writer.constants
                walk.add(writer.constants)
        for each in written:
            walk.visit(each)
        nodes += written
    if first is not None and not is_changed:
        raise first
    return with_nodes(model, nodes, constants)


class _Walk:
    """What is known of tensors, node after node."""

    def __init__(self, model: onnx.ModelProto, origin: str) -> None:
        self.known = known_arrays(model)
        self._opsets = list(model.opset_import)
        self._opset = opset_of(model)
        self._types: dict[str, onnx.TypeProto] = {}
        self._kinds: dict[str, TensorKind] = {}
        found = shape_inference.infer_shapes(checked_skeleton(model, origin))
        for value in (*found.graph.input, *found.graph.value_info, *found.graph.output):
            self._keep(value.name, value.type)
        self.add(self.known)
        for constant in model.graph.initializer:
            dtype = str(onnx.helper.tensor_dtype_to_np_dtype(constant.data_type))
            self._kinds[constant.name] = TensorKind(dtype=dtype, shape=tuple(constant.dims))

    @property
    def kinds(self) -> Mapping[str, TensorKind]:
        """Of tensors whose dtype and shape are known."""
        return self._kinds

    def add(self, constants: dict[str, Array]) -> None:
        """New constants."""
        for name, array in constants.items():
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            self._keep(name, onnx.helper.make_tensor_type_proto(kind, array.shape))

    def visit(self, node: onnx.NodeProto) -> None:
        """Infer what a node makes, if it is one of ONNX's."""
        if node.domain not in ("", "ai.onnx") or all(name in self._kinds for name in node.output if name):
            return
        types = {name: self._types[name] for name in node.input if name in self._types}
        if len(types) < len({name for name in node.input if name}) or not defs.has(node.op_type, self._opset, ""):
            return
        small = {name: self.known[name] for name in types if name in self.known}
        data = {
            name: numpy_helper.from_array(array, name) for name, array in small.items() if array.size <= LARGEST_KNOWN
        }
        schema = defs.get_schema(node.op_type, self._opset, "")
        try:
            found = shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=self._opsets)
        except (shape_inference.InferenceError, RuntimeError, ValueError):
            return  # Inference of the whole graph will say what does not fit.
        for name, value in found.items():
            self._keep(name, value)

    def _keep(self, name: str, value: onnx.TypeProto) -> None:
        kind = kind_of(value)
        if value.HasField("tensor_type"):
            self._types[name] = value
        if kind is not None:
            self._kinds[name] = kind
