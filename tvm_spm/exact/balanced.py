"""The certified best mapping among balanced factors: in stages, each of which excludes all mappings below a limit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from cost_model.batched import evaluate_batch
from cost_model.bounds import lower_bound
from tvm_spm.arch import Arch
from tvm_spm.constraints_batch import COLS, CORES, ROWS, Rules
from tvm_spm.cost import OBJECTIVES
from tvm_spm.exact.balanced_arrays import BALANCED_ARRAY_FIELDS
from tvm_spm.exact.balanced_floors import BALANCED_FLOOR_FIELDS
from tvm_spm.exact.balanced_join import BALANCED_CANDIDATE_FIELDS
from tvm_spm.exact.balanced_kernel import join, list_arrays, list_floors, list_mappings, make_tables
from tvm_spm.exact.balanced_tables import Tables
from tvm_spm.exact.pass_time import Ints
from tvm_spm.exact.problem import EDP, ENERGY, LATENCY, Problem
from tvm_spm.exact.spm_tiles import TOLERANCE
from tvm_spm.mapping_batch import NUM_DIMS, MappingBatch
from tvm_spm.mapspace_repair import empty_batch
from tvm_spm.mapspace_tiles import snap_factor
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Workload

STAGES = (0.9, 0.95, 0.98, 1.0)
"""Limits of the stages as shares of the best mapping so far. One stage that finds a mapping is the last."""

CHUNK_FLOORS = 64
"""SPM tiles between two looks at the clock."""


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
    ) -> None:
        self.workload, self.arch, self.problem, self.rules, self.stop = workload, arch, problem, rules, stop
        self.best, self.value = best, value
        self.num_evaluated = self.num_bounded = 0
        self._batch = empty_batch(1 << 12)
        self._tables: dict[tuple[int, ...], Tables] = {}
        self._floors: dict[tuple[int, ...], tuple[NDArray[np.void], float]] = {}

    def run(self) -> float:
        """Search until done or told to stop; returns a lower bound of the space."""
        bound = lower_bound(self.workload, self.arch, OBJECTIVES[self.problem.objective])
        start = self.value
        for share in STAGES:
            limit = share * start if math.isfinite(start) else start
            if limit <= bound or self.value < limit and share < 1.0:
                continue
            for cores in self._core_factors():
                if not self._search_cores(cores, limit):
                    return min(bound, self.value)
            bound = min(limit, self.value)
            if self.value < start:
                break
        return bound

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

    def _limit(self, limit: float) -> float:
        return min(limit, self.value) * (1.0 - TOLERANCE)

    def _search_cores(self, cores: tuple[int, ...], stage: float) -> bool:
        """Search one choice of factors across cores; False if told to stop."""
        if self.stop():
            return False
        tables = self._tables_of(cores)
        if (tables.num_spm == 0).any():
            return True
        dims = tables.share
        most_pes = min(self.arch.num_pes, math.prod(dims.tolist()))
        least_time = ceil_div(math.prod(dims.tolist()), most_pes)
        all_floors, least_pj = self._list_floors(cores, tables, least_time)
        floors = all_floors[all_floors["bound"] < self._limit(stage)]
        if len(floors) == 0:
            return True
        pairs, hops = self._unrollings(dims, least_pj, int(floors["once"].min()), self._limit(stage))
        pes = pairs[:, 0] * pairs[:, 1]
        if len(pes) == 0:
            return True
        arrays = self._list_arrays(tables, pes, hops, least_pj, int(floors["once"].min()), self._limit(stage))
        for at in range(0, len(floors), CHUNK_FLOORS):
            if self.stop():
                return False
            candidates = self._join(tables, pes, hops, floors, arrays, at, stage)
            self._price(tables, pairs, hops, floors, candidates, stage)
        return True

    def _tables_of(self, cores: tuple[int, ...]) -> Tables:
        if cores not in self._tables:
            factors = np.array(cores, dtype=np.int64)
            self._tables[cores] = make_tables(self.problem, self.rules, factors, self.arch.num_pes)
        return self._tables[cores]

    def _list_floors(self, cores: tuple[int, ...], tables: Tables, least_time: int) -> tuple[NDArray[np.void], float]:
        """SPM tiles that the bound leaves in any stage, best bound first, and the least energy of all."""
        room, least = 1 << 14, np.zeros(1)
        while cores not in self._floors:
            floors = np.zeros(room, dtype=BALANCED_FLOOR_FIELDS)
            num = list_floors(self.problem, tables, 0.0, least_time, self._limit(math.inf), floors, least)
            if num >= 0:
                order = np.argsort(floors["bound"][:num], kind="stable")
                self._floors[cores] = floors[:num][order].copy(), float(least[0])
            room *= 4
        return self._floors[cores]

    def _list_arrays(
        self, tables: Tables, pes: Ints, hops: Ints, least_pj: float, least_once: int, limit: float
    ) -> NDArray[np.void]:
        """Array tiles that the bound leaves, best bound first."""
        room, counters = 1 << 14, np.zeros(2, dtype=np.int64)
        while True:
            found = np.zeros(room, dtype=BALANCED_ARRAY_FIELDS)
            num = list_arrays(self.problem, tables, pes, hops, least_pj, least_once, limit, found, counters)
            if num >= 0:
                return found[:num][np.argsort(found["bound"][:num], kind="stable")].copy()
            room *= 4

    def _join(
        self,
        tables: Tables,
        pes: Ints,
        hops: Ints,
        floors: NDArray[np.void],
        arrays: NDArray[np.void],
        at: int,
        stage: float,
    ) -> NDArray[np.void]:
        """Classes of mappings that the bound leaves below a chunk of SPM tiles, best bound first."""
        room, counters = 1 << 14, np.zeros(2, dtype=np.int64)
        stop = min(len(floors), at + CHUNK_FLOORS)
        while True:
            found = np.zeros(room, dtype=BALANCED_CANDIDATE_FIELDS)
            num = join(self.problem, tables, pes, hops, floors, arrays, at, stop, self._limit(stage), found, counters)
            if num >= 0:
                self.num_bounded += int(counters[0])
                return found[:num][np.argsort(found["bound"][:num], kind="stable")].copy()
            room *= 4

    def _price(
        self,
        tables: Tables,
        pairs: Ints,
        hops: Ints,
        floors: NDArray[np.void],
        candidates: NDArray[np.void],
        stage: float,
    ) -> None:
        """Price what is left, best bound first."""
        at = 0
        while at < len(candidates):
            num, left = list_mappings(
                self.problem, tables, pairs, hops, floors, candidates, at, self._limit(stage), self._batch
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
            if values[best] < self._limit(stage):
                self.value = float(values[best])
                self.best = MappingBatch._make(column[best : best + 1].copy() for column in rows)

    def _unrollings(self, dims: Ints, least_pj: float, least_once: int, limit: float) -> tuple[Ints, Ints]:
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
                is_fast &= cycles * (least_pj if self.problem.objective == EDP else 1.0) < limit
            pairs = np.empty((int(is_fast.sum()), 2, NUM_DIMS), dtype=np.int64)
            pairs[:, 0], pairs[:, 1] = row, cols[is_fast]
            found.append(pairs)
            hops.append(np.prod(row[reduction]) - 1 + col_hops[is_fast])
        if not found:
            return np.zeros((0, 2, NUM_DIMS), dtype=np.int64), np.zeros(0, dtype=np.int64)
        pairs, all_hops = np.concatenate(found), np.concatenate(hops)
        pes = pairs[:, 0] * pairs[:, 1]
        order = np.lexsort((all_hops, *pes.T[::-1]))
        pairs, all_hops, pes = pairs[order], all_hops[order], pes[order]
        is_new = np.ones(len(pes), dtype=np.bool_)
        is_new[1:] = (pes[1:] != pes[:-1]).any(axis=1)
        if self.arch.cores.count > 1:
            # their waiting for each other is not monotonic in the hops
            is_new[1:] |= all_hops[1:] != all_hops[:-1]
        return pairs[is_new], all_hops[is_new]


def _factors(extents: list[int], limit: int, low: Ints, high: Ints) -> Ints:
    """All vectors of factors from ``low`` to ``high`` up to the extents, with a product up to a limit."""
    vectors: list[tuple[int, ...]] = [()]
    for extent, least, most in zip(extents, low.tolist(), high.tolist(), strict=True):
        vectors = [
            (*vector, f) for vector in vectors for f in range(least, min(extent, most, limit // math.prod(vector)) + 1)
        ]
    return np.array(vectors, dtype=np.int64).reshape(-1, NUM_DIMS)
