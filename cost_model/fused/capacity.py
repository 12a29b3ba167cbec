"""Scratchpad of one core for a group: which buffers are live while each layer runs, in whole banks."""

from __future__ import annotations

from cost_model.fused.flat import (
    BITS,
    EXTRA,
    IS_MAC,
    LAST_READER,
    LAYER,
    LEAVES,
    OUT_BITS,
    PRODUCER,
    RANK,
    READ_RANK,
    ROLE,
    SUM_BITS,
    FlatGroup,
    Ints,
)
from cost_model.fused.state import NUM_TRANSFERS, Walk
from tvm_spm.jit import lean


@lean
def _banks(elems: int, bits: int, bank_bytes: int) -> int:
    num_bytes = (elems * bits + 7) >> 3
    return -(-num_bytes // bank_bytes) * bank_bytes


@lean
def _held_elems(flat: FlatGroup, walk: Walk, slot: int, rank: int, kept: int, rounds: Ints) -> int:
    """Elements of a buffer: with kept overlap, whole where tiles come and go between two uses of it."""
    elems = 1
    for axis in range(rank):
        extent, most = walk.extents[slot, axis], 1
        if kept >= 0 and flat.moves[slot, axis] >> (kept + 1) > 0:
            for sink_axis in range(kept + 1, len(rounds)):
                if flat.moves[slot, axis] >> sink_axis & 1:
                    most = max(most, rounds[sink_axis])
            shift = max(0, walk.spans[slot, axis, 1] - walk.spans[slot, axis, 0] - extent)
            extent = max(extent, min(flat.shape[slot, axis], extent + (most - 1) * shift))
        elems *= extent
    return elems


@lean
def peak_bytes(flat: FlatGroup, walk: Walk, kept: int, is_double: int, rounds: Ints, bank_bytes: int) -> int:
    """Most bytes that are live during any layer.

    Args:
        flat: The group.
        walk: What the core does.
        kept: The outermost axis along which overlap stays, -1 for none.
        is_double: 1 if external tensors have two buffers.
        rounds: 2 for each axis of the sink; or, if the walk saw two tiles along those inside the outermost one that is
            kept, how many there are.
        bank_bytes: Of the scratchpad.
    """
    num_layers, sink, elems = len(flat.layer), len(flat.layer) - 1, 1
    for axis in range(flat.layer[sink, RANK]):
        elems *= walk.moved[sink, axis]
    bits = max(flat.layer[sink, OUT_BITS], flat.layer[sink, SUM_BITS])
    always = (1 + is_double) * _banks(elems, bits, bank_bytes)
    for read in range(len(flat.read)):
        row, rank, slot = flat.read[read], flat.read[read, READ_RANK], num_layers + read
        loads, is_moved, fresh = walk.reads[read, NUM_TRANSFERS], False, 1
        if row[PRODUCER] >= 0 or loads == 0:
            continue
        if row[LAYER] == sink and flat.layer[sink, IS_MAC] and row[ROLE] == EXTRA:
            continue
        for axis in range(rank):
            is_moved = is_moved or flat.moves[slot, axis] != 0
            fresh *= walk.moved[slot, axis]
        one = _banks(_held_elems(flat, walk, slot, rank, kept, rounds), row[BITS], bank_bytes)
        if loads > 1 and kept >= 0 and is_double == 1 and is_moved:
            always += one + _banks(fresh, row[BITS], bank_bytes)
        else:
            always += one * (1 + is_double if loads > 1 else 1)
    most = 0
    for running in range(num_layers):
        live = always
        for layer in range(sink):
            is_live = kept >= 0 or layer <= running <= flat.layer[layer, LAST_READER]
            # what leaves is stored while later layers and the next tile run
            is_live = is_live or flat.layer[layer, LEAVES] == 1
            if is_live and walk.written[layer] > 0:
                bits = flat.layer[layer, OUT_BITS]
                if layer == running:
                    bits = max(bits, flat.layer[layer, SUM_BITS])
                elems = _held_elems(flat, walk, layer, flat.layer[layer, RANK], kept, rounds)
                live += _banks(elems, bits, bank_bytes)
        most = max(most, live)
    return most
