"""Distinct DRAM transfers of one core of one mapping, by code (compiled).

Tiles of one loop that are clipped alike share a kind. A code combines the kinds of all loops an operand depends on.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.analytical.passes import Loops
from cost_model.nest import HELD, Nest
from cost_model.problem import WHOLE, Floats, Ints, O, Problem
from cost_model.transfer import transfer
from tvm_spm.jit import lean, small
from tvm_spm.space.tensors import elems_inside

FINAL, SPILL_ENGINE, FINAL_ENGINE = 3, 4, 5
"""Rows of transfers after those of I, W and partial O: a final store with what streams in before it, and how long
stores keep the DMA engine: the vector unit works on a finished tile while it leaves, once its extras are all there."""

RUN_FIRST, RUN_LENGTH, RUN_KIND, KIND_FIRST = 0, 1, 2, 3
"""Planes of a table of runs: first index, number of indices, and which kind of transfer they share; and an index of
each kind."""

ELEMS, BURSTS, IS_SPLIT = 0, 1, 2
"""Rows of a table of clipped tiles: elements, contiguous runs, and whether an axis so far is not covered."""

START, SPAN = 0, 1
"""Rows of a table of tiles along one axis."""


class Scratch(NamedTuple):
    """Room for one mapping; sized once for a workload.

    Attributes:
        runs: ``(4, 8, runs)``, see ``RUN_FIRST``.
        spans: ``(2, codes)``, see ``START``.
        boxes: ``(3, codes)``, see ``ELEMS``.
        transfers: ``(6, codes)`` cycles.
        states: ``(states, 7)``, see ``MASK``.
        places: ``(6, 8)``, for tiles of cores.
        counts: A row of a ``BatchBreakdown``.
        parts_pj: A row of a ``BatchBreakdown``.
        loops: Two records of ``LOOP_FIELDS``: of the core, and of a pass.
        passes: Table of ``PASS_FIELDS``.
        steps: Table of ``STEP_FIELDS``.
        ways: For ``fill_pass``.
        ending: ``(256, 2)``, cycles of the passes before a loop ticks.
        starting: ``(256, 2)``, cycles of the passes after a loop ticked.
        moved_elems: Of I, W, partial and final O, see ``traffic.FINAL``.
        tiles: ``(3, 3, tiles)``, see ``traffic.FIRST``.
    """

    runs: Ints
    spans: Ints
    boxes: Ints
    transfers: Ints
    states: Ints
    places: Ints
    counts: Ints
    parts_pj: Floats
    loops: NDArray[np.void]
    passes: NDArray[np.void]
    steps: NDArray[np.void]
    ways: Ints
    ending: Ints
    starting: Ints
    moved_elems: Ints
    tiles: Ints


@small
def cut_runs(runs: Ints, loops: Loops, loop: int, low: int, high: int, split_last: int) -> None:
    """Cut the indices of a loop into runs; those in [low, high) are clipped nowhere and share a transfer."""
    num, kinds, at, count, red = 0, 0, 0, loops.count[loop], loops.red[loop]
    while at < count:
        end = at + 1
        if low <= at < high and (red == 0 or at > 0):
            end = high
            if red == 1 and split_last == 1 and high == count and at < count - 1:
                end = count - 1
        is_shared = low < at < high
        runs[RUN_FIRST, loop, num], runs[RUN_LENGTH, loop, num] = at, end - at
        runs[RUN_KIND, loop, num] = kinds - 1 if is_shared else kinds
        if not is_shared:
            runs[KIND_FIRST, loop, kinds] = at
            kinds += 1
        num += 1
        at = end
    loops.num_runs[loop], loops.num_kinds[loop] = num, kinds


@small
def _combine_axis(
    problem: Problem, nest: Nest, loops: Loops, first: Ints, extent: Ints, axis: int, runs: Ints, spans: Ints
) -> int:
    """Fill ``spans`` with the elements inside the tensor along one axis, for each combination of kinds of its loops.

    Returns:
        The number of combinations; the first loop of the axis varies fastest.
    """
    if problem.axis_kind[axis] == WHOLE:
        d = problem.term_dim[problem.term_start[axis]]
        loop = loops.of_dim[d]
        if loop < 0:
            spans[SPAN, 0] = extent[d]
            return 1
        for kind in range(loops.num_kinds[loop]):
            spans[SPAN, kind] = min(nest.tile[HELD, d], extent[d] - runs[KIND_FIRST, loop, kind] * nest.tile[HELD, d])
        return loops.num_kinds[loop]
    num = 1
    spans[START, 0], spans[SPAN, 0] = problem.axis_offset[axis], 1
    for term in range(problem.term_start[axis], problem.term_start[axis + 1]):
        d, coefficient = problem.term_dim[term], problem.term_coefficient[term]
        loop, tile = loops.of_dim[d], nest.tile[HELD, d]
        if loop < 0:
            start, span = coefficient * first[d], coefficient * (extent[d] - 1)
            for row in range(num):
                spans[START, row] += start
                spans[SPAN, row] += span
            continue
        for kind in range(loops.num_kinds[loop] - 1, -1, -1):
            offset = runs[KIND_FIRST, loop, kind] * tile
            start, span = coefficient * (first[d] + offset), coefficient * (min(tile, extent[d] - offset) - 1)
            for row in range(num):
                spans[START, kind * num + row] = spans[START, row] + start
                spans[SPAN, kind * num + row] = spans[SPAN, row] + span
        num *= loops.num_kinds[loop]
    for row in range(num):
        spans[SPAN, row] = elems_inside(problem.axis_extent[axis], spans[START, row], spans[SPAN, row])
    return num


@small
def _fill_boxes(
    problem: Problem, nest: Nest, loops: Loops, first: Ints, extent: Ints, projection: int, scratch: Scratch
) -> int:
    """Fill ``scratch.boxes`` with elements and bursts of all distinct tiles of one tensor.

    Returns:
        The number of codes. The stride of each loop in them is left in ``loops.stride`` of an operand.
    """
    boxes, spans, num = scratch.boxes, scratch.spans, 1
    boxes[ELEMS, 0], boxes[BURSTS, 0], boxes[IS_SPLIT, 0] = 1, 1, 0
    for axis in range(problem.axis_start[projection + 1] - 1, problem.axis_start[projection] - 1, -1):
        along = _combine_axis(problem, nest, loops, first, extent, axis, scratch.runs, spans)
        if projection <= O:
            stride = num
            for term in range(problem.term_start[axis], problem.term_start[axis + 1]):
                loop = loops.of_dim[problem.term_dim[term]]
                if loop >= 0:
                    loops.stride[projection, loop] = stride
                    stride *= loops.num_kinds[loop]
        whole = problem.axis_extent[axis]
        for row in range(along - 1, -1, -1):
            inside = spans[SPAN, row]
            ends_burst = 1 if inside < whole else 0
            for code in range(num):
                target, is_split = row * num + code, boxes[IS_SPLIT, code]
                boxes[ELEMS, target] = boxes[ELEMS, code] * inside
                boxes[BURSTS, target] = boxes[BURSTS, code] * (inside if is_split == 1 else 1)
                boxes[IS_SPLIT, target] = is_split | ends_burst
        num *= along
    return num


@small
def _transfer_cycles(problem: Problem, elems: int, bursts: int, elem_bits: int) -> int:
    """DMA cycles of one tile; a tile wholly in padding moves nothing and takes no time."""
    return transfer(
        elems, bursts, elem_bits, problem.burst_bits, problem.burst_startup_cycles, problem.dma_bytes_per_cycle
    )[0]


@small
def fill_transfers(
    problem: Problem, nest: Nest, loops: Loops, first: Ints, extent: Ints, operand: int, scratch: Scratch
) -> None:
    """All distinct transfers of one operand by code; for O also the final stores."""
    for loop in range(loops.num_loops):
        loops.stride[operand, loop] = 0
    boxes, transfers = scratch.boxes, scratch.transfers
    num = _fill_boxes(problem, nest, loops, first, extent, operand, scratch)
    bits = problem.elem_bits[operand]
    for code in range(num):
        transfers[operand, code] = _transfer_cycles(problem, boxes[ELEMS, code], boxes[BURSTS, code], bits)
    if operand != O:
        return
    for code in range(num):
        elems, bursts = boxes[ELEMS, code], boxes[BURSTS, code]
        transfers[SPILL_ENGINE, code] = transfers[O, code]
        transfers[FINAL, code] = transfers[O, code]
        if problem.out_bits != bits:
            transfers[FINAL, code] = _transfer_cycles(problem, elems, bursts, problem.out_bits)
        ops_cycles = 0
        if problem.num_ops_per_elem > 0:
            ops_cycles = int(math.ceil(elems * problem.num_ops_per_elem / problem.vector_ops_per_cycle))
        # what the vector unit takes longer than the store that it works beside
        transfers[FINAL_ENGINE, code] = max(0, ops_cycles - transfers[FINAL, code])
    for extra in range(O + 1, problem.num_projections):
        _add_extra(problem, nest, loops, first, extent, extra, num, scratch)
    for code in range(num):
        transfers[FINAL_ENGINE, code] += transfers[FINAL, code]


@lean
def _add_extra(
    problem: Problem,
    nest: Nest,
    loops: Loops,
    first: Ints,
    extent: Ints,
    extra: int,
    num_codes: int,
    scratch: Scratch,
) -> None:
    """Add what a final store streams of one extra to every output tile's store."""
    transfers, runs, bits = scratch.transfers, scratch.runs, problem.elem_bits[extra]
    for code in range(num_codes):
        elems, bursts, is_split = 1, 1, False
        for axis in range(problem.axis_start[extra + 1] - 1, problem.axis_start[extra] - 1, -1):
            start, span = problem.axis_offset[axis], 1
            for term in range(problem.term_start[axis], problem.term_start[axis + 1]):
                d, coefficient = problem.term_dim[term], problem.term_coefficient[term]
                loop, offset = loops.of_dim[d], 0
                if loop >= 0 and loops.stride[O, loop] > 0:
                    kind = code // loops.stride[O, loop] % loops.num_kinds[loop]
                    offset = runs[KIND_FIRST, loop, kind] * nest.tile[HELD, d]
                start += coefficient * (first[d] + offset)
                span += coefficient * (min(nest.tile[HELD, d], extent[d] - offset) - 1)
            inside = elems_inside(problem.axis_extent[axis], start, span)
            elems *= inside
            bursts *= inside if is_split else 1
            is_split = is_split or inside < problem.axis_extent[axis]
        transfers[FINAL, code] += _transfer_cycles(problem, elems, bursts, bits)
