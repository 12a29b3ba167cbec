"""Tiles of one core, from the sink backwards, and the stages they make, from the first layer on."""

from __future__ import annotations

import math

import numpy as np

from cost_model.fused.boxes import (
    axis_range,
    box_elems,
    clear,
    is_empty,
    is_same,
    loop_ranges,
    move,
    out_box,
    raise_box,
    read_box,
    widen,
)
from cost_model.fused.flat import (
    BITS,
    EXTRA,
    FIRST_ACCESS,
    FIRST_READ,
    IS_CONST,
    IS_MAC,
    K_LOOP,
    LAYER,
    NUM_OPS,
    OUT_BITS,
    PRODUCER,
    RANK,
    READ_RANK,
    ROLE,
    STOP_ACCESS,
    STOP_READ,
    USES_K,
    WEIGHT,
    FlatGroup,
    Ints,
)
from cost_model.fused.state import (
    BUSY_CYCLES,
    CHANNEL_CYCLES,
    LOAD_CYCLES,
    LOAD_READ,
    LOAD_WAIT,
    MOVED_BYTES,
    MOVED_ELEMS,
    NUM_LOADS,
    NUM_SHAPES,
    NUM_STAGE_LOADS,
    NUM_STAGES,
    NUM_TRANSFERS,
    SHAPE,
    SHAPE_DIMS,
    SHAPE_LAYER,
    SHAPE_STAGES,
    STAGE_LAYER,
    STORE_CHANNEL,
    STORE_ENGINE,
    STORED_BYTES,
    STORED_ELEMS,
    STORED_UNUSED_BITS,
    UNUSED_BITS,
    USED_ELEMS,
    VECTOR_CYCLES,
    Rates,
    Share,
    Walk,
)
from tvm_spm.jit import kernel
from tvm_spm.space.mapping_batch import NUM_DIMS

NO_ROOM = -1
"""The tables of a walk were too short."""


