"""Ways to run one stage on the array: of all unrollings over at most two dims per axis of the array, those with the
fewest serial iterations are grown greedily into RF tiles, once for each operand that the innermost loops keep, with one
buffer and with two. The formula then prices the passes (``passes``); here they are only estimated.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.fused.energy import CROSS_PJ, DELIVER_PJ, MAC_PJ
from cost_model.fused.flat import Ints
from cost_model.objective import objective_value
from cost_model.problem import O, Problem
from tvm_spm.jit import entry, lean
from tvm_spm.objective import LATENCY
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.space.tensors import tile_elems

NUM_UNROLLINGS = 5
"""UnrollingRoom that are grown."""

MOST_WAYS = NUM_UNROLLINGS * 6
"""Three operands may be kept, with one buffer and with two."""

ROWS, COLS, RF, ORDER, DOUBLE, WAY_FIELDS = 0, 8, 16, 24, 32, 33
"""Columns of a way: factors, tile, order (outer to inner, then -1) and bits of the double-buffered operands."""

_MOST_OPTIONS = 48
"""Factors along one axis of the array."""

_ORDERS = np.array(
    [
        [0, 1, 2, 4, 5, 3, 6, 7],  # sums innermost: outputs stay
        [0, 1, 2, 3, 6, 7, 4, 5],  # outputs innermost: weights stay
        [0, 1, 4, 5, 3, 6, 7, 2],  # output channels innermost: inputs stay
    ],
    dtype=np.int64,
)


class Aim(NamedTuple):
    """What ways are grown for: an array, the price of events on it, and the code of an objective."""

    pe_rows: int
    pe_cols: int
    rf_bytes: int
    prices: NDArray[np.float64]
    objective: int


class Growth(NamedTuple):
    """A way in the making: PEs and RF tile per dim, room for a tile of the array and the rounds it takes; order and
    buffers."""

    pes: Ints
    rf: Ints
    size: Ints
    rounds: Ints
    order: Ints
    double: int


class UnrollingRoom(NamedTuple):
    """Room for factors along rows and along columns with the PEs of each, and for pairs of them by rising score."""

    options: Ints
    busy: NDArray[np.float64]
    pairs: Ints
    scores: NDArray[np.float64]


def empty_unrolling_room() -> UnrollingRoom:
    """Room for one stage at a time."""
    return UnrollingRoom(
        np.zeros((2, _MOST_OPTIONS, NUM_DIMS), np.int64), np.zeros((2, _MOST_OPTIONS)),
        np.zeros((NUM_UNROLLINGS, 2, NUM_DIMS), np.int64), np.zeros(NUM_UNROLLINGS),
    )  # fmt: skip


@lean
def _balanced(extent: int, most: int) -> int:
    """Largest factor up to ``most`` that leaves no smaller one with as few iterations."""
    rounds = -(-extent // most)
    return -(-extent // rounds)


@lean
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
                for other in range(NUM_DIMS):
                    options[num, other] = 1
                options[num, d] = first
                options[num, e] *= second
                num += 1
            first = _balanced(dims[d], first - 1)
    if num < len(options):
        for d in range(NUM_DIMS):
            options[num, d] = 1
        num += 1
    return num


@lean
def _count_busy(options: Ints, num: int, busy: NDArray[np.float64]) -> None:
    for option in range(num):
        busy[option] = 1.0
        for d in range(NUM_DIMS):
            busy[option] *= options[option, d]


@lean
def _list_unrollings(problem: Problem, aim: Aim, dims: Ints, room: UnrollingRoom, size: Ints) -> int:
    """Keep the unrollings with the fewest iterations, of equal ones those that need the least words."""
    rows, cols, pairs, scores = room.options[0], room.options[1], room.pairs, room.scores
    busy_rows, busy_cols, least = room.busy[0], room.busy[1], 1.0 - 1e-9
    num_rows, num_cols, num = _axis_options(dims, aim.pe_rows, rows), _axis_options(dims, aim.pe_cols, cols), 0
    for d in range(NUM_DIMS):
        least *= dims[d]
    _count_busy(rows, num_rows, busy_rows)
    _count_busy(cols, num_cols, busy_cols)
    for r in range(num_rows):
        for c in range(num_cols):
            # no fewer iterations than if every PE were busy all the time
            if num == NUM_UNROLLINGS and least / (busy_rows[r] * busy_cols[c]) > scores[num - 1]:
                continue
            serial, hop_rows, hop_cols, is_idle = 1.0, 1, 1, False
            for d in range(NUM_DIMS):
                size[d] = rows[r, d] * cols[c, d]
                if size[d] > dims[d] or -(-dims[d] // -(-dims[d] // size[d])) != size[d]:
                    is_idle = True
                    break
                serial *= -(-dims[d] // size[d])
                if problem.is_reduction[d] == 1:
                    hop_rows *= rows[r, d]
                    hop_cols *= cols[c, d]
            if is_idle or (num == NUM_UNROLLINGS and serial > scores[num - 1]):
                continue
            words = 0
            for operand in range(3):
                words += tile_elems(problem, operand, size)
            score = serial * (1.0 + 1e-5 * (words + hop_rows + hop_cols))
            if num == NUM_UNROLLINGS and score >= scores[num - 1]:
                continue
            is_known = False
            for other in range(num):
                same = True
                for d in range(NUM_DIMS):
                    if pairs[other, 0, d] * pairs[other, 1, d] != size[d]:
                        same = False
                        break
                is_known = is_known or (same and scores[other] <= score)
            if is_known:
                continue
            at = num if num < NUM_UNROLLINGS else num - 1
            num = min(num + 1, NUM_UNROLLINGS)
            while at > 0 and scores[at - 1] > score:
                scores[at] = scores[at - 1]
                for d in range(NUM_DIMS):
                    pairs[at, 0, d], pairs[at, 1, d] = pairs[at - 1, 0, d], pairs[at - 1, 1, d]
                at -= 1
            scores[at] = score
            for d in range(NUM_DIMS):
                pairs[at, 0, d], pairs[at, 1, d] = rows[r, d], cols[c, d]
    return num


@lean
def _estimate(problem: Problem, aim: Aim, dims: Ints, way: Growth) -> float:
    """Roughly what a way costs, to grow tiles by; the pass of what has grown is priced by the formula.

    Of the step of the formula (``_slot_cycles``) it takes ``max(compute, networks)`` with two buffers, or the sum, but
    once for the whole pass instead of step by step, with all array tiles full, each operand coming in as often as the
    loops outside it say. Fill and drain, hops and smaller last tiles are left out: they hardly change from one RF tile
    to the next, and a wrong choice costs a better mapping, never a wrong number. A hundredth of all moves is added so
    that, where computing hides them, tiles still grow to move less.
    """
    rf, size, rounds_of = way.rf, way.size, way.rounds
    steps, macs, active = 1.0, 1.0, 1.0
    for d in range(NUM_DIMS):
        size[d] = min(dims[d], way.pes[d] * rf[d])
        macs *= min(rf[d], dims[d])
        rounds_of[d] = -(-dims[d] // size[d])
        steps *= rounds_of[d]
        active *= -(-size[d] // rf[d])
    cycles, energy_pj, longest, total = steps * macs, 0.0, 0.0, 0.0
    for operand in range(3):
        visits, outside, reads, relevant = 1.0, 1.0, 1.0, problem.relevant[operand]
        for place in range(NUM_DIMS):
            d = way.order[place]
            outside *= rounds_of[d]
            if rounds_of[d] > 1 and relevant >> d & 1:
                visits = outside
        elems = tile_elems(problem, operand, size)
        if operand == O:
            for d in range(NUM_DIMS):
                if relevant >> d & 1:
                    reads *= rounds_of[d]
            visits = 2 * visits - reads
        crossing = visits * elems
        moving = crossing / problem.noc_elems_per_cycle
        if problem.spm_bytes_per_cycle > 0:
            moving = max(moving, crossing * problem.elem_bits[operand] / 8 / problem.spm_bytes_per_cycle)
        longest = max(longest, moving)
        total += moving
        heard = crossing if operand == O else visits * active * tile_elems(problem, operand, rf)
        energy_pj += crossing * aim.prices[CROSS_PJ + operand] + heard * aim.prices[DELIVER_PJ + operand]
    if problem.spm_bytes_per_cycle > 0:
        # one network after the other
        longest = total
    cycles = max(cycles, longest) if way.double != 0 else cycles + longest
    cycles += 0.01 * total
    if aim.objective == LATENCY:
        return cycles
    work = 1.0
    for d in range(NUM_DIMS):
        work *= dims[d]
    return objective_value(aim.objective, cycles, energy_pj + work * aim.prices[MAC_PJ])


@lean
def _fits(problem: Problem, way: Growth, rf_bytes: int) -> bool:
    num_bytes = 0
    for operand in range(3):
        one = (tile_elems(problem, operand, way.rf) * problem.elem_bits[operand] + 7) >> 3
        num_bytes += one * (2 if way.double >> operand & 1 else 1)
    return num_bytes <= rf_bytes


@lean
def _grow(problem: Problem, aim: Aim, dims: Ints, way: Growth) -> bool:
    """Grow the RF tile dim by dim, each time by what helps most; False if not even one element fits."""
    rf = way.rf
    for d in range(NUM_DIMS):
        rf[d] = 1
    if not _fits(problem, way, aim.rf_bytes):
        return False
    best = _estimate(problem, aim, dims, way)
    while True:
        chosen, tile, least = -1, 0, best
        for d in range(NUM_DIMS):
            share = -(-dims[d] // way.pes[d])
            if rf[d] >= share:
                continue
            old = rf[d]
            for attempt in range(2):
                rounds = -(-share // old)
                rf[d] = share if attempt == 1 else -(-share // max(1, rounds - 1 if rounds < 4 else rounds // 2))
                if (attempt == 0 or rf[d] > 2 * old) and _fits(problem, way, aim.rf_bytes):
                    found = _estimate(problem, aim, dims, way)
                    if found < least:
                        chosen, tile, least = d, rf[d], found
            rf[d] = old
        if chosen < 0:
            return True
        rf[chosen], best = tile, least


@entry
def list_ways(
    problems: NDArray[np.void], aim: Aim, dims: Ints, room: UnrollingRoom, scratch: Ints, ways: Ints, counts: Ints
) -> None:
    """Fill the ways of every stage.

    Args:
        problems: Of one workload; its extents are not looked at.
        aim: What the ways are for.
        dims: ``(stages, 8)`` extents.
        room: Scratch.
        scratch: ``(4, 8)``.
        ways: ``(stages, MOST_WAYS, WAY_FIELDS)``.
        counts: Per stage, how many.
    """
    problem, orders = problems[0], _ORDERS
    for row in range(len(dims)):
        counts[row] = 0
        for unrolling in range(_list_unrollings(problem, aim, dims[row], room, scratch[0])):
            pair = room.pairs[unrolling]
            for kept in range(3):
                for is_double in range(1, -1, -1):
                    way = Growth(scratch[0], scratch[1], scratch[2], scratch[3], orders[kept], 7 * is_double)
                    for d in range(NUM_DIMS):
                        way.pes[d] = pair[0, d] * pair[1, d]
                    if _grow(problem, aim, dims[row], way):
                        _write(dims[row], pair, way, ways[row, counts[row]])
                        counts[row] += 1


@lean
def _write(dims: Ints, pair: Ints, way: Growth, columns: Ints) -> None:
    num_loops = 0
    for d in range(NUM_DIMS):
        columns[ROWS + d], columns[COLS + d], columns[RF + d] = pair[0, d], pair[1, d], way.rf[d]
        columns[ORDER + d] = -1
    for place in range(NUM_DIMS):
        d = way.order[place]
        if dims[d] > way.rf[d] * way.pes[d]:
            columns[ORDER + num_loops] = d
            num_loops += 1
    columns[DOUBLE] = way.double
