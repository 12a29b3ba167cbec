"""Whether mappings satisfy constraints, many at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tvm_spm.jit import entry, lean
from tvm_spm.space.constraints import BUFFER_LEVELS, FACTOR_LEVELS, LOOP_LEVELS, UNLIMITED, Bound, Constraints
from tvm_spm.space.mapping_batch import NO_DIM, NUM_DIMS, MappingBatch
from tvm_spm.workload import DIM_NAMES, Workload

CORES, DRAM, SPM, ROWS, COLS, RF = range(len(FACTOR_LEVELS))
ANY_BUFFERS = -1


class Rules(NamedTuple):
    """Constraints on one workload as arrays.

    ``low`` and ``high`` are (``FACTOR_LEVELS``, dim); ``outside`` is (``LOOP_LEVELS``, dim, dim): the loop over the
    first dim runs outside that over the second; ``double`` has the operands' bits per ``BUFFER_LEVELS``.
    """

    extents: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    outside: NDArray[np.bool_]
    double: NDArray[np.int64]


def rules_of(constraints: Constraints, workload: Workload, further: Iterable[Bound] = ()) -> Rules:
    """The arrays for one workload.

    Args:
        constraints: What must hold.
        workload: Its extents decide what a dataflow asks for.
        further: More limits.
    """
    low = np.ones((len(FACTOR_LEVELS), NUM_DIMS), dtype=np.int64)
    high = np.full_like(low, UNLIMITED)
    for level, dim, least, most in (*constraints.bounds(workload.dims), *further):
        at = FACTOR_LEVELS.index(level), DIM_NAMES.index(dim)
        low[at], high[at] = max(low[at], least), min(high[at], most)
    outside = np.zeros((len(LOOP_LEVELS), NUM_DIMS, NUM_DIMS), dtype=np.bool_)
    for level, outer, inner in constraints.loop_pairs():
        outside[LOOP_LEVELS.index(level), DIM_NAMES.index(outer), DIM_NAMES.index(inner)] = True
    double = np.full(len(BUFFER_LEVELS), ANY_BUFFERS, dtype=np.int64)
    for index, level in enumerate(BUFFER_LEVELS):
        operands = constraints.double_buffers(level)
        if operands is not None:
            double[index] = sum(1 << operand.value for operand in operands)
    return Rules(np.array(workload.dims.as_tuple(), dtype=np.int64), low, high, outside, double)


def allows_rows(rules: Rules, batch: MappingBatch) -> NDArray[np.bool_]:
    """Per row whether it satisfies every clause; says nothing about legality."""
    allowed = np.empty(batch.num_mappings, dtype=np.bool_)
    loops, numbers = np.empty((2, NUM_DIMS), dtype=np.bool_), np.empty(len(FACTOR_LEVELS), dtype=np.int64)
    _allows_rows(rules, batch, loops, numbers, allowed)
    return allowed


@lean
def _is_ordered(outside: NDArray[np.bool_], order: NDArray[np.int8], is_loop: NDArray[np.bool_]) -> bool:
    for i in range(NUM_DIMS):
        if order[i] == NO_DIM:
            return True
        for j in range(i):
            if is_loop[order[i]] and is_loop[order[j]] and outside[order[i], order[j]]:
                return False
    return True


@lean
def _allows(rules: Rules, batch: MappingBatch, row: int, loops: NDArray[np.bool_], numbers: NDArray[np.int64]) -> bool:
    for d in range(NUM_DIMS):
        numbers[CORES], numbers[SPM], numbers[RF] = batch.cores[row, d], batch.spm[row, d], batch.rf[row, d]
        numbers[ROWS], numbers[COLS] = batch.rows[row, d], batch.cols[row, d]
        core_tile = -(-rules.extents[d] // numbers[CORES])
        numbers[DRAM] = -(-core_tile // numbers[SPM])
        for level in range(6):
            if not rules.low[level, d] <= numbers[level] <= rules.high[level, d]:
                return False
        loops[0, d] = numbers[DRAM] > 1
        loops[1, d] = numbers[SPM] > numbers[RF] * numbers[ROWS] * numbers[COLS]
    if rules.double[0] != ANY_BUFFERS and rules.double[0] != batch.spm_double[row]:
        return False
    if rules.double[1] != ANY_BUFFERS and rules.double[1] != batch.rf_double[row]:
        return False
    return _is_ordered(rules.outside[0], batch.dram_order[row], loops[0]) and _is_ordered(
        rules.outside[1], batch.spm_order[row], loops[1]
    )


@entry
def _allows_rows(
    rules: Rules,
    batch: MappingBatch,
    loops: NDArray[np.bool_],
    numbers: NDArray[np.int64],
    allowed: NDArray[np.bool_],
) -> None:
    for row in range(allowed.shape[0]):
        allowed[row] = _allows(rules, batch, row, loops, numbers)
