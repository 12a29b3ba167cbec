"""Where in SPM the tensors of a fused group lie, and when what comes from outside has to be loaded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tvm import tirx

from schedules.group.dual import Bools, Dual, Ints, dual
from schedules.group.emit import Expr, Tile, number, only_if, sequence
from schedules.group.regions import Key, Regions, TileLoops, origin_of, raised_axes
from schedules.group.spans import Region, is_not_empty
from tvm_spm.errors import ScheduleError
from tvm_spm.group import Group, GroupMapping

SPM_SCOPE = "global.spm"


class TilePlaces:
    """One tile per tensor between layers and per read from outside."""

    def __init__(self, *, group: Group, mapping: GroupMapping, regions: Regions) -> None:
        self.group, self.mapping, self.regions = group, mapping, regions
        self._tiles: dict[int | Key | str, Tile] = {}
        self._last: dict[Key, tirx.Buffer] = {}
        raised = raised_axes(mapping, regions.loops)
        self._rolls = raised[0] if raised else None
        self._origin: dict[int | Key, Region] | None = None
        self.binds: list[tirx.Bind] = []
        """Statements that have to stand behind those of the regions."""

    def buffers(self) -> Iterator[tirx.Buffer]:
        """All buffers, in order of first use."""
        for tile in self._tiles.values():
            yield tile.buffer
        yield from self._last.values()

    def starts(self) -> Iterator[tirx.Stmt]:
        """What has to be done on each core before its first tile."""
        for buffer in self._last.values():
            for at in range(int(buffer.shape[0])):
                yield tirx.BufferStore(buffer, number(-1), [number(at)])

    def of_tensor(self, tensor: int) -> Tile:
        """A tensor that one layer of the group writes and others read."""
        if tensor not in self._tiles:
            noun = self.group.graph.tensors[tensor]
            self._tiles[tensor] = self._kept(tensor, f"t{tensor}_spm", noun.dtype)
        return self._tiles[tensor]

    def of_output(self, index: int, region: Region) -> Tile:
        """Where a layer writes; the sink has a tile of its own."""
        layer = self.group.graph.layers[index]
        if index != self.group.sink:
            return self.of_tensor(layer.output)
        if layer.output not in self._tiles:
            dtype = self.group.graph.tensors[layer.output].dtype
            self._tiles[layer.output] = _plain("out_spm", region, dtype)
        return self._tiles[layer.output]

    def of_read(self, key: Key) -> Tile:
        """A tensor, or a part of it, that comes from outside."""
        if key not in self._tiles:
            read = self.group.graph.layers[key[0]].reads[key[1]]
            tensor = self.group.graph.tensors[read.tensor]
            name = f"{read.role}{self.group.place(key[0])}_spm"
            raised = self.regions.loaded[key] is not self.regions.needed[key]
            self._tiles[key] = (
                self._kept(key, name, tensor.dtype) if raised else _plain(name, self.regions.needed[key], tensor.dtype)
            )
        return self._tiles[key]

    def of_chunk(self, key: Key, region: Region) -> Tile:
        """A weight that comes in chunks."""
        read = self.group.graph.layers[key[0]].reads[key[1]]
        dtype = self.group.graph.tensors[read.tensor].dtype
        self._tiles[key] = _plain(f"{read.role}{self.group.place(key[0])}_spm", region, dtype)
        return self._tiles[key]

    def of_sums(self, index: int, box: Region, dtype: str) -> Tile:
        """Where a layer sums up: in its output's place, or apart if the sums are wider, or stay there until stored."""
        layer = self.group.graph.layers[index]
        if index != self.group.sink and self.group.graph.tensors[layer.output].dtype == dtype:
            return self.of_tensor(layer.output)
        name = f"sums{self.group.place(index)}"
        self._tiles[name] = _plain(f"{name}_spm", box, dtype)
        return self._tiles[name]

    def guarded(self, key: Key, stmt: tirx.Stmt | None, region: Region, unless: Expr | None = None) -> tirx.Stmt | None:
        """Load only what is not there from the tile before.

        Args:
            key: The read.
            stmt: Loads it.
            region: What it loads.
            unless: Load in any case if this holds.
        """
        not_empty = is_not_empty(region)
        stmt = only_if(None if not_empty.always else not_empty.expr, stmt)
        changed = _changes(self.regions, key)
        fixed = _fixed_guard(self.regions, changed)
        if fixed is not None:
            conditions = fixed
            if unless is not None and conditions:
                return only_if(tirx.any(unless, tirx.all(*conditions)), stmt)
            return only_if(tirx.all(*conditions) if conditions else None, stmt)
        ends = [end.expr for span in self.regions.needed[key] for end in span]
        last = tirx.decl_buffer([len(ends)], "int32", f"last{self.group.place(key[0])}_{key[1]}", scope="global.rf")
        self._last[key] = last
        differs = [tirx.BufferLoad(last, [number(i)]) != end for i, end in enumerate(ends)]
        remember = [tirx.BufferStore(last, end, [number(i)]) for i, end in enumerate(ends)]
        return only_if(tirx.any(*differs, *([unless] if unless is not None else [])), sequence([stmt, *remember]))

    def _kept(self, key: int | Key, name: str, dtype: str) -> Tile:
        """A place for what is computed or loaded once and needed at several tiles."""
        if self._rolls is None:
            return _plain(name, self.regions.needed[key], dtype)
        loops = self.regions.loops
        inner = frozenset(axis for axis in range(self._rolls + 1, len(loops.tiles)) if loops.num_tiles[axis] > 1)
        extents: list[int] = []
        first: list[Expr] = []
        rings: list[tuple[Expr, int] | None] = []
        for axis, (movers, (start, stop)) in enumerate(
            zip(self.regions.moved[key], self.regions.needed[key], strict=True)
        ):
            ring = None
            if self._rolls in movers:
                if movers & inner:
                    raise ScheduleError(f"axis {axis} of {name} moves with several axes of the tile, one of them kept")
                ring = _extent(start, stop)
                if int(stop.values.max()) <= ring:
                    start, ring = dual(0), None
                    extents.append(int(stop.values.max()))
                else:
                    extents.append(ring)
            else:
                # What is kept must not move, also where only some of its readers are left.
                start = self._origin_of(key)[axis][0]
                extents.append(_extent(start, stop))
            first.append(start.expr)
            rings.append(None if ring is None else (self._start(f"{name}_start{axis}", start, ring), ring))
        buffer = tirx.decl_buffer(extents, dtype, name, scope=SPM_SCOPE)
        return Tile(buffer=buffer, first=tuple(first), rings=tuple(rings))

    def _start(self, name: str, first: Dual, ring: int) -> Expr:
        """Where the first element needed at a tile lies in a ring."""
        var = tirx.Var(name, "int32")
        self.binds.append(tirx.Bind(var, tirx.floormod(first.expr, number(ring))))
        return var

    def _origin_of(self, key: int | Key) -> Region:
        if self._origin is None:
            assert self._rolls is not None
            self._origin = origin_of(self.group, self.mapping, self.regions, self._rolls)
        return self._origin[key]


