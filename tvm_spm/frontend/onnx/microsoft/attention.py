"""Attention over whole sequences."""

from __future__ import annotations

import numpy as np

from tvm_spm.errors import ModelError
from tvm_spm.frontend.onnx.in_place import integer_sums
from tvm_spm.frontend.onnx.microsoft.heads import (
    Scores,
    attended,
    causal,
    heads_of,
    hidden_where,
    least,
    require_divides,
    rows_of,
)
from tvm_spm.frontend.onnx.microsoft.place import TypedNode, TypedRewrite

_HIDDEN = -10_000.0
"""What hides a key where the node does not say it."""


def _attention(each: TypedNode) -> None:
    """Inputs: x, weights of all three projections side by side, bias, mask, past, -, bias of the scores.

    Outputs: y, keys and values as (2, batch, heads, keys, depth).
    """
    each.refuse("do_rotary", "past_present_share_buffer")
    each.refuse_inputs(6)
    w = each.writer
    widths = _widths(each)
    columns = w.split(each.input(1), widths, 1)
    biases = w.split(each.input(2), widths, 0) if each.input(2) else ["", "", ""]
    parts = []
    for weights, bias in zip(columns, biases, strict=True):
        product = w.emit("MatMul", each.input(0), weights)
        parts.append(w.emit("Add", product, bias) if bias else product)
    _self_attention(each, parts, widths, (3, 4, 5))


def _q_attention(each: TypedNode) -> None:
    """As ``_attention`` on bytes.

    Inputs: x, weights, bias, scale of x, of weights, mask, zero of x, of weights, past.
    """
    each.refuse("do_rotary", "past_present_share_buffer")
    w, widths = each.writer, _widths(each)
    columns = w.split(each.input(1), widths, 1)
    biases = w.split(each.input(2), widths, 0)
    scale, zero = (_by_column(each, index, widths) for index in (4, 7))
    parts = []
    for weights, bias, factor, middle in zip(columns, biases, scale, zero, strict=True):
        sums = integer_sums(each, "MatMulInteger", (each.input(0), weights, each.input(6), middle))
        factors = w.emit("Mul", each.input(3), factor)
        parts.append(w.emit("Add", w.emit("Mul", each.cast(sums, each.dtype(3)), factors), bias))
    _self_attention(each, parts, widths, (5, 8, 9))


def _by_column(each: TypedNode, index: int, widths: tuple[int, int, int]) -> list[str]:
    """One number for all columns, or the parts of one for each."""
    name = each.input(index)
    if not name:
        return [""] * 3
    return each.writer.split(name, widths, 0) if max(each.shape(index), default=1) > 1 else [name] * 3


def _widths(each: TypedNode) -> tuple[int, int, int]:
    given = each.numbers("qkv_hidden_sizes")
    if given:
        first, second, third = (int(width) for width in given)
        return first, second, third
    third = require_divides(each, "columns of the weights", each.shape(1)[1], 3)
    return third, third, third


def _self_attention(
    each: TypedNode, parts: list[str], widths: tuple[int, int, int], inputs: tuple[int, int, int]
) -> None:
    """Args: rows of queries, keys and values, how wide they are; the inputs with mask, past and bias of the scores."""
    w, (mask, past, bias) = each.writer, inputs
    batch, rows = each.shape(0)[:2]
    num_heads = each.integer("num_heads")
    depth = require_divides(each, "queries", widths[0], num_heads)
    query, keys, values = (heads_of(each, part, num_heads) for part in parts)
    num_keys = rows
    floats = 2 if each.node.op_type == "QAttention" else 0
    each = each.computing_as(floats)
    if each.input(past):
        num_keys += each.extents(past, 5)[3]
        keys, values = (
            w.concat([w.at(each.input(past), number), new], 2) for number, new in enumerate((keys, values))
        )  # fmt: skip
    if each.is_wanted(1):
        w.concat([w.unsqueezed(keys, 0), w.unsqueezed(values, 0)], 0, out=each.node.output[1])
    masks = []
    if each.input(mask):
        masks.append(_mask(each, mask, (batch, rows, num_keys)))
    if each.integer("unidirectional"):
        masks.append(causal(each, rows, num_keys, hidden=least(each.dtype())))
    if each.input(bias):
        masks.append(each.input(bias))
    scores = Scores(scale=each.own_scale(depth), masks=masks)
    each.give(0, rows_of(each, attended(each, query, keys, values, scores)))


