"""Searches on an accelerator with open pages of DRAM: priced by the simulator, bounded by the formula."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cost_model.simulator import simulate_batch
from tvm_spm.mapping import Mapping
from tvm_spm.result import SearchResult
from tvm_spm.searchers import MakeSearcher
from tvm_spm.space.case import Case
from tvm_spm.space.mapping_batch import MappingBatch, decode, encode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.screen import climb, space_of, unproved

TRIALS = 512
"""Mappings that a search simulates, if nobody says how many."""

_POPULATION = 64
"""Of them, those of one generation."""

_PERFECT = "perfect factors, below which any factors may go"

_TOLERANCE = 1e-9
"""Relative: formula and simulator add the same energies, in another order."""


def search_with_waits(case: Case, run: Run, make_searcher: MakeSearcher, *, trials: int) -> SearchResult:
    """The mapping that the simulator likes best of those a searcher proposes; physics alone bounds it.

    Args:
        case: What is searched, on an accelerator with pages.
        run: Its seed and its request to stop count.
        make_searcher: Makes what proposes mappings.
        trials: Mappings simulated at most.

    Raises:
        NoMappingError: Nothing in the map space is legal; the text counts the reasons.
    """
    space = space_of(case)
    default = space.require_default()
    return _search(case, run, make_searcher, space, (default, default), trials, math.inf)


def improve_with_waits(
    case: Case, run: Run, make_searcher: MakeSearcher, found: SearchResult, *, trials: int, perfect: bool,
    energy_cap_pj: float | None,
) -> SearchResult:  # fmt: skip
    """The mapping that the simulator likes best, starting from a proved one, in the space of the proof.

    A core with a DRAM channel of its own is never faster than the formula, which counts a hit for every run; so the
    proof is one of a bound. Where cores share channels that is not known, and the floor under all executions is left.

    Args:
        case: What is searched, on an accelerator with pages.
        run: Its seed and its request to stop count.
        make_searcher: Makes what proposes mappings.
        found: By the exact search under the formula.
        trials: Mappings simulated at most.
        perfect: Only factors that divide, as in the proof.
        energy_cap_pj: No mapping may need more energy.
    """
    space = replace(space_of(case), perfect=perfect, allow_spill=False)
    default = MapSpace(workload=case.workload, arch=case.arch).default_mapping() or found.mapping
    cap_pj = math.inf if energy_cap_pj is None else energy_cap_pj
    best = _search(case, run, make_searcher, space, (found.mapping, default), trials, cap_pj)
    best = replace(
        best, num_evaluated=found.num_evaluated + best.num_evaluated, num_bounded=found.num_bounded,
        ended_by=found.ended_by,
    )  # fmt: skip
    if case.arch.cores.count > case.arch.levels.DRAM.channels:
        return best
    bound = max(best.lower_bound, found.lower_bound)
    best = replace(best, lower_bound=min(bound, best.value), certified=best.value <= bound * (1 + _TOLERANCE))
    if bound > found.lower_bound:
        # physics, of which the space of ``best`` speaks already, is nearer than the formula
        return best
    # a gap to the proof of perfect factors is none to what other factors reach
    limits = f"{_PERFECT}: " if perfect else ""
    return replace(best, space=f"{limits}{found.space}, which waits for no row of DRAM; the mapping does")


def _search(
    case: Case, run: Run, make_searcher: MakeSearcher, space: MapSpace, known: tuple[Mapping, Mapping], trials: int,
    cap_pj: float,
) -> SearchResult:  # fmt: skip
    """From the first known mapping on; the second is the default."""

    def price(batch: MappingBatch) -> NDArray[np.float64]:
        mappings = [decode(batch, row) for row in range(batch.num_mappings)]
        costs = simulate_batch(case.workload, case.arch, mappings)
        return np.array([cost.objective(case.objective) if cost.energy_pj <= cap_pj else np.inf for cost in costs])

    searcher = make_searcher(space, rng=np.random.default_rng(run.seed), start=encode([known[0]]))
    best, num_evaluated = climb(searcher, known[0], price, run, trials=trials, population=_POPULATION)
    cost, default_cost = simulate_batch(case.workload, case.arch, [best, known[1]])
    text = "all executions (physical bound: every MAC and every touched word once, every row opened once)"
    found = unproved(case, best, cost)
    return replace(found, default_cost=default_cost, num_evaluated=num_evaluated, space=text)
