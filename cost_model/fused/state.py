"""What a walk over the tiles of one core writes down."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cost_model.fused.flat import K_LOOP, FlatGroup, Ints
from tvm_spm.arch import Arch
from tvm_spm.group import GroupMapping
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.units import ceil_div

STAGE_LAYER, SHAPE, NUM_LOADS, VECTOR_CYCLES, STORE_CHANNEL, STORE_ENGINE, STAGE_FIELDS = range(7)
"""Columns of a stage; ``SHAPE`` is -1 for vector work; store cycles are 0 where nothing leaves."""

LOAD_READ, LOAD_CYCLES, LOAD_WAIT, LOAD_FIELDS = range(4)
"""Columns of a load; ``LOAD_WAIT`` is the stage that must have finished before its buffer is free, -1 for none."""

SHAPE_LAYER, SHAPE_STAGES, SHAPE_DIMS = 0, 1, 2
SHAPE_FIELDS = SHAPE_DIMS + NUM_DIMS
"""Columns of a shape: layer, stages that have it, extents of its dims."""

MOVED_ELEMS, MOVED_BYTES, UNUSED_BITS, USED_ELEMS, NUM_TRANSFERS, READ_TOTALS = range(6)
"""Columns of ``reads``: loaded from DRAM, bytes of that in whole bursts and bits of those that no element needs,
elements in the boxes that stages read, transfers."""

(
    NUM_STAGES, NUM_STAGE_LOADS, NUM_SHAPES, BUSY_CYCLES, CHANNEL_CYCLES, STORED_ELEMS, STORED_BYTES,
    STORED_UNUSED_BITS, COUNTERS,
) = range(9)  # fmt: skip
"""Entries of ``counters``; the first three also say how much of the tables is filled."""


class Walk(NamedTuple):
    """One core's work.

    Attributes:
        stages: ``(stages, STAGE_FIELDS)``.
        loads: ``(loads, LOAD_FIELDS)``, in the order of stages.
        shapes: ``(shapes, SHAPE_FIELDS)`` of multiply-accumulate stages.
        counters: See ``NUM_STAGES`` and the following.
        reads: ``(reads, READ_TOTALS)``.
        written: Per layer elements that its stages write.
        layer_extents: ``(layers, axes)`` largest extents that a tile needs.
        layer_spans: ``(layers, axes, 2)`` bounding box of all that tiles need.
        read_extents: ``(reads, axes)`` largest extents that a stage needs, with padding for inputs and weights.
        read_spans: ``(reads, axes, 2)``.
        read_new: ``(reads, axes)`` largest extents of a load.
        store_extents: ``(axes,)`` of the sink's stages.
    """

    stages: Ints
    loads: Ints
    shapes: Ints
    counters: Ints
    reads: Ints
    written: Ints
    layer_extents: Ints
    layer_spans: Ints
    read_extents: Ints
    read_spans: Ints
    read_new: Ints
    store_extents: Ints


def unused_bits_of(walk: Walk) -> int:
    """What whole bursts bring along, over all transfers of a core."""
    return int(np.sum(walk.reads[:, UNUSED_BITS]) + walk.counters[STORED_UNUSED_BITS])


class Rates(NamedTuple):
    """Numbers of an accelerator that decide about transfers and vector work; bursts are whole ``burst_bits``."""

    burst_bits: int
    startup_cycles: float
    bytes_per_cycle: float
    vector_ops_per_cycle: float


def rates_of(arch: Arch) -> Rates:
    """Pick them."""
    return Rates(
        arch.burst_bits, float(arch.burst_startup_cycles), float(arch.dma_bytes_per_cycle),
        float(arch.vector.ops_per_cycle),
    )  # fmt: skip


def empty_walk(flat: FlatGroup, max_stages: int, max_shapes: int) -> Walk:
    """Tables to fill."""
    layers, rank = flat.shape.shape
    reads = len(flat.read)
    most_loads = int(np.max(flat.layer[:, 3] - flat.layer[:, 2]))
    return Walk(
        stages=np.zeros((max_stages, STAGE_FIELDS), np.int64),
        loads=np.zeros((max_stages * max(1, most_loads), LOAD_FIELDS), np.int64),
        shapes=np.zeros((max_shapes, SHAPE_FIELDS), np.int64),
        counters=np.zeros(COUNTERS, np.int64),
        reads=np.zeros((reads, READ_TOTALS), np.int64),
        written=np.zeros(layers, np.int64),
        layer_extents=np.zeros((layers, rank), np.int64),
        layer_spans=np.zeros((layers, rank, 2), np.int64),
        read_extents=np.zeros((reads, rank), np.int64),
        read_spans=np.zeros((reads, rank, 2), np.int64),
        read_new=np.zeros((reads, rank), np.int64),
        store_extents=np.zeros(rank, np.int64),
    )


class Share(NamedTuple):
    """What one core does: its part of the sink's output, and how.

    Attributes:
        chunk: ``(axes, 2)``.
        tile: Extents per axis.
        kept: Axes of the sink along which overlap stays, with more than one tile.
        k_tile: Per layer.
        is_double: Whether external tensors have two buffers.
    """

    chunk: Ints
    tile: Ints
    kept: Ints
    k_tile: Ints
    is_double: bool


def shares_of(mapping: GroupMapping, shape: tuple[int, ...]) -> list[Share]:
    """One per core, row-major."""
    chunk, rank = mapping.chunk(shape), len(shape)
    shares = []
    for index in np.ndindex(*mapping.cores):
        box = np.array(
            [(k * c, min(e, (k + 1) * c)) for k, c, e in zip(index, chunk, shape, strict=True)], np.int64
        ).reshape(rank, 2)  # fmt: skip
        extents = (box[:, 1] - box[:, 0]).tolist()
        kept = [axis for axis in mapping.kept if ceil_div(extents[axis], mapping.tile[axis]) > 1]
        shares.append(
            Share(
                box,
                np.array(mapping.tile, np.int64),
                np.array(kept, np.int64),
                np.array(mapping.k_tile, np.int64),
                mapping.double,
            )  # fmt: skip
        )
    return shares


def most_stages(flat: FlatGroup, share: Share) -> int:
    """No walk has more stages."""
    extents = share.chunk[:, 1] - share.chunk[:, 0]
    num_tiles = int(np.prod(-(-extents // share.tile)))
    chunks = np.where(flat.layer[:, 0] == 1, -(-flat.loops[:, K_LOOP] // share.k_tile), 1)
    return num_tiles * int(chunks.sum())
