"""A few tiles in the middle of a core's share: at least what the scratchpad must hold, and roughly what tiles cost."""

from __future__ import annotations

import numpy as np

from cost_model.fused.flat import (
    BITS,
    EXTRA,
    IS_MAC,
    LAST_READER,
    LAYER,
    OUT_BITS,
    PRODUCER,
    RANK,
    READ_RANK,
    ROLE,
    SUM_BITS,
    FlatGroup,
    Ints,
)
from cost_model.fused.state import (
    CHANNEL_CYCLES,
    MOVED_ELEMS,
    NUM_SHAPES,
    NUM_STAGES,
    NUM_TRANSFERS,
    SHAPE_DIMS,
    SHAPE_STAGES,
    STORED_ELEMS,
    STORED_UNUSED_BITS,
    UNUSED_BITS,
    VECTOR_CYCLES,
    Rates,
    Share,
    Walk,
)
from cost_model.fused.walk import walk_core
from tvm_spm.jit import kernel, part
from tvm_spm.space.mapping_batch import NUM_DIMS

SINGLE_BYTES, DOUBLE_BYTES, MACS, WEIGHT_ELEMS, VECTOR, DMA_CYCLES, ONCE_CYCLES, DRAM_BITS, ONCE_BITS, TILES, STAGES = (
    range(11)
)
"""Columns of what is found; the costs are those of ``TILES`` tiles, ``ONCE`` those that do not come back."""

PROBE_FIELDS = 11

MOST_CHUNKS = 2
"""Of the channels of a layer and tile; enough to tell whether its weights change."""


