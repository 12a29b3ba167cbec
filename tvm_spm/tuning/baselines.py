"""What a tuned network is compared with: the best of four prior dataflows, and random search."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cost_model.bounds import lower_bound
from cost_model.simulator import simulate_batch
from tvm_spm.arch import Arch
from tvm_spm.cost import Cost
from tvm_spm.errors import NoMappingError
from tvm_spm.exact import exact_search, is_estimated
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.searchers.evolutionary import EvolutionarySearcher
from tvm_spm.searchers.random import RandomSearcher
from tvm_spm.space.case import Case
from tvm_spm.space.constraints import DATAFLOWS, SHORT_NAMES, dataflow
from tvm_spm.space.mapping_batch import MappingBatch, decode, encode
from tvm_spm.tuning.parts import Baselines
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.screen import climb, estimate, space_of
from tvm_spm.tuning.task_memory import key_of
from tvm_spm.units import ceil_div
from tvm_spm.workload import Workload

FLOWS = {"OS": "OS", "MC": "TPU", "RS": "RS", "WS": "WS"}
"""Prior dataflows by the names they are compared under (and what the space calls them), the likely best one first."""

SEEDS = 5
"""Random searches, of which the median counts."""

_EXACT_STEPS = 40
_NUM_CLIMBED = 2048
"""Mappings with factors that need not divide, priced from the best with perfect factors on."""

_NUM_SIMULATED = 4
"""Of each random search, where the formula only estimates; elsewhere it is the simulator to the cycle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What was found of the tasks of a network.

    Attributes:
        found: By workload.
        num_asked: Of so many workloads.
    """

    found: dict[Workload, Baselines]
    num_asked: int


def baselines_of(case: Case, *, num_random: int, seed: int, should_stop: Callable[[], bool]) -> Baselines | None:
    """What one task costs under the best of the prior dataflows, and after random search.

    Args:
        case: What runs where, and what is minimised; without constraints.
        num_random: Mappings that each random search prices.
        seed: Of the random searches.
        should_stop: Asked between steps.

    Returns:
        None if it had to stop before all was known.
    """
    name, cost = _best_dataflow(case, should_stop)
    random_cost = _random_search(case, num_random, seed, should_stop)
    if random_cost is None or should_stop():
        return None
    # A layer that none of the four can run at all is at least not slower than the median draw.
    return Baselines(
        dataflow=name, dataflow_cost=random_cost if cost is None else cost, random_cost=random_cost,
        num_random=num_random,
    )  # fmt: skip


@contextmanager
def compare_beside(
    works: Sequence[tuple[Workload, int]], arch: Arch, objective: Objective, seed: int, should_stop: Callable[[], bool]
) -> Iterator[Future[Compared]]:
    """Find the baselines of all tasks of a network in a thread, beside what keeps one processor busy.

    Args:
        works: Each with the mappings that a random search of it prices.
        arch: The accelerator.
        objective: Of each task.
        seed: Of the run.
        should_stop: What is not known by then stays unknown.
    """

    leaving = threading.Event()

    def is_over() -> bool:
        return leaving.is_set() or should_stop()

    def compare() -> Compared:
        found: dict[Workload, Baselines] = {}
        for work, num_random in works:
            if is_over():
                break
            case = Case(workload=work, arch=arch, objective=objective)
            made = baselines_of(case, num_random=num_random, seed=seed, should_stop=is_over)
            if made is not None:
                found[work] = made
        return Compared(found=found, num_asked=len(works))

    with ThreadPoolExecutor(1, thread_name_prefix="baselines") as thread:
        try:
            yield thread.submit(compare)
        finally:
            leaving.set()


def _best_dataflow(case: Case, should_stop: Callable[[], bool]) -> tuple[str, Cost | None]:
    """Each of the four optimised within itself, but for those whose floor is above what was found."""
    best_name, best, best_value = "", None, math.inf
    for name, short in FLOWS.items():
        if _floor(case, short) >= best_value or should_stop():
            continue
        flow = replace(case, constraints=dataflow(short))
        try:
            costs = simulate_batch(case.workload, case.arch, _optima(flow, should_stop))
        except NoMappingError:
            continue
        cost = min(costs, key=lambda each: each.objective(case.objective))
        if cost.objective(case.objective) < best_value:
            best_name, best, best_value = name, cost, cost.objective(case.objective)
    return best_name, best


def _optima(case: Case, should_stop: Callable[[], bool]) -> list[Mapping]:
    """The best mapping with perfect factors, and the best with any that is found from it."""
    space = space_of(case)
    try:
        start = exact_search(case, most_steps=_EXACT_STEPS, should_stop=should_stop).mapping
    except NoMappingError:
        start = space.require_default()
    searcher = EvolutionarySearcher(space, rng=np.random.default_rng(0), start=encode([start]))
    best, _ = climb(searcher, start, partial(_price, case), Run(), trials=_NUM_CLIMBED)
    return list(dict.fromkeys([start, best]))


def _price(case: Case, batch: MappingBatch) -> NDArray[np.float64]:
    return np.asarray(case.objective.value_of(*estimate(case, batch)))


def _floor(case: Case, short: str) -> float:
    """No mapping of a dataflow is better: only its two loops are unrolled, and so many PEs at most are busy."""
    workload, arch = case.workload, case.arch
    rows, cols = DATAFLOWS[SHORT_NAMES[short]]
    busy = [
        min(available, math.prod(workload.dims[name] for name in dims))
        for dims, available in ((rows, arch.pe.rows), (cols, arch.pe.cols))
    ]
    share = arch.peak_macs_per_cycle * math.prod(busy) / (arch.pe.rows * arch.pe.cols)
    cycles = arch.cores.launch_cycles + ceil_div(workload.macs, max(1, math.ceil(share)))
    least = (lower_bound(workload, arch, kind) for kind in (Objective.LATENCY, Objective.ENERGY))
    latency, energy_pj = least
    return case.objective.value_of(max(float(cycles), latency), energy_pj)


def _random_search(case: Case, num_mappings: int, seed: int, should_stop: Callable[[], bool]) -> Cost | None:
    """The median of some random searches, the best of each measured; None if nothing is drawn, or it must stop."""
    number = int.from_bytes(hashlib.sha256(key_of(case.workload).encode()).digest()[:4], "big")
    space, bests = space_of(case), []
    for repetition in range(SEEDS):
        if should_stop():
            return None
        searcher = RandomSearcher(space, rng=np.random.default_rng([seed, number, repetition]))
        batch = searcher.ask(num_mappings)
        order = np.argsort(_price(case, batch), kind="stable")[: _NUM_SIMULATED if is_estimated(case) else 1]
        if order.size:
            costs = simulate_batch(case.workload, case.arch, [decode(batch, int(row)) for row in order])
            bests.append(min(costs, key=lambda each: each.objective(case.objective)))
    bests.sort(key=lambda each: each.objective(case.objective))
    return bests[len(bests) // 2] if bests else None
