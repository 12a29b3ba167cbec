"""The certified best mapping among balanced factors: SPM tiles, array tiles under them, loop orders and buffers."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from cost_model.analytical.model import evaluate_batch
from cost_model.bounds import lower_bound
from tvm_spm.arch import Arch
from tvm_spm.cost import OBJECTIVES
from tvm_spm.exact.balanced.array_list import BALANCED_ARRAY_FIELDS, list_arrays
from tvm_spm.exact.balanced.floors import BALANCED_FLOOR_FIELDS, list_floors
from tvm_spm.exact.balanced.join import BALANCED_CANDIDATE_FIELDS, join, list_mappings
from tvm_spm.exact.balanced.tables import Tables, make_tables
from tvm_spm.exact.pass_time import Ints
from tvm_spm.exact.problem import EDP, ENERGY, LATENCY, Problem
from tvm_spm.exact.spm_tiles import TOLERANCE
from tvm_spm.space.constraints_batch import ANY_BUFFERS, COLS, CORES, ROWS, Rules
from tvm_spm.space.mapping_batch import NUM_DIMS, MappingBatch
from tvm_spm.space.repair import empty_batch
from tvm_spm.space.tiles import snap_factor
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Workload

CHUNK_FLOORS = 64
"""SPM tiles between two looks at the clock."""

THREAD_FLOORS = 8
"""SPM tiles that a thread takes at a time."""

BLOCK_PES, ENERGY_PES = 2048, 256
"""Unrollings whose array tiles are listed at once; fewer if cycles do not matter, so that hardly any is left out."""

CHUNKS_PER_BLOCK = 16
"""Parts of a block, one per thread at a time."""

NUM_GROUPS = 8
"""Groups of SPM tiles that bound an array tile."""


class BalancedSearch:
    """Finds the best mapping below a known one.

    Attributes:
        best: The best mapping so far, one row.
        value: Its objective.
        num_evaluated: Mappings priced.
        num_bounded: Pairs of an SPM tile and an array tile that were judged by a bound.
    """

    def __init__(
        self,
        workload: Workload,
        arch: Arch,
        problem: Problem,
        rules: Rules,
        best: MappingBatch,
        value: float,
        stop: Callable[[], bool],
        now: Callable[[], bool] = lambda: False,
    ) -> None:
        self._now = now
        self.workload, self.arch, self.problem, self.rules, self.stop = workload, arch, problem, rules, stop
        self.best, self.value = best, value
        self.num_evaluated = self.num_bounded = 0
        self._batch = empty_batch(1 << 12)

    def run(self) -> float:
        """Search until done or told to stop; returns a lower bound of the space."""
        bound = self.value
        for cores in self._core_factors():
            bound = min(bound, self._search_cores(cores))
        return min(bound, self.value)

    def _core_factors(self) -> Iterator[tuple[int, ...]]:
        """The most cores first."""
        most, low, high = self.arch.cores.count, self.rules.low[CORES], self.rules.high[CORES]
        choices = [
            [
                f
                for f in range(1, min(extent, most) + 1)
                if snap_factor(extent, f, False) == f and low[d] <= f <= high[d]
            ]
            if DIM_NAMES[d] not in REDUCTION_DIMS
            else [1] * int(low[d] <= 1)
            for d, extent in enumerate(self.workload.dims)
        ]
        found = [factors for factors in itertools.product(*choices) if math.prod(factors) <= most]
        yield from sorted(found, key=lambda factors: (-math.prod(factors), factors))

    def _limit(self) -> float:
        return self.value * (1.0 - TOLERANCE)

    def _search_cores(self, cores: tuple[int, ...]) -> float:
        """Search one choice of factors across cores; a lower bound of its mappings, infinite if none is better."""
        physical = lower_bound(self.workload, self.arch, OBJECTIVES[self.problem.objective])
        if self.stop():
            return physical
        factors = np.array(cores, dtype=np.int64)
        tables = make_tables(self.problem, self.rules, factors, self.arch.num_pes)
        if (tables.num_spm == 0).any():
            return math.inf
        floors = self._list_floors(tables)
        if len(floors) == 0:
            return math.inf
        around = _groups_of(floors)
        pairs, hops = self._unrollings(tables.share, *around[:, [0, 2]].min(axis=0).tolist())
        size = ENERGY_PES if self.problem.objective == ENERGY else BLOCK_PES
        for first in range(0, len(pairs), size):
            block = pairs[first : first + size], hops[first : first + size]
            if not self._search_block(tables, floors, around, *block):
                return max(physical, float(floors["bound"][0]))
        return math.inf

    def _search_block(
        self, tables: Tables, floors: NDArray[np.void], around: NDArray[np.float64], pairs: Ints, hops: Ints
    ) -> bool:
        """Search some SPM tiles with some unrollings; False if told to stop."""
        if self.stop():
            return False
        pes = pairs[:, 0] * pairs[:, 1]
        arrays = self._list_arrays(tables, pes, hops, around)
        if self._now():
            return False
        for at in range(0, len(floors), CHUNK_FLOORS):
            if self.stop():
                return False
            candidates = self._join(tables, pes, hops, floors, arrays, at)
            self._price(tables, pairs, hops, floors, candidates)
        return not self._now()

    def _list_floors(self, tables: Tables) -> NDArray[np.void]:
        """SPM tiles that the bound leaves, best bound first."""
        num_macs = math.prod(tables.share.tolist())
        least_time = ceil_div(num_macs, min(self.arch.num_pes, num_macs))
        room, least = 1 << 14, np.zeros(1)
        while True:
            floors = np.zeros(room, dtype=BALANCED_FLOOR_FIELDS)
            num = list_floors(self.problem, tables, 0.0, least_time, self._limit(), floors, least)
            if num >= 0:
                floors = floors[:num]
                if self.rules.double[0] != ANY_BUFFERS:
                    floors["fitting"] &= 1 << int(self.rules.double[0])
                floors = floors[floors["fitting"] != 0]
                return floors[np.argsort(floors["bound"], kind="stable")]
            room *= 4

    def _list_arrays(self, tables: Tables, pes: Ints, hops: Ints, around: NDArray[np.float64]) -> NDArray[np.void]:
        """Array tiles that the bound leaves, best bound first."""
        limit, size = self._limit(), ceil_div(len(pes), CHUNKS_PER_BLOCK)

        def part(first: int) -> NDArray[np.void]:
            end, parts = min(len(pes), first + size), [np.zeros(0, dtype=BALANCED_ARRAY_FIELDS)]
            found = np.zeros(1 << 13, dtype=BALANCED_ARRAY_FIELDS)
            while first < end and not self._now():
                num, left = list_arrays(self.problem, tables, pes[:end], hops, around, limit, first, found)
                parts.append(found[:num].copy())
                if left == first:
                    found = np.zeros(4 * len(found), dtype=BALANCED_ARRAY_FIELDS)
                first = left
            return np.concatenate(parts)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = list(pool.map(part, range(0, len(pes), size)))
        arrays = np.concatenate(parts)
        return arrays[np.argsort(arrays["bound"], kind="stable")]

    def _join(
        self,
        tables: Tables,
        pes: Ints,
        hops: Ints,
        floors: NDArray[np.void],
        arrays: NDArray[np.void],
        at: int,
    ) -> NDArray[np.void]:
        """Classes of mappings that the bound leaves below a chunk of SPM tiles, best bound first."""
        limit, end = self._limit(), min(len(floors), at + CHUNK_FLOORS)

        def part(first: int) -> tuple[NDArray[np.void], int]:
            room, stop = 1 << 13, min(end, first + THREAD_FLOORS)
            while True:
                found, counters = np.zeros(room, dtype=BALANCED_CANDIDATE_FIELDS), np.zeros(2, dtype=np.int64)
                num = join(self.problem, tables, pes, hops, floors, arrays, first, stop, limit, found, counters)
                if num >= 0:
                    return found[:num].copy(), int(counters[0])
                room *= 8

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = list(pool.map(part, range(at, end, THREAD_FLOORS)))
        self.num_bounded += sum(count for _, count in parts)
        found = np.concatenate([found for found, _ in parts])
        return found[np.argsort(found["bound"], kind="stable")]

    def _price(
        self,
        tables: Tables,
        pairs: Ints,
        hops: Ints,
        floors: NDArray[np.void],
        candidates: NDArray[np.void],
    ) -> None:
        """Price what is left, best bound first."""
        at = 0
        while at < len(candidates) and not self._now():
            num, left = list_mappings(
                self.problem, tables, pairs, hops, floors, candidates, at, self._limit(), self._batch
            )
            if num == 0 and left == at:
                self._batch = empty_batch(4 * self._batch.num_mappings)
                continue
            at = left
            if num == 0:
                continue
            rows = self._batch.take(slice(0, num))
            cost = evaluate_batch(self.workload, self.arch, rows)
            values = {
                EDP: cost.energy_pj * cost.cycles, ENERGY: cost.energy_pj, LATENCY: cost.cycles.astype(np.float64)
            }[self.problem.objective]  # fmt: skip
            values = np.where(cost.energy_pj <= self.problem.energy_cap_pj * (1.0 + TOLERANCE), values, np.inf)
            self.num_evaluated += num
            best = int(np.argmin(values))
            if values[best] < self._limit():
                self.value = float(values[best])
                self.best = MappingBatch._make(column[best : best + 1].copy() for column in rows)

    def _unrollings(self, dims: Ints, least_pj: float, least_once: float) -> tuple[Ints, Ints]:
        """``(n, 2, 8)`` rows and columns that may multiply fast enough, and their hops; see ``unrollings``."""
        rows, cols = (
            _factors(dims.tolist(), limit_pes, self.rules.low[axis], self.rules.high[axis])
            for axis, limit_pes in ((ROWS, self.arch.pe.rows), (COLS, self.arch.pe.cols))
        )
        reduction = np.array([name in REDUCTION_DIMS for name in DIM_NAMES])
        found, hops = [], []
        col_hops = np.prod(cols[:, reduction], axis=1) - 1
        for row in rows:
            products = row * cols
            cycles = least_once + np.prod(-(-dims // products), axis=1)
            is_fast = (products <= dims).all(axis=1)
            if self.problem.objective != ENERGY:
                is_fast &= cycles * (least_pj if self.problem.objective == EDP else 1.0) < self._limit()
            pairs = np.empty((int(is_fast.sum()), 2, NUM_DIMS), dtype=np.int64)
            pairs[:, 0], pairs[:, 1] = row, cols[is_fast]
            found.append(pairs)
            hops.append(np.prod(row[reduction]) - 1 + col_hops[is_fast])
        if not found:
            return np.zeros((0, 2, NUM_DIMS), dtype=np.int64), np.zeros(0, dtype=np.int64)
        pairs, all_hops = np.concatenate(found), np.concatenate(hops)
        pes = pairs[:, 0] * pairs[:, 1]
        # the most PEs first, as they are likely to be the fastest
        order = np.lexsort((all_hops, *pes.T[::-1], -np.prod(pes, axis=1)))
        pairs, all_hops, pes = pairs[order], all_hops[order], pes[order]
        is_new = np.ones(len(pes), dtype=np.bool_)
        is_new[1:] = (pes[1:] != pes[:-1]).any(axis=1)
        if self.arch.cores.count > 1:
            # their waiting for each other is not monotonic in the hops
            is_new[1:] |= all_hops[1:] != all_hops[:-1]
        return pairs[is_new], all_hops[is_new]


def _groups_of(floors: NDArray[np.void]) -> NDArray[np.float64]:
    """The least energy, DMA cycles, and cycles around all passes of a few groups of SPM tiles."""
    energy_pj, dma = floors["energy_pj"].reshape(-1), floors["dma"].reshape(-1).astype(np.float64)
    numbers = np.stack([energy_pj, dma, np.repeat(floors["once"], 2).astype(np.float64)], axis=1)
    parts = np.array_split(numbers[np.argsort(energy_pj, kind="stable")], min(NUM_GROUPS, len(numbers)))
    return np.stack([part.min(axis=0) for part in parts])


def _factors(extents: list[int], limit: int, low: Ints, high: Ints) -> Ints:
    """All vectors of factors from ``low`` to ``high`` up to the extents, with a product up to a limit."""
    vectors: list[tuple[int, ...]] = [()]
    for extent, least, most in zip(extents, low.tolist(), high.tolist(), strict=True):
        vectors = [
            (*vector, f) for vector in vectors for f in range(least, min(extent, most, limit // math.prod(vector)) + 1)
        ]
    return np.array(vectors, dtype=np.int64).reshape(-1, NUM_DIMS)
