"""Boxes of tensors in compiled code: what a part of an output needs, and what of it is there already."""

from __future__ import annotations

from cost_model.fused.flat import (
    FIRST_ACCESS,
    NUM_TERMS,
    OFFSET,
    RANK,
    READ_RANK,
    STOP_ACCESS,
    TERMS,
    FlatGroup,
    Ints,
)
from cost_model.fused.state import Machine
from cost_model.transfer import transfer
from tvm_spm.jit import lean
from tvm_spm.space.tensors import clip

FAR = 1 << 40
"""Beyond every index."""


@lean
def is_empty(box: Ints, rank: int) -> bool:
    """Whether a box has no element; boxes are rows of first index and the one behind the last."""
    for axis in range(rank):
        if box[axis, 1] <= box[axis, 0]:
            return True
    return False


@lean
def loop_ranges(flat: FlatGroup, layer: int, box: Ints, loops: Ints) -> None:
    """Set the loops that a box of the output needs, as ``Layer.loop_ranges``."""
    for loop in range(flat.loops.shape[1]):
        loops[loop, 0], loops[loop, 1] = 0, flat.loops[layer, loop]
    for axis in range(flat.layer[layer, RANK]):
        row = flat.out_axes[layer, axis]
        first, stop, offset, count = box[axis, 0], box[axis, 1], row[OFFSET], row[NUM_TERMS]
        for place in range(count):
            loop, stride = row[TERMS + 2 * place], row[TERMS + 2 * place + 1]
            low, high = (first - offset) // stride, (stop - 1 - offset) // stride + 1
            if place == 0:
                loops[loop, 0], loops[loop, 1] = low, high
            if place == count - 1 or high - low > 1:
                break
            first, stop = first - low * stride, stop - low * stride
            inner, inner_stride = row[TERMS + 2 * place + 2], row[TERMS + 2 * place + 3]
            loops[inner, 0] = (first - offset) // inner_stride
            loops[inner, 1] = (stop - 1 - offset) // inner_stride + 1


@lean
def is_partial(flat: FlatGroup, layer: int, loops: Ints) -> bool:
    """Whether an inner one of loops that share an axis of the output is not whole."""
    for axis in range(flat.layer[layer, RANK]):
        row = flat.out_axes[layer, axis]
        for place in range(1, row[NUM_TERMS]):
            loop = row[TERMS + 2 * place]
            if loops[loop, 0] > 0 or loops[loop, 1] < flat.loops[layer, loop]:
                return True
    return False


@lean
def axis_range(row: Ints, loops: Ints) -> tuple[int, int]:
    """Indices that an affine axis takes, padding included."""
    low = high = row[OFFSET]
    for place in range(row[NUM_TERMS]):
        loop, stride = row[TERMS + 2 * place], row[TERMS + 2 * place + 1]
        low += stride * loops[loop, 0]
        high += stride * (loops[loop, 1] - 1)
    return low, high + 1


@lean
def out_box(flat: FlatGroup, layer: int, loops: Ints, box: Ints) -> None:
    """The part of the output that loops write."""
    for axis in range(flat.layer[layer, RANK]):
        low, high = axis_range(flat.out_axes[layer, axis], loops)
        box[axis, 0], box[axis, 1] = clip(flat.shape[layer, axis], low, high)


@lean
def read_box(flat: FlatGroup, read: int, loops: Ints, box: Ints) -> None:
    """The part of a tensor that loops read: a bounding box, as ``Read.box``."""
    slot = len(flat.layer) + read
    for axis in range(flat.read[read, READ_RANK]):
        first, stop = FAR, -FAR
        for place in range(flat.read[read, FIRST_ACCESS], flat.read[read, STOP_ACCESS]):
            low, high = axis_range(flat.access[place, axis], loops)
            low, high = clip(flat.shape[slot, axis], low, high)
            first, stop = min(first, low), max(stop, high)
        box[axis, 0], box[axis, 1] = first, stop


@lean
def box_elems(box: Ints, rank: int) -> int:
    """Elements of a box that is not empty."""
    elems = 1
    for axis in range(rank):
        elems *= box[axis, 1] - box[axis, 0]
    return elems


@lean
def copy(box: Ints, rank: int, to: Ints) -> None:
    """Set a box to another one."""
    for axis in range(rank):
        to[axis, 0], to[axis, 1] = box[axis, 0], box[axis, 1]


@lean
def widen(box: Ints, other: Ints, rank: int) -> None:
    """Grow a box to the bounding box with another one that is not empty."""
    for axis in range(rank):
        box[axis, 0], box[axis, 1] = min(box[axis, 0], other[axis, 0]), max(box[axis, 1], other[axis, 1])


@lean
def clear(box: Ints) -> None:
    """Make a box empty, so that ``widen`` takes over the other."""
    for axis in range(len(box)):
        box[axis, 0], box[axis, 1] = FAR, -FAR


@lean
def is_same(box: Ints, other: Ints, rank: int) -> bool:
    """Whether two boxes are equal."""
    for axis in range(rank):
        if box[axis, 0] != other[axis, 0] or box[axis, 1] != other[axis, 1]:
            return False
    return True


@lean
def raise_box(needed: Ints, before: Ints, moves: Ints, sink_axis: int, rank: int, new: Ints) -> None:
    """Take from ``new`` what was needed one tile before along an axis, and is still there.

    Args:
        needed: What this tile needs.
        before: What the tile before along the axis needed.
        moves: Per axis of the tensor, bits of the sink's axes it moves with.
        sink_axis: The axis.
        rank: Axes of the tensor.
        new: Of ``needed``, what is not there; its first index along the moving axis rises.
    """
    moving, num_moving = -1, 0
    for axis in range(rank):
        if moves[axis] >> sink_axis & 1:
            moving, num_moving = axis, num_moving + 1
    if num_moving > 1 or is_empty(before, rank):
        return
    for axis in range(rank):
        if needed[axis, 0] < before[axis, 0] or (axis != moving and needed[axis, 1] > before[axis, 1]):
            return
    if num_moving == 0:
        new[0, 1] = new[0, 0]
    else:
        new[moving, 0] = max(new[moving, 0], before[moving, 1])


@lean
def move(box: Ints, extents: Ints, rank: int, elem_bits: int, machine: Machine) -> tuple[int, int]:
    """(DMA cycles, bits in whole bursts) of a box."""
    bursts, is_split = 1, False
    for axis in range(rank - 1, -1, -1):
        inside = box[axis, 1] - box[axis, 0]
        if is_split:
            bursts *= inside
        elif inside < extents[axis]:
            is_split = True
    elems = box_elems(box, rank)
    return transfer(elems, bursts, elem_bits, machine.burst_bits, machine.startup_cycles, machine.bytes_per_cycle)
