"""Normalisations, with a sum before them or not, and the embedding that ends in one."""

from __future__ import annotations

import numpy as np

from tvm_spm.frontend.onnx.microsoft.place import TypedNode, TypedRewrite

_HAS_LAYER_NORMALIZATION = 17
"""First opset with the operator."""


def _layer_normalization(each: TypedNode) -> None:
    """Inputs: x, scale, bias; outputs: y, mean, 1 / deviation. As of opset 17, in models of older ones."""
    _layer_norm(each, each.input(0), (each.input(1), each.input(2)))


def _skip_layer_norm(each: TypedNode) -> None:
    """Inputs: x, skip, scale, bias, bias of the sum; outputs: y, mean, 1 / deviation, sum."""
    _layer_norm(each, _sum(each, 4), (each.input(2), each.input(3)))


def _simplified_layer_norm(each: TypedNode) -> None:
    """Inputs: x, scale; outputs: y, 1 / root of the mean square."""
    _rms_norm(each, each.input(0), each.input(1), 1)


def _skip_simplified_layer_norm(each: TypedNode) -> None:
    """Inputs: x, skip, scale, bias of the sum; outputs: y, -, 1 / root of the mean square, sum."""
    _rms_norm(each, _sum(each, 3), each.input(2), 2)


def _embed_layer_norm(each: TypedNode) -> None:
    """Inputs: ids, segments, three tables (words, places, segments), scale, bias, mask, places.

    Outputs: y, number of words that the mask leaves, sum.
    """
    w = each.writer
    batch, length = each.extents(0, 2)
    total = w.emit("Gather", each.input(2), each.input(0), axis=0)
    if each.input(8):
        places = w.emit("Gather", each.input(3), each.input(8), axis=0)
    else:
        places = w.sliced(each.input(3), 0, length, axis=0, step=1)
    total = w.emit("Add", total, places)
    if each.input(1):
        total = w.emit("Add", total, w.emit("Gather", each.input(4), each.input(1), axis=0))
    each.give(2, total)
    if each.is_wanted(1) and not each.input(7):
        each.give(1, w.constant(np.zeros(batch, np.int32)))
    elif each.is_wanted(1):
        mask = each.cast(each.input(7), np.int32)
        if w.opset < 13:
            w.emit("ReduceSum", mask, axes=[1], keepdims=0, out=each.node.output[1])
        else:
            w.emit("ReduceSum", mask, w.integers(1), keepdims=0, out=each.node.output[1])
    _layer_norm(each.computing_as(2), total, (each.input(5), each.input(6)), has_statistics=False)


def _sum(each: TypedNode, bias: int) -> str:
    total = each.writer.emit("Add", each.input(0), each.input(1))
    if each.input(bias):
        total = each.writer.emit("Add", total, each.input(bias))
    each.give(3, total)
    return total


def _layer_norm(each: TypedNode, data: str, factors: tuple[str, str], *, has_statistics: bool = True) -> None:
    w, epsilon, dtype = each.writer, _epsilon(each), each.dtype()
    axes = _num_axes(each)
    if w.opset >= _HAS_LAYER_NORMALIZATION and not (has_statistics and (each.is_wanted(1) or each.is_wanted(2))):
        inputs = [name for name in (data, *factors) if name]
        w.emit("LayerNormalization", *inputs, axis=-axes, epsilon=epsilon, out=each.out)
        return
    wide = _wide(dtype)
    floats = data if dtype == wide else each.cast(data, wide)
    middle = each.mean(floats, axes)
    centred = w.emit("Sub", floats, middle)
    variance = each.mean(w.emit("Mul", centred, centred), axes)
    deviation = w.emit("Sqrt", w.emit("Add", variance, w.constant(np.array(epsilon, wide))))
    if has_statistics:
        each.give(1, middle)
        if each.is_wanted(2):
            w.emit("Reciprocal", deviation, out=each.node.output[2])
    _scaled(each, w.emit("Div", centred, deviation), factors, dtype)


def _rms_norm(each: TypedNode, data: str, scale: str, statistic: int) -> None:
    w, dtype, axes = each.writer, each.dtype(), _num_axes(each)
    wide = _wide(dtype)
    floats = data if dtype == wide else each.cast(data, wide)
    square = each.mean(w.emit("Mul", floats, floats), axes)
    root = w.emit("Sqrt", w.emit("Add", square, w.constant(np.array(_epsilon(each), wide))))
    if each.is_wanted(statistic):
        w.emit("Reciprocal", root, out=each.node.output[statistic])
    _scaled(each, w.emit("Div", floats, root), (scale, ""), dtype)


def _epsilon(each: TypedNode) -> float:
    """What is added to the variance: by default less in the operators that add or look up rows before."""
    return each.attribute("epsilon", 1e-12 if each.node.op_type.startswith(("Embed", "Skip")) else 1e-5)


def _num_axes(each: TypedNode) -> int:
    """Axes that are normalised: the last ones."""
    axis = each.integer("axis", -1)
    return -axis if axis < 0 else len(each.shape(0)) - axis


def _wide(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """In which numbers are summed."""
    return np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)


def _scaled(each: TypedNode, floats: str, factors: tuple[str, str], dtype: np.dtype[np.generic]) -> None:
    """Times a factor plus a bias, in the dtype of the data."""
    w, (scale, bias) = each.writer, factors
    found = floats if dtype == _wide(dtype) else each.cast(floats, dtype)
    if bias:
        found = w.emit("Mul", found, scale)
    w.emit(*(("Add", found, bias) if bias else ("Mul", found, scale)), out=each.out)


NORMALISED: dict[str, TypedRewrite] = {
    "EmbedLayerNormalization": _embed_layer_norm,
    "LayerNormalization": _layer_normalization,
    "RMSNormalization": _simplified_layer_norm,
    "SimplifiedLayerNormalization": _simplified_layer_norm,
    "SkipLayerNormalization": _skip_layer_norm,
    "SkipSimplifiedLayerNormalization": _skip_simplified_layer_norm,
}
