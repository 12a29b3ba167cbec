"""The loops around the multiply-accumulates of scheduled code: which tiles they walk over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from cost_model.simulator.program import Compute, TileLoop
from schedules.layer.evaluate import Grid, IndexValue, Ints, constant_of, loop_value, value_of
from tvm_spm.errors import ScheduleError
from tvm_spm.frontend.tir.nest import TirNest
from tvm_spm.lowering.blocks import Placed
from tvm_spm.workload import Dims, Operand

_OUTER_LEVELS = ("cores", "dram", "spm")
_STEP_LEVELS = ("rows", "cols", "rf")


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

    nest: TirNest
    loops: tuple[tuple[tirx.Var, str, str, int], ...]
    outer: tuple[TileLoop, ...]
    compute: Compute
    grid: Grid
    order: dict[Operand, tuple[int, ...]]
    doubled: frozenset[tirx.Buffer]

    @classmethod
    def of(cls, mac: Placed, nest: TirNest, doubled: frozenset[tirx.Buffer]) -> Code:
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

    def loops_of(self, dim: str, depth: int | None = None) -> list[tuple[tirx.Var, int]]:
        """Variables and tiles of the loops over one dim among the outermost ``depth``."""
        return [(var, tile) for var, _, name, tile in self.loops[:depth] if name == dim]

    def dim_of(self, var: tirx.Var) -> str:
        """The dim that a loop is over; an empty text for loops of copies."""
        return next((name for known, _, name, _ in self.loops if known.same_as(var)), "")

    def dims_of(self, value: IndexValue) -> set[str]:
        """The dims whose loops a value uses."""
        return {self.dim_of(var) for var in value.loops} - {""}

    def tile_at(self, dim: str, depth: int | None, at: Grid) -> tuple[Ints, Ints]:
        """First index and number of elements of one dim, per iteration of its outermost loops; 0 where none is left."""
        first: Ints = np.zeros(1, dtype=np.int64)
        size: Ints = np.full(1, self.nest.workload.dims[dim], dtype=np.int64)
        for var, tile in self.loops_of(dim, depth):
            index = at.index(var)
            first = first + index * tile
            size = np.clip(size - index * tile, 0, tile)
        return first, size

    def depth_of(self, block: Placed) -> int:
        """Loops of the nest around a block, which must be its outermost ones."""
        around = [loop.loop_var for loop in block.loops if "spm.level" in loop.annotations]
        if [var for var, _, _, _ in self.loops[: len(around)]] != around or len(around) > len(self.outer):
            raise ScheduleError(f"block {block.block.name_hint}: stands outside of the loops of the nest")
        return len(around)


def iter_values(block: Placed) -> dict[tirx.Var, IndexValue]:
    """What the iteration variables of a block are, in terms of loops."""
    pairs = zip(block.block.iter_vars, block.realize.iter_values, strict=True)
    return {iter_var.var: value_of(value, {}) for iter_var, value in pairs}


def _axis_order(
    mac: Placed, nest: TirNest, operand: Operand, names: Sequence[str], doubled: frozenset[tirx.Buffer]
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
