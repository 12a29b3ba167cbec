"""Passes of the array over stages: the pass of the single-layer simulator with nothing in the RFs before and after."""

from __future__ import annotations

from cost_model.fused.flat import Ints
from cost_model.simulator.nest import build_nest
from cost_model.simulator.pe_array import LOADS_I, LOADS_W, O_LEAVES, pass_record
from cost_model.simulator.state import Nest, Problem, Tensors
from tvm_spm.jit import kernel, part
from tvm_spm.space.mapping_batch import MappingBatch

EDGES = LOADS_I | LOADS_W | O_LEAVES


@kernel
def record_pass(problem: Problem, tensors: Tensors, nest: Nest, dims: Ints, record: Ints) -> None:
    """A pass of its own, compiled once."""
    pass_record(problem, tensors, nest, dims, EDGES, record)


@part
def fill_records(
    problem: Problem, tensors: Tensors, batch: MappingBatch, row: int, nest: Nest, dims: Ints, records: Ints
) -> None:
    """One record per row of ``dims``, all with the same mapping; ``nest`` is overwritten."""
    build_nest(problem, batch, row, nest)
    nest.fold = True
    for shape in range(len(dims)):
        record_pass(problem, tensors, nest, dims[shape], records[shape])
