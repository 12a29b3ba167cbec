"""Cores that do the same: their shares lie alike to the borders of every tensor."""

from __future__ import annotations

from cost_model.fused.boxes import FAR, axis_range, clear, loop_ranges, widen
from cost_model.fused.flat import (
    FIRST_ACCESS,
    FIRST_READ,
    NUM_TERMS,
    PRODUCER,
    RANK,
    READ_RANK,
    STOP_ACCESS,
    STOP_READ,
    TERMS,
    FlatGroup,
    Ints,
)
from tvm_spm.jit import part


@part
def fill_signatures(flat: FlatGroup, chunks: Ints, needed: Ints, loops: Ints, box: Ints, signatures: Ints) -> None:
    """One row per core; cores with equal rows have equal stages and transfers.

    A row holds the extents of the share, how far each needed box, padding included, reaches beyond the borders of its
    tensor, and where it starts if the tensor's index is not simply a loop.

    Args:
        flat: The group.
        chunks: ``(cores, axes, 2)``.
        needed: Scratch ``(layers, axes, 2)``.
        loops: Scratch ``(loops, 2)``.
        box: Scratch ``(axes, 2)``.
        signatures: Filled.
    """
    sink = len(flat.layer) - 1
    for core in range(len(chunks)):
        at = 0
        for layer in range(sink):
            clear(needed[layer])
        for axis in range(flat.layer[sink, RANK]):
            needed[sink, axis, 0], needed[sink, axis, 1] = chunks[core, axis, 0], chunks[core, axis, 1]
            signatures[core, at] = chunks[core, axis, 1] - chunks[core, axis, 0]
            at += 1
        for layer in range(sink, -1, -1):
            for axis in range(flat.layer[layer, RANK]):
                row = flat.out_axes[layer, axis]
                low, high = needed[layer, axis, 0], needed[layer, axis, 1]
                is_plain = row[NUM_TERMS] == 0 or (row[NUM_TERMS] == 1 and row[TERMS + 1] == 1)
                signatures[core, at] = min(0, low)
                signatures[core, at + 1] = max(0, high - flat.shape[layer, axis])
                signatures[core, at + 2] = 0 if is_plain else low
                at += 3
            loop_ranges(flat, layer, needed[layer], loops)
            for read in range(flat.layer[layer, FIRST_READ], flat.layer[layer, STOP_READ]):
                rank = flat.read[read, READ_RANK]
                for axis in range(rank):
                    box[axis, 0], box[axis, 1] = FAR, -FAR
                    for place in range(flat.read[read, FIRST_ACCESS], flat.read[read, STOP_ACCESS]):
                        low, high = axis_range(flat.access[place, axis], loops)
                        box[axis, 0], box[axis, 1] = min(box[axis, 0], low), max(box[axis, 1], high)
                        # each access is clipped on its own
                        signatures[core, at] = min(0, low)
                        signatures[core, at + 1] = max(0, high - flat.read_shape[read, axis])
                        at += 2
                if flat.read[read, PRODUCER] >= 0:
                    widen(needed[flat.read[read, PRODUCER]], box, rank)
