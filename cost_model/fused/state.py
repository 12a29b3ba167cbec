"""What a walk over the tiles of one core is given, and what it writes down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cost_model.fused.flat import FIRST_READ, IS_MAC, K_LOOP, STOP_READ, FlatGroup, Ints
from tvm_spm.arch import Arch
from tvm_spm.group import GroupMapping
from tvm_spm.space.mapping_batch import NUM_DIMS

STAGE_LAYER, SHAPE, NUM_LOADS, VECTOR_CYCLES, STORE_CHANNEL, STORE_ENGINE, STORE_WAIT, STAGE_FIELDS = range(8)
"""Columns of a stage; ``SHAPE`` is -1 for vector work; store cycles are 0 where nothing leaves; ``STORE_WAIT`` is which
of the core's stores must be done before there is room for what leaves, -1 for none."""

LOAD_READ, LOAD_CYCLES, LOAD_WAIT, LOAD_FIELDS = range(4)
"""Columns of a load; ``LOAD_WAIT`` is the stage that must have finished before its buffer is free, -1 for none."""

SHAPE_LAYER, SHAPE_STAGES, SHAPE_DIMS = 0, 1, 2
SHAPE_FIELDS = SHAPE_DIMS + NUM_DIMS
"""Columns of a shape: layer, stages that have it, extents of its dims."""

MOVED_ELEMS, MOVED_BYTES, UNUSED_BITS, USED_ELEMS, NUM_TRANSFERS, READ_TOTALS = range(6)
"""Columns of ``reads``: loaded from DRAM, bytes of that in whole bursts and bits of those that no element needs,
elements in the boxes that stages read, transfers."""

(
    NUM_STAGES, NUM_STAGE_LOADS, NUM_SHAPES, NUM_STORES, BUSY_CYCLES, CHANNEL_CYCLES, STORED_BYTES,
    STORED_UNUSED_BITS, PEAK_BYTES, NUM_PARTIAL, COUNTERS,
) = range(11)  # fmt: skip
"""Entries of ``counters``; the first three also say how much of the tables is filled; ``PEAK_BYTES`` is the
most that is live at once, with the buffers the part has; ``NUM_PARTIAL`` counts boxes that hold but a part of the inner
ones of loops that share an axis."""


class Walk(NamedTuple):
    """One core's work; slots are those of the group.

    Attributes:
        stages: ``(stages, STAGE_FIELDS)``.
        loads: ``(loads, LOAD_FIELDS)``, in the order of stages.
        shapes: ``(shapes, SHAPE_FIELDS)`` of multiply-accumulate stages.
        counters: See ``NUM_STAGES`` and the following.
        reads: ``(reads, READ_TOTALS)``.
        written: Per layer elements that its stages write; all of them are stored if it leaves.
        extents: ``(slots, axes)`` largest extents that a tile or a stage needs, with padding for inputs and weights.
        spans: ``(slots, axes, 2)`` bounding box of all that is needed.
        moved: ``(slots, axes)`` largest extents of a load, or of a store of the sink.
    """

    stages: Ints
    loads: Ints
    shapes: Ints
    counters: Ints
    reads: Ints
    written: Ints
    extents: Ints
    spans: Ints
    moved: Ints


class WalkRoom(NamedTuple):
    """What a walk writes on.

    Attributes:
        history: ``(tiles, slots, axes, 2)``, what tiles needed; no tiles if no overlap stays.
        needed: ``(slots, axes, 2)``: of layers what the tile needs, of reads the box that a buffer holds.
        new: ``(layers + 2, axes, 2)``: what of it is not there; and two boxes of a stage.
        loops: ``(loops, 2)``.
        axes: ``(4, axes)``: index, tiles, stride of the tiles, and the axes along which overlap stays.
        used: ``(2, reads)``: the last stage that used the buffer of a read, and the one before.
        stored: ``(2, layers)``: the last store of what a layer writes, and the one before; -1 for none.
    """

    history: Ints
    needed: Ints
    new: Ints
    loops: Ints
    axes: Ints
    used: Ints
    stored: Ints


def unused_bits_of(walk: Walk) -> int:
    """What whole bursts bring along, over all transfers of a core."""
    return int(np.sum(walk.reads[:, UNUSED_BITS]) + walk.counters[STORED_UNUSED_BITS])


class Machine(NamedTuple):
    """Numbers of an accelerator that decide about transfers, vector work and room; bursts are whole ``burst_bits``."""

    burst_bits: int
    startup_cycles: float
    bytes_per_cycle: float
    vector_ops_per_cycle: float
    bank_bytes: int


