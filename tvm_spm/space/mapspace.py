"""All mappings of one task on one arch, described by knobs: count, draw, change, enumerate and recognise them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tvm_spm.arch import Arch
from tvm_spm.errors import NoMappingError
from tvm_spm.mapping import Mapping
from tvm_spm.rejection import REASONS
from tvm_spm.space import legality
from tvm_spm.space.conflict import conflict_of, smallest_allowed
from tvm_spm.space.constraints import FACTOR_LEVELS, UNLIMITED, Constraints
from tvm_spm.space.constraints_batch import allows_rows
from tvm_spm.space.count import count_mappings
from tvm_spm.space.default import default_mapping, smallest_mapping
from tvm_spm.space.estimate import rough_cycles
from tvm_spm.space.knobs import Knobs, make_knobs, new_scratch
from tvm_spm.space.legality_batch import check_rows, count_reasons
from tvm_spm.space.mapping_batch import MappingBatch, concat, decode, encode
from tvm_spm.space.repair import empty_batch
from tvm_spm.space.rows import CROSS, DRAW, MUTATE, hash_rows, vary_rows
from tvm_spm.space.tiles import is_rf, is_tile, snap_factor
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Operand, Workload

_NUM_CHECKED = 1024
_NUM_DRAWN = 64
_NUM_IMPROVEMENTS = 12

DimChoice = tuple[int, int, int, int, int]
"""One dim's factor across cores, SPM tile, factors along rows and columns, and RF tile."""

