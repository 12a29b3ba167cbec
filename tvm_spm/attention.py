"""Attention with an online softmax: what is computed, the tiles it runs in, and whether they fit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import prod

from tvm_spm.arch import Arch
from tvm_spm.errors import MappingError, WorkloadError
from tvm_spm.mapping import Mapping
from tvm_spm.rejection import Rejection
from tvm_spm.units import bits_to_bytes, ceil_div
from tvm_spm.workload import Dims, Operand, Projection, Workload, dtype_bits

HEAD_DIMS = ("OY", "N", "G")
"""Dims of heads and batch, outer to inner."""

_SUMMED_WIDE = {"float16": "float32", "bfloat16": "float32"}


def sum_dtype(dtype: str) -> str:
    """The type in which the vector unit adds up numbers of another: floats of 16 bits would lose what they add."""
    return _SUMMED_WIDE.get(dtype, dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """``softmax(f(Q K)) V`` over the last axis of the scores, ``f`` element-wise (a scale, a mask).

    Attributes:
        scores: ``Q K`` with rows (queries) as OX, columns (keys) as K and the depth as C; the epilogue is ``f``, its
            extras are masks.
        context: Probabilities times ``V`` with queries as OX, value depth as K and keys as C.
    """

    scores: Workload
    context: Workload

    def __post_init__(self) -> None:
        for what, first, second in (
            *((f"dim {name}", self.scores.dims[name], self.context.dims[name]) for name in (*HEAD_DIMS, "OX")),
            ("keys", self.scores.dims.K, self.context.dims.C),
        ):
            if first != second:
                raise WorkloadError(f"attention: {what} = {first} in the scores and {second} in the second product")
        if self.context.epilogue.extras:
            raise WorkloadError("attention: the second product reads a third tensor")
        if self.scores.out_dtype != self.context.I.dtype:
            raise WorkloadError(
                f"attention: scores are {self.scores.out_dtype}, probabilities {self.context.I.dtype}: must be equal"
            )

    @property
    def head_extents(self) -> tuple[int, ...]:
        """Extents of heads and batch, outer to inner."""
        return tuple(self.scores.dims[name] for name in HEAD_DIMS)

    @property
    def heads(self) -> int:
        """Independent products: heads of all batches."""
        return prod(self.head_extents)

    @property
    def queries(self) -> int:
        """Rows of the scores."""
        return self.scores.dims.OX

    @property
    def keys(self) -> int:
        """Columns of the scores."""
        return self.scores.dims.K

    @property
    def macs(self) -> int:
        """Multiply-accumulates of both products."""
        return self.scores.macs + self.context.macs

    def __str__(self) -> str:
        return (
            f"attention {self.heads} heads, {self.queries} queries, {self.keys} keys, depth {self.scores.dims.C}, "
            f"value depth {self.context.dims.K}, {self.scores.I.dtype}"
        )

    @classmethod
    def of(
        cls, *, heads: int, queries: int, keys: int, depth: int, dtype: str = "int16", scale: bool = True
    ) -> Attention:
        """Heads that lie one after the other, keys stored as (keys, depth), no mask.

        Args:
            heads: Of all batches.
            queries: Rows.
            keys: Columns.
            depth: Of queries, keys and values.
            dtype: Of all tensors.
            scale: Whether the scores are divided by a number.
        """
        scores = Workload.matmul(m=queries, k=depth, n=keys, batch=heads, dtype=dtype, transposed_weight=True)
        scores = replace(scores, epilogue=replace(scores.epilogue, num_ops_per_elem=int(scale)))
        return cls(scores=scores, context=Workload.matmul(m=queries, k=keys, n=depth, batch=heads, dtype=dtype))


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionMapping:
    """How attention runs with an online softmax.

    Attributes:
        cores: Parts of the heads and parts of the queries; each core works on ``ceil(extent / parts)`` of them.
        query_tile: Rows of scores at a time.
        key_tile: Columns of scores at a time.
        double: Whether tiles that come and go have two buffers, so that DMA overlaps with work.
        beside: Whether the vector unit works on one tile of scores while the array makes the next and uses up the one
            before: two tiles of scores, and rows of two tiles.
        inner: How the array runs a full tile of scores, and of the second product.
    """

    cores: tuple[int, int] = (1, 1)
    query_tile: int
    key_tile: int
    double: bool = True
    beside: bool = False
    inner: tuple[Mapping, Mapping] = field(default=(Mapping(), Mapping()))

    def __post_init__(self) -> None:
        numbers = {
            "parts of the heads": self.cores[0], "parts of the queries": self.cores[1], "query tile": self.query_tile,
            "key tile": self.key_tile,
        }  # fmt: skip
        for what, value in numbers.items():
            if value < 1:
                raise MappingError(f"attention mapping: {what} = {value}: must be >= 1")

    @property
    def num_cores(self) -> int:
        """Cores in use."""
        return prod(self.cores)

    def num_chunks(self, work: Attention) -> int:
        """Tiles along the keys."""
        return ceil_div(work.keys, self.key_tile)

    def stage_dims(self, queries: int, keys: int, work: Attention) -> tuple[Dims, Dims]:
        """Loop extents of both products for one tile."""
        return (
            Dims(OX=queries, K=keys, C=work.scores.dims.C),
            Dims(OX=queries, K=work.context.dims.K, C=keys),
        )

    def __str__(self) -> str:
        double, beside = ", double" if self.double else "", ", beside" if self.beside else ""
        lines = [f"cores: {self.cores[0]} {self.cores[1]}", f"tile: {self.query_tile} {self.key_tile}{double}{beside}"]
        return "\n".join([*lines, *(f"product: {mapping.line()}" for mapping in self.inner)])


@dataclass(frozen=True, slots=True, kw_only=True)
class TileStream:
    """A tensor that comes in by tiles.

    Attributes:
        name: Q, K, V, or the number of a mask.
        projection: How heads, queries and keys index it.
        stage: Which stage of a chunk reads it: 0 the scores, 1 the softmax, 2 the second product.
        query_dim: Its dim that stands for queries.
        key_dim: Its dim that stands for keys.
    """

    name: str
    projection: Projection
    stage: int
    query_dim: str | None
    key_dim: str | None

    def tile_bytes(self, tile: Dims) -> int:
        """Bytes of a full tile."""
        return bits_to_bytes(self.projection.tile_elems(tile) * self.projection.elem_bits)

    def moves_with(self, dim: str | None) -> bool:
        """Whether the tile depends on a dim."""
        return dim is not None and dim in self.projection.relevant_dims


def streams_of(work: Attention) -> tuple[TileStream, ...]:
    """Q, K, V, then masks."""
    scores, context = work.scores, work.context
    masks = tuple(
        TileStream(name=f"mask {i}", projection=mask, stage=1, query_dim="OX", key_dim="K")
        for i, mask in enumerate(scores.epilogue.extras)
    )
    return (
        TileStream(name="Q", projection=scores.I, stage=0, query_dim="OX", key_dim=None),
        TileStream(name="K", projection=scores.W, stage=0, query_dim=None, key_dim="K"),
        TileStream(name="V", projection=context.W, stage=2, query_dim=None, key_dim="C"),
        *masks,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one core does: ranges of heads and of queries."""

    heads: tuple[int, int]
    queries: tuple[int, int]


