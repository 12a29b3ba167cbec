"""Cores that do the same: their shares lie alike to the borders of every tensor."""

from __future__ import annotations

import numpy as np

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
from cost_model.fused.state import CorePart
from tvm_spm.jit import entry


def kinds_of(flat: FlatGroup, parts: CorePart) -> tuple[CorePart, Ints]:
    """One row of each kind, and which kind every core is of."""
    rank = flat.shape.shape[1]
    signatures = np.zeros((len(parts.chunk), rank * (1 + 3 * flat.num_layers + 2 * len(flat.access))), np.int64)
    boxes = np.zeros((flat.num_layers + 1, rank, 2), np.int64)
    fill_signatures(flat, parts.chunk, boxes, np.zeros((flat.loops.shape[1], 2), np.int64), signatures)
    numbers: dict[bytes, int] = {}
    kind = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in signatures], np.int64)
    first = [int(np.argmax(kind == number)) for number in range(len(numbers))]
    return CorePart._make(column[first] for column in parts), kind


@entry
def fill_signatures(flat: FlatGroup, chunks: Ints, needed: Ints, loops: Ints, signatures: Ints) -> None:
    """One row per core; cores with equal rows have equal stages and transfers.

    A row holds the extents of the share, how far each needed box, padding included, reaches beyond the borders of its
    tensor, and where it starts if the tensor's index is not simply a loop.

    Args:
        flat: The group.
        chunks: ``(cores, axes, 2)``.
        needed: Scratch ``(layers + 1, axes, 2)``.
        loops: Scratch ``(loops, 2)``.
        signatures: Filled.
    """
    num_layers, sink, box = len(flat.layer), len(flat.layer) - 1, needed[len(flat.layer)]
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
                        signatures[core, at + 1] = max(0, high - flat.shape[num_layers + read, axis])
                        at += 2
                if flat.read[read, PRODUCER] >= 0:
                    widen(needed[flat.read[read, PRODUCER]], box, rank)
