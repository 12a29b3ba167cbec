"""What the cores of a run add up together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.nest import HELD, SHARE, Nest
from cost_model.problem import Ints, Problem
from cost_model.simulator.boxes import Boxes, open_boxes
from cost_model.simulator.pe_array import PASS_FIELDS
from cost_model.simulator.state import FIRST_EXTRA
from tvm_spm.jit import kernel
from tvm_spm.space.mapping_batch import NUM_DIMS

EDGE_FLAGS = 16
"""Kinds of pass with equal tiles: what is loaded before the first step and what leaves after the last."""

MOVED, FINAL_ELEMS, DRAM_BYTES, UNUSED_BITS, BUSY_CYCLES, TOTAL_FIELDS = 0, 3, 4, 8, 12, 13
"""Columns of the totals over all cores: elements of I W O moved as operands, finished outputs, DRAM bytes of I W O and
extras, bits of those that whole bursts bring along, DMA time."""


class Ledger(NamedTuple):
    """What all cores share.

    Attributes:
        kind_stride: Per dim, what a smaller tile adds to the kind of a pass.
        records: One record per kind of pass.
        num_passes: Passes of each kind.
        totals: What was moved, ``TOTAL_FIELDS`` numbers.
        extra_elems: Elements moved per extra.
        odometers: One record of ``ODOMETER_FIELDS``, room for the loops of a pass.
        boxes: What is known of moving them.
    """

    kind_stride: Ints
    records: Ints
    num_passes: Ints
    totals: Ints
    extra_elems: Ints
    odometers: NDArray[np.void]
    boxes: Boxes


@kernel
def open_ledger(problem: Problem, nest: Nest, odometers: NDArray[np.void], remember: bool) -> Ledger:
    """An empty ledger: per dim, SPM tiles are full, the last of a full chunk, or the last of the last chunk.

    Args:
        problem: Numbers of the workload and the accelerator.
        nest: The mapping.
        odometers: One record.
        remember: Whether passes are walked, so that it pays to remember what boxes take to move.
    """
    kind_stride, num_sizes = np.zeros(NUM_DIMS, dtype=np.int64), np.empty(NUM_DIMS, dtype=np.int64)
    num_kinds = EDGE_FLAGS
    for d in range(NUM_DIMS):
        kind_stride[d] = num_kinds
        last_chunk = problem.dims[d] - (nest.cores[d] - 1) * nest.tile[SHARE, d]
        num_sizes[d] = 1 + (nest.tile[SHARE, d] % nest.tile[HELD, d] != 0) + (last_chunk % nest.tile[HELD, d] != 0)
        num_kinds *= num_sizes[d]
    return Ledger(
        kind_stride,
        np.empty((num_kinds, PASS_FIELDS), dtype=np.int64),
        np.zeros(num_kinds, dtype=np.int64),
        np.zeros(TOTAL_FIELDS, dtype=np.int64),
        np.zeros(problem.num_projections - FIRST_EXTRA, dtype=np.int64),
        odometers,
        open_boxes(problem, nest, num_sizes, remember),
    )
