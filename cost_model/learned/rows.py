"""The columns of ``columns.feature_names`` of many mappings, compiled."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.learned.columns import LEAST_LOG2, MOST_ALIGNED, NO_LOOP_RANK
from cost_model.problem import I, Ints, O, Problem
from tvm_spm.jit import entry, small
from tvm_spm.space.mapping_batch import NO_DIM, NUM_DIMS, MappingBatch
from tvm_spm.space.tensors import axis_elems

DRAM_TILE, SPM_TILE, ARRAY_TILE, RF_TILE = 0, 1, 2, 3
"""Rows of ``Seen.tile``."""

DRAM_LOOPS, SPM_LOOPS = 0, 1
"""Rows of ``Seen.factors``."""


class MachineNumbers(NamedTuple):
    """What the columns need of an accelerator and is in no ``Problem``.

    Attributes:
        num_cores: Cores.
        num_pes: PEs of a core.
        spm_bytes: Capacity of SPM, all operands together.
        rf_bytes: Capacity of one RF.
        numbers: Logarithms of ``columns.ARCH_NUMBERS``.
    """

    num_cores: int
    num_pes: int
    spm_bytes: int
    rf_bytes: int
    numbers: NDArray[np.float64]


class Seen(NamedTuple):
    """Room for one mapping.

    Attributes:
        tile: int64 ``(4, 8)``.
        factors: int64 ``(2, 8)``: iterations of the loops over SPM tiles, and over array tiles.
        logs: float64 ``(2, 8)``: their logarithms.
        tally: float64 ``(5,)``, what is added up over operands.
    """

    tile: Ints
    factors: Ints
    logs: NDArray[np.float64]
    tally: NDArray[np.float64]


TRAFFIC, SPM_FILL, RF_FILL, FIRST_TILES, PORT = 0, 1, 2, 3, 4


_TABLE = np.log2(np.maximum(np.arange(4096), 2.0**LEAST_LOG2))


@small
def _log2(value: float) -> float:
    return math.log2(value) if value > 0 else LEAST_LOG2


@small
def _log2_whole(value: int) -> float:
    """The same, faster for small numbers."""
    return _TABLE[value] if 0 <= value < len(_TABLE) else _log2(value)


@small
def _alignment(num_bits: int) -> int:
    """Binary zeros at the end of a length in bytes; all of them for a length of 0."""
    if num_bits % 8 != 0:
        return 0
    rest, zeros = num_bits // 8, 0
    while zeros < MOST_ALIGNED and rest % 2 == 0:
        rest //= 2
        zeros += 1
    return zeros


@small
def _row_elems(problem: Problem, operand: int, tile: Ints) -> int:
    """Elements of the innermost axis that is longer than one."""
    axis = problem.axis_start[operand + 1] - 1
    while axis > problem.axis_start[operand]:
        elems = axis_elems(problem, axis, tile)
        if elems > 1:
            return elems
        axis -= 1
    return axis_elems(problem, axis, tile)


@small
def _run_log2(problem: Problem, operand: int, tile: Ints) -> float:
    """Logarithm of the elements of a tile that lie side by side in DRAM."""
    found = 0.0
    axis = problem.axis_start[operand + 1] - 1
    while axis >= problem.axis_start[operand]:
        spanned = min(axis_elems(problem, axis, tile), problem.axis_extent[axis])
        found += _log2_whole(spanned)
        if spanned < problem.axis_extent[axis]:
            break
        axis -= 1
    return found


@small
def _look(problem: Problem, batch: MappingBatch, row: int, seen: Seen) -> None:
    """Fill tiles and factors."""
    for d in range(NUM_DIMS):
        seen.tile[DRAM_TILE, d] = problem.dims[d]
        seen.tile[SPM_TILE, d] = batch.spm[row, d]
        seen.tile[RF_TILE, d] = batch.rf[row, d]
        seen.tile[ARRAY_TILE, d] = batch.rf[row, d] * batch.rows[row, d] * batch.cols[row, d]
        share = -(-problem.dims[d] // batch.cores[row, d])
        seen.factors[DRAM_LOOPS, d] = -(-share // batch.spm[row, d])
        seen.factors[SPM_LOOPS, d] = -(-batch.spm[row, d] // seen.tile[ARRAY_TILE, d])
        for level in (DRAM_LOOPS, SPM_LOOPS):
            seen.logs[level, d] = _log2_whole(seen.factors[level, d])


@small
def _inner(order: NDArray[np.int8], seen: Seen, level: int, relevant: int) -> tuple[float, float, bool]:
    """Iterations inside the innermost relevant loop of a level, their logarithm, and whether it has none."""
    reuse, log = 1.0, 0.0
    for at in range(NUM_DIMS - 1, -1, -1):
        dim = order[at]
        if dim != NO_DIM and seen.factors[level, dim] > 1:
            if relevant >> dim & 1:
                return reuse, log, False
            reuse *= seen.factors[level, dim]
            log += seen.logs[level, dim]
    return reuse, log, True


@small
def _ranks(order: NDArray[np.int8], factors: Ints, out: NDArray[np.float32]) -> None:
    """Per dim how many loops run inside its own at this level."""
    out[:NUM_DIMS] = NO_LOOP_RANK
    inside = 0
    for at in range(NUM_DIMS - 1, -1, -1):
        dim = order[at]
        if dim != NO_DIM and factors[dim] > 1:
            out[dim] = inside
            inside += 1


@small
def _product(values: Ints) -> float:
    found = 1.0
    for value in values:
        found *= value
    return found


@small
def _tile(problem: Problem, operand: int, tile: Ints) -> tuple[float, float]:
    """Elements of a tile, and their logarithm."""
    elems, log = 1.0, 0.0
    for axis in range(problem.axis_start[operand], problem.axis_start[operand + 1]):
        spanned = axis_elems(problem, axis, tile)
        elems *= spanned
        log += _log2_whole(spanned)
    return elems, log


@small
def _operand(
    problem: Problem, batch: MappingBatch, row: int, seen: Seen, operand: int, out: NDArray[np.float32]
) -> int:
    """Columns of one operand; returns how many."""
    relevant, bits = problem.relevant[operand], problem.elem_bits[operand]
    in_spm, log_in_spm, has_none = _inner(batch.spm_order[row], seen, SPM_LOOPS, relevant)
    in_dram, log_in_dram, _ = _inner(batch.dram_order[row], seen, DRAM_LOOPS, relevant)
    spm_fetches, rf_fetches = seen.logs[DRAM_LOOPS].sum() - log_in_dram, -log_in_spm
    rf_fetches += seen.logs[DRAM_LOOPS].sum() + seen.logs[SPM_LOOPS].sum() - (log_in_dram if has_none else 0.0)
    passes, steps = _product(seen.factors[DRAM_LOOPS]), _product(seen.factors[SPM_LOOPS])
    spm_doubled, rf_doubled = batch.spm_double[row] >> operand & 1, batch.rf_double[row] >> operand & 1
    width = _log2_whole(bits) - 3
    held, log_held = _tile(problem, operand, seen.tile[SPM_TILE])
    in_array, log_in_array = _tile(problem, operand, seen.tile[ARRAY_TILE])
    in_rf, log_in_rf = _tile(problem, operand, seen.tile[RF_TILE])
    traffic = held * bits / 8 * passes / in_dram * _product(batch.cores[row])
    seen.tally[TRAFFIC] += traffic
    seen.tally[SPM_FILL] += (1 + spm_doubled) * held * bits / 8
    if operand != O:
        seen.tally[FIRST_TILES] += held * bits / 8
    seen.tally[PORT] += in_array * bits / 8 * passes * steps / (in_spm * (in_dram if has_none else 1.0))
    seen.tally[RF_FILL] += (1 + rf_doubled) * in_rf * bits / 8
    out[0], out[1], out[2] = log_held + width, log_in_array + width, log_in_rf + width
    out[3], out[4], out[5], out[6] = spm_fetches, rf_fetches, log_in_dram, log_in_spm
    out[7], out[8], out[9] = 1 + spm_doubled, 1 + rf_doubled, _log2(traffic)
    c = 10
    run = _run_log2(problem, operand, seen.tile[SPM_TILE])
    out[c], out[c + 1] = run + width, log_held - run
    c += 2
    out[c] = _alignment(problem.axis_extent[problem.axis_start[operand + 1] - 1] * bits)
    out[c + 1] = _alignment(_row_elems(problem, operand, seen.tile[SPM_TILE]) * bits)
    out[c + 2] = _alignment(_row_elems(problem, operand, seen.tile[ARRAY_TILE]) * bits)
    return c + 3


@small
def _whole(
    problem: Problem, machine: MachineNumbers, batch: MappingBatch, row: int, seen: Seen, out: NDArray[np.float32]
) -> int:
    """Columns of the whole mapping and of the machine; returns how many."""
    busy, reducing, own_inputs = 1.0, 1.0, 1.0
    for d in range(NUM_DIMS):
        unrolled = batch.rows[row, d] * batch.cols[row, d]
        busy *= unrolled * batch.cores[row, d]
        if problem.is_reduction[d]:
            reducing *= unrolled
        if problem.relevant[I] >> d & 1:
            own_inputs *= batch.spm[row, d]
    num_cores = _product(batch.cores[row])
    out[0], out[1] = _log2(problem.macs), _log2(problem.macs / seen.tally[TRAFFIC])
    out[2], out[3] = _log2(busy), busy / (machine.num_pes * machine.num_cores)
    out[4], out[5] = seen.tally[SPM_FILL] / machine.spm_bytes, seen.tally[RF_FILL] / machine.rf_bytes
    out[6], out[7] = batch.spill[row], _log2(reducing)
    out[8] = _tile(problem, I, seen.tile[SPM_TILE])[1] - _log2(own_inputs)
    out[9], out[10] = seen.logs[DRAM_LOOPS].sum(), seen.logs[SPM_LOOPS].sum()
    out[11], out[12] = _log2(_product(batch.rf[row])), _log2(num_cores / problem.dram_channels)
    c = 13
    for number in machine.numbers:
        out[c] = number
        c += 1
    return c


@small
def _estimated(
    problem: Problem, machine: MachineNumbers, batch: MappingBatch, row: int, seen: Seen,
    predicted: tuple[float, float], out: NDArray[np.float32],
) -> None:  # fmt: skip
    """Columns that need the prediction of another model: cycles and pJ."""
    cycles, energy_pj = predicted
    rate = problem.dma_bytes_per_cycle
    out[0], out[1] = _log2(cycles), _log2(energy_pj)
    out[2] = _log2(cycles * machine.num_pes * machine.num_cores / problem.macs)
    out[3] = seen.tally[TRAFFIC] / (rate * problem.dram_channels) / cycles
    out[4] = seen.tally[FIRST_TILES] * _product(batch.cores[row]) / (rate * problem.dram_channels) / cycles
    out[5] = _log2(seen.tally[PORT] / cycles)


@entry
def feature_rows(
    problems: NDArray[np.void], machine: MachineNumbers, batch: MappingBatch, begin: int,
    estimate: tuple[NDArray[np.float64], NDArray[np.float64]], out: NDArray[np.float32],
) -> None:  # fmt: skip
    """A row of ``out`` each for mapping ``begin`` and those that follow; columns of an estimate if there is one."""
    problem = problems[0]
    seen = Seen(
        np.zeros((4, NUM_DIMS), dtype=np.int64),
        np.zeros((2, NUM_DIMS), dtype=np.int64),
        np.zeros((2, NUM_DIMS)),
        np.zeros(5),
    )
    for row in range(begin, begin + len(out)):
        _look(problem, batch, row, seen)
        seen.tally[:] = 0
        line = out[row - begin]
        for d in range(NUM_DIMS):
            line[d], line[NUM_DIMS + d] = _log2_whole(problem.dims[d]), _log2_whole(batch.spm[row, d])
            line[2 * NUM_DIMS + d] = _log2_whole(batch.rf[row, d])
            line[3 * NUM_DIMS + d] = _log2_whole(batch.cores[row, d])
            line[4 * NUM_DIMS + d], line[5 * NUM_DIMS + d] = seen.logs[DRAM_LOOPS, d], seen.logs[SPM_LOOPS, d]
            line[6 * NUM_DIMS + d] = _log2_whole(batch.rows[row, d])
            line[7 * NUM_DIMS + d] = _log2_whole(batch.cols[row, d])
        c = 8 * NUM_DIMS
        _ranks(batch.dram_order[row], seen.factors[DRAM_LOOPS], line[c:])
        _ranks(batch.spm_order[row], seen.factors[SPM_LOOPS], line[c + NUM_DIMS :])
        c += 2 * NUM_DIMS
        for operand in range(O + 1):
            c += _operand(problem, batch, row, seen, operand, line[c:])
        c += _whole(problem, machine, batch, row, seen, line[c:])
        if len(estimate[0]) > 0:
            _estimated(problem, machine, batch, row, seen, (estimate[0][row], estimate[1][row]), line[c:])