def shares(work: Attention, mapping: AttentionMapping) -> Iterator[Share]:
    """The share of every core."""
    per_core = (ceil_div(work.heads, mapping.cores[0]), ceil_div(work.queries, mapping.cores[1]))
    for i in range(mapping.cores[0]):
        for j in range(mapping.cores[1]):
            heads = (i * per_core[0], min(work.heads, (i + 1) * per_core[0]))
            queries = (j * per_core[1], min(work.queries, (j + 1) * per_core[1]))
            yield Share(heads=heads, queries=queries)


def is_reloaded(stream: TileStream, work: Attention, mapping: AttentionMapping) -> bool:
    """Whether more than one tile of a tensor comes in on some core."""
    heads, queries = ceil_div(work.heads, mapping.cores[0]), ceil_div(work.queries, mapping.cores[1])
    return (
        heads > 1
        or (stream.moves_with(stream.key_dim) and mapping.num_chunks(work) > 1)
        or (stream.moves_with(stream.query_dim) and ceil_div(queries, mapping.query_tile) > 1)
    )


def spm_terms(work: Attention, arch: Arch, mapping: AttentionMapping) -> tuple[tuple[str, int], ...]:
    """Bytes of SPM per tensor, in whole banks: all of it is held all the time.

    Maximum and correction of every row take one element each, of the type of the scores, its sum one of ``sum_dtype``.
    Sums of the first product have a tile of their own where their type is another. What the vector unit works on beside
    the array is there twice.
    """
    bank = arch.levels.SPM.bank_bytes
    queries, keys = min(mapping.query_tile, work.queries), min(mapping.key_tile, work.keys)
    scores_tile, context_tile = mapping.stage_dims(queries, keys, work)
    sums_and_scores = {work.scores.O.dtype: work.scores.O.elem_bits, work.scores.out_dtype: work.scores.out_bits}
    out_bits = max(work.context.O.elem_bits, work.context.out_bits)
    held = [
        (
            stream.name,
            stream.tile_bytes(context_tile if stream.stage == 2 else scores_tile),
            2 if mapping.double and is_reloaded(stream, work, mapping) else 1,
        )
        for stream in streams_of(work)
    ]
    rows = ceil_div(work.queries, mapping.cores[1])
    tiles = ceil_div(work.heads, mapping.cores[0]) * ceil_div(rows, mapping.query_tile)
    out_buffers = 2 if mapping.double and tiles > 1 else 1
    at_once = 2 if mapping.beside else 1
    held += [
        ("scores", sum(bits_to_bytes(queries * keys * width) for width in sums_and_scores.values()), at_once),
        (
            "rows",
            bits_to_bytes(queries * (2 * work.scores.out_bits + dtype_bits(sum_dtype(work.scores.out_dtype)))),
            at_once,
        ),
        (
            "output",
            bits_to_bytes(queries * work.context.dims.K * out_bits),
            out_buffers,
        ),
    ]
    return tuple((name, buffers * ceil_div(num_bytes, bank) * bank) for name, num_bytes, buffers in held)


