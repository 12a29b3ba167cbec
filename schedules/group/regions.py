"""The part of every tensor that a tile of a fused group needs, computes and loads, as expressions of its loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
from tvm import tirx

from schedules.group.dual import Condition, Dual, choose, dual, largest, least, less
from schedules.group.spans import Region, is_not_empty, loop_spans, read_region, union
from tvm_spm.errors import ScheduleError
from tvm_spm.graph import Layer, Read
from tvm_spm.group import Group, GroupMapping
from tvm_spm.lowering.blocks import substitute
from tvm_spm.units import ceil_div

Key = tuple[int, int]
"""A layer and one of its reads, both as indices."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TileLoops:
    """The loops of a group, outer to inner: all cores, then the tiles along every axis of the sink's output.

    Attributes:
        core: Counts the cores, the last axis of the sink fastest.
        tiles: One per axis.
        num_cores: Iterations of ``core``.
        chunk: Per axis, what the core works on. Values have one axis for cores, one per axis of the sink for tiles, and
            one for chunks of output channels.
        extents: Per axis, the tiles of the core.
        num_tiles: Per axis, the tiles of the largest core.
        tile: Per axis, extent of a tile.
    """

    core: tirx.Var
    tiles: tuple[tirx.Var, ...]
    num_cores: int
    chunk: Region
    extents: tuple[Dual, ...]
    num_tiles: tuple[int, ...]
    tile: tuple[int, ...]

    @classmethod
    def of(cls, group: Group, mapping: GroupMapping) -> TileLoops:
        """The loops of a mapping.

        Raises:
            ScheduleError: The mapping does not fit the sink, or leaves a core without work.
        """
        shape = group.sink_shape
        if len(mapping.tile) != len(shape):
            raise ScheduleError(f"the tile has {len(mapping.tile)} axes, the sink's output has {len(shape)}")
        core = tirx.Var("core", "int32")
        rank = len(shape)
        num_cores = prod(mapping.cores)
        chunks = mapping.chunk(shape)
        num_tiles = tuple(ceil_div(chunk, tile) for chunk, tile in zip(chunks, mapping.tile, strict=True))
        index = Dual(core, np.arange(num_cores, dtype=np.int64).reshape(-1, *[1] * (rank + 1))).simplified()
        spans, extents = [], []
        for axis, (extent, parts, chunk) in enumerate(zip(shape, mapping.cores, chunks, strict=True)):
            if (parts - 1) * chunk >= extent:
                raise ScheduleError(f"axis {axis} of extent {extent} in {parts} shares of {chunk} leaves a core idle")
            at = index // prod(mapping.cores[axis + 1 :])
            at = at % parts if axis and prod(mapping.cores[:axis]) > 1 else at
            first = (at * chunk if parts > 1 else dual(0)).simplified()
            stop = least(first + chunk, extent).simplified()
            spans.append((first, stop))
            extents.append(((stop - first + (mapping.tile[axis] - 1)) // mapping.tile[axis]).simplified())
        return cls(
            core=core,
            tiles=tuple(tirx.Var(f"tile{axis}", "int32") for axis in range(rank)),
            num_cores=num_cores, chunk=tuple(spans), extents=tuple(extents), num_tiles=num_tiles, tile=mapping.tile,
        )  # fmt: skip

    def index(self, axis: int) -> Dual:
        """The tile along an axis; behind the last tile of a small core it stays at the last."""
        if self.num_tiles[axis] == 1:
            return dual(0)
        shape = [1] * (len(self.tiles) + 2)
        shape[axis + 1] = self.num_tiles[axis]
        values = np.arange(self.num_tiles[axis], dtype=np.int64).reshape(shape)
        return Dual(self.tiles[axis], np.minimum(values, self.extents[axis].values - 1))

    def region(self, index: Callable[[int], Dual]) -> Region:
        """The part of the sink's output at some tile."""
        spans = []
        for axis, ((first, stop), tile) in enumerate(zip(self.chunk, self.tile, strict=True)):
            start = first + index(axis) * tile
            spans.append((start.simplified(), least(stop, start + tile).simplified()))
        return tuple(spans)

    def not_first(self, axis: int) -> Condition:
        """Whether a tile has one before it along an axis."""
        return less(dual(0), self.index(axis))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Regions:
    """All regions of a group.

    Attributes:
        loops: Over cores and tiles.
        needed: Per tensor written inside and per read from outside, what must lie in SPM.
        new: Per layer, what it computes at a tile.
        runs: Per layer, whether that is anything.
        loaded: Per read from outside, what is loaded at a tile unless the same was loaded before.
        streamed: Reads from outside that come in chunks of output channels.
        moved: Per key of ``needed`` and axis, the axes of the sink that move it.
        binds: Statements that give the variables in the regions their values.
    """

    loops: TileLoops
    needed: dict[int | Key, Region]
    new: dict[int, Region]
    runs: dict[int, Condition]
    loaded: dict[Key, Region]
    streamed: frozenset[Key]
    moved: dict[int | Key, tuple[frozenset[int], ...]]
    binds: tuple[tirx.Bind, ...]


def is_external(group: Group, read: Read) -> bool:
    """Whether a tensor comes from outside of a group."""
    producer = group.graph.tensors[read.tensor].producer
    return producer is None or producer not in group.layers


def raised_axes(mapping: GroupMapping, loops: TileLoops) -> tuple[int, ...]:
    """Axes of the sink along which something is kept from tile to tile."""
    return tuple(axis for axis in mapping.kept if loops.num_tiles[axis] > 1)


def _is_raised(group: Group, key: Key) -> bool:
    """Whether only the new part of a read from outside is loaded."""
    read = group.graph.layers[key[0]].reads[key[1]]
    return not group.graph.tensors[read.tensor].is_constant and read.role != "W"


def _uses_channels(layer: Layer, read: Read) -> bool:
    """Whether a read of a multiply-accumulate layer differs between chunks of output channels."""
    return layer.workload is not None and any(
        name == "K" for access in read.accesses for axis in access for name, _ in axis.terms
    )


def regions_of(group: Group, mapping: GroupMapping) -> Regions:
    """Walk the layers backwards from a tile of the sink."""
    loops = TileLoops.of(group, mapping)
    moved = _moved(group)
    before: dict[int, dict[int | Key, Region]] = {}
    walks = []
    for axis in raised_axes(mapping, loops):

        def index(at: int, axis: int = axis) -> Dual:
            return loops.index(at) - 1 if at == axis else loops.index(at)

        walk = _Walk(group=group, mapping=mapping, loops=loops, moved=moved, before={}, suffix=f"_before{axis}")
        walk.run(loops.region(index))
        before[axis] = walk.needed
        walks.append(walk)
    walk = _Walk(group=group, mapping=mapping, loops=loops, moved=moved, before=before, suffix="")
    walk.run(loops.region(loops.index))
    binds = [bind for other in walks for bind in other.binds] + walk.binds
    return Regions(
        loops=loops, needed=walk.needed, new=walk.new, runs=walk.runs, loaded=walk.loaded,
        streamed=frozenset(walk.streamed), moved=moved, binds=_used(binds, walk),
    )  # fmt: skip


def _moved(group: Group) -> dict[int | Key, tuple[frozenset[int], ...]]:
    graph = group.graph
    sink = graph.layers[group.sink]
    moved: dict[int | Key, tuple[frozenset[int], ...]] = {
        sink.output: tuple(frozenset({axis}) for axis in range(len(sink.out_axes)))
    }
    for index in reversed(group.layers):
        layer = graph.layers[index]
        by_loop: dict[str, frozenset[int]] = {}
        for axis, movers in zip(layer.out_axes, moved[layer.output], strict=True):
            for name, _ in axis.terms:
                by_loop[name] = by_loop.get(name, frozenset()) | movers
        for number, read in enumerate(layer.reads):
            key = (index, number) if is_external(group, read) else read.tensor
            found = moved.get(key, tuple(frozenset[int]() for _ in read.accesses[0]))
            for access in read.accesses:
                found = tuple(
                    known.union(*(by_loop.get(name, frozenset()) for name, _ in axis.terms))
                    for known, axis in zip(found, access, strict=True)
                )
            moved[key] = found
    return moved


@dataclass(slots=True, kw_only=True, eq=False)
class _Walk:
    """One walk from the sink to the first layer."""

    group: Group
    mapping: GroupMapping
    loops: TileLoops
    moved: dict[int | Key, tuple[frozenset[int], ...]]
    before: dict[int, dict[int | Key, Region]]
    suffix: str
    needed: dict[int | Key, Region] = field(default_factory=dict)
    new: dict[int, Region] = field(default_factory=dict)
    runs: dict[int, Condition] = field(default_factory=dict)
    loaded: dict[Key, Region] = field(default_factory=dict)
    streamed: set[Key] = field(default_factory=set)
    binds: list[tirx.Bind] = field(default_factory=list)

    def run(self, tile: Region) -> None:
        graph, group = self.group.graph, self.group
        sink = graph.layers[group.sink]
        wanted: dict[int, list[tuple[Condition, Region]]] = {}
        self.needed[sink.output] = self._named("out", tile)
        for index in reversed(group.layers):
            layer = graph.layers[index]
            if index != group.sink:
                if layer.output not in wanted:
                    raise ScheduleError(f"layer {layer.name}: nothing in the group reads its output")
                self.needed[layer.output] = self._named(
                    f"need{group.place(index)}", union(wanted[layer.output], graph.tensors[layer.output].shape)
                )
            new = self.needed[layer.output]
            if index != group.sink:
                new = self._raised(layer.output, f"new{group.place(index)}")
            self.new[index] = new
            self.runs[index] = is_not_empty(new)
            spans = loop_spans(layer, new)
            for number, read in enumerate(layer.reads):
                region = read_region(read, spans)
                if not is_external(group, read):
                    wanted.setdefault(read.tensor, []).append((self.runs[index] & is_not_empty(region), region))
                    continue
                key = (index, number)
                name = f"{read.role}{group.place(index)}" + (f"_{number}" if read.role in ("extra", "vector") else "")
                self.needed[key] = self._named(name, region)
                k_tile = self.mapping.k_tile[group.place(index)]
                if _uses_channels(layer, read) and int((spans["K"][1] - spans["K"][0]).values.max()) > k_tile:
                    self.streamed.add(key)
                raised = _is_raised(group, key) and key not in self.streamed
                self.loaded[key] = self._raised(key, f"new_{name}") if raised else self.needed[key]

    def _raised(self, key: int | Key, name: str) -> Region:
        """What is not there from the tiles before along the kept axes."""
        whole, spans = self.needed[key], list(self.needed[key])
        for axis, regions in self.before.items():
            moving = [at for at, movers in enumerate(self.moved[key]) if axis in movers]
            if len(moving) > 1:
                continue
            is_there = self._is_there(axis, whole, regions[key], moving)
            if moving:
                first, stop = spans[moving[0]]
                later = largest(first, regions[key][moving[0]][1])
                spans[moving[0]] = choose(is_there, later, first), stop
            else:
                # All of it is there.
                spans[0] = spans[0][0], choose(is_there, spans[0][0], spans[0][1])
        return self._named(name, tuple(spans)) if self.before else tuple(spans)

    def _is_there(self, axis: int, needed: Region, before: Region, moving: Sequence[int]) -> Condition:
        """Whether there is a tile before along an axis that needed as much along all others."""
        result = self.loops.not_first(axis)
        tests = [less(first - 1, low) for (low, _), (first, _) in zip(needed, before, strict=True)]
        for at, ((_, high), (_, stop)) in enumerate(zip(needed, before, strict=True)):
            if at not in moving:
                tests.append(less(high - 1, stop))
        for test in tests:
            if not (test.values | ~result.values).all():
                result = result & test
        return result

    def _named(self, name: str, region: Region) -> Region:
        """The region with a variable for every number that changes."""
        return tuple(
            (self._bind(f"{name}_first{axis}", first), self._bind(f"{name}_stop{axis}", stop))
            for axis, (first, stop) in enumerate(region)
        )

    def _bind(self, name: str, value: Dual) -> Dual:
        value = value.simplified()
        if value.constant is not None or isinstance(value.expr, tirx.Var):
            return value
        var = tirx.Var(name + self.suffix, "int32")
        self.binds.append(tirx.Bind(var, value.expr))
        return Dual(var, value.values)


def _used(binds: Sequence[tirx.Bind], walk: _Walk) -> tuple[tirx.Bind, ...]:
    """The statements whose variables are used."""
    regions = [*walk.needed.values(), *walk.new.values(), *walk.loaded.values()]
    exprs = [end.expr for region in regions for span in region for end in span]
    exprs += [runs.expr for runs in walk.runs.values()]
    used = {var for expr in exprs for var in tirx.analysis.undefined_vars(expr)}
    kept = []
    for bind in reversed(binds):
        if bind.var in used:
            kept.append(bind)
            used.update(tirx.analysis.undefined_vars(bind.value))
    return tuple(reversed(kept))


def origin_of(group: Group, mapping: GroupMapping, regions: Regions, rolls: int) -> dict[int | Key, Region]:
    """What is needed at the first tile along all axes inside of one, other loops as they stand."""
    loops = regions.loops
    walk = _Walk(group=group, mapping=mapping, loops=loops, moved=regions.moved, before={}, suffix="_origin")
    walk.run(loops.region(lambda axis: dual(0) if axis > rolls else loops.index(axis)))
    binds = {bind.var: bind.value for bind in walk.binds}
    return {
        key: tuple((Dual(_expanded(a.expr, binds), a.values), b) for a, b in region)
        for key, region in walk.needed.items()
    }


def _expanded(expr: tirx.PrimExpr, binds: dict[tirx.Var, tirx.PrimExpr]) -> tirx.PrimExpr:
    found = [var for var in tirx.analysis.undefined_vars(expr) if var in binds]
    return _expanded(substitute(expr, binds), binds) if found else expr
