"""Upsample, and Resize as it was before opset 11: an element stands at its own index over the scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import relax

from tvm_spm.errors import ModelError
from tvm_spm.frontend.relay.operators.data_movement import known
from tvm_spm.frontend.relay.tensors import Builder, Tensor


def upsample(b: Builder, inputs: list[Tensor | None], attributes: Mapping[str, Any]) -> Tensor:
    """Grow or shrink axes; TVM's converters do not know that scales are an input.

    Raises:
        ModelError: The scales are no constant or do not suit the tensor, or the mode is none of ONNX's.
    """
    data, scales = inputs[0], inputs[1] if len(inputs) > 1 else None
    assert data is not None
    factors = [float(each) for each in attributes.get("scales", () if scales is None else known(scales, "scales"))]
    if len(factors) != data.rank or min(factors, default=1.0) <= 0:
        raise ModelError(f"scales {factors} of a tensor with {data.rank} axes: must be {data.rank} numbers above 0")
    mode = attributes.get("mode", b"nearest")
    mode = mode.decode() if isinstance(mode, bytes) else str(mode)
    method = {"nearest": "nearest_neighbor", "linear": "linear", "bilinear": "linear"}.get(mode)
    if method is None:
        raise ModelError(f"attribute mode = {mode!r}: must be nearest or linear")
    size = [_grown(extent, factor) for extent, factor in zip(data.shape, factors, strict=True)]
    is_image = data.rank == 4 and size[:2] == list(data.shape[:2])
    if is_image and all(extent * factor == now for extent, factor, now in zip(data.shape, factors, size, strict=True)):
        return b.emit(
            relax.op.image.resize2d(
                b.expr(data), tuple(size[2:]), layout="NCHW", method=method, rounding_method="floor",
                coordinate_transformation_mode="asymmetric",
            )
        )  # fmt: skip
    for axis, factor in enumerate(factors):
        if factor != 1.0:
            data = _along(b, data, axis, factor, is_linear=method == "linear")
    return data


def _grown(extent: int, factor: float) -> int:
    return math.floor(np.float32(extent) * np.float32(factor))


def _along(b: Builder, data: Tensor, axis: int, factor: float, *, is_linear: bool) -> Tensor:
    """One axis by gathering: TVM's own kernels place elements by the ratio of extents, which is not the scale."""
    last = data.shape[axis] - 1
    places = np.arange(_grown(last + 1, factor), dtype=np.float32) / np.float32(factor)
    below = np.minimum(np.floor(places), last).astype(np.int64)

    def taken(indices: np.ndarray[Any, np.dtype[np.int64]]) -> relax.Expr:
        return relax.op.take(b.expr(data), b.expr(b.const(indices)), axis=axis)

    if not is_linear:
        return b.emit(taken(below))
    shape = [1] * data.rank
    shape[axis] = len(places)
    share = np.clip(places - below, 0, 1).reshape(shape)
    near, far = (b.expr(b.const(each.astype(data.dtype))) for each in (1 - share, share))
    return b.emit(taken(below) * near + taken(np.minimum(below + 1, last)) * far)