def refuse_attention(work: Attention, arch: Arch, mapping: AttentionMapping) -> Rejection | None:
    """Why a mapping cannot run, or None: too many cores, idle cores, a split scratchpad, or too large tiles."""
    for what, parts, extent in (("heads", mapping.cores[0], work.heads), ("queries", mapping.cores[1], work.queries)):
        used = ceil_div(extent, ceil_div(extent, parts))
        if used != parts:
            return Rejection(
                reason="idle-core",
                subject=f"parts of the {what}",
                needed=parts,
                available=used,
                unit="cores",
                nearest=f"{used} parts fit",
            )
    if mapping.num_cores > arch.cores.count:
        return Rejection(
            reason="cores",
            subject="parts of heads x queries",
            needed=mapping.num_cores,
            available=arch.cores.count,
            unit="cores",
        )
    if arch.levels.SPM.is_split:
        return Rejection(
            reason="spm-capacity",
            subject="attention needs a unified scratchpad",
            needed=3,
            available=1,
            unit="scratchpads",
        )
    if fits(work, arch, mapping):
        return None
    terms = spm_terms(work, arch, mapping)
    return Rejection(
        reason="spm-capacity", subject="attention tile does not fit SPM",
        needed=sum(num_bytes for _, num_bytes in terms), available=arch.levels.SPM.capacity_of(Operand.I), unit="B",
        terms=terms, nearest=_nearest(work, arch, mapping),
    )  # fmt: skip


def fits(work: Attention, arch: Arch, mapping: AttentionMapping) -> bool:
    """Whether the tiles fit a unified scratchpad."""
    needed = sum(num_bytes for _, num_bytes in spm_terms(work, arch, mapping))
    return needed <= arch.levels.SPM.capacity_of(Operand.I)


def _nearest(work: Attention, arch: Arch, mapping: AttentionMapping) -> str:
    """The largest key tile that fits, else the largest query tile with one key; smaller tiles never need more."""
    key_tile = bisect_left(
        range(1, min(mapping.key_tile, work.keys)), True,
        key=lambda keys: not fits(work, arch, replace(mapping, key_tile=keys)),
    )  # fmt: skip
    if key_tile > 0:
        return f"{key_tile} keys fit"
    query_tile = bisect_left(
        range(1, min(mapping.query_tile, work.queries)), True,
        key=lambda queries: not fits(work, arch, replace(mapping, query_tile=queries, key_tile=1)),
    )  # fmt: skip
    return f"{query_tile} queries and 1 key fit" if query_tile > 0 else ""
