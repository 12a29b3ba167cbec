"""What a fused group does by its mapping, told tile by tile in the plainest way: the reference for generated code."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from tvm_spm.graph import Box, Layer, Range, Read, box_elems
from tvm_spm.group import Group, GroupMapping
from tvm_spm.units import ceil_div
from tvm_spm.workload import Axis

Key = tuple[int, int]
"""A layer of the group and one of its reads."""

Tile = tuple[int, ...]
"""Index of a tile along every axis of the sink."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEvent:
    """One thing that a core does.

    Attributes:
        kind: ``load``, ``compute`` or ``store``.
        layer: Counted from the first of the group.
        read: Which of the layer's reads is loaded.
        box: What is loaded or stored; None where it is computed.
        extents: Of the box; of all loops of a multiply-accumulate layer, of the output of any other.
    """

    kind: str
    layer: int
    read: int = -1
    box: Box | None = None
    extents: tuple[int, ...] = ()

    def __str__(self) -> str:
        where = " ".join(f"{first}:{stop}" for first, stop in self.box or ())
        read = f" read {self.read}" if self.read >= 0 else ""
        return f"{self.kind} layer {self.layer}{read} [{where or ' x '.join(map(str, self.extents))}]"


def group_events(group: Group, mapping: GroupMapping) -> list[list[GroupEvent]]:
    """Per core, what it does, in order."""
    shape = group.sink_shape
    events = []
    for core in itertools.product(*(range(parts) for parts in mapping.cores)):
        chunk = tuple(
            (k * size, min(extent, (k + 1) * size))
            for k, size, extent in zip(core, mapping.chunk(shape), shape, strict=True)
        )
        events.append(list(_Core(group=group, mapping=mapping, chunk=chunk).run()))
    return events


