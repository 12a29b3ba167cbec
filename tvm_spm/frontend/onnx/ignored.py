"""What TVM's importer passes over in silence, refused before it computes something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import defs, helper
from tvm.ir.expr import GenericConst

IGNORED: Mapping[str, tuple[str, ...]] = {
    "IsInf": ("detect_negative", "detect_positive"),
    "Resize": ("antialias", "axes", "keep_aspect_ratio_policy"),
    "SpaceToDepth": ("mode",),
}
"""By operator, the attributes that change its numbers and that its converter never reads."""

WITHOUT_EFFECT: Mapping[str, tuple[str, ...]] = {
    "Attention": (
        "is_causal", "kv_num_heads", "left_window_size", "q_num_heads", "qk_matmul_output_mode", "right_window_size",
        "softcap", "softmax_precision",
    ),
    "BatchNormalization": ("spatial",),
    "Cast": ("round_mode", "saturate"),
    "CastLike": ("round_mode", "saturate"),
    "Constant": (
        "sparse_value", "value_float", "value_floats", "value_int", "value_ints", "value_string", "value_strings",
    ),
    "ConvTranspose": ("output_shape",),
    "Dropout": ("seed",),
    "LayerNormalization": ("stash_type",),
    "LpPool": ("auto_pad", "ceil_mode", "dilations", "pads", "strides"),
    "MaxPool": ("storage_order",),
    "Range": ("stash_type",),
    "SequenceEmpty": ("dtype",),
    "Slice": ("axes", "ends", "starts"),
}  # fmt: skip
"""Those that no converter names and none has to: of nodes that are written out before, of 8-bit floats, of indices
that are refused, of training, or read by what all poolings share."""


def refuse_ignored(operator: str, inputs: Sequence[Any], attrs: Mapping[str, Any], opset: int) -> None:
    """Let nothing pass that the importer would compute otherwise.

    Args:
        operator: In ONNX's own domain.
        inputs: In Relax, ``None`` where left out.
        attrs: Of the node.
        opset: Of the model.

    Raises:
        NotImplementedError: An attribute is not its default and is not read, or a Resize is none of images.
    """
    for name in IGNORED.get(operator, ()):
        if name in attrs and not _is_default(name, attrs[name], operator, opset):
            raise NotImplementedError(f"operator {operator}: the importer does not read attribute {name}")
    if operator == "Resize":
        mode = attrs.get("coordinate_transformation_mode", b"half_pixel")
        if mode in (b"half_pixel_symmetric", "half_pixel_symmetric"):
            raise NotImplementedError("operator Resize: TVM has no coordinates half_pixel_symmetric")
        _refuse_resize(inputs)


def with_pads(inputs: Sequence[Any], attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a ConvTranspose with the padding that makes its ``output_shape``, as ONNX defines it.

    Args:
        inputs: Image and weights in Relax.
        attrs: Of the node, ``output_shape`` among them.
    """
    image, weights = ([int(extent) for extent in each.ty.shape.values][2:] for each in inputs[:2])
    ones = [1] * len(image)
    strides, dilations = attrs.get("strides", ones), attrs.get("dilations", ones)
    grown = list(attrs.get("output_padding", [0] * len(image)))
    wanted = list(attrs["output_shape"])[-len(image) :]
    is_upper = attrs.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", "SAME_UPPER")
    front, behind = [], []
    for axis, extent in enumerate(image):
        whole = strides[axis] * (extent - 1) + dilations[axis] * (weights[axis] - 1) + 1 + grown[axis]
        total = max(0, whole - wanted[axis])
        grown[axis] += max(0, wanted[axis] - whole)
        front.append(total // 2 if is_upper else total - total // 2)
        behind.append(total - front[-1])
    kept = {name: value for name, value in attrs.items() if name not in ("output_shape", "auto_pad")}
    return {**kept, "pads": [*front, *behind], "output_padding": grown}


def _is_default(name: str, value: object, operator: str, opset: int) -> bool:
    default = defs.get_schema(operator, opset).attributes[name].default_value
    return bool(default.name) and bool(value == helper.get_attribute_value(default))


def _refuse_resize(inputs: Sequence[Any]) -> None:
    """TVM takes the last axes to be the ones that grow, and ratios of extents for the scales that gave them.

    Raises:
        NotImplementedError: Batch or channels grow too, or a scaled extent is no whole number: its elements then have
            other places in the input.
    """
    extents = np.array([int(extent) for extent in inputs[0].ty.shape.values])
    scales, sizes = (_numbers(inputs[at]) if len(inputs) > at else None for at in (2, 3))
    wanted = extents * scales if scales is not None and scales.size else sizes
    if wanted is None:
        return
    if not np.allclose(wanted[:2], extents[:2], rtol=0, atol=_WHOLE):
        raise NotImplementedError("operator Resize: the importer grows only the axes behind the first two")
    if not np.allclose(wanted, np.round(wanted), rtol=0, atol=_WHOLE):
        raise NotImplementedError(f"operator Resize: the importer rounds scales that give {wanted.tolist()} elements")


_WHOLE = 1e-4
"""How far a product of an extent and a scale of 32 bits may be from a whole number."""


def _numbers(given: object) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    return given.value.numpy().astype(np.float64) if isinstance(given, GenericConst) else None
