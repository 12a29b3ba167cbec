"""At least what mappings of a group cost, from tiles along one axis of the sink at a time.

Along every axis of the sink, boxes of all tensors follow from the tile's place on that axis alone, if no two axes of
the sink move the same axis of a tensor. What a tile needs is then a product over axes, and so are sums over all tiles:
walks that cut one axis and leave the others whole give the sums of every combination. ``bound`` multiplies them.

Rows and columns of a pixel shuffle choose among the channels of what it reads: where tiles span all residues they
choose all. A way to cut that leaves some out (``Profile.partial``) is not exact; see ``Cuts.exact``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.fused.flat import FlatGroup, Ints
from cost_model.fused.probe import ALL_CHUNKS, clear_walk
from cost_model.fused.state import (
    MOVED_ELEMS,
    NUM_PARTIAL,
    NUM_SHAPES,
    NUM_STAGES,
    NUM_TRANSFERS,
    SHAPE_FIELDS,
    STAGE_LAYER,
    USED_ELEMS,
    CorePart,
    Machine,
    Walk,
    WalkRoom,
)
from cost_model.fused.walk import walk_core
from tvm_spm.jit import entry

Floats = NDArray[np.float64]

PART, SHAPES = 0, 1
"""Columns of the shapes of parts: the part; from ``SHAPES`` on a row of ``Walk.shapes``."""


class Profile(NamedTuple):
    """Sums over the tiles of one core, one row per way to cut; or relative to the group in one tile.

    Attributes:
        written: ``(rows, layers)`` elements.
        stages: ``(rows, layers)`` tiles in which the layer has work.
        moved: ``(rows, reads)`` elements.
        used: ``(rows, reads)`` elements.
        transfers: ``(rows, reads)``.
        extents: ``(rows, slots, axes)`` as ``state.Walk``.
        spans: ``(rows, slots, axes)``, lengths.
        fresh: ``(rows, slots, axes)``, ``Walk.moved``.
        partial: ``(rows,)``, see ``state.NUM_PARTIAL``.
    """

    written: Floats
    stages: Floats
    moved: Floats
    used: Floats
    transfers: Floats
    extents: Ints
    spans: Ints
    fresh: Ints
    partial: Ints


def empty_profile(flat: FlatGroup, num_rows: int) -> Profile:
    """To fill."""
    layers, reads, slots = (num_rows, flat.num_layers), (num_rows, len(flat.read)), (num_rows, *flat.shape.shape)
    return Profile(
        np.zeros(layers), np.zeros(layers), np.zeros(reads), np.zeros(reads), np.zeros(reads),
        np.zeros(slots, np.int64), np.zeros(slots, np.int64), np.zeros(slots, np.int64), np.zeros(num_rows, np.int64),
    )  # fmt: skip


@entry
def profile_parts(
    flat: FlatGroup, machine: Machine, parts: CorePart, walk: Walk, room: WalkRoom, shapes: Ints, found: Profile
) -> int:
    """Walk part by part; every layer computes all of its channels at a time.

    Returns:
        How many shapes there are; those that have no room are left out.

    Args:
        flat: The group.
        machine: The accelerator.
        parts: One row each.
        walk: Tables, large enough for each.
        room: Scratch.
        shapes: ``(shapes, 1 + SHAPE_FIELDS)``, filled: see ``PART``.
        found: Filled.
    """
    num_shapes = 0
    for row in range(len(parts.tile)):
        clear_walk(walk)
        part = CorePart(
            parts.chunk[row], parts.tile[row], parts.kept[row], parts.k_tile[row], parts.double[row : row + 1]
        )
        walk_core(flat, machine, part, ALL_CHUNKS, walk, room)
        found.partial[row] = walk.counters[NUM_PARTIAL]
        for shape in range(walk.counters[NUM_SHAPES]):
            if num_shapes < len(shapes):
                shapes[num_shapes, PART] = row
                for column in range(SHAPE_FIELDS):
                    shapes[num_shapes, SHAPES + column] = walk.shapes[shape, column]
            num_shapes += 1
        for layer in range(len(flat.layer)):
            found.written[row, layer] = walk.written[layer]
        for stage in range(walk.counters[NUM_STAGES]):
            found.stages[row, walk.stages[stage, STAGE_LAYER]] += 1.0
        for read in range(len(flat.read)):
            found.moved[row, read] = walk.reads[read, MOVED_ELEMS]
            found.used[row, read] = walk.reads[read, USED_ELEMS]
            found.transfers[row, read] = walk.reads[read, NUM_TRANSFERS]
        for slot in range(len(flat.shape)):
            for axis in range(flat.shape.shape[1]):
                found.extents[row, slot, axis] = walk.extents[slot, axis]
                found.spans[row, slot, axis] = max(0, walk.spans[slot, axis, 1] - walk.spans[slot, axis, 0])
                found.fresh[row, slot, axis] = walk.moved[slot, axis]
    return num_shapes
