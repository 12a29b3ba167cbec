"""Nodes as TVM's converters read them, where they stand otherwise in a model: older forms, types, empty parts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir.expr import GenericConst
from tvm.relax.frontend.onnx.onnx_frontend import onnx_input

from tvm_spm.frontend.onnx.ignored import with_pads
from tvm_spm.frontend.relay.tensors import Builder, Tensor

_SLICE_READS_INPUTS = 10
_TOPK_READS_INPUT = 10
_TOPK_CONVERTER = 11
"""Opsets at which an attribute became an input, and of the converter that reads it there."""


def adapted(
    operator: str, inputs: Sequence[Any], attrs: Mapping[str, Any], opset: int
) -> tuple[Sequence[Any], Mapping[str, Any], int]:
    """What to hand to TVM's converter for inputs, attributes and opset.

    Args:
        operator: In ONNX's own domain.
        inputs: In Relax, ``None`` where left out.
        attrs: Of the node.
        opset: Of the model.
    """
    if operator == "ConvTranspose" and "output_shape" in attrs:
        return inputs, with_pads(inputs, attrs), opset
    if operator == "TopK":
        # Elements in order are as good as those in any.
        return inputs, {**attrs, "sorted": 1}, _TOPK_CONVERTER if opset == _TOPK_READS_INPUT else opset
    if operator == "Slice" and opset < _SLICE_READS_INPUTS:
        starts = attrs["starts"]
        bounds = (starts, attrs["ends"], attrs.get("axes", tuple(range(len(starts)))), (1,) * len(starts))
        return input_list([inputs[0], *(relax.const(np.array(each, np.int64)) for each in bounds)]), attrs, opset
    if operator == "Pow" and inputs[0].ty.dtype != inputs[1].ty.dtype and "float" in str(inputs[0].ty.dtype):
        return input_list([inputs[0], _cast(inputs[1], str(inputs[0].ty.dtype))]), attrs, opset
    if operator == "NonMaxSuppression" and len(inputs) > 3 and isinstance(inputs[3], GenericConst):
        # ONNX drops boxes that overlap by more than the threshold, TVM those that overlap by it.
        above = np.nextafter(inputs[3].value.numpy(), np.float32(np.inf))
        return input_list([*inputs[:3], relax.const(above, "float32"), *inputs[4:]]), attrs, opset
    if operator == "Concat":
        parts = [each for each in inputs if not (isinstance(each, GenericConst) and 0 in each.value.shape)]
        return input_list(parts or list(inputs)), attrs, opset
    return inputs, attrs, opset


def input_list(inputs: Sequence[Any]) -> Sequence[Any]:
    """The list of TVM's importer, in which inputs that are left out behind the last one are None."""
    found = onnx_input()
    found.extend(inputs)
    return found


def _cast(expr: relax.Expr, dtype: str) -> relax.Expr:
    if isinstance(expr, GenericConst):
        return relax.const(expr.value.numpy().astype(dtype), dtype)
    return relax.op.astype(expr, dtype)


def mish(b: Builder, inputs: list[Tensor | None], _attributes: Mapping[str, Any]) -> Tensor:
    """``x tanh(log(1 + e^x))``: with ``n = e^x (e^x + 2)`` that is ``x n / (n + 2)``, and no sum rounds to 1."""
    data = inputs[0]
    assert data is not None
    x = b.expr(data)
    # Behind this n + 2 is n in the dtype; e^x must not leave its range.
    largest = math.log(np.finfo(np.float32).max) / 3 if data.dtype != "float16" else 5.0
    power = relax.op.exp(relax.op.minimum(x, relax.const(largest, data.dtype)))
    ahead = power * (power + relax.const(2, data.dtype))
    return b.emit(x * (ahead / (ahead + relax.const(2, data.dtype))))
