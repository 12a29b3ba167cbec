"""Branch and bound over a map space: SPM tiles, array tiles below them, loop orders and bufferings below those."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cost_model.analytical.model import AnalyticalModel
from cost_model.bounds import lower_bound
from tvm_spm.arch import Arch
from tvm_spm.errors import NoMappingError
from tvm_spm.exact.array_tiles import ARRAY_FIELDS, keep_arrays, least_pes, list_arrays, make_shapes, single_energies
from tvm_spm.exact.balanced.search import BalancedSearch
from tvm_spm.exact.finish import Best
from tvm_spm.exact.join import CANDIDATE_FIELDS, bound_floors, join
from tvm_spm.exact.problem import ENERGY, Problem, make_problem
from tvm_spm.exact.relaxed import improve
from tvm_spm.exact.spm_tiles import FLOOR_FIELDS, TOLERANCE, list_tiles
from tvm_spm.exact.unrollings import divisors_of, unrollings
from tvm_spm.mapping import Mapping
from tvm_spm.result import SearchResult
from tvm_spm.space.case import Case
from tvm_spm.space.constraints import Constraints
from tvm_spm.space.constraints_batch import ANY_BUFFERS, CORES, DRAM, SPM, Rules, rules_of
from tvm_spm.space.mapping_batch import NUM_DIMS, decode, encode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Workload

PERFECT_SPACE = (
    "all legal mappings with perfect factors across cores, DRAM, SPM, PE rows, PE columns and RF, in all loop orders "
    "that finish outputs before they leave SPM, with all bufferings, under the analytical model"
)
BALANCED_SPACE = (
    "all legal mappings with any factors across cores, PE rows and PE columns, and with the smallest SPM and RF tiles "
    "for their numbers of iterations, perfect factors among them, in all loop orders that finish outputs before they "
    "leave SPM, with all bufferings, under the analytical model"
)

CHUNK_TILES = 8
"""SPM tiles between two looks at the clock."""

CHUNK_CORES = 16
"""Factors across cores between two looks at the clock."""

DIVES = ((16, 2), (64, 1))
"""(SPM tiles, classes under each) that are tried first, so that the proof starts with a good mapping."""


def exact_search(
    case: Case,
    *,
    perfect: bool = True,
    energy_cap_pj: float | None = None,
    time_limit_s: float | None = None,
    most_steps: int | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> SearchResult:
    """The mapping with the least objective under the analytical model, and a proof.

    Without a limit the result is the same on each run and machine.

    Args:
        case: What is computed on what accelerator, what is minimised, and what every mapping satisfies; the certificate
            is about those alone.
        perfect: Only factors that divide. Otherwise any factors across cores and PEs, and all tiles that are the
            smallest for their number of iterations (the points of ``MapSpace(perfect=False)``).
        energy_cap_pj: No mapping may need more energy.
        time_limit_s: Stop after this wall time with the best so far; the first few SPM tiles are always tried.
        most_steps: Stop after so many steps of the search with the best so far, the same on each run and machine.
        should_stop: Asked between and in steps whether to stop.

    Raises:
        NoMappingError: No mapping of the space fits, or none stays below the cap; names constraints that conflict.
        WorkloadError: A dim of the workload is unlike that of any convolution or matrix product.
    """
    started = time.monotonic()
    workload, arch, objective, constraints = case.workload, case.arch, case.objective, case.constraints
    cap = math.inf if energy_cap_pj is None else energy_cap_pj
    problem = make_problem(workload, arch, objective.code, cap, constraints)

    def now() -> bool:
        late = time_limit_s is not None and time.monotonic() - started >= time_limit_s
        return late or (should_stop is not None and should_stop())

    steps = itertools.count(1)

    def stop() -> bool:
        """Asked once a step."""
        return now() or (most_steps is not None and next(steps) > most_steps)

    rules = rules_of(constraints, workload)
    search = _Search(workload, arch, problem, stop, rules, now)
    bound = search.run(stop)
    if not search.is_complete:
        bound = min(bound, lower_bound(workload, arch, objective))
    best, found = search.best.row, float(search.best.objective[0])
    num_evaluated, num_bounded = int(search.best.num_evaluated[0]), int(search.best.num_bounded[0])
    if not perfect:
        if math.isfinite(found):
            best, found, num_more = improve(
                workload, arch, best, constraints=constraints, objective=objective, energy_cap_pj=cap, stop=stop
            )
            num_evaluated += num_more
        balanced = BalancedSearch(workload, arch, problem, rules, best, found, stop, now)
        bound = balanced.run()
        best, found = balanced.best, balanced.value
        num_evaluated, num_bounded = num_evaluated + balanced.num_evaluated, num_bounded + balanced.num_bounded
    if math.isinf(found):
        text = _no_mapping_text(workload, arch, constraints, energy_cap_pj, perfect=perfect)
        raise NoMappingError(text if search.is_complete else f"{text} in the time there was")
    mapping, model = decode(best, 0), AnalyticalModel()
    value = model.cost(workload, arch, mapping).objective(objective)
    if not math.isclose(value, found, rel_tol=1e-9):
        raise RuntimeError(f"the search prices {found!r} what the analytical model prices {value!r}: {mapping.line()}")
    cost = model.cost(workload, arch, mapping)
    value = cost.objective(objective)
    return SearchResult(
        mapping=mapping,
        cost=cost,
        objective=objective,
        lower_bound=min(bound, value),
        certified=bound >= value * (1 - 10 * TOLERANCE),
        num_evaluated=num_evaluated,
        num_bounded=num_bounded,
        space=_space_text(constraints, perfect=perfect),
    )


def _no_mapping_text(
    workload: Workload, arch: Arch, constraints: Constraints, energy_cap_pj: float | None, *, perfect: bool
) -> str:
    if conflict := MapSpace(workload=workload, arch=arch, perfect=perfect, constraints=constraints).conflict():
        return f"{workload} on {arch.name}: {conflict}"
    what = "fits" if energy_cap_pj is None else f"fits and needs at most {energy_cap_pj:.6g} pJ"
    factors = "with perfect factors " if perfect else ""
    return f"{workload} on {arch.name}: no mapping {factors}was found that {what}"


def _space_text(constraints: Constraints, *, perfect: bool) -> str:
    text = PERFECT_SPACE if perfect else BALANCED_SPACE
    return f"{text}, with {constraints}" if constraints else text


class _Search:
    """The lists of tiles and the best mapping so far.

    Args:
        workload: What is computed.
        arch: The accelerator.
        problem: The same as arrays.
        stop: Asked once a step whether to stop.
        rules: What every mapping keeps to.
        now: Asked in between whether there is no more time.
    """

    def __init__(
        self,
        workload: Workload,
        arch: Arch,
        problem: Problem,
        stop: Callable[[], bool],
        rules: Rules,
        now: Callable[[], bool] = lambda: False,
    ) -> None:
        self._now = now
        self.workload, self.arch, self.problem, self.rules = workload, arch, problem, rules
        self.best = Best(encode([Mapping()]), np.full(1, math.inf), np.zeros(1, np.int64), np.zeros(1, np.int64))
        self.runs = np.zeros((NUM_DIMS, max(workload.dims) + 2), dtype=np.int64)
        self.pairs, self.hops = unrollings(workload, arch, rules)
        self.most_pes = int(np.prod(self.pairs[:, 0] * self.pairs[:, 1], axis=1).max(initial=1))
        self.shapes = make_shapes(workload)
        self.is_complete = True
        self.floors = self._list_floors(stop)
        self.single_pj = np.full(math.prod(len(divisors_of(extent)) for extent in workload.dims), math.inf)
        single_energies(problem, self.shapes, self.floors, self.single_pj)

    def run(self, stop: Callable[[], bool]) -> float:
        """Search until done or told to stop; returns the lower bound."""
        if len(self.floors) == 0 or len(self.pairs) == 0:
            return math.inf
        busy = self._list_arrays(1 if self.problem.objective == ENERGY else self.most_pes)
        for num_floors, num_classes in DIVES:
            if len(busy) > 0:
                self._order_floors(busy)
                self._search(busy, 0, num_floors, num_classes)
            if self._is_late():
                self.is_complete = False
                return float(self.best.objective[0])
        arrays = self._list_arrays(least_pes(self.problem, float(self.best.objective[0]), float(self.single_pj.min())))
        if len(arrays) == 0 or (not self.is_complete and self._is_late()):
            return float(self.best.objective[0])
        self._order_floors(arrays)
        at = 0
        while at < len(self.floors):
            before = self.best.objective[0]
            at = self._search(arrays, at, at + CHUNK_TILES, 5 * len(arrays))
            if self.best.objective[0] < before:
                arrays = arrays[arrays["bound"] < self.best.objective[0]]
            if at < len(self.floors) and stop():
                return min(float(self.floors["bound"][at]), float(self.best.objective[0]))
        return float(self.best.objective[0])

    def _is_late(self) -> bool:
        """Whether to stop in the middle of a step: not before there is a mapping."""
        return math.isfinite(float(self.best.objective[0])) and self._now()

    def _search(self, arrays: NDArray[np.void], start: int, stop: int, num_classes: int) -> int:
        found = np.zeros(5 * len(arrays), dtype=CANDIDATE_FIELDS)
        at: int = join(
            self.problem, self.pairs, self.floors, arrays, start, stop, num_classes, self.runs, found, self.best
        )
        return at

    def _order_floors(self, arrays: NDArray[np.void]) -> None:
        bound_floors(self.problem, self.floors, float(arrays["least_pj"].min()), self.most_pes)
        self.floors[:] = self.floors[np.argsort(self.floors["bound"], kind="stable")]

    def _list_floors(self, stop: Callable[[], bool]) -> NDArray[np.void]:
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
        found = [np.zeros(0, dtype=FLOOR_FIELDS)]
        for factors in sorted(itertools.product(*choices), key=lambda factors: (-math.prod(factors), factors)):
            if math.prod(factors) > most:
                continue
            is_step = len(found) % CHUNK_CORES == CHUNK_CORES - 1
            if (is_step and stop()) or (any(map(len, found)) and self._now()):
                self.is_complete = False
                break
            rows = [divisors_of(extent // f) for extent, f in zip(self.workload.dims, factors, strict=True)]
            num_divisors = np.array([len(row) for row in rows], dtype=np.int64)
            divisors = np.ones((1, NUM_DIMS, int(num_divisors.max())), dtype=np.int64)
            for d, row in enumerate(rows):
                divisors[0, d, : len(row)] = row
            floors = np.zeros(int(num_divisors.prod()), dtype=FLOOR_FIELDS)
            cores = np.array([factors], dtype=np.int64)
            num = list_tiles(self.problem, cores, divisors, num_divisors[np.newaxis], self.runs, floors)
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
        least_pj, limit = float(self.single_pj.min()), float(self.best.objective[0])
        heads = np.full(len(self.single_pj), -1, dtype=np.int64)
        entries, links = np.zeros(1 << 14, dtype=ARRAY_FIELDS), np.zeros(1 << 14, dtype=np.int64)
        place = np.zeros(2 + NUM_DIMS, dtype=np.int64)
        while not list_arrays(
            self.problem, self.pairs, self.hops, fewest_pes, self.shapes, self.single_pj, least_pj, limit, heads, links,
            entries, place,
        ):  # fmt: skip
            if place[0] == len(entries):
                entries, links = (
                    np.concatenate([part, np.zeros(3 * len(part), part.dtype)]) for part in (entries, links)
                )
            elif place[0] > 0 and self._now():
                self.is_complete = False
                break
        num = keep_arrays(self.problem, entries, int(place[0]))
        return entries[:num][np.argsort(entries["bound"][:num], kind="stable")].copy()
