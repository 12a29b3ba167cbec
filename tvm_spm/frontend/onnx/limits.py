"""What is no network of tensors of numbers at inference, refused by name before TVM reads it as one."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from tvm import relax
from tvm.ir.expr import GenericConst

from tvm_spm.errors import ModelError
from tvm_spm.frontend.onnx.host import TensorKind
from tvm_spm.frontend.onnx.writer import opset_of

_SMALL = ("int4", "uint4", "int2", "uint2")


def describe(node: onnx.NodeProto) -> str:
    """How errors call a node."""
    name = node.name or next((output for output in node.output if output), "?")
    operator = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    return f"node {name!r} (operator {operator})"


def refuse_kinds(model: onnx.ModelProto, origin: str) -> None:
    """An input is a tensor of numbers.

    Raises:
        ModelError: One is of texts, a sequence or optional; names it.
    """
    for value in model.graph.input:
        kind = value.type.WhichOneof("value")
        if kind == "tensor_type" and value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
            what, way = "a tensor of texts", "behind what turns them into numbers"
        elif kind not in ("tensor_type", None):
            what, way = f"a {str(kind).removesuffix('_type')}, no tensor", "behind what takes tensors out of it"
        else:
            continue
        reader = next((node for node in model.graph.node if value.name in node.input), None)
        of = "" if reader is None else f", which {describe(reader)} reads"
        raise ModelError(
            f"{origin}: cannot import: input {value.name!r} is {what}{of}; cut the model {way} "
            "(onnx.utils.extract_model)"
        )


def refuse_small(model: onnx.ModelProto, kinds: Mapping[str, TensorKind], origin: str) -> None:
    """Integers of less than a byte are constants, or what follows from them; TVM computes none.

    Raises:
        ModelError: An input or a result is made of them; names it.
    """
    constants = {init.name for init in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    for name, kind in kinds.items():
        if kind.dtype in _SMALL and name not in constants:
            of = f"result of {describe(makers[name])}" if name in makers else "input"
            raise ModelError(
                f"{origin}: cannot import: tensor {name!r} ({of}) is {kind.dtype.upper()}: integers of less than a "
                "byte can only be constants; export the model with at least INT8 there"
            )


def refuse_empty(main: relax.Function, origin: str) -> None:
    """TVM cannot store a constant without an element.

    Raises:
        ModelError: There is one.
    """
    found: list[tuple[int, ...]] = []

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, GenericConst) and isinstance(expr.ty, relax.TensorType) and 0 in expr.value.shape:
            found.append(tuple(int(extent) for extent in expr.value.shape))

    relax.analysis.post_order_visit(main.body, visit)
    if found:
        raise ModelError(
            f"{origin}: cannot import: a result or an operand has shape {list(found[0])} and holds no element: every "
            "extent must be >= 1; leave it out of the model"
        )


def _is_true(init: onnx.TensorProto) -> bool:
    return init.data_type == onnx.TensorProto.BOOL and bool(onnx.numpy_helper.to_array(init).any())


def refuse_training(model: onnx.ModelProto, origin: str) -> None:
    """TVM imports a normalisation or dropout in training as one in inference, and gives statistics other shapes.

    Raises:
        ModelError: A node is one in training, or its statistics are used; names it.
    """
    fixed = {init.name for init in model.graph.initializer if not _is_true(init)}
    opset = opset_of(model)
    used = {name for node in model.graph.node for name in node.input} | {out.name for out in model.graph.output}
    for node in model.graph.node:
        extra = [name for name in node.output[1:] if name]
        trains = any(attr.name == "training_mode" and attr.i for attr in node.attribute) or (opset < 14 and extra)
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] and node.input[2] not in fixed:
            raise ModelError(
                f"{origin}: cannot import: {describe(node)} drops at random, as in training; "
                "export the model for inference"
            )
        if node.op_type == "BatchNormalization" and trains:
            raise ModelError(
                f"{origin}: cannot import: {describe(node)} normalises by its batch, as in training; "
                "export the model for inference"
            )
        if node.op_type == "BatchNormalization" and used.intersection(extra):
            raise ModelError(
                f"{origin}: cannot import: {describe(node)}: its output {used.intersection(extra).pop()!r} is used; "
                "only its first output can be"
            )
