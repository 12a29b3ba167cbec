"""Tiles of one core, from the sink backwards, and the stages they make, from the first layer on."""

from __future__ import annotations

import math

from cost_model.fused.boxes import (
    axis_range,
    box_elems,
    clear,
    copy,
    is_empty,
    is_partial,
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
    LEAVES,
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
    NUM_PARTIAL,
    NUM_SHAPES,
    NUM_STAGE_LOADS,
    NUM_STAGES,
    NUM_STORES,
    NUM_TRANSFERS,
    SHAPE,
    SHAPE_DIMS,
    SHAPE_LAYER,
    SHAPE_STAGES,
    STAGE_LAYER,
    STORE_CHANNEL,
    STORE_ENGINE,
    STORE_WAIT,
    STORED_BYTES,
    STORED_UNUSED_BITS,
    UNUSED_BITS,
    USED_ELEMS,
    VECTOR_CYCLES,
    CorePart,
    Machine,
    Walk,
    WalkRoom,
)
from tvm_spm.jit import lean
from tvm_spm.space.mapping_batch import NUM_DIMS

NO_ROOM = -1
"""The tables of a walk were too short."""

_INDEX, _COUNT, _STRIDE, _KEPT = range(4)
"""Rows of ``WalkRoom.axes``."""

_NOW, _BEFORE = 0, 1
"""Rows of ``WalkRoom.used`` and ``WalkRoom.stored``."""


