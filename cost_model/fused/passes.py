"""Passes of the array over tiles that lie in SPM, as the formula has them, with nothing in the RFs before and after.

A tile is an SPM tile of a workload, but smaller than the mapping says at the edges of a tensor: a stage of a fused
group, or a chunk of attention. The formula is asked for the only pass of a layer of the tile's extents.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.analytical.core import mac_cycles, pass_cycles
from cost_model.analytical.energy import array_elems, rf_elems
from cost_model.analytical.passes import LOOP_FIELDS, MAX_KINDS, PASS_FIELDS, STEP_FIELDS, fill_pass
from cost_model.fused.flat import Ints
from cost_model.nest import NEST_FIELDS, build_nest
from cost_model.problem import O, problem_of
from tvm_spm.arch import Arch
from tvm_spm.jit import entry
from tvm_spm.space.mapping_batch import NUM_DIMS, MappingBatch
from tvm_spm.workload import Epilogue, Workload

CYCLES, MAC_CYCLES, LEFT, CROSSED, DELIVERED, RECORD_FIELDS = 0, 1, 2, 3, 6, 9
"""Columns of a record: cycles of the pass, those in which PEs multiply, outputs that left the array; three columns
each, in the order I W O, of elements that crossed the network, and of arrivals at PEs."""

_ALONE = -1
"""Position of the ticks before the first and after the last pass: outside every loop, so that everything moves."""


class PassRoom(NamedTuple):
    """What the formula writes on: a nest, the loops of a pass, its steps and ways, and its record."""

    nest: NDArray[np.void]
    loops: NDArray[np.void]
    steps: NDArray[np.void]
    ways: Ints
    passes: NDArray[np.void]


@lru_cache(maxsize=256)
def pass_problem(workload: Workload, arch: Arch) -> NDArray[np.void]:
    """What ``pass_records`` asks of a workload and an accelerator."""
    return problem_of(replace(workload, epilogue=Epilogue()), arch)


def pass_records(
    problem: NDArray[np.void], batch: MappingBatch, mapping: Ints, dims: Ints, is_partial: Ints | None = None
) -> Ints:
    """One record per row of ``dims``.

    Args:
        problem: Of the workload; its own extents do not count.
        batch: Mappings on one core.
        mapping: Per tile its row of the batch; its SPM tile is at least as large.
        dims: ``(tiles, 8)`` extents.
        is_partial: Per tile 1 if sums start from what SPM holds instead of 0; None if none does.
    """
    records = np.zeros((len(dims), RECORD_FIELDS), np.int64)
    room = PassRoom(
        np.zeros(1, NEST_FIELDS), np.zeros(1, LOOP_FIELDS), np.zeros(MAX_KINDS, STEP_FIELDS),
        np.zeros((MAX_KINDS, 2), np.int64), np.zeros(1, PASS_FIELDS),
    )  # fmt: skip
    partial = np.zeros(len(dims), np.int64) if is_partial is None else is_partial
    fill_records(problem.copy(), batch, mapping, dims, partial, room, records)
    return records


@entry
def fill_records(
    problems: NDArray[np.void], batch: MappingBatch, mapping: Ints, dims: Ints, is_partial: Ints, room: PassRoom,
    records: Ints,
) -> None:  # fmt: skip
    """As ``pass_records``; the extents of the problem are overwritten."""
    problem, nest, one_pass = problems[0], room.nest[0], room.passes[0]
    for row in range(len(records)):
        tile, record = dims[row], records[row]
        for d in range(NUM_DIMS):
            problem.dims[d] = tile[d]
        build_nest(problem, batch, mapping[row], nest)
        fill_pass(problem, nest, tile, room.loops[0], room.steps, room.ways, one_pass)
        record[CYCLES] = pass_cycles(problem, nest, one_pass, _ALONE, _ALONE, is_partial[row])
        record[MAC_CYCLES] = mac_cycles(nest, tile)
        for operand in range(3):
            crossed, delivered = rf_elems(problem, nest, operand)
            record[CROSSED + operand], record[DELIVERED + operand] = crossed, delivered
        record[LEFT] = record[CROSSED + O]
        once = 0 if is_partial[row] else array_elems(problem, nest, O)
        record[CROSSED + O] = record[DELIVERED + O] = 2 * record[LEFT] - once
