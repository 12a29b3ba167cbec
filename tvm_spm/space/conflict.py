"""Whether constraints leave a legal mapping, exactly, and which of them conflict if they do not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tvm_spm.arch import Arch
from tvm_spm.errors import SpmError
from tvm_spm.jit import entry, lean
from tvm_spm.mapping import Mapping
from tvm_spm.rejection import Rejection
from tvm_spm.space import legality
from tvm_spm.space.constraints import Constraint, Constraints
from tvm_spm.space.constraints_batch import ANY_BUFFERS, COLS, CORES, DRAM, RF, ROWS, SPM
from tvm_spm.space.knobs import Knobs, bound_rf, bound_tile, enforce_order, may_split, new_scratch
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.space.tiles import snap_factor, snap_tile, tile_above
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Operand, Workload

_MAX_CHOICES = 4096
_NUM_CRITERIA = 6

KnobsWith = Callable[[Constraints], Knobs]
"""The knobs of a space with other constraints."""


def smallest_allowed(workload: Workload, arch: Arch, knobs: Knobs) -> Mapping | None:
    """A legal mapping within all limits, as small as they allow; ``None`` only if there is none."""
    for mapping in _smallest(workload, knobs):
        if legality.check(workload, arch, mapping) is None:
            return mapping
    return None


def conflict_of(workload: Workload, arch: Arch, constraints: Constraints, knobs_with: KnobsWith) -> str:
    """The fewest clauses that leave no legal mapping, and why; empty if all together leave one.

    Single clauses are tried first, then pairs; otherwise clauses are dropped one by one as long as nothing fits.

    Args:
        workload: What is computed.
        arch: On what; holds some mapping without constraints.
        constraints: What is asked for.
        knobs_with: Makes the knobs for some of the clauses.
    """

    def is_empty(clauses: tuple[Constraint, ...]) -> bool:
        return smallest_allowed(workload, arch, knobs_with(Constraints(clauses))) is None

    if not is_empty(constraints.clauses):
        return ""
    for count in (1, 2):
        for clauses in itertools.combinations(constraints.clauses, count):
            if is_empty(clauses):
                return _sentence(workload, arch, clauses, knobs_with(Constraints(clauses)))
    needed = list(constraints.clauses)
    for clause in constraints.clauses:
        rest = [other for other in needed if other is not clause]
        if is_empty(tuple(rest)):
            needed = rest
    return _sentence(workload, arch, tuple(needed), knobs_with(Constraints(tuple(needed))))


def _sentence(workload: Workload, arch: Arch, clauses: tuple[Constraint, ...], knobs: Knobs) -> str:
    texts = [str(clause) for clause in clauses]
    how = {1: f"{texts[0]} cannot hold", 2: f"{' and '.join(texts)} cannot both hold"}
    named = how.get(len(texts), f"{', '.join(texts[:-1])} and {texts[-1]} cannot all hold")
    return f"{named}: {_why(workload, arch, knobs)}"


def _why(workload: Workload, arch: Arch, knobs: Knobs) -> str:
    for d, name in enumerate(DIM_NAMES):
        if knobs.is_bound[d] and len(_least_choices(knobs, d)) == 0:
            return _why_no_choice(knobs, d, name)
    for prune in (True, False):
        rejections: list[Rejection] = []
        for mapping in itertools.islice(_smallest(workload, knobs, prune=prune), 256):
            rejection = legality.check(workload, arch, mapping)
            if rejection is not None:
                rejections.append(rejection)
        if rejections:
            return str(min(rejections, key=lambda r: (r.needed - r.available) / r.available))
    return "nothing fits"


def _why_no_choice(knobs: Knobs, d: int, name: str) -> str:
    """The first number of one dim, outermost level first, that no choice of the outer ones allows."""
    rules, limits, perfect = knobs.rules, knobs.limits, knobs.perfect
    extent = int(limits.extents[d])
    levels = ("cores", "DRAM iterations", "SPM tile", "rows", "cols", "RF tile")
    for level, what in enumerate(levels):
        low, high = int(rules.low[level, d]), int(rules.high[level, d])
        if low > high:
            return f"{what} of {name} would have to be at least {low} and at most {high}"
    free = [f for f in range(1, min(extent, limits.num_cores) + 1) if snap_factor(extent, f, perfect) == f]
    if limits.is_reduction[d]:
        free = [1]
    splits = [f for f in free if rules.low[CORES, d] <= f <= rules.high[CORES, d]]
    if not splits:
        if limits.is_reduction[d]:
            return f"{name} is summed, so it stays on one core"
        return f"{name} = {extent} splits across {_some(free, int(rules.low[CORES, d]))} of {limits.num_cores} cores"
    core_tiles = [ceil_div(extent, f) for f in splits]
    low, high = int(rules.low[SPM, d]), int(rules.high[SPM, d])
    if low > max(core_tiles):
        return f"a core has {max(core_tiles)} of {name}"
    tiles = {t: c for c in core_tiles for t in _tiles(c, perfect) if low <= t <= high}
    if not tiles:
        return f"SPM tiles of {name} = {max(core_tiles)} are {_some(_tiles(max(core_tiles), perfect), low)}"
    passes = {ceil_div(c, t) for c in core_tiles for t in _tiles(c, perfect) if low <= t <= high}
    least, most = int(rules.low[DRAM, d]), int(rules.high[DRAM, d])
    if not any(least <= count <= most for count in passes):
        return f"{name} has {_some(sorted(passes), least)} iterations at DRAM"
    for axis, what, available in ((ROWS, "rows", limits.num_rows), (COLS, "cols", limits.num_cols)):
        if rules.low[axis, d] > available:
            return f"the array has {available} {what}"
    num_pes = int(rules.low[ROWS, d] * rules.low[COLS, d])
    if num_pes > max(tiles):
        return f"an SPM tile has at most {max(tiles)} of {name} for at least {num_pes} PEs"
    largest = max(ceil_div(t, num_pes) for t in tiles)
    if rules.low[RF, d] > largest:
        return f"a PE has at most {largest} of {name}"
    return f"no SPM tile of {name} = {max(core_tiles)} leaves tiles like that for its PEs"


def _tiles(core_tile: int, perfect: bool) -> list[int]:
    tiles = [int(snap_tile(core_tile, 1, 1, perfect))]
    while tiles[-1] < core_tile:
        tiles.append(int(tile_above(core_tile, tiles[-1], 1, perfect)))
    return tiles


def _some(values: list[int], wanted: int = 1) -> str:
    """Up to four values on each side of the one asked for."""
    place = sum(value < wanted for value in values)
    shown = values[max(0, place - 4) : place + 4]
    return f"{' '.join(map(str, shown[:-1]))} or {shown[-1]}" if len(shown) > 1 else str(shown[0])


def _smallest(workload: Workload, knobs: Knobs, *, prune: bool = True) -> Iterator[Mapping]:
    """Mappings of which one is legal if any is: every other one needs as much of everything as one of these.

    Args:
        workload: What is computed.
        knobs: What is allowed.
        prune: Leave out what exceeds the cores or the array.
    """
    if workload.dims.as_tuple() != tuple(int(extent) for extent in knobs.limits.extents):
        raise SpmError("knobs of another workload")
    limits = knobs.limits
    choices = [_least_choices(knobs, d) for d in range(NUM_DIMS)]
    double = [
        () if bits == ANY_BUFFERS else tuple(o for o in Operand if bits >> o.value & 1) for bits in knobs.rules.double
    ]

    def choose(d: int, cores: int, rows: int, cols: int) -> Iterator[tuple[tuple[int, ...], ...]]:
        if d == NUM_DIMS:
            yield ()
            return
        for choice in choices[d]:
            left = cores // choice[0], rows // choice[2], cols // choice[3]
            if min(left) or not prune:
                for rest in choose(d + 1, *left):
                    yield (choice, *rest)

    for chosen in choose(0, limits.num_cores, limits.num_rows, limits.num_cols):
        cores, spm, rows, cols, rf = (Dims.of(values) for values in zip(*chosen, strict=True))
        tiles = Mapping(
            cores=cores, spm=spm, rows=rows, cols=cols, rf=rf, spm_double=double[0], rf_double=double[1]
        )  # fmt: skip
        dram, inner = tiles.dram_factors(workload.dims), tiles.spm_factors()
        mapping = replace(
            tiles,
            dram_order=_ordered(knobs, [name for name in DIM_NAMES if dram[name] > 1], 0),
            spm_order=_ordered(knobs, [name for name in DIM_NAMES if inner[name] > 1], 1),
        )
        yield replace(mapping, spill=knobs.allow_spill and bool(legality.spilling_loops(workload, mapping)))


def _ordered(knobs: Knobs, loops: list[str], level: int) -> tuple[str, ...]:
    """Reduction loops inside, as far as the rules allow."""
    loops = sorted(loops, key=lambda name: name in REDUCTION_DIMS)
    order = np.full(NUM_DIMS, -1, dtype=np.int8)
    order[: len(loops)] = [DIM_NAMES.index(name) for name in loops]
    enforce_order(knobs.rules.outside[level], knobs.limits.is_reduction, False, order, len(loops), new_scratch())
    return tuple(DIM_NAMES[d] for d in order[: len(loops)])


def _least_choices(knobs: Knobs, d: int) -> list[tuple[int, ...]]:
    """(cores, SPM tile, rows, cols, RF tile) of one dim that no other choice beats in everything that is scarce."""
    found = np.ones((_MAX_CHOICES + 1, _NUM_CRITERIA), dtype=np.int64)
    num = _fill_least_choices(knobs, d, found[:-1], found[-1])
    return [tuple(int(value) for value in row[:5]) for row in found[:num]]


@lean
def _is_least(choice: NDArray[np.int64], other: NDArray[np.int64]) -> bool:
    for criterion in range(_NUM_CRITERIA):
        if choice[criterion] > other[criterion]:
            return False
    return True


@lean
def _add_choice(found: NDArray[np.int64], num: int, choice: NDArray[np.int64]) -> int:
    for i in range(num):
        if _is_least(found[i], choice):
            return num
    kept = 0
    for i in range(num):
        if not _is_least(choice, found[i]):
            for criterion in range(_NUM_CRITERIA):
                found[kept, criterion] = found[i, criterion]
            kept += 1
    for criterion in range(_NUM_CRITERIA):
        found[kept, criterion] = choice[criterion]
    return kept + 1


@entry
def _fill_least_choices(knobs: Knobs, d: int, found: NDArray[np.int64], choice: NDArray[np.int64]) -> int:
    """The sixth column is whether the dim loops at DRAM: an order may be impossible for two such loops."""
    rules, limits = knobs.rules, knobs.limits
    extent = limits.extents[d]
    num = 0
    if not knobs.is_bound[d]:
        choice[5] = extent > 1
        num = _add_choice(found, num, choice)
        if extent == 1 or knobs.allow_spill or not knobs.has_order:
            return num
    for cores in range(1, min(extent, limits.num_cores) + 1):
        if not may_split(knobs, d, cores):
            continue
        core_tile = -(-extent // cores)
        for rows in range(rules.low[ROWS, d], min(rules.high[ROWS, d], limits.num_rows, core_tile) + 1):
            for cols in range(rules.low[COLS, d], min(rules.high[COLS, d], limits.num_cols, core_tile // rows) + 1):
                tile = bound_tile(rules, d, core_tile, rows * cols, 1, knobs.perfect)
                while tile > 0:
                    rf = bound_rf(rules, d, tile, rows * cols, 1, knobs.perfect)
                    choice[0], choice[1], choice[2], choice[3] = cores, tile, rows, cols
                    choice[4], choice[5] = rf, int(tile < core_tile)
                    num = _add_choice(found, num, choice)
                    above = tile
                    tile = 0
                    while above < core_tile and tile == 0:
                        above = tile_above(core_tile, above, rows * cols, knobs.perfect)
                        if bound_tile(rules, d, core_tile, rows * cols, above, knobs.perfect) == above:
                            tile = above
                if not knobs.is_bound[d]:
                    break
            if not knobs.is_bound[d]:
                break
    return num