@dataclass(slots=True, kw_only=True)
class _Core:
    group: Group
    mapping: GroupMapping
    chunk: Box
    needed: dict[Tile, dict[int | Key, Box]] = field(default_factory=dict)
    """Per tile, what was needed of tensors between layers and of reads from outside."""
    latest: dict[Key, Box] = field(default_factory=dict)

    def run(self) -> Iterator[GroupEvent]:
        counts = [ceil_div(stop - first, t) for (first, stop), t in zip(self.chunk, self.mapping.tile, strict=True)]
        for tile in itertools.product(*map(range, counts)):
            yield from self._tile(tile)

    def _tile(self, tile: Tile) -> Iterator[GroupEvent]:
        group, graph = self.group, self.group.graph
        here: dict[int | Key, Box] = {}
        self.needed[tile] = here
        wanted: dict[int, list[Box]] = {graph.layers[group.sink].output: [self._sink_box(tile)]}
        new: dict[int, Box] = {}
        for index in reversed(group.layers):
            layer = graph.layers[index]
            new[index] = self._new(tile, layer.output, _joined(wanted.get(layer.output, [])))
            if box_elems(new[index]):
                ranges = layer.loop_ranges(new[index])
                for read in layer.reads:
                    box = read.box(ranges)
                    if box_elems(box):
                        wanted.setdefault(read.tensor, []).append(box)
        for index in group.layers:
            if box_elems(new[index]):
                yield from self._layer(tile, index, new[index])
            else:
                self._inherit(tile, index)

    def _sink_box(self, tile: Tile) -> Box:
        return tuple(
            (first + index * size, min(stop, first + (index + 1) * size))
            for (first, stop), index, size in zip(self.chunk, tile, self.mapping.tile, strict=True)
        )

    def _layer(self, tile: Tile, index: int, new: Box) -> Iterator[GroupEvent]:
        group, layer = self.group, self.group.graph.layers[index]
        position = group.place(index)
        ranges = layer.loop_ranges(new)
        chunks: list[Range | None] = [None]
        if layer.workload is not None:
            first, stop = ranges.get("K", (0, 1))
            size = self.mapping.k_tile[position]
            chunks = [(k, min(stop, k + size)) for k in range(first, stop, size)]
        for chunk in chunks:
            loops = {**ranges, "K": chunk} if chunk is not None and "K" in ranges else ranges
            for number, read in enumerate(layer.reads):
                is_streamed = index == group.sink and layer.workload is not None and read.role == "extra"
                if self._is_external(read) and not is_streamed:
                    is_chunk = len(chunks) > 1 and _uses(read, "K")
                    yield from self._load(tile, (index, number), read.box(loops), is_chunk=is_chunk)
            box = _output(layer, loops, new)
            extents = tuple(stop - first for first, stop in box)
            sizes = extents if layer.workload is None else tuple(loops[n][1] - loops[n][0] for n, _ in layer.loops)
            yield GroupEvent(kind="compute", layer=position, extents=sizes)
            if index in group.leaving:
                yield GroupEvent(kind="store", layer=position, box=box, extents=extents)

    def _load(self, tile: Tile, key: Key, box: Box, *, is_chunk: bool) -> Iterator[GroupEvent]:
        if not box_elems(box):
            self._inherit_read(tile, key)
            return
        read = self.group.graph.layers[key[0]].reads[key[1]]
        is_constant = self.group.graph.tensors[read.tensor].is_constant or read.role == "W" or is_chunk
        fresh = self._new(tile, key, box)
        if self.latest.get(key) == box:
            return
        self.latest[key] = box
        moved = box if is_constant else fresh
        if box_elems(moved):
            extents = tuple(stop - first for first, stop in moved)
            yield GroupEvent(kind="load", layer=self.group.place(key[0]), read=key[1], box=moved, extents=extents)

    def _new(self, tile: Tile, key: int | Key, needed: Box) -> Box:
        """What is not there from the tiles before along the kept axes."""
        if not needed:
            shape = self.group.graph.tensors[key].shape if isinstance(key, int) else ()
            self._inherit_read(tile, key)
            return tuple((0, 0) for _ in shape)
        self.needed[tile][key] = needed
        new = list(needed)
        for axis in self.mapping.kept:
            before = self._before(tile, axis, key)
            if before is None:
                continue
            moving = [at for at, movers in enumerate(self._moves(key)) if axis in movers]
            is_there = all(first >= low for (first, _), (low, _) in zip(needed, before, strict=True)) and all(
                stop <= high
                for at, ((_, stop), (_, high)) in enumerate(zip(needed, before, strict=True))
                if at not in moving
            )
            if not is_there or len(moving) > 1:
                continue
            if moving:
                first, stop = new[moving[0]]
                new[moving[0]] = max(first, before[moving[0]][1]), stop
            else:
                new[0] = new[0][0], new[0][0]
        return tuple(new)

    def _before(self, tile: Tile, axis: int, key: int | Key) -> Box | None:
        if tile[axis] == 0:
            return None
        return self.needed[(*tile[:axis], tile[axis] - 1, *tile[axis + 1 :])].get(key)

    def _inherit(self, tile: Tile, index: int) -> None:
        for number, read in enumerate(self.group.graph.layers[index].reads):
            if self._is_external(read):
                self._inherit_read(tile, (index, number))

    def _inherit_read(self, tile: Tile, key: int | Key) -> None:
        """What a tile does not need is there as long as the tile before had it."""
        for axis in self.mapping.kept:
            before = self._before(tile, axis, key)
            if before is not None:
                self.needed[tile][key] = before

    def _is_external(self, read: Read) -> bool:
        producer = self.group.graph.tensors[read.tensor].producer
        return producer is None or producer not in self.group.layers

    def _moves(self, key: int | Key) -> list[set[int]]:
        """Per axis of a tensor, the axes of the sink that move it."""
        graph, group = self.group.graph, self.group
        moves: dict[int | Key, list[set[int]]] = {
            graph.layers[group.sink].output: [{axis} for axis in range(len(group.sink_shape))]
        }
        for index in reversed(group.layers):
            layer = graph.layers[index]
            by_loop: dict[str, set[int]] = {}
            for axis, movers in zip(layer.out_axes, moves[layer.output], strict=True):
                for name, _ in axis.terms:
                    by_loop.setdefault(name, set()).update(movers)
            for number, read in enumerate(layer.reads):
                own = (index, number) if self._is_external(read) else read.tensor
                found = moves.setdefault(own, [set() for _ in graph.tensors[read.tensor].shape])
                for access in read.accesses:
                    for at, axis in enumerate(access):
                        for name, _ in axis.terms:
                            found[at] |= by_loop.get(name, set())
        return moves[key]


def _joined(boxes: list[Box]) -> Box:
    """The bounding box."""
    return tuple(
        (min(first for first, _ in ranges), max(stop for _, stop in ranges)) for ranges in zip(*boxes, strict=True)
    )


def _uses(read: Read, name: str) -> bool:
    return any(name == term for access in read.accesses for axis in access for term, _ in axis.terms)


def _output(layer: Layer, loops: dict[str, Range], new: Box) -> Box:
    """The part of the output that loops make."""
    return tuple(_cut(axis, loops, within) for axis, within in zip(layer.out_axes, new, strict=True))


def _cut(axis: Axis, loops: dict[str, Range], within: Range) -> Range:
    first = axis.offset + sum(stride * loops[name][0] for name, stride in axis.terms)
    stop = axis.offset + sum(stride * (loops[name][1] - 1) for name, stride in axis.terms) + 1
    return max(first, within[0]), min(stop, within[1])
