"""What one core does for attention: its stages, loads and stores, counted by kind and written out for a timeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cost_model.fused.queues import Orders
from cost_model.fused.state import (
    LOAD_CYCLES,
    LOAD_FIELDS,
    LOAD_WAIT,
    NUM_LOADS,
    STAGE_FIELDS,
    STORE_CHANNEL,
    STORE_ENGINE,
    STORE_WAIT,
)
from tvm_spm.attention import Attention, AttentionMapping, TileStream, shares, streams_of
from tvm_spm.units import ceil_div

SCORES, SOFTMAX, CONTEXT, STAGES = range(4)
"""Stages of one chunk."""

Ints = NDArray[np.int64]
Chunk = tuple[int, int, bool]
"""Rows, columns, and whether it is the first of its tile of queries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreKind:
    """The work of one core, but for where it lies.

    Attributes:
        heads: How many.
        rows: Extents of the tiles of queries, in order.
        columns: Extents of the chunks of keys, in order.
    """

    heads: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def chunks(self) -> Counter[Chunk]:
        """How often each kind of chunk occurs."""
        found: Counter[Chunk] = Counter()
        for rows, num_tiles in Counter(self.rows).items():
            for position, columns in enumerate(self.columns):
                found[rows, columns, position == 0] += self.heads * num_tiles
        return found

    def loads(self, stream: TileStream) -> Counter[tuple[int, int]]:
        """How often tiles of each size of a tensor come in: rows and columns."""
        by_chunk, by_tile = self._reloads(stream)
        found: Counter[tuple[int, int]] = Counter()
        for rows, num_tiles in Counter(self.rows if by_tile else self.rows[:1]).items():
            for columns, num_chunks in Counter(self.columns if by_chunk else self.columns[:1]).items():
                found[rows, columns] += self.heads * num_tiles * num_chunks
        return found

    def load_places(self, stream: TileStream) -> Ints:
        """The chunks before which a tensor comes in: indices over heads, tiles of queries and chunks of keys."""
        by_chunk, by_tile = self._reloads(stream)
        is_loaded = np.zeros((self.heads, len(self.rows), len(self.columns)), dtype=np.bool_)
        is_loaded[:, slice(None) if by_tile else 0, slice(None) if by_chunk else 0] = True
        return np.flatnonzero(is_loaded)

    def _reloads(self, stream: TileStream) -> tuple[bool, bool]:
        """Whether a tensor comes in again for every chunk, and whether for every tile of queries.

        A tile that is the same as the one before stays, but not from one head to the next.
        """
        by_chunk = stream.moves_with(stream.key_dim) and len(self.columns) > 1
        return by_chunk, by_chunk or (stream.moves_with(stream.query_dim) and len(self.rows) > 1)


