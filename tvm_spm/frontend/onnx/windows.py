"""Where the windows of an ONNX convolution lie, with its defaults and automatic padding written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm_spm.errors import ModelError
from tvm_spm.frontend.tir.packed import Windows


def windows_of(image: Sequence[int], taps: Sequence[int], attributes: Mapping[str, Any]) -> Windows:
    """Windows over an image.

    Args:
        image: Its extents without padding.
        taps: Of a window, along each axis.
        attributes: Of the node.

    Raises:
        ModelError: ``auto_pad`` is none of ONNX's.
    """
    num_axes = len(image)
    strides = tuple(int(each) for each in attributes.get("strides", (1,) * num_axes))
    dilation = tuple(int(each) for each in attributes.get("dilations", (1,) * num_axes))
    window = [step * (extent - 1) + 1 for step, extent in zip(dilation, taps, strict=True)]
    padding = tuple(int(each) for each in attributes.get("pads", (0,) * 2 * num_axes))
    auto = attributes.get("auto_pad", b"NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else str(auto)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        padding = _same(image, window, strides, is_upper=auto == "SAME_UPPER")
    elif auto not in ("NOTSET", "VALID"):
        raise ModelError(f"attribute auto_pad = {auto!r}: must be NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    return Windows(strides=strides, dilation=dilation, padding=padding, groups=int(attributes.get("group", 1)))


def _same(image: Sequence[int], window: Sequence[int], strides: Sequence[int], *, is_upper: bool) -> tuple[int, ...]:
    """Padding with which every ``stride``-th element has an output; an odd one goes behind or in front."""
    front, behind = [], []
    for extent, taps, stride in zip(image, window, strides, strict=True):
        total = max(0, (-(-extent // stride) - 1) * stride + taps - extent)
        less, more = total // 2, total - total // 2
        front.append(less if is_upper else more)
        behind.append(more if is_upper else less)
    return (*front, *behind)
