"""Attention of grouped heads over a cache of keys and values, and the rotation by place that goes with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvm_spm.errors import ModelError
from tvm_spm.frontend.onnx.microsoft.heads import (
    Scores,
    attended,
    causal,
    copied,
    heads_of,
    hidden_where,
    least,
    require_divides,
    rotated,
    rows_of,
)
from tvm_spm.frontend.onnx.microsoft.place import TypedNode, TypedRewrite


def _rotary_embedding(each: TypedNode) -> None:
    """Inputs: x as rows or as heads, places (one to start from, or of every row), tables of cosines and sines."""
    each.refuse("is_packed_batching")
    w, shape = each.writer, each.shape(0)
    half = each.shape(2)[1]
    size = each.integer("rotary_embedding_dim") or 2 * half
    if len(shape) == 4:
        batch, num_heads, rows, depth = shape
        heads = each.input(0)
    else:
        batch, rows, wide = each.extents(0, 3)
        num_heads = each.integer("num_heads") or require_divides(each, "width", wide, 2 * half)
        depth = require_divides(each, "width", wide, num_heads)
        heads = heads_of(each, each.input(0), num_heads)
    places = each.input(1)
    if each.shape(1) != (batch, rows):
        steps = w.constant(np.arange(rows, dtype=np.int64)[None])
        places = w.emit("Add", each.reshaped(places, 1, 1), steps)
    tables = _tables(each, places, (2, 3))
    found = rotated(each, heads, depth, tables, size)
    each.give(0, found if len(shape) == 4 else rows_of(each, found))


def _tables(each: TypedNode, places: str, inputs: tuple[int, int]) -> tuple[str, str]:
    """Rows of both tables at (batch or 1, rows) places, with an axis for the heads."""
    w, known = each.writer, each.writer.known.get(places)
    found = []
    for index in inputs:
        table = w.known.get(each.input(index))
        if known is not None and table is not None:
            found.append(w.constant(table[known][:, None]))
        else:
            found.append(w.unsqueezed(w.emit("Gather", each.input(index), places, axis=0), 1))
    return found[0], found[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cache:
    """Extents of grouped attention.

    Attributes:
        batch: Sequences.
        rows: New ones of each.
        stored: Places of the cache that comes in.
        total: Keys, the new ones among them.
        num_heads: Of queries.
        shared: Heads of keys.
        depth: Of a row.
        starts: Keys before the new ones, of each sequence; None where the data decides.
    """

    batch: int
    rows: int
    stored: int
    total: int
    num_heads: int
    shared: int
    depth: int
    starts: tuple[int, ...] | None

    @property
    def start(self) -> int | None:
        """Keys before the new ones, if they are as many in all sequences."""
        return self.starts[0] if self.starts is not None and len(set(self.starts)) == 1 else None


def _cache_of(each: TypedNode) -> _Cache:
    batch, rows, wide = each.extents(0, 3)
    num_heads, shared = each.integer("num_heads"), each.integer("kv_num_heads")
    require_divides(each, "heads of queries", num_heads, shared)
    depth = require_divides(each, "queries", wide, num_heads if each.input(1) else num_heads + 2 * shared)
    stored = each.extents(3, 4)[2] if each.input(3) else 0
    total = int(each.array(6, "total_sequence_length").ravel()[0])
    last = each.writer.known.get(each.input(5))
    starts = None
    if total == rows:
        starts = (0,) * batch
    elif last is not None:
        starts = tuple(int(end) + 1 - rows for end in np.broadcast_to(last.ravel(), (batch,)))
        if min(starts) < 0 or max(starts) > stored:
            raise ModelError(
                f"{each.what}: seqlens_k {last.ravel().tolist()}: must be between {rows - 1} and {stored + rows - 1}"
            )
    return _Cache(
        batch=batch, rows=rows, stored=stored, total=total, num_heads=num_heads, shared=shared, depth=depth,
        starts=starts,
    )  # fmt: skip


def _group_query_attention(each: TypedNode) -> None:
    """Inputs: queries, keys, values (or all three as queries), past keys, past values, index of the last key of each
    sequence, number of keys, tables of cosines and sines, places, bias of the scores, sinks.

    Outputs: y, keys, values.
    """
    w, cache = each.writer, _cache_of(each)
    if each.input(1):
        parts = [each.input(index) for index in range(3)]
    else:
        parts = w.split(each.input(0), tuple(cache.depth * n for n in (cache.num_heads, *(cache.shared,) * 2)), 2)
    counts = (cache.num_heads, cache.shared, cache.shared)
    query, keys, values = (heads_of(each, part, count) for part, count in zip(parts, counts, strict=True))
    starts = _starts(each, cache)
    if each.integer("do_rotary"):
        places = each.input(9) or w.emit("Add", starts, w.constant(np.arange(cache.rows, dtype=np.int64)[None]))
        if not each.input(9) and cache.starts is not None:
            places = w.constant(np.array(cache.starts)[:, None] + np.arange(cache.rows)[None])
        tables, size = _tables(each, places, (7, 8)), 2 * each.shape(7)[1]
        query, keys = (rotated(each, heads, cache.depth, tables, size) for heads in (query, keys))
    stored = [_stored(each, cache, index, new, starts) for index, new in ((3, keys), (4, values))]
    for output, heads in enumerate(stored, start=1):
        each.give(output, heads)
    length = max(cache.total, cache.stored)
    if length > cache.total:
        stored = [w.sliced(heads, 0, cache.total, axis=2, step=1) for heads in stored]
    shape = (cache.batch, cache.shared, cache.total, cache.depth)
    keys, values = (copied(each, heads, shape, cache.num_heads // cache.shared) for heads in stored)
    masks = [_seen(each, cache, starts)]
    if each.input(10):
        masks.append(each.input(10))
    scores = Scores(
        scale=each.own_scale(cache.depth), softcap=each.attribute("softcap"), masks=[mask for mask in masks if mask],
        sink=_sink(each, cache), num_keys=cache.total,
    )  # fmt: skip
    each.give(0, rows_of(each, attended(each, query, keys, values, scores)))


def _starts(each: TypedNode, cache: _Cache) -> str:
    """Keys before the new ones as a column."""
    w = each.writer
    if cache.starts is not None:
        return w.constant(np.array(cache.starts, np.int64).reshape(-1, 1))
    ends = each.reshaped(each.cast(each.input(5), np.int64), cache.batch, 1)
    return w.emit("Sub", ends, w.constant(np.array(cache.rows - 1, np.int64)))


def _stored(each: TypedNode, cache: _Cache, past: int, new: str, starts: str) -> str:
    """The cache with the new rows behind those that are in use, and zeros behind these."""
    w, name = each.writer, each.input(past)
    length = max(cache.total, cache.stored)
    if not cache.stored:
        return new

    def zeros(rows: int) -> str:
        shape = (cache.batch, cache.shared, rows, cache.depth)
        return each.shared(f"zeros/{shape}/{each.dtype()}", lambda: np.zeros(shape, each.dtype()))

    start = cache.start
    if start is not None:
        before = [w.sliced(name, 0, start, axis=2, step=1)] if 0 < start < cache.stored else [name] * (start > 0)
        rest = length - start - cache.rows
        return w.concat([*before, new, *([zeros(rest)] if rest > 0 else [])], 2)
    # Where a row comes from in the cache with the new rows behind it, and one of zeros behind those.
    both = w.concat([name, new, zeros(1)], 2)
    places = w.constant(np.arange(length, dtype=np.int64)[None])
    into = w.emit("Sub", places, starts)
    limit = w.constant(np.array(cache.rows, np.int64))
    newest = w.emit("Where", w.emit("Less", into, limit), into, limit)
    moved = w.emit("Add", newest, w.constant(np.array(cache.stored, np.int64)))
    source = w.emit("Where", w.emit("Less", places, starts), places, moved)
    if cache.batch == 1:
        return w.emit("Gather", both, each.reshaped(source, length), axis=2)
    parts = zip(w.split(both, (1,) * cache.batch, 0), w.split(source, (1,) * cache.batch, 0), strict=True)
    return w.concat([w.emit("Gather", part, each.reshaped(row, length), axis=2) for part, row in parts], 0)


def _seen(each: TypedNode, cache: _Cache, starts: str) -> str:
    """The mask of what is behind a row, or too far before it; nothing where all is seen."""
    w, window, hidden = each.writer, each.integer("local_window_size", -1), least(each.dtype())
    if cache.start is not None and cache.start + cache.rows == cache.total:
        if cache.rows == 1 and not 0 <= window < cache.total:
            return ""
        return causal(each, cache.rows, cache.total, window=window, hidden=hidden)
    rows = w.constant(np.arange(cache.rows, dtype=np.int64).reshape(1, 1, -1, 1))
    now = w.emit("Add", each.reshaped(starts, cache.batch, 1, 1, 1), rows)
    keys = w.constant(np.arange(cache.total, dtype=np.int64).reshape(1, 1, 1, -1))
    is_seen = w.emit("Not", w.emit("Less", now, keys))
    if window >= 0:
        far = w.emit("Sub", now, w.constant(np.array(window, np.int64)))
        is_seen = w.emit("And", is_seen, w.emit("Less", far, keys))
    return hidden_where(each, is_seen, hidden)


def _sink(each: TypedNode, cache: _Cache) -> str:
    w, shape = each.writer, (cache.batch, cache.num_heads, cache.rows, 1)
    if each.input(11):
        column = each.reshaped(each.input(11), 1, cache.num_heads, 1, 1)
        return w.emit("Expand", column, w.integers(*shape))
    return w.constant(np.zeros(shape, each.dtype())) if each.integer("smooth_softmax") else ""


CACHED: dict[str, TypedRewrite] = {
    "GroupQueryAttention": _group_query_attention,
    "RotaryEmbedding": _rotary_embedding,
}
