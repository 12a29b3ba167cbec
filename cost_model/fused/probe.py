"""Walks of many parts of a sink: what the scratchpad must hold, and roughly what their tiles cost."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cost_model.fused.capacity import peak_bytes
from cost_model.fused.flat import BITS, LEAVES, OUT_BITS, READ_RANK, FlatGroup, Ints
from cost_model.fused.state import (
    CHANNEL_CYCLES,
    MOVED_ELEMS,
    NUM_SHAPES,
    NUM_STAGES,
    NUM_TRANSFERS,
    PEAK_BYTES,
    SHAPE_DIMS,
    SHAPE_STAGES,
    STORED_UNUSED_BITS,
    UNUSED_BITS,
    VECTOR_CYCLES,
    CorePart,
    Machine,
    Walk,
    WalkRoom,
)
from cost_model.fused.walk import walk_core
from tvm_spm.jit import entry, lean
from tvm_spm.space.mapping_batch import NUM_DIMS

SINGLE_BYTES, DOUBLE_BYTES, MACS, WEIGHT_ELEMS, VECTOR, DMA_CYCLES, ONCE_CYCLES, DRAM_BITS, ONCE_BITS, STAGES = range(
    10
)
"""Columns of what is found: bytes with one and with two buffers, then the costs; ``ONCE`` are those that do not come
back; ``STAGES`` is ``NO_ROOM`` where the tables of the walk were too short."""

PROBE_FIELDS = 10

MOST_CHUNKS = 2
"""Of the channels of a layer and tile; enough to tell whether its weights change."""

ALL_CHUNKS = 1 << 62


class Beyond(NamedTuple):
    """What a walk of a few tiles in the middle of a part does not see; nothing for a walk of all of it.

    Attributes:
        cut: Per part, bits of the sink's axes along which it goes on.
        rounds: Per part and axis, tiles of all of it; 2 if all is walked.
    """

    cut: Ints
    rounds: Ints


def few_tiles(part: CorePart) -> tuple[CorePart, Beyond, Ints]:
    """Of each row, one tile in the middle, or two along axes of overlap that stays and along those inside of them.

    Returns:
        What to walk, what that does not see, and how many tiles it is.
    """
    rounds = part.num_tiles()
    kept = part.kept * (rounds > 1)
    walked = np.where((rounds > 1) & (np.cumsum(kept, axis=1) > 0), 2, 1)
    first = part.chunk[:, :, 0] + np.maximum(0, (rounds - walked) // 2) * part.tile
    stop = np.minimum(part.chunk[:, :, 1], first + walked * part.tile)
    cut = ((rounds > 1) << np.arange(rounds.shape[1])).sum(axis=1)
    few = part._replace(chunk=np.stack([first, stop], axis=2), kept=kept)
    return few, Beyond(cut, rounds), np.asarray(walked.prod(axis=1))


@entry
def walk_parts(
    flat: FlatGroup, machine: Machine, parts: CorePart, beyond: Beyond, most_chunks: int, walk: Walk, room: WalkRoom,
    found: Ints,
) -> None:  # fmt: skip
    """Walk part by part; ``walk`` is that of the last one.

    Args:
        flat: The group.
        machine: The accelerator.
        parts: One row each.
        beyond: What the walks do not see.
        most_chunks: See ``walk.walk_core``.
        walk: Tables.
        room: Scratch.
        found: ``(parts, PROBE_FIELDS)``; parts that do not fit the tables need ``1 << 62`` bytes.
    """
    for row in range(len(found)):
        clear_walk(walk)
        part = CorePart(
            parts.chunk[row], parts.tile[row], parts.kept[row], parts.k_tile[row], parts.double[row : row + 1]
        )
        found[row, STAGES] = walk_core(flat, machine, part, most_chunks, walk, room)
        if found[row, STAGES] < 0:
            found[row, SINGLE_BYTES] = found[row, DOUBLE_BYTES] = 1 << 62
            continue
        kept = -1
        for axis in range(len(part.kept) - 1, -1, -1):
            kept = axis if part.kept[axis] == 1 else kept
        for read in range(len(flat.read)):
            for axis in range(flat.read[read, READ_RANK]):
                if flat.moves[len(flat.layer) + read, axis] & beyond.cut[row]:
                    if walk.reads[read, NUM_TRANSFERS] == 1:
                        walk.reads[read, NUM_TRANSFERS] = 2
        for is_double in range(2):
            found[row, SINGLE_BYTES + is_double] = peak_bytes(
                flat, walk, kept, is_double, beyond.rounds[row], machine.bank_bytes
            )
        walk.counters[PEAK_BYTES] = found[row, SINGLE_BYTES + part.double[0]]
        _sum_up(flat, machine, walk, found[row])


@lean
def clear_walk(walk: Walk) -> None:
    """Empty the tables that add up."""
    walk.counters[:] = 0
    walk.reads[:] = 0
    walk.written[:] = 0
    walk.extents[:] = 0
    walk.moved[:] = 0


@lean
def _sum_up(flat: FlatGroup, machine: Machine, walk: Walk, found: Ints) -> None:
    """Set the costs of a walk."""
    for column in range(MACS, STAGES):
        found[column] = 0
    for shape in range(walk.counters[NUM_SHAPES]):
        dims, times = walk.shapes[shape, SHAPE_DIMS:], walk.shapes[shape, SHAPE_STAGES]
        macs = times
        for d in range(NUM_DIMS):
            macs *= dims[d]
        found[MACS] += macs
        found[WEIGHT_ELEMS] += times * dims[1] * dims[2] * dims[3] * dims[6] * dims[7]
    for stage in range(walk.counters[NUM_STAGES]):
        found[VECTOR] += walk.stages[stage, VECTOR_CYCLES]
    found[DMA_CYCLES] = walk.counters[CHANNEL_CYCLES]
    found[DRAM_BITS] = walk.counters[STORED_UNUSED_BITS]
    for layer in range(len(flat.layer)):
        found[DRAM_BITS] += walk.written[layer] * flat.layer[layer, OUT_BITS] * flat.layer[layer, LEAVES]
    for read in range(len(flat.read)):
        bits = walk.reads[read, MOVED_ELEMS] * flat.read[read, BITS] + walk.reads[read, UNUSED_BITS]
        if walk.reads[read, NUM_TRANSFERS] == 1:
            found[ONCE_BITS] += bits
            found[ONCE_CYCLES] += int(bits / 8 / machine.bytes_per_cycle)
        else:
            found[DRAM_BITS] += bits
    found[DMA_CYCLES] = max(0, found[DMA_CYCLES] - found[ONCE_CYCLES])
