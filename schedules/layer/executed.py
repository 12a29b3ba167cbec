"""The guards and copies of scheduled code, and whether they cut tiles and move them exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from cost_model.simulator.program import Buffer, Copy
from schedules.layer.axes import outer_first
from schedules.layer.code import Code, iter_values
from schedules.layer.evaluate import Booleans, Grid, IndexValue, Ints, constant_of, less, loop_value, value_of
from tvm_spm.errors import ScheduleError
from tvm_spm.frontend.tir.blocks import count_distinct_ops, loads_of
from tvm_spm.frontend.tir.packed import bits_kept, packed_index
from tvm_spm.lowering.blocks import COPY_ATTRS, Placed, parts_of
from tvm_spm.lowering.partial import DOUBLE
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Axis, Operand, dtype_bits

_DRAM_SCOPES = ("", "global")
_PATHS = dict(zip(COPY_ATTRS, ("DMA", "NoC"), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copying:
    """A block that moves a tile.

    Attributes:
        name: Of the block.
        depth: Loops of the nest around it.
        own: Its loops over elements.
        grid: Extents of all loops.
        is_absolute: Whether indices are those of the tensor, not of a tile.
        has_holes: Whether what lies between the elements of the tile stays.
    """

    name: str
    depth: int
    own: dict[tirx.Var, int]
    grid: Grid
    is_absolute: bool
    has_holes: bool


@dataclass(frozen=True, slots=True)
class Executed:
    """What blocks do in the loops of ``code``."""

    code: Code

    def check_macs(self, mac: Placed) -> None:
        """Every point of the nest is computed once, in tiles that are cut off exactly where they end."""
        name = mac.block.name_hint
        guards = [value_of(part, {}) for part in parts_of(mac.realize.predicate)]
        names = [name for dims in self.code.nest.iter_dims for name in (dims or ("",))]
        for dim, value in zip(names, iter_values(mac).values(), strict=True):
            if not dim or self.code.nest.workload.dims[dim] == 1:
                continue
            at = self.code.grid.only([var for var, _ in self.code.loops_of(dim)])
            first, size = self.code.tile_at(dim, None, at)
            runs = _all(at, [guard for guard in guards if dim in self.code.dims_of(guard)])
            if not np.array_equal(runs, at.full(size > 0)) or not np.array_equal(
                at.full(value.at(at))[runs], at.full(first)[runs]
            ):
                raise ScheduleError(f"block {name}: its guards do not cut {dim} into tiles of the mapping")
            if int(at.full(size).max()) > 1 or int(runs.sum()) != self.code.nest.workload.dims[dim]:
                raise ScheduleError(f"block {name}: its loops do not cover {dim} once")
        for guard in guards:
            if len(self.code.dims_of(guard)) != 1:
                raise ScheduleError(f"block {name}: a guard tests {len(self.code.dims_of(guard))} dims at once")

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
        depth = self.code.depth_of(block)
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
        return self.code.depth_of(block), (number, *self._read_by(block, number, [axis.min for axis in region.region]))

    def _read_by(self, block: Placed, number: int, at: Sequence[tirx.PrimExpr]) -> tuple[str, tuple[int, ...]]:
        extra, values = self.code.nest.workload.epilogue.extras[number], iter_values(block)
        if len(at) != len(extra.axes):
            raise ScheduleError(f"block {block.block.name_hint}: reads another tensor than extra {number}")
        indices = [value_of(index, values) for index in at]
        return self._walked(
            block, self.code.depth_of(block), extra.axes, indices, Operand.O, "DMA", "out", has_holes=False
        )

    def reads_of_one_tensor(self, store: Placed) -> list[tuple[int, str, tuple[int, ...]]]:
        """The same for extras that are one tensor at several places: every output reads an element of its own.

        Args:
            store: The block that stores to DRAM.
        """
        params = self.code.nest.extra_params
        shared = [number for number, param in enumerate(params) if params.count(param) > 1]
        reads = [load for load in loads_of(store.block.body.value) if load.source.scope() in _DRAM_SCOPES]
        found = []
        for number in shared:
            extra = self.code.nest.workload.epilogue.extras[number]
            needed = {
                name for name in self.code.nest.workload.O.relevant_dims if self.code.nest.workload.dims[name] > 1
            }
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
        taken, counted = count_distinct_ops(store.block.body.value), self.code.nest.workload.epilogue.num_ops_per_elem
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
            params = self.code.nest.extra_params
            allowed += len({param for param in params if params.count(param) > 1})
        if len(in_dram) > allowed:
            raise ScheduleError(
                f"block {block.block.name_hint}: {in_dram[0].name} in DRAM is accessed outside of copies"
            )

    def _walked(
        self, block: Placed, depth: int, axes: Sequence[Axis], indices: Sequence[IndexValue], operand: Operand,
        path: str, direction: str, *, has_holes: bool | None = None,
    ) -> tuple[str, tuple[int, ...]]:  # fmt: skip
        """When a block moves what is left of its tile, and the elements of a full one."""
        name = block.block.name_hint
        guards = [value_of(part, {}) for part in parts_of(block.realize.predicate)]
        own = self._own_loops(block, guards)
        copying = _Copying(
            name=name, depth=depth, own=own, grid=self.code.grid.with_loops(own), is_absolute=path == "DMA",
            has_holes=operand is Operand.O if has_holes is None else has_holes,
        )  # fmt: skip
        for var, extent in own.items():
            if extent > 1 and sum(var in index.loops for index in indices) != 1:
                raise ScheduleError(f"block {name}: loop {var.name} does not walk along one axis")
        moment, guards = self._moment(operand, path, direction, depth, guards)
        tile_elems = []
        for axis, index in zip(axes, indices, strict=True):
            dims = [d for d, _ in axis.terms if self.code.nest.workload.dims[d] > 1]
            mine = [guard for guard in guards if self._concerns(guard, index, dims, own)]
            guards = [guard for guard in guards if guard not in mine]
            tile_elems.append(self._check_axis(copying, axis, dims, index, mine))
        self._check_idle(name, depth, [d for axis in axes for d, _ in axis.terms], guards)
        return moment, tuple(tile_elems)

    def _own_loops(self, block: Placed, guards: list[IndexValue]) -> dict[tirx.Var, int]:
        """The loops over the elements of a copy; an extent that varies counts as one more guard."""
        own: dict[tirx.Var, int] = {}
        for loop in block.loops:
            if "spm.level" in loop.annotations:
                continue
            extent = value_of(loop.extent, {})
            own[loop.loop_var] = int(extent.at(self.code.grid.only(list(extent.loops))).max())
            if extent.loops:
                guards.append(less(loop_value(loop.loop_var), extent))
        return own

    def _moved(
        self, block: Placed, path: str, operand: Operand, direction: str
    ) -> tuple[Sequence[Axis], list[IndexValue]]:
        """The axes of what is copied, in the order of the tensor, and the index along each."""
        values = iter_values(block)
        is_write = (direction == "out") if path == "DMA" else (direction == "in")
        scopes = ("global.rf",) if path == "NoC" else _DRAM_SCOPES
        regions = block.block.writes if is_write else block.block.reads
        region = next(region for region in regions if region.source.scope() in scopes)
        indices = [value_of(axis.min, values) for axis in region.region][region.source in self.code.doubled :]
        if operand is Operand.W and path == "DMA" and self.code.nest.unpack_block is not None:
            indices[-1] = value_of(packed_index(block.block.body.value), values)
        axes = self.code.nest.workload.projection(operand).axes
        if path == "NoC":
            indices = [indices[at] for at in self.code.order[operand]]
        if len(indices) != len(axes):
            raise ScheduleError(f"block {block.block.name_hint}: copies {len(indices)} axes of {len(axes)}")
        return axes, indices

    def _moment(
        self, operand: Operand, path: str, direction: str, depth: int, guards: list[IndexValue]
    ) -> tuple[str, list[IndexValue]]:
        """When a copy happens, and the guards that say nothing about it."""
        if operand is not Operand.O:
            return "always", guards
        summed = [var for var, _, dim, _ in self.code.loops[:depth] if dim in REDUCTION_DIMS]
        at = self.code.grid.only(summed)
        is_first, is_last = np.ones(1, dtype=np.bool_), np.ones(1, dtype=np.bool_)
        for var in summed:
            is_first = is_first & (at.index(var) == 0)
            is_last = is_last & (at.index(var) == at.extents[var] - 1)
        moments = {"revisit": at.full(~is_first)} if direction == "in" else {}
        if path == "DMA" and direction == "out":
            moments = {"unfinished": at.full(~is_last), "finished": at.full(is_last)}
        for guard in guards if summed else ():
            if self.code.dims_of(guard) and self.code.dims_of(guard) <= set(REDUCTION_DIMS):
                runs = at.full(guard.at(at)).astype(np.bool_)
                for moment, expected in moments.items():
                    if np.array_equal(runs, expected):
                        return moment, [other for other in guards if other is not guard]
        return "always", guards

    def _concerns(self, guard: IndexValue, index: IndexValue, dims: Sequence[str], own: dict[tirx.Var, int]) -> bool:
        """Whether a guard limits one axis of a copy."""
        mine = [var for var in guard.loops if var in own]
        if mine:
            return any(var in index.loops for var in mine)
        tested = self.code.dims_of(guard)
        return bool(tested) and (tested <= set(dims) or len(tested) > 1 and bool(tested & set(dims)))

    def _check_axis(
        self, copying: _Copying, axis: Axis, dims: Sequence[str], index: IndexValue, guards: Sequence[IndexValue]
    ) -> int:
        """One axis of a copy moves exactly what is left of the tile; returns the extent of a full tile.

        Inputs come with what lies between the elements of the tile; outputs there belong to another tile and stay.
        """
        name, depth = copying.name, copying.depth
        used = set(index.loops).union(*(guard.loops for guard in guards))
        others = {self.code.dim_of(var) for var in used} - {"", *dims}
        around = [var for d in (*dims, *others) for var, _ in self.code.loops_of(d, depth)]
        inside = [var for var in copying.own if var in used]
        if any(var not in around and var not in inside for var in used):
            raise ScheduleError(f"block {name}: a guard or index uses loops inside of the block")
        at = copying.grid.only([*around, *inside])
        sizes = {d: self.code.tile_at(d, depth, at) for d in dims}
        terms = [(d, coefficient) for d, coefficient in outer_first(axis) if d in dims]
        first: Ints = np.full(1, axis.offset, dtype=np.int64)
        span, num_points, is_left = np.ones((3, 1), dtype=np.int64)
        for d, coefficient in terms:
            begin, size = sizes[d]
            first, span = first + coefficient * begin, span + coefficient * (size - 1)
            num_points, is_left = num_points * size, is_left * (size > 0)
        for d in others:
            # What an idle iteration would copy is up to another guard.
            is_left = is_left * (self.code.tile_at(d, depth, at)[1] > 0)
        where = at.full(index.at(at))
        shift = 0 if copying.is_absolute else int(where.flat[0]) - axis.offset
        moved = where - shift - at.full(first)
        is_wanted = (moved >= 0) & at.full(moved < span)
        if copying.has_holes:
            rest = moved
            for d, coefficient in terms:
                is_wanted, rest = is_wanted & (rest // coefficient < sizes[d][1]), rest % coefficient
        rows = math.prod(at.extents[var] for var in around)
        is_busy = at.full(is_left > 0).reshape(rows, -1) if others else np.ones(1, dtype=np.bool_)
        runs = _all(at, guards).reshape(rows, -1) & is_busy
        num_wanted = at.full((num_points if copying.has_holes else span) * is_left).reshape(rows, -1)[:, 0]
        widest = int((span * is_left).max())
        key = (np.arange(rows)[:, None] * widest + moved.reshape(rows, -1))[runs]
        is_exact = is_wanted.reshape(rows, -1)[runs].all() and np.array_equal(runs.sum(axis=1), num_wanted)
        if not is_exact or len(np.unique(key)) < len(key):
            raise ScheduleError(f"block {name}: does not copy exactly the tile along axis {axis}")
        return widest

    def _check_idle(self, name: str, depth: int, dims: Sequence[str], guards: Sequence[IndexValue]) -> None:
        """Nothing is copied where a smaller share or tile has no iteration left."""
        for guard in guards:
            if len(self.code.dims_of(guard)) != 1:
                raise ScheduleError(f"block {name}: a guard tests {len(self.code.dims_of(guard))} dims at once")
        for d in DIM_NAMES:
            around = [var for var, _ in self.code.loops_of(d, depth)]
            if d in dims or not around:
                continue
            at = self.code.grid.only(around)
            runs = _all(at, [guard for guard in guards if d in self.code.dims_of(guard)])
            if not np.array_equal(runs, at.full(self.code.tile_at(d, depth, at)[1] > 0)):
                raise ScheduleError(f"block {name}: copies in iterations over {d} that have no work")

    def buffer(self, block: Placed, copy: Copy) -> Buffer:
        """The buffer in SPM of a copy by DMA."""
        regions = block.block.writes if copy.direction == "in" else block.block.reads
        staged = next(region.source for region in regions if region.source.scope() == "global.spm")
        shape = [constant_of(extent) for extent in staged.shape]
        count = shape.pop(0) if staged in self.code.doubled else 1
        extents = tuple(shape[at] for at in self.code.order[copy.operand])
        bits = dtype_bits(str(staged.dtype))
        if copy.operand is Operand.W and self.code.nest.unpack_block is not None:
            # The host keeps a byte for what the accelerator keeps as few bits as are used.
            bits = min(bits, bits_kept(block.block.body.value))
        return Buffer(operand=copy.operand, extents=extents, elem_bits=bits, count=count)


def _all(at: Grid, guards: Sequence[IndexValue]) -> Booleans:
    runs = np.ones(1, dtype=np.bool_)
    for guard in guards:
        runs = runs & guard.at(at).astype(np.bool_)
    return at.full(runs)