@kernel
def walk_core(flat: FlatGroup, rates: Rates, share: Share, most_chunks: int, walk: Walk) -> int:
    """Fill an empty ``walk`` with what a core does; returns the number of stages, or ``NO_ROOM``.

    Args:
        flat: The group.
        rates: Of the accelerator.
        share: Of the core.
        most_chunks: Of the channels of a layer and tile; the last counts for those beyond, and nothing is exact then.
        walk: Filled.
    """
    sink, rank = len(flat.layer) - 1, flat.layer[len(flat.layer) - 1, RANK]
    num_layers, num_reads, most_rank = len(flat.layer), len(flat.read), flat.shape.shape[1]
    count = np.ones(rank, np.int64)
    stride = np.ones(rank, np.int64)
    num_tiles = 1
    for axis in range(rank - 1, -1, -1):
        count[axis] = -(-(share.chunk[axis, 1] - share.chunk[axis, 0]) // share.tile[axis])
        stride[axis] = num_tiles
        num_tiles *= count[axis]
    num_kept = len(share.kept)
    history = np.empty((num_tiles if num_kept else 0, num_layers + num_reads, most_rank, 2), np.int64)
    for layer in range(num_layers):
        clear(walk.layer_spans[layer])
    for read in range(num_reads):
        clear(walk.read_spans[read])
    index = np.zeros(rank, np.int64)
    needed = np.empty((num_layers, most_rank, 2), np.int64)
    new = np.empty((num_layers, most_rank, 2), np.int64)
    loops = np.empty((flat.loops.shape[1], 2), np.int64)
    box = np.empty((most_rank, 2), np.int64)
    fresh = np.empty((most_rank, 2), np.int64)
    latest = np.empty((num_reads, most_rank, 2), np.int64)
    for read in range(num_reads):
        clear(latest[read])
    used = np.full(num_reads, -1, np.int64)
    used_before = np.full(num_reads, -1, np.int64)
    for tile in range(num_tiles):
        for layer in range(num_layers):
            clear(needed[layer])
        for axis in range(rank):
            needed[sink, axis, 0] = share.chunk[axis, 0] + index[axis] * share.tile[axis]
            needed[sink, axis, 1] = min(share.chunk[axis, 1], needed[sink, axis, 0] + share.tile[axis])
        for layer in range(sink, -1, -1):
            new[layer] = needed[layer]
            layer_rank = flat.layer[layer, RANK]
            nothing = is_empty(needed[layer], layer_rank)
            if num_kept:
                if nothing:
                    _inherit(history, tile, layer, share.kept, index, stride, layer_rank)
                else:
                    history[tile, layer] = needed[layer]
            for k in range(num_kept):
                axis = share.kept[k]
                if index[axis] > 0 and not nothing:
                    before = history[tile - stride[axis], layer]
                    raise_box(needed[layer], before, flat.layer_moves[layer], axis, layer_rank, new[layer])
            if not nothing:
                _note(needed[layer], layer_rank, walk.layer_extents[layer], walk.layer_spans[layer])
            if nothing or is_empty(new[layer], layer_rank):
                new[layer, 0, 1] = new[layer, 0, 0]
                continue
            loop_ranges(flat, layer, new[layer], loops)
            for read in range(flat.layer[layer, FIRST_READ], flat.layer[layer, STOP_READ]):
                if flat.read[read, PRODUCER] >= 0:
                    read_box(flat, read, loops, box)
                    if not is_empty(box, flat.read[read, READ_RANK]):
                        widen(needed[flat.read[read, PRODUCER]], box, flat.read[read, READ_RANK])
        for layer in range(num_layers):
            is_mac, k_first, k_stop, k_tile = flat.layer[layer, IS_MAC], 0, 1, 1
            is_idle = is_empty(new[layer], flat.layer[layer, RANK])
            if is_idle:
                k_stop = 0
            else:
                loop_ranges(flat, layer, new[layer], loops)
                if is_mac:
                    k_first, k_stop = loops[K_LOOP, 0], loops[K_LOOP, 1]
                    k_tile = min(share.k_tile[layer], k_stop - k_first)
            is_chunked = k_stop - k_first > k_tile
            if is_idle and num_kept:
                for read in range(flat.layer[layer, FIRST_READ], flat.layer[layer, STOP_READ]):
                    read_rank = flat.read[read, READ_RANK]
                    _inherit(history, tile, num_layers + read, share.kept, index, stride, read_rank)
            num_chunks = -(-(k_stop - k_first) // k_tile)
            for chunk in range(min(num_chunks, most_chunks)):
                k_at, times = k_first + chunk * k_tile, 1
                if chunk == most_chunks - 1:
                    times = num_chunks - chunk
                if is_mac:
                    loops[K_LOOP, 0], loops[K_LOOP, 1] = k_at, min(k_stop, k_at + k_tile)
                stage = walk.counters[NUM_STAGES]
                if stage == len(walk.stages):
                    return NO_ROOM
                walk.counters[NUM_STAGES] = stage + 1
                row = walk.stages[stage]
                row[STAGE_LAYER], row[SHAPE], row[NUM_LOADS] = layer, -1, 0
                row[STORE_CHANNEL] = row[STORE_ENGINE] = 0
                extras_cycles = 0
                for read in range(flat.layer[layer, FIRST_READ], flat.layer[layer, STOP_READ]):
                    role, read_rank = flat.read[read, ROLE], flat.read[read, READ_RANK]
                    read_box(flat, read, loops, box)
                    nothing = is_empty(box, read_rank)
                    is_external = flat.read[read, PRODUCER] < 0
                    for axis in range(read_rank):
                        fresh[axis, 0], fresh[axis, 1] = box[axis, 0], box[axis, 1]
                    if num_kept and is_external:
                        is_raised = flat.read[read, IS_CONST] == 0 and role != WEIGHT
                        is_raised = is_raised and not (is_chunked and flat.read[read, USES_K])
                        if nothing:
                            _inherit(history, tile, num_layers + read, share.kept, index, stride, read_rank)
                        else:
                            history[tile, num_layers + read] = box
                        for k in range(num_kept):
                            axis = share.kept[k]
                            if index[axis] > 0 and is_raised and not nothing:
                                before = history[tile - stride[axis], num_layers + read]
                                raise_box(box, before, flat.read_moves[read], axis, read_rank, fresh)
                    if nothing:
                        continue
                    walk.reads[read, USED_ELEMS] += times * box_elems(box, read_rank)
                    if not is_external:
                        continue
                    is_streamed = layer == sink and is_mac and role == EXTRA
                    if not is_streamed:
                        last_used, used[read] = used[read], stage
                        if is_same(box, latest[read], read_rank):
                            continue
                        latest[read] = box
                        _note_read(flat, read, loops, box, walk)
                        if is_empty(fresh, read_rank):
                            continue
                    elems = box_elems(box if is_streamed else fresh, read_rank)
                    bits = flat.read[read, BITS]
                    cycles, moved_bits = move(
                        box if is_streamed else fresh, flat.read_shape[read], read_rank, bits, rates
                    )
                    walk.reads[read, MOVED_ELEMS] += times * elems
                    walk.reads[read, MOVED_BYTES] += times * ((moved_bits + 7) >> 3)
                    walk.reads[read, UNUSED_BITS] += times * (moved_bits - elems * bits)
                    walk.reads[read, NUM_TRANSFERS] += 1
                    if is_streamed:
                        extras_cycles += cycles
                        continue
                    for axis in range(read_rank):
                        walk.read_new[read, axis] = max(walk.read_new[read, axis], fresh[axis, 1] - fresh[axis, 0])
                    load = walk.loads[walk.counters[NUM_STAGE_LOADS]]
                    walk.counters[NUM_STAGE_LOADS] += 1
                    walk.counters[BUSY_CYCLES] += times * cycles
                    walk.counters[CHANNEL_CYCLES] += times * cycles
                    load[LOAD_READ], load[LOAD_CYCLES] = read, cycles
                    load[LOAD_WAIT] = used_before[read] if share.is_double else last_used
                    used_before[read] = last_used
                    row[NUM_LOADS] += 1
                out_box(flat, layer, loops, box)
                elems = box_elems(box, flat.layer[layer, RANK])
                walk.written[layer] += times * elems
                vector_cycles = int(math.ceil(elems * flat.layer[layer, NUM_OPS] / rates.vector_ops_per_cycle))
                row[VECTOR_CYCLES] = 0 if layer == sink and is_mac else times * vector_cycles
                if layer == sink:
                    _store(flat, rates, box, elems, extras_cycles, vector_cycles if is_mac else 0, times, row, walk)
                if is_mac:
                    row[SHAPE] = _shape_of(layer, loops, times, walk)
                    if row[SHAPE] < 0:
                        return NO_ROOM
        axis = rank - 1
        while axis >= 0 and index[axis] == count[axis] - 1:
            index[axis] = 0
            axis -= 1
        if axis >= 0:
            index[axis] += 1
    return walk.counters[NUM_STAGES]


@kernel
def _inherit(history: Ints, tile: int, slot: int, kept: Ints, index: Ints, stride: Ints, rank: int) -> None:
    """What a tile does not need is there as long as a tile before it had it."""
    clear(history[tile, slot])
    for k in range(len(kept)):
        axis = kept[k]
        if index[axis] > 0 and not is_empty(history[tile - stride[axis], slot], rank):
            history[tile, slot] = history[tile - stride[axis], slot]


@kernel
def _store(
    flat: FlatGroup,
    rates: Rates,
    box: Ints,
    elems: int,
    extras_cycles: int,
    vector_cycles: int,
    times: int,
    row: Ints,
    walk: Walk,
) -> None:
    """The store after a stage of the sink: external extras stream by while the vector unit works."""
    sink = len(flat.layer) - 1
    rank = flat.layer[sink, RANK]
    bits = flat.layer[sink, OUT_BITS]
    cycles, moved_bits = move(box, flat.shape[sink], rank, bits, rates)
    cycles += extras_cycles
    row[STORE_CHANNEL], row[STORE_ENGINE] = cycles, max(cycles, vector_cycles)
    walk.counters[STORED_ELEMS] += times * elems
    walk.counters[STORED_BYTES] += times * ((moved_bits + 7) >> 3)
    walk.counters[STORED_UNUSED_BITS] += times * (moved_bits - elems * bits)
    walk.counters[CHANNEL_CYCLES] += times * cycles
    walk.counters[BUSY_CYCLES] += times * row[STORE_ENGINE]
    for axis in range(rank):
        walk.store_extents[axis] = max(walk.store_extents[axis], box[axis, 1] - box[axis, 0])


@kernel
def _note(box: Ints, rank: int, extents: Ints, span: Ints) -> None:
    """Keep the largest extents and the bounding box."""
    widen(span, box, rank)
    for axis in range(rank):
        extents[axis] = max(extents[axis], box[axis, 1] - box[axis, 0])


@kernel
def _note_read(flat: FlatGroup, read: int, loops: Ints, box: Ints, walk: Walk) -> None:
    """As ``_note``; inputs and weights of the array lie in the scratchpad with their padding."""
    rank = flat.read[read, READ_RANK]
    _note(box, rank, walk.read_extents[read], walk.read_spans[read])
    is_single = flat.read[read, STOP_ACCESS] - flat.read[read, FIRST_ACCESS] == 1
    if is_single and flat.layer[flat.read[read, LAYER], IS_MAC] and flat.read[read, ROLE] < EXTRA:
        for axis in range(rank):
            low, high = axis_range(flat.access[flat.read[read, FIRST_ACCESS], axis], loops)
            walk.read_extents[read, axis] = max(walk.read_extents[read, axis], high - low)


@kernel
def _shape_of(layer: int, loops: Ints, times: int, walk: Walk) -> int:
    """Number of the stage's extents, -1 if there is no room for a new one."""
    num_shapes = walk.counters[NUM_SHAPES]
    for shape in range(num_shapes - 1, -1, -1):
        row = walk.shapes[shape]
        if row[SHAPE_LAYER] != layer:
            continue
        is_equal = True
        for d in range(NUM_DIMS):
            if row[SHAPE_DIMS + d] != loops[d, 1] - loops[d, 0]:
                is_equal = False
                break
        if is_equal:
            row[SHAPE_STAGES] += times
            return shape
    if num_shapes == len(walk.shapes):
        return -1
    row = walk.shapes[num_shapes]
    row[SHAPE_LAYER], row[SHAPE_STAGES] = layer, times
    for d in range(NUM_DIMS):
        row[SHAPE_DIMS + d] = loops[d, 1] - loops[d, 0]
    walk.counters[NUM_SHAPES] = num_shapes + 1
    return num_shapes
