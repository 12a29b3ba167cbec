"""The exact search: what it is asked, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Callable

from cost_model.analytical.model import AnalyticalModel
from cost_model.simulator import SimulatorModel
from tvm_spm.errors import NoMappingError, SpmError
from tvm_spm.exact.any_factors.prices import FormulaPrices, Found, MappingPrices, SimulatedPrices
from tvm_spm.exact.any_factors.relaxed import improve
from tvm_spm.exact.any_factors.search import AnyFactorsSearch
from tvm_spm.exact.case_arrays import TOLERANCE
from tvm_spm.exact.perfect.search import PerfectSearch
from tvm_spm.exact.stops import STEPS, TIME, Stops
from tvm_spm.result import SearchResult
from tvm_spm.space.case import Case
from tvm_spm.space.constraints import Constraints
from tvm_spm.space.mapping_batch import concat, decode
from tvm_spm.space.mapspace import MapSpace

PERFECT_SPACE = (
    "all legal mappings with perfect factors across cores, DRAM, SPM, PE rows, PE columns and RF, in all loop orders "
    "that finish outputs before they leave SPM, with all bufferings"
)
SPACE = (
    "all legal mappings with any factors across cores, PE rows and PE columns, and with the smallest SPM and RF tiles "
    "for their numbers of iterations, perfect factors among them, in all loop orders that finish outputs before they "
    "leave SPM, with all bufferings"
)
START_SHARE = 4
"""A search of any factors begins with one of perfect factors, which may take one part in so many of the limits."""

_MODELS = {"analytical": "analytical model", "simulator": "simulator"}


def exact_search(
    case: Case,
    *,
    perfect: bool = True,
    is_simulated: bool = False,
    energy_cap_pj: float | None = None,
    time_limit_s: float | None = None,
    most_steps: int | None = None,
    should_stop: Callable[[], bool] | None = None,
    report: Callable[[int], None] | None = None,
) -> SearchResult:
    """The mapping with the least objective under the analytical model or the simulator, and a proof.

    Without a limit the result is the same on each run and machine.

    Args:
        case: What is computed on what accelerator, what is minimised, and what every mapping satisfies; the certificate
            is about those alone.
        perfect: Only factors that divide. Otherwise any factors across cores and PEs, and all tiles that are the
            smallest for their number of iterations (the points of ``MapSpace(perfect=False)``).
        is_simulated: Only with any factors: mappings and the certificate are those of the simulator. That makes a
            difference where cores share channels of DRAM, whose waits the analytical model only estimates, and
            where pages of DRAM are open, whose misses it leaves out.
        energy_cap_pj: No mapping may need more energy.
        time_limit_s: Stop after this wall time with the best so far; the first few SPM tiles are always tried.
        most_steps: Stop after so many steps of the search with the best so far, the same on each run and machine.
        should_stop: Asked between and in steps whether to stop.
        report: Told how many steps there were.

    Raises:
        NoMappingError: No mapping of the space fits, or none stays below the cap; names constraints that conflict.
        WorkloadError: A dim of the workload is unlike that of any convolution or matrix product.
        SpmError: ``is_simulated`` with perfect factors.
    """
    if is_simulated and perfect:
        raise SpmError("is_simulated = True, perfect = True: only a search of any factors asks the simulator")
    stops = Stops(time_limit_s, most_steps, should_stop, report)
    cap_pj = math.inf if energy_cap_pj is None else energy_cap_pj
    start = PerfectSearch(case, cap_pj, stops if perfect else _start_stops(case, stops, time_limit_s, most_steps))
    bound, value = start.run(), start.value
    best = start.best.row if math.isfinite(value) else None
    num_evaluated, num_bounded = int(start.best.num_evaluated[0]), int(start.best.num_bounded[0])
    if not perfect:
        prices: MappingPrices = (
            SimulatedPrices(case, cap_pj) if is_simulated and is_estimated(case) else FormulaPrices(case, cap_pj)
        )
        found: Found | None = None
        if best is not None:
            near, num_near = improve(case, best, cap_pj, stops)
            found = prices.best_of(concat([best, near]), math.inf, stops)
            num_evaluated += num_near
        search = AnyFactorsSearch(case, cap_pj, stops, found or (None, math.inf), prices)
        bound = search.run()
        best, value = search.best, search.value
        num_evaluated, num_bounded = num_evaluated + prices.num_evaluated, num_bounded + search.num_bounded
    if best is None:
        text = _no_mapping_text(case, energy_cap_pj, perfect=perfect)
        is_complete = start.is_complete if perfect else not stops.struck
        raise NoMappingError(text if is_complete else f"{text} in the time there was")
    mapping = decode(best, 0)
    model = SimulatorModel() if is_simulated else AnalyticalModel()
    cost = model.cost(case.workload, case.arch, mapping)
    if not math.isclose(cost.objective(case.objective), value, rel_tol=1e-9):
        raise RuntimeError(f"the search prices {value!r} what the {cost.model} prices {cost}: {mapping.line()}")
    value = cost.objective(case.objective)
    is_proved = bound >= value * (1 - 10 * TOLERANCE)
    return SearchResult(
        mapping=mapping,
        cost=cost,
        objective=case.objective,
        lower_bound=min(bound, value),
        certified=is_proved,
        num_evaluated=num_evaluated,
        num_bounded=num_bounded,
        space=_space_text(case.constraints, cost.model, perfect=perfect),
        ended_by="" if is_proved else _ended_text(stops, time_limit_s, most_steps),
    )


def _start_stops(case: Case, stops: Stops, time_limit_s: float | None, most_steps: int | None) -> Stops:
    most_s = None if time_limit_s is None else time_limit_s / START_SHARE
    # the more cores, the longer is a step of that search
    share = START_SHARE * case.arch.cores.count
    return Stops(most_s, None if most_steps is None else most_steps // share, stops.is_late)


def is_estimated(case: Case) -> bool:
    """Whether the formula only estimates cycles that the simulator counts: of cores that wait, of pages that open."""
    return shares_channels(case) or case.arch.levels.DRAM.pages is not None


def shares_channels(case: Case) -> bool:
    """Whether some mapping may have cores that share a channel of DRAM, so that the simulator decides."""
    return case.arch.cores.count > case.arch.levels.DRAM.channels


def _ended_text(stops: Stops, time_limit_s: float | None, most_steps: int | None) -> str:
    if stops.struck == STEPS:
        return f"a budget of {most_steps:,} steps"
    return f"a time limit of {time_limit_s:g} s" if stops.struck == TIME else stops.struck


def _no_mapping_text(case: Case, energy_cap_pj: float | None, *, perfect: bool) -> str:
    workload, arch = case.workload, case.arch
    if conflict := MapSpace(workload=workload, arch=arch, perfect=perfect, constraints=case.constraints).conflict():
        return f"{workload} on {arch.name}: {conflict}"
    what = "fits" if energy_cap_pj is None else f"fits and needs at most {energy_cap_pj:.6g} pJ"
    factors = "with perfect factors " if perfect else ""
    return f"{workload} on {arch.name}: no mapping {factors}was found that {what}"


def _space_text(constraints: Constraints, model: str, *, perfect: bool) -> str:
    text = f"{PERFECT_SPACE if perfect else SPACE}, under the {_MODELS[model]}"
    return f"{text}, with {constraints}" if constraints else text
