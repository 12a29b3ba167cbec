"""Passes of the array over stages: the pass of the single-layer simulator with nothing in the RFs before and after."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cost_model.fused.flat import Ints
from cost_model.simulator.nest import build_nest
from cost_model.simulator.pe_array import LOADS_I, LOADS_W, O_LEAVES, pass_record
from cost_model.simulator.state import NEST_FIELDS, Nest, Problem, Tensors, inlined, kernel
from tvm_spm.mapping_batch import MappingBatch

EDGES = LOADS_I | LOADS_W | O_LEAVES


@kernel
def record_pass(problem: Problem, tensors: Tensors, nest: Nest, dims: Ints, record: Ints) -> None:
    """A pass of its own, compiled once."""
    pass_record(problem, tensors, nest, dims, EDGES, record)


@inlined
def fill_records(
    problem: NDArray[np.void], tensors: Tensors, batch: MappingBatch, row: int, dims: Ints, records: Ints
) -> None:
    """One record per row of ``dims``, all with the same mapping."""
    nest = np.empty(1, dtype=NEST_FIELDS)[0]
    build_nest(problem[0], batch, row, nest)
    nest.fold = True
    for shape in range(len(dims)):
        record_pass(problem[0], tensors, nest, dims[shape], records[shape])
