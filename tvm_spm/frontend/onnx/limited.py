"""``Clip``, ``Max`` and ``Min`` with numbers that are known: one step of the vector unit for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
from tvm import relax

from tvm_spm.frontend.relay.tensors import Builder, Tensor

_Pairwise = Callable[[relax.Expr, relax.Expr], relax.Expr]


def clip(b: Builder, inputs: list[Tensor | None], attributes: Mapping[str, Any]) -> Tensor:
    """Bounds that are known become numbers; TVM's converter asks for every element whether they are numbers at all."""
    data, *given = inputs
    assert data is not None
    x, bounds = b.expr(data), dict(zip(("min", "max"), given, strict=False))
    for name, operator, unbounded in (("min", relax.op.maximum, -math.inf), ("max", relax.op.minimum, math.inf)):
        bound = bounds.get(name)
        if bound is None and name in attributes:
            bound = b.const(np.array(attributes[name]), data.dtype)
        if bound is not None:
            limit = _limit(b, bound, unbounded)
            x = x if limit is None else b.relax.emit(operator(x, limit))
    return b.emit(x)


def _limit(b: Builder, bound: Tensor, unbounded: float) -> relax.Expr | None:
    """A bound of ``Clip``; one that is no number is none."""
    is_float = "float" in bound.dtype
    if bound.array is not None and bound.array.size == 1:
        number = bound.array.reshape(())
        is_none = is_float and (np.isnan(number) or number == unbounded)
        return None if is_none else relax.const(number, bound.dtype)
    limit = b.expr(bound)
    if not is_float:
        return limit
    is_none = b.relax.emit(relax.op.isnan(limit))
    return b.relax.emit(relax.op.where(is_none, relax.const(unbounded, bound.dtype), limit))


def largest(b: Builder, inputs: list[Tensor | None], _attributes: Mapping[str, Any]) -> Tensor:
    """Pair by pair; TVM's converter copies all tensors into one first."""
    return _pairwise(b, inputs, np.maximum, relax.op.maximum)


def least(b: Builder, inputs: list[Tensor | None], _attributes: Mapping[str, Any]) -> Tensor:
    """The same."""
    return _pairwise(b, inputs, np.minimum, relax.op.minimum)


def _pairwise(b: Builder, inputs: list[Tensor | None], known: np.ufunc, operator: _Pairwise) -> Tensor:
    tensors = [each for each in inputs if each is not None]
    arrays = [each.array for each in tensors if each.array is not None]
    if len(arrays) == len(tensors):
        return b.const(reduce(known, arrays))
    rank = max(each.rank for each in tensors)
    return b.emit(
        reduce(lambda one, other: b.relax.emit(operator(one, other)), [_plain(b, each, rank) for each in tensors])
    )


def _plain(b: Builder, tensor: Tensor, rank: int) -> relax.Expr:
    """A tensor; a single number without axes, which TVM writes into the code, where others have enough of them."""
    if tensor.array is None or tensor.array.size != 1 or tensor.rank >= rank:
        return b.expr(tensor)
    return relax.const(tensor.array.reshape(()), tensor.dtype)
