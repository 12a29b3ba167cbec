"""Branch and bound over any factors across cores and PEs, with the smallest tiles for their numbers of iterations."""

from __future__ import annotations

import math
import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.bounds import lower_bound
from tvm_spm.exact.any_factors.array_list import ARRAY_TILE_FIELDS, Unrollings, list_arrays
from tvm_spm.exact.any_factors.floor_list import list_floors
from tvm_spm.exact.any_factors.floors import FLOOR_FIELDS
from tvm_spm.exact.any_factors.join import CANDIDATE_FIELDS, join, list_mappings
from tvm_spm.exact.any_factors.prices import ROWS_PER_STEP, FormulaPrices, MappingPrices
from tvm_spm.exact.any_factors.tables import CoreTables, make_tables
from tvm_spm.exact.any_factors.unrollings import core_factors, list_unrollings
from tvm_spm.exact.case_arrays import TOLERANCE, Floats, arrays_of
from tvm_spm.exact.stops import Stops
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.space.constraints_batch import ANY_BUFFERS, rules_of
from tvm_spm.space.mapping_batch import MappingBatch
from tvm_spm.space.repair import empty_batch
from tvm_spm.threads import in_threads
from tvm_spm.units import ceil_div

CHUNK_FLOORS, CHUNK_PAIRS = 64, 1 << 20
"""SPM tiles between two looks at the clock; fewer if they make more pairs with array tiles than that."""

PAIRS_PER_STEP, BOUNDS_PER_STEP, TILES_PER_STEP = 1 << 15, 1 << 13, 1 << 15
"""Pairs of an SPM tile and an array tile, bounds of array tiles, and SPM tiles with those that do not fit, that take
about as long as pricing a batch."""

THREAD_FLOORS = 8
"""SPM tiles that a thread takes at a time, at most."""

BLOCK_PES, ENERGY_PES = 2048, 256
"""Unrollings whose array tiles are listed at once; fewer if cycles do not matter, so that hardly any is left out."""

LISTED_SHARE = 0.2
"""Of a budget of steps: what may go into bounds of factors across cores before the search of the first."""

CHUNKS_PER_BLOCK = 16
"""Parts of a block, one per thread at a time."""

NUM_GROUPS = 8
"""Groups of SPM tiles that bound an array tile."""


class CoreSplit(NamedTuple):
    """Factors across cores, and SPM tiles below them in order of their bounds."""

    tables: CoreTables
    floors: NDArray[np.void]


