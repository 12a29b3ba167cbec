"""Cycles of the passes of one mapping, one per size of SPM tile (compiled).

The steps of a pass are counted, not walked. Steps that stand next to each other differ by the loop that ticks between
them; what else a step depends on is which outer loops are at a smaller edge tile (bits of a mask), and whether a
reduction loop is beyond its first index (so that outputs are partial sums).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cost_model.arrays import UNBOUNDED
from cost_model.crossing import crossing_cycles
from cost_model.nest import ARRAY, CORE, PE, PIECE, Nest, floor_div
from cost_model.problem import Ints, O, Problem
from cost_model.record import record
from tvm_spm.jit import lean, small
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.space.tensors import tile_elems

MAX_KINDS = 1 << NUM_DIMS
"""Combinations of loops that are at their edge tile."""

STEP_FIELDS = np.dtype([("compute", np.int64), ("in_cycles", np.int64, 3), ("out_cycles", np.int64)])
"""One step: cycles of its MACs, and of each network on its own; a table is indexed by the mask of edge tiles."""

PASS_FIELDS = np.dtype([("cycles", np.int64, 2), ("drain_cycles", np.int64), ("in_cycles", np.int64, 3)])
"""One pass: its steps if outputs start fresh or as partial sums, without fill and drain; the drain; and per operand
what its first array tile takes to come in."""

_NO_TICK = 99
"""Position of the tick before the first or after the last step: inside every load position, so nothing moves."""


class PassRecord(Protocol):
    """A record of ``PASS_FIELDS``."""

    cycles: Ints
    drain_cycles: int
    in_cycles: Ints


class Loops(Protocol):
    """A record of ``LOOP_FIELDS``: the loops of one level that iterate in a given tile, outer to inner.

    Attributes:
        num_loops: How many.
        num_masks: Combinations of those that have an edge tile.
        over_outputs: Position among all loops of the nest of the innermost that is over outputs, or -1.
        output_bits: Bits of the mask that change the size of an output tile.
        dim: Dim of each.
        count: Iterations.
        bit: Of the mask, or 0 if the loop has no edge tile.
        red: 1 for reductions.
        position: Among all loops of the nest.
        num_runs: Runs of indices (DRAM loops only).
        num_kinds: Kinds of indices with transfers of their own (DRAM loops only).
        stride: Of these kinds in the transfer codes, per operand (DRAM loops only).
        of_dim: The loop over each dim, or -1 (DRAM loops only).
        size: Scratch, a tile.
    """

    num_loops: int
    num_masks: int
    over_outputs: int
    output_bits: int
    dim: Ints
    count: Ints
    bit: Ints
    red: Ints
    position: Ints
    num_runs: Ints
    num_kinds: Ints
    stride: Ints
    of_dim: Ints
    size: Ints


LOOP_FIELDS = record(Loops, {
    "dim": NUM_DIMS, "count": NUM_DIMS, "bit": NUM_DIMS, "red": NUM_DIMS, "position": NUM_DIMS, "num_runs": NUM_DIMS,
    "num_kinds": NUM_DIMS, "stride": (3, NUM_DIMS), "of_dim": NUM_DIMS, "size": NUM_DIMS,
})  # fmt: skip


@small
def clear_loops(loops: Loops) -> None:
    """Start anew."""
    loops.num_loops, loops.num_masks = 0, 1
    loops.over_outputs, loops.output_bits = -1, 0


@small
def add_loop(loops: Loops, d: int, extent: int, tile: int, red: int, position: int) -> int:
    """Append the loop over the tiles of one dim.

    Returns:
        The number of full tiles.
    """
    whole, last = floor_div(extent, tile), loops.num_loops
    has_edge = 1 if whole * tile < extent else 0
    loops.dim[last], loops.count[last] = d, whole + has_edge
    loops.red[last], loops.position[last] = red, position
    loops.bit[last] = has_edge * loops.num_masks
    if red == 0:
        loops.over_outputs = position
        loops.output_bits |= loops.bit[last]
    loops.num_masks <<= has_edge
    loops.num_loops = last + 1
    return whole


@small
def set_edges(loops: Loops, mask: int, extent: Ints, tile: Ints) -> None:
    """Let ``loops.size`` be full or edge tiles as the mask says."""
    for loop in range(loops.num_loops):
        d = loops.dim[loop]
        if loops.bit[loop] & mask:
            loops.size[d] = extent[d] - (loops.count[loop] - 1) * tile[d]
        else:
            loops.size[d] = tile[d]


@lean
def fill_pass(
    problem: Problem,
    nest: Nest,
    tile: Ints,
    loops: Loops,
    steps: NDArray[np.void],
    ways: Ints,
    record: PassRecord,
) -> None:
    """Fill the record of a pass over an SPM ``tile``.

    Args:
        problem: The workload and the accelerator.
        nest: The mapping.
        tile: Elements per dim.
        loops: Scratch, a record of ``LOOP_FIELDS``.
        steps: Scratch, a table of ``STEP_FIELDS``.
        ways: Scratch of ``(MAX_KINDS, 2)``.
        record: Of ``PASS_FIELDS``.
    """
    clear_loops(loops)
    for loop in range(nest.num_loops[PE]):
        d = nest.loop_dim[PE, loop]
        if tile[d] > nest.tile[ARRAY, d]:
            add_loop(loops, d, tile[d], nest.tile[ARRAY, d], problem.is_reduction[d], nest.num_loops[CORE] + loop)
    _fill_steps(problem, nest, tile, loops, steps)
    for operand in range(3):
        record.in_cycles[operand] = steps[0].in_cycles[operand]
    record.drain_cycles = steps[loops.num_masks - 1].out_cycles
    if loops.num_loops == 0:
        record.cycles[0] = record.cycles[1] = steps[0].compute
    else:
        record.cycles[0], record.cycles[1] = _sum_slots(problem, nest, loops, steps, ways)


@small
def _sum_slots(problem: Problem, nest: Nest, loops: Loops, steps: NDArray[np.void], ways: Ints) -> tuple[int, int]:
    """Cycles of all steps if outputs start fresh, and if they start as partial sums."""
    inner = loops.num_loops - 1
    all_edges, inner_bit, inner_count = loops.num_masks - 1, loops.bit[inner], loops.count[inner]
    inner_position, inner_red = loops.position[inner], loops.red[inner]
    ways[0, 0], ways[0, 1] = 1, 0
    num_kinds, times, inside = 1, 1, all_edges
    fresh, partial = 0, 0
    to_second = inner_bit if inner_count == 2 else 0
    for loop in range(inner):
        bit, count, red, position = loops.bit[loop], loops.count[loop], loops.red[loop], loops.position[loop]
        inside &= ~bit
        for to_edge in range(2 if bit > 0 else 1):
            pairs = 1 if to_edge == 1 else (count - 2 if bit > 0 else count - 1)
            if pairs == 0:
                continue
            for mask in range(num_kinds):
                weight, weight_partial = ways[mask, 0] * times * pairs, ways[mask, 1] * times * pairs
                ending, starting = mask | inside, mask | (bit * to_edge)
                a, b = _slot_cycles(
                    problem, nest, loops, steps, (inner_position, position), (ending & ~inner_bit, ending, starting)
                )
                c, d = _slot_cycles(
                    problem, nest, loops, steps, (position, inner_position), (ending, starting, starting | to_second)
                )
                fresh += weight * ((b if red == 1 else a) + (d if red | inner_red == 1 else c))
                fresh += weight_partial * (b + d)
                partial += (weight + weight_partial) * (b + d)
        if bit == 0 and red == 0:
            times *= count
        else:
            num_kinds = _stand(ways, num_kinds, count, bit, red)
    if inner_count > 2:
        for to_edge in range(2 if inner_bit > 0 else 1):
            pairs = 1 if to_edge == 1 else (inner_count - 3 if inner_bit > 0 else inner_count - 2)
            for mask in range(num_kinds):
                weight, weight_partial = ways[mask, 0] * times * pairs, ways[mask, 1] * times * pairs
                a, b = _slot_cycles(
                    problem,
                    nest,
                    loops,
                    steps,
                    (inner_position, inner_position),
                    (mask, mask, mask | (inner_bit * to_edge)),
                )
                fresh += weight * (b if inner_red == 1 else a) + weight_partial * b
                partial += (weight + weight_partial) * b
    a, b = _slot_cycles(problem, nest, loops, steps, (_NO_TICK, inner_position), (0, 0, to_second))
    last, _ = _slot_cycles(
        problem, nest, loops, steps, (inner_position, _NO_TICK), (all_edges & ~inner_bit, all_edges, 0)
    )
    return fresh + (b if inner_red == 1 else a) + last, partial + b + last


@small
def _stand(ways: Ints, num_kinds: int, count: int, bit: int, red: int) -> int:
    """Let one more loop stand at any of its indices: ``ways[mask, is_partial]`` counts the index vectors of a kind."""
    short = count - 1 if bit > 0 else count
    for mask in range(num_kinds):
        fresh, partial = ways[mask, 0], ways[mask, 1]
        if red == 1:
            ways[mask, 0], ways[mask, 1] = fresh, fresh * (short - 1) + partial * short
        else:
            ways[mask, 0], ways[mask, 1] = fresh * short, partial * short
        if bit > 0:
            ways[mask | bit, 0] = fresh * (1 - red)
            ways[mask | bit, 1] = fresh * red + partial
    return num_kinds * 2 if bit > 0 else num_kinds


@small
def crossed_by(problem: Problem, end: int, cycles: int) -> int:
    """When tiles that start together are all across: one after the other if the SPM port has a limit.

    Args:
        problem: Of the accelerator.
        end: When those so far are.
        cycles: Of one more.
    """
    return max(end, cycles) if problem.spm_bytes_per_cycle == UNBOUNDED else end + cycles


@lean
def _slot_cycles(
    problem: Problem, nest: Nest, loops: Loops, steps: NDArray[np.void], ticks: tuple[int, int],
    masks: tuple[int, int, int],
) -> tuple[int, int]:  # fmt: skip
    """Cycles of one step and of what must move before the next: if that one needs no partial sums, and if it does.

    Tiles with two buffers move beside the work, the others in a turn after it. A port of SPM with a limit serves one
    network after the other: I, W, sums out, sums in. Sums leave once the MAC pipelines are empty, and the next ones go
    into places that have left. With two buffers they follow those that leave, unless they are longer along one dim and
    shorter along another, so that places would come in another order. Sums that come back right after they leave do
    both in the turn: there is nothing to work on meanwhile.

    Args:
        problem: Of the accelerator.
        nest: The mapping.
        loops: Those that iterate in the pass.
        steps: By mask.
        ticks: Positions of the loops that tick before and after the step.
        masks: Of the step before, this one, and the one after.
    """
    (tick_in, tick_out), (before, at, after) = ticks, masks
    is_shared, double_o = problem.spm_bytes_per_cycle != UNBOUNDED, nest.double[PE, O] == 1
    beside, turn = 0, 0
    for operand in range(2):
        if tick_out <= nest.position[PE, operand]:
            if nest.double[PE, operand] == 1:
                beside = crossed_by(problem, beside, steps[after].in_cycles[operand])
            else:
                turn = crossed_by(problem, turn, steps[after].in_cycles[operand])
    end, hidden = 0, max(steps[at].compute, beside)
    left = double_o and tick_in <= nest.position[PE, O] and tick_in <= loops.over_outputs
    if left:
        start = max(beside, problem.pipeline_cycles) if is_shared else problem.pipeline_cycles
        end = start + steps[before].out_cycles
        hidden = max(hidden, end)
    if tick_out > nest.position[PE, O]:
        return hidden + turn, hidden + turn
    if double_o and tick_out <= loops.over_outputs:
        start = beside if is_shared else 0
        if left:
            shrinks, grows = after & ~before & loops.output_bits, before & ~after & loops.output_bits
            start = end if is_shared or (shrinks != 0 and grows != 0) else problem.pipeline_cycles
        return hidden + turn, max(hidden, start + steps[after].in_cycles[O]) + turn
    start = max(turn, problem.pipeline_cycles) if is_shared else problem.pipeline_cycles
    end = start + steps[at].out_cycles
    return hidden + max(turn, end), hidden + max(turn, end + steps[after].in_cycles[O])


@small
def _fill_steps(problem: Problem, nest: Nest, tile: Ints, loops: Loops, steps: NDArray[np.void]) -> None:
    """One record per combination of loops that are at their edge tile."""
    for d in range(NUM_DIMS):
        loops.size[d] = min(nest.tile[ARRAY, d], tile[d])
    for mask in range(loops.num_masks):
        if mask > 0:
            set_edges(loops, mask, tile, nest.tile[ARRAY])
        compute = 1
        for d in range(NUM_DIMS):
            compute *= min(nest.tile[PIECE, d], loops.size[d])
        steps[mask].compute = compute
        for operand in range(3):
            elems = tile_elems(problem, operand, loops.size)
            steps[mask].in_cycles[operand] = crossing_cycles(
                elems, problem.elem_bits[operand], problem.noc_elems_per_cycle, problem.spm_bytes_per_cycle
            )
        steps[mask].out_cycles = steps[mask].in_cycles[O] + nest.hop_cycles
