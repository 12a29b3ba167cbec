"""How the array runs one stage: unrolling, RF tile, order and buffers of least cycles, energy or their product.

Of all unrollings over at most two dims per axis of the array, those with the fewest serial iterations are grown
greedily into RF tiles, once for each operand that the innermost loops keep; the pass of each result is counted exactly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cost_model.fused.flat import Ints
from cost_model.fused.passes import record_pass
from cost_model.simulator.pe_array import CROSSED, DELIVERED, LEFT_ELEMS, PASS_CYCLES, PASS_FIELDS
from cost_model.simulator.state import Nest, O, Problem, Tensors
from tvm_spm.jit import kernel, part
from tvm_spm.space.mapping_batch import NUM_DIMS

NUM_UNROLLINGS = 5
"""Unrollings that are grown."""

INNER_ROWS, INNER_COLS, INNER_RF, INNER_ORDER, INNER_DOUBLE, INNER_FIELDS = 0, 8, 16, 24, 32, 33
"""Columns of a choice: factors, tile, order (outer to inner, then -1) and bits of the double-buffered operands."""

LATENCY, ENERGY, EDP = range(3)

CROSS_PJ, DELIVER_PJ, HOP_PJ, MAC_PJ, PRICES = 0, 3, 6, 7, 8
"""Entries of the prices: per element of I W O that crosses or is delivered, per element and hop, per MAC."""

_ORDERS = np.array(
    [
        [0, 1, 2, 4, 5, 3, 6, 7],  # sums innermost: outputs stay
        [0, 1, 2, 3, 6, 7, 4, 5],  # outputs innermost: weights stay
        [0, 1, 4, 5, 3, 6, 7, 2],  # output channels innermost: inputs stay
    ],
    dtype=np.int64,
)


@kernel
def _balanced(extent: int, most: int) -> int:
    """Largest factor up to ``most`` that leaves no smaller one with as few iterations."""
    rounds = -(-extent // most)
    return -(-extent // rounds)


@kernel
def _axis_options(dims: Ints, most: int, options: Ints) -> int:
    """Factors along one axis of the array, over one or two dims."""
    num = 0
    for d in range(NUM_DIMS):
        if dims[d] < 2:
            continue
        first = _balanced(dims[d], min(dims[d], most))
        while first > 1:
            for e in range(d, NUM_DIMS):
                second = 1
                if e > d:
                    if dims[e] < 2 or most // first < 2:
                        continue
                    second = _balanced(dims[e], min(dims[e], most // first))
                if num == len(options) or second * first * 4 < most and first * second < dims[d]:
                    continue
                options[num] = 1
                options[num, d] = first
                options[num, e] *= second
                num += 1
            first = _balanced(dims[d], first - 1)
    if num < len(options):
        options[num] = 1
        num += 1
    return num


@kernel
def _tile_elems(tensors: Tensors, operand: int, size: Ints) -> int:
    elems = 1
    for axis in range(tensors.spans[operand, 0], tensors.spans[operand, 1]):
        along = 1
        for term in range(3, 3 + 2 * tensors.axes[axis, 2], 2):
            along += tensors.axes[axis, term + 1] * (size[tensors.axes[axis, term]] - 1)
        elems *= along
    return elems


@kernel
def _list_unrollings(
    problem: Problem, tensors: Tensors, dims: Ints, row_options: Ints, num_rows: int, col_options: Ints, num_cols: int,
    found: Ints, scores: NDArray[np.float64],
) -> int:  # fmt: skip
    """Keep the unrollings with the fewest iterations, of equal ones those that need the least words."""
    num = 0
    size = np.empty(NUM_DIMS, np.int64)
    for r in range(num_rows):
        for c in range(num_cols):
            serial, hop_rows, hop_cols, is_idle = 1.0, 1, 1, False
            for d in range(NUM_DIMS):
                size[d] = row_options[r, d] * col_options[c, d]
                if size[d] > dims[d] or -(-dims[d] // -(-dims[d] // size[d])) != size[d]:
                    is_idle = True
                    break
                serial *= -(-dims[d] // size[d])
                if problem.is_reduction[d]:
                    hop_rows *= row_options[r, d]
                    hop_cols *= col_options[c, d]
            if is_idle or (num == NUM_UNROLLINGS and serial > scores[num - 1]):
                continue
            words = 0
            for operand in range(3):
                words += _tile_elems(tensors, operand, size)
            score = serial * (1.0 + 1e-5 * (words + hop_rows + hop_cols))
            if num == NUM_UNROLLINGS and score >= scores[num - 1]:
                continue
            is_known = False
            for other in range(num):
                same = True
                for d in range(NUM_DIMS):
                    if found[other, 0, d] * found[other, 1, d] != size[d]:
                        same = False
                        break
                is_known = is_known or (same and scores[other] <= score)
            if is_known:
                continue
            at = num if num < NUM_UNROLLINGS else num - 1
            num = min(num + 1, NUM_UNROLLINGS)
            while at > 0 and scores[at - 1] > score:
                scores[at] = scores[at - 1]
                found[at] = found[at - 1]
                at -= 1
            scores[at] = score
            found[at, 0] = row_options[r]
            found[at, 1] = col_options[c]
    return num


@kernel
def _estimate(
    problem: Problem, tensors: Tensors, dims: Ints, pes: Ints, rf: Ints, order: Ints, is_double: bool,
    prices: NDArray[np.float64], objective: int, size: Ints,
) -> float:  # fmt: skip
    """Roughly what a choice costs, to grow tiles by."""
    steps, macs, active = 1.0, 1.0, 1.0
    for d in range(NUM_DIMS):
        size[d] = min(dims[d], pes[d] * rf[d])
        macs *= min(rf[d], dims[d])
        steps *= -(-dims[d] // size[d])
        active *= -(-size[d] // rf[d])
    cycles, energy_pj, longest, total = steps * macs, 0.0, 0.0, 0.0
    num_bytes = 0.0
    for operand in range(3):
        visits, outside, reads = 1.0, 1.0, 1.0
        for place in range(NUM_DIMS):
            d = order[place]
            rounds = -(-dims[d] // size[d])
            outside *= rounds
            if rounds > 1 and problem.is_relevant[operand, d]:
                visits = outside
        elems = _tile_elems(tensors, operand, size)
        if operand == O:
            for d in range(NUM_DIMS):
                if problem.is_relevant[O, d]:
                    reads *= -(-dims[d] // size[d])
            visits = 2 * visits - reads
        crossing = visits * elems
        moving = crossing / problem.noc_elems_per_cycle
        num_bytes += crossing * tensors.spans[operand, 2] / 8
        longest = max(longest, moving)
        total += moving
        heard = crossing if operand == O else visits * active * _tile_elems(tensors, operand, rf)
        energy_pj += crossing * prices[CROSS_PJ + operand] + heard * prices[DELIVER_PJ + operand]
    if problem.port_bytes_per_cycle > 0:
        longest = max(longest, num_bytes / problem.port_bytes_per_cycle)
    cycles = max(cycles, longest) if is_double else cycles + longest
    cycles += 0.01 * total
    if objective == LATENCY:
        return cycles
    work = 1.0
    for d in range(NUM_DIMS):
        work *= dims[d]
    energy_pj += work * prices[MAC_PJ]
    return energy_pj if objective == ENERGY else cycles * energy_pj


@kernel
def _fits(tensors: Tensors, rf: Ints, double: int, capacity_bytes: int) -> bool:
    num_bytes = 0
    for operand in range(3):
        one = (_tile_elems(tensors, operand, rf) * tensors.spans[operand, 2] + 7) >> 3
        num_bytes += one * (2 if double >> operand & 1 else 1)
    return num_bytes <= capacity_bytes


@kernel
def _grow(
    problem: Problem, tensors: Tensors, dims: Ints, pes: Ints, order: Ints, double: int, capacity_bytes: int,
    prices: NDArray[np.float64], objective: int, rf: Ints, size: Ints,
) -> bool:  # fmt: skip
    """Grow the RF tile dim by dim, each time by what helps most; False if not even one element fits."""
    for d in range(NUM_DIMS):
        rf[d] = 1
    if not _fits(tensors, rf, double, capacity_bytes):
        return False
    best = _estimate(problem, tensors, dims, pes, rf, order, double != 0, prices, objective, size)
    while True:
        chosen, tile, least = -1, 0, best
        for d in range(NUM_DIMS):
            share = -(-dims[d] // pes[d])
            if rf[d] >= share:
                continue
            old = rf[d]
            for attempt in range(2):
                rounds = -(-share // old)
                rf[d] = share if attempt == 1 else -(-share // max(1, rounds - 1 if rounds < 4 else rounds // 2))
                if (attempt == 0 or rf[d] > 2 * old) and _fits(tensors, rf, double, capacity_bytes):
                    found = _estimate(problem, tensors, dims, pes, rf, order, double != 0, prices, objective, size)
                    if found < least:
                        chosen, tile, least = d, rf[d], found
            rf[d] = old
        if chosen < 0:
            return True
        rf[chosen], best = tile, least


@kernel
def _set_nest(problem: Problem, dims: Ints, pair: Ints, rf: Ints, order: Ints, double: int, nest: Nest) -> None:
    """The nest of one pass."""
    red_rows, red_cols, num_loops = 1, 1, 0
    for d in range(NUM_DIMS):
        nest.cores[d], nest.core_tile[d], nest.spm[d], nest.rf[d] = 1, dims[d], dims[d], rf[d]
        nest.array[d] = rf[d] * pair[0, d] * pair[1, d]
        if problem.is_reduction[d]:
            red_rows *= pair[0, d]
            red_cols *= pair[1, d]
    nest.hop_cycles = red_rows - 1 + red_cols - 1
    for place in range(NUM_DIMS):
        d = order[place]
        if dims[d] > nest.array[d]:
            nest.loops[num_loops] = d
            num_loops += 1
    nest.num_dram_loops, nest.num_loops, nest.fold = 0, num_loops, 1
    for operand in range(3):
        nest.spm_position[operand] = nest.rf_position[operand] = -1
        for loop in range(num_loops):
            if problem.is_relevant[operand, nest.loops[loop]]:
                nest.rf_position[operand] = loop
        nest.spm_double[operand] = 0
        nest.rf_double[operand] = double >> operand & 1


@kernel
def pass_pj(record: Ints, prices: NDArray[np.float64], macs: int, reduction_pes: int) -> float:
    """Energy of a pass."""
    energy_pj = macs * prices[MAC_PJ] + record[LEFT_ELEMS] * (reduction_pes - 1) * prices[HOP_PJ]
    for operand in range(3):
        energy_pj += record[CROSSED + operand] * prices[CROSS_PJ + operand]
        energy_pj += record[DELIVERED + operand] * prices[DELIVER_PJ + operand]
    return energy_pj


@part
def choose_inner(
    problem: Problem, tensors: Tensors, pe_rows: int, pe_cols: int, rf_bytes: int,
    prices: NDArray[np.float64], objective: int, nest: Nest, dims: Ints, choices: Ints,
) -> None:  # fmt: skip
    """Fill one choice per row of ``dims``; ``nest`` is overwritten."""
    row_options = np.empty((48, NUM_DIMS), np.int64)
    col_options = np.empty((48, NUM_DIMS), np.int64)
    found = np.empty((NUM_UNROLLINGS, 2, NUM_DIMS), np.int64)
    scores = np.empty(NUM_UNROLLINGS, np.float64)
    rf = np.empty(NUM_DIMS, np.int64)
    size = np.empty(NUM_DIMS, np.int64)
    pes = np.empty(NUM_DIMS, np.int64)
    record = np.empty(PASS_FIELDS, np.int64)
    for row in range(len(dims)):
        num_rows = _axis_options(dims[row], pe_rows, row_options)
        num_cols = _axis_options(dims[row], pe_cols, col_options)
        num = _list_unrollings(problem, tensors, dims[row], row_options, num_rows, col_options, num_cols, found, scores)
        best, macs = np.inf, 1
        for d in range(NUM_DIMS):
            macs *= dims[row, d]
        choices[row] = -1
        for unrolling in range(num):
            reduction_pes = 1
            for d in range(NUM_DIMS):
                pes[d] = found[unrolling, 0, d] * found[unrolling, 1, d]
                if problem.is_reduction[d]:
                    reduction_pes *= pes[d]
            for kept in range(3):
                for double in (7, 0):
                    order = _ORDERS[kept]
                    if not _grow(
                        problem, tensors, dims[row], pes, order, double, rf_bytes, prices, objective, rf, size
                    ):
                        continue
                    _set_nest(problem, dims[row], found[unrolling], rf, order, double, nest)
                    record_pass(problem, tensors, nest, dims[row], record)
                    value = float(record[PASS_CYCLES])
                    if objective != LATENCY:
                        energy_pj = pass_pj(record, prices, macs, reduction_pes)
                        value = energy_pj if objective == ENERGY else value * energy_pj
                    if value < best:
                        best = value
                        choice, num_loops = choices[row], 0
                        for d in range(NUM_DIMS):
                            choice[INNER_ROWS + d] = found[unrolling, 0, d]
                            choice[INNER_COLS + d] = found[unrolling, 1, d]
                            choice[INNER_RF + d] = rf[d]
                            choice[INNER_ORDER + d] = -1
                        for loop in range(nest.num_loops):
                            choice[INNER_ORDER + num_loops] = nest.loops[loop]
                            num_loops += 1
                        choice[INNER_DOUBLE] = double
