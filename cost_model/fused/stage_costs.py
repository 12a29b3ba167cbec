"""What the array takes for all stages of a layer, from the shapes that stages have along single axes; see ``profile``.

Along an axis of the sink, the tiles of a part give the loops that move with it a few extents, each so many times: a
*spread*. Stages are the products of spreads, one of which is that of the output channels at a time. A *key* is a layer
with a spread per axis; its costs are exact, with the array mappings that a mapper chooses for the stage of most work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.fused.bound import Cuts, StageTable
from cost_model.fused.flat import IS_MAC, K_LOOP, NUM_TERMS, RANK, TERMS, FlatGroup, Ints
from cost_model.fused.inner_mapper import InnerMapper, Shape
from cost_model.fused.profile import PART, SHAPES
from cost_model.fused.state import SHAPE_DIMS, SHAPE_LAYER, SHAPE_STAGES
from tvm_spm.group import Group
from tvm_spm.jit import entry, lean
from tvm_spm.space.mapping_batch import NUM_DIMS

Floats = NDArray[np.float64]


class Spreads(NamedTuple):
    """Spreads, one behind the other.

    Attributes:
        first: First row of each; and how many rows there are.
        dims: ``(rows, dims)`` extents of the loops that move; 0 for others.
        times: ``(rows,)`` stages of all parts.
        classes: Classes of parts of each.
        at: Its first entry of ``counts``.
        counts: Stages of one part, by row and class.
        main: ``(spreads, dims)``, the row with most work.
    """

    first: Ints
    dims: Ints
    times: Floats
    classes: Ints
    at: Ints
    counts: Floats
    main: Ints


@lean
def _next_rows(spreads: Spreads, key: Ints, place: int, rows: Ints) -> None:
    """Set the row of each spread of a key for one of its products."""
    for axis in range(len(key) - 1, -1, -1):
        num = spreads.first[key[axis] + 1] - spreads.first[key[axis]]
        rows[axis] = spreads.first[key[axis]] + place % num
        place //= num


@entry
def list_shapes(spreads: Spreads, keys: Ints, base: Ints, stop: Ints, dims: Ints, owner: Ints) -> None:
    """Set the shapes of the stages of every key.

    Args:
        spreads: All.
        keys: ``(keys, axes)`` spreads.
        base: Extents of loops that no axis moves.
        stop: Behind the last shape of each key.
        dims: ``(shapes, dims)``, filled.
        owner: Per shape its key, filled.
    """
    rows, at = np.zeros(keys.shape[1], np.int64), 0
    for number in range(len(keys)):
        first = at
        while at < stop[number]:
            _next_rows(spreads, keys[number], at - first, rows)
            for d in range(NUM_DIMS):
                dims[at, d] = base[d]
                for row in rows:
                    dims[at, d] += spreads.dims[row, d]
            owner[at] = number
            at += 1


@entry
def add_up(
    spreads: Spreads, keys: Ints, stop: Ints, priced: tuple[Floats, Floats], first: Ints, cycles: Floats,
    energy: Floats,
) -> None:  # fmt: skip
    """Set cycles per class of core, and energy of all cores, of every key.

    Args:
        spreads: All.
        keys: As ``list_shapes``.
        stop: Likewise.
        priced: Cycles and energy of the shapes.
        first: Of each key in ``cycles``.
        cycles: Emptied, and filled.
        energy: Likewise.
    """
    pass_cycles, pass_pj = priced
    rows, at = np.zeros(keys.shape[1], np.int64), 0
    for number in range(len(keys)):
        key, start, num_classes = keys[number], at, 1
        for spread in key:
            num_classes *= spreads.classes[spread]
        while at < stop[number]:
            _next_rows(spreads, key, at - start, rows)
            times = 1.0
            for row in rows:
                times *= spreads.times[row]
            energy[number] += times * pass_pj[at]
            for place in range(num_classes):
                left, count = place, 1.0
                for axis in range(len(key) - 1, -1, -1):
                    spread = key[axis]
                    num = spreads.classes[spread]
                    row = rows[axis] - spreads.first[spread]
                    count *= spreads.counts[spreads.at[spread] + row * num + left % num]
                    left //= num
                if count > 0:
                    cycles[first[number] + place] += count * pass_cycles[at]
            at += 1


class StageCosts:
    """Costs of layers of one group; looked up, and worked out where they are not known.

    Args:
        group: The group, whose boxes are products over axes.
        flat: Its arrays.
        mappers: Ways to choose the mappings of the array.
        cuts: Ways to cut single axes.
        part: Per class of ``cuts``, a part that is walked.
        shapes: Of the parts, see ``profile.PART``.
    """

    def __init__(
        self, group: Group, flat: FlatGroup, mappers: Sequence[InnerMapper], cuts: Cuts, part: Ints, shapes: Ints
    ) -> None:
        self._flat, self._mappers, self._cuts = flat, mappers, cuts
        self._part, self._shapes = part, shapes
        self._first_shape = np.searchsorted(shapes[:, PART], np.arange(int(part.max(initial=0)) + 2))
        works = [group.graph.layers[index].workload for index in group.layers]
        self._numbers = [[-1 if work is None else mapper.number(work) for work in works] for mapper in mappers]
        self._axes = [_loops_moved(flat, layer) for layer in range(flat.num_layers)]
        self._rank = int(flat.layer[-1, RANK])
        self._spread: dict[tuple[int, int, int, int], int] = {}
        """By layer, axis, way to cut it, and channels at a time or 0; the axis behind the last is that of channels."""
        self._rows: list[tuple[Ints, Floats, Floats, Ints]] = []
        self._spreads = _join([])
        self._same: dict[bytes, int] = {}
        self._key: list[dict[bytes, int]] = [{} for _ in works]
        self._known = StageTable(
            np.zeros((0, 0), np.int64), np.zeros(0, np.int64), np.zeros((0, len(mappers))), np.zeros((0, len(mappers)))
        )

    @property
    def known(self) -> StageTable:
        """Costs by key; the keys of rows are empty."""
        return self._known

    @property
    def num_keys(self) -> int:
        """That were worked out."""
        return len(self._known.first)

    def find(self, layer: int, cut: Ints, k_tile: Ints) -> Ints:
        """Keys of rows; -1 for vector work.

        Args:
            layer: Of the group.
            cut: ``(rows, axes)`` ways of ``Cuts``.
            k_tile: Per row, output channels at a time.
        """
        if not self._flat.layer[layer, IS_MAC]:
            return np.full(len(cut), -1, np.int64)
        moved, table = self._axes[layer], np.zeros((len(cut), self._rank + 1), np.int64)
        moves_k = [axis for axis in range(self._rank) if K_LOOP in moved[axis]]
        for axis in range(self._rank + 1):
            way = cut[:, axis] if axis < self._rank else np.zeros(len(cut), np.int64)
            with_k = axis in moves_k or (axis == self._rank and not moves_k)
            pairs, inverse = np.unique(way << 32 | (k_tile if with_k else 0), return_inverse=True)
            spreads = [self._spread_of(layer, axis, pair >> 32, pair & 0xFFFFFFFF) for pair in pairs.tolist()]
            table[:, axis] = np.array(spreads, np.int64)[inverse]
        texts = table.view(f"V{table.itemsize * table.shape[1]}").ravel().tolist()
        known = self._key[layer]
        new = {text: row for row, text in enumerate(texts) if text not in known}
        if new:
            first = self.num_keys
            self._work_out(layer, table[list(new.values())])
            known.update({text: first + number for number, text in enumerate(new)})
        return np.array([known[text] for text in texts], np.int64)

    def _spread_of(self, layer: int, axis: int, way: int, k_tile: int) -> int:
        key = layer, axis, way, k_tile
        if key not in self._spread:
            made = self._make_spread(*key)
            text = b"".join(column.tobytes() for column in made)
            if text not in self._same:
                self._same[text] = len(self._rows)
                self._rows.append(made)
            self._spread[key] = self._same[text]
        return self._spread[key]

    def _make_spread(self, layer: int, axis: int, way: int, k_tile: int) -> tuple[Ints, Floats, Floats, Ints]:
        """Rows, stages of all parts, stages by row and class of one part, and the row with most work."""
        found: dict[Shape, list[float]] = {}
        if axis == self._rank:
            whole, num_classes, times = int(self._flat.loops[layer, K_LOOP]), 1, [1.0]
            rows = [(0, [whole if d == K_LOOP else 0 for d in range(NUM_DIMS)], 1.0)] if k_tile else []
            if not k_tile:
                found[(0,) * NUM_DIMS] = [1.0]
        else:
            first, stop = self._cuts.first[way : way + 2].tolist()
            num_classes, times, rows = stop - first, self._cuts.times[first:stop].tolist(), []
            for cls in range(first, stop):
                part = int(self._part[cls])
                for row in self._shapes[self._first_shape[part] : self._first_shape[part + 1], SHAPES:].tolist():
                    if row[SHAPE_LAYER] == layer:
                        dims = [row[SHAPE_DIMS + d] if d in self._axes[layer][axis] else 0 for d in range(NUM_DIMS)]
                        rows.append((cls - first, dims, float(row[SHAPE_STAGES])))
        for cls, dims, count in rows:
            for size, chunks in _chunks(dims[K_LOOP], k_tile):
                shape = tuple(size if d == K_LOOP else dims[d] for d in range(NUM_DIMS))
                found.setdefault(shape, [0.0] * num_classes)[cls] += count * chunks
        shapes, counts = list(found), np.array(list(found.values())).reshape(len(found), num_classes)
        total = counts @ np.array(times)
        work = [float(all_parts * np.prod([extent or 1 for extent in shape])) for shape, all_parts in zip(
            shapes, total.tolist(), strict=True)]  # fmt: skip
        main = max(zip(work, shapes, strict=True), default=(0.0, (0,) * NUM_DIMS))[1]
        dims_array = np.array(shapes, np.int64).reshape(len(shapes), NUM_DIMS)
        return dims_array, np.asarray(total), counts, np.array(main, np.int64)

    def _work_out(self, layer: int, keys: Ints) -> None:
        """Add the costs of keys."""
        flat = self._flat
        if len(self._spreads.main) < len(self._rows):
            self._spreads = _join(self._rows)
        spreads = self._spreads
        moved = {loop for axis in range(self._rank) for loop in self._axes[layer][axis]} | {K_LOOP}
        base = np.array([0 if d in moved else flat.loops[layer, d] for d in range(NUM_DIMS)], np.int64)
        num_shapes = np.diff(spreads.first)[keys].prod(axis=1)
        stop = np.cumsum(num_shapes)
        dims, owner = np.zeros((int(stop[-1]), NUM_DIMS), np.int64), np.zeros(int(stop[-1]), np.int64)
        list_shapes(spreads, keys, base, stop, dims, owner)
        main = np.where(num_shapes[:, None] > 0, base + spreads.main[keys].sum(axis=1), 1)
        mains, main_of = np.unique(main, axis=0, return_inverse=True)
        num_classes = spreads.classes[keys].prod(axis=1)
        first = np.cumsum([0, *num_classes.tolist()])
        cycles, energy = np.zeros((int(first[-1]), len(self._mappers))), np.zeros((len(keys), len(self._mappers)))
        for place, mapper in enumerate(self._mappers):
            number = self._numbers[place][layer]
            found = mapper.passes(number, [tuple(row) for row in mains.tolist()], main_of.ravel()[owner], dims)
            pass_cycles = np.where(found[0] < 0, np.inf, found[0].astype(np.float64))
            of_classes, of_keys = np.zeros(int(first[-1])), np.zeros(len(keys))
            add_up(spreads, keys, stop, (pass_cycles, found[1]), first, of_classes, of_keys)
            cycles[:, place], energy[:, place] = of_classes, of_keys
        known = self._known
        self._known = StageTable(
            known.key, np.concatenate([known.first, len(known.cycles) + first[:-1]]),
            np.concatenate([known.cycles, cycles]), np.concatenate([known.energy, energy]),
        )  # fmt: skip


def _join(rows: list[tuple[Ints, Floats, Floats, Ints]]) -> Spreads:
    dims, times, counts, main = zip(*rows, strict=True) if rows else ((), (), (), ())
    nothing = np.zeros((0, NUM_DIMS), np.int64)
    return Spreads(
        np.cumsum([0, *map(len, dims)]), np.concatenate([nothing, *dims]), np.concatenate([np.zeros(0), *times]),
        np.array([one.shape[1] for one in counts], np.int64), np.cumsum([0, *(one.size for one in counts)])[:-1],
        np.concatenate([np.zeros(0), *(one.ravel() for one in counts)]), np.stack([*main]) if rows else nothing,
    )  # fmt: skip


def _chunks(channels: int, k_tile: int) -> list[tuple[int, int]]:
    """Sizes of chunks of channels, and how many there are of each."""
    size = min(channels, k_tile) or channels
    if not size:
        return [(0, 1)]
    return [(size, channels // size), *([(channels % size, 1)] if channels % size else [])]


def _loops_moved(flat: FlatGroup, layer: int) -> list[frozenset[int]]:
    """Per axis of the sink, the loops of a layer that move with it."""
    found = []
    for sink_axis in range(int(flat.layer[-1, RANK])):
        loops = set()
        for axis in range(int(flat.layer[layer, RANK])):
            if flat.moves[layer, axis] >> sink_axis & 1:
                row = flat.out_axes[layer, axis].tolist()
                loops |= set(row[TERMS : TERMS + 2 * row[NUM_TERMS] : 2])
        found.append(frozenset(loop for loop in loops if loop < NUM_DIMS))
    return found