class AnyFactorsSearch:
    """Finds the best mapping below a known one, or the best of all.

    Args:
        case: What is searched.
        energy_cap_pj: No mapping may need more energy.
        stops: Asked whether to go on.
        start: A mapping, one row, and its objective; None and infinity if none is known.
        prices: Says what mappings cost, and keeps those that are not priced yet; the formula if None.

    Attributes:
        best: The best mapping so far, one row; None if none is known.
        value: Its objective, infinite if none is known.
        num_bounded: Pairs of an SPM tile and an array tile that were judged by a bound.
    """

    def __init__(
        self,
        case: Case,
        energy_cap_pj: float,
        stops: Stops,
        start: tuple[MappingBatch | None, float],
        prices: MappingPrices | None = None,
    ) -> None:
        self.case, self.stops = case, stops
        self.best, self.value = start
        self.arrays, self.rules = arrays_of(case, energy_cap_pj), rules_of(case.constraints, case.workload)
        self.num_bounded = 0
        self.prices: MappingPrices = FormulaPrices(case, energy_cap_pj) if prices is None else prices
        self._batch = empty_batch(ROWS_PER_STEP)

    def run(self) -> float:
        """Search until done or told to stop; returns a lower bound of the space."""
        found = self._search_splits()
        self._keep(self.prices.finish(self._limit(), self.stops))
        return min(found, self.value, self.prices.least_left)

    def _search_splits(self) -> float:
        """A lower bound of all mappings left, infinite if none is better than the best."""
        splits, bound = self._splits(), math.inf
        for least, cores in splits:
            if least >= self._limit():
                break
            if self.stops.ends_step():
                return min(bound, least)
            tables = self._tables(cores)
            left = self._search_place(CoreSplit(tables, self._list_floors(tables)))
            bound = min(bound, max(least, left))
        return bound

    def _splits(self) -> list[tuple[float, tuple[int, ...]]]:
        """Factors across cores with a bound, the least first, and of equal ones the most cores."""
        workload, arch, objective = self.case.workload, self.case.arch, self.case.objective
        physical = lower_bound(workload, arch, objective)
        least_pj = lower_bound(workload, arch, Objective.ENERGY)
        found = []
        for cores in core_factors(self.case, self.rules):
            share = math.prod(ceil_div(extent, factor) for extent, factor in zip(workload.dims, cores, strict=True))
            cycles = arch.cores.launch_cycles + ceil_div(share, arch.num_pes)
            found.append((max(physical, objective.value_of(float(cycles), least_pj)), cores))
        found.sort(key=lambda split: split[0])
        if len(found) == 1:
            return found
        for at, (least, cores) in enumerate(found):
            if least >= self._limit() or self.stops.ends_step() or self.stops.spent > LISTED_SHARE:
                break
            floors = self._list_floors(self._tables(cores))
            found[at] = max(least, float(floors["bound"][0]) if len(floors) else math.inf), cores
        return sorted(found, key=lambda split: split[0])

    def _tables(self, cores: tuple[int, ...]) -> CoreTables:
        return make_tables(self.arrays, self.rules, np.array(cores, dtype=np.int64), self.case.arch.num_pes)

    def _limit(self) -> float:
        return self.value * (1.0 - TOLERANCE)

    def _search_place(self, place: CoreSplit) -> float:
        """Search some SPM tiles; a lower bound of the mappings left, infinite if none is better than the best."""
        if len(place.floors) == 0:
            return math.inf
        around = _groups_of(place.floors)
        limits = self._limit(), float(around[:, 0].min()), float(around[:, 2].min()), float(around[:, 3].min())
        unrollings = list_unrollings(self.case, self.rules, place.tables.share, limits)
        num = len(unrollings.hops)
        size = ENERGY_PES if self.case.objective is Objective.ENERGY else BLOCK_PES
        for first in range(0, num, size):
            block = Unrollings._make(column[first : first + size] for column in unrollings)
            left = self._search_block(place, around, block)
            if left < len(place.floors):
                # what comes before was searched with all unrollings only if these are the last
                return float(place.floors["bound"][left if first + size >= num else 0])
        return math.inf

    def _search_block(self, place: CoreSplit, around: Floats, unrollings: Unrollings) -> int:
        """Search some SPM tiles with some unrollings; how many of the tiles are done."""
        if self.stops.ends_step():
            return 0
        arrays = self._list_arrays(place.tables, unrollings, around)
        if self.stops.is_late():
            return 0
        least = np.stack([arrays[name].min(axis=0, initial=np.inf) for name in ("class_pj", "class_cycles")])
        size = max(1, min(CHUNK_FLOORS, CHUNK_PAIRS // max(1, len(arrays))))
        for at in range(0, len(place.floors), size):
            if self.stops.ends_step():
                return at
            end = min(len(place.floors), at + size)
            self._price(place, unrollings, self._join(place, unrollings, (arrays, least), (at, end)))
            if self.stops.is_late():
                return at
        return len(place.floors)

    def _list_floors(self, tables: CoreTables) -> NDArray[np.void]:
        """SPM tiles that the bound leaves, best bound first."""
        if (tables.num_spm == 0).any():
            return np.zeros(0, dtype=FLOOR_FIELDS)
        self.stops.ends_work(math.prod(tables.num_spm.tolist()) / TILES_PER_STEP)
        num_macs = math.prod(tables.share.tolist())
        least_time, room = ceil_div(num_macs, min(self.case.arch.num_pes, num_macs)), 1 << 12
        while True:
            floors = np.zeros(room, dtype=FLOOR_FIELDS)
            num = list_floors(self.arrays, tables, least_time, self._limit(), floors)
            if num >= 0:
                floors = floors[:num]
                if self.rules.double[0] != ANY_BUFFERS:
                    floors["fitting"] &= 1 << int(self.rules.double[0])
                floors = floors[floors["fitting"] != 0]
                return floors[np.argsort(floors["bound"], kind="stable")]
            room *= 4

    def _list_arrays(self, tables: CoreTables, unrollings: Unrollings, around: Floats) -> NDArray[np.void]:
        """Array tiles that the bound leaves, best bound first."""
        limit, num_all = self._limit(), len(unrollings.hops)
        size = ceil_div(num_all, CHUNKS_PER_BLOCK)

        def part(first: int) -> tuple[NDArray[np.void], int]:
            end, parts, num_bounded = min(num_all, first + size), [np.zeros(0, dtype=ARRAY_TILE_FIELDS)], 0
            found = np.zeros(1 << 10, dtype=ARRAY_TILE_FIELDS)
            own = Unrollings._make(column[:end] for column in unrollings)
            while first < end and not self.stops.is_late():
                num, left, bounds = list_arrays(self.arrays, tables, own, around, limit, first, found)
                parts.append(found[:num].copy())
                num_bounded += bounds
                if left == first:
                    found = np.zeros(4 * len(found), dtype=ARRAY_TILE_FIELDS)
                first = left
            return np.concatenate(parts), num_bounded

        found = in_threads(part, range(0, num_all, size))
        self.stops.ends_work(sum(num_bounded for _, num_bounded in found) / BOUNDS_PER_STEP)
        arrays = np.concatenate([arrays for arrays, _ in found])
        return arrays[np.argsort(arrays["bound"], kind="stable")]

    def _join(
        self, place: CoreSplit, unrollings: Unrollings, listed: tuple[NDArray[np.void], Floats], chunk: tuple[int, int]
    ) -> NDArray[np.void]:
        """Classes of mappings that the bound leaves below the SPM tiles [first, end), best bound first.

        Args:
            place: Factors across cores, and the SPM tiles.
            unrollings: Those of the array tiles.
            listed: Array tiles, and the least that their classes need.
            chunk: See above.
        """
        limit, (at, end), (arrays, least) = self._limit(), chunk, listed
        size = min(THREAD_FLOORS, ceil_div(end - at, 2 * (os.cpu_count() or 1)))

        def part(first: int) -> tuple[NDArray[np.void], int]:
            room, floors = 1 << 10, place.floors[first : min(end, first + size)]
            while True:
                found = np.zeros(room, dtype=CANDIDATE_FIELDS)
                num, num_bounded = join(self.arrays, place.tables, unrollings, floors, arrays, least, limit, found)
                if num >= 0:
                    found = found[:num].copy()
                    found["floor"] += first
                    return found, num_bounded
                room *= 8

        parts = in_threads(part, range(at, end, size))
        num_pairs = sum(num_bounded for _, num_bounded in parts)
        self.num_bounded += num_pairs
        self.stops.ends_work(num_pairs / PAIRS_PER_STEP)
        found = np.concatenate([found for found, _ in parts])
        return found[np.argsort(found["bound"], kind="stable")]

    def _price(self, place: CoreSplit, unrollings: Unrollings, candidates: NDArray[np.void]) -> None:
        """Price what is left, best bound first."""
        while len(candidates) > 0 and not self.stops.is_late():
            num, done = list_mappings(
                self.arrays, place.tables, unrollings, place.floors, candidates, self._limit(), self._batch
            )
            if num == 0 and done == 0:
                self._batch = empty_batch(4 * self._batch.num_mappings)
            candidates = candidates[done:]
            if num > 0:
                self._keep(self.prices.best_of(self._batch.take(slice(0, num)), self._limit(), self.stops))

    def _keep(self, found: tuple[MappingBatch, float] | None) -> None:
        """Let a mapping be the best of all."""
        if found is not None:
            self.best, self.value = found


def _groups_of(floors: NDArray[np.void]) -> Floats:
    """The least energy, DMA cycles, cycles without a pass, and cycles of all passes of a few groups of SPM tiles."""
    energy_pj = floors["energy_pj"].reshape(-1)
    cycles = [floors[name].reshape(-1).astype(np.float64) for name in ("dma", "once", "cross")]
    numbers = np.stack([energy_pj, *cycles], axis=1)
    parts = np.array_split(numbers[np.argsort(energy_pj, kind="stable")], min(NUM_GROUPS, len(numbers)))
    return np.stack([part.min(axis=0) for part in parts])
