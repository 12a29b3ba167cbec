"""Where the largest number of every window of a pooling lies, which TVM's converter does not say.

ONNX's reference says it wrongly for windows that move by one element.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tvm import relax, te, tirx

from tvm_spm.frontend.onnx.windows import windows_of

_NOWHERE = 2**62


def indices_of_largest(
    builder: relax.BlockBuilder, data: relax.Expr, largest: relax.Expr, attributes: Mapping[str, Any]
) -> relax.Expr:
    """The second output of ``MaxPool``: the place of the first of the largest elements in the whole tensor.

    Args:
        builder: Of the function.
        data: What is pooled.
        largest: The first output.
        attributes: Of the node.
    """
    shape = [int(extent) for extent in data.ty.shape.values]
    kernel = [int(extent) for extent in attributes["kernel_shape"]]
    found = windows_of(tuple(shape[2:]), tuple(kernel), attributes)
    inner, by_columns = shape[2:], bool(attributes.get("storage_order", 0))

    def place(data: te.Tensor, largest: te.Tensor) -> te.Tensor:
        windows = [te.reduce_axis((0, extent), name=f"k{axis}") for axis, extent in enumerate(kernel)]

        def element(*at: tirx.Var) -> tirx.PrimExpr:
            lead, out = at[:2], at[2:]
            spots = [
                o * stride + k * dilation - before
                for o, k, stride, dilation, before in zip(
                    out, windows, found.strides, found.dilation, found.padding, strict=False
                )
            ]
            inside = tirx.all(*(tirx.all(spot >= 0, spot < extent) for spot, extent in zip(spots, inner, strict=True)))
            clamped = [
                tirx.max(tirx.min(spot, extent - 1), 0) for spot, extent in zip(spots, inner, strict=True)
            ]  # fmt: skip
            is_it = tirx.all(inside, data(*lead, *clamped) == largest(*at))
            value = tirx.Select(is_it, _flat([*lead, *clamped], shape), tirx.const(_NOWHERE, "int64"))
            return te.min(value, axis=windows)

        first = te.compute(largest.shape, element, name="first_of_largest")
        return _by_columns(first, inner) if by_columns else first

    return builder.call_te(place, data, largest, primfunc_name_hint="max_pool_indices")


def _flat(at: Sequence[tirx.PrimExpr], shape: Sequence[int]) -> tirx.PrimExpr:
    index: tirx.PrimExpr = tirx.const(0, "int64")
    for one, extent in zip(at, shape, strict=True):
        index = index * extent + one.astype("int64")
    return index


def _by_columns(first: te.Tensor, inner: Sequence[int]) -> te.Tensor:
    """The same places where the first axis of an image runs fastest in memory."""
    size = math.prod(inner)

    def element(*at: tirx.Var) -> tirx.PrimExpr:
        rest, moved, step = first(*at) % size, first(*at) // size * size, size
        for axis, extent in enumerate(inner):
            step //= extent
            moved += rest // step % extent * math.prod(inner[:axis])
        return moved

    return te.compute(first.shape, element, name="by_columns")
