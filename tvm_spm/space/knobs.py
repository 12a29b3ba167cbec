"""What a map space allows, as arrays for compiled code, and the choices that limits leave to one dim."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tvm_spm.arch import Arch
from tvm_spm.jit import entry, lean
from tvm_spm.space.constraints import Bound, Constraints
from tvm_spm.space.constraints_batch import COLS, CORES, DRAM, RF, ROWS, SPM, Rules, rules_of
from tvm_spm.space.legality_batch import Limits, limits_of
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.space.tiles import snap_factor, snap_rf, snap_tile, tile_above, tile_below
from tvm_spm.workload import DIM_NAMES, Workload

Ints = NDArray[np.int64]

CORE_TILE, IS_DONE, KEPT, LOOPS, IS_WHOLE = range(5)
"""Rows of ``new_scratch``."""


class Knobs(NamedTuple):
    """What a ``MapSpace`` allows, as arrays over the dims.

    Attributes:
        limits: Workload and arch.
        perfect: Only factors that divide.
        allow_spill: Also orders that evict unfinished outputs.
        may_rows: Dims that may be unrolled along the rows.
        may_cols: Dims that may be unrolled along the columns.
        rules: The constraints; nothing but ``may_rows`` and ``may_cols`` if there are none.
        has_order: Whether ``rules`` say anything about orders.
        is_bound: Dims with a limit other than ``may_rows`` and ``may_cols``; the rest are as free as without limits.
        has_bound: Whether there is such a dim.
        left: Of a bound dim, whether (dim, cores, PEs) leaves a choice of SPM and RF tiles; with 0 PEs, whether any
            number of PEs within its limits does.
        least_cores: Fewest cores each dim can do with.
    """

    limits: Limits
    perfect: bool
    allow_spill: bool
    may_rows: NDArray[np.bool_]
    may_cols: NDArray[np.bool_]
    rules: Rules
    has_order: bool
    is_bound: NDArray[np.bool_]
    has_bound: bool
    left: NDArray[np.bool_]
    least_cores: NDArray[np.int64]


def make_knobs(
    workload: Workload,
    arch: Arch,
    *,
    perfect: bool,
    allow_spill: bool,
    rows_dims: tuple[str, ...],
    cols_dims: tuple[str, ...],
    constraints: Constraints,
) -> Knobs:
    """The arrays for the attributes of a ``MapSpace``."""
    limits = limits_of(workload, arch)
    rules = rules_of(constraints, workload, _axis_bounds(rows_dims, cols_dims))
    below = np.minimum(rules.high, limits.extents) < limits.extents
    below[ROWS] = (rules.high[ROWS] > 1) & (rules.high[ROWS] < np.minimum(limits.num_rows, limits.extents))
    below[COLS] = (rules.high[COLS] > 1) & (rules.high[COLS] < np.minimum(limits.num_cols, limits.extents))
    is_bound = np.asarray(((rules.low > 1) | below).any(axis=0))
    num_cores, num_pes = (limits.num_cores, limits.num_rows * limits.num_cols) if is_bound.any() else (0, 0)
    knobs = Knobs(
        limits=limits,
        perfect=perfect,
        allow_spill=allow_spill,
        may_rows=rules.high[ROWS] > 1,
        may_cols=rules.high[COLS] > 1,
        rules=rules,
        has_order=bool(rules.outside.any()),
        is_bound=is_bound,
        has_bound=bool(is_bound.any()),
        left=np.zeros((NUM_DIMS, num_cores + 1, num_pes + 1), dtype=np.bool_),
        least_cores=np.ones(NUM_DIMS, dtype=np.int64),
    )
    if knobs.has_bound:
        _fill_left(knobs)
    return knobs


def new_scratch() -> NDArray[np.int64]:
    """Room for what compiled code keeps per dim while it works on one mapping."""
    return np.zeros((5, NUM_DIMS), dtype=np.int64)


def _axis_bounds(rows_dims: tuple[str, ...], cols_dims: tuple[str, ...]) -> Iterator[Bound]:
    for axis, dims in (("rows", rows_dims), ("cols", cols_dims)):
        for name in DIM_NAMES:
            if name not in dims:
                yield axis, name, 1, 1


@lean
def bound_rf(rules: Rules, d: int, spm: int, num_pes: int, wanted: int, perfect: bool) -> int:
    """The largest RF tile up to ``wanted`` within the limits of a dim, else the smallest one; 0 if there is none."""
    low, high = rules.low[RF, d], rules.high[RF, d]
    tile = snap_rf(spm, num_pes, max(1, min(wanted, high)), perfect)
    if tile >= low:
        return tile
    share = -(-spm // num_pes)
    while tile < share:
        tile = tile_above(share, tile, 1, perfect)
        if tile > high:
            return 0
        if tile >= low and tile * (num_pes - 1) < spm:
            return tile
    return 0


@lean
def _admits(rules: Rules, d: int, core_tile: int, num_pes: int, tile: int, perfect: bool) -> bool:
    num_passes = -(-core_tile // tile)
    if not rules.low[SPM, d] <= tile <= rules.high[SPM, d]:
        return False
    if not rules.low[DRAM, d] <= num_passes <= rules.high[DRAM, d]:
        return False
    return bound_rf(rules, d, tile, num_pes, 1, perfect) > 0


@lean
def bound_below(rules: Rules, d: int, core_tile: int, num_pes: int, tile: int, perfect: bool) -> int:
    """The next smaller SPM tile within the limits of a dim; 0 if there is none."""
    while tile > 0:
        tile = tile_below(core_tile, tile, num_pes, perfect)
        if tile > 0 and _admits(rules, d, core_tile, num_pes, tile, perfect):
            return tile
    return 0


@lean
def bound_tile(rules: Rules, d: int, core_tile: int, num_pes: int, wanted: int, perfect: bool) -> int:
    """The largest SPM tile up to ``wanted`` within the limits of a dim, else the smallest one; 0 if there is none."""
    if num_pes > core_tile or (perfect and core_tile % num_pes):
        return 0
    tile = snap_tile(core_tile, wanted, num_pes, perfect)
    if tile <= wanted:
        if _admits(rules, d, core_tile, num_pes, tile, perfect):
            return tile
        below = bound_below(rules, d, core_tile, num_pes, tile, perfect)
        if below:
            return below
    elif _admits(rules, d, core_tile, num_pes, tile, perfect):
        return tile
    while tile < core_tile:
        tile = tile_above(core_tile, tile, num_pes, perfect)
        if _admits(rules, d, core_tile, num_pes, tile, perfect):
            return tile
    return 0


@lean
def may_split(knobs: Knobs, d: int, cores: int) -> bool:
    """Whether a dim can have a factor across cores."""
    if cores > 1 and knobs.limits.is_reduction[d]:
        return False
    if not knobs.rules.low[CORES, d] <= cores <= knobs.rules.high[CORES, d]:
        return False
    extent = knobs.limits.extents[d]
    return cores <= extent and snap_factor(extent, cores, knobs.perfect) == cores


@entry
def _fill_left(knobs: Knobs) -> None:
    rules, limits = knobs.rules, knobs.limits
    for d in range(NUM_DIMS):
        if not knobs.is_bound[d]:
            continue
        for cores in range(limits.num_cores, 0, -1):
            if not may_split(knobs, d, cores):
                continue
            core_tile = -(-limits.extents[d] // cores)
            for num_pes in range(1, min(core_tile, limits.num_rows * limits.num_cols) + 1):
                found = bound_tile(rules, d, core_tile, num_pes, core_tile, knobs.perfect)
                knobs.left[d, cores, num_pes] = found > 0
            for rows in range(rules.low[ROWS, d], min(rules.high[ROWS, d], limits.num_rows, core_tile) + 1):
                for cols in range(rules.low[COLS, d], min(rules.high[COLS, d], limits.num_cols, core_tile) + 1):
                    if rows * cols <= core_tile and knobs.left[d, cores, rows * cols]:
                        knobs.left[d, cores, 0] = True
                        knobs.least_cores[d] = cores


@lean
def repair_bound_cores(knobs: Knobs, first: int, cores: NDArray[np.int64], scratch: NDArray[np.int64]) -> None:
    """As ``_repair_cores`` where some dims have limits: each dim leaves the others what they cannot do without."""
    limits, core_tile, is_done = knobs.limits, scratch[CORE_TILE], scratch[IS_DONE]
    for d in range(NUM_DIMS):
        is_done[d] = 0
    for i in range(NUM_DIMS):
        d = (first + i) % NUM_DIMS
        available = limits.num_cores
        for e in range(NUM_DIMS):
            if e != d:
                available //= cores[e] if is_done[e] else knobs.least_cores[e]
        available, wanted = max(1, available), cores[d]
        if knobs.is_bound[d]:
            cores[d] = 0
            for factor in range(1, available + 1):
                if knobs.left[d, factor, 0] and (cores[d] == 0 or abs(factor - wanted) < abs(cores[d] - wanted)):
                    cores[d] = factor
            cores[d] = max(1, cores[d])
        elif limits.is_reduction[d]:
            cores[d] = 1
        else:
            cores[d] = snap_factor(limits.extents[d], min(wanted, available), knobs.perfect)
        core_tile[d] = -(-limits.extents[d] // cores[d])
        is_done[d] = 1


@lean
def repair_bound_axes(
    knobs: Knobs,
    first: int,
    cores: NDArray[np.int64],
    rows: NDArray[np.int64],
    cols: NDArray[np.int64],
    scratch: NDArray[np.int64],
) -> None:
    """As ``repair_axes`` where some dims have limits."""
    rules, limits, core_tile, is_done = knobs.rules, knobs.limits, scratch[CORE_TILE], scratch[IS_DONE]
    for d in range(NUM_DIMS):
        is_done[d] = 0
    for i in range(NUM_DIMS):
        d = (first + i) % NUM_DIMS
        num_rows, num_cols = limits.num_rows, limits.num_cols
        for e in range(NUM_DIMS):
            if e != d:
                num_rows //= rows[e] if is_done[e] else rules.low[ROWS, e]
                num_cols //= cols[e] if is_done[e] else rules.low[COLS, e]
        num_rows = max(1, min(num_rows, core_tile[d], rules.high[ROWS, d]))
        num_cols = max(1, min(num_cols, core_tile[d], rules.high[COLS, d]))
        if knobs.is_bound[d]:
            _pick_pair(knobs, d, cores[d], rows, cols, num_rows, num_cols)
        else:
            rows[d] = min(rows[d], num_rows)
            cols[d] = min(cols[d], num_cols, core_tile[d] // rows[d])
            if knobs.perfect:
                rows[d] = snap_factor(core_tile[d], rows[d], True)
                cols[d] = snap_factor(core_tile[d] // rows[d], cols[d], True)
        is_done[d] = 1


@lean
def _pick_pair(
    knobs: Knobs, d: int, cores: int, rows: NDArray[np.int64], cols: NDArray[np.int64], num_rows: int, num_cols: int
) -> None:
    """The factors nearest to those of a dim that leave it a choice of tiles."""
    best, best_rows, best_cols = -1, 1, 1
    for r in range(knobs.rules.low[ROWS, d], num_rows + 1):
        for c in range(knobs.rules.low[COLS, d], num_cols + 1):
            away = abs(r - rows[d]) + abs(c - cols[d])
            if knobs.left[d, cores, r * c] and (best < 0 or away < best):
                best, best_rows, best_cols = away, r, c
    rows[d], cols[d] = best_rows, best_cols


@entry
def enforce_order(
    outside: NDArray[np.bool_],
    is_reduction: NDArray[np.bool_],
    grouped: bool,
    order: NDArray[np.int8],
    num_loops: int,
    scratch: NDArray[np.int64],
) -> None:
    """Move loops outward as little as the rules ask for; grouped: reduction loops stay inside all others.

    Where grouping and rules contradict each other, grouping wins.
    """
    kept, is_placed = scratch[KEPT], scratch[IS_DONE]
    for i in range(num_loops):
        kept[i] = order[i]
        is_placed[kept[i]] = 0
    for place in range(num_loops):
        chosen, fallback = -1, -1
        for i in range(num_loops):
            if is_placed[kept[i]]:
                continue
            must_wait, breaks_group = False, False
            for j in range(num_loops):
                if not is_placed[kept[j]]:
                    must_wait = must_wait or outside[kept[j], kept[i]]
                    breaks_group = breaks_group or (is_reduction[kept[i]] and not is_reduction[kept[j]])
            if grouped and breaks_group:
                continue
            if fallback < 0:
                fallback = i
            if not must_wait:
                chosen = i
                break
        order[place] = kept[chosen if chosen >= 0 else fallback]
        is_placed[order[place]] = 1
