"""The analytical model for many mappings at once: the same integers and sums as ``analytical``, compiled."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.batched.core import CHANNEL, CYCLES, PROLOGUE, core_times
from cost_model.batched.energy import energy_pj
from cost_model.batched.nest import NEST_FIELDS, Nest, build_nest, clipped_range
from cost_model.batched.passes import LOOP_FIELDS, MAX_KINDS, PASS_FIELDS, STEP_FIELDS
from cost_model.batched.problem import Ints, Problem, num_cut_indices, problem_of
from cost_model.batched.transfers import Scratch
from tvm_spm.arch import Arch
from tvm_spm.jit import entry, lean
from tvm_spm.space.mapping_batch import NUM_DIMS, MappingBatch
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, Workload

_MIN_ROWS_PER_THREAD = 512
"""Fewer are not worth a thread."""


class BatchCost(NamedTuple):
    """Costs in the order of the batch."""

    cycles: NDArray[np.int64]
    energy_pj: NDArray[np.float64]


def evaluate_batch(workload: Workload, arch: Arch, batch: MappingBatch, *, num_threads: int | None = None) -> BatchCost:
    """Cycles and energy of many legal mappings; equal to ``AnalyticalModel().cost`` of each.

    Args:
        workload: What is computed.
        arch: The accelerator.
        batch: Legal mappings; not checked again here.
        num_threads: At most so many; default one per CPU. Results do not depend on it.
    """
    problem = problem_of(workload, arch)
    columns: list[NDArray[Any]] = [np.require(column, requirements=("C", "W")) for column in batch]
    rows = MappingBatch(*columns)
    count = batch.num_mappings
    result = BatchCost(np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.float64))

    def run(begin: int, end: int) -> None:
        scratch = _scratch(workload, arch)
        nest = np.zeros(1, dtype=NEST_FIELDS)
        evaluate_rows(problem, rows, begin, end, nest, scratch, *result)

    threads = max(1, min(num_threads or os.cpu_count() or 1, count // _MIN_ROWS_PER_THREAD))
    # threads take turns: mappings differ in work, and later rows of a search tend to be alike
    step = max(_MIN_ROWS_PER_THREAD, ceil_div(count, 8 * threads))
    parts = [(begin, min(count, begin + step)) for begin in range(0, count, step)]
    if threads == 1:
        run(0, count)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda part: run(*part), parts))
    return result


def _scratch(workload: Workload, arch: Arch) -> Scratch:
    """Room for any mapping of a workload."""
    cut = [num_cut_indices(workload, name) for name in DIM_NAMES]
    # the rest in one run, and its first and last index and the edge tile apart
    num_runs = [min(extent, indices + 4) for extent, indices in zip(workload.dims, cut, strict=True)]
    num_kinds = [min(extent, indices + 2) for extent, indices in zip(workload.dims, cut, strict=True)]
    num_tiles = [indices + 2 * min(arch.cores.count, e) + 2 for indices, e in zip(cut, workload.dims, strict=True)]
    combined = max(
        math.prod(num_tiles[DIM_NAMES.index(name)] for name, _ in axis.terms)
        for projection in (workload.I, workload.W, workload.O, *workload.epilogue.extras)
        for axis in projection.axes
    )
    codes = math.prod(num_kinds)
    return Scratch(
        runs=np.zeros((4, NUM_DIMS, max(num_runs)), dtype=np.int64),
        spans=np.zeros((2, codes), dtype=np.int64),
        boxes=np.zeros((3, codes), dtype=np.int64),
        transfers=np.zeros((6, codes), dtype=np.int64),
        states=np.zeros((math.prod(num_runs), 7), dtype=np.int64),
        places=np.zeros((6, NUM_DIMS), dtype=np.int64),
        loops=np.zeros(2, dtype=LOOP_FIELDS),
        passes=np.zeros(MAX_KINDS, dtype=PASS_FIELDS),
        steps=np.zeros(MAX_KINDS, dtype=STEP_FIELDS),
        ways=np.zeros((MAX_KINDS, 2), dtype=np.int64),
        ending=np.zeros((MAX_KINDS, 2), dtype=np.int64),
        starting=np.zeros((MAX_KINDS, 2), dtype=np.int64),
        tiles=np.zeros((2, 3, max(combined, *num_tiles)), dtype=np.int64),
    )


@lean
def _contended_cycles(problem: Problem, nest: Nest, scratch: Scratch) -> int:
    """Cycles until the last core is done, from all kinds of cores: see ``analytical.model.contended_cycles``."""
    places = scratch.places
    first, extent, low, high, at, times = places[0], places[1], places[2], places[3], places[4], places[5]
    # the cores of a dim in [low, high) are alike, the others are kinds of their own
    at[:] = 0
    for d in range(NUM_DIMS):
        low[d], high[d] = 0, 1
        if nest.cores[d] > 1:
            low[d], high[d] = clipped_range(problem, d, 0, problem.dims[d], nest.core_tile[d])
    slowest, slowest_prologue, prologues, held = -1, 0, 0, 0
    while True:
        count = 1
        for d in range(NUM_DIMS):
            first[d] = at[d] * nest.core_tile[d]
            extent[d] = min(nest.core_tile[d], problem.dims[d] - first[d])
            if low[d] == at[d] and at[d] < high[d]:
                count *= high[d] - low[d]
        core_times(problem, nest, first, extent, scratch, times)
        if times[CYCLES] > slowest:
            slowest, slowest_prologue = times[CYCLES], times[PROLOGUE]
        prologues += times[PROLOGUE] * count
        held += times[CHANNEL] * count
        d = NUM_DIMS - 1
        while d >= 0:
            at[d] = max(at[d] + 1, high[d]) if at[d] == low[d] else at[d] + 1
            if at[d] < nest.cores[d]:
                break
            at[d] = 0
            d -= 1
        if d < 0:
            break
    if nest.num_cores <= problem.channels:
        return slowest
    late_start = slowest + max(0, -(-prologues // problem.channels) - slowest_prologue)
    return max(late_start, problem.launch_cycles + -(-held // problem.channels))


@entry
def evaluate_rows(
    problems: NDArray[np.void],
    batch: MappingBatch,
    begin: int,
    end: int,
    nests: NDArray[np.void],
    scratch: Scratch,
    cycles: Ints,
    energies_pj: NDArray[np.float64],
) -> None:
    """Fills the last two arguments for the rows ``begin`` to ``end`` of a batch; ``nests`` is room for one record."""
    problem, nest = problems[0], nests[0]
    for row in range(begin, end):
        build_nest(problem, batch, row, nest)
        energies_pj[row] = energy_pj(problem, nest, scratch.tiles)
        cycles[row] = _contended_cycles(problem, nest, scratch)


__all__ = ["BatchCost", "evaluate_batch"]
