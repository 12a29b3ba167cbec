"""The loops, guards and copies of scheduled code, and whether they cut tiles and move them exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from cost_model.simulator.program import Buffer, Compute, Copy, TileLoop
from schedules.layer.compute import outer_first
from schedules.layer.evaluate import Booleans, Grid, Ints, Value, constant_of, less, loop_value, value_of
from tvm_spm.errors import ScheduleError
from tvm_spm.frontend.tir.blocks import count_distinct_ops, loads_of
from tvm_spm.frontend.tir.nest import Nest
from tvm_spm.lowering.blocks import COPY_ATTRS, Placed, parts_of
from tvm_spm.lowering.partial import DOUBLE
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Axis, Dims, Operand, dtype_bits

_OUTER_LEVELS = ("cores", "dram", "spm")
_STEP_LEVELS = ("rows", "cols", "rf")
_DRAM_SCOPES = ("", "global")
_PATHS = dict(zip(COPY_ATTRS, ("DMA", "NoC"), strict=True))


@dataclass(frozen=True, slots=True)
class Code:
    """The loops around the multiply-accumulates.

    Attributes:
        nest: Of the function.
        loops: Variables of all annotated loops, outer to inner, with level, dim, elements per iteration and extent.
        outer: Those over cores, DRAM and SPM.
        compute: Those inside a step.
        grid: Extents of all annotated loops.
        order: Per operand, which axis of its tensor each axis of its staged buffer is.
        doubled: Buffers whose first axis tells two tiles apart.
    """

    nest: Nest
    loops: tuple[tuple[tirx.Var, str, str, int], ...]
    outer: tuple[TileLoop, ...]
    compute: Compute
    grid: Grid
    order: dict[Operand, tuple[int, ...]]
    doubled: frozenset[tirx.Buffer]

    @classmethod
    def of(cls, mac: Placed, nest: Nest, doubled: frozenset[tirx.Buffer]) -> Code:
        """Read the loops around a multiply-accumulate block; ``ScheduleError`` if they are no tiles in order."""
        annotated = [loop for loop in mac.loops if "spm.level" in loop.annotations]
        for loop in mac.loops:
            if "spm.level" not in loop.annotations and constant_of(loop.extent) != 1:
                raise ScheduleError(f"block {mac.block.name_hint}: loop {loop.loop_var.name} has no level")
        values = iter_values(mac)
        names = [name for dims in nest.iter_dims for name in (dims or ("",))]
        index_of = dict(zip(names, values.values(), strict=True))
        grid = Grid({loop.loop_var: constant_of(loop.extent) for loop in annotated})
        found = []
        for loop in annotated:
            level, dim = str(loop.annotations["spm.level"]), str(loop.annotations["spm.dim"])
            found.append((loop.loop_var, level, dim, grid.slope(index_of[dim], loop.loop_var)))
        levels = [level for _, level, _, _ in found]
        num_outer = sum(level in _OUTER_LEVELS for level in levels)
        ranks = [_OUTER_LEVELS.index(level) for level in levels[:num_outer] if level in _OUTER_LEVELS]
        if len(ranks) < num_outer or ranks != sorted(ranks):
            raise ScheduleError(f"block {mac.block.name_hint}: loops stand in the order {' '.join(levels)}")
        inside = {level: Dims() for level in _STEP_LEVELS}
        for var, level, dim, _ in found[num_outer:]:
            inside[level] = inside[level].with_dim(dim, grid.extents[var])
        outer = tuple(TileLoop(level=level, dim=dim, tile=tile) for _, level, dim, tile in found[:num_outer])
        order = {operand: _axis_order(mac, nest, operand, names, doubled) for operand in Operand}
        return cls(nest, tuple(found), outer, Compute(**inside), grid, order, doubled)

    def _loops_of(self, dim: str, depth: int | None = None) -> list[tuple[tirx.Var, int]]:
        """Variables and tiles of the loops over one dim among the outermost ``depth``."""
        return [(var, tile) for var, _, name, tile in self.loops[:depth] if name == dim]

    def _dim_of(self, var: tirx.Var) -> str:
        return next((name for known, _, name, _ in self.loops if known.same_as(var)), "")

    def _dims(self, value: Value) -> set[str]:
        return {self._dim_of(var) for var in value.loops} - {""}

    def tile_at(self, dim: str, depth: int | None, at: Grid) -> tuple[Ints, Ints]:
        """First index and number of elements of one dim, per iteration of its outermost loops; 0 where none is left."""
        first: Ints = np.zeros(1, dtype=np.int64)
        size: Ints = np.full(1, self.nest.workload.dims[dim], dtype=np.int64)
        for var, tile in self._loops_of(dim, depth):
            index = at.index(var)
            first = first + index * tile
            size = np.clip(size - index * tile, 0, tile)
        return first, size

    def check_macs(self, mac: Placed) -> None:
        """Every point of the nest is computed once, in tiles that are cut off exactly where they end."""
        name = mac.block.name_hint
        guards = [value_of(part, {}) for part in parts_of(mac.realize.predicate)]
        names = [name for dims in self.nest.iter_dims for name in (dims or ("",))]
        for dim, value in zip(names, iter_values(mac).values(), strict=True):
            if not dim or self.nest.workload.dims[dim] == 1:
                continue
            at = self.grid.only([var for var, _ in self._loops_of(dim)])
            first, size = self.tile_at(dim, None, at)
            runs = _all(at, [guard for guard in guards if dim in self._dims(guard)])
            if not np.array_equal(runs, at.full(size > 0)) or not np.array_equal(
                at.full(value.at(at))[runs], at.full(first)[runs]
            ):
                raise ScheduleError(f"block {name}: its guards do not cut {dim} into tiles of the mapping")
            if int(at.full(size).max()) > 1 or int(runs.sum()) != self.nest.workload.dims[dim]:
                raise ScheduleError(f"block {name}: its loops do not cover {dim} once")
        for guard in guards:
            if len(self._dims(guard)) != 1:
                raise ScheduleError(f"block {name}: a guard tests {len(self._dims(guard))} dims at once")

    def check_other(self, block: Placed, mac: Placed) -> None:
        """A block that is no copy multiplies or starts sums."""
        name = block.block.name_hint
        starts = name.endswith("_init") and block.block.writes[0].source.same_as(mac.block.writes[0].source)
        if block.block.iter_vars and block.block != mac.block and not starts:
            raise ScheduleError(f"block {name}: is no copy, and not timed")

    def copy(self, block: Placed, *, before: bool) -> tuple[int, Copy]:
        """A copy and the number of loops around it."""
        attr = next(attr for attr in COPY_ATTRS if attr in block.block.annotations)
        path, operand = _PATHS[attr], Operand[block.copied_operand]
        depth = self.depth_of(block)
        direction = "in" if before else "out"
        axes, indices = self._moved(block, path, operand, direction)
        moment, tile_elems = self._walked(block, depth, axes, indices, operand, path, direction)
        is_double = DOUBLE in block.block.annotations
        copy = Copy(
            path=path, operand=operand, direction=direction, when=moment, tile_elems=tile_elems, is_double=is_double
        )
        return depth, copy

    def stream(self, block: Placed) -> tuple[int, tuple[int, str, tuple[int, ...]]]:
        """A read of an extra: the number of loops around it; which, when, and how many elements per axis."""
        number, (region,) = int(block.copied_operand[1:]), block.block.reads
        return self.depth_of(block), (number, *self._read_by(block, number, [axis.min for axis in region.region]))

    def _read_by(self, block: Placed, number: int, at: Sequence[tirx.PrimExpr]) -> tuple[str, tuple[int, ...]]:
        extra, values = self.nest.workload.epilogue.extras[number], iter_values(block)
        if len(at) != len(extra.axes):
            raise ScheduleError(f"block {block.block.name_hint}: reads another tensor than extra {number}")
        indices = [value_of(index, values) for index in at]
        return self._walked(block, self.depth_of(block), extra.axes, indices, Operand.O, "DMA", "out", has_holes=False)

    def reads_of_one_tensor(self, store: Placed) -> list[tuple[int, str, tuple[int, ...]]]:
        """The same for extras that are one tensor at several places: every output reads an element of its own.

        Args:
            store: The block that stores to DRAM.
        """
        params = self.nest.extra_params
        shared = [number for number, param in enumerate(params) if params.count(param) > 1]
        reads = [load for load in loads_of(store.block.body.value) if load.source.scope() in _DRAM_SCOPES]
        found = []
        for number in shared:
            extra = self.nest.workload.epilogue.extras[number]
            needed = {name for name in self.nest.workload.O.relevant_dims if self.nest.workload.dims[name] > 1}
            if not needed <= set(extra.relevant_dims):
                raise ScheduleError(f"block {store.block.name_hint}: reads extra {number} once for every output")
            moments = []
            for load in reads:
                try:
                    moments.append(self._read_by(store, number, list(load.indices)))
                except ScheduleError:
                    continue
            if not moments:
                raise ScheduleError(f"block {store.block.name_hint}: does not read extra {number}")
            found.append((number, *moments[0]))
        return found

    def check_epilogue(self, store: Placed) -> None:
        """The store takes no more operations for an element than are counted."""
        taken, counted = count_distinct_ops(store.block.body.value), self.nest.workload.epilogue.num_ops_per_elem
        if taken > counted:
            raise ScheduleError(
                f"block {store.block.name_hint}: takes {taken} operations for an element, {counted} are counted"
            )

    def check_memory(self, block: Placed) -> None:
        """DRAM is read and written by copies alone, one tensor each."""
        is_leaf = isinstance(block.block.body, tirx.BufferStore)
        regions = [*block.block.reads, *block.block.writes] if is_leaf else []
        in_dram = [region.source for region in regions if region.source.scope() in _DRAM_SCOPES]
        allowed = 1 if "spm.dma" in block.block.annotations else 0
        if allowed and block.copied_operand == "O":
            params = self.nest.extra_params
            allowed += len({param for param in params if params.count(param) > 1})
        if len(in_dram) > allowed:
            raise ScheduleError(
                f"block {block.block.name_hint}: {in_dram[0].name} in DRAM is accessed outside of copies"
            )

    def depth_of(self, block: Placed) -> int:
        """Loops of the nest around a block, which must be its outermost ones."""
        around = [loop.loop_var for loop in block.loops if "spm.level" in loop.annotations]
        if [var for var, _, _, _ in self.loops[: len(around)]] != around or len(around) > len(self.outer):
            raise ScheduleError(f"block {block.block.name_hint}: stands outside of the loops of the nest")
        return len(around)

    def _walked(
        self, block: Placed, depth: int, axes: Sequence[Axis], indices: Sequence[Value], operand: Operand, path: str,
        direction: str, *, has_holes: bool | None = None,
    ) -> tuple[str, tuple[int, ...]]:  # fmt: skip
        """When a block moves what is left of its tile, and the elements of a full one."""
        name = block.block.name_hint
        guards = [value_of(part, {}) for part in parts_of(block.realize.predicate)]
        own = self._own_loops(block, guards)
        grid = self.grid.with_loops(own)
        for var, extent in own.items():
            if extent > 1 and sum(var in index.loops for index in indices) != 1:
                raise ScheduleError(f"block {name}: loop {var.name} does not walk along one axis")
        moment, guards = self._moment(operand, path, direction, depth, guards)
        tile_elems = []
        for axis, index in zip(axes, indices, strict=True):
            dims = [d for d, _ in axis.terms if self.nest.workload.dims[d] > 1]
            mine = [guard for guard in guards if self._concerns(guard, index, dims, own)]
            guards = [guard for guard in guards if guard not in mine]
            extent = self._check_axis(
                name, depth, axis, dims, index, mine, own, grid, is_absolute=path == "DMA",
                has_holes=operand is Operand.O if has_holes is None else has_holes,
            )  # fmt: skip
            tile_elems.append(extent)
        self._check_idle(name, depth, [d for axis in axes for d, _ in axis.terms], guards)
        return moment, tuple(tile_elems)

    def _own_loops(self, block: Placed, guards: list[Value]) -> dict[tirx.Var, int]:
        """The loops over the elements of a copy; an extent that varies counts as one more guard."""
        own: dict[tirx.Var, int] = {}
        for loop in block.loops:
            if "spm.level" in loop.annotations:
                continue
            extent = value_of(loop.extent, {})
            own[loop.loop_var] = int(extent.at(self.grid.only(list(extent.loops))).max())
            if extent.loops:
                guards.append(less(loop_value(loop.loop_var), extent))
        return own

    def _moved(self, block: Placed, path: str, operand: Operand, direction: str) -> tuple[Sequence[Axis], list[Value]]:
        """The axes of what is copied, in the order of the tensor, and the index along each."""
        values = iter_values(block)
        is_write = (direction == "out") if path == "DMA" else (direction == "in")
        scopes = ("global.rf",) if path == "NoC" else _DRAM_SCOPES
        regions = block.block.writes if is_write else block.block.reads
        region = next(region for region in regions if region.source.scope() in scopes)
        indices = [value_of(axis.min, values) for axis in region.region][region.source in self.doubled :]
        axes = self.nest.workload.projection(operand).axes
        if path == "NoC":
            indices = [indices[at] for at in self.order[operand]]
        if len(indices) != len(axes):
            raise ScheduleError(f"block {block.block.name_hint}: copies {len(indices)} axes of {len(axes)}")
        return axes, indices

    def _moment(
        self, operand: Operand, path: str, direction: str, depth: int, guards: list[Value]
    ) -> tuple[str, list[Value]]:
        """When a copy happens, and the guards that say nothing about it."""
        if operand is not Operand.O:
            return "always", guards
        summed = [var for var, _, dim, _ in self.loops[:depth] if dim in REDUCTION_DIMS]
        at = self.grid.only(summed)
        is_first, is_last = np.ones(1, dtype=np.bool_), np.ones(1, dtype=np.bool_)
        for var in summed:
            is_first = is_first & (at.index(var) == 0)
            is_last = is_last & (at.index(var) == at.extents[var] - 1)
        moments = {"revisit": at.full(~is_first)} if direction == "in" else {}
        if path == "DMA" and direction == "out":
            moments = {"unfinished": at.full(~is_last), "finished": at.full(is_last)}
        for guard in guards if summed else ():
            if self._dims(guard) and self._dims(guard) <= set(REDUCTION_DIMS):
                runs = at.full(guard.at(at)).astype(np.bool_)
                for moment, expected in moments.items():
                    if np.array_equal(runs, expected):
                        return moment, [other for other in guards if other is not guard]
        return "always", guards

    def _concerns(self, guard: Value, index: Value, dims: Sequence[str], own: dict[tirx.Var, int]) -> bool:
        """Whether a guard limits one axis of a copy."""
        mine = [var for var in guard.loops if var in own]
        if mine:
            return any(var in index.loops for var in mine)
        tested = self._dims(guard)
        return bool(tested) and (tested <= set(dims) or len(tested) > 1 and bool(tested & set(dims)))

    def _check_axis(
        self, name: str, depth: int, axis: Axis, dims: Sequence[str], index: Value, guards: Sequence[Value],
        own: dict[tirx.Var, int], grid: Grid, *, is_absolute: bool, has_holes: bool,
    ) -> int:  # fmt: skip
        """One axis of a copy moves exactly what is left of the tile; returns the extent of a full tile.

        Inputs come with what lies between the elements of the tile; outputs there belong to another tile and stay.
        """
        used = set(index.loops).union(*(guard.loops for guard in guards))
        others = {self._dim_of(var) for var in used} - {"", *dims}
        around = [var for d in (*dims, *others) for var, _ in self._loops_of(d, depth)]
        inside = [var for var in own if var in used]
        if any(var not in around and var not in inside for var in used):
            raise ScheduleError(f"block {name}: a guard or index uses loops inside of the block")
        at = grid.only([*around, *inside])
        sizes = {d: self.tile_at(d, depth, at) for d in dims}
        terms = [(d, coefficient) for d, coefficient in outer_first(axis) if d in dims]
        first: Ints = np.full(1, axis.offset, dtype=np.int64)
        span, num_points, is_left = np.ones((3, 1), dtype=np.int64)
        for d, coefficient in terms:
            begin, size = sizes[d]
            first, span = first + coefficient * begin, span + coefficient * (size - 1)
            num_points, is_left = num_points * size, is_left * (size > 0)
        for d in others:
            # What an idle iteration would copy is up to another guard.
            is_left = is_left * (self.tile_at(d, depth, at)[1] > 0)
        where = at.full(index.at(at))
        shift = 0 if is_absolute else int(where.flat[0]) - axis.offset
        moved = where - shift - at.full(first)
        is_wanted = (moved >= 0) & at.full(moved < span)
        if has_holes:
            rest = moved
            for d, coefficient in terms:
                is_wanted, rest = is_wanted & (rest // coefficient < sizes[d][1]), rest % coefficient
        rows = math.prod(at.extents[var] for var in around)
        is_busy = at.full(is_left > 0).reshape(rows, -1) if others else np.ones(1, dtype=np.bool_)
        runs = _all(at, guards).reshape(rows, -1) & is_busy
        num_wanted = at.full((num_points if has_holes else span) * is_left).reshape(rows, -1)[:, 0]
        widest = int((span * is_left).max())
        key = (np.arange(rows)[:, None] * widest + moved.reshape(rows, -1))[runs]
        is_exact = is_wanted.reshape(rows, -1)[runs].all() and np.array_equal(runs.sum(axis=1), num_wanted)
        if not is_exact or len(np.unique(key)) < len(key):
            raise ScheduleError(f"block {name}: does not copy exactly the tile along axis {axis}")
        return widest

    def _check_idle(self, name: str, depth: int, dims: Sequence[str], guards: Sequence[Value]) -> None:
        """Nothing is copied where a smaller share or tile has no iteration left."""
        for guard in guards:
            if len(self._dims(guard)) != 1:
                raise ScheduleError(f"block {name}: a guard tests {len(self._dims(guard))} dims at once")
        for d in DIM_NAMES:
            around = [var for var, _ in self._loops_of(d, depth)]
            if d in dims or not around:
                continue
            at = self.grid.only(around)
            runs = _all(at, [guard for guard in guards if d in self._dims(guard)])
            if not np.array_equal(runs, at.full(self.tile_at(d, depth, at)[1] > 0)):
                raise ScheduleError(f"block {name}: copies in iterations over {d} that have no work")

    def buffer(self, block: Placed, copy: Copy) -> Buffer:
        """The buffer in SPM of a copy by DMA."""
        regions = block.block.writes if copy.direction == "in" else block.block.reads
        staged = next(region.source for region in regions if region.source.scope() == "global.spm")
        shape = [constant_of(extent) for extent in staged.shape]
        count = shape.pop(0) if staged in self.doubled else 1
        extents = tuple(shape[at] for at in self.order[copy.operand])
        return Buffer(
            operand=copy.operand, extents=extents, elem_bits=dtype_bits(str(staged.dtype)), count=count
        )  # fmt: skip


def iter_values(block: Placed) -> dict[tirx.Var, Value]:
    """What the iteration variables of a block are, in terms of loops."""
    pairs = zip(block.block.iter_vars, block.realize.iter_values, strict=True)
    return {iter_var.var: value_of(value, {}) for iter_var, value in pairs}


def _all(at: Grid, guards: Sequence[Value]) -> Booleans:
    runs = np.ones(1, dtype=np.bool_)
    for guard in guards:
        runs = runs & guard.at(at).astype(np.bool_)
    return at.full(runs)


def _axis_order(
    mac: Placed, nest: Nest, operand: Operand, names: Sequence[str], doubled: frozenset[tirx.Buffer]
) -> tuple[int, ...]:
    """Per axis of an operand's tensor, the axis of the staged buffer that the multiply-accumulates index alike."""
    variables = {iter_var.var: loop_value(iter_var.var) for iter_var in mac.block.iter_vars}
    at = Grid({var: 2 for var in variables})
    if operand is Operand.O:
        region = mac.block.writes[0]
    else:
        # The sums come first where they are read, too.
        reads = [read for read in mac.block.reads if not read.source.same_as(mac.block.writes[0].source)]
        region = reads[(nest.input_read, nest.weight_read)[operand.value]]
    staged = []
    for axis in list(region.region)[region.source in doubled :]:
        index = value_of(axis.min, variables)
        slopes = {name: at.slope(index, var) for name, var in zip(names, variables, strict=True) if name}
        staged.append({name: slope for name, slope in slopes.items() if slope and nest.workload.dims[name] > 1})
    order: list[int] = []
    for axis in nest.workload.projection(operand).axes:
        wanted = {d: coefficient for d, coefficient in axis.terms if nest.workload.dims[d] > 1}
        found = next((i for i, terms in enumerate(staged) if i not in order and terms == wanted), None)
        if found is None:
            raise ScheduleError(f"block {mac.block.name_hint}: reads {operand.name} at other indices than its tensor")
        order.append(found)
    return tuple(order)