def _plain(name: str, region: Region, dtype: str) -> Tile:
    extents = [_extent(first, stop) for first, stop in region]
    buffer = tirx.decl_buffer(extents, dtype, name, scope=SPM_SCOPE)
    return Tile(buffer=buffer, first=tuple(first.expr for first, _ in region), rings=(None,) * len(region))


def _extent(first: Dual, stop: Dual) -> int:
    return max(1, int((stop.values - first.values).max()))


def _grid(loops: TileLoops) -> tuple[int, ...]:
    return (loops.num_cores, *loops.num_tiles, 1)


def _runs(regions: Regions, index: int) -> Bools:
    """Whether a layer does something, at every tile that exists."""
    loops = regions.loops
    runs = np.broadcast_to(regions.runs[index].values, _grid(loops)).copy()
    for axis, extent in enumerate(loops.extents):
        shape = [1] * (len(loops.tiles) + 2)
        shape[axis + 1] = loops.num_tiles[axis]
        runs &= np.arange(loops.num_tiles[axis]).reshape(shape) < extent.values
    return runs


def _changes(regions: Regions, key: Key) -> tuple[Bools, Bools]:
    """Whether a read needs another box than at the tile before, and whether the layer runs, at every tile."""
    loops = regions.loops
    runs = _runs(regions, key[0]).reshape(loops.num_cores, -1)
    ends: list[Ints] = [
        np.broadcast_to(end.values, _grid(loops)).reshape(loops.num_cores, -1)
        for span in regions.needed[key] for end in span
    ]  # fmt: skip
    changed = np.zeros_like(runs)
    for core in range(loops.num_cores):
        at = np.flatnonzero(runs[core])
        if len(at):
            differs = [end[core, at[1:]] != end[core, at[:-1]] for end in ends]
            changed[core, at[0]] = True
            changed[core, at[1:]] = np.logical_or.reduce(differs) if differs else False
    return changed, runs


def _fixed_guard(regions: Regions, changes: tuple[Bools, Bools]) -> list[Expr] | None:
    """Conditions on the tile loops that hold exactly when a box changes; None if there are none of a simple kind."""
    loops = regions.loops
    changed, runs = changes
    looping = [axis for axis, tiles in enumerate(loops.num_tiles) if tiles > 1]
    for innermost in [*reversed(looping), -1]:
        inside = [axis for axis in looping if axis > innermost]
        holds = np.ones((1,) * (len(loops.tiles) + 2), dtype=np.bool_)
        for axis in inside:
            shape = [1] * (len(loops.tiles) + 2)
            shape[axis + 1] = loops.num_tiles[axis]
            holds = holds & (np.arange(loops.num_tiles[axis]).reshape(shape) == 0)
        if (np.broadcast_to(holds, _grid(loops)).reshape(changed.shape)[runs] == changed[runs]).all():
            return [loops.tiles[axis] == 0 for axis in inside]
    return None
