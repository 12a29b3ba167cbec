"""Searches on an accelerator with open pages: what the formula finds, priced with its waits for rows of DRAM."""

from __future__ import annotations

from dataclasses import replace

from cost_model.bounds import lower_bound
from cost_model.simulator import SimulatorModel
from tvm_spm.result import SearchResult
from tvm_spm.space.case import Case

_TOLERANCE = 1e-9
"""Relative: formula and simulator add the same energies, in another order."""

LEFT_OUT = (
    "pages of DRAM: vector work is timed without waits for rows, since it has no addresses, and no layers run as one, "
    "since groups would be timed without them too"
)
"""What a network tuned on such an accelerator leaves out."""


def with_waits(case: Case, found: SearchResult) -> SearchResult:
    """The same mapping at the simulator's price; the proof of the formula stays one of a bound.

    A core with a DRAM channel of its own is never faster than the formula, which counts a hit for every run. Where
    cores share channels that is not known, and the floor under all executions is what is left.

    Args:
        case: What was searched, on an accelerator with pages.
        found: By the analytical model.
    """
    cost = SimulatorModel().cost(case.workload, case.arch, found.mapping)
    floor, value = lower_bound(case.workload, case.arch, case.objective), cost.objective(case.objective)
    if case.arch.cores.count <= case.arch.levels.DRAM.channels:
        bound = max(floor, found.lower_bound)
        space = f"{found.space}, whose bound counts no waits for rows of DRAM; the mapping's own cycles do"
    else:
        bound = floor
        space = "all executions (physical bound: every MAC and every touched word once, every row opened once)"
    return replace(
        found, cost=cost, lower_bound=min(bound, value), certified=value <= bound * (1 + _TOLERANCE), space=space
    )
