"""Operators of PyTorch that TVM's importer lacks, or imports with other numbers than they have."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from torch import fx
from tvm import relax

from tvm_spm.frontend.torch.recurrent import LAYERS, recurrent

if TYPE_CHECKING:
    from tvm_spm.frontend.torch.importer import Importer

Convert: TypeAlias = "Callable[[fx.Node, Importer], Any]"
"""A node as a tensor, or as several."""


def _shape(expr: relax.Expr) -> tuple[int, ...]:
    return tuple(int(extent) for extent in expr.ty.shape.values)


def _given(node: fx.Node, importer: Importer, names: Sequence[str], **defaults: object) -> list[Any]:
    """Arguments by position or name, as expressions where they are tensors."""
    args, kwargs = importer.arguments(node)
    found = [*args, *(kwargs.get(name, defaults.get(name)) for name in names[len(args) :])]
    return found[: len(names)]


def _matmul(node: fx.Node, importer: Importer) -> relax.Expr:
    # TVM's converter sums every product as float32 and leaves it so.
    left, right = _given(node, importer, ("self", "mat2"))
    return importer.emit(relax.op.matmul(left, right))


def _add_matmul(node: fx.Node, importer: Importer) -> relax.Expr:
    added, left, right, beta, alpha = _given(node, importer, ("self", "mat1", "mat2", "beta", "alpha"), beta=1, alpha=1)
    total = importer.emit(relax.op.matmul(left, right))
    dtype = str(total.ty.dtype)
    if alpha != 1:
        total = importer.emit(relax.op.multiply(total, relax.const(alpha, dtype)))
    if beta == 0:
        return total
    scaled = added if beta == 1 else importer.emit(relax.op.multiply(added, relax.const(beta, dtype)))
    return importer.emit(relax.op.add(total, scaled))


def _select(node: fx.Node, importer: Importer) -> relax.Expr:
    # TVM's converter gathers, which no one can follow; a slice is a view.
    data, axis, index = _given(node, importer, ("self", "dim", "index"))
    axis %= data.ty.ndim
    begin = index % _shape(data)[axis]
    cut = importer.emit(relax.op.strided_slice(data, [axis], [begin], [begin + 1]))
    return importer.emit(relax.op.squeeze(cut, [axis]))


_ATTENTION = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


def _attention(node: fx.Node, importer: Importer) -> relax.Expr:
    query, key, value, mask, dropout, causal, scale, _ = _given(
        node, importer, _ATTENTION, dropout_p=0.0, is_causal=False
    )
    return attention(importer, (query, key, value), mask, dropout=dropout, is_causal=causal, scale=scale)


def _cpu_attention(node: fx.Node, importer: Importer) -> tuple[relax.Expr]:
    # As programs have it that were taken apart before they were saved; the logarithms of its sums are for training.
    names = ("query", "key", "value", "dropout_p", "is_causal", "attn_mask", "scale")
    query, key, value, dropout, causal, mask, scale = _given(node, importer, names, dropout_p=0.0, is_causal=False)
    return (attention(importer, (query, key, value), mask, dropout=dropout, is_causal=causal, scale=scale),)


def attention(
    importer: Importer,
    tensors: tuple[relax.Expr, relax.Expr, relax.Expr],
    mask: relax.Expr | None,
    *,
    dropout: float,
    is_causal: bool,
    scale: float | None,
) -> relax.Expr:
    """``softmax(scale * Q K + mask) V``; rows without a visible key are 0.

    Keys and values may have fewer heads, each of which then belongs to as many neighbouring heads of the queries.

    Args:
        importer: Where operators are written.
        tensors: Queries, keys and values: (..., rows, depth).
        mask: Added, or for booleans the keys that are seen.
        dropout: Must be 0.
        is_causal: Whether row ``i`` sees the keys up to ``i`` only.
        scale: One over the root of the depth if None.
    """
    if dropout:
        raise NotImplementedError(f"attention drops {dropout:g} of its weights at random, as in training")
    query, key, value = tensors
    keys, values = (_copied(importer, each, _heads(query)) for each in (key, value))
    rank = keys.ty.ndim
    turned = importer.emit(relax.op.permute_dims(keys, [*range(rank - 2), rank - 1, rank - 2]))
    scores = importer.emit(relax.op.matmul(query, turned))
    dtype = str(scores.ty.dtype)
    factor = 1 / math.sqrt(_shape(query)[-1]) if scale is None else scale
    scores = importer.emit(relax.op.multiply(scores, relax.const(factor, dtype)))
    hidden = relax.const(-math.inf, dtype)
    if is_causal:
        rows, columns = _shape(scores)[-2:]
        seen = relax.const(np.tri(rows, columns, dtype="bool"))
        scores = importer.emit(relax.op.where(seen, scores, hidden))
    if mask is not None:
        is_choice = str(mask.ty.dtype) == "bool"
        masked = relax.op.where(mask, scores, hidden) if is_choice else relax.op.add(scores, mask)
        scores = importer.emit(masked)
    weights = importer.emit(relax.op.nn.softmax(scores, axis=-1))
    if mask is not None:
        weights = _without_empty_rows(importer, scores, weights)
    return importer.emit(relax.op.matmul(weights, values))


def _without_empty_rows(importer: Importer, scores: relax.Expr, weights: relax.Expr) -> relax.Expr:
    """Written as PyTorch takes it apart, which ``frontend.attention_forms`` knows."""
    dtype = str(scores.ty.dtype)
    hidden = importer.emit(relax.op.equal(scores, relax.const(-math.inf, dtype)))
    seen = importer.emit(relax.op.astype(importer.emit(relax.op.logical_not(hidden)), "int8"))
    some = importer.emit(relax.op.astype(importer.emit(relax.op.max(seen, -1, keepdims=True)), "bool"))
    empty = importer.emit(relax.op.logical_not(some))
    return importer.emit(relax.op.where(empty, relax.const(0, dtype), weights))


def _heads(tensor: relax.Expr) -> int:
    return _shape(tensor)[-3] if tensor.ty.ndim > 2 else 1


def _copied(importer: Importer, tensor: relax.Expr, heads: int) -> relax.Expr:
    """Every head beside itself, as often as it is shared; ``frontend.attention_forms`` takes the copies away again."""
    group = heads // _heads(tensor)
    return tensor if group == 1 else importer.emit(relax.op.repeat(tensor, group, tensor.ty.ndim - 3))


OPERATORS: dict[str, Convert] = {
    "_scaled_dot_product_flash_attention_for_cpu.default": _cpu_attention,
    "addmm.default": _add_matmul,
    "baddbmm.default": _add_matmul,
    "bmm.default": _matmul,
    "matmul.default": _matmul,
    "mm.default": _matmul,
    "scaled_dot_product_attention.default": _attention,
    "select.int": _select,
    **dict.fromkeys(LAYERS, recurrent),
}
"""By name, as in ``torch.ops.aten``."""

KEPT = ("scaled_dot_product_attention.default",)
"""What is imported whole, although PyTorch could take it apart."""