def machine_of(arch: Arch) -> Machine:
    """Pick them."""
    return Machine(
        arch.burst_bits, float(arch.burst_startup_cycles), float(arch.dma_bytes_per_cycle),
        float(arch.vector.ops_per_cycle), arch.levels.SPM.bank_bytes,
    )  # fmt: skip


def empty_walk(flat: FlatGroup, max_stages: int, max_shapes: int) -> Walk:
    """Tables to fill."""
    slots, rank = flat.shape.shape
    most_loads = int(np.max(flat.layer[:, STOP_READ] - flat.layer[:, FIRST_READ]))
    return Walk(
        stages=np.zeros((max_stages, STAGE_FIELDS), np.int64),
        loads=np.zeros((max_stages * max(1, most_loads), LOAD_FIELDS), np.int64),
        shapes=np.zeros((max_shapes, SHAPE_FIELDS), np.int64),
        counters=np.zeros(COUNTERS, np.int64),
        reads=np.zeros((len(flat.read), READ_TOTALS), np.int64),
        written=np.zeros(flat.num_layers, np.int64),
        extents=np.zeros((slots, rank), np.int64),
        spans=np.zeros((slots, rank, 2), np.int64),
        moved=np.zeros((slots, rank), np.int64),
    )


def empty_room(flat: FlatGroup, max_tiles: int) -> WalkRoom:
    """Room for walks over up to so many tiles with overlap that stays."""
    slots, rank = flat.shape.shape
    return WalkRoom(
        np.empty((max_tiles, slots, rank, 2), np.int64), np.zeros((slots, rank, 2), np.int64),
        np.zeros((flat.num_layers + 2, rank, 2), np.int64), np.zeros((flat.loops.shape[1], 2), np.int64),
        np.zeros((4, rank), np.int64), np.zeros((2, len(flat.read)), np.int64),
        np.zeros((2, flat.num_layers), np.int64),
    )  # fmt: skip


class CorePart(NamedTuple):
    """What one core does, or one row per core: its part of the sink's output, and how.

    Attributes:
        chunk: ``(axes, 2)``.
        tile: Extents per axis.
        kept: Per axis of the sink, 1 if overlap stays along it and it has more than one tile.
        k_tile: Per layer.
        double: 1 if external tensors have two buffers.
    """

    chunk: Ints
    tile: Ints
    kept: Ints
    k_tile: Ints
    double: Ints

    def num_tiles(self) -> Ints:
        """Per axis."""
        tiles: Ints = -(-(self.chunk[..., 1] - self.chunk[..., 0]) // self.tile)
        return tiles

    def row(self, number: int) -> CorePart:
        """One core of many, as the only row."""
        return CorePart._make(column[number : number + 1] for column in self)


def parts_of(mapping: GroupMapping, shape: tuple[int, ...]) -> CorePart:
    """One row per core, row-major."""
    index = np.array(list(np.ndindex(*mapping.cores)), np.int64).reshape(mapping.num_cores, len(shape))
    first = index * np.array(mapping.chunk(shape), np.int64)
    stop = np.minimum(np.array(shape, np.int64), first + np.array(mapping.chunk(shape), np.int64))
    num = len(index)
    part = CorePart(
        np.stack([first, stop], axis=2), np.tile(np.array(mapping.tile, np.int64), (num, 1)),
        np.zeros((num, len(shape)), np.int64), np.tile(np.array(mapping.k_tile, np.int64), (num, 1)),
        np.full(num, int(mapping.double), np.int64),
    )  # fmt: skip
    part.kept[:, list(mapping.kept)] = 1
    return part._replace(kept=part.kept * (part.num_tiles() > 1))


def most_stages(flat: FlatGroup, part: CorePart) -> int:
    """No walk of the first row has more stages."""
    chunks = np.where(flat.layer[:, IS_MAC] == 1, -(-flat.loops[:, K_LOOP] // part.k_tile[0]), 1)
    return int(np.prod(part.num_tiles()[0])) * int(chunks.sum())


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What all cores do.

    Attributes:
        reduction_pes: Per layer, PEs that add up one output.
        walks: Per kind of core.
        records: Per kind, the passes of its shapes.
        kind: Per core.
        double: Whether external tensors have two buffers.
    """

    reduction_pes: Sequence[int]
    walks: Sequence[Walk]
    records: Sequence[Ints]
    kind: Ints
    double: bool

    @property
    def num_cores(self) -> list[int]:
        """Per kind."""
        return [int(count) for count in np.bincount(self.kind, minlength=len(self.walks))]
