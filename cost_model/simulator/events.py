"""All cores against the shared DRAM channels: requests in the order of time, then core number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cost_model.simulator.core import advance, serve
from cost_model.simulator.heap import sift_down
from cost_model.simulator.nest import build_nest, open_ledger, place_core
from cost_model.simulator.pe_array import PASS_FIELDS
from cost_model.simulator.state import (
    TOTAL_FIELDS,
    Ints,
    Ledger,
    Nest,
    Problem,
)
from cost_model.simulator.undisturbed import run_undisturbed
from tvm_spm.jit import entry, part
from tvm_spm.space.mapping_batch import NUM_DIMS, MappingBatch
from tvm_spm.space.tensors import Tensors

CYCLES, MAC_CYCLES, PASS_CYCLES_SUM, TOTALS, COUNTS = 0, 1, 2, 3, 3 + TOTAL_FIELDS
"""Columns of a result: cycles, MAC and pass cycles of the core that finishes last, totals, and summed pass records."""

RESULT_FIELDS = COUNTS + PASS_FIELDS

_NO_REQUEST = np.iinfo(np.int64).max


@part
def _run_cores(problem: Problem, tensors: Tensors, nest: Nest, cores: NDArray[np.void], ledger: Ledger) -> None:
    """Serve requests first come, first served, each on the channel that is free earliest."""
    num_cores = len(cores)
    free = np.zeros(min(num_cores, problem.num_channels), dtype=np.int64)
    waiting = np.zeros(num_cores, dtype=np.int64)
    for number in range(num_cores):
        place_core(problem, nest, number, cores[number])
        waiting[number] = number
    while waiting[0] != _NO_REQUEST:
        time, number = waiting[0] // num_cores, waiting[0] % num_cores
        core = cores[number]
        if core.num_served < core.num_transfers:
            free[0] = serve(core, ledger, max(time, free[0]))
            sift_down(free, len(free))
        is_waiting = advance(problem, tensors, nest, core, ledger)
        if core.clock < time:
            raise RuntimeError("a core went back in time")
        waiting[0] = core.clock * num_cores + number if is_waiting else _NO_REQUEST
        sift_down(waiting, num_cores)


@part
def _simulate(
    problem: Problem,
    tensors: Tensors,
    batch: MappingBatch,
    row: int,
    fold: bool,
    nest: Nest,
    all_cores: NDArray[np.void],
    result: Ints,
    extra_elems: Ints,
) -> None:
    build_nest(problem, batch, row, nest)
    nest.fold = fold
    ledger = open_ledger(problem, tensors, nest)
    num_cores = 1
    for d in range(NUM_DIMS):
        num_cores *= nest.cores[d]
    cores = all_cores[:num_cores]
    if fold and num_cores <= problem.num_channels:
        for number in range(num_cores):
            place_core(problem, nest, number, cores[number])
            run_undisturbed(problem, tensors, nest, cores[number], ledger)
    else:
        _run_cores(problem, tensors, nest, cores, ledger)
    last = 0
    for number in range(num_cores):
        if cores[number].clock > cores[last].clock:
            last = number
    result[CYCLES] = cores[last].clock
    result[MAC_CYCLES] = cores[last].sum_mac_cycles
    result[PASS_CYCLES_SUM] = cores[last].sum_pass_cycles
    for column in range(TOTAL_FIELDS):
        result[TOTALS + column] = ledger.totals[column]
    for column in range(PASS_FIELDS):
        result[COUNTS + column] = 0
    for kind in range(len(ledger.num_passes)):
        if ledger.num_passes[kind] > 0:
            for column in range(PASS_FIELDS):
                result[COUNTS + column] += ledger.num_passes[kind] * ledger.records[kind, column]
    for extra in range(len(extra_elems)):
        extra_elems[extra] = ledger.extra_elems[extra]


@entry
def simulate_rows(
    problems: NDArray[np.void],
    tensors: Tensors,
    batch: MappingBatch,
    fold: bool,
    nests: NDArray[np.void],
    cores: NDArray[np.void],
    results: Ints,
    extra_elems: Ints,
) -> None:
    """Simulate every row of a batch.

    Args:
        problems: One record of ``PROBLEM_FIELDS``.
        tensors: The projections of the workload.
        batch: Legal mappings.
        fold: Count repetition instead of walking it.
        nests: Room for one record of ``NEST_FIELDS``; the caller holds it while its views are in use.
        cores: Likewise for records of ``CORE_FIELDS``, at least as many as a mapping uses cores.
        results: Filled, ``RESULT_FIELDS`` numbers a row.
        extra_elems: Filled, elements moved per extra of the epilogue.
    """
    for row in range(len(results)):
        _simulate(problems[0], tensors, batch, row, fold, nests[0], cores, results[row], extra_elems[row])


__all__ = [
    "COUNTS", "CYCLES", "MAC_CYCLES", "PASS_CYCLES_SUM", "RESULT_FIELDS", "TOTALS", "simulate_rows",
]  # fmt: skip
