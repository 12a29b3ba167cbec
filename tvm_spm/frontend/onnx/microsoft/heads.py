"""What all forms of attention are made of: heads, places that turn them, masks, and the two products."""

from __future__ import annotations

from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from tvm_spm.errors import ModelError
from tvm_spm.frontend.onnx.microsoft.place import TypedNode
from tvm_spm.frontend.onnx.writer import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How queries meet keys.

    Attributes:
        scale: Of the products.
        softcap: Their largest size, where it is not 0.
        masks: What is added to them.
        sink: A score without a value for every row, shape (batch, heads, rows, 1).
        num_keys: Of the others.
    """

    scale: float
    softcap: float = 0.0
    masks: list[str] = field(default_factory=list)
    sink: str = ""
    num_keys: int = 0


def heads_of(each: TypedNode, rows: str, num_heads: int) -> str:
    """(batch, rows, heads * depth) as (batch, heads, rows, depth)."""
    return each.writer.emit("Transpose", each.reshaped(rows, 0, 0, num_heads, -1), perm=[0, 2, 1, 3])


def rows_of(each: TypedNode, heads: str) -> str:
    """(batch, heads, rows, depth) as (batch, rows, heads * depth)."""
    return each.reshaped(each.writer.emit("Transpose", heads, perm=[0, 2, 1, 3]), 0, 0, -1)


def copied(each: TypedNode, heads: str, shape: tuple[int, int, int, int], group: int) -> str:
    """Every head ``group`` times, one beside the other."""
    if group == 1:
        return heads
    batch, shared, rows, depth = shape
    w = each.writer
    wide = w.emit("Expand", w.unsqueezed(heads, 2), w.integers(batch, shared, group, rows, depth))
    return each.reshaped(wide, batch, shared * group, rows, depth)


def attended(each: TypedNode, query: str, keys: str, values: str, scores: Scores) -> str:
    """Of heads all with four axes, (batch, heads, rows, depth of values)."""
    w = each.writer
    found = w.emit("MatMul", query, w.emit("Transpose", keys, perm=[0, 1, 3, 2]))
    found = w.emit("Mul", found, each.number(scores.scale))
    if scores.softcap:
        small = w.emit("Tanh", w.emit("Mul", found, each.number(1 / scores.softcap)))
        found = w.emit("Mul", small, each.number(scores.softcap))
    for mask in scores.masks:
        found = w.emit("Add", found, mask)
    if not scores.sink:
        return w.emit("MatMul", w.emit("Softmax", found, axis=-1), values)
    # One more key for each row, whose share no value gets.
    wide = w.emit("Softmax", w.concat([found, scores.sink], 3), axis=-1)
    return w.emit("MatMul", w.sliced(wide, 0, scores.num_keys, axis=3, step=1), values)


def causal(each: TypedNode, rows: int, num_keys: int, *, window: int = -1, hidden: float) -> str:
    """A mask by which the last ``rows`` of all keys see none behind them, and only the last ``window`` where not -1."""
    dtype = each.dtype()

    def make() -> Array:
        ahead = np.arange(num_keys) - (np.arange(rows)[:, None] + num_keys - rows)
        is_seen = (ahead <= 0) & ((ahead > -window) | (window < 0))
        return np.where(is_seen, 0, hidden).astype(dtype)[None, None]

    return each.shared(f"causal/{rows}/{num_keys}/{window}/{hidden:g}/{dtype}", make)


def hidden_where(each: TypedNode, is_seen: str, hidden: float) -> str:
    """A mask that hides what is not seen."""
    return each.writer.emit("Where", is_seen, each.number(0), each.number(hidden))


def least(dtype: np.dtype[np.generic]) -> float:
    """What hides a key."""
    return float(ml_dtypes.finfo(dtype).min)  # type: ignore[no-untyped-call]


def rotated(each: TypedNode, heads: str, depth: int, tables: tuple[str, str], size: int) -> str:
    """Pairs of the first ``size`` numbers of each row turned by an angle.

    Args:
        each: Its attribute ``rotary_interleaved`` or ``interleaved`` says whether pairs are neighbours or half of
            ``size`` apart.
        heads: (batch, heads, rows, depth).
        depth: Of a row.
        tables: Cosine and sine, (batch or 1, 1, rows, size / 2).
        size: Numbers that are turned; the others stay.
    """
    w, (cosine, sine) = each.writer, tables
    turned = heads if size == depth else w.sliced(heads, 0, size, axis=3, step=1)
    is_near = bool(each.integer("interleaved") or each.integer("rotary_interleaved"))
    if is_near:
        first, second = (w.sliced(turned, start, size, axis=3, step=2) for start in (0, 1))
    else:
        first, second = w.split(turned, (size // 2, size // 2), 3)
    real = w.emit("Sub", w.emit("Mul", first, cosine), w.emit("Mul", second, sine))
    other = w.emit("Add", w.emit("Mul", second, cosine), w.emit("Mul", first, sine))
    if is_near:
        pairs = w.concat([w.unsqueezed(real, 4), w.unsqueezed(other, 4)], 4)
        found = each.reshaped(pairs, 0, 0, 0, size)
    else:
        found = w.concat([real, other], 3)
    return found if size == depth else w.concat([found, w.sliced(heads, size, depth, axis=3, step=1)], 3)


def require_divides(each: TypedNode, what: str, number: int, divisor: int) -> int:
    """The quotient.

    Raises:
        ModelError: There is a rest.
    """
    if divisor < 1 or number % divisor:
        raise ModelError(f"{each.what}: {what} {number} must be a multiple of {divisor}")
    return number // divisor