def _mask(each: TypedNode, index: int, extents: tuple[int, int, int]) -> str:
    """A mask from whole numbers: of keys, of keys by row, or the number of keys.

    Raises:
        ModelError: It has another shape.
    """
    w, (batch, rows, num_keys), shape = each.writer, extents, each.shape(index)
    hidden = each.attribute("mask_filter_value", _HIDDEN)
    places = w.constant(np.arange(num_keys, dtype=np.int32).reshape(1, 1, 1, -1))
    if shape == (batch,) or (shape == (2 * batch,) and num_keys != 2 * batch):
        ends = each.reshaped(w.sliced(each.input(index), 0, batch, axis=0, step=1), batch, 1, 1, 1)
        is_seen = w.emit("Less", places, ends)
        if shape != (batch,):
            starts = each.reshaped(w.sliced(each.input(index), batch, 2 * batch, axis=0, step=1), batch, 1, 1, 1)
            is_seen = w.emit("And", is_seen, w.emit("Not", w.emit("Less", places, starts)))
        return hidden_where(each, is_seen, hidden)
    mask = each.input(index)
    if len(shape) == 4:
        mask = w.sliced(mask, num_keys - rows, num_keys, axis=2, step=1)
        mask = w.sliced(mask, 0, num_keys, axis=3, step=1)
    elif shape[-1] == num_keys and len(shape) in (2, 3):
        mask = each.reshaped(mask, shape[0], 1, shape[1] if len(shape) == 3 else 1, num_keys)
    else:
        raise ModelError(
            f"{each.what}: mask {list(shape)} of {batch} sequences: must be {[batch]}, {[2 * batch]}, "
            f"{[batch, num_keys]}, {[batch, rows, num_keys]} or of four axes"
        )
    return hidden_where(each, w.emit("Greater", mask, w.constant(np.zeros((), each.dtype(index)))), hidden)


def _multi_head_attention(each: TypedNode) -> None:
    """Inputs: queries, keys, values, bias, mask of keys, bias of the scores, past keys, past values.

    Queries, keys and values have an axis of rows; keys and values may come as heads, or all in one tensor. Outputs: y,
    keys, values.
    """
    each.refuse_inputs(8, 9)
    w, num_heads = each.writer, each.integer("num_heads")
    batch, rows = each.shape(0)[:2]
    biases, depth = ["", "", ""], 0
    if len(each.shape(0)) == 5:
        depth = each.shape(0)[4]
        packed = w.split(each.input(0), (1, 1, 1), 3)
        parts = [w.emit("Transpose", each.reshaped(part, batch, rows, num_heads, depth), perm=[0, 2, 1, 3])
                 for part in packed]  # fmt: skip
        is_turned, num_keys = [True] * 3, rows
    elif each.input(1) and len(each.shape(1)) == 5:
        depth, num_keys = each.shape(1)[4], each.shape(1)[1]
        packed = [each.reshaped(part, batch, num_keys, num_heads, depth) for part in w.split(each.input(1), (1, 1), 3)]
        parts = [each.input(0), *(w.emit("Transpose", part, perm=[0, 2, 1, 3]) for part in packed)]
        is_turned = [False, True, True]
    elif each.input(1):
        depth = require_divides(each, "queries", each.shape(0)[2], num_heads)
        parts, num_keys = [each.input(index) for index in range(3)], each.shape(1)[-2]
        is_turned = [False, len(each.shape(1)) == 4, len(each.shape(2)) == 4]
    else:
        raise ModelError(f"{each.what}: queries {list(each.shape(0))} without keys: must have 5 axes")
    if each.input(3):
        wide = num_heads * depth
        biases = w.split(each.input(3), (wide, wide, each.shape(3)[0] - 2 * wide), 0)
    heads = []
    for part, bias, turned in zip(parts, biases, is_turned, strict=True):
        if bias and turned:
            part = w.emit("Add", part, each.reshaped(bias, 1, num_heads, 1, -1))
        elif bias:
            part = w.emit("Add", part, bias)
        heads.append(part if turned else heads_of(each, part, num_heads))
    query, keys, values = heads
    if each.input(6):
        num_keys += each.extents(6, 4)[2]
        keys, values = w.concat([each.input(6), keys], 2), w.concat([each.input(7), values], 2)
    each.give(1, keys)
    each.give(2, values)
    masks = []
    if each.input(4):
        masks.append(_mask(each, 4, (batch, rows, num_keys)))
    if each.integer("unidirectional"):
        masks.append(causal(each, rows, num_keys, hidden=least(each.dtype())))
    if each.input(5):
        masks.append(each.input(5))
    scores = Scores(scale=each.own_scale(depth), masks=masks)
    each.give(0, rows_of(each, attended(each, query, keys, values, scores)))


ATTENTION: dict[str, TypedRewrite] = {
    "Attention": _attention,
    "MultiHeadAttention": _multi_head_attention,
    "QAttention": _q_attention,
}
