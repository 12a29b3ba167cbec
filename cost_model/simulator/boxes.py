"""Boxes of tensors that cores move again and again: what moving one takes is worked out once.

A box is the part of a tensor that goes with an SPM tile. Along a dim, tiles of one size are alike as long as no tensor
ends within reach of them, wherever the others are; each of the others is alone. So along every dim a tile has a number,
and boxes of a tensor whose numbers are the same along the dims it depends on are moved in the same way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cost_model.nest import HELD, SHARE, Nest, ceil_div, floor_div
from cost_model.problem import Ints, O, Problem
from cost_model.simulator.dma import move
from cost_model.simulator.state import Core
from tvm_spm.jit import kernel, lean, small
from tvm_spm.space.mapping_batch import NUM_DIMS

_CYCLES, _ELEMS, _BITS, _BOX_FIELDS = range(4)
"""Columns of a box: what ``dma.move`` says of it; cycles of -1 for one that nobody has moved yet."""

_LOW, _HIGH, _BEHIND, _NUMBERS, _END_FIELDS = range(5)
"""Columns of a dim: tiles (counted over all cores) before ``_LOW`` and from ``_HIGH`` on are alone; what is added to
those from ``_HIGH`` on, so that all numbers differ; and how many numbers there are."""

_FIRST = NUM_DIMS

_WORTH, _MOST_BOXES = 4, 1 << 16
"""Passes for a box, and boxes of a tensor, below and beyond which they are not remembered."""

_FORGOTTEN = -1


class Boxes(NamedTuple):
    """What is known of the boxes of each tensor: I, W, O, extras, and then O as finished outputs.

    Attributes:
        ends: Per dim, see ``_LOW``.
        stride: Per tensor, what the number of the tile along each dim counts for, and behind that where boxes of the
            tensor begin in ``moves``; -1 if they are not remembered.
        moves: ``_BOX_FIELDS`` numbers per box.
    """

    ends: Ints
    stride: Ints
    moves: Ints


@kernel
def open_boxes(problem: Problem, nest: Nest, num_sizes: Ints, remember: bool) -> Boxes:
    """Nothing is known yet.

    Args:
        problem: Tensors.
        nest: The mapping.
        num_sizes: Per dim, of SPM tiles.
        remember: Whether passes are walked, so that boxes come again.
    """
    num_tensors, passes, num_boxes = problem.num_projections + 1, 1, 0
    ends = np.empty((NUM_DIMS, _END_FIELDS), dtype=np.int64)
    stride = np.empty((num_tensors, NUM_DIMS + 1), dtype=np.int64)
    for d in range(NUM_DIMS):
        end = ends[d]
        end[_LOW] = end[_HIGH] = end[_BEHIND] = 0
        if not remember:
            continue
        if problem.clip_low[d] > 0:
            end[_LOW] = _tile_of(nest, d, min(problem.clip_low[d], problem.dims[d]) - 1) + 1
        end[_HIGH] = _tile_of(nest, d, problem.dims[d] - 1) + 1
        end[_NUMBERS] = end[_LOW] + num_sizes[d]
        if problem.clip_end[d] < problem.dims[d]:
            all_tiles, end[_HIGH] = end[_HIGH], _tile_of(nest, d, problem.clip_end[d])
            end[_BEHIND] = end[_NUMBERS] - end[_HIGH]
            end[_NUMBERS] += all_tiles - end[_HIGH]
        passes *= nest.num_tiles[1, d]
    most = min(_MOST_BOXES, passes // _WORTH) if remember else 0
    for tensor in range(num_tensors):
        boxes, stride[tensor] = 1, 0
        for d in range(NUM_DIMS):
            if problem.relevant[_projection(problem, tensor)] >> d & 1 and boxes <= most:
                stride[tensor, d] = boxes
                boxes *= ends[d, _NUMBERS]
        stride[tensor, _FIRST] = num_boxes if boxes <= most else _FORGOTTEN
        num_boxes += boxes if boxes <= most else 0
    moves = np.empty((num_boxes, _BOX_FIELDS), dtype=np.int64)
    for box in range(num_boxes):
        moves[box, _CYCLES] = -1
    return Boxes(ends, stride, moves)


@small
def _tile_of(nest: Nest, d: int, index: int) -> int:
    """The tile an index of a dim is in, counted over all cores."""
    share, held = nest.tile[SHARE, d], nest.tile[HELD, d]
    core = floor_div(index, share)
    return core * ceil_div(share, held) + floor_div(index - core * share, held)


@small
def number_of(boxes: Boxes, d: int, tile: int, size: int) -> int:
    """Number along a dim of a tile, of those over all cores; ``size`` is which of its sizes it has."""
    end = boxes.ends[d]
    if tile >= end[_HIGH]:
        return tile + end[_BEHIND]
    return tile if tile < end[_LOW] else end[_LOW] + size


@small
def move_box(problem: Problem, core: Core, boxes: Boxes, tensor: int) -> tuple[int, int, int]:
    """(cycles, elements, bits) of moving the box of a tensor that goes with a core's tile, see ``dma.move``."""
    box = boxes.stride[tensor, _FIRST]
    if box == _FORGOTTEN:
        return _move(problem, core, tensor)
    for d in range(NUM_DIMS):
        box += boxes.stride[tensor, d] * core.box[d]
    known = boxes.moves[box]
    if known[_CYCLES] < 0:
        known[_CYCLES], known[_ELEMS], known[_BITS] = _move(problem, core, tensor)
    return known[_CYCLES], known[_ELEMS], known[_BITS]


@lean
def _move(problem: Problem, core: Core, tensor: int) -> tuple[int, int, int]:
    projection = _projection(problem, tensor)
    elem_bits = problem.elem_bits[projection] if tensor == projection else problem.out_bits
    return move(problem, projection, elem_bits, core.first, core.tile)


@small
def _projection(problem: Problem, tensor: int) -> int:
    return O if tensor == problem.num_projections else tensor