@lean
def walk_core(flat: FlatGroup, machine: Machine, part: CorePart, most_chunks: int, walk: Walk, room: WalkRoom) -> int:
    """Fill an empty ``walk`` with what a core does; returns the number of stages, or ``NO_ROOM``.

    Args:
        flat: The group.
        machine: The accelerator.
        part: Of the core.
        most_chunks: Of the channels of a layer and tile; the last counts for those beyond, and nothing is exact then.
        walk: Filled.
        room: Scratch.
    """
    num_layers, rank = len(flat.layer), flat.layer[len(flat.layer) - 1, RANK]
    index, count = room.axes[_INDEX], room.axes[_COUNT]
    num_tiles, num_kept = 1, 0
    for axis in range(rank - 1, -1, -1):
        index[axis] = 0
        count[axis] = -(-(part.chunk[axis, 1] - part.chunk[axis, 0]) // part.tile[axis])
        room.axes[_STRIDE, axis] = num_tiles
        num_tiles *= count[axis]
    for axis in range(rank):
        if part.kept[axis] == 1:
            room.axes[_KEPT, num_kept] = axis
            num_kept += 1
    for slot in range(len(flat.shape)):
        clear(walk.spans[slot])
    for read in range(len(flat.read)):
        clear(room.needed[num_layers + read])
        room.used[_NOW, read] = room.used[_BEFORE, read] = -1
    room.stored[:] = -1
    for tile in range(num_tiles):
        _find_needed(flat, part, tile, num_kept, walk, room)
        for layer in range(num_layers):
            if not _add_layer(flat, machine, part, (layer, tile, num_kept, most_chunks), walk, room):
                return NO_ROOM
        axis = rank - 1
        while axis >= 0 and index[axis] == count[axis] - 1:
            index[axis] = 0
            axis -= 1
        if axis >= 0:
            index[axis] += 1
    return walk.counters[NUM_STAGES]


@lean
def _find_needed(flat: FlatGroup, part: CorePart, tile: int, num_kept: int, walk: Walk, room: WalkRoom) -> None:
    """Set what a tile needs of every layer, and what of that is not there, which is empty if everything is."""
    sink, needed, new, loops, index = len(flat.layer) - 1, room.needed, room.new, room.loops, room.axes[_INDEX]
    box = new[len(flat.layer)]
    for layer in range(sink + 1):
        clear(needed[layer])
    for axis in range(flat.layer[sink, RANK]):
        needed[sink, axis, 0] = part.chunk[axis, 0] + index[axis] * part.tile[axis]
        needed[sink, axis, 1] = min(part.chunk[axis, 1], needed[sink, axis, 0] + part.tile[axis])
    for layer in range(sink, -1, -1):
        rank = flat.layer[layer, RANK]
        copy(needed[layer], rank, new[layer])
        nothing = is_empty(needed[layer], rank)
        _leave_there(flat, room, (tile, layer, num_kept), rank, needed[layer], new[layer], True)
        if not nothing:
            _note(needed[layer], rank, walk.extents[layer], walk.spans[layer])
        if nothing or is_empty(new[layer], rank):
            new[layer, 0, 1] = new[layer, 0, 0]
            continue
        loop_ranges(flat, layer, new[layer], loops)
        if is_partial(flat, layer, loops):
            walk.counters[NUM_PARTIAL] += 1
        for read in range(flat.layer[layer, FIRST_READ], flat.layer[layer, STOP_READ]):
            if flat.read[read, PRODUCER] >= 0:
                read_box(flat, read, loops, box)
                if not is_empty(box, flat.read[read, READ_RANK]):
                    widen(needed[flat.read[read, PRODUCER]], box, flat.read[read, READ_RANK])


@lean
def _leave_there(
    flat: FlatGroup, room: WalkRoom, at: tuple[int, int, int], rank: int, needed: Ints, new: Ints, may_stay: bool
) -> None:
    """Remember what a tile needs of a slot, and take from ``new`` what tiles before left there.

    What a tile does not need is there as long as a tile before it had it.
    """
    tile, slot, num_kept = at
    if num_kept == 0:
        return
    nothing = is_empty(needed, rank)
    if nothing:
        clear(room.history[tile, slot])
    else:
        copy(needed, rank, room.history[tile, slot])
    for k in range(num_kept):
        axis = room.axes[_KEPT, k]
        if room.axes[_INDEX, axis] > 0:
            before = room.history[tile - room.axes[_STRIDE, axis], slot]
            if not nothing and may_stay:
                raise_box(needed, before, flat.moves[slot], axis, rank, new)
            elif nothing and not is_empty(before, rank):
                copy(before, rank, room.history[tile, slot])


@lean
def _add_layer(
    flat: FlatGroup, machine: Machine, part: CorePart, at: tuple[int, int, int, int], walk: Walk, room: WalkRoom
) -> bool:
    """Add the stages of a layer for a tile; False if there is no room."""
    layer, tile, num_kept, most_chunks = at
    loops, box, num_layers, is_mac = room.loops, room.new[len(flat.layer)], len(flat.layer), flat.layer[layer, IS_MAC]
    if is_empty(room.new[layer], flat.layer[layer, RANK]):
        clear(box)
        for read in range(flat.layer[layer, FIRST_READ], flat.layer[layer, STOP_READ]):
            _leave_there(
                flat, room, (tile, num_layers + read, num_kept), flat.read[read, READ_RANK], box, box, False
            )  # fmt: skip
        return True
    loop_ranges(flat, layer, room.new[layer], loops)
    k_first, k_stop, k_tile = 0, 1, 1
    if is_mac:
        k_first, k_stop = loops[K_LOOP, 0], loops[K_LOOP, 1]
        k_tile = min(part.k_tile[layer], k_stop - k_first)
    num_chunks = -(-(k_stop - k_first) // k_tile)
    for chunk in range(min(num_chunks, most_chunks)):
        times = num_chunks - chunk if chunk == most_chunks - 1 else 1
        stage, k_at = walk.counters[NUM_STAGES], k_first + chunk * k_tile
        if is_mac:
            loops[K_LOOP, 0], loops[K_LOOP, 1] = k_at, min(k_stop, k_at + k_tile)
        if stage == len(walk.stages):
            return False
        walk.counters[NUM_STAGES] = stage + 1
        row = walk.stages[stage]
        row[STAGE_LAYER], row[SHAPE], row[NUM_LOADS], row[STORE_CHANNEL], row[STORE_ENGINE] = layer, -1, 0, 0, 0
        row[STORE_WAIT], is_sink = -1, layer == num_layers - 1
        extras_cycles = 0
        for read in range(flat.layer[layer, FIRST_READ], flat.layer[layer, STOP_READ]):
            may_stay = flat.read[read, IS_CONST] == 0 and flat.read[read, ROLE] != WEIGHT
            may_stay = may_stay and not (num_chunks > 1 and flat.read[read, USES_K])
            read_box(flat, read, loops, box)
            copy(box, flat.read[read, READ_RANK], room.new[num_layers + 1])
            if flat.read[read, PRODUCER] < 0:
                _leave_there(
                    flat, room, (tile, num_layers + read, num_kept), flat.read[read, READ_RANK], box,
                    room.new[num_layers + 1], may_stay,
                )  # fmt: skip
            extras_cycles += _add_read(flat, machine, (read, stage, times, part.double[0]), walk, room)
        out_box(flat, layer, loops, box)
        elems = box_elems(box, flat.layer[layer, RANK])
        walk.written[layer] += times * elems
        vector_cycles = int(math.ceil(elems * flat.layer[layer, NUM_OPS] / machine.vector_ops_per_cycle))
        is_beside = is_sink and is_mac
        row[VECTOR_CYCLES] = 0 if is_beside else times * vector_cycles
        if flat.layer[layer, LEAVES]:
            row[STORE_WAIT] = room.stored[_BEFORE if is_sink and part.double[0] == 1 else _NOW, layer]
            _store(flat, machine, box, (extras_cycles, vector_cycles if is_beside else 0, times), row, walk)
            room.stored[_BEFORE, layer] = room.stored[_NOW, layer]
            room.stored[_NOW, layer] = walk.counters[NUM_STORES] - 1
        if is_mac:
            row[SHAPE] = _shape_of(layer, loops, times, walk)
            if row[SHAPE] < 0:
                return False
    return True


@lean
def _add_read(flat: FlatGroup, machine: Machine, at: tuple[int, int, int, int], walk: Walk, room: WalkRoom) -> int:
    """Add what a stage reads, and what of it must be loaded.

    The box read and what of it is not there are the last two of ``WalkRoom.new``.

    Returns:
        Cycles of what streams by while the outputs of the stage leave.
    """
    read, stage, times, is_double = at
    num_layers, rank, layer = len(flat.layer), flat.read[read, READ_RANK], flat.read[read, LAYER]
    box, fresh, held = room.new[num_layers], room.new[num_layers + 1], room.needed[num_layers + read]
    totals = walk.reads[read]
    if is_empty(box, rank):
        return 0
    totals[USED_ELEMS] += times * box_elems(box, rank)
    if flat.read[read, PRODUCER] >= 0:
        return 0
    is_streamed = layer == num_layers - 1 and flat.layer[layer, IS_MAC] == 1 and flat.read[read, ROLE] == EXTRA
    last_used = room.used[_NOW, read]
    if is_streamed:
        copy(box, rank, fresh)
    else:
        room.used[_NOW, read] = stage
        if is_same(box, held, rank):
            return 0
        copy(box, rank, held)
        _note_read(flat, read, box, walk, room)
        if is_empty(fresh, rank):
            return 0
    elems, bits = box_elems(fresh, rank), flat.read[read, BITS]
    cycles, moved_bits = move(fresh, flat.shape[num_layers + read], rank, bits, machine)
    totals[MOVED_ELEMS] += times * elems
    totals[MOVED_BYTES] += times * ((moved_bits + 7) >> 3)
    totals[UNUSED_BITS] += times * (moved_bits - elems * bits)
    totals[NUM_TRANSFERS] += 1
    if is_streamed:
        return cycles
    for axis in range(rank):
        walk.moved[num_layers + read, axis] = max(walk.moved[num_layers + read, axis], fresh[axis, 1] - fresh[axis, 0])
    load = walk.loads[walk.counters[NUM_STAGE_LOADS]]
    walk.counters[NUM_STAGE_LOADS] += 1
    walk.counters[BUSY_CYCLES] += times * cycles
    walk.counters[CHANNEL_CYCLES] += times * cycles
    load[LOAD_READ], load[LOAD_CYCLES] = read, cycles
    load[LOAD_WAIT] = room.used[_BEFORE, read] if is_double == 1 else last_used
    room.used[_BEFORE, read] = last_used
    walk.stages[stage, NUM_LOADS] += 1
    return 0


@lean
def _store(flat: FlatGroup, machine: Machine, box: Ints, beside: tuple[int, int, int], row: Ints, walk: Walk) -> None:
    """The store after a stage: beside that of the sink the vector unit works, once external extras have streamed in.

    What leaves from the middle of a group has been through the vector unit, and is stored from where it lies.
    """
    extras_cycles, vector_cycles, times = beside
    layer = row[STAGE_LAYER]
    rank, bits = flat.layer[layer, RANK], flat.layer[layer, OUT_BITS]
    elems = box_elems(box, rank)
    cycles, moved_bits = move(box, flat.shape[layer], rank, bits, machine)
    row[STORE_CHANNEL], row[STORE_ENGINE] = extras_cycles + cycles, extras_cycles + max(cycles, vector_cycles)
    walk.counters[NUM_STORES] += 1
    walk.counters[STORED_BYTES] += times * ((moved_bits + 7) >> 3)
    walk.counters[STORED_UNUSED_BITS] += times * (moved_bits - elems * bits)
    walk.counters[CHANNEL_CYCLES] += times * row[STORE_CHANNEL]
    walk.counters[BUSY_CYCLES] += times * row[STORE_ENGINE]
    for axis in range(rank):
        walk.moved[layer, axis] = max(walk.moved[layer, axis], box[axis, 1] - box[axis, 0])


@lean
def _note(box: Ints, rank: int, extents: Ints, span: Ints) -> None:
    """Keep the largest extents and the bounding box."""
    widen(span, box, rank)
    for axis in range(rank):
        extents[axis] = max(extents[axis], box[axis, 1] - box[axis, 0])


@lean
def _note_read(flat: FlatGroup, read: int, box: Ints, walk: Walk, room: WalkRoom) -> None:
    """As ``_note``; inputs and weights of the array lie in the scratchpad with their padding."""
    rank, slot = flat.read[read, READ_RANK], len(flat.layer) + read
    _note(box, rank, walk.extents[slot], walk.spans[slot])
    is_single = flat.read[read, STOP_ACCESS] - flat.read[read, FIRST_ACCESS] == 1
    if is_single and flat.layer[flat.read[read, LAYER], IS_MAC] and flat.read[read, ROLE] < EXTRA:
        for axis in range(rank):
            low, high = axis_range(flat.access[flat.read[read, FIRST_ACCESS], axis], room.loops)
            walk.extents[slot, axis] = max(walk.extents[slot, axis], high - low)


@lean
def _shape_of(layer: int, loops: Ints, times: int, walk: Walk) -> int:
    """Number of the stage's extents, -1 if there is no room for a new one."""
    num_shapes = walk.counters[NUM_SHAPES]
    for shape in range(num_shapes - 1, -1, -1):
        is_equal = walk.shapes[shape, SHAPE_LAYER] == layer
        for d in range(NUM_DIMS):
            is_equal = is_equal and walk.shapes[shape, SHAPE_DIMS + d] == loops[d, 1] - loops[d, 0]
        if is_equal:
            walk.shapes[shape, SHAPE_STAGES] += times
            return shape
    if num_shapes == len(walk.shapes):
        return -1
    row = walk.shapes[num_shapes]
    row[SHAPE_LAYER], row[SHAPE_STAGES] = layer, times
    for d in range(NUM_DIMS):
        row[SHAPE_DIMS + d] = loops[d, 1] - loops[d, 0]
    walk.counters[NUM_SHAPES] = num_shapes + 1
    return num_shapes
