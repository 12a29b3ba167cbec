"""Cycles of several cores of one mapping: see ``cost_model.analytical.model``."""

from __future__ import annotations

import numpy as np

from tvm_spm.exact.pass_time import I, Ints, O, W
from tvm_spm.exact.problem import Problem
from tvm_spm.exact.timeline import fill_runs, fill_table, passes_cycles, store_cycles, tensor_cycles, transfer_cycles
from tvm_spm.jit import part
from tvm_spm.space.mapping_batch import NUM_DIMS


@part
def contended_cycles(
    problem: Problem,
    cores: Ints,
    tile: Ints,
    order: Ints,
    num_loops: int,
    double: int,
    repeats: Ints,
    times: Ints,
    runs: Ints,
) -> int:
    """Cycles until the last core is done.

    Args:
        problem: What is searched.
        cores: Factors across cores.
        tile: Elements in SPM.
        order: Dims of the DRAM loops that iterate, outer to inner.
        num_loops: Entries of ``order`` in use.
        double: Bits of the operands with two SPM buffers.
        repeats: How often all cores together load I and W.
        times: Cycles of a pass by its flags.
        runs: Scratch of 8 rows.
    """
    workload, arch = problem.workload, problem.arch
    core_tile = workload.dims // cores
    table = np.empty((4, 64), dtype=np.int64)
    starts, num_runs = np.zeros((NUM_DIMS, arch.num_cores + 2), dtype=np.int64), np.ones(NUM_DIMS, dtype=np.int64)
    digit, first, last = np.zeros(NUM_DIMS, np.int64), np.zeros(NUM_DIMS, np.int64), np.zeros(NUM_DIMS, np.int64)
    own_repeats = repeats.copy()
    for d in range(NUM_DIMS):
        num_runs[d] = fill_runs(workload, problem.is_clipped, d, 0, workload.dims[d], core_tile[d], starts[d])
        for operand in range(2):
            if not workload.is_relevant[operand, d]:
                own_repeats[operand] //= cores[d]
    slowest, slowest_prologue, prologues, held = -1, 0, 0, 0
    while True:
        count = 1
        for d in range(NUM_DIMS):
            first[d] = starts[d, digit[d]] * core_tile[d]
            last[d] = first[d] + core_tile[d] - tile[d]
            count *= starts[d, digit[d] + 1] - starts[d, digit[d]]
        prologue = transfer_cycles(workload, arch, I, workload.elem_bits[I], first, tile)
        prologue += transfer_cycles(workload, arch, W, workload.elem_bits[W], first, tile)
        entries = fill_table(
            workload, arch, problem.is_clipped, first, core_tile, tile, order, num_loops, double, runs, table
        )
        while entries < 0:
            table = np.empty((4, 2 * table.shape[1]), dtype=np.int64)
            entries = fill_table(
                workload, arch, problem.is_clipped, first, core_tile, tile, order, num_loops, double, runs, table
            )
        cycles = arch.launch_cycles + prologue + passes_cycles(table, entries, times)
        if double >> O & 1:
            cycles += store_cycles(workload, arch, last, tile)[1]
        channel = tensor_cycles(workload, arch, problem.is_clipped, O, first, core_tile, tile, runs, 0)
        for operand in range(2):
            once = tensor_cycles(workload, arch, problem.is_clipped, operand, first, core_tile, tile, runs, 0)
            channel += own_repeats[operand] * once
        if cycles > slowest:
            slowest, slowest_prologue = cycles, prologue
        prologues += count * prologue
        held += count * channel
        d = NUM_DIMS - 1
        while d >= 0:
            digit[d] += 1
            if digit[d] < num_runs[d]:
                break
            digit[d] = 0
            d -= 1
        if d < 0:
            break
    num_cores = 1
    for d in range(NUM_DIMS):
        num_cores *= cores[d]
    if num_cores <= arch.dram_channels:
        return slowest
    late_start = slowest + max(0, -(-prologues // arch.dram_channels) - slowest_prologue)
    return max(late_start, arch.launch_cycles + -(-held // arch.dram_channels))