def core_kinds(work: Attention, mapping: AttentionMapping) -> list[CoreKind]:
    """One per core, in order."""
    columns = _cut(work.keys, mapping.key_tile)
    return [
        CoreKind(
            heads=share.heads[1] - share.heads[0],
            rows=_cut(share.queries[1] - share.queries[0], mapping.query_tile),
            columns=columns,
        )
        for share in shares(work, mapping)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCycles:
    """Cycles of the parts that a timeline is made of.

    Attributes:
        stages: Of the three stages of a chunk.
        correction: Of the outputs so far, which comes after the softmax of a chunk beside the array; the second stage
            has it already where one stage follows the other.
        load: Of a tile of the tensor at a position, by rows and columns.
        store: Of the DRAM channel and of the DMA engine, for a tile of so many rows.
    """

    stages: Callable[[Chunk], tuple[int, int, int]]
    correction: Callable[[Chunk], int]
    load: Callable[[int, int, int], int]
    store: Callable[[int], tuple[int, int]]


def compute_cycles(kind: CoreKind, cycles_of: PartCycles, *, beside: bool) -> Ints:
    """Cycles of every step of a core.

    One after the other, each chunk is three steps: its stages. Beside each other, step ``s`` adds chunk ``s - 2`` to
    the outputs and makes the scores of chunk ``s`` on the array, while the vector unit works on the scores of chunk
    ``s - 1``; then it corrects the outputs for that one, before anything is added to them again. Two tiles of scores
    are enough: the scores of chunk ``s`` take the place of what was just used up.
    """
    if not beside:
        return _of_chunks(kind, cycles_of.stages).reshape(-1)
    scores, softmax, context = _of_chunks(kind, cycles_of.stages).reshape(-1, STAGES).T
    on_array, on_vector_unit, after = (np.zeros(len(scores) + 2, np.int64) for _ in range(3))
    on_array[:-2] += scores
    on_array[2:] += context
    on_vector_unit[1:-1] = softmax
    after[1:-1] = _of_chunks(kind, lambda chunk: (cycles_of.correction(chunk),)).reshape(-1)
    return np.maximum(on_array, on_vector_unit) + after


def core_orders(
    kind: CoreKind, work: Attention, cycles_of: PartCycles, *, double: bool, beside: bool = False
) -> Orders:
    """Write out every step and every load of a core."""
    cycles, per_chunk = compute_cycles(kind, cycles_of, beside=beside), 1 if beside else STAGES
    stages = np.zeros((len(cycles), STAGE_FIELDS), np.int64)
    stored = np.zeros((kind.heads, len(kind.rows), len(kind.columns), 2), np.int64)
    for rows in set(kind.rows):
        stored[:, np.array(kind.rows) == rows, -1] = cycles_of.store(rows)
    at = np.arange(kind.heads * len(kind.rows) * len(kind.columns)) * per_chunk + CONTEXT
    stages[at, STORE_CHANNEL], stages[at, STORE_ENGINE] = stored.reshape(-1, 2).T
    stages[:, STORE_WAIT] = -1
    leaving = at[stages[at, STORE_CHANNEL] > 0]
    stages[leaving, STORE_WAIT] = np.maximum(-1, np.arange(len(leaving)) - (2 if double else 1))
    parts = [
        _loads(kind, stream, (position, per_chunk), cycles_of, double=double)
        for position, stream in enumerate(streams_of(work))
    ]
    stage, order, loads = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    stages[:, NUM_LOADS] = np.bincount(stage, minlength=len(stages))
    return Orders(stages, loads[np.lexsort((order, stage))], cycles)


def _of_chunks(kind: CoreKind, of: Callable[[Chunk], tuple[int, ...]]) -> Ints:
    """Numbers of every chunk, over heads, tiles of queries and chunks of keys."""
    table: list[Ints] = []
    for chunk, at in _places(kind):
        numbers = of(chunk)
        if not table:
            table.append(np.zeros((len(kind.rows), len(kind.columns), len(numbers)), np.int64))
        table[0][at] = numbers
    return np.tile(table[0].reshape(-1), kind.heads)


def _loads(
    kind: CoreKind, stream: TileStream, place: tuple[int, int], cycles_of: PartCycles, *, double: bool
) -> tuple[Ints, Ints, Ints]:
    """Steps, order within a step, and rows of the loads of one tensor, whose position and steps per chunk are given."""
    position, per_chunk = place
    places = kind.load_places(stream)
    stage = places * per_chunk + stream.stage
    table = np.zeros((len(kind.rows), len(kind.columns)), np.int64)
    for (rows, columns, _), at in _places(kind):
        table[at] = cycles_of.load(position, rows, columns)
    loads = np.zeros((len(stage), LOAD_FIELDS), np.int64)
    loads[:, LOAD_CYCLES] = table.reshape(-1)[places % table.size]
    # A buffer is free after the last step that used it: of the chunk before the tile that took its place came in.
    behind = 2 if double else 1
    loads[:behind, LOAD_WAIT] = -1
    loads[behind:, LOAD_WAIT] = stage[1 : 1 + len(stage[behind:])] - per_chunk
    return stage, np.full(len(stage), position, np.int64), loads


def _places(kind: CoreKind) -> Iterator[tuple[Chunk, tuple[Ints, ...]]]:
    """Where every kind of chunk lies in a table of tiles by chunks."""
    rows, columns = np.array(kind.rows)[:, None], np.array(kind.columns)[None, :]
    first = np.arange(len(kind.columns))[None, :] == 0
    for chunk in kind.chunks():
        yield chunk, np.nonzero((rows == chunk[0]) & (columns == chunk[1]) & (first == chunk[2]))


def _cut(extent: int, tile: int) -> tuple[int, ...]:
    return tuple(min(tile, extent - i * tile) for i in range(ceil_div(extent, tile)))
