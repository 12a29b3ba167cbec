"""Branch and bound over factors that divide: SPM tiles, array tiles below them, loop orders and buffers below those."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cost_model.analytical.model import BatchBreakdown, BatchCost, evaluate_rows, formula_of
from cost_model.bounds import lower_bound
from tvm_spm.exact.case_arrays import TOLERANCE, arrays_of
from tvm_spm.exact.perfect.array_tiles import (
    ARRAY_FIELDS,
    ArrayLimits,
    ArrayRoom,
    Unrolled,
    keep_arrays,
    least_pes,
    list_arrays,
    make_shapes,
    single_energies,
)
from tvm_spm.exact.perfect.finish import DOUBLE, TABLE, Best, PairPlace
from tvm_spm.exact.perfect.join import CANDIDATE_FIELDS, ENDED, PRICE, PairRoom, bound_floors, join
from tvm_spm.exact.perfect.spm_tiles import PERFECT_TILE_FIELDS, list_tiles
from tvm_spm.exact.perfect.unrollings import divisors_of, unrollings
from tvm_spm.exact.stops import Stops
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.space.constraints_batch import ANY_BUFFERS, CORES, DRAM, SPM, rules_of
from tvm_spm.space.mapping_batch import NUM_DIMS, encode
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS

ARRAYS = 1 << 18
"""Array tiles for which there is room at first: rows that nobody writes take no memory."""

CHUNK_TILES = 8
"""SPM tiles between two looks at the clock."""

CHUNK_CORES = 16
"""Factors across cores between two looks at the clock."""

DIVES = ((16, 2), (64, 1))
"""(SPM tiles, classes under each) that are tried first, so that the proof starts with a good mapping."""


_NO_BREAKDOWN = BatchBreakdown.empty(0)


class PerfectSearch:
    """The lists of tiles and the best mapping so far.

    Args:
        case: What is searched.
        energy_cap_pj: No mapping may need more energy.
        stops: Asked whether to go on.
    """

    def __init__(self, case: Case, energy_cap_pj: float, stops: Stops) -> None:
        workload, arch = case.workload, case.arch
        self.case, self.stops, self.workload, self.arch = case, stops, workload, arch
        self.arrays, self.rules = arrays_of(case, energy_cap_pj), rules_of(case.constraints, workload)
        self.best = Best(
            encode([Mapping()]), encode([Mapping()]), np.zeros(1), np.full(1, math.inf),
            np.full(1, math.inf), np.zeros(1, np.int64), np.zeros(1, np.int64),
        )  # fmt: skip
        self.formula, self.priced = formula_of(workload, arch), BatchCost(np.zeros(1, np.int64), np.zeros(1))
        self.energy_cap_pj = energy_cap_pj
        self.runs = np.zeros((NUM_DIMS, max(workload.dims) + 2), dtype=np.int64)
        self.pairs, self.hops = unrollings(workload, arch, self.rules)
        self.most_pes = int(np.prod(self.pairs[:, 0] * self.pairs[:, 1], axis=1).max(initial=1))
        self.shapes = make_shapes(workload)
        self.is_complete = True
        self.floors = self._list_floors()
        self.single_pj = np.full(math.prod(len(divisors_of(extent)) for extent in workload.dims), math.inf)
        single_energies(self.arrays, self.shapes, self.floors, self.single_pj)

    @property
    def value(self) -> float:
        """Objective of the best mapping, infinite if none is known."""
        return float(self.best.objective[0])

    def run(self) -> float:
        """Search until done or told to stop; returns the lower bound."""
        bound = self._run()
        if self.is_complete:
            return bound
        return min(bound, lower_bound(self.workload, self.arch, self.case.objective))

    def _run(self) -> float:
        if len(self.floors) == 0 or len(self.pairs) == 0:
            return math.inf
        busy = self._list_arrays(1 if self.case.objective is Objective.ENERGY else self.most_pes)
        for num_floors, num_classes in DIVES:
            if len(busy) > 0:
                self._order_floors(busy)
                self._search(busy, 0, num_floors, num_classes)
            if self._is_late():
                self.is_complete = False
                return float(self.best.bound[0])
        arrays = self._list_arrays(least_pes(self.arrays, self.value, float(self.single_pj.min())))
        if len(arrays) == 0 or (not self.is_complete and self._is_late()):
            return float(self.best.bound[0])
        self._order_floors(arrays)
        for at in range(0, len(self.floors), CHUNK_TILES):
            before = self.value
            if not self._search(arrays, at, at + CHUNK_TILES, 5 * len(arrays)):
                break
            if self.value < before:
                arrays = arrays[arrays["bound"] < self.value]
            end = at + CHUNK_TILES
            if end < len(self.floors) and self.stops.ends_step():
                return min(float(self.floors["bound"][end]), float(self.best.bound[0]))
        return float(self.best.bound[0])

    def _is_late(self) -> bool:
        """Whether to stop in the middle of a step: not before there is a mapping."""
        return math.isfinite(self.value) and self.stops.is_late()

    def _search(self, arrays: NDArray[np.void], start: int, stop: int, num_classes: int) -> bool:
        """Whether an SPM tile of a larger bound than these may be better still."""
        found = np.zeros(5 * len(arrays), dtype=CANDIDATE_FIELDS)
        place = PairPlace(np.zeros(1 + TABLE, np.int64), np.zeros(NUM_DIMS, np.int64))
        place.at[DOUBLE] = -1
        scratch = PairRoom(self.runs, found, np.zeros(len(found), np.int64), place)
        floors, why = self.floors[start:stop], PRICE
        while why == PRICE:
            why = join(self.arrays, self.pairs, floors, arrays, num_classes, scratch, self.best)
            if why == PRICE:
                self._price()
        return why != ENDED

    def _price(self) -> None:
        """Have the formula price a mapping that may be better than the best one, and keep it if it is."""
        best = self.best
        evaluate_rows(self.formula, best.trial, (0, 1), self.priced, _NO_BREAKDOWN)
        cycles, energy_pj = float(self.priced.cycles[0]), float(self.priced.energy_pj[0])
        value = self._value_of(cycles, energy_pj)
        if value < self.value * (1.0 - TOLERANCE):
            best.objective[0], best.bound[0] = value, self._value_of(cycles, float(best.trial_pj[0]))
            kept: tuple[NDArray[Any], ...] = best.row
            found: tuple[NDArray[Any], ...] = best.trial
            for column, trial in zip(kept, found, strict=True):
                np.copyto(column, trial)

    def _value_of(self, cycles: float, energy_pj: float) -> float:
        """As ``objective_of``."""
        if energy_pj > self.energy_cap_pj * (1.0 + TOLERANCE):
            return math.inf
        return self.case.objective.value_of(cycles, energy_pj)

    def _order_floors(self, arrays: NDArray[np.void]) -> None:
        bound_floors(self.arrays, self.floors, float(arrays["least_pj"].min()), self.most_pes)
        self.floors[:] = self.floors[np.argsort(self.floors["bound"], kind="stable")]

    def _list_floors(self) -> NDArray[np.void]:
        """All SPM tiles that fit, for all factors across cores; the most cores first, in case there is no more time."""
        most = self.arch.cores.count
        choices = [
            [1] if name in REDUCTION_DIMS else [d for d in divisors_of(extent) if d <= most]
            for name, extent in zip(DIM_NAMES, self.workload.dims, strict=True)
        ]
        choices = [
            [f for f in row if low <= f <= high]
            for row, low, high in zip(choices, self.rules.low[CORES], self.rules.high[CORES], strict=True)
        ]
        found = [np.zeros(0, dtype=PERFECT_TILE_FIELDS)]
        for factors in sorted(itertools.product(*choices), key=lambda factors: (-math.prod(factors), factors)):
            if math.prod(factors) > most:
                continue
            is_step = len(found) % CHUNK_CORES == CHUNK_CORES - 1
            if (is_step and self.stops.ends_step()) or (any(map(len, found)) and self.stops.is_late()):
                self.is_complete = False
                break
            rows = [divisors_of(extent // f) for extent, f in zip(self.workload.dims, factors, strict=True)]
            num_divisors = np.array([len(row) for row in rows], dtype=np.int64)
            divisors = np.ones((1, NUM_DIMS, int(num_divisors.max())), dtype=np.int64)
            for d, row in enumerate(rows):
                divisors[0, d, : len(row)] = row
            floors = np.zeros(int(num_divisors.prod()), dtype=PERFECT_TILE_FIELDS)
            cores = np.array([factors], dtype=np.int64)
            num = list_tiles(self.arrays, cores, divisors, num_divisors[np.newaxis], self.runs, floors)
            found.append(self._allowed(floors[:num]))
        return np.concatenate(found)

    def _allowed(self, floors: NDArray[np.void]) -> NDArray[np.void]:
        """The SPM tiles, and their buffers, that the constraints leave."""
        low, high, double = self.rules.low, self.rules.high, int(self.rules.double[0])
        loops = np.array(self.workload.dims.as_tuple()) // floors["cores"] // floors["spm"]
        is_allowed = (low[SPM] <= floors["spm"]) & (floors["spm"] <= high[SPM])
        is_allowed &= (low[DRAM] <= loops) & (loops <= high[DRAM])
        if double != ANY_BUFFERS:
            floors["fitting"] &= 1 << double
        return floors[is_allowed.all(axis=1) & (floors["fitting"] != 0)]

    def _list_arrays(self, fewest_pes: int) -> NDArray[np.void]:
        """Array tiles that the best mapping so far leaves, best bound first; all of them if there is time."""
        least_pj, limit = float(self.single_pj.min()), self.value
        unrolled, prices = Unrolled(self.pairs, self.hops, fewest_pes), ArrayLimits(self.single_pj, least_pj, limit)
        room = ArrayRoom(
            np.zeros(ARRAYS, dtype=ARRAY_FIELDS), np.zeros(ARRAYS, dtype=np.int64),
            np.full(len(self.single_pj), -1, dtype=np.int64), np.zeros(2 + NUM_DIMS, dtype=np.int64),
        )  # fmt: skip
        while not list_arrays(self.arrays, unrolled, self.shapes, prices, room):
            if room.place[0] == len(room.entries):
                entries, links = (
                    np.concatenate([part, np.zeros(3 * len(part), part.dtype)]) for part in (room.entries, room.links)
                )
                room = room._replace(entries=entries, links=links)
            elif room.place[0] > 0 and self.stops.is_late():
                self.is_complete = False
                break
        num = keep_arrays(self.arrays, room.entries, int(room.place[0]))
        return room.entries[:num][np.argsort(room.entries["bound"][:num], kind="stable")].copy()
