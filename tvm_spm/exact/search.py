"""The exact search: what it is asked, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Callable

from cost_model.analytical.model import AnalyticalModel
from tvm_spm.errors import NoMappingError
from tvm_spm.exact.any_factors.relaxed import improve
from tvm_spm.exact.any_factors.search import AnyFactorsSearch
from tvm_spm.exact.case_arrays import TOLERANCE
from tvm_spm.exact.perfect.search import PerfectSearch
from tvm_spm.exact.stops import Stops
from tvm_spm.result import SearchResult
from tvm_spm.space.case import Case
from tvm_spm.space.constraints import Constraints
from tvm_spm.space.mapping_batch import decode
from tvm_spm.space.mapspace import MapSpace

PERFECT_SPACE = (
    "all legal mappings with perfect factors across cores, DRAM, SPM, PE rows, PE columns and RF, in all loop orders "
    "that finish outputs before they leave SPM, with all bufferings, under the analytical model"
)
SPACE = (
    "all legal mappings with any factors across cores, PE rows and PE columns, and with the smallest SPM and RF tiles "
    "for their numbers of iterations, perfect factors among them, in all loop orders that finish outputs before they "
    "leave SPM, with all bufferings, under the analytical model"
)


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
    stops = Stops(time_limit_s, most_steps, should_stop)
    cap_pj = math.inf if energy_cap_pj is None else energy_cap_pj
    start = PerfectSearch(case, cap_pj, stops)
    bound, value = start.run(), start.value
    best = start.best.row if math.isfinite(value) else None
    num_evaluated, num_bounded = int(start.best.num_evaluated[0]), int(start.best.num_bounded[0])
    if not perfect:
        if best is not None:
            best, value, num_improved = improve(case, best, cap_pj, stops)
            num_evaluated += num_improved
        search = AnyFactorsSearch(case, cap_pj, stops, (best, value))
        bound = search.run()
        best, value = search.best, search.value
        num_evaluated, num_bounded = num_evaluated + search.num_evaluated, num_bounded + search.num_bounded
    if best is None:
        text = _no_mapping_text(case, energy_cap_pj, perfect=perfect)
        raise NoMappingError(text if start.is_complete else f"{text} in the time there was")
    mapping = decode(best, 0)
    cost = AnalyticalModel().cost(case.workload, case.arch, mapping)
    if not math.isclose(cost.objective(case.objective), value, rel_tol=1e-9):
        raise RuntimeError(f"the search prices {value!r} what the analytical model prices {cost}: {mapping.line()}")
    value = cost.objective(case.objective)
    return SearchResult(
        mapping=mapping,
        cost=cost,
        objective=case.objective,
        lower_bound=min(bound, value),
        certified=bound >= value * (1 - 10 * TOLERANCE),
        num_evaluated=num_evaluated,
        num_bounded=num_bounded,
        space=_space_text(case.constraints, perfect=perfect),
    )


def _no_mapping_text(case: Case, energy_cap_pj: float | None, *, perfect: bool) -> str:
    workload, arch = case.workload, case.arch
    if conflict := MapSpace(workload=workload, arch=arch, perfect=perfect, constraints=case.constraints).conflict():
        return f"{workload} on {arch.name}: {conflict}"
    what = "fits" if energy_cap_pj is None else f"fits and needs at most {energy_cap_pj:.6g} pJ"
    factors = "with perfect factors " if perfect else ""
    return f"{workload} on {arch.name}: no mapping {factors}was found that {what}"


def _space_text(constraints: Constraints, *, perfect: bool) -> str:
    text = PERFECT_SPACE if perfect else SPACE
    return f"{text}, with {constraints}" if constraints else text
