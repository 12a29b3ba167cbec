"""Whether scheduled code uses two buffers in turn."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tvm import tirx

from schedules.layer.code import Code, iter_values
from schedules.layer.evaluate import Grid, IndexValue, Ints, value_of
from tvm_spm.errors import ScheduleError
from tvm_spm.frontend.tir.blocks import loads_of
from tvm_spm.lowering.blocks import Placed
from tvm_spm.lowering.double import staged_buffer
from tvm_spm.lowering.partial import DOUBLE


def check_turns(code: Code, placed: Sequence[Placed]) -> None:
    """Tiles that follow each other never share one of two buffers, and whoever uses a tile uses its buffer.

    Raises:
        ScheduleError: They do; names the block.
    """
    known: dict[tirx.Buffer, tuple[Grid, Ints]] = {}
    for block in placed:
        if DOUBLE in block.block.annotations and block.copied_operand:
            staged = staged_buffer(block)
            turn = next(turn for buffer, turn in _turns(code, block) if buffer == staged)
            known.setdefault(staged, _check_alternates(code, block, turn))
    for block in placed:
        for buffer, turn in _turns(code, block):
            at, turns = known[buffer]
            if not turn.loops <= set(at.extents) or not np.array_equal(at.full(turn.at(at)), turns):
                raise ScheduleError(f"block {block.block.name_hint}: uses another buffer than the tile lies in")


def _turns(code: Code, block: Placed) -> list[tuple[tirx.Buffer, IndexValue]]:
    """The buffers that are there twice, and which one a block uses."""
    body = block.block.body
    if not isinstance(body, tirx.BufferStore):
        return []
    used = [(load.source, load.indices) for load in loads_of(body.value)] + [(body.buffer, body.indices)]
    values = iter_values(block)
    return [(buffer, value_of(indices[0], values)) for buffer, indices in used if buffer in code.doubled]


def _check_alternates(code: Code, block: Placed, turn: IndexValue) -> tuple[Grid, Ints]:
    depth = code.depth_of(block)
    at = code.grid.only([var for var, _, _, _ in code.loops[:depth]])
    turns = at.full(turn.at(at))
    is_busy = np.ones(1, dtype=np.bool_)
    for dim in {dim for _, _, dim, _ in code.loops[:depth]}:
        is_busy = is_busy & (code.tile_at(dim, depth, at)[1] > 0)
    num_cores = math.prod(at.extents[var] for var, level, _, _ in code.loops[:depth] if level == "cores")
    rows = zip(turns.reshape(num_cores, -1), at.full(is_busy).reshape(num_cores, -1), strict=True)
    for core, busy in rows:
        visited = core[busy]
        if not np.isin(visited, (0, 1)).all() or (visited[1:] == visited[:-1]).any():
            raise ScheduleError(f"block {block.block.name_hint}: two tiles in a row use one buffer")
    return at, turns
