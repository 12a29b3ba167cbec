"""Is an ONNX graph valid, and which shapes follow from those of its inputs; before TVM, which may crash, sees it."""

from __future__ import annotations

import math

import onnx
from onnx import checker, defs, helper, shape_inference

from tvm_spm.errors import ModelError
from tvm_spm.frontend.memory import require_memory
from tvm_spm.frontend.onnx.tensors import tensors_bytes, value_bytes
from tvm_spm.frontend.onnx.writer import opset_of

LARGEST_KNOWN = 1 << 14
"""Elements up to which a constant counts as known, as what shapes are computed from; larger ones are data."""

WINDOWED = ("AveragePool", "Conv", "ConvInteger", "LpPool", "MaxPool", "QLinearConv")
"""Operators that move a window over an image."""


def infer_shapes(skeleton: onnx.ModelProto, origin: str, *, max_memory_bytes: int) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor for which all dims follow from those of the inputs.

    Declared shapes of outputs and of what is between are not believed.

    Args:
        skeleton: From ``checked_skeleton``; the dims of its inputs are known.
        origin: What errors call the model.
        max_memory_bytes: Of all tensors whose shape is known, each once.

    Raises:
        ModelError: Shapes of tensors do not go together; names the operator. Or the tensors need more memory than
            allowed.
    """
    # Without propagation of data: for that, ONNX itself makes the tensor of a ConstantOfShape or a Range.
    # A branch that is never taken need not fit: as long as there is one, what does not go together is left open.
    is_strict = not any(node.op_type == "If" for node in skeleton.graph.node)
    try:
        found = shape_inference.infer_shapes(_without_declared(skeleton), strict_mode=is_strict)
    except (shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise ModelError(f"{origin}: cannot import: not a valid ONNX model: {_one_line(error)}") from None
    values = [*found.graph.input, *found.graph.value_info, *found.graph.output]
    needed = tensors_bytes(skeleton.graph.initializer, origin) + sum(value_bytes(value) for value in values)
    require_memory(needed, max_memory_bytes, origin, "tensors")
    inferred = {value.name: _known_shape(value) for value in values}
    shapes = {name: shape for name, shape in inferred.items() if shape is not None}
    constants = {constant.name: tuple(constant.dims) for constant in skeleton.graph.initializer}
    for node in skeleton.graph.node:
        if node.domain in ("", "ai.onnx"):
            _refuse_windows(node, shapes, origin)
            if node.op_type == "Conv":
                _refuse_weights(node, {**constants, **shapes}, origin)
    return shapes


def checked_skeleton(model: onnx.ModelProto, origin: str) -> onnx.ModelProto:
    """The model without the numbers of its large constants, which become inputs.

    Args:
        model: Any model.
        origin: What errors call the model.

    Raises:
        ModelError: The graph breaks a rule of ONNX; names the operator.
    """
    graph = onnx.GraphProto(name=model.graph.name or "graph")
    graph.node.extend(model.graph.node)
    for node in graph.node:
        # ONNX names the node in what it says of it, if it has a name.
        node.name = node.name or next((name for name in node.output if name), "")
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    listed = {value.name for value in graph.input}
    for constant in model.graph.initializer:
        if math.prod(constant.dims) <= LARGEST_KNOWN and not constant.external_data:
            graph.initializer.add().CopyFrom(constant)
        elif constant.name not in listed:
            graph.input.append(helper.make_tensor_value_info(constant.name, constant.data_type, constant.dims))
    for sparse in model.graph.sparse_initializer:
        graph.sparse_initializer.add().CopyFrom(sparse)
    skeleton = helper.make_model(graph, opset_imports=model.opset_import, functions=model.functions)
    skeleton.ir_version = model.ir_version
    _check(skeleton, origin)
    return skeleton


def _check(skeleton: onnx.ModelProto, origin: str) -> None:
    """Run ONNX's own checker; that it wants a type and a shape for every output is the only rule left out."""
    defined = {value.name for value in (*skeleton.graph.input, *skeleton.graph.initializer)}
    defined |= {sparse.values.name for sparse in skeleton.graph.sparse_initializer}
    for node in skeleton.graph.node:
        missing = next((name for name in node.input if name and name not in defined), None)
        if missing is not None:
            raise ModelError(f"{origin}: cannot import: nothing before its use defines {missing!r} ({node.op_type})")
        defined.update(node.output)
    _refuse_missing_inputs(skeleton, origin)
    copy = onnx.ModelProto()
    copy.CopyFrom(skeleton)
    for value in copy.graph.output:
        if value.type.WhichOneof("value") is None:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    try:
        checker.check_model(copy)
    except (checker.ValidationError, RuntimeError, ValueError) as error:
        raise ModelError(f"{origin}: cannot import: not a valid ONNX model: {_one_line(error)}") from None


def _refuse_missing_inputs(skeleton: onnx.ModelProto, origin: str) -> None:
    """An empty name leaves an optional input out; TVM's importer dies of one where the operator needs a tensor."""
    opset = opset_of(skeleton)
    nodes = list(skeleton.graph.node)
    while nodes:
        node = nodes.pop()
        for attr in node.attribute:
            nodes += [inner for graph in (attr.g, *attr.graphs) for inner in graph.node]
        if "" not in node.input or node.domain not in ("", "ai.onnx") or not defs.has(node.op_type, opset, ""):
            continue
        formal = defs.get_schema(node.op_type, opset, "").inputs
        for position, name in enumerate(node.input):
            takes = formal[min(position, len(formal) - 1)] if formal else None
            if not name and takes is not None and takes.option != defs.OpSchema.FormalParameterOption.Optional:
                raise ModelError(
                    f"{origin}: cannot import: not a valid ONNX model: node {node.name!r} (operator {node.op_type}): "
                    f"its input {takes.name!r} must not be left out"
                )


def _refuse_windows(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]], origin: str) -> None:
    """ONNX infers an image without a pixel where a window is larger than the padded image."""
    if node.op_type not in WINDOWED:
        return
    image, result = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
    if image and result and min(image) > 0 >= min(result):
        raise ModelError(
            f"{origin}: cannot import: node {node.name!r} (operator {node.op_type}): its window is larger than the "
            f"padded image: of {list(image)} remains {list(result)}"
        )


def _refuse_weights(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]], origin: str) -> None:
    """ONNX infers the output of a convolution without asking whether its weights suit the input."""
    image, weight = (shapes.get(name, ()) for name in node.input[:2])
    if len(image) < 3 or len(weight) != len(image):
        return
    group = next((attr.i for attr in node.attribute if attr.name == "group"), 1)
    kernel = next((tuple(attr.ints) for attr in node.attribute if attr.name == "kernel_shape"), weight[2:])
    if group < 1 or image[1] != weight[1] * group or weight[0] % group or kernel != weight[2:]:
        raise ModelError(
            f"{origin}: cannot import: not a valid ONNX model: node {node.name!r} (operator Conv): weights "
            f"{list(weight)} in {group} groups with kernel {list(kernel)} do not suit {image[1]} input channels"
        )


def _without_declared(skeleton: onnx.ModelProto) -> onnx.ModelProto:
    for value in skeleton.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    return skeleton


def _known_shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return tuple(int(dim.dim_value) for dim in tensor.shape.dim)


def _one_line(error: BaseException) -> str:
    """What ONNX says, whose first line rarely names the operator."""
    return " ".join(str(error).split())[:300]
