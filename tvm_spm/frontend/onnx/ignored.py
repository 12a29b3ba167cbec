"""What TVM's importer passes over in silence, refused before it computes something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import defs, helper
from tvm import relax
from tvm.ir.expr import GenericConst

IGNORED: Mapping[str, tuple[str, ...]] = {
    "IsInf": ("detect_negative", "detect_positive"),
    "Resize": ("antialias", "axes", "keep_aspect_ratio_policy"),
    "SpaceToDepth": ("mode",),
}
"""By operator, the attributes that change its numbers and that its converter never reads."""

NEEDS_CONSTANTS: Mapping[str, tuple[int, ...]] = {
    "BlackmanWindow": (0,), "ConstantOfShape": (0,), "Expand": (1,), "HammingWindow": (0,), "HannWindow": (0,),
    "NonMaxSuppression": (2, 3, 4),
}  # fmt: skip
"""Inputs that decide shapes, or for which a converter takes a default where they are no constants."""

_SORTED = ("float16", "float32", "float64", "int8", "int32", "int64", "uint8")
"""What TVM sorts."""

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
        NotImplementedError: An attribute is not its default and is not read, an input must be a constant, a dtype is
            none of those that TVM computes, or a Resize is none of images.
    """
    refuse_computed(operator, inputs, NEEDS_CONSTANTS.get(operator, ()), opset)
    _refuse_dtypes(operator, [_dtype(each) for each in inputs], attrs)
    if operator == "BitShift" and not _is_small_shift(inputs):
        raise NotImplementedError("operator BitShift: TVM shifts unsigned numbers by constants below their width")
    for name in IGNORED.get(operator, ()):
        if name in attrs and not _is_default(name, attrs[name], operator, opset):
            raise NotImplementedError(f"operator {operator}: the importer does not read attribute {name}")
    if operator == "Resize":
        mode = attrs.get("coordinate_transformation_mode", b"half_pixel")
        if mode in (b"half_pixel_symmetric", "half_pixel_symmetric"):
            raise NotImplementedError("operator Resize: TVM has no coordinates half_pixel_symmetric")
        _refuse_resize(inputs)


def refuse_computed(operator: str, inputs: Sequence[Any], indices: Sequence[int], opset: int) -> None:
    """Refuse inputs that the data decides.

    Args:
        operator: Its name.
        inputs: In Relax.
        indices: Of those that must be constants.
        opset: Of the model.

    Raises:
        NotImplementedError: One is computed.
    """
    for index in indices:
        given = inputs[index] if index < len(inputs) else None
        if given is not None and not isinstance(given, (GenericConst, relax.ShapeExpr)):
            formal = defs.get_schema(operator, opset).inputs[index].name
            raise NotImplementedError(
                f"operator {operator}: its input {formal!r} depends on the data: must be a constant (--value "
                "NAME=NUMBERS makes one of an input)"
            )


def _dtype(given: object) -> str:
    kind = getattr(given, "ty", None)
    return str(kind.dtype) if isinstance(kind, relax.TensorType) else ""


def _refuse_dtypes(operator: str, dtypes: Sequence[str], attrs: Mapping[str, Any]) -> None:
    """Refuse what TVM's kernels do not compute in these dtypes, or compute otherwise.

    Raises:
        NotImplementedError: They do not.
    """
    if operator in ("Cast", "CastLike"):
        to = dtypes[1] if operator == "CastLike" else str(helper.tensor_dtype_to_np_dtype(attrs["to"]))
        refused = any(each.startswith(("float8", "float4")) for each in (dtypes[0], to))
    elif operator == "Mod":
        refused = "float" in dtypes[0] and not attrs.get("fmod", 0)
    elif operator == "Pow":
        refused = "float" not in dtypes[0]
    elif operator == "RoiAlign":
        refused = attrs.get("mode", b"avg") in (b"max", "max")
    else:
        refused = operator == "TopK" and dtypes[0] not in _SORTED
    if refused:
        raise NotImplementedError(f"operator {operator}: TVM has none like ONNX's for {', '.join(dtypes)}")


def _is_small_shift(inputs: Sequence[Any]) -> bool:
    dtype, by = _dtype(inputs[0]), inputs[1]
    if not dtype.startswith("uint") or not isinstance(by, GenericConst):
        return False
    return bool((by.value.numpy() < int(dtype.removeprefix("uint"))).all())


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
