"""Layers that multiply dequantised tensors, as sums of integers that are scaled once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tvm_spm.frontend.relay.operators.convolution import out_layout
from tvm_spm.frontend.relay.operators.elementwise import along, binary, cast
from tvm_spm.frontend.relay.operators.quantised_layers import multiply_integers
from tvm_spm.frontend.relay.operators.registry import OPERATORS, Attrs
from tvm_spm.frontend.relay.tensors import Builder, Dequantised, Tensor

_BYTES = ("int8", "uint8")

_Sums = Callable[[Builder, Attrs, Dequantised, Dequantised], "Tensor | None"]
"""int32 sums, or ``None`` if the scales depend on the terms of a sum."""


def _take_integers(name: str, sums: _Sums, channels: Callable[[Attrs], int]) -> None:
    """Let an operator on floats read the integers behind them.

    Args:
        name: The operator; its first two arguments are multiplied.
        sums: What it makes of integers.
        channels: The axis of its result that a scale per channel belongs to.
    """
    spec = OPERATORS[name]

    def handler(b: Builder, a: Attrs, data: Tensor, weight: Tensor) -> Tensor:
        left, right = data.dequantised, weight.dequantised
        total = None
        if left is not None and right is not None and _are_bytes(left, right) and not left.scale.rank:
            total = sums(b, a, left, right)
        if total is None:
            found = spec.handler(b, a, data, weight)
            assert isinstance(found, Tensor)
            return found
        assert left is not None
        assert right is not None
        scale = binary(b, "multiply", left.scale, right.scale)
        return binary(b, "multiply", cast(b, total, "float32"), along(b, scale, channels(a), total))

    OPERATORS[name] = replace(spec, handler=handler)


def _are_bytes(left: Dequantised, right: Dequantised) -> bool:
    return left.data.dtype in _BYTES and right.data.dtype in _BYTES


def _conv2d(b: Builder, a: Attrs, data: Dequantised, weight: Dequantised) -> Tensor | None:
    layouts = a.text("kernel_layout"), out_layout(a)
    if weight.data.array is None or any(len(layout) != 4 for layout in layouts):
        return None
    if weight.scale.rank and layouts[0].index("O") != weight.data.axis(weight.axis):
        return None
    if a.integer("groups") > 1 and layouts[0] != "OIHW":
        # Output channels of a depthwise kernel may be in two of its axes.
        return None
    return _as_integers("qnn.conv2d", b, a.but(out_dtype="int32"), data, weight)


def _dense(b: Builder, a: Attrs, data: Dequantised, weight: Dequantised) -> Tensor | None:
    if weight.data.array is None or (weight.scale.rank and weight.data.axis(weight.axis) != 0):
        return None
    return _as_integers("qnn.dense", b, a.but(out_dtype="int32"), data, weight)


def _as_integers(name: str, b: Builder, a: Attrs, data: Dequantised, weight: Dequantised) -> Tensor:
    """By the operator on quantised tensors; one tensor of each zero point is an integer, as those are."""
    found = OPERATORS[name].handler(
        b, a, data.data, weight.data, data.zero_point, weight.zero_point, data.scale, weight.scale
    )
    assert isinstance(found, Tensor)
    return found


def _product(b: Builder, a: Attrs, left: Dequantised, right: Dequantised) -> Tensor | None:
    if right.scale.rank or left.zero_point.rank or right.zero_point.rank:
        return None
    operands = []
    for each, is_flipped in ((left, a.flag("transpose_a")), (right, a.flag("transpose_b"))):
        axes = (*range(each.data.rank - 2), each.data.rank - 1, each.data.rank - 2)
        operands.append(b.permute(b.bare(each.data), axes) if is_flipped else each.data)
    return multiply_integers(b, operands[0], operands[1], (left.zero_point, right.zero_point))


_take_integers("nn.conv2d", _conv2d, lambda a: out_layout(a).index("C"))
_take_integers("nn.dense", _dense, lambda a: -1)
_take_integers("nn.matmul", _product, lambda a: -1)
_take_integers("nn.batch_matmul", _product, lambda a: -1)