@kernel
def _banks(elems: int, bits: int, bank_bytes: int) -> int:
    num_bytes = (elems * bits + 7) >> 3
    return -(-num_bytes // bank_bytes) * bank_bytes


@kernel
def _held_elems(share: Share, moves: Ints, extents: Ints, spans: Ints, shape: Ints, rounds: Ints, rank: int) -> int:
    """Elements of a buffer, as ``capacity`` counts them."""
    elems = 1
    for axis in range(rank):
        extent = extents[axis]
        if len(share.kept) > 0 and moves[axis] & (-1 << (share.kept[0] + 1)):
            most = 1
            for sink_axis in range(share.kept[0] + 1, len(rounds)):
                if moves[axis] >> sink_axis & 1:
                    most = max(most, rounds[sink_axis])
            shift = max(0, spans[axis, 1] - spans[axis, 0] - extent)
            extent = max(extent, min(shape[axis], extent + (most - 1) * shift))
        elems *= extent
    return elems


@kernel
def peak_bytes(flat: FlatGroup, share: Share, walk: Walk, bank_bytes: int, is_double: bool, rounds: Ints) -> int:
    """Most bytes that are live during any layer, as ``capacity.peak_terms``.

    ``rounds`` is 2 for each axis of the sink; or, if the walk saw two tiles along those inside the outermost one that
    is kept, how many there are.
    """
    copies, sink, held = 2 if is_double else 1, len(flat.layer) - 1, 0
    for read in range(len(flat.read)):
        row, rank = flat.read[read], flat.read[read, READ_RANK]
        loads = walk.reads[read, NUM_TRANSFERS]
        if row[PRODUCER] >= 0 or loads == 0:
            continue
        if row[LAYER] == sink and flat.layer[sink, IS_MAC] and row[ROLE] == EXTRA:
            continue
        moves, is_moved, fresh = flat.read_moves[read], False, 1
        for axis in range(rank):
            is_moved = is_moved or moves[axis] != 0
            fresh *= walk.read_new[read, axis]
        elems = _held_elems(
            share, moves, walk.read_extents[read], walk.read_spans[read], flat.read_shape[read], rounds, rank
        )
        one = _banks(elems, row[BITS], bank_bytes)
        if loads == 1:
            held += one
        elif len(share.kept) > 0 and is_double and is_moved:
            held += one + _banks(fresh, row[BITS], bank_bytes)
        else:
            held += copies * one
    elems = 1
    for axis in range(flat.layer[sink, RANK]):
        elems *= walk.store_extents[axis]
    held += copies * _banks(elems, max(flat.layer[sink, OUT_BITS], flat.layer[sink, SUM_BITS]), bank_bytes)
    most = 0
    for layer in range(len(flat.layer)):
        live = held
        for other in range(sink):
            if walk.written[other] == 0:
                continue
            if len(share.kept) > 0 or other <= layer <= flat.layer[other, LAST_READER]:
                bits = flat.layer[other, OUT_BITS]
                if other == layer:
                    bits = max(bits, flat.layer[other, SUM_BITS])
                elems = _held_elems(
                    share, flat.layer_moves[other], walk.layer_extents[other], walk.layer_spans[other],
                    flat.shape[other], rounds, flat.layer[other, RANK],
                )  # fmt: skip
                live += _banks(elems, bits, bank_bytes)
        most = max(most, live)
    return most


@kernel
def clear_walk(walk: Walk) -> None:
    """Make a walk empty again."""
    walk.counters[:] = 0
    walk.reads[:] = 0
    walk.written[:] = 0
    walk.layer_extents[:] = 0
    walk.read_extents[:] = 0
    walk.read_new[:] = 0
    walk.store_extents[:] = 0


@part
def probe_shares(
    flat: FlatGroup, rates: Rates, bank_bytes: int, chunk: Ints, tile: Ints, kept: Ints, k_tile: Ints, walk: Walk,
    found: Ints,
) -> None:  # fmt: skip
    """Fill one row of ``found`` per candidate.

    Args:
        flat: The group.
        rates: Of the accelerator.
        bank_bytes: Of the scratchpad.
        chunk: ``(n, axes, 2)``, the share of one core.
        tile: ``(n, axes)``.
        kept: ``(n, axes)``, whether overlap stays.
        k_tile: ``(n, layers)``.
        walk: Scratch; candidates that do not fit its tables need ``1 << 62`` bytes.
        found: ``(n, PROBE_FIELDS)``.
    """
    rank = tile.shape[1]
    few = np.empty((rank, 2), np.int64)
    axes = np.empty(rank, np.int64)
    rounds = np.empty(rank, np.int64)
    for row in range(len(tile)):
        num_kept, num_tiles, cut = 0, 1, 0
        for axis in range(rank):
            size = tile[row, axis]
            count = -(-(chunk[row, axis, 1] - chunk[row, axis, 0]) // size)
            walked = 1
            rounds[axis] = count
            if count > 1 and num_kept > 0:
                walked = 2
            if count > 1:
                cut |= 1 << axis
                if kept[row, axis]:
                    axes[num_kept] = axis
                    num_kept += 1
                    walked = 2
            few[axis, 0] = chunk[row, axis, 0] + max(0, (count - walked) // 2) * size
            few[axis, 1] = min(chunk[row, axis, 1], few[axis, 0] + walked * size)
            num_tiles *= walked
        clear_walk(walk)
        share = Share(few, tile[row], axes[:num_kept], k_tile[row], False)
        stages = walk_core(flat, rates, share, MOST_CHUNKS, walk)
        found[row] = 0
        if stages < 0:
            found[row, SINGLE_BYTES] = found[row, DOUBLE_BYTES] = 1 << 62
            continue
        for read in range(len(flat.read)):
            for axis in range(flat.read[read, READ_RANK]):
                if flat.read_moves[read, axis] & cut and walk.reads[read, NUM_TRANSFERS] == 1:
                    walk.reads[read, NUM_TRANSFERS] = 2
        found[row, SINGLE_BYTES] = peak_bytes(flat, share, walk, bank_bytes, False, rounds)
        found[row, DOUBLE_BYTES] = peak_bytes(flat, share, walk, bank_bytes, True, rounds)
        found[row, TILES], found[row, STAGES] = num_tiles, walk.counters[NUM_STAGES]
        for shape in range(walk.counters[NUM_SHAPES]):
            dims, times = walk.shapes[shape, SHAPE_DIMS:], walk.shapes[shape, SHAPE_STAGES]
            macs = times
            for d in range(NUM_DIMS):
                macs *= dims[d]
            found[row, MACS] += macs
            found[row, WEIGHT_ELEMS] += times * dims[1] * dims[2] * dims[3] * dims[6] * dims[7]
        for stage in range(walk.counters[NUM_STAGES]):
            found[row, VECTOR] += walk.stages[stage, VECTOR_CYCLES]
        found[row, DMA_CYCLES] = walk.counters[CHANNEL_CYCLES]
        found[row, DRAM_BITS] = walk.counters[STORED_ELEMS] * flat.layer[len(flat.layer) - 1, OUT_BITS]
        found[row, DRAM_BITS] += walk.counters[STORED_UNUSED_BITS]
        for read in range(len(flat.read)):
            bits = walk.reads[read, MOVED_ELEMS] * flat.read[read, BITS] + walk.reads[read, UNUSED_BITS]
            if walk.reads[read, NUM_TRANSFERS] == 1:
                found[row, ONCE_BITS] += bits
                found[row, ONCE_CYCLES] += int(bits / 8 / rates.bytes_per_cycle)
            else:
                found[row, DRAM_BITS] += bits
        found[row, DMA_CYCLES] = max(0, found[row, DMA_CYCLES] - found[row, ONCE_CYCLES])