_BUFFERINGS = tuple(itertools.chain.from_iterable(itertools.combinations(Operand, n) for n in range(len(Operand) + 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSpace:
    """The product of all knobs; its legal points are the mappings a search chooses from.

    Points are canonical (``Mapping.canonical``). Tiles are the smallest for their number of iterations: the distinct
    ``ceil(outer tile / factor)``; a larger tile with as many iterations only takes more room.

    Attributes:
        workload: What is computed.
        arch: On what.
        perfect: Only factors that divide.
        allow_spill: Also orders that evict unfinished outputs from SPM; their mappings carry ``spill``.
        rows_dims: Dims that may be unrolled along the PE rows.
        cols_dims: Dims that may be unrolled along the PE columns.
        constraints: What every point satisfies besides.
    """

    workload: Workload
    arch: Arch
    perfect: bool = False
    allow_spill: bool = False
    rows_dims: tuple[str, ...] = DIM_NAMES
    cols_dims: tuple[str, ...] = DIM_NAMES
    constraints: Constraints = Constraints()

    def knobs(self) -> Knobs:
        """The same description as arrays."""
        return _knobs_of(self)

    @property
    def num_mappings(self) -> int:
        """Points of the space, exactly, those included that exceed a capacity."""
        return count_mappings(self.knobs())

    def sample(self, rng: Generator, num_mappings: int) -> MappingBatch:
        """Random points, drawn so that they fill the array and shrunk so that they fit.

        Every legal point can come up. If not even the smallest tiles fit, the points are not legal; nor are some if
        constraints are hard to meet.
        """
        batch = empty_batch(num_mappings)
        vary_rows(self.knobs(), DRAW, batch, batch, rng, new_scratch())
        return batch

    def mutate(self, batch: MappingBatch, rng: Generator) -> MappingBatch:
        """Each point changed in one or a few knobs; now and then a change comes to nothing."""
        changed = _copy(batch)
        vary_rows(self.knobs(), MUTATE, changed, changed, rng, new_scratch())
        return changed

    def cross(self, batch: MappingBatch, other: MappingBatch, rng: Generator) -> MappingBatch:
        """Row by row a point that takes each dim, the orders and the buffering from one of two points."""
        crossed = _copy(batch)
        vary_rows(self.knobs(), CROSS, crossed, other, rng, new_scratch())
        return crossed

    def check(self, batch: MappingBatch) -> NDArray[np.int8]:
        """``legality_batch.check_batch`` for this workload and arch; what breaks a constraint is not legal either."""
        knobs = self.knobs()
        codes = check_rows(knobs.limits, batch)
        if self.constraints:
            codes[(codes == 0) & ~allows_rows(knobs.rules, batch)] = 1 + REASONS.index("constraint")
        return codes

    def contains(self, mapping: Mapping) -> bool:
        """Whether a mapping is a legal point of the space."""
        extents = self.workload.dims
        if self.check(encode([mapping]))[0]:
            return False
        if mapping.canonical(self.workload) != mapping or not all(self._has(name, mapping) for name in DIM_NAMES):
            return False
        spilling = bool(legality.spilling_loops(self.workload, mapping))
        factors = mapping.dram_factors(extents)
        loops = tuple(name for name in mapping.dram_order if factors[name] > 1)
        grouped = tuple(sorted(loops, key=lambda name: name in REDUCTION_DIMS)) == loops
        return mapping.spill == spilling and (self.allow_spill or grouped)

    def enumerate(self, *, legal_only: bool = True) -> Iterator[Mapping]:
        """All points one by one, for small spaces and tests.

        Args:
            legal_only: Leave out points that exceed a capacity.
        """
        for chosen in self._choose(0, (self.arch.cores.count, self.arch.pe.rows, self.arch.pe.cols)):
            cores, spm, rows, cols, rf = (Dims.of(values) for values in zip(*chosen, strict=True))
            tiles = Mapping(cores=cores, spm=spm, rows=rows, cols=cols, rf=rf)
            arranged = self._arrange(tiles)
            while found := list(itertools.islice(arranged, _NUM_CHECKED)):
                batch = encode(found)
                kept = self.check(batch) == 0 if legal_only else allows_rows(self.knobs().rules, batch)
                yield from itertools.compress(found, kept)

    def dim_choices(self, name: str) -> tuple[DimChoice, ...]:
        """Everything one dim may take, other dims not regarded, in ascending order."""
        extent, perfect = self.workload.dims[name], self.perfect
        num_cores = 1 if name in REDUCTION_DIMS else self.arch.cores.count
        num_rows = self.arch.pe.rows if name in self.rows_dims else 1
        num_cols = self.arch.pe.cols if name in self.cols_dims else 1
        low, high = dict.fromkeys(FACTOR_LEVELS, 1), dict.fromkeys(FACTOR_LEVELS, UNLIMITED)
        for level, dim, least, most in self.constraints.bounds(self.workload.dims):
            if dim == name:
                low[level], high[level] = max(low[level], least), min(high[level], most)

        def allowed(level: str, value: int) -> bool:
            return low[level] <= value <= high[level]

        found = []
        for cores in (f for f in range(1, min(extent, num_cores) + 1) if snap_factor(extent, f, perfect) == f):
            core_tile = ceil_div(extent, cores)
            for spm in (t for t in range(1, core_tile + 1) if is_tile(core_tile, t, 1, perfect)):
                if not (allowed("cores", cores) and allowed("SPM", spm) and allowed("DRAM", ceil_div(core_tile, spm))):
                    continue
                for rows, cols in itertools.product(range(1, num_rows + 1), range(1, num_cols + 1)):
                    if rows * cols > spm or (perfect and spm % (rows * cols)):
                        continue
                    if not (allowed("rows", rows) and allowed("cols", cols)):
                        continue
                    share = ceil_div(spm, rows * cols)
                    found += [
                        (cores, spm, rows, cols, t)
                        for t in range(low["RF"], min(share, high["RF"]) + 1)
                        if is_rf(spm, rows * cols, t, perfect)
                    ]
        return tuple(found)

    def default_mapping(self) -> Mapping | None:
        """A sensible untuned choice, always the same; ``None`` only if no mapping is legal at all."""
        return _default_of(self)

    def require_default(self) -> Mapping:
        """``default_mapping``, or an error that says why there is none.

        Raises:
            NoMappingError: Names the constraints that conflict, or counts the reasons.
        """
        mapping = self.default_mapping()
        if mapping is not None:
            return mapping
        where = f"{self.workload} on {self.arch.name}"
        if conflict := self.conflict():
            raise NoMappingError(f"{where}: {conflict}")
        reasons = ", ".join(f"{reason} removed {count:,}" for reason, count in self.explain_empty().items())
        raise NoMappingError(f"{where}: no legal mapping; of those tried, {reasons}")

    def conflict(self) -> str:
        """The fewest constraints that leave no legal mapping, and why; empty if there is one, or none without them."""
        if not self.constraints or self._unconstrained()._is_empty():
            return ""

        def knobs_with(constraints: Constraints) -> Knobs:
            return replace(self, constraints=constraints).knobs()

        return conflict_of(self.workload, self.arch, self.constraints, knobs_with)

    def explain_empty(self, num_samples: int = 1000) -> dict[str, int]:
        """Why the space holds no legal mapping.

        Args:
            num_samples: Points to draw.

        Returns:
            Per reason how many of the drawn points it removed, the reason followed by what is wrong with the smallest
            possible mapping, or by the constraints that conflict; empty if there are legal mappings.
        """
        if not self._is_empty():
            return {}
        if conflict := self.conflict():
            return {f"constraint ({conflict})": num_samples}
        why = legality.check(self.workload, self.arch, smallest_mapping(self.workload))
        counts = count_reasons(self.check(self.sample(np.random.default_rng(0), num_samples)))
        return {
            f"{reason} ({why})" if why is not None and why.reason == reason else reason: count
            for reason, count in counts.items()
        }

    def _is_empty(self) -> bool:
        return smallest_allowed(self.workload, self.arch, self.knobs()) is None

    def _found_default(self) -> Mapping | None:
        free = default_mapping(self.workload, self.arch, self._unconstrained().knobs())
        return self._constrained_default(free) if self.constraints and free is not None else free

    def _unconstrained(self) -> MapSpace:
        return replace(self, constraints=Constraints())

    def _constrained_default(self, free: Mapping) -> Mapping | None:
        """From the default without constraints, moved into the space, and some draws, improved by small changes."""
        if self.contains(free):
            return free
        least = smallest_allowed(self.workload, self.arch, self.knobs())
        if least is None:
            return None
        rng = np.random.default_rng(0)
        moved = self.mutate(encode([free] * _NUM_DRAWN), rng)
        found = self._legal_points(concat([moved, self.sample(rng, _NUM_DRAWN)])) | {least}
        best = least
        for _ in range(_NUM_IMPROVEMENTS):
            best = self._fastest(sorted(found, key=str))
            found = {best} | self._legal_points(self.mutate(encode([best] * _NUM_DRAWN), rng))
        return best

    def _fastest(self, mappings: list[Mapping]) -> Mapping:
        batch = encode(mappings)
        orders = batch.dram_order[:, None], batch.spm_order[:, None]
        return mappings[int(np.argmin(rough_cycles(self.workload, self.arch, batch, orders)))]

    def _legal_points(self, batch: MappingBatch) -> set[Mapping]:
        return {decode(batch, int(row)) for row in np.flatnonzero(self.check(batch) == 0)}

    def _has(self, name: str, mapping: Mapping) -> bool:
        """Whether the knobs offer what a legal mapping does with one dim."""
        rows, cols, spm = mapping.rows[name], mapping.cols[name], mapping.spm[name]
        if (rows > 1 and name not in self.rows_dims) or (cols > 1 and name not in self.cols_dims):
            return False
        extent = self.workload.dims[name]
        if self.perfect and (extent % mapping.cores[name] or spm % (rows * cols)):
            return False
        step = rows * cols
        core_tile = ceil_div(extent, mapping.cores[name])
        return bool(is_tile(core_tile, spm, step, self.perfect) and is_rf(spm, step, mapping.rf[name], self.perfect))

    def _choose(self, index: int, left: tuple[int, int, int]) -> Iterator[tuple[DimChoice, ...]]:
        if index == len(DIM_NAMES):
            yield ()
            return
        for choice in self.dim_choices(DIM_NAMES[index]):
            cores, _, rows, cols, _ = choice
            if cores <= left[0] and rows <= left[1] and cols <= left[2]:
                for rest in self._choose(index + 1, (left[0] // cores, left[1] // rows, left[2] // cols)):
                    yield (choice, *rest)

    def _arrange(self, tiles: Mapping) -> Iterator[Mapping]:
        """All orders and bufferings of given tiles."""
        dram, inner = tiles.dram_factors(self.workload.dims), tiles.spm_factors()
        outer_loops = [name for name in DIM_NAMES if dram[name] > 1]
        inner_loops = [name for name in DIM_NAMES if inner[name] > 1]
        for dram_order in itertools.permutations(outer_loops):
            if not self.allow_spill and list(dram_order) != sorted(dram_order, key=lambda d: d in REDUCTION_DIMS):
                continue
            for spm_order in itertools.permutations(inner_loops):
                for spm_double, rf_double in itertools.product(_BUFFERINGS, _BUFFERINGS):
                    mapping = Mapping(
                        cores=tiles.cores, spm=tiles.spm, rows=tiles.rows, cols=tiles.cols, rf=tiles.rf,
                        dram_order=dram_order, spm_order=spm_order, spm_double=spm_double, rf_double=rf_double,
                    )  # fmt: skip
                    yield replace(mapping, spill=bool(legality.spilling_loops(self.workload, mapping)))


@functools.lru_cache(maxsize=32)
def _knobs_of(space: MapSpace) -> Knobs:
    return make_knobs(
        space.workload,
        space.arch,
        perfect=space.perfect,
        allow_spill=space.allow_spill,
        rows_dims=space.rows_dims,
        cols_dims=space.cols_dims,
        constraints=space.constraints,
    )


@functools.lru_cache(maxsize=256)
def _default_of(space: MapSpace) -> Mapping | None:
    """Asked for by whoever weighs, searches and compares a task."""
    return space._found_default()


def fingerprints(batch: MappingBatch) -> NDArray[np.uint64]:
    """A 64-bit number per row that tells mappings apart."""
    hashes = np.empty(batch.num_mappings, dtype=np.uint64)
    hash_rows(batch, hashes)
    return hashes


def _copy(batch: MappingBatch) -> MappingBatch:
    return batch.take(np.arange(batch.num_mappings))
