"""What the mappings that the bounds leave cost: by the formula, or by the simulator where cores share channels."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from cost_model.analytical.model import BatchCost, bound_batch, evaluate_batch
from cost_model.simulator import simulate_cycles
from tvm_spm.exact.any_factors.waiting import Waiting
from tvm_spm.exact.case_arrays import TOLERANCE, Floats
from tvm_spm.exact.stops import REQUEST, TIME, Stops
from tvm_spm.space.case import Case
from tvm_spm.space.mapping_batch import MappingBatch

ROWS_PER_STEP = 1 << 12
"""Mappings of a batch, priced in a step."""

SIMULATED_AT_ONCE = 32
"""Mappings of a batch, best bound first, that are simulated before the search goes on with what they leave."""

SIMULATED_LAST = 512
"""Mappings that are simulated at the end even if the budget of steps has struck."""

MOST_WAITING = 1 << 16
"""Mappings that wait to be simulated; of more, those of the largest bounds are left to the bound."""

PASSES_PER_STEP = 1 << 15
"""Passes of all cores that take about as long to simulate as pricing a batch."""

Found = tuple[MappingBatch, float]
"""A mapping, one row, and its objective."""


class MappingPrices(Protocol):
    """Says what mappings cost.

    Attributes:
        num_evaluated: Mappings priced.
    """

    num_evaluated: int

    def best_of(self, rows: MappingBatch, limit: float, stops: Stops) -> Found | None:
        """The best of some mappings that is below a limit, as far as they are priced at once; counts the work."""
        ...

    def finish(self, limit: float, stops: Stops) -> Found | None:
        """The best of those that were not priced, if it is below a limit."""
        ...

    @property
    def least_left(self) -> float:
        """A bound on the objective of what was not priced, infinite if there is none."""
        ...


class FormulaPrices:
    """All at once, by the analytical model."""

    def __init__(self, case: Case, energy_cap_pj: float) -> None:
        self._case, self._cap_pj = case, energy_cap_pj
        self.num_evaluated = 0

    @property
    def least_left(self) -> float:
        """Everything is priced."""
        return math.inf

    def best_of(self, rows: MappingBatch, limit: float, stops: Stops) -> Found | None:
        """See ``MappingPrices``."""
        values = _values(self._case, evaluate_batch(self._case.workload, self._case.arch, rows), self._cap_pj)
        self.num_evaluated += rows.num_mappings
        stops.ends_work(rows.num_mappings / ROWS_PER_STEP)
        return _least(rows, values, limit)

    def finish(self, limit: float, stops: Stops) -> Found | None:
        """See ``MappingPrices``."""
        return None


class SimulatedPrices:
    """By the simulator, those of the least bounds first; without simulation where cores have a channel each.

    Args:
        case: What is searched.
        energy_cap_pj: No mapping may need more energy.
    """

    def __init__(self, case: Case, energy_cap_pj: float) -> None:
        self._case, self._cap_pj = case, energy_cap_pj
        self._waiting = Waiting(MOST_WAITING)
        self.num_evaluated = 0

    @property
    def least_left(self) -> float:
        """See ``MappingPrices``."""
        return min(self._waiting.least_dropped, float(self._waiting.bounds.min(initial=math.inf)))

    def best_of(self, rows: MappingBatch, limit: float, stops: Stops) -> Found | None:
        """See ``MappingPrices``."""
        stops.ends_work(rows.num_mappings / ROWS_PER_STEP)
        cost = bound_batch(self._case.workload, self._case.arch, rows)
        bounds = _values(self._case, cost, self._cap_pj)
        dram = self._case.arch.levels.DRAM
        is_exact = (rows.cores.prod(axis=1) <= dram.channels) & (dram.pages is None)
        self.num_evaluated += int(is_exact.sum())
        found = _least(rows, np.where(is_exact, bounds, np.inf), limit)
        kept = np.flatnonzero(~is_exact & (bounds < (limit if found is None else found[1])))
        kept = kept[np.argsort(bounds[kept], kind="stable")]
        self._waiting.add(rows.take(kept), bounds[kept], cost.energy_pj[kept])
        return self._simulate(found, limit, stops, most=SIMULATED_AT_ONCE)

    def finish(self, limit: float, stops: Stops) -> Found | None:
        """See ``MappingPrices``."""
        found = self._simulate(None, limit, stops, most=SIMULATED_LAST)
        while len(self._waiting.bounds) and not stops.is_late():
            found = self._simulate(found, limit, stops, most=SIMULATED_AT_ONCE)
        return found

    def _simulate(self, found: Found | None, limit: float, stops: Stops, *, most: int) -> Found | None:
        """The better of a mapping and the best of a few that wait; those that cannot be better wait no longer."""
        workload, arch = self._case.workload, self._case.arch
        best = limit if found is None else found[1]
        num = min(most, int(np.searchsorted(self._waiting.bounds, best * (1.0 - TOLERANCE))))
        if stops.struck in (TIME, REQUEST):
            # not before there is a mapping
            num = min(num, 0 if math.isfinite(best) else 1)
        if num > 0:
            rows = self._waiting.first(num)
            cycles = simulate_cycles(workload, arch, rows)
            values = _values(self._case, BatchCost(cycles, self._waiting.energy_pj[:num]), self._cap_pj)
            self.num_evaluated += num
            stops.ends_work(float(_num_passes(self._case, rows).sum()) / PASSES_PER_STEP)
            better = _least(rows, values, best)
            found, best = (found, best) if better is None else (better, better[1])
        self._waiting.leave(num, best * (1.0 - TOLERANCE))
        return found


def _values(case: Case, cost: BatchCost, cap_pj: float) -> Floats:
    """The objective, infinite above the energy cap."""
    values = case.objective.value_of(cost.cycles.astype(np.float64), cost.energy_pj)
    return np.where(cost.energy_pj <= cap_pj * (1.0 + TOLERANCE), values, np.inf)


def _least(rows: MappingBatch, values: Floats, limit: float) -> Found | None:
    if len(values) == 0:
        return None
    best = int(np.argmin(values))
    if values[best] >= limit * (1.0 - TOLERANCE):
        return None
    return MappingBatch._make(column[best : best + 1].copy() for column in rows), float(values[best])


def _num_passes(case: Case, rows: MappingBatch) -> Floats:
    """Of all cores together, at most."""
    dims = np.array(case.workload.dims.as_tuple(), dtype=np.int64)
    share = -(-dims // rows.cores)
    return np.prod((-(-share // rows.spm)).astype(np.float64), axis=1) * rows.cores.prod(axis=1)
