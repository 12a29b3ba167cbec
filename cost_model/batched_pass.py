"""Cycles of the passes of one mapping, one per size of SPM tile (compiled; see ``analytical_time``).

The steps of a pass are counted, not walked. Steps that stand next to each other differ by the loop that ticks between
them; what else a step depends on is which outer loops are at a smaller edge tile (bits of a mask), and whether a
reduction loop is beyond its first index (so that outputs are partial sums).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cost_model.arrays import UNBOUNDED, ArchArrays, WorkloadArrays
from cost_model.batched_nest import Ints, Nest, O, tile_elems
from tvm_spm.mapping_batch import NUM_DIMS

FRESH_CYCLES, PARTIAL_CYCLES, DRAIN_CYCLES, IN_CYCLES, IN_BYTES = 0, 1, 2, 3, 6
"""Columns of a pass record: the steps if outputs start fresh or as partial sums, the drain, and per operand the cycles
and bytes of its first array tile. Fill and drain are not part of the first two."""

PASS_FIELDS = 9

MAX_STEP_KINDS = 1 << NUM_DIMS

STEP_FIELDS = np.dtype(
    [("compute", np.int64), ("in_cycles", np.int64, 3), ("out_cycles", np.int64), ("num_bytes", np.int64, 3)]
)
"""One step; a table of steps is indexed by the mask of edge tiles."""

_NO_TICK = 99
"""Position of the tick before the first or after the last step: inside every load position, so nothing moves."""


@njit(error_model="numpy")
def pass_record(
    workload: WorkloadArrays,
    arch: ArchArrays,
    nest: Nest,
    tile: Ints,
    steps: NDArray[np.void],
    ways: Ints,
    record: Ints,
) -> None:
    """Fill the record of a pass over an SPM ``tile``.

    Args:
        workload: Its arrays.
        arch: Its arrays.
        nest: The mapping.
        tile: Elements per dim.
        steps: Scratch, a table of ``STEP_FIELDS``.
        ways: Scratch of ``(MAX_STEP_KINDS, 2)``.
        record: ``PASS_FIELDS`` numbers, overwritten.
    """
    num_loops, num_kinds = 0, 1
    dim, count = np.empty(NUM_DIMS, dtype=np.int64), np.empty(NUM_DIMS, dtype=np.int64)
    bit, position = np.empty(NUM_DIMS, dtype=np.int64), np.empty(NUM_DIMS, dtype=np.int64)
    for loop in range(nest.num_spm):
        d = nest.spm_dim[loop]
        if tile[d] <= nest.array[d]:
            continue
        whole = tile[d] // nest.array[d]
        has_edge = whole * nest.array[d] < tile[d]
        dim[num_loops], count[num_loops], position[num_loops] = d, whole + has_edge, nest.num_dram + loop
        bit[num_loops] = num_kinds if has_edge else 0
        if has_edge:
            num_kinds *= 2
        num_loops += 1
    _fill_steps(workload, arch, nest, tile, dim, count, bit, num_loops, num_kinds, steps)
    all_edges = num_kinds - 1
    for operand in range(3):
        record[IN_CYCLES + operand] = steps[0].in_cycles[operand]
        record[IN_BYTES + operand] = steps[0].num_bytes[operand]
    record[DRAIN_CYCLES] = max(steps[all_edges].out_cycles, port_cycles(arch, steps[all_edges].num_bytes[O]))
    if num_loops == 0:
        record[FRESH_CYCLES] = record[PARTIAL_CYCLES] = steps[0].compute
        return

    inner = num_loops - 1
    inner_position, inner_bit, inner_count = position[inner], bit[inner], count[inner]
    inner_red = 1 if workload.is_reduction[dim[inner]] else 0
    ways[:num_kinds, :] = 0
    ways[0, 0] = 1
    seen_kinds, times, fresh, partial = 1, 1, 0, 0
    inside = all_edges
    for loop in range(inner):
        red = 1 if workload.is_reduction[dim[loop]] else 0
        inside &= ~bit[loop]
        for mask in range(seen_kinds):
            for is_red in range(2):
                weight = ways[mask, is_red] * times
                if weight == 0:
                    continue
                for is_edge in range(2):
                    pairs, after = weight * (count[loop] - 1), mask
                    if bit[loop] > 0:
                        pairs = weight if is_edge == 1 else pairs - weight
                        after = mask | bit[loop] if is_edge == 1 else mask
                    elif is_edge == 1:
                        break
                    if pairs == 0:
                        continue
                    ending, starting_red = mask | inside, is_red | red
                    a, b = _slot_cycles(
                        arch, nest, steps, inner_position, position[loop], ending & ~inner_bit, ending, after,
                    )  # fmt: skip
                    fresh += pairs * (b if starting_red == 1 else a)
                    partial += pairs * b
                    second = after | inner_bit if inner_count == 2 else after
                    a, b = _slot_cycles(
                        arch, nest, steps, position[loop], inner_position, ending, after, second,
                    )  # fmt: skip
                    fresh += pairs * (b if starting_red | inner_red == 1 else a)
                    partial += pairs * b
        if bit[loop] == 0 and red == 0:
            times *= count[loop]
        else:
            seen_kinds = _stand(ways, seen_kinds, count[loop], bit[loop], red)
    for mask in range(seen_kinds):
        for is_red in range(2):
            weight = ways[mask, is_red] * times
            if weight == 0 or inner_count < 3:
                continue
            to_edge = 1 if inner_bit > 0 else 0
            a, b = _slot_cycles(arch, nest, steps, inner_position, inner_position, mask, mask, mask)
            fresh += weight * (inner_count - 2 - to_edge) * (b if is_red | inner_red == 1 else a)
            partial += weight * (inner_count - 2 - to_edge) * b
            if to_edge == 1:
                a, b = _slot_cycles(arch, nest, steps, inner_position, inner_position, mask, mask, mask | inner_bit)
                fresh += weight * (b if is_red | inner_red == 1 else a)
                partial += weight * b
    a, b = _slot_cycles(arch, nest, steps, _NO_TICK, inner_position, 0, 0, inner_bit if inner_count == 2 else 0)
    fresh += b if inner_red == 1 else a
    partial += b
    a, _ = _slot_cycles(arch, nest, steps, inner_position, _NO_TICK, all_edges & ~inner_bit, all_edges, 0)
    record[FRESH_CYCLES], record[PARTIAL_CYCLES] = fresh + a, partial + a


@njit(error_model="numpy", forceinline=True)
def _stand(ways: Ints, num_kinds: int, count: int, bit: int, red: int) -> int:
    """Let one more loop stand at any of its indices: ``ways[mask, is_partial]`` counts the index vectors of a kind."""
    for mask in range(num_kinds):
        fresh, partial = ways[mask, 0], ways[mask, 1]
        short = count - 1 if bit > 0 else count
        if red == 1:
            ways[mask, 0], ways[mask, 1] = fresh, fresh * (short - 1) + partial * short
        else:
            ways[mask, 0], ways[mask, 1] = fresh * short, partial * short
        if bit > 0:
            ways[mask | bit, red] = fresh
            ways[mask | bit, 1] = fresh * red + partial
    return num_kinds * 2 if bit > 0 else num_kinds


@njit(error_model="numpy", forceinline=True)
def port_cycles(arch: ArchArrays, num_bytes: int) -> int:
    """Cycles that the SPM port needs for transfers at the same time."""
    if arch.spm_bytes_per_cycle == UNBOUNDED:
        return 0
    return int(math.ceil(num_bytes / arch.spm_bytes_per_cycle))


@njit(error_model="numpy", forceinline=True)
def _slot_cycles(
    arch: ArchArrays, nest: Nest, steps: NDArray[np.void], tick_in: int, tick_out: int, before: int, at: int, after: int
) -> tuple[int, int]:
    """Cycles of one step and of what must move before the next: if that one needs no partial sums, and if it does."""
    hidden, hidden_bytes, shown, shown_bytes = steps[at].compute, 0, 0, 0
    for operand in range(2):
        if tick_out <= nest.rf_position[operand]:
            if nest.rf_double[operand] == 1:
                hidden = max(hidden, steps[after].in_cycles[operand])
                hidden_bytes += steps[after].num_bytes[operand]
            else:
                shown = max(shown, steps[after].in_cycles[operand])
                shown_bytes += steps[after].num_bytes[operand]
    if nest.rf_double[O] == 1:
        if tick_in <= nest.rf_position[O]:
            hidden = max(hidden, steps[before].out_cycles)
            hidden_bytes += steps[before].num_bytes[O]
        rest = max(shown, port_cycles(arch, shown_bytes))
        fresh = max(hidden, port_cycles(arch, hidden_bytes)) + rest
        if tick_out > nest.rf_position[O]:
            return fresh, fresh
        hidden = max(hidden, steps[after].in_cycles[O])
        return fresh, max(hidden, port_cycles(arch, hidden_bytes + steps[after].num_bytes[O])) + rest
    rest = max(hidden, port_cycles(arch, hidden_bytes))
    if tick_out > nest.rf_position[O]:
        fresh = rest + max(shown, port_cycles(arch, shown_bytes))
        return fresh, fresh
    output, output_bytes = steps[at].out_cycles, shown_bytes + steps[at].num_bytes[O]
    fresh = rest + max(shown, output, port_cycles(arch, output_bytes))
    output, output_bytes = output + steps[after].in_cycles[O], output_bytes + steps[after].num_bytes[O]
    return fresh, rest + max(shown, output, port_cycles(arch, output_bytes))


@njit(error_model="numpy", forceinline=True)
def _fill_steps(
    workload: WorkloadArrays,
    arch: ArchArrays,
    nest: Nest,
    tile: Ints,
    dim: Ints,
    count: Ints,
    bit: Ints,
    num_loops: int,
    num_kinds: int,
    steps: NDArray[np.void],
) -> None:
    """One record per combination of loops that are at their edge tile."""
    size = np.empty(NUM_DIMS, dtype=np.int64)
    for d in range(NUM_DIMS):
        size[d] = min(nest.array[d], tile[d])
    for kind in range(num_kinds):
        for loop in range(num_loops):
            if bit[loop] > 0:
                d = dim[loop]
                size[d] = tile[d] - (count[loop] - 1) * nest.array[d] if kind & bit[loop] else nest.array[d]
        compute = 1
        for d in range(NUM_DIMS):
            compute *= min(nest.rf[d], size[d])
        steps[kind].compute = compute
        for operand in range(3):
            elems = tile_elems(workload, operand, size)
            steps[kind].in_cycles[operand] = int(math.ceil(elems / arch.noc_elems_per_cycle))
            steps[kind].num_bytes[operand] = -(-elems * workload.elem_bits[operand] // 8)
        steps[kind].out_cycles = steps[kind].in_cycles[O] + nest.hop_cycles
