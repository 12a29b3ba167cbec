"""Attention as one function: keys and values come in chunks, and the softmax is corrected as its maximum grows.

Source: Milakov & Gimelshein 2018, "Online normalizer calculation for softmax" (running maximum and sum); Dao et al.
2022, "FlashAttention", algorithm 1 (outputs rescaled in the scratchpad). Here queries are the outer loop and outputs
are divided by the sum once, at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from schedules.attention.tir import (
    INDEX_DTYPE,
    Extent,
    SpmTile,
    TileAllocator,
    annotated,
    const,
    grid,
    loop,
    part,
    seq,
    tiles,
)
from tvm_spm.attention import AttentionMapping, sum_dtype
from tvm_spm.frontend.attention import AttentionSite, depends
from tvm_spm.frontend.tir.blocks import loads_of
from tvm_spm.lowering.blocks import substitute
from tvm_spm.units import ceil_div


def _power(score: tvm.ir.Expr, largest: tvm.ir.Expr) -> tvm.ir.Expr:
    """Of e by the difference of two scores, at most 1."""
    dtype = str(score.ty.dtype)
    wide = sum_dtype(dtype)
    return tirx.exp(score.astype(wide) - largest.astype(wide)).astype(dtype)


def attention_func(site: AttentionSite, mapping: AttentionMapping) -> tirx.PrimFunc:
    """One function for the three of a site.

    Before::

        for h, i, j: scores[h, i, j] = f(sum over d of Q[h, i, d] * K[h, j, d])
        for h, i, j: p[h, i, j] = exp(scores[h, i, j] - max[h, i]) / sum[h, i]
        for h, i, c: O[h, i, c] = sum over j of p[h, i, j] * V[h, j, c]

    After, per head and tile of queries, with everything but Q, K, V and O in SPM::

        for chunk of keys:
            scores = f(Q K)
            correction = exp(old max - max); sum = sum * correction + sum of exp(scores - max)
            acc = acc * correction + exp(scores - max) V
        O = acc / sum

    Args:
        site: What is replaced.
        mapping: Tiles and cores; not checked again here.

    Returns:
        A function of the inputs of the first product, the values, and the result.
    """
    spm = TileAllocator()
    body = _AttentionWriter(site=site, mapping=mapping, spm=spm).cores()
    root = s_tir.SBlock([], [], [], "root", body, None, spm.buffers)
    params = [*site.scores.inputs, site.values, site.context.out.buffer]
    func = tirx.PrimFunc(params, s_tir.SBlockRealize([], tirx.const(True, "bool"), root))
    return func.with_attr("tirx.noalias", True)


@dataclass(frozen=True, slots=True, eq=False)
class _Mask:
    """One tensor that the scores are combined with, staged as a tile; axes that it does not follow have extent 1."""

    source: tvm.ir.TensorLoad
    tile: SpmTile
    by_query: bool
    by_key: bool
    level: str


@dataclass(frozen=True, slots=True, eq=False)
class _Scores:
    """The element-wise work between the sums and the softmax, on tiles.

    Attributes:
        value: One score, of the variables below and of elements of masks.
        total: Stands for the sum.
        query: Stands for the row.
        key: Stands for the column.
        masks: What it reads.
    """

    value: tvm.ir.Expr
    total: tvm.ir.Var
    query: tvm.ir.Var
    key: tvm.ir.Var
    masks: tuple[_Mask, ...]

    def loads(self, level: str, query: Extent, rows: Extent, key: Extent, columns: Extent) -> list[tirx.Stmt]:
        """Copies of the masks that change at a level."""
        return [
            self._load(mask, query, rows if mask.by_query else 1, key, columns if mask.by_key else 1)
            for mask in self.masks
            if mask.level == level
        ]

    def _load(self, mask: _Mask, query: Extent, rows: Extent, key: Extent, columns: Extent) -> tirx.Stmt:
        def element(i: tvm.ir.Expr, j: tvm.ir.Expr) -> tvm.ir.Expr:
            return substitute(mask.source, {self.query: query + i, self.key: key + j})

        return mask.tile.fill("mask", rows, columns, element)

    def at(self, total: tvm.ir.Expr, i: tvm.ir.Expr, j: tvm.ir.Expr) -> tvm.ir.Expr:
        """One score from its sum; indices are those of the tile."""

        def staged(load: tvm.ir.TensorLoad) -> tvm.ir.Expr:
            for mask in self.masks:
                if tvm_ffi.structural_equal(load, mask.source):
                    return mask.tile.load(i if mask.by_query else const(0), j if mask.by_key else const(0))
            return load

        value = tvm_ffi.structural_map(self.value, (tvm.ir.TensorLoad, staged), order="post")
        return substitute(value, {self.total: total})


@dataclass(frozen=True, slots=True, eq=False)
class _Tiles:
    """Everything in SPM for one tile of queries; ``sums`` and ``scores`` are one tile where their types agree."""

    q: SpmTile
    k: SpmTile
    v: SpmTile
    sums: SpmTile
    scores: SpmTile
    largest: SpmTile
    row_sum: SpmTile
    correction: SpmTile
    out: SpmTile


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _AttentionWriter:
    """Writes one function."""

    site: AttentionSite
    mapping: AttentionMapping
    spm: TileAllocator

    @property
    def queries(self) -> int:
        """Rows of a full tile."""
        return min(self.mapping.query_tile, ceil_div(self.site.work.queries, self.mapping.cores[1]))

    @property
    def keys(self) -> int:
        """Columns of a full tile."""
        return min(self.mapping.key_tile, self.site.work.keys)

    def cores(self) -> tirx.Stmt:
        """Loops over cores, and on each over its heads and tiles of queries."""
        work, (parts, pieces) = self.site.work, self.mapping.cores
        heads, queries = ceil_div(work.heads, parts), ceil_div(work.queries, pieces)
        tiles_of = self._tiles()

        def share(i: tvm.ir.Expr, j: tvm.ir.Expr) -> tirx.Stmt:
            def on_head(head: tvm.ir.Expr) -> tirx.Stmt:
                return self._head(tiles_of, i * heads + head, j * queries, part(queries, work.queries, j))

            return loop("head", part(heads, work.heads, i), on_head, is_parallel=parts == pieces == 1)

        return loop(
            "core_heads", parts,
            lambda i: loop("core_queries", pieces, lambda j: share(i, j), is_parallel=parts == 1),
            is_parallel=True,
        )  # fmt: skip

    def _tiles(self) -> _Tiles:
        work, scores, context = self.site.work, self.site.scores, self.site.context
        depth, out_depth, dtype = work.scores.dims.C, work.context.dims.K, scores.out.dtype
        queries, keys, tile = self.queries, self.keys, self.spm.tile
        scores_tile = tile("scores", dtype, queries, keys)
        mac_dtype, is_same = scores.mac.dtype, scores.mac.dtype == dtype
        return _Tiles(
            q=tile("Q_spm", str(scores.left.source.dtype), queries, depth, is_swapped=scores.is_swapped_left),
            k=tile("K_spm", str(scores.right.source.dtype), keys, depth, is_swapped=scores.is_swapped_right),
            v=tile("V_spm", str(context.right.source.dtype), keys, out_depth, is_swapped=not context.is_swapped_right),
            sums=scores_tile if is_same else tile("sums", mac_dtype, queries, keys),
            scores=scores_tile,
            largest=tile("largest", dtype, queries),
            row_sum=tile("row_sum", sum_dtype(dtype), queries),
            correction=tile("correction", dtype, queries),
            out=tile("O_spm", context.mac.dtype, queries, out_depth),
        )

    def _lead(self, head: tvm.ir.Expr) -> list[tvm.ir.Expr]:
        """Leading indices of a head; the last axis runs fastest."""
        found: list[tvm.ir.Expr] = []
        extents = self.site.scores.out.shape[:-2]
        for position, extent in reversed(list(enumerate(extents))):
            is_first = all(outer == 1 for outer in extents[:position])
            found.append(const(0) if extent == 1 else head if is_first else tirx.floormod(head, const(extent)))
            head = head if extent == 1 else tirx.floordiv(head, const(extent))
        return found[::-1]

    def _scores(self, lead: list[tvm.ir.Expr]) -> _Scores:
        scores = self.site.scores
        total = tirx.Var("total", scores.mac.dtype)
        query, key = (tirx.Var(name, INDEX_DTYPE) for name in ("query", "key"))
        value = scores.result([*lead, query, key], total)
        masks: list[_Mask] = []
        for load in loads_of(value):
            if any(tvm_ffi.structural_equal(load, mask.source) for mask in masks):
                continue
            by_query, by_key = depends(load, query), depends(load, key)
            tile = self.spm.tile(
                f"mask{len(masks)}", str(load.source.dtype), self.queries if by_query else 1, self.keys if by_key else 1
            )
            masks.append(_Mask(load, tile, by_query, by_key, self._level(by_query=by_query, by_key=by_key)))
        return _Scores(value, total, query, key, tuple(masks))

    def _level(self, *, by_query: bool, by_key: bool) -> str:
        """Where a tensor comes in: for every chunk of keys, for every tile of queries, or once per head."""
        if by_key and self.keys < self.site.work.keys:
            return "chunk"
        is_cut = self.queries < ceil_div(self.site.work.queries, self.mapping.cores[1])
        return "tile" if by_query and is_cut else "head"

    def _head(self, spm: _Tiles, head: tvm.ir.Expr, first: tvm.ir.Expr, count: Extent) -> tirx.Stmt:
        """One head: all tiles of queries; keys and values come in here if all of them fit."""
        lead, keys = self._lead(head), self.site.work.keys
        pointwise = self._scores(lead)
        return seq(
            *self._keys("head", spm, lead, const(0), keys),
            *self._values("head", spm, lead, const(0), keys),
            *pointwise.loads("head", first, count, const(0), keys),
            self._beside(tiles(
                "query_tile", count, ceil_div(self.site.work.queries, self.mapping.cores[1]), self.mapping.query_tile,
                lambda query, rows: self._query_tile(spm, lead, pointwise, first + query, rows),
            )),
        )  # fmt: skip

    def _beside(self, chunks: tirx.Stmt) -> tirx.Stmt:
        """A note that the softmax of a chunk runs beside the products of its neighbours; the host does all in turn."""
        return annotated(chunks, "spm.beside", "softmax") if self.mapping.beside else chunks

    def _keys(
        self, level: str, spm: _Tiles, lead: list[tvm.ir.Expr], key: tvm.ir.Expr, columns: Extent
    ) -> list[tirx.Stmt]:
        scores = self.site.scores
        if level != self._level(by_query=False, by_key=True):
            return []
        return [
            spm.k.fill("W", columns, self.site.work.scores.dims.C,
                       lambda j, d: scores.element(scores.right, [*lead, const(0), key + j], d))
        ]  # fmt: skip

    def _values(
        self, level: str, spm: _Tiles, lead: list[tvm.ir.Expr], key: tvm.ir.Expr, columns: Extent
    ) -> list[tirx.Stmt]:
        context = self.site.context
        if level != self._level(by_query=False, by_key=True):
            return []
        return [
            spm.v.fill("W", columns, self.site.work.context.dims.K,
                       lambda j, c: context.element(context.right, [*lead, const(0), c], key + j))
        ]  # fmt: skip

    def _query_tile(
        self, spm: _Tiles, lead: list[tvm.ir.Expr], pointwise: _Scores, query: tvm.ir.Expr, rows: Extent
    ) -> tirx.Stmt:
        """One tile of queries: load them, walk the keys, store the result."""
        scores, context, out_depth = self.site.scores, self.site.context, self.site.work.context.dims.K

        def start(i: tvm.ir.Expr) -> tirx.Stmt:
            return seq(
                spm.largest.store(tirx.min_value(scores.out.dtype), i),
                spm.row_sum.store(tirx.const(0, sum_dtype(scores.out.dtype)), i),
                loop("c", out_depth, lambda c: spm.out.store(tirx.const(0, context.mac.dtype), i, c)),
            )

        def chunk(key: tvm.ir.Expr, columns: Extent) -> tirx.Stmt:
            return seq(
                *self._keys("chunk", spm, lead, key, columns),
                grid(rows, columns, lambda i, j: self._score_sum(spm, i, j)),
                *pointwise.loads("chunk", query, rows, key, columns),
                loop("i", rows, lambda i: self._correct(spm, pointwise, i, columns, key)),
                *self._values("chunk", spm, lead, key, columns),
                grid(rows, out_depth, lambda i, c: loop("k", columns, lambda j: self._add_value(spm, i, j, c))),
            )

        def finish(i: tvm.ir.Expr, c: tvm.ir.Expr) -> tirx.Stmt:
            at = [*lead, query + i, c]
            total, wide = spm.row_sum.load(i), sum_dtype(context.mac.dtype)
            value = spm.out.load(i, c).astype(wide) / total.astype(wide)
            if self.site.is_zero_when_empty:
                value = tirx.Select(total == tirx.const(0, str(total.ty.dtype)), tirx.const(0, wide), value)
            value = value.astype(context.mac.dtype)
            return tirx.BufferStore(context.out.buffer, context.result(at, value), at)

        return seq(
            spm.q.fill("I", rows, self.site.work.scores.dims.C,
                       lambda i, d: scores.element(scores.left, [*lead, query + i, const(0)], d)),
            *pointwise.loads("tile", query, rows, const(0), self.site.work.keys),
            loop("i", rows, start),
            self._beside(tiles("key_tile", self.site.work.keys, self.site.work.keys, self.mapping.key_tile, chunk)),
            annotated(grid(rows, out_depth, finish), "spm.dma", "O"),
        )  # fmt: skip

    def _score_sum(self, spm: _Tiles, i: tvm.ir.Expr, j: tvm.ir.Expr) -> tirx.Stmt:
        dtype = self.site.scores.mac.dtype
        return seq(
            spm.sums.store(tirx.const(0, dtype), i, j),
            loop("k", self.site.work.scores.dims.C,
                 lambda d: spm.sums.add(spm.q.load(i, d).astype(dtype) * spm.k.load(j, d).astype(dtype), i, j)),
        )  # fmt: skip

    def _correct(self, spm: _Tiles, pointwise: _Scores, i: tvm.ir.Expr, columns: Extent, key: tvm.ir.Expr) -> tirx.Stmt:
        """One row: scores become powers, and what was summed before refers to the new maximum."""
        largest, factor = spm.largest.load(i), spm.correction.load(i)
        dtype, row_dtype = self.site.context.mac.dtype, sum_dtype(self.site.scores.out.dtype)
        correct = seq(
            spm.correction.store(_power(factor, largest), i),
            spm.row_sum.store(spm.row_sum.load(i) * factor.astype(row_dtype), i),
            loop("c", self.site.work.context.dims.K,
                 lambda c: spm.out.store(spm.out.load(i, c) * factor.astype(dtype), i, c)),
        )  # fmt: skip
        return seq(
            spm.correction.store(largest, i),
            loop("j", columns, lambda j: seq(
                spm.scores.store(pointwise.at(spm.sums.load(i, j), i, j), i, j),
                spm.largest.store(tirx.max(largest, spm.scores.load(i, j)), i),
            )),
            *([] if self.keys == self.site.work.keys else [tirx.IfThenElse(key > const(0), correct, None)]),
            loop("j", columns, lambda j: seq(
                spm.scores.store(_power(spm.scores.load(i, j), largest), i, j),
                spm.row_sum.add(spm.scores.load(i, j).astype(row_dtype), i),
            )),
        )  # fmt: skip

    def _add_value(self, spm: _Tiles, i: tvm.ir.Expr, j: tvm.ir.Expr, c: tvm.ir.Expr) -> tirx.Stmt:
        dtype = self.site.context.mac.dtype
        return spm.out.add(spm.scores.load(i, j).astype(dtype) * spm.v.load(j, c).astype(dtype), i, c)
